"""The membership on which the cluster agreed: members, invitations, removed names.

Raft's own configuration says who votes now; this says who may, and where they
are.  ``role`` is the wanted role: a node made voter here becomes one when it
has caught up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from cyoloctl.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    InvitationRejected,
    NotFound,
    Overloaded,
)
from cyoloctl.members.checks import (
    ARGUMENTS,
    SECRET_INVITATION,
    are_ways_coherent,
    check_digest,
    check_gateway,
    check_host,
    invitation,
    is_coherent,
    stored_member,
)
from cyoloctl.members.granted import GRANT, GRANT_WITNESS, Grants
from cyoloctl.members.records import (
    REJECTED,
    USED_KEPT_MS,
    Gateway,
    Invitation,
    Member,
    MemberLimits,
    SecretInvitation,
    WantedRole,
)
from cyoloctl.model import RaftId, name_of
from cyoloctl.replicated.checks import (
    checked,
    exact,
    json_object,
    member_name,
)
from cyoloctl.replicated.command import Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Operations, Rows

__all__ = ["MemberMachine"]

_LIMITS = MemberLimits()


class MemberMachine(Machine):
    """Operations and their answers:

    ``invite_for {name, learner, public_key, ttl_s}``: as issue_invitation, for a
    caller with a request id, and with the public key in the answer: whoever
    repeats it is told which key it was, and makes the same token.
    ``invite_witness {name, public_key, ttl_s}``: as invite_for, for a witness:
    a voter that is given no key, no host and no gateway.
    ``issue_invitation {name, learner, public_key, expires_unix_ms}`` ->
    ``{name, learner, expires_unix_ms, replaced}``: replaced says that another
    invitation of this name was open and no longer admits a node.
    already_exists for a member, conflict for a removed name, invalid_input
    for an expiry in the past, overloaded beyond 1,000 invitations or 10,000
    names.  Drops what expired first.
    ``uninvite {name}`` -> ``{name, uninvited: true}``.  not_found where no
    invitation or grant is there, conflict where the node has joined on it.
    ``grant {name, learner, request_sha256, key_hash, sealing_key, ttl_s}`` ->
    ``{name, learner, expires_unix_ms, replaced}``: the node that made a
    request may come in by its key, in the place of an invitation or another
    grant for the name.  replaced: one of those was open, for another request.
    Refused as issue_invitation is; conflict for the key of a member.
    ``grant_witness``: as grant, without learner, for a witness.
    ``admit {name, public_key, request_sha256, address, sealing_key, raft_id,
    key_hash}`` -> ``{name, role}``: makes the member.  The node that
    proposes it has checked that the request was signed with the private half of
    public_key.  The same request_sha256 again gets the same answer until the
    member announces itself, is removed, or 7 days after the expiry.
    Otherwise invitation_rejected, with the reason unknown, other_key, used,
    expired, removed, name_taken, raft_id_taken or key_taken beside the code.
    ``announce {name, address, sealing_key, raft_id, certificate_expires_at,
    key_hash}`` -> the member: a node says where and what it is.  Only the
    holder of the key that was admitted can; a member of release 0.1.0 gives
    its key with its first announcement.  A node whose request was granted
    becomes a member with it.  While there is no member at all it
    makes the founder, a voter.  not_found for a name that is not a member,
    conflict for a removed name, another key, or another member's raft_id or
    key.  Where ``set_address`` told the members another address, that one
    stands for as long as the node says the same as before.
    ``set_role {name, role}`` -> ``{name, role, changed}``: the role that the
    member is meant to have from now on.  not_found; conflict where nobody
    but witnesses would be left who is meant to vote, and for a witness, which
    stays a voter.
    ``set_address {name, address}`` -> ``{name, address, changed}``: where the
    others reach the member, whatever it says itself.  not_found, already_exists
    for the address of another member.
    ``remove {name}`` -> ``{name, removed}``: removed is false when it was
    removed before.  not_found.  A removed name is never used again: its log
    and votes may still be somewhere.  Its host is free again.
    ``set_host {name, host}`` -> ``{name, host}``: the host name by which
    clients ask for this member, or null for none.  A ``put`` leaves it: nodes
    announce themselves without knowing it.  not_found for the member,
    already_exists for the host of another member or a shared one, conflict
    for a witness.
    ``share_host {host}``, ``unshare_host {host}`` -> ``{host, shared}``: a
    host name that any member serves.  Sharing may be repeated.
    already_exists for the host of a member, overloaded beyond 100; not_found.

    ``set_gateway {name, gateway}`` -> ``{name, gateway}``: where browsers and
    reverse proxies reach the member, ``{address, url}`` (HOST:PORT; the base of
    its links, or null), or null for nowhere.  not_found, conflict for a witness.

    ``invite``, ``redeem`` and ``put`` are those of release 0.1.0, for its
    logs: no node may propose them.

    PROPOSERS: which node may propose an operation: "self" only the node that
    ``name`` names, "voter" any voter, "nobody" none (old logs only).
    """

    NAME = "members"
    DRAWN: ClassVar[dict[str, frozenset[str]]] = {
        "invite_for": frozenset({"public_key"}),
        "invite_witness": frozenset({"public_key"}),
    }
    PROPOSERS: ClassVar[dict[str, str]] = {
        "issue_invitation": "voter",
        "invite_for": "voter",
        "invite_witness": "voter",
        "uninvite": "voter",
        "admit": "voter",
        "grant": "voter",
        "grant_witness": "voter",
        "announce": "self",
        "set_gateway": "self",
        "set_role": "voter",
        "set_address": "voter",
        "remove": "voter",
        "set_host": "voter",
        "share_host": "voter",
        "unshare_host": "voter",
        "invite": "nobody",
        "redeem": "nobody",
        "put": "nobody",
    }

    def __init__(self, limits: MemberLimits = _LIMITS) -> None:
        super().__init__(_OPERATIONS)
        self._limits = limits
        self._members: dict[str, Member] = {}
        self._removed: set[str] = set()
        self._invitations: dict[str, Invitation] = {}  # by name: at most one for each
        self._secret_invitations: dict[str, SecretInvitation] = {}
        self.grants = Grants()  # no name is in here and among the invitations
        self._hosts: dict[str, str] = {}  # host -> the member's name: no host twice
        self._shared_hosts: set[str] = set()
        self._gateways: dict[str, Gateway] = {}
        self.on_removed: Callable[[str, int], None] | None = None
        """Replicated too: what else forgets a member in the entry, of this index, that removes it."""
        self.on_role: Callable[[str, WantedRole], None] | None = None
        """Replicated too: who else has to know, in the same entry, that a member's role changed."""

    def get(self, name: str) -> Member | None:
        """The member of this name."""
        return self._members.get(name)

    def members(self) -> list[Member]:
        """All members by name."""
        return [member for _, member in sorted(self._members.items())]

    def is_voter(self, name: str) -> bool:
        """True when a member of this name was admitted to vote."""
        member = self._members.get(name)
        return member is not None and member.role == "voter"

    def is_witness(self, name: str) -> bool:
        """True when a member of this name votes and is given no key."""
        member = self._members.get(name)
        return member is not None and member.witness

    def key_members(self) -> list[Member]:
        """The members that hold the token keys, by name: all but the witnesses."""
        return [member for member in self.members() if not member.witness]

    def has_ca_key(self, name: str) -> bool:
        """True when a member of this name is to hold the key of the CA: a voter that is no witness."""
        return self.is_voter(name) and not self.is_witness(name)

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
        """The gateway of a member; None where it has none, or has not said so."""
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

    def secret_invitations(self) -> list[SecretInvitation]:
        """All invitations of release 0.1.0, used and expired ones too, by expiry, then digest."""
        return sorted(self._secret_invitations.values(), key=lambda i: (i.expires_unix_ms, i.secret_sha256))

    def _issue_invitation(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = given["name"]
        self._refuse_invited_member(name)
        if given["expires_unix_ms"] <= now_unix_ms:
            raise Refused(InvalidInput("the invitation would have expired already: check the clocks"))
        kept = self._kept_invitations(now_unix_ms)
        older = kept.pop(name, None)
        live = self._live_secrets(now_unix_ms)
        superseded = {key for key, each in live.items() if each.name == name and each.used_by is None}
        live = {key: each for key, each in live.items() if key not in superseded}
        self._refuse_too_many(len(kept) + len(live) + self.grants.count(now_unix_ms, besides=name))
        self._refuse_full(name)
        kept[name] = Invitation(
            name=name,
            learner=given["learner"],
            public_key=given["public_key"],
            created_unix_ms=now_unix_ms,
            expires_unix_ms=given["expires_unix_ms"],
            used_by=None,
            witness=given.get("witness", False),
        )
        self._invitations = kept
        self._secret_invitations = live
        was_granted = self.grants.open(name, now_unix_ms) is not None
        self.grants.drop(name)
        return {
            "name": name,
            "learner": given["learner"],
            "expires_unix_ms": given["expires_unix_ms"],
            "replaced": was_granted or bool(superseded) or (older is not None and older.used_by is None),
        }

    def _grant(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = given["name"]
        self._refuse_invited_member(name)
        if self._key_taken(name, given["key_hash"]):
            raise Refused(Conflict("a member has the key of this request: make new ones (node request)"))
        kept = self._kept_invitations(now_unix_ms)
        older = kept.pop(name, None)
        others = len(kept) + len(self._live_secrets(now_unix_ms))
        self._refuse_too_many(others + self.grants.count(now_unix_ms, besides=name))
        self._refuse_full(name)
        self._invitations = kept
        made, replaced = self.grants.put(given, now_unix_ms)
        return {
            "name": name,
            "learner": made.learner,
            "expires_unix_ms": made.expires_unix_ms,
            "replaced": replaced or (older is not None and older.is_open(now_unix_ms)),
        }

    def _grant_witness(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        return self._grant({**given, "learner": False, "witness": True}, index, now_unix_ms)

    def _invite_witness(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        return self._invite_for({**given, "learner": False, "witness": True}, index, now_unix_ms)

    def _invite_for(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        expires_ms = (now_unix_ms // 1000 + given["ttl_s"]) * 1000
        made = self._issue_invitation({**given, "expires_unix_ms": expires_ms}, index, now_unix_ms)
        return {**made, "public_key": given["public_key"]}

    def _uninvite(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = given["name"]
        if name in self._members:
            raise Refused(Conflict(f"{name} has joined: remove it (member remove {name})"))
        granted = self.grants.drop(name)
        found = self._invitations.pop(name, None) is not None or granted
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
                witness=invitation.witness,
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
            member = self.grants.member_of(given, now_unix_ms)
        self._refuse_full(name)
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
        if member.announced == given["address"]:
            given = {**given, "address": member.address}  # nothing new: an operator knows better
        else:
            member = replace(member, announced=None)
        return self._put(replace(member, **given), index)

    def _set_role(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, role = given["name"], given["role"]
        member = self._existing(name)
        changed = member.role != role
        if role == "learner" and member.witness:
            raise Refused(Conflict(f"{name} is a witness and stays one: remove it instead"))
        if role == "learner" and not any(self.has_ca_key(each) for each in self._members if each != name):
            left = " that is no witness" if any(map(self.is_witness, self._members)) else ""
            raise Refused(Conflict(f"{name} is the only voter{left}: promote another member first"))
        if changed:
            self._put(replace(member, role=role), index)
            if self.on_role is not None:
                self.on_role(name, role)
        return {"name": name, "role": role, "changed": changed}

    def _set_address(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, address = given["name"], given["address"]
        member = self._existing(name)
        for other in self._members.values():
            if other.name != name and other.address == address:
                raise Refused(AlreadyExists(f"{address} is the address of {other.name}: see member list"))
        announced = member.announced or member.address
        wanted = replace(member, address=address, announced=None if announced == address else announced)
        self._put(wanted, index)
        return {"name": name, "address": wanted.address, "changed": wanted != member}

    def _invite(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, secret = given["name"], given["secret_sha256"]
        self._refuse_invited_member(name)
        if given["expires_unix_ms"] <= now_unix_ms:
            raise Refused(InvalidInput("the invitation would have expired already: check the clocks"))
        live = self._live_secrets(now_unix_ms)
        if secret in live:
            raise Refused(AlreadyExists("an invitation has this secret already: make a new secret"))
        most = self._limits.invitations
        if len(live) >= most:
            raise Refused(Overloaded(f"there are {most} invitations: wait until some expire"))
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
        if known is None:
            return self._put(Member(**given), index)
        role = "voter" if known.witness else given["role"]
        return self._put(replace(known, **{**given, "role": role}, announced=None), index)

    def _remove(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = given["name"]
        fresh = name not in self._removed
        if fresh:
            self._existing(name)
            del self._members[name]
            self._removed.add(name)
            self._drop_host(name)
            self._gateways.pop(name, None)
            self._invitations.pop(name, None)
        if self.on_removed is not None:
            self.on_removed(name, index)
        return {"name": name, "removed": fresh}

    def _set_gateway(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, gateway = given["name"], given["gateway"]
        if self._existing(name).witness and gateway is not None:
            raise Refused(Conflict(f"{name} is a witness, which has no gateway"))
        if gateway is None:
            self._gateways.pop(name, None)
        else:
            self._gateways[name] = gateway
        return {"name": name, "gateway": None if gateway is None else gateway._asdict()}

    def _set_host(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, host = given["name"], given["host"]
        member = self._existing(name)
        if host is not None:
            if member.witness:
                raise Refused(Conflict(f"{name} is a witness, which serves no sessions: use another member"))
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
            most = self._limits.shared_hosts
            if len(self._shared_hosts) >= most:
                raise Refused(Overloaded(f"{most} hosts are shared already: unshare one of them"))
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

    def _kept_invitations(self, now_unix_ms: int) -> dict[str, Invitation]:
        return {
            key: each
            for key, each in self._invitations.items()
            if now_unix_ms < each.expires_unix_ms + (0 if each.used_by is None else USED_KEPT_MS)
        }

    def _refuse_too_many(self, others: int) -> None:
        most = self._limits.invitations
        if others >= most:
            raise Refused(
                Overloaded(
                    f"there are {most} invitations: withdraw some (member uninvite), "
                    "or wait until some expire"
                )
            )

    def _refuse_invited_member(self, name: str) -> None:
        if name in self._members:
            raise Refused(AlreadyExists(f"there is a member {name} already: choose another name"))
        self._refuse_removed(name)

    def _refuse_removed(self, name: str) -> None:
        if name in self._removed:
            raise Refused(Conflict(f"member {name} was removed, names are never reused: choose another name"))

    def _refuse_full(self, name: str) -> None:
        most = self._limits.names
        if name not in self._members and len(self._members) + len(self._removed) >= most:
            raise Refused(Overloaded(f"{most} names of members are used up: make a new cluster"))

    def _raft_id_taken(self, name: str, raft_id: RaftId) -> bool:
        return any(other.raft_id == raft_id and other.name != name for other in self._members.values())

    def _key_taken(self, name: str, key_hash: str) -> bool:
        return any(other.key_hash == key_hash and other.name != name for other in self._members.values())

    def _refuse_other_raft_id(self, name: str, raft_id: RaftId) -> None:
        if name_of(raft_id) != name:
            raise Refused(InvalidInput(f"the raft id {raft_id} is not one of {name}: use NAME or NAME~LIFE"))

    def _put(self, member: Member, index: int) -> dict[str, Any]:
        self.grants.drop(member.name)
        self._members[member.name] = member
        return member.to_json()

    def export_state(self) -> dict[str, Any]:
        """The state for the snapshot, the same for the same state whatever its history.

        What release 0.1.0 did not know is left out where there is none: what it wrote stays readable, to
        the byte.
        """
        issued = {name: each.to_state() for name, each in self._invitations.items()}
        return {
            **({"issued_invitations": issued} if issued else {}),
            **({"grants": self.grants.export()} if self.grants.all() else {}),
            **({"hosts": self.hosts()} if self._hosts else {}),
            **({"shared_hosts": self.shared_hosts()} if self._shared_hosts else {}),
            **({"gateways": {k: v._asdict() for k, v in self._gateways.items()}} if self._gateways else {}),
            "invitations": {key: each.to_state() for key, each in self._secret_invitations.items()},
            "members": {name: member.to_state() for name, member in self._members.items()},
            "removed": self.removed(),
        }

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        given = json_object(state)
        optional = given.keys() & {"hosts", "shared_hosts", "gateways", "issued_invitations", "grants"}
        top = exact(given, {"invitations", "members", "removed"} | optional)
        if not all(top[key] for key in optional):
            raise ValueError("what is empty is not left out")
        try:
            secret_invitations = {
                check_digest(key): SecretInvitation(key, **checked(fields, SECRET_INVITATION))
                for key, fields in json_object(top["invitations"]).items()
            }
            invitations = {
                name: invitation(name, json_object(fields))
                for name, fields in json_object(top.get("issued_invitations", {})).items()
            }
            grants = Grants.restored(top.get("grants", {}))
            members = {
                name: stored_member(name, json_object(fields))
                for name, fields in json_object(top["members"]).items()
            }
            if type(top["removed"]) is not list:
                raise ValueError("removed names are not a list")
            names = [member_name(name) for name in top["removed"]]
            hosts = {
                check_host(host): member_name(name)
                for host, name in json_object(top.get("hosts", {})).items()
            }
            if type(top.get("shared_hosts", [])) is not list:
                raise ValueError("shared hosts are not a list")
            shared = [check_host(host) for host in top.get("shared_hosts", [])]
            gateways = {
                member_name(name): check_gateway(value)
                for name, value in json_object(top.get("gateways", {})).items()
            }
        except Malformed:
            raise ValueError("a member, a host or an invitation is not valid") from None
        held = (len(invitations), len(grants.names()), len(secret_invitations))
        if not (
            is_coherent(top, members, names, {*invitations, *grants.names()}, held, self._limits)
            and grants.names().isdisjoint({*invitations, *members})
            and are_ways_coherent(top, members, hosts, shared, gateways, self._limits)
        ):
            raise ValueError("members, invitations, hosts and removed names contradict each other")

        def commit() -> None:
            self._members = members
            self._removed = set(names)
            self._invitations = invitations
            self._secret_invitations = secret_invitations
            self.grants = grants
            self._hosts = hosts
            self._shared_hosts = set(shared)
            self._gateways = gateways

        return commit


_OPERATIONS: Operations = {
    "issue_invitation": (ARGUMENTS["issue_invitation"], MemberMachine._issue_invitation),
    "invite_for": (ARGUMENTS["invite_for"], MemberMachine._invite_for),
    "invite_witness": (ARGUMENTS["invite_witness"], MemberMachine._invite_witness),
    "uninvite": (ARGUMENTS["uninvite"], MemberMachine._uninvite),
    "admit": (ARGUMENTS["admit"], MemberMachine._admit),
    "grant": (GRANT, MemberMachine._grant),
    "grant_witness": (GRANT_WITNESS, MemberMachine._grant_witness),
    "announce": (ARGUMENTS["announce"], MemberMachine._announce),
    "invite": (ARGUMENTS["invite"], MemberMachine._invite),
    "redeem": (ARGUMENTS["redeem"], MemberMachine._redeem),
    "put": (ARGUMENTS["put"], MemberMachine._put_member),
    "set_role": (ARGUMENTS["set_role"], MemberMachine._set_role),
    "set_address": (ARGUMENTS["set_address"], MemberMachine._set_address),
    "remove": (ARGUMENTS["remove"], MemberMachine._remove),
    "set_host": (ARGUMENTS["set_host"], MemberMachine._set_host),
    "set_gateway": (ARGUMENTS["set_gateway"], MemberMachine._set_gateway),
    "share_host": (ARGUMENTS["share_host"], MemberMachine._share_host),
    "unshare_host": (ARGUMENTS["unshare_host"], MemberMachine._unshare_host),
}
