"""Findings from what a node says of its cluster, and all findings in order.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cyoloctl.authorities.ends import CA_DUE_MS, ca_due, ca_ends, certificate_ends, credentials_end
from cyoloctl.doctor.facts import Facts
from cyoloctl.doctor.findings import (
    DAY_MS,
    Finding,
    Severity,
    directory_findings,
    finding,
    machine_findings,
    of_problem,
    with_directory,
)
from cyoloctl.members.problems import CLOCK_OFF_MS, SET_CLOCK, duration_text
from cyoloctl.members.warnings import warnings
from cyoloctl.paths import quoted
from cyoloctl.text import Json, parse_rfc3339, to_unix_ms

__all__ = ["as_document", "find_all", "needs_attention"]

_SKEW_MS = 1000
"""A clock that differs from cluster time by more is worth a look."""

_RANK: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2, "ok": 3}

_OF_CERTIFICATES = frozenset(["certificate_expired", "certificate_expiring"])


def needs_attention(one: Finding) -> bool:
    """Whether a finding is above info."""
    return one["severity"] in ("warning", "error")


def as_document(findings: Sequence[Finding], *, every: bool) -> Json:
    """The findings as JSON.  every: what is well, too."""
    return {
        "schema_version": 1,
        "healthy": not any(map(needs_attention, findings)),
        "findings": [one for one in findings if every or one["severity"] != "ok"],
    }


def find_all(facts: Facts, *, warn_days: int | None, name_directory: bool = False) -> list[Finding]:
    """All findings, the gravest first, what is well too.

    warn_days: certificates, credentials and CAs that end within so many days
    are told of; None: within 30 days, of shorter lives within the last third.
    name_directory: whether commands name the data directory, where no other way leads to it.
    """
    kept: list[Finding] = []
    for one in (*_cluster(facts, warn_days), *directory_findings(facts), *machine_findings(facts)):
        # A disk that the node tells of, and that shows it as well, is one.
        again = one["code"] in _DISK and any(
            each["code"] in _DISK and each["member"] == one["member"] for each in kept
        )
        if one not in kept and not again:
            kept.append(one)
    if name_directory:
        kept = [with_directory(one, facts.directory) for one in kept]
    return sorted(kept, key=lambda one: _RANK[one["severity"]])


_DISK = frozenset(["disk_filling", "disk_full"])


def _cluster(facts: Facts, warn_days: int | None) -> Iterator[Finding]:
    status = facts.answers.status
    for operation, reason in sorted(facts.answers.refused.items()):
        cause = f"the node did not say everything ({operation}): {reason}"
        yield finding("info", "not_answered", facts.directory.name, cause, "cyoloctl status")
    if status is not None:
        yield from _problems(facts, status, warn_days)
        yield from _warned(status)
        yield from _skews(status)
        yield from _links(status)
        yield from _releases(facts, status)
    yield from _keys(facts)
    yield from _ends(facts, warn_days)


def _now_ms(facts: Facts) -> int:
    """Cluster time; this machine's clock where the node does not know it."""
    text = (facts.answers.status or {"cluster": {}})["cluster"].get("time")
    return to_unix_ms(parse_rfc3339(text)) if isinstance(text, str) else facts.machine.now_unix_ms


def _problems(facts: Facts, status: Json, warn_days: int | None) -> Iterator[Finding]:
    problems = status.get("problems", [])
    far = {
        name
        for name, expires_at in _certificates(facts).items()
        if warn_days is not None and _left_ms(facts, expires_at) > warn_days * DAY_MS
    }
    for problem in problems:
        one = of_problem(problem)
        if one["code"] == "certificate_expiring" and one["member"] in far:
            one["severity"] = "info"  # sooner than the nodes say, and later than was asked for
        yield one
    if not problems:
        yield finding("ok", "problems", None, "status --check finds no problem")


_GRAVE = frozenset(["no_quorum", "no_leader"])


def _warned(status: Json) -> Iterator[Finding]:
    for warned in warnings(status):
        severity: Severity = "error" if warned.code in _GRAVE else "warning"
        command = "cyoloctl member list" if warned.member is None else f"cyoloctl member show {warned.member}"
        yield finding(severity, warned.code, warned.member, warned.message, command)


def _skews(status: Json) -> Iterator[Finding]:
    for member in status["members"]:
        name, skew = member["name"], member.get("clock_skew_ms")
        if skew is None or abs(skew) > CLOCK_OFF_MS:  # the latter is a problem of status
            continue
        if abs(skew) > _SKEW_MS:
            side = "ahead of" if skew > 0 else "behind"
            cause = f"the clock of {name} is {duration_text(skew)} {side} cluster time"
            yield finding("info", "clock_skew", name, cause, SET_CLOCK)
        else:
            cause = f"the clock of {name} is {abs(skew):.0f} ms from cluster time"
            yield finding("ok", "clock_skew", name, cause)


def _links(status: Json) -> Iterator[Finding]:
    links: Sequence[Json] = status.get("links", ())
    up = {member["name"] for member in status["members"] if member.get("reachable")}
    told = {problem["member"] for problem in status.get("problems", ()) if problem["code"] == "link"}
    among = [link for link in links if set(link["members"]) <= up]
    for link in among:
        one, other = link["members"]
        if link["linked"] is False and not told & {one, other}:
            cause = f"{one} and {other} have no link with each other now"
            yield finding("info", "links", one, cause, "cyoloctl status")
        elif link["linked"] is None:
            cause = f"whether {one} and {other} have a link with each other is not known: neither says"
            yield finding("info", "links", one, cause, "cyoloctl status")
    linked = sum(1 for link in among if link["linked"])
    if links and linked == len(links):
        cause = f"{linked} of {linked} pairs of members have a link with each other"
        yield finding("ok", "links", None, cause)


def _releases(facts: Facts, status: Json) -> Iterator[Finding]:
    releases = {member["name"]: member["version"] for member in status["members"] if member.get("version")}
    here, installed = releases.get(facts.directory.name), facts.answers.version
    if here is not None and here != installed:
        cause = f"the node runs release {here}, and {installed} is installed here: start it again"
        yield finding(
            "warning",
            "release",
            facts.directory.name,
            cause,
            f"cyoloctl node stop -d {quoted(facts.directory.path)}",
        )
    if len(set(releases.values())) > 1:
        shown = ", ".join(f"{name} {release}" for name, release in sorted(releases.items()))
        cause = f"the members run different releases ({shown}): end the upgrade when all is well"
        yield finding("info", "release", None, cause, "cyoloctl member list")
    elif releases and here in (None, installed):
        cause = f"every member that says so runs release {next(iter(releases.values()))}"
        yield finding("ok", "release", None, cause)
    level = status["cluster"].get("level")
    codes = {problem["code"] for problem in status.get("problems", ())}
    understood = min((member.get("level") or 1 for member in status["members"]), default=1)
    if level is not None and understood >= level and "level_behind" not in codes:
        yield finding("ok", "level", None, f"the cluster is at level {level}, which every member understands")


def _keys(facts: Facts) -> Iterator[Finding]:
    keys = facts.answers.keys
    if keys is None:
        return
    if keys["agreed"]:
        yield finding("ok", "keys", None, "every member holds every key, and the same ones")
        return
    known = {problem["code"] for problem in (facts.answers.status or {}).get("problems", ())}
    others = [text for text in keys["problems"] if "key_lacking" not in known or " cannot open " not in text]
    if others:
        cause = "the members do not agree on the keys: " + "; ".join(others)
        yield finding("warning", "keys", None, cause, "cyoloctl key status")


# -- what ends ----------------------------------------------------------------------------------


def _certificates(facts: Facts) -> dict[str, str]:
    """The end of each member's certificate, as far as it is known."""
    own = {facts.directory.name or "": facts.directory.certificate_ends}
    rows = (facts.answers.status or {}).get("members", ())
    told = {row["name"]: row.get("certificate_expires_at") for row in rows}
    return {name: text for name, text in {**own, **told}.items() if name and text is not None}


def _left_ms(facts: Facts, expires_at: str) -> int:
    return to_unix_ms(parse_rfc3339(expires_at)) - _now_ms(facts)


_DEFAULT_DAYS = 30


def _soon_ms(warn_days: int | None, life_ms: int) -> int:
    """How long before the end of something that lives so long it is told of."""
    return min(_DEFAULT_DAYS * DAY_MS, life_ms * 3 // 10) if warn_days is None else warn_days * DAY_MS


def _ends(facts: Facts, warn_days: int | None) -> Iterator[Finding]:
    """Whatever ends within so many days and is no problem of status, or has not for long."""
    told = (facts.answers.status or {}).get("problems", ())
    named = {problem["member"] for problem in told if problem["code"] in _OF_CERTIFICATES}
    days = (facts.answers.pki or {}).get("certificate_days") or facts.directory.certificate_days
    soon_ms = _soon_ms(warn_days, (days or _DEFAULT_DAYS * 4) * DAY_MS)
    for name, expires_at in sorted(_certificates(facts).items()):
        left_ms = _left_ms(facts, expires_at)
        if name in named:
            continue
        if left_ms < soon_ms:
            ends = certificate_ends(name, expires_at, left_ms, offline_ca=facts.directory.offline_ca)
            yield of_problem(ends)
        else:
            cause = f"the certificate of {name} ends at {expires_at}, in {left_ms // DAY_MS} days"
            yield finding("ok", "certificate", name, cause)
    yield from _ca(facts, warn_days)
    yield from _credentials(facts, warn_days)


def _ca(facts: Facts, warn_days: int | None) -> Iterator[Finding]:
    told = (facts.answers.status or {}).get("problems", ())
    authorities = (facts.answers.pki or {}).get("authorities", ())
    expires_at = authorities[-1]["not_after"] if authorities else facts.directory.ca_ends
    if expires_at is None:
        return
    left_ms, reason = _left_ms(facts, expires_at), ca_ends(expires_at)
    if any(reason in problem["message"] for problem in told):
        return
    if left_ms < max((warn_days or 0) * DAY_MS, CA_DUE_MS):
        yield of_problem(ca_due(reason, offline_ca=facts.directory.offline_ca))
    else:
        yield finding("ok", "ca", None, f"{reason}, in {left_ms // DAY_MS} days")


def _credentials(facts: Facts, warn_days: int | None) -> Iterator[Finding]:
    told = (facts.answers.status or {}).get("problems", ())
    live = [
        entry
        for entry in (facts.answers.credentials or {}).get("credentials", ())
        if entry["role"] != "node" and entry["expires_at"] is not None and entry["revoked_at"] is None
    ]
    counting, soon = 0, False
    for entry in live:
        left_ms = _left_ms(facts, entry["expires_at"])
        made = entry["created_at"]
        life_ms = left_ms if made is None else left_ms - _left_ms(facts, made)
        if left_ms <= 0:
            continue
        counting += 1
        if left_ms < _soon_ms(warn_days, life_ms):
            soon = True
            ends = credentials_end(entry["name"], entry["role"], left_ms)
            if not any(ends["command"] == problem["command"] for problem in told):
                yield of_problem(ends)
    if counting and not soon:
        yield finding("ok", "credentials", None, f"no credentials end soon, of {counting} that count")
