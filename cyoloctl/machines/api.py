"""The API of the machines that users wrote: routes, answers, errors, and the operations behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypedDict

from cyoloctl.errors import (
    Conflict,
    MachineFailed,
    MachineMismatch,
    MachineRefused,
    QueryTimeout,
    QuotaExceeded,
    Unprocessable,
)
from cyoloctl.web.schema import (
    CONSISTENCY,
    REQUEST_ID,
    REQUEST_ID_PATTERN,
    Count,
    Field,
    Name,
    Route,
    Shape,
)

if TYPE_CHECKING:
    from cyoloctl.replicated.proposer import Planned

__all__ = [
    "MAX_BODY_BYTES",
    "ROUTES",
    "HasMachines",
    "MachineApi",
    "MachineApplied",
    "MachineList",
    "MachineQueried",
    "MachineShown",
]

MAX_BODY_BYTES = 480 * 1024


class MachineApplied(TypedDict):
    """The answer of an operation of a machine; the same for every repetition of the request id"""

    name: Name
    operation: str
    answer: Any
    version: Count
    index: Count
    epoch: Count
    request_id: Annotated[str, Shape(pattern=f"^{REQUEST_ID_PATTERN}$")]


class MachineQueried(TypedDict):
    """The answer of a query of a machine"""

    name: Name
    query: str
    answer: Any
    version: Count
    index: Count
    epoch: Count


class MachineShown(TypedDict):
    """A machine and a version of its code; lacking: the members that have not announced this code"""

    name: Name
    version: Count
    digest: str
    state: Literal["in_force", "waiting"]
    rows: Count
    lacking: list[str]
    operations: list[str]
    queries: list[str]


class MachineList(TypedDict):
    """The machines in force, then what waits until every member has it"""

    machines: list[MachineShown]
    index: Count
    epoch: Count


class MachineApi(Protocol):
    """Operations of a node for callers of this API."""

    async def apply(
        self,
        name: str,
        *,
        operation: str,
        arguments: dict[str, Any],
        request_id: str | None,
        timeout_s: float,
    ) -> MachineApplied:
        """Carry out an operation.  Raises MachineRefused, MachineFailed, Unprocessable, QuotaExceeded."""

    def plan_apply(self, name: str, *, operation: str, arguments: dict[str, Any]) -> Planned:
        """`apply` as a write to be carried out with others.  Raises Unprocessable."""

    async def query(
        self, name: str, *, query: str, arguments: dict[str, Any], consistency: str, timeout_s: float
    ) -> MachineQueried:
        """Ask.  Raises MachineRefused, MachineFailed, MachineMismatch, Unprocessable, QueryTimeout."""

    async def list(self, *, consistency: str, timeout_s: float) -> MachineList:
        """All of them."""


class HasMachines(Protocol):
    """A node that serves this API."""

    @property
    def machines(self) -> MachineApi:
        """The operations."""


_METHOD_RULE = "up to 63 of a-z, 0-9 and '_', beginning with a letter"


def _method(name: str) -> Field:
    return Field(name, "string", f"the {name}", pattern=r"[a-z][a-z0-9_]{0,62}", rule=_METHOD_RULE)


_ARGUMENTS = Field("arguments", "object", "what it takes, by name: JSON without fractions", default={})

ROUTES: tuple[Route[HasMachines], ...] = (
    Route(
        "POST",
        "/v1/machines/{name}/apply",
        "operator",
        "machine_apply",
        "Carry out an operation of a machine of your own",
        answer=MachineApplied,
        handler=lambda node: node.machines.apply,
        plan=lambda node: node.machines.plan_apply,
        example=(
            {"operation": "add", "arguments": {"page": "/index", "by": 2}},
            {
                "name": "hits",
                "operation": "add",
                "answer": 44,
                "version": 1,
                "index": 4711,
                "epoch": 1,
                "request_id": "0123456789abcdef0123456789abcdef",
            },
        ),
        what="machine name",
        body=(_method("operation"), _ARGUMENTS, REQUEST_ID),
        write=True,
        max_body_bytes=MAX_BODY_BYTES,
        errors=(Unprocessable, Conflict, MachineRefused, MachineFailed, QuotaExceeded),
    ),
    Route(
        "POST",
        "/v1/machines/{name}/query",
        "viewer",
        "machine_query",
        "Ask a machine of your own",
        answer=MachineQueried,
        handler=lambda node: node.machines.query,
        what="machine name",
        body=(_method("query"), _ARGUMENTS),
        query=(CONSISTENCY,),
        max_body_bytes=MAX_BODY_BYTES,
        errors=(Unprocessable, MachineRefused, MachineFailed, MachineMismatch, QueryTimeout),
    ),
    Route(
        "GET",
        "/v1/machines",
        "viewer",
        "machine_list",
        "List the machines of your own, and the members that have not their code",
        answer=MachineList,
        handler=lambda node: node.machines.list,
        query=(CONSISTENCY,),
    ),
)
