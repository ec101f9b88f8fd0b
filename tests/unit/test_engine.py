"""The engine in its loop: what happens to callers that give up, and whose goodbye is believed.

Peers are scripted: real sessions and frames, over transports in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from cyoloctl.errors import NoLeader
from cyoloctl.raft._engine import Engine
from cyoloctl.raft._journal import Journal, MemoryStore
from cyoloctl.raft._pysyncobj import NO_OP, encode_membership
from cyoloctl.raft._replica import Limits
from cyoloctl.raft._snapshot import SnapshotStore
from cyoloctl.raft._transport import PROTOCOL_VERSION, PeerIdentity
from cyoloctl.raft._wire import FrameReader, decode, encode

_CLUSTER = "c" * 32
_LIMIT_S = 5.0  # no wait of a passing test comes near it


class Echo:
    """A state machine that answers with the command."""

    def apply(self, index: int, command: bytes) -> bytes:
        return command

    def snapshot(self) -> bytes:
        return b""

    def restore(self, data: bytes) -> None:
        pass


async def _no_network(address: str, factory: Callable[[], asyncio.Protocol]) -> Any:
    raise OSError("nobody is dialled here")


async def _no_calls(name: str, body: bytes) -> bytes:
    return b""


@contextlib.asynccontextmanager
async def running(*, limits: Limits | None = None) -> AsyncIterator[Engine]:
    """The engine of node e, no voter; its log says that a and b are: b keeps its log in memory."""
    journal = Journal(MemoryStore())
    journal.append(1, 0, NO_OP)
    journal.append(2, 0, encode_membership("add", "a"))
    journal.append(3, 0, encode_membership("add", "b~77"))
    journal.sync()
    engine = Engine(
        PeerIdentity("e", "e", _CLUSTER, "boot-e", "e:1", "1"),
        journal=journal,
        snapshots=SnapshotStore(None),
        machine=Echo(),
        identify=lambda ssl_object: cast(str, ssl_object),
        connect=_no_network,
        describe=dict,
        on_call=_no_calls,
        limits=limits or Limits(),
    )
    engine.start({})
    try:
        yield engine
    finally:
        await engine.stop()


class Peer(asyncio.Transport):
    """The other end of a session: an authenticated node that says what the test wants."""

    def __init__(self, engine: Engine, name: str, *, raft_id: str | None = None, hello: bool = True) -> None:
        super().__init__()
        self._name = name
        self._reader = FrameReader()
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self._closing = False
        self._session = engine.accept()
        self._session.connection_made(self)
        if hello:
            self.say(
                {
                    "type": "hello",
                    "version": PROTOCOL_VERSION,
                    "cluster_id": _CLUSTER,
                    "name": name,
                    "raft_id": raft_id or name,
                    "boot": f"boot-{name}",
                    "address": f"{name}:1",
                    "release": "1",
                }
            )

    def say(self, message: dict[str, Any]) -> None:
        self._session.data_received(encode(message))

    def lead(self, term: int) -> None:
        """A heartbeat of the leader of that term, whose log is the same."""
        self.say(
            {
                "type": "append_entries",
                "term": term,
                "commit_index": 3,
                "prevLogIdx": 3,
                "prevLogTerm": 0,
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

    # What the session calls.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._name if name == "ssl_object" else default

    def write(self, data: Any) -> None:
        for frame in self._reader.feed(bytes(data)):
            self._heard.put_nowait(decode(frame))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._session.connection_lost, None)

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


@pytest.mark.parametrize("hello", [True, False], ids=["in-a-session", "instead-of-hello"])
async def test_goodbye_removed_of_a_peer_that_is_no_voter_is_ignored(hello: bool) -> None:
    async with running() as engine:
        removed: list[str] = []
        engine.on_removed_self = lambda: removed.append("removed")
        stranger = Peer(engine, "x", hello=hello)
        stranger.say({"type": "goodbye", "reason": "removed"})
        assert stranger.is_closing()
        assert removed == []


@pytest.mark.parametrize(("name", "raft_id"), [("a", "a"), ("b", "b~77"), ("b", "b~78")])
@pytest.mark.parametrize("hello", [True, False], ids=["in-a-session", "instead-of-hello"])
async def test_goodbye_removed_of_a_voter_is_believed(name: str, raft_id: str, hello: bool) -> None:
    async with running() as engine:
        removed: list[str] = []
        engine.on_removed_self = lambda: removed.append("removed")
        Peer(engine, name, raft_id=raft_id, hello=hello).say({"type": "goodbye", "reason": "removed"})
        assert removed == ["removed"]
