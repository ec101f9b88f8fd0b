"""Sealed values on real nodes: on no disk and in no backup, through rotations, restores and repetitions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyoloctl.errors import Conflict
from tests.support.cluster import Cluster, Node, assert_refused, wait_until
from tests.support.tokens import wait_keys

pytestmark = pytest.mark.cluster

SECRETS = {
    name: f"{name} that nobody else uses, of some length"
    for name in ("first", "second", "in a transaction", "refused", "compared", "repeated otherwise")
}
CLEAR = "a value that everybody may read, of some length"


def _spellings(text: str) -> Iterator[bytes]:
    """As it is, in hexadecimal, and in base64 at each offset."""
    data = text.encode()
    yield from (data, data.hex().encode())
    for shift in range(3):
        inner = base64.b64encode(b"\0" * shift + data)[4:-4]
        yield from (inner, inner.replace(b"+", b"-").replace(b"/", b"_"))


def _holding(places: dict[str, bytes], text: str) -> list[str]:
    spellings = list(_spellings(text))
    return [place for place, data in places.items() if any(spelling in data for spelling in spellings)]


def _files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _values_under(node: Node) -> dict[str, int]:
    values: dict[str, int] = node.client().call("key_status")["sealed_values"]
    return values


def _write(node: Node) -> None:
    """All that a caller can say about secrets, right and wrong."""
    put = ("kv", "put", "s/one", "-", "--sealed")
    assert node.cli(*put, stdin=SECRETS["first"]).returncode == 0
    assert node.cli(*put, "--request-id", "sealed-1", stdin=SECRETS["second"]).returncode == 0
    again = node.cli(*put, "--request-id", "sealed-1", stdin=SECRETS["repeated otherwise"])
    assert_refused(again, 4, "request id")
    refused = node.cli("kv", "put", "s/one", "-", stdin=SECRETS["refused"])
    assert_refused(refused, 4, "--sealed or --no-sealed")
    assert node.cli("kv", "put", "clear", "-", stdin=CLEAR).returncode == 0
    change = {"then": [{"op": "put", "key": "s/two", "value": SECRETS["in a transaction"], "sealed": True}]}
    assert node.cli("kv", "txn", "-", stdin=json.dumps(change)).returncode == 0
    compare = {"key": "s/two", "target": "value", "value": SECRETS["compared"]}
    assert_refused(
        node.cli("kv", "txn", "-", stdin=json.dumps({"compare": [compare]})), 4, "cannot be compared"
    )


def test_sealed_value_is_on_no_disk_and_in_no_backup(stopped: Cluster, tmp_path: Path) -> None:
    for node in stopped.nodes.values():
        node.log_level = "debug"
        node.compacting(40)
    stopped.start_all()
    stopped.wait_healthy()
    wait_keys(stopped)
    _write(stopped["n2"])
    assert stopped["n3"].cli("kv", "get", "s/one").stdout == SECRETS["second"]
    places = {f"early {name}": data for name, data in _files(tmp_path).items()}
    for _ in range(45):  # every node makes a snapshot of its own
        stopped["n1"].client().counters.incr("default", 1)
    for name, node in stopped.nodes.items():
        assert node.cli("snapshot", "save", tmp_path / f"{name}.backup").returncode == 0
        wait_until(f"a snapshot of {name}", lambda node=node: any(node.directory.glob("snapshot*")))  # type: ignore[misc]
    stopped.stop_all()
    places |= _files(tmp_path)
    assert [what for what, secret in SECRETS.items() if _holding(places, secret)] == []
    # Whoever looks for what is not sealed finds it in all of these: in journals, snapshots and backups.
    found = " ".join(_holding(places, CLEAR))
    for name in stopped.nodes:
        for kind in (f"/{name}/raft.db", f"/{name}/snapshot", f"/{name}.backup"):
            assert kind in found, kind


def test_values_are_sealed_again_when_the_ring_rotates_and_nobody_is_told(cluster: Cluster) -> None:
    old = wait_keys(cluster)
    one = cluster["n1"]
    revisions = [
        one.client().call("kv_put", body={"key": f"s/{n % 70}", "value": f"v{n}", "sealed": True})["revision"]
        for n in range(90)
    ]
    assert _values_under(one)[old] == 90
    new = cluster["n2"].client(60.0).call("key_rotate")["key_id"]
    for node in cluster.nodes.values():
        wait_until("all under the new key", lambda node=node: _values_under(node) == {old: 0, new: 90})  # type: ignore[misc]
    # The leader that does it dies, another goes on: the ring holds one key more.
    one.client(60.0).call("key_rotate")
    cluster[cluster.wait_leader()].kill()
    node = next(iter(cluster.running()))
    wait_until("all under the third key", lambda: sorted(_values_under(node).values()) == [0, 0, 90])
    for name in cluster.nodes:
        if not cluster[name].running():
            cluster[name].start()
    cluster.wait_healthy()
    destroyed = node.cli("key", "destroy", old, "--force", "--yes")
    assert destroyed.returncode == 0, destroyed.stderr
    for node in cluster.nodes.values():
        assert node.cli("kv", "get", "s/5", "--at-revision", revisions[5]).stdout == "v5"
        assert node.cli("kv", "get", "s/5").stdout == "v75"
        page = node.client().call("kv_changes", query={"prefix": "s/", "from_revision": revisions[0]})
        seen = [(change["revision"], change["value"], change["sealed"]) for change in page["changes"]]
        assert seen == [(revision, f"v{n}", True) for n, revision in enumerate(revisions)]


def test_repetition_after_a_rotation_is_told_of_the_first_attempt(shared: Cluster) -> None:
    wait_keys(shared)
    client = shared["n1"].client(60.0)
    put = {"key": "sealed/again", "value": "one", "sealed": True, "request_id": "sealed-again"}
    step = {"op": "put", "key": "sealed/txn", "value": "one", "sealed": True}
    txn = {"then": [step], "request_id": "sealed-txn"}
    plain = {"key": "sealed/later", "value": "one", "request_id": "sealed-later"}
    first = (
        client.call("kv_put", body=put),
        client.call("kv_txn", body=txn),
        client.call("kv_put", body=plain),
    )
    client.call("key_rotate")
    # Another node is asked, and the key was sealed since.
    client.call("kv_put", body={"key": "sealed/later", "value": "two", "sealed": True})
    client = shared["n2"].client(60.0)
    again = (
        client.call("kv_put", body=put),
        client.call("kv_txn", body=txn),
        client.call("kv_put", body=plain),
    )
    assert again == first
    for call, body in (
        ("kv_put", {**put, "value": "two"}),
        ("kv_put", {**put, "sealed": False}),
        ("kv_txn", {**txn, "then": [{**step, "value": "two"}]}),
        ("kv_put", {**plain, "value": "two"}),
    ):
        with pytest.raises(Conflict):
            client.call(call, body=body)
    assert client.call("kv_get", query={"key": "sealed/later"})["value"] == "two"
    client.call("kv_delete_prefix", body={"prefix": "sealed/"})


def test_new_cluster_opens_values_of_a_backup_once_it_has_their_keys(shared: Cluster, tmp_path: Path) -> None:
    old, (backup, phrase, ring) = shared["n1"], (tmp_path / name for name in ("backup", "phrase", "ring"))
    phrase.write_text("a passphrase that is long")
    wait_keys(shared)
    put = {"key": "sealed/kept", "value": "kept", "sealed": True}
    old.client().call("kv_put", body=put)
    old.json("snapshot", "save", backup)
    exported = old.cli("key", "export", "--passphrase-file", phrase, "--out", ring)
    assert exported.returncode == 0, exported.stderr
    old.client().call("kv_delete", body={"key": "sealed/kept"})
    with Cluster(tmp_path) as other:
        node = other.new_node("m1")
        place = ("--name", "m1", "--listen", node.address)
        made = node.cli("cluster", "init", *place, "--from-snapshot", backup)
        assert made.returncode == 0, made.stderr
        node.start()
        wait_keys(other)
        for command in (("kv", "get", "sealed/kept"), ("kv", "list", "sealed/", "-o", "json")):
            assert_refused(node.cli(*command), 4, "which this cluster does not have", "cyoloctl key import")
        listed = node.json("kv", "list", "sealed/", "--keys-only")["entries"]
        assert [(entry["key"], entry["size"], entry["sealed"]) for entry in listed] == [
            ("sealed/kept", 4, True)
        ]
        imported = node.cli("key", "import", ring, "--passphrase-file", phrase, "--adopt")
        assert imported.returncode == 0, imported.stderr
        assert node.cli("kv", "get", "sealed/kept").stdout == "kept"
        primary = wait_keys(other)
        wait_until("it sealed under its own key", lambda: _values_under(node)[primary] >= 1)
        assert node.cli("kv", "get", "sealed/kept").stdout == "kept"
