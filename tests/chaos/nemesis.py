"""The faults, and who decides when.

Every fault is a pair of functions: begin it on chosen nodes, end it.  The
nemesis begins and ends them from the main thread, one at a time or two
together on different nodes, and looks after processes that end by themselves:
only a node whose disk fails may.  Transitions (transitions.py) go on beside them.
"""

from __future__ import annotations

import heapq
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cyoloctl.errors import CyoloctlError
from tests.chaos.cluster import FaultCluster, FaultNode
from tests.chaos.history import History
from tests.chaos.recovery import RECOVER
from tests.chaos.transitions import TRANSITIONS, Transitions

__all__ = ["EVERYTHING", "FAULTS", "Event", "Nemesis"]

_DISK_LIMIT_S = 12.0
"""How long a node may go on after its disk failed."""

_DAY_S = 86_400
_ENDED_S = 60.0
"""How long a transition may go on after the last fault."""

_CLOCK_STEPS_S = (
    -400 * _DAY_S, -60 * _DAY_S, -90_000, -3600, -90, -3, 3, 90, 3600, 3 * _DAY_S, 60 * _DAY_S, 400 * _DAY_S,
    3 * 365 * _DAY_S,
)  # fmt: skip
"""Besides these, to 1970: a clock without a battery."""


@dataclass(slots=True)
class Event:
    """One fault: from when to when, in seconds since the run began, and on what."""

    fault: str
    detail: str
    start_s: float
    end_s: float | None = None


@dataclass(slots=True)
class _Active:
    event: Event
    nodes: list[FaultNode]
    heal: Callable[[], None]
    whole: bool


@dataclass(order=True, slots=True)
class _Timer:
    at_s: float
    number: int
    active: _Active = field(compare=False)


class Nemesis:
    """Injects faults until a time is reached.

    faults: names out of EVERYTHING.  Everything random comes from the seed; what
    the threads of the operating system do with it does not.
    """

    def __init__(self, cluster: FaultCluster, history: History, faults: Sequence[str], seed: int) -> None:
        self.cluster = cluster
        self.events: list[Event] = []
        self.findings: list[str] = []
        self._history = history
        self._faults = list(faults)
        self._rng = random.Random(f"nemesis/{seed}")
        self.transitions = Transitions(cluster, history, random.Random(f"transitions/{seed}"))
        self._timers: list[_Timer] = []
        self._numbers = 0
        self._pause = threading.Event()

    # --- running ----------------------------------------------------------------------------------

    def run(self, until_s: float) -> None:
        """Inject until that many seconds after the run began, then heal everything."""
        now = self._history.now
        next_s = now() + 1.5
        # Each fault once in random order before any comes twice.
        bag: list[str] = []
        while now() < until_s:
            self._look_after()
            self._look_at_transition()
            while self._timers and self._timers[0].at_s <= now():
                self._end(heapq.heappop(self._timers).active)
            if now() >= next_s and len(self._timers) < 2 and (fault := self._next(bag)):
                if fault in TRANSITIONS:
                    self.transitions.begin(fault)
                else:
                    self._begin(fault)
                together = len(self._faults) > 1 and self._rng.random() < 0.35
                next_s = now() + (0.3 if together else self._rng.uniform(2.0, 6.0))
            self._pause.wait(0.02)
        while self._timers:
            self._end(heapq.heappop(self._timers).active)
        self.cluster.network.calm()
        last_s = now() + _ENDED_S
        while self.transitions.under_way and now() < last_s:
            self._look_after()
            self._look_at_transition()
            self._pause.wait(0.02)
        if self.transitions.under_way:
            self.findings.append(f"a transition had not ended {_ENDED_S:g} s after the last fault")
        self.findings += self.transitions.findings
        self.transitions.close()
        self._look_after()

    def _next(self, bag: list[str]) -> str:
        """The next fault out of the bag; empty while it holds transitions only and one is under way."""
        if not bag:
            bag += self._rng.sample(self._faults, len(self._faults))
        for fault in reversed(bag):
            if fault not in TRANSITIONS or not self.transitions.under_way:
                bag.remove(fault)
                return fault
        return ""

    def _look_at_transition(self) -> None:
        ended = self.transitions.look()
        if ended is not None:
            fault, detail, start_s = ended
            self.events.append(Event(fault, detail, start_s, self._history.now()))

    def _look_after(self) -> None:
        """Note processes that ended by themselves; start again those that had no reason to."""
        for node in self.cluster.nodes.values():
            status = node.ended()
            if status is None:
                continue
            where = f"{self._history.now():.1f} s: {node.name} ended by itself with status {status}"
            if node.excused and status == node.excused_status:
                now_s = self._history.now()
                self.events.append(Event(f"exit {status}", node.name, now_s, now_s))
            else:
                self.findings.append(f"{where} ({node.excused or 'no fault on it'}): {node.log_tail(600)}")
            if not node.excused:
                node.launch()

    def _begin(self, fault: str) -> None:
        begin, whole, (shortest, longest) = FAULTS[fault]
        free = [node for node in self.cluster.nodes.values() if not node.busy]
        if whole and (self._timers or len(free) < len(self.cluster.nodes)):
            return
        if not free:
            return
        start_s = self._history.now()
        made = begin(self, free)
        if made is None:
            return
        nodes, detail, heal = made
        for node in nodes:
            node.busy = True
        event = Event(fault, detail, start_s)
        self.events.append(event)
        self._numbers += 1
        end_s = self._history.now() + self._rng.uniform(shortest, longest)
        heapq.heappush(self._timers, _Timer(end_s, self._numbers, _Active(event, nodes, heal, whole)))

    def _end(self, active: _Active) -> None:
        active.heal()
        active.event.end_s = self._history.now()
        for node in active.nodes:
            node.busy = False

    # --- choosing ---------------------------------------------------------------------------------

    def _victim(self, free: Sequence[FaultNode]) -> FaultNode:
        """The leader half the time: that is where it hurts."""
        if self._rng.random() < 0.5:
            leader = self.cluster.leader()
            for node in free:
                if node.name == leader:
                    return node
        return self._rng.choice(list(free))

    def _minority(self, free: Sequence[FaultNode]) -> list[FaultNode]:
        first = self._victim(free)
        most = (len(self.cluster.nodes) - 1) // 2
        others = [node for node in free if node is not first]
        return [first, *self._rng.sample(others, min(len(others), self._rng.randint(0, most - 1)))]

    def _named(self, nodes: Sequence[FaultNode]) -> str:
        leader = self.cluster.leader()
        return " ".join(f"{node.name}{' (leader)' if node.name == leader else ''}" for node in nodes)

    # --- the faults -------------------------------------------------------------------------------

    def kill(self, free: Sequence[FaultNode]) -> _Made:
        nodes = self._minority(free)
        detail = self._named(nodes)
        for node in nodes:
            node.kill()

        def heal() -> None:
            for node in nodes:
                node.launch()

        return nodes, detail, heal

    def kill_all(self, free: Sequence[FaultNode]) -> _Made:
        for node in free:
            node.signal(signal.SIGKILL)
        for node in free:
            node.kill()

        def heal() -> None:
            for node in free:
                node.launch()

        return list(free), "all", heal

    def power_cut(self, free: Sequence[FaultNode]) -> _Made:
        """All at once, and with them everything that no disk has been told to keep."""
        for node in free:
            node.signal(signal.SIGSTOP)
        for node in free:
            node.disk.abort()
        for node in free:
            node.kill()

        def heal() -> None:
            for node in free:
                node.disk.repair()
                node.launch()

        return list(free), "all", heal

    def pause(self, free: Sequence[FaultNode]) -> _Made:
        nodes = self._minority(free)
        detail = self._named(nodes)
        for node in nodes:
            node.signal(signal.SIGSTOP)

        def heal() -> None:
            for node in nodes:
                node.signal(signal.SIGCONT)

        return nodes, detail, heal

    def partition(self, free: Sequence[FaultNode]) -> _Made:
        nodes = self._minority(free)
        inside = {node.name for node in nodes}
        pairs = [
            pair
            for name in inside
            for other in self.cluster.nodes
            if other not in inside
            for pair in ((name, other), (other, name))
        ]
        return self._cut(nodes, self._named(nodes), pairs)

    def one_way(self, free: Sequence[FaultNode]) -> _Made:
        """One node is heard and hears nothing, or the other way round."""
        node = self._victim(free)
        others = [name for name in self.cluster.nodes if name != node.name]
        if self._rng.random() < 0.5:
            return self._cut([node], f"to {self._named([node])}", [(other, node.name) for other in others])
        return self._cut([node], f"from {self._named([node])}", [(node.name, other) for other in others])

    def link(self, free: Sequence[FaultNode]) -> _Made:
        """Two nodes do not reach each other; everybody else reaches both."""
        node = self._victim(free)
        other = self._rng.choice([name for name in self.cluster.nodes if name != node.name])
        pairs = [(node.name, other), (other, node.name)]
        return self._cut([node], f"{self._named([node])} - {other}", pairs)

    def flap(self, free: Sequence[FaultNode]) -> _Made:
        """Everybody is cut off from everybody."""
        names = list(self.cluster.nodes)
        return self._cut(list(free), "all", [(a, b) for a in names for b in names if a != b])

    def _cut(self, nodes: list[FaultNode], detail: str, pairs: Sequence[tuple[str, str]]) -> _Made:
        new = [pair for pair in pairs if pair not in self.cluster.network.cuts()]
        for pair in new:
            self.cluster.network.cut(*pair)

        def heal() -> None:
            for pair in new:
                self.cluster.network.mend(*pair)

        return nodes, detail, heal

    def weather(self, free: Sequence[FaultNode]) -> _Made:
        """Delay, packets that overtake each other, loss: everywhere or around one node."""
        if any(timer.active.event.fault == "weather" for timer in self._timers):
            return None
        delay_ms = self._rng.choice([1, 10, 40, 150])
        jitter_ms = self._rng.choice([0, delay_ms, 3 * delay_ms])
        loss = self._rng.choice([0.0, 0.01, 0.05])
        around = [] if self._rng.random() < 0.5 else [self._victim(free)]
        only = [self.cluster.network.address(node.name) for node in around]
        self.cluster.network.weather(delay_ms=delay_ms, jitter_ms=jitter_ms, loss=loss, only=only)
        where = self._named(around) or "all"
        detail = f"{where}: {delay_ms} ms + {jitter_ms} ms, loss {loss:.0%}"
        return [], detail, self.cluster.network.weather

    def disk_full(self, free: Sequence[FaultNode]) -> _Made:
        node = self._victim(free)
        detail = self._named([node])
        node.excuse("its disk is full")
        node.disk.fill()

        def heal() -> None:
            node.disk.free()
            # It may have found room, or not have needed any: then it goes on.
            self._look_after()
            node.excuse("")
            if not node.running():
                node.kill()
                node.launch()

        return [node], detail, heal

    def read_only(self, free: Sequence[FaultNode]) -> _Made:
        node = self._victim(free)
        detail = self._named([node])
        node.excuse("its disk is read-only")
        node.disk.abort()
        failed_s = self._history.now()

        def heal() -> None:
            # In a majority it must have written by now; cut off, if from the leader alone, it may have had
            # nothing to write, and no cut is mended while we wait here.
            apart = False
            while not apart and node.running() and self._history.now() - failed_s < _DISK_LIMIT_S:
                self._pause.wait(0.05)
                apart = any(node.name in pair for pair in self.cluster.network.cuts())
            self._look_after()
            if node.running() and not apart:
                self.findings.append(
                    f"{self._history.now():.1f} s: {node.name} still ran {_DISK_LIMIT_S:g} s after its disk "
                    "became read-only"
                )
            node.kill()
            node.disk.repair()
            node.excuse("")
            node.launch()

        return [node], detail, heal

    def slow_disk(self, free: Sequence[FaultNode]) -> _Made:
        """Syncs take long: of one node, or of all."""
        nodes = list(free) if self._rng.random() < 0.3 else [self._victim(free)]
        sync_s = self._rng.choice([0.005, 0.02, 0.02, 0.2])
        for node in nodes:
            node.slow_down(sync_s)

        def heal() -> None:
            for node in nodes:
                node.slow_down(0)

        return [], f"{self._named(nodes)}: {sync_s * 1000:g} ms", heal

    def clock(self, free: Sequence[FaultNode]) -> _Made:
        """Wall clocks of a minority step, some at a start, some of a leader; later they step back."""
        if any(timer.active.event.fault == "clock" for timer in self._timers):
            return None  # two at once could be a majority
        nodes = [node for node in self._minority(free) if node.clock_path is not None]
        if not nodes:
            return None
        if self._rng.random() < 0.5:
            self._transfer(nodes[0].name)
        steps = {}
        for node in nodes:
            start = self._rng.random() < 0.4
            step_s = self._rng.choice([*_CLOCK_STEPS_S, 3600 - int(time.time())])
            steps[node.name] = f"{step_s:+d} s{' at its start' if start else ''}"
            node.step_clock(step_s)
            if start:
                node.kill()
                node.launch()

        def heal() -> None:
            for node in nodes:
                node.step_clock(0)
                self._look_after()
                if not node.running():
                    node.launch()

        leader = self.cluster.leader()
        named = [f"{name}{' (leader)' if name == leader else ''} {text}" for name, text in steps.items()]
        return nodes, ", ".join(named), heal

    def transfer(self, free: Sequence[FaultNode]) -> _Made:
        """Not a fault: leadership moves under load."""
        node = self._rng.choice(list(free))
        self._transfer(node.name)
        return [], f"to {node.name}", lambda: None

    def _transfer(self, name: str) -> None:
        leader = self.cluster.nodes.get(self.cluster.leader())
        if leader is not None:
            try:
                leader.client(1.0).transfer_leadership(name)
            except CyoloctlError:
                return  # refused or lost: there may be no leader to ask just now


_Made = tuple[list[FaultNode], str, Callable[[], None]] | None

FAULTS: dict[str, tuple[Callable[[Nemesis, Sequence[FaultNode]], _Made], bool, tuple[float, float]]] = {
    # name: how it begins, whether it needs every node, and how long it lasts in seconds
    "kill": (Nemesis.kill, False, (0.3, 4.0)),
    "kill-all": (Nemesis.kill_all, True, (0.0, 2.0)),
    "power-cut": (Nemesis.power_cut, True, (0.0, 2.0)),
    "pause": (Nemesis.pause, False, (0.5, 6.0)),
    "partition": (Nemesis.partition, False, (2.0, 8.0)),
    "one-way": (Nemesis.one_way, False, (2.0, 8.0)),
    "link": (Nemesis.link, False, (2.0, 8.0)),
    "flap": (Nemesis.flap, True, (0.5, 3.0)),
    "weather": (Nemesis.weather, False, (3.0, 8.0)),
    "disk-full": (Nemesis.disk_full, False, (2.0, 6.0)),
    "read-only": (Nemesis.read_only, False, (1.0, 3.0)),
    "slow-disk": (Nemesis.slow_disk, False, (2.0, 8.0)),
    "clock": (Nemesis.clock, False, (3.0, 8.0)),
    "transfer": (Nemesis.transfer, False, (0.0, 0.1)),
}

EVERYTHING = (*FAULTS, *TRANSITIONS, RECOVER)
"""The names of all faults; the last one comes when the others are over, and is not the nemesis'."""
