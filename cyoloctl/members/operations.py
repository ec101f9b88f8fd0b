"""Operations of a node on members: listing, inviting, removing them, handing leadership over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

from cyoloctl.audit import audit
from cyoloctl.errors import Conflict, CyoloctlError, NoLeader, NotFound, OutcomeUnknown
from cyoloctl.members.api import Member, MemberList, Status
from cyoloctl.members.joining import JoinOperations
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.status import MemberStatus
from cyoloctl.members.voting import patiently
from cyoloctl.model import RaftId, majority, name_of, parse_hostname
from cyoloctl.replicated.peer_calls import PeerCalls
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.text import Json

__all__ = ["MemberOperations"]

_log = logging.getLogger("cyoloctl.node")


class MemberOperations:
    """Implements `members.api.MemberApi`.

    Any node takes any request.  What only the leader can do is passed to it,
    once, over the link between the two nodes.

    raft_id: this node's.  rotation_due: whether a removed member knows the
    key of the CA.
    """

    def __init__(
        self,
        proposer: Proposer,
        members: MemberMachine,
        *,
        status: MemberStatus,
        joining: JoinOperations,
        calls: PeerCalls,
        raft_id: RaftId,
        rotation_due: Callable[[], bool],
    ) -> None:
        self._proposer = proposer
        self._engine = proposer.engine
        self._members = members
        self._status = status
        self._joining = joining
        self._calls = calls
        self._raft_id = raft_id
        self._rotation_due = rotation_due
        calls.offer(
            "remove",
            {"name": str, "force": bool, "dry_run": bool},
            lambda peer, given, timeout_s: self._remove(**given, timeout_s=timeout_s),
            to="voters of the leader",
        )
        calls.offer(
            "transfer",
            {"to": (str, type(None))},
            lambda peer, given, timeout_s: self._transfer(**given, timeout_s=timeout_s),
            to="voters of the leader",
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
        self, *, name: str, learner: bool, ttl_s: int, request_id: str | None, timeout_s: float
    ) -> Json:
        """A single-use join token, in the place of an older one for this name."""
        return await self._joining.invite(
            name, learner=learner, ttl_s=ttl_s, request_id=request_id, timeout_s=timeout_s
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
        timeout_s: float,
    ) -> Json:
        """Redeem a join token: the grant.  Raises InvitationRejected."""
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
            return await self._calls.at_leader("remove", given, self._remove, timeout_s)
        if name == name_of(self._raft_id):
            request_id = (
                None  # nobody takes a record from a node that is out; repeated, it finds the name gone
            )

        async def remove() -> Json:
            answer = await self._calls.at_leader("remove", given, self._remove, timeout_s)
            audit("member remove", member=name, force=force)
            return answer

        try:
            return await self._proposer.once(
                "member_remove",
                {"name": name, "force": force},
                remove,
                request_id=request_id,
                timeout_s=timeout_s,
            )
        except (NoLeader, OutcomeUnknown) as error:
            raise self._unfinished(name, force, error) from None

    async def transfer_leadership(self, *, to: str | None, request_id: str | None, timeout_s: float) -> Json:
        """Hand leadership over, to: None: to any voter.  Raises NotFound, Conflict."""
        if to is not None and self._members.get(to) is None:
            raise NotFound(f"there is no member {to!r}: see `member list`")

        async def transfer() -> Json:
            return await self._calls.at_leader("transfer", {"to": to}, self._transfer, timeout_s)

        return await self._proposer.once(
            "transfer_leadership", {"to": to}, transfer, request_id=request_id, timeout_s=timeout_s
        )

    async def _remove(self, name: str, force: bool, dry_run: bool, timeout_s: float) -> Json:
        deadline = time.monotonic() + timeout_s
        await self._engine.read_barrier(timeout_s=timeout_s)
        status = self._engine.status()
        rows = {row["name"]: row for row in self._status.rows(status)}
        if name not in rows:
            if name in self._members.removed():
                return self._removal(name, dry_run, rows, rows)
            raise NotFound(f"there is no member {name!r}: see `member list`")
        after = {other: row for other, row in rows.items() if other != name}
        answer = self._removal(name, dry_run, rows, after)
        voters_after = [row for row in after.values() if row["role"] != "learner"]
        is_voter = rows[name]["role"] != "learner"
        if is_voter:
            if not voters_after:
                raise Conflict(f"{name} is the only voter: a cluster cannot remove its last one")
            reachable = sum(1 for row in voters_after if row["reachable"])
            if reachable < majority(len(voters_after)) and not force:
                raise Conflict(
                    f"without {name} {reachable} of {len(voters_after)} voters are reachable, no majority: "
                    "bring a member back first (with --force --yes the cluster stands still until then)"
                )
        if dry_run:
            return answer
        member = self._members.get(name)
        raft_ids = {raft_id for raft_id in status.voters if name_of(raft_id) == name}
        if member is not None:
            raft_ids.add(member.raft_id)
        if self._raft_id in raft_ids:
            await self._engine.transfer_leadership(None, timeout_s=max(0.1, deadline - time.monotonic()))
            raise NoLeader("leadership is handed over before the leader is removed: try again")
        if member is not None and member.role == "learner":
            # First: the node that finishes the removal no longer knows that it never had the CA's key.
            await self._proposer.apply(
                "authorities",
                "exempt",
                {"name": name},
                request_id=None,
                timeout_s=max(0.1, deadline - time.monotonic()),
            )
        for raft_id in sorted(raft_ids):
            await patiently(partial(self._engine.remove, raft_id, force=force), deadline)
        if member is not None:
            await self._proposer.apply(
                "members",
                "remove",
                {"name": name},
                request_id=None,
                timeout_s=max(0.1, deadline - time.monotonic()),
            )
        _log.info("member removed", extra={"member": name})
        return answer

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

    def _removal(
        self, name: str, dry_run: bool, before: Mapping[str, Member], after: Mapping[str, Member]
    ) -> Json:
        def tolerance(rows: Mapping[str, Member]) -> int:
            voters = [row for row in rows.values() if row["role"] != "learner"]
            return sum(1 for row in voters if row["reachable"]) - majority(len(voters))

        return {
            "name": name,
            "removed": not dry_run,
            "dry_run": dry_run,
            "failure_tolerance_before": tolerance(before),
            "failure_tolerance_after": tolerance(after),
            # A voter has had the CA's key: until the CA is exchanged it can vouch for anybody.
            "ca_rotation_due": (name in before and before[name]["role"] != "learner") or self._rotation_due(),
        }

    async def _transfer(self, to: str | None, timeout_s: float) -> Json:
        deadline = time.monotonic() + timeout_s
        target = None
        if to is not None:
            member = self._members.get(to)
            if member is None:
                raise NotFound(f"there is no member {to!r}: see `member list`")
            target = member.raft_id
        previous = name_of(self._raft_id)
        await self._engine.transfer_leadership(target, timeout_s=timeout_s)
        while (leader := self._engine.leader()) is None and time.monotonic() < deadline:
            await self._engine.wait_changed(0.05)
        if leader is None:
            raise OutcomeUnknown(
                f"{previous} leads no more, and nobody is known to lead yet: see `cyoloctl status`, "
                "and repeat the command if the wrong one does"
            )
        return {"leader": name_of(leader), "previous": previous}
