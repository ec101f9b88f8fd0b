"""Both clients against nodes that answer as told, with one test for the two."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import AsyncClient, Client
from tests.cli.harness import Endpoint

__all__ = ["Ask", "Lose", "Serve", "answers_in_turn", "ask_fixture", "first", "serve_fixture"]

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]
Ask = Callable[..., Any]


class Lose(OSError):
    """Raised by an answer: the connection is closed without one."""


def answers_in_turn(*answers: Any) -> Callable[[dict[str, Any]], Any]:
    """The first answer to the first request, and so on; the last one to all that follow.

    An answer that is Lose is none.
    """
    left = list(answers)

    def answer(body: dict[str, Any]) -> Any:
        found = left.pop(0) if len(left) > 1 else left[0]
        if found is Lose:
            raise Lose
        return found

    return answer


def _serve() -> Iterator[Serve]:
    opened: list[Endpoint] = []
    with tempfile.TemporaryDirectory(prefix="cyolo") as base:

        def open_endpoint(answers: dict[tuple[str, str], Any]) -> Endpoint:
            directory = Path(base, str(len(opened)))
            directory.mkdir()
            opened.append(Endpoint(directory, answers))
            return opened[-1]

        yield open_endpoint
        for endpoint in opened:
            endpoint.close()


def _blocking(do: Callable[[Client], Any], endpoints: list[str], options: dict[str, Any]) -> Any:
    with Client(endpoints, **options) as client:
        return do(client)


def _in_loop(do: Callable[[Any], Any], endpoints: list[str], options: dict[str, Any]) -> Any:
    async def work() -> Any:
        async with AsyncClient(endpoints, **options) as client:
            async with asyncio.timeout(60):
                return await do(client)

    return asyncio.run(work())


def _ask(request: pytest.FixtureRequest) -> Ask:
    run = {"blocking": _blocking, "in a loop": _in_loop}[request.param]

    def ask(do: Callable[[Any], Any], *at: Endpoint | str, **options: Any) -> Any:
        """The result of do(client), awaited where it has to be."""
        endpoints = [each if isinstance(each, str) else each.url for each in at]
        return run(do, endpoints, {"timeout_s": 5.0, **options})

    return ask


def first(count: int, items: Any) -> Any:
    """The first items of an iterator; of an asynchronous one, an awaitable of them."""
    if hasattr(items, "__anext__"):

        async def collect() -> list[Any]:
            try:
                return [await anext(items) for _ in range(count)]
            finally:
                await items.aclose()

        return collect()
    try:
        return [next(items) for _ in range(count)]
    finally:
        items.close()


serve_fixture = pytest.fixture(_serve, name="serve")
ask_fixture = pytest.fixture(_ask, name="ask", params=["blocking", "in a loop"])
