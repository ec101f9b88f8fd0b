"""The API of the token keys: routes, answers, and the operations behind them."""

from __future__ import annotations

from typing import Literal, Protocol, TypedDict

from cyoloctl.text import Json
from cyoloctl.web.encoding import MAX_BODY_BYTES
from cyoloctl.web.schema import CONSISTENCY, MAX_LIFE_S, REQUEST_ID, Choice, Count, Field, Name, Route, Time

__all__ = [
    "ROUTES",
    "HasKeys",
    "Key",
    "KeyApi",
    "KeyExport",
    "KeyHolder",
    "KeyIdentity",
    "KeyList",
    "KeyPolicy",
    "KeyStatus",
]


class Key(TypedDict):
    """A token key, without its material"""

    key_id: str
    state: Literal["pending", "primary", "enabled", "disabled", "destroyed"]
    cluster_id: str
    fingerprint: str
    created_at: Time
    promoted_at: Time | None
    retired_at: Time | None
    holders: list[Name]
    missing: list[Name]
    compromised_by: list[Name]


class KeyList(TypedDict):
    """Every token key"""

    keys: list[Key]


class KeyHolder(TypedDict):
    """A member: the fingerprint of each key, null for one that it cannot open"""

    name: Name
    keys: dict[str, str | None]


class KeyStatus(TypedDict):
    """The keys, the members that hold each, and how many sealed values of `kv` only that one opens"""

    agreed: bool
    primary: str | None
    problems: list[str]
    members: list[KeyHolder]
    keys: list[Key]
    sealed_values: dict[str, Count]


class KeyPolicy(TypedDict):
    """The policy of keys: when they are replaced, and how long replaced ones are kept"""

    rotate_every_s: Count | None
    keep_s: Count


class KeyExport(TypedDict):
    """A sealed key ring"""

    data: str
    keys: Count


class KeyIdentity(TypedDict):
    """Identity of this node, for another cluster to seal a ring to"""

    identity: str
    ca_sha256: str


class KeyApi(Protocol):
    """Operations of a node for callers of this API.  A key that is not there: NotFound."""

    async def list(self, *, consistency: str, timeout_s: float) -> Json:
        """Every key."""

    async def status(self, *, consistency: str, timeout_s: float) -> Json:
        """The keys, and the members that hold each."""

    async def generate(self, *, request_id: str | None, timeout_s: float) -> Json:
        """A pending key."""

    async def rotate(self, *, request_id: str | None, timeout_s: float) -> Json:
        """A new primary key."""

    async def promote(self, key_id: str, *, request_id: str | None, timeout_s: float) -> Json:
        """Make it the primary one."""

    async def disable(self, key_id: str, *, force: bool, request_id: str | None, timeout_s: float) -> Json:
        """Refuse tokens under it."""

    async def enable(self, key_id: str, *, request_id: str | None, timeout_s: float) -> Json:
        """Accept tokens under it again."""

    async def destroy(self, key_id: str, *, force: bool, request_id: str | None, timeout_s: float) -> Json:
        """Forget it permanently."""

    async def rewrap(self, *, request_id: str | None, timeout_s: float) -> Json:
        """Seal every key to every member again."""

    async def policy(self, *, timeout_s: float) -> Json:
        """The policy."""

    async def set_policy(
        self, *, rotate_every_s: int | None, keep_s: int, request_id: str | None, timeout_s: float
    ) -> Json:
        """Another policy."""

    async def export_ring(
        self, *, passphrase: str | None, to_node: str | None, to_ca: str | None, timeout_s: float
    ) -> Json:
        """The ring, sealed."""

    async def import_ring(
        self,
        *,
        data: str,
        passphrase: str | None,
        from_ca: str | None,
        adopt: bool,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Add the keys of a ring."""

    async def identity(self, *, timeout_s: float) -> Json:
        """The identity that rings are sealed to."""


class HasKeys(Protocol):
    """A node with the operations behind this API."""

    @property
    def keys(self) -> KeyApi:
        """The operations."""


_KEY_ID = "fc[0-9a-f]{6}"
_KEY_ID_RULE = "8 hex digits that begin with fc"
_FORCE = Field("force", "boolean", "even while tokens under the key may be valid", default=False)


ROUTES: tuple[Route[HasKeys], ...] = (
    Route(
        "GET",
        "/v1/keys",
        "viewer",
        "key_list",
        "List the token keys; no key material",
        answer=KeyList,
        handler=lambda node: node.keys.list,
        query=(CONSISTENCY,),
    ),
    Route(
        "GET",
        "/v1/keys/status",
        "viewer",
        "key_status",
        "Whether every member holds every key, and the same ones",
        answer=KeyStatus,
        handler=lambda node: node.keys.status,
        query=(CONSISTENCY,),
    ),
    Route(
        "POST",
        "/v1/keys/generate",
        "operator",
        "key_generate",
        "Make a key, pending until it is promoted",
        answer=Key,
        handler=lambda node: node.keys.generate,
        body=(REQUEST_ID,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/rotate",
        "operator",
        "key_rotate",
        "Make a key, wait until every member holds it, make it the primary",
        answer=Key,
        handler=lambda node: node.keys.rotate,
        body=(REQUEST_ID,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/{name}/promote",
        "operator",
        "key_promote",
        "Make a key the primary one",
        answer=Key,
        handler=lambda node: node.keys.promote,
        what="key id",
        name_pattern=_KEY_ID,
        name_rule=_KEY_ID_RULE,
        body=(REQUEST_ID,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/{name}/disable",
        "operator",
        "key_disable",
        "Refuse tokens under a key until it is enabled",
        answer=Key,
        handler=lambda node: node.keys.disable,
        what="key id",
        name_pattern=_KEY_ID,
        name_rule=_KEY_ID_RULE,
        body=(_FORCE, REQUEST_ID),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/{name}/enable",
        "operator",
        "key_enable",
        "Accept tokens under a disabled key again",
        answer=Key,
        handler=lambda node: node.keys.enable,
        what="key id",
        name_pattern=_KEY_ID,
        name_rule=_KEY_ID_RULE,
        body=(REQUEST_ID,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/{name}/destroy",
        "operator",
        "key_destroy",
        "Destroy a key permanently",
        answer=Key,
        handler=lambda node: node.keys.destroy,
        what="key id",
        name_pattern=_KEY_ID,
        name_rule=_KEY_ID_RULE,
        body=(_FORCE, REQUEST_ID),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/rewrap",
        "operator",
        "key_rewrap",
        "Seal every key again to every member",
        answer=KeyList,
        handler=lambda node: node.keys.rewrap,
        body=(REQUEST_ID,),
        write=True,
    ),
    Route(
        "GET",
        "/v1/keys/policy",
        "viewer",
        "key_policy",
        "The rotation policy",
        answer=KeyPolicy,
        handler=lambda node: node.keys.policy,
    ),
    Route(
        "POST",
        "/v1/keys/policy",
        "operator",
        "key_set_policy",
        "Set the rotation policy",
        answer=KeyPolicy,
        handler=lambda node: node.keys.set_policy,
        body=(
            Field(
                "rotate_every_s",
                "integer",
                "seconds between rotations; null: never automatically",
                default=None,
                nullable=True,
                minimum=3600,
                maximum=MAX_LIFE_S,
            ),
            Field(
                "keep_s",
                "integer",
                "seconds that a replaced key opens tokens; no token lives longer",
                default=604_800,
                minimum=3600,
                maximum=MAX_LIFE_S,
            ),
            REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/keys/export",
        "operator",
        "key_export_ring",
        "The key ring, sealed under a passphrase or to a node of another network",
        answer=KeyExport,
        handler=lambda node: node.keys.export_ring,
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
        choices=(Choice("passphrase", "to_node"),),
    ),
    Route(
        "POST",
        "/v1/keys/import",
        "operator",
        "key_import_ring",
        "Add the keys of an exported ring",
        answer=KeyList,
        handler=lambda node: node.keys.import_ring,
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
            REQUEST_ID,
        ),
        write=True,
        max_body_bytes=MAX_BODY_BYTES,
    ),
    Route(
        "GET",
        "/v1/keys/identity",
        "viewer",
        "key_identity",
        "This node's identity text",
        answer=KeyIdentity,
        handler=lambda node: node.keys.identity,
    ),
)
