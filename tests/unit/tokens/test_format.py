"""The token format against its vectors, and minting, changing and carrying sessions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import ClockSetBack, ConfigError, InternalError, InvalidInput, TokenRejected, Unavailable
from cyoloctl.keys.keyring import Key, Keyring, KeyState
from cyoloctl.tokens.format import (
    MAX_COOKIES,
    TOKEN_START,
    ClockGuard,
    Session,
    cookie_value,
    cookie_values,
    describe_unverified,
    key_id_of,
    new_session,
    open_token,
    refresh,
    seal,
    set_cookie,
    token_cookies,
    update,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "token"
NAMES = sorted(path.stem for path in VECTORS.glob("*.json"))
NOW = 1_800_000_000
CLUSTER = "0123456789abcdef0123456789abcdef"
COOKIE = "cyolo-sid"
ID_1, ID_2 = b"\xfc\x01\xaa\xbb", b"\xfc\x02\xaa\xbb"
KEY = Key(ID_1, bytes(range(32)), KeyState.PRIMARY, CLUSTER)
RING = Keyring([KEY])
CLAIMS = {"groups": ["ops"], "mfa": True, "seats": 3, "note": None}

# What a reject vector's name says, and the beginning of the reason that an operator is shown.
REASONS = {
    "alphabet": "a character outside base64url",
    "base64": "a length that base64 does not have",
    "claims": "the claims must be an object",
    "commitment": "wrong commitment",
    "depth": "payload nests too deep",
    "ended": "past its maximum age",
    "expired": "expired",
    "fields": "payload has other fields",
    "future": "issued in the future",
    "generation": "gen must be",
    "integers": "gen, iat, exp and abs must be integers",
    "json": "payload is not the JSON",
    "key": "unknown key",
    "length": "too long",
    "order": "iat, exp and abs must be in this order",
    "short": "too short",
    "sid": "sid must be",
    "spelling": "payload is not in its one spelling",
    "sub": "sub must be",
    "tag": "wrong tag",
    "trailing": "trailing bits",
    "version": "unknown version",
}


def session(**changes: Any) -> Session:
    made = new_session("alice", CLAIMS, now_unix_s=NOW, random=bytes)
    return replace(made, **changes)


def mint(made: Session | None = None, ring: Keyring = RING) -> str:
    return seal(ring, made or session(), cookie_name=COOKIE)


def opened(token: str | bytes, ring: Keyring = RING, now: int = NOW, **context: Any) -> Session:
    return open_token(ring, token, now_unix_s=now, **{"cookie_name": COOKIE, **context})


def reason(act: Callable[[], object]) -> str:
    with pytest.raises(TokenRejected) as caught:
        act()
    assert (str(caught.value), caught.value.exit_status) == ("token rejected", 77)
    return caught.value.reason


# ---- vectors ----


def vector(name: str) -> tuple[dict[str, Any], Keyring]:
    found = json.loads((VECTORS / f"{name}.json").read_text(encoding="ascii"))
    key_id, secret = bytes.fromhex(found["key_id_hex"]), bytes.fromhex(found["key_hex"])
    return found, Keyring([Key(key_id, secret, KeyState.ENABLED, found["cluster_id"])])


def open_vector(name: str) -> Session:
    found, ring = vector(name)
    return open_token(
        ring,
        found["token"],
        now_unix_s=found["now_unix_s"],
        cookie_name=found["cookie_name"],
        audience=found["audience"],
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("ok-")])
def test_vector_of_a_good_token_opens_to_its_claims(name: str) -> None:
    made = open_vector(name)
    payload = {
        "sub": made.sub,
        "sid": made.sid,
        "gen": made.gen,
        "iat": made.iat,
        "exp": made.exp,
        "abs": made.abs,
        "c": made.claims,
    }
    assert payload == vector(name)[0]["claims"]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("ok-")])
def test_vector_of_a_good_token_sealed_again_with_its_salt_is_the_same_text(name: str) -> None:
    found, ring = vector(name)
    primary = Keyring([replace(ring.keys[0], state=KeyState.PRIMARY)])
    salt = bytes_of(found["token"])[6:30]
    context = {"cookie_name": found["cookie_name"], "audience": found["audience"]}
    assert seal(primary, open_vector(name), random=lambda size: salt, **context) == found["token"]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("ok-")])
def test_vector_of_a_wrong_token_is_rejected_for_its_one_fault(name: str) -> None:
    rule = name.split("-")[1]
    assert reason(lambda: open_vector(name)).startswith(REASONS[rule])


def test_vectors_cover_every_rule() -> None:
    assert {name.split("-")[1] for name in NAMES if name.startswith("reject-")} == set(REASONS)
    assert len(NAMES) >= 60


def test_vectors_when_made_again_are_the_same(tmp_path: Path) -> None:
    generator = VECTORS.parent / "make_token_vectors.py"
    assert not re.search(r"^\s*(import|from)\s+cyoloctl", generator.read_text(encoding="utf-8"), re.MULTILINE)
    subprocess.run([sys.executable, "-I", str(generator), str(tmp_path)], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in VECTORS.glob("*.json")}


def bytes_of(token: str) -> bytes:
    from base64 import urlsafe_b64decode

    return urlsafe_b64decode(token + "=" * (-len(token) % 4))


# ---- encoding ----


def test_seal_layout_is_as_documented() -> None:
    data = bytes_of(mint())
    assert data[:6] == b"\x54\x01" + ID_1
    assert mint().startswith("VAH8")
    payload = b'{"abs":1800028800,"c":{"groups":["ops"],"mfa":true,"note":null,"seats":3},"exp":1800000900,'
    payload += b'"gen":1,"iat":1800000000,"sid":"AAAAAAAAAAAAAAAAAAAAAA","sub":"alice"}'
    assert len(data) == 78 + len(payload)


def test_seal_twice_gives_different_tokens() -> None:
    assert mint() != mint()


def test_open_token_accepts_text_and_bytes() -> None:
    token = mint()
    assert opened(token) == opened(token.encode()) == session()


@pytest.mark.parametrize("token", [None, 1, bytearray(b"VAH8"), ["VAH8"], memoryview(b"VAH8")])
def test_open_token_of_what_is_no_text_is_rejected(token: Any) -> None:
    assert reason(lambda: opened(token)) == "not text"


# ---- keys ----


@pytest.mark.parametrize("state", [KeyState.PENDING, KeyState.PRIMARY, KeyState.ENABLED])
def test_open_token_under_a_key_that_opens_opens(state: KeyState) -> None:
    assert opened(mint(), Keyring([replace(KEY, state=state)])) == session()


def test_open_token_under_a_disabled_key_is_rejected_and_under_it_enabled_again_opens() -> None:
    token = mint()
    disabled = replace(KEY, state=KeyState.DISABLED)
    assert reason(lambda: opened(token, Keyring([disabled]))) == "disabled key"
    assert opened(token, Keyring([replace(disabled, state=KeyState.ENABLED)])) == session()


def test_open_token_under_a_destroyed_or_missing_key_is_rejected() -> None:
    other = replace(KEY, key_id=ID_2)
    destroyed = Key(ID_1, b"", KeyState.DESTROYED, CLUSTER)
    assert reason(lambda: opened(mint(), Keyring([destroyed, other]))) == "destroyed key"
    assert reason(lambda: opened(mint(), Keyring([other]))) == "unknown key"
    assert reason(lambda: opened(mint(), Keyring())) == "unknown key"


@pytest.mark.parametrize("state", [state for state in KeyState if state is not KeyState.PRIMARY])
def test_seal_without_a_primary_is_unavailable(state: KeyState) -> None:
    secret = b"" if state is KeyState.DESTROYED else bytes(32)
    with pytest.raises(Unavailable, match="primary"):
        mint(ring=Keyring([Key(ID_1, secret, state, CLUSTER)]))


def test_open_token_across_a_rotation_opens_old_and_new() -> None:
    old = mint()
    second = Key(ID_2, bytes(32), KeyState.PRIMARY, CLUSTER)
    ring = Keyring([replace(KEY, state=KeyState.ENABLED), second])
    new = mint(ring=ring)
    assert (key_id_of(old), key_id_of(new)) == (ID_1, ID_2)
    assert opened(old, ring) == opened(new, ring) == session()


def test_open_token_under_an_adopted_key_uses_the_cluster_of_the_key() -> None:
    token = mint()
    here = Key(ID_2, bytes(32), KeyState.PRIMARY, "f" * 32)
    assert opened(token, Keyring([here, replace(KEY, state=KeyState.ENABLED)])) == session()


# ---- sessions ----


def test_new_session_has_a_random_sid_and_its_times() -> None:
    made = new_session("alice", CLAIMS, now_unix_s=NOW)
    assert made == Session("alice", made.sid, 1, NOW, NOW + 900, NOW + 28_800, CLAIMS)
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", made.sid)
    assert made.sid != new_session("alice", CLAIMS, now_unix_s=NOW).sid


def test_new_session_copies_its_claims_to_the_bottom() -> None:
    claims = {"groups": ["ops"], "device": {"os": "linux"}}
    made = new_session("alice", claims, now_unix_s=NOW)
    claims["groups"].append("admins")  # type: ignore[attr-defined]
    claims["device"]["os"] = "none"  # type: ignore[call-overload]
    assert made.claims == {"groups": ["ops"], "device": {"os": "linux"}}


@pytest.mark.parametrize(
    "arguments",
    [
        {"ttl_s": 0},
        {"ttl_s": -1},
        {"ttl_s": 901, "max_age_s": 900},
        {"ttl_s": 1.5},
        {"ttl_s": True},
        {"max_age_s": 0},
        {"max_age_s": 400 * 86_400 + 1},
        {"max_age_s": "900"},
        {"now_unix_s": -1},
        {"now_unix_s": 1.5},
        {"now_unix_s": float("nan")},
        {"now_unix_s": 253_402_300_799},
    ],
)
def test_new_session_with_a_time_out_of_range_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        new_session("alice", {}, **{"now_unix_s": NOW, **arguments})


@pytest.mark.parametrize(
    "sub", ["", "x" * 257, "é" * 129, "jose\u0301", "\u212b", "\ud800", None, 1, b"alice"]
)
def test_new_session_with_a_wrong_subject_is_refused(sub: Any) -> None:
    with pytest.raises(InvalidInput, match="sub must"):
        new_session(sub, {}, now_unix_s=NOW)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"n": value}
    return value


UNFIT = [
    {"x": 0.5},
    {"x": 1.0},
    {"x": float("nan")},
    {"x": float("inf")},
    {"x": 2**53},
    {"x": -(2**53)},
    {"x": [1, {"y": 2**64}]},
    {"x": b"bytes"},
    {"x": (1, 2)},
    {"x": {1, 2}},
    {"x": ...},
    {1: "x"},
    {None: "x"},
    {"x": {True: 1}},
    nested(16),
]


@pytest.mark.parametrize("claims", UNFIT, ids=lambda claims: str(claims)[:40])
def test_claims_that_no_payload_holds_are_refused_at_each_entrance(claims: Any) -> None:
    with pytest.raises(InvalidInput, match="claim"):
        new_session("alice", claims, now_unix_s=NOW)
    with pytest.raises(InvalidInput, match="claim"):
        update(session(), set=claims)
    with pytest.raises(InvalidInput, match="claim"):
        mint(session(claims=claims))


def test_claim_that_no_payload_holds_is_named_and_its_value_is_not() -> None:
    for value in (2**53 + 7, [{"y": 2**53 + 7}], 0.5, {"y": (7,)}, nested(15)):
        with pytest.raises(InvalidInput, match="'limit'") as caught:
            new_session("alice", {"good": 1, "limit": value}, now_unix_s=NOW)
        assert str(2**53 + 7) not in caught.value.message


def test_claims_that_hold_themselves_are_refused() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    with pytest.raises(InvalidInput, match="nest deeper"):
        new_session("alice", loop, now_unix_s=NOW)


@pytest.mark.parametrize("claims", [{"x": "\ud800"}, {"\udfff": 1}])
def test_seal_of_half_a_surrogate_pair_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="surrogate"):
        mint(session(claims=claims))


def test_claims_nested_15_deep_open_as_minted() -> None:
    assert opened(mint(session(claims=nested(15)))).claims == nested(15)


@pytest.mark.parametrize(
    "changes",
    [
        {"gen": 0},
        {"gen": 2**53},
        {"gen": True},
        {"iat": 1.0},
        {"iat": -1},
        {"exp": NOW - 1},
        {"abs": NOW + 899},
        {"abs": 253_402_300_800},
        {"sid": ""},
        {"sid": "A" * 21 + "B"},
        {"sid": None},
        {"sub": ""},
        {"claims": None},
        {"claims": []},
    ],
)
def test_seal_of_a_session_that_could_not_be_opened_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="session is not valid"):
        mint(session(**changes))


def test_seal_too_large_says_how_many_bytes_are_over() -> None:
    empty = len(bytes_of(mint(session(claims={"p": ""})))) - 78
    room = 2850 - 78 - empty
    assert len(mint(session(claims={"p": "x" * room}))) == 3800
    with pytest.raises(InvalidInput, match=r"session is 1 bytes over the 2772"):
        mint(session(claims={"p": "x" * (room + 1)}))
    with pytest.raises(InvalidInput, match=r"session is 20 bytes over"):
        mint(session(claims={"p": "x" * room + "é" * 10}))


def test_seal_with_a_source_of_randomness_that_runs_dry_is_an_error() -> None:
    with pytest.raises(InternalError, match="23 bytes of 24"):
        seal(RING, session(), cookie_name=COOKIE, random=lambda size: bytes(size - 1))


@pytest.mark.parametrize(
    "cookie_name", ["", "a b", "a=b", "a;b", "a,b", 'a"b', "a\r\n", "é", "x" * 129, "a\0"]
)
def test_cookie_name_that_is_no_token_of_rfc_6265_is_refused_everywhere(cookie_name: str) -> None:
    token = mint()
    for act in (
        lambda: seal(RING, session(), cookie_name=cookie_name),
        lambda: opened(token, cookie_name=cookie_name),
        lambda: set_cookie(token, session(), cookie_name=cookie_name, now_unix_s=NOW),
        lambda: cookie_value("a=b", cookie_name=cookie_name),
    ):
        with pytest.raises(InvalidInput, match="cookie name"):
            act()


@pytest.mark.parametrize("audience", ["x" * 256, "\ud800"])
def test_audience_that_no_token_can_have_is_refused(audience: str) -> None:
    with pytest.raises(InvalidInput, match="audience"):
        seal(RING, session(), cookie_name=COOKIE, audience=audience)


# ---- times ----


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (NOW - 60, ""),
        (NOW - 61, "issued in the future"),
        (NOW + 960, ""),
        (NOW + 961, "expired"),
        (0, "issued in the future"),
        (2**60, "expired"),
    ],
)
def test_open_token_at_the_limits_of_time(now: int, why: str) -> None:
    token = mint()
    if why:
        assert reason(lambda: opened(token, now=now)) == why
    else:
        assert opened(token, now=now) == session()


def test_open_token_at_abs_has_no_leeway() -> None:
    token = mint(session(exp=NOW + 28_800))
    assert opened(token, now=NOW + 28_799).exp == NOW + 28_800
    assert reason(lambda: opened(token, now=NOW + 28_800)) == "past its maximum age"


def test_open_token_at_a_time_that_is_no_number_is_rejected() -> None:
    assert reason(lambda: opened(mint(), now=float("nan"))) == "issued in the future"  # type: ignore[arg-type]


def test_clock_guard_allows_the_leeway_and_refuses_more() -> None:
    guard = ClockGuard()
    guard.check(NOW)
    guard.check(NOW - 60)
    with pytest.raises(ClockSetBack, match="set back by 61 s") as caught:
        guard.check(NOW - 61)
    assert isinstance(caught.value, ConfigError)
    assert (caught.value.code, caught.value.exit_status) == ("clock_set_back", 78)


def test_clock_guard_when_moved_back_in_small_steps_still_refuses() -> None:
    guard = ClockGuard()
    for back in range(0, 61, 20):
        guard.check(NOW - back)
    with pytest.raises(ClockSetBack):
        guard.check(NOW - 80)
    guard.check(NOW)


# ---- changes ----


def test_update_sets_unsets_and_adds_one_generation() -> None:
    made = update(session(), set={"mfa": False, "role": "viewer"}, unset=["groups", "unheard-of"])
    claims = {"mfa": False, "seats": 3, "note": None, "role": "viewer"}
    assert made == session(gen=2, claims=claims)
    assert session().claims == CLAIMS


def test_update_with_one_name_set_and_unset_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at once: mfa"):
        update(session(), set={"mfa": True}, unset=["mfa"])


def test_update_with_a_string_to_unset_is_refused() -> None:
    with pytest.raises(InvalidInput):
        update(session(), unset="mfa")


def test_update_past_the_last_generation_is_refused() -> None:
    with pytest.raises(InvalidInput):
        update(session(gen=2**53 - 1))


@pytest.mark.parametrize(
    ("now", "ttl_s", "exp"),
    [
        (NOW + 600, 900, NOW + 1500),
        (NOW + 100, 300, NOW + 900),
        (NOW + 28_000, 900, NOW + 28_800),
        (NOW + 99_999, 900, NOW + 28_800),
        (NOW - 50, 900, NOW + 900),
    ],
    ids=["forward", "not back", "not past abs", "after abs", "clock behind"],
)
def test_refresh_moves_only_the_expiry(now: int, ttl_s: int, exp: int) -> None:
    assert refresh(session(gen=7), now_unix_s=now, ttl_s=ttl_s) == session(gen=7, exp=exp)


@pytest.mark.parametrize("ttl_s", [0, -1, 1.0, 400 * 86_400 + 1])
def test_refresh_with_a_ttl_out_of_range_is_refused(ttl_s: Any) -> None:
    with pytest.raises(InvalidInput):
        refresh(session(), now_unix_s=NOW, ttl_s=ttl_s)


def test_open_token_asks_about_revocation_last_and_with_the_session() -> None:
    token, asked = mint(), []
    assert reason(lambda: opened(token, revoked=lambda made: not asked.append(made))) == "revoked"
    assert asked == [session()]
    assert opened(token, revoked=lambda made: False) == session()
    assert (
        reason(lambda: opened(token, now=NOW + 961, revoked=lambda made: not asked.append(made))) == "expired"
    )
    assert len(asked) == 1


def test_older_generation_after_an_update_is_told_apart_by_the_callback() -> None:
    old = mint()
    new = mint(update(opened(old), set={"mfa": False}))
    minimum = {session().sid: 2}

    def revoked(made: Session) -> bool:
        return made.gen < minimum.get(made.sid, 1)

    assert opened(new, revoked=revoked).gen == 2
    assert reason(lambda: opened(old, revoked=revoked)) == "revoked"


# ---- what a token shows without a key ----


def test_describe_unverified_shows_version_key_id_and_sizes() -> None:
    token = mint()
    payload = len(bytes_of(token)) - 78
    shown = {"version": 1, "key_id": "fc01aabb", "token_bytes": len(token), "payload_bytes": payload}
    assert describe_unverified(token) == describe_unverified(token.encode()) == shown


@pytest.mark.parametrize(
    "token", ["", "x", "VAH8", "é", b"\xff", "A" * 200, "VAH8" * 1000, " " + "VAEB" * 40]
)
def test_describe_unverified_of_what_has_no_form_is_refused(token: str | bytes) -> None:
    for act in (describe_unverified, key_id_of):
        with pytest.raises(InvalidInput, match="not a token"):
            act(token)


# ---- cookies ----


def test_set_cookie_is_the_whole_line() -> None:
    token = mint()
    line = set_cookie(token, session(), cookie_name="__Host-sid", now_unix_s=NOW + 100)
    attributes = "Path=/; Max-Age=800; HttpOnly; Secure; SameSite=Lax"
    assert line == f"Set-Cookie: __Host-sid={token}; {attributes}"


@pytest.mark.parametrize("cookie_name", ["__Host-sid", "__Secure-sid", "__host-sid", "__SECURE-sid", COOKIE])
def test_set_cookie_has_what_the_prefixes_demand(cookie_name: str) -> None:
    line = set_cookie(mint(), session(), cookie_name=cookie_name, now_unix_s=NOW)
    _, *attributes = line.split("; ")
    assert {"Secure", "Path=/"} <= set(attributes)
    assert "domain" not in line.lower()


def test_set_cookie_of_the_longest_token_and_name_stays_under_4096_bytes() -> None:
    token = mint(session(claims={"p": "x" * (2772 - len(bytes_of(mint(session(claims={"p": ""})))) + 78)}))
    assert len(token) == 3800
    far = session(exp=253_402_300_799, abs=253_402_300_799)
    assert len(set_cookie(token, far, cookie_name="x" * 128, now_unix_s=0).encode()) < 4096


def test_set_cookie_after_the_expiry_tells_the_browser_to_drop_it() -> None:
    assert "; Max-Age=0;" in set_cookie(mint(), session(), cookie_name=COOKIE, now_unix_s=NOW + 950)


@pytest.mark.parametrize("suffix", ["\r\nSet-Cookie: admin=1", "; Domain=example.com", "\n", " "])
def test_set_cookie_of_a_token_with_more_behind_it_is_refused(suffix: str) -> None:
    with pytest.raises(InvalidInput):
        set_cookie(mint() + suffix, session(), cookie_name=COOKIE, now_unix_s=NOW)


@pytest.mark.parametrize(
    "header",
    [
        "cyolo-sid=VAH8",
        "Cookie: cyolo-sid=VAH8",
        "cookie:cyolo-sid=VAH8",
        'theme=dark; cyolo-sid=VAH8; lang="en, fr"; flag; =; empty=',
        "cyolo-sid2=x;\tcyolo-sid=VAH8;x-cyolo-sid=y",
        "Cyolo-Sid=other; cyolo-sid=VAH8",
        "name=caf\xe9; cyolo-sid=VAH8",
    ],
)
def test_cookie_value_is_found_among_others(header: str) -> None:
    assert cookie_value(header, cookie_name=COOKIE) == "VAH8"


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("", "no cookie"),
        ("Cookie:", "no cookie"),
        ("theme=dark", "no cookie"),
        ("CYOLO-SID=VAH8", "no cookie"),
        ("a=b, cyolo-sid=VAH8", "no cookie"),
        ("cyolo-sid=VAH8; cyolo-sid=VAH9", "duplicate cookie"),
        ("cyolo-sid=VAH8; cyolo-sid=VAH8", "duplicate cookie"),
        ("cyolo-sid=VAH8; theme=dark; cyolo-sid=", "duplicate cookie"),
        ("cyolo-sid=VAH8, cyolo-sid=VAH9", "malformed cookie"),
        ("cyolo-sid", "malformed cookie"),
        ("cyolo-sid=VAH8; cyolo-sid", "malformed cookie"),
        ("cyolo-sid =VAH8", "malformed cookie"),
        ("cyolo-sid\xa0=VAH8", "malformed cookie"),
        ("cyolo-sid=", "malformed cookie"),
        ("cyolo-sid= VAH8", "malformed cookie"),
        ("cyolo-sid=VAH8 ", "malformed cookie"),
        ("cyolo-sid=VAH8 ; a=b", "malformed cookie"),
        ('cyolo-sid="VAH8"', "malformed cookie"),
        ("cyolo-sid=VAH8=", "malformed cookie"),
        ("cyolo-sid=V\u0410H8", "malformed cookie"),
        ("cyolo-sid=VAH8\r\nCookie: cyolo-sid=VAH9", "control characters in the header"),
        ("cyolo-sid=VAH8\0", "control characters in the header"),
        ("a=\x7f; cyolo-sid=VAH8", "control characters in the header"),
        ("cyolo-sid=VAH8; a=" + "x" * 65_536, "the header is too long"),
    ],
)
def test_cookie_value_of_a_wrong_header_is_rejected(header: str, why: str) -> None:
    assert reason(lambda: cookie_value(header, cookie_name=COOKIE)) == why


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", []),
        ("theme=dark", []),
        ("cyolo-sid=junk; cyolo-sid=VAH8", ["junk", "VAH8"]),
        ("cyolo-sid=VAH8; cyolo-sid=VAH8", ["VAH8"]),
        ('cyolo-sid="x"; cyolo-sid=; cyolo-sid; cyolo-sid =y; cyolo-sid=V\u0410H8;cyolo-sid=VAH8', ["VAH8"]),
    ],
)
def test_cookie_values_are_all_that_could_be_tokens_each_once(header: str, found: list[str]) -> None:
    assert cookie_values(header, cookie_name=COOKIE) == found


@pytest.mark.parametrize("header", ["cyolo-sid=VAH8\0", "cyolo-sid=VAH8; a=" + "x" * 65_536])
def test_cookie_values_of_a_wrong_header_are_rejected(header: str) -> None:
    with pytest.raises(TokenRejected):
        cookie_values(header, cookie_name=COOKIE)


def test_cookie_value_of_a_set_cookie_line_as_a_browser_returns_it_opens() -> None:
    line = set_cookie(mint(), session(), cookie_name=COOKIE, now_unix_s=NOW)
    pair = line.removeprefix("Set-Cookie: ").split(";")[0]
    assert opened(cookie_value(f"Cookie: theme=dark; {pair}", cookie_name=COOKIE)) == session()


def test_more_cookies_than_a_browser_keeps_are_a_flood_and_not_opened() -> None:
    def header(count: int) -> str:
        return "; ".join(f"sid={TOKEN_START}{n:04}" for n in range(count))

    assert len(token_cookies(header(MAX_COOKIES), cookie_name="sid")) == MAX_COOKIES
    with pytest.raises(TokenRejected) as refused:
        token_cookies(header(MAX_COOKIES + 1), cookie_name="sid")
    assert refused.value.reason == "too many cookies"
    assert token_cookies("; ".join(f"sid=x{n}" for n in range(99)), cookie_name="sid") == []
