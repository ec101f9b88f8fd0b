"""The machines that users write, as one replicated machine: whose code is in force, and their tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

from cyoloctl.errors import (
    Conflict,
    InvalidInput,
    MachineFailed,
    MachineMismatch,
    MachineRefused,
    NotFound,
    QuotaExceeded,
    Unprocessable,
)
from cyoloctl.machines.code import MAX_VERSION, METHOD_PATTERN, Code, Failed, Method, WrongArguments
from cyoloctl.machines.language import MAX_KEY_BYTES, MAX_VALUE_BYTES, Refuse, Stopped, Table
from cyoloctl.members.machine import MemberMachine
from cyoloctl.model import parse_name
from cyoloctl.replicated.checks import exact, integer, json_object, member_name, text
from cyoloctl.replicated.command import Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Operations
from cyoloctl.replicated.machine import Rows as RowsByTable
from cyoloctl.replicated.table import Table as Rows
from cyoloctl.text import Json, canonical_json, parse_canonical_json

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_ARGUMENT_BYTES",
    "MAX_MACHINES",
    "MAX_STEPS",
    "InForce",
    "MachineLimits",
    "UserMachines",
    "failure",
    "query_of",
    "short",
]

MAX_MACHINES = 64
MAX_ANSWER_BYTES = 4096
"""Of an operation's answer as canonical JSON: it is remembered under its request id."""
MAX_ARGUMENT_BYTES = 256 * 1024
MAX_STEPS = 50_000
"""Rows that one operation may read and write: half a second, in which the node does nothing else."""
_ROW_BYTES = 64


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """quota: bytes of all tables of machines, 64 for each row among them."""

    quota: int = 256 * 1024 * 1024


class InForce(NamedTuple):
    """The code of a machine that the cluster runs.  digest: 64 hex digits."""

    version: int
    digest: str


def short(digest: str) -> str:
    """So much of a digest as people compare."""
    return digest[:16]


class UserMachines(Machine):
    """Operations and their answers:

    ``announce {name, machines}`` -> the same: the member has the code of these
    machines, each ``[NAME, VERSION, DIGEST]``, ascending.  not_found for a name
    that is no member.
    ``register {machine, version, digest}`` -> ``{machine, version, changed}``: this
    code is in force from the entry on.  machine_mismatch while a member has
    not announced it, conflict for a version below the one in force or for other
    code under the same version.
    ``apply {machine, operation, arguments}`` -> ``{answer, version}``: an operation
    of a machine was carried out.  not_found for a machine or operation that is
    not there, unprocessable for arguments that it does not take,
    machine_refused where it refused, machine_failed where its code raised or
    gave no answer, quota_exceeded.  Unless it succeeds nothing has changed.

    A node that has not the code that is in force stops at the entry that
    brings it in force, and takes no snapshot of a state that has it:
    MachineMismatch.  codes: what this node has, which is not replicated; None
    for whoever carries out nothing, such as a reader of snapshot files.

    on_failed: called with machine, operation and the exception, for the log.  Not
    replicated; what it raises is dropped.
    """

    NAME = "machines"
    PROPOSERS: ClassVar[dict[str, str]] = {"announce": "self", "register": "leader", "apply": "any"}
    TABLES = ("rows",)

    def __init__(
        self,
        members: MemberMachine,
        codes: Iterable[Code] | None = None,
        limits: MachineLimits | None = None,
    ) -> None:
        super().__init__(_OPERATIONS)
        self._members = members
        self._limits = limits or MachineLimits()
        self._codes = None if codes is None else {(code.name, code.digest): code for code in codes}
        self.on_failed: Callable[[str, str, BaseException], None] | None = None
        self._register: dict[str, InForce] = {}
        self._announced: dict[str, list[list[Any]]] = {}
        self._tables: dict[str, Rows[str]] = {}
        self._size = 0

    def codes(self) -> list[Code]:
        """What this node has, by name and version."""
        found = () if self._codes is None else self._codes.values()
        return sorted(found, key=lambda code: (code.name, code.version))

    def in_force(self) -> dict[str, InForce]:
        """The code of each machine, by name."""
        return dict(sorted(self._register.items()))

    def rows(self, name: str) -> int:
        """The number of rows of a machine's table."""
        return len(self._tables.get(name, ()))

    def own_announcement(self) -> list[list[Any]]:
        """What this node has to announce."""
        return sorted([code.name, code.version, code.digest] for code in self.codes())

    def announced(self, name: str) -> list[list[Any]]:
        """What a member has announced."""
        return self._announced.get(name, [])

    def lacking(self, machine: str, version: int, digest: str) -> list[str]:
        """The members that have not announced this code."""
        wanted = [machine, version, digest]
        return [each.name for each in self._members.members() if wanted not in self.announced(each.name)]

    def due(self) -> Json | None:
        """The arguments of the next ``register``: code that every member has, of a newer version."""
        for machine, version, digest in sorted(self._newer(), reverse=True):
            if not self.lacking(machine, version, digest):
                return {"machine": machine, "version": version, "digest": digest}
        return None

    def waiting(self) -> list[tuple[str, int, str]]:
        """Code that some members have announced, newer than what is in force."""
        return sorted(self._newer())

    def _newer(self) -> Iterator[tuple[str, int, str]]:
        found = {
            (str(each[0]), int(each[1]), str(each[2])) for all_ in self._announced.values() for each in all_
        }
        for machine, version, digest in found:
            known = self._register.get(machine)
            if known is None and len(self._register) >= MAX_MACHINES:
                continue
            if known is None or version > known.version:
                yield machine, version, digest

    def code(self, machine: str) -> Code:
        """The code that is in force, as this node has it.  Raises NotFound, MachineMismatch."""
        known = self._register.get(machine)
        if known is None:
            names = ", ".join(sorted(self._register)) or "none"
            raise NotFound(f"there is no machine {machine}, or a member lacks its code; there are: {names}")
        found = (self._codes or {}).get((machine, known.digest))
        if found is None:
            raise MachineMismatch(self._differs(machine, known))
        return found

    def _differs(self, machine: str, known: InForce) -> str:
        mine = [
            f"version {code.version}, code {short(code.digest)}"
            for code in self.codes()
            if code.name == machine
        ]
        return (
            f"the cluster runs version {known.version} of machine {machine}, code {short(known.digest)}, and "
            f"this node has {' and '.join(mine) or 'none'}: give it the same file as the other nodes have, "
            "name it under machines in node.yaml, then start this node again"
        )

    def refuse_other_code(self, state: object) -> None:
        """Refuse the exported state of a cluster whose machines this node has not.

        Raises MachineMismatch; anything else is for `prepare_restore`.
        """
        if self._codes is None or type(state) is not dict:
            return
        with suppress(ValueError):
            for machine, known in _register(state.get("register")).items():
                if (machine, known.digest) not in self._codes:
                    raise MachineMismatch(self._differs(machine, known))

    def table(self, machine: str) -> Rows[str]:
        """A machine's table as it is now, to be read in any thread: each operation works on a copy."""
        return self._tables.get(machine, Rows())

    def is_new(self) -> bool:
        """See Machine."""
        return not self._register and not self._announced

    def forget_member(self, name: str, index: int) -> None:
        """See Machine."""
        self._announced.pop(name, None)

    def forget_members(self) -> None:
        """A new cluster goes on with this state: its members are strangers here, tables and code stay."""
        self._announced = {}

    def _announce(self, given: Json, index: int, now_unix_ms: int) -> Json:
        name = given["name"]
        if self._members.get(name) is None:
            raise Refused(NotFound(f"there is no member {name}: see member list"))
        if given["machines"]:
            self._announced[name] = given["machines"]
        else:
            self._announced.pop(name, None)
        return given

    def _bring_in_force(self, given: Json, index: int, now_unix_ms: int) -> Json:
        machine, wanted = given["machine"], InForce(given["version"], given["digest"])
        known = self._register.get(machine)
        if known == wanted:
            return {"machine": machine, "version": wanted.version, "changed": False}
        if known is not None and wanted.version <= known.version:
            raise Refused(
                Conflict(
                    f"version {known.version} of machine {machine} is in force, code {short(known.digest)}: "
                    f"raise VERSION above it for code {short(wanted.digest)}"
                )
            )
        if known is None and len(self._register) >= MAX_MACHINES:
            raise Refused(Conflict(f"there are {MAX_MACHINES} machines already: put several into one class"))
        lacking = self.lacking(machine, *wanted)
        if lacking:
            raise Refused(
                MachineMismatch(f"{', '.join(lacking)} did not announce this code of machine {machine}")
            )
        if self._codes is not None and (machine, wanted.digest) not in self._codes:
            raise MachineMismatch(self._differs(machine, wanted))
        self._register[machine] = wanted
        self._tables.setdefault(machine, Rows())
        return {"machine": machine, "version": wanted.version, "changed": True}

    def _carry_out(self, given: Json, index: int, now_unix_ms: int) -> Json:
        machine, operation, arguments = given["machine"], given["operation"], given["arguments"]
        try:
            code = self.code(machine)
        except NotFound as error:
            raise Refused(error) from None
        method = code.operations.get(operation)
        if method is None:
            raise Refused(_no_method(machine, "operation", operation, code.operations))
        try:
            method.check(arguments)
        except WrongArguments as error:
            raise Refused(Unprocessable(str(error))) from None
        use = _Use()
        rows = self._tables[machine].copy()
        try:
            answer = code.run(
                method,
                Table(rows, use.step, use.sized),
                arguments,
                MAX_ANSWER_BYTES,
                index=index,
                now_unix_ms=now_unix_ms,
            )
        except Refuse as refused:
            raise Refused(MachineRefused(refused.text[:1000])) from None
        except Failed as failed:
            self._tell(machine, operation, failed)
            raise Refused(MachineFailed(failure(machine, operation))) from None
        if use.exhausted:  # it was told, and went on
            self._tell(machine, operation, Failed(_TOO_MUCH))
            raise Refused(MachineFailed(failure(machine, operation)))
        if use.size > 0 and self._size + use.size > self._limits.quota:
            raise Refused(
                QuotaExceeded(f"machines would take more than {self._limits.quota} bytes: delete rows first")
            )
        self._tables[machine] = rows
        self._size += use.size
        return {"answer": parse_canonical_json(answer), "version": code.version}

    def _tell(self, machine: str, operation: str, failed: Failed) -> None:
        if self.on_failed is not None:
            with suppress(Exception):
                self.on_failed(machine, operation, failed)

    def export_state(self) -> Json:
        """The state but for the tables."""
        return {
            "register": {name: list(each) for name, each in self._register.items()},
            "announced": dict(self._announced),
        }

    def freeze_tables(self) -> RowsByTable:
        """See Machine: machine, key, the canonical JSON of the value."""
        frozen = [(name, rows.freeze()) for name, rows in sorted(self._tables.items())]
        return {"rows": ([name, key, value] for name, rows in frozen for key, value in rows)}

    def prepare_restore(self, state: object, tables: RowsByTable = NO_ROWS) -> Callable[[], None]:
        """See Machine."""
        top = exact(state, {"register", "announced"})
        register = _register(top["register"])
        try:
            announced = {
                member_name(name): _machines(each) for name, each in json_object(top["announced"]).items()
            }
        except Malformed:
            raise ValueError("the machines of a member are not valid") from None
        if [] in announced.values() or len(register) > MAX_MACHINES:
            raise ValueError("the register of machines contradicts itself")
        contents, size = _tables(tables.get("rows", ()), register)
        if size > self._limits.quota:
            raise ValueError("machines have more rows than they may")

        def commit() -> None:
            self._register, self._announced = register, announced
            self._tables, self._size = contents, size

        return commit


class _Use:
    """What one operation uses: rows that it touches, bytes that it adds."""

    def __init__(self) -> None:
        self.size = 0
        self._steps = 0
        self.exhausted = False

    def step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            self.exhausted = True
            raise Stopped(_TOO_MUCH)

    def sized(self, rows: int, characters: int) -> None:
        self.size += rows * _ROW_BYTES + characters


_TOO_MUCH = f"it reads and writes more than {MAX_STEPS} rows: do it in parts"


def failure(machine: str, operation: str) -> str:
    """What callers are told.  Not what was raised: its words may differ from node to node."""
    return (
        f"the code of machine {machine} failed in {operation}, and nothing was changed: "
        "the log of any node says how; correct it as a new version"
    )


def _no_method(machine: str, kind: str, name: str, known: Mapping[str, Method]) -> NotFound:
    listed = ", ".join(known) or "none"
    return NotFound(f"machine {machine} has no {kind} {name}: use one of {listed}")


def query_of(code: Code, name: str) -> Method:
    """A query by its name.  Raises NotFound."""
    found = code.queries.get(name)
    if found is None:
        raise _no_method(code.name, "query", name, code.queries)
    return found


def _register(value: object) -> dict[str, InForce]:
    """Raises ValueError."""
    try:
        found = {}
        for name, (version, digest) in json_object(value).items():
            found[_machine(name)] = InForce(_version(version), _digest(digest))
        return found
    except (Malformed, TypeError):
        raise ValueError("the register of machines is not valid") from None


def _tables(rows: Iterable[Any], register: Mapping[str, InForce]) -> tuple[dict[str, Rows[str]], int]:
    """The tables by machine, and their size.  Raises ValueError."""
    contents: dict[str, Rows[str]] = {}
    size = 0
    name: str | None = None
    here: list[tuple[str, str]] = []
    for row in rows:
        machine, key, value = row
        if type(machine) is not str or type(key) is not str or type(value) is not str:
            raise ValueError("a row of a machine is not text")
        if (
            machine not in register
            or not 0 < len(key.encode()) <= MAX_KEY_BYTES
            or len(value) > MAX_VALUE_BYTES
        ):
            raise ValueError("a row of a machine is not valid")
        parse_canonical_json(value)
        if machine != name:
            if name is not None:
                if machine < name:
                    raise ValueError("the rows of machines are not in order")
                contents[name] = Rows(here)
            name, here = machine, []
        here.append((key, value))
        size += _ROW_BYTES + len(key) + len(value)
    if name is not None:
        contents[name] = Rows(here)
    for each in register:
        contents.setdefault(each, Rows())
    return contents, size


def _machine(value: object) -> str:
    # ASCII first: the text of parse_name's error shows other characters by the interpreter's Unicode version.
    if type(value) is not str or not value.isascii():
        raise Malformed("the machine name is not ascii: use 1 to 63 of a-z, 0-9 and '-'")
    try:
        return parse_name(value, "machine name")
    except InvalidInput as error:
        raise Malformed(error.message) from None


_version = integer(1, MAX_VERSION, "the version of a machine")
_digest = text("[0-9a-f]{64}", "the digest of a machine is not valid: use 64 hex digits")


def _machines(value: object) -> list[list[Any]]:
    """What a member announces."""
    if type(value) is not list or len(value) > 2 * MAX_MACHINES:
        raise Malformed(f"the machines are not valid: use a list of at most {2 * MAX_MACHINES}")
    for each in value:
        if type(each) is not list or len(each) != 3:
            raise Malformed("a machine is not valid: use name, version and digest")
        _machine(each[0])
        _version(each[1])
        _digest(each[2])
    if any(one >= other for one, other in pairwise(value)):
        raise Malformed("the machines are not in order: sort them, each once")
    return value


def _arguments(value: object) -> Json:
    if type(value) is not dict or len(canonical_json(value)) > MAX_ARGUMENT_BYTES:
        raise Malformed(f"the arguments are not valid: use an object of at most {MAX_ARGUMENT_BYTES} bytes")
    return value


_OPERATIONS: Operations = {
    "announce": ({"name": member_name, "machines": _machines}, UserMachines._announce),
    "register": (
        {"machine": _machine, "version": _version, "digest": _digest},
        UserMachines._bring_in_force,
    ),
    "apply": (
        {
            "machine": _machine,
            "operation": text(METHOD_PATTERN, "the operation is not valid: use up to 63 of a-z, 0-9 and '_'"),
            "arguments": _arguments,
        },
        UserMachines._carry_out,
    ),
}
