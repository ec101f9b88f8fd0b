"""A real node under a service manager: a stand-in for systemd's socket hears what the node says of itself."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Node, wait_until

pytestmark = pytest.mark.cluster


class Manager:
    """A service manager's socket, and everything that was told."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.told: list[str] = []

    def hear(self) -> list[str]:
        """What was told until now."""
        while True:
            try:
                self.told += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.told

    def wait_told(self, line: str, times: int = 1) -> None:
        wait_until(f"{line} was told", lambda: self.hear().count(line) >= times)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


def supervise(node: Node, manager: Manager, **more: str) -> None:
    node.env |= {"NOTIFY_SOCKET": manager.socket.getsockname(), **more}
    node.launch()


def test_node_says_that_it_is_ready_lives_reloads_and_stops(stopped: Cluster, manager: Manager) -> None:
    node = stopped["n1"]
    supervise(node, manager, WATCHDOG_USEC="300000")
    manager.wait_told("READY=1")
    assert node.client(2.0).health()  # at once: whoever is told may use it
    assert manager.told[:2] == ["READY=1", f"STATUS=n1 serves at {node.address}"]
    manager.wait_told("WATCHDOG=1", 5)
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)
    manager.wait_told("READY=1", 2)
    assert node.client().call("reload", body={})["reloaded"]
    manager.wait_told("READY=1", 3)
    said = [line.partition("=")[0] for line in manager.told if line != "WATCHDOG=1"]
    reloaded = ["RELOADING", "MONOTONIC_USEC", "READY"]
    assert said == ["READY", "STATUS", *reloaded, *reloaded]
    assert node.terminate() == 0
    said = manager.hear()
    assert said.count("STOPPING=1") == 1
    assert "WATCHDOG=1" not in said[said.index("STOPPING=1") :]


def test_node_that_the_cluster_keeps_out_never_says_that_it_is_ready(
    cluster: Cluster, manager: Manager
) -> None:
    removed = cluster["n3"]
    removed.terminate()
    done = cluster["n1"].cli("member", "remove", "n3", "--yes")
    assert done.returncode == 0, done.stderr
    supervise(removed, manager)
    assert removed.wait_exit() == 4
    said = manager.hear()
    assert "READY=1" not in said
    assert "STOPPING=1" in said


def test_node_that_cannot_start_says_nothing(stopped: Cluster, manager: Manager) -> None:
    (stopped["n1"].directory / "node.yaml").write_text("schema_version: 1\n", "utf-8")
    supervise(stopped["n1"], manager)
    assert stopped["n1"].wait_exit() == 78
    assert manager.hear() == []
