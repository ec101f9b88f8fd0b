"""JSON on the API: errors survive, answers carry the schema version."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cyoloctl import errors
from cyoloctl.web import encoding


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
