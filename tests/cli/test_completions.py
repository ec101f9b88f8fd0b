"""The generated completions, loaded and asked in their shells."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.harness import LIMIT_S
from tools import generate

COMPLETIONS = Path(__file__).resolve().parents[2] / "completions"

# words before the cursor, the last one to complete -> some candidates
CASES = [
    (["cou"], {"counter"}),
    (["counter", ""], {"incr", "decr", "get", "list", "reset", "watch"}),
    (["counter", "incr", "--req"], {"--request-id"}),
    (["member", "tr"], {"transfer-leadership"}),
    (["cluster", "init", "--storage", ""], {"disk", "memory"}),
    (["status", "-o", "j"], {"json"}),
    (["-o", "j"], {"json"}),
    (["-o", "json", "key", "ro"], {"rotate"}),
    (["key", "-o", "json", "ro"], {"rotate"}),
    (["completion", ""], {"bash", "zsh", "fish"}),
    (["member", "remove", "x", "--dry"], {"--dry-run"}),
    (["token", "mint", "--set"], {"--set-cookie"}),
    (["key", "policy", "--ro"], {"--rotate-every"}),
    # A flag here, with a value in `key policy`.
    (["demo", "--keep", "--no"], {"--nodes"}),
]

needs = {
    shell: pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")
    for shell in ("bash", "zsh", "fish")
}


def _shell(*arguments: str, **settings: str) -> str:
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, **settings},
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.mark.shell
@needs["bash"]
@pytest.mark.parametrize(("words", "expected"), CASES)
def test_bash_completion_offers(words: list[str], expected: set[str]) -> None:
    script = (
        'source "$1"; shift; complete -p cyoloctl >/dev/null\n'
        'COMP_WORDS=(cyoloctl "$@"); COMP_CWORD=$#; _cyoloctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    # --norc: only our file; compopt complains outside of a completion, which these cases never reach.
    shown = _shell("bash", "--norc", "-c", script, "bash", str(COMPLETIONS / "cyoloctl.bash"), *words)
    assert set(shown.split()) >= expected
    assert all(candidate.startswith(words[-1]) for candidate in shown.split())


@pytest.mark.shell
@needs["bash"]
def test_bash_completion_after_an_equals_sign_offers_values() -> None:
    script = (
        'source "$1"; COMP_WORDS=(cyoloctl status --output = y); COMP_CWORD=4; _cyoloctl\n'
        'echo "${COMPREPLY[*]}"'
    )
    assert _shell("bash", "--norc", "-c", script, "bash", str(COMPLETIONS / "cyoloctl.bash")) == "yaml\n"


@pytest.mark.shell
@needs["fish"]
def test_fish_completion_offers(tmp_path: Path) -> None:
    lines = [f"complete --do-complete '{' '.join(['cyoloctl', *words])}'; echo ---" for words, _ in CASES]
    shown = _shell(
        "fish",
        "--no-config",
        "-c",
        f"source {COMPLETIONS / 'cyoloctl.fish'}; " + "; ".join(lines),
        HOME=str(tmp_path),
        XDG_CONFIG_HOME=str(tmp_path),
        XDG_DATA_HOME=str(tmp_path),
    )
    for (words, expected), block in zip(CASES, shown.split("---\n"), strict=False):
        offered = {line.partition("\t")[0] for line in block.splitlines()}
        assert offered >= expected, words


@pytest.mark.shell
@needs["zsh"]
def test_zsh_completion_offers_in_an_interactive_shell(tmp_path: Path) -> None:
    (tmp_path / ".zshrc").write_text(
        "PS1='READY> '; unsetopt zle_bracketed_paste; bindkey -e; setopt no_beep no_list_ambiguous\n"
        f"fpath=({COMPLETIONS} $fpath); autoload -Uz compinit; compinit -u -d {tmp_path / 'dump'}\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - the child becomes the shell
        os.environ.update({"ZDOTDIR": str(tmp_path), "TERM": "dumb", "COLUMNS": "200", "HOME": str(tmp_path)})
        os.execvp("zsh", ["zsh", "-d", "-i"])
    try:
        shown = _until(terminal, rb"READY> ")
        for words, expected in CASES:
            line = " ".join(["cyoloctl", *words])
            # Twice: insert what is unique, then list.  ^U throws the line away; a sum marks the end.
            os.write(terminal, f"{line}\t\t\x15print end$((40+2))\r".encode())
            shown = _until(terminal, rb"end42\r?\n(.|\n)*READY> ")
            assert all(word.encode() in shown for word in expected), (words, shown)
    finally:
        os.write(terminal, b"\x03exit\r")
        os.close(terminal)
        os.waitpid(pid, 0)


def _until(terminal: int, pattern: bytes) -> bytes:
    """Output of the terminal up to the pattern.  Fails after a while."""
    shown = b""
    deadline = time.monotonic() + LIMIT_S
    while not re.search(pattern, shown):
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([terminal], [], [], left_s)[0]:
            pytest.fail(f"{pattern!r} did not come: {shown!r}")
        shown += os.read(terminal, 4096)
    return shown


def test_generator_with_check_names_what_is_stale(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    arguments = [sys.executable, "-m", "tools.generate"]
    environment = {**os.environ, "PYTHONPATH": str(COMPLETIONS.parent)}

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*arguments, *more],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    stale = call("--check")
    assert stale.returncode == 1
    assert all(str(path) in stale.stderr for path in generate.files())
    assert call().returncode == 0
    assert call("--check").returncode == 0
