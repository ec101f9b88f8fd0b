"""Facts in which all is well, to be changed one at a time, and what is found in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cyoloctl.doctor.cluster import find_all
from cyoloctl.doctor.facts import Answers, Directory, Facts, FileFact, Machine, Quota, Snapshots, Syncs
from cyoloctl.doctor.findings import Finding
from cyoloctl.paths import DiskSpace
from cyoloctl.text import parse_rfc3339, to_unix_ms

__all__ = ["DAY_S", "NOW_MS", "TIME", "facts", "file", "found", "member", "severities", "status"]

TIME = "2026-06-01T00:00:00Z"
NOW_MS = to_unix_ms(parse_rfc3339(TIME))
DAY_S = 86_400


def file(path: str, mode: int, **changes: Any) -> FileFact:
    """A file of the node, changed an hour ago."""
    made = FileFact(path, "file", "secret", mode, 1000, 4096, NOW_MS - 3_600_000)
    return replace(made, **changes)


def member(name: str, **changes: Any) -> dict[str, Any]:
    """A member in a status."""
    return {
        "name": name,
        "role": "follower",
        "reachable": True,
        "address": f"{name}.example:7700",
        "version": "1.2.3",
        "level": 1,
        "fsync_p99_ms": 2.0,
        "disk": {"free_bytes": 2**36, "total_bytes": 2**37, "reserve_bytes": 2**26, "days_left": None},
        "certificate_expires_at": "2028-06-01T00:00:00Z",
        "clock_skew_ms": 3.0,
        **changes,
    }


def status(*members: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A status of three members that all have links with each other."""
    rows = list(members) or [member("n1", role="leader"), member("n2"), member("n3")]
    names = [row["name"] for row in rows]
    pairs = [(a, b) for a in names for b in names if a < b]
    cluster = {
        "leader": "n1", "voters": len(rows), "quorum": len(rows) // 2 + 1, "failure_tolerance": 1,
        "healthy": True, "time": TIME, "level": 1,
    }  # fmt: skip
    return {
        "cluster": {**cluster, **{name: changes.pop(name) for name in list(changes) if name in cluster}},
        "members": rows,
        "links": [{"members": list(pair), "linked": True, "dialled_by": pair[0]} for pair in pairs],
        "problems": [],
        **changes,
    }


_DIRECTORY = Directory(
    "/srv/n1",
    1000,
    name="n1",
    cluster="cyolo",
    files=(
        file("/srv/n1", 0o700, kind="directory", secrecy="public"),
        file("/srv/n1/pki", 0o700, kind="directory", secrecy="own"),
        file("/srv/n1/pki/node.key", 0o600),
        file("/srv/n1/pki/node.crt", 0o644, secrecy="public"),
        file("/srv/n1/node.yaml", 0o600, secrecy="own"),
    ),
    space=DiskSpace(2**36, 2**37),
    reserve_bytes=2**26,
    syncs=Syncs(32, 1.5, 4.0),
    certificate_ends="2028-06-01T00:00:00Z",
    certificate_days=825,
    ca_ends="2036-06-01T00:00:00Z",
    snapshots=Snapshots(6 * 3600, "/backup", NOW_MS - 3_600_000),
)
_MACHINE = Machine(
    NOW_MS,
    pid=4711,
    files_limit=65_536,
    files_used=40,
    memory=Quota(2**30, 2**28),
    tasks=Quota(4096, 12),
    total_bytes=2**33,
    available_bytes=2**32,
    swapped_bytes=0,
)
_CREDENTIALS = {
    "name": "admin", "role": "operator", "created_at": "2026-05-01T00:00:00Z",
    "expires_at": "2028-05-01T00:00:00Z", "revoked_at": None,
}  # fmt: skip


def facts(
    *,
    directory: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    answers: dict[str, Any] | None = None,
    hosts: dict[str, str | None] | None = None,
) -> Facts:
    """Facts in which all is well, with these fields of each part changed."""
    said: dict[str, Any] = {
        "version": "1.2.3",
        "status": status(),
        "keys": {"agreed": True, "problems": []},
        "pki": {"certificate_days": 825, "authorities": [{"not_after": "2036-06-01T00:00:00Z"}]},
        "credentials": {"credentials": [_CREDENTIALS]},
        **(answers or {}),
    }
    return Facts(
        replace(_DIRECTORY, **(directory or {})),
        replace(_MACHINE, **(machine or {})),
        Answers(**said),
        {"n2.example": None} if hosts is None else hosts,
    )


def found(given: Facts, code: str, *, warn_days: int | None = None) -> list[Finding]:
    """The findings with a code."""
    return [one for one in find_all(given, warn_days=warn_days) if one["code"] == code]


def severities(given: Facts, code: str, *, warn_days: int | None = None) -> list[str]:
    """How grave each of them is."""
    return [one["severity"] for one in found(given, code, warn_days=warn_days)]
