"""Sealed boxes for what only one node may read, such as the CA key.

HPKE (RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
AES-256-GCM) to the X25519 key that the node signed into its certificate
request.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from cyoloctl.errors import ConfigError, InvalidInput
from cyoloctl.pki.x509 import DEFECTS
from cyoloctl.text import decode_base64, encode_base64

__all__ = [
    "load_sealing_key",
    "open_sealed",
    "parse_sealing_key",
    "seal",
    "sealing_key_text",
]

_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def seal(sealing_key: str, plaintext: bytes, info: bytes) -> str:
    """Encrypt to the holder of a sealing key, base64.

    sealing_key: an X25519 public key, base64.  info: what it is for; opening
    needs the same.  Raises InvalidInput for a key that is not one.
    """
    try:
        return encode_base64(_HPKE.encrypt(plaintext, parse_sealing_key(sealing_key), info))
    except ValueError:  # a point of low order: the shared secret would be known to everybody
        raise InvalidInput("the sealing key is not valid: make a new request") from None


def open_sealed(sealing_key_pem: str, sealed: str, info: bytes) -> bytes:
    """Decrypt what was sealed to this key with this info.

    Raises InvalidInput, the same for every reason; ConfigError for a private
    key that is not one.
    """
    try:
        return _HPKE.decrypt(decode_base64(sealed), load_sealing_key(sealing_key_pem), info)
    except (InvalidTag, ValueError):
        raise InvalidInput(
            "this was not sealed for this node, or it was damaged: ask for it again with this node's request"
        ) from None


def load_sealing_key(pem: str) -> x25519.X25519PrivateKey:
    """The private half of a sealing key, from a PEM text.  Raises ConfigError."""
    try:
        key = serialization.load_pem_private_key(pem.encode("ascii"), password=None)
        if isinstance(key, x25519.X25519PrivateKey):
            return key
    except DEFECTS:
        pass
    raise ConfigError("this is not an unencrypted X25519 private key: restore the right one")


def parse_sealing_key(text: str) -> x25519.X25519PublicKey:
    """The public half of a sealing key, from base64.  Raises InvalidInput."""
    try:
        return x25519.X25519PublicKey.from_public_bytes(decode_base64(text))
    except ValueError:
        raise InvalidInput("the sealing key is not valid: make a new request") from None


def sealing_key_text(key: x25519.X25519PrivateKey) -> str:
    """The public half of a sealing key, as requests carry it: base64."""
    return encode_base64(key.public_key().public_bytes_raw())
