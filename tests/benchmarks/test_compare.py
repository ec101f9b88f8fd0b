"""The comparison runs: the quickest section of three nodes alone, and what it says without a peer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def compare(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", *arguments],
        cwd=ROOT,
        env={**os.environ, **({"PATH": path} if path is not None else {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_compare_without_peers_measures_writes_through_a_follower(tmp_path: Path) -> None:
    done = compare("--quick", "--peers", "--only", "followers", "--report", str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "compare.json").read_text())
    rows = {(row["operation"], row["clients"]): row["cells"] for row in report["rows"]}
    assert set(rows) == {(op, n) for op in ("increment", "put of 100 bytes") for n in (1, 100)}
    assert all(set(cells) == {"cyoloctl"} for cells in rows.values())
    assert "counter bench equals the" in done.stderr
    assert "![Writes through a follower](followers.svg)" in (tmp_path / "compare.md").read_text()


def test_compare_without_etcd_says_what_to_install_and_writes_no_report(tmp_path: Path) -> None:
    done = compare("--peers", "etcd", "--only", "writes", "--report", str(tmp_path / "r"), path=str(tmp_path))
    assert done.returncode == 1
    assert "apt-get install etcd-server" in done.stderr
    assert not (tmp_path / "r").exists()


def test_compare_without_strace_says_so_before_it_measures(tmp_path: Path) -> None:
    done = compare("--peers", "--only", "memory", "disks", path=str(tmp_path))
    assert done.returncode == 1
    assert "apt-get install strace" in done.stderr
    assert "resident memory" not in done.stderr
