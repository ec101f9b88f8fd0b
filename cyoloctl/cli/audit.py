"""``cyoloctl audit``: who changed what."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    StaleOption,
    command,
    parse_choice,
    parse_int64,
    parse_seconds,
)
from cyoloctl.cli.output import Cell, Column
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.errors import AccessDenied, InvalidInput, UsageError

if TYPE_CHECKING:
    from cyoloctl.audit.lines import Chain, End
    from cyoloctl.audit.reading import Copied

__all__ = ["COMMANDS"]

_CHAINS: tuple[Chain, ...] = ("trust", "data")
_MAX_SEQUENCE = 2**53 - 1
_MAX_SINCE_S = 100 * 366 * 86_400

ChainOption = Annotated[
    str | None,
    Option("--chain", metavar="trust|data", help="Of one chain only. [default: both]", show_default=False),
]


def _chains(chain: str | None) -> tuple[Chain, ...]:
    if chain is None:
        return _CHAINS
    parse_choice(chain, "--chain", _CHAINS)
    return tuple(each for each in _CHAINS if each == chain)


def _start(text: str | None, chain: str | None) -> int | None:
    if text is None:
        return None
    if chain is None:
        raise UsageError("--from is a line of one chain: name it with --chain")
    return parse_int64(text, "--from", 1, _MAX_SEQUENCE)


@command()
def list_(
    invocation: Invocation,
    chain: ChainOption = None,
    start: Annotated[
        str | None,
        Option("--from", metavar="SEQ", help="Begin with this line of the chain, the oldest first."),
    ] = None,
    limit: Annotated[
        str, Option("--limit", metavar="N", help="At most so many lines; without --from the newest.")
    ] = "100",
    who: Annotated[
        str | None, Option("--who", metavar="NAME", help="Of these credentials, or this node.")
    ] = None,
    operation: Annotated[
        str | None,
        Option("--operation", metavar="PREFIX", help="Of operations that begin so (members., kv.put)."),
    ] = None,
    since: Annotated[
        str | None, Option("--since", metavar="DURATION", help="Not older than this (30m, 7d).")
    ] = None,
    stale: StaleOption = False,
) -> None:
    """List who changed what, the newest last.

    The chain trust has members, credentials, authorities and keys; data has
    what operators wrote. Values, tokens and secrets are in neither.
    """
    chains, first = _chains(chain), _start(start, chain)
    most = parse_int64(limit, "--limit", 1, 1_000_000)
    oldest = ""
    if since is not None:
        oldest = _time_text(
            time.time() - parse_seconds(since, "--since", minimum_s=0, maximum_s=_MAX_SINCE_S)
        )
    from cyoloctl.audit.reading import find

    def wanted(line: dict[str, Any]) -> bool:
        return who in (None, line["who"]) and str(line["operation"]).startswith(operation or "")

    found = find(invocation.client(), chains, wanted, start=first, most=most, oldest=oldest, stale=stale)
    if stale:
        invocation.stale()
    if invocation.mode == "table":
        _table(found.lines)
        for each, page in found.standing.items():
            if page["cut_through"]:
                invocation.hint(
                    f"{each}: lines 1 to {page['cut_through']} were cut; exported were those up to "
                    f"{page['exported_through']}"
                )
        return
    document = {
        "schema_version": 1,
        "lines": found.lines,
        "cut_through": {each: page["cut_through"] for each, page in found.standing.items()},
        "exported_through": {each: page["exported_through"] for each, page in found.standing.items()},
        "next": found.next,
        **({"stale": True} if stale else {}),
    }
    output.structured(document, invocation.mode)


def _time_text(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(max(0.0, unix_s)))


_COLUMNS = (
    Column("LINE", right=True),
    Column("TIME"),
    Column("WHO", identifier=True),
    Column("ROLE", drop=4),
    Column("WHAT"),
    Column("OUTCOME"),
    Column("ADDRESS", drop=3),
    Column("NODE", drop=2),
    Column("REQUEST", drop=1),
)


def _table(lines: list[dict[str, Any]]) -> None:
    rows: list[list[Cell | str]] = [
        [
            f"{line['chain'][0]}{line['sequence']}",
            f"{line['time'][:10]} {line['time'][11:19]}Z",
            line["who"] or "-",
            line["role"],
            f"{line['operation']} {line['subject']}".rstrip(),
            line["outcome"] if line["outcome"] == "done" else Cell(line["outcome"], "warn"),
            line["address"] or "-",
            line["node"] or "-",
            line["request_id"],
        ]
        for line in lines
    ]
    output.table(_COLUMNS, rows)


@command(timeout_s=30.0)
def export(
    invocation: Invocation,
    out: Annotated[
        str, Option("--out", metavar="FILE|-", help="New file, made with mode 0600; - for stdout.")
    ],
    append: Annotated[
        bool, Option("--append", help="Verify FILE and go on after its last lines, if it is there.")
    ] = False,
    chain: ChainOption = None,
    start: Annotated[
        str | None, Option("--from", metavar="SEQ", help="Begin with this line of the chain.")
    ] = None,
    acknowledge: Annotated[
        bool, Option("--acknowledge", help="Acknowledge what went to stdout too.")
    ] = False,
    no_acknowledge: Annotated[
        bool, Option("--no-acknowledge", help="Do not record in the cluster how far it is exported.")
    ] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Copy the audit log into a file, one line of JSON for each line of it.

    With --append the same command is right every time. Lines are in the file
    once, in the order of their chain; `audit verify FILE` needs no node. Once
    the file is on the disk, the cluster is told how far it goes: that takes an
    operator, the rest a viewer.
    """
    chains, first = _chains(chain), _start(start, chain)
    if append and (out == "-" or first is not None):
        raise UsageError("--append goes on after the last lines of a file: leave --from and - out")
    if acknowledge and no_acknowledge:
        raise UsageError("give --acknowledge or --no-acknowledge, not both")
    from cyoloctl.audit import reading

    client = invocation.client()
    done = _copied(client, chains, first, out, append)
    if acknowledge or not (no_acknowledge or out == "-"):
        try:
            reading.acknowledge(client, done, request_id)
        except AccessDenied as error:
            raise AccessDenied(
                f"the export is whole, but not acknowledged: {error.message}; or leave that out with "
                "--no-acknowledge"
            ) from None
    if out != "-":
        _show_export(invocation, out, done)


def _copied(
    client: Any, chains: tuple[Chain, ...], first: int | None, out: str, append: bool
) -> list[Copied]:
    from cyoloctl.audit.export import export_file, text_of
    from cyoloctl.audit.lines import Verifier
    from cyoloctl.audit.reading import copy_chain

    if out != "-":
        with export_file(Path(out), append=append) as file:
            done = [copy_chain(client, each, file.write, file.verifier, first) for each in chains]
            file.sync()
        return done
    verifier = Verifier()

    def write(lines: list[dict[str, Any]]) -> None:
        output.write(text_of(lines, verifier))

    done = [copy_chain(client, each, write, verifier, first) for each in chains]
    output.flush()
    return done


def _show_export(invocation: Invocation, out: str, done: list[Copied]) -> None:
    rows: list[tuple[str, object]] = [("file", out)]
    chains = []
    for each in done:
        last, head = (0, None) if each.end is None else (each.end.last, each.end.hash)
        chains.append(
            {
                "chain": each.chain,
                "lines": each.lines,
                "last": last,
                "head": head,
                "exported_through": each.exported_through,
            }
        )
        rows.append((each.chain, f"{each.lines} more, up to line {last}"))
        rows += [] if head is None else [(f"{each.chain} head", head)]
    invocation.fields({"schema_version": 1, "file": out, "chains": chains}, rows)


@command(timeout_s=30.0)
def verify(
    invocation: Invocation,
    file: Annotated[Path | None, Argument(metavar="[FILE]", help="File that `audit export` wrote.")] = None,
    cluster: Annotated[
        bool, Option("--cluster", help="Also that the cluster's log goes on where FILE ends.")
    ] = False,
) -> None:
    """Verify an export without a node, or the cluster's own log.

    Every hash is made again from its line and the one before. Exits 4 at the
    first line that is not as it was written, and names it.
    """
    if file is None and cluster:
        raise UsageError("--cluster compares a file with the cluster: name the file")
    from cyoloctl.audit.export import verify_file
    from cyoloctl.audit.reading import lines_since, verified_chain

    if file is None:
        client = invocation.client()
        ends: dict[Chain, End] = {each: verified_chain(client, each) for each in _CHAINS}
    else:
        ends = dict(verify_file(file))
        if not ends:
            raise InvalidInput(f"{file} holds no line of an audit log: choose another file")
    since = {each: lines_since(invocation.client(), ends, each) for each in ends} if cluster else {}
    rows: list[tuple[str, object]] = [] if file is None else [("file", str(file))]
    for each, end in ends.items():
        more = f", {since[each]} more in the cluster" if cluster else ""
        shown = f"lines {end.first} to {end.last} hold together" if end.last else "no lines"
        rows += [(each, f"{shown}{more}"), (f"{each} head", end.hash)]
    document = {
        "schema_version": 1,
        "file": None if file is None else str(file),
        "chains": [
            {
                "chain": each,
                "first": end.first,
                "last": end.last,
                "before": end.before,
                "head": end.hash,
                "lines_since": since.get(each),
            }
            for each, end in ends.items()
        ],
    }
    invocation.fields(document, rows)


COMMANDS: dict[str, Leaf] = {"list": list_, "export": export, "verify": verify}
