"""Make the archive that installs without a network: `make bundle`.

``python -m tools.bundle`` builds ``dist/cyoloctl-VERSION-linux-ARCH.tar.gz`` from the last commit.  It
holds the wheels of cyoloctl and of all that it needs, for the Pythons and machines below, and what
``packaging/install.sh`` puts beside them: units, completions, manual, pages (also as one file), a bill of
materials.

The same commit gives the same bytes: versions and digests of all wheels are those of
``packaging/wheels.txt``, times are the commit's.  ``--lock`` writes that file, with what is newest now.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import deb, sbom

__all__ = ["ARCHES", "PYTHONS", "Failed", "Source", "build", "collect", "locked", "main", "sign"]

ARCHES = ("x86_64", "aarch64")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

_ROOT = Path(__file__).resolve().parents[1]
_LOCK, _TOOLS_LOCK = "packaging/wheels.txt", "packaging/build-tools.txt"
_PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
_SDISTS = ("pysyncobj",)
"""They are published as source only; a wheel of them holds Python only and fits every machine."""
_BUILD_TOOLS = ("hatchling>=1.27", "setuptools", "wheel")
_COPIED = ("docs", "examples", "completions", "packaging/systemd", "README.md", "CHANGELOG.md", "LICENSE")


class Failed(Exception):
    """A step that did not work, in words for whoever runs the tool."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tree to build from.  epoch: the time of its commit, in seconds since 1970, for all files."""

    root: Path
    epoch: int

    @property
    def version(self) -> str:
        """Version of the release that it is."""
        text = (self.root / "cyoloctl/__init__.py").read_text("utf-8")
        found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
        if found is None:
            raise Failed("cyoloctl/__init__.py does not say its version")
        return found.group(1)


def _run(*command: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        umask=0o022,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(words[:6])} ... failed:\n{done.stderr.strip()[-3000:]}")
    return done.stdout


def _pip(*arguments: object, **environment: str) -> str:
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    return _run(sys.executable, "-m", "pip", *arguments, environment={**quiet, **environment})


def locked(path: Path) -> dict[str, str]:
    """The lines of a lock, each whole, by name."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE))
    return {line.partition("==")[0]: line for line in text.splitlines() if line}


def _tags(arch: str, python: str) -> list[str]:
    platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_{arch}")]
    return ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python, *platforms]


# Wheels.


def collect(source: Source, into: Path, arches: Iterable[str], pythons: Iterable[str]) -> None:
    """Put the wheels of the lock into a directory per machine (``into/ARCH``).  Raises Failed.

    What an index gives must have the digests of the lock.  The build tools go into ``into/tools``.
    """
    wheels = locked(source.root / _LOCK)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        binary, sdists = work / "binary.txt", work / "sdists.txt"
        binary.write_text("".join(f"{line}\n" for name, line in wheels.items() if name not in _SDISTS))
        sdists.write_text("".join(f"{wheels[name]}\n" for name in _SDISTS))
        made, tools = work / "made", into / "tools"
        _pip(
            *("install", "-q", "--no-deps", "--require-hashes", "--no-compile"),
            *("--target", tools, "-r", source.root / _TOOLS_LOCK),
        )
        _wheel(source, tools, made, "--require-hashes", "--no-binary", ":all:", "-r", sdists)
        for arch in arches:
            place = into / arch
            for python in pythons:
                _pip(
                    "download",
                    "-q",
                    "--no-deps",
                    "--require-hashes",
                    *_tags(arch, python),
                    "-d",
                    place,
                    "-r",
                    binary,
                )
            for wheel in made.iterdir():
                shutil.copy(wheel, place)


def _wheel(source: Source, tools: Path, into: Path, *what: object) -> None:
    """Build wheels with the build tools of the lock, none of this machine's."""
    stamp = {"SOURCE_DATE_EPOCH": str(source.epoch), "PYTHONPATH": str(tools)}
    _pip("wheel", "-q", "--no-deps", "--no-build-isolation", "--no-cache-dir", "-w", into, *what, **stamp)


# The archive.


def build(
    source: Source, wheels: Path, out: Path, arch: str, *, key: Path | None = None, package: bool = False
) -> Path:
    """Build the archive of one machine; returns its path.  Raises Failed.

    wheels: what `collect` made.  key: a private Ed25519 key in PEM, which signs; None: unsigned.
    package: whether to build the Debian package beside it too.
    """
    name = f"cyoloctl-{source.version}-linux-{arch}"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / name
        shutil.copytree(wheels / arch, tree / "wheels")
        _wheel(source, wheels / "tools", Path(directory) / "own", source.root)
        [own] = (Path(directory) / "own").iterdir()
        shutil.copy(own, tree / "wheels")
        for each in _COPIED:
            place = tree / each.removeprefix("packaging/")
            (shutil.copytree if (source.root / each).is_dir() else shutil.copy)(source.root / each, place)
        shutil.copy(source.root / "packaging/install.sh", tree)
        shutil.copy(source.root / "tools/verify_signature.py", tree / "verify-signature.py")
        (tree / "VERSION").write_text(f"{source.version}\n")
        _run(sys.executable, "-m", "tools.generate", "--pages", tree / "man" / "man1", cwd=source.root)
        _manual(source, tree / "wheels", tree / "manual.html")
        (tree / "sbom.cdx.json").write_text(sbom.document(tree / "wheels", source.version, source.epoch))
        files = sorted(path for path in tree.rglob("*") if path.is_file())
        sums = "".join(f"{_digest(path)}  {path.relative_to(tree)}\n" for path in files)
        (tree / "SHA256SUMS").write_text(sums)
        if key is not None:
            sign(tree / "SHA256SUMS", key)
        archive = out / f"{name}.tar.gz"
        _pack(tree, archive, source.epoch)
        made = [archive]
        if package:
            made.append(deb.build(tree, out, source.version, arch, source.epoch))
    if key is not None:
        for file in made:
            sign(file, key)
    return archive


def _manual(source: Source, wheels: Path, out: Path) -> None:
    """Write all pages as one file, by the reader of pages of the lock: another one may write other bytes."""
    readers = [str(path) for name in ("markdown_it_py", "mdurl") for path in wheels.glob(f"{name}-*.whl")]
    found = {"PYTHONPATH": os.pathsep.join(readers)}
    _run(sys.executable, "-m", "tools.manual", "--out", out, cwd=source.root, environment=found)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _pack(tree: Path, archive: Path, epoch: int) -> None:
    """Write an archive that depends on names and contents only: no owner, no umask, no order of a disk."""
    with (
        open(archive, "wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in sorted([tree, *tree.rglob("*")]):
            member = tarfile.TarInfo(str(path.relative_to(tree.parent)))
            member.mtime = epoch
            if path.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            else:
                member.size = path.stat().st_size
                member.mode = (
                    0o755 if path.suffix in (".sh", "") and path.read_bytes()[:2] == b"#!" else 0o644
                )
                with open(path, "rb") as content:
                    tar.addfile(member, content)


def sign(path: Path, key: Path) -> None:
    """Sign a file, beside it: FILE.sig, the 64 bytes that `openssl pkeyutl -rawin` verifies."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key.read_bytes(), None)
    except (OSError, TypeError, ValueError):
        raise Failed(f"{key} holds no private key in PEM without a passphrase") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise Failed(f"{key} is no Ed25519 key: make one with `openssl genpkey -algorithm ed25519`")
    path.with_name(f"{path.name}.sig").write_bytes(private.sign(path.read_bytes()))


def _commit(into: Path) -> Source:
    """The last commit of this checkout as a tree of its own: nothing that lies about gets in."""
    epoch = int(_run("git", "log", "-1", "--format=%ct", cwd=_ROOT))
    _run("git", "archive", "--output", into / "source.tar", "HEAD", cwd=_ROOT)
    _run("tar", "-xf", into / "source.tar", "--one-top-level=source", "--no-same-permissions", cwd=into)
    if _run("git", "status", "--porcelain", cwd=_ROOT):
        sys.stderr.write("what is not committed is not in the bundle\n")
    return Source(into / "source", epoch)


# The lock.


def _lock(root: Path) -> None:
    """Write the locks: for all machines and Pythons one version of everything, the newest that fits."""
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        text = (root / "pyproject.toml").read_text("utf-8")
        listed = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
        assert listed is not None
        wanted = [*re.findall(r'^    "([^"]+)"', listed.group(1), re.MULTILINE), "pip"]
        binary = [each for each in wanted if not each.startswith(_SDISTS)]
        for arch in ARCHES:
            for python in PYTHONS:
                _pip("download", "-q", *_tags(arch, python), "-d", work / "wheels", *binary)
        sources = [each for each in wanted if each.startswith(_SDISTS)]
        _pip("download", "-q", "--no-deps", "--no-binary", ":all:", "-d", work / "wheels", *sources)
        _pip("download", "-q", "--only-binary", ":all:", "-d", work / "tools", *_BUILD_TOOLS)
        _write_lock(root / _LOCK, work / "wheels")
        _write_lock(root / _TOOLS_LOCK, work / "tools")


def _write_lock(path: Path, files: Path) -> None:
    found: dict[tuple[str, str], set[str]] = {}
    for file in files.iterdir():
        name, version = re.split(r"-(?=\d)", file.name.removesuffix(".tar.gz"), maxsplit=1)
        project = re.sub(r"[-_.]+", "-", name).lower()
        found.setdefault((project, version.partition("-")[0]), set()).add(_digest(file))
    names = [name for name, _ in found]
    if len(names) != len(set(names)):
        raise Failed(f"one version does not fit all Pythons and machines: {sorted(found)}")
    lines = ["# written by `python -m tools.bundle --lock`; do not edit"]
    for (name, version), digests in sorted(found.items()):
        lines.append(
            " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{one}" for one in sorted(digests))])
        )
    path.write_text("\n".join([*lines, ""]), "utf-8")


def main(arguments: Sequence[str]) -> int:
    """Build what was asked for and name it on stdout; 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tools.bundle", description=__doc__)
    parser.add_argument(
        "--arch", action="append", choices=ARCHES, help="machine; again for more [default: all]"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="private Ed25519 key in PEM that signs")
    parser.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR", help="[default: dist]")
    parser.add_argument("--lock", action="store_true", help="only choose versions, and write the locks")
    given = parser.parse_args(arguments)
    try:
        if given.lock:
            _lock(_ROOT)
            return 0
        with tempfile.TemporaryDirectory() as directory:
            source, wheels = _commit(Path(directory)), Path(directory) / "wheels"
            arches = given.arch or ARCHES
            collect(source, wheels, arches, PYTHONS)
            for arch in arches:
                package = shutil.which("dpkg-deb") is not None
                build(source, wheels, given.out, arch, key=given.key, package=package)
            for made in sorted(given.out.glob(f"cyoloctl[-_]{source.version}[-_]*")):
                sys.stdout.write(f"{made}\n")
            if not package:
                sys.stderr.write("no .deb: dpkg-deb is not installed\n")
    except Failed as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if given.key is None:
        sys.stderr.write("not signed: `make bundle KEY=FILE` signs with an Ed25519 key\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
