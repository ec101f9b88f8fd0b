"""The records of rendezvous, the bounds of them, and what time alone makes of a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from cyoloctl.errors import AuthorizationPending, Conflict, CyoloctlError, Denied, Expired, InvalidInput
from cyoloctl.text import canonical_json, decode_base64

__all__ = [
    "ATTEMPT_WINDOW_MS",
    "DEFAULT_POLICY",
    "ENDED_STATES",
    "EXPIRED_AT_ONCE",
    "LEVELS",
    "LIVE_STATES",
    "MAX_ATTEMPTS",
    "MAX_BEGUN_BY",
    "MAX_CALLERS",
    "MAX_CALLER_ATTEMPTS",
    "MAX_DATA_BYTES",
    "MAX_DATA_ENTRIES",
    "MAX_LIVE",
    "MAX_POLICIES",
    "MAX_REQUIRED",
    "MAX_SEALED_LENGTH",
    "MAX_TEXT",
    "MAX_TOMBSTONES",
    "MAX_TOTAL_BYTES",
    "MAX_TTL_MS",
    "MAX_VALUE_BYTES",
    "MIN_TTL_MS",
    "REDELIVERY_MS",
    "TOMBSTONE_MS",
    "TRANSITIONS",
    "Level",
    "Policy",
    "Rendezvous",
    "RendezvousLimits",
    "State",
    "as_of",
    "decode64",
    "due_unix_ms",
    "expired_record",
    "has_result",
    "id_of_public_key",
    "is_coherent",
    "tombstone",
    "weight",
    "without_result",
    "wrong_state",
]


State = Literal["pending", "claimed", "approved", "denied", "consumed", "expired", "cancelled"]


LIVE_STATES = ("pending", "claimed", "approved")


ENDED_STATES = ("denied", "consumed", "expired", "cancelled")


TRANSITIONS: dict[str, tuple[tuple[str, ...], State]] = {
    "claim": (("pending",), "claimed"),
    "approve": (("pending", "claimed"), "approved"),
    "deny": (("pending", "claimed"), "denied"),
    "consume": (("approved",), "consumed"),
    "cancel": (LIVE_STATES, "cancelled"),
}


MIN_TTL_MS = 10 * 1000


MAX_TTL_MS = 24 * 3600 * 1000


TOMBSTONE_MS = 24 * 3600 * 1000


REDELIVERY_MS = 5 * 60 * 1000


ATTEMPT_WINDOW_MS = 10 * 60 * 1000


MAX_ATTEMPTS = 5


MAX_CALLER_ATTEMPTS = 10


MAX_CALLERS = 1_000


MAX_LIVE = 10_000


EXPIRED_AT_ONCE = 200


"""Records that time alone ends in one command; the others wait for the next commands."""


MAX_TOMBSTONES = 10_000


MAX_DATA_ENTRIES = 16


MAX_VALUE_BYTES = 1024


MAX_DATA_BYTES = 8 * 1024  # of the data, and of the answer, as canonical JSON


MAX_SEALED_LENGTH = 8 * 1024  # characters of base64


MAX_TOTAL_BYTES = 32 * 1024 * 1024  # data, answers and sealed results together


MAX_POLICIES = 1_000


MAX_REQUIRED = 8  # claims, of one kind


MAX_TEXT = 256


MAX_BEGUN_BY = 4


class Level(NamedTuple):
    """A level at which wrong codes are counted.

    limit: in 10 minutes.  size: how many are remembered.  whose: for the refusal.
    """

    limit: int
    size: int
    whose: str


# Whoever counts names the level: machines know no addresses.  "network" is one customer's, an IPv4
# address or an IPv6 /64.
LEVELS: dict[str, Level] = {
    "person": Level(10, 10_000, "of yours"),
    "network": Level(10, 10_000, "from your network"),
    "site": Level(50, 10_000, "from around your network: sign in if you can"),
    "region": Level(500, 10_000, "from around your network: sign in if you can"),
    "all": Level(10_000, 1, "from everywhere: sign in if you can"),
}


@dataclass(frozen=True, slots=True)
class RendezvousLimits:
    """How much the machine holds.

    live, tombstones: records.  total_bytes: of what callers chose in them.  policies: kinds that have one.
    counted: at each of `LEVELS`, those of whom wrong codes are remembered, where the level does not allow
    fewer.  callers: the same in logs of release 0.1.0.
    """

    live: int = MAX_LIVE
    tombstones: int = MAX_TOMBSTONES
    total_bytes: int = MAX_TOTAL_BYTES
    policies: int = MAX_POLICIES
    counted: int = 10_000
    callers: int = MAX_CALLERS

    def size(self, level: str) -> int:
        """How many are remembered at a level."""
        return min(self.counted, LEVELS[level].size)


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """One record.

    id: 32 hex digits.  kind: what it is for, a name.  user_code_sha256: None
    once it ended.  node: the member where it began.  initiator, origin: whoever
    asks and from where, as that node saw it.  data: what the initiator says,
    to be shown to the approver.  initiator_public_key: X25519, base64, or None.
    claimed_by: whoever claimed or approved.  answer, sealed_result: one of them
    while approved, and for 5 minutes once consumed.  redemption_sha256: of
    whoever redeemed.  expires_unix_ms: expired from this replicated time on;
    changed_unix_ms: of the last transition.
    """

    id: str = field(repr=False)
    kind: str
    state: State
    user_code_sha256: str | None = field(repr=False)
    node: str
    initiator: str
    origin: str | None
    data: Mapping[str, str] = field(repr=False)
    initiator_public_key: str | None
    claimed_by: str | None
    answer: Mapping[str, str] | None = field(repr=False)
    sealed_result: str | None = field(repr=False)
    redemption_sha256: str | None = field(repr=False)
    failed_attempts: int
    created_unix_ms: int
    expires_unix_ms: int
    changed_unix_ms: int
    begun_by: tuple[str, ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """The record, as far as operators may see it: no answer, no hash."""
        hidden = ("user_code_sha256", "answer", "sealed_result", "redemption_sha256", "begun_by")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in hidden}


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of a kind: who may approve it.

    require: claims that the approver's session must have, with these values.
    allow_self: even whoever began it.
    """

    require: Mapping[str, bool | int | str] = field(default_factory=dict)
    allow_self: bool = False


DEFAULT_POLICY = Policy()


def id_of_public_key(public_key: str) -> str:
    """The id of a record whose result is sealed to this X25519 public key (base64).

    Raises InvalidInput for what is not 32 bytes in base64.
    """
    key = decode64(public_key)
    if key is None or len(key) != 32:
        raise InvalidInput("the public key is not valid: use an x25519 public key in base64")
    return sha256(b"cyoloctl rendezvous id v1" + key).hexdigest()[:32]


def weight(record: Rendezvous) -> int:
    """The bytes that the caller chose, of a record."""
    texts = (canonical_json(data) for data in (record.data, record.answer) if data)
    return sum(map(len, texts)) + len(record.sealed_result or "")


def has_result(record: Rendezvous) -> bool:
    return record.answer is not None or record.sealed_result is not None


def tombstone(record: Rendezvous, state: State, at_unix_ms: int) -> Rendezvous:
    """The tombstone of a record."""
    return replace(
        record,
        state=state,
        user_code_sha256=None,
        origin=None,
        data={},
        initiator_public_key=None,
        answer=None,
        sealed_result=None,
        changed_unix_ms=at_unix_ms,
        begun_by=(),
    )


def expired_record(record: Rendezvous) -> Rendezvous:
    # At the time it was due, not when it was noticed, so that readers see no difference.
    return tombstone(record, "expired", record.expires_unix_ms)


def without_result(record: Rendezvous) -> Rendezvous:
    return replace(record, answer=None, sealed_result=None)


def due_unix_ms(record: Rendezvous) -> int | None:
    """The moment at which time alone changes a record, short of forgetting it."""
    if record.state in LIVE_STATES:
        return record.expires_unix_ms
    return record.changed_unix_ms + REDELIVERY_MS if has_result(record) else None


def as_of(record: Rendezvous, now_unix_ms: int) -> Rendezvous | None:
    """The record at a time, None when its tombstone is forgotten."""
    due = due_unix_ms(record)
    if due is not None and due <= now_unix_ms:
        record = expired_record(record) if record.state in LIVE_STATES else without_result(record)
    ended = record.state not in LIVE_STATES
    return None if ended and record.changed_unix_ms + TOMBSTONE_MS <= now_unix_ms else record


def wrong_state(record: Rendezvous, *, consuming: bool = False) -> CyoloctlError:
    state = record.state
    if state == "denied":
        return Denied("the rendezvous was denied: start another")
    if state == "expired":
        return Expired("the rendezvous expired: start another")
    if state == "consumed":
        return Conflict("the rendezvous was already redeemed: start another")
    if state == "cancelled":
        why = (
            f"ended after {MAX_ATTEMPTS} wrong codes"
            if record.failed_attempts >= MAX_ATTEMPTS
            else "was cancelled"
        )
        return Conflict(f"the rendezvous {why}: start another")
    if consuming:
        return AuthorizationPending(f"the rendezvous is {state}, not yet approved: ask again later")
    return Conflict(f"the rendezvous was already {state}: look at it again")


def is_coherent(record: Rendezvous) -> bool:
    """Whether the machine could have made this of fields that are each valid."""
    live, state = record.state in LIVE_STATES, record.state
    life_ms = record.expires_unix_ms - record.created_unix_ms
    results = (record.answer is not None) + (record.sealed_result is not None)
    key = record.initiator_public_key
    return (
        MIN_TTL_MS <= life_ms <= MAX_TTL_MS
        and record.created_unix_ms <= record.changed_unix_ms <= record.expires_unix_ms
        and (record.changed_unix_ms == record.expires_unix_ms) == (state == "expired")
        and live == (record.user_code_sha256 is not None)
        and (live or (not record.data and record.origin is None and key is None and not record.begun_by))
        and (state == "consumed") == (record.redemption_sha256 is not None)
        and (results == 1 if state == "approved" else results <= (state == "consumed"))
        and (state != "approved" or (key is None) == (record.sealed_result is None))
        and (key is None or record.id == id_of_public_key(key))
        and (state != "pending" or record.claimed_by is None)
        and (state not in ("claimed", "approved", "denied", "consumed") or record.claimed_by is not None)
        and (record.failed_attempts < MAX_ATTEMPTS or state == "cancelled")
    )


def decode64(spelt: str) -> bytes | None:
    """The bytes in canonical base64, None for anything else."""
    try:
        return decode_base64(spelt)
    except ValueError:
        return None
