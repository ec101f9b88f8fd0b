"""``cyoloctl snapshot``: the replicated state in a file, for a new cluster."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    StaleOption,
    command,
    parse_duration_s,
    parse_int64,
    read_input,
    read_secret,
)
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.errors import InternalError, Unavailable, UsageError
from cyoloctl.paths import quoted

__all__ = ["COMMANDS"]

_MAX_IDENTITY_BYTES = 64 * 1024


PassphraseOption = Annotated[
    str | None,
    Option(
        "--passphrase-file",
        metavar="FILE|-",
        help="Add the token keys, sealed under this passphrase, so that sessions go on after a restore.",
    ),
]
ToNodeOption = Annotated[
    Path | None,
    Option(
        "--to-node", metavar="CERT", help="Add the token keys, sealed to the node of this `key identity`."
    ),
]
ToCaOption = Annotated[
    str | None,
    Option("--to-ca", metavar="SHA256", help="CA of that node's cluster, as its operator reads it out."),
]
EveryOption = Annotated[
    str | None,
    Option("--every", metavar="DURATION", help="A policy: how often, 1m to 366d; never takes it out."),
]
KeepOption = Annotated[
    str | None, Option("--keep", metavar="N", help="Of the policy: how many of the newest stay.")
]
DirectoryOption = Annotated[
    Path | None, Option("--dir", metavar="DIR", help="Of the policy: where the files are.")
]


@command(timeout_s=30.0)
def save(
    invocation: Invocation,
    file: Annotated[Path | None, Argument(metavar="[FILE]", help="New file, made with mode 0600.")] = None,
    stale: StaleOption = False,
    passphrase_file: PassphraseOption = None,
    to_node: ToNodeOption = None,
    to_ca: ToCaOption = None,
    every: EveryOption = None,
    keep: KeepOption = None,
    directory: DirectoryOption = None,
) -> None:
    """Save the replicated state of one moment to a new file.

    From any node, while writes go on. Counters, revocations, rendezvous,
    remembered request ids and the rest are in it; token keys only if asked
    for. The file is verified, and appears under its name when it is whole.
    Treat it like the data directory of a node.

    With --every, in place of FILE: put the policy into node.yaml by which the
    node of the data directory saves snapshots itself. `node reload` makes a
    running node follow it.
    """
    if every is not None or keep is not None or directory is not None:
        if file is not None or stale or passphrase_file is not None or to_node is not None:
            raise UsageError("--every, --keep and --dir are a policy of the node: leave the rest out")
        _set_policy(invocation, every, keep, directory)
        return
    if file is None:
        raise UsageError("name the file to save to, or a policy: --every 6h --keep 28 --dir DIR")
    _save(invocation, file, stale, *_key_request(passphrase_file, to_node, to_ca))


def _set_policy(invocation: Invocation, every: str | None, keep: str | None, directory: Path | None) -> None:
    from cyoloctl.node.snapshot_schedule import set_policy
    from cyoloctl.snapshots.policy import MAX_EVERY_S, MAX_KEPT, MIN_EVERY_S, SnapshotPolicy

    never = every in (None, "never")
    every_s = (
        0 if never else parse_duration_s(str(every), "--every", minimum_s=MIN_EVERY_S, maximum_s=MAX_EVERY_S)
    )
    kept = 0 if keep is None else parse_int64(keep, "--keep", 1, MAX_KEPT)
    policy = None
    if every_s and kept and directory is not None:
        policy = SnapshotPolicy(every_s, kept, str(directory.absolute()))
    elif every != "never" or kept or directory is not None:
        raise UsageError("a policy needs all three, such as --every 6h --keep 28 --dir DIR; or --every never")
    done = set_policy(invocation.data_dir, policy)
    shown = "never" if policy is None else f"every {policy.every}, the newest {policy.keep} stay"
    invocation.fields(done, [("snapshots", shown), ("directory", done["directory"] or "-")])
    invocation.hint(f"a running node follows it after: cyoloctl node reload -d {quoted(invocation.data_dir)}")


def _save(invocation: Invocation, file: Path, stale: bool, asked: dict[str, Any], kind: str) -> None:
    from cyoloctl.snapshots.file import Head, encode_head, new_snapshot_file

    client = invocation.client()
    with new_snapshot_file(file) as write:
        ring = client.call("key_export_ring", body=asked)["data"].encode("ascii") if asked else b""
        query = {"consistency": "stale"} if stale else {}
        begun = client.call("snapshot_begin", query=query, body={}, repeatable=True)
        names = ("cluster_id", "cluster", "node", "release", "epoch", "index", "term", "time_unix_ms")
        head = Head(
            **{name: begun[name] for name in names},
            keys=kind,
            state_bytes=begun["total_bytes"],
            keys_bytes=len(ring),
        )
        write(encode_head(head))
        _copy(client, begun, write)
        write(ring)
    made = {key: value for key, value in begun.items() if key not in ("id", "sha256")}
    made |= {"file": str(file), "key_ring": kind or None}
    invocation.fields(
        made,
        [
            ("file", file),
            ("cluster", f"{made['cluster']} ({made['cluster_id']})"),
            ("up to", f"log index {made['index']} of epoch {made['epoch']}"),
            ("cluster time", made["taken_at"]),
            ("token keys", "none" if not kind else f"sealed to a {kind}"),
        ],
    )
    if not kind:
        invocation.hint(
            "it holds no token keys: in a cluster that begins with it, every session of today has ended "
            "(--passphrase-file takes them along)"
        )


def _key_request(
    passphrase_file: str | None, to_node: Path | None, to_ca: str | None
) -> tuple[dict[str, Any], str]:
    """The body that asks for the key ring, empty for none, and how it will be sealed."""
    if passphrase_file is not None and to_node is not None:
        raise UsageError("give --passphrase-file or --to-node, not both")
    if to_ca is not None and to_node is None:
        raise UsageError("--to-ca belongs to --to-node: leave it out")
    if passphrase_file is not None:
        return {"passphrase": read_secret(passphrase_file, "passphrase")}, "passphrase"
    if to_node is not None:
        identity = read_input(to_node, "node identity", _MAX_IDENTITY_BYTES)[:_MAX_IDENTITY_BYTES]
        return {"to_node": identity.decode("ascii", "replace"), "to_ca": to_ca}, "node"
    return {}, ""


def _copy(client: Any, begun: dict[str, Any], write: Callable[[bytes], None]) -> None:
    """The state in parts.  Raises Unavailable where it is not what the node has announced."""
    digest, offset = hashlib.sha256(), 0
    while True:
        part = client.call("snapshot_part", begun["id"], query={"offset": offset})
        try:
            data = base64.b64decode(part["data_base64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise InternalError("the node's answer makes no sense: run one release everywhere") from error
        digest.update(data)
        write(data)
        offset += len(data)
        if part["next"] is None:
            break
        if part["next"] != offset or not data:
            raise Unavailable("the snapshot did not arrive in order: save it again")
    if offset != begun["total_bytes"] or digest.hexdigest() != begun["sha256"]:
        raise Unavailable("the snapshot was damaged on its way: save it again")


@command(connects=False, timeout_s=None)
def inspect(
    invocation: Invocation,
    file: Annotated[Path, Argument(metavar="FILE", help="File that `snapshot save` wrote.")],
) -> None:
    """Verify a snapshot file and show what it holds, offline."""
    from cyoloctl.node import restore

    found = restore.inspect_snapshot(file)
    invocation.fields(
        found,
        [
            ("file", found["file"]),
            ("cluster", f"{found['cluster']['name']} ({found['cluster']['id']})"),
            ("up to", f"log index {found['index']} of epoch {found['epoch']}"),
            ("cluster time", found["taken_at"]),
            ("made by", f"{found['node']}, release {found['release']}"),
            ("members", ", ".join(found["members"]) or "-"),
            ("counters", found["counters"]),
            ("kv", f"{found['kv']['keys']} keys, {found['kv']['bytes']} bytes"),
            ("locks held", found["locks"]),
            ("machines", ", ".join(found["machines"]) or "-"),
            ("rendezvous", found["rendezvous"]),
            ("token keys", f"sealed to a {found['key_ring']}" if found["key_ring"] else "none"),
            ("sha256", found["sha256"]),
        ],
    )
    invocation.hint(
        "\nto begin a new cluster with it:\n"
        f"  cyoloctl cluster init --from-snapshot {quoted(file)} --name NAME --listen HOST:PORT -d DIR"
    )


COMMANDS: dict[str, Leaf] = {"save": save, "inspect": inspect}
