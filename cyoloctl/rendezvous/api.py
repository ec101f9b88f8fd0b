"""The API of the rendezvous: routes, answers, errors, and the operations behind them."""

from __future__ import annotations

from typing import Literal, Protocol, TypedDict

from cyoloctl.errors import (
    ApprovalRefused,
    AuthorizationPending,
    Denied,
    Expired,
    NotFound,
    SlowDown,
    TokenRejected,
)
from cyoloctl.text import Json
from cyoloctl.tokens.api import CONTEXT
from cyoloctl.web.schema import (
    CONSISTENCY,
    NAME_PATTERN,
    NAME_RULE,
    REQUEST_ID,
    Choice,
    Count,
    Field,
    Name,
    Route,
    Time,
)

__all__ = [
    "ROUTES",
    "HasRendezvous",
    "Redeemed",
    "Rendezvous",
    "RendezvousApi",
    "RendezvousList",
    "RendezvousPolicies",
    "RendezvousPolicy",
    "RendezvousStarted",
]


class RendezvousStarted(TypedDict):
    """A started rendezvous: the initiator keeps the id, and shows user code and link; words of RFC 8628"""

    id: str
    user_code: str
    verification_uri: str | None
    verification_uri_complete: str | None
    expires_in: Count
    interval: Count
    node: Name


class Redeemed(TypedDict):
    """The answer: `data`, or `sealed_result` when the initiator gave a key"""

    id: str
    state: Literal["consumed"]
    kind: Name
    approved_by: str | None
    data: Json | None
    sealed_result: str | None
    node: Name


class Rendezvous(TypedDict):
    """A rendezvous"""

    id: str
    kind: Name
    state: Literal["pending", "claimed", "approved", "denied", "consumed", "expired", "cancelled"]
    node: Name
    initiator: str
    origin: str | None
    data: Json
    claimed_by: str | None
    sealed: bool
    failed_attempts: Count
    created_at: Time
    expires_at: Time
    changed_at: Time


class RendezvousList(TypedDict):
    """A page of rendezvous"""

    rendezvous: list[Rendezvous]
    next: str | None


class RendezvousPolicy(TypedDict):
    """The policy of a kind: who may approve it"""

    kind: Name
    require: dict[str, bool | int | str]
    allow_self: bool


class RendezvousPolicies(TypedDict):
    """Every policy that is not the default"""

    policies: list[RendezvousPolicy]


class RendezvousApi(Protocol):
    """Operations of a node for callers of this API."""

    async def start(
        self,
        *,
        kind: str,
        ttl_s: int,
        data: Json,
        public_key: str | None,
        initiator: str,
        origin: str | None,
        token: str | None,
        cookie_name: str,
        audience: str,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Begin one."""

    async def wait(
        self, *, id: str, request_id: str | None, redemption: str | None, timeout_s: float
    ) -> Json:
        """The answer, once.  Raises AuthorizationPending when there is none in time."""

    async def claim(
        self,
        *,
        id: str | None,
        user_code: str | None,
        by: str | None,
        token: str | None,
        cookie_name: str,
        audience: str,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Take one."""

    async def approve(
        self,
        *,
        id: str | None,
        user_code: str | None,
        by: str | None,
        data: Json,
        token: str | None,
        cookie_name: str,
        audience: str,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Approve one and answer it."""

    async def deny(
        self,
        *,
        id: str | None,
        user_code: str | None,
        by: str | None,
        token: str | None,
        cookie_name: str,
        audience: str,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Deny one."""

    async def cancel(self, *, id: str, request_id: str | None, timeout_s: float) -> Json:
        """End one that has not ended."""

    async def policy(
        self, *, kind: str, require: Json, allow_self: bool, request_id: str | None, timeout_s: float
    ) -> Json:
        """Set who may approve a kind."""

    async def policies(self, *, timeout_s: float) -> Json:
        """The policies of approval, by kind."""

    async def show(self, name: str, *, consistency: str, timeout_s: float) -> Json:
        """The record of an id or a user code."""

    async def list(
        self, *, state: str | None, limit: int, after: str | None, consistency: str, timeout_s: float
    ) -> Json:
        """A page."""


class HasRendezvous(Protocol):
    """A node with the operations behind this API."""

    @property
    def rendezvous(self) -> RendezvousApi:
        """The operations."""


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
    "name of whoever acts; the caller is trusted with it; null: the person of the token, or `operator`",
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
    *CONTEXT,
)
_DATA = Field("data", "object", "texts by name", default={}, holds=str)
_ID_OR_CODE = Choice("id", "user_code", only_one=False)
_ID = Field("id", "string", "the id of the rendezvous", pattern=r"[0-9a-f]{32}", rule="32 hex digits")

# What the routes are asked and answer, in one story: a door asks, a person approves on a second device.
_KNOWN = {"id": "5f0c2d9c8d5f4b6ea7a5f5b0b8f3c1d2"}
_ASKED = {"kind": "mfa", "initiator": "door-7", "origin": "198.51.100.7", "data": {"door": "north"}}
_RECORD = {
    **_KNOWN,
    **_ASKED,
    "state": "pending",
    "node": "n1",
    "claimed_by": None,
    "sealed": False,
    "failed_attempts": 0,
    "created_at": "2026-11-23T19:29:28Z",
    "expires_at": "2026-11-23T19:34:28Z",
    "changed_at": "2026-11-23T19:29:28Z",
}
_CLAIMED = {**_RECORD, "state": "claimed", "claimed_by": "alice", "changed_at": "2026-11-23T19:29:59Z"}
_STARTED = {
    **_KNOWN,
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://app.example.com/rendezvous",
    "verification_uri_complete": "https://app.example.com/rendezvous?user_code=WDJB-MJHT",
    "expires_in": 300,
    "interval": 5,
    "node": "n1",
}
_REDEEMED = {
    **_KNOWN,
    "state": "consumed",
    "kind": "mfa",
    "approved_by": "alice",
    "data": {"level": "2"},
    "sealed_result": None,
    "node": "n1",
}
_POLICY = {"kind": "mfa", "require": {"mfa": True}, "allow_self": False}
_BY_CODE = {"user_code": "WDJB-MJHT", "by": "alice"}


ROUTES: tuple[Route[HasRendezvous], ...] = (
    Route(
        "POST",
        "/v1/rendezvous/start",
        "gateway",
        "rendezvous_start",
        "Begin a transaction that somebody else approves",
        answer=RendezvousStarted,
        example=(
            {"kind": "mfa", "initiator": "door-7", "origin": "198.51.100.7", "data": {"door": "north"}},
            _STARTED,
        ),
        handler=lambda node: node.rendezvous.start,
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
                "name of whoever asks, as claimed by the caller and shown to the approver",
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
            REQUEST_ID,
        ),
        write=True,
        errors=(TokenRejected,),
    ),
    Route(
        "POST",
        "/v1/rendezvous/wait",
        "gateway",
        "rendezvous_wait",
        "Wait for the answer and redeem it once; `authorization_pending` when there is none in time",
        answer=Redeemed,
        example=({**_KNOWN, "request_id": "6c0fd0a4e1d84bb2b1b38ad9"}, _REDEEMED),
        handler=lambda node: node.rendezvous.wait,
        held=True,
        body=(
            _ID,
            Field(
                "request_id",
                "string",
                "the redeemer's: whoever brings the same gets the same answer again for 5 minutes, so it is "
                "one that nobody guesses; null: the node makes one, and nobody gets the answer again",
                default=None,
                nullable=True,
                pattern=REQUEST_ID.pattern,
                rule=REQUEST_ID.rule,
            ),
            Field(
                "redemption",
                "string",
                "the older name of `request_id`; it counts where both are given",
                default=None,
                nullable=True,
                pattern=r"[!-~]{16,128}",
                rule="16 to 128 printable ASCII characters without spaces",
            ),
        ),
        choices=(Choice("request_id", "redemption", optional=True),),
        write=True,
        errors=(
            NotFound,
            Expired,
            AuthorizationPending,
            Denied,
        ),
    ),
    Route(
        "POST",
        "/v1/rendezvous/claim",
        "gateway",
        "rendezvous_claim",
        "Take a rendezvous: nobody else can approve it then",
        answer=Rendezvous,
        example=(_BY_CODE, _CLAIMED),
        handler=lambda node: node.rendezvous.claim,
        body=(*_RENDEZVOUS, _BY, *_FOR, REQUEST_ID),
        choices=(_ID_OR_CODE,),
        write=True,
        errors=(
            NotFound,
            Expired,
            SlowDown,
            ApprovalRefused,
            TokenRejected,
        ),
    ),
    Route(
        "POST",
        "/v1/rendezvous/approve",
        "gateway",
        "rendezvous_approve",
        "Approve a rendezvous and answer it",
        answer=Rendezvous,
        example=({**_BY_CODE, "data": {"level": "2"}}, {**_CLAIMED, "state": "approved"}),
        handler=lambda node: node.rendezvous.approve,
        body=(*_RENDEZVOUS, _BY, _DATA, *_FOR, REQUEST_ID),
        choices=(_ID_OR_CODE,),
        write=True,
        errors=(
            NotFound,
            Expired,
            SlowDown,
            ApprovalRefused,
            TokenRejected,
        ),
    ),
    Route(
        "POST",
        "/v1/rendezvous/deny",
        "gateway",
        "rendezvous_deny",
        "Deny a rendezvous",
        answer=Rendezvous,
        example=(_BY_CODE, {**_CLAIMED, "state": "denied"}),
        handler=lambda node: node.rendezvous.deny,
        body=(*_RENDEZVOUS, _BY, *_FOR, REQUEST_ID),
        choices=(_ID_OR_CODE,),
        write=True,
        errors=(
            NotFound,
            Expired,
            SlowDown,
            TokenRejected,
        ),
    ),
    Route(
        "POST",
        "/v1/rendezvous/cancel",
        "gateway",
        "rendezvous_cancel",
        "Cancel a rendezvous that has not ended",
        answer=Rendezvous,
        example=(_KNOWN, {**_RECORD, "state": "cancelled"}),
        handler=lambda node: node.rendezvous.cancel,
        body=(_ID, REQUEST_ID),
        write=True,
        errors=(
            NotFound,
            Expired,
        ),
    ),
    Route(
        "POST",
        "/v1/rendezvous/policy",
        "operator",
        "rendezvous_policy",
        "Set who may approve what a kind is for, the whole of it; the defaults remove it",
        answer=RendezvousPolicy,
        example=(_POLICY, _POLICY),
        handler=lambda node: node.rendezvous.policy,
        body=(
            Field("kind", "string", "the kind", pattern=NAME_PATTERN, rule=NAME_RULE),
            Field(
                "require",
                "object",
                "claims that the approver's session must have: true, false, integers or texts by name",
                default={},
                holds=bool | int | str,
            ),
            Field("allow_self", "boolean", "whoever began may approve", default=False),
            REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "GET",
        "/v1/rendezvous/policies",
        "gateway",
        "rendezvous_policies",
        "The policies of approval, for each kind without the default",
        answer=RendezvousPolicies,
        example=(None, {"policies": [_POLICY]}),
        handler=lambda node: node.rendezvous.policies,
    ),
    Route(
        "GET",
        "/v1/rendezvous/{name}",
        "gateway",
        "rendezvous_show",
        "Show a rendezvous, by its id or its user code",
        answer=Rendezvous,
        example=(None, _RECORD),
        handler=lambda node: node.rendezvous.show,
        what="id or user code",
        query=(CONSISTENCY,),
        name_pattern=r"[0-9a-f]{32}|[A-Za-z]{4}-?[A-Za-z]{4}",
        name_rule="the 32 hex digits of an id, or the 8 letters of a user code, with or without the dash",
        secret_name=True,
    ),
    Route(
        "GET",
        "/v1/rendezvous",
        "gateway",
        "rendezvous_list",
        "List rendezvous, those that ended within a day too, the oldest first",
        answer=RendezvousList,
        example=(None, {"rendezvous": [_RECORD], "next": None}),
        handler=lambda node: node.rendezvous.list,
        query=(
            CONSISTENCY,
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
)
