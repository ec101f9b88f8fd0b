"""Operations of a node on the machines that users wrote."""

from __future__ import annotations

import logging
import time
import traceback

from cyoloctl.errors import InternalError, MachineFailed, MachineRefused, Unprocessable
from cyoloctl.machines.api import MachineApplied, MachineList, MachineQueried, MachineShown
from cyoloctl.machines.code import Code, Failed, WrongArguments
from cyoloctl.machines.language import ReadTable, Refuse, Unfit, fit
from cyoloctl.machines.machine import MAX_ARGUMENT_BYTES, UserMachines, failure, query_of
from cyoloctl.machines.queries import QueryThreads
from cyoloctl.members.machine import MemberMachine
from cyoloctl.replicated.proposer import Planned, Proposer
from cyoloctl.text import Json, parse_canonical_json

__all__ = ["MachineOperations"]

_log = logging.getLogger("cyoloctl.node")

_MAX_BRACKETS = 150
_MAX_QUERY_ANSWER_BYTES = 256 * 1024
_LEAST_S = 0.05


class MachineOperations:
    """Implements `machines.api.MachineApi`.  Any node takes any request.  name: this node's."""

    def __init__(
        self, proposer: Proposer, machines: UserMachines, members: MemberMachine, *, name: str
    ) -> None:
        self._proposer = proposer
        self._machines = machines
        self._members = members
        self._name = name
        self._threads = QueryThreads()
        machines.on_failed = self._on_failed

    def _on_failed(self, machine: str, operation: str, error: BaseException) -> None:
        _log.error(
            "machine failed",
            extra={"machine": machine, "operation": operation, "reason": str(error), "at": _place(error)},
        )

    async def maintain(self) -> bool:
        """Announce the code that this node has, and as leader bring in force what every member has.

        True when something was written.
        """
        name, mine = self._name, self._machines.own_announcement()
        if self._members.get(name) is not None and self._machines.announced(name) != mine:
            await self._write("announce", {"name": name, "machines": mine})
            return True
        due = self._machines.due() if self._proposer.engine.is_leader() else None
        if due is None:
            return False
        await self._write("register", due)
        _log.info("machine in force", extra={"machine": due["machine"], "version": due["version"]})
        return True

    async def _write(self, operation: str, arguments: Json) -> None:
        await self._proposer.apply("machines", operation, arguments, request_id=None, timeout_s=5.0)

    async def apply(
        self, name: str, *, operation: str, arguments: Json, request_id: str | None, timeout_s: float
    ) -> MachineApplied:
        """Carry out an operation of a machine, once.

        Raises NotFound, Unprocessable, MachineRefused, MachineFailed, QuotaExceeded.
        """
        applied: MachineApplied = await self._proposer.carry_out(
            self.plan_apply(name, operation=operation, arguments=arguments),
            request_id=request_id,
            timeout_s=timeout_s,
        )
        return applied

    def plan_apply(self, name: str, *, operation: str, arguments: Json) -> Planned:
        """The write of `apply`.  Raises Unprocessable."""

        def answer(index: int, value: Json, request_id: str) -> MachineApplied:
            if type(value.get("version")) is not int or "answer" not in value:
                raise InternalError("the leader's answer makes no sense: upgrade every node")
            return {
                "name": name,
                "operation": operation,
                "answer": value["answer"],
                "version": value["version"],
                "index": index,
                "epoch": self._proposer.epoch(),
                "request_id": request_id,
            }

        given = {"machine": name, "operation": operation, "arguments": _fitting(arguments)}
        return Planned("machines", "apply", given, answer)

    async def query(
        self, name: str, *, query: str, arguments: Json, consistency: str, timeout_s: float
    ) -> MachineQueried:
        """The answer of a query, to the state of one moment.

        Raises NotFound, Unprocessable, MachineRefused, MachineFailed,
        MachineMismatch, QueryTimeout, Overloaded.
        """
        end = time.monotonic() + timeout_s
        given = _fitting(arguments)
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        code = self._machines.code(name)
        method = query_of(code, query)
        try:
            method.check(given)
        except WrongArguments as error:
            raise Unprocessable(str(error)) from None
        rows = self._machines.table(name)  # of this moment; the thread must not take it from what is changed
        index, now_ms = self._proposer.engine.applied_index(), self._proposer.now_ms()
        try:
            text = await self._threads.run(
                lambda step: code.run(
                    method,
                    ReadTable(rows, step),
                    given,
                    _MAX_QUERY_ANSWER_BYTES,
                    index=index,
                    now_unix_ms=now_ms,
                ),
                max(_LEAST_S, end - time.monotonic()),
            )
        except Refuse as refused:
            raise MachineRefused(refused.text[:1000]) from None
        except Failed as failed:
            self._on_failed(name, query, failed)
            raise MachineFailed(failure(name, query)) from None
        return {
            "name": name,
            "query": query,
            "answer": parse_canonical_json(text),
            "version": code.version,
            "index": index,
            "epoch": self._proposer.epoch(),
        }

    async def list(self, *, consistency: str, timeout_s: float) -> MachineList:
        """The machines in force, and those that wait for members."""
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        machines = self._machines
        mine = {(code.name, code.digest): code for code in machines.codes()}
        shown = [
            self._shown(name, *each, mine.get((name, each.digest)))
            for name, each in machines.in_force().items()
        ]
        shown += [
            self._shown(name, version, digest, mine.get((name, digest)), waits=True)
            for name, version, digest in machines.waiting()
        ]
        return {
            "machines": shown,
            "index": self._proposer.engine.applied_index(),
            "epoch": self._proposer.epoch(),
        }

    def _shown(
        self, name: str, version: int, digest: str, code: Code | None, *, waits: bool = False
    ) -> MachineShown:
        return {
            "name": name,
            "version": version,
            "digest": digest,
            "state": "waiting" if waits else "in_force",
            "rows": self._machines.rows(name),
            "lacking": self._machines.lacking(name, version, digest),
            "operations": [] if code is None else list(code.operations),
            "queries": [] if code is None else list(code.queries),
        }


def _place(error: BaseException) -> str:
    """Where it was raised, innermost first: a few calls, for an endless recursion has hundreds."""
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__, limit=-5)
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))


def _fitting(arguments: Json) -> Json:
    """The arguments, if a command can hold them.  Raises Unprocessable."""
    try:
        text = fit(arguments, MAX_ARGUMENT_BYTES, "an argument")
    except Unfit as error:
        raise Unprocessable(str(error)) from None
    if text.count("[") + text.count("{") > _MAX_BRACKETS:
        raise Unprocessable(
            f"the arguments have more than {_MAX_BRACKETS} opening brackets: send less at once"
        )
    return arguments
