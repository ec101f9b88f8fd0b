"""Any session is opened as it was sealed, and any other bytes give TokenRejected and nothing else."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cyoloctl.errors import InvalidInput, TokenRejected
from cyoloctl.keys.keyring import Key, Keyring, KeyState
from cyoloctl.text import pre_auth_encoding
from cyoloctl.tokens import format as token_format
from cyoloctl.tokens.format import (
    Session,
    cookie_value,
    new_session,
    open_token,
    refresh,
    seal,
    set_cookie,
    update,
)

NOW = 1_800_000_000
COOKIE = "cyolo-sid"
RING = Keyring([Key(b"\xfc\x01\xaa\xbb", bytes(range(32)), KeyState.PRIMARY, "0123456789abcdef" * 2)])
KEY = RING.keys[0]
TOKEN = seal(RING, new_session("alice", {"mfa": True}, now_unix_s=NOW), cookie_name=COOKIE)

# Without halves of surrogate pairs, which are no characters.
unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
subjects = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
    .map(lambda text: unicodedata.normalize("NFC", text))
    .filter(lambda text: len(text.encode()) <= 256)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | unicode,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(unicode, inner, max_size=3),
    max_leaves=8,
)
claim_sets = st.dictionaries(unicode, values, max_size=4)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    max_age_s = draw(st.integers(1, 400 * 86_400))
    made = new_session(
        draw(subjects),
        draw(claim_sets),
        now_unix_s=draw(st.integers(0, 2**35)),
        ttl_s=draw(st.integers(1, max_age_s)),
        max_age_s=max_age_s,
        random=lambda size: draw(st.binary(min_size=size, max_size=size)),
    )
    return replace(made, gen=draw(st.integers(1, 2**53 - 1)))


cookie_names = st.text("!#$%&'*+-.^_`|~09AZaz", min_size=1, max_size=20)


@given(sessions(), cookie_names, unicode, st.binary(min_size=24, max_size=24))
@settings(max_examples=200, deadline=None)
def test_session_sealed_is_opened_the_same(made: Session, cookie: str, audience: str, salt: bytes) -> None:
    context = {"cookie_name": cookie, "audience": audience}
    token = seal(RING, made, random=lambda size: salt, **context)
    opened = open_token(RING, token, now_unix_s=made.iat, **context)
    assert opened == made
    assert seal(RING, opened, random=lambda size: salt, **context) == token
    line = set_cookie(token, made, cookie_name=cookie, now_unix_s=made.iat)
    returned = cookie_value(line.removeprefix("Set-Cookie: ").split(";")[0], cookie_name=cookie)
    assert returned == token


@given(sessions(), st.integers(-(2**36), 2**36))
@settings(max_examples=200, deadline=None)
def test_token_is_good_exactly_in_its_times(made: Session, offset: int) -> None:
    now = made.iat + offset
    good = made.iat <= now + 60 and now <= made.exp + 60 and now < made.abs
    try:
        open_token(RING, seal(RING, made, cookie_name=COOKIE), now_unix_s=now, cookie_name=COOKIE)
        opened = True
    except TokenRejected:
        opened = False
    assert opened == good


def opens_or_is_rejected(token: Any) -> None:
    """The contract: any input gives a Session or TokenRejected."""
    try:
        made = open_token(RING, token, now_unix_s=NOW, cookie_name=COOKIE)
    except TokenRejected:
        return
    assert isinstance(made, Session)


@given(st.binary() | st.text() | st.none() | st.integers() | st.text(TOKEN[:30] + "-_=+/ \n", min_size=100))
@settings(max_examples=300, deadline=None)
def test_any_input_opens_or_is_rejected(token: Any) -> None:
    opens_or_is_rejected(token)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_edited_token_is_rejected(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(TOKEN)))
    end = data.draw(st.integers(start, min(len(TOKEN), start + 8)))
    edited = TOKEN[:start] + data.draw(st.text(max_size=8) | st.text(TOKEN, max_size=8)) + TOKEN[end:]
    assume(edited != TOKEN)
    with pytest.raises(TokenRejected):
        open_token(RING, edited, now_unix_s=NOW, cookie_name=COOKIE)


PIECES = [
    '{"abs":1800028800,"c":',
    "{}",
    '{"mfa":true}',
    ',"exp":1800000900,"gen":1',
    ',"iat":1800000000',
    ',"sid":"AAAAAAAAAAAAAAAAAAAAAA"',
    ',"sub":"alice"}',
    *'{}[]",:\\0 é\0',
    "-0",
    "1e9",
    "null",
    "NaN",
    "\\u00e9",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join).map(str.encode) | st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_authentic_payload_opens_or_is_rejected(payload: bytes) -> None:
    front = b"\x54\x01" + KEY.key_id + bytes(24)
    derived = token_format._derive(KEY, front[:6], bytes(24), COOKIE, "")
    front += derived[44:]
    data = front + token_format.AESGCM(derived[:32]).encrypt(derived[32:44], payload, front)
    opens_or_is_rejected(token_format._text_of(data))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.text("\ud800\udc00a"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=8,
)


@given(anything, st.dictionaries(st.text() | st.integers(), anything, max_size=4))
@settings(max_examples=200, deadline=None)
def test_anything_sealed_opens_the_same_or_is_refused(sub: Any, claims: Any) -> None:
    try:
        made = new_session(sub, claims, now_unix_s=NOW)
        token = seal(RING, made, cookie_name=COOKIE)
    except InvalidInput:
        return
    assert open_token(RING, token, now_unix_s=NOW, cookie_name=COOKIE) == made
    assert (made.sub, made.claims) == (sub, claims)


@given(sessions(), st.integers(0, 2**36), st.integers(1, 86_400))
@settings(deadline=None)
def test_refresh_never_shortens_and_never_passes_abs(made: Session, now: int, ttl_s: int) -> None:
    again = refresh(made, now_unix_s=now, ttl_s=ttl_s)
    assert made.exp <= again.exp <= made.abs
    assert replace(again, exp=made.exp) == made


@given(sessions(), claim_sets, st.sets(unicode))
@settings(deadline=None)
def test_update_changes_claims_and_generation_alone(
    made: Session, new: dict[str, Any], gone: set[str]
) -> None:
    assume(made.gen < 2**53 - 1 and not gone & new.keys())
    again = update(made, set=new, unset=gone)
    kept = {name: value for name, value in made.claims.items() if name not in gone}
    assert again == replace(made, gen=made.gen + 1, claims={**kept, **new})


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_pre_auth_encoding_of_different_parts_differs(one: list[bytes], other: list[bytes]) -> None:
    assert (pre_auth_encoding(*one) == pre_auth_encoding(*other)) == (one == other)


@given(st.text() | st.text('cyolo-sid=;, \t"AQgw', max_size=60))
@settings(max_examples=300)
def test_any_cookie_header_gives_a_plain_value_or_is_rejected(header: str) -> None:
    try:
        value = cookie_value(header, cookie_name=COOKIE)
    except TokenRejected:
        return
    assert value.isascii()
    assert value.replace("-", "").replace("_", "").isalnum()
    assert header.count(COOKIE) >= 1
