"""The API of the certificate authorities: routes, answers, and the operations behind them."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol, TypedDict

from cyoloctl.text import Json
from cyoloctl.web.schema import (
    MAX_LIFE_S,
    OFFLINE_CERTIFICATE,
    REQUEST_BODY_BYTES,
    REQUEST_ID,
    Count,
    Field,
    Name,
    Route,
    Shape,
    Time,
)

__all__ = [
    "ROUTES",
    "Authorities",
    "AuthorityApi",
    "CertificateGrant",
    "HasAuthorities",
    "PkiAuthority",
    "PkiMember",
    "PkiRotation",
    "PkiStatus",
    "PkiStep",
]


Sha256 = Annotated[str, Shape(pattern="^[0-9a-f]{64}$")]


class Authorities(TypedDict):
    """Certificates of the cluster's authorities, in PEM"""

    cluster_id: str
    certificates: list[str]


class PkiAuthority(TypedDict):
    """A CA, and the members that report its key"""

    sha256: Sha256
    state: Literal["current", "previous", "next"]
    not_before: Time
    not_after: Time
    key_holders: list[Name]


class PkiMember(TypedDict):
    """A member, and the CA of its certificate"""

    name: Name
    role: Literal["voter", "learner", "witness"]
    connected: bool
    certificate_expires_at: Time | None
    ca_sha256: str | None
    confirmed: bool | None
    reissued: bool | None


class PkiStep(TypedDict):
    """A rotation of the CA under way"""

    step: Literal["distributing", "overlap", "issuing"]
    from_sha256: Sha256
    to_sha256: Sha256
    begun_at: Time
    overlap_until: Time
    waiting_for: list[Name]
    problem: str | None


class PkiStatus(TypedDict):
    """The CAs, the holders of their keys, and the certificates under each"""

    authorities: list[PkiAuthority]
    members: list[PkiMember]
    rotation: PkiStep | None
    rotation_due: bool
    reasons: list[str]
    certificate_days: Count
    credentials_to_renew: list[str]


class PkiRotation(TypedDict):
    """A rotation of the CA that has begun, or would"""

    dry_run: bool
    sha256: str | None
    overlap_s: Count
    members: list[Name]
    away: list[Name]
    credentials_to_renew: list[str]


class CertificateGrant(TypedDict):
    """A renewed certificate for one member; no secret"""

    kind: str
    cluster_id: str
    name: Name
    ca_sha256: str
    certificate_pem: str


class AuthorityApi(Protocol):
    """Operations of a node for callers of this API."""

    async def status(self, *, timeout_s: float) -> PkiStatus:
        """The CAs, and the members under each."""

    async def rotate(
        self, *, overlap_s: int, dry_run: bool, abandon: bool, request_id: str | None, timeout_s: float
    ) -> Json:
        """Begin an exchange of the CA, or abandon one."""

    async def grant(self, *, request: str, certificate_pem: str | None, timeout_s: float) -> Json:
        """Renew the certificate of a member that cannot reach the cluster."""


class HasAuthorities(Protocol):
    """A node with the operations behind this API."""

    @property
    def authorities(self) -> AuthorityApi:
        """The operations."""

    async def ca(self, *, timeout_s: float) -> Json:
        """The cluster's authorities; never waits.  The caller is not authenticated."""


ROUTES: tuple[Route[HasAuthorities], ...] = (
    Route(
        "GET",
        "/v1/ca",
        "none",
        "ca",
        "The cluster's certificate authorities: public, and worth what the caller compares them with",
        answer=Authorities,
        handler=lambda node: node.ca,
    ),
    Route(
        "GET",
        "/v1/pki",
        "viewer",
        "pki_status",
        "The CAs, and the members under each",
        answer=PkiStatus,
        handler=lambda node: node.authorities.status,
    ),
    Route(
        "POST",
        "/v1/pki/rotate",
        "operator",
        "pki_rotate",
        "Begin an exchange of the CA, or abandon one",
        answer=PkiRotation,
        handler=lambda node: node.authorities.rotate,
        body=(
            Field(
                "overlap_s",
                "integer",
                "minimum seconds for which certificates come from the old CA",
                default=604_800,
                minimum=0,
                maximum=MAX_LIFE_S,
            ),
            Field("dry_run", "boolean", "only report what would happen", default=False),
            Field("abandon", "boolean", "abandon one that not all members trust yet", default=False),
            REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/pki/grant",
        "operator",
        "pki_grant",
        "Renew the certificate of a member that cannot reach the cluster",
        answer=CertificateGrant,
        handler=lambda node: node.authorities.grant,
        body=(
            Field(
                "request",
                "string",
                "the text of the request file that `node renew --request` wrote",
                minimum=1,
                maximum=8192,
                pattern=r"[\n\r -~]+",
                rule="text of at most 8 KiB",
            ),
            OFFLINE_CERTIFICATE,
        ),
        write=True,
        max_body_bytes=REQUEST_BODY_BYTES,
    ),
)
