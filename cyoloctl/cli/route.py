"""``cyoloctl route``: which node serves which key and host name, for reverse proxies."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

from cyoloctl.cli import output
from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    StaleOption,
    command,
    parse_choice,
    parse_command,
    parse_duration_s,
)
from cyoloctl.cli.output import Column, text_of
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.errors import ConfigError, CyoloctlError, Unavailable
from cyoloctl.model import parse_hostname
from cyoloctl.process import child_environment, until_terminated
from cyoloctl.text import Json

if TYPE_CHECKING:
    from cyoloctl.routing.table import ExportOptions, Pin, RoutingTable

__all__ = ["COMMANDS"]


_EXEC_LIMIT_S = 60
_CHECKS = {"nginx": "nginx -t -q -c {}", "haproxy": "haproxy -c -q -f {}"}

FormatOption = Annotated[str, Option("--format", metavar="nginx|haproxy", help="Reverse proxy to write for.")]
PinOption = Annotated[
    str,
    Option(
        "--pin",
        metavar="soft|strict",
        help="Behaviour when the node of a host is down: soft lets the next one answer, strict answers 503.",
    ),
]
ListenOption = Annotated[
    str,
    Option(
        "--listen",
        metavar="HOST:PORT",
        help="Address on which the proxy listens. [default: 0.0.0.0:80, with TLS :443]",
    ),
]
CertificateOption = Annotated[
    str | None,
    Option("--tls-certificate", metavar="FILE", help="Certificate chain and private key of the proxy, PEM."),
]
BackendCaOption = Annotated[
    str | None,
    Option("--backend-tls-ca", metavar="FILE", help="CA of the gateways' certificates, when they use TLS."),
]
FragmentOption = Annotated[
    bool, Option("--fragment", help="Write only what goes beside a configuration of your own.")
]
InFrontOption = Annotated[
    list[str] | None,
    Option(
        "--tls-in-front",
        metavar="NETWORK",
        help="Address or network of whatever ends TLS in front of this proxy; its X-Forwarded-Proto and -For "
        "are believed. Repeat for more.",
    ),
]
RunDirOption = Annotated[
    str | None,
    Option("--run-dir", metavar="DIR", help="Directory for the files of a proxy without root."),
]
HostArgument = Annotated[str, Argument(metavar="HOST", help="Host name.")]


def _fetch(invocation: Invocation, *, stale: bool = False) -> Json:
    return invocation.read("route_list", stale=stale)


def _table(document: Json, *, every: bool = False) -> RoutingTable:
    """The routing table for proxies: members with a gateway; every: the others too, for look-ups."""
    from cyoloctl.routing.table import Backend, RoutingTable

    return RoutingTable(
        tuple(
            Backend(
                name=row["name"],
                host=row["host"],
                address=row["address"] or f"{row['name']}.invalid:1",
                alive=row["alive"],
                role=row["role"],
            )
            for row in document["backends"]
            if every or row["address"] is not None
        ),
        tuple(document["shared_hosts"]),
        document["index"],
    )


def _render(proxy: str, table: RoutingTable, options: ExportOptions) -> str:
    from cyoloctl.routing.haproxy import export_haproxy
    from cyoloctl.routing.nginx import export_nginx

    if proxy == "nginx":
        return export_nginx(table, options)
    return export_haproxy(table, options)


def _options(
    proxy: str,
    pin: str,
    listen: str,
    tls_certificate: str | None,
    backend_tls_ca: str | None,
    fragment: bool,
    run_dir: str | None,
    tls_in_front: list[str] | None,
) -> ExportOptions:
    parse_choice(proxy, "--format", tuple(_CHECKS))
    from cyoloctl.routing.table import ExportOptions

    return ExportOptions(
        pin=cast("Pin", parse_choice(pin, "--pin", ("soft", "strict"))),
        listen=listen,
        tls_certificate=tls_certificate,
        backend_tls_ca=backend_tls_ca,
        fragment=fragment,
        run_dir=run_dir,
        tls_in_front=tuple(tls_in_front or ()),
    )


_COLUMNS = (
    Column("HOST", identifier=True),
    Column("NODE", identifier=True),
    Column("GATEWAY"),
    Column("ALIVE"),
    Column("ROLE", drop=1),
)


@command()
def list_(invocation: Invocation, stale: StaleOption = False) -> None:
    """List the members as reverse proxies see them, and the shared host names."""
    document = _fetch(invocation, stale=stale)
    if invocation.mode != "table":
        output.structured(document, invocation.mode)
        return
    rows = [
        (
            text_of(row["host"]),
            str(row["name"]),
            str(row["address"] or "no gateway"),
            text_of(row["alive"]),
            str(row["role"]),
        )
        for row in document["backends"]
    ]
    rows += [(host, "any", "-", "-", "-") for host in document["shared_hosts"]]
    output.table(_COLUMNS, rows)


@command()
def which(
    invocation: Invocation,
    key: Annotated[str, Argument(metavar="KEY", help="Any text: a session, a user, a link.")],
    stale: StaleOption = False,
) -> None:
    """Print the node of a key: rendezvous hashing (highest random weight) over the live members."""
    from cyoloctl.routing.hrw import order

    document = _fetch(invocation, stale=stale)
    backends = document["backends"]
    found = order(key, [row["name"] for row in backends if row["alive"]])
    if not found:
        raise Unavailable("no member is alive: try again")
    answer = {"schema_version": 1, "key": key, "node": found[0], "order": found}
    invocation.value({**answer, **({"stale": True} if stale else {})}, found[0])


@command()
def resolve(invocation: Invocation, host: HostArgument, stale: StaleOption = False) -> None:
    """Print the node that a host name goes to, then those that take over, in order."""
    host = host.lower().removesuffix(".")
    document = _fetch(invocation, stale=stale)
    rows = {row["name"]: row for row in document["backends"]}
    # Proxies know the members with a gateway only, so only those take over; where none has one, all do.
    gateways = any(row["address"] for row in rows.values())
    order = _table(document, every=True).resolve(host)
    found = [b for b in order if rows[b.name]["address"] or not gateways or b.host == host]
    if not found:
        raise Unavailable(f"no live member serves {host}: try again")
    nodes = [{"name": b.name, "address": rows[b.name]["address"], "alive": b.alive} for b in found]
    answer = {"schema_version": 1, "host": host, "node": found[0].name, "order": nodes}
    invocation.value(answer, "\n".join(b.name for b in found))


def _share(invocation: Invocation, host: str, shared: bool, request_id: str | None) -> None:
    body = {"host": parse_hostname(host), "shared": shared, "request_id": request_id}
    document = invocation.client().call("route_share", body=body)
    invocation.value(document, str(document["host"]))


@command()
def share(invocation: Invocation, host: HostArgument, request_id: RequestIdOption = None) -> None:
    """Let every member serve a host name; browsers stay with one node by a cookie."""
    _share(invocation, host, True, request_id)


@command()
def unshare(invocation: Invocation, host: HostArgument, request_id: RequestIdOption = None) -> None:
    """Stop serving a shared host name."""
    _share(invocation, host, False, request_id)


@command()
def export(
    invocation: Invocation,
    proxy: FormatOption,
    pin: PinOption = "soft",
    listen: ListenOption = "",
    tls_certificate: CertificateOption = None,
    backend_tls_ca: BackendCaOption = None,
    fragment: FragmentOption = False,
    run_dir: RunDirOption = None,
    tls_in_front: InFrontOption = None,
) -> None:
    """Print a complete configuration for nginx 1.22 or haproxy 2.6."""
    options = _options(proxy, pin, listen, tls_certificate, backend_tls_ca, fragment, run_dir, tls_in_front)
    text = _render(proxy, _table(_fetch(invocation)), options)
    invocation.value({"schema_version": 1, "format": proxy, "text": text}, text.rstrip("\n"))


@command()
def watch(
    invocation: Invocation,
    proxy: FormatOption,
    out: Annotated[Path, Option("--out", metavar="FILE", help="File that the proxy reads.")],
    exec_: Annotated[
        str | None,
        Option(
            "--exec",
            metavar="COMMAND",
            help="Command to run after the file changed, such as 'nginx -s reload'; no shell.",
        ),
    ] = None,
    check: Annotated[
        str | None,
        Option(
            "--check",
            metavar="COMMAND",
            help="Command that accepts or refuses a new file, {}. [default: nginx -t, haproxy -c]",
        ),
    ] = None,
    interval: Annotated[
        str,
        Option("--interval", metavar="DURATION", help="Interval between two looks, 1s to 1h."),
    ] = "2s",
    once: Annotated[bool, Option("--once", help="Write the file if needed, and return.")] = False,
    pin: PinOption = "soft",
    listen: ListenOption = "",
    tls_certificate: CertificateOption = None,
    backend_tls_ca: BackendCaOption = None,
    fragment: FragmentOption = False,
    run_dir: RunDirOption = None,
    tls_in_front: InFrontOption = None,
) -> None:
    """Write the configuration again whenever members or hosts change, until interrupted.

    A file that the proxy refuses is never put in place. Without a reachable node the file stays as it is.
    SIGTERM ends it with 0, as a service; Ctrl-C with 130.
    """
    options = _options(proxy, pin, listen, tls_certificate, backend_tls_ca, fragment, run_dir, tls_in_front)
    whole = replace(options, fragment=False) if fragment else None
    pause_s = parse_duration_s(interval, "--interval", minimum_s=1, maximum_s=3600)
    words = parse_command(check, "--check") if check is not None else _CHECKS.get(proxy, "").split()
    reload_ = parse_command(exec_, "--exec") if exec_ is not None else []
    publisher = _Publisher(proxy, out, words, reload_, options, whole)
    if once:
        changed = publisher.publish(_table(_fetch(invocation)))
        if invocation.mode != "table":
            output.structured(_written(out, changed), invocation.mode)
        return
    until_terminated(lambda: _follow(invocation, publisher, pause_s))


def _written(out: Path, changed: bool) -> Json:
    return {"schema_version": 1, "file": str(out), "changed": changed}


def _follow(invocation: Invocation, publisher: _Publisher, pause_s: float) -> NoReturn:
    """Publish the table whenever it changed, until a signal ends the command."""
    seen: Json | None = None
    complaint = ""
    while True:
        try:
            document = _fetch(invocation)
            # Two looks must agree: a member that flickers must not reload the proxy at each blink.
            settled = {key: document[key] for key in ("backends", "shared_hosts")}
            if settled == seen or seen is None:
                changed = publisher.publish(_table(document))
                if changed and invocation.mode != "table":
                    output.structured(_written(publisher.out, changed), invocation.mode, stream=True)
            seen, complaint = settled, ""
        except CyoloctlError as error:
            if error.message != complaint:  # once, not every two seconds
                output.note(f"the file stays as it is: {error.message}")
                complaint = error.message
        time.sleep(pause_s)


class _Publisher:
    """Puts a table's configuration in place and tells the proxy."""

    def __init__(
        self,
        proxy: str,
        out: Path,
        check: list[str],
        reload_: list[str],
        options: ExportOptions,
        whole: ExportOptions | None,
    ) -> None:
        self._proxy, self.out, self._check, self._reload = proxy, out, check, reload_
        self._options, self._whole = options, whole
        self._reload_due = False

    def publish(self, table: RoutingTable) -> bool:
        """Write the file and reload the proxy; whether it has changed.

        Raises ConfigError when either fails; it is tried again.
        """
        from cyoloctl.routing.publish import publish

        text = _render(self._proxy, table, self._options)
        checked = None if self._whole is None else _render(self._proxy, table, self._whole)
        done = publish(text, self.out, validate=self._check, validated_text=checked)
        if done.outcome == "refused":
            raise ConfigError(f"the proxy refuses the new file, the old one stays: {done.output}")
        if done.outcome == "changed":
            output.note(f"{self.out} is written")
            self._reload_due = True
        if self._reload_due and self._reload:
            try:
                subprocess.run(
                    self._reload,
                    check=True,
                    timeout=_EXEC_LIMIT_S,
                    stdin=subprocess.DEVNULL,
                    env=child_environment(os.environ),
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise ConfigError(f"{self._reload[0]} failed: {error}; it is tried again") from None
        self._reload_due = False
        return done.outcome == "changed"


COMMANDS: dict[str, Leaf] = {
    "list": list_,
    "which": which,
    "resolve": resolve,
    "share": share,
    "unshare": unshare,
    "export": export,
    "watch": watch,
}
