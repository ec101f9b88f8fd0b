"""Transactions that begin at one actor and end at another, as the cluster agreed on them.

An initiator starts a record and waits; somebody else finds it by its id or user
code, sees who asks for what, and approves or denies; the initiator redeems the
answer once.  The words are RFC 8628's: the id is the device code.

====================  ===========================  ===========
operation             from                         to
====================  ===========================  ===========
start                 (none)                       pending
claim                 pending                      claimed
approve               pending, claimed             approved
deny                  pending, claimed             denied
consume               approved                     consumed
cancel                pending, claimed, approved   cancelled
(time)                pending, claimed, approved   expired
(5 wrong codes)       pending, claimed, approved   cancelled
====================  ===========================  ===========

Each is one compare-and-set.  An approval without a claim claims for the same
actor; one of a claimed record must come from the actor who claimed it, while a
denial or cancellation may come from anybody, because it grants nothing.  What
has ended leaves a tombstone without data for 24 hours, so that "redeemed",
"denied" and "expired" can be told from "unknown".

What each secret allows
-----------------------
The *id* (128 bits, random or the hash of the initiator's public key) is all that
redeeming takes: it is shown to the initiator and to operators, never on the
approver's page, and is not hashed here, because whoever reads the journal reads
an unsealed answer beside it.  An answer that must stay secret from the nodes'
disks is sealed: the id then commits to the key, so that nobody can put their own
key under an id that the initiator shows, and the machine takes no other answer.
The *user code* is kept as a hash, which only keeps it out of sight: 35
bits are searched in seconds by whoever has the state.  Guessing it from outside
is what is counted, here and not per node: 5 wrong codes against a record that was
named; else 10 in 10 minutes of one person, or of somebody unknown the network and
what that is part of, in widening steps (``LEVELS``).  Nobody is refused for being
new: where a table of counters is full the oldest one goes, and what it counted is
still counted by the wider ones.  So at most 10,000 guesses of unknown people in 10
minutes meet 20**8 codes: one in 25,000 finds one of 100 live records.

Nobody approves themselves
--------------------------
A record keeps digests of whoever began it: browser, session, person, credentials.
Whoever claims or approves brings theirs, and one in common is a refusal, unless the
kind's policy allows it.  A policy may also demand claims of the approver's session.
It is judged here, by the policy at that place in the log, so that a node that has
not heard of it yet lets nobody through.

Exactly one redemption
----------------------
The initiator that redeems brings the hash of a secret of its own, and is told the same answer
again for 5 minutes; everybody else is told that it was redeemed.  So a client whose
node died asks another one and cannot lose, or double, the answer.  ``consume`` does not
hold the answer in its result, which the request tables would keep for a day: read
it with ``answer`` after a linearizable barrier.  The journal keeps the approval itself
until it is compacted: what must not be read there is sealed.  A refusal is remembered under its
request id like any result: consume only what ``get`` shows as approved.

Time is the replicated time of ``ClusterState``: a record that is due reads as expired
before the next operation makes it so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import Any, ClassVar

from cyoloctl.errors import (
    AlreadyExists,
    ApprovalRefused,
    Conflict,
    InvalidInput,
    NotFound,
    Overloaded,
    SlowDown,
)
from cyoloctl.rendezvous.checks import (
    APPROVAL,
    APPROVER,
    POLICY,
    START,
    STEP,
    check_begun_by,
    check_counted,
    check_digest,
    check_id,
    check_kind,
    check_line,
    exported,
    optional,
    restored,
    restored_miss,
    restored_table,
)
from cyoloctl.rendezvous.records import (
    ATTEMPT_WINDOW_MS,
    DEFAULT_POLICY,
    EXPIRED_AT_ONCE,
    LEVELS,
    LIVE_STATES,
    MAX_ATTEMPTS,
    MAX_CALLER_ATTEMPTS,
    TOMBSTONE_MS,
    TRANSITIONS,
    Policy,
    Rendezvous,
    RendezvousLimits,
    State,
    as_of,
    due_unix_ms,
    expired_record,
    has_result,
    id_of_public_key,
    is_coherent,
    tombstone,
    weight,
    without_result,
    wrong_state,
)
from cyoloctl.replicated.checks import (
    checked,
    exact,
    json_object,
)
from cyoloctl.replicated.command import Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Observed, Operations, Rows
from cyoloctl.text import canonical_json

__all__ = ["RendezvousMachine"]

_LIMITS = RendezvousLimits()


class RendezvousMachine(Observed, Machine):
    """Operations and their answers; a transition answers ``{id, state}``:

    ``start {id, kind, user_code_sha256, ttl_ms, node, initiator, origin, data,
    initiator_public_key}`` -> ``{id, state, expires_unix_ms}``.  ttl_ms: 10 s
    to 24 h.  invalid_input for an id that is not that of the key,
    already_exists for an id that was used, conflict for the code of a live
    record (draw another), overloaded beyond 10,000 live records or 32 MiB.
    ``begin {..., begun_by}``: as start, by somebody who is known: 0 to 4 digests.
    ``try_code {id, user_code_sha256, counted}`` -> ``{id, attempts_left}``:
    the live record of a code, or null for a wrong code, which is counted: against
    the record when an id is given, else for each ``[level, digest]`` of counted
    (``LEVELS``).  Without an id, slow_down, for a right code too, when one of them
    has none left.
    ``claim_as {id, expected, by, actors, claims}``: actors are digests as in
    begun_by; claims the claims of the approver's session that the policy names.
    approval_refused when the kind's policy says no.  ``deny {id, expected, by}``,
    ``cancel {id, expected}``.
    ``approve_as {id, expected, by, answer, sealed_result, actors, claims}``: the
    result is sealed and answer null when the initiator gave a key, else the
    reverse; invalid_input otherwise.  overloaded beyond 32 MiB.
    ``consume {id, expected, redemption_sha256}``: may be repeated with the same
    redemption for 5 minutes; read the answer with ``answer``.
    authorization_pending before approval.

    ``set_policy {kind, require, allow_self}`` -> the same: for the records that
    there are too.  conflict beyond 1,000 kinds.

    Logs of release 0.1.0 have ``claim`` and ``approve`` without actors and claims,
    and ``attempt`` with one caller_sha256, of whom 1,000 are remembered and
    unknown ones refused while all are; no node may propose them or ``start``.

    expected: the state that the caller saw, or null for any.  by: whoever acts.
    A record in another state is a conflict that says which, rendezvous_denied or
    expired_token; not_found for an unknown one.

    on_change: called with a record's id and the log index after that record
    was made or changed, which for an expiry is the next operation's.  Not
    replicated; what it raises is dropped.
    """

    #: Which node may propose what; "nobody" what only old logs hold; any node what is not listed.
    NAME = "rendezvous"
    PROPOSER = "any"
    PROPOSERS: ClassVar[dict[str, str]] = {
        "set_policy": "voter",
        "start": "nobody",
        "attempt": "nobody",
        "claim": "nobody",
        "approve": "nobody",
    }

    def __init__(self, limits: RendezvousLimits = _LIMITS) -> None:
        super().__init__(_OPERATIONS)
        self._limits = limits
        self._load({}, {}, {}, {})

    def _load(
        self,
        records: dict[str, Rendezvous],
        misses: dict[str, tuple[int, int]],
        tries: dict[str, dict[str, tuple[int, int]]],
        policies: dict[str, Policy],
    ) -> None:
        self._records = records
        # As misses, by level; each in the order of its times, so that the first is the oldest.
        self._tries = {level: tries.get(level, {}) for level in LEVELS}
        self._policies = policies
        self._codes = {r.user_code_sha256: r.id for r in records.values() if r.user_code_sha256 is not None}
        self._misses = misses  # caller -> wrong codes, and the time of the first
        self._bytes = sum(map(weight, records.values()))
        self._ended = [(r.changed_unix_ms, r.id) for r in records.values() if r.state not in LIVE_STATES]
        heapify(self._ended)  # exactly the tombstones, the oldest first
        self._set_timers()

    def _set_timers(self) -> None:
        # When a record changes by time alone.  What was overtaken stays until it is due.
        self._timers = [(due, r.id) for r in self._records.values() if (due := due_unix_ms(r)) is not None]
        heapify(self._timers)

    def get(self, id: str, now_unix_ms: int) -> Rendezvous | None:
        """The record as it is at a replicated time, tombstones too."""
        record = self._records.get(id)
        return None if record is None else as_of(record, now_unix_ms)

    def records(self, now_unix_ms: int) -> list[Rendezvous]:
        """All records as they are at a replicated time, tombstones too, the oldest first."""
        found = (as_of(record, now_unix_ms) for record in self._records.values())
        return sorted(
            (record for record in found if record is not None), key=lambda r: (r.created_unix_ms, r.id)
        )

    def live(self, now_unix_ms: int) -> list[Rendezvous]:
        """The records that await something at a replicated time, in no order."""
        found = map(self._records.__getitem__, self._codes.values())
        return [record for record in found if now_unix_ms < record.expires_unix_ms]

    def counts(self, now_unix_ms: int) -> Counter[State]:
        """Number of `records` in each state, at a third of the cost."""
        found: Counter[State] = Counter()
        for record in self._records.values():
            ended = record.state not in LIVE_STATES
            end = record.changed_unix_ms if ended else record.expires_unix_ms
            if now_unix_ms < end:
                found[record.state] += 1
            elif now_unix_ms < end + TOMBSTONE_MS:
                found[record.state if ended else "expired"] += 1
        return found

    def policy(self, kind: str) -> Policy:
        """The policy of this kind; the default where none was set."""
        return self._policies.get(kind, DEFAULT_POLICY)

    def policies(self) -> dict[str, Policy]:
        """Those that are not the default, by kind."""
        return dict(sorted(self._policies.items()))

    def refusal(
        self, record: Rendezvous, actors: Iterable[str], claims: Mapping[str, object]
    ) -> ApprovalRefused | None:
        """Why somebody may not claim or approve a record, None when they may; actors, claims: of them."""
        policy = self.policy(record.kind)
        if not policy.allow_self and not set(record.begun_by).isdisjoint(actors):
            return ApprovalRefused("whoever began a rendezvous cannot approve it: let somebody else approve")
        for name, value in sorted(policy.require.items()):  # the message is part of the state: one order
            # By JSON, in which true and 1 differ.
            if name not in claims or canonical_json(claims[name]) != canonical_json(value):
                shown = value if type(value) is str else canonical_json(value)
                return ApprovalRefused(
                    f"a rendezvous of kind {record.kind} is approved only by somebody whose session has the "
                    f"claim {name}={shown}: sign in so that it has, and show the session"
                )
        return None

    def find_code(self, user_code_sha256: str, now_unix_ms: int) -> str | None:
        """The id of the live record of a code.

        It counts nothing: what comes from outside goes through ``attempt``.
        """
        id = self._codes.get(user_code_sha256)
        return id if id is not None and now_unix_ms < self._records[id].expires_unix_ms else None

    def answer(
        self, id: str, redemption_sha256: str, now_unix_ms: int
    ) -> tuple[Mapping[str, str] | None, str | None] | None:
        """Answer or sealed result, for whoever redeemed it; None for others and after 5 minutes."""
        record = self.get(id, now_unix_ms)
        if record is None or record.redemption_sha256 != redemption_sha256 or not has_result(record):
            return None
        return record.answer, record.sealed_result

    def _start(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        id, code, key = given["id"], given["user_code_sha256"], given["initiator_public_key"]
        if key is not None and id != id_of_public_key(key):
            raise Refused(InvalidInput("the id is not that of the public key: derive it from the key"))
        if id in self._records:
            raise Refused(AlreadyExists("the id was used before: make a new one, or a new key"))
        if code in self._codes:
            raise Refused(Conflict("another rendezvous has this user code: draw another"))
        if len(self._records) - len(self._ended) >= self._limits.live:
            raise Refused(Overloaded(f"there are {self._limits.live} rendezvous: wait until some end"))
        expires_ms = now_unix_ms + given.pop("ttl_ms")
        begun_by = tuple(given.pop("begun_by", ()))
        record = Rendezvous(
            **given,
            state="pending",
            claimed_by=None,
            answer=None,
            sealed_result=None,
            redemption_sha256=None,
            failed_attempts=0,
            created_unix_ms=now_unix_ms,
            expires_unix_ms=expires_ms,
            changed_unix_ms=now_unix_ms,
            begun_by=begun_by,
        )
        self._refuse_heavy(weight(record))
        self._put(record, index)
        return {"id": id, "state": "pending", "expires_unix_ms": expires_ms}

    def _try_record(self, id: str, code: str, index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._existing(id)
        if record.state not in LIVE_STATES:
            raise Refused(wrong_state(record))
        failed = record.failed_attempts
        if record.user_code_sha256 == code:
            return {"id": id, "attempts_left": MAX_ATTEMPTS - failed}
        record = replace(record, failed_attempts=failed + 1)
        self._put(record if failed + 1 < MAX_ATTEMPTS else tombstone(record, "cancelled", now_unix_ms), index)
        return {"id": None, "attempts_left": MAX_ATTEMPTS - failed - 1}

    def _try_code(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        id, code, counted = given["id"], given["user_code_sha256"], given["counted"]
        if id is not None:
            return self._try_record(id, code, index, now_unix_ms)
        for table in self._tries.values():
            # A function of the time alone, whoever asks.
            while table and (oldest := next(iter(table.items())))[1][1] + ATTEMPT_WINDOW_MS <= now_unix_ms:
                del table[oldest[0]]
        failed = {level: self._tries[level].get(who, (0, now_unix_ms)) for level, who in counted}
        for level, (count, _) in failed.items():
            if count >= LEVELS[level].limit:
                whose = LEVELS[level].whose
                raise Refused(SlowDown(f"too many wrong codes {whose}; wait 10 minutes, or use the id"))
        found = self._codes.get(code)
        if found is None:
            for level, who in counted:
                table, (count, since_ms) = self._tries[level], failed[level]
                if who not in table and len(table) >= self._limits.size(level):
                    del table[next(iter(table))]
                table[who] = (count + 1, since_ms)
        left = min(LEVELS[level].limit - count for level, (count, _) in failed.items())
        return {"id": found, "attempts_left": left - (found is None)}

    def _set_policy(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        kind, policy = given["kind"], Policy(given["require"], given["allow_self"])
        if policy == DEFAULT_POLICY:
            self._policies.pop(kind, None)
        elif kind not in self._policies and len(self._policies) >= self._limits.policies:
            raise Refused(
                Conflict(f"{self._limits.policies} kinds have a policy: reset one (`rendezvous policy`)")
            )
        else:
            self._policies[kind] = policy
        return {"kind": kind, "require": dict(policy.require), "allow_self": policy.allow_self}

    def _attempt(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        id, code, caller = given["id"], given["user_code_sha256"], given["caller_sha256"]
        if id is not None:
            return self._try_record(id, code, index, now_unix_ms)
        self._misses = {
            key: miss for key, miss in self._misses.items() if now_unix_ms < miss[1] + ATTEMPT_WINDOW_MS
        }
        if caller not in self._misses and len(self._misses) >= self._limits.callers:
            raise Refused(SlowDown("too many wrong codes from everywhere: wait 10 minutes, or use the id"))
        failed, since_ms = self._misses.get(caller, (0, now_unix_ms))
        if failed >= MAX_CALLER_ATTEMPTS:
            raise Refused(SlowDown("too many wrong codes: wait 10 minutes, or use the id"))
        found = self._codes.get(code)
        if found is None:
            failed += 1
            self._misses[caller] = (failed, since_ms)
        return {"id": found, "attempts_left": MAX_CALLER_ATTEMPTS - failed}

    def _claim(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._enter("claim", given)
        self._refuse_approver(record, given)
        return self._moved(
            replace(record, state="claimed", claimed_by=given["by"], changed_unix_ms=now_unix_ms), index
        )

    def _approve(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._enter("approve", given)
        by, answer, sealed = given["by"], given["answer"], given["sealed_result"]
        self._refuse_approver(record, given)
        if record.claimed_by not in (None, by):
            raise Refused(Conflict("the rendezvous was claimed by somebody else: only they can approve it"))
        if (sealed is None) == (answer is None) or (sealed is None) != (record.initiator_public_key is None):
            raise Refused(
                InvalidInput(
                    "the answer has the wrong form: seal it when the initiator gave a key, and only then"
                )
            )
        approved = replace(
            record,
            state="approved",
            claimed_by=by,
            answer=answer,
            sealed_result=sealed,
            changed_unix_ms=now_unix_ms,
        )
        self._refuse_heavy(weight(approved) - weight(record))
        return self._moved(approved, index)

    def _deny(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._enter("deny", given)
        return self._moved(tombstone(replace(record, claimed_by=given["by"]), "denied", now_unix_ms), index)

    def _cancel(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        record = self._enter("cancel", given)
        return self._moved(tombstone(record, "cancelled", now_unix_ms), index)

    def _consume(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        id, redemption = given["id"], given["redemption_sha256"]
        if self.answer(id, redemption, now_unix_ms) is not None:
            return {"id": id, "state": "consumed"}  # it asks for the answer that it lost
        record = self._enter("consume", given)
        consumed = replace(
            tombstone(record, "consumed", now_unix_ms),
            answer=record.answer,
            sealed_result=record.sealed_result,
            redemption_sha256=redemption,
        )
        return self._moved(consumed, index)

    def _refuse_approver(self, record: Rendezvous, given: dict[str, Any]) -> None:
        refusal = self.refusal(record, given.get("actors", ()), given.get("claims", {}))
        if refusal is not None:
            raise Refused(refusal)

    def set_back(self, from_unix_ms: int, to_unix_ms: int) -> None:
        """The time was set back: records of that future begin earlier, and last as long as before."""
        less_ms = from_unix_ms - to_unix_ms

        def moved(record: Rendezvous) -> Rendezvous:
            if record.created_unix_ms <= to_unix_ms:
                return record
            return replace(
                record,
                created_unix_ms=max(0, record.created_unix_ms - less_ms),
                changed_unix_ms=max(0, record.changed_unix_ms - less_ms),
                expires_unix_ms=max(0, record.expires_unix_ms - less_ms),
            )

        misses = {
            caller: (count, min(since_ms, to_unix_ms)) for caller, (count, since_ms) in self._misses.items()
        }
        tries = {
            level: {who: (count, min(since_ms, to_unix_ms)) for who, (count, since_ms) in table.items()}
            for level, table in self._tries.items()
        }
        records = {id: moved(record) for id, record in self._records.items()}
        self._load(records, misses, tries, self._policies)

    def _existing(self, id: str) -> Rendezvous:
        record = self._records.get(id)
        if record is None:
            raise Refused(NotFound("there is no such rendezvous: it never was, or it ended long ago"))
        return record

    def _enter(self, operation: str, given: dict[str, Any]) -> Rendezvous:
        """The record, in a state that the operation leaves."""
        record = self._existing(given["id"])
        if record.state not in TRANSITIONS[operation][0]:
            raise Refused(wrong_state(record, consuming=operation == "consume"))
        if given["expected"] not in (None, record.state):
            raise Refused(
                Conflict(f"the rendezvous is {record.state}, not {given['expected']}: look at it again")
            )
        return record

    def _moved(self, record: Rendezvous, index: int) -> dict[str, Any]:
        self._put(record, index)
        return {"id": record.id, "state": record.state}

    def _refuse_heavy(self, more: int) -> None:
        most = self._limits.total_bytes
        if self._bytes + more > most:
            raise Refused(Overloaded(f"the rendezvous hold {most >> 20} MiB already: wait until some end"))

    def _before(self, given: dict[str, Any], index: int, now_unix_ms: int) -> None:
        """Apply what time changed: of the records that the command is about, and of the oldest of all others.

        Of those at most `EXPIRED_AT_ONCE`, so that no command takes long; the rest is left to the next
        ones, and shown as it is by now meanwhile (`_at`).
        """
        for id in (given.get("id"), self._codes.get(given.get("user_code_sha256", ""))):
            while id is not None and self._pass(id, index, now_unix_ms):
                pass
        left = EXPIRED_AT_ONCE
        while left and self._timers and self._timers[0][0] <= now_unix_ms:
            left -= self._pass(heappop(self._timers)[1], index, now_unix_ms)
        while self._ended and self._ended[0][0] + TOMBSTONE_MS <= now_unix_ms:
            self._forget_oldest()

    def _pass(self, id: str, index: int, now_unix_ms: int) -> bool:
        """Let time change a record once; False when it does not."""
        record = self._records.get(id)
        due = None if record is None else due_unix_ms(record)
        if record is None or due is None or due > now_unix_ms:
            return False
        self._put(expired_record(record) if record.state in LIVE_STATES else without_result(record), index)
        return True

    def _forget_oldest(self) -> None:
        self._bytes -= weight(self._records.pop(heappop(self._ended)[1]))

    def _put(self, record: Rendezvous, index: int) -> None:
        old = self._records.get(record.id)
        self._records[record.id] = record
        self._bytes += weight(record) - (0 if old is None else weight(old))
        if record.user_code_sha256 is not None:
            self._codes[record.user_code_sha256] = record.id
        elif old is not None and old.user_code_sha256 is not None:
            del self._codes[old.user_code_sha256]
            heappush(self._ended, (record.changed_unix_ms, record.id))
            if len(self._ended) > self._limits.tombstones:
                self._forget_oldest()
        due = due_unix_ms(record)
        if due is not None and (old is None or due != due_unix_ms(old)):
            heappush(self._timers, (due, record.id))
            if len(self._timers) > 2 * len(self._records) + 64:
                self._set_timers()
        self._changed(record.id, index)

    def export_state(self) -> dict[str, Any]:
        """The state for the snapshot, the same for the same state whatever its history."""
        return self.freeze()()

    def freeze(self) -> Callable[[], dict[str, Any]]:
        """`export_state` of this moment, whatever comes meanwhile; the work is in the returned function."""
        records, misses, policies = self._records.copy(), self._misses.copy(), self._policies.copy()
        tries = {level: table.copy() for level, table in self._tries.items()}

        def export() -> dict[str, Any]:
            state: dict[str, Any] = {
                "misses": {caller: list(miss) for caller, miss in misses.items()},
                "records": {id: exported(record) for id, record in records.items()},
            }
            # What release 0.1.0 did not have is there only when there is something in it.
            if any(tries.values()):
                state["tries"] = {
                    level: [[who, count, since_ms] for who, (count, since_ms) in table.items()]
                    for level, table in tries.items()
                    if table
                }
            if policies:
                state["policies"] = {
                    kind: {"require": dict(policy.require), "allow_self": policy.allow_self}
                    for kind, policy in policies.items()
                }
            return state

        return export

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        later: dict[str, object] = {"tries": {}, "policies": {}}
        given = json_object(state)
        if any(given.get(name) == {} for name in later):
            raise ValueError("a field that is left out when it is empty is there")
        top, limits = exact(later | given, {"misses", "records", *later}), self._limits
        try:
            records = {
                check_id(id): restored(id, record) for id, record in json_object(top["records"]).items()
            }
            misses = {
                check_digest(caller): restored_miss(miss)
                for caller, miss in json_object(top["misses"]).items()
            }
            tries = {
                level: restored_table(level, table, limits)
                for level, table in json_object(top["tries"]).items()
            }
            policies = {
                check_kind(kind): Policy(**checked(policy, POLICY))
                for kind, policy in json_object(top["policies"]).items()
            }
        except Malformed:
            raise ValueError("a rendezvous is not valid") from None
        live = [record for record in records.values() if record.state in LIVE_STATES]
        if (
            not all(map(is_coherent, records.values()))
            or len({record.user_code_sha256 for record in live}) != len(live)
            or len(live) > limits.live
            or len(records) - len(live) > limits.tombstones
            or len(misses) > limits.callers
            or len(policies) > limits.policies
            or DEFAULT_POLICY in policies.values()
            or sum(map(weight, records.values())) > limits.total_bytes
        ):
            raise ValueError("rendezvous contradict each other")
        return lambda: self._load(records, misses, tries, policies)


# Each check returns its value or raises Malformed.


_OPERATIONS: Operations = {
    "start": (START, RendezvousMachine._start),
    "begin": ({**START, "begun_by": check_begun_by}, RendezvousMachine._start),
    "try_code": (
        {"id": optional(check_id), "user_code_sha256": check_digest, "counted": check_counted},
        RendezvousMachine._try_code,
    ),
    "claim_as": ({**STEP, "by": check_line, **APPROVER}, RendezvousMachine._claim),
    "approve_as": ({**APPROVAL, **APPROVER}, RendezvousMachine._approve),
    "set_policy": ({"kind": check_kind, **POLICY}, RendezvousMachine._set_policy),
    "attempt": (
        {"id": optional(check_id), "user_code_sha256": check_digest, "caller_sha256": check_digest},
        RendezvousMachine._attempt,
    ),
    "claim": ({**STEP, "by": check_line}, RendezvousMachine._claim),
    "approve": (APPROVAL, RendezvousMachine._approve),
    "deny": ({**STEP, "by": check_line}, RendezvousMachine._deny),
    "cancel": (STEP, RendezvousMachine._cancel),
    "consume": ({**STEP, "redemption_sha256": check_digest}, RendezvousMachine._consume),
}
