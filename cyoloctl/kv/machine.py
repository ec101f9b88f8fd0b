"""Any data: keys, their values, and a revision for every change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import chain, islice, pairwise
from typing import ClassVar

from cyoloctl.errors import AlreadyExists, Compacted, Conflict, FenceLost, NotFound, QuotaExceeded
from cyoloctl.kv.changes import Changes, entries_after
from cyoloctl.kv.entries import Entries
from cyoloctl.kv.holdings import Holdings
from cyoloctl.kv.records import (
    MAX_TTL_MS,
    MIN_TTL_MS,
    Comparison,
    Entry,
    Event,
    Kind,
    Place,
    Put,
    Step,
    check_blob,
    check_blobs,
    check_comparisons,
    check_digest,
    check_key,
    check_prefix,
    check_reseals,
    check_steps,
    check_ttl,
    check_value,
    holds,
    key_bytes,
    key_id_of,
    with_blobs,
)
from cyoloctl.kv.stored import check_list, check_revision, read_change, read_fields, stored
from cyoloctl.replicated.checks import exact, integer, json_object
from cyoloctl.replicated.command import Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Observed, Operations, Rows
from cyoloctl.text import Json

__all__ = [
    "DELETED_AT_ONCE",
    "EXPIRED_AT_ONCE",
    "KEY_OVERHEAD_BYTES",
    "QUOTA_BYTES",
    "SEALED_KEY",
    "SEALED_VALUE",
    "KvLimits",
    "KvMachine",
]

QUOTA_BYTES = 2 * 1024**3
KEY_OVERHEAD_BYTES = 256
"""What each key counts beside its own bytes and its value's: about what it takes in memory."""
EXPIRED_AT_ONCE = 500
"""Keys that one command takes away because their time is over."""
DELETED_AT_ONCE = 1000
"""Keys that one command takes away because of their prefix."""
SEALED_KEY = "the key {} is sealed: say whether its new value is to be (--sealed or --no-sealed)"
SEALED_VALUE = "the value of {} is sealed and cannot be compared: compare its revision or version"
_EPOCH_BITS = 40
"""An epoch has room for so many revisions, 2 to the power of this, before they reach the next one's."""


@dataclass(frozen=True, slots=True)
class KvLimits:
    """quota: bytes of keys and values, each key with its overhead.

    changes: how many are remembered.  change_bytes: of their keys and of the values that they replaced.
    """

    quota: int = QUOTA_BYTES
    changes: int = 10_000
    change_bytes: int = 16 * 1024 * 1024


_LIMITS = KvLimits()


class KvMachine(Observed, Machine):
    """Operations and their answers.  A key is text, a value bytes, in base64 here.

    ``put {key, value, if_revision, ttl_ms, fence}`` -> ``{revision,
    created_revision, version, expires_unix_ms}``.  if_revision: the key's
    present one, 0 for a key that is not there yet, null for whatever is there.
    ttl_ms: it expires so long after this command; null: never.
    conflict for a key whose value is sealed: see below.
    ``put_sealed {key, blob, digest, if_revision, ttl_ms, fence}`` and
    ``put_clear``, with the arguments of put, -> as put: whatever is there now,
    the value is a sealed one then, or none.
    ``delete {key, if_revision, fence}`` -> ``{revision}``; not_found.
    ``delete_prefix {prefix}`` -> ``{deleted, more, revision}``: the first 1,000 keys.
    ``txn {compare, then, otherwise, fence}`` -> ``{succeeded, revision, results}``:
    ``then`` where all comparisons are true, otherwise ``otherwise``, each as one
    change; results: of each put ``{version, created_revision,
    expires_unix_ms}``, of each delete ``{deleted}``.
    ``txn_sealed {compare, then, otherwise, fence, blobs}`` -> as txn, where a put
    may have a digest and no value: blobs are the values of those, in order.
    ``keep {key, created_revision, ttl_ms}`` -> ``{revision, expires_unix_ms}``:
    a key that expires gets a new end, never an earlier one.  It is no change.
    created_revision: null, or that of the key that is meant.
    ``expire {most}`` -> ``{expired}``: keys whose time is over go; the leader's alone.
    ``reseal {values: [{name, revision, blob}]}`` -> ``{resealed}``: the same
    values under another key of the ring; name: the key in base64; the leader's alone.  It is no change:
    revisions stay, and watchers are told nothing.  What has gone is left out.

    fence: null or ``{name, token}``: refused with fence_lost unless the lock
    is held with this token.  What another revision refuses is a conflict, what
    the quota refuses quota_exceeded.

    Revisions: each change has a higher one than all before it: the index of
    its log entry, or one more than the last where that is higher, since an
    entry may hold several commands.  After the cluster went on from an older
    state (an epoch of its history ended) they are higher than all that were
    lost.  All changes of a transaction have the same.

    Sealed values: the node that takes a request seals them (`kv.sealing`), and
    this sees the bytes, the id of the ring's key, and a digest under that key,
    which tells two values of one request id apart.  A key that the ring has no
    more is unavailable, and not remembered: the node seals under another one.
    A value that is not sealed replaces a sealed one only where the command says
    that it may, and a comparison with a sealed value is a conflict.

    Expiry: a key is there until an entry of the log has taken it away, so that
    all who read in turn see it go once.  That is done by every command that
    changes something, and by ``expire``.

    on_change: called with "" after each command that changed something.
    """

    NAME = "kv"
    PROPOSER = "any"
    TABLES = ("entries", "changes")
    PROPOSERS: ClassVar[dict[str, str]] = {"expire": "leader", "reseal": "leader"}
    DRAWN: ClassVar[dict[str, frozenset[str]]] = {
        "put_sealed": frozenset({"blob"}),
        "txn_sealed": frozenset({"blobs"}),
    }

    def __init__(
        self,
        holds_lock: Callable[[str, int, int], bool] = lambda name, token, now_unix_ms: False,
        epoch: Callable[[], int] = lambda: 1,
        limits: KvLimits = _LIMITS,
        has_key: Callable[[str], bool] = lambda key_id: False,
    ) -> None:
        """holds_lock: whether a lock is held with a fencing token at a time.

        epoch: of the cluster's history.  has_key: whether the ring has a key of this id, not destroyed.
        """
        super().__init__(_OPERATIONS)
        self.has_key = has_key
        self._epoch = epoch
        self._holds_lock = holds_lock
        self._limits = limits
        self.revision = 0
        """Of the last change."""
        self.size = 0
        """Bytes that count for the quota."""
        self._entries = Entries()
        self._ends: list[tuple[int, str]] = []
        self._changes = Changes(limits.changes, limits.change_bytes)
        self._sealed = Holdings()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def quota(self) -> int:
        """Bytes that there may be."""
        return self._limits.quota

    # -- reading ----------------------------------------------------------------------------------

    def get(self, key: str, revision: int | None = None) -> Entry | None:
        """A key's entry, now or as it was at a revision.  Raises Compacted, Conflict for one to come."""
        if revision is not None:
            undone = self._undone(revision)
            if key in undone:
                return undone[key]
        return self._entries.get(key)

    def page(
        self, prefix: str, after: str | None, limit: int, revision: int | None = None
    ) -> list[tuple[str, Entry]]:
        """At most ``limit`` keys of a prefix and their entries, ascending, those above ``after`` only.

        Raises as `get`.
        """
        undone = {} if revision is None else self._undone(revision)
        found = {
            key: entry
            for key, entry in undone.items()
            if entry is not None and key.startswith(prefix) and (after is None or key > after)
        }
        start = prefix if after is None else max(prefix, after)
        # Those that were changed since are in the way, and found already.
        for key, entry in islice(self._entries.rows_from(start, after=after == start), limit + len(undone)):
            if not key.startswith(prefix):
                break
            if key not in undone:
                found[key] = entry
        return sorted(found.items())[:limit]

    def _undone(self, revision: int) -> dict[str, Entry | None]:
        if revision > self.revision:
            raise Conflict(f"there is no revision {revision} yet: the last one is {self.revision}")
        if revision < self.first_revision - 1:
            raise self._compacted()
        return self._changes.undone(revision)

    @property
    def first_revision(self) -> int:
        """From here on every change is known."""
        return self._changes.first_revision

    def changes(self, from_revision: int, limit: int) -> list[Event]:
        """Changes of a revision and later, those of one revision never parted.  Raises Compacted."""
        if from_revision < self.first_revision:
            raise self._compacted()
        return self._changes.since(from_revision, limit)

    def values_under(self, key_id: str) -> int:
        """How many sealed values, of now and of remembered revisions, only this key of the ring opens."""
        return self._sealed.count(key_id)

    @property
    def has_sealed(self) -> bool:
        """Whether any value is a sealed one."""
        return len(self._sealed) > 0

    def sealing_keys(self) -> list[str]:
        """Ids of the keys of the ring that open a value here."""
        return self._sealed.key_ids()

    def sealed_under(self, key_id: str, most: int) -> dict[Place, Entry]:
        """At most so many of the values under a key."""
        return self._at(self._sealed.first(key_id, most))

    def _at(self, places: Collection[Place]) -> dict[Place, Entry]:
        """The values at these places, of now and of remembered revisions."""
        found = self._changes.replaced(places)
        for key, revision in places:
            entry = self._entries.get(key)
            if entry is not None and entry.revision == revision:
                found[key, revision] = entry
        return found

    def _compacted(self) -> Compacted:
        first = self.first_revision
        return Compacted(f"changes before revision {first} are forgotten: read again, and go on from {first}")

    def next_end_unix_ms(self) -> int | None:
        """When the first of the keys that expire does, or has."""
        while self._ends and not self._is_end(*self._ends[0]):
            heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def _is_end(self, end_unix_ms: int, key: str) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.expires_unix_ms == end_unix_ms

    # -- operations -------------------------------------------------------------------------------

    def _put(self, given: Json, index: int, now_unix_ms: int) -> Json:
        return self._write(Put(given["key"], given["value"], given["ttl_ms"]), given, index, now_unix_ms)

    def _put_clear(self, given: Json, index: int, now_unix_ms: int) -> Json:
        put = Put(given["key"], given["value"], given["ttl_ms"], sealed=False)
        return self._write(put, given, index, now_unix_ms)

    def _put_sealed(self, given: Json, index: int, now_unix_ms: int) -> Json:
        put = Put(given["key"], given["blob"], given["ttl_ms"], sealed=True)
        return self._write(put, given, index, now_unix_ms)

    def _write(self, put: Put, given: Json, index: int, now_unix_ms: int) -> Json:
        """A transaction of one put, which looks its key up once."""
        old = self._entries.get(put.key)
        live = None if old is None or old.is_due(now_unix_ms) else old
        if put.sealed:
            self._refuse_lost_key(put.value)
        self._refuse_clear(put, live)
        self._refuse_fence(given["fence"], now_unix_ms)
        self._refuse_revision(put.key, live, given["if_revision"])
        more = _more(put, old)
        self._refuse_more(more)
        if self._ends:
            self._expire_due(index, now_unix_ms, (put.key,))
            if old is not live:
                old, more = None, _more(put, None)
        revision = self._next(index)
        result = self._put_step(put, old, more, revision, now_unix_ms)
        self.revision = revision
        self._end(index)
        return result

    def _delete(self, given: Json, index: int, now_unix_ms: int) -> Json:
        key = given["key"]
        self._refuse_fence(given["fence"], now_unix_ms)
        entry = self._live(key, now_unix_ms)
        if entry is None:
            raise Refused(NotFound(f"there is no key {key!r}"))
        self._refuse_revision(key, entry, given["if_revision"])
        self._expire_due(index, now_unix_ms, ())
        revision = self._next(index)
        self._remove("delete", key, revision)
        self._end(index)
        return {"revision": revision}

    def _delete_prefix(self, given: Json, index: int, now_unix_ms: int) -> Json:
        prefix = given["prefix"]
        rows = islice(self._entries.rows_from(prefix), DELETED_AT_ONCE + 1)
        keys = [key for key, _ in rows if key.startswith(prefix)]
        more = len(keys) > DELETED_AT_ONCE
        keys = keys[:DELETED_AT_ONCE]
        if keys:
            revision = self._next(index)
            for key in keys:
                self._remove("delete", key, revision)
            self._end(index)
        return {"deleted": len(keys), "more": more, "revision": self.revision}

    def _txn(self, given: Json, index: int, now_unix_ms: int) -> Json:
        branches = with_blobs((given["then"], given["otherwise"]), given.get("blobs", ()))
        compare: tuple[Comparison, ...] = given["compare"]
        for branch in branches:
            self._refuse_lost_keys(branch)
        self._refuse_sealed(compare, now_unix_ms)
        for step in chain(*branches):
            if type(step) is Put:
                self._refuse_clear(step, self._live(step.key, now_unix_ms))
        self._refuse_fence(given["fence"], now_unix_ms)
        succeeded = all(holds(each, self._live(each.key, now_unix_ms)) for each in compare)
        steps = branches[0 if succeeded else 1]
        self._refuse_full(steps, now_unix_ms)
        results = []
        if any(type(step) is Put or self._live(step.key, now_unix_ms) is not None for step in steps):
            self._expire_due(index, now_unix_ms, [step.key for step in steps])
            results = self._carry_out(steps, index, now_unix_ms)
        else:
            results = [{"deleted": False} for _ in steps]
        for result in results:
            result.pop("revision", None)
        return {"succeeded": succeeded, "revision": self.revision, "results": results}

    def _keep(self, given: Json, index: int, now_unix_ms: int) -> Json:
        key, created = given["key"], given["created_revision"]
        entry = self._live(key, now_unix_ms)
        if entry is None:
            raise Refused(NotFound(f"there is no key {key!r}: its time is over, or it was deleted"))
        if created is not None and created != entry.created_revision:
            raise Refused(Conflict(f"the key {key!r} was made anew, at revision {entry.created_revision}"))
        if entry.expires_unix_ms is None:
            raise Refused(Conflict(f"the key {key!r} never expires: put it with a time to live"))
        expires_ms = max(entry.expires_unix_ms, now_unix_ms + given["ttl_ms"])
        self._set(key, entry._replace(ttl_ms=given["ttl_ms"], expires_unix_ms=expires_ms))
        return {"revision": entry.revision, "expires_unix_ms": expires_ms}

    def _expire(self, given: Json, index: int, now_unix_ms: int) -> Json:
        before = len(self._entries)
        self._expire_due(index, now_unix_ms, (), given["most"])
        return {"expired": before - len(self._entries)}

    def _reseal(self, given: Json, index: int, now_unix_ms: int) -> Json:
        blobs: dict[Place, bytes] = given["values"]
        for blob in blobs.values():
            self._refuse_lost_key(blob)
        found = {place: entry for place, entry in self._at(blobs).items() if entry.sealed}
        # Bytes of another number would make the quota wrong: what is sealed again is as long as it was.
        blobs = {
            place: blob
            for place, blob in blobs.items()
            if place in found and len(blob) == len(found[place].value)
        }
        for (key, revision), blob in blobs.items():
            self._sealed.put((key, revision), key_id_of(blob))
            entry = self._entries.get(key)
            if entry is not None and entry.revision == revision:
                self._entries.set(key, entry._replace(value=blob))
        self._changes.reseal(blobs)
        return {"resealed": len(blobs)}

    # -- what refuses -----------------------------------------------------------------------------

    def _live(self, key: str, now_unix_ms: int) -> Entry | None:
        entry = self._entries.get(key)
        return None if entry is None or entry.is_due(now_unix_ms) else entry

    def _refuse_fence(self, fence: tuple[str, int] | None, now_unix_ms: int) -> None:
        if fence is not None and not self._holds_lock(*fence, now_unix_ms):
            raise Refused(
                FenceLost(f"the lock {fence[0]} is not held with the token {fence[1]} any more: stop working")
            )

    @staticmethod
    def _refuse_revision(key: str, entry: Entry | None, wanted: int | None) -> None:
        """entry: the key's, unless its time is over."""
        if wanted is None or wanted == (0 if entry is None else entry.revision):
            return
        if entry is None:
            raise Refused(
                Conflict(f"there is no key {key!r}, and revision {wanted} was asked for: read it again")
            )
        if wanted == 0:
            raise Refused(AlreadyExists(f"the key {key!r} is there already, at revision {entry.revision}"))
        raise Refused(
            Conflict(f"the key {key!r} is at revision {entry.revision}, not {wanted}: read it again")
        )

    def _refuse_lost_keys(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if type(step) is Put and step.sealed:
                self._refuse_lost_key(step.value)

    def _refuse_lost_key(self, blob: bytes) -> None:
        # Not Refused: a repetition, sealed under the present key, is to be carried out.
        if not self.has_key(key_id_of(blob)):
            raise Malformed(
                f"the value was sealed under the key {key_id_of(blob)}, which is destroyed: try again",
                "unavailable",
            )

    @staticmethod
    def _refuse_clear(put: Put, entry: Entry | None) -> None:
        """Nothing secret is replaced by what everybody reads because an option was forgotten.

        entry: the key's, unless its time is over.
        """
        if put.sealed is None and entry is not None and entry.sealed:
            raise Refused(Conflict(SEALED_KEY.format(repr(put.key))))

    def _refuse_sealed(self, compare: Iterable[Comparison], now_unix_ms: int) -> None:
        for each in compare:
            entry = self._live(each.key, now_unix_ms)
            if each.target == "value" and entry is not None and entry.sealed:
                raise Refused(Conflict(SEALED_VALUE.format(repr(each.key))))

    def _refuse_full(self, steps: Iterable[Step], now_unix_ms: int) -> None:
        more = 0
        for step in steps:
            entry = self._entries.get(step.key)
            if type(step) is Put:
                more += _more(step, entry)
            elif entry is not None:
                more -= _size(step.key, entry.value)
        self._refuse_more(more)

    def _refuse_more(self, more: int) -> None:
        """more: bytes that are to be added."""
        if more > 0 and self.size + more > self._limits.quota:
            raise Refused(
                QuotaExceeded(
                    f"keys and values take {self.size} bytes of {self._limits.quota}, "
                    f"and this needs {more} more: delete keys"
                )
            )

    # -- what changes -----------------------------------------------------------------------------

    def _next(self, index: int) -> int:
        return max(index, self.revision + 1, (self._epoch() - 1) << _EPOCH_BITS)

    def _carry_out(self, steps: Iterable[Step], index: int, now_unix_ms: int) -> list[Json]:
        """All at one revision.  Answers of puts have it."""
        revision = self._next(index)
        results: list[Json] = []
        for step in steps:
            if type(step) is not Put:
                results.append({"deleted": step.key in self._entries})
                if step.key in self._entries:
                    self._remove("delete", step.key, revision)
                continue
            old = self._entries.get(step.key)
            results.append(self._put_step(step, old, _more(step, old), revision, now_unix_ms))
        self.revision = revision
        self._end(index)
        return results

    def _put_step(self, put: Put, old: Entry | None, more: int, revision: int, now_unix_ms: int) -> Json:
        """old: the key's entry now.  more: bytes that this adds."""
        key, value, ttl_ms, sealed = put
        created, version = (revision, 1) if old is None else (old.created_revision, old.version + 1)
        expires_ms = None if ttl_ms is None else now_unix_ms + ttl_ms
        entry = Entry(value, revision, created, version, ttl_ms, expires_ms, sealed is True)
        if sealed:
            self._sealed.put((key, revision), key_id_of(value))
        self.size += more
        self._set(key, entry)
        self._changes.add(Event(revision, "put", key, entry, old))
        return {
            "revision": revision,
            "created_revision": created,
            "version": version,
            "expires_unix_ms": expires_ms,
        }

    def _expire_due(
        self, index: int, now_unix_ms: int, besides: Iterable[str], most: int = EXPIRED_AT_ONCE
    ) -> None:
        """Take away keys whose time is over, the first to end first; of those that are named, all."""
        due = {
            key: None
            for key in besides
            if (entry := self._entries.get(key)) is not None and entry.is_due(now_unix_ms)
        }
        while len(due) < most:
            end = self.next_end_unix_ms()
            if end is None or end > now_unix_ms:
                break
            due[heappop(self._ends)[1]] = None
        if due:
            revision = self._next(index)
            for key in sorted(due):
                self._remove("expire", key, revision)
            self._end(index)

    def _set(self, key: str, entry: Entry) -> None:
        self._entries.set(key, entry)
        if entry.expires_unix_ms is not None:
            heappush(self._ends, (entry.expires_unix_ms, key))
            if len(self._ends) > 2 * len(self._entries) + 100:
                self._ends = [end for end in self._ends if self._is_end(*end)]
                heapify(self._ends)

    def _remove(self, kind: Kind, key: str, revision: int) -> None:
        entry = self._entries.pop(key)
        assert entry is not None
        self.size -= _size(key, entry.value)
        self._changes.add(Event(revision, kind, key, None, entry))
        self.revision = revision

    def _end(self, index: int) -> None:
        for event in self._changes.trim():
            if event.previous is not None:
                self._sealed.drop((event.key, event.previous.revision))
        self._changed("", index)

    # -- the machine ------------------------------------------------------------------------------

    def set_back(self, from_unix_ms: int, to_unix_ms: int) -> None:
        """The time was set back: no key lives longer from now than it was given, nor again after its end."""
        changed = {}
        for _, key in self._ends:  # every key that expires, and more
            entry = self._entries.get(key)
            if entry is None or entry.ttl_ms is None or entry.expires_unix_ms is None:
                continue
            latest_ms = to_unix_ms + (0 if entry.is_due(from_unix_ms) else entry.ttl_ms)
            if entry.expires_unix_ms > latest_ms:
                changed[key] = entry._replace(expires_unix_ms=latest_ms)
        for key, entry in changed.items():
            self._set(key, entry)

    def is_new(self) -> bool:
        """See Machine."""
        return self.revision == 0

    def export_state(self) -> Json:
        """See Machine."""
        return {"first_revision": self._changes.first_revision, "revision": self.revision}

    def freeze_tables(self) -> Rows:
        """See Machine: key and fields of an entry; revision, kind, key and previous fields of a change."""
        entries, events = self._entries.freeze(), self._changes.copy()
        return {
            "entries": ([key, *stored(fields)] for key, fields in entries),
            "changes": (
                [e.revision, e.kind, e.key, None if e.previous is None else stored(e.previous)]
                for e in events
            ),
        }

    def split_whole(self, state: object) -> tuple[object, Rows]:
        """See Machine."""
        top = dict(exact(state, {"entries", "changes", "first_revision", "revision"}))
        entries = sorted(json_object(top.pop("entries")).items())
        return top, {
            "entries": [[key, *check_list(fields)] for key, fields in entries],
            "changes": check_list(top.pop("changes")),
        }

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """See Machine."""
        top = exact(state, {"first_revision", "revision"})
        try:
            revision, first = check_revision(top["revision"]), check_revision(top["first_revision"])
            entries = Entries(
                (check_key(row[0]), read_fields(row[1:], revision)) for row in tables.get("entries", ())
            )
            known = [read_change(each, first, revision) for each in tables.get("changes", ())]
        except Malformed:
            raise ValueError("a key, a value or a change is not valid") from None
        if any(later[0] < earlier[0] for earlier, later in pairwise(known)):
            raise ValueError("the changes are out of order")
        if first > revision + 1:
            raise ValueError("more is forgotten than there was")
        limits = self._limits
        changes = Changes(limits.changes, limits.change_bytes, first, entries_after(entries, known))
        size, ends, sealed = _summed(entries, changes)
        if size > limits.quota or changes.is_too_much():
            raise ValueError("there are more keys, values or changes than there can be")

        def commit() -> None:
            self._entries, self._ends, self._changes, self._sealed = entries, ends, changes, sealed
            self.revision, self.size = revision, size

        return commit


def _size(key: str, value: bytes) -> int:
    return key_bytes(key) + len(value) + KEY_OVERHEAD_BYTES


def _more(put: Put, old: Entry | None) -> int:
    """Bytes that a put adds, or fewer than none.  old: the key's entry now."""
    if old is None:
        return _size(put.key, put.value)
    return len(put.value) - len(old.value)


def _summed(entries: Entries, changes: Changes) -> tuple[int, list[tuple[int, str]], Holdings]:
    """What follows from them: bytes for the quota, ends as a heap, which values keys of the ring open."""
    size = 0
    ends: list[tuple[int, str]] = []
    sealed = Holdings()
    for key, (value, revision, _, _, _, end, is_sealed) in entries.freeze():
        size += _size(key, value)
        if end is not None:
            ends.append((end, key))
        if is_sealed:
            sealed.put((key, revision), key_id_of(value))
    for event in changes.copy():
        if event.previous is not None and event.previous.sealed:
            sealed.put((event.key, event.previous.revision), key_id_of(event.previous.value))
    heapify(ends)
    return size, ends, sealed


def _fence(value: object) -> tuple[str, int] | None:
    if value is None:
        return None
    if (
        type(value) is not dict
        or value.keys() != {"name", "token"}
        or type(value["name"]) is not str
        or not 1 <= len(value["name"]) <= 128
        or type(value["token"]) is not int
        or not 1 <= value["token"] < 2**63
    ):
        raise Malformed("the fence is not valid: use the name of a lock and its token")
    return value["name"], value["token"]


_wanted = integer(0, 2**63 - 1, "the revision", optional=True)
_CONDITIONS = {"if_revision": _wanted, "ttl_ms": check_ttl, "fence": _fence}
_PUT = {"key": check_key, "value": check_value, **_CONDITIONS}
_TXN = {"compare": check_comparisons, "then": check_steps, "otherwise": check_steps, "fence": _fence}
_OPERATIONS: Operations = {
    "put": (_PUT, KvMachine._put),
    "put_clear": (_PUT, KvMachine._put_clear),
    "put_sealed": (
        {"key": check_key, "blob": check_blob, "digest": check_digest, **_CONDITIONS},
        KvMachine._put_sealed,
    ),
    "delete": ({"key": check_key, "if_revision": _wanted, "fence": _fence}, KvMachine._delete),
    "delete_prefix": ({"prefix": check_prefix}, KvMachine._delete_prefix),
    "txn": (_TXN, KvMachine._txn),
    "txn_sealed": ({**_TXN, "blobs": check_blobs}, KvMachine._txn),
    "keep": (
        {
            "key": check_key,
            "created_revision": _wanted,
            "ttl_ms": integer(MIN_TTL_MS, MAX_TTL_MS, "the time to live"),
        },
        KvMachine._keep,
    ),
    "expire": ({"most": integer(1, EXPIRED_AT_ONCE, "the number of keys")}, KvMachine._expire),
    "reseal": ({"values": check_reseals}, KvMachine._reseal),
}
