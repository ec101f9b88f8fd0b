"""The replicated state: pure machines behind one protocol of bytes.

``ClusterState`` is what Raft applies commands to.  It knows no clock, no
randomness and no I/O; the same commands in the same order give the same
state, results and snapshot on every node and every Python version.

Exactly once
------------
Every command carries a request id.  The first answer to each is remembered,
success or refusal, and given again, byte for byte, to a command with the same
id; such a repetition changes nothing.  The same id with another command is
refused with ``conflict``.  Malformed commands are answered and forgotten.
What the proposing node draws for a command, such as a new key, is not what
makes it another one (``Machine.DRAWN``).

Ids of clients, of browsers and those that nodes make themselves are apart:
none is looked up for, or pushes out, another kind.  What was refused changed
nothing and takes no place among what was done.  Entries leave in the order
they came, but where there are too many the caller with the most loses its
oldest (``LIMITS``):

============  ==============================  ===========  ==========
table         kept whatever the load          expiry       at most
============  ==============================  ===========  ==========
client ids    the last 50,000                 24 hours     50,000
node ids      the last 10,000, and all of     5 minutes    50,000
              the last 10 s while they are
              fewer than 50,000
browser ids   the last 10,000                 1 hour       10,000
refusals      the last 10,000                 5 minutes    10,000
============  ==============================  ===========  ==========

Age is in steady time, which leaders' monotonic clocks move: no step of the
time of day forgets an id.  An entry takes about 350 bytes.

A command that is logged again, because the engine sent it again after a
change of leader, applies once or never, for as long as anybody may send it.
It carries ``after``, the highest index that was known to be committed when it
was sent first.  Each table has a *horizon*, the highest index at which
something was applied that it has forgotten.  An unknown command with an
``after`` below the horizon may have been applied before: it is refused with
``outcome_unknown``.  One above it cannot have been.  So only a caller that
asks again, with an id that its table has forgotten, is served again.

Time
----
The time of a command is that of its entry, which the leader stamped (see
``raft``).  Commands of release 0.1.0 bring a time of their own, and are
applied as that release did.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from types import MappingProxyType
from typing import TypeVar

from cyoloctl.audit.chain import AuditLimits
from cyoloctl.audit.machine import AuditMachine
from cyoloctl.authorities.machine import AuthorityMachine
from cyoloctl.counters.machine import CounterMachine
from cyoloctl.credentials.machine import CredentialLimits, CredentialMachine
from cyoloctl.errors import StorageError, VersionMismatch
from cyoloctl.keys.machine import KeyMachine
from cyoloctl.keys.records import KeyLimits
from cyoloctl.kv.machine import KvLimits, KvMachine
from cyoloctl.locks.machine import LockLimits, LockMachine
from cyoloctl.machines.code import Code
from cyoloctl.machines.machine import MachineLimits, UserMachines
from cyoloctl.members.levels import LevelMachine
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.presence import PresenceMachine
from cyoloctl.members.records import MemberLimits
from cyoloctl.model import RaftId, Source, Stamp
from cyoloctl.rendezvous.machine import RendezvousMachine
from cyoloctl.rendezvous.records import RendezvousLimits
from cyoloctl.replicated.answers import AnswerMachine
from cyoloctl.replicated.clock import ClockMachine
from cyoloctl.replicated.command import (
    Command,
    Malformed,
    Refused,
    decode_command,
    digest_of,
    encode_refusal,
    encode_result,
    is_refusal_without_entry,
    operation_of,
)
from cyoloctl.replicated.history import HistoryMachine
from cyoloctl.replicated.levels import THIS, Release
from cyoloctl.replicated.machine import Machine, Rows
from cyoloctl.replicated.requests import LIMITS, RequestLimits
from cyoloctl.replicated.snapshot import (
    KINDS,
    SNAPSHOT_VERSION,
    SnapshotHead,
    new_tables,
    read_head,
)
from cyoloctl.replicated.stream import BytesSource, StreamReader, frame, row_frames, sealed
from cyoloctl.text import Json, canonical_json_in_slices
from cyoloctl.tokens.machine import SessionMachine

__all__ = ["AppliedMembership", "ClusterState", "StateLimits"]

_M = TypeVar("_M", bound=Machine)

_NOTHING: Mapping[str, Collection[str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class StateLimits:
    """How much each machine holds, and for how long requests are remembered.

    They decide the replicated state, and are no part of it: every node of a cluster has the same ones,
    and a snapshot is read with those that it was made with.  A real node always has these.
    """

    requests: RequestLimits = LIMITS
    locks: LockLimits = field(default_factory=LockLimits)
    members: MemberLimits = field(default_factory=MemberLimits)
    credentials: CredentialLimits = field(default_factory=CredentialLimits)
    keys: KeyLimits = field(default_factory=KeyLimits)
    rendezvous: RendezvousLimits = field(default_factory=RendezvousLimits)
    kv: KvLimits = field(default_factory=KvLimits)
    machines: MachineLimits = field(default_factory=MachineLimits)
    audit: AuditLimits = field(default_factory=AuditLimits)


_LIMITS = StateLimits()


class ClusterState:
    """All machines, the replicated time and the remembered requests.

    counters, locks, members, authorities, credentials, keys, sessions, rendezvous, kv,
    machines, clock, history, levels, audit: the machines, to read; they stay the same objects.
    on_restore: called after ``restore`` replaced the state, for observers
    that wait on changes.  Not replicated; what it raises is dropped.

    limits: for tests and the simulation.  Nodes of one cluster must all have the same.
    lacking: by machine, the operations that are unknown, as they are to an earlier release; for tests.
    release: the one that runs here.
    strangers: let peers' commands in that do not say where they came from; for the simulation.
    codes: of the machines that users wrote, as this node has them; None for whoever applies no command to
    them, and takes any snapshot.
    """

    def __init__(
        self,
        *,
        limits: StateLimits = _LIMITS,
        lacking: Mapping[str, Collection[str]] = _NOTHING,
        release: Release = THIS,
        codes: Iterable[Code] | None = None,
        strangers: bool = True,
    ) -> None:
        self._strangers = strangers
        self._machines: dict[str, Machine] = {}
        self.counters = self._add(CounterMachine())
        self.locks = self._add(LockMachine(lambda: self.history.epoch, limits.locks, self.stamp))
        self.members = self._add(MemberMachine(limits.members))
        self.members.on_removed = self._forget_member
        self.presence = self._add(PresenceMachine(self.members))
        self.credentials = self._add(CredentialMachine(self.members, limits.credentials))
        self.authorities = self._add(AuthorityMachine(self.members))
        self.members.on_role = self.authorities.role_changed
        self.keys = self._add(KeyMachine(self.members, limits.keys))
        self.sessions = self._add(
            SessionMachine(self.keys.last_end_unix_ms, lambda: self.clock.stamp.steady_ms)
        )
        self.rendezvous = self._add(RendezvousMachine(limits.rendezvous))
        self.kv = self._add(KvMachine(self.locks.holds, lambda: self.history.epoch, limits.kv, self.keys.has))
        self.keys.values_under = self.kv.values_under
        self.clock = self._add(ClockMachine())
        self.history = self._add(HistoryMachine())
        self.levels = self._add(LevelMachine(self.members, release))
        self.machines = self._add(UserMachines(self.members, codes, limits.machines))
        self.audit = self._add(AuditMachine(limits.audit))
        self._add(AnswerMachine())
        for name, operations in lacking.items():
            self._machines[name].forgo(operations)
        self.on_restore: Callable[[], None] | None = None
        self._limits = limits
        self._tables = new_tables(limits.requests)
        self._horizon_unix_ms = -1  # of automatic commands of release 0.1.0

    def _add(self, machine: _M) -> _M:
        self._machines[machine.NAME] = machine
        return machine

    @property
    def time_unix_ms(self) -> int:
        """Replicated time: of the latest entry that was applied.  Never goes back within an epoch."""
        return self.clock.stamp.time_unix_ms

    def stamp(self) -> Stamp:
        """The time that the state has reached."""
        return self.clock.stamp

    def advance(self, stamp: Stamp) -> None:
        """An entry of this stamp is applied: its commands follow."""
        self.clock.advance(stamp)

    def admit(self, command: bytes, peer: str, role: str) -> bytes | None:
        """As leader, before a peer's command is logged: the result that refuses it, None to log it.

        peer: the member that forwards it.  role: ``voter`` or ``learner``.
        Refuses what this release does not know, which would stop every node,
        what is above the cluster's level, and what a node of that role may not
        propose.
        """
        found = operation_of(command)
        machine = None if found is None else self._machines.get(found[0])
        if found is None or machine is None or not machine.knows(found[1]):
            return encode_refusal(
                0,
                "version_mismatch",
                "the leader does not know this command: run the same release on every node",
            )
        early = self.levels.why_refused(*found)
        if early is not None:  # a proposer asks first; one that does not would stop the members that lack it
            return encode_refusal(0, "version_mismatch", early)
        rule = machine.proposer(found[1])
        if not self._strangers:
            astray = _why_astray(command, peer, alone=rule == "any" or role != "voter")
            if astray is not None:
                return encode_refusal(0, "access_denied", astray)
        if rule == "any" or (rule == "voter" and role == "voter"):
            return None
        if rule == "self":
            try:
                if decode_command(command).arguments.get("name") == peer:
                    return None
            except Malformed as error:
                return encode_refusal(0, error.code, error.message)
            return encode_refusal(0, "access_denied", "a node proposes this for itself only")
        if rule == "voter":
            return encode_refusal(
                0,
                "access_denied",
                f"{peer} is a learner, and learners do not change trust or membership: ask a voter",
            )
        return encode_refusal(0, "access_denied", "the leader alone proposes this")

    def refused_unlogged(self, result: bytes) -> bool:
        """Whether `admit` gave this result, and no entry of the log."""
        return is_refusal_without_entry(result)

    def was_applied(self, kind: str, request_id: str) -> bool:
        """Whether a command of this kind of caller is remembered as applied, not refused, under this id."""
        return request_id in self._tables[kind].requests

    def first_result(self, command: bytes) -> bytes | None:
        """What a repetition of an applied command would be told, or the conflict; None for a fresh id.

        Refusals are left out: what was refused may be tried again.
        """
        request = decode_command(command)
        known = self._tables[request.kind].requests.find(request.request_id)
        return None if known is None else _again(0, known, self._identity(request))

    def _identity(self, request: Command) -> bytes:
        """The digest of what makes a command this one and no other."""
        machine = self._machines.get(request.machine)
        drawn = None if machine is None else machine.DRAWN.get(request.operation)
        if not drawn:
            return request.digest
        given = {name: value for name, value in request.arguments.items() if name not in drawn}
        return digest_of(request.machine, request.operation, given)

    def apply(self, index: int, command: bytes, after: int | None = None) -> bytes:
        """Applies a committed command, of any bytes, and returns its result.

        after: see the module; None: it was never sent before.

        Never raises for what a command holds: what cannot be applied is
        refused in the result.  VersionMismatch for what a newer release wrote:
        other nodes may apply it, so this one must not answer.  The
        interpreter's own exhaustion (MemoryError, RecursionError) passes too:
        it strikes one node and not the others.
        """
        try:
            request = decode_command(command)
        except Malformed as error:
            if error.code == "version_mismatch":
                raise VersionMismatch(error.message) from None
            return encode_refusal(index, error.code, error.message)
        if request.time_unix_ms >= 0:
            return self._apply_old(index, request)
        table, refused = self._tables[request.kind], self._tables["refused"]
        known = table.requests.find(request.request_id)
        if known is None and len(refused.requests):
            known = refused.requests.find(_refused_id(request))
        identity = self._identity(request)
        if known is not None:
            result = _again(index, known, identity)
            if known[0] != identity:
                self._note(index, request, result)
            return result
        if after is not None and after < max(table.horizon, refused.horizon):
            return self._note(index, request, _forgotten(index))
        stamp = self.clock.stamp
        found, done = self._run(index, request, stamp.time_unix_ms)
        result = _bug(index) if found is None else found
        if request.origin:
            self.audit.note(request, index, self.history.epoch, stamp.time_unix_ms, result)
        if done is None:
            return result
        into, key = (table, request.request_id) if done else (refused, _refused_id(request))
        into.requests.remember(
            key,
            identity,
            caller=request.caller,
            steady_ms=stamp.steady_ms,
            index=index,
            result=result,
        )
        table.forget(stamp.steady_ms)
        if len(refused.requests):
            refused.forget(stamp.steady_ms)
        return result

    def _note(self, index: int, request: Command, result: bytes) -> bytes:
        """Leave the line of a command in the audit log, and give its result."""
        if request.origin:
            stamp = self.clock.stamp
            self.audit.note(request, index, self.history.epoch, stamp.time_unix_ms, result)
        return result

    def _run(self, index: int, request: Command, now_ms: int) -> tuple[bytes | None, bool | None]:
        """The result of a fresh command, and whether it was done (False: refused, None: not remembered).

        No result: a machine has a bug.  Raises VersionMismatch.
        """
        machine = self._machines.get(request.machine)
        old = request.time_unix_ms >= 0  # then an unknown operation was refused, and is
        if machine is None or not (old or machine.knows(request.operation)):
            raise VersionMismatch(f"{request.machine}.{request.operation} is unknown here")
        try:
            value = machine.apply(request.operation, request.arguments, index, now_ms)
            if machine is self.clock:
                self._was_set(value["from_unix_ms"], value["to_unix_ms"])
            elif machine is self.history:
                self._was_replaced(value, index, now_ms)
            return encode_result(index, value), True
        except Malformed as error:
            return encode_refusal(index, error.code, error.message), None
        except Refused as refused:
            return encode_refusal(index, refused.error.code, refused.error.message, refused.reason), False
        except (MemoryError, RecursionError, VersionMismatch):
            raise
        except Exception:
            return None, None

    def _forget_member(self, name: str, index: int) -> None:
        """In the entry that removes a member: no state ever holds keys for one that is gone."""
        for machine in self._machines.values():
            machine.forget_member(name, index)

    def _was_set(self, from_ms: int, to_ms: int) -> None:
        """The time was set: what was made in a future that never was keeps what it had left to live."""
        if to_ms < from_ms:
            for machine in self._machines.values():
                machine.set_back(from_ms, to_ms)

    def _was_replaced(self, done: Json, index: int, now_ms: int) -> None:
        """The history broke: in this very entry those who were left behind are members no more."""
        if done["kind"] == "recovered":
            for name in done["lost"]:
                if self.members.get(name) is not None:
                    self.members.apply("remove", {"name": name}, index, now_ms)
            if (
                self.members.get(done["by"]) is not None
            ):  # a learner's disk, perhaps: it is the only voter now
                self.members.apply("set_role", {"name": done["by"], "role": "voter"}, index, now_ms)
            return
        # A new cluster with an old state: whoever belonged to the old one is a stranger, keys and all.
        empty, policy = ClusterState(limits=self._limits), self.keys.export_state()["policy"]
        for machine in (self.members, self.presence, self.credentials, self.authorities, self.keys):
            fresh = empty._machines[machine.NAME].export_state()
            machine.prepare_restore({**fresh, "policy": policy} if machine is self.keys else fresh)()
        self.levels.forget_members()
        self.machines.forget_members()
        self._tell_restored()

    def _tell_restored(self) -> None:
        if self.on_restore is not None:
            with suppress(Exception):
                self.on_restore()

    def _apply_old(self, index: int, request: Command) -> bytes:
        """A command of release 0.1.0, to the same result and the same state as there, where
        nothing is revoked that has ended: that is kept here (see `tokens.machine`).

        Its time is its proposer's, its ids are looked up in both tables, and
        an automatic one is measured by times.
        """
        client, node = self._tables["client"], self._tables["node"]
        known = client.requests.find(request.request_id) or node.requests.find(request.request_id)
        if known is not None:
            return _again(index, known, request.digest)
        if request.automatic and request.time_unix_ms <= self._horizon_unix_ms:
            return _forgotten(index)
        if request.machine not in self._machines:
            return encode_refusal(
                index, "invalid_input", "unknown state machine: upgrade every node before using what is new"
            )
        now_ms = max(self.time_unix_ms, request.time_unix_ms)
        before = self.clock.stamp
        self.clock.stamp = Stamp(before.epoch, now_ms, max(before.steady_ms, now_ms))
        now_ms = self.time_unix_ms
        result, done = self._run(index, request, now_ms)
        if done is None:
            self.clock.stamp = before
        if result is None:
            return _bug(index)
        if done is None:
            return result
        (node if request.automatic else client).requests.remember(
            request.request_id,
            request.digest,
            caller="",
            steady_ms=now_ms,
            index=index,
            result=result,
            proposed_ms=request.time_unix_ms,
        )
        for table in (client, node):
            forgotten = table.requests.forget(now_ms, at_once=2**31)
            table.forgot(forgotten)
            if table is node:
                self._horizon_unix_ms = max(self._horizon_unix_ms, forgotten.proposed_ms)
        return result

    def _freeze(self) -> Callable[[], Iterator[bytes]]:
        """A function that makes the content of this moment: cheap to get here, runs in any thread."""
        horizon_unix_ms = self._horizon_unix_ms
        horizons = {kind: self._tables[kind].horizon for kind in KINDS}
        machines = [each for each in self._machines.values() if not (each.STATELESS or each.is_new())]
        states = {machine.NAME: machine.freeze() for machine in machines}
        requests = [self._tables[kind].requests.freeze() for kind in KINDS]
        tables = [(machine.TABLES, machine.freeze_tables()) for machine in machines]

        def content() -> Iterator[bytes]:
            head = {
                "horizon_unix_ms": horizon_unix_ms,
                "horizons": horizons,
                "machines": {name: export() for name, export in states.items()},
            }
            yield bytes((SNAPSHOT_VERSION,))
            yield frame("".join(canonical_json_in_slices(head)).encode("ascii"))
            for encode in requests:
                yield frame(encode())
            for names, rows in tables:
                for name in names:
                    yield from row_frames(rows[name])

        return content

    def digest(self) -> str:
        """SHA-256 of the snapshot's content, in hex: equal when the whole replicated state is equal."""
        digest = sha256()
        for part in self._freeze()():
            digest.update(part)
        return digest.hexdigest()

    def begin_snapshot(self) -> Callable[[], Iterator[bytes]]:
        """A function that makes the snapshot of this moment, in parts, whatever is applied meanwhile.

        Equal states give equal bytes.

        A version byte and frames (see ``replicated/stream.py``): canonical JSON of horizons and machines,
        then the tables of ids of clients, nodes and browsers, and of refusals (``RequestTable.encode``),
        then each machine's tables, row by row.  At the end the SHA-256 of all that, which is `digest`.
        Versions 1, of release 0.1.0, and 2 held everything in one object.
        Not compressed: what zlib makes differs between its versions.

        This call copies what changes in place, a few milliseconds for the
        largest state; the function encodes, once, and is for another thread.
        """
        content = self._freeze()
        return lambda: sealed(content())

    def restore(self, data: bytes | Source) -> None:
        """Replace the whole state by that of a snapshot.  Raises as `prepare_restore`."""
        self.prepare_restore(BytesSource(data) if isinstance(data, bytes) else data)()

    def prepare_restore(self, source: Source) -> Callable[[], None]:
        """Read a snapshot; the returned function puts it in place, at once, and cannot fail.

        Changes nothing, and may run in another thread while commands are applied.
        A machine that the snapshot does not know, because an older release
        wrote it, becomes empty.

        Raises VersionMismatch for another version, or a level that this
        release does not understand, MachineMismatch where this node lacks the
        code of a machine, StorageError for bytes that ``begin_snapshot`` did not make.
        """
        try:
            reader = StreamReader(source)
            read = read_head(reader, self._limits.requests)
            commits = self._prepare_machines(read)
            reader.finish(sealed=read.rows is not None)
        except (ValueError, IndexError, KeyError, TypeError, struct.error, RecursionError) as error:
            known = str(error) if type(error) is ValueError else "it is cut short or overwritten"
            raise StorageError(
                f"the snapshot of the state machines is damaged: {known}; "
                "restore it from a backup, or remove this node and join it again under a new name"
            ) from None

        def commit() -> None:
            for each in commits:
                each()
            if read.stamp is not None:
                self.clock.stamp = read.stamp
            self._horizon_unix_ms = read.horizon_unix_ms
            self._tables = read.tables
            self._tell_restored()

        return commit

    def _prepare_machines(self, read: SnapshotHead) -> list[Callable[[], None]]:
        """Raises ValueError and what the machines do."""
        states = read.machines
        if type(states) is not dict:
            raise ValueError("it has unknown state machines")
        self.levels.refuse_newer(states.get(LevelMachine.NAME))
        self.machines.refuse_other_code(states.get(UserMachines.NAME))
        machines = {name: machine for name, machine in self._machines.items() if not machine.STATELESS}
        if not states.keys() <= machines.keys():
            raise ValueError("it has unknown state machines")
        empty = ClusterState(limits=self._limits, release=self.levels.own)._machines
        commits: list[Callable[[], None]] = []
        tables: Rows
        for name, machine in machines.items():
            if name not in states:
                state: object = empty[name].export_state()
                tables = empty[name].freeze_tables()
            elif read.rows is None:
                state, tables = machine.split_whole(states[name])
            else:
                state, tables = states[name], {table: read.rows() for table in machine.TABLES}
            commits.append(machine.prepare_restore(state, tables))
        return commits


def _why_astray(command: bytes, peer: str, *, alone: bool) -> str | None:
    """Why the audit log would not know where a peer's command came from; None where it will.

    alone: nobody else's requests are passed on by such a command or peer.
    """
    words = command[-512:].rsplit(b'"', 2)[1].split(b" ")  # the last text in it
    if len(words) != 4:
        return "the command does not say where it came from: run the same release on every node"
    if alone and words[3] != peer.encode("ascii", "replace"):
        return f"{peer} may not say that another node took the request"
    return None


def _refused_id(request: Command) -> str:
    """Under which a refusal is remembered."""
    return f"{request.kind[0]}:{request.request_id}"


def _again(index: int, known: tuple[bytes, bytes], identity: bytes) -> bytes:
    """The answer to an id that is remembered."""
    if known[0] == identity:
        return known[1]
    return encode_refusal(
        index,
        "conflict",
        "the request id was used for another command: use a new one for this command",
    )


def _forgotten(index: int) -> bytes:
    return encode_refusal(
        index,
        "outcome_unknown",
        "the command is older than the remembered answers and may have been applied before: "
        "read before retrying",
    )


def _bug(index: int) -> bytes:
    # A bug hits every node alike, and raising would stop each of them at this entry at every start.
    return encode_refusal(index, "internal", "a state machine failed: report this command")


class AppliedMembership:
    """The engine's view of nodes in the replicated machines: see `raft.MembershipView`."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state

    def is_removed(self, name: str) -> bool:
        """See MembershipView."""
        return self._state.members.is_removed(name)

    def is_left_behind(self, name: str) -> bool:
        """See MembershipView."""
        return self._state.history.left_behind(name)

    def role(self, name: str) -> str | None:
        """See MembershipView."""
        member = self._state.members.get(name)
        return None if member is None else member.role

    def stands_back(self, name: str) -> bool:
        """See MembershipView."""
        return self._state.members.is_witness(name)

    def raft_id(self, name: str) -> RaftId | None:
        """See MembershipView."""
        member = self._state.members.get(name)
        return None if member is None else RaftId(member.raft_id)

    def level(self) -> int:
        """See MembershipView."""
        return self._state.levels.level

    def process(self, name: str) -> tuple[int, str, int] | None:
        """See MembershipView."""
        known = self._state.presence.get(name)
        return None if known is None else (known.boots, known.boot, known.index)
