"""What a running node loads, and members of both profiles in one cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import LIMIT_S, Cluster, environment, wait_until

NEEDLESS = (
    "typer",
    "click",
    "rich",
    "prometheus_client",
    "pydantic",
    "multiprocessing",
    "difflib",
    "encodings.idna",
    "stringprep",
    "unicodedata",
    "cyoloctl.bench",
    "cyoloctl.cli",
    "cyoloctl.console",
    "cyoloctl.doctor",
    "cyoloctl.gateway.server",
    "cyoloctl.gateway.templates",
    "cyoloctl.node.create",
    "cyoloctl.sim",
)
"""What no node needs, but for the command line that started it and a gateway that it does not have."""

PROGRAM = f"""
import sys
from pathlib import Path
from cyoloctl.node.run import run
status = run(Path(sys.argv[1]), ready_fd=1)
print(status, [name for name in {NEEDLESS!r} if name in sys.modules], file=sys.stderr)
"""


def test_running_node_has_loaded_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        node.terminate()
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(node.directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["ready"]
            process.terminate()
            _, log = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
            process.wait()
        assert log.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("small", [("n1", "n2", "n3"), ("n1",), ("n2", "n3")])
def test_cluster_of_small_members_and_others_elects_and_writes(
    stopped: Cluster, small: tuple[str, ...]
) -> None:
    cluster = stopped
    for name in small:
        path = cluster[name].directory / "node.yaml"
        path.write_text(f"{path.read_text('utf-8')}profile: small\n", "utf-8")
    cluster.start_all()
    cluster.wait_healthy()
    for node in cluster.running():
        expected = "small" if node.name in small else "standard"
        assert node.json("config", "show")["config"]["profile"] == expected
        started = [event for event in node.log_events() if event["event"] == "node started"]
        assert started[-1]["profile"] == expected
    cluster[cluster.wait_leader()].kill()
    survivor = cluster.running()[0]

    def written() -> bool:
        return survivor.cli("counter", "incr", "small", "--request-id", "once").stdout == "1\n"

    wait_until("a write after the leader was killed", written)


def test_change_of_the_profile_is_told_to_count_after_a_restart(cluster: Cluster) -> None:
    node = cluster["n1"]
    path = node.directory / "node.yaml"
    path.write_text(f"{path.read_text('utf-8')}profile: small\n", "utf-8")
    assert node.json("node", "reload")["needs_restart"] == ["profile"]


def test_small_node_cuts_its_log_to_a_snapshot_after_two_thousand_entries(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        node.terminate()
        path = node.directory / "node.yaml"
        path.write_text(f"{path.read_text('utf-8')}profile: small\n", "utf-8")
        node.start()
        with node.client() as client:
            for _ in range(2_100):
                client.counters.incr()
        wait_until(
            "a snapshot", lambda: any(event["event"] == "compacted the log" for event in node.log_events())
        )
