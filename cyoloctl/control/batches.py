"""How a node carries out a batch: in order, with one wait for all writes that follow each other.

Each operation is checked and authorised as by its own route, and no answer has
more than it.  The writes of one command (`Route.plan`) are proposed together;
a read waits for what stands before it; every other operation runs alone.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from cyoloctl.control import table
from cyoloctl.control.batch import MAX_OPERATIONS, check_id, failed, is_settled
from cyoloctl.errors import AccessDenied, CyoloctlError, InvalidInput
from cyoloctl.fastjson import compact_bytes
from cyoloctl.web.encoding import clean_text
from cyoloctl.web.schema import Route, role_allows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cyoloctl.control.table import Node
    from cyoloctl.replicated.proposer import Planned

__all__ = ["Batches", "is_for_batches", "request_id_of"]

# Reads at once, each of which may answer with a megabyte or more.
_READS = 16
# An answer with so much in it takes no further operation.  What a client reads is 8 MiB.
_ENOUGH_BYTES, _MOST_BYTES = 2 << 20, 7 << 20
# Less time is not worth another operation.
_LEAST_S = 0.05

#: What moves more than it writes, and takes as long as members take to follow.
_LONG = frozenset(
    [
        *("member_remove", "member_promote", "member_demote", "member_grant", "transfer_leadership"),
        *("set_time", "cluster_upgrade", "key_rotate", "key_rewrap", "key_import_ring", "key_export_ring"),
        *("pki_rotate", "snapshot_begin"),
    ]
)
#: A batch in a batch.
_NESTED = frozenset(["batch", "token_batch"])
#: Fields whose names mean something else in a batch, and what they are called there.
_RENAMED = {"id": "rendezvous_id"}
_ORIGINAL = {there: name for name, there in _RENAMED.items()}


def is_for_batches(route: Route[Any]) -> bool:
    """Whether an operation may be part of a batch.

    Not what waits or streams, what anyone may ask, what one node answers by
    itself, and what changes something without a request id.
    """
    if route.operation in _LONG or route.operation in _NESTED:
        return False
    if route.held or route.local or route.role == "none" or route.is_text:
        return False
    return not route.write or "request_id" in route.body_fields


def request_id_of(run: str, identifier: str | int) -> str:
    """The request id of a write in a run, by the id of its operation."""
    kind = "s" if type(identifier) is str else "i"
    text = f"cyoloctl batch v1\0{run}\0{kind}{identifier}"
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class _Asked:
    """One operation: checked, or with the error that it has."""

    __slots__ = ("arguments", "error", "id", "names", "route")

    def __init__(self, identifier: str | int | None, error: CyoloctlError | None = None) -> None:
        self.id = identifier
        self.error = error
        self.route: Route[Node] | None = None
        self.names: tuple[str, ...] = ()
        self.arguments: dict[str, Any] = {}


class Batches:
    """Carries out batches on a node.

    handlers: by route.  bug: makes the error for something that no handler may raise.
    """

    def __init__(
        self,
        node: Node,
        handlers: Mapping[Route[Node], Callable[..., Any]],
        bug: Callable[[str, BaseException], CyoloctlError],
    ) -> None:
        self._handlers = handlers
        self._bug = bug
        self._node = node
        self._operations = {route.operation: route for route in table.routes()}
        self._taken = frozenset(route.operation for route in table.routes() if is_for_batches(route))

    async def answer(
        self,
        *,
        operations: Sequence[Any],
        request_id: str | None,
        stop_on_error: bool,
        timeout_s: float,
        role: str | None,
    ) -> bytes:
        """The encoded results of the first operations, at least one.  role: the caller's."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        asked = [self._read(each, request_id, role) for each in operations]
        pieces: list[bytes] = []
        size = at = 0
        most = 1 if stop_on_error else MAX_OPERATIONS
        goes_on = True
        while at < len(asked) and goes_on and size < _ENOUGH_BYTES:
            left = deadline - loop.time()
            if at and left < _LEAST_S:
                break
            outcomes = await self._next(asked[at : at + most], max(left, 2 * _LEAST_S))
            failures = [each for each in outcomes if isinstance(each, CyoloctlError)]
            goes_on = not failures if stop_on_error else all(map(is_settled, failures))
            results = [_result(asked[at + n], each) for n, each in enumerate(outcomes)]
            for result in results:
                piece = compact_bytes(result)
                if pieces and size + len(piece) > _MOST_BYTES:
                    return _whole(pieces)  # only reads are that long, and may be repeated
                pieces.append(piece)
                size += len(piece)
            at += len(results)
        return _whole(pieces)

    # --- reading ------------------------------------------------------------------------------

    def _read(self, given: Any, run: str | None, role: str | None) -> _Asked:
        """An operation as its own route would read it; without a route where it has an error."""
        asked = _Asked(None)
        try:
            if type(given) is not dict:
                raise InvalidInput("an operation must be an object with id, op and its arguments")
            asked.id = check_id(given.get("id"))
            route = self._route_of(given.get("op"))
            if not role_allows(role, route.role):
                raise AccessDenied(
                    f"{route.operation} needs the role {route.role}, the caller has the role {role}: "
                    "use other credentials"
                )
            asked.names, asked.arguments = _arguments(route, given, role)
            if run is not None and asked.arguments.get("request_id", "") is None:
                asked.arguments["request_id"] = request_id_of(run, asked.id)
            asked.route = route
        except CyoloctlError as error:
            asked.error = error
        return asked

    def _route_of(self, operation: object) -> Route[Node]:
        if type(operation) is not str:
            raise InvalidInput("field 'op': must be the name of an operation, such as counter_increment")
        route = self._operations.get(operation)
        if route is None:
            raise InvalidInput(
                f"operation {clean_text(operation, 64)!r} is unknown: /v1/openapi.json lists them, "
                "such as counter_increment or kv_put"
            )
        if route.operation not in self._taken:
            raise InvalidInput(f"{operation} cannot be part of a batch: send it by itself")
        return route

    # --- carrying out -------------------------------------------------------------------------

    async def _next(self, asked: Sequence[_Asked], timeout_s: float) -> list[Any]:
        """What became of the next operations, at least one: each one's answer or error."""
        first = asked[0]
        writes = self._writes(asked)
        if first.route is None:
            return [first.error]
        if writes:
            return await self._node.carry_out_all(writes, timeout_s=timeout_s)
        if first.route.write:
            return [await self._alone(first.route, first, timeout_s)]
        reads = []
        for each in asked[:_READS]:
            if each.route is None or each.route.write:
                break
            reads.append(self._alone(each.route, each, timeout_s))
        return await asyncio.gather(*reads)

    def _writes(self, asked: Sequence[_Asked]) -> list[tuple[Planned, str | None]]:
        """The writes at the beginning, as far as they are one command each."""
        writes: list[tuple[Planned, str | None]] = []
        for each in asked:
            if each.route is None or each.route.plan is None:
                break
            plan = each.route.plan(self._node)
            rest = each.arguments.copy()
            request_id = rest.pop("request_id")
            try:
                planned = plan(*each.names, **rest)
            except CyoloctlError as error:
                each.error, each.route = error, None
                break
            if planned is None:
                break
            writes.append((planned, request_id))
        return writes

    async def _alone(self, route: Route[Node], asked: _Asked, timeout_s: float) -> Any:
        """The answer of an operation's handler, or its error."""
        try:
            return await self._handlers[route](*asked.names, **asked.arguments, timeout_s=timeout_s)
        except CyoloctlError as error:
            return error
        except Exception as error:
            return self._bug(f"{route.operation} in a batch", error)


def _arguments(
    route: Route[Any], given: Mapping[str, Any], role: str | None
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The name in the path, and the checked fields of body and query.  Raises InvalidInput, AccessDenied."""
    names: tuple[str, ...] = ()
    body: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for key, value in given.items():
        if key in ("id", "op"):
            continue
        name = _ORIGINAL.get(key, key)
        if name == "name" and route.has_name:
            if type(value) is not str:
                raise InvalidInput("field 'name': must be a string")
            names = (route.check_name(value),)
        elif name in route.query_fields and name != "timeout_s":
            arguments[name] = route.query_fields[name].check(value)
        else:
            body[name] = value
    if route.has_name and not names:
        raise InvalidInput("field 'name': is required")
    query = {**route.query_defaults, **arguments}
    del query["timeout_s"]
    if len(query) + 1 != len(route.query_fields):
        missing = next(name for name in route.query_fields if name not in query and name != "timeout_s")
        raise InvalidInput(f"field {missing!r}: is required")
    body = route.check_body(body)
    for field in route.reserved:
        if body[field.name] and not role_allows(role, "operator"):
            raise AccessDenied(field.operators_only)
    return names, body | query


def _result(asked: _Asked, outcome: Any) -> dict[str, Any]:
    if isinstance(outcome, CyoloctlError):
        return failed(asked.id, outcome)
    for name, there in _RENAMED.items():
        if name in outcome:
            outcome = {**outcome, there: outcome[name]}
            del outcome[name]
    result = {"id": asked.id, "ok": True, **outcome}
    if asked.arguments.get("consistency") == "stale":
        result["stale"] = True
    return result


def _whole(pieces: Sequence[bytes]) -> bytes:
    return b'{"schema_version":1,"results":[' + b",".join(pieces) + b"]}"
