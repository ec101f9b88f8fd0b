"""One request of HTTP/1.1 as a server reads it, and the answer that it writes."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, Protocol

from cyoloctl.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cyoloctl.errors import CyoloctlError

__all__ = ["Answer", "Headers", "Origin", "Request", "TooLong", "answer_bytes", "phrase_of", "read_body"]

TooLong = Literal["line", "header"]
"""The part of a request's head that is too long."""


class Origin(Protocol):
    """Where a request comes from: its connection."""

    loop: asyncio.AbstractEventLoop

    @property
    def remote(self) -> str:
        """The address of the other end, without its port; empty on a unix socket."""

    def read_on(self) -> None:
        """Read again after a pause."""

    def write(self, data: bytes) -> None:
        """Send bytes, if it is still there."""


class Headers:
    """The headers of a request, by their names in any case."""

    __slots__ = ("_fields", "_found")

    def __init__(self, fields: list[tuple[bytes, bytes]]) -> None:
        """fields: as they came."""
        self._fields = fields
        self._found: dict[str, str | None] = {}  # asked for before, as of every request with this head

    def all(self, name: str) -> list[str]:
        """Every value of a name, in the order they came; what is not UTF-8 as surrogates."""
        wanted, length = name.lower().encode("ascii"), len(name)
        return [
            value.decode("utf-8", "surrogateescape")
            for field, value in self._fields
            if len(field) == length and field.lower() == wanted
        ]

    def get(self, name: str) -> str | None:
        """The first value of a name."""
        if name in self._found:
            return self._found[name]
        found = self._found[name] = self._first(name)
        return found

    def _first(self, name: str) -> str | None:
        wanted, length = name.lower().encode("ascii"), len(name)
        for field, value in self._fields:
            if len(field) == length and field.lower() == wanted:
                return value.decode("utf-8", "surrogateescape")
        return None


class Request:
    """One request; its body may still be arriving.

    method, target: as sent, the target with its query.  is_1_1: else it is
    HTTP/1.0.  keep_alive: whether the client takes a further answer on this
    connection.  complete: the whole body is here.
    """

    __slots__ = (
        "_broken",
        "_chunks",
        "_waiter",
        "complete",
        "connection",
        "dropped",
        "headers",
        "is_1_1",
        "keep_alive",
        "method",
        "target",
    )

    def __init__(
        self,
        connection: Origin,
        method: str,
        target: str,
        headers: Headers,
        *,
        is_1_1: bool,
        keep_alive: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.headers = headers
        self.is_1_1 = is_1_1
        self.keep_alive = keep_alive
        self.complete = False
        #: The body is of no interest any more.
        self.dropped = False
        self._chunks: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._broken = False

    @property
    def content_length(self) -> int | None:
        """The announced length of the body."""
        text = self.headers.get("Content-Length")
        # The parser takes digits only, and any number of zeros before them, of which int() refuses thousands.
        return None if text is None else int(text.strip().lstrip("0") or "0")

    @property
    def content_type(self) -> str:
        """The media type of the body, in lower case, without parameters."""
        return (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()

    def take(self) -> bytes:
        """What has arrived of the body since the last call."""
        chunks = self._chunks
        if not chunks:
            return b""
        self._chunks = []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def more(self) -> None:
        """Return when more of the body is there, or all.  Raises ConnectionError when no more comes."""
        if self._broken:
            raise ConnectionResetError
        if self.complete or self._chunks:
            return
        self.connection.read_on()
        self._waiter = self.connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._broken:
            raise ConnectionResetError

    # -- the connection, as it reads

    def arrived(self, chunk: bytes) -> None:
        """More of the body is here."""
        if not self.dropped:
            self._chunks.append(chunk)
            if self._waiter is not None:
                self._wake()

    def end(self) -> None:
        """That was all of it."""
        self.complete = True
        if self._waiter is not None:
            self._wake()

    def break_off(self) -> None:
        """No more of it will come, or what came is not HTTP."""
        self._broken = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Answer:
    """A finished response, as bytes.  keep_alive: whether the next request may come."""

    __slots__ = ("data", "keep_alive", "status")

    def __init__(self, status: int, data: bytes, keep_alive: bool) -> None:
        self.status = status
        self.data = data
        self.keep_alive = keep_alive


def phrase_of(status: int) -> str:
    """The words beside a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # 499
        return "Error"


def answer_bytes(status: int, headers: Iterable[tuple[str, str]], body: bytes, *, body_too: bool) -> bytes:
    """A response with its length; body_too: false for HEAD.

    Raises ValueError for a header that would end its line.
    """
    lines = [f"HTTP/1.1 {status} {phrase_of(status)}"]
    for name, value in headers:
        if "\r" in value or "\n" in value or "\0" in value:
            raise ValueError(f"the header {name} would hold more than one line")
        lines.append(f"{name}: {value}")
    lines.append(f"Content-Length: {len(body)}\r\n\r\n")
    head = "\r\n".join(lines).encode("utf-8", "surrogateescape")
    return head + body if body_too else head


async def read_body(request: Request, limit: int, limit_s: float, too_large: CyoloctlError) -> bytes:
    """A body that has not wholly arrived, of at most limit bytes, within limit_s seconds.

    Raises too_large before reading it all, InvalidInput when it dawdles.
    """
    if (request.content_length or 0) > limit:
        raise too_large
    expects = (request.headers.get("Expect") or "").lower() == "100-continue"
    if expects and request.is_1_1 and not request.complete:  # RFC 9110 10.1.1: never to HTTP/1.0
        request.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            while True:
                body += request.take()
                if len(body) > limit:
                    raise too_large
                if request.complete:
                    return bytes(body)
                await request.more()
    except TimeoutError:
        raise InvalidInput(f"the body did not arrive in {limit_s:g} s: send it faster") from None
    except ConnectionError:
        # The client broke off, or sent what is no HTTP.
        raise InvalidInput("the body is not valid HTTP/1.1: check what is sending it") from None
