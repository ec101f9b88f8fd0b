"""A node whose disk is full stops; the others go on; with space it comes back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyoloctl.errors import StorageError
from tests.support.cluster import RETRIED, Cluster, Writers, assert_refused, run

pytestmark = [pytest.mark.cluster, pytest.mark.fault]

_SMALL, _LARGE = "2m", "64m"


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 2 MiB that can be remounted larger."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = _mount("-t", "tmpfs", "-o", f"size={_SMALL},mode=0700", "cyoloctl-test", str(path))
    if mounted.returncode != 0:
        pytest.skip(
            f"DISK FULL IS NOT TESTED: cannot mount a tmpfs here ({mounted.stderr.strip()}); run as root"
        )
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def on_small_disk(small_disk: Path, stopped: Cluster) -> Cluster:
    """Three voters that do not run yet; n3's directory is on the small disk."""
    node = stopped["n3"]
    shutil.move(node.directory, small_disk / "n3")
    node.directory = small_disk / "n3"
    return stopped


def _fill(disk: Path) -> Path:
    """Leave the disk without a free byte."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"\xff" * size)
            except OSError:
                continue
    assert shutil.disk_usage(disk).free == 0
    return ballast


@pytest.mark.parametrize("role", ["follower", "leader"])
def test_node_with_a_full_disk_stops_the_others_go_on_and_it_comes_back(
    on_small_disk: Cluster, small_disk: Path, role: str
) -> None:
    cluster = on_small_disk
    cluster.start_all()
    cluster.wait_settled(voters=3)
    target = "n3" if role == "leader" else "n1"
    if cluster.wait_leader() != target:
        cluster["n1"].client(10.0).transfer_leadership(target)
    assert cluster.wait_leader() == target

    # Before it is full, every node says so.
    for node in cluster.nodes.values():
        problems = node.client().status()["problems"]
        assert [found["member"] for found in problems if found["code"] == "disk_full"] == ["n3"], problems

    # A write that reaches the node in its last moment is told of the disk (74).
    with Writers(cluster, threads=3, retried=(*RETRIED, StorageError)) as writers:
        writers.wait_more(30)
        _fill(small_disk)
        status = cluster["n3"].wait_exit()
        writers.wait_more(50)
        writers.finish()
    message = [line for line in cluster["n3"].log_path.read_text().splitlines() if line.startswith("error:")][
        -1
    ]
    assert status == 74, message
    assert str(cluster["n3"].directory / "raft.db") in message
    assert "full" in message
    assert "space" in message
    assert cluster["n3"].out_path.read_bytes() == b""
    writers.assert_exact(cluster["n1"].client().counter_get("default")["value"])
    writers.assert_exact(cluster["n2"].client().counter_get("default")["value"])

    # As full as it was: it says so again and does not start half.
    assert_refused(cluster["n3"].start_refused(), 74, str(cluster["n3"].directory), "space")

    remounted = _mount("-o", f"remount,size={_LARGE}", str(small_disk))
    assert remounted.returncode == 0, remounted.stderr
    cluster["n3"].start()
    cluster.wait_settled(voters=3)
    assert cluster["n3"].client().counter_get("default", stale=True)["value"] == len(writers.acknowledged)


def test_init_on_a_full_disk_is_a_storage_error_and_leaves_nothing(small_disk: Path) -> None:
    _fill(small_disk)
    result = run("cluster", "init", "-d", small_disk / "n9", "--name", "n9", "--listen", "127.0.0.1:1")
    assert_refused(result, 74, str(small_disk / "n9"), "space")
    assert sorted(os.listdir(small_disk)) == ["ballast"]
