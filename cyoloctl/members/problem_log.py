"""The log's side of problems: each is told when it begins and when it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from cyoloctl.members.api import Problem

__all__ = ["ProblemLog"]

_log = logging.getLogger("cyoloctl.node")


class ProblemLog:
    """What `status` shows, said once in the log, so that whoever reads that first finds the cause there."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str | None]] = set()

    def tell(self, problems: Iterable[Problem]) -> None:
        """Log what is new among them, and what is over.  problems: all that there are now."""
        now = {(each["code"], each["member"]): each for each in problems}
        for key, each in now.items():
            if key not in self._told:
                _log.warning(
                    "a problem needs a hand",
                    extra={
                        "code": each["code"],
                        "member": each["member"],
                        "reason": each["message"],
                        "see": each["command"],
                    },
                )
        for code, member in sorted(self._told - now.keys(), key=str):
            _log.info("a problem is over", extra={"code": code, "member": member})
        self._told = set(now)
