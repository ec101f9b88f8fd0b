"""A joiner's request, made by hand from the written format: nothing of cyoloctl.pki.join_token is used."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cyoloctl.pki.requests import make_request

__all__ = ["frame", "join_body", "sign_body", "token_key"]


def frame(*parts: str) -> bytes:
    """uint32be(number of parts), then for each its length as uint32be and its bytes."""
    data = [part.encode() for part in parts]
    return struct.pack(">I", len(data)) + b"".join(struct.pack(">I", len(part)) + part for part in data)


def token_key(secret: str, name: str, cluster_id: str) -> Ed25519PrivateKey:
    """The signing key that a token's secret gives."""
    info = frame("cyoloctl join key v1", cluster_id, name)
    seed = HKDF(hashes.SHA256(), 32, salt=b"\0" * 32, info=info).derive(
        base64.b64decode(secret + "=", altchars=b"-_")
    )
    return Ed25519PrivateKey.from_private_bytes(seed)


def sign_body(key: Ed25519PrivateKey, body: dict[str, Any], cluster_id: str) -> dict[str, Any]:
    """The body with this key and its signature."""
    der = x509.load_pem_x509_csr(body["request_pem"].encode()).public_bytes(serialization.Encoding.DER)
    signed = frame(
        "cyoloctl join v1",
        cluster_id,
        body["name"],
        hashlib.sha256(der).hexdigest(),
        body["address"],
        body["sealing_key"],
        body["ca_sha256"],
    )
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return {
        **body,
        "public_key": base64.b64encode(public).decode(),
        "signature": base64.b64encode(key.sign(signed)).decode(),
    }


def join_body(
    secret: str, name: str, cluster_id: str, ca_sha256: str = "c" * 64, **changes: Any
) -> dict[str, Any]:
    """Request of a secret's holder to join under a name; changes are made before it is signed."""
    pending = make_request(name, cluster_id)
    body = {
        "name": name,
        "request_pem": pending.request_pem,
        "sealing_key": pending.sealing_key,
        # Nobody listens there, and no two names have it.
        "address": "127.{}.{}.{}:1".format(*hashlib.sha256(name.encode()).digest()),
        "ca_sha256": ca_sha256,
        **changes,
    }
    return sign_body(token_key(secret, name, cluster_id), body, cluster_id)
