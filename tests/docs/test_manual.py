"""The manual page is one that `man` reads without a complaint."""

from __future__ import annotations

import re
import shutil
import subprocess

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


def test_manual_has_every_command_and_exit_status() -> None:
    text = PAGE.read_text("utf-8").replace("\\-", "-")
    for command in generate.commands():
        assert command.children or f".SS {' '.join(command.path[1:])}\n" in text
    for cls in error_classes():
        assert f"({cls.code})" in text
