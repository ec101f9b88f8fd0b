"""What nodes say of themselves and of each other: why a peer is away, and what needs a hand."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, free_port, wait_until

pytestmark = pytest.mark.cluster


def test_log_says_once_at_its_default_level_why_each_peer_is_away(shared: Cluster, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, Cluster(tmp_path) as other:
        node = other.new_node("x1")
        assert node.cli("cluster", "init", "--name", "x1", "--listen", node.address).returncode == 0
        peers = {
            "closed": f"127.0.0.1:{free_port()}",
            "silent": f"127.0.0.1:{silent.getsockname()[1]}",
            "unnamed": "nobody.invalid:7000",
            "n2": shared["n2"].address,
        }
        path = node.directory / "node.yaml"
        lines = "".join(f'\n  {name}: "{address}"' for name, address in peers.items())
        path.write_text(path.read_text().replace("peers: {}", f"peers:{lines}"))
        node.start()
        assert node.log_level == "info"

        def said() -> dict[str, list[str]]:
            found: dict[str, list[str]] = {name: [] for name in peers}
            for event in node.log_events():
                if event["event"] == "cannot dial":
                    assert event["address"] == peers[event["peer"]]
                    found[event["peer"]].append(event["reason"])
            return found

        wait_until("a reason for each", lambda: all(said().values()))
        reasons = said()
        assert reasons["closed"] == ["connection refused"]
        assert reasons["silent"] == ["no answer in time"]
        assert len(reasons["n2"]) == 1
        assert reasons["n2"][0].startswith("TLS: its certificate is not accepted here: self-signed")
        assert len(reasons["unnamed"]) == 1
        assert reasons["unnamed"][0].startswith("its name cannot be resolved: ")
