"""The generated completions, loaded and asked in their shells."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import NoLeader
from tests.cli.harness import LIMIT_S, Endpoint, counter, member
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
    (["rendezvous", "list", "--state", "app"], {"approved"}),
    (["help", ""], {"key", "status", "exit-codes"}),
    (["help", "su"], {"support-bundle"}),
    (["help", "key", "ro"], {"rotate"}),
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


# --- names that the cluster knows -----------------------------------------------------------------

NAMED = [
    (["member", "show", ""], {"alpha", "beta"}),
    (["member", "remove", "al"], {"alpha"}),
    (["member", "transfer-leadership", "--to", ""], {"alpha", "beta"}),
    (["member", "uninvite", ""], {"guest"}),
    (["counter", "incr", "or"], {"orders"}),
    (["key", "promote", ""], {"fc000001"}),
    (["credentials", "revoke", ""], {"ann"}),
]


@pytest.fixture
def node(serve: Callable[[dict[tuple[str, str], Any]], Endpoint]) -> Endpoint:
    """A node that knows some names."""
    return serve(
        {
            ("GET", "/v1/members"): {"members": [member("alpha"), member("beta")]},
            ("GET", "/v1/invitations"): {"invitations": [{"name": "guest"}]},
            ("GET", "/v1/counters"): {"counters": [counter("orders", 1)], "next": None},
            ("GET", "/v1/keys"): {"keys": [{"key_id": "fc000001"}]},
            ("GET", "/v1/credentials"): {
                "credentials": [{"name": "ann", "role": "viewer"}, {"name": "alpha", "role": "node"}]
            },
        }
    )


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """An environment in which `cyoloctl` is this code."""
    script = tmp_path / "bin" / "cyoloctl"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m cyoloctl "$@"\n')
    script.chmod(0o755)
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    root = str(COMPLETIONS.parent)
    path = f"{script.parent}:{os.environ['PATH']}"
    return {"PATH": path, "PYTHONPATH": root, "CYOLOCTL_COMPLETION_TIMEOUT": "20", **home}


def _names(*words: str, **settings: str) -> tuple[str, float, float]:
    """What is offered, and how many seconds of a processor and of the clock it took."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "cyoloctl", "__names", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CYOLOCTL_COMPLETION_TIMEOUT": "20", **settings},
    )
    with process, process.stdout as stdout:  # type: ignore[union-attr]  # a pipe, as asked for
        shown = stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, shown
    return shown, used.ru_utime + used.ru_stime, time.monotonic() - began


@pytest.mark.parametrize(("words", "expected"), NAMED)
def test_names_are_those_that_the_node_knows(node: Endpoint, words: list[str], expected: set[str]) -> None:
    source = {"transfer-leadership": "member", "uninvite": "invitation"}.get(words[1], words[0])
    shown, used_s, _ = _names(source, *words[:-1], "-d", str(node.directory))
    assert set(shown.split()) >= expected
    assert used_s < 0.1
    assert "consistency=stale" in node.requests[0][2]["query"]


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--data-dir=HERE"], {}),
        (["-d", "HERE"], {"CYOLOCTL_ENDPOINT": "https://elsewhere:1"}),
        (["-e", "unix://HERE/control.sock"], {}),
        (["-d", "nowhere"], {"CYOLOCTL_DATA_DIR": "nowhere"}),
        ([], {"CYOLOCTL_DATA_DIR": "HERE"}),
        ([], {"CYOLOCTL_ENDPOINT": "unix://HERE/control.sock"}),
        (["-e", "https://elsewhere:1"], {}),
    ],
)
def test_names_are_asked_where_the_command_would_ask(
    node: Endpoint, words: list[str], settings: dict[str, str]
) -> None:
    here = str(node.directory)
    given = [word.replace("HERE", here) for word in words]
    shown, _, _ = _names("key", *given, **{k: v.replace("HERE", here) for k, v in settings.items()})
    nowhere = "nowhere" in words or "https://elsewhere:1" in words
    assert shown == ("" if nowhere else "fc000001\n")


def test_names_of_a_node_that_hangs_refuses_or_talks_nonsense_are_none_at_once(
    node: Endpoint, tmp_path: Path
) -> None:
    silent = socket.socket(socket.AF_UNIX)
    silent.bind(str(node.directory / "silent.sock"))
    silent.listen()
    with silent:
        usual = {"CYOLOCTL_COMPLETION_TIMEOUT": ""}
        shown, used_s, took_s = _names("key", "-e", f"unix://{node.directory}/silent.sock", **usual)
    assert (shown, used_s < 0.1, took_s < LIMIT_S) == ("", True, True)
    for answer in ({"keys": [{}]}, {"keys": 5}, {"x": 1}, NoLeader("none")):
        node.answers["GET", "/v1/keys"] = answer
        assert _names("key", "-d", str(node.directory))[0] == ""
    for words in ([], ["nothing"], ["key", "-d"], ["key", "--data-dir", ""]):
        assert _names(*words, "-d" if not words else "x")[0] == ""


@pytest.mark.shell
@needs["bash"]
@pytest.mark.parametrize(("words", "expected"), NAMED)
def test_bash_completion_offers_names_of_the_node(
    node: Endpoint, program: dict[str, str], words: list[str], expected: set[str]
) -> None:
    script = (
        'source "$1"; shift\n'
        'COMP_WORDS=(cyoloctl "$@"); COMP_CWORD=$#; _cyoloctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    where = {**program, "CYOLOCTL_DATA_DIR": str(node.directory)}
    shown = _shell(
        "bash", "--norc", "-c", script, "bash", str(COMPLETIONS / "cyoloctl.bash"), *words, **where
    )
    assert set(shown.split()) == expected


@pytest.mark.shell
@needs["bash"]
def test_bash_completion_without_a_node_offers_no_name_and_says_nothing(program: dict[str, str]) -> None:
    script = (
        'source "$1"; COMP_WORDS=(cyoloctl key promote ""); COMP_CWORD=3; _cyoloctl; echo "${#COMPREPLY[@]}"'
    )
    shown = _shell("bash", "--norc", "-c", script, "bash", str(COMPLETIONS / "cyoloctl.bash"), **program)
    assert shown == "0\n"


@pytest.mark.shell
@needs["fish"]
def test_fish_completion_offers_names_of_the_node(node: Endpoint, program: dict[str, str]) -> None:
    lines = [f"complete --do-complete '{' '.join(['cyoloctl', *words])}'; echo ---" for words, _ in NAMED]
    script = f"source {COMPLETIONS / 'cyoloctl.fish'}; " + "; ".join(lines)
    where = {**program, "CYOLOCTL_DATA_DIR": str(node.directory)}
    shown = _shell("fish", "--no-config", "-c", script, **where)
    for (words, expected), block in zip(NAMED, shown.split("---\n"), strict=False):
        assert {line.partition("\t")[0] for line in block.splitlines()} >= expected, words


@pytest.mark.shell
@needs["zsh"]
def test_zsh_completion_offers_names_of_the_node(
    node: Endpoint, program: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / ".zshrc").write_text(
        "PS1='READY> '; unsetopt zle_bracketed_paste; bindkey -e; setopt no_beep no_list_ambiguous\n"
        f"fpath=({COMPLETIONS} $fpath); autoload -Uz compinit; compinit -u -d {tmp_path / 'dump'}\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - the child becomes the shell
        where = {**program, "CYOLOCTL_DATA_DIR": str(node.directory), "ZDOTDIR": str(tmp_path)}
        os.environ.update({**where, "TERM": "dumb", "COLUMNS": "200"})
        os.execvp("zsh", ["zsh", "-d", "-i"])
    try:
        _until(terminal, rb"READY> ")
        for words, expected in NAMED:
            os.write(terminal, f"{' '.join(['cyoloctl', *words])}\t\t\x15print end$((40+2))\r".encode())
            shown = _until(terminal, rb"end42\r?\n(.|\n)*READY> ")
            assert all(word.encode() in shown for word in expected), (words, shown)
    finally:
        os.write(terminal, b"\x03exit\r")
        os.close(terminal)
        os.waitpid(pid, 0)


def test_every_argument_with_a_name_of_the_cluster_has_its_source() -> None:
    free = {  # a name that is new, or of what is outside the cluster
        "route which", "route resolve", "route share", "route unshare",
        "rendezvous claim", "rendezvous approve", "rendezvous deny", "rendezvous cancel",
        "rendezvous wait", "rendezvous show", "rendezvous policy",
        "kv list", "kv watch", "machine check",
        "token inspect", "token update", "token refresh", "token revoke",
    }  # fmt: skip
    without = {
        " ".join(command.path[1:])
        for command in generate.commands()
        if command.arguments and not command.source
    }
    assert without == free
