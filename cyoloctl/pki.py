"""Who is who: the cluster's CA, certificates, sealing keys, requests and grants, TLS contexts.

A certificate names a node, never an address: its only subject alternative
name is ``NAME.ROLE.CLUSTER_ID.cyoloctl``.  Certificates are ECDSA over P-256,
the CA is constrained to the names of its cluster, and what must reach one node
only (the CA key) is sealed with HPKE (RFC 9180, base mode, DHKEM(X25519,
HKDF-SHA256), HKDF-SHA256, AES-256-GCM) to the X25519 key that the node signed
into its certificate request.

Files of a node, in ``DIR/pki`` (0700, every file 0600): ca.crt, ca.key (voters
only), node.crt, node.key, node.csr, sealing.key, operator.crt, operator.key.
Keys and certificates are PEM text, private keys unencrypted PKCS #8.
"""

from __future__ import annotations

import base64
import binascii
import errno
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import ssl
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cyoloctl.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    Conflict,
    InvalidInput,
    StorageError,
    VersionMismatch,
)
from cyoloctl.identity import (
    AccessRole,
    Identity,
    PeerCertificate,
    TlsObject,
    identity_from_peer,
    parse_cluster_id,
    parse_identity,
)
from cyoloctl.model import Address, ClusterId, NodeName, Storage, parse_address, parse_name
from cyoloctl.paths import make_private_directory, sync_directory, write_private

__all__ = [
    "ALPN_HTTP",
    "ALPN_RAFT",
    "ALPN_RAFT_BEFORE",
    "MAX_CERTIFICATE_DAYS",
    "NO_CHECK_TIME",
    "OPERATOR_FILE",
    "PKI_DIRECTORY",
    "AccessRole",
    "Grant",
    "Identity",
    "NodeFiles",
    "NodeRequest",
    "PeerCertificate",
    "PendingRequest",
    "Presented",
    "accept_grant",
    "ca_cluster_id",
    "certificate_dates",
    "certificate_der",
    "certificate_expires_at",
    "certificate_names",
    "certificate_sha256",
    "check_ca",
    "check_credential_request",
    "check_private_files",
    "check_request",
    "create_ca",
    "credentials",
    "decode_grant",
    "decode_request",
    "encode_request",
    "grant",
    "has_ca_key",
    "identity_from_peer",
    "is_issued_by",
    "is_signed_by_ca",
    "issue",
    "key_id",
    "make_credential_request",
    "make_request",
    "new_cluster",
    "new_cluster_id",
    "node_certificate_problem",
    "open_sealed",
    "parse_cluster_id",
    "parse_identity",
    "peer_context",
    "prepare_request",
    "presented",
    "read_authorities",
    "read_ca",
    "read_node_certificate",
    "read_node_keys",
    "read_node_public_key",
    "read_operator",
    "request_sha256",
    "seal",
    "server_context",
    "sign_statement",
    "verify_statement",
    "write_credentials",
]

SCHEMA_VERSION = 1

PKI_DIRECTORY = "pki"
"""The directory's name in the data directory."""

OPERATOR_FILE = "operator.yaml"
"""The name of the operator's credentials in the data directory."""

ALPN_RAFT = "cyoloctl-raft/2"
ALPN_RAFT_BEFORE = ("cyoloctl-raft/1",)
"""Accepted in a handshake only so that both ends can be told which of them must be upgraded."""
ALPN_HTTP = "http/1.1"

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python's ssl has no name for."""

MAX_CERTIFICATE_DAYS = 825
"""Longest, and default, validity of a certificate, in days; platforms refuse longer ones."""

_CA_DAYS = 3650
_EARLY = timedelta(days=1)
"""Validity starts this much early, for clocks that are behind."""

_CA_CERT, _CA_KEY = "ca.crt", "ca.key"
_NODE_CERT, _NODE_KEY, _NODE_REQUEST = "node.crt", "node.key", "node.csr"
_SEALING_KEY = "sealing.key"
_OPERATOR_CERT, _OPERATOR_KEY = "operator.crt", "operator.key"
_OPERATOR_NAME = NodeName("admin")

_MAX_FILE_BYTES = 64 * 1024
_MAX_REQUEST_CHARS = 8 * 1024

# The request's extension that carries the sealing key, as a DER octet string.  Under 2.25 anybody
# may use the number of a UUID of his own (ITU-T X.667): this is c4b0f4a2-6e0d-4d58-9a8f-31b7b1b9f2d6.
_SEALING_OID = x509.ObjectIdentifier(f"2.25.{0xC4B0F4A26E0D4D589A8F31B7B1B9F2D6}")
_SEALING_DER = b"\x04\x20"
_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

# What the library raises for input that is not what it should be.
_DEFECTS = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    UserWarning,  # CryptographyDeprecationWarning is one
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

_T = TypeVar("_T")


# -- certificates -------------------------------------------------------------------------------


def new_cluster_id(random: Callable[[int], bytes] = os.urandom) -> ClusterId:
    """A fresh cluster id: 128 random bits."""
    return ClusterId(random(16).hex())


def create_ca(cluster_id: str, cluster_name: str, now: datetime) -> tuple[str, str]:
    """A new CA, (certificate PEM, private key PEM), valid for 10 years.

    It can issue names under CLUSTER_ID.cyoloctl only (name constraints, RFC
    5280 section 4.2.1.10) and no further CA.  now: with a time zone.
    """
    parse_cluster_id(cluster_id)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    name = _subject(parse_name(cluster_name, "cluster name"), cluster_id)
    start = _utc(now)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _EARLY)
        .not_valid_after(start + timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.NameConstraints([x509.DNSName(f"{cluster_id}.cyoloctl")], None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), _private_pem(key)


def issue(
    ca_cert_pem: str,
    ca_key_pem: str,
    public_key_pem: str,
    identity: Identity,
    *,
    now: datetime,
    days: int = MAX_CERTIFICATE_DAYS,
    beyond_ca: bool = False,
    until: datetime | None = None,
) -> str:
    """A certificate PEM for the holder of a P-256 key.

    public_key_pem: a public key, or a certificate request (only its key is
    taken: check_request first).  days: 1 to 825, from now; until: its end, in
    place of days; never beyond the CA's own end, unless beyond_ca: nodes judge
    each other's certificates and not the CA's dates, and must be able to
    exchange a CA that has ended.  A node's certificate serves and dials, the
    others only dial.

    Raises InvalidInput for the key or days, ConfigError when the CA is not
    valid now, belongs to another cluster or does not match its key.
    """
    if not 1 <= days <= MAX_CERTIFICATE_DAYS:
        raise InvalidInput(f"a certificate cannot be valid for {days} days: use 1 to {MAX_CERTIFICATE_DAYS}")
    start = _utc(now)
    ca, ca_key = _load_ca(ca_cert_pem, ca_key_pem)
    if _ca_cluster_id(ca) != identity.cluster_id:
        raise ConfigError("this CA is of another cluster: use the CA of the cluster to issue for")
    if not beyond_ca and not ca.not_valid_before_utc <= start < ca.not_valid_after_utc:
        raise ConfigError(
            f"the CA is valid from {ca.not_valid_before_utc:%Y-%m-%d} to {ca.not_valid_after_utc:%Y-%m-%d}, "
            f"and the clock says {start:%Y-%m-%d}: set the clock, or make a new cluster"
        )
    public = _load_public_key(public_key_pem)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.role == "node":
        purposes.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    end = until or start + timedelta(days=days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_subject(identity.name, identity.role))
        .issuer_name(ca.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _EARLY if beyond_ca else max(start - _EARLY, ca.not_valid_before_utc))
        .not_valid_after(end if beyond_ca else min(end, ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(str(identity))]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return _pem(certificate)


def certificate_expires_at(pem: str) -> datetime:
    """The last moment (UTC) at which a certificate is valid.  Raises InvalidInput."""
    return _load_certificate(pem).not_valid_after_utc


def certificate_dates(pem: str) -> tuple[datetime, datetime]:
    """The first and last moment (UTC) at which a certificate is valid.  Raises InvalidInput."""
    certificate = _load_certificate(pem)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def certificate_names(pem: str) -> list[str]:
    """The names in a certificate: of ours exactly one.  Raises InvalidInput."""
    return _dns_names(_load_certificate(pem).extensions)


def certificate_der(pem: str) -> bytes:
    """A certificate in DER.  Raises InvalidInput."""
    return _load_certificate(pem).public_bytes(serialization.Encoding.DER)


def key_id(pem: str) -> str:
    """The SHA-256, in hex, of the public key (SubjectPublicKeyInfo) in a certificate, request or public key.

    The same key has the same id in all three.  Raises InvalidInput.
    """
    public = _load_public_key(pem)
    return hashlib.sha256(
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def certificate_sha256(pem: str) -> str:
    """The SHA-256, in hex, of a certificate: what ``openssl x509 -fingerprint -sha256`` prints.

    Raises InvalidInput.
    """
    return _load_certificate(pem).fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True, slots=True)
class Presented:
    """What the certificate of a finished handshake says.

    key_hash: as of `key_id`.  expires_unix_ms: the moment from which on it is
    out of date; nobody has compared it with a clock yet.
    """

    identity: Identity
    key_hash: str
    expires_unix_ms: int


def presented(ssl_object: TlsObject | None, *, cluster_id: str) -> Presented | None:
    """Who presented which key in a finished handshake; None where no certificate was presented.

    Chain and purpose were checked by the handshake (of a context that asks for
    certificates); dates and register are for the caller to judge.  Raises
    AccessDenied for a certificate that does not carry exactly one name,
    exactly of our form, of this cluster.
    """
    der = None if ssl_object is None else ssl_object.getpeercert(True)
    if der is None:
        return None
    found = _read_presented(der)
    if found is None or found.identity.cluster_id != cluster_id:
        raise AccessDenied("the certificate does not name a member of this cluster: use one issued by it")
    return found


# A connection is judged again every second; parsing each time would cost 100 times as much as asking.
@functools.lru_cache(maxsize=4096)
def _read_presented(der: bytes) -> Presented | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            certificate = x509.load_der_x509_certificate(der)
            names = _dns_names(certificate.extensions)
            spki = certificate.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            ends = certificate.not_valid_after_utc
    except _DEFECTS:
        return None
    identity = parse_identity(names[0]) if len(names) == 1 else None
    if identity is None:
        return None
    return Presented(identity, hashlib.sha256(spki).hexdigest(), int(ends.timestamp() * 1000))


# -- statements ---------------------------------------------------------------------------------


def sign_statement(node_key_pem: str, statement: bytes) -> str:
    """A signature (ECDSA, SHA-256, base64) with the key of a node's certificate.  Raises ConfigError."""
    return base64.b64encode(_load_key(node_key_pem).sign(statement, ec.ECDSA(hashes.SHA256()))).decode()


def verify_statement(
    statement: bytes,
    signature: str,
    certificate_pem: str,
    *,
    ca_pem: str,
    name: str,
    cluster_id: str,
    now: datetime,
) -> None:
    """Check that the node of this name in this cluster signed a statement.

    The CA must be the cluster's own, the certificate issued by it, not ended
    by now, and that node's and nobody else's.  Whether the CA is the right one
    is for the caller to know.

    Raises InvalidInput with what is wrong.
    """
    ca, certificate = (_load_certificate(pem, canonical=True) for pem in (ca_pem, certificate_pem))
    identity = Identity(parse_name(name), "node", parse_cluster_id(cluster_id))
    problem = _certificate_problem(certificate, ca, identity)
    if problem is None and _ca_cluster_id(ca) != cluster_id:
        problem = "its CA is of another cluster"
    moment = _utc(now)
    # Its beginning says nothing: it may have been issued while the time was wrong.
    if problem is None and moment > certificate.not_valid_after_utc:
        problem = (
            f"its certificate ended at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}, "
            f"and the time is {moment:%Y-%m-%dT%H:%M:%SZ}"
        )
    if problem is None:
        try:
            _p256(certificate.public_key).verify(_b64decode(signature), statement, ec.ECDSA(hashes.SHA256()))
        except _DEFECTS:
            problem = "its signature is wrong"
    if problem is not None:
        raise InvalidInput(
            f"the statement of node {name} cannot be trusted: {problem}; let the node make it anew"
        )


# -- sealing ------------------------------------------------------------------------------------


def seal(sealing_key: str, plaintext: bytes, info: bytes) -> str:
    """Encrypt to the holder of a sealing key, base64.

    sealing_key: an X25519 public key, base64.  info: what it is for; opening
    needs the same.  Raises InvalidInput for a key that is not one.
    """
    try:
        return base64.b64encode(_HPKE.encrypt(plaintext, _sealing_public(sealing_key), info)).decode()
    except ValueError:  # a point of low order: the shared secret would be known to everybody
        raise InvalidInput("the sealing key is not valid: make a new request") from None


def open_sealed(sealing_key_pem: str, sealed: str, info: bytes) -> bytes:
    """Decrypt what was sealed to this key with this info.

    Raises InvalidInput, the same for every reason, ConfigError for a private
    key that is not one.
    """
    try:
        return _HPKE.decrypt(_b64decode(sealed), _load_sealing_key(sealing_key_pem), info)
    except (InvalidTag, ValueError):
        raise InvalidInput(
            "this was not sealed for this node, or it was damaged: ask for it again with this node's request"
        ) from None


def _ca_key_info(cluster_id: str, name: str) -> bytes:
    # Neither part can hold a zero byte, so no other pair gives the same bytes.
    return b"\0".join([b"cyoloctl ca-key 1", cluster_id.encode(), name.encode()])


# -- requests -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A node's own keys and the request that they signed.  repr shows no private key."""

    name: NodeName
    request_pem: str
    sealing_key: str
    node_key_pem: str = field(repr=False)
    sealing_key_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NodeRequest:
    """What a node sends, or carries on a stick, to be admitted: no secrets.

    address: where others can dial it.  sealing_key: X25519 public key, base64,
    the one that the request signs.
    """

    name: NodeName
    address: Address
    request_pem: str
    sealing_key: str


def make_request(
    name: str,
    cluster_id: str | None = None,
    *,
    node_key_pem: str | None = None,
    sealing_key_pem: str | None = None,
) -> PendingRequest:
    """A certificate request, signed by the key it asks a certificate for, with the sealing key in it.

    cluster_id: None where the node does not know its cluster yet.  Keys are
    made where none are given.  Raises InvalidInput, ConfigError for keys.
    """
    identity_name = parse_name(name)
    key = _load_key(node_key_pem) if node_key_pem else ec.generate_private_key(ec.SECP256R1())
    sealing = _load_sealing_key(sealing_key_pem) if sealing_key_pem else x25519.X25519PrivateKey.generate()
    sealing_public = sealing.public_key().public_bytes_raw()
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(identity_name, "node"))
        .add_extension(
            x509.UnrecognizedExtension(_SEALING_OID, _SEALING_DER + sealing_public), critical=False
        )
    )
    if cluster_id is not None:
        identity = Identity(identity_name, "node", ClusterId(cluster_id))
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(str(identity))]), critical=False
        )
    return PendingRequest(
        name=identity_name,
        request_pem=_pem(builder.sign(key, hashes.SHA256())),
        sealing_key=base64.b64encode(sealing_public).decode(),
        node_key_pem=_private_pem(key),
        sealing_key_pem=_private_pem(sealing),
    )


def prepare_request(pki_dir: Path, name: str, cluster_id: str | None = None) -> PendingRequest:
    """The request of the node in a directory, on the disk before anybody sees it.

    Idempotent: keys that are there are used and never replaced, and a request
    that still fits is given again, byte for byte, so that joining can be tried
    again after a crash with the same token, and a certificate be renewed.

    Raises ConfigError for unusable files, StorageError.
    """
    make_private_directory(pki_dir)
    paths = {file: pki_dir / file for file in (_NODE_KEY, _SEALING_KEY, _NODE_REQUEST)}
    have = {file: _read(path) for file, path in paths.items() if os.path.lexists(path)}
    for file in (_NODE_KEY, _SEALING_KEY):
        if file in have:
            _check_mode(paths[file])
    pending = make_request(
        name, cluster_id, node_key_pem=have.get(_NODE_KEY), sealing_key_pem=have.get(_SEALING_KEY)
    )
    for file, text in ((_NODE_KEY, pending.node_key_pem), (_SEALING_KEY, pending.sealing_key_pem)):
        if file not in have:
            write_private(paths[file], text.encode(), exclusive=True)
    earlier = have.get(_NODE_REQUEST)
    if earlier is not None:
        try:
            check_request(earlier, name, pending.sealing_key, cluster_id)
            if key_id(earlier) == key_id(pending.request_pem):
                return PendingRequest(
                    pending.name,
                    earlier,
                    pending.sealing_key,
                    pending.node_key_pem,
                    pending.sealing_key_pem,
                )
        except InvalidInput:
            pass  # it asks for something else now
    write_private(paths[_NODE_REQUEST], pending.request_pem.encode())
    return pending


def check_request(request_pem: str, name: str, sealing_key: str, cluster_id: str | None) -> None:
    """Check that a request asks for this name and sealing key, signed by the key it is for.

    cluster_id: ours; a request that names a cluster must name this one.
    Raises InvalidInput: the key is not P-256, the signature is wrong, or the
    name, the sealing key or the cluster is another.
    """
    request = _load_request(request_pem)
    sealed_to = _SEALING_DER + _sealing_public(sealing_key).public_bytes_raw()
    try:
        with warnings.catch_warnings():
            # The library only warns of a name that the standard forbids.
            warnings.simplefilter("error")
            subject = request.subject
        common = [str(item.value) for item in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        names = _dns_names(request.extensions)
        sealing = request.extensions.get_extension_for_oid(_SEALING_OID).value
        signed = request.is_signature_valid
    except _DEFECTS:
        raise _request_error("it is damaged") from None
    _p256(request.public_key)
    if not signed:
        raise _request_error("its signature is wrong")
    if common != [name]:
        raise _request_error(f"it is not for {name!r}")
    if not isinstance(sealing, x509.UnrecognizedExtension) or sealing.value != sealed_to:
        raise _request_error("its sealing key is another")
    if names and cluster_id is not None and names != [f"{name}.node.{cluster_id}.cyoloctl"]:
        raise _request_error("it is for another cluster or name")


def request_sha256(request_pem: str) -> str:
    """The SHA-256, in hex, of a request's DER: how the log tells a repeated redemption from a second one.

    Raises InvalidInput.
    """
    der = _load_request(request_pem).public_bytes(serialization.Encoding.DER)
    return hashlib.sha256(der).hexdigest()


def encode_request(request: NodeRequest) -> str:
    """A request file: one JSON object, for a node that cannot reach the cluster.  No secrets."""
    return _json_text(
        {
            "schema_version": SCHEMA_VERSION,
            "name": request.name,
            "address": str(request.address),
            "request_pem": request.request_pem,
            "sealing_key": request.sealing_key,
        }
    )


def decode_request(text: str) -> NodeRequest:
    """The request in a request file, checked as by check_request.

    Raises InvalidInput, VersionMismatch for one of a newer release.
    """
    value = _json_object(text, "request", _MAX_FILE_BYTES)
    _fields(value, "request", name=str, address=str, request_pem=str, sealing_key=str)
    check_request(value["request_pem"], parse_name(value["name"]), value["sealing_key"], None)
    return NodeRequest(
        NodeName(value["name"]), parse_address(value["address"]), value["request_pem"], value["sealing_key"]
    )


# -- grants -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """An accepted grant: which cluster the node is in now.

    storage: where the cluster keeps its log, disk or memory.  peers: where to dial first.
    has_ca_key: whether this node can admit others.
    """

    cluster_id: ClusterId
    cluster: NodeName
    name: NodeName
    learner: bool
    storage: Storage
    peers: Mapping[NodeName, Address]
    has_ca_key: bool
    certificate_expires_at: datetime


def grant(
    *,
    ca_cert_pem: str,
    ca_key_pem: str,
    request_pem: str,
    sealing_key: str,
    name: str,
    cluster: str,
    learner: bool,
    storage: Storage,
    peers: Mapping[str, Address],
    now: datetime,
    days: int = MAX_CERTIFICATE_DAYS,
    hand_over_ca_key: bool = True,
    trust_pem: str | None = None,
) -> dict[str, Any]:
    """Answer a request: the JSON object that makes a node a member.

    Whether the requester may become one was decided before (an invitation, or
    the operator).  hand_over_ca_key: False where the CA key stays offline;
    learners never get it.  days: validity of the certificate, 1 to 825.
    trust_pem: every CA that the node must trust, where that is more than this one.

    Raises InvalidInput for the request (check_request), ConfigError for the CA.
    """
    ca, _ = _load_ca(ca_cert_pem, ca_key_pem)
    cluster_id = _ca_cluster_id(ca)
    check_request(request_pem, name, sealing_key, cluster_id)
    identity = Identity(parse_name(name), "node", cluster_id)
    certificate = issue(ca_cert_pem, ca_key_pem, request_pem, identity, now=now, days=days, beyond_ca=True)
    sealed = None
    if hand_over_ca_key and not learner:
        sealed = seal(sealing_key, ca_key_pem.encode(), _ca_key_info(cluster_id, name))
    return {
        "schema_version": SCHEMA_VERSION,
        "cluster_id": cluster_id,
        "cluster": parse_name(cluster, "cluster name"),
        "name": identity.name,
        "learner": learner,
        "certificate_pem": certificate,
        "ca_pem": trust_pem or _pem(ca),
        "storage": storage,
        "peers": {parse_name(peer): str(address) for peer, address in peers.items()},
        "ca_key_sealed": sealed,
    }


def decode_grant(text: str) -> dict[str, Any]:
    """The object in a grant file.  Raises InvalidInput; accept_grant checks what is in it."""
    return _json_object(text, "grant", 1 << 20)


def accept_grant(
    pki_dir: Path,
    value: object,
    *,
    name: str,
    cluster_id: str | None = None,
    ca_sha256: str | None = None,
) -> Grant:
    """Verify a grant against this node's keys and write its certificate, the CA and the CA key.

    value: the grant object.  cluster_id, ca_sha256: what the join token
    pinned (one digest, or two with a comma); None only where the grant came by
    hand.  No CA is trusted that is not pinned.  A directory that already
    trusts a CA accepts no other.  Dates are not judged: the cluster set them by
    its time, and this machine's clock may be wrong.  Idempotent.  Nothing is
    written unless all of it holds.

    Raises InvalidInput where the grant is malformed, or for another key, name,
    cluster or CA; Conflict where the directory belongs to another cluster;
    VersionMismatch, ConfigError, StorageError.
    """
    fields = _fields(
        value,
        "grant",
        cluster_id=str,
        cluster=str,
        name=str,
        learner=bool,
        certificate_pem=str,
        ca_pem=str,
        storage=str,
        peers=dict,
        ca_key_sealed=(str, type(None)),
    )
    granted_id = parse_cluster_id(fields["cluster_id"])
    cluster = parse_name(fields["cluster"], "cluster name")
    peers = {parse_name(key): parse_address(_string(item, "grant")) for key, item in fields["peers"].items()}
    if fields["storage"] not in ("disk", "memory"):
        raise _grant_error("its storage is neither disk nor memory")
    if fields["name"] != name:
        raise _grant_error(f"it is not for {name!r}")
    if cluster_id is not None and granted_id != cluster_id:
        raise _grant_error("it is for another cluster")

    authorities = _load_authorities(fields["ca_pem"])
    if {_ca_cluster_id(each) for each in authorities} != {granted_id}:
        raise _grant_error("its CA is of another cluster")
    if ca_sha256 is not None:
        # Whoever answers may name more CAs than the token does, and could have made them.  One that takes
        # the place of a pinned one is in the log, with that one's signature.
        pinned = ca_sha256.split(",")
        authorities = [each for each in authorities if each.fingerprint(hashes.SHA256()).hex() in pinned]
    if not authorities:
        raise _grant_error("its CA is not the one that the token names")
    trusted = pki_dir / _CA_CERT
    if os.path.lexists(trusted) and not any(
        each in authorities for each in _from_file(trusted, _load_authorities)
    ):
        raise Conflict(f"{trusted} is of another cluster: use an empty data directory")

    certificate = _load_certificate(fields["certificate_pem"], canonical=True)
    ca = next((each for each in authorities if _is_issued_by(certificate, each)), authorities[0])
    identity = Identity(parse_name(name), "node", granted_id)
    problem = _certificate_problem(certificate, ca, identity)
    if problem is not None:
        raise _grant_error(problem)
    _check_mode(pki_dir / _NODE_KEY)
    _check_mode(pki_dir / _SEALING_KEY)
    if certificate.public_key() != _from_file(pki_dir / _NODE_KEY, _load_key).public_key():
        raise _grant_error("its certificate is for another key than this node's")

    ca_key: str | None = None
    if fields["ca_key_sealed"] is not None:
        if fields["learner"]:
            raise _grant_error("a learner gets no CA key")
        info = _ca_key_info(granted_id, name)
        ca_key = _ca_key_text(
            open_sealed(_read(pki_dir / _SEALING_KEY), fields["ca_key_sealed"], info), _pem(ca)
        )

    # The CA first: node.crt, which makes the directory usable, never stands without it.
    write_private(trusted, "".join(map(_pem, authorities)).encode())
    if ca_key is not None:
        write_private(pki_dir / _CA_KEY, ca_key.encode())
    write_private(pki_dir / _NODE_CERT, fields["certificate_pem"].encode())
    return Grant(
        cluster_id=granted_id,
        cluster=cluster,
        name=identity.name,
        learner=fields["learner"],
        storage=cast(Storage, fields["storage"]),
        peers=peers,
        has_ca_key=ca_key is not None,
        certificate_expires_at=certificate.not_valid_after_utc,
    )


def _ca_key_text(opened: bytes, ca_pem: str) -> str:
    try:
        text = opened.decode("ascii")
        _load_ca(ca_pem, text)
    except (UnicodeDecodeError, ConfigError):
        raise _grant_error("its CA key does not belong to its CA") from None
    return text


# -- credentials --------------------------------------------------------------------------------


def credentials(
    ca_cert_pem: str,
    ca_key_pem: str,
    *,
    name: str,
    role: Literal["operator", "gateway", "viewer"],
    now: datetime,
    days: int = MAX_CERTIFICATE_DAYS,
) -> dict[str, Any]:
    """A new key and certificate for a person or script, as the object of a credentials file.

    It holds the private key: write it with write_credentials.  Raises as issue does.
    """
    ca = _load_certificate(ca_cert_pem)
    identity = Identity(parse_name(name), role, _ca_cluster_id(ca))
    key = ec.generate_private_key(ec.SECP256R1())
    return {
        "schema_version": SCHEMA_VERSION,
        "role": role,
        "name": identity.name,
        "cluster_id": identity.cluster_id,
        "ca_pem": _pem(ca),
        "certificate_pem": issue(ca_cert_pem, ca_key_pem, _public_pem(key), identity, now=now, days=days),
        "key_pem": _private_pem(key),
    }


def make_credential_request(name: str, role: str, key_pem: str | None = None) -> tuple[str, str]:
    """A request for a certificate of credentials, and its private key, both PEM.

    key_pem: the key to use; None: a new one.  Raises InvalidInput, ConfigError for the key.
    """
    if role not in ("viewer", "gateway", "operator"):
        raise InvalidInput(f"role {role!r} is not valid: use viewer, gateway or operator")
    key = _load_key(key_pem) if key_pem else ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(parse_name(name), role))
    return _pem(builder.sign(key, hashes.SHA256())), _private_pem(key)


def check_credential_request(request_pem: str, name: str, role: str) -> None:
    """Check that a request asks for credentials of this name and role, signed by the key it is for.

    Raises InvalidInput.
    """
    request = _load_request(request_pem)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            subject = request.subject
        common = [str(item.value) for item in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        unit = [str(item.value) for item in subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
        signed = request.is_signature_valid
    except _DEFECTS:
        raise _credential_error("it is damaged") from None
    _p256(request.public_key)
    if not signed:
        raise _credential_error("its signature is wrong")
    if (common, unit) != ([name], [role]):
        raise _credential_error(f"it is not for {role} {name}")


def read_operator(pki_dir: Path) -> tuple[str, str, int] | None:
    """Name, key hash and end (Unix ms) of the operator's certificate in a founder's directory.

    None where there is none.  Raises ConfigError for one that cannot be read.
    """
    path = pki_dir / _OPERATOR_CERT
    if not os.path.lexists(path):
        return None
    certificate = _from_file(path, _load_certificate)
    names = _dns_names(certificate.extensions)
    identity = parse_identity(names[0]) if len(names) == 1 else None
    if identity is None or identity.role != "operator":
        raise ConfigError(f"{path} names no operator: restore the right one")
    pem = _pem(certificate)
    return str(identity.name), key_id(pem), int(certificate.not_valid_after_utc.timestamp() * 1000)


def write_credentials(
    path: str | os.PathLike[str], bundle: Mapping[str, Any], *, exclusive: bool = False
) -> None:
    """Write a credentials file, mode 0600: JSON, which is YAML, so that clients need no YAML reader.

    exclusive: raise AlreadyExists rather than replace a file.  Raises StorageError.
    """
    write_private(path, _json_text(bundle).encode(), exclusive=exclusive)


# -- the directory ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """What check_private_files found in a node's pki directory; no private keys.

    ca_pem: the CA that issued the node's certificate.  authorities: all CAs
    that the directory trusts, more than one while they are exchanged.
    """

    identity: Identity
    ca_pem: str
    authorities: tuple[str, ...]
    certificate_pem: str
    certificate_expires_at: datetime
    sealing_key: str
    has_ca_key: bool


def new_cluster(
    data_dir: Path,
    *,
    name: str,
    cluster: str,
    now: datetime,
    cluster_id: str | None = None,
    offline_ca_key: Path | None = None,
    days: int = MAX_CERTIFICATE_DAYS,
) -> NodeFiles:
    """Make the pki directory and operator.yaml of the first node of a new cluster.

    cluster_id: random where none is given.  offline_ca_key: the only place
    where the CA's key is written, instead of the pki directory; it must not be there.

    The directory appears whole or not at all.  Raises AlreadyExists where one
    is there, InvalidInput for the names, StorageError.
    """
    pki_dir = data_dir / PKI_DIRECTORY
    if os.path.lexists(pki_dir):
        raise AlreadyExists(f"{pki_dir} is already there: choose another data directory")
    identity = Identity(parse_name(name), "node", ClusterId(cluster_id or new_cluster_id()))
    ca_cert, ca_key = create_ca(identity.cluster_id, cluster, now)
    pending = make_request(name, identity.cluster_id)
    node_cert = issue(ca_cert, ca_key, pending.request_pem, identity, now=now, days=days)
    operator = credentials(ca_cert, ca_key, name=_OPERATOR_NAME, role="operator", now=now, days=days)
    files = {
        _CA_CERT: ca_cert,
        _NODE_CERT: node_cert,
        _NODE_KEY: pending.node_key_pem,
        _NODE_REQUEST: pending.request_pem,
        _SEALING_KEY: pending.sealing_key_pem,
        _OPERATOR_CERT: operator["certificate_pem"],
        _OPERATOR_KEY: operator["key_pem"],
    }
    make_private_directory(data_dir)
    if offline_ca_key is None:
        files[_CA_KEY] = ca_key
    else:
        write_private(offline_ca_key, ca_key.encode(), exclusive=True)
    staging: str | None = None
    try:
        staging = tempfile.mkdtemp(prefix=".pki.", dir=data_dir)
        for file, text in files.items():
            write_private(Path(staging, file), text.encode(), exclusive=True)
        os.rename(staging, pki_dir)
        staging = None
        sync_directory(data_dir)
    except OSError as error:
        raise StorageError(
            f"cannot make {pki_dir}: {error.strerror}; make space or correct the permissions, then try again"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    write_credentials(data_dir / OPERATOR_FILE, operator)
    return check_private_files(pki_dir, name=name, cluster_id=identity.cluster_id)


def check_private_files(
    pki_dir: Path, *, name: str, cluster_id: str, now: datetime | None = None
) -> NodeFiles:
    """Check that a node's files are there, private, and belong together.

    name, cluster_id: from node.yaml.  now: also refuse a certificate that is
    not valid at that time.  Private keys, and the operator's file beside the
    directory, must be closed to group and others (ssh does the same).

    Raises ConfigError that names the file and the remedy.
    """
    _check_mode(pki_dir, directory=True)
    keys = [_NODE_KEY, _SEALING_KEY]
    keys += [file for file in (_CA_KEY, _OPERATOR_KEY) if os.path.lexists(pki_dir / file)]
    for file in keys:
        _check_mode(pki_dir / file)
    if os.path.lexists(pki_dir.parent / OPERATOR_FILE):
        _check_mode(pki_dir.parent / OPERATOR_FILE)

    authorities = _from_file(pki_dir / _CA_CERT, _load_authorities)
    certificate = _from_file(pki_dir / _NODE_CERT, _load_certificate)
    key = _from_file(pki_dir / _NODE_KEY, _load_key)
    sealing = _from_file(pki_dir / _SEALING_KEY, _load_sealing_key)
    identity = Identity(parse_name(name), "node", parse_cluster_id(cluster_id))
    if {_ca_cluster_id(each) for each in authorities} != {cluster_id}:
        raise ConfigError(f"{pki_dir / _CA_CERT} is of another cluster than node.yaml: restore the right one")
    ca = next((each for each in authorities if _is_issued_by(certificate, each)), authorities[0])
    problem = _certificate_problem(certificate, ca, identity)
    if problem is None and certificate.public_key() != key.public_key():
        problem = f"it does not match {pki_dir / _NODE_KEY}"
    if problem is not None:
        raise ConfigError(
            f"{pki_dir / _NODE_CERT} cannot be used: {problem}; "
            "restore the right files, or correct name and cluster in node.yaml"
        )
    if _CA_KEY in keys:
        _from_file(pki_dir / _CA_KEY, lambda pem: _ca_of_key(authorities, pem))
    if now is not None:
        _check_dates(certificate, pki_dir / _NODE_CERT, _utc(now))
    return NodeFiles(
        identity=identity,
        ca_pem=_pem(ca),
        authorities=tuple(_pem(each) for each in authorities),
        certificate_pem=_pem(certificate),
        certificate_expires_at=certificate.not_valid_after_utc,
        sealing_key=base64.b64encode(sealing.public_key().public_bytes_raw()).decode(),
        has_ca_key=_CA_KEY in keys,
    )


def read_node_keys(pki_dir: Path) -> tuple[str, str]:
    """The node's private keys in PEM: its certificate's, and the sealing key.  Raises ConfigError."""
    return _read(pki_dir / _NODE_KEY), _read(pki_dir / _SEALING_KEY)


def has_ca_key(pki_dir: Path) -> bool:
    """Whether this node holds the CA key now."""
    return os.path.lexists(pki_dir / _CA_KEY)


def read_ca(pki_dir: Path, *, ca_key: Path | None = None) -> tuple[str, str]:
    """The cluster's CA, (certificate PEM, private key PEM), of a voter.

    ca_key: where the key is, for a CA that is kept offline.  Raises
    ConfigError, also where this node holds no CA key.
    """
    # A key that somebody names may be behind a link, on a stick say; in our directory there are none.
    path = pki_dir / _CA_KEY if ca_key is None else Path(os.path.realpath(ca_key))
    if not os.path.lexists(path):
        raise ConfigError(
            f"{path} is not there: this node cannot issue certificates; "
            "ask a voter that holds the CA key, or name the file of an offline CA"
        )
    _check_mode(path)
    authorities = _from_file(pki_dir / _CA_CERT, _load_authorities)
    return _pem(_from_file(path, lambda pem: _ca_of_key(authorities, pem))), _read(path)


def read_authorities(pki_dir: Path) -> tuple[str, ...]:
    """The CAs that a node trusts, each in PEM: one, or two while they are exchanged.  Raises ConfigError."""
    return tuple(_pem(each) for each in _from_file(pki_dir / _CA_CERT, _load_authorities))


def is_issued_by(certificate_der: bytes, ca_pem: str) -> bool:
    """Whether a CA signed a certificate (DER); its names and dates are not looked at."""
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
    except _DEFECTS:
        return False
    return _is_issued_by(certificate, _load_certificate(ca_pem))


def read_node_certificate(pki_dir: Path) -> str:
    """The text of node.crt.  Raises ConfigError."""
    return _read(pki_dir / _NODE_CERT)


def read_node_public_key(pki_dir: Path) -> str:
    """The public key, in PEM, of a node's certificates.  Raises ConfigError."""
    return _public_pem(_from_file(pki_dir / _NODE_KEY, _load_key))


def node_certificate_problem(
    certificate_pem: str, authorities: Iterable[str], identity: Identity, public_key_pem: str
) -> str | None:
    """What makes a certificate useless as this node's, or None.  Dates are not looked at.

    authorities: the CAs (PEM) that may have issued it.  Raises InvalidInput
    for what is no certificate.
    """
    certificate = _load_certificate(certificate_pem, canonical=True)
    issuers = [ca for ca in map(_load_certificate, authorities) if _is_issued_by(certificate, ca)]
    if not issuers:
        return "it was issued by another CA"
    if key_id(certificate_pem) != key_id(public_key_pem):
        return "it is for another key than this node's"
    return _certificate_problem(certificate, issuers[0], identity)


def check_ca(ca_cert_pem: str, ca_key_pem: str) -> None:
    """Check that this is a cluster's CA and its private key.  Raises ConfigError."""
    _load_ca(ca_cert_pem, ca_key_pem)


def ca_cluster_id(ca_pem: str) -> ClusterId:
    """The cluster whose CA this is.  Raises InvalidInput for what is no cluster's CA."""
    return _ca_cluster_id(_load_certificate(ca_pem, canonical=True))


def is_signed_by_ca(statement: bytes, signature: str, ca_pem: str) -> bool:
    """Whether a CA's own key signed a statement (`sign_statement`)."""
    public = _p256(_load_certificate(ca_pem).public_key)
    try:
        public.verify(_b64decode(signature), statement, ec.ECDSA(hashes.SHA256()))
    except _DEFECTS:
        return False
    return True


# -- TLS ----------------------------------------------------------------------------------------


def server_context(pki_dir: Path) -> ssl.SSLContext:
    """TLS for the one port of a node: TLS 1.3, both protocols, client certificates optional.

    A certificate that is presented is verified against the cluster's CA; who
    it is, `presented` tells.  Without one the routes decide.  Raises ConfigError.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, pki_dir)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols([ALPN_RAFT, *ALPN_RAFT_BEFORE, ALPN_HTTP])
    # No resumption: each connection shows its certificate.
    context.num_tickets = 0
    return context


def peer_context(pki_dir: Path) -> ssl.SSLContext:
    """TLS for dialling another node: the chain is verified, the address is not.

    The caller must compare what was `presented` with the node it meant: role
    "node" and the name.  Raises ConfigError.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, pki_dir)
    context.check_hostname = False  # certificates name nodes, not addresses
    context.set_alpn_protocols([ALPN_RAFT, *ALPN_RAFT_BEFORE])
    return context


def _context(protocol: ssl._SSLMethod, pki_dir: Path) -> ssl.SSLContext:
    certificate, key, ca = pki_dir / _NODE_CERT, pki_dir / _NODE_KEY, pki_dir / _CA_CERT
    ca_pem = _read(ca)
    _read(certificate)
    _read(key)
    checked = os.lstat(key)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The default of Python 3.13 on every version (RFC 5280 to the letter).
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    # The dates of the other end's certificate are judged after the handshake, by the cluster's time:
    # OpenSSL would ask this machine's clock, which may be the one that is wrong.
    context.verify_flags |= NO_CHECK_TIME
    try:
        context.load_verify_locations(cadata=ca_pem)
        # With a password, or OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
        # OpenSSL opens the file by its name: it must still be the one that was looked at.
        now = os.lstat(key)
        if (now.st_dev, now.st_ino, now.st_mode) != (checked.st_dev, checked.st_ino, checked.st_mode):
            raise ValueError("the key was exchanged meanwhile")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(
            f"{certificate}, {key} and {ca} do not make a TLS identity ({error}): restore the right files"
        ) from error
    return context


# -- below: parts -------------------------------------------------------------------------------


def _utc(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError("now needs a time zone")
    return now.astimezone(UTC).replace(microsecond=0)


def _subject(common_name: str, unit: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cyoloctl"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(item: x509.Certificate | x509.CertificateSigningRequest) -> str:
    return item.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _private_pem(key: ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")


def _public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode("ascii")
    )


def _load_certificate(pem: str, *, canonical: bool = False) -> x509.Certificate:
    """canonical: exactly one certificate and nothing else, as we write it."""
    try:
        with warnings.catch_warnings():
            # What the library merely announces to refuse one day is refused today.
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
            _p256(certificate.public_key)
            _ = certificate.extensions
        if canonical and _pem(certificate) != pem:
            raise ValueError
    except (InvalidInput, *_DEFECTS):
        raise InvalidInput("this is not a certificate that cyoloctl issued: use the right file") from None
    return certificate


def _load_authorities(text: str) -> list[x509.Certificate]:
    """One CA of a cluster after another, and nothing else."""
    end = "-----END CERTIFICATE-----\n"
    pems = [part + end for part in text.split(end)[:-1]]
    found = [_load_certificate(pem, canonical=True) for pem in pems]
    if not found or "".join(pems) != text or len(set(pems)) != len(pems):
        raise InvalidInput("this is not the CA of a cyoloctl cluster: use the right file")
    for each in found:
        _ca_cluster_id(each)
    return found


def _is_issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except _DEFECTS:
        return False
    return True


def _ca_of_key(authorities: list[x509.Certificate], key_pem: str) -> x509.Certificate:
    """The CA whose private key this is.  Raises ConfigError."""
    try:
        public = _load_key(key_pem).public_key()
    except ConfigError:
        raise ConfigError("the CA key cannot be used: restore the right one") from None
    for each in authorities:
        if each.public_key() == public:
            return each
    raise ConfigError("the CA key does not belong to the CA certificate: restore the right one")


def _load_request(pem: str) -> x509.CertificateSigningRequest:
    try:
        if len(pem) > _MAX_REQUEST_CHARS:
            raise ValueError
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        if _pem(request) != pem:
            raise ValueError
    except _DEFECTS:
        raise _request_error("it is damaged") from None
    return request


def _p256(public_key: Callable[[], object]) -> ec.EllipticCurvePublicKey:
    try:
        key = public_key()
    except _DEFECTS:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput("the key is not a P-256 key: make a new request with cyoloctl")
    return key


def _load_public_key(pem: str) -> ec.EllipticCurvePublicKey:
    if "BEGIN CERTIFICATE REQUEST" in pem:
        return _p256(_load_request(pem).public_key)
    if "BEGIN CERTIFICATE" in pem:
        return _p256(_load_certificate(pem).public_key)
    return _p256(lambda: serialization.load_pem_public_key(pem.encode("ascii")))


def _load_key(pem: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode("ascii"), password=None)
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return key
    except _DEFECTS:
        pass
    raise ConfigError("this is not an unencrypted P-256 private key: restore the right one")


def _load_sealing_key(pem: str) -> x25519.X25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode("ascii"), password=None)
        if isinstance(key, x25519.X25519PrivateKey):
            return key
    except _DEFECTS:
        pass
    raise ConfigError("this is not an unencrypted X25519 private key: restore the right one")


def _load_ca(cert_pem: str, key_pem: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        ca = _load_certificate(cert_pem)
        _ca_cluster_id(ca)
    except InvalidInput as error:
        raise ConfigError(f"the CA certificate cannot be used: {error.message}") from None
    try:
        key = _load_key(key_pem)
    except ConfigError:
        raise ConfigError("the CA key cannot be used: restore the right one") from None
    if key.public_key() != ca.public_key():
        raise ConfigError("the CA key does not belong to the CA certificate: restore the right one")
    return ca, key


def _ca_cluster_id(ca: x509.Certificate) -> ClusterId:
    """The cluster whose CA this is.  Raises InvalidInput for what create_ca would not have made."""
    try:
        ca.verify_directly_issued_by(ca)
        basic = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
        limits = ca.extensions.get_extension_for_class(x509.NameConstraints).value
        names = [item.value for item in limits.permitted_subtrees or () if isinstance(item, x509.DNSName)]
        match = re.fullmatch(r"([0-9a-f]{32})\.cyoloctl", names[0]) if len(names) == 1 else None
        if match and basic.ca and basic.path_length == 0 and usage.key_cert_sign:
            return ClusterId(match[1])
    except _DEFECTS:
        pass
    raise InvalidInput("this is not the CA of a cyoloctl cluster: use the right file")


def _dns_names(extensions: x509.Extensions) -> list[str]:
    """Every subject alternative name; one of another kind makes the list useless on purpose."""
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [item.value if isinstance(item, x509.DNSName) else "(not a DNS name)" for item in names]


def _certificate_problem(
    certificate: x509.Certificate, ca: x509.Certificate, identity: Identity
) -> str | None:
    """What makes a certificate useless as this identity's, or None.  Dates are not looked at."""
    try:
        certificate.verify_directly_issued_by(ca)
    except _DEFECTS:
        return "its certificate was issued by another CA"
    try:
        names = _dns_names(certificate.extensions)
        purposes = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except _DEFECTS:
        return "its certificate has no purpose or no name"
    if names != [str(identity)]:
        return f"its certificate is for another name or cluster, not {identity}"
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(purposes):
        return "its certificate is not a node's"
    return None


def _check_dates(certificate: x509.Certificate, path: Path, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        raise ConfigError(
            f"{path} is valid from {start:%Y-%m-%dT%H:%M:%SZ} on and the clock says "
            f"{now:%Y-%m-%dT%H:%M:%SZ}: set the clock"
        )
    if now > end:
        raise ConfigError(f"{path} expired at {end:%Y-%m-%dT%H:%M:%SZ}: renew it with `cyoloctl node renew`")


def _sealing_public(text: str) -> x25519.X25519PublicKey:
    try:
        return x25519.X25519PublicKey.from_public_bytes(_b64decode(text))
    except ValueError:
        raise InvalidInput("the sealing key is not valid: make a new request") from None


def _b64decode(text: str) -> bytes:
    """Exactly what b64encode gives.  Raises ValueError."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError from error
    if base64.b64encode(data).decode() != text:
        raise ValueError
    return data


def _check_mode(path: Path, *, directory: bool = False) -> None:
    """Refuse a file that group or others may read, a directory that they may change."""
    if not directory:
        with _opened(path, private=True):
            return
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISDIR(mode):
        raise ConfigError(f"{path} is not a directory: restore the right one")
    if mode & 0o022:
        raise _too_open(path, mode, "700")


def _too_open(path: Path, mode: int, right: str) -> ConfigError:
    return ConfigError(
        f"{path} is open to other users (mode {stat.S_IMODE(mode):04o}): "
        f"run `chmod {right} {shlex.quote(str(path))}`"
    )


def _opened(path: Path, *, private: bool) -> BinaryIO:
    """A file, opened once: what is checked is what is read.  Never through a symbolic link.

    private: refuse one that group or others may read, or that another user owns.
    """
    try:
        # Not blocking: something else that has the name, a pipe say, must not hold us up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConfigError(f"{path} is a symbolic link: put the file itself there") from error
        raise _unreadable(path, error) from error
    found = os.fstat(descriptor)
    problem: ConfigError | None = None
    if not stat.S_ISREG(found.st_mode):
        problem = ConfigError(f"{path} is not a file: restore the right one")
    elif private and found.st_mode & 0o077:
        problem = _too_open(path, found.st_mode, "600")
    elif private and found.st_uid not in (os.geteuid(), 0):
        problem = ConfigError(
            f"{path} belongs to user {found.st_uid}, who can change it: "
            f"run `chown {os.geteuid()} {shlex.quote(str(path))}`"
        )
    if problem is not None:
        os.close(descriptor)
        raise problem
    return open(descriptor, "rb")


def _read(path: Path) -> str:
    """The text of a PEM file; of a key (``*.key``) only when it is private."""
    with _opened(path, private=path.suffix == ".key") as file:
        try:
            data = file.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise _unreadable(path, error) from error
    try:
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError
        return data.decode("ascii")
    except ValueError:
        raise ConfigError(f"{path} is not a PEM file: restore the right one") from None


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot read {path}: {error.strerror}; restore it, or correct owner and permissions")


def _from_file(path: Path, load: Callable[[str], _T]) -> _T:
    text = _read(path)
    try:
        return load(text)
    except (InvalidInput, ConfigError) as error:
        raise ConfigError(f"{path} cannot be used: {error.message}") from None


def _request_error(problem: str) -> InvalidInput:
    return InvalidInput(f"the request cannot be granted: {problem}; make a new one on the node")


def _credential_error(problem: str) -> InvalidInput:
    return InvalidInput(f"the request for credentials cannot be granted: {problem}; make a new one")


def _grant_error(problem: str) -> InvalidInput:
    return InvalidInput(
        f"the grant cannot be accepted: {problem}; ask for a new one with this node's request"
    )


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


def _json_object(text: str, what: str, limit: int) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError
        return found

    try:
        if len(text) > limit:
            raise ValueError
        value = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidInput(f"this is not a {what} file of cyoloctl: use the whole, unchanged file")
    return value


def _fields(value: object, what: str, **types: Any) -> dict[str, Any]:
    """The object's fields, its schema version checked first: a newer one may have others."""
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        raise VersionMismatch(
            f"this {what} was written by a newer release (schema version {version}): upgrade cyoloctl"
        )
    found = _exact(value, what, schema_version=int, **types)
    if version != SCHEMA_VERSION:
        raise InvalidInput(f"this is not a {what} of cyoloctl: use the whole, unchanged file")
    return found


def _exact(value: object, what: str, **types: Any) -> dict[str, Any]:
    """Exactly these fields of exactly these types: True is no number."""
    if (
        not isinstance(value, dict)
        or value.keys() != types.keys()
        or not all(
            type(value[name]) in (kind if isinstance(kind, tuple) else (kind,))
            for name, kind in types.items()
        )
    ):
        raise InvalidInput(f"this is not a {what} of cyoloctl: use the whole, unchanged file")
    return value


def _string(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"this is not a {what} of cyoloctl: use the whole, unchanged file")
    return value
