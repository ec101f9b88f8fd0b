"""``cyoloctl token``: encrypted session tokens."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyoloctl.cli import output
from cyoloctl.cli.claims import decode_json, read_claims
from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    StaleOption,
    check_stdin,
    command,
    listed,
    parse_duration_s,
    read_input,
    read_secret,
)
from cyoloctl.cli.output import Column, rows_of
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.errors import (
    InvalidInput,
    OutcomeUnknown,
    TokenRejected,
    Unavailable,
    UsageError,
    error_from_code,
)
from cyoloctl.paths import file_error
from cyoloctl.text import Json

if TYPE_CHECKING:
    from cyoloctl.tokens.issuer import Issuer

__all__ = ["COMMANDS"]


_MAX_TOKEN_INPUT_BYTES = 64 * 1024
_MAX_LINE_BYTES = 64 * 1024
# What one request of a batch may hold: other callers get a turn in between, a character of a line may
# take three times its bytes in the request, whose limits are 1 MiB and 20,000 brackets.
_BATCH, _BATCH_BYTES, _BATCH_BRACKETS, _ITEM_BRACKETS = 500, 300 * 1024, 16_000, 256
_PAGE = 1000
_SHOWN_REASONS = 20
_REJECTED: Json = {"schema_version": 1, "valid": False, "code": TokenRejected.code}
_LIFE = {"minimum_s": 1, "maximum_s": 366 * 86_400}

TokenArgument = Annotated[
    str | None,
    Argument(
        metavar="[TOKEN|-]",
        help="Token; - or nothing reads it from stdin, where other processes cannot see it.",
    ),
]
CookieNameOption = Annotated[
    str, Option("--cookie-name", metavar="NAME", help="Name of the cookie that carries the token.")
]
AudienceOption = Annotated[
    str, Option("--audience", metavar="HOST", help="Audience of the token. [default: anyone]")
]
CookieOption = Annotated[
    bool,
    Option(
        "--cookie",
        help="Treat the input as a Cookie: header; of several cookies of the name the one that opens counts.",
    ),
]
TtlOption = Annotated[str, Option("--ttl", metavar="DURATION", help="Lifetime without a refresh.")]
ClaimOption = Annotated[
    list[str] | None,
    Option(
        "--claim",
        metavar="K=V",
        help="Claim; repeat for more. true, false, null, whole numbers and anything that begins with "
        '{, [ or " are JSON, the rest is text.',
    ),
]
ClaimStringOption = Annotated[
    list[str] | None,
    Option(
        "--claim-string", metavar="K=V", help="Claim that is text, whatever it looks like; repeat for more."
    ),
]
ClaimJsonOption = Annotated[
    list[str] | None,
    Option("--claim-json", metavar="K=JSON", help="Claim that is JSON; repeat for more."),
]
SetOption = Annotated[
    list[str] | None,
    Option("--set", metavar="K=V", help="Set a claim, typed as --claim of `token mint`; repeat for more."),
]
SetStringOption = Annotated[
    list[str] | None,
    Option(
        "--set-string", metavar="K=V", help="Set a claim to text, whatever it looks like; repeat for more."
    ),
]
SetJsonOption = Annotated[
    list[str] | None,
    Option("--set-json", metavar="K=JSON", help="Set a claim to JSON; repeat for more."),
]
UnsetOption = Annotated[
    list[str] | None, Option("--unset", metavar="K", help="Remove a claim; repeat for more.")
]
MaxAgeOption = Annotated[
    str,
    Option("--max-age", metavar="DURATION", help="Maximum lifetime, however often it is refreshed."),
]
SetCookieOption = Annotated[
    bool, Option("--set-cookie", help="Print the whole Set-Cookie: line instead of the token.")
]
BatchOption = Annotated[
    bool,
    Option("--batch", help="One item per line on stdin, one JSON result per line on stdout, in order."),
]
KeyringOption = Annotated[
    str | None,
    Option("--keyring", metavar="FILE", help="Work offline with an exported key ring; no node."),
]
PassphraseOption = Annotated[
    str | None,
    Option("--passphrase-file", metavar="FILE|-", help="Passphrase of --keyring."),
]
QuorumOption = Annotated[
    bool,
    Option("--require-quorum", help="Ask a majority first, so that no revocation is missed; 75 without one."),
]


def _claims_file(path: str) -> Json:
    data = read_input(path, "claims", _MAX_TOKEN_INPUT_BYTES)
    try:
        found = decode_json(data.decode()) if len(data) <= _MAX_TOKEN_INPUT_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        where = "on stdin" if path == "-" else f"in {path}"
        raise InvalidInput(f"the claims {where} are not a JSON object of at most 64 KiB: correct them")
    return found


def _read_token(token: str | None) -> str:
    """The token, or the text to look for one in.  Whatever is too long to be one is rejected as one."""
    if token is not None and token != "-":
        return token
    if token is None and sys.stdin is not None and sys.stdin.isatty():
        raise UsageError("no token: give it on stdin")
    data = read_input("-", "token", _MAX_TOKEN_INPUT_BYTES)
    if len(data) > _MAX_TOKEN_INPUT_BYTES:
        raise TokenRejected("token rejected")
    # Not a token whatever it was: the opener refuses the replacement characters.
    return data.decode("ascii", "replace").removesuffix("\n").removesuffix("\r")


def _token_body(token: str | None, cookie: bool) -> Json:
    text = _read_token(token)
    if not cookie:
        return {"token": text}
    return {"cookie": text[len("cookie:") :].strip() if text[:7].lower() == "cookie:" else text}


def _context(cookie_name: str, audience: str) -> Json:
    return {"cookie_name": cookie_name, "audience": audience}


def _show(invocation: Invocation, document: Json, set_cookie: bool) -> None:
    invocation.value(document, document["set_cookie"] if set_cookie else document["token"])


# --- offline --------------------------------------------------------------------------------------


def _issuer(keyring: str, passphrase_file: str | None) -> Issuer:
    from cyoloctl.keys.keyring import Keyring
    from cyoloctl.keys.ring_file import import_ring
    from cyoloctl.tokens.issuer import Issuer

    assert passphrase_file is not None  # _check_options saw to it
    try:
        with open(keyring, "rb") as file:
            data = file.read()
    except OSError as error:
        raise file_error(keyring, error, "read the key ring from") from None
    ring = import_ring(data, passphrase=read_secret(passphrase_file, "passphrase"))
    opened = Keyring(ring.keys)
    return Issuer(ring=lambda: opened, keep_s=lambda: ring.keep_s)


def _offline(issuer: Issuer, operation: str, item: Any, context: Json, **making: Any) -> Json:
    """One operation without a node: what the API does, but nothing is replicated."""
    from cyoloctl.tokens.issuer import Context, read_item

    given: Json = {
        **read_item(operation, item),
        "context": Context(**context),
        "now_unix_s": int(time.time()),
    }
    if operation == "mint":
        return issuer.mint(**given, **making)
    if operation == "refresh":
        return issuer.refresh(**given, **making)
    if operation == "inspect":
        return issuer.inspect(**given)
    changes, removed = given.pop("set"), given.pop("unset")
    session = issuer.open(**given)
    del given["token"]
    return issuer.seal_updated(session, changes, removed, **given, **making)


def _run(
    invocation: Invocation, operation: str, body: Json, keyring: str | None, passphrase_file: str | None
) -> Json:
    if keyring is None:
        return invocation.client().call(f"token_{operation}", body=body)
    issuer = _issuer(keyring, passphrase_file)
    context = {name: body.pop(name) for name in ("cookie_name", "audience")}
    making = {"set_cookie": body.pop("set_cookie")} if "set_cookie" in body else {}
    if "cookie" in body:
        from cyoloctl.tokens.issuer import Context

        body["token"] = issuer.token_of(
            body.pop("cookie"), context=Context(**context), now_unix_s=int(time.time())
        )
    return _offline(issuer, operation, body, context, **making)


def _refuse(why: str, given: Mapping[str, object]) -> None:
    """Raise UsageError for options that would be ignored."""
    for option, value in given.items():
        if value:
            raise UsageError(f"{option} has no meaning {why}: leave it out")


def _check_options(
    *,
    batch: bool,
    keyring: str | None,
    passphrase_file: str | None,
    reads_stdin: bool,
    not_in_batch: Mapping[str, object],
    not_offline: Mapping[str, object] = {},
) -> None:
    """Raise UsageError for a combination of options of which one would be ignored."""
    if keyring is None:
        _refuse("without --keyring", {"--passphrase-file": passphrase_file})
    else:
        _refuse("with --keyring", not_offline)
        if passphrase_file is None:
            raise UsageError("--keyring needs --passphrase-file FILE (or - for stdin)")
        if passphrase_file == "-" and (batch or reads_stdin):
            raise UsageError("stdin is read for something else already: give the passphrase in a file")
    if batch:
        _refuse("with --batch", not_in_batch)


# --- batches --------------------------------------------------------------------------------------


def _items(operation: str) -> Iterator[list[Any]]:
    """The lines of stdin as items, by the request.  None is what is no item; it keeps its place."""
    check_stdin("batch")
    items: list[Any] = []
    size = brackets = 0
    while line := sys.stdin.buffer.readline(_MAX_LINE_BYTES + 1):
        too_long = len(line) > _MAX_LINE_BYTES
        while too_long and line and not line.endswith(b"\n"):
            line = sys.stdin.buffer.readline(_MAX_LINE_BYTES)
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        opened = line.count(b"[") + line.count(b"{")
        if too_long or opened > _ITEM_BRACKETS:
            line, opened = b"", 0
        size, brackets = size + len(line), brackets + opened
        if len(items) == _BATCH or size > _BATCH_BYTES or brackets > _BATCH_BRACKETS:
            yield items
            items, size, brackets = [], len(line), opened
        items.append(_item(operation, line))
    if items:
        yield items


def _item(operation: str, line: bytes) -> Any:
    if operation in ("inspect", "refresh") and not line.startswith(b"{"):
        return {"token": line.decode() if line.isascii() else ""}
    try:
        return decode_json(line.decode())
    except (ValueError, RecursionError):
        return None


def _batch(
    invocation: Invocation,
    operation: str,
    context: Json,
    options: Json,
    item_defaults: Json,
    keyring: str | None,
    passphrase_file: str | None,
) -> None:
    """Answer every line of stdin in order; afterwards raise what the worst of the refusals was."""
    issuer = None if keyring is None else _issuer(keyring, passphrase_file)
    ask = None if issuer is not None else _asking(invocation, operation, {**context, **options})
    encode = json.JSONEncoder(separators=(",", ":")).encode
    refused: dict[str, int] = {}
    number = 0
    for items in _items(operation):
        given = [{**item_defaults, **item} if type(item) is dict else item for item in items]
        if issuer is not None:
            results = [_offline_item(issuer, operation, item, context) for item in given]
        else:
            assert ask is not None
            results = ask(given, number)
        for place, result in enumerate(results):
            number += 1
            if result.get("valid"):
                continue
            if result["code"] == InvalidInput.code:
                # A refused line looks the same whatever the reason, which goes to stderr.
                if refused.get(TokenRejected.code, 0) < _SHOWN_REASONS:
                    output.note(f"item {number}: {result['message']}")
                results[place] = result = _REJECTED
            refused[result["code"]] = refused.get(result["code"], 0) + 1
        output.write("".join([encode(result) + "\n" for result in results]))
        output.flush()
    if refused:
        # A refused line first, then what may have happened, then faults of the cluster.
        first = {TokenRejected.code: -2, OutcomeUnknown.code: -1}
        worst = min(refused, key=lambda code: (first.get(code, 0), code))
        raise error_from_code(
            worst, f"{sum(refused.values())} of the lines were refused: each says so in its place"
        )


def _asking(invocation: Invocation, operation: str, fixed: Json) -> Callable[[list[Any], int], list[Json]]:
    """A function that has a node answer items; it is also told how many came before them.

    fixed: the other fields of the body.  Updates are under one request id for all of
    stdin, from which that of each request follows, so the same lines get the same results.
    """
    import hashlib  # here: it loads OpenSSL's libcrypto

    client = invocation.client()
    changes = operation == "update" and not fixed["keep_previous"]
    whole = invocation.announced(fixed.get("request_id")) if changes else None

    def ask(items: list[Any], before: int) -> list[Json]:
        part = None if whole is None else hashlib.sha256(f"{whole}\0{before}".encode()).hexdigest()
        body = {**fixed, "operation": operation, "items": items, "request_id": part}
        try:
            found: list[Json] = client.call("token_batch", body=body, repeatable=True)["results"]
        except OutcomeUnknown as error:
            if whole is None or part is None:
                raise Unavailable(f"no answer, and nothing was changed: {error.message}") from None
            raise OutcomeUnknown(error.message.replace(part, whole)) from None
        finally:
            invocation.sent[:] = [] if whole is None else [whole]
        return found

    return ask


def _offline_item(issuer: Issuer, operation: str, item: Any, context: Json) -> Json:
    from cyoloctl.tokens.issuer import refusal

    try:
        return _offline(issuer, operation, item, context)
    except (TokenRejected, InvalidInput) as error:
        return refusal(error)


# --- commands -------------------------------------------------------------------------------------


@command()
def mint(
    invocation: Invocation,
    sub: Annotated[str | None, Option("--sub", metavar="SUBJECT", help="Subject of the session.")] = None,
    claim: ClaimOption = None,
    claim_string: ClaimStringOption = None,
    claim_json: ClaimJsonOption = None,
    claims_file: Annotated[
        str | None, Option("--claims-file", metavar="FILE|-", help="Claims as a JSON object.")
    ] = None,
    ttl: TtlOption = "15m",
    max_age: MaxAgeOption = "8h",
    cookie_name: CookieNameOption = "cyolo-sid",
    audience: AudienceOption = "",
    set_cookie: SetCookieOption = False,
    batch: BatchOption = False,
    keyring: KeyringOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make a session token and print it.

    With --batch each line is {"sub","claims","ttl_s","max_age_s"}.
    """
    ttl_s = parse_duration_s(ttl, "--ttl", **_LIFE)
    max_age_s = parse_duration_s(max_age, "--max-age", **_LIFE)
    context = _context(cookie_name, audience)
    _check_options(
        batch=batch,
        keyring=keyring,
        passphrase_file=passphrase_file,
        reads_stdin=claims_file == "-",
        not_in_batch={
            "--sub": sub,
            "--claim": claim,
            "--claim-string": claim_string,
            "--claim-json": claim_json,
            "--claims-file": claims_file,
            "--set-cookie": set_cookie,
        },
    )
    if batch:
        defaults = {"ttl_s": ttl_s, "max_age_s": max_age_s}
        _batch(invocation, "mint", context, {}, defaults, keyring, passphrase_file)
        return
    if sub is None:
        raise UsageError("missing option --sub")
    claims = _claims_file(claims_file) if claims_file is not None else {}
    body = {
        "sub": sub,
        "claims": {**claims, **read_claims("--claim", claim, claim_string, claim_json)},
        "ttl_s": ttl_s,
        "max_age_s": max_age_s,
        "set_cookie": set_cookie,
        **context,
    }
    _show(invocation, _run(invocation, "mint", body, keyring, passphrase_file), set_cookie)


def _show_unverified(invocation: Invocation, token: str) -> NoReturn:
    from cyoloctl.tokens.format import describe_unverified

    try:
        seen = describe_unverified(token)
    except InvalidInput:
        raise TokenRejected("token rejected") from None
    document = {"schema_version": 1, "valid": False, "verified": False, **seen}
    invocation.fields(document, rows_of(document))
    output.flush()
    raise TokenRejected("nothing was verified: anybody can make such a token")


@command()
def inspect(
    invocation: Invocation,
    token: TokenArgument = None,
    cookie: CookieOption = False,
    cookie_name: CookieNameOption = "cyolo-sid",
    audience: AudienceOption = "",
    require_quorum: QuorumOption = False,
    explain: Annotated[bool, Option("--explain", help="Say why a token is rejected; for operators.")] = False,
    no_key: Annotated[
        bool,
        Option("--no-key", help="Open nothing: show version, key id and sizes, unverified; exits 77."),
    ] = False,
    batch: BatchOption = False,
    keyring: KeyringOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Open a token and print what it says; 77 when it is rejected."""
    context = _context(cookie_name, audience)
    given = token not in (None, "-")
    _check_options(
        batch=batch,
        keyring=keyring,
        passphrase_file=passphrase_file,
        reads_stdin=not given,
        not_in_batch={"TOKEN": given, "--cookie": cookie, "--explain": explain, "--no-key": no_key},
        not_offline={"--require-quorum": require_quorum},
    )
    quorum = {} if keyring is not None else {"require_quorum": require_quorum}
    if batch:
        _batch(invocation, "inspect", context, quorum, {}, keyring, passphrase_file)
        return
    if no_key:
        _refuse(
            "with --no-key",
            {
                "--cookie": cookie,
                "--explain": explain,
                "--require-quorum": require_quorum,
                "--keyring": keyring,
            },
        )
        _show_unverified(invocation, _read_token(token))
    body = {**_token_body(token, cookie), **context, **quorum}
    if keyring is None:
        body["explain"] = explain
    try:
        document = _run(invocation, "inspect", body, keyring, passphrase_file)
    except TokenRejected as error:
        if explain and error.reason:  # offline: a node's answer has it in its message
            raise TokenRejected(f"{error.message}: {error.reason}") from None
        raise
    names = ("sub", "sid", "gen", "issued_at", "expires_at", "max_expires_at", "key_id")
    rows = rows_of(document, *names)
    claims = [(f"claim {key}", json.dumps(value)) for key, value in sorted(document["claims"].items())]
    invocation.fields(document, [*rows, *claims])


@command()
def update(
    invocation: Invocation,
    token: TokenArgument = None,
    set_: SetOption = None,
    set_string: SetStringOption = None,
    set_json: SetJsonOption = None,
    unset: UnsetOption = None,
    keep_previous: Annotated[
        bool, Option("--keep-previous", help="Keep the older copies of the session valid.")
    ] = False,
    cookie: CookieOption = False,
    cookie_name: CookieNameOption = "cyolo-sid",
    audience: AudienceOption = "",
    set_cookie: SetCookieOption = False,
    request_id: RequestIdOption = None,
    batch: BatchOption = False,
    keyring: KeyringOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Change the claims of a session and print its new token.

    The older copies are refused on every node from then on, unless --keep-previous is given. With
    --keyring nothing can be replicated, so --keep-previous is needed. With --batch each line is
    {"token","set","unset"}, and one --request-id is that of all lines together.
    """
    if keyring is not None and not keep_previous:
        raise UsageError("without a node the older copies stay good: add --keep-previous to accept that")
    context = _context(cookie_name, audience)
    given = token not in (None, "-")
    _check_options(
        batch=batch,
        keyring=keyring,
        passphrase_file=passphrase_file,
        reads_stdin=not given,
        not_in_batch={
            "TOKEN": given,
            "--set": set_,
            "--set-string": set_string,
            "--set-json": set_json,
            "--unset": unset,
            "--cookie": cookie,
            "--set-cookie": set_cookie,
        },
        not_offline={"--request-id": request_id},
    )
    once = {"keep_previous": keep_previous, "request_id": request_id}
    if batch:
        _batch(invocation, "update", context, once, {}, keyring, passphrase_file)
        return
    body = {
        **_token_body(token, cookie),
        "set": read_claims("--set", set_, set_string, set_json),
        **{"unset": unset or [], "set_cookie": set_cookie},
        **context,
    }
    if keyring is None:
        body |= once
        if not keep_previous:
            body["request_id"] = invocation.announced(request_id)
    _show(invocation, _run(invocation, "update", body, keyring, passphrase_file), set_cookie)


@command()
def refresh(
    invocation: Invocation,
    token: TokenArgument = None,
    ttl: TtlOption = "15m",
    cookie: CookieOption = False,
    cookie_name: CookieNameOption = "cyolo-sid",
    audience: AudienceOption = "",
    require_quorum: QuorumOption = False,
    set_cookie: SetCookieOption = False,
    batch: BatchOption = False,
    keyring: KeyringOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Move the expiry of a session forward and print its new token, under the primary key."""
    context = _context(cookie_name, audience)
    ttl_s = parse_duration_s(ttl, "--ttl", **_LIFE)
    given = token not in (None, "-")
    _check_options(
        batch=batch,
        keyring=keyring,
        passphrase_file=passphrase_file,
        reads_stdin=not given,
        not_in_batch={"TOKEN": given, "--cookie": cookie, "--set-cookie": set_cookie},
        not_offline={"--require-quorum": require_quorum},
    )
    quorum = {} if keyring is not None else {"require_quorum": require_quorum}
    if batch:
        _batch(invocation, "refresh", context, quorum, {"ttl_s": ttl_s}, keyring, passphrase_file)
        return
    body = {**_token_body(token, cookie), "ttl_s": ttl_s, "set_cookie": set_cookie, **context, **quorum}
    _show(invocation, _run(invocation, "refresh", body, keyring, passphrase_file), set_cookie)


@command()
def revoke(
    invocation: Invocation,
    token: TokenArgument = None,
    sid: Annotated[str | None, Option("--sid", metavar="SID", help="Revoke this session.")] = None,
    sub: Annotated[
        str | None,
        Option("--sub", metavar="SUBJECT", help="Revoke every session of a subject issued before now."),
    ] = None,
    cookie: CookieOption = False,
    cookie_name: CookieNameOption = "cyolo-sid",
    audience: AudienceOption = "",
    request_id: RequestIdOption = None,
) -> None:
    """End sessions on every node before they expire: by token, by --sid or by --sub."""
    if (sid is not None) + (sub is not None) + (token is not None or cookie) > 1:
        raise UsageError("give one of a token, a cookie, --sid and --sub")
    body: Json = {"sid": sid, "sub": sub, "request_id": request_id, **_context(cookie_name, audience)}
    if sid is None and sub is None:
        body |= _token_body(token, cookie)
    document = invocation.client().call("token_revoke", body=body)
    invocation.value(document, document["value"])


@command()
def revocations(invocation: Invocation, stale: StaleOption = False) -> None:
    """List what is revoked, until when."""
    found: list[Json] = []
    after: str | None = None
    while True:
        page = invocation.read("token_revocations", query={"limit": _PAGE, "after": after}, stale=stale)
        found += page["revocations"]
        after = page["next"]
        if after is None:
            break
    if invocation.mode == "table":
        rows = [(row["kind"], str(row["value"]), _what(row), str(row["expires_at"])) for row in found]
        columns = (Column("KIND"), Column("VALUE", identifier=True), Column("REFUSED"), Column("UNTIL"))
        output.table(columns, rows)
    else:
        output.structured(listed("revocations", found, stale), invocation.mode)


def _what(row: Mapping[str, Any]) -> str:
    if row["minimum_gen"] is not None:
        return f"generations before {row['minimum_gen']}"
    return "all" if row["issued_before"] is None else f"issued until {row['issued_before']}"


COMMANDS: dict[str, Leaf] = {
    "mint": mint,
    "inspect": inspect,
    "update": update,
    "refresh": refresh,
    "revoke": revoke,
    "revocations": revocations,
}
