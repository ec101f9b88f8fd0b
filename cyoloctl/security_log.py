"""What touches trust, in the log of the node that did it: one line each.

Beside the audit log (`audit`), which is replicated: a node also tells of what is no
write, such as a saved snapshot.
"""

from __future__ import annotations

import logging
from typing import Any

from cyoloctl.caller import CALLER

__all__ = ["log_security"]

_log = logging.getLogger("cyoloctl.security")


def log_security(action: str, **fields: Any) -> None:
    """Write a line: the action, on whose behalf this task runs, and the fields; never a secret."""
    caller = CALLER.get()
    _log.info(action, extra={"by": caller.name or caller.kind, "by_kind": caller.kind, **fields})
