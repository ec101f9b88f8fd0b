"""``cyoloctl batch`` beside etcdctl in a loop: ``python -m benchmarks.batch``.

Lines per second of increments and of puts of 100 bytes, at the leader and through a follower, with the
processor time that a line costs the leader, a follower and the command.  Then how many puts a shell loop of
etcdctl makes in a second.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import say
from benchmarks.systems import BenchmarkError, Cyoloctl, Etcd, scratch_directory

_TARGET_RATE, _TARGET_RATIO = 15_000, 20
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def increments(count: int) -> Iterator[dict[str, Any]]:
    """Lines that increment one counter."""
    for number in range(count):
        yield {"id": str(number), "op": "counter_increment", "name": "batch"}


def puts(count: int) -> Iterator[dict[str, Any]]:
    """Lines that put 100 bytes under a thousand keys in turn."""
    for number in range(count):
        yield {"id": str(number), "op": "kv_put", "key": f"batch/{number % 1000}", "value": "x" * 100}


def _cpu_s(pid: int) -> float:
    """Seconds of processor time that a process took so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def run(ours: Cyoloctl, lines: Path, data: str, leader: int) -> dict[str, float]:
    """Carry out a file through one node.  leader: the number of the member that leads."""
    count = sum(1 for _ in lines.open())
    pids = [member.process.pid for member in ours.members if member.process is not None]
    before, children = [_cpu_s(pid) for pid in pids], resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    with (lines.parent / "results").open("w") as results:
        done = subprocess.run(
            [*ours.command, "batch", str(lines), "-d", data, "--timeout", "30"], stdout=results, check=False
        )
    took_s = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise BenchmarkError(f"cyoloctl batch ended with {done.returncode}")
    with (lines.parent / "results").open() as results:
        if sum(1 for line in results if json.loads(line)["ok"]) != count:
            raise BenchmarkError("not every line was carried out")
    used = [_cpu_s(pid) - so_far for pid, so_far in zip(pids, before, strict=True)]
    client = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    others = [each for number, each in enumerate(used) if number != leader]
    return {
        "lines_per_s": count / took_s,
        "leader_us": used[leader] / count * 1e6,
        "follower_us": sum(others) / len(others) / count * 1e6,
        "command_us": client / count * 1e6,
        "all_us": (sum(used) + client) / count * 1e6,
    }


def loop(theirs: Etcd, puts: int) -> float:
    """Puts per second of etcdctl in a shell loop."""
    leader = theirs.leader()
    assert leader is not None
    put = f"etcdctl put key{'x' * 10} {'x' * 100} >/dev/null || exit 1"
    environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": f"http://{leader.address}"}
    began = time.monotonic()
    subprocess.run(["sh", "-c", f"for i in $(seq {puts}); do {put}; done"], env=environment, check=True)
    return puts / (time.monotonic() - began)


def measure(scratch: Path, count: int, puts_of_etcdctl: int) -> dict[str, Any]:
    """All figures by what was measured."""
    ours = Cyoloctl(scratch)
    found: dict[str, Any] = {}
    try:
        ours.start()
        leader = ours.leader()
        assert leader is not None
        at = ours.members.index(leader)
        follower = ours.members[(at + 1) % 3]
        for what, make in (("increments", increments), ("puts of 100 bytes", puts)):
            lines = scratch / "lines"
            lines.write_text("".join(json.dumps(each) + "\n" for each in make(count)))
            for where, member in (("leader", leader), ("follower", follower)):
                found[f"{what}, {where}"] = run(ours, lines, ours.data(member), at)
                say(f"{what} through the {where}: {json.dumps(found[f'{what}, {where}'])}")
    finally:
        ours.close()
    if puts_of_etcdctl:
        theirs = Etcd(scratch, transport="tcp")
        try:
            theirs.start()
            found["etcdctl in a loop"] = {"lines_per_s": loop(theirs, puts_of_etcdctl)}
        finally:
            theirs.close()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table; 4 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=__doc__)
    parser.add_argument("--lines", type=int, default=60_000)
    parser.add_argument("--etcdctl", type=int, default=200, help="puts of the loop; 0: none")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--scratch", type=Path, help="data goes below this directory")
    given = parser.parse_args(argv)
    if given.etcdctl and not shutil.which("etcdctl"):
        raise BenchmarkError("etcdctl is not installed: run apt-get install etcd-client, or say --etcdctl 0")
    with scratch_directory(given.scratch, keep=False) as scratch:
        found = measure(scratch, given.lines, given.etcdctl)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(f"{'':28} {'lines/s':>9} {'leader':>8} {'follower':>8} {'command':>8} {'all':>8}  us per line")
    for what, one in found.items():
        costs = [one.get(f"{who}_us", 0) for who in ("leader", "follower", "command", "all")]
        print(f"{what:28} {one['lines_per_s']:9.0f} " + " ".join(f"{each:8.0f}" for each in costs))
    rate = found["increments, leader"]["lines_per_s"]
    missed = [f"{rate:.0f} increments per second, not {_TARGET_RATE}"] if rate < _TARGET_RATE else []
    if "etcdctl in a loop" in found:
        ratio = rate / found["etcdctl in a loop"]["lines_per_s"]
        print(f"{ratio:.0f} times etcdctl in a loop")
        missed += [f"{ratio:.0f} times etcdctl, not {_TARGET_RATIO}"] if ratio < _TARGET_RATIO else []
    for one in missed:
        print(f"missed: {one}")
    return 4 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
