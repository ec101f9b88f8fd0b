"""The audit log in the replicated state: who changed what, each line joined to the one before by its hash.

Lines are made where commands are applied, from the command and its outcome, so
every node has the same ones.  There are two chains, so that a million writes of
data do not push out the line that added a member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cyoloctl.audit.chain import AuditLimits, Lines, Row
from cyoloctl.audit.lines import CHAINS, Chain, Common, Context, common_of
from cyoloctl.audit.what import Subject, entry_of
from cyoloctl.errors import Conflict
from cyoloctl.replicated.checks import checked, integer, json_object, text
from cyoloctl.replicated.command import (
    MAX_CALLER_LENGTH,
    MAX_REQUEST_ID_LENGTH,
    MAX_TIME_UNIX_MS,
    Command,
    Malformed,
    Refused,
)
from cyoloctl.replicated.machine import NO_ROWS, Machine, Operations, Rows
from cyoloctl.text import Json

__all__ = ["AuditMachine"]

_KINDS = 1024
"""Kinds of commands that are remembered with what their lines have in common."""

_DONE = b'{"index":'
_ERROR = b'{"error":{"code":"'

_Kind = tuple[Lines, Common, Subject]


class AuditMachine(Machine):
    """One operation, and its answer; `note` makes the lines.

    ``acknowledge {chain, through, hash}`` -> ``{chain, exported_through}``: an
    export of the chain up to this line is safe.  conflict where the chain does
    not go so far, or has another line there.  That line may have been cut since.
    """

    NAME = "audit"
    PROPOSER = "any"
    TABLES = tuple(f"{chain}_lines" for chain in CHAINS)

    def __init__(self, limits: AuditLimits | None = None) -> None:
        super().__init__(_OPERATIONS)
        self._chains = {chain: Lines(chain, limits or AuditLimits()) for chain in CHAINS}
        self._kinds: dict[tuple[str, str, str, str], _Kind] = {}
        self._without_line: set[tuple[str, str, str, str]] = set()

    def chain(self, name: Chain) -> Lines:
        """A chain, to read."""
        return self._chains[name]

    def note(self, command: Command, index: int, epoch: int, now_unix_ms: int, result: bytes) -> None:
        """A command was carried out or refused, with this result: leave its line, if it is to have one."""
        key = (command.origin, command.caller, command.machine, command.operation)
        kind = self._kinds.get(key)
        if kind is None:
            if key in self._without_line:
                return
            kind = self._kind(key)
            if kind is None:
                return
        lines, common, subject = kind
        if result.startswith(_DONE):
            outcome = "done"
        else:
            outcome = result[len(_ERROR) :].partition(b'"')[0].decode("ascii")
        lines.append(
            (common, epoch, index, outcome, command.request_id, subject(command.arguments), now_unix_ms),
        )

    def _kind(self, key: tuple[str, str, str, str]) -> _Kind | None:
        origin, caller, machine, operation = key
        role, credential, address, node = origin.split(" ")
        found = entry_of(machine, operation, role)
        if len(self._kinds) + len(self._without_line) >= _KINDS:
            self._kinds.clear()
            self._without_line.clear()
        if found is None:
            self._without_line.add(key)
            return None
        chain, subject = found
        credential, address, node = ("" if each == "-" else each for each in (credential, address, node))
        context = (caller or node, role, credential, address, node, f"{machine}.{operation}")
        kind = self._kinds[key] = (self._chains[chain], common_of(chain, context), subject)
        return kind

    def is_new(self) -> bool:
        """See Machine."""
        return not any(lines.last for lines in self._chains.values())

    def _acknowledge(self, given: Json, index: int, now_unix_ms: int) -> Json:
        chain, through = given["chain"], given["through"]
        lines = self._chains[chain]
        if through > lines.last:
            raise Refused(
                Conflict(
                    f"the {chain} chain ends with line {lines.last}: an export up to line {through} "
                    "is not of this history"
                )
            )
        here = lines.hash_at(through)
        if here not in (None, given["hash"]):
            raise Refused(
                Conflict(f"{chain} line {through} has another hash here: the export is not of this history")
            )
        lines.exported_through = max(lines.exported_through, through)
        return {"chain": chain, "exported_through": lines.exported_through}

    def export_state(self) -> Json:
        """The state but for the lines."""
        return {chain: lines.export_state() for chain, lines in self._chains.items()}

    def freeze_tables(self) -> Rows:
        """See Machine: the lines of each chain."""
        return {f"{chain}_lines": lines.freeze_rows() for chain, lines in self._chains.items()}

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """See Machine.  Reads every line, and joins them again.  Raises ValueError."""
        states = json_object(state)
        if states.keys() != set(CHAINS):
            raise ValueError("the audit log has other chains")
        try:
            commits = [
                self._chains[chain].prepare_restore(
                    checked(states[chain], _STATE), _rows(chain, tables.get(f"{chain}_lines", ()))
                )
                for chain in CHAINS
            ]
        except Malformed:
            raise ValueError("the audit log is not valid") from None

        def commit() -> None:
            for each in commits:
                each()

        return commit


_hash = text("[0-9a-f]{64}", "the hash is not valid: use 64 hexadecimal digits")
_number = integer(0, 2**63 - 1, "the sequence number")
_STATE = {
    "cut_hash": _hash,
    "cut_through": _number,
    "exported_through": _number,
    "head": _hash,
    "last": _number,
}


def _rows(chain: Chain, rows: Iterable[Any]) -> Iterator[Row]:
    """Raises ValueError."""
    known: dict[Context, Common] = {}
    for row in rows:
        if type(row) is not list or len(row) != 12 or not all(map(_fits, row, _ROW)):
            raise ValueError("a line of the audit log is not valid")
        context: Context = tuple(row[:6])
        common = known.get(context)
        if common is None:
            common = known[context] = common_of(chain, context)
        yield (common, *row[6:])


_MAX_WORD = 2 * max(MAX_CALLER_LENGTH, MAX_REQUEST_ID_LENGTH)
_ROW: tuple[type, ...] = (*6 * (str,), int, int, *3 * (str,), int)


def _fits(value: object, kind: type) -> bool:
    if type(value) is not kind:
        return False
    if type(value) is str:
        return len(value) <= _MAX_WORD
    return type(value) is int and 0 <= value < 2**64


_OPERATIONS: Operations = {
    "acknowledge": (
        {
            "chain": text("trust|data", "the chain is not valid: use trust or data"),
            "through": integer(1, MAX_TIME_UNIX_MS, "the sequence number"),
            "hash": _hash,
        },
        AuditMachine._acknowledge,
    )
}
