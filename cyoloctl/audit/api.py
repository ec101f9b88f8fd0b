"""The API of the audit log: routes, answers, errors, and the operations behind them."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol, TypedDict

from cyoloctl.errors import Conflict
from cyoloctl.web.schema import (
    CONSISTENCY,
    REQUEST_ID,
    REQUEST_ID_PATTERN,
    Count,
    Field,
    Route,
    Shape,
    Time,
)

__all__ = [
    "MAX_PAGE",
    "ROUTES",
    "AuditAcknowledged",
    "AuditApi",
    "AuditLine",
    "AuditPage",
    "HasAudit",
]

MAX_PAGE = 1000
"""Lines of an answer."""

_MAX_NUMBER = 2**53 - 1
_HASH_RULE = "64 hexadecimal digits"

Hash = Annotated[str, Shape(pattern="^[0-9a-f]{64}$")]
ChainName = Literal["trust", "data"]


class AuditLine(TypedDict):
    """A line of the audit log: who changed what, with which outcome; previous: the hash of the line before"""

    chain: ChainName
    sequence: Count
    time: Time
    who: str
    role: str
    credential: str
    address: str
    node: str
    operation: str
    subject: str
    outcome: str
    request_id: str
    index: Count
    epoch: Count
    previous: Hash
    hash: Hash


class AuditPage(TypedDict):
    """A page of a chain, the oldest line first, and where the chain stands"""

    chain: ChainName
    lines: list[AuditLine]
    next: Count | None
    last: Count
    head: Hash
    cut_through: Count
    cut_hash: Hash
    exported_through: Count
    index: Count
    epoch: Count


class AuditAcknowledged(TypedDict):
    """How far a chain was exported; the same for every repetition of the request id"""

    chain: ChainName
    exported_through: Count
    index: Count
    epoch: Count
    request_id: Annotated[str, Shape(pattern=f"^{REQUEST_ID_PATTERN}$")]


class AuditApi(Protocol):
    """Operations of a node for callers of this API.  name: of a chain."""

    async def list(
        self, name: str, *, start: int | None, limit: int, consistency: str, timeout_s: float
    ) -> AuditPage:
        """A page."""

    async def acknowledge(
        self, name: str, *, through: int, hash: str, request_id: str | None, timeout_s: float
    ) -> AuditAcknowledged:
        """An export is safe.  Raises Conflict."""


class HasAudit(Protocol):
    """A node that serves this API."""

    @property
    def audit(self) -> AuditApi:
        """The operations."""


_CHAIN_PATTERN, _CHAIN_RULE = "trust|data", "trust or data"

ROUTES: tuple[Route[HasAudit], ...] = (
    Route(
        "GET",
        "/v1/audit/{name}",
        "viewer",
        "audit_list",
        "Read a chain of the audit log, in pages",
        answer=AuditPage,
        handler=lambda node: node.audit.list,
        what="chain",
        name_pattern=_CHAIN_PATTERN,
        name_rule=_CHAIN_RULE,
        query=(
            CONSISTENCY,
            Field(
                "start",
                "integer",
                "sequence number of the first line; without it the page ends with the newest line",
                default=None,
                nullable=True,
                minimum=1,
                maximum=_MAX_NUMBER,
            ),
            Field("limit", "integer", "lines per page", default=100, minimum=1, maximum=MAX_PAGE),
        ),
    ),
    Route(
        "POST",
        "/v1/audit/{name}/acknowledge",
        "operator",
        "audit_acknowledge",
        "Say that a chain of the audit log is exported up to a line",
        answer=AuditAcknowledged,
        handler=lambda node: node.audit.acknowledge,
        what="chain",
        name_pattern=_CHAIN_PATTERN,
        name_rule=_CHAIN_RULE,
        body=(
            Field("through", "integer", "sequence number", minimum=1, maximum=_MAX_NUMBER),
            Field("hash", "string", "hash of that line", pattern="[0-9a-f]{64}", rule=_HASH_RULE),
            REQUEST_ID,
        ),
        write=True,
        errors=(Conflict,),
    ),
)
