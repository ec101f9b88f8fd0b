"""A cluster of real processes on the loopback of this machine, for as long as the command that started it.

What `cyoloctl demo` and `cyoloctl dev` share: the directory, the nodes, and
that nothing of them is left, however the command ends.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyoloctl.cli.parameters import Option
from cyoloctl.errors import ConfigError, Conflict, Unavailable, Unreachable
from cyoloctl.paths import check_data_dir, control_socket_path, file_error

if TYPE_CHECKING:
    from cyoloctl.cli.invocation import Invocation
    from cyoloctl.cli.launch import NodeProcess
    from cyoloctl.control.client import Client

__all__ = ["Interrupts", "LocalCluster", "NewDirectoryOption", "Place", "endpoint_of", "free_ports"]

NewDirectoryOption = Annotated[
    Path | None,
    Option(
        "-d",
        "--data-dir",
        metavar="DIR",
        help="A new or empty directory. [default: a temporary one, removed]",
    ),
]

_READY_S = 30.0
_POLL_S = 0.02


def endpoint_of(directory: Path) -> str:
    """The endpoint of the node in a directory."""
    return f"unix://{control_socket_path(directory)}"


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on just now."""
    import socket

    holders = [socket.socket() for _ in range(count)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [int(holder.getsockname()[1]) for holder in holders]
    finally:
        for holder in holders:
            holder.close()


class Interrupts:
    """SIGTERM and SIGHUP interrupt as Ctrl-C does, and none of them in a held moment.

    Between the start of a process and the note of it, and while the processes
    are ended, an interrupt would leave some running.  A signal that whoever
    started us ignores (nohup) stays ignored.
    """

    def __init__(self) -> None:
        self._holds = 0
        self._pending = False

    def _interrupt(self, number: int, frame: object) -> None:
        if not self._holds:
            raise KeyboardInterrupt
        self._pending = True

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals inside."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
        for number in handled:
            signal.signal(number, self._interrupt)
        try:
            yield
        finally:
            for number in handled:
                signal.signal(number, before[number])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let an interrupt that comes inside take effect at the end."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self._pending and not self._holds:
            self._pending = False
            raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of a cluster.

    made: what of its path was made for it, the innermost first.  temporary: all that is in it is ours.
    """

    path: Path
    made: tuple[Path, ...]
    temporary: bool

    @classmethod
    def of(cls, invocation: Invocation, what: str) -> Place:
        """A new private directory, or the one that was given, new or empty.  what: the command.

        Raises Conflict for one that holds something, and what check_data_dir and file_error give.
        """
        if not invocation.data_dir_given:
            import tempfile

            path = Path(tempfile.mkdtemp(prefix=f"cyoloctl-{what}-"))
            return cls(path, (path,), temporary=True)
        path = invocation.data_dir
        check_data_dir(path)
        try:
            missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise Conflict(f"{path} is not empty: name a new or an empty directory for `cyoloctl {what}`")
        except OSError as error:
            raise file_error(path, error, "use") from None
        return cls(path, tuple(missing), temporary=False)

    def remove(self, nodes: Sequence[str]) -> None:
        """Remove the directories of the nodes, and what was made for them.  Another's files stay."""
        for name in nodes:
            with suppress(OSError, ConfigError):  # a node that was killed leaves one, perhaps elsewhere
                control_socket_path(self.path / name).unlink()
        for each in [self.path] if self.temporary else [self.path / name for name in nodes]:
            shutil.rmtree(each, ignore_errors=True)
        for each in self.made:
            with suppress(OSError):  # gone, or somebody put a file there
                each.rmdir()


@dataclass(slots=True)
class LocalCluster:
    """Nodes as processes of this one.

    names: of the nodes, the founder first.  step_s: time limit of a request.  storage: disk or memory.
    bound: the nodes end with this process, even if it is killed.
    """

    directory: Path
    names: list[str]
    step_s: float
    interrupts: Interrupts
    storage: str = "disk"
    bound: bool = False
    processes: dict[str, NodeProcess] = field(default_factory=dict)

    def node_dir(self, name: str) -> Path:
        """The data directory of a node."""
        return self.directory / name

    def client(self, *names: str, timeout_s: float | None = None) -> Client:
        """A client of some nodes, which asks each once."""
        from cyoloctl.control.client import Client

        endpoints = [endpoint_of(self.node_dir(name)) for name in names]
        return Client(endpoints, timeout_s=timeout_s or self.step_s, retry=False)

    def wait(self, what: str, holds: Callable[[], bool], timeout_s: float = _READY_S) -> float:
        """Wait until it holds; return after how many seconds.  Raises Unavailable."""
        began = time.monotonic()
        last = ""
        while time.monotonic() - began < timeout_s:
            try:
                if holds():
                    return time.monotonic() - began
            except (Unavailable, Unreachable) as error:
                last = f" ({error.message})"
            time.sleep(_POLL_S)
        raise Unavailable(f"{what}: not within {timeout_s:g} s{last}; read node.log in {self.directory}/*")

    def start(self, name: str) -> float:
        """Start a node and wait until it is ready; return after how many seconds.  Raises what keeps it."""
        from cyoloctl.cli.launch import start_node

        began = time.monotonic()
        with self.interrupts.held():
            self.processes[name] = start_node(self.node_dir(name), bound=self.bound)
        self.processes[name].wait_ready(_READY_S)
        return time.monotonic() - began

    def found(self, cluster: str, port: int, gateway: int | None = None) -> dict[str, Any]:
        """Make the cluster and start its first node; what was made.

        port, gateway: of the loopback, where its node and its gateway listen.
        """
        from cyoloctl.node import create

        name = self.names[0]
        made = create.init_cluster(
            self.node_dir(name), name, _loopback(port), None, cluster, self.storage, _gateway(gateway)
        )
        self.start(name)
        return made

    def admit(self, name: str, port: int, gateway: int | None = None) -> float:
        """Invite a node, let it join, and wait until it votes; return after how many seconds."""
        from cyoloctl.node import create

        began = time.monotonic()
        first = self.names[0]
        token = self.client(first).member_invite(name, ttl_s=600)["token"]
        create.join(self.node_dir(name), name, _loopback(port), None, token, self.step_s, _gateway(gateway))
        self.start(name)

        def is_voter() -> bool:
            return self.members(first).get(name, {}).get("role") in ("follower", "leader")

        self.wait(f"{name} becoming a voter", is_voter)
        return time.monotonic() - began

    def members(self, name: str) -> dict[str, dict[str, Any]]:
        """The members by name, as one node sees them."""
        return {member["name"]: member for member in self.client(name).call("status")["members"]}

    def end(self, patience_s: float) -> None:
        """End every process that still runs, by its pid: SIGTERM, after patience_s SIGKILL.

        Those too that somebody has started again in the directories of the nodes.
        """
        others = [found for name in self.names if (found := self._started_again(name)) is not None]
        for node in self.processes.values():
            if node.process.poll() is None:
                node.process.terminate()
        for other in others:
            _send(other, signal.SIGTERM)
        deadline = time.monotonic() + patience_s
        for node in self.processes.values():
            node.end(max(0.0, deadline - time.monotonic()))
        for other in others:
            if not select.select([other], [], [], max(0.0, deadline - time.monotonic()))[0]:
                _send(other, signal.SIGKILL)
                select.select([other], [], [], patience_s)
            os.close(other)

    def _started_again(self, name: str) -> int | None:
        """A pidfd of the process that serves a node and is none of ours, None where there is none."""
        from cyoloctl.cli.launch import listener_pid

        pid = listener_pid(endpoint_of(self.node_dir(name)))
        if pid is None or pid in {node.pid for node in self.processes.values()}:
            return None
        with suppress(OSError, AttributeError):  # gone meanwhile; there is none on this system
            return os.pidfd_open(pid)
        return None


def _send(process: int, number: signal.Signals) -> None:
    with suppress(OSError):  # it is gone
        signal.pidfd_send_signal(process, number)


def _loopback(port: int) -> str:
    return f"127.0.0.1:{port}"


def _gateway(port: int | None) -> str | None:
    return None if port is None else _loopback(port)
