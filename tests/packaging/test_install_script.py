"""`install.sh` alone, with a bundle that holds next to nothing: its arguments, and what ends it halfway."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.reading import ROOT
from tests.packaging.conftest import make_key
from tools.bundle import sign

PYTHON = """#!/bin/sh
for last in "$@"; do :; done
case "$*" in
*"-m venv"*) mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
*" install "*) printf '#!/bin/sh\\n' >"${0%/*}/cyoloctl" && chmod +x "${0%/*}/cyoloctl" ;;
esac
"""
"""What install.sh asks of a Python, as far as it looks."""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return program(tmp_path / "python", PYTHON)


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(0o755)
    return path


def bundle(into: Path, version: str) -> Path:
    """A directory as an archive unpacks into."""
    files = {
        "VERSION": f"{version}\n",
        "install.sh": (ROOT / "packaging" / "install.sh").read_text("utf-8"),
        "wheels/pip-1-py3-none-any.whl": "",
        f"man/man1/cyoloctl-of-{version}.1": "",
        "manual.html": "",
        "verify-signature.py": (ROOT / "tools" / "verify_signature.py").read_text("utf-8"),
        "completions/_cyoloctl": "",
        "completions/cyoloctl.fish": "",
        "completions/cyoloctl.bash": "",
    }
    directory = into / f"bundle {version}"
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, "utf-8")
    sums = [f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in files.items()]
    (directory / "SHA256SUMS").write_text("".join(sums), "utf-8")
    return directory


def install(
    directory: Path, *arguments: object, programs: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """programs: a directory that comes first where programs are looked for."""
    path = os.environ["PATH"] if programs is None else f"{programs}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", str(directory / "install.sh"), *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": path},
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("option", ["--prefix", "--key", "--python"])
def test_option_of_an_unset_variable_is_no_option_that_was_left_out(tmp_path: Path, option: str) -> None:
    done = install(bundle(tmp_path, "1.0"), "--uninstall", option, "")
    assert (done.returncode, done.stderr) == (2, f"error: {option} needs a value; see --help\n")


@pytest.mark.parametrize("spelling", ["{}/", "{}/./", "{}/../p", "{}/../link"])
def test_release_in_use_is_found_however_the_prefix_is_spelled(
    tmp_path: Path, python: Path, spelling: str
) -> None:
    prefix = tmp_path / "p"
    prefix.mkdir()
    (tmp_path / "link").symlink_to(prefix)
    options = ["--prefix", spelling.format(prefix), "--python", python]
    for version in ("1.0", "2.0"):
        done = install(bundle(tmp_path, version), *options)
        assert done.returncode == 0, done.stderr
    with subprocess.Popen([prefix / "1.0" / "bin" / "python", "300"], executable="sleep") as node:
        try:
            done = install(bundle(tmp_path, "3.0"), *options)
            assert done.returncode == 0, done.stderr
            assert f"{prefix}/1.0 is in use and stays" in done.stderr
            done = install(tmp_path / "bundle 3.0", "--uninstall", *options[:2])
            assert done.returncode == 4, done.stderr
            assert (prefix / "1.0" / "bin" / "cyoloctl").exists()
        finally:
            node.kill()
    done = install(tmp_path / "bundle 3.0", "--uninstall", *options[:2])
    assert (done.returncode, prefix.exists()) == (0, False), done.stderr


@pytest.mark.parametrize("what", ["previous", "current", "bin/cyoloctl", "share/man/man1/cyoloctl-of-2.0.1"])
def test_upgrade_that_ended_halfway_is_finished_by_the_next(tmp_path: Path, python: Path, what: str) -> None:
    prefix, options = tmp_path / "p", ["--prefix", tmp_path / "p", "--python", python]
    assert install(bundle(tmp_path, "1.0"), *options).returncode == 0
    second, programs = bundle(tmp_path, "2.0"), tmp_path / "programs"
    program(
        programs / "mv", f'#!/bin/sh\ncase "$*" in */{what}) exit 1 ;; esac\nexec {shutil.which("mv")} "$@"\n'
    )
    assert install(second, *options, programs=programs).returncode == 1
    assert (prefix / "bin" / "cyoloctl").exists()  # at every moment
    done = install(second, *options)
    assert done.returncode == 0, done.stderr
    assert (prefix / "bin" / "cyoloctl").resolve() == prefix / "2.0" / "bin" / "cyoloctl"
    assert os.listdir(prefix / "share" / "man" / "man1") == ["cyoloctl-of-2.0.1"]
    done = install(second, "--rollback", *options[:2])
    assert (done.returncode, os.readlink(prefix / "current")) == (0, "1.0"), done.stderr
    assert os.listdir(prefix / "share" / "man" / "man1") == ["cyoloctl-of-1.0.1"]
    assert install(second, "--uninstall", *options[:2]).returncode == 0
    assert not prefix.exists()


def test_directory_that_was_there_before_stays_though_it_is_empty(tmp_path: Path, python: Path) -> None:
    prefix, options = tmp_path / "p", ["--prefix", tmp_path / "p", "--python", python]
    (prefix / "bin").mkdir(parents=True)
    for version in ("1.0", "2.0"):
        assert install(bundle(tmp_path, version), *options).returncode == 0
    assert install(tmp_path / "bundle 2.0", "--uninstall", *options[:2]).returncode == 0
    assert os.listdir(prefix) == ["bin"]


def test_second_installation_at_the_same_time_is_refused(tmp_path: Path, python: Path) -> None:
    prefix = tmp_path / "p"
    prefix.mkdir()
    descriptor = os.open(prefix, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        done = install(bundle(tmp_path, "1.0"), "--prefix", prefix, "--python", python)
    finally:
        os.close(descriptor)
    assert (done.returncode, os.listdir(prefix)) == (4, []), done.stderr
    assert f"another install.sh is at work in {prefix}" in done.stderr


def old_openssl(tmp_path: Path) -> Path:
    """A directory of programs with an openssl that cannot check the signature."""
    programs = tmp_path / "programs"
    program(programs / "openssl", "#!/bin/sh\necho ' -sigfile infile' >&2\nexit 1\n")
    return programs


@pytest.mark.parametrize("forged", [False, True])
def test_signature_is_checked_by_python_where_openssl_cannot(tmp_path: Path, forged: bool) -> None:
    directory, (key, public) = bundle(tmp_path, "1.0"), make_key(tmp_path / "key")
    sign(directory / "SHA256SUMS", key)
    if forged:
        _, public = make_key(tmp_path / "other")
    # A bundle whose wheels fit nothing: how far it comes tells.
    options = ["--prefix", tmp_path / "p", "--key", public]
    done = install(directory, *options, programs=old_openssl(tmp_path))
    assert done.returncode == 1
    said = "the signature is not by that key" if forged else "the signature is right\n"
    assert said in done.stderr
    assert ("the wheels of this bundle do not fit" in done.stderr) is not forged


def test_machine_that_cannot_check_the_signature_does_not_call_it_a_forgery(tmp_path: Path) -> None:
    python = program(
        tmp_path / "python", '#!/bin/sh\ncase "$*" in *verify-signature.py*) exit 3 ;; esac\nexit 0\n'
    )
    directory = bundle(tmp_path, "1.0")
    (directory / "SHA256SUMS.sig").touch()
    (tmp_path / "key").touch()
    options = ["--prefix", tmp_path / "p", "--key", tmp_path / "key", "--python", python]
    done = install(directory, *options, programs=old_openssl(tmp_path))
    assert (done.returncode, (tmp_path / "p").exists()) == (1, False)
    assert done.stderr.startswith("error: the signature cannot be checked: there is no openssl 3.0 or newer")


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ("", 0, ""),
        ("file", 1, "was not signed by that key"),
        ("signature", 1, "was not signed by that key"),
        ("key", 2, "holds no public key in PEM"),
        ("private", 2, "holds no public key in PEM"),
        ("none", 2, "cannot read"),
    ],
)
def test_verifier_alone_tells_what_is_wrong(tmp_path: Path, changed: str, status: int, said: str) -> None:
    key, public = make_key(tmp_path / "release.key")
    file, signature = tmp_path / "archive", tmp_path / "archive.sig"
    file.write_bytes(b"text")
    sign(file, key)
    {
        "": lambda: None,
        "file": lambda: file.write_bytes(b"texts"),
        "signature": lambda: signature.write_bytes(signature.read_bytes()[:-1]),
        "key": lambda: public.write_text("no key"),
        "private": lambda: public.write_bytes(key.read_bytes()),
        "none": file.unlink,
    }[changed]()
    command = [sys.executable, "-I", ROOT / "tools" / "verify_signature.py", public, signature, file]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert done.stdout == ("the signature is right\n" if status == 0 else "")
