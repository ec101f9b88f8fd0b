"""Statements that nodes and CAs sign with the keys of their certificates."""

from __future__ import annotations

from datetime import datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cyoloctl.errors import InvalidInput
from cyoloctl.model import parse_name
from cyoloctl.pki.identity import Identity, parse_cluster_id
from cyoloctl.pki.x509 import (
    DEFECTS,
    certificate_problem,
    cluster_of_ca,
    load_certificate,
    load_key,
    load_request,
    p256_key,
    utc,
)
from cyoloctl.text import decode_base64, encode_base64, rfc3339_of

__all__ = [
    "is_signed_by_ca",
    "is_signed_by_requester",
    "sign_statement",
    "verify_statement",
]


def sign_statement(node_key_pem: str, statement: bytes) -> str:
    """A signature (ECDSA, SHA-256, base64) with the key of a node's certificate.  Raises ConfigError."""
    return encode_base64(load_key(node_key_pem).sign(statement, ec.ECDSA(hashes.SHA256())))


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

    The CA must be the cluster's own.  The certificate must be issued by it, be
    that node's and nobody else's, and not have ended.  Whether the CA is the
    right one is for the caller to know.

    Raises InvalidInput with what is wrong.
    """
    ca, certificate = (load_certificate(pem, canonical=True) for pem in (ca_pem, certificate_pem))
    identity = Identity(parse_name(name), "node", parse_cluster_id(cluster_id))
    problem = certificate_problem(certificate, ca, identity)
    if problem is None and cluster_of_ca(ca) != cluster_id:
        problem = "its CA is of another cluster"
    moment = utc(now)
    # Its first day says nothing: it may have been issued while the time was wrong.
    if problem is None and moment > certificate.not_valid_after_utc:
        problem = (
            f"its certificate ended at {rfc3339_of(certificate.not_valid_after_utc)}, "
            f"and the time is {rfc3339_of(moment)}"
        )
    if problem is None:
        try:
            public = p256_key(certificate.public_key)
            public.verify(decode_base64(signature), statement, ec.ECDSA(hashes.SHA256()))
        except DEFECTS:
            problem = "its signature is wrong"
    if problem is not None:
        raise InvalidInput(
            f"the statement of node {name} cannot be trusted: {problem}; make it again on that node"
        )


def is_signed_by_requester(statement: bytes, signature: str, request_pem: str) -> bool:
    """Whether the key that a certificate request is for signed a statement.  Raises InvalidInput."""
    return _is_signed(statement, signature, p256_key(load_request(request_pem).public_key))


def is_signed_by_ca(statement: bytes, signature: str, ca_pem: str) -> bool:
    """Whether a CA's own key signed a statement (`sign_statement`)."""
    return _is_signed(statement, signature, p256_key(load_certificate(ca_pem).public_key))


def _is_signed(statement: bytes, signature: str, public: ec.EllipticCurvePublicKey) -> bool:
    try:
        public.verify(decode_base64(signature), statement, ec.ECDSA(hashes.SHA256()))
    except DEFECTS:
        return False
    return True
