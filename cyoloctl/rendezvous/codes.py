"""Computations of both ends of a rendezvous: user codes, ids, and sealed results.

Randomness is an argument; there is no clock and no I/O.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519

from cyoloctl.errors import InvalidInput
from cyoloctl.pki.seal import open_sealed, seal
from cyoloctl.rendezvous.records import MAX_SEALED_LENGTH, id_of_public_key
from cyoloctl.rendezvous.user_codes import (
    CODE_LETTERS,
    USER_CODE_ALPHABET,
    normalise_user_code,
    shown_user_code,
)
from cyoloctl.text import encode_base64

__all__ = [
    "MAX_RESULT_BYTES",
    "USER_CODE_ALPHABET",
    "hash_user_code",
    "id_of_public_key",
    "new_key",
    "new_user_code",
    "normalise_user_code",
    "open_result",
    "seal_result",
    "shown_user_code",
]

_HPKE_OVERHEAD_BYTES = 48  # X25519 encapsulation 32, AES-GCM tag 16
MAX_RESULT_BYTES = MAX_SEALED_LENGTH // 4 * 3 - _HPKE_OVERHEAD_BYTES


def new_user_code(random: Callable[[int], bytes] = os.urandom) -> str:
    """A user code as it is shown, ``WDJB-MJHT``: 20**8 of them, each as likely.

    random: n -> n random bytes.
    """
    letters = ""
    while len(letters) < CODE_LETTERS:
        # 240 is the largest multiple of 20 in a byte: what is above would favour the first letters.
        letters += "".join(
            USER_CODE_ALPHABET[byte % 20] for byte in random(CODE_LETTERS - len(letters)) if byte < 240
        )
    return f"{letters[:4]}-{letters[4:]}"


def hash_user_code(code: str) -> str:
    """The cluster's hash of a user code: 64 hex digits, the same for each way to write it.

    Raises InvalidInput.
    """
    return sha256(b"cyoloctl user code v1" + normalise_user_code(code).encode("ascii")).hexdigest()


def new_key(random: Callable[[int], bytes] = os.urandom) -> tuple[str, str]:
    """A key of an initiator, for one record: the private key (PKCS #8 PEM) and the public one (base64).

    random: n -> n random bytes.
    """
    key = x25519.X25519PrivateKey.from_private_bytes(random(32))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode("ascii"), encode_base64(key.public_key().public_bytes_raw())


def seal_result(public_key: str, result: bytes) -> str:
    """Encrypt a result to the initiator's public key, base64; it opens as that of this key's record only.

    It proves nothing about who sealed it: that is what the approval says.
    Raises InvalidInput for a key that is not one and for more than
    ``MAX_RESULT_BYTES``.
    """
    info = _info(public_key)
    if len(result) > MAX_RESULT_BYTES:
        raise InvalidInput(f"the result has {len(result)} bytes, more than {MAX_RESULT_BYTES}: send less")
    try:
        return seal(public_key, result, info)
    except InvalidInput:
        raise InvalidInput("the public key is not valid: use a new x25519 key") from None


def open_result(private_key_pem: str, public_key: str, sealed: str) -> bytes:
    """Decrypt a result: the other half of `--sealed`, for whoever holds the private key.

    No command does it here: the node never sees that key.

    Raises InvalidInput, the same for every reason, and ConfigError for a
    private key that is not one.
    """
    try:
        return open_sealed(private_key_pem, sealed, _info(public_key))
    except InvalidInput:
        raise InvalidInput(
            "the result was not sealed for this rendezvous, or it was damaged: start another"
        ) from None


def _info(public_key: str) -> bytes:
    # The id has one length, so no other pair gives the same bytes.
    return b"cyoloctl rendezvous result v1\0" + id_of_public_key(public_key).encode("ascii")
