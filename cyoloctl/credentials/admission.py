"""Whose certificate counts: one judge for the peer port, the API and the connections that live.

The CA's signature opens nothing by itself.  A node counts while the members
machine holds its name and key, or an open grant of its request does, an operator, gateway or viewer while the
register holds the key, and both while they are in date by the cluster's time.
Anyone who has stolen a CA key can therefore sign what they like: without a
replicated write, which stands in the register, no node lets them in.

Three cases in which this node's copy of the state is not enough
-----------------------------------------------------------------
*It never had one* (a node that joins, a cluster that begins): until it is up
to date for the first time it believes the CA, which its join token pinned, about
whom its state says nothing.  It has nothing to give away, and nothing by
which it could judge.

*It has just started.*  Its log is on the disk, but how much of it is committed
only a leader can say.  What it knew when it ran last stands in
``pki/members.json`` and decides until it is up to date; callers of the API
wait that long.

*Somebody joined whom it has not applied yet.*  If that one leads, this node
would refuse the very node that could tell it.  So it asks the voters that are
connected and admitted whether they vouch for name and key, and admits the
node for a few seconds at a time while one of them does.  That gives a voter
no power that it does not have anyway: it could pass on every message itself.
As soon as the state here knows the name, it alone decides.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cyoloctl.beat import until_beat
from cyoloctl.credentials.machine import CredentialMachine
from cyoloctl.errors import AccessDenied, CyoloctlError, Unavailable
from cyoloctl.members.granted import Grants
from cyoloctl.members.records import Member
from cyoloctl.paths import write_private
from cyoloctl.pki.tls import Presented, presented
from cyoloctl.text import from_unix_ms, rfc3339_of

__all__ = ["KNOWN_MEMBERS", "Admission", "EngineView"]

_log = logging.getLogger("cyoloctl.node")

KNOWN_MEMBERS = "members.json"
"""The file, in the pki directory, of the members that this node knew when it ran last."""

_SWEEP_S = 1.0
_VOUCHED_S = 10.0
_ASK_AGAIN_S = 0.5
_ASK_TIMEOUT_S = 2.0
_DOUBT_S = 3.0
_MAX_STRANGERS = 64
_MAX_FILE_BYTES = 4 << 20


class Known(NamedTuple):
    """A member as this node knows it: the hash of its key (None: not announced yet), and whether it votes."""

    key_hash: str | None
    voter: bool


class EngineView(Protocol):
    """The engine, as far as the judge needs it."""

    def peers(self) -> Mapping[str, Any]: ...
    async def call(self, name: str, body: bytes, *, timeout_s: float) -> bytes: ...
    async def read_barrier(self, *, timeout_s: float) -> int: ...
    def recheck(self, judge: Callable[[Any], str], /) -> Iterable[tuple[str, str]]: ...
    def disconnect(self, name: str, reason: str = ...) -> None: ...


class Members(Protocol):
    """The members machine, as far as the judge needs it."""

    def get(self, name: str, /) -> Member | None: ...
    def members(self) -> Iterable[Member]: ...
    @property
    def grants(self) -> Grants: ...
    def is_removed(self, name: str, /) -> bool: ...
    def removed(self) -> list[str]: ...


class Admission:
    """Judges certificates for one node.  Every call belongs to the node's loop; none but `run` waits."""

    def __init__(
        self,
        *,
        name: str,
        cluster_id: str,
        members: Members,
        credentials: CredentialMachine,
        engine: EngineView,
        now_ms: Callable[[], int],
        pki_dir: Path,
        is_trusted: Callable[[bytes], bool] = lambda der: True,
    ) -> None:
        """now_ms: the cluster's time.  is_trusted: whether a CA that counts issued a certificate (DER).

        Raises nothing: a damaged members.json counts as none."""
        self._name = name
        self._cluster_id = cluster_id
        self._members = members
        self._credentials = credentials
        self._engine = engine
        self._now_ms = now_ms
        self._is_trusted = is_trusted
        self._path = pki_dir / KNOWN_MEMBERS
        self._remembered, self._remembered_removed = _read_known(self._path)
        self._caught_up = asyncio.Event()
        self._vouched: dict[tuple[str, str], float] = {}  # name, key -> until, on the loop's clock
        self._queried: dict[tuple[str, str], float] = {}
        self._doubted: dict[tuple[str, str], float] = {}  # connected, but not known (now): since when
        self._tasks: set[asyncio.Task[None]] = set()
        self._written: tuple[dict[str, Known], list[str]] | None = None
        self.before_ready: Callable[[], Awaitable[object]] | None = None
        """Awaited once this node is up to date, before any caller is judged; what it raises is logged."""
        self.recheck_callers: Callable[[], None] = lambda: None
        """Called every second: ask `caller` again for every connection, and end those that are refused."""

    # ------------------------------------------------------------- judging

    def peer(self, ssl_object: Any) -> str | None:
        """The name of the node at the other end; None where it is none of this cluster."""
        try:
            return self.authenticate_peer(ssl_object)
        except AccessDenied:
            return None

    def caller(self, ssl_object: Any) -> tuple[str, str] | None:
        """Name and role of a caller of the API; None where the certificate is missing or does not count."""
        try:
            found = self.authenticate_caller(ssl_object)
            return None if found is None else found[:2]
        except (AccessDenied, Unavailable):
            return None

    def is_removed(self, name: str) -> bool:
        """Whether the member of this name was removed, as far as this node knows."""
        return self._members.is_removed(name) or (
            not self._caught_up.is_set() and name in self._remembered_removed
        )

    def authenticate_peer(
        self, ssl_object: Any, *, removed_too: bool = False, connected: bool = False
    ) -> str:
        """As `peer`.  Raises AccessDenied with the certificate, the clock and the remedy.

        removed_too: name a node as well that the state here says was removed,
        for whoever tells it so.  connected: it was admitted before; then
        whoever is not known gets the time that it takes to ask about it, and
        whoever was removed the time to get its last answer.
        """
        shown = self._presented(ssl_object)
        if shown is None:
            raise AccessDenied("a node's certificate of this cluster is needed to speak to its nodes")
        identity, key_hash = shown.identity, shown.key_hash
        name = str(identity.name)
        if identity.role != "node":
            raise AccessDenied(f"the certificate of {identity.role} {name} is not a node's")
        if self.is_removed(name):
            if removed_too and self._members.is_removed(name):
                return name  # the link says so, by the same state
            if connected and self._in_doubt(name, ""):
                return name  # it may still wait for an answer; housekeeping parts with it in a moment
            raise AccessDenied(f"node {name} was removed from the cluster: join again under a new name")
        now_ms = self._now_ms()
        if now_ms >= shown.expires_unix_ms:
            raise AccessDenied(
                f"the certificate of node {name} ended at {_shown(shown.expires_unix_ms)} and the cluster's "
                f"time is {_shown(now_ms)}: on {name}, run `cyoloctl node renew`"
            )
        known = self._known(name)
        if known is None:
            granted = self._members.grants.open(name, now_ms)
            if granted is not None and granted.key_hash == key_hash:
                return name  # it comes in on its grant, and announces itself
            if self._knows_nobody() or self._is_vouched(name, key_hash):
                return name
            self._query_about(name, key_hash)
            if connected and self._in_doubt(name, key_hash):
                return name
            raise AccessDenied(
                f"node {name} (key {key_hash[:16]}) is no member as far as this node knows: its peers are "
                "being asked; if it should be one, let it join (member invite), or, where its grant by file "
                "has expired, grant its request again (member grant)"
            )
        if known.key_hash is not None and known.key_hash != key_hash:
            raise AccessDenied(
                f"the certificate of node {name} is for the key {key_hash[:16]}, and the member has the key "
                f"{known.key_hash[:16]}: somebody else holds a certificate in its name"
            )
        return name

    def authenticate_caller(self, ssl_object: Any) -> tuple[str, str, str] | None:
        """As `caller`, and the key hash.  Raises AccessDenied with the certificate, the clock and the remedy.

        Raises Unavailable while this node is not up to date: it would forget
        what was revoked while it was down; see `wait_caught_up`.
        """
        shown = self._presented(ssl_object)
        if shown is None:
            return None
        identity = shown.identity
        name, role = str(identity.name), identity.role
        if role == "node":
            raise AccessDenied(
                f"the certificate of node {name} is not for the api: use credentials "
                "(`cyoloctl credentials create`)"
            )
        if not self._caught_up.is_set():
            raise Unavailable(
                "this node has not caught up with its cluster since it started, and cannot tell whose "
                "credentials count: try again, or use its control socket"
            )
        entry = self._credentials.find(shown.key_hash)
        if entry is None or entry.name != name:
            raise AccessDenied(
                f"the certificate of {role} {name} (key {shown.key_hash[:16]}) does not count: its key is "
                "not in the register of credentials, or was replaced; ask an operator for new ones "
                "(`cyoloctl credentials create`)"
            )
        if entry.revoked_unix_ms is not None:
            raise AccessDenied(
                f"the credentials {name} were revoked at {_shown(entry.revoked_unix_ms)}: ask an operator "
                "for new ones (`cyoloctl credentials create`)"
            )
        now_ms = self._now_ms()
        end_ms = min(entry.expires_unix_ms, shown.expires_unix_ms)
        if now_ms >= end_ms:
            raise AccessDenied(
                f"the credentials {name} ended at {_shown(end_ms)} and the cluster's time is "
                f"{_shown(now_ms)}: on a node, run `cyoloctl credentials renew {name} --out FILE`"
            )
        return name, entry.role, shown.key_hash

    def _presented(self, ssl_object: Any) -> Presented | None:
        """The presented certificate.  Raises AccessDenied for another cluster's or a dropped CA's."""
        shown = presented(ssl_object, cluster_id=self._cluster_id)
        if shown is not None and not self._is_trusted(ssl_object.getpeercert(True)):
            raise AccessDenied(
                f"the certificate of {shown.identity.role} {shown.identity.name} is of a CA that the cluster "
                "has exchanged: use one of the present CA (`cyoloctl credentials renew` for credentials, "
                "`cyoloctl node renew` for a node)"
            )
        return shown

    def vouches(self, name: str, key_hash: str) -> bool:
        """Whether this node's own state holds a member of this name and key."""
        if not self._caught_up.is_set() or self._members.is_removed(name):
            return False
        member = self._members.get(name)
        granted = self._members.grants.open(name, self._now_ms())
        if member is None and granted is not None:
            return granted.key_hash == key_hash
        return member is not None and _known(member).key_hash in (None, key_hash)

    def _known(self, name: str) -> Known | None:
        if not self._caught_up.is_set() and name in self._remembered:
            return self._remembered[name]
        member = self._members.get(name)
        return None if member is None else _known(member)

    def _knows_nobody(self) -> bool:
        return not (self._caught_up.is_set() or self._remembered or self._remembered_removed)

    # ------------------------------------------------------------- life

    @property
    def is_caught_up(self) -> bool:
        """Whether this process has been up to date with its cluster at least once."""
        return self._caught_up.is_set()

    async def wait_caught_up(self, timeout_s: float) -> bool:
        """Returns when it has been, or after the timeout; whether it has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._caught_up.wait()
        return self._caught_up.is_set()

    async def run(self) -> None:
        """Runs while the node does: catches up once, and judges every live connection each second."""
        catching_up = asyncio.get_running_loop().create_task(self._catch_up())
        try:
            while True:
                try:
                    self.sweep()
                except Exception:
                    # A bug must not end the sweeps: nothing would ever end a connection again.
                    _log.critical("connections could not be judged again", exc_info=True)
                await self._remember()
                await asyncio.sleep(until_beat(time.monotonic(), _SWEEP_S))
        finally:
            for task in (catching_up, *self._tasks):
                task.cancel()

    async def _catch_up(self) -> None:
        while not self._caught_up.is_set():
            try:
                await self._engine.read_barrier(timeout_s=2.0)
                break
            except CyoloctlError as error:
                _log.debug("not up to date yet", extra={"reason": error.message})
                await asyncio.sleep(0.1)
        if self.before_ready is not None:
            try:
                await self.before_ready()
            except CyoloctlError as error:
                _log.warning("not all is ready for callers", extra={"reason": error.message})
        self._caught_up.set()

    def sweep(self) -> None:
        """Judge every live connection again; end those whose certificate no longer counts."""
        loop_now = asyncio.get_running_loop().time()
        for (name, key_hash), until in list(self._vouched.items()):
            if self._known(name) is not None or until <= loop_now:
                del self._vouched[name, key_hash]
            elif until - loop_now < _VOUCHED_S / 2 and name in self._engine.peers():
                self._query_about(name, key_hash)
        for name, reason in self._engine.recheck(self._recheck_peer):
            _log.warning("peer refused", extra={"peer": name, "reason": reason})
            self._engine.disconnect(name, "removed" if self.is_removed(name) else reason)
        self.recheck_callers()

    def _recheck_peer(self, ssl_object: Any) -> str:
        return self.authenticate_peer(ssl_object, connected=True)

    async def _remember(self) -> None:
        """Keep members.json as this node's state is."""
        if not self._caught_up.is_set():
            return
        members = {str(member.name): _known(member) for member in self._members.members()}
        state = members, list(self._members.removed())
        if not members or state == self._written:
            return
        document = {
            "schema_version": 1,
            "members": {
                name: {"key_hash": known.key_hash, "voter": known.voter} for name, known in members.items()
            },
            "removed": state[1],
        }
        text = json.dumps(document, sort_keys=True)
        try:
            await asyncio.get_running_loop().run_in_executor(None, write_private, self._path, text.encode())
        except CyoloctlError as error:
            _log.warning("members are not remembered on the disk", extra={"reason": error.message})
            return
        self._written = state

    # ------------------------------------------------------------- strangers

    def _is_vouched(self, name: str, key_hash: str) -> bool:
        until = self._vouched.get((name, key_hash))
        return until is not None and asyncio.get_running_loop().time() < until

    def _in_doubt(self, name: str, key_hash: str) -> bool:
        now = asyncio.get_running_loop().time()
        for key in [key for key, since in self._doubted.items() if now - since > 2 * _DOUBT_S]:
            del self._doubted[key]
        return now - self._doubted.setdefault((name, key_hash), now) < _DOUBT_S

    def _query_about(self, name: str, key_hash: str) -> None:
        """Ask the admitted voters about a node that the state here does not know."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        queried = self._queried
        if now - queried.get((name, key_hash), float("-inf")) < _ASK_AGAIN_S:
            return
        for key in [key for key, at in queried.items() if now - at > _VOUCHED_S]:
            del queried[key]
        if len(queried) >= _MAX_STRANGERS:
            return
        queried[name, key_hash] = now
        task = loop.create_task(self._query_voters(name, key_hash))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _query_voters(self, name: str, key_hash: str) -> None:
        body = json.dumps(
            {
                "operation": "vouch",
                "arguments": {"name": name, "key_hash": key_hash},
                "timeout_s": _ASK_TIMEOUT_S,
            }
        ).encode()
        voters = [
            peer
            for peer in self._engine.peers()
            if peer != name and (known := self._known(peer)) is not None and known.voter
        ]
        answers: list[Awaitable[bytes]] = [
            self._engine.call(peer, body, timeout_s=_ASK_TIMEOUT_S) for peer in voters
        ]
        for answer in asyncio.as_completed(answers):
            try:
                vouched = json.loads(await answer)["value"]["vouched"] is True
            except (CyoloctlError, ValueError, KeyError, TypeError, RecursionError):
                continue
            if vouched and self._known(name) is None:
                self._vouched[name, key_hash] = asyncio.get_running_loop().time() + _VOUCHED_S
                return


def _known(member: Member) -> Known:
    return Known(member.key_hash, member.role == "voter")


def _shown(unix_ms: int) -> str:
    try:
        return rfc3339_of(from_unix_ms(unix_ms))
    except (ValueError, OverflowError, OSError):
        return f"{unix_ms} ms since 1970"


def _read_known(path: Path) -> tuple[dict[str, Known], frozenset[str]]:
    nothing: tuple[dict[str, Known], frozenset[str]] = ({}, frozenset())
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            document = json.loads(file.read(_MAX_FILE_BYTES))
        members = {
            str(name): Known(
                None if fields["key_hash"] is None else str(fields["key_hash"]), fields["voter"] is True
            )
            for name, fields in document["members"].items()
        }
        return members, frozenset(str(name) for name in document["removed"])
    except FileNotFoundError:
        return nothing
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _log.warning("members.json cannot be read: starting as if it did not exist")
        return nothing
