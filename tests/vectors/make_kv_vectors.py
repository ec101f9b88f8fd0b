"""Test vectors of sealed values, made by an implementation of its own.

    python tests/vectors/make_kv_vectors.py [FILE]

Writes FILE, by default ``kv/sealed.json`` beside this file.  Imports nothing of cyoloctl: HKDF is written out
over ``hmac``, only AES-GCM is borrowed.  Deterministic: every salt and key is the SHA-256 of a label.

``opens``: what a value is sealed with, the value, and both results.  ``refused``: what is tried to open it
with, and ``why`` it does not: each is wrong in that one point only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CLUSTER = "0123456789abcdef0123456789abcdef"
OTHER_CLUSTER = "f" * 32
LABEL = b"cyoloctl kv value v1"


def seeded(label: str, size: int) -> bytes:
    return hashlib.sha256(f"cyoloctl kv vectors 1: {label}".encode()).digest()[:size]


KEY = seeded("key", 32)
KEY_ID = b"\xfc" + seeded("key id", 3)


def pae(*parts: bytes) -> bytes:
    return struct.pack(">I", len(parts)) + b"".join(struct.pack(">I", len(part)) + part for part in parts)


def hkdf(ikm: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 with SHA-256."""
    prk = hmac.new(salt, ikm, hashlib.sha256).digest()
    okm = block = b""
    counter = 0
    while len(okm) < size:
        counter += 1
        block = hmac.new(prk, block + info + bytes([counter]), hashlib.sha256).digest()
        okm += block
    return okm[:size]


def sealed(name: str, value: bytes, salt: bytes, cluster: str = CLUSTER, version: int = 1) -> bytes:
    header = bytes([0x56, version]) + KEY_ID
    derived = hkdf(KEY, salt, pae(LABEL, header, cluster.encode(), name.encode()), 44)
    associated = pae(LABEL, header + salt, cluster.encode(), name.encode())
    return header + salt + AESGCM(derived[:32]).encrypt(derived[32:], value, associated)


def digest(name: str, request_id: str, value: bytes, cluster: str = CLUSTER) -> str:
    key = hkdf(KEY, b"", pae(b"cyoloctl kv digest v1", cluster.encode()), 32)
    return hmac.new(key, pae(name.encode(), request_id.encode(), value), hashlib.sha256).digest()[:16].hex()


def opens(what: str, name: str, request_id: str, value: bytes, cluster: str = CLUSTER) -> dict[str, Any]:
    salt = seeded(f"salt {what}", 24)
    return {
        "what": what,
        "key_hex": KEY.hex(),
        "key_id_hex": KEY_ID.hex(),
        "cluster_id": cluster,
        "name": name,
        "request_id": request_id,
        "salt_hex": salt.hex(),
        "value_hex": value.hex(),
        "blob_hex": sealed(name, value, salt, cluster).hex(),
        "digest": digest(name, request_id, value, cluster),
    }


def refused(why: str, blob: bytes, name: str = "db/password") -> dict[str, Any]:
    return {
        "why": why,
        "key_hex": KEY.hex(),
        "key_id_hex": KEY_ID.hex(),
        "cluster_id": CLUSTER,
        "name": name,
        "blob_hex": blob.hex(),
    }


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "kv" / "sealed.json"
    salt = seeded("salt refused", 24)
    good = sealed("db/password", b"hunter2", salt)

    def flipped(at: int) -> bytes:
        return good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]

    vectors = {
        "opens": [
            opens("text", "db/password", "job-7", b"hunter2"),
            opens("nothing", "db/password", "job-8", b""),
            opens("any bytes", "\u00e9 b", "r", bytes(range(256))),
            opens("a block more", "k", "r", bytes(17)),
            opens("the longest name", "x" * 512, "i" * 128, b"v"),
            opens("a ring of another cluster", "db/password", "job-7", b"hunter2", OTHER_CLUSTER),
        ],
        "refused": [
            refused("another name", good, "db/passwore"),
            refused("another cluster", sealed("db/password", b"hunter2", salt, OTHER_CLUSTER)),
            refused("another version", sealed("db/password", b"hunter2", salt, version=2)),
            refused("another format", flipped(0)),
            refused("another key id", flipped(5)),
            refused("another salt", flipped(6)),
            refused("an altered value", flipped(30)),
            refused("an altered tag", flipped(len(good) - 1)),
            refused("cut short", good[:-1]),
            refused("shorter than any", good[:45]),
            refused("longer", good + b"\0"),
            refused("empty", b""),
        ],
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(vectors, indent=1, sort_keys=True) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
