"""What a write costs, counted instead of timed: calls of functions, which are the same on every machine.

Each bound is a tenth above what was counted when it was set.  Whoever passes it has made a write dearer on
every node: make it cheaper again, or raise the bound in a commit that says what it buys.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import random
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, cast

import pytest

from cyoloctl.control.server import build_server
from cyoloctl.model import RaftId, name_of
from cyoloctl.raft.clock import ClusterClock
from cyoloctl.raft.journal import Journal, MemoryStore
from cyoloctl.raft.messages import FrameReader, Outgoing, decode
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.settings import Timing
from cyoloctl.raft.snapshot import SnapshotStore
from cyoloctl.replicated.command import decode_command, decode_result_with_index, encode_command
from cyoloctl.replicated.proposer import Planned
from cyoloctl.state import ClusterState
from tests.support.service import MemoryService

TIMES = 50
PUT = {
    "key": "a/key",
    "value": base64.b64encode(b"x" * 100).decode(),
    "if_revision": None,
    "ttl_ms": None,
    "fence": None,
}
INCREMENT = {"name": "default", "by": 1}


class Counted:
    """Counts calls while the block runs: of functions of Python and of C."""

    calls = 0

    def __enter__(self) -> Counted:
        gc.disable()  # a collection calls whatever it finds
        sys.setprofile(self._saw)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        gc.enable()

    def _saw(self, frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_call"):
            self.calls += 1


def calls_of(action: Callable[[int], object]) -> float:
    """Calls of one action; it is done before, so that what is made once does not count."""
    for number in range(TIMES):
        action(number)
    with Counted() as counted:
        for number in range(TIMES, 2 * TIMES):
            action(number)
    return counted.calls / TIMES


def command(machine: str, operation: str, arguments: dict[str, Any], number: int) -> bytes:
    return encode_command(
        machine,
        operation,
        arguments,
        request_id=f"{number:032x}",
        kind="node",
        caller="unix-socket",
        origin="operator uid:0 - n1",
    )


@pytest.mark.parametrize(
    ("machine", "operation", "arguments", "most"),
    [("counter", "add", INCREMENT, 108), ("kv", "put", PUT, 157)],
)
def test_command_is_applied_with_few_calls(
    machine: str, operation: str, arguments: dict[str, Any], most: int
) -> None:
    state = ClusterState()
    commands = [command(machine, operation, arguments, number) for number in range(2 * TIMES)]
    assert calls_of(lambda number: state.apply(number + 1, commands[number])) < most


def test_command_and_result_are_encoded_and_decoded_with_few_calls() -> None:
    state = ClusterState()
    data = command("kv", "put", PUT, 1)
    result = state.apply(1, data)
    assert calls_of(lambda number: command("kv", "put", PUT, number)) < 29
    assert calls_of(lambda _: decode_command(data)) < 31
    assert calls_of(lambda _: decode_result_with_index(result)) < 24


class Transport(asyncio.Transport):
    """Keeps what is written, and calls back at each."""

    def __init__(self) -> None:
        super().__init__()
        self.written: asyncio.Queue[bytes] = asyncio.Queue()

    def write(self, data: Any) -> None:
        self.written.put_nowait(bytes(data))

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        pass


def forget(service: MemoryService) -> None:
    """What the service has kept of its calls, and what nobody holds."""
    service.calls.clear()
    service.results.clear()
    gc.collect()


class Member:
    """A replica whose messages travel as frames, and whose clocks advance by what each look at them takes."""

    def __init__(self, name: RaftId, names: Sequence[RaftId]) -> None:
        self.outgoing = Outgoing()
        self._readers = {peer: FrameReader() for peer in names}
        self._now = 1000.0
        self.replica = Replica(
            name,
            genesis=names,
            journal=Journal(MemoryStore(), clock=self._clock),
            snapshots=SnapshotStore(None),
            machine=ClusterState(),
            clock=self._clock,
            cluster_clock=ClusterClock(
                name_of(name), wall_unix_ms=lambda: 1_780_000_000_000, monotonic=self._clock
            ),
            rng=random.Random(name),
            send=self.outgoing.add,
            run_in_background=lambda job: job(),
            timing=Timing(commit_notice_s=0.0),
        )
        self.replica.start()

    def _clock(self) -> float:
        self._now += 1e-6
        return self._now

    def waits(self, seconds: float) -> None:
        self._now += seconds

    def takes(self, peer: RaftId, frames: bytes) -> None:
        for frame in self._readers[peer].feed(frames):
            self.replica.receive(peer, decode(frame))


def pass_messages(members: dict[RaftId, Member]) -> None:
    """Until nobody says anything."""
    busy = True
    while busy:
        busy = False
        for name, member in members.items():
            member.replica.tick()
            for peer, frames in member.outgoing.take():
                members[peer].takes(name, frames)
                busy = True


def test_write_goes_through_three_replicas_with_few_calls() -> None:
    names = [RaftId(name) for name in ("n1.a", "n2.b", "n3.c")]
    members = {name: Member(name, names) for name in names}
    for name, member in members.items():
        for peer in names:
            if peer != name:
                member.replica.peer_connected(peer)
    leader = members[names[0]].replica
    members[names[0]].waits(5.0)  # longer than any follower does for a leader
    pass_messages(members)
    assert leader.is_leader()
    commands = [command("kv", "put", PUT, number) for number in range(2 * TIMES)]
    answered: list[bytes] = []

    def write(number: int) -> None:
        leader.propose(commands[number], lambda result, error: answered.append(result))
        pass_messages(members)

    assert calls_of(write) < 2310
    assert len(answered) == 2 * TIMES
    assert len({member.replica.applied_index() for member in members.values()}) == 1


class AtOnce(MemoryService):
    """A node that begins a write as it is read, as real ones do, and has it done in the next event."""

    def __init__(self) -> None:
        super().__init__()
        planned = Planned("counter", "add", INCREMENT, lambda *given: given)
        self.counters.plan_add = lambda name, *, by: planned

    def begin(self, planned: Any, *, request_id: str | None, timeout_s: float, done: Any) -> Any:
        answer = {"name": "default", "value": 1, "value_string": "1", "index": 1, "epoch": 1}
        return asyncio.get_running_loop().call_soon(done, answer, None).cancel


@pytest.mark.parametrize(("service", "most"), [(MemoryService, 255), (AtOnce, 183)])
async def test_request_is_read_and_answered_with_few_calls_and_leaves_nothing_behind(
    service: Callable[[], MemoryService], most: int
) -> None:
    await _ask_often(service(), most)


async def _ask_often(service: MemoryService, most: int) -> None:
    server = build_server(cast("Any", service), logger=logging.getLogger("test.costs"))
    transport = Transport()
    connection = server.protocol_factory()
    connection.role, connection._identified = "operator", True  # type: ignore[attr-defined]
    connection.connection_made(transport)
    request = b'POST /v1/counters/default/increment HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n{"by":1}'

    async def ask(times: int) -> None:
        for _ in range(times):
            connection.data_received(request)  # type: ignore[attr-defined]
            assert (await transport.written.get()).startswith(b"HTTP/1.1 200 OK\r\n")

    await ask(TIMES)
    with Counted() as counted:
        await ask(TIMES)
    assert counted.calls / TIMES < most
    forget(service)
    before = sys.getallocatedblocks()
    await ask(10 * TIMES)
    forget(service)
    assert (sys.getallocatedblocks() - before) / (10 * TIMES) < 1
    await server.close(0.1)
