"""Sealed values on a node: what it opens, what it says when it cannot, and what the leader seals again."""

from __future__ import annotations

import logging
import os
from base64 import b64decode
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cyoloctl.errors import KeyMissing, StorageError, Unavailable
from cyoloctl.keys.keyring import Key, Keyring, KeyState, new_key
from cyoloctl.keys.operations import KeyOperations
from cyoloctl.kv.machine import KvMachine
from cyoloctl.kv.records import MAX_RESEALED, MAX_VALUE_BYTES, Entry, encode_value
from cyoloctl.kv.sealing import open_value, seal_value
from cyoloctl.kv.values import Clear, Values, sealed_under

CLUSTER = "0" * 32
NOW = 1_800_000_000_000


class Node:
    """A machine, and the ring that a node holds: its last key is the primary one."""

    def __init__(self) -> None:
        self.keys: list[Key] = [new_key(CLUSTER)]
        self.lost: set[str] = set()
        self.index = 10
        self.waited = 0
        self.machine = KvMachine(has_key=lambda key_id: key_id in {key.key_id_hex for key in self.keys})
        stand_in = SimpleNamespace(ring=self.ring, wait_primary=self.no_wait, wait_whole=self.wait_whole)
        self.values = Values(cast(KeyOperations, stand_in), self.machine)

    def ring(self) -> Keyring:
        states = [KeyState.ENABLED] * (len(self.keys) - 1) + [KeyState.PRIMARY]
        return Keyring(
            Key(key.key_id, key.secret, state, CLUSTER)
            for key, state in zip(self.keys, states, strict=True)
            if key.key_id_hex not in self.lost
        )

    async def no_wait(self, *, timeout_s: float) -> None:
        return None

    async def wait_whole(self, *, timeout_s: float) -> None:
        self.waited += 1

    def do(self, operation: str, **given: Any) -> Any:
        self.index += 1
        return self.machine.apply(operation, given, self.index, NOW)

    def put(self, name: str, value: bytes) -> Entry:
        blob, digest = sealed_under(self.keys[-1], Clear(name, value), "r")
        given = {"if_revision": None, "ttl_ms": None, "fence": None}
        self.do("put_sealed", key=name, blob=blob, digest=digest, **given)
        entry = self.machine.get(name)
        assert entry is not None
        return entry

    def reseal(self) -> int:
        """What one turn of the leader's upkeep does: how many values it seals again."""
        values = self.values.to_reseal()
        if values:
            assert self.do("reseal", values=values) == {"resealed": len(values)}
        return len(values)


@pytest.fixture
def node() -> Node:
    return Node()


async def test_value_is_opened_with_the_key_that_it_is_under(node: Node) -> None:
    entry = node.put("s", b"secret")
    node.keys.append(new_key(CLUSTER))
    await node.values.ready([entry, Entry(b"clear", 1, 1, 1, None, None)], timeout_s=1.0)
    assert node.waited == 0
    assert node.values.open("s", entry) == b"secret"
    assert node.values.open("s", Entry(b"clear", 1, 1, 1, None, None)) == b"clear"
    with pytest.raises(StorageError):
        node.values.open("another name", entry)


async def test_key_that_is_on_its_way_is_waited_for_and_then_another_node_is_to_be_asked(node: Node) -> None:
    entry = node.put("s", b"secret")
    node.lost = {node.keys[0].key_id_hex}
    await node.values.ready([entry], timeout_s=1.0)
    assert node.waited == 1
    with pytest.raises(Unavailable, match="ask another node"):
        node.values.open("s", entry)


def test_key_that_the_cluster_does_not_have_is_missing(node: Node) -> None:
    entry = node.put("s", b"secret")
    node.keys = [new_key(CLUSTER)]
    with pytest.raises(KeyMissing, match="key import"):
        node.values.open("s", entry)
    assert node.reseal() == 0  # nor can the leader do anything about it


def test_leader_seals_a_bounded_number_again_and_comes_to_an_end(node: Node) -> None:
    count = 2 * MAX_RESEALED + 3
    for number in range(count):
        node.put(f"k{number}", b"%d" % number)
    old = node.keys[0].key_id_hex
    assert node.reseal() == 0
    node.keys.append(new_key(CLUSTER))
    assert [node.reseal() for _ in range(4)] == [MAX_RESEALED, MAX_RESEALED, 3, 0]
    assert (node.machine.values_under(old), node.machine.values_under(node.keys[1].key_id_hex)) == (0, count)
    for number in range(count):
        entry = node.machine.get(f"k{number}")
        assert entry is not None
        assert node.values.open(f"k{number}", entry) == b"%d" % number
    # Keys of two earlier rotations.
    node.keys.append(new_key(CLUSTER))
    node.put("newest", b"x")
    while node.reseal():
        pass
    assert node.machine.sealing_keys() == [node.keys[2].key_id_hex]


def test_one_command_holds_no_more_bytes_than_one_value_may_have(node: Node) -> None:
    for number in range(3):
        node.put(f"k{number}", bytes(MAX_VALUE_BYTES // 2 - 100))
    node.put("largest", bytes(MAX_VALUE_BYTES))
    node.keys.append(new_key(CLUSTER))
    assert [node.reseal() for _ in range(4)] == [2, 1, 1, 0]


def test_damaged_value_is_told_once_and_keeps_no_other_from_being_sealed_again(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(MAX_RESEALED + 1):
        node.put(f"k{number}", b"v")
    wrong = seal_value(node.keys[0], "another name", b"v", random=os.urandom)
    given = {"if_revision": None, "ttl_ms": None, "fence": None, "digest": "0" * 32}
    node.do("put_sealed", key="k0", blob=encode_value(wrong), **given)
    node.keys.append(new_key(CLUSTER))
    with caplog.at_level(logging.ERROR):
        while node.reseal():
            pass
    assert len(caplog.records) == 1
    assert node.machine.values_under(node.keys[0].key_id_hex) == 1


def test_what_is_sealed_again_is_as_fresh_as_any(node: Node) -> None:
    before = node.put("s", b"secret")
    node.keys.append(new_key(CLUSTER))
    [value] = node.values.to_reseal()
    blob = b64decode(value["blob"])
    assert blob[6:30] != before.value[6:30]
    assert open_value(node.keys[1], "s", blob) == b"secret"


def test_value_that_is_to_be_sealed_is_not_printed() -> None:
    assert "hunter2" not in f"{Clear('s', b'hunter2')!r} {Clear('s', b'hunter2')}"
