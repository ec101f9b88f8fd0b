"""Token keys and the ring of them."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from cyoloctl.errors import InvalidInput
from cyoloctl.keys.keyring import Key, Keyring, KeyState, new_key

CLUSTER = "0123456789abcdef0123456789abcdef"
ID_1, ID_2 = b"\xfc\x01\xaa\xbb", b"\xfc\x02\xaa\xbb"
KEY = Key(ID_1, bytes(range(32)), KeyState.PRIMARY, CLUSTER)


@pytest.mark.parametrize(
    "fields",
    [
        (b"\xfc\x01\x02", bytes(32), "enabled", CLUSTER),
        (b"\xfb\x01\x02\x03", bytes(32), "enabled", CLUSTER),
        ("\xfc\x01\x02\x03", bytes(32), "enabled", CLUSTER),
        (ID_1, bytes(31), "enabled", CLUSTER),
        (ID_1, bytes(33), "enabled", CLUSTER),
        (ID_1, b"", "enabled", CLUSTER),
        (ID_1, "x" * 32, "enabled", CLUSTER),
        (ID_1, bytes(32), "destroyed", CLUSTER),
        (ID_1, bytes(32), "active", CLUSTER),
        (ID_1, bytes(32), "PRIMARY", CLUSTER),
        (ID_1, bytes(32), "enabled", ""),
        (ID_1, bytes(32), "enabled", "x" * 256),
        (ID_1, bytes(32), "enabled", "\ud800"),
    ],
)
def test_key_with_a_wrong_field_is_refused(fields: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidInput):
        Key(*fields)


def test_key_state_given_as_text_becomes_the_state() -> None:
    assert Key(ID_1, b"", "destroyed", CLUSTER).state is KeyState.DESTROYED  # type: ignore[arg-type]


def test_key_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        KEY.secret = bytes(32)  # type: ignore[misc]


def test_fingerprint_is_that_of_the_format() -> None:
    from hashlib import sha256

    parts = [b"cyoloctl key fingerprint v1", CLUSTER.encode(), ID_1, bytes(range(32))]
    text = len(parts).to_bytes(4, "big") + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    assert KEY.fingerprint == sha256(text).hexdigest()[:32]
    assert KEY.key_id_hex == "fc01aabb"


def test_fingerprint_tells_secrets_ids_and_clusters_apart() -> None:
    others = [replace(KEY, secret=bytes(32)), replace(KEY, key_id=ID_2), replace(KEY, cluster_id="x")]
    assert len({key.fingerprint for key in [KEY, *others]}) == 4
    assert Key(ID_1, b"", KeyState.DESTROYED, CLUSTER).fingerprint == ""


def test_keyring_with_one_id_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="fc01aabb twice"):
        Keyring([KEY, replace(KEY, secret=bytes(32), state=KeyState.ENABLED)])


def test_keyring_with_two_primaries_is_refused() -> None:
    with pytest.raises(InvalidInput, match="two primaries"):
        Keyring([KEY, replace(KEY, key_id=ID_2)])


def test_keyring_finds_keys_by_id() -> None:
    second = replace(KEY, key_id=ID_2, state=KeyState.DISABLED)
    ring = Keyring(iter([second, KEY]))
    assert (ring.primary, ring.get(ID_2), ring.get(b"none"), ring.keys) == (KEY, second, None, (second, KEY))
    assert Keyring().primary is None


@pytest.mark.parametrize("secret", [KEY, Keyring([KEY])])
@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy])
def test_keys_are_neither_pickled_nor_copied_nor_printed(secret: object, leak: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="never pickled"):
        leak(secret)
    assert bytes(range(32)).hex() not in repr(secret)
    assert repr(bytes(range(32))) not in repr(secret)


def test_new_key_is_pending_and_random_and_not_taken() -> None:
    bytes_given = itertools.chain([b"\0\0\1", b"\0\0\2", b"k" * 32])
    key = new_key(CLUSTER, random=lambda size: next(bytes_given), taken={"fc000001"})
    assert (key.key_id_hex, key.secret, key.state, key.cluster_id) == (
        "fc000002",
        b"k" * 32,
        "pending",
        CLUSTER,
    )
    assert new_key(CLUSTER).secret != new_key(CLUSTER).secret
    with pytest.raises(InvalidInput):
        new_key("mine")
