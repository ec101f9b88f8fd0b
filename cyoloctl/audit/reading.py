"""The log of a cluster, read through a client: listed, copied, verified."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from cyoloctl.audit.export import join
from cyoloctl.audit.lines import BrokenLine, Chain, End, Verifier
from cyoloctl.errors import AuditBroken, Conflict
from cyoloctl.text import Json

__all__ = ["Client", "Copied", "Found", "acknowledge", "copy_chain", "find", "lines_since", "verified_chain"]

_PAGE = 1000
_LOOK = 8
"""Lines that are looked at for one that is no acknowledgement; an export leaves two at most."""


class Client(Protocol):
    """What this asks of a client."""

    def call(
        self,
        operation: str,
        name: str = "",
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
    ) -> Json:
        """One operation of the API."""


@dataclass(slots=True)
class Found:
    """Lines that were looked for, the oldest first.

    next: where to go on.  standing: by chain, the page that was read last.
    """

    lines: list[Json]
    next: int | None
    standing: dict[Chain, Json]


def find(
    client: Client,
    chains: Iterable[Chain],
    wanted: Callable[[Json], bool],
    *,
    start: int | None,
    most: int,
    oldest: str = "",
    stale: bool = False,
) -> Found:
    """At most so many lines that are wanted: from a start on, of one chain, or the newest ones.

    oldest: no line is wanted with a time before this.
    """
    more = {"consistency": "stale"} if stale else {}
    found = Found([], None, {})
    for chain in chains:
        mine: list[Json] = []
        pages = _backwards(client, chain, more) if start is None else _pages(client, chain, start, more)
        for page in pages:
            found.standing[chain] = page
            matching = [line for line in page["lines"] if line["time"] >= oldest and wanted(line)]
            mine = matching + mine if start is None else mine + matching
            before = start is None and page["lines"] and page["lines"][0]["time"] < oldest
            if len(mine) >= most or before:
                break
        if start is not None and len(mine) >= most:
            following = mine[most - 1]["sequence"] + 1
            found.next = following if following <= page["last"] else None
        found.lines += mine[-most:] if start is None else mine[:most]
    if len(found.standing) > 1:
        found.lines = sorted(found.lines, key=lambda line: (line["epoch"], line["index"]))[-most:]
    return found


def _pages(client: Client, chain: Chain, start: int, more: Mapping[str, str] | None = None) -> Iterator[Json]:
    """The lines from one on, at least one page."""
    query = {"limit": _PAGE, **(more or {})}
    while True:
        page = client.call("audit_list", chain, query={**query, "start": start})
        yield page
        if page["next"] is None:
            return
        start = page["next"]


def _backwards(client: Client, chain: Chain, more: Mapping[str, str]) -> Iterator[Json]:
    """All lines that are here, in pages, the newest page first."""
    page = client.call("audit_list", chain, query={"limit": _PAGE, **more})
    while True:
        yield page
        first = page["lines"][0]["sequence"] if page["lines"] else 1
        if first - 1 <= page["cut_through"]:
            return
        start = max(first - _PAGE, page["cut_through"] + 1)
        page = client.call("audit_list", chain, query={"limit": first - start, "start": start, **more})


@dataclass(slots=True)
class Copied:
    """What was copied of a chain.

    lines: how many.  end: how far the copy goes.  page: where the chain stood.
    """

    chain: Chain
    lines: int
    end: End | None
    page: Json
    exported_through: int


def copy_chain(
    client: Client,
    chain: Chain,
    write: Callable[[list[Json]], None],
    verifier: Verifier,
    start: int | None = None,
) -> Copied:
    """Copy a chain to where the verifier has come, from there, from a start on, or from its oldest line on.

    write: gets the lines, and gives them to the verifier.

    Raises AuditBroken where the cluster has another history, Conflict where lines were cut that were wanted.
    """
    before = verifier.ends.get(chain)
    following = start if before is None else before.last + 1
    written = 0
    for page in _pages(client, chain, following or 1):
        if following is not None and following <= min(page["cut_through"], page["last"]):
            raise Conflict(
                f"{chain} lines {following} to {page['cut_through']} were cut before they were exported: "
                "begin another file, and export more often"
            )
        if before is not None and not written:
            _check_joins(client, verifier.ends, page)
        write(page["lines"])
        written += len(page["lines"])
        if page["lines"]:
            following = page["lines"][-1]["sequence"] + 1
    return Copied(chain, written, verifier.ends.get(chain), page, page["exported_through"])


def _check_joins(client: Client, ends: Mapping[Chain, End], page: Json) -> int:
    end, chain = ends[page["chain"]], page["chain"]
    lines: list[Json] = []
    if page["cut_through"] < end.last <= page["last"]:
        lines = client.call("audit_list", chain, query={"start": end.last, "limit": 1})["lines"]
    return join(ends, page, lines[0] if lines else None)


def lines_since(client: Client, ends: Mapping[Chain, End], chain: Chain) -> int:
    """How many lines the cluster has after an export.  Raises as `join`."""
    return _check_joins(client, ends, client.call("audit_list", chain, query={"limit": 1}))


def acknowledge(client: Client, copied: Iterable[Copied], request_id: str | None) -> None:
    """Tell the cluster how far it was exported, unless nothing new was but such acknowledgements."""
    for each in copied:
        page, end = each.page, each.end
        if end is None or end.last <= page["exported_through"]:
            continue
        start = max(page["exported_through"], page["cut_through"]) + 1
        new = client.call("audit_list", each.chain, query={"start": start, "limit": _LOOK})["lines"]
        if len(new) < _LOOK and all(line["operation"] == "audit.acknowledge" for line in new):
            continue
        body = {"through": end.last, "hash": end.hash, "request_id": _part_of(request_id, each.chain)}
        answer = client.call("audit_acknowledge", each.chain, body)
        each.exported_through = answer["exported_through"]


def _part_of(request_id: str | None, chain: Chain) -> str | None:
    """The request id of what is written for one chain."""
    if request_id is None:
        return None
    return sha256(f"cyoloctl audit export v1\0{chain}\0{request_id}".encode()).hexdigest()


def verified_chain(client: Client, chain: Chain) -> End:
    """A chain of the cluster, after every line of it was verified.  Raises AuditBroken."""
    verifier = Verifier()
    for page in _pages(client, chain, 1):
        for line in page["lines"]:
            try:
                if chain not in verifier.ends and line["previous"] != page["cut_hash"]:
                    raise BrokenLine(f"{chain} line {line['sequence']} does not follow the last that was cut")
                verifier.follow(line)
            except BrokenLine as error:
                raise AuditBroken(f"the audit log of the node that was asked: {error}") from None
    end = verifier.ends.get(chain) or End(0, page["last"], page["cut_hash"], page["cut_hash"])
    if (end.last, end.hash) != (page["last"], page["head"]):
        raise AuditBroken(f"the {chain} chain does not end with the hash that the node has")
    return end
