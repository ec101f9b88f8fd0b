"""What a node does for its callers: counters, members and status over the replicated machines.

Implements `control.table.Node`.  Any node takes any request: writes
and reads go through the Raft engine, which forwards them to the leader; what
only the leader can do (removing members, handing leadership over) is passed
to it, once, over the link between the two nodes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cyoloctl import __version__
from cyoloctl.audit import audit
from cyoloctl.authorities.operations import AuthorityOperations
from cyoloctl.authorities.renewal import CertificateRenewal
from cyoloctl.caller import CALLER
from cyoloctl.counters.api import Counter, CounterList, CounterWritten
from cyoloctl.credentials.admission import Admission
from cyoloctl.credentials.operations import CredentialOperations
from cyoloctl.errors import (
    AccessDenied,
    Conflict,
    CyoloctlError,
    InternalError,
    InvalidInput,
    NoLeader,
    NotFound,
    error_from_code,
)
from cyoloctl.gateway.adapter import GatewayAdapter
from cyoloctl.keys.operations import KeyOperations
from cyoloctl.members.api import Member as MemberRow
from cyoloctl.members.api import MemberList, Role, Status
from cyoloctl.members.joining import JOIN_FIELDS, JoinOperations
from cyoloctl.members.records import Member
from cyoloctl.model import parse_hostname
from cyoloctl.node.config import Config
from cyoloctl.node.peer_problems import missing_links, voters_up
from cyoloctl.node.problems import Facts, find_problems, time_ahead_ms
from cyoloctl.pki.files import NodeFiles
from cyoloctl.pki.tls import TlsIdentity
from cyoloctl.pki.x509 import public_key_sha256
from cyoloctl.raft import Engine, ReplicaStatus
from cyoloctl.rendezvous.operations import RendezvousOperations
from cyoloctl.replicated.proposer import Json, Proposer
from cyoloctl.routing.operations import RouteOperations
from cyoloctl.state import ClusterState
from cyoloctl.text import rfc3339
from cyoloctl.tokens.operations import TokenOperations

__all__ = ["Service"]

_log = logging.getLogger("cyoloctl.node")

_PARTING_S = 0.5
_HOUSEKEEPING_S = 0.5


def _counter(name: str, value: int, index: int) -> Counter:
    return {"name": name, "value": value, "value_string": str(value), "index": index}


_TOLD: dict[str, tuple[type, ...]] = {
    "role": (str,),
    "term": (int,),
    "commit_index": (int,),
    "applied_index": (int,),
    "uptime_s": (int, float),
    "version": (str,),
    "storage": (str,),
    "fsync_p99_ms": (int, float),
    "certificate_expires_at": (str,),
}


def _told(info: Mapping[str, Any]) -> Json:
    """What a peer says about itself with `describe`, as far as it has the right types and can be shown."""
    return {
        key: info[key]
        for key, kinds in _TOLD.items()
        if type(info.get(key)) in kinds and (str not in kinds or info[key].isprintable())
    }


def _written(name: str, value: Json, index: int, request_id: str) -> CounterWritten:
    """The answer to a write, from what the leader said.  Raises InternalError when that is no counter."""
    number = value.get("value")
    if type(number) is not int:
        raise InternalError("the leader's answer makes no sense: upgrade every node")
    return {**_counter(name, number, index), "request_id": request_id}


def _read_answer(answer: bytes) -> Json:
    """What a peer's `on_call` answered: its value.  Raises the error in it; InternalError for other bytes."""
    try:
        value = json.loads(answer)
        if "error" in value:
            raise error_from_code(str(value["error"]["code"]), str(value["error"]["message"]))
        found = value["value"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InternalError("the leader's answer makes no sense: upgrade every node") from error
    if not isinstance(found, dict):
        raise InternalError("the leader's answer makes no sense: upgrade every node")
    return found


class Service:
    """One node's answers.  Every method belongs to the loop that the engine runs in."""

    def __init__(
        self,
        config: Config,
        files: NodeFiles,
        pki_dir: Path,
        engine: Engine,
        machine: ClusterState,
        *,
        raft_id: str,
        process: tuple[int, str] = (0, ""),
        request_stop: Callable[[], None],
        tls: TlsIdentity,
    ) -> None:
        self._config = config
        self._pki_dir = pki_dir
        self._engine = engine
        self._machine = machine
        self._raft_id = raft_id
        self._process = process
        self._request_stop = request_stop
        self._told_of_key = False
        self._started_at = time.monotonic()
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._counter_index: dict[str, int] = {}
        self._parting: dict[str, float] = {}
        self._stepped_out: set[str] = set()  # raft ids of members in memory that are stopping
        self._proposer = Proposer(engine)
        self.admission = Admission(
            name=str(config.name),
            cluster_id=config.cluster_id,
            members=machine.members,
            credentials=machine.credentials,
            link=engine,
            now_ms=self._proposer.now_ms,
            pki_dir=pki_dir,
            is_trusted=tls.is_trusted,
        )
        self.keys = KeyOperations(
            self._proposer, config, machine.keys, machine.members, files=files, pki_dir=pki_dir
        )
        self.certificates = CertificateRenewal(
            self._proposer,
            config,
            machine.members,
            machine.authorities,
            clock=machine.clock,
            files=files,
            pki_dir=pki_dir,
            tls=tls,
            ask=self._ask,
            on_renewed=self.keys.renewed,
        )
        self.credentials = CredentialOperations(
            self._proposer,
            config,
            machine.credentials,
            machine.members,
            pki_dir=pki_dir,
            ask=self._ask,
            issuer=partial(self.certificates.issuer, credentials=True),
            addresses=self._dial_addresses,
        )
        self.admission.before_ready = self.credentials.bootstrap
        self.pki = AuthorityOperations(
            self._proposer,
            config,
            machine.members,
            machine.authorities,
            credentials=machine.credentials,
            certificates=self.certificates,
            ask=self._ask,
        )
        # Before time steps past their end, certificates are renewed.
        self.certificates.pending = engine.clock.pending_unix_ms
        engine.clock.ready = self.certificates.ready
        self.joining = JoinOperations(
            self._proposer,
            config,
            machine.members,
            files=lambda: self._files,
            issuer=self.certificates.issuer,
            addresses=self.addresses,
            ask=self._ask,
        )
        self.tokens = TokenOperations(self._proposer, machine.sessions, self.keys)
        self.routes = RouteOperations(self._proposer, config, machine.members)
        self.rendezvous = RendezvousOperations(
            self._proposer,
            config,
            machine.rendezvous,
            keys=self.keys,
            tokens=self.tokens,
            page_url=self.routes.page_url,
            was_applied=machine.was_applied,
        )
        self.gateway = GatewayAdapter(
            self._proposer,
            config,
            machine.members,
            machine.rendezvous,
            keys=self.keys,
            tokens=self.tokens,
            routes=self.routes,
            rendezvous=self.rendezvous,
            describe=self.describe,
        )
        machine.counters.on_change = self._on_counter
        machine.on_restore = self._on_restore

    # ------------------------------------------------------------- counters

    async def counter_increment(
        self, name: str, *, by: int, request_id: str | None, timeout_s: float
    ) -> CounterWritten:
        return await self.counter_add(name, by, request_id=request_id, timeout_s=timeout_s)

    async def counter_decrement(
        self, name: str, *, by: int, request_id: str | None, timeout_s: float
    ) -> CounterWritten:
        return await self.counter_add(name, -by, request_id=request_id, timeout_s=timeout_s)

    async def counter_add(
        self, name: str, by: int, *, request_id: str | None, timeout_s: float
    ) -> CounterWritten:
        index, value, identifier = await self._proposer.apply(
            "counter", "add", {"name": name, "by": by}, request_id=request_id, timeout_s=timeout_s
        )
        return _written(name, value, index, identifier)

    async def counter_reset(self, name: str, *, request_id: str | None, timeout_s: float) -> CounterWritten:
        index, value, identifier = await self._proposer.apply(
            "counter", "reset", {"name": name}, request_id=request_id, timeout_s=timeout_s
        )
        return _written(name, value, index, identifier)

    async def counter_get(self, name: str, *, consistency: str, timeout_s: float) -> Counter:
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        value = self._machine.counters.get(name)
        if value is None:
            raise NotFound(f"there is no counter {name!r}: `counter incr {name}` makes it")
        return _counter(name, value, self._engine.applied_index())

    async def counter_list(
        self, *, after: str | None, limit: int, consistency: str, timeout_s: float
    ) -> CounterList:
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        index = self._engine.applied_index()
        found = self._machine.counters.list(after, limit + 1)
        page = [_counter(name, value, index) for name, value in found[:limit]]
        return {"counters": page, "next": page[-1]["name"] if len(found) > limit and page else None}

    async def counter_watch(self, name: str) -> AsyncIterator[Counter]:
        """The present value, then each later one that this node has applied; fast changes are merged."""
        event = asyncio.Event()
        event.set()
        watchers = self._watchers.setdefault(name, set())
        watchers.add(event)
        shown: tuple[int, int] | None = None
        try:
            while True:
                await event.wait()
                event.clear()
                value = self._machine.counters.get(name) or 0
                index = self._counter_index.get(name, self._engine.applied_index() if shown is None else 0)
                if shown is None or (value, index) != shown:
                    shown = (value, index)
                    yield _counter(name, value, index)
        finally:
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(name, None)
                self._counter_index.pop(name, None)

    def _on_counter(self, name: str, index: int) -> None:
        watchers = self._watchers.get(name)
        if watchers:
            self._counter_index[name] = index
            for event in watchers:
                event.set()

    def _on_restore(self) -> None:
        self.keys.restored()
        self.rendezvous.restored()
        index = self._engine.applied_index()
        for name, watchers in self._watchers.items():
            self._counter_index[name] = index
            for event in watchers:
                event.set()

    # ------------------------------------------------------------- status

    async def health(self, *, timeout_s: float) -> Json:
        status = self._engine.status()
        return {
            "schema_version": 1,
            "status": "ok" if status.leader is not None else "no_leader",
            "name": self._config.name,
            "role": status.role,
        }

    def describe(self) -> Json:
        """What this node tells its peers about itself, every second."""
        status = self._engine.status()
        return {
            "role": status.role,
            "leader": None if status.leader is None else status.leader.partition("~")[0],
            "term": status.term,
            "commit_index": status.commit_index,
            "applied_index": status.applied_index,
            "uptime_s": round(time.monotonic() - self._started_at, 1),
            "version": __version__,
            "storage": self._config.storage,
            "fsync_p99_ms": round(self._engine.fsync_p99_ms(), 2),
            "certificate_expires_at": self.certificates.expires_at(),
            **self.certificates.describe(),
            "pending_unix_ms": self._engine.clock.pending_unix_ms(),
        }

    @property
    def _files(self) -> NodeFiles:
        return self.certificates.files

    def _member_rows(self, status: ReplicaStatus) -> list[MemberRow]:
        members = {member.name: member for member in self._machine.members.members()}
        names = set(members) | {raft_id.partition("~")[0] for raft_id in status.voters} | {self._config.name}
        names -= set(self._machine.members.removed())
        voters = {raft_id.partition("~")[0] for raft_id in status.voters}
        leader = None if status.leader is None else status.leader.partition("~")[0]
        peers = self._engine.peers()
        known = [status.commit_index]
        told = {name: _told(peer.info) for name, peer in peers.items()}
        known += [info["commit_index"] for info in told.values() if "commit_index" in info]
        newest = max(known)
        skews = self._engine.clock.skews_ms() if self._engine.clock.now_unix_ms() else {}
        rows: list[MemberRow] = []
        for name in sorted(names):
            member = members.get(name)
            peer = peers.get(name)
            info: Mapping[str, Any]
            skew = skews.get(name)
            if name == self._config.name:
                info, reachable = self.describe(), True
                address = str(self._config.advertise)
            else:
                info = told.get(name, {})
                # A member in memory that came back is no voter yet, and its vote is not up.
                ids = [raft_id for raft_id in status.voters if raft_id.partition("~")[0] == name]
                reachable = peer is not None and (not ids or any(i in status.connected for i in ids))
                address = "" if peer is None or not peer.address.isprintable() else peer.address
            role: Role = "leader" if name == leader else "follower" if name in voters else "learner"
            if role == "follower" and info.get("role") == "candidate":
                role = "candidate"
            applied = info.get("applied_index")
            rows.append(
                {
                    "name": name,
                    "role": role,
                    "address": member.address if member is not None else address,
                    "reachable": reachable,
                    "term": info.get("term"),
                    "commit_index": info.get("commit_index"),
                    "applied_index": applied,
                    "lag": max(0, newest - applied) if type(applied) is int else None,
                    "uptime_s": info.get("uptime_s"),
                    "version": info.get("version"),
                    "storage": info.get("storage"),
                    "fsync_p99_ms": info.get("fsync_p99_ms"),
                    "certificate_expires_at": info.get("certificate_expires_at")
                    or (None if member is None else member.certificate_expires_at),
                    "clock_skew_ms": None if skew is None else round(skew, 1),
                }
            )
        return rows

    async def status(self, *, timeout_s: float) -> Status:
        status = self._engine.status()
        rows = self._member_rows(status)
        quorum = len(status.voters) // 2 + 1
        reachable = voters_up(status)
        linked = not missing_links(
            self._config.name,
            (raft_id.partition("~")[0] for raft_id in status.voters),
            (row["name"] for row in rows),
            self._engine.peers(),
        )
        leader = None if status.leader is None else status.leader.partition("~")[0]
        now_ms, ahead_ms = self._engine.clock.now_unix_ms(), time_ahead_ms(self._engine)
        facts = Facts(self._engine, self._machine, tuple(rows), str(self._config.name))
        return {
            "cluster": {
                "name": self._config.cluster,
                "id": self._config.cluster_id,
                "leader": leader,
                "term": status.term,
                "voters": len(status.voters),
                "learners": sum(1 for row in rows if row["role"] == "learner"),
                "quorum": quorum,
                # How many more voters may fail now, not how many could if all were up.
                "failure_tolerance": max(0, reachable - quorum),
                "healthy": (
                    leader is not None
                    and all(row["reachable"] for row in rows)
                    and reachable == len(status.voters)
                    and linked
                ),
                "commit_index": status.commit_index,
                "storage": self._config.storage,
                "time": rfc3339(now_ms / 1000) if now_ms else None,
                "time_ahead_s": None if ahead_ms is None or not now_ms else round(ahead_ms / 1000, 1),
            },
            "members": rows,
            "problems": find_problems(facts, self.pki.problems()),
        }

    async def set_time(self, *, dry_run: bool, request_id: str | None, timeout_s: float) -> Json:
        """Set cluster time to what a majority of the members' clocks show.

        dry_run: only say what it would do.  Raises Conflict while a majority's
        clocks are not known, NoLeader.
        """
        by = CALLER.get().name.replace(" ", "-")
        return await self._at_leader(
            "set_time",
            {"dry_run": dry_run, "by": by, "request_id": request_id},
            self._set_time_here,
            timeout_s,
        )

    async def _set_time_here(self, dry_run: bool, by: str, request_id: str | None, timeout_s: float) -> Json:
        await self._engine.read_barrier(timeout_s=timeout_s)
        clock, machine = self._engine.clock, self._machine
        to_ms = clock.majority_unix_ms(self._engine.voter_names())
        if to_ms is None:
            raise Conflict(
                "the clocks of a majority of the voters are not known, or show no time: start the members, "
                "set their clocks, and try again in a few seconds"
            )
        from_ms, epoch = clock.now_unix_ms(), machine.clock.stamp.epoch
        if not dry_run:
            await self._proposer.apply(
                "clock",
                "set",
                {"to_unix_ms": to_ms, "epoch": epoch, "by": by},
                request_id=request_id,
                timeout_s=timeout_s,
            )
            _log.warning(
                "cluster time was set", extra={"from": rfc3339(from_ms / 1000), "to": rfc3339(to_ms / 1000)}
            )
        low, high = min(from_ms, to_ms), max(from_ms, to_ms)

        def between(unix_ms: int | None) -> bool:
            return unix_ms is not None and low < unix_ms <= high

        return {
            "schema_version": 1,
            "dry_run": dry_run,
            "from": rfc3339(from_ms / 1000),
            "to": rfc3339(to_ms / 1000),
            "moves_s": round((to_ms - from_ms) / 1000, 1),
            "epoch": epoch + (not dry_run),
            # Forward: these would expire.  Back: they would live longer.
            "affected": {
                "rendezvous": sum(between(r.expires_unix_ms) for r in machine.rendezvous.live(low)),
                "invitations": sum(between(i.expires_unix_ms) for i in machine.members.invitations()),
                "keys": sum(between(k.free_unix_ms) for k in machine.keys.records() if k.free_unix_ms),
                "revocations": machine.sessions.ending_between(low, high),
            },
        }

    async def member_list(self, *, timeout_s: float) -> MemberList:
        await self._engine.read_barrier(timeout_s=timeout_s)
        return {"members": self._member_rows(self._engine.status())}

    async def member_show(self, name: str, *, timeout_s: float) -> MemberRow:
        listed = await self.member_list(timeout_s=timeout_s)
        for row in listed["members"]:
            if row["name"] == name:
                return row
        raise NotFound(f"there is no member {name!r}: see `member list`")

    async def member_set_host(self, name: str, *, host: str | None, timeout_s: float) -> Json:
        arguments = {"name": name, "host": None if host is None else parse_hostname(host)}
        _, value, _ = await self._proposer.apply(
            "members", "set_host", arguments, request_id=None, timeout_s=timeout_s
        )
        return {"schema_version": 1, **value}

    # ------------------------------------------------------------- joining

    def addresses(self) -> dict[str, str]:
        """Where members are, by name: what the log says, else what node.yaml says."""
        found = {str(name): str(address) for name, address in self._config.peers.items()}
        found.update({member.name: member.address for member in self._machine.members.members()})
        for name in self._machine.members.removed():
            found.pop(name, None)
        return found

    def _dial_addresses(self) -> dict[str, str]:
        return {**self.addresses(), str(self._config.name): str(self._config.advertise)}

    async def member_invite(self, *, name: str, learner: bool, ttl_s: int, timeout_s: float) -> Json:
        return await self.joining.invite(name, learner=learner, ttl_s=ttl_s, timeout_s=timeout_s)

    async def member_invitations(self, *, timeout_s: float) -> Json:
        return await self.joining.invitations(timeout_s=timeout_s)

    async def member_uninvite(self, name: str, *, timeout_s: float) -> Json:
        return await self.joining.uninvite(name, timeout_s=timeout_s)

    async def ca(self, *, timeout_s: float) -> Json:
        return self.joining.authorities()

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
        asked = {
            "name": name,
            "public_key": public_key,
            "signature": signature,
            "request_pem": request_pem,
            "sealing_key": sealing_key,
            "address": address,
            "ca_sha256": ca_sha256,
        }
        return await self.joining.join(asked, passed_on=False, timeout_s=timeout_s)

    # ------------------------------------------------------------- what only the leader does

    async def _ask(self, raft_id: str, operation: str, arguments: Json, timeout_s: float) -> Json:
        body = json.dumps({"operation": operation, "arguments": arguments, "timeout_s": timeout_s}).encode()
        answer = await self._engine.call(raft_id.partition("~")[0], body, timeout_s=timeout_s)
        return _read_answer(answer)

    async def on_call(self, name: str, body: bytes) -> bytes:
        """Answer a peer's `_ask`.  Any bytes give an answer; nothing is passed on a second time."""
        try:
            return json.dumps({"value": await self._answer_call(name, body)}).encode()
        except CyoloctlError as error:
            return json.dumps({"error": {"code": error.code, "message": error.message}}).encode()
        except Exception:
            _log.critical("a peer's request failed", extra={"peer": name}, exc_info=True)
            return json.dumps(
                {"error": {"code": "internal", "message": "internal error: see the leader's log"}}
            ).encode()

    async def _answer_call(self, peer: str, body: bytes) -> Json:
        try:
            asked = json.loads(body)
            operation, arguments = asked["operation"], asked["arguments"]
            timeout_s = float(asked["timeout_s"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise InvalidInput("a peer's request is malformed") from None
        if not 0 < timeout_s <= 300 or not isinstance(arguments, dict):
            raise InvalidInput("a peer's request is malformed")
        allowed = _CALLS.get(operation) if isinstance(operation, str) else None
        if allowed is None or arguments.keys() != allowed.keys():
            raise InvalidInput("a peer asks for what this release does not know: upgrade every node")
        for key, types in allowed.items():
            if not isinstance(arguments[key], types):
                raise InvalidInput(f"a peer's request has a wrong {key}")
        if operation == "vouch":
            return {"vouched": self.admission.vouches(**arguments)}
        if operation == "credential":
            return await self.credentials.answer(peer, **arguments, timeout_s=timeout_s)
        if operation == "join":
            return await self.joining.join(arguments, passed_on=True, timeout_s=timeout_s)
        if operation == "renew":
            return await self.certificates.renew_for(peer, **arguments, timeout_s=timeout_s)
        if operation in _OF_VOTERS:
            asking = self._machine.members.get(peer)
            if asking is None or asking.role != "voter":
                raise AccessDenied("only a voter may ask for this")
            return await self._for_voter(operation, arguments, timeout_s)
        if not self._engine.is_leader():
            raise NoLeader("the leader changed: try again")
        if operation == "step_out":
            # Its own vote, and one that can never be used again.
            if "~" not in arguments["raft_id"] or arguments["raft_id"].partition("~")[0] != peer:
                raise AccessDenied("a member gives back its own vote only, and only one in memory")
            return await self._step_out_here(**arguments, timeout_s=timeout_s)
        asking = self._machine.members.get(peer)
        if asking is None or asking.role != "voter":
            raise AccessDenied(f"{peer} is no voter, and may not pass this on: ask a voter")
        runs: dict[str, Callable[..., Awaitable[Json]]] = {
            "remove": self._remove_here,
            "set_time": self._set_time_here,
            "transfer": self._transfer_here,
        }
        return await runs[operation](**arguments, timeout_s=timeout_s)

    async def _for_voter(self, operation: str, arguments: Json, timeout_s: float) -> Json:
        if operation == "grant":
            return await self.pki.grant_for(**arguments, timeout_s=timeout_s)
        if operation == "rotate_ca":
            return await self.pki.rotate_for(**arguments, timeout_s=timeout_s)
        return await self.certificates.wrap_for_leader(**arguments, timeout_s=timeout_s)

    async def _at_leader(
        self, operation: str, arguments: Json, here: Callable[..., Awaitable[Json]], timeout_s: float
    ) -> Json:
        """Run it here when this is the leader, else there; NoLeader is waited out, nothing else."""
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            leader = self._engine.leader()
            try:
                if left <= 0:
                    raise NoLeader(f"no leader within {timeout_s:g} s: a majority of the voters must be up")
                if self._engine.is_leader():
                    return await here(**arguments, timeout_s=left)
                if leader is not None:
                    return await self._ask(leader, operation, arguments, left)
            except NoLeader:
                if left <= 0.1:
                    raise
            await self._engine.wait_changed(min(0.1, max(left, 0.01)))

    async def member_remove(self, name: str, *, force: bool, dry_run: bool, timeout_s: float) -> Json:
        answer = await self._at_leader(
            "remove", {"name": name, "force": force, "dry_run": dry_run}, self._remove_here, timeout_s
        )
        if not dry_run:
            audit("member remove", member=name, force=force)
        return answer

    async def transfer_leadership(self, *, to: str | None, timeout_s: float) -> Json:
        if to is not None and self._machine.members.get(to) is None:
            raise NotFound(f"there is no member {to!r}: see `member list`")
        return await self._at_leader("transfer", {"to": to}, self._transfer_here, timeout_s)

    async def _remove_here(self, name: str, force: bool, dry_run: bool, timeout_s: float) -> Json:
        deadline = time.monotonic() + timeout_s
        await self._engine.read_barrier(timeout_s=timeout_s)
        status = self._engine.status()
        rows = {row["name"]: row for row in self._member_rows(status)}
        if name not in rows:
            if name in self._machine.members.removed():
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
            if reachable < len(voters_after) // 2 + 1 and not force:
                raise Conflict(
                    f"without {name} {reachable} of {len(voters_after)} voters are reachable, no majority: "
                    "bring a member back first, or use --force --yes"
                )
        if dry_run:
            return answer
        member = self._machine.members.get(name)
        raft_ids = {raft_id for raft_id in status.voters if raft_id.partition("~")[0] == name}
        if member is not None:
            raft_ids.add(member.raft_id)
        if self._raft_id in raft_ids:
            await self._engine.transfer_leadership(None, timeout_s=max(0.1, deadline - time.monotonic()))
            raise NoLeader("leadership is handed over before the leader is removed: try again")
        if member is not None and member.role == "learner":
            # First: whoever finishes the removal does not know any more that it never had the CA's key.
            await self._proposer.apply(
                "authorities",
                "exempt",
                {"name": name},
                request_id=None,
                timeout_s=max(0.1, deadline - time.monotonic()),
            )
        for raft_id in sorted(raft_ids):
            await self._patiently(partial(self._engine.remove, raft_id, force=force), deadline)
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

    async def _patiently(self, change: Callable[..., Awaitable[Any]], deadline: float) -> None:
        """Wait for another membership change to end; a permanent refusal lasts to the deadline."""
        while True:
            left = deadline - time.monotonic()
            try:
                await change(timeout_s=max(0.1, left))
                return
            except Conflict:
                if left <= 0.2:
                    raise
                await asyncio.sleep(0.05)

    def _removal(
        self, name: str, dry_run: bool, before: Mapping[str, MemberRow], after: Mapping[str, MemberRow]
    ) -> Json:
        def tolerance(rows: Mapping[str, MemberRow]) -> int:
            voters = [row for row in rows.values() if row["role"] != "learner"]
            return sum(1 for row in voters if row["reachable"]) - (len(voters) // 2 + 1)

        return {
            "schema_version": 1,
            "name": name,
            "removed": not dry_run,
            "dry_run": dry_run,
            "failure_tolerance_before": tolerance(before),
            "failure_tolerance_after": tolerance(after),
            # A voter has had the CA's key: until the CA is exchanged it can vouch for anybody.
            "ca_rotation_due": (name in before and before[name]["role"] != "learner")
            or bool(self._machine.authorities.due_for()),
        }

    async def _transfer_here(self, to: str | None, timeout_s: float) -> Json:
        deadline = time.monotonic() + timeout_s
        target = None
        if to is not None:
            member = self._machine.members.get(to)
            if member is None:
                raise NotFound(f"there is no member {to!r}: see `member list`")
            target = member.raft_id
        previous = self._raft_id.partition("~")[0]
        await self._engine.transfer_leadership(target, timeout_s=timeout_s)
        while (leader := self._engine.leader()) is None and time.monotonic() < deadline:
            await self._engine.wait_changed(0.05)
        return {
            "schema_version": 1,
            "leader": None if leader is None else leader.partition("~")[0],
            "previous": previous,
        }

    # ------------------------------------------------------------- members in memory

    def _end_of_memory(self) -> str | None:
        """Why stopping this member would end its cluster, whose state is in memories only."""
        status = self._engine.status()
        if self._config.storage != "memory" or self._raft_id not in status.voters:
            return None
        left = [raft_id for raft_id in status.voters if raft_id != self._raft_id]
        name = self._config.name
        if not left:
            if len(self._machine.members.members()) < 2:
                return None  # alone: it begins afresh, as it always does
            return f"{name} is the only voter of a cluster in memory: stopping it loses the whole state"
        up = sum(1 for raft_id in left if raft_id in status.connected)
        if up <= len(left) / 2:
            return (
                f"without {name} {up} of {len(left)} voters of a cluster in memory are up, no majority, and "
                "whoever restarts has forgotten its vote: the cluster could never go on; bring the others "
                "back, or remove those that are gone with `cyoloctl member remove NAME`"
            )
        return None

    async def give_vote_back(self, *, timeout_s: float) -> None:
        """Before a member in memory stops: be no voter any more, so that the others stay a majority.

        It will come back under another raft id, and its present vote never.  Raises nothing; what
        could not be done is in the log.
        """
        if self._raft_id not in self._engine.status().voters or self._engine.is_leader():
            reason = self._end_of_memory()
        else:
            try:
                arguments = {"raft_id": self._raft_id}
                await self._at_leader("step_out", arguments, self._step_out_here, timeout_s)
                return
            except CyoloctlError as error:
                reason = self._end_of_memory() or error.message
        if reason is not None:
            _log.critical("a vote that lives in memory is lost", extra={"reason": reason})

    async def _step_out_here(self, raft_id: str, timeout_s: float) -> Json:
        deadline = time.monotonic() + timeout_s
        self._stepped_out.add(raft_id)
        try:
            await self._patiently(partial(self._engine.demote, raft_id), deadline)
        except NotFound:
            pass
        except BaseException:
            self._stepped_out.discard(raft_id)
            raise
        _log.info("a member in memory gave its vote back", extra={"member": raft_id.partition("~")[0]})
        return {"raft_id": raft_id}

    # ------------------------------------------------------------- housekeeping

    async def housekeeping(self) -> None:
        """Runs until cancelled: announce this node, follow addresses, promote and clean up as leader."""
        pause = 0.1
        while True:
            await self._engine.wait_changed(pause)
            pause = _HOUSEKEEPING_S
            self._engine.set_addresses(self.where_to_dial())
            self._part_with_removed()
            self._engine.part_with_copies()
            try:
                if self.admission.is_caught_up and await self.credentials.bootstrap():
                    pause = 0.2
                if self._engine.leader() is not None and (await self._announce() or await self._presence()):
                    pause = 0.2
                if self._engine.is_leader() and await self._promote():
                    pause = 0.2
                if self._engine.leader() is not None and await self.keys.maintain():
                    pause = 0.05
            except CyoloctlError as error:
                _log.debug("housekeeping", extra={"code": error.code, "reason": error.message})
                pause = 0.2

    def _part_with_removed(self) -> None:
        """End the sessions of removed members, a moment later: one may still wait for an answer."""
        now = time.monotonic()
        for name in self._machine.members.removed():
            if name in self._engine.peers():
                since = self._parting.setdefault(name, now)
                if now - since >= _PARTING_S:
                    self._engine.disconnect(name)

    def where_to_dial(self) -> dict[str, tuple[str, ...]]:
        """Where members may be, by name: what the log says first, then what node.yaml says.

        When all the others moved while this node was away, node.yaml or another member knows where they are.
        """
        configured = {str(name): str(address) for name, address in self._config.peers.items()}
        return {
            name: tuple(dict.fromkeys((address, configured.get(name, address))))
            for name, address in self.addresses().items()
        }

    async def _announce(self) -> bool:
        """Keep the own record true: address, raft id, certificate.  True when it was written."""
        members = self._machine.members
        name = self._config.name
        mine = members.get(name)
        if members.is_removed(name) or (mine is None and (members.members() or not self._engine.is_leader())):
            return False  # not admitted yet, as far as this node has applied
        key_hash = public_key_sha256(self._files.certificate_pem)
        if mine is not None and mine.key_hash not in (None, key_hash):
            if not self._told_of_key:
                self._told_of_key = True
                _log.critical(
                    "another key was admitted under this node's name: restore its pki directory, "
                    "or remove the member and join under a new name",
                    extra={"member": name},
                )
            return False
        wanted = Member(
            name=name,
            address=str(self._config.advertise),
            role="voter" if mine is None else mine.role,
            sealing_key=self._files.sealing_key,
            raft_id=self._raft_id,
            # Whoever waits for it counts on sessions that rest on it (see CertificateRenewal.ready).
            certificate_expires_at=self.certificates.expires_at()
            if mine is None or self.certificates.settled()
            else mine.certificate_expires_at,
            key_hash=key_hash,
        )
        if mine == wanted:
            return await self._announce_gateway()
        arguments = wanted.to_json()
        del arguments["role"]  # whatever the cluster says
        await self._proposer.apply("members", "announce", arguments, request_id=None, timeout_s=5.0)
        return True

    async def _presence(self) -> bool:
        """Say which process this is; as leader also how far the voters that are away had got.

        So that a copy of a disk, or an older one that comes back, is known as such by every node.
        """
        presence, name = self._machine.presence, str(self._config.name)
        boots, boot = self._process
        known = presence.get(name)
        if boots and self._machine.members.get(name) is not None and (known is None or known.boots < boots):
            arguments = {
                "name": name,
                "boots": boots,
                "boot": boot,
                "index": self._engine.applied_index(),
            }
            await self._proposer.apply("presence", "boot", arguments, request_id=None, timeout_s=5.0)
            return True
        if self._engine.is_leader():
            status = self._engine.status()
            for raft_id in status.voters:
                index, known = self._engine.acknowledged(raft_id), presence.get(raft_id)
                if raft_id not in status.connected and known is not None and index > known.index:
                    reached = {"name": raft_id, "index": index}
                    await self._proposer.apply("presence", "reached", reached, request_id=None, timeout_s=5.0)
                    return True
        return False

    async def _announce_gateway(self) -> bool:
        """Say where browsers and proxies reach this node, or that they do not."""
        config, name = self._config.gateway, str(self._config.name)
        wanted = None if config is None else {"address": str(config.advertise), "url": config.url}
        known = self._machine.members.gateway(name)
        if wanted == (None if known is None else known._asdict()):
            return False
        arguments = {"name": name, "gateway": wanted}
        await self._proposer.apply("members", "set_gateway", arguments, request_id=None, timeout_s=5.0)
        return True

    async def _promote(self) -> bool:
        """As leader: voters in waiting become voters, what a removal left half done is finished."""
        status = self._engine.status()
        members = self._machine.members.members()
        known = {member.raft_id for member in members}
        busy = False
        for member in members:
            if member.raft_id in status.removed:
                await self._proposer.apply(
                    "members", "remove", {"name": member.name}, request_id=None, timeout_s=5.0
                )
            elif member.role == "voter" and member.raft_id not in status.voters:
                busy = True
                if member.raft_id in status.learners and member.raft_id not in self._stepped_out:
                    await self._engine.add_voter(member.raft_id, timeout_s=5.0)
                    _log.info("promoted", extra={"member": member.name})
        for raft_id in status.voters:
            # A member that keeps its log in memory came back under a new raft id.
            if (
                raft_id not in known
                and raft_id != self._raft_id
                and "~" in raft_id
                and len(status.voters) > 1
            ):
                await self._engine.demote(raft_id, timeout_s=5.0)
        return busy

    async def stop(self, *, force: bool, timeout_s: float) -> Json:
        reason = self._end_of_memory()
        if reason is not None:
            if not force:
                raise Conflict(f"{reason}; to stop it all the same: `cyoloctl node stop --force`")
            _log.critical("stopping by force", extra={"reason": reason})
        self._request_stop()
        return {"schema_version": 1, "stopping": True}


# What voters, and nobody else, ask of a holder of the CA key.
_OF_VOTERS = frozenset({"grant", "rotate_ca", "wrap_ca"})

_CALLS: dict[str, dict[str, Any]] = {
    "renew": {"request_pem": str},
    "grant": {"name": str, "request_pem": str},
    "rotate_ca": {"overlap_s": int, "dry_run": bool},
    "wrap_ca": {"sha256": str},
    "vouch": {"name": str, "key_hash": str},
    "credential": {"operation": str, "given": dict, "request_id": (str, type(None)), "caller": str},
    "remove": {"name": str, "force": bool, "dry_run": bool},
    "transfer": {"to": (str, type(None))},
    "step_out": {"raft_id": str},
    "join": dict.fromkeys(JOIN_FIELDS, str),
    "set_time": {"dry_run": bool, "by": str, "request_id": (str, type(None))},
}
