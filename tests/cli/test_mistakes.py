"""Ordinary mistakes, made with every command: a status that says what is wrong, a sentence, no traceback.

The commands and what they take come from the command tree, so a new one is tried as well.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyoloctl.errors import ConfigError, Interrupted, InvalidInput, StorageError, UsageError
from tests.cli.harness import LIMIT_S
from tests.support.cluster import wait_until
from tests.support.zygote import CLOSED, Done, Zygote, zygote
from tools.generate import Command, commands

FULL = "/dev/full"

# What stands for an argument or a required option, by its metavar; a file is one that is not there.
WORDS = {
    "HOST:PORT": "127.0.0.1:1",
    "DURATION": "1h",
    "ROLE": "viewer",
    "nginx|haproxy": "nginx",
    "HOST": "h.example",
    "ID": "0" * 32,
    "ID|USER_CODE": "BCDF-GHJK",
    "FILE": "/nonexistent/file",
    "FILE|-": "/nonexistent/file",
    "MODULE:CLASS": "hits:Hits",
}

OWN_DIRECTORY = {"demo", "dev"}
"""Commands whose directory is not a node's."""


# What else a command needs before it looks for a node.  Every user may read the file.
MORE = {
    "cluster set-time": ["--to-members"],
    "credentials create": ["--name", "a", "--role", "viewer"],
    "key export": ["--passphrase-file", "/etc/hostname"],
    "key import": ["/etc/hostname"],
    "kv delete": ["a"],
    "kv put": ["a"],
    "lock run": ["a", "true"],
    "member grant": ["--request", "/etc/hostname"],
    "snapshot save": ["/nonexistent/file"],
    "token mint": ["--sub", "a"],
    "top": ["--count", "1"],
}


def _leaves() -> dict[str, Command]:
    return {" ".join(each.path[1:]): each for each in commands() if not each.children}


LEAVES = _leaves()


def _line(path: str, *without: str) -> list[str]:
    """A command line that is right as far as it can be told without a node; `without` these options."""
    command, more = LEAVES[path], MORE.get(path, [])
    words = [*path.split(), *more]
    for metavar, _, _ in command.arguments:
        if not metavar.startswith("[") and not more:
            words.append(WORDS.get(metavar, "a"))
    for option in command.options:
        name = option.names[-1]
        if option.required and name not in (*without, *more):
            words += [name, WORDS.get(option.metavar, "a")]
        if name in ("--yes", "--once"):
            words.append(name)
    return words


def _taking(name: str) -> list[str]:
    return [path for path, each in LEAVES.items() if any(name in option.names for option in each.options)]


def _files() -> list[tuple[str, str, str]]:
    """Every (command, option, metavar) that takes a file."""
    return [
        (path, option.names[-1], option.metavar)
        for path, each in LEAVES.items()
        for option in each.options
        if "FILE" in option.metavar
    ]


@pytest.fixture(scope="module")
def forked() -> Iterator[Zygote]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CYOLOCTL_")}
    with zygote(environment) as process:
        yield process


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may enter; those of pytest are closed to others."""
    with tempfile.TemporaryDirectory(prefix="cyolo") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def theirs(public: Path) -> Iterator[Path]:
    """A node's data directory that whoever runs the command may not enter."""
    where = public / "theirs"
    where.mkdir()
    (where / "node.yaml").write_text("name: n1\n")
    (where / "operator.yaml").write_text("{}\n")
    where.chmod(0o700 if os.geteuid() == 0 else 0o000)
    yield where
    where.chmod(0o700)


def _is_told(done: Done, *words: str) -> bool:
    """One sentence on stderr, with these words, that is not about a bug of ours."""
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    told = len(lines) == 1 and all(word in lines[0] for word in words)
    return told and "Traceback" not in done.err and "bug" not in done.err


def test_sweep_knows_every_command() -> None:
    assert len(LEAVES) > 60
    assert len(_taking("--data-dir")) > 60
    assert len(_taking("--endpoint")) > 50


def test_data_directory_of_another_user_is_one_mistake_with_one_status(forked: Zygote, theirs: Path) -> None:
    wrong = {}
    for path in set(_taking("--data-dir")) - OWN_DIRECTORY:
        done = forked.run([*_line(path), "-d", str(theirs)], as_nobody=True)
        if done.status != ConfigError.exit_status or not _is_told(done, str(theirs)):
            wrong[path] = done
    for path in ("node start", "cluster init", "status", "node stop"):
        done = forked.run(_line(path), env={"CYOLOCTL_DATA_DIR": str(theirs)}, as_nobody=True)
        if done.status != ConfigError.exit_status or not _is_told(done, str(theirs)):
            wrong[path, "environment"] = done
    assert not wrong


def test_node_is_not_made_where_this_user_may_not_write(forked: Zygote, public: Path, theirs: Path) -> None:
    """In a directory of somebody else, below one, or with nobody's leave to make one."""
    seen = public / "seen"
    seen.mkdir(mode=0o755 if os.geteuid() == 0 else 0o555)
    for where in (seen, seen / "new", theirs / "new"):
        done = forked.run([*_line("cluster init"), "-d", str(where)], as_nobody=True)
        assert done.status == ConfigError.exit_status, done
        assert _is_told(done, str(where), "permission denied"), done
    assert list(seen.iterdir()) == []


def test_credentials_in_the_data_directory_of_another_user_are_the_same_mistake(
    forked: Zygote, theirs: Path
) -> None:
    wrong = {}
    for path in set(_taking("--endpoint")):
        words = [*_line(path), "-d", str(theirs), "-e", "https://127.0.0.1:1"]
        done = forked.run(words, as_nobody=True)
        if done.status != ConfigError.exit_status or not _is_told(done, str(theirs)):
            wrong[path] = done
    assert not wrong


def test_help_on_a_full_device_exits_74(forked: Zygote) -> None:
    for words in [[], *(path.split() for path in LEAVES), *([group] for group in ("counter", "node"))]:
        done = forked.run([*words, "--help"], stdout=FULL)
        assert done.status == StorageError.exit_status, (words, done)
        assert _is_told(done, "stdout"), (words, done)


@pytest.mark.parametrize("text", ["echo 'x", "'", 'a "b', "a \\", " "])
@pytest.mark.parametrize("option", ["--exec", "--check"])
def test_command_that_no_shell_would_take_exits_65(forked: Zygote, option: str, text: str) -> None:
    done = forked.run([*_line("route watch"), option, text, "-d", "/nonexistent"])
    assert done.status == InvalidInput.exit_status, done
    assert _is_told(done, option)


def test_sweep_tries_every_option_that_takes_a_command() -> None:
    found = {
        (path, option.names[-1])
        for path, each in LEAVES.items()
        for option in each.options
        if option.metavar == "COMMAND"
    }
    assert found == {("route watch", "--exec"), ("route watch", "--check")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sim_that_is_terminated_says_how_far_it_came_and_leaves_no_worker(
    number: signal.Signals,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cyoloctl", "sim", "--seeds", "0:1000000", "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    workers: list[int] = []
    try:
        while len(workers) < 3:  # two, and multiprocessing's tracker
            workers = _children(process.pid)
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == Interrupted.exit_status
    assert err.startswith("error: interrupted after ")
    assert "Traceback" not in err
    wait_until("the end of every worker", lambda: not any(_runs(pid) for pid in workers))


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- files ----------------------------------------------------------------------------------------

# Only written into a proxy's configuration, or looked at after other files or an answer.
NOT_OPENED = {"--tls-certificate", "--backend-tls-ca"}
LATER = {
    ("cluster init", "--ca-file"),
    ("audit export", "--out"),
    ("credentials request", "--out"),
    ("credentials renew", "--out"),
    ("credentials renew", "--request"),
    ("node inspect", "--copy"),
    ("node request", "--out"),
    ("node renew", "--request"),
    ("route watch", "--out"),
}


@pytest.fixture
def places(public: Path, theirs: Path) -> dict[str, Path]:
    """Places that are wrong for a file, each in its way."""
    (public / "file").write_text("x\n")
    (public / "secret").write_text("x\n")
    (public / "secret").chmod(0o600 if os.geteuid() == 0 else 0o000)
    (public / "directory").mkdir()
    return {
        "a directory": public / "directory",
        "not there": public / "none" / "file",
        "below a file": public / "file" / "x",
        "not to be read": public / "secret",
        "not to be written": theirs / "new",
    }


def _with_file(path: str, option: str, value: str, directory: Path) -> list[str]:
    words = _line(path, option)
    if path == "credentials request":
        words[words.index("--role") + 1] = "viewer"
    if "--keyring" in (option,):
        words += ["--passphrase-file", str(directory / "file")]
    elif option == "--passphrase-file" and path.startswith("token "):
        words += ["--keyring", str(directory / "file")]
    if path == "token update":
        words.append("--keep-previous")
    if path in _taking("--data-dir"):
        words += ["-d", str(directory / "none")]
    return [*words, option, value]


def test_wrong_place_for_a_file_has_one_status_for_every_option(
    forked: Zygote, places: dict[str, Path], public: Path
) -> None:
    wrong = {}
    tried = 0
    for path, option, _ in _files():
        if option in NOT_OPENED | {"--credentials"} or (path, option) in LATER:
            continue
        written = option in ("--out", "--key-out")
        for place in ["a directory", "below a file", "not to be written" if written else "not to be read"]:
            where = places[place]
            done = forked.run(_with_file(path, option, str(where), public), as_nobody=True)
            expected = ConfigError if place.startswith("not to be") else InvalidInput
            tried += 1
            if done.status != expected.exit_status or not _is_told(done, str(where)):
                wrong[path, option, place] = done
            if "remove it" in done.err or "chmod" in done.err:
                wrong[path, option, place, "advice"] = done
    assert not wrong
    assert tried > 50


def test_credentials_that_are_none_are_a_configuration_error(forked: Zygote, places: dict[str, Path]) -> None:
    """And nothing of the machine's own is to be closed to others for that."""
    for where in [*places.values(), Path("/etc/passwd")]:
        words = ["status", "-e", "https://127.0.0.1:1", "--credentials", str(where)]
        done = forked.run(words, as_nobody=True)
        assert done.status == ConfigError.exit_status, done
        assert _is_told(done, str(where)), done
        assert "chmod" not in done.err


def test_file_in_place_of_the_data_directory_is_told_so(forked: Zygote) -> None:
    wrong = {}
    for path in ("node start", "node stop", "node info", "cluster init", "counter get", "demo", "dev"):
        done = forked.run([*_line(path), "-d", "/etc/passwd"])
        if done.status != ConfigError.exit_status or not _is_told(done, "/etc/passwd", "not a directory"):
            wrong[path] = done
    assert not wrong


def test_closed_stdin_is_told_where_something_is_to_be_read(forked: Zygote, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x\n")
    lines = [
        _with_file(path, option, "-", tmp_path)
        for path, option, metavar in _files()
        if "-" in metavar.split("|")
        and not (path.startswith("token ") and option == "--passphrase-file")
        and path != "audit export"  # there it is stdout
    ]
    lines += [
        ["token", "inspect"],
        ["token", "inspect", "-"],
        ["token", "refresh", "--batch"],
        ["token", "revoke", "-"],
        ["rendezvous", "claim", "-", "-d", "/nonexistent"],
        ["rendezvous", "show", "-", "-d", "/nonexistent"],
    ]
    for words in lines:
        done = forked.run(words, stdin=CLOSED)
        assert done.status == InvalidInput.exit_status, (words, done)
        assert _is_told(done, "because stdin is closed"), (words, done)
    assert len(lines) > 12


def test_full_device_under_stderr_changes_no_status(forked: Zygote) -> None:
    for path in ("node info", "status", "counter incr", "help exit-codes", "key export", "route export"):
        words = [*_line(path), *(["-d", "/nonexistent"] if path in _taking("-d") else [])]
        assert forked.run(words, stderr=FULL).status == forked.run(words).status, path
    assert forked.run(["status", "--nope"], stderr=FULL).status == UsageError.exit_status


# -- signals --------------------------------------------------------------------------------------


def test_command_that_is_terminated_while_it_waits_says_so(forked: Zygote, tmp_path: Path) -> None:
    """Whatever it asks: the node takes the connection, and never answers."""
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as node:
        node.bind(f"{short}/control.sock")
        node.listen(512)
        for path in (
            *("status", "counter get", "counter incr", "counter watch", "token mint", "key rotate"),
            *("member list", "rendezvous wait", "node stop", "route export", "member invite"),
        ):
            words = [*_line(path), "-d", short, "--timeout", "30"]
            if path == "member invite":
                words += ["--out", str(tmp_path / "token")]
            done = forked.run(words, terminate=True)
            assert done.status == Interrupted.exit_status, (path, done)
            assert _is_told(done, "interrupted"), (path, done)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["token mint", "rendezvous claim"])
def test_command_that_is_terminated_while_it_reads_says_so(forked: Zygote, path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    keeper = os.open(tmp_path / "pipe", os.O_RDWR)
    words = [*_line(path), "--claims-file", "-"] if path == "token mint" else [*path.split(), "-"]
    done = forked.run(words, stdin=str(tmp_path / "pipe"), terminate=True)
    os.close(keeper)
    assert done.status == Interrupted.exit_status, done
    assert _is_told(done, "interrupted"), done
