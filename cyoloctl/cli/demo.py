"""``cyoloctl demo``: a cluster of real processes on this machine, from nothing to a survived crash.

Each step proves one thing and says with which figures.  Whatever happens,
every process that the demo started is ended, unless --keep.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, command, parse_int64
from cyoloctl.errors import (
    Conflict,
    CyoloctlError,
    InternalError,
    Interrupted,
    InvalidInput,
    OutcomeUnknown,
    TokenRejected,
    Unavailable,
    Unreachable,
)
from cyoloctl.paths import check_data_dir, control_socket_path, file_error, quoted

if TYPE_CHECKING:
    from cyoloctl.cli.launch import NodeProcess
    from cyoloctl.control.client import Client

__all__ = ["COMMANDS"]

_COUNTER = "demo"
_CLUSTER = "demo"
_INCREMENTS = 20
_READY_S = 30.0
_STOP_S = 5.0
_POLL_S = 0.05
# One try of a write while the leader is gone: short, so that the next try meets the new leader soon.
_TRY_S = 1.0


def _endpoint(directory: Path) -> str:
    return f"unix://{control_socket_path(directory)}"


def _free_ports(count: int) -> list[int]:
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


class _Interrupts:
    """SIGTERM and SIGHUP interrupt as Ctrl-C does, and none of them in a held moment.

    Between the start of a process and the note of it, and while the processes
    are ended, an interrupt would leave some running.
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
        previous = {number: signal.signal(number, self._interrupt) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

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


@dataclass(slots=True)
class _Demo:
    """The cluster of the demo and what it has shown so far."""

    directory: Path
    names: list[str]
    step_s: float
    quiet: bool
    interrupts: _Interrupts
    processes: dict[str, NodeProcess] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def node_dir(self, name: str) -> Path:
        return self.directory / name

    def client(self, *names: str, timeout_s: float | None = None) -> Client:
        from cyoloctl.control.client import Client

        endpoints = [_endpoint(self.node_dir(name)) for name in names]
        return Client(endpoints, timeout_s=timeout_s or self.step_s, retry=False)

    def proved(self, step: str, text: str, **figures: Any) -> None:
        """Note a step that held, and say so."""
        self.steps.append({"step": step, "ok": True, "proved": text, **figures})
        if not self.quiet:
            mark = "\x1b[32mok\x1b[0m" if output.coloured(sys.stdout) else "ok"
            output.write(f"{mark}  {text}\n")

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
        """Start a node and wait until it is ready; return after how many seconds."""
        from cyoloctl.cli.launch import start_node

        began = time.monotonic()
        with self.interrupts.held():
            self.processes[name] = start_node(self.node_dir(name))
        self.processes[name].wait_ready(_READY_S)
        return time.monotonic() - began

    def members(self, name: str) -> dict[str, dict[str, Any]]:
        """The members by name, as one node sees them."""
        return {member["name"]: member for member in self.client(name).call("status")["members"]}

    def end(self) -> None:
        """End every process that still runs, by its pid."""
        for node in self.processes.values():
            if node.process.poll() is None:
                node.process.terminate()
        deadline = time.monotonic() + _STOP_S
        for node in self.processes.values():
            node.end(max(0.0, deadline - time.monotonic()))


def _form(demo: _Demo) -> None:
    from cyoloctl.node import create

    ports = _free_ports(len(demo.names))
    first = demo.names[0]
    made = create.init_cluster(demo.node_dir(first), first, f"127.0.0.1:{ports[0]}", None, _CLUSTER, "disk")
    took_s = demo.start(first)
    cluster_id = made["cluster"]["id"]
    demo.proved(
        "init",
        f"{first} created cluster {cluster_id[:8]} and leads it alone, ready after {took_s:.1f} s",
        cluster_id=cluster_id,
        ready_s=round(took_s, 3),
    )
    for name, port in zip(demo.names[1:], ports[1:], strict=True):
        began = time.monotonic()
        invitation = demo.client(first).member_invite(name, learner=False, ttl_s=600)
        create.join(demo.node_dir(name), name, f"127.0.0.1:{port}", None, invitation["token"], demo.step_s)
        demo.start(name)

        def is_voter(name: str = name) -> bool:
            return demo.members(first).get(name, {}).get("role") in ("follower", "leader")

        demo.wait(f"{name} becoming a voter", is_voter)
        took_s = time.monotonic() - began
        demo.proved(
            "join",
            f"{name} joined with a single-use token, caught up and votes, after {took_s:.1f} s",
            node=name,
            took_s=round(took_s, 3),
        )


def _count(demo: _Demo) -> int:
    writer, reader = demo.names[0], demo.names[-1]
    client = demo.client(writer)
    began = time.monotonic()
    value = 0
    for _ in range(_INCREMENTS):
        value = client.counters.incr(_COUNTER, 1)["value"]
    took_ms = (time.monotonic() - began) * 1000 / _INCREMENTS
    seen = demo.client(reader).counters.get(_COUNTER, stale=False)["value"]
    if not value == seen == _INCREMENTS:
        raise InternalError(f"{_INCREMENTS} increments gave {value} on {writer} and {seen} on {reader}")
    demo.proved(
        "replicate",
        f"{_INCREMENTS} increments through {writer} ({took_ms:.1f} ms each, on disk on a majority), "
        f"{reader} reads {seen}",
        value=seen,
        written_through=writer,
        read_on=reader,
        increment_ms=round(took_ms, 3),
    )
    return int(value)


def _carry_session(demo: _Demo) -> None:
    minter, changer, opener = demo.names[0], demo.names[1], demo.names[-1]
    demo.wait(
        "every node holding the token key", lambda: bool(demo.client(opener).call("key_status")["agreed"])
    )
    minted = demo.client(minter).call("token_mint", body={"sub": "demo", "claims": {"mfa": True}})
    began = time.monotonic()
    opened = demo.client(opener).call("token_inspect", body={"token": minted["token"]})
    took_ms = (time.monotonic() - began) * 1000
    if (opened["sub"], opened["sid"], opened["claims"]) != ("demo", minted["sid"], {"mfa": True}):
        raise InternalError(f"{opener} reads another session than {minter} made")
    changes = {"token": minted["token"], "set": {"mfa": False}}
    changed = demo.client(changer).call("token_update", body=changes)
    for name in demo.names:
        client = demo.client(name)
        # After a majority was asked, so that no node is judged by what has not reached it yet.
        after = client.call("token_inspect", body={"token": changed["token"], "require_quorum": True})
        try:
            client.call("token_inspect", body={"token": minted["token"]})
        except TokenRejected:
            if after["claims"] == {"mfa": False}:
                continue
        raise InternalError(f"{name} does not judge the session as {changer} left it")
    demo.proved(
        "session",
        f"a session token made by {minter} opens on {opener} ({took_ms:.1f} ms); {changer} changed it, and "
        "every node refuses the older copy",
        minted_on=minter,
        opened_on=opener,
        changed_on=changer,
        open_ms=round(took_ms, 3),
    )


def _kill_leader(demo: _Demo, value: int) -> tuple[str, int]:
    leader = str(demo.client(demo.names[0]).status()["cluster"]["leader"])
    victim = demo.processes[leader]
    survivors = [name for name in demo.names if name != leader]
    request_id = f"demo-{os.urandom(8).hex()}"
    os.kill(victim.pid, signal.SIGKILL)
    killed = time.monotonic()
    victim.process.wait()
    tries = after = 0

    def incremented() -> bool:
        nonlocal tries, after
        tries += 1
        try:
            # The same request id on every try: however often it is sent, it applies once.
            client = demo.client(*survivors, timeout_s=_TRY_S)
            after = client.counters.incr(_COUNTER, 1, request_id=request_id)["value"]
        except OutcomeUnknown:
            return False
        return True

    demo.wait("an increment after the leader was killed", incremented)
    took_s = time.monotonic() - killed
    new_leader = str(demo.client(*survivors).status()["cluster"]["leader"])
    demo.proved(
        "failover",
        f"{leader} led and was killed (SIGKILL); the next increment succeeded after {took_s:.2f} s, "
        f"{new_leader} leads",
        killed=leader,
        leader=new_leader,
        unavailable_s=round(took_s, 3),
        tries=tries,
    )
    if after != value + 1:
        raise InternalError(f"the counter was {value} before the crash and {after} after one increment")
    values = {name: demo.client(name).counters.get(_COUNTER, stale=False)["value"] for name in survivors}
    if set(values.values()) != {after}:
        raise InternalError(f"the survivors disagree: {values}, expected {after}")
    demo.proved(
        "nothing-lost",
        f"nothing was lost and nothing applied twice: {value} before, {after} after, the same on "
        f"{' and '.join(survivors)}",
        before=value,
        after=after,
    )
    return leader, int(after)


def _restart(demo: _Demo, name: str, value: int) -> None:
    began = time.monotonic()
    demo.start(name)

    def caught_up() -> bool:
        members = demo.members(name)
        target = max(member.get("commit_index") or 0 for member in members.values())
        own = demo.client(name).counters.get(_COUNTER, stale=True)
        return own["value"] == value and (members[name].get("applied_index") or 0) >= target

    demo.wait(f"{name} catching up", caught_up)
    took_s = time.monotonic() - began
    demo.proved(
        "restart",
        f"{name} came back from its disk and caught up after {took_s:.1f} s: it reads {value} locally",
        node=name,
        took_s=round(took_s, 3),
    )


def _final_status(demo: _Demo) -> dict[str, Any]:
    document: dict[str, Any] = {}

    def healthy() -> bool:
        nonlocal document
        document = demo.client(demo.names[0]).call("status")
        members = document["members"]
        # What a member says about itself reaches the others about a second later.
        known = all(member["reachable"] and member["applied_index"] is not None for member in members)
        return bool(document["cluster"]["healthy"]) and known

    demo.wait("every member reachable", healthy)
    return document


def _prepare(invocation: Invocation) -> tuple[Path, bool]:
    """The directory, and whether it is ours to remove."""
    if not invocation.data_dir_given:
        return Path(tempfile.mkdtemp(prefix="cyoloctl-demo-")), True
    directory = invocation.data_dir
    check_data_dir(directory)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise Conflict(f"{directory} is not empty: name a new directory for the demo")
    except OSError as error:
        raise file_error(directory, error, "use") from None
    return directory, False


def _keep(demo: _Demo, names: list[str]) -> dict[str, Any]:
    endpoints = ",".join(_endpoint(demo.node_dir(name)) for name in names)
    stop = [f"cyoloctl node stop -d {quoted(demo.node_dir(name))}" for name in names]
    return {
        "environment": {"CYOLOCTL_ENDPOINT": endpoints},
        "pids": {name: demo.processes[name].pid for name in names},
        "stop": stop,
        "data_dir": str(demo.directory),
    }


def _run(demo: _Demo) -> dict[str, Any]:
    _form(demo)
    value = _count(demo)
    _carry_session(demo)
    killed, value = _kill_leader(demo, value)
    _restart(demo, killed, value)
    return _final_status(demo)


def _node_count(text: str) -> int:
    count = parse_int64(text, "--nodes")
    if count < 3:
        raise InvalidInput(
            f"--nodes is {count}: use 3 to 9, since a cluster of one or two has no majority left when its "
            "leader is killed"
        )
    if count > 9:
        raise InvalidInput(f"--nodes is {count}: use 3 to 9, each is a process on this machine")
    return count


DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "-d",
        "--data-dir",
        metavar="DIR",
        help="A new or empty directory. [default: a temporary one, removed]",
    ),
]


@command(connects=False, own_data_dir=DirectoryOption, timeout_s=10.0)
def demo(
    invocation: Invocation,
    nodes: Annotated[str, typer.Option("--nodes", metavar="N", help="Number of nodes, 3 to 9.")] = "3",
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the cluster running and print how to use and stop it.")
    ] = False,
) -> None:
    """Form a cluster on this machine, carry a session through it, kill its leader, and show nothing is lost.

    Real processes on the loopback with disk storage in a temporary directory
    (or an empty --data-dir). Exits 0 only if every step held.
    """
    count = _node_count(nodes)
    directory, ours = _prepare(invocation)
    names = [f"n{number}" for number in range(1, count + 1)]
    interrupts = _Interrupts()
    show = _Demo(directory, names, invocation.timeout_s, invocation.mode != "table", interrupts)
    with interrupts.installed():
        _carry_out(invocation, show, keep, ours)


def _carry_out(invocation: Invocation, show: _Demo, keep: bool, ours: bool) -> None:
    """Run, report, and end the processes.  ours: the directory is ours to remove."""
    directory = show.directory
    running = False
    failed = True
    try:
        invocation.hint(f"{len(show.names)} nodes in {directory}")
        document = _run(show)
        extra = _keep(show, show.names) if keep else {}
        result = {"schema_version": 1, "ok": True, "steps": show.steps, "status": document, **extra}
        _report(invocation, result, extra)
        failed = False
        running = keep
    except CyoloctlError as error:
        if isinstance(error, Interrupted) or not show.processes:
            raise
        proved = ", ".join(step["step"] for step in show.steps) or "nothing"
        raise type(error)(
            f"{error.message} (the demo had shown: {proved}; the logs stay in {directory}/*/node.log)"
        ) from error
    except KeyboardInterrupt:
        failed = False
        raise
    finally:
        if running:
            for node in show.processes.values():
                node.detach()
        else:
            with show.interrupts.held():
                show.end()
            if ours and (not failed or not show.processes):
                shutil.rmtree(directory, ignore_errors=True)


def _report(invocation: Invocation, result: dict[str, Any], kept: dict[str, Any]) -> None:
    if invocation.mode != "table":
        output.structured(result, invocation.mode)
        return
    from cyoloctl.cli.status import show_status

    output.write("\n")
    # Not `-o json`, as elsewhere: that would be another demo.
    show_status(result["status"], everything="a wider terminal shows them")
    if kept:
        endpoints = quoted(kept["environment"]["CYOLOCTL_ENDPOINT"])
        stop = "\n  ".join([*kept["stop"], f"rm -r {quoted(kept['data_dir'])}"])
        output.write(
            "\nit goes on running; to use it:\n"
            f"  export CYOLOCTL_ENDPOINT={endpoints}\n  cyoloctl counter incr {_COUNTER}\n"
            f"to stop and remove it:\n  {stop}\n"
        )


COMMANDS: dict[str, Callable[..., None]] = {"demo": demo}
