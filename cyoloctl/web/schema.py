"""The language in which a subject's `api.py` describes its routes: fields, routes, answers, names, roles.

Sans-io: no socket, no clock, no randomness.  A route holds what it takes, what it
answers, how it may fail and its handler, so that the server, the client and the
OpenAPI document cannot drift apart.

Every command imports this module (through the client), so it imports neither
dataclasses (which costs ``inspect``) nor urllib.

Contract of `Route.read_body` and `read_query`: anything gives validated values or
raises ``InvalidInput`` (``BodyTooLarge`` for size), nothing else.  A message names
the field and the rule and never repeats a value, for a value may be a secret.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from cyoloctl.errors import (
    AccessDenied,
    BodyTooLarge,
    ClientTimeout,
    Conflict,
    CyoloctlError,
    InternalError,
    InvalidInput,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    StorageError,
    Unavailable,
    VersionMismatch,
)
from cyoloctl.web.encoding import MAX_BRACKETS, clean_text, decode_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "CONSISTENCY",
    "KEEPALIVE_LINE_S",
    "MAX_LIFE_S",
    "MAX_TIMEOUT_S",
    "MIN_TIMEOUT_S",
    "NAME",
    "NAME_PATTERN",
    "NAME_RULE",
    "OFFLINE_CERTIFICATE",
    "REQUEST_BODY_BYTES",
    "REQUEST_ID",
    "REQUEST_ID_PATTERN",
    "REQUEST_ID_RULE",
    "REQUIRED",
    "ROLES",
    "Choice",
    "Count",
    "Field",
    "Loose",
    "Name",
    "Route",
    "Shape",
    "Time",
    "check_name",
    "host_field",
    "pem_field",
    "role_allows",
]

MIN_TIMEOUT_S = 0.1
MAX_TIMEOUT_S = 300.0
DEFAULT_TIMEOUT_S = 5.0
#: A watch sends a line, blank if there is nothing to say, at least this often.
KEEPALIVE_LINE_S = 10.0

# model.NAME_PATTERN again, because importing model imports dataclasses (8 ms in
# every command).  A test holds the two equal.
NAME_PATTERN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
NAME_RULE = "1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
REQUEST_ID_PATTERN = r"[!-~]{1,128}"
REQUEST_ID_RULE = "1 to 128 printable ASCII characters without spaces"

#: Each role may do what the ones before it may.  ``none``: no certificate needed.  ``gateway``: what a
#: gateway in another language needs, sessions and rendezvous.  A node's certificate has none of them.
ROLES = ("none", "viewer", "gateway", "operator")
_RANK = {role: rank for rank, role in enumerate(ROLES)}

#: The longest life of anything but credentials.
MAX_LIFE_S = 366 * 86_400
_SMALL_BODY_BYTES = 8 * 1024
#: The largest body with a certificate request in it.
REQUEST_BODY_BYTES = 16 * 1024
_BODY_BYTES = 64 * 1024


class Shape:
    """More of the JSON Schema of an answer's field than its Python type says."""

    __slots__ = ("keywords",)

    def __init__(self, **keywords: Any) -> None:
        self.keywords = keywords


Name = Annotated[str, Shape(pattern=f"^(?:{NAME_PATTERN})$")]
Count = Annotated[int, Shape(minimum=0)]
Time = Annotated[str, Shape(format="date-time")]
#: Marks an object of which another release may leave fields out.
Loose = "loose"


# No integer up to here is what a reader of JSON made of another one.
_LARGEST_EXACT = 2**53 - 1
_JSON_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_NUMBER_CHARACTERS = 40
_ENDS = {"array": ("minItems", "maxItems"), "string": ("minLength", "maxLength")}


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()


def role_allows(have: str | None, need: str) -> bool:
    """Whether a caller of role `have` (None: nobody in particular) may use a route of role `need`."""
    return _RANK.get(have or "none", 0) >= _RANK[need]


class Field:
    """One field of a body or query: its type, range and default.

    kind: boolean, integer, number, string, object or array.  minimum and
    maximum are inclusive; of a string (in characters) and an array they bound
    its length.  pattern must match the whole string; it has neither look-around
    nor references back nor more than 1,000 repetitions, so that any engine of
    regular expressions takes it.  rule is the pattern in words.  service_checks_pattern:
    the service refuses what it does not match, faster than it could be matched.  check_text
    validates a string further (raises InvalidInput).  operators_only: why a caller of a
    lower role may not set it; empty: any caller may.  What is inside an object or array
    is the service's to check; holds is its type, or types, for the document.

    An integer is what JSON Schema calls one: 900.0 and 9e2 too, below 2**53,
    because readers of JSON round the larger ones.
    """

    __slots__ = (
        "_matches",
        "check_text",
        "choices",
        "default",
        "holds",
        "kind",
        "maximum",
        "minimum",
        "name",
        "nullable",
        "operators_only",
        "pattern",
        "rule",
        "service_checks_pattern",
        "summary",
    )

    def __init__(
        self,
        name: str,
        kind: str,
        summary: str,
        *,
        default: Any = REQUIRED,
        nullable: bool = False,
        minimum: float | None = None,
        maximum: float | None = None,
        pattern: str | None = None,
        service_checks_pattern: bool = False,
        rule: str = "",
        choices: tuple[str, ...] = (),
        check_text: Callable[[str], None] | None = None,
        operators_only: str = "",
        holds: Any = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.summary = summary
        self.default = default
        self.nullable = nullable
        self.minimum = minimum
        self.maximum = maximum
        self.pattern = pattern
        self.service_checks_pattern = service_checks_pattern
        self.rule = rule
        self.choices = choices
        self.check_text = check_text
        self.operators_only = operators_only
        self.holds = holds
        self._matches: Callable[[str], object] | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether no value of it is longer than a few hundred bytes."""
        if self.kind == "string":
            return bool(self.pattern or self.choices or self.check_text or self.maximum)
        return self.kind not in ("object", "array")

    def _refuse(self, why: str) -> InvalidInput:
        return InvalidInput(f"field {self.name!r}: {why}")

    def check(self, value: Any) -> Any:
        """The value, if the field may hold it; raises InvalidInput that names the field."""
        # type() and not isinstance(): True is an int and must not count as one.
        kind = type(value)
        if kind is int and self.kind == "integer":
            if not self.minimum <= value <= self.maximum:
                raise self._refuse(f"must be {self.minimum} to {self.maximum}")
            return value
        if kind is str and self.kind == "string":
            if self.maximum is not None and not (self.minimum or 0) <= len(value) <= self.maximum:
                raise self._refuse(f"must be {self.rule}")
            if self.pattern is not None and not self.service_checks_pattern:
                if self._matches is None:  # compiled when needed: most commands need none of them
                    self._matches = re.compile(self.pattern).fullmatch
                if self._matches(value) is None:
                    raise self._refuse(f"must be {self.rule}")
            if self.choices and value not in self.choices:
                raise self._refuse(f"must be one of {', '.join(self.choices)}")
            if self.check_text is not None:
                try:
                    self.check_text(value)
                except InvalidInput:
                    raise self._refuse(f"must be {self.rule}") from None
            return value
        if kind is bool and self.kind == "boolean":
            return value
        if kind is dict and self.kind == "object":
            return value
        if kind is list and self.kind == "array":
            length: Any = len(value)
            if not self.minimum <= length <= self.maximum:
                raise self._refuse(f"must have {self.minimum} to {self.maximum} items")
            return value
        if value is None and self.nullable:
            return None
        if self.kind == "number" and kind in (int, float):
            # NaN fails both comparisons.
            if not self.minimum <= value <= self.maximum:
                raise self._refuse(f"must be {self.minimum} to {self.maximum}")
            return float(value)
        if self.kind == "integer" and kind is float and value.is_integer():
            if abs(value) > _LARGEST_EXACT:
                raise self._refuse("is too large for a decimal point or an exponent: write all its digits")
            return self.check(int(value))
        article = "an" if self.kind in ("integer", "object", "array") else "a"
        wanted = f"{article} {self.kind}{' or null' if self.nullable else ''}"
        raise self._refuse(f"must be {wanted}")

    def parse(self, text: str) -> Any:
        """The value that a query string spells, numbers as in JSON; raises InvalidInput naming the field."""
        if self.kind in ("integer", "number"):
            if len(text) > _NUMBER_CHARACTERS or not re.fullmatch(_JSON_NUMBER, text, re.ASCII):
                raise self._refuse(f"must be {self.minimum} to {self.maximum}")
            return self.check(int(text) if text.isdigit() else float(text))
        return self.check(text)

    def schema(self, *, in_query: bool = False) -> dict[str, Any]:
        """The field as JSON Schema (OpenAPI 3.1), without what it holds.

        in_query: a query has no null; what is left out has its default.
        """
        nullable = self.nullable and not in_query
        schema: dict[str, Any] = {
            "type": [self.kind, "null"] if nullable else self.kind,
            "description": self.summary + (f": {self.rule}" if self.rule else ""),
        }
        if self.default is not REQUIRED and (nullable or self.default is not None):
            schema["default"] = self.default
        least, most = _ENDS.get(self.kind, ("minimum", "maximum"))
        if self.minimum is not None:
            schema[least] = self.minimum
        if self.maximum is not None:
            schema[most] = self.maximum
        if self.pattern is not None:
            schema["pattern"] = f"^(?:{self.pattern})$"
        if self.choices:
            schema["enum"] = [*self.choices, *([None] if nullable else [])]
        return schema


class Choice:
    """Fields of which so many are given, null not counted: at least one, and with only_one no other.

    optional: none may be given too.
    """

    __slots__ = ("fields", "only_one", "optional")

    def __init__(self, *fields: str, only_one: bool = True, optional: bool = False) -> None:
        self.fields = fields
        self.only_one = only_one
        self.optional = optional

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise InvalidInput where too few or too many are given; body: with its defaults."""
        given = 0
        for name in self.fields:
            if body[name] is not None:
                given += 1
        if given == 0 and not self.optional:
            raise InvalidInput(f"give {self._names()}")
        if given > 1 and self.only_one:
            raise InvalidInput(f"give {self._names()}, not more than one of them")

    def _names(self) -> str:
        return f"{', '.join(self.fields[:-1])} or {self.fields[-1]}"

    def schema(self, kinds: Mapping[str, str]) -> dict[str, Any]:
        """The choice as JSON Schema.  kinds: of the fields."""
        given = [{"required": [name], "properties": {name: {"type": kinds[name]}}} for name in self.fields]
        if not self.only_one:
            return {"anyOf": given}
        if self.optional:
            none = {"properties": {name: {"type": "null"} for name in self.fields}}
            return {"oneOf": [*given, none]}
        return {"oneOf": given}


N_contra = TypeVar("N_contra", contravariant=True)


class Route(Generic[N_contra]):
    """One operation of the API, for nodes of a type that has what the handler needs.

    operation: its name in the client and the document.  role: the least role.
    answer: a TypedDict; its name and docstring are those of the schema.  str: text, of the type `media`.
    handler: the method of a node that answers, called with the name in the path
    (if there is one), then the fields of body and query by name; that of a
    stream with the name only, for an iterator of answers; None: the server
    answers by itself.  what: the kind of name in the path, for messages;
    name_pattern, name_rule: of a name that is not like others.  errors: what it
    may answer with beside what follows from its role, body and name.  choices:
    between fields of the body.  example: a body and its answer, for the document.
    plan: the method of a node that checks a write of one command, for a batch: called as the handler is,
    without request_id and timeout_s, it gives a `replicated.proposer.Planned`, or None where the handler
    has to do it.

    write: it may change something, so a timeout means that the outcome is
    unknown.  stream: it answers with one JSON object per line instead of one.
    held: it waits for something to happen, and a caller may have only so many
    of those.  local: the node alone answers, and always can.
    secret_name: logs do not show the name in the path.
    max_brackets: opening brackets and braces that a long body may hold, which
    bounds its nesting.  max_body_bytes: the largest body; by default 8 KiB where
    every field is bounded, else 64 KiB.
    """

    __slots__ = (
        "_name_matches",
        "answer",
        "body",
        "body_defaults",
        "body_fields",
        "choices",
        "errors",
        "example",
        "handler",
        "has_name",
        "held",
        "local",
        "max_body_bytes",
        "max_brackets",
        "media",
        "method",
        "name_pattern",
        "name_rule",
        "operation",
        "plan",
        "query_defaults",
        "query_fields",
        "reserved",
        "role",
        "secret_name",
        "stream",
        "summary",
        "template",
        "what",
        "write",
    )

    def __init__(
        self,
        method: str,
        template: str,
        role: str,
        operation: str,
        summary: str,
        *,
        answer: type,
        handler: Callable[[N_contra], Callable[..., Any]] | None,
        body: Iterable[Field] | None = None,
        query: Iterable[Field] = (),
        what: str = "name",
        name_pattern: str = NAME_PATTERN,
        name_rule: str = NAME_RULE,
        errors: Iterable[type[CyoloctlError]] = (),
        plan: Callable[[N_contra], Callable[..., Any]] | None = None,
        choices: tuple[Choice, ...] = (),
        example: tuple[Mapping[str, Any] | None, Mapping[str, Any]] | None = None,
        write: bool = False,
        stream: bool = False,
        held: bool = False,
        local: bool = False,
        secret_name: bool = False,
        max_brackets: int = MAX_BRACKETS,
        max_body_bytes: int = 0,
        media: str = "application/json",
    ) -> None:
        self.method = method
        self.template = template
        self.role = role
        self.operation = operation
        self.summary = summary
        self.answer = answer
        self.handler = handler
        self.plan = plan
        self.errors = tuple(errors)
        self.write = write
        self.stream = stream
        self.held = held or stream
        self.local = local
        self.secret_name = secret_name
        self.max_brackets = max_brackets
        self.media = media
        self.has_name = "{name}" in template
        self.what = what
        self.name_pattern = name_pattern
        self.name_rule = name_rule
        self._name_matches: Callable[[str], object] | None = None
        self.choices = choices
        self.example = example
        self.body = body is not None
        self.body_fields = {field.name: field for field in body or ()}
        self.query_fields = {field.name: field for field in (*query, TIMEOUT)}
        bounded = all(field.is_bounded for field in self.body_fields.values())
        self.max_body_bytes = max_body_bytes or (_SMALL_BODY_BYTES if bounded else _BODY_BYTES)
        self.reserved = tuple(field for field in self.body_fields.values() if field.operators_only)
        self.body_defaults = _defaults(self.body_fields)
        self.query_defaults = _defaults(self.query_fields)

    def __repr__(self) -> str:
        return f"<Route {self.method} {self.template}>"

    @property
    def is_text(self) -> bool:
        """Whether the answer is text, and only errors are JSON."""
        return self.answer is str

    def possible_errors(self) -> list[type[CyoloctlError]]:
        """Every error that it may answer with, by HTTP status and code."""
        found: list[type[CyoloctlError]] = [InvalidInput, InternalError, *self.errors]
        if self.role != "none":
            found.append(AccessDenied)
        if self.body:
            found.append(BodyTooLarge)
        if self.has_name:
            found.append(NotFound)
        if not self.local:
            found += [Unavailable, NoLeader, Overloaded, ClientTimeout, StorageError]
        if self.write:
            found += [Conflict, OutcomeUnknown, VersionMismatch]
        return sorted(found, key=lambda cls: (cls.http_status, cls.code))

    def read_body(self, raw: bytes) -> dict[str, Any]:
        """The validated body with its defaults filled in.  An empty body counts as {}.

        Raises InvalidInput naming the field, BodyTooLarge past max_body_bytes.
        """
        if len(raw) > self.max_body_bytes:
            raise self.too_large()
        return self.check_body(decode_object(raw, "body", max_brackets=self.max_brackets) if raw else {})

    def too_large(self) -> BodyTooLarge:
        """The error for a body that is larger than this route takes."""
        return BodyTooLarge(f"the body is larger than {self.max_body_bytes} bytes: send less")

    def check_body(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The validated body with its defaults filled in.  Raises InvalidInput naming the field."""
        result = self.body_defaults.copy()
        fields = self.body_fields
        for key, value in given.items():
            field = fields.get(key)
            if field is None:
                raise _unknown(key, "field", fields)
            result[key] = field.check(value)
        if len(result) != len(fields):
            missing = next(name for name in fields if name not in result)
            raise InvalidInput(f"field {missing!r}: is required")
        for choice in self.choices:
            choice.check(result)
        return result

    def takes_name(self, text: str) -> bool:
        """Whether `text` is a name of this route."""
        if self._name_matches is None:
            self._name_matches = re.compile(self.name_pattern).fullmatch
        return self._name_matches(text) is not None

    def check_name(self, text: str) -> str:
        """`text`, if it is a name of this route; raises InvalidInput that shows the rule."""
        if not self.takes_name(text):
            shown = "" if self.secret_name else f"{clean_text(text, 80)!r} "
            raise InvalidInput(f"{self.what} {shown}is not valid: use {self.name_rule}")
        return text

    def read_query(self, text: str) -> dict[str, Any]:
        """The validated query with its defaults filled in; `text` is what follows the question mark.

        Raises InvalidInput naming the parameter.
        """
        result = self.query_defaults.copy()
        if not text and len(result) == len(self.query_fields):
            return result
        seen: set[str] = set()
        if len(text) > 4096:
            raise InvalidInput("the query is longer than 4096 characters")
        for part in text.split("&"):
            if not part:
                continue
            key, _, value = part.partition("=")
            if "%" in part or "+" in part:
                # Nothing that this API takes needs quoting, but a client may quote anything.
                from urllib.parse import unquote_plus

                key, value = unquote_plus(key), unquote_plus(value)
            field = self.query_fields.get(key)
            if field is None:
                raise _unknown(key, "query parameter", self.query_fields)
            if key in seen:
                raise InvalidInput(f"field {key!r}: is given twice")
            seen.add(key)
            result[key] = field.parse(value)
        if len(result) != len(self.query_fields):
            missing = next(name for name in self.query_fields if name not in result)
            raise InvalidInput(f"query parameter {missing!r}: is required")
        return result


def _defaults(fields: Mapping[str, Field]) -> dict[str, Any]:
    return {field.name: field.default for field in fields.values() if field.default is not REQUIRED}


def _unknown(key: str, what: str, known: Iterable[str]) -> InvalidInput:
    return InvalidInput(f"{what} {clean_text(key, 64)!r} is unknown: use {', '.join(known) or 'none'}")


def check_name(text: str, what: str = "name") -> str:
    """`text`, if it is a member's or counter's name; raises InvalidInput that shows the rule."""
    if _name_matches(text) is None:
        raise InvalidInput(f"{what} {clean_text(text, 80)!r} is not valid: use {NAME_RULE}")
    return text


_name_matches = re.compile(NAME_PATTERN).fullmatch

# --- fields of several subjects -----------------------------------------------------------------

TIMEOUT = Field(
    "timeout_s",
    "number",
    "seconds after which the node gives up",
    default=DEFAULT_TIMEOUT_S,
    minimum=MIN_TIMEOUT_S,
    maximum=MAX_TIMEOUT_S,
)
NAME = Field("name", "string", "the name", pattern=NAME_PATTERN, rule=NAME_RULE)
REQUEST_ID = Field(
    "request_id",
    "string",
    "the same id applies once, however often it is sent; null: the node makes one",
    default=None,
    nullable=True,
    pattern=REQUEST_ID_PATTERN,
    rule=REQUEST_ID_RULE,
)
CONSISTENCY = Field(
    "consistency",
    "string",
    "linearizable asks a majority; stale reads what this node has, and the answer then has `stale` true",
    default="linearizable",
    choices=("linearizable", "stale"),
)


def pem_field(summary: str) -> Field:
    """The field of a certificate request."""
    return Field(
        "request_pem",
        "string",
        summary,
        minimum=1,
        maximum=8192,
        pattern=r"[\n\r -~]+",
        rule="PEM text of at most 8 KiB",
    )


OFFLINE_CERTIFICATE = Field(
    "certificate_pem",
    "string",
    "the certificate, made by the operator where the CA is kept offline; null: a member makes it",
    default=None,
    nullable=True,
    minimum=1,
    maximum=8192,
    pattern=r"[\n\r -~]+",
    rule="PEM text of at most 8 KiB",
)


def host_field(summary: str, *, nullable: bool = False) -> Field:
    """The field of a host name."""
    return Field(
        "host",
        "string",
        summary,
        nullable=nullable,
        minimum=1,
        maximum=253,
        pattern=r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
        rule="a host name in lower case, without a port",
    )
