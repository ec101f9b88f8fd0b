"""``cyoloctl rendezvous``: transactions that begin at one actor and end at another."""

from __future__ import annotations

import os
import re
from typing import Annotated

from cyoloctl.cli import output
from cyoloctl.cli.claims import read_claims
from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    StaleOption,
    command,
    listed,
    parse_choice,
    parse_duration_s,
    read_secret,
)
from cyoloctl.cli.output import Column, rows_of, text_of
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.errors import (
    InvalidInput,
    UsageError,
)
from cyoloctl.text import Json

__all__ = ["COMMANDS"]


_PAGE = 1000
# A poll is short enough for the death of its node to be noticed, and long enough to cost little.
_POLL_S = 10.0

IdOrCode = Annotated[
    str,
    Argument(metavar="ID|USER_CODE", help="Id, or user code in any spelling; - reads it from stdin."),
]
IdArgument = Annotated[
    str,
    Argument(metavar="ID", help="Id that `rendezvous start` printed; - reads it from stdin."),
]
ByOption = Annotated[
    str | None,
    Option("--by", metavar="WHO", help="Name of whoever acts, for the record. [default: operator:LOGIN]"),
]
DataOption = Annotated[list[str] | None, Option("--data", metavar="K=V", help="Named text; repeat for more.")]


TokenFileOption = Annotated[
    str | None,
    Option(
        "--token-file",
        metavar="FILE|-",
        help="File with the session token of the person for whom you act; - is stdin.",
    ),
]
CookieNameOption = Annotated[
    str, Option("--cookie-name", metavar="NAME", help="Name of the cookie that carries the token.")
]
AudienceOption = Annotated[
    str, Option("--audience", metavar="HOST", help="Audience of the token. [default: anyone]")
]
_COOKIE = "cyolo-sid"


def _acting(which: str, by: str | None, token_file: str | None, cookie_name: str, audience: str) -> Json:
    """The body's fields that say who acts: for the person whose token is shown, otherwise for the caller."""
    if token_file is None:
        return {"by": _who(by)}
    if token_file == which == "-":
        raise UsageError("stdin cannot hold the token and the code: give one of them otherwise")
    token = read_secret(token_file, "session token")
    return {"by": by, "token": token, "cookie_name": cookie_name, "audience": audience}


def _data(given: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidInput(f"--data is {text[:80]!r}: use KEY=VALUE")
        if key in found:
            raise InvalidInput(f"--data {key[:80]} is given twice: give it once")
        found[key] = value
    return found


def _who(by: str | None) -> str:
    return (
        by
        if by is not None
        else f"operator:{os.environ.get('LOGNAME') or os.environ.get('USER') or os.geteuid()}"
    )


_ID = "[0-9a-f]{32}"


def _given(text: str, what: str = "id or user code") -> str:
    return read_secret(text, what) if text == "-" else text


def _id(text: str) -> str:
    id = _given(text, "id")
    if not re.fullmatch(_ID, id):
        raise InvalidInput("the id is not valid: use the 32 hex digits that `rendezvous start` printed")
    return id


def _which(text: str) -> Json:
    """The body's field for an id or a user code."""
    given = _given(text)
    return {"id": given} if re.fullmatch(_ID, given) else {"user_code": given}


def _show(invocation: Invocation, record: Json) -> None:
    names = ("id", "kind", "state", "node", "initiator", "origin", "claimed_by")
    rows = rows_of(record, *names, "created_at", "expires_at", "changed_at")
    rows += [(f"data {key}", value) for key, value in sorted(record["data"].items())]
    invocation.fields(record, rows)


@command()
def start(
    invocation: Invocation,
    kind: Annotated[str, Option("--kind", metavar="KIND", help="Purpose, a name such as mfa.")],
    ttl: Annotated[str, Option("--ttl", metavar="DURATION", help="Lifetime, 10s to 24h.")] = "5m",
    data: DataOption = None,
    by: ByOption = None,
    public_key: Annotated[
        str | None,
        Option("--public-key", metavar="BASE64", help="X25519 public key to which the answer is sealed."),
    ] = None,
    token_file: TokenFileOption = None,
    cookie_name: CookieNameOption = _COOKIE,
    audience: AudienceOption = "",
    request_id: RequestIdOption = None,
) -> None:
    """Begin a transaction: keep the id, give the user code or the link to whoever is to approve.

    The id redeems the answer: treat it as a password. The approver sees
    the name that you give with --by, and trusts it as far as operators are trusted.
    With --token-file the person of that session cannot approve it.
    """
    body: Json = {
        "kind": kind,
        "ttl_s": parse_duration_s(ttl, "--ttl", minimum_s=10, maximum_s=86_400),
        "data": _data(data),
        "public_key": public_key,
        "initiator": _who(by),
        "request_id": request_id,
    }
    if token_file is not None:
        token = read_secret(token_file, "session token")
        body |= {"token": token, "cookie_name": cookie_name, "audience": audience}
    made = invocation.client().call("rendezvous_start", body=body)
    invocation.fields(made, rows_of(made))


@command(timeout_s=60.0)
def wait(
    invocation: Invocation,
    id: IdArgument,
    request_id: Annotated[
        str | None,
        Option(
            "--request-id",
            metavar="ID",
            help="Id under which the answer is redeemed: with the same id it is given again for 5 minutes, "
            "so choose one that nobody guesses. [default: a random one, told before the wait]",
        ),
    ] = None,
) -> None:
    """Wait for the answer and redeem it, exactly once.

    0: approved and redeemed. 4: denied, expired, cancelled or redeemed by somebody else. 3: unknown.
    75: still pending at the timeout. If the node dies meanwhile, the next endpoint is asked.
    If the answer gets lost on its way to you, the same command with the same --request-id gives it again.
    """
    answer = invocation.client().rendezvous.wait(
        _id(id), wait_s=invocation.timeout_s, request_id=invocation.announced(request_id)
    )
    if invocation.mode == "table":
        data = answer["data"] or {}
        rows: list[tuple[str, object]] = [("state", "approved"), ("approved by", answer["approved_by"])]
        rows += [(f"data {key}", value) for key, value in sorted(data.items())]
        rows += [("sealed result", answer["sealed_result"])] if answer["sealed_result"] else []
        invocation.fields(answer, rows)
    else:
        output.structured(answer, invocation.mode)


@command()
def claim(
    invocation: Invocation,
    which: IdOrCode,
    by: ByOption = None,
    token_file: TokenFileOption = None,
    cookie_name: CookieNameOption = _COOKIE,
    audience: AudienceOption = "",
    request_id: RequestIdOption = None,
) -> None:
    """Claim a rendezvous: nobody else can approve it then."""
    acting = _acting(which, by, token_file, cookie_name, audience)
    body = {**_which(which), **acting, "request_id": request_id}
    _show(invocation, invocation.client().call("rendezvous_claim", body=body))


@command()
def approve(
    invocation: Invocation,
    which: IdOrCode,
    data: DataOption = None,
    by: ByOption = None,
    token_file: TokenFileOption = None,
    cookie_name: CookieNameOption = _COOKIE,
    audience: AudienceOption = "",
    request_id: RequestIdOption = None,
) -> None:
    """Approve a rendezvous; --data is the answer that its initiator gets.

    4: whoever began it may not approve it, or the kind demands a claim (`rendezvous policy`):
    show the session of a person who has it (--token-file).
    """
    acting = _acting(which, by, token_file, cookie_name, audience)
    body = {**_which(which), **acting, "data": _data(data), "request_id": request_id}
    _show(invocation, invocation.client().call("rendezvous_approve", body=body))


@command()
def deny(
    invocation: Invocation,
    which: IdOrCode,
    by: ByOption = None,
    token_file: TokenFileOption = None,
    cookie_name: CookieNameOption = _COOKIE,
    audience: AudienceOption = "",
    request_id: RequestIdOption = None,
) -> None:
    """Deny a rendezvous, permanently."""
    acting = _acting(which, by, token_file, cookie_name, audience)
    body = {**_which(which), **acting, "request_id": request_id}
    _show(invocation, invocation.client().call("rendezvous_deny", body=body))


@command()
def cancel(invocation: Invocation, id: IdArgument, request_id: RequestIdOption = None) -> None:
    """Cancel a rendezvous that has not ended."""
    body = {"id": _id(id), "request_id": request_id}
    _show(invocation, invocation.client().call("rendezvous_cancel", body=body))


@command()
def show(invocation: Invocation, which: IdOrCode, stale: StaleOption = False) -> None:
    """Show a rendezvous."""
    name = _given(which)
    if not re.fullmatch(_ID, name):
        from cyoloctl.rendezvous.user_codes import shown_user_code

        try:
            name = shown_user_code(name).lower()  # which a node of an earlier release takes too
        except InvalidInput as error:
            raise InvalidInput(f"this is no rendezvous id of 32 hex digits, and {error.message}") from None
    _show(invocation, invocation.read("rendezvous_show", name, stale=stale))


_COLUMNS = (
    Column("ID", identifier=True),
    Column("KIND"),
    Column("STATE"),
    Column("NODE", drop=1),
    Column("INITIATOR", drop=3),
    Column("EXPIRES", drop=2),
)


_STATES = ("pending", "claimed", "approved", "denied", "consumed", "expired", "cancelled")


@command()
def list_(
    invocation: Invocation,
    state: Annotated[
        str | None,
        Option(
            "--state",
            metavar="|".join(_STATES),
            help="Show only this state.",
        ),
    ] = None,
    stale: StaleOption = False,
) -> None:
    """List the rendezvous, including those that ended within a day, oldest first."""
    if state is not None:
        parse_choice(state, "--state", _STATES)
    found: list[Json] = []
    after: str | None = None
    while True:
        query = {"limit": _PAGE, "after": after, "state": state}
        page = invocation.read("rendezvous_list", query=query, stale=stale)
        found += page["rendezvous"]
        after = page["next"]
        if after is None:
            break
    if invocation.mode == "table":
        names = ("id", "kind", "state", "node", "initiator", "expires_at")
        output.table(_COLUMNS, [[text_of(record[name]) for name in names] for record in found])
    else:
        output.structured(listed("rendezvous", found, stale), invocation.mode)


def _rule(policy: Json) -> tuple[str, str, str]:
    required = [
        f"{name}={value if isinstance(value, str) else str(value).lower()}"
        for name, value in sorted(policy["require"].items())
    ]
    return policy["kind"], text_of(required), text_of(policy["allow_self"])


@command()
def policy(
    invocation: Invocation,
    kind: Annotated[
        str | None, Argument(metavar="[KIND]", help="Purpose of rendezvous, such as mfa.")
    ] = None,
    require: Annotated[
        list[str] | None,
        Option(
            "--require",
            metavar="CLAIM=VALUE",
            help="Claim that the session of an approver must have, such as mfa=true; repeat for more.",
        ),
    ] = None,
    require_string: Annotated[
        list[str] | None,
        Option(
            "--require-string",
            metavar="CLAIM=TEXT",
            help="The same for a claim that is text, whatever it looks like.",
        ),
    ] = None,
    allow_self: Annotated[bool, Option("--allow-self", help="Let whoever began it approve it.")] = False,
    reset: Annotated[
        bool,
        Option("--reset", help="Return to the default: no claim, and nobody approves what they began."),
    ] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Show who may approve what, or set it for a kind, as a whole and on every node.

    By default whoever began a rendezvous cannot approve it: the same browser, session, person or credentials.
    """
    claims = read_claims("--require", require, require_string, form="CLAIM=VALUE, such as mfa=true")
    wanted = {"require": claims, "allow_self": allow_self}
    changes = bool(claims) or allow_self or reset
    if reset and (claims or allow_self):
        raise UsageError("--reset takes no other option: leave the others out")
    if changes and kind is None:
        raise UsageError("for which kind? give its name")
    if kind is not None and changes:
        body = {"kind": kind, **wanted, "request_id": request_id}
        found = [invocation.client().call("rendezvous_policy", body=body)]
    else:
        found = invocation.client().call("rendezvous_policies")["policies"]
        if kind is not None:
            default = {"kind": kind, "require": {}, "allow_self": False}
            found = [policy for policy in found if policy["kind"] == kind] or [default]
    if invocation.mode == "table":
        columns = (Column("KIND", identifier=True), Column("REQUIRE"), Column("ALLOW SELF"))
        output.table(columns, [_rule(policy) for policy in found])
    elif kind is not None:
        output.structured({"schema_version": 1, **found[0]}, invocation.mode)
    else:
        output.structured({"schema_version": 1, "policies": found}, invocation.mode)


COMMANDS: dict[str, Leaf] = {
    "start": start,
    "claim": claim,
    "approve": approve,
    "deny": deny,
    "cancel": cancel,
    "wait": wait,
    "show": show,
    "list": list_,
    "policy": policy,
}
