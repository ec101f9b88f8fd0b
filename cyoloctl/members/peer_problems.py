"""Problems between nodes: missing links, processes that were kept out, logs that differ."""

from __future__ import annotations

from collections.abc import Iterator

from cyoloctl.members.api import Problem
from cyoloctl.members.facts import Facts, problem
from cyoloctl.model import is_in_memory, name_of
from cyoloctl.raft import COPY, LEFT_BEHIND, OLDER, ReplicaStatus

__all__ = ["peer_problems", "voters_up"]


def voters_up(status: ReplicaStatus) -> int:
    """Number of connected voters, this node included.

    By raft id: a member in memory that came back is a new one, and its old vote is gone until it is removed.
    """
    return sum(1 for raft_id in status.voters if raft_id in (status.raft_id, *status.connected))


#: The codes of the problems whose reason a peer gives.
_CODES = {COPY: "copy", OLDER: "older_disk"}


def peer_problems(facts: Facts) -> Iterator[Problem]:
    """Each with the member that it concerns and the command that solves it, or shows more."""
    engine, name = facts.engine, facts.name
    status = engine.status()
    for a, b in facts.apart:
        between = sorted(other for other, reached in facts.links.items() if a in reached and b in reached)
        though = f", though {between[0]} reaches both" if between else ""
        yield problem(
            "link",
            a,
            f"{a} and {b} do not reach each other{though}: open the way between them",
            "cyoloctl member list",
        )
    for refusal in engine.refusals():
        if refusal.reason in (COPY, OLDER):
            yield _kept_out(refusal.name, refusal.reason, refusal.address)
        elif refusal.reason == LEFT_BEHIND:
            where = f" at {refusal.address}" if refusal.address and refusal.address.isprintable() else ""
            yield problem(
                "left_behind",
                refusal.name,
                f"{refusal.name} still runs{where} in the history of before the recovery, and is kept out: "
                "stop it, and let nobody write to it; it comes back under a new name with an empty data "
                "directory",
                "cyoloctl status",
            )
    for peer, reason in engine.kept_out_by().items():
        if reason == LEFT_BEHIND:
            yield problem(
                "history_replaced",
                name,
                f"the cluster was recovered on {peer} without {name}, and goes on there in a new history: "
                f"stop {name}, and let nobody write to it",
                f"cyoloctl status -e https://{peer}@HOST:PORT",
            )
            continue
        yield problem(
            "kept_out",
            name,
            f"{peer} keeps {name} out ({reason}); {name} ends when a majority of the voters says so",
            f"cyoloctl member remove {name}" if reason in (COPY, OLDER) else "cyoloctl member list",
        )
    for trouble in status.troubles:
        yield _trouble(facts, trouble.code, name_of(trouble.peer), trouble.message)
    present = {name_of(raft_id): raft_id for raft_id in status.connected}
    for raft_id in status.voters:
        member = name_of(raft_id)
        if is_in_memory(raft_id) and present.get(member, raft_id) != raft_id:
            yield problem(
                "vote_lost",
                member,
                f"{member} came back without its log and cannot vote for its former self: "
                "a majority of the voters must be up to take it in again",
                f"cyoloctl member remove {member}",
            )


def _kept_out(member: str, reason: str, address: str) -> Problem:
    where = f" at {address}" if address and address.isprintable() else ""
    if reason == COPY:
        text = (
            f"a second process runs as {member}{where} on a copy of its disk, and is kept out: stop it and "
            "remove that directory"
        )
    else:
        text = (
            f"{member} came back{where} with an older copy of its disk, and is kept out: start the newer "
            "disk, or remove the member and join under a new name"
        )
    return problem(_CODES[reason], member, text, f"cyoloctl member remove {member}")


def _trouble(facts: Facts, code: str, peer: str, message: str) -> Problem:
    name = facts.name
    if code in ("snapshot_refused", "snapshot_unusable"):
        if code == "snapshot_refused":
            behind, text = peer, f"{peer} refuses the snapshot of {name}, and stays behind: {message}"
        else:
            behind, text = name, f"{name} cannot use the snapshot of {peer}, and stays behind: {message}"
        releases = {row["name"]: row["version"] for row in facts.rows}
        one, other = releases.get(name), releases.get(peer)
        if one is not None and other is not None and one != other:  # its disk is good: nobody is removed
            text += f"; {name} runs release {one}, {peer} {other}: run the same release on both"
            return problem(code, behind, text, f"cyoloctl member show {behind}")
        return problem(code, behind, text, f"cyoloctl member remove {behind}")
    return problem(
        code,
        peer,
        f"the logs of {peer} and {name} contradict each other: {message}; one of the disks is not its own",
        f"cyoloctl member remove {peer}",
    )
