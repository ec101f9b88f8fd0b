"""The token keys, as the cluster agreed: which there are, in which state, and sealed to whom.

Never a key itself: each member's copy is sealed to that member's sealing key
(``cyoloctl.keys.wrapping``).  What proves that a sealing key is its node's is kept
beside it and checked by the node that seals; nothing cryptographic happens here.

When a key may go
-----------------
``tokens_until_unix_ms`` of a key is the end of the last token that can be
under it.  It is written when the key stops to be primary: that moment plus
``keep_s`` of the policy, which is also the longest that a token may live.  A
policy with a smaller ``keep_s`` does not shorten the life of tokens that are
out: the primary key's value is first raised to the moment of the change plus
the old ``keep_s``.  The value never falls.  Without force a key is disabled
or destroyed 60 s (the leeway of clocks) after it.

What else a key opens, such as sealed values of `kv`, has no end: as long as
there is any, the key is not destroyed, not even with force.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

from cyoloctl.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from cyoloctl.keys.checks import (
    NODE,
    POLICY,
    RECORD,
    check_cluster_id,
    check_fingerprint,
    check_fingerprints,
    check_imported,
    check_key_id,
    check_key_ids,
    check_wrapped,
    consistent,
)
from cyoloctl.keys.records import (
    LEEWAY_MS,
    KeyLimits,
    KeyPolicy,
    KeyRecord,
    NodeKey,
    sorted_names,
)
from cyoloctl.members.machine import MemberMachine
from cyoloctl.replicated.checks import (
    checked,
    exact,
    flag,
    json_object,
    member_name,
)
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Observed, Operations, Rows
from cyoloctl.text import Json, rfc3339_of

__all__ = ["KeyMachine"]


_SPARE_KEYS = 8  # the primary one, a pending one, and some that an operator makes
_SHOWN_NAMES = 10
_LIMITS = KeyLimits()


class KeyMachine(Observed, Machine):
    """Operations and their answers; a repetition that finds what it wants gets the same answer.

    ``announce {name, sealing_key, certificate_pem, signature}`` -> ``{name}``:
    a member's sealing key.  Another one than before drops what was sealed to
    the old one, and the confirmations.  not_found for a name that is no member,
    conflict for a witness, to which no operation seals a key either.
    ``generate {key_id, cluster_id, fingerprint, wrapped}`` -> ``{key_id,
    state}``: a new key, sealed to one member at least; primary when there is
    none, else pending.  already_exists for a known id of another key, also of
    a destroyed one; conflict beyond 64 keys.
    ``make``: as generate, for a caller with a request id: whoever repeats it
    draws another key and is told of the first one.
    ``wrap {key_id, wrapped}`` -> ``{key_id, state}``: seals it to more members,
    or again.  A member that gets another blob has not confirmed it.
    ``confirm {name, keys: {key_id: fingerprint}}`` -> ``{name, confirmed}``:
    the member opened these; those that it holds no blob of are left out.
    conflict when a fingerprint is another: one id, two keys.
    ``reject {name, keys: [key_id]}`` -> ``{name, rejected}``: the member cannot
    open its blobs of these (one that was sealed to its old key, say): they are
    dropped, so that they are ``missing`` and sealed again.
    ``promote {key_id}`` -> ``{key_id, state}``: primary; the one before becomes
    enabled.  conflict naming the members that have not confirmed it.
    ``rotate``: as promote, at the end of a rotation under a request id: whoever
    repeats it is told which key was promoted.
    ``disable {key_id, force}``, ``enable {key_id}``, ``destroy {key_id, force}``
    -> ``{key_id, state}``.  conflict for the primary key, and without force
    until 60 s after tokens_until.  A destroyed key keeps its record, without
    blobs; the last 256 are remembered.
    conflict for one that still opens something else than tokens.
    ``import {keys: [{key_id, cluster_id, fingerprint, state, created_unix_ms,
    retired_unix_ms, tokens_until_unix_ms, wrapped}]}`` -> ``{imported,
    known}``, lists of ids: keys of an exported ring, all or none.  state:
    enabled or disabled.  A key that is here, or was destroyed here, stays what
    it is; another one of its id is already_exists.
    ``policy {rotate_every_s, keep_s}`` -> the policy.  invalid_input for
    rotations that would keep more than 64 keys.

    Blobs are for members that announced a sealing key: not_found, conflict.

    on_change: called with the log index after something changed.  Not
    replicated; what it raises is dropped.
    """

    NAME = "keys"
    PROPOSERS: ClassVar[dict[str, str]] = {"announce": "self", "confirm": "self", "reject": "self"}
    DRAWN: ClassVar[dict[str, frozenset[str]]] = {
        "make": frozenset({"key_id", "fingerprint", "wrapped"}),
        "rotate": frozenset({"key_id"}),
    }

    def __init__(
        self,
        members: MemberMachine,
        limits: KeyLimits = _LIMITS,
    ) -> None:
        super().__init__(_OPERATIONS)
        self.values_under: Callable[[str], int] = lambda key_id: 0
        """How many sealed values only the key of this id opens: another machine's."""
        self._limits = limits
        self._members = members
        self._nodes: dict[str, NodeKey] = {}
        self._keys: dict[str, KeyRecord] = {}
        self._primary: str | None = None
        self._policy = KeyPolicy()
        self._is_changed = False

    @property
    def policy(self) -> KeyPolicy:
        """The present policy."""
        return self._policy

    def get(self, key_id: str) -> KeyRecord | None:
        """The key of this id (hexadecimal), in whatever state."""
        return self._keys.get(key_id)

    def has(self, key_id: str) -> bool:
        """Whether there is a key of this id that is not destroyed."""
        record = self._keys.get(key_id)
        return record is not None and record.state != "destroyed"

    def primary(self) -> KeyRecord | None:
        """The key that mints."""
        return None if self._primary is None else self._keys[self._primary]

    def records(self) -> list[KeyRecord]:
        """All keys, destroyed ones too, the oldest first."""
        return sorted(self._keys.values(), key=lambda record: (record.created_unix_ms, record.key_id))

    def nodes(self) -> dict[str, NodeKey]:
        """Member -> the sealing key that it announced, by name."""
        return dict(sorted(self._nodes.items()))

    def last_end_unix_ms(self, now_unix_ms: int) -> int:
        """Time when the last token that may exist ends, plus the clocks' leeway on both sides."""
        ends = [record.tokens_until_unix_ms or 0 for record in self._keys.values()]
        return max(now_unix_ms + self._policy.keep_s * 1000, *ends, 0) + 2 * LEEWAY_MS

    def missing(self, name: str) -> list[str]:
        """The ids of the keys that were not sealed to this node, the oldest key first."""
        return [record.key_id for record in self._live() if name not in record.wrapped]

    def unconfirmed(self, name: str) -> list[str]:
        """The ids of the keys that were sealed to this node and not confirmed by it, the oldest first."""
        return [r.key_id for r in self._live() if name in r.wrapped and name not in r.holders]

    def _live(self) -> list[KeyRecord]:
        return [record for record in self.records() if record.state != "destroyed"]

    def apply(self, operation: str, arguments: Mapping[str, Any], index: int, now_unix_ms: int) -> Json:
        """As `Machine.apply`; the observer is told once per entry."""
        answer = super().apply(operation, arguments, index, now_unix_ms)
        self._notify(index)
        return answer

    def forget_member(self, name: str, index: int) -> None:
        """A member was removed: drops its sealing key and blobs, and remembers which keys it knew."""
        self._is_changed = self._nodes.pop(name, None) is not None
        for record in self._live():
            if name in record.known_to:
                self._is_changed = True
                self._keys[record.key_id] = replace(
                    record.without(name),
                    known_to=tuple(node for node in record.known_to if node != name),
                    compromised_by=sorted_names({*record.compromised_by, name}),
                )
        self._notify(index)

    def set_back(self, from_unix_ms: int, to_unix_ms: int) -> None:
        """The time was set back: nothing was made, promoted or retired later than now.

        Otherwise a rotation would wait until the last one, dated in that future, lay in the past.
        """

        def past(unix_ms: int | None) -> int | None:
            return None if unix_ms is None else min(unix_ms, to_unix_ms)

        self._keys = {
            key_id: replace(
                record,
                created_unix_ms=min(record.created_unix_ms, to_unix_ms),
                promoted_unix_ms=past(record.promoted_unix_ms),
                retired_unix_ms=past(record.retired_unix_ms),
                destroyed_unix_ms=past(record.destroyed_unix_ms),
            )
            for key_id, record in self._keys.items()
        }

    def _announce(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = self._member(given["name"])
        self._refuse_witness(name)
        new = NodeKey(given["sealing_key"], given["certificate_pem"], given["signature"])
        old = self._nodes.get(name)
        if old != new:
            if old is not None and old.sealing_key != new.sealing_key:
                for record in self._live():
                    self._keys[record.key_id] = record.without(name)
            self._nodes[name] = new
            self._is_changed = True
        return {"name": name}

    def _generate(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        known = self._known(given)
        if known is not None:
            return _answer(known)
        self._refuse_full(1)
        self._check_blobs(given["wrapped"])
        first = self._primary is None
        record = KeyRecord(
            given["key_id"],
            given["cluster_id"],
            given["fingerprint"],
            "primary" if first else "pending",
            created_unix_ms=now_unix_ms,
            promoted_unix_ms=now_unix_ms if first else None,
        )
        if first:
            self._primary = record.key_id
        return self._put(record.with_blobs(given["wrapped"]))

    def _wrap(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._live_key(given["key_id"])
        self._check_blobs(given["wrapped"])
        return self._put(record.with_blobs(given["wrapped"]))

    def _confirm(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = self._member(given["name"])
        confirmed = []
        for key_id, fingerprint in sorted(given["keys"].items()):
            record = self._keys.get(key_id)
            if record is not None and record.fingerprint != fingerprint:
                raise Refused(Conflict(f"{_TWO_KEYS.format(key_id)}: {name} holds another; rewrap the keys"))
            if record is not None and name in record.wrapped:
                confirmed.append(record)
        for record in confirmed:
            self._put(replace(record, holders=sorted_names({*record.holders, name})))
        return {"name": name, "confirmed": len(confirmed)}

    def _reject(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = self._member(given["name"])
        rejected = [r for key_id in given["keys"] if (r := self._keys.get(key_id)) and name in r.wrapped]
        for record in rejected:
            self._put(record.without(name))
        return {"name": name, "rejected": len(rejected)}

    def _promote(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._live_key(given["key_id"])
        if record.state == "primary":
            return _answer(record)
        if record.state == "disabled":
            raise Refused(Conflict(f"key {record.key_id} is disabled: enable it first"))
        lacking = [m.name for m in self._members.key_members() if m.name not in record.holders]
        if lacking:
            raise Refused(
                Conflict(
                    f"key {record.key_id} is not held by {_list(lacking)}: wait until every member "
                    "confirmed it, or remove the members that are gone"
                )
            )
        old = self.primary()
        if old is not None:
            self._keys[old.key_id] = replace(
                old,
                state="enabled",
                retired_unix_ms=now_unix_ms,
                tokens_until_unix_ms=self._tokens_until(old, now_unix_ms),
            )
        self._primary = record.key_id
        return self._put(replace(record, state="primary", promoted_unix_ms=now_unix_ms, retired_unix_ms=None))

    def _disable(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._live_key(given["key_id"])
        if record.state == "disabled":
            return _answer(record)
        _refuse_in_use(record, given["force"], now_unix_ms)
        return self._put(replace(record, state="disabled"))

    def _enable(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._live_key(given["key_id"])
        if record.state != "disabled":
            return _answer(record)
        never = record.tokens_until_unix_ms is None
        return self._put(replace(record, state="pending" if never else "enabled"))

    def _destroy(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._existing(given["key_id"])
        if record.state == "destroyed":
            return _answer(record)
        _refuse_in_use(record, given["force"], now_unix_ms)
        self._refuse_needed(record)
        destroyed = sorted(
            (r for r in self._keys.values() if r.state == "destroyed"),
            key=lambda r: (r.destroyed_unix_ms, r.key_id),
        )
        if len(destroyed) >= self._limits.destroyed:
            del self._keys[destroyed[0].key_id]
        return self._put(
            replace(
                record,
                state="destroyed",
                destroyed_unix_ms=now_unix_ms,
                wrapped={},
                holders=(),
                known_to=(),
                compromised_by=(),
            )
        )

    def _refuse_needed(self, record: KeyRecord) -> None:
        values = self.values_under(record.key_id)
        if values:
            raise Refused(
                Conflict(
                    f"key {record.key_id} still opens {values} sealed values of kv: the leader seals them "
                    "under the primary key within seconds; wait until `key status` shows none, then repeat it"
                )
            )

    def _import(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        known: list[str] = []
        new: list[KeyRecord] = []
        for item in given["keys"]:
            if self._known(item) is not None:
                known.append(item["key_id"])
                continue
            self._check_blobs(item["wrapped"])
            new.append(KeyRecord(**{**item, "wrapped": {}}).with_blobs(item["wrapped"]))
        self._refuse_full(len(new))
        for record in new:
            self._put(record)
        return {"imported": [record.key_id for record in new], "known": known}

    def _set_policy(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        new, most = KeyPolicy(**given), self._limits.keys
        if new.rotate_every_s is not None and new.keep_s // new.rotate_every_s + _SPARE_KEYS > most:
            raise Refused(
                InvalidInput(
                    f"more than {most} keys would be kept: rotate less often, or keep them for less time"
                )
            )
        if new != self._policy:
            primary = self.primary()
            if primary is not None and new.keep_s < self._policy.keep_s:
                until_ms = self._tokens_until(primary, now_unix_ms)
                self._keys[primary.key_id] = replace(primary, tokens_until_unix_ms=until_ms)
            self._policy = new
            self._is_changed = True
        return asdict(new)

    def _tokens_until(self, primary: KeyRecord, now_unix_ms: int) -> int:
        until_ms = min(now_unix_ms + self._policy.keep_s * 1000, MAX_TIME_UNIX_MS)
        return max(until_ms, primary.tokens_until_unix_ms or 0)

    def _member(self, name: str) -> str:
        if self._members.get(name) is None:
            raise Refused(NotFound(f"there is no member {name}: see member list"))
        return name

    def _check_blobs(self, wrapped: dict[str, str]) -> None:
        for name in sorted(wrapped):
            self._refuse_witness(self._member(name))
            if name not in self._nodes:
                raise Refused(Conflict(f"member {name} has announced no sealing key: wait until it does"))

    def _refuse_witness(self, name: str) -> None:
        if self._members.is_witness(name):
            raise Refused(Conflict(f"{name} is a witness: no key is sealed to it"))

    def _existing(self, key_id: str) -> KeyRecord:
        record = self._keys.get(key_id)
        if record is None:
            raise Refused(NotFound(f"there is no key {key_id}: see key list"))
        return record

    def _live_key(self, key_id: str) -> KeyRecord:
        record = self._existing(key_id)
        if record.state == "destroyed":
            raise Refused(Conflict(f"key {key_id} was destroyed: use another one"))
        return record

    def _known(self, given: dict[str, Any]) -> KeyRecord | None:
        record = self._keys.get(given["key_id"])
        if record is not None and (record.fingerprint, record.cluster_id) != (
            given["fingerprint"],
            given["cluster_id"],
        ):
            raise Refused(AlreadyExists(f"there is another key {record.key_id} already: make a new one"))
        return record

    def _refuse_full(self, more: int) -> None:
        most = self._limits.keys
        if more and len(self._live()) + more > most:
            raise Refused(Conflict(f"there can be {most} keys: destroy those that are no longer needed"))

    def _put(self, record: KeyRecord) -> dict[str, Any]:
        if self._keys.get(record.key_id) != record:
            self._keys[record.key_id] = record
            self._is_changed = True
        return _answer(record)

    def _notify(self, index: int) -> None:
        changed, self._is_changed = self._is_changed, False
        if changed:
            self._changed("keys", index)

    def export_state(self) -> dict[str, Any]:
        """The state for the snapshot, the same for the same state whatever its history."""
        return {
            "keys": {key_id: record.to_state() for key_id, record in self._keys.items()},
            "nodes": {name: asdict(node) for name, node in self._nodes.items()},
            "policy": asdict(self._policy),
        }

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        top = exact(state, {"keys", "nodes", "policy"})
        try:
            keys = {
                key_id: consistent(KeyRecord(key_id=check_key_id(key_id), **checked(item, RECORD)))
                for key_id, item in json_object(top["keys"]).items()
            }
            nodes = {
                member_name(name): NodeKey(**checked(item, NODE))
                for name, item in json_object(top["nodes"]).items()
            }
            policy = KeyPolicy(**checked(top["policy"], POLICY))
        except Malformed:
            raise ValueError("a key or a sealing key is not valid") from None
        primaries = [key_id for key_id, record in keys.items() if record.state == "primary"]
        destroyed = sum(record.state == "destroyed" for record in keys.values())
        too_many = len(keys) - destroyed > self._limits.keys or destroyed > self._limits.destroyed
        if len(primaries) > 1 or too_many:
            raise ValueError("the keys contradict each other")

        def commit() -> None:
            self._keys = keys
            self._nodes = nodes
            self._policy = policy
            self._primary = primaries[0] if primaries else None

        return commit


_TWO_KEYS = "key {}: same key id with different keys on two nodes"


def _answer(record: KeyRecord) -> dict[str, Any]:
    return {"key_id": record.key_id, "state": record.state}


def _list(names: list[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _refuse_in_use(record: KeyRecord, force: bool, now_unix_ms: int) -> None:
    free_ms = record.free_unix_ms
    if free_ms is None:
        raise Refused(Conflict(f"key {record.key_id} is the primary key: promote another one first"))
    if now_unix_ms < free_ms and not force:
        raise Refused(
            Conflict(
                f"tokens under key {record.key_id} may live until {_date(free_ms)}: "
                "wait until then, or use --force to end their sessions now"
            )
        )


def _date(unix_ms: int) -> str:
    """RFC 3339, rounded up to the second; replicated time can be beyond what a date can be."""
    try:
        moment = datetime(1970, 1, 1) + timedelta(seconds=-(-unix_ms // 1000))
    except OverflowError:
        moment = datetime.max
    return rfc3339_of(moment)


_NEW_KEY = {
    "key_id": check_key_id,
    "cluster_id": check_cluster_id,
    "fingerprint": check_fingerprint,
    "wrapped": check_wrapped,
}

_OPERATIONS: Operations = {
    "announce": ({"name": member_name, **NODE}, KeyMachine._announce),
    "generate": (_NEW_KEY, KeyMachine._generate),
    "make": (_NEW_KEY, KeyMachine._generate),
    "wrap": ({"key_id": check_key_id, "wrapped": check_wrapped}, KeyMachine._wrap),
    "confirm": ({"name": member_name, "keys": check_fingerprints}, KeyMachine._confirm),
    "reject": ({"name": member_name, "keys": check_key_ids}, KeyMachine._reject),
    "promote": ({"key_id": check_key_id}, KeyMachine._promote),
    "rotate": ({"key_id": check_key_id}, KeyMachine._promote),
    "disable": ({"key_id": check_key_id, "force": flag("force")}, KeyMachine._disable),
    "enable": ({"key_id": check_key_id}, KeyMachine._enable),
    "destroy": ({"key_id": check_key_id, "force": flag("force")}, KeyMachine._destroy),
    "import": ({"keys": check_imported}, KeyMachine._import),
    "policy": (POLICY, KeyMachine._set_policy),
}
