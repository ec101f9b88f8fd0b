"""Peer messages as bytes: protocol ``cyoloctl-raft/3``.

A frame is the length of what follows (4 bytes, big-endian), the length of the
header (4 bytes), the header (a JSON object, UTF-8) and a tail of raw bytes.
The header's ``type`` decides its fields; long byte strings travel in the tail
and the header holds their lengths.  Decoding builds nothing but dicts, lists,
strings, integers, booleans, None and bytes (row 25: no pickle).

Any bytes give a message or `PeerProtocolError`, nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from cyoloctl.fastjson import compact_bytes
from cyoloctl.fastjson import decode as decode_json
from cyoloctl.model import RaftId

__all__ = [
    "MAX_CALL_BYTES",
    "MAX_FRAME_BYTES",
    "MESSAGE_TYPES",
    "FrameReader",
    "Message",
    "Outgoing",
    "PeerProtocolError",
    "decode",
    "encode",
]

MAX_FRAME_BYTES = 4 * 2**20
"""Above the largest batch (1 MiB), with room for a single largest entry and the headers."""

MAX_CALL_BYTES = 256 * 1024
"""Body of a call or reply.  A thousand calls may wait for their answers at once."""

_MAX_INTEGER = 2**63 - 1
_MAX_ITEMS = 65_536
_PREFIX = struct.Struct(">II")

Message = dict[str, Any]

_GROWING: dict[str, Message] = {"hello": {"level": 1}}
"""Messages that nodes of two releases exchange before they know of each other what each understands.

Fields that this release does not know are left aside; by name, what is left
out, and what it stands for then.
"""


class PeerProtocolError(Exception):
    """Bytes that are no message.  The link ends; the node goes on."""


def _integer(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_INTEGER


def _integer_or_none(value: Any) -> bool:
    return value is None or _integer(value)


def _boolean(value: Any) -> bool:
    return type(value) is bool


def _text(value: Any) -> bool:
    return type(value) is str and len(value) <= 1024


def _text_or_none(value: Any) -> bool:
    return value is None or _text(value)


def _texts(value: Any) -> bool:
    return type(value) is list and len(value) <= 16_384 and all(_text(item) for item in value)


def _addresses(value: Any) -> bool:
    return (
        type(value) is dict
        and len(value) <= 1024
        and all(_text(name) and _text(address) for name, address in value.items())
    )


def _integers(value: Any) -> bool:
    return type(value) is list and len(value) <= _MAX_ITEMS and all(map(_integer, value))


def _plain(value: Any) -> bool:
    if type(value) is int:
        return -_MAX_INTEGER <= value <= _MAX_INTEGER
    return value is None or type(value) in (bool, float) or _text(value)


def _flat_object(value: Any) -> bool:
    return (
        type(value) is dict
        and len(value) <= 64
        and all(_text(key) and _plain(item) for key, item in value.items())
    )


# Kinds whose bytes travel in the tail.
_ENTRIES, _BLOBS, _BLOB = "entries", "blobs", "blob"

_Kind = Callable[[Any], bool] | str

MESSAGE_TYPES: dict[str, dict[str, _Kind]] = {
    # Links.
    "hello": {
        "version": _integer,
        "cluster_id": _text,
        "name": _text,
        "raft_id": _text,
        "boot": _text,
        "boots": _integer,
        "address": _text,
        "release": _text,
        "term": _integer,
        "last_index": _integer,
        "level": _integer,
    },
    "goodbye": {"reason": _text},
    "ping": {"sent_ms": _integer},
    "pong": {
        "sent_ms": _integer,
        "wall_unix_ms": _integer,
        "epoch": _integer,
        "cluster_unix_ms": _integer,
        "info": _flat_object,
        "links": _texts,
        "addresses": _addresses,
        "voters": _texts,
    },
    "call": {"id": _integer, "body": _BLOB},
    "reply": {"id": _integer, "body": _BLOB},
    # Raft.
    "append_entries": {
        "term": _integer,
        "leader_commit": _integer,
        "prev_log_index": _integer,
        "prev_log_term": _integer,
        "entries": _ENTRIES,
    },
    "append_response": {"term": _integer, "next_index": _integer, "reset": _boolean, "success": _boolean},
    "request_vote": {"term": _integer, "last_log_index": _integer, "last_log_term": _integer},
    "vote_response": {"term": _integer},
    "pre_vote": {"term": _integer, "last_log_index": _integer, "last_log_term": _integer},
    "pre_vote_response": {"term": _integer, "granted": _boolean},
    "timeout_now": {"term": _integer},
    "heartbeat": {"term": _integer},
    "snapshot_chunk": {
        "term": _integer,
        "index": _integer,
        "snapshot_term": _integer,
        "voters": _texts,
        "removed": _texts,
        "total": _integer,
        "digest": _text,
        "offset": _integer,
        "data": _BLOB,
    },
    "snapshot_ack": {"term": _integer, "digest": _text, "offset": _integer},
    "snapshot_refused": {"term": _integer, "digest": _text, "reason": _text},
    "forward": {"id": _integer, "commands": _BLOBS, "after": _integers},
    "forward_result": {"id": _integer, "results": _BLOBS, "last": _boolean, "error": _text_or_none},
    "read_confirm": {"seq": _integer, "term": _integer},
    "read_confirmed": {"seq": _integer, "term": _integer},
    "read_index": {"id": _integer},
    "read_index_result": {"id": _integer, "index": _integer_or_none},
}


def encode(message: Message) -> bytes:
    """One frame of a message of `MESSAGE_TYPES`."""
    kind = message["type"]
    tail: list[bytes] = []
    if kind == "append_entries":
        entries = message["entries"]
        header = dict(message)
        header["entries"] = [[len(command), index, term] for command, index, term in entries]
        tail = [entry[0] for entry in entries]
    elif kind == "forward":
        header = dict(message)
        header["commands"] = [len(item) for item in message["commands"]]
        tail = message["commands"]
    elif kind == "forward_result":
        header = dict(message)
        header["results"] = [len(item) for item in message["results"]]
        tail = message["results"]
    elif kind == "snapshot_chunk":
        header = dict(message)
        header["data"] = len(message["data"])
        tail = [message["data"]]
    elif kind in ("call", "reply"):
        header = {"type": kind, "id": message["id"], "body": len(message["body"])}
        tail = [message["body"]]
    else:
        header = message
    head = compact_bytes(header)
    body = b"".join(tail) if tail else b""
    return b"".join((_PREFIX.pack(4 + len(head) + len(body), len(head)), head, body))


def _take(tail: bytes, lengths: Any) -> list[bytes]:
    if type(lengths) is not list or len(lengths) > _MAX_ITEMS:
        raise PeerProtocolError("a list of lengths is malformed")
    items = []
    position, end = 0, len(tail)
    for length in lengths:
        if type(length) is not int or not 0 <= length <= end - position:
            raise PeerProtocolError("a length does not fit the frame")
        items.append(tail[position : position + length])
        position += length
    if position != end:
        raise PeerProtocolError("the frame has bytes left over")
    return items


def _entries(tail: bytes, shapes: Any, header: Message) -> list[tuple[bytes, int, int]]:
    if type(shapes) is not list or len(shapes) > _MAX_ITEMS:
        raise PeerProtocolError("entries are malformed")
    lengths = []
    # Checked before: they come before the entries in `MESSAGE_TYPES`.
    previous, term, latest = header["prev_log_index"], header["prev_log_term"], header["term"]
    for shape in shapes:
        if type(shape) is not list or len(shape) != 3 or not all(map(_integer, shape)):
            raise PeerProtocolError("an entry is malformed")
        length, index, its_term = shape
        if index != previous + 1 or not term <= its_term <= latest or length < 1:
            raise PeerProtocolError("an entry is out of order")
        previous, term = index, its_term
        lengths.append(length)
    return [
        (command, shape[1], shape[2]) for command, shape in zip(_take(tail, lengths), shapes, strict=True)
    ]


def decode(frame: bytes) -> Message:
    """The message in a frame without its length prefix, checked field by field.

    Raises PeerProtocolError, and nothing else, for any other bytes.
    """
    if len(frame) < 4:
        raise PeerProtocolError("a frame is too short")
    size = int.from_bytes(frame[:4], "big")
    if size > len(frame) - 4:
        raise PeerProtocolError("a header is longer than its frame")
    try:
        # No NaN and no infinity, nor half a surrogate, which no UTF-8 can hold.
        header = decode_json(frame[4 : 4 + size])
    except (ValueError, RecursionError) as error:
        raise PeerProtocolError("a header is not JSON") from error
    if type(header) is not dict:
        raise PeerProtocolError("a header is not an object")
    kind = header.get("type")
    fields = MESSAGE_TYPES.get(kind) if type(kind) is str else None
    if fields is None:
        raise PeerProtocolError("unknown message type")
    if kind in _GROWING:
        known = {name: value for name, value in header.items() if name in fields or name == "type"}
        header = _GROWING[kind] | known
    if len(header) != len(fields) + 1:
        raise PeerProtocolError("fields are missing or unknown")
    tail = frame[4 + size :]
    took_tail = False
    for name, check in fields.items():
        if name not in header:
            raise PeerProtocolError("a field is missing")
        value = header[name]
        if check is _integer and type(value) is int and 0 <= value <= _MAX_INTEGER:
            pass  # what most are, without a call
        elif check is _ENTRIES:
            header[name] = _entries(tail, value, header)
            took_tail = True
        elif check is _BLOBS:
            header[name] = _take(tail, value)
            took_tail = True
        elif check is _BLOB:
            header[name] = _take(tail, [value])[0]
            if name == "body" and value > MAX_CALL_BYTES:
                raise PeerProtocolError("a call or reply is too long")
            took_tail = True
        elif not callable(check) or not check(value):
            raise PeerProtocolError(f"field {name} is malformed")
    if tail and not took_tail:
        raise PeerProtocolError("the frame has bytes left over")
    return header


class FrameReader:
    """Cuts a stream of bytes into frames.  Sans-io."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._max = max_frame_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now, without their length prefix.

        Raises PeerProtocolError when a length is over the limit: nothing of
        that size is ever buffered.
        """
        buffer = self._buffer
        if not buffer and len(data) >= 4 and len(data) - 4 == int.from_bytes(data[:4], "big") <= self._max:
            return [data[4:]]  # one frame came, alone and whole
        buffer += data
        frames = []
        position = 0
        while len(buffer) - position >= 4:
            size = int.from_bytes(buffer[position : position + 4], "big")
            if size > self._max:
                raise PeerProtocolError(f"a frame of {size} bytes is over the limit of {self._max}")
            if len(buffer) - position - 4 < size:
                break
            frames.append(bytes(buffer[position + 4 : position + 4 + size]))
            position += 4 + size
        if position:
            del buffer[:position]
        return frames


class Outgoing:
    """What is to be sent to each peer at once.  A message that goes to one after another is encoded once."""

    def __init__(self) -> None:
        self._frames: dict[RaftId, list[bytes]] = {}
        self._latest: tuple[Message, bytes] = {}, b""

    def add(self, raft_id: RaftId, message: Message) -> None:
        """A message to a peer; neither may change until it was taken."""
        latest, frame = self._latest
        if message is not latest:
            frame = encode(message)
            self._latest = message, frame
        self._frames.setdefault(raft_id, []).append(frame)

    def take(self) -> list[tuple[RaftId, bytes]]:
        """The frames for each peer, in the order in which they were added; none is left."""
        taken = [(raft_id, b"".join(frames)) for raft_id, frames in self._frames.items()]
        self._frames, self._latest = {}, ({}, b"")
        return taken
