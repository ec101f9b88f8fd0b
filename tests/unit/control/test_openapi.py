"""The OpenAPI document is whole and true: every route, error and type, as all its readers take them."""

from __future__ import annotations

import itertools
import json
import re._parser as patterns
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from cyoloctl.control import table
from cyoloctl.control.openapi import CHECKED_IN
from cyoloctl.errors import InvalidInput
from cyoloctl.web import schema
from tests.support.openapi import DOCUMENT, assert_valid, body_schema


@pytest.mark.parametrize("route", table.routes(), ids=lambda route: route.operation)
def test_openapi_describes_every_route_with_every_error(route: schema.Route[Any]) -> None:
    document = json.loads(CHECKED_IN.read_bytes())
    operation = document["paths"][route.template][route.method.lower()]
    assert operation["operationId"] == route.operation
    assert operation["x-role"] == route.role
    errors = {str(cls.http_status) for cls in route.possible_errors()}
    assert set(operation["responses"]) == {"200", "405"} | errors
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
    document = json.loads(CHECKED_IN.read_bytes())
    used = {part.split('"')[0] for part in CHECKED_IN.read_text().split('"#/components/schemas/')[1:]}
    assert used == set(document["components"]["schemas"])
    assert set(document["paths"]) == {route.template for route in table.routes()}
    assert document["openapi"].startswith("3.1")


def test_document_is_valid_openapi() -> None:
    validate(DOCUMENT)


def _patterns(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("pattern"), str):
            yield value["pattern"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _patterns(item)


def _parts(parsed: Any) -> Iterator[tuple[str, Any]]:
    for code, argument in parsed:
        yield str(code), argument
        for inner in argument if isinstance(argument, tuple | list) else [argument]:
            if isinstance(inner, patterns.SubPattern):
                yield from _parts(inner)
            elif isinstance(inner, list):  # the ways of a branch
                for each in inner:
                    if isinstance(each, patterns.SubPattern):
                        yield from _parts(each)


@pytest.mark.parametrize("pattern", sorted(set(_patterns(DOCUMENT))))
def test_pattern_is_one_that_every_engine_takes(pattern: str) -> None:
    """RE2 (Go, Rust) has no look-around, no references back and at most 1,000 repetitions."""
    assert (pattern[0], pattern[-1]) == ("^", "$")
    known = {"LITERAL", "NOT_LITERAL", "IN", "BRANCH", "SUBPATTERN", "MAX_REPEAT", "AT", "ANY"}
    for code, argument in _parts(patterns.parse(pattern)):
        assert code in known, code
        if code == "MAX_REPEAT":
            assert argument[1] == patterns.MAXREPEAT or argument[1] <= 1000


def test_patterns_that_not_every_engine_takes_are_told_apart() -> None:
    """Or the test above could not fail."""
    for pattern, code in [("(?=a)b", "ASSERT"), (r"(a)(?:b\1)", "GROUPREF"), ("(?:a|(?!b))", "ASSERT_NOT")]:
        assert code in {found for found, _ in _parts(patterns.parse(pattern))}


@pytest.mark.parametrize(
    "route", [route for route in table.routes() if route.choices], ids=lambda route: route.operation
)
def test_either_or_of_fields_is_in_the_document_as_the_node_takes_it(route: schema.Route[Any]) -> None:
    values = {"sid": "A" * 22, "id": "0" * 32, "request_id": "r" * 16, "redemption": "r" * 16}
    required = {"rendezvous_wait": {"id": "0" * 32}, "kv_put": {"key": "k"}}.get(route.operation, {})
    validator = Draft202012Validator(body_schema(route))
    seen = set()
    for choice in route.choices:
        # Each left out, null or given.
        for ways in itertools.product((0, 1, 2), repeat=len(choice.fields)):
            body = dict(required)
            for name, way in zip(choice.fields, ways, strict=True):
                if way:
                    body[name] = values.get(name, "text") if way == 2 else None
            try:
                route.check_body(body)
                taken = True
            except InvalidInput:
                taken = False
            assert validator.is_valid(body) is taken, body
            seen.add(taken)
    assert seen == {True, False}


@pytest.mark.parametrize(
    "route", [route for route in table.routes() if route.example], ids=lambda route: route.operation
)
def test_example_is_taken_and_answered_as_the_schemas_say(route: schema.Route[Any]) -> None:
    operation = DOCUMENT["paths"][route.template][route.method.lower()]
    if route.body:
        body = operation["requestBody"]["content"]["application/json"]["example"]
        assert body  # and taken
        route.read_body(json.dumps(body).encode())
        assert_valid(body, body_schema(route), strict=True)
    answer = operation["responses"]["200"]["content"]["application/json"]
    assert_valid(answer["example"], answer["schema"], strict=True)


def test_every_rendezvous_operation_has_an_example() -> None:
    assert not [
        route for route in table.routes() if route.operation.startswith("rendezvous") and not route.example
    ]


def test_answer_with_a_field_that_the_document_does_not_name_is_told_at_any_depth() -> None:
    """Or tests/cluster/test_answers.py could not fail."""
    schema = DOCUMENT["components"]["schemas"]["RouteList"]
    backend = {"name": "n1", "host": None, "address": None, "url": None, "alive": True, "role": "leader"}
    answer = {"schema_version": 1, "backends": [backend], "shared_hosts": [], "index": 7, "epoch": 1}
    assert_valid(answer, schema, strict=True)
    for wrong in ({**answer, "new": 1}, {**answer, "backends": [{**backend, "new": 1}]}):
        assert_valid(wrong, schema, strict=False)
        with pytest.raises(AssertionError, match="'new' was unexpected"):
            assert_valid(wrong, schema, strict=True)
