"""Data directories of release 0.1.0: upgraded in place with a backup, nothing lost, then as any other."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import TokenRejected
from cyoloctl.raft.upgrade import BACKUP_NAME
from tests.support.archives import unpack
from tests.support.cluster import OLD_PORTS, Cluster, Node, NotYet, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "data-directories-0.1.0.json").read_text())
MADE_AT = datetime.fromisoformat(EXPECTED["made_at"])


def _digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and BACKUP_NAME not in path.parts
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("upgrade")


@pytest.fixture(scope="module")
def before(base: Path) -> dict[str, dict[str, str]]:
    """Remains of release 0.1.0, by node."""
    unpack(FIXTURES / "data-directories-0.1.0.tar.gz", base)
    return {name: _digests(base / name) for name in EXPECTED["members"]}


@pytest.fixture(scope="module")
def ports() -> Iterator[None]:
    """The ports of 0.1.0, which its files name: for one of all processes that run tests at a time."""
    assert tuple(EXPECTED["ports"]) == OLD_PORTS, "others may be given these"
    with (Path(tempfile.gettempdir()) / f"cyoloctl-test-ports-of-0.1.0-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def upgraded(base: Path, before: dict[str, dict[str, str]], ports: None) -> Iterator[Cluster]:
    """The three nodes under this release, on the day on which they were stopped."""
    with Cluster(base) as cluster:
        for name, port in zip(EXPECTED["members"], EXPECTED["ports"], strict=True):
            node = cluster.new_node(name, port)
            node.step_clock(int((MADE_AT - datetime.now(UTC)).total_seconds()) + 60)
            node.launch()
        for node in cluster.nodes.values():
            node.wait_ready()
        cluster.wait_settled(voters=3)
        yield cluster


def test_upgrade_keeps_a_backup_of_every_file_as_it_was(
    upgraded: Cluster, before: dict[str, dict[str, str]]
) -> None:
    for name, digests in before.items():
        backup = upgraded[name].directory / BACKUP_NAME
        assert _digests_of_backup(backup) == digests
        assert backup.stat().st_mode & 0o777 == 0o700


def _digests_of_backup(backup: Path) -> dict[str, str]:
    return {
        str(path.relative_to(backup)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(backup.rglob("*"))
        if path.is_file()
    }


def test_upgrade_loses_nothing_that_was_acknowledged(upgraded: Cluster) -> None:
    for node in upgraded.nodes.values():
        for name, value in EXPECTED["counters"].items():
            assert node.client().counters.get(name)["value"] == value
    # A request id of the old release is remembered: it applies no second time.
    assert upgraded["n2"].client().counters.incr("orders", 41, request_id="job-1")["value"] == 41
    assert upgraded["n3"].client().counters.get("orders")["value"] == 42


def test_upgrade_keeps_sessions_revocations_and_rendezvous(upgraded: Cluster) -> None:
    for node in upgraded.nodes.values():
        opened = node.client().call("token_inspect", body={"token": EXPECTED["session_current"]})
        assert (opened["sub"], opened["gen"]) == ("ann", 2)
        with pytest.raises(TokenRejected):
            node.client().call("token_inspect", body={"token": EXPECTED["session_revoked"]})
        found = node.client().call("rendezvous_show", EXPECTED["rendezvous"]["id"])
        assert found["state"] == "pending"


def test_upgrade_puts_every_key_into_the_register(upgraded: Cluster) -> None:
    def registered() -> list[tuple[str, str]]:
        listed = upgraded["n2"].json("credentials", "list")["credentials"]
        rows = [(row["name"], row["role"]) for row in listed if row["key_hash"] is not None]
        if len(rows) < 4:
            raise NotYet(rows)
        return rows

    rows = wait_until("three nodes and the operator in the register", registered)
    assert sorted(rows) == [("admin", "operator"), ("n1", "node"), ("n2", "node"), ("n3", "node")]
    operator = upgraded["n1"].directory / "operator.yaml"
    remote = f"https://{upgraded['n3'].address}"
    done = _cli(upgraded["n2"], "status", "-e", remote, "--credentials", operator)
    assert done.returncode == 0, done.stderr


def _cli(node: Node, *arguments: object) -> Any:
    from tests.support.cluster import run

    return run(*arguments, **node.env)


def test_upgrade_is_done_once_and_the_cluster_grows_as_any_other(upgraded: Cluster) -> None:
    node = upgraded["n3"]
    marker = node.directory / BACKUP_NAME / "raft.db"
    made = marker.stat().st_mtime_ns
    assert node.terminate() == 0
    node.start()
    assert marker.stat().st_mtime_ns == made
    joined = upgraded.join("n4")
    assert joined.client().counters.get("orders")["value"] == 42
