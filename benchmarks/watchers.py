"""Cost of watchers for a node's writes: ``python -m benchmarks.watchers``.

Three nodes; a program writes to the leader, in rounds that alternate: without watchers, and with several
that watch the counter that is written, on the leader's control socket or over TLS; with --kv they follow the
key that is put, by long polls.  The figure is the median
of the pairs' ratios.  The watchers are one process at the lowest priority, since in life they are other
machines; they read and count, nothing more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.operations import COUNTER, INCREMENT, KEY, PUT, requests_of
from benchmarks.report import say
from benchmarks.rounds import Pace, leader_of, request_round
from benchmarks.systems import ROOT, Cyoloctl, scratch_directory

_REQUEST = f"GET /v1/counters/{COUNTER}/watch HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class _Follow(asyncio.Protocol):
    """One follower of a key: counts its answers that hold a change, and asks again after each."""

    def __init__(self) -> None:
        self._data = b""
        self._next: int | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()
        _Watch.ready += 1

    def _ask(self) -> None:
        after = "" if self._next is None else f"&from_revision={self._next}"
        path = f"/v1/kv/changes?prefix={KEY}&timeout_s=60{after}"
        self._transport.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0] or 0)
        if not end or len(body) < length:
            return
        answer = json.loads(body)
        self._data = b""
        if head.startswith(b"HTTP/1.1 200 "):
            self._next = answer["next_revision"]
            _Watch.lines += bool(answer["changes"])
        elif answer["error"]["code"] == "compacted":  # too far behind: a program would read again
            self._next = None
        else:
            _Watch.refused = body.decode(errors="replace")
            return
        self._ask()

    def connection_lost(self, exc: BaseException | None) -> None:
        _Watch.refused = _Watch.refused or f"a watch ended: {exc}"


class _Watch(asyncio.Protocol):
    """One watch: counts its lines."""

    lines = 0
    ready = 0
    refused: str = ""

    def __init__(self) -> None:
        self._seen = False

    def connection_made(self, transport: Any) -> None:
        transport.write(_REQUEST)

    def data_received(self, data: bytes) -> None:
        if not self._seen:
            self._seen = True
            if data.startswith(b"HTTP/1.1 200 "):
                _Watch.ready += 1
            else:
                _Watch.refused = data.decode(errors="replace")
        _Watch.lines += data.count(b'{"')

    def connection_lost(self, exc: BaseException | None) -> None:
        _Watch.refused = _Watch.refused or f"a watch ended: {exc}"


async def _watch(spec: dict[str, Any]) -> None:
    """Open the watches, say so, and count until stdin ends."""
    loop = asyncio.get_running_loop()
    context = None
    if spec["ca_pem"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=spec["ca_pem"])
        context.load_cert_chain(spec["certificate"], spec["key"])
    protocol = _Follow if spec["kv"] else _Watch
    for _ in range(spec["count"]):
        if context is None:
            await loop.create_unix_connection(protocol, spec["target"].removeprefix("unix:"))
        else:
            host, _, port = spec["target"].rpartition(":")
            await loop.create_connection(protocol, host, int(port), ssl=context, server_hostname="")
    while _Watch.ready < spec["count"] and not _Watch.refused:
        await asyncio.sleep(0.01)
    _Watch.lines, started, cpu = 0, time.monotonic(), time.process_time()
    print(json.dumps({"refused": _Watch.refused}), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    passed = time.monotonic() - started
    said = {
        "refused": _Watch.refused,
        "lines_each_s": _Watch.lines / spec["count"] / passed,
        "cpu": (time.process_time() - cpu) / passed,
    }
    print(json.dumps(said), flush=True)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@contextlib.contextmanager
def _watchers(
    target: str, count: int, tls: tuple[str, Path, Path] | None, told: list[Any], *, kv: bool
) -> Iterator[None]:
    """So many watches while the block runs; what they saw is added to told."""
    ca, certificate, key = tls or ("", Path(), Path())
    spec = {
        "target": target,
        "count": count,
        "kv": kv,
        "ca_pem": ca,
        "certificate": str(certificate),
        "key": str(key),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.watchers", "--as-watchers", json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline())
            if ready["refused"]:
                raise SystemExit(f"the watchers were refused: {ready['refused']}")
            yield
            process.stdin.write("\n")
            process.stdin.flush()
            seen = json.loads(process.stdout.readline())
            if seen["refused"]:
                raise SystemExit(f"a watcher was ended: {seen['refused']}")
            told.append(seen)
        finally:
            process.kill()


def _measure(options: argparse.Namespace, system: Cyoloctl) -> int:
    credentials = system.credentials()
    request = requests_of(system.name)[PUT if options.kv else INCREMENT]
    pace = Pace(options.rounds, options.seconds)
    status = 0
    for where, tls in (("control socket", None), ("mutual TLS", credentials)):
        rates: dict[bool, list[float]] = {False: [], True: []}
        cost: dict[bool, list[float]] = {False: [], True: []}
        told: list[Any] = []
        for number in range(options.rounds):
            # First one, then the other comes first: what the machine does meanwhile hits both alike.
            for watched in (False, True) if number % 2 == 0 else (True, False):
                leader = leader_of(system)
                target = leader.address if tls else leader.target
                watching = _watchers(target, options.watchers, tls, told, kv=options.kv)
                with watching if watched else contextlib.nullcontext():
                    done = request_round(system, request, options.clients, pace, at=leader)
                rates[watched].append(done.rate)
                cost[watched].append(done.members_cpu_ms)
        without, with_ = (statistics.median(rates[watched]) for watched in (False, True))
        ratio = statistics.median(w / n for n, w in zip(rates[False], rates[True], strict=True))
        status |= ratio < 0.9
        lines = statistics.median(one["lines_each_s"] for one in told)
        share = statistics.median(one["cpu"] for one in told)
        pairs = " ".join(f"{w:,.0f}/{n:,.0f}" for n, w in zip(rates[False], rates[True], strict=True))
        say(
            f"{where:15} {options.watchers} watchers: {with_:,.0f}/s beside {without:,.0f}/s without,"
            f" ratio {ratio:.3f}; members' cpu {statistics.median(cost[True]):.3f} ms per write beside"
            f" {statistics.median(cost[False]):.3f}; each watcher {lines:.2f} lines/s, their process"
            f" {share:.0%} of a core; rounds {pairs}"
        )
    return int(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when watchers cost more than a tenth of the writes."""
    parser = argparse.ArgumentParser(prog="benchmarks.watchers", description=__doc__)
    parser.add_argument("--watchers", type=int, default=1000, help="at once (default 1000)")
    parser.add_argument("--clients", type=int, default=100, help="connections that write (default 100)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round (default 4)")
    parser.add_argument("--kv", action="store_true", help="followers of a key instead")
    parser.add_argument("--scratch", type=Path, help="directory for the data")
    parser.add_argument("--as-watchers", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.as_watchers is not None:
        os.nice(19)
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(_watch(json.loads(options.as_watchers)))
        return 0
    with scratch_directory(options.scratch, keep=False) as scratch:
        system = Cyoloctl(scratch)
        try:
            system.start()
            increment = requests_of(system.name)[INCREMENT]
            request_round(system, increment, 1, Pace(1, 0.5), at=leader_of(system))
            return _measure(options, system)
        finally:
            system.close()


if __name__ == "__main__":
    sys.exit(main())
