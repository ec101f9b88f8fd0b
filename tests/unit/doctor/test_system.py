"""What Linux says of a process, read from files like its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cyoloctl.doctor.facts import Quota
from cyoloctl.doctor.system import look_at_machine
from tests.support.findings import NOW_MS


def write(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


PROC = {
    "proc/meminfo": "MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable:  4194304 kB\nHugePages_Total: 0\n",
    "proc/7/limits": "Limit  Soft Limit  Hard Limit  Units\nMax open files    1024    4096    files\n",
    "proc/7/status": "Name:\tpython\nVmSwap:\t  2048 kB\n",
}
GIB = 2**30


def test_process_and_machine_are_read(tmp_path: Path) -> None:
    write(tmp_path, PROC | {"proc/7/fd/0": "", "proc/7/fd/1": ""})
    found = look_at_machine(NOW_MS, 7, tmp_path)
    assert (found.files_limit, found.files_used, found.swapped_bytes) == (1024, 2, 2 * 2**20)
    assert (found.total_bytes, found.available_bytes) == (8 * GIB, 4 * GIB)
    assert (found.memory, found.tasks, found.killed, found.pid) == (None, None, 0, 7)


def test_machine_that_says_nothing_leaves_everything_open(tmp_path: Path) -> None:
    found = look_at_machine(NOW_MS, 7, tmp_path)
    assert (found.files_limit, found.files_used, found.swapped_bytes) == (None, None, None)
    assert (found.total_bytes, found.available_bytes, found.memory, found.tasks) == (None,) * 4


def test_unlimited_files_are_no_limit(tmp_path: Path) -> None:
    write(tmp_path, {"proc/7/limits": "Max open files    unlimited    unlimited    files\n"})
    assert look_at_machine(NOW_MS, 7, tmp_path).files_limit is None


def test_without_a_process_of_the_node_nothing_is_said_of_one(tmp_path: Path) -> None:
    write(tmp_path, {name.replace("/7/", "/self/"): text for name, text in PROC.items()})
    found = look_at_machine(NOW_MS, None, tmp_path)
    assert (found.files_limit, found.files_used, found.swapped_bytes, found.pid) == (None,) * 4
    assert found.available_bytes == 4 * GIB


def test_tightest_group_of_version_2_counts_without_idle_pages(tmp_path: Path) -> None:
    top, own = "sys/fs/cgroup", "sys/fs/cgroup/system.slice/node.service"
    write(
        tmp_path,
        {
            "proc/7/cgroup": "0::/system.slice/node.service\n",
            f"{top}/pids.max": "max\n",
            f"{top}/system.slice/memory.max": f"{8 * GIB}\n",
            f"{top}/system.slice/memory.current": f"{GIB}\n",
            f"{own}/memory.max": f"{GIB}\n",
            f"{own}/memory.current": "800\n",
            f"{own}/memory.stat": "anon 500\ninactive_file 300\n",
            f"{own}/memory.events": "low 0\noom 3\noom_kill 2\n",
            f"{own}/pids.max": "4096\n",
            f"{own}/pids.current": "12\n",
        },
    )
    found = look_at_machine(NOW_MS, 7, tmp_path)
    assert (found.memory, found.killed, found.tasks) == (Quota(GIB, 500), 2, Quota(4096, 12))


def test_groups_of_version_1_count_and_their_largest_number_is_no_limit(tmp_path: Path) -> None:
    memory = "sys/fs/cgroup/memory"
    texts = {
        "proc/7/cgroup": "8:pids:/\n4:memory:/box/inner\n0::/\n",
        f"{memory}/memory.limit_in_bytes": "9223372036854771712\n",
        f"{memory}/memory.usage_in_bytes": "100\n",
        f"{memory}/box/memory.limit_in_bytes": f"{GIB}\n",
        f"{memory}/box/memory.usage_in_bytes": "900\n",
        f"{memory}/box/memory.stat": "inactive_file 9\ntotal_inactive_file 200\n",
        f"{memory}/box/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        "sys/fs/cgroup/pids/pids.max": "100\n",
        "sys/fs/cgroup/pids/pids.current": "99\n",
    }
    found = look_at_machine(NOW_MS, 7, write(tmp_path, texts))
    assert (found.memory, found.killed, found.tasks) == (Quota(GIB, 700), 1, Quota(100, 99))


@pytest.mark.parametrize("text", ["nonsense\n", "0::/../../etc\n", "::\n"])
def test_odd_lines_about_groups_are_left_aside(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"proc/7/cgroup": text, "etc/memory.max": "1\n", "etc/memory.current": "1\n"})
    assert look_at_machine(NOW_MS, 7, tmp_path).memory is None


def test_machine_of_this_test_is_read() -> None:
    found = look_at_machine(NOW_MS, os.getpid())
    assert found.files_limit is not None
    assert found.files_used is not None
    assert 0 < found.files_used < found.files_limit
    assert found.available_bytes is not None
    assert found.total_bytes is not None
    assert 0 < found.available_bytes < found.total_bytes
