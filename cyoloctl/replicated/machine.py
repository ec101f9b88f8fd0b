"""The base of every replicated machine: operations, observer, part of a snapshot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from cyoloctl.replicated.checks import Check
from cyoloctl.replicated.command import Malformed
from cyoloctl.text import Json

__all__ = ["NO_ROWS", "Machine", "Observed", "Operations", "Rows"]


Operations = Mapping[str, tuple[Mapping[str, Check], Callable[..., Json]]]
"""By name: the check of each argument, and the method that runs it.

The method gets the clean arguments, the log index and the replicated time in
Unix milliseconds.  It returns the value of the answer, or raises Refused
before it changes anything.
"""

Rows = Mapping[str, Iterable[Any]]
"""By table, its rows as JSON, ascending."""

NO_ROWS: Rows = MappingProxyType({})


class Machine(ABC):
    """One state machine of the cluster's state.  Pure: no clock, no randomness, no I/O.

    NAME: of the machine in commands and snapshots.
    PROPOSERS: operation -> who may propose it to the leader: ``any`` member,
    ``voter``, ``self`` (only the member that the argument ``name`` names),
    ``leader`` (nobody forwards it), ``nobody`` (old logs alone hold it).
    PROPOSER: the same for every operation that PROPOSERS does not list.
    DRAWN: operation -> the arguments that the proposing node draws or computes
    itself (key material, a sealed copy).  They do not tell two commands apart:
    a repetition under the same request id draws others, and gets the first
    answer.  Fixed once an operation has been in a release.
    STATELESS: it has no state, and no place in snapshots.
    TABLES: the parts of the state that have any number of rows, in the order in
    which snapshots hold them.  They are written and read row by row.
    """

    NAME: ClassVar[str]
    PROPOSER: ClassVar[str] = "voter"
    PROPOSERS: ClassVar[Mapping[str, str]] = {}
    DRAWN: ClassVar[Mapping[str, frozenset[str]]] = {}
    STATELESS: ClassVar[bool] = False
    TABLES: ClassVar[tuple[str, ...]] = ()

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def operations(self) -> frozenset[str]:
        """The operations that `apply` knows."""
        return frozenset(self._operations)

    def knows(self, operation: str) -> bool:
        """Whether `apply` knows an operation."""
        return operation in self._operations

    def forgo(self, operations: Collection[str]) -> None:
        """Be as in an earlier release, which lacks these operations: they are unknown from now on."""
        self._operations = {name: run for name, run in self._operations.items() if name not in operations}

    def proposer(self, operation: str) -> str:
        """The proposer that an operation allows; see PROPOSERS."""
        return self.PROPOSERS.get(operation, self.PROPOSER)

    def apply(self, operation: str, arguments: Mapping[str, Any], index: int, now_unix_ms: int) -> Json:
        """The value of the answer.

        index: of the log entry.  now_unix_ms: replicated time.

        Raises Malformed for an operation or arguments that are not valid, and
        Refused.  Either way nothing changed.
        """
        known = self._operations.get(operation)
        if known is None:
            raise Malformed(f"unknown operation on {self.NAME}: upgrade every node before using what is new")
        checks, run = known
        if arguments.keys() != checks.keys():
            raise Malformed(f"{self.NAME}.{operation} takes {', '.join(sorted(checks))}")
        # In the table's order, so that of two wrong arguments every node names the same.
        given = {key: check(arguments[key]) for key, check in checks.items()}
        self._before(given, index, now_unix_ms)
        return run(self, given, index, now_unix_ms)

    def _before(self, given: Json, index: int, now_unix_ms: int) -> None:  # noqa: B027 - most machines have nothing to do
        """First step of every well-formed command."""

    def forget_member(self, name: str, index: int) -> None:  # noqa: B027 - most machines have nothing to do
        """A member was removed, in this very entry; its name never returns."""

    def set_back(self, from_unix_ms: int, to_unix_ms: int) -> None:  # noqa: B027 - most machines have nothing to do
        """Cluster time was set back, in this very entry: correct the dates that now lie ahead."""

    def is_new(self) -> bool:
        """Whether the state is a new cluster's and takes no place in snapshots, for releases without it."""
        return False

    @abstractmethod
    def export_state(self) -> Json:
        """The state but for its tables, as JSON without floats; equal states give equal JSON.

        Not a copy: encode it before the next `apply`.
        """

    def freeze(self) -> Callable[[], Json]:
        """`export_state` of this moment, whatever comes meanwhile.

        A machine that can be large does the work in the returned function,
        which may run in another thread.
        """
        state = self.export_state()
        return lambda: state

    def freeze_tables(self) -> Rows:
        """The rows of `TABLES` at this moment, whatever comes meanwhile: to be read once, in any thread."""
        return NO_ROWS

    @abstractmethod
    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Check any JSON values; the returned function puts them in place and cannot fail.

        tables: the rows of each of `TABLES`, to be read once, to the end, in that order.
        Changes nothing, and may run in another thread while commands are applied.

        Raises ValueError.
        """

    def split_whole(self, state: object) -> tuple[object, Rows]:
        """State and tables, of a state from before there were tables.  Raises ValueError."""
        return state, NO_ROWS


class Observed:
    """A machine that tells an observer of this node what an entry changed.

    on_change: called with the name of what changed and the log index.  Not
    replicated; what it raises is dropped.  It must not propose or change
    anything here.
    """

    on_change: Callable[[str, int], None] | None = None

    def _changed(self, what: str, index: int) -> None:
        if self.on_change is not None:
            # An observer is not replicated: whatever happens in it must not make this node differ.
            try:  # noqa: SIM105 - a part of every write, and `suppress` takes longer than the observer
                self.on_change(what, index)
            except Exception:
                pass
