"""The rendezvous machine against a slow, obvious model; what holds whatever is done in whatever order."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from cyoloctl.rendezvous import machine as module
from cyoloctl.rendezvous.machine import RendezvousMachine
from cyoloctl.rendezvous.records import (
    ATTEMPT_WINDOW_MS,
    LEVELS,
    MIN_TTL_MS,
    REDELIVERY_MS,
    TOMBSTONE_MS,
    RendezvousLimits,
    id_of_public_key,
)
from cyoloctl.replicated.command import Malformed, Refused
from cyoloctl.text import canonical_json

KEY = "A" * 43 + "="
IDS = ["1" * 32, "2" * 32, id_of_public_key(KEY)]
DIGESTS = ["a" * 64, "b" * 64, "c" * 64]
LIVE = {"pending", "claimed", "approved"}

ids = st.sampled_from(IDS)
digests = st.sampled_from(DIGESTS)
people = st.sampled_from(["bob", "carol"])
expected = st.sampled_from([None, None, None, "pending", "claimed", "approved", "denied"])
known = st.lists(st.sampled_from(DIGESTS), unique=True, max_size=2).map(sorted)
claims = st.sampled_from([{}, {"mfa": True}, {"mfa": 1}, {"mfa": "true"}, {"mfa": True, "group": "ops"}])
counted = st.fixed_dictionaries(
    {"person": digests}, optional={"network": digests, "site": digests, "region": digests, "all": digests}
).map(lambda levels: [[level, who] for level, who in levels.items()])
START_: dict[str, st.SearchStrategy[Any]] = {
    "id": ids,
    "user_code_sha256": digests,
    "ttl_ms": st.sampled_from([MIN_TTL_MS, 60_000, 3_600_000]),
    "kind": st.just("k"),
    "node": st.just("n1"),
    "initiator": st.just("alice"),
    "origin": st.none(),
    "data": st.sampled_from([{}, {"k": "data"}]),
    "initiator_public_key": st.sampled_from([None, None, KEY]),
}
APPROVE_: dict[str, st.SearchStrategy[Any]] = {
    "id": ids,
    "expected": expected,
    "by": people,
    "answer": st.sampled_from([{}, {"k": "answer"}, None]),
    "sealed_result": st.sampled_from([None, None, "AAAA"]),
}
OPERATIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "start": START_,
    "begin": {**START_, "begun_by": known},
    "try_code": {"id": st.none() | ids, "user_code_sha256": digests, "counted": counted},
    "claim_as": {"id": ids, "expected": expected, "by": people, "actors": known, "claims": claims},
    "approve_as": {**APPROVE_, "actors": known, "claims": claims},
    "set_policy": {
        "kind": st.sampled_from(["k", "k", "other"]),
        "require": st.sampled_from([{}, {"mfa": True}, {"group": "ops", "mfa": True}]),
        "allow_self": st.booleans(),
    },
    "attempt": {"id": st.none() | ids, "user_code_sha256": digests, "caller_sha256": digests},
    "claim": {"id": ids, "expected": expected, "by": people},
    "approve": APPROVE_,
    "deny": {"id": ids, "expected": expected, "by": people},
    "cancel": {"id": ids, "expected": expected},
    "consume": {"id": ids, "expected": expected, "redemption_sha256": digests},
}
waits = st.sampled_from([0, 0, 0, 0, 1, MIN_TTL_MS, REDELIVERY_MS, ATTEMPT_WINDOW_MS, TOMBSTONE_MS])
Step = tuple[str, dict[str, Any], int]
OFTEN = {"start", "begin", "approve", "approve_as", "consume", "attempt", "try_code"}
LIMITS = {"person": 10, "network": 10, "site": 50, "region": 500, "all": 10_000}
steps = st.one_of(
    [
        st.tuples(st.just(operation), st.fixed_dictionaries(given_), waits)
        for operation, given_ in OPERATIONS.items()
        for _ in range(4 if operation in OFTEN else 1)
    ]
)
runs = st.lists(steps, max_size=40)


@dataclass
class Model:
    """Model of the documentation: every record is looked at at every step, nothing is remembered twice."""

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    misses: list[tuple[str, int, int]] = field(default_factory=list)  # caller, time, time of its first
    tries: list[tuple[tuple[str, str], int]] = field(default_factory=list)  # for whom, time of its first
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)

    def tick(self, now: int) -> None:
        for id, r in list(self.records.items()):
            if r["state"] in LIVE and r["expires"] <= now:
                r.update(state="expired", ended=r["expires"])
            if r["state"] not in LIVE and r["ended"] + TOMBSTONE_MS <= now:
                del self.records[id]
        self.misses = [m for m in self.misses if now < m[2] + ATTEMPT_WINDOW_MS]
        self.tries = [t for t in self.tries if now < t[1] + ATTEMPT_WINDOW_MS]

    def live_code(self, code: str) -> str | None:
        found = [id for id, r in self.records.items() if r["state"] in LIVE and r["code"] == code]
        assert len(found) <= 1
        return found[0] if found else None

    def apply(self, operation: str, a: dict[str, Any], now: int) -> Any:
        """The value of a success, or a code.

        More than 60 lines, because a model is there to be read in one go beside docs/rendezvous.md.
        """
        self.tick(now)
        if operation == "set_policy":
            self.policies[a["kind"]] = a
            return a
        if operation == "try_code" and a["id"] is None:
            firsts = {tuple(who): [t[1] for t in self.tries if t[0] == tuple(who)] for who in a["counted"]}
            if any(len(mine) >= LIMITS[level] for (level, _), mine in firsts.items()):
                return "slow_down"
            id = self.live_code(a["user_code_sha256"])
            if id is None:
                self.tries += [(who, mine[0] if mine else now) for who, mine in firsts.items()]
            left = min(LIMITS[level] - len(mine) for (level, _), mine in firsts.items())
            return {"id": id, "attempts_left": left - (id is None)}
        approver = a if operation in ("claim_as", "approve_as") else {"actors": [], "claims": {}}
        operation = {
            "begin": "start",
            "try_code": "attempt",
            "claim_as": "claim",
            "approve_as": "approve",
        }.get(operation, operation)
        if operation == "start":
            if a["initiator_public_key"] and a["id"] != IDS[2]:
                return "invalid_input"
            if a["id"] in self.records:
                return "already_exists"
            if self.live_code(a["user_code_sha256"]):
                return "conflict"
            self.records[a["id"]] = {
                "state": "pending",
                "code": a["user_code_sha256"],
                "expires": now + a["ttl_ms"],
                "key": a["initiator_public_key"],
                "by": None,
                "failed": 0,
                "begun_by": a.get("begun_by", []),
            }
            return {"id": a["id"], "state": "pending", "expires_unix_ms": now + a["ttl_ms"]}
        if operation == "attempt" and a["id"] is None:
            mine = [m for m in self.misses if m[0] == a["caller_sha256"]]
            if len(mine) >= 10:
                return "slow_down"
            id = self.live_code(a["user_code_sha256"])
            if id is None:
                self.misses.append((a["caller_sha256"], now, mine[0][1] if mine else now))
            return {"id": id, "attempts_left": 10 - len(mine) - (id is None)}
        r = self.records.get(a["id"])
        if r is None:
            return "not_found"
        state = r["state"]
        wrong = {"denied": "rendezvous_denied", "expired": "expired_token"}.get(state, "conflict")
        if operation == "attempt":
            if state not in LIVE:
                return wrong
            right = r["code"] == a["user_code_sha256"]
            r["failed"] += not right
            if r["failed"] == 5:
                r.update(state="cancelled", ended=now)
            return {"id": a["id"] if right else None, "attempts_left": 5 - r["failed"]}
        if operation == "consume":
            again = r.get("redeemed") == a["redemption_sha256"] and now < r["ended"] + REDELIVERY_MS
            if state == "consumed" and again:
                return {"id": a["id"], "state": "consumed"}
            if state in ("pending", "claimed"):
                return "authorization_pending"
        allowed = {
            "claim": ["pending"],
            "approve": ["pending", "claimed"],
            "deny": ["pending", "claimed"],
            "cancel": LIVE,
            "consume": ["approved"],
        }[operation]
        if state not in allowed:
            return wrong
        if a["expected"] not in (None, state):
            return "conflict"
        if operation in ("claim", "approve"):
            policy = self.policies.get("k", {"require": {}, "allow_self": False})
            if not policy["allow_self"] and set(r["begun_by"]) & set(approver["actors"]):
                return "approval_refused"
            said = {(name, repr(value)) for name, value in approver["claims"].items()}
            if not {(name, repr(value)) for name, value in policy["require"].items()} <= said:
                return "approval_refused"
        if operation == "approve":
            if r["by"] not in (None, a["by"]):
                return "conflict"
            if (a["sealed_result"] is not None, a["answer"] is None) != (bool(r["key"]),) * 2:
                return "invalid_input"
            r.update(result=(a["answer"], a["sealed_result"]))
        r["by"] = a.get("by", r["by"])
        r["state"] = {
            "claim": "claimed",
            "approve": "approved",
            "deny": "denied",
            "cancel": "cancelled",
            "consume": "consumed",
        }[operation]
        r["ended"] = now
        if operation == "consume":
            r["redeemed"] = a["redemption_sha256"]
        return {"id": a["id"], "state": r["state"]}


def run(machine: RendezvousMachine, step: Step, index: int, now: int) -> Any:
    try:
        return machine.apply(step[0], json.loads(canonical_json(step[1])), index, now)
    except Refused as refused:
        return refused.error.code
    except Malformed as malformed:
        return malformed.code


def restored(machine: RendezvousMachine) -> RendezvousMachine:
    fresh = RendezvousMachine()
    fresh.apply(*START, 1, 5)
    fresh.prepare_restore(json.loads(canonical_json(machine.export_state())))()
    return fresh


START = (
    "start",
    {
        "id": "9" * 32,
        "user_code_sha256": "9" * 64,
        "ttl_ms": MIN_TTL_MS,
        "kind": "left-over",
        "node": "n9",
        "initiator": "x",
        "origin": None,
        "data": {},
        "initiator_public_key": None,
    },
)


@given(runs)
def test_machine_answers_and_states_agree_with_the_model(done: list[Step]) -> None:
    machine, model, now = RendezvousMachine(), Model(), 1_000
    for index, step in enumerate(done):
        now += step[2]
        # What readers see of time alone is what the next operation makes true.
        model.tick(now)
        states = {id: r["state"] for id, r in model.records.items()}
        assert {r.id: r.state for r in machine.records(now)} == states
        assert machine.counts(now) == Counter(states.values())
        assert {r.id for r in machine.live(now)} == {id for id, s in states.items() if s in LIVE}
        assert run(machine, step, index, now) == model.apply(step[0], step[1], now)
        assert {r.id: r.state for r in machine.records(now)} == {
            id: r["state"] for id, r in model.records.items()
        }
        for code in DIGESTS:
            assert machine.find_code(code, now) == model.live_code(code)
        for id in IDS:
            for redemption in DIGESTS:
                r = model.records.get(id, {})
                mine = r.get("redeemed") == redemption and now < r["ended"] + REDELIVERY_MS
                assert machine.answer(id, redemption, now) == (r["result"] if mine else None)


@given(runs, st.integers(0, 40))
def test_restored_machine_goes_on_as_the_one_that_never_stopped(done: list[Step], cut: int) -> None:
    whole, resumed, now = RendezvousMachine(), RendezvousMachine(), 1_000
    for index, step in enumerate(done):
        now += step[2]
        if index == cut:
            resumed = restored(resumed)
        assert run(whole, step, index, now) == run(resumed, step, index, now)
        assert canonical_json(whole.export_state()) == canonical_json(resumed.export_state())
        assert (whole._bytes, whole._codes, sorted(whole._ended)) == (
            resumed._bytes,
            resumed._codes,
            sorted(resumed._ended),
        )
    assert restored(whole).export_state() == whole.export_state()


@given(runs)
def test_nobody_approves_what_they_began_nor_without_the_claims_that_the_policy_names(
    done: list[Step],
) -> None:
    machine, now = RendezvousMachine(), 1_000
    began: dict[str, list[str]] = {}
    for index, (operation, arguments, wait) in enumerate(done):
        now += wait
        answer = run(machine, (operation, arguments, wait), index, now)
        if type(answer) is not dict:
            continue
        if operation in ("start", "begin"):
            began[arguments["id"]] = arguments.get("begun_by", [])
        if operation in ("claim_as", "approve_as"):
            policy = machine.policy("k")
            assert policy.allow_self or not set(began[arguments["id"]]) & set(arguments["actors"])
            assert all(arguments["claims"].get(name) is value for name, value in policy.require.items())
        if operation in ("claim", "approve"):  # of an old log: it shows no claims
            assert not machine.policy("k").require


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.sampled_from([0, 1, 60_000])), max_size=200)
)
def test_wrong_codes_of_whomever_stop_no_one_new_and_are_remembered_within_bounds(
    tries: list[tuple[int, int, int]],
) -> None:
    small = {level: what._replace(limit=min(what.limit, 20)) for level, what in LEVELS.items()}
    limits = RendezvousLimits(counted=3)
    machine, now = RendezvousMachine(limits), 1_000
    with mock.patch.object(module, "LEVELS", small):
        for index, (network, site, wait) in enumerate(tries):
            now += wait
            levels = [["network", f"{network:064x}"], ["site", f"{site:064x}"]]
            run(
                machine,
                ("try_code", {"id": None, "user_code_sha256": "f" * 64, "counted": levels}, 0),
                index,
                now,
            )
            assert all(len(table) <= limits.size(level) <= 3 for level, table in machine._tries.items())
            restored(machine)
        new = [["network", "e" * 64], ["site", "e" * 64]]
        step: Step = ("try_code", {"id": None, "user_code_sha256": "f" * 64, "counted": new}, 0)
        assert run(machine, step, 999, now) == {"id": None, "attempts_left": 9}
        person = [["person", "e" * 64]]
        step = ("try_code", {"id": None, "user_code_sha256": "f" * 64, "counted": person}, 0)
        assert run(machine, step, 999, now) == {"id": None, "attempts_left": 9}


@given(runs)
def test_no_record_is_ever_redeemed_by_two(done: list[Step]) -> None:
    machine, now = RendezvousMachine(), 1_000
    redeemed: dict[tuple[str, int], str] = {}
    for index, (operation, arguments, wait) in enumerate(done):
        now += wait
        answer = run(machine, (operation, arguments, wait), index, now)
        if operation == "consume" and type(answer) is dict:
            record = machine.get(arguments["id"], now)
            assert record is not None
            key = (record.id, record.created_unix_ms)
            assert redeemed.setdefault(key, arguments["redemption_sha256"]) == arguments["redemption_sha256"]
            assert machine.answer(record.id, arguments["redemption_sha256"], now) is not None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**54) | st.text(max_size=4) | ids | digests,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(runs, st.sampled_from(sorted(OPERATIONS)), st.data())
def test_apply_of_any_arguments_answers_and_malformed_ones_change_nothing(
    done: list[Step], operation: str, data: st.DataObject
) -> None:
    machine, now = RendezvousMachine(), 1_000
    for index, step in enumerate(done):
        now += step[2]
        run(machine, step, index, now)
    arguments = data.draw(st.fixed_dictionaries(OPERATIONS[operation]))
    for key in data.draw(st.sets(st.sampled_from([*arguments, "other"]), min_size=1)):
        arguments[key] = data.draw(json_values)
    before = canonical_json(machine.export_state())
    try:
        machine.apply(operation, json.loads(canonical_json(arguments)), 99, now + TOMBSTONE_MS)
    except Malformed:
        assert canonical_json(machine.export_state()) == before
    except Refused:
        pass


@given(runs, st.data())
def test_restore_of_a_changed_state_is_refused_or_exact_and_then_total(
    done: list[Step], data: st.DataObject
) -> None:
    machine, now = RendezvousMachine(), 1_000
    for index, step in enumerate(done):
        now += step[2]
        run(machine, step, index, now)
    state = json.loads(canonical_json(machine.export_state()))
    for record in state["records"].values():
        for key in data.draw(st.sets(st.sampled_from(sorted(record)), max_size=2)):
            others = [other[key] for other in state["records"].values()]
            record[key] = data.draw(
                json_values | st.sampled_from(others) | st.sampled_from(["consumed", "denied", *LIVE])
            )
    fresh = RendezvousMachine()
    try:
        commit = fresh.prepare_restore(state)
    except ValueError:
        assert fresh.export_state() == RendezvousMachine().export_state()
        return
    commit()
    assert canonical_json(fresh.export_state()) == canonical_json(state)
    for index, step in enumerate(done):
        now += step[2]
        run(fresh, step, index, now)
