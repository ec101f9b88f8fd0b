"""A bare Debian 12, debootstrap's smallest with python3, and machines that run on it without a network.

The root is made once and kept outside of the repository for a week, because it takes a minute.  The mirror
is that of this machine's apt, or DEBIAN_MIRROR.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["RELEASE", "NoMachine", "bare_root", "run_in"]

RELEASE = "bookworm"
_KEPT_S = 7 * 24 * 3600
_MADE_IN_S = 280

_NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]

#: $1: the root, $2: a place to mount at, $3: what it sees as /media.  Mounts go with their namespace.
_MACHINE = """
set -eu
ip link set lo up
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/tree"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/tree"
mount --bind "$3" "$2/tree/media"
mount -o remount,bind,ro "$2/tree/media"
cd "$2/tree"
mount -t proc proc proc
mount --rbind /dev dev
shift 3
exec chroot . env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""


class NoMachine(Exception):
    """Why there can be none here, in words for whoever reads the result of the tests."""


def _mirror() -> str:
    """Where packages come from.  Raises NoMachine."""
    if named := os.environ.get("DEBIAN_MIRROR"):
        return named
    if shutil.which("apt-get") is None:
        raise NoMachine("there is no apt-get here, and DEBIAN_MIRROR names no mirror")
    # Offline, and also before the first update.
    asked = ["apt-get", "--print-uris", "update"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60).stdout
    if found := re.search(rf"^'(.+)/dists/{RELEASE}/InRelease'", listed, re.MULTILINE):
        return found[1]
    raise NoMachine(f"apt here knows no mirror of {RELEASE}: name one with DEBIAN_MIRROR")


def _directory() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "cyoloctl-tests"


def _is_fresh(root: Path) -> bool:
    made = root / "made"
    # From the future, by a wrong clock, is not fresh either.
    return made.exists() and 0 <= time.time() - made.stat().st_mtime < _KEPT_S


@contextmanager
def bare_root() -> Iterator[Path]:
    """A directory with the root, which nobody removes meanwhile.  Raises NoMachine."""
    missing = [name for name in ("unshare", "ip", "debootstrap") if shutil.which(name) is None]
    if os.getuid() != 0 or missing:
        raise NoMachine(f"it takes root and {', '.join(missing) or 'nothing else'}")
    directory = _directory()
    directory.mkdir(parents=True, exist_ok=True)
    place = directory / RELEASE
    with open(directory / f"{RELEASE}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not _is_fresh(place):
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_fresh(place):  # another one may have been first
                _make(place)
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield place / "root"


def _make(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    (place / "root").mkdir(parents=True)
    # In namespaces, so that neither a mount nor a process of it stays when it is ended.
    command = [*_NAMESPACES[:1], *_NAMESPACES[2:], "debootstrap", "--force-check-gpg", "--variant=minbase"]
    command += ["--include=python3", RELEASE, str(place / "root"), _mirror()]
    try:
        made = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_MADE_IN_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise NoMachine(f"debootstrap was not done after {_MADE_IN_S} s") from None
    said = (made.stdout + made.stderr)[-500:]
    if "Failed getting release file" in said or "Couldn't download" in said:
        raise NoMachine(f"the mirror does not answer: {said}")
    assert made.returncode == 0, f"debootstrap failed: {said}"
    (place / "made").touch()


def run_in(
    root: Path, place: Path, media: Path, script: str, *arguments: str, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a shell script on a machine of its own, which has the loopback and no way out.

    place: an empty directory to mount at.  media: what the machine sees at /media, and cannot change.
    Whatever the script started ends with it.
    """
    machine = ["sh", "-c", _MACHINE, "machine", str(root), str(place), str(media)]
    return subprocess.run(
        [*_NAMESPACES, *machine, "sh", "-c", script, "story", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=timeout_s,
    )
