"""The engine in its loop: what happens to callers that give up, and whose goodbye is believed.

Peers are scripted: real links and frames, over transports in memory.

More than 700 lines, because all of it rests on that one scripted peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from cyoloctl.errors import InternalError, NoLeader, OutcomeUnknown, Overloaded, StorageError
from cyoloctl.model import NO_STAMP, RaftId, Source, Stamp
from cyoloctl.raft.clock import ClusterClock
from cyoloctl.raft.engine import Engine
from cyoloctl.raft.journal import Batch, Journal, MemoryStore
from cyoloctl.raft.membership import Configuration
from cyoloctl.raft.messages import FrameReader, decode, encode
from cyoloctl.raft.proposed import Proposed
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.snapshot import SnapshotStore
from cyoloctl.raft.transport import PROTOCOL_VERSION, PeerIdentity
from cyoloctl.raft.turns import Write
from cyoloctl.raft.vendor import NO_OP, encode_membership
from tests.support.collector import no_collector

_CLUSTER = "c" * 32
_LIMIT_S = 5.0  # no wait of a passing test comes near it


class Echo:
    """A state machine that answers with the command."""

    def advance(self, stamp: Stamp) -> None:
        pass

    def stamp(self) -> Stamp:
        return NO_STAMP

    def admit(self, command: bytes, peer: str, role: str) -> bytes | None:
        return None

    def refused_unlogged(self, result: bytes) -> bool:
        return result == b"refused"

    def apply(self, index: int, command: bytes, after: int | None = None) -> bytes:
        return command

    def begin_snapshot(self) -> Callable[[], Iterable[bytes]]:
        return lambda: (b"",)

    def prepare_restore(self, source: Source, /) -> Callable[[], None]:
        return lambda: None


class Membership:
    """Nodes in the replicated state."""

    def __init__(
        self,
        *,
        removed: tuple[str, ...] = (),
        roles: dict[str, str] | None = None,
        process: tuple[int, str, int] | None = None,
    ) -> None:
        self.removed = set(removed)
        self.roles = roles
        self.known = process
        self.own: tuple[int, str, int] | None = None

    def is_removed(self, name: str) -> bool:
        return name in self.removed

    def is_left_behind(self, name: str) -> bool:
        return False

    def role(self, name: str) -> str | None:
        return "voter" if self.roles is None else self.roles.get(name)

    def stands_back(self, name: str) -> bool:
        return False

    def raft_id(self, name: str) -> RaftId | None:
        return None

    def level(self) -> int:
        return 1

    def process(self, name: str) -> tuple[int, str, int] | None:
        return self.own if name == "e" else self.known


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LIMIT_S):
        while not condition():
            await asyncio.sleep(0.001)


async def _no_network(address: str, factory: Callable[[], asyncio.Protocol]) -> Any:
    raise OSError("nobody is dialled here")


async def _no_calls(name: str, body: bytes) -> bytes:
    return b""


@contextlib.asynccontextmanager
async def running(
    *,
    limits: Limits | None = None,
    voters: tuple[str, ...] = ("a", "b~77"),
    addresses: Mapping[str, Sequence[str]] | None = None,
    membership: Membership | None = None,
    boots: int = 0,
    snapshots: SnapshotStore | None = None,
    store: MemoryStore | None = None,
) -> AsyncIterator[Engine]:
    """The engine of node e, no voter; its log says that a and b are: b keeps its log in memory."""
    journal = Journal(store or MemoryStore())
    journal.append(1, 0, NO_OP)
    for number, voter in enumerate(voters):
        journal.append(2 + number, 0, encode_membership("add", voter))
    journal.sync()
    engine = Engine(
        PeerIdentity("e", "e", _CLUSTER, "boot-e", "e:1", "1", boots),
        journal=journal,
        snapshots=snapshots or SnapshotStore(None),
        machine=Echo(),
        clock=ClusterClock("e", wall_unix_ms=lambda: 1_780_000_000_000, monotonic=time.monotonic),
        identify=lambda ssl_object: cast(str, ssl_object),
        connect=_no_network,
        describe=dict,
        on_call=_no_calls,
        limits=limits or Limits(),
        membership_view=membership,
    )
    engine.start(addresses or {})
    try:
        yield engine
    finally:
        await engine.stop()


class Peer(asyncio.Transport):
    """The other end of a link: an authenticated node that says what the test wants."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        raft_id: str | None = None,
        hello: bool = True,
        changes: dict[str, Any] | None = None,
        left: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._name = name
        self._reader = FrameReader()
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self._closing = False
        self._link = engine.accept(left)
        self._link.connection_made(self)
        if hello:
            self.say(
                {
                    "type": "hello",
                    "version": PROTOCOL_VERSION,
                    "cluster_id": _CLUSTER,
                    "name": name,
                    "raft_id": raft_id or name,
                    "boot": f"boot-{name}",
                    "boots": 0,
                    "address": f"{name}:1",
                    "release": "1",
                    "term": 0,
                    "last_index": 0,
                    **(changes or {}),
                }
            )

    def say(self, message: dict[str, Any]) -> None:
        self._link.data_received(encode(message))

    def lead(self, term: int) -> None:
        """A heartbeat of the leader of that term, whose log is the same."""
        self.say(
            {
                "type": "append_entries",
                "term": term,
                "leader_commit": 3,
                "prev_log_index": 3,
                "prev_log_term": 0,
                "entries": [],
            }
        )

    async def wait_for(self, kind: str) -> Any:
        """The next message of that type that the node sent."""
        async with asyncio.timeout(_LIMIT_S):
            while True:
                message = await self._heard.get()
                if message["type"] == kind:
                    return message

    def heard(self) -> list[str]:
        """Types of the messages that the node has sent, and nobody waited for."""
        return [self._heard.get_nowait()["type"] for _ in range(self._heard.qsize())]

    # What the link calls.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._name if name == "ssl_object" else default

    def write(self, data: Any) -> None:
        for frame in self._reader.feed(bytes(data)):
            self._heard.put_nowait(decode(frame))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._link.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0


async def give_up(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


# -- the end ---------------------------------------------------------------------------------


async def test_stop_waits_for_the_snapshot_that_is_being_saved_and_cuts_no_log_afterwards(
    tmp_path: Path,
) -> None:
    """Whoever starts the node again at once must not find somebody else writing there."""
    go_on, store = threading.Event(), SnapshotStore(tmp_path)
    new_file = store._new_file

    def slow() -> Any:
        made = new_file()
        assert go_on.wait(_LIMIT_S)
        return made

    store._new_file = slow  # type: ignore[method-assign]  # a slow disk
    async with running(snapshots=store, limits=Limits(compact_entries=1, keep_entries=0)) as engine:
        Peer(engine, "a").lead(1)
        await until(lambda: os.listdir(tmp_path) == ["snapshot.1.tmp"])
        stopped = asyncio.create_task(engine.stop())
        await asyncio.wait([stopped], timeout=0.05)
        assert not stopped.done()
        go_on.set()
        await asyncio.wait_for(stopped, _LIMIT_S)
        assert os.listdir(tmp_path) == ["snapshot"]
        assert engine._journal.first_index == 1, "a tick came after the stop"


# -- proposals whose caller is gone ----------------------------------------------------------


async def test_propose_whose_caller_was_cancelled_is_not_forwarded_again() -> None:
    async with running() as engine:
        first = Peer(engine, "a")
        first.lead(1)
        given_up = asyncio.create_task(engine.propose(b"given up", timeout_s=60.0))
        assert (await first.wait_for("forward"))["commands"] == [b"given up"]
        await give_up(given_up)
        live = asyncio.create_task(engine.propose(b"live", timeout_s=60.0))
        assert (await first.wait_for("forward"))["commands"] == [b"live"]
        first.close()
        second = Peer(engine, "b", raft_id="b~77")
        second.lead(2)
        forward = await second.wait_for("forward")
        assert forward["commands"] == [b"live"]
        second.say(
            {
                "type": "forward_result",
                "id": forward["id"],
                "results": [b"applied"],
                "last": True,
                "error": None,
            }
        )
        async with asyncio.timeout(_LIMIT_S):
            assert await live == b"applied"


async def test_propose_all_sends_the_commands_together_and_gives_each_its_result_in_order() -> None:
    async with running() as engine:
        leader = Peer(engine, "a")
        leader.lead(1)
        commands = [b"first", b"second", b"third"]
        proposed = engine.propose_all(commands, timeout_s=60.0)
        forward = await leader.wait_for("forward")
        assert forward["commands"] == commands
        results = [b"1", b"2", b"3"]
        answer = {"type": "forward_result", "id": forward["id"], "results": results, "last": True}
        leader.say({**answer, "error": None})
        async with asyncio.timeout(_LIMIT_S):
            assert await proposed == results


async def test_propose_all_says_of_each_command_what_is_known_when_the_time_is_over() -> None:
    async with running(limits=Limits(pending_commands=2)) as engine:
        async with asyncio.timeout(_LIMIT_S):
            waiting = await engine.propose_all([b"1", b"2", b"3"], timeout_s=0.02)
            assert [type(each) for each in waiting] == [NoLeader, NoLeader, Overloaded]
            leader = Peer(engine, "a")
            leader.lead(1)
            sent = await engine.propose_all([b"1", b"2"], timeout_s=0.2)
        assert [type(each) for each in sent] == [OutcomeUnknown, OutcomeUnknown]


async def test_what_was_begun_is_told_after_the_turn_that_settled_it_and_leaves_nothing_behind() -> None:
    async with running(voters=("e",)) as engine:
        await leading(engine)
        told: list[tuple[Any, ...]] = []
        for command in (b"1", b"2"):
            engine.begin(
                command,
                lambda result, error: told.append((result, error, engine.applied_index())),
                timeout_s=60.0,
            )
        assert told == []
        await until(lambda: len(told) == 2)
        last = engine.applied_index()
        assert told == [(b"1", None, last), (b"2", None, last)]
        assert engine._deadlines._waiting == {}
        assert engine.commits().counts[-1] == 0
        assert sum(engine.commits().counts) == 2

        def begun() -> weakref.ref[Any]:
            def done(result: Any, error: Any) -> None:
                told.append((result,))

            engine.begin(b"3", done, timeout_s=60.0)
            return weakref.ref(done)

        with no_collector():
            gone = begun()
            await until(lambda: len(told) == 3)
            assert gone() is None, "a circle is left to the garbage collector"


async def test_what_was_begun_is_told_what_is_known_when_the_time_is_over_or_there_is_no_room() -> None:
    async with running(limits=Limits(pending_commands=2)) as engine:
        told: list[Any] = []
        for command in (b"1", b"2", b"3"):
            engine.begin(command, lambda result, error: told.append(type(error)), timeout_s=0.02)
        assert told == []
        await until(lambda: len(told) == 3)
        assert told == [Overloaded, NoLeader, NoLeader]
        leader = Peer(engine, "a")
        leader.lead(1)
        engine.begin(b"4", lambda result, error: told.append(type(error)), timeout_s=0.2)
        await until(lambda: len(told) == 4)
        assert told[3] is OutcomeUnknown


async def test_what_was_begun_and_withdrawn_is_not_forwarded_again_and_nobody_is_told() -> None:
    async with running() as engine:
        first = Peer(engine, "a")
        first.lead(1)
        told: list[Any] = []
        withdraw = engine.begin(b"withdrawn", lambda *outcome: told.append(outcome), timeout_s=60.0)
        assert (await first.wait_for("forward"))["commands"] == [b"withdrawn"]
        withdraw()
        withdraw()
        assert engine._deadlines._waiting == {}
        engine.begin(b"live", lambda *outcome: told.append(outcome), timeout_s=60.0)
        assert (await first.wait_for("forward"))["commands"] == [b"live"]
        first.close()
        second = Peer(engine, "b", raft_id="b~77")
        second.lead(2)
        assert (await second.wait_for("forward"))["commands"] == [b"live"]
        assert told == []


async def test_what_is_refused_as_it_is_begun_leaves_nothing_to_the_garbage_collector() -> None:
    async with running(limits=Limits(pending_commands=0)) as engine:

        def begun() -> weakref.ref[Any]:
            def done(result: Any, error: Any) -> None:
                pass

            engine.begin(b"1", done, timeout_s=60.0)
            return weakref.ref(done)

        with no_collector():
            gone = begun()
            assert gone() is not None
            await until(lambda: gone() is None)


async def test_what_was_begun_is_told_when_the_engine_stops() -> None:
    async with running() as engine:
        told: list[Any] = []
        engine.begin(b"1", lambda result, error: told.append(type(error)), timeout_s=60.0)
        await engine.stop()
        await until(lambda: told == [NoLeader])


async def test_propose_all_after_others_belongs_to_their_lead() -> None:
    async with running() as engine:
        others = Proposed(asyncio.get_running_loop().create_future(), [], lead=5)
        async with asyncio.timeout(_LIMIT_S):
            refused = await engine.propose_all([b"1", b"2"], timeout_s=60.0, after=others)
        assert [type(each) for each in refused] == [NoLeader, NoLeader]


async def test_propose_all_whose_caller_was_cancelled_is_not_forwarded_again() -> None:
    async with running() as engine:
        first = Peer(engine, "a")
        first.lead(1)
        given_up = asyncio.ensure_future(engine.propose_all([b"one", b"two"], timeout_s=60.0))
        assert (await first.wait_for("forward"))["commands"] == [b"one", b"two"]
        given_up.cancel()
        await asyncio.wait((given_up,), timeout=_LIMIT_S)
        first.close()
        second = Peer(engine, "b", raft_id="b~77")
        second.lead(2)
        live = asyncio.create_task(engine.propose(b"live", timeout_s=60.0))
        assert (await second.wait_for("forward"))["commands"] == [b"live"]
        live.cancel()
        await asyncio.wait((live,), timeout=_LIMIT_S)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
async def test_propose_after_many_that_were_given_up_without_a_leader_is_refused_with_no_leader(
    how: str,
) -> None:
    async with running(limits=Limits(pending_commands=10)) as engine:
        for _ in range(5):
            timeout_s = 60.0 if how == "cancelled" else 0.001
            tasks = [
                asyncio.create_task(engine.propose(b"x%d" % number, timeout_s=timeout_s))
                for number in range(10)
            ]
            for ended in await _end(tasks, how):
                assert isinstance(ended, asyncio.CancelledError if how == "cancelled" else NoLeader)
        async with asyncio.timeout(_LIMIT_S):
            with pytest.raises(NoLeader):
                await engine.propose(b"live", timeout_s=0.02)


async def _end(tasks: list[asyncio.Task[bytes]], how: str) -> list[bytes | BaseException]:
    if how == "cancelled":
        proposed = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(proposed.set_result, None)
        await proposed  # every task has proposed
        for task in tasks:
            task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


# -- who may say that this node was removed ----------------------------------------------------


_HELLO = pytest.mark.parametrize("hello", [True, False], ids=["in-a-link", "instead-of-hello"])


def _told(engine: Engine) -> list[str]:
    told: list[str] = []
    engine.on_unwanted = told.append
    return told


@_HELLO
@pytest.mark.parametrize(("name", "raft_id"), [("x", "x"), ("a", "a"), ("b", "b~77"), ("b", "b~78")])
async def test_goodbye_removed_of_one_peer_convinces_nobody(name: str, raft_id: str, hello: bool) -> None:
    async with running() as engine:
        told = _told(engine)
        peer = Peer(engine, name, raft_id=raft_id, hello=hello)
        for _ in range(3):
            peer.say({"type": "goodbye", "reason": "removed"})
            peer = Peer(engine, name, raft_id=raft_id, hello=False)
        assert told == []
        assert engine.kept_out_by() == {name: "removed"}


@_HELLO
@pytest.mark.parametrize("reason", ["removed", "copy", "older disk"])
async def test_goodbye_of_a_majority_of_the_voters_is_believed_once(reason: str, hello: bool) -> None:
    async with running() as engine:
        told = _told(engine)
        for name in ("x", "y", "a"):
            Peer(engine, name, hello=hello).say({"type": "goodbye", "reason": reason})
        assert told == []
        for _ in range(2):
            Peer(engine, "b", raft_id="b~78", hello=hello).say({"type": "goodbye", "reason": reason})
        assert told == [reason]


@_HELLO
async def test_goodbye_for_another_reason_convinces_nobody(hello: bool) -> None:
    async with running() as engine:
        told = _told(engine)
        for name in ("a", "b"):
            Peer(engine, name, hello=hello).say({"type": "goodbye", "reason": "go away"})
        assert (told, engine.kept_out_by()) == ([], {})


async def test_goodbye_is_withdrawn_by_a_link_of_the_same_peer() -> None:
    async with running() as engine:
        told = _told(engine)
        Peer(engine, "a", hello=False).say({"type": "goodbye", "reason": "removed"})
        Peer(engine, "a")
        Peer(engine, "b", hello=False).say({"type": "goodbye", "reason": "removed"})
        assert told == []


async def test_goodbye_to_a_node_with_an_empty_log_counts_from_those_that_its_configuration_names() -> None:
    addresses = {"e": ["e:1"], "a": ["a:1"], "b": ["b:1"], "c": ["c:1"]}
    async with running(voters=(), addresses=addresses) as engine:
        told = _told(engine)
        for name in ("x", "y", "z", "a"):
            Peer(engine, name, hello=False).say({"type": "goodbye", "reason": "removed"})
        assert told == []
        Peer(engine, "c", hello=False).say({"type": "goodbye", "reason": "removed"})
        assert told == ["removed"]


async def test_removed_name_is_kept_out_under_every_raft_id() -> None:
    async with running(membership=Membership(removed=("m",))) as engine:
        for raft_id in ("m", "m~1", "m~2"):
            peer = Peer(engine, "m", raft_id=raft_id)
            assert peer.is_closing()
        assert engine.peers() == {}


async def test_refused_peer_is_no_longer_a_guest_when_its_connection_has_ended() -> None:
    """The listener counts it, and calls it slow, until it is told."""
    gone: list[bool] = []
    async with running(membership=Membership(removed=("m",))) as engine:
        peer = Peer(engine, "m", left=lambda: gone.append(True))
        await peer.wait_for("goodbye")
        await until(lambda: gone == [True])


async def test_node_whose_own_applied_log_says_that_it_was_removed_ends() -> None:
    membership = Membership()
    async with running(membership=membership) as engine:
        told = _told(engine)
        membership.removed.add("e")
        Peer(engine, "a").lead(1)
        await until(lambda: told == ["removed"])


async def test_process_that_the_register_comes_to_know_as_a_copy_is_parted_with() -> None:
    membership = Membership()
    async with running(membership=membership) as engine:
        peer = Peer(engine, "a", changes={"boots": 5, "boot": "C", "last_index": 9})
        membership.known = (5, "C", 1)
        engine.part_with_copies()
        assert not peer.is_closing()
        membership.known = (5, "B", 1)
        engine.part_with_copies()
        assert peer.is_closing()


async def test_process_that_the_register_comes_to_know_to_have_held_more_says_hello_again() -> None:
    """It was taken in before; so its vote would count here although this node knows better."""
    membership = Membership(process=(4, "B", 9))
    older = {"boots": 5, "boot": "C", "last_index": 9}
    async with running(membership=membership) as engine:
        peer = Peer(engine, "a", changes=older)
        engine.part_with_copies()
        assert not peer.is_closing()
        membership.known = (4, "B", 10)
        engine.part_with_copies()
        assert peer.is_closing()
        assert "goodbye" not in peer.heard()  # it may be honest
        again = Peer(engine, "a", changes=older)
        assert (await again.wait_for("goodbye"))["reason"] == "older disk"
        honest = Peer(engine, "a", changes=older | {"last_index": 10})
        engine.part_with_copies()
        assert not honest.is_closing()
        membership.known = (5, "C", 12)  # it was registered itself, and went on
        engine.part_with_copies()
        assert not honest.is_closing()


@pytest.mark.parametrize(
    ("known", "ends"), [((7, "other", 1), True), ((8, "x", 1), True), ((6, "x", 1), False)]
)
async def test_node_whose_own_log_knows_a_later_process_of_it_ends(
    known: tuple[int, str, int], ends: bool
) -> None:
    membership = Membership()
    async with running(membership=membership, boots=7) as engine:
        told = _told(engine)
        membership.own = known
        Peer(engine, "a").lead(1)
        await until(lambda: engine.applied_index() == 3)
        for _ in range(20):  # turns of the loop, each with its tick
            await asyncio.sleep(0)
        assert told == ["copy"] * ends


@pytest.mark.parametrize(
    ("known", "changes", "reason"),
    [
        ((5, "B", 10), {"boots": 4, "boot": "A", "last_index": 99}, "older disk"),
        ((5, "B", 10), {"boots": 5, "boot": "C", "last_index": 99}, "copy"),
        ((5, "B", 10), {"boots": 6, "boot": "C", "last_index": 9}, "older disk"),
        ((5, "B", 10), {"boots": 5, "boot": "B", "last_index": 10}, None),
        ((5, "B", 10), {"boots": 6, "boot": "C", "last_index": 10}, None),
        (None, {"boots": 1, "boot": "C", "last_index": 1}, None),
    ],
)
async def test_process_on_a_copied_or_older_disk_is_kept_out(
    known: tuple[int, str, int] | None, changes: dict[str, Any], reason: str | None
) -> None:
    async with running(membership=Membership(process=known)) as engine:
        peer = Peer(engine, "a", changes=changes)
        assert peer.is_closing() == (reason is not None)
        assert [found.reason for found in engine.refusals()] == [reason] * (reason is not None)


# -- who may lead ------------------------------------------------------------------------------


def _pong(voters: list[str], **info: Any) -> dict[str, Any]:
    return {
        "type": "pong",
        "sent_ms": 0,
        "wall_unix_ms": 1_790_000_000_000,
        "epoch": 0,
        "cluster_unix_ms": 0,
        "info": info,
        "links": [],
        "addresses": {},
        "voters": voters,
    }


@pytest.mark.parametrize("role", ["learner", None])
async def test_peer_that_is_no_voter_leads_once_a_voter_of_the_own_log_says_that_it_is_one(
    role: str | None,
) -> None:
    async with running(membership=Membership(roles={"n": role} if role else {})) as engine:
        newcomer, stranger, voter = Peer(engine, "n"), Peer(engine, "x"), Peer(engine, "a")
        newcomer.lead(5)
        assert (engine.leader(), engine.status().term) == (None, 0)
        stranger.say(_pong(["n", "x"]))
        newcomer.lead(5)
        assert engine.leader() is None
        voter.say(_pong(["a", "b~77", "n"]))
        newcomer.lead(5)
        assert engine.leader() == "n"


async def test_peer_that_was_admitted_as_a_voter_leads_before_its_promotion_is_known() -> None:
    async with running(membership=Membership(roles={"n": "voter"})) as engine:
        Peer(engine, "n").lead(5)
        assert engine.leader() == "n"


async def test_node_with_an_empty_log_follows_whom_most_of_its_configuration_call_a_voter() -> None:
    addresses = {"a": ["a:1"], "b": ["b:1"], "c": ["c:1"]}
    async with running(voters=(), addresses=addresses, membership=Membership(roles={})) as engine:
        peers = {name: Peer(engine, name) for name in ("a", "b", "x")}
        begin = {
            "type": "append_entries",
            "term": 5,
            "leader_commit": 1,
            "prev_log_index": 1,
            "prev_log_term": 0,
        }
        for name in ("x", "a"):
            peers[name].say(_pong(["a", "c"]))
            peers["a"].say({**begin, "entries": []})
            assert engine.leader() is None
        peers["b"].say(_pong(["a", "c"]))
        peers["a"].say({**begin, "entries": []})
        assert engine.leader() == "a"


async def test_log_that_contradicts_a_leader_stops_the_node_only_when_a_majority_follows_that_leader() -> (
    None
):
    async with running(voters=("a", "b", "c")) as engine:
        peers = {name: Peer(engine, name) for name in ("a", "b", "c")}
        peers["a"].say(_append(1, 4, 0, commit=4))
        await until(lambda: engine.status().commit_index == 4)
        lie = _append(7, 4, 6, commit=4)
        for follows in (None, "b"):
            for name in ("a", "c"):
                peers[name].say(_pong(["a", "b", "c"], leader=follows))
            peers["b"].say(lie)
            await asyncio.sleep(0.01)
            if follows is None:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(engine.wait_failed(), 0.05)
                assert engine.status().term == 1
                assert [trouble.peer for trouble in engine.status().troubles] == ["b"]
        error = await asyncio.wait_for(engine.wait_failed(), _LIMIT_S)
        assert "`cyoloctl member remove e`" in error.message


def _append(term: int, index: int, entry_term: int, *, commit: int) -> dict[str, Any]:
    return {
        "type": "append_entries",
        "term": term,
        "leader_commit": commit,
        "prev_log_index": index,
        "prev_log_term": entry_term,
        "entries": [],
    }


@pytest.mark.parametrize(("last_index", "kept_out"), [(1, True), (4, False)])
async def test_leader_keeps_a_process_out_that_holds_less_than_the_one_before_it_acknowledged(
    last_index: int, kept_out: bool
) -> None:
    async with running(voters=("e",)) as engine:
        await until(engine.is_leader)
        await until(lambda: engine.status().commit_index == 4)
        first = Peer(engine, "l", changes={"boots": 1, "boot": "A"})
        term = engine.status().term
        first.say({"type": "append_response", "term": term, "next_index": 5, "reset": False, "success": True})
        await until(lambda: engine.acknowledged("l") == 4)
        first.close()
        first._link.connection_lost(None)
        changes = {"boots": 2, "boot": "B", "term": term, "last_index": last_index}
        assert Peer(engine, "l", changes=changes).is_closing() == kept_out
        assert [found.reason for found in engine.refusals()] == ["older disk"] * kept_out


# -- what callers are told ---------------------------------------------------------------------


async def leading(engine: Engine) -> None:
    """The engine of a single voter leads at once."""
    await until(engine.is_leader)
    await until(lambda: engine.applied_index() == engine.status().last_index)


async def test_step_of_the_replica_is_taken_when_asked_for_until_the_engine_stops() -> None:
    async with running() as engine:
        assert await engine.wait_ticked(_LIMIT_S)
        await engine.stop()
        assert not await engine.wait_ticked(0.02)


async def test_wait_applied_waits_for_the_very_index() -> None:
    async with running(voters=("e",)) as engine:
        await leading(engine)
        index = engine.applied_index() + 1
        assert not await engine.wait_applied(index, timeout_s=0.02)
        waiting = asyncio.create_task(engine.wait_applied(index, timeout_s=60.0))
        further = asyncio.create_task(engine.wait_applied(index + 1, timeout_s=60.0))
        await asyncio.sleep(0)
        assert await engine.propose(b"x", timeout_s=_LIMIT_S) == b"x"
        async with asyncio.timeout(_LIMIT_S):
            assert await waiting
        assert engine.applied_index() == index
        assert not further.done()
        await give_up(further)


@pytest.mark.parametrize("done", [False, True], ids=["before its work", "after its work"])
async def test_bug_in_a_tick_ends_the_node_and_acknowledges_nothing(done: bool) -> None:
    async with running() as engine:
        leader = Peer(engine, "a")
        leader.lead(1)
        await until(lambda: engine.leader() == "a")
        tick = engine._replica.tick

        def broken() -> None:
            if done:
                tick()
            raise RuntimeError("a bug")

        engine._replica.tick = broken  # type: ignore[method-assign]
        with pytest.raises(OutcomeUnknown if done else InternalError):
            await engine.propose(b"x", timeout_s=_LIMIT_S)
        async with asyncio.timeout(_LIMIT_S):
            assert isinstance(await engine.wait_failed(), InternalError)
        assert engine.status().last_index == 3


async def test_write_that_was_sent_and_not_answered_in_time_is_unknown_and_one_that_waits_is_not() -> None:
    async with running() as engine:
        with pytest.raises(NoLeader):
            await engine.propose(b"x", timeout_s=0.02)
        leader = Peer(engine, "a")
        leader.lead(1)
        await until(lambda: engine.leader() == "a")
        with pytest.raises(OutcomeUnknown):
            await engine.propose(b"y", timeout_s=0.05)


async def test_stop_answers_whoever_waits() -> None:
    async with running() as engine:
        writing = asyncio.create_task(engine.propose(b"x", timeout_s=60.0))
        reading = asyncio.create_task(engine.read_barrier(timeout_s=60.0))
        await asyncio.sleep(0)
        await engine.stop()
        for waiting in (writing, reading):
            with pytest.raises(NoLeader, match="stopping"):
                await waiting


async def test_membership_change_that_is_not_confirmed_in_time_is_unknown() -> None:
    async with running() as engine:
        engine._replica.demote = lambda raft_id, callback: None  # type: ignore[method-assign]
        with pytest.raises(OutcomeUnknown):
            await engine.demote(RaftId("a"), timeout_s=0.02)


async def test_snapshot_that_cannot_be_saved_by_a_bug_ends_the_node() -> None:
    async with running() as engine:

        def job() -> None:
            raise RuntimeError("a bug")

        engine._run_in_background(job)
        async with asyncio.timeout(_LIMIT_S):
            assert isinstance(await engine.wait_failed(), InternalError)


async def test_read_that_was_given_up_takes_no_place() -> None:
    async with running(limits=Limits(pending_reads=2)) as engine:
        for _ in range(2):
            with pytest.raises(NoLeader):
                await engine.read_barrier(timeout_s=0.01)
            task = asyncio.create_task(engine.read_barrier(timeout_s=60.0))
            await asyncio.sleep(0)
            await give_up(task)
            engine._replica._reads.drop_cancelled()  # as once a second
        with pytest.raises(NoLeader):
            await engine.read_barrier(timeout_s=0.01)


# -- who is let in ------------------------------------------------------------------------------


async def test_process_whose_link_broke_is_not_kept_out_for_what_it_had_not_synced() -> None:
    async with running(voters=("e",)) as engine:
        await leading(engine)
        first = Peer(engine, "l", changes={"boots": 1, "boot": "A"})
        term, last = engine.status().term, engine.status().last_index
        acknowledged = {"term": term, "next_index": last + 1, "reset": False, "success": True}
        first.say({"type": "append_response", **acknowledged})
        await until(lambda: engine.acknowledged("l") == last)
        first.close()
        first._link.connection_lost(None)
        again = Peer(engine, "l", changes={"boots": 1, "boot": "A", "term": term, "last_index": last - 1})
        assert not again.is_closing()


async def test_raft_id_that_the_log_removed_is_kept_out_although_the_register_forgot_it() -> None:
    async with running(voters=("e", "m")) as engine:
        gone = Peer(engine, "m")
        await until(lambda: "m" in engine.peers())
        engine._replica._membership.applied = Configuration(frozenset({"e"}), frozenset({"m"}))
        gone.close()
        gone._link.connection_lost(None)
        assert Peer(engine, "m").is_closing()


# -- whether this process has its place -----------------------------------------------------------


async def placed(engine: Engine, *, timeout_s: float) -> bool:
    """Whether `wait_placed` returns before its own timeout."""
    begun = time.monotonic()
    await engine.wait_placed(timeout_s=timeout_s)
    return time.monotonic() - begun < timeout_s


async def test_process_has_its_place_once_all_were_tried_and_nobody_keeps_it_out() -> None:
    async with running(addresses={"a": ["a:1"], "b": ["b:1"]}) as engine:
        assert await placed(engine, timeout_s=_LIMIT_S)


async def test_process_that_a_voter_keeps_out_has_no_place_yet() -> None:
    async with running(addresses={"a": ["a:1"], "b": ["b:1"]}) as engine:
        Peer(engine, "a", hello=False).say({"type": "goodbye", "reason": "copy"})
        assert not await placed(engine, timeout_s=0.6)


async def test_process_has_no_place_before_every_voter_was_tried() -> None:
    async with running() as engine:  # no address of a or b is known
        assert not await placed(engine, timeout_s=0.3)


# -- what goes wrong under the links --------------------------------------------------------------


async def test_message_that_meets_a_bug_ends_its_link_and_nothing_else() -> None:
    async with running() as engine:

        def broken(raft_id: RaftId, message: dict[str, Any]) -> None:
            raise RuntimeError("a bug")

        engine.on_peer_message = broken  # type: ignore[method-assign]
        first, second = Peer(engine, "a"), Peer(engine, "b", raft_id="b~77")
        first.lead(1)
        assert first.is_closing()
        assert not second.is_closing()


async def test_certificate_that_cannot_be_read_is_nobodys() -> None:
    async with running() as engine:

        def broken(tls: Any) -> str:
            raise RuntimeError("a bug")

        engine._network._identify = broken
        assert Peer(engine, "a").is_closing()
        assert engine.peers() == {}


async def test_call_that_timed_out_is_forgotten() -> None:
    async with running() as engine:
        Peer(engine, "a")
        with pytest.raises(OutcomeUnknown):
            await engine.call("a", b"question", timeout_s=0.02)
        assert len(engine._network._links._calls) == 0


async def test_call_whose_answer_failed_takes_no_place() -> None:
    async with running() as engine:
        asked: list[bytes] = []

        async def broken(name: str, body: bytes) -> bytes:
            asked.append(body)
            raise RuntimeError("a bug")

        engine._on_call = broken
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        Peer(engine, "a").say({"type": "call", "id": 1, "body": b"question"})
        await until(lambda: asked == [b"question"])
        await until(lambda: engine._network._links._serving == 0)


async def test_peer_whose_dial_failed_is_dialled_again() -> None:
    async with running(addresses={"a": ["a:1"]}) as engine:
        dialled: list[str] = []

        async def connect(address: str, factory: Callable[[], asyncio.Protocol]) -> Any:
            dialled.append(address)
            raise OSError("nobody is there")

        engine._network._connect = connect
        await until(lambda: len(dialled) >= 2)


# -- a slow disk -------------------------------------------------------------------------------


class HangingStore(MemoryStore):
    """Its commits wait, once `hang` was called, until `release`."""

    def __init__(self) -> None:
        super().__init__()
        self._free = threading.Event()
        self._free.set()

    def hang(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def commit(self, batch: Batch) -> None:
        assert self._free.wait(_LIMIT_S)
        super().commit(batch)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingStore]:
    """A store whose every commit is made in another thread."""
    monkeypatch.setattr("cyoloctl.raft.engine.ELSEWHERE_MS", 0.0)
    store = HangingStore()
    yield store
    store.release()


def _entry(term: int, index: int) -> dict[str, Any]:
    """One entry after this index, of that term as all before it but those that the log began with."""
    message = _append(term, index, 0 if index == 3 else term, commit=3)
    return {**message, "entries": [(NO_OP, index + 1, term)]}


async def _writing(engine: Engine, slow: HangingStore) -> Peer:
    """The leader of a node that writes an entry to a disk that hangs."""
    leader = Peer(engine, "a")
    leader.lead(1)
    await leader.wait_for("append_response")
    slow.hang()
    leader.say(_entry(1, 3))
    await until(lambda: engine._replica.turns.is_suspended)
    return leader


async def test_loop_goes_on_and_reads_are_confirmed_while_the_journal_is_written(slow: HangingStore) -> None:
    async with running(store=slow) as engine:
        leader = await _writing(engine, slow)
        leader.say(_entry(1, 4))
        leader.say({"type": "read_confirm", "seq": 5, "term": 1})
        assert (await leader.wait_for("read_confirmed"))["seq"] == 5
        assert engine.status().last_index == 4
        assert not await engine.wait_ticked(0.02)
        slow.release()
        assert (await leader.wait_for("append_response"))["next_index"] == 5
        assert (await leader.wait_for("append_response"))["next_index"] == 6
        assert await engine.wait_ticked(_LIMIT_S)
        assert slow.record().last_index == 5


async def test_stop_waits_for_the_write_that_is_being_made(slow: HangingStore) -> None:
    async with running(store=slow) as engine:
        await _writing(engine, slow)
        stopping = asyncio.create_task(engine.stop())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asyncio.shield(stopping)
        slow.release()
        async with asyncio.timeout(_LIMIT_S):
            await stopping
        assert slow.record().last_index == 4


async def test_write_that_fails_in_another_thread_ends_the_node(slow: HangingStore) -> None:
    async with running(store=slow) as engine:
        leader = Peer(engine, "a")
        leader.lead(1)
        await leader.wait_for("append_response")

        def fail(batch: Batch) -> None:
            raise StorageError("the disk is gone")

        slow.commit = fail  # type: ignore[method-assign]
        leader.say(_entry(1, 3))
        async with asyncio.timeout(_LIMIT_S):
            assert (await engine.wait_failed()).message == "the disk is gone"
        assert "append_response" not in leader.heard()


async def test_engine_makes_its_writes_itself_on_a_fast_disk() -> None:
    async with running() as engine:
        leader = Peer(engine, "a")
        leader.lead(1)
        turns, taken = engine._replica.turns, list[bool]()
        take = turns.write_elsewhere

        def watched(write: Write) -> bool:
            taken.append(take(write))
            return taken[-1]

        turns.write_elsewhere = watched
        leader.say(_entry(1, 3))
        await leader.wait_for("append_response")
        await until(lambda: taken == [False])
