"""The manual page is one that `man` reads without a complaint."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cyoloctl.errors import error_classes
from tests.docs.reading import ROOT
from tools import generate

PAGE = ROOT / "man" / "cyoloctl.1"


@pytest.mark.skipif(shutil.which("groff") is None, reason="THE MANUAL IS NOT READ: apt-get install groff")
def test_manual_is_read_by_groff_without_a_warning() -> None:
    read = subprocess.run(
        ["groff", "-ww", "-man", "-Tutf8", "-K", "utf8", PAGE],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (read.returncode, read.stderr) == (0, "")
    assert "--request-id ID" in re.sub(".\x08", "", read.stdout)  # bold is struck twice


@pytest.mark.skipif(shutil.which("groff") is None, reason="THE MANUAL IS NOT READ: apt-get install groff")
def test_pages_of_the_commands_are_read_by_groff_without_a_warning(tmp_path: Path) -> None:
    made = generate.pages(list(generate.commands()))
    for name, text in made.items():
        (tmp_path / name).write_text(text, "utf-8")
    read = subprocess.run(
        ["groff", "-ww", "-man", "-Tutf8", "-K", "utf8", *sorted(made)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (read.returncode, read.stderr) == (0, "")
    for command in generate.commands():
        if len(command.path) > 1:
            text = made["-".join(command.path) + ".1"].replace("\\-", "-")
            assert f".SH SYNOPSIS\n.B {command.usage}\n" in text
            options = {option.names[-1] for option in command.options} - {"--help"}
            assert all(option in text for option in options)


def test_page_of_a_command_leads_to_pages_that_are_there() -> None:
    made = generate.pages(list(generate.commands()))
    named = {
        name.replace("\\-", "-")
        for text in made.values()
        for name in re.findall(r"^\.BR (\S+) \(1\)", text.partition(".SH SEE ALSO")[2], re.MULTILINE)
    }
    assert named <= {name.removesuffix(".1") for name in made} | {"cyoloctl"}
    assert {"cyoloctl", "cyoloctl-key", "cyoloctl-key-rotate"} <= named


def test_manual_has_every_command_and_exit_status() -> None:
    text = PAGE.read_text("utf-8").replace("\\-", "-")
    for command in generate.commands():
        assert command.children or f".SS {' '.join(command.path[1:])}\n" in text
    for cls in error_classes():
        assert f"({cls.code})" in text
