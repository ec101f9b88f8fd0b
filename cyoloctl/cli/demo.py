"""``cyoloctl demo``: a cluster of real processes on this machine, from nothing to a survived crash.

Each step proves one thing and says with which figures.  Whatever happens,
every process that the demo started is ended, unless --keep.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, command, parse_int64
from cyoloctl.cli.local_cluster import (
    Interrupts,
    LocalCluster,
    NewDirectoryOption,
    Place,
    endpoint_of,
    free_ports,
)
from cyoloctl.cli.parameters import Option
from cyoloctl.errors import (
    CyoloctlError,
    InternalError,
    Interrupted,
    InvalidInput,
    OutcomeUnknown,
    TokenRejected,
)
from cyoloctl.paths import quoted

__all__ = ["COMMANDS"]

_COUNTER = "demo"
_CLUSTER = "demo"
_INCREMENTS = 20
_STOP_S = 5.0
# One try of a write while the leader is gone: short, so that the next try meets the new leader soon.
_TRY_S = 1.0


@dataclass(slots=True)
class _Demo(LocalCluster):
    """The cluster of the demo and what it has shown so far."""

    quiet: bool = False
    steps: list[dict[str, Any]] = field(default_factory=list)

    def proved(self, step: str, text: str, **figures: Any) -> None:
        """Note a step that held, and say so."""
        self.steps.append({"step": step, "ok": True, "proved": text, **figures})
        if not self.quiet:
            mark = "\x1b[32mok\x1b[0m" if output.coloured(sys.stdout) else "ok"
            output.write(f"{mark}  {text}\n")


def _form(demo: _Demo) -> None:
    ports = free_ports(len(demo.names))
    began = time.monotonic()
    made = demo.found(_CLUSTER, ports[0])
    took_s = time.monotonic() - began
    first, cluster_id = demo.names[0], made["cluster"]["id"]
    demo.proved(
        "init",
        f"{first} created cluster {cluster_id[:8]} and leads it alone, ready after {took_s:.1f} s",
        cluster_id=cluster_id,
        ready_s=round(took_s, 3),
    )
    for name, port in zip(demo.names[1:], ports[1:], strict=True):
        took_s = demo.admit(name, port)
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


def _keep(demo: _Demo, names: list[str]) -> dict[str, Any]:
    endpoints = ",".join(endpoint_of(demo.node_dir(name)) for name in names)
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


@command(connects=False, own_data_dir=NewDirectoryOption, timeout_s=10.0)
def demo(
    invocation: Invocation,
    nodes: Annotated[str, Option("--nodes", metavar="N", help="Number of nodes, 3 to 9.")] = "3",
    keep: Annotated[
        bool, Option("--keep", help="Leave the cluster running and print how to use and stop it.")
    ] = False,
) -> None:
    """Form a cluster on this machine, carry a session through it, kill its leader, and show nothing is lost.

    Real processes on the loopback with disk storage in a temporary directory
    (or an empty --data-dir). Exits 0 only if every step held.
    """
    count = _node_count(nodes)
    names = [f"n{number}" for number in range(1, count + 1)]
    place = Place.of(invocation, "demo")
    interrupts = Interrupts()
    show = _Demo(place.path, names, invocation.timeout_s, interrupts, quiet=invocation.mode != "table")
    with interrupts.installed():
        _carry_out(invocation, show, place, keep)


def _carry_out(invocation: Invocation, show: _Demo, place: Place, keep: bool) -> None:
    """Run, report, and end the processes."""
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
                show.end(_STOP_S)
            if place.temporary and (not failed or not show.processes):
                place.remove(show.names)


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


COMMANDS: dict[str, Leaf] = {"demo": demo}
