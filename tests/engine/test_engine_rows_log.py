"""Rows of the engine's hole table about the log, the commit index and snapshots, each as a story.

Every story runs twice: on pysyncobj as released, where it must show the violation, and on our
adapter, where it must not.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cyoloctl.raft.settings import Limits
from tests.support.engine_harness import Cluster, Outcome
from tests.support.raft_ours import OurCluster
from tests.support.raft_stock import PerfectJournal, StockCluster

pytestmark = pytest.mark.fault

MIB = 2**20
SMALL_CHUNKS = Limits(keep_entries=0, chunk_bytes=64)
BIG = 400 * 1024  # three of these fill a message


def big(letter: str) -> bytes:
    return letter.encode() + b"." * BIG


def names_of(commands: list[bytes]) -> list[bytes]:
    return [c[:3] for c in commands]


# -- row 1 ------------------------------------------------------------------------------------


def trim_story(cluster: Cluster) -> list[Outcome]:
    """Two late refusals make the leader send a suffix twice; it dies inside the second copy.

    FIFO links, perfect journals.  b holds everything and acknowledged it; then c and b go on
    without a.
    """
    cluster.elect("a")
    cluster.write("a", b"x1", b"x2")
    cluster.run(0.5)
    cluster.isolate("c")
    outcomes = []
    for letter in "pqrstu":
        outcomes.append(cluster.propose("a", big(letter)))
        cluster.tick("a")
    cluster.advance(0.11)
    cluster.tick("a")  # sent, and lost with the connection
    cluster.disconnect("a", "b")
    cluster.connect("a", "b")
    for _ in range(2):  # two heartbeats far behind b's log: two refusals
        cluster.advance(0.11)
        cluster.tick("a")
    cluster.deliver("a", "b")
    for _ in range(2):
        cluster.deliver("b", "a", 1)
        cluster.advance(0.11)
        cluster.tick("a")
    for _ in range(6):  # everything of the first copy arrives and is acknowledged
        if all(o.ok for o in outcomes):
            break
        first_copy = 2 if len(cluster.queues["a", "b"]) > 2 else None
        cluster.deliver("a", "b", first_copy)
        cluster.deliver("b", "a")
        cluster.tick("a")
    cluster.deliver("a", "b", 1)  # the first message of the second copy
    cluster.crash("a")
    cluster.heal()
    cluster.elect("b", "c")
    cluster.run(1.0)
    return outcomes


def test_row01_trim_stock_loses_acknowledged_entries() -> None:
    cluster = StockCluster("abc", appendEntriesBatchSizeBytes=MIB)
    outcomes = trim_story(cluster)
    assert all(o.ok for o in outcomes)
    assert len(cluster.missing("b")) >= 3
    assert len(cluster.missing("c")) >= 3


def assert_nothing_lost(cluster: OurCluster) -> None:
    """Every acknowledged command is on every running node, once, in one order, and no engine failed."""
    for name in cluster.running():
        assert names_of(cluster.missing(name)) == []
        assert cluster.doubled(name) == []
    assert cluster.diverged() == []
    assert cluster.split_terms() == {}
    assert {n: m.errors for n, m in cluster.machines.items() if m.errors} == {}


def test_row01_trim_second_copy_of_a_suffix_loses_nothing() -> None:
    cluster = OurCluster("abc")
    outcomes = trim_story(cluster)
    assert all(o.ok for o in outcomes)
    assert_nothing_lost(cluster)


def crash_inside_copy_story(cluster: Cluster) -> list[Outcome]:
    """b dies while it handles a second copy of what it holds already."""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.5)
    cluster.isolate("c")
    mark = len(cluster.sent)
    outcomes = cluster.write("a", b"x2", b"x3")
    copies = [e.message for e in cluster.sent[mark:] if e.target == "b" and e.message.get("entries")]
    assert copies
    disk = cluster.machines["b"].disk
    if isinstance(disk, PerfectJournal):
        disk.die_before = "add"
    for message in copies:
        cluster.inject("b", "a", message)
    cluster.crash("b", "a")
    cluster.heal()
    cluster.restart("b")
    cluster.elect("b", "c")
    cluster.run(1.0)
    return outcomes


def test_row01_trim_stock_crash_between_delete_and_add_loses_acknowledged_entries() -> None:
    cluster = StockCluster("abc")
    outcomes = crash_inside_copy_story(cluster)
    assert all(o.ok for o in outcomes)
    assert cluster.missing("b")


def test_row01_trim_crash_inside_a_second_copy_loses_nothing() -> None:
    cluster = OurCluster("abc")
    outcomes = crash_inside_copy_story(cluster)
    assert all(o.ok for o in outcomes)
    assert_nothing_lost(cluster)


# -- row 2 ------------------------------------------------------------------------------------


def unverified_tail_story(cluster: Cluster) -> list[Outcome]:
    """c was leader and has a tail that nobody else saw; now it needs the new leader's snapshot."""
    cluster.elect("c")
    cluster.write("c", b"x1")
    cluster.run(0.5)
    cluster.isolate("c")
    tail = []
    for n in range(6):
        tail.append(cluster.propose("c", b"tail%d" % n))
        cluster.tick("c")
    cluster.elect("a", "b")
    cluster.write("a", *[b"good%02d" % n for n in range(20)])
    cluster.compact("a")
    cluster.run(0.3)
    cluster.heal()
    for _ in range(200):  # message by message: c ticks after each chunk
        cluster.advance(0.02)
        cluster.tick("a", "b")
        for source in "ab":
            for target in "abc":
                cluster.deliver(source, target)
        for target in "ab":
            cluster.deliver("c", target)
    return tail


def test_row02_snapcommit_stock_commits_unverified_tail(tmp_path: Path) -> None:
    cluster = StockCluster("abc", directory=tmp_path, logCompactionBatchSize=64)
    tail = unverified_tail_story(cluster)
    assert any(o.ok for o in tail)  # told "done"
    assert any(o.command not in cluster.state("a") for o in tail if o.ok)  # nobody else has it
    assert any(c.startswith(b"tail") for _, c in cluster.machines["c"].applied)


def test_row02_snapcommit_tail_is_replaced_and_never_applied(tmp_path: Path) -> None:
    cluster = OurCluster("abc", directory=tmp_path, limits=SMALL_CHUNKS)
    tail = unverified_tail_story(cluster)
    assert any(cluster.is_snapshot_chunk(e.message) and e.target == "c" for e in cluster.sent)
    assert cluster.run_until(lambda: all(o.ok for o in tail), within=5.0)  # proposed again, to the new leader
    cluster.run(0.5)
    assert len(cluster.state("c")) == 27
    assert_nothing_lost(cluster)


# -- row 5 ------------------------------------------------------------------------------------


def dump_then_crash_story(cluster: Cluster) -> list[Outcome]:
    """b's snapshot is on disk, b acknowledges more, and b dies before its journal was cut."""
    cluster.elect("a")
    cluster.write("a", *[b"x%d" % n for n in range(8)])
    cluster.run(0.5)
    cluster.isolate("c")
    outcomes: list[Outcome] = []

    def more() -> None:
        for n in range(4):
            outcomes.append(cluster.propose("a", b"late%d" % n))
            cluster.tick("a")
        for _ in range(4):
            cluster.advance(0.11)
            cluster.tick("a")
            cluster.deliver("a", "b", tick=cluster.ticks_to_answer)
            cluster.deliver("b", "a")

    cluster.crash_between_snapshot_and_cut("b", more)
    assert all(o.ok for o in outcomes), outcomes
    cluster.crash("a")
    cluster.heal()
    cluster.restart("b")
    cluster.elect("b", "c")
    cluster.run(1.0)
    return outcomes


def test_row05_align_stock_wipes_the_journal_on_boot(tmp_path: Path) -> None:
    cluster = StockCluster("abc", directory=tmp_path)
    dump_then_crash_story(cluster)
    assert set(cluster.missing("b")) == {b"late0", b"late1", b"late2", b"late3"}


def test_row05_align_journal_is_cut_to_the_snapshot_and_keeps_what_follows(tmp_path: Path) -> None:
    cluster = OurCluster("abc", directory=tmp_path)
    dump_then_crash_story(cluster)
    assert len(cluster.acknowledged()) == 12
    assert_nothing_lost(cluster)


# -- row 6 ------------------------------------------------------------------------------------


def broken_transfer_story(cluster: Cluster) -> Outcome:
    """The connection breaks inside a snapshot transfer and is back before the leader looks again.

    c has a tail of its own as long as the leader's log; what the leader believes of c decides
    whether z, which only the leader has, is acknowledged.
    """
    cluster.elect("c")
    cluster.write("c", b"x1")
    cluster.run(0.5)
    cluster.isolate("c")
    for n in range(40):
        cluster.propose("c", b"tail%d" % n)
        cluster.tick("c")
    cluster.elect("a", "b")
    cluster.write("a", *[b"good%02d" % n for n in range(15)])
    cluster.compact("a")
    cluster.run(0.3)
    cluster.isolate("b")
    z = cluster.propose("a", b"z")
    cluster.tick("a")
    cluster.heal(("a", "c"))
    cluster.clock_step = 0.03  # a slow moment: a few chunks in each period
    broken = False
    for _ in range(60):
        cluster.advance(0.05)
        cluster.tick("a")
        chunks = [m for m in cluster.in_flight("a", "c") if cluster.is_snapshot_chunk(m)]
        if chunks and not broken:
            while not cluster.is_snapshot_chunk(cluster.queues["a", "c"][0].message):
                cluster.deliver("a", "c", 1)
            cluster.deliver("a", "c", 1)  # the first chunk arrives, the others are lost
            cluster.disconnect("a", "c")
            cluster.connect("a", "c")
            broken = True
        cluster.deliver("a", "c")
        cluster.deliver("c", "a")
        if z.ok:
            break
    assert broken
    cluster.clock_step = 2e-5
    cluster.crash("a")
    cluster.heal()
    return z


def test_row06_snapsafe_stock_acknowledges_with_a_snapshot_that_failed_to_load(tmp_path: Path) -> None:
    cluster = StockCluster("abc", directory=tmp_path, logCompactionBatchSize=64)
    z = broken_transfer_story(cluster)
    assert z.ok
    cluster.elect("b", "c")
    cluster.run(2.0)
    assert b"z" in cluster.missing("b")


def test_row06_snapsafe_interrupted_transfer_begins_again(tmp_path: Path) -> None:
    cluster = OurCluster("abc", directory=tmp_path, limits=SMALL_CHUNKS)
    z = broken_transfer_story(cluster)
    assert z.ok  # because c holds it by now
    cluster.elect("c", "b")
    cluster.run(2.0)
    assert_nothing_lost(cluster)


# -- row 7 ------------------------------------------------------------------------------------


def older_snapshot_story(cluster: Cluster) -> Outcome:
    """A late refusal makes the leader send its snapshot to a follower that holds more than it."""
    cluster.elect("a")
    cluster.write("a", b"x1", b"x2")
    cluster.run(0.5)
    cluster.cut("a", "b")
    cluster.write("a", *[b"y%d" % n for n in range(8)])  # a and c
    cluster.run(0.3, reconnect=False)
    cluster.heal(("a", "b"))
    cluster.advance(0.11)
    cluster.tick("a")  # the suffix, lost with the connection
    cluster.disconnect("a", "b")
    cluster.connect("a", "b")
    for _ in range(2):
        cluster.advance(0.11)
        cluster.tick("a")
    cluster.isolate("c")
    last = cluster.propose("a", b"last")
    cluster.tick("a")
    cluster.deliver("a", "b")  # two refusals
    cluster.deliver("b", "a", 1)
    cluster.advance(0.11)
    cluster.tick("a")  # the suffix, with "last"
    cluster.compact("a")
    cluster.deliver("b", "a", 1)  # the late refusal
    cluster.advance(0.11)
    suffix = len(cluster.queues["a", "b"])
    cluster.tick("a")
    cluster.deliver("a", "b", suffix)
    for _ in range(10):
        if last.ok:
            break
        cluster.deliver("b", "a")
        cluster.tick("a")
        if not last.ok and not any(cluster.is_snapshot_chunk(m) for m in cluster.in_flight("a", "b")):
            cluster.advance(0.11)
            cluster.tick("a")
            cluster.deliver("a", "b")
    assert last.ok
    while any(cluster.is_snapshot_chunk(m) for m in cluster.in_flight("a", "b")):
        cluster.deliver("a", "b", 1)
    cluster.crash("a")
    cluster.heal()
    return last


def test_row07_late_reset_stock_older_snapshot_drops_acknowledged_entries(tmp_path: Path) -> None:
    cluster = StockCluster("abc", directory=tmp_path)
    older_snapshot_story(cluster)
    cluster.elect("b", "c")
    cluster.run(1.0)
    assert cluster.missing("b") == [b"last"]


def test_row07_late_reset_never_goes_below_what_matches(tmp_path: Path) -> None:
    cluster = OurCluster("abc", directory=tmp_path)
    older_snapshot_story(cluster)
    cluster.elect("b", "c")
    cluster.run(1.0)
    assert_nothing_lost(cluster)


# -- row 13 -----------------------------------------------------------------------------------


def full_restart_story(cluster: Cluster) -> None:
    """Durable journals, compacted; then every node is killed at once and started again."""
    cluster.elect("a")
    cluster.write("a", *[b"x%d" % n for n in range(10)])
    cluster.run(0.5)
    for name in "abc":
        cluster.compact(name)
    cluster.write("a", b"after")
    cluster.run(1.5)
    cluster.crash("a", "b", "c")
    cluster.restart("a", "b", "c")
    cluster.elect("a")
    cluster.run(1.0)


def test_row13_no_dump_file_stock_state_is_gone_after_a_full_restart() -> None:
    cluster = StockCluster("abc", durable_dump=False)
    full_restart_story(cluster)
    assert len(cluster.acknowledged()) == 11
    assert all(len(cluster.missing(n)) >= 9 for n in "abc")


def test_row13_state_survives_a_full_restart(tmp_path: Path) -> None:
    cluster = OurCluster("abc", directory=tmp_path)
    full_restart_story(cluster)
    assert len(cluster.acknowledged()) == 11
    assert all(cluster.log(n)[0][1] > 5 for n in "abc")  # they were compacted
    assert_nothing_lost(cluster)


# -- row 16 -----------------------------------------------------------------------------------


def long_conflict_story(cluster: Cluster, *, within: float) -> bool:
    """c has a long tail of an old term, two messages long; does it ever follow again?"""
    cluster.elect("c")
    cluster.write("c", b"x1")
    cluster.run(0.5)
    cluster.isolate("c")
    for n in range(9):
        cluster.propose("c", big(str(n)))
        cluster.tick("c")
    cluster.elect("a", "b")
    for n in range(9):
        cluster.propose("a", big("abcdefghi"[n]))
        cluster.tick("a")
    cluster.run(0.5)
    cluster.heal(("a", "c"))
    cluster.advance(0.11)
    cluster.tick("a")  # everything, lost with the connection
    cluster.cut("a", "c")
    cluster.heal()
    return cluster.run_until(lambda: len(cluster.state("c")) == 10, within=within)


def test_row16_backoff_stock_follower_is_stuck_for_ever() -> None:
    cluster = StockCluster("abc", appendEntriesBatchSizeBytes=MIB)
    assert not long_conflict_story(cluster, within=20.0)
    assert len(cluster.state("a")) == len(cluster.state("b")) == 10


def test_row16_backoff_follower_catches_up() -> None:
    cluster = OurCluster("abc")
    assert long_conflict_story(cluster, within=2.0)


# -- row 18 -----------------------------------------------------------------------------------


def lost_tail_story(cluster: Cluster) -> Outcome:
    """Power fails everywhere; the stored commit index is ahead of what the journals kept."""
    cluster.elect("a")
    cluster.write("a", *[b"x%d" % n for n in range(10)])
    cluster.run(1.5)
    last = cluster.log("a")[-1][1]
    cluster.crash("a", "b", "c")
    for name in "abc":
        cluster.lose_tail(name, last - 5)
    cluster.restart("a", "b", "c")
    cluster.outcomes.clear()  # those were lost by the disks
    cluster.elect("a")
    cluster.isolate("a")
    z = cluster.propose("a", b"z")
    for _ in range(5):
        cluster.advance(0.05)
        cluster.tick("a")
    return z


def test_row18_clamp_stock_applies_uncommitted_entries() -> None:
    cluster = StockCluster("abc")
    z = lost_tail_story(cluster)
    assert z.ok  # and no other node ever saw it
    assert not any(b"z" in command for command, _, _ in cluster.log("b") + cluster.log("c"))


def test_row18_clamp_commit_index_is_no_higher_than_the_log() -> None:
    cluster = OurCluster("abc")
    z = lost_tail_story(cluster)
    assert z.pending
    assert cluster.commit_index("a") < cluster.log("a")[-1][1]
    assert all(c != b"z" for _, c in cluster.machines["a"].applied)


# -- row 22 -----------------------------------------------------------------------------------


def large_command_story(cluster: Cluster, command: bytes) -> Outcome:
    cluster.elect("a")
    cluster.write("a", b"x1")
    outcome = cluster.propose("a", command)
    cluster.run(5.0)
    return outcome


def test_row22_nochunk_stock_handler_crashes_on_a_large_command() -> None:
    cluster = StockCluster("abc")
    # as large as two batches once it is pickled: the second chunk is called the last one
    overhead = len(cluster.pickled(b"." * 131072)) - 131072
    large_command_story(cluster, b"." * (131072 - overhead))
    assert isinstance(cluster.errors("b")[0], EOFError)
    assert isinstance(cluster.errors("c")[0], EOFError)


@pytest.mark.parametrize("size", [2**16, 2**17, 512 * 1024 - 64])
def test_row22_nochunk_large_command_is_applied_everywhere(size: int) -> None:
    cluster = OurCluster("abc")
    outcome = large_command_story(cluster, b"." * size)
    assert outcome.ok
    assert all(len(cluster.state(n)) == 2 for n in "abc")
    assert_nothing_lost(cluster)


# -- row 23 -----------------------------------------------------------------------------------


def snapshot_missing_story(cluster: Cluster) -> int:
    """A follower needs a snapshot that the leader cannot send now; how much is sent in one tick?"""
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.5)
    cluster.isolate("c")
    cluster.write("a", *[b"y%d" % n for n in range(10)])
    cluster.compact("a")
    cluster.run(0.2)
    cluster.make_snapshot_unsendable("a")
    cluster.heal()
    worst = 0
    cluster.clock_step = 1e-4  # ten thousand messages a second
    for _ in range(8):
        cluster.advance(0.11)
        before = len(cluster.sent)
        cluster.tick("a")
        worst = max(worst, len(cluster.sent) - before)
        cluster.exchange()
    return worst


def test_row23_flood_stock_sends_messages_for_as_long_as_a_period_in_a_tick(tmp_path: Path) -> None:
    cluster = StockCluster("abc", directory=tmp_path)
    assert snapshot_missing_story(cluster) > 500


def test_row23_flood_follower_gets_a_heartbeat_a_period_until_there_is_a_snapshot(tmp_path: Path) -> None:
    cluster = OurCluster("abc", directory=tmp_path)
    assert snapshot_missing_story(cluster) <= 4
    assert any(e.target == "c" and e.message["type"] == "heartbeat" for e in cluster.sent)
