"""Output and exit statuses of `cyoloctl doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyoloctl.cli import main, output
from cyoloctl.errors import Conflict
from tests.support.findings import facts

Capture = pytest.CaptureFixture[str]

WRONG: dict[str, Any] = {
    "directory": {"snapshots": None, "path": "/srv/" + "long/" * 30},
    "machine": {"pid": None, "swapped_bytes": 2**30},
    "answers": {
        "status": None,
        "keys": None,
        "pki": None,
        "credentials": None,
        "error": "x",
        "unreachable": True,
    },
}


def given(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setattr("cyoloctl.cli.doctor.look", lambda invocation: facts(**changes))


def test_all_that_is_well_is_one_line_until_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    given(monkeypatch)
    assert main(["doctor", "-d", str(tmp_path)]) == 0
    short = capsys.readouterr().out
    assert short.startswith("n1 of cluster cyolo: nothing needs attention; ")
    assert short.endswith(" checks are well (--all shows them)\n")
    assert short.count("\n") == 1
    assert main(["doctor", "--all", "-d", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) > 15
    assert all(line.startswith("ok       ") for line in lines)


def test_what_is_wrong_is_counted_and_ends_with_4(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    given(monkeypatch, **WRONG)
    assert main(["doctor", "-d", str(tmp_path)]) == Conflict.exit_status
    shown = capsys.readouterr()
    assert "n1 of cluster cyolo: 1 error, 1 warning, 1 info; " in shown.out
    assert shown.err == "error: 1 error, 1 warning: see the findings\n"


@pytest.mark.parametrize(("mode", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_document_holds_what_needs_attention_or_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path, mode: str, load: Any
) -> None:
    given(monkeypatch, **WRONG)
    assert main(["doctor", "-d", str(tmp_path), "-o", mode]) == Conflict.exit_status
    document = load(capsys.readouterr().out)
    assert (document["schema_version"], document["healthy"]) == (1, False)
    assert [one["severity"] for one in document["findings"]] == ["error", "warning", "info"]
    assert [list(one) for one in document["findings"]] == [
        ["severity", "code", "member", "cause", "command"]
    ] * 3
    assert main(["doctor", "--all", "-d", str(tmp_path), "-o", mode]) == Conflict.exit_status
    assert {one["severity"] for one in load(capsys.readouterr().out)["findings"]} > {"ok"}
    given(monkeypatch)
    assert main(["doctor", "-d", str(tmp_path), "-o", mode]) == 0
    assert load(capsys.readouterr().out) == {"schema_version": 1, "healthy": True, "findings": []}


@pytest.mark.parametrize("width", [40, 80, 120])
def test_causes_fold_between_words_and_commands_stay_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path, width: int
) -> None:
    given(monkeypatch, **WRONG)
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setattr(output, "coloured", lambda stream: False)
    monkeypatch.setattr(output, "terminal_width", lambda: width)
    assert main(["doctor", "--all", "-d", str(tmp_path)]) == Conflict.exit_status
    shown = capsys.readouterr().out
    long = [line for line in shown.splitlines() if len(line) > width]
    assert all(WRONG["directory"]["path"] in line or line.startswith(" " * 9) for line in long)
    assert f"         cyoloctl node start -d {WRONG['directory']['path']} --background\n" in shown


def test_grave_findings_are_red_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    given(monkeypatch, **WRONG)
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setattr(output, "coloured", lambda stream: True)
    assert main(["doctor", "-d", str(tmp_path)]) == Conflict.exit_status
    assert "\x1b[1;31merror    node n1:" in capsys.readouterr().out
