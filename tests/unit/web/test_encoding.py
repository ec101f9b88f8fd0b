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


def test_body_past_the_limit_is_too_large_before_it_is_parsed() -> None:
    assert encoding.decode_object(b'{"a":1}', "body", 7) == {"a": 1}
    with pytest.raises(errors.BodyTooLarge, match="larger than 6 bytes"):
        encoding.decode_object(b'{"a":1}', "body", 6)
    with pytest.raises(errors.BodyTooLarge):
        encoding.decode_object(b"not JSON at all", "body", 6)


def test_body_that_nests_too_deeply_is_refused() -> None:
    for raw in (
        b'{"a":[' + b"[]," * 2000 + b"[]]}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ):
        with pytest.raises(errors.InvalidInput, match="nests too deeply"):
            encoding.decode_object(raw, "body")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b'"a"',
        b'{"a":}',
        b"\xff\xfe",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":[-1e999]}',
        b"9" * 9999,
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(errors.InvalidInput):
        encoding.decode_object(raw, "body")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_number_that_json_cannot_hold_is_never_written(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encoding.encode_object({"a": value})


def test_message_is_bounded() -> None:
    assert len(encoding.clean_text("x" * 5000)) == 2000
    assert encoding.clean_text("x" * 5000, 10) == "x" * 7 + "..."
