"""``cyoloctl pki``: the certificate authority, and how another one takes its place."""

from __future__ import annotations

from typing import Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, RequestIdOption, command, confirm, parse_duration_s
from cyoloctl.cli.output import Cell, Column, text_of
from cyoloctl.cli.parameters import Option
from cyoloctl.errors import UsageError

__all__ = ["COMMANDS"]


_MEMBER_COLUMNS = (
    Column("MEMBER", identifier=True),
    Column("ROLE", drop=1),
    Column("UP"),
    Column("CA"),
    Column("EXPIRES"),
    Column("EXCHANGE"),
)


def _exchange(member: dict[str, Any]) -> Cell:
    if member["confirmed"] is None:
        return Cell("-", "dim")
    if member["reissued"]:
        return Cell("has its new certificate", "good")
    return Cell("trusts the new CA") if member["confirmed"] else Cell("waited for", "warn")


@command()
def status(invocation: Invocation) -> None:
    """Show the CAs, who holds their keys, and whose certificates are under which."""
    document = invocation.client().call("pki_status")
    if invocation.mode != "table":
        output.structured(document, invocation.mode)
        return
    output.table(
        (Column("CA", identifier=True), Column("STATE"), Column("UNTIL"), Column("KEY HELD BY")),
        [
            [ca["sha256"], ca["state"], ca["not_after"], text_of(ca["key_holders"])]
            for ca in document["authorities"]
        ],
    )
    output.write("\n")
    # Which of the CAs above a member is under; one that is not among them by its fingerprint.
    states = {ca["sha256"]: ca["state"] for ca in document["authorities"]}
    output.table(
        _MEMBER_COLUMNS,
        [
            [
                Cell(member["name"], "bold"),
                member["role"],
                Cell("yes", "good") if member["connected"] else Cell("no", "bad"),
                states.get(member["ca_sha256"], member["ca_sha256"] or "?"),
                member["certificate_expires_at"] or "?",
                _exchange(member),
            ]
            for member in document["members"]
        ],
    )
    rotation = document["rotation"]
    if rotation is not None:
        output.write(
            f"\na rotation is under way: {rotation['step']}, overlap until {rotation['overlap_until']}, "
            f"waiting for {text_of(rotation['waiting_for'])}\n"
            f"credentials to renew: {text_of(document['credentials_to_renew'])}\n"
        )
    for reason in document["reasons"]:
        output.write(f"! a rotation is due: {reason}\n")


@command()
def rotate_ca(
    invocation: Invocation,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Change nothing; print who takes part and what to renew.")
    ] = False,
    overlap: Annotated[
        str,
        Option(
            "--overlap",
            metavar="DURATION",
            help="Minimum time for which both CAs are trusted, 0s to 366d; renew credentials meanwhile.",
        ),
    ] = "7d",
    abandon: Annotated[
        bool, Option("--abandon", help="Take back a rotation that not all members trust yet.")
    ] = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Give the cluster a new CA; the nodes exchange it by themselves.

    All members trust both CAs for the overlap. Then every node gets itself a
    certificate of the new CA, and the old one no longer counts. A member that
    is away holds this up until it is back or removed. Credentials that were
    made before all members trusted the new CA end with the old one: renew
    them during the overlap (`credentials renew`).
    """
    if abandon and dry_run:
        raise UsageError("use --abandon or --dry-run, not both")
    overlap_s = parse_duration_s(overlap, "--overlap", minimum_s=0, maximum_s=366 * 86_400)
    client = invocation.client()
    if abandon:
        confirm(yes, "abandon the rotation of the CA?")
    elif not dry_run:
        confirm(yes, "give the cluster a new CA? credentials that are not renewed meanwhile stop counting.")
    body = {"overlap_s": overlap_s, "dry_run": dry_run, "abandon": abandon, "request_id": request_id}
    done = client.call("pki_rotate", body=body)
    invocation.fields(
        done,
        [
            ("new CA", done["sha256"]),
            ("members", done["members"]),
            ("away", done["away"]),
            ("credentials to renew", done["credentials_to_renew"]),
        ],
    )
    if done["sha256"] is not None:
        invocation.hint("it goes on by itself; see how far it is: cyoloctl pki status")


COMMANDS: dict[str, Leaf] = {"status": status, "rotate-ca": rotate_ca}
