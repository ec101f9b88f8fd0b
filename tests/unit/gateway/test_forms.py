"""The pure parts of the gateway: who asks, forms, and how texts get into pages."""

from __future__ import annotations

import base64
import html
import ipaddress
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoloctl.errors import ConfigError, CyoloctlError, InvalidInput, Unavailable, error_classes
from cyoloctl.gateway.answers import refusal_page
from cyoloctl.gateway.forms import (
    UNKNOWN,
    Forms,
    GatewayRequest,
    RefusalPage,
    browsers_of,
    client_address,
    network_caller,
    network_of,
    parse_host,
    person_caller,
)
from cyoloctl.gateway.server import tls_context
from cyoloctl.gateway.templates import data_html
from cyoloctl.text import decode_base64url, encode_base64url

TRUSTED = [ipaddress.ip_network(text) for text in ("127.0.0.0/8", "::1/128", "10.0.0.0/8")]
KEYS = [(bytes([0xFC, 0, 0, number]), bytes([number]) * 32) for number in range(3)]
BROWSER = "A" * 22


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.1", [], "203.0.113.1"),
        ("203.0.113.1", ["198.51.100.1"], "203.0.113.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["192.0.2.66, 198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["192.0.2.66", "198.51.100.1, 10.1.2.3"], "198.51.100.1"),
        ("::ffff:127.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("fe80::1%eth0", [], "fe80::1"),
        # Some proxies add the port.
        ("127.0.0.1", ["198.51.100.1:80"], "198.51.100.1"),
        ("127.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("127.0.0.1", ["[2001:DB8:0::1]"], "2001:db8::1"),
        ("127.0.0.1", ["192.0.2.66, 198.51.100.1:4711, 10.1.2.3:80"], "198.51.100.1"),
        # Some do not know, or do not tell.
        ("127.0.0.1", ["unknown"], "0.0.0.0"),
        ("127.0.0.1", ["198.51.100.1, Unknown, 10.1.2.3"], "0.0.0.0"),
        ("127.0.0.1", ["_hidden"], "0.0.0.0"),
        ("127.0.0.1", ["unknown, 198.51.100.1"], "198.51.100.1"),
        ("203.0.113.1", ["unknown"], "203.0.113.1"),
        # What is before an untrusted address is hearsay, and is not even read.
        ("127.0.0.1", ["nonsense, 198.51.100.1"], "198.51.100.1"),
    ],
)
def test_client_address_is_the_last_that_no_trusted_proxy_vouches_for(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert str(client_address(peer, forwarded, TRUSTED)) == client


@pytest.mark.parametrize(
    "forwarded",
    [
        "",
        "me",
        "198.51.100.1:",
        "2001:db8::1:x",
        "[2001:db8::1",
        "198.51.100.1,",
        "1",
        "\u0661.1.1.1",
        "_",
        "unknown1",
    ],
)
def test_client_address_named_wrongly_by_a_trusted_proxy_is_refused(forwarded: str) -> None:
    with pytest.raises(InvalidInput):
        client_address("127.0.0.1", [forwarded], TRUSTED)


def test_caller_of_an_ipv6_address_is_its_64_and_of_a_person_is_no_address() -> None:
    one, other = (ipaddress.ip_address(f"2001:db8:1:2::{end}") for end in ("1", "ffff"))
    assert network_of(one) == network_of(other) == "2001:db8:1:2::/64"
    assert network_of(ipaddress.ip_address("192.0.2.1")) == "192.0.2.1"
    assert network_caller(one) == network_caller(other)
    assert network_caller(one).kind == "browser"
    assert "2001" not in network_caller(one).name
    assert person_caller("192.0.2.1") != network_caller(ipaddress.ip_address("192.0.2.1"))


def other_spellings(text: str) -> set[str]:
    """Of base64url: what lenient decoders take for the same bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    found = {text + "=" * n for n in range(1, 5)} | {text[:9] + junk + text[9:] for junk in " \n!.=%\u00e9"}
    found |= {text.replace("-", "+").replace("_", "/"), f" {text}", f"{text}\n"}
    found |= {text[:-1] + last for last in alphabet}
    return found - {text}


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({"Origin": "https://app.test"}, True),
        ({"Origin": "https://app.test:443"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "https://app.test", "Sec-Fetch-Site": "same-origin"}, True),
        ({}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "https://evil.test"}, False),
        ({"Origin": "https://app.test.evil.test"}, False),
        ({"Origin": "http://app.test"}, False),
        ({"Origin": "https://app.test:8443"}, False),
        ({"Origin": "https://evil.test", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": "https://app.test", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
    ],
)
def test_change_is_taken_from_our_own_page_only(headers: dict[str, str], ours: bool) -> None:
    asked = GatewayRequest(
        method="POST",
        path="/rendezvous",
        query="",
        client=UNKNOWN,
        scheme="https",
        origin="https://app.test",
        host="app.test",
        cookie="",
        headers=headers,
    )
    with nullcontext() if ours else pytest.raises(RefusalPage, match="Not from this page"):
        asked.refuse_other_origins()


def test_form_has_one_spelling() -> None:
    forms = Forms(lambda: KEYS, os.urandom)
    for length in range(3):  # every number of bits that are left over
        form = forms.seal("decide", BROWSER, "alice", b"x" * length + b"--__" * 9, 1000)
        opened = forms.open(form, "decide", [BROWSER], "alice", 1000)[0]
        assert opened == forms.open(form, "decide", [BROWSER], "alice", 1001)[0]
        for other in other_spellings(form):
            with pytest.raises(RefusalPage):
                forms.open(other, "decide", [BROWSER], "alice", 1000)[0]


def test_form_made_twice_of_the_same_has_two_digests() -> None:
    forms = Forms(lambda: KEYS, os.urandom)
    made = [forms.seal("decide", BROWSER, "alice", b"x", 1000) for _ in range(2)]
    assert len({forms.open(form, "decide", [BROWSER], "alice", 1000)[0].digest for form in made}) == 2


@given(st.binary(max_size=40), st.text(max_size=8))
def test_base64url_decodes_what_it_encodes_and_nothing_else(data: bytes, text: str) -> None:
    assert decode_base64url(encode_base64url(data)) == data
    try:
        found = decode_base64url(text)
    except ValueError:
        return
    assert encode_base64url(found) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("App.Example.com", ("app.example.com", None)),
        ("a:8080", ("a", 8080)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::0001]:443", ("::1", 443)),
        ("App.Example.com.", ("app.example.com", None)),
        ("app.example.com.:8080", ("app.example.com", 8080)),
        ("[2001:0DB8:0:0:0:0:0:1]", ("2001:db8::1", None)),
        ("127.0.0.1.:1", ("127.0.0.1", 1)),
    ],
)
def test_parse_host_gives_one_spelling(text: str, expected: tuple[str, int | None]) -> None:
    assert parse_host(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "a/b",
        "a@b",
        "a:b",
        "a:1:2",
        "::1",
        "[x]",
        "[:::]",
        "[127.0.0.1]",
        ".",
        "a\r\nb",
        "\u00e9",
    ],
)
def test_parse_host_of_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_host(text)


@pytest.mark.parametrize(
    ("cookie", "value"),
    [
        (f"x=1; f={BROWSER}", [BROWSER]),
        (f"f-1={BROWSER}; f-2={'B' * 22}", [BROWSER, "B" * 22]),
        (f"f-1={BROWSER}; f-2={BROWSER}", [BROWSER]),
        (f"f={BROWSER}; f={BROWSER}", []),
        (f"ff={BROWSER}; f_1={BROWSER}", []),
        ("f=short", []),
        ("f", []),
        ("", []),
        ("; ".join(f"f-{n}={chr(65 + n) * 22}" for n in range(20)), [chr(65 + n) * 22 for n in range(8)]),
    ],
)
def test_browsers_of_takes_the_cookies_of_the_right_name_and_form(cookie: str, value: list[str]) -> None:
    assert list(browsers_of(cookie, "f")) == value


def test_form_opens_for_its_purpose_browser_person_and_time_only() -> None:
    forms = Forms(lambda: KEYS, os.urandom)
    form = forms.seal("decide", BROWSER, "alice", b"x" * 16, 1000)
    assert forms.open(form, "decide", [BROWSER], "alice", 1600)[0].payload == b"x" * 16
    for changed in (
        ("enter", BROWSER, "alice", 1000),
        ("decide", "B" * 22, "alice", 1000),
        ("decide", BROWSER, "bob", 1000),
        ("decide", BROWSER, "", 1000),
        ("decide", BROWSER, "alice", 1601),
        ("decide", BROWSER, "alice", 900),
    ):
        purpose, browser, person, now = changed
        with pytest.raises(RefusalPage):
            forms.open(form, purpose, [browser], person, now)


@pytest.mark.parametrize(
    ("browsers", "person", "now", "reason"),
    [
        ([], "alice", 1000, "no cookie"),
        (["B" * 22], "alice", 1000, "another browser"),
        ([BROWSER], "bob", 1000, "another person"),
        (["B" * 22, BROWSER], "alice", 1601, "older than ten minutes"),
    ],
)
def test_form_that_does_not_open_is_refused_for_its_own_reason(
    browsers: list[str], person: str, now: int, reason: str
) -> None:
    forms = Forms(lambda: KEYS, os.urandom)
    form = forms.seal("decide", BROWSER, "alice", b"", 1000)
    with pytest.raises(RefusalPage) as caught:
        forms.open(form, "decide", browsers, person, now)
    said = caught.value.text
    assert [
        why for why in ("no cookie", "another browser", "another person", "ten minutes") if why in said
    ] == (
        ["another browser", "another person"] if "another" in reason else [reason.replace("older than ", "")]
    )


def test_form_opens_for_any_secret_of_its_browser_and_says_for_which() -> None:
    forms = Forms(lambda: KEYS, os.urandom)
    form = forms.seal("decide", BROWSER, "alice", b"x", 1000)
    opened, browser = forms.open(form, "decide", ["B" * 22, BROWSER, "C" * 22], "alice", 1000)
    assert (opened.payload, browser) == (b"x", BROWSER)


def test_client_that_nobody_tells_is_in_no_usual_list() -> None:
    assert not any(UNKNOWN in network for network in TRUSTED)


def test_form_of_another_node_opens_before_and_after_a_rotation_until_its_key_is_gone() -> None:
    form = Forms(lambda: KEYS[:1], os.urandom).seal("enter", BROWSER, "", b"", 0)
    assert (
        Forms(lambda: [KEYS[1], KEYS[0]], os.urandom).open(form, "enter", [BROWSER], "", 0)[0].payload == b""
    )
    with pytest.raises(RefusalPage):
        Forms(lambda: KEYS[1:], os.urandom).open(form, "enter", [BROWSER], "", 0)
    with pytest.raises(Unavailable):
        Forms(list, os.urandom).seal("enter", BROWSER, "", b"", 0)


def test_form_hides_what_it_carries() -> None:
    id = os.urandom(16)
    form = Forms(lambda: KEYS, os.urandom).seal("decide", BROWSER, "", id, 0)
    assert id not in base64.urlsafe_b64decode(form + "=" * (-len(form) % 4))


@given(st.text())
def test_form_of_any_text_is_refused_and_nothing_else(text: str) -> None:
    with pytest.raises(RefusalPage):
        Forms(lambda: KEYS, os.urandom).open(text, "enter", [BROWSER], "", 0)


@given(st.text())
def test_data_of_strangers_stays_out_of_the_markup(text: str) -> None:
    shown = data_html("Asked for", {"what": text})
    inside = shown.partition("<dd><bdi>")[2].partition("</bdi>")[0]
    assert not set("<>\"'") & set(inside)
    assert html.unescape(inside) == text


@pytest.mark.parametrize("cls", error_classes())
def test_every_error_has_a_page_with_a_status_that_says_who_must_act(cls: type[CyoloctlError]) -> None:
    told = refusal_page(cls("the reason"))
    assert 400 <= told.status <= 599
    assert told.title
    assert told.text
    # What a person cannot mend is not explained to strangers.
    assert told.status < 500 or "reason" not in told.text


def test_tls_context_of_what_is_no_certificate_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(ConfigError, match=r"gateway\.tls"):
        tls_context(str(tmp_path / "x"), str(tmp_path / "x"))
