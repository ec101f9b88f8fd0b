"""``cyoloctl credentials``: who may call the API from elsewhere, in the cluster's own register."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    StaleOption,
    command,
    confirm,
    parse_choice,
    parse_duration_s,
    read_secret,
    store_private,
)
from cyoloctl.cli.offline_ca import CaFileOption, certificate_for, read_offline_ca
from cyoloctl.cli.output import Column, rows_of, text_of
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.errors import (
    ConfigError,
    CyoloctlError,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    StorageError,
    UsageError,
)
from cyoloctl.model import parse_name
from cyoloctl.paths import exists_error, file_error, quoted
from cyoloctl.text import Json

__all__ = ["COMMANDS"]


_ROLES = ("viewer", "gateway", "operator")
_TTL = {"minimum_s": 60, "maximum_s": 825 * 86_400}
_ENTRY = ("name", "role", "key_hash", "created_at", "created_by", "expires_at", "revoked_at")

NameArgument = Annotated[str, Argument(metavar="NAME", help="Name of the credentials.")]
OutOption = Annotated[Path, Option("--out", metavar="FILE", help="Credentials file to write (0600).")]
RequestOption = Annotated[
    Path | None,
    Option(
        "--request",
        metavar="FILE",
        help="Request from another machine, whose private key stays there (`credentials request`).",
    ),
]


def _role(text: str) -> str:
    return parse_choice(text, "--role", _ROLES)


@command()
def create(
    invocation: Invocation,
    out: OutOption,
    name: Annotated[
        str | None, Option("--name", metavar="NAME", help="Name, unique among valid credentials.")
    ] = None,
    role: Annotated[
        str | None,
        Option("--role", metavar="viewer|gateway|operator", help="Role: what they may do."),
    ] = None,
    ttl: Annotated[
        str, Option("--ttl", metavar="DURATION", help="Lifetime, 60s to 825d; never beyond the CA.")
    ] = "90d",
    request: RequestOption = None,
    ca_file: CaFileOption = None,
    request_id: RequestIdOption = None,
) -> None:
    """Make credentials for the API and register their key.

    A viewer reads; a gateway handles sessions and rendezvous as well; an operator may do everything.
    Without --request the private key is made here and ends up in FILE only. With it FILE holds no
    key: it names the one that `credentials request` wrote, and belongs beside it.

    After an unknown outcome, repeat the command: FILE holds the key, and the same key gets the same entry.
    """
    ttl_s = parse_duration_s(ttl, "--ttl", **_TTL)
    if role is not None:
        _role(role)
    authority = read_offline_ca(ca_file)
    if request is not None:
        asked = _read_request(request)
        for option, given in (("name", name), ("role", role)):
            if given is not None and given != asked[option]:
                raise InvalidInput(f"--{option} is {given!r}, and the request is for {asked[option]!r}")
        body = {**_asked_body(asked), "ttl_s": ttl_s, "request_id": request_id}
        body |= certificate_for(authority, asked["request_pem"], asked["name"], asked["role"], _days(ttl_s))
        _refuse_existing(out)
        _finish(invocation, out, invocation.client().call("credential_create", body=body), asked)
        return
    if name is None or role is None:
        raise UsageError("missing --name and --role, or --request FILE")
    parse_name(name)
    client = invocation.client()
    fresh = not os.path.lexists(out)
    asked = _draft(out, name, _role(role))
    body = {**_asked_body(asked), "ttl_s": ttl_s, "request_id": request_id}
    try:
        body |= certificate_for(authority, asked["request_pem"], name, asked["role"], _days(ttl_s))
        issued = client.call("credential_create", body=body)
    except OutcomeUnknown as error:
        output.note(f"{out} holds the key already: repeat the same command")
        raise error
    except CyoloctlError:
        # Not the key of an earlier attempt, which may stand in the register.
        if fresh:
            out.unlink(missing_ok=True)
        raise
    _finish(invocation, out, issued, asked)


@command(connects=False, data_dir=False, timeout_s=None)
def request(
    invocation: Invocation,
    name: Annotated[str, Option("--name", metavar="NAME", help="Name of the credentials.")],
    role: Annotated[str, Option("--role", metavar="viewer|gateway|operator", help="Role: what they may do.")],
    key_out: Annotated[
        Path,
        Option("--key-out", metavar="FILE", help="File for the private key (0600); stays here."),
    ],
    out: Annotated[Path, Option("--out", metavar="FILE", help="File for the request; no secret.")],
) -> None:
    """Make a private key, and a request that an operator turns into credentials.

    The operator runs `cyoloctl credentials create --request FILE --out CREDENTIALS` and sends
    CREDENTIALS back. Put it into the directory of the key: it names the key's file.
    """
    from cyoloctl.pki.requests import make_credential_request

    request_pem, key_pem = make_credential_request(parse_name(name), _role(role))
    document = {
        "schema_version": 1,
        "name": name,
        "role": role,
        "request_pem": request_pem,
        "key_file": key_out.name,
    }
    _refuse_existing(out)
    store_private(key_out, key_pem)
    _write_text(out, json.dumps(document, indent=2) + "\n")
    shown = {"schema_version": 1, "name": name, "role": role, "request": str(out), "key": str(key_out)}
    invocation.fields(shown, [("request", str(out)), ("key", str(key_out))])
    invocation.hint(
        f"next, where the cluster is: cyoloctl credentials create --request {quoted(out.name)} --out FILE"
    )


@command()
def list_(invocation: Invocation, stale: StaleOption = False) -> None:
    """List the register: whose keys count or have counted, members included (role node)."""
    document = invocation.read("credential_list", stale=stale)
    if invocation.mode == "table":
        _table(document["credentials"])
    else:
        output.structured(document, invocation.mode)


@command()
def show(invocation: Invocation, name: NameArgument) -> None:
    """Show one entry: role, hash of the key, who made it, when it ends or was revoked."""
    document = invocation.client().call("credential_show", name)
    invocation.fields(document, rows_of(document, *_ENTRY))


@command()
def revoke(
    invocation: Invocation,
    name: NameArgument,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Revoke credentials permanently: their open connections end within two seconds. Safe to repeat."""
    confirm(yes, f"revoke the credentials {name}?")
    document = invocation.client().call("credential_revoke", name, {"request_id": request_id})
    invocation.value(document, name)


@command()
def renew(
    invocation: Invocation,
    out: OutOption,
    name: Annotated[
        str | None,
        Argument(
            metavar="[NAME]",
            help="Name of the credentials. [default: the caller's own, of --credentials FILE]",
        ),
    ] = None,
    ttl: Annotated[
        str | None,
        Option("--ttl", metavar="DURATION", help="Lifetime. [default: what was granted before]"),
    ] = None,
    new_key: Annotated[bool, Option("--new-key", help="Replace the key too.")] = False,
    request: RequestOption = None,
    ca_file: CaFileOption = None,
    request_id: RequestIdOption = None,
) -> None:
    """Renew credentials, expired ones too, and write the file with the present members.

    With NAME an operator renews anybody's. Without it the holder of --credentials FILE (default:
    operator.yaml in the data directory) renews its own, over the network, for no longer than was
    granted. FILE may be the old file: its key is kept unless --new-key is given, and it is replaced
    as a whole. A new key is in FILE.new-key until then: after an unknown outcome, repeat the command.
    """
    ttl_s = None if ttl is None else parse_duration_s(ttl, "--ttl", **_TTL)
    authority = read_offline_ca(ca_file)
    source = out if name is not None else invocation.credentials or invocation.data_dir / "operator.yaml"
    old = _read_old(source) if source.exists() else None
    if name is None and old is None:
        raise NotFound(
            f"there is no credentials file {source}: use --credentials FILE, or name the credentials to renew"
        )
    if out.exists() and not (old is not None and out.resolve() == source.resolve()):
        raise exists_error(out, "credentials")
    whose = name if name is not None else str((old or {})["name"])
    if old is not None and old["name"] != whose:
        raise InvalidInput(f"{source} holds the credentials {old['name']}, not {whose}: choose another file")
    client, own = _renewing_client(invocation, source) if name is None else (invocation.client(), False)
    kept: Path | None = None  # a new key, on the disk before the register hears of it
    if request is not None:
        asked = _read_request(request)
        if asked["name"] != whose:
            raise InvalidInput(f"the request is for {asked['name']!r}, not for {whose!r}")
    else:
        role = str(old["role"]) if old is not None else str(client.call("credential_show", whose)["role"])
        if old is None or new_key:
            kept = out.with_name(f"{out.name}.new-key")
            asked = _draft(kept, whose, role)
        else:
            asked = _new_request(whose, role, _key_of(source, old), old, new_key)
    body = {"request_pem": asked["request_pem"], "ttl_s": ttl_s, "request_id": request_id}
    with _kept_while_unknown(kept):
        if authority is not None:
            role = asked["role"] if "role" in asked else client.call("credential_show", whose)["role"]
            body |= certificate_for(authority, asked["request_pem"], whose, role, _days(ttl_s))
        issued = client.call(*(("credential_renew_own", "") if own else ("credential_renew", whose)), body)
        _finish(invocation, out, issued, asked, replace=True)


# -- below: parts ---------------------------------------------------------------------------------


def _asked_body(asked: Json) -> Json:
    return {key: asked[key] for key in ("name", "role", "request_pem")}


def _days(ttl_s: int | None) -> int:
    """Life of a certificate whose entry in the register ends it: no less, in whole days, 825 at most."""
    return 825 if ttl_s is None else min(825, ttl_s // 86_400 + 1)


def _new_request(name: str, role: str, key_pem: str | None, old: Json | None, new_key: bool) -> Json:
    from cyoloctl.pki.requests import make_credential_request

    request_pem, key = make_credential_request(name, role, key_pem)
    asked: Json = {"name": name, "role": role, "request_pem": request_pem}
    if old is not None and "key_file" in old and not new_key:
        return {**asked, "key_file": old["key_file"]}
    return {**asked, "key_pem": key}


@contextmanager
def _kept_while_unknown(kept: Path | None) -> Iterator[None]:
    """Remove the file of a new key, unless it may be registered and is not in the credentials yet."""
    known = True
    try:
        yield
    except (OutcomeUnknown, StorageError, KeyboardInterrupt):
        known = False
        raise
    finally:
        if kept is not None and known:
            kept.unlink(missing_ok=True)


def _renewing_client(invocation: Invocation, source: Path) -> tuple[Any, bool]:
    """A client for whoever renews their own credentials, and whether it shows them."""
    remote = [url for url in invocation.endpoints if url.startswith("https:")]
    if not remote and (invocation.credentials is not None or not invocation.endpoints):
        return _client_of_members(invocation, source)[0], True
    return invocation.client(), bool(remote)


def _client_of_members(invocation: Invocation, source: Path) -> tuple[Any, list[str]]:
    from cyoloctl.control.client import Client
    from cyoloctl.control.tls_endpoints import member_endpoints

    endpoints = member_endpoints(source)
    if not endpoints:
        raise UsageError(f"{source} lists no members: use -e https://HOST:PORT")
    return Client(endpoints, credentials=source, timeout_s=invocation.timeout_s, retry=False), endpoints


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise exists_error(path)


def _draft(out: Path, name: str, role: str) -> Json:
    """The key and request of new credentials; the key is on the disk before anything is sent."""
    if os.path.isdir(out):
        raise exists_error(out, "credentials")
    if os.path.lexists(out):
        draft = _read_old(out)
        if draft.get("draft") is True and (draft["name"], draft["role"]) == (name, role):
            return _new_request(name, role, _key_of(out, draft), None, False)
        raise exists_error(out, "credentials")
    asked = _new_request(name, role, None, None, False)
    draft = {"schema_version": 1, "draft": True, "name": name, "role": role, "key_pem": asked["key_pem"]}
    store_private(out, json.dumps(draft, indent=2) + "\n")
    return asked


def _read_old(path: Path) -> Json:
    """A credentials file, or the draft of one.  Raises ConfigError, InvalidInput."""
    try:
        value = json.loads(read_secret(str(path), "credentials"))
        if not all(isinstance(value[key], str) for key in ("name", "role")):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidInput(f"{path} is no credentials file: choose another file") from None
    found: Json = value
    return found


def _key_of(path: Path, old: Json) -> str:
    if isinstance(old.get("key_pem"), str):
        return str(old["key_pem"])
    if isinstance(old.get("key_file"), str):
        return read_secret(str(path.absolute().parent / old["key_file"]), "private key") + "\n"
    raise ConfigError(f"{path} holds no key: use --new-key")


def _read_request(path: Path) -> Json:
    try:
        value = json.loads(read_secret(str(path), "request"))
        asked = {key: value[key] for key in ("name", "role", "request_pem", "key_file")}
        if value["schema_version"] != 1 or not all(isinstance(text, str) for text in asked.values()):
            raise ValueError
        if asked["key_file"] != os.path.basename(asked["key_file"]) or asked["key_file"] in ("", ".", ".."):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidInput(
            f"{path} is no request of `cyoloctl credentials request`: make a new one"
        ) from None
    return asked


def _write_text(path: Path, text: str) -> None:
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write(text)
    except FileExistsError:
        raise exists_error(path) from None
    except OSError as error:
        raise file_error(path, error, "write") from None


def _finish(invocation: Invocation, out: Path, issued: Json, asked: Json, *, replace: bool = False) -> None:
    """Write the credentials file and say what it holds."""
    key: Json = {name: asked[name] for name in ("key_pem", "key_file") if name in asked}
    document: Json = {
        "schema_version": 1,
        **{name: issued[name] for name in ("role", "name", "cluster_id", "ca_pem", "certificate_pem")},
        **key,
        "members": issued["members"],
    }
    # A draft of ours, or the file that is renewed, is replaced; nothing else was there a moment ago.
    overwrite = replace or "key_pem" in key
    store_private(out, json.dumps(document, indent=2) + "\n", exclusive=not overwrite)
    invocation.sent.clear()  # the file is whole: nothing is lost with what is printed
    shown: Json = {"schema_version": 1, **{name: issued[name] for name in _ENTRY}, "file": str(out)}
    invocation.fields(
        shown,
        [
            ("file", str(out)),
            ("name", str(issued["name"])),
            ("role", str(issued["role"])),
            ("expires at", str(issued["expires_at"])),
        ],
    )
    if "key_file" in key:
        invocation.hint(f"{out} holds no key: put it beside {key['key_file']}, on the machine that asked")


_COLUMNS = (
    Column("NAME", identifier=True),
    Column("ROLE"),
    Column("KEY", drop=1),
    Column("CREATED", drop=2),
    Column("BY", drop=3),
    Column("EXPIRES"),
)


def _table(rows: list[Json]) -> None:
    def state(row: Json) -> str:
        return f"revoked {row['revoked_at']}" if row["revoked_at"] else text_of(row["expires_at"])

    output.table(
        _COLUMNS,
        [
            (
                str(row["name"]),
                str(row["role"]),
                text_of(row["key_hash"]),
                text_of(row["created_at"]),
                text_of(row["created_by"]),
                state(row),
            )
            for row in rows
        ],
    )


COMMANDS: dict[str, Leaf] = {
    "create": create,
    "request": request,
    "list": list_,
    "show": show,
    "revoke": revoke,
    "renew": renew,
}
