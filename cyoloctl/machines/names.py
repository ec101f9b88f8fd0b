"""MODULE:CLASS, as node.yaml and commands name the class of a machine."""

from __future__ import annotations

import re

from cyoloctl.errors import InvalidInput

__all__ = ["parse_target"]

_TARGET = re.compile(r"[A-Za-z_]\w{0,99}(\.[A-Za-z_]\w{0,99}){0,9}:[A-Za-z_]\w{0,99}", re.ASCII)


def parse_target(value: str) -> str:
    """The text, if it is MODULE:CLASS.  Raises InvalidInput."""
    if _TARGET.fullmatch(value) is None:
        raise InvalidInput(f"{value[:80]!r} names no class: use MODULE:CLASS, such as hits:Hits")
    return value
