"""Each fix by itself: messages handed to one node, where the stories would be saved by another fix too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import StorageError
from tests.support.engine_harness import Cluster
from tests.support.raft_ours import OurCluster, append
from tests.support.raft_stock import StockCluster

pytestmark = pytest.mark.fault

X, Y, Z = (b"\x00\x00\x00\x00\x01" + letter for letter in (b"x", b"y", b"z"))


def follower(cluster: Cluster) -> Cluster:
    """b follows a, in term 1, and holds 2 (no-op), 3 and 4; nothing is committed."""
    cluster.inject("b", "a", append(1, (1, 0), (b"\x01", 2, 1), (X, 3, 1), (Y, 4, 1)))
    cluster.tick("b")
    return cluster


def shape(cluster: Cluster, name: str = "b") -> list[tuple[int, int]]:
    return [(index, term) for _, index, term in cluster.log(name)]


FULL = [(1, 0), (2, 1), (3, 1), (4, 1)]


# -- row 1 ------------------------------------------------------------------------------------


def test_row01_stock_message_with_a_known_prefix_cuts_the_tail() -> None:
    cluster = follower(StockCluster("abc"))
    cluster.inject("b", "a", append(1, (1, 0), (b"\x01", 2, 1)))
    assert shape(cluster) == FULL[:2]


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_row01_message_with_a_known_prefix_leaves_the_tail(length: int) -> None:
    cluster = follower(OurCluster("abc"))
    known = [(b"\x01", 2, 1), (X, 3, 1), (Y, 4, 1)][:length]
    cluster.inject("b", "a", append(1, (1, 0), *known))
    cluster.tick("b")
    assert shape(cluster) == FULL
    assert cluster.in_flight("b", "a")[-1]["next_index"] == 2 + length  # only as far as it has shown


def test_row01_conflicting_tail_is_cut_where_it_differs() -> None:
    cluster = follower(OurCluster("abc"))
    cluster.inject("b", "c", append(2, (1, 0), (b"\x01", 2, 1), (Z, 3, 2)))
    cluster.tick("b")
    assert shape(cluster) == [(1, 0), (2, 1), (3, 2)]


@pytest.mark.parametrize(
    "message",
    [append(2, (3, 2), (Z, 4, 2), commit=3), append(2, (2, 1), (Z, 3, 2), commit=3)],
    ids=["previous", "entry"],
)
def test_row01_conflict_below_the_commit_index_is_refused_and_the_node_goes_on(message: Any) -> None:
    cluster = follower(OurCluster("abc"))
    cluster.inject("b", "a", append(1, (4, 1), commit=3))
    cluster.tick("b")
    assert cluster.commit_index("b") == 3
    mark, before, term = len(cluster.sent), cluster.log("b"), cluster.term("b")
    cluster.inject("b", "c", message)
    cluster.tick("b")
    assert len(cluster.sent) == mark  # as if the message was lost
    assert (cluster.log("b"), cluster.term("b"), cluster.commit_index("b")) == (before, term, 3)
    assert cluster.replica("b").failed is None
    (trouble,) = cluster.replica("b").status().troubles
    assert (trouble.code, trouble.peer) == ("log_differs", "c")
    cluster.inject("b", "a", append(1, (4, 1), (Z, 5, 1), commit=4))
    cluster.tick("b")
    assert cluster.commit_index("b") == 4


def test_row01_conflict_with_a_leader_whom_a_majority_follows_stops_the_node() -> None:
    cluster = follower(OurCluster("abc"))
    cluster.inject("b", "a", append(1, (4, 1), commit=3))
    cluster.tick("b")
    cluster.replica("b").fail_disputed()
    assert cluster.replica("b").failed is None  # nobody contradicts it
    cluster.inject("b", "c", append(2, (3, 2), (Z, 4, 2), commit=3))
    cluster.replica("b").fail_disputed()
    failed = cluster.replica("b").failed
    assert isinstance(failed, StorageError)
    assert "`cyoloctl member remove b`" in failed.message


# -- row 2 ------------------------------------------------------------------------------------


def test_row02_stock_chunk_commits_the_tail() -> None:
    cluster = follower(StockCluster("abc"))
    cluster.inject("b", "c", {"type": "append_entries", "term": 2, "leader_commit": 9, "serialized": None})
    assert cluster.commit_index("b") == 4


@pytest.mark.parametrize("commit", [2, 3, 9])
def test_row02_heartbeat_commits_no_more_than_it_shows_to_match(commit: int) -> None:
    """A new leader's heartbeat, matching at 2: the tail behind it is unverified."""
    cluster = follower(OurCluster("abc"))
    cluster.inject("b", "c", append(2, (2, 1), commit=commit))
    cluster.tick("b")
    assert cluster.commit_index("b") == 2


def test_row02_heartbeat_without_log_position_commits_nothing() -> None:
    cluster = follower(OurCluster("abc"))
    cluster.inject("b", "c", {"type": "heartbeat", "term": 2})
    cluster.tick("b")
    assert cluster.commit_index("b") == 1


# -- row 4 ------------------------------------------------------------------------------------


def test_row04_configuration_of_a_cut_entry_is_gone() -> None:
    cluster = follower(OurCluster("abc"))
    cluster.inject("b", "a", append(1, (4, 1), (b'\x02["add", "d"]', 5, 1)))
    cluster.tick("b")
    assert cluster.config("b") == set("abcd")
    cluster.inject("b", "c", append(2, (4, 1), (b"\x01", 5, 2)))
    cluster.tick("b")
    assert cluster.config("b") == set("abc")
    cluster.restart("b")
    assert cluster.config("b") == set("abc")


# -- rows 6 and 7 -----------------------------------------------------------------------------


def snapshot_chunk(cluster: OurCluster, name: str, term: int) -> Any:
    """The whole snapshot of a node, as one chunk."""
    transfer = cluster.machines[name].engine.snapshots.open_transfer()
    meta = transfer.meta
    message = {
        "type": "snapshot_chunk",
        "term": term,
        "index": meta.index,
        "snapshot_term": meta.term,
        "voters": list(meta.voters),
        "removed": list(meta.removed),
        "total": transfer.total,
        "digest": transfer.digest,
        "offset": 0,
        "data": transfer.read(0, transfer.total),
    }
    transfer.close()
    return message


def with_snapshot(tmp_path: Path) -> tuple[OurCluster, Any]:
    """a holds a snapshot and more behind it; b follows, c was away all the time."""
    cluster = OurCluster("abc", directory=tmp_path)
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.isolate("c")
    cluster.write("a", *[b"y%d" % n for n in range(5)])
    cluster.compact("a")
    chunk = snapshot_chunk(cluster, "a", cluster.term("a"))
    cluster.write("a", b"z1", b"z2")
    cluster.run(0.3)
    return cluster, chunk


def test_row07_older_snapshot_is_skipped(tmp_path: Path) -> None:
    cluster, chunk = with_snapshot(tmp_path)
    before, state = cluster.log("b"), cluster.state("b")
    cluster.inject("b", "a", chunk)
    cluster.tick("b")
    assert cluster.log("b") == before
    assert cluster.state("b") == state
    assert cluster.in_flight("b", "a")[-1]["next_index"] == chunk["index"] + 1


def test_row07_snapshot_of_what_is_in_the_log_and_not_applied_is_skipped(tmp_path: Path) -> None:
    cluster, chunk = with_snapshot(tmp_path)
    cluster.crash("b")
    cluster.machines["b"].disk.store._record = None  # a new node b that was sent the log and no commit index
    cluster.machines["b"].disk.store._entries = {}
    cluster.restart("b")
    entries = [e for e in cluster.log("a") if e[1] > chunk["index"]]
    fill = [(b"\x01", n, 1) for n in range(2, chunk["index"] + 1)]
    cluster.inject("b", "a", append(1, (1, 0), *fill, *entries))
    cluster.tick("b")
    before = shape(cluster)
    for data in (chunk["data"][:10], chunk["data"]):  # from its first piece on
        cluster.inject("b", "a", {**chunk, "data": data})
        cluster.tick("b")
        assert shape(cluster) == before
        assert cluster.in_flight("b", "a", "snapshot_ack") == []


@pytest.mark.parametrize("what", ["data", "digest", "short"])
def test_row06_damaged_snapshot_is_not_acknowledged(tmp_path: Path, what: str) -> None:
    cluster, chunk = with_snapshot(tmp_path)
    cluster.heal(("a", "c"))
    cluster.queues["a", "c"].clear()
    cluster.queues["c", "a"].clear()
    if what == "data":
        chunk["data"] = chunk["data"][:-1] + bytes([chunk["data"][-1] ^ 1])
    elif what == "digest":
        chunk["digest"] = "0" * 64
    else:
        chunk["data"] = chunk["data"][:-1]
    before = cluster.log("c")
    cluster.inject("c", "a", chunk)
    cluster.tick("c")
    assert cluster.log("c") == before
    assert cluster.state("c") == [b"x1"]
    assert not any(m.get("success") for m in cluster.in_flight("c", "a", "append_response"))
    cluster.run(1.0)  # and the true one is installed
    assert len(cluster.state("c")) == 8


def last_append(cluster: OurCluster, target: str) -> Any:
    return next(
        e.message
        for e in reversed(cluster.sent)
        if e.target == target and e.message["type"] == "append_entries"
    )


def test_row07_reset_never_goes_below_what_matches() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1", b"x2", b"x3")
    cluster.run(0.3)
    match = cluster.replica("a").status().match["b"]
    refusal = {"type": "append_response", "term": 1, "next_index": 2, "reset": True, "success": False}
    mark = len(cluster.sent)
    for _ in range(3):
        cluster.inject("a", "b", refusal)
        cluster.advance(0.11)
        cluster.tick("a")
    sent = [e.message for e in cluster.sent[mark:] if e.target == "b"]
    assert sent
    assert all(m["prev_log_index"] >= match for m in sent if m["type"] == "append_entries")


# -- row 16 -----------------------------------------------------------------------------------


def test_row16_later_refusal_never_raises_what_is_sent_next() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.run(0.2)
    cluster.isolate("c")
    cluster.write("a", *[b"x%d" % n for n in range(12)])
    cluster.crash("b")
    cluster.restart("a")
    cluster.start("b")
    cluster.connect("a", "b")
    cluster.elect("a", "b")
    cluster.heal(("a", "c"))
    cluster.tick("a")
    seen = []
    for asked in (6, 9, 11, 4, 12):
        refusal = {
            "type": "append_response",
            "term": 2,
            "next_index": asked,
            "reset": True,
            "success": False,
        }
        cluster.inject("a", "c", refusal)
        cluster.advance(0.11)
        cluster.tick("a")
        seen.append(last_append(cluster, "c")["prev_log_index"])
    assert seen == [5, 5, 5, 3, 3]


# -- row 9 ------------------------------------------------------------------------------------


def test_row09_request_numbers_of_two_boots_differ() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    numbers = []
    for boot in range(3):
        cluster.run(0.3)
        cluster.propose("b", b"p%d" % boot)
        cluster.tick("b")
        numbers += [m["id"] for m in cluster.in_flight("b", "a", "forward")]
        cluster.restart("b")
    assert len(set(numbers)) == 3
    assert all(number > 2**32 for number in numbers)


# -- row 17 -----------------------------------------------------------------------------------


def test_row17_vote_of_a_learner_does_not_elect_a_candidate() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    for name in "de":
        cluster.start_joiner(name, "abc")
    cluster.run(0.4)
    cluster.isolate("a")
    cluster.campaign("b")
    for _ in range(4):
        if cluster.in_flight("b", "c", "request_vote"):
            break
        cluster.exchange("b", "c")
        cluster.tick("b")
    assert cluster.in_flight("b", "c", "request_vote")
    for name in "dede":
        cluster.inject("b", name, {"type": "vote_response", "term": cluster.term("b")})
        cluster.tick("b")
    assert not cluster.is_leader("b")


def test_row10_timeout_now_does_not_make_a_learner_campaign() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.start_joiner("d", "abc")
    cluster.run(0.4)
    mark = len(cluster.sent)
    cluster.inject("d", "a", {"type": "timeout_now", "term": cluster.term("a")})
    for _ in range(20):
        cluster.advance(0.1)
        cluster.tick("d")
    assert not any(e.message["type"] == "request_vote" for e in cluster.sent[mark:])
    assert not cluster.is_leader("d")


# -- row 24 -----------------------------------------------------------------------------------


def test_row24_late_background_save_brings_no_old_configuration_back(tmp_path: Path) -> None:
    cluster = OurCluster("abc", directory=tmp_path)
    cluster.elect("a")
    cluster.write("a", b"x1", b"x2")
    cluster.run(0.3)
    cluster.held_saves["c"] = []
    cluster.compact("c")
    cluster.isolate("c")
    cluster.start_joiner("d", "abc")
    cluster.cut("c", "d")
    cluster.run(0.4)
    added = cluster.add("a", "d")
    assert cluster.run_until(lambda: added.ok, within=1.0)
    cluster.write("a", b"y1", b"y2")
    cluster.compact("a")
    cluster.heal()
    assert cluster.run_until(lambda: len(cluster.state("c")) == 4, within=2.0)
    assert cluster.config("c") == set("abcd")
    for job in cluster.held_saves.pop("c"):
        job()
    cluster.run(0.3)
    assert cluster.config("c") == set("abcd")


# -- learners and reads -----------------------------------------------------------------------


def test_learner_acknowledgement_never_counts_after_a_change_of_configuration() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    for name in "def":
        cluster.start_joiner(name, "abc")
    cluster.run(0.4)
    demoted = cluster.demote("a", "c")
    assert cluster.run_until(lambda: demoted.ok, within=1.0)
    cluster.run(0.2)
    assert cluster.config("a") == {"a", "b"}
    cluster.isolate("b")
    outcome = cluster.propose("a", b"y")
    for _ in range(20):
        cluster.advance(0.02)
        cluster.tick("a")
        cluster.exchange("a", "c", "d", "e", "f")
    assert outcome.pending
    assert b"y" not in cluster.state("d")


def test_read_confirmation_of_a_learner_does_not_count() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    for name in "de":
        cluster.start_joiner(name, "abc")
    cluster.run(0.4)
    read = cluster.read("a")
    cluster.tick("a")
    (question,) = cluster.in_flight("a", "b", "read_confirm")
    assert not cluster.in_flight("a", "d", "read_confirm")
    for name in "dede":
        cluster.inject("a", name, {**question, "type": "read_confirmed"})
        cluster.tick("a")
    assert read.pending
    cluster.inject("a", "b", {**question, "type": "read_confirmed"})
    cluster.tick("a")
    assert read.ok


def test_read_on_a_follower_waits_for_the_leaders_index() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    read = cluster.read("b")
    cluster.tick("b")
    (question,) = cluster.in_flight("b", "a", "read_index")
    index = cluster.replica("b").applied_index() + 1
    cluster.inject("b", "a", {"type": "read_index_result", "id": question["id"], "index": index})
    cluster.tick("b")
    assert read.pending
    cluster.propose("a", b"x2")
    assert cluster.run_until(lambda: read.ok, within=1.0)
    assert cluster.replica("b").applied_index() >= index


@pytest.mark.parametrize("change", [{"seq": 1}, {"term": 0}, {"term": 2}])
def test_read_confirmation_of_another_round_or_term_does_not_count(change: dict[str, int]) -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    read = cluster.read("a")
    cluster.tick("a")
    (question,) = cluster.in_flight("a", "b", "read_confirm")
    for name in "bc":
        cluster.inject("a", name, {**question, "type": "read_confirmed", **change})
        cluster.tick("a")
    assert read.pending


# -- found by the simulation ------------------------------------------------------------------


def test_snapshot_transfer_that_compaction_overtakes_is_followed_by_a_newer_one(tmp_path: Path) -> None:
    """Seeds 2 and 9: the leader went on sending the last chunk of the snapshot that c had installed."""
    cluster, _ = with_snapshot(tmp_path)
    cluster.heal(("a", "c"))
    for _ in range(20):
        cluster.advance(0.02)
        cluster.tick("a", "b")
        cluster.exchange("a", "b")
        if any(cluster.is_snapshot_chunk(m) for m in cluster.in_flight("a", "c")):
            break
        cluster.deliver("a", "c")
        cluster.deliver("c", "a")
    assert any(cluster.is_snapshot_chunk(m) for m in cluster.in_flight("a", "c"))
    # Otherwise what follows it would be kept.
    cluster.replica("a")._core.limits = replace(cluster.limits, compact_bytes=1)
    cluster.compact("a")  # beyond what is on its way
    assert cluster.replica("a").status().first_index > cluster.replica("c").status().last_index
    assert cluster.run_until(lambda: cluster.state("c") == cluster.state("a"), within=3.0)


def test_read_index_asked_by_a_node_that_is_removed_meanwhile_does_not_stop_the_leader() -> None:
    """Seed 35: KeyError in the leader's tick."""
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.start_joiner("d", "abc")
    cluster.run(0.4)
    cluster.read("d")
    cluster.tick("d")
    removed = cluster.remove("a", "d")
    cluster.hold("d", "a")
    cluster.hold("a", "d")
    assert cluster.run_until(lambda: removed.ok, within=1.0)
    # its question was on the way, on a connection that is not closed yet
    cluster.deliver("d", "a")
    cluster.propose("a", b"x2")
    cluster.run(0.5)
    assert cluster.errors("a") == []
    assert cluster.state("b") == [b"x1", b"x2"]


# -- row 16 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("above", [1, 50])
def test_row16_refusal_that_asks_for_what_is_not_there_raises_nothing(above: int) -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.5)
    asked = cluster.log("a")[-1][1] + 1 + above
    refusal = {"term": cluster.term("a"), "next_index": asked, "reset": True, "success": False}
    cluster.inject("a", "b", {"type": "append_response", **refusal})
    cluster.tick("a")
    assert cluster.replica("a").failed is None
    cluster.write("a", b"x2")
    cluster.run(0.5)
    assert cluster.state("b") == [b"x1", b"x2"]
