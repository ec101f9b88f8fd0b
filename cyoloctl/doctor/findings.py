"""The form of a finding, its codes, and what a data directory and a machine give.  Pure.

What the nodes name themselves is in their words: problems of `status` are
findings with the same code (`doctor.cluster`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypedDict

from cyoloctl.doctor.facts import Directory, Facts, FileFact, Quota
from cyoloctl.members.api import Disk, Problem
from cyoloctl.members.problems import SET_CLOCK, bytes_text, duration_text, space_problems
from cyoloctl.paths import quoted

__all__ = [
    "CODES",
    "DAY_MS",
    "Finding",
    "Severity",
    "directory_findings",
    "finding",
    "machine_findings",
    "of_problem",
    "with_directory",
]

Severity = Literal["ok", "info", "warning", "error"]

DAY_MS = 86_400_000

CODES: dict[str, str] = {
    "node": "whether the node runs and answers",
    "config": "whether `node.yaml` can be read",
    "pki": "whether certificates and keys are there and belong together",
    "permissions": "owners and modes of the node's files",
    "disk_sync": "how long the disk of the data directory takes to sync, measured",
    "disk_space": "space in the file system of the data directory, and the days left",
    "machine_clock": "this machine's clock against its own files and the calendar",
    "clock_skew": "a member's clock against cluster time",
    "files": "open files of the node against its limit",
    "machine_memory": "memory of the machine and of its control group",
    "swap": "how much of the node is swapped out",
    "tasks": "processes and threads against the limit of the control group",
    "names": "whether the members' host names can be looked up",
    "snapshot": "age of the newest snapshot of the policy",
    "problems": "whether `status --check` finds anything",
    "no_quorum": "fewer than a majority of the voters are reachable",
    "no_leader": "the asked node knows of no leader",
    "no_failure_tolerated": "the next failure stops the cluster",
    "slow_fsync": "a member's slowest syncs are slow",
    "links": "links between all pairs of members",
    "release": "the release of each member, and the one that is installed here",
    "level": "the level of the cluster against what members understand",
    "keys": "whether all members hold the same keys",
    "certificate": "when a member's certificate ends",
    "ca": "when the CA ends",
    "credentials": "when credentials end",
    "not_answered": "something that the node did not say",
}
"""Every code that is not one of a problem of `status`, with its subject."""


class Finding(TypedDict):
    """One thing that was looked at.  member: None for the cluster.  command: what mends it, or shows more."""

    severity: Severity
    code: str
    member: str | None
    cause: str
    command: str | None


def finding(
    severity: Severity, code: str, member: str | None, cause: str, command: str | None = None
) -> Finding:
    """One finding.  code: one of `CODES`."""
    return {"severity": severity, "code": code, "member": member, "cause": cause, "command": command}


# What keeps members, writes or the disk's promises from working now, or soon for certain.
_ERRORS = frozenset(
    [
        "certificate_expired",
        "certificate_refused",
        "copy",
        "disk_failed",
        "disk_full",
        "history_replaced",
        "kept_out",
        "left_behind",
        "link",
        "log_differs",
        "member_away",
        "memory",
        "not_following",
        "older_disk",
        "snapshot_refused",
        "snapshot_unusable",
        "vote_lost",
    ]
)


def with_directory(one: Finding, directory: Directory) -> Finding:
    """A finding whose command names the data directory, to be pasted as it is."""
    command = one["command"]
    if command is None or not command.startswith("cyoloctl ") or " -e " in command:
        return one
    option = f" -d {quoted(directory.path)}"
    if " -d " not in command:
        command += option
    elif one["member"] == directory.name:  # another member's directory is elsewhere
        command = command.replace(" -d DIR", option)
    return {**one, "command": command}


def of_problem(problem: Problem) -> Finding:
    """The finding that a problem of `status` is."""
    severity: Severity = "error" if problem["code"] in _ERRORS else "warning"
    return finding(severity, problem["code"], problem["member"], problem["message"], problem["command"])


# -- the node -----------------------------------------------------------------------------------


def _node(facts: Facts) -> Iterator[Finding]:
    directory, answers, pid = facts.directory, facts.answers, facts.machine.pid
    name = directory.name
    if answers.error is None:
        process = "" if pid is None else f" as process {pid}"
        yield finding("ok", "node", name, f"the node runs{process} and answers")
    elif pid is None and answers.unreachable:
        start = f"cyoloctl node start -d {quoted(directory.path)} --background"
        yield finding("error", "node", name, f"no node runs in {quoted(directory.path)}", start)
    else:
        process = (
            "the node" if pid is None else f"process {pid} holds the journal in {quoted(directory.path)} and"
        )
        cause = f"{process} does not answer: {answers.error}"
        yield finding("error", "node", name, cause, f"cyoloctl status -d {quoted(directory.path)}")


# -- the data directory -------------------------------------------------------------------------


def directory_findings(facts: Facts) -> Iterator[Finding]:
    """What the data directory gives."""
    directory = facts.directory
    if directory.closed_to is not None:
        yield _closed(directory)
        return
    yield from _node(facts)
    if directory.config_error is not None:
        command = f"cyoloctl config check -d {quoted(directory.path)}"  # tells every fault, not the first
        yield finding("error", "config", None, directory.config_error, command)
    else:
        yield finding("ok", "config", directory.name, "node.yaml can be read")
    wrong = list(_permissions(directory))
    yield from wrong
    if not any(one["severity"] != "ok" for one in wrong):
        text = f"nobody else may read the keys, or change {directory.path}"
        yield finding("ok", "permissions", directory.name, text)
    yield from _pki(directory, wrong)
    yield from _syncs(directory)
    yield from _space(facts)
    yield from _snapshots(directory, facts.machine.now_unix_ms)


def _closed(directory: Directory) -> Finding:
    """The one thing to say to whoever may look at nothing: all else would be errors of theirs."""
    user = directory.owner_name or f"#{directory.owner}"
    whom = "root" if directory.owner == 0 else f"{user}, or as root"
    cause = (
        f"{directory.path} belongs to user {user}, and this user ({directory.closed_to}) may not look at "
        f"what is in it, or ask its node: run this as {whom}"
    )
    command = f"sudo -u {quoted(user)} cyoloctl doctor -d {quoted(directory.path)}"
    return finding("error", "permissions", None, cause, command)


def _permissions(directory: Directory) -> Iterator[Finding]:
    for file in directory.files:
        yield from _mode(file, directory.name)
        if file.owner != directory.owner:
            cause = (
                f"{file.path} belongs to user {file.owner}, and the data directory to user {directory.owner}"
            )
            command = f"chown {directory.owner} {quoted(file.path)}"
            yield finding("warning", "permissions", directory.name, cause, command)


def _mode(file: FileFact, name: str | None) -> Iterator[Finding]:
    is_directory = file.kind == "directory"
    cause = f"{file.path} is open to other users (mode {file.mode:04o})"
    command = f"chmod {700 if is_directory else 600} {quoted(file.path)}"
    grave = 0o077 if file.secrecy == "secret" else 0o022
    if file.mode & grave:
        yield finding("error", "permissions", name, cause, command)
    elif file.mode & 0o077 and file.secrecy != "public":
        yield finding("warning", "permissions", name, cause, command)


def _pki(directory: Directory, wrong: Iterable[Finding]) -> Iterator[Finding]:
    """What keeps the keys from being used, unless that is what a permission says already."""
    problem = directory.pki_problem
    if problem is None:
        if directory.name is not None:
            yield finding("ok", "pki", directory.name, "certificates and keys are there and belong together")
    elif not any(one["cause"] in problem for one in wrong):
        yield finding("error", "pki", directory.name, problem)


# A leader whose syncs take so long hands leadership over where another's are much faster.
_SLOW_MS, _VERY_SLOW_MS, _STANDS_MS = 25.0, 100.0, 1000.0


def _syncs(directory: Directory) -> Iterator[Finding]:
    name = directory.name
    if directory.sync_error is not None:
        cause = f"no file could be written and synced in {directory.path}: {directory.sync_error}"
        yield finding("error", "disk_sync", name, cause, f"df -h {quoted(directory.path)}")
    elif directory.syncs is not None:
        took = directory.syncs
        measured = (
            f"{took.count} syncs in {directory.path} took {took.median_ms:.1f} ms each (median), "
            f"{took.worst_ms:.1f} ms at worst"
        )
        if took.median_ms >= _STANDS_MS:
            cause = f"{measured}: writes and elections wait for it"
            yield finding("error", "disk_sync", name, cause, "cyoloctl status")
        elif took.median_ms >= _VERY_SLOW_MS:
            cause = f"{measured}: slow; see what else uses that disk, or move the data directory"
            yield finding("warning", "disk_sync", name, cause, "cyoloctl status")
        elif took.median_ms >= _SLOW_MS:
            cause = f"{measured}: not fast; where another voter's disk is, leadership moves there"
            yield finding("info", "disk_sync", name, cause)
        else:
            yield finding("ok", "disk_sync", name, f"{measured}: fast enough")


def _space(facts: Facts) -> Iterator[Finding]:
    """Space and days: the days only where the running node has watched the disk for long enough."""
    directory, space = facts.directory, facts.directory.space
    if space is None or directory.name is None:
        return
    name, days = directory.name, _days_left(facts)
    free = space.free_bytes
    disk: Disk = {
        "free_bytes": free,
        "total_bytes": space.total_bytes,
        "reserve_bytes": directory.reserve_bytes,
        "days_left": days,
    }
    low = list(space_problems(name, free, disk, f"df -h {quoted(directory.path)}"))
    yield from map(of_problem, low)
    if not low:
        lasting = "" if days is None else f", enough for {days:.1f} days at the present rate"
        cause = f"the disk of {name} has {bytes_text(free)} of {bytes_text(space.total_bytes)} left{lasting}"
        yield finding("ok", "disk_space", name, cause)


def _days_left(facts: Facts) -> float | None:
    for member in (facts.answers.status or {}).get("members", ()):
        if member["name"] == facts.directory.name and member.get("disk"):
            days: float | None = member["disk"]["days_left"]
            return days
    return None


def _snapshots(directory: Directory, now_unix_ms: int) -> Iterator[Finding]:
    name, policy = directory.name, directory.snapshots
    if name is None:
        return
    if policy is None:
        cause = (
            f"{name} saves no snapshots by itself: on the day on which all members are gone, one is needed"
        )
        command = "cyoloctl snapshot save --every 6h --keep 28 --dir DIR"
        yield finding("info", "snapshot", name, cause, command)
        return
    save = "cyoloctl snapshot save FILE"
    if policy.error is not None:
        cause = f"the snapshots in {policy.directory} cannot be looked at: {policy.error}"
        yield finding("warning", "snapshot", name, cause, save)
    elif policy.newest_unix_ms is None:
        cause = f"{name} has no snapshot in {policy.directory} yet"
        changed = [file.changed_unix_ms for file in directory.files if file.path.endswith("/node.yaml")]
        if changed and 0 <= now_unix_ms - changed[0] < 1000 * policy.every_s:
            yield finding("info", "snapshot", name, f"{cause}: node.yaml was changed lately")
        else:
            yield finding("warning", "snapshot", name, cause, save)
    else:
        age_ms = now_unix_ms - policy.newest_unix_ms
        cause = f"the newest snapshot of {name} is {duration_text(age_ms)} old"
        if age_ms > 2000 * policy.every_s:
            due = f"{cause}, and one is due every {duration_text(policy.every_s * 1000)}"
            yield finding("warning", "snapshot", name, due, save)
        else:
            yield finding("ok", "snapshot", name, cause)


# -- the machine --------------------------------------------------------------------------------

_NEARLY = 0.8
"""The part of a limit from which on it is told of."""
_FEWEST_FILES = 1024
_SWAPPED_BYTES = 16 * 2**20
_LEAST_MEMORY_BYTES = 64 * 2**20
_SET_BACK_MS = 60_000
_FIRST_MS, _LAST_MS = 1_577_836_800_000, 7_258_118_400_000  # 2020 and 2200


def machine_findings(facts: Facts) -> Iterator[Finding]:
    """What the machine and the node's process give."""
    yield from _clock(facts)
    yield from _files(facts)
    yield from _memory(facts)
    yield from _tasks(facts)
    yield from _names(facts)


def _clock(facts: Facts) -> Iterator[Finding]:
    name, now = facts.directory.name, facts.machine.now_unix_ms
    newest = max(facts.directory.files, key=lambda file: file.changed_unix_ms, default=None)
    if not _FIRST_MS <= now <= _LAST_MS:
        cause = "the clock of this machine shows no time at all (before 2020 or after 2200)"
        yield finding("error", "machine_clock", name, cause, SET_CLOCK)
    elif newest is not None and newest.changed_unix_ms - now > _SET_BACK_MS:
        ahead = duration_text(newest.changed_unix_ms - now)
        cause = (
            f"{newest.path} was changed {ahead} after what this machine's clock shows: one of both is wrong"
        )
        yield finding("warning", "machine_clock", name, cause, SET_CLOCK)
    else:
        yield finding("ok", "machine_clock", name, "the clock of this machine is not behind its own files")


def _files(facts: Facts) -> Iterator[Finding]:
    limit, used = facts.machine.files_limit, facts.machine.files_used
    if limit is None:
        return
    name, command = facts.directory.name, "ulimit -n 65536"
    has = f"the node may open {limit} files"
    has += ", and how many it has open only root may see" if used is None else f", and has {used} open"
    if used is not None and used >= _NEARLY * limit:
        cause = f"{has}: raise the limit (LimitNOFILE=65536 in a unit), then start it again"
        yield finding("warning", "files", name, cause, command)
    elif limit < _FEWEST_FILES:
        cause = f"{has}: fewer than {_FEWEST_FILES} are too few for many connections"
        yield finding("warning", "files", name, cause, command)
    else:
        yield finding("ok", "files", name, has)


def _memory(facts: Facts) -> Iterator[Finding]:
    machine, name = facts.machine, facts.directory.name
    wrong: list[Finding] = []
    if machine.memory is not None and _is_short(machine.memory):
        cause = f"{_of(machine.memory)} of the memory of its control group are in use: raise its limit"
        wrong.append(finding("warning", "machine_memory", name, cause, "systemctl show -p MemoryMax UNIT"))
    if machine.killed:
        cause = f"the kernel has ended {machine.killed} processes of this control group for lack of memory"
        wrong.append(finding("warning", "machine_memory", name, cause, "dmesg --level err"))
    available = machine.available_bytes
    if available is not None and available < _LEAST_MEMORY_BYTES:
        cause = f"this machine has {bytes_text(available)} of memory left"
        wrong.append(finding("warning", "machine_memory", name, cause, "free -m"))
    yield from wrong
    if not wrong and available is not None:
        limited = (
            "" if machine.memory is None else f"; of its control group's {_of(machine.memory)} are in use"
        )
        cause = f"this machine has {bytes_text(available)} of memory left{limited}"
        yield finding("ok", "machine_memory", name, cause)
    swapped = machine.swapped_bytes
    if swapped is not None and swapped >= _SWAPPED_BYTES:
        cause = f"{bytes_text(swapped)} of the node are swapped out, so it may stand still: give it memory"
        yield finding("warning", "swap", name, cause, "free -m")
    elif swapped is not None:
        yield finding("ok", "swap", name, f"{bytes_text(swapped)} of the node are swapped out")


def _of(quota: Quota) -> str:
    return f"{bytes_text(quota.used)} of {bytes_text(quota.limit)}"


def _is_short(quota: Quota) -> bool:
    return quota.used >= _NEARLY * quota.limit


def _tasks(facts: Facts) -> Iterator[Finding]:
    tasks, name = facts.machine.tasks, facts.directory.name
    if tasks is None:
        return
    cause = f"{tasks.used} of the {tasks.limit} processes and threads of its control group are there"
    if _is_short(tasks):
        command = "systemctl show -p TasksMax UNIT"
        yield finding("warning", "tasks", name, f"{cause}: raise its limit", command)
    else:
        yield finding("ok", "tasks", name, cause)


def _names(facts: Facts) -> Iterator[Finding]:
    failed = {host: error for host, error in facts.hosts.items() if error is not None}
    for host, error in sorted(failed.items()):
        cause = f"the name {host}, at which a member is, cannot be looked up here: {error}"
        yield finding("warning", "names", facts.directory.name, cause, f"getent hosts {host}")
    if not failed:
        cause = "no member is at a host name: nothing has to be looked up"
        if facts.hosts:
            cause = f"all host names of members can be looked up ({', '.join(sorted(facts.hosts))})"
        yield finding("ok", "names", facts.directory.name, cause)
