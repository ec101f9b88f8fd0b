"""The clients of the API: `Client` blocks, `AsyncClient` belongs to an event loop; both take the same steps.

`Client` needs the standard library only, and every command imports this module,
so it imports little: no ssl, asyncio, pathlib or dataclasses.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cyoloctl.control import blocking
from cyoloctl.control.calls import Calls, check_timeout, new_request_id
from cyoloctl.control.endpoints import parse_endpoint
from cyoloctl.errors import InvalidInput, UsageError
from cyoloctl.web.steps import Blocking, Group, InLoop, consistency, operation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from cyoloctl.audit.client import Audit
    from cyoloctl.control.api import Health
    from cyoloctl.control.endpoints import Endpoint
    from cyoloctl.counters.client import Counters
    from cyoloctl.kv.client import Kv
    from cyoloctl.locks.client import Locks
    from cyoloctl.machines.client import Machines
    from cyoloctl.members.api import Status
    from cyoloctl.rendezvous.client import RendezvousGroup
    from cyoloctl.tokens.client import Tokens
    from cyoloctl.web.steps import Runner, Steps

__all__ = ["AsyncClient", "Client", "join_cluster", "new_request_id"]

M = TypeVar("M")


class _Operations(Group[M], Generic[M]):
    """What both clients offer."""

    _caller: Calls

    def __init__(
        self,
        endpoints: Sequence[str] | None,
        runner: Runner,
        *,
        data_dir: str | os.PathLike[str] | None,
        credentials: str | os.PathLike[str] | None,
        timeout_s: float,
        retry: bool,
        on_write: Callable[[str], None] | None,
    ) -> None:
        check_timeout(timeout_s)
        found = _endpoints(endpoints, data_dir, credentials)
        super().__init__(Calls(found, timeout_s, again=retry, on_write=on_write), runner)

    def within(self, timeout_s: float) -> Self:
        """A client of the same endpoints with another timeout, 0.1 to 300 seconds.  Raises UsageError."""
        other = object.__new__(type(self))
        Group.__init__(other, self._caller.within(timeout_s), self._runner)
        return other

    @property
    def caller(self) -> Calls:
        """What asks, for steps of the caller's own."""
        return self._caller

    @property
    def counters(self) -> Counters[M]:
        """Counters."""
        from cyoloctl.counters.client import Counters

        return Counters(self._caller, self._runner)

    @property
    def kv(self) -> Kv[M]:
        """Keys and values."""
        from cyoloctl.kv.client import Kv

        return Kv(self._caller, self._runner)

    @property
    def locks(self) -> Locks[M]:
        """Locks."""
        from cyoloctl.locks.client import Locks

        return Locks(self._caller, self._runner)

    @property
    def audit(self) -> Audit[M]:
        """The audit log."""
        from cyoloctl.audit.client import Audit

        return Audit(self._caller, self._runner)

    @property
    def machines(self) -> Machines[M]:
        """State machines of your own."""
        from cyoloctl.machines.client import Machines

        return Machines(self._caller, self._runner)

    @property
    def tokens(self) -> Tokens[M]:
        """Session tokens."""
        from cyoloctl.tokens.client import Tokens

        return Tokens(self._caller, self._runner)

    @property
    def rendezvous(self) -> RendezvousGroup[M]:
        """Rendezvous: what somebody else approves."""
        from cyoloctl.rendezvous.client import RendezvousGroup

        return RendezvousGroup(self._caller, self._runner)

    @operation
    def call(
        self,
        operation: str,
        name: str = "",
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        *,
        repeatable: bool = False,
    ) -> Steps[dict[str, Any]]:
        """Any operation of the API (key_list, member_promote...), with the fields of its body and query.

        An operation that takes a request id gets a fresh one where the body
        has none.  repeatable: sending it twice does no harm.
        """
        return self._caller.call(operation, name, body, query, repeatable=repeatable)

    @operation
    def batch(
        self,
        operations: Sequence[Mapping[str, Any]],
        *,
        request_id: str | None = None,
        stop_on_error: bool = False,
    ) -> Steps[list[dict[str, Any]]]:
        """The results of operations, carried out in order; many of them travel in one request.

        operations: ``{"id": ..., "op": "counter_increment", "name": ...}`` and so on: an id of your own, the
        operation of the API, and its arguments.  A result has the id, ``ok``, and the fields of the answer or
        ``error`` (code, message, exit_status); nothing is raised for it.
        request_id: names the run; each write is applied once by that and its id.  None: a fresh one.
        stop_on_error: carry out nothing after the first that fails.

        Fewer results than operations: the last one failed; unless that is why it stopped, it was unavailable
        or its outcome is unknown, and nothing is known of those after it either: send it and them again
        under the same request_id.
        """
        from cyoloctl.control.batch import send_all

        run = new_request_id() if request_id is None else request_id
        return send_all(self._caller, operations, run, stop_on_error=stop_on_error)

    @operation
    def health(self) -> Steps[Health]:
        """The health of the first node that answers."""
        return self._caller.call("health")

    @operation
    def status(self) -> Steps[Status]:
        """The cluster and its members, as the asked node knows them; also while there is no leader."""
        return self._caller.call("status")

    @operation
    def metrics(self) -> Steps[str]:
        """The metrics of the first node that answers, in Prometheus's text format."""
        answer = yield from self._caller.call("metrics")
        text: str = answer["text"]
        return text

    @operation
    def member_list(self, *, stale: bool = False) -> Steps[dict[str, Any]]:
        """Every member; with stale what the asked node has."""
        return self._caller.call("member_list", query=consistency(stale))

    @operation
    def member_show(self, name: str, *, stale: bool = False) -> Steps[dict[str, Any]]:
        """One member.  Raises NotFound."""
        return self._caller.call("member_show", name, query=consistency(stale))

    @operation
    def member_invite(
        self,
        name: str,
        *,
        learner: bool = False,
        witness: bool = False,
        ttl_s: int = 3600,
        request_id: str | None = None,
    ) -> Steps[dict[str, Any]]:
        """A single-use join token, good for ttl_s (60 to 604800) seconds; the same one per request id.

        It takes the place of an older one for this name, which admits nobody from now on.
        """
        body = {"name": name, "learner": learner, "ttl_s": ttl_s, "request_id": request_id}
        if witness:  # left out otherwise: earlier releases take no other field
            body["witness"] = True
        return self._caller.call("member_invite", body=body)

    @operation
    def member_invitations(self, *, stale: bool = False) -> Steps[dict[str, Any]]:
        """Open invitations."""
        return self._caller.call("member_invitations", query=consistency(stale))

    @operation
    def member_uninvite(self, name: str, *, request_id: str | None = None) -> Steps[dict[str, Any]]:
        """Withdraw an invitation.  Raises NotFound, Conflict for a node that has joined."""
        return self._caller.call("member_uninvite", name, {"request_id": request_id})

    @operation
    def member_remove(
        self, name: str, *, force: bool = False, dry_run: bool = False, request_id: str | None = None
    ) -> Steps[dict[str, Any]]:
        """Remove a member, or only say what it would cost.  Raises NotFound, Conflict."""
        body = {"force": force, "dry_run": dry_run, "request_id": request_id}
        return self._caller.call("member_remove", name, body)

    @operation
    def transfer_leadership(
        self, to: str | None = None, *, dry_run: bool = False, request_id: str | None = None
    ) -> Steps[dict[str, Any]]:
        """Hand leadership to a voter, None: to the most advanced one.  Raises NotFound, Conflict."""
        body = {"to": to, "dry_run": dry_run, "request_id": request_id}
        return self._caller.call("transfer_leadership", body=body)

    @operation
    def set_time(self, *, dry_run: bool, request_id: str | None = None) -> Steps[dict[str, Any]]:
        """Set cluster time to what a majority of the members' clocks show.  Raises Conflict."""
        body = {"dry_run": dry_run, "request_id": request_id}
        return self._caller.call("set_time", body=body)

    @operation
    def cluster_upgrade(self, *, dry_run: bool, request_id: str | None = None) -> Steps[dict[str, Any]]:
        """Raise the cluster's level to what every member understands.  Raises VersionMismatch."""
        body = {"dry_run": dry_run, "request_id": request_id}
        return self._caller.call("cluster_upgrade", body=body)

    @operation
    def stop(self, *, force: bool = False) -> Steps[dict[str, Any]]:
        """Stop the node at the first endpoint, and only that one: never another in its stead.

        Raises Conflict when that would end a cluster in memory, unless force.
        """
        return self._caller.call("stop", body={"force": force}, at=0)


class Client(_Operations[Blocking]):
    """A cluster, seen through one or several nodes; methods return when they are done.

    endpoints: ``unix:///PATH``, ``https://HOST:PORT`` or ``https://NAME@HOST:PORT``,
    tried in turn.  With a name exactly that node must answer, without one any
    of the members that the credentials file lists.  None: the socket in data_dir if that is
    given, else what CYOLOCTL_ENDPOINT lists, else the socket in CYOLOCTL_DATA_DIR or the
    default data directory, as the commands find it.
    credentials: the JSON file that an https endpoint needs (mode 0600).  None: CYOLOCTL_CREDENTIALS,
    else operator.yaml in the data directory.
    timeout_s: 0.1 to 300, for each call with all its attempts.
    retry: whether a call is repeated until then while no node answers it, a write under its request
    id only; False: each endpoint is asked once.
    on_write: told the request id of each write, before it is sent.

    Raises UsageError (endpoints, timeout), ConfigError (credentials file, data directory).
    Nothing is sent before the first call, and any number of threads may share a client.  In a ``with``
    block connections are kept between calls, otherwise each call has its own.  Every call raises the
    error that the node answered with, or one of:

    - Unreachable: no endpoint could be reached, nothing was sent;
    - Unavailable (ClientTimeout, NoLeader, Overloaded): not applied, try again;
    - OutcomeUnknown: a write was sent and may or may not have been applied; its `request_id`
      settles that: the same call with it is applied once;
    - AccessDenied: wrong cluster, certificate or role;
    - VersionMismatch: another version, or not a cyoloctl node;
    - InvalidInput: an argument is out of its range; nothing was sent.
    """

    def __init__(
        self,
        endpoints: Sequence[str] | None = None,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        credentials: str | os.PathLike[str] | None = None,
        timeout_s: float = 5.0,
        retry: bool = True,
        on_write: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(
            endpoints,
            blocking.BlockingRunner(),
            data_dir=data_dir,
            credentials=credentials,
            timeout_s=timeout_s,
            retry=retry,
            on_write=on_write,
        )

    def __enter__(self) -> Self:
        self._kept = self._caller.keep_connections()
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()


class AsyncClient(_Operations[InLoop]):
    """As `Client`, in an event loop: methods are awaited, watches are iterated over with ``async for``.

    A call that is cancelled after it was sent may have been applied.
    """

    def __init__(
        self,
        endpoints: Sequence[str] | None = None,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        credentials: str | os.PathLike[str] | None = None,
        timeout_s: float = 5.0,
        retry: bool = True,
        on_write: Callable[[str], None] | None = None,
    ) -> None:
        from cyoloctl.control.looped import LoopRunner

        super().__init__(
            endpoints,
            LoopRunner(),
            data_dir=data_dir,
            credentials=credentials,
            timeout_s=timeout_s,
            retry=retry,
            on_write=on_write,
        )

    async def __aenter__(self) -> Self:
        self._kept = self._caller.keep_connections()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._kept.close()


def _endpoints(
    given: Sequence[str] | None,
    data_dir: str | os.PathLike[str] | None,
    credentials: str | os.PathLike[str] | None,
) -> list[Endpoint]:
    """What is meant by endpoints, a data directory and credentials.  Raises UsageError, ConfigError."""
    from_dir = None if data_dir is None else os.fspath(data_dir)
    file = None if credentials is None else os.fspath(credentials)
    if given is None or (file is None and any(text.startswith("https://") for text in given)):
        from cyoloctl.paths import check_data_dir, find_node

        found = find_node(given or (), from_dir, file, os.environ)
        if found.from_data_dir:
            check_data_dir(found.data_dir)
        given, file = found.endpoints, found.credentials
        from_dir = found.data_dir if found.own_socket else from_dir
    if not given:
        raise UsageError("no endpoint: name a data directory (--data-dir) or an endpoint (--endpoint)")
    trust = None
    if file is not None and any(text.startswith("https://") for text in given):
        from cyoloctl.control.tls_endpoints import read_credentials

        trust = read_credentials(file)
    return [parse_endpoint(text, trust, from_dir) for text in given]


def join_cluster(
    members: Sequence[tuple[str, str]],
    ca_sha256: str,
    cluster_id: str,
    body: Mapping[str, Any],
    timeout_s: float,
) -> dict[str, Any]:
    """Redeem a join token without a certificate of our own: the grant object.

    members: names with HOST:PORT, tried in turn; the node of that name, and no
    other, must answer there.  ca_sha256 and cluster_id come from the token,
    and pin whom we talk to before anything is sent.  No clock of ours decides
    anything.  body: name, public_key, signature, request_pem, sealing_key,
    address, ca_sha256.  timeout_s: 0.1 to 300, overall.  The same body may be sent again
    after any failure.

    Raises what Client raises, and InvitationRejected.
    """
    from cyoloctl.control.tls_endpoints import PinnedEndpoint, PinnedTrust
    from cyoloctl.model import parse_address

    if not members:
        raise InvalidInput("the join token names no member; ask for a new one")
    trust = PinnedTrust(ca_sha256, cluster_id, source="the join token")
    endpoints: list[Endpoint] = []
    for name, address in members:
        where = parse_address(address)
        endpoints.append(PinnedEndpoint(f"https://{name}@{where}", where.host, where.port, trust, name))
    calls = Calls(endpoints, timeout_s)
    granted: dict[str, Any] = blocking.run(calls.call("join", body=body, repeatable=True))
    return granted
