"""A survey: every node of a cluster, asked for its status and its metrics.

Nodes that no endpoint names are asked at the addresses that the status gives,
where there are credentials for that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyoloctl.errors import CyoloctlError, NotFound
from cyoloctl.metrics.reading import Scrape

if TYPE_CHECKING:
    from cyoloctl.control.client import AsyncClient

__all__ = ["Moment", "Seen", "Survey"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one node answered at at_s, on a clock that only goes forward.

    scrape: None where it has no metrics, as in an earlier release.  url, credentials: where it was asked.
    """

    at_s: float
    status: Mapping[str, Any]
    scrape: Scrape | None
    url: str
    credentials: Path | None

    @property
    def name(self) -> str:
        """The node that answered.  One without metrics does not say: what no member is called."""
        found = None if self.scrape is None else self.scrape.label("cyoloctl_node_info", "name")
        return found or f"({id(self)})"


@dataclass(frozen=True, slots=True)
class Moment:
    """What all nodes answered.

    best: the one that knows the newest, the leader where it answers.  silent: why others did not.
    """

    best: Seen
    nodes: Mapping[str, Seen]
    silent: Mapping[str, str]

    @property
    def status(self) -> Mapping[str, Any]:
        """The newest status."""
        return self.best.status


class Survey:
    """The nodes of a cluster, to be looked at again and again.

    client: makes a client of endpoints, with other credentials than its own where some are given.
    others: credentials for members that no endpoint names; None: those are not asked.
    clock: of `Seen.at_s`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        client: Callable[[Sequence[str], Path | None], AsyncClient],
        others: Path | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls = tuple(urls)
        self._client = client
        self._others = others
        self._clock = clock

    def client(self, seen: Seen) -> AsyncClient:
        """A client of a node that has answered."""
        return self._client([seen.url], seen.credentials)

    async def look(self) -> Moment:
        """Ask every node that can be reached.  Raises what the first endpoint did where none answers."""
        found = await asyncio.gather(*(self._ask(url) for url in self._urls))
        answers = [each for each in found if isinstance(each, Seen)]
        if not answers:
            raise next(each for each in found if isinstance(each, CyoloctlError))
        nodes = {each.name: each for each in answers}
        status = max(answers, key=_knows).status
        silent: dict[str, str] = {}
        others = [
            member for member in status["members"] if member["name"] not in nodes and member["reachable"]
        ]
        if self._others is None:
            silent = {member["name"]: "name its endpoint, or give --credentials FILE" for member in others}
        else:
            more = await asyncio.gather(
                *(self._ask(f"https://{each['name']}@{each['address']}", self._others) for each in others)
            )
            for member, answer in zip(others, more, strict=True):
                if isinstance(answer, Seen):
                    nodes[member["name"]] = answer
                else:
                    silent[member["name"]] = answer.message
        return Moment(max(nodes.values(), key=_knows), nodes, silent)

    async def _ask(self, url: str, credentials: Path | None = None) -> Seen | CyoloctlError:
        try:
            async with self._client([url], credentials) as client:
                status = await client.status()
                try:
                    scrape = Scrape(await client.metrics())
                except NotFound:  # a node of an earlier release
                    scrape = None
                return Seen(self._clock(), status, scrape, url, credentials)
        except CyoloctlError as error:
            return error


def _knows(seen: Seen) -> tuple[bool, int, bool, int]:
    """Orders by who knows the newest: a leader first that is of the highest term, and then itself."""
    cluster = seen.status["cluster"]
    leader = cluster["leader"]
    return leader is not None, cluster["term"], leader == seen.name, cluster["commit_index"]
