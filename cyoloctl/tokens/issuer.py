"""Session tokens in use: one mint, inspect, update and refresh for nodes and for offline commands.

Sans-io: the time is an argument.  What goes through Raft (an update that
takes the older copies out of use, revocations) is the caller's; here is what
a key ring and a copy of the revocations decide.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cyoloctl.errors import CyoloctlError, InvalidInput, TokenRejected, Unavailable
from cyoloctl.keys.keyring import Keyring
from cyoloctl.text import Json, rfc3339
from cyoloctl.tokens import format as token_format
from cyoloctl.tokens.api import ITEMS
from cyoloctl.tokens.format import ClockGuard, Session
from cyoloctl.web.schema import REQUIRED

__all__ = ["Context", "Issuer", "read_item", "refusal", "to_json"]


_ITEMS = {operation: {field.name: field for field in fields} for operation, fields in ITEMS.items()}
_controls = re.compile(r"[\x00-\x1f\x7f]").search


@lru_cache(maxsize=1024)  # the items of a batch share their times
def _date(unix_s: int) -> str:
    return rfc3339(unix_s)


def read_item(operation: str, item: Any) -> Json:
    """The arguments of mint, inspect, update or refresh in an item of a batch, of the right types.

    item: any JSON value.  Raises TokenRejected where a token belongs and is
    none, InvalidInput that names the field for anything else.
    """
    fields = _ITEMS[operation]
    if "token" in fields and (type(item) is not dict or type(item.get("token")) is not str):
        raise TokenRejected(reason="no token")
    if type(item) is not dict or not item.keys() <= fields.keys():
        raise InvalidInput(f"an item to {operation} is a JSON object of {', '.join(fields)}")
    given = {}
    for name, field in fields.items():
        if name not in item and field.default is REQUIRED:
            raise InvalidInput(f"field {name!r}: is required")
        given[name] = field.check(item.get(name, field.default))
    if not all(type(name) is str for name in given.get("unset", ())):
        raise InvalidInput("field 'unset': must be a list of names")
    return given


def refusal(error: CyoloctlError) -> Json:
    """The result of an item that was refused: of a rejected token nothing but that it is."""
    refused: Json = {"schema_version": 1, "valid": False, "code": error.code}
    return refused if isinstance(error, TokenRejected) else {**refused, "message": error.message}


@dataclass(frozen=True, slots=True)
class Context:
    """Binding of a token besides the cluster: the cookie that carries it, and its audience."""

    cookie_name: str = "cyolo-sid"
    audience: str = ""


def to_json(session: Session, token: str) -> Json:
    """The contract's JSON of a session that was opened or made."""
    return {
        "schema_version": 1,
        "valid": True,
        "sub": session.sub,
        "sid": session.sid,
        "gen": session.gen,
        "issued_at": _date(session.iat),
        "expires_at": _date(session.exp),
        "max_expires_at": _date(session.abs),
        # Bytes 2 to 6 of a token that was just made or opened: there is nothing left to check.
        "key_id": urlsafe_b64decode(token[:8])[2:6].hex(),
        "claims": session.claims,
    }


class Issuer:
    """Makes, opens and changes tokens with the present key ring.

    ring: the present ring.  keep_s: how long a token may live at most, in
    seconds (a replaced key is kept that long).  refuses: why the replicated
    state refuses a session, None when it does not.  earliest_iat: the first
    issue time in Unix seconds that is not revoked for a subject.  check_clock:
    raises ClockSetBack for a time in Unix seconds that cannot be; by default
    one that is behind what this process has seen.

    counts: how many tokens were minted, opened and rejected so far.
    """

    def __init__(
        self,
        *,
        ring: Callable[[], Keyring],
        keep_s: Callable[[], int],
        refuses: Callable[[Session], str | None] = lambda session: None,
        earliest_iat: Callable[[str], int] = lambda sub: 0,
        lacks: Callable[[bytes], bool] = lambda key_id: False,
        check_clock: Callable[[int], None] | None = None,
    ) -> None:
        self._ring = ring
        self._keep_s = keep_s
        self._refuses = refuses
        self._earliest_iat = earliest_iat
        self._lacks = lacks
        self._check_clock = check_clock or ClockGuard().check
        self.counts = {"minted": 0, "opened": 0, "rejected": 0}

    def _made(self, session: Session, context: Context, now_unix_s: int, set_cookie: bool) -> Json:
        token = token_format.seal(
            self._ring(), session, cookie_name=context.cookie_name, audience=context.audience
        )
        answer = {**to_json(session, token), "token": token}
        if set_cookie:
            line = token_format.set_cookie(
                token, session, cookie_name=context.cookie_name, now_unix_s=now_unix_s
            )
            # For a shell, the line; for a library that sets headers, the value.
            answer |= {"set_cookie": line, "set_cookie_value": line.removeprefix("Set-Cookie: ")}
        return answer

    def mint(
        self,
        *,
        sub: str,
        claims: Mapping[str, Any],
        ttl_s: int,
        max_age_s: int,
        context: Context,
        now_unix_s: int,
        set_cookie: bool = False,
    ) -> Json:
        """A new session and its token.

        Raises InvalidInput for what a session cannot hold, NotFound or
        Unavailable without a primary key, ClockSetBack.
        """
        self._check_clock(now_unix_s)
        if max_age_s > self._keep_s():
            raise InvalidInput(
                f"max_age_s is {max_age_s}: keys are kept {self._keep_s()} s, so that is the most; "
                "ask for less, or raise --keep (key policy)"
            )
        if _controls(sub):
            # The replicated machine takes no such subject: its sessions could not be revoked.
            raise InvalidInput("the subject must have no control characters")
        # A login in the very second of a revocation of the subject is a new session, not a revoked one.
        issued = max(now_unix_s, min(self._earliest_iat(sub), now_unix_s + 60))
        session = token_format.new_session(sub, claims, now_unix_s=issued, ttl_s=ttl_s, max_age_s=max_age_s)
        if self._refuses(session) is not None:
            raise Unavailable(
                "the subject was revoked by a clock that is ahead of this one: correct the clocks, or try "
                "again in a minute"
            )
        self.counts["minted"] += 1
        return self._made(session, context, now_unix_s, set_cookie)

    def open(self, token: str, *, context: Context, now_unix_s: int, revoked_too: bool = False) -> Session:
        """The session in a token, with revoked_too even one that the replicated state refuses.

        Raises TokenRejected, ClockSetBack, Unavailable (the key is on its way).
        """
        self._check_clock(now_unix_s)
        self.counts["rejected"] += 1  # until it is not
        try:
            session = token_format.open_token(
                self._ring(),
                token,
                now_unix_s=now_unix_s,
                cookie_name=context.cookie_name,
                audience=context.audience,
            )
        except TokenRejected:
            self._refuse_lacking(token)
            raise
        reason = None if revoked_too else self._refuses(session)
        if reason is not None:
            raise TokenRejected(reason=reason)
        self.counts["rejected"] -= 1
        self.counts["opened"] += 1
        return session

    def token_of(self, cookie: str, *, context: Context, now_unix_s: int) -> str:
        """The token in a Cookie header.

        Among several cookies of the name the newest one that opens, since a neighbouring host or an older
        path may have left the others.  Raises TokenRejected when there is none, or when they are of two
        sessions, and as `open` does.
        """
        header = cookie[7:] if cookie[:7].lower() == "cookie:" else cookie
        values = token_format.token_cookies(header, cookie_name=context.cookie_name)
        if not values:
            return token_format.cookie_value(cookie, cookie_name=context.cookie_name)  # or rather the reason
        if len(values) == 1:
            return values[0]
        opened: list[tuple[Session, str]] = []
        for value in values:
            with suppress(TokenRejected):
                opened.append(
                    (self.open(value, context=context, now_unix_s=now_unix_s, revoked_too=True), value)
                )
        found = [one for one in opened if self._refuses(one[0]) is None] or opened
        if len({session.sid for session, _ in found}) != 1:
            raise TokenRejected(reason="cookies of two sessions" if found else "no cookie that opens")
        return max(found, key=lambda one: (one[0].gen, one[0].exp))[1]

    def _refuse_lacking(self, token: str) -> None:
        """Unknown is not refused: a member that just joined must not end sessions that are good elsewhere."""
        try:
            key_id = token_format.key_id_of(token)
        except InvalidInput:
            return
        if self._lacks(key_id):
            raise Unavailable(
                f"this node does not hold the key {key_id.hex()} yet: try again, or ask another node"
            )

    def inspect(self, token: str, *, context: Context, now_unix_s: int) -> Json:
        """Open a token: its session.  Raises TokenRejected, ClockSetBack."""
        return to_json(self.open(token, context=context, now_unix_s=now_unix_s), token)

    def seal_updated(
        self,
        session: Session,
        changes: Mapping[str, Any],
        removed: list[str],
        *,
        context: Context,
        now_unix_s: int,
        set_cookie: bool = False,
    ) -> Json:
        """The next generation of a session that was opened, with other claims.  Raises InvalidInput."""
        after = token_format.update(session, set=changes, unset=removed)
        return self._made(after, context, now_unix_s, set_cookie)

    def refresh(
        self, token: str, *, ttl_s: int, context: Context, now_unix_s: int, set_cookie: bool = False
    ) -> Json:
        """The same session under the primary key, for ttl_s from now.  Raises TokenRejected, InvalidInput."""
        session = self.open(token, context=context, now_unix_s=now_unix_s)
        after = token_format.refresh(session, now_unix_s=now_unix_s, ttl_s=ttl_s)
        return self._made(after, context, now_unix_s, set_cookie)
