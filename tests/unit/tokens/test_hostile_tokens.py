"""Hostile tokens: altered, mixed or oversized ones are rejected, and no rejection shows a secret."""

from __future__ import annotations

import contextlib
import copy
import pickle
import time
import traceback
import unicodedata
from base64 import b16encode, b32encode, b64encode, b85encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest

from cyoloctl.errors import ClockSetBack, CyoloctlError, InvalidInput, TokenRejected
from cyoloctl.keys.keyring import Key, Keyring, KeyState
from cyoloctl.tokens import format as token_format
from cyoloctl.tokens.format import ClockGuard, Session, new_session, open_token, seal

NOW = 1_800_000_000
CLUSTER = "0123456789abcdef0123456789abcdef"
COOKIE = "cyolo-sid"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
ID_1, ID_2 = b"\xfc\x01\xaa\xbb", b"\xfc\x02\xaa\xbb"
SECRET_1, SECRET_2 = bytes(range(32)), bytes(range(100, 132))
KEY_1 = Key(ID_1, SECRET_1, KeyState.PRIMARY, CLUSTER)
KEY_2 = Key(ID_2, SECRET_2, KeyState.ENABLED, CLUSTER)
RING = Keyring([KEY_1, KEY_2])
SESSION = new_session("alice", {"pin": "hush-hush"}, now_unix_s=NOW, random=lambda size: bytes(range(size)))


def mint(ring: Keyring = RING, *, cookie_name: str = COOKIE, audience: str = "", pad: int = 0) -> str:
    made = replace(SESSION, claims={**SESSION.claims, "pad": "x" * pad})
    return seal(
        ring, made, cookie_name=cookie_name, audience=audience, random=lambda size: bytes(range(7, 7 + size))
    )


TOKEN = mint()
# Texts of every length modulo 4 that base64 has, so that the last character has 0, 2 and 4 unused bits.
TOKENS = [mint(pad=pad) for pad in range(3)]


def opens(token: str | bytes, ring: Keyring = RING, *, cookie_name: str = COOKIE, audience: str = "") -> bool:
    """False for TokenRejected; any other exception fails the test."""
    try:
        open_token(ring, token, now_unix_s=NOW, cookie_name=cookie_name, audience=audience)
    except TokenRejected:
        return False
    return True


def text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def data_of(token: str) -> bytes:
    return urlsafe_b64decode(token + "=" * (-len(token) % 4))


def test_tokens_here_open_and_have_every_length_modulo_4() -> None:
    assert all(opens(token) for token in TOKENS)
    assert {len(token) % 4 for token in TOKENS} == {0, 2, 3}


# ---- altered bytes and characters ----


@pytest.mark.parametrize("token", TOKENS, ids=["0", "1", "2"])
def test_token_with_any_one_bit_flipped_is_rejected(token: str) -> None:
    data = data_of(token)
    for bit in range(len(data) * 8):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        assert not opens(text(bytes(altered))), bit


@pytest.mark.parametrize("token", TOKENS, ids=["0", "1", "2"])
def test_token_with_any_character_replaced_by_each_of_the_64_is_rejected(token: str) -> None:
    for at, old in enumerate(token):
        for new in ALPHABET:
            assert opens(token[:at] + new + token[at + 1 :]) == (new == old), (at, new)


def test_token_with_any_character_replaced_by_any_other_byte_is_rejected() -> None:
    data = TOKEN.encode()
    others = [bytes([byte]) for byte in range(256) if chr(byte) not in ALPHABET]
    for at in range(len(data)):
        for new in others:
            assert not opens(data[:at] + new + data[at + 1 :]), (at, new)


@pytest.mark.parametrize("token", TOKENS, ids=["0", "1", "2"])
def test_token_truncated_at_any_length_is_rejected(token: str) -> None:
    assert not any(opens(token[:length]) for length in range(len(token)))
    assert not any(opens(token[start:]) for start in range(1, len(token) + 1))


def test_token_with_any_byte_dropped_or_inserted_is_rejected() -> None:
    data = data_of(TOKEN)
    for at in range(len(data) + 1):
        if at < len(data):
            assert not opens(text(data[:at] + data[at + 1 :]))
        assert not opens(text(data[:at] + b"\0" + data[at:]))


@pytest.mark.parametrize("token", TOKENS, ids=["0", "1", "2"])
def test_token_with_characters_appended_or_prepended_is_rejected(token: str) -> None:
    for more in [*map(chr, range(256)), "==", "===", "====", "AAAA", "\r\n", "%3D", "\u2028", "\ufeff"]:
        assert not opens(token + more), more
        assert not opens(more + token), more


def test_token_doubled_is_rejected() -> None:
    for between in ("", " ", ".", "=", "\n", ";", ","):
        assert not opens(TOKEN + between + TOKEN)


# ---- spellings ----


def test_token_with_letters_that_look_or_normalise_alike_is_rejected() -> None:
    cyrillic = str.maketrans("AaBCcEeHKMOoPpTXxy", "АаВСсЕеНКМОоРрТХху")  # noqa: RUF001
    for at, old in enumerate(TOKEN):
        for new in (old.translate(cyrillic), chr(ord(old) + 0xFEE0), old + "\u0301", "\u200b" + old):
            if new != old:
                assert not opens(TOKEN[:at] + new + TOKEN[at + 1 :]), (at, new)
    wide = "".join(chr(ord(character) + 0xFEE0) for character in TOKEN)
    assert unicodedata.normalize("NFKC", wide) == TOKEN
    assert not opens(wide)


def test_token_with_white_space_or_nul_anywhere_is_rejected() -> None:
    for at in range(len(TOKEN) + 1):
        for new in (" ", "\n", "\r", "\t", "\0", "\x0b", "\x0c", "\xa0", "\u3000"):
            assert not opens(TOKEN[:at] + new + TOKEN[at:])


def test_token_in_other_encodings_of_its_bytes_is_rejected() -> None:
    for token in TOKENS:
        data = data_of(token)
        spellings: set[str | bytes] = {
            b64encode(data).decode(),
            urlsafe_b64encode(data).decode() + "=",
            b16encode(data).decode(),
            data.hex(),
            b32encode(data).decode(),
            b85encode(data).decode(),
            data,
            token.encode("utf-16"),
            token.encode("utf-16-le"),
            token.encode("utf-32"),
            b"\xef\xbb\xbf" + token.encode(),
            token.lower(),
            token.upper(),
            token.swapcase(),
            token[::-1],
            "".join(f"%{ord(character):02X}" for character in token),
            quote(token).replace("-", "%2D"),
            text(token.encode()),
            f"'{token}'",
            f"Bearer {token}",
            f"{COOKIE}={token}",
        }
        assert not any(opens(spelling) for spelling in spellings - {token})


def test_token_has_no_second_spelling_of_its_last_character() -> None:
    for token in TOKENS:
        assert [last for last in ALPHABET if opens(token[:-1] + last)] == [token[-1]]


# ---- other keys and contexts ----


def test_token_with_its_key_id_swapped_for_another_live_one_is_rejected() -> None:
    data = data_of(TOKEN)
    assert not opens(text(data[:2] + ID_2 + data[6:]))


def test_token_under_the_same_key_id_with_another_secret_is_rejected() -> None:
    other = Keyring([replace(KEY_1, secret=SECRET_2)])
    assert not opens(TOKEN, other)
    assert not opens(mint(other))


def test_token_under_a_key_of_the_ring_that_its_id_does_not_name_is_rejected() -> None:
    swapped = Keyring([replace(KEY_1, secret=SECRET_2), replace(KEY_2, secret=SECRET_1)])
    assert not opens(TOKEN, swapped)


def test_token_for_another_cluster_cookie_or_audience_is_rejected() -> None:
    assert not opens(TOKEN, Keyring([replace(KEY_1, cluster_id="f" * 32)]))
    for cookie_name in ("cyolo-si", "cyolo-sidd", "Cyolo-Sid", "__Host-cyolo-sid"):
        assert not opens(TOKEN, cookie_name=cookie_name)
    assert not opens(TOKEN, audience="gateway-1")
    named = mint(audience="gateway-1")
    assert opens(named, audience="gateway-1")
    for audience in ("", "gateway-2", "gateway-1 ", "Gateway-1", "gateway-1\0"):
        assert not opens(named, audience=audience)


def test_token_with_a_boundary_moved_between_parts_of_the_context_is_rejected() -> None:
    def ring(cluster_id: str) -> Keyring:
        return Keyring([replace(KEY_1, cluster_id=cluster_id)])

    splits = [
        (cluster, cookie_name, audience)
        for cluster, cookie_name, audience in (
            ("a", "b", "cd"),
            ("a", "bc", "d"),
            ("ab", "c", "d"),
            ("ab", "cd", ""),
            ("a", "bcd", ""),
            ("abc", "d", ""),
        )
    ]
    for mine in splits:
        token = mint(ring(mine[0]), cookie_name=mine[1], audience=mine[2])
        for yours in splits:
            found = opens(token, ring(yours[0]), cookie_name=yours[1], audience=yours[2])
            assert found == (mine == yours)


def test_token_with_parts_of_two_good_tokens_is_rejected() -> None:
    first = data_of(TOKEN)
    # Other random bytes from the first one on: a part that is the same in both would change nothing.
    second = data_of(
        seal(
            RING, replace(SESSION, gen=2), cookie_name=COOKIE, random=lambda size: bytes(range(99, 99 + size))
        )
    )
    for at in (7, 18, 30, 46, 62, len(first) - 16):
        assert not opens(text(first[:at] + second[at:]))
        assert not opens(text(second[:at] + first[at:]))


# ---- size and time ----


@pytest.mark.alone
@pytest.mark.parametrize(
    "token",
    [
        "A" * 10_000_000,
        b"A" * 10_000_000,
        "\u0410" * 10_000_000,
        b"\xff" * 10_000_000,
        TOKEN * 30_000,
        "VAH8" + "=" * 10_000_000,
    ],
    ids=["letters", "bytes", "cyrillic", "high bytes", "repeated", "padding"],
)
def test_token_of_ten_megabytes_is_rejected_at_once(token: str | bytes) -> None:
    begun = time.perf_counter()
    assert not opens(token)
    # The limit is looked at first: nothing that grows with the input.  Generous, for a busy machine.
    assert time.perf_counter() - begun < 0.05


def test_token_at_the_limit_that_is_all_brackets_is_rejected_without_recursion() -> None:
    # Authentic payloads of the worst shapes that fit, made with the key.
    for payload in (b"[" * 2700, b"{" * 2700, b'{"a":' * 540, b"[" * 1350 + b"]" * 1350, b'"' + b"\\" * 2699):
        front = b"\x54\x01" + ID_1 + bytes(24)
        derived = token_format._derive(KEY_1, front[:6], bytes(24), COOKIE, "")
        front += derived[44:]
        sealed = token_format.AESGCM(derived[:32]).encrypt(derived[32:44], payload, front)
        assert not opens(text(front + sealed))


def test_clock_set_back_is_an_error_and_does_not_revive_an_expired_token() -> None:
    guard = ClockGuard()
    guard.check(NOW + 961)
    with pytest.raises(TokenRejected):
        open_token(RING, TOKEN, now_unix_s=NOW + 961, cookie_name=COOKIE)
    with pytest.raises(ClockSetBack):
        guard.check(NOW)


def test_two_cookies_in_one_header_are_rejected_whichever_is_good() -> None:
    old, new = TOKEN, mint(pad=1)
    for first, second in ((old, new), (new, old), (old, old)):
        with pytest.raises(TokenRejected) as caught:
            token_format.cookie_value(f"{COOKIE}={first}; {COOKIE}={second}", cookie_name=COOKIE)
        assert caught.value.reason == "duplicate cookie"


# ---- secrets ----


def spellings(secret: bytes) -> Iterator[str]:
    """Spellings of a secret: as text, hexadecimal, base64 or the repr of bytes."""
    yield from (secret.hex(), b64encode(secret).decode()[:40], urlsafe_b64encode(secret).decode()[:40])
    yield repr(secret)[2:-1]
    yield repr(list(secret))[1:-1]


SECRETS = [*spellings(SECRET_1), *spellings(SECRET_2), TOKEN, "hush-hush"]


def assert_no_secret(shown: str) -> None:
    assert not [secret for secret in SECRETS if secret in shown]


def test_repr_and_str_of_everything_hold_no_secret() -> None:
    for thing in (KEY_1, RING, SESSION, [KEY_1], {"ring": RING}, (SESSION,)):
        assert_no_secret(f"{thing!r} {thing!s} {thing}")
    assert "(hidden)" in repr(KEY_1)


def test_keys_and_keyrings_cannot_be_pickled_or_copied() -> None:
    for thing in (KEY_1, RING):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="never pickled"):
                pickle.dumps(thing, protocol)
        for act in (copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="never pickled"):
                act(thing)


def rejected(token: Any, ring: Keyring = RING, **arguments: Any) -> CyoloctlError:
    given = {"now_unix_s": NOW, "cookie_name": COOKIE, **arguments}
    with pytest.raises(TokenRejected) as caught:
        open_token(ring, token, **given)
    return caught.value


def own_frames(error: BaseException) -> str:
    """The traceback with the variables of each frame of token_format.py, and of all that it is chained to."""
    shown = []
    todo: list[BaseException | None] = [error]
    while todo:
        item = todo.pop()
        if item is not None:
            stack = traceback.TracebackException.from_exception(item, capture_locals=True)
            stack.stack = traceback.StackSummary.from_list(
                [frame for frame in stack.stack if frame.filename == token_format.__file__]
            )
            assert stack.stack
            shown.append("".join(stack.format()))
            shown.append(repr(vars(item)))
            todo += [item.__cause__, item.__context__]
    return "\n".join(shown)


def authentic(payload: bytes) -> str:
    front = b"\x54\x01" + ID_1 + bytes(24)
    derived = token_format._derive(KEY_1, front[:6], bytes(24), COOKIE, "")
    front += derived[44:]
    return text(front + token_format.AESGCM(derived[:32]).encrypt(derived[32:44], payload, front))


REJECTED: dict[str, tuple[Any, dict[str, Any]]] = {
    "not text": (None, {}),
    "alphabet": (TOKEN + "é", {}),
    "base64": (TOKEN + "=", {}),
    "length": (TOKEN * 20, {}),
    "commitment": (TOKEN, {"audience": "other"}),
    "tag": (text(data_of(TOKEN)[:-1]), {}),
    "not utf-8": (authentic(b"hush-hush\xff"), {}),
    "not json": (authentic(b"hush-hush"), {}),
    "other fields": (authentic(b'{"hush-hush":1}'), {}),
    "spelling": (authentic(b'{"hush-hush": 1}'), {}),
    "number": (authentic(b'{"hush-hush":0.5}'), {}),
    "expired": (TOKEN, {"now_unix_s": NOW + 5000}),
    "revoked": (TOKEN, {"revoked": lambda session: True}),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejection_holds_no_secret_in_message_traceback_variables_or_chain(name: str) -> None:
    token, arguments = REJECTED[name]
    error = rejected(token, **arguments)
    shown = own_frames(error)
    assert_no_secret(shown)
    if isinstance(token, str):
        assert token not in shown
    assert (error.__cause__, error.__context__) == (None, None)


def test_rejection_shows_one_message_and_keeps_its_reason_aside() -> None:
    errors = [rejected(token, **arguments) for token, arguments in REJECTED.values()]
    assert {(str(error), repr(error), error.args) for error in errors} == {
        ("token rejected", "TokenRejected('token rejected')", ("token rejected",))
    }
    assert all(error.reason for error in errors if isinstance(error, TokenRejected))
    assert all("TokenRejected: token rejected" in traceback.format_exception(error)[-1] for error in errors)


@pytest.mark.parametrize(
    "claims", [{"pin": "hush-hush" * 400}, {"pin": "hush-hush\ud800"}], ids=["too large", "surrogate"]
)
def test_refusal_to_mint_shows_neither_key_nor_payload(claims: dict[str, Any]) -> None:
    made = replace(SESSION, claims=claims)
    with pytest.raises(InvalidInput) as caught:
        seal(RING, made, cookie_name=COOKIE)
    assert_no_secret(f"{caught.value!r} {caught.value.__context__!r}")
    stack = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    for frame in stack.stack:
        if frame.filename == token_format.__file__ and frame.name == "seal":
            assert_no_secret(repr(frame.locals))


def test_refusal_to_describe_holds_no_token() -> None:
    for act in (token_format.key_id_of, token_format.describe_unverified):
        with pytest.raises(InvalidInput) as caught:
            act(TOKEN + "=")
        assert_no_secret(repr(caught.value))
        assert caught.value.__context__ is None


def test_failure_of_the_revocation_callback_passes_and_holds_no_token() -> None:
    class Broken(Exception):
        pass

    def revoked(session: Session) -> bool:
        raise Broken

    with pytest.raises(Broken) as caught:
        open_token(RING, TOKEN, now_unix_s=NOW, cookie_name=COOKIE, revoked=revoked)
    assert_no_secret(own_frames(caught.value))


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(0)
    opens(TOKEN)
    for token, arguments in REJECTED.values():
        with contextlib.suppress(CyoloctlError):
            open_token(RING, token, **{"now_unix_s": NOW, "cookie_name": COOKIE, **arguments})
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")


def test_commitment_is_compared_in_constant_time() -> None:
    # By what is called, since time on a shared machine proves nothing.
    assert "compare_digest" in token_format._open.__code__.co_names
