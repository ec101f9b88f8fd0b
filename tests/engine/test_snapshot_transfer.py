"""A snapshot on its way: sent in chunks, received, installed; and the log that is cut to one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from cyoloctl.errors import StorageError, VersionMismatch
from cyoloctl.model import Source, Stamp
from cyoloctl.raft import snapshot
from cyoloctl.raft.progress import Progress
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore, Transfer
from tests.support.raft_ours import OurCluster, append, lagging

pytestmark = pytest.mark.fault

CHUNK = 40


def _progress(cluster: OurCluster) -> Progress:
    """What a knows of c."""
    return next(p for node, p in cluster.replica("a")._progress.items() if node.id == "c")


def _messages(cluster: OurCluster, kind: str, since: int = 0) -> list[Any]:
    """Messages of a type that were sent to c."""
    return [e.message for e in cluster.sent[since:] if e.target == "c" and e.message["type"] == kind]


def _offsets(cluster: OurCluster, since: int = 0) -> list[int]:
    return [message["offset"] for message in _messages(cluster, "snapshot_chunk", since)]


def _has_all(cluster: OurCluster) -> Callable[[], bool]:
    return lambda: len(cluster.state("c")) == 11


def _sending(directory: Path, **limits: Any) -> OurCluster:
    """a has sent the first chunk to c, and it has not arrived."""
    cluster = lagging(directory, chunk_bytes=CHUNK, **limits)
    cluster.cut("b", "c")
    cluster.hold("a", "c")
    cluster.heal(("a", "c"))
    assert cluster.run_until(lambda: _progress(cluster).sending is not None, within=1.0)
    cluster.tick("a")
    assert _offsets(cluster)[-1] == 0
    return cluster


def _answer(cluster: OurCluster, kind: str = "snapshot_ack", **changes: Any) -> dict[str, Any]:
    """What c says to the chunk."""
    sending = _progress(cluster).sending
    assert sending is not None
    fields = {"offset": CHUNK} if kind == "snapshot_ack" else {"reason": "it cannot be read"}
    return {
        "type": kind,
        "term": cluster.term("a"),
        "digest": sending.transfer.digest,
        **fields,
        **changes,
    }


def _say(cluster: OurCluster, message: dict[str, Any]) -> None:
    cluster.inject("a", "c", message)
    cluster.tick("a")


# -- the sender ---------------------------------------------------------------------------------


def test_next_chunk_follows_its_acknowledgement_at_once(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    mark = len(cluster.sent)
    _say(cluster, _answer(cluster))
    assert _offsets(cluster, mark) == [CHUNK]


def test_answer_that_comes_twice_is_sent_one_chunk(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    mark, answer = len(cluster.sent), _answer(cluster)
    for _ in range(3):
        _say(cluster, answer)
    assert _offsets(cluster, mark) == [CHUNK]


def test_transfer_goes_back_to_where_the_receiver_is(tmp_path: Path) -> None:
    """It lacked a descriptor, say, and threw away what it had; the link is the same."""
    cluster = _sending(tmp_path)
    cluster.release("a", "c")
    assert cluster.run_until(lambda: max(_offsets(cluster)) >= 2 * CHUNK, within=2.0)
    cluster.replica("c")._snapshotting._stop_receiving()
    mark = len(cluster.sent)
    assert cluster.run_until(_has_all(cluster), within=2.0)
    assert 0 in _offsets(cluster, mark)


def test_answer_to_another_snapshot_moves_nothing(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    mark = len(cluster.sent)
    _say(cluster, _answer(cluster, digest="0" * 64))
    assert _offsets(cluster, mark) == []


@pytest.mark.parametrize("above", [0, 1, 2**40])
def test_answer_with_an_offset_outside_the_snapshot_moves_nothing(tmp_path: Path, above: int) -> None:
    cluster = _sending(tmp_path)
    mark, total = len(cluster.sent), _messages(cluster, "snapshot_chunk")[0]["total"]
    _say(cluster, _answer(cluster, offset=total + above))
    assert _offsets(cluster, mark) == []
    cluster.release("a", "c")
    assert cluster.run_until(_has_all(cluster), within=2.0)


def test_chunk_that_is_not_answered_is_sent_again(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    cluster.queues["a", "c"].clear()
    cluster.release("a", "c")
    assert cluster.run_until(_has_all(cluster), within=2.0)


def test_chunk_is_sent_again_once_a_heartbeat_and_no_more(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    mark = len(cluster.sent)
    cluster.run(1.0)
    assert 5 <= len(_offsets(cluster, mark)) <= 11


def test_peer_that_takes_a_snapshot_was_heard(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    before = _progress(cluster).last_heard
    cluster.advance(0.3)
    _say(cluster, _answer(cluster))
    assert _progress(cluster).last_heard > before + 0.2


def test_refusal_of_another_snapshot_stops_nothing(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    _say(cluster, _answer(cluster, "snapshot_refused", digest="0" * 64))
    assert _progress(cluster).sending is not None
    assert _progress(cluster).refused is None


def test_refusal_with_control_characters_is_not_repeated(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    _say(cluster, _answer(cluster, "snapshot_refused", reason="\x1b[2Jall is well"))
    (trouble,) = cluster.replica("a").status().troubles
    assert trouble.message == "it gave no readable reason"


def test_peer_without_a_snapshot_to_come_is_sent_heartbeats(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    _say(cluster, _answer(cluster, "snapshot_refused"))
    mark = len(cluster.sent)
    cluster.run(0.7)  # the pause is one second
    assert len(_messages(cluster, "heartbeat", mark)) >= 4
    assert _offsets(cluster, mark) == []


def test_snapshot_that_ends_before_the_log_begins_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = lagging(tmp_path)
    cluster.write("a", b"z1", b"z2")
    cluster.machines["a"].engine.journal.compact_to(cluster.log("a")[-1][1])
    opened: list[Transfer] = []
    snapshots: SnapshotStore = cluster.machines["a"].engine.snapshots
    open_transfer = snapshots.open_transfer

    def watched() -> Transfer | None:
        transfer = open_transfer()
        assert transfer is not None
        opened.append(transfer)
        return transfer

    monkeypatch.setattr(snapshots, "open_transfer", watched)
    cluster.heal()
    cluster.run(0.5)
    assert _offsets(cluster) == []
    assert opened
    assert all(transfer._file.closed for transfer in opened)
    cluster.write("a", b"z3")
    cluster.compact("a")
    assert cluster.run_until(lambda: cluster.state("c") == cluster.state("a"), within=2.0)


# -- the receiver -------------------------------------------------------------------------------


def _chunk(cluster: OurCluster) -> dict[str, Any]:
    """The first chunk, which has not arrived."""
    message: dict[str, Any] = dict(_messages(cluster, "snapshot_chunk")[0])
    return message


def _hear(cluster: OurCluster, message: dict[str, Any]) -> None:
    cluster.inject("c", "a", message)
    cluster.tick("c")


def _files(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "c"))


def _pieces(meta: SnapshotMeta, data: bytes, term: int) -> list[dict[str, Any]]:
    """A whole snapshot in two chunks."""
    store = SnapshotStore(None)
    store.save(meta, data)
    transfer = store.open_transfer()
    assert transfer is not None
    return [
        {
            "type": "snapshot_chunk",
            "term": term,
            "index": meta.index,
            "snapshot_term": meta.term,
            "voters": list(meta.voters),
            "removed": list(meta.removed),
            "total": transfer.total,
            "digest": transfer.digest,
            "offset": offset,
            "data": transfer.read(offset, size),
        }
        for offset, size in ((0, CHUNK), (CHUNK, transfer.total))
    ]


def test_transfer_that_ends_with_its_link_leaves_no_file(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    cluster.release("a", "c")
    assert cluster.run_until(lambda: _files(tmp_path) != [], within=2.0)
    cluster.isolate("c")
    assert _files(tmp_path) == []


def test_transfer_goes_on_while_another_peer_goes(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    cluster.heal(("b", "c"))
    _hear(cluster, _chunk(cluster))
    assert _files(tmp_path) == ["snapshot.1.tmp"]
    cluster.cut("b", "c")
    assert _files(tmp_path) == ["snapshot.1.tmp"]


def test_end_leaves_no_file_of_a_transfer(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    _hear(cluster, _chunk(cluster))
    assert _files(tmp_path) == ["snapshot.1.tmp"]
    cluster.replica("c").close()
    assert _files(tmp_path) == []


def test_transfer_begins_again_after_a_chunk_that_was_refused(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    _hear(cluster, {**_chunk(cluster), "data": bytes(1000)})
    assert cluster.replica("c").status().troubles
    cluster.release("a", "c")
    assert cluster.run_until(_has_all(cluster), within=3.0)
    assert cluster.errors("c") == []


def test_chunk_of_a_stale_leader_is_not_taken(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    cluster.heal(("b", "c"))
    cluster.inject("c", "b", append(9, (1, 0)))
    assert cluster.term("c") == 9
    cluster.tick("c")
    _hear(cluster, _chunk(cluster))
    assert _files(tmp_path) == []


def test_chunk_of_an_index_out_of_reach_is_refused(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    _hear(cluster, {**_chunk(cluster), "index": cluster.log("c")[-1][1] + 2**32 + 1})
    assert _files(tmp_path) == []


def test_chunk_of_another_snapshot_begins_anew(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    _hear(cluster, _chunk(cluster))
    for piece in _pieces(SnapshotMeta(90, 1, ("a", "b", "c"), ()), b"\0\0\0\2ab", cluster.term("a")):
        _hear(cluster, piece)
    assert cluster.log("c") == [(b"\x01", 90, 1)]
    assert cluster.state("c") == [b"ab"]
    assert _files(tmp_path) == ["snapshot"]


def test_snapshot_that_ends_before_the_log_begins_is_not_installed(tmp_path: Path) -> None:
    """What it stands for was applied long ago, and what followed it was acknowledged."""
    cluster = lagging(tmp_path)
    cluster.write("a", b"z1", b"z2")
    cluster.run(0.3)
    cluster.compact("b")
    before, state = cluster.log("b"), cluster.state("b")
    for piece in _pieces(SnapshotMeta(5, 1, ("a", "b", "c"), ()), b"", cluster.term("a")):
        cluster.inject("b", "a", piece)
        cluster.tick("b")
        assert cluster.in_flight("b", "a")[-1].get("next_index") == 6  # from the first piece on
    assert (cluster.log("b"), cluster.state("b")) == (before, state)


def test_installed_snapshot_is_the_applied_state(tmp_path: Path) -> None:
    cluster = lagging(tmp_path)
    cluster.heal()
    applied = cluster.replica("c").applied_index
    assert cluster.run_until(lambda: len(cluster.log("c")) == 1, within=2.0)
    assert applied() == cluster.log("c")[0][1]
    assert cluster.machines["c"].applied == [(3, b"x1")]


def _with_a_tail_of_its_own(tmp_path: Path, **limits: Any) -> OurCluster:
    """The log of c reaches further than the snapshot of a, and none of its tail was ever agreed on."""
    cluster = OurCluster("abc", directory=tmp_path, limits=Limits(keep_entries=0, **limits))
    cluster.elect("c")
    cluster.write("c", b"x1")
    cluster.run(0.5)
    cluster.isolate("c")
    for n in range(20):
        cluster.propose("c", b"tail%d" % n)
        cluster.tick("c")
    cluster.elect("a", "b")
    cluster.write("a", *[b"good%d" % n for n in range(6)])
    cluster.compact("a")
    assert cluster.replica("a").status().snapshot_index < cluster.log("c")[-1][1]
    return cluster


def test_snapshot_whose_index_holds_an_entry_of_another_term_is_installed(tmp_path: Path) -> None:
    cluster = _with_a_tail_of_its_own(tmp_path)
    index = cluster.replica("a").status().snapshot_index
    cluster.heal(("a", "c"))
    assert cluster.run_until(lambda: cluster.state("c") == cluster.state("a"), within=3.0)
    assert cluster.replica("c").status().first_index == index
    assert cluster.diverged() == []


def test_large_snapshot_whose_index_holds_an_entry_of_another_term_is_installed(tmp_path: Path) -> None:
    """The own tail is there still when it was read."""
    cluster = _with_a_tail_of_its_own(tmp_path, install_at_once_bytes=0)
    cluster.held_saves["c"] = []
    cluster.heal(("a", "c"))
    assert cluster.run_until(lambda: bool(cluster.held_saves["c"]), within=3.0)
    _read(cluster)
    assert cluster.run_until(lambda: cluster.state("c") == cluster.state("a"), within=3.0)
    assert cluster.diverged() == []


def test_installed_snapshot_brings_its_time(tmp_path: Path) -> None:
    cluster = lagging(tmp_path)
    machine = cluster.machines["c"].engine.machine
    prepare = machine.prepare_restore

    def with_time(source: Source) -> Callable[[], None]:
        restore = prepare(source)

        def commit() -> None:
            restore()
            machine.stamped = Stamp(3, 1_900_000_000_000, 5)

        return commit

    machine.prepare_restore = with_time
    cluster.heal()
    assert cluster.run_until(_has_all(cluster), within=2.0)
    epoch, unix_ms = cluster.replica("c")._cluster_clock.told()
    assert epoch == 3
    assert unix_ms >= 1_900_000_000_000


def test_good_snapshot_ends_the_trouble(tmp_path: Path) -> None:
    cluster = lagging(tmp_path)
    machine = cluster.machines["c"].engine.machine
    prepare = machine.prepare_restore

    def refuse(source: Source) -> Callable[[], None]:
        raise VersionMismatch("the snapshot has version 9, this release reads version 2")

    machine.prepare_restore = refuse
    cluster.heal()
    assert cluster.run_until(lambda: cluster.replica("c").status().troubles != (), within=2.0)
    machine.prepare_restore = prepare
    assert cluster.run_until(_has_all(cluster), within=3.0)
    assert cluster.replica("c").status().troubles == ()


@pytest.mark.parametrize("at_once", [2**20, 0])
def test_shortage_while_a_snapshot_is_read_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Nothing was changed: the leader sends it again."""
    cluster, times = lagging(tmp_path, install_at_once_bytes=at_once), list[int]()
    sync = snapshot._Directory.sync

    def lacking(directory: snapshot._Directory, file: BinaryIO) -> None:
        if not times:
            times.append(1)
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        sync(directory, file)

    monkeypatch.setattr(snapshot._Directory, "sync", lacking)
    cluster.heal()
    assert cluster.run_until(_has_all(cluster), within=3.0)
    assert times
    assert cluster.errors("c") == []


def test_shortage_after_the_rename_ends_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which snapshot its disk has is not known: it must not serve, nor take another one."""
    cluster = lagging(tmp_path)

    def lacking(_directory: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(snapshot._Directory, "sync_names", lacking)
    cluster.heal()
    assert cluster.run_until(lambda: cluster.replica("c").failed is not None, within=2.0)
    assert isinstance(cluster.replica("c").failed, StorageError)


# -- a large snapshot is read in another thread ------------------------------------------------------


def _reading(directory: Path) -> OurCluster:
    """c has received a whole snapshot, and its thread has not read it yet."""
    cluster = lagging(directory, install_at_once_bytes=0)
    cluster.held_saves["c"] = []
    cluster.heal()
    assert cluster.run_until(lambda: bool(cluster.held_saves["c"]), within=2.0)
    return cluster


def _read(cluster: OurCluster) -> None:
    for job in cluster.held_saves.pop("c"):
        job()


def test_node_answers_while_a_large_snapshot_is_read_and_has_its_state_afterwards(tmp_path: Path) -> None:
    cluster = _reading(tmp_path)
    before, term = cluster.state("c"), cluster.replica("a").status().term
    cluster.run(3.0)
    assert cluster.state("c") == before
    assert len(cluster.held_saves["c"]) == 1, "one at a time, although the leader sends its last part again"
    assert (cluster.current_leaders(), cluster.replica("a").status().term) == (["a"], term)
    assert cluster.write("a", b"meanwhile")
    _read(cluster)
    assert cluster.run_until(lambda: cluster.state("c") == cluster.state("a"), within=2.0)
    assert cluster.errors("c") == []


def test_large_snapshot_is_acknowledged_when_it_is_installed_and_not_before(tmp_path: Path) -> None:
    """What a follower acknowledges, the leader counts."""
    cluster = _reading(tmp_path)
    index = cluster.replica("a").status().snapshot_index

    def acknowledged() -> bool:
        answers = [each.message for each in cluster.sent if each.source == "c"]
        return any(each["type"] == "append_response" and each["next_index"] > index for each in answers)

    cluster.run(1.0)
    assert not acknowledged()
    _read(cluster)
    assert cluster.run_until(acknowledged, within=1.0)


def test_large_snapshot_that_entries_overtook_is_left(tmp_path: Path) -> None:
    cluster = _reading(tmp_path)
    replica = cluster.replica("c")
    installing = replica._snapshotting._installing
    assert installing is not None
    before = cluster.log("c"), cluster.state("c")
    replica._engine.set_applied(installing.receiver.meta.index)
    _read(cluster)
    cluster.tick("c")
    assert (cluster.log("c"), cluster.state("c")) == before
    assert _files(tmp_path) == []


def test_large_snapshot_whose_entries_came_meanwhile_drops_nothing_behind_it(tmp_path: Path) -> None:
    """Another leader, which has them still, sent them; how many are committed is not known here yet."""
    cluster = _reading(tmp_path)
    installing = cluster.replica("c")._snapshotting._installing
    assert installing is not None
    meta = installing.receiver.meta
    _, last, term = cluster.log("c")[-1]
    assert (term, last < meta.index) == (meta.term, True)
    entries = [(b"\x00same%d" % index, index, term) for index in range(last + 1, meta.index + 3)]
    cluster.inject("c", "a", append(cluster.term("a"), (last, term), *entries))
    before = cluster.log("c"), cluster.state("c")
    assert cluster.log("c")[-1][1] == meta.index + 2
    _read(cluster)
    cluster.tick("c")
    assert (cluster.log("c"), cluster.state("c")) == before
    assert _files(tmp_path) == []


def test_large_snapshot_that_cannot_be_read_is_refused_and_people_are_told(tmp_path: Path) -> None:
    cluster = _reading(tmp_path)

    def refuse(source: Source) -> Callable[[], None]:
        raise StorageError("it is damaged")

    cluster.machines["c"].engine.machine.prepare_restore = refuse
    before = cluster.log("c")
    _read(cluster)
    assert cluster.run_until(lambda: cluster.replica("c").status().troubles != (), within=2.0)
    assert cluster.log("c") == before
    assert _files(tmp_path) == []
    assert cluster.errors("c") == []


def test_large_snapshot_for_which_memory_is_lacking_is_received_again(tmp_path: Path) -> None:
    cluster = _reading(tmp_path)
    machine = cluster.machines["c"].engine.machine
    prepare = machine.prepare_restore

    def lack(source: Source) -> Callable[[], None]:
        machine.prepare_restore = prepare
        raise MemoryError

    machine.prepare_restore = lack
    _read(cluster)
    assert cluster.run_until(_has_all(cluster), within=5.0)
    assert cluster.errors("c") == []


def test_large_snapshot_for_which_no_thread_can_be_started_is_received_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, times = lagging(tmp_path, install_at_once_bytes=0), list[int]()
    run = OurCluster._run_in_background

    def lacking(of: OurCluster, name: str, job: Callable[[], None]) -> None:
        if name == "c" and len(times) < 2:
            times.append(1)
            raise RuntimeError("can't start new thread")
        run(of, name, job)

    monkeypatch.setattr(OurCluster, "_run_in_background", lacking)
    cluster.heal()
    assert cluster.run_until(_has_all(cluster), within=5.0)
    assert len(times) == 2
    assert cluster.errors("c") == []
    assert _files(tmp_path) == ["snapshot"]


def test_node_that_ends_while_a_large_snapshot_is_read_leaves_no_file(tmp_path: Path) -> None:
    cluster = _reading(tmp_path)
    jobs = cluster.held_saves.pop("c")
    cluster.replica("c").close()
    for job in jobs:
        job()
    assert _files(tmp_path) == []


def test_small_snapshot_is_read_at_once(tmp_path: Path) -> None:
    cluster = lagging(tmp_path)
    cluster.held_saves["c"] = []
    cluster.heal()
    assert cluster.run_until(_has_all(cluster), within=2.0)
    assert cluster.held_saves["c"] == []


# -- the log that is cut to a snapshot ----------------------------------------------------------


def _alone(tmp_path: Path, **limits: Any) -> OurCluster:
    cluster = OurCluster("a", directory=tmp_path, limits=Limits(**limits))
    cluster.elect("a")
    return cluster


def test_save_that_is_slow_is_the_only_one(tmp_path: Path) -> None:
    cluster = _alone(tmp_path)
    cluster.held_saves["a"] = []
    for command in (b"x1", b"x2", b"x3"):
        cluster.write("a", command)
        cluster.compact("a")
    assert len(cluster.held_saves.pop("a")) == 1


def _saved(tmp_path: Path, took_s: float) -> OurCluster:
    """A save of a has ended that took so long; whether the next one begins is in `held_saves`."""
    cluster = _alone(tmp_path, keep_entries=0, compact_entries=5, compact_bytes=1000)
    cluster.held_saves["a"] = []
    cluster.write("a", *[b"x%d" % n for n in range(10)])
    (job,) = cluster.held_saves["a"]
    cluster.held_saves["a"] = []
    cluster.advance(took_s)
    job()
    cluster.tick("a")
    assert cluster.replica("a").status().snapshot_index > 1
    return cluster


def test_save_that_took_long_is_followed_by_a_rest(tmp_path: Path) -> None:
    """Four times as long: a large state is written one fifth of the time at most."""
    cluster = _saved(tmp_path, 2.0)
    cluster.write("a", *[b"y%d" % n for n in range(10)])
    cluster.advance(7.0)
    cluster.write("a", b"z")
    assert cluster.held_saves["a"] == []
    cluster.advance(1.1)
    cluster.write("a", b"zz")
    assert len(cluster.held_saves["a"]) == 1


def test_rest_ends_when_the_log_has_grown_by_much(tmp_path: Path) -> None:
    cluster = _saved(tmp_path, 2.0)
    cluster.write("a", *[b"y%d" % n + bytes(1000) for n in range(14)])
    assert cluster.held_saves["a"] == []
    cluster.write("a", *[b"z%d" % n + bytes(1000) for n in range(4)])
    assert len(cluster.held_saves["a"]) == 1


def test_rest_ends_when_a_snapshot_is_asked_for(tmp_path: Path) -> None:
    """By a disk that runs full, say."""
    cluster = _saved(tmp_path, 2.0)
    cluster.write("a", b"y")
    cluster.compact("a")
    assert len(cluster.held_saves["a"]) == 1


def test_save_that_took_no_long_time_is_followed_by_no_rest(tmp_path: Path) -> None:
    cluster = _saved(tmp_path, 0.9)
    cluster.write("a", *[b"y%d" % n for n in range(10)])
    assert len(cluster.held_saves["a"]) == 1


def test_log_is_compacted_by_bytes_too(tmp_path: Path) -> None:
    cluster = _alone(tmp_path, compact_entries=10**6, compact_bytes=1000)
    cluster.write("a", *[b"x%d" % n + bytes(300) for n in range(10)])
    assert cluster.replica("a").status().snapshot_index > 1


@pytest.mark.parametrize("case", [(40, 3, 8, 4), (4, 9, 9, 6)])
def test_next_snapshot_waits_for_three_times_the_last(tmp_path: Path, case: tuple[int, ...]) -> None:
    wrote, most, little, more = case
    cluster = _alone(tmp_path, compact_entries=10**6, compact_bytes=1000, compact_growth=most, keep_entries=0)
    cluster.write("a", *[b"x%d" % n + bytes(300) for n in range(wrote)])
    cluster.compact("a")
    before = cluster.replica("a").status().snapshot_index
    for count, is_next in ((little, False), (more, True)):
        cluster.write("a", *[b"y%d" % n + bytes(300) for n in range(count)])
        assert (cluster.replica("a").status().snapshot_index > before) is is_next


def test_compaction_keeps_entries_for_followers_that_lag_a_little(tmp_path: Path) -> None:
    cluster = _alone(tmp_path, keep_entries=5)
    cluster.write("a", *[b"x%d" % n for n in range(20)])
    cluster.compact("a")
    status = cluster.replica("a").status()
    assert status.first_index == status.snapshot_index - 5


def test_compaction_keeps_no_more_bytes_than_a_quarter_of_the_limit(tmp_path: Path) -> None:
    cluster = _alone(tmp_path, keep_entries=1000, compact_bytes=8000)
    cluster.write("a", *[b"x%d" % n + bytes(300) for n in range(20)])
    cluster.compact("a")
    kept = sum(len(command) for command, _, _ in cluster.log("a"))
    assert 1700 <= kept <= 2400  # and the entry that goes past it


def test_compaction_keeps_what_follows_a_snapshot_that_is_being_sent(tmp_path: Path) -> None:
    cluster = _sending(tmp_path)
    cluster.write("a", *[b"z%d" % n for n in range(10)])
    cluster.compact("a")
    cluster.release("a", "c")
    assert cluster.run_until(lambda: cluster.state("c") == cluster.state("a"), within=3.0)
    assert len({message["digest"] for message in _messages(cluster, "snapshot_chunk")}) == 1


def test_compaction_of_a_large_state_keeps_what_follows_a_snapshot_that_is_being_sent(tmp_path: Path) -> None:
    """Its log grows by more before the next snapshot, and is more than four times the bound then."""
    cluster = _sending(tmp_path, compact_bytes=40, compact_growth=4, compact_entries=10**6)
    sending = _progress(cluster).sending
    assert sending is not None
    assert sending.transfer.total > 4 * 40  # large beside the bound
    before = cluster.replica("a").status().snapshot_index
    while cluster.replica("a").status().snapshot_index == before and len(cluster.log("a")) < 30:
        cluster.write("a", b"z")
    assert cluster.replica("a").status().snapshot_index > before
    assert sum(len(command) for command, _, _ in cluster.log("a")) > 4 * 40
    assert cluster.replica("a").status().first_index <= sending.transfer.meta.index + 1


def test_compaction_drops_what_a_slow_receiver_needs_once_it_costs_too_much(tmp_path: Path) -> None:
    cluster = _sending(tmp_path, compact_bytes=1000)
    sending = _progress(cluster).sending
    assert sending is not None
    for n in range(30):
        cluster.write("a", b"z%d" % n + bytes(300))
    status = cluster.replica("a").status()
    assert status.first_index > sending.transfer.meta.index
    assert sum(len(command) for command, _, _ in cluster.log("a")) < 8000
