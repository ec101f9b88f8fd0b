"""The API's document as tests use it: schemas of bodies and answers, and whether a value is as they say."""

from __future__ import annotations

import functools
import json
from typing import Any

from jsonschema import Draft202012Validator

from cyoloctl.control.openapi import CHECKED_IN
from cyoloctl.web.schema import Route

__all__ = ["DOCUMENT", "answer_schema", "assert_valid", "body_schema"]

DOCUMENT: dict[str, Any] = json.loads(CHECKED_IN.read_bytes())


def body_schema(route: Route[Any]) -> dict[str, Any]:
    """The schema of a route's body."""
    operation = DOCUMENT["paths"][route.template][route.method.lower()]
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


def answer_schema(route: Route[Any], status: int = 200) -> dict[str, Any]:
    """The schema of a route's answer with this status."""
    responses = DOCUMENT["paths"][route.template][route.method.lower()]["responses"]
    (media,) = responses[str(status)]["content"].values()
    schema: dict[str, Any] = media["schema"]
    return schema


def _resolved(schema: Any) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _resolved(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        return {name: _resolved(value) for name, value in schema.items()}
    return [_resolved(value) for value in schema] if isinstance(schema, list) else schema


def _closed(schema: Any) -> Any:
    """The schema with no other fields in any object than those that it names."""
    if isinstance(schema, dict):
        closed = {name: _closed(value) for name, value in schema.items()}
        if closed.get("type") == "object" and "properties" in closed:
            closed.setdefault("additionalProperties", False)
        return closed
    return [_closed(value) for value in schema] if isinstance(schema, list) else schema


@functools.cache
def _validator(schema: str, strict: bool) -> Draft202012Validator:
    resolved = _resolved(json.loads(schema))
    return Draft202012Validator(
        _closed(resolved) if strict else resolved, format_checker=Draft202012Validator.FORMAT_CHECKER
    )


def assert_valid(value: Any, schema: dict[str, Any], *, strict: bool) -> None:
    """Fail where the value is not as the schema says.

    strict: nor with a field that the schema does not name, though clients must
    expect new ones.
    """
    errors = [
        f"{error.json_path}: {error.message}"
        for error in _validator(json.dumps(schema), strict).iter_errors(value)
    ]
    assert not errors, errors
