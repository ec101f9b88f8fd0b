"""Writing to the replicated machines, and waiting until a node's own copy of them is fresh."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any

from cyoloctl.caller import CALLER, Caller
from cyoloctl.errors import CyoloctlError, OutcomeUnknown, Unavailable, VersionMismatch
from cyoloctl.raft import MEASURED_S, Engine, Proposed
from cyoloctl.replicated.command import decode_result_with_index, encode_command, refusal_reason
from cyoloctl.text import Json

__all__ = ["Begun", "Planned", "Proposer", "step_of"]

_log = logging.getLogger("cyoloctl.node")

_LOOK_EVERY_S = 0.2
_IDS_AT_ONCE = 256
"""Request ids for which randomness is asked for at once: asking takes longer than making one of it."""
_UNKNOWN_S = MEASURED_S
"""A majority's clocks are measured within this after a start, or nobody can say that time is behind."""


def step_of(request_id: str, step: str) -> str:
    """The request id of one step of an operation that is more than one command."""
    return hashlib.sha256(f"cyoloctl step v1\0{step}\0{request_id}".encode()).hexdigest()


class Planned:
    """A write of one command, checked and not yet proposed.

    answer: what its caller gets, from the log index, the machine's value and the request id.
    """

    __slots__ = ("answer", "arguments", "machine", "operation")

    def __init__(
        self, machine: str, operation: str, arguments: Json, answer: Callable[[int, Json, str], Any]
    ) -> None:
        self.machine = machine
        self.operation = operation
        self.arguments = arguments
        self.answer = answer


class Begun:
    """Writes of `Proposer.begin_all` on their way, in order: to be answered once, or given up.

    proposed: None: none of them could be.
    """

    __slots__ = ("_found", "_named", "proposed")

    def __init__(
        self, named: dict[int, tuple[Planned, str]], found: list[Any], proposed: Proposed | None
    ) -> None:
        """named: what was proposed, with its request id, by the place of its answer in found."""
        self._named = named
        self._found = found
        self.proposed = proposed

    @property
    def is_led_here(self) -> bool:
        """Whether this node led when they were proposed: others may be begun after them."""
        return self.proposed is not None and self.proposed.lead > 0

    def errors(self) -> list[CyoloctlError]:
        """Of those that are known to have failed so far."""
        early = [each for each in self._found if isinstance(each, CyoloctlError)]
        return early if self.proposed is None else early + self.proposed.errors()

    async def answers(self) -> list[Any]:
        """The answer of each write, or the CyoloctlError that `Proposer.carry_out` would have raised."""
        results = () if self.proposed is None else await self.proposed
        for (at, (planned, name)), result in zip(self._named.items(), results, strict=True):
            try:
                if isinstance(result, CyoloctlError):
                    raise result
                index, value = _outcome(planned, result)
                self._found[at] = planned.answer(index, value, name)
            except CyoloctlError as error:
                self._found[at] = error
        return self._found

    def give_up(self) -> None:
        """Nobody waits for the answers."""
        if self.proposed is not None:
            self.proposed.give_up()


class Proposer:
    """Proposes the commands of a node's operations, and tells them cluster time.

    first_result: see `ClusterState.first_result`.  epoch: the present epoch of
    the cluster's history, which every answer with a log index carries.
    why_refused: see `LevelMachine.why_refused`.  node: the name of this one.
    """

    def __init__(
        self,
        engine: Engine,
        first_result: Callable[[bytes], bytes | None] = lambda command: None,
        epoch: Callable[[], int] = lambda: 1,
        why_refused: Callable[[str, str], str | None] = lambda machine, operation: None,
        node: str = "",
    ) -> None:
        self.engine = engine
        self._node = node
        self._why_refused = why_refused
        self.epoch = epoch
        self._first_result = first_result
        self._caught_up = False
        self._started_at = time.monotonic()
        self._in_time_until = self._started_at
        self._was_in_time = False
        self._ids: list[str] = []  # drawn and not used yet

    def now_ms(self) -> int:
        """Cluster time in Unix milliseconds; see ``raft/clock.py``.  Never this machine's own clock."""
        return self.engine.clock.now_unix_ms()

    async def apply(
        self, machine: str, operation: str, arguments: Json, *, request_id: str | None, timeout_s: float
    ) -> tuple[int, Json, str]:
        """Replicate one command: log index, value and request id.  Raises what the machine refused.

        Raises VersionMismatch, and proposes nothing, while not every member understands it.
        """
        planned = Planned(machine, operation, arguments, _as_found)
        found: tuple[int, Json, str] = await self.carry_out(
            planned, request_id=request_id, timeout_s=timeout_s
        )
        return found

    async def carry_out(self, planned: Planned, *, request_id: str | None, timeout_s: float) -> Any:
        """The answer to a write.  Raises what `apply` does, and what making the answer does."""
        if self._why_refused(planned.machine, planned.operation) is not None:
            # The level may have been raised through another node.
            await self.fresh(timeout_s=timeout_s)
            early = self._why_refused(planned.machine, planned.operation)
            if early is not None:
                raise VersionMismatch(early)
        identifier, command = self._named(planned, request_id)
        result = await self.engine.propose(command, timeout_s=timeout_s)
        index, value = _outcome(planned, result)
        return planned.answer(index, value, identifier)

    def begin(
        self,
        planned: Planned,
        *,
        request_id: str | None,
        timeout_s: float,
        done: Callable[[Any, Exception | None], None],
    ) -> Callable[[], None] | None:
        """As `carry_out`: done gets the answer, or what that raises, later than this returns.

        Gives what withdraws it: see `Engine.begin`.  None: nothing was begun, as `carry_out` would wait for
        something first.  Raises CyoloctlError where there is no such command; then nothing was begun either.
        """
        if self._why_refused(planned.machine, planned.operation) is not None:
            return None
        identifier, command = self._named(planned, request_id)

        def settled(result: bytes | None, error: Exception | None) -> None:
            if result is None:
                done(None, error)
                return
            try:
                index, value = _outcome(planned, result)
                answer = planned.answer(index, value, identifier)
            except Exception as failure:  # a refusal, or a bug, which whoever asked is told of too
                done(None, failure)
            else:
                done(answer, None)

        return self.engine.begin(command, settled, timeout_s=timeout_s)

    async def begin_all(
        self, writes: Sequence[tuple[Planned, str | None]], *, timeout_s: float, after: Begun | None = None
    ) -> Begun:
        """Carry out writes (each with its request id) in this order; on return they are on their way.

        after: is led here; they are applied after those, or not at all.
        """
        deadline = time.monotonic() + timeout_s
        if any(self._why_refused(each.machine, each.operation) is not None for each, _ in writes):
            try:  # see `apply`; before anything is proposed, or what is understood would come first
                await self.fresh(timeout_s=timeout_s)
            except CyoloctlError as error:
                return Begun({}, [error] * len(writes), None)
        found: list[Any] = []
        named: dict[int, tuple[Planned, str]] = {}
        commands = []
        for planned, request_id in writes:
            try:
                reason = self._why_refused(planned.machine, planned.operation)
                if reason is not None:
                    raise VersionMismatch(reason)
                name, command = self._named(planned, request_id)
            except CyoloctlError as error:
                found.append(error)
                continue
            named[len(found)] = planned, name
            found.append(None)
            commands.append(command)
        if not commands:
            return Begun({}, found, None)
        left_s = max(0.0, deadline - time.monotonic())
        front = None if after is None else after.proposed
        return Begun(named, found, self.engine.propose_all(commands, timeout_s=left_s, after=front))

    async def apply_here(
        self, machine: str, operation: str, arguments: Json, *, request_id: str | None, timeout_s: float
    ) -> Json:
        """As `apply`; when it returns the value, this node's machines hold the change too."""
        deadline = time.monotonic() + timeout_s
        index, value, _ = await self.apply(
            machine, operation, arguments, request_id=request_id, timeout_s=timeout_s
        )
        left = max(0.0, deadline - time.monotonic())
        if not await self.engine.wait_applied(index, timeout_s=left):
            raise OutcomeUnknown("the write is done, but this node has not seen it yet: read it again")
        return value

    def first_answer(self, machine: str, operation: str, arguments: Json, request_id: str) -> Json | None:
        """The value that a command under this request id got first; None when it is not remembered as done.

        Of this node's copy: `fresh` before.  arguments: without those that are
        drawn.  Raises Conflict when the id was used for another command.
        """
        found = self.first_result(machine, operation, arguments, request_id)
        return None if found is None else found[1]

    def first_result(
        self, machine: str, operation: str, arguments: Json, request_id: str
    ) -> tuple[int, Json] | None:
        """As `first_answer`, after the log index at which it was done."""
        command = _command(machine, operation, arguments, request_id, CALLER.get())
        result = self._first_result(command)
        return None if result is None else decode_result_with_index(result)

    async def once(
        self,
        operation: str,
        about: Json,
        do: Callable[[], Awaitable[Json]],
        *,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """The answer of an operation that is more than one command: the first one to each request id.

        do: does it; safe to run again where its end was not recorded.  about:
        what is asked for; the same id with another is a Conflict.  The answer
        is kept in the replicated state, so it holds no secret.
        """
        if request_id is None:
            return await do()
        deadline = time.monotonic() + timeout_s
        await self.fresh(timeout_s=timeout_s)
        asked = {"operation": operation, "about": about}
        known = self.first_answer("answers", "keep", asked, request_id)
        if known is None:
            done = await do()
            try:
                known = await self.apply_here(
                    "answers",
                    "keep",
                    {**asked, "answer": done},
                    request_id=request_id,
                    timeout_s=max(0.1, deadline - time.monotonic()),
                )
            except Unavailable as error:
                raise OutcomeUnknown(f"it is done, but not recorded ({error.message})") from None
        answer: Json = known["answer"]
        return answer

    async def fresh(self, *, stale: bool = False, timeout_s: float) -> None:
        """Return when this node has applied all that was acknowledged before the call; at once with stale."""
        if not stale:
            await self.engine.read_barrier(timeout_s=timeout_s)
            self._caught_up = True

    async def in_time(self, *, timeout_s: float) -> None:
        """Return when cluster time is not about to step forward: what is given an end now keeps it.

        After a cold start time goes on from where it stopped, for the seconds
        in which a majority's clocks are asked and believed; what was made then
        would be over with the step.  Where a majority's clocks cannot be
        known, nothing steps and nothing waits for it.

        Raises Unavailable.
        """
        deadline = time.monotonic() + timeout_s
        while (now := time.monotonic()) >= self._in_time_until:
            behind = self.engine.clock.is_behind(self.engine.voter_names())
            waited = self._was_in_time or now - self._started_at > _UNKNOWN_S
            if behind is False or (behind is None and waited):
                self._in_time_until = now + _LOOK_EVERY_S
                self._was_in_time = True
                return
            if now >= deadline:
                doing = "set forward after a standstill" if behind else "compared with the members' clocks"
                raise Unavailable(f"the cluster's time is being {doing}: repeat the command in a few seconds")
            await asyncio.sleep(min(_LOOK_EVERY_S, deadline - now))

    async def caught_up(self, *, timeout_s: float) -> None:
        """Return when this process has been up to date at least once.

        A node that was just started has not applied what its own log holds
        until a leader says how much of it is committed: judging by its copy
        before would forget revocations.
        """
        if not self._caught_up:
            await self.fresh(timeout_s=timeout_s)

    def draw_id(self) -> str:
        """A request id that nobody has."""
        if not self._ids:
            drawn = os.urandom(16 * _IDS_AT_ONCE).hex()
            self._ids = [drawn[at : at + 32] for at in range(0, len(drawn), 32)]
        return self._ids.pop()

    def _named(self, planned: Planned, request_id: str | None) -> tuple[str, bytes]:
        """The request id of a command, drawn here where there is none, and the command."""
        identifier = request_id or self.draw_id()
        kind = "node" if request_id is None else ""
        return identifier, _command(
            planned.machine,
            planned.operation,
            planned.arguments,
            identifier,
            CALLER.get(),
            kind,
            self._node,
        )


def _command(
    machine: str,
    operation: str,
    arguments: Json,
    request_id: str,
    caller: Caller,
    kind: str = "",
    node: str = "",
) -> bytes:
    """A command on behalf of a caller.  kind: whose the request id is, if not theirs.  node: this one."""
    name, origin = _who(caller, node)
    return encode_command(
        machine,
        operation,
        arguments,
        request_id=request_id,
        kind=kind or caller.kind,
        caller=name,
        origin=origin,
    )


@lru_cache(maxsize=1024)
def _who(caller: Caller, node: str) -> tuple[str, str]:
    """Name and origin of a caller, as commands hold them.  Kept: the same few write again and again."""
    return caller.name.replace(" ", "-"), caller.origin(node)


def _as_found(index: int, value: Json, request_id: str) -> tuple[int, Json, str]:
    return index, value, request_id


def _outcome(planned: Planned, result: bytes) -> tuple[int, Json]:
    """Log index and value of a result.  Raises what the machine refused."""
    try:
        return decode_result_with_index(result)
    except CyoloctlError:
        reason = refusal_reason(result)
        if reason is not None:
            what = f"{planned.machine}.{planned.operation}"
            _log.warning("refused", extra={"operation": what, "reason": reason})
        raise
