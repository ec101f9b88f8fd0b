"""The blocks of README.md, one after the other in one shell, on a clean clone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.docs.reading import Block, blocks
from tests.support.clone import NoClone, clone
from tests.support.cluster import claim_port, free_port

LIMIT_S = 400

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 60)]


def ports() -> str:
    """The first digits of three free ports that end in 1, 2 and 3."""
    while True:
        first = str(free_port())[:-1]  # which may itself end in one of these: then the next
        if all(claim_port(int(f"{first}{n}")) for n in (1, 2, 3)):
            return first


def script(steps: list[Block]) -> str:
    lines = ["set -euo pipefail"]
    for number, block in enumerate(steps):
        lines += [f"echo '=== {number}'", block.text.replace("127.0.0.1:770", f"127.0.0.1:{ports()}")]
    return "\n".join(lines)


def test_blocks_of_the_readme_work_one_after_the_other_on_a_clean_clone(tmp_path: Path) -> None:
    target = tmp_path / "clone"
    target.mkdir()
    try:
        clone(target)
    except NoClone:
        pytest.skip("README IS NOT TRIED: this is no clone")
    everything = blocks("README.md")
    steps = [block for block in everything if block.info == "bash"]
    (tmp_path / "readme.sh").write_text(script(steps), encoding="utf-8")
    # Neither a person's settings nor those of a `make` that runs these tests.
    foreign = re.compile(r"CYOLOCTL_|MAKE|MFLAGS$|CI$|PYTHONPATH$")
    kept = {name: value for name, value in os.environ.items() if not foreign.match(name)}
    process = subprocess.Popen(
        ["bash", tmp_path / "readme.sh"],
        cwd=target,
        env={**kept, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        shown, _ = process.communicate(timeout=LIMIT_S)
    finally:
        for pid in running_in(target):
            os.kill(pid, signal.SIGKILL)
    assert process.returncode == 0, shown
    parts = re.split(r"^=== \d+\n", shown, flags=re.MULTILINE)[1:]
    assert len(parts) == len(steps)
    for step, part in zip(steps, parts, strict=True):
        after = everything[everything.index(step) + 1 :]
        if after and after[0].info == "output":
            assert part.endswith(after[0].text), (step.text, part)
    assert running_in(target) == []
    assert not (target / "site").exists()


def running_in(directory: Path) -> list[int]:
    """The processes that have the directory in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:
            continue
        pid = int(entry.parent.name)
        if str(directory).encode() in line and pid != os.getpid():
            found.append(pid)
    return found


def test_every_block_of_the_readme_is_run_or_is_no_command() -> None:
    assert {block.info for block in blocks("README.md")} <= {"bash", "output", "text"}
