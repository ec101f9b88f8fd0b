"""Steps that a blocking client runs, and what it does meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cyoloctl.control.blocking import OverlappingRunner
from cyoloctl.web.steps import Pause, Receive, Send

Done = list[object]


class Wire:
    """Notes what is done to it."""

    def __init__(self, done: Done) -> None:
        self._done = done

    def settimeout(self, seconds: float) -> None:
        """As of a socket."""

    def sendall(self, data: bytes) -> None:
        """As of a socket."""
        self._done.append(data)

    def recv(self, size: int) -> bytes:
        """As of a socket."""
        self._done.append("received")
        return b"."


class Soon:
    """A deadline."""

    def left(self) -> float:
        """Seconds."""
        return 1.0


def exchanges(done: Done, *, count: int) -> Iterator[Any]:
    """Steps of some requests with their answers."""
    wire = Wire(done)
    for number in range(count):
        yield Send(wire, b"request %d" % number, Soon())
        yield Receive(wire, Soon())
    return "answer"


def test_something_else_is_done_once_between_the_first_request_and_its_answer() -> None:
    done: Done = []
    runner = OverlappingRunner(lambda: done.append("meanwhile"))
    assert runner.run(exchanges(done, count=2)) == "answer"  # type: ignore[arg-type]  # a wire is whatever the runner made
    assert done == [b"request 0", "meanwhile", "received", b"request 1", "received"]


def test_something_else_is_done_before_anything_that_may_take_long() -> None:
    done: Done = []

    def steps() -> Iterator[Any]:
        yield Pause(1.5)
        yield from exchanges(done, count=1)

    runner = OverlappingRunner(lambda: done.append("meanwhile"), done.append)
    runner.run(steps())  # type: ignore[arg-type]  # as above
    assert done == ["meanwhile", 1.5, b"request 0", "received"]


def test_what_is_raised_meanwhile_ends_the_steps() -> None:
    done: Done = []

    def steps() -> Iterator[Any]:
        try:
            yield from exchanges(done, count=1)
        finally:
            done.append("closed")

    def meanwhile() -> None:
        raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        OverlappingRunner(meanwhile).run(steps())  # type: ignore[arg-type]  # as above
    assert done == [b"request 0", "closed"]
