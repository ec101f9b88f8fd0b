"""Messages of peers: what correct nodes say comes back as it was, and everything else is refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from cyoloctl.model import RaftId
from cyoloctl.raft import messages
from cyoloctl.raft.messages import (
    MAX_CALL_BYTES,
    FrameReader,
    Outgoing,
    PeerProtocolError,
    decode,
    encode,
)

N2, N3 = RaftId("n2.a"), RaftId("n3.b")
PONG: dict[str, Any] = {
    "type": "pong",
    "sent_ms": 1,
    "wall_unix_ms": 1_780_000_000_000,
    "epoch": 0,
    "cluster_unix_ms": 1_780_000_000_000,
    "info": {"release": "1", "lag": 0.5, "ready": True, "why": None},
    "links": ["n1", "n2"],
    "addresses": {"n1": "10.0.0.1:7000"},
    "voters": ["n1", "n2", "n3"],
}
ENTRIES: dict[str, Any] = {
    "type": "append_entries",
    "term": 5,
    "leader_commit": 3,
    "prev_log_index": 3,
    "prev_log_term": 2,
    "entries": [(b"one", 4, 2), (b"two", 5, 4), (b"\0", 6, 5)],
}


def _frame(header: Any, tail: bytes = b"") -> bytes:
    """Without its length."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">I", len(head)) + head + tail


@pytest.mark.parametrize(
    "message",
    [
        PONG,
        ENTRIES,
        {"type": "forward", "id": 1, "commands": [b"a", b"", b"bc"], "after": [1, 2, 3]},
        {"type": "forward_result", "id": 1, "results": [b"x"], "last": True, "error": None},
        {"type": "read_index_result", "id": 1, "index": None},
        {"type": "call", "id": 1, "body": bytes(MAX_CALL_BYTES)},
        {"type": "heartbeat", "term": 2**63 - 1},
        {"type": "goodbye", "reason": "ü" * 1024},
    ],
    ids=lambda message: message["type"],
)
def test_message_comes_back_as_it_was(message: dict[str, Any]) -> None:
    assert decode(encode(message)[4:]) == message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sent_ms", True),
        ("sent_ms", -1),
        ("sent_ms", 2**63),
        ("sent_ms", 1.0),
        ("sent_ms", None),
        ("links", ["n" * 1025]),
        ("links", ["n"] * 16_385),
        ("links", [1]),
        ("links", "n1"),
        ("addresses", {"n1": 7000}),
        ("addresses", {f"n{number}": "n:1" for number in range(1025)}),
        ("info", {"lag": 2**63}),
        ("info", {"lag": [1]}),
        ("info", {str(number): 1 for number in range(65)}),
        ("info", []),
    ],
)
def test_message_with_a_field_of_another_form_is_refused(field: str, value: Any) -> None:
    with pytest.raises(PeerProtocolError, match=field):
        decode(_frame({**PONG, field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("links", ["n\ud800"]),
        ("addresses", {"n1\udfff": "n1:1"}),
        ("info", {"lag": float("nan")}),
        ("info", {"lag": float("inf")}),
        ("info", {"lag": float("-inf")}),
    ],
)
def test_what_is_no_json_of_any_utf8_is_refused(field: str, value: Any) -> None:
    with pytest.raises(PeerProtocolError, match="JSON"):
        decode(_frame({**PONG, field: value}))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_header_in_another_encoding_is_refused(encoding: str) -> None:
    header = json.dumps(PONG).encode(encoding)
    with pytest.raises(PeerProtocolError, match="JSON"):
        decode(len(header).to_bytes(4, "big") + header)


def test_number_beyond_any_float_is_refused() -> None:
    header = json.dumps({**PONG, "info": {"lag": 7}}).replace('"lag": 7', '"lag": 1e999').encode()
    with pytest.raises(PeerProtocolError, match="JSON"):
        decode(len(header).to_bytes(4, "big") + header)


@pytest.mark.parametrize("missing", ["term", "prev_log_index", "prev_log_term"])
@pytest.mark.parametrize("value", [None, "1", -1, 1.5])
def test_entries_without_their_place_are_refused(missing: str, value: Any) -> None:
    header = {
        "type": "append_entries",
        "term": 2,
        "leader_commit": 1,
        "prev_log_index": 1,
        "prev_log_term": 1,
        "entries": [[1, 2, 1]],
    }
    with pytest.raises(PeerProtocolError, match=missing):
        decode(_frame({**header, missing: value}, b"x"))


@pytest.mark.parametrize(
    ("header", "tail"),
    [
        ({"type": "call", "id": 1, "body": 4}, b"abc"),
        ({"type": "call", "id": 1, "body": 2}, b"abc"),
        ({"type": "call", "id": 1, "body": -1}, b"abc"),
        ({"type": "call", "id": 1, "body": "abc"}, b"abc"),
        ({"type": "forward", "id": 1, "commands": [1, 3], "after": [1, 1]}, b"abc"),
        ({"type": "forward", "id": 1, "commands": [1], "after": [1]}, b"abc"),
        ({"type": "forward", "id": 1, "commands": [0] * 65_537, "after": []}, b""),
        ({"type": "heartbeat", "term": 1}, b"abc"),
    ],
)
def test_message_whose_tail_does_not_fit_is_refused(header: dict[str, Any], tail: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        decode(_frame(header, tail))


@pytest.mark.parametrize(
    "shapes",
    [
        [[1, 5, 2], [2, 6, 2]],  # a gap
        [[1, 4, 2], [2, 6, 2]],
        [[1, 4, 2], [2, 4, 2]],
        [[1, 4, 1], [2, 5, 2]],  # below the term before
        [[1, 4, 4], [2, 5, 3]],
        [[1, 4, 2], [2, 5, 6]],  # above the message's
        [[0, 4, 2], [3, 5, 2]],  # empty
        [[3, 4]],
        [[3, 4, 2, 0]],
        [[3, 4, True]],
        "abc",
    ],
)
def test_entries_out_of_order_are_refused(shapes: Any) -> None:
    decode(_frame({**ENTRIES, "entries": [[1, 4, 2], [2, 5, 5]]}, b"abc"))
    with pytest.raises(PeerProtocolError):
        decode(_frame({**ENTRIES, "entries": shapes}, b"abc"))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0\0",
        struct.pack(">I", 1000) + b'{"type":"heartbeat","term":1}',
        _frame(b""),
        _frame(b"[" * 100_000),
        _frame(b"\xff"),
        _frame([1]),
        _frame({"term": 1}),
        _frame({"type": ["heartbeat"], "term": 1}),
        _frame({"type": "unheard of", "term": 1}),
        _frame({"type": "heartbeat"}),
        _frame({"type": "heartbeat", "turm": 1}),
        _frame({"type": "heartbeat", "term": 1, "more": 1}),
    ],
    ids=range(13),
)
def test_bytes_that_are_no_message_are_refused(frame: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        decode(frame)


def test_call_that_is_too_long_is_refused() -> None:
    with pytest.raises(PeerProtocolError, match="too long"):
        decode(encode({"type": "call", "id": 1, "body": bytes(MAX_CALL_BYTES + 1)})[4:])


def test_frame_of_the_limit_is_taken() -> None:
    reader = FrameReader(10)
    stream = struct.pack(">I", 10) + b"0123456789" + struct.pack(">I", 3) + b"abc"
    frames = [frame for byte in stream for frame in reader.feed(bytes([byte]))]
    assert frames == [b"0123456789", b"abc"]


def test_frame_over_the_limit_is_refused_before_it_is_buffered() -> None:
    with pytest.raises(PeerProtocolError, match="limit of 10"):
        FrameReader(10).feed(struct.pack(">I", 11))


HELLO: dict[str, Any] = {
    "type": "hello",
    "version": 3,
    "cluster_id": "c" * 32,
    "name": "n2",
    "raft_id": "n2",
    "boot": "b",
    "boots": 1,
    "address": "h:1",
    "release": "1",
    "term": 1,
    "last_index": 1,
}


def test_hello_of_a_later_release_is_understood_as_far_as_it_can_be() -> None:
    assert decode(encode(HELLO)[4:]) == {**HELLO, "level": 1}
    assert decode(encode({**HELLO, "level": 2, "mood": ["good"]})[4:]) == {**HELLO, "level": 2}


@pytest.mark.parametrize("broken", [{"level": "2"}, {"level": -1}, {"level": None}, {"term": None}])
def test_hello_with_a_field_that_is_malformed_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(PeerProtocolError):
        decode(encode({**HELLO, **broken})[4:])


def test_hello_that_lacks_a_field_is_refused() -> None:
    with pytest.raises(PeerProtocolError):
        decode(_frame({name: value for name, value in HELLO.items() if name != "release"}))


def test_what_goes_out_is_in_order_and_a_message_for_several_is_encoded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[Any] = []

    def counted(message: dict[str, Any]) -> bytes:
        encoded.append(message["type"])
        return encode(message)

    monkeypatch.setattr(messages, "encode", counted)
    heartbeat = {"type": "heartbeat", "term": 1}
    outgoing = Outgoing()
    outgoing.add(N2, ENTRIES)
    outgoing.add(N3, ENTRIES)
    outgoing.add(N2, heartbeat)
    assert outgoing.take() == [(N2, encode(ENTRIES) + encode(heartbeat)), (N3, encode(ENTRIES))]
    assert encoded == ["append_entries", "heartbeat"]
    assert outgoing.take() == []


def test_equal_messages_that_are_two_are_encoded_each() -> None:
    outgoing = Outgoing()
    message = {"type": "heartbeat", "term": 1}
    outgoing.add(N2, message)
    message = {"type": "heartbeat", "term": 2}
    outgoing.add(N2, message)
    ((_, frames),) = outgoing.take()
    assert [decode(frame)["term"] for frame in FrameReader().feed(frames)] == [1, 2]


@pytest.mark.parametrize("cut", range(1, 20))
def test_frame_that_comes_alone_is_that_which_comes_in_pieces(cut: int) -> None:
    frame = encode({"type": "heartbeat", "term": 1})
    whole, pieces = FrameReader(), FrameReader()
    assert whole.feed(frame) == [*pieces.feed(frame[:cut]), *pieces.feed(frame[cut:])]
    # And again, after one that came whole, and after one that did not.
    assert whole.feed(frame[:cut]) == []
    assert whole.feed(frame[cut:] + frame) == [frame[4:], frame[4:]]
    assert whole.feed(frame) == pieces.feed(frame) == [frame[4:]]


def test_frame_that_comes_alone_is_bounded_too() -> None:
    frame = encode({"type": "heartbeat", "term": 1})
    assert FrameReader(len(frame) - 4).feed(frame) == [frame[4:]]
    with pytest.raises(PeerProtocolError, match="limit"):
        FrameReader(len(frame) - 5).feed(frame)


def test_end_of_a_frame_that_looks_like_one_is_its_end() -> None:
    inner = encode({"type": "heartbeat", "term": 1})
    outer = struct.pack(">I", 2 + len(inner)) + b"ab" + inner
    reader = FrameReader()
    assert reader.feed(outer[:6]) == []
    assert reader.feed(inner) == [b"ab" + inner]
