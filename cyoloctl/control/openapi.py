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
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from cyoloctl.control import table
from cyoloctl.errors import InvalidInput
from cyoloctl.web.encoding import SCHEMA_VERSION
from cyoloctl.web.schema import REQUIRED, Choice, Field, Loose, Route

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def _object(answer: type) -> dict[str, Any]:
    """The JSON Schema of a TypedDict."""
    fields: dict[str, Any] = {}
    required = []
    # Not __required_keys__, which knows nothing of annotations that are strings.
    for name, hint in get_type_hints(answer, include_extras=True).items():
        if get_origin(hint) is NotRequired:
            hint = get_args(hint)[0]
        else:
            required.append(name)
        fields[name] = _shape(hint)
    return {"type": "object", "required": required, "properties": fields}


def _shape(hint: Any) -> dict[str, Any]:
    """The JSON Schema of one type."""
    if hint in _KINDS:
        return {"type": _KINDS[hint]}
    if hint is Any:
        return {}
    if is_typeddict(hint):
        return _object(hint)
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
        # Said aloud: some generators take an object without properties for an empty one.
        return {"type": "object", "additionalProperties": _shape(arguments[1]) or True}
    if origin in (Union, types.UnionType):
        return _union(arguments)
    raise TypeError(f"no schema for {hint!r}")


def _union(arguments: tuple[Any, ...]) -> dict[str, Any]:
    shapes = [_shape(each) for each in arguments if each is not type(None)]
    nullable = type(None) in arguments
    if len(shapes) == 1 and "enum" in shapes[0]:
        return {"enum": [*shapes[0]["enum"], None]}
    if len(shapes) == 1 or all(shape.keys() == {"type"} for shape in shapes):
        kinds = [shape["type"] for shape in shapes]
        return {**shapes[0], "type": [*kinds, "null"] if nullable else kinds}
    return {"anyOf": [*shapes, {"type": "null"}] if nullable else shapes}


_STALE = {"const": True, "description": "the answer is what this node has; no majority was asked"}


def _answer(answer: type) -> dict[str, Any]:
    """The component of an answer's type."""
    if answer.__name__ == "OpenAPI":
        return {"type": "object", "description": answer.__doc__, "additionalProperties": True}
    shape = _object(answer)
    return {
        "type": "object",
        "description": answer.__doc__,
        "required": ["schema_version", *shape["required"]],
        "properties": {"schema_version": {"const": SCHEMA_VERSION}, **shape["properties"]},
    }


def _field(field: Field) -> dict[str, Any]:
    """The JSON Schema of a field of a body, with what it holds."""
    schema = field.schema()
    holds = field.holds
    if holds is not None:
        inside = {"anyOf": [_body(fields) for fields in holds]} if type(holds) is tuple else _shape(holds)
        schema["items" if field.kind == "array" else "additionalProperties"] = inside
    elif field.kind == "object":
        schema["additionalProperties"] = True
    return schema


def _body(fields: Iterable[Field], choices: Iterable[Choice] = ()) -> dict[str, Any]:
    """The JSON Schema of an object of these fields."""
    by_name = {field.name: field for field in fields}
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _field(field) for name, field in by_name.items()},
    }
    required = [name for name, field in by_name.items() if field.default is REQUIRED]
    if required:
        schema["required"] = required
    kinds = {name: field.kind for name, field in by_name.items()}
    for choice in choices:
        schema |= choice.schema(kinds)
    return schema


def _parameters(route: Route[table.Node]) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    if route.has_name:
        parameters.append(
            {
                "name": "name",
                "in": "path",
                "required": True,
                "description": f"the {route.what}: {route.name_rule}",
                "schema": {"type": "string", "pattern": f"^(?:{route.name_pattern})$"},
            }
        )
    return parameters + [
        {
            "name": field.name,
            "in": "query",
            "required": field.default is REQUIRED,
            "schema": field.schema(in_query=True),
        }
        for field in route.query_fields.values()
    ]


def _reference(kind: str, name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _responses(route: Route[table.Node]) -> dict[str, Any]:
    answer = {"type": "string"} if route.is_text else _reference("schemas", route.answer.__name__)
    content: dict[str, Any] = {"schema": answer}
    if route.stream:
        # Line by line: the last one may be an error, and some are blank.
        content = {"schema": {"anyOf": [answer, _reference("schemas", "Error")]}}
    if route.example is not None:
        content["example"] = {"schema_version": SCHEMA_VERSION, **route.example[1]}
    media = "application/x-ndjson" if route.stream else route.media
    responses: dict[str, Any] = {"200": {"description": route.summary, "content": {media: content}}}
    by_status: dict[int, list[str]] = {}
    for cls in route.possible_errors():
        by_status.setdefault(cls.http_status, []).append(f"`{cls.api_code or cls.code}`: {cls.meaning}")
    for status, meanings in by_status.items():
        responses[str(status)] = {
            "description": "; ".join(meanings),
            "content": {"application/json": {"schema": _reference("schemas", "Error")}},
        }
    allowed = ", ".join(table.allowed_methods(route.template))
    responses["405"] = {
        "description": f"`{InvalidInput.code}`: another method than those in `Allow`; HEAD gets no body",
        "headers": {"Allow": {"required": True, "schema": {"const": allowed}}},
        "content": {"application/json": {"schema": _reference("schemas", "Error")}},
    }
    return dict(sorted(responses.items()))


def _operation(route: Route[table.Node]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "x-role": route.role,
        "security": [] if route.role == "none" else [{"clientCertificate": []}],
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if route.body:
        schema = _body(route.body_fields.values(), route.choices)
        content = {"schema": schema}
        if route.example is not None and route.example[0] is not None:
            content["example"] = dict(route.example[0])
        result["requestBody"] = {
            "description": f"at most {route.max_body_bytes} bytes",
            "required": bool(schema.get("required") or not all(each.optional for each in route.choices)),
            "content": {"application/json": content},
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
        if route.is_text:
            continue
        name = route.answer.__name__
        schemas.setdefault(name, _answer(route.answer))
        if "consistency" in route.query_defaults:
            schemas[name]["properties"]["stale"] = _STALE
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
