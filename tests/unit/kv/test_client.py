"""Keys and values of both clients."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qs

import pytest

from cyoloctl.errors import Compacted, InvalidInput, NoLeader, Unavailable, UsageError
from tests.support.scripted import Ask, Lose, Serve, answers_in_turn, ask_fixture, first, serve_fixture

__all__ = ["ask_fixture", "serve_fixture"]

GET, PUT, LIST, CHANGES = (
    ("GET", "/v1/kv"),
    ("POST", "/v1/kv/put"),
    ("GET", "/v1/kv/list"),
    ("GET", "/v1/kv/changes"),
)
BYTES = b"\x00\xffany bytes"


def entry(key: str, value: bytes = b"v", revision: int = 5) -> dict[str, Any]:
    return {
        "key": key,
        "value_base64": base64.b64encode(value).decode(),
        "size": len(value),
        "revision": revision,
        "created_revision": 3,
        "version": 2,
        "expires_at": None,
        "index": 9,
        "epoch": 1,
        "request_id": "r",
    }


def change(key: str, revision: int, value: bytes | None = b"v") -> dict[str, Any]:
    if value is None:
        return {"type": "delete", "key": key, "revision": revision}
    return {"type": "put", **entry(key, value, revision)}


def page(next_revision: int, *changes: dict[str, Any]) -> dict[str, Any]:
    return {"changes": list(changes), "next_revision": next_revision, "index": 9, "epoch": 1}


def asked(node: Any, field: str) -> list[str | None]:
    return [parse_qs(body["query"]).get(field, [None])[0] for _, _, body in node.requests]


def test_values_are_bytes_in_both_directions(serve: Serve, ask: Ask) -> None:
    node = serve({GET: entry("k", BYTES), PUT: entry("k", BYTES)})
    assert ask(lambda client: client.kv.get("k"), node)["value"] == BYTES
    assert ask(lambda client: client.kv.put("k", BYTES, ttl_s=5, fence="job=3"), node)["value"] == BYTES
    sent = node.requests[1][2]
    assert base64.b64decode(sent["value_base64"]) == BYTES
    assert (sent["ttl_s"], sent["fence"], sent["if_revision"]) == (5, "job=3", None)
    ask(lambda client: client.kv.put("k", "Zürich", if_absent=True), node)
    sent = node.requests[2][2]
    assert (base64.b64decode(sent["value_base64"]).decode(), sent["if_revision"]) == ("Zürich", 0)


def test_what_is_out_of_range_sends_nothing(serve: Serve, ask: Ask) -> None:
    node = serve({})
    for do, error in (
        (lambda client: client.kv.get(""), InvalidInput),
        (lambda client: client.kv.put("k", 5), InvalidInput),
        (lambda client: client.kv.put("k", b"", fence="job"), InvalidInput),
        (lambda client: client.kv.put("k", b"", if_absent=True, if_revision=1), UsageError),
        (lambda client: client.kv.list("\n"), InvalidInput),
    ):
        with pytest.raises(error):
            ask(do, node)
    assert node.requests == []


def test_list_reads_all_pages_at_one_revision(serve: Serve, ask: Ask) -> None:
    first_page = {"entries": [entry("a")], "next": "a", "revision": 41, "index": 9, "epoch": 1}
    node = serve({LIST: answers_in_turn(first_page, {**first_page, "entries": [entry("b")], "next": None})})
    found = ask(lambda client: client.kv.list("", stale=True), node)
    assert ([each["key"] for each in found["entries"]], found["revision"]) == (["a", "b"], 41)
    assert asked(node, "at_revision") == [None, "41"]
    assert asked(node, "after") == [None, "a"]


def test_watch_goes_on_from_its_revision_whatever_happens_between(serve: Serve, ask: Ask) -> None:
    pages = answers_in_turn(
        page(7, change("a", 5), change("b", 6, None)),
        Lose,
        NoLeader("none"),
        page(7),
        page(9, change("c", 8, BYTES)),
    )
    node = serve({CHANGES: pages})
    found = ask(lambda client: first(3, client.kv.watch("", from_revision=5)), node)
    assert [(each["key"], each["revision"], each["value"]) for each in found] == [
        ("a", 5, b"v"),
        ("b", 6, None),
        ("c", 8, BYTES),
    ]
    assert asked(node, "from_revision") == ["5", "7", "7", "7", "7"]


def test_watch_moves_to_the_next_endpoint(serve: Serve, ask: Ask) -> None:
    sick = serve({CHANGES: answers_in_turn(page(6, change("a", 5)), Lose)})
    sound = serve({CHANGES: answers_in_turn(page(7, change("b", 6)))})
    found = ask(lambda client: first(2, client.kv.watch()), sick, sound)
    assert [each["revision"] for each in found] == [5, 6]
    assert asked(sound, "from_revision") == ["6"]


def test_watch_of_what_is_forgotten_is_compacted(serve: Serve, ask: Ask) -> None:
    node = serve({CHANGES: answers_in_turn(page(7, change("a", 5)), Compacted("from 812 on all is known"))})
    with pytest.raises(Compacted, match="812"):
        ask(lambda client: first(2, client.kv.watch()), node)


def test_watch_that_nobody_answers_ends_with_its_patience(serve: Serve, ask: Ask) -> None:
    node = serve({CHANGES: NoLeader("there is no leader")})
    with pytest.raises(Unavailable, match=r"nobody answered for 0.3s: there is no leader"):
        ask(lambda client: first(1, client.kv.watch(patience_s=0.3)), node)
    assert len(node.requests) > 1


def test_transaction_takes_bytes(serve: Serve, ask: Ask) -> None:
    done = {"succeeded": True, "revision": 9, "results": [], "index": 9, "epoch": 1, "request_id": "r"}
    node = serve({("POST", "/v1/kv/txn"): done})
    compare = [{"key": "a", "target": "value", "op": "=", "value": BYTES}]
    then = [{"op": "put", "key": "a", "value": b"2"}, {"op": "delete", "key": "b"}]
    assert ask(lambda client: client.kv.txn(compare=compare, then=then), node)["succeeded"] is True
    sent = node.requests[0][2]
    assert base64.b64decode(sent["compare"][0]["value_base64"]) == BYTES
    assert sent["then"][0] == {"op": "put", "key": "a", "value_base64": "Mg=="}
    assert compare[0]["value"] == BYTES


def test_prefix_is_deleted_in_parts_under_ids_made_from_one(serve: Serve, ask: Ask) -> None:
    part = {"prefix": "a/", "deleted": 1000, "more": True, "revision": 9, "request_id": "job"}
    last = {**part, "deleted": 7, "more": False, "request_id": "job-1"}
    node = serve({("POST", "/v1/kv/delete-prefix"): answers_in_turn(Lose, part, last)})
    done = ask(lambda client: client.kv.delete_prefix("a/", request_id="job"), node)
    assert (done["deleted"], done["request_id"]) == (1007, "job")
    assert [body["request_id"] for _, _, body in node.requests] == ["job", "job", "job-1"]
