"""One spelling for bytes, values and moments: what the encoders write, and that nothing else is read."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoloctl import text
from cyoloctl.text import (
    DuplicateName,
    NotANumber,
    canonical_json,
    canonical_json_in_slices,
    decode_base64,
    decode_base64url,
    encode_base64,
    encode_base64url,
    from_unix_ms,
    parse_canonical_json,
    parse_json_object,
    parse_rfc3339,
    pre_auth_encoding,
    rfc3339,
    rfc3339_of,
    strict_json_decoder,
    to_unix_ms,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


# -- bytes --------------------------------------------------------------------------------------


@given(st.binary(max_size=80))
def test_base64_is_that_of_the_standard_library_and_is_read_back(data: bytes) -> None:
    assert encode_base64(data) == base64.b64encode(data).decode()
    assert decode_base64(encode_base64(data)) == data
    assert encode_base64url(data) == base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert decode_base64url(encode_base64url(data)) == data


@pytest.mark.parametrize(
    "spelt", ["QQ", "QQ=", "QR==", "QQ==\n", " QQ==", "Q-==", "QQ===", "Q", "=", "\u00e9", "QQ==QQ=="]
)
def test_decode_base64_of_another_spelling_raises_value_error(spelt: str) -> None:
    with pytest.raises(ValueError):
        decode_base64(spelt)


@pytest.mark.parametrize("spelt", ["QQ==", "QR", "QQ\n", " QQ", "Q+", "-_+", "Q", "=", "\u00e9", "Q.Q"])
def test_decode_base64url_of_another_spelling_raises_value_error(spelt: str) -> None:
    with pytest.raises(ValueError):
        decode_base64url(spelt)


def test_pre_auth_encoding_is_counts_and_lengths_of_32_bits() -> None:
    assert pre_auth_encoding() == bytes(4)
    assert pre_auth_encoding(b"", b"ab") == bytes.fromhex("00000002 00000000 00000002 6162")


# -- JSON ---------------------------------------------------------------------------------------


def test_canonical_json_is_ascii_with_sorted_names_and_no_blanks() -> None:
    assert canonical_json({"b": [1, None], "a": "\u00e9\n"}) == '{"a":"\\u00e9\\n","b":[1,null]}'
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


@given(VALUES)
def test_canonical_json_is_read_back(value: Any) -> None:
    found = canonical_json(value)
    assert found == json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    assert parse_canonical_json(found) == value


@given(value=VALUES, size=st.integers(1, 3))
def test_canonical_json_in_slices_is_the_same_text(value: Any, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_SLICE", size)
        assert "".join(canonical_json_in_slices(value)) == canonical_json(value)


@pytest.mark.parametrize(
    "spelt",
    [
        "",
        " 1",
        "1 ",
        "1.0",
        "1e3",
        "-0",
        "NaN",
        "Infinity",
        '"\\u0041"',
        '"\\/"',
        '"\u00e9"',
        '{"b":1,"a":2}',
        '{"a":1,"a":1}',
        '{"a": 1}',
        "[1,]",
        "1" * 21,
        "1 2",
    ],
)
def test_parse_canonical_json_of_another_spelling_raises_value_error(spelt: str) -> None:
    with pytest.raises(ValueError):
        parse_canonical_json(spelt)


def test_strict_json_decoder_says_which_name_came_twice_and_what_is_no_number() -> None:
    decode = strict_json_decoder().decode
    assert decode(' {"a": [1.5, {"a": null}]} ') == {"a": [1.5, {"a": None}]}
    with pytest.raises(DuplicateName) as twice:
        decode('{"a": {"b": 1, "c": 2, "b": 1}}')
    assert twice.value.name == "b"
    for number in ("NaN", "-Infinity"):
        with pytest.raises(NotANumber) as found:
            decode(f'{{"a": {number}}}')
        assert found.value.text == number


def test_strict_json_decoder_takes_no_number_that_json_cannot_say_again() -> None:
    decode = strict_json_decoder().decode
    assert decode('{"a":1.5,"b":1e308}') == {"a": 1.5, "b": 1e308}
    for number, shown in (("1e309", "1e309"), ("-1e309", "-1e309"), ("1" * 400 + ".0", "1" * 32 + "…")):
        with pytest.raises(NotANumber, match=f"^{shown} is no finite number$") as found:
            decode(number)
        assert found.value.text == shown


@pytest.mark.parametrize(
    "spelt",
    ["", "[]", "1", "null", '{"a":1,"a":2}', '{"a":NaN}', '{"a":1e999}', '{"a":1', "{} x", '{"a":' * 90_000],
)
def test_parse_json_object_of_anything_else_raises_value_error(spelt: str) -> None:
    with pytest.raises(ValueError):
        parse_json_object(spelt, max_characters=1 << 20)


def test_parse_json_object_takes_as_many_characters_as_it_may() -> None:
    assert parse_json_object('{"a":1}', max_characters=7) == {"a": 1}
    with pytest.raises(ValueError, match="more than 6"):
        parse_json_object('{"a":1}', max_characters=6)


# -- moments ------------------------------------------------------------------------------------


def test_rfc3339_is_rounded_down_and_ends_with_the_year_9999() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    assert rfc3339(1.999) == "1970-01-01T00:00:01Z"
    assert rfc3339(2**53) == "9999-12-31T23:59:59Z"
    assert rfc3339_of(datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=UTC)) == "2026-01-02T03:04:05Z"


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_parse_rfc3339_reads_what_rfc3339_of_wrote(moment: datetime) -> None:
    assert parse_rfc3339(rfc3339_of(moment)) == moment.replace(microsecond=0)


def test_parse_rfc3339_keeps_the_zone() -> None:
    found = parse_rfc3339("2026-01-02T03:04:05+02:00")
    assert found == datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize("spelt", ["", "now", "2026-01-02", "2026-01-02T03:04:05", "2026-13-02T03:04:05Z"])
def test_parse_rfc3339_without_a_zone_or_date_raises_value_error(spelt: str) -> None:
    with pytest.raises(ValueError):
        parse_rfc3339(spelt)


@pytest.mark.parametrize("unix_ms", [0, 1, 999, 1_780_000_000_123, 253_402_300_799_000])
def test_unix_ms_and_moments_are_one_to_one(unix_ms: int) -> None:
    assert to_unix_ms(from_unix_ms(unix_ms)) == unix_ms
    assert from_unix_ms(unix_ms).tzinfo is UTC
