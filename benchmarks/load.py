"""A small load generator, the same for every system that is measured: HTTP/1.1, and the protocol of NATS.

It keeps connections with one request in flight on each, over TCP or a unix socket, plain or TLS.  The
request is one precomputed byte string, and the answer is looked at only as far as needed to know that it is
complete and a success.  So its share of the machine is small and the same for all sides; it is a process of
its own and reports that share.

Run by rounds.py as ``python -m benchmarks.load``: one JSON object of Spec on stdin, one of Result on
stdout.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import os
import ssl
import sys
import time
from dataclasses import asdict, dataclass, field

__all__ = ["HELLO", "INBOX", "Result", "Spec", "messages", "percentile", "run"]

_END_OF_HEAD = b"\r\n\r\n"

HELLO = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
"""A client's first line to NATS: no +OK after each operation, and an answer at once where nobody listens."""
INBOX = b"{inbox}"
"""Stands in a request to NATS where each connection puts the subject at which it hears the answer."""


@dataclass(frozen=True)
class Spec:
    """One round.

    target: ``unix:/path`` or ``tcp:HOST:PORT``.
    request: the whole request, base64 of its bytes.
    expect: text that each answer's body must hold, beside the status 200 of HTTP.
    protocol: ``http``, or ``nats``, where the request has INBOX for the subject of the answer.
    clients: connections, 1 or more.  warmup_s, seconds: measured is only what follows the warm-up.
    ca_pem, certificate_file, key_file: TLS with a client certificate when ca_pem is not empty.
    """

    target: str
    request: str
    expect: str
    clients: int
    seconds: float
    warmup_s: float = 0.5
    protocol: str = "http"
    ca_pem: str = ""
    certificate_file: str = ""
    key_file: str = ""


@dataclass
class Result:
    """Result of one round.

    acknowledged counts every success, those of the warm-up and of the moments after the end too; rate, p50
    and p99 look at the measured window only.  errors holds the first few answers that were no success, or
    connections that broke: a round with any is not a measurement.  generator_cpu is a share of one core;
    members_cpu_ms, filled in by rounds.py, the processor time that one write cost all members together.
    """

    acknowledged: int = 0
    rate: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    generator_cpu: float = 0.0
    members_cpu_ms: float = 0.0
    errors: list[str] = field(default_factory=list)


def percentile(ordered: list[float], share: float) -> float:
    """The nearest-rank percentile of an ordered list, 0 for an empty one; share in 0..1."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class _Round:
    def __init__(self, spec: Spec) -> None:
        self.request = base64.b64decode(spec.request)
        self.expect = spec.expect.encode()
        self.result = Result()
        self.latencies: list[float] = []
        self.measuring = False
        self.stopping = False


def messages(data: bytes) -> tuple[list[bytes], int, bytes]:
    """The payloads of what NATS sent, how many PINGs were among it, and the rest that is not complete yet.

    Raises ValueError for -ERR and for lines that a client does not get.
    """
    found: list[bytes] = []
    pings = 0
    while (end := data.find(b"\r\n")) >= 0:
        verb, *words = data[:end].split(b" ")
        after = end + 2
        if verb in (b"MSG", b"HMSG"):
            headers, size = int(words[-2]) if verb == b"HMSG" else 0, int(words[-1])
            if len(data) < after + size + 2:
                break
            found.append(data[after + headers : after + size])
            after += size + 2
        elif verb == b"PING":
            pings += 1
        elif verb not in (b"INFO", b"PONG", b"+OK"):
            raise ValueError(f"nats: {data[:end].decode('latin-1')}")
        data = data[after:]
    return found, pings, data


class _Connection(asyncio.Protocol):
    """One request after another.  A protocol gives the data it got to ``answered``."""

    def __init__(self, shared: _Round, number: int, closed: asyncio.Future[None]) -> None:
        self._shared = shared
        self._number = number
        self._closed = closed
        self._buffer = b""
        self._sent_at = 0.0
        self._waiting = False
        self._transport: asyncio.Transport | None = None

    @property
    def request(self) -> bytes:
        """The bytes of one request of this connection."""
        return self._shared.request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self) -> None:
        assert self._transport is not None
        self._waiting = True
        self._sent_at = time.perf_counter()
        self._transport.write(self.request)

    def answered(self, success: bool, answer: bytes) -> None:
        """Take note of an answer, and send the next request."""
        shared = self._shared
        if success:
            shared.result.acknowledged += 1
            if shared.measuring:
                shared.latencies.append(time.perf_counter() - self._sent_at)
        else:
            self._fail(answer[:300].decode("latin-1"))
            shared.stopping = True
        self._waiting = False
        if shared.stopping:
            assert self._transport is not None
            self._transport.close()
        else:
            self.send()

    def _fail(self, text: str) -> None:
        if len(self._shared.result.errors) < 5:
            self._shared.result.errors.append(text)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting:
            self._fail(f"connection lost before the answer: {exc!r}")
            self._shared.stopping = True
        if not self._closed.done():
            self._closed.set_result(None)

    def stop_when_idle(self) -> None:
        if not self._waiting and self._transport is not None:
            self._transport.close()


class _Http(_Connection):
    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        body = self._complete_body(self._buffer)
        if body is None:
            return
        answer, self._buffer = self._buffer, b""
        self.answered(answer[9:12] == b"200" and self._shared.expect in body, answer)

    @staticmethod
    def _complete_body(answer: bytes) -> bytes | None:
        """The body when the answer is complete; the systems answer short bodies with Content-Length."""
        end = answer.find(_END_OF_HEAD)
        if end < 0:
            return None
        head = answer[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            return b""  # not understood: fails the check of the body, so it cannot pass for a success
        length = int(head[at + 17 :].partition(b"\r\n")[0])
        body = answer[end + 4 :]
        return body if len(body) >= length else None


class _Nats(_Connection):
    _request = b""

    @property
    def request(self) -> bytes:
        """The request with this connection's inbox."""
        return self._request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._transport is not None
        inbox = f"_INBOX.{os.getpid()}.{self._number}".encode()
        self._request = self._shared.request.replace(INBOX, inbox)
        self._transport.write(HELLO + b"SUB " + inbox + b" 1\r\n")

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            answers, pings, self._buffer = messages(self._buffer + data if self._buffer else data)
        except ValueError as error:
            answers, pings = [str(error).encode()], 0
        if pings:
            self._transport.write(b"PONG\r\n" * pings)
        for answer in answers:
            self.answered(self._shared.expect in answer, answer)


def _tls(spec: Spec) -> ssl.SSLContext | None:
    if not spec.ca_pem:
        return None
    context = ssl.create_default_context(cadata=spec.ca_pem)
    context.check_hostname = False  # certificates name nodes, not addresses
    context.load_cert_chain(spec.certificate_file, spec.key_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def run(spec: Spec) -> Result:
    """Drive one round and return what it gave; raises OSError when the target cannot be reached."""
    loop = asyncio.get_running_loop()
    shared = _Round(spec)
    tls = _tls(spec)
    kind, _, place = spec.target.partition(":")
    connections: list[_Connection] = []
    closed: list[asyncio.Future[None]] = []
    protocol = _Nats if spec.protocol == "nats" else _Http
    for number in range(spec.clients):
        done: asyncio.Future[None] = loop.create_future()
        make = functools.partial(protocol, shared, number, done)
        name = "cyoloctl" if tls else None
        if kind == "unix":
            _, connection = await loop.create_unix_connection(make, place, ssl=tls, server_hostname=name)
        else:
            host, _, port = place.rpartition(":")
            _, connection = await loop.create_connection(make, host, int(port), ssl=tls, server_hostname=name)
        connections.append(connection)
        closed.append(done)
    for connection in connections:
        connection.send()
    await asyncio.sleep(spec.warmup_s)
    cpu, began = time.process_time(), time.perf_counter()
    shared.measuring = True
    await asyncio.sleep(spec.seconds)
    shared.measuring = False
    took = time.perf_counter() - began
    result = shared.result
    result.generator_cpu = (time.process_time() - cpu) / took
    shared.stopping = True
    for connection in connections:
        connection.stop_when_idle()
    # Answers that are still on their way are acknowledgements too: wait for them.
    _, late = await asyncio.wait(closed, timeout=30)
    if late:
        result.errors.append(f"{len(late)} requests unanswered after 30 s")
    ordered = sorted(shared.latencies)
    result.rate = len(ordered) / took
    result.p50_ms = percentile(ordered, 0.50) * 1000
    result.p99_ms = percentile(ordered, 0.99) * 1000
    return result


def main() -> None:
    """Read a Spec, run it, print the Result."""
    spec = Spec(**json.load(sys.stdin))
    try:
        result = asyncio.run(run(spec))
    except OSError as error:
        result = Result(errors=[f"cannot connect to {spec.target}: {error}"])
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
