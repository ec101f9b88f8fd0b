"""Input of routes: bodies and queries are validated, or refused with the field's name and no value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cyoloctl import model
from cyoloctl.control import table
from cyoloctl.errors import BodyTooLarge, InvalidInput
from cyoloctl.web import encoding, schema

INCREMENT = table.path_for("counter_increment", "x")[0]
INVITE = table.path_for("member_invite")[0]
JOIN = table.path_for("join")[0]
LIST = table.path_for("counter_list")[0]

GOOD_JOIN: dict[str, Any] = {
    "name": "n2",
    "public_key": "B" * 42 + "E=",
    "signature": "A" * 86 + "==",
    "request_pem": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    "sealing_key": "A" * 43 + "=",
    "address": "[::1]:4000",
    "ca_sha256": "c" * 64,
}


def test_name_pattern_equals_the_models() -> None:
    assert schema.NAME_PATTERN == model.NAME_PATTERN


def test_body_defaults_are_filled_in() -> None:
    assert INCREMENT.read_body(b"{}") == {"by": 1, "request_id": None}
    assert INCREMENT.read_body(b"") == {"by": 1, "request_id": None}
    assert INVITE.read_body(b'{"name":"n"}') == {
        "name": "n",
        "learner": False,
        "witness": False,
        "ttl_s": 3600,
        "request_id": None,
    }


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"by":true}', "'by'"),
        (b'{"by":1.5}', "'by'"),
        (b'{"by":1e-3}', "'by'"),
        (b'{"by":0.0}', "'by'"),
        (b'{"by":1e999}', "1e999 is no finite number"),
        # A reader of JSON has rounded it: nobody knows what was meant.
        (b'{"by":9007199254740993.0}', "write all its digits"),
        (b'{"by":1e18}', "write all its digits"),
        (b'{"by":"1"}', "'by'"),
        (b'{"by":null}', "'by'"),
        (b'{"by":0}', "'by'"),
        (b'{"by":-1}', "'by'"),
        (b'{"by":9223372036854775808}', "'by'"),
        (b'{"by":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"by":NaN}', "NaN"),
        (b'{"by":-Infinity}', "Infinity"),
        (b'{"by":1,"by":2}', "'by': is given twice"),
        (b'{"request_id":""}', "'request_id'"),
        (b'{"request_id":"a b"}', "'request_id'"),
        (b'{"request_id":"\\ud800"}', "'request_id'"),
        (b'{"request_id":"' + b"a" * 129 + b'"}', "'request_id'"),
        (b'{"request_id":5}', "'request_id'"),
        (b'{"bye":1}', "'bye' is unknown"),
        (b'{"\\u001b[2J\\ud800":1}', "unknown"),
        (b'{"by":{}}', "'by'"),
        (b"[1]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"{", "not JSON"),
        (b'{"by":1} x', "not JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[" * 8_000, "nests too deeply"),
        (b'{"by":' * 300 + b"1" + b"}" * 300, "nests too deeply"),
        (b"\x1f\x8b\x08\x00", "UTF-8"),
    ],
)
def test_increment_body_malformed_is_refused_naming_the_reason(raw: bytes, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        INCREMENT.read_body(raw)
    assert says in caught.value.message
    assert "\x1b" not in json.loads(encoding.encode_error(caught.value))["error"]["message"]


@pytest.mark.parametrize("spelt", ["900", "900.0", "9e2", "9.0E+2", "9000e-1"])
def test_integer_is_what_json_schema_calls_one(spelt: str) -> None:
    mint = table.path_for("token_mint")[0]
    body = mint.read_body(f'{{"sub":"a","ttl_s":{spelt}}}'.encode())
    assert (body["ttl_s"], type(body["ttl_s"])) == (900, int)
    assert LIST.read_query(f"limit={spelt.replace('+', '%2B')}")["limit"] == 900


@pytest.mark.parametrize("spelt", ["0.30000000000000004", "5", "5.0", "300.0", "1e1", "1.5e+2"])
def test_timeout_is_any_number_as_json_writes_it(spelt: str) -> None:
    assert LIST.read_query(f"timeout_s={spelt.replace('+', '%2B')}")["timeout_s"] == float(spelt)


@pytest.mark.parametrize("host", ["a" * 63 + "." + "b" * 63, ".".join(["a" * 49] * 5) + ".abc", "x"])
def test_host_name_of_up_to_253_characters_is_taken(host: str) -> None:
    share = table.path_for("route_share")[0]
    assert share.check_body({"host": host})["host"] == host
    for wrong in (host + ".", host.upper(), host + "-", ".".join(["a" * 49] * 5) + ".abcd", ""):
        with pytest.raises(InvalidInput, match="host name in lower case"):
            share.check_body({"host": wrong})


def test_body_past_the_largest_of_its_route_is_too_large() -> None:
    padding = b" " * (INCREMENT.max_body_bytes - 2)
    assert INCREMENT.read_body(b"{}" + padding) == {"by": 1, "request_id": None}
    with pytest.raises(BodyTooLarge):
        INCREMENT.read_body(b"{}" + padding + b" ")


def test_largest_bodies_fit_what_the_routes_take() -> None:
    limits = {route.operation: route.max_body_bytes for route in table.routes() if route.body}
    assert limits["counter_increment"] == limits["member_remove"] == limits["rendezvous_cancel"] == 8 << 10
    assert limits["join"] == limits["credential_renew_own"] == 16 << 10
    assert limits["token_mint"] == limits["rendezvous_approve"] == 64 << 10
    large = {name for name, limit in limits.items() if limit > 64 << 10}
    assert large == {
        *("batch", "token_batch", "key_import_ring", "kv_put", "kv_txn", "machine_apply", "machine_query")
    }
    assert max(limits.values()) == encoding.MAX_BODY_BYTES
    for route in table.routes():
        for field in route.body_fields.values():
            if field.kind == "string" and field.maximum is not None:
                assert field.maximum < route.max_body_bytes, field.name  # or it could never be as long
    # What nobody vouches for is small.
    assert all(route.max_body_bytes <= 16 << 10 for route in table.routes() if route.role == "none")


@pytest.mark.parametrize("key", sorted(GOOD_JOIN))
def test_join_body_missing_field_is_refused_naming_it(key: str) -> None:
    body = {name: value for name, value in GOOD_JOIN.items() if name != key}
    with pytest.raises(InvalidInput, match=f"'{key}': is required"):
        JOIN.check_body(body)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../etc"),
        ("public_key", "B" * 44),
        ("public_key", "B" * 43 + "="),
        ("signature", "A" * 86),
        ("signature", "A" * 86 + "==\n"),
        ("request_pem", "pem\x00"),
        ("request_pem", "p" * 8193),
        ("sealing_key", "A" * 42),
        ("sealing_key", "A" * 42 + "B="),
        ("ca_sha256", "C" * 64),
        ("address", "host"),
        ("address", "host:0"),
        ("address", "host:99999"),
    ],
)
def test_join_body_bad_value_is_refused_without_repeating_it(key: str, value: str) -> None:
    assert JOIN.check_body(GOOD_JOIN) == {**GOOD_JOIN, "level": 1}
    with pytest.raises(InvalidInput) as caught:
        JOIN.check_body({**GOOD_JOIN, key: value})
    assert f"'{key}'" in caught.value.message
    assert value not in caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("limit=7&after=abc&consistency=stale&timeout_s=0.5", None),
        ("after=a%2Db", None),
        ("&&", {}),
    ],
)
def test_query_good_is_read(text: str, expected: dict[str, Any] | None) -> None:
    values = LIST.read_query(text)
    if expected is not None:
        assert values == LIST.query_defaults
    elif "limit" in text:
        assert values == {"limit": 7, "after": "abc", "consistency": "stale", "timeout_s": 0.5}
    else:
        assert values["after"] == "a-b"


@pytest.mark.parametrize(
    "text",
    [
        "limit=0", "limit=1001", "limit=1e9", "limit=1.5", "limit=-1", "limit=", "limit=\u0663",
        "limit=1&limit=1", "limit=01", "limit=+1", "limit=1_0", "limit=0x1", "limit= 1", "limit=1%0A",
        "limit=" + "1" * 5000, "limit=1" + "0" * 39 + "e-39", "limit=1e99999999",
        "after=A", "after=", "consistency=eventual", "timeout_s=nan", "timeout_s=inf", "timeout_s=0.05",
        "timeout_s=301", "timeout_s=1e999", "timeout_s=.5", "timeout_s=5.", "timeout_s=00.5", "timeout_s=",
        "timeout_s=0.30000000000000004" + "0" * 40, "what=1", "limit", "after=%ff", "after=" + "a" * 5000,
    ],
)  # fmt: skip
def test_query_bad_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        LIST.read_query(text)


def test_roles_each_may_do_what_the_ones_before_it_may() -> None:
    for rank, have in enumerate(schema.ROLES):
        assert [schema.role_allows(have, need) for need in schema.ROLES] == [
            need_rank <= rank for need_rank in range(len(schema.ROLES))
        ]
    assert not schema.role_allows(None, "viewer")
    for nobody in ("admin", "node"):
        assert not schema.role_allows(nobody, "viewer")
    assert schema.role_allows(None, "none")


def test_query_without_what_is_required_is_refused_naming_it() -> None:
    route = next(route for route in table.routes() if route.operation == "kv_get")
    with pytest.raises(InvalidInput, match="query parameter 'key': is required"):
        route.read_query("consistency=stale")
    assert route.read_query("key=a%2Fb+c")["key"] == "a/b c"
