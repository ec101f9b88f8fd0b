"""Putting an exported file where a proxy reads it: checked by the proxy first, all or nothing."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cyoloctl.errors import ConfigError, InvalidInput
from cyoloctl.paths import file_error, sync_directory
from cyoloctl.process import child_environment

__all__ = ["Published", "publish"]

_VALIDATE_LIMIT_S = 30


@dataclass(frozen=True, slots=True)
class Published:
    """Outcome for a file.  output: of the validator, empty where it did not run."""

    outcome: Literal["changed", "unchanged", "refused"]
    output: str = ""


def publish(
    text: str, path: str | os.PathLike[str], *, validate: Sequence[str], validated_text: str | None = None
) -> Published:
    """Replace a file by text, once the validator accepts it.

    path: a symbolic link is followed, its target replaced.  Mode and owner of
    a file that is there are kept; a new one gets mode 0644, less the umask.
    validate: a command with ``{}`` for the name of the file to check
    (``nginx -t -c {}``, ``haproxy -c -f {}``), run without a shell, 30 s at most.
    validated_text: what the validator sees instead of text: for a fragment, which
    nginx cannot check alone, the whole configuration of the same table.

    "unchanged" where the file differs in comments at most: the validator does
    not run, nothing is written, and there is nothing to reload.  "refused"
    where the validator exits with another status than 0 or not in time: the
    file is as it was.  After "changed", file and directory entry are on the
    disk, and whoever reads the file sees the old or the new text, never a part.

    The file to check is beside path under a name that begins with a dot and
    does not end in .conf or .cfg, so that no include takes it; it is gone when this returns.

    Raises InvalidInput for a validator without ``{}``, which would check some
    other file, ConfigError where it cannot be run, and what file_error gives
    where the file cannot be read or written; then the file is as it was.
    """
    if not any("{}" in word for word in validate):
        raise InvalidInput("the check names no file: put {} where its name belongs, as in nginx -t -c {}")
    path = os.path.realpath(path)
    directory, name = os.path.split(path)
    made: list[str] = []
    try:
        before: os.stat_result | None = None
        try:
            with open(path, "rb") as file:
                before = os.fstat(file.fileno())
                if _without_comments(file.read()) == _without_comments(text.encode()):
                    return Published("unchanged")
        except FileNotFoundError:
            pass
        made.append(_temporary(directory, name))
        _write_like(made[0], text, before)
        if validated_text is not None:
            made.append(_temporary(directory, name))
            _write_like(made[1], validated_text, before)
        temporary, checked = made[0], made[-1]
        accepted, output = _run([word.replace("{}", checked) for word in validate])
        if not accepted:
            return Published("refused", output)
        os.rename(temporary, path)
        sync_directory(directory)
        return Published("changed", output)
    except OSError as error:
        raise file_error(path, error, "replace") from error
    finally:
        for leftover in made:
            if os.path.lexists(leftover):
                os.unlink(leftover)


def _temporary(directory: str, name: str) -> str:
    return os.path.join(directory, f".{name[:64]}.{os.urandom(8).hex()}.tmp")


def _write_like(path: str, content: str, like: os.stat_result | None) -> None:
    """Write a new file to the disk, with the mode and owner of another.  Raises OSError."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
        if like is not None:
            if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), like.st_uid, like.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
        file.write(content.encode())
        file.flush()
        os.fsync(file.fileno())


def _run(command: list[str]) -> tuple[bool, str]:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_VALIDATE_LIMIT_S,
            check=False,
            env=child_environment(os.environ),
        )
    except subprocess.TimeoutExpired:
        return False, f"{command[0]} did not finish within {_VALIDATE_LIMIT_S} s"
    except OSError as error:
        raise ConfigError(
            f"cannot run {command[0]} to check the file: {error.strerror}; install it, or name another check"
        ) from error
    return done.returncode == 0, done.stdout.decode(errors="replace").strip()


def _without_comments(data: bytes) -> list[bytes]:
    return [line for line in data.splitlines() if not line.lstrip().startswith(b"#")]
