"""A member's own certificate in hostile hands: real nodes, thousands of frames that no node would send.

What a member may do to the data is not tested here: it may write, vote and lead (docs/security.md).  So a
log of its own making (`append_entries` that a node would follow) is left out.
"""

from __future__ import annotations

import contextlib
import ssl
import struct
from collections.abc import Iterator
from hashlib import sha256
from random import Random
from typing import Any

import pytest

from cyoloctl.pki.files import PKI_DIRECTORY
from cyoloctl.raft.messages import MESSAGE_TYPES, PeerProtocolError, decode, encode
from cyoloctl.replicated.command import encode_command
from tests.fuzz.mutate import mutate
from tests.fuzz.targets import example
from tests.support.cluster import (
    Cluster,
    Node,
    rss_kib,
    wait_until,
)
from tests.support.connections import Peer, cluster_id_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

_FRAMES = 2_000
_MALFORMED = 60
_GROWTH_KIB = 96 * 1024


def _seeds() -> list[bytes]:
    """Frames of every type, without their length; none that harms as a member is free to."""
    add = encode_command(
        "counter", "add", {"name": "hostile", "by": 1}, request_id="r", origin="operator - - n3"
    )
    calls = [
        b'{"operation":"remove","arguments":{"name":"zz","force":true,"dry_run":true},"timeout_s":0.2}',
        b'{"operation":"transfer","arguments":{"to":"zz"},"timeout_s":0.2}',
        b'{"operation":"join","arguments":{"name":"n9","secret":"s","request_pem":"x","sealing_key":"y",'
        b'"address":"h:1"},"timeout_s":0.2}',
        b"[" * 100_000,
        b'{"operation":"transfer","arguments":{"to":null},"timeout_s":1' + b"0" * 400 + b"}",
    ]
    # A container that verifies, around what is no state of the machine.
    header = b'{"index":999,"removed":[],"term":1,"total":5,"voters":["n1","n2","n3"]}'
    file = b"cyolosnp\x01" + struct.pack(">I", len(header)) + header + b"wrong"
    file += sha256(file).digest()
    changed: dict[str, dict[str, Any]] = {
        "append_entries": {"term": 0, "prev_log_term": 0, "entries": []},
        "forward": {"commands": [add, b"", b"\x01[]", add[:-1], b"\xff" * 500], "after": [1, 0, 2**62, 3, 4]},
        "snapshot_chunk": {
            "term": 99, "snapshot_term": 1, "index": 999, "removed": [], "total": len(file), "data": file,
            "digest": file[-32:].hex(),
        },
    }  # fmt: skip
    found = [encode({**example(kind), **changed.get(kind, {})})[4:] for kind in MESSAGE_TYPES]
    return found + [encode({"type": "call", "id": 1, "body": body})[4:] for body in calls]


def _leads(message: dict[str, Any]) -> bool:
    return message["type"] == "append_entries" and message["term"] > 0


def _hostile(rng: Random, seeds: list[bytes], *, malformed: bool) -> Iterator[bytes]:
    """Damaged frames with a right length, those that a node can decode or the others."""
    while True:
        frame = mutate(seeds, rng)
        try:
            message = decode(frame)
        except PeerProtocolError:
            if malformed:
                yield struct.pack(">I", len(frame)) + frame
        else:
            if not malformed and not _leads(message):
                yield struct.pack(">I", len(frame)) + frame


def _link(cluster: Cluster, node: Node) -> Peer:
    """A live link under the name and with the keys of n3, which does not run."""
    keys = cluster["n3"].directory / PKI_DIRECTORY
    peer = Peer(node, (keys / "node.crt", keys / "node.key"))
    peer.hello("n3", cluster_id_of(node))
    peer.wait_message("hello")
    return peer


def _still_serves(cluster: Cluster, node: Node) -> None:
    def answered() -> bool:
        assert node.running(), node.log_tail()
        return node.client(2.0).counters.incr("alive", 1)["value"] > 0

    wait_until(f"{node.name} answering a write", answered)


def test_hostile_frames_with_a_members_certificate_leave_every_node_serving(cluster: Cluster) -> None:
    seeds = _seeds()
    cluster["n3"].kill()
    victims = [cluster["n1"], cluster["n2"]]
    for number, node in enumerate(victims):
        _still_serves(cluster, node)
        before = rss_kib(node.pid)
        frames = _hostile(Random(number), seeds, malformed=False)
        sent = answered = 0
        while sent < _FRAMES:
            assert node.running(), node.log_tail()
            # A link may end at any frame: that is an answer, too.
            with (
                contextlib.suppress(ConnectionError, ssl.SSLError, AssertionError),
                _link(cluster, node) as peer,
            ):
                for _ in range(100):
                    peer.connection.sendall(next(frames))
                    sent += 1
                peer.send({"type": "ping", "sent_ms": 7})
                peer.wait_message("pong")
                answered += 1
        assert answered > 0, "no link went on to its end: nothing was heard of them"
        _still_serves(cluster, node)
        frames = _hostile(Random(number), seeds, malformed=True)
        for _ in range(_MALFORMED):
            with contextlib.suppress(ConnectionError, ssl.SSLError), _link(cluster, node) as peer:
                peer.connection.sendall(next(frames))
                peer.wait_closed()
        _still_serves(cluster, node)
        assert rss_kib(node.pid) - before < _GROWTH_KIB
    cluster["n3"].start()
    cluster.wait_settled(voters=3)
    for node in victims:
        events = node.log_events()
        assert [event for event in events if "exception" in event] == []
        told = {event["event"] for event in events if event["level"] == "error"}
        assert told <= {"a received snapshot was refused"}
        assert "Traceback" not in node.log_path.read_text()
        assert any("protocol error" in str(event.get("reason")) for event in events)
