"""What a status itself shows to be out of the ordinary, beside the problems that nodes name.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["FSYNC_WARN_MS", "Warned", "warnings"]

FSYNC_WARN_MS = 100
"""A disk whose slowest syncs take longer is slow."""


class Warned(NamedTuple):
    """A warning, and the member that it concerns: None for the cluster."""

    code: str
    member: str | None
    message: str


def warnings(document: Mapping[str, Any]) -> list[Warned]:
    """Warnings, one sentence each, the gravest first.  document: a status."""
    cluster = document["cluster"]
    found: list[Warned] = []
    voters = [member for member in document["members"] if member.get("role") != "learner"]
    up = sum(1 for member in voters if member.get("reachable"))
    if up < (cluster.get("quorum") or 0):
        message = f"no quorum: only {up} of {len(voters)} voters are reachable; nothing can be written"
        found.append(Warned("no_quorum", None, message))
    elif not cluster.get("leader"):
        message = "no leader: nothing can be written, and only stale reads answer"
        found.append(Warned("no_leader", None, message))
    elif cluster.get("failure_tolerance") == 0 and (cluster.get("voters") or 0) > 1:
        message = "the next failure stops the cluster: bring a member back or add one"
        found.append(Warned("no_failure_tolerated", None, message))
    for member in document["members"]:
        name, fsync_ms = member["name"], member.get("fsync_p99_ms") or 0
        if fsync_ms > FSYNC_WARN_MS:
            message = f"{name} has a slow disk: fsync takes {fsync_ms} ms at the 99th percentile"
            found.append(Warned("slow_fsync", name, message))
    return found
