"""Session tokens: mint, open, change.  Sans-io: the time is an argument, and so is randomness.

Token, version 1, 78 bytes longer than its payload::

    0x54  0x01  key id 4  salt 24  commitment 32  ciphertext n  tag 16

    key 32 | nonce 12 | commitment 32 = HKDF-SHA256(secret of the key id, salt,
        info = PAE("cyoloctl token v1", bytes 0..6, PAE(cluster id, cookie name, audience)))
    ciphertext and tag = AES-256-GCM(key, nonce, payload, associated data = bytes 0..62)

Text form: unpadded base64url.  Payload: the canonical JSON of the seven fields of Session.  The context is in
the derivation, so a token for another cluster, cookie or audience has another key and fails at the
commitment; the commitment pins one key, which a GCM tag alone does not.  docs/tokens.md is the whole format,
``tests/vectors/token`` pins it.

There is exactly one spelling of every token and of every payload.  The payload is compared with the encoding
of what was read from it, which refuses duplicate and unsorted keys, white space, ``-0`` and needless escapes
without a rule for each.  That is stricter than its authentication demands: it holds implementations in other
languages to one format, and no two of them can read one payload differently.

Nothing here logs.  No message holds a token, a key or a claim's value, and no exception is chained to one
that does.
"""

from __future__ import annotations

import binascii
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hmac import compare_digest
from typing import Any, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cyoloctl.errors import ClockSetBack, InternalError, InvalidInput, TokenRejected, Unavailable
from cyoloctl.keys.keyring import Key, Keyring, KeyState, context_bytes
from cyoloctl.text import pre_auth_encoding, utf8_or_none

__all__ = [
    "DEFAULT_MAX_AGE_S",
    "DEFAULT_TTL_S",
    "LEEWAY_S",
    "MAX_AGE_S",
    "MAX_COOKIES",
    "MAX_TOKEN_CHARACTERS",
    "TOKEN_START",
    "ClockGuard",
    "Session",
    "cookie_value",
    "cookie_values",
    "describe_unverified",
    "key_id_of",
    "new_session",
    "open_token",
    "refresh",
    "seal",
    "set_cookie",
    "token_cookies",
    "update",
]

DEFAULT_TTL_S = 900
DEFAULT_MAX_AGE_S = 28_800
MAX_AGE_S = 400 * 86_400  # browsers keep no cookie longer (RFC 6265bis 5.5); revocations are kept as long
LEEWAY_S = 60
MAX_TOKEN_CHARACTERS = 3_800
MAX_COOKIES = 32
"""Cookies of one name in a header that are tried; a browser keeps fewer for a host."""
TOKEN_START = "VAH8"
"""The first characters of every token of this version: format, version and the first byte of a key id."""

_MAGIC, _VERSION = 0x54, 0x01
_HEADER, _SALT_END, _COMMITTED, _OVERHEAD = 6, 30, 62, 78
_MAX_PAYLOAD_BYTES = MAX_TOKEN_CHARACTERS * 3 // 4 - _OVERHEAD
_MAX_SUB_BYTES = 256
_MAX_COOKIE_HEADER = 65_536
_MAX_DEPTH = 16
_MAX_INTEGER = 2**53 - 1  # RFC 7493: what every JSON reader keeps exactly
_MAX_TIME_UNIX_S = 253_402_300_799  # the end of the year 9999: every language can print it
_FIELDS = ("abs", "c", "exp", "gen", "iat", "sid", "sub")
_OPENS = frozenset({KeyState.PENDING, KeyState.PRIMARY, KeyState.ENABLED})

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# To the alphabet that binascii reads, and everything outside ours ('+', '/' and '=' too) to what it refuses.
_TO_BINASCII = bytes({0x2D: 0x2B, 0x5F: 0x2F}.get(c, c) if c in _ALPHABET else 0x21 for c in range(256))
_FROM_BINASCII = bytes.maketrans(b"+/", b"-_")
# By length modulo 4: padding that binascii wants, and last characters whose unused bits are zero.
_PADDING = (b"", b"", b"==", b"=")
_LAST = (_ALPHABET, b"", _ALPHABET[::16], _ALPHABET[::4])

_SID = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]").fullmatch
_COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}").fullmatch  # RFC 6265 4.1.1: a token
_COOKIE_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)

_SHA256 = SHA256()
_compact = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode


def _integer(text: str) -> int:
    if not -_MAX_INTEGER <= (value := int(text)) <= _MAX_INTEGER:
        raise ValueError
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError


_parse = json.JSONDecoder(parse_int=_integer, parse_float=_no_number, parse_constant=_no_number).raw_decode


# ---- sessions ----


@dataclass(frozen=True, slots=True)
class Session:
    """The content of a token.  Its repr leaves the claims out.

    sub: the subject, Unicode NFC, 1 to 256 bytes of UTF-8.
    sid: the session, 16 random bytes as base64url; the same through every update and refresh.
    gen: generation, 1 to 2**53-1; one more at each update.
    iat, exp, abs: first issued, idle expiry, the end that no refresh moves; Unix seconds, in this order.
    claims: the caller's, plain JSON: str, bool, None, list, dict with str keys, and int up to 2**53-1 either
    way.  No floats: their spelling differs between languages; write them as strings.
    """

    sub: str
    sid: str
    gen: int
    iat: int
    exp: int
    abs: int
    claims: dict[str, Any] = field(repr=False)


def _fault(session: Session) -> str | None:
    """The fault in the fields of a session, its claims' values aside; None for none."""
    for value in (session.gen, session.iat, session.exp, session.abs):
        if type(value) is not int:  # a bool is an int to isinstance
            return "gen, iat, exp and abs must be integers"
    if not 1 <= session.gen <= _MAX_INTEGER:
        return "gen must be 1 or more"
    if not 0 <= session.iat <= session.exp <= session.abs <= _MAX_TIME_UNIX_S:
        return "iat, exp and abs must be in this order, from 1970 to 9999"
    if type(session.sid) is not str or not _SID(session.sid):
        return "sid must be 16 bytes in base64url"
    sub = session.sub
    if type(sub) is not str or not sub:
        return "sub must be a string that is not empty"
    if not sub.isascii():
        from unicodedata import is_normalized

        if not is_normalized("NFC", sub):
            return "sub must be Unicode in normal form C"
    data = utf8_or_none(sub)
    if data is None or len(data) > _MAX_SUB_BYTES:
        return f"sub must be at most {_MAX_SUB_BYTES} bytes of UTF-8"
    if type(session.claims) is not dict:
        return "the claims must be an object"
    return None


def _plain_claims(claims: dict[Any, Any]) -> dict[str, Any]:
    """A copy of the claims.  Raises InvalidInput with the name of one that a payload cannot hold."""
    copy = {}
    for name, value in claims.items():
        if not isinstance(name, str):
            raise InvalidInput("the name of a claim is not a string")
        copy[name] = _plain(value, 3, name)
    return copy


def _plain(value: object, depth: int, claim: str) -> Any:
    """A copy of a claim's value.  Raises InvalidInput, without the value, for what a payload cannot hold."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        if -_MAX_INTEGER <= value <= _MAX_INTEGER:
            return value
        raise InvalidInput(
            f"claim {claim[:80]!r} is an integer past 2**53-1, which some readers round: write it as a string"
        )
    if isinstance(value, (dict, list)):
        if depth > _MAX_DEPTH:
            raise InvalidInput(
                f"the claims nest deeper than {_MAX_DEPTH - 1} levels in {claim[:80]!r}: flatten them"
            )
        if isinstance(value, list):
            return [_plain(item, depth + 1, claim) for item in value]
        copy = {}
        for name, item in value.items():
            if not isinstance(name, str):
                raise InvalidInput(f"a name within claim {claim[:80]!r} is not a string")
            copy[name] = _plain(item, depth + 1, claim)
        return copy
    raise InvalidInput(
        f"claim {claim[:80]!r} is a {type(value).__name__}: use strings, integers, booleans, null, lists and "
        "objects"
    )


def _checked_claims(session: Session) -> dict[str, Any]:
    """A copy of the claims.  Raises InvalidInput that says what is wrong with the session."""
    if fault := _fault(session):
        raise InvalidInput(f"the session is not valid: {fault}")
    return _plain_claims(session.claims)


def _checked(session: Session) -> Session:
    return replace(session, claims=_checked_claims(session))


def _text_of(data: bytes) -> str:
    """Unpadded base64url."""
    return binascii.b2a_base64(data, newline=False).translate(_FROM_BINASCII).rstrip(b"=").decode("ascii")


def _random_bytes(random: Callable[[int], bytes], size: int) -> bytes:
    data = random(size)
    if len(data) != size:
        raise InternalError(f"the source of randomness gave {len(data)} bytes of {size}")
    return data


def _checked_range(value: int, low: int, high: int, what: str) -> None:
    if type(value) is not int or not low <= value <= high:
        raise InvalidInput(f"{what} must be {low} to {high} whole seconds")


def new_session(
    sub: str,
    claims: Mapping[str, Any],
    *,
    now_unix_s: int,
    ttl_s: int = DEFAULT_TTL_S,
    max_age_s: int = DEFAULT_MAX_AGE_S,
    random: Callable[[int], bytes] = os.urandom,
) -> Session:
    """A session that begins now, of generation 1, with a random sid and a copy of the claims.

    sub: the subject, Unicode NFC, 1 to 256 bytes of UTF-8.  claims: as in Session.
    ttl_s: seconds without a refresh until it expires, 1 to max_age_s.
    max_age_s: seconds until it ends whatever happens, 1 to 400 days.
    random: a number of bytes to that many random bytes.

    Raises InvalidInput for anything else.
    """
    _checked_range(max_age_s, 1, MAX_AGE_S, "the maximum age")
    _checked_range(ttl_s, 1, max_age_s, "the time to live, no longer than the maximum age,")
    _checked_range(now_unix_s, 0, _MAX_TIME_UNIX_S - max_age_s, "the time now")
    sid = _text_of(_random_bytes(random, 16))
    return _checked(
        Session(sub, sid, 1, now_unix_s, now_unix_s + ttl_s, now_unix_s + max_age_s, dict(claims))
    )


def update(session: Session, *, set: Mapping[str, Any] = {}, unset: Iterable[str] = ()) -> Session:
    """The session with claims added, replaced and removed, one generation on; sid and times stay.

    A name in unset that the session does not have is no error: the result is the one wanted.  A name in both
    is.  Whether the older generation is to be refused from now on is the caller's to record.

    Raises InvalidInput.
    """
    if isinstance(unset, str):
        raise InvalidInput("unset is a list of names, not a string")
    gone = frozenset(unset)
    if both := gone.intersection(set):
        raise InvalidInput(f"to set and to unset at once: {', '.join(sorted(both))}")
    kept = {name: value for name, value in session.claims.items() if name not in gone}
    return _checked(replace(session, gen=session.gen + 1, claims=kept | dict(set)))


def refresh(session: Session, *, now_unix_s: int, ttl_s: int = DEFAULT_TTL_S) -> Session:
    """The session with its idle expiry moved to ttl_s from now: never past abs, and never back.

    Generation and iat stay: a refreshed session was still first issued then, so revoking everything of a
    subject that was issued before some moment cannot be escaped by refreshing.

    Raises InvalidInput for ttl_s outside 1 second to 400 days.
    """
    _checked_range(ttl_s, 1, MAX_AGE_S, "the time to live")
    return _checked(replace(session, exp=max(session.exp, min(now_unix_s + ttl_s, session.abs))))


class ClockGuard:
    """Remembers the highest time it was shown, for one process that mints or opens."""

    __slots__ = ("_highest_unix_s",)

    def __init__(self) -> None:
        self._highest_unix_s = 0

    def check(self, now_unix_s: int) -> None:
        """Remember the highest time.  Raises ClockSetBack when this one is more than 60 s before it."""
        back_s = self._highest_unix_s - now_unix_s
        if back_s > LEEWAY_S:
            raise ClockSetBack(
                f"the clock was set back by {back_s} s, so expired sessions would be good again: "
                "correct the clock, or restart this process if the earlier time was the wrong one"
            )
        if back_s < 0:
            self._highest_unix_s = now_unix_s


# ---- tokens ----


def _checked_cookie_name(cookie_name: str) -> str:
    if not _COOKIE_NAME(cookie_name):
        raise InvalidInput(
            "the cookie name is not valid: use 1 to 128 letters, digits and !#$%&'*+-.^_`|~ (RFC 6265)"
        )
    return cookie_name


_INFO_START = pre_auth_encoding(b"cyoloctl token v1", bytes(_HEADER), b"")[: -_HEADER - 4]


@lru_cache(maxsize=256)  # nothing secret; half a megabyte at most
def _info_end(cluster_id: str, cookie_name: str, audience: str) -> bytes:
    """The part after the header in HKDF's info: the length and bytes of the context's encoding."""
    context = pre_auth_encoding(
        context_bytes(cluster_id, "cluster id"),
        _checked_cookie_name(cookie_name).encode(),
        context_bytes(audience, "audience"),
    )
    return len(context).to_bytes(4, "big") + context


def _derive(key: Key, header: bytes, salt: bytes, cookie_name: str, audience: str) -> bytes:
    """key 32, nonce 12, commitment 32."""
    info = _INFO_START + header + _info_end(key.cluster_id, cookie_name, audience)
    return HKDF(_SHA256, 76, salt, info).derive(key.secret)


def _payload_of(session: Session) -> bytes:
    claims = _checked_claims(session)
    text = _compact(
        {
            "abs": session.abs,
            "c": claims,
            "exp": session.exp,
            "gen": session.gen,
            "iat": session.iat,
            "sid": session.sid,
            "sub": session.sub,
        }
    )
    payload = utf8_or_none(text)
    if payload is None:
        raise InvalidInput("a claim holds half of a surrogate pair, which is no character")
    return payload


def seal(
    keyring: Keyring,
    session: Session,
    *,
    cookie_name: str,
    audience: str = "",
    random: Callable[[int], bytes] = os.urandom,
) -> str:
    """The session as a token under the primary key: at most 3,800 characters, different ones each time.

    cookie_name: an RFC 6265 token of at most 128 characters; audience: at most 255 bytes of UTF-8.  Only
    a caller that names the same two can open it.
    random: a number of bytes to that many random bytes; the salt, on which the nonce depends, comes from it.

    Raises InvalidInput for a session that is not valid or, with the number of bytes over, too large;
    Unavailable when no key is primary.
    """
    key = keyring.primary
    if key is None:
        raise Unavailable("no token key is primary: run 'cyoloctl key rotate', or wait until it is done")
    payload = _payload_of(session)
    if (over := len(payload) - _MAX_PAYLOAD_BYTES) > 0:
        del payload  # a traceback may print the variables of its frames
        raise InvalidInput(
            f"the session is {over} bytes over the {_MAX_PAYLOAD_BYTES} that fit into a cookie: remove claims"
        )
    header = bytes((_MAGIC, _VERSION)) + key.key_id
    salt = _random_bytes(random, _SALT_END - _HEADER)
    derived = _derive(key, header, salt, cookie_name, audience)
    front = header + salt + derived[44:]
    return _text_of(front + AESGCM(derived[:32]).encrypt(derived[32:44], payload, front))


def _bytes_of(token: object) -> bytes | str:
    """The bytes of a token's text, whose length, spelling and version are right; or else the reason."""
    if not isinstance(token, str | bytes):
        return "not text"
    if len(token) > MAX_TOKEN_CHARACTERS:  # before anything whose cost grows with it
        return "too long"
    if isinstance(token, str):
        if not token.isascii():
            return "a character outside base64url"
        token = token.encode("ascii")
    rest = len(token) % 4
    try:
        data = binascii.a2b_base64(token.translate(_TO_BINASCII) + _PADDING[rest], strict_mode=True)
    except binascii.Error:
        return "a length that base64 does not have" if rest == 1 else "a character outside base64url"
    if token and token[-1] not in _LAST[rest]:
        return "trailing bits"
    if len(data) < _OVERHEAD:
        return "too short"
    if data[0] != _MAGIC or data[1] != _VERSION:
        return "unknown version"
    return data


def _depth(text: str) -> int:
    """The most brackets open at once, those in strings aside."""
    depth = deepest = 0
    for character in _JSON_STRING.sub("", text):
        if character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _session_of(payload: bytes) -> Session | str:
    """The session that an authenticated payload describes, or else the reason."""
    try:
        text = payload.decode()
        # Counting is quick and mostly enough.  Before parsing: where the parser gives up differs by version.
        if text.count("{") + text.count("[") > _MAX_DEPTH and _depth(text) > _MAX_DEPTH:
            return "payload nests too deep"
        fields = _parse(text)[0]
    except ValueError:  # not UTF-8, not JSON, or a number that is no integer in range
        return "payload is not the JSON of a session"
    if _compact(fields) != text:
        return "payload is not in its one spelling"
    if type(fields) is not dict or tuple(fields) != _FIELDS:
        return "payload has other fields"
    session = Session(
        fields["sub"],
        fields["sid"],
        fields["gen"],
        fields["iat"],
        fields["exp"],
        fields["abs"],
        fields["c"],
    )
    return _fault(session) or session


def _open(keyring: Keyring, token: object, now_unix_s: int, cookie_name: str, audience: str) -> Session | str:
    data = _bytes_of(token)
    if isinstance(data, str):
        return data
    header = data[:_HEADER]
    key = keyring.get(header[2:])
    if key is None:
        return "unknown key"
    if key.state not in _OPENS:
        return f"{key.state} key"
    derived = _derive(key, header, data[_HEADER:_SALT_END], cookie_name, audience)
    if not compare_digest(derived[44:], data[_SALT_END:_COMMITTED]):
        return "wrong commitment: another cluster, cookie name, audience or key, or altered"
    try:
        payload = AESGCM(derived[:32]).decrypt(derived[32:44], data[_COMMITTED:], data[:_COMMITTED])
    except InvalidTag:
        return "wrong tag: altered"
    session = _session_of(payload)
    if isinstance(session, str):
        return session
    # Said positively, so that a time which compares with nothing opens nothing.
    if not session.iat <= now_unix_s + LEEWAY_S:
        return "issued in the future"
    if not now_unix_s <= session.exp + LEEWAY_S:
        return "expired"
    if not now_unix_s < session.abs:
        return "past its maximum age"
    return session


def open_token(
    keyring: Keyring,
    token: str | bytes,
    *,
    now_unix_s: int,
    cookie_name: str,
    audience: str = "",
    revoked: Callable[[Session], bool] | None = None,
) -> Session:
    """The session of a token.  Whatever the token is, this returns a Session or raises TokenRejected.

    cookie_name, audience: those it was minted for.
    now_unix_s: good is a session while iat <= now + 60, now <= exp + 60 and now < abs.
    revoked: asked last, about a session that is good otherwise.

    Only the key that the token names is tried.  Raises TokenRejected, whose ``reason`` is for an operator
    only; InvalidInput for a cookie name or audience that no token can have.
    """
    opened = _open(keyring, token, now_unix_s, cookie_name, audience)
    # A traceback may print the variables of its frames: from here on the token is not among ours.
    del token
    if isinstance(opened, str):
        raise TokenRejected(reason=opened)
    if revoked is not None and revoked(opened):
        raise TokenRejected(reason="revoked")
    return opened


def key_id_of(token: str | bytes) -> bytes:
    """The 4 bytes of the key id that a token names.  Nothing is verified.

    Raises InvalidInput for what has not even the form of a token.
    """
    data = _bytes_of(token)
    del token
    if isinstance(data, str):
        raise InvalidInput(f"this is not a token: {data}")
    return data[2:_HEADER]


def describe_unverified(token: str | bytes) -> dict[str, Any]:
    """Parts of a token that need no key: version, key_id in hexadecimal, token_bytes of text, payload_bytes.

    Nothing is verified.  Raises InvalidInput for what has not even the form of a token.
    """
    size, key_id = len(token), key_id_of(token)
    return {
        "version": _VERSION,
        "key_id": key_id.hex(),
        "token_bytes": size,
        "payload_bytes": size * 3 // 4 - _OVERHEAD,
    }


# ---- cookies ----


def set_cookie(token: str, session: Session, *, cookie_name: str, now_unix_s: int) -> str:
    """The whole ``Set-Cookie:`` line, without a line end, under 4,096 bytes.

    Max-Age is the time to exp, not to abs: the browser drops the cookie when the nodes would refuse it, and a
    refresh sends a new one.  The cookie is for the host alone, on every path, over TLS, and out of reach of
    scripts, which is also all that the prefixes ``__Host-`` and ``__Secure-`` demand (RFC 6265bis 4.1.3).

    Raises InvalidInput for a cookie name that is no RFC 6265 token, and for what is not a token.
    """
    key_id_of(token)  # its alphabet has nothing that ends a cookie or a header
    max_age_s = max(0, session.exp - now_unix_s)
    return (
        f"Set-Cookie: {_checked_cookie_name(cookie_name)}={token}; Path=/; Max-Age={max_age_s}; "
        "HttpOnly; Secure; SameSite=Lax"
    )


def cookie_value(header: str, *, cookie_name: str) -> str:
    """The value of one cookie in a ``Cookie:`` header, with or without the header's name.

    Other cookies may look as they like.  Raises TokenRejected when there is none of this name, when there are
    two (which one the user's is, nobody knows), when its value has other characters than a token, or when the
    header has control characters or more than 65,536 characters; InvalidInput for the cookie name.
    """
    _checked_cookie_name(cookie_name)
    found = _cookie(header, cookie_name)
    del header
    if found[1]:
        raise TokenRejected(reason=found[1])
    return found[0]


def cookie_values(header: str, *, cookie_name: str) -> list[str]:
    """Every different value of one cookie that could be a token, in order.

    For where an old or foreign cookie of the same name, which the browser keeps for another path or domain,
    must not hide the user's: whoever opens them decides, and takes none when several open.  Raises
    TokenRejected as `cookie_value` does for a header that is too long or has control characters,
    and InvalidInput for the cookie name.
    """
    _checked_cookie_name(cookie_name)
    if len(header) > _MAX_COOKIE_HEADER or _COOKIE_CONTROLS(header):
        raise TokenRejected(reason="the header is too long or has control characters")
    pairs = (pair.lstrip(" \t").partition("=") for pair in header.split(";"))
    found = (value for name, equals, value in pairs if name == cookie_name and equals)
    return list(dict.fromkeys(value for value in found if _could_be_token(value)))


def token_cookies(header: str, *, cookie_name: str) -> list[str]:
    """Those of `cookie_values` that begin as tokens do, for whoever opens them.

    Raises TokenRejected for more than MAX_COOKIES too: that is a flood, and each costs an opening.
    """
    values = cookie_values(header, cookie_name=cookie_name)
    values = [value for value in values if value.startswith(TOKEN_START)]
    if len(values) > MAX_COOKIES:
        raise TokenRejected(reason="too many cookies")
    return values


def _could_be_token(value: str) -> bool:
    return bool(value) and value.isascii() and not value.encode("ascii").translate(None, _ALPHABET)


def _cookie(header: str, cookie_name: str) -> tuple[str, str]:
    """The value, or else the reason."""
    if len(header) > _MAX_COOKIE_HEADER:
        return "", "the header is too long"
    if _COOKIE_CONTROLS(header):
        return "", "control characters in the header"
    if header[:7].lower() == "cookie:":
        header = header[7:]
    values: list[str] = []
    for pair in header.split(";"):
        name, equals, value = pair.lstrip(" \t").partition("=")
        if name.strip() == cookie_name:
            if name != cookie_name or not equals:
                return "", "malformed cookie"
            values.append(value)
    if len(values) != 1:
        return "", "duplicate cookie" if values else "no cookie"
    return (values[0], "") if _could_be_token(values[0]) else ("", "malformed cookie")
