"""``K=V`` on the command line: how claims are typed, everywhere by one rule.

``true``, ``false``, ``null``, whole numbers as JSON writes them and anything that
begins with ``{``, ``[`` or ``"`` are JSON; the rest is text.  What looks like JSON
and is none, or holds a number that some readers round, is refused and never
quietly another type.
"""

from __future__ import annotations

import re
from typing import Any

from cyoloctl.errors import InvalidInput
from cyoloctl.text import Json, strict_json_decoder

__all__ = ["decode_json", "read_claims"]

_MAX_INTEGER = 2**53 - 1  # RFC 7493: what every JSON reader keeps exactly
_JSON = re.compile(r"-?[1-9][0-9]*|0|true|false|null|[\[{\"].*", re.ASCII | re.DOTALL)
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)


decode_json = strict_json_decoder().decode
"""As strict as the node: what this lets through can be sent.  Raises ValueError, RecursionError."""


def read_claims(
    option: str,
    typed: list[str] | None,
    strings: list[str] | None = None,
    values: list[str] | None = None,
    form: str = "KEY=VALUE",
) -> Json:
    """The claims of an option and of those beside it, OPTION-string and OPTION-json.

    form: of the first, for the refusal of what is none.  Raises InvalidInput that names option and claim.
    """
    found: Json = {}
    for name, given, read in (
        (option, typed, _typed),
        (f"{option}-string", strings, _string),
        (f"{option}-json", values, _value),
    ):
        for text in given or ():
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise InvalidInput(f"{name} is {text[:80]!r}: use {form}")
            if key in found:
                raise InvalidInput(f"{name} {key[:80]} is given twice: give it once")
            found[key] = read(value, f"{name} {key[:80]}", f"{option}-string {key[:80]}=...")
    return found


def _typed(text: str, what: str, as_text: str) -> Any:
    return _value(text, what, as_text) if _JSON.fullmatch(text) else text


def _string(text: str, what: str, as_text: str) -> str:
    return text


def _value(text: str, what: str, as_text: str) -> Any:
    if _INTEGER.fullmatch(text) and (len(text) > 17 or abs(int(text)) > _MAX_INTEGER):
        raise InvalidInput(
            f"{what}: {text[:40]} is past 2**53-1, which some readers round; {as_text} makes it text"
        )
    try:
        return decode_json(text)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{what} is not JSON: correct it; {as_text} makes it text") from None
