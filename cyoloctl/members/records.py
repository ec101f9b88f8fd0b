"""Members, invitations and gateways as the cluster keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from cyoloctl.errors import InvalidInput
from cyoloctl.model import RaftId

__all__ = [
    "MAX_INVITATIONS",
    "MAX_NAMES",
    "MAX_SHARED_HOSTS",
    "REJECTED",
    "USED_KEPT_MS",
    "AskedRole",
    "Gateway",
    "Granted",
    "Invitation",
    "Member",
    "MemberLimits",
    "SecretInvitation",
    "WantedRole",
    "asked_role",
]


MAX_INVITATIONS = 1_000


MAX_NAMES = 10_000  # members and removed names together


MAX_SHARED_HOSTS = 100


@dataclass(frozen=True, slots=True)
class MemberLimits:
    """How much the machine holds.

    invitations: of both kinds and grants together; those that are over are not counted.
    names: members and removed names together.  shared_hosts: host names that any member serves.
    """

    invitations: int = MAX_INVITATIONS
    names: int = MAX_NAMES
    shared_hosts: int = MAX_SHARED_HOSTS


USED_KEPT_MS = 7 * 24 * 3_600_000


"""How long after its expiry a used invitation still answers the node that it admitted, in milliseconds."""


WantedRole = Literal["voter", "learner"]


AskedRole = Literal["voter", "learner", "witness"]
"""As which a node is invited; a witness is a voter to everybody who counts votes."""


# One text for every cause: a stranger with a guessed token learns nothing from it.
REJECTED = (
    "the join token was rejected: it is wrong, expired, used, or for another name or cluster; "
    "ask for a new one (member invite)"
)


@dataclass(frozen=True, slots=True)
class Member:
    """A node that was admitted.

    name: its identity.  address: HOST:PORT, where it is now.  role: the role
    that it is meant to have.  sealing_key: its X25519 public key in base64.
    raft_id: its id in the Raft configuration.  certificate_expires_at:
    ``YYYY-MM-DDTHH:MM:SSZ``, or None before it is known.  key_hash: SHA-256
    (64 hex digits) of the SubjectPublicKeyInfo of its certificate's key; None
    only for a member that release 0.1.0 admitted and that has not announced
    its key yet.  announced: where the node itself says that it is, while the
    members were told another address (``set_address``); None: the same.
    witness: a voter that holds the log and votes, and is given no key: neither
    the token keys nor that of the CA.  It leads only where no other can.
    """

    name: str
    address: str
    role: WantedRole
    sealing_key: str
    raft_id: RaftId
    certificate_expires_at: str | None
    key_hash: str | None = None
    announced: str | None = None
    witness: bool = False

    def to_json(self) -> dict[str, Any]:
        """All fields; key_hash, announced and witness are left out while they say nothing."""
        return {"name": self.name, **self.to_state()}

    def to_state(self) -> dict[str, Any]:
        return {
            "address": self.address,
            "certificate_expires_at": self.certificate_expires_at,
            "raft_id": self.raft_id,
            "role": self.role,
            "sealing_key": self.sealing_key,
            # Left out while unknown: what older releases wrote and answered stays the same, to the byte.
            **({} if self.key_hash is None else {"key_hash": self.key_hash}),
            **({} if self.announced is None else {"announced": self.announced}),
            **({"witness": True} if self.witness else {}),
        }


@dataclass(frozen=True, slots=True)
class Invitation:
    """A join token that was handed out: one for each name, known by what its secret signs with.

    public_key: Ed25519, base64; the token's secret gives the private half.
    created_unix_ms, expires_unix_ms: replicated time; refused from the latter
    on.  used_by: SHA-256 of the certificate request that was admitted on it,
    None before.  witness: see Member; such a node is no learner.
    """

    name: str
    learner: bool
    public_key: str
    created_unix_ms: int
    expires_unix_ms: int
    used_by: str | None
    witness: bool = False

    @property
    def role(self) -> WantedRole:
        """The role that the node will be given."""
        return "learner" if self.learner else "voter"

    def is_open(self, now_unix_ms: int) -> bool:
        """Whether it still admits its node."""
        return self.used_by is None and now_unix_ms < self.expires_unix_ms

    def to_state(self) -> dict[str, Any]:
        return {
            "created_unix_ms": self.created_unix_ms,
            "expires_unix_ms": self.expires_unix_ms,
            "learner": self.learner,
            "public_key": self.public_key,
            "used_by": self.used_by,
            **({"witness": True} if self.witness else {}),
        }


@dataclass(frozen=True, slots=True)
class Granted:
    """A node that may come in by its key: its request was granted by file, and it was not seen yet.

    request_sha256: of its certificate request.  key_hash, sealing_key: as in
    Member; only they become the member.  created_unix_ms, expires_unix_ms:
    replicated time; the node is refused from the latter on.  witness: see
    Member; such a node is no learner.
    """

    name: str
    learner: bool
    request_sha256: str
    key_hash: str
    sealing_key: str
    created_unix_ms: int
    expires_unix_ms: int
    witness: bool = False

    @property
    def role(self) -> WantedRole:
        """The role that the node will be given."""
        return "learner" if self.learner else "voter"

    def is_open(self, now_unix_ms: int) -> bool:
        """Whether it still admits its node."""
        return now_unix_ms < self.expires_unix_ms

    def to_state(self) -> dict[str, Any]:
        return {
            "created_unix_ms": self.created_unix_ms,
            "expires_unix_ms": self.expires_unix_ms,
            "key_hash": self.key_hash,
            "learner": self.learner,
            "request_sha256": self.request_sha256,
            "sealing_key": self.sealing_key,
            **({"witness": True} if self.witness else {}),
        }


@dataclass(frozen=True, slots=True)
class SecretInvitation:
    """A join token of release 0.1.0, known by the SHA-256 of its secret (64 hex digits).

    Kept so that logs and snapshots of that release give the same state; it
    no longer admits a node, because its token would travel in the clear to
    anyone who answers.

    expires_unix_ms: refused from this replicated time on.  used_by: SHA-256
    of the certificate request that redeemed it, None before.
    """

    secret_sha256: str = field(repr=False)
    name: str
    learner: bool
    expires_unix_ms: int
    used_by: str | None

    @property
    def role(self) -> WantedRole:
        """The role that the node will be given."""
        return "learner" if self.learner else "voter"

    def to_state(self) -> dict[str, Any]:
        return {
            "expires_unix_ms": self.expires_unix_ms,
            "learner": self.learner,
            "name": self.name,
            "used_by": self.used_by,
        }


class Gateway(NamedTuple):
    """A member's gateway, for browsers: HOST:PORT, and the base of its links (None: by its host name)."""

    address: str
    url: str | None


def asked_role(*, learner: bool, witness: bool) -> AskedRole:
    """The role that two flags of a request ask for.  Raises InvalidInput for both at once."""
    if learner and witness:
        raise InvalidInput("a node joins as a learner or as a witness, not as both: choose one")
    return "learner" if learner else "witness" if witness else "voter"
