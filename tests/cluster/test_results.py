"""Results that got lost on their way to the user, asked for again at real nodes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from cyoloctl.control import table
from cyoloctl.errors import Conflict
from cyoloctl.model import Address
from cyoloctl.pki.join_token import decode_token
from cyoloctl.pki.requests import encode_request, make_request, sign_request
from cyoloctl.text import Json
from tests.support.cluster import LIMIT_S, MACHINES, Cluster, Node, assert_refused, environment, wait_until
from tests.support.tokens import call, wait_keys

pytestmark = pytest.mark.cluster


@pytest.fixture
def nodes(shared: Cluster) -> list[Node]:
    """Three running nodes."""
    wait_keys(shared)
    return [shared["n1"], shared["n2"], shared["n3"]]


def call_get(node: Node, operation: str, name: str = "") -> dict[str, Any]:
    return node.client(10.0).call(operation, name)


def lose(node: Node, *arguments: str, stdin: str = "") -> str:
    """Run a command whose result ends in a full device: the request id that it names."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cyoloctl", *arguments, "-d", str(node.directory)],
            input=stdin,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            timeout=LIMIT_S,
            check=False,
        )
    assert done.returncode == 74, done.stderr
    found = re.search(r"--request-id (\S+) gives the result again", done.stderr)
    assert found is not None, done.stderr
    return found[1]


def again(node: Node, *arguments: str, stdin: str = "") -> dict[str, Any]:
    """The result of the same command, through whichever node."""
    done = subprocess.run(
        [sys.executable, "-m", "cyoloctl", *arguments, "-d", str(node.directory), "-o", "json"],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_answer_of_a_rendezvous_that_met_a_full_device_is_given_again_to_its_request_id_alone(
    nodes: list[Node],
) -> None:
    first, second, third = nodes
    id = call(first, "rendezvous_start", kind="mfa")["id"]
    call(second, "rendezvous_approve", id=id, by="ann", data={"role": "admin"})
    request_id = lose(first, "rendezvous", "wait", "-", stdin=id)
    found = again(third, "rendezvous", "wait", "-", "--request-id", request_id, stdin=id)
    assert (found["state"], found["data"]) == ("consumed", {"role": "admin"})
    with pytest.raises(Conflict):
        call(second, "rendezvous_wait", id=id, request_id="somebody-else")


def test_session_whose_update_met_a_full_device_is_not_lost(nodes: list[Node]) -> None:
    first, second, third = nodes
    token = call(first, "token_mint", sub="alice")["token"]
    request_id = lose(first, "token", "update", "-", "--set", "mfa=true", stdin=token)
    with pytest.raises(Conflict, match="request id"):
        call(second, "token_update", token=token, set={"admin": True}, request_id=request_id)
    update = ("token", "update", "-", "--set", "mfa=true", "--request-id", request_id)
    found = again(second, *update, stdin=token)
    assert (found["gen"], found["claims"]) == (2, {"mfa": True})
    assert call(third, "token_inspect", token=found["token"])["gen"] == 2


def test_sessions_whose_batch_of_updates_met_a_full_device_are_not_lost(nodes: list[Node]) -> None:
    first, second, third = nodes
    tokens = [call(first, "token_mint", sub=f"user-{number}")["token"] for number in range(3)]
    lines = "".join(json.dumps({"token": token, "set": {"n": 1}}) + "\n" for token in tokens)
    request_id = lose(first, "token", "update", "--batch", stdin=lines)
    done = second.cli("token", "update", "--batch", "--request-id", request_id, stdin=lines)
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert [item["gen"] for item in made] == [2, 2, 2]
    assert [call(third, "token_inspect", token=item["token"])["claims"] for item in made] == [{"n": 1}] * 3


# --- every write, by the table of routes ----------------------------------------------------------


WITHOUT_REQUEST_ID = {
    "lock_acquire": "the holder is the id: it has the lock once",
    "lock_keep": "the token is the id: the end is only moved later",
    "lock_release": "the token is the id: it holds the lock once",
    "join": "the token is the id: the same request gets the same grant",
    "pki_grant": "writes nothing: it signs a key that the cluster knows",
    "reload": "is about one node, and twice is as good as once",
    "stop": "is about one node, not about the cluster",
}


def test_every_write_of_the_api_takes_a_request_id() -> None:
    lacking = {
        route.operation for route in table.routes() if route.write and "request_id" not in route.body_fields
    }
    assert lacking == WITHOUT_REQUEST_ID.keys()


def _writes(cluster: Cluster) -> dict[str, tuple[str, str, Json]]:
    """What is asked, by request id: operation, name, body.  In the order in which it is asked."""
    primary = wait_keys(cluster)
    node = cluster["n1"]
    token = call(node, "token_mint", sub="alice")["token"]
    items = [{"token": call(node, "token_mint", sub=sub)["token"], "set": {"a": 1}} for sub in ("b", "c")]
    begun = {kind: call(node, "rendezvous_start", kind=kind)["id"] for kind in ("a", "d", "c", "w", "l")}
    call(node, "rendezvous_approve", id=begun["w"], by="ann", data={"role": "admin"})
    call(node, "lock_acquire", "taken", holder="1" * 32, ttl_s=3600.0)
    line = call_get(node, "audit_list", "trust")["lines"][-1]
    ring = call(node, "key_export_ring", passphrase="correct horse battery")["data"]
    return {
        "add": ("counter_increment", "x", {"by": 5}),
        "sub": ("counter_decrement", "x", {"by": 2}),
        "reset": ("counter_reset", "y", {}),
        "generate": ("key_generate", "", {}),
        "rotate": ("key_rotate", "", {}),
        "disable": ("key_disable", primary, {"force": True}),
        "enable": ("key_enable", primary, {}),
        "rewrap": ("key_rewrap", "", {}),
        "policy": ("key_set_policy", "", {"rotate_every_s": None, "keep_s": 500_000}),
        "import": ("key_import_ring", "", {"data": ring, "passphrase": "correct horse battery"}),
        "update": ("token_update", "", {"token": token, "set": {"mfa": True}}),
        "batch": ("token_batch", "", {"operation": "update", "items": items}),
        "revoke": ("token_revoke", "", {"sub": "mallory"}),
        "start": ("rendezvous_start", "", {"kind": "mfa"}),
        "claim": ("rendezvous_claim", "", {"id": begun["l"], "by": "ann"}),
        "approve": ("rendezvous_approve", "", {"id": begun["a"], "by": "ann"}),
        "deny": ("rendezvous_deny", "", {"id": begun["d"], "by": "ann"}),
        "cancel": ("rendezvous_cancel", "", {"id": begun["c"]}),
        "wait": ("rendezvous_wait", "", {"id": begun["w"]}),
        "rule": ("rendezvous_policy", "", {"kind": "mfa", "require": {"mfa": True}}),
        "share": ("route_share", "", {"host": "app.example.com", "shared": True}),
        "host": ("member_set_host", "n2", {"host": "app-2.example.com"}),
        "invite": ("member_invite", "", {"name": "n8"}),
        "grant": (
            "member_grant",
            "",
            {"request": encode_request(sign_request(make_request("n7"), Address("h", 1)))},
        ),
        "withdrawn": ("member_invite", "", {"name": "n9"}),
        "uninvite": ("member_uninvite", "n9", {}),
        "put": ("kv_put", "", {"key": "k", "value": "v", "if_revision": 0}),
        "sealed": ("kv_put", "", {"key": "s", "value": "v", "sealed": True}),
        "ended": ("kv_put", "", {"key": "e", "value": "v", "ttl_s": 3600.0}),
        "keep": ("kv_keep", "", {"key": "e", "ttl_s": 7200.0}),
        "txn": ("kv_txn", "", {"then": [{"op": "put", "key": "p/1", "value": "v"}]}),
        "prefix": ("kv_delete_prefix", "", {"prefix": "p/"}),
        "delete": ("kv_delete", "", {"key": "k"}),
        "own": ("machine_apply", "hits", {"operation": "add", "arguments": {"page": "/a"}}),
        "break": ("lock_break", "taken", {}),
        "many": ("batch", "", {"operations": [{"id": 1, "op": "counter_increment", "name": "z"}]}),
        "exported": ("audit_acknowledge", "trust", {"through": line["sequence"], "hash": line["hash"]}),
    }


# What may differ in a repetition: tokens are sealed again, times to wait run on, and other writes came since.
_VARIES = {"token", "expires_in", "holders", "missing", "keys", "key_id", "promoted_at", "retired_at"}


def _told(operation: str, answer: Json) -> Json:
    varies = _VARIES - {"key_id"} if operation.startswith("key_") else _VARIES
    told = {name: value for name, value in answer.items() if name not in varies}
    if operation == "token_batch":
        told["results"] = [_told("", item) for item in answer["results"]]
    if operation == "member_invite":  # the token names the asked node first
        told["secret"] = decode_token(answer["token"]).secret
    if operation == "member_grant":  # sealed again, to the same node
        del told["grant"]
    return told


def test_every_write_repeated_under_its_request_id_is_told_the_first_answer_whoever_died_since(
    stopped: Cluster,
) -> None:
    cluster = stopped
    for node in cluster.nodes.values():
        node.give_machine("hits:Hits", MACHINES / "hits.py")
    cluster.start_all()
    cluster.wait_healthy()
    cluster["n1"].wait_machine()
    writes = _writes(cluster)
    operations = {operation for operation, _, _ in writes.values()}

    def ask(node: Node, request_id: str) -> Json:
        operation, name, body = writes[request_id]
        answer = call(node, operation, name, timeout_s=20.0, **body, request_id=f"job-{request_id}")
        return _told(operation, answer)

    first = {request_id: ask(cluster["n1"], request_id) for request_id in writes}
    invitations = call_get(cluster["n1"], "member_invitations")
    assert [row["name"] for row in invitations["invitations"]] == ["n7", "n8"]
    keys = [row["key_id"] for row in call_get(cluster["n1"], "key_list")["keys"]]
    leader = cluster.wait_leader()
    cluster[leader].kill()
    left = [node for name, node in cluster.nodes.items() if name != leader]
    wait_until("another leader", lambda: left[0].client().call("counter_get", "x"))
    for number, request_id in enumerate(writes):
        assert ask(left[number % 2], request_id) == first[request_id], request_id
    cluster[leader].start()
    cluster.wait_healthy()
    for node in cluster.nodes.values():
        assert call_get(node, "counter_get", "x")["value"] == 3
        assert [row["key_id"] for row in call_get(node, "key_list")["keys"]] == keys
        assert call_get(node, "member_invitations") == invitations
    # The rest of the table is of what moves the cluster itself, below, and of other modules.
    elsewhere = {
        "key_promote", "key_destroy", "member_remove", "transfer_leadership", "pki_rotate", "set_time",
        "cluster_upgrade",
        "member_promote", "member_demote", "member_set_address",
        "credential_create", "credential_renew", "credential_renew_own", "credential_revoke",
    }  # fmt: skip
    every = {route.operation for route in table.routes() if "request_id" in route.body_fields}
    assert every == operations | elsewhere
    _assert_another_command_is_refused(cluster, writes)


def _assert_another_command_is_refused(cluster: Cluster, writes: dict[str, tuple[str, str, Json]]) -> None:
    ids = [f"job-{request_id}" for request_id, (operation, _, _) in writes.items()]
    # These are remembered under an id that follows from theirs: theirs is a secret, or that of many.
    hidden = {
        f"job-{request_id}" for request_id in ("start", "wait", "batch", "many", "invite", "withdrawn", "add")
    }
    for request_id in sorted(set(ids) - hidden):
        with pytest.raises(Conflict, match="request id"):
            call(cluster["n1"], "counter_increment", "x", by=5, request_id=request_id)


def test_moves_of_the_cluster_repeated_under_their_request_id_happen_once(cluster: Cluster) -> None:
    wait_keys(cluster)
    leader = cluster.wait_leader()
    other = next(node for name, node in cluster.nodes.items() if name != leader)
    moved = call(other, "transfer_leadership", timeout_s=20.0, request_id="move")
    assert moved["previous"] == leader != moved["leader"]
    assert call(cluster[leader], "transfer_leadership", timeout_s=20.0, request_id="move") == moved
    assert cluster.wait_leader() == moved["leader"]
    rotated = call(other, "pki_rotate", timeout_s=20.0, overlap_s=3600, request_id="ca")
    assert (
        call(cluster[leader], "pki_rotate", timeout_s=20.0, overlap_s=3600, request_id="ca")["sha256"]
        == rotated["sha256"]
    )
    with pytest.raises(Conflict, match="under way"):
        call(other, "pki_rotate", overlap_s=3600, request_id="another")
    gone = call(other, "member_remove", leader, timeout_s=20.0, request_id="gone")
    assert call(other, "member_remove", leader, timeout_s=20.0, request_id="gone") == gone
    with pytest.raises(Conflict, match="request id"):
        call(other, "member_remove", leader, force=True, request_id="gone")


def test_rotation_under_one_request_id_rotates_once_and_says_when_its_key_is_primary_no_more(
    nodes: list[Node],
) -> None:
    first, second, third = nodes
    weekly = first.cli("key", "rotate", "--request-id", "weekly")
    assert weekly.returncode == 0, weekly.stderr
    assert second.cli("key", "rotate", "--request-id", "weekly").stdout == weekly.stdout
    by_hand = third.cli("key", "rotate").stdout.strip()
    assert_refused(first.cli("key", "rotate", "--request-id", "weekly"), 4, by_hand, "new request id")
    assert call_get(second, "key_status")["primary"] == by_hand
    assert first.cli("key", "promote", weekly.stdout.strip()).returncode == 0
    assert first.cli("key", "rotate", "--request-id", "weekly").stdout == weekly.stdout
