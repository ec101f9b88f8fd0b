"""The API of locks: routes, answers, errors, and the operations behind them."""

from __future__ import annotations

from typing import Annotated, Protocol, TypedDict

from cyoloctl.web.schema import CONSISTENCY, REQUEST_ID, Count, Field, Route, Shape, Time

__all__ = [
    "NAME_PATTERN",
    "NAME_RULE",
    "ROUTES",
    "HasLocks",
    "Lock",
    "LockAcquired",
    "LockApi",
    "LockBroken",
    "LockList",
    "LockReleased",
]

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
NAME_RULE = "1 to 128 of a-z, A-Z, 0-9, '.', '_' and '-', beginning with a letter or digit"
_MAX_TOKEN = 2**63 - 1

LockName = Annotated[str, Shape(pattern=f"^(?:{NAME_PATTERN})$")]


class _Held(TypedDict):
    name: LockName
    token: Annotated[int, Shape(minimum=1)]
    owner: str
    by: str
    acquired_at: Time
    expires_at: Time


class Lock(_Held):
    """A lock that is held: its fencing token, by whom, and until when if the holder does not keep it"""

    index: Count
    epoch: Count


class LockAcquired(Lock):
    """The lock of the caller, or with `acquired` false of whoever has it"""

    acquired: bool


class LockReleased(TypedDict):
    """Whether the token held the lock, which is free of it now"""

    name: LockName
    released: bool
    index: Count
    epoch: Count


class LockBroken(Lock):
    """The lock that was taken away from its holder"""

    request_id: Annotated[str, Shape(pattern=f"^{REQUEST_ID.pattern}$")]


class LockList(TypedDict):
    """A page of locks that are held"""

    locks: list[Lock]
    next: LockName | None


class LockApi(Protocol):
    """Operations of a node for callers of this API."""

    async def acquire(
        self, name: str, *, holder: str, owner: str, ttl_s: float, wait_s: float, timeout_s: float
    ) -> LockAcquired:
        """Acquire, or keep what this holder has already."""

    async def keep(self, name: str, *, token: int, ttl_s: float, timeout_s: float) -> Lock:
        """Move the end on.  Raises Conflict when that token does not hold it any more."""

    async def release(self, name: str, *, token: int, timeout_s: float) -> LockReleased:
        """Free the lock of that token."""

    async def break_(self, name: str, *, request_id: str | None, timeout_s: float) -> LockBroken:
        """Take the lock away from whoever has it.  Raises NotFound."""

    async def get(self, name: str, *, consistency: str, timeout_s: float) -> Lock:
        """Read.  Raises NotFound for a lock that is free."""

    async def list(self, *, after: str | None, limit: int, consistency: str, timeout_s: float) -> LockList:
        """A page."""


class HasLocks(Protocol):
    """A node that serves this API."""

    @property
    def locks(self) -> LockApi:
        """The operations."""


_TTL = Field(
    "ttl_s",
    "number",
    "seconds after which the lock is free if its holder does not keep it",
    default=15,
    minimum=1,
    maximum=86_400,
)
_TOKEN = Field("token", "integer", "the holder's fencing token", minimum=1, maximum=_MAX_TOKEN)
_ID = "0123456789abcdef0123456789abcdef"
_LOCK = {
    "name": "nightly-backup",
    "token": 4711,
    "owner": "app-1 812",
    "by": "ann",
    "acquired_at": "2026-11-23T19:29:28Z",
    "expires_at": "2026-11-23T19:29:43Z",
    "index": 4711,
    "epoch": 1,
}

ROUTES: tuple[Route[HasLocks], ...] = (
    Route(
        "POST",
        "/v1/locks/{name}/acquire",
        "operator",
        "lock_acquire",
        "Acquire a lock; the same holder gets the same token again, and the later end. "
        "Where somebody else has it until `wait_s` or the timeout is over, `acquired` is false",
        answer=LockAcquired,
        example=(
            {"holder": _ID, "owner": "app-1 812", "ttl_s": 15, "wait_s": 10},
            {"acquired": True, **_LOCK},
        ),
        handler=lambda node: node.locks.acquire,
        held=True,
        what="lock name",
        name_pattern=NAME_PATTERN,
        name_rule=NAME_RULE,
        body=(
            Field(
                "holder",
                "string",
                "what the asking process drew for itself, and keeps to itself",
                pattern="[0-9a-f]{32}",
                rule="32 hex digits",
            ),
            Field(
                "owner",
                "string",
                "the asking process in words, such as its host and number, for people",
                default="",
                pattern="[ -~]{0,128}",
                rule="up to 128 printable ASCII characters",
            ),
            _TTL,
            Field(
                "wait_s",
                "number",
                "seconds to wait for a lock that somebody has",
                default=0,
                minimum=0,
                maximum=300,
            ),
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/locks/{name}/keep",
        "operator",
        "lock_keep",
        "Keep a lock for so long from now; `conflict` when the token does not hold it any more",
        answer=Lock,
        handler=lambda node: node.locks.keep,
        what="lock name",
        name_pattern=NAME_PATTERN,
        name_rule=NAME_RULE,
        body=(_TOKEN, _TTL),
        write=True,
    ),
    Route(
        "POST",
        "/v1/locks/{name}/release",
        "operator",
        "lock_release",
        "Release a lock; `released` is false when the token did not hold it",
        answer=LockReleased,
        handler=lambda node: node.locks.release,
        what="lock name",
        name_pattern=NAME_PATTERN,
        name_rule=NAME_RULE,
        body=(_TOKEN,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/locks/{name}/break",
        "operator",
        "lock_break",
        "Take a lock away from whoever has it",
        answer=LockBroken,
        handler=lambda node: node.locks.break_,
        what="lock name",
        name_pattern=NAME_PATTERN,
        name_rule=NAME_RULE,
        body=(REQUEST_ID,),
        write=True,
    ),
    Route(
        "GET",
        "/v1/locks/{name}",
        "viewer",
        "lock_get",
        "Read a lock that is held",
        answer=Lock,
        handler=lambda node: node.locks.get,
        what="lock name",
        name_pattern=NAME_PATTERN,
        name_rule=NAME_RULE,
        query=(CONSISTENCY,),
    ),
    Route(
        "GET",
        "/v1/locks",
        "viewer",
        "lock_list",
        "List the locks that are held by name, in pages",
        answer=LockList,
        handler=lambda node: node.locks.list,
        query=(
            CONSISTENCY,
            Field("limit", "integer", "locks per page", default=100, minimum=1, maximum=1000),
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
)
