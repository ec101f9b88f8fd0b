"""A turn that stands still while its journal is written in another thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cyoloctl.errors import CyoloctlError, StorageError
from cyoloctl.raft import turns
from cyoloctl.raft.turns import Turns, Write
from tests.support.raft_ours import OurCluster, append
from tests.support.stories import hear, said


class Writer:
    """Takes the writes of one node, and makes them when it is told."""

    def __init__(self, cluster: OurCluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._turns = cluster.replica(name).turns
        self.taken: list[Write] = []
        self._turns.write_elsewhere = self._take

    def _take(self, write: Write) -> bool:
        self.taken.append(write)
        return True

    def write(self) -> None:
        """The thread has done its work; the replica does not know yet."""
        [write] = self.taken
        self.taken.clear()
        write()
        self._turns.written()

    def finish(self) -> None:
        """All writes are made, one after the other."""
        while self.taken:
            self.write()
            self._cluster.tick(self._name)

    def stop(self) -> None:
        """The node makes its own writes again."""
        self._turns.write_elsewhere = lambda write: False
        self.finish()


def leading() -> OurCluster:
    """`a` leads, and has written."""
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"first")
    cluster.run(0.3)
    return cluster


def follower() -> tuple[OurCluster, Writer]:
    """`a` leads; `b` writes elsewhere."""
    cluster = leading()
    return cluster, Writer(cluster, "b")


def last(cluster: OurCluster, name: str) -> tuple[int, int]:
    """Index and term of the last entry."""
    _, index, term = cluster.log(name)[-1]
    return index, term


def on_disk(cluster: OurCluster, name: str) -> int:
    found: int = cluster.machines[name].disk.store.record().last_index
    return found


def entry(cluster: OurCluster, number: int = 1) -> Any:
    """What `a`, which leads, sends to `b`: one entry more."""
    index, term = last(cluster, "b")
    before = index + number - 1
    return append(term, (before, term), (b"\x01", before + 1, term), commit=index)


def confirm(cluster: OurCluster, number: int) -> Any:
    return {"type": "read_confirm", "seq": number, "term": cluster.term("a")}


def test_what_tells_of_the_disk_waits_for_the_write_and_reads_go_on() -> None:
    cluster, writer = follower()
    mark, before = len(cluster.sent), on_disk(cluster, "b")
    hear(cluster, "b", "a", entry(cluster))
    assert len(writer.taken) == 1
    assert on_disk(cluster, "b") == before
    hear(cluster, "b", "a", confirm(cluster, 7))
    assert [message["seq"] for message in said(cluster, mark, "b", "read_confirmed")] == [7]
    assert said(cluster, mark, "b", "append_response") == []
    writer.write()
    assert said(cluster, mark, "b", "append_response") == []
    cluster.tick("b")
    assert [message["next_index"] for message in said(cluster, mark, "b", "append_response")] == [before + 2]
    assert on_disk(cluster, "b") == before + 1


def test_input_waits_for_the_write_in_its_order() -> None:
    cluster, writer = follower()
    before = on_disk(cluster, "b")
    hear(cluster, "b", "a", entry(cluster))
    second = entry(cluster)  # in memory the first one is there
    hear(cluster, "b", "a", second)
    cluster.inject("b", "a", entry(cluster, 2))
    assert last(cluster, "b")[0] == before + 1
    writer.write()
    # Between the end of the write and the next tick the turn has not gone on yet.
    cluster.inject("b", "a", entry(cluster, 3))
    assert cluster.replica("b").failed is None
    assert last(cluster, "b")[0] == before + 1
    cluster.tick("b")
    writer.finish()
    assert on_disk(cluster, "b") == before + 4
    assert cluster.replica("b").failed is None


def test_what_came_during_a_write_is_acted_upon_as_soon_as_it_has_ended() -> None:
    cluster, writer = follower()
    mark, before = len(cluster.sent), on_disk(cluster, "b")
    hear(cluster, "b", "a", entry(cluster))
    hear(cluster, "b", "a", entry(cluster))
    writer.write()
    cluster.tick("b")  # ends the first turn, and begins another one for what was held
    assert len(writer.taken) == 1
    writer.write()
    cluster.tick("b")
    acknowledged = [message["next_index"] for message in said(cluster, mark, "b", "append_response")]
    assert acknowledged == [before + 2, before + 3]


def test_no_read_is_confirmed_in_a_term_that_is_being_written() -> None:
    cluster, writer = follower()
    index, term = last(cluster, "b")
    mark = len(cluster.sent)
    hear(cluster, "b", "c", append(term + 1, (index, term), (b"\x01", index + 1, term + 1), commit=index))
    assert len(writer.taken) == 1
    question = {"type": "read_confirm", "seq": 9, "term": term + 1}
    hear(cluster, "b", "c", question)
    assert said(cluster, mark, "b", "read_confirmed") == []
    writer.write()
    cluster.tick("b")
    assert [message["seq"] for message in said(cluster, mark, "b", "read_confirmed", "c")] == [9]


def test_read_of_a_leader_is_served_while_its_journal_is_written() -> None:
    cluster = leading()
    writer = Writer(cluster, "a")
    written = cluster.propose("a", b"second")
    cluster.tick("a")
    assert len(writer.taken) == 1
    read = cluster.read("a")
    cluster.tick("a")
    cluster.exchange("a", "b", rounds=2)
    cluster.tick("a")
    assert read.ok
    assert written.pending
    writer.stop()
    cluster.run(0.1)
    assert written.ok


def test_result_of_what_another_node_forwarded_does_not_wait_for_the_next_entry_to_be_written() -> None:
    cluster = leading()
    hear(cluster, "a", "b", {"type": "forward", "id": 7, "commands": [b"forwarded"], "after": [0]})
    index, term = last(cluster, "a")
    writer, mark = Writer(cluster, "a"), len(cluster.sent)
    following = cluster.propose("a", b"following")
    acknowledged = {"next_index": index + 1, "reset": False, "success": True}
    hear(cluster, "a", "b", {"type": "append_response", "term": term, **acknowledged})
    assert len(writer.taken) == 1
    assert last(cluster, "a") == (index + 1, term)
    assert on_disk(cluster, "a") == index
    [result] = said(cluster, mark, "a", "forward_result", "b")
    assert (result["id"], result["error"], len(result["results"])) == (7, None, 1)
    assert following.pending
    writer.stop()
    cluster.run(0.1)
    assert following.ok


def test_roll_call_is_answered_when_the_write_has_ended() -> None:
    cluster = leading()
    removal = cluster.remove("a", "c")
    cluster.tick("a")
    assert cluster.replica("a").considered() == {"a", "b"}
    writer = Writer(cluster, "a")
    cluster.propose("a", b"second")
    cluster.tick("a")
    assert len(writer.taken) == 1
    cluster.answer_roll("a")
    assert cluster.replica("a").failed is None
    assert cluster.config("a") == {"a", "b", "c"}
    writer.stop()
    cluster.run(0.3)
    assert removal.ok
    assert cluster.config("a") == {"a", "b"}


def test_read_of_a_peer_whose_link_is_not_known_yet_waits() -> None:
    cluster, writer = follower()
    cluster.disconnect("b", "c")
    mark = len(cluster.sent)
    hear(cluster, "b", "a", entry(cluster))
    assert len(writer.taken) == 1
    cluster.connect("b", "c")
    hear(cluster, "b", "c", {"type": "read_index", "id": 3})
    assert said(cluster, mark, "b", "read_index_result") == []
    writer.finish()
    assert [message["id"] for message in said(cluster, mark, "b", "read_index_result", "c")] == [3]


def test_only_voter_answers_nothing_before_its_disk_holds_it() -> None:
    cluster = OurCluster("a")
    cluster.elect("a")
    writer = Writer(cluster, "a")
    written = cluster.propose("a", b"only")
    cluster.tick("a")
    assert written.ok
    assert writer.taken == []
    assert on_disk(cluster, "a") == last(cluster, "a")[0]


def test_failed_write_elsewhere_ends_the_replica_and_sends_nothing() -> None:
    cluster, writer = follower()
    store, mark = cluster.machines["b"].disk.store, len(cluster.sent)

    def full(batch: object) -> None:
        raise StorageError("the disk is full: free space")

    store.commit = full
    hear(cluster, "b", "a", entry(cluster))
    writer.write()
    cluster.tick("b")
    cluster.tick("b")
    failed = cluster.replica("b").failed
    assert isinstance(failed, StorageError)
    assert "free space" in failed.message
    assert cluster.sent[mark:] == []


def test_replica_whose_disk_hangs_for_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_MOST_HELD", 3)
    cluster, _ = follower()
    hear(cluster, "b", "a", entry(cluster))
    hear(cluster, "b", "a", *[entry(cluster, 1 + number) for number in range(3)])
    assert cluster.replica("b").failed is None
    hear(cluster, "b", "a", entry(cluster, 4))
    failed = cluster.replica("b").failed
    assert isinstance(failed, StorageError)
    assert "takes no writes" in failed.message


def test_change_that_was_held_is_answered_when_the_replica_fails() -> None:
    cluster = leading()
    writer = Writer(cluster, "a")
    cluster.propose("a", b"second")
    cluster.tick("a")
    assert len(writer.taken) == 1
    held = (
        cluster.remove("a", "c"),
        cluster.demote("a", "c"),
        cluster.add("a", "d"),
        cluster.transfer("a", "b"),
    )
    cluster.replica("a").fail(StorageError("the disk is full"))
    # Nothing of them was begun: that is the reason, and no unknown outcome.
    assert [type(each.error) for each in held] == [StorageError] * 4
    assert [each.calls for each in held] == [1] * 4


def test_commit_index_that_moved_alone_is_stored_elsewhere_too() -> None:
    cluster = OurCluster("abc")
    cluster.elect("a")
    cluster.write("a", b"first")
    cluster.run(2.5)
    store = cluster.machines["b"].disk.store
    cluster.write("a", b"second")
    commit, stored = cluster.commit_index("b"), store.record().commit_index
    assert stored < commit
    writer = Writer(cluster, "b")
    cluster.run(1.2)
    assert len(writer.taken) == 1
    assert store.record().commit_index == stored
    writer.write()
    assert store.record().commit_index == commit


# -- by themselves --------------------------------------------------------------------------------


def turn(
    steps: Callable[[], Iterator[Write]], *, elsewhere: bool = False
) -> tuple[Turns, list[CyoloctlError]]:
    failures: list[CyoloctlError] = []
    found = Turns(steps, may_suspend=lambda: True, meanwhile=lambda: None, fail=failures.append)
    found.write_elsewhere = lambda write: elsewhere
    return found, failures


def test_turn_makes_its_writes_itself_where_nobody_takes_them() -> None:
    done: list[str] = []

    def steps() -> Iterator[Write]:
        done.append("before")
        yield lambda: done.append("write")
        done.append("after")

    found, _ = turn(steps)
    assert not found.run()
    assert done == ["before", "write", "after"]
    assert not found.is_suspended


def test_error_that_is_none_of_ours_ends_the_turn_and_is_told() -> None:
    def steps() -> Iterator[Write]:
        yield lambda: None
        raise ZeroDivisionError

    found, failures = turn(steps)
    for _ in range(2):  # the next one begins anew
        with pytest.raises(ZeroDivisionError):
            found.run()
    assert failures == []
