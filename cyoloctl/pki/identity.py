"""Identity of the other end of a TLS connection, by the name in its certificate.

Pure and quick to import, for whatever handles connections.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

from cyoloctl.errors import InvalidInput
from cyoloctl.model import NAME_PATTERN, ClusterId, NodeName, parse_name

__all__ = [
    "AccessRole",
    "Identity",
    "TlsObject",
    "parse_cluster_id",
    "parse_identity",
]

AccessRole = Literal["node", "operator", "gateway", "viewer"]

_CLUSTER_ID = re.compile(r"[0-9a-f]{32}")
_IDENTITY = re.compile(rf"({NAME_PATTERN})\.(node|operator|gateway|viewer)\.([0-9a-f]{{32}})\.cyoloctl")


def parse_cluster_id(text: str) -> ClusterId:
    """A cluster id: 32 lower-case hexadecimal characters.  Raises InvalidInput."""
    if not _CLUSTER_ID.fullmatch(text):
        raise InvalidInput(f"cluster id {text[:80]!r} is not valid: it is 32 characters of 0-9 and a-f")
    return ClusterId(text)


@dataclass(frozen=True, slots=True)
class Identity:
    """A name, what it may do, and in which cluster.  str() is the DNS name in its certificate.

    Raises InvalidInput when made from parts that are not valid.
    """

    name: NodeName
    role: AccessRole
    cluster_id: ClusterId

    def __post_init__(self) -> None:
        parse_name(self.name)
        parse_cluster_id(self.cluster_id)
        if self.role not in get_args(AccessRole):
            raise InvalidInput(f"role {self.role!r} is not valid: use node, operator, gateway or viewer")

    def __str__(self) -> str:
        return f"{self.name}.{self.role}.{self.cluster_id}.cyoloctl"


def parse_identity(dns_name: str) -> Identity | None:
    """The identity that a DNS name spells, or None where it is not exactly of our form."""
    match = _IDENTITY.fullmatch(dns_name)
    if match is None:
        return None
    name, _, role, cluster_id = match.groups()
    return Identity(NodeName(name), cast(AccessRole, role), ClusterId(cluster_id))


class TlsObject(Protocol):
    """An ssl.SSLObject or ssl.SSLSocket after its handshake, for the certificate itself."""

    def getpeercert(self, binary_form: bool, /) -> Any:
        """With True the certificate in DER, None without one."""
        ...
