"""A cluster's CA: making one, and issuing certificates with it.

A CA is constrained to the names of its cluster.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from cyoloctl.errors import ConfigError, InvalidInput
from cyoloctl.model import ClusterId, parse_name
from cyoloctl.pki.documents import SCHEMA_VERSION
from cyoloctl.pki.identity import Identity, parse_cluster_id
from cyoloctl.pki.x509 import (
    certificate_sha256,
    cluster_of_ca,
    load_certificate,
    load_key,
    load_public_key,
    private_to_pem,
    public_to_pem,
    subject_name,
    to_pem,
    utc,
)
from cyoloctl.text import from_unix_ms

__all__ = [
    "MAX_CERTIFICATE_DAYS",
    "Authority",
    "CertificateIssuer",
    "ca_of_key",
    "check_ca",
    "create_ca",
    "issue_certificate",
    "issue_for_node",
    "load_ca",
    "make_credentials",
    "new_cluster_id",
]

MAX_CERTIFICATE_DAYS = 825
"""Longest, and default, validity of a certificate, in days; platforms refuse longer ones."""
_CA_DAYS = 3650
_EARLY = timedelta(days=1)
"""Validity starts this much early, for clocks that are behind."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA with its private key: whoever holds it can issue certificates."""

    ca_pem: str
    key_pem: str = field(repr=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of its certificate, in hex."""
        return certificate_sha256(self.ca_pem)


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
    name = subject_name(parse_name(cluster_name, "cluster name"), cluster_id)
    start = utc(now)
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
    return to_pem(certificate), private_to_pem(key)


def issue_certificate(
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
    start = utc(now)
    ca, ca_key = load_ca(ca_cert_pem, ca_key_pem)
    if cluster_of_ca(ca) != identity.cluster_id:
        raise ConfigError("this CA is of another cluster: use the CA of the cluster to issue for")
    if not beyond_ca and not ca.not_valid_before_utc <= start < ca.not_valid_after_utc:
        raise ConfigError(
            f"the CA is valid from {ca.not_valid_before_utc:%Y-%m-%d} to {ca.not_valid_after_utc:%Y-%m-%d}, "
            f"and the clock says {start:%Y-%m-%d}: "
            "set the clock, or exchange the CA (`cyoloctl pki rotate-ca`)"
        )
    public = load_public_key(public_key_pem)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.role == "node":
        purposes.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    end = until or start + timedelta(days=days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject_name(identity.name, identity.role))
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
    return to_pem(certificate)


class CertificateIssuer(NamedTuple):
    """A CA that issues, and how.  trust_pem: the CAs that the holder of the certificate must trust."""

    authority: Authority
    trust_pem: str
    days: int


def issue_for_node(
    authority: Authority, public_key_pem: str, identity: Identity, *, now_unix_ms: int, days: int
) -> str:
    """A node's certificate in PEM.

    It may last longer than its CA: to exchange a CA that has ended, the nodes
    need certificates that count.  public_key_pem: a key or a request.  Raises
    InvalidInput, ConfigError.
    """
    return issue_certificate(
        authority.ca_pem,
        authority.key_pem,
        public_key_pem,
        identity,
        now=from_unix_ms(now_unix_ms),
        days=days,
        beyond_ca=True,
    )


def make_credentials(
    ca_cert_pem: str,
    ca_key_pem: str,
    *,
    name: str,
    role: Literal["operator", "gateway", "viewer"],
    now: datetime,
    days: int = MAX_CERTIFICATE_DAYS,
) -> dict[str, Any]:
    """A new key and certificate for a person or script, as the object of a credentials file.

    It holds the private key: write it with write_credentials.  Raises as issue_certificate does.
    """
    ca = load_certificate(ca_cert_pem)
    identity = Identity(parse_name(name), role, cluster_of_ca(ca))
    key = ec.generate_private_key(ec.SECP256R1())
    return {
        "schema_version": SCHEMA_VERSION,
        "role": role,
        "name": identity.name,
        "cluster_id": identity.cluster_id,
        "ca_pem": to_pem(ca),
        "certificate_pem": issue_certificate(
            ca_cert_pem, ca_key_pem, public_to_pem(key), identity, now=now, days=days
        ),
        "key_pem": private_to_pem(key),
    }


def load_ca(cert_pem: str, key_pem: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A cluster's CA and its private key, which belong together.  Raises ConfigError."""
    try:
        ca = load_certificate(cert_pem)
        cluster_of_ca(ca)
    except InvalidInput as error:
        raise ConfigError(f"the CA certificate cannot be used: {error.message}") from None
    try:
        key = load_key(key_pem)
    except ConfigError:
        raise ConfigError("the CA key cannot be used: restore the right one") from None
    if key.public_key() != ca.public_key():
        raise ConfigError("the CA key does not belong to the CA certificate: restore the right one")
    return ca, key


def check_ca(ca_cert_pem: str, ca_key_pem: str) -> None:
    """Check that this is a cluster's CA and its private key.  Raises ConfigError."""
    load_ca(ca_cert_pem, ca_key_pem)


def ca_of_key(authorities: list[x509.Certificate], key_pem: str) -> x509.Certificate:
    """The CA whose private key this is.  Raises ConfigError."""
    try:
        public = load_key(key_pem).public_key()
    except ConfigError:
        raise ConfigError("the CA key cannot be used: restore the right one") from None
    for each in authorities:
        if each.public_key() == public:
            return each
    raise ConfigError("the CA key does not belong to the CA certificate: restore the right one")


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
