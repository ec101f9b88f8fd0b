"""The decisions of the links, as pure functions of what comes: no socket, no clock.

More than 700 lines, as its module is: every decision of the links has its test, over one wire in memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from cyoloctl.errors import CyoloctlError, InternalError, NoLeader, OutcomeUnknown, Unavailable
from cyoloctl.raft.disks import DiskState
from cyoloctl.raft.links import Link, Links
from cyoloctl.raft.messages import MAX_CALL_BYTES, MAX_FRAME_BYTES, FrameReader, decode, encode
from cyoloctl.raft.peers import (
    DISK_FAILED,
    LEFT_BEHIND,
    OLDER,
    PROTOCOL_VERSION,
    Hello,
    PeerIdentity,
    Pong,
)
from cyoloctl.raft.vantage import View

_CLUSTER = "c" * 32


class Line:
    """A wire that keeps what was written."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.bytes = b""
        self.ended: list[str] = []
        self.unsent = 0
        self._reader = FrameReader()

    def write(self, data: bytes, /) -> None:
        assert not self.ended, "written to a closed connection"
        self.bytes += data
        self.sent += map(decode, self._reader.feed(data))

    def close(self) -> None:
        self.ended.append("close")

    def abort(self) -> None:
        self.ended.append("abort")

    def is_closing(self) -> bool:
        return bool(self.ended)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def kinds(self) -> list[str]:
        """Kinds of the messages sent, except pings."""
        return [message["type"] for message in self.sent if message["type"] != "ping"]


class Host:
    """A node's links, with what they told and asked in `events`."""

    def __init__(
        self, name: str, *, boot: str = "1", raft_id: str = "", removed: tuple[str, ...] = ()
    ) -> None:
        self.now, self.wall = 100.0, 1e9
        self.removed = set(removed)
        self.left_behind: set[str] = set()
        self.refuses: dict[str, str] = {}
        self.events: list[tuple[Any, ...]] = []
        self.pongs: list[tuple[str, Pong]] = []
        self.dialled: list[tuple[float, str, str]] = []
        self.serving: list[tuple[Link, int, bytes]] = []
        self.woken = 0
        self.jitter = 0.5
        self.links = Links(
            PeerIdentity(name, raft_id or name, _CLUSTER, boot, f"{name}:1", "1"),
            self,
            dial=lambda peer, address: self.dialled.append((self.now, peer, address)),
            serve=lambda *call: self.serving.append(call),
            wake=self._woken,
            clock=lambda: self.now,
            wall_clock=lambda: self.wall,
            jitter=lambda: self.jitter,
            first_call=7,
            max_unsent_bytes=1000,
        )

    def _woken(self) -> None:
        self.woken += 1

    def on_peer_connected(self, raft_id: str, /) -> None:
        self.events.append(("connected", raft_id))

    def on_peer_disconnected(self, raft_id: str, /) -> None:
        self.events.append(("disconnected", raft_id))

    def on_peer_message(self, raft_id: str, message: dict[str, Any], /) -> None:
        self.events.append((message["type"], raft_id))

    def removal(self, raft_id: str, /) -> str | None:
        return LEFT_BEHIND if raft_id in self.left_behind else "removed" if raft_id in self.removed else None

    def refusal(self, said: Hello, /) -> str | None:
        return self.refuses.get(said.name)

    def on_refused(self, name: str, reason: str, /) -> None:
        self.events.append((reason, name))

    def progress(self) -> tuple[int, int]:
        return 3, 17

    def voters(self) -> list[str]:
        return ["a", "b"]

    def describe(self) -> dict[str, Any]:
        return {"load": 1}

    def cluster_time(self) -> tuple[int, int]:
        return 3, 10**12 + 1

    def on_pong(self, raft_id: str, pong: Pong, /) -> None:
        self.pongs.append((raft_id, pong))

    def open(self, name: str | None, expected: str | None = None) -> tuple[Link, Line]:
        line = Line()
        return self.links.opened(line, name, expected=expected), line

    def meet(self, name: str, expected: str | None = None, **changes: Any) -> tuple[Link, Line]:
        """A connection whose other end says hello."""
        link, line = self.open(name, expected)
        link.received(hello(name, **changes))
        return link, line

    def pass_time(self, seconds: float) -> None:
        """Tick at every deadline until then."""
        end = self.now + seconds
        while (due := self.links.next_deadline()) <= end:
            self.now = max(self.now, due)
            self.links.tick()
            assert self.links.next_deadline() > self.now, "what was due is still to do"
        self.now = end


def hello(name: str, /, **changes: Any) -> bytes:
    return encode(
        {
            "type": "hello",
            "version": PROTOCOL_VERSION,
            "cluster_id": _CLUSTER,
            "name": name,
            "raft_id": name,
            "boot": "1",
            "boots": 0,
            "address": f"{name}:1",
            "release": "1",
            "term": 0,
            "last_index": 0,
        }
        | changes
    )


def pong(sent_ms: int, **changes: Any) -> bytes:
    return encode(
        {
            "type": "pong",
            "sent_ms": sent_ms,
            "wall_unix_ms": 0,
            "epoch": 0,
            "cluster_unix_ms": 0,
            "info": {},
            "links": [],
            "addresses": {},
            "voters": [],
        }
        | changes
    )


HEARTBEAT = encode({"type": "heartbeat", "term": 1})
REMOVED = encode({"type": "goodbye", "reason": "removed"})


# -- who is admitted ---------------------------------------------------------------------------


def test_hello_of_a_peer_makes_a_link_and_its_messages_are_delivered() -> None:
    host = Host("b")
    link, line = host.meet("a")
    link.received(HEARTBEAT)
    assert line.kinds() == ["hello"]
    assert host.events == [("connected", "a"), ("heartbeat", "a")]
    assert host.links.peers()["a"].address == "a:1"
    assert host.links.next_deadline() == 101.0  # the ping: no hello is awaited now


def test_hello_in_single_bytes_with_a_message_behind_it_is_the_same() -> None:
    host = Host("b")
    link, _ = host.open("a")
    for byte in hello("a") + HEARTBEAT:
        link.received(bytes([byte]))
    assert host.events == [("connected", "a"), ("heartbeat", "a")]


@pytest.mark.parametrize(
    ("name", "expected", "changes", "said", "reason"),
    [
        (None, None, {}, [], "no node certificate"),
        ("", None, {}, [], "no node certificate"),
        ("x", "a", {}, [], "expected a at this address, found x"),
        ("gone", None, {}, ["goodbye"], "removed"),
        ("gone", "gone", {}, ["goodbye"], "removed"),
        ("m", None, {"raft_id": "m~1"}, ["hello", "goodbye"], "removed"),
        ("a", None, {"version": 4}, ["hello", "goodbye"], "version 4"),
        ("a", None, {"cluster_id": "d" * 32}, ["hello"], "another cluster"),
        ("a", None, {"name": "c"}, ["hello"], "its certificate says 'a'"),
        ("b", None, {}, ["hello"], "own name"),
        ("a", None, {"raft_id": "c"}, ["hello"], "raft id"),
        ("a", None, {"raft_id": "ab~1"}, ["hello"], "raft id"),
    ],
)
def test_connection_that_breaks_a_rule_is_refused_and_nothing_of_it_is_delivered(
    name: str | None, expected: str | None, changes: dict[str, Any], said: list[str], reason: str
) -> None:
    host = Host("b", removed=("gone", "m~1"))
    link, line = host.open(name, expected)
    link.received(hello(name or "a", **changes) + HEARTBEAT)
    link.received(hello("a") + HEARTBEAT)
    assert line.kinds() == said
    assert line.ended
    assert reason in str(link.refused)
    host.pass_time(10.0)
    link.lost()
    assert host.events == []
    assert host.links.peers() == {}


def test_hello_of_another_life_of_a_removed_raft_id_is_admitted() -> None:
    # A member that keeps its log in memory has a new raft id with every start; its old one is removed.
    host = Host("b", removed=("m~1", "m~2"))
    host.meet("m", raft_id="m~3")
    assert host.events == [("connected", "m~3")]


@pytest.mark.parametrize(
    "data",
    [
        HEARTBEAT,
        encode({"type": "ping", "sent_ms": 1}),
        encode({"type": "call", "id": 1, "body": b""}),
        (MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x06\x00\x00\x00\x02{}",
    ],
    ids=["raft", "ping", "call", "too-long", "empty", "no-type"],
)
@pytest.mark.parametrize("live", [False, True], ids=["instead-of-hello", "in-a-link"])
def test_bytes_against_the_protocol_end_the_link_at_once(live: bool, data: bytes) -> None:
    host = Host("b")
    link, line = host.meet("a") if live else host.open("a")
    if live:
        data = b"\x00\x00\x00\x06\x00\x00\x00\x02{}" if len(data) > 20 else data
    link.received(data + HEARTBEAT)
    assert line.ended[-1] == "abort"
    assert "protocol error" in str(link.refused)
    assert ("heartbeat", "a") not in host.events
    assert host.serving == []


def test_peer_that_says_no_hello_is_refused_after_five_seconds() -> None:
    host = Host("b")
    link, line = host.open("a")
    host.pass_time(4.99)
    assert not line.ended
    host.pass_time(0.02)
    assert (line.ended, link.refused) == (["close"], "no hello in time")
    host.pass_time(10.0)
    assert line.ended == ["close"]


def test_hello_said_twice_changes_nothing() -> None:
    host = Host("b")
    link, line = host.meet("a")
    link.received(hello("a", raft_id="c", boot="2"))
    assert (link.raft_id, link.boot, line.ended) == ("a", "1", [])
    assert host.events == [("connected", "a")]


# -- the end of a link ----------------------------------------------------------------------


@pytest.mark.parametrize("live", [False, True], ids=["instead-of-hello", "in-a-link"])
@pytest.mark.parametrize(("reason", "told"), [("removed", True), ("whatever", False)])
def test_goodbye_ends_the_link_and_what_follows_it_is_not_delivered(
    reason: str, told: bool, live: bool
) -> None:
    host = Host("b")
    link, line = host.meet("a") if live else host.open("a")
    host.events.clear()
    link.received(encode({"type": "goodbye", "reason": reason}) + hello("a") + HEARTBEAT)
    link.received(HEARTBEAT)
    assert line.ended == ["close"]
    assert host.events == [("removed", "a")] * told
    link.lost()
    assert host.events == [("removed", "a")] * told + [("disconnected", "a")] * live


def test_disconnect_says_why_and_nothing_is_sent_or_delivered_after_it() -> None:
    host = Host("b")
    link, line = host.meet("a")
    host.links.disconnect("a", reason="removed")
    host.links.send_frames("a", HEARTBEAT)
    host.links.disconnect("a", reason="removed")
    link.received(HEARTBEAT)
    link.lost()
    assert line.kinds() == ["hello", "goodbye"]
    assert host.events == [("connected", "a"), ("disconnected", "a")]
    host.links.disconnect("a", reason="removed")


def test_send_frames_goes_to_the_live_link_of_that_raft_id_only() -> None:
    host = Host("b")
    _, line = host.meet("m", raft_id="m~2")
    for raft_id in ("m~1", "m", "x", "m~2"):
        host.links.send_frames(raft_id, HEARTBEAT)
    assert line.kinds() == ["hello", "heartbeat"]


def test_peer_that_reads_too_slowly_is_cut_off() -> None:
    host = Host("b")
    _, line = host.meet("a")
    line.unsent = 1000
    host.links.send_frames("a", HEARTBEAT)
    line.unsent = 1001
    host.links.send_frames("a", HEARTBEAT)
    assert line.kinds() == ["hello", "heartbeat"]
    assert line.ended == ["abort"]
    assert host.events == [("connected", "a")]  # its end is told when the wire reports it


def test_exception_of_the_handler_comes_out_for_the_caller_to_abort() -> None:
    class Broken(Host):
        def on_peer_message(self, raft_id: str, message: dict[str, Any], /) -> None:
            raise ZeroDivisionError

    link, _ = Broken("b").meet("a")
    with pytest.raises(ZeroDivisionError):
        link.received(HEARTBEAT)


def test_stop_ends_everything_and_tells_only_those_who_wait_for_answers() -> None:
    host = Host("b")
    host.links.dialling.set_addresses({"c": ["c:1"]})
    live, line = host.meet("a")
    waiting, other = host.open("d")
    answers: list[Any] = []
    host.links.call("a", b"?", lambda *answer: answers.append(answer))
    host.events.clear()
    host.links.stop()
    live.received(HEARTBEAT)
    live.lost()
    waiting.lost()
    host.pass_time(10.0)
    assert (line.ended, other.ended) == (["close"], ["close"])
    assert [type(error) for _, error in answers] == [OutcomeUnknown]
    assert host.events == []
    assert host.dialled == []


# -- two links with one peer ------------------------------------------------------------------


class Cable:
    """A connection of two hosts whose bytes are carried by hand."""

    def __init__(self, dialler: Host, other: Host) -> None:
        names = dialler.links.identity.name, other.links.identity.name
        self.lines = (Line(), Line())
        self.links = (
            dialler.links.opened(self.lines[0], names[1], expected=names[1]),
            other.links.opened(self.lines[1], names[0]),
        )
        self._carried = [0, 0]

    def carry(self, to: int) -> None:
        """Everything written so far by the other end."""
        data = self.lines[1 - to].bytes
        new, self._carried[to] = data[self._carried[to] :], len(data)
        if new:
            self.links[to].received(new)

    def settle(self) -> None:
        """The rest, then the ends."""
        for _ in range(2):
            for to in (0, 1):
                self.carry(to)
        if self.lines[0].ended or self.lines[1].ended:
            for link in self.links:
                link.lost()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_two_dials_at_once_both_ends_keep_the_one_of_the_smaller_name(order: tuple[int, ...]) -> None:
    a, b = Host("a"), Host("b")
    by_a, by_b = Cable(a, b), Cable(b, a)
    hellos: list[Callable[[], None]] = [
        lambda: by_a.carry(0),
        lambda: by_a.carry(1),
        lambda: by_b.carry(0),
        lambda: by_b.carry(1),
    ]
    for number in order:
        hellos[number]()
    by_b.settle()
    by_a.settle()
    assert [link.live for link in by_a.links] == [True, True]
    assert [link.live for link in by_b.links] == [False, False]
    for host, peer in ((a, "b"), (b, "a")):
        assert host.events in (
            [("connected", peer)],
            [("connected", peer), ("disconnected", peer), ("connected", peer)],
        )


@pytest.mark.parametrize(("own", "peer"), [("b", "a"), ("a", "b")])
@pytest.mark.parametrize("old_expected", [None, "peer"], ids=["came-in", "dialled"])
@pytest.mark.parametrize("new_expected", [None, "peer"], ids=["comes-in", "dials"])
@pytest.mark.parametrize("boot", ["1", "2"], ids=["same-process", "restarted"])
@pytest.mark.parametrize("closing", [False, True], ids=["old-open", "old-closing"])
def test_second_link_replaces_the_first_unless_the_smaller_name_dialled_that(
    own: str, peer: str, old_expected: str | None, new_expected: str | None, boot: str, closing: bool
) -> None:
    host = Host(own)
    old, old_line = host.meet(peer, old_expected and peer)
    if closing:
        host.links.disconnect(peer, reason="because")
    new, new_line = host.meet(peer, new_expected and peer, boot=boot)
    dialler = {None: peer, "peer": own}
    kept = dialler[old_expected] != dialler[new_expected] and dialler[old_expected] == "a"
    old_lives = kept and boot == "1" and not closing
    for link in (old, new):
        link.received(HEARTBEAT)
    replaced = [("disconnected", peer), ("connected", peer)]
    assert host.events == [("connected", peer), *(replaced if not old_lives else []), ("heartbeat", peer)]
    assert (old.live, new.live) == (old_lives, not old_lives)
    assert bool(old_line.ended) != bool(new_line.ended)
    (new if old_lives else old).lost()
    assert host.links.peers().keys() == {peer}


@pytest.mark.parametrize("dialled", [False, True], ids=["came-in", "dialled"])
def test_late_hello_of_a_process_that_ended_does_not_replace_its_successors_link(dialled: bool) -> None:
    host = Host("b")
    late, late_line = host.open("a", "a" if dialled else None)
    new, new_line = host.meet("a", boot="2")
    late.received(hello("a", boot="1") + HEARTBEAT)
    new.received(HEARTBEAT)
    assert (late.live, new.live) == (False, True)
    assert late_line.ended
    assert not new_line.ended
    assert host.events == [("connected", "a"), ("heartbeat", "a")]


def test_restarted_member_in_memory_is_another_raft_id_and_the_old_one_is_disconnected_first() -> None:
    host = Host("b")
    old, _ = host.meet("m", raft_id="m~1", boot="1")
    host.meet("m", raft_id="m~2", boot="2")
    old.received(HEARTBEAT)
    old.lost()
    assert host.events == [("connected", "m~1"), ("disconnected", "m~1"), ("connected", "m~2")]


# -- pings -----------------------------------------------------------------------------------


def test_ping_every_second_measures_the_trip_and_the_clock() -> None:
    host = Host("b")
    link, line = host.meet("a")
    host.pass_time(1.0)
    host.pass_time(0.04)
    assert line.sent[-1] == {"type": "ping", "sent_ms": 101_000}
    link.received(pong(101_000, wall_unix_ms=5000, epoch=2, cluster_unix_ms=7000, info={"x": 1}))
    info = host.links.peers()["a"]
    assert info.round_trip_ms == pytest.approx(40, abs=1)
    assert info.info == {"x": 1}
    assert host.pongs == [("a", Pong(5000, 2, 7000, pytest.approx(0.04, abs=0.001)))]
    link.received(pong(999_000))  # an answer before the question
    assert len(host.pongs) == 1


def test_ping_is_answered_with_the_own_clocks_and_description() -> None:
    host = Host("b")
    link, line = host.meet("a")
    link.received(encode({"type": "ping", "sent_ms": 5}))
    assert line.sent[-1] == {
        "type": "pong",
        "sent_ms": 5,
        "wall_unix_ms": 10**12,
        "epoch": 3,
        "cluster_unix_ms": 10**12 + 1,
        "info": {"load": 1},
        "links": ["a"],
        "addresses": {"a": "a:1"},
        "voters": ["a", "b"],
    }
    assert [kind for kind, _ in host.events] == ["connected"]


def test_silent_peer_is_cut_off_after_four_seconds_and_no_byte_keeps_it_longer() -> None:
    host = Host("b")
    link, line = host.meet("a")
    host.pass_time(3.0)
    link.received(HEARTBEAT[:1])
    host.pass_time(4.0)
    assert not line.ended
    host.pass_time(1.0)
    assert line.ended == ["abort"]
    link.received(HEARTBEAT[1:])
    link.lost()
    assert host.events == [("connected", "a"), ("disconnected", "a")]


def test_silent_peer_is_told_of_before_it_is_cut_off_and_its_link_counts_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host("b")
    host.meet("a")
    other, line = host.meet("c")
    for _ in range(31):
        host.pass_time(0.1)
        other.received(pong(int(host.now * 1000)))
    assert [record.message for record in caplog.records] == ["peer is silent"]
    assert vars(caplog.records[-1])["peer"] == "a"
    assert "link" in vars(caplog.records[-1])["reason"]
    assert {name: peer.silent for name, peer in host.links.peers().items()} == {"a": True, "c": False}
    other.received(encode({"type": "ping", "sent_ms": 5}))
    assert line.sent[-1]["links"] == ["c"]


def test_peer_that_is_heard_and_answers_no_ping_is_no_link_to_tell_of() -> None:
    # Its way to this node is open, and not the one back.
    host = Host("b")
    deaf, line = host.meet("a")
    for _ in range(31):
        host.pass_time(0.1)
        deaf.received(HEARTBEAT)
    assert not host.links.peers()["a"].silent
    deaf.received(encode({"type": "ping", "sent_ms": 5}))
    assert line.sent[-1]["links"] == []
    assert host.links.view().reached == set()
    deaf.received(pong(int(host.now * 1000), links=["b", "d"], info={"sync_ms": 7}))
    assert host.links.view() == View(
        frozenset({"a"}), {"a": frozenset({"b", "d"})}, disks={"a": DiskState(7.0)}
    )


def test_view_names_who_is_kept_out_here() -> None:
    host = Host("b")
    host.refuses["a"] = OLDER
    host.meet("a")
    assert host.links.view().kept_out == {"a"}


def test_peer_that_is_heard_again_is_silent_no_longer() -> None:
    host = Host("b")
    link, _ = host.meet("a")
    host.pass_time(3.0)
    assert host.links.peers()["a"].silent
    link.received(HEARTBEAT)
    host.pass_time(1.0)
    assert not host.links.peers()["a"].silent


def test_node_that_stood_still_says_so_and_blames_no_peer(caplog: pytest.LogCaptureFixture) -> None:
    host = Host("b")
    link, line = host.meet("a")
    host.pass_time(1.0)
    host.now += 6.0  # nothing ran, and nothing was read
    host.links.tick()
    assert [record.message for record in caplog.records] == ["this node stood still"]
    assert vars(caplog.records[-1])["for_s"] == 5.0
    assert not host.links.peers()["a"].silent
    assert not line.ended
    host.pass_time(1.0)  # what came meanwhile would have been read by now
    assert line.ended == ["abort"]
    link.lost()


def test_node_that_stops_tells_every_peer_what_stopped_it_and_they_keep_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host("b")
    lines = [host.meet(name)[1] for name in ("a", "c")]
    host.links.part(DISK_FAILED)
    assert [line.sent[-1] for line in lines] == [{"type": "goodbye", "reason": DISK_FAILED}] * 2
    assert [line.ended for line in lines] == [["close"], ["close"]]

    peer = Host("a")
    peer.links.dialling.set_addresses({"b": ("b:1",)})
    link, _ = peer.meet("b")
    link.received(encode({"type": "goodbye", "reason": DISK_FAILED}))
    link.lost()
    assert peer.links.dialling.farewells() == {"b": DISK_FAILED}
    assert ("peer says goodbye", DISK_FAILED) in [
        (record.message, vars(record).get("reason")) for record in caplog.records
    ]
    peer.meet("b", boot="2")
    assert peer.links.dialling.farewells() == {}


def test_node_that_parted_has_no_further_link_for_a_hello_would_say_that_it_came_back() -> None:
    host = Host("b")
    host.links.dialling.set_addresses({"c": ("c:1",), "d": ("d:1",)})
    _, live = host.meet("a")
    early, waiting = host.open("c")
    host.links.part(DISK_FAILED)
    assert waiting.kinds() == ["hello", "goodbye"]  # whose other end may have its link already
    early.received(hello("c"))
    late, refused = host.open("a")
    late.received(hello("a"))
    _, dialled = host.open("d", "d")
    assert [line.ended for line in (live, waiting, refused, dialled)] == [["close"]] * 4
    assert refused.sent == dialled.sent == []
    assert [kind for kind, *_ in host.events] == ["connected"]
    host.dialled.clear()
    host.pass_time(10.0)
    assert host.dialled == []


def test_goodbye_before_the_link_began_says_nothing_of_what_stopped_a_peer() -> None:
    host = Host("b")
    link, _ = host.open("a")
    link.received(encode({"type": "goodbye", "reason": DISK_FAILED}))
    assert host.links.dialling.farewells() == {}


# -- copies of a disk ------------------------------------------------------------------------


def _challenge(line: Line) -> int:
    """The number of the latest ping."""
    return [int(message["sent_ms"]) for message in line.sent if message["type"] == "ping"][-1]


@pytest.mark.parametrize("boots", [4, 5])
def test_process_that_started_no_later_than_the_present_one_is_a_copy_and_told_so(boots: int) -> None:
    host = Host("b")
    host.meet("a", boots=5, boot="first")
    link, line = host.meet("a", boots=boots, boot="copy", address="a:2")
    assert line.sent[-1] == {"type": "goodbye", "reason": "copy"}
    assert line.ended
    assert "another process" in str(link.refused)
    assert host.events == [("connected", "a")]
    assert [(found.name, found.reason, found.address) for found in host.links.refusals.lately()] == [
        ("a", "copy", "a:2")
    ]
    host.pass_time(31.0)
    assert host.links.refusals.lately() == []


def test_process_that_started_later_waits_and_is_a_copy_when_the_present_one_answers() -> None:
    host = Host("b")
    present, present_line = host.meet("a", boots=5, boot="first")
    present.received(pong(_challenge(present_line)))
    newcomer, line = host.meet("a", boots=6, boot="second")
    newcomer.received(HEARTBEAT)
    assert host.events == [("connected", "a")]
    present.received(
        pong(100_000)
    )  # an answer to an earlier ping, which a process that is gone may have sent
    assert not line.ended
    present.received(pong(_challenge(present_line)))
    assert line.sent[-1] == {"type": "goodbye", "reason": "copy"}
    assert not present_line.ended
    assert host.events == [("connected", "a")]


@pytest.mark.parametrize("how", ["silent", "lost"])
def test_process_that_started_later_takes_over_when_the_present_one_is_gone(how: str) -> None:
    host = Host("b")
    present, present_line = host.meet("a", boots=5, boot="first")
    newcomer, line = host.meet("a", boots=6, boot="second")
    newcomer.received(HEARTBEAT)
    host.pass_time(1.4)
    assert host.events == [("connected", "a")]
    if how == "lost":
        present_line.close()
        present.lost()
    else:
        host.pass_time(0.2)
        assert present_line.ended
    assert host.events == [("connected", "a"), ("disconnected", "a"), ("connected", "a"), ("heartbeat", "a")]
    assert not line.ended
    newcomer.received(HEARTBEAT)
    assert host.events[-1] == ("heartbeat", "a")
    assert host.links.last_process("a") == "second"


def test_newcomer_that_is_gone_when_it_may_begin_does_not_end_the_present_link() -> None:
    host = Host("b")
    _, present_line = host.meet("a", boots=5, boot="first")
    newcomer, line = host.meet("a", boots=6, boot="second")
    line.close()
    newcomer.lost()
    host.pass_time(2.0)
    assert not present_line.ended
    assert host.events == [("connected", "a")]


def test_newcomer_that_says_too_much_before_it_may_begin_is_refused() -> None:
    host = Host("b")
    host.meet("a", boots=5, boot="first")
    newcomer, line = host.meet("a", boots=6, boot="second")
    newcomer.received(HEARTBEAT * 10_001)
    assert line.ended
    assert host.events == [("connected", "a")]


@pytest.mark.parametrize("reason", ["copy", "older disk"])
def test_process_that_the_register_refuses_is_told_why(reason: str) -> None:
    host = Host("b")
    host.refuses["a"] = reason
    _, line = host.meet("a", boots=2)
    assert line.sent[-1] == {"type": "goodbye", "reason": reason}
    assert host.events == []


def test_node_that_a_recovery_left_behind_is_told_so() -> None:
    host = Host("b")
    host.left_behind.add("a")
    _, line = host.open("a")
    assert line.sent[-1] == {"type": "goodbye", "reason": LEFT_BEHIND}
    assert [(found.name, found.reason) for found in host.links.refusals.lately()] == [("a", LEFT_BEHIND)]


def test_refusals_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    host = Host("b", removed=("gone",))
    for _ in range(5):
        host.open("gone")
        host.now += 10.0
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    host.now += 60.0
    host.open("gone")
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 2


@pytest.mark.parametrize("version", [1, 2])
def test_peer_of_another_protocol_version_is_told_which_one_to_upgrade(version: int) -> None:
    host = Host("b")
    line = Line()
    link = host.links.opened(line, "a", version=version)
    link.received(hello("a"))
    assert line.kinds() == ["goodbye"]
    assert f"protocol version 3 is spoken here, not {version}: upgrade your node" in line.sent[0]["reason"]
    assert f"it speaks protocol version {version}" in str(link.refused)
    assert host.events == []


# -- addresses -------------------------------------------------------------------------------


def test_addresses_are_tried_in_turn_the_peers_own_word_first() -> None:
    host = Host("b")
    host.links.dialling.set_addresses({"c": ["log:1", "yaml:1"]})
    c, _ = host.meet("c", address="own:1")
    a, _ = host.meet("a")
    a.received(pong(100_000, addresses={"c": "told:1", "x": "x:1"}))
    c.lost()
    host.pass_time(8.0)
    while len(host.dialled) < 5:
        host.links.dialling.failed("c")
        host.pass_time(2.0)
        a.received(pong(100_000, addresses={"c": "told:1", "x": "x:1"}))
    assert [where for _, _, where in host.dialled[:5]] == ["own:1", "log:1", "yaml:1", "told:1", "own:1"]
    assert {name for _, name, _ in host.dialled} == {"c"}


def test_addresses_told_are_forgotten_with_the_link_that_told_them() -> None:
    host = Host("b")
    host.links.dialling.set_addresses({"c": ["log:1"]})
    a, _ = host.meet("a")
    a.received(pong(100_000, addresses={"c": "told:1"}))
    assert host.links.dialling.addresses() == {"c": ("log:1", "told:1")}
    a.lost()
    assert host.links.dialling.addresses() == {"c": ("log:1",)}


def test_pong_passes_on_what_peers_said_of_their_own_addresses_only() -> None:
    host = Host("b")
    host.links.dialling.set_addresses({"a": ["log:1"], "c": ["log:2"], "d": ["log:3"]})
    a, line = host.meet("a", address="own:1")
    c, _ = host.meet("c", address="own:2")
    a.received(pong(100_000, addresses={"d": "told:3"}, links=["b", "d"], voters=["a"]))
    c.lost()
    a.received(encode({"type": "ping", "sent_ms": 5}))
    assert line.sent[-1]["addresses"] == {"a": "own:1", "c": "own:2"}
    assert line.sent[-1]["links"] == ["a"]
    info = host.links.peers()["a"]
    assert (info.links, info.voters) == ({"b", "d"}, {"a"})


# -- calls -----------------------------------------------------------------------------------


Answers = list[tuple[bytes | None, CyoloctlError | None]]


def _asked(host: Host, peer: str, body: bytes = b"?") -> tuple[int, Answers]:
    answers: Answers = []
    return host.links.call(peer, body, lambda *answer: answers.append(answer)), answers


def _reply(identifier: int, body: bytes = b"!") -> bytes:
    return encode({"type": "reply", "id": identifier, "body": body})


def test_call_is_answered_once_by_the_peer_that_was_asked() -> None:
    host = Host("b")
    link, line = host.meet("a")
    other, _ = host.meet("c")
    identifier, answers = _asked(host, "a")
    assert line.sent[-1] == {"type": "call", "id": identifier, "body": b"?"}
    other.received(_reply(identifier, b"not mine"))
    link.received(_reply(identifier + 1))
    assert answers == []
    link.received(_reply(identifier) + _reply(identifier, b"again"))
    link.lost()
    assert answers == [(b"!", None)]


@pytest.mark.parametrize("how", ["lost", "replaced"])
def test_call_whose_link_ends_first_is_of_unknown_outcome(how: str) -> None:
    host = Host("b")
    link, _ = host.meet("a")
    host.meet("c")
    identifier, answers = _asked(host, "a")
    other_identifier, other = _asked(host, "c")
    if how == "lost":
        link.lost()
    else:
        link, _ = host.meet("a", boot="2")
    assert [type(error) for _, error in answers] == [OutcomeUnknown]
    link.received(_reply(identifier))
    assert (len(answers), other) == (1, [])
    assert identifier != other_identifier


def test_call_that_was_forgotten_is_not_answered() -> None:
    host = Host("b")
    link, _ = host.meet("a")
    identifier, answers = _asked(host, "a")
    host.links.forget(identifier)
    host.links.forget(identifier)
    link.received(_reply(identifier))
    link.lost()
    assert answers == []


def test_call_without_a_link_too_large_or_too_many_is_refused_before_it_is_sent() -> None:
    host = Host("b")
    with pytest.raises(NoLeader):
        _asked(host, "a")
    link, line = host.meet("a")
    with pytest.raises(InternalError):
        _asked(host, "a", bytes(MAX_CALL_BYTES + 1))
    for _ in range(1024):
        _asked(host, "a")
    with pytest.raises(Unavailable):
        _asked(host, "a")
    assert line.kinds() == ["hello"] + ["call"] * 1024
    link.close()
    with pytest.raises(NoLeader):
        _asked(host, "a")


def test_call_of_a_peer_is_served_and_its_answer_dropped_when_the_link_ended() -> None:
    host = Host("b")
    link, line = host.meet("a")
    link.received(encode({"type": "call", "id": 3, "body": b"q"}) * 3)
    assert [(identifier, body) for _, identifier, body in host.serving] == [(3, b"q")] * 3
    link.answer(3, b"r")
    link.answer(3, None)
    link.answer(3, bytes(MAX_CALL_BYTES + 1))
    assert line.sent[-1] == {"type": "reply", "id": 3, "body": b"r"}
    link.lost()
    line.close()
    link.answer(3, b"late")
    assert line.kinds() == ["hello", "reply"]


def test_calls_of_a_peer_beyond_the_bound_end_its_link() -> None:
    host = Host("b")
    link, line = host.meet("a")
    call = encode({"type": "call", "id": 3, "body": b"q"})
    link.received(call * 1024)
    assert not line.ended
    link.answer(3, None)
    link.received(call)
    assert not line.ended
    link.received(call)
    assert (len(host.serving), line.ended[-1]) == (1025, "abort")


# -- dialling --------------------------------------------------------------------------------


def test_dials_the_greater_name_waits_a_moment_and_nobody_dials_itself() -> None:
    host = Host("b")
    host.links.dialling.set_addresses({"a": ["a:1"], "b": ["b:1"], "c": ["c:1"]})
    assert host.woken > 0
    host.pass_time(0.0)
    assert host.dialled == [(100.0, "c", "c:1")]
    host.pass_time(0.5)
    assert host.dialled[1:] == [(100.05, "a", "a:1")]


def test_dial_that_fails_is_repeated_with_growing_pauses_at_the_latest_address() -> None:
    host = Host("a")
    failed, pauses = host.now, []
    for number in range(7):
        host.links.dialling.set_addresses({"b": [f"b:{number}"]})
        host.pass_time(5.0)
        assert len(host.dialled) == number + 1  # no second one while it is under way
        pauses.append(host.dialled[-1][0] - failed)
        assert host.dialled[-1][2] == f"b:{number}"
        failed = host.now
        host.links.dialling.failed("b")
    assert pauses == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(("jitter", "pause_s"), [(0.0, 0.05), (1.0, 0.15)])
def test_pause_before_the_next_dial_is_spread(jitter: float, pause_s: float) -> None:
    host = Host("a")
    host.jitter = jitter
    host.links.dialling.set_addresses({"b": ["b:1"]})
    host.pass_time(0.0)
    host.links.dialling.failed("b")
    assert host.links.next_deadline() == pytest.approx(100 + pause_s)


def test_dial_while_a_link_came_in_is_over_without_another() -> None:
    host = Host("a")
    host.links.dialling.set_addresses({"b": ["b:1"]})
    host.pass_time(0.0)
    host.meet("b")
    host.links.dialling.failed("b")
    host.pass_time(0.9)
    assert len(host.dialled) == 1


@pytest.mark.parametrize(("own", "pause_s"), [("a", 0.0), ("c", 0.4)])
def test_link_that_lasted_and_broke_is_dialled_again_soon(own: str, pause_s: float) -> None:
    host = Host(own)
    host.links.dialling.set_addresses({"b": ["b:1"]})
    host.pass_time(0.5)
    link, _ = host.meet("b", expected="b")
    host.pass_time(2.0)
    host.dialled.clear()
    link.lost()
    broke = host.now
    host.pass_time(0.5)
    assert [at for at, _, _ in host.dialled] == pytest.approx([broke + pause_s])


@pytest.mark.parametrize("how", ["hello-refused", "link-ended-at-once", "no-hello"])
def test_peer_that_ends_every_link_is_not_dialled_in_a_loop(how: str) -> None:
    host = Host("a")
    host.links.dialling.set_addresses({"b": ["b:1"]})
    for _ in range(200):
        host.pass_time(0.1)
        if host.dialled and host.dialled[-1][0] > host.now - 0.1 - 1e-9:
            link, line = host.open("b", "b")
            if how == "hello-refused":
                link.received(hello("b", version=9))
            elif how == "link-ended-at-once":
                link.received(hello("b") + REMOVED)
            else:
                line.close()
            link.lost()
    assert 15 < len(host.dialled) < 30  # in 20 s


def test_attempt_that_is_refused_by_the_hello_timeout_is_over() -> None:
    host = Host("a")
    host.links.dialling.set_addresses({"b": ["b:1"]})
    host.pass_time(0.0)
    link, line = host.open("b", "b")
    host.pass_time(5.5)
    assert line.ended == ["close"]
    assert len(host.dialled) == 1
    link.lost()
    host.pass_time(0.2)
    assert len(host.dialled) == 2


def test_retired_link_that_is_lost_late_does_not_start_a_second_dial() -> None:
    host = Host("a")
    host.links.dialling.set_addresses({"b": ["b:1"]})
    host.pass_time(0.0)
    old, _ = host.meet("b", expected="b")
    host.pass_time(2.0)
    new, _ = host.meet("b", boot="2")
    host.pass_time(2.0)
    new.lost()
    host.pass_time(0.0)
    assert len(host.dialled) == 2
    old.lost()
    host.pass_time(0.9)
    assert len(host.dialled) == 2  # the second attempt is still under way


def test_reason_why_a_peer_is_away_is_logged_once_per_change_and_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host("a")
    host.links.dialling.set_addresses({"b": ["b:1"]})
    for reason in (*["connection refused"] * 5, *["no answer within 3 s"] * 5):
        host.pass_time(2.0)
        host.links.dialling.failed("b", reason)
    host.pass_time(2.0)
    link, _ = host.open("b", "b")
    link.lost("TLS: certificate expired")  # the other end's word comes after the handshake
    host.pass_time(2.0)
    link, _ = host.open("b", "b")
    link.received(encode({"type": "goodbye", "reason": "ask for another certificate"}))
    link.lost()
    warned = [(r.__dict__["reason"], r.__dict__["address"]) for r in caplog.records if r.msg == "cannot dial"]
    assert warned == [
        ("connection refused", "b:1"),
        ("no answer within 3 s", "b:1"),
        ("TLS: certificate expired", "b:1"),
        ("it says: ask for another certificate", "b:1"),
    ]
    assert host.links.dialling.absences() == {"b": "b:1: it says: ask for another certificate"}
    host.meet("b")
    assert host.links.dialling.absences() == {}


def test_every_peer_was_tried_once_each_has_a_link_or_an_attempt_has_ended() -> None:
    host = Host("a")
    assert host.links.dialling.all_tried(["a"])  # there is nobody to ask
    assert not host.links.dialling.all_tried(
        ["a", "b"]
    )  # a voter whose address it has yet to find in its log
    host.links.dialling.set_addresses({"b": ["b:1"], "c": ["c:1"], "d": ["d:1"]})
    host.pass_time(0.0)
    assert not host.links.dialling.all_tried([])
    host.links.dialling.failed("b", "connection refused")
    host.meet("c")
    assert not host.links.dialling.all_tried([])
    link, _ = host.open("d", "d")  # connected, and it has not said yet whether it takes this process in
    assert not host.links.dialling.all_tried([])
    link.received(REMOVED)
    link.lost()
    assert host.links.dialling.all_tried(["a", "b", "c", "d"])
    assert not host.links.dialling.all_tried(["e"])


def test_peer_without_an_address_is_not_dialled_any_more() -> None:
    host = Host("a")
    host.links.dialling.set_addresses({"b": ["b:1"], "c": ["c:1"]})
    host.links.dialling.set_addresses({"c": ["c:2"]})
    host.pass_time(0.0)
    host.links.dialling.failed("b")
    assert host.dialled == [(100.0, "c", "c:2")]
    assert host.links.dialling.addresses() == {"c": ("c:2",)}
    link, _ = host.meet("b")
    link.lost()
    host.pass_time(5.0)
    assert {name for _, name, _ in host.dialled} == {"c"}


def test_next_deadline_is_never_past_once_ticked() -> None:
    host = Host("a")
    host.links.dialling.set_addresses({"b": ["b:1"]})
    host.open("c")
    for _ in range(100):
        host.now = host.links.next_deadline()
        host.links.tick()
        assert host.now < host.links.next_deadline() < math.inf
