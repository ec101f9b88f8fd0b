"""Renewal of a node's certificate: when it is due, by the node itself, and by file.

A node renews its certificate at two thirds of its life, for the same key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cyoloctl.errors import ConfigError, Conflict, InvalidInput
from cyoloctl.paths import write_node_file
from cyoloctl.pki.ca import MAX_CERTIFICATE_DAYS, Authority, issue_for_node
from cyoloctl.pki.files import CA_CERT, NODE_CERT, read_authorities, read_node_public_key
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.x509 import certificate_dates, certificate_sha256, issued_certificate_problem
from cyoloctl.text import parse_rfc3339, to_unix_ms

__all__ = [
    "CLOCK_FROM",
    "CLOCK_UNTIL",
    "Life",
    "decode_renewal",
    "encode_renewal",
    "has_ended",
    "life_of",
    "offline_now",
    "ready",
    "renew_own",
    "store_certificate",
    "warn_before_s",
]

CLOCK_FROM = datetime(2020, 1, 1, tzinfo=UTC)
CLOCK_UNTIL = datetime(2200, 1, 1, tzinfo=UTC)
"""A wall clock outside of these was never set: nothing is judged by it."""
_DAY_S = 86_400
_WARN_S = 30 * _DAY_S
_KIND = "cyoloctl certificate"


# -- when ---------------------------------------------------------------------------------------


class Life(NamedTuple):
    """The time for which a certificate counts, in Unix milliseconds."""

    issued_unix_ms: int
    end_unix_ms: int

    @property
    def days(self) -> int:
        """Its length in days, 1 to 825."""
        whole = round((self.end_unix_ms - self.issued_unix_ms) / 1000 / _DAY_S)
        return max(1, min(whole, MAX_CERTIFICATE_DAYS))

    @property
    def renew_unix_ms(self) -> int:
        """The time of its renewal: at two thirds of its life."""
        return self.issued_unix_ms + (self.end_unix_ms - self.issued_unix_ms) * 2 // 3


def life_of(certificate_pem: str) -> Life:
    """The life of a certificate.  Raises InvalidInput."""
    start, end = certificate_dates(certificate_pem)
    return Life(to_unix_ms(start) + _DAY_S * 1000, to_unix_ms(end))


def warn_before_s(life_days: int) -> int:
    """The time before a certificate's end at which people are warned, in seconds.

    30 days, or nearly a third of a shorter life: automatic renewal comes first.
    """
    return min(_WARN_S, life_days * _DAY_S * 3 // 10)


def has_ended(certificate_pem: str, now: datetime) -> bool:
    """Whether a certificate has ended by this clock; False by a clock that was never set."""
    return CLOCK_FROM <= now < CLOCK_UNTIL and life_of(certificate_pem).end_unix_ms <= to_unix_ms(now)


def ready(members: Iterable[tuple[str, str | None]], pending_unix_ms: int) -> list[str]:
    """The names of members whose certificate would have ended at a time: none means that it may come.

    members: name and ``certificate_expires_at`` (RFC 3339, None where it is
    unknown) of every connected member.
    """
    late = []
    for name, expires_at in members:
        try:
            end = None if expires_at is None else parse_rfc3339(expires_at)
        except ValueError:
            end = None
        if end is None or to_unix_ms(end) <= pending_unix_ms:
            late.append(name)
    return late


def offline_now(now: datetime) -> datetime:
    """The time for work without a cluster.  Raises ConfigError for a clock that was never set."""
    if not CLOCK_FROM <= now < CLOCK_UNTIL:
        raise ConfigError(
            f"this machine's clock says {now:%Y-%m-%d}: set it (`date -s 'YYYY-MM-DD HH:MM:SS'`, as root), "
            "then repeat"
        )
    return now


# -- the node's own certificate -----------------------------------------------------------------


def renew_own(pki_dir: Path, authority: Authority, identity: Identity, *, now_unix_ms: int, days: int) -> str:
    """Give this node a new certificate of this CA for the key that it has; returns it.

    Raises ConfigError, StorageError; then the old one stays as it was.
    """
    public = read_node_public_key(pki_dir)
    new = issue_for_node(authority, public, identity, now_unix_ms=now_unix_ms, days=days)
    write_node_file(pki_dir / NODE_CERT, new.encode())
    return new


def store_certificate(pki_dir: Path, certificate_pem: str, identity: Identity) -> None:
    """Put a certificate in place that another node issued for this one.

    Raises InvalidInput where it is not for this node's name, cluster and key,
    or of a CA that this node does not trust; StorageError.
    """
    problem = issued_certificate_problem(
        certificate_pem, read_authorities(pki_dir), identity, read_node_public_key(pki_dir)
    )
    if problem is not None:
        raise InvalidInput(f"the certificate cannot be used: {problem}; ask for a new one")
    write_node_file(pki_dir / NODE_CERT, certificate_pem.encode())


# -- by file ------------------------------------------------------------------------------------


def encode_renewal(certificate_pem: str, *, cluster_id: str, name: str, ca_pem: str) -> dict[str, Any]:
    """The object of a file that carries a renewed certificate to its node.  No secrets.

    ca_sha256 names the CA that issued it; the node must trust it already.
    """
    return {
        "schema_version": 1,
        "kind": _KIND,
        "cluster_id": cluster_id,
        "name": name,
        "ca_sha256": certificate_sha256(ca_pem),
        "certificate_pem": certificate_pem,
    }


def decode_renewal(value: Mapping[str, Any], pki_dir: Path, identity: Identity) -> str:
    """The certificate in such an object, for this node.

    Raises InvalidInput where it is malformed or another node's, Conflict where
    it is of another cluster or of a CA that this node does not trust.
    """
    texts = {key: value.get(key) for key in ("cluster_id", "name", "ca_sha256", "certificate_pem")}
    if value.get("kind") != _KIND or not all(isinstance(text, str) for text in texts.values()):
        raise InvalidInput(
            "this is not the file that `cyoloctl member grant` wrote: use the whole, unchanged file"
        )
    if texts["cluster_id"] != identity.cluster_id:
        raise Conflict("the certificate is of another cluster: grant it on a node of this one")
    if texts["name"] != identity.name:
        raise InvalidInput(
            f"the certificate is for {texts['name']!r}, not for {identity.name}: use this node's file"
        )
    if texts["ca_sha256"] not in {certificate_sha256(ca) for ca in read_authorities(pki_dir)}:
        raise Conflict(
            f"the certificate is of a CA that {pki_dir / CA_CERT} does not hold: this node missed an "
            "exchange of the CA; remove the member and join it under a new name"
        )
    return str(texts["certificate_pem"])
