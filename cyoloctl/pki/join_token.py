"""Join tokens, and how a node shows that it holds one without showing it.

The token's secret never leaves the joiner's machine.  A signing key is derived
from it, for one name in one cluster; the cluster keeps the public half.  The
joiner signs its request with it, so that whoever sees or passes on the request
can admit nobody but the node that made it:

    seed      = HKDF-SHA256(secret, info = PAE("cyoloctl join key v1", cluster id, name)), 32 bytes
    key       = Ed25519 with that seed (RFC 8032)
    signature = over PAE("cyoloctl join v1", cluster id, name, SHA-256 of the request, address,
                sealing key, SHA-256 of the CA)

PAE is `text.pre_auth_encoding`.  The token also says whom to dial: the
names of members with their addresses, and the SHA-256 of the cluster's CA.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cyoloctl.errors import CyoloctlError, InvalidInput
from cyoloctl.model import Address, ClusterId, NodeName, parse_address, parse_name
from cyoloctl.pki.identity import parse_cluster_id
from cyoloctl.pki.x509 import load_key
from cyoloctl.text import (
    canonical_json,
    decode_base64,
    decode_base64url,
    encode_base64,
    encode_base64url,
    parse_canonical_json,
    pre_auth_encoding,
)

__all__ = [
    "MAX_TOKEN_MEMBERS",
    "JoinRequest",
    "JoinToken",
    "decode_token",
    "encode_token",
    "new_secret",
    "public_key",
    "secret_of",
    "sign",
    "signed_by",
]

MAX_TOKEN_MEMBERS = 64
"""The most members that a token names."""

_VERSION = 2
_PREFIX = f"cyolojoin{_VERSION}."
_OLD_PREFIX = "cyolojoin1."
_MAX_CHARS = 32 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}(,[0-9a-f]{64})?")
_SECRET = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")  # 32 bytes have one spelling
_FAR_UNIX_S = 1 << 40
_DEFECTS = (ValueError, TypeError, KeyError, RecursionError, CyoloctlError)


@dataclass(frozen=True, slots=True, repr=False)
class JoinToken:
    """Everything that a new node needs to join: whom to dial, whom to trust, and a secret to sign with.

    ca_sha256: of the CA's certificate, hex; while the cluster exchanges its CA,
    of both, with a comma.  secret: from new_secret.
    expires_unix_s: seconds since 1970, for people; the cluster decides by its
    own time.  members: 1 to 64 names with the address of each.  witness: the
    node votes, and is given no key; it is no learner.  repr and str hide the
    secret.  Raises InvalidInput for values that are not valid.
    """

    cluster_id: ClusterId
    cluster: NodeName
    ca_sha256: str
    name: NodeName
    learner: bool
    secret: str
    expires_unix_s: int
    members: tuple[tuple[NodeName, Address], ...]
    witness: bool = False

    def __post_init__(self) -> None:
        parse_cluster_id(self.cluster_id)
        parse_name(self.cluster, "cluster name")
        parse_name(self.name)
        if not _SHA256.fullmatch(self.ca_sha256):
            raise InvalidInput("the CA in a join token is the 64 hex digits of a SHA-256, or two")
        if not _SECRET.fullmatch(self.secret):
            raise InvalidInput("the secret of a join token is 43 characters: use a new one")
        if not 0 < self.expires_unix_s < _FAR_UNIX_S:
            raise InvalidInput("the expiry of a join token is seconds since 1970: use a later one")
        if self.witness and self.learner:
            raise InvalidInput("a join token is for a learner or for a witness, not for both")
        names = {parse_name(name) for name, _ in self.members}
        if not 1 <= len(self.members) <= MAX_TOKEN_MEMBERS or len(names) != len(self.members):
            raise InvalidInput(f"a join token names 1 to {MAX_TOKEN_MEMBERS} members, each once")

    def __repr__(self) -> str:
        return (
            f"JoinToken(name={self.name!r}, cluster={self.cluster!r}, cluster_id={self.cluster_id!r}, "
            f"learner={self.learner}, witness={self.witness}, secret=(hidden))"
        )


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A joiner's request, which it signs.

    request_sha256: of the DER of its certificate request, hex.  address:
    HOST:PORT, as it is sent.  sealing_key: X25519 public key, base64.
    ca_sha256: of the CA that its token names, as there: no other can certify it.
    """

    cluster_id: str
    name: str
    request_sha256: str
    address: str
    sealing_key: str
    ca_sha256: str

    def statement(self) -> bytes:
        """The bytes that are signed.  Raises InvalidInput for text that is not Unicode."""
        parts = (
            self.cluster_id,
            self.name,
            self.request_sha256,
            self.address,
            self.sealing_key,
            self.ca_sha256,
        )
        try:
            return pre_auth_encoding(b"cyoloctl join v1", *(part.encode() for part in parts))
        except UnicodeEncodeError:
            raise InvalidInput("the join request is not valid: it holds half a character") from None


def new_secret(random: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """A fresh secret for an invitation: 256 random bits, base64url.  Only what public_key gives is stored."""
    return encode_base64url(random(32))


def secret_of(key_pem: str, what: str) -> str:
    """The secret that a P-256 private key gives for a text: always the same, known to whoever has the key."""
    key = load_key(key_pem).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    info = pre_auth_encoding(b"cyoloctl join secret v1", what.encode())
    return encode_base64url(HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(key))


def _signing_key(secret: str, cluster_id: str, name: str) -> Ed25519PrivateKey:
    info = pre_auth_encoding(b"cyoloctl join key v1", cluster_id.encode(), name.encode())
    seed = HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(decode_base64url(secret))
    return Ed25519PrivateKey.from_private_bytes(seed)


def public_key(secret: str, cluster_id: str, name: str) -> str:
    """The public key (Ed25519, base64) by which the cluster knows the token for this name."""
    key = _signing_key(secret, cluster_id, name).public_key()
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return encode_base64(raw)


def sign(secret: str, request: JoinRequest) -> str:
    """The signature (Ed25519, base64) with which the holder of the secret asks to be admitted."""
    key = _signing_key(secret, request.cluster_id, request.name)
    return encode_base64(key.sign(request.statement()))


def signed_by(public_key: str, signature: str, request: JoinRequest) -> bool:
    """Whether the holder of the secret behind a public key signed exactly this request.

    Any text is taken; what is not a key or a signature signed nothing.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(decode_base64(public_key))
        key.verify(decode_base64(signature), request.statement())
    except (InvalidSignature, ValueError, TypeError, InvalidInput):
        return False
    return True


def encode_token(token: JoinToken) -> str:
    """The text of a join token: one line that decode_token reads back.  It is a secret."""
    value = {
        "v": _VERSION,
        "cluster_id": token.cluster_id,
        "cluster": token.cluster,
        "ca_sha256": token.ca_sha256,
        "name": token.name,
        "learner": token.learner,
        "secret": token.secret,
        "expires_unix_s": token.expires_unix_s,
        "members": [{"name": name, "address": str(address)} for name, address in token.members],
        # Left out while it says nothing: earlier releases know tokens without it.
        **({"witness": True} if token.witness else {}),
    }
    return _PREFIX + encode_base64url(canonical_json(value).encode())


def decode_token(text: str) -> JoinToken:
    """The join token in a text; white space around it is ignored.

    Strict: there is exactly one text for a token.  Raises InvalidInput, with
    one message for every defect, and one for a token of release 0.1.0, which
    would send its secret to whoever answers.  Whether it expired is the
    cluster's to say.
    """
    stripped = text.strip()
    if stripped.startswith(_OLD_PREFIX):
        raise InvalidInput(
            "the join token is of release 0.1.0, which sent its secret over the network: "
            "invite the node again (`cyoloctl member invite`)"
        )
    try:
        return _decode_token(stripped)
    except _DEFECTS:
        # Without the cause: it may quote the secret.
        raise InvalidInput(
            "the join token is not valid: copy all of the line that `cyoloctl member invite` printed, "
            "or invite the node again (with the same cyoloctl release)"
        ) from None


def _decode_token(text: str) -> JoinToken:
    encoded = text.removeprefix(_PREFIX)
    if len(text) > _MAX_CHARS or len(encoded) == len(text):
        raise ValueError
    # There is one text for a token: another spelling of the same JSON or the same base64 is refused.
    value = parse_canonical_json(decode_base64url(encoded).decode("ascii"))
    fields = _exact(
        value,
        v=int,
        cluster_id=str,
        cluster=str,
        ca_sha256=str,
        name=str,
        learner=bool,
        secret=str,
        expires_unix_s=int,
        members=list,
        **({"witness": bool} if isinstance(value, dict) and value.get("witness") is True else {}),
    )
    given = [_exact(item, name=str, address=str) for item in fields.pop("members")]
    members = tuple((parse_name(item["name"]), parse_address(item["address"])) for item in given)
    if fields.pop("v") != _VERSION or [str(address) for _, address in members] != [
        item["address"] for item in given
    ]:
        raise ValueError
    return JoinToken(**fields, members=members)


def _exact(value: object, **types: type) -> dict[str, Any]:
    """Exactly these fields of exactly these types: True is no number.  Raises ValueError."""
    if (
        not isinstance(value, dict)
        or value.keys() != types.keys()
        or any(type(value[name]) is not kind for name, kind in types.items())
    ):
        raise ValueError
    return value
