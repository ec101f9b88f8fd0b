"""``cyoloctl key``: the replicated key ring that session tokens are sealed with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyoloctl.cli import output
from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    StaleOption,
    command,
    confirm,
    duration_text,
    parse_duration_s,
    read_input,
    read_secret,
    secret_file,
)
from cyoloctl.cli.output import Column, text_of
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.errors import Conflict, InvalidInput, UsageError
from cyoloctl.text import Json

__all__ = ["COMMANDS"]


_PERIOD = {"minimum_s": 3600, "maximum_s": 366 * 86_400}
_MAX_RING_BYTES = 1 << 20

KeyArgument = Annotated[str, Argument(metavar="KID", help="Key id (`key list`).")]
ForceOption = Annotated[
    bool,
    Option("--force", help="Do it even while tokens under the key may be valid; they are refused then."),
]

_COLUMNS = (
    Column("KEY", identifier=True),
    Column("STATE"),
    Column("FINGERPRINT", drop=1),
    Column("HOLDERS", drop=4, right=True),
    Column("MISSING"),
    Column("PROMOTED", drop=3),
    Column("RETIRED", drop=2),
)


_VALUES = Column("VALUES", drop=5, right=True)
"""Sealed values of `kv` that only this key opens."""


def _rows(keys: list[Json], values: dict[str, int] | None = None) -> None:
    rows = [
        (
            str(key["key_id"]),
            str(key["state"]),
            str(key["fingerprint"]),
            str(len(key["holders"])),
            text_of(key["missing"]),
            text_of(key["promoted_at"]),
            text_of(key["retired_at"]),
            *([] if values is None else [str(values[key["key_id"]])]),
        )
        for key in keys
    ]
    output.table(_COLUMNS if values is None else (*_COLUMNS, _VALUES), rows)


def _warn(keys: list[Json]) -> None:
    known: dict[str, list[str]] = {}
    for key in keys:
        for name in key["compromised_by"]:
            known.setdefault(name, []).append(str(key["key_id"]))
    for name, ids in sorted(known.items()):
        output.note(
            f"{name} was removed and knew {', '.join(ids)}: unless its disk is destroyed, run "
            "`cyoloctl key rotate`, and destroy these keys once their tokens have expired"
        )


def _written(invocation: Invocation, key: Json) -> None:
    invocation.value(key, str(key["key_id"]))


@command()
def generate(invocation: Invocation, request_id: RequestIdOption = None) -> None:
    """Make a key and print its id; it is pending until it is promoted."""
    _written(invocation, invocation.client().call("key_generate", body={"request_id": request_id}))


@command(timeout_s=30.0)
def rotate(invocation: Invocation, request_id: RequestIdOption = None) -> None:
    """Make a key, wait until every member holds it, make it the primary one; print its id.

    A member that is down keeps the rotation from ending: the new key then stays pending, and the
    command says whom it waits for.
    """
    _written(invocation, invocation.client().call("key_rotate", body={"request_id": request_id}))


@command()
def list_(invocation: Invocation, stale: StaleOption = False) -> None:
    """List the keys: states, fingerprints, who holds them. Never key material."""
    document = invocation.read("key_list", stale=stale)
    if invocation.mode == "table":
        _rows(document["keys"])
    else:
        output.structured(document, invocation.mode)


@command()
def status(invocation: Invocation, stale: StaleOption = False) -> None:
    """Show whether every member holds every key, and the same ones; exits 4 if not.

    VALUES: how many sealed values (`kv put --sealed`) only this key opens.
    """
    document = invocation.read("key_status", stale=stale)
    if invocation.mode == "table":
        live = [key for key in document["keys"] if key["state"] != "destroyed"]
        _rows(live, document["sealed_values"])
    else:
        output.structured(document, invocation.mode)
    _warn(document["keys"])
    if not document["agreed"]:
        raise Conflict("the members do not agree on the keys: " + "; ".join(document["problems"]))


@command()
def promote(invocation: Invocation, kid: KeyArgument, request_id: RequestIdOption = None) -> None:
    """Make a key the primary one, under which tokens are made. Every member must hold it."""
    _written(invocation, invocation.client().call("key_promote", kid, {"request_id": request_id}))


@command()
def disable(
    invocation: Invocation,
    kid: KeyArgument,
    force: ForceOption = False,
    request_id: RequestIdOption = None,
) -> None:
    """Refuse the tokens under a key until it is enabled again."""
    body = {"force": force, "request_id": request_id}
    _written(invocation, invocation.client().call("key_disable", kid, body))


@command()
def enable(invocation: Invocation, kid: KeyArgument, request_id: RequestIdOption = None) -> None:
    """Accept the tokens under a disabled key again."""
    _written(invocation, invocation.client().call("key_enable", kid, {"request_id": request_id}))


@command()
def destroy(
    invocation: Invocation,
    kid: KeyArgument,
    force: ForceOption = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Destroy a key permanently: its tokens can never be opened again.

    Asks for confirmation on a terminal; elsewhere it needs --yes.
    """
    confirm(yes, f"destroy key {kid} permanently?")
    body = {"force": force, "request_id": request_id}
    _written(invocation, invocation.client().call("key_destroy", kid, body))


@command()
def rewrap(invocation: Invocation, request_id: RequestIdOption = None) -> None:
    """Seal every key again to every member, for example after one changed its sealing key.

    Waits until the connected members have opened theirs.
    """
    document = invocation.client().call("key_rewrap", body={"request_id": request_id})
    if invocation.mode == "table":
        _rows(document["keys"])
    else:
        output.structured(document, invocation.mode)
    lacking = sorted({name for key in document["keys"] for name in key["missing"]})
    if lacking:
        output.note(
            f"sealed to {', '.join(lacking)} too, but not opened there yet: `cyoloctl key status` shows when"
        )


@command()
def policy(
    invocation: Invocation,
    rotate_every: Annotated[
        str | None,
        Option(
            "--rotate-every", metavar="DURATION|never", help="Interval of automatic rotation, 1h to 366d."
        ),
    ] = None,
    keep: Annotated[
        str | None,
        Option(
            "--keep",
            metavar="DURATION",
            help="Time for which a replaced key opens tokens, 1h to 366d; no token lives longer.",
        ),
    ] = None,
    request_id: RequestIdOption = None,
) -> None:
    """Show the rotation policy, or set what is given.

    With --keep below 8h, the default age of a token is refused: `token mint`
    then needs a --max-age that is no longer.
    """
    wanted: Json = {}
    if rotate_every is not None:
        never = rotate_every == "never"
        every_s = None if never else parse_duration_s(rotate_every, "--rotate-every", **_PERIOD)
        wanted["rotate_every_s"] = every_s
    if keep is not None:
        wanted["keep_s"] = parse_duration_s(keep, "--keep", **_PERIOD)
    client = invocation.client()
    found = client.call("key_policy")
    if wanted:
        body = {name: found[name] for name in ("rotate_every_s", "keep_s")} | wanted
        found = client.call("key_set_policy", body={**body, "request_id": request_id})
    every = found["rotate_every_s"]
    invocation.fields(
        found,
        [
            ("rotate every", "never" if every is None else duration_text(every)),
            ("keep", duration_text(found["keep_s"])),
        ],
    )
    from cyoloctl.tokens.format import DEFAULT_MAX_AGE_S

    if found["keep_s"] < DEFAULT_MAX_AGE_S:
        output.note(
            f"no token may live longer than {duration_text(found['keep_s'])} now, and the default is "
            f"{duration_text(DEFAULT_MAX_AGE_S)}: `cyoloctl token mint` is refused without "
            f"--max-age {duration_text(found['keep_s'])} or less"
        )


@command()
def identity(invocation: Invocation) -> None:
    """Print what another cluster needs to seal its key ring to this node (`key export --to-node`)."""
    document = invocation.client().call("key_identity")
    invocation.value(document, str(document["identity"]).rstrip("\n"))
    invocation.hint(f"the fingerprint to read out to the other operator: {document['ca_sha256']}")


@command(timeout_s=30.0)
def export(
    invocation: Invocation,
    passphrase_file: Annotated[
        str | None,
        Option(
            "--passphrase-file",
            metavar="FILE|-",
            help="Passphrase to seal it under, 12 characters or more.",
        ),
    ] = None,
    to_node: Annotated[
        Path | None,
        Option("--to-node", metavar="CERT", help="Seal it to the node of this `key identity`."),
    ] = None,
    to_ca: Annotated[
        str | None,
        Option(
            "--to-ca",
            metavar="SHA256",
            help="For a node of another cluster: the fingerprint of its CA certificate, as its operator "
            "reads it out (`key identity` shows it there).",
        ),
    ] = None,
    out: Annotated[
        Path | None, Option("--out", metavar="FILE", help="Write it to a new file of mode 0600.")
    ] = None,
) -> None:
    """Print the key ring, sealed, for a network that is not connected or for `token --keyring`."""
    if (passphrase_file is None) == (to_node is None):
        raise UsageError("give --passphrase-file or --to-node")
    if to_ca is not None and to_node is None:
        raise UsageError("--to-ca belongs to --to-node: leave it out")
    body: Json = {}
    if passphrase_file is not None:
        body["passphrase"] = read_secret(passphrase_file, "passphrase")
    if to_node is not None:
        body |= {"to_node": _read(to_node, "node identity"), "to_ca": to_ca}
    if out is None:
        document = invocation.client().call("key_export_ring", body=body)
        invocation.value(document, str(document["data"]).rstrip("\n"))
        return
    with secret_file(out, "key ring") as write:
        document = invocation.client().call("key_export_ring", body=body)
        write(document["data"])
    made = {"schema_version": 1, "file": str(out), "keys": document["keys"]}
    invocation.fields(made, [("file", out), ("keys", document["keys"])])


@command(timeout_s=30.0)
def import_(
    invocation: Invocation,
    file: Annotated[Path, Argument(metavar="FILE", help="File of `key export` or `snapshot save`.")],
    passphrase_file: Annotated[
        str | None, Option("--passphrase-file", metavar="FILE|-", help="Passphrase of the ring.")
    ] = None,
    from_ca: Annotated[
        str | None,
        Option(
            "--from-ca",
            metavar="SHA256",
            help="Of a ring sealed to this node: the fingerprint of the other cluster's CA certificate, "
            "as its operator reads it out.",
        ),
    ] = None,
    adopt: Annotated[
        bool, Option("--adopt", help="Accept the ring of another cluster; its tokens then open here.")
    ] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Add the keys of an exported ring; they open tokens, the primary key stays."""
    if from_ca is not None and passphrase_file is not None:
        raise UsageError("--from-ca belongs to a ring that is sealed to a node: leave it out")
    body: Json = {
        "data": _ring_in(file),
        "from_ca": from_ca,
        "adopt": adopt,
        "request_id": request_id,
    }
    if passphrase_file is not None:
        body["passphrase"] = read_secret(passphrase_file, "passphrase")
    document = invocation.client().call("key_import_ring", body=body)
    if invocation.mode == "table":
        _rows(document["keys"])
    else:
        output.structured(document, invocation.mode)


def _ring_in(path: Path) -> str:
    """The key ring in a file: of `key export`, or of a snapshot that holds one."""
    from cyoloctl.snapshots.file import is_snapshot, open_snapshot_file

    if not is_snapshot(path):
        return _read(path, "key ring")
    with open_snapshot_file(path) as saved:
        ring = saved.key_ring()
    if not ring:
        raise InvalidInput(
            f"{path} is a snapshot without token keys: save it with --passphrase-file or --to-node"
        )
    return ring.decode("ascii", "replace")


def _read(path: Path, what: str) -> str:
    return read_input(path, what, _MAX_RING_BYTES)[:_MAX_RING_BYTES].decode("ascii", "replace")


COMMANDS: dict[str, Leaf] = {
    "generate": generate,
    "rotate": rotate,
    "list": list_,
    "status": status,
    "promote": promote,
    "disable": disable,
    "enable": enable,
    "destroy": destroy,
    "export": export,
    "import": import_,
    "rewrap": rewrap,
    "policy": policy,
    "identity": identity,
}
