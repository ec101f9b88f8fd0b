"""The audit log, as programs and commands use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from cyoloctl.errors import InvalidInput
from cyoloctl.web.steps import Group, consistency, operation

if TYPE_CHECKING:
    from cyoloctl.audit.api import AuditAcknowledged, AuditLine, AuditPage
    from cyoloctl.web.steps import Steps

__all__ = ["Audit"]

M = TypeVar("M")

_PAGE = 1000


class Audit(Group[M]):
    """Who changed what: the chains ``trust`` and ``data``, see docs/audit.md."""

    @operation
    def page(
        self, chain: str, *, start: int | None = None, limit: int = 100, stale: bool = False
    ) -> Steps[AuditPage]:
        """A page of 1 to 1000 lines, the oldest first, from a sequence number on; None: the newest ones."""
        return self._page(chain, start, limit, stale)

    @operation
    def lines(self, chain: str, *, start: int = 1, stale: bool = False) -> Steps[list[AuditLine]]:
        """Every line from a sequence number on that was not cut."""
        found: list[AuditLine] = []
        while True:
            page = yield from self._page(chain, start, _PAGE, stale)
            found += page["lines"]
            if page["next"] is None:
                return found
            start = page["next"]

    @operation
    def acknowledge(
        self, chain: str, through: int, hash: str, *, request_id: str | None = None
    ) -> Steps[AuditAcknowledged]:
        """Say that the lines up to this one are exported and safe.  hash: of that line.

        Raises Conflict where the chain has no such line.
        """
        body = {"through": through, "hash": hash, "request_id": request_id}
        return self._caller.call("audit_acknowledge", _chain(chain), body)

    def _page(self, chain: str, start: int | None, limit: int, stale: bool) -> Steps[AuditPage]:
        if type(limit) is not int or not 1 <= limit <= _PAGE:
            raise InvalidInput(f"limit must be 1 to {_PAGE}")
        query: dict[str, Any] = {"limit": limit, "start": start, **consistency(stale)}
        return self._caller.call("audit_list", _chain(chain), query=query)


def _chain(name: str) -> str:
    if name not in ("trust", "data"):
        raise InvalidInput("the chain is trust or data")
    return name
