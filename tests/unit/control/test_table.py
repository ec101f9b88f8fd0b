"""The table of routes: which route a path means, whose it is, and that its handler takes what it reads."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.control import table
from cyoloctl.errors import InvalidInput
from cyoloctl.web import schema
from tests.fuzz import worlds


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


def test_match_path_of_an_operation_that_is_no_name_is_not_a_name() -> None:
    for action in ("start", "wait", "claim", "approve", "deny", "cancel", "policy"):
        assert table.match("GET", f"/v1/rendezvous/{action}") is None
        assert table.allowed_methods(f"/v1/rendezvous/{action}") == ["POST"]
    assert table.allowed_methods("/v1/rendezvous/nothing") == ["GET"]  # and refused for its name


def test_path_for_traversal_in_the_name_is_refused() -> None:
    for name in ("../status", "a/b", "", "A", "a?b", "a%2e", "a\r\nX: y"):
        with pytest.raises(InvalidInput):
            table.path_for("counter_get", name)


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
        *("counter_get", "counter_list", "counter_watch", "lock_get", "lock_list"),
        *("kv_get", "kv_list", "kv_changes", "machine_list", "machine_query"),
        *("credential_list", "credential_show", "credential_renew_own"),
        *("token_revocations", "key_list", "key_status", "key_policy", "key_identity", "route_list"),
        "pki_status",
        "metrics",
        "batch",  # each of its operations needs its own role
        "audit_list",
    }
    assert by_role.keys() == set(schema.ROLES)


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


async def test_every_plan_takes_what_the_handler_of_its_route_takes_but_an_id_and_a_timeout() -> None:
    node: Any = worlds.unstarted_service()
    planned = [route for route in table.routes() if route.plan is not None]
    assert {route.operation for route in planned} == {
        *("counter_increment", "counter_decrement", "counter_reset"),
        *("kv_put", "kv_delete", "kv_txn", "machine_apply"),
    }
    for route in planned:
        assert route.plan is not None
        parameters = list(inspect.signature(route.plan(node)).parameters.values())
        named = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        assert sorted(named) == sorted(set(route.body_fields) - {"request_id"}), route
        assert len(parameters) == len(named) + route.has_name, route


def test_only_the_document_and_batches_have_no_handler() -> None:
    without = [route.operation for route in table.routes() if route.handler is None]
    assert without == ["openapi", "batch"]


def test_every_operation_is_found_by_its_name_and_is_one() -> None:
    operations = [route.operation for route in table.routes()]
    assert len(set(operations)) == len(operations)
    for name in operations:
        special = {"rendezvous_show": "WDJB-MJHT", "snapshot_part": "0" * 32}
        named = special.get(name, "fc0a1b2c" if name.startswith("key_") else "x")
        named = "trust" if name.startswith("audit_") else named
        assert table.path_for(name, named)[0].operation == name


@pytest.mark.parametrize("name", ["0123456789abcdef" * 2, "WDJB-MJHT", "wdjb-mjht", "wdjbmjht"])
def test_path_of_a_rendezvous_has_its_id_or_its_code_with_the_dash(name: str) -> None:
    route, path = table.path_for("rendezvous_show", name)
    assert table.match("GET", path) == (route, name)


@pytest.mark.parametrize("name", ["", "..", "WDJB-MJH", "WDJB--MJHT", "0" * 31, "a" * 63, "WDJB\u2010MJHT"])
def test_path_of_a_rendezvous_with_another_name_is_refused_without_repeating_it(name: str) -> None:
    with pytest.raises(InvalidInput, match="32 hex digits") as caught:
        table.path_for("rendezvous_show", name)
    assert not name or name not in caught.value.message


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/v1/rendezvous/bcdf-ghjk?timeout_s=1", "/v1/rendezvous/(hidden)"),
        ("/v1/rendezvous/a/b", "/v1/rendezvous/(hidden)"),
        ("/v1/rendezvous/start?timeout_s=1", "/v1/rendezvous/start"),
        ("/v1/rendezvous", "/v1/rendezvous"),
        ("/v1/members/n1?timeout_s=1", "/v1/members/n1"),
    ],
)
def test_path_in_logs_hides_the_name_that_is_a_secret(path: str, shown: str) -> None:
    assert table.shown_path(path) == shown


def test_client_import_loads_nothing_slow() -> None:
    slow = {
        "ssl", "asyncio", "http.client", "email", "dataclasses", "pathlib", "urllib.parse", "yaml", "rich",
        "typer", "cryptography", "httptools", "inspect", "cyoloctl.model",
    }  # fmt: skip
    root = Path(table.__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import cyoloctl.control.client; print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True, text=True)
    assert slow & set(ran.stdout.split()) == set()
