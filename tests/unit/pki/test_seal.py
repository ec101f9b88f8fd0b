"""Sealed boxes: opened by one key with one purpose, and by nothing else."""

from __future__ import annotations

import base64

import pytest

from cyoloctl.errors import InvalidInput
from cyoloctl.pki.requests import make_request
from cyoloctl.pki.seal import open_sealed, seal


def test_open_sealed_with_the_key_and_info_gives_the_plaintext_back() -> None:
    request = make_request("n1")
    sealed = seal(request.sealing_key, b"plain", b"info")
    assert open_sealed(request.sealing_key_pem, sealed, b"info") == b"plain"
    assert seal(request.sealing_key, b"plain", b"info") != sealed


def test_open_sealed_with_another_key_info_or_text_raises_one_error() -> None:
    request, stranger = make_request("n1"), make_request("n1")
    sealed = seal(request.sealing_key, b"plain", b"info")
    raw = base64.b64decode(sealed)
    damaged = base64.b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode()
    messages = set()
    for key, text, info in [
        (stranger, sealed, b"info"),
        (request, sealed, b"other"),
        (request, damaged, b"info"),
        (request, sealed + "\n", b"info"),
        (request, "", b"info"),
        (request, "\u00e9", b"info"),
    ]:
        with pytest.raises(InvalidInput) as caught:
            open_sealed(key.sealing_key_pem, text, info)
        messages.add(caught.value.message)
    assert len(messages) == 1


@pytest.mark.parametrize("key", ["", "AAAA", base64.b64encode(bytes(32)).decode(), "\u00e9"])
def test_seal_to_something_that_is_no_key_raises_invalid_input(key: str) -> None:
    with pytest.raises(InvalidInput, match="sealing key"):
        seal(key, b"plain", b"info")
