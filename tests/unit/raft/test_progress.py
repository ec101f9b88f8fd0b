"""A leader's knowledge of a peer, state by state."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cyoloctl.raft.progress import NEVER, PROBE, REPLICATE, SNAPSHOT, Progress
from cyoloctl.raft.snapshot import SnapshotMeta, SnapshotStore, Transfer


def transfer(index: int, tmp_path: Path) -> Transfer:
    store = SnapshotStore(tmp_path)
    store.save(SnapshotMeta(index, 1, ("a",), ()), b"state")
    found = store.open_transfer()
    assert found is not None
    return found


def replicating(match: int = 5) -> Progress:
    progress = Progress(match + 1)
    progress.acknowledged(match)
    progress.go_on()
    return progress


def test_new_peer_is_probed_and_holds_nothing() -> None:
    progress = Progress(8)
    assert (progress.state, progress.next_index, progress.match_index) == (PROBE, 8, 0)
    assert progress.last_heard == NEVER


def test_acknowledgement_of_a_probed_peer_makes_it_replicate() -> None:
    progress = Progress(8)
    progress.probed = 8
    progress.acknowledged(7)
    progress.go_on()
    assert (progress.state, progress.next_index, progress.match_index, progress.probed) == (
        REPLICATE,
        8,
        7,
        0,
    )


def test_acknowledgement_that_was_overtaken_moves_nothing_back() -> None:
    progress = replicating(5)
    progress.acknowledged(3)
    assert (progress.next_index, progress.match_index) == (6, 5)


def test_window_is_freed_by_what_is_acknowledged_and_by_no_more() -> None:
    progress = replicating(5)
    progress.sent(7, 100)
    progress.sent(9, 40)
    assert (progress.next_index, progress.inflight_bytes) == (10, 140)
    progress.acknowledged(8)
    progress.go_on()
    assert progress.inflight_bytes == 40
    progress.acknowledged(9)
    progress.go_on()
    assert progress.inflight_bytes == 0


@pytest.mark.parametrize(("wanted", "next_index"), [(1, 6), (7, 7), (12, 10)])
def test_rejection_of_a_replicating_peer_probes_it_between_match_and_next(
    wanted: int, next_index: int
) -> None:
    progress = replicating(5)
    progress.sent(9, 40)
    progress.rejected(wanted)
    assert (progress.state, progress.next_index, progress.inflight_bytes) == (PROBE, next_index, 0)


def test_rejection_of_a_probed_peer_never_goes_below_entry_two() -> None:
    progress = Progress(8)
    progress.rejected(0)
    assert (progress.state, progress.next_index) == (PROBE, 2)


def test_restart_looks_first_at_what_it_held_and_counts_it_for_nothing() -> None:
    progress = replicating(5)
    progress.sent(9, 40)
    progress.restart(20)
    assert (progress.state, progress.next_index, progress.match_index) == (PROBE, 6, 0)
    unknown = Progress(3)
    unknown.restart(20)
    assert unknown.next_index == 21


def test_snapshot_lasts_until_the_peer_holds_its_index(tmp_path: Path) -> None:
    progress = replicating(5)
    sending = progress.become_snapshot(transfer(9, tmp_path))
    progress.acknowledged(7)
    progress.go_on()
    assert (progress.state, progress.sending) == (SNAPSHOT, sending)
    progress.acknowledged(9)
    progress.go_on()
    assert (progress.state, progress.sending, progress.next_index) == (REPLICATE, None, 10)


def test_snapshot_that_is_given_up_closes_its_file(tmp_path: Path) -> None:
    for give_up in (Progress.stop_sending, Progress.reset, Progress.become_probe):
        progress = replicating(5)
        file = io.BytesIO(b"snapshot")
        progress.become_snapshot(Transfer(file, SnapshotMeta(9, 1, ("a",), ()), 8, "", "s"))
        give_up(progress)
        assert (progress.state, progress.sending) == (PROBE, None)
        assert file.closed


def test_refused_snapshot_pauses_longer_each_time_and_tells_a_reason_once(tmp_path: Path) -> None:
    progress = replicating(5)
    told, pauses = [], []
    for now in (0.0, 10.0, 20.0, 30.0):
        progress.become_snapshot(transfer(9, tmp_path))
        told.append(progress.refuse("too new", now, first_s=1.0, last_s=3.0))
        assert progress.refused is not None
        pauses.append(progress.refused.until - now)
    assert told == [True, False, False, False]
    assert pauses == [1.0, 2.0, 3.0, 3.0]
    assert progress.refuse("damaged", 40.0, first_s=1.0, last_s=3.0)
    progress.acknowledged(9)
    assert progress.refused is None


def test_voter_that_never_answered_counts_from_when_it_became_one() -> None:
    progress = Progress(8)
    progress.count_as_voter(4.0)
    progress.count_as_voter(9.0)
    assert progress.last_heard == 4.0
