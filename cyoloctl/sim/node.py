"""One simulated node, and its life.

A `Node` is what one process of cyoloctl is to its peers: the real replica,
links, journal, snapshot store and state machines, over a simulated disk,
clock and network.  One turn of the event loop is one call of `Node.run`: the
input that has come, then one tick, then the wait for the next input or
deadline.  Everything a node does takes time, so the messages that follow a
sync leave after it.
"""

from __future__ import annotations

import contextlib
import random
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from cyoloctl.errors import CyoloctlError, NoLeader, OutcomeUnknown, VersionMismatch
from cyoloctl.model import RaftId, is_in_memory, name_of
from cyoloctl.raft.clock import MEASURED_S, ClusterClock
from cyoloctl.raft.journal import Entry, Journal
from cyoloctl.raft.links import Link, Links
from cyoloctl.raft.messages import encode
from cyoloctl.raft.peers import LEFT_BEHIND, REMOVED, TOO_OLD, Hello, PeerIdentity, Pong
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.snapshot import SnapshotStore
from cyoloctl.raft.stores import count_start
from cyoloctl.raft.vendor import NO_OP
from cyoloctl.raft.verdicts import Verdicts
from cyoloctl.sim.disk import Crash, Disk, DiskFiles, DiskStore
from cyoloctl.sim.invariants import Invariants, WatchedJournal, WatchedMachine
from cyoloctl.sim.network import End, Network
from cyoloctl.sim.plan import Plan
from cyoloctl.sim.releases import LEVEL_1, LEVEL_2, state_of
from cyoloctl.sim.timeline import RIGHT_MS, Timeline
from cyoloctl.sim.upkeep import Upkeep
from cyoloctl.sim.writing import elsewhere
from cyoloctl.state import AppliedMembership, ClusterState

__all__ = ["Node"]

_SHORTEST_S = 0.001  # as Ticker
_READING_S = 1e-6  # reading the clock takes time (row 26)
_OFF_MS = 120_000  # twice what `status` calls off
_FORGOTTEN_S = MEASURED_S + 3.0  # a clock is believed this long, time on the way included


class Node:
    """One member: its disk, which stays, and its process, which comes and goes."""

    def __init__(
        self,
        plan: Plan,
        time: Timeline,
        network: Network,
        invariants: Invariants,
        *,
        name: str,
        log: list[Entry],
        memory: bool,
        witness: bool = False,
    ) -> None:
        """log: what its disk holds at first.  witness: it was admitted as one.

        memory: every start begins under a new raft id: the first with that log, later ones with an empty one.
        """
        self.plan, self.time, self._network, self.invariants = plan, time, network, invariants
        self.name, self.memory, self.is_witness = name, memory, witness
        self.older = not memory and name in (plan.older or ())  # runs the older of two releases
        self.raft_id = RaftId(f"{name}~0" if memory else name)
        self.boots, self.boot = 0, ""  # of the process, as its hello says
        self.may_die: Callable[[], bool] = lambda: True
        """Asked before the process dies at a step: False where nothing would be promised any more."""
        self.before_change: Callable[[str], None] = lambda what: None
        """Called before its process, as leader, changes the voters."""
        self.rng = random.Random(f"{plan.seed} {name}")
        self._log = log
        self.barred: CyoloctlError | str | None = None
        """Why it is not started again: its disk lied, and was found out."""
        self.life = 0
        self.disk = self._new_disk()
        self.replica: Replica | None = None
        self.left_voters: list[frozenset[RaftId]] = []  # of its log, and of its last roll call
        self.journal: WatchedJournal
        self.snapshots: SnapshotStore
        self.state: ClusterState
        self.machine: WatchedMachine
        self.links: Links
        self.verdicts: Verdicts
        self.upkeep: Upkeep
        self.reading: End | None = None  # whose bytes are being handled
        self._paused_until = self._busy_until = 0.0
        self._remembered: frozenset[str] = frozenset()  # the other members, as peers.json holds them
        self._leaves = self.left_behind = False  # at the end of this turn; by a recovery
        self._sentence: str | None = None  # why its peers keep it out
        self.elapsed = 0.0  # since the present turn began
        self._fuse: int | None = None  # steps until the process dies
        self._stall: tuple[int, float] | None = None  # looks at the clock until it stalls, and for how long
        self._wall_error_ms = self.rng.randint(-RIGHT_MS, RIGHT_MS)
        self._wrong_wall: tuple[float, float, float] | None = None  # shown, since, rate
        self._off_since: float | None = None
        self._righted_at = -_FORGOTTEN_S
        self._rate, self._zero, self._base = 1.0, 0.0, 1000.0
        self._inbox: deque[tuple[int, Callable[[], object]]] = deque()
        self._wake_at: float | None = None
        self._outgoing: dict[RaftId, list[bytes]] = {}
        self._linked: dict[RaftId, End | None] = {}  # peers with a link: where it was made
        self._heard: dict[str, int] = {}  # peer -> its latest process that said hello
        self._dialled: tuple[object, ...] = ()
        self._calls = 0

    # Time.

    def clock(self) -> float:
        """This node's monotonic clock, which may run fast or slow, or leap ahead."""
        self.elapsed += _READING_S
        if self._stall is not None:
            looks, seconds = self._stall
            self._stall = (looks - 1, seconds) if looks > 1 else None
            if self._stall is None:
                self.elapsed += seconds
                self.time.count("stalled in a turn")
                self.time.disturb(self.name, for_s=self.elapsed)
        return self._base + (self.time.now + self.elapsed - self._zero) * self._rate

    def set_clock(self, *, rate: float, leap_s: float) -> None:
        """Let the monotonic clock leap ahead, and run at another rate from now on."""
        self.time.disturb(self.name)
        base = self._base + (self.time.now - self._zero) * self._rate + leap_s
        self._base, self._zero, self._rate = base, self.time.now, rate
        self.wake(self.time.now)

    def wall_unix_ms(self) -> int:
        """The wall clock: right, or wrong in any way."""
        if self._wrong_wall is None:
            return self.time.true_unix_ms() + self._wall_error_ms
        shown, since, rate = self._wrong_wall
        return max(0, int(shown + (self.time.now - since) * 1000 * rate))

    def wall_is_wrong(self) -> bool:
        """True while the wall clock is set wrong."""
        return self._wrong_wall is not None

    def wall_off_since(self) -> float | None:
        """Since when the wall clock has been minutes off; None while it is not."""
        return self._off_since

    def wall_is_believed_wrong(self) -> bool:
        """True while the wall clock is wrong and for a while after, since others still believe it."""
        return self.wall_is_wrong() or self.time.now < self._righted_at + _FORGOTTEN_S

    def set_wall(self, unix_ms: float | None, rate: float = 1.0) -> None:
        """Set the wall clock, and let it run at a rate from now on; None: set it right."""
        if unix_ms is None and self._wrong_wall is not None:
            self._righted_at = self.time.now
        self._wrong_wall = None if unix_ms is None else (unix_ms, self.time.now, rate)
        if unix_ms is None or abs(unix_ms - self.time.true_unix_ms()) < _OFF_MS:
            self._off_since = None
        elif self._off_since is None:
            self._off_since = self.time.now

    def is_up(self) -> bool:
        """See Host."""
        return self.replica is not None

    def is_paused(self) -> bool:
        """See Host."""
        return self.time.now < self._paused_until

    def pause(self, seconds: float) -> None:
        """Stand still for a while."""
        self._paused_until = self.time.now + seconds
        self.time.disturb(self.name, for_s=seconds)

    def stall(self, looks: int, seconds: float) -> None:
        """Lose this time between two steps of a turn, after so many looks at the clock.

        Unlike in a pause, what was read before is acted upon later, and the
        connections that come meanwhile are taken.
        """
        self._stall = looks, seconds

    def is_sound(self) -> bool:
        """True while it runs, and no fault is on it or its disk, nor is one to come."""
        return (
            self.replica is not None
            and not self.older
            and not self.is_paused()
            and self._fuse is None
            and self._stall is None
            and self._rate == 1.0
            and self.disk.is_sound()
        )

    def _took(self, seconds: float) -> None:
        self.elapsed += seconds

    def step(self, what: str) -> None:
        """See Host.  Called before everything that a crash can prevent."""
        if self._fuse is not None:
            self._fuse -= 1
            if self._fuse <= 0:
                self._fuse = None
                if not self.may_die():
                    return
                self.time.count(f"died at {what}")
                self.time.log("%s dies at %s", self.name, what)
                raise Crash

    # Life.

    def _new_disk(self) -> Disk:
        disk = Disk(self.rng)
        journal = Journal(disk.journal)
        for command, index, term in self._log if not (self.memory and self.life) else [(NO_OP, 1, 0)]:
            journal.append(index, term, command)
        journal.sync()
        return disk

    def start(self) -> None:
        """A process starts on what the disk holds."""
        if self.memory and self.life:
            self.raft_id = RaftId(f"{self.name}~{self.life}")
            self.disk = self._new_disk()
        self.invariants.disks[self.raft_id] = self.disk
        self._inbox.clear()
        self._outgoing.clear()
        self._linked.clear()
        self._heard.clear()
        self._dialled = ()
        self.elapsed = 0.0
        self._busy_until = self._paused_until = 0.0
        self._wake_at = None
        self.disk.failures = 0
        self.time.acting = self.name
        self._leaves, self._sentence = False, None
        try:
            self.boots, self.boot = self._open_disk(), str(self.life)
            self.links = self._new_links()
            replica = self._new_replica()
            self.invariants.started(self)
            replica.start()
        except Crash:
            self.stop(power=self.rng.random() < 0.5)
            self.start_later()
            return
        except CyoloctlError as error:
            if not self.disk.is_honest():
                self.barred = error
            elif not self.disk.failures:
                self.time.fail("start", f"{self.name} cannot start: {error.message}")
            self.stop(power=False)
            self.start_later()
            return
        self.replica = replica
        self.time.disturb(self.name)
        self.time.count("start")
        self.time.log("%s starts, log %d to %d", self.name, self.journal.first_index, self.journal.last_index)
        self._know(frozenset())
        self.upkeep = Upkeep(self)
        self.upkeep.start()
        self._busy_until = self.time.now + self.elapsed  # counting the start took a sync
        self.wake(self._busy_until)

    def _open_disk(self) -> int:
        """Open journal and snapshots, and count the start.  Raises Crash, and StorageError of the disk."""
        store = DiskStore(self.disk, self.step, self._took)
        self.journal = WatchedJournal(store, self.invariants, self, lambda: self.time.now + self.elapsed)
        self.snapshots = SnapshotStore(DiskFiles(self.disk, self.step, self._took))
        return 0 if self.memory else count_start(self.journal)

    def _new_links(self) -> Links:
        life = self.life
        # The last word is part of the seed: with another one every seed would be another run.
        rng = random.Random(f"{self.plan.seed} {self.name} {life} sessions")
        level = LEVEL_2.level if self.plan.leveled and not self.older else LEVEL_1.level
        return Links(
            PeerIdentity(
                self.name, self.raft_id, "simulation", self.boot, "simulated:1", "0", self.boots, level
            ),
            self,
            dial=lambda name, address: self._network.dial(self, name),
            serve=self._serve,
            wake=lambda: None,  # the deadlines are read at the end of every turn
            clock=self.clock,
            wall_clock=lambda: self.wall_unix_ms() / 1000,
            jitter=rng.random,
            first_call=rng.getrandbits(62),
            max_unsent_bytes=self.plan.unsent_bytes,
        )

    def _new_replica(self) -> Replica:
        """The replica on the disk, not started."""
        life = self.life
        plan = self.plan
        self.state = state_of(plan, older=self.older)
        self.machine = WatchedMachine(self.state, self.invariants, self)
        self.cluster_clock = ClusterClock(self.name, wall_unix_ms=self.wall_unix_ms, monotonic=self.clock)
        self.verdicts = Verdicts(
            self.name,
            boots=self.boots,
            boot=self.boot,
            register=AppliedMembership(self.state),
            stands_back=self.is_witness,
        )
        self.verdicts.named = self._remembered or frozenset(self._network.hosts) - {self.name}
        replica = Replica(
            self.raft_id,
            journal=self.journal,
            snapshots=self.snapshots,
            machine=self.machine,
            clock=self.clock,
            cluster_clock=self.cluster_clock,
            rng=random.Random(f"{self.plan.seed} {self.name} {life}"),
            send=self._send,
            run_in_background=lambda job: self._run_in_background(life, job),
            flush=self._flush,
            may_lead=self.verdicts.may_lead,
            view=self.links.view,
            stands_back=self.verdicts.stands_back,
            limits=self.plan.limits,
        )
        self.verdicts.attach(replica, self.links)
        replica.turns.write_elsewhere = elsewhere(self, replica)
        return replica

    def stop(self, *, power: bool) -> None:
        """The process is gone."""
        self.time.log("%s is down%s", self.name, ", power lost" if power else "")
        self.time.disturb(self.name)
        if self.replica is not None:
            self._network.gone(self, power=power)
            self.left_voters = [self.replica.voters(), self.replica.considered()]
            members = {member.name for member in self.state.members.members()} - {self.name}
            self._remembered = frozenset(members & self._network.hosts.keys()) or self._remembered
        self.life += 1
        self.replica = None
        self._fuse = self._stall = None
        self.disk.stop(power=power)

    def start_later(self, delay_s: float | None = None) -> None:
        """Start after a while.

        Never before the moment that its last turn had reached: what that turn
        wrote may be on the disk, with the time at which it was written.
        """
        life = self.life
        gone_at = max(self.time.now + self.elapsed, self._busy_until)
        wait = self.rng.choice((0.02, 0.3, 1.5)) if delay_s is None else delay_s

        def due() -> None:
            if self.life == life and self.replica is None and self.barred is None:
                self.start()

        self.time.at(gone_at + wait, due)

    def crash(self, *, power: bool) -> None:
        """Stop, and start again after a while."""
        self.stop(power=power)
        self.start_later()

    # Input, one turn of the loop, output.

    def put(self, life: int, call: Callable[[], object]) -> None:
        """See Host."""
        if life == self.life and self.replica is not None:
            self._inbox.append((life, call))
            self.wake(self.time.now)

    def wake(self, when: float) -> None:
        """Have a turn at this time."""
        if self._wake_at is None or when < self._wake_at:
            self._wake_at = when
            life = self.life

            def due() -> None:
                if self._wake_at == when and self.life == life:
                    self.run()

            self.time.at(when, due)

    def run(self) -> None:
        """One turn: input, tick, output."""
        time, replica = self.time, self.replica
        self._wake_at = None
        time.acting = self.name
        if replica is None:
            return
        free = max(self._busy_until, self._paused_until)
        if time.now < free:
            self.wake(free)
            return
        self.elapsed = 0.0
        inbox = self._inbox
        try:
            # A turn mostly handles everything that has come, and now and then only a part.
            left = len(inbox) if self.rng.random() < 0.8 else self.rng.randint(0, len(inbox))
            while left:
                left -= 1
                inbox.popleft()[1]()
            if self.clock() >= self.links.next_deadline():
                self.links.tick()
            if replica.failed is None:
                replica.tick()
            self.verdicts.settle_dispute()
            self._know(replica.removed_peers() if replica.failed is None else frozenset())
        except Crash:
            self.crash(power=self.rng.random() < 0.5)
            return
        except Exception as error:  # it would have ended the real node's tick
            where = traceback.extract_tb(error.__traceback__)[-1]
            claim = f"{self.name} raised {error!r} in {where.name}, line {where.lineno} of {where.filename}"
            time.fail("exception", claim)
            return
        self.invariants.observe(self)
        self._busy_until = time.now + self.elapsed
        if replica.failed is not None:
            self._failed(replica.failed)
            return
        reason = self.verdicts.end() or self._sentence
        if reason is not None:
            self._unwanted(reason)
            return
        if self._leaves and not replica.turns.is_suspended:
            self._quit()
            return
        deadline = min(replica.next_deadline(), self.links.next_deadline())
        deadline = self._zero + (deadline - self._base) / self._rate
        self.elapsed = 0.0
        self.wake(self._busy_until if inbox else max(deadline, self._busy_until + _SHORTEST_S))

    def _know(self, removed: frozenset[RaftId]) -> None:
        """Follow the members as the real node does: change whom to dial, and part with the removed."""
        known = (len(self._network.hosts), removed)
        if known != self._dialled:
            self._dialled = known
            self.links.dialling.set_addresses(
                {n: ("simulated:1",) for n in self._network.hosts if n not in removed}
            )
        for raft_id in sorted(removed & self._linked.keys()):
            self.links.disconnect(name_of(raft_id), reason="removed")

    def _failed(self, error: CyoloctlError) -> None:
        """End the process, as the real node does; somebody repairs the disk or upgrades it."""
        if self.older and isinstance(error, VersionMismatch):
            self.time.count("older release stopped")
            if self.rng.random() < 0.6:  # otherwise it is started as it is, and stops again
                self.upgrade()
            self._close()
            self.crash(power=False)
            return
        if not self.disk.failures:
            self.time.fail("failure", f"{self.name} stopped: {error.message}")
        self.time.count("stopped by its disk")
        if self.time.witness is not None:
            self.time.witness.ended(self.name, error)
        self.time.log("%s stops: %s", self.name, error.message)
        self._close()
        self.stop(power=self.rng.random() < 0.3)
        self.disk.full = self.disk.low = self.disk.fail_sync = False
        self.start_later()

    def upgrade(self) -> None:
        """Its next process is of the newer release."""
        self.older = False
        self.time.count("upgraded")

    def _is_expected(self, reason: str) -> bool:
        too_old = self.older and self.plan.leveled and reason == TOO_OLD
        return reason == REMOVED or too_old or (self.left_behind and reason == LEFT_BEHIND)

    def _unwanted(self, reason: str) -> None:
        """End the process, which has no place in the cluster.  Whatever supervises it starts it again."""
        if not self._is_expected(reason) and self.disk.is_honest():
            self.time.fail("copy", f"{self.name} ended ({reason}), and no disk was copied")
        self.time.count(f"ended: {reason}")
        self.time.log("%s ends: %s", self.name, reason)
        self._close()
        self.stop(power=False)
        if reason != REMOVED and not self.disk.is_honest():
            self.barred = reason
        self.start_later(1.5)

    def die_within(self, steps: int) -> None:
        """The process will die within this many steps: see Crash."""
        self._fuse = steps

    def heal(self) -> None:
        """Every fault of this node ends, except a wrong wall clock.  A process starts if none runs."""
        self._fuse = self._stall = None
        named = self._remembered or frozenset(self._network.hosts) - {self.name}
        self._remembered = named - self.invariants.removed_names()  # somebody corrects node.yaml
        if self.replica is not None:
            self.verdicts.named -= self.invariants.removed_names()
        if self.older:
            self.upgrade()
            self.stop(power=False)
        self.disk.heal()
        self.set_clock(rate=1.0, leap_s=0.0)
        self._paused_until = 0.0
        if self.replica is None:
            self.start_later(0.0)
        else:
            self.wake(self.time.now)

    def quit(self) -> None:
        """A graceful stop, as by `cyoloctl node stop`, and a start after a while.  It may be refused."""
        if self.replica is not None and self.upkeep.may_stop() and self.may_die():
            self.time.disturb(self.name)
            self.upkeep.part(self._leave)

    def _leave(self) -> None:
        if not self.may_die():
            # The leader did not answer: it stops all the same, and the log says that a vote is lost.
            self.time.count("stop that would end a cluster in memory")
            return
        self._leaves = True
        self.wake(self.time.now)

    def _quit(self) -> None:
        if self.replica is not None:
            self.time.acting = self.name
            self.replica.abandon(NoLeader("the node is stopping: try another one"))
            self.links.stop()
            self._close()
            self.time.count("stopped in good order")
            self.crash(power=False)

    def _close(self) -> None:
        with contextlib.suppress(Crash, CyoloctlError):  # it is over in any case
            self.journal.close()

    def _send(self, peer: RaftId, message: dict[str, Any]) -> None:
        self.invariants.sending(self, peer, message)
        self._outgoing.setdefault(peer, []).append(encode(message))

    def _flush(self) -> None:
        """Send to peers in the order of their names, since the engine's own order is that of a set."""
        outgoing, self._outgoing = self._outgoing, {}
        for peer, frames in sorted(outgoing.items()):
            self.links.send_frames(peer, b"".join(frames))

    def _run_in_background(self, life: int, job: Callable[[], None]) -> None:
        delay = self.rng.choice((0.0, 0.005, 0.2))
        self.time.later(delay, lambda: self.put(life, job))

    # What the links report: see LinkHandler.

    def on_peer_connected(self, peer: RaftId, /) -> None:
        """See LinkHandler."""
        if peer in self._linked:
            self.time.fail("link", f"{self.name} has two links with {peer}")
        self._linked[peer] = self._live_end(peer)
        self.verdicts.took_in(name_of(peer))
        if self.replica is not None:
            self.time.log("%s has a link with %s", self.name, peer)
            self.replica.peer_connected(peer)

    def _live_end(self, peer: RaftId) -> End:
        """The end under the live link.

        Nothing is being read when a link delivers what it held back while it was contested.
        """
        end = self.links.wire(name_of(peer))
        assert isinstance(end, End)
        return end

    def on_peer_disconnected(self, peer: RaftId, /) -> None:
        """See LinkHandler."""
        if self._linked.pop(peer, None) is None:
            self.time.fail("link", f"{self.name} lost a link with {peer} that it had not")
        if self.replica is not None:
            self.time.log("%s lost its link with %s", self.name, peer)
            self.replica.peer_disconnected(peer)

    def on_peer_message(self, peer: RaftId, message: dict[str, Any], /) -> None:
        """See LinkHandler."""
        end = self.reading or self._live_end(peer)
        if self._linked.get(peer) is not end:
            self.time.fail("link", f"{self.name} has {message['type']} of a link with {peer} that is over")
        if end.peer_life < self._heard.get(end.peer.name, 0):
            self.time.fail("link", f"{self.name} hears {peer} as it was before its restart")
        if self.replica is not None:
            self.replica.receive(peer, message)

    def receive_late(self, peer: RaftId, message: dict[str, Any]) -> None:
        """See Host.  Real links would not have delivered this message."""
        if self.replica is not None:
            self.replica.receive(peer, message)

    def said_hello(self, end: End) -> None:
        """See Host.  No link with an earlier process of the peer may go on (row 24)."""
        self._heard[end.peer.name] = max(end.peer_life, self._heard.get(end.peer.name, 0))
        for kept in self._linked.values():
            if kept is not None and kept.peer is end.peer and kept.peer_life < end.peer_life:
                claim = f"{self.name} keeps a link with {end.peer.name} as it was before its restart"
                self.time.fail("link", claim)

    def removal(self, raft_id: RaftId, /) -> str | None:
        """See LinkHandler."""
        return None if self.replica is None else self.verdicts.removal(raft_id)

    def refusal(self, hello: Hello, /) -> str | None:
        """See LinkHandler."""
        return None if self.replica is None else self.verdicts.refusal(hello)

    def progress(self) -> tuple[int, int]:
        """See LinkHandler."""
        return (0, 0) if self.replica is None else self.replica.progress()

    def voters(self) -> list[str]:
        """See LinkHandler."""
        return [] if self.replica is None else sorted(self.replica.voters())

    def on_refused(self, name: str, reason: str, /) -> None:
        """See LinkHandler."""
        known = self._is_expected(reason) or not self.disk.is_honest()
        if not known and not self._network.late:
            self.time.fail("link", f"{name} told {self.raft_id}: {reason}, and no disk was copied")
        self.time.count(f"told by a peer: {reason}")
        if reason == REMOVED and not self.invariants.was_removed(self.raft_id):
            self.time.fail("link", f"{name} told {self.raft_id} that it was removed, which it was not")
        verdict = self.verdicts.kept_out(name, reason, self.time.now)
        self._sentence = self._sentence or verdict

    def describe(self) -> dict[str, Any]:
        """See LinkHandler."""
        leader = None if self.replica is None else self.replica.leader()
        return {
            "leader": None if leader is None else name_of(leader),
            "sync_ms": self.journal.sync_ms(),
            "disk_short": self.replica is not None and self.replica.room.is_short(),
            **self.disk.facts(),
        }

    def cluster_time(self) -> tuple[int, int]:
        """See LinkHandler."""
        return self.cluster_clock.told()

    def on_pong(self, peer: RaftId, pong: Pong, /) -> None:
        """See LinkHandler."""
        if self.replica is not None:
            self.replica.peer_clocks(
                peer,
                wall_unix_ms=pong.wall_unix_ms,
                trip_s=pong.trip_s,
                epoch=pong.epoch,
                unix_ms=pong.cluster_unix_ms,
            )

    # Calls.

    def ask(self, peer: str) -> None:
        """Call a peer.  What comes back is the answer to this question, the end of the link, or nothing."""
        self._calls += 1
        body = f"{self.name} {self.life} {self._calls}".encode()
        time, life, answered = self.time, self.life, []

        def done(answer: bytes | None, error: CyoloctlError | None) -> None:
            answered.append(answer)
            time.count("call answered" if error is None else "call broken off")
            wrong = answer != _answer(peer, body) if error is None else not isinstance(error, OutcomeUnknown)
            if wrong or len(answered) > 1 or life != self.life:
                time.fail("call", f"{self.name} asked {peer} {body!r}: {answered}, {error}")

        def give_up() -> None:
            if not answered:
                time.count("call given up")
                self.links.forget(identifier)
                answered.append(None)

        try:
            identifier = self.links.call(peer, body, done)
        except NoLeader:
            return
        time.later(1.0, lambda: self.put(life, give_up))

    def changed(self, what: str, target: str, index: int) -> None:
        """See Upkeep."""
        self.invariants.acknowledged_change(self, index)
        self.time.count(f"{what} in memory" if is_in_memory(RaftId(target)) else what)
        self.time.log("%s of %s took place at %s", what, target, index)

    def _serve(self, link: Link, identifier: int, body: bytes) -> None:
        if body.startswith(b"step_out "):
            if self.replica is not None and self.replica.is_leader():
                self.upkeep.step_out(RaftId(body[9:].decode()), partial(link.answer, identifier))
            return
        delay = self.rng.choice((0.0, 0.01, 0.3, 1.2))
        answer = partial(link.answer, identifier, _answer(self.name, body))
        life = self.life
        self.time.later(delay, lambda: self.put(life, answer))


def _answer(name: str, body: bytes) -> bytes:
    return b"%s answers %s" % (name.encode(), body)
