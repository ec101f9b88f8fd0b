"""The audit log of real nodes: the same lines on all, through failures, and exports that prove it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, Node, assert_refused, run, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def page(node: Node, chain: str, **query: Any) -> dict[str, Any]:
    return node.client().call("audit_list", chain, query={"limit": 1000, **query})


def lines(node: Node, chain: str, operation: str = "") -> list[dict[str, Any]]:
    return [line for line in page(node, chain)["lines"] if line["operation"].startswith(operation)]


def wait_equal(*nodes: Node) -> None:
    """Both chains are the same on these nodes, as each has them itself."""

    def heads() -> set[tuple[str, ...]]:
        stale = {"consistency": "stale"}
        return {tuple(page(node, chain, **stale)["head"] for chain in ("trust", "data")) for node in nodes}

    wait_until("the same lines on every node", lambda: len(heads()) == 1)


def export(node: Node, path: Path, *options: str) -> None:
    node.json("audit", "export", "--append", "--out", path, *options)


def test_lines_are_the_same_on_every_node_and_outlive_the_leader(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.form(3)
        leader = cluster.wait_leader()
        first, second = (cluster[name] for name in cluster.followers())
        # By credentials, through a follower: what it says of the caller reaches the leader.
        operator = cluster.made("ann", "operator")
        over_tls = ("--credentials", operator, "-e", f"https://{first.address}")
        for arguments in (
            ("counter", "incr", "hits", "--request-id", "job-1"),
            ("kv", "put", "a/b", "the value that nobody sees"),
            ("credentials", "create", "--name", "eve", "--role", "viewer", "--out", tmp_path / "eve.yaml"),
            ("member", "set-host", second.name, "host-2"),
        ):
            done = run(*map(str, arguments), *map(str, over_tls))
            assert done.returncode == 0, done.stderr
        assert run("kv", "put", "a/b", "x", "--if-absent", *map(str, over_tls)).returncode == 4
        hash_of_ann = cluster["n1"].json("credentials", "show", "ann")["key_hash"]
        ann = [line for chain in ("trust", "data") for line in lines(second, chain) if line["who"] == "ann"]
        assert [(line["operation"], line["subject"], line["outcome"]) for line in ann] == [
            ("credentials.create", "eve", "done"),
            ("members.set_host", second.name, "done"),
            ("counter.add", "hits", "done"),
            ("kv.put", "a/b", "done"),
            ("kv.put", "a/b", "already_exists"),
        ]
        assert {(line["node"], line["address"], line["role"], line["credential"]) for line in ann} == {
            (first.name, "127.0.0.1", "operator", hash_of_ann[:32])
        }
        assert ann[2]["request_id"] == "job-1"
        assert "nobody sees" not in json.dumps([page(second, chain) for chain in ("trust", "data")])

        # What a follower passes to the leader keeps its origin; a repetition leaves nothing.
        done = first.cli("member", "demote", second.name, "--request-id", "job-2")
        assert done.returncode == 0, done.stderr
        moved = lines(first, "trust", "members.set_role")[-1]
        assert (moved["who"], moved["credential"], moved["address"], moved["node"]) == (
            *("unix-socket", "uid:0", "socket"),
            first.name,
        )
        assert first.cli("member", "promote", second.name).returncode == 0
        cluster.wait_settled(voters=3)
        count = page(first, "data")["last"]
        assert run("counter", "incr", "hits", "--request-id", "job-1", *map(str, over_tls)).returncode == 0
        assert page(first, "data")["last"] == count
        wait_equal(*cluster.nodes.values())

        # The leader dies, and comes back to what the others wrote meanwhile.
        before = lines(first, "data")
        cluster[leader].kill()
        wait_until("another leader", lambda: first.cli("counter", "incr", "later").returncode == 0)
        assert lines(first, "data")[: len(before)] == before
        cluster[leader].start()
        wait_equal(*cluster.nodes.values())
        assert first.cli("audit", "verify").returncode == 0


def test_node_that_comes_by_snapshot_has_every_line(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1").compacting(20)
        node.terminate()
        node.start()
        with node.client() as client:
            for number in range(200):
                client.counters.incr(f"c{number % 7}")
        assert (node.directory / "snapshot").exists()
        before = lines(node, "data", "counter.")
        assert len(before) == 200
        new = cluster.join("n2", through="n1")
        cluster.wait_settled(voters=2)
        wait_equal(node, new)
        assert lines(new, "data", "counter.") == before
        node.kill()
        node.start()
        wait_equal(node, new)


def test_export_proves_what_was_and_shows_what_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        node.cli("counter", "incr")
        export(node, path)
        node.cli("counter", "incr")
        viewer = ("--credentials", cluster.viewer(), "-e", f"https://{node.address}")
        refused = run(*map(str, ("audit", "export", "--append", "--out", path, *viewer)))
        assert_refused(refused, 77)
        assert "--no-acknowledge" in refused.stderr
        done = run(*map(str, ("audit", "export", "--append", "--no-acknowledge", "--out", path, *viewer)))
        assert done.returncode == 0, done.stderr
        assert run(*map(str, ("audit", "verify", path, "--cluster", *viewer))).returncode == 0
        assert page(node, "data")["exported_through"] == 1
        export(node, path)
        assert page(node, "data")["exported_through"] == 4

        snapshot = tmp_path / "earlier.snapshot"
        assert node.cli("snapshot", "save", snapshot).returncode == 0
        node.cli("counter", "incr")
        export(node, path)
        before = lines(node, "data")

        forged = tmp_path / "forged.jsonl"
        texts = path.read_text().splitlines(keepends=True)
        forged.write_text("".join(texts[:3]) + texts[3].replace('"outcome":"done"', '"outcome":"dome"'))
        wrong = run("audit", "verify", str(forged))
        assert_refused(wrong, 4)
        assert "line 4" in wrong.stderr

        # A cluster that went on from an older state: the export has what it lost.
        node.terminate()
        again = Cluster(tmp_path / "again")
        again.base.mkdir()
        cluster.nodes["again"] = other = again.init("m1", "--from-snapshot", str(snapshot))
        kept = lines(other, "data")
        assert kept == before[: len(kept)]
        replaced = lines(other, "trust", "history.replace")[-1]
        assert (replaced["who"], replaced["role"], replaced["epoch"]) == ("m1", "operator", 2)
        gone = other.cli("audit", "verify", path, "--cluster")
        assert_refused(gone, 4)
        assert "older state" in gone.stderr or "written anew" in gone.stderr
