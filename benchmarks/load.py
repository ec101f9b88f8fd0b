"""A small HTTP/1.1 load generator, the same for every system that is measured.

It speaks raw HTTP over keep-alive connections with one request in flight on each, over TCP or a unix
socket, plain or TLS.  The request is one precomputed byte string, and the answer is looked at only as far
as needed to know that it is complete and a success.  So its share of the machine is small and the same for
both sides; it is a process of its own and reports that share.

Run by compare.py as ``python -m benchmarks.load``: one JSON object of Spec on stdin, one of Result on
stdout.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
import time
from dataclasses import asdict, dataclass, field

__all__ = ["Result", "Spec", "percentile", "run"]

_END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True)
class Spec:
    """One round.

    target: ``unix:/path`` or ``tcp:HOST:PORT``.
    request: the whole request, base64 of its bytes.
    expect: text that each answer's body must hold, beside the status 200.
    clients: connections, 1 or more.  warmup_s, seconds: measured is only what follows the warm-up.
    ca_pem, certificate_file, key_file: TLS with a client certificate when ca_pem is not empty.
    """

    target: str
    request: str
    expect: str
    clients: int
    seconds: float
    warmup_s: float = 0.5
    ca_pem: str = ""
    certificate_file: str = ""
    key_file: str = ""


@dataclass
class Result:
    """Result of one round.

    acknowledged counts every success, those of the warm-up and of the moments after the end too; rate, p50
    and p99 look at the measured window only.  errors holds the first few answers that were no success, or
    connections that broke: a round with any is not a measurement.  generator_cpu is a share of one core;
    members_cpu_ms, filled in by compare.py, the processor time that one write cost all members together.
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


class _Connection(asyncio.Protocol):
    def __init__(self, shared: _Round, closed: asyncio.Future[None]) -> None:
        self._shared = shared
        self._closed = closed
        self._buffer = b""
        self._sent_at = 0.0
        self._waiting = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self) -> None:
        assert self._transport is not None
        self._waiting = True
        self._sent_at = time.perf_counter()
        self._transport.write(self._shared.request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        body = self._complete_body(self._buffer)
        if body is None:
            return
        shared = self._shared
        if self._buffer[9:12] == b"200" and shared.expect in body:
            shared.result.acknowledged += 1
            if shared.measuring:
                shared.latencies.append(time.perf_counter() - self._sent_at)
        else:
            self._fail(self._buffer[:300].decode("latin-1"))
            shared.stopping = True
        self._buffer = b""
        self._waiting = False
        if shared.stopping:
            assert self._transport is not None
            self._transport.close()
        else:
            self.send()

    @staticmethod
    def _complete_body(answer: bytes) -> bytes | None:
        """The body when the answer is complete; both systems answer short bodies with Content-Length."""
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
    for _ in range(spec.clients):
        done: asyncio.Future[None] = loop.create_future()

        def make(done: asyncio.Future[None] = done) -> _Connection:
            return _Connection(shared, done)

        if kind == "unix":
            _, protocol = await loop.create_unix_connection(
                make, place, ssl=tls, server_hostname="cyoloctl" if tls else None
            )
        else:
            host, _, port = place.rpartition(":")
            _, protocol = await loop.create_connection(
                make, host, int(port), ssl=tls, server_hostname="cyoloctl" if tls else None
            )
        connections.append(protocol)
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
