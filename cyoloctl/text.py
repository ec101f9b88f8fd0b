"""The written forms of bytes, values and moments: one spelling for each.

Whatever tells messages apart by their text must not be told lies.  The decoders
of the standard library drop foreign characters, take padding or not, ignore the
bits that are left over, keep the last of two equal names and accept NaN; those
here refuse what the encoder beside them would not have written.

Every decoder raises ValueError, and nothing else, for text that is not right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any, NoReturn, TypeVar

__all__ = [
    "DuplicateName",
    "Json",
    "NotANumber",
    "batched",
    "canonical_json",
    "canonical_json_in_slices",
    "compact_encoder",
    "decode_base64",
    "decode_base64url",
    "encode_base64",
    "encode_base64url",
    "from_unix_ms",
    "parse_canonical_json",
    "parse_json_object",
    "parse_rfc3339",
    "pre_auth_encoding",
    "rfc3339",
    "rfc3339_of",
    "scan_json",
    "strict_json_decoder",
    "to_unix_ms",
    "utf8_or_none",
]

Json = dict[str, Any]
"""A JSON object."""

_T = TypeVar("_T")


# -- bytes --------------------------------------------------------------------------------------
# base64 is imported where it is used: every command imports this module, and few need it.


def encode_base64(data: bytes) -> str:
    """Base64 with padding (RFC 4648 section 4)."""
    import base64

    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes:
    """The bytes of exactly what `encode_base64` gives.  Raises ValueError for every other text."""
    import base64

    data = base64.b64decode(text, validate=True)  # binascii.Error is a ValueError
    if encode_base64(data) != text:
        raise ValueError("not base64 as it is written here")
    return data


def encode_base64url(data: bytes) -> str:
    """Base64url without padding (RFC 4648 section 5)."""
    import base64

    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def decode_base64url(text: str) -> bytes:
    """The bytes of exactly what `encode_base64url` gives.  Raises ValueError for every other text."""
    import base64

    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if encode_base64url(data) != text:
        raise ValueError("not base64url as it is written here")
    return data


def pre_auth_encoding(*parts: bytes) -> bytes:
    """The parts as bytes that no other parts give: their number, then each after its length.

    Numbers are 4 bytes, big-endian (after the PAE of PASETO, with 32 bits).
    """
    encoded = [len(parts).to_bytes(4, "big")]
    for part in parts:
        encoded += len(part).to_bytes(4, "big"), part
    return b"".join(encoded)


def utf8_or_none(text: str) -> bytes | None:
    """None for half of a surrogate pair, which is no character.  Here, so that no error holds the text."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


# -- JSON ---------------------------------------------------------------------------------------


_INTEGER_CHARACTERS = 20  # "-9223372036854775808"
_SLICE = 1000


def _integer(text: str) -> int:
    # A limit of our own: the interpreter's limit on digits can be changed from the environment.
    if len(text) > _INTEGER_CHARACTERS:
        raise ValueError
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError


def compact_encoder(*, sort_keys: bool) -> Callable[[object], str]:
    """A function that writes ASCII JSON without blanks, of values that hold no circle.

    Raises what json.dumps does.  Built once, for json.dumps with options builds an encoder at every
    call, and so does JSONEncoder.encode, which takes half the time of a small object.
    """
    plain = json.JSONEncoder(
        ensure_ascii=True, check_circular=False, allow_nan=False, sort_keys=sort_keys, separators=(",", ":")
    )
    # What JSONEncoder.iterencode makes for each text, in CPython 3.11 to 3.14.
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    text = json.encoder.encode_basestring_ascii
    parts = make(None, plain.default, text, None, ":", ",", sort_keys, False, False)
    return lambda value: "".join(parts(value, 0))


_encode = compact_encoder(sort_keys=True)
scan_json = json.JSONDecoder(parse_int=_integer, parse_float=_no_number, parse_constant=_no_number).raw_decode
"""The value of JSON without fractions at the beginning of a text, and where it ends.

Not strict: whoever uses it encodes the value again and compares.  Raises
ValueError, and RecursionError for deep nesting.
"""


def canonical_json(value: object) -> str:
    """The canonical JSON of str, bool, None, integers of 64 bits, lists and dicts with string keys.

    ASCII, sorted names, no blanks.
    """
    return _encode(value)


def canonical_json_in_slices(value: object, *, depth: int = 4) -> Iterator[str]:
    """The text of `canonical_json` in pieces, none of which takes long to make.

    One call of the encoder holds the interpreter until it returns, whatever
    thread it runs in, so that a node with a large state would be deaf.
    """
    if depth and type(value) is dict and len(value) > 0:
        before = "{"
        for keys in batched(sorted(value), _SLICE):
            if any(type(value[key]) in (dict, list) for key in keys):
                for key in keys:
                    yield f"{before}{_encode(key)}:"
                    yield from canonical_json_in_slices(value[key], depth=depth - 1)
                    before = ","
            else:
                yield before + _encode({key: value[key] for key in keys})[1:-1]
                before = ","
        yield "}"
    elif depth and type(value) is list and len(value) > _SLICE:
        before = "["
        for items in batched(value, _SLICE):
            yield before + _encode(items)[1:-1]
            before = ","
        yield "]"
    else:
        yield _encode(value)


def batched(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """The items in order, so many at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def parse_canonical_json(text: str) -> Any:
    """The value of canonical JSON.

    Raises ValueError for anything else (repeated names, blanks, 1.0, NaN,
    needless escapes), RecursionError for deep nesting.
    """
    value, end = scan_json(text)
    if end != len(text) or _encode(value) != text:
        raise ValueError("not canonical")
    return value


class DuplicateName(ValueError):
    """An object names a field twice."""

    def __init__(self, name: str) -> None:
        super().__init__("a name is given twice")
        self.name = name


class NotANumber(ValueError):
    """NaN, an infinity, or a number that is one when it is read, which JSON cannot say again.

    text: as it was written, at most 33 characters of it.
    """

    def __init__(self, text: str) -> None:
        text = text if len(text) <= 32 else text[:32] + "…"
        super().__init__(f"{text} is no finite number")
        self.text = text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise DuplicateName(name)
            seen.add(name)
    return found


def _no_constant(text: str) -> NoReturn:
    raise NotANumber(text)


def strict_json_decoder() -> json.JSONDecoder:
    """A decoder of JSON that someone else wrote.

    Its `decode` raises DuplicateName, NotANumber or another ValueError, and
    RecursionError for deep nesting.
    """
    return json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise NotANumber(text)
    return value


_strict = strict_json_decoder()


def parse_json_object(text: str, *, max_characters: int) -> dict[str, Any]:
    """A JSON object that someone else wrote.  Raises ValueError for anything else, also for deep nesting."""
    if len(text) > max_characters:
        raise ValueError(f"more than {max_characters} characters")
    try:
        value = _strict.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if type(value) is not dict:
        raise ValueError("not an object")
    return value


# -- moments ------------------------------------------------------------------------------------


_LAST_UNIX_S = 253_402_300_799  # the end of the year 9999


def rfc3339(unix_s: float) -> str:
    """A time in Unix seconds as ``YYYY-MM-DDTHH:MM:SSZ``, rounded down; none after the year 9999."""
    return rfc3339_of(datetime.fromtimestamp(min(int(unix_s), _LAST_UNIX_S), UTC))


def rfc3339_of(moment: datetime) -> str:
    """A moment in UTC as ``YYYY-MM-DDTHH:MM:SSZ``, rounded down."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_rfc3339(text: str) -> datetime:
    """The moment, with its time zone.  Raises ValueError for text that has none, or is no date."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment


def to_unix_ms(moment: datetime) -> int:
    """Whole milliseconds since 1970."""
    return int(moment.timestamp() * 1000)


def from_unix_ms(unix_ms: int) -> datetime:
    """The moment, in UTC."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC)
