"""Which node answers for which key and host name, and how reverse proxies learn it.

Pure but for publish(), which puts an exported file in its place.
"""

from __future__ import annotations

from cyoloctl.routing._haproxy import export_haproxy
from cyoloctl.routing._hashing import order, which
from cyoloctl.routing._nginx import export_nginx
from cyoloctl.routing._publish import Published, publish
from cyoloctl.routing._table import NODE_COOKIE, Backend, ExportOptions, Pin, RoutingTable

__all__ = [
    "NODE_COOKIE",
    "Backend",
    "ExportOptions",
    "Pin",
    "Published",
    "RoutingTable",
    "export_haproxy",
    "export_nginx",
    "order",
    "publish",
    "which",
]
