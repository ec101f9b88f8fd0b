"""One HTTP/1.1 request and its answer on one connection, as steps: the socket is whoever's runs them.

``http.client`` is not used because importing it imports ssl and email (40 ms
instead of 20 for a bare ``json`` and ``socket``); what is needed of HTTP/1.1 is
a request with a length and a response with a length or chunks, read strictly
and bounded.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from cyoloctl.errors import AccessDenied, CyoloctlError, InvalidInput, VersionMismatch
from cyoloctl.web.encoding import (
    MAX_RESPONSE_BYTES,
    SCHEMA_VERSION,
    clean_text,
    decode_error,
    decode_object,
    encode_body,
)
from cyoloctl.web.schema import MIN_TIMEOUT_S, Route
from cyoloctl.web.steps import Connect, Receive, Send

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Mapping

    from cyoloctl.web.steps import Steps, Until, Wire

__all__ = [
    "PLAIN",
    "Connectable",
    "Deadline",
    "Exchange",
    "Json",
    "Lost",
    "NotSent",
    "request_bytes",
    "target",
    "tls_failure",
    "why",
]

_MAX_LINE_BYTES = 16 * 1024
_MAX_HEADERS = 100
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_NOT_A_NODE = "something that is not a cyoloctl node of this version answers"


class NotSent(Exception):
    """The whole request did not leave: nothing can have been applied."""


class Lost(Exception):
    """The request left and no complete answer came: for a write, the outcome is unknown."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class Deadline:
    """A point on the monotonic clock."""

    __slots__ = ("at",)

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())


class Connectable(Protocol):
    """Destination of an exchange.  text: its name in messages."""

    @property
    def text(self) -> str:
        """Its URL."""

    def connect(self, deadline: Until) -> socket.socket:
        """A connected socket.  Raises NotSent, AccessDenied, VersionMismatch, ConfigError."""


def tls_failure(endpoint: str, error: ssl.SSLError) -> CyoloctlError | None:
    """The meaning of a TLS alert that the node sent us; None when it was not an alert."""
    reason = (error.reason or "").upper()
    if "ALERT" not in reason:
        return None
    if "PROTOCOL" in reason or "HANDSHAKE" in reason or "VERSION" in reason:
        return VersionMismatch(f"{endpoint}: the node refuses the TLS handshake; run the same release")
    words = reason.rpartition("ALERT_")[2].replace("_", " ").lower()
    return AccessDenied(
        f"{endpoint}: the node refuses our certificate ({words}); "
        "use credentials of this cluster that have not expired"
    )


def why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    text: str = getattr(error, "strerror", None) or str(error) or type(error).__name__
    # "No such file", but not "EOF occurred".
    return clean_text(text if text[:2].isupper() else text[:1].lower() + text[1:])


class Json(NamedTuple):
    """How bodies are written and answers read.

    decode: of what is certain to be right, faster than what also knows what to say; None for all else.
    """

    encode: Callable[[Mapping[str, Any]], bytes] = encode_body
    decode: Callable[[bytes], dict[str, Any] | None] = lambda data: None


PLAIN = Json()
"""By the standard library."""


class Exchange:
    """One request and its response on one connection.

    again: whether the connection is good for another request, once the answer was read.
    """

    def __init__(self, endpoint: Connectable, wire: Wire, deadline: Until) -> None:
        self.endpoint = endpoint
        self.deadline = deadline
        self._buffer = bytearray()
        self.wire = wire
        self.again = False

    @classmethod
    def open(cls, endpoint: Connectable, deadline: Until, connect_deadline: Until) -> Steps[Exchange]:
        """An exchange on a connection of its own.  Raises what Connectable.connect does."""
        return cls(endpoint, (yield Connect(endpoint, connect_deadline)), deadline)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.wire.close()

    def send(self, data: bytes) -> Steps[None]:
        """Send a whole request.  Raises NotSent, AccessDenied.

        When this fails, the kernel did not take the last byte, the node never
        has the whole request, and a request without its end is never executed.
        """
        try:
            yield Send(self.wire, data, self.deadline)
        except OSError as error:
            # A node that refuses our certificate says so before it closes.
            self._raise_alert(error)
            if not isinstance(error, TimeoutError):
                try:
                    yield Receive(self.wire, self.deadline)
                except OSError as last:
                    self._raise_alert(last)
            raise NotSent(f"while sending: {why(error)}") from None

    def _raise_alert(self, error: OSError) -> None:
        if hasattr(error, "reason"):  # ssl.SSLError, without importing ssl for a unix socket
            meaning = tls_failure(self.endpoint.text, error)  # type: ignore[arg-type]  # see above
            if meaning is not None:
                raise meaning from None

    def _fill(self) -> Steps[bool]:
        """Receive some bytes; False at the end.  Raises Lost, AccessDenied."""
        if self.deadline.left() <= 0:
            raise Lost("no answer in time", timed_out=True)
        try:
            data = yield Receive(self.wire, self.deadline)
        except TimeoutError:
            raise Lost("no answer in time", timed_out=True) from None
        except OSError as error:
            self._raise_alert(error)
            raise Lost(f"connection lost: {why(error)}") from None
        self._buffer += data
        return bool(data)

    def _line(self, prefix: bytes = b"") -> Steps[bytes]:
        start = 0
        while (end := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            # Garbage may never have a line end: judge it by its first bytes.
            if start > _MAX_LINE_BYTES or not self._buffer.startswith(prefix[:start]):
                raise self.not_a_node()
            if not (yield from self._fill()):
                raise Lost("the node closed the connection before it answered")
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    def _exactly(self, count: int) -> Steps[bytes]:
        while len(self._buffer) < count:
            if not (yield from self._fill()):
                raise Lost("connection lost in the middle of the answer")
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def not_a_node(self) -> VersionMismatch:
        return VersionMismatch(f"{self.endpoint.text}: {_NOT_A_NODE} there; check the endpoint")

    def head(self) -> Steps[tuple[int, dict[str, str]]]:
        """Status and headers (names in lower case).  Raises Lost, VersionMismatch, AccessDenied."""
        while True:
            line = yield from self._line(b"HTTP/1.")
            found = _STATUS_LINE.fullmatch(line)
            if found is None:
                raise self.not_a_node()
            headers: dict[str, str] = {}
            while (line := (yield from self._line())) not in (b"\r\n", b"\n"):
                key, colon, value = line.decode("latin-1").partition(":")
                if not colon or len(headers) >= _MAX_HEADERS:
                    raise self.not_a_node()
                headers[key.strip().lower()] = value.strip()
            status = int(found[1])
            if status >= 200:
                return status, headers

    def body(self, headers: Mapping[str, str], limit: int = MAX_RESPONSE_BYTES) -> Steps[bytes]:
        """The whole body, at most limit bytes.  Raises Lost, VersionMismatch, AccessDenied."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            chunks: list[bytes] = []
            size = 0
            while (chunk := (yield from self.chunk())) is not None:
                size += len(chunk)
                if size > limit:
                    raise self.too_large(limit)
                chunks.append(chunk)
            return b"".join(chunks)
        length = headers.get("content-length")
        if length is not None:
            if not (length.isascii() and length.isdigit() and len(length) <= 12):
                raise self.not_a_node()
            if int(length) > limit:
                raise self.too_large(limit)
            body = yield from self._exactly(int(length))
            self.again = not self._buffer and headers.get("connection", "").lower() != "close"
            return body
        while (yield from self._fill()):
            if len(self._buffer) > limit:
                raise self.too_large(limit)
        return bytes(self._buffer)

    def too_large(self, limit: int = MAX_RESPONSE_BYTES) -> VersionMismatch:
        return VersionMismatch(
            f"{self.endpoint.text}: the answer is larger than {limit} bytes; "
            "check the endpoint and run the same release"
        )

    def chunk(self) -> Steps[bytes | None]:
        """The next chunk of a chunked body, None at its end.  Raises Lost, VersionMismatch, AccessDenied."""
        text = (yield from self._line()).split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", text):
            raise self.not_a_node()
        size = int(text, 16)
        if size > MAX_RESPONSE_BYTES:
            raise self.too_large()
        if size == 0:
            return None
        data = yield from self._exactly(size + 2)
        if data[-2:] != b"\r\n":
            raise self.not_a_node()
        return data[:-2]

    def answer(
        self,
        status: int,
        headers: Mapping[str, str],
        raw: bytes,
        media: str = "application/json",
        json: Json = PLAIN,
    ) -> dict[str, Any]:
        """The object of a response; raises the error that it holds, or VersionMismatch.

        media: of the answer that is expected; where it is not JSON, the object holds it as `text`.
        """
        if status == 200 and media != "application/json" and headers.get("content-type", "") == media:
            return {"schema_version": SCHEMA_VERSION, "text": raw.decode("utf-8", "replace")}
        try:
            if not headers.get("content-type", "").startswith(("application/json", "application/x-ndjson")):
                raise InvalidInput
            value = json.decode(raw) or decode_object(raw, "answer", MAX_RESPONSE_BYTES)
        except InvalidInput:
            if status >= 500:
                # A proxy in front of a node answers like this when it lost the node.
                raise Lost(f"a proxy answered with status {status}") from None
            raise self.not_a_node() from None
        if status == 200 and "openapi" in value:
            return value
        version = value.get("schema_version")
        if type(version) is not int:
            raise self.not_a_node()
        if version != SCHEMA_VERSION:
            raise VersionMismatch(
                f"{self.endpoint.text}: the node answers in schema version {version}, "
                f"this release speaks {SCHEMA_VERSION}; use a matching release"
            )
        error = decode_error(value, status)
        if error is not None:
            raise error
        if status != 200:
            raise self.not_a_node()
        return value


def request_bytes(
    route: Route[Any],
    target: str,
    body: Mapping[str, Any] | None,
    *,
    keeps: bool = False,
    json: Json = PLAIN,
) -> bytes:
    """A whole request.  keeps: the node is to leave the connection open after its answer."""
    lines = f"{route.method} {target} HTTP/1.1\r\nHost: cyoloctl\r\n"
    if not keeps:
        lines += "Connection: close\r\n"
    if body is None:
        return (lines + "\r\n").encode("ascii")
    data = json.encode(body)
    lines += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return lines.encode("ascii") + data


def target(path: str, query: Mapping[str, Any], timeout_s: float) -> str:
    # The node gives up a little before we do, so that its answer still arrives.
    seconds = max(MIN_TIMEOUT_S, timeout_s - min(0.25, timeout_s / 10))
    parts = [f"{key}={_quoted(str(value))}" for key, value in query.items() if value is not None]
    return f"{path}?{'&'.join([*parts, f'timeout_s={seconds:.3f}'])}"


def _quoted(text: str) -> str:
    """As it stands in a query: most of what this API takes needs nothing."""
    if text.isascii() and text.replace("-", "").replace(".", "").replace("_", "").isalnum():
        return text
    from urllib.parse import quote

    return quote(text, safe="")
