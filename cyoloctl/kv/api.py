"""The API of keys and values: routes, answers, errors, and the operations behind them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, Protocol, TypedDict

from cyoloctl.errors import (
    AlreadyExists,
    Compacted,
    Conflict,
    FenceLost,
    InvalidInput,
    KeyMissing,
    NotFound,
    QuotaExceeded,
    Unprocessable,
)
from cyoloctl.web.schema import (
    CONSISTENCY,
    MAX_LIFE_S,
    REQUEST_ID,
    REQUEST_ID_PATTERN,
    Choice,
    Count,
    Field,
    Route,
    Shape,
    Time,
)

if TYPE_CHECKING:
    from cyoloctl.replicated.proposer import Planned

__all__ = [
    "FENCE_RULE",
    "MAX_PAGE",
    "MAX_VALUE_BYTES",
    "ROUTES",
    "HasKv",
    "KvApi",
    "KvChange",
    "KvChanges",
    "KvDeleted",
    "KvEntry",
    "KvKept",
    "KvListed",
    "KvPage",
    "KvPrefixDeleted",
    "KvTransaction",
    "KvWritten",
    "check_key",
    "check_prefix",
    "fence_of",
]

MAX_PAGE = 1000
MAX_VALUE_BYTES = 256 * 1024
KEY_RULE = "1 to 512 bytes of UTF-8 without control characters"
FENCE_RULE = "NAME=TOKEN, the name of a lock and the token with which it is held"
_MAX_BODY_BYTES = 480 * 1024
_LAST_REVISION = 2**63 - 1

# kv.records has the same, and imports base64 and more, which few commands need.  A test holds the two equal.
_KEY = re.compile("[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_TEXT = "[^\\x00-\\x1f\\x7f-\\x9f\u2028\u2029]"
_FENCE_TEXT = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}=[1-9][0-9]{0,17}"

Revision = Annotated[int, Shape(minimum=0, format="int64")]
Base64 = Annotated[str, Shape(contentEncoding="base64")]


class KvListed(TypedDict):
    """A key; value: where its bytes are UTF-8; sealed: no disk holds them"""

    key: str
    sealed: bool
    value_base64: NotRequired[Base64]
    value: NotRequired[str]
    size: Count
    revision: Revision
    created_revision: Revision
    version: Revision
    expires_at: Time | None


class KvEntry(KvListed):
    """A key with its value"""

    index: Count
    epoch: Count


class KvWritten(KvEntry):
    """A key after the write; the same for every repetition of the request id"""

    request_id: Annotated[str, Shape(pattern=f"^{REQUEST_ID_PATTERN}$")]


class KvDeleted(TypedDict):
    """What a deletion did; revision: that of the change"""

    key: str
    revision: Revision
    index: Count
    epoch: Count
    request_id: str


class KvPrefixDeleted(TypedDict):
    """How many keys of a prefix one request deleted; more: there are others, repeat it under another id"""

    prefix: str
    deleted: Count
    more: bool
    revision: Revision
    index: Count
    epoch: Count
    request_id: str


class KvResult(TypedDict):
    """What one change of a transaction did"""

    op: Literal["put", "delete"]
    key: str
    deleted: NotRequired[bool]
    version: NotRequired[Revision]
    created_revision: NotRequired[Revision]
    expires_at: NotRequired[Time | None]


class KvTransaction(TypedDict):
    """What a transaction did: `then` where it succeeded, `otherwise` where a comparison was false"""

    succeeded: bool
    revision: Revision
    results: list[KvResult]
    index: Count
    epoch: Count
    request_id: str


class KvKept(TypedDict):
    """A key that expires, with its new end"""

    key: str
    revision: Revision
    expires_at: Time
    index: Count
    epoch: Count
    request_id: str


class KvPage(TypedDict):
    """A page of keys at one revision; next: the last key, if there are more"""

    entries: list[KvListed]
    next: str | None
    revision: Revision
    index: Count
    epoch: Count


class KvChange(TypedDict):
    """A change of a key; what describes a value is there where there is one after it"""

    type: Literal["put", "delete", "expire"]
    key: str
    revision: Revision
    sealed: NotRequired[bool]
    value_base64: NotRequired[Base64]
    value: NotRequired[str]
    size: NotRequired[Count]
    created_revision: NotRequired[Revision]
    version: NotRequired[Revision]
    expires_at: NotRequired[Time | None]


class KvChanges(TypedDict):
    """Changes by ascending revision; next_revision: where to go on"""

    changes: list[KvChange]
    next_revision: Revision
    index: Count
    epoch: Count


class KvApi(Protocol):
    """Operations of a node for callers of this API."""

    async def get(self, *, key: str, at_revision: int | None, consistency: str, timeout_s: float) -> KvEntry:
        """Read.  Raises NotFound, Compacted, Conflict for a revision to come, KeyMissing."""

    async def page(
        self,
        *,
        prefix: str,
        after: str | None,
        limit: int,
        values: str,
        at_revision: int | None,
        consistency: str,
        timeout_s: float,
    ) -> KvPage:
        """A page.  Raises Compacted, Conflict for a revision to come, KeyMissing."""

    async def changes(self, *, prefix: str, from_revision: int | None, timeout_s: float) -> KvChanges:
        """Changes of a revision and later, or none after timeout_s.  Raises Compacted, KeyMissing."""

    async def put(
        self,
        *,
        key: str,
        value: str | None,
        value_base64: str | None,
        if_revision: int | None,
        ttl_s: float | None,
        fence: str | None,
        sealed: bool | None,
        request_id: str | None,
        timeout_s: float,
    ) -> KvWritten:
        """Write.  Raises Conflict, AlreadyExists, QuotaExceeded, FenceLost."""

    def plan_put(
        self,
        *,
        key: str,
        value: str | None,
        value_base64: str | None,
        if_revision: int | None,
        ttl_s: float | None,
        fence: str | None,
        sealed: bool | None,
    ) -> Planned | None:
        """`put` as a write to be carried out with others; None where only `put` can.  Raises InvalidInput."""

    async def delete(
        self,
        *,
        key: str,
        if_revision: int | None,
        fence: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> KvDeleted:
        """Raises NotFound, Conflict, FenceLost."""

    def plan_delete(self, *, key: str, if_revision: int | None, fence: str | None) -> Planned:
        """`delete` as a write to be carried out with others.  Raises InvalidInput."""

    async def delete_prefix(
        self, *, prefix: str, request_id: str | None, timeout_s: float
    ) -> KvPrefixDeleted:
        """The first 1,000 keys of a prefix."""

    async def txn(
        self,
        *,
        compare: list[Any],
        then: list[Any],
        otherwise: list[Any],
        fence: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> KvTransaction:
        """Raises InvalidInput naming the item, QuotaExceeded, FenceLost."""

    def plan_txn(
        self, *, compare: list[Any], then: list[Any], otherwise: list[Any], fence: str | None
    ) -> Planned | None:
        """`txn` as a write to be carried out with others; None where only `txn` can.  Raises InvalidInput."""

    async def keep(
        self,
        *,
        key: str,
        created_revision: int | None,
        ttl_s: float,
        request_id: str | None,
        timeout_s: float,
    ) -> KvKept:
        """A new end for a key that expires.  Raises NotFound, Conflict."""


class HasKv(Protocol):
    """A node that serves this API."""

    @property
    def kv(self) -> KvApi:
        """The operations."""


def check_key(text: str) -> None:
    """Raise InvalidInput unless this is a key; Unprocessable for one of too many bytes."""
    if _KEY.fullmatch(text) is None:
        raise InvalidInput(f"the key is not valid: use {KEY_RULE}")
    if (size := len(text.encode())) > 512:
        raise Unprocessable(f"the key has {size} bytes: use {KEY_RULE}")


def check_prefix(text: str) -> None:
    """Raise InvalidInput unless keys can begin with this."""
    if text:
        check_key(text)


def fence_of(text: str) -> tuple[str, int]:
    """Name and token of NAME=TOKEN.  Raises InvalidInput."""
    if re.fullmatch(_FENCE_TEXT, text, re.ASCII) is None:
        raise InvalidInput(f"the fence is not valid: use {FENCE_RULE}")
    name, _, token = text.partition("=")
    return name, int(token)


def _key(summary: str = "the key") -> Field:
    return Field("key", "string", summary, minimum=1, maximum=512, pattern=f"{_TEXT}{{1,512}}", rule=KEY_RULE)


def _prefix() -> Field:
    return Field(
        "prefix",
        "string",
        "keys that begin with this; empty: all",
        default="",
        minimum=0,
        maximum=512,
        pattern=f"{_TEXT}{{0,512}}",
        rule="at most 512 bytes of UTF-8 without control characters",
    )


def _revision(name: str, summary: str) -> Field:
    return Field(name, "integer", summary, default=None, nullable=True, minimum=0, maximum=_LAST_REVISION)


_IF_REVISION = _revision("if_revision", "only if the key is at this revision; 0: only if it is not there")
_AT_REVISION = _revision("at_revision", "as it was at this revision, if that is recent; null: as it is")
_FENCED = Field(
    "fence",
    "string",
    "only while this lock is held",
    default=None,
    nullable=True,
    minimum=3,
    maximum=147,
    pattern=_FENCE_TEXT,
    rule=FENCE_RULE,
)
_VALUE = Field(
    "value", "string", "the value, as text", default=None, nullable=True, minimum=0, maximum=MAX_VALUE_BYTES,
    rule="at most 256 KiB",
)  # fmt: skip
_VALUE_BASE64 = Field(
    "value_base64",
    "string",
    "the value's bytes",
    default=None,
    nullable=True,
    minimum=0,
    maximum=-(-MAX_VALUE_BYTES // 3) * 4,
    pattern="([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
    service_checks_pattern=True,
    rule="at most 256 KiB, in base64",
)


def _one_of(name: str, *choices: str) -> Field:
    return Field(name, "string", "which", choices=choices)


def _op(*choices: str) -> Field:
    return Field("op", "string", "how it compares", choices=choices, default="=")


def _whole(kind: str, **more: Any) -> Field:
    return Field("value", kind, "what it is compared with", **more)


def _given(field: Field) -> Field:
    """A field of a value, without which the object is another one."""
    return Field(
        field.name,
        field.kind,
        field.summary,
        minimum=field.minimum,
        maximum=field.maximum,
        pattern=field.pattern,
        rule=field.rule,
    )


_TTL_S = Field(
    "ttl_s",
    "number",
    "seconds after which the key expires; null: never",
    default=None,
    nullable=True,
    minimum=1,
    maximum=MAX_LIFE_S,
)
_SEALED = Field(
    "sealed",
    "boolean",
    "true: no disk is to hold the value; false: it may; null: it may, unless the present value is sealed",
    default=None,
    nullable=True,
)
_COMPARISONS = (
    (_key(), _one_of("target", "exists"), _op("="), _whole("boolean")),
    (_key(), _one_of("target", "value"), _op("=", "!="), _given(_VALUE)),
    (_key(), _one_of("target", "value"), _op("=", "!="), _given(_VALUE_BASE64)),
    (
        _key(),
        _one_of("target", "revision", "created_revision", "version"),
        _op("=", "!=", "<", ">"),
        _whole("integer", minimum=0, maximum=_LAST_REVISION),
    ),
)
_STEPS = (
    (_one_of("op", "put"), _key(), _given(_VALUE), _TTL_S, _SEALED),
    (_one_of("op", "put"), _key(), _given(_VALUE_BASE64), _TTL_S, _SEALED),
    (_one_of("op", "delete"), _key()),
)


def _list_of(name: str, summary: str, holds: tuple[tuple[Field, ...], ...]) -> Field:
    return Field(name, "array", summary, default=[], minimum=0, maximum=64, holds=holds)


ROUTES: tuple[Route[HasKv], ...] = (
    Route(
        "GET",
        "/v1/kv",
        "viewer",
        "kv_get",
        "Read a key",
        answer=KvEntry,
        handler=lambda node: node.kv.get,
        query=(_key(), _AT_REVISION, CONSISTENCY),
        errors=(NotFound, Conflict, Compacted, KeyMissing, Unprocessable),
    ),
    Route(
        "GET",
        "/v1/kv/list",
        "viewer",
        "kv_list",
        "List keys in order, in pages of at most 768 KiB of values",
        answer=KvPage,
        handler=lambda node: node.kv.page,
        query=(
            _prefix(),
            Field(
                "after",
                "string",
                "begin after this key (`next` of the page before)",
                default=None,
                nullable=True,
                minimum=1,
                maximum=512,
                pattern=f"{_TEXT}{{1,512}}",
                rule=KEY_RULE,
            ),
            Field("limit", "integer", "keys per page", default=100, minimum=1, maximum=MAX_PAGE),
            Field(
                "values",
                "string",
                "whether the values are wanted too",
                default="with",
                choices=("with", "without"),
            ),
            _AT_REVISION,
            CONSISTENCY,
        ),
        errors=(Conflict, Compacted, KeyMissing, Unprocessable),
    ),
    Route(
        "GET",
        "/v1/kv/changes",
        "viewer",
        "kv_changes",
        "Follow keys: wait up to `timeout_s` for changes, then go on with `next_revision`; "
        "nothing is missed, and nothing comes twice",
        answer=KvChanges,
        handler=lambda node: node.kv.changes,
        query=(
            _prefix(),
            _revision("from_revision", "the first revision that is wanted; null: what changes from now on"),
        ),
        errors=(Compacted, KeyMissing, Unprocessable),
        held=True,
    ),
    Route(
        "POST",
        "/v1/kv/put",
        "operator",
        "kv_put",
        "Give a key a value",
        answer=KvWritten,
        handler=lambda node: node.kv.put,
        plan=lambda node: node.kv.plan_put,
        body=(
            _key(),
            _VALUE,
            _VALUE_BASE64,
            _IF_REVISION,
            _TTL_S,
            _FENCED,
            _SEALED,
            REQUEST_ID,
        ),
        choices=(Choice("value", "value_base64"),),
        errors=(AlreadyExists, QuotaExceeded, FenceLost, Unprocessable),
        write=True,
        max_body_bytes=_MAX_BODY_BYTES,
    ),
    Route(
        "POST",
        "/v1/kv/delete",
        "operator",
        "kv_delete",
        "Delete a key",
        answer=KvDeleted,
        handler=lambda node: node.kv.delete,
        plan=lambda node: node.kv.plan_delete,
        body=(_key(), _IF_REVISION, _FENCED, REQUEST_ID),
        errors=(NotFound, FenceLost, Unprocessable),
        write=True,
    ),
    Route(
        "POST",
        "/v1/kv/delete-prefix",
        "operator",
        "kv_delete_prefix",
        "Delete the first 1,000 keys of a prefix",
        answer=KvPrefixDeleted,
        handler=lambda node: node.kv.delete_prefix,
        body=(_prefix(), REQUEST_ID),
        errors=(Unprocessable,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/kv/txn",
        "operator",
        "kv_txn",
        "Compare, then change keys: all at one revision, or nothing",
        answer=KvTransaction,
        handler=lambda node: node.kv.txn,
        plan=lambda node: node.kv.plan_txn,
        body=(
            _list_of("compare", "what must hold, all of it", _COMPARISONS),
            _list_of("then", "changes where it does, of no key twice", _STEPS),
            _list_of("otherwise", "changes where it does not, of no key twice", _STEPS),
            _FENCED,
            REQUEST_ID,
        ),
        example=(
            {
                "compare": [{"key": "jobs/7", "target": "version", "op": "=", "value": 3}],
                "then": [
                    {"op": "put", "key": "jobs/7", "value": "done"},
                    {"op": "delete", "key": "queue/7"},
                ],
                "otherwise": [],
            },
            {
                "succeeded": True,
                "revision": 812,
                "results": [
                    {"op": "put", "key": "jobs/7", "version": 4, "created_revision": 640, "expires_at": None},
                    {"op": "delete", "key": "queue/7", "deleted": True},
                ],
                "index": 812,
                "epoch": 1,
                "request_id": "job-7-done",
            },
        ),
        errors=(QuotaExceeded, FenceLost, Unprocessable),
        write=True,
        max_body_bytes=_MAX_BODY_BYTES,
    ),
    Route(
        "POST",
        "/v1/kv/keep",
        "operator",
        "kv_keep",
        "Give a key that expires a later end, without changing it",
        answer=KvKept,
        handler=lambda node: node.kv.keep,
        body=(
            _key(),
            _revision("created_revision", "that of the key which is meant; null: whatever is there"),
            Field("ttl_s", "number", "seconds from now", minimum=1, maximum=MAX_LIFE_S),
            REQUEST_ID,
        ),
        errors=(NotFound, Unprocessable),
        write=True,
    ),
)
