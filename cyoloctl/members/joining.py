"""Invitations, and admitting the nodes that hold one.

A joiner is unknown yet.  Its request is checked against this
node's own copy of the log first; what no open invitation backs there reaches
the cluster (a read barrier, never a log entry) a few times per second at most.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from cyoloctl.errors import (
    ConfigError,
    Conflict,
    CyoloctlError,
    InvalidInput,
    InvitationRejected,
    Overloaded,
    Unavailable,
)
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.records import REJECTED, AskedRole, Invitation
from cyoloctl.model import Address, LocalNode, NodeName, name_of, parse_address, same_place
from cyoloctl.pki import join_token
from cyoloctl.pki.ca import CertificateIssuer
from cyoloctl.pki.files import NodeFiles
from cyoloctl.pki.grants import make_grant
from cyoloctl.pki.requests import check_request, csr_sha256
from cyoloctl.pki.x509 import certificate_sha256, public_key_sha256
from cyoloctl.replicated.proposer import Proposer, step_of
from cyoloctl.security_log import log_security
from cyoloctl.text import Json, from_unix_ms, rfc3339

__all__ = ["JOIN_FIELDS", "Allowance", "JoinOperations"]

_log = logging.getLogger("cyoloctl.node")

JOIN_FIELDS = ("name", "public_key", "signature", "request_pem", "sealing_key", "address", "ca_sha256")
"""Fields of a join request, all of them text; see `members.api`."""

_UNBACKED_PER_S, _UNBACKED_AT_ONCE = 2.0, 5
_BACKED_PER_S, _BACKED_AT_ONCE = 10.0, 20


class Allowance:
    """A rate: per_s in each second on average, at_once after a pause.  clock: seconds, monotonic."""

    def __init__(self, per_s: float, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._at_once = float(at_once)
        self._clock = clock
        self._left = self._at_once
        self._seen = clock()

    def take(self) -> bool:
        """Use one; False when none is left now."""
        now = self._clock()
        self._left = min(self._at_once, self._left + (now - self._seen) * self._per_s)
        self._seen = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class JoinOperations:
    """Operations for those who invite and those who join.

    files: the node's files as they are now.  issuer: the CA of new
    certificates; raises ConfigError where this node holds no CA key.  addresses: where members are, by
    name.  ask: passes an operation on to the node of a raft id or name, once.
    secrets: what a request id gives under each private key of this node that may vouch for a joiner.
    """

    def __init__(
        self,
        proposer: Proposer,
        node: LocalNode,
        members: MemberMachine,
        *,
        files: Callable[[], NodeFiles],
        issuer: Callable[[], CertificateIssuer],
        addresses: Callable[[], Mapping[str, str]],
        ask: Callable[[str, str, Json, float], Awaitable[Json]],
        secrets: Callable[[str], Sequence[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._proposer = proposer
        self._node = node
        self._engine = proposer.engine
        self._members = members
        self._files = files
        self._issuer = issuer
        self._addresses = addresses
        self._ask = ask
        self._secrets = secrets
        self._unbacked = Allowance(_UNBACKED_PER_S, _UNBACKED_AT_ONCE, clock)
        self._backed = Allowance(_BACKED_PER_S, _BACKED_AT_ONCE, clock)
        self._turned_away = 0

    # ------------------------------------------------------------- inviting

    async def invite(
        self, name: str, *, role: AskedRole, ttl_s: int, request_id: str | None, timeout_s: float
    ) -> Json:
        """A join token for a name, in the place of an older one.

        Under a request id the token's secret is what the id gives under a
        private key of this node: a repetition gives the same token, and the
        cluster keeps no secret.  The journal has a hash of the id, so whoever
        steals it with the key cannot make the token either.  Raises Conflict
        where the key is another node's, or gone, and where the CA is kept offline.
        """
        if self._node.offline_ca:
            raise Conflict(
                "the key of the CA is kept offline, so that nobody joins by a token: there `cyoloctl node "
                "request`, here `cyoloctl member grant --ca-file FILE`, there `cyoloctl node accept`"
            )
        await self.founded(timeout_s)
        await self._proposer.in_time(timeout_s=timeout_s)

        def public(secret: str) -> str:
            return join_token.public_key(secret, self._node.cluster_id, name)

        secret, made = await self._issue(name, role, public, ttl_s, request_id, timeout_s)
        expires_unix_s = made["expires_unix_ms"] // 1000
        log_security("member invite", member=name, role=role)
        token = join_token.JoinToken(
            cluster_id=self._node.cluster_id,
            cluster=self._node.cluster,
            ca_sha256=",".join(certificate_sha256(pem) for pem in self._files().authorities[-2:]),
            name=NodeName(name),
            learner=role == "learner",
            witness=role == "witness",
            secret=secret,
            expires_unix_s=expires_unix_s,
            members=tuple(self._whom_to_dial(name).items())[: join_token.MAX_TOKEN_MEMBERS],
        )
        return {
            "token": join_token.encode_token(token),
            "name": name,
            "learner": role == "learner",
            "witness": role == "witness",
            "expires_at": rfc3339(expires_unix_s),
            "replaced": made["replaced"],
        }

    async def _issue(
        self,
        name: str,
        role: AskedRole,
        public: Callable[[str], str],
        ttl_s: int,
        request_id: str | None,
        timeout_s: float,
    ) -> tuple[str, Json]:
        """The secret of a new invitation, or of that which the request id made, and the cluster's answer."""
        arguments: Json = {"name": name, "learner": role == "learner"}
        secrets: Sequence[str] = [join_token.new_secret()]
        once, operation = None, "issue_invitation"
        if request_id is not None:
            secrets = self._secrets(f"invitation of {name}\0{request_id}")
            once, operation = step_of(request_id, "invite"), "invite_for"
        if role == "witness":
            operation = "invite_witness"
            del arguments["learner"]
        arguments["public_key"] = public(secrets[0])
        if operation == "issue_invitation":
            # By the cluster's time, which decides when it expires; this machine's clock may be wrong.
            arguments["expires_unix_ms"] = (self._proposer.now_ms() // 1000 + ttl_s) * 1000
        else:
            arguments["ttl_s"] = ttl_s
        _, made, _ = await self._proposer.apply(
            "members", operation, arguments, request_id=once, timeout_s=timeout_s
        )
        if operation == "issue_invitation":
            return secrets[0], made
        mine = [each for each in secrets if public(each) == made["public_key"]]
        if not mine:
            raise Conflict(
                f"the token for {name} was made under a key that this node does not have: repeat the "
                "command where it was made, or invite with a new request id, which replaces it"
            )
        return mine[0], made

    async def founded(self, timeout_s: float) -> None:
        """Return when there is a member.

        The first node of a cluster records itself, and may do so only while
        there is no other: a guest that came before would shut it out.
        """
        deadline = time.monotonic() + timeout_s
        while not self._members.members():
            left = deadline - time.monotonic()
            if left <= 0:
                raise Unavailable("this node has not recorded itself as a member yet: try again")
            await self._engine.wait_changed(min(0.05, left))

    def _whom_to_dial(self, joiner: str) -> dict[NodeName, Address]:
        """This node, the voters and the learners, in this order, with their addresses."""
        addresses = self._addresses()
        own = addresses.get(self._node.name, str(self._node.advertise))
        found = {self._node.name: parse_address(own)}

        def is_learner(name: str) -> bool:
            member = self._members.get(name)
            return member is None or member.role == "learner"

        for name in sorted(addresses, key=lambda each: (is_learner(each), each)):
            if name != joiner:
                found.setdefault(NodeName(name), parse_address(addresses[name]))
        return found

    async def invitations(self, *, consistency: str, timeout_s: float) -> Json:
        """Every invitation that the cluster still knows, by name."""
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        now_ms = self._proposer.now_ms()

        def state(used_by: str | None, expires_unix_ms: int, otherwise: str) -> str:
            return "used" if used_by else "expired" if now_ms >= expires_unix_ms else otherwise

        rows = [
            {
                "name": each.name,
                "learner": each.learner,
                "witness": each.witness,
                "created_at": rfc3339(each.created_unix_ms / 1000),
                "expires_at": rfc3339(each.expires_unix_ms / 1000),
                "state": state(each.used_by, each.expires_unix_ms, "open"),
                "by": "token",
            }
            for each in self._members.invitations()
        ]
        rows += [
            {
                "name": old.name,
                "learner": old.learner,
                "witness": False,
                "created_at": None,
                "expires_at": rfc3339(old.expires_unix_ms / 1000),
                "state": state(old.used_by, old.expires_unix_ms, "outdated"),
                "by": "token",
            }
            for old in self._members.secret_invitations()
        ]
        rows += [
            {
                "name": granted.name,
                "learner": granted.learner,
                "witness": granted.witness,
                "created_at": rfc3339(granted.created_unix_ms / 1000),
                "expires_at": rfc3339(granted.expires_unix_ms / 1000),
                "state": state(None, granted.expires_unix_ms, "open"),
                "by": "file",
            }
            for granted in self._members.grants.all()
        ]
        return {"invitations": sorted(rows, key=lambda row: str(row["name"]))}

    async def uninvite(self, name: str, *, request_id: str | None, timeout_s: float) -> Json:
        """Withdraw an invitation."""
        _, done, _ = await self._proposer.apply(
            "members", "uninvite", {"name": name}, request_id=request_id, timeout_s=timeout_s
        )
        _log.info("invitation withdrawn", extra={"member": name})
        log_security("member uninvite", member=name)
        return done

    # ------------------------------------------------------------- joining

    def authorities(self) -> Json:
        """The CAs of this cluster, for anyone who compares them with a digest that they trust."""
        return {
            "cluster_id": self._node.cluster_id,
            "certificates": list(self._files().authorities),
        }

    async def join(self, request: Mapping[str, str], *, passed_on: bool, timeout_s: float) -> Json:
        """Admit a node, or give the one that was admitted its answer again: the grant.

        request: JOIN_FIELDS.  passed_on: another member asks for the joiner, and
        nothing is passed on a second time; the signature is checked all the same.
        """
        deadline = time.monotonic() + timeout_s
        name = request["name"]
        request_sha256 = csr_sha256(request["request_pem"])
        invitation = await self._find_invitation(request, request_sha256, timeout_s)
        check_request(request["request_pem"], name, request["sealing_key"], self._node.cluster_id)
        if invitation.used_by is None:
            self.refuse_taken_address(name, request["address"])
        if not self._backed.take():
            raise Overloaded("this node is asked to admit too many nodes at once: try again in a second")
        left = max(0.1, deadline - time.monotonic())
        try:
            issuer = self._issuer()
        except ConfigError:
            if passed_on:
                raise
            return await self._pass_to_ca_holder(dict(request), left)
        if certificate_sha256(issuer.authority.ca_pem) not in request["ca_sha256"].split(","):
            # Before the invitation is used: the joiner would refuse a certificate of another CA.
            raise Conflict(
                "the cluster has another certificate authority than when the token was made: "
                f"invite the node again (member invite --name {name})"
            )
        if invitation.used_by is None:
            await self._admit(request, request_sha256, left)
        peers: dict[str, Address] = {
            peer: parse_address(where) for peer, where in self._addresses().items() if peer != name
        }
        peers.setdefault(self._node.name, self._node.advertise)
        return make_grant(
            ca_cert_pem=issuer.authority.ca_pem,
            ca_key_pem=issuer.authority.key_pem,
            request_pem=request["request_pem"],
            sealing_key=request["sealing_key"],
            name=name,
            cluster=self._node.cluster,
            learner=invitation.learner,
            witness=invitation.witness,
            storage=self._node.storage,
            peers=peers,
            # By the cluster's time: those who check the certificate do the same.
            now=from_unix_ms(self._proposer.now_ms()),
            days=issuer.days,
            trust_pem=issuer.trust_pem,
        )

    def refuse_taken_address(self, name: str, address: str) -> None:
        """Refuse an address at which the others would reach somebody else.  Raises Conflict."""
        asked = parse_address(address)
        for member in self._members.members():
            if member.name != name and same_place(parse_address(member.address), asked):
                raise Conflict(
                    f"{address} is the address of member {member.name}: join with another --listen or "
                    f"--advertise, or, if {member.name} is gone, remove it first "
                    f"(`cyoloctl member remove {member.name}`)"
                )

    async def _admit(self, request: Mapping[str, str], request_sha256: str, timeout_s: float) -> None:
        name = request["name"]
        arguments = {
            "name": name,
            "public_key": request["public_key"],
            "request_sha256": request_sha256,
            "address": request["address"],
            "sealing_key": request["sealing_key"],
            "raft_id": name,
            "key_hash": public_key_sha256(request["request_pem"]),
        }
        _, admitted, _ = await self._proposer.apply(
            "members", "admit", arguments, request_id=None, timeout_s=timeout_s
        )
        role = "witness" if self._members.is_witness(name) else admitted["role"]
        _log.info("member admitted", extra={"member": name, "role": role})
        log_security("member admit", member=name, role=role, key_hash=arguments["key_hash"])

    async def _find_invitation(
        self, request: Mapping[str, str], request_sha256: str, timeout_s: float
    ) -> Invitation:
        """The invitation whose holder signed what is asked.

        Raises InvitationRejected, the same for every reason; Overloaded where
        this node has asked the cluster often enough for such as these.
        """
        found = self._verify(request, request_sha256)
        if isinstance(found, Invitation):
            return found
        if not self._unbacked.take():
            self._turned_away += 1
            raise Overloaded("too many nodes ask to join without a known invitation: try again in a second")
        # It may have been made a moment ago, at another member.
        await self._proposer.fresh(timeout_s=timeout_s)
        found = self._verify(request, request_sha256)
        if isinstance(found, Invitation):
            return found
        facts: dict[str, Any] = {"reason": found, "member": request["name"], "_seldom": True}
        if self._turned_away:
            facts["turned_away_before"] = self._turned_away
            self._turned_away = 0
        _log.warning("join refused", extra=facts)
        raise InvitationRejected(REJECTED)

    def _verify(self, request: Mapping[str, str], request_sha256: str) -> Invitation | str:
        """The invitation, or why there is none, by this node's copy of the log."""
        name = request["name"]
        invitation = self._members.invitation(name)
        if self._members.is_removed(name):
            return "removed"
        if invitation is None:
            return "unknown"
        if invitation.public_key != request["public_key"]:
            return "other key"
        joined = self._members.get(name) is not None
        if invitation.used_by is not None:
            if invitation.used_by != request_sha256 or not joined:
                return "used"
        elif joined:
            return "name taken"
        elif not invitation.is_open(self._proposer.now_ms()):
            return "expired"
        signed = join_token.JoinRequest(
            cluster_id=self._node.cluster_id,
            name=name,
            request_sha256=request_sha256,
            address=request["address"],
            sealing_key=request["sealing_key"],
            ca_sha256=request["ca_sha256"],
        )
        return (
            invitation
            if join_token.signed_by(invitation.public_key, request["signature"], signed)
            else "forged"
        )

    async def _pass_to_ca_holder(self, request: Json, timeout_s: float) -> Json:
        """Let a voter that holds the CA key admit it: the leader, or another one that is connected."""
        deadline = time.monotonic() + timeout_s
        status = self._engine.status()
        names = [] if status.leader is None else [name_of(status.leader)]
        names += sorted({name_of(voter) for voter in status.voters} & self._engine.peers().keys())
        problem: CyoloctlError = ConfigError(
            "this node holds no CA key, and no voter that does is connected: join through another voter"
        )
        for name in dict.fromkeys(names):
            left = deadline - time.monotonic()
            if name == self._node.name or left <= 0.1:
                continue
            try:
                return await self._ask(name, "join", request, left)
            except (InvitationRejected, InvalidInput, Conflict):
                raise
            except (ConfigError, Unavailable) as error:
                problem = error
        raise problem
