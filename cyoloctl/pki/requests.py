"""Certificate requests of nodes that ask to become members, and of people and scripts."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.x509.oid import NameOID

from cyoloctl.errors import InvalidInput
from cyoloctl.model import Address, ClusterId, NodeName, parse_address, parse_name
from cyoloctl.paths import make_private_directory, write_node_file
from cyoloctl.pki.documents import SCHEMA_VERSION, parse_fields, parse_object, to_text
from cyoloctl.pki.files import NODE_KEY, NODE_REQUEST, SEALING_KEY, check_mode, read_pem
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.seal import load_sealing_key, parse_sealing_key
from cyoloctl.pki.statements import is_signed_by_requester, sign_statement
from cyoloctl.pki.x509 import (
    DEFECTS,
    dns_names,
    load_key,
    load_request,
    p256_key,
    private_to_pem,
    public_key_sha256,
    request_error,
    subject_name,
    to_pem,
)
from cyoloctl.text import encode_base64, pre_auth_encoding

__all__ = [
    "NodeRequest",
    "PendingRequest",
    "check_credential_request",
    "check_request",
    "csr_sha256",
    "decode_request",
    "encode_request",
    "make_credential_request",
    "make_request",
    "prepare_request",
    "sign_request",
]

_MAX_FILE_CHARS = 64 * 1024


# The request's extension that carries the sealing key, as a DER octet string.  Under 2.25 anyone
# may use the number of a UUID of their own (ITU-T X.667): this is c4b0f4a2-6e0d-4d58-9a8f-31b7b1b9f2d6.
_SEALING_OID = x509.ObjectIdentifier(f"2.25.{0xC4B0F4A26E0D4D589A8F31B7B1B9F2D6}")
_SEALING_DER = b"\x04\x20"


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
    """The request of a node to be admitted, sent or carried on a stick: no secrets.

    address: where others can dial it.  sealing_key: X25519 public key, base64,
    the one that the request signs.  signature: of all of it, by the key that the
    certificate is for (`sign_request`): the node asks to be admitted.  None:
    a member asks for another certificate.  level: what its release understands.
    """

    name: NodeName
    address: Address
    request_pem: str
    sealing_key: str
    signature: str | None = None
    level: int = 1

    @property
    def request_sha256(self) -> str:
        """See `csr_sha256`."""
        return csr_sha256(self.request_pem)

    def statement(self) -> bytes:
        """The bytes that are signed."""
        parts = (self.name, str(self.address), self.request_sha256, self.sealing_key)
        return pre_auth_encoding(b"cyoloctl node request v1", *(part.encode() for part in parts))


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
    key = load_key(node_key_pem) if node_key_pem else ec.generate_private_key(ec.SECP256R1())
    sealing = load_sealing_key(sealing_key_pem) if sealing_key_pem else x25519.X25519PrivateKey.generate()
    sealing_public = sealing.public_key().public_bytes_raw()
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject_name(identity_name, "node"))
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
        request_pem=to_pem(builder.sign(key, hashes.SHA256())),
        sealing_key=encode_base64(sealing_public),
        node_key_pem=private_to_pem(key),
        sealing_key_pem=private_to_pem(sealing),
    )


def prepare_request(pki_dir: Path, name: str, cluster_id: str | None = None) -> PendingRequest:
    """The request of the node in a directory, on the disk before anyone sees it.

    Idempotent: keys that are there are used and never replaced.  A request that
    still fits is given again, byte for byte.  So joining can be tried again
    after a crash with the same token, and a certificate can be renewed.

    Raises ConfigError for unusable files, StorageError.
    """
    make_private_directory(pki_dir, is_nodes=True)
    paths = {file: pki_dir / file for file in (NODE_KEY, SEALING_KEY, NODE_REQUEST)}
    have = {file: read_pem(path) for file, path in paths.items() if os.path.lexists(path)}
    for file in (NODE_KEY, SEALING_KEY):
        if file in have:
            check_mode(paths[file])
    pending = make_request(
        name, cluster_id, node_key_pem=have.get(NODE_KEY), sealing_key_pem=have.get(SEALING_KEY)
    )
    for file, text in ((NODE_KEY, pending.node_key_pem), (SEALING_KEY, pending.sealing_key_pem)):
        if file not in have:
            write_node_file(paths[file], text.encode(), exclusive=True)
    earlier = have.get(NODE_REQUEST)
    if earlier is not None:
        try:
            check_request(earlier, name, pending.sealing_key, cluster_id)
            if public_key_sha256(earlier) == public_key_sha256(pending.request_pem):
                return PendingRequest(
                    pending.name,
                    earlier,
                    pending.sealing_key,
                    pending.node_key_pem,
                    pending.sealing_key_pem,
                )
        except InvalidInput:
            pass  # it asks for something else now
    write_node_file(paths[NODE_REQUEST], pending.request_pem.encode())
    return pending


def check_request(request_pem: str, name: str, sealing_key: str, cluster_id: str | None) -> None:
    """Check that a request asks for this name and sealing key, signed by the key it is for.

    cluster_id: ours; a request that names a cluster must name this one.
    Raises InvalidInput: the key is not P-256, the signature is wrong, or the
    name, the sealing key or the cluster is another.
    """
    request = load_request(request_pem)
    sealed_to = _SEALING_DER + parse_sealing_key(sealing_key).public_bytes_raw()
    try:
        with warnings.catch_warnings():
            # The library only warns of a name that the standard forbids.
            warnings.simplefilter("error")
            subject = request.subject
        common = [str(item.value) for item in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        names = dns_names(request.extensions)
        sealing = request.extensions.get_extension_for_oid(_SEALING_OID).value
        signed = request.is_signature_valid
    except DEFECTS:
        raise request_error("it is damaged") from None
    p256_key(request.public_key)
    if not signed:
        raise request_error("its signature is wrong")
    if common != [name]:
        raise request_error(f"it is not for {name!r}")
    if not isinstance(sealing, x509.UnrecognizedExtension) or sealing.value != sealed_to:
        raise request_error("its sealing key is another")
    if names and cluster_id is not None and names != [f"{name}.node.{cluster_id}.cyoloctl"]:
        raise request_error("it is for another cluster or name")


def csr_sha256(request_pem: str) -> str:
    """The SHA-256, in hex, of a request's DER: how the log tells a repeated redemption from a second one.

    Raises InvalidInput.
    """
    der = load_request(request_pem).public_bytes(serialization.Encoding.DER)
    return hashlib.sha256(der).hexdigest()


def sign_request(pending: PendingRequest, address: Address) -> NodeRequest:
    """The request of a node that asks to be admitted, signed with the key it asks a certificate for."""
    unsigned = NodeRequest(pending.name, address, pending.request_pem, pending.sealing_key)
    return replace(unsigned, signature=sign_statement(pending.node_key_pem, unsigned.statement()))


def encode_request(request: NodeRequest) -> str:
    """A request file: one JSON object, for a node that cannot reach the cluster.  No secrets."""
    return to_text(
        {
            "schema_version": SCHEMA_VERSION,
            "name": request.name,
            "address": str(request.address),
            "request_pem": request.request_pem,
            "sealing_key": request.sealing_key,
            **({} if request.signature is None else {"signature": request.signature}),
            # Left out while it says nothing: earlier releases take no other field.
            **({"level": request.level} if request.level > 1 else {}),
        }
    )


def decode_request(text: str) -> NodeRequest:
    """The request in a request file, checked as by check_request; its signature too, where it has one.

    Raises InvalidInput, VersionMismatch for one of a newer release.
    """
    value = parse_object(text, "request", _MAX_FILE_CHARS)
    more = {key: kind for key, kind in (("signature", str), ("level", int)) if key in value}
    parse_fields(value, "request", name=str, address=str, request_pem=str, sealing_key=str, **more)
    check_request(value["request_pem"], parse_name(value["name"]), value["sealing_key"], None)
    request = NodeRequest(
        NodeName(value["name"]),
        parse_address(value["address"]),
        value["request_pem"],
        value["sealing_key"],
        value.get("signature"),
        max(1, value.get("level", 1)),
    )
    if request.signature is not None and (
        # In one spelling: what is signed is what stands in the file.
        str(request.address) != value["address"]
        or not is_signed_by_requester(request.statement(), request.signature, request.request_pem)
    ):
        raise request_error("its signature is wrong")
    return request


# -- credentials --------------------------------------------------------------------------------


def make_credential_request(name: str, role: str, key_pem: str | None = None) -> tuple[str, str]:
    """A request for a certificate of credentials, and its private key, both PEM.

    key_pem: the key to use; None: a new one.  Raises InvalidInput, ConfigError for the key.
    """
    if role not in ("viewer", "gateway", "operator"):
        raise InvalidInput(f"role {role!r} is not valid: use viewer, gateway or operator")
    key = load_key(key_pem) if key_pem else ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_name(parse_name(name), role))
    return to_pem(builder.sign(key, hashes.SHA256())), private_to_pem(key)


def check_credential_request(request_pem: str, name: str, role: str) -> None:
    """Check that a request asks for credentials of this name and role, signed by the key it is for.

    Raises InvalidInput.
    """
    request = load_request(request_pem)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            subject = request.subject
        common = [str(item.value) for item in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        unit = [str(item.value) for item in subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
        signed = request.is_signature_valid
    except DEFECTS:
        raise _credential_error("it is damaged") from None
    p256_key(request.public_key)
    if not signed:
        raise _credential_error("its signature is wrong")
    if (common, unit) != ([name], [role]):
        raise _credential_error(f"it is not for {role} {name}")


def _credential_error(problem: str) -> InvalidInput:
    return InvalidInput(f"the request for credentials cannot be granted: {problem}; make a new one")
