"""Join tokens, and the signature that stands for their secret."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from cyoloctl.errors import InvalidInput
from cyoloctl.model import Address, ClusterId, NodeName
from cyoloctl.pki import join_token
from cyoloctl.pki.requests import csr_sha256
from tests.support.joining import frame, join_body, token_key

ID, OTHER_ID = "0123456789abcdef0123456789abcdef", "f" * 32
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"  # the bytes 0 to 31


@pytest.fixture
def token() -> join_token.JoinToken:
    return join_token.JoinToken(
        cluster_id=ClusterId(ID),
        cluster=NodeName("demo"),
        ca_sha256="c" * 64,
        name=NodeName("n2"),
        learner=False,
        secret=join_token.new_secret(),
        expires_unix_s=1_900_000_000,
        members=((NodeName("n1"), Address("10.0.0.1", 7700)), (NodeName("n3"), Address("::1", 7701))),
    )


def raw_token(value: object) -> str:
    data = (
        value
        if isinstance(value, bytes)
        else json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    )
    return "cyolojoin2." + base64.urlsafe_b64encode(data).decode().rstrip("=")


def opened(token: join_token.JoinToken) -> dict[str, Any]:
    body = join_token.encode_token(token).removeprefix("cyolojoin2.")
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return value


def test_decode_token_of_an_encoded_one_is_the_same(token: join_token.JoinToken) -> None:
    text = join_token.encode_token(token)
    assert "\n" not in text
    assert join_token.decode_token(text) == token
    assert join_token.decode_token(f"  {text}\n") == token
    assert opened(token) == {
        "v": 2,
        "cluster_id": ID,
        "cluster": "demo",
        "ca_sha256": "c" * 64,
        "name": "n2",
        "learner": False,
        "secret": token.secret,
        "expires_unix_s": 1_900_000_000,
        "members": [{"name": "n1", "address": "10.0.0.1:7700"}, {"name": "n3", "address": "[::1]:7701"}],
    }


def test_token_made_while_the_ca_is_exchanged_names_both(token: join_token.JoinToken) -> None:
    both = replace(token, ca_sha256=f"{'c' * 64},{'d' * 64}")
    assert join_token.decode_token(join_token.encode_token(both)) == both


def test_decode_token_of_every_defect_raises_the_same_error(token: join_token.JoinToken) -> None:
    text, value = join_token.encode_token(token), opened(token)
    first = value["members"][0]
    wrong = [
        "",
        "cyolojoin2.",
        text[:-1],
        text + "A",
        text + "=",
        text[: len(text) // 2] + "\n" + text[len(text) // 2 :],
        text.replace("cyolojoin2.", "cyolojoin3."),
        text.replace("cyolojoin2.", ""),
        text.upper(),
        "cyolojoin2." + "A" * 40000,
        "\u00e9" + text,
        raw_token(b"\xff\xff"),
        raw_token(b"[" * 20000),
        raw_token(b"1" * 5000),
        raw_token(json.dumps(value).encode()),
        raw_token(json.dumps(value, sort_keys=True, separators=(",", ":")).encode("utf-16")),
        raw_token([]),
        raw_token(value | {"more": 1}),
        raw_token({name: value[name] for name in value if name != "learner"}),
        raw_token(value | {"v": 1}),
        raw_token(value | {"v": True}),
        raw_token(value | {"v": 2.0}),
        raw_token(value | {"learner": 0}),
        raw_token(value | {"expires_unix_s": 0}),
        raw_token(value | {"expires_unix_s": 10**30}),
        raw_token(value | {"expires_unix_s": float("nan")}),
        raw_token(value | {"name": "N2"}),
        raw_token(value | {"name": "\ud800"}),
        raw_token(value | {"cluster": ""}),
        raw_token(value | {"cluster_id": "x"}),
        raw_token(value | {"ca_sha256": "C" * 64}),
        raw_token(value | {"ca_sha256": "c" * 63}),
        raw_token(value | {"ca_sha256": ",".join(["c" * 64] * 3)}),
        raw_token(value | {"secret": "short"}),
        raw_token(value | {"secret": value["secret"] + "\n"}),
        raw_token(value | {"secret": "A" * 42 + "B"}),  # another spelling of 32 zero bytes
        raw_token(value | {"members": []}),
        raw_token(value | {"members": [1]}),
        raw_token(value | {"members": {}}),
        raw_token(value | {"members": ["10.0.0.1:7700"]}),
        raw_token(value | {"members": [first | {"more": 1}]}),
        raw_token(value | {"members": [first | {"name": "N1"}]}),
        raw_token(value | {"members": [first | {"address": "nowhere"}]}),
        raw_token(value | {"members": [first | {"address": "10.0.0.1:07700"}]}),
        raw_token(value | {"members": [first | {"address": 7}]}),
        raw_token(value | {"members": [first, first]}),
        raw_token(value | {"members": [{"name": f"m{n}", "address": "h:1"} for n in range(65)]}),
    ]
    messages = set()
    for one in wrong:
        with pytest.raises(InvalidInput) as caught:
            join_token.decode_token(one)
        assert caught.value.__cause__ is None
        messages.add(caught.value.message)
    (message,) = messages
    assert "cyoloctl member invite" in message


def test_decode_token_of_release_0_1_0_says_to_invite_again() -> None:
    with pytest.raises(InvalidInput, match=r"0\.1\.0.*member invite"):
        join_token.decode_token("cyolojoin1.e30\n")


def test_join_token_shows_its_secret_in_no_text(token: join_token.JoinToken) -> None:
    assert token.secret not in f"{token} {token!r}"
    assert "(hidden)" in repr(token)


def test_join_token_of_invalid_values_cannot_be_made(token: join_token.JoinToken) -> None:
    changes: list[dict[str, Any]] = [
        {"name": "N2"}, {"secret": ""}, {"expires_unix_s": 0}, {"members": ()}, {"ca_sha256": ""},
        {"members": token.members * 2}, {"cluster_id": "x"},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(InvalidInput):
            replace(token, **change)


def test_new_secret_is_43_characters_from_the_given_randomness() -> None:
    assert join_token.new_secret(lambda count: b"\xff" * count) == "_" * 42 + "8"
    assert join_token.new_secret() != join_token.new_secret()


# -- the signature ------------------------------------------------------------------------------


def test_public_key_and_signature_are_the_pinned_ones() -> None:
    """Pinned: another release must read what this one writes.  Ed25519 is deterministic (RFC 8032)."""
    request = join_token.JoinRequest(ID, "n2", "a" * 64, "10.0.0.2:7700", "A" * 43 + "=", "c" * 64)
    assert join_token.public_key(SECRET, ID, "n2") == PINNED_KEY
    assert join_token.sign(SECRET, request) == PINNED_SIGNATURE
    assert join_token.signed_by(PINNED_KEY, PINNED_SIGNATURE, request)


PINNED_KEY = "U838rEpxf1hJUGFsfC36lUxMp+W9HIsy4q1MF6OQr9A="
PINNED_SIGNATURE = "ZtZm6wGnyNJ+z0NkFkGKVNTVUIymFb5QuNQPNnn72NgYxIDmfi2rCQ7RY1uJXQQsDqVIc/TNP2xfyQyiHlUHCw=="


def test_statement_is_framed_so_that_no_boundary_can_shift() -> None:
    request = join_token.JoinRequest(ID, "n2", "a" * 64, "h:1", "K", "C")
    assert request.statement() == frame("cyoloctl join v1", ID, "n2", "a" * 64, "h:1", "K", "C")
    shifted = replace(request, address="h:", sealing_key="1K")
    assert shifted.statement() != request.statement()


def test_signature_of_an_independent_implementation_is_taken() -> None:
    body = join_body(SECRET, "n2", ID)
    assert body["public_key"] == join_token.public_key(SECRET, ID, "n2")
    request = join_token.JoinRequest(
        ID, "n2", csr_sha256(body["request_pem"]), body["address"], body["sealing_key"], "c" * 64
    )
    assert join_token.signed_by(body["public_key"], body["signature"], request)


@pytest.mark.parametrize(
    "change",
    [
        {"cluster_id": OTHER_ID},
        {"name": "n3"},
        {"request_sha256": "b" * 64},
        {"address": "10.0.0.2:7701"},
        {"sealing_key": "B" * 43 + "="},
        {"ca_sha256": "d" * 64},
        {"name": "\ud800"},
    ],
)
def test_signature_holds_for_no_other_request(change: dict[str, Any]) -> None:
    request = join_token.JoinRequest(ID, "n2", "a" * 64, "10.0.0.2:7700", "A" * 43 + "=", "c" * 64)
    key, signature = join_token.public_key(SECRET, ID, "n2"), join_token.sign(SECRET, request)
    assert not join_token.signed_by(key, signature, replace(request, **change))


@pytest.mark.parametrize(
    "text", ["", "x", "\u00e9", "A" * 43 + "=", "A" * 86 + "==", "A" * 85 + "==", "=" * 9]
)
def test_signed_by_of_any_text_is_false(text: str) -> None:
    request = join_token.JoinRequest(ID, "n2", "a" * 64, "h:1", "K", "C")
    key, signature = join_token.public_key(SECRET, ID, "n2"), join_token.sign(SECRET, request)
    assert not join_token.signed_by(text, signature, request)
    assert not join_token.signed_by(key, text, request)


def test_keys_of_one_secret_differ_by_name_and_cluster() -> None:
    keys = {
        join_token.public_key(SECRET, cluster_id, name)
        for cluster_id in (ID, OTHER_ID)
        for name in ("n2", "n3")
    }
    assert len(keys) == 4
    assert token_key(SECRET, "n2", ID) is not None


def test_token_of_a_witness_says_so_and_no_other_has_the_field(token: join_token.JoinToken) -> None:
    witness = replace(token, witness=True)
    assert join_token.decode_token(join_token.encode_token(witness)) == witness
    assert opened(witness)["witness"] is True
    assert "witness" not in opened(token), "earlier releases take no other field"
    with pytest.raises(InvalidInput, match="for a learner or for a witness"):
        replace(witness, learner=True)
    for wrong in (False, 1, "true", None):
        with pytest.raises(InvalidInput, match="not valid"):
            join_token.decode_token(raw_token({**opened(token), "witness": wrong}))
