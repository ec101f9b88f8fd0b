"""Most voters lost: one disk goes on as the cluster, and those left behind are kept out.  Real nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Node, assert_refused, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def _codes(node: Node) -> dict[str, str]:
    problems = node.client(2.0).status()["problems"]
    return {problem["code"]: problem["message"] for problem in problems}


def _described(node: Node, where: Path) -> Path:
    path = where / f"{node.name}.json"
    path.write_text(json.dumps(node.json("node", "inspect")))
    return path


def _left_behind_come_back(survivor: Node, *others: Node) -> None:
    """As a majority of the old voters: both sides say so."""
    for node in others:
        node.launch()
    for node in others:
        wait_until(
            f"{node.name} told of the recovery",
            lambda node=node: "without " + node.name in _codes(node).get("history_replaced", ""),  # type: ignore[misc]
        )
    wait_until("the survivor telling of them", lambda: "left_behind" in _codes(survivor))
    for node in others:
        node.kill()


def test_survivor_goes_on_and_those_left_behind_are_kept_out_and_told(
    cluster: Cluster, tmp_path: Path
) -> None:
    n1, n2, n3 = (cluster[name] for name in ("n1", "n2", "n3"))
    for _ in range(3):
        assert n1.cli("counter", "incr", "kept").returncode == 0
    token = n1.cli("token", "mint", "--sub", "ann").stdout
    assert_refused(n1.cli("cluster", "recover", "--yes"), 4, "in use")
    # n3 lags: what is written without it must not be lost by choosing its disk.
    n3.kill()
    assert n1.json("counter", "incr", "kept")["epoch"] == 1
    n2.kill()
    # Asked while it may still count on the others: this write may be in its log, and the answer says so.
    assert n1.cli("counter", "incr", "kept", "--timeout", "1").returncode in (75, 80)
    n1.kill()

    others = [_described(node, tmp_path) for node in (n1, n2)]
    assert_refused(
        n3.cli("cluster", "recover", "--compare", *others, "--yes"),
        4,
        "the disk of n1 got further than that of n3",
    )
    log = n1.json("node", "log")
    plan = n1.json("cluster", "recover", "--dry-run")
    assert (plan["changed"], plan["dry_run"], plan["backup"]) == (True, True, None)
    assert n1.json("node", "log") == log
    assert_refused(n1.cli("cluster", "recover"), 2, "--yes")

    done = n1.json("cluster", "recover", "--compare", others[1], "--yes")
    assert (done["epoch"], done["left_behind"], done["best"]) == (2, ["n2", "n3"], "n1")
    assert sorted(path.name for path in Path(done["backup"]).iterdir())[:1] == ["node.yaml"]
    assert n1.json("cluster", "recover", "--yes")["changed"] is False

    n1.start()
    written = n1.json("counter", "incr", "kept")
    assert written["epoch"] == 2
    assert written["value"] in (5, 6)  # the write without an answer counts, or never arrived
    assert n1.cli("token", "inspect", "-", stdin=token).returncode == 0
    status = n1.json("status")
    assert (status["cluster"]["voters"], status["cluster"]["epoch"]) == (1, 2)
    [broken] = status["history"]
    assert (broken["kind"], broken["by"], broken["left_behind"]) == ("recovered", "n1", ["n2", "n3"])
    assert "ca_rotation_due" in _codes(n1)

    _left_behind_come_back(n1, n2, n3)
    assert n1.client(2.0).counters.get("kept")["value"] == written["value"]

    # A machine comes back under a new name, and gets the history with the state.
    n4 = cluster.join("n4", through="n1")
    cluster.wait_settled(voters=2)
    assert n4.client(5.0).counters.get("kept")["epoch"] == 2
    assert n4.json("status")["history"] == status["history"]
