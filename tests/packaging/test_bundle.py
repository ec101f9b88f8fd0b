"""A bundle: the same bytes from the same tree, and what its install.sh refuses."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cyoloctl import __version__
from tests.docs.reading import ROOT
from tests.packaging.conftest import EPOCH, HAS_DPKG, Bundles, install, make_key, unpack
from tools import bundle, generate, manual

pytestmark = pytest.mark.slow


@pytest.fixture
def unpacked(bundles: Bundles, tmp_path: Path) -> Path:
    return unpack(bundles.archive, tmp_path)


def test_bundle_built_again_is_the_same_bytes(bundles: Bundles, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        bundle.build(
            bundles.source, bundles.wheels, tmp_path, bundles.arch, key=bundles.key, package=HAS_DPKG
        )
    finally:
        os.umask(before)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made.keys() >= {bundles.archive.name, f"{bundles.archive.name}.sig"}
    assert len(made) == (4 if HAS_DPKG else 2)
    assert [name for name, text in made.items() if (bundles.archive.parent / name).read_bytes() != text] == []


@pytest.mark.skipif(not HAS_DPKG, reason="NO DEBIAN PACKAGE IS MADE: dpkg-deb is not installed")
def test_package_holds_the_bundle_as_root_and_needs_python_only(bundles: Bundles, tmp_path: Path) -> None:
    [package] = bundles.archive.parent.glob(f"cyoloctl_{__version__}_*.deb")

    def ask(*arguments: object) -> str:
        command = ["dpkg-deb", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert ask("--field", package, "Depends") == "python3 (>= 3.11)\n"
    assert ask("--field", package, "Version") == f"{__version__}\n"
    assert {line.split()[1] for line in ask("--contents", package).splitlines()} == {"root/root"}
    ask("--raw-extract", package, tmp_path / "deb")
    place = tmp_path / "deb/usr/share/cyoloctl/bundle"
    sums = (place / "SHA256SUMS").read_bytes()
    assert sums == (unpack(bundles.archive, tmp_path) / "SHA256SUMS").read_bytes()
    assert (tmp_path / "deb/usr/share/doc/cyoloctl/manual.html").resolve() == place / "manual.html"
    for script in ("postinst", "prerm"):
        text = (tmp_path / "deb/DEBIAN" / script).read_text("utf-8")
        [named] = set(re.findall(r"\S*install\.sh", text))
        assert (tmp_path / "deb" / named.removeprefix("/")).exists()


def test_archive_says_nothing_of_whoever_built_it(bundles: Bundles) -> None:
    with tarfile.open(bundles.archive) as tar:
        members = tar.getmembers()
    assert {(each.uid, each.gid, each.uname, each.gname, each.mtime) for each in members} == {
        (0, 0, "", "", EPOCH)
    }
    assert {each.mode for each in members if each.isdir()} == {0o755}
    assert {each.mode for each in members if each.isfile()} <= {0o755, 0o644}
    assert [each.name for each in members] == sorted(each.name for each in members)


def test_bundle_holds_units_completions_pages_and_the_whole_manual(unpacked: Path) -> None:
    for folder in ("docs", "completions", "packaging/systemd"):
        there = unpacked / folder.removeprefix("packaging/")
        assert {each.name for each in (ROOT / folder).iterdir()} == {each.name for each in there.iterdir()}
    assert (unpacked / "manual.html").read_text("utf-8") == manual.document()
    wanted = {"-".join(command.path) + ".1" for command in generate.commands()}
    assert {each.name for each in (unpacked / "man/man1").iterdir()} == wanted


def test_archive_and_sums_are_signed_as_openssl_verifies_it(bundles: Bundles, unpacked: Path) -> None:
    for file in (bundles.archive, unpacked / "SHA256SUMS"):
        command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", str(bundles.public)]
        command += ["-sigfile", f"{file}.sig", "-in", str(file)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_bill_of_materials_names_each_wheel_its_licence_and_what_needs_what(unpacked: Path) -> None:
    bill = json.loads((unpacked / "sbom.cdx.json").read_text("utf-8"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    own = bill["metadata"]["component"]
    assert (own["name"], own["type"]) == ("cyoloctl", "application")
    found = {
        file["name"]: file["hashes"][0]["content"]
        for component in [own, *bill["components"]]
        for file in component["components"]
    }
    wheels = (unpacked / "wheels").iterdir()
    assert found == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels}
    assert [each["name"] for each in bill["components"] if not each.get("licenses")] == []
    needs = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    names = {each["bom-ref"] for each in bill["components"]} | {own["bom-ref"]}
    assert set(needs) == names
    assert {one.partition("@")[0] for one in needs[own["bom-ref"]]} == {
        f"pkg:pypi/{name}" for name in _dependencies()
    }


def test_bundle_holds_nothing_that_is_not_needed_any_more(unpacked: Path) -> None:
    bill = json.loads((unpacked / "sbom.cdx.json").read_text("utf-8"))
    needs = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    reached: set[str] = set()
    next_ones = {bill["metadata"]["component"]["bom-ref"]}
    while next_ones - reached:
        reached |= next_ones
        next_ones = {one for each in next_ones for one in needs[each]}
    # pip installs the rest, and is not installed.
    surplus = {each.partition("@")[0].rpartition("/")[2] for each in set(needs) - reached}
    assert surplus == {"pip"}, "run `python -m tools.bundle --lock`"


def _dependencies() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {each.name: each for each in map(Requirement, project["dependencies"])}


def test_lock_has_a_fitting_version_of_every_dependency() -> None:
    lines = bundle.locked(ROOT / "packaging/wheels.txt")
    versions = {name: re.findall(r"==(\S+)", line)[0] for name, line in lines.items()}
    wrong = [
        name
        for name, wanted in _dependencies().items()
        if name not in versions or not wanted.specifier.contains(versions[name])
    ]
    assert wrong == [], "run `python -m tools.bundle --lock`"
    assert all("--hash=sha256:" in line for line in lines.values())


def refused(directory: Path, tmp_path: Path, *arguments: object) -> str:
    """What install.sh says when it refuses; nothing is left of the attempt."""
    prefix = tmp_path / "prefix"
    done = install(directory, "--prefix", prefix, *arguments)
    assert done.returncode != 0
    assert not prefix.exists()
    return done.stderr


def test_file_that_was_changed_is_refused(bundles: Bundles, unpacked: Path, tmp_path: Path) -> None:
    with (unpacked / "docs" / "index.md").open("a") as file:
        file.write("x")
    assert "index.md" in refused(unpacked, tmp_path, "--key", bundles.public)


def test_file_that_was_added_is_refused(unpacked: Path, tmp_path: Path) -> None:
    (unpacked / "wheels" / "httptools-9999-py3-none-any.whl").touch()
    assert "not part of the bundle: wheels/httptools-9999-py3-none-any.whl" in refused(unpacked, tmp_path)


def test_sums_that_somebody_else_made_are_refused_by_the_key(
    bundles: Bundles, unpacked: Path, tmp_path: Path
) -> None:
    sums = unpacked / "SHA256SUMS"
    sums.write_text(sums.read_text("utf-8").replace("a", "b", 1))
    assert "not by that key" in refused(unpacked, tmp_path, "--key", bundles.public)


def test_another_key_is_refused(unpacked: Path, tmp_path: Path) -> None:
    _, public = make_key(tmp_path / "other")
    assert "not by that key" in refused(unpacked, tmp_path, "--key", public)


def test_unsigned_bundle_is_refused_when_a_key_is_given(
    bundles: Bundles, unpacked: Path, tmp_path: Path
) -> None:
    (unpacked / "SHA256SUMS.sig").unlink()
    assert "not signed" in refused(unpacked, tmp_path, "--key", bundles.public)


def test_python_that_is_too_old_or_not_there_is_refused_before_anything_is_written(
    unpacked: Path, tmp_path: Path
) -> None:
    old = tmp_path / "python3.10"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    assert "older than 3.11" in refused(unpacked, tmp_path, "--python", old)
    assert "there is no" in refused(unpacked, tmp_path, "--python", tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--frobnicate"], 2, "--help"),
        (["--key"], 2, "needs a value"),
        (["--rollback", "--prefix", "{}/p"], 1, "no release to go back to"),
        (["--uninstall", "--prefix", "{}/p"], 1, "nothing is installed"),
        (["--prefix", "{}/with blank"], 2, "--prefix"),
    ],
)
def test_mistake_is_told(
    unpacked: Path, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    done = install(unpacked, *(each.format(tmp_path) for each in arguments))
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


def test_wheels_that_do_not_fit_leave_nothing_of_the_release(unpacked: Path, tmp_path: Path) -> None:
    [wheel] = (unpacked / "wheels").glob("typer-*.whl")
    wheel.unlink()
    sums = unpacked / "SHA256SUMS"
    lines = sums.read_text("utf-8").splitlines(keepends=True)
    sums.write_text("".join(line for line in lines if wheel.name not in line))
    done = install(unpacked, "--prefix", tmp_path / "prefix")
    assert done.returncode != 0
    assert "do not fit this Python" in done.stderr
    assert list((tmp_path / "prefix").iterdir()) == []


@pytest.mark.parametrize("key", ["", "-----BEGIN PRIVATE KEY-----"])
def test_key_that_is_none_is_told_without_its_text(key: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(key)
    with pytest.raises(bundle.Failed, match="holds no private key"):
        bundle.sign(file, file)


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="install.sh IS NOT CHECKED: apt-get install shellcheck"
)
def test_install_script_is_plain_posix_shell() -> None:
    read = subprocess.run(
        ["shellcheck", "--shell=sh", str(ROOT / "packaging/install.sh")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (read.returncode, read.stdout) == (0, "")
