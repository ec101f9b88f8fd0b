"""JSON as both sides of the API write and read it, errors included.

Contract of the decoder: any bytes give an object or raise ``InvalidInput``
(``BodyTooLarge`` for size), nothing else.  A message never repeats a value, for
a value may be a secret.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cyoloctl.errors import BodyTooLarge, CyoloctlError, Denied, InvalidInput, error_from_code
from cyoloctl.text import DuplicateName, NotANumber, strict_json_decoder

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_BRACKETS",
    "MAX_RESPONSE_BYTES",
    "SCHEMA_VERSION",
    "clean_text",
    "decode_error",
    "decode_object",
    "encode_body",
    "encode_error",
    "encode_object",
    "error_object",
]

SCHEMA_VERSION = 1
MAX_BODY_BYTES = 1 << 20
MAX_RESPONSE_BYTES = 8 << 20
# Far more than any body of this API holds: stops the parser from recursing.
MAX_BRACKETS = 256
_SHORT_BODY_BYTES = 1024


_decode = strict_json_decoder().decode
# ASCII only: a lone surrogate in a name can then not break the encoding of an error.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def decode_object(
    raw: bytes, what: str, max_bytes: int = MAX_BODY_BYTES, *, max_brackets: int = MAX_BRACKETS
) -> dict[str, Any]:
    """A JSON object from UTF-8 bytes.

    Duplicate keys, NaN and Infinity, deep nesting and anything that is not an
    object raise InvalidInput; more than max_bytes raises BodyTooLarge.
    """
    if len(raw) > max_bytes:
        raise BodyTooLarge(f"the {what} is larger than {max_bytes} bytes")
    # A bracket may stand in a string, so the count bounds the depth from above.
    if (
        max_bytes <= MAX_BODY_BYTES
        and len(raw) > _SHORT_BODY_BYTES
        and raw.count(b"[") + raw.count(b"{") > max_brackets
    ):
        raise InvalidInput(f"the {what} nests too deeply")
    try:
        value = _decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidInput(f"the {what} is not UTF-8: send a JSON object") from None
    except RecursionError:
        raise InvalidInput(f"the {what} nests too deeply") from None
    except DuplicateName as error:
        raise InvalidInput(f"field {clean_text(error.name, 64)!r}: is given twice") from None
    except NotANumber as error:
        raise InvalidInput(f"{error.text} is no finite number, and JSON has no others: use one") from None
    except ValueError as error:
        # JSONDecodeError has a position; an integer of thousands of digits gives a plain ValueError.
        where = f" at {error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidInput(f"the {what} is not JSON{where}: send a JSON object") from None
    if type(value) is not dict:
        raise InvalidInput(f"the {what} must be a JSON object")
    return value


def encode_object(value: Mapping[str, Any]) -> bytes:
    """Compact JSON with `schema_version` (added when it is missing).

    Raises TypeError or ValueError for what JSON cannot hold.
    """
    if "schema_version" not in value:
        value = {"schema_version": SCHEMA_VERSION, **value}
    return _encode(value).encode("ascii")


def encode_body(value: Mapping[str, Any]) -> bytes:
    """Compact JSON of a request body.  Raises TypeError or ValueError for what JSON cannot hold."""
    return _encode(value).encode("ascii")


def clean_text(text: str, limit: int = 2000) -> str:
    """`text` made safe to print on a terminal and bounded: control characters become spaces."""
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def error_object(error: CyoloctlError) -> dict[str, Any]:
    """The JSON body of an error."""
    return {
        "schema_version": SCHEMA_VERSION,
        "error": {"code": error.api_code or error.code, "message": clean_text(error.message)},
    }


def encode_error(error: CyoloctlError) -> bytes:
    """The encoded JSON body of an error."""
    return encode_object(error_object(error))


def decode_error(value: Mapping[str, Any], status: int = 0) -> CyoloctlError | None:
    """The error that a response object holds, None when it holds none.

    status: the HTTP status, which tells apart what shares a code (see CyoloctlError.api_code).

    A code that this release does not know gives the root of the tree.
    """
    error = value.get("error")
    if not isinstance(error, dict):
        return None
    code, message = error.get("code"), error.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        return None
    if code == Denied.api_code and status == Denied.http_status:
        return Denied(clean_text(message))
    return error_from_code(code, clean_text(message))
