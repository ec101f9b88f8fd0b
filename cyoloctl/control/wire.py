"""The HTTP/JSON API v1 as one table: routes, roles, bodies, queries, answers.

Sans-io: no socket, no clock, no randomness.  The server validates with this
table, the OpenAPI file and the tests are derived from it, and the client takes
its paths from it, so the three cannot drift apart.  ``python -m
cyoloctl.control.wire`` prints the OpenAPI document.

Every command imports this module (through the client), so it imports neither
dataclasses (which costs ``inspect``) nor urllib, and builds the OpenAPI schemas
only when they are asked for.

Contract of the decoder: any bytes give a validated body or raise
``InvalidInput`` (``BodyTooLarge`` for size), nothing else.  A message names the
field and the rule and never repeats a value, for a value may be a secret.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from cyoloctl.errors import (
    AccessDenied,
    ApprovalRefused,
    AuthorizationPending,
    BodyTooLarge,
    Conflict,
    CounterOverflow,
    CyoloctlError,
    Denied,
    Expired,
    InternalError,
    InvalidInput,
    InvitationRejected,
    NotFound,
    OutcomeUnknown,
    SlowDown,
    StorageError,
    TokenRejected,
    Unavailable,
    VersionMismatch,
    error_from_code,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "KEEPALIVE_LINE_S",
    "MAX_BATCH",
    "MAX_BODY_BYTES",
    "MAX_RESPONSE_BYTES",
    "MAX_TIMEOUT_S",
    "MIN_TIMEOUT_S",
    "NAME_PATTERN",
    "REQUEST_ID_PATTERN",
    "ROLES",
    "ROUTES",
    "SCHEMA_VERSION",
    "Field",
    "Route",
    "allowed_methods",
    "check_name",
    "clean_text",
    "decode_error",
    "decode_object",
    "encode_body",
    "encode_error",
    "encode_object",
    "error_object",
    "match",
    "openapi",
    "path_for",
    "role_allows",
    "route_errors",
    "shown_path",
]

SCHEMA_VERSION = 1
MAX_BODY_BYTES = 1 << 20
MAX_RESPONSE_BYTES = 8 << 20
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

_MAX_I64 = 2**63 - 1
_MAX_LIFE_S = 366 * 86_400
#: Tokens a batch.
MAX_BATCH = 1000
# Far more than any body of this API holds: stops the parser from recursing.
_MAX_BRACKETS = 256
_SHORT_BODY_BYTES = 1024
_SMALL_BODY_BYTES = 8 * 1024
_REQUEST_BODY_BYTES = 16 * 1024
_BODY_BYTES = 64 * 1024


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
    maximum are inclusive; of an array they bound its length.  pattern must
    match the whole string.  rule is the pattern in words.  check_text validates
    a string further (raises InvalidInput).  What is inside an object or array
    is the service's to check.
    """

    __slots__ = (
        "_matches",
        "check_text",
        "choices",
        "default",
        "kind",
        "maximum",
        "minimum",
        "name",
        "nullable",
        "pattern",
        "rule",
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
        rule: str = "",
        choices: tuple[str, ...] = (),
        check_text: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.summary = summary
        self.default = default
        self.nullable = nullable
        self.minimum = minimum
        self.maximum = maximum
        self.pattern = pattern
        self.rule = rule
        self.choices = choices
        self.check_text = check_text
        self._matches: Callable[[str], object] | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether no value of it is longer than a few hundred bytes."""
        if self.kind == "string":
            return bool(self.pattern or self.choices or self.check_text)
        return self.kind not in ("object", "array")

    def _refuse(self, why: str) -> InvalidInput:
        return InvalidInput(f"field {self.name!r}: {why}")

    def check(self, value: Any) -> Any:
        """The value, when it is one; raises InvalidInput that names the field."""
        # type() and not isinstance(): True is an int and must not count as one.
        kind = type(value)
        if kind is int and self.kind == "integer":
            if not self.minimum <= value <= self.maximum:
                raise self._refuse(f"must be {self.minimum} to {self.maximum}")
            return value
        if kind is str and self.kind == "string":
            if self.pattern is not None:
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
        article = "an" if self.kind in ("integer", "object", "array") else "a"
        wanted = f"{article} {self.kind}{' or null' if self.nullable else ''}"
        raise self._refuse(f"must be {wanted}")

    def parse(self, text: str) -> Any:
        """The value that a query string spells; raises InvalidInput that names the field."""
        if self.kind == "integer":
            if not (text.isascii() and text.isdigit() and len(text) <= 19):
                raise self._refuse(f"must be {self.minimum} to {self.maximum}")
            return self.check(int(text))
        if self.kind == "number":
            if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII):
                raise self._refuse(f"must be {self.minimum} to {self.maximum}")
            return self.check(float(text))
        return self.check(text)

    def schema(self) -> dict[str, Any]:
        """The field as JSON Schema (OpenAPI 3.1)."""
        schema: dict[str, Any] = {
            "type": [self.kind, "null"] if self.nullable else self.kind,
            "description": self.summary + (f": {self.rule}" if self.rule else ""),
        }
        if self.default is not REQUIRED:
            schema["default"] = self.default
        ends = ("minItems", "maxItems") if self.kind == "array" else ("minimum", "maximum")
        if self.minimum is not None:
            schema[ends[0]] = self.minimum
        if self.maximum is not None:
            schema[ends[1]] = self.maximum
        if self.pattern is not None:
            schema["pattern"] = f"^(?:{self.pattern})$"
        if self.choices:
            schema["enum"] = list(self.choices)
        return schema


_WHAT = {
    "counters": "counter name",
    "members": "member name",
    "invitations": "member name",
    "keys": "key id",
    "rendezvous": "rendezvous id",
    "credentials": "name of credentials",
}


class Route:
    """One operation of the API.

    operation is the client's and server's name for it.  role is the least role.
    write: it may change something, so a timeout means that the outcome is
    unknown.  stream: it answers with a JSON object a line instead of one.
    max_brackets: opening brackets and braces that a long body may hold, which
    bounds its nesting.  max_body_bytes: the largest body; by default 8 KiB where
    every field is bounded, else 64 KiB.
    """

    __slots__ = (
        "body",
        "body_defaults",
        "body_fields",
        "has_name",
        "max_body_bytes",
        "max_brackets",
        "method",
        "operation",
        "query_defaults",
        "query_fields",
        "response",
        "role",
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
        response: str,
        summary: str,
        *,
        body: Iterable[Field] | None = None,
        query: Iterable[Field] = (),
        write: bool = False,
        stream: bool = False,
        max_brackets: int = _MAX_BRACKETS,
        max_body_bytes: int = 0,
    ) -> None:
        self.method = method
        self.template = template
        self.role = role
        self.operation = operation
        self.response = response
        self.summary = summary
        self.write = write
        self.stream = stream
        self.max_brackets = max_brackets
        self.has_name = "{name}" in template
        self.what = _WHAT.get(template.split("/")[2], "name")
        self.body = body is not None
        self.body_fields = {field.name: field for field in body or ()}
        self.query_fields = {field.name: field for field in (*query, _TIMEOUT)}
        bounded = all(field.is_bounded for field in self.body_fields.values())
        self.max_body_bytes = max_body_bytes or (_SMALL_BODY_BYTES if bounded else _BODY_BYTES)
        self.body_defaults = _defaults(self.body_fields)
        self.query_defaults = _defaults(self.query_fields)

    def __repr__(self) -> str:
        return f"<Route {self.method} {self.template}>"

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
        return result

    def read_query(self, text: str) -> dict[str, Any]:
        """The validated query with its defaults filled in; `text` is what follows the question mark.

        Raises InvalidInput naming the parameter.
        """
        result = self.query_defaults.copy()
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
        return result


def _defaults(fields: Mapping[str, Field]) -> dict[str, Any]:
    return {field.name: field.default for field in fields.values() if field.default is not REQUIRED}


def _unknown(key: str, what: str, known: Iterable[str]) -> InvalidInput:
    return InvalidInput(f"{what} {clean_text(key, 64)!r} is unknown: use {', '.join(known) or 'none'}")


# --- JSON ---------------------------------------------------------------------------------------


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidInput(f"field {clean_text(key, 64)!r}: is given twice")
            seen.add(key)
    return result


def _no_constant(text: str) -> None:
    raise InvalidInput(f"{text} is not JSON: use a number")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
# ASCII only: a lone surrogate in a name can then not break the encoding of an error.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def decode_object(
    raw: bytes, what: str, max_bytes: int = MAX_BODY_BYTES, *, max_brackets: int = _MAX_BRACKETS
) -> dict[str, Any]:
    """A JSON object from UTF-8 bytes.

    Duplicate keys, NaN and Infinity, deep nesting and anything that is not an
    object raise InvalidInput; more than max_bytes raises BodyTooLarge.
    """
    if len(raw) > max_bytes:
        raise BodyTooLarge(f"the {what} is larger than {max_bytes} bytes")
    # A bracket may stand in a string, so the count bounds the depth from above.
    if (
        max_bytes <= MAX_BODY_BYTES
        and len(raw) > _SHORT_BODY_BYTES
        and raw.count(b"[") + raw.count(b"{") > max_brackets
    ):
        raise InvalidInput(f"the {what} nests too deeply")
    try:
        value = _decoder.decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidInput(f"the {what} is not UTF-8: send a JSON object") from None
    except RecursionError:
        raise InvalidInput(f"the {what} nests too deeply") from None
    except ValueError as error:
        # JSONDecodeError has a position; an integer of thousands of digits gives a plain ValueError.
        where = f" at {error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidInput(f"the {what} is not JSON{where}: send a JSON object") from None
    if type(value) is not dict:
        raise InvalidInput(f"the {what} must be a JSON object")
    return value


def encode_object(value: Mapping[str, Any]) -> bytes:
    """Compact JSON with `schema_version` (added when it is missing).

    Raises TypeError or ValueError for what JSON cannot hold.
    """
    if "schema_version" not in value:
        value = {"schema_version": SCHEMA_VERSION, **value}
    return _encode(value).encode("ascii")


def encode_body(value: Mapping[str, Any]) -> bytes:
    """Compact JSON of a request body.  Raises TypeError or ValueError for what JSON cannot hold."""
    return _encode(value).encode("ascii")


def clean_text(text: str, limit: int = 2000) -> str:
    """`text` made safe to print on a terminal and bounded: control characters become spaces."""
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


# --- errors -------------------------------------------------------------------------------------


def error_object(error: CyoloctlError) -> dict[str, Any]:
    """The JSON body of an error."""
    return {
        "schema_version": SCHEMA_VERSION,
        "error": {"code": error.api_code or error.code, "message": clean_text(error.message)},
    }


def encode_error(error: CyoloctlError) -> bytes:
    """The encoded JSON body of an error."""
    return encode_object(error_object(error))


def decode_error(value: Mapping[str, Any], status: int = 0) -> CyoloctlError | None:
    """The error that a response object holds, None when it holds none.

    status: the HTTP status, which tells apart what shares a code (see CyoloctlError.api_code).

    A code that this release does not know gives the root of the tree.
    """
    error = value.get("error")
    if not isinstance(error, dict):
        return None
    code, message = error.get("code"), error.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        return None
    if code == Denied.api_code and status == Denied.http_status:
        return Denied(clean_text(message))
    return error_from_code(code, clean_text(message))


# --- the table ----------------------------------------------------------------------------------


def _check_address(text: str) -> None:
    from cyoloctl.model import parse_address

    parse_address(text)


_TIMEOUT = Field(
    "timeout_s",
    "number",
    "seconds after which the node gives up",
    default=DEFAULT_TIMEOUT_S,
    minimum=MIN_TIMEOUT_S,
    maximum=MAX_TIMEOUT_S,
)
_NAME = Field("name", "string", "the name", pattern=NAME_PATTERN, rule=NAME_RULE)
_REQUEST_ID = Field(
    "request_id",
    "string",
    "the same id applies once, however often it is sent; null: the node makes one",
    default=None,
    nullable=True,
    pattern=REQUEST_ID_PATTERN,
    rule=REQUEST_ID_RULE,
)
_CONSISTENCY = Field(
    "consistency",
    "string",
    "linearizable asks a majority, stale reads what this node has",
    default="linearizable",
    choices=("linearizable", "stale"),
)


_TTL_S = Field(
    "ttl_s",
    "integer",
    "seconds until it expires when it is not refreshed",
    default=900,
    minimum=1,
    maximum=_MAX_LIFE_S,
)
_TOKEN = (
    Field(
        "token",
        "string",
        "the token; whatever is not one is refused as `token_rejected`",
        default=None,
        nullable=True,
    ),
    Field(
        "cookie",
        "string",
        "in place of the token: the value of the Cookie header that holds it",
        default=None,
        nullable=True,
    ),
)
_TOKEN_CONTEXT = (
    Field(
        "cookie_name",
        "string",
        "the cookie that carries the token",
        default="cyolo-sid",
        pattern=r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}",
        rule="1 to 128 characters that a cookie name may have",
    ),
    Field(
        "audience",
        "string",
        "whom the token is for, a host identifier, say; empty: anybody",
        default="",
        pattern=r"[^\x00-\x1f\x7f]{0,255}",
        rule="up to 255 bytes of UTF-8 without control characters",
    ),
)
_REQUIRE_QUORUM = Field(
    "require_quorum", "boolean", "ask a majority first, so that no revocation is missed", default=False
)
_EXPLAIN = Field("explain", "boolean", "say why a token is rejected", default=False)
_SET_COOKIE = Field("set_cookie", "boolean", "answer with the Set-Cookie line too", default=False)
_FORCE = Field("force", "boolean", "even while tokens under the key may live", default=False)


_HOST = Field(
    "host",
    "string",
    "a host name",
    pattern=r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
    rule="a host name in lower case, without a port",
)
_RENDEZVOUS = (
    Field(
        "id",
        "string",
        "the id of the rendezvous",
        default=None,
        nullable=True,
        pattern=r"[0-9a-f]{32}",
        rule="32 hex digits",
    ),
    Field("user_code", "string", "its user code, such as WDJB-MJHT", default=None, nullable=True),
)
_BY = Field(
    "by",
    "string",
    "who acts, as the caller says, who is believed; null: whose token it is, else `operator`",
    default=None,
    nullable=True,
    pattern=r"[^\x00-\x1f\x7f]{1,256}",
    rule="1 to 256 characters, no control characters",
)
_FOR = (
    Field(
        "token",
        "string",
        "the session token of the person for whom the caller acts; null: the caller acts for itself",
        default=None,
        nullable=True,
    ),
    *_TOKEN_CONTEXT,
)
_DATA = Field("data", "object", "texts by name", default={})
_ID = Field("id", "string", "the id of the rendezvous", pattern=r"[0-9a-f]{32}", rule="32 hex digits")


_REQUEST_PEM = Field(
    "request_pem",
    "string",
    "a certificate request, signed by the key that it is for",
    pattern=r"[\n\r -~]{1,8192}",
    rule="PEM text of at most 8 KiB",
)
_MAX_CREDENTIAL_S = 825 * 86_400
_RENEWED_TTL_S = Field(
    "ttl_s",
    "integer",
    "seconds until it expires; null: as long as it was granted for",
    default=None,
    nullable=True,
    minimum=60,
    maximum=_MAX_CREDENTIAL_S,
)


def _by(maximum: int) -> Field:
    return Field("by", "integer", "how much", default=1, minimum=1, maximum=maximum)


ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/health", "none", "health", "Health", "Whether the node is alive and ready"),
    Route("GET", "/v1/status", "viewer", "status", "Status", "The cluster and its members"),
    Route("GET", "/v1/members", "viewer", "member_list", "MemberList", "List the members"),
    Route("GET", "/v1/members/{name}", "viewer", "member_show", "Member", "Show a member"),
    Route(
        "POST",
        "/v1/cluster/set-time",
        "operator",
        "set_time",
        "TimeSet",
        "Set cluster time to what a majority of the members' clocks show",
        body=(
            Field("dry_run", "boolean", "only say what it would do", default=False),
            _REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/members/invitations",
        "operator",
        "member_invite",
        "Invitation",
        "Make a single-use join token",
        body=(
            _NAME,
            Field("learner", "boolean", "join as a learner for good", default=False),
            Field("ttl_s", "integer", "seconds until it expires", default=3600, minimum=60, maximum=604_800),
        ),
        write=True,
    ),
    Route(
        "GET",
        "/v1/invitations",
        "viewer",
        "member_invitations",
        "InvitationList",
        "List the invitations, those that were used or expired a short while ago too",
    ),
    Route(
        "POST",
        "/v1/invitations/{name}/withdraw",
        "operator",
        "member_uninvite",
        "Uninvited",
        "Withdraw an invitation: its token admits nobody any more",
        body=(),
        write=True,
    ),
    Route(
        "GET",
        "/v1/ca",
        "none",
        "ca",
        "Authorities",
        "The cluster's certificate authorities: public, and worth what the caller compares them with",
    ),
    Route(
        "POST",
        "/v1/join",
        "none",
        "join",
        "Grant",
        "Redeem a join token: idempotent for the same request",
        body=(
            _NAME,
            Field(
                "public_key",
                "string",
                "the Ed25519 public key that the token's secret gives",
                pattern=r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=",
                rule="32 bytes in base64",
            ),
            Field(
                "signature",
                "string",
                "the joiner's signature, with that key, over the rest of this request",
                pattern=r"[A-Za-z0-9+/]{86}==",
                rule="64 bytes in base64",
            ),
            Field(
                "request_pem",
                "string",
                "the certificate request",
                pattern=r"[\n\r -~]{1,8192}",
                rule="PEM text of at most 8 KiB",
            ),
            Field(
                "sealing_key",
                "string",
                "the X25519 public key that the grant is sealed to",
                pattern=r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=",
                rule="32 bytes in base64",
            ),
            Field(
                "address",
                "string",
                "where the peers reach the new node",
                pattern=r"[!-~]{1,300}",
                rule="HOST:PORT or [IPV6]:PORT, port 1 to 65535",
                check_text=_check_address,
            ),
            Field(
                "ca_sha256",
                "string",
                "the certificate authority that the token names; two while the cluster exchanges it",
                pattern=r"[0-9a-f]{64}(,[0-9a-f]{64})?",
                rule="the 64 hex digits of a SHA-256, or two with a comma",
            ),
        ),
        write=True,
        max_body_bytes=_REQUEST_BODY_BYTES,
    ),
    Route(
        "POST",
        "/v1/members/{name}/remove",
        "operator",
        "member_remove",
        "Removal",
        "Remove a member",
        body=(
            Field("force", "boolean", "even if the cluster would lose its quorum", default=False),
            Field("dry_run", "boolean", "only compute the failure tolerance", default=False),
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/members/transfer-leadership",
        "operator",
        "transfer_leadership",
        "Leadership",
        "Hand leadership over",
        body=(
            Field(
                "to",
                "string",
                "the new leader; null: the most advanced voter",
                default=None,
                nullable=True,
                pattern=NAME_PATTERN,
                rule=NAME_RULE,
            ),
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/counters/{name}/increment",
        "operator",
        "counter_increment",
        "CounterWritten",
        "Add to a counter",
        body=(_by(_MAX_I64), _REQUEST_ID),
        write=True,
    ),
    Route(
        "POST",
        "/v1/counters/{name}/decrement",
        "operator",
        "counter_decrement",
        "CounterWritten",
        "Subtract from a counter",
        body=(_by(_MAX_I64 + 1), _REQUEST_ID),
        write=True,
    ),
    Route(
        "POST",
        "/v1/counters/{name}/reset",
        "operator",
        "counter_reset",
        "CounterWritten",
        "Set a counter to 0",
        body=(_REQUEST_ID,),
        write=True,
    ),
    Route(
        "GET",
        "/v1/counters/{name}",
        "viewer",
        "counter_get",
        "Counter",
        "Read a counter",
        query=(_CONSISTENCY,),
    ),
    Route(
        "GET",
        "/v1/counters",
        "viewer",
        "counter_list",
        "CounterList",
        "List counters by name, a page at a time",
        query=(
            _CONSISTENCY,
            Field("limit", "integer", "counters a page", default=100, minimum=1, maximum=1000),
            Field(
                "after",
                "string",
                "begin after this name (`next` of the page before)",
                default=None,
                nullable=True,
                pattern=NAME_PATTERN,
                rule=NAME_RULE,
            ),
        ),
    ),
    Route(
        "GET",
        "/v1/counters/{name}/watch",
        "viewer",
        "counter_watch",
        "Counter",
        "Follow a counter: one object a line, the present value first; a blank line at least every "
        "10 seconds; an object with `error` ends the stream",
        stream=True,
    ),
    Route(
        "POST",
        "/v1/tokens/mint",
        "gateway",
        "token_mint",
        "Token",
        "Make a session token",
        body=(
            Field(
                "sub",
                "string",
                "whose session it is",
                pattern=r"[^\x00-\x1f\x7f]{1,256}",
                rule="1 to 256 characters, no control characters",
            ),
            Field("claims", "object", "what the session carries", default={}),
            _TTL_S,
            Field(
                "max_age_s",
                "integer",
                "seconds after which it ends however often it is refreshed",
                default=28_800,
                minimum=1,
                maximum=_MAX_LIFE_S,
            ),
            *_TOKEN_CONTEXT,
            _SET_COOKIE,
        ),
    ),
    Route(
        "POST",
        "/v1/tokens/inspect",
        "gateway",
        "token_inspect",
        "Token",
        "Open a token",
        body=(*_TOKEN, *_TOKEN_CONTEXT, _REQUIRE_QUORUM, _EXPLAIN),
    ),
    Route(
        "POST",
        "/v1/tokens/update",
        "gateway",
        "token_update",
        "Token",
        "Change the claims of a token: the older copies are refused on every node from then on",
        body=(
            *_TOKEN,
            Field("set", "object", "claims to set", default={}),
            Field("unset", "array", "names of claims to remove", default=[], minimum=0, maximum=100),
            Field("keep_previous", "boolean", "let the older copies live", default=False),
            *_TOKEN_CONTEXT,
            _SET_COOKIE,
            _REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/tokens/refresh",
        "gateway",
        "token_refresh",
        "Token",
        "Move the expiry of a token forward, under the primary key",
        body=(*_TOKEN, _TTL_S, *_TOKEN_CONTEXT, _REQUIRE_QUORUM, _SET_COOKIE),
    ),
    Route(
        "POST",
        "/v1/tokens/batch",
        "gateway",
        "token_batch",
        "TokenBatch",
        "Mint, inspect, update or refresh many: one result an item, in order",
        body=(
            Field("operation", "string", "what to do", choices=("mint", "inspect", "update", "refresh")),
            Field("items", "array", "the bodies of the single requests", minimum=1, maximum=MAX_BATCH),
            Field("keep_previous", "boolean", "of updates: let the older copies live", default=False),
            *_TOKEN_CONTEXT,
            _REQUIRE_QUORUM,
        ),
        write=True,
        max_brackets=20_000,
        max_body_bytes=MAX_BODY_BYTES,
    ),
    Route(
        "POST",
        "/v1/tokens/revoke",
        "gateway",
        "token_revoke",
        "Revocation",
        "Revoke a session (token or sid), or every session of a subject issued before now",
        body=(
            *_TOKEN,
            Field(
                "sid",
                "string",
                "the session",
                default=None,
                nullable=True,
                pattern=r"[A-Za-z0-9_-]{22}",
                rule="the 22 characters of a sid",
            ),
            Field("sub", "string", "the subject", default=None, nullable=True),
            *_TOKEN_CONTEXT,
            _REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "GET",
        "/v1/tokens/revocations",
        "viewer",
        "token_revocations",
        "RevocationList",
        "List what is revoked, a page at a time",
        query=(
            Field("limit", "integer", "revocations a page", default=100, minimum=1, maximum=1000),
            Field("after", "string", "`next` of the page before", default=None, nullable=True),
        ),
    ),
    Route("GET", "/v1/keys", "viewer", "key_list", "KeyList", "List the token keys; no key material"),
    Route(
        "GET",
        "/v1/keys/status",
        "viewer",
        "key_status",
        "KeyStatus",
        "Whether every member holds every key, and the same ones",
    ),
    Route(
        "POST",
        "/v1/keys/generate",
        "operator",
        "key_generate",
        "Key",
        "Make a key, pending until it is promoted",
        body=(_REQUEST_ID,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/rotate",
        "operator",
        "key_rotate",
        "Key",
        "Make a key, wait until every member holds it, make it the primary",
        body=(_REQUEST_ID,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/{name}/promote",
        "operator",
        "key_promote",
        "Key",
        "Make a key the primary one",
        body=(),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/{name}/disable",
        "operator",
        "key_disable",
        "Key",
        "Refuse tokens under a key until it is enabled",
        body=(_FORCE,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/{name}/enable",
        "operator",
        "key_enable",
        "Key",
        "Accept tokens under a disabled key again",
        body=(),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/{name}/destroy",
        "operator",
        "key_destroy",
        "Key",
        "Forget a key for ever",
        body=(_FORCE,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/rewrap",
        "operator",
        "key_rewrap",
        "KeyList",
        "Seal every key anew to every member",
        body=(),
        write=True,
    ),
    Route("GET", "/v1/keys/policy", "viewer", "key_policy", "KeyPolicy", "The rotation policy"),
    Route(
        "POST",
        "/v1/keys/policy",
        "operator",
        "key_set_policy",
        "KeyPolicy",
        "Set the rotation policy",
        body=(
            Field(
                "rotate_every_s",
                "integer",
                "seconds between rotations; null: never by itself",
                default=None,
                nullable=True,
                minimum=3600,
                maximum=_MAX_LIFE_S,
            ),
            Field(
                "keep_s",
                "integer",
                "seconds that a replaced key opens tokens; no token lives longer",
                default=604_800,
                minimum=3600,
                maximum=_MAX_LIFE_S,
            ),
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/export",
        "operator",
        "key_export_ring",
        "KeyExport",
        "The key ring, sealed under a passphrase or to a node of another network",
        body=(
            Field("passphrase", "string", "at least 12 characters", default=None, nullable=True),
            Field("to_node", "string", "the identity text of a node", default=None, nullable=True),
            Field(
                "to_ca",
                "string",
                "for a node of another cluster: the SHA-256 of its CA certificate",
                default=None,
                nullable=True,
                pattern=r"[0-9A-Fa-f:]{64,95}",
                rule="64 hex digits",
            ),
        ),
    ),
    Route(
        "POST",
        "/v1/keys/import",
        "operator",
        "key_import_ring",
        "KeyList",
        "Add the keys of an exported ring",
        body=(
            Field("data", "string", "the exported ring"),
            Field("passphrase", "string", "its passphrase", default=None, nullable=True),
            Field(
                "from_ca",
                "string",
                "the SHA-256 of the CA certificate of the cluster that sealed it to this node",
                default=None,
                nullable=True,
                pattern=r"[0-9A-Fa-f:]{64,95}",
                rule="64 hex digits",
            ),
            Field("adopt", "boolean", "even if it is of another cluster", default=False),
        ),
        write=True,
        max_body_bytes=MAX_BODY_BYTES,
    ),
    Route("GET", "/v1/keys/identity", "viewer", "key_identity", "KeyIdentity", "This node's identity text"),
    Route(
        "POST",
        "/v1/members/{name}/host",
        "operator",
        "member_set_host",
        "MemberHost",
        "Give a member its host identifier; null takes it away",
        body=(
            Field(
                "host",
                "string",
                "the host name by which clients ask for this very member",
                nullable=True,
                pattern=_HOST.pattern,
                rule=_HOST.rule,
            ),
        ),
        write=True,
    ),
    Route(
        "GET",
        "/v1/routes",
        "viewer",
        "route_list",
        "RouteList",
        "The members as reverse proxies see them, and who serves which host name",
    ),
    Route(
        "POST",
        "/v1/routes/share",
        "operator",
        "route_share",
        "SharedHost",
        "Let every member serve a host name, or no longer",
        body=(_HOST, Field("shared", "boolean", "false: no longer", default=True), _REQUEST_ID),
        write=True,
    ),
    Route(
        "GET",
        "/v1/credentials",
        "viewer",
        "credential_list",
        "CredentialList",
        "List whose keys count or counted: operators, gateways, viewers and nodes",
    ),
    Route(
        "POST",
        "/v1/credentials",
        "operator",
        "credential_create",
        "CredentialIssued",
        "Register a key and issue its certificate; the same request again gives the same entry",
        body=(
            _NAME,
            Field("role", "string", "what it may do", choices=("viewer", "gateway", "operator")),
            _REQUEST_PEM,
            Field(
                "ttl_s",
                "integer",
                "seconds until it expires; never beyond the end of the CA",
                default=90 * 86_400,
                minimum=60,
                maximum=_MAX_CREDENTIAL_S,
            ),
            _REQUEST_ID,
        ),
        write=True,
        max_body_bytes=_REQUEST_BODY_BYTES,
    ),
    Route(
        "GET",
        "/v1/credentials/{name}",
        "viewer",
        "credential_show",
        "Credential",
        "Show credentials, or the entry of a node",
    ),
    Route(
        "POST",
        "/v1/credentials/renew",
        "viewer",
        "credential_renew_own",
        "CredentialIssued",
        "Renew the caller's own credentials, for no longer than they were granted for",
        body=(_REQUEST_PEM, _RENEWED_TTL_S, _REQUEST_ID),
        write=True,
        max_body_bytes=_REQUEST_BODY_BYTES,
    ),
    Route(
        "POST",
        "/v1/credentials/{name}/renew",
        "operator",
        "credential_renew",
        "CredentialIssued",
        "Renew credentials, with the same key or another; expired ones too",
        body=(_REQUEST_PEM, _RENEWED_TTL_S, _REQUEST_ID),
        write=True,
        max_body_bytes=_REQUEST_BODY_BYTES,
    ),
    Route(
        "POST",
        "/v1/credentials/{name}/revoke",
        "operator",
        "credential_revoke",
        "Credential",
        "End credentials: what they have open ends within two seconds",
        body=(_REQUEST_ID,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/rendezvous/start",
        "gateway",
        "rendezvous_start",
        "RendezvousStarted",
        "Begin a transaction that somebody else approves",
        body=(
            Field("kind", "string", "what it is for, a name", pattern=NAME_PATTERN, rule=NAME_RULE),
            Field("ttl_s", "integer", "seconds until it expires", default=300, minimum=10, maximum=86_400),
            _DATA,
            Field(
                "public_key",
                "string",
                "an X25519 public key of the initiator, base64: the answer is sealed to it",
                default=None,
                nullable=True,
            ),
            Field(
                "initiator",
                "string",
                "who asks, as the approver sees it and the caller says",
                default="operator",
                pattern=_BY.pattern,
                rule=_BY.rule,
            ),
            Field(
                "origin",
                "string",
                "from where it asks, as the approver sees it and the caller says",
                default=None,
                nullable=True,
                pattern=_BY.pattern,
                rule=_BY.rule,
            ),
            *_FOR,
            _REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/rendezvous/wait",
        "gateway",
        "rendezvous_wait",
        "Redeemed",
        "Wait for the answer and redeem it once; `authorization_pending` when there is none in time",
        body=(
            _ID,
            Field(
                "redemption",
                "string",
                "a secret of the redeemer: who brings the same gets the same answer again for 5 minutes",
                pattern=r"[!-~]{16,128}",
                rule="16 to 128 printable ASCII characters without spaces",
            ),
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/rendezvous/claim",
        "gateway",
        "rendezvous_claim",
        "Rendezvous",
        "Take a rendezvous: nobody else can approve it then",
        body=(*_RENDEZVOUS, _BY, *_FOR, _REQUEST_ID),
        write=True,
    ),
    Route(
        "POST",
        "/v1/rendezvous/approve",
        "gateway",
        "rendezvous_approve",
        "Rendezvous",
        "Approve a rendezvous and answer it",
        body=(*_RENDEZVOUS, _BY, _DATA, *_FOR, _REQUEST_ID),
        write=True,
    ),
    Route(
        "POST",
        "/v1/rendezvous/deny",
        "gateway",
        "rendezvous_deny",
        "Rendezvous",
        "Deny a rendezvous",
        body=(*_RENDEZVOUS, _BY, *_FOR, _REQUEST_ID),
        write=True,
    ),
    Route(
        "POST",
        "/v1/rendezvous/cancel",
        "gateway",
        "rendezvous_cancel",
        "Rendezvous",
        "Cancel a rendezvous that has not ended",
        body=(_ID, _REQUEST_ID),
        write=True,
    ),
    Route(
        "POST",
        "/v1/rendezvous/policy",
        "operator",
        "rendezvous_policy",
        "RendezvousPolicy",
        "Set who may approve what a kind is for, the whole of it; the defaults remove it",
        body=(
            Field("kind", "string", "the kind", pattern=NAME_PATTERN, rule=NAME_RULE),
            Field(
                "require",
                "object",
                "claims that the approver's session must have: true, false, integers or texts by name",
                default={},
            ),
            Field("allow_self", "boolean", "whoever began may approve", default=False),
            _REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "GET",
        "/v1/rendezvous/policies",
        "gateway",
        "rendezvous_policies",
        "RendezvousPolicies",
        "Who may approve what, for each kind that has no default policy",
    ),
    Route(
        "GET",
        "/v1/rendezvous/{name}",
        "gateway",
        "rendezvous_show",
        "Rendezvous",
        "Show a rendezvous, by its id or its user code in lower case",
    ),
    Route(
        "GET",
        "/v1/rendezvous",
        "gateway",
        "rendezvous_list",
        "RendezvousList",
        "List rendezvous, those that ended within a day too, the oldest first",
        query=(
            Field(
                "state",
                "string",
                "only these",
                default=None,
                nullable=True,
                choices=("pending", "claimed", "approved", "denied", "consumed", "expired", "cancelled"),
            ),
            Field("limit", "integer", "rendezvous a page", default=100, minimum=1, maximum=1000),
            Field(
                "after",
                "string",
                "begin after this place",
                default=None,
                nullable=True,
                pattern=r"(0|[1-9][0-9]{0,15})-[0-9a-f]{32}",
                rule="`next` of the page before",
            ),
        ),
    ),
    Route(
        "POST",
        "/v1/node/stop",
        "operator",
        "stop",
        "Stopping",
        "Hand leadership over, then stop the node",
        body=(Field("force", "boolean", "even if it ends a cluster that lives in memory", default=False),),
        write=True,
    ),
    Route("GET", "/v1/pki", "viewer", "pki_status", "PkiStatus", "The CAs, and who is under which"),
    Route(
        "POST",
        "/v1/pki/rotate",
        "operator",
        "pki_rotate",
        "PkiRotation",
        "Begin to exchange the CA, or take a beginning back",
        body=(
            Field(
                "overlap_s",
                "integer",
                "seconds for which certificates come from the old CA at least",
                default=604_800,
                minimum=0,
                maximum=_MAX_LIFE_S,
            ),
            Field("dry_run", "boolean", "only say what would be", default=False),
            Field("abandon", "boolean", "take back one that not all members trust yet", default=False),
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/pki/grant",
        "operator",
        "pki_grant",
        "CertificateGrant",
        "Renew the certificate of a member that cannot reach the cluster",
        body=(
            Field(
                "request",
                "string",
                "the text of the request file that `node renew --request` wrote",
                pattern=r"[\n\r -~]{1,65536}",
                rule="text of at most 64 KiB",
            ),
        ),
        write=True,
    ),
    Route("GET", "/v1/openapi.json", "none", "openapi", "OpenAPI", "This document"),
)

# Templates have one of three shapes, so a lookup is one or two dictionary accesses:
# /v1/X[/Y] exact, /v1/X/{name}, /v1/X/{name}/Y.
_EXACT: dict[tuple[str, str], Route] = {}
_NAMED: dict[tuple[str, str, str], Route] = {}
_BY_OPERATION: dict[str, Route] = {}

for _route in ROUTES:
    _parts = _route.template.split("/")
    _BY_OPERATION[_route.operation] = _route
    if _route.has_name:
        _NAMED[(_route.method, _parts[2], _parts[4] if len(_parts) == 5 else "")] = _route
    else:
        _EXACT[(_route.method, _route.template)] = _route

_name_matches = re.compile(NAME_PATTERN).fullmatch


def match(method: str, path: str) -> tuple[Route, str] | None:
    """The route of a raw path and the name in it ("" for none), or None.

    The name is not checked here: see check_name.
    """
    route = _EXACT.get((method, path))
    if route is not None:
        return route, ""
    parts = path.split("/", 5)
    count = len(parts)
    if parts[0] or count < 4 or count > 5 or parts[1] != "v1":
        return None
    if count == 5 and not parts[4]:
        return None  # /v1/counters/x/ is not /v1/counters/x
    route = _NAMED.get((method, parts[2], parts[4] if count == 5 else ""))
    return None if route is None else (route, parts[3])


def shown_path(raw_path: str) -> str:
    """A path as logs may hold it: without its query, and without the id or code of a rendezvous."""
    path = raw_path.partition("?")[0]
    if path.startswith("/v1/rendezvous/") and ("POST", path) not in _EXACT:
        path = "/v1/rendezvous/(hidden)"
    return clean_text(path, 200)


def allowed_methods(path: str) -> list[str]:
    """The methods of a path, empty when there is no such path."""
    return [method for method in ("GET", "POST") if match(method, path) is not None]


def check_name(text: str, what: str = "name") -> str:
    """`text`, when it is a name; raises InvalidInput that shows the rule."""
    if _name_matches(text) is None:
        raise InvalidInput(f"{what} {clean_text(text, 80)!r} is not valid: use {NAME_RULE}")
    return text


def path_for(operation: str, name: str = "") -> tuple[Route, str]:
    """The route of an operation and its path for a name.  Raises InvalidInput for a bad name."""
    route = _BY_OPERATION[operation]
    if not route.has_name:
        return route, route.template
    return route, route.template.replace("{name}", check_name(name, route.what))


def route_errors(route: Route) -> list[type[CyoloctlError]]:
    """The errors that a route may answer with, one class a line of the OpenAPI document."""
    found: list[type[CyoloctlError]] = [InvalidInput, InternalError]
    if route.role != "none":
        found.append(AccessDenied)
    if route.body:
        found.append(BodyTooLarge)
    if route.has_name or route.operation == "transfer_leadership":
        found.append(NotFound)
    if route.operation in ("counter_increment", "counter_decrement"):
        found.append(CounterOverflow)
    if route.operation == "join":
        found.append(InvitationRejected)
    if "token" in route.body_fields:
        found.append(TokenRejected)
    if route.operation in ("rendezvous_claim", "rendezvous_approve", "rendezvous_deny"):
        found += [NotFound, Expired, SlowDown]
    if route.operation in ("rendezvous_cancel", "rendezvous_wait"):
        found += [NotFound, Expired]
    if route.operation in ("rendezvous_claim", "rendezvous_approve"):
        found.append(ApprovalRefused)
    if route.operation == "rendezvous_wait":
        found += [AuthorizationPending, Denied]
    if route.operation not in ("health", "openapi"):
        found += [Unavailable, StorageError]
    if route.write:
        found += [Conflict, OutcomeUnknown, VersionMismatch]
    return sorted(found, key=lambda cls: (cls.http_status, cls.code))


# --- OpenAPI ------------------------------------------------------------------------------------


def _object(description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "required": ["schema_version", *properties],
        "properties": {"schema_version": {"const": SCHEMA_VERSION}, **properties},
    }


def _schemas() -> dict[str, dict[str, Any]]:
    text: dict[str, Any] = {"type": "string"}
    flag: dict[str, Any] = {"type": "boolean"}
    count: dict[str, Any] = {"type": "integer", "minimum": 0}
    name: dict[str, Any] = {"type": "string", "pattern": f"^(?:{NAME_PATTERN})$"}
    time: dict[str, Any] = {"type": "string", "format": "date-time"}

    def maybe(schema: dict[str, Any]) -> dict[str, Any]:
        return {**schema, "type": [schema["type"], "null"]}

    counter = {
        "name": name,
        "value": {"type": "integer", "format": "int64"},
        "value_string": {"type": "string", "pattern": "^-?[0-9]{1,19}$"},
        "index": count,
    }
    member = {
        "name": name,
        "role": {"enum": ["leader", "follower", "candidate", "learner"]},
        "address": text,
        "reachable": flag,
        "term": maybe(count),
        "commit_index": maybe(count),
        "applied_index": maybe(count),
        "lag": maybe(count),
        "uptime_s": maybe({"type": "number"}),
        "version": maybe(text),
        "storage": {"enum": ["disk", "memory", None]},
        "fsync_p99_ms": maybe({"type": "number"}),
        "certificate_expires_at": maybe(time),
        "clock_skew_ms": maybe({"type": "number"}),
    }
    policy = {
        "kind": name,
        "require": {"type": "object", "additionalProperties": {"type": ["boolean", "integer", "string"]}},
        "allow_self": flag,
    }
    problem = {"code": text, "member": maybe(text), "message": text, "command": maybe(text)}
    rendezvous = {
        "id": text,
        "kind": name,
        "state": {"enum": ["pending", "claimed", "approved", "denied", "consumed", "expired", "cancelled"]},
        "node": name,
        "initiator": text,
        "origin": maybe(text),
        "data": {"type": "object"},
        "claimed_by": maybe(text),
        "sealed": flag,
        "failed_attempts": count,
        "created_at": time,
        "expires_at": time,
        "changed_at": time,
    }
    in_list = {"type": "object", "required": list(member), "properties": member}
    session = {
        "sub": text,
        "sid": text,
        "gen": count,
        "issued_at": time,
        "expires_at": time,
        "max_expires_at": time,
        "key_id": text,
        "claims": {"type": "object"},
    }
    revocation = {
        "kind": {"enum": ["sid", "sub"]},
        "value": text,
        "minimum_gen": maybe(count),
        "issued_before": maybe(time),
        "expires_at": time,
    }
    credential = {
        "name": name,
        "role": {"enum": ["viewer", "gateway", "operator", "node"]},
        "key_hash": maybe({"type": "string", "pattern": "^[0-9a-f]{64}$"}),
        "created_at": maybe(time),
        "created_by": maybe(text),
        "expires_at": maybe(time),
        "revoked_at": maybe(time),
    }
    key = {
        "key_id": text,
        "state": {"enum": ["pending", "primary", "enabled", "disabled", "destroyed"]},
        "cluster_id": text,
        "fingerprint": text,
        "created_at": time,
        "promoted_at": maybe(time),
        "retired_at": maybe(time),
        "holders": {"type": "array", "items": name},
        "missing": {"type": "array", "items": name},
        "compromised_by": {"type": "array", "items": name},
    }
    return {
        "Error": _object(
            "Any refusal or failure; `cyoloctl help exit-codes` lists the codes",
            error={
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": text, "message": text},
            },
        ),
        "Health": _object("The node's own health"),
        "Status": _object(
            "What the asked node knows",
            cluster={
                "type": "object",
                "properties": {
                    "name": name,
                    "id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
                    "leader": maybe(name),
                    "term": count,
                    "voters": count,
                    "learners": count,
                    "quorum": count,
                    "failure_tolerance": {"type": "integer"},
                    "healthy": flag,
                    "commit_index": count,
                    "storage": {"enum": ["disk", "memory"]},
                    "time": maybe(time),
                    "time_ahead_s": maybe({"type": "number"}),
                },
            },
            members={"type": "array", "items": in_list},
            problems={"type": "array", "items": {"type": "object", "properties": problem}},
        ),
        "TimeSet": _object(
            "How cluster time was, or would be, set",
            dry_run=flag,
            **{"from": time},
            to=time,
            moves_s={"type": "number"},
            epoch=count,
            affected={"type": "object", "additionalProperties": count},
        ),
        "MemberList": _object("Every member", members={"type": "array", "items": in_list}),
        "Member": _object("One member", **member),
        "Invitation": _object(
            "A join token; it is a secret. replaced: an older one for this name admits nobody any more",
            token=text,
            name=name,
            learner=flag,
            expires_at=time,
            replaced=flag,
        ),
        "InvitationList": _object(
            "Who is invited",
            invitations={
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "learner", "created_at", "expires_at", "state"],
                    "properties": {
                        "name": name,
                        "learner": flag,
                        "created_at": maybe(time),
                        "expires_at": time,
                        "state": {"enum": ["open", "used", "expired", "outdated"]},
                    },
                },
            },
        ),
        "Uninvited": _object("An invitation that was withdrawn", name=name, uninvited=flag),
        "Authorities": _object(
            "Certificates of the cluster's authorities, in PEM",
            cluster_id=text,
            certificates={"type": "array", "items": text},
        ),
        "Grant": _object("What a node needs to be a member, sealed where it is secret"),
        "Removal": _object(
            "What was, or would be, removed",
            name=name,
            removed=flag,
            dry_run=flag,
            failure_tolerance_before={"type": "integer"},
            failure_tolerance_after={"type": "integer"},
            ca_rotation_due=flag,
        ),
        "CertificateGrant": _object(
            "A renewed certificate for one member; no secret",
            kind=text,
            cluster_id=text,
            name=name,
            ca_sha256=text,
            certificate_pem=text,
        ),
        "PkiStatus": _object(
            "The CAs, who holds their keys, whose certificates are under which",
            authorities={"type": "array", "items": {"type": "object"}},
            members={"type": "array", "items": {"type": "object"}},
            rotation=maybe({"type": "object"}),
            rotation_due=flag,
            reasons={"type": "array", "items": text},
            certificate_days=count,
            credentials_to_renew={"type": "array", "items": text},
        ),
        "PkiRotation": _object(
            "A rotation of the CA that has begun, or would",
            dry_run=flag,
            sha256=maybe(text),
            overlap_s=count,
            members={"type": "array", "items": name},
            away={"type": "array", "items": name},
            credentials_to_renew={"type": "array", "items": text},
        ),
        "Leadership": _object("Who leads now", leader=maybe(name), previous=maybe(name)),
        "Counter": _object("A counter", **counter),
        "CounterWritten": _object(
            "A counter after the write; the same for every repetition of the request id",
            **counter,
            request_id={"type": "string", "pattern": f"^{REQUEST_ID_PATTERN}$"},
        ),
        "CounterList": _object(
            "A page of counters",
            counters={
                "type": "array",
                "items": {"type": "object", "required": list(counter), "properties": counter},
            },
            next=maybe(name),
        ),
        "Token": _object(
            "A session; `token` and `set_cookie` where one was made",
            valid={"const": True},
            **session,
        ),
        "TokenBatch": _object(
            "A result an item, in order: a session with its token, or `valid` false with a `code`",
            results={"type": "array", "items": {"type": "object"}},
        ),
        "Revocation": _object("What is refused from now on", **revocation),
        "RevocationList": _object(
            "A page of revocations",
            revocations={
                "type": "array",
                "items": {"type": "object", "required": list(revocation), "properties": revocation},
            },
            next=maybe(text),
        ),
        "Key": _object("A token key, without its material", **key),
        "KeyList": _object(
            "Every token key",
            keys={"type": "array", "items": {"type": "object", "required": list(key), "properties": key}},
        ),
        "KeyStatus": _object(
            "Who holds which key",
            agreed=flag,
            primary=maybe(text),
            problems={"type": "array", "items": text},
            members={"type": "array", "items": {"type": "object"}},
            keys={"type": "array", "items": {"type": "object", "required": list(key), "properties": key}},
        ),
        "KeyPolicy": _object(
            "When keys are replaced and how long replaced ones are kept",
            rotate_every_s=maybe(count),
            keep_s=count,
        ),
        "KeyExport": _object("A sealed key ring", data=text, keys=count),
        "KeyIdentity": _object(
            "What another cluster needs to seal a ring to this node", identity=text, ca_sha256=text
        ),
        "Credential": _object("Whose key counts, as what and until when", **credential),
        "CredentialList": _object(
            "Every key that counts or counted",
            credentials={
                "type": "array",
                "items": {"type": "object", "required": list(credential), "properties": credential},
            },
        ),
        "CredentialIssued": _object(
            "A credentials file without the private key, and the entry of the register",
            **credential,
            cluster_id={"type": "string", "pattern": "^[0-9a-f]{32}$"},
            ca_pem=text,
            certificate_pem=text,
            members={"type": "object", "additionalProperties": text},
        ),
        "MemberHost": _object("A member and its host identifier", name=name, host=maybe(text)),
        "RouteList": _object(
            "Members and host names",
            backends={"type": "array", "items": {"type": "object"}},
            shared_hosts={"type": "array", "items": text},
            index=count,
        ),
        "SharedHost": _object("A host name that any member serves", host=text, shared=flag),
        "RendezvousStarted": _object(
            "What the initiator keeps (id) and shows (user code and link); words of RFC 8628",
            id=text,
            user_code=text,
            verification_uri=maybe(text),
            verification_uri_complete=maybe(text),
            expires_in=count,
            interval=count,
            node=name,
        ),
        "Redeemed": _object(
            "The answer: `data`, or `sealed_result` when the initiator gave a key",
            id=text,
            state={"const": "consumed"},
            kind=name,
            approved_by=maybe(text),
            data=maybe({"type": "object"}),
            sealed_result=maybe(text),
            node=name,
        ),
        "Rendezvous": _object("A rendezvous", **rendezvous),
        "RendezvousList": _object(
            "A page of rendezvous",
            rendezvous={
                "type": "array",
                "items": {"type": "object", "required": list(rendezvous), "properties": rendezvous},
            },
            next=maybe(text),
        ),
        "RendezvousPolicy": _object("Who may approve what a kind is for", **policy),
        "RendezvousPolicies": _object(
            "Every policy that is not the default",
            policies={
                "type": "array",
                "items": {"type": "object", "required": list(policy), "properties": policy},
            },
        ),
        "Stopping": _object("The node is stopping", stopping=flag),
        "OpenAPI": {"type": "object", "description": "OpenAPI 3.1"},
    }


def _operation_object(route: Route) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = []
    if route.has_name:
        parameters.append(
            {
                "name": "name",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": f"^(?:{NAME_PATTERN})$"},
            }
        )
    parameters += [
        {"name": field.name, "in": "query", "required": field.default is REQUIRED, "schema": field.schema()}
        for field in route.query_fields.values()
    ]
    media = "application/x-ndjson" if route.stream else "application/json"
    reference = {"$ref": f"#/components/schemas/{route.response}"}
    responses: dict[str, Any] = {
        "200": {"description": route.summary, "content": {media: {"schema": reference}}}
    }
    by_status: dict[int, list[type[CyoloctlError]]] = {}
    for cls in route_errors(route):
        by_status.setdefault(cls.http_status, []).append(cls)
    for status, classes in by_status.items():
        responses[str(status)] = {
            "description": "; ".join(f"`{cls.api_code or cls.code}`: {cls.meaning}" for cls in classes),
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    result: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "x-role": route.role,
        "security": [] if route.role == "none" else [{"clientCertificate": []}],
        "parameters": parameters,
        "responses": responses,
    }
    if route.body:
        required = [field.name for field in route.body_fields.values() if field.default is REQUIRED]
        schema: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {field.name: field.schema() for field in route.body_fields.values()},
        }
        if required:
            schema["required"] = required
        result["requestBody"] = {
            "description": f"at most {route.max_body_bytes} bytes",
            "required": bool(required),
            "content": {"application/json": {"schema": schema}},
        }
    return result


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the table."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation_object(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cyoloctl control API",
            "version": "1",
            "description": "Every object has `schema_version` 1; a field is never renamed or removed within "
            "it. Over the unix socket the caller is an operator; over TLS the role is that of the client "
            "certificate's key in the register of credentials (`x-role` is the least one). A write that ends "
            "in `outcome_unknown` may or may not have been applied: repeat it with the same `request_id`.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"clientCertificate": {"type": "mutualTLS"}},
        },
    }


if __name__ == "__main__":
    print(json.dumps(openapi(), indent=2))
