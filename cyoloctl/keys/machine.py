"""The token keys, as the cluster agreed: which there are, in which state, and sealed to whom.

Never a key itself: each member's copy is sealed to that member's sealing key
(``cyoloctl.keys.wrapping``).  What proves that a sealing key is its node's is kept
beside it and checked by whoever seals; nothing cryptographic happens here.

When a key may go
-----------------
``tokens_until_unix_ms`` of a key is the end of the last token that can be
under it.  It is written when the key stops to be primary: that moment plus
``keep_s`` of the policy, which is also the longest that a token may live.  A
policy with a smaller ``keep_s`` does not shorten the life of tokens that are
out: the primary key's value is first raised to the moment of the change plus
the old ``keep_s``.  The value never falls.  Without force a key is disabled
or destroyed 60 s (the leeway of clocks) after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

from cyoloctl.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from cyoloctl.members.machine import MAX_NAMES, MemberMachine
from cyoloctl.replicated.checks import (
    Check,
    checked,
    exact,
    flag,
    integer,
    json_object,
    member_name,
    sealing_key,
    text,
)
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed, Refused
from cyoloctl.replicated.machine import Json, Machine, Observed, Operations
from cyoloctl.text import rfc3339_of

__all__ = [
    "DEFAULT_KEEP_S",
    "MAX_DESTROYED",
    "MAX_KEYS",
    "MAX_PERIOD_S",
    "MIN_PERIOD_S",
    "KeyMachine",
    "KeyPolicy",
    "KeyRecord",
    "KeyState",
    "NodeKey",
]

MAX_KEYS = 64
"""Keys that are not destroyed."""

MAX_DESTROYED = 256
"""Records of destroyed keys; the oldest is forgotten."""

MIN_PERIOD_S, MAX_PERIOD_S = 3_600, 366 * 86_400
DEFAULT_KEEP_S = 604_800
_LEEWAY_MS = 60_000
_SPARE_KEYS = 8  # the primary one, a pending one, and some that an operator makes
_SHOWN_NAMES = 10

KeyState = Literal["pending", "primary", "enabled", "disabled", "destroyed"]


@dataclass(frozen=True, slots=True)
class NodeKey:
    """A node's sealing key, X25519 in base64, and the proof: its certificate and that key's signature."""

    sealing_key: str
    certificate_pem: str
    signature: str


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """rotate_every_s: seconds between rotations; None for none.

    keep_s: how long a retired key is kept at least, and the longest that any
    token may live (``abs - iat``) that a node mints.  Both 1 hour to 366 days.
    """

    rotate_every_s: int | None = None
    keep_s: int = DEFAULT_KEEP_S


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is replicated of one key.

    key_id: 8 hexadecimal digits.  cluster_id: of the cluster where the key was
    made; it goes into the derivation of tokens.  fingerprint: 32 hexadecimal
    digits.  Times in replicated Unix milliseconds: promoted, the last time it
    became primary; retired, when it stopped to be; tokens_until, see the
    module, None while no token was ever under it; destroyed.
    wrapped: node -> the key sealed to it.  holders: the nodes that confirmed
    that they opened theirs.  known_to: the members that were ever given one.
    compromised_by: the same of removed members.  All names in order.
    """

    key_id: str
    cluster_id: str
    fingerprint: str
    state: KeyState
    created_unix_ms: int
    promoted_unix_ms: int | None = None
    retired_unix_ms: int | None = None
    tokens_until_unix_ms: int | None = None
    destroyed_unix_ms: int | None = None
    wrapped: dict[str, str] = field(default_factory=dict, repr=False)
    holders: tuple[str, ...] = ()
    known_to: tuple[str, ...] = ()
    compromised_by: tuple[str, ...] = ()

    @property
    def free_unix_ms(self) -> int | None:
        """From when on it may be disabled or destroyed without force; 0: at once; None: not while primary."""
        if self.state == "primary":
            return None
        return 0 if self.tokens_until_unix_ms is None else self.tokens_until_unix_ms + _LEEWAY_MS

    def to_json(self) -> dict[str, Any]:
        """All fields but the sealed keys and known_to."""
        return {
            "key_id": self.key_id,
            "cluster_id": self.cluster_id,
            "fingerprint": self.fingerprint,
            "state": self.state,
            "created_unix_ms": self.created_unix_ms,
            "promoted_unix_ms": self.promoted_unix_ms,
            "retired_unix_ms": self.retired_unix_ms,
            "tokens_until_unix_ms": self.tokens_until_unix_ms,
            "destroyed_unix_ms": self.destroyed_unix_ms,
            "holders": list(self.holders),
            "compromised_by": list(self.compromised_by),
        }

    def _fields(self) -> dict[str, Any]:
        return {
            "wrapped": self.wrapped,
            "known_to": list(self.known_to),
            **{name: value for name, value in self.to_json().items() if name != "key_id"},
        }

    def _with_blobs(self, blobs: dict[str, str]) -> KeyRecord:
        # Whoever gets another blob must show again that it opens.
        new = {name for name, blob in blobs.items() if self.wrapped.get(name) != blob}
        return replace(
            self,
            wrapped={**self.wrapped, **blobs},
            holders=_names(set(self.holders) - new),
            known_to=_names({*self.known_to, *blobs}),
        )

    def _without(self, name: str) -> KeyRecord:
        return replace(
            self,
            wrapped={node: blob for node, blob in self.wrapped.items() if node != name},
            holders=tuple(node for node in self.holders if node != name),
        )


class KeyMachine(Observed, Machine):
    """Operations and their answers; a repetition that finds what it wants gets the same answer.

    ``announce {name, sealing_key, certificate_pem, signature}`` -> ``{name}``:
    a member's sealing key.  Another one than before drops what was sealed to
    the old one, and the confirmations.  not_found for who is no member.
    ``generate {key_id, cluster_id, fingerprint, wrapped}`` -> ``{key_id,
    state}``: a new key, sealed to one member at least; primary when there is
    none, else pending.  already_exists for a known id of another key, also of
    a destroyed one; conflict beyond 64 keys.
    ``wrap {key_id, wrapped}`` -> ``{key_id, state}``: seals it to more members,
    or anew.  Whoever gets another blob has not confirmed it.
    ``confirm {name, keys: {key_id: fingerprint}}`` -> ``{name, confirmed}``:
    the member opened these; those that it holds no blob of are left out.
    conflict when a fingerprint is another: one id, two keys.
    ``reject {name, keys: [key_id]}`` -> ``{name, rejected}``: the member cannot
    open its blobs of these (one that was sealed to its old key, say): they are
    dropped, so that they are ``missing`` and sealed again.
    ``promote {key_id}`` -> ``{key_id, state}``: primary; the one before becomes
    enabled.  conflict naming the members that have not confirmed it.
    ``disable {key_id, force}``, ``enable {key_id}``, ``destroy {key_id, force}``
    -> ``{key_id, state}``.  conflict for the primary key, and without force
    until 60 s after tokens_until.  A destroyed key keeps its record, without
    blobs; the last 256 are remembered.
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

    def __init__(self, members: MemberMachine) -> None:
        super().__init__(_OPERATIONS)
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
        """When the last token that can be out by now ends, and the clocks' leeway on both sides."""
        ends = [record.tokens_until_unix_ms or 0 for record in self._keys.values()]
        return max(now_unix_ms + self._policy.keep_s * 1000, *ends, 0) + 2 * _LEEWAY_MS

    def missing(self, name: str) -> list[str]:
        """The ids of the keys that were not sealed to this node, the oldest key first."""
        return [record.key_id for record in self._live() if name not in record.wrapped]

    def unconfirmed(self, name: str) -> list[str]:
        """The ids of the keys that were sealed to this node and not confirmed by it, the oldest first."""
        return [r.key_id for r in self._live() if name in r.wrapped and name not in r.holders]

    def _live(self) -> list[KeyRecord]:
        return [record for record in self.records() if record.state != "destroyed"]

    def apply(self, operation: str, arguments: Mapping[str, Any], index: int, now_unix_ms: int) -> Json:
        """As of every machine; the observer is told once for an entry."""
        answer = super().apply(operation, arguments, index, now_unix_ms)
        self._tell(index)
        return answer

    def forget_member(self, name: str, index: int) -> None:
        """A member was removed: drops its sealing key and blobs, and remembers which keys it knew."""
        self._is_changed = self._nodes.pop(name, None) is not None
        for record in self._live():
            if name in record.known_to:
                self._is_changed = True
                self._keys[record.key_id] = replace(
                    record._without(name),
                    known_to=tuple(node for node in record.known_to if node != name),
                    compromised_by=_names({*record.compromised_by, name}),
                )
        self._tell(index)

    def set_back(self, from_unix_ms: int, to_unix_ms: int) -> None:
        """The time was set back: nothing was made, promoted or retired later than now.

        Else a rotation would wait until the future has come in which the last one took place.
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
        new = NodeKey(given["sealing_key"], given["certificate_pem"], given["signature"])
        old = self._nodes.get(name)
        if old != new:
            if old is not None and old.sealing_key != new.sealing_key:
                for record in self._live():
                    self._keys[record.key_id] = record._without(name)
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
        return self._put(record._with_blobs(given["wrapped"]))

    def _wrap(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._live_key(given["key_id"])
        self._check_blobs(given["wrapped"])
        return self._put(record._with_blobs(given["wrapped"]))

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
            self._put(replace(record, holders=_names({*record.holders, name})))
        return {"name": name, "confirmed": len(confirmed)}

    def _reject(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = self._member(given["name"])
        rejected = [r for key_id in given["keys"] if (r := self._keys.get(key_id)) and name in r.wrapped]
        for record in rejected:
            self._put(record._without(name))
        return {"name": name, "rejected": len(rejected)}

    def _promote(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._live_key(given["key_id"])
        if record.state == "primary":
            return _answer(record)
        if record.state == "disabled":
            raise Refused(Conflict(f"key {record.key_id} is disabled: enable it first"))
        lacking = [m.name for m in self._members.members() if m.name not in record.holders]
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
        destroyed = sorted(
            (r for r in self._keys.values() if r.state == "destroyed"),
            key=lambda r: (r.destroyed_unix_ms, r.key_id),
        )
        if len(destroyed) >= MAX_DESTROYED:
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

    def _import(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        known: list[str] = []
        new: list[KeyRecord] = []
        for item in given["keys"]:
            if self._known(item) is not None:
                known.append(item["key_id"])
                continue
            self._check_blobs(item["wrapped"])
            new.append(KeyRecord(**{**item, "wrapped": {}})._with_blobs(item["wrapped"]))
        self._refuse_full(len(new))
        for record in new:
            self._put(record)
        return {"imported": [record.key_id for record in new], "known": known}

    def _set_policy(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        new = KeyPolicy(**given)
        if new.rotate_every_s is not None and new.keep_s // new.rotate_every_s + _SPARE_KEYS > MAX_KEYS:
            raise Refused(
                InvalidInput(
                    f"more than {MAX_KEYS} keys would be kept: rotate less often, or keep them for less time"
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
            if self._member(name) not in self._nodes:
                raise Refused(Conflict(f"member {name} has announced no sealing key: wait until it does"))

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
        if more and len(self._live()) + more > MAX_KEYS:
            raise Refused(Conflict(f"there can be {MAX_KEYS} keys: destroy those that are no longer needed"))

    def _put(self, record: KeyRecord) -> dict[str, Any]:
        if self._keys.get(record.key_id) != record:
            self._keys[record.key_id] = record
            self._is_changed = True
        return _answer(record)

    def _tell(self, index: int) -> None:
        changed, self._is_changed = self._is_changed, False
        if changed:
            self._changed("keys", index)

    def export_state(self) -> dict[str, Any]:
        """The state for the snapshot, the same for the same state whatever its history."""
        return {
            "keys": {key_id: record._fields() for key_id, record in self._keys.items()},
            "nodes": {name: asdict(node) for name, node in self._nodes.items()},
            "policy": asdict(self._policy),
        }

    def prepare_restore(self, state: object) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        top = exact(state, {"keys", "nodes", "policy"})
        try:
            keys = {
                key_id: _consistent(KeyRecord(key_id=_key_id(key_id), **checked(item, _RECORD)))
                for key_id, item in json_object(top["keys"]).items()
            }
            nodes = {
                member_name(name): NodeKey(**checked(item, _NODE))
                for name, item in json_object(top["nodes"]).items()
            }
            policy = KeyPolicy(**checked(top["policy"], _POLICY))
        except Malformed:
            raise ValueError("a key or a sealing key is not valid") from None
        primaries = [key_id for key_id, record in keys.items() if record.state == "primary"]
        destroyed = sum(record.state == "destroyed" for record in keys.values())
        if len(primaries) > 1 or len(keys) - destroyed > MAX_KEYS or destroyed > MAX_DESTROYED:
            raise ValueError("the keys contradict each other")

        def commit() -> None:
            self._keys = keys
            self._nodes = nodes
            self._policy = policy
            self._primary = primaries[0] if primaries else None

        return commit


_TWO_KEYS = "key {}: same key id with different keys on two nodes"


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


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


def _consistent(record: KeyRecord) -> KeyRecord:
    """A record as the operations leave it.  Raises ValueError."""
    known = set(record.known_to)
    if (
        (record.state == "destroyed") != (record.destroyed_unix_ms is not None)
        or (record.state == "destroyed" and (known or record.compromised_by))
        or not set(record.holders) <= record.wrapped.keys() <= known
        or known & set(record.compromised_by)
        or len(known) + len(record.compromised_by) > MAX_NAMES
    ):
        raise ValueError("a key contradicts itself")
    return record


def _wrapped(value: object) -> dict[str, str]:
    if type(value) is not dict or len(value) > MAX_NAMES:
        raise Malformed("the sealed keys are not valid: use an object of node names and sealed keys")
    # In order, so that of two wrong ones every node names the same.
    return {member_name(name): _blob(blob) for name, blob in sorted(value.items())}


def _some_wrapped(value: object) -> dict[str, str]:
    wrapped = _wrapped(value)
    if not wrapped:
        raise Malformed("the key is sealed to nobody: seal it to one member at least")
    return wrapped


def _fingerprints(value: object) -> dict[str, str]:
    if type(value) is not dict or len(value) > MAX_KEYS + MAX_DESTROYED:
        raise Malformed("the keys are not valid: use an object of key ids and fingerprints")
    return {_key_id(key_id): _fingerprint(item) for key_id, item in sorted(value.items())}


def _key_ids(value: object) -> list[str]:
    ids = [_key_id(item) for item in value] if type(value) is list else []
    if not ids or len(set(ids)) != len(ids):
        raise Malformed("the keys are not valid: use a list of key ids, each once")
    return ids


def _imported(value: object) -> list[dict[str, Any]]:
    if type(value) is not list or not 0 < len(value) <= MAX_KEYS:
        raise Malformed(f"the keys are not valid: use a list of 1 to {MAX_KEYS}")
    try:
        items = [checked(item, _IMPORT) for item in value]
    except ValueError:
        raise Malformed(f"an imported key has {', '.join(sorted(_IMPORT))}") from None
    _key_ids([item["key_id"] for item in items])
    return items


def _in_order(value: object) -> tuple[str, ...]:
    names = tuple(member_name(item) for item in value) if type(value) is list else ("",)
    if any(a >= b for a, b in zip(("", *names), names, strict=False)):
        raise Malformed("the names are not valid: use a list in order, each once")
    return names


_key_id = text(r"fc[0-9a-f]{6}", "the key id is not valid: use 8 hex digits that begin with fc")
_cluster_id = text(r"[0-9a-f]{32}", "the cluster id is not valid: use 32 hex digits")
_fingerprint = text(r"[0-9a-f]{32}", "the fingerprint is not valid: use 32 hex digits")
# 80 bytes; the last character before the padding holds 4 bits only.
_blob = text(r"[A-Za-z0-9+/]{106}[AEIMQUYcgkosw048]=", "the sealed key is not valid: use 80 bytes in base64")
_certificate = text(
    r"(?=[\s\S]{1,4096}\Z)-----BEGIN CERTIFICATE-----\n"
    r"(?:[A-Za-z0-9+/=]{1,64}\n)+-----END CERTIFICATE-----\n",
    "the certificate is not valid: use one certificate in pem, of 4096 characters at most",
)
_signature = text(
    r"(?=.{12,96}\Z)(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
    "the signature is not valid: use an ecdsa signature in base64",
)
_state = text("pending|primary|enabled|disabled|destroyed", "the state is not valid")
_imported_state = text("enabled|disabled", "the state is not valid: use enabled or disabled")
_time = integer(0, MAX_TIME_UNIX_MS, "a time")
_optional_time = integer(0, MAX_TIME_UNIX_MS, "a time", optional=True)

_NODE: dict[str, Check] = {
    "sealing_key": sealing_key,
    "certificate_pem": _certificate,
    "signature": _signature,
}
_POLICY: dict[str, Check] = {
    "rotate_every_s": integer(MIN_PERIOD_S, MAX_PERIOD_S, "rotate_every_s", optional=True),
    "keep_s": integer(MIN_PERIOD_S, MAX_PERIOD_S, "keep_s"),
}
_IMPORT: dict[str, Check] = {
    "key_id": _key_id,
    "cluster_id": _cluster_id,
    "fingerprint": _fingerprint,
    "state": _imported_state,
    "created_unix_ms": _time,
    "retired_unix_ms": _time,
    "tokens_until_unix_ms": _time,
    "wrapped": _some_wrapped,
}
_RECORD: dict[str, Check] = {
    "cluster_id": _cluster_id,
    "fingerprint": _fingerprint,
    "state": _state,
    "created_unix_ms": _time,
    "promoted_unix_ms": _optional_time,
    "retired_unix_ms": _optional_time,
    "tokens_until_unix_ms": _optional_time,
    "destroyed_unix_ms": _optional_time,
    "wrapped": _wrapped,
    "holders": _in_order,
    "known_to": _in_order,
    "compromised_by": _in_order,
}
assert {"key_id", *_RECORD} == {item.name for item in fields(KeyRecord)}

_OPERATIONS: Operations = {
    "announce": ({"name": member_name, **_NODE}, KeyMachine._announce),
    "generate": (
        {
            "key_id": _key_id,
            "cluster_id": _cluster_id,
            "fingerprint": _fingerprint,
            "wrapped": _some_wrapped,
        },
        KeyMachine._generate,
    ),
    "wrap": ({"key_id": _key_id, "wrapped": _some_wrapped}, KeyMachine._wrap),
    "confirm": ({"name": member_name, "keys": _fingerprints}, KeyMachine._confirm),
    "reject": ({"name": member_name, "keys": _key_ids}, KeyMachine._reject),
    "promote": ({"key_id": _key_id}, KeyMachine._promote),
    "disable": ({"key_id": _key_id, "force": flag("force")}, KeyMachine._disable),
    "enable": ({"key_id": _key_id}, KeyMachine._enable),
    "destroy": ({"key_id": _key_id, "force": flag("force")}, KeyMachine._destroy),
    "import": ({"keys": _imported}, KeyMachine._import),
    "policy": (_POLICY, KeyMachine._set_policy),
}
