"""What is asked again, where, and what is known in the end: the same for both clients."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cyoloctl.errors import (
    AccessDenied,
    ClientTimeout,
    Compacted,
    Conflict,
    CounterOverflow,
    CyoloctlError,
    InvalidInput,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    SlowDown,
    Unavailable,
    Unreachable,
)
from tests.cli.harness import counter
from tests.support.scripted import Ask, Lose, Serve, answers_in_turn, ask_fixture, serve_fixture

__all__ = ["ask_fixture", "serve_fixture"]

INCREMENT = ("POST", "/v1/counters/c/increment")
GET = ("GET", "/v1/counters/c")
ONE = counter("c", 1)


def incr(client: Any) -> Any:
    return client.counters.incr("c")


def get(client: Any) -> Any:
    return client.counters.get("c")


def ids(*endpoints: Any) -> list[str]:
    return [body["request_id"] for each in endpoints for _, _, body in each.requests]


@pytest.mark.parametrize(
    "failure", [Lose, OutcomeUnknown("who knows"), NoLeader("none"), Overloaded("full"), Unavailable("no")]
)
def test_write_is_repeated_under_its_id_until_it_is_answered(serve: Serve, ask: Ask, failure: Any) -> None:
    node = serve({INCREMENT: answers_in_turn(failure, failure, ONE)})
    assert ask(incr, node)["value"] == 1
    assert len(node.requests) == 3
    assert len(set(ids(node))) == 1


def test_repetition_moves_to_the_next_endpoint(serve: Serve, ask: Ask) -> None:
    lost, sound = serve({INCREMENT: answers_in_turn(Lose)}), serve({INCREMENT: ONE})
    assert ask(incr, lost, sound)["value"] == 1
    assert (len(lost.requests), len(sound.requests)) == (1, 1)
    assert len(set(ids(lost, sound))) == 1


def test_endpoint_that_is_down_is_passed_over(serve: Serve, ask: Ask) -> None:
    sound = serve({INCREMENT: ONE})
    assert ask(incr, "unix:///nowhere/control.sock", sound)["value"] == 1


def test_all_that_are_down_are_tried_until_the_time_is_over(ask: Ask) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable):
        ask(incr, "unix:///nowhere/control.sock", timeout_s=0.5)
    assert time.monotonic() - began > 0.25


def test_node_that_comes_up_meanwhile_is_found(serve: Serve, ask: Ask) -> None:
    node = serve({INCREMENT: ONE})
    socket = node.directory / "control.sock"
    aside = socket.rename(socket.with_name("aside"))

    def and_meanwhile(body: dict[str, Any]) -> Any:
        if aside.exists():
            aside.rename(socket)
        return NoLeader("none")

    other = serve({INCREMENT: and_meanwhile})
    assert ask(incr, node, other)["value"] == 1
    assert len(set(ids(node, other))) == 1


def test_lost_answer_that_nobody_settles_is_unknown_with_the_id(serve: Serve, ask: Ask) -> None:
    lost = serve({INCREMENT: answers_in_turn(Lose)})
    with pytest.raises(OutcomeUnknown) as caught:
        ask(incr, lost, timeout_s=0.5)
    assert len(lost.requests) > 1
    assert {caught.value.request_id} == set(ids(lost))


def test_unavailable_after_a_lost_answer_stays_unknown(serve: Serve, ask: Ask) -> None:
    node = serve({INCREMENT: answers_in_turn(Lose, NoLeader("none"))})
    with pytest.raises(OutcomeUnknown):
        ask(incr, node, timeout_s=0.5)


def test_no_leader_until_the_end_is_not_applied(serve: Serve, ask: Ask) -> None:
    node = serve({INCREMENT: NoLeader("none")})
    with pytest.raises(NoLeader):
        ask(incr, node, timeout_s=0.5)
    assert len(set(ids(node))) == 1


@pytest.mark.parametrize(
    "refusal", [CounterOverflow("no"), Conflict("no"), InvalidInput("no"), SlowDown("no"), AccessDenied("no")]
)
def test_refusal_is_the_answer_and_is_not_asked_for_again(
    serve: Serve, ask: Ask, refusal: CyoloctlError
) -> None:
    node = serve({INCREMENT: refusal})
    with pytest.raises(type(refusal)):
        ask(incr, node)
    assert len(node.requests) == 1


def test_refusal_under_the_same_id_settles_a_lost_answer(serve: Serve, ask: Ask) -> None:
    node = serve({INCREMENT: answers_in_turn(Lose, CounterOverflow("no"))})
    with pytest.raises(CounterOverflow):
        ask(incr, node)


def test_read_is_repeated_until_it_is_answered(serve: Serve, ask: Ask) -> None:
    node = serve({GET: answers_in_turn(Lose, NoLeader("none"), ONE)})
    assert ask(get, node)["value"] == 1


def test_read_whose_answers_are_lost_is_no_unknown_write(serve: Serve, ask: Ask) -> None:
    node = serve({GET: answers_in_turn(Lose)})
    with pytest.raises(Unavailable):
        ask(get, node, timeout_s=0.5)


def test_write_without_a_request_id_is_sent_once(serve: Serve, ask: Ask) -> None:
    node = serve({("POST", "/v1/locks/job/release"): answers_in_turn(Lose)})
    with pytest.raises(OutcomeUnknown):
        ask(lambda client: client.call("lock_release", "job", {"token": 1}), node)
    assert len(node.requests) == 1


def test_without_retry_each_endpoint_is_asked_once(serve: Serve, ask: Ask) -> None:
    nodes = serve({INCREMENT: NoLeader("none")}), serve({INCREMENT: NoLeader("none")})
    with pytest.raises(NoLeader):
        ask(incr, *nodes, retry=False)
    assert [len(node.requests) for node in nodes] == [1, 1]


def test_timeout_of_a_sibling_is_its_own(serve: Serve, ask: Ask) -> None:
    node = serve({GET: NoLeader("none")})
    began = time.monotonic()
    with pytest.raises((NoLeader, ClientTimeout)):  # the latter where this machine stands still for 0.2 s
        ask(lambda client: client.within(0.2).counters.get("c"), node, timeout_s=300.0)
    assert time.monotonic() - began < 60


def test_node_that_says_nothing_is_a_timeout(serve: Serve, ask: Ask) -> None:
    import threading

    release = threading.Event()

    def hang(body: dict[str, Any]) -> Any:
        release.wait(30)
        return ONE

    node = serve({GET: hang, INCREMENT: hang})
    try:
        with pytest.raises(ClientTimeout):
            ask(get, node, timeout_s=0.3)
        release.set()
        release.clear()
        with pytest.raises(OutcomeUnknown):
            ask(incr, node, timeout_s=0.3)
    finally:
        release.set()


def test_compacted_is_raised_as_itself(serve: Serve, ask: Ask) -> None:
    node = serve({("GET", "/v1/kv"): Compacted("forgotten")})
    with pytest.raises(Compacted, match="forgotten"):
        ask(lambda client: client.kv.get("k", at_revision=3), node)
