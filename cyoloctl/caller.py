"""The caller on whose behalf the present task runs.

Set once for each request at the edge (control API, gateway) and read where a
write is proposed or a register entry is made, so that every bound can be kept
for each caller and no operation has to pass a name along.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["CALLER", "NODE", "Actor", "Caller", "CallerKind", "offline_origin"]

CallerKind = Literal["node", "client", "browser"]


class Caller(NamedTuple):
    """The caller of an operation.

    kind: ``node`` for the node's own upkeep, ``client`` for a caller of the
    API, ``browser`` for somebody at the gateway.  name: of the credentials, of
    the local user, or the digest that stands for a person; empty for the node.

    role, credential, address, node: where that came from, for the audit log.  Of
    a caller of the API the role; the first 32 hexadecimal digits of the hash of
    its key, or ``uid:N`` of the control socket's user; the address, or
    ``socket``; and the node that took the request, where another one carries it
    out.  Empty: not known, or this node.
    """

    kind: CallerKind
    name: str
    role: str = ""
    credential: str = ""
    address: str = ""
    node: str = ""

    def origin(self, here: str) -> str:
        """As commands hold it (`replicated.command`).  here: the name of this node, empty for none."""
        role = self.role or ("none" if self.kind == "client" else self.kind)
        return f"{role} {self.credential or '-'} {self.address or '-'} {self.node or here or '-'}"


NODE = Caller("node", "")

CALLER: ContextVar[Caller] = ContextVar("caller", default=NODE)
"""The caller of the present task; the node itself where nobody asked."""


def offline_origin(uid: int, node: str) -> str:
    """The origin, for the audit log, of what a user of the machine does to the files of a stopped node."""
    return f"operator uid:{uid} offline {node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Whoever begins or answers something, as far as proved; None for what was not.

    sub, sid, claims: of the session that was shown.  browsers: secrets that one
    browser keeps, first the one that this request is for.  credentials: the name
    in a certificate.
    """

    sub: str | None = None
    sid: str | None = field(default=None, repr=False)
    browsers: tuple[str, ...] = field(default=(), repr=False)
    credentials: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
