"""What holds for every command alike: durations, choices, numbers, where options stand, help, one object."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyoloctl.cli import main, output
from cyoloctl.cli.completion import SCRIPTS
from cyoloctl.cli.invocation import parse_duration_s, parse_seconds
from cyoloctl.errors import InvalidInput
from tests.cli.harness import Endpoint, counter, member
from tools import generate
from tools.generate import Command

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]
Capture = pytest.CaptureFixture[str]

ROOT = Path(__file__).resolve().parents[2]
GET = {("GET", "/v1/counters/default"): counter("default", 42)}

TREE = {" ".join(command.path[1:]): command for command in generate.commands()}
LEAVES = {path: command for path, command in TREE.items() if not command.children}


# --- the same mistake has the same status --------------------------------------------------------


def words_for(command: Command, leave_out: str, base: Path) -> list[str]:
    """A command line with everything that the command requires, the option excepted."""
    words = list(command.path[1:])
    words += ["x"] * sum(not name.startswith("[") for name, _, _ in command.arguments)
    for option in command.options:
        if option.required and leave_out not in option.names:
            known = {"HOST:PORT": "127.0.0.1:1", "FILE": str(base / "x")}
            words += [
                option.names[-1],
                known.get(option.metavar, option.choices[0] if option.choices else "x"),
            ]
    return words


def options_of(*metavars: str) -> list[tuple[str, str]]:
    """Commands and their options whose value is written so; without metavars those with choices."""
    return [
        (path, option.names[-1])
        for path, command in LEAVES.items()
        for option in command.options
        if option.metavar in metavars or (not metavars and option.choices)
    ]


@pytest.mark.parametrize(("path", "option"), options_of("DURATION", "DURATION|never"))
@pytest.mark.parametrize("value", ["5x", "99999d"])
def test_wrong_duration_is_invalid_input_before_anything_is_sent(
    path: str, option: str, value: str, tmp_path: Path, capsys: Capture
) -> None:
    words = words_for(LEAVES[path], option, tmp_path)
    assert main([*words, f"{option}={value}", *(["-d", str(tmp_path)] if path != "sim" else [])]) == 65
    assert f"{option} is '{value}': use " in capsys.readouterr().err


@pytest.mark.parametrize(("path", "option"), options_of("N"))
def test_wrong_number_is_invalid_input_before_anything_is_sent(
    path: str, option: str, tmp_path: Path, capsys: Capture
) -> None:
    words = words_for(LEAVES[path], option, tmp_path)
    for value in ("x", "1.5", "99999999999999999999"):
        assert main([*words, f"{option}={value}"]) == 65, value
        assert f"{option} is '{value}': use a whole number" in capsys.readouterr().err


def test_demo_with_too_few_nodes_says_why_that_shows_nothing(capsys: Capture) -> None:
    assert main(["demo", "--nodes", "2"]) == 65
    assert "no majority left when its leader is killed" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "option"), options_of())
def test_word_that_is_no_choice_is_a_usage_error_that_names_the_choices(
    path: str, option: str, tmp_path: Path, capsys: Capture
) -> None:
    words = words_for(LEAVES[path], option, tmp_path)
    [found] = [each for each in LEAVES[path].options if option in each.names]
    assert main([*words, f"{option}=other"]) == 2
    error = capsys.readouterr().err
    assert f"{option} is 'other': use {', '.join(found.choices[:-1])} or {found.choices[-1]}" in error


def test_options_with_a_unit_of_their_own_take_durations() -> None:
    """What is a time takes DURATION; none takes SECONDS."""
    times = {
        (path, option.names[-1])
        for path, command in LEAVES.items()
        for option in command.options
        if option.metavar == "SECONDS"
    }
    assert times == set()
    assert len(options_of("DURATION")) > len(LEAVES) / 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("5s", 5), ("0.5", 0.5), ("500ms", 0.5), ("1.5h", 5400), ("2m", 120), ("7d", 604_800)],
)
def test_duration_is_a_number_with_a_unit_or_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text, "--x", minimum_s=0.1, maximum_s=700_000) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "nan", "inf", "1e1", "5 s", "5S", "99999d", "\u0665s"])
def test_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="use a number with ms, s, m, h or d"):
        parse_seconds(text, "--x", minimum_s=0.1, maximum_s=700_000)


def test_whole_duration_refuses_a_fraction_and_names_the_range() -> None:
    assert parse_duration_s("1.5m", "--ttl", minimum_s=60, maximum_s=604_800) == 90
    with pytest.raises(InvalidInput, match="use whole seconds"):
        parse_duration_s("90.5", "--ttl", minimum_s=60, maximum_s=604_800)
    with pytest.raises(InvalidInput, match="with ms, s, m, h or d, from 1m to 7d"):
        parse_duration_s("8d", "--ttl", minimum_s=60, maximum_s=604_800)


def test_timeout_takes_a_unit_on_the_command_line_and_in_the_environment(
    serve: Serve, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = serve(GET)
    assert main(["counter", "get", "--timeout", "2500ms", "-e", endpoint.url]) == 0
    monkeypatch.setenv("CYOLOCTL_TIMEOUT", "5m")
    assert main(["counter", "get", "-e", endpoint.url]) == 0
    monkeypatch.setenv("CYOLOCTL_TIMEOUT", "6m")
    assert main(["counter", "get", "-e", endpoint.url]) == 65
    assert "CYOLOCTL_TIMEOUT is '6m'" in capsys.readouterr().err


# --- options before the sub-command --------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
def test_common_options_stand_before_any_word_of_the_command(
    serve: Serve, capsys: Capture, tmp_path: Path, place: int
) -> None:
    endpoint = serve(GET)
    options = ["-o", "json", "-e", endpoint.url, "--credentials", str(tmp_path / "none"), "--timeout", "2s"]
    words = ["counter", "get"]
    assert main([*words[:place], *options, *words[place:]]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 42
    assert main([*words[:place], "-d", str(endpoint.directory), "--output=yaml", *words[place:]]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["value"] == 42


def test_option_nearer_to_the_command_wins_and_endpoints_are_tried_in_order(
    serve: Serve, capsys: Capture, tmp_path: Path
) -> None:
    endpoint = serve(GET)
    nobody = f"unix://{tmp_path}/nobody.sock"
    assert main(["-o", "yaml", "-e", nobody, "counter", "-o", "json", "get", "-e", endpoint.url]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 42


def test_option_before_a_command_that_does_not_take_it_is_refused_as_behind_it(capsys: Capture) -> None:
    for arguments in (["--timeout", "5s", "sim"], ["sim", "--timeout", "5s"]):
        assert main(arguments) == 2
        assert "no such option: --timeout" in capsys.readouterr().err


def test_wrong_value_before_the_command_has_the_status_that_it_has_behind_it(capsys: Capture) -> None:
    for option, value, status in (("-o", "xml", 2), ("--timeout", "5x", 65)):
        for arguments in ([option, value, "counter", "get"], ["counter", "get", option, value]):
            assert main(arguments) == status
        first, second = capsys.readouterr().err.splitlines()
        assert first == second


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in TREE if path.split()[:1] != ["help"]])
def test_help_with_a_command_is_what_its_option_shows(path: str, capsys: Capture) -> None:
    assert main(["help", *path.split()]) == 0
    shown = capsys.readouterr().out
    assert main([*path.split(), "--help"]) == 0
    assert shown == capsys.readouterr().out


def test_help_of_what_is_no_command_is_a_usage_error_with_a_suggestion(capsys: Capture) -> None:
    assert main(["help", "key", "lst"]) == 2
    assert "no such command 'lst'. Did you mean 'list'?" in capsys.readouterr().err
    assert main(["help", "key", "list", "more"]) == 2
    assert "`cyoloctl key list` has no sub-command 'more'" in capsys.readouterr().err


def test_help_as_json_is_one_object(capsys: Capture) -> None:
    for arguments in (
        ["-o", "json", "help", "key", "list"],
        ["help", "-o", "json"],
        ["help", "key", "-o", "json"],
    ):
        assert main(arguments) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["help"].startswith(f"Usage: {document['command']} ")


# --- completion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SCRIPTS)
def test_completion_prints_the_script_of_a_shell(shell: str, capsys: Capture) -> None:
    text = (ROOT / "completions" / SCRIPTS[shell]).read_text("utf-8")
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == text
    assert main(["completion", shell, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "shell": shell, "script": text}


def test_completion_for_an_unknown_shell_is_a_usage_error(capsys: Capture) -> None:
    assert main(["completion", "csh"]) == 2
    assert "no such command 'csh'" in capsys.readouterr().err


# --- one object ----------------------------------------------------------------------------------


def one_object(capsys: Capture, arguments: list[str], mode: str) -> Any:
    assert main([*arguments, "-o", mode]) == 0, arguments
    shown = capsys.readouterr().out
    return json.loads(shown) if mode == "json" else yaml.safe_load(shown)


@pytest.mark.parametrize("mode", ["json", "yaml"])
def test_commands_that_write_files_print_one_object_too(
    serve: Serve, capsys: Capture, tmp_path: Path, mode: str
) -> None:
    gateway = {"name": "n1", "host": "a.test", "address": "127.0.0.1:1", "alive": True, "role": "leader"}
    endpoint = serve(
        {
            ("POST", "/v1/keys/export"): {"data": "ring\n", "keys": 3},
            ("POST", "/v1/pki/grant"): {"kind": "grant", "name": "n1"},
            ("GET", "/v1/routes"): {"backends": [gateway], "shared_hosts": [], "index": 7},
        }
    )
    (tmp_path / "phrase").write_text("a long passphrase")
    at = ["-e", endpoint.url]
    out = tmp_path / "ring"
    export = ["key", "export", "--passphrase-file", str(tmp_path / "phrase"), "--out", str(out), *at]
    assert one_object(capsys, export, mode) == {"schema_version": 1, "file": str(out), "keys": 3}
    grant = ["member", "grant", "--request", str(tmp_path / "phrase"), *at]
    assert one_object(capsys, grant, mode)["name"] == "n1"
    conf = tmp_path / "conf"
    watch = ["route", "watch", "--once", "--format", "haproxy", "--out", str(conf), "--check", "true {}", *at]
    assert one_object(capsys, watch, mode) == {"schema_version": 1, "file": str(conf), "changed": True}
    assert one_object(capsys, watch, mode) == {"schema_version": 1, "file": str(conf), "changed": False}
    assert one_object(capsys, ["--version"], mode)["schema_version"] == 1


# --- one style -----------------------------------------------------------------------------------


def test_headings_are_words_in_capitals() -> None:
    headings = {
        str(node.args[0].value)
        for path in (ROOT / "cyoloctl" / "cli").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "Column"
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(headings) > 20
    assert {heading for heading in headings if not re.fullmatch(r"[A-Z0-9]+( [A-Z0-9]+)*", heading)} == set()


SHOWN: list[tuple[str, tuple[str, str], dict[str, Any]]] = [
    ("member show n1", ("GET", "/v1/members/n1"), member("n1", reachable=False, host=None, links=["a", "b"])),
    (
        "rendezvous start --kind mfa",
        ("POST", "/v1/rendezvous/start"),
        {"id": "0" * 32, "user_code": "WDJB-MJHT", "verification_uri": None, "expires_in": 300},
    ),
    (
        "credentials show ann",
        ("GET", "/v1/credentials/ann"),
        dict.fromkeys(("name", "role", "key_hash", "created_at", "created_by", "expires_at", "revoked_at")),
    ),
    (
        "token inspect VAH8x",
        ("POST", "/v1/tokens/inspect"),
        {
            "valid": True, "sub": "zoe", "sid": "A" * 22, "gen": 1, "key_id": "fc01aabb", "claims": {},
            "issued_at": "t", "expires_at": "t", "max_expires_at": "t",
        },
    ),
    (
        "pki rotate-ca --dry-run",
        ("POST", "/v1/pki/rotate"),
        {"sha256": None, "members": ["n1", "n2"], "away": [], "credentials_to_renew": []},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("command", "route", "answer"), SHOWN, ids=[case[0] for case in SHOWN])
def test_fields_are_named_in_words_and_say_yes_no_or_a_dash(
    serve: Serve, capsys: Capture, command: str, route: tuple[str, str], answer: dict[str, Any]
) -> None:
    assert main([*command.split(), "-e", serve({route: answer}).url]) == 0
    rows = [re.split("  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert all(len(row) == 2 for row in rows)
    assert [name for name, _ in rows if "_" in name] == []
    assert [text for _, text in rows if re.search(r"\b(True|False|None)\b|[\[\]{}']", text)] == []


def test_text_of_a_value_is_the_same_everywhere() -> None:
    values = [None, True, False, [], ["a", True], {"a": None}, 0, "", 1.5]
    shown = ["-", "yes", "no", "-", "a, yes", "a=-", "0", "-", "1.5"]
    assert [output.text_of(value) for value in values] == shown


def test_duration_is_shown_as_options_take_it(serve: Serve, capsys: Capture) -> None:
    ring = serve({("GET", "/v1/keys/policy"): {"rotate_every_s": 5400, "keep_s": 604_800}})
    assert main(["key", "policy", "-e", ring.url]) == 0
    assert capsys.readouterr().out == "rotate every  90m\nkeep          7d\n"
