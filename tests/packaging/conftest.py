"""Bundles of this tree, made once for all tests: of its version, and of one that says it is the next."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from cyoloctl import __version__
from tests.docs.test_files import FILES, ROOT
from tests.support import archives
from tools import bundle

EPOCH = 1_780_000_000
NEXT = "99.0.0"
THIS, BARE = f"{sys.version_info.major}.{sys.version_info.minor}", "3.11"
"""Python here, and that of a bare Debian 12 (`bare.py`)."""
HAS_DPKG = shutil.which("dpkg-deb") is not None


@dataclass(frozen=True)
class Bundles:
    """What was built.  key: the private one that signed; public: to check with."""

    source: bundle.Source
    next_source: bundle.Source
    wheels: Path
    arch: str
    key: Path
    public: Path
    archive: Path
    next_archive: Path


def tree(into: Path, version: str | None = None) -> bundle.Source:
    """A copy of this tree, without what git ignores; version: what it says that it is."""
    for name in FILES:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, into / name, follow_symlinks=False)
    if version is not None:
        init = into / "cyoloctl/__init__.py"
        text = re.sub(
            r"^__version__ = .*$", f'__version__ = "{version}"', init.read_text("utf-8"), flags=re.M
        )
        init.write_text(text, "utf-8")
    return bundle.Source(into, EPOCH)


def make_key(path: Path) -> tuple[Path, Path]:
    """A new pair, private and public, in files."""
    key = Ed25519PrivateKey.generate()
    public = path.with_suffix(".pub")
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path, public


def others() -> dict[str, Path]:
    """Other Pythons of this machine for which there are wheels, by version: on the PATH, or made by pyenv."""
    found: dict[str, Path] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for version in set(bundle.PYTHONS) - {THIS}:
        named = shutil.which(f"python{version}")
        for program in [
            *([named] if named else []),
            *sorted(map(str, pyenv.glob(f"{version}.*/bin/python3"))),
        ]:
            # One of pyenv's on the PATH says only that it is not chosen.
            asked = [program, "-I", "-c", "import sys, venv; print(*sys.version_info[:2], sep='.')"]
            said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
            if (said.returncode, said.stdout.strip()) == (0, version):
                found[version] = Path(program)
                break
    return found


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Built by the first test process that needs them: the others wait."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    base = base / "bundles"
    base.mkdir(exist_ok=True)
    arch = platform.machine()
    if arch not in bundle.ARCHES:
        pytest.skip(f"NO BUNDLE IS MADE: there is none for {arch}")
    with open(base / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "done").exists():
            made = _make(base, arch)
            (base / "done").write_text(made, "utf-8")
    if told := (base / "done").read_text("utf-8"):
        pytest.skip(f"NO BUNDLE IS MADE: pip cannot download the wheels of packaging/wheels.txt: {told}")
    return _bundles(base, arch)


def _bundles(base: Path, arch: str) -> Bundles:
    return Bundles(
        bundle.Source(base / "source", EPOCH),
        bundle.Source(base / "next", EPOCH),
        base / "wheels",
        arch,
        base / "key",
        base / "key.pub",
        base / "dist" / f"cyoloctl-{__version__}-linux-{arch}.tar.gz",
        base / "dist" / f"cyoloctl-{NEXT}-linux-{arch}.tar.gz",
    )


def _make(base: Path, arch: str) -> str:
    """Build everything; why that is not possible here, or nothing."""
    made = _bundles(base, arch)
    tree(made.source.root)
    tree(made.next_source.root, NEXT)
    make_key(made.key)
    try:
        bundle.collect(made.source, made.wheels, [arch], sorted({THIS, BARE, *others()}))
    except bundle.Failed as error:
        return str(error)
    for source, archive in ((made.source, made.archive), (made.next_source, made.next_archive)):
        built = bundle.build(source, made.wheels, archive.parent, arch, key=made.key, package=HAS_DPKG)
        assert built == archive
    return ""


def unpack(archive: Path, into: Path) -> Path:
    """The directory that an archive unpacks into."""
    archives.unpack(archive, into)
    return into / archive.name.removesuffix(".tar.gz")


def install(directory: Path, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`sh install.sh ARGUMENTS...` of an unpacked bundle."""
    return subprocess.run(
        ["sh", str(directory / "install.sh"), *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        check=False,
        timeout=240,
    )
