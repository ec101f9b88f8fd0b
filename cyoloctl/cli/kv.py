"""``cyoloctl kv``: keys and values."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    StaleOption,
    command,
    confirm,
    listed,
    parse_int64,
    parse_seconds,
    read_input,
)
from cyoloctl.cli.output import Column, text_of
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.errors import Conflict, InvalidInput, UsageError
from cyoloctl.kv.api import MAX_VALUE_BYTES, check_key, check_prefix, fence_of
from cyoloctl.web.schema import MAX_LIFE_S

__all__ = ["COMMANDS"]

_MAX_REVISION = 2**63 - 1
_MAX_TXN_BYTES = 480 * 1024
_PATIENCE_S = 30.0
"""How long a watch asks for changes while nobody answers."""

KeyArgument = Annotated[
    str, Argument(metavar="KEY", help="The key: at most 512 bytes of UTF-8.", show_default=False)
]
AtRevisionOption = Annotated[
    str | None,
    Option("--at-revision", metavar="N", help="As it was at a recent revision.", show_default=False),
]
IfRevisionOption = Annotated[
    str | None,
    Option("--if-revision", metavar="N", help="Only if the key is at this revision; otherwise exit 4."),
]
TtlOption = Annotated[
    str | None,
    Option("--ttl", metavar="DURATION", help="The key expires after this (90s, 12h); without: never."),
]
FenceOption = Annotated[
    str | None,
    Option(
        "--fence",
        metavar="NAME=TOKEN",
        help="Only while this lock is held with this token; otherwise exit 4.",
    ),
]


def _revision(text: str | None, option: str, minimum: int = 0) -> int | None:
    return None if text is None else parse_int64(text, option, minimum, _MAX_REVISION)


def _ttl_s(text: str | None) -> float | None:
    return None if text is None else parse_seconds(text, "--ttl", minimum_s=1, maximum_s=MAX_LIFE_S)


def _fence(text: str | None) -> str | None:
    if text is not None:
        fence_of(text)
    return text


def _text_of(entry: Mapping[str, Any]) -> str:
    value: str | None = entry.get("value")
    return value if value is not None else f"({entry['size']} bytes)"


@command()
def get(
    invocation: Invocation, key: KeyArgument, at_revision: AtRevisionOption = None, stale: StaleOption = False
) -> None:
    """Print the value of a key: its bytes, and nothing else.

    Linearizable unless --stale.  Exits 3 when there is no such key.
    """
    check_key(key)
    query = {"key": key, "at_revision": _revision(at_revision, "--at-revision")}
    entry = invocation.read("kv_get", query=query, stale=stale)
    if invocation.mode == "table":
        output.write_bytes(b64decode(entry["value_base64"]))
    else:
        output.structured(entry, invocation.mode)


@command()
def put(
    invocation: Invocation,
    key: KeyArgument,
    value: Annotated[
        str | None, Argument(metavar="[VALUE | -]", help="The value; - reads it from stdin.")
    ] = None,
    file: Annotated[str | None, Option("--file", metavar="FILE", help="Take the value from a file.")] = None,
    if_revision: IfRevisionOption = None,
    if_absent: Annotated[
        bool, Option("--if-absent", help="Only if there is no such key; otherwise exit 4.")
    ] = False,
    ttl: TtlOption = None,
    sealed: Annotated[
        bool, Option("--sealed", help="Encrypt the value: no disk of the cluster holds it.")
    ] = False,
    no_sealed: Annotated[
        bool, Option("--no-sealed", help="Replace a sealed value by one that is not.")
    ] = False,
    fence: FenceOption = None,
    request_id: RequestIdOption = None,
) -> None:
    """Give a key a value, and print the revision of the change.

    Any bytes are taken, up to 256 KiB.  With --if-revision, what another
    change has overtaken is refused (exit 4) and nothing is changed.  With
    --sealed the value is encrypted under the cluster's key ring before it
    leaves the node that is asked.  Whoever puts a key that is sealed says
    --sealed again, or --no-sealed; otherwise exit 4.
    """
    check_key(key)
    if sealed and no_sealed:
        raise UsageError("give --sealed or --no-sealed, not both")
    body = {
        "key": key,
        "if_revision": 0 if if_absent else _revision(if_revision, "--if-revision"),
        "ttl_s": _ttl_s(ttl),
        "fence": _fence(fence),
        "sealed": True if sealed else False if no_sealed else None,
        "request_id": request_id,
    }
    if if_absent and if_revision is not None:
        raise UsageError("give --if-absent or --if-revision, not both")
    client = invocation.client()
    if (value is None) is (file is None):
        raise UsageError("give a value, - for stdin, or --file FILE, and one of them only")
    data = os.fsencode(value) if value is not None and value != "-" else _read(file or "-")
    body["value_base64"] = b64encode(data).decode("ascii")
    written = client.call("kv_put", body=body)
    invocation.value(written, str(written["revision"]))


def _read(path: str) -> bytes:
    data = read_input(path, "value", MAX_VALUE_BYTES)
    if len(data) > MAX_VALUE_BYTES:
        where = "on stdin" if path == "-" else f"in {path}"
        raise InvalidInput(
            f"the value {where} has more than {MAX_VALUE_BYTES} bytes: split it over several keys"
        )
    return data


@command()
def delete(
    invocation: Invocation,
    key: Annotated[str | None, Argument(metavar="[KEY]", help="The key.", show_default=False)] = None,
    prefix: Annotated[
        str | None,
        Option("--prefix", metavar="P", help='All keys that begin with this; "" is every key.'),
    ] = None,
    if_revision: IfRevisionOption = None,
    fence: FenceOption = None,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation of --prefix.")] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Delete a key, and print the revision of the change; or all keys of a prefix, and print how many.

    Exits 3 when there is no such key.  --prefix asks for confirmation on a
    terminal; elsewhere it needs --yes.
    """
    body = {
        "key": key,
        "if_revision": _revision(if_revision, "--if-revision", 1),
        "fence": _fence(fence),
        "request_id": request_id,
    }
    if (key is None) is (prefix is None):
        raise UsageError("give a key, or --prefix P, and one of them only")
    if prefix is not None:
        if if_revision is not None or fence is not None:
            raise UsageError("--if-revision and --fence are for one key, not for --prefix")
        _delete_prefix(invocation, prefix, yes, request_id)
        return
    check_key(key or "")
    deleted = invocation.client().call("kv_delete", body=body)
    invocation.value(deleted, str(deleted["revision"]))


def _delete_prefix(invocation: Invocation, prefix: str, yes: bool, request_id: str | None) -> None:
    """A thousand keys at a time, the request id of each part made from that of the first."""
    check_prefix(prefix)
    confirm(yes, f"delete every key that begins with {prefix!r}?" if prefix else "delete every key?")
    from cyoloctl.control import blocking
    from cyoloctl.kv import client as kv

    answer = blocking.run(kv.delete_prefix(invocation.client().caller, prefix, request_id))
    invocation.value(answer, str(answer["deleted"]))


@command()
def list_(
    invocation: Invocation,
    prefix: Annotated[
        str, Argument(metavar="[PREFIX]", help="Keys that begin with this.", show_default=False)
    ] = "",
    keys_only: Annotated[
        bool, Option("--keys-only", help="One key to a line, without anything else.")
    ] = False,
    limit: Annotated[
        str | None, Option("--limit", metavar="N", help="At most so many keys; without: all.")
    ] = None,
    after: Annotated[
        str | None, Option("--after", metavar="KEY", help="Begin after this key.", show_default=False)
    ] = None,
    at_revision: AtRevisionOption = None,
    stale: StaleOption = False,
) -> None:
    """List keys in order of their bytes, all as they were at one revision.

    In JSON with their values, unless --keys-only.
    """
    check_prefix(prefix)
    if after is not None:
        check_key(after)
    wanted = None if limit is None else parse_int64(limit, "--limit", 1, _MAX_REVISION)
    with_values = invocation.mode != "table" and not keys_only
    from cyoloctl.control import blocking
    from cyoloctl.kv import client as kv

    revision = _revision(at_revision, "--at-revision")
    caller = invocation.client().caller
    page = blocking.run(
        kv.listed(
            caller, prefix, after=after, limit=wanted, values=with_values, at_revision=revision, stale=stale
        )
    )
    entries = page["entries"]
    if stale and page["next"] is None:
        invocation.stale()
    if invocation.mode != "table":
        document = listed("entries", entries, stale)
        output.structured({**document, "next": page["next"], "revision": page["revision"]}, invocation.mode)
    elif keys_only:
        output.write("".join(f"{entry['key']}\n" for entry in entries))
    else:
        _table(entries)


def _table(entries: list[dict[str, Any]]) -> None:
    columns = (
        Column("KEY", identifier=True),
        Column("BYTES", right=True),
        Column("REVISION", right=True),
        Column("VERSION", right=True, drop=2),
        Column("SEALED", drop=3),
        Column("EXPIRES", drop=1),
    )
    rows = [
        (
            entry["key"],
            str(entry["size"]),
            str(entry["revision"]),
            str(entry["version"]),
            text_of(entry["sealed"]),
            entry["expires_at"] or "-",
        )
        for entry in entries
    ]
    output.table(columns, rows)


@command()
def watch(
    invocation: Invocation,
    prefix: Annotated[
        str, Argument(metavar="[PREFIX]", help="Keys that begin with this.", show_default=False)
    ] = "",
    from_: Annotated[
        str | None,
        Option("--from", metavar="N", help="Begin with the changes of this revision; without: from now on."),
    ] = None,
) -> None:
    """Print every change of keys, one to a line, until interrupted.

    Nothing is missed and nothing comes twice, whichever node answers.  Exits 4
    when the changes from there on are no longer all known, and says where it
    can go on; 75 when nobody answers for 30 seconds.
    """
    check_prefix(prefix)
    for change in _changes(invocation, prefix, _revision(from_, "--from")):
        if invocation.mode == "table":
            value = f" {_text_of(change)}" if change["type"] == "put" else ""
            output.write(f"{change['revision']} {change['type']} {change['key']}{_one_line(value)}\n")
        else:
            output.structured({"schema_version": 1, **change}, invocation.mode, stream=True)


def _one_line(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text


def _changes(invocation: Invocation, prefix: str, revision: int | None) -> Iterator[dict[str, Any]]:
    from cyoloctl.control.blocking import BlockingRunner
    from cyoloctl.kv.client import changes

    def on_silence(reason: str) -> None:
        invocation.hint(f"nobody answers ({reason}); trying again")

    caller = invocation.client().caller
    found = changes(caller, prefix, revision, dict, patience_s=_PATIENCE_S, on_silence=on_silence)
    return BlockingRunner().iterate(found)


@command()
def txn(
    invocation: Invocation,
    file: Annotated[
        str,
        Argument(
            metavar="FILE|-",
            help="JSON: compare, then and otherwise, each a list; - reads it from stdin.",
            show_default=False,
        ),
    ],
    fence: FenceOption = None,
    request_id: RequestIdOption = None,
) -> None:
    """Compare keys and change others, all at one revision or not at all.

    Exits 0 when every comparison held and `then` was carried out, 4 when one
    did not and `otherwise` was.
    """
    _fence(fence)
    client = invocation.client()
    raw = read_input(file, "transaction", _MAX_TXN_BYTES)
    from cyoloctl.web.encoding import decode_object

    given = decode_object(raw, "transaction", _MAX_TXN_BYTES)
    if not given.keys() <= {"compare", "then", "otherwise"}:
        raise InvalidInput("the transaction has other fields than compare, then and otherwise: remove them")
    answer = client.call("kv_txn", body={**given, "fence": fence, "request_id": request_id})
    if invocation.mode == "table":
        output.write(f"{'succeeded' if answer['succeeded'] else 'not succeeded'} {answer['revision']}\n")
    else:
        output.structured(answer, invocation.mode)
    if not answer["succeeded"]:
        raise Conflict("a comparison was false: `otherwise` was carried out, and not `then`")


@command()
def keep(
    invocation: Invocation,
    key: KeyArgument,
    ttl: Annotated[str, Option("--ttl", metavar="DURATION", help="How long from now.")],
    created_revision: Annotated[
        str | None,
        Option(
            "--created-revision",
            metavar="N",
            help="Only the key that was made at this revision; otherwise exit 4.",
        ),
    ] = None,
    request_id: RequestIdOption = None,
) -> None:
    """Give a key that expires a later end, and print it.  It is no change of the key.

    Exits 3 when the key is gone.
    """
    check_key(key)
    body = {
        "key": key,
        "created_revision": _revision(created_revision, "--created-revision", 1),
        "ttl_s": _ttl_s(ttl),
        "request_id": request_id,
    }
    kept = invocation.client().call("kv_keep", body=body)
    invocation.value(kept, kept["expires_at"])


COMMANDS: dict[str, Leaf] = {
    "get": get,
    "put": put,
    "delete": delete,
    "list": list_,
    "watch": watch,
    "txn": txn,
    "keep": keep,
}
