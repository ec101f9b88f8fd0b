"""Certificates and CAs of a node that are exchanged while it lives: the rules, the files, the file formats.

A node renews its certificate at two thirds of its life, for the same key.  A
CA is exchanged by ``cyoloctl pki rotate-ca``: the files say how far a node is.

==================  ==========================================================
ca.crt              the CAs that are trusted, the present one first; two while
                    they are exchanged
ca.key              the key of one of them, where this node may issue
ca-next.key         the new CA's key until the exchange has ended
==================  ==========================================================

Every change is one file that is replaced atomically, in an order in which the
files fit together after each of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cyoloctl import pki
from cyoloctl.errors import ConfigError, Conflict, InvalidInput, StorageError
from cyoloctl.identity import Identity
from cyoloctl.paths import sync_directory, write_private

__all__ = [
    "CLOCK_FROM",
    "CLOCK_UNTIL",
    "Authority",
    "Life",
    "check_voucher",
    "close_exchange",
    "decode_renewal",
    "encode_renewal",
    "exchanging",
    "from_unix_ms",
    "has_ended",
    "held",
    "issue_for_node",
    "issuer_of",
    "life_of",
    "new_authority",
    "offline_now",
    "open_key",
    "ready",
    "renew_own",
    "seal_key",
    "store_certificate",
    "store_next_key",
    "trust",
    "warn_before_s",
]

CLOCK_FROM = datetime(2020, 1, 1, tzinfo=UTC)
CLOCK_UNTIL = datetime(2200, 1, 1, tzinfo=UTC)
"""A wall clock outside of these was never set: nothing is judged by it."""

_DAY_S = 86_400
_WARN_S = 30 * _DAY_S
_CA_CERT, _CA_KEY, _NEXT_KEY = "ca.crt", "ca.key", "ca-next.key"
_NODE_CERT = "node.crt"
_GRANT = "cyoloctl certificate"


# -- when ---------------------------------------------------------------------------------------


class Life(NamedTuple):
    """From when to when a certificate counts, in Unix milliseconds."""

    issued_unix_ms: int
    end_unix_ms: int

    @property
    def days(self) -> int:
        """Its length in days, 1 to 825."""
        whole = round((self.end_unix_ms - self.issued_unix_ms) / 1000 / _DAY_S)
        return max(1, min(whole, pki.MAX_CERTIFICATE_DAYS))

    @property
    def renew_unix_ms(self) -> int:
        """From when on it is renewed: at two thirds of its life."""
        return self.issued_unix_ms + (self.end_unix_ms - self.issued_unix_ms) * 2 // 3


def life_of(certificate_pem: str) -> Life:
    """When a certificate was issued, and its end.  Raises InvalidInput."""
    start, end = pki.certificate_dates(certificate_pem)
    return Life(_unix_ms(start) + _DAY_S * 1000, _unix_ms(end))


def warn_before_s(life_days: int) -> int:
    """How long before a certificate's end people are warned: 30 days, or nearly a third of a shorter life.

    Nearly: renewal by itself comes first.
    """
    return min(_WARN_S, life_days * _DAY_S * 3 // 10)


def has_ended(certificate_pem: str, now: datetime) -> bool:
    """Whether a certificate has ended by a clock that was ever set; False by any other clock."""
    return CLOCK_FROM <= now < CLOCK_UNTIL and life_of(certificate_pem).end_unix_ms <= _unix_ms(now)


def ready(members: Iterable[tuple[str, str | None]], pending_unix_ms: int) -> list[str]:
    """The names of those whose certificate would have ended at a time: none means that it may come.

    members: name and ``certificate_expires_at`` (RFC 3339, None where it is
    unknown) of every connected member.
    """
    late = []
    for name, expires_at in members:
        try:
            end = None if expires_at is None else datetime.fromisoformat(expires_at.replace("Z", "+00:00"))
        except ValueError:
            end = None
        if end is None or _unix_ms(end) <= pending_unix_ms:
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


def _unix_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def from_unix_ms(unix_ms: int) -> datetime:
    """The moment, in UTC."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC)


# -- issuing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA with its private key: who holds it can issue."""

    ca_pem: str
    key_pem: str = field(repr=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of its certificate, in hex."""
        return pki.certificate_sha256(self.ca_pem)


def issue_for_node(
    authority: Authority, public_key_pem: str, identity: Identity, *, now_unix_ms: int, days: int
) -> str:
    """A node's certificate in PEM.

    It may last longer than its CA: a CA that has ended is exchanged, and the
    nodes must live to do so.  public_key_pem: a key or a request.  Raises
    InvalidInput, ConfigError.
    """
    return pki.issue(
        authority.ca_pem,
        authority.key_pem,
        public_key_pem,
        identity,
        now=from_unix_ms(now_unix_ms),
        days=days,
        beyond_ca=True,
    )


def issuer_of(certificate_pem: str, authorities: Iterable[str]) -> str | None:
    """Which of these CAs (PEM) issued a certificate.  Raises InvalidInput."""
    der = pki.certificate_der(certificate_pem)
    return next((ca for ca in authorities if pki.is_issued_by(der, ca)), None)


def renew_own(pki_dir: Path, authority: Authority, identity: Identity, *, now_unix_ms: int, days: int) -> str:
    """Give this node a new certificate of this CA for the key that it has; returns it.

    Raises ConfigError, StorageError; then the old one is as it was.
    """
    public = pki.read_node_public_key(pki_dir)
    new = issue_for_node(authority, public, identity, now_unix_ms=now_unix_ms, days=days)
    write_private(pki_dir / _NODE_CERT, new.encode())
    return new


def store_certificate(pki_dir: Path, certificate_pem: str, identity: Identity) -> None:
    """Put a certificate in place that another node issued for this one.

    Raises InvalidInput where it is not for this node's name, cluster and key,
    or of a CA that this node does not trust; StorageError.
    """
    problem = pki.node_certificate_problem(
        certificate_pem, pki.read_authorities(pki_dir), identity, pki.read_node_public_key(pki_dir)
    )
    if problem is not None:
        raise InvalidInput(f"the certificate cannot be used: {problem}; ask for a new one")
    write_private(pki_dir / _NODE_CERT, certificate_pem.encode())


# -- the exchange of a CA -----------------------------------------------------------------------


def new_authority(old: Authority, cluster_id: str, cluster: str, now_unix_ms: int) -> tuple[Authority, str]:
    """A new CA for a cluster, and the old one's voucher for it (a signature, base64)."""
    ca_pem, key_pem = pki.create_ca(cluster_id, cluster, from_unix_ms(now_unix_ms))
    new = Authority(ca_pem, key_pem)
    return new, pki.sign_statement(old.key_pem, _voucher(cluster_id, ca_pem))


def check_voucher(ca_pem: str, voucher: str, trusted: Iterable[str], cluster_id: str) -> None:
    """Check that one of the trusted CAs vouched for a new one of the same cluster.  Raises InvalidInput."""
    statement = _voucher(cluster_id, ca_pem)
    if pki.ca_cluster_id(ca_pem) != cluster_id or not any(
        pki.is_signed_by_ca(statement, voucher, ca) for ca in trusted
    ):
        raise InvalidInput(
            "the new CA is not vouched for by the one that this node trusts: "
            "see who began the rotation (pki status), and abandon it (pki rotate-ca --abandon --yes)"
        )


def _voucher(cluster_id: str, ca_pem: str) -> bytes:
    return b"\0".join([b"cyoloctl next-ca 1", cluster_id.encode(), pki.certificate_sha256(ca_pem).encode()])


def _key_info(cluster_id: str, name: str, ca_pem: str) -> bytes:
    sha256 = pki.certificate_sha256(ca_pem)
    return b"\0".join([b"cyoloctl next-ca-key 1", cluster_id.encode(), name.encode(), sha256.encode()])


def seal_key(authority: Authority, cluster_id: str, name: str, sealing_key: str) -> str:
    """A CA's private key, sealed to one member.  Raises InvalidInput for the sealing key."""
    return pki.seal(sealing_key, authority.key_pem.encode(), _key_info(cluster_id, name, authority.ca_pem))


def open_key(pki_dir: Path, sealed: str, cluster_id: str, name: str, ca_pem: str) -> Authority:
    """The CA whose key was sealed to this node.  Raises InvalidInput, ConfigError."""
    _, sealing_key_pem = pki.read_node_keys(pki_dir)
    opened = pki.open_sealed(sealing_key_pem, sealed, _key_info(cluster_id, name, ca_pem))
    try:
        found = Authority(ca_pem, opened.decode("ascii"))
        pki.check_ca(found.ca_pem, found.key_pem)
    except (UnicodeDecodeError, ConfigError):
        raise InvalidInput("what was sealed to this node is not the CA's key") from None
    return found


def held(pki_dir: Path) -> dict[str, Authority]:
    """The CAs whose keys are in a node's directory, by the SHA-256 of their certificates.

    Raises ConfigError for a key that cannot be read or belongs to no CA that is trusted.
    """
    found = {}
    for file in (_CA_KEY, _NEXT_KEY):
        if os.path.lexists(pki_dir / file):
            ca_pem, key_pem = pki.read_ca(pki_dir, ca_key=pki_dir / file)
            authority = Authority(ca_pem, key_pem)
            found[authority.sha256] = authority
    return found


def trust(pki_dir: Path, authorities: Iterable[str]) -> bool:
    """Trust exactly these CAs, in this order; True for a change.  Raises ConfigError, StorageError."""
    wanted = tuple(authorities)
    if pki.read_authorities(pki_dir) == wanted:
        return False
    write_private(pki_dir / _CA_CERT, "".join(wanted).encode())
    return True


def store_next_key(pki_dir: Path, authority: Authority) -> None:
    """Keep the new CA's key beside the present one's.  Raises StorageError."""
    write_private(pki_dir / _NEXT_KEY, authority.key_pem.encode())


def close_exchange(pki_dir: Path, ca_pem: str) -> None:
    """The exchange has ended, or never came to be: from now on only this CA counts.

    The node's certificate must be of it.  Idempotent; after a crash between
    two of its steps the files fit together.  Raises ConfigError, StorageError.
    """
    new = held(pki_dir).get(pki.certificate_sha256(ca_pem))
    path = pki_dir / _CA_KEY
    if new is None:
        _remove(path)  # of a CA that counts no more: worth nothing here, and something to a thief
    elif not os.path.lexists(path) or pki.read_ca(pki_dir)[0] != ca_pem:
        write_private(path, new.key_pem.encode())
    _remove(pki_dir / _NEXT_KEY)
    trust(pki_dir, [ca_pem])


def exchanging(pki_dir: Path) -> bool:
    """Whether a new CA's key lies beside the present one's."""
    return os.path.lexists(pki_dir / _NEXT_KEY)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot remove {path}: {error.strerror}; correct the permissions") from error


# -- renewal by file ----------------------------------------------------------------------------


def encode_renewal(certificate_pem: str, *, cluster_id: str, name: str, ca_pem: str) -> dict[str, Any]:
    """The object of a file that carries a renewed certificate to its node.  No secrets.

    ca_sha256 names the CA that issued it; the node must trust it already.
    """
    return {
        "schema_version": 1,
        "kind": _GRANT,
        "cluster_id": cluster_id,
        "name": name,
        "ca_sha256": pki.certificate_sha256(ca_pem),
        "certificate_pem": certificate_pem,
    }


def decode_renewal(value: Mapping[str, Any], pki_dir: Path, identity: Identity) -> str:
    """The certificate in such an object, for this node.

    Raises InvalidInput where it is malformed or another node's, Conflict where
    it is of another cluster or of a CA that this node does not trust.
    """
    texts = {key: value.get(key) for key in ("cluster_id", "name", "ca_sha256", "certificate_pem")}
    if value.get("kind") != _GRANT or not all(isinstance(text, str) for text in texts.values()):
        raise InvalidInput(
            "this is not the file that `cyoloctl member grant` wrote: use the whole, unchanged file"
        )
    if texts["cluster_id"] != identity.cluster_id:
        raise Conflict("the certificate is of another cluster: grant it on a node of this one")
    if texts["name"] != identity.name:
        raise InvalidInput(
            f"the certificate is for {texts['name']!r}, not for {identity.name}: use that node's"
        )
    if texts["ca_sha256"] not in {pki.certificate_sha256(ca) for ca in pki.read_authorities(pki_dir)}:
        raise Conflict(
            f"the certificate is of a CA that {pki_dir / _CA_CERT} does not hold: this node missed that the "
            "CA was exchanged; remove the member and join it under a new name"
        )
    return str(texts["certificate_pem"])
