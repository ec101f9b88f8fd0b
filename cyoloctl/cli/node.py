"""``cyoloctl node``: the node of a data directory."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyoloctl.cli import output
from cyoloctl.cli.cluster import AdvertiseOption, GatewayOption, GatewayUrlOption, ListenOption
from cyoloctl.cli.invocation import Invocation, Leaf, command, parse_choice, parse_int64, read_secret
from cyoloctl.cli.offline_ca import CaFileOption, read_offline_ca
from cyoloctl.cli.output import Column
from cyoloctl.cli.parameters import Option
from cyoloctl.errors import (
    Conflict,
    NotFound,
    Unavailable,
    Unreachable,
    UsageError,
    VersionMismatch,
)
from cyoloctl.paths import quoted

if TYPE_CHECKING:
    from cyoloctl.control.client import Client

__all__ = ["COMMANDS"]

_POLL_S = 0.05


@command(connects=False, timeout_s=30.0)
def start(
    invocation: Invocation,
    background: Annotated[
        bool,
        Option("--background", help="Return when the node is ready, or with the reason why it is not."),
    ] = False,
    log_format: Annotated[
        str | None,
        Option(
            "--log-format", metavar="text|json", help="Format of the log lines. [default: as in node.yaml]"
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        Option(
            "--log-level",
            metavar="debug|info|warning|error",
            help="Minimum log level. [default: as in node.yaml]",
        ),
    ] = None,
    socket_group: Annotated[
        str | None,
        Option(
            "--socket-group",
            metavar="GROUP",
            help="Group that may use gateway.sock, with the role of a gateway. [default: as in node.yaml]",
        ),
    ] = None,
    ready_fd: Annotated[int | None, Option("--ready-fd", hidden=True)] = None,
    log_file: Annotated[str | None, Option("--log-file", hidden=True)] = None,
) -> int | None:
    """Run the node, in the foreground unless --background.

    SIGTERM hands leadership over and stops it, as `node stop` does; SIGHUP
    does what `node reload` does. --background returns once the node serves
    and the cluster lets it stay, or nobody could be asked; --timeout bounds
    that wait, and the log is node.log in the data directory.
    """
    if log_format is not None:
        parse_choice(log_format, "--log-format", ("text", "json"))
    if log_level is not None:
        parse_choice(log_level, "--log-level", ("debug", "info", "warning", "error"))
    from cyoloctl.cli import launch

    if not background:
        if ready_fd is None:
            launch.require_node(invocation.data_dir)
        from cyoloctl.node.run import run

        return run(
            invocation.data_dir,
            log_format=log_format,
            log_level=log_level,
            log_file=log_file,
            ready_fd=ready_fd,
            socket_group=socket_group,
        )
    _start_in_background(invocation, log_format=log_format, log_level=log_level, socket_group=socket_group)
    return None


def _start_in_background(
    invocation: Invocation, *, log_format: str | None, log_level: str | None, socket_group: str | None
) -> None:
    from cyoloctl.cli import launch

    node_process = launch.start_node(
        invocation.data_dir, log_format=log_format, log_level=log_level, socket_group=socket_group
    )
    try:
        answer = node_process.wait_ready(invocation.timeout_s)
    except BaseException:
        node_process.end()
        raise
    node_process.detach()
    log = str(invocation.data_dir / launch.LOG_NAME)
    started = {"schema_version": 1, **answer, "pid": node_process.pid, "log": log}
    invocation.fields(started, [("pid", str(node_process.pid)), ("log", log)])
    for peer, reason in sorted(answer.get("kept_out_by", {}).items()):
        invocation.hint(
            f"{peer} keeps this node out ({reason}): it ends when a majority of the voters says so; "
            "see `cyoloctl status` on a healthy node"
        )
    if answer.get("unheard"):
        names = " and ".join(answer["unheard"])
        invocation.hint(
            f"no link yet with {names}: where neither this node nor {names} can be dialled, they never have "
            "one, and go on by way of the others; see `cyoloctl status`"
        )
    invocation.hint(f"ready; stop it with: cyoloctl node stop -d {quoted(invocation.data_dir)}")


def _runs(client: Client, pid: int | None) -> bool:
    """Whether the node still runs: its socket closes before its journal does, so ask for the process."""
    if pid is not None:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return not _is_zombie(pid)
    try:
        client.health()
    except Unreachable:
        return False
    except Unavailable:
        pass
    return True


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and only waits for its parent to notice (proc(5), stat)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


@command(timeout_s=30.0)
def stop(
    invocation: Invocation,
    force: Annotated[bool, Option("--force", help="Stop it even if that ends a cluster in memory.")] = False,
) -> None:
    """Hand leadership over, stop the node, and return when it is gone. Safe to repeat.

    A member of a cluster in memory gives its vote back first. Where nobody
    could take it back, and stopping would end the cluster, that is refused
    (exit 4) without --force. A node of this machine that does not run is
    stopped already.
    """
    from cyoloctl.cli import launch

    client = invocation.client()
    deadline = time.monotonic() + invocation.timeout_s
    was_running = _wait_answering(invocation, deadline)
    if was_running:
        pid = launch.listener_pid(invocation.endpoints[0])
        client.stop(force=force)
        while _runs(client, pid):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the node still runs after {invocation.timeout_s:g} s: it goes on stopping; "
                    "wait, or look at its log"
                )
            time.sleep(_POLL_S)
    else:
        invocation.hint(f"the node in {invocation.data_dir} was not running")
    document = {"schema_version": 1, "stopped": True, "was_running": was_running}
    invocation.fields(document, [("stopped", "yes")])


def _wait_answering(invocation: Invocation, deadline: float) -> bool:
    """Whether there is a node to stop.

    One that starts or stops holds its journal and does not answer: its next step is waited for.  Of a
    node that is not in the data directory nothing is known before it answers.

    Raises ConfigError for a directory without a node, Unavailable at the deadline.
    """
    from cyoloctl.cli import launch

    if not invocation.own_socket:
        return True
    while _nobody_listens(invocation.endpoints[0].removeprefix("unix://")):
        launch.require_node(invocation.data_dir)
        pid = launch.process_of(invocation.data_dir)
        if pid is None:
            return False
        if time.monotonic() > deadline:
            raise Unavailable(
                f"process {pid} holds the journal in {invocation.data_dir} and does not answer: it starts or "
                "stops; wait, or look at its log"
            )
        time.sleep(_POLL_S)
    return True


def _nobody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False  # the client has the words for it
    return False


@command(connects=False)
def reload(invocation: Invocation) -> None:
    """Make the running node read node.yaml and its certificate files again, and reopen its log.

    Returns when all that can change while it runs is in force, and names the
    keys that need a restart, whose old values stay. New connections get the
    new certificates; open ones stay. A file that the node would not start
    with changes nothing (exit 78). `config show --origin` says which keys
    can change.
    """
    from cyoloctl.cli import launch
    from cyoloctl.control.client import Client
    from cyoloctl.paths import control_socket_path

    directory = invocation.data_dir
    launch.require_node(directory)
    socket_url = f"unix://{control_socket_path(directory)}"
    client = Client([socket_url], timeout_s=invocation.timeout_s, retry=False, data_dir=directory)
    try:
        document = client.call("reload", body={}, repeatable=True)
    except NotFound:  # the path: a reload names nothing else
        raise VersionMismatch(
            "the node still runs an earlier release, which knows no such request: restart it, which reads "
            "the files too"
        ) from None
    invocation.fields(
        document,
        [
            ("reloaded", "yes"),
            ("pid", str(document["pid"])),
            ("applied", ", ".join(document["applied"]) or "-"),
            ("needs restart", ", ".join(document["needs_restart"]) or "-"),
            ("overridden", ", ".join(document["overridden"]) or "-"),
        ],
    )
    for key in document["needs_restart"]:
        invocation.hint(f"{key}: needs a restart; until then the old value counts")
    for key in document["overridden"]:
        invocation.hint(f"{key}: decided by an option of `cyoloctl node start`, until the next start")


@command(connects=False)
def join(
    invocation: Invocation,
    name: Annotated[str, Option("--name", metavar="NAME", help="Name of the node, as invited.")],
    listen: ListenOption,
    token_file: Annotated[
        str,
        Option("--token-file", metavar="FILE|-", help="Join token from `member invite`; - is stdin."),
    ],
    advertise: AdvertiseOption = None,
    gateway: GatewayOption = None,
    gateway_url: GatewayUrlOption = None,
) -> None:
    """Make this node's keys and certificate and write its files.

    The keys are made here and never leave. `node start` then brings the
    node in: a learner first, a voter once it has caught up.
    """
    token = read_secret(token_file, "join token")
    from cyoloctl.node import create

    joined = create.join(
        invocation.data_dir, name, listen, advertise, token, invocation.timeout_s, gateway, gateway_url
    )
    invocation.fields(
        joined,
        [
            ("cluster", f"{joined['cluster']['name']} ({joined['cluster']['id']})"),
            ("node", joined["name"]),
            ("address", joined["address"]),
            ("data directory", joined["data_dir"]),
        ],
    )
    invocation.hint(f"\nnext:\n  cyoloctl node start -d {quoted(joined['data_dir'])} --background")


@command(connects=False, timeout_s=None)
def request(
    invocation: Invocation,
    name: Annotated[str, Option("--name", metavar="NAME", help="Name of the new node.")],
    listen: ListenOption,
    out: Annotated[
        Path, Option("--out", metavar="FILE", help="Write the request to a new file; it is no secret.")
    ],
    advertise: AdvertiseOption = None,
    gateway: GatewayOption = None,
    gateway_url: GatewayUrlOption = None,
) -> None:
    """Make this node's keys and a request to join, for a cluster that it cannot reach.

    The keys are made here and never leave. Carry the file to a node of the
    cluster, where `member grant` answers it, and bring the answer back to
    `node accept`.
    """
    from cyoloctl.node import by_file

    made = by_file.request(invocation.data_dir, name, listen, advertise, out, gateway, gateway_url)
    invocation.fields(
        made,
        [
            ("node", made["name"]),
            ("address", made["address"]),
            ("data directory", made["data_dir"]),
            ("request", made["request"]),
            ("sha-256 of the request", made["request_sha256"]),
        ],
    )
    invocation.hint(
        "\nnext, on a node of the cluster, with this file:\n"
        "  cyoloctl member grant --request FILE --out FILE\n"
        "then here, with what it wrote:\n"
        f"  cyoloctl node accept -d {quoted(made['data_dir'])} --grant FILE"
    )


@command(connects=False, timeout_s=None)
def accept(
    invocation: Invocation,
    grant: Annotated[
        str, Option("--grant", metavar="FILE|-", help="File that `member grant` wrote; - is stdin.")
    ],
) -> None:
    """Verify the grant of this node's request and write the node's files, offline.

    Compare the SHA-256 of the CA with what `member grant` showed: it is how
    you know the cluster. `node start` then brings the node in. The same
    grant again changes nothing.
    """
    from cyoloctl.node import by_file

    joined = by_file.accept(invocation.data_dir, read_secret(grant, "grant"))
    invocation.fields(
        joined,
        [
            ("cluster", f"{joined['cluster']['name']} ({joined['cluster']['id']})"),
            ("sha-256 of the CA", joined["ca_sha256"]),
            ("node", joined["name"]),
            ("address", joined["address"]),
            ("data directory", joined["data_dir"]),
            ("start it before", joined["grant_expires_at"]),
        ],
    )
    invocation.hint(f"\nnext:\n  cyoloctl node start -d {quoted(joined['data_dir'])} --background")


@command(connects=False, timeout_s=None)
def info(invocation: Invocation) -> None:
    """Show what the data directory says about its node; needs no running node."""
    from cyoloctl.node import create

    document = create.node_info(invocation.data_dir)
    invocation.fields(
        document,
        [
            ("name", document["name"]),
            ("cluster", f"{document['cluster']['name']} ({document['cluster']['id']})"),
            ("listen", document["listen"]),
            ("address", document["address"]),
            ("storage", document["storage"]),
            ("data directory", document["data_dir"]),
            ("certificate expires", document["certificate_expires_at"] or "-"),
            ("problem", document["problem"] or "none"),
        ],
    )


@command(connects=False, timeout_s=None)
def log(
    invocation: Invocation,
    first: Annotated[
        str | None,
        Option("--from", metavar="N", help="First log index. [default: so that the end shows]"),
    ] = None,
    limit: Annotated[str, Option("--limit", metavar="N", help="Most entries to show, 1 to 100000.")] = "20",
) -> None:
    """Show entries of the node's log, read from its files; the node may run or not.

    Which machine and operation each command is for, and its request id. What
    a command carries is left out, since it is users' data.
    """
    from cyoloctl.node import inspection

    begin = None if first is None else parse_int64(first, "--from", 0)
    most = parse_int64(limit, "--limit", 1, 100_000)
    document = inspection.node_log(invocation.data_dir, first=begin, limit=most)
    if invocation.mode != "table":
        output.structured(document, invocation.mode)
        return
    columns = (
        Column("INDEX", identifier=True, right=True),
        Column("TERM", right=True, drop=2),
        Column("TIME", drop=3),
        Column("BYTES", right=True, drop=1),
        Column("WHAT"),
    )
    rows = [
        (
            str(entry["index"]),
            str(entry["term"]),
            entry["time"] or "-",
            str(entry["bytes"]),
            inspection.summary_of(entry),
        )
        for entry in document["entries"]
    ]
    output.table(columns, rows)
    invocation.hint(
        f"log entries {document['first_index']} to {document['last_index']}, "
        f"committed up to {document['commit_index']}"
    )


@command(connects=False, timeout_s=None)
def inspect(
    invocation: Invocation,
    copy: Annotated[
        Path | None,
        Option("--copy", metavar="FILE", help="Also write the log to a new file, for `sqlite3`."),
    ] = None,
) -> None:
    """Show what the node holds durably, read from its files; the node may run or not.

    Term and vote, the range of its log, voters, the snapshot, and whether the
    log is whole. A running node keeps raft.db to itself: --copy writes all of
    it, consistent, to a file that any SQLite program reads.
    """
    from cyoloctl.node import inspection

    document = inspection.inspect_node(invocation.data_dir)
    if copy is not None:
        inspection.copy_log(invocation.data_dir, copy)
        document["copy"] = str(copy)
    snapshot = document["snapshot"]
    rows = [
        ("name", document["name"]),
        ("cluster", f"{document['cluster']['name']} ({document['cluster']['id']})"),
        ("term", _shown(document["term"])),
        ("vote", _shown(document["vote"])),
        (
            "log entries",
            f"{_shown(document['first_index'])} to {_shown(document['last_index'])}, the last of term "
            f"{document['last_term']}",
        ),
        ("committed up to", _shown(document["commit_index"])),
        ("voters", ", ".join(document["voters"]) or "-"),
        ("removed", ", ".join(document["removed"]) or "-"),
        (
            "snapshot",
            "-" if snapshot is None else f"of log index {snapshot['index']}, term {snapshot['term']}",
        ),
        ("journal", f"{document['journal_bytes']} bytes, and {document['wal_bytes']} beside it"),
        ("problem", document["problem"] or "none"),
    ]
    invocation.fields(document, rows + ([("copy", str(copy))] if copy is not None else []))


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


@command(connects=False, timeout_s=None)
def renew(
    invocation: Invocation,
    request: Annotated[
        Path | None,
        Option("--request", metavar="FILE", help="Write a request for `member grant` to a new file."),
    ] = None,
    grant: Annotated[
        str | None,
        Option("--grant", metavar="FILE|-", help="Install what `member grant` wrote; - is stdin."),
    ] = None,
    ca_file: CaFileOption = None,
) -> None:
    """Renew the node's certificate, offline; the key stays.

    Nodes renew theirs by themselves; this is for one whose certificate has
    ended while it was away, and for all where the CA is kept offline. Without
    options the CA key in its own directory is used, with --ca-file that one.
    A node without any writes a request, which any node of the cluster grants,
    and puts the answer in place. A running node uses the new certificate
    within a second.
    """
    if sum(option is not None for option in (request, grant, ca_file)) > 1:
        raise UsageError("use one of --request, --grant and --ca-file")
    authority = read_offline_ca(ca_file)
    from cyoloctl.node import create

    directory = quoted(invocation.data_dir)
    if request is not None:
        written = create.write_renewal_request(invocation.data_dir, request)
        invocation.fields(written, [("name", written["name"]), ("request", written["request"])])
        invocation.hint(
            "\nnext, on a member of the cluster, with this file:\n"
            "  cyoloctl member grant --request FILE --out FILE\n"
            "then here, with what it wrote:\n"
            f"  cyoloctl node renew -d {directory} --grant FILE"
        )
        return
    if grant is None:
        done = create.renew_here(invocation.data_dir, authority)
    else:
        done = create.accept_renewal(invocation.data_dir, read_secret(grant, "grant"))
    invocation.fields(
        done,
        [
            ("name", done["name"]),
            ("certificate", done["certificate"]),
            ("certificate expires", done["certificate_expires_at"]),
        ],
    )


@command(connects=False, timeout_s=None)
def set_address(
    invocation: Invocation,
    listen: Annotated[
        str | None,
        Option("--listen", metavar="HOST:PORT", help="Address to listen on from now on."),
    ] = None,
    advertise: Annotated[
        str | None,
        Option(
            "--advertise",
            metavar="HOST:PORT",
            help="Address at which others reach it. [default: moves along with --listen]",
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        Option("--peer", metavar="NAME=HOST:PORT", help="Where another member is now. Repeatable."),
    ] = None,
) -> None:
    """Change the addresses in node.yaml of a node that is stopped.

    When several members moved at once, tell one of them where the others are
    (--peer): it tells them where everybody is. Comments in node.yaml stay.
    Refused (exit 4) while the node runs, and for an address that two members
    would have.
    """
    if listen is None and advertise is None and not peer:
        raise UsageError("give --listen, --advertise or --peer: what has moved?")
    from cyoloctl.cli import launch
    from cyoloctl.node import readdress
    from cyoloctl.paths import control_socket_path

    launch.require_node(invocation.data_dir)
    directory = quoted(invocation.data_dir)
    runs = launch.process_of(invocation.data_dir) is not None
    if runs or not _nobody_listens(str(control_socket_path(invocation.data_dir))):
        raise Conflict(
            f"the node in {directory} runs: stop it first (`cyoloctl node stop -d {directory}`); a node that "
            "cannot be stopped is told to the others with `cyoloctl member set-address`"
        )
    done = readdress.set_addresses(invocation.data_dir, listen=listen, advertise=advertise, peers=peer or [])
    peers = ", ".join(f"{name} at {address}" for name, address in done["peers"].items())
    invocation.fields(
        done,
        [
            ("name", done["name"]),
            ("listen", done["listen"]),
            ("address", done["address"]),
            ("peers", peers or "-"),
            ("changed", "yes" if done["changed"] else "no"),
        ],
    )
    invocation.hint(f"\nnext:\n  cyoloctl node start -d {directory} --background")


COMMANDS: dict[str, Leaf] = {
    "start": start,
    "stop": stop,
    "reload": reload,
    "join": join,
    "request": request,
    "accept": accept,
    "renew": renew,
    "set-address": set_address,
    "info": info,
    "log": log,
    "inspect": inspect,
}
