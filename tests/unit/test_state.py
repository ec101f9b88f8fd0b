"""Commands, results, the request tables and snapshots of the cluster state machine.

Times come with the commands here, as in a log of release 0.1.0: whatever such a log holds must give the
state that it gave there.  What is new is in replicated/test_requests.py.
"""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import errors, state
from cyoloctl.counters.machine import CounterMachine
from cyoloctl.replicated.command import (
    MAX_COMMAND_BYTES,
    decode_command,
    decode_result_with_index,
    refusal_reason,
)
from cyoloctl.replicated.command import (
    encode_command as new_command,
)
from cyoloctl.replicated.requests import LIMITS, TableLimits
from cyoloctl.state import ClusterState, StateLimits
from tests.support.old_commands import encode_command
from tests.support.results import decode_result
from tests.support.states import as_before_tables

VECTORS = Path(__file__).parent.parent / "vectors" / "command"
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


def add(
    request_id: str, by: int = 1, *, name: str = "default", automatic: bool = False, time_unix_ms: int = 0
) -> bytes:
    return encode_command(
        "counter",
        "add",
        {"name": name, "by": by},
        request_id=request_id,
        automatic=automatic,
        time_unix_ms=time_unix_ms,
    )


def limited(**tables: TableLimits) -> ClusterState:
    return ClusterState(limits=StateLimits(requests=replace(LIMITS, **tables)))


def code_of(result: bytes) -> str | None:
    error = json.loads(result).get("error")
    return None if error is None else error["code"]


# --- the codec


def test_encode_command_of_an_increment_is_the_documented_bytes() -> None:
    data = new_command(
        "counter", "add", {"name": "a", "by": -5}, request_id='r"1', kind="browser", caller="ann"
    )
    assert data == b'\x02["counter","add",{"by":-5,"name":"a"},"r\\"1","browser","ann"]'


def test_decode_command_returns_what_was_encoded() -> None:
    arguments = {"text": "é\ud800\x00", "deep": [{"x": None, "y": [True, -(2**63)]}]}
    data = new_command("m", "o", arguments, request_id="\\~!", kind="node", caller="~")
    assert decode_command(data)[:7] == ("m", "o", arguments, "\\~!", "node", "~", -1)
    old = encode_command("m", "o", arguments, request_id="\\~!", automatic=False, time_unix_ms=2**53)
    assert decode_command(old)[:7] == ("m", "o", arguments, "\\~!", "client", "", 2**53)


def test_decode_command_digest_is_the_same_for_a_retry_with_another_stamp_only() -> None:
    first = decode_command(add("a", time_unix_ms=1)).digest
    assert decode_command(add("b", time_unix_ms=99, automatic=True)).digest == first
    assert decode_command(add("a", 2, time_unix_ms=1)).digest != first


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a b", "é", "\n", "\x7f", 5, None])
def test_encode_command_bad_request_id_is_invalid_input(request_id: Any) -> None:
    with pytest.raises(errors.InvalidInput, match="request id"):
        new_command("m", "o", {}, request_id=request_id)


@pytest.mark.parametrize(("kind", "caller"), [("nobody", ""), ("client", "a b"), ("client", "x" * 81)])
def test_encode_command_bad_caller_is_a_bug(kind: str, caller: str) -> None:
    with pytest.raises(errors.InternalError):
        new_command("m", "o", {}, request_id="r", kind=kind, caller=caller)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "value",
    [1.0, float("nan"), b"x", (1,), {1: 2}, {"a"}, 2**65, 10**5000, nested(20), CYCLE, "[" * 201, [[]] * 300],
    ids=lambda v: type(v).__name__,
)
def test_encode_command_argument_that_would_be_malformed_is_invalid_input(value: Any) -> None:
    with pytest.raises(errors.InvalidInput):
        new_command("m", "o", {"x": value}, request_id="r")


def test_encode_command_above_512_kib_is_invalid_input() -> None:
    spare = MAX_COMMAND_BYTES - len(new_command("m", "o", {"x": ""}, request_id="r"))
    fits = new_command("m", "o", {"x": "a" * spare}, request_id="r")
    assert len(decode_command(fits).arguments["x"]) == spare
    with pytest.raises(errors.InvalidInput, match="send less"):
        new_command("m", "o", {"x": "a" * (spare + 1)}, request_id="r")


def test_decode_result_of_a_success_is_value_and_first_index() -> None:
    result = ClusterState().apply(12, add("r", 3))
    assert decode_result(result) == {"name": "default", "value": 3}
    assert decode_result_with_index(result) == (12, {"name": "default", "value": 3})
    assert refusal_reason(result) is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("counter_overflow", errors.CounterOverflow),
        ("outcome_unknown", errors.OutcomeUnknown),
        ("invitation_rejected", errors.InvitationRejected),
        ("already_exists", errors.AlreadyExists),
        ("of_a_newer_release", errors.CyoloctlError),
    ],
)
def test_decode_result_of_a_refusal_raises_the_error_of_its_code(
    code: str, kind: type[errors.CyoloctlError]
) -> None:
    data = json.dumps({"error": {"code": code, "message": "m", "reason": "why"}, "index": 1})
    canonical = data.replace(": ", ":").replace(", ", ",").encode()
    with pytest.raises(errors.CyoloctlError) as caught:
        decode_result(canonical)
    assert type(caught.value) is kind
    assert caught.value.message == "m"
    assert refusal_reason(canonical) == "why"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"index":1}',
        b'{"index":true,"value":{}}',
        b'{"index":1,"value":[]}',
        b'{"error":{},"index":1}',
        b'{"error":{"code":1,"message":""},"index":1}',
        b"\xff",
        b"[" * 100_000,
        b'{"index":1, "value":{}}',
    ],
)
def test_decode_result_of_other_bytes_is_an_internal_error(data: bytes) -> None:
    with pytest.raises(errors.InternalError):
        decode_result(data)


# --- malformed commands

BODY = '["counter","add",{"by":1,"name":"a"},"r",false,5]'
MALFORMED = {
    "empty": b"",
    "version only": b"\x01",
    "not ascii": b"\x01" + BODY.replace('"a"', '"é"').encode(),
    "not utf-8": b"\x01\xff\xfe",
    "too long": b"\x01" + b" " * MAX_COMMAND_BYTES,
    "deep arrays": b"\x01" + b"[" * 100_000,
    "deep objects": b"\x01" + b'{"a":' * 100_000,
    **{
        name: b"\x01" + body.encode()
        for name, body in {
            "leading space": " " + BODY,
            "trailing newline": BODY + "\n",
            "space inside": BODY.replace(",5", ", 5"),
            "trailing data": BODY + "[]",
            "null": "null",
            "number": "1",
            "six characters": '"abcdef"',
            "object of six": '{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1}',
            "five fields": BODY.replace(",5]", "]"),
            "seven fields": BODY.replace("]", ",1]"),
            "machine is a number": BODY.replace('"counter"', "1"),
            "machine is a list": BODY.replace('"counter"', "[]"),
            "operation is null": BODY.replace('"add"', "null"),
            "unknown machine": BODY.replace('"counter"', '"toaster"'),
            "unknown operation": BODY.replace('"add"', '"melt"'),
            "unknown members operation": BODY.replace('"counter","add"', '"members","melt"'),
            "arguments are a list": BODY.replace('{"by":1,"name":"a"}', '["by"]'),
            "arguments missing": BODY.replace('{"by":1,"name":"a"}', "{}"),
            "argument too many": BODY.replace('"a"}', '"a","x":1}'),
            "argument renamed": BODY.replace('"by"', '"bx"'),
            "duplicate key": BODY.replace('{"by":1', '{"by":1,"by":1'),
            "keys out of order": BODY.replace('"by":1,"name":"a"', '"name":"a","by":1'),
            "id empty": BODY.replace('"r"', '""'),
            "id with space": BODY.replace('"r"', '"r r"'),
            "id too long": BODY.replace('"r"', '"' + "r" * 129 + '"'),
            "id is a number": BODY.replace('"r"', "7"),
            "id needlessly escaped": BODY.replace('"r"', '"\\u0072"'),
            "automatic is 0": BODY.replace("false", "0"),
            "automatic is null": BODY.replace("false", "null"),
            "time negative": BODY.replace(",5]", ",-1]"),
            "time minus zero": BODY.replace(",5]", ",-0]"),
            "time beyond 2**53": BODY.replace(",5]", f",{2**53 + 1}]"),
            "time a float": BODY.replace(",5]", ",5.0]"),
            "time with exponent": BODY.replace(",5]", ",5e0]"),
            "time true": BODY.replace(",5]", ",true]"),
            "time text": BODY.replace(",5]", ',"5"]'),
            "time NaN": BODY.replace(",5]", ",NaN]"),
            "time Infinity": BODY.replace(",5]", ",Infinity]"),
            "time of 5000 digits": BODY.replace(",5]", "," + "9" * 5000 + "]"),
            "by true": BODY.replace(":1,", ":true,"),
            "by a float": BODY.replace(":1,", ":1.0,"),
            "by text": BODY.replace(":1,", ':"1",'),
            "by above 2**63": BODY.replace(":1,", f":{2**63 + 1},"),
            "by below -2**63": BODY.replace(":1,", f":{-(2**63) - 1},"),
            "by of 5000 digits": BODY.replace(":1,", ":" + "1" * 5000 + ","),
            "name empty": BODY.replace('"a"', '""'),
            "name upper case": BODY.replace('"a"', '"A"'),
            "name with newline": BODY.replace('"a"', '"a\\n"'),
            "name not ascii": BODY.replace('"a"', '"\\u00e9"'),
            "name a lone surrogate": BODY.replace('"a"', '"\\ud800"'),
            "name a list": BODY.replace('"a"', "[]"),
            "name null": BODY.replace('"a"', "null"),
        }.items()
    },
}


def test_apply_of_the_body_that_the_malformed_cases_change_is_accepted() -> None:
    assert decode_result(ClusterState().apply(1, b"\x01" + BODY.encode())) == {"name": "a", "value": 1}


@pytest.mark.parametrize("command", MALFORMED.values(), ids=MALFORMED.keys())
def test_apply_malformed_command_is_refused_and_changes_nothing(command: bytes) -> None:
    cluster = ClusterState()
    cluster.apply(1, add("first", time_unix_ms=3))
    before = cluster.digest()
    assert code_of(cluster.apply(2, command)) == "invalid_input"
    assert cluster.digest() == before


@pytest.mark.parametrize("version", [0, 3, 255])
def test_apply_command_of_another_version_stops_the_node_and_changes_nothing(version: int) -> None:
    cluster = ClusterState()
    before = cluster.digest()
    with pytest.raises(errors.VersionMismatch):
        cluster.apply(1, bytes([version]) + BODY.encode())
    assert cluster.digest() == before


def test_apply_when_a_machine_has_a_bug_answers_internal_and_is_not_remembered() -> None:
    class Broken(CounterMachine):
        def apply(self, *_: Any) -> dict[str, Any]:
            raise ZeroDivisionError

    cluster = ClusterState()
    cluster._machines["counter"] = Broken()
    before = cluster.digest()
    assert code_of(cluster.apply(1, add("r", time_unix_ms=4))) == "internal"
    assert cluster.digest() == before


# --- exactly once


@pytest.mark.parametrize("automatic", [False, True])
@pytest.mark.parametrize("again_automatic", [False, True])
def test_apply_same_id_again_gives_the_first_bytes_and_changes_nothing(
    automatic: bool, again_automatic: bool
) -> None:
    cluster = ClusterState()
    first = cluster.apply(1, add("r", 2, automatic=automatic, time_unix_ms=5))
    cluster.apply(2, add("other", time_unix_ms=6))
    before = cluster.digest()
    assert cluster.apply(3, add("r", 2, automatic=again_automatic, time_unix_ms=900)) == first
    assert cluster.digest() == before
    assert cluster.time_unix_ms == 6


def test_apply_same_id_with_another_command_is_a_conflict_and_changes_nothing() -> None:
    cluster = ClusterState()
    cluster.apply(1, add("r", 2))
    before = cluster.digest()
    with pytest.raises(errors.Conflict, match="another command"):
        decode_result(cluster.apply(2, add("r", 3, time_unix_ms=8)))
    assert cluster.digest() == before


def test_apply_same_id_after_a_refusal_gives_the_first_refusal() -> None:
    cluster = ClusterState()
    cluster.apply(1, add("a", 2**63 - 1))
    first = cluster.apply(2, add("b", 1))
    assert code_of(first) == "counter_overflow"
    cluster.apply(3, add("c", -10))
    assert cluster.apply(4, add("b", 1)) == first


def test_apply_same_id_after_a_malformed_command_is_applied() -> None:
    cluster = ClusterState()
    assert code_of(cluster.apply(1, b"\x01" + BODY.replace(":1,", ":true,").encode())) == "invalid_input"
    assert decode_result(cluster.apply(2, b"\x01" + BODY.encode())) == {"name": "a", "value": 1}


def test_apply_client_ids_are_remembered_to_the_bound_then_the_oldest_goes() -> None:
    few = TableLimits(soft=3, keep_ms=0, hard=3, expiry_ms=HOUR_MS)
    cluster = limited(client=few)
    for n in range(4):
        cluster.apply(n, add(f"r{n}"))
    cluster.apply(5, add("r1"))
    assert cluster.counters.get("default") == 4
    cluster.apply(6, add("r0"))
    assert cluster.counters.get("default") == 5


def test_apply_client_id_is_remembered_for_24_hours_of_replicated_time() -> None:
    cluster = ClusterState()
    cluster.apply(1, add("r", time_unix_ms=1))
    cluster.apply(2, add("x", time_unix_ms=24 * HOUR_MS))
    cluster.apply(3, add("r", time_unix_ms=24 * HOUR_MS))
    assert cluster.counters.get("default") == 2
    cluster.apply(4, add("y", time_unix_ms=24 * HOUR_MS + 1))
    cluster.apply(5, add("r", time_unix_ms=24 * HOUR_MS + 1))
    assert cluster.counters.get("default") == 4


def test_apply_forgotten_automatic_command_is_outcome_unknown_and_not_applied() -> None:
    cluster = ClusterState()
    late = add("late", automatic=True, time_unix_ms=1000)
    cluster.apply(1, late)
    cluster.apply(2, add("x", automatic=True, time_unix_ms=1000 + 5 * MINUTE_MS))
    before = cluster.digest()
    with pytest.raises(errors.OutcomeUnknown):
        decode_result(cluster.apply(3, late))
    assert cluster.digest() == before


def test_apply_client_command_is_not_measured_by_the_horizon() -> None:
    cluster = ClusterState()
    cluster.apply(1, add("a", automatic=True, time_unix_ms=1000))
    cluster.apply(2, add("b", automatic=True, time_unix_ms=1000 + 5 * MINUTE_MS))
    assert code_of(cluster.apply(3, add("c", time_unix_ms=1))) is None


def test_apply_horizon_is_the_highest_time_forgotten_not_the_last() -> None:
    cluster = ClusterState()
    cluster.apply(1, add("a", automatic=True, time_unix_ms=1000))
    cluster.apply(2, add("b", automatic=True, time_unix_ms=10))  # a slow clock
    cluster.apply(3, add("c", automatic=True, time_unix_ms=1000 + 5 * MINUTE_MS))
    assert code_of(cluster.apply(4, add("d", automatic=True, time_unix_ms=1000))) == "outcome_unknown"
    assert code_of(cluster.apply(5, add("d", automatic=True, time_unix_ms=1001))) is None


def test_apply_automatic_at_33_a_second_tolerates_a_clock_nearly_5_minutes_behind() -> None:
    cluster = ClusterState()
    for n in range(10_500):
        cluster.apply(n, add(f"r{n}", automatic=True, time_unix_ms=HOUR_MS + n * 31))
    slow = cluster.time_unix_ms - 5 * MINUTE_MS + 1000
    assert code_of(cluster.apply(10_500, add("slow", automatic=True, time_unix_ms=slow))) is None


def test_apply_automatic_at_2500_a_second_tolerates_a_clock_10_s_behind() -> None:
    cluster = ClusterState()
    for n in range(26_000):
        cluster.apply(n, add(f"r{n}", automatic=True, time_unix_ms=HOUR_MS + n * 2 // 5))
    now = cluster.time_unix_ms
    assert code_of(cluster.apply(1, add("slow", automatic=True, time_unix_ms=now - 9_990))) is None
    assert code_of(cluster.apply(1, add("slower", automatic=True, time_unix_ms=now - 10_200))) == (
        "outcome_unknown"
    )


@pytest.mark.parametrize(("age_ms", "code"), [(19, None), (20, "outcome_unknown")])
def test_apply_automatic_above_the_soft_limit_is_kept_until_its_age(age_ms: int, code: str | None) -> None:
    tight = TableLimits(soft=1, keep_ms=20, hard=5, expiry_ms=5 * MINUTE_MS)
    cluster = limited(node=tight)
    first = add("first", automatic=True, time_unix_ms=100)
    cluster.apply(1, first)
    cluster.apply(2, add("second", automatic=True, time_unix_ms=100 + age_ms))
    assert code_of(cluster.apply(3, first)) == code
    assert cluster.counters.get("default") == 2


def test_apply_automatic_within_one_millisecond_is_bounded_by_50000() -> None:
    cluster = limited(node=TableLimits(soft=2, keep_ms=10_000, hard=5, expiry_ms=5 * MINUTE_MS))
    for n in range(6):
        cluster.apply(n, add(f"r{n}", automatic=True, time_unix_ms=7))
    assert code_of(cluster.apply(9, add("r1", automatic=True, time_unix_ms=7))) is None
    assert cluster.counters.get("default") == 6
    assert code_of(cluster.apply(9, add("r0", automatic=True, time_unix_ms=7))) == "outcome_unknown"
    assert LIMITS.node.hard == 50_000


def test_time_unix_ms_never_goes_back() -> None:
    cluster = ClusterState()
    cluster.apply(1, add("a", time_unix_ms=50))
    cluster.apply(2, add("b", time_unix_ms=20))
    assert cluster.time_unix_ms == 50


# --- vectors: the same bytes and results on every release and every Python version


@pytest.mark.parametrize("name", sorted(path.name for path in VECTORS.glob("*.json")))
def test_apply_of_a_vector_gives_the_pinned_results_and_digest(name: str) -> None:
    vector = json.loads((VECTORS / name).read_text())
    cluster = ClusterState()
    for step in vector["steps"]:
        result = cluster.apply(step["index"], b"\x01" + step["command"].encode())
        assert json.loads(result) == step["result"], step["comment"]
    state = {name: as_before_tables(cluster._machines[name]) for name in vector["machines"]}
    for table in state.get("sessions", {}).values():
        assert len(table.pop("steady_ends")) == len(table["keys"])  # release 0.1.0 had none
    text = json.dumps({"machines": state, "time_unix_ms": cluster.time_unix_ms}, sort_keys=True)
    assert sha256(text.encode()).hexdigest() == vector["digest"]


# -- operations ----------------------------------------------------------------------------------


#: Per machine: who may propose what is not listed, and what is listed.  Nodes of every release go by it.
PROPOSERS: dict[str, tuple[str, dict[str, str]]] = {
    "audit": ("any", {}),
    "counter": ("any", {}),
    "lock": ("any", {}),
    "members": (
        "voter",
        {"announce": "self", "set_gateway": "self", "invite": "nobody", "put": "nobody", "redeem": "nobody"},
    ),
    "presence": ("voter", {"boot": "self", "reached": "leader"}),
    "credentials": ("voter", {}),
    "authorities": ("voter", {"confirm": "self", "reissued": "self"}),
    "keys": ("voter", {"announce": "self", "confirm": "self", "reject": "self"}),
    "sessions": ("any", {}),
    "rendezvous": (
        "any",
        {
            "set_policy": "voter",
            "approve": "nobody",
            "attempt": "nobody",
            "claim": "nobody",
            "start": "nobody",
        },
    ),
    "kv": ("any", {"expire": "leader", "reseal": "leader"}),
    "clock": ("voter", {}),
    "history": ("voter", {"replace": "nobody"}),
    "levels": ("voter", {"announce": "self", "raise": "voter"}),
    "machines": ("voter", {"announce": "self", "register": "leader", "apply": "any"}),
    "answers": ("voter", {}),
}


def test_who_may_propose_what_is_as_it_was_released() -> None:
    machines = ClusterState()._machines
    assert machines.keys() == PROPOSERS.keys()
    for name, (others, listed) in PROPOSERS.items():
        found = {operation: machines[name].proposer(operation) for operation in machines[name].operations()}
        assert found == dict.fromkeys(machines[name].operations(), others) | listed, name


def test_what_tells_no_two_commands_apart_is_as_it_was_released() -> None:
    drawn = {name: dict(machine.DRAWN) for name, machine in ClusterState()._machines.items() if machine.DRAWN}
    assert drawn == {
        "members": {"invite_for": {"public_key"}, "invite_witness": {"public_key"}},
        "authorities": {"exchange": {"ca_pem", "keys", "old_ca_pem", "voucher"}},
        "keys": {"make": {"fingerprint", "key_id", "wrapped"}, "rotate": {"key_id"}},
        **{"kv": {"put_sealed": {"blob"}, "txn_sealed": {"blobs"}}, "answers": {"keep": {"answer"}}},
    }


def test_every_operation_is_proposed_by_some_operations_module_or_is_in_an_old_log() -> None:
    root = Path(state.__file__).parent
    holding = ["operations", "joining", "granting", "renewal", "upkeep", "cluster_time", "proposer"]
    proposed = {
        node.value
        for path in root.rglob("*.py")
        if path.stem in holding
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant)
    }
    for name, machine in ClusterState()._machines.items():
        old = {operation for operation, rule in machine.PROPOSERS.items() if rule == "nobody"}
        assert machine.operations() - proposed - old == set(), name


def test_state_of_an_earlier_release_lacks_operations_and_leaves_the_others() -> None:
    earlier, present = ClusterState(lacking={"counter": {"reset"}}), ClusterState()
    reset = new_command("counter", "reset", {"name": "c"}, request_id="r", kind="client")
    plain = new_command("counter", "add", {"name": "c", "by": 1}, request_id="a", kind="client")
    before = earlier.digest()
    with pytest.raises(errors.VersionMismatch, match=r"counter\.reset is unknown here"):
        earlier.apply(1, reset)
    assert earlier.digest() == before
    refused = earlier.admit(reset, "n2", "voter")
    assert refused is not None
    assert code_of(refused) == "version_mismatch"
    assert earlier.admit(plain, "n2", "voter") is None
    assert earlier.apply(2, plain) == present.apply(2, plain)
    assert earlier.digest() == present.digest()
