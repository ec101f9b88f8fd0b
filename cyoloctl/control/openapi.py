"""The OpenAPI 3.1 document of the API, made from the table of routes and the types of their answers.

`make generate` writes it.  What the checked-in document
has already keeps its place in it, so that the difference is the change.
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from cyoloctl.control import table
from cyoloctl.web.encoding import SCHEMA_VERSION
from cyoloctl.web.schema import NAME_PATTERN, REQUIRED, Loose, Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cyoloctl.errors import CyoloctlError

__all__ = ["CHECKED_IN", "openapi"]

#: The document that nodes serve.
CHECKED_IN = Path(__file__).with_name("openapi.json")

_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string"}
_ERROR = {
    "type": "object",
    "description": "Any refusal or failure; `cyoloctl help exit-codes` lists the codes",
    "required": ["schema_version", "error"],
    "properties": {
        "schema_version": {"const": SCHEMA_VERSION},
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}


def _fields(answer: type) -> dict[str, Any]:
    return {name: _shape(hint) for name, hint in get_type_hints(answer, include_extras=True).items()}


def _shape(hint: Any) -> dict[str, Any]:
    """The JSON Schema of one type."""
    if hint in _KINDS:
        return {"type": _KINDS[hint]}
    if is_typeddict(hint):
        fields = _fields(hint)
        return {"type": "object", "required": list(fields), "properties": fields}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        shape = _shape(arguments[0])
        for more in arguments[1:]:
            if more == Loose:
                del shape["required"]
            else:
                shape |= more.keywords
        return shape
    if origin is Literal:
        return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _shape(arguments[0])}
    if origin is dict:
        values = arguments[1]
        return (
            {"type": "object"}
            if values is Any
            else {"type": "object", "additionalProperties": _shape(values)}
        )
    if origin in (Union, types.UnionType):
        shapes = [_shape(each) for each in arguments if each is not type(None)]
        nullable = ["null"] if type(None) in arguments else []
        first = shapes[0]
        if "enum" in first:
            return {"enum": [*first["enum"], *([None] if nullable else [])]}
        return {**first, "type": [*(shape["type"] for shape in shapes), *nullable]}
    raise TypeError(f"no schema for {hint!r}")


def _answer(answer: type) -> dict[str, Any]:
    """The component of an answer's type."""
    if answer.__name__ == "OpenAPI":
        return {"type": "object", "description": answer.__doc__}
    fields = _fields(answer)
    return {
        "type": "object",
        "description": answer.__doc__,
        "required": ["schema_version", *fields],
        "properties": {"schema_version": {"const": SCHEMA_VERSION}, **fields},
    }


def _operation(route: Route[table.Node]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = []
    if route.has_name:
        parameters.append(
            {
                "name": "name",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": f"^(?:{NAME_PATTERN})$"},
            }
        )
    parameters += [
        {"name": field.name, "in": "query", "required": field.default is REQUIRED, "schema": field.schema()}
        for field in route.query_fields.values()
    ]
    media = "application/x-ndjson" if route.stream else "application/json"
    reference = {"$ref": f"#/components/schemas/{route.answer.__name__}"}
    responses: dict[str, Any] = {
        "200": {"description": route.summary, "content": {media: {"schema": reference}}}
    }
    by_status: dict[int, list[type[CyoloctlError]]] = {}
    for cls in route.possible_errors():
        by_status.setdefault(cls.http_status, []).append(cls)
    for status, classes in by_status.items():
        responses[str(status)] = {
            "description": "; ".join(f"`{cls.api_code or cls.code}`: {cls.meaning}" for cls in classes),
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    result: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "x-role": route.role,
        "security": [] if route.role == "none" else [{"clientCertificate": []}],
        "parameters": parameters,
        "responses": responses,
    }
    if route.body:
        required = [field.name for field in route.body_fields.values() if field.default is REQUIRED]
        schema: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {field.name: field.schema() for field in route.body_fields.values()},
        }
        if required:
            schema["required"] = required
        result["requestBody"] = {
            "description": f"at most {route.max_body_bytes} bytes",
            "required": bool(required),
            "content": {"application/json": {"schema": schema}},
        }
    return result


def _in_place(found: dict[str, Any], before: Iterable[str]) -> dict[str, Any]:
    """The entries in the order of those before; new ones after them."""
    return {name: found[name] for name in (*(name for name in before if name in found), *found)}


def openapi() -> dict[str, Any]:
    """The document."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {"Error": _ERROR}
    for route in table.routes():
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route)
        schemas[route.answer.__name__] = _answer(route.answer)
    before = json.loads(CHECKED_IN.read_bytes()) if CHECKED_IN.exists() else {"paths": {}, "components": {}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cyoloctl control API",
            "version": "1",
            "description": "Every object has `schema_version` 1; a field is never renamed or removed within "
            "it. Over the unix socket the caller is an operator; over TLS the role is that of the client "
            "certificate's key in the register of credentials (`x-role` is the least one). A write that ends "
            "in `outcome_unknown` may or may not have been applied: repeat it with the same `request_id`.",
        },
        "paths": _in_place(paths, before["paths"]),
        "components": {
            "schemas": _in_place(schemas, before["components"].get("schemas", {})),
            "securitySchemes": {"clientCertificate": {"type": "mutualTLS"}},
        },
    }
