"""Commands and results as bytes: one canonical form, decoded strictly.

Command, version 2::

    0x02 ["MACHINE","OPERATION",{ARGUMENTS},"REQUEST ID","KIND","CALLER","ORIGIN"]

that is one version byte, then the canonical JSON of that array: ASCII only
(everything else as ``\\uXXXX``), object keys in ascending order and each once,
no white space, integers of at most 20 characters, no fractions or exponents.
KIND is ``node``, ``client`` or ``browser``: whose the request id is, and CALLER
who asked among them (see ``cyoloctl.caller``).  ORIGIN is where that came from,
four words between blanks: the role, the credential, the address, and the node
that took the request; ``-`` stands for what is not known.  Without it the
command leaves no line in the audit log: logs of before there was one, and the
simulation, leave it out.

Version 1, in logs of release 0.1.0, ended ``"REQUEST ID",AUTOMATIC,TIME]``:
AUTOMATIC is ``true`` when a node made the request id itself; TIME is the
proposer's time in milliseconds since 1970, 0 to 2**53.

Result: the canonical JSON of ``{"index":N,"value":{...}}``, or of
``{"error":{"code":C,"message":M},"index":N}`` with the codes of
``cyoloctl.errors``; an error may carry a ``"reason"`` for the operator's log.
Results are remembered in the replicated state, so the wording of a refusal is
part of the format: the vectors in ``tests/vectors/command`` pin it.

There is exactly one encoding of every command.  The decoder encodes what it
read and compares, which refuses duplicate keys, ``-0``, needless escapes and
white space without a rule for each, and equally on every Python version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from cyoloctl.errors import CyoloctlError, InternalError, InvalidInput, error_from_code
from cyoloctl.fastjson import Shape, canonical_bytes, decode, decoder_of, has_integers_only
from cyoloctl.text import scan_json

__all__ = [
    "COMMAND_VERSION",
    "KINDS",
    "MAX_COMMAND_BYTES",
    "MAX_REQUEST_ID_LENGTH",
    "MAX_TIME_UNIX_MS",
    "Command",
    "Malformed",
    "Refused",
    "decode_command",
    "decode_result_with_index",
    "digest_of",
    "encode_command",
    "encode_refusal",
    "encode_result",
    "is_caller",
    "is_origin",
    "is_refusal_without_entry",
    "is_request_id",
    "operation_of",
    "refusal_reason",
]

COMMAND_VERSION = 2
_OLD_VERSION = 1
MAX_COMMAND_BYTES = 512 * 1024
MAX_REQUEST_ID_LENGTH = 128
MAX_TIME_UNIX_MS = 2**53
DIGEST_BYTES = 8

KINDS = ("node", "client", "browser")
"""Whose request ids there are."""
MAX_CALLER_LENGTH = 80
_ORIGIN = re.compile(
    r"(?:node|browser|none|viewer|gateway|operator) (?:-|[0-9a-f]{32}|uid:[0-9]{1,10}) "
    r"(?:-|[0-9A-Za-z.:%_-]{1,64}) (?:-|[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)",
    re.ASCII,
)

# Brackets are counted before parsing, those inside strings too: nesting cannot be deeper than that,
# and the depth at which the parser gives up differs between Python versions.
_MAX_BRACKETS = 200
_MAX_ARGUMENT_DEPTH = 16


class Malformed(Exception):
    """The command is not one: answered, never remembered, changes nothing.  Stays inside the package."""

    def __init__(self, message: str, code: str = "invalid_input") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Refused(Exception):
    """A machine refuses a well-formed command.  Remembered like a success.  Stays inside the package.

    reason: a word for the operator's log where the message must not tell.
    """

    def __init__(self, error: CyoloctlError, reason: str | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.reason = reason


class Command(NamedTuple):
    """A decoded command.

    kind, caller: whose request id it is.  origin: see the module; empty where it
    was left out.  time_unix_ms: the proposer's time
    in a command of release 0.1.0, -1 in others.  digest: of machine,
    operation and arguments; the same for every retry.
    """

    machine: str
    operation: str
    arguments: dict[str, Any]
    request_id: str
    kind: str
    caller: str
    time_unix_ms: int
    digest: bytes
    origin: str = ""

    @property
    def automatic(self) -> bool:
        """True when a node made the request id itself."""
        return self.kind == "node"


def is_request_id(value: object) -> bool:
    """True for 1 to 128 printable ASCII characters without spaces."""
    return (
        type(value) is str
        and 0 < len(value) <= MAX_REQUEST_ID_LENGTH
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )


def is_caller(value: object) -> bool:
    """True for at most 80 printable ASCII characters without spaces; empty: nobody in particular."""
    return type(value) is str and _caller_json(value) is not None


@lru_cache(maxsize=1024)
def _caller_json(caller: str) -> bytes | None:
    """The JSON of a caller, None for what is none.  Kept: the same few callers write again and again."""
    good = len(caller) <= MAX_CALLER_LENGTH and caller.isascii() and " " not in caller
    return canonical_bytes(caller) if good and (not caller or caller.isprintable()) else None


def is_origin(value: object) -> bool:
    """True for the four words of an origin; see the module."""
    return type(value) is str and _origin_json(value) is not None


@lru_cache(maxsize=1024)
def _origin_json(origin: str) -> bytes | None:
    """The JSON of an origin, None for what is none."""
    return b'"%b"' % origin.encode("ascii") if len(origin) <= 256 and _ORIGIN.fullmatch(origin) else None


def _length_of_id(request_id: str) -> int:
    """The length of a request id's JSON."""
    if '"' in request_id or "\\" in request_id:
        return len(canonical_bytes(request_id))
    return len(request_id) + 2


def _check_arguments(values: Iterable[object], depth: int) -> None:
    """Raises InvalidInput for what no command holds; depth: of the list or object that has these values."""
    for value in values:
        kind = type(value)
        if kind is str or value is None or kind is bool:
            continue
        if kind is int:
            if not -(2**63) <= value <= 2**64:  # type: ignore[operator]  # an int, by the line above
                raise InvalidInput("an integer in a command is outside the 64-bit range: send it as text")
        elif kind is dict and depth < _MAX_ARGUMENT_DEPTH:
            _check_object(value, depth + 1)  # type: ignore[arg-type]  # a dict, by the line above
        elif kind is list and depth < _MAX_ARGUMENT_DEPTH:
            _check_arguments(value, depth + 1)  # type: ignore[arg-type]  # a list, by the line above
        else:
            raise InvalidInput(
                f"a command cannot hold a {kind.__name__} here: use text, integers, booleans, null, "
                f"and lists and objects at most {_MAX_ARGUMENT_DEPTH} deep"
            )


def _check_object(value: dict[Any, object], depth: int) -> None:
    for key in value:
        if type(key) is not str:
            raise InvalidInput("a key in a command is not text: use text keys")
    _check_arguments(value.values(), depth)


def _has_too_many_brackets(text: bytes) -> bool:
    """Whether more open than any command's JSON may have, those inside strings too."""
    # Most have one of each, and counting takes longer than looking for a second one.
    return _has_more(text) and text.count(b"[") + text.count(b"{") > _MAX_BRACKETS


def _has_more(text: bytes) -> bool:
    """Whether a list follows the bracket with which this begins, or a second object the first one."""
    return text.find(b"[", 1) >= 0 or text.find(b"{", text.find(b"{") + 1) >= 0


def encode_command(
    machine: str,
    operation: str,
    arguments: dict[str, Any],
    *,
    request_id: str,
    kind: str = "client",
    caller: str = "",
    origin: str = "",
) -> bytes:
    """The bytes of a command, to be proposed.

    machine, operation: see the machine's class.  arguments: text, integers of
    64 bits, booleans, None, lists and dicts; whether the machine takes them is
    told by its answer.
    request_id: 1 to 128 printable ASCII characters without spaces.  kind: one
    of `KINDS`; ``node`` when the node made the id itself.  caller: as
    `is_caller`.  origin: as `is_origin`; empty: it leaves no line in the audit
    log.  A retry sends the same bytes again.

    Raises InvalidInput for what cannot be encoded, more than 512 KiB, or more
    than 200 opening brackets and braces (those in text count too).
    """
    if not is_request_id(request_id):
        raise InvalidInput("the request id is not valid: use 1 to 128 printable ascii characters, no spaces")
    if kind not in KINDS or not is_caller(caller) or (origin and not is_origin(origin)):
        raise InternalError("a command has no proper caller")
    _check_object(arguments, 1)
    fields = [machine, operation, arguments, request_id, kind, caller]
    data = b"\x02" + canonical_bytes([*fields, origin] if origin else fields)
    if len(data) > MAX_COMMAND_BYTES:
        raise InvalidInput(f"the command has {len(data)} bytes, more than {MAX_COMMAND_BYTES}: send less")
    if _has_too_many_brackets(data[1:]):
        raise InvalidInput(f"the command has more than {_MAX_BRACKETS} opening brackets: send less")
    return data


def operation_of(data: bytes) -> tuple[str, str] | None:
    """Machine and operation of a command, read from its first bytes; None for what is no command.

    The rest may be malformed.  Costs a twentieth of `decode_command`.
    """
    if not data.startswith(b'\x02["'):
        return None
    parts = data[2:256].split(b'"', 4)
    if len(parts) != 5 or parts[2] != b"," or not parts[4].startswith(b","):
        return None
    return parts[1].decode("ascii", "replace"), parts[3].decode("ascii", "replace")


class _Usual(Shape, array_like=True, gc=False):
    """The array of a command as nodes write it."""

    machine: str
    operation: str
    arguments: dict[str, Any]
    request_id: str
    kind: str
    caller: str
    origin: str


class _Success(Shape, gc=False):
    """The object of a success."""

    index: int
    value: dict[str, Any]


_usual_of = decoder_of(_Usual)
_success_of = decoder_of(_Success)


@lru_cache(maxsize=1024)
def _length_of_who(kind: str, caller: str, origin: str) -> int:
    """The length of their JSON at the end of a command; 0 for what is not valid."""
    who, from_where = _caller_json(caller), _origin_json(origin)
    if kind not in KINDS or who is None or from_where is None:
        return 0
    return len(kind) + len(who) + len(from_where) + 6


def _usual_command(data: bytes) -> Command | None:
    """The command in these bytes, if it is plain in everything, as nearly all are; None: look closer.

    Says nothing that `decode_command` without it would not, in less time: it is a part of every write, on
    every node.
    """
    text = data[1:]
    usual = None if _has_more(text) or len(data) > MAX_COMMAND_BYTES else _usual_of(text)
    if usual is None:
        return None
    request_id, arguments = usual.request_id, usual.arguments
    length = _length_of_who(usual.kind, usual.caller, usual.origin)
    if not length or not request_id.isalnum() or len(request_id) > MAX_REQUEST_ID_LENGTH:
        return None
    if not has_integers_only(arguments):
        return None
    head = text[: -length - len(request_id) - 3]
    return Command(
        usual.machine,
        usual.operation,
        arguments,
        request_id,
        usual.kind,
        usual.caller,
        -1,
        _digest(head),
        usual.origin,
    )


def decode_command(data: bytes) -> Command:
    """The command in these bytes; arguments are some JSON object, for the machine to check.

    Raises Malformed, and nothing else, for any other bytes.
    """
    usual = _usual_command(data) if data[:1] == b"\x02" else None
    if usual is not None:
        return usual
    if not data or data[0] not in (COMMAND_VERSION, _OLD_VERSION):
        if not data:
            raise Malformed("the command is empty: propose an encoded command")
        raise Malformed(
            f"a command of version {data[0]} came, this release knows version {COMMAND_VERSION}: "
            "upgrade every node before using what is new",
            "version_mismatch",
        )
    if len(data) > MAX_COMMAND_BYTES:
        raise Malformed("the command is too long: send less")
    try:
        text = data[1:]
        if _has_too_many_brackets(text):
            raise ValueError
        value = _loaded(text)
        machine, operation, arguments, request_id, kind, last, *more = value
        if not (
            type(value) is list
            and type(machine) is str
            and type(operation) is str
            and type(arguments) is dict
            and is_request_id(request_id)
            and canonical_bytes(value) == text
        ):
            raise ValueError
        time_unix_ms, caller, origin = -1, "", ""
        if data[0] == COMMAND_VERSION:
            who = _caller_json(last) if type(last) is str else None
            if type(kind) is not str or kind not in KINDS or who is None:
                raise ValueError
            caller = last
            length = len(kind) + len(who) + 5
            if more:
                (origin,) = more
                origin_json = _origin_json(origin) if type(origin) is str else None
                if origin_json is None:
                    raise ValueError
                length += len(origin_json) + 1
        else:
            if more or type(kind) is not bool or type(last) is not int or not 0 <= last <= MAX_TIME_UNIX_MS:
                raise ValueError
            time_unix_ms = last
            length = (4 if kind else 5) + len(str(last)) + 3
            kind = "node" if kind else "client"
        # What follows the arguments: a comma and the id, and what is counted above with commas and quotes.
        length += 1 + _length_of_id(request_id)
        head = text[:-length]
    except (ValueError, TypeError):  # TypeError: a JSON value that is no sequence
        raise Malformed("the command is malformed: propose what encode_command made") from None
    return Command(
        machine, operation, arguments, request_id, kind, caller, time_unix_ms, _digest(head), origin
    )


def _loaded(data: bytes) -> Any:
    """The value of JSON whose numbers are integers of at most 20 characters.

    Not strict: whoever uses it encodes the value again and compares.  Raises ValueError, RecursionError.
    """
    try:
        value = decode(data)
        if has_integers_only(value):
            return value
    except ValueError:
        pass
    return scan_json(data.decode("ascii"))[0]  # half surrogates, which are text here; else it refuses as well


def digest_of(machine: str, operation: str, arguments: dict[str, Any]) -> bytes:
    """The digest of a command with these arguments."""
    return _digest(canonical_bytes([machine, operation, arguments])[:-1])


def _digest(head: bytes) -> bytes:
    return blake2b(head, digest_size=DIGEST_BYTES).digest()


def encode_result(index: int, value: dict[str, Any]) -> bytes:
    """The bytes of a success."""
    return canonical_bytes({"index": index, "value": value})


def encode_refusal(index: int, code: str, message: str, reason: str | None = None) -> bytes:
    """The bytes of a refusal."""
    error = {"code": code, "message": message}
    if reason is not None:
        error["reason"] = reason
    return canonical_bytes({"error": error, "index": index})


def is_refusal_without_entry(result: bytes) -> bool:
    """Whether these are the bytes of a refusal that no log entry gave: its index is 0."""
    return result.startswith(b'{"error":{') and result.endswith(b'},"index":0}')


def _parse_result(result: bytes) -> dict[str, Any]:
    try:
        value = _loaded(result)
        if canonical_bytes(value) != result:
            raise ValueError
        if type(value) is dict and type(value["index"]) is int and len(value) == 2:
            error = value.get("error")
            if type(value.get("value")) is dict or (
                type(error) is dict and type(error["code"]) is str and type(error["message"]) is str
            ):
                return value
    except (ValueError, KeyError, RecursionError):
        pass
    raise InternalError("a state machine gave an unreadable result: report this, with all nodes' versions")


def decode_result_with_index(result: bytes) -> tuple[int, dict[str, Any]]:
    """The log index at which the command was applied (the first time), and its value.

    Raises the error of ``cyoloctl.errors`` that a refusal names (its root
    class for a code of a newer release), InternalError for other bytes.
    """
    success = _success_of(result)
    if success is not None and 0 <= success.index < 2**63 and has_integers_only(success.value):
        return success.index, success.value
    value = _parse_result(result)
    error = value.get("error")
    if error is not None:
        raise error_from_code(error["code"], error["message"])
    return value["index"], value["value"]


def refusal_reason(result: bytes) -> str | None:
    """The reason that a refusal gives to the operator's log, never to the refused; None without one.

    Raises InternalError for bytes that are no result.
    """
    error = _parse_result(result).get("error")
    reason = error.get("reason") if error is not None else None
    return reason if type(reason) is str else None
