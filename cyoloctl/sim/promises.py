"""Promises across the machines, each watched by a few lines that know nothing of how it is kept.

- A rendezvous is redeemed by one party, after somebody approved it who had not begun it.
- A session that was revoked, or a token of it that was replaced, is not used again while tokens of it live.
- Credentials that were revoked do not count again.
- The name of a member that was removed is never that of a member again.
- A join token admits one node.
- A key that was destroyed is in no other state again.
- A lock has one holder at a time, none loses it early, and the tokens of holders increase.
- Every change of a key has a higher revision than all before it, and conditions and fences hold.
- Cluster time is set by one of two who set it at once.

They are told of every command that was carried out, once, and what it was
answered.  Where time is set back, what has an end may end later; a revocation may be
forgotten once its life has passed in steady time, and its end in cluster time.
Where a table is full, what `forgetting` says makes room in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cyoloctl.model import Stamp
from cyoloctl.replicated.command import Command
from cyoloctl.sim.forgetting import Destroyed, Register
from cyoloctl.sim.kv_operations import Table
from cyoloctl.sim.lock_operations import Leases
from cyoloctl.state import StateLimits
from cyoloctl.text import Json

__all__ = ["Promises"]

_ALL = 2**60
_LIMITS = StateLimits()


@dataclass(frozen=True, slots=True)
class _Revoked:
    """What is refused up to a level, for how long in cluster time and in steady time at least."""

    level: int
    until_ms: int
    steady_end_ms: int


class Promises:
    """What was promised so far."""

    def __init__(self, limits: StateLimits = _LIMITS) -> None:
        self._begun: dict[str, set[str]] = {}  # rendezvous -> digests of who began it
        self._lenient: set[str] = set()  # kinds in which people may approve themselves, or could
        self._kinds: dict[str, str] = {}
        self._approved: set[str] = set()
        self._redeemed: dict[str, str] = {}
        self._ended: set[str] = set()
        self._sids: dict[str, _Revoked] = {}  # session -> lowest generation
        self._subs: dict[str, _Revoked] = {}  # subject -> latest time of issue
        self._steady_ms = 0
        self._register = Register(limits.credentials.credentials)
        self._removed: set[str] = set()
        self._admitted: dict[tuple[str, str], str] = {}  # name, public key -> the request it admitted
        self._destroyed = Destroyed(limits.keys.destroyed)
        self._epoch = 0
        self._leases = Leases(limits.locks.locks)
        self._table = Table()

    def applied(self, request: Command, answer: Json, stamp: Stamp) -> str | None:
        """The promise that a command broke which was carried out just now, at a replicated time."""
        self._steady_ms, now_unix_ms = stamp.steady_ms, stamp.time_unix_ms
        if request.machine == "lock":
            return self._leases.applied(request, answer, stamp)
        if request.machine == "kv":
            held = self._leases.holds(request.arguments.get("fence"), stamp)
            return self._table.applied(request, answer, held, now_unix_ms)
        check = _CHECKS.get((request.machine, request.operation))
        value = answer.get("value")
        if check is None or value is None:
            return None
        return check(self, request.arguments, value, now_unix_ms)

    # Rendezvous.

    def _begin(self, given: Json, value: Json, now_ms: int) -> str | None:
        id = given["id"]  # it may have been used long ago
        self._begun[id], self._kinds[id] = set(given.get("begun_by", ())), given["kind"]
        self._approved.discard(id)
        self._ended.discard(id)
        self._redeemed.pop(id, None)
        return None

    def _policy(self, given: Json, value: Json, now_ms: int) -> str | None:
        if given["allow_self"]:
            self._lenient.add(given["kind"])
        else:
            self._lenient.discard(given["kind"])
        return None

    def _claim(self, given: Json, value: Json, now_ms: int) -> str | None:
        id = given["id"]
        own = not self._begun[id].isdisjoint(given.get("actors", ()))
        if own and self._kinds[id] not in self._lenient:
            return f"rendezvous {id} is approved by whoever began it"
        if id in self._ended or id in self._approved:
            return f"rendezvous {id} is claimed or approved after it was approved or had ended"
        return None

    def _approve(self, given: Json, value: Json, now_ms: int) -> str | None:
        wrong = self._claim(given, value, now_ms)
        self._approved.add(given["id"])
        return wrong

    def _end(self, given: Json, value: Json, now_ms: int) -> str | None:
        again = given["id"] in self._ended
        self._ended.add(given["id"])
        return f"rendezvous {given['id']} ended twice" if again else None

    def _consume(self, given: Json, value: Json, now_ms: int) -> str | None:
        id, who = given["id"], given["redemption_sha256"]
        if id not in self._approved:
            return f"rendezvous {id} is redeemed without an approval"
        if id in self._ended and id not in self._redeemed:
            return f"rendezvous {id} is redeemed after it had ended"
        self._ended.add(id)
        return None if self._redeemed.setdefault(id, who) == who else f"rendezvous {id} is redeemed twice"

    # Sessions.

    def _advance(self, given: Json, value: Json, now_ms: int) -> str | None:
        known, of_subject = self._sids.get(given["sid"]), self._subs.get(given["sub"])
        if known is not None and given["gen"] < known.level and now_ms < known.until_ms:
            return f"session {given['sid']} is used at generation {given['gen']}, {known.level} is the lowest"
        if (
            of_subject is not None
            and given["iat_unix_s"] <= of_subject.level
            and now_ms < of_subject.until_ms
        ):
            return f"a session of {given['sub']} is used that was revoked"
        return self._raise_sid(given, given["gen"] + 1, value, now_ms)

    def _revoke_sid(self, given: Json, value: Json, now_ms: int) -> str | None:
        return self._raise_sid(given, _ALL, value, now_ms)

    def _raise_sid(self, given: Json, low: int, value: Json, now_ms: int) -> str | None:
        sid = given["sid"]
        old = self._sids.get(sid)
        if old is not None and not self._may_be_forgotten(old, now_ms):
            low = max(low, old.level)
        shown = value["minimum_gen"]
        if shown is not None and shown < low:
            return f"session {sid} has the lowest generation {shown}, not {low}"
        self._sids[sid] = self._revoked(old, low, given, value, now_ms)
        return None

    def _revoked(self, old: _Revoked | None, level: int, given: Json, value: Json, now_ms: int) -> _Revoked:
        until_ms = value["until_unix_ms"]
        # In steady time it is kept for what was asked for now, or before.  An earlier end may be
        # further away by now than it was then, where cluster time was set back.
        asked_ms = until_ms if given["until_unix_ms"] is None else given["until_unix_ms"]
        steady_end = self._steady_ms + max(min(asked_ms, until_ms) - now_ms, 0)
        if old is None:
            return _Revoked(level, until_ms, steady_end)
        return _Revoked(level, max(until_ms, old.until_ms), max(steady_end, old.steady_end_ms))

    def _may_be_forgotten(self, revoked: _Revoked, now_ms: int) -> bool:
        return revoked.until_ms <= now_ms and revoked.steady_end_ms <= self._steady_ms

    def _revoke_sub(self, given: Json, value: Json, now_ms: int) -> str | None:
        self._subs[given["sub"]] = self._revoked(
            self._subs.get(given["sub"]), value["issued_before_unix_s"], given, value, now_ms
        )
        issued = given["issued_before_unix_s"]
        if issued is not None and value["issued_before_unix_s"] < issued:
            return f"sessions of {given['sub']} are revoked to {value}, not to {issued}"
        return None

    # Credentials, members, keys, time.

    def _has_credentials(self, given: Json, value: Json, now_ms: int) -> str | None:
        if value["revoked_unix_ms"] is None and self._register.is_revoked(value["key_hash"]):
            return f"credentials {value['name']} count again after they were revoked"
        return self._register.put(value, now_ms, renewed=False)

    def _renew(self, given: Json, value: Json, now_ms: int) -> str | None:
        if value["revoked_unix_ms"] is None and self._register.is_revoked(value["key_hash"]):
            return f"credentials {value['name']} count again after they were revoked"
        return self._register.put(value, now_ms, renewed=True)

    def _revoke(self, given: Json, value: Json, now_ms: int) -> str | None:
        self._register.revoke(value["name"], now_ms)
        return None if value["revoked_unix_ms"] is not None else f"{value} was not revoked"

    def _is_member(self, given: Json, value: Json, now_ms: int) -> str | None:
        return f"{given['name']} is a member again" if given["name"] in self._removed else None

    def _admit(self, given: Json, value: Json, now_ms: int) -> str | None:
        token = (given["name"], given.get("public_key") or given["secret_sha256"])
        if self._admitted.setdefault(token, given["request_sha256"]) != given["request_sha256"]:
            return f"the invitation of {given['name']} admits two"
        return self._is_member(given, value, now_ms)

    def _invite(self, given: Json, value: Json, now_ms: int) -> str | None:
        token = (given["name"], given.get("public_key") or given["secret_sha256"])
        self._admitted.pop(token, None)
        return self._is_member(given, value, now_ms)

    def _remove(self, given: Json, value: Json, now_ms: int) -> str | None:
        known = given["name"] in self._removed
        self._removed.add(given["name"])
        return f"{given['name']} is removed twice" if value["removed"] is known else None

    def _has_key(self, given: Json, value: Json, now_ms: int) -> str | None:
        if value["state"] == "destroyed":
            self._destroyed.add(value["key_id"], now_ms)
        elif value["key_id"] in self._destroyed:
            return f"key {value['key_id']} is {value['state']} after it was destroyed"
        return None

    def _set_time(self, given: Json, value: Json, now_ms: int) -> str | None:
        known, self._epoch = self._epoch, value["epoch"]
        if given["epoch"] != known or value["epoch"] != known + 1:
            return f"the time of epoch {known} is set by {given}: {value}"
        from_ms, to_s = value["from_unix_ms"], given["to_unix_ms"] // 1000 + 5
        if given["to_unix_ms"] < from_ms:
            self._destroyed.set_back(given["to_unix_ms"])
            self._table.set_back(from_ms, given["to_unix_ms"])
            for revoked in (self._sids, self._subs):
                for key in [key for key, one in revoked.items() if self._may_be_forgotten(one, from_ms)]:
                    del revoked[key]
            # What was revoked in a future that never came is until now.
            for sub, one in self._subs.items():
                self._subs[sub] = replace(one, level=min(one.level, to_s))
        return None


_Check = Callable[[Promises, Json, Any, int], str | None]

_CHECKS: dict[tuple[str, str], _Check] = {
    ("rendezvous", "start"): Promises._begin,
    ("rendezvous", "begin"): Promises._begin,
    ("rendezvous", "set_policy"): Promises._policy,
    ("rendezvous", "claim"): Promises._claim,
    ("rendezvous", "claim_as"): Promises._claim,
    ("rendezvous", "approve"): Promises._approve,
    ("rendezvous", "approve_as"): Promises._approve,
    ("rendezvous", "deny"): Promises._end,
    ("rendezvous", "cancel"): Promises._end,
    ("rendezvous", "consume"): Promises._consume,
    ("sessions", "advance"): Promises._advance,
    ("sessions", "advance_to"): Promises._advance,
    ("sessions", "revoke_sid"): Promises._revoke_sid,
    ("sessions", "revoke_sub"): Promises._revoke_sub,
    ("credentials", "create"): Promises._has_credentials,
    ("credentials", "renew"): Promises._renew,
    ("credentials", "bootstrap"): Promises._has_credentials,
    ("credentials", "revoke"): Promises._revoke,
    ("members", "issue_invitation"): Promises._invite,
    ("members", "invite_for"): Promises._invite,
    ("members", "invite_witness"): Promises._invite,
    ("members", "invite"): Promises._invite,
    ("members", "admit"): Promises._admit,
    ("members", "redeem"): Promises._admit,
    ("members", "announce"): Promises._is_member,
    ("members", "put"): Promises._is_member,
    ("members", "remove"): Promises._remove,
    **{("keys", name): Promises._has_key for name in ("generate", "make", "wrap", "promote", "rotate")},
    **{("keys", name): Promises._has_key for name in ("disable", "enable", "destroy")},
    ("clock", "set"): Promises._set_time,
}
