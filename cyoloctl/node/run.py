"""Composition root: one node, from its data directory to its listeners, and back.

Start: configuration, keys, journal (locked), listening sockets, engine, API.
Stop: leadership handed over, API drained, engine and journal closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cyoloctl import __version__
from cyoloctl.beat import until_beat
from cyoloctl.control.server import ControlServer, ServerLimits, build_server
from cyoloctl.errors import (
    ConfigError,
    Conflict,
    CyoloctlError,
    InternalError,
    Unavailable,
    VersionMismatch,
)
from cyoloctl.machines.code import Code
from cyoloctl.machines.loading import load_machines
from cyoloctl.model import Address, NodeName, RaftId, parse_address, parse_name
from cyoloctl.node import logs
from cyoloctl.node.config import CONFIG_NAME, KNOWN_PEERS, Config, LogConfig, LogFormat, LogLevel, load_config
from cyoloctl.node.dialing import Dialer
from cyoloctl.node.level_file import note_level, refuse_higher_level
from cyoloctl.node.notify import take_supervisor
from cyoloctl.node.profiles import engine_settings
from cyoloctl.node.reload import Reloading, gateway_settings
from cyoloctl.node.service import Service
from cyoloctl.node.unfinished import sweep
from cyoloctl.paths import (
    GATEWAY_SOCKET,
    check_ownership,
    control_socket_path,
    make_private_directory,
    open_to_group,
    write_node_file,
)
from cyoloctl.pki.files import PKI_DIRECTORY, NodeFiles, check_private_files
from cyoloctl.pki.tls import ALPN_RAFT, ALPN_RAFT_BEFORE, TlsIdentity
from cyoloctl.process import harden
from cyoloctl.raft import (
    COPY,
    LEFT_BEHIND,
    OLDER,
    TOO_OLD,
    ClusterClock,
    Engine,
    Journal,
    PeerIdentity,
    SnapshotStore,
    count_start,
    memory_storage,
    open_storage,
)
from cyoloctl.replicated.levels import THIS
from cyoloctl.state import AppliedMembership, ClusterState
from cyoloctl.text import Json
from cyoloctl.web.listener import Guest, Listener, raise_descriptor_limit
from cyoloctl.web.lookup import Host
from cyoloctl.web.strangers import Visitors, callers_limit, stranger_limits

if TYPE_CHECKING:
    from cyoloctl.gateway.server import Gateway

__all__ = ["Node", "run"]

_log = logging.getLogger("cyoloctl.node")

_HANDOVER_TIMEOUT_S = 3.0
_LOOKUP_TIMEOUT_S = 5.0
_PLACED_WITHIN_S = 4.0
"""Longer than an attempt to reach a peer takes, and than it takes a peer to know a copy."""
_NOTE_LEVEL_S = 0.5
_MAX_BROWSERS = 1024
_COLLECT_EVERY = 50_000
"""Objects between two passes of the cyclic collector: with Python's 700 it takes 5 to 8 % under load."""


_REMOVED = (
    "{name} was removed from the cluster: to come back, join under a new name with an empty data directory"
)
_UNWANTED = {
    COPY: (
        "another process runs as {name}, or ran on a later state of this disk: this data directory is a "
        "copy; stop this one and keep the other, or, if the other is gone, run `cyoloctl member remove "
        "{name}` on a healthy node and join under a new name with an empty data directory"
    ),
    LEFT_BEHIND: (
        "the cluster was recovered from another disk without {name}: it goes on there in a new history; to "
        "come back, join under a new name with an empty data directory"
    ),
    OLDER: (
        "this data directory is an older copy of {name}'s disk: it forgot what {name} had acknowledged, so "
        "it must not vote; start the newer disk, or run `cyoloctl member remove {name}` on a healthy node "
        "and join under a new name with an empty data directory"
    ),
}
_BELOW_LEVEL = (
    f"the cluster of {{name}} was raised to a level that release {THIS.name} does not understand: install "
    "the release that the other nodes run, then start this node again"
)


class _Demultiplexer(asyncio.Protocol):
    """A connection after its TLS handshake: the ALPN name says who serves it."""

    def __init__(self, node: Node, guest: Guest) -> None:
        self._node = node
        self._guest = guest

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        tls = stream.get_extra_info("ssl_object")
        protocol: asyncio.Protocol
        if tls.selected_alpn_protocol() in (ALPN_RAFT, *ALPN_RAFT_BEFORE):
            protocol = self._node.engine.accept(self._guest.left)
            if self._node.service.admission.peer(tls) is not None:
                self._guest.identified()
            # Otherwise the link refuses it at once, and the listener ends what lingers.
        else:
            protocol = self._node.control.protocol_factory(self._guest)
        stream.set_protocol(protocol)
        protocol.connection_made(stream)


class Node:
    """A running node.  `start`, then `wait`, then `stop`."""

    def __init__(self, data_dir: Path, config: Config, held: Collection[str] = ()) -> None:
        """held: keys of node.yaml that whoever starts the node decides, whatever the file says later."""
        self._data_dir = data_dir
        self._held = held
        #: Around each reload: for a supervisor that wants to know.
        self.tell_of_reload: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        self._config = config
        self._codes: tuple[Code, ...] = ()
        self._stop_requested = asyncio.Event()
        self._failure: CyoloctlError | None = None
        self._listener: Listener | None = None
        self._descriptors = 1024
        self._reloading: Reloading
        self._tasks: list[asyncio.Task[Any]] = []
        self._was_hung_up = False
        self._gateway: Gateway | None = None
        self.tls: TlsIdentity
        self._engine: Engine | None = None
        self.control: ControlServer
        self.service: Service

    @property
    def engine(self) -> Engine:
        """The engine, from the moment that `start` has made it."""
        assert self._engine is not None
        return self._engine

    async def start(self) -> None:
        """Start.  Raises ConfigError, StorageError, Conflict or VersionMismatch; nothing runs then."""
        written = self._config
        if written.storage == "memory":
            self._config = replace(written, peers=self._peers_known_last())
        config = self._config
        pki_dir = self._data_dir / PKI_DIRECTORY
        # Its dates are judged by the cluster's time, which the service knows (CertificateRenewal.start).
        files = check_private_files(pki_dir, name=config.name, cluster_id=config.cluster_id)
        self.tls = TlsIdentity(pki_dir)
        self._reloading = Reloading(self._data_dir, written, self._held)
        self._descriptors = raise_descriptor_limit()
        make_private_directory(self._data_dir)
        self._codes = load_machines(config.machines, self._data_dir)
        boot = os.urandom(8).hex()
        # What was in memory is gone: the node comes back as somebody new to Raft.
        raft_id = RaftId(config.name if config.storage == "disk" else f"{config.name}~{boot}")
        journal, snapshots = self._open_storage(raft_id)
        sweep(self._data_dir)
        sockets: list[socket.socket] = []
        try:
            sockets.append(_listen(config.listen, config.advertise, "listen", "advertise"))
            if config.gateway is not None:
                sockets.append(
                    _listen(
                        config.gateway.listen, config.gateway.advertise, "gateway.listen", "gateway.advertise"
                    )
                )
            self._assemble(files, journal, snapshots, raft_id=raft_id, boot=boot)
            self.engine.start(self.service.addresses.to_dial())
            self.service.certificates.start()  # nothing was dialled yet: that takes the loop
            await self._open_doors(*sockets)
        except BaseException:
            if self._listener is not None:
                self._listener.close()
            for each in sockets:
                each.close()
            with contextlib.suppress(CyoloctlError):
                if self._engine is not None:
                    await self._engine.stop()
                else:
                    journal.close()
            raise
        self._start_tasks()
        _log.info(
            "node started",
            extra={
                "node": config.name,
                "cluster": config.cluster,
                "listen": str(config.listen),
                "release": __version__,
                "storage": config.storage,
                "profile": config.profile,
            },
        )
        if self._was_hung_up:
            self.hang_up()

    def _open_storage(self, raft_id: RaftId) -> tuple[Journal, SnapshotStore]:
        config = self._config
        if config.storage == "disk":
            return open_storage(self._data_dir, cluster_id=config.cluster_id, name=config.name)
        return memory_storage(founder=raft_id if self._founds_memory_cluster() else None)

    def _assemble(
        self, files: NodeFiles, journal: Journal, snapshots: SnapshotStore, *, raft_id: RaftId, boot: str
    ) -> None:
        """Make the engine, the service on it and the server of its API, and tell them of each other."""
        config = self._config
        machine = ClusterState(codes=self._codes, strangers=False)
        boots = count_start(journal) if config.storage == "disk" else 0
        self._engine = Engine(
            PeerIdentity(
                name=config.name,
                raft_id=raft_id,
                cluster_id=config.cluster_id,
                boot=boot,
                address=str(config.advertise),
                release=__version__,
                boots=boots,
                level=THIS.level,
            ),
            journal=journal,
            snapshots=snapshots,
            machine=machine,
            clock=ClusterClock(
                str(config.name),
                wall_unix_ms=lambda: time.time_ns() // 1_000_000,
                monotonic=time.monotonic,
            ),
            identify=self._identify_peer,
            connect=Dialer(self.tls).connect,
            describe=self._describe,
            on_call=self._on_call,
            membership_view=AppliedMembership(machine),
            stands_back=config.witness,
            **engine_settings(config.profile),
        )
        self.service = Service(
            config,
            files,
            self._data_dir / PKI_DIRECTORY,
            self.engine,
            machine,
            raft_id=raft_id,
            process=(boots, boot),
            request_stop=self._stop_requested.set,
            reload=self.reload,
            tls=self.tls,
        )
        admission = self.service.admission
        self.control = build_server(
            self.service,
            logger=logging.getLogger("cyoloctl.api"),
            identify=admission.authenticate_caller,
            wait_ready=admission.wait_caught_up,
            limits=_server_limits(self._descriptors),
        )
        admission.recheck_callers = self.control.recheck
        self.service.metrics.api = self.control.figures
        self.engine.on_unwanted = self._on_unwanted

    async def _open_doors(self, listening: socket.socket, browsers: socket.socket | None = None) -> None:
        """Take connections: TLS of peers and API, the control sockets, the gateway's."""
        config = self._config
        self._listener = Listener(
            listening,
            lambda guest: _Demultiplexer(self, guest),
            Visitors(stranger_limits(self._descriptors)),
            name="api",
            tls=lambda: self.tls.server,
        )
        self._listener.start()
        control_socket = control_socket_path(self._data_dir, create=True)
        await self.control.start_unix(control_socket)
        if config.socket_group is not None:
            group_id = open_to_group(self._data_dir, config.socket_group, control_socket)
            await self.control.start_unix(
                control_socket.with_name(GATEWAY_SOCKET), role="gateway", group_id=group_id
            )
        if config.gateway is not None and browsers is not None:
            from cyoloctl.gateway.server import Gateway
            from cyoloctl.gateway.settings import Limits as GatewayLimits

            limits = stranger_limits(self._descriptors, at_most=_MAX_BROWSERS)
            self._gateway = Gateway(
                self.service.gateway,
                gateway_settings(config.gateway),
                GatewayLimits(connections=limits.connections, client_connections=min(128, limits.per_source)),
            )
            await self._gateway.start(browsers, self._reloading.gateway_tls())

    def _start_tasks(self) -> None:
        work: list[Coroutine[Any, Any, None]] = [
            self._watch_failure(),
            self.service.upkeep.run(),
            self.service.schedule.run(),
            self.service.own_address.run(),
            self.service.relayed_words.run(),
            self.service.disk.run(),
            self.service.certificates.run(),
            self.service.admission.run(),
            _report_suppressed(),
        ]
        if self._config.storage == "disk":
            work.append(self._remember_level())
        if self._config.storage == "memory":
            work.append(self._remember_peers())
        if self._config.gateway is not None:
            work.append(self._refuse_gateway())
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each) for each in work]

    async def wait(self) -> None:
        """Returns when the node was asked to stop; raises the error that stopped it."""
        await self._stop_requested.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Hand leadership over, answer what runs, close."""
        if self._failure is None and self.engine.is_leader() and len(self.engine.status().voters) > 1:
            try:
                await self.engine.transfer_leadership(None, timeout_s=_HANDOVER_TIMEOUT_S)
            except CyoloctlError as error:
                _log.warning("leadership was not handed over", extra={"reason": error.message})
        if self._config.storage == "disk":
            self._note_level()  # it may have been raised a moment ago
        elif self._failure is None:
            await self.service.votes.give_vote_back(timeout_s=_HANDOVER_TIMEOUT_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        # Both at once, while the engine still runs: what they are answering goes through it.
        await asyncio.gather(self.control.close(), *([self._gateway.close()] if self._gateway else []))
        try:
            await self.engine.stop()
        except CyoloctlError as error:
            if self._failure is None:
                raise
            _log.error("closing failed", extra={"reason": error.message})
        _log.info("node stopped", extra={"node": self._config.name})

    def reload(self) -> Json:
        """Read node.yaml and the certificates again, reopen the log; what changed, by key.

        Raises ConfigError or VersionMismatch, and Unavailable before the node has started; nothing was
        changed then.
        """
        if not self._tasks:  # what it starts with was read already, and is not all in place
            raise Unavailable("the node is still starting: try again in a moment")
        with self.tell_of_reload():
            return self._reloading.reload(self.service, self._gateway)

    def hang_up(self) -> None:
        """Reload, and once the node has started where it has not yet.

        For a signal handler of the loop: never raises a CyoloctlError.
        """
        if not self._tasks:
            logs.reopen()
            self._was_hung_up = True
            return
        with contextlib.suppress(CyoloctlError):  # the log has said it
            self.reload()

    async def readiness(self) -> dict[str, Any]:
        """The answer to whoever waits until the node is ready: it runs, and the cluster lets it stay.

        kept_out_by: peers that do not, and why, without being a majority.
        unheard: members that a node which just joined has no link with.
        Raises the error that it ends with instead; Unavailable when it was
        told to stop meanwhile.
        """
        await self.engine.wait_placed(timeout_s=_PLACED_WITHIN_S)
        if self._stop_requested.is_set():
            raise self._failure or Unavailable(
                "the node was told to stop before it was ready: start it again"
            )
        return {
            "ready": True,
            "name": self._config.name,
            "address": str(self._config.advertise),
            "kept_out_by": self.engine.kept_out_by(),
            "unheard": self.engine.unheard() if self.engine.leader() is None else [],
        }

    def request_stop(self) -> None:
        """Make `wait` return.  Safe to call from a signal handler of the loop."""
        self._stop_requested.set()

    # Inside.

    async def _watch_failure(self) -> None:
        self._failure = await self.engine.wait_failed()
        self._stop_requested.set()

    async def _refuse_gateway(self) -> None:
        """End a node that has a gateway, and that the cluster, unlike its node.yaml, knows as a witness."""
        while (witness := self.service.is_witness()) is None:
            await self.engine.wait_changed(1.0)
        if witness and self._failure is None:
            self._failure = ConfigError(
                f"{self._data_dir / CONFIG_NAME}: the cluster admitted {self._config.name} as a witness, "
                "which has no gateway: remove `gateway`, and add `witness: true`"
            )
            self._stop_requested.set()

    def _on_unwanted(self, reason: str) -> None:
        """The cluster keeps this process out permanently."""
        if self._failure is None and reason == TOO_OLD:
            self._failure = VersionMismatch(_BELOW_LEVEL.format(name=self._config.name))
            self._stop_requested.set()
        if self._failure is None:
            self._failure = Conflict(_UNWANTED.get(reason, _REMOVED).format(name=self._config.name))
            self._stop_requested.set()

    # The engine is made before the service that it asks.

    def _describe(self) -> dict[str, Any]:
        return self.service.member_status.describe()

    async def _on_call(self, name: str, body: bytes) -> bytes:
        return await self.service.calls.answer(name, body)

    def _identify_peer(self, tls: Any) -> str | None:
        if tls.getpeercert(True) is None:
            return None  # a stranger is told nothing
        # One that was removed too: its link is refused with the reason.
        return self.service.admission.authenticate_peer(tls, removed_too=True)

    def _founds_memory_cluster(self) -> bool:
        """True for the first node of an in-memory cluster, as long as it has not seen another member.

        One that has, or that was granted its place by one, must not begin a
        second cluster beside the members that live.
        """
        return not self._config.peers and not (self._data_dir / KNOWN_PEERS).exists()

    def _peers_known_last(self) -> Mapping[NodeName, Address]:
        """The other members when this node ran last; those of node.yaml when that was written later.

        A log in memory is empty now, and a node with an empty log believes a majority of these.  Some
        that node.yaml names may be removed by now, and would have to agree otherwise.
        """
        configured = self._config.peers
        path, yaml = self._data_dir / KNOWN_PEERS, self._data_dir / CONFIG_NAME
        if not path.exists() or path.stat().st_mtime < yaml.stat().st_mtime:
            return configured
        try:
            known = json.loads(path.read_text())
            peers = {parse_name(name): parse_address(address) for name, address in known.items()}
        except (OSError, ValueError, TypeError, AttributeError, CyoloctlError) as error:
            _log.warning(
                "the peers known last cannot be read", extra={"path": str(path), "error": str(error)}
            )
            return configured
        return {name: configured.get(name, address) for name, address in peers.items()} or configured

    async def _remember_peers(self) -> None:
        path = self._data_dir / KNOWN_PEERS
        while True:
            others = {k: v for k, v in self.service.addresses.known().items() if k != self._config.name}
            if others:
                text = json.dumps(others, sort_keys=True)
                if not path.exists() or path.read_text() != text:
                    write_node_file(path, text.encode())
            await self.engine.wait_changed(until_beat(time.monotonic(), 5.0))

    async def _remember_level(self) -> None:
        """Leave the level in the directory, so that an earlier release ends before it opens the rest."""
        while True:
            self._note_level()
            await self.engine.wait_changed(until_beat(time.monotonic(), _NOTE_LEVEL_S))

    def _note_level(self) -> None:
        try:
            note_level(self._data_dir, self.service.upgrading.levels)
        except (CyoloctlError, OSError) as error:
            _log.warning("the level was not noted", extra={"error": str(error)})


async def _report_suppressed() -> None:
    while True:
        await asyncio.sleep(until_beat(time.monotonic(), 1.0))
        logs.report_suppressed()


def _server_limits(descriptors: int) -> ServerLimits:
    """Limits of identified callers for this many descriptors; one caller may take half."""
    connections = callers_limit(descriptors)
    held = min(ServerLimits().held, connections)
    return ServerLimits(
        connections=connections,
        connections_each=connections // 2,
        held=held,
        held_each=min(ServerLimits().held_each, held // 2),
    )


def _listen(address: Address, shown: Address, setting: str, shown_setting: str) -> socket.socket:
    """A listening socket that accepts nothing yet: the port is ours before anything else happens.

    shown: where others dial it, from shown_setting of node.yaml; address is from setting.
    Raises Conflict where the port is taken, ConfigError.
    """
    try:
        host = "0.0.0.0" if address.host == "*" else address.host
        family, where = Host(host, address.port).places(_LOOKUP_TIMEOUT_S)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {address}: {error.strerror or error}; correct `{setting}` in node.yaml"
        ) from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(512)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise _cannot_listen(error, address, shown, setting, shown_setting) from None
    return listening


def _cannot_listen(
    error: OSError, address: Address, shown: Address, setting: str, shown_setting: str
) -> CyoloctlError:
    # Whoever changes the port on which the node listens only leaves the others dialling the old one.
    settings = f"`{setting}`" + (f" and `{shown_setting}`" if shown.port == address.port else "")
    text = f"cannot listen on {address}"
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"{text}: another process uses this port (`ss -ltnp sport = :{address.port}` as root shows it); "
            f"stop it, or set {settings} in node.yaml to a free port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"{text}: this machine has no such address; set `{setting}` in node.yaml to one that it has, or "
            f"to 0.0.0.0:{address.port} for all of them (`{shown_setting}` is what the others dial: {shown})"
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f"{text}: this user may not use port {address.port}; set {settings} in node.yaml to a port above "
            "1023, or give the service the capability CAP_NET_BIND_SERVICE"
        )
    return ConfigError(f"{text}: {(error.strerror or str(error)).lower()}; correct `{setting}` in node.yaml")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, else asyncio's own loop: the same behaviour, a little slower."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _on_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    level = logging.DEBUG if isinstance(error, (OSError, ssl.SSLError, TimeoutError)) else logging.ERROR
    exc_info = None if level == logging.DEBUG or error is None else (type(error), error, error.__traceback__)
    _log.log(level, context.get("message", "asyncio"), exc_info=exc_info)


def _say(ready_fd: int | None, answer: dict[str, Any]) -> None:
    if ready_fd is None:
        return
    with contextlib.suppress(OSError):
        os.write(ready_fd, json.dumps(answer).encode() + b"\n")
        os.close(ready_fd)


def _say_error(ready_fd: int | None, error: CyoloctlError) -> None:
    details = {"code": error.code, "message": error.message, "exit_status": error.exit_status}
    _say(ready_fd, {"error": details})


async def _run(data_dir: Path, config: Config, held: Collection[str], ready_fd: int | None) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_loop_exception)
    node = Node(data_dir, config, held)
    supervisor = take_supervisor(os.environ)
    node.tell_of_reload = supervisor.reloading
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.request_stop)
    # Before the start too, which may take minutes: its default would end the node.
    loop.add_signal_handler(signal.SIGHUP, node.hang_up)
    await node.start()
    # What start-up made stays as long as the process: the collector need not walk it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)
    try:
        if ready_fd is not None or supervisor.is_there:
            _say(ready_fd, await node.readiness())
            supervisor.ready(f"{config.name} serves at {config.advertise}", node.engine.wait_ticked)
        await node.wait()
    finally:
        supervisor.stopping()
        await node.stop()


def run(
    data_dir: Path,
    *,
    log_format: str | None = None,
    log_level: str | None = None,
    log_file: str | None = None,
    ready_fd: int | None = None,
    socket_group: str | None = None,
) -> int:
    """Run the node of a data directory until it is told to stop; returns the exit status 0.

    log_format: text or json; log_level: debug, info, warning or error; None:
    as in node.yaml.  log_file: the file that stderr goes to, rotated by the
    node.  ready_fd: gets one JSON line, ``{"ready":true,...}`` or
    ``{"error":{...}}``, and is closed.  socket_group: in place of node.yaml's.

    Raises the error that kept it from starting or made it stop: ConfigError,
    StorageError, Conflict, VersionMismatch.
    """
    started = time.monotonic()
    is_logging = False
    try:
        harden()
        # Until the node can reload, a hang-up is nothing: without this it would end the process.
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)
        check_ownership(data_dir)
        refuse_higher_level(data_dir)
        config = load_config(data_dir / CONFIG_NAME)
        given = {"log.format": log_format, "log.level": log_level, "socket_group": socket_group}
        held = {key for key, value in given.items() if value is not None}
        log = LogConfig(
            cast(LogFormat, log_format or config.log.format), cast(LogLevel, log_level or config.log.level)
        )
        config = replace(config, log=log, socket_group=socket_group or config.socket_group)
        logs.configure(log.format, log.level, path=log_file)
        is_logging = True
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(data_dir, config, held, ready_fd))
    except CyoloctlError as error:
        if is_logging:
            _log.error(
                "node cannot go on",
                extra={
                    "code": error.code,
                    "reason": error.message,
                    "after_s": round(time.monotonic() - started, 1),
                },
            )
        _say_error(ready_fd, error)
        raise
    except Exception as error:
        _log.critical("node ended by a bug", exc_info=True)
        bug = InternalError(
            f"the node ended by a bug ({type(error).__name__}): report the last lines of its log"
        )
        _say_error(ready_fd, bug)
        raise bug from error
    return 0
