"""Untrusted and hand-edited text: read back the same, or refused with one kind of error."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from cyoloctl.errors import ConfigError, InvalidInput, VersionMismatch
from cyoloctl.model import NAME_PATTERN, Address, ClusterId, NodeName, is_wildcard
from cyoloctl.node.config import Config, LogConfig, parse_config
from cyoloctl.node.config_writer import dump_config
from cyoloctl.pki import join_token
from cyoloctl.pki.ca import create_ca
from cyoloctl.pki.requests import check_request, make_request
from cyoloctl.pki.x509 import certificate_sha256

ID = "0123456789abcdef0123456789abcdef"
CA, _ = create_ca(ID, "demo", datetime(2026, 1, 1, tzinfo=UTC))
TOKEN = join_token.JoinToken(
    cluster_id=ClusterId(ID),
    cluster=NodeName("demo"),
    ca_sha256=certificate_sha256(CA),
    name=NodeName("n2"),
    learner=True,
    secret="s" * 43,
    expires_unix_s=1_900_000_000,
    members=((NodeName("n1"), Address("10.0.0.1", 7700)),),
)
TEXT = join_token.encode_token(TOKEN)
REQUEST = make_request("n2", ID)

names = st.from_regex(NAME_PATTERN, fullmatch=True).map(NodeName)
addresses_of_one = st.ip_addresses().filter(
    lambda one: not one.is_multicast and str(one) != "255.255.255.255"
)
hosts = st.one_of(names, addresses_of_one.map(str)).filter(lambda host: not is_wildcard(host))
addresses = st.builds(Address, hosts, st.integers(1, 65535))
configs = st.builds(
    Config,
    name=names,
    cluster_id=st.text("0123456789abcdef", min_size=32, max_size=32).map(ClusterId),
    cluster=names,
    listen=addresses,
    advertise=addresses,
    storage=st.sampled_from(["disk", "memory"]),
    peers=st.dictionaries(names, addresses, max_size=4),
    log=st.builds(
        LogConfig, st.sampled_from(["text", "json"]), st.sampled_from(["debug", "info", "warning", "error"])
    ),
)


@given(configs)
@settings(max_examples=60, deadline=None)
def test_config_dumped_and_parsed_is_the_same(config: Config) -> None:
    assert parse_config(dump_config(config)) == config


@given(
    st.one_of(
        st.text(),
        st.text("a:{}[]&*!|>-'\"%@`#,?\\ \n\t0U1<~"),
        st.tuples(st.integers(0, 400), st.text(max_size=3)).map(
            lambda at: f"schema_version: 1\nname: n1\nlisten: a:1\n{' ' * (at[0] % 3)}{at[1]}: [a, {at[1]}]\n"
        ),
    )
)
@settings(max_examples=300, deadline=None)
def test_parse_config_of_any_text_raises_a_config_error_or_nothing(text: str) -> None:
    message = "line 1, column 1"
    try:
        parse_config(text)
    except (ConfigError, VersionMismatch) as error:
        message = error.message
    assert re.search(r"line \d+, column \d+", message)


@given(st.integers(0, len(TEXT) - 1), st.integers(1, 127))
@settings(max_examples=300, deadline=None)
def test_decode_token_with_a_flipped_byte_is_another_token_or_invalid_input(at: int, flip: int) -> None:
    changed = TEXT[:at] + chr(ord(TEXT[at]) ^ flip) + TEXT[at + 1 :]
    try:
        token = join_token.decode_token(changed)
    except InvalidInput:
        return
    # A byte at either end that became white space is gone without a trace; nothing else is.
    assert token != TOKEN
    assert join_token.encode_token(token) == changed.strip()


def test_decode_token_with_each_single_bit_flipped_raises_nothing_but_invalid_input() -> None:
    for at in range(len(TEXT)):
        changed = TEXT[:at] + chr(ord(TEXT[at]) ^ (1 << at % 7)) + TEXT[at + 1 :]
        with contextlib.suppress(InvalidInput):
            assert join_token.decode_token(changed) != TOKEN


@given(st.integers(0, len(REQUEST.request_pem) - 1), st.integers(1, 127))
@settings(max_examples=200, deadline=None)
def test_check_request_with_a_flipped_byte_raises_invalid_input(at: int, flip: int) -> None:
    text = REQUEST.request_pem
    changed = text[:at] + chr(ord(text[at]) ^ flip) + text[at + 1 :]
    try:
        check_request(changed, "n2", REQUEST.sealing_key, ID)
    except InvalidInput:
        return
    raise AssertionError("every byte is signed, or is the signature")
