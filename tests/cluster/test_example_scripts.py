"""The scripts in examples/scripts, each run as it is against real nodes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Node, environment, free_port, run, wait_until
from tests.support.gateways import add_gateways

SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "scripts"
NAMES = ["backup", "count-once", "keepalived-check", "replace-node", "rolling-restart"]

cluster_test = pytest.mark.cluster


def script(
    name: str, *arguments: object, timeout_s: float = 600.0, **env: object
) -> subprocess.CompletedProcess[str]:
    """One of them as a process, with the command of this environment on its path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(SCRIPTS / f"{name}.sh"), *map(str, arguments)],
        env=environment(PATH=path, **{key: str(value) for key, value in env.items()}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def endpoints(*nodes: Node) -> str:
    return ",".join(node.endpoint for node in nodes)


# -- all of them ----------------------------------------------------------------------------------


def test_every_script_is_tried_here_and_described() -> None:
    assert sorted(path.stem for path in SCRIPTS.iterdir()) == NAMES
    page = (SCRIPTS.parents[1] / "docs" / "scripting.md").read_text("utf-8")
    assert [name for name in NAMES if f"examples/scripts/{name}.sh" not in page] == []


@pytest.mark.parametrize("name", NAMES)
def test_script_is_short_strict_and_for_any_shell(name: str) -> None:
    path = SCRIPTS / f"{name}.sh"
    lines = path.read_text("utf-8").splitlines()
    assert lines[0] == "#!/bin/sh"
    assert "set -eu" in lines
    assert len(lines) < 60
    assert os.access(path, os.X_OK)
    subprocess.run(["sh", "-n", str(path)], check=True, timeout=30)


@pytest.mark.parametrize("name", NAMES)
def test_shellcheck_finds_nothing(name: str) -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed (apt-get install shellcheck)")
    checked = [program, "--shell=sh", str(SCRIPTS / f"{name}.sh")]
    done = subprocess.run(checked, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


# -- a job with a request id ------------------------------------------------------------------------


@cluster_test
def test_job_counts_once_per_day_even_when_the_leader_died_between(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    ask = {"CYOLOCTL_ENDPOINT": endpoints(*cluster.nodes.values()), "PAUSE_S": 1, "TRIES": 60}
    first = script("count-once", "runs", **ask, DAY="2030-01-01")
    assert (first.returncode, first.stdout) == (0, "runs is 1\n"), first.stderr
    cluster[leader].kill()
    for day, value in (("2030-01-01", 1), ("2030-01-02", 2), ("2030-01-02", 2)):
        done = script("count-once", "runs", **ask, DAY=day)
        assert (done.returncode, done.stdout) == (0, f"runs is {value}\n"), done.stderr


@cluster_test
def test_job_that_cannot_be_done_ends_with_the_reason(tmp_path: Path) -> None:
    nobody = {"CYOLOCTL_DATA_DIR": tmp_path, "PAUSE_S": 0, "TRIES": 2}
    done = script("count-once", "runs", **nobody)
    assert (done.returncode, done.stdout) == (69, "")
    assert "may be started again today" in done.stderr
    wrong = script("count-once", "No Name", **nobody)
    assert wrong.returncode == 65
    assert "started again" not in wrong.stderr


# -- one after another --------------------------------------------------------------------------------


@pytest.fixture
def background(stopped: Cluster) -> Iterator[Cluster]:
    """Three voters, each started as a process of its own; stopped at the end."""
    first = next(iter(stopped.nodes.values()))
    try:
        for node in stopped.nodes.values():
            done = node.cli("node", "start", "--background")
            assert done.returncode == 0, done.stderr
        # Its time goes on from where it stopped, until a majority's clocks are known.
        wait_until("the cluster is healthy", lambda: first.cli("status", "--check").returncode == 0)
        yield stopped
    finally:
        for node in stopped.nodes.values():
            run("node", "stop", "-d", node.directory)


def restarts(cluster: Cluster) -> list[str]:
    return [
        f"cyoloctl node stop -d {node.directory} && cyoloctl node start -d {node.directory} --background"
        for node in cluster.nodes.values()
    ]


@cluster_test
def test_every_node_is_restarted_and_no_two_are_away(background: Cluster) -> None:
    nodes = list(background.nodes.values())
    before = [node.json("node", "reload")["pid"] for node in nodes]
    done = script("rolling-restart", *restarts(background), CYOLOCTL_ENDPOINT=endpoints(*nodes), LIMIT_S=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("restarted 3 nodes; the cluster is healthy\n")
    after = [node.json("node", "reload")["pid"] for node in nodes]
    assert all(pid != old for pid, old in zip(after, before, strict=True))


@cluster_test
def test_restart_stops_at_the_node_that_does_not_come_back(background: Cluster) -> None:
    first, *others = background.nodes.values()
    before = [node.json("node", "reload")["pid"] for node in others]
    commands = restarts(background)
    commands[0] = f"cyoloctl node stop -d {first.directory}"
    done = script("rolling-restart", *commands, CYOLOCTL_ENDPOINT=endpoints(*others), LIMIT_S=4)
    assert done.returncode in (4, 75), done.stdout + done.stderr
    assert "not healthy within 4 s: stopped here" in done.stderr
    assert done.stdout.count("restarting") == 1
    assert [node.json("node", "reload")["pid"] for node in others] == before


# -- backup -------------------------------------------------------------------------------------------


def older(directory: Path) -> list[Path]:
    made = [directory / f"cyoloctl-200001{day:02d}T000000Z.snapshot" for day in (1, 2, 3)]
    for path in made:
        path.write_text("an older one")
    return made


@cluster_test
def test_backup_keeps_the_newest_and_leaves_other_files_alone(shared: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "a backup"
    directory.mkdir()
    for path in [directory / "mine.snapshot", directory / "cyoloctl-monday.snapshot"]:
        path.write_text("somebody else's")
    oldest = older(directory)
    passphrase = tmp_path / "phrase"
    passphrase.touch(0o600)
    passphrase.write_text("correct horse battery")
    shared["n1"].client().counters.incr("backed-up", 1)
    ask = {"CYOLOCTL_DATA_DIR": shared["n1"].directory, "PASSPHRASE_FILE": passphrase}
    done = script("backup", directory, 2, **ask)
    assert done.returncode == 0, done.stderr
    made = sorted(directory.glob("cyoloctl-*Z.snapshot"))
    assert (len(made), made[0]) == (2, oldest[2])
    assert (directory / "mine.snapshot").exists()
    assert (directory / "cyoloctl-monday.snapshot").exists()
    shown = run("snapshot", "inspect", made[1], "-o", "json")
    assert shown.returncode == 0, shown.stderr
    assert "correct horse" not in done.stdout + done.stderr


@cluster_test
def test_backup_that_fails_removes_nothing(tmp_path: Path) -> None:
    kept = older(tmp_path)
    done = script("backup", tmp_path, 1, CYOLOCTL_DATA_DIR=tmp_path)
    assert done.returncode == 69, done.stderr
    assert script("backup", tmp_path, "0").returncode == 2
    assert all(path.exists() for path in kept)


# -- another machine ------------------------------------------------------------------------------------


@cluster_test
def test_lost_node_is_replaced_by_a_voter_of_another_name(cluster: Cluster, tmp_path: Path) -> None:
    cluster["n2"].kill()
    rest = [cluster["n1"], cluster["n3"]]
    new = Node(tmp_path / "a new n4", "n4", free_port())
    ask = {"CYOLOCTL_ENDPOINT": endpoints(*rest), "CYOLOCTL_TIMEOUT": "60s"}
    try:
        done = script("replace-node", "n2", "n4", new.address, new.directory, **ask)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("n4 replaces n2\n")
        rows = {row["name"]: row["role"] for row in cluster["n1"].client().status()["members"]}
        assert rows.keys() == {"n1", "n3", "n4"}
        assert rows["n4"] in ("follower", "leader")
        assert "cyolojoin" not in done.stdout + done.stderr
    finally:
        run("node", "stop", "-d", new.directory)


@cluster_test
def test_replacement_that_is_refused_makes_no_node(cluster: Cluster, tmp_path: Path) -> None:
    for name in ("n2", "n3"):
        cluster[name].kill()
    new = Node(tmp_path / "n4", "n4", free_port())
    ask = {"CYOLOCTL_ENDPOINT": endpoints(cluster["n1"])}
    done = script("replace-node", "n2", "n4", new.address, new.directory, **ask)
    assert done.returncode in (4, 75), done.stdout + done.stderr
    assert not new.directory.exists()


# -- a shared address -----------------------------------------------------------------------------------


@cluster_test
def test_machine_holds_the_address_while_its_node_serves_and_has_a_leader(stopped: Cluster) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (apt-get install curl)")
    ports = add_gateways(stopped)
    stopped.start_all()
    first, second, third = stopped.nodes.values()

    def holds(node: Node, *options: object) -> bool:
        url = f"http://127.0.0.1:{ports[node.name]}"
        done = script("keepalived-check", url, *(options or ("-d", node.directory)))
        assert done.stdout + done.stderr == ""
        return done.returncode == 0

    for node in (first, second, third):
        wait_until("the address may be here", lambda node=node: holds(node))  # type: ignore[misc]  # a loop
    asked = ("-e", f"https://{first.address}", "--credentials", stopped.viewer())
    assert holds(first, *asked)
    second.kill()
    assert not holds(second)
    wait_until("the others keep it", lambda: holds(first) and holds(third))
    third.kill()
    wait_until("a node without a majority gives it away", lambda: not holds(first))
