"""Three nodes go to a fabricated next release one at a time, back, and there for good, under writes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import TokenRejected, VersionMismatch
from cyoloctl.node.level_file import LEVEL_NAME
from tests.support.archives import unpack
from tests.support.cluster import Cluster, Node, NotYet, Writers, assert_refused, environment, wait_until
from tests.support.next_release import NAME

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

FIXTURES = Path(__file__).parents[1] / "fixtures"
SAVED: dict[str, Any] = json.loads((FIXTURES / "data-directory-0.2.0.json").read_text())
NEXT, TODAY = "tests.support.next_release", "cyoloctl"
WITHOUT_SERVICE_S = 30.0  # a busy machine needs seconds for an election


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.suffix != ".db-shm"
    }


def install(cluster: Cluster, name: str, module: str, writers: Writers) -> float:
    """Stop a node, start it as another release; the seconds until writes went on."""
    node = cluster[name]
    since = time.monotonic()
    assert node.terminate() == 0
    writers.wait_more(1)
    took_s = time.monotonic() - since
    node.module = module
    node.start()
    cluster.wait_healthy()
    return took_s


def problems(node: Node) -> list[str]:
    return [each["code"] for each in node.client().status()["problems"]]


def multiply(node: Node, by: int) -> int:
    return int(node.client().counters.incr("product", by)["value"])


def as_release(module: str, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120.0,
        env=environment(),
        check=False,
    )


def refused(node: Node, *words: str) -> None:
    """Soon refused with these words: a member that was just started announces what it understands."""

    def told() -> bool:
        with pytest.raises(VersionMismatch) as caught:
            multiply(node, 3)
        if not all(word in caught.value.message for word in words):
            raise NotYet(caught.value.message)
        return True

    wait_until(f"the refusal with {words}", told)


def test_rolling_upgrade_loses_no_write_and_ends_with_what_is_new(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.form(3)
        with Writers(cluster, threads=2) as writers:
            took = [install(cluster, name, NEXT, writers) for name in ("n1", "n2")]
            refused(cluster["n1"], "n3 does not understand it", NAME)
            waits = cluster["n2"].cli("cluster", "upgrade", "--dry-run")
            assert_refused(waits, 76, "n3 does not understand level 2", f"release {NAME}")
            wait_until("no problem", lambda: problems(cluster["n3"]) == [])
            # n2 goes back: nothing that it wrote meanwhile stops it.
            took.append(install(cluster, "n2", TODAY, writers))
            refused(cluster["n1"], "n2 and n3 do not understand it")
            took += [install(cluster, name, NEXT, writers) for name in ("n3", "n2")]
            refused(cluster["n3"], "every member understands it")
            wait_until("the level behind", lambda: problems(cluster["n1"]) == ["level_behind"])
            planned = cluster["n1"].client().cluster_upgrade(dry_run=True)
            assert (planned["level"], planned["to"], planned["changed"], planned["dry_run"]) == (
                1,
                2,
                True,
                True,
            )
            refused(cluster["n3"], "every member understands it")
            done = cluster["n2"].json("cluster", "upgrade")
            assert (done["to"], done["changed"], done["release"]) == (2, True, NAME)
            assert [multiply(node, 3) for node in cluster.nodes.values()] == [3, 9, 27]
            assert cluster["n1"].client().cluster_upgrade(dry_run=False)["changed"] is False
            assert cluster["n3"].client().status()["cluster"]["level"] == 2
            writers.wait_more(1)
            writers.finish()
        writers.assert_exact(cluster["n3"].client().counters.get("default")["value"])
        assert max(took) < WITHOUT_SERVICE_S, took

        _refuses_to_go_back(cluster)
        _takes_in_no_earlier_release(cluster, tmp_path)


def _refuses_to_go_back(cluster: Cluster) -> None:
    node = cluster["n3"]
    assert node.terminate() == 0
    before = digests(node.directory)
    assert LEVEL_NAME in before
    assert_refused(node.cli("node", "start"), 76, "raised to level 2", f"install release {NAME}")
    assert_refused(node.cli("cluster", "recover", "--dry-run"), 76, "raised to level 2")
    assert digests(node.directory) == before
    # A crash may have come before the file: then the members say so, or its own log does.
    (node.directory / LEVEL_NAME).unlink()
    node.module = TODAY
    node.launch()
    assert node.wait_exit() == 76
    node.module = NEXT
    node.start()
    cluster.wait_settled(voters=3)
    assert multiply(node, 2) == 54


def _takes_in_no_earlier_release(cluster: Cluster, base: Path) -> None:
    token = cluster.invite("n4")
    node = cluster.new_node("n4")
    join = (
        "node",
        "join",
        "-d",
        node.directory,
        "--name",
        "n4",
        "--listen",
        node.address,
        "--token-file",
        "-",
    )
    assert_refused(
        as_release(TODAY, *join, stdin=token), 76, "cluster is at level 2", f"install release {NAME}"
    )
    assert not node.directory.exists() or not any(node.directory.iterdir())
    joined = as_release(NEXT, *join, stdin=token)
    assert joined.returncode == 0, joined.stderr
    node.module = NEXT
    node.start()
    cluster.wait_settled(voters=4)
    assert multiply(node, 2) == 108

    # By file: the cluster grants nothing to a release that it has outgrown.
    box, request, grant = cluster.new_node("n5"), cluster.base / "n5.request", cluster.base / "n5.grant"
    ask = ("node", "request", "-d", box.directory, "--name", "n5", "--listen", box.address, "--out")
    grants = ("member", "grant", "--request", request, "--out", grant)
    assert as_release(TODAY, *ask, request).returncode == 0
    assert_refused(node.cli(*grants), 76, "the release on n5 understands level 1", f"install release {NAME}")
    request.unlink()
    assert as_release(NEXT, *ask, request).returncode == 0
    assert node.cli(*grants).returncode == 0
    accept = ("node", "accept", "-d", box.directory, "--grant", grant)
    assert_refused(as_release(TODAY, *accept), 76, "the cluster is at level 2")
    accepted = as_release(NEXT, *accept)
    assert accepted.returncode == 0, accepted.stderr


def test_new_cluster_of_the_next_release_needs_no_raising(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.new_node("n1")
        made = as_release(
            NEXT, "cluster", "init", "-d", node.directory, "--name", "n1", "--listen", node.address
        )
        assert made.returncode == 0, made.stderr
        node.module = NEXT
        node.start()
        wait_until("the founder's level", lambda: node.client().status()["cluster"]["level"] == 2)
        assert multiply(node, 5) == 5
        assert problems(node) == []


@pytest.mark.parametrize("module", [TODAY, NEXT])
def test_saved_directory_of_level_1_is_whole_under_every_later_release(module: str, tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.new_node(SAVED["name"])
        unpack(FIXTURES / "data-directory-0.2.0.tar.gz", tmp_path)
        settings = node.directory / "node.yaml"
        settings.write_text(settings.read_text().replace(f":{SAVED['port']}", f":{node.port}"))
        made_at = datetime.fromisoformat(SAVED["made_at"])
        node.step_clock(int((made_at - datetime.now(UTC)).total_seconds()) + 60)  # the sessions live still
        node.module = module
        node.start()
        cluster.wait_healthy()
        client = node.client()
        assert client.counters.get("orders")["value"] == SAVED["counters"]["orders"]
        assert (
            client.counters.incr("orders", 41, request_id="job-1")["value"] == 41
        )  # remembered: no second time
        assert client.call("token_inspect", body={"token": SAVED["session_current"]})["sub"] == "ann"
        with pytest.raises(TokenRejected):
            client.call("token_inspect", body={"token": SAVED["session_revoked"]})
        assert client.status()["cluster"]["level"] == SAVED["level"]
        assert client.cluster_upgrade(dry_run=True)["changed"] is (module == NEXT)
