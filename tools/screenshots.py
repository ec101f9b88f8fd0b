"""Pictures of the command line as a terminal shows it: `make screenshots`.

``python -m tools.screenshots`` runs ``cyoloctl demo``, then ``cyoloctl status``
on a cluster whose leader was killed, each on a terminal of its own, and writes
docs/images/demo.svg and docs/images/status.svg below the current directory.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

__all__ = ["main", "picture"]

_PROGRAM = [sys.executable, "-m", "cyoloctl"]
_COLUMNS = 112
_LIMIT_S = 120


def _on_a_terminal(arguments: Sequence[str]) -> str:
    """Output of a command on a terminal, with its colours.  Raises CalledProcessError when it fails."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, _COLUMNS, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR" and not k.startswith("CYOLOCTL_")}
    process = subprocess.Popen(
        [*_PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # EIO: the other side was closed
                break
            if not part:
                break
            shown += part
        status = process.wait(_LIMIT_S)
    finally:
        process.kill()
        os.close(ours)
    if status not in (0, 4):
        raise subprocess.CalledProcessError(status, list(arguments), shown)
    return shown.decode("utf-8").replace("\r\n", "\n")


def picture(command: str, shown: str) -> str:
    """An SVG of a terminal with a command and what it shows.  Needs nothing from the network."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    console.print(Text.from_ansi(shown.rstrip("\n")))
    svg = console.export_svg(title="", unique_id=command.split()[1])
    # The fonts that rich links to: a reader's own monospaced font will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return re.sub(r"font-family: [^;]*;", "font-family: monospace;", svg)


def _status_without_its_leader(directory: str) -> str:
    kept = subprocess.run(
        [*_PROGRAM, "demo", "--keep", "-d", directory, "-o", "json"],
        check=True,
        capture_output=True,
        timeout=_LIMIT_S,
    )
    demo = json.loads(kept.stdout)
    pids, leader = demo["pids"], demo["status"]["cluster"]["leader"]
    try:
        os.kill(pids[leader], signal.SIGKILL)
        others = sorted(set(pids) - {leader})
        increment = ["counter", "incr", "-d", f"{directory}/{others[0]}", "--timeout", "30"]
        subprocess.run([*_PROGRAM, *increment], check=True, capture_output=True, timeout=_LIMIT_S)
        return _on_a_terminal(["status", "-d", f"{directory}/{others[0]}"])
    finally:
        for name in sorted(set(pids) - {leader}):
            os.kill(pids[name], signal.SIGTERM)


def main() -> int:
    """Write the pictures."""
    images = Path("docs/images")
    images.mkdir(parents=True, exist_ok=True)
    (images / "demo.svg").write_text(picture("cyoloctl demo", _on_a_terminal(["demo"])), "utf-8")
    with tempfile.TemporaryDirectory(prefix="cyoloctl-", ignore_cleanup_errors=True) as directory:
        shown = _status_without_its_leader(f"{directory}/demo")
    (images / "status.svg").write_text(picture("cyoloctl status", shown), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
