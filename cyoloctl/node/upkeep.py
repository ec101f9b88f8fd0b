"""Upkeep of a node: what it does by itself while it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from cyoloctl.authorities.renewal import CertificateRenewal
from cyoloctl.beat import until_beat
from cyoloctl.credentials.admission import Admission
from cyoloctl.credentials.operations import CredentialOperations
from cyoloctl.errors import CyoloctlError
from cyoloctl.keys.operations import KeyOperations
from cyoloctl.kv.operations import KvOperations
from cyoloctl.machines.operations import MachineOperations
from cyoloctl.members.addresses import Addresses
from cyoloctl.members.api import Problem
from cyoloctl.members.duties import (
    announcement_due,
    changes_due,
    has_place,
    level_due,
    level_of_founder,
    process_due,
    reach_due,
)
from cyoloctl.members.problem_log import ProblemLog
from cyoloctl.members.records import Member
from cyoloctl.members.voting import MemoryVotes
from cyoloctl.model import RaftId, name_of
from cyoloctl.node.config import Config
from cyoloctl.pki.x509 import public_key_sha256
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.state import ClusterState

__all__ = ["Upkeep"]

_log = logging.getLogger("cyoloctl.node")

_PARTING_S = 0.5
_PAUSE_S = 0.5
_LOOK_EVERY_S = 1.0
_HAND_OVER_EVERY_S = 15.0
"""Between two attempts to hand leadership over: writes wait while one lasts."""
_LOOK_FROM_S = 2.0
"""After a start the links are made first: members are not away yet."""


class Upkeep:
    """Announces this node, follows the addresses of the others, and as leader promotes and cleans up.

    raft_id: this node's.  process: how often its disk was started, and a
    random name of this process.  problems: those that `status` shows.
    """

    def __init__(
        self,
        proposer: Proposer,
        config: Config,
        state: ClusterState,
        *,
        addresses: Addresses,
        votes: MemoryVotes,
        admission: Admission,
        certificates: CertificateRenewal,
        credentials: CredentialOperations,
        keys: KeyOperations,
        kv: KvOperations,
        machines: MachineOperations,
        raft_id: RaftId,
        process: tuple[int, str],
        problems: Callable[[], Iterable[Problem]],
    ) -> None:
        self._proposer = proposer
        self._engine = proposer.engine
        self._config = config
        #: May change while the node runs.
        self.gateway = config.gateway
        self._members = state.members
        self._presence = state.presence
        self._levels = state.levels
        self._addresses = addresses
        self._votes = votes
        self._admission = admission
        self._certificates = certificates
        self._credentials = credentials
        self._keys = keys
        self._kv = kv
        self._machines = machines
        self._raft_id = raft_id
        self._process = process
        self._problems = problems
        self._problem_log = ProblemLog()
        self._look_at = time.monotonic() + _LOOK_FROM_S
        self._is_key_reported = False
        self._hand_over_at = 0.0
        self._parting: dict[str, float] = {}

    async def run(self) -> None:
        """Run while the node does: announce it, follow addresses, and as leader promote and clean up."""
        pause = 0.1  # 0: until the next beat
        while True:
            await self._engine.wait_changed(pause or until_beat(time.monotonic(), _PAUSE_S))
            pause = 0.0
            self._engine.set_addresses(self._addresses.to_dial())
            self._part_with_removed()
            self._engine.part_with_copies()
            self._tell_problems()
            try:
                if self._admission.is_caught_up and await self._credentials.bootstrap():
                    pause = 0.2
                if self._engine.leader() is not None and (
                    await self._announce() or await self._announce_process()
                ):
                    pause = 0.2
                if self._engine.is_leader() and await self._promote():
                    pause = 0.2
                if self._engine.is_leader() and await self._kv.maintain():
                    pause = 0.05
                if self._engine.leader() is not None and await self._keys.maintain():
                    pause = 0.05
                if self._engine.leader() is not None and await self._machines.maintain():
                    pause = 0.2
            except CyoloctlError as error:
                _log.debug("upkeep", extra={"code": error.code, "reason": error.message})
                pause = 0.2

    def _tell_problems(self) -> None:
        """Once a second: log what has begun to need a hand, and what is over."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            self._problem_log.tell(self._problems())

    def _part_with_removed(self) -> None:
        """End the links of removed members, a moment later: one may still wait for an answer."""
        now = time.monotonic()
        for name in self._members.removed():
            if name in self._engine.peers():
                since = self._parting.setdefault(name, now)
                if now - since >= _PARTING_S:
                    self._engine.disconnect(name)

    async def _announce(self) -> bool:
        """Keep this node's record true: address, raft id, certificate.  True when it was written."""
        members = self._members
        name = self._config.name
        mine = members.get(name)
        if not has_place(members, name, self._proposer.now_ms(), leads=self._engine.is_leader()):
            return False  # not admitted yet, as far as this node has applied
        first = level_of_founder(members, self._levels, leads=self._engine.is_leader())
        if first is not None:
            await self._proposer.apply("levels", "raise", first, request_id=None, timeout_s=5.0)
            return True
        key_hash = public_key_sha256(self._certificates.files.certificate_pem)
        if mine is not None and mine.key_hash not in (None, key_hash):
            if not self._is_key_reported:
                self._is_key_reported = True
                _log.critical(
                    "another key was admitted under this node's name: restore its pki directory, "
                    "or remove the member and join under a new name",
                    extra={"member": name},
                )
            return False
        expires_at = self._certificates.expires_at()
        wanted = Member(
            name=name,
            address=str(self._config.advertise),
            role="voter" if mine is None else mine.role,
            sealing_key=self._certificates.files.sealing_key,
            raft_id=self._raft_id,
            # Those who wait for it count on links that rest on it (see CertificateRenewal.ready).
            certificate_expires_at=expires_at
            if mine is None or expires_at == mine.certificate_expires_at or self._certificates.settled()
            else mine.certificate_expires_at,
            key_hash=key_hash,
            witness=mine is not None and mine.witness,
        )
        if not announcement_due(mine, wanted):
            return await self._announce_gateway()
        arguments = wanted.to_json()
        for decided in ("role", "witness"):  # by the cluster
            arguments.pop(decided, None)
        await self._proposer.apply("members", "announce", arguments, request_id=None, timeout_s=5.0)
        return True

    async def _announce_process(self) -> bool:
        """Announce this process and what it understands; as leader also how far voters that are away got.

        So that a copy of a disk, or an older one that comes back, is known as such by every node.
        """
        presence, name = self._presence, str(self._config.name)
        level = level_due(name, self._members, self._levels)
        if level is not None:
            await self._proposer.apply("levels", "announce", level, request_id=None, timeout_s=5.0)
            return True
        if self._members.get(name) is not None:
            boot = process_due(name, *self._process, presence.get(name), self._engine.applied_index())
            if boot is not None:
                await self._proposer.apply("presence", "boot", boot, request_id=None, timeout_s=5.0)
                return True
        if self._engine.is_leader():
            engine = self._engine
            reached = reach_due(engine.status(), presence.get, engine.acknowledged, engine.last_process)
            if reached is not None:
                await self._proposer.apply("presence", "reached", reached, request_id=None, timeout_s=5.0)
                return True
        return False

    async def _announce_gateway(self) -> bool:
        """Announce where browsers and proxies reach this node, or that they do not."""
        config, name = self.gateway, str(self._config.name)
        wanted = None if config is None else {"address": str(config.advertise), "url": config.url}
        known = self._members.gateway(name)
        if wanted == (None if known is None else known._asdict()):
            return False
        arguments = {"name": name, "gateway": wanted}
        await self._proposer.apply("members", "set_gateway", arguments, request_id=None, timeout_s=5.0)
        return True

    async def _promote(self) -> bool:
        """As leader: the members become what they are meant to be, and a half done removal is finished."""
        due, busy = changes_due(
            self._engine.status(), self._members.members(), stepped_out=self._votes.stepped_out
        )
        for change in due:
            if change.what == "forget":
                await self._proposer.apply(
                    "members", "remove", {"name": change.target}, request_id=None, timeout_s=5.0
                )
            elif change.what == "promote":
                await self._engine.add_voter(RaftId(change.target), timeout_s=5.0)
                _log.info("promoted", extra={"member": name_of(RaftId(change.target))})
            elif change.what == "hand_over":
                await self._hand_over()
            else:
                await self._engine.demote(RaftId(change.target), timeout_s=5.0)
        return busy

    async def _hand_over(self) -> None:
        """This leader is to vote no more: another one goes on, and demotes it."""
        now = time.monotonic()
        if now >= self._hand_over_at:
            self._hand_over_at = now + _HAND_OVER_EVERY_S
            await self._engine.transfer_leadership(None, timeout_s=5.0)
