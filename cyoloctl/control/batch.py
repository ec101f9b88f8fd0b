"""Batches: many operations in one request, answered in order, each write applied once by its id.

What both sides share: the route, the lines of which batches are made, and the
steps of a client.  How a node carries one out is in `batches`.

Every operation has an `id` of its caller's.  The request id of a write follows
from it and from the name of the run, which is the `request_id` of the batch:
whoever sends the same operations again under the same name gets their first
answers, and nothing is applied twice.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Any, TypedDict

from cyoloctl.errors import (
    AuthorizationPending,
    CyoloctlError,
    InvalidInput,
    OutcomeUnknown,
    QueryTimeout,
    SlowDown,
    Unavailable,
    Unreachable,
    error_from_code,
)
from cyoloctl.web.encoding import MAX_BODY_BYTES, clean_text, decode_object, encode_body
from cyoloctl.web.schema import REQUEST_ID, Field, Route
from cyoloctl.web.steps import Pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cyoloctl.web.steps import Caller, Steps

__all__ = [
    "MAX_LINE_BYTES",
    "MAX_OPERATIONS",
    "MAX_REQUEST_BYTES",
    "ROUTES",
    "BatchAnswered",
    "check_id",
    "failed",
    "fitting",
    "is_settled",
    "read_line",
    "send",
    "send_all",
]

MAX_OPERATIONS = 1024
MAX_ID_CHARACTERS = 128
MAX_LINE_BYTES = 512 * 1024
_LINE_BRACKETS = 256
_MAX_BRACKETS = 20_000
# What one request holds.  A character that is not ASCII takes up to three times its bytes there.
MAX_REQUEST_BYTES, _REQUEST_BRACKETS = 512 * 1024, 16_000
_LARGEST_INTEGER = 2**53 - 1
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


class BatchAnswered(TypedDict):
    """Results of a batch's operations, or of the first of them, in order: `id`, `ok`, and the fields of the
    operation's own answer, or `error` with `code`, `message` and `exit_status`; the `id` of a rendezvous is
    `rendezvous_id` here, as in operations"""

    results: list[dict[str, Any]]


ROUTES: tuple[Route[Any], ...] = (
    Route(
        "POST",
        "/v1/batch",
        "viewer",
        "batch",
        "Carry out operations in order: objects with `id`, `op` (the operationId), `name` where the path has "
        "one, and the fields of body and query; each needs the role of its own route. Where there are fewer "
        "results than operations, send those that are missing again, and all from the first one on that was "
        "unavailable or whose outcome is unknown",
        answer=BatchAnswered,
        handler=None,
        example=(
            {
                "operations": [
                    {"id": "1", "op": "counter_increment", "name": "visits", "by": 2},
                    {"id": "2", "op": "counter_get", "name": "nobody"},
                ],
                "request_id": "import-7",
            },
            {
                "results": [
                    {
                        "id": "1",
                        "ok": True,
                        "name": "visits",
                        "value": 2,
                        "value_string": "2",
                        "index": 4711,
                        "epoch": 1,
                        "request_id": "0123456789abcdef0123456789abcdef",
                    },
                    {
                        "id": "2",
                        "ok": False,
                        "error": {
                            "code": "not_found",
                            "message": "there is no counter 'nobody': "
                            "`cyoloctl counter incr nobody` makes it",
                            "exit_status": 3,
                        },
                    },
                ]
            },
        ),
        body=(
            Field(
                "operations",
                "array",
                "the operations",
                minimum=1,
                maximum=MAX_OPERATIONS,
                holds=dict[str, Any],
            ),
            Field("stop_on_error", "boolean", "carry out nothing after the first that fails", default=False),
            REQUEST_ID,
        ),
        write=True,
        max_body_bytes=MAX_BODY_BYTES,
        max_brackets=_MAX_BRACKETS,
    ),
)


def check_id(value: object) -> str | int:
    """The id of an operation.  Raises InvalidInput."""
    if type(value) is str and 0 < len(value) <= MAX_ID_CHARACTERS:
        return value
    if type(value) is int and abs(value) <= _LARGEST_INTEGER:
        return value
    raise InvalidInput(f"field 'id': must be text of 1 to {MAX_ID_CHARACTERS} characters, or a whole number")


def is_settled(error: CyoloctlError) -> bool:
    """Whether an error is an answer, and not a failure after which the operation is to be sent again."""
    if isinstance(error, AuthorizationPending | SlowDown | QueryTimeout):
        return True
    return not isinstance(error, Unavailable | OutcomeUnknown | Unreachable)


def failed(identifier: str | int | None, error: CyoloctlError) -> dict[str, Any]:
    """The result of an operation that failed."""
    about = {"code": error.code, "message": clean_text(error.message), "exit_status": error.exit_status}
    return {"id": identifier, "ok": False, "error": about}


def read_line(
    line: bytes, number: int, decode: Callable[[bytes], dict[str, Any] | None] | None = None
) -> dict[str, Any]:
    """The operation in a line, or the result of a line that holds none.

    An operation has `op`, which no result has; all else in it is for the node to check.
    decode: faster for lines that are certain to be right; None for all others.
    """
    identifier: str | int | None = None
    try:
        if len(line) > MAX_LINE_BYTES:
            raise InvalidInput(f"is longer than {MAX_LINE_BYTES} bytes: send less")
        if line.count(b"[") + line.count(b"{") > _LINE_BRACKETS:  # bounds how deep it nests, also to encode
            raise InvalidInput("nests too deeply")
        operation = (decode(line) if decode is not None else None) or decode_object(line, "line")
        identifier = check_id(operation.get("id"))
        if type(operation.get("op")) is not str:
            raise InvalidInput("field 'op': must be the name of an operation, such as counter_increment")
    except InvalidInput as error:
        return failed(identifier, InvalidInput(f"line {number}: {error.message}"))
    return operation


def fitting(lines: Iterable[bytes]) -> int:
    """How many operations, whose lines these are, one request takes; one, where the first is too long."""
    count = size = brackets = 0
    for line in lines:
        size += len(line) if line.isascii() else 3 * len(line)
        brackets += line.count(b"[") + line.count(b"{")
        if count == MAX_OPERATIONS or size > MAX_REQUEST_BYTES or brackets > _REQUEST_BRACKETS:
            return max(count, 1)
        count += 1
    return count


def send(
    caller: Caller,
    operations: Sequence[Mapping[str, Any]],
    run: str,
    *,
    stop_on_error: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Steps[list[dict[str, Any]]]:
    """The results of what one request takes, in order, under the name of a run.

    What is not settled is sent again until the caller's timeout, counted from
    the last progress.  Fewer results than operations: the last one failed,
    and if it is not settled, nothing is known of the operations after it.

    clock: seconds; stands still while the caller does something else than ask and wait.

    Raises what concerns all of them: AccessDenied, VersionMismatch, InternalError.
    """
    results: list[dict[str, Any]] = []
    end = clock() + caller.timeout_s
    pause_s = _FIRST_PAUSE_S
    unknown: CyoloctlError | None = None
    while len(results) < len(operations):
        left = operations[len(results) :]
        try:
            body = {"operations": left, "request_id": run, "stop_on_error": stop_on_error}
            timeout_s = max(0.1, end - clock())
            answer = yield from caller.call("batch", body=body, repeatable=True, timeout_s=timeout_s)
            found, error, is_over = _first_settled(answer["results"])
        except (Unavailable, OutcomeUnknown, Unreachable) as failure:
            found, error, is_over = [], failure, False
        except InvalidInput as refusal:
            if len(left) > 1:
                raise
            found, error, is_over = [failed(left[0].get("id"), refusal)], None, False
        if found:
            results += found
            end, pause_s = clock() + caller.timeout_s, _FIRST_PAUSE_S
        if error is None:
            if stop_on_error and not results[-1]["ok"]:
                break
            continue
        if isinstance(error, OutcomeUnknown):
            unknown = error  # of every operation of that request, whatever is said of the next one
        if is_over or end - clock() < pause_s:
            results.append(failed(operations[len(results)].get("id"), unknown or error))
            break
        yield Pause(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return results


def send_all(
    caller: Caller, operations: Sequence[Mapping[str, Any]], run: str, *, stop_on_error: bool
) -> Steps[list[dict[str, Any]]]:
    """As `send`, of any number of operations.  Raises InvalidInput before anything is sent."""
    lines = []
    for operation in operations:
        check_id(operation.get("id"))
        try:
            lines.append(encode_body(operation))
        except (TypeError, ValueError, RecursionError):
            raise InvalidInput("an operation holds what is no JSON: use text, numbers and the like") from None
    results: list[dict[str, Any]] = []
    while len(results) < len(operations):
        at = len(results)
        some = operations[at : at + fitting(islice(lines, at, None))]
        found = yield from send(caller, some, run, stop_on_error=stop_on_error)
        results += found
        if len(found) < len(some) or _ends(found[-1], stop_on_error):
            break
    return results


def _ends(result: Mapping[str, Any], stop_on_error: bool) -> bool:
    """Whether nothing is tried after this result."""
    if result["ok"]:
        return False
    error = result["error"]
    return stop_on_error or not is_settled(error_from_code(error["code"], error["message"]))


def _first_settled(
    results: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], CyoloctlError | None, bool]:
    """The results before the first that is not settled, its error, and whether to give up on it.

    It is not sent again when one after it was carried out: that would turn their order round.
    """
    for at, result in enumerate(results):
        if not result["ok"]:
            error = error_from_code(result["error"]["code"], result["error"]["message"])
            if not is_settled(error):
                return results[:at], error, any(later["ok"] for later in results[at + 1 :])
    return results, None, False
