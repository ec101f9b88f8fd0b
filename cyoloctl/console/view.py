"""What the page shows, as one JSON object, out of what nodes have told.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyoloctl import __version__
from cyoloctl.console.history import POINT_S, Figures, History
from cyoloctl.members.warnings import warnings
from cyoloctl.metrics.reading import Scrape
from cyoloctl.text import Json, parse_rfc3339

__all__ = ["LISTED", "Lists", "View", "document"]

#: Counters and locks that the page lists; it says how many there are.
LISTED = 20


@dataclass(frozen=True, slots=True)
class Lists:
    """Lists of one node, each None where it did not answer.

    waiting: rendezvous that nobody has answered, None also where the credentials may not see them.
    may_not: operations that the credentials may not call.  more_waiting: there are more of them.
    """

    keys: Mapping[str, Any] | None = None
    counters: Sequence[Mapping[str, Any]] | None = None
    locks: Sequence[Mapping[str, Any]] | None = None
    waiting: Sequence[Mapping[str, Any]] | None = None
    more_waiting: bool = False
    may_not: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class View:
    """What is known at one time.

    status, best, scrape: of the node that knows the newest, at seen_unix_s.  nodes: those that told figures.
    silent: why others did not.  failure: why no node answers, since failing_unix_s; status is older then.
    leaderless_unix_s: since when no leader is known.
    """

    now_unix_s: float
    status: Mapping[str, Any]
    best: str
    scrape: Scrape | None
    seen_unix_s: float
    nodes: frozenset[str]
    history: History
    silent: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None
    failing_unix_s: float | None = None
    leaderless_unix_s: float | None = None
    lists: Lists = field(default_factory=Lists)
    latest: Figures | None = None


def document(view: View) -> Json:
    """All that the page shows."""
    status, history = view.status, view.history
    return {
        "schema_version": 1,
        "now_unix_s": round(view.now_unix_s, 1),
        "version": __version__,
        "seen_unix_s": round(view.seen_unix_s, 1),
        "seen_by": view.best,
        "headline": _headline(view),
        "stale": view.failure is not None,
        "cluster": status["cluster"],
        "members": [_member(view, member) for member in status["members"]],
        "links": status.get("links", []),
        "problems": _problems(view),
        "counts": _counts(view.scrape),
        "keys": _keys(view.lists.keys),
        "counters": _named(view.lists.counters, ("name", "value_string")),
        "locks": _named(view.lists.locks, ("name", "owner", "acquired_at", "expires_at")),
        "waiting": _waiting(view.lists),
        "authorities": _authorities(view),
        "history": {
            "since_unix_s": round(history.since_unix_s, 1),
            "every_s": POINT_S,
            "fields": ["at_unix_s", "state", *Figures._fields],
            "points": list(history.points(view.now_unix_s)),
            "marks": list(history.marks(view.now_unix_s)),
        },
    }


def _ill(view: View) -> set[str]:
    """The members that something is wrong with."""
    named = {problem["member"] for problem in view.status["problems"]}
    return {each["name"] for each in view.status["members"] if not each["reachable"] or each["name"] in named}


def _headline(view: View) -> Json:
    """The first line: how it stands, in words, and since when where that matters."""
    status = view.status
    cluster, members = status["cluster"], status["members"]
    if view.failure is not None:
        return _line("bad", "No node answers", "Everything below is from before", view.failing_unix_s)
    if cluster["leader"] is None:
        up = sum(bool(each["reachable"]) for each in members if each["role"] != "learner")
        text = (
            f"{view.best} reaches {up} of {cluster['voters']} voters, itself included; "
            f"{cluster['quorum']} must agree before anything is written"
        )
        return _line("bad", "No leader", text, view.leaderless_unix_s)
    well, all_ = len(members) - len(_ill(view)), len(members)
    if well == all_:
        text = "The one member is well" if all_ == 1 else f"All {all_} members are well"
    else:
        text = f"{well} of {all_} members well"
    problems = bool(status["problems"])
    level = "good" if cluster["healthy"] and not problems else "warn"
    if level == "warn" and well == all_:
        text += ", and something needs attention"
    return _line(level, text, f"{cluster['leader']} leads, and the cluster {_tolerance(cluster)}", None)


def _line(level: str, text: str, more: str, since_unix_s: float | None) -> Json:
    since = None if since_unix_s is None else round(since_unix_s, 1)
    return {"level": level, "text": text, "more": more, "since_unix_s": since}


def _tolerance(cluster: Mapping[str, Any]) -> str:
    left, full = cluster["failure_tolerance"], cluster["voters"] - cluster["quorum"]
    if left <= 0:
        return "tolerates no further failure" if full else "tolerates no failure"
    more = "more " if left < full else ""
    return f"tolerates {left} {more}failure{'' if left == 1 else 's'}"


def _member(view: View, member: Mapping[str, Any]) -> Json:
    name = member["name"]
    return {
        **{
            key: member.get(key)
            for key in (
                "name",
                "role",
                "witness",
                "address",
                "reachable",
                "version",
                "level",
                "storage",
                "lag",
                "uptime_s",
                "fsync_p99_ms",
                "clock_skew_ms",
                "certificate_expires_at",
                "disk",
            )
        },
        "well": name not in _ill(view),
        "certificate_days": _days_left(view, member.get("certificate_expires_at")),
        "tells_figures": name in view.nodes,
        "silent_because": view.silent.get(name),
    }


def _days_left(view: View, text: object) -> float | None:
    """Days until a time on the cluster's clock, or on this machine's where that is not known."""
    try:
        ends = parse_rfc3339(text).timestamp() if isinstance(text, str) else None
    except ValueError:  # what a member told wrongly
        ends = None
    return None if ends is None else round((ends - _cluster_unix_s(view)) / 86_400, 2)


def _cluster_unix_s(view: View) -> float:
    time = view.status["cluster"].get("time")
    return view.now_unix_s if time is None else parse_rfc3339(time).timestamp()


def _problems(view: View) -> list[Json]:
    """What needs a hand, each with its command; then what is merely out of the ordinary."""
    named = [
        {"member": each["member"], "message": each["message"], "command": each["command"], "grave": True}
        for each in view.status["problems"]
    ]
    if view.failure is not None:
        named.insert(0, {"member": None, "message": view.failure, "command": None, "grave": True})
    return named + [
        {"member": each.member, "message": each.message, "command": None, "grave": False}
        for each in warnings(view.status)
        if each.member is not None  # the headline says what concerns the cluster
    ]


def _counts(scrape: Scrape | None) -> Json | None:
    """How much of what the replicated state holds; None for a node of an earlier release."""
    if scrape is None:
        return None
    entries = scrape.by_label("cyoloctl_state_entries", "kind")
    rendezvous = scrape.by_label("cyoloctl_rendezvous", "state")
    quota = scrape.total("cyoloctl_kv_quota_bytes")
    return {
        **{kind: int(count) for kind, count in entries.items()},
        "waiting": int(rendezvous.get("pending", 0) + rendezvous.get("claimed", 0)),
        "kv_bytes": int(scrape.total("cyoloctl_kv_bytes")),
        "kv_quota_bytes": int(quota) if quota else None,
    }


def _keys(status: Mapping[str, Any] | None) -> Json | None:
    """The token keys, none of which is in what nodes tell of them."""
    if status is None:
        return None
    fields = ("key_id", "state", "created_at", "promoted_at", "retired_at", "missing")
    return {
        "agreed": status["agreed"],
        "problems": status["problems"],
        "keys": [{name: key[name] for name in fields} for key in status["keys"]],
    }


def _named(rows: Sequence[Mapping[str, Any]] | None, fields: Sequence[str]) -> list[Json] | None:
    return None if rows is None else [{name: row[name] for name in fields} for row in rows[:LISTED]]


def _waiting(lists: Lists) -> Json:
    """Rendezvous that wait, by kind; never their ids, codes or data."""
    kinds = None if lists.waiting is None else Counter(str(each["kind"]) for each in lists.waiting)
    return {
        "kinds": None if kinds is None else [{"kind": k, "count": n} for k, n in sorted(kinds.items())],
        "more": lists.more_waiting,
        "allowed": "rendezvous_list" not in lists.may_not,
    }


def _authorities(view: View) -> list[Json]:
    if view.scrape is None:
        return []
    ends = view.scrape.by_label("cyoloctl_ca_certificate_expires_timestamp_seconds", "sha256")
    now = _cluster_unix_s(view)
    return [
        {"sha256": sha256, "ends_unix_s": end, "days": round((end - now) / 86_400, 2)}
        for sha256, end in sorted(ends.items(), key=lambda item: item[1])
    ]
