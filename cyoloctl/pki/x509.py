"""Certificates, certificate requests and P-256 keys: loading, writing, names, dates and checks.

A certificate names a node, never an address: its only subject alternative
name is ``NAME.ROLE.CLUSTER_ID.cyoloctl``.  Certificates are ECDSA over P-256.
Keys and certificates are PEM text, private keys unencrypted PKCS #8.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cyoloctl.errors import ConfigError, InvalidInput
from cyoloctl.model import ClusterId
from cyoloctl.pki.identity import Identity

__all__ = [
    "DEFECTS",
    "ca_cluster_id",
    "certificate_dates",
    "certificate_der",
    "certificate_expires_at",
    "certificate_problem",
    "certificate_sha256",
    "cluster_of_ca",
    "dns_names",
    "is_issued_by",
    "issued_by",
    "issued_certificate_problem",
    "load_authorities",
    "load_certificate",
    "load_key",
    "load_public_key",
    "load_request",
    "p256_key",
    "private_to_pem",
    "public_key_sha256",
    "public_to_pem",
    "request_error",
    "subject_name",
    "to_pem",
    "utc",
]

_MAX_REQUEST_CHARS = 8 * 1024


# What the library raises for input that is not what it should be.
DEFECTS = (
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


# -- texts --------------------------------------------------------------------------------------


def load_certificate(pem: str, *, canonical: bool = False) -> x509.Certificate:
    """The certificate in a PEM text, its key a P-256 one.  Raises InvalidInput.

    canonical: exactly one certificate and nothing else, as we write it.
    """
    try:
        certificate = _parsed_certificate(pem)
        if canonical and to_pem(certificate) != pem:
            raise ValueError
    except (InvalidInput, *DEFECTS):
        raise InvalidInput("this is not a certificate that cyoloctl issued: use the right file") from None
    return certificate


@lru_cache(maxsize=16)
def _parsed_certificate(pem: str) -> x509.Certificate:
    """A node asks about its own certificate and its CA a dozen times per second, idle or not."""
    with warnings.catch_warnings():
        # What the library merely announces to refuse one day is refused today.
        warnings.simplefilter("error", CryptographyDeprecationWarning)
        certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
        p256_key(certificate.public_key)
        _ = certificate.extensions
    return certificate


def load_authorities(text: str) -> list[x509.Certificate]:
    """The CAs of a cluster in a PEM text: one after another, and nothing else.  Raises InvalidInput."""
    end = "-----END CERTIFICATE-----\n"
    pems = [part + end for part in text.split(end)[:-1]]
    found = [load_certificate(pem, canonical=True) for pem in pems]
    if not found or "".join(pems) != text or len(set(pems)) != len(pems):
        raise InvalidInput("this is not the CA of a cyoloctl cluster: use the right file")
    for each in found:
        cluster_of_ca(each)
    return found


def load_request(pem: str) -> x509.CertificateSigningRequest:
    """The certificate request in a PEM text, as we write it.  Raises InvalidInput."""
    try:
        if len(pem) > _MAX_REQUEST_CHARS:
            raise ValueError
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        if to_pem(request) != pem:
            raise ValueError
    except DEFECTS:
        raise request_error("it is damaged") from None
    return request


def load_public_key(pem: str) -> ec.EllipticCurvePublicKey:
    """The public key in a certificate, a request or a public key.  Raises InvalidInput."""
    if "BEGIN CERTIFICATE REQUEST" in pem:
        return p256_key(load_request(pem).public_key)
    if "BEGIN CERTIFICATE" in pem:
        return p256_key(load_certificate(pem).public_key)
    return p256_key(lambda: serialization.load_pem_public_key(pem.encode("ascii")))


def load_key(pem: str) -> ec.EllipticCurvePrivateKey:
    """The private key of a certificate, from a PEM text.  Raises ConfigError."""
    try:
        key = serialization.load_pem_private_key(pem.encode("ascii"), password=None)
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return key
    except DEFECTS:
        pass
    raise ConfigError("this is not an unencrypted P-256 private key: restore the right one")


def p256_key(public_key: Callable[[], object]) -> ec.EllipticCurvePublicKey:
    """The P-256 key that a call returns.  Raises InvalidInput for another key, or where it fails."""
    try:
        key = public_key()
    except DEFECTS:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput("the key is not a P-256 key: make a new request with cyoloctl")
    return key


def to_pem(item: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """The PEM text of a certificate or a request."""
    return item.public_bytes(serialization.Encoding.PEM).decode("ascii")


def private_to_pem(key: ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey) -> str:
    """The PEM text of a private key (PKCS #8), not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")


def public_to_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """The PEM text of the public half of a key."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode("ascii")
    )


# -- what is in a certificate ------------------------------------------------------------------


def utc(now: datetime) -> datetime:
    """A moment in UTC, in whole seconds.  Raises ValueError without a time zone."""
    if now.tzinfo is None:
        raise ValueError("now needs a time zone")
    return now.astimezone(UTC).replace(microsecond=0)


def subject_name(common_name: str, unit: str) -> x509.Name:
    """The subject of a certificate or request of ours."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cyoloctl"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def dns_names(extensions: x509.Extensions) -> list[str]:
    """Every subject alternative name; one of another kind stands there as text that names nobody."""
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [item.value if isinstance(item, x509.DNSName) else "(not a DNS name)" for item in names]


def certificate_expires_at(pem: str) -> datetime:
    """The last moment (UTC) at which a certificate is valid.  Raises InvalidInput."""
    return load_certificate(pem).not_valid_after_utc


def certificate_dates(pem: str) -> tuple[datetime, datetime]:
    """The first and last moment (UTC) at which a certificate is valid.  Raises InvalidInput."""
    certificate = load_certificate(pem)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def certificate_der(pem: str) -> bytes:
    """A certificate in DER.  Raises InvalidInput."""
    return load_certificate(pem).public_bytes(serialization.Encoding.DER)


@lru_cache(maxsize=16)
def certificate_sha256(pem: str) -> str:
    """The SHA-256, in hex, of a certificate: what ``openssl x509 -fingerprint -sha256`` prints.

    Raises InvalidInput.
    """
    return load_certificate(pem).fingerprint(hashes.SHA256()).hex()


@lru_cache(maxsize=16)
def public_key_sha256(pem: str) -> str:
    """The SHA-256, in hex, of the public key (SubjectPublicKeyInfo) in a certificate, request or public key.

    The same key has the same digest in all three.  Raises InvalidInput.
    """
    public = load_public_key(pem)
    return hashlib.sha256(
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


# -- checks ------------------------------------------------------------------------------------


def cluster_of_ca(ca: x509.Certificate) -> ClusterId:
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
    except DEFECTS:
        pass
    raise InvalidInput("this is not the CA of a cyoloctl cluster: use the right file")


def ca_cluster_id(ca_pem: str) -> ClusterId:
    """The cluster whose CA this is.  Raises InvalidInput for what is no cluster's CA."""
    return cluster_of_ca(load_certificate(ca_pem, canonical=True))


def issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether a CA signed a certificate; names and dates are not looked at."""
    try:
        certificate.verify_directly_issued_by(ca)
    except DEFECTS:
        return False
    return True


def is_issued_by(certificate_der: bytes, ca_pem: str) -> bool:
    """Whether a CA signed a certificate (DER); its names and dates are not looked at."""
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
    except DEFECTS:
        return False
    return issued_by(certificate, load_certificate(ca_pem))


def certificate_problem(
    certificate: x509.Certificate, ca: x509.Certificate, identity: Identity
) -> str | None:
    """Reason why a certificate is useless as this identity's, or None.  Dates are not looked at."""
    if not issued_by(certificate, ca):
        return "its certificate was issued by another CA"
    try:
        names = dns_names(certificate.extensions)
        purposes = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except DEFECTS:
        return "its certificate has no purpose or no name"
    if names != [str(identity)]:
        return f"its certificate is for another name or cluster, not {identity}"
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        return "its certificate is not for clients"
    if identity.role == "node" and ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
        return "its certificate is not a node's"
    return None


def issued_certificate_problem(
    certificate_pem: str, authorities: Iterable[str], identity: Identity, public_key_pem: str
) -> str | None:
    """Reason why a certificate is useless as this identity's and for this key, or None.

    Dates are not looked at.  authorities: the CAs (PEM) that may have issued
    it.  Raises InvalidInput for what is no certificate.
    """
    certificate = load_certificate(certificate_pem, canonical=True)
    issuers = [ca for ca in map(load_certificate, authorities) if issued_by(certificate, ca)]
    if not issuers:
        return "it was issued by another CA"
    if public_key_sha256(certificate_pem) != public_key_sha256(public_key_pem):
        return "it is for another key"
    return certificate_problem(certificate, issuers[0], identity)


def request_error(problem: str) -> InvalidInput:
    """The error for a node's request that cannot be granted."""
    return InvalidInput(f"the request cannot be granted: {problem}; make a new one on the node")
