"""The stories' cluster on pysyncobj as released, under virtual time and an in-memory network.

Private attributes of pysyncobj 0.3.17 that this module touches: module globals ``monotonicTime``,
``random`` and ``createJournal`` (time, election timeouts, storage), and ``_SyncObj__raftLog``,
``_SyncObj__raftCurrentTerm`` (observation only).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pysyncobj.journal as vendor_journal
import pysyncobj.serializer as vendor_serializer
import pysyncobj.syncobj as vendor
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.support.engine_harness import Cluster, Crash, Luck, Machine, Outcome

__all__ = ["PerfectJournal", "QuietFile", "StockCluster", "StockMachine"]


class QuietFile:
    """``open`` for pysyncobj, which leaves files to the garbage collector: closed without a warning."""

    def __init__(self, *args: Any) -> None:
        self._file = open(*args)  # noqa: SIM115  # closed in __del__, whatever its user forgets

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            self._file.close()


class PerfectJournal(vendor_journal.Journal):  # type: ignore[misc]  # pysyncobj is untyped
    """A journal that never loses a write: what breaks over it is the engine's own doing.

    As in pysyncobj's FileJournal, the commit index is stored once a second.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[bytes, int, int]] = []
        self.current_term = 0
        self.vote: str | None = None
        self.commit = 1
        self.stored_commit = 1
        self.die_before: str | None = None  # name of the operation that the process dies before

    def _step(self, operation: str) -> None:
        if self.die_before == operation:
            self.die_before = None
            raise Crash(operation)

    def reopen(self) -> None:
        self.commit = self.stored_commit
        self.die_before = None

    def lose_tail(self, last_index: int) -> None:
        """Forget every entry above `last_index`, as a file without fsync may."""
        self.entries = [e for e in self.entries if e[1] <= last_index]

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._step("add")
        self.entries.append((command, idx, term))

    def clear(self) -> None:
        self._step("clear")
        self.entries = []

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        self._step("delete_from")
        del self.entries[entryFrom:]

    def deleteEntriesTo(self, entryTo: int) -> None:
        self._step("delete_to")
        self.entries = self.entries[entryTo:]

    def __getitem__(self, item: Any) -> Any:
        return self.entries[item]

    def __len__(self) -> int:
        return len(self.entries)

    def _destroy(self) -> None:
        pass

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        self.commit = raftCommitIndex

    def getRaftCommitIndex(self) -> int:
        return self.commit

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self.current_term, self.vote = term, votedForNodeId

    def getCurrentTerm(self) -> int:
        return self.current_term

    def getVotedForNodeId(self) -> str | None:
        return self.vote

    def onOneSecondTimer(self) -> None:
        self.stored_commit = self.commit


# The stories speak our words; the stock engine has its own.
_TO_STOCK = {
    "append_response": "next_node_idx",
    "vote_response": "response_vote",
    "leader_commit": "commit_index",
    "prev_log_index": "prevLogIdx",
    "prev_log_term": "prevLogTerm",
    "next_index": "next_node_idx",
}
_TO_OURS = {
    **{theirs: ours for ours, theirs in _TO_STOCK.items() if ours != "append_response"},
    "type": {"next_node_idx": "append_response", "response_vote": "vote_response"},
}


def _renamed(message: Any, words: dict[str, Any]) -> Any:
    """A message with its type and fields in the words of the other side."""
    types = words.get("type", words)
    return {
        words.get(field, field) if field != "type" else field: types.get(value, value)
        if field == "type"
        else value
        for field, value in message.items()
    }


class StockMachine(SyncObj):  # type: ignore[misc]  # pysyncobj is untyped
    """A list of commands, replicated by the stock engine."""

    def __init__(
        self, machine: Machine, others: Iterable[str], conf: SyncObjConf, transport: Transport
    ) -> None:
        self.machine = machine
        super().__init__(
            Node(machine.name), [Node(o) for o in others], conf=conf, nodeClass=Node, transport=transport
        )
        self.items: list[bytes] = []  # after super().__init__: part of the dump

    @replicated  # type: ignore[untyped-decorator]  # pysyncobj is untyped
    def append(self, command: bytes) -> int:
        if command.startswith(b"poison"):
            raise ValueError("apply of a poisoned command")
        self.items.append(command)
        self.machine.applied.append((self.raftLastApplied + 1, command))
        return len(self.items)


class _Wire(Transport):  # type: ignore[misc]  # pysyncobj is untyped
    """The transport interface of pysyncobj on the virtual network."""

    def __init__(self, cluster: StockCluster, owner: str, peers: Iterable[str]) -> None:
        super().__init__(None, None, [])
        self._cluster, self._owner = cluster, owner
        self.known = set(peers)

    def addNode(self, node: Node) -> None:
        self.known.add(node.id)

    def dropNode(self, node: Node) -> None:
        self.known.discard(node.id)
        # TCPTransport.dropNode removes its own record first: no callback on this side.
        pair = frozenset((self._owner, node.id))
        if self._cluster.links.pop(pair, None) is not None:
            self._cluster.queues[self._owner, node.id].clear()
            self._cluster.queues[node.id, self._owner].clear()
            self._onNodeDisconnected(node)
            peer = self._cluster.machines.get(node.id)
            if peer is not None and peer.engine is not None:
                self._cluster._disconnected(peer, self._owner)

    def send(self, node: Node, message: Any) -> bool:
        return self._cluster.post(self._owner, node.id, _renamed(message, _TO_OURS))


class StockCluster(Cluster):
    """pysyncobj 0.3.17 as released."""

    machine_class: type[StockMachine] = StockMachine

    def __init__(
        self,
        names: Iterable[str],
        *,
        directory: Path | None = None,
        durable_dump: bool = True,
        file_journal: bool = False,
        **conf: Any,
    ) -> None:
        self._conf = conf
        self._durable_dump = durable_dump and directory is not None
        self._file_journal = file_journal
        super().__init__(names, directory=directory)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """pysyncobj's module globals belong to this node while one of its calls runs."""
        names = ("monotonicTime", "random", "createJournal")
        before = {n: getattr(vendor, n) for n in names}
        quiet = vendor.logger.disabled  # nested: dropNode tells the peer
        vendor.monotonicTime = self.clock_of(name)
        vendor.random = Luck(self, name, 1)
        vendor.createJournal = _open_journal
        vendor_serializer.open = vendor_journal.open = QuietFile
        vendor.logger.disabled = vendor_serializer.logger.disabled = True  # thousands of lines, some stories
        try:
            yield
        finally:
            for n, value in before.items():
                setattr(vendor, n, value)
            if not quiet:
                del vendor_serializer.open, vendor_journal.open
            vendor.logger.disabled = vendor_serializer.logger.disabled = quiet

    def _new_machine(self, name: str, genesis: tuple[str, ...]) -> Machine:
        disk: Any = PerfectJournal()
        if self._file_journal:
            assert self.directory is not None
            disk = str(self.directory / f"{name}.journal")
        return Machine(name, genesis, disk)

    def dump_path(self, name: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{name}.dump"

    def _build(self, machine: Machine) -> None:
        others = [n for n in machine.genesis if n != machine.name]
        if isinstance(machine.disk, PerfectJournal):
            machine.disk.reopen()
        settings: dict[str, Any] = {
            "autoTick": False,
            "useFork": False,
            "dynamicMembershipChange": True,
            "journalFile": machine.disk,
            "fullDumpFile": str(self.dump_path(machine.name)) if self._durable_dump else None,
        }
        settings.update(self._conf)
        wire = _Wire(self, machine.name, others)
        with self.inside(machine.name):
            machine.engine = self.machine_class(machine, others, SyncObjConf(**settings), wire)
            machine.engine.wire = wire
            machine.engine._SyncObj__properies.add("wire")

    def _tick(self, machine: Machine) -> None:
        with self.inside(machine.name):
            machine.engine.doTick(0.0)

    def _receive(self, machine: Machine, source: str, message: Any) -> None:
        with self.inside(machine.name):
            machine.engine.wire._onMessageReceived(Node(source), _renamed(message, _TO_STOCK))

    def _connected(self, machine: Machine, peer: str) -> None:
        with self.inside(machine.name):
            machine.engine.wire._onNodeConnected(Node(peer))

    def _disconnected(self, machine: Machine, peer: str) -> None:
        with self.inside(machine.name):
            machine.engine.wire._onNodeDisconnected(Node(peer))

    def _callback(self, done: Callable[[bool, Any, Any], None]) -> Callable[[Any, int], None]:
        return lambda result, reason: done(reason == FAIL_REASON.SUCCESS, result, reason)

    def _propose(self, machine: Machine, command: bytes, done: Callable[[bool, Any, Any], None]) -> None:
        with self.inside(machine.name):
            machine.engine.append(command, callback=self._callback(done))

    def _power_off(self, engine: Any) -> None:
        pass  # QuietFile

    def admits(self, name: str, peer: str) -> bool:
        # TCPTransport dials and accepts only nodes of the engine's own configuration
        return peer in self.machines[name].engine.wire.known

    def is_leader(self, name: str) -> bool:
        engine = self.machines[name].engine
        return engine is not None and bool(engine._isLeader())

    def term(self, name: str) -> int:
        return int(self.machines[name].engine.raftCurrentTerm)

    def log(self, name: str) -> list[tuple[bytes, int, int]]:
        return list(self.machines[name].engine._SyncObj__raftLog[:])

    def state(self, name: str) -> list[bytes]:
        return list(self.machines[name].engine.items)

    def commit_index(self, name: str) -> int:
        return int(self.machines[name].engine.raftCommitIndex)

    def config(self, name: str) -> set[str]:
        engine = self.machines[name].engine
        return {n.id for n in engine.otherNodes} | {name}

    def write_dump(self, name: str) -> None:
        """The first half of a compaction: the dump is on disk, the journal is not cut yet."""
        self.machines[name].engine.forceLogCompaction()
        self.tick(name)

    def compact(self, name: str) -> None:
        self.write_dump(name)
        self.tick(name)

    # A tick would cut the journal behind the new dump; receiving alone answers.
    ticks_to_answer = False

    def crash_between_snapshot_and_cut(self, name: str, meanwhile: Callable[[], None]) -> None:
        self.write_dump(name)
        meanwhile()
        self.crash(name)

    def is_snapshot_chunk(self, message: Any) -> bool:
        return message.get("serialized") is not None

    def lose_tail(self, name: str, last_index: int) -> None:
        self.machines[name].disk.lose_tail(last_index)

    def make_snapshot_unsendable(self, name: str) -> None:
        self.dump_path(name).unlink()

    @staticmethod
    def pickled(command: bytes) -> bytes:
        """The log entry's command for `append(command)`."""
        return b"\x00" + bytes(vendor.pickle.dumps((0, (command,))))

    def _membership(self, leader: str, name: str, method: str) -> Outcome:
        outcome = Outcome(leader, f"{method} {name}".encode())
        machine = self.machines[leader]

        def call() -> None:
            with self.inside(leader):
                callback = self._callback(outcome.settle)
                getattr(machine.engine, method)(Node(name), callback=callback)

        self._guard(machine, call)
        return outcome

    def add(self, leader: str, name: str) -> Outcome:
        return self._membership(leader, name, "addNodeToCluster")

    def remove(self, leader: str, name: str) -> Outcome:
        return self._membership(leader, name, "removeNodeFromCluster")

    def transfer(self, leader: str, to: str) -> Outcome:
        return self._membership(leader, to, "transferLeadership")

    def start_joiner(self, name: str, members: Iterable[str]) -> None:
        self.machines[name] = self._new_machine(name, (*members, name))
        self.start(name)
        self.connect_all()


def _open_journal(journal: Any) -> Any:
    if isinstance(journal, vendor_journal.Journal):
        return journal
    return vendor_journal.createJournal(journal)
