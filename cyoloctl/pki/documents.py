"""JSON files that carry requests, grants and credentials, written and read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cyoloctl.errors import InvalidInput, VersionMismatch
from cyoloctl.text import parse_json_object

__all__ = [
    "SCHEMA_VERSION",
    "parse_fields",
    "parse_object",
    "parse_string",
    "to_text",
]

SCHEMA_VERSION = 1


def to_text(value: Mapping[str, Any]) -> str:
    """The text of such a file."""
    return json.dumps(value, indent=2) + "\n"


def parse_object(text: str, what: str, max_characters: int) -> dict[str, Any]:
    """The object in such a file.  Raises InvalidInput."""
    try:
        return parse_json_object(text, max_characters=max_characters)
    except ValueError:
        raise InvalidInput(f"this is not a {what} file of cyoloctl: use the whole, unchanged file") from None


def parse_fields(value: object, what: str, **types: Any) -> dict[str, Any]:
    """The object's fields, exactly these of exactly these types.

    Its schema version is checked first: a newer one may have others.  Raises
    InvalidInput, VersionMismatch.
    """
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        raise VersionMismatch(
            f"this {what} was written by a newer release (schema version {version}): upgrade cyoloctl"
        )
    found = _exact(value, what, schema_version=int, **types)
    if version != SCHEMA_VERSION:
        raise InvalidInput(f"this is not a {what} of cyoloctl: use the whole, unchanged file")
    return found


def _exact(value: object, what: str, **types: Any) -> dict[str, Any]:
    """Exactly these fields of exactly these types: True is no number."""
    if (
        not isinstance(value, dict)
        or value.keys() != types.keys()
        or not all(
            type(value[name]) in (kind if isinstance(kind, tuple) else (kind,))
            for name, kind in types.items()
        )
    ):
        raise InvalidInput(f"this is not a {what} of cyoloctl: use the whole, unchanged file")
    return value


def parse_string(value: object, what: str) -> str:
    """A value that must be a string.  Raises InvalidInput."""
    if not isinstance(value, str):
        raise InvalidInput(f"this is not a {what} of cyoloctl: use the whole, unchanged file")
    return value
