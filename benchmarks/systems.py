"""The systems that are measured: cyoloctl nodes and etcd nodes, started and ended by process id.

Both run with their data on the same disk, mutual TLS between the members, and their client API on a unix
socket (etcd: its v3 JSON gateway), so that the measured difference is the systems and not the transport.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

__all__ = [
    "ROOT",
    "Base",
    "BenchmarkError",
    "Cyoloctl",
    "Etcd",
    "Measured",
    "Member",
    "System",
    "UnixConnection",
    "call",
    "free_ports",
    "scratch_directory",
    "until",
]

START_S = 60.0
ROOT = Path(__file__).resolve().parents[1]


class BenchmarkError(Exception):
    """A system could not be started, or broke a promise while it was measured."""


@dataclass
class Member:
    """One process.  target as in load.Spec; address only where the system also listens on TCP."""

    name: str
    directory: Path
    target: str
    address: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running member."""
        assert self.process is not None
        return self.process.pid


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def call(
    target: str, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = 5.0
) -> tuple[int, dict[str, Any]]:
    """One request on a connection of its own: the status and the JSON answer.

    Raises OSError (timeouts too) or http.client.HTTPException when there is no answer.
    """
    kind, _, place = target.partition(":")
    connection = (
        UnixConnection(place, timeout_s)
        if kind == "unix"
        else http.client.HTTPConnection(place, timeout=timeout_s)
    )
    with contextlib.closing(connection):
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
    try:
        return response.status, json.loads(data)
    except ValueError:
        return response.status, {"text": data.decode("utf-8", "replace")}


def until(what: str, condition: Callable[[], bool], *, timeout_s: float = START_S) -> None:
    """Wait for a condition, asked every 20 ms; an absent answer counts as not yet.

    Raises BenchmarkError when it does not come true in timeout_s seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if condition():
                return
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Loopback TCP ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _environment() -> dict[str, str]:
    """This process's environment without a user's cyoloctl settings, and with this tree importable."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CYOLOCTL_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


class Measured(Protocol):
    """A system as load is put on it."""

    name: str
    members: list[Member]

    @property
    def version(self) -> str:
        """As the program says it."""

    def start(self) -> None:
        """Start every member; returns when they form a healthy cluster."""

    def close(self) -> None:
        """End every process that this system started."""

    def check_alive(self) -> None:
        """Check that no member has ended by itself.  Raises BenchmarkError."""

    def leader(self) -> Member | None:
        """The member that a majority follows, None while there is none."""


class System(Measured, Protocol):
    """A system whose leader is taken away."""

    def kill(self, member: Member) -> None:
        """SIGKILL one member."""

    def healthy(self) -> bool:
        """Whether every member is up, reachable and follows the same leader."""

    def write(self, counter: str, request_id: str | None) -> tuple[str, dict[str, Any]]:
        """Path and body of one POST that writes; the same request id is applied once where that exists."""

    def accepted(self, status: int, answer: dict[str, Any]) -> bool:
        """Whether the answer acknowledges the write."""

    def start_member(self, member: Member) -> None:
        """Start its process again, on the data that it has."""


@dataclass
class Base:
    """Directories and processes; the rest is each system's.

    before: what stands before the command of each member, for a program that does something to it.
    """

    scratch: Path
    name: str = ""
    members: list[Member] = field(default_factory=list)
    before: list[str] = field(default_factory=list)

    def spawn(self, member: Member, argv: list[str]) -> None:
        """Start a member's process in its directory, its output in a file beside it."""
        with (self.scratch / f"{member.name}.log").open("ab") as log:
            member.process = subprocess.Popen(
                [*self.before, *argv],
                cwd=member.directory,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the benchmark, which ends its members in order
            )

    def kill(self, member: Member) -> None:
        """SIGKILL, and wait for the end of the process."""
        assert member.process is not None
        member.process.kill()
        member.process.wait()

    def check_alive(self) -> None:
        """Check that no member has ended by itself.  Raises BenchmarkError with the end of its log."""
        for member in self.members:
            if member.process is not None and member.process.poll() is not None:
                log = (self.scratch / f"{member.name}.log").read_text(errors="replace")[-1500:]
                raise BenchmarkError(f"{member.name} ended with {member.process.returncode}:\n{log}")

    def close(self) -> None:
        """End every process that this system started: SIGTERM, SIGKILL after ten seconds."""
        running = [m.process for m in self.members if m.process is not None and m.process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Etcd(Base):
    """Three etcd members with etcd's defaults (heartbeat 100 ms, election 1000 ms, fsync on)."""

    def __init__(self, scratch: Path, *, transport: str = "unix", before: Sequence[str] = ()) -> None:
        super().__init__(scratch, "etcd", before=list(before))
        binary = shutil.which("etcd")
        if binary is None:
            raise BenchmarkError("etcd is not installed; run apt-get install etcd-server")
        self._binary = binary
        ports = free_ports(6)
        self._peers = ports[:3]
        for number, port in enumerate(ports[3:]):
            directory = scratch / f"e{number}"
            directory.mkdir()
            # etcd names the socket after the URL's host and port, in its working directory.
            target = f"unix:{directory}/localhost:{port}" if transport == "unix" else f"tcp:127.0.0.1:{port}"
            self.members.append(Member(f"e{number}", directory, target, f"127.0.0.1:{port}"))
        self._transport = transport

    @property
    def version(self) -> str:
        """As ``etcd --version`` prints it."""
        done = subprocess.run([self._binary, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[0]

    def start(self) -> None:
        """Start three members, wait until they agree."""
        for member in self.members:
            self.start_member(member)
        until("etcd healthy", self._alive_and_healthy)

    def _alive_and_healthy(self) -> bool:
        self.check_alive()
        return self.healthy()

    def start_member(self, member: Member) -> None:
        number = self.members.index(member)
        port = member.address.rpartition(":")[2]
        client = f"unix://localhost:{port}" if self._transport == "unix" else f"http://{member.address}"
        if self._transport == "unix":
            Path(member.target.removeprefix("unix:")).unlink(missing_ok=True)  # a killed member leaves it
        peer = f"https://127.0.0.1:{self._peers[number]}"
        everyone = ",".join(
            f"{other.name}=https://127.0.0.1:{port}"
            for other, port in zip(self.members, self._peers, strict=True)
        )
        self.spawn(
            member,
            [
                self._binary,
                *("--name", member.name, "--data-dir", str(member.directory / "data")),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--peer-auto-tls"),
                *("--initial-cluster", everyone, "--initial-cluster-state", "new"),
            ],
        )

    def _status(self, member: Member) -> dict[str, Any]:
        status, answer = call(member.target, "POST", "/v3/maintenance/status", {}, timeout_s=2)
        return answer if status == 200 else {}

    def leader(self) -> Member | None:
        for member in self.members:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = self._status(member)
                if answer.get("leader") == answer.get("header", {}).get("member_id", ""):
                    return member
        return None

    def healthy(self) -> bool:
        answers = [self._status(member) for member in self.members]
        leaders = {answer.get("leader") for answer in answers}
        if len(leaders) != 1 or None in leaders:
            return False
        applied = [int(answer.get("raftAppliedIndex", 0)) for answer in answers]
        return min(applied) > 0 and max(applied) - min(applied) < 5

    def write(self, counter: str, request_id: str | None) -> tuple[str, dict[str, Any]]:
        key = base64.b64encode(counter.encode()).decode()
        value = base64.b64encode((request_id or "1").encode()).decode()
        return "/v3/kv/put", {"key": key, "value": value}

    def accepted(self, status: int, answer: dict[str, Any]) -> bool:
        return status == 200 and "revision" in answer.get("header", {})


class Cyoloctl(Base):
    """cyoloctl nodes with disk storage, formed through the command line like a user's.

    nodes: how many, 1 or more.
    """

    def __init__(self, scratch: Path, *, nodes: int = 3, before: Sequence[str] = ()) -> None:
        super().__init__(scratch, "cyoloctl", before=list(before))
        script = Path(sys.executable).with_name("cyoloctl")
        self.command = [str(script)] if script.exists() else [sys.executable, "-m", "cyoloctl"]
        for port in free_ports(nodes):
            self._new_member(port)

    def _new_member(self, port: int) -> Member:
        name = f"c{len(self.members)}"
        directory = self.scratch / name
        directory.mkdir()
        target = f"unix:{directory}/data/control.sock"
        self.members.append(Member(name, directory, target, f"127.0.0.1:{port}"))
        return self.members[-1]

    @property
    def version(self) -> str:
        """As ``cyoloctl --version`` prints it."""
        return self.cli("--version")

    def data(self, member: Member) -> str:
        """The member's data directory."""
        return str(member.directory / "data")

    def cli(self, *arguments: str, stdin: str = "") -> str:
        """Run a command, return its stdout; raises BenchmarkError with its stderr when it fails."""
        done = subprocess.run(
            [*self.command, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
            env=_environment(),
        )
        if done.returncode != 0:
            raise BenchmarkError(f"cyoloctl {' '.join(arguments)}: {done.returncode}\n{done.stderr.strip()}")
        return done.stdout.strip()

    def start(self) -> None:
        """Form the cluster by invitation and join, wait until all three are voters."""
        first, *others = self.members
        self.cli(
            *("cluster", "init", "-d", self.data(first), "--name", first.name),
            *("--listen", first.address, "--storage", "disk"),
        )
        self.start_member(first)
        until("the first cyoloctl node leads", lambda: self._alive() and self.leader() is first)
        for member in others:
            self._join(member)
        until("cyoloctl healthy", lambda: self._alive() and self.healthy())

    def _join(self, member: Member) -> None:
        first = self.members[0]
        token = self.cli("member", "invite", "-d", self.data(first), "--name", member.name)
        self.cli(
            *("node", "join", "-d", self.data(member), "--name", member.name),
            *("--listen", member.address, "--token-file", "-"),
            stdin=token + "\n",
        )
        self.start_member(member)

    def add(self, *, timeout_s: float = START_S) -> Member:
        """One more member: a voter, which the others make it once it holds what they hold."""
        member = self._new_member(free_ports(1)[0])
        self._join(member)

        def votes() -> bool:
            voters = self.status(member).get("cluster", {}).get("voters")
            return self._alive() and bool(voters == len(self.members))

        until(f"{member.name} is a voter", votes, timeout_s=timeout_s)
        return member

    def _alive(self) -> bool:
        self.check_alive()
        return True

    def start_member(self, member: Member) -> None:
        self.spawn(member, [*self.command, "node", "start", "-d", self.data(member)])

    def status(self, member: Member) -> dict[str, Any]:
        """GET /v1/status of one member, empty when it does not answer 200."""
        status, answer = call(member.target, "GET", "/v1/status?timeout_s=2", timeout_s=3)
        return answer if status == 200 else {}

    def leader(self) -> Member | None:
        for member in self.members:
            with contextlib.suppress(OSError, http.client.HTTPException):
                name = self.status(member).get("cluster", {}).get("leader")
                for other in self.members:
                    if other.name == name:
                        return other
        return None

    def healthy(self) -> bool:
        for member in self.members:
            status = self.status(member)
            seen = status.get("members", [])
            if not (
                status.get("cluster", {}).get("healthy")
                and status["cluster"].get("voters") == len(self.members)
                and all(one["reachable"] and (one["lag"] or 0) < 5 for one in seen)
            ):
                return False
        return True

    def value(self, counter: str) -> int:
        """The counter's value, read linearizably."""
        leader = self.leader() or self.members[0]
        status, answer = call(leader.target, "GET", f"/v1/counters/{counter}")
        if status != 200:
            raise BenchmarkError(f"reading {counter}: {status} {answer}")
        return int(answer["value_string"])

    def write(self, counter: str, request_id: str | None) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"by": 1}
        if request_id is not None:
            body["request_id"] = request_id
        return f"/v1/counters/{counter}/increment", body

    def accepted(self, status: int, answer: dict[str, Any]) -> bool:
        return status == 200 and "value_string" in answer

    def credentials(self) -> tuple[str, Path, Path]:
        """The operator's CA (PEM), certificate file and key file, for TLS from outside."""
        bundle = json.loads((Path(self.data(self.members[0])) / "operator.yaml").read_text())
        certificate, key = self.scratch / "operator.crt", self.scratch / "operator.key"
        certificate.write_text(bundle["certificate_pem"])
        key.touch(mode=0o600)
        key.write_text(bundle["key_pem"])
        return bundle["ca_pem"], certificate, key


@contextlib.contextmanager
def scratch_directory(parent: Path | None, keep: bool) -> Iterator[Path]:
    """A directory for data and logs with a short name (unix socket paths end at 107 bytes)."""
    path = Path(tempfile.mkdtemp(prefix="cybench-", dir=parent))
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
