"""The OpenAPI document is whole: every route, every error, every type."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cyoloctl.control import table
from cyoloctl.control.openapi import CHECKED_IN
from cyoloctl.web import schema


@pytest.mark.parametrize("route", table.routes(), ids=lambda route: route.operation)
def test_openapi_describes_every_route_with_every_error(route: schema.Route[Any]) -> None:
    document = json.loads(CHECKED_IN.read_bytes())
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
    document = json.loads(CHECKED_IN.read_bytes())
    used = {part.split('"')[0] for part in CHECKED_IN.read_text().split('"#/components/schemas/')[1:]}
    assert used == set(document["components"]["schemas"])
    assert set(document["paths"]) == {route.template for route in table.routes()}
    assert document["openapi"].startswith("3.1")
