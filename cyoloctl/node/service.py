"""A node's operations, put together: every subject's, and those of the node itself.

Implements `control.table.Node`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cyoloctl.audit.operations import AuditOperations
from cyoloctl.authorities.operations import AuthorityOperations
from cyoloctl.authorities.renewal import CertificateRenewal
from cyoloctl.control.api import Health
from cyoloctl.counters.operations import CounterOperations
from cyoloctl.credentials.admission import Admission
from cyoloctl.credentials.operations import CredentialOperations
from cyoloctl.errors import Conflict
from cyoloctl.gateway.adapter import GatewayAdapter
from cyoloctl.keys.operations import KeyOperations
from cyoloctl.kv.operations import KvOperations
from cyoloctl.locks.operations import LockOperations
from cyoloctl.machines.operations import MachineOperations
from cyoloctl.members.addresses import Addresses
from cyoloctl.members.api import Problem
from cyoloctl.members.granting import GrantOperations
from cyoloctl.members.joining import JOIN_FIELDS, JoinOperations
from cyoloctl.members.operations import MemberOperations
from cyoloctl.members.relayed_words import RelayedWords
from cyoloctl.members.status import MemberStatus
from cyoloctl.members.upgrading import UpgradeOperations
from cyoloctl.members.voting import MemoryVotes
from cyoloctl.model import RaftId
from cyoloctl.node.cluster_time import ClusterTime
from cyoloctl.node.config import Config
from cyoloctl.node.disk_watch import DiskWatch
from cyoloctl.node.figures import NodeFigures
from cyoloctl.node.own_address import OwnAddress
from cyoloctl.node.snapshot_schedule import SnapshotSchedule
from cyoloctl.node.upkeep import Upkeep
from cyoloctl.paths import is_read_only
from cyoloctl.pki.files import NodeFiles
from cyoloctl.pki.tls import TlsIdentity
from cyoloctl.raft import Engine
from cyoloctl.rendezvous.operations import RendezvousOperations
from cyoloctl.replicated.peer_calls import PeerCalls
from cyoloctl.replicated.proposer import Begun, Planned, Proposer
from cyoloctl.routing.operations import RoutingOperations
from cyoloctl.snapshots.operations import SnapshotOperations
from cyoloctl.state import ClusterState
from cyoloctl.text import Json
from cyoloctl.tokens.operations import TokenOperations

__all__ = ["Service"]

_log = logging.getLogger("cyoloctl.node")


class Service:
    """One node's answers.  Every method belongs to the loop that the engine runs in.

    raft_id: this node's.  process: how often its disk was started, and a
    random name of this process.  request_stop, reload: of the process.
    """

    def __init__(
        self,
        config: Config,
        files: NodeFiles,
        pki_dir: Path,
        engine: Engine,
        state: ClusterState,
        *,
        raft_id: RaftId,
        process: tuple[int, str] = (0, ""),
        request_stop: Callable[[], None],
        reload: Callable[[], Json],
        tls: TlsIdentity,
    ) -> None:
        self._config = config
        self._engine, self._state = engine, state
        self._request_stop, self._reload = request_stop, reload
        self._proposer = proposer = _proposer_of(engine, state, str(config.name))
        self.calls = PeerCalls(engine, state.members.is_voter, str(config.name))
        self.addresses = Addresses(config, state.members, config.peers)
        self.own_address = OwnAddress(config, state.members, self.addresses)
        self.counters = CounterOperations(proposer, state.counters)
        self.locks = LockOperations(proposer, state.locks)
        self._assemble_trust(files, pki_dir, tls)
        self.kv = KvOperations(proposer, state.kv, self.keys, name=str(config.name))
        self.disk = DiskWatch(pki_dir.parent, engine, holds_log=config.storage == "disk")
        self._assemble_members(raft_id, pki_dir)
        self._assemble_sessions()
        self._offer_to_peers()
        self.snapshots = SnapshotOperations(proposer, state, config, pki_dir.parent)
        self.schedule = SnapshotSchedule(str(config.name), self.snapshots, config.snapshots)
        self.audit = AuditOperations(proposer, state.audit, name=str(config.name))
        self.time = ClusterTime(proposer, state, self.calls)
        self.relayed_words = RelayedWords(
            engine,
            config,
            self.calls,
            files=lambda: self.certificates.files,
            pki_dir=pki_dir,
            now_ms=proposer.now_ms,
        )
        self.upgrading = UpgradeOperations(proposer, state.members, state.levels, name=str(config.name))
        self.upkeep = Upkeep(
            proposer,
            config,
            state,
            addresses=self.addresses,
            votes=self.votes,
            admission=self.admission,
            certificates=self.certificates,
            credentials=self.credentials,
            keys=self.keys,
            kv=self.kv,
            machines=self.machines,
            raft_id=raft_id,
            process=process,
            problems=self.member_status.problems,
        )
        state.on_restore = self._on_restore

    def _assemble_trust(self, files: NodeFiles, pki_dir: Path, tls: TlsIdentity) -> None:
        """Keys, certificates and admission."""
        proposer, config, state = self._proposer, self._config, self._state
        self.admission = Admission(
            name=str(config.name),
            cluster_id=config.cluster_id,
            members=state.members,
            credentials=state.credentials,
            engine=self._engine,
            now_ms=proposer.now_ms,
            pki_dir=pki_dir,
            is_trusted=tls.is_trusted,
        )
        self.keys = KeyOperations(proposer, config, state.keys, state.members, files=files, pki_dir=pki_dir)
        self.certificates = CertificateRenewal(
            proposer,
            config,
            state.members,
            state.authorities,
            clock=state.clock,
            files=files,
            pki_dir=pki_dir,
            tls=tls,
            ask=self.calls.ask,
            on_renewed=self.keys.renewed,
        )
        self.credentials = CredentialOperations(
            proposer,
            config,
            state.credentials,
            state.members,
            pki_dir=pki_dir,
            ask=self.calls.ask,
            issuer=partial(self.certificates.issuer, credentials=True),
            addresses=self.addresses.with_own,
        )
        self.admission.before_ready = self.credentials.bootstrap
        self.authorities = AuthorityOperations(
            proposer,
            config,
            state.members,
            state.authorities,
            credentials=state.credentials,
            certificates=self.certificates,
            ask=self.calls.ask,
        )
        # Before time steps past their end, certificates are renewed.
        self.certificates.pending = self._engine.clock.pending_unix_ms
        self._engine.clock.ready = self.certificates.ready

    def _assemble_members(self, raft_id: RaftId, pki_dir: Path) -> None:
        proposer, config, state = self._proposer, self._config, self._state
        self.member_status = MemberStatus(
            self._engine,
            config,
            state.members,
            certificates=self._certificate_facts,
            problems=self._problems,
            disk=self.disk.facts,
            history=state.history,
            levels=state.levels,
            disk_read_only=partial(is_read_only, pki_dir.parent)
            if config.storage == "disk"
            else lambda: False,
            own_address=self.own_address.shown,
        )
        self.joining = JoinOperations(
            proposer,
            config,
            state.members,
            files=lambda: self.certificates.files,
            issuer=self.certificates.issuer,
            addresses=self.addresses.with_own,
            ask=self.calls.ask,
            secrets=self.certificates.join_secrets,
        )
        self.granting = GrantOperations(
            proposer,
            config,
            joining=self.joining,
            levels=state.levels,
            files=lambda: self.certificates.files,
            addresses=self.addresses.known,
            certify=self.authorities.certify,
            check_can_certify=self.authorities.check_can_certify,
            check_certificate=self.certificates.check_issued,
        )
        self.votes = MemoryVotes(self._engine, config, state.members, self.calls, raft_id)
        self.members = MemberOperations(
            proposer,
            state.members,
            status=self.member_status,
            joining=self.joining,
            granting=self.granting,
            calls=self.calls,
            raft_id=raft_id,
            levels=state.levels,
            rotation_due=self.authorities.rotation_is_due,
        )

    def _assemble_sessions(self) -> None:
        """Tokens, rendezvous, routes and the gateway to them, and the machines that users wrote."""
        proposer, config, state = self._proposer, self._config, self._state
        self.machines = MachineOperations(proposer, state.machines, state.members, name=str(config.name))
        self.tokens = TokenOperations(proposer, state.sessions, self.keys)
        self.routing = RoutingOperations(proposer, config, state.members)
        self.rendezvous = RendezvousOperations(
            proposer,
            config,
            state.rendezvous,
            keys=self.keys,
            tokens=self.tokens,
            page_url=self.routing.page_url,
            was_applied=state.was_applied,
        )
        self.metrics = NodeFigures(
            self._engine,
            config,
            state,
            status=self.member_status.status,
            own=self.member_status.describe,
            tokens=self.tokens,
            authorities=self.authorities,
        )
        self.gateway = GatewayAdapter(
            proposer,
            config,
            state.members,
            state.rendezvous,
            keys=self.keys,
            tokens=self.tokens,
            routing=self.routing,
            rendezvous=self.rendezvous,
            metrics=self.metrics.page,
        )

    def _offer_to_peers(self) -> None:
        """Register the calls that peers may make; votes, members and time register theirs themselves."""

        async def vouch(peer: str, given: Json, timeout_s: float) -> Json:
            return {"vouched": self.admission.vouches(**given)}

        offer = self.calls.offer
        offer("vouch", {"name": str, "key_hash": str}, vouch, to="members")
        offer(
            "credential",
            {"operation": str, "given": dict, "request_id": (str, type(None)), "caller": str},
            lambda peer, given, timeout_s: self.credentials.answer(peer, **given, timeout_s=timeout_s),
            to="members",
        )
        offer(
            "join",
            dict.fromkeys(JOIN_FIELDS, str),
            lambda peer, given, timeout_s: self.joining.join(given, passed_on=True, timeout_s=timeout_s),
            to="members",
        )
        offer(
            "renew",
            {"request_pem": str},
            lambda peer, given, timeout_s: self.certificates.renew_for(peer, **given, timeout_s=timeout_s),
            to="members",
        )
        offer(
            "grant",
            {"name": str, "request_pem": str},
            lambda peer, given, timeout_s: self.authorities.grant_for(**given, timeout_s=timeout_s),
            to="voters",
        )
        offer(
            "rotate_ca",
            {"overlap_s": int, "dry_run": bool},
            lambda peer, given, timeout_s: self.authorities.rotate_for(**given, timeout_s=timeout_s),
            to="voters",
        )
        offer(
            "ca_key",
            {"sha256": str},
            lambda peer, given, timeout_s: self.certificates.key_for(peer, **given, timeout_s=timeout_s),
            to="voters",
        )
        offer(
            "wrap_ca",
            {"sha256": str},
            lambda peer, given, timeout_s: self.certificates.wrap_for_leader(**given, timeout_s=timeout_s),
            to="voters",
        )

    def _certificate_facts(self) -> Json:
        return {"certificate_expires_at": self.certificates.expires_at(), **self.certificates.describe()}

    def _problems(self) -> Iterator[Problem]:
        yield from self.keys.problems()
        yield from self.authorities.problems()
        yield from self.schedule.problems()
        yield from self.own_address.problems()
        yield from self.upgrading.problems()
        yield from self.kv.problems()
        yield from self.audit.problems()

    def _on_restore(self) -> None:
        self.keys.restored()
        self.rendezvous.restored()
        self.counters.restored()
        self.locks.restored()
        self.kv.restored()

    # ------------------------------------------------------------- the node itself

    def is_witness(self) -> bool | None:
        """Whether the cluster admitted this node as a witness; None before that is known here."""
        mine = self._state.members.get(str(self._config.name))
        return None if mine is None else mine.witness

    async def health(self, *, timeout_s: float) -> Health:
        """Whether a leader is known; never waits."""
        status = self._engine.status()
        return {
            "status": "ok" if status.leader is not None else "no_leader",
            "name": self._config.name,
            "role": status.role,
        }

    def begin(
        self,
        planned: Planned,
        *,
        request_id: str | None,
        timeout_s: float,
        done: Callable[[Any, Exception | None], None],
    ) -> Callable[[], None] | None:
        """Begin a write, unless it has to wait for something first."""
        return self._proposer.begin(planned, request_id=request_id, timeout_s=timeout_s, done=done)

    async def begin_all(
        self, writes: Sequence[tuple[Planned, str | None]], *, timeout_s: float, after: Begun | None
    ) -> Begun:
        """The writes of a batch, in order, on their way."""
        return await self._proposer.begin_all(writes, timeout_s=timeout_s, after=after)

    async def set_time(self, *, dry_run: bool, request_id: str | None, timeout_s: float) -> Json:
        """Set cluster time to what a majority of the members' clocks show."""
        return await self.time.set(dry_run=dry_run, request_id=request_id, timeout_s=timeout_s)

    async def upgrade(self, *, dry_run: bool, request_id: str | None, timeout_s: float) -> Json:
        """Raise the cluster's level to the highest that every member understands."""
        return await self.upgrading.upgrade(dry_run=dry_run, request_id=request_id, timeout_s=timeout_s)

    async def ca(self, *, timeout_s: float) -> Json:
        """The CAs of this cluster."""
        return self.joining.authorities()

    async def reload(self, *, timeout_s: float) -> Json:
        """Read node.yaml and the certificates again.  Raises as `Node.reload` of run."""
        return self._reload()

    async def stop(self, *, force: bool, timeout_s: float) -> Json:
        """Begin to stop.  Raises Conflict where that ends a cluster in memory, unless forced."""
        reason = self.votes.end_of_memory()
        if reason is not None:
            if not force:
                raise Conflict(f"{reason}; to stop it all the same: `cyoloctl node stop --force`")
            _log.critical("stopping by force", extra={"reason": reason})
        self._request_stop()
        return {"stopping": True}


def _proposer_of(engine: Engine, state: ClusterState, name: str) -> Proposer:
    return Proposer(
        engine, state.first_result, lambda: state.history.epoch, state.levels.why_refused, node=name
    )
