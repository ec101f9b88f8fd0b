"""Operations of a node on members: listing, inviting, removing them, handing leadership over."""

from __future__ import annotations

import time
from collections.abc import Callable

from cyoloctl.errors import CyoloctlError, NoLeader, NotFound, OutcomeUnknown, VersionMismatch
from cyoloctl.members.api import Member, MemberList, Status
from cyoloctl.members.changes import MemberChanges
from cyoloctl.members.granting import GrantOperations
from cyoloctl.members.joining import JoinOperations
from cyoloctl.members.levels import LevelMachine
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.records import WantedRole, asked_role
from cyoloctl.members.status import MemberStatus
from cyoloctl.model import RaftId, name_of, parse_dialable_address, parse_hostname
from cyoloctl.replicated.peer_calls import PeerCalls
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.security_log import log_security
from cyoloctl.text import Json

__all__ = ["MemberOperations"]


class MemberOperations:
    """Implements `members.api.MemberApi`.

    Any node takes any request.  What only the leader can do is passed to it,
    once, over the link between the two nodes.

    raft_id: this node's.  rotation_due: see `MemberChanges`.
    """

    def __init__(
        self,
        proposer: Proposer,
        members: MemberMachine,
        *,
        status: MemberStatus,
        joining: JoinOperations,
        granting: GrantOperations,
        calls: PeerCalls,
        raft_id: RaftId,
        rotation_due: Callable[[bool], bool],
        levels: LevelMachine,
    ) -> None:
        self._levels = levels
        self._proposer = proposer
        self._engine = proposer.engine
        self._members = members
        self._status = status
        self._joining = joining
        self._granting = granting
        self._calls = calls
        self._raft_id = raft_id
        self._changes = MemberChanges(
            proposer, members, status=status, calls=calls, raft_id=raft_id, rotation_due=rotation_due
        )

    # ------------------------------------------------------------- reading

    async def status(self, *, timeout_s: float) -> Status:
        """The cluster and its members, as this node knows them; never waits."""
        return self._status.status()

    async def list(self, *, consistency: str, timeout_s: float) -> MemberList:
        """Every member."""
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        return {"members": self._status.rows(self._engine.status())}

    async def show(self, name: str, *, consistency: str, timeout_s: float) -> Member:
        """One member.  Raises NotFound."""
        listed = await self.list(consistency=consistency, timeout_s=timeout_s)
        for row in listed["members"]:
            if row["name"] == name:
                return row
        raise NotFound(f"there is no member {name!r}: see `member list`")

    # ------------------------------------------------------------- inviting, joining

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
        role = asked_role(learner=learner, witness=witness)
        return await self._joining.invite(
            name, role=role, ttl_s=ttl_s, request_id=request_id, timeout_s=timeout_s
        )

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
        return await self._granting.grant(
            request=request,
            role=asked_role(learner=learner, witness=witness),
            ttl_s=ttl_s,
            certificate_pem=certificate_pem,
            request_id=request_id,
            timeout_s=timeout_s,
        )

    async def invitations(self, *, consistency: str, timeout_s: float) -> Json:
        """Every invitation that the cluster still knows."""
        return await self._joining.invitations(consistency=consistency, timeout_s=timeout_s)

    async def uninvite(self, name: str, *, request_id: str | None, timeout_s: float) -> Json:
        """Withdraw an invitation.  Raises NotFound, Conflict."""
        return await self._joining.uninvite(name, request_id=request_id, timeout_s=timeout_s)

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
        """Redeem a join token: the grant.  Raises InvitationRejected.

        level: the highest that the joiner understands; VersionMismatch where the cluster's is above.
        """
        if level < self._levels.level:
            raise VersionMismatch(
                f"the cluster is at level {self._levels.level}, and your release understands level {level}: "
                f"install release {self._levels.release} or a later one, then join with the same token"
            )
        request = {
            "name": name,
            "public_key": public_key,
            "signature": signature,
            "request_pem": request_pem,
            "sealing_key": sealing_key,
            "address": address,
            "ca_sha256": ca_sha256,
        }
        return await self._joining.join(request, passed_on=False, timeout_s=timeout_s)

    # ------------------------------------------------------------- changing

    async def set_host(
        self, name: str, *, host: str | None, request_id: str | None, timeout_s: float
    ) -> Json:
        """Give a member its host name, None: take it away.  Raises NotFound, AlreadyExists."""
        arguments = {"name": name, "host": None if host is None else parse_hostname(host)}
        _, value, _ = await self._proposer.apply(
            "members", "set_host", arguments, request_id=request_id, timeout_s=timeout_s
        )
        return value

    async def remove(
        self, name: str, *, force: bool, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> Json:
        """Remove a member.  Raises NotFound, Conflict, NoLeader, OutcomeUnknown."""
        given = {"name": name, "force": force, "dry_run": dry_run}
        if dry_run:
            return await self._calls.at_leader("remove", given, self._changes.remove, timeout_s)

        async def remove() -> Json:
            answer = await self._calls.at_leader("remove", given, self._changes.remove, timeout_s)
            log_security("member remove", member=name, force=force)
            return answer

        try:
            return await self._proposer.once(
                "member_remove",
                {"name": name, "force": force},
                remove,
                request_id=self._recordable(name, request_id),
                timeout_s=timeout_s,
            )
        except (NoLeader, OutcomeUnknown) as error:
            raise self._unfinished(name, force, error) from None

    async def promote(self, name: str, *, dry_run: bool, request_id: str | None, timeout_s: float) -> Json:
        """Make a member a voter.  Raises NotFound, Conflict, NoLeader, OutcomeUnknown."""
        return await self._set_role(name, "voter", dry_run, request_id, timeout_s)

    async def demote(self, name: str, *, dry_run: bool, request_id: str | None, timeout_s: float) -> Json:
        """Make a member a learner.  Raises NotFound, Conflict, NoLeader, OutcomeUnknown."""
        return await self._set_role(name, "learner", dry_run, self._recordable(name, request_id), timeout_s)

    async def _set_role(
        self, name: str, role: WantedRole, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> Json:
        given = {"name": name, "role": role, "dry_run": dry_run}
        operation = "member_promote" if role == "voter" else "member_demote"
        if dry_run:
            return await self._calls.at_leader("set_role", given, self._changes.set_role, timeout_s)

        deadline = time.monotonic() + timeout_s

        async def change() -> Json:
            try:
                answer = await self._calls.at_leader("set_role", given, self._changes.set_role, timeout_s)
            except OutcomeUnknown as error:
                await self._follow_role(name, role, deadline, error)
                given["dry_run"] = True  # it is done, and what it came to is asked for
                left = max(0.1, deadline - time.monotonic())
                answer = await self._calls.at_leader("set_role", given, self._changes.set_role, left)
                answer |= {"changed": True, "dry_run": False}
            log_security(operation.replace("_", " "), member=name)
            return answer

        return await self._proposer.once(
            operation, {"name": name}, change, request_id=request_id, timeout_s=timeout_s
        )

    async def _follow_role(self, name: str, role: WantedRole, deadline: float, error: OutcomeUnknown) -> None:
        """Wait until a leader has done what another one began.  Raises the error at the deadline."""
        while True:
            member, voters = self._members.get(name), self._engine.status().voters
            votes = any(name_of(raft_id) == name for raft_id in voters)
            if member is not None and member.role == role and votes == (role == "voter"):
                return
            if time.monotonic() >= deadline - 0.1:
                raise error
            await self._engine.wait_changed(0.1)

    async def set_address(
        self, name: str, *, address: str, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> Json:
        """Tell every member where another one is.  Raises NotFound, AlreadyExists, Conflict."""
        wanted = str(parse_dialable_address(address))
        given = {"name": name, "address": wanted, "dry_run": dry_run}
        if dry_run:
            return await self._calls.at_leader("set_address", given, self._changes.set_address, timeout_s)

        async def change() -> Json:
            answer = await self._calls.at_leader("set_address", given, self._changes.set_address, timeout_s)
            log_security("member set-address", member=name, address=answer["address"])
            return answer

        return await self._proposer.once(
            "member_set_address",
            {"name": name, "address": wanted},
            change,
            request_id=request_id,
            timeout_s=timeout_s,
        )

    async def transfer_leadership(
        self, *, to: str | None, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> Json:
        """Hand leadership over, to: None: to any voter.  Raises NotFound, Conflict."""
        if to is not None and self._members.get(to) is None:
            raise NotFound(f"there is no member {to!r}: see `member list`")
        changes = self._changes
        if dry_run:
            preview = changes.preview_transfer
            return await self._calls.at_leader("preview_transfer", {"to": to}, preview, timeout_s)

        async def transfer() -> Json:
            answer = await self._calls.at_leader("transfer", {"to": to}, changes.transfer, timeout_s)
            log_security("member transfer-leadership", member=answer["leader"])
            return answer

        return await self._proposer.once(
            "transfer_leadership", {"to": to}, transfer, request_id=request_id, timeout_s=timeout_s
        )

    def _recordable(self, name: str, request_id: str | None) -> str | None:
        """The request id, unless this node is the one that votes no more: nobody takes a record from it.

        Repeated, the command finds nothing left to do.
        """
        return None if name == name_of(self._raft_id) else request_id

    def _unfinished(self, name: str, force: bool, error: CyoloctlError) -> CyoloctlError:
        """What is known of a removal that did not end, and what brings it to an end."""
        status = self._engine.status()
        voters = sorted(name_of(raft_id) for raft_id in status.voters)
        present = {self._raft_id, *status.connected}
        away = sorted(name_of(raft_id) for raft_id in status.voters if raft_id not in present)
        needed = f"a majority of the voters ({', '.join(voters)}) must be up, and {', '.join(away)} "
        needed += f"{'is' if len(away) == 1 else 'are'} not: start what is away"
        begun = any(name_of(raft_id) == name for raft_id in status.removed)
        if begun or isinstance(error, OutcomeUnknown):
            first = f"{needed}, and" if away else "look at `member list`, or"
            return OutcomeUnknown(
                f"{name} may be removed or not: {first} repeat the command, which does nothing twice"
            )
        if not away:
            return error
        more = ", because --force does not replace a majority" if force else ""
        return NoLeader(f"{name} was not removed: {needed}{more}")
