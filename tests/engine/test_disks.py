"""What a disk that is slow or full costs the others: who leads, and what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import NoRoom, OutcomeUnknown
from cyoloctl.raft.disks import LASTING_S, DiskState
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.vantage import View
from tests.support.raft_ours import OurCluster

pytestmark = pytest.mark.fault

ALL = {name: frozenset("abc") - {name} for name in "abc"}


def sees(cluster: OurCluster, name: str, disks: dict[str, DiskState], **links: str) -> None:
    """What this node sees of the links and disks of the others; links: in place of all."""
    told = {other: ALL[other] for other in ALL[name]} | {k: frozenset(v) for k, v in links.items()}
    cluster.views[name] = View(frozenset(told), told, disks=disks)


def led_by_a(sync_ms: float | None, **options: Any) -> OurCluster:
    cluster = OurCluster("abc", **options)
    cluster.elect("a")
    cluster.write("a", b"x1")
    cluster.run(0.3)
    cluster.replica("a")._journal.sync_ms = lambda: sync_ms  # type: ignore[method-assign]
    return cluster


def test_leader_with_a_slow_disk_hands_over_to_the_fastest() -> None:
    cluster = led_by_a(100.0)
    sees(cluster, "a", {"b": DiskState(9.0), "c": DiskState(1.0)})
    cluster.run(LASTING_S - 0.3)
    assert cluster.is_leader("a")
    assert cluster.run_until(lambda: cluster.is_leader("c"), within=1.0)


def test_leader_with_a_slow_disk_stays_where_the_fast_one_reaches_fewer() -> None:
    cluster = led_by_a(100.0)
    sees(cluster, "a", {"b": DiskState(1.0)}, b="a", c="a")
    cluster.run(20.0)
    assert cluster.is_leader("a")


def test_leadership_stays_where_it_came_for_its_disk() -> None:
    """The next leader sees the slow disk of the one before, which reaches as much."""
    cluster = led_by_a(100.0)
    sees(cluster, "a", {"b": DiskState(1.0), "c": DiskState(200.0)})
    sees(cluster, "b", {"a": DiskState(100.0), "c": DiskState(200.0)})
    cluster.run_until(lambda: cluster.is_leader("b"), within=4.0)
    cluster.replica("b")._journal.sync_ms = lambda: 1.0  # type: ignore[method-assign]
    cluster.run(30.0)
    assert cluster.is_leader("b")


# -- disks without room --

SHORT = DiskState(1.0, True, 3 * 2**20)


def measured(cluster: OurCluster, name: str, *, short: bool, free_bytes: int | None = None) -> None:
    cluster.replica(name).room.measured(is_short=short, free_bytes=free_bytes)


def led(**options: Any) -> OurCluster:
    cluster = OurCluster("abc", **options)
    cluster.elect("a")
    assert cluster.write("a", b"x1")[0].ok
    cluster.run(0.3)
    return cluster


@pytest.mark.parametrize("window_bytes", [300, 2**23])
def test_follower_without_room_takes_no_commands_and_all_of_them_later(window_bytes: int) -> None:
    cluster = led(limits=Limits(keep_entries=0, window_bytes=window_bytes))
    measured(cluster, "c", short=True)
    before = cluster.log("c")
    outcomes = [cluster.propose("a", b"y%d" % number + bytes(90)) for number in range(12)]
    cluster.run(1.0)
    assert all(outcome.ok for outcome in outcomes)
    assert cluster.log("c") == before
    cluster.run(5.0)
    assert cluster.is_leader("a")  # who still hears of c, and c of it
    assert len([m for m in cluster.sent if m.target == "c" and m.message.get("entries")]) < 40
    measured(cluster, "c", short=False)
    assert cluster.run_until(lambda: cluster.state("c") == cluster.state("a"), within=1.0)


def test_follower_whose_log_is_all_snapshot_asks_for_what_it_left_out(tmp_path: Path) -> None:
    """The leader's window is full, so it sends nothing but heartbeats, which end where that log begins."""
    cluster = led(limits=Limits(keep_entries=0, window_bytes=1, batch_bytes=1), directory=tmp_path)
    cluster.compact("c")
    assert len(cluster.log("c")) == 1
    measured(cluster, "c", short=True)
    for command in (b"x2", b"x3"):
        assert cluster.write("a", command)[0].ok
    cluster.run(1.0)
    measured(cluster, "c", short=False)
    assert cluster.run_until(lambda: cluster.state("c") == cluster.state("a"), within=1.0)


def test_follower_takes_no_more_at_once_than_its_disk_has_room_for() -> None:
    cluster = led()
    measured(cluster, "c", short=False, free_bytes=2999)
    cluster.write("a", bytes(1100))
    cluster.run(0.5)
    assert len(cluster.state("c")) == 1
    measured(cluster, "c", short=False, free_bytes=2**20)
    assert cluster.run_until(lambda: len(cluster.state("c")) == 2, within=1.0)


def test_voter_without_room_votes_and_lets_the_next_leader_lead() -> None:
    cluster = led()
    measured(cluster, "c", short=True)
    assert cluster.write("a", b"x2")[0].ok  # which c has not
    cluster.run(0.3)
    cluster.crash("a")
    assert cluster.run_until(lambda: cluster.is_leader("b"), within=5.0)
    read = cluster.read("b")
    assert cluster.run_until(lambda: read.ok, within=1.0)
    assert cluster.state("b") == [b"x1", b"x2"]


def test_voter_without_room_takes_no_more_than_little_before_a_leaders_first_entry() -> None:
    cluster = led(limits=Limits(keep_entries=0, entry_bytes=2000))
    measured(cluster, "c", short=True)
    for _ in range(30):
        cluster.write("a", bytes(1000))
    cluster.run(0.3)
    cluster.crash("a")
    cluster.run(4.0)
    assert len(cluster.log("c")) < 10
    assert cluster.machines["c"].errors == []


def test_leader_whose_disk_runs_short_hands_over_to_a_voter_that_has_room() -> None:
    cluster = led()
    sees(cluster, "a", {"b": SHORT, "c": DiskState(9.0, False, 2**30)})
    measured(cluster, "a", short=True)
    waiting = cluster.propose("a", b"x2")
    assert cluster.run_until(lambda: cluster.is_leader("c"), within=1.0)
    # Nobody of a and b has room, as c is told now.
    sees(cluster, "c", {"a": DiskState(1.0), "b": SHORT})
    measured(cluster, "a", short=False)
    assert cluster.run_until(lambda: waiting.ok, within=2.0)


def test_leader_whose_disk_runs_short_tries_the_next_voter_when_the_first_is_lost() -> None:
    cluster = led()
    sees(cluster, "a", {"b": DiskState(1.0), "c": DiskState(9.0)})
    cluster.hold("a", "b")
    measured(cluster, "a", short=True)
    cluster.run(0.3)
    assert cluster.is_leader("a")
    cluster.disconnect("a", "b")
    assert cluster.run_until(lambda: cluster.is_leader("c"), within=1.0)


def test_leader_refuses_what_finds_no_room_on_a_majority_and_names_the_disks() -> None:
    cluster = led()
    sees(cluster, "a", {"b": SHORT, "c": DiskState(1.0, True, None)})
    cluster.run(0.3)
    own, forwarded = cluster.propose("a", b"x2"), cluster.propose("c", b"x3")
    assert cluster.run_until(lambda: not (own.pending or forwarded.pending), within=0.5)
    for outcome in (own, forwarded):
        assert type(outcome.error) is NoRoom
        assert outcome.error.message == (
            "the disk of b has 3 MiB left and the disk of c is full, too little for new writes: make space "
            "there, then repeat the command"
        )
    assert len(cluster.log("a")) == len(cluster.log("b")) == len(cluster.log("c"))
    sees(cluster, "a", {"b": SHORT, "c": DiskState(1.0, False, 2**30)})
    cluster.run(0.3)
    assert cluster.write("a", b"x4")[0].ok


def test_leader_without_room_refuses_where_nobody_else_has_any() -> None:
    cluster = led()
    sees(cluster, "a", {"b": SHORT, "c": SHORT})
    measured(cluster, "a", short=True, free_bytes=2**12)
    own = cluster.propose("a", b"x2")
    cluster.run(0.3)
    assert own.pending  # another one might take over in a moment
    assert cluster.run_until(lambda: not own.pending, within=1.0)
    assert type(own.error) is NoRoom
    assert own.error.message.startswith("the disk of a has 4 KiB left and the disk of b has 3 MiB left and")
    assert cluster.is_leader("a")


def test_refusal_of_a_write_that_was_sent_before_leaves_it_unknown() -> None:
    cluster = led()
    cluster.hold("a", "b")
    cluster.hold("a", "c")
    waiting = cluster.propose("c", b"x2")
    cluster.run(0.05)  # a has logged it, and nobody knows
    cluster.crash("a")
    sees(cluster, "b", {"c": SHORT, "a": SHORT})
    cluster.elect("b")
    assert cluster.run_until(lambda: not waiting.pending, within=5.0)
    assert type(waiting.error) is OutcomeUnknown
    assert "may or may not have been applied" in waiting.error.message


def test_peers_refusal_is_cut_to_what_can_be_shown() -> None:
    cluster = led()
    mark = len(cluster.sent)
    cluster.hold("b", "a")
    waiting = cluster.propose("b", b"x2")
    cluster.tick("b")
    (forward,) = [e.message for e in cluster.sent[mark:] if e.message["type"] == "forward"]
    answer = {"type": "forward_result", "id": forward["id"], "results": [], "last": True}
    cluster.inject("b", "a", answer | {"error": "no room: \x1b[2J"})
    cluster.tick("b")
    assert type(waiting.error) is NoRoom
    assert waiting.error.message == "a member's disk has too little space left"


def test_message_of_which_a_part_was_logged_is_not_refused() -> None:
    """Of two commands in one message the leader logged the first before its look at the disks."""
    cluster = led(limits=Limits(keep_entries=0, entry_bytes=2000))
    mark = len(cluster.sent)
    forward = {"type": "forward", "id": 7, "commands": [b"x2", b"x3"], "after": [1, 1]}
    cluster.hold("a", "b")
    cluster.inject("a", "c", forward)
    replica = cluster.replica("a")
    first, second = list(replica._pending._items)
    first.settle(b"done", None)
    replica._forwarding.refuse("the disk of b is full")
    cluster.tick("a")
    assert second.cancelled
    answers = [e.message for e in cluster.sent[mark:] if e.message["type"] == "forward_result"]
    assert [(answer["id"], answer["error"]) for answer in answers] == [(7, "not_leader")]


def test_leadership_goes_to_no_disk_without_room_for_the_sake_of_links() -> None:
    cluster = led()
    told = {"b": frozenset("ac")}
    cluster.views["a"] = View(frozenset("b"), told, disks={"b": SHORT})
    cluster.run(20.0)
    assert cluster.is_leader("a")
