"""The state in a file while writes go on, and a new cluster that begins with it.  Real nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Node, Writers, assert_refused, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PHRASE = "a passphrase that is long"


def _new(cluster: Cluster, name: str, *options: object) -> Node:
    """Begin a cluster of one node beside the others, and start it."""
    node = cluster.new_node(name)
    made = node.cli("cluster", "init", "--name", name, "--listen", node.address, *options)
    assert made.returncode == 0, made.stderr
    node.start()
    return node


def test_snapshot_under_writes_begins_a_new_cluster(shared: Cluster, tmp_path: Path) -> None:
    n2 = shared["n2"]
    token = n2.cli("token", "mint", "--sub", "ann").stdout
    revoked = n2.cli("token", "mint", "--sub", "bob").stdout
    assert n2.cli("token", "revoke", "-", stdin=revoked).returncode == 0
    once = n2.json("counter", "incr", "once", "--request-id", "job-17")
    put = n2.json("kv", "put", "doors/1", "open")
    (tmp_path / "phrase").write_text(PHRASE)
    with_keys, without = tmp_path / "with", tmp_path / "without"
    with Writers(shared, counter="writes", threads=2) as writers:
        writers.wait_more(20)
        before = len(writers.acknowledged)
        saved = n2.json("snapshot", "save", with_keys, "--passphrase-file", tmp_path / "phrase")
        assert n2.json("snapshot", "save", without, "--stale")["key_ring"] is None
        writers.wait_more(20)
    assert_refused(n2.cli("snapshot", "save", with_keys), 4, "exists")
    found = n2.json("snapshot", "inspect", with_keys)
    assert (found["index"], found["epoch"], found["key_ring"]) == (saved["index"], 1, "passphrase")
    assert found["members"] == ["n1", "n2", "n3"]
    assert found["kv"]["keys"] >= 1
    assert found["kv"]["revision"] >= put["revision"]
    assert (found["locks"], found["machines"]) == (0, [])

    with Cluster(tmp_path) as other:
        m1 = _new(other, "m1", "--from-snapshot", with_keys, "--passphrase-file", tmp_path / "phrase")
        assert m1.json("counter", "get", "once")["value"] == once["value"]
        # A request id of then is remembered: nothing is applied twice across a restore.
        again = m1.json("counter", "incr", "once", "--request-id", "job-17")
        assert (again["value"], again["index"], again["epoch"]) == (once["value"], once["index"], 2)
        assert m1.client().counters.get("writes")["value"] >= before
        wait_until(
            "the keys of then being here",
            lambda: m1.cli("token", "inspect", "-", stdin=token).returncode == 0,
        )
        assert_refused(m1.cli("token", "inspect", "-", stdin=revoked), 77)
        assert not (m1.directory / "pki" / "restored-keys").exists()
        status = m1.json("status")
        assert [member["name"] for member in status["members"]] == ["m1"]
        assert (status["history"][0]["kind"], status["cluster"]["epoch"]) == ("restored", 2)
        # Nobody of the old cluster is anybody here, and the other way round.
        for ours, theirs in ((m1, shared["n1"]), (shared["n1"], m1)):
            stranger = ours.cli(
                "status",
                *("-e", f"https://{theirs.address}"),
                *("--credentials", ours.directory / "operator.yaml", "--timeout", "2"),
            )
            assert stranger.returncode in (69, 77), stranger.stderr
        other.join("m2", through="m1")
        other.wait_settled(voters=2)
        assert other["m2"].client().counters.get("once")["epoch"] == 2

        p1 = _new(other, "p1", "--from-snapshot", without)
        assert p1.json("counter", "get", "once")["value"] == once["value"]
        assert_refused(p1.cli("token", "inspect", "-", stdin=token), 77)
