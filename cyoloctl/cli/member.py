"""``cyoloctl member``: who belongs to the cluster."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    StaleOption,
    command,
    confirm,
    parse_duration_s,
    read_secret,
    secret_file,
)
from cyoloctl.cli.offline_ca import CaFileOption, certificate_for, read_offline_ca
from cyoloctl.cli.output import Column, rows_of, text_of
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.errors import UsageError
from cyoloctl.model import parse_dialable_address, parse_hostname, parse_name
from cyoloctl.text import Json

if TYPE_CHECKING:
    from cyoloctl.control.client import Client
    from cyoloctl.pki.ca import Authority

__all__ = ["COMMANDS"]

_NEXT = (
    "next, on the new node, with the token in a file:\n"
    "  cyoloctl node join -d DIR --name {name} --listen HOST:PORT --token-file FILE"
)

LearnerOption = Annotated[
    bool, Option("--learner", help="Admit a learner, which replicates and never votes.")
]
WitnessOption = Annotated[
    bool,
    Option("--witness", help="Admit a voter without keys and gateway, which leads only in need."),
]
NodeArgument = Annotated[str, Argument(metavar="NAME", help="Name of the member.")]


@command()
def invite(
    invocation: Invocation,
    name: Annotated[str, Option("--name", metavar="NAME", help="Name of the new node.")],
    learner: LearnerOption = False,
    witness: WitnessOption = False,
    ttl: Annotated[str, Option("--ttl", metavar="DURATION", help="Lifetime of the token, 60s to 7d.")] = "1h",
    out: Annotated[
        Path | None, Option("--out", metavar="FILE", help="Write the token to a new file of mode 0600.")
    ] = None,
    request_id: RequestIdOption = None,
) -> None:
    """Print a join token for one new node.

    The token pins the cluster, its certificate authority, the name and the
    expiry; it works once. Treat it as a password. A second one for the same
    name replaces the first; the same --request-id gives the same token again.

    With --witness, for a site with two full nodes and one small box: the node
    holds the log and votes, so that either of the two may die. It is given no
    token keys, no key of the CA and no gateway, and while it leads, because
    no other can, it hands leadership over as soon as another voter has caught
    up. It stays a witness until it is removed.
    """
    parse_name(name, "node")
    _refuse_both(learner, witness)
    ttl_s = parse_duration_s(ttl, "--ttl", minimum_s=60, maximum_s=604_800)
    client = invocation.client()
    ask = partial(
        client.member_invite, name, learner=learner, witness=witness, ttl_s=ttl_s, request_id=request_id
    )
    if out is None:
        made = ask()
        invocation.value(made, made["token"])
        invocation.hint(
            f"the token works once, until {made['expires_at']}; treat it as a password\n"
            + _NEXT.format(name=name)
        )
        _say_replaced(made)
        return
    with secret_file(out, "token") as write:
        made = ask()
        write(made["token"] + "\n")
    invocation.sent.clear()  # the token is safe: nothing is lost with what is printed
    shown = {key: value for key, value in made.items() if key != "token"} | {"token_file": str(out)}
    invocation.fields(
        shown, [("token file", str(out)), ("name", made["name"]), ("expires at", made["expires_at"])]
    )
    invocation.hint(_NEXT.format(name=name))
    _say_replaced(made)


def _refuse_both(learner: bool, witness: bool) -> None:
    if learner and witness:
        raise UsageError("--learner and --witness exclude each other: a learner never votes, a witness does")


def _invited_as(document: dict[str, Any]) -> str:
    return "learner" if document["learner"] else "witness" if document.get("witness") else "voter"


def _say_replaced(made: dict[str, Any]) -> None:
    if made["replaced"]:
        output.note(f"an older invitation for {made['name']} was open: its token no longer admits anybody")


_INVITATION_COLUMNS = (
    Column("NAME", identifier=True),
    Column("ROLE"),
    Column("STATE"),
    Column("BY", drop=2),
    Column("CREATED", drop=1),
    Column("EXPIRES"),
)


@command()
def invitations(invocation: Invocation, stale: StaleOption = False) -> None:
    """List the invitations and grants: who may still join, and until when. Shows no secret."""
    document = invocation.read("member_invitations", stale=stale)
    if invocation.mode != "table":
        output.structured(document, invocation.mode)
        return
    rows = [
        (
            str(each["name"]),
            _invited_as(each),
            str(each["state"]),
            text_of(each.get("by")),
            text_of(each["created_at"]),
            str(each["expires_at"]),
        )
        for each in document["invitations"]
    ]
    output.table(_INVITATION_COLUMNS, rows)
    outdated = sorted({str(each["name"]) for each in document["invitations"] if each["state"] == "outdated"})
    if outdated:
        output.note(
            f"invited by release 0.1.0, whose tokens no longer admit anybody: {', '.join(outdated)}; "
            "invite again with `cyoloctl member invite`"
        )


@command()
def uninvite(invocation: Invocation, name: NodeArgument, request_id: RequestIdOption = None) -> None:
    """Withdraw an invitation or a grant: its token or file no longer admits anyone.

    Exits 3 when there is none, 4 when the node has joined with it.
    """
    parse_name(name, "node")
    done = invocation.client().member_uninvite(name, request_id=request_id)
    invocation.value(done, name)


@command()
def list_(invocation: Invocation, stale: StaleOption = False) -> None:
    """List the members with role and address."""
    document = invocation.read("member_list", stale=stale)
    if invocation.mode != "table":
        output.structured(document, invocation.mode)
        return
    from cyoloctl.cli.status import member_table

    member_table(document["members"])


@command()
def show(invocation: Invocation, name: NodeArgument, stale: StaleOption = False) -> None:
    """Show one member."""
    parse_name(name, "node")
    document = invocation.read("member_show", name, stale=stale)
    invocation.fields(document, rows_of(document))


@command()
def grant(
    invocation: Invocation,
    request: Annotated[
        str,
        Option(
            "--request",
            metavar="FILE|-",
            help="File that `node request` or `node renew --request` wrote; - is stdin.",
        ),
    ],
    learner: LearnerOption = False,
    witness: WitnessOption = False,
    ttl: Annotated[
        str, Option("--ttl", metavar="DURATION", help="Time to bring the new node in, 60s to 90d.")
    ] = "7d",
    ca_file: CaFileOption = None,
    out: Annotated[
        Path | None, Option("--out", metavar="FILE", help="Write the grant to a new file.")
    ] = None,
    request_id: RequestIdOption = None,
) -> None:
    """Admit a new node, or renew a member's certificate, by file.

    For a node that cannot reach the cluster. A new node is admitted once,
    by the key that signed its request, until the time is over; the grant is
    sealed to it, and only `node accept` there can use it. See `member
    invitations` and `member uninvite` until the node came in. The request of
    a member renews its certificate, for the key that it was admitted with;
    `node renew --grant` puts it in place. Where the CA is kept offline, its
    file is needed: nobody else can make a certificate.
    """
    ttl_s = parse_duration_s(ttl, "--ttl", minimum_s=60, maximum_s=7_776_000)
    _refuse_both(learner, witness)
    text = read_secret(request, "request")
    authority = read_offline_ca(ca_file)
    client = invocation.client()
    if not _asks_for_a_place(text):
        if learner or witness:
            option = "--learner" if learner else "--witness"
            raise UsageError(f"{option} is for the request of a new node; this one renews a certificate")
        _renew(invocation, client, {"request": text, **_certificate(client, text, authority)}, out)
        return
    body = {"request": text, "learner": learner, "ttl_s": ttl_s, "request_id": request_id}
    body |= _certificate(client, text, authority)
    if witness:  # left out otherwise: earlier releases take no other field
        body["witness"] = True
    _admit(invocation, client, out, **body)


def _admit(invocation: Invocation, client: Client, out: Path | None, **body: Any) -> None:
    if out is None:
        made = client.call("member_grant", body=body)
        invocation.value(made, made["grant"].rstrip("\n"))
    else:
        with secret_file(out, "grant") as write:
            made = client.call("member_grant", body=body)
            write(made["grant"])
        invocation.sent.clear()  # the grant is safe: nothing is lost with what is printed
        shown = {key: value for key, value in made.items() if key != "grant"} | {"grant_file": str(out)}
        invocation.fields(
            shown,
            [
                ("grant", str(out)),
                ("name", made["name"]),
                ("role", _invited_as(made)),
                ("sha-256 of the CA", made["ca_sha256"]),
                ("start it before", made["expires_at"]),
            ],
        )
    invocation.hint(
        f"next, on {made['name']}, with this file (compare the SHA-256 of the CA):\n"
        "  cyoloctl node accept -d DIR --grant FILE"
    )
    if made["replaced"]:
        output.note(
            f"an invitation or another grant for {made['name']} was open: it no longer admits anybody"
        )


def _asks_for_a_place(text: str) -> bool:
    """Whether a request file is a new node's: only those are signed as a whole."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False  # the node says what is wrong with it
    return isinstance(value, dict) and "signature" in value


def _certificate(client: Client, text: str, authority: Authority | None) -> Json:
    """What a request file with this text is granted with, where the CA is kept offline."""
    if authority is None:
        return {}
    from cyoloctl.pki.requests import decode_request

    asked = decode_request(text)
    days = client.call("pki_status")["certificate_days"]
    return certificate_for(authority, asked.request_pem, str(asked.name), "node", days)


def _renew(invocation: Invocation, client: Client, body: Json, out: Path | None) -> None:
    if out is None:
        made = client.call("pki_grant", body=body, repeatable=True)
        output.structured(made, "yaml" if invocation.mode == "yaml" else "json")
        return
    with secret_file(out, "grant") as write:
        made = client.call("pki_grant", body=body, repeatable=True)
        write(json.dumps(made, indent=2) + "\n")
    invocation.fields(
        {"schema_version": 1, "name": made["name"], "grant": str(out)},
        [("name", made["name"]), ("grant", str(out))],
    )
    invocation.hint(f"next, on {made['name']}, with this file:\n  cyoloctl node renew -d DIR --grant FILE")


DryRunOption = Annotated[
    bool,
    Option("--dry-run", help="Change nothing; print the failure tolerance before and after."),
]


def _tolerance(document: dict[str, Any]) -> str:
    before, after = document["failure_tolerance_before"], document["failure_tolerance_after"]
    return f"failure tolerance {before} -> {after}"


def _say_votes(invocation: Invocation, document: dict[str, Any]) -> None:
    """The voters before and after, and who of them is away, on standard error."""
    before, after = document["before"], document["after"]
    pairs = [("voters", "voters"), ("quorum", "quorum"), ("failure_tolerance", "failure tolerance")]
    if any(each.get("can_lead", each["voters"]) != each["voters"] for each in (before, after)):
        pairs.insert(1, ("can_lead", "able to lead"))
    if before == after:
        said = ", ".join(f"{text} {before[key]}" for key, text in pairs)
    else:
        said = ", ".join(f"{text} {before[key]} -> {after[key]}" for key, text in pairs)
    away = after["unreachable"]
    invocation.hint(said + (f"; not reachable: {', '.join(away)}" if away else ""))


def _change_role(
    invocation: Invocation, operation: str, name: str, *, dry_run: bool, request_id: str | None
) -> None:
    parse_name(name, "node")
    body = {"dry_run": dry_run, "request_id": request_id}
    done = invocation.client().call(operation, name, body)
    if invocation.mode != "table":
        output.structured(done, invocation.mode)
        return
    if not done["changed"]:
        output.write(f"{name} is a {done['role']}\n")
    else:
        output.write(f"{name} {'would be' if dry_run else 'is now'} a {done['role']}\n")
    _say_votes(invocation, done)
    if done["role"] == "learner" and done["ca_rotation_due"]:
        invocation.hint(
            f"{name} has had the CA's key: exchange the CA if it is not to be trusted with it "
            "(`cyoloctl pki rotate-ca --dry-run` first)"
        )


@command()
def promote(
    invocation: Invocation,
    name: NodeArgument,
    dry_run: DryRunOption = False,
    request_id: RequestIdOption = None,
) -> None:
    """Make a learner a voter, and return when it is one.

    Refused (exit 4) for a member that is away or has not caught up, since it
    would count as a voter that is missing. Safe to repeat: a voter stays one.
    """
    _change_role(invocation, "member_promote", name, dry_run=dry_run, request_id=request_id)


@command()
def demote(
    invocation: Invocation,
    name: NodeArgument,
    dry_run: DryRunOption = False,
    request_id: RequestIdOption = None,
) -> None:
    """Make a voter a learner: it goes on replicating, and votes no more.

    A leader hands leadership over first. Refused (exit 4) for the only voter,
    and where too few of the others are reachable to go on without this one.
    Safe to repeat: a learner stays one.
    """
    _change_role(invocation, "member_demote", name, dry_run=dry_run, request_id=request_id)


@command()
def set_address(
    invocation: Invocation,
    name: NodeArgument,
    address: Annotated[
        str, Argument(metavar="HOST:PORT", help="Where the others reach it, such as 10.0.0.4:7443.")
    ],
    dry_run: DryRunOption = False,
    request_id: RequestIdOption = None,
) -> None:
    """Tell every member where another one is.

    For a member that cannot tell them itself, or whose own settings say
    something else. Its links stay, and an address that does not lead to it
    does no harm: the others keep trying those that they know. It holds until
    the member is started with another address than today. Refused (exit 4)
    for the address of another member.
    """
    parse_name(name, "node")
    parse_dialable_address(address)
    body = {"address": address, "dry_run": dry_run, "request_id": request_id}
    done = invocation.client().call("member_set_address", name, body)
    if invocation.mode != "table":
        output.structured(done, invocation.mode)
        return
    output.write(f"{done['address']}\n")
    if done["changed"]:
        invocation.hint(f"{name} {'would be' if dry_run else 'was'} at {done['previous']}")
    _say_votes(invocation, done)


@command()
def remove(
    invocation: Invocation,
    name: NodeArgument,
    dry_run: DryRunOption = False,
    force: Annotated[
        bool, Option("--force", help="Remove it even if the cluster loses its quorum; needs --yes.")
    ] = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Remove a member permanently.

    A leader hands leadership over first. A removal that would cost the
    quorum is refused (exit 4) without --force. With it, the removal is done
    once a majority of those that are left is up, and says so until then
    (exit 80); nothing replaces a majority (exit 75).
    """
    parse_name(name, "node")
    client = invocation.client()
    if not dry_run:
        question = f"remove {name}{' whatever it costs' if force else ''}? its name cannot come back."
        confirm(yes, question)
    done = client.member_remove(name, force=force, dry_run=dry_run, request_id=request_id)
    if invocation.mode != "table":
        output.structured(done, invocation.mode)
        return
    head = f"{name} would be removed" if dry_run else f"{name} is removed"
    output.write(f"{head}; {_tolerance(done)}\n")
    if "before" in done:
        _say_votes(invocation, done)
    if done.get("ca_rotation_due"):
        invocation.hint(
            "a removed voter has had the CA's key: exchange the CA (`cyoloctl pki rotate-ca --dry-run` first)"
        )


@command()
def transfer_leadership(
    invocation: Invocation,
    to: Annotated[
        str | None,
        Option("--to", metavar="NAME", help="New leader. [default: the most advanced voter]"),
    ] = None,
    dry_run: DryRunOption = False,
    request_id: RequestIdOption = None,
) -> None:
    """Hand leadership to another voter and print its name.

    With --dry-run, print who would lead.
    """
    if to is not None:
        parse_name(to, "node")
    done = invocation.client().transfer_leadership(to, dry_run=dry_run, request_id=request_id)
    invocation.value(done, text_of(done["leader"]))
    if dry_run and invocation.mode == "table":
        _say_votes(invocation, done)


@command()
def set_host(
    invocation: Invocation,
    name: NodeArgument,
    host: Annotated[
        str | None, Argument(metavar="HOST", help="Host name, such as app-1.example.com.")
    ] = None,
    clear: Annotated[bool, Option("--clear", help="Remove the host name.")] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Give a member its host name: reverse proxies send requests for it to this member."""
    parse_name(name, "node")
    if (host is None) != clear:
        raise UsageError("give a host name, or --clear")
    if host is not None:
        parse_hostname(host)
    body = {"host": host, "request_id": request_id}
    done = invocation.client().call("member_set_host", name, body)
    invocation.value(done, text_of(done["host"]))


COMMANDS: dict[str, Leaf] = {
    "invite": invite,
    "invitations": invitations,
    "uninvite": uninvite,
    "list": list_,
    "show": show,
    "grant": grant,
    "promote": promote,
    "demote": demote,
    "set-address": set_address,
    "remove": remove,
    "set-host": set_host,
    "transfer-leadership": transfer_leadership,
}
