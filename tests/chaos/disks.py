"""Small disks of our own: an ext4 file system in an image file, mounted over a loop device.

A tmpfs would do for a full disk.  This one can also fail as disks do:
`abort` makes it read-only under open files, as ext4 does after an I/O error,
and what was not synced is lost, as when the power goes (ext4(5), `abort`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.chaos.netns import run_checked

__all__ = ["Disk", "missing"]

_SIZE_BYTES = 40 * 2**20


def missing() -> str:
    """Why no disks can be made here; empty when they can."""
    with tempfile.TemporaryDirectory(prefix=f"cyofault-{os.getpid()}-") as directory:
        disk = Disk(Path(directory, "try"))
        try:
            disk.make()
        except RuntimeError as error:
            return f"no ext4 file system on a loop device: {error}"
        finally:
            disk.close()
    return ""


class Disk:
    """One disk, mounted at `path` from `make` to `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._image = path.with_name(f"{path.name}.img")
        self._mounted = False

    def make(self) -> None:
        self.path.mkdir()
        with open(self._image, "wb") as file:
            file.truncate(_SIZE_BYTES)
        run_checked("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        self.mount()

    def mount(self) -> None:
        run_checked("mount", "-t", "ext4", "-o", "loop", str(self._image), str(self.path))
        self._mounted = True

    def unmount(self) -> None:
        """Unmount.  Raises RuntimeError while a process has a file open there."""
        run_checked("umount", str(self.path))
        self._mounted = False

    def close(self) -> None:
        if self._mounted:
            subprocess.run(["umount", "--lazy", str(self.path)], capture_output=True, check=False)
            self._mounted = False

    def fill(self) -> None:
        """Take every free byte."""
        with open(self.path / "ballast", "ab", buffering=0) as file:
            for size in (2**20, 65536, 4096, 512):
                try:
                    while True:
                        file.write(b"\xff" * size)
                        os.fsync(file.fileno())
                except OSError:
                    continue

    def free(self) -> None:
        """Give them back, for good: an abort soon afterwards would undo what is not synced."""
        (self.path / "ballast").unlink(missing_ok=True)
        directory = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def abort(self) -> None:
        """Read-only from now on, also for open files; what is not on the disk yet never will be."""
        run_checked("mount", "-o", "remount,abort", str(self.path))

    def repair(self) -> None:
        """Unmount an aborted disk, let e2fsck replay its journal, mount it again."""
        self.unmount()
        # Status 1: errors were corrected, which is what it is for.
        done = subprocess.run(
            ["e2fsck", "-fy", str(self._image)], capture_output=True, text=True, check=False
        )
        if done.returncode > 1:
            raise RuntimeError(f"e2fsck: {done.returncode}: {done.stdout} {done.stderr}")
        self.mount()

    def copy_evidence(self, target: Path) -> None:
        """The node's files as they are, for somebody to look at."""
        shutil.copytree(
            self.path, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "lost+found")
        )
