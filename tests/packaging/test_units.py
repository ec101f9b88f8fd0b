"""The units of packaging/systemd: systemd reads them without a complaint, and they do what they say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cyoloctl.errors import Conflict, VersionMismatch
from tests.docs.reading import ROOT
from tests.support.cluster import Cluster, environment
from tools import generate

UNITS = ROOT / "packaging" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
PROGRAM = "/usr/local/bin/cyoloctl"
MOST_EXPOSED = 2.0

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="THE UNITS ARE NOT READ: apt-get install systemd"
)


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    """The units, with a program that is there: systemd looks for it."""
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text("utf-8").replace(PROGRAM, "/bin/true"), "utf-8")
    return tmp_path


@needs_systemd
@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.iterdir()))
def test_unit_is_read_by_systemd_without_a_complaint(unit: str, instances: Path) -> None:
    read = analyze("verify", "--man=no", instances / unit.replace("@", "@n1"))
    assert (read.returncode, read.stdout + read.stderr) == (0, "")


@needs_systemd
def test_unit_with_a_fault_is_told(instances: Path) -> None:
    unit = instances / "cyoloctl@n1.service"
    text = (UNITS / "cyoloctl@.service").read_text("utf-8")
    unit.write_text(text.replace("ProtectClock=yes", "ProtectClocks=yes").replace(PROGRAM, "/bin/true"))
    assert "ProtectClocks" in analyze("verify", "--man=no", unit).stderr


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES)
def test_exposure_of_a_service_is_small(unit: str) -> None:
    judged = analyze("security", "--offline=true", UNITS / unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", judged.stdout)
    assert found, judged
    assert float(found.group(1)) <= MOST_EXPOSED


def line(unit: str, setting: str) -> list[str]:
    """The command of a unit's setting as it is run for the node n1 (systemd.service(5), COMMAND LINES)."""
    [command] = re.findall(rf"^{setting}=(.*)$", (UNITS / unit).read_text("utf-8"), re.MULTILINE)
    return [word.replace("$$", "$").replace("%i", "n1").replace("%%", "%") for word in shlex.split(command)]


def test_commands_that_units_document_are_pages_of_the_manual() -> None:
    pages = {"-".join(command.path) for command in generate.commands()}
    for unit in SERVICES:
        text = (UNITS / unit).read_text("utf-8")
        assert set(re.findall(r"man:([\w-]+)\(1\)", text)) <= pages


def test_node_is_not_started_again_for_what_does_not_pass_by_itself() -> None:
    text = (UNITS / "cyoloctl@.service").read_text("utf-8")
    [statuses] = re.findall(r"^RestartPreventExitStatus=(.*)$", text, re.MULTILINE)
    assert {*map(int, statuses.split())} == {Conflict.exit_status, VersionMismatch.exit_status}


def test_what_a_node_needs_beside_its_own_user_is_said_to_need_the_users_of_the_machine() -> None:
    """PrivateUsers=yes maps root and the unit's user and group only: chown(2) to another group is EINVAL."""
    unit = (UNITS / "cyoloctl@.service").read_text("utf-8")
    page = (ROOT / "docs" / "install.md").read_text("utf-8")
    [comment] = re.findall(r"^# `socket_group` .*$", unit, re.MULTILINE)
    [row] = re.findall(r"^\| `socket_group` .*$", page, re.MULTILINE)
    assert "PrivateUsers=yes" in unit
    for text in (comment, row):
        assert "SupplementaryGroups=GROUP" in text
        assert "PrivateUsers=no" in text


@pytest.mark.cluster
def test_snapshot_unit_saves_a_dated_file_and_keeps_the_newest(tmp_path: Path) -> None:
    unit, kept, bin_ = "cyoloctl-snapshot@.service", tmp_path / "kept", tmp_path / "bin"
    kept.mkdir()
    bin_.mkdir()
    program = bin_ / "cyoloctl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m cyoloctl "$@"\n', "utf-8")
    program.chmod(0o755)
    older = [f"n1-202{number}0101T000000Z.snapshot" for number in range(5)]
    for name in [*older, "somebody-elses.file"]:
        (kept / name).touch()
    env = environment(STATE_DIRECTORY=str(kept), KEEP="3", PYTHONPATH=str(ROOT))
    with Cluster(tmp_path / "nodes") as cluster:
        cluster.base.mkdir()
        cluster.init("n1")
        for setting in ("ExecStart", "ExecStartPost"):
            words = [
                word.replace(PROGRAM, str(program)).replace("/var/lib/cyoloctl/", f"{cluster.base}/")
                for word in line(unit, setting)
            ]
            ran = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=120)
            assert ran.returncode == 0, ran.stderr
        [new] = [name for name in os.listdir(kept) if name not in older and name.endswith(".snapshot")]
        assert re.fullmatch(r"n1-\d{8}T\d{6}Z\.snapshot", new)
        assert sorted(os.listdir(kept)) == sorted([*older[-2:], new, "somebody-elses.file"])
        inspected = cluster["n1"].cli("snapshot", "inspect", kept / new)
        assert inspected.returncode == 0, inspected.stderr


@pytest.mark.cluster
def test_reload_of_the_unit_fails_for_a_file_with_a_fault_and_ends_well_otherwise(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        words = [
            str(node.directory) if word == "/var/lib/cyoloctl/n1" else word
            for word in line("cyoloctl@.service", "ExecReload")
        ]
        assert words[0] == PROGRAM
        assert node.cli(*words[1:]).returncode == 0
        config = node.directory / "node.yaml"
        whole = config.read_text("utf-8")
        config.write_text(f"{whole}nonsense: 1\n", "utf-8")
        refused = node.cli(*words[1:])
        assert (refused.returncode, "nonsense" in refused.stderr) == (78, True), refused.stderr
        assert node.running()
