"""Log lines: their form, how many there may be, and the file that they go to."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.node import logs
from cyoloctl.node.logs import JsonFormatter, LogHandler


class Log:
    """A logger of its own on a clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0
        self.stream = io.StringIO()
        self.handler = LogHandler(JsonFormatter(), stream=self.stream, clock=lambda: self.now)
        self.logger = logging.Logger("test", logging.DEBUG)
        self.logger.addHandler(self.handler)

    def lines(self) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        self.stream.seek(0)
        self.stream.truncate()
        return found


@pytest.fixture
def log() -> Log:
    return Log()


def test_refusals_within_a_second_are_one_line_and_a_count(log: Log) -> None:
    for number in range(1000):
        log.logger.warning("peer refused", extra={"reason": f"r{number}", "_seldom": True})
    (first,) = log.lines()
    assert first["reason"] == "r0"
    assert "_seldom" not in first
    log.handler.report_suppressed()
    assert log.lines() == []
    log.now += 1.0
    log.handler.report_suppressed()
    (last,) = log.lines()
    assert (last["reason"], last["suppressed"]) == ("r999", 998)
    log.now += 0.5
    log.handler.report_suppressed()
    assert log.lines() == []
    log.now += 5.0
    log.logger.warning("peer refused", extra={"reason": "later", "_seldom": True})
    (later,) = log.lines()
    assert "suppressed" not in later


def test_refusals_of_different_kinds_do_not_hide_each_other(log: Log) -> None:
    for _ in range(9):
        log.logger.warning("peer refused", extra={"_seldom": True})
        log.logger.warning("join refused", extra={"_seldom": True})
    assert [line["event"] for line in log.lines()] == ["peer refused", "join refused"]


def test_next_line_of_a_kind_tells_how_many_were_kept_back(log: Log) -> None:
    for _ in range(5):
        log.logger.info("handshake failed", extra={"_seldom": True})
    log.lines()
    log.now += 1.0
    log.logger.info("handshake failed", extra={"_seldom": True})
    assert [line["suppressed"] for line in log.lines()] == [4]


def test_any_warning_that_comes_thousands_of_times_is_bounded(log: Log) -> None:
    for number in range(5000):
        log.now += 0.001
        log.logger.error("a bug in a loop", extra={"number": number})
    assert len(log.lines()) < 150


def test_information_is_not_bounded(log: Log) -> None:
    for number in range(100):
        log.logger.info("promoted", extra={"member": number})
    assert len(log.lines()) == 100


_WRITER = """
import logging, os, signal, sys
from cyoloctl.node import logs
logs.configure("text", "info", path=sys.argv[1])
logs._handlers()[0]._max_bytes = 10_000
log = logging.getLogger("cyoloctl.test")
for number in range(int(sys.argv[2])):
    log.info("line", extra={"number": number})
    if number == 10 and sys.argv[3:]:
        os.rename(sys.argv[1], sys.argv[3])
        logs.reopen()
os.write(2, b"the interpreter's last words\\n")
"""


def _write(path: Path, lines: int, *more: str) -> None:
    with open(path, "ab") as file:
        subprocess.run(
            [sys.executable, "-c", _WRITER, str(path), str(lines), *more],
            stdout=file,
            stderr=file,
            check=True,
            timeout=60,
        )


def test_log_file_is_rotated_by_size_and_nothing_of_the_newest_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    _write(path, 5000)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["node.log", "node.log.1", "node.log.2", "node.log.3"]
    assert all(file.stat().st_size <= 10_100 for file in files)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files[:1])
    text = "".join(file.read_text() for file in reversed(files))
    *lines, last = text.splitlines()
    assert last == "the interpreter's last words"
    numbers = [int(line.rpartition("=")[2]) for line in lines]
    assert numbers == list(range(numbers[0], 5000))
    assert len(numbers) > 300


def test_log_file_that_was_moved_away_is_reopened(tmp_path: Path) -> None:
    path, moved = tmp_path / "node.log", tmp_path / "moved"
    _write(path, 20, str(moved))
    assert len(moved.read_text().splitlines()) == 11
    assert len(path.read_text().splitlines()) == 10


def test_log_file_that_somebody_empties_is_written_to_from_its_beginning(tmp_path: Path) -> None:
    """What `logrotate` does with `copytruncate`."""
    path = tmp_path / "node.log"
    path.write_text("x" * 9000 + "\n")
    with open(path, "ab") as file:
        script = _WRITER.replace("os.rename(sys.argv[1], sys.argv[3])", "os.truncate(sys.argv[1], 0)")
        script = script.replace("logs.reopen()", "pass")
        subprocess.run(
            [sys.executable, "-c", script, str(path), "60", "truncate"],
            stdout=file,
            stderr=file,
            check=True,
            timeout=60,
        )
    assert [each.name for each in tmp_path.iterdir()] == ["node.log"], "not rotated for bytes that are gone"
    lines = path.read_text().splitlines()
    assert len(lines) == 60 - 11 + 1
    assert "number=11" in lines[0]


def test_log_file_that_became_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    path, moved, elsewhere = tmp_path / "node.log", tmp_path / "moved", tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    with open(path, "ab") as file:
        subprocess.run(
            [
                *(
                    sys.executable,
                    "-c",
                    _WRITER.replace(
                        "logs.reopen()", f"os.symlink({str(elsewhere)!r}, {str(path)!r}); logs.reopen()"
                    ),
                ),
                *(str(path), "20", str(moved)),
            ],
            stdout=file,
            stderr=file,
            check=True,
            timeout=60,
        )
    assert elsewhere.read_text() == "precious"
    text = moved.read_text()
    assert "the log goes on where it was" in text
    assert "number=19" in text


def test_log_file_of_another_user_is_moved_out_of_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.log"
    path.write_text("root's")
    opened = os.open

    def refuse(where: str, flags: int, mode: int = 0o777, **more: Any) -> int:
        if where == str(path) and path.exists() and path.read_text() == "root's":
            raise PermissionError(13, "Permission denied")
        return opened(where, flags, mode, **more)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    os.close(logs.open_log(str(path)))
    assert (tmp_path / "node.log.1").read_text() == "root's"
    assert path.read_text() == ""


def test_log_file_that_cannot_be_rotated_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    (tmp_path / "node.log.3").mkdir()
    (tmp_path / "node.log.3" / "x").write_text("in the way")
    _write(path, 5000)
    files = [tmp_path / name for name in ("node.log.2", "node.log.1", "node.log")]
    assert sum(len(file.read_text().splitlines()) for file in files if file.exists()) == 5001


def test_log_that_nobody_reads_disturbs_nothing(log: Log) -> None:
    log.stream.close()
    log.logger.warning("a line")
    script = "from cyoloctl.node import logs; import logging; logs.configure('json', 'info'); "
    script += "print(1, flush=True); input(); "
    script += "logging.getLogger('cyoloctl').warning('a line'); print('alive', flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"1\n"
        process.stderr.close()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"alive\n"


def test_warning_of_python_is_a_line_of_the_log_like_any_other() -> None:
    """Such as one of a connection that was left open when the event loop ended."""
    script = (
        "from cyoloctl.node import logs; import warnings; logs.configure('json', 'info'); "
        "warnings.warn('left open', ResourceWarning)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    [line] = map(json.loads, done.stderr.splitlines())
    assert line["logger"] == "cyoloctl.node"
    assert line["text"].endswith("ResourceWarning: left open")


def test_change_of_level_and_format_counts_from_the_next_line_and_only_where_we_log() -> None:
    root, ours = logging.getLogger(), logging.getLogger("cyoloctl")
    before, level, root_level = root.handlers[:], ours.level, root.level
    warned = warnings.showwarning
    stream = io.StringIO()
    try:
        root.handlers[:] = []
        logs.change("json", "error")  # the log belongs to the program around us
        assert ours.level == level
        logs.configure("text", "info", stream)
        ours.debug("not yet")
        logs.change("json", "debug")
        ours.debug("now")
        logs.change("text", "warning")
        ours.info("no more")
    finally:
        root.handlers[:] = before
        ours.setLevel(level)
        root.setLevel(root_level)
        warnings.showwarning = warned
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "now"
