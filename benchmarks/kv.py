"""Keys and values beside etcd: ``python -m benchmarks.kv``.

Puts of 100 bytes and of 10 KiB, linearizable gets, and transactions that compare a version and put, with 1
and with 100 clients, in rounds that alternate.  The same load generator and transport as compare.py.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import http_request, request_round, say
from benchmarks.systems import BenchmarkError, Cyoloctl, Etcd, call, scratch_directory

_KEY = "bench/key"
_TARGETS = {("put 100 B", 100): 1.2, ("get", 100): 2.0}
"""Times etcd's rate that an operation must reach, by number of clients."""


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def requests_of(system: str) -> dict[str, tuple[bytes, str]]:
    """By operation, the request and what its answer holds."""
    small, large = _text(b"x" * 100), _text(b"y" * 10_240)
    if system == "etcd":
        key = _text(_KEY.encode())
        compare = {"target": "VERSION", "result": "GREATER", "key": key, "version": "0"}
        put = {"requestPut": {"key": key, "value": small}}
        return {
            "put 100 B": (http_request("/v3/kv/put", {"key": key, "value": small}), "revision"),
            "put 10 KiB": (
                http_request("/v3/kv/put", {"key": _text(b"bench/large"), "value": large}),
                "revision",
            ),
            "get": (http_request("/v3/kv/range", {"key": key}), small[:40]),
            "txn": (http_request("/v3/kv/txn", {"compare": [compare], "success": [put]}), '"succeeded":true'),
        }
    ours: dict[str, Any] = {
        "compare": [{"key": _KEY, "target": "version", "op": ">", "value": 0}],
        "then": [{"op": "put", "key": _KEY, "value_base64": small}],
    }
    return {
        "put 100 B": (http_request("/v1/kv/put", {"key": _KEY, "value_base64": small}), "revision"),
        "put 10 KiB": (
            http_request("/v1/kv/put", {"key": "bench/large", "value_base64": large}),
            "revision",
        ),
        "get": (_get(f"/v1/kv?key={_KEY}"), small[:40]),
        "txn": (http_request("/v1/kv/txn", ours), '"succeeded":true'),
    }


def measure(ours: Cyoloctl, theirs: Etcd, rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """By operation and clients, the median rates and their ratio."""
    found: dict[str, dict[str, Any]] = {}
    requests = {system.name: requests_of(system.name) for system in (ours, theirs)}
    for clients in (1, 100):
        for operation in requests[ours.name]:
            rates: dict[str, list[float]] = {ours.name: [], theirs.name: []}
            p99: dict[str, list[float]] = {ours.name: [], theirs.name: []}
            for _ in range(rounds):
                for system in (ours, theirs):
                    request, expect = requests[system.name][operation]
                    result = request_round(system, request, expect, clients, seconds)
                    rates[system.name].append(result.rate)
                    p99[system.name].append(result.p99_ms)
            ratios = [mine / other for mine, other in zip(*rates.values(), strict=True)]
            found[f"{operation}, {clients}"] = {
                "operation": operation,
                "clients": clients,
                "rate": {name: statistics.median(each) for name, each in rates.items()},
                "p99_ms": {name: statistics.median(each) for name, each in p99.items()},
                "ratio": statistics.median(ratios),
            }
            say(f"{operation}, {clients} clients: {json.dumps(found[f'{operation}, {clients}'])}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table; 4 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--scratch", type=Path, help="data goes below this directory")
    given = parser.parse_args(argv)
    with scratch_directory(given.scratch, keep=False) as scratch:
        ours = Cyoloctl(scratch)
        theirs = Etcd(scratch)
        try:
            ours.start()
            theirs.start()
            for system, path, key in (
                (ours, "/v1/kv/put", {"key": _KEY, "value_base64": _text(b"x" * 100)}),
                (theirs, "/v3/kv/put", {"key": _text(_KEY.encode()), "value": _text(b"x" * 100)}),
            ):
                leader = system.leader()
                assert leader is not None
                status, answer = call(leader.target, "POST", path, key)
                if status != 200:
                    raise BenchmarkError(f"{system.name}: {status} {answer}")
            found = measure(ours, theirs, given.rounds, given.seconds)
        finally:
            ours.close()
            theirs.close()
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(f"{'operation':12} {'clients':>7} {'cyoloctl/s':>11} {'etcd/s':>9} {'ratio':>6}  p99 ms")
    missed = []
    for one in found.values():
        rates, p99 = one["rate"], one["p99_ms"]
        print(
            f"{one['operation']:12} {one['clients']:7} {rates['cyoloctl']:11.0f} {rates['etcd']:9.0f}"
            f" {one['ratio']:6.2f}  {p99['cyoloctl']:.1f} and {p99['etcd']:.1f}"
        )
        if one["ratio"] < _TARGETS.get((one["operation"], one["clients"]), 0):
            missed.append(one)
    for one in missed:
        print(f"missed: {one['operation']} with {one['clients']} clients, {one['ratio']:.2f} times etcd")
    return 4 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
