"""The API of the credentials: routes, answers, and the operations behind them."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol, TypedDict

from cyoloctl.text import Json
from cyoloctl.web.schema import (
    CONSISTENCY,
    NAME,
    OFFLINE_CERTIFICATE,
    REQUEST_BODY_BYTES,
    REQUEST_ID,
    Field,
    Name,
    Route,
    Shape,
    Time,
    pem_field,
)

__all__ = [
    "ROUTES",
    "Credential",
    "CredentialApi",
    "CredentialIssued",
    "CredentialList",
    "HasCredentials",
]


class Credential(TypedDict):
    """Whose key counts, as what and until when"""

    name: Name
    role: Literal["viewer", "gateway", "operator", "node"]
    key_hash: Annotated[str, Shape(pattern="^[0-9a-f]{64}$")] | None
    created_at: Time | None
    created_by: str | None
    expires_at: Time | None
    revoked_at: Time | None


class CredentialList(TypedDict):
    """Every key that counts or counted"""

    credentials: list[Credential]


class CredentialIssued(Credential):
    """A credentials file without the private key, and the entry of the register"""

    cluster_id: Annotated[str, Shape(pattern="^[0-9a-f]{32}$")]
    ca_pem: str
    certificate_pem: str
    members: dict[str, str]


class CredentialApi(Protocol):
    """Operations of a node for callers of this API.  Credentials that are not there: NotFound."""

    async def list(self, *, consistency: str, timeout_s: float) -> Json:
        """Every entry."""

    async def create(
        self,
        *,
        name: str,
        role: str,
        request_pem: str,
        ttl_s: int,
        certificate_pem: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Register a key, and its certificate."""

    async def show(self, name: str, *, timeout_s: float) -> Json:
        """One entry."""

    async def renew_own(
        self,
        *,
        request_pem: str,
        ttl_s: int | None,
        certificate_pem: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """The caller's own certificate, for longer."""

    async def renew(
        self,
        name: str,
        *,
        request_pem: str,
        ttl_s: int | None,
        certificate_pem: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """A certificate, for longer."""

    async def revoke(self, name: str, *, request_id: str | None, timeout_s: float) -> Json:
        """End them."""


class HasCredentials(Protocol):
    """A node with the operations behind this API."""

    @property
    def credentials(self) -> CredentialApi:
        """The operations."""


_REQUEST_PEM = pem_field("a certificate request, signed by the key that it is for")
_MAX_CREDENTIAL_S = 825 * 86_400
_RENEWED_TTL_S = Field(
    "ttl_s",
    "integer",
    "seconds until it expires; null: the lifetime granted before",
    default=None,
    nullable=True,
    minimum=60,
    maximum=_MAX_CREDENTIAL_S,
)


ROUTES: tuple[Route[HasCredentials], ...] = (
    Route(
        "GET",
        "/v1/credentials",
        "viewer",
        "credential_list",
        "List the keys that count or counted: operators, gateways, viewers and nodes",
        answer=CredentialList,
        handler=lambda node: node.credentials.list,
        query=(CONSISTENCY,),
    ),
    Route(
        "POST",
        "/v1/credentials",
        "operator",
        "credential_create",
        "Register a key and issue its certificate; the same request again gives the same entry",
        answer=CredentialIssued,
        handler=lambda node: node.credentials.create,
        body=(
            NAME,
            Field("role", "string", "its permissions", choices=("viewer", "gateway", "operator")),
            _REQUEST_PEM,
            Field(
                "ttl_s",
                "integer",
                "seconds until it expires; never beyond the end of the CA",
                default=90 * 86_400,
                minimum=60,
                maximum=_MAX_CREDENTIAL_S,
            ),
            OFFLINE_CERTIFICATE,
            REQUEST_ID,
        ),
        write=True,
        max_body_bytes=REQUEST_BODY_BYTES,
    ),
    Route(
        "GET",
        "/v1/credentials/{name}",
        "viewer",
        "credential_show",
        "Show credentials, or the entry of a node",
        answer=Credential,
        handler=lambda node: node.credentials.show,
        what="name of credentials",
    ),
    Route(
        "POST",
        "/v1/credentials/renew",
        "viewer",
        "credential_renew_own",
        "Renew the caller's own credentials, for no longer than they were granted for",
        answer=CredentialIssued,
        handler=lambda node: node.credentials.renew_own,
        body=(_REQUEST_PEM, _RENEWED_TTL_S, OFFLINE_CERTIFICATE, REQUEST_ID),
        write=True,
        max_body_bytes=REQUEST_BODY_BYTES,
    ),
    Route(
        "POST",
        "/v1/credentials/{name}/renew",
        "operator",
        "credential_renew",
        "Renew credentials, with the same key or another; expired ones too",
        answer=CredentialIssued,
        handler=lambda node: node.credentials.renew,
        what="name of credentials",
        body=(_REQUEST_PEM, _RENEWED_TTL_S, OFFLINE_CERTIFICATE, REQUEST_ID),
        write=True,
        max_body_bytes=REQUEST_BODY_BYTES,
    ),
    Route(
        "POST",
        "/v1/credentials/{name}/revoke",
        "operator",
        "credential_revoke",
        "End credentials: what they have open ends within two seconds",
        answer=Credential,
        handler=lambda node: node.credentials.revoke,
        what="name of credentials",
        body=(REQUEST_ID,),
        write=True,
    ),
)
