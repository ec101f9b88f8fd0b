"""The Raft engine in an asyncio loop: a replica, its ticker and its peers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from cyoloctl.errors import CyoloctlError, InternalError, NoLeader, OutcomeUnknown, StorageError
from cyoloctl.metrics.counts import Histogram
from cyoloctl.model import RaftId, name_of
from cyoloctl.raft.clock import ClusterClock
from cyoloctl.raft.deadlines import Deadlines
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.machine import StateMachine
from cyoloctl.raft.messages import Outgoing
from cyoloctl.raft.peers import COPY, DISK_FAILED, NO_MEMORY, REMOVED, Hello, Pong, Refusal
from cyoloctl.raft.proposals import Done, Proposal
from cyoloctl.raft.proposed import Proposed
from cyoloctl.raft.reads import ReadRequest
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.settings import DEFAULT_LIMITS, DEFAULT_TIMING, Limits, Timing
from cyoloctl.raft.snapshot import SnapshotStore
from cyoloctl.raft.status import ReplicaStatus
from cyoloctl.raft.telling import Telling
from cyoloctl.raft.ticker import Ticker
from cyoloctl.raft.transport import Connector, Identify, PeerIdentity, PeerInfo, PeerNetwork
from cyoloctl.raft.turns import Write
from cyoloctl.raft.vantage import View
from cyoloctl.raft.verdicts import MembershipView, Verdicts

__all__ = ["ELSEWHERE_MS", "Engine"]

ELSEWHERE_MS = 1.0
"""Where a sync takes so long at present it is made in another thread: a hop there and back costs 0.1 ms."""

_log = logging.getLogger("cyoloctl.raft")

_OUT_OF_MEMORY = (
    "the Raft engine ran out of memory (MemoryError): give the node more (the limit of its service, "
    "ulimit -v, the machine), then start it again"
)


class Engine:
    """One member of the cluster's Raft group.

    Every call belongs to the loop that `start` ran in.  An operation that
    fails says what is known: NoLeader and Overloaded mean not applied,
    OutcomeUnknown means that it may have been or may yet be.  Timeouts are exact to `LOOK_EVERY_S`.

    clock: cluster time, steered here.

    describe: what `peers` of the other nodes show about this one, small JSON.

    on_call: answers `call` of the other nodes; its errors are its own to encode.

    membership_view: None: nobody is removed and every peer may vote.

    stands_back: whether this node leads only where no other voter can, by its own configuration.
    """

    def __init__(
        self,
        identity: PeerIdentity,
        *,
        journal: Journal,
        snapshots: SnapshotStore,
        machine: StateMachine,
        clock: ClusterClock,
        identify: Identify,
        connect: Connector,
        describe: Callable[[], dict[str, Any]],
        on_call: Callable[[str, bytes], Awaitable[bytes]],
        membership_view: MembershipView | None = None,
        stands_back: bool = False,
        timing: Timing = DEFAULT_TIMING,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._name = identity.name
        self._verdicts = Verdicts(
            identity.name, identity.boots, identity.boot, register=membership_view, stands_back=stands_back
        )
        self._unwanted = self._started = False
        self._loop = asyncio.get_running_loop()
        self._journal, self._snapshots = journal, snapshots
        self.clock = clock
        self._describe, self._on_call = describe, on_call
        self._awaiting_index: dict[asyncio.Future[None], int] = {}
        self._outgoing = Outgoing()
        self._jobs: set[asyncio.Future[None]] = set()
        self._commits, self._telling = Histogram(), Telling(self._loop)
        rng = random.Random(os.urandom(32))
        self._replica = Replica(
            identity.raft_id,
            journal=journal,
            snapshots=snapshots,
            machine=machine,
            clock=time.monotonic,  # what the loop's own clock is, without its call
            cluster_clock=clock,
            rng=rng,
            send=self._outgoing.add,
            run_in_background=self._run_in_background,
            flush=self._flush,
            may_lead=self._verdicts.may_lead,
            view=self._view,
            stands_back=self._verdicts.stands_back,
            timing=timing,
            limits=limits,
        )
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._ticker = Ticker(self._loop, self._tick, self._next_deadline)
        self._deadlines = Deadlines[Proposal | ReadRequest](self._loop, self._expired)
        self._network = PeerNetwork(identity, self, identify=identify, connect=connect, rng=rng)
        self._verdicts.attach(self._replica, self._network)
        self._changed = asyncio.Event()
        self._failure: asyncio.Future[CyoloctlError] = self._loop.create_future()
        self.on_change: Callable[[], None] = lambda: None
        """Called after role, term, leader, members or links changed."""
        self.on_unwanted: Callable[[str], None] = lambda reason: None
        """Called once when this process is kept out of the cluster for good: an applied entry or a majority
        of the voters says so.  reason: ``removed``, ``copy`` or ``older disk``."""

    # Life.

    def start(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Restore, then take part.  addresses: where to dial peers first; their names are those
        that a node with an empty log believes.

        Raises StorageError or VersionMismatch when the data cannot be used.
        """
        self._replica.on_change = self._notify
        self._replica.turns.write_elsewhere = self._write_elsewhere
        self._replica.start()
        self._started = True
        self._verdicts.named = frozenset(addresses) - {self._name}
        self._network.set_addresses(addresses)
        self._network.start()
        self._ticker.wake()

    async def stop(self) -> None:
        """Answer what waits, end the links, close the journal.  Idempotent."""
        self._ticker.stop()
        self._deadlines.stop()
        if self._started and self._replica.failed is None:
            self._replica.abandon(NoLeader("the node is stopping: try another one"))
        await self._network.stop()
        if self._jobs:
            await asyncio.wait(self._jobs)
        self._writer.shutdown()
        self._replica.close()
        self._journal.close()

    async def wait_failed(self) -> CyoloctlError:
        """Returns the error that stopped the replica, when one does."""
        return await asyncio.shield(self._failure)

    # What a node asks.

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        """Replicate a command; returns its result once it is committed and applied on the leader.

        The command must apply once however often it is logged.  Raises
        NoLeader or Overloaded (not applied), OutcomeUnknown (timed out or
        stopped after it was sent), StorageError.
        """
        future: asyncio.Future[bytes] = self._loop.create_future()
        done = _settles(future)

        began = time.monotonic()
        proposal = self._replica.propose(command, done)
        self._ticker.wake()
        self._deadlines.add(proposal, timeout_s)
        try:
            result = await future
            self._commits.observe(time.monotonic() - began)
            return result
        finally:
            self._deadlines.remove(proposal)
            proposal.cancelled = True  # also when the caller was cancelled: nobody is waiting now

    def begin(self, command: bytes, done: Done, *, timeout_s: float) -> Callable[[], None]:
        """As `propose`: done gets the result, or the error, later than this returns.

        Gives what withdraws it: what was not sent is sent to nobody then, and done is not called unless
        what it gets was found before.
        """
        began = time.monotonic()
        proposal: Proposal | None = None

        def settled(result: Any, error: CyoloctlError | None) -> None:
            if error is None:
                self._commits.observe(time.monotonic() - began)
            withdraw()
            self._telling.add(done, result, error)

        def withdraw() -> None:
            nonlocal proposal
            if proposal is not None:
                proposal.cancelled = True
                self._deadlines.remove(proposal)
                proposal = None  # which has `settled`: no circle is left for the garbage collector

        new = self._replica.propose(command, settled)
        if not new.cancelled:
            proposal = new
            self._deadlines.add(proposal, timeout_s)
            self._ticker.wake()
        return withdraw

    def _expired(self, waiting: Proposal | ReadRequest, timeout_s: float) -> None:
        waiting.give_up(self._replica.leader(), timeout_s)

    def propose_all(
        self, commands: Sequence[bytes], *, timeout_s: float, after: Proposed | None = None
    ) -> Proposed:
        """As `propose`, of several (one at least) at once: they are logged in this order.

        They are on their way on return.  Where some get no further than the
        queue or the leader, those are the last.

        after: has a `lead`; these are applied after those, or not at all.
        """
        lead = self.lead() if after is None else after.lead
        bound, behind = (0, None) if after is None else (lead, after.last)
        future: asyncio.Future[None] = self._loop.create_future()
        results: list[bytes | CyoloctlError] = [b""] * len(commands)
        left = len(commands)
        began = time.monotonic()

        def settles(position: int) -> Callable[[Any, CyoloctlError | None], None]:
            def done(result: Any, error: CyoloctlError | None) -> None:
                nonlocal left
                left -= 1
                if error is None:
                    results[position] = result
                    self._commits.observe(time.monotonic() - began)
                else:
                    results[position] = error
                if left == 0 and not future.done():
                    future.set_result(None)

            return done

        propose = self._replica.propose
        proposals = [
            propose(command, settles(at), lead=bound, behind=behind) for at, command in enumerate(commands)
        ]
        self._ticker.wake()

        def expire() -> None:
            for proposal in proposals:
                proposal.give_up(self._replica.leader(), timeout_s)

        timer = self._loop.call_later(timeout_s, expire)

        def over(_: object) -> None:
            timer.cancel()
            for proposal in proposals:
                proposal.cancelled = True  # nobody waits now, whatever ended this

        future.add_done_callback(over)
        return Proposed(future, results, lead=lead, last=proposals[-1])

    async def read_barrier(self, *, timeout_s: float) -> int:
        """After this, the local state machine holds everything acknowledged before the call.

        Returns the index.  Raises NoLeader when no leader confirmed it in time.
        """
        future: asyncio.Future[int] = self._loop.create_future()
        done = _settles(future)

        request = self._replica.read(done)
        self._ticker.wake()
        self._deadlines.add(request, timeout_s)
        try:
            return await future
        finally:
            self._deadlines.remove(request)
            request.cancelled = True

    async def add_voter(self, raft_id: RaftId, *, timeout_s: float) -> int:
        """Make a connected learner that has caught up a voter.  Leader only; Conflict when refused."""
        return await self._membership(self._replica.add_voter, raft_id, timeout_s)

    async def remove(self, raft_id: RaftId, *, force: bool = False, timeout_s: float) -> int:
        """Remove a member permanently.  Leader only, never itself; Conflict when refused.

        force: also when no majority of those that are left is reachable.
        """
        return await self._membership(partial(self._replica.remove, force=force), raft_id, timeout_s)

    async def demote(self, raft_id: RaftId, *, timeout_s: float) -> int:
        """Make a voter a learner.  Leader only, never itself; Conflict when refused."""
        return await self._membership(self._replica.demote, raft_id, timeout_s)

    async def _membership(self, change: Callable[..., None], raft_id: RaftId, timeout_s: float) -> int:
        result = await self._callback(lambda done: change(raft_id, done), timeout_s, "membership change")
        return int(result)

    async def transfer_leadership(self, to: str | None, *, timeout_s: float) -> None:
        """Hand leadership to a voter; returns when this node has stopped leading.  Leader only."""
        await self._callback(
            lambda done: self._replica.transfer_leadership(to, done), timeout_s, "leadership transfer"
        )

    async def _callback(
        self, call: Callable[[Callable[[Any, CyoloctlError | None], None]], None], timeout_s: float, what: str
    ) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()
        done = _settles(future)

        call(done)
        self._ticker.wake()
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise OutcomeUnknown(f"the {what} was not confirmed within {timeout_s:g} s") from None

    def status(self) -> ReplicaStatus:
        """Status of the local replica."""
        return self._replica.status()

    def is_leader(self) -> bool:
        """True while this node takes itself for the leader."""
        return self._replica.is_leader()

    def lead(self) -> int:
        """The term in which this node leads; 0: it does not."""
        return self._replica.lead()

    def leader(self) -> RaftId | None:
        """Raft id of the leader, as far as this node knows."""
        return self._replica.leader()

    def applied_index(self) -> int:
        """Index of the last applied entry."""
        return self._replica.applied_index()

    async def wait_applied(self, index: int, *, timeout_s: float) -> bool:
        """Returns True once this node has applied the entry of this index, False after the timeout.

        What `propose` returns was applied on the leader; a follower learns of it a moment later.
        """
        if self._replica.applied_index() >= index:
            return True
        return await self._wait_tick(index, timeout_s)

    async def wait_ticked(self, timeout_s: float) -> bool:
        """Make the replica take a step: True once it has been taken, False after the timeout."""
        self._ticker.wake()
        return await self._wait_tick(0, timeout_s)

    async def _wait_tick(self, index: int, timeout_s: float) -> bool:
        """Whether a tick ended in time after which this index was applied."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._awaiting_index[future] = index
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            del self._awaiting_index[future]
        return True

    def peers(self) -> dict[str, PeerInfo]:
        """The connected peers, by name."""
        return self._network.peers()

    def voter_names(self) -> frozenset[str]:
        """Names of the voters in this node's log."""
        return self._replica.voter_names()

    def fsync_p99_ms(self) -> float:
        """99th percentile of the journal's recent syncs, in milliseconds."""
        return self._journal.fsync_p99_ms

    def commits(self) -> Histogram:
        """How long each proposal of this node took until it was applied, by whichever leader."""
        return self._commits

    def syncs(self) -> Histogram:
        """How long each sync of the journal took, since the start."""
        return self._journal.syncs

    def snapshot_bytes(self) -> int:
        """Size of the newest snapshot; 0 without any."""
        return self._snapshots.size_bytes

    def sync_ms(self) -> float | None:
        """How long a sync of the journal takes at present, in milliseconds; None when too few were made."""
        return self._journal.sync_ms()

    def set_space(self, *, is_short: bool, free_bytes: int | None) -> None:
        """Tell how much space the disk has.  is_short: too little for new entries."""
        self._replica.room.measured(is_short=is_short, free_bytes=free_bytes)
        self._ticker.wake()

    def is_short(self) -> bool:
        """True while this node's disk takes no new entries."""
        return self._replica.room.is_short()

    def find_room(self) -> bool:
        """Fill the journal's reserve up where there is room; whether there is room for entries."""
        return self._journal.find_room()

    def compact(self) -> None:
        """Save a snapshot now, and cut the log to it."""
        self._replica.maybe_compact(force=True)

    def slow_sync_ms(self) -> float | None:
        """The slowest of the journal's recent syncs, in milliseconds; None where none was slow."""
        return self._journal.slow_sync_ms()

    def accept(self, left: Callable[[], None] = lambda: None) -> asyncio.Protocol:
        """The protocol for an authenticated peer connection that came in; left: called at its end."""
        return self._network.accept(left)

    def refusals(self) -> list[Refusal]:
        """Processes of peers that this node kept out lately."""
        return self._network.refusals()

    def absences(self) -> dict[str, str]:
        """Why peers that were dialled have no link: name -> addresses and reasons."""
        return self._network.absences()

    def farewells(self) -> dict[str, str]:
        """Peers that said what stopped them, and have not come back: name -> `DISK_FAILED` or `NO_MEMORY`."""
        return self._network.farewells()

    async def wait_placed(self, *, timeout_s: float) -> None:
        """Return once it is known that this process has a place in its cluster, or that nobody can say so.

        A process that was removed, or runs on a copy, hears so from its peers
        before they do anything else with it (`on_unwanted`).  So it has a
        place once a leader counts it in; without a leader, once every voter
        and peer was tried, and nobody said no.  Returns too after timeout_s,
        where some said no, and the others may not have been heard yet.
        """
        deadline = self._loop.time() + timeout_s
        while not (self._unwanted or self._failure.done() or self.leader()):
            if self._network.all_tried(self._verdicts.voter_names()) and not self.kept_out_by():
                return
            left = deadline - self._loop.time()
            if left <= 0:
                return
            await self.wait_changed(min(0.02, left))

    def unheard(self) -> list[str]:
        """Nodes whose word this one wants, until its log has its own place, and with whom it has no link."""
        return self._verdicts.unheard()

    def relayed(self, name: str, voters: frozenset[RaftId]) -> None:
        """Take the word of such a node, which came signed by way of another; no voters: it is gone."""
        self._verdicts.relayed(name, voters)

    def kept_out_by(self) -> dict[str, str]:
        """Peers that keep this process out at present, and why; no majority yet."""
        return self._verdicts.kept_out_by(self._loop.time())

    def last_process(self, name: str) -> str | None:
        """`boot` of the process that the last link with this peer was with."""
        return self._network.last_process(name)

    def acknowledged(self, raft_id: RaftId) -> int:
        """The highest committed index that a peer is known to hold; 0 unless this node leads."""
        return self._replica.acknowledged(raft_id)

    def set_addresses(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Set the addresses at which peers are dialled from now on."""
        self._network.set_addresses(addresses)

    def disconnect(self, name: str, reason: str = REMOVED) -> None:
        """End the link with a peer, telling it why; by default, that it was removed."""
        self._network.disconnect(name, reason=reason)

    def part_with_copies(self) -> None:
        """End links with processes that run on a copy, as far as the register tells by now.

        Where it tells that a disk may be an older one, the next hello decides.
        """
        for name in list(self._verdicts.copies()):
            self._network.disconnect(name, reason=COPY)
        for name in list(self._verdicts.doubtful()):
            self._network.reconnect(name)

    def reconnect(self, name: str) -> None:
        """End the link with a peer, to make another one at once: this node has a new certificate."""
        self._network.reconnect(name)

    def recheck(self, judge: Callable[[Any], str]) -> list[tuple[str, str]]:
        """The connected peers whose certificate no longer counts, and why; see `PeerNetwork`."""
        return self._network.recheck(judge)

    async def call(self, name: str, body: bytes, *, timeout_s: float) -> bytes:
        """Ask another node; see `PeerNetwork.call`."""
        return await self._network.call(name, body, timeout_s=timeout_s)

    async def wait_changed(self, timeout_s: float) -> None:
        """Returns after the next change of role, leader, members or links, or the timeout."""
        self._changed.clear()
        # Not wait_for: before Python 3.12 it can swallow a cancellation.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    # Inside.

    def _notify(self) -> None:
        self._changed.set()
        try:
            self.on_change()
        except Exception:
            _log.critical("a change could not be handled", exc_info=True)

    def _tick(self) -> None:
        self._telling.after(self._take_turn)

    def _take_turn(self) -> None:
        replica = self._replica
        if replica.failed is None:
            try:
                replica.tick()
            except MemoryError:
                _log.critical("out of memory", exc_info=True)
                replica.fail(InternalError(_OUT_OF_MEMORY))
            except Exception as error:
                # A bug: what was half done must not be acknowledged.
                _log.critical("the replica raised", exc_info=True)
                replica.fail(InternalError(f"the Raft engine ended by a bug ({type(error).__name__})"))
        if self._awaiting_index and not replica.turns.is_suspended:
            applied = replica.applied_index()
            for future, index in self._awaiting_index.items():
                if applied >= index and not future.done():
                    future.set_result(None)
        if replica.disputed is not None:
            self._verdicts.settle_dispute()
        if replica.failed is not None and not self._failure.done():
            self._failure.set_result(replica.failed)
            self._say_farewell(replica.failed)
        elif not self._unwanted and (reason := self._verdicts.end()) is not None:
            self._end(reason)

    def _say_farewell(self, error: CyoloctlError) -> None:
        """Tell the peers at once what stops this node: their `status` shall name it."""
        if error.message == _OUT_OF_MEMORY or isinstance(error.__cause__, MemoryError):
            self._network.part(NO_MEMORY)
        elif isinstance(error, StorageError):
            self._network.part(DISK_FAILED)

    def _end(self, reason: str) -> None:
        if not self._unwanted:
            self._unwanted = True
            self.on_unwanted(reason)

    def _view(self) -> View:
        return self._network.view()

    def _flush(self) -> None:
        for raft_id, frames in self._outgoing.take():
            self._network.send_frames(raft_id, frames)

    def _next_deadline(self) -> float:
        if self._replica.failed is not None:
            return self._loop.time() + 3600.0
        return self._replica.next_deadline()

    def _write_elsewhere(self, write: Write) -> bool:
        if not self._journal.is_slower_than(ELSEWHERE_MS):
            return False
        future = self._loop.run_in_executor(self._writer, write)
        self._jobs.add(future)

        def written(done: asyncio.Future[None]) -> None:
            self._jobs.discard(done)
            self._replica.turns.written()
            self._ticker.wake()

        future.add_done_callback(written)
        return True

    def _run_in_background(self, job: Callable[[], None]) -> None:
        future = self._loop.run_in_executor(None, job)
        self._jobs.add(future)

        def saved(done: asyncio.Future[None]) -> None:
            self._jobs.discard(done)
            error = done.exception()
            if error is not None:
                _log.critical("a snapshot could not be saved or read", exc_info=error)
                if not self._failure.done():
                    self._failure.set_result(InternalError("a snapshot could not be saved or read"))
            self._ticker.wake()

        future.add_done_callback(saved)

    # The network reports here.

    def on_peer_connected(self, raft_id: RaftId) -> None:
        self._verdicts.took_in(name_of(raft_id))
        self._replica.peer_connected(raft_id)
        self._ticker.wake()
        self._notify()

    def on_peer_disconnected(self, raft_id: RaftId) -> None:
        self._replica.peer_disconnected(raft_id)
        self._ticker.wake()
        self._notify()

    def on_peer_message(self, raft_id: RaftId, message: dict[str, Any]) -> None:
        if self._replica.receive(raft_id, message):
            self._ticker.wake()

    def removal(self, raft_id: RaftId) -> str | None:
        return self._verdicts.removal(raft_id)

    def refusal(self, hello: Hello) -> str | None:
        return self._verdicts.refusal(hello)

    def on_refused(self, name: str, reason: str) -> None:
        """One peer's word; a majority of the voters convinces."""
        now = self._loop.time()
        if name not in self._verdicts.kept_out_by(now):
            _log.warning("a peer keeps this node out", extra={"peer": name, "reason": reason})
            self._notify()
        verdict = self._verdicts.kept_out(name, reason, now)
        if verdict is not None:
            self._end(verdict)

    def progress(self) -> tuple[int, int]:
        return self._replica.progress()

    def voters(self) -> Sequence[str]:
        return sorted(self._replica.voters())

    def describe(self) -> dict[str, Any]:
        return self._describe()

    def cluster_time(self) -> tuple[int, int]:
        return self.clock.told()

    def on_pong(self, raft_id: RaftId, pong: Pong) -> None:
        self._replica.peer_clocks(
            raft_id,
            wall_unix_ms=pong.wall_unix_ms,
            trip_s=pong.trip_s,
            epoch=pong.epoch,
            unix_ms=pong.cluster_unix_ms,
        )

    async def on_call(self, name: str, body: bytes) -> bytes:
        return await self._on_call(name, body)


def _settles(future: asyncio.Future[Any]) -> Callable[[Any, CyoloctlError | None], None]:
    """The replica's callback (result, error) that settles a future, unless its caller gave up."""

    def done(result: Any, error: CyoloctlError | None) -> None:
        if not future.done():
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

    return done
