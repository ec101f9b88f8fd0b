"""Surroundings of a decoder: keys, a replica, a node's service behind a link, a server, an answer.

Made once per process where bytes leave nothing behind, otherwise again for every input.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import io
import json
import logging
import random
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from cyoloctl.control import openapi
from cyoloctl.control.client import Client
from cyoloctl.control.endpoints import UnixEndpoint
from cyoloctl.control.http1 import Deadline
from cyoloctl.control.server import build_server
from cyoloctl.errors import CyoloctlError, StorageError
from cyoloctl.model import Address, NodeName, RaftId, Stamp
from cyoloctl.node.config import Config
from cyoloctl.node.service import Service
from cyoloctl.pki import join_token
from cyoloctl.pki.files import PKI_DIRECTORY, NodeFiles, read_ca
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.requests import PendingRequest, prepare_request
from cyoloctl.pki.tls import TlsIdentity
from cyoloctl.raft import ClusterClock, Engine, PeerIdentity
from cyoloctl.raft.batch import encode_batch
from cyoloctl.raft.journal import Journal, MemoryStore
from cyoloctl.raft.messages import PeerProtocolError, decode, encode
from cyoloctl.raft.replica import Replica
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.snapshot import SnapshotStore
from cyoloctl.raft.sqlite_store import SqliteStore
from cyoloctl.raft.vendor import NO_OP, encode_membership
from cyoloctl.replicated.command import encode_command
from cyoloctl.replicated.levels import BASE_LEVEL
from cyoloctl.state import ClusterState
from cyoloctl.web import encoding

__all__ = [
    "NOW",
    "SECRET",
    "Keys",
    "MemoryFiles",
    "ask_client",
    "ask_server",
    "directory",
    "fill",
    "frames",
    "keys",
    "leader_answers",
    "peer_call",
    "peer_link",
    "replica_hears",
    "run",
    "unstarted_service",
]

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECRET = "s" * 43
_T = TypeVar("_T")


@functools.cache
def directory() -> Path:
    """A directory of this process, removed when it ends."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


def run(call: Coroutine[Any, Any, _T]) -> _T:
    """Run in one loop per process; an error that a task or callback raised unseen counts as broken."""
    unseen: list[Any] = []
    loop = _loop()
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    result = loop.run_until_complete(call)
    assert not unseen, unseen
    return result


@contextlib.contextmanager
def _no_bug_logged() -> Iterator[None]:
    """No log line with an exception: that is how the product reports what it did not expect."""
    logger = logging.getLogger("cyoloctl")
    handler = _Bugs()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert not handler.found, handler.found


class _Bugs(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


# --- keys ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """The cluster of node n1, and node n2 that asks to be admitted."""

    ca: str
    ca_key: str
    cluster_id: str
    first: Path
    second: Path
    files: NodeFiles
    pending: PendingRequest


@functools.cache
def keys() -> Keys:
    first = directory() / "n1"
    files = new_cluster(first, name="n1", cluster="demo", now=NOW)
    ca, ca_key = read_ca(first / PKI_DIRECTORY)
    cluster_id = str(files.identity.cluster_id)
    pending = prepare_request(directory() / "n2" / PKI_DIRECTORY, "n2", cluster_id)
    return Keys(ca, ca_key, cluster_id, first, directory() / "n2", files, pending)


def fill(name: str, data: bytes) -> Path:
    """A private file of these bytes."""
    path = directory() / name
    path.touch(0o600)
    path.write_bytes(data)
    return path


class MemoryFiles:
    """`Files` of a snapshot store, in memory."""

    name = "the snapshot"

    def __init__(self, snapshot: bytes | None = None) -> None:
        self.found = {} if snapshot is None else {"snapshot": snapshot}
        self._open: dict[str, io.BytesIO] = {}

    def leftovers(self) -> list[str]:
        return []

    def open(self, name: str) -> BinaryIO:
        if name not in self.found:
            raise FileNotFoundError
        return io.BytesIO(self.found[name])

    def create(self, name: str) -> BinaryIO:
        self._open[name] = io.BytesIO()
        return self._open[name]

    def sync(self, file: BinaryIO) -> None:
        pass

    def rename(self, old: str, new: str) -> None:
        self.found[new] = self._open.pop(old).getvalue()

    def sync_names(self) -> None:
        pass

    def remove(self, name: str) -> None:
        self._open.pop(name, None)


# --- peers ---------------------------------------------------------------------------------------


def frames(lines: bytes) -> list[bytes]:
    """Frames without their length prefix.  A line is one: header, and after a zero byte the tail.

    So the lengths around them are right, and damage falls on what is inside.
    """
    found = []
    for line in lines.split(b"\n"):
        head, _, tail = line.partition(b"\0")
        found.append(struct.pack(">I", len(head)) + head + tail)
    return found


def _journal(store: MemoryStore | SqliteStore, voters: str) -> Journal:
    """A log of term 1: its founders n1 and more, and one command."""
    journal = Journal(store, clock=lambda: 0.0)
    journal.append(1, 0, NO_OP)
    for name in voters.split():
        journal.append(journal.last_index + 1, 0, encode_membership("add", name))
    journal.set_term(1, None)
    journal.append(journal.last_index + 1, 1, NO_OP)
    command = encode_command("counter", "add", {"name": "c", "by": 1}, request_id="r")
    entry = encode_batch([(command, 1)], Stamp(0, 1_767_225_600_000, 5))
    journal.append(journal.last_index + 1, 1, entry)
    journal.set_commit_index(journal.last_index)
    journal.sync()
    return journal


def _speaker(choice: int) -> str:
    """Another voter, a learner, or a node that nobody knows."""
    return ("l" if choice & 8 else "z") if choice & 2 else "n2"


class _Untouched:
    """State that a peer that is no voter must not touch: the term, and the log as far as it went."""

    def __init__(self, replica: Replica, speaker: str) -> None:
        self._replica, self._speaker = replica, speaker
        self._term, self._log = replica.progress()[0], list(replica._journal.entries)

    def check(self) -> None:
        if self._speaker == "n2":
            return
        assert self._replica.progress()[0] == self._term
        found = {entry[1]: entry for entry in self._replica._journal.entries}
        assert all(found.get(entry[1], entry)[1:] == entry[1:] for entry in self._log)
        assert self._replica.progress()[1] >= self._log[-1][1]


def replica_hears(data: bytes) -> None:
    """Feed a voter of three, as follower or leader of its term 2, with what `frames` makes of the data.

    The first byte chooses that, and who speaks: see `_speaker`.  Messages that are none are left out.
    Raises whatever the replica raises; AssertionError when it stopped or says what is no message.
    """
    choice = data[0] if data else 0
    now = [1000.0]
    sent: list[tuple[str, Any]] = []
    replica = Replica(
        "n1",
        journal=_journal(MemoryStore(), "n1 n2 n3"),
        snapshots=SnapshotStore(None),
        machine=ClusterState(),
        clock=lambda: now[0],
        cluster_clock=ClusterClock("n1", wall_unix_ms=lambda: 1_780_000_000_000, monotonic=lambda: now[0]),
        rng=random.Random(1),
        send=lambda peer, message: sent.append((peer, message)),
        run_in_background=lambda job: job(),
        may_lead=lambda raft_id: False,
        limits=Limits(compact_entries=4, keep_entries=1, chunk_bytes=64),
    )
    replica.start()
    for peer in ("n2", "n3", "l", "z"):
        replica.peer_connected(peer)
    if choice & 1:
        now[0] += 2.0
        for kind in ("pre_vote_response", "vote_response"):
            replica.tick()
            answer = {"type": kind, "term": 2}
            replica.receive("n2", {**answer, "granted": True} if kind == "pre_vote_response" else answer)
        replica.tick()
        assert replica.is_leader()
    replica.propose(b"pending", lambda *_: None)
    replica.read(lambda *_: None)
    speaker = _speaker(choice)
    untouched = _Untouched(replica, speaker)
    for frame in frames(data[1:]):
        try:
            message = decode(frame)
        except PeerProtocolError:
            continue
        replica.receive(speaker, message)
        replica.tick()
        if choice & 4:
            now[0] += 0.6
            replica.tick()
        assert replica.failed is None, replica.failed
        untouched.check()
        for _, message in sent:
            decode(encode(message)[4:])
        sent.clear()
    assert replica.next_deadline() > now[0] - 10.0
    replica.status()


class _Wire(asyncio.Transport):
    """The far end of a link; what the node says must be frames."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.closing = False
        self.heard: list[dict[str, Any]] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.name if name == "ssl_object" else default

    def write(self, data: Any) -> None:
        position = 0
        while position < len(data):
            size = int.from_bytes(data[position : position + 4], "big")
            self.heard.append(decode(bytes(data[position + 4 : position + 4 + size])))
            position += 4 + size

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0


async def _no_network(address: str, factory: Any) -> Any:
    raise OSError("nobody is dialled here")


def peer_link(data: bytes) -> None:
    """A node with its journal on disk, and a peer that sends what `frames` makes of the data after its hello.

    The first byte chooses: the node is the only voter and leads, or one of three that follows; and who the
    peer is, see `_speaker`.
    """
    choice = data[0] if data else 0
    run(_peer_link(choice, frames(data[1:])))


def peer_call(data: bytes) -> None:
    """A request of a peer to a node that leads, with this body."""
    head = json.dumps({"type": "call", "id": 1, "body": len(data)}).encode()
    run(_peer_link(5, [struct.pack(">I", len(head)) + head + data]))


class _NobodyRemoved:
    """n2 was admitted as a voter, l as a learner; z is unknown."""

    def is_removed(self, name: str) -> bool:
        return False

    def is_left_behind(self, name: str) -> bool:
        return False

    def role(self, name: str) -> str | None:
        return {"n2": "voter", "l": "learner"}.get(name)

    def stands_back(self, name: str) -> bool:
        return False

    def raft_id(self, name: str) -> RaftId | None:
        return None

    def process(self, name: str) -> tuple[int, str, int] | None:
        return None

    def level(self) -> int:
        return BASE_LEVEL


@dataclass
class _Node:
    """A running node n1 without a network."""

    engine: Engine
    service: Service
    asked_to_stop: bool = False


def _node(journal: Journal) -> _Node:
    """Call it in the loop.  Start and stop the engine."""
    known = keys()
    machine = ClusterState()
    node: _Node

    async def on_call(name: str, body: bytes) -> bytes:
        answer = await node.service.calls.answer(name, body)
        error = json.loads(answer).get("error")
        assert error is None or error["code"] != "internal", error
        return answer

    def describe() -> dict[str, Any]:
        return node.service.member_status.describe()

    def stop() -> None:
        node.asked_to_stop = True

    engine = Engine(
        PeerIdentity("n1", "n1", known.cluster_id, "boot", "127.0.0.1:1", "1"),
        journal=journal,
        snapshots=SnapshotStore(MemoryFiles()),
        machine=machine,
        clock=ClusterClock("n1", wall_unix_ms=lambda: 1_780_000_000_000, monotonic=time.monotonic),
        identify=str,
        connect=_no_network,
        describe=describe,
        on_call=on_call,
        membership_view=_NobodyRemoved(),
    )
    config = Config(
        name=NodeName("n1"),
        cluster_id=known.files.identity.cluster_id,
        cluster=NodeName("demo"),
        listen=Address("127.0.0.1", 1),
        advertise=Address("127.0.0.1", 1),
    )
    pki_dir = known.first / PKI_DIRECTORY
    service = Service(
        config,
        known.files,
        pki_dir,
        engine,
        machine,
        tls=TlsIdentity(pki_dir),
        raft_id="n1",
        request_stop=stop,
        reload=dict,
    )
    node = _Node(engine, service)
    invite = {
        "name": "n2",
        "learner": False,
        "public_key": join_token.public_key(SECRET, known.cluster_id, "n2"),
        "expires_unix_ms": 2**52,
    }
    machine.apply(9, encode_command("members", "issue_invitation", invite, request_id="i"))
    return node


_ZERO = {"boots": 0, "term": 0, "last_index": 0}


def _hello(name: str) -> bytes:
    hello = {"type": "hello", "version": 3, "cluster_id": keys().cluster_id, "name": name, "raft_id": name}
    return encode({**hello, "boot": "b", "address": "127.0.0.1:2", "release": "1", **_ZERO})


async def _peer_link(choice: int, more: list[bytes]) -> None:
    for file in directory().glob("link.db*"):
        file.unlink()
    node = _node(_journal(SqliteStore(directory() / "link.db"), "n1" if choice & 1 else "n1 n2 n3"))
    name = _speaker(choice)
    if choice & 4:  # else the first one must be the hello
        more = [_hello(name)[4:], *more]
    with _no_bug_logged():
        node.engine.start({})
        try:
            await _settle()
            untouched = _Untouched(node.engine._replica, name)
            link: Any = node.engine.accept()
            transport = _Wire(name)
            link.connection_made(transport)
            for frame in more:
                if not transport.closing:
                    link.data_received(struct.pack(">I", len(frame)) + frame)
                    await asyncio.sleep(0)
            await _settle()
            assert not node.asked_to_stop
            assert node.engine._replica.failed is None, node.engine._replica.failed
            untouched.check()
            _check_rows((await node.service.members.status(timeout_s=1.0))["members"])
            encoding.encode_object(await node.service.health(timeout_s=1.0))
            link.connection_lost(None)
            await _settle()
        finally:
            with contextlib.suppress(StorageError):
                await node.engine.stop()


def leader_answers(data: bytes) -> None:
    """A node forwards a write to the leader n2, which answers with this as the result.

    Raises what the writer is told.
    """
    run(_leader_answers(data))


async def _leader_answers(data: bytes) -> None:
    journal = _journal(MemoryStore(), "n1 n2 n3")
    last, node = journal.last_index, _node(journal)
    with _no_bug_logged():
        node.engine.start({})
        try:
            link: Any = node.engine.accept()
            transport = _Wire("n2")
            link.connection_made(transport)
            lead = {"type": "append_entries", "term": 2, "leader_commit": last, "prev_log_index": last}
            link.data_received(_hello("n2") + encode({**lead, "prev_log_term": 1, "entries": []}))
            write = asyncio.create_task(node.service.counters.add("c", by=1, request_id=None, timeout_s=5.0))
            while not (asked := [m for m in transport.heard if m["type"] == "forward"]):
                await asyncio.sleep(0)
            answer = {"type": "forward_result", "id": asked[0]["id"], "results": [data]}
            link.data_received(encode({**answer, "last": True, "error": None}))
            encoding.encode_object(await write)
            link.connection_lost(None)
        finally:
            await node.engine.stop()


@functools.cache
def _shapes_of_members() -> dict[str, Any]:
    """Of the fields of a row.  Kept: to make the document takes longer than all else that a link does."""
    found: dict[str, Any] = openapi.openapi()["components"]["schemas"]["Member"]["properties"]
    return found


def _check_rows(rows: list[dict[str, Any]]) -> None:
    """As the API document has them, and printable."""
    shapes = _shapes_of_members()
    kinds = {
        "integer": int,
        "number": (int, float),
        "string": str,
        "boolean": bool,
        "object": dict,
        "null": type(None),
    }
    for row in rows:
        encoding.encode_object(row)
        for name, value in row.items():
            named = shapes[name].get("type", "string" if value is not None else "null")
            allowed = [named] if isinstance(named, str) else named
            assert any(isinstance(value, kinds[kind]) for kind in allowed), (name, value)  # type: ignore[arg-type]
            assert not isinstance(value, str) or value.isprintable(), (name, value)


def unstarted_service() -> Service:
    """A node's service on an engine that does not run.  Call it in the loop."""
    return _node(_journal(MemoryStore(), "n1")).service


async def _settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


# --- HTTP ----------------------------------------------------------------------------------------


@functools.cache
def _server() -> tuple[Path, _Node]:
    """The control socket of a node that is the only voter."""
    path = directory() / "s"

    async def start() -> _Node:
        node = _node(_journal(MemoryStore(), "n1"))
        node.engine.start({})
        server = build_server(node.service, logger=logging.getLogger("cyoloctl.control"))
        await server.start_unix(path)

        async def stop() -> None:
            await server.close(0.1)
            await node.engine.stop()

        atexit.register(lambda: _loop().run_until_complete(stop()))
        await node.service.counters.add("c", by=1, request_id=None, timeout_s=5.0)
        return node

    return path, run(start())


def ask_server(data: bytes) -> None:
    """Send a request's bytes over the control socket, then a good request on a new connection."""
    path, _ = _server()
    with _no_bug_logged():
        answer = run(_exchange(path, data))
        assert answer == b"" or answer.startswith(b"HTTP/1."), answer[:80]
        assert not answer.startswith(b"HTTP/1.1 500"), answer[:400]
        request = b"GET /v1/counters/c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        good = run(_exchange(path, request, whole=True))
    assert good.startswith(b"HTTP/1.1 200"), good


async def _exchange(path: Path, data: bytes, *, whole: bool = False) -> bytes:
    """The server's answer until it closes.

    whole: it will; else it is told that nothing more comes when it has said nothing for a while.
    """
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        answer = b""
        async with asyncio.timeout(10.0):
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                if not whole:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.02):
                            answer = await reader.read(65536)
                    if not writer.is_closing():
                        writer.write_eof()
                answer += await reader.read()
            return answer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class _Canned(UnixEndpoint):
    """An endpoint whose node answers with these bytes, whatever it is asked, and closes."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("unix:///canned", "/canned")
        self._answer = answer

    def connect(self, deadline: Deadline) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
            theirs.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                theirs.send(self._answer)
            theirs.shutdown(socket.SHUT_WR)
            self._theirs = theirs.dup()
        ours.settimeout(5.0)
        return ours


def ask_client(data: bytes) -> None:
    """Read these bytes as the answer to a read, a write and a watch.  Raises what the client raises."""
    endpoint = _Canned(data)
    client = Client(["unix:///canned"], credentials=None, timeout_s=5.0, retry=False)
    client.caller._endpoints = [endpoint]
    failures: list[CyoloctlError] = []
    for call in (
        client.status,
        lambda: client.counters.incr("c", 1),
        lambda: client.counters.watch("c", patience_s=0),
    ):
        try:
            answer = call()
            for value in [answer] if isinstance(answer, dict) else answer:
                assert type(value) is dict
        except CyoloctlError as error:
            failures.append(error)
        finally:
            endpoint._theirs.close()
    assert all(error.message.isprintable() for error in failures)
    if len(failures) == 3:
        raise failures[0]
