"""Calls from one node to another over the link between them.

Most requests of callers need one node only.  What a certain node has to do
(the leader, a holder of the CA's key) is passed to it, once: nothing is
passed on a second time.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple

from cyoloctl.caller import CALLER, Caller
from cyoloctl.errors import (
    AccessDenied,
    CyoloctlError,
    InternalError,
    InvalidInput,
    NoLeader,
    VersionMismatch,
    error_from_code,
)
from cyoloctl.model import name_of
from cyoloctl.raft import Engine
from cyoloctl.replicated.command import is_caller, is_origin
from cyoloctl.text import Json

__all__ = ["Ask", "Audience", "Fields", "PeerCalls", "read_answer"]

_log = logging.getLogger("cyoloctl.node")


Ask = Callable[[str, str, Json, float], Awaitable[Json]]
"""Ask a connected member by name or raft id: operation, arguments, seconds."""

Fields = Mapping[str, type | tuple[type, ...]]
"""The arguments of an operation, and their types."""

Audience = Literal["members", "voters", "voters of the leader", "members of the leader"]
"""The peers that may ask.  Of the leader: only while this node leads."""

_MAX_TIMEOUT_S = 300


class _Operation(NamedTuple):
    """run: gets the name of the peer, the arguments and seconds."""

    fields: Fields
    audience: Audience
    run: Callable[[str, Json, float], Awaitable[Json]]


class PeerCalls:
    """The operations that peers may ask of this node, and the way to ask them.

    is_voter: whether a member is meant to vote, by name.  node: the name of this one.

    What a caller of this node caused is carried out on that caller's behalf over
    there, and the audit log says that this node took the request.
    """

    def __init__(self, engine: Engine, is_voter: Callable[[str], bool], node: str = "") -> None:
        self._node = node
        self._engine = engine
        self._is_voter = is_voter
        self._operations: dict[str, _Operation] = {}

    def offer(
        self, name: str, fields: Fields, run: Callable[[str, Json, float], Awaitable[Json]], to: Audience
    ) -> None:
        """Let peers ask for an operation.  run: the peer's name, the arguments, seconds."""
        self._operations[name] = _Operation(fields, to, run)

    async def ask(self, name: str, operation: str, arguments: Json, timeout_s: float) -> Json:
        """The answer of a connected member.  Raises its error."""
        asked: Json = {"operation": operation, "arguments": arguments, "timeout_s": timeout_s}
        caller = CALLER.get()
        if caller.kind != "node":
            asked["caller"] = [*caller[:5], caller.node or self._node]
        answer = await self._engine.call(name, json.dumps(asked).encode(), timeout_s=timeout_s)
        return read_answer(answer)

    async def at_leader(
        self, operation: str, arguments: Json, here: Callable[..., Awaitable[Json]], timeout_s: float
    ) -> Json:
        """Run it at the leader, here or there; only NoLeader is waited out."""
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            leader = self._engine.leader()
            try:
                if left <= 0:
                    raise NoLeader(f"no leader within {timeout_s:.1f} s: a majority of the voters must be up")
                if self._engine.is_leader():
                    return await here(**arguments, timeout_s=left)
                if leader is not None:
                    return await self.ask(name_of(leader), operation, arguments, left)
            except NoLeader:
                if left <= 0.1:
                    raise
            await self._engine.wait_changed(min(0.1, max(left, 0.01)))

    async def answer(self, peer: str, body: bytes) -> bytes:
        """Answer a peer's `ask`.  Any bytes give an answer."""
        try:
            return json.dumps({"value": await self._answer(peer, body)}).encode()
        except CyoloctlError as error:
            return json.dumps({"error": {"code": error.code, "message": error.message}}).encode()
        except Exception:
            _log.critical("a peer's request failed", extra={"peer": peer}, exc_info=True)
            return json.dumps(
                {"error": {"code": "internal", "message": "internal error: see the leader's log"}}
            ).encode()

    async def _answer(self, peer: str, body: bytes) -> Json:
        try:
            request = json.loads(body)
            name, arguments = request["operation"], request["arguments"]
            timeout_s = float(request["timeout_s"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise InvalidInput("a peer's request is malformed") from None
        if not 0 < timeout_s <= _MAX_TIMEOUT_S or not isinstance(arguments, dict):
            raise InvalidInput("a peer's request is malformed")
        caller = _caller_of(request.get("caller"))
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None or arguments.keys() != operation.fields.keys():
            raise VersionMismatch(
                "the member that was asked runs another release than the one that asks, and does not know "
                "this: install the same release on every member (`cyoloctl status` names them)"
            )
        for key, types in operation.fields.items():
            if not isinstance(arguments[key], types):
                raise InvalidInput(f"a peer's request has a wrong {key}")
        self._refuse(operation.audience, peer)
        if caller is not None:
            CALLER.set(caller)
        return await operation.run(peer, arguments, timeout_s)

    def _refuse(self, audience: Audience, peer: str) -> None:
        """Refuse a peer outside the audience.  Raises AccessDenied, NoLeader."""
        if audience == "voters" and not self._is_voter(peer):
            raise AccessDenied("only a voter may ask for this")
        if audience in ("voters of the leader", "members of the leader") and not self._engine.is_leader():
            raise NoLeader("the leader changed: try again")
        if audience == "voters of the leader" and not self._is_voter(peer):
            raise AccessDenied(f"{peer} is no voter, and may not pass this on: ask a voter")


def _caller_of(given: object) -> Caller | None:
    """The caller whom a peer speaks for; None: for itself.  Raises InvalidInput."""
    if given is None:
        return None
    if isinstance(given, list) and len(given) == 6 and all(isinstance(each, str) for each in given):
        caller = Caller(*given)
        name = caller.name.replace(" ", "-")
        if caller.kind in ("client", "browser") and is_caller(name) and is_origin(caller.origin("")):
            return caller
    raise InvalidInput("a peer's request is malformed")


def read_answer(answer: bytes) -> Json:
    """The value in what a peer answered.  Raises the error in it; InternalError for other bytes."""
    try:
        value = json.loads(answer)
        if "error" in value:
            raise error_from_code(str(value["error"]["code"]), str(value["error"]["message"]))
        found = value["value"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InternalError("the leader's answer makes no sense: upgrade every node") from error
    if not isinstance(found, dict):
        raise InternalError("the leader's answer makes no sense: upgrade every node")
    return found
