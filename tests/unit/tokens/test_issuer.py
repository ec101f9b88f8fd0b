"""Tokens that a node cannot open yet, and tokens that it must refuse."""

from __future__ import annotations

import pytest

from cyoloctl.errors import TokenRejected, Unavailable
from cyoloctl.keys.keyring import Key, Keyring
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
