"""Certificates and CAs of nodes, exchanged as a node does it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cyoloctl.pki import exchange, renewal
from cyoloctl.pki.identity import parse_identity
from cyoloctl.pki.x509 import certificate_expires_at, certificate_names

__all__ = ["renew_own"]


def renew_own(pki_dir: Path, now: datetime | None = None, days: int = 825) -> datetime:
    """A new certificate from the node's own CA key, and its end."""
    moment = now or datetime.now(UTC)
    (held,) = exchange.held(pki_dir).values()
    name = certificate_names((pki_dir / "node.crt").read_text())[0]
    identity = parse_identity(name)
    assert identity is not None
    new = renewal.renew_own(pki_dir, held, identity, now_unix_ms=int(moment.timestamp() * 1000), days=days)
    return certificate_expires_at(new)
