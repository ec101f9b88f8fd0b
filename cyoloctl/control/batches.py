"""How a node carries out a batch: in order, with one wait for all writes that follow each other.

Each operation is checked and authorised as by its own route, and no answer has
more than it.  The writes of one command (`Route.plan`) are proposed together, up
to so many; where this node leads the next ones are read and proposed while those
are replicated, and applied after them or not at all.  A read waits for what
stands before it; every other operation runs alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from cyoloctl.control import table
from cyoloctl.control.batch import check_id, failed, is_settled
from cyoloctl.errors import AccessDenied, CyoloctlError, InvalidInput
from cyoloctl.fastjson import compact_bytes
from cyoloctl.web.encoding import clean_text
from cyoloctl.web.schema import Route, role_allows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cyoloctl.control.table import Node
    from cyoloctl.replicated.proposer import Begun, Planned

__all__ = ["Batches", "is_for_batches", "request_id_of"]

# Writes at once.
_WRITES = 256
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


class _Results:
    """Encoded results so far."""

    def __init__(self, *, stop_on_error: bool) -> None:
        self._stop_on_error = stop_on_error
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_full = False
        self.goes_on = True
        """Whether further operations are to be tried."""

    def add(self, asked: Sequence[_Asked], outcomes: Sequence[Any]) -> None:
        """What became of the next operations."""
        failures = [each for each in outcomes if isinstance(each, CyoloctlError)]
        if failures and (self._stop_on_error or not all(map(is_settled, failures))):
            self.goes_on = False
        for each, outcome in zip(asked, outcomes, strict=True):
            piece = compact_bytes(_result(each, outcome))
            if self._is_full or (self._pieces and self._size + len(piece) > _MOST_BYTES):
                self._is_full = True  # only reads are that long, and may be repeated
                break
            self._pieces.append(piece)
            self._size += len(piece)
        self.goes_on = self.goes_on and not self._is_full and self._size < _ENOUGH_BYTES

    def whole(self) -> bytes:
        """The answer."""
        return b'{"schema_version":1,"results":[' + b",".join(self._pieces) + b"]}"


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
        most, ahead = (1, 0) if stop_on_error else (_WRITES, 1)
        results = _Results(stop_on_error=stop_on_error)
        asked: list[_Asked] = []  # read, and not begun
        at = 0  # how many are read
        begun: deque[tuple[Begun, list[_Asked]]] = deque()

        async def arrived() -> None:
            results.add(begun[0][1], await begun[0][0].answers())
            begun.popleft()

        try:
            while (asked or at < len(operations)) and results.goes_on:
                left = deadline - loop.time()
                if at and left < _LEAST_S:
                    break
                if not asked:
                    asked = [self._read(each, request_id, role) for each in operations[at : at + most]]
                    at += len(asked)
                writes = [] if begun and not _may_be_followed(begun[-1][0]) else self._writes(asked)
                if writes:
                    after = begun[-1][0] if begun else None
                    way = await self._node.begin_all(writes, timeout_s=max(left, 2 * _LEAST_S), after=after)
                    begun.append((way, asked[: len(writes)]))
                    del asked[: len(writes)]
                    await asyncio.sleep(0)  # they leave: the members write them while the next are read
                    while len(begun) > ahead:
                        await arrived()
                elif begun:
                    await arrived()
                else:
                    outcomes = await self._next(asked, max(left, 2 * _LEAST_S))
                    results.add(asked[: len(outcomes)], outcomes)
                    del asked[: len(outcomes)]
            while begun:
                await arrived()
        finally:
            for way, _ in begun:
                way.give_up()
        return results.whole()

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
        """What became of the next operations, at least one, that are no writes of one command."""
        first = asked[0]
        if first.route is None:
            return [first.error]
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


def _may_be_followed(begun: Begun) -> bool:
    """Whether others may be proposed before the answers are known."""
    return begun.is_led_here and all(map(is_settled, begun.errors()))
