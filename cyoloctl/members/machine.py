"""Who belongs to the cluster, as the cluster agreed: members, invitations, removed names.

Raft's own configuration says who votes now; this says who may, and where they
are.  ``role`` is the wanted role: a node made voter here becomes one when it
has caught up.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, cast

from cyoloctl.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    InvitationRejected,
    NotFound,
    Overloaded,
)
from cyoloctl.model import parse_address, parse_hostname
from cyoloctl.replicated.checks import (
    checked,
    exact,
    json_object,
    member_name,
    sealing_key,
    text,
)
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed, Refused, is_request_id
from cyoloctl.replicated.machine import Machine, Operations
from cyoloctl.text import decode_base64

__all__ = [
    "MAX_INVITATIONS",
    "MAX_NAMES",
    "MAX_SHARED_HOSTS",
    "REJECTED",
    "USED_KEPT_MS",
    "Gateway",
    "Invitation",
    "Member",
    "MemberMachine",
    "SecretInvitation",
    "WantedRole",
]

MAX_INVITATIONS = 1_000
MAX_NAMES = 10_000  # members and removed names together
MAX_SHARED_HOSTS = 100

USED_KEPT_MS = 7 * 24 * 3_600_000
"""How long after its expiry a used invitation still answers the node that it admitted, in milliseconds."""

WantedRole = Literal["voter", "learner"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PUBLIC_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")

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
    its key yet.
    """

    name: str
    address: str
    role: WantedRole
    sealing_key: str
    raft_id: str
    certificate_expires_at: str | None
    key_hash: str | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields; key_hash is left out while it is None."""
        return {"name": self.name, **self._fields()}

    def _fields(self) -> dict[str, Any]:
        return {
            "address": self.address,
            "certificate_expires_at": self.certificate_expires_at,
            "raft_id": self.raft_id,
            "role": self.role,
            "sealing_key": self.sealing_key,
            # Left out while unknown: what older releases wrote and answered stays the same, to the byte.
            **({} if self.key_hash is None else {"key_hash": self.key_hash}),
        }


@dataclass(frozen=True, slots=True)
class Invitation:
    """A join token that was handed out: one for each name, known by what its secret signs with.

    public_key: Ed25519, base64; the token's secret gives the private half.
    created_unix_ms, expires_unix_ms: replicated time; refused from the latter
    on.  used_by: SHA-256 of the certificate request that was admitted on it,
    None before.
    """

    name: str
    learner: bool
    public_key: str
    created_unix_ms: int
    expires_unix_ms: int
    used_by: str | None

    @property
    def role(self) -> WantedRole:
        """The role that the node will be given."""
        return "learner" if self.learner else "voter"

    def is_open(self, now_unix_ms: int) -> bool:
        """Whether it still admits its node."""
        return self.used_by is None and now_unix_ms < self.expires_unix_ms

    def _fields(self) -> dict[str, Any]:
        return {
            "created_unix_ms": self.created_unix_ms,
            "expires_unix_ms": self.expires_unix_ms,
            "learner": self.learner,
            "public_key": self.public_key,
            "used_by": self.used_by,
        }


@dataclass(frozen=True, slots=True)
class SecretInvitation:
    """A join token of release 0.1.0, known by the SHA-256 of its secret (64 hex digits).

    Kept so that logs and snapshots of that release give the same state; it
    admits nobody any more, because its token would travel in the clear to
    whoever answers.

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


class Gateway(NamedTuple):
    """Where browsers reach a member: HOST:PORT, and the base of its links (None: by its host name)."""

    address: str
    url: str | None


class MemberMachine(Machine):
    """Operations and their answers:

    ``issue_invitation {name, learner, public_key, expires_unix_ms}`` ->
    ``{name, learner, expires_unix_ms, replaced}``: replaced says that another
    invitation of this name was open and admits nobody any more.
    already_exists for a member, conflict for a removed name, invalid_input
    for an expiry in the past, overloaded beyond 1,000 invitations or 10,000
    names.  Drops what expired first.
    ``uninvite {name}`` -> ``{name, uninvited: true}``.  not_found where no
    invitation is there, conflict where the node has joined on it.
    ``admit {name, public_key, request_sha256, address, sealing_key, raft_id,
    key_hash}`` -> ``{name, role}``: makes the member.  Whoever proposes it
    has checked that the request was signed with the private half of
    public_key.  The same request_sha256 again gets the same answer until the
    member announces itself, is removed, or 7 days after the expiry.
    Otherwise invitation_rejected, with the reason unknown, other_key, used,
    expired, removed, name_taken, raft_id_taken or key_taken beside the code.
    ``announce {name, address, sealing_key, raft_id, certificate_expires_at,
    key_hash}`` -> the member: a node says where and what it is.  Only the
    holder of the key that was admitted can; a member of release 0.1.0 gives
    its key with its first announcement.  While there is no member at all it
    makes the founder, a voter.  not_found for a name that is not a member,
    conflict for a removed name, another key, or another member's raft_id or
    key.
    ``remove {name}`` -> ``{name, removed}``: removed is false when it was
    removed before.  not_found.  A removed name is never used again: its log
    and votes may still be somewhere.  Its host is free again.
    ``set_host {name, host}`` -> ``{name, host}``: the host name by which
    clients ask for this member, or null for none.  A ``put`` leaves it: nodes
    announce themselves without knowing it.  not_found for the member,
    already_exists for the host of another member or a shared one.
    ``share_host {host}``, ``unshare_host {host}`` -> ``{host, shared}``: a
    host name that any member serves.  Sharing may be repeated.
    already_exists for the host of a member, overloaded beyond 100; not_found.

    ``set_gateway {name, gateway}`` -> ``{name, gateway}``: where browsers and
    reverse proxies reach the member, ``{address, url}`` (HOST:PORT; the base of
    its links, or null), or null for nowhere.  not_found.

    ``invite``, ``redeem`` and ``put`` are those of release 0.1.0, for its
    logs: no node may propose them.

    PROPOSERS: which node may propose an operation: "self" only the node that
    ``name`` names, "voter" any voter, "nobody" none (old logs only).
    """

    NAME = "members"
    PROPOSERS: ClassVar[dict[str, str]] = {
        "issue_invitation": "voter",
        "uninvite": "voter",
        "admit": "voter",
        "announce": "self",
        "set_gateway": "self",
        "remove": "voter",
        "set_host": "voter",
        "share_host": "voter",
        "unshare_host": "voter",
        "invite": "nobody",
        "redeem": "nobody",
        "put": "nobody",
    }

    def __init__(self) -> None:
        super().__init__(_OPERATIONS)
        self._members: dict[str, Member] = {}
        self._removed: set[str] = set()
        self._invitations: dict[str, Invitation] = {}  # by name: at most one for each
        self._secret_invitations: dict[str, SecretInvitation] = {}
        self._hosts: dict[str, str] = {}  # host -> the member's name: no host twice
        self._shared_hosts: set[str] = set()
        self._gateways: dict[str, Gateway] = {}

    def get(self, name: str) -> Member | None:
        """The member of this name."""
        return self._members.get(name)

    def members(self) -> list[Member]:
        """All members by name."""
        return [member for _, member in sorted(self._members.items())]

    def is_removed(self, name: str) -> bool:
        """True when a member of this name was removed."""
        return name in self._removed

    def removed(self) -> list[str]:
        """The removed names in order."""
        return sorted(self._removed)

    def host(self, name: str) -> str | None:
        """The host name of a member."""
        return next((host for host, owner in self._hosts.items() if owner == name), None)

    def hosts(self) -> dict[str, str]:
        """Host name -> the name of the member that has it, by host name."""
        return dict(sorted(self._hosts.items()))

    def gateway(self, name: str) -> Gateway | None:
        """Where browsers reach a member; None where it has no gateway, or has not said so."""
        return self._gateways.get(name)

    def shared_hosts(self) -> list[str]:
        """The host names that any member serves, in order."""
        return sorted(self._shared_hosts)

    def invitation(self, name: str) -> Invitation | None:
        """The invitation of this name; used or expired ones too."""
        return self._invitations.get(name)

    def invitations(self) -> list[Invitation]:
        """All invitations by name, used and expired ones too."""
        return [invitation for _, invitation in sorted(self._invitations.items())]

    def secret_invitation(self, secret_sha256: str) -> SecretInvitation | None:
        """The invitation of release 0.1.0 with this digest of its secret."""
        return self._secret_invitations.get(secret_sha256)

    def secret_invitations(self) -> list[SecretInvitation]:
        """All invitations of release 0.1.0, used and expired ones too, by expiry, then digest."""
        return sorted(self._secret_invitations.values(), key=lambda i: (i.expires_unix_ms, i.secret_sha256))

    def _issue_invitation(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = given["name"]
        self._refuse_invited_member(name)
        if given["expires_unix_ms"] <= now_unix_ms:
            raise Refused(InvalidInput("the invitation would have expired already: check the clocks"))
        kept = {
            key: each
            for key, each in self._invitations.items()
            if now_unix_ms < each.expires_unix_ms + (0 if each.used_by is None else USED_KEPT_MS)
        }
        older = kept.pop(name, None)
        live = self._live_secrets(now_unix_ms)
        superseded = {key for key, each in live.items() if each.name == name and each.used_by is None}
        live = {key: each for key, each in live.items() if key not in superseded}
        if len(kept) + len(live) >= MAX_INVITATIONS:
            raise Refused(
                Overloaded(
                    f"there are {MAX_INVITATIONS} invitations: withdraw some (member uninvite), "
                    "or wait until some expire"
                )
            )
        self._refuse_full(name)
        kept[name] = Invitation(
            name=name,
            learner=given["learner"],
            public_key=given["public_key"],
            created_unix_ms=now_unix_ms,
            expires_unix_ms=given["expires_unix_ms"],
            used_by=None,
        )
        self._invitations = kept
        self._secret_invitations = live
        return {
            "name": name,
            "learner": given["learner"],
            "expires_unix_ms": given["expires_unix_ms"],
            "replaced": bool(superseded) or (older is not None and older.used_by is None),
        }

    def _uninvite(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = given["name"]
        if name in self._members:
            raise Refused(Conflict(f"{name} has joined: remove it (member remove {name})"))
        found = self._invitations.pop(name, None) is not None
        if not (self._drop_secrets(name) or found):
            raise Refused(NotFound(f"there is no invitation for {name}: see member invitations"))
        return {"name": name, "uninvited": True}

    def _admit(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, request = given["name"], given["request_sha256"]
        invitation = self._invitations.get(name)
        self._refuse_other_raft_id(name, given["raft_id"])
        if name in self._removed:
            reason = "removed"
        elif invitation is None:
            reason = "unknown"
        elif invitation.public_key != given["public_key"]:
            reason = "other_key"
        elif invitation.used_by == request and name in self._members:
            # Expired meanwhile or not: the node was admitted and only asks for the answer it lost.
            return {"name": name, "role": invitation.role}
        elif invitation.used_by is not None:
            reason = "used"
        elif now_unix_ms >= invitation.expires_unix_ms:
            reason = "expired"
        elif name in self._members:
            reason = "name_taken"
        elif self._raft_id_taken(name, given["raft_id"]):
            reason = "raft_id_taken"
        elif self._key_taken(name, given["key_hash"]):
            reason = "key_taken"
        else:
            self._refuse_full(name)
            self._invitations[name] = replace(invitation, used_by=request)
            member = Member(
                name=name,
                address=given["address"],
                role=invitation.role,
                sealing_key=given["sealing_key"],
                raft_id=given["raft_id"],
                certificate_expires_at=None,
                key_hash=given["key_hash"],
            )
            self._put(member, index)
            return {"name": name, "role": invitation.role}
        raise Refused(InvitationRejected(REJECTED), reason)

    def _announce(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = given["name"]
        self._refuse_removed(name)
        self._refuse_other_raft_id(name, given["raft_id"])
        # Only the first node of a cluster was admitted by nobody.
        member = self._members.get(name) if self._members else Member(**given, role="voter")
        if member is None:
            raise Refused(NotFound(f"there is no member {name}: see member list"))
        if member.key_hash not in (None, given["key_hash"]):
            raise Refused(
                Conflict(
                    f"another key was admitted as {name}: restore the pki directory of this node, "
                    f"or remove {name} and join under a new name"
                )
            )
        if self._raft_id_taken(name, given["raft_id"]):
            raise Refused(Conflict("another member has this raft id: use the id of this node"))
        if self._key_taken(name, given["key_hash"]):
            raise Refused(Conflict("another member has this key: make new keys for this node"))
        # It has its certificate, so nobody asks for the answer again.
        self._invitations.pop(name, None)
        self._drop_secrets(name)
        return self._put(replace(member, **given), index)

    def _invite(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, secret = given["name"], given["secret_sha256"]
        self._refuse_invited_member(name)
        if given["expires_unix_ms"] <= now_unix_ms:
            raise Refused(InvalidInput("the invitation would have expired already: check the clocks"))
        live = self._live_secrets(now_unix_ms)
        if secret in live:
            raise Refused(AlreadyExists("an invitation has this secret already: make a new secret"))
        if len(live) >= MAX_INVITATIONS:
            raise Refused(Overloaded(f"there are {MAX_INVITATIONS} invitations: wait until some expire"))
        self._refuse_full(name)
        live[secret] = SecretInvitation(secret, name, given["learner"], given["expires_unix_ms"], None)
        self._secret_invitations = live
        return {"name": name, "learner": given["learner"], "expires_unix_ms": given["expires_unix_ms"]}

    def _redeem(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, secret, request = given["name"], given["secret_sha256"], given["request_sha256"]
        invitation = self._secret_invitations.get(secret)
        if invitation is None:
            reason = "unknown"
        elif invitation.name != name:
            reason = "other_name"
        elif name in self._removed:
            reason = "removed"
        elif invitation.used_by == request and name in self._members:
            # Expired meanwhile or not: the node was admitted and only asks for the answer it lost.
            return {"name": name, "role": invitation.role}
        elif invitation.used_by is not None:
            reason = "used"
        elif now_unix_ms >= invitation.expires_unix_ms:
            reason = "expired"
        elif name in self._members:
            reason = "name_taken"
        elif self._raft_id_taken(name, given["raft_id"]):
            reason = "raft_id_taken"
        else:
            self._refuse_full(name)
            self._secret_invitations[secret] = replace(invitation, used_by=request)
            role = invitation.role
            self._put(
                Member(name, given["address"], role, given["sealing_key"], given["raft_id"], None), index
            )
            return {"name": name, "role": role}
        raise Refused(InvitationRejected(REJECTED), reason)

    def _put_member(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = given["name"]
        self._refuse_removed(name)
        if self._raft_id_taken(name, given["raft_id"]):
            raise Refused(Conflict("another member has this raft id: use the id of this node"))
        self._refuse_full(name)
        known = self._members.get(name)
        return self._put(Member(**given, key_hash=None if known is None else known.key_hash), index)

    def _remove(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = given["name"]
        if name in self._removed:
            return {"name": name, "removed": False}
        self._existing(name)
        del self._members[name]
        self._removed.add(name)
        self._drop_host(name)
        self._gateways.pop(name, None)
        self._invitations.pop(name, None)
        return {"name": name, "removed": True}

    def _set_gateway(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, gateway = given["name"], given["gateway"]
        self._existing(name)
        if gateway is None:
            self._gateways.pop(name, None)
        else:
            self._gateways[name] = gateway
        return {"name": name, "gateway": None if gateway is None else gateway._asdict()}

    def _set_host(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, host = given["name"], given["host"]
        self._existing(name)
        if host is not None:
            if host in self._shared_hosts:
                raise Refused(AlreadyExists(f"host {host} is shared by all members: unshare it first"))
            self._refuse_host_of(host, name)
        self._drop_host(name)
        if host is not None:
            self._hosts[host] = name
        return {"name": name, "host": host}

    def _share_host(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        host = given["host"]
        self._refuse_host_of(host, None)
        if host not in self._shared_hosts:
            if len(self._shared_hosts) >= MAX_SHARED_HOSTS:
                raise Refused(Overloaded(f"{MAX_SHARED_HOSTS} hosts are shared already: unshare one of them"))
            self._shared_hosts.add(host)
        return {"host": host, "shared": True}

    def _unshare_host(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        host = given["host"]
        if host not in self._shared_hosts:
            raise Refused(NotFound(f"host {host} is not shared: see route list"))
        self._shared_hosts.remove(host)
        return {"host": host, "shared": False}

    def _refuse_host_of(self, host: str, name: str | None) -> None:
        owner = self._hosts.get(host)
        if owner is not None and owner != name:
            raise Refused(
                AlreadyExists(f"host {host} is that of member {owner}: choose another, or clear it")
            )

    def _drop_host(self, name: str) -> None:
        host = self.host(name)
        if host is not None:
            del self._hosts[host]

    def _existing(self, name: str) -> Member:
        member = self._members.get(name)
        if member is None:
            raise Refused(NotFound(f"there is no member {name}: see member list"))
        return member

    def _drop_secrets(self, name: str) -> bool:
        """Drop the invitations of release 0.1.0 for a name; whether there were any."""
        kept = {key: each for key, each in self._secret_invitations.items() if each.name != name}
        dropped = len(kept) != len(self._secret_invitations)
        self._secret_invitations = kept
        return dropped

    def _live_secrets(self, now_unix_ms: int) -> dict[str, SecretInvitation]:
        return {key: i for key, i in self._secret_invitations.items() if i.expires_unix_ms > now_unix_ms}

    def _refuse_invited_member(self, name: str) -> None:
        if name in self._members:
            raise Refused(AlreadyExists(f"there is a member {name} already: choose another name"))
        self._refuse_removed(name)

    def _refuse_removed(self, name: str) -> None:
        if name in self._removed:
            raise Refused(Conflict(f"member {name} was removed, names are never reused: choose another name"))

    def _refuse_full(self, name: str) -> None:
        if name not in self._members and len(self._members) + len(self._removed) >= MAX_NAMES:
            raise Refused(Overloaded(f"{MAX_NAMES} names of members are used up: make a new cluster"))

    def _raft_id_taken(self, name: str, raft_id: str) -> bool:
        return any(other.raft_id == raft_id and other.name != name for other in self._members.values())

    def _key_taken(self, name: str, key_hash: str) -> bool:
        return any(other.key_hash == key_hash and other.name != name for other in self._members.values())

    def _refuse_other_raft_id(self, name: str, raft_id: str) -> None:
        if raft_id.partition("~")[0] != name:
            raise Refused(InvalidInput(f"the raft id {raft_id} is not one of {name}: use NAME or NAME~LIFE"))

    def _put(self, member: Member, index: int) -> dict[str, Any]:
        self._members[member.name] = member
        return member.to_json()

    def export_state(self) -> dict[str, Any]:
        """The state for the snapshot, the same for the same state whatever its history.

        What release 0.1.0 did not know is left out where there is none: what it wrote stays readable, to
        the byte.
        """
        issued = {name: each._fields() for name, each in self._invitations.items()}
        return {
            **({"issued_invitations": issued} if issued else {}),
            **({"hosts": self.hosts()} if self._hosts else {}),
            **({"shared_hosts": self.shared_hosts()} if self._shared_hosts else {}),
            **({"gateways": {k: v._asdict() for k, v in self._gateways.items()}} if self._gateways else {}),
            "invitations": {
                key: {
                    "expires_unix_ms": invitation.expires_unix_ms,
                    "learner": invitation.learner,
                    "name": invitation.name,
                    "used_by": invitation.used_by,
                }
                for key, invitation in self._secret_invitations.items()
            },
            "members": {name: member._fields() for name, member in self._members.items()},
            "removed": self.removed(),
        }

    def prepare_restore(self, state: object) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        given = json_object(state)
        optional = given.keys() & {"hosts", "shared_hosts", "gateways", "issued_invitations"}
        top = exact(given, {"invitations", "members", "removed"} | optional)
        if not all(top[key] for key in optional):
            raise ValueError("what is empty is not left out")
        try:
            secret_invitations = {
                _digest(key): SecretInvitation(key, **checked(fields, _SECRET_INVITATION))
                for key, fields in json_object(top["invitations"]).items()
            }
            invitations = {
                name: Invitation(name=member_name(name), **checked(fields, _INVITATION))
                for name, fields in json_object(top.get("issued_invitations", {})).items()
            }
            members = {
                name: _stored_member(name, json_object(fields))
                for name, fields in json_object(top["members"]).items()
            }
            if type(top["removed"]) is not list:
                raise ValueError("removed names are not a list")
            names = [member_name(name) for name in top["removed"]]
            hosts = {
                _host(host): member_name(name) for host, name in json_object(top.get("hosts", {})).items()
            }
            if type(top.get("shared_hosts", [])) is not list:
                raise ValueError("shared hosts are not a list")
            shared = [_host(host) for host in top.get("shared_hosts", [])]
            gateways = {
                member_name(name): _gateway(value)
                for name, value in json_object(top.get("gateways", {})).items()
            }
        except Malformed:
            raise ValueError("a member, a host or an invitation is not valid") from None
        removed = set(names)
        key_hashes = [member.key_hash for member in members.values() if member.key_hash is not None]
        if (
            names != sorted(removed)
            or removed & members.keys()
            or len(members) + len(removed) > MAX_NAMES
            or len(invitations) + len(secret_invitations) > 2 * MAX_INVITATIONS
            or removed & invitations.keys()
            or len(set(key_hashes)) != len(key_hashes)
            or len({member.raft_id for member in members.values()}) != len(members)
            # Addresses are kept in one spelling; another was never written here.
            or any(top["members"][name]["address"] != member.address for name, member in members.items())
            or len(set(hosts.values()) & members.keys()) != len(hosts)
            or not gateways.keys() <= members.keys()
            or any(top["gateways"][name]["address"] != value.address for name, value in gateways.items())
            or shared != sorted(set(shared))
            or len(shared) > MAX_SHARED_HOSTS
            or hosts.keys() & set(shared)
        ):
            raise ValueError("members, invitations, hosts and removed names contradict each other")

        def commit() -> None:
            self._members = members
            self._removed = removed
            self._invitations = invitations
            self._secret_invitations = secret_invitations
            self._hosts = hosts
            self._shared_hosts = set(shared)
            self._gateways = gateways

        return commit


# Each check returns the clean value or raises Malformed.  Only ASCII reaches the
# parsers: what is printable beyond it depends on the interpreter's Unicode version.


def _address(value: object) -> str:
    if type(value) is not str or not value.isascii() or len(value) > 300:
        raise Malformed("the address is not valid: use HOST:PORT (or [IPV6]:PORT), port 1 to 65535")
    try:
        return str(parse_address(value))
    except InvalidInput as error:
        raise Malformed(error.message) from None


def _host(value: object) -> str:
    if type(value) is not str or not value.isascii():
        raise Malformed("the host is not valid: use a host name in lower case ascii")
    try:
        return parse_hostname(value)
    except InvalidInput as error:
        raise Malformed(error.message) from None


def _optional_host(value: object) -> str | None:
    return None if value is None else _host(value)


def _digest(value: object) -> str:
    if type(value) is not str or not _SHA256.fullmatch(value):
        raise Malformed("a digest is not valid: use the 64 hex digits of a sha-256")
    return value


def _stored_member(name: str, fields: dict[str, Any]) -> Member:
    known = _FIELDS if "key_hash" not in fields else {**_FIELDS, "key_hash": _digest}
    return Member(name=member_name(name), **checked(fields, known))


def _optional_digest(value: object) -> str | None:
    return None if value is None else _digest(value)


def _public_key(value: object) -> str:
    """An Ed25519 public key in base64, in its one spelling: 32 bytes."""
    try:
        if type(value) is str and _PUBLIC_KEY.fullmatch(value):
            decode_base64(value)
            return value
    except ValueError:
        pass
    raise Malformed("the public key is not valid: use an ed25519 public key in base64")


def _raft_id(value: object) -> str:
    if not is_request_id(value):
        raise Malformed("the raft id is not valid: use 1 to 128 printable ascii characters without spaces")
    return cast("str", value)


def _role(value: object) -> str:
    if type(value) is not str or value not in ("voter", "learner"):
        raise Malformed("the role is not valid: use voter or learner")
    return value


def _date(value: object) -> str | None:
    if value is None:
        return None
    if type(value) is not str or not _DATE.fullmatch(value):
        raise Malformed("the end of the certificate is not valid: use YYYY-MM-DDTHH:MM:SSZ or null")
    return value


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise Malformed("learner is not valid: use true or false")
    return value


def _time(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_TIME_UNIX_MS:
        raise Malformed("the expiry is not valid: use milliseconds since 1970, 0 to 2**53")
    return value


_url = text(
    r"https?://[a-zA-Z0-9.\-\[\]:]{1,255}(/[a-zA-Z0-9._~/-]{0,200})?",
    "the url is not valid: use https://HOST or https://HOST:PORT, and a path if need be",
)


def _gateway(value: object) -> Gateway:
    try:
        fields = exact(value, {"address", "url"})
    except ValueError:
        raise Malformed("the gateway is not valid: use an object of address and url, or null") from None
    return Gateway(_address(fields["address"]), None if fields["url"] is None else _url(fields["url"]))


def _optional_gateway(value: object) -> Gateway | None:
    return None if value is None else _gateway(value)


_Check = Callable[[object], Any]

_INVITATION: dict[str, _Check] = {
    "learner": _flag,
    "public_key": _public_key,
    "created_unix_ms": _time,
    "expires_unix_ms": _time,
    "used_by": _optional_digest,
}
_SECRET_INVITATION: dict[str, _Check] = {
    "name": member_name,
    "learner": _flag,
    "expires_unix_ms": _time,
    "used_by": _optional_digest,
}
_FIELDS: dict[str, _Check] = {
    "address": _address,
    "role": _role,
    "sealing_key": sealing_key,
    "raft_id": _raft_id,
    "certificate_expires_at": _date,
}
_PUT: dict[str, _Check] = {"name": member_name, **_FIELDS}
_OPERATIONS: Operations = {
    "issue_invitation": (
        {"name": member_name, "learner": _flag, "public_key": _public_key, "expires_unix_ms": _time},
        MemberMachine._issue_invitation,
    ),
    "uninvite": ({"name": member_name}, MemberMachine._uninvite),
    "admit": (
        {
            "name": member_name,
            "public_key": _public_key,
            "request_sha256": _digest,
            "address": _address,
            "sealing_key": sealing_key,
            "raft_id": _raft_id,
            "key_hash": _digest,
        },
        MemberMachine._admit,
    ),
    "announce": (
        {
            "name": member_name,
            "address": _address,
            "sealing_key": sealing_key,
            "raft_id": _raft_id,
            "certificate_expires_at": _date,
            "key_hash": _digest,
        },
        MemberMachine._announce,
    ),
    "invite": (
        {"name": member_name, "learner": _flag, "secret_sha256": _digest, "expires_unix_ms": _time},
        MemberMachine._invite,
    ),
    "redeem": (
        {
            "name": member_name,
            "secret_sha256": _digest,
            "request_sha256": _digest,
            "address": _address,
            "sealing_key": sealing_key,
            "raft_id": _raft_id,
        },
        MemberMachine._redeem,
    ),
    "put": (_PUT, MemberMachine._put_member),
    "remove": ({"name": member_name}, MemberMachine._remove),
    "set_host": ({"name": member_name, "host": _optional_host}, MemberMachine._set_host),
    "set_gateway": ({"name": member_name, "gateway": _optional_gateway}, MemberMachine._set_gateway),
    "share_host": ({"host": _host}, MemberMachine._share_host),
    "unshare_host": ({"host": _host}, MemberMachine._unshare_host),
}
