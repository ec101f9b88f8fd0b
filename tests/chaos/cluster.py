"""Real nodes: each a process in its own network namespace, on its own small disk, with its own clock."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from cyoloctl.control.client import Client
from cyoloctl.errors import CyoloctlError
from cyoloctl.paths import control_socket_path
from tests.chaos.disks import Disk
from tests.chaos.netns import Network
from tests.support.cluster import NotYet, environment, wait_until

__all__ = ["FaultCluster", "FaultNode", "faketime_library"]

_PORT = 7700
_GUEST = "guest"
_TRACES = ("Traceback (most recent call last)", '"exception":', "was never retrieved")
DISK_FAILED = 74
"""The status of errors.StorageError."""


def faketime_library() -> Path | None:
    """libfaketime, where Debian has it."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else None


class FaultNode:
    """One node.  `excused` holds why it may end by itself at present.

    module: what is run in place of `python -m cyoloctl`.
    """

    def __init__(
        self, base: Path, name: str, network: Network, compact_entries: int, clock: bool, module: str
    ) -> None:
        self.name = name
        self.disk = Disk(base / name)
        self.directory = base / name / "data"
        self.log_path = base / f"{name}.log"
        self.endpoint = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.busy = False
        self.excused = ""
        self.excused_status = DISK_FAILED
        self._network = network
        self._module = module
        self._trouble = base / f"{name}.trouble"
        self._changes = {
            "CYOFAULT_COMPACT": str(compact_entries),
            "CYOFAULT_TROUBLE": str(self._trouble),
        }
        self.clock_path: Path | None = base / f"{name}.clock" if clock else None

    def excuse(self, why: str, status: int = DISK_FAILED) -> None:
        """From now on it may end by itself with this status; with "" it may not."""
        self.excused, self.excused_status = why, status

    def slow_down(self, sync_s: float) -> None:
        """Let each sync of its journal take so much longer from now on; 0: no longer."""
        if sync_s:
            fresh = self._trouble.with_suffix(".new")
            fresh.write_text(f"slow {sync_s}")
            fresh.replace(self._trouble)
        else:
            self._trouble.unlink(missing_ok=True)

    @property
    def address(self) -> str:
        return f"{self._network.address(self.name)}:{_PORT}"

    def command(self, *arguments: str) -> list[str]:
        return [*self._network.inside(self.name), sys.executable, "-m", self._module, *arguments]

    def furnish(self, directory: str) -> None:
        """An empty place for a new data directory of that name, on its disk."""
        if not self.disk.path.exists():
            self.disk.make()
        self.directory = self.disk.path / directory
        self.endpoint = f"unix://{control_socket_path(self.directory)}"

    def run(self, *arguments: str, stdin: str = "") -> str:
        """A command in the node's namespace that must succeed; its output."""
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment(**self._changes),
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"cyoloctl {' '.join(arguments)}: {done.returncode}: {done.stderr}")
        return done.stdout

    def spawn(self, *arguments: str, stdin: str = "") -> tuple[subprocess.Popen[bytes], Callable[[], str]]:
        """Start a command in the node's namespace, from the main thread; the process, and what it said."""
        given, said = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  # outlive this call
        given.write(stdin.encode())
        given.seek(0)
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=environment(**self._changes),
        )
        given.close()

        def read() -> str:
            said.seek(0)
            return said.read().decode("utf-8", "replace")

        return process, read

    def launch(self) -> None:
        """Start the process; does not wait.  Call it from the main thread: it ends when that does."""
        assert self.process is None
        changes = dict(self._changes)
        library = faketime_library()
        if self.clock_path is not None and library is not None:
            if not self.clock_path.exists():
                self.step_clock(0)
            changes |= {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock_path),
                "FAKETIME_CACHE_DURATION": "1",
                # A step of the wall clock leaves the monotonic clock and files alone.
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
            }
        arguments = [
            "node",
            "start",
            "-d",
            str(self.directory),
            "--log-format",
            "json",
            "--log-level",
            "info",
        ]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(**changes),
            )

    def step_clock(self, offset_s: int) -> None:
        """The node's wall clock is off by this from now on (within a second)."""
        assert self.clock_path is not None
        fresh = self.clock_path.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n")
        fresh.replace(self.clock_path)

    def client(self, timeout_s: float = 2.0) -> Client:
        return Client([self.endpoint], credentials=None, timeout_s=timeout_s, retry=False)

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, also when it is stopped."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ended(self) -> int | None:
        """The exit status if it ended by itself since the last call."""
        if self.process is None or self.process.poll() is None:
            return None
        status = self.process.returncode
        self.process = None
        return status

    def traces(self) -> list[str]:
        """Traces of bugs in the log."""
        lines = self.log().splitlines()
        return [line[:2000] for line in lines if any(trace in line for trace in _TRACES)]

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, characters: int = 1500) -> str:
        return self.log()[-characters:]


class FaultCluster:
    """`count` voters below one directory.  Use it as a context manager.

    guest: the place of one more node, which has neither disk nor process at first.
    next_release: all run a fabricated next release, whose level the cluster has not got yet.
    """

    def __init__(
        self, base: Path, count: int, *, compact_entries: int = 1000, next_release: bool = False
    ) -> None:
        names = [f"n{number}" for number in range(1, count + 1)]
        self.network = Network([*names, _GUEST])
        self.clocked = faketime_library() is not None
        module = f"tests.chaos.{'next_node' if next_release else 'node'}"
        made = {
            name: FaultNode(base, name, self.network, compact_entries, self.clocked, module)
            for name in (*names, _GUEST)
        }
        self.guest = made.pop(_GUEST)
        self.nodes = made

    def __enter__(self) -> FaultCluster:
        try:
            self.network.__enter__()
            for node in self.nodes.values():
                node.disk.make()
            self._form()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        everybody = [*self.nodes.values(), self.guest]
        for node in everybody:
            node.kill()
        self.network.close()
        for node in everybody:
            node.disk.close()

    def _form(self) -> None:
        first, *others = self.nodes.values()
        place = ["-d", str(first.directory)]
        first.run("cluster", "init", "--name", first.name, "--listen", first.address, *place)
        for node in self.nodes.values():
            node.endpoint = f"unix://{control_socket_path(node.directory)}"
        first.launch()
        wait_until("the first node leads", lambda: first.client().status()["cluster"]["leader"])
        for position, node in enumerate(others):
            token = str(first.client(10.0).member_invite(node.name)["token"])
            place = ["-d", str(node.directory), "--name", node.name, "--listen", node.address]
            node.run("node", "join", *place, "--token-file", "-", stdin=token)
            node.launch()
            self.wait_settled(position + 2, among=[first.name, node.name])

    def wait_settled(
        self, voters: int | None = None, *, among: list[str] | None = None, timeout_s: float = 90.0
    ) -> None:
        """Every node answers and sees that many connected voters under one leader, none behind."""
        wanted = voters or len(self.nodes)

        def settled() -> bool:
            leaders = set()
            for name in among or self.nodes:
                status = self.nodes[name].client().status()
                cluster = status["cluster"]
                seen = {row["name"]: (row["role"], row["reachable"], row["lag"]) for row in status["members"]}
                if (
                    cluster["voters"] != wanted
                    or not cluster["healthy"]
                    or any(lag for _, _, lag in seen.values())
                ):
                    raise NotYet(f"{name} says {cluster['leader']} leads {seen}")
                leaders.add(cluster["leader"])
            if len(leaders) != 1:
                raise NotYet(f"leaders {leaders}")
            return True

        wait_until(f"{wanted} voters without lag", settled, timeout_s)

    def leader(self) -> str:
        """The leader of the highest term that a node which answers knows; empty when there is none."""
        best = (-1, "")
        for node in self.nodes.values():
            if not node.running():
                continue
            with contextlib.suppress(CyoloctlError, OSError):
                row = node.client(0.3).status()["cluster"]
                if row["leader"]:
                    best = max(best, (row["term"], row["leader"]))
        return best[1]

    def on_all(self, what: Callable[[FaultNode], None]) -> None:
        for node in self.nodes.values():
            what(node)

    def restart_all(self) -> None:
        """kill -9 to all, then start all."""
        self.on_all(FaultNode.kill)
        self.on_all(FaultNode.launch)

    def snapshots(self) -> dict[str, list[str]]:
        """The snapshot files of each node."""
        return {
            name: sorted(path.name for path in node.directory.glob("snapshot*") if path.stat().st_size)
            for name, node in self.nodes.items()
        }


def stop_signal_is_interrupt() -> None:
    """SIGTERM ends a run as control-C does, so that it cleans up."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
