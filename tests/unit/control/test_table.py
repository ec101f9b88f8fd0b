"""The table of routes, its decoder and the OpenAPI file derived from it."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cyoloctl import errors, model
from cyoloctl.control import table
from cyoloctl.errors import BodyTooLarge, InvalidInput
from cyoloctl.web import encoding, schema
from tests.fuzz import worlds

OPENAPI = Path(table.__file__).with_name("openapi.json")
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
    assert INVITE.read_body(b'{"name":"n"}') == {"name": "n", "learner": False, "ttl_s": 3600}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"by":true}', "'by'"),
        (b'{"by":1.0}', "'by'"),
        (b'{"by":1e3}', "'by'"),
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
    assert {name for name, limit in limits.items() if limit > 64 << 10} == {"token_batch", "key_import_ring"}
    assert max(limits.values()) == encoding.MAX_BODY_BYTES
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
    assert JOIN.check_body(GOOD_JOIN) == GOOD_JOIN
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
        "limit=0", "limit=1001", "limit=1e2", "limit=-1", "limit=", "limit=\u0663", "limit=1&limit=1",
        "after=A", "after=", "consistency=eventual", "timeout_s=nan", "timeout_s=inf", "timeout_s=0.05",
        "timeout_s=301", "timeout_s=1e1", "timeout_s=", "what=1", "limit", "after=%ff",
        "after=" + "a" * 5000,
    ],
)  # fmt: skip
def test_query_bad_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        LIST.read_query(text)


@pytest.mark.parametrize("route", table.routes(), ids=lambda route: route.operation)
def test_match_every_route_is_found_by_its_own_path(route: schema.Route[Any]) -> None:
    assert table.match(route.method, route.template.replace("{name}", "abc")) == (
        route,
        "abc" if route.has_name else "",
    )


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "*", "/v1", "/v1/", "/v2/status", "/v1/status/", "/v1//status", "/v1/counters/",
        "/V1/status", "/v1/counters/a/", "/v1/counters/a/increment/", "/v1/counters/a/b/increment",
        "/v1/counters/a/nope", "/v1/../v1/status", "/v1/counters/../status/x", "//v1/status",
        "x/v1/status", "/v1/status%2f",
    ],
)  # fmt: skip
def test_match_other_paths_are_not_found(path: str) -> None:
    found = [table.match(method, path) for method in ("GET", "POST")]
    # "/v1/counters/" is a counter with an empty name, which check_name refuses.
    assert all(item is None or item[1] == "" for item in found)
    for item in found:
        if item is not None:
            with pytest.raises(InvalidInput):
                schema.check_name(item[1])


def test_match_node_named_like_a_fixed_path_is_still_reachable() -> None:
    found = table.match("GET", "/v1/members/invitations")
    assert found is not None
    assert (found[0].operation, found[1]) == ("member_show", "invitations")
    assert table.allowed_methods("/v1/members/invitations") == ["GET", "POST"]


def test_path_for_traversal_in_the_name_is_refused() -> None:
    for name in ("../status", "a/b", "", "A", "a?b", "a%2e", "a\r\nX: y"):
        with pytest.raises(InvalidInput):
            table.path_for("counter_get", name)


def test_roles_each_may_do_what_the_ones_before_it_may() -> None:
    for rank, have in enumerate(schema.ROLES):
        assert [schema.role_allows(have, need) for need in schema.ROLES] == [
            need_rank <= rank for need_rank in range(len(schema.ROLES))
        ]
    assert not schema.role_allows(None, "viewer")
    for nobody in ("admin", "node"):
        assert not schema.role_allows(nobody, "viewer")
    assert schema.role_allows(None, "none")


def test_roles_of_the_table_are_what_each_role_is_for() -> None:
    """Every route: a new one belongs in one of these lists, with a thought about who may use it."""
    by_role: dict[str, set[str]] = {}
    for route in table.routes():
        by_role.setdefault(route.role, set()).add(route.operation)
    assert by_role["none"] == {"health", "join", "openapi", "ca"}
    assert by_role["gateway"] == {
        *{f"token_{what}" for what in ("mint", "inspect", "update", "refresh", "batch", "revoke")},
        *{f"rendezvous_{what}" for what in ("start", "wait", "claim", "approve", "deny", "cancel")},
        "rendezvous_show",
        "rendezvous_list",
        "rendezvous_policies",
    }
    assert by_role["viewer"] == {
        *("status", "member_list", "member_show", "member_invitations"),
        *("counter_get", "counter_list", "counter_watch"),
        *("credential_list", "credential_show", "credential_renew_own"),
        *("token_revocations", "key_list", "key_status", "key_policy", "key_identity", "route_list"),
        "pki_status",
    }
    assert by_role.keys() == set(schema.ROLES)


@pytest.mark.parametrize("cls", errors.error_classes(), ids=lambda cls: cls.__name__)
def test_error_survives_encoding(cls: type[errors.CyoloctlError]) -> None:
    decoded = encoding.decode_error(
        json.loads(encoding.encode_error(cls("why, and what to do"))), cls.http_status
    )
    assert type(decoded) is cls
    assert decoded.message == "why, and what to do"


def test_error_unknown_code_gives_the_root() -> None:
    decoded = encoding.decode_error({"error": {"code": "from_the_future", "message": "a\x1b[2Jb"}})
    assert type(decoded) is errors.CyoloctlError
    assert "\x1b" not in decoded.message


@pytest.mark.parametrize(
    "value", [{}, {"error": None}, {"error": {"code": 1, "message": "x"}}, {"error": []}]
)
def test_error_of_another_shape_is_no_error(value: dict[str, Any]) -> None:
    assert encoding.decode_error(value) is None


def test_encode_object_adds_the_schema_version_and_is_ascii() -> None:
    assert json.loads(encoding.encode_object({"a": "\u00e9\ud800"})) == {
        "schema_version": 1,
        "a": "\u00e9\ud800",
    }
    assert encoding.encode_object({"schema_version": 1}) == b'{"schema_version":1}'


@pytest.mark.parametrize("route", table.routes(), ids=lambda route: route.operation)
def test_openapi_describes_every_route_with_every_error(route: schema.Route[Any]) -> None:
    document = json.loads(OPENAPI.read_bytes())
    operation = document["paths"][route.template][route.method.lower()]
    assert operation["operationId"] == route.operation
    assert operation["x-role"] == route.role
    assert set(operation["responses"]) == {"200"} | {str(cls.http_status) for cls in route.possible_errors()}
    for cls in route.possible_errors():
        response = operation["responses"][str(cls.http_status)]
        assert f"`{cls.api_code or cls.code}`" in response["description"]
        assert response["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    assert {field["name"] for field in operation["parameters"]} == set(route.query_fields) | (
        {"name"} if route.has_name else set()
    )
    properties = (
        operation.get("requestBody", {})
        .get("content", {})
        .get("application/json", {})
        .get("schema", {})
        .get("properties", {})
    )
    assert set(properties) == set(route.body_fields)


def test_openapi_references_all_resolve_and_nothing_is_left_over() -> None:
    document = json.loads(OPENAPI.read_bytes())
    used = {part.split('"')[0] for part in OPENAPI.read_text().split('"#/components/schemas/')[1:]}
    assert used == set(document["components"]["schemas"])
    assert set(document["paths"]) == {route.template for route in table.routes()}
    assert document["openapi"].startswith("3.1")


async def test_every_handler_takes_what_its_route_reads() -> None:
    node: Any = worlds.unstarted_service()
    for route in table.routes():
        if route.handler is None:
            continue
        parameters = list(inspect.signature(route.handler(node)).parameters.values())
        named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        positional = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        fields = [] if route.stream else [*route.body_fields, *route.query_fields]
        assert sorted(named) == sorted(fields), route
        assert len(positional) == route.has_name, route
        assert len(parameters) == len(named) + len(positional), route


def test_only_the_document_has_no_handler() -> None:
    assert [route.operation for route in table.routes() if route.handler is None] == ["openapi"]


def test_every_operation_is_found_by_its_name_and_is_one() -> None:
    operations = [route.operation for route in table.routes()]
    assert len(set(operations)) == len(operations)
    assert all(table.path_for(name, "x")[0].operation == name for name in operations)


def test_client_import_loads_nothing_slow() -> None:
    slow = {
        "ssl", "asyncio", "http.client", "email", "dataclasses", "pathlib", "urllib.parse", "yaml", "rich",
        "typer", "cryptography", "aiohttp", "inspect", "cyoloctl.model",
    }  # fmt: skip
    root = Path(table.__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import cyoloctl.control.client; print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True, text=True)
    assert slow & set(ran.stdout.split()) == set()
