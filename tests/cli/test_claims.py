"""K=V on the command line: one rule for what is JSON and what is text, and never quietly another type."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.cli.claims import read_claims
from cyoloctl.errors import InvalidInput
from tests.cli.harness import Endpoint

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]

MINTED = {"token": "VAH8", "sub": "a", "set_cookie": None}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("0", 0),
        ("-1", -1),
        ("9007199254740991", 2**53 - 1),
        ("-9007199254740991", -(2**53) + 1),
        ('"12"', "12"),
        ("[1,2]", [1, 2]),
        ('{"a":null}', {"a": None}),
        # What JSON would not write so is text.
        ("", ""),
        ("007", "007"),
        ("-0", "-0"),
        ("+1", "+1"),
        ("1.5", "1.5"),
        ("1e5", "1e5"),
        ("True", "True"),
        ("12 ", "12 "),
        ("12\n", "12\n"),
        ("\u0661", "\u0661"),
        ("a=b", "a=b"),
    ],
)
def test_value_is_json_by_one_rule_and_text_otherwise(text: str, value: Any) -> None:
    found = read_claims("--claim", [f"v={text}"])
    assert (found, type(found["v"])) == ({"v": value}, type(value))
    assert read_claims("--claim", [], [f"v={text}"]) == {"v": text}


@pytest.mark.parametrize(
    "digits", ["9007199254740992", "9" * 18, "9" * 19, "12345678901234567890", "9" * 5000]
)
@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("option", ["--claim", "--claim-json"])
def test_whole_number_that_some_readers_round_is_refused_by_name_however_long(
    digits: str, sign: str, option: str
) -> None:
    given = [f"big={sign}{digits}"]
    with pytest.raises(InvalidInput, match=rf"^{option} big: .*--claim-string big=\.\.\.") as caught:
        read_claims("--claim", given if option == "--claim" else [], [], given if option != "--claim" else [])
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((["x"],), "--claim is 'x': use KEY=VALUE"),
        ((["=x"],), "--claim is '=x': use KEY=VALUE"),
        ((["a=1", "a=2"],), "--claim a is given twice"),
        ((["a=1"], ["a=2"]), "--claim-string a is given twice"),
        ((["a=1"], [], ["a=2"]), "--claim-json a is given twice"),
        ((["a={"],), "--claim a is not JSON"),
        (([], [], ["a=x"]), "--claim-json a is not JSON"),
        (([], [], ["a="]), "--claim-json a is not JSON"),
    ],
)
def test_claim_that_cannot_be_read_is_refused_by_option_and_name(
    options: tuple[list[str], ...], message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_claims("--claim", *options)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("command", "option", "field"),
    [
        (["token", "mint", "--sub", "a"], "--claim", "claims"),
        (["token", "update", "VAH8"], "--set", "set"),
        (["rendezvous", "policy", "mfa"], "--require", "require"),
    ],
    ids=["mint", "update", "policy"],
)
def test_every_command_that_takes_claims_types_them_alike(
    serve: Serve, capsys: pytest.CaptureFixture[str], command: list[str], option: str, field: str
) -> None:
    path = {"mint": "/v1/tokens/mint", "update": "/v1/tokens/update", "policy": "/v1/rendezvous/policy"}
    endpoint = serve(
        {("POST", path[command[1]]): {**MINTED, "kind": "mfa", "require": {}, "allow_self": False}}
    )
    given = [option, "n=12", option, "t=007", f"{option}-string", "s=12", "-e", endpoint.url]
    assert main([*command, *given]) == 0, capsys.readouterr().err
    assert endpoint.requests[0][2][field] == {"n": 12, "t": "007", "s": "12"}
    assert main([*command, option, "v=12345678901234567890", "-e", endpoint.url]) == 65
    assert f"{option} v: 12345678901234567890" in capsys.readouterr().err
    assert len(endpoint.requests) == 1
    if field != "require":
        assert main([*command, f"{option}-json", 'j={"a":[1]}', "-e", endpoint.url]) == 0
        assert json.loads(json.dumps(endpoint.requests[1][2][field])) == {"j": {"a": [1]}}
