"""Answers of a running node to every operation: as openapi.json says, with no field that it does not name."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.control import table
from cyoloctl.control.batch import MAX_OPERATIONS
from cyoloctl.pki.join_token import decode_token
from cyoloctl.pki.requests import make_credential_request
from tests.support.cluster import MACHINES, Cluster, Node, wait_until
from tests.support.connections import http_exchange, tls_connect, unix_connect
from tests.support.joining import join_body
from tests.support.openapi import answer_schema, assert_valid

pytestmark = pytest.mark.cluster


class Asker:
    """Asks a node, and holds each answer against the document."""

    def __init__(self, node: Node, connect: Callable[[], socket.socket] | None = None) -> None:
        self.node = node
        self.connect = connect or (lambda: unix_connect(node))
        self.answered: set[str] = set()

    def __call__(
        self,
        operation: str,
        name: str = "x",
        /,
        *,
        query: str = "",
        status: int = 200,
        given: dict[str, Any] | None = None,
        **body: Any,
    ) -> Any:
        """given: the body, where a field of it is called as one of these."""
        route, path = table.path_for(operation, name)
        data = json.dumps(given or body).encode() if route.body else None
        if "timeout_s" not in query:  # a busy machine needs more than the default
            query += "&timeout_s=30" if query else "timeout_s=30"
        answered, answer = http_exchange(self.connect(), route.method, f"{path}?{query}", data)
        assert answered == status, answer
        assert_valid(answer, answer_schema(route, status), strict=True)
        if status == 200:
            self.answered.add(operation)
        return answer


def _watch(ask: Asker) -> None:
    """The first line of a stream."""
    route, path = table.path_for("counter_watch", "orders")
    connection = http.client.HTTPConnection("localhost")
    connection.sock = unix_connect(ask.node)
    connection.request("GET", path)
    with connection.getresponse() as response:
        assert_valid(json.loads(response.readline()), answer_schema(route), strict=True)
        assert response.headers["Content-Type"] == "application/x-ndjson"
    connection.close()
    ask.answered.add("counter_watch")


def _counters(ask: Asker) -> None:
    for operation in ("counter_increment", "counter_decrement", "counter_reset"):
        ask(operation, "orders")
    _watch(ask)
    ask("counter_increment", "others", by=7.0, request_id="job-17")
    ask("counter_get", "orders")
    assert ask("counter_list", query="limit=1&timeout_s=30.000000000000004")["next"]
    ask("counter_list", query="consistency=stale")
    ask("counter_get", "nobody", status=404)
    ask("counter_increment", "orders", by=2**63 - 1)
    ask("counter_increment", "orders", status=422)


def _locks(ask: Asker) -> None:
    ask("lock_acquire", "nightly", holder="1" * 32, owner="app-1 7", ttl_s=60.5)
    mine = ask("lock_acquire", "nightly", holder="1" * 32)
    assert mine["acquired"] is True
    theirs = ask("lock_acquire", "nightly", holder="2" * 32, wait_s=0.2)
    assert (theirs["acquired"], theirs["token"]) == (False, mine["token"])
    ask("lock_keep", "nightly", token=mine["token"], ttl_s=1.0)
    ask("lock_keep", "nightly", token=mine["token"] + 1, status=409)
    ask("lock_get", "nightly")
    ask("lock_acquire", "x", holder="1" * 32)
    assert ask("lock_list", query="limit=1")["next"] == "nightly"
    ask("lock_break", "x", request_id="job-18")
    ask("lock_break", "y", status=404)
    assert ask("lock_release", "nightly", token=mine["token"])["released"] is True
    assert ask("lock_release", "nightly", token=mine["token"])["released"] is False
    ask("lock_get", "nightly", status=404)


def _keys_and_values(ask: Asker) -> None:
    made = ask("kv_put", key="a/b", value="x", ttl_s=60.5, request_id="job-19")
    ask("kv_put", key="a/b", value_base64="/w==", if_revision=made["revision"], fence=None)
    ask("kv_put", key="a/b", value="x", if_revision=made["revision"], status=409)
    ask("kv_put", key="a/b", value="x", fence="nightly=1", status=409)
    ask("kv_put", key="é" * 257, value="x", status=422)
    ask("kv_put", key="kept", value="x", ttl_s=60)
    ask("kv_keep", key="kept", ttl_s=90.0)
    assert "value" not in ask("kv_get", query="key=a%2Fb")
    ask("kv_get", query="key=a%2Fb&at_revision=9223372036854775807", status=409)
    ask("kv_get", query="key=none", status=404)
    assert ask("kv_list", query="limit=1")["next"] == "a/b"
    ask("kv_list", query="values=without")
    step = {"op": "put", "key": "c", "value": "x", "ttl_s": None}
    compare = {"key": "kept", "target": "version", "op": "=", "value": 1}
    assert ask("kv_txn", compare=[compare], then=[step, {"op": "delete", "key": "none"}])["succeeded"]
    ask("kv_txn", then=[step, step], status=422)
    changes = ask("kv_changes", query=f"from_revision={made['revision']}")["changes"]
    assert [each["type"] for each in changes] == ["put"] * 4
    ask("kv_delete", key="a/b")
    ask("kv_delete", key="a/b", status=404)
    assert ask("kv_put", key="s", value="x", sealed=True)["sealed"] is True
    ask("kv_put", key="s", value="x", status=409)
    compared = {"key": "s", "target": "value", "value": "x"}
    ask("kv_txn", compare=[compared], status=409)
    ask("kv_txn", compare=[compared, {**compared, "op": "<"}], status=400)
    assert ask("kv_txn", then=[{**step, "key": "s", "sealed": True}])["succeeded"]
    assert ask("kv_get", query="key=s")["sealed"] is True
    assert ask("kv_put", key="s", value="x", sealed=False)["sealed"] is False
    assert ask("kv_delete_prefix", prefix="")["deleted"] == 3


def _machines(ask: Asker) -> None:
    ask.node.wait_machine()
    ask("machine_list")
    ask("machine_apply", "hits", operation="add", arguments={"page": "/a"}, request_id="job-20")
    ask("machine_apply", "hits", operation="add", arguments={"page": "/a", "by": 0}, status=409)
    ask("machine_apply", "hits", operation="add", arguments={"page": 0.5}, status=422)
    ask("machine_apply", "hits", operation="sub", status=404)
    assert ask("machine_query", "hits", given={"query": "of", "arguments": {"page": "/a"}})["answer"] == 1
    ask("machine_query", "none", given={"query": "of"}, status=404)


def _batches(ask: Asker) -> None:
    operations = [
        {"id": "1", "op": "counter_increment", "name": "many"},
        {"id": 2, "op": "counter_get", "name": "nobody"},
        {"op": "counter_get"},
        7,
    ]
    results = ask("batch", operations=operations, request_id="job-21")["results"]
    assert [(each["id"], each["ok"]) for each in results] == [
        ("1", True),
        (2, False),
        (None, False),
        (None, False),
    ]
    ask("batch", operations=[], status=400)
    ask("batch", operations=[{}] * (MAX_OPERATIONS + 1), status=400)


def _audit(ask: Asker) -> None:
    page = ask("audit_list", "trust", query="start=2&limit=1")
    assert (page["lines"][0]["sequence"], page["next"]) == (2, 3)
    assert ask("audit_list", "data")["lines"]
    ask("audit_acknowledge", "trust", through=2, hash=page["lines"][0]["hash"], request_id="job-21")
    ask("audit_acknowledge", "trust", through=2, hash="0" * 64, status=409)


def _tokens(ask: Asker) -> None:
    made = ask("token_mint", sub="alice", claims={"mfa": True, "groups": ["a"]}, ttl_s=900.0, set_cookie=True)
    line, value = made["set_cookie"], made["set_cookie_value"]
    assert line == f"Set-Cookie: {value}"
    assert value.startswith(f"cyolo-sid={made['token']}; Path=/; ")
    assert "set_cookie" not in ask("token_mint", sub="bob")
    ask("token_inspect", cookie=f"a=b; {value.partition(';')[0]}")
    ask("token_inspect", token="no", status=401)
    ask("token_inspect", status=400)
    ask("token_refresh", token=made["token"], set_cookie=True)
    updated = ask("token_update", token=made["token"], set={"mfa": False}, unset=["groups"])
    tokens = [{"token": updated["token"]}, {"token": made["token"]}, {}, 7]
    for operation, items in {
        "mint": [{"sub": "alice", "ttl_s": 900.0}, {"sub": ""}, {"ttl_s": 1}, None],
        "inspect": tokens,
        "refresh": tokens,
        "update": [*tokens, {"token": updated["token"], "unset": [1]}],
    }.items():
        results = ask("token_batch", operation=operation, items=items)["results"]
        assert [each["valid"] for each in results] == [True] + [False] * (len(items) - 1)
    ask("token_revoke", sub="alice")
    ask("token_revoke", sid=made["sid"])
    assert ask("token_revocations", query="limit=1")["next"]
    ask("token_revocations")


def _rendezvous(ask: Asker) -> None:
    denied, cancelled, started = (ask("rendezvous_start", kind="mfa", data={"door": "1"}) for _ in range(3))
    ask("rendezvous_wait", id=started["id"], query="timeout_s=1", status=400)
    ask("rendezvous_show", started["user_code"])
    ask("rendezvous_claim", user_code=started["user_code"], by="alice")
    ask("rendezvous_show", started["id"])
    ask("rendezvous_approve", id=started["id"], by="alice", data={"level": "2"})
    ask("rendezvous_wait", id=started["id"])
    ask("rendezvous_deny", id=denied["id"])
    ask("rendezvous_wait", id=denied["id"], status=400)
    ask("rendezvous_cancel", id=cancelled["id"])
    ask("rendezvous_claim", user_code="BCDF-GHJK", status=404)
    ask("rendezvous_policy", kind="door", require={"mfa": True, "level": 2, "group": "a"})
    ask("rendezvous_policies")
    assert ask("rendezvous_list", query="limit=1")["next"]
    ask("rendezvous_list", query="state=denied")


def _keys(ask: Asker) -> None:
    primary = ask("key_list")["keys"][0]["key_id"]
    made = ask("key_generate")["key_id"]
    ask("key_promote", made)
    ask("key_disable", primary, force=True)
    ask("key_enable", primary)
    wait_until("all values under the new key", lambda: ask("key_status")["sealed_values"][primary] == 0)
    ask("key_destroy", primary, force=True)
    ask("key_rotate")
    ask("key_status")
    ask("key_rewrap")
    ask("key_set_policy", rotate_every_s=86_400, keep_s=86_400)
    ask("key_policy")
    ask("key_identity")
    ring = ask("key_export_ring", passphrase="twelve characters")["data"]
    ask("key_import_ring", data=ring, passphrase="twelve characters")
    ask("key_export_ring", status=400)


def _members(ask: Asker, cluster: Cluster, tmp_path: Path) -> None:
    invited = ask("member_invite", name="n2", learner=True)
    ask("member_invite", name="n3")
    ask("member_invitations")
    ask("member_uninvite", "n3")
    token = decode_token(invited["token"])
    cluster_id = ask("ca")["cluster_id"]
    ask("join", **join_body(token.secret, "n2", cluster_id, token.ca_sha256))
    ask("member_set_host", "n2", host="app-2.example.com")
    ask("member_list")
    ask("member_show", "n2")
    ask("member_show", "n1")
    ask("status")
    ask("route_share", host="app.example.com")
    ask("route_list")
    ask("pki_status")
    ask("pki_rotate", dry_run=True)
    ask("transfer_leadership", to="n1")
    ask("transfer_leadership", to="n1", dry_run=True)
    ask("member_demote", "n2", dry_run=True)
    ask("member_demote", "n1", status=409)
    ask("member_promote", "n1", dry_run=True)
    ask("member_promote", "n2", status=409)
    ask("member_set_address", "n2", address="app-2.example.com:7700")
    ask("member_remove", "n2", dry_run=True)
    ask("member_remove", "n1", status=409)
    ask("member_remove", "n2", force=True)
    learner = cluster.join("l1", through="n1", learner=True)
    learner.kill()
    request = tmp_path / "request"
    learner.json("node", "renew", "--request", request)
    asked = tmp_path / "asked"
    by_file = cluster.new_node("f1")
    by_file.json("node", "request", "--name", "f1", "--listen", by_file.address, "--out", asked)
    ask("member_grant", request=asked.read_text(), learner=True)
    ask("pki_grant", request=request.read_text())
    ask("pki_rotate", overlap_s=0)
    ask("pki_status")


def _credentials(ask: Asker, tmp_path: Path) -> None:
    request, key = make_credential_request("door", "gateway")
    made = ask("credential_create", name="door", role="gateway", request_pem=request)
    files = tmp_path / "door.crt", tmp_path / "door.key"
    for file, pem in zip(files, (made["certificate_pem"], key), strict=True):
        file.write_text(pem)
    # The control socket has no credentials to renew.
    door = Asker(ask.node, lambda: tls_connect(ask.node.port, alpn=["http/1.1"], certificate=files))
    door("credential_renew_own", request_pem=request)
    ask.answered |= door.answered
    ask("credential_list")
    ask("credential_show", "door")
    ask("credential_renew", "door", request_pem=request)
    ask("credential_revoke", "door")
    ask("credential_show", "nobody", status=404)


def test_every_answer_is_as_the_document_says_and_has_no_other_field(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        node.give_machine("hits:Hits", MACHINES / "hits.py").terminate()
        node.start()
        ask = Asker(node)
        ask("health")
        _machines(ask)
        _counters(ask)
        _locks(ask)
        _keys_and_values(ask)
        _batches(ask)
        _tokens(ask)
        _rendezvous(ask)
        _credentials(ask, tmp_path)
        _keys(ask)
        _members(ask, cluster, tmp_path)
        _audit(ask)
        begun = ask("snapshot_begin")
        assert ask("snapshot_part", begun["id"])["next"] is None
        ask("snapshot_part", begun["id"], status=404)
        ask("metrics")
        ask("set_time", dry_run=True)
        ask("cluster_upgrade")
        assert ask("reload")["applied"] == []
        yaml = node.directory / "node.yaml"
        yaml.write_text(yaml.read_text() + "nmae: n1\n")
        ask("reload", status=500)
        ask("stop")
    assert {route.operation for route in table.routes()} - ask.answered == {"openapi"}
