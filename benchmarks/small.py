"""What an idle cluster costs, and whether one lives on small machines.

For clusters of 3, 5 and 7 nodes and each profile of node.yaml: wake-ups per
second, processor time per hour and memory of the leader and of a follower that
nobody asks anything.  Then, as root with control groups: nodes in 64 MB each
that take writes, and nodes on a tenth of a core each, where no election should
be held.

Wake-ups are the voluntary context switches of all threads (proc(5)): the
processor was idle for this process, and had to come back.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.systems import BenchmarkError, Cyoloctl, Member, call, scratch_directory

PROFILES = ("standard", "small")
SECTIONS = ("idle", "memory", "slow")
_MB = 1_000_000
_GROUPS = Path("/sys/fs/cgroup")
_SETTLE_S = 8.0
_VALUE = base64.b64encode(b"x" * 1024).decode()


class SmallCluster(Cyoloctl):
    """Nodes of one profile, each perhaps in a control group of its own from the start."""

    def __init__(self, scratch: Path, nodes: int, profile: str, groups: Sequence[Group] = ()) -> None:
        super().__init__(scratch)
        while len(self.members) < nodes:
            more = Cyoloctl(_subdirectory(scratch, len(self.members))).members
            for member in more[: nodes - len(self.members)]:
                member.name = f"c{len(self.members)}"
                self.members.append(member)
        self.profile = profile
        self._groups = groups

    def start_member(self, member: Member) -> None:
        config = Path(self.data(member)) / "node.yaml"
        if "\nprofile:" not in config.read_text():
            with config.open("a") as file:
                file.write(f"\nprofile: {self.profile}\n")
        argv = [*self.command, "node", "start", "-d", self.data(member)]
        if self._groups:
            group = self._groups[self.members.index(member)]
            argv = ["sh", "-c", f'echo $$ > "{group.path}/cgroup.procs" && exec "$@"', "sh", *argv]
        self.spawn(member, argv)

    def term(self) -> int:
        """The highest term that a member tells of."""
        terms = []
        for member in self.members:
            with contextlib.suppress(OSError, http.client.HTTPException):
                terms.append(int(self.status(member).get("cluster", {}).get("term", 0)))
        return max(terms, default=0)


def _subdirectory(scratch: Path, number: int) -> Path:
    path = scratch / f"m{number}"
    path.mkdir()
    return path


@dataclass
class Group:
    """A control group, of version 1 or 2."""

    path: Path
    is_unified: bool

    def limit_memory(self, limit_bytes: int) -> None:
        """Bound the memory of all in it, without swap."""
        name = "memory.max" if self.is_unified else "memory.limit_in_bytes"
        (self.path / name).write_text(str(limit_bytes))

    def limit_processor(self, share: float) -> None:
        """Let all in it run for this share of a core, in periods of a tenth of a second."""
        if self.is_unified:
            (self.path / "cpu.max").write_text(f"{int(share * 100_000)} 100000")
        else:
            (self.path / "cpu.cfs_period_us").write_text("100000")
            (self.path / "cpu.cfs_quota_us").write_text(str(int(share * 100_000)))

    def take(self, pid: int) -> None:
        """Put a process into it."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def peak_bytes(self) -> int:
        """The most memory that was in use, caches of files included."""
        name = "memory.peak" if self.is_unified else "memory.max_usage_in_bytes"
        return int((self.path / name).read_text())

    def anonymous_bytes(self) -> int:
        """Memory in use that no file backs."""
        name = "anon" if self.is_unified else "total_rss"
        words = (self.path / "memory.stat").read_text().split()
        return int(words[words.index(name) + 1])


@contextlib.contextmanager
def groups(controller: str, count: int) -> Iterator[list[Group]]:
    """New control groups, removed at the end, when the processes in them have ended.

    Raises BenchmarkError where this user or this machine has none.
    """
    is_unified = (_GROUPS / "cgroup.controllers").exists()
    root = _GROUPS if is_unified else _GROUPS / controller
    made: list[Group] = []
    try:
        for number in range(count):
            path = root / f"cyoloctl-small-{number}"
            path.mkdir()
            made.append(Group(path, is_unified))
        yield made
    except PermissionError as error:
        raise BenchmarkError(f"no control group can be made here ({error}): run as root") from None
    finally:
        for group in made:
            with contextlib.suppress(OSError):
                group.path.rmdir()


@dataclass(frozen=True)
class Reading:
    """Counters of a process."""

    at: float
    wakeups: int
    cpu_ns: int

    @classmethod
    def of(cls, pid: int) -> Reading:
        """As they are now, of all threads."""
        wakeups = cpu_ns = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            words = (task / "status").read_text().split()
            wakeups += int(words[words.index("voluntary_ctxt_switches:") + 1])
            cpu_ns += int((task / "schedstat").read_text().split()[0])
        return cls(time.monotonic(), wakeups, cpu_ns)


def memory_mb(pid: int) -> dict[str, float]:
    """Resident memory in all, and what of it no file backs, in MB (10^6 bytes)."""
    words = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
    wanted = {"rss_mb": "Rss:", "anonymous_mb": "Anonymous:"}
    return {name: int(words[words.index(word) + 1]) * 1024 / _MB for name, word in wanted.items()}


def measure_idle(scratch: Path, nodes: int, profile: str, seconds: float) -> dict[str, Any]:
    """The leader and a follower of a cluster that nobody asks anything."""
    cluster = SmallCluster(scratch, nodes, profile)
    try:
        cluster.start()
        leader = cluster.leader()
        follower = next(member for member in cluster.members if member is not leader)
        if leader is None:
            raise BenchmarkError("no leader")
        _pause(_SETTLE_S)
        chosen = {"leader": leader.pid, "follower": follower.pid}
        before = {role: Reading.of(pid) for role, pid in chosen.items()}
        term = cluster.term()
        _pause(seconds)
        after = {role: Reading.of(pid) for role, pid in chosen.items()}
        found: dict[str, Any] = {"nodes": nodes, "profile": profile, "elections": cluster.term() - term}
        for role, pid in chosen.items():
            passed_s = after[role].at - before[role].at
            found[role] = {
                "wakeups_per_s": (after[role].wakeups - before[role].wakeups) / passed_s,
                "cpu_s_per_hour": (after[role].cpu_ns - before[role].cpu_ns) / 1e9 / passed_s * 3600,
                "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
                **memory_mb(pid),
            }
        return found
    finally:
        cluster.close()


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _write(cluster: SmallCluster, seconds: float, pause_s: float) -> tuple[int, int, float]:
    """Put values at the leader, one after another: answers, failures, and the longest answer in seconds."""
    done = failed = number = 0
    longest_s = 0.0
    deadline = time.monotonic() + seconds
    leader = cluster.leader()
    while time.monotonic() < deadline:
        number += 1
        began = time.monotonic()
        body = {"key": f"small/{number % 1000}", "value_base64": _VALUE}
        try:
            if leader is None:
                raise OSError
            status, _ = call(leader.target, "POST", "/v1/kv/put", body, timeout_s=10)
        except (OSError, http.client.HTTPException):
            status = 0
        if status == 200:
            done += 1
            longest_s = max(longest_s, time.monotonic() - began)
        else:
            failed += 1
            leader = cluster.leader()
        _pause(pause_s)
    return done, failed, longest_s


def measure_memory(scratch: Path, profile: str, limit_mb: int, seconds: float) -> dict[str, Any]:
    """Three nodes, each of which has so much memory, under writes of one client."""
    with groups("memory", 3) as made:
        for group in made:
            group.limit_memory(limit_mb * 2**20)
        cluster = SmallCluster(scratch, 3, profile, made)
        try:
            cluster.start()
            term = cluster.term()
            done, failed, longest_s = _write(cluster, seconds, 0.0)
            cluster.check_alive()
            return {
                "profile": profile,
                "limit_mib": limit_mb,
                "writes_per_s": done / seconds,
                "failed": failed,
                "longest_s": longest_s,
                "elections": cluster.term() - term,
                "anonymous_mb": max(group.anonymous_bytes() for group in made) / _MB,
                "peak_mb": max(group.peak_bytes() for group in made) / _MB,
            }
        finally:
            cluster.close()


def measure_slow(scratch: Path, profile: str, share: float, seconds: float) -> dict[str, Any]:
    """Three nodes on a share of a core each: first idle, then with a few writes per second."""
    with groups("cpu", 3) as made:
        cluster = SmallCluster(scratch, 3, profile)
        try:
            cluster.start()
            for group, member in zip(made, cluster.members, strict=True):
                group.limit_processor(share)
                group.take(member.pid)
            term = cluster.term()
            _pause(seconds)
            idle = cluster.term() - term
            done, failed, longest_s = _write(cluster, seconds, 0.2)
            return {
                "profile": profile,
                "share": share,
                "elections_idle": idle,
                "elections_writing": cluster.term() - term - idle,
                "writes": done,
                "failed": failed,
                "longest_s": longest_s,
            }
        finally:
            cluster.close()


def _line(found: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {shown(each)}" for key, each in value.items())
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    return "; ".join(f"{key} {shown(value)}" for key, value in found.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a line for each figure; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small", description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="a section; may be repeated")
    parser.add_argument("--nodes", type=int, action="append", help="nodes of an idle cluster (3, 5 and 7)")
    parser.add_argument("--profile", choices=PROFILES, action="append", help="a profile; may be repeated")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of one measurement")
    parser.add_argument("--memory", type=int, default=64, help="MiB of each node (default 64)")
    parser.add_argument("--share", type=float, default=0.1, help="share of a core of each node (default 0.1)")
    parser.add_argument("--scratch", type=Path, help="where the data is; default: the temporary directory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep everything here")
    options = parser.parse_args(arguments)
    results: dict[str, list[dict[str, Any]]] = {}
    for section in options.only or SECTIONS:
        results[section] = []
        for profile in options.profile or PROFILES:
            for nodes in (options.nodes or (3, 5, 7)) if section == "idle" else (3,):
                with scratch_directory(options.scratch, keep=False) as scratch:
                    if section == "idle":
                        found = measure_idle(scratch, nodes, profile, options.seconds)
                    elif section == "memory":
                        found = measure_memory(scratch, profile, options.memory, options.seconds)
                    else:
                        found = measure_slow(scratch, profile, options.share, options.seconds)
                results[section].append(found)
                print(f"{section}: {_line(found)}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
