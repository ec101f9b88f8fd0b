"""``cyoloctl dev``: a cluster in memory to try things on, gone without a trace when the command ends."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
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
from cyoloctl.errors import CyoloctlError, Unavailable
from cyoloctl.paths import quoted

__all__ = ["COMMANDS"]

_CLUSTER = "dev"
_MAX_NODES = 7
# Nothing in memory is worth a longer farewell.
_STOP_S = 1.0


def _form(invocation: Invocation, cluster: LocalCluster) -> list[dict[str, Any]]:
    """Form the cluster, and wait until it does whatever it is asked; its nodes."""
    ports = free_ports(2 * len(cluster.names))
    places = dict(zip(cluster.names, zip(ports[::2], ports[1::2], strict=True), strict=True))
    first, *others = cluster.names
    cluster.found(_CLUSTER, *places[first])
    for name in others:
        took_s = cluster.admit(name, *places[name])
        invocation.hint(f"{name} votes, after {took_s:.1f} s")
    cluster.wait(
        "every node holding the token key", lambda: bool(cluster.client(first).call("key_status")["agreed"])
    )
    return [
        {
            "name": name,
            "pid": cluster.processes[name].pid,
            "data_dir": str(cluster.node_dir(name)),
            "address": f"127.0.0.1:{port}",
            "gateway": f"http://127.0.0.1:{gateway}",
        }
        for name, (port, gateway) in places.items()
    ]


def _report(
    invocation: Invocation, cluster: LocalCluster, nodes: list[dict[str, Any]], took_s: float
) -> None:
    """Say what to export.  In one piece: whoever finds anything on stdout finds all of it."""
    environment = {
        "CYOLOCTL_DATA_DIR": nodes[0]["data_dir"],
        "CYOLOCTL_ENDPOINT": ",".join(endpoint_of(cluster.node_dir(name)) for name in cluster.names),
    }
    if invocation.mode != "table":
        document = {
            "schema_version": 1,
            "ready": True,
            "ready_s": round(took_s, 3),
            "environment": environment,
            "gateway": nodes[0]["gateway"],
            "nodes": nodes,
        }
        # As in a stream, JSON on one line: nobody can read to the end of what a command prints that stays.
        output.structured(document, invocation.mode, stream=True)
        return
    lines = [f"export {name}={quoted(value)}" for name, value in environment.items()]
    lines += [f"# gateway of {node['name']}: {node['gateway']}" for node in nodes]
    output.write("\n".join(lines) + "\n")
    invocation.hint(f"ready after {took_s:.1f} s; Ctrl-C ends it, and removes everything")


def _stay(invocation: Invocation, cluster: LocalCluster) -> None:
    """Return when every node was stopped; raise Unavailable when the last one ended otherwise."""
    running = set(cluster.names)
    while running:
        _wait_child({cluster.processes[name].pid for name in running})
        for name in sorted(running):
            status = cluster.processes[name].process.poll()
            if status is None:
                continue
            running.remove(name)
            how = (
                f"ended with {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            )
            if running:
                start = f"cyoloctl node start -d {quoted(cluster.node_dir(name))} --background"
                invocation.hint(f"{name} {how}; start it again with: {start}")
            elif status:
                raise Unavailable(f"{name} {how}, and no node is left: start another cluster")
            else:
                invocation.hint("every node was stopped")


def _wait_child(ours: set[int]) -> None:
    """Wait until one of these ends.  Others may be ours too: of the shell that became us, or of nobody."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) is not None:
        if ended.si_pid in ours:
            return
        os.waitpid(ended.si_pid, 0)  # one that stays would be told again and again


@command(connects=False, own_data_dir=NewDirectoryOption, timeout_s=10.0)
def dev(
    invocation: Invocation,
    nodes: Annotated[str, Option("--nodes", metavar="N", help="Number of nodes, 1 to 7.")] = "1",
) -> None:
    """Run a cluster in memory on this machine until Ctrl-C, and leave nothing behind.

    Each node is a process on the loopback with a gateway, in a private temporary
    directory (or an empty --data-dir). Once they are ready, stdout gets the
    lines for the shell by which every command finds them, or with -o json one
    object on one line. Then Ctrl-C or SIGTERM ends the nodes, removes their
    directories, and exits 0.
    """
    names = [f"n{number}" for number in range(1, parse_int64(nodes, "--nodes", 1, _MAX_NODES) + 1)]
    interrupts = Interrupts()
    with interrupts.installed():
        _carry_out(invocation, names, interrupts)


def _carry_out(invocation: Invocation, names: list[str], interrupts: Interrupts) -> None:
    """Form the cluster, stay, and leave nothing behind: but for the logs, when a node has failed."""
    began = time.monotonic()
    place: Place | None = None
    cluster: LocalCluster | None = None
    ready = failed = False
    try:
        with interrupts.held():
            place = Place.of(invocation, "dev")
            cluster = LocalCluster(
                place.path, names, invocation.timeout_s, interrupts, storage="memory", bound=True
            )
        formed = _form(invocation, cluster)
        with interrupts.held():
            _report(invocation, cluster, formed, time.monotonic() - began)
            ready = True
        _stay(invocation, cluster)
    except KeyboardInterrupt:
        if not ready:  # afterwards it is how this ends
            raise
    except CyoloctlError as error:
        if cluster is None or not cluster.processes:
            raise
        failed = True
        raise type(error)(f"{error.message} (the logs stay in {cluster.directory}/*/node.log)") from error
    finally:
        with suppress(KeyboardInterrupt), interrupts.held():
            if cluster is not None:
                cluster.end(_STOP_S)
            if place is not None and not failed:
                place.remove(names)


COMMANDS: dict[str, Leaf] = {"dev": dev}
