"""Problems that need a hand: ``status`` shows them, ``status --check`` fails for them.

Each names what is wrong, whom it concerns and the command that solves it, or
shows more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain

from cyoloctl.members.api import Disk, Problem
from cyoloctl.members.disk_space import FILLING_DAYS, low_bytes
from cyoloctl.members.facts import Facts, problem
from cyoloctl.members.peer_problems import peer_problems
from cyoloctl.raft import CERTIFICATE, DISK_FAILED, NO_MEMORY, Engine, is_a_time

__all__ = [
    "CLOCK_OFF_MS",
    "DISK_LOW_BYTES",
    "SET_CLOCK",
    "bytes_text",
    "clock_problems",
    "duration_text",
    "find_problems",
    "space_problems",
    "time_ahead_ms",
]


CLOCK_OFF_MS = 60_000
"""A clock that differs from cluster time by more, and cluster time ahead by more, needs a hand."""

SET_CLOCK = "date -u --set 'YYYY-MM-DD HH:MM:SS'"


def duration_text(ms: float) -> str:
    """A time without its sign, in the largest unit of which it has two."""
    seconds = abs(ms) / 1000
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


DISK_LOW_BYTES = 256 * 2**20
"""A node of an earlier release with less space is about to stop."""


def _members(facts: Facts) -> Iterable[Problem]:
    reasons = facts.engine.absences()
    leader = next((row["name"] for row in facts.rows if row["role"] == "leader"), "the leader")
    apart = {name for pair in facts.apart if facts.name in pair for name in pair}
    farewells = facts.engine.farewells()
    for row in facts.rows:
        name, free, show = row["name"], row["disk_free_bytes"], f"cyoloctl member show {row['name']}"
        if not row["reachable"] and name not in apart:
            reason = f" ({reasons[name]})" if name in reasons else ""
            message = f"{name} is not connected to {facts.name}{reason}: start it, or check the network"
            yield problem("member_away", name, f"{message} between them", show)
            yield from _why_away(facts.name, name, farewells.get(name, ""), reasons.get(name, ""))
        elif name in facts.silent and name not in apart:
            message = (
                f"{name} was not heard by {facts.name} for seconds: the link between them is cut, or {name}"
            )
            yield problem("member_away", name, f"{message} stands still", show)
        if name in facts.astray:
            message = f"{name} runs and does not follow {leader}: open the way between them, or see its log"
            yield problem("not_following", name, message, show)
        if name in facts.lagging:
            message = f"{name} lags by {row['lag']} entries, and does not catch up: see its disk and its log"
            yield problem("lagging", name, message, show)
        if free is not None:
            yield from space_problems(name, free, row["disk"], show)


def space_problems(name: str, free: int, disk: Disk | None, show: str) -> Iterable[Problem]:
    """What the space on a member's disk calls for.  disk: None where a member of an earlier release tells."""
    make = "make space in the file system of its data directory"
    left = f"the disk of {name} has {bytes_text(free)} left"
    if disk is None:
        if free < DISK_LOW_BYTES:
            yield problem("disk_filling", name, f"{left}, and it stops when none is: {make}", show)
        return
    reserve, days = disk["reserve_bytes"], disk["days_left"]
    if free < reserve:
        message = f"{left}, and below {bytes_text(reserve)} it takes no new writes: {make}"
        yield problem("disk_full", name, message, show)
    elif free < low_bytes(reserve) or (days is not None and days < FILLING_DAYS):
        lasting = "" if days is None else f", enough for {days:.1f} days at the present rate"
        message = f"{left}{lasting}; below {bytes_text(reserve)} it takes no new writes: {make}"
        yield problem("disk_filling", name, message, show)


def bytes_text(count: int) -> str:
    """A size in MiB, below one in KiB."""
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count // 2**10} KiB"


def _why_away(here: str, name: str, farewell: str, reason: str) -> Iterable[Problem]:
    """What is known of a member's absence: what it said itself, or what dialling it showed."""
    if farewell == DISK_FAILED:
        message = f"{name} stopped because its disk failed: see its log, mend the disk, then start it"
        yield problem("disk_failed", name, message, f"cyoloctl member show {name}")
    elif farewell == NO_MEMORY:
        message = f"{name} stopped because memory ran out: give it more, then start it"
        yield problem("memory", name, message, f"cyoloctl member show {name}")
    elif CERTIFICATE in reason:
        message = f"{here} and {name} have no link because of a certificate ({reason}): see the logs of both"
        yield problem("certificate_refused", name, message, "cyoloctl pki status")


def _disks(facts: Facts) -> Iterable[Problem]:
    for name, sync_ms in sorted(facts.slow_syncs.items()):
        message = (
            f"the disk of {name} takes {sync_ms / 1000:.1f} s to sync, so writes and elections wait for it: "
            "see what else uses it, or move the data directory"
        )
        yield problem("disk_slow", name, message, f"cyoloctl member show {name}")
    for name in sorted(facts.read_only):
        message = (
            f"the disk of {name} is read-only, as after an I/O error: see the system's log there (dmesg), "
            f"mend the disk, then start {name} again"
        )
        yield problem("disk_failed", name, message, f"cyoloctl member show {name}")


def _clocks(facts: Facts) -> Iterable[Problem]:
    clock = facts.engine.clock
    return clock_problems(
        clock.now_unix_ms(),
        clock.skews_ms(),
        members={str(row["name"]) for row in facts.rows},
        voters=facts.engine.voter_names(),
        ahead_ms=time_ahead_ms(facts.engine),
    )


def clock_problems(
    now_unix_ms: int,
    skews_ms: Mapping[str, float],
    *,
    members: Collection[str],
    voters: Collection[str],
    ahead_ms: float | None,
) -> Iterable[Problem]:
    """The clocks that are off by more than `CLOCK_OFF_MS`, and cluster time where it is the odd one.

    now_unix_ms: cluster time, 0 while it is not known.  skews_ms: wall clocks
    less cluster time, by name.  ahead_ms: as `time_ahead_ms`.
    """
    if not now_unix_ms:
        return
    off = {name: skew for name, skew in skews_ms.items() if name in members and abs(skew) > CLOCK_OFF_MS}
    is_set = {name for name, skew in skews_ms.items() if is_a_time(int(now_unix_ms + skew))}
    pair = sorted(is_set & set(voters))
    ahead_ms = ahead_ms or 0.0
    if len(voters) == len(pair) == 2 and abs(skews_ms[pair[0]] - skews_ms[pair[1]]) > CLOCK_OFF_MS:
        apart = duration_text(skews_ms[pair[0]] - skews_ms[pair[1]])
        for name in pair:
            yield problem(
                "clock",
                name,
                f"the clocks of {pair[0]} and {pair[1]} are {apart} apart, and of two nobody can know which "
                "is right: nothing expires early; set the wrong one",
                SET_CLOCK,
            )
        off = {name: skew for name, skew in off.items() if name not in pair}
        ahead_ms = 0.0
    for name, skew in sorted(off.items()):
        if name not in is_set:
            what = "shows no time at all (before 2020 or after 2200)"
        else:
            what = f"is {duration_text(skew)} {'ahead of' if skew > 0 else 'behind'} cluster time"
            if ahead_ms > CLOCK_OFF_MS and abs(skew + ahead_ms) <= CLOCK_OFF_MS:
                # It may be right, and cluster time wrong: setting it now would do harm.
                yield problem(
                    "clock", name, f"the clock of {name} {what}, like a majority's", "cyoloctl status"
                )
                continue
        yield problem(
            "clock",
            name,
            f"the clock of {name} {what}: set it; the cluster goes on by the majority's clocks",
            SET_CLOCK,
        )
    if ahead_ms > CLOCK_OFF_MS:
        yield problem(
            "time_ahead",
            None,
            f"cluster time is {duration_text(ahead_ms)} ahead of a majority's clocks, so nothing expires "
            "early: correct the clocks that are wrong; if cluster time is, set it back",
            "cyoloctl cluster set-time --to-members --dry-run",
        )


def time_ahead_ms(engine: Engine) -> float | None:
    """Lead of cluster time over the majority's clocks, in milliseconds; 0 when it has none.

    None while a majority's clocks are not known.
    """
    majority = engine.clock.majority_unix_ms(engine.voter_names())
    return None if majority is None else max(0.0, float(engine.clock.now_unix_ms() - majority))


_PROBLEMS: tuple[Callable[[Facts], Iterable[Problem]], ...] = (
    _members,
    _disks,
    peer_problems,
    _clocks,
)


def find_problems(facts: Facts, more: Iterable[Problem] = ()) -> list[Problem]:
    """All problems now, each once.  more: those that other subjects know."""
    found: list[Problem] = []
    for item in chain(*(look(facts) for look in _PROBLEMS), more):
        if item not in found:
            found.append(item)
    return found
