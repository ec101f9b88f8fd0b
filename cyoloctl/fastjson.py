"""JSON in a node's hot paths, by msgspec: the same bytes and values as `text` and the standard library give.

For whatever msgspec would write or read otherwise, those are asked: characters
beyond ASCII, U+007F, text that is no Unicode, subclasses, names given twice.
Encoding the array of a small command takes 0.3 us instead of 2.4, and of one of
10 KiB 4 instead of 30 (benchmarks/encoding.py).

Commands of one shot do not import this: loading msgspec takes longer than it saves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from cyoloctl.text import canonical_json, compact_encoder, parse_canonical_json

__all__ = [
    "Shape",
    "canonical_bytes",
    "compact_bytes",
    "decode",
    "decode_canonical",
    "decode_flat_object",
    "decode_rows",
    "decoder_of",
    "has_integers_only",
]

Shape = msgspec.Struct
"""A class of which `decoder_of` makes instances: an object with these fields, or an array of them."""

_S = TypeVar("_S", bound=Shape)

_sorted = msgspec.json.Encoder(order="sorted").encode
_as_given = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_slow_compact = compact_encoder(sort_keys=False)


def canonical_bytes(value: object) -> bytes:
    """`canonical_json` of str, bool, None, integers, lists and dicts with string keys, as ASCII bytes.

    Raises TypeError or ValueError for what JSON cannot hold.
    """
    try:
        data = _sorted(value)
    except (TypeError, ValueError):  # a half surrogate, a subclass
        return canonical_json(value).encode("ascii")
    # The standard library escapes U+007F and all beyond ASCII.
    if data.isascii() and b"\x7f" not in data:
        return data
    return canonical_json(value).encode("ascii")


def compact_bytes(value: object) -> bytes:
    """JSON without blanks, names in the order given, ASCII.

    Raises TypeError or ValueError for what JSON cannot hold; NaN becomes null.
    """
    try:
        data = _as_given(value)
    except (TypeError, ValueError):
        return _slow_compact(value).encode("ascii")
    return data if data.isascii() else _slow_compact(value).encode("ascii")


def decode(data: bytes) -> Any:
    """The value of JSON.  Raises ValueError, RecursionError.

    Not strict: of two equal names it keeps the last.  Whoever needs more
    encodes the value again and compares.
    """
    return _decode(data)


def decode_flat_object(data: bytes) -> dict[str, Any] | None:
    """The object in these bytes, if it is certain to hold no object and to name nothing twice.

    None means: ask somebody slower, who also knows what to say.
    """
    try:
        value = _decode(data)
    except (ValueError, RecursionError):
        return None
    # Each name is followed by a colon: were there a second object or name, there would be more of them.
    return value if type(value) is dict and data.count(b":") == len(value) else None


def decode_rows(data: bytes) -> dict[str, Any] | None:
    """The object in these bytes, if it is certain to name nothing twice, nor any object in an array of it.

    Those hold no further object.  None means: ask somebody slower, who also knows what to say.
    """
    try:
        value = _decode(data)
    except (ValueError, RecursionError):
        return None
    if type(value) is not dict:
        return None
    names = len(value)
    for array in value.values():
        if type(array) is list:
            names += sum([len(row) for row in array if type(row) is dict])
    return value if data.count(b":") == names else None


def decode_canonical(data: bytes) -> Any:
    """The value of canonical JSON, as `parse_canonical_json` gives it.  Raises what that does."""
    try:
        value = _decode(data)
        if has_integers_only(value) and canonical_bytes(value) == data:
            return value
    except (ValueError, TypeError):
        pass
    return parse_canonical_json(data.decode("ascii"))  # UnicodeDecodeError is a ValueError


def decoder_of(shape: type[_S]) -> Callable[[bytes], _S | None]:
    """Gives what canonical JSON of a shape holds; None for other JSON, and for what takes a closer look.

    Numbers of what the shape does not name may be any: see `has_integers_only`.
    """
    read = msgspec.json.Decoder(shape).decode

    def decode_shape(data: bytes) -> _S | None:
        if not data.isascii() or b"\x7f" in data:
            return None
        try:
            value = read(data)
            return value if _sorted(value) == data else None
        except (ValueError, RecursionError):
            return None

    return decode_shape


def has_integers_only(value: object) -> bool:
    """Whether all numbers of JSON are integers of at most 20 characters."""
    kind = type(value)
    items: Iterable[object]
    if kind is dict:
        items = value.values()  # type: ignore[attr-defined]  # a dict, by the line above
    elif kind is list:
        items = value  # type: ignore[assignment]  # a list, by the line above
    else:
        items = (value,)
    for item in items:
        kind = type(item)
        # Text and null, which is what most of it is, first.
        if kind is str or item is None or kind is bool:
            continue
        if kind is int:
            if not -(10**19) < item < 10**20:  # type: ignore[operator]  # an int, by the line above
                return False
        elif kind is float or not has_integers_only(item):
            return False
    return True
