"""Routing as a configuration for haproxy.  Every directive was tried on haproxy 2.6.12 of Debian 12."""

from __future__ import annotations

from cyoloctl.routing.table import NODE_COOKIE, Backend, ExportOptions, RoutingTable, header

__all__ = ["export_haproxy"]


def export_haproxy(table: RoutingTable, options: ExportOptions) -> str:
    """The configuration for haproxy 2.6 or later; the same table and options give the same bytes.

    A whole haproxy.cfg, or with options.fragment the same without ``global``,
    to be loaded beside another file (``haproxy -f ONE -f OTHER``).

    haproxy asks each node's ``GET /readyz`` every second and leaves out those
    that do not answer 2xx or 3xx within a second.  Each pin has all the other
    nodes behind it, in the order of RoutingTable.others; the first that is up
    answers.  Liveness in the table changes nothing here.

    Raises Conflict where no member has a gateway.
    """
    load = "-f /etc/haproxy/haproxy.cfg -f FILE" if options.fragment else "-f FILE"
    top = header(
        table, options, proxy="haproxy", check=f"haproxy -c {load}", start=f"haproxy {load}, or as a service"
    )
    sections = [top, _defaults(options), _frontend(table, options), _shared(table, options)]
    if not options.fragment:
        sections.insert(1, _global(options))
    sections += [_pin(own, table, options) for own in table.backends if own.host]
    sections.append(
        "backend cyolo-unknown from cyolo\n"
        "    http-request return status 421 content-type text/plain "
        'string "no node here has this host name\\n"'
    )
    return "\n\n".join(sections) + "\n"


def _global(options: ExportOptions) -> str:
    if options.run_dir:
        return "global\n    log stdout format raw local0"
    return "global\n    log /dev/log local0\n    user haproxy\n    group haproxy\n    chroot /var/lib/haproxy"


def _defaults(options: ExportOptions) -> str:
    return f"""\
defaults cyolo
    mode http
    log global
    # Without the query, which may hold a code that is valid for a few minutes.
    log-format "%ci:%cp [%tr] %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %tsc %rc %HM %HPO"
    timeout connect 1s
    timeout client 10s
    timeout http-request 10s
    timeout queue 1s
    timeout server {options.response_timeout_s}s
    # One request for each connection.  On a connection that was used before, haproxy answers a failure of the
    # node by closing it without a word, and browsers then send again, even a POST.
    option httpclose
    # Each attempt goes to another node than the one before.
    retries 2
    option redispatch 1
    # Any method after a connection that failed: nothing was sent.  The rest only for GET and HEAD (frontend).
    retry-on conn-failure empty-response response-timeout 503"""


def _frontend(table: RoutingTable, options: ExportOptions) -> str:
    tls = f" ssl crt {options.tls_certificate} ssl-min-ver TLSv1.2" if options.tls_certificate else ""
    routes = [(b.host, f"cyolo-pin-{b.name}") for b in table.backends if b.host]
    routes += [(host, "cyolo-any") for host in table.shared_hosts]
    return "\n".join(
        [
            "frontend cyolo from cyolo",
            f"    bind {options.listen}{tls}",
            "    # What a client says about itself is replaced, not believed.",
            *_forwarded(options),
            "    http-request set-header X-Forwarded-Host %[req.hdr(host)]",
            "    http-request del-header Forwarded",
            "    # For this connection only; haproxy itself takes out only what Connection names.",
            *(f"    http-request del-header {name}" for name in ("Keep-Alive", "TE", "Upgrade")),
            "    # Whatever became of it, a POST that was sent goes to nobody else.",
            "    http-request disable-l7-retry unless METH_GET",
            "    # For monitoring, which asks the nodes themselves.",
            "    http-request deny deny_status 403 if { path /metrics }",
            "    # Which host belongs to which node.",
            "    http-request set-var(txn.cyolo_host) req.hdr(host),host_only,lower,regsub([.]$,)",
            *(f"    use_backend {name} if {{ var(txn.cyolo_host) -m str {host} }}" for host, name in routes),
            "    default_backend cyolo-unknown",
        ]
    )


def _forwarded(options: ExportOptions) -> list[str]:
    scheme = "https" if options.tls_certificate else "http"
    if not options.tls_in_front:
        return [
            "    http-request set-header X-Forwarded-For %[src]",
            f"    http-request set-header X-Forwarded-Proto {scheme}",
        ]
    return [
        "    # Whatever ends TLS in front of this proxy is believed about the browser.",
        f"    acl cyolo_in_front src {' '.join(options.tls_in_front)}",
        f"    http-request set-var(txn.cyolo_scheme) str({scheme})",
        "    http-request set-var(txn.cyolo_scheme) str(https) if cyolo_in_front "
        "{ req.hdr(X-Forwarded-Proto) -m str -i https }",
        "    http-request set-header X-Forwarded-Proto %[var(txn.cyolo_scheme)]",
        "    http-request set-header X-Forwarded-For %[src] unless cyolo_in_front",
        "    http-request add-header X-Forwarded-For %[src] if cyolo_in_front",
    ]


def _shared(table: RoutingTable, options: ExportOptions) -> str:
    """Every node, with its checks; the pins' backends follow what is found here."""
    hosts = [*table.shared_hosts, *(b.host for b in table.backends if b.host)]
    secure = " secure" if options.secure else ""
    check = "check inter 1s fastinter 500ms fall 2 rise 2"
    if options.backend_tls_ca and hosts:
        check += f" check-sni {hosts[0]}"
    return "\n".join(
        [
            "# The shared hosts: any node, then the same one, by cookie.  A node may set it too (preserve),",
            "# for a link that names another one.",
            "backend cyolo-any from cyolo",
            "    balance roundrobin",
            f'    cookie {NODE_COOKIE} insert preserve httponly{secure} attr "SameSite=Lax"',
            "    option httpchk",
            "    http-check send meth GET uri /readyz ver HTTP/1.1"
            + (f" hdr Host {hosts[0]}" if hosts else ""),
            *(
                f"    server {b.name} {b.address} cookie {b.name} {check}{_tls(options)}"
                for b in table.backends
            ),
        ]
    )


def _pin(own: Backend, table: RoutingTable, options: ExportOptions) -> str:
    lines = [f"# {own.host}", f"backend cyolo-pin-{own.name} from cyolo"]
    if options.pin == "soft":
        # Not "backup": a request that meets a failure before the checks do would find the same node again.
        lines.append("    balance first")
        servers = [own, *table.others(own)]
    else:
        lines.append("    retries 0")
        servers = [own]
    lines += [f"    server {b.name} {b.address} track cyolo-any/{b.name}{_tls(options)}" for b in servers]
    return "\n".join(lines)


def _tls(options: ExportOptions) -> str:
    # Every node may answer for every host, so its certificate must be valid for the one asked for.
    if options.backend_tls_ca is None:
        return ""
    return f" ssl verify required ca-file {options.backend_tls_ca} sni var(txn.cyolo_host)"
