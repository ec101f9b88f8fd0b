"""Commands on their way, to be awaited together."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from cyoloctl.errors import CyoloctlError
from cyoloctl.raft.proposals import Proposal

__all__ = ["Proposed"]


class Proposed:
    """Commands on their way, in order: to be awaited once, or given up.

    lead: the term in which this node leads since before they were proposed; 0: it did not.  last: of them.
    """

    __slots__ = ("_future", "_results", "last", "lead")

    def __init__(
        self,
        future: asyncio.Future[None],
        results: list[bytes | CyoloctlError],
        *,
        lead: int = 0,
        last: Proposal | None = None,
    ) -> None:
        self._future, self._results = future, results
        self.lead, self.last = lead, last

    def __await__(self) -> Generator[Any, None, list[bytes | CyoloctlError]]:
        """Each one's result, or its error."""
        yield from self._future.__await__()
        return self._results

    def errors(self) -> list[CyoloctlError]:
        """What is known to have failed so far."""
        return [each for each in self._results if isinstance(each, CyoloctlError)]

    def give_up(self) -> None:
        """Nobody waits: they are sent no more."""
        self._future.cancel()
