"""Grants: the answer to a node's request, which makes it a member."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from cyoloctl.errors import ConfigError, Conflict, InvalidInput
from cyoloctl.model import Address, ClusterId, NodeName, Storage, parse_address, parse_name
from cyoloctl.paths import write_node_file
from cyoloctl.pki.ca import MAX_CERTIFICATE_DAYS, check_ca, issue_certificate, load_ca
from cyoloctl.pki.documents import SCHEMA_VERSION, parse_fields, parse_object, parse_string
from cyoloctl.pki.files import (
    CA_CERT,
    CA_KEY,
    NODE_CERT,
    NODE_KEY,
    SEALING_KEY,
    check_mode,
    load_file,
    read_pem,
)
from cyoloctl.pki.identity import Identity, parse_cluster_id
from cyoloctl.pki.requests import check_request
from cyoloctl.pki.seal import open_sealed, seal
from cyoloctl.pki.x509 import (
    certificate_problem,
    cluster_of_ca,
    issued_by,
    load_authorities,
    load_certificate,
    load_key,
    to_pem,
)

__all__ = [
    "Grant",
    "accept_grant",
    "decode_grant",
    "make_grant",
    "make_grant_without_key",
]


_GRANT_FIELDS = {
    "cluster_id": str,
    "cluster": str,
    "name": str,
    "learner": bool,
    "certificate_pem": str,
    "ca_pem": str,
    "storage": str,
    "peers": dict,
    "ca_key_sealed": (str, type(None)),
}
_SAID = ("witness", "offline_ca")
"""Left out of a grant while they are false."""


@dataclass(frozen=True, slots=True)
class Grant:
    """An accepted grant: the cluster that the node is in now.

    storage: where the cluster keeps its log, disk or memory.  peers: where to dial first.
    has_ca_key: whether this node can admit others.  offline_ca: whether no
    member ever can, the key being with the operator.
    """

    cluster_id: ClusterId
    cluster: NodeName
    name: NodeName
    learner: bool
    witness: bool
    storage: Storage
    peers: Mapping[NodeName, Address]
    has_ca_key: bool
    offline_ca: bool
    certificate_expires_at: datetime


def make_grant(
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
    witness: bool = False,
    days: int = MAX_CERTIFICATE_DAYS,
    hand_over_ca_key: bool = True,
    trust_pem: str | None = None,
) -> dict[str, Any]:
    """Answer a request: the JSON object that makes a node a member.

    Whether the requester may become one was decided before (an invitation, or
    the operator).  hand_over_ca_key: False where the CA key stays offline;
    learners and witnesses never get it.  days: validity of the certificate, 1 to 825.
    trust_pem: every CA that the node must trust, where that is more than this one.

    Raises InvalidInput for the request (check_request), ConfigError for the CA.
    """
    ca, _ = load_ca(ca_cert_pem, ca_key_pem)
    cluster_id = cluster_of_ca(ca)
    check_request(request_pem, name, sealing_key, cluster_id)
    identity = Identity(parse_name(name), "node", cluster_id)
    certificate = issue_certificate(
        ca_cert_pem, ca_key_pem, request_pem, identity, now=now, days=days, beyond_ca=True
    )
    sealed = None
    if hand_over_ca_key and not (learner or witness):
        sealed = seal(sealing_key, ca_key_pem.encode(), _ca_key_info(cluster_id, name))
    made = make_grant_without_key(
        cluster_id=cluster_id,
        name=name,
        cluster=cluster,
        learner=learner,
        witness=witness,
        certificate_pem=certificate,
        trust_pem=trust_pem or to_pem(ca),
        storage=storage,
        peers=peers,
    )
    return {**made, "ca_key_sealed": sealed}


def make_grant_without_key(
    *,
    cluster_id: str,
    name: str,
    cluster: str,
    learner: bool,
    certificate_pem: str,
    trust_pem: str,
    storage: Storage,
    peers: Mapping[str, Address],
    witness: bool = False,
    offline_ca: bool = False,
    level: int = 1,
) -> dict[str, Any]:
    """A grant as make_grant's, around a certificate that is made already, and without the CA's key.

    level: that of the cluster.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "cluster_id": cluster_id,
        "cluster": parse_name(cluster, "cluster name"),
        "name": parse_name(name),
        "learner": learner,
        "certificate_pem": certificate_pem,
        "ca_pem": trust_pem,
        "storage": storage,
        "peers": {parse_name(peer): str(address) for peer, address in peers.items()},
        "ca_key_sealed": None,
        # Left out while it says nothing: earlier releases take no other field.
        **({"witness": True} if witness else {}),
        **({"offline_ca": True} if offline_ca else {}),
        **({"level": level} if level > 1 else {}),
    }


def decode_grant(text: str) -> dict[str, Any]:
    """The object in a grant file.  Raises InvalidInput; accept_grant checks what is in it."""
    return parse_object(text, "grant", 1 << 20)


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
    written unless everything is right.

    Raises InvalidInput where the grant is malformed, or for another key, name,
    cluster or CA; Conflict where the directory belongs to another cluster;
    VersionMismatch, ConfigError, StorageError.
    """
    fields = _fields_of(value)
    granted_id = parse_cluster_id(fields["cluster_id"])
    cluster = parse_name(fields["cluster"], "cluster name")
    peers = {
        parse_name(key): parse_address(parse_string(item, "grant")) for key, item in fields["peers"].items()
    }
    if fields["storage"] not in ("disk", "memory"):
        raise _grant_error("its storage is neither disk nor memory")
    if fields["name"] != name:
        raise _grant_error(f"it is not for {name!r}")
    if cluster_id is not None and granted_id != cluster_id:
        raise _grant_error("it is for another cluster")
    authorities = _pinned_authorities(fields["ca_pem"], granted_id, ca_sha256)
    _check_trusted(pki_dir / CA_CERT, authorities)
    identity = Identity(parse_name(name), "node", granted_id)
    certificate, ca = _own_certificate(pki_dir, fields["certificate_pem"], authorities, identity)
    ca_key: str | None = None
    if fields["ca_key_sealed"] is not None:
        if fields["learner"] or fields["witness"]:
            raise _grant_error(f"a {'witness' if fields['witness'] else 'learner'} gets no CA key")
        ca_key = _open_ca_key(pki_dir, fields["ca_key_sealed"], identity, ca)

    # The CA first: node.crt, which makes the directory usable, never stands without it.
    write_node_file(pki_dir / CA_CERT, "".join(map(to_pem, authorities)).encode())
    if ca_key is not None:
        write_node_file(pki_dir / CA_KEY, ca_key.encode())
    write_node_file(pki_dir / NODE_CERT, fields["certificate_pem"].encode())
    return Grant(
        cluster_id=granted_id,
        cluster=cluster,
        name=identity.name,
        learner=fields["learner"],
        witness=fields["witness"],
        storage=cast(Storage, fields["storage"]),
        peers=peers,
        has_ca_key=ca_key is not None,
        offline_ca=fields["offline_ca"],
        certificate_expires_at=certificate.not_valid_after_utc,
    )


def _fields_of(value: object) -> dict[str, Any]:
    """The fields of a grant; those of `_SAID` stand in it only where they are true."""
    said: dict[str, type] = {key: bool for key in _SAID if isinstance(value, dict) and value.get(key) is True}
    if isinstance(value, dict) and "level" in value:
        said["level"] = int
    return dict.fromkeys(_SAID, False) | parse_fields(value, "grant", **_GRANT_FIELDS, **said)


def _pinned_authorities(text: str, cluster_id: str, ca_sha256: str | None) -> list[x509.Certificate]:
    """The CAs of a grant that may be trusted: all of its cluster, and pinned where anything is."""
    authorities = load_authorities(text)
    if {cluster_of_ca(each) for each in authorities} != {cluster_id}:
        raise _grant_error("its CA is of another cluster")
    if ca_sha256 is not None:
        # Whoever answers may name more CAs than the token does, and could have made them.  One that takes
        # the place of a pinned one is in the log, with that one's signature.
        pinned = ca_sha256.split(",")
        authorities = [each for each in authorities if each.fingerprint(hashes.SHA256()).hex() in pinned]
    if not authorities:
        raise _grant_error("its CA is not the one that the token names")
    return authorities


def _check_trusted(path: Path, authorities: list[x509.Certificate]) -> None:
    """Refuse CAs that have none in common with those that the directory trusts already."""
    if os.path.lexists(path) and not any(each in authorities for each in load_file(path, load_authorities)):
        raise Conflict(f"{path} is of another cluster: use an empty data directory")


def _own_certificate(
    pki_dir: Path, pem: str, authorities: list[x509.Certificate], identity: Identity
) -> tuple[x509.Certificate, x509.Certificate]:
    """The certificate in a grant and the CA that issued it: for this identity, and for this node's key."""
    certificate = load_certificate(pem, canonical=True)
    ca = next((each for each in authorities if issued_by(certificate, each)), authorities[0])
    problem = certificate_problem(certificate, ca, identity)
    if problem is not None:
        raise _grant_error(problem)
    check_mode(pki_dir / NODE_KEY)
    check_mode(pki_dir / SEALING_KEY)
    if certificate.public_key() != load_file(pki_dir / NODE_KEY, load_key).public_key():
        raise _grant_error("its certificate is for another key than this node's")
    return certificate, ca


def _open_ca_key(pki_dir: Path, sealed: str, identity: Identity, ca: x509.Certificate) -> str:
    """The CA's private key (PEM) that was sealed to this node."""
    info = _ca_key_info(identity.cluster_id, identity.name)
    opened = open_sealed(read_pem(pki_dir / SEALING_KEY), sealed, info)
    try:
        key_pem = opened.decode("ascii")
        check_ca(to_pem(ca), key_pem)
    except (UnicodeDecodeError, ConfigError):
        raise _grant_error("its CA key does not belong to its CA") from None
    return key_pem


def _ca_key_info(cluster_id: str, name: str) -> bytes:
    # Neither part can hold a zero byte, so no other pair gives the same bytes.
    return b"\0".join([b"cyoloctl ca-key 1", cluster_id.encode(), name.encode()])


def _grant_error(problem: str) -> InvalidInput:
    return InvalidInput(
        f"the grant cannot be accepted: {problem}; ask for a new one with this node's request"
    )
