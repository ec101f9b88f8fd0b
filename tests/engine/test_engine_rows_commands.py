"""Rows of the engine's hole table about commands, callbacks, codecs, reads and transfer, each as a story."""

from __future__ import annotations

import importlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pysyncobj.pickle as vendor_pickle
import pytest
from pysyncobj import FAIL_REASON, replicated
from pysyncobj.node import TCPNode
from pysyncobj.serializer import Serializer
from pysyncobj.transport import TCPTransport

from cyoloctl.raft.settings import Limits
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
from tests.support import hostile_pickle
from tests.support.engine_harness import Cluster, Outcome
from tests.support.raft_ours import OurCluster
from tests.support.raft_stock import StockCluster, StockMachine
from tests.support.snapshots import loaded

pytestmark = pytest.mark.fault


# -- row 9 ------------------------------------------------------------------------------------


def forwarder_reboots_story(cluster: Cluster) -> tuple[Outcome, Outcome]:
    """b forwards one command, reboots, and forwards another; the answer to the first arrives then."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    first = cluster.propose("b", b"first")
    cluster.tick("b")
    cluster.deliver("b", "a", tick=False)
    cluster.restart("b")
    second = cluster.propose("b", b"second")
    cluster.advance(0.11)
    cluster.tick("a")
    for _ in range(4):
        cluster.deliver("a", "b")
        cluster.advance(0.05)
        cluster.tick("a")
    cluster.disconnect("a", "b")  # with the second command in flight
    cluster.connect("a", "b")
    cluster.run(1.0)
    return first, second


def test_row09_reqid_stock_reports_success_of_another_command() -> None:
    cluster = StockCluster("abc")
    _, second = forwarder_reboots_story(cluster)
    assert second.ok
    assert all(b"second" not in cluster.state(n) for n in "abc")


def test_row09_reqid_success_means_this_command() -> None:
    cluster = OurCluster("abc")
    _, second = forwarder_reboots_story(cluster)
    assert second.ok
    assert second.calls == 1
    assert all(b"second" in cluster.state(n) for n in "abc")


# -- row 11 -----------------------------------------------------------------------------------


def poison_story(cluster: Cluster) -> tuple[Outcome, Outcome]:
    """A command whose apply raises, then another one; everybody restarts in between."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    poison = cluster.propose("a", b"poison")
    cluster.run(1.0)
    cluster.restart("a", "b", "c")
    cluster.campaign("a")
    cluster.run(1.0)
    after = cluster.propose("a", b"x2")
    cluster.run(3.0)
    return poison, after


def test_row11_applysafe_stock_one_bad_command_stops_the_cluster_for_ever() -> None:
    cluster = StockCluster("abc")
    _, after = poison_story(cluster)
    assert not after.ok
    assert all(b"x2" not in cluster.state(n) for n in "abc")
    assert any(isinstance(e, ValueError) for n in "abc" for e in cluster.errors(n))


def test_row11_applysafe_command_that_raises_is_answered_and_passed() -> None:
    cluster = OurCluster("abc")
    poison, after = poison_story(cluster)
    assert poison.calls == 1
    assert after.ok
    assert all(cluster.state(n) == [b"x1", b"x2"] for n in "abc")
    assert all(cluster.errors(n) == [] for n in "abc")


def callback_raises_story(cluster: Cluster) -> Outcome:
    cluster.elect("a")
    cluster.write("a", b"x1")
    outcome = cluster.propose("a", b"once", callback_raises=True)
    cluster.run(0.5)
    return outcome


def test_row11_applysafe_stock_callback_that_raises_applies_the_entry_again() -> None:
    cluster = StockCluster("abc")
    callback_raises_story(cluster)
    assert cluster.doubled("a") == [b"once"]
    assert cluster.doubled("b") == []


def test_row11_applysafe_callback_that_raises_changes_nothing() -> None:
    cluster = OurCluster("abc")
    outcome = callback_raises_story(cluster)
    assert outcome.calls == 1
    assert [c for _, c in cluster.machines["a"].applied].count(b"once") == 1
    assert cluster.errors("a") == []
    assert cluster.is_leader("a")


def test_row11_applysafe_stock_unsupported_version_applies_the_last_entry_twice() -> None:
    cluster = StockCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    with cluster.inside("a"):
        cluster.machines["a"].engine._applyCommand(vendor_pickle.dumps(99), None, 3)
    cluster.propose("a", b"once")
    cluster.run(0.5)
    assert cluster.doubled("a") == [b"once"]


@pytest.mark.parametrize(
    "entry",
    [b"\x03" + pickle.dumps(99, 2), b"\x04", b"", b"\x02garbage", b"\x00\xff\xff\xff\xff"],
)
def test_row11_applysafe_entry_of_an_unknown_kind_changes_nothing(entry: bytes) -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.machines["a"].engine.replica._engine.append_command(entry, None)
    cluster.write("a", b"once")
    cluster.run(0.3)
    for name in "abc":
        assert cluster.state(name) == [b"x1", b"once"]
        assert [c for _, c in cluster.machines[name].applied].count(b"once") == 1
        assert cluster.config(name) == set("abc")
        assert cluster.errors(name) == []


# -- row 24 -----------------------------------------------------------------------------------


class RenumberedMachine(StockMachine):
    """A release that adds a method whose name sorts before ``append``."""

    @replicated
    def abandon(self, command: bytes) -> None:
        self.items.clear()


def test_row24_stock_added_method_renumbers_the_commands_in_the_log() -> None:
    cluster = StockCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1", b"x2")
    cluster.run(1.5)
    cluster.machine_class = RenumberedMachine
    cluster.restart("b")
    cluster.run(0.3)
    assert cluster.state("a") == [b"x1", b"x2"]
    assert cluster.state("b") == []


def test_row24_log_entry_holds_the_commands_bytes_and_nothing_of_ours() -> None:
    """Layout of ``batch.py``: 0x03, stamp, then length, index and bytes of each; no numbers of methods."""
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.propose("a", b"x1")
    cluster.propose("a", b"x22")
    cluster.run(0.3)
    expected = struct.pack(">IQ", 2, 1) + b"x1" + struct.pack(">IQ", 3, 1) + b"x22"
    assert [c[21:] for c, _, _ in cluster.log("b") if c[:1] == b"\x03"] == [expected]


class _Connection:
    """A socket, as far as TCPTransport uses it."""

    encryptor = None

    def __init__(self) -> None:
        self.closed = False
        self.on_message: Any = None

    def setOnMessageReceivedCallback(self, callback: Any) -> None:
        self.on_message = callback

    def setOnDisconnectedCallback(self, callback: Any) -> None:
        pass

    def disconnect(self) -> None:
        self.closed = True


def test_row24_stock_superseded_connection_still_delivers() -> None:
    class Owner:
        encryptor = None

    transport = TCPTransport.__new__(TCPTransport)
    transport._syncObj, node = Owner(), TCPNode("peer:1")
    transport._connections, transport._unknownConnections = {}, set()
    transport._nodes, transport._nodeAddrToNode = {node}, {node.id: node}
    received: list[Any] = []
    transport._onNodeConnectedCallback = None
    transport._onMessageReceivedCallback = lambda peer, message: received.append(message)
    old, new = _Connection(), _Connection()
    for connection in (old, new):
        transport._onNewIncomingConnection(connection)
        connection.on_message(node.id)
    assert not old.closed
    old.on_message({"type": "append_entries", "term": 1})
    assert received == [{"type": "append_entries", "term": 1}]


def test_row24_superseded_link_story_old_messages_are_lost_with_their_connection() -> None:
    """The engine is told of the end of a link and begins again at what is known to match."""
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    outcome = cluster.propose("a", b"x2")
    cluster.tick("a")
    for _ in range(5):
        cluster.disconnect("a", "b")
        cluster.disconnect("a", "c")
        cluster.connect_all()
        cluster.tick()
    assert cluster.run_until(lambda: outcome.ok, within=0.5)


class _SlowPickle:
    """Its pickling waits for a byte: a dump that takes its time in the forked child."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        os.read(self._descriptor, 1)
        return str, ("old",)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_row24_stock_forked_dump_overwrites_a_newer_one(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    serializer = Serializer(str(path), 2**16, True, None, None, None)
    newer = Serializer(str(tmp_path / "newer"), 2**16, False, None, None, None)
    newer.serialize("new", 9)
    wait, go = os.pipe()
    try:
        serializer.serialize(_SlowPickle(wait), 5)
        data = (tmp_path / "newer").read_bytes()
        serializer.setTransmissionData((data, True, False))
        assert serializer.setTransmissionData((b"", False, True))
        assert serializer.deserialize() == "new"
        os.write(go, b".")
        while serializer.checkSerializing()[0] == 1:
            pass
        assert serializer.deserialize() == "old"
    finally:
        os.close(wait)
        os.close(go)


def test_row24_background_save_never_replaces_a_newer_snapshot(tmp_path: Path) -> None:
    cluster = OurCluster("abc", directory=tmp_path, limits=Limits(keep_entries=0))
    cluster.elect("a")
    cluster.write("a", b"x1", b"x2")
    cluster.run(0.3)
    cluster.held_saves["c"] = []
    cluster.compact("c")  # begun, and slow
    cluster.isolate("c")
    cluster.write("a", *[b"y%d" % n for n in range(5)])
    cluster.compact("a")
    cluster.heal()
    assert cluster.run_until(lambda: len(cluster.state("c")) == 7, within=2.0)
    installed = cluster.machines["c"].engine.snapshots.meta.index
    for job in cluster.held_saves.pop("c"):
        job()
    cluster.run(0.2)
    assert cluster.machines["c"].engine.snapshots.meta.index == installed
    cluster.restart("c")
    cluster.run(0.3)
    assert cluster.errors("c") == []
    assert len(cluster.state("c")) == 7


def test_row24_snapshot_store_keeps_the_newer(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    store.save(SnapshotMeta(9, 2, ("a",), ()), b"new")
    assert store.save(SnapshotMeta(5, 1, ("a",), ()), b"old") is False
    found = loaded(store)
    assert found is not None
    assert found[1] == b"new"


# -- row 25 -----------------------------------------------------------------------------------


def hostile_peer_story(cluster: Cluster) -> None:
    """A peer sends commands that are pickles, and claims to be in charge."""
    hostile_pickle.fired.clear()
    evil = hostile_pickle.payload()
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.2)
    for kind in (b"\x00", b"\x02", b"\x03"):
        cluster.inject("a", "c", {"type": "apply_command", "command": kind + evil, "request_id": 1})
        cluster.inject("a", "c", {"type": "apply_command", "command": kind + evil})
    cluster.run(0.3)


def test_row25_stock_runs_code_from_a_peer() -> None:
    hostile_peer_story(StockCluster("abc"))
    assert hostile_pickle.fired


def test_row25_apply_command_of_a_peer_is_ignored() -> None:
    cluster = OurCluster("abc")
    hostile_peer_story(cluster)
    assert hostile_pickle.fired == []
    assert all(cluster.state(n) == [b"x1"] for n in "abc")
    assert not any(e.message["type"] == "apply_command_response" for e in cluster.sent)
    assert [c[:1] for c, _, _ in cluster.log("a")] == [b"\x01", b"\x01", b"\x03"]


def test_row25_pickles_in_forwarded_commands_and_entries_are_only_bytes() -> None:
    hostile_pickle.fired.clear()
    evil = hostile_pickle.payload()
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.2)
    cluster.inject("a", "c", {"type": "forward", "id": 1, "commands": [evil], "after": [0]})
    for kind in (b"\x00", b"\x02", b"\x03"):
        cluster.machines["a"].engine.replica._engine.append_command(kind + evil, None)
    cluster.run(0.5)
    assert cluster.state("b") == cluster.state("a")
    assert evil in cluster.state("b")  # replicated as the bytes that it is
    assert hostile_pickle.fired == []


@pytest.mark.parametrize("name", ["add", "remove", "set_version", "transfer", "status"])
def test_row25_utility_message_of_a_peer_has_no_effect(name: str) -> None:
    stock = StockCluster("abc")
    assert name in stock.machines["a"].engine.wire._onUtilityMessageCallbacks
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    log, sent = cluster.log("a"), len(cluster.sent)
    cluster.inject("a", "c", {"type": name, "args": ["c"]})
    assert cluster.errors("a") == []
    assert cluster.log("a") == log
    assert len(cluster.sent) == sent
    assert cluster.config("a") == set("abc")


def test_row25_no_pickle_in_a_run_with_membership_and_snapshots(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("pickle was used")

    for module in (pickle, vendor_pickle, importlib.import_module("_pickle")):
        for name in ("loads", "dumps", "load", "dump", "_loads", "_load", "Unpickler", "Pickler"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, forbidden)
    with pytest.raises(AssertionError):
        vendor_pickle.loads(b"")
    cluster = OurCluster("abc", directory=tmp_path, limits=Limits(keep_entries=0, chunk_bytes=64))
    cluster.elect("a")
    cluster.write("a", *[b"x%d" % n for n in range(10)])
    cluster.run(0.2)
    cluster.compact("a")
    cluster.start_joiner("d", "abc")
    assert cluster.run_until(lambda: len(cluster.state("d")) == 10, within=2.0)
    added = cluster.add("a", "d")
    assert cluster.run_until(lambda: added.ok, within=1.0)
    removed = cluster.remove("a", "b")
    assert cluster.run_until(lambda: removed.ok, within=1.0)
    handed = cluster.transfer("a", "d")
    assert cluster.run_until(lambda: handed.ok and cluster.is_leader("d"), within=2.0)
    forwarded = cluster.propose("c", b"y")
    read = cluster.read("c")
    assert cluster.run_until(lambda: forwarded.ok and read.ok, within=1.0)
    cluster.restart("a", "c", "d")
    cluster.elect("d")
    cluster.write("d", b"z")
    cluster.run(0.3)
    assert all(len(cluster.state(n)) == 12 for n in "acd")
    assert any(cluster.is_snapshot_chunk(e.message) for e in cluster.sent)
    assert all(cluster.errors(n) == [] for n in "acd")


# -- reads ------------------------------------------------------------------------------------


def deposed_leader_story(cluster: Cluster) -> Outcome:
    """a is cut off and b leads; a write is acknowledged there."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.isolate("a")
    cluster.elect("b", "c")
    newer = cluster.propose("b", b"newer")
    for _ in range(20):
        cluster.advance(0.02)
        cluster.tick("b")
        cluster.exchange("b", "c")
    assert newer.ok
    return newer


def test_read_stock_leader_check_alone_is_stale() -> None:
    cluster = StockCluster("abc")
    deposed_leader_story(cluster)
    cluster.tick("a")
    assert cluster.is_leader("a")  # all that stock offers a reader
    assert cluster.state("a") == [b"x1"]


def test_read_at_a_deposed_leader_waits() -> None:
    cluster = OurCluster("abc")
    deposed_leader_story(cluster)
    assert cluster.is_leader("a")  # so it believes, for it has not looked at its clock yet
    read = cluster.read("a")
    for _ in range(10):
        cluster.tick("a")
    assert read.pending
    cluster.heal()
    assert cluster.run_until(lambda: read.ok, within=2.0)
    assert cluster.state("a") == [b"x1", b"newer"]


def test_read_old_answer_does_not_confirm_a_new_round() -> None:
    """An answer to an earlier round, delayed, arrives after the cluster moved on: sequence numbers."""
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.hold("b", "a")
    first = cluster.read("a")
    cluster.tick("a")
    cluster.deliver("a", "b")
    cluster.deliver("a", "c")
    cluster.deliver("c", "a")
    assert first.ok
    assert cluster.in_flight("b", "a", "read_confirmed")
    cluster.isolate("c")
    cluster.heal(("b", "c"))
    cluster.hold("a", "b")
    cluster.elect("c", "b")
    newer = cluster.propose("c", b"newer")
    for _ in range(20):
        cluster.advance(0.005)
        cluster.tick("c")
        cluster.exchange("b", "c")
    assert newer.ok
    second = cluster.read("a")
    cluster.tick("a")
    answers = list(cluster.in_flight("b", "a", "read_confirmed"))
    assert answers
    assert cluster.is_leader("a")
    for answer in answers:
        cluster.inject("a", "b", answer)
        cluster.tick("a")
    assert cluster.is_leader("a")
    assert second.pending


def test_read_on_a_new_leader_waits_for_the_no_op_of_its_term() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    acknowledged = cluster.write("a", b"x1")
    cluster.crash("a")
    cluster.elect("b", "c")
    read = cluster.read("b")
    no_op = cluster.log("b")[-1][1]
    cluster.tick("b")
    assert read.pending
    assert cluster.run_until(lambda: read.ok, within=1.0)
    assert read.result >= no_op
    assert all(o.command in cluster.state("b") for o in acknowledged)


def test_read_that_arrives_in_a_running_round_gets_the_next_one() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    early = cluster.read("a")
    cluster.tick("a")  # the round begins, and its questions are lost
    for name in "bc":
        cluster.disconnect("a", name)
        cluster.connect("a", name)
    written = cluster.propose("a", b"x2")
    for _ in range(6):
        cluster.advance(0.002)
        cluster.tick("a")
        cluster.exchange()
    assert written.ok
    assert early.pending
    late = cluster.read("a")
    assert cluster.run_until(lambda: early.ok and late.ok, within=1.0)
    assert late.result >= cluster.machines["a"].applied[-1][0]
    assert early.result < late.result


@pytest.mark.parametrize("reader", ["b", "d"])
def test_read_on_another_node_waits_until_it_has_applied_the_index(reader: str) -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.start_joiner("d", "abc")
    cluster.run(0.4)
    seen: list[tuple[int, int]] = []
    replica = cluster.replica(reader)
    for n in range(30):
        outcome = cluster.propose("a", b"y%d" % n)
        cluster.latency = 0.01 * (n % 4)
        assert cluster.run_until(lambda o=outcome: o.ok, within=2.0)
        needed = cluster.machines["a"].applied[-1][0]

        def done(index: int | None, error: Exception | None, needed: int = needed) -> None:
            assert error is None
            seen.append((needed, replica.applied_index()))

        replica.read(done)
        cluster.tick(reader)
    cluster.run(2.0)
    assert len(seen) == 30
    assert all(applied >= needed for needed, applied in seen)


# -- transfer ---------------------------------------------------------------------------------


def transfer_under_load_story(cluster: Cluster) -> tuple[bool, list[Outcome]]:
    """Commands keep coming at the leader; it is asked for nine seconds to hand over to b."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.latency = 0.015
    writes = []
    asked = None
    for n in range(900):
        cluster.now += 0.01
        if n % 2 == 0:
            writes.append(cluster.propose("a", b"w%d" % n))
        if n >= 30 and (asked is None or asked.status == "error"):
            asked = cluster.transfer("a", "b")
        cluster.tick()
        cluster.exchange()
        if cluster.is_leader("b"):
            break
    done = cluster.is_leader("b")
    cluster.run(2.0)
    return done, writes


def test_transfer_stock_never_happens_under_load() -> None:
    done, writes = transfer_under_load_story(StockCluster("abc"))
    assert not done
    assert sum(o.ok for o in writes) > 400


def test_transfer_happens_under_load_and_every_command_gets_a_definite_answer() -> None:
    cluster = OurCluster("abc")
    done, writes = transfer_under_load_story(cluster)
    assert done
    assert cluster.now < 1010
    assert all(o.ok and o.calls == 1 for o in writes)
    assert cluster.missing("b") == []


def test_transfer_to_a_node_that_does_not_answer_gives_up_soon_and_commands_go_on() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.hold("a", "b")
    asked = cluster.transfer("a", "b")
    held = cluster.propose("a", b"held")
    cluster.run(0.5)
    assert held.pending
    assert cluster.run_until(lambda: asked.status == "error", within=0.5)
    assert cluster.run_until(lambda: held.ok, within=0.5)
    assert cluster.is_leader("a")


def test_transfer_to_a_node_that_answers_and_does_not_take_over_gives_up_and_commands_go_on() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.lose("a", "b", "timeout_now")
    asked = cluster.transfer("a", "b")
    held = cluster.propose("a", b"held")
    cluster.run(4.5)
    assert asked.pending
    assert held.pending
    cluster.run(1.0)
    assert asked.status == "error"
    assert held.ok
    assert cluster.is_leader("a")


def test_transfer_to_a_node_that_was_silent_before_waits_for_its_answer() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.hold("a", "b")
    cluster.run(0.9)
    asked = cluster.transfer("a", "b")
    cluster.tick("a")
    assert asked.pending
    cluster.release("a", "b")
    assert cluster.run_until(lambda: cluster.is_leader("b"), within=0.5)


# -- what a caller may conclude ---------------------------------------------------------------


def leader_dies_after_forward_story(cluster: Cluster) -> Outcome:
    """b's command reached c's log when the leader a died; c leads on."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.hold("a", "b")
    outcome = cluster.propose("b", b"x2")
    cluster.tick("b")
    cluster.deliver("b", "a")
    cluster.advance(0.11)
    cluster.tick("a")
    cluster.deliver("a", "c")
    assert len(cluster.log("c")) > len(cluster.log("b"))
    cluster.crash("a")
    cluster.elect("c", "b")
    cluster.run(1.0)
    return outcome


def test_outcome_stock_leader_changed_means_unknown_not_refused() -> None:
    cluster = StockCluster("abc")
    outcome = leader_dies_after_forward_story(cluster)
    assert outcome.error == FAIL_REASON.LEADER_CHANGED  # "leader has changed without command commit"
    assert cluster.state("c") == [b"x1", b"x2"]


def test_outcome_command_is_held_across_a_change_of_leader_and_applied_once() -> None:
    cluster = OurCluster("abc")
    outcome = leader_dies_after_forward_story(cluster)
    assert outcome.ok
    assert outcome.calls == 1
    assert cluster.state("b") == cluster.state("c") == [b"x1", b"x2"]
