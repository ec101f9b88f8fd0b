"""Leadership handed to another voter (Ongaro, dissertation 3.10).

New commands wait.  As soon as the target's log equals the leader's it is asked
to stand for election at once, again and again until it leads, time is up, or
it has answered nothing for a while.
A leader does so when it is asked to, and by itself when another voter reaches
more members (`vantage.py`) or has a better disk (`disks.py`).  Some voters
stand back: no leader hands leadership to them, and one that was elected,
because nobody else could be, hands it over as soon as another voter has
caught up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from cyoloctl.errors import Conflict, CyoloctlError, NoLeader, Unavailable
from cyoloctl.model import RaftId, majority, name_of
from cyoloctl.raft.core import Core
from cyoloctl.raft.disks import DiskChoice, DiskState, lack_of_room
from cyoloctl.raft.progress import NEVER, REPLICATE
from cyoloctl.raft.proposals import Done
from cyoloctl.raft.vantage import Vantage, View, reach
from cyoloctl.raft.vendor import Node

__all__ = ["Handover"]

_LOOK_S = 0.25
"""Between two looks for a better place to lead from."""

_GIVE_WAY_EVERY_S = 5.0
"""Between two attempts of a leader that stands back: writes wait while one lasts."""

_log = logging.getLogger("cyoloctl.raft")


@dataclass(slots=True)
class _Going:
    target: Node
    began: float
    until: float
    next_try: float
    callback: Done


class Handover:
    """The transfer of leadership that is going on, if one is."""

    def __init__(self, core: Core, view: Callable[[], View]) -> None:
        """view: see `Replica`."""
        self._core = core
        self._view = view
        self._vantage, self._disks = Vantage(), DiskChoice()
        self._looked_at = NEVER
        self._gave_way_at = NEVER
        self.lack: str | None = None
        """Why new commands find no room, as of the last look."""
        self._going: _Going | None = None

    def is_going(self) -> bool:
        """True while new commands wait for the next leader."""
        return self._going is not None

    def next_deadline(self) -> float:
        """When `lead` must be called at the latest; inf while nothing is going on."""
        return math.inf if self._going is None else self._going.next_try

    def leads(self) -> None:
        """This node begins to lead."""
        now = self._core.clock()
        self._vantage.leads()
        self._disks.leads()
        self._gave_way_at = NEVER
        self.lack = None
        if now - self._core.asked_to_lead_at < self._core.timing.transfer_limit_s:
            self._vantage.moved(now)

    def begin(self, to: str | None, callback: Done, *, limit_s: float | None = None) -> None:
        """Hand leadership to a voter, None: to whichever holds most.  Leader only.

        Never to one that stands back.

        callback(new leader or None, error): Conflict when there is no such
        connected voter, Unavailable when it did not happen in time.
        """
        core, engine, now = self._core, self._core.engine, self._core.clock()
        if core.failed is not None:
            callback(None, core.failed)
            return
        if not engine.is_leader():
            callback(None, NoLeader("this node is not the leader"))
            return
        if to == core.raft_id:
            callback(core.raft_id, None)
            return
        if self._going is not None:
            callback(None, Conflict("leadership is being transferred already"))
            return
        candidates = [
            node for node in engine.others() if node in engine.connected and not core.stands_back(node.id)
        ]
        if to is not None:
            candidates = [node for node in candidates if node.id == to]
        if not candidates:
            what = "no other voter that may lead is" if to is None else f"{to} is not a voter or not"
            if to is not None and core.stands_back(RaftId(to)):
                what = f"{to} stands back for the other voters, however well it is"
            callback(None, Conflict(f"{what} connected: leadership stays here"))
            return
        target = max(candidates, key=lambda node: (core.progress[node].match_index, node.id))
        until = now + (core.timing.transfer_limit_s if limit_s is None else limit_s)
        self._going = _Going(target, now, until, now, callback)

    def lead(self, now: float) -> None:
        """As leader, in each tick: ask the target once more, or give up."""
        going, engine = self._going, self._core.engine
        if going is None:
            if self._core.stands_back(self._core.raft_id):
                self._give_way(now)
            else:
                self._look(now)
            return
        if now < going.next_try:
            return
        lost = going.target not in engine.connected or going.target not in engine.others()
        if lost or now >= going.until or self._is_silent(going, now):
            self.end(None, Unavailable("leadership could not be transferred in time: it stays here"))
            return
        going.next_try = now + self._core.timing.transfer_retry_s
        if self._core.progress[going.target].match_index == self._core.journal.last_index:
            self._core.send(going.target, {"type": "timeout_now", "term": engine.term()})

    def _is_silent(self, going: _Going, now: float) -> bool:
        """True when the target, sent a heartbeat all the time, has not answered for too long."""
        heard = max(going.began, self._core.progress[going.target].last_heard)
        return now - heard >= self._core.timing.transfer_silence_s

    def _look(self, now: float) -> None:
        """Hand leadership over when another voter reaches more members, or has a better disk."""
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        core = self._core
        others = {name_of(node.id): node for node in core.engine.others()}

        def may_lead(name: str) -> bool:
            if core.stands_back(others[name].id) or not self._has_caught_up(others[name]):
                return False
            return not view.disks.get(name, DiskState()).is_short

        me, own, view = name_of(core.raft_id), core.disk(), self._view()
        voters = frozenset({me, *others})
        told = {name: disk for name, disk in view.disks.items() if name in others}
        connected = [name for name, node in others.items() if node in core.engine.connected]
        self.lack = lack_of_room(me, own, told, connected, len(voters))

        def reaches_enough(name: str) -> bool:
            if own.is_short:  # anybody who can go on is better
                return self._vantage.reaches_majority(name, voters, view)
            return self._vantage.reaches_as_much(name, me, voters, view)

        better = self._vantage.better_place(now, me, voters, view, may_lead)
        faster = self._disks.better_disk(
            now,
            own,
            told,
            lambda name: may_lead(name) and reaches_enough(name),
            waited_s=self._vantage.waited_s(now),
        )
        if better is not None:
            _log.warning("leadership moves to where more members are reached", extra={"to": better})
        elif faster is not None:
            where = "a disk with room" if own.is_short else "a faster disk"
            _log.warning("leadership moves to %s", where, extra={"to": faster})
            better = faster
        if better is not None:
            self._vantage.moved(now)
            self.begin(others[better].id, _moved, limit_s=core.timing.move_limit_s)

    def _has_caught_up(self, node: Node) -> bool:
        """Whether a voter holds nearly all of this leader's log."""
        core, progress = self._core, self._core.progress[node]
        lag = core.journal.last_index - progress.match_index
        return (
            node in core.engine.connected and progress.state is REPLICATE and lag <= core.limits.promote_lag
        )

    def _give_way(self, now: float) -> None:
        """This leader stands back: hand leadership to a voter that holds the log and reaches a majority."""
        core = self._core
        if now - self._gave_way_at < _GIVE_WAY_EVERY_S:
            return
        others = core.engine.others()
        voters, view = frozenset(name_of(node.id) for node in (core.me, *others)), self._view()

        def may_lead(node: Node) -> bool:
            name = name_of(node.id)
            reached = reach(name, voters, view)[0] if name in view.told else voters
            return (
                not core.stands_back(node.id)
                and self._has_caught_up(node)
                and len(reached) >= majority(len(voters))
            )

        ready = [node for node in others if may_lead(node)]
        if ready:
            target = max(ready, key=lambda node: (core.progress[node].match_index, node.id))
            _log.info("leadership goes to a voter that does not stand back", extra={"to": target.id})
            self._gave_way_at = now
            self.begin(target.id, _moved, limit_s=core.timing.move_limit_s)

    def end(self, leader: str | None, error: CyoloctlError | None) -> None:
        """This node has stopped leading, or the transfer failed: tell whoever asked for it."""
        if self._going is not None:
            going, self._going = self._going, None
            going.callback(leader, error)


def _moved(leader: str | None, error: CyoloctlError | None) -> None:
    if error is not None:
        _log.warning("leadership did not move", extra={"reason": error.message})
