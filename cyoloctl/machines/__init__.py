"""The replicated state: pure machines behind one protocol of bytes.

``Composite`` is what Raft applies commands to.  It knows no clock, no
randomness and no I/O; the same commands in the same order give the same
state, results and snapshot on every node and every Python version.

Exactly once
------------
Every command carries a request id.  The first answer to each is remembered,
success or refusal, and given again, byte for byte, to a command with the same
id; such a repetition changes nothing.  The same id with another command is
refused with ``conflict``.  Malformed commands are answered and forgotten.

Ids from clients and ids that nodes make themselves are remembered apart, so
that a flood of the latter does not push out the former; both are looked up
for either.  Entries leave in the order they came (``LIMITS``):

====================  ==========================  ===========  ==========
table                 kept whatever the load      expiry       at most
====================  ==========================  ===========  ==========
client ids            the last 50,000             24 hours     50,000
automatic ids         the last 10,000, and all    5 minutes    50,000
                      of the last 10 s while
                      they are fewer than 50,000
====================  ==========================  ===========  ==========

An entry takes about 240 bytes (see ``_requests``): 12 MB for each full table.

A client's id that was forgotten applies again.  An automatic one never does:
``Composite`` remembers the highest proposer time among the forgotten
automatic commands, the *horizon*, and refuses an unknown automatic command
proposed at or before it with ``outcome_unknown``, without applying it.  A
retry keeps its first stamp, so it is applied once or refused, for ever.

A fresh command must not fall below the horizon because its proposer's clock
is slow.  By the table above the horizon trails the newest command by 5
minutes up to 33 automatic commands a second, by at least 10 s up to 5,000 a
second, and at 34,000 a second by 1.5 s: with bare clocks that is the skew
that is tolerated.  ``next_stamp`` removes the limit: a proposer stamps with
its clock or, if that is behind, with the replicated time that it has applied
plus 1 ms, and is then refused only if its own log trails by the whole table
(10,000 automatic commands at least).  A proposer that is refused and knows
that it never sent the command before may stamp it anew.

A clock that is far ahead moves replicated time for the whole cluster, and
with it every expiry.  Nothing here can tell it from time that passed: a node
must compare its clock with its peers' before it proposes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any, Protocol

from cyoloctl.errors import StorageError, VersionMismatch
from cyoloctl.machines._codec import (
    MAX_COMMAND_BYTES,
    MAX_TIME_UNIX_MS,
    Command,
    Malformed,
    Refused,
    canonical,
    decode_command,
    decode_result,
    decode_result_with_index,
    describe_command,
    encode_command,
    encode_refusal,
    encode_result,
    parse_canonical,
    refusal_reason,
)
from cyoloctl.machines._requests import LIMITS, Limits, RequestTable, TableLimits
from cyoloctl.machines.authorities import AuthorityMachine
from cyoloctl.machines.counter import CounterMachine
from cyoloctl.machines.credentials import Credential, CredentialMachine
from cyoloctl.machines.keys import KeyMachine, KeyPolicy, KeyRecord, NodeKey
from cyoloctl.machines.members import Invitation, Member, MemberMachine, SecretInvitation
from cyoloctl.machines.presence import Presence, PresenceMachine
from cyoloctl.machines.rendezvous import RendezvousMachine
from cyoloctl.machines.sessions import Revocation, SessionMachine

__all__ = [
    "LIMITS",
    "MAX_COMMAND_BYTES",
    "MAX_TIME_UNIX_MS",
    "SNAPSHOT_VERSION",
    "AuthorityMachine",
    "Command",
    "Composite",
    "CounterMachine",
    "Credential",
    "CredentialMachine",
    "Invitation",
    "KeyMachine",
    "KeyPolicy",
    "KeyRecord",
    "Limits",
    "Machine",
    "Malformed",
    "Member",
    "MemberMachine",
    "NodeKey",
    "Presence",
    "PresenceMachine",
    "RendezvousMachine",
    "Revocation",
    "SecretInvitation",
    "SessionMachine",
    "TableLimits",
    "decode_command",
    "decode_result",
    "decode_result_with_index",
    "describe_command",
    "encode_command",
    "refusal_reason",
]

SNAPSHOT_VERSION = 1
_LENGTH = struct.Struct(">I")
_DIGEST_END = 1 + 32


class Machine(Protocol):
    """One state machine inside the composite."""

    def apply(
        self, operation: str, arguments: dict[str, Any], index: int, now_unix_ms: int
    ) -> dict[str, Any]:
        """The value of the answer.  Raises Malformed or Refused, and only before it changes anything."""

    def export_state(self) -> dict[str, Any]:
        """The state as JSON without floats; equal states give equal JSON."""

    def prepare_restore(self, state: object) -> Callable[[], None]:
        """Checks any JSON value; the returned function puts it in place and cannot fail.

        Raises ValueError.
        """


class Composite:
    """All machines, the replicated time and the remembered requests.

    counters, members, authorities, credentials, keys, sessions, rendezvous: the machines, to
    read; they stay the same objects.
    time_unix_ms: replicated time, the highest proposer time applied; it never
    goes back, and repetitions and malformed commands do not move it.
    on_restore: called after ``restore`` replaced the state, for observers
    that wait on changes.  Not replicated; what it raises is dropped.

    limits: for tests.  Nodes of one cluster must all have ``LIMITS``.
    """

    def __init__(self, *, limits: Limits = LIMITS) -> None:
        self.counters = CounterMachine()
        self.members = MemberMachine()
        self.credentials = CredentialMachine(self.members)
        self.keys = KeyMachine(self.members)
        self.presence = PresenceMachine(self.members)
        self.authorities = AuthorityMachine(self.members)
        self.sessions = SessionMachine(self.keys.last_end_unix_ms)
        self.rendezvous = RendezvousMachine()
        self.time_unix_ms = 0
        self.on_restore: Callable[[], None] | None = None
        self._limits = limits
        self._machines: dict[str, Machine] = {
            "authorities": self.authorities,
            "counter": self.counters,
            "credentials": self.credentials,
            "keys": self.keys,
            "presence": self.presence,
            "members": self.members,
            "rendezvous": self.rendezvous,
            "sessions": self.sessions,
        }
        self._client = RequestTable(limits.client)
        self._automatic = RequestTable(limits.automatic)
        self._horizon_unix_ms = -1

    def next_stamp(self, now_unix_ms: int) -> int:
        """The proposer time for a new command on this node, whose clock shows ``now_unix_ms``.

        Never behind what this node has applied, so that a slow clock costs no
        refusals (see the module).  Within 0 to 2**53.
        """
        return min(max(now_unix_ms, self.time_unix_ms + 1, 0), MAX_TIME_UNIX_MS)

    def apply(self, index: int, command: bytes) -> bytes:
        """Applies a committed command, of any bytes, and returns its result.

        Never raises for what a command holds: what cannot be applied is
        refused in the result.  Only the interpreter's own exhaustion
        (MemoryError, RecursionError) passes: it strikes one node and not the
        others, so the node must stop rather than answer.
        """
        try:
            request = decode_command(command)
        except Malformed as error:
            return encode_refusal(index, error.code, error.message)
        machine_name, operation, arguments, request_id, automatic, proposed_ms, digest = request
        known = self._client.find(request_id) or self._automatic.find(request_id)
        if known is not None:
            if known[0] == digest:
                return known[1]
            return encode_refusal(
                index,
                "conflict",
                "the request id was used for another command: use a new one for this command",
            )
        if automatic and proposed_ms <= self._horizon_unix_ms:
            return encode_refusal(
                index,
                "outcome_unknown",
                "the command is older than the remembered answers and may have been applied before: "
                "read before retrying",
            )
        machine = self._machines.get(machine_name)
        if machine is None:
            return encode_refusal(
                index, "invalid_input", "unknown state machine: upgrade every node before using what is new"
            )
        now_ms = max(self.time_unix_ms, proposed_ms)
        try:
            value = machine.apply(operation, arguments, index, now_ms)
            if machine is self.members and operation == "remove":
                # In the same entry: no state ever holds keys for a member that is gone.
                self.keys.forget_member(value["name"], index)
                self.presence.forget_member(value["name"])
            result = encode_result(index, value)
        except Malformed as error:
            return encode_refusal(index, error.code, error.message)
        except Refused as refused:
            result = encode_refusal(index, refused.error.code, refused.error.message, refused.reason)
        except (MemoryError, RecursionError):
            raise
        except Exception:
            # A bug hits every node alike, and raising would stop each of them at this entry at every start.
            return encode_refusal(index, "internal", "a state machine failed: report this command")
        self.time_unix_ms = now_ms
        table = self._automatic if automatic else self._client
        table.remember(request_id, digest, now_ms, proposed_ms, result)
        self._client.forget(now_ms)
        forgotten_ms = self._automatic.forget(now_ms)
        if forgotten_ms > self._horizon_unix_ms:
            self._horizon_unix_ms = forgotten_ms
        return result

    def _content(self) -> bytes:
        # What is empty is left out where older releases lack it: what they wrote stays the same, to the byte.
        newer = {
            "authorities": self.authorities.is_empty,
            "credentials": self.credentials.is_empty,
            "presence": self.presence.is_empty(),
        }
        left_out = {name for name, is_empty in newer.items() if is_empty}
        head = canonical(
            {
                "horizon_unix_ms": self._horizon_unix_ms,
                "machines": {
                    name: machine.export_state()
                    for name, machine in self._machines.items()
                    if name not in left_out
                },
                "time_unix_ms": self.time_unix_ms,
            }
        ).encode("ascii")
        return b"".join((_LENGTH.pack(len(head)), head, self._client.encode(), self._automatic.encode()))

    def digest(self) -> str:
        """SHA-256 of the snapshot's content, in hex: equal when the whole replicated state is equal."""
        return sha256(self._content()).hexdigest()

    def snapshot(self) -> bytes:
        """The whole state; the same state gives the same bytes.

        Version byte, SHA-256 of the content, content: length (4 bytes, big
        endian) and canonical JSON of time, horizon and machines; the table of
        client ids; the table of automatic ids (``RequestTable.encode``).
        Not compressed: what zlib makes differs between its versions.
        """
        content = self._content()
        return b"".join((bytes((SNAPSHOT_VERSION,)), sha256(content).digest(), content))

    def restore(self, data: bytes) -> None:
        """Replaces the whole state by that of a snapshot.

        A machine that the snapshot does not know, because an older release
        wrote it, becomes empty.

        Raises VersionMismatch for another version, StorageError for bytes
        that ``snapshot`` did not make; the state is then as it was.
        """
        if data and data[0] != SNAPSHOT_VERSION:
            raise VersionMismatch(
                f"the snapshot has version {data[0]}, this release reads version {SNAPSHOT_VERSION}: "
                "use the release that wrote it, or a newer one"
            )
        try:
            content = data[_DIGEST_END:]
            if data[1:_DIGEST_END] != sha256(content).digest():
                raise ValueError("its checksum is wrong")
            (length,) = _LENGTH.unpack_from(content)
            at = _LENGTH.size + length
            head = parse_canonical(content[_LENGTH.size : at].decode("ascii"))
            if type(head) is not dict or head.keys() != {"horizon_unix_ms", "machines", "time_unix_ms"}:
                raise ValueError("its head has other fields")
            time_ms, horizon_ms, states = head["time_unix_ms"], head["horizon_unix_ms"], head["machines"]
            if (
                type(time_ms) is not int
                or type(horizon_ms) is not int
                or not -1 <= horizon_ms <= time_ms
                or not 0 <= time_ms <= MAX_TIME_UNIX_MS
            ):
                raise ValueError("its times are wrong")
            if type(states) is not dict or not states.keys() <= self._machines.keys():
                raise ValueError("it has unknown state machines")
            if len(states) < len(self._machines):
                empty = Composite()._machines
                states = {name: empty[name].export_state() for name in empty} | states
            commits = [machine.prepare_restore(states[name]) for name, machine in self._machines.items()]
            client, at = RequestTable.decode(content, at, self._limits.client, time_ms)
            automatic, at = RequestTable.decode(content, at, self._limits.automatic, time_ms)
            if at != len(content):
                raise ValueError("something follows its end")
            if client.overlaps(automatic):
                raise ValueError("a request is in both tables")
        except (ValueError, IndexError, struct.error, RecursionError) as error:
            known = str(error) if type(error) is ValueError else "it is cut short or overwritten"
            raise StorageError(
                f"the snapshot of the state machines is damaged: {known}; "
                "restore it from a backup, or remove this node and join it again under a new name"
            ) from None
        for commit in commits:
            commit()
        self.time_unix_ms = time_ms
        self._horizon_unix_ms = horizon_ms
        self._client = client
        self._automatic = automatic
        if self.on_restore is not None:
            with suppress(Exception):
                self.on_restore()
