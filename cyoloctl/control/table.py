"""The table of the HTTP/JSON API v1: the routes of all subjects, and which route a path means.

The one place where a subject joins the API: its type among the bases of `Node`,
its routes in `_subjects`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cyoloctl.web.encoding import clean_text
from cyoloctl.web.schema import Route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cyoloctl.audit.api import HasAudit
    from cyoloctl.authorities.api import HasAuthorities
    from cyoloctl.control.api import NodeApi
    from cyoloctl.counters.api import HasCounters
    from cyoloctl.credentials.api import HasCredentials
    from cyoloctl.keys.api import HasKeys
    from cyoloctl.kv.api import HasKv
    from cyoloctl.locks.api import HasLocks
    from cyoloctl.machines.api import HasMachines
    from cyoloctl.members.api import HasMembers
    from cyoloctl.metrics.api import HasMetrics
    from cyoloctl.rendezvous.api import HasRendezvous
    from cyoloctl.routing.api import HasRouting
    from cyoloctl.snapshots.api import HasSnapshots
    from cyoloctl.tokens.api import HasTokens

    class Node(
        NodeApi,
        HasCounters,
        HasLocks,
        HasKv,
        HasMachines,
        HasMembers,
        HasTokens,
        HasKeys,
        HasRendezvous,
        HasCredentials,
        HasRouting,
        HasAuthorities,
        HasSnapshots,
        HasMetrics,
        HasAudit,
        Protocol,
    ):
        """The node, as the API sees it.

        Answers are JSON objects of their route's type; `schema_version` is added
        where it is missing.  Arguments are validated.  Errors are errors.py's;
        anything else counts as a bug and is answered with `internal`.
        timeout_s (seconds) bounds each call; the server cuts in one second later.
        """


__all__ = ["Node", "allowed_methods", "match", "path_for", "routes", "shown_path"]


def _subjects() -> Iterator[tuple[Route[Node], ...]]:
    """The routes of each subject in turn: a command imports only as far as its own."""
    from cyoloctl.counters import api as counters

    yield counters.ROUTES
    from cyoloctl.kv import api as kv

    yield kv.ROUTES
    from cyoloctl.locks import api as locks

    yield locks.ROUTES
    from cyoloctl.machines import api as machines

    yield machines.ROUTES
    from cyoloctl.tokens import api as tokens

    yield tokens.ROUTES
    from cyoloctl.members import api as members

    yield members.ROUTES
    from cyoloctl.control import api as control

    yield control.ROUTES
    from cyoloctl.control import batch

    yield batch.ROUTES
    from cyoloctl.keys import api as keys

    yield keys.ROUTES
    from cyoloctl.rendezvous import api as rendezvous

    yield rendezvous.ROUTES
    from cyoloctl.credentials import api as credentials

    yield credentials.ROUTES
    from cyoloctl.routing import api as routing

    yield routing.ROUTES
    from cyoloctl.authorities import api as authorities

    yield authorities.ROUTES
    from cyoloctl.snapshots import api as snapshots

    yield snapshots.ROUTES
    from cyoloctl.metrics import api as metrics

    yield metrics.ROUTES
    from cyoloctl.audit import api as audit

    yield audit.ROUTES


_all: list[Route[Node]] = []
# Templates have one of three shapes, so a lookup is one or two dictionary accesses:
# /v1/X[/Y] and /metrics exact, /v1/X/{name}, /v1/X/{name}/Y.
_exact: dict[tuple[str, str], Route[Node]] = {}
_named: dict[tuple[str, str, str], Route[Node]] = {}
# The paths without a name.
_fixed: set[str] = set()
# What paths begin with whose next part is a secret.
_secret: set[str] = set()


def routes() -> list[Route[Node]]:
    """Every route."""
    if not _all:
        for group in _subjects():
            _all.extend(group)
        for route in _all:
            parts = route.template.split("/")
            if route.has_name:
                if route.secret_name:
                    _secret.add(route.template.partition("{name}")[0])
                _named[(route.method, parts[2], parts[4] if len(parts) == 5 else "")] = route
            else:
                _exact[(route.method, route.template)] = route
                _fixed.add(route.template)
    return _all


def match(method: str, path: str) -> tuple[Route[Node], str] | None:
    """The route of a raw path and the name in it ("" for none), or None.

    The name is as in the path, and not checked: see `Route.check_name`.
    """
    if not _all:
        routes()
    route = _exact.get((method, path))
    if route is not None:
        return route, ""
    parts = path.split("/", 5)
    count = len(parts)
    if parts[0] or count < 4 or count > 5 or parts[1] != "v1":
        return None
    if count == 5 and not parts[4]:
        return None  # /v1/counters/x/ is not /v1/counters/x
    route = _named.get((method, parts[2], parts[4] if count == 5 else ""))
    # A path with operations of its own is not about a name that nobody has, such as rendezvous/start.
    if route is None or (path in _fixed and not route.takes_name(parts[3])):
        return None
    return route, parts[3]


def shown_path(raw_path: str) -> str:
    """A path as logs may hold it: without its query, and without the id or code of a rendezvous."""
    path = raw_path.partition("?")[0]
    routes()
    for beginning in _secret:
        if path.startswith(beginning):
            found = match("POST", path)
            if found is None or found[0].has_name:
                path = f"{beginning}(hidden)"
    return clean_text(path, 200)


def allowed_methods(path: str) -> list[str]:
    """The methods of a path, empty when there is no such path."""
    return [method for method in ("GET", "POST") if match(method, path) is not None]


def path_for(operation: str, name: str = "") -> tuple[Route[Node], str]:
    """The route of an operation and its path for a name.

    Raises InvalidInput for a bad name, KeyError for an operation that is not there.
    """
    for group in _subjects():
        for route in group:
            if route.operation == operation:
                if not route.has_name:
                    return route, route.template
                return route, route.template.replace("{name}", route.check_name(name))
    raise KeyError(operation)
