"""A node's certificates and CAs, made, checked and exchanged as a node does it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cyoloctl.model import ClusterId, NodeName
from cyoloctl.pki import exchange, renewal
from cyoloctl.pki.ca import Authority
from cyoloctl.pki.files import NodeFiles, check_private_files
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.identity import Identity, parse_identity
from cyoloctl.pki.tls import TlsIdentity
from cyoloctl.pki.x509 import certificate_expires_at, dns_names, load_certificate

__all__ = ["DAY_MS", "ID", "N1", "NOW", "NOW_MS", "certificate", "node", "only", "renew_own", "usable"]

ID = ClusterId("0123456789abcdef0123456789abcdef")
NOW = datetime(2026, 6, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
DAY_MS = 86_400_000
N1 = Identity(NodeName("n1"), "node", ID)


def node(where: Path, days: int = 825) -> Path:
    """The pki directory of a new cluster's first node."""
    new_cluster(where, name="n1", cluster="c", now=NOW, cluster_id=ID, days=days)
    return where / "pki"


def only(pki_dir: Path) -> Authority:
    """The one CA whose key is there."""
    (found,) = exchange.held(pki_dir).values()
    return found


def certificate(pki_dir: Path) -> str:
    return (pki_dir / "node.crt").read_text()


def usable(pki_dir: Path) -> NodeFiles:
    """The files, as a node that starts checks them."""
    TlsIdentity(pki_dir)
    exchange.held(pki_dir)
    return check_private_files(pki_dir, name="n1", cluster_id=ID)


def renew_own(pki_dir: Path, now: datetime | None = None, days: int = 825) -> datetime:
    """A new certificate from the node's own CA key, and its end."""
    moment = now or datetime.now(UTC)
    (held,) = exchange.held(pki_dir).values()
    (name,) = dns_names(load_certificate((pki_dir / "node.crt").read_text()).extensions)
    identity = parse_identity(name)
    assert identity is not None
    new = renewal.renew_own(pki_dir, held, identity, now_unix_ms=int(moment.timestamp() * 1000), days=days)
    return certificate_expires_at(new)
