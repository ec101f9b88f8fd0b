"""The audit log: who changed what is trusted, one line for each change."""

from __future__ import annotations

import logging
from typing import Any

from cyoloctl.caller import CALLER

__all__ = ["audit"]

_log = logging.getLogger("cyoloctl.audit")


def audit(action: str, **fields: Any) -> None:
    """Write a line: the action, on whose behalf this task runs, and the fields; never a secret."""
    caller = CALLER.get()
    _log.info(action, extra={"by": caller.name or caller.kind, "by_kind": caller.kind, **fields})
