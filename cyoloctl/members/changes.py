"""Changes of who votes, who leads and who belongs to the cluster, as its leader makes them.

One at a time: another one is refused while one is under way, and a repetition
of the same one waits for it.  Each is checked first, and a preview ends there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import NamedTuple

from cyoloctl.errors import (
    AlreadyExists,
    Conflict,
    CyoloctlError,
    NoLeader,
    NotFound,
    OutcomeUnknown,
)
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.records import Member, WantedRole
from cyoloctl.members.standing import failures_tolerated
from cyoloctl.members.status import MemberStatus
from cyoloctl.members.voting import patiently
from cyoloctl.model import RaftId, majority, name_of, parse_address, same_place
from cyoloctl.raft import Limits, ReplicaStatus
from cyoloctl.replicated.peer_calls import Fields, PeerCalls
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.text import Json

__all__ = ["MemberChanges", "Votes"]

_log = logging.getLogger("cyoloctl.node")

_CATCH_UP_S = 2.0
"""How long a learner that lags is given before its promotion is refused: under load each lags a little."""
_PROMOTE_LAG = Limits().promote_lag


class Votes(NamedTuple):
    """Which members the leader reaches, which run, and which pairs have no link, as far as it knows.

    witnesses: those that are given no key, and lead only where no other can.
    """

    linked: Collection[str]
    up: Collection[str]
    apart: Collection[tuple[str, str]]
    witnesses: Collection[str] = ()

    def of(self, voters: Iterable[str]) -> Json:
        """How these voters stand: their number, the quorum, how many more may fail, who is reachable.

        can_lead: how many of them are no witnesses, which count as voters in all the other figures.

        A failure tolerance below 0 says how many are missing.
        """
        names = sorted(set(voters))
        here, quorum = [name for name in names if name in self.up], majority(len(names))
        missing = min(0, len(here) - quorum)
        return {
            "voters": len(names),
            "can_lead": sum(name not in self.witnesses for name in names),
            "quorum": quorum,
            "failure_tolerance": missing or failures_tolerated(here, self.apart, quorum),
            "reachable": here,
            "unreachable": [name for name in names if name not in here],
        }

    def refuse_without_leaders(self, name: str, left: Collection[str]) -> None:
        """Raises Conflict where nobody but witnesses would be left to vote."""
        if set(left) <= set(self.witnesses):
            only = f" that is no witness ({', '.join(sorted(left))} would be left)" if left else ""
            raise Conflict(f"{name} is the only voter{only}: promote another member first")

    def refuse_without_quorum(self, name: str, left: Collection[str], hint: str) -> None:
        """Raises Conflict where no majority of the voters that are left is reachable."""
        here = [other for other in left if other in self.linked]
        if len(here) < majority(len(left)):
            raise Conflict(
                f"without {name} {len(here)} of {len(left)} voters are reachable, no majority: "
                f"bring a member back first{hint}"
            )


class MemberChanges:
    """The leader's part of `MemberOperations`.

    raft_id: this node's.  rotation_due: whether somebody who votes no more
    knows the key of the CA; given whether a voter is about to be such a one.
    """

    def __init__(
        self,
        proposer: Proposer,
        members: MemberMachine,
        *,
        status: MemberStatus,
        calls: PeerCalls,
        raft_id: RaftId,
        rotation_due: Callable[[bool], bool],
    ) -> None:
        self._proposer = proposer
        self._engine = proposer.engine
        self._members = members
        self._status = status
        self._raft_id = raft_id
        self._rotation_due = rotation_due
        self._under_way: str | None = None
        self._offer(calls, "remove", {"name": str, "force": bool, "dry_run": bool}, self.remove)
        self._offer(calls, "set_role", {"name": str, "role": str, "dry_run": bool}, self.set_role)
        self._offer(calls, "set_address", {"name": str, "address": str, "dry_run": bool}, self.set_address)
        self._offer(calls, "transfer", {"to": (str, type(None))}, self.transfer)
        self._offer(calls, "preview_transfer", {"to": (str, type(None))}, self.preview_transfer)

    def _offer(
        self, calls: PeerCalls, name: str, fields: Fields, run: Callable[..., Awaitable[Json]]
    ) -> None:
        async def answer(peer: str, given: Json, timeout_s: float) -> Json:
            return await run(**given, timeout_s=timeout_s)

        calls.offer(name, fields, answer, to="voters of the leader")

    # ------------------------------------------------------------- one at a time

    @asynccontextmanager
    async def _alone(self, what: str, deadline: float, *, dry_run: bool = False) -> AsyncIterator[None]:
        """Nothing else changes meanwhile.  Raises Conflict."""
        while self._under_way == what and time.monotonic() < deadline:
            await self._engine.wait_changed(0.05)
        if self._under_way is not None:
            raise Conflict(
                f"another change of the members is under way ({self._under_way}): "
                "repeat the command when it has ended"
            )
        if dry_run:
            yield
            return
        self._under_way = what
        try:
            yield
        finally:
            self._under_way = None

    async def _settled(self, deadline: float) -> None:
        """Return when no change of the voters waits to be committed.  Raises Conflict."""
        while self._engine.status().changing:
            if time.monotonic() > deadline - 0.2:
                raise Conflict(
                    "a change of the voters is under way and not committed yet: see `cyoloctl status`, "
                    "and repeat the command when a majority is up"
                )
            await self._engine.wait_changed(0.05)

    def _votes(self) -> Votes:
        witnesses = [member.name for member in self._members.members() if member.witness]
        return Votes(*self._status.standing(), witnesses)

    def _member(self, name: str) -> Member:
        member = self._members.get(name)
        if member is None:
            raise NotFound(f"there is no member {name!r}: see `member list`")
        return member

    # ------------------------------------------------------------- roles

    async def set_role(self, name: str, role: str, dry_run: bool, timeout_s: float) -> Json:
        """Make a member a voter or a learner.  Raises NotFound, Conflict, NoLeader, OutcomeUnknown."""
        deadline = time.monotonic() + timeout_s
        wanted: WantedRole = "voter" if role == "voter" else "learner"
        what = f"{'promote' if wanted == 'voter' else 'demote'} {name}"
        await self._engine.read_barrier(timeout_s=timeout_s)
        async with self._alone(what, deadline, dry_run=dry_run):
            await self._settled(deadline)
            member, status, votes = self._member(name), self._engine.status(), self._votes()
            if member.witness:
                raise Conflict(
                    f"{name} is a witness: it votes, without keys, for as long as it is a member; remove it "
                    f"(`cyoloctl member remove {name}`), and invite a node under a new name instead"
                )
            before = {name_of(raft_id) for raft_id in status.voters}
            after = before | {name} if wanted == "voter" else before - {name}
            changed = before != after or member.role != wanted
            answer = {
                "name": name,
                "role": wanted,
                "changed": changed,
                "dry_run": dry_run,
                "before": votes.of(before),
                "after": votes.of(after),
                "ca_rotation_due": self._rotation_due(changed and wanted == "learner"),
            }
            if changed and wanted == "voter":
                await self._refuse_promotion(member, votes, deadline)
            elif changed:
                votes.refuse_without_leaders(name, after)
                votes.refuse_without_quorum(name, after, "")
            if changed and not dry_run:
                await self._hand_over_first(name, status, before - after, deadline)
                await self._write("set_role", {"name": name, "role": wanted}, deadline)
                await self._follow_role(member, status, wanted, deadline)
                _log.info("role changed", extra={"member": name, "role": wanted})
        return answer

    async def _refuse_promotion(self, member: Member, votes: Votes, deadline: float) -> None:
        """Refuse to promote who would be missed.  Raises Conflict."""
        name, raft_id = member.name, member.raft_id
        if raft_id == self._raft_id or raft_id in self._engine.status().voters:
            return  # a demotion is taken back before it took place
        until = min(deadline - 0.2, time.monotonic() + _CATCH_UP_S)
        while True:
            status = self._engine.status()
            if name not in votes.linked or raft_id not in status.learners:
                raise Conflict(
                    f"{name} is not reachable from the leader, so it would be a voter that is missing: "
                    f"start it, or check the network, and repeat the command"
                )
            match = status.match.get(raft_id, 0)
            lag = status.last_index - match
            if match and lag <= _PROMOTE_LAG:
                return
            if time.monotonic() >= until:
                raise Conflict(
                    f"{name} has not caught up, it lags by {lag} entries: wait until `cyoloctl member show "
                    f"{name}` shows a small lag, and repeat the command"
                )
            await self._engine.wait_changed(0.05)

    async def _follow_role(
        self, member: Member, status: ReplicaStatus, role: WantedRole, deadline: float
    ) -> None:
        """Do what the members agreed on.  The leader's upkeep does the same, should this end early."""
        name = member.name
        mine = [raft_id for raft_id in status.voters if name_of(raft_id) == name]
        try:
            if role == "voter":
                await patiently(partial(self._engine.add_voter, member.raft_id), deadline)
                return
            for raft_id in mine:
                try:
                    await patiently(partial(self._engine.demote, raft_id), deadline)
                except NotFound:
                    continue  # the upkeep was faster
        except CyoloctlError as error:
            what = "become a voter" if role == "voter" else "become a learner"
            raise OutcomeUnknown(
                f"{name} is to {what} and did not yet ({error.message}): the leader goes on with it; see "
                f"`cyoloctl member show {name}`, or repeat the command, which does nothing twice"
            ) from None

    async def _hand_over_first(
        self, name: str, status: ReplicaStatus, leaving: Collection[str], deadline: float
    ) -> None:
        """The leader itself: another one leads first, and goes on.  Raises NoLeader then; Conflict."""
        if name in leaving and name == name_of(self._raft_id):
            await self._engine.transfer_leadership(None, timeout_s=max(0.1, deadline - time.monotonic()))
            raise NoLeader("leadership is handed over before the leader is changed: try again")

    async def _write(
        self, operation: str, arguments: Json, deadline: float, *, machine: str = "members"
    ) -> Json:
        left = max(0.1, deadline - time.monotonic())
        return await self._proposer.apply_here(machine, operation, arguments, request_id=None, timeout_s=left)

    # ------------------------------------------------------------- addresses

    async def set_address(self, name: str, address: str, dry_run: bool, timeout_s: float) -> Json:
        """Tell every member where another one is.  Raises NotFound, AlreadyExists, Conflict."""
        deadline = time.monotonic() + timeout_s
        await self._engine.read_barrier(timeout_s=timeout_s)
        async with self._alone(f"set-address {name}", deadline, dry_run=dry_run):
            member, status = self._member(name), self._engine.status()
            wanted = self._spelling(member, address)
            stands = self._votes().of(name_of(raft_id) for raft_id in status.voters)
            changed = wanted != member.address
            if changed and not dry_run:
                await self._write("set_address", {"name": name, "address": wanted}, deadline)
                _log.info("address changed", extra={"member": name, "address": wanted})
        return {
            "name": name,
            "address": wanted,
            "previous": member.address,
            "changed": changed,
            "dry_run": dry_run,
            "before": stands,
            "after": stands,
        }

    def _spelling(self, member: Member, address: str) -> str:
        """The address as the member spells it itself, where that is the same.  Raises AlreadyExists."""
        place = parse_address(address)
        for other in self._members.members():
            known = (other.address, other.announced or other.address)
            if other.name != member.name and any(same_place(parse_address(each), place) for each in known):
                raise AlreadyExists(
                    f"{address} is the address of {other.name}: see `cyoloctl member list`, and correct "
                    f"that one first if it is wrong"
                )
        for known_as in (member.announced, member.address):
            if known_as is not None and same_place(parse_address(known_as), place):
                return known_as
        return str(place)

    # ------------------------------------------------------------- removal

    async def remove(self, name: str, force: bool, dry_run: bool, timeout_s: float) -> Json:
        """Remove a member.  Raises NotFound, Conflict, NoLeader, OutcomeUnknown."""
        deadline = time.monotonic() + timeout_s
        await self._engine.read_barrier(timeout_s=timeout_s)
        async with self._alone(f"remove {name}", deadline, dry_run=dry_run):
            status, votes = self._engine.status(), self._votes()
            rows = {row["name"]: row for row in self._status.rows(status)}
            before = {name_of(raft_id) for raft_id in status.voters}
            if name not in rows:
                if name in self._members.removed():
                    return self._removal(name, dry_run, votes, before, before, changed=False)
                raise NotFound(f"there is no member {name!r}: see `member list`")
            after = before - {name}
            answer = self._removal(name, dry_run, votes, before, after, changed=True)
            if name in before:
                if not after:
                    raise Conflict(f"{name} is the only voter: a cluster cannot remove its last one")
                votes.refuse_without_leaders(name, after)
                if not force:
                    hint = " (with --force --yes the cluster stands still until then)"
                    votes.refuse_without_quorum(name, after, hint)
            if not dry_run:
                await self._remove(name, force, status, deadline)
        return answer

    async def _remove(self, name: str, force: bool, status: ReplicaStatus, deadline: float) -> None:
        member = self._members.get(name)
        raft_ids = {raft_id for raft_id in status.voters if name_of(raft_id) == name}
        if member is not None:
            raft_ids.add(member.raft_id)
        if self._raft_id in raft_ids:
            await self._hand_over_first(name, status, {name}, deadline)
        if member is not None and not self._members.has_ca_key(name):
            # First: the node that finishes the removal no longer knows that it never had the CA's key.
            with suppress(Conflict):  # it voted once, and has had the key
                await self._write("exempt", {"name": name}, deadline, machine="authorities")
        for raft_id in sorted(raft_ids):
            await patiently(partial(self._engine.remove, raft_id, force=force), deadline)
        if member is not None:
            await self._write("remove", {"name": name}, deadline)
        _log.info("member removed", extra={"member": name})

    def _removal(
        self,
        name: str,
        dry_run: bool,
        votes: Votes,
        before: Collection[str],
        after: Collection[str],
        *,
        changed: bool,
    ) -> Json:
        stood, stands = votes.of(before), votes.of(after)
        return {
            "name": name,
            "removed": not dry_run,
            "changed": changed,
            "dry_run": dry_run,
            "before": stood,
            "after": stands,
            "failure_tolerance_before": stood["failure_tolerance"],
            "failure_tolerance_after": stands["failure_tolerance"],
            # A voter has had the CA's key: until the CA is exchanged it can vouch for anybody.
            "ca_rotation_due": self._rotation_due(name in before and name not in votes.witnesses),
        }

    # ------------------------------------------------------------- leadership

    async def transfer(self, to: str | None, timeout_s: float) -> Json:
        """Hand leadership over.  Raises NotFound, Conflict, OutcomeUnknown."""
        deadline = time.monotonic() + timeout_s
        target = None if to is None else self._able_to_lead(to).raft_id
        previous = name_of(self._raft_id)
        async with self._alone(f"transfer-leadership to {to}" if to else "transfer-leadership", deadline):
            stands = self._votes().of(name_of(raft_id) for raft_id in self._engine.status().voters)
            await self._engine.transfer_leadership(target, timeout_s=timeout_s)
            while (leader := self._engine.leader()) is None and time.monotonic() < deadline:
                await self._engine.wait_changed(0.05)
        if leader is None:
            raise OutcomeUnknown(
                f"{previous} leads no more, and nobody is known to lead yet: see `cyoloctl status`, "
                "and repeat the command if the wrong one does"
            )
        return self._leadership(name_of(leader), stands, dry_run=False)

    async def preview_transfer(self, to: str | None, timeout_s: float) -> Json:
        """Who would lead.  Raises NotFound, Conflict."""
        await self._engine.read_barrier(timeout_s=timeout_s)
        status, votes = self._engine.status(), self._votes()
        stands = votes.of(name_of(raft_id) for raft_id in status.voters)
        others = [
            raft_id
            for raft_id in status.voters
            if raft_id in status.connected and name_of(raft_id) not in votes.witnesses
        ]
        if to is not None:
            others = [raft_id for raft_id in (self._able_to_lead(to).raft_id,) if raft_id in others]
        if to is not None and to == name_of(self._raft_id):
            return self._leadership(to, stands, dry_run=True)
        if not others:
            what = "no other voter that may lead is" if to is None else f"{to} is not a voter or not"
            raise Conflict(f"{what} connected: leadership stays here")
        best = max(others, key=lambda raft_id: (status.match.get(raft_id, 0), raft_id))
        return self._leadership(name_of(best), stands, dry_run=True)

    def _able_to_lead(self, name: str) -> Member:
        """The member to which leadership is to go.  Raises NotFound; Conflict for a witness."""
        member = self._member(name)
        if member.witness:
            raise Conflict(
                f"{name} is a witness, which leads only while no other voter can: name one that is not "
                "(`member list`), or none"
            )
        return member

    def _leadership(self, leader: str, stands: Json, *, dry_run: bool) -> Json:
        previous = name_of(self._raft_id)
        return {
            "leader": leader,
            "previous": previous,
            "changed": leader != previous,
            "dry_run": dry_run,
            "before": stands,
            "after": stands,
        }
