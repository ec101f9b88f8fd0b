"""What an operator sees while it breaks: each lasting fault is named by a log line and by ``status``.

The nodes' own log lines are kept, at the default level, instead of silenced,
and `MemberStatus` is asked over the simulated replica and links, as the node
asks it once a second for its log and whenever a caller wants to know.  Judged are

- a direction that is cut for `NAMED_S`: the end that hears nothing has logged so
  of that peer, and its problems name the peer;
- a wall clock that is wrong for `CLOCK_NAMED_S`: its node, every node that it has told
  its time since, and every node whose link with it nothing befell in that time name it;
  a question that is lost on a cut way gets no answer, whatever still comes back;
- a process that its disk ends: it has logged that, with the code of the error.

A node that something else befell in that time is not judged: it may be just
starting, or stand still.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from cyoloctl.errors import CyoloctlError
from cyoloctl.members.problems import CLOCK_OFF_MS
from cyoloctl.members.status import MemberStatus
from cyoloctl.model import Address, ClusterId, LocalNode, NodeName, Storage
from cyoloctl.raft.engine import Engine
from cyoloctl.raft.peers import PeerInfo
from cyoloctl.raft.status import ReplicaStatus
from cyoloctl.sim.node import Node
from cyoloctl.sim.world import World

__all__ = ["CLOCK_NAMED_S", "NAMED_S", "Causes", "listening"]

NAMED_S = 4.0
"""A fault is named within this time: so a real node, which looks once a second, has logged it within five."""
CLOCK_NAMED_S = 2.5
"""The same for a wrong wall clock: peers are asked for theirs once a second."""

_EVERY_S = 0.5
_AGAIN_S = 2.0
"""So often a clock that stays wrong is judged."""
_LOGGERS = ("cyoloctl.raft", "cyoloctl.peer")
_SILENCED = ("pysyncobj.syncobj",)


class _Line(NamedTuple):
    at: float
    event: str


class _Listener(logging.Handler):
    """Notes what the nodes log; there is one run at a time."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.causes: Causes | None = None

    def createLock(self) -> None:
        """One thread, and many lines."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """In place of filters and the lock."""
        if self.causes is not None:
            self.causes.hear(str(record.msg), vars(record))
        return True


_LISTENER = _Listener()


@contextmanager
def listening() -> Iterator[None]:
    """The nodes' logs go to the `Causes` that was made last, and nowhere else."""
    loggers = [logging.getLogger(name) for name in (*_LOGGERS, *_SILENCED)]
    before = [(each.disabled, each.level, each.propagate) for each in loggers]
    for each in loggers:
        each.propagate, each.disabled = False, each.name in _SILENCED
        each.setLevel(logging.INFO)
        each.addHandler(_LISTENER)
    try:
        yield
    finally:
        _LISTENER.causes = None
        for each, (disabled, level, propagate) in zip(loggers, before, strict=True):
            each.removeHandler(_LISTENER)
            each.disabled, each.propagate = disabled, propagate
            each.setLevel(level)


class _Seen:
    """A simulated node's replica and links, as far as `MemberStatus` asks its engine."""

    def __init__(self, node: Node) -> None:
        assert node.replica is not None
        self._replica, self._links = node.replica, node.links
        self.clock = node.cluster_clock

    def status(self) -> ReplicaStatus:
        return self._replica.status()

    def voter_names(self) -> frozenset[str]:
        return self._replica.voter_names()

    def peers(self) -> dict[str, PeerInfo]:
        return self._links.peers()

    def absences(self) -> dict[str, str]:
        return self._links.dialling.absences()

    def farewells(self) -> dict[str, str]:
        return self._links.dialling.farewells()

    def refusals(self) -> list[Any]:
        return self._links.refusals.lately()

    def kept_out_by(self) -> dict[str, str]:
        return {}

    def fsync_p99_ms(self) -> float:
        return 0.0

    def sync_ms(self) -> None:
        return None

    def is_short(self) -> bool:
        return self._replica.room.is_short()

    def slow_sync_ms(self) -> None:
        return None


class _Self(NamedTuple):
    """See LocalNode."""

    name: NodeName
    cluster_id: ClusterId = ClusterId("simulation")
    cluster: NodeName = NodeName("simulation")
    storage: Storage = "disk"
    advertise: Address = Address("simulated", 1)


class Causes:
    """Judges whether what befalls the nodes of a world is named by them."""

    def __init__(self, world: World) -> None:
        self._world, self._time = world, world.time
        self._last: dict[tuple[str, int, str], _Line] = {}
        """Name and life of a node, and a peer -> the last line about that peer."""
        self._stopped: dict[str, _Line] = {}  # node -> when its replica stopped, and the code
        self._judged: set[tuple[object, ...]] = set()
        _LISTENER.causes = world.time.witness = self

    def start(self) -> None:
        """Begin to look."""
        self._time.later(NAMED_S, self._look)

    def hear(self, event: str, fields: dict[str, Any]) -> None:
        """A line of the node that acts."""
        time = self._time
        peer = fields.get("peer")
        if peer is not None:
            self._last[time.acting, self._world.nodes[time.acting].life, peer] = _Line(time.now, event)
        elif event == "the replica stopped":
            self._stopped[time.acting] = _Line(time.now, fields["code"])

    def ended(self, name: str, error: CyoloctlError) -> None:
        """The disk ended this process."""
        if self._stopped.get(name) != (self._time.now, error.code):
            self._time.fail("unexplained", f"{name} ended without a line on its disk: {error.message}")
        self._time.count("named: disk")

    def _look(self) -> None:
        time = self._time
        time.later(_EVERY_S, self._look)
        since = time.now - NAMED_S
        calm = self._calm(since)
        for source, target, cut_at in self._world.network.cut_ways():
            if source in calm and target in calm and cut_at <= since and self._is_new(source, target, cut_at):
                self._link(calm[target], source, cut_at)
        if time.monotonic_faults:
            return
        since = time.now - CLOCK_NAMED_S
        calm = self._calm(since)
        for name, node in calm.items():
            off_at = node.wall_off_since()
            if off_at is not None and off_at <= since and self._is_new(name, off_at, since // _AGAIN_S):
                self._clock(node, off_at, list(calm.values()))

    def _calm(self, since: float) -> dict[str, Node]:
        """Nodes that nothing has befallen since then, but what lies between them and their clocks."""
        return {
            name: node
            for name, node in self._world.nodes.items()
            if node.is_sound() and self._time.disturbed_at(name) <= since
        }

    def _is_new(self, *what: object) -> bool:
        """True once for each fault."""
        if what in self._judged:
            return False
        self._judged.add(what)
        return True

    # The judgements.

    def _link(self, node: Node, source: str, cut_at: float) -> None:
        """Nothing of the source has reached this node for `NAMED_S`."""
        line = self._last.get((node.name, node.life, source))
        is_linked = source in node.links.peers()
        if line is None:
            return  # they have not met yet: a hello is waited for longer
        said = line.event != "peer connected" and (line.at >= cut_at or not is_linked)
        if not said:
            self._fail(node, f"the way from {source} is cut since {cut_at:.3f}, and its last line is {line}")
        elif self._is_shown(node, source):
            found = self._problems(node)
            if ("member_away", source) not in found and not any(code == "link" for code, _ in found):
                self._fail(
                    node, f"the way from {source} is cut since {cut_at:.3f}; problems: {sorted(found)}"
                )
        self._time.count("named: link")

    def _clock(self, wrong: Node, off_at: float, others: list[Node]) -> None:
        """The wall clock of this node has been wrong for `CLOCK_NAMED_S`."""
        wrong_for_s = self._time.now - off_at
        true_ms = self._time.true_unix_ms()
        if abs(wrong.wall_unix_ms() - true_ms) <= 2 * CLOCK_OFF_MS:
            return
        for node in others:
            known_ms = node.cluster_clock.now_unix_ms()
            told = wrong.name in node.cluster_clock.skews_ms(since=node.clock() - wrong_for_s)
            hears = told or self._must_have_asked(node, wrong)
            # After everybody slept, cluster time is behind for a while.
            if hears and abs(known_ms - true_ms) < CLOCK_OFF_MS / 2:
                found = self._problems(node)
                if self._is_shown(node, wrong.name) and ("clock", wrong.name) not in found:
                    shown = f"the clock of {wrong.name} shows {wrong.wall_unix_ms()} at {true_ms}"
                    self._fail(node, f"{shown}; problems: {sorted(found)}")
                self._time.count("named: clock")

    def _must_have_asked(self, node: Node, wrong: Node) -> bool:
        """Whether questions and answers passed for `CLOCK_NAMED_S`, by the network and not by the node."""
        peer = node.links.peers().get(wrong.name)
        calm_at = self._time.disturbed_at(frozenset((node.name, wrong.name))) + CLOCK_NAMED_S
        is_sound = self._world.network.is_sound(node.name, wrong.name) and calm_at <= self._time.now
        # A link with an earlier process stays for a while, where two processes may be on one disk.
        if peer is None or (peer.boots, peer.boot) != (wrong.boots, wrong.boot):
            return False
        return is_sound and peer.pongs > 1 and not peer.silent

    def _fail(self, node: Node, claim: str) -> None:
        self._time.fail("unexplained", f"{node.name} does not name it in time: {claim}")

    @staticmethod
    def _is_shown(node: Node, name: str) -> bool:
        """Whether `status` has a row of this member: clients write into the register as they like."""
        assert node.replica is not None
        return name in node.replica.voter_names() and name not in node.state.members.removed()

    def _problems(self, node: Node) -> set[tuple[str, str]]:
        """Code and member of what the node's `status` would show now."""
        status = MemberStatus(
            cast(Engine, _Seen(node)),
            cast(LocalNode, _Self(NodeName(node.name))),
            node.state.members,
            certificates=dict,
            problems=list,
            clock=lambda: self._time.now,
        )
        return {(found["code"], str(found["member"])) for found in status.status()["problems"]}
