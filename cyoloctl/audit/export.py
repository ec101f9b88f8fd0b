"""Exports of the audit log: files of one line of JSON for each line of the log, of both chains.

A file is verified without any node.  It is a valid export at every moment of
its writing but for a last line that is cut short, which the next export ends.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from cyoloctl.audit.lines import MAX_LINE_BYTES, BrokenLine, Chain, End, Verifier
from cyoloctl.errors import AuditBroken, Conflict
from cyoloctl.paths import exists_error, file_error, sync_directory
from cyoloctl.text import canonical_json

__all__ = ["ExportFile", "export_file", "join", "read_export", "text_of", "verify_file"]


def read_export(file: BinaryIO, name: str, *, torn: bool = False) -> tuple[Verifier, int]:
    """Verify an export from here to its end: the verifier, and how many bytes are whole lines.

    name: of the file, for messages.  torn: its last line may be cut short.  Raises AuditBroken.
    """
    verifier, size, number = Verifier(), 0, 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        try:
            if not raw.endswith(b"\n"):
                if torn and len(raw) <= MAX_LINE_BYTES:
                    break
                raise BrokenLine(
                    "it is too long for a line of an export"
                    if len(raw) > MAX_LINE_BYTES
                    else "it is cut short: `cyoloctl audit export --append` ends it"
                )
            verifier.add(raw[:-1].decode("ascii"))
        except UnicodeDecodeError:
            raise AuditBroken(f"{name} line {number}: it is not one line of an export") from None
        except BrokenLine as error:
            raise AuditBroken(f"{name} line {number}: {error}") from None
        size += len(raw)
    return verifier, size


def verify_file(path: Path) -> Mapping[Chain, End]:
    """How far an export goes, after all of it was verified.

    Raises AuditBroken, and what file_error gives.
    """
    try:
        with open(path, "rb") as file:
            return read_export(file, os.fspath(path))[0].ends
    except OSError as error:
        raise file_error(path, error, "read the export from") from None


def join(ends: Mapping[Chain, End], page: Mapping[str, Any], at: Mapping[str, Any] | None) -> int:
    """How many lines the cluster has after an export.

    page: of the chain.  at: its line where the export ends, if it has one.

    Raises AuditBroken where the cluster has another history, Conflict where lines between the two are lost.
    """
    chain: Chain = page["chain"]
    end = ends.get(chain)
    if end is None:
        return int(page["last"])
    if end.last > page["last"]:
        raise AuditBroken(
            f"the export holds {chain} line {end.last}, and the cluster's chain ends with line "
            f"{page['last']}: it went on from an older state, or was written anew"
        )
    if end.last < page["cut_through"]:
        raise Conflict(
            f"{chain} lines {end.last + 1} to {page['cut_through']} were cut, and are not in this export: "
            "begin another file"
        )
    here = page["cut_hash"] if end.last == page["cut_through"] else (at or {}).get("hash")
    if here != end.hash:
        raise AuditBroken(
            f"{chain} line {end.last} of the export is not the cluster's: one of the two was written anew"
        )
    return int(page["last"]) - end.last


def text_of(lines: Iterable[Mapping[str, Any]], verifier: Verifier) -> str:
    """Lines as an export holds them.  Raises AuditBroken for one that does not follow."""
    parts = []
    for line in lines:
        try:
            verifier.follow(dict(line))
        except BrokenLine as error:
            raise AuditBroken(f"the cluster's line does not follow the export: {error}") from None
        parts.append(f"{canonical_json(line)}\n")
    return "".join(parts)


class ExportFile:
    """An export that is being written.  verifier: how far it goes."""

    def __init__(self, file: BinaryIO, name: str, verifier: Verifier) -> None:
        self._file = file
        self._name = name
        self.verifier = verifier

    def write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines, each of which has to follow.  Raises AuditBroken, and what file_error gives."""
        text = text_of(lines, self.verifier)
        try:
            self._file.write(text.encode("ascii"))
            self._file.flush()
        except OSError as error:
            raise file_error(self._name, error, "write") from None

    def sync(self) -> None:
        """All that was written is on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise file_error(self._name, error, "write") from None


@contextmanager
def export_file(path: Path, *, append: bool) -> Iterator[ExportFile]:
    """An export to write, with mode 0600 where it is new.

    append: go on after the last line of a file that is there, which is verified first.
    What was written stays when the block fails: it is verified by itself.

    Raises AlreadyExists, AuditBroken, Conflict while another process writes it, and what file_error gives.
    """
    new = not (append and os.path.lexists(path))
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_CREAT | os.O_EXCL if new else 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise exists_error(path, "export") from None
    except OSError as error:
        raise file_error(path, error, "create" if new else "append to") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise exists_error(path, "export")
    with open(descriptor, "r+b") as file:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(f"another export writes to {path}: wait until it has ended") from None
        try:
            verifier, size = read_export(file, os.fspath(path), torn=True)
            file.truncate(size)
            file.seek(size)
        except OSError as error:
            raise file_error(path, error, "read") from None
        try:
            yield ExportFile(file, os.fspath(path), verifier)
        except BaseException:
            if new and not verifier.ends:
                path.unlink(missing_ok=True)
            raise
    if new:
        sync_directory(path.absolute().parent)
