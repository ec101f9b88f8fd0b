"""Disks that do not keep what they synced: one node at a time, and what is promised then.

A disk lies after a loss of power: the end of its journal is gone, all of it is
an older copy, or a bit of the journal or the snapshot has turned.  It befalls a
cluster of three voters or more that is at peace, and no other fault comes until
it is settled.  All invariants hold meanwhile, and

- a turned bit stops the node at its start with StorageError;
- a disk that lacks a committed entry that it acknowledged to the leader, which goes on
  leading, is never taken in by it again; every other voter parts with it `_PARTED_S`
  after it has applied what the leader writes of it, and its process ends, convinced by a
  majority of the voters that its log names, within `SETTLED_S`, where so many are left;
- one that lost nothing is taken in, and catches up within that time.  One that lost
  what was not committed may be either.

A node that was kept out, or refused to start, is removed, and a new one takes its place.

Once the others have committed an entry above all that the disk may have acknowledged, no
vote of it can take anything back: half of the leaders lose their power then, and the disk
is kept out or catches up.  Where the leader is lost earlier, nobody can know what the disk
has forgotten: nothing is promised, and the run ends without a judgement.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

from cyoloctl.errors import CyoloctlError, StorageError
from cyoloctl.model import majority, name_of
from cyoloctl.raft.peers import OLDER
from cyoloctl.sim.joining import admit
from cyoloctl.sim.node import Node
from cyoloctl.sim.timeline import HANDOVER
from cyoloctl.sim.world import World

__all__ = ["SETTLED_S", "Dishonesty"]

SETTLED_S = 8.0
_PARTED_S = 1.5
_EVERY_S = 0.05
_ASK_S = 0.5
_OLD_COPIES = 4


@dataclass(slots=True)
class _Case:
    """node: whose disk lied.  leader, life, term: who led then.  top: the end of its log then.

    kept: the end of the disk's log now.  forgot: it held a committed entry, as that leader knows, and does
    not any more.  same: it forgot nothing.  dies: the leader, once nothing can be taken back.
    """

    node: Node
    leader: Node
    life: int
    term: int
    top: int
    kept: int
    forgot: bool
    same: bool
    rot: bool
    dies: bool
    until: float
    safe: bool = False
    """An entry above `top` is committed."""
    known: dict[str, float] = field(default_factory=dict)
    """Voters that have a link with the node, and have applied that its disk held more: since when."""


class Dishonesty:
    """Lets one disk of a world lie at a time, and judges what comes of it."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world, self._time, self._rng = world, world.time, rng
        self._replaced = 0
        self._copies: dict[str, list[Any]] = {}
        self.pending = False

    def remember(self) -> None:
        """Keep a copy of every disk, as a backup would."""
        for name, node in self._world.nodes.items():
            if not node.memory:
                copies = self._copies.setdefault(name, [])
                copies.append(node.disk.image())
                del copies[:-_OLD_COPIES]

    def befall(self) -> bool:
        """Lose the power of a node, and have its disk lie."""
        leader = self._calm_leader()
        if leader is None or leader.replica is None:
            return False
        nodes = [node for node in self._world.running() if not node.memory and self._votes(node)]
        how = self._rng.choice(("tail", "older", "older", "journal", "snapshot"))
        rot = how in ("journal", "snapshot")
        nodes = [node for node in nodes if rot or node is not leader]
        if not nodes:
            return False
        node = self._rng.choice(nodes)
        knows, top = leader.replica.acknowledged(node.raft_id), leader.journal.last_index
        life, term = leader.life, leader.replica.term()
        covered = 0 if node.snapshots.meta is None else node.snapshots.meta.index
        node.stop(power=True)
        before = node.disk.record()
        if how == "tail":
            node.disk.lose_tail(self._rng.choice((1, 1, 2, 5, 20)), covered)
        elif how == "older":
            node.disk.roll_back(self._rng.choice(self._copies[node.name]))
        else:
            how = node.disk.rot(how, self._rng)
        kept = node.disk.record().last_index
        forgot = not rot and kept < knows
        same = node.disk.record() == before
        dies = forgot and not leader.memory and self._rng.random() < 0.5
        self._time.log("the disk of %s lies: %s", node.name, how)
        self._time.count(f"disk lied: {how}")
        self.pending = True
        node.start_later()
        until = self._time.now + SETTLED_S
        case = _Case(node, leader, life, term, top, kept, forgot, same, rot, dies, until)
        self._time.later(_EVERY_S, partial(self._look, case))
        return True

    def _votes(self, node: Node) -> bool:
        return node.raft_id in self._world.invariants.voters()

    def _calm_leader(self) -> Node | None:
        """The leader whom all follow, where nothing else is wrong."""
        world, leaders = self._world, self._world.leaders()
        members = [n for n in world.nodes.values() if not world.invariants.was_removed(n.raft_id)]
        if self.pending or len(leaders) != 1 or not all(node.is_sound() for node in members):
            return None
        leader, voters = leaders[0], world.invariants.voters()
        handed = self._time.now - self._time.disturbed_at(HANDOVER)
        sound = all(world.network.is_sound(a.name, b.name) for a, b in combinations(members, 2))
        if len(voters) < 3 or handed < 1.0 or not sound or not all(node.replica for node in members):
            return None
        assert leader.replica is not None
        for node in members:
            assert node.replica is not None
            if node.replica.leader() != leader.raft_id or node.replica.voters() != voters:
                return None
            if node.journal.last_term != leader.replica.term():
                return None
        return leader

    def _look(self, case: _Case) -> None:
        """Whether it is settled by now."""
        node, time = case.node, self._time
        if case.rot:
            if node.barred is None and node.replica is None and time.now < case.until:
                time.later(_EVERY_S, partial(self._look, case))
            elif not isinstance(node.barred, StorageError):
                time.fail("bit rot", f"{node.name} started on a disk with a turned bit")
            else:
                self._settle(case, "refused to start: bit rot")
            return
        if not self._leads(case):
            self._look_without_leader(case)
        elif node.barred is not None:
            self._settle(case, "kept out as older disk: by a majority")
        elif self._came_back(case, case.leader):
            if case.forgot:
                time.fail("copy", f"{node.name} is taken in, and forgot what it had acknowledged")
            self._end(case, "came back unnoticed")
        elif self._is_told(case) and not case.forgot:
            if case.same:
                time.fail("copy", f"{node.name} is kept out, and forgot nothing")
            self._bar(case, "kept out as older disk: by the leader")
        elif time.now > case.until and self._is_told(case) and not self._can_be_convinced(node):
            self._bar(case, "kept out as older disk: by all, too few to end it")
        elif time.now > case.until:
            time.fail("copy", f"{node.name}, whose disk lied, is neither kept out nor taken in")
        else:
            self._check_parted(case)
            time.later(_EVERY_S, partial(self._look, case))

    def _can_be_convinced(self, node: Node) -> bool:
        """Whether a majority of the voters that the node's log names is there to keep it out."""
        assert node.replica is not None
        voters = node.replica.voter_names()
        others = {other.name for other in self._world.running()} - {node.name}
        return len(voters & others) >= majority(len(voters))

    def _bar(self, case: _Case, outcome: str) -> None:
        """The operator ends the process."""
        case.node.barred = OLDER
        case.node.stop(power=False)
        self._settle(case, outcome)

    def _leads(self, case: _Case) -> bool:
        """Whether the leader of then leads; its power is lost where it is to be."""
        leader, replica = case.leader, case.leader.replica
        if leader.life != case.life or replica is None or replica.term() != case.term:
            return False
        case.safe = replica.applied_index() > case.top
        if case.safe and case.dies and self._is_told(case):
            self._time.count("leader lost after a disk forgot")
            leader.stop(power=True)
            leader.start_later()
            case.until = self._time.now + SETTLED_S
            return False
        return True

    def _look_without_leader(self, case: _Case) -> None:
        """What the disk forgot was committed by others, or nobody can tell."""
        node, time = case.node, self._time
        if not case.safe:
            time.give_up("the leader was lost while a disk had forgotten")
        elif node.barred is not None:
            self._settle(case, "kept out as older disk: after the leader was lost")
        elif any(self._came_back(case, leader) for leader in self._world.leaders()):
            self._end(case, "caught up after the leader was lost")
        elif time.now > case.until:
            time.fail("copy", f"{node.name}, whose disk lied, is neither kept out nor taken in")
        else:
            time.later(_EVERY_S, partial(self._look, case))

    def _is_told(self, case: _Case) -> bool:
        """Whether the leader has told the process that it is kept out."""
        node = case.node
        return node.replica is not None and case.leader.name in node.verdicts.kept_out_by(self._time.now)

    def _check_parted(self, case: _Case) -> None:
        """Whoever has applied that the disk held more has no link with it."""
        for other in self._world.running():
            known = other.state.presence.get(case.node.name)
            if known is None or known.index <= case.kept or case.node.name not in other.links.peers():
                case.known.pop(other.name, None)
            elif self._time.now > case.known.setdefault(other.name, self._time.now) + _PARTED_S:
                claim = f"{other.name} keeps a link with {case.node.name}, and knows that its disk forgot"
                self._time.fail("copy", claim)

    def _end(self, case: _Case, outcome: str) -> None:
        self._time.count(outcome)
        self.pending = False

    @staticmethod
    def _came_back(case: _Case, leader: Node) -> bool:
        node = case.node
        linked = node.name in leader.links.peers()
        return linked and node.replica is not None and node.replica.applied_index() >= case.top

    def _settle(self, case: _Case, outcome: str) -> None:
        self._time.count(outcome)
        self._remove(case.node)

    def _remove(self, node: Node) -> None:
        """Remove the node, as its operator is told to; a new one takes its place."""
        world = self._world
        if world.invariants.was_removed(node.raft_id):
            self.pending = False
            self._time.count("removed for its disk")
            if world.working:
                self._replaced += 1
                admit(world, f"r{self._replaced}", memory=False, learner=False)
            return
        for leader in world.leaders()[-1:]:
            leader.put(leader.life, partial(self._ask, leader, node))
        self._time.later(_ASK_S, partial(self._remove, node))

    @staticmethod
    def _ask(leader: Node, node: Node) -> None:
        def done(index: Any, error: CyoloctlError | None) -> None:
            if error is None:
                leader.changed("remove", node.raft_id, index)
                leader.upkeep.forget(name_of(node.raft_id))

        if leader.replica is not None:
            leader.replica.remove(node.raft_id, done)
