"""What one process does by itself, on virtual time: `node/upkeep.py` without its certificates and keys.

It announces itself and its process, ends links with copies, and as leader
promotes, demotes and forgets.  What is due is decided where a real node
decides it, in `members/duties.py`.  So does a member in memory part with its
vote before it stops.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection
from functools import partial
from hashlib import sha256
from typing import Any, Protocol

from cyoloctl.errors import Conflict, CyoloctlError, NotFound
from cyoloctl.members.duties import (
    Change,
    changes_due,
    end_of_memory,
    has_place,
    level_due,
    process_due,
    reach_due,
)
from cyoloctl.members.granted import MAX_GRANT_S
from cyoloctl.model import RaftId, is_in_memory, name_of
from cyoloctl.raft.links import Links
from cyoloctl.raft.peers import COPY
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.verdicts import Verdicts
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, encode_command
from cyoloctl.sim.disk import Disk
from cyoloctl.sim.invariants import WatchedJournal
from cyoloctl.sim.timeline import HANDOVER, Timeline
from cyoloctl.state import ClusterState

__all__ = ["Upkeep", "admitting", "founding", "granting"]

_TIMEOUT_S = 5.0
_HANDOVER_S = 3.0
_PAUSE_S = (0.2, 0.5)
_KEY = "A" * 43 + "="
_TTL_S = 7 * 86_400

Done = Callable[[Any, CyoloctlError | None], None]


class Self(Protocol):
    """The node, as its upkeep knows it."""

    time: Timeline
    rng: random.Random
    name: str
    raft_id: RaftId
    life: int
    boots: int
    boot: str
    links: Links
    state: ClusterState
    verdicts: Verdicts
    disk: Disk
    journal: WatchedJournal

    @property
    def replica(self) -> Replica | None: ...

    def put(self, life: int, call: Callable[[], object]) -> None:
        """Have it called in a turn of this process."""

    def before_change(self, what: str) -> None:
        """The leader is about to change the voters."""

    def changed(self, what: str, target: str, index: int) -> None:
        """A change of the voters took place."""


def record_of(name: str, raft_id: str) -> dict[str, Any]:
    """The part of a member's record that it announces."""
    return {
        "name": name,
        "address": "simulated:1",
        "sealing_key": _KEY,
        "raft_id": raft_id,
        "certificate_expires_at": None,
        "key_hash": sha256(name.encode()).hexdigest(),
    }


def admitting(name: str, *, learner: bool, witness: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """The operations on members by which a node is admitted."""
    joiner = record_of(name, name) | {"public_key": _KEY, "request_sha256": "f" * 64}
    del joiner["certificate_expires_at"]
    if witness:
        return [("invite_witness", {"name": name, "public_key": _KEY, "ttl_s": _TTL_S}), ("admit", joiner)]
    invitation = {
        "name": name,
        "learner": learner,
        "public_key": _KEY,
        "expires_unix_ms": MAX_TIME_UNIX_MS,
    }
    return [("issue_invitation", invitation), ("admit", joiner)]


def granting(name: str, *, learner: bool, witness: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """The operation by which a member grants a node its place by file; the node announces itself later."""
    granted = {
        "name": name,
        "request_sha256": "e" * 64,
        "key_hash": record_of(name, name)["key_hash"],
        "sealing_key": _KEY,
        "ttl_s": MAX_GRANT_S,
    }
    return [("grant_witness", granted)] if witness else [("grant", granted | {"learner": learner})]


def founding(names: list[str], witnesses: Collection[str] = ()) -> list[bytes]:
    """The commands of a cluster whose first member admitted the others, some of them as witnesses."""
    steps = [("announce", record_of(names[0], names[0]))]
    for name in names[1:]:
        steps += admitting(name, learner=False, witness=name in witnesses)
    return [
        encode_command("members", operation, arguments, request_id=f"founding-{number}", kind="node")
        for number, (operation, arguments) in enumerate(steps)
    ]


class Upkeep:
    """The upkeep of one process."""

    def __init__(self, node: Self) -> None:
        self._node, self._life = node, node.life
        self._busy = False
        self._number = 0
        self.stepped_out: set[str] = set()
        """See `MemoryVotes.stepped_out`."""

    def start(self) -> None:
        """Begin with the process."""
        self._later(0.1)

    def _later(self, seconds: float) -> None:
        node = self._node
        node.time.later(seconds, lambda: node.put(self._life, self._look))

    def _look(self) -> None:
        """One look at what is due; another one follows."""
        node = self._node
        if node.replica is None or node.replica.failed is not None:
            return
        for name in list(node.verdicts.copies()):
            node.links.disconnect(name, reason=COPY)
        for name in list(node.verdicts.doubtful()):
            node.links.reconnect(name)
        node.journal.find_room()
        is_short = node.disk.full or node.disk.low
        node.replica.room.measured(is_short=is_short, free_bytes=node.disk.facts()["disk_free_bytes"])
        if node.replica.leader() is not None and not self._busy:
            self._do_what_is_due(node.replica)
        self._later(node.rng.uniform(*_PAUSE_S))

    def _do_what_is_due(self, replica: Replica) -> None:
        node, members = self._node, self._node.state.members
        mine, presence = members.get(node.name), node.state.presence
        if has_place(members, node.name, node.state.time_unix_ms, leads=replica.is_leader()) and (
            mine is None or mine.raft_id != node.raft_id
        ):
            self._propose("members", "announce", record_of(node.name, node.raft_id))
            return
        level = level_due(node.name, members, node.state.levels)
        if level is not None:
            self._propose("levels", "announce", level)
            return
        known = presence.get(node.name)
        boot = process_due(node.name, node.boots, node.boot, known, replica.applied_index())
        if mine is not None and boot is not None:
            self._propose("presence", "boot", boot)
        elif replica.is_leader():
            status = replica.status()
            reached = reach_due(status, presence.get, replica.acknowledged, node.links.last_process)
            if reached is not None:
                self._propose("presence", "reached", reached)
                return
            due, _ = changes_due(status, members.members(), stepped_out=self.stepped_out)
            self._change(due)

    def _propose(self, machine: str, operation: str, arguments: dict[str, Any]) -> None:
        replica = self._node.replica
        assert replica is not None
        self._number += 1
        self._node.time.count(f"{machine} {operation}")
        request_id = f"upkeep-{self._node.name}-{self._life}-{self._number}"
        done = self._begin(lambda result: None)
        proposal = replica.propose(
            encode_command(machine, operation, arguments, request_id=request_id, kind="node"), done
        )

        def expire() -> None:
            proposal.cancelled = True

        self._node.time.later(_TIMEOUT_S, expire)

    def _begin(self, then: Callable[[Any], None]) -> Done:
        """The callback of what is under way now; nothing else begins until it ends, or takes too long."""
        self._busy = True
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._busy = False

        def done(result: Any, error: CyoloctlError | None) -> None:
            end()
            if error is None:
                then(result)

        self._node.time.later(_TIMEOUT_S, end)
        return done

    def _change(self, due: list[Change]) -> None:
        """One change after the other, until one fails."""
        replica = self._node.replica
        if not due or replica is None:
            return
        (what, target), rest = due[0], due[1:]
        if what == "forget":
            self._propose("members", "remove", {"name": target})
            return
        if what == "hand_over":
            self._node.time.count("leader to be a learner")
            self._node.time.begin_handover()
            replica.transfer_leadership(None, self._begin(lambda leader: None))
            return
        self._node.before_change(what)

        def took_place(index: Any) -> None:
            self._node.changed(what, target, index)
            self._change(rest)

        change = replica.add_voter if what == "promote" else replica.demote
        change(RaftId(target), self._begin(took_place))

    def forget(self, name: str) -> None:
        """The record of a member goes too: the second half of a removal."""
        if self._node.replica is not None:
            self._propose("members", "remove", {"name": name})

    # The end of a member.

    def may_stop(self) -> bool:
        """Whether `node stop` is not refused."""
        node = self._node
        if node.replica is None:
            return False
        return end_of_memory(node.replica.status(), node.name, len(node.state.members.members())) is None

    def part(self, then: Callable[[], None]) -> None:
        """As `node.run.Node.stop`: hand leadership over, give back a vote in memory, then go on."""
        replica = self._node.replica
        if replica is None:
            return
        if replica.is_leader() and len(replica.status().voters) > 1:
            self._node.time.begin_handover()
            replica.transfer_leadership(None, self._within(_HANDOVER_S, lambda: self._give_vote_back(then)))
        else:
            self._give_vote_back(then)

    def _give_vote_back(self, then: Callable[[], None]) -> None:
        node = self._node
        if not is_in_memory(node.raft_id):
            then()
            return
        done = self._within(_HANDOVER_S, then)
        self._ask_leader(done, node.time.now + _HANDOVER_S)

    def _ask_leader(self, done: Done, deadline: float) -> None:
        """Ask whoever leads to take this member's vote; wait for a leader until then."""
        node, replica = self._node, self._node.replica
        if replica is None or node.time.now >= deadline:
            return
        leader = replica.leader()
        if replica.is_leader() or node.raft_id not in replica.voters():
            done(None, None)
        elif leader is None:
            again = partial(self._ask_leader, done, deadline)
            node.time.later(0.05, lambda: node.put(self._life, again))
        else:
            try:
                node.links.call(name_of(leader), b"step_out " + node.raft_id.encode(), done)
            except CyoloctlError:
                done(None, None)

    def _within(self, seconds: float, then: Callable[[], None]) -> Done:
        """Go on after an answer, whatever it is, or after this time; in this process only."""
        node = self._node
        gone_on = False

        def go_on() -> None:
            nonlocal gone_on
            if not gone_on and node.life == self._life:
                gone_on = True
                node.time.disturb(HANDOVER)
                then()

        node.time.later(seconds, lambda: node.put(self._life, go_on))
        return lambda result, error: node.put(self._life, go_on)

    def step_out(self, raft_id: RaftId, answer: Callable[[bytes], None]) -> None:
        """As leader: take a member's vote, as `MemoryVotes` does.  answer: gets what it is told."""
        node = self._node
        deadline = node.time.now + _HANDOVER_S
        self.stepped_out.add(raft_id)

        def done(index: Any, error: CyoloctlError | None) -> None:
            if isinstance(error, Conflict) and node.time.now < deadline:
                node.time.later(0.05, lambda: node.put(self._life, ask))
            elif error is None or isinstance(error, NotFound):
                node.time.count("vote given back")
                answer(json.dumps({"raft_id": raft_id}).encode())
            else:
                self.stepped_out.discard(raft_id)
                answer(b"{}")

        def ask() -> None:
            if node.replica is not None:
                node.before_change("demote")
                node.replica.demote(raft_id, done)

        ask()
