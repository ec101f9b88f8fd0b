"""`doctor` beside real nodes: what is well, what is wrong, and what it leaves behind."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import ConfigError, Conflict
from tests.support.cluster import Cluster, Node, assert_refused, run, wait_until

pytestmark = pytest.mark.cluster

MEASURED = {"disk_sync", "slow_fsync", "disk_slow", "machine_memory", "swap", "files", "tasks", "clock_skew"}
"""What a busy machine may add by itself."""


def doctor(node: Node, *options: str) -> dict[str, Any]:
    """The document, whatever the machine's own state adds left out."""
    done = node.cli("doctor", *options, "-o", "json")
    assert done.returncode in (0, Conflict.exit_status), done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert list(document) == ["schema_version", "healthy", "findings"]
    wrong = {one["code"] for one in document["findings"] if one["severity"] in ("warning", "error")}
    assert document["healthy"] == (not wrong) == (done.returncode == 0)
    kept = [one for one in document["findings"] if one["code"] not in MEASURED]
    return {**document, "findings": kept}


def graver(document: dict[str, Any]) -> set[tuple[str, str | None]]:
    """Code and member of what needs attention."""
    return {
        (one["code"], one["member"])
        for one in document["findings"]
        if one["severity"] in ("warning", "error")
    }


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Cluster(tmp_path_factory.mktemp("three")) as cluster:
        yield cluster.form(3)


def names_below(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if not path.name.startswith("raft.db-")}


def test_members_in_order_need_no_attention_and_nothing_is_left_behind(three: Cluster) -> None:
    node = three["n2"]
    wait_until("no problem", lambda: node.client().status()["problems"] == [])
    before = names_below(node.directory)
    document = doctor(node, "--all")
    assert names_below(node.directory) == before
    assert graver(document) == set()
    found = {one["code"]: one for one in document["findings"] if one["severity"] == "ok"}
    assert f"process {node.pid}" in found["node"]["cause"]
    assert found["links"]["cause"] == "3 of 3 pairs of members have a link with each other"
    assert {
        *("problems", "config", "pki", "permissions", "disk_space", "machine_clock", "names", "release"),
        *("level", "keys", "certificate", "ca", "credentials"),
    } < found.keys()
    without = doctor(node)
    assert [one["severity"] for one in without["findings"]] == ["info"]  # of the snapshots that nobody takes
    far = doctor(node, "--warn-days", "3650")
    assert graver(far) == {
        *(("certificate_expiring", name) for name in ("n1", "n2", "n3")),
        *(("credentials_expiring", None), ("ca_rotation_due", None)),
    }


def test_problems_of_status_are_found_in_the_same_words(three: Cluster) -> None:
    node, away = three["n1"], three["n3"]
    away.kill()
    try:
        wait_until("n3 away", lambda: ("member_away", "n3") in graver(doctor(node)))
        done = node.cli("status", "--check", "-o", "json")
        (problem,) = [one for one in json.loads(done.stdout)["problems"] if one["code"] == "member_away"]
        found = [one for one in doctor(node)["findings"] if one["code"] == "member_away"]
        assert [one["cause"].split("(")[0] for one in found] == [problem["message"].split("(")[0]]
        assert ("no_failure_tolerated", None) in graver(doctor(node))
        down = doctor(away)
        assert ("node", "n3") in graver(down)
        assert {one["code"] for one in down["findings"]} <= {"node", "snapshot", "machine_clock"}
    finally:
        away.start()
        three.wait_settled(voters=3)


def test_key_that_others_may_read_is_found_with_its_cure(three: Cluster) -> None:
    key = three["n2"].directory / "pki" / "node.key"
    key.chmod(0o644)
    try:
        done = three["n2"].cli("doctor")
        assert done.returncode == Conflict.exit_status
        assert f"error    permissions n2: {key} is open to other users (mode 0644)\n" in done.stdout
        assert f"         chmod 600 {key}\n" in done.stdout
        assert "see the findings" in done.stderr
    finally:
        key.chmod(0o600)
    assert ("permissions", "n2") not in graver(doctor(three["n2"]))


def test_directory_without_a_node_and_days_that_are_none_are_refused(tmp_path: Path, three: Cluster) -> None:
    assert_refused(run("doctor", "-d", tmp_path), ConfigError.exit_status, "holds no node")
    for days in ("-1", "3651", "soon"):
        assert_refused(three["n1"].cli("doctor", "--warn-days", days), 65, "--warn-days")


def test_node_that_does_not_answer_is_told_with_its_process(three: Cluster) -> None:

    node = three["n3"]
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    try:
        done = node.cli("doctor", "--timeout", "0.5", "-o", "json")
    finally:
        node.process.send_signal(signal.SIGCONT)
        three.wait_settled(voters=3)
    (found,) = [one for one in json.loads(done.stdout)["findings"] if one["code"] == "node"]
    assert f"process {node.pid} holds the journal" in found["cause"]
    assert "does not answer" in found["cause"]
