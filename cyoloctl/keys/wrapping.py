"""Token keys sealed to the nodes of a cluster, and what shows whose a sealing key is.

A key that is wrapped for a node is HPKE to the node's sealing key, 80 bytes,
replicated.  ``verify_sealing_key`` comes before ``wrap``: anyone who could put
their own sealing key under a node's name would be sealed every key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cyoloctl.errors import InvalidInput
from cyoloctl.keys.keyring import Key, KeyState
from cyoloctl.pki.seal import open_sealed, seal
from cyoloctl.pki.statements import sign_statement, verify_statement
from cyoloctl.pki.x509 import certificate_sha256
from cyoloctl.text import Json, canonical_json, parse_canonical_json, pre_auth_encoding

__all__ = [
    "MAX_FILE_BYTES",
    "NodeIdentity",
    "check_fields",
    "decode_identity",
    "encode_identity",
    "parse_key_id",
    "read_object",
    "sign_sealing_key",
    "unwrap",
    "verify_identity",
    "verify_sealing_key",
    "wrap",
]


MAX_FILE_BYTES = 1 << 20


def wrap(key: Key, *, node: str, sealing_key: str) -> str:
    """The key sealed to a node, 80 bytes in base64, different each time.

    sealing_key: the node's, after verify_sealing_key.  Raises InvalidInput
    for one that is not valid.
    """
    return seal(sealing_key, key.secret, _wrap_info(key.cluster_id, key.key_id, node))


def unwrap(
    blob: str,
    *,
    key_id: str,
    cluster_id: str,
    node: str,
    sealing_key_pem: str,
    state: str,
    fingerprint: str,
) -> Key:
    """The key in what ``wrap`` gave.

    key_id: 8 hexadecimal digits; cluster_id, state and fingerprint: what is
    replicated of the key.

    Raises InvalidInput, the same for every reason; ConfigError for a private
    sealing key that is not one.
    """
    try:
        raw_id = parse_key_id(key_id)
        secret = open_sealed(sealing_key_pem, blob, _wrap_info(cluster_id, raw_id, node))
        key = Key(raw_id, secret, KeyState(state), cluster_id)
        if key.fingerprint == fingerprint:
            return key
    except (InvalidInput, ValueError):
        pass
    raise InvalidInput(
        f"key {key_id} cannot be opened here: it was sealed to another sealing key, or damaged; "
        "seal it again (key rewrap)"
    )


def _wrap_info(cluster_id: str, key_id: bytes, node: str) -> bytes:
    return pre_auth_encoding(b"cyoloctl key v1", cluster_id.encode(), key_id, node.encode())


# -- whose sealing key it is --------------------------------------------------------------------


def sign_sealing_key(*, cluster_id: str, name: str, sealing_key: str, node_key_pem: str) -> str:
    """A node's signature of its own sealing key, base64.  Raises ConfigError for the private key."""
    return sign_statement(node_key_pem, _sealing_statement(cluster_id, name, sealing_key))


def verify_sealing_key(
    *,
    cluster_id: str,
    name: str,
    sealing_key: str,
    certificate_pem: str,
    signature: str,
    ca_pem: str,
    now: datetime,
) -> None:
    """Check that a sealing key is the node's: signed by its certificate, issued by the CA, valid now.

    Raises InvalidInput with what is wrong.
    """
    verify_statement(
        _sealing_statement(cluster_id, name, sealing_key),
        signature,
        certificate_pem,
        ca_pem=ca_pem,
        name=name,
        cluster_id=cluster_id,
        now=now,
    )


def _sealing_statement(cluster_id: str, name: str, sealing_key: str) -> bytes:
    return pre_auth_encoding(
        b"cyoloctl sealing key v1", cluster_id.encode(), name.encode(), sealing_key.encode()
    )


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Identity of a node, for others to seal a ring to.  Nothing secret.

    Certificate and CA in PEM; sealing key (X25519) and signature (sign_sealing_key) in base64.
    """

    name: str
    cluster_id: str
    certificate_pem: str
    sealing_key: str
    signature: str
    ca_pem: str

    @property
    def ca_sha256(self) -> str:
        """The fingerprint of its CA, 64 hexadecimal digits, for its operator to confirm."""
        return certificate_sha256(self.ca_pem)


_IDENTITY = dict.fromkeys(NodeIdentity.__slots__, str)


def encode_identity(identity: NodeIdentity) -> str:
    """The text of a node's identity: one line of JSON."""
    return canonical_json({name: getattr(identity, name) for name in _IDENTITY}) + "\n"


def decode_identity(text: str, *, now: datetime) -> NodeIdentity:
    """The identity in a text, its signature and certificate checked by its own CA.

    Whether that CA is the right one only its operator can say: ``ca_sha256``.

    Raises InvalidInput.
    """
    identity = NodeIdentity(**read_object(text.removesuffix("\n"), _IDENTITY, "a node identity"))
    verify_identity(identity, now)
    return identity


def verify_identity(identity: NodeIdentity, now: datetime) -> None:
    """Check the signature and the certificate by the identity's own CA.  Raises InvalidInput."""
    verify_sealing_key(now=now, **{name: getattr(identity, name) for name in _IDENTITY})


# -- written strictly -------------------------------------------------------------------------------


def read_object(text: str, types: Mapping[str, Any], what: str) -> Json:
    """The object of canonical JSON with exactly these fields of these types.  Raises InvalidInput."""
    try:
        if len(text) > MAX_FILE_BYTES:
            raise ValueError
        # What is not ASCII is refused too, none of these values is: half of a surrogate pair could not
        # even be encoded.
        if "\\u" in text:
            raise ValueError
        value = parse_canonical_json(text)
    except (ValueError, RecursionError):
        value = None
    return check_fields(value, types, what)


def check_fields(value: object, types: Mapping[str, Any], what: str) -> Json:
    """The object with exactly these fields of these types.  Raises InvalidInput."""
    if (
        type(value) is not dict
        or value.keys() != types.keys()
        or not all(
            type(value[name]) in (kind if isinstance(kind, tuple) else (kind,))
            for name, kind in types.items()
        )
    ):
        raise InvalidInput(f"this is not {what} of cyoloctl: use the whole, unchanged file")
    return value


def parse_key_id(text: str) -> bytes:
    """The bytes of a key id.  Raises ValueError; fromhex alone would take blanks and capitals."""
    data = bytes.fromhex(text)
    if data.hex() != text:
        raise ValueError
    return data
