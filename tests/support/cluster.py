"""Clusters of real node processes, started through the command line, on loopback.

Whatever a test does, `Cluster.close` ends every process that it started, by
its pid.  Nothing here waits for time to pass: `wait_until` waits for a
condition and fails at its deadline with what it last saw.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import pytest

from cyoloctl.control.client import Client
from cyoloctl.errors import CyoloctlError, OutcomeUnknown, Unavailable, Unreachable
from cyoloctl.paths import control_socket_path
from cyoloctl.pki.files import OPERATOR_FILE, PKI_DIRECTORY, write_credentials
from cyoloctl.pki.requests import make_credential_request
from tests.support.runbook import tells

__all__ = [
    "OLD_PORTS",
    "RETRIED",
    "Cluster",
    "Enrolled",
    "Node",
    "NotYet",
    "Writers",
    "assert_refused",
    "claim_port",
    "free_port",
    "rss_kib",
    "run",
    "wait_until",
]

LIMIT_S = 60.0
"""Deadline of a condition that usually holds within a second or two; the machine may be busy."""

_POLL_S = 0.02
_T = TypeVar("_T")

# Failures after which the same request id may be sent again.
RETRIED = (Unavailable, Unreachable, OutcomeUnknown)


MACHINES = Path(__file__).resolve().parents[2] / "examples" / "machines"
"""The examples of machines that users write."""


def environment(**changes: str) -> dict[str, str]:
    """The environment of a node or command: ours, without any CYOLOCTL_*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CYOLOCTL_")}
    return {**kept, "PYTHONWARNINGS": "default", **changes}


class NotYet(Exception):
    """State that a condition saw instead, for the message at the deadline."""


def wait_until(what: str, holds: Callable[[], _T], timeout_s: float = LIMIT_S) -> _T:
    """The first true value of holds; NotYet and errors of the product count as not yet."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    pause = threading.Event()
    while True:
        try:
            value = holds()
            if value:
                return value
            last = value
        except (NotYet, CyoloctlError, OSError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}; last seen: {last!r}")
        pause.wait(_POLL_S)


OLD_PORTS = (21_601, 21_602, 21_603)
"""Those that the saved directories of release 0.1.0 name."""

_ports_given: set[int] = set(OLD_PORTS)
_ports_file: IO[bytes] | None = None


def _ports() -> range:
    """Those of this test process: a node that is off for a moment must find its port free afterwards.

    Below the range of outgoing connections, so that none of those takes one meanwhile.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % workers
    return range(15_000, 32_000)[worker::workers]


def claim_port(port: int) -> bool:
    """Whether nobody listens on a loopback port, and it is this process's alone until it ends.

    Another run of the tests may be on this machine.  So a byte of a file is locked for each port, which the
    system gives back with the process.
    """
    global _ports_file
    if port in _ports_given:
        return False
    if _ports_file is None:
        _ports_file = (Path(tempfile.gettempdir()) / f"cyoloctl-test-ports-{os.getuid()}").open("ab")
    try:
        fcntl.lockf(_ports_file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    _ports_given.add(port)
    return True


def free_port() -> int:
    """A loopback port that nobody listens on and that no process of the tests has been given."""
    picker, ports = random.Random(), _ports()
    while True:
        port = picker.choice(ports)
        if claim_port(port):
            return port


def run(
    *arguments: object, stdin: str = "", timeout_s: float = 120.0, **env: str
) -> subprocess.CompletedProcess[str]:
    """`cyoloctl arguments...` as a process without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "cyoloctl", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(**env),
        check=False,
    )


def assert_refused(result: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """Exit status, nothing on stdout, every word in the message, and no traceback."""
    seen = f"status {result.returncode}, stdout {result.stdout!r}, stderr {result.stderr!r}"
    assert result.returncode == status, seen
    assert result.stdout == "", seen
    assert "Traceback" not in result.stderr, seen
    for word in words:
        assert word in result.stderr, f"{word!r} is not in the message; {seen}"


@dataclass(slots=True)
class Node:
    """One node: its data directory, and its process while it runs.

    The process runs in the foreground, as our child, so that its exit status
    is seen.  Its stdout and stderr are appended to files beside the directory.
    """

    directory: Path
    name: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    log_level: str = "info"
    # What the process gets besides our environment, and what is run: see `compacting` and `step_clock`.
    env: dict[str, str] = field(default_factory=dict)
    module: str = "cyoloctl"
    # How many descriptors the process may open (ulimit -n); None: as many as ours.
    descriptors: int | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        return self.directory.parent / f"{self.name}.log"

    @property
    def out_path(self) -> Path:
        return self.directory.parent / f"{self.name}.out"

    @property
    def endpoint(self) -> str:
        return f"unix://{control_socket_path(self.directory)}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def client(self, timeout_s: float = 20.0) -> Client:
        return Client([self.endpoint], credentials=None, timeout_s=timeout_s, retry=False)

    def cli(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """`cyoloctl GROUP LEAF ... -d DIR`."""
        return run(*arguments, "-d", self.directory, **options)

    def json(self, *arguments: object) -> dict[str, Any]:
        """The JSON that a command prints; it must succeed and say nothing else on stdout."""
        result = self.cli(*arguments, "-o", "json")
        assert result.returncode == 0, result.stderr
        value = json.loads(result.stdout)
        assert type(value) is dict
        return value

    def give_machine(self, target: str, source: Path) -> Node:
        """Run a machine of a user's, from the next start on."""
        (self.directory / "machines").mkdir(exist_ok=True)
        shutil.copy(source, self.directory / "machines")
        path = self.directory / "node.yaml"
        path.write_text(f"{path.read_text('utf-8')}machines: [{target}]\n", "utf-8")
        return self

    def wait_machine(self, version: int = 1) -> None:
        """Wait until a machine of this version is in force, and nothing waits for members."""

        def there() -> bool:
            found = self.client().call("machine_list")["machines"]
            return [(each["state"], each["version"]) for each in found] == [("in_force", version)]

        wait_until("the machine in force", there)

    def launch(self) -> None:
        """Start the process; does not wait."""
        assert self.process is None
        arguments = ["node", "start", "-d", str(self.directory)]
        arguments += ["--log-format", "json", "--log-level", self.log_level]
        with open(self.log_path, "ab") as log, open(self.out_path, "ab") as out:
            command = [sys.executable, "-m", self.module, *arguments]
            if self.descriptors is not None:
                command = ["/bin/sh", "-c", f'ulimit -n {self.descriptors} && exec "$@"', "sh", *command]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=environment(**self.env),
            )

    def compacting(self, entries: int) -> Node:
        """Take a snapshot every so many entries, from the next start on."""
        self.module, self.env["CYOFAULT_COMPACT"] = "tests.chaos.node", str(entries)
        return self

    def apart_from(self, other: Node) -> None:
        """Neither of the two makes a link with the other, from the next start on."""
        for one, peer in ((self, other), (other, self)):
            one.module, one.env["CYOFAULT_APART"] = "tests.chaos.node", peer.name

    def step_clock(self, offset_s: int) -> None:
        """The wall clock is off by this, within a second when the node runs with a clock already."""
        library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
        if library is None:
            pytest.skip("libfaketime is not installed (apt-get install faketime)")
        clock = self.directory.parent / f"{self.name}.clock"
        fresh = clock.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n")
        fresh.replace(clock)
        self.env |= {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_CACHE_DURATION": "1",
            # The wall clock alone: the monotonic clock and the files stay.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def wait_ready(self, timeout_s: float = LIMIT_S) -> None:
        def ready() -> bool:
            assert self.process is not None
            status = self.process.poll()
            assert status is None, f"{self.name} ended with status {status}: {self.log_tail()}"
            return bool(self.client(2.0).health())

        wait_until(f"{self.name} answering", ready, timeout_s)

    def start(self) -> None:
        """Start and wait until it answers."""
        self.launch()
        self.wait_ready()

    def wait_exit(self, timeout_s: float = LIMIT_S) -> int:
        """The exit status, when the process has ended by itself."""
        assert self.process is not None
        status = self.process.wait(timeout_s)
        self.process = None
        return status

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.wait_exit()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.wait_exit()

    def end(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
                self.process.kill()
            self.process.wait()
            self.process = None

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log_tail(self, characters: int = 1500) -> str:
        return self.log_path.read_text()[-characters:] if self.log_path.exists() else ""

    def log_size(self) -> int:
        """Present end of the log, for `log_events`."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def log_events(self, since: int = 0) -> list[dict[str, Any]]:
        """The lines of the log, from a `log_size` on, that are JSON objects."""
        found = []
        with open(self.log_path, "rb") as file:
            file.seek(since)
            lines = file.read().decode().splitlines()
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [event for event in found if isinstance(event, dict)]

    def start_refused(self) -> subprocess.CompletedProcess[str]:
        """`node start` in the foreground, for a node that must not come up; the runbook tells of it."""
        refused = run("node", "start", "-d", self.directory)
        assert tells(refused.returncode, refused.stderr), f"docs/runbook.md lacks: {refused.stderr}"
        return refused


class Enrolled(NamedTuple):
    """A member of a cluster without a process."""

    name: str
    keys: tuple[Path, Path]
    """Certificate and key."""


@dataclass(slots=True)
class Cluster:
    """Nodes by name, below one directory.  Use it as a context manager.

    clocks: every node gets a wall clock of its own, right at first, that `step_clock` moves while it runs.
    """

    base: Path
    nodes: dict[str, Node] = field(default_factory=dict)
    log_level: str = "info"
    clocks: bool = False
    _enrolled: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def close(self) -> None:
        for node in self.nodes.values():
            node.end()

    def new_node(self, name: str, port: int | None = None) -> Node:
        node = Node(self.base / name, name, port or free_port(), log_level=self.log_level)
        self.nodes[name] = node
        if self.clocks:
            node.step_clock(0)
        return node

    def init(self, name: str = "n1", *options: str) -> Node:
        """`cluster init`, then start."""
        node = self.new_node(name)
        made = node.cli("cluster", "init", "--name", name, "--listen", node.address, *options)
        assert made.returncode == 0, made.stderr
        node.start()
        return node

    def invite(
        self,
        name: str,
        *,
        through: str | None = None,
        learner: bool = False,
        witness: bool = False,
        ttl_s: int = 3600,
    ) -> str:
        """A join token for a new node."""
        inviter = self[through] if through else next(iter(self.running()))
        made = inviter.client(10.0).member_invite(name, learner=learner, witness=witness, ttl_s=ttl_s)
        return str(made["token"])

    def join(
        self, name: str, *, through: str | None = None, learner: bool = False, witness: bool = False
    ) -> Node:
        """Invite, `node join`, start; does not wait until it votes."""
        token = self.invite(name, through=through, learner=learner, witness=witness)
        node = self.new_node(name)
        joined = node.cli(
            "node", "join", "--name", name, "--listen", node.address, "--token-file", "-", stdin=token
        )
        assert joined.returncode == 0, joined.stderr
        node.start()
        return node

    def form(self, count: int = 3) -> Cluster:
        """A running cluster of n1, n2, ... that are all voters."""
        self.init("n1")
        for number in range(2, count + 1):
            self.join(f"n{number}", through="n1")
            self.wait_settled(voters=number)
        return self

    def copy_to(self, base: Path) -> Cluster:
        """The directories of a stopped cluster once more, on the same ports: run one of them at a time."""
        copy = Cluster(base)
        for node in self.nodes.values():
            assert not node.running()
            shutil.copytree(node.directory, base / node.name, symlinks=True)
            copy.nodes[node.name] = Node(base / node.name, node.name, node.port)
        return copy

    def running(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.running()]

    def start_all(self, *names: str) -> None:
        chosen = [self[name] for name in names] if names else list(self.nodes.values())
        for node in chosen:
            node.launch()
        for node in chosen:
            node.wait_ready()

    def stop_all(self) -> None:
        """SIGTERM to all, one after the other."""
        for node in self.running():
            assert node.terminate() == 0, node.log_tail()

    def client(self, *names: str, timeout_s: float = 20.0) -> Client:
        chosen = [self[name] for name in names] if names else self.running()
        return Client([node.endpoint for node in chosen], credentials=None, timeout_s=timeout_s, retry=False)

    def wait_leader(self, timeout_s: float = LIMIT_S) -> str:
        """The leader that every running node names, itself running."""

        def agreed() -> str:
            named = {node.client(2.0).status()["cluster"]["leader"] for node in self.running()}
            name = next(iter(named)) if len(named) == 1 else None
            return name if name is not None and self[name].running() else ""

        return wait_until("one leader", agreed, timeout_s)

    def followers(self) -> list[str]:
        leader = self.wait_leader()
        return [node.name for node in self.running() if node.name != leader]

    def wait_healthy(self) -> None:
        """Every running node has a leader and sees every member connected."""
        for node in self.running():
            wait_until(
                f"{node.name} healthy",
                lambda node=node: node.client(2.0).status()["cluster"]["healthy"],  # type: ignore[misc]
            )

    def wait_settled(self, voters: int, timeout_s: float = LIMIT_S) -> None:
        """Every running node sees all of them as voters, connected, without lag, under one leader."""

        def settled() -> bool:
            for node in self.running():
                status = node.client(2.0).status()
                cluster = status["cluster"]
                rows = status["members"]
                if (
                    cluster["voters"] != voters
                    or not cluster["healthy"]
                    or any(row["lag"] != 0 for row in rows)
                ):
                    shown = [(row["name"], row["applied_index"], row["lag"]) for row in rows]
                    raise NotYet(f"{node.name} says {cluster} {shown}")
            return bool(self.wait_leader(1.0))

        wait_until(f"{voters} voters without lag", settled, timeout_s)

    def credentials(self, holder: str = "n1") -> Path:
        return self[holder].directory / OPERATOR_FILE

    def viewer(self, holder: str = "n1") -> Path:
        """A credentials file of the viewer role, made with the cluster's CA."""
        return self.made("watcher", "viewer", holder)

    def made(self, name: str, role: str, holder: str = "n1") -> Path:
        """A credentials file of any name and role, registered through the holder's socket."""
        path = self.base / f"{name}.yaml"
        if not path.exists():
            request_pem, key_pem = make_credential_request(name, role)
            body = {"name": name, "role": role, "request_pem": request_pem}
            issued = self[holder].client(10.0).call("credential_create", body=body)
            write_credentials(path, {**issued, "key_pem": key_pem})
        return path

    def enrol(self, stem: str, through: str = "n1") -> Enrolled:
        """A learner that was admitted and is never started, for `Peer`; each call makes another one."""
        name = f"{stem}{next(self._enrolled)}"
        node = Node(self.base / f"keys-of-{name}", name, free_port(), log_level=self.log_level)
        joined = node.cli(
            "node",
            "join",
            *("--name", name, "--listen", node.address, "--token-file", "-"),
            stdin=self.invite(name, through=through, learner=True),
        )
        assert joined.returncode == 0, joined.stderr
        for member in self.running():  # an answer waits until this node has applied the admission
            assert name in [row["name"] for row in member.client().member_list()["members"]]
        keys = node.directory / PKI_DIRECTORY
        return Enrolled(name, (keys / "node.crt", keys / "node.key"))


class Writers:
    """Threads that increment a counter; each write has its own id and is repeated until it is answered."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        counter: str = "default",
        threads: int = 4,
        retried: tuple[type[CyoloctlError], ...] = RETRIED,
    ) -> None:
        """retried: the errors after which a write goes to the next node; any other ends the test."""
        self._retried = retried
        self.counter = counter
        self.acknowledged: dict[str, int] = {}
        self.retried: set[str] = set()
        self.errors: list[BaseException] = []
        self._endpoints = [node.endpoint for node in cluster.nodes.values()]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90.0)

    def finish(self) -> None:
        """No new ids; every open one is repeated until it is answered."""
        self.__exit__()
        assert not any(thread.is_alive() for thread in self._threads), "a write was never answered"
        assert not self.errors, self.errors

    def wait_more(self, count: int) -> None:
        """Wait until that many further writes are acknowledged."""
        target = len(self.acknowledged) + count
        wait_until(
            f"{count} more acknowledged writes", lambda: len(self.acknowledged) >= target or self.errors
        )
        assert not self.errors, self.errors

    def assert_exact(self, value: int) -> None:
        """As many as acknowledged, each a value of its own: nothing lost, nothing doubled."""
        assert value == len(self.acknowledged), f"{value} counted, {len(self.acknowledged)} acknowledged"
        assert sorted(self.acknowledged.values()) == list(range(1, value + 1))

    def _write(self, number: int) -> None:
        try:
            written = 0
            while not self._stop.is_set():
                self._one(f"w{number}-{written}-{os.urandom(4).hex()}", number + written)
                written += 1
        except BaseException as error:
            self.errors.append(error)

    def _one(self, request_id: str, turn: int) -> None:
        deadline = time.monotonic() + 60.0
        pause = threading.Event()
        while True:
            endpoint = self._endpoints[turn % len(self._endpoints)]
            turn += 1
            try:
                client = Client([endpoint], credentials=None, timeout_s=2.0, retry=False)
                done = client.counters.incr(self.counter, 1, request_id=request_id)
            except self._retried:
                with self._lock:
                    self.retried.add(request_id)
                if time.monotonic() > deadline:
                    raise
                pause.wait(_POLL_S)
            else:
                assert done["request_id"] == request_id
                with self._lock:
                    self.acknowledged[request_id] = done["value"]
                return


def rss_kib(pid: int) -> int:
    """Resident memory of a process, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"no process {pid}")
