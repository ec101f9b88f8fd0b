"""The API of the members and of the status of their cluster: routes, answers, errors, operations."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, Protocol, TypedDict

from cyoloctl.errors import InvitationRejected, NotFound
from cyoloctl.text import Json
from cyoloctl.web.schema import (
    CONSISTENCY,
    NAME,
    NAME_PATTERN,
    NAME_RULE,
    OFFLINE_CERTIFICATE,
    REQUEST_BODY_BYTES,
    REQUEST_ID,
    Count,
    Field,
    Loose,
    Name,
    Route,
    Shape,
    Time,
    host_field,
    pem_field,
)

__all__ = [
    "ROUTES",
    "Cluster",
    "Disk",
    "Grant",
    "HasMembers",
    "HistoryBreak",
    "Invitation",
    "InvitationInList",
    "InvitationList",
    "Leadership",
    "Member",
    "MemberAddress",
    "MemberApi",
    "MemberHost",
    "MemberList",
    "NodeGrant",
    "Problem",
    "Removal",
    "RoleChange",
    "ShownRole",
    "Status",
    "Uninvited",
    "Votes",
]


class Disk(TypedDict):
    """The file system of a member's data directory; days_left: null when it is not filling, or not known"""

    free_bytes: Count
    total_bytes: Count
    reserve_bytes: Count
    days_left: float | None


ShownRole = Literal["leader", "follower", "candidate", "learner", "witness"]
"""A witness that leads, or stands for election, is shown as that."""


class Member(TypedDict):
    """One member; witness: it votes, holds no key, and leads only where no other can"""

    name: Name
    role: ShownRole
    witness: bool
    address: str
    reachable: bool
    term: Count | None
    commit_index: Count | None
    applied_index: Count | None
    lag: Count | None
    uptime_s: float | None
    version: str | None
    level: Count
    storage: Literal["disk", "memory"] | None
    fsync_p99_ms: float | None
    disk_free_bytes: Count | None
    disk: Annotated[Disk, Loose] | None
    certificate_expires_at: Time | None
    clock_skew_ms: float | None


class MemberList(TypedDict):
    """Every member"""

    members: list[Member]


class Cluster(TypedDict):
    """The cluster, in a status"""

    name: Name
    id: Annotated[str, Shape(pattern="^[0-9a-f]{32}$")]
    leader: Name | None
    term: Count
    voters: Count
    learners: Count
    witnesses: Count
    quorum: Count
    failure_tolerance: int
    healthy: bool
    commit_index: Count
    epoch: Count
    storage: Literal["disk", "memory"]
    time: Time | None
    time_ahead_s: float | None
    level: Count


class HistoryBreak(TypedDict):
    """Where the cluster's history went on from one disk, or in a new cluster"""

    epoch: Count
    kind: Literal["recovered", "restored"]
    index: Count
    at: Time
    by: Name
    left_behind: list[Name]
    earlier_cluster_id: Annotated[str, Shape(pattern="^[0-9a-f]{32}$")]


class Problem(TypedDict):
    """A problem, in a status"""

    code: str
    member: str | None
    message: str
    command: str | None


class Link(TypedDict):
    """Two members: whether they have a link, null where neither says, and who of them dialled"""

    members: list[Name]
    linked: bool | None
    dialled_by: Name | None


class Status(TypedDict):
    """The cluster as the asked node knows it"""

    cluster: Annotated[Cluster, Loose]
    members: list[Member]
    links: list[Link]
    problems: list[Annotated[Problem, Loose]]
    history: list[HistoryBreak]


class Invitation(TypedDict):
    """A join token; it is a secret. replaced: an older one for this name no longer admits anybody"""

    token: str
    name: Name
    learner: bool
    witness: bool
    expires_at: Time
    replaced: bool


class InvitationInList(TypedDict):
    """An invitation without its token, or a request that was granted by file"""

    name: Name
    learner: bool
    witness: bool
    created_at: Time | None
    expires_at: Time
    state: Literal["open", "used", "expired", "outdated"]
    by: Literal["token", "file"]


class InvitationList(TypedDict):
    """The open invitations"""

    invitations: list[InvitationInList]


class NodeGrant(TypedDict):
    """The file for a node whose request was granted; replaced: another request or an invitation was open"""

    name: Name
    learner: bool
    witness: bool
    cluster_id: Annotated[str, Shape(pattern="^[0-9a-f]{32}$")]
    ca_sha256: str
    expires_at: Time
    replaced: bool
    grant: str


class Uninvited(TypedDict):
    """An invitation that was withdrawn"""

    name: Name
    uninvited: bool


class Grant(TypedDict):
    """The grant that makes a node a member, sealed where it is secret"""

    cluster_id: Annotated[str, Shape(pattern="^[0-9a-f]{32}$")]
    cluster: Name
    name: Name
    learner: bool
    certificate_pem: str
    ca_pem: str
    storage: Literal["disk", "memory"]
    peers: dict[str, str]
    ca_key_sealed: str | None
    witness: NotRequired[bool]


class Votes(TypedDict):
    """The voters at one time: failure_tolerance is how many more may fail, below 0 how many are missing

    can_lead: how many of the voters are no witnesses
    """

    voters: Count
    can_lead: Count
    quorum: Count
    failure_tolerance: int
    reachable: list[Name]
    unreachable: list[Name]


class RoleChange(TypedDict):
    """A promotion or demotion, or its preview"""

    name: Name
    role: Literal["voter", "learner"]
    changed: bool
    dry_run: bool
    before: Votes
    after: Votes
    ca_rotation_due: bool


class MemberAddress(TypedDict):
    """A member's address, or the preview of a change"""

    name: Name
    address: str
    previous: str
    changed: bool
    dry_run: bool
    before: Votes
    after: Votes


class Removal(TypedDict):
    """A removal, or its preview"""

    name: Name
    removed: bool
    changed: bool
    dry_run: bool
    before: Votes
    after: Votes
    failure_tolerance_before: int
    failure_tolerance_after: int
    ca_rotation_due: bool


class Leadership(TypedDict):
    """The present leadership, or the preview of a change"""

    leader: Name | None
    previous: Name | None
    changed: bool
    dry_run: bool
    before: Votes
    after: Votes


class MemberHost(TypedDict):
    """A member and its host identifier"""

    name: Name
    host: str | None


class MemberApi(Protocol):
    """Operations of a node for callers of this API.  A member that is not there: NotFound."""

    async def status(self, *, timeout_s: float) -> Status:
        """The cluster and its members."""

    async def list(self, *, consistency: str, timeout_s: float) -> MemberList:
        """Every member."""

    async def show(self, name: str, *, consistency: str, timeout_s: float) -> Member:
        """One member."""

    async def invite(
        self,
        *,
        name: str,
        learner: bool,
        witness: bool,
        ttl_s: int,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """A single-use join token, in the place of an older one for this name."""

    async def grant(
        self,
        *,
        request: str,
        learner: bool,
        witness: bool,
        ttl_s: int,
        certificate_pem: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Let the node of a request come in by its key.  Raises Conflict."""

    async def invitations(self, *, consistency: str, timeout_s: float) -> Json:
        """The open invitations."""

    async def uninvite(self, name: str, *, request_id: str | None, timeout_s: float) -> Json:
        """Withdraw an invitation.  Raises NotFound, Conflict."""

    async def join(
        self,
        *,
        name: str,
        public_key: str,
        signature: str,
        request_pem: str,
        sealing_key: str,
        address: str,
        ca_sha256: str,
        level: int,
        timeout_s: float,
    ) -> Json:
        """Redeem a join token: the grant.  The caller is not authenticated.  Raises InvitationRejected."""

    async def remove(
        self, name: str, *, force: bool, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> Json:
        """Remove a member.  Raises Conflict."""

    async def promote(self, name: str, *, dry_run: bool, request_id: str | None, timeout_s: float) -> Json:
        """Make a member a voter.  Raises Conflict."""

    async def demote(self, name: str, *, dry_run: bool, request_id: str | None, timeout_s: float) -> Json:
        """Make a member a learner.  Raises Conflict."""

    async def set_address(
        self, name: str, *, address: str, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> Json:
        """Tell every member where another one is.  Raises AlreadyExists, Conflict."""

    async def set_host(
        self, name: str, *, host: str | None, request_id: str | None, timeout_s: float
    ) -> Json:
        """Give a member its host identifier, None: take it away.  Raises AlreadyExists."""

    async def transfer_leadership(
        self, *, to: str | None, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> Json:
        """Hand leadership over.  Raises Conflict."""


class HasMembers(Protocol):
    """A node that serves this API."""

    @property
    def members(self) -> MemberApi:
        """The operations."""


def _check_address(text: str) -> None:
    from cyoloctl.model import parse_dialable_address

    parse_dialable_address(text)


_WITNESS = Field("witness", "boolean", "join as a voter that is given no key", default=False)
_DRY_RUN = Field("dry_run", "boolean", "change nothing, and answer how the voters would stand", default=False)

ROUTES: tuple[Route[HasMembers], ...] = (
    Route(
        "GET",
        "/v1/status",
        "viewer",
        "status",
        "The cluster and its members",
        answer=Status,
        handler=lambda node: node.members.status,
    ),
    Route(
        "GET",
        "/v1/members",
        "viewer",
        "member_list",
        "List the members",
        answer=MemberList,
        handler=lambda node: node.members.list,
        query=(CONSISTENCY,),
    ),
    Route(
        "GET",
        "/v1/members/{name}",
        "viewer",
        "member_show",
        "Show a member",
        answer=Member,
        handler=lambda node: node.members.show,
        what="member name",
        query=(CONSISTENCY,),
    ),
    Route(
        "POST",
        "/v1/members/invitations",
        "operator",
        "member_invite",
        "Make a single-use join token",
        answer=Invitation,
        handler=lambda node: node.members.invite,
        body=(
            NAME,
            Field("learner", "boolean", "join as a permanent learner", default=False),
            _WITNESS,
            Field("ttl_s", "integer", "seconds until it expires", default=3600, minimum=60, maximum=604_800),
            REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/grants",
        "operator",
        "member_grant",
        "Grant the request of a node that cannot reach the cluster",
        answer=NodeGrant,
        handler=lambda node: node.members.grant,
        body=(
            Field(
                "request",
                "string",
                "the text of the request file that `node request` wrote",
                minimum=1,
                maximum=8192,
                pattern=r"[\n\r -~]+",
                rule="text of at most 8 KiB",
            ),
            Field("learner", "boolean", "join as a permanent learner", default=False),
            _WITNESS,
            Field(
                "ttl_s", "integer", "seconds until it expires", default=604_800, minimum=60, maximum=7_776_000
            ),
            OFFLINE_CERTIFICATE,
            REQUEST_ID,
        ),
        write=True,
        max_body_bytes=REQUEST_BODY_BYTES,
    ),
    Route(
        "GET",
        "/v1/invitations",
        "viewer",
        "member_invitations",
        "List the invitations, recently used or expired ones too",
        answer=InvitationList,
        handler=lambda node: node.members.invitations,
        query=(CONSISTENCY,),
    ),
    Route(
        "POST",
        "/v1/invitations/{name}/withdraw",
        "operator",
        "member_uninvite",
        "Withdraw an invitation: its token no longer admits anybody",
        answer=Uninvited,
        handler=lambda node: node.members.uninvite,
        what="member name",
        body=(REQUEST_ID,),
        write=True,
    ),
    Route(
        "POST",
        "/v1/join",
        "none",
        "join",
        "Redeem a join token: idempotent for the same request",
        answer=Grant,
        handler=lambda node: node.members.join,
        body=(
            NAME,
            Field(
                "level",
                "integer",
                "the highest level that the joiner understands",
                default=1,
                minimum=1,
                maximum=1_000_000,
            ),
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
            pem_field("the certificate request"),
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
        max_body_bytes=REQUEST_BODY_BYTES,
        errors=(InvitationRejected,),
    ),
    Route(
        "POST",
        "/v1/members/{name}/remove",
        "operator",
        "member_remove",
        "Remove a member",
        answer=Removal,
        handler=lambda node: node.members.remove,
        what="member name",
        body=(
            Field("force", "boolean", "even if the cluster would lose its quorum", default=False),
            _DRY_RUN,
            REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/members/{name}/promote",
        "operator",
        "member_promote",
        "Make a member a voter",
        answer=RoleChange,
        handler=lambda node: node.members.promote,
        what="member name",
        body=(_DRY_RUN, REQUEST_ID),
        write=True,
    ),
    Route(
        "POST",
        "/v1/members/{name}/demote",
        "operator",
        "member_demote",
        "Make a member a learner",
        answer=RoleChange,
        handler=lambda node: node.members.demote,
        what="member name",
        body=(_DRY_RUN, REQUEST_ID),
        write=True,
    ),
    Route(
        "POST",
        "/v1/members/{name}/address",
        "operator",
        "member_set_address",
        "Tell every member where another one is",
        answer=MemberAddress,
        handler=lambda node: node.members.set_address,
        what="member name",
        body=(
            Field(
                "address",
                "string",
                "where the others reach the member",
                pattern=r"[!-~]{1,300}",
                rule="HOST:PORT or [IPV6]:PORT, port 1 to 65535",
                check_text=_check_address,
            ),
            _DRY_RUN,
            REQUEST_ID,
        ),
        write=True,
    ),
    Route(
        "POST",
        "/v1/members/transfer-leadership",
        "operator",
        "transfer_leadership",
        "Hand leadership over",
        answer=Leadership,
        handler=lambda node: node.members.transfer_leadership,
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
            _DRY_RUN,
            REQUEST_ID,
        ),
        write=True,
        errors=(NotFound,),
    ),
    Route(
        "POST",
        "/v1/members/{name}/host",
        "operator",
        "member_set_host",
        "Give a member its host identifier; null removes it",
        answer=MemberHost,
        handler=lambda node: node.members.set_host,
        what="member name",
        body=(host_field("the host name by which clients ask for this member", nullable=True), REQUEST_ID),
        write=True,
    ),
)
