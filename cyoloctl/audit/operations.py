"""Operations of a node on the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from cyoloctl.audit.api import AuditAcknowledged, AuditLine, AuditPage
from cyoloctl.audit.lines import CHAINS, Chain
from cyoloctl.audit.machine import AuditMachine
from cyoloctl.members.api import Problem
from cyoloctl.members.facts import problem
from cyoloctl.replicated.proposer import Proposer

__all__ = ["AuditOperations"]

_WARN_AT = 0.8


class AuditOperations:
    """Implements `audit.api.AuditApi`.  Any node takes any request.  name: of this node."""

    def __init__(self, proposer: Proposer, audit: AuditMachine, *, name: str) -> None:
        self._proposer = proposer
        self._audit = audit
        self._name = name

    def problems(self) -> Iterator[Problem]:
        """Chains that are about to lose lines which no export holds.

        Of data only once somebody has exported it: until then nobody counts on it.
        """
        for chain in CHAINS:
            lines = self._audit.chain(chain)
            share = lines.unexported_share()
            if share >= _WARN_AT and (chain == "trust" or lines.exported_through):
                yield problem(
                    "audit_not_exported",
                    self._name,
                    f"{lines.last - max(lines.exported_through, lines.cut_through)} lines of the "
                    f"{chain} chain of the audit log were not exported, and take {share:.0%} of its room: "
                    "export them before the oldest are cut",
                    f"cyoloctl audit export --chain {chain} --append --out FILE",
                )

    async def list(
        self, name: str, *, start: int | None, limit: int, consistency: str, timeout_s: float
    ) -> AuditPage:
        """A page; without a start the last one."""
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        chain = cast("Chain", name)
        lines = self._audit.chain(chain)
        first = max(1, lines.last - limit + 1) if start is None else start
        page = cast("list[AuditLine]", lines.page(first, limit))
        through = page[-1]["sequence"] if page else 0
        return {
            "chain": chain,
            "lines": page,
            "next": through + 1 if 0 < through < lines.last else None,
            "last": lines.last,
            "head": lines.head,
            "cut_through": lines.cut_through,
            "cut_hash": lines.cut_hash,
            "exported_through": lines.exported_through,
            "index": self._proposer.engine.applied_index(),
            "epoch": self._proposer.epoch(),
        }

    async def acknowledge(
        self, name: str, *, through: int, hash: str, request_id: str | None, timeout_s: float
    ) -> AuditAcknowledged:
        """Record that the chain is exported up to this line.  Raises Conflict."""
        index, value, identifier = await self._proposer.apply(
            "audit",
            "acknowledge",
            {"chain": name, "through": through, "hash": hash},
            request_id=request_id,
            timeout_s=timeout_s,
        )
        return {
            "chain": cast("Chain", name),
            "exported_through": value["exported_through"],
            "index": index,
            "epoch": self._proposer.epoch(),
            "request_id": identifier,
        }
