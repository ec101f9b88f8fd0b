"""User codes, ids and sealed results of a rendezvous."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoloctl.errors import ConfigError, InvalidInput
from cyoloctl.pki.seal import seal
from cyoloctl.rendezvous.codes import (
    MAX_RESULT_BYTES,
    USER_CODE_ALPHABET,
    hash_user_code,
    id_of_public_key,
    new_key,
    new_user_code,
    normalise_user_code,
    open_result,
    seal_result,
    shown_user_code,
)
from cyoloctl.rendezvous.records import MAX_SEALED_LENGTH

PRIVATE, PUBLIC = new_key(lambda n: b"k" * n)


def stream(data: bytes) -> Callable[[int], bytes]:
    """These bytes, then again from the first."""
    source = itertools.cycle(data)
    return lambda n: bytes(itertools.islice(source, n))


def test_user_code_of_each_byte_has_every_letter_as_often() -> None:
    random = stream(bytes(range(256)))
    codes = [new_user_code(random) for _ in range(240 // 8)]
    letters = Counter("".join(codes).replace("-", ""))
    assert letters == dict.fromkeys(USER_CODE_ALPHABET, 12)


def test_user_code_is_shown_in_two_groups() -> None:
    assert new_user_code(stream(b"\xff\x00\x13\xf0")) == "BZBZ-BZBZ"
    assert len(set(USER_CODE_ALPHABET)) == 20


@given(st.binary(max_size=8).map(lambda data: new_user_code(stream(data + b"\x07"))))
def test_user_code_is_read_whatever_its_case_dashes_and_spaces(code: str) -> None:
    plain = code.replace("-", "")
    for text in (code, plain, code.lower(), f" {plain[0]} {plain[1:]}-", "-".join(plain.lower())):
        assert normalise_user_code(text) == plain
        assert hash_user_code(text) == hash_user_code(code)


@pytest.mark.parametrize(
    "text",
    [
        "wdjb\N{EN DASH}mjht",
        "WDJB\N{NON-BREAKING HYPHEN}MJHT",
        "WDJB\N{MINUS SIGN}MJHT",
        "WDJB\N{EM DASH}MJHT",
        "WDJB\N{SOFT HYPHEN}-\N{SOFT HYPHEN}MJHT",
        "\N{NO-BREAK SPACE}WDJB\N{NARROW NO-BREAK SPACE}MJHT\N{IDEOGRAPHIC SPACE}",
        "\N{ZERO WIDTH NO-BREAK SPACE}WDJB-\N{ZERO WIDTH SPACE}MJHT\N{WORD JOINER}",
        "\N{LEFT-TO-RIGHT MARK}W\N{ZERO WIDTH JOINER}DJB-MJHT\N{POP DIRECTIONAL ISOLATE}",
    ],
)
def test_user_code_is_read_with_what_other_programs_make_of_its_dash_and_spaces(text: str) -> None:
    assert normalise_user_code(text) == "WDJBMJHT"
    assert shown_user_code(text) == "WDJB-MJHT"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "WDJB-MJ",
        "WDJB-MJHTT",
        "WDJB-MJHA",
        "WDJB-MJH1",
        "WDJB_MJHT",
        "WDJB\tMJHT",
        "WDJB-MJH\u017f",  # upper() makes an S of it
        "\uff37DJB-MJHT",
        "\u0412DJB-MJHT",
        "WDJBMJHT" + " " * 57,
    ],
)
def test_user_code_with_other_letters_is_invalid_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidInput, match="the user code is not valid: use the 8 letters") as caught:
        hash_user_code(text)
    assert len(text) < 8 or text not in caught.value.message


@given(st.text(max_size=20))
def test_user_code_of_any_text_is_normalised_or_invalid(text: str) -> None:
    try:
        code = normalise_user_code(text)
    except InvalidInput:
        return
    assert len(code) == 8
    assert set(code) <= set(USER_CODE_ALPHABET)


def test_hash_of_a_user_code_is_of_its_own_domain() -> None:
    assert hash_user_code("wdjb-mjht") == hashlib.sha256(b"cyoloctl user code v1WDJBMJHT").hexdigest()


def test_id_is_of_the_public_key() -> None:
    raw = base64.b64decode(PUBLIC)
    assert id_of_public_key(PUBLIC) == hashlib.sha256(b"cyoloctl rendezvous id v1" + raw).hexdigest()[:32]
    assert new_key()[1] != new_key()[1]


@pytest.mark.parametrize("key", ["", "x", PUBLIC[:-1], PUBLIC + "\n", PUBLIC[:-2] + "/=", "é" * 44, "AAAA"])
def test_id_of_what_is_no_key_is_invalid(key: str) -> None:
    with pytest.raises(InvalidInput, match="public key"):
        id_of_public_key(key)


@pytest.mark.parametrize("result", [b"", b"secret", b"x" * MAX_RESULT_BYTES])
def test_sealed_result_opens_with_the_initiators_key_and_fits_a_record(result: bytes) -> None:
    sealed = seal_result(PUBLIC, result)
    assert len(sealed) <= MAX_SEALED_LENGTH
    assert open_result(PRIVATE, PUBLIC, sealed) == result
    assert sealed != seal_result(PUBLIC, result)


def test_result_that_would_not_fit_a_record_is_invalid() -> None:
    with pytest.raises(InvalidInput, match="send less"):
        seal_result(PUBLIC, b"x" * (MAX_RESULT_BYTES + 1))


def test_seal_to_a_key_of_low_order_is_invalid() -> None:
    with pytest.raises(InvalidInput, match="public key"):
        seal_result("A" * 43 + "=", b"x")


def test_sealed_result_of_another_key_record_or_purpose_does_not_open() -> None:
    other_private, other_public = new_key(lambda n: b"o" * n)
    sealed = seal_result(PUBLIC, b"x")
    flipped = ("B" if sealed[20] == "A" else "A").join((sealed[:20], sealed[21:]))
    cases = [
        (other_private, other_public, sealed),
        (PRIVATE, other_public, sealed),
        (PRIVATE, PUBLIC, flipped),
        (PRIVATE, PUBLIC, sealed[:-4]),
        (PRIVATE, PUBLIC, ""),
        (PRIVATE, PUBLIC, seal(PUBLIC, b"x", b"")),
    ]
    for private, public, text in cases:
        with pytest.raises(InvalidInput, match="start another"):
            open_result(private, public, text)
    with pytest.raises(ConfigError):
        open_result("", PUBLIC, sealed)
