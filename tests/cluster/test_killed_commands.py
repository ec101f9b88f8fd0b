"""Offline commands, killed before each thing that they do to their files, and repeated."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cyoloctl.node.unfinished import UNFINISHED_NAME, sweep
from tests.support.cluster import Cluster, Node, environment, free_port, wait_until
from tests.support.zygote import Zygote, zygote

pytestmark = pytest.mark.cluster

COUNTED = 7


@dataclass
class Stage:
    """Data directories of stopped nodes, files, and a place to work in."""

    base: Path
    forks: Zygote
    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.base / "work" / "dir"

    def file(self, name: str) -> str:
        return str(self.base / name)

    def prepare(self, origin: str | None) -> Path:
        """A copy of a node's directory in the place to work in, or nothing there."""
        shutil.rmtree(self.work.parent, ignore_errors=True)
        self.work.parent.mkdir()
        if origin is not None:
            shutil.copytree(self.nodes[origin].directory, self.work, ignore=shutil.ignore_patterns("*.sock"))
        return self.work


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """n1 and n2 are voters, g was granted a place; the state of n1 is in a file."""
    base = tmp_path_factory.mktemp("stage")
    (base / "nodes").mkdir()
    with Cluster(base / "nodes") as cluster, zygote(environment()) as forks:
        n1, guest = cluster.init("n1"), cluster.new_node("g")
        n1.client().counters.incr("counted", COUNTED)
        place = ("--name", "g", "--listen", guest.address)
        done = [
            guest.cli("node", "request", *place, "--out", base / "g.request"),
            n1.cli("member", "grant", "--request", base / "g.request", "--out", base / "g.grant"),
            n1.cli("snapshot", "save", base / "state"),
        ]
        n2 = cluster.join("n2", through="n1")
        cluster.wait_settled(voters=2)
        done += [
            n2.cli("node", "renew", "--request", base / "n2.request"),
            n1.cli("member", "grant", "--request", base / "n2.request", "--out", base / "n2.renewed"),
        ]
        assert [each.stderr for each in done if each.returncode] == []
        for node in (n1, n2):
            node.kill()
        yield Stage(base, forks, dict(cluster.nodes))


PLACE = ("--name", "x1", "--listen", "LISTEN")
COMMANDS: dict[str, tuple[str | None, list[str]]] = {
    # name: whose directory it works on, and the command; FILE: the file of that name
    "restore": (None, ["cluster", "init", *PLACE, "--from-snapshot", "FILE:state"]),
    "recover": ("n1", ["cluster", "recover", "--yes"]),
    "request": (None, ["node", "request", *PLACE, "--out", "WORK:request"]),
    "accept": ("g", ["node", "accept", "--grant", "FILE:g.grant"]),
    "set-address": ("n1", ["node", "set-address", "--listen", "LISTEN", "--peer", "n2=127.0.0.1:1"]),
    "renew": ("n1", ["node", "renew"]),
    "renew-by-file": ("n2", ["node", "renew", "--grant", "FILE:n2.renewed"]),
}


def _arguments(stage: Stage, arguments: list[str], listen: str) -> list[str]:
    def of(text: str) -> str:
        kind, _, name = text.partition(":")
        if kind == "FILE":
            return stage.file(name)
        return str(stage.work.with_name(name)) if kind == "WORK" else text.replace("LISTEN", listen)

    return [*map(of, arguments), "-d", str(stage.work), "-o", "json"]


def _whole(stage: Stage, name: str) -> None:
    """The directory is what the command makes, and of the killed one nothing is left that stays."""
    sweep(stage.work, older_than_s=-1.0)
    assert [path.name for path in stage.work.rglob(".*")] == []
    if name == "request":
        assert {path.name for path in stage.work.iterdir() if path.name[0] != "."} == {"pki", "request.json"}
        return
    found = stage.forks.run(["node", "inspect", "-o", "json", "-d", str(stage.work)])
    assert found.status == 0, found.err
    assert json.loads(found.out)["problem"] is None
    assert not (stage.work / UNFINISHED_NAME).exists()
    left = [path.name for path in stage.work.glob("backup-before-epoch-*")]
    assert left == (["backup-before-epoch-2"] if name == "recover" else [])


@pytest.mark.parametrize("name", COMMANDS)
def test_command_that_is_killed_anywhere_ends_when_it_is_repeated(stage: Stage, name: str) -> None:
    origin, command = COMMANDS[name]
    arguments = _arguments(stage, command, f"127.0.0.1:{free_port()}")
    at = 0
    while True:
        at += 1
        stage.prepare(origin)
        killed = stage.forks.run(arguments, kill_at=at)
        if killed.status != -9:
            break
        step = killed.steps[-1]
        again = stage.forks.run(arguments)
        if again.status == 4 and name == "restore":
            assert (stage.work / "node.yaml").exists(), step  # it had ended, but for what it prints
        elif again.status == 4 and name == "request":
            assert stage.work.with_name("request").exists(), step
        else:
            assert again.status == 0, (step, again.err)
        _whole(stage, name)
    assert killed.status == 0, killed.err
    assert at >= 3, killed.steps
    _whole(stage, name)


@pytest.mark.parametrize("name", ["restore", "recover"])
def test_node_of_a_command_that_was_killed_in_the_middle_starts_with_its_state(
    stage: Stage, name: str
) -> None:
    origin, command = COMMANDS[name]
    port = stage.nodes["n1"].port if name == "recover" else free_port()
    arguments = _arguments(stage, command, f"127.0.0.1:{port}")
    stage.prepare(origin)
    steps = stage.forks.run(arguments, kill_at=1000).steps
    writes = [at for at, step in enumerate(steps, 1) if step.startswith("sql COMMIT")]
    stage.prepare(origin)
    assert stage.forks.run(arguments, kill_at=writes[-1]).status == -9
    assert stage.forks.run(arguments).status == 0
    left = stage.work / "pki" / ".node.key.0123456789abcdef"
    left.touch()
    os.utime(left, (1_000, 1_000))
    node = Node(stage.work, "n1", port)
    try:
        node.start()
        value = wait_until("the state", lambda: node.client().counters.get("counted")["value"])
        assert value == COUNTED
        assert node.client().status()["cluster"]["voters"] == 1
        assert not left.exists(), "a start removes what killed commands have left"
    finally:
        node.end()


def test_recovery_backs_up_what_is_there_and_not_what_an_interrupted_one_found(stage: Stage) -> None:
    stage.prepare("n1")
    backup = stage.work / "backup-before-epoch-2"
    backup.mkdir()
    (backup / "raft.db").write_text("before the node ran once more")
    assert stage.forks.run(["cluster", "recover", "--yes", "-d", str(stage.work)]).status == 0
    assert (backup / "raft.db").read_bytes().startswith(b"SQLite format 3")
