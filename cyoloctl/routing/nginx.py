"""Routing as a configuration for nginx.  Every directive was tried on nginx 1.22.1 of Debian 12."""

from __future__ import annotations

from cyoloctl.routing.table import NODE_COOKIE, ExportOptions, RoutingTable, header

__all__ = ["export_nginx"]


def export_nginx(table: RoutingTable, options: ExportOptions) -> str:
    """The configuration for nginx 1.22 or later; the same table and options give the same bytes.

    A whole nginx.conf, or with options.fragment a file for conf.d, at http
    level; that one needs its listen address for itself, since it answers 421
    for every host that it does not know.

    nginx has no active checks without a subscription.  It notices a failure by
    a request that failed, then leaves the node alone for response_timeout_s.
    Each pin has one next node: the first of RoutingTable.resolve.  The table
    decides which nodes that can be: export again when a node goes or comes.

    Nor does it have sticky sessions: the cookie is set here, from the response
    header ``cyolo-node: NAME`` by which a gateway says who answered.  (The
    address would not do: of a gateway that is given by a host name, nginx
    tells the IP address.)

    Raises Conflict where no member has a gateway.
    """
    check, start = "nginx -t -c FILE", "nginx -c FILE; after a change: nginx -s reload -c FILE"
    if options.fragment:
        check, start = "nginx -t", "nginx -s reload, with this file in /etc/nginx/conf.d/"
    elif options.run_dir:
        check, start = "nginx -e stderr -t -c FILE", "nginx -e stderr -c FILE"
    top = header(table, options, proxy="nginx", check=check, start=start)
    http = "\n\n".join([_maps(table, options), _upstreams(table, options), _server(options)])
    if options.fragment:
        return f"{top}\n\n{http}\n"
    return f"{top}\n\n{_main(options)}\n\nhttp {{\n{_http(options)}\n\n{_indent(http)}\n}}\n"


def _main(options: ExportOptions) -> str:
    events = "\n\nevents {\n    worker_connections 4096;\n}"
    if options.run_dir:
        return (
            "worker_processes auto;\n"
            f"pid {options.run_dir}/nginx.pid;\n"
            f"error_log {options.run_dir}/error.log;{events}"
        )
    return (
        "user www-data;\nworker_processes auto;\npid /run/nginx.pid;\n"
        f"error_log /var/log/nginx/error.log;{events}"
    )


def _http(options: ExportOptions) -> str:
    if not options.run_dir:
        return "    server_tokens off;"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "\n".join(
        ["    server_tokens off;", *(f"    {kind}_temp_path {options.run_dir}/{kind};" for kind in kinds)]
    )


def _maps(table: RoutingTable, options: ExportOptions) -> str:
    """Regular expressions where plain keys would do: those are not bound by nginx's hash bucket sizes,
    which a long host name exceeds and which a fragment could not raise."""
    pins = [(b.host, b.name) for b in table.backends if b.host]
    attributes = "Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if options.secure else "")
    lines = [
        "# Which host belongs to which node.  The header that is forwarded decides, with or without a",
        "# port and the dot that ends a whole name.",
        "map $http_host $cyolo_route {",
        '    default "";',
        *(f'    "~*^{_quoted(host)}\\.?(:[0-9]+)?$" cyolo-pin-{name};' for host, name in pins),
        *(f'    "~*^{_quoted(host)}\\.?(:[0-9]+)?$" $cyolo_sticky;' for host in table.shared_hosts),
        "}",
        "",
        "# A shared host: the node that the browser's cookie names, or any.",
        "map $http_cookie $cyolo_sticky {",
        "    default cyolo-any;",
        *(f'    "~(^|; *){NODE_COOKIE}={b.name}(;|$)" cyolo-stick-{b.name};' for b in table.backends),
        "}",
        "",
        "# The cookie follows whoever answered; one that is right already is not set again.  Where the node",
        "# itself sets it, for a link that names another one, that is it.",
        f'map "$cyolo_route $upstream_http_{NODE_COOKIE.replace("-", "_")} $upstream_http_set_cookie" '
        "$cyolo_set_cookie {",
        '    default "";',
        rf'    "~^\S* \S* (.*[,;] ?)?{NODE_COOKIE}=" "";',
        r'    "~^cyolo-stick-(\S+) \1 " "";',
        *(
            rf'    "~^cyolo-(any|stick-\S+) {b.name} " "{NODE_COOKIE}={b.name}; {attributes}";'
            for b in table.backends
        ),
        "}",
        "",
        "# Bytes sent to each node that was tried: all 0 (or none tried) when no node received anything.",
        "map $upstream_bytes_sent $cyolo_undelivered {",
        '    default "";',
        '    "~^[-0, :]*$" 1;',
        "}",
        "",
        *_in_front(options),
        "# Without the query, which may hold a code that is valid for a few minutes.",
        "log_format cyolo '$remote_addr [$time_iso8601] $request_method $host $uri $status '",
        "                 '$upstream_addr $upstream_status $request_time';",
    ]
    return "\n".join(lines)


def _in_front(options: ExportOptions) -> list[str]:
    """The proxies whose word counts about scheme and address of a browser."""
    if not options.tls_in_front:
        return []
    return [
        "# What ends TLS in front of this proxy, and is believed about the browser.",
        "geo $cyolo_in_front {",
        "    default 0;",
        *(f"    {network} 1;" for network in options.tls_in_front),
        "}",
        'map "$cyolo_in_front $http_x_forwarded_proto" $cyolo_scheme {',
        "    default $scheme;",
        '    "~*^1 https$" https;',
        "}",
        "map $cyolo_in_front $cyolo_forwarded_for {",
        "    default $remote_addr;",
        "    1 $proxy_add_x_forwarded_for;",
        "}",
        "",
    ]


def _upstreams(table: RoutingTable, options: ExportOptions) -> str:
    # A failed node is left alone for fail_timeout; one failure is enough.  The next node is never given up
    # (max_fails=0): when both fail, trying is better than refusing.
    first = f"max_fails=1 fail_timeout={options.response_timeout_s}s"
    any_of = "\n".join(f"    server {b.address} {first};" for b in table.backends)
    blocks = [
        "# Workers share what they know about failed nodes (zone).\n"
        f"upstream cyolo-any {{\n    zone cyolo-any 256k;\n{any_of}\n}}"
    ]
    for own in table.backends:
        others = table.others(own)
        # One only: nginx would alternate between several backups, and a rendezvous in two places is slow.
        following = next((b for b in others if b.alive), others[0] if others else None)
        backup = (
            f"    server {following.address} backup max_fails=0;  # {following.name}\n" if following else ""
        )
        server = f"    server {own.address} {first};  # {own.name}\n"
        for kind, lines in (
            ("stick", server + backup),
            *([("pin", server + (backup if options.pin == "soft" else ""))] if own.host else []),
        ):
            upstream = f"cyolo-{kind}-{own.name}"
            blocks.append(f"upstream {upstream} {{\n    zone {upstream} 64k;\n{lines}}}")
    return "\n\n".join(blocks)


_ERROR_PAGES = """\
    # nginx says 494 to itself when a header has more than 8 kB.
    error_page 494 = @too_long;
    location @too_long {
        return 431 "too many cookies: delete those of this site and of its parent domains, then try again\\n";
    }
    error_page 502 = @failed;
    error_page 504 = @timeout;
    location @failed {
        if ($cyolo_undelivered) {
            return 503;
        }
        return 502;
    }
    location @timeout {
        if ($cyolo_undelivered) {
            return 503;
        }
        return 504;
    }
"""


def _tls(options: ExportOptions) -> tuple[str, str]:
    """The lines for TLS to browsers, and those for TLS to nodes."""
    listen_tls = backend_tls = ""
    if options.tls_certificate:
        # HTTP/1.1 only: with HTTP/2, nginx 1.22 leaves $http_host empty.
        listen_tls = f"""
    ssl_certificate {options.tls_certificate};
    ssl_certificate_key {options.tls_certificate};
    ssl_protocols TLSv1.2 TLSv1.3;"""
    if options.backend_tls_ca:
        backend_tls = f"""

        # Every node may answer for every host, so its certificate must be valid for the one asked for.
        proxy_ssl_verify on;
        proxy_ssl_verify_depth 3;
        proxy_ssl_trusted_certificate {options.backend_tls_ca};
        proxy_ssl_name $host;
        proxy_ssl_server_name on;
        proxy_ssl_protocols TLSv1.2 TLSv1.3;
        proxy_ssl_session_reuse off;"""
    return listen_tls, backend_tls


def _server(options: ExportOptions) -> str:
    listen_tls, backend_tls = _tls(options)
    timeout_s = options.response_timeout_s
    access_log = f"{options.run_dir}/access.log" if options.run_dir else "/var/log/nginx/access.log"
    return f"""\
server {{
    listen {options.listen}{" ssl" if options.tls_certificate else ""} default_server;{listen_tls}
    access_log {access_log} cyolo;
    default_type text/plain;

    client_header_timeout 10s;
    client_body_timeout 10s;
    send_timeout 10s;

    if ($cyolo_route = "") {{
        return 421 "no node here has this host name\\n";
    }}

    # For monitoring, which asks the nodes themselves.
    location = /metrics {{
        return 403;
    }}

    location / {{
        proxy_pass {"https" if options.backend_tls_ca else "http"}://$cyolo_route;
        proxy_http_version 1.1;

        # What a client says about itself is replaced, not believed.
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For {"$cyolo_forwarded_for" if options.tls_in_front else "$remote_addr"};
        proxy_set_header X-Forwarded-Proto {"$cyolo_scheme" if options.tls_in_front else "$scheme"};
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header Forwarded "";

        # A session cookie alone may have 4 kB.  A head that is larger than this buffer would be a failure of
        # the node, which then serves nobody for a while.
        proxy_buffer_size 16k;
        proxy_buffers 8 16k;
        proxy_busy_buffers_size 32k;

        # The next node gets what did not reach this one.  Without "non_idempotent" a POST that was sent goes
        # to nobody else, whatever became of it; a GET does, also when the node is not ready (503).
        proxy_next_upstream error timeout http_503;
        proxy_next_upstream_timeout {2 * timeout_s}s;
        proxy_connect_timeout 1s;
        proxy_send_timeout {timeout_s}s;
        proxy_read_timeout {timeout_s}s;{backend_tls}

        add_header Set-Cookie $cyolo_set_cookie always;
    }}

{_ERROR_PAGES}}}"""


def _quoted(host: str) -> str:
    return host.replace(".", r"\.")


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" if line else line for line in text.splitlines())
