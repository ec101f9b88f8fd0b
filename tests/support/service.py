"""An in-memory node behind the `Node` protocol of the table of routes, and certificates to reach it with.

Only tests use it: a dictionary of counters with a table of request ids, no cluster.
"""

from __future__ import annotations

import asyncio
import datetime
import inspect
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cyoloctl.audit.api import AuditApi
from cyoloctl.authorities.api import AuthorityApi
from cyoloctl.caller import CALLER, Caller
from cyoloctl.credentials.api import CredentialApi
from cyoloctl.errors import CounterOverflow, CyoloctlError, InvitationRejected, NotFound
from cyoloctl.keys.api import KeyApi
from cyoloctl.kv.api import KvApi
from cyoloctl.locks.api import LockApi
from cyoloctl.machines.api import MachineApi
from cyoloctl.rendezvous.api import RendezvousApi
from cyoloctl.routing.api import RoutingApi
from cyoloctl.snapshots.api import SnapshotApi
from cyoloctl.tokens.api import TokenApi

__all__ = ["GOOD_SIGNATURE", "Authority", "MemoryService", "identify"]

GOOD_SIGNATURE = "A" * 86 + "=="

_SUFFIX = ".cyoloctl"


class _Group:
    """The operations of a subject: each that its protocol has answers with its name."""

    def __init__(self, service: MemoryService, group: str, operations: type) -> None:
        self._service = service
        self._group = group
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        if name.startswith("plan_"):
            return lambda *names, **arguments: None
        signature = inspect.signature(getattr(self._operations, name))

        async def operation(*names: str, **arguments: Any) -> dict[str, Any]:
            signature.bind(self, *names, **arguments)  # or TypeError: the subject has no such arguments
            await self._service._enter(f"{self._group}.{name}", names=names, **arguments)
            return {"operation": f"{self._group}.{name}"}

        return operation


class MemoryService:
    """A node that keeps everything in memory.

    fail: raised by every asynchronous call.  hang: every asynchronous call waits
    for `release`.  calls: (operation, arguments) of each call that arrived.  callers: on whose behalf.
    """

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.index = 0
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.callers: list[Caller] = []
        self.fail: BaseException | None = None
        self.hang = False
        self.release = asyncio.Event()
        self.entered = asyncio.Event()
        self.changed = asyncio.Condition()
        self.watchers = 0
        self.watch_ended = asyncio.Event()
        self.cluster_id = ""
        self.ca_certificates: list[str] = []
        self.counters: Any = SimpleNamespace(
            add=self.counter_add,
            plan_add=lambda name, by: None,
            reset=self.counter_reset,
            plan_reset=lambda name: None,
            get=self.counter_get,
            list=self.counter_list,
            watch=self.counter_watch,
        )
        self.kv: Any = _Group(self, "kv", KvApi)
        self.machines: Any = _Group(self, "machines", MachineApi)
        self.audit: Any = _Group(self, "audit", AuditApi)
        self.members: Any = SimpleNamespace(
            status=self.status,
            list=self.member_list,
            show=self.member_show,
            invite=self.member_invite,
            grant=self.member_grant,
            invitations=self.member_invitations,
            uninvite=self.member_uninvite,
            join=self.join,
            remove=self.member_remove,
            promote=self.member_promote,
            demote=self.member_demote,
            set_address=self.member_set_address,
            set_host=self.member_set_host,
            transfer_leadership=self.transfer_leadership,
        )
        self.locks: Any = _Group(self, "locks", LockApi)
        self.tokens: Any = _Group(self, "tokens", TokenApi)
        self.keys: Any = _Group(self, "keys", KeyApi)
        self.credentials: Any = _Group(self, "credentials", CredentialApi)
        self.rendezvous: Any = _Group(self, "rendezvous", RendezvousApi)
        self.routing: Any = _Group(self, "routing", RoutingApi)
        self.authorities: Any = _Group(self, "authorities", AuthorityApi)
        self.snapshots: Any = _Group(self, "snapshots", SnapshotApi)
        self.metrics: Any = SimpleNamespace(show=self.show_metrics)

    async def _enter(self, operation: str, **arguments: Any) -> None:
        self.calls.append((operation, arguments))
        self.callers.append(CALLER.get())
        self.entered.set()
        if self.hang:
            await self.release.wait()
        if self.fail is not None:
            raise self.fail

    def _counter(self, name: str) -> dict[str, Any]:
        if name not in self.values:
            raise NotFound(f"there is no counter {name}")
        value = self.values[name]
        return {"name": name, "value": value, "value_string": str(value), "index": self.index, "epoch": 1}

    async def _write(self, name: str, value: int, request_id: str | None) -> dict[str, Any]:
        request_id = request_id or f"made-{self.index}"
        if request_id not in self.results:
            if not -(2**63) <= value < 2**63:
                raise CounterOverflow
            self.index += 1
            self.values[name] = value
            self.results[request_id] = {**self._counter(name), "request_id": request_id}
            async with self.changed:
                self.changed.notify_all()
        return self.results[request_id]

    async def show_metrics(self, *, timeout_s: float) -> str:
        await self._enter("metrics", timeout_s=timeout_s)
        return "# HELP caf\u00e9 x\n"

    async def health(self, *, timeout_s: float) -> dict[str, Any]:
        return {"ready": True}

    async def status(self, *, timeout_s: float) -> dict[str, Any]:
        await self._enter("status", timeout_s=timeout_s)
        return {"schema_version": 1, "cluster": {"name": "test"}, "members": []}

    async def member_list(self, *, consistency: str, timeout_s: float) -> dict[str, Any]:
        await self._enter("member_list", timeout_s=timeout_s)
        return {"schema_version": 1, "members": []}

    async def member_show(self, name: str, *, consistency: str, timeout_s: float) -> dict[str, Any]:
        await self._enter("member_show", name=name, timeout_s=timeout_s)
        return {"name": name, "role": "leader"}

    async def member_invite(
        self,
        *,
        name: str,
        learner: bool,
        witness: bool,
        ttl_s: int,
        request_id: str | None,
        timeout_s: float,
    ) -> dict[str, Any]:
        await self._enter(
            "member_invite",
            name=name,
            learner=learner,
            witness=witness,
            ttl_s=ttl_s,
            request_id=request_id,
            timeout_s=timeout_s,
        )
        return {
            "token": "cyolojoin2.x",
            "name": name,
            "learner": learner,
            "witness": witness,
            "expires_at": "2030-01-01T00:00:00Z",
            "replaced": False,
        }

    async def member_grant(
        self,
        *,
        request: str,
        learner: bool,
        witness: bool,
        ttl_s: int,
        certificate_pem: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> dict[str, Any]:
        await self._enter(
            "member_grant",
            request=request,
            learner=learner,
            witness=witness,
            ttl_s=ttl_s,
            request_id=request_id,
            timeout_s=timeout_s,
        )
        return {"name": "n2", "learner": learner, "witness": witness, "grant": "{}"}

    async def member_invitations(self, *, consistency: str, timeout_s: float) -> dict[str, Any]:
        await self._enter("member_invitations", timeout_s=timeout_s)
        return {"schema_version": 1, "invitations": []}

    async def member_uninvite(self, name: str, *, request_id: str | None, timeout_s: float) -> dict[str, Any]:
        await self._enter("member_uninvite", name=name, timeout_s=timeout_s)
        return {"name": name, "uninvited": True}

    async def ca(self, *, timeout_s: float) -> dict[str, Any]:
        self.calls.append(("ca", {}))
        return {"cluster_id": self.cluster_id, "certificates": self.ca_certificates}

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
    ) -> dict[str, Any]:
        await self._enter("join", name=name, address=address, timeout_s=timeout_s)
        if signature != GOOD_SIGNATURE:
            raise InvitationRejected
        return {"grant": {"name": name}}

    async def member_remove(
        self, name: str, *, force: bool, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> dict[str, Any]:
        await self._enter(
            "member_remove",
            name=name,
            force=force,
            dry_run=dry_run,
            request_id=request_id,
            timeout_s=timeout_s,
        )
        return {
            "name": name,
            "removed": not dry_run,
            "dry_run": dry_run,
            "failure_tolerance_before": 1,
            "failure_tolerance_after": 0,
        }

    async def member_promote(
        self, name: str, *, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> dict[str, Any]:
        await self._enter("member_promote", name=name, dry_run=dry_run, timeout_s=timeout_s)
        return {"name": name, "role": "voter", "changed": True, "dry_run": dry_run}

    async def member_demote(
        self, name: str, *, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> dict[str, Any]:
        await self._enter("member_demote", name=name, dry_run=dry_run, timeout_s=timeout_s)
        return {"name": name, "role": "learner", "changed": True, "dry_run": dry_run}

    async def member_set_address(
        self, name: str, *, address: str, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> dict[str, Any]:
        await self._enter("member_set_address", name=name, address=address, timeout_s=timeout_s)
        return {"name": name, "address": address, "changed": True, "dry_run": dry_run}

    async def member_set_host(
        self, name: str, *, host: str | None, request_id: str | None, timeout_s: float
    ) -> dict[str, Any]:
        await self._enter("member_set_host", name=name, host=host, timeout_s=timeout_s)
        return {"name": name, "host": host}

    async def transfer_leadership(
        self, *, to: str | None, dry_run: bool, request_id: str | None, timeout_s: float
    ) -> dict[str, Any]:
        await self._enter("transfer_leadership", to=to, dry_run=dry_run, timeout_s=timeout_s)
        return {"leader": to, "previous": "a"}

    def begin(self, planned: Any, *, request_id: str | None, timeout_s: float, done: Any) -> Any:
        """Of a write that nothing here plans."""
        raise AssertionError

    async def begin_all(self, writes: Any, *, timeout_s: float, after: Any) -> Any:
        """Of writes that nothing here plans."""
        raise AssertionError

    async def set_time(self, *, dry_run: bool, request_id: str | None, timeout_s: float) -> dict[str, Any]:
        await self._enter("set_time", dry_run=dry_run, request_id=request_id, timeout_s=timeout_s)
        return {
            "dry_run": dry_run,
            "from": "2026-01-02T03:04:05Z",
            "to": "2026-01-01T03:04:05Z",
            "moves_s": -86_400.0,
            "epoch": 1,
            "affected": {"rendezvous": 0, "invitations": 0, "keys": 0, "revocations": 2},
        }

    async def upgrade(self, *, dry_run: bool, request_id: str | None, timeout_s: float) -> dict[str, Any]:
        await self._enter("cluster_upgrade", dry_run=dry_run, request_id=request_id, timeout_s=timeout_s)
        return {
            "level": 1,
            "to": 2,
            "release": "9.0.0",
            "changed": True,
            "dry_run": dry_run,
            "waits_for": [],
            "members": [{"name": "a", "release": "9.0.0", "level": 2}],
        }

    async def counter_add(
        self, name: str, *, by: int, request_id: str | None, timeout_s: float
    ) -> dict[str, Any]:
        await self._enter("counter_add", name=name, by=by, request_id=request_id, timeout_s=timeout_s)
        return await self._write(name, self.values.get(name, 0) + by, request_id)

    async def counter_reset(self, name: str, *, request_id: str | None, timeout_s: float) -> dict[str, Any]:
        await self._enter("counter_reset", name=name, request_id=request_id, timeout_s=timeout_s)
        self._counter(name)
        return await self._write(name, 0, request_id)

    async def counter_get(self, name: str, *, consistency: str, timeout_s: float) -> dict[str, Any]:
        await self._enter("counter_get", name=name, consistency=consistency, timeout_s=timeout_s)
        return self._counter(name)

    async def counter_list(
        self, *, after: str | None, limit: int, consistency: str, timeout_s: float
    ) -> dict[str, Any]:
        await self._enter(
            "counter_list", after=after, limit=limit, consistency=consistency, timeout_s=timeout_s
        )
        names = sorted(name for name in self.values if after is None or name > after)
        page = names[:limit]
        return {
            "counters": [self._counter(name) for name in page],
            "next": page[-1] if len(names) > limit else None,
        }

    async def counter_watch(self, name: str) -> AsyncIterator[dict[str, Any]]:
        self.watchers += 1
        try:
            await self._enter("counter_watch", name=name)
            while True:
                seen = self.index
                yield self._counter(name)
                async with self.changed:
                    while self.index == seen and self.fail is None:
                        await self.changed.wait()
                if isinstance(self.fail, CyoloctlError):
                    raise self.fail
        finally:
            self.watchers -= 1
            self.watch_ended.set()

    async def reload(self, *, timeout_s: float) -> dict[str, Any]:
        await self._enter("reload", timeout_s=timeout_s)
        keys = {"applied": ["log.level"], "needs_restart": [], "overridden": [], "unchanged": ["name"]}
        return {"reloaded": True, "pid": 1, **keys}

    async def stop(self, *, force: bool, timeout_s: float) -> dict[str, Any]:
        await self._enter("stop", force=force, timeout_s=timeout_s)
        return {"stopping": True}


def identify(ssl_object: Any) -> tuple[str, str, str] | None:
    """(name, role, key hash) of a peer from its SAN `<name>.<role>.<cluster id>.cyoloctl`."""
    for _, name in (ssl_object.getpeercert() or {}).get("subjectAltName", ()):
        parts = name.split(".")
        if len(parts) == 4:
            return parts[0], parts[1], "c" * 64
    return None


@dataclass
class Authority:
    """A cluster's CA that signs certificates for nodes, operators and viewers."""

    cluster_id: str = "0" * 32
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ca {self.cluster_id}")])
        self._name = name
        self._certificate = (
            self._builder(name, self.key.public_key(), days=30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.ca_pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _builder(self, subject: x509.Name, public_key: Any, days: int) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
        )

    def issue(self, name: str, role: str, *, days: int = 30) -> tuple[str, str]:
        """(certificate PEM, key PEM); days below 0: expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(subject, key.public_key(), days)
            .add_extension(
                x509.SubjectAlternativeName(
                    [
                        x509.DNSName(f"{name}.{role}.{self.cluster_id}{_SUFFIX}"),
                        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
                    ]
                ),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        key_pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem.decode()

    def server_context(self, directory: Path, *, role: str = "node", days: int = 30) -> ssl.SSLContext:
        """A node's listening context: client certificates are optional, TLS 1.3 only."""
        certificate, key = self.issue("a", role, days=days)
        path = directory / f"{role}-{days}.pem"
        path.write_text(certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(path)
        context.load_verify_locations(cadata=self.ca_pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        return context

    def credentials(self, directory: Path, role: str = "operator", *, days: int = 30) -> Path:
        """A credentials file for the client, mode 0600."""
        certificate, key = self.issue("somebody", role, days=days)
        path = directory / f"{role}-{self.cluster_id[:4]}-{days}.yaml"
        path.touch(0o600)
        path.write_text(
            json.dumps(
                {
                    "schema_version": 1,
                    "role": role,
                    "name": "somebody",
                    "cluster_id": self.cluster_id,
                    "ca_pem": self.ca_pem,
                    "certificate_pem": certificate,
                    "key_pem": key,
                }
            )
        )
        return path
