"""A stopped node's log that goes on without the other voters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cyoloctl.errors import Conflict
from cyoloctl.model import RaftId
from cyoloctl.raft.batch import decode_batch
from cyoloctl.raft.journal import Journal
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore
from cyoloctl.raft.sole import Replayed, become_sole_voter, replay
from cyoloctl.raft.sqlite_store import SqliteStore
from cyoloctl.raft.vendor import NO_OP, decode_membership, encode_membership
from cyoloctl.replicated.command import encode_command
from cyoloctl.state import ClusterState

N1, N2, N3 = RaftId("n1"), RaftId("n2"), RaftId("n3")


def journal_of(directory: Path, changes: Sequence[tuple[str, RaftId]], *, committed: int = 2) -> Journal:
    journal = Journal(SqliteStore(directory / "raft.db"))
    journal.append(1, 0, NO_OP)
    for index, (operation, raft_id) in enumerate(changes, 2):
        journal.append(index, 3, encode_membership(operation, raft_id))
    journal.set_term(5, "n2")
    journal.set_commit_index(committed)
    journal.sync()
    return journal


def again(directory: Path, journal: Journal) -> Journal:
    """As the process leaves it: closing must not be what makes it durable."""
    journal._store.close()
    return Journal(SqliteStore(directory / "raft.db"))


ALL = [("add", N1), ("add", N2), ("add", N3)]
COMMAND = encode_command("counter", "add", {"name": "a", "by": 1}, request_id="r", kind="node")


def test_log_is_replayed_to_its_end_and_says_what_is_certain(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, ALL, committed=3)
    found = replay(journal, SnapshotStore(tmp_path), ClusterState())
    assert found.configuration.voters == {N1, N2, N3}
    assert (found.certain_index, found.last_index, found.last_term) == (3, 4, 3)


def test_log_below_a_snapshot_counts_for_nothing(tmp_path: Path) -> None:
    """A node that was stopped between a received snapshot and the cut of its log."""
    journal = journal_of(tmp_path, [*ALL, ("demote", N2)])
    snapshots, saved, state = SnapshotStore(tmp_path), ClusterState(), ClusterState()
    saved.counters.apply("add", {"name": "kept", "by": 7}, 1, 0)
    snapshots.save(SnapshotMeta(90, 4, ("n1", "n2"), ("n3",)), b"".join(saved.begin_snapshot()()))
    found = replay(journal, snapshots, state)
    assert state.counters.get("kept") == 7
    assert found.configuration.voters == {N1, N2}
    assert found.configuration.removed == {N3}
    assert (found.certain_index, found.last_index, found.last_term) == (90, 90, 4)
    become_sole_voter(journal, found, N1, without=[N2], command=COMMAND)
    assert (journal.first_index, journal.last_index) == (90, 92)


def test_only_voter_is_durable_in_a_term_of_its_own(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, ALL)
    found = replay(journal, SnapshotStore(tmp_path), ClusterState())
    become_sole_voter(journal, found, N1, without={N3, N2}, command=COMMAND)
    journal = again(tmp_path, journal)
    added = journal.entries[4:]
    assert [decode_membership(command) for command, _, _ in added[:2]] == [("remove", N2), ("remove", N3)]
    assert [item.command for item in decode_batch(added[2][0])] == [COMMAND]
    assert {term for _, _, term in added} == {6}
    assert (journal.term, journal.vote) == (6, "n1")  # nobody else gets its vote in this term
    assert replay(journal, SnapshotStore(tmp_path), ClusterState()).configuration.voters == {N1}


def test_learner_becomes_a_voter(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, [("add", N2), ("add", N3)])
    found = replay(journal, SnapshotStore(tmp_path), ClusterState())
    become_sole_voter(journal, found, N1, without=[N2, N3], command=COMMAND)
    assert replay(journal, SnapshotStore(tmp_path), ClusterState()).configuration.voters == {N1}


def test_removed_node_cannot_become_the_cluster(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, [*ALL, ("remove", N1)])
    found = replay(journal, SnapshotStore(tmp_path), ClusterState())
    before = journal.last_index
    with pytest.raises(Conflict, match="was removed"):
        become_sole_voter(journal, found, N1, without=[N2, N3], command=COMMAND)
    assert journal.last_index == before


def test_replay_is_what_the_state_would_be(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, [("add", N1)])
    become_sole_voter(
        journal, replay(journal, SnapshotStore(tmp_path), ClusterState()), N1, without=[], command=COMMAND
    )
    state = ClusterState()
    found = replay(journal, SnapshotStore(tmp_path), state)
    assert isinstance(found, Replayed)
    assert state.counters.get("a") == 1
