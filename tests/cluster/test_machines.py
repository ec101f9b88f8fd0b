"""Machines of users on real nodes: one code for all, versions, exactly once, and code that goes wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cyoloctl.errors import MachineFailed, MachineRefused, NotFound, QueryTimeout, Unprocessable
from tests.support.cluster import MACHINES, Cluster, wait_until

pytestmark = pytest.mark.cluster

HITS = MACHINES / "hits.py"
TRY = Path(__file__).resolve().parents[1] / "support" / "own_machine.py"


def give(cluster: Cluster, target: str, source: Path) -> None:
    for node in cluster.nodes.values():
        node.give_machine(target, source)


def add(cluster: Cluster, name: str, request_id: str | None = None) -> int:
    machines = cluster[name].client().machines
    return int(machines.apply("hits", "add", {"page": "/a"}, request_id=request_id)["answer"])


def hits(cluster: Cluster, name: str) -> int:
    return int(cluster[name].client().machines.query("hits", "of", {"page": "/a"})["answer"])


def test_machine_counts_each_request_once_and_goes_on_when_the_leader_dies(stopped: Cluster) -> None:
    give(stopped, "hits:Hits", HITS)
    stopped.start_all()
    stopped.wait_healthy()
    stopped["n1"].wait_machine()
    assert [add(stopped, "n1", "r1"), add(stopped, "n2", "r1"), add(stopped, "n3", "r2")] == [1, 1, 2]
    assert [hits(stopped, name) for name in stopped.nodes] == [2, 2, 2]
    leader = stopped.wait_leader()
    stopped[leader].kill()
    left = [name for name in stopped.nodes if name != leader]
    wait_until("another leader", stopped[left[0]].client().machines.list)
    assert [add(stopped, left[0], "r2"), add(stopped, left[1], "r3")] == [2, 3]
    stopped[leader].start()
    assert hits(stopped, leader) == 3


def test_node_with_other_code_keeps_it_from_coming_in_force_and_later_does_not_run(stopped: Cluster) -> None:
    give(stopped, "hits:Hits", HITS)
    other = stopped["n3"].directory / "machines" / "hits.py"
    other.write_text(HITS.read_text() + "\n# another\n")
    stopped.start_all()
    stopped.wait_healthy()

    def lacking() -> list[list[str]]:
        found = stopped["n1"].client().call("machine_list")["machines"]
        return sorted(each["lacking"] for each in found if each["state"] == "waiting")

    wait_until("both codes known", lambda: lacking() == [["n1", "n2"], ["n3"]])
    with pytest.raises(NotFound, match="or a member lacks its code"):
        add(stopped, "n1")
    stopped["n3"].terminate()
    other.write_text(HITS.read_text())
    stopped["n3"].start()
    stopped["n1"].wait_machine()
    assert add(stopped, "n3") == 1

    stopped["n3"].terminate()
    other.write_text(HITS.read_text() + "\n# another\n")
    stopped["n3"].launch()
    assert stopped["n3"].wait_exit() == 76
    told = stopped["n3"].log_tail()
    digests = set(re.findall(r"code ([0-9a-f]{16})", told))
    assert "the cluster runs version 1 of machine hits" in told
    assert len(digests) == 2, told
    assert add(stopped, "n1") == 2


def test_newer_version_comes_in_force_with_the_last_node_and_keeps_the_rows(stopped: Cluster) -> None:
    give(stopped, "hits:Hits", HITS)
    stopped.start_all()
    stopped.wait_healthy()
    stopped["n1"].wait_machine()
    assert add(stopped, "n1") == 1
    later = HITS.read_text().replace('NAME = "hits"', 'NAME = "hits"\n    VERSION = 2')
    later = later.replace("table.get(page, 0) + by", "table.get(page, 0) + 10 * by")
    for name, node in stopped.nodes.items():
        assert add(stopped, name) < 10
        (node.directory / "machines" / "hits_2.py").write_text(later)
        path = node.directory / "node.yaml"
        path.write_text(path.read_text().replace("[hits:Hits]", "[hits:Hits, hits_2:Hits]"))
        node.terminate()
        node.start()
        stopped.wait_healthy()
    stopped["n1"].wait_machine(2)
    assert add(stopped, "n2") == 14
    stopped["n1"].kill()  # what it applied under the old version is applied again, by the old code
    stopped["n1"].start()
    assert hits(stopped, "n1") == 14


def test_code_that_goes_wrong_is_refused_in_words_of_its_own_and_the_cluster_goes_on(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        text = TRY.read_text().partition("\n\nCODE: Code")[0]
        source = tmp_path / "own_try.py"
        source.write_text(text.replace("from cyoloctl.machines.code import Code, code_of\n", ""))
        node.give_machine("own_try:Try", source).terminate()
        node.start()
        node.wait_machine()
        client = node.client()
        for operation, arguments, error in (
            ("go_wrong", {"how": "refuse"}, MachineRefused),
            ("go_wrong", {"how": "recurse"}, MachineFailed),
            ("go_wrong", {"how": "exit"}, MachineFailed),
            ("put", {"key": 1}, Unprocessable),
            ("put", {"key": "a", "value": 0.5}, Unprocessable),
            ("put", {"key": "a", "value": [[]] * 200}, Unprocessable),
            ("sub", {}, NotFound),
        ):
            with pytest.raises(error):
                client.call("machine_apply", "try", body={"operation": operation, "arguments": arguments})
        for read in (True, False):
            with pytest.raises(QueryTimeout):
                node.client(1.5).call(
                    "machine_query", "try", body={"query": "spin", "arguments": {"read": read}}
                )
        assert "RecursionError" in node.log_path.read_text()
        client.call("machine_apply", "try", body={"operation": "put", "arguments": {"key": "a", "value": 1}})
        node.kill()
        node.start()  # the same refusals, from the log
        body = {"query": "rows", "arguments": {}}
        assert node.client().call("machine_query", "try", body=body)["answer"] == [["a", 1]]
