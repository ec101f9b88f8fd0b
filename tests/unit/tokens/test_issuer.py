"""Tokens that a node cannot open yet, those that it must refuse, and those that it must not make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cyoloctl.errors import InvalidInput, TokenRejected, Unavailable
from cyoloctl.keys.keyring import Key, Keyring
from cyoloctl.tokens.format import Session
from cyoloctl.tokens.issuer import Context, Issuer

NOW = 1_800_000_000
RING = Keyring([Key(b"\xfc\x00\x00\x01", b"k" * 32, "primary", "a" * 32)])


def issuer(ring: Keyring, *coming: bytes) -> Issuer:
    return Issuer(ring=lambda: ring, keep_s=lambda: 604_800, lacks=lambda key_id: key_id in coming)


def token() -> str:
    made = issuer(RING).mint(
        sub="alice", claims={}, ttl_s=900, max_age_s=3600, context=Context(), now_unix_s=NOW
    )
    return str(made["token"])


def test_token_under_a_key_that_is_on_its_way_is_unavailable_not_rejected() -> None:
    joining = issuer(Keyring(), b"\xfc\x00\x00\x01")
    with pytest.raises(Unavailable, match="fc000001 yet"):
        joining.inspect(token(), context=Context(), now_unix_s=NOW)


@pytest.mark.parametrize("text", ["", "nonsense", "VAH8", "\u00e9"])
def test_what_is_no_token_is_rejected_while_keys_are_on_their_way(text: str) -> None:
    with pytest.raises(TokenRejected):
        issuer(Keyring(), b"\xfc\x00\x00\x01").inspect(text, context=Context(), now_unix_s=NOW)


def test_token_under_a_key_that_nobody_has_is_rejected() -> None:
    with pytest.raises(TokenRejected):
        issuer(Keyring()).inspect(token(), context=Context(), now_unix_s=NOW)


def node(refuses: Callable[[Session], str | None] = lambda session: None, *, earliest_s: int = 0) -> Issuer:
    return Issuer(
        ring=lambda: RING, keep_s=lambda: 7_200, refuses=refuses, earliest_iat=lambda sub: earliest_s
    )


def mint(one: Issuer, sub: str = "alice", *, max_age_s: int = 3600) -> Any:
    return one.mint(
        sub=sub, claims={"n": 1}, ttl_s=900, max_age_s=max_age_s, context=Context(), now_unix_s=NOW
    )


def test_session_that_the_cluster_refuses_opens_only_for_those_who_ask_for_it_too() -> None:
    one = node(lambda session: "revoked" if session.sub == "alice" else None)
    text = token()
    with pytest.raises(TokenRejected) as refused:
        one.open(text, context=Context(), now_unix_s=NOW)
    assert refused.value.reason == "revoked"
    assert one.counts == {"minted": 0, "opened": 0, "rejected": 1}
    assert one.open(text, context=Context(), now_unix_s=NOW, revoked_too=True).sub == "alice"
    assert one.counts == {"minted": 0, "opened": 1, "rejected": 1}


def test_no_token_outlives_its_key_or_is_for_a_subject_that_cannot_be_revoked() -> None:
    assert mint(node(), max_age_s=7_200)["valid"]
    with pytest.raises(InvalidInput, match="--keep"):
        mint(node(), max_age_s=7_201)
    for sub in ("a\nb", "\x00", "a\x7f"):
        with pytest.raises(InvalidInput, match="control characters"):
            mint(node(), sub)


@pytest.mark.parametrize(("earliest_s", "issued_s"), [(0, NOW), (NOW + 1, NOW + 1), (NOW + 60, NOW + 60)])
def test_session_right_after_its_subject_was_revoked_is_a_good_one(earliest_s: int, issued_s: int) -> None:
    one = node(lambda session: "revoked" if session.iat < earliest_s else None, earliest_s=earliest_s)
    session = one.open(mint(one)["token"], context=Context(), now_unix_s=NOW)
    assert session.iat == issued_s


def test_session_that_would_be_refused_at_once_is_not_minted() -> None:
    one = node(lambda session: "revoked" if session.iat < NOW + 61 else None, earliest_s=NOW + 61)
    with pytest.raises(Unavailable, match="clocks"):
        mint(one)
    assert one.counts["minted"] == 0


def header(*tokens: str) -> str:
    return "Cookie: " + "; ".join(f"cyolo-sid={text}" for text in tokens)


def test_of_several_cookies_the_newest_of_the_one_session_that_opens_counts() -> None:
    one = node()
    first = mint(one)["token"]
    session = one.open(first, context=Context(), now_unix_s=NOW)
    second = one.seal_updated(session, {"n": 2}, [], context=Context(), now_unix_s=NOW)["token"]
    other = mint(one, "mallory")["token"]

    def chosen(*tokens: str, by: Issuer = one) -> str:
        return by.token_of(header(*tokens), context=Context(), now_unix_s=NOW)

    for order in ((first, second), (second, first), (second, first[:-4] + "AAAA", first)):
        assert chosen(*order) == second
    with pytest.raises(TokenRejected) as refused:
        chosen(first, other)
    assert refused.value.reason == "cookies of two sessions"
    # One that was revoked does not stand in the way of one that was not.
    assert chosen(first, other, by=node(lambda s: "revoked" if s.sub == "mallory" else None)) == first
    with pytest.raises(TokenRejected):
        chosen()
