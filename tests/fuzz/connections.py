"""A connection of the HTTP servers, fed with the same bytes in two ways."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Any

from cyoloctl.errors import BodyTooLarge, InvalidInput
from cyoloctl.web.connection import Connection, HttpServer
from cyoloctl.web.request import Answer, Request, TooLong, answer_bytes, read_body
from tests.fuzz.worlds import run

__all__ = ["in_any_split"]

_QUIET_TURNS = 12
"""Turns of the loop without anything new: then the connection waits for bytes."""
_MOST_WAITING = 8 * 1024 // 16 + 1
"""A request has at least 16 bytes, and 8 KiB are looked at in one go."""


class _Listening(HttpServer[Connection]):
    """Answers every request, and keeps those whose body came whole."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, str, bytes]] = []
        self.turns = 0

    async def respond(self, request: Request, connection: Connection) -> Answer:
        self.turns += 1
        status = 200
        try:
            body = await read_body(request, 2**20, 60.0, BodyTooLarge("too large"))
            self.heard.append((request.method, request.target, body))
        except (BodyTooLarge, InvalidInput) as error:
            status = error.http_status
        keep_alive = request.keep_alive and request.is_1_1 and request.complete
        return Answer(status, answer_bytes(status, [], b"", body_too=True), keep_alive)

    def refuse_unreadable(self, error: BaseException | None, too_long: TooLong | None) -> Answer:
        assert error is None, repr(error)
        return Answer(400, answer_bytes(400, [], b"", body_too=True), False)


class _Wire(asyncio.Transport):
    """The far end; it reads all at once."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self.said = b""
        self.paused = self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.said += b"" if self.closed else data

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def _heard(pieces: Iterator[bytes]) -> list[tuple[str, str, bytes]]:
    server = _Listening()
    connection = Connection(server, None, idle_s=60.0, linger_s=60.0)
    wire = _Wire(connection)
    connection.connection_made(wire)

    async def settle() -> None:
        quiet, before = 0, (-1, 0)
        while quiet < _QUIET_TURNS:
            now = (server.turns, len(wire.said))
            quiet, before = (quiet + 1 if now == before else 0), now
            await asyncio.sleep(0)

    for piece in pieces:
        connection.data_received(piece)
        assert len(connection._waiting) <= _MOST_WAITING
        while wire.paused and not wire.closed:
            await settle()
        if wire.closed:
            break
    await settle()
    connection.eof_received()
    await settle()
    assert wire.closed
    assert not server.connections
    assert not connection.busy
    for answer in wire.said.split(b"HTTP/1.1 ")[1:]:
        assert answer.endswith(b"\r\n\r\n"), answer
        assert answer[:4] in (b"100 ", b"200 ", b"400 ", b"413 "), answer
    await server.close(0.0)
    return server.heard


def in_any_split(data: bytes) -> None:
    """Feed bytes whole, and in pieces that their first two bytes choose: the same requests must come of them.

    Raises AssertionError where that is not so, where something else than answers is said, and where more
    requests wait than are in one piece.
    """
    rng, data = Random(data[:2]), data[2:]
    longest = rng.choice((1, 3, 20, 500, 10_000))

    def pieces() -> Iterator[bytes]:
        at = 0
        while at < len(data):
            # Many pieces of one byte of a long input would show nothing more.
            length = rng.randint(1, max(longest, len(data) // 500))
            yield data[at : at + length]
            at += length

    assert run(_heard(iter((data,)))) == run(_heard(pieces()))
