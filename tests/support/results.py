"""Results of replicated commands, as tests look at them."""

from __future__ import annotations

from typing import Any

from cyoloctl.replicated.command import decode_result_with_index


def decode_result(result: bytes) -> dict[str, Any]:
    """The value alone.  Raises what `decode_result_with_index` raises."""
    return decode_result_with_index(result)[1]
