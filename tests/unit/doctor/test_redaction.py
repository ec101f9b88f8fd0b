"""What looks like a secret, or is one of this node's, is hidden wherever it stands."""

from __future__ import annotations

import json

import pytest

from cyoloctl.doctor.redaction import config_text, secret_lines, without_quotation, without_secrets
from cyoloctl.node.config import ConfigError, parse_config

CONFIG = """\
schema_version: 1
name: n1  # the password is hunter2
cluster: {id: 0123456789abcdef0123456789abcdef, name: cyolo}
listen: 127.0.0.1:7700
gateway:
  listen: 127.0.0.1:8080
  rendezvous: {sign_in_url: "https://login.example/in?key=hunter2&back={return}"}
"""


@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqG\n-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\nMIGHAgEA\n-----END EC PRIVATE KEY-----",
        "VAH8" + "a_-0" * 20,
        "cyolojoin2." + "eyJ2Ijoy" * 10,
        'cyoloctl keyring 1 passphrase\n{"cluster_id":"0"}\nc2VjcmV0\n',
        json.dumps('cyoloctl keyring 1 node\n{"from":1}\nc2VjcmV0\nc2lnbmVk\n'),
    ],
)
def test_form_of_a_secret_is_hidden(secret: str) -> None:
    shown, count = without_secrets(f"before {secret}\nafter".encode(), ())
    assert count == 1
    assert shown.startswith((b"before (hidden)", b'before "(hidden)'))
    assert shown.endswith(b"after")
    for part in ("MIGH", "VAH8", "eyJ2", "c2VjcmV0", "c2lnbmVk"):
        assert part.encode() not in shown


@pytest.mark.parametrize("secret", ["VAH8" + "a_-0" * 20, "cyolojoin2." + "eyJ2Ijoy" * 10])
def test_secret_in_a_link_is_hidden(secret: str) -> None:
    link = "GET /in?then=%2Fr%3Ft%3D{}%26x"
    assert without_secrets(link.format(secret).encode(), ()) == (link.format("(hidden)").encode(), 1)


def test_key_without_an_end_is_hidden_up_to_the_end() -> None:
    assert without_secrets(b"a -----BEGIN PRIVATE KEY-----\nMIGH\nb", ()) == (b"a (hidden)", 1)


@pytest.mark.parametrize("text", ["VAH8 is what a token begins with", "cyoloctl keyring", "a CERTIFICATE"])
def test_what_only_speaks_of_secrets_stays(text: str) -> None:
    assert without_secrets(text.encode(), ()) == (text.encode(), 0)


def test_lines_of_the_nodes_own_keys_are_hidden_one_by_one() -> None:
    pem = (
        "-----BEGIN PRIVATE KEY-----\n"
        + "A" * 64
        + "\n"
        + "B" * 64
        + "\nshort==\n-----END PRIVATE KEY-----\n"
    )
    certificate = pem.replace("PRIVATE KEY", "CERTIFICATE").replace("A", "C")
    known = secret_lines(certificate + pem)
    assert known == {b"A" * 64, b"B" * 64} == secret_lines(json.dumps({"key_pem": pem}))
    shown, count = without_secrets(b"x" + b"B" * 64 + b"y" + b"C" * 64, known)
    assert (shown, count) == (b"x(hidden)y" + b"C" * 64, 1)


def test_configuration_is_shown_without_comments_and_what_a_link_carries() -> None:
    shown = config_text(parse_config(CONFIG))
    assert "hunter2" not in shown
    assert "https://login.example/in?hidden" in shown
    assert parse_config(shown).name == "n1"


@pytest.mark.parametrize(
    "wrong",
    [
        CONFIG.replace("name: n1", "name: HUNTER 2"),
        CONFIG + "hunter2: x\n",
        CONFIG + "log: {level: hunter2}\n",
    ],
)
def test_message_about_a_file_that_cannot_be_read_quotes_nothing_of_it(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(wrong, "/srv/node.yaml")
    assert "hunter" in caught.value.message.lower()
    shown = without_quotation(caught.value.message)
    assert "hunter" not in shown.lower()
    assert shown.startswith("/srv/node.yaml, line ")
    assert without_quotation("cannot read /srv/node.yaml: permission denied") == (
        "cannot read /srv/node.yaml: permission denied"
    )
