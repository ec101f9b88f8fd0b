"""Counters of both clients."""

from __future__ import annotations

from typing import Any

import pytest

from cyoloctl.errors import InvalidInput, NotFound, Unavailable
from tests.cli.harness import counter
from tests.support.scripted import Ask, Serve, answers_in_turn, ask_fixture, first, serve_fixture

__all__ = ["ask_fixture", "serve_fixture"]

WATCH = ("GET", "/v1/counters/c/watch")


def line(value: int, index: int, epoch: int = 1) -> dict[str, Any]:
    return {**counter("c", value, index), "epoch": epoch}


def watched(ask: Ask, count: int, *nodes: Any, **options: Any) -> list[tuple[int, int]]:
    found = ask(lambda client: first(count, client.counters.watch("c", **options)), *nodes)
    return [(each["value"], each["index"]) for each in found]


def test_decr_subtracts_and_a_bad_amount_is_refused(serve: Serve, ask: Ask) -> None:
    node = serve({("POST", "/v1/counters/c/decrement"): counter("c", -3)})
    assert ask(lambda client: client.counters.decr("c", 3), node)["value"] == -3
    assert node.requests[0][2]["by"] == 3
    for by in (0, True, 2**63 + 1, 1.5):
        with pytest.raises(InvalidInput):
            ask(lambda client, by=by: client.counters.decr("c", by), node)
        with pytest.raises(InvalidInput):
            ask(lambda client, by=by: client.counters.incr("c", by), node)
    assert len(node.requests) == 1


def test_list_has_every_page(serve: Serve, ask: Ask) -> None:
    pages = answers_in_turn(
        {"counters": [counter("a", 1)], "next": "a"}, {"counters": [counter("b", 2)], "next": None}
    )
    node = serve({("GET", "/v1/counters"): pages})
    found = ask(lambda client: client.counters.list(stale=True), node)
    assert [each["name"] for each in found] == ["a", "b"]
    assert all("consistency=stale" in body["query"] for _, _, body in node.requests)
    assert "after=a" in node.requests[1][2]["query"]


def test_watch_goes_on_at_the_next_stream_without_what_is_old(serve: Serve, ask: Ask) -> None:
    streams = answers_in_turn(
        [line(1, 10), line(2, 12)],
        [line(1, 11), line(2, 20), line(3, 21)],  # of a node that lags at first
        [line(3, 30), line(5, 31)],
    )
    assert watched(ask, 4, serve({WATCH: streams})) == [(1, 10), (2, 12), (3, 21), (5, 31)]


def test_watch_after_the_history_began_again_is_newer_with_any_index(serve: Serve, ask: Ask) -> None:
    streams = answers_in_turn([line(7, 100)], [line(4, 5, epoch=2)], NotFound("only two are needed"))
    assert watched(ask, 2, serve({WATCH: streams})) == [(7, 100), (4, 5)]


def test_watch_without_patience_ends_with_its_stream(serve: Serve, ask: Ask) -> None:
    node = serve({WATCH: [line(1, 10)]})
    with pytest.raises(Unavailable, match="watch again"):
        watched(ask, 2, node, patience_s=0)
    assert len(node.requests) == 1


def test_watch_of_nothing_is_not_found_at_once(serve: Serve, ask: Ask) -> None:
    with pytest.raises(NotFound):
        watched(ask, 1, serve({WATCH: NotFound("there is no counter")}))
