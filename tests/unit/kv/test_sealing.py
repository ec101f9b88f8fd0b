"""Sealed values against their vectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import InternalError, StorageError
from cyoloctl.keys.keyring import Key, KeyState, new_key
from cyoloctl.kv.records import SEALED_OVERHEAD
from cyoloctl.kv.sealing import digest, open_value, seal_value

FILE = Path(__file__).parents[2] / "vectors" / "kv" / "sealed.json"
VECTORS: dict[str, list[dict[str, Any]]] = json.loads(FILE.read_text("ascii"))


def key_of(vector: dict[str, Any]) -> Key:
    key_id, secret = bytes.fromhex(vector["key_id_hex"]), bytes.fromhex(vector["key_hex"])
    return Key(key_id, secret, KeyState.PRIMARY, vector["cluster_id"])


def test_vectors_when_made_again_are_the_same(tmp_path: Path) -> None:
    generator = FILE.parents[1] / "make_kv_vectors.py"
    subprocess.run([sys.executable, str(generator), str(tmp_path / "sealed.json")], check=True, timeout=60)
    assert (tmp_path / "sealed.json").read_bytes() == FILE.read_bytes()


@pytest.mark.parametrize("vector", VECTORS["opens"], ids=lambda vector: str(vector["what"]))
def test_value_with_a_given_salt_is_sealed_and_opened_as_its_vector_says(vector: dict[str, Any]) -> None:
    key, name, value = key_of(vector), vector["name"], bytes.fromhex(vector["value_hex"])
    blob = seal_value(key, name, value, random=lambda size: bytes.fromhex(vector["salt_hex"])[:size])
    assert blob.hex() == vector["blob_hex"]
    assert len(blob) == len(value) + SEALED_OVERHEAD
    assert open_value(key, name, blob) == value
    assert digest(key, name, vector["request_id"], value) == vector["digest"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: str(vector["why"]))
def test_what_is_wrong_in_one_point_does_not_open(vector: dict[str, Any]) -> None:
    with pytest.raises(StorageError) as caught:
        open_value(key_of(vector), vector["name"], bytes.fromhex(vector["blob_hex"]))
    assert caught.value.__cause__ is None


def test_value_opens_under_its_own_name_only() -> None:
    key = new_key("0" * 32)
    blob = seal_value(key, "k", b"v", random=os.urandom)
    assert open_value(key, "k", blob) == b"v"
    with pytest.raises(StorageError):
        open_value(key, "l", blob)


def test_value_is_sealed_otherwise_each_time_and_under_one_key_only() -> None:
    key, other = new_key("0" * 32), new_key("0" * 32)
    blobs = {seal_value(key, "k", b"v", random=os.urandom) for _ in range(50)}
    assert len({blob[6:30] for blob in blobs}) == len(blobs) == 50
    with pytest.raises(StorageError):
        open_value(other, "k", blobs.pop())
    with pytest.raises(InternalError):
        seal_value(key, "k", b"v", random=lambda size: b"")


def test_digest_tells_values_requests_names_and_keys_apart_and_no_more() -> None:
    key = new_key("0" * 32)
    found = {
        digest(key, "k", "r", b"v"),
        digest(key, "k", "r", b"w"),
        digest(key, "k", "s", b"v"),
        digest(key, "l", "r", b"v"),
        digest(key, "kr", "", b"v"),
        digest(new_key("0" * 32), "k", "r", b"v"),
    }
    assert len(found) == 6
    assert digest(key, "k", "r", b"v") in found
