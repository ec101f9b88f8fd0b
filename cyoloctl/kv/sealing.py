"""Sealed values: under a key of the cluster's ring, so that no disk holds what they say.

Sealed value, version 1, 46 bytes longer than what it holds::

    0x56  0x01  key id 4  salt 24  ciphertext n  tag 16

    key 32 | nonce 12 = HKDF-SHA256(secret of the key id, salt,
        info = PAE("cyoloctl kv value v1", bytes 0..6, cluster id, key))
    ciphertext and tag = AES-256-GCM(key, nonce, value,
        associated data = PAE("cyoloctl kv value v1", bytes 0..30, cluster id, key))

The cluster id is that of the ring's key: a key that came with another cluster's ring opens what was sealed
there.  *key* is the name that the value is under, so nobody who can write to a disk can move a value to
another name.  The salt is random, 24 bytes, and never comes twice: no two values have the same key and nonce.

The digest of a value tells two values apart that come under one request id, and no more::

    first half of HMAC-SHA256(HKDF-SHA256(secret, no salt, info = PAE("cyoloctl kv digest v1", cluster id)),
        PAE(key, request id, value))

Sans-io: randomness is an argument.  ``tests/vectors/kv`` pins both.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cyoloctl.errors import InternalError, StorageError
from cyoloctl.keys.keyring import Key
from cyoloctl.kv.records import SEALED_OVERHEAD, SEALED_START
from cyoloctl.text import pre_auth_encoding

__all__ = ["digest", "open_value", "seal_value"]

_LABEL = b"cyoloctl kv value v1"
_DIGEST_LABEL = b"cyoloctl kv digest v1"
_HEADER, _SALT_END = 6, 30
_SHA256 = SHA256()


def _cipher(key: Key, name: str, front: bytes) -> tuple[AESGCM, bytes, bytes]:
    """The cipher, the nonce and the associated data of a value that begins with these 30 bytes."""
    cluster_id, encoded = key.cluster_id.encode(), name.encode()
    info = pre_auth_encoding(_LABEL, front[:_HEADER], cluster_id, encoded)
    derived = HKDF(_SHA256, 44, front[_HEADER:], info).derive(key.secret)
    return AESGCM(derived[:32]), derived[32:], pre_auth_encoding(_LABEL, front, cluster_id, encoded)


def seal_value(key: Key, name: str, value: bytes, *, random: Callable[[int], bytes]) -> bytes:
    """A value sealed under a key of the ring, for one name; different each time.

    random: a number of bytes to that many random bytes.
    """
    salt = random(_SALT_END - _HEADER)
    if len(salt) != _SALT_END - _HEADER:
        raise InternalError("the source of randomness gave another number of bytes")
    front = SEALED_START + key.key_id + salt
    cipher, nonce, associated = _cipher(key, name, front)
    return front + cipher.encrypt(nonce, value, associated)


def open_value(key: Key, name: str, blob: bytes) -> bytes:
    """The value in what `seal_value` gave for this name under this key.

    Raises StorageError for anything else.
    """
    try:
        if len(blob) < SEALED_OVERHEAD or blob[:_HEADER] != SEALED_START + key.key_id:
            raise InvalidTag
        cipher, nonce, associated = _cipher(key, name, blob[:_SALT_END])
        return cipher.decrypt(nonce, blob[_SALT_END:], associated)
    except InvalidTag:
        pass
    raise StorageError(
        f"the sealed value of the key {name!r} is damaged, or belongs to another name: write it again"
    )


def digest(key: Key, name: str, request_id: str, value: bytes) -> str:
    """32 hexadecimal digits: the same for the same value of a name under the same request id and key."""
    info = pre_auth_encoding(_DIGEST_LABEL, key.cluster_id.encode())
    mac = HKDF(_SHA256, 32, None, info).derive(key.secret)
    return hmac.digest(mac, pre_auth_encoding(name.encode(), request_id.encode(), value), "sha256")[:16].hex()
