"""Writes beside a large state: ``python -m benchmarks.large_state``.

Three nodes are filled with keys.  Then one client puts a key every ten milliseconds, each measured, while
nothing else happens, while snapshots of the log are saved, while ``snapshot save`` reads a copy, and while a
follower that was away receives and installs the whole state.  At the end one node is restarted.
"""

from __future__ import annotations

import argparse
import base64
import json
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.systems import (
    BenchmarkError,
    Cyoloctl,
    Member,
    UnixConnection,
    call,
    scratch_directory,
    until,
)

HEARTBEAT_S = 0.1
_STEPS = 64
_PACE_S = 0.01


class Client:
    """One connection that stays open."""

    def __init__(self, target: str) -> None:
        self._connection = UnixConnection(target.removeprefix("unix:"), 30.0)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer.  Raises BenchmarkError where it is no success."""
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise BenchmarkError(f"{path}: {response.status} {data[:300]!r}")
        answer: dict[str, Any] = json.loads(data)
        return answer

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def fill(target: str, keys: int, value_bytes: int, clients: int, *, first: int = 0) -> float:
    """Put the keys from the first to so many, 64 in each transaction; the seconds that it took."""
    per_batch = max(1, min(_STEPS, 200_000 // max(1, value_bytes)))
    batches = range(first, keys, per_batch)

    def work(share: int) -> None:
        client = Client(target)
        for start in batches[share::clients]:
            puts = [
                {"op": "put", "key": f"key/{n:09d}", "value_base64": _value(n, value_bytes)}
                for n in range(start, min(keys, start + per_batch))
            ]
            client.post("/v1/kv/txn", {"then": puts})
        client.close()

    started = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))
    return time.monotonic() - started


def _value(number: int, size: int) -> str:
    text = f"{number:016d}".encode()
    return base64.b64encode((text * (size // len(text) + 1))[:size]).decode()


class Probe:
    """One client that puts a key every ten milliseconds, and how long each took."""

    def __init__(self, target: str) -> None:
        self._client = Client(target)
        self._end = threading.Event()
        self.latencies_s: list[float] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        try:
            while not self._end.is_set():
                number += 1
                started = time.monotonic()
                self._client.post("/v1/kv/put", {"key": "probe", "value_base64": _value(number, 100)})
                took = time.monotonic() - started
                self.latencies_s.append(took)
                self._end.wait(max(0.0, _PACE_S - took))
        except BaseException as error:
            self.error = error
        finally:
            self._client.close()

    def stop(self) -> dict[str, float]:
        """Number of puts, their median, p99.9 and the longest, in milliseconds."""
        self._end.set()
        self._thread.join()
        if self.error is not None:
            raise BenchmarkError(f"a put failed: {self.error}")
        ordered = sorted(self.latencies_s)
        return {
            "puts": len(ordered),
            "p50_ms": 1000 * statistics.median(ordered),
            "p99.9_ms": 1000 * ordered[min(len(ordered) - 1, int(0.999 * len(ordered)))],
            "max_ms": 1000 * ordered[-1],
        }


def _rss_mb(member: Member) -> float:
    for line in Path(f"/proc/{member.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    return 0.0


def _disk_mb(member: Member) -> float:
    return sum(path.stat().st_size for path in member.directory.rglob("*") if path.is_file()) / 1e6


def _raft(member: Member, system: Cyoloctl) -> dict[str, Any]:
    found: dict[str, Any] = next(
        (each for each in system.status(member).get("members", []) if each["name"] == member.name), {}
    )
    return found


class Bench:
    """A cluster with a large state.  found: what was measured, as JSON."""

    def __init__(self, system: Cyoloctl, keys: int, value_bytes: int) -> None:
        leader = system.leader()
        assert leader is not None
        self._system, self._leader, self._value_bytes = system, leader, value_bytes
        self._follower, self._other = (member for member in system.members if member is not leader)
        self.found: dict[str, Any] = {"keys": keys, "value_bytes": value_bytes, "phases": {}, "rss_mb": {}}
        self.during("fill", lambda: self._fill(keys))

    def measure(self, seconds: float) -> None:
        """Everything else.  seconds: of the quiet phase."""
        self.during("quiet", lambda: time.sleep(seconds))
        self.during("snapshot of the log", self.compact)
        self.during("snapshot save", self.save)
        self._system.kill(self._follower)
        fill(self._leader.target, 20_000, 600, 4)
        wanted = _raft(self._leader, self._system)["applied_index"]
        self.during("follower receives and installs", lambda: self._return(wanted))
        self._restart()

    def during(self, name: str, act: Callable[[], object]) -> None:
        """Measure puts beside what is done."""
        probe = Probe(self._leader.target)
        started = time.monotonic()
        try:
            act()
        finally:
            passed = time.monotonic() - started
            said = probe.stop()
        self.found["phases"][name] = {**said, "seconds": passed}
        self.found["rss_mb"][f"leader after {name}"] = _rss_mb(self._leader)
        print(f"{name}: {json.dumps(self.found['phases'][name])}", file=sys.stderr, flush=True)

    def _fill(self, keys: int) -> None:
        self.found["fill_s"] = fill(self._leader.target, keys, self._value_bytes, 8)
        self.found["disk_mb"] = _disk_mb(self._leader)

    def compact(self) -> None:
        """Write until the leader has saved a snapshot."""
        snapshot = Path(self._system.data(self._leader)) / "snapshot"
        before = snapshot.stat().st_mtime_ns if snapshot.exists() else 0
        deadline = time.monotonic() + 180
        while (snapshot.stat().st_mtime_ns if snapshot.exists() else 0) == before:
            if time.monotonic() > deadline:
                raise BenchmarkError("no snapshot was saved")
            fill(self._leader.target, 640, min(self._value_bytes, 1000), 1)

    def save(self) -> None:
        """Read a copy of the state from the leader."""
        copy = self._system.scratch / "copy.snapshot"
        self._system.cli("snapshot", "save", str(copy), "-d", self._system.data(self._leader))

    def _return(self, index: int) -> None:
        self._system.start_member(self._follower)
        until(
            "the follower has caught up",
            lambda: (_raft(self._follower, self._system).get("applied_index") or 0) >= index,
            timeout_s=300,
        )
        self.found["rss_mb"]["follower after it installed"] = _rss_mb(self._follower)

    def _restart(self) -> None:
        other = self._other
        assert other.process is not None
        other.process.send_signal(signal.SIGTERM)
        other.process.wait(60)
        started = time.monotonic()
        self._system.start_member(other)
        until(
            "the node serves again",
            lambda: call(other.target, "GET", "/v1/kv?key=key/000000001&consistency=stale")[0] == 200,
            timeout_s=300,
        )
        self.found["restart_s"] = time.monotonic() - started
        self.found["rss_mb"]["restarted"] = _rss_mb(other)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table; 4 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_state", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the quiet phase")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--scratch", type=Path, help="data goes below this directory")
    given = parser.parse_args(argv)
    with scratch_directory(given.scratch, keep=False) as scratch:
        system = Cyoloctl(scratch)
        try:
            system.start()
            bench = Bench(system, given.keys, given.value_bytes)
            bench.measure(given.seconds)
        finally:
            system.close()
    found = bench.found
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(f"{'phase':32} {'puts':>7} {'p50 ms':>8} {'p99.9 ms':>9} {'max ms':>8}")
    for name, said in found["phases"].items():
        times = f"{said['p50_ms']:8.2f} {said['p99.9_ms']:9.1f} {said['max_ms']:8.1f}"
        print(f"{name:32} {said['puts']:7.0f} {times}")
    print(f"filled in {found['fill_s']:.0f} s, restarted in {found['restart_s']:.1f} s")
    print(f"on disk MB: {found['disk_mb']:.0f}")
    print("resident MB: " + ", ".join(f"{name} {size:.0f}" for name, size in found["rss_mb"].items()))
    late = [name for name, said in found["phases"].items() if said["p99.9_ms"] > 2000 * HEARTBEAT_S]
    for name in late:
        print(f"missed: p99.9 of {name} is above two heartbeats")
    return 4 if late or found["restart_s"] > 10 else 0


if __name__ == "__main__":
    sys.exit(main())
