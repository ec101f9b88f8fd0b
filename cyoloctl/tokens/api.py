"""The API of the session tokens: routes, answers, errors, and the operations behind them."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, Protocol, TypedDict

from cyoloctl.errors import TokenRejected
from cyoloctl.text import Json
from cyoloctl.web.encoding import MAX_BODY_BYTES
from cyoloctl.web.schema import CONSISTENCY, MAX_LIFE_S, REQUEST_ID, Choice, Count, Field, Route, Time

__all__ = [
    "CONTEXT",
    "ITEMS",
    "MAX_BATCH",
    "ROUTES",
    "HasTokens",
    "Revocation",
    "RevocationList",
    "Token",
    "TokenApi",
    "TokenBatch",
    "TokenMade",
    "TokenRefused",
    "TokenResult",
]

#: Tokens in one batch.
MAX_BATCH = 1000


class Token(TypedDict):
    """A session"""

    valid: Literal[True]
    sub: str
    sid: str
    gen: Count
    issued_at: Time
    expires_at: Time
    max_expires_at: Time
    key_id: str
    claims: Json


class TokenMade(Token):
    """A session and its token; the cookie that carries it where `set_cookie` was true

    set_cookie is the whole header line, set_cookie_value the value of the header `Set-Cookie`.
    """

    token: str
    set_cookie: NotRequired[str]
    set_cookie_value: NotRequired[str]


class TokenResult(Token):
    """The result of an item: a session, and its token where one was made"""

    schema_version: Literal[1]
    token: NotRequired[str]


class TokenRefused(TypedDict):
    """The result of an item that was refused; of a rejected token nothing but that it is"""

    schema_version: Literal[1]
    valid: Literal[False]
    code: str
    message: NotRequired[str]


class TokenBatch(TypedDict):
    """One result per item, in order: a session with its token, or `valid` false with a `code`"""

    results: list[TokenResult | TokenRefused]


class Revocation(TypedDict):
    """A revocation: the tokens that are refused from now on"""

    kind: Literal["sid", "sub"]
    value: str
    minimum_gen: Count | None
    issued_before: Time | None
    expires_at: Time


class RevocationList(TypedDict):
    """A page of revocations"""

    revocations: list[Revocation]
    next: str | None


class TokenApi(Protocol):
    """Operations of a node for callers of this API."""

    async def mint(
        self,
        *,
        sub: str,
        claims: Json,
        ttl_s: int,
        max_age_s: int,
        cookie_name: str,
        audience: str,
        set_cookie: bool,
        timeout_s: float,
    ) -> Json:
        """A new session's token."""

    async def inspect(
        self,
        *,
        token: str | None,
        cookie: str | None,
        cookie_name: str,
        audience: str,
        require_quorum: bool,
        explain: bool,
        timeout_s: float,
    ) -> Json:
        """Open a token: its session.  Raises TokenRejected."""

    async def update(
        self,
        *,
        token: str | None,
        cookie: str | None,
        set: Json,
        unset: list[Any],
        keep_previous: bool,
        cookie_name: str,
        audience: str,
        set_cookie: bool,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Other claims.  Raises TokenRejected."""

    async def refresh(
        self,
        *,
        token: str | None,
        cookie: str | None,
        ttl_s: int,
        cookie_name: str,
        audience: str,
        require_quorum: bool,
        set_cookie: bool,
        timeout_s: float,
    ) -> Json:
        """A later end.  Raises TokenRejected."""

    async def batch(
        self,
        *,
        operation: str,
        items: list[Any],
        keep_previous: bool,
        cookie_name: str,
        audience: str,
        require_quorum: bool,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Many at once; refusals are among the results."""

    async def revoke(
        self,
        *,
        token: str | None,
        cookie: str | None,
        sid: str | None,
        sub: str | None,
        cookie_name: str,
        audience: str,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Refuse a session, or every session of a subject.  Raises TokenRejected."""

    async def revocations(self, *, limit: int, after: str | None, consistency: str, timeout_s: float) -> Json:
        """A page."""


class HasTokens(Protocol):
    """A node with the operations behind this API."""

    @property
    def tokens(self) -> TokenApi:
        """The operations."""


_TTL_S = Field(
    "ttl_s",
    "integer",
    "seconds until it expires when it is not refreshed",
    default=900,
    minimum=1,
    maximum=MAX_LIFE_S,
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
_TOKEN_OR_COOKIE = Choice("token", "cookie")
#: Where a token travels and for whom it is.
CONTEXT = (
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
_EXPLAIN = Field(
    "explain",
    "boolean",
    "say why a token is rejected",
    default=False,
    # It is for whoever administers the keys: to others it is an oracle.
    operators_only="why a token is rejected is told to operators only: leave out `explain`",
)
_SET_COOKIE = Field(
    "set_cookie",
    "boolean",
    "answer with the cookie too: `set_cookie` is the header line, `set_cookie_value` the header's value",
    default=False,
)
_SUB = Field(
    "sub",
    "string",
    "whose session it is",
    pattern=r"[^\x00-\x1f\x7f]{1,256}",
    rule="1 to 256 characters, no control characters",
)
_CLAIMS = Field("claims", "object", "what the session carries", default={})
_MAX_AGE_S = Field(
    "max_age_s",
    "integer",
    "seconds after which it ends however often it is refreshed",
    default=28_800,
    minimum=1,
    maximum=MAX_LIFE_S,
)
_SET = Field("set", "object", "claims to set", default={})
_UNSET = Field("unset", "array", "names of claims to remove", default=[], minimum=0, maximum=100, holds=str)
_ONE_TOKEN = Field("token", "string", "the token")
#: The fields of an item of a batch, by operation.
ITEMS: dict[str, tuple[Field, ...]] = {
    "mint": (_SUB, _CLAIMS, _TTL_S, _MAX_AGE_S),
    "inspect": (_ONE_TOKEN,),
    "update": (_ONE_TOKEN, _SET, _UNSET),
    "refresh": (_ONE_TOKEN, _TTL_S),
}


ROUTES: tuple[Route[HasTokens], ...] = (
    Route(
        "POST",
        "/v1/tokens/mint",
        "gateway",
        "token_mint",
        "Make a session token",
        answer=TokenMade,
        handler=lambda node: node.tokens.mint,
        body=(
            _SUB,
            _CLAIMS,
            _TTL_S,
            _MAX_AGE_S,
            *CONTEXT,
            _SET_COOKIE,
        ),
    ),
    Route(
        "POST",
        "/v1/tokens/inspect",
        "gateway",
        "token_inspect",
        "Open a token",
        answer=Token,
        handler=lambda node: node.tokens.inspect,
        body=(*_TOKEN, *CONTEXT, _REQUIRE_QUORUM, _EXPLAIN),
        choices=(_TOKEN_OR_COOKIE,),
        errors=(TokenRejected,),
    ),
    Route(
        "POST",
        "/v1/tokens/update",
        "gateway",
        "token_update",
        "Change the claims of a token: the older copies are refused on every node from then on",
        answer=TokenMade,
        handler=lambda node: node.tokens.update,
        body=(
            *_TOKEN,
            _SET,
            _UNSET,
            Field("keep_previous", "boolean", "let the older copies live", default=False),
            *CONTEXT,
            _SET_COOKIE,
            REQUEST_ID,
        ),
        choices=(_TOKEN_OR_COOKIE,),
        write=True,
        errors=(TokenRejected,),
    ),
    Route(
        "POST",
        "/v1/tokens/refresh",
        "gateway",
        "token_refresh",
        "Move the expiry of a token forward, under the primary key",
        answer=TokenMade,
        handler=lambda node: node.tokens.refresh,
        body=(*_TOKEN, _TTL_S, *CONTEXT, _REQUIRE_QUORUM, _SET_COOKIE),
        choices=(_TOKEN_OR_COOKIE,),
        errors=(TokenRejected,),
    ),
    Route(
        "POST",
        "/v1/tokens/batch",
        "gateway",
        "token_batch",
        "Mint, inspect, update or refresh many: one result an item, in order",
        answer=TokenBatch,
        handler=lambda node: node.tokens.batch,
        body=(
            Field("operation", "string", "what to do", choices=tuple(ITEMS)),
            Field(
                "items",
                "array",
                "the bodies of the single requests, without the context; a wrong one is refused in its place",
                minimum=1,
                maximum=MAX_BATCH,
                holds=tuple(ITEMS.values()),
            ),
            Field("keep_previous", "boolean", "of updates: let the older copies live", default=False),
            *CONTEXT,
            _REQUIRE_QUORUM,
            REQUEST_ID,
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
        "Revoke a session (token or sid), or every session of a subject issued before now",
        answer=Revocation,
        handler=lambda node: node.tokens.revoke,
        body=(
            *_TOKEN,
            Field(
                "sid",
                "string",
                "the session",
                default=None,
                nullable=True,
                pattern=r"[A-Za-z0-9_-]{21}[AQgw]",
                rule="the 22 characters of a sid",
            ),
            Field("sub", "string", "the subject", default=None, nullable=True),
            *CONTEXT,
            REQUEST_ID,
        ),
        choices=(Choice("token", "cookie", "sid", "sub"),),
        write=True,
        errors=(TokenRejected,),
    ),
    Route(
        "GET",
        "/v1/tokens/revocations",
        "viewer",
        "token_revocations",
        "List revocations, in pages",
        answer=RevocationList,
        handler=lambda node: node.tokens.revocations,
        query=(
            CONSISTENCY,
            Field("limit", "integer", "revocations per page", default=100, minimum=1, maximum=1000),
            Field("after", "string", "`next` of the page before", default=None, nullable=True),
        ),
    ),
)
