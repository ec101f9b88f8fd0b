"""msgspec's JSON is the standard library's, byte for byte and value for value."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cyoloctl import fastjson
from cyoloctl.errors import InvalidInput
from cyoloctl.text import canonical_json, parse_canonical_json
from cyoloctl.web.encoding import decode_object

TEXT = st.text(st.characters()) | st.text(st.sampled_from('\0\x1f"\\/\x7f\x80\u2028\ud800ab:{,'))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


class Named(StrEnum):
    A = "a"


class Text(str):
    __slots__ = ()


@given(JSON)
@example({"\x7f": "\\u007f", "a": ["\ud800", 2**64]})
@example([Named.A, Text("x"), {Named.A: 1}])
def test_encodings_are_those_of_the_standard_library(value: object) -> None:
    assert fastjson.canonical_bytes(value).decode() == canonical_json(value)
    assert json.loads(fastjson.compact_bytes(value)) == value
    assert fastjson.compact_bytes(value).isascii()


@pytest.mark.parametrize("value", [{1, 2}.__iter__(), object(), {(): 1}])
def test_encodings_refuse_what_json_cannot_hold(value: object) -> None:
    for encode in (fastjson.canonical_bytes, fastjson.compact_bytes):
        with pytest.raises((TypeError, ValueError)):
            encode(value)


@given(st.dictionaries(TEXT, JSON, max_size=4), st.sampled_from([None, 1]))
def test_decoded_values_are_those_of_the_standard_library(value: object, indent: int | None) -> None:
    for text in (json.dumps(value, indent=indent), json.dumps(value, ensure_ascii=False)):
        try:
            data = text.encode()
        except UnicodeEncodeError:
            continue
        found = fastjson.decode_flat_object(data)
        if found is not None:
            assert found == value
            assert [type(each) for each in found.values()] == [
                type(each) for each in json.loads(text).values()
            ]


@pytest.mark.parametrize("decode", [fastjson.decode_flat_object, fastjson.decode_rows])
@given(st.lists(st.sampled_from('{}[]:,"aa11.e- \\u\x7f'), max_size=12).map("".join))
@example('{"a":1,"a":2}')
@example('{"a" : 1,"a":2}')
@example('{"a":{"b":1,"b":2}}')
@example('{"a":[{"b":1},{"b":1,"b":2}]}')
@example('{"a":[{"b":1}],"a":[{"b":1}]}')
@example('{"a":[{"b":1,"b":2}]}')
@example('{"a":[[{"b":1,"b":2}]]}')
@example('{"a":1e400}')
@example('{"a":NaN}')
@example('{"a":' + "1" * 5000 + "}")
@example('{"a":"\\ud800"}')
@example('{"a":-0,"b":-0.0,"c":1E2}')
@example("[" * 100_000)
def test_what_is_decoded_at_once_is_what_the_strict_decoder_gives(
    decode: Callable[[bytes], dict[str, Any] | None], text: str
) -> None:
    found = decode(text.encode())
    if found is None:
        return
    try:
        wanted = decode_object(text.encode(), "body")
    except InvalidInput:
        pytest.fail(f"{text} is refused by the strict decoder")
    assert found == wanted
    for name, each in found.items():
        assert type(each) is type(wanted[name])
        if type(each) is float:
            assert math.copysign(1, each) == math.copysign(1, wanted[name])


def test_usual_bodies_need_nobody_slower() -> None:
    assert fastjson.decode_flat_object(b'{"by":1}') == {"by": 1}
    assert fastjson.decode_flat_object(b'{"key":"a","value_base64":"YQ==","ttl_s":null}') is not None
    assert fastjson.decode_flat_object(b'{"a":{}}') == {"a": {}}
    rows = b'{"schema_version":1,"results":[{"id":"1","ok":true},{"id":2,"ok":true}]}'
    assert fastjson.decode_rows(rows) == json.loads(rows)


@given(
    JSON.map(canonical_json) | st.lists(st.sampled_from('{}[]:,"a11.e- \\u\x7f'), max_size=12).map("".join)
)
@example('{"a":1,"a":2}')
@example('{"b":1,"a":2}')
@example('{"a": 1}')
@example("-0")
@example("1.5")
@example("[1e3]")
@example(str(10**19 - 1))
@example(str(10**20))
@example(str(-(10**18)))
@example(str(-(10**19)))
@example('"\\u007f"')
@example('"\\ud800"')
@example('"\\u0041"')
@example('"\u00e9"')
def test_canonical_json_is_what_the_strict_decoder_takes(text: str) -> None:
    try:
        expected = parse_canonical_json(text)
    except ValueError:
        with pytest.raises(ValueError):
            fastjson.decode_canonical(text.encode())
        return
    if not text.isascii():
        with pytest.raises(ValueError):
            fastjson.decode_canonical(text.encode())
        return
    found = fastjson.decode_canonical(text.encode())
    assert found == expected
    assert canonical_json(found) == text
