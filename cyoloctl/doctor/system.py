"""What Linux says of a process and its control groups: proc(5), cgroups(7).  Elsewhere nothing is known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cyoloctl.doctor.facts import Machine, Quota

__all__ = ["look_at_machine"]

_UNLIMITED = 2**60
"""What version 1 of control groups calls no limit is about 2^63."""


def look_at_machine(now_unix_ms: int, pid: int | None, root: Path = Path("/")) -> Machine:
    """The machine, and a process of it.

    pid: of the node, None where it does not run: control groups are then
    those of this process.  root: where proc and sys are.
    """
    proc = root / "proc"
    process = proc / (str(pid) if pid is not None else "self")
    memory = _fields(proc / "meminfo")
    groups = _groups(process, root / "sys/fs/cgroup")
    return Machine(
        now_unix_ms=now_unix_ms,
        pid=pid,
        files_limit=None if pid is None else _files_limit(process),
        files_used=None if pid is None else _files_used(process),
        memory=_tightest(_memory(group) for kind, group in groups if kind == "memory"),
        killed=max((_killed(group) for kind, group in groups if kind == "memory"), default=0),
        tasks=_tightest(_tasks(group) for kind, group in groups if kind == "pids"),
        total_bytes=memory.get("MemTotal"),
        available_bytes=memory.get("MemAvailable"),
        swapped_bytes=None if pid is None else _fields(process / "status").get("VmSwap"),
    )


def _text(path: Path) -> str:
    """What is in a file; nothing where there is none, or this user may not look."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _fields(path: Path) -> dict[str, int]:
    """The ``Name: NUMBER kB`` lines of a file, in bytes."""
    found = {}
    for line in _text(path).splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdecimal():
            found[name] = int(words[0]) * 1024
    return found


def _files_limit(process: Path) -> int | None:
    for line in _text(process / "limits").splitlines():
        words = line.removeprefix("Max open files").split()
        if line.startswith("Max open files") and words and words[0].isdecimal():
            return int(words[0])
    return None


def _files_used(process: Path) -> int | None:
    """None where only root may look: a node is not dumpable, so even its own user may not."""
    try:
        return len(os.listdir(process / "fd"))
    except OSError:
        return None


def _groups(process: Path, mount: Path) -> list[tuple[str, Path]]:
    """The control groups that bound a process, with what each bounds: its own, and all above."""
    found: list[tuple[str, Path]] = []
    for line in _text(process / "cgroup").splitlines():
        words = line.split(":", 2)
        if len(words) != 3:
            continue
        _, kinds, path = words
        if kinds == "":
            for base in (mount, mount / "unified"):
                found += [(kind, group) for group in _upward(base, path) for kind in ("memory", "pids")]
        for kind in {"memory", "pids"} & set(kinds.split(",")):
            found += [(kind, group) for group in _upward(mount / kind, path)]
    return found


def _upward(base: Path, path: str) -> Iterator[Path]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield base.joinpath(*parts[:count])


def _tightest(quotas: Iterator[Quota | None]) -> Quota | None:
    known = [quota for quota in quotas if quota is not None]
    return min(known, key=lambda quota: quota.limit - quota.used, default=None)


def _memory(group: Path) -> Quota | None:
    """Without what the kernel gives back at once: pages of files that were not used for a while."""
    for limit_name, used_name, idle_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _number(group / limit_name), _number(group / used_name)
        if limit is not None and used is not None and 0 < limit < _UNLIMITED:
            return Quota(limit, max(0, used - _counts(group / "memory.stat").get(idle_name, 0)))
    return None


def _killed(group: Path) -> int:
    """Processes of this group and those below that the kernel has ended."""
    return max(_counts(group / name).get("oom_kill", 0) for name in ("memory.events", "memory.oom_control"))


def _counts(path: Path) -> dict[str, int]:
    found = {}
    for line in _text(path).splitlines():
        with suppress(ValueError):
            name, value = line.split()
            found[name] = int(value)
    return found


def _tasks(group: Path) -> Quota | None:
    limit, used = _number(group / "pids.max"), _number(group / "pids.current")
    return None if limit is None or used is None else Quota(limit, used)
