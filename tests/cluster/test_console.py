"""`cyoloctl console` of real nodes, by a viewer's credentials: it goes on whatever happens to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import Cluster, wait_until
from tests.support.consoles import console

pytestmark = pytest.mark.cluster


def test_viewer_sees_the_cluster_through_the_death_of_its_leader_and_of_all(
    cluster: Cluster, tmp_path: Path
) -> None:
    asks = [word for each in cluster.running() for word in ("-e", f"https://{each.name}@{each.address}")]
    with console(tmp_path, "--credentials", str(cluster.viewer()), *asks) as running:
        page = running.page()
        assert cluster["n1"].cli("counter", "incr", "visits", "--by", "7").returncode == 0
        page.until("the counter", "counters", is_=[{"name": "visits", "value_string": "7"}])
        data = page.until("all well", "headline", "text", is_="All 3 members are well")
        assert data["keys"]["agreed"] is True
        assert data["counts"]["counters"] == 1
        # Who waits is not a viewer's to see; how many is.
        assert data["waiting"] == {"kinds": None, "more": False, "allowed": False}
        leader = cluster.wait_leader()
        cluster[leader].kill()
        data = page.until("one away", "headline", "text", is_="2 of 3 members well")
        assert data["cluster"]["leader"] not in (None, leader)
        assert data["history"]["marks"][-1]["leader"] == data["cluster"]["leader"]
        [problem] = [each for each in data["problems"] if each["member"] == leader]
        assert problem["command"].startswith("cyoloctl ")
        second = data["cluster"]["leader"]
        cluster[second].kill()
        data = page.until("no leader", "headline", "text", is_="No leader")
        assert data["headline"]["since_unix_s"] <= data["now_unix_s"]
        assert [each["name"] for each in data["counters"]] == ["visits"]
        for each in cluster.running():
            each.kill()
        data = page.until("silence", "headline", "text", is_="No node answers")
        assert data["stale"] is True
        cluster.start_all()
        page.until("all well again", "headline", "text", is_="All 3 members are well")
        states = {point[1] for point in page.data()["history"]["points"]}
        assert "led" in states
        assert running.end() == 0


def test_operator_sees_what_waits_by_kind_and_the_figures_of_nodes_that_no_endpoint_names(
    cluster: Cluster, tmp_path: Path
) -> None:
    node = cluster["n1"]
    for kind in ("mfa", "mfa", "door"):
        assert node.cli("rendezvous", "start", "--kind", kind).returncode == 0
    with console(tmp_path, "-d", str(node.directory)) as running:
        page = running.page()
        kinds = [{"kind": "door", "count": 1}, {"kind": "mfa", "count": 2}]
        data = page.until("who waits", "waiting", "kinds", is_=kinds)
        assert [each["tells_figures"] for each in data["members"]] == [True, True, True]
        before = len(data["history"]["points"])

        def written() -> bool:
            assert node.cli("counter", "incr").returncode == 0
            points = page.data()["history"]["points"][before:]
            return any(point[2] and point[4] for point in points)

        wait_until("writes in the chart", written)
