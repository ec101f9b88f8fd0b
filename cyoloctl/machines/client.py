"""State machines of your own, as programs use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from cyoloctl.web.steps import Group, consistency, operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cyoloctl.machines.api import MachineApplied, MachineList, MachineQueried, MachineShown
    from cyoloctl.web.steps import Steps

__all__ = ["Machines"]

M = TypeVar("M")


class Machines(Group[M]):
    """State machines that the cluster's nodes were given, by name: see docs/machines.md."""

    @operation
    def apply(
        self,
        name: str,
        operation: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        request_id: str | None = None,
    ) -> Steps[MachineApplied]:
        """Carry out an operation, exactly once per request id.

        arguments: JSON without fractions, by the names of the method's parameters.  request_id: 1 to 128
        printable ASCII characters; None makes a fresh one, so that a retry on another endpoint cannot apply
        twice.

        Raises MachineRefused with the machine's own words, MachineFailed where its code raised something
        else (nothing was changed), Conflict, NotFound for a machine that is not in force, QuotaExceeded,
        and Unprocessable for arguments that the method does not take.
        """
        body = {"operation": operation, "arguments": dict(arguments or {}), "request_id": request_id}
        return self._caller.call("machine_apply", name, body)

    @operation
    def query(
        self, name: str, query: str, arguments: Mapping[str, Any] | None = None, *, stale: bool = False
    ) -> Steps[MachineQueried]:
        """Ask: linearizable, or with stale what the asked node has.

        Raises as `apply`, MachineMismatch where the asked node has other code, and QueryTimeout.
        """
        body = {"query": query, "arguments": dict(arguments or {})}
        return self._caller.call("machine_query", name, body, query=consistency(stale), repeatable=True)

    @operation
    def list(self, *, stale: bool = False) -> Steps[list[MachineShown]]:
        """The machines that members have, and which members have not their code."""
        found: MachineList = yield from self._caller.call("machine_list", query=consistency(stale))
        return found["machines"]
