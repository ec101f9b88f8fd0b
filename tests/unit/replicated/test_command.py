"""Commands and results are read as the strict decoder of the standard library reads them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cyoloctl.errors import CyoloctlError, InternalError
from cyoloctl.replicated import command
from cyoloctl.text import canonical_json, parse_canonical_json

TEXT = st.text(st.sampled_from('\0"\\/\x7fé\ud800a:{[,.1'), max_size=4)
NUMBERS = st.integers() | st.sampled_from([10**19, 10**20 - 1, 10**20, -(10**19) + 1, -(10**19), 2**64])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
# What msgspec would read and no command may hold, put in place of text.
ODD = st.sampled_from(
    ["1.5", "1e2", "-0", "NaN", " 1", "1 ", "\\u0061", "é", '{"a":1,"a":1}', "9" * 21, "é" * 9]
)


def by_the_standard_library(data: bytes) -> Any:
    """The array of a command or the object of a result; None for what is not canonical."""
    try:
        return parse_canonical_json(data.decode("ascii"))
    except (ValueError, RecursionError):
        return None


ORIGIN = "operator uid:0 - n"


@pytest.mark.parametrize("origin", ["", f',"{ORIGIN}"'])
@given(st.dictionaries(TEXT, JSON, max_size=3), ODD, st.booleans())
@example({"a": 10**20}, "1", False)
@example({"a": ["\ud800"]}, "1", False)
@example({"a": "\x7f"}, "1", False)
@example({"a": "1"}, "\x7f", True)
@example({"a": 1}, "1.5", True)
@example({"a": 1}, " 1", True)
@example({"a": {"b": [1]}}, "1.5", True)
def test_command_is_one_exactly_when_the_strict_decoder_says_so(
    origin: str, arguments: dict[str, Any], odd: str, spoiled: bool
) -> None:
    text = f'["kv","put",{canonical_json(arguments)},"r","client","c"{origin}]'
    if spoiled:
        text = text.replace("1", odd)
    data = text.encode("utf-8", "surrogatepass")
    wanted = by_the_standard_library(data)
    try:
        found = command.decode_command(b"\x02" + data)
    except command.Malformed:
        assert wanted is None
    else:
        assert wanted[:3] == ["kv", "put", found.arguments]
        assert canonical_json(found.arguments) == canonical_json(wanted[2])
        assert found.digest == command.digest_of("kv", "put", wanted[2])
        assert (found.request_id, found.kind, found.caller, found.time_unix_ms) == ("r", "client", "c", -1)


@pytest.mark.parametrize(
    ("field", "value", "is_one"),
    [
        *((3, good, True) for good in ("r", "a-b", 'a"b', "a\\b", "x" * 128, "ab" * 16)),
        *((3, bad, False) for bad in ("", "a b", "é", "²", "x" * 129, "\x7f", 1, None)),
        *((4, good, True) for good in command.KINDS),
        *((4, bad, False) for bad in ("", "other", True, None)),
        *((5, good, True) for good in ("", "c", 'a"b', "x" * 80)),
        *((5, bad, False) for bad in ("a b", "é", "x" * 81, None)),
        *((6, good, True) for good in ("none - - -", ORIGIN)),
        *((6, bad, False) for bad in ("boss - - -", "none - -", f"{ORIGIN} x", "", None)),
        (7, "more", False),
    ],
)
@pytest.mark.parametrize("arguments", [{"a": "b"}, {"a": {"b": 1}}], ids=["usual", "nested"])
def test_who_sent_a_command_is_checked_however_it_is_read(
    arguments: dict[str, Any], field: int, value: object, is_one: bool
) -> None:
    fields: list[Any] = ["kv", "put", arguments, "r", "client", "c", ORIGIN]
    fields[field : field + 1] = [value]
    data = b"\x02" + canonical_json(fields).encode()
    if not is_one:
        with pytest.raises(command.Malformed):
            command.decode_command(data)
        return
    found = command.decode_command(data)
    assert [found.request_id, found.kind, found.caller, found.origin] == fields[3:]
    assert found.digest == command.digest_of("kv", "put", arguments)


@given(st.dictionaries(TEXT, JSON, max_size=3), ODD, st.booleans())
@example({"a": 10**20}, "1", False)
def test_result_is_one_exactly_when_the_strict_decoder_says_so(
    value: dict[str, Any], odd: str, spoiled: bool
) -> None:
    text = f'{{"index":1,"value":{canonical_json(value)}}}'
    if spoiled:
        text = text.replace("1", odd)
    data = text.encode("utf-8", "surrogatepass")
    wanted = by_the_standard_library(data)
    try:
        found = command.decode_result_with_index(data)
    except InternalError:
        assert wanted is None or type(wanted["index"]) is not int
    except CyoloctlError:
        pytest.fail("no refusal was sent")
    else:
        assert found == (wanted["index"], wanted["value"])


@pytest.mark.parametrize("value", [1.5, 10**20, -(10**19), [1.5], {"a": 1e3}])
def test_number_that_no_command_holds_is_refused(value: object) -> None:
    text = f'["kv","put",{{"a":{value!r}}},"r","client","c"]'.replace("'", '"')
    with pytest.raises(command.Malformed):
        command.decode_command(b"\x02" + text.encode())
