"""Commands as release 0.1.0 encoded them: what the logs of its clusters hold."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["encode_command"]


def encode_command(
    machine: str,
    operation: str,
    arguments: dict[str, Any],
    *,
    request_id: str,
    automatic: bool,
    time_unix_ms: int,
) -> bytes:
    """Version 1: the proposer's time comes with the command, and whether a node made the request id."""
    value = [machine, operation, arguments, request_id, automatic, time_unix_ms]
    return b"\x01" + json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
