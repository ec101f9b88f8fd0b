"""Support bundles: what somebody else needs to understand a node's trouble, and no secret.

A bundle is a tar.gz of one directory.  It is put together in memory: it is
small, and nothing of it lies on a disk before it is whole.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import io
import json
import os
import platform
import re
import ssl
import stat
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cyoloctl import __version__
from cyoloctl.doctor.cluster import as_document, find_all
from cyoloctl.doctor.collecting import Ask, read_config
from cyoloctl.doctor.facts import Facts
from cyoloctl.doctor.redaction import config_text, secret_lines, without_quotation, without_secrets
from cyoloctl.errors import CyoloctlError
from cyoloctl.paths import LOG_NAME
from cyoloctl.pki.files import (
    OPERATOR_FILE,
    PKI_DIRECTORY,
    SEALING_KEY,
    load_file,
    read_authorities,
    read_node_certificate,
)
from cyoloctl.pki.seal import load_sealing_key, sealing_key_text
from cyoloctl.pki.x509 import certificate_sha256, public_key_sha256
from cyoloctl.text import from_unix_ms, rfc3339

__all__ = ["LeftOut", "SupportBundle", "make_bundle"]

LOG_TAIL_BYTES = 512 * 1024
_LOGS = (LOG_NAME, f"{LOG_NAME}.1")
_MAX_SECRET_FILE_BYTES = 64 * 1024

_PACKAGE = re.compile(r"[^A-Za-z0-9._-]")
"""What ends the name of a package in a requirement."""

_ABOUT = {
    "doctor.json": "what `cyoloctl doctor --all` found",
    "status.json": "what `cyoloctl status` shows: the cluster and its members",
    "members.json": "the members",
    "keys.json": "ids, fingerprints and holders of the token keys; never a key",
    "pki.json": "the CAs by their fingerprints, and whose certificates are under which",
    "fingerprints.json": "fingerprints of this node's certificate and CAs",
    "node.yaml": "the node's configuration as it was understood, without comments",
    "files.json": "sizes, modes and times of the node's files, not what is in them",
    "machine.json": "limits, memory and syncs that were measured",
    "versions.json": "releases of cyoloctl, Python, libraries and the system",
    LOG_NAME: "the end of the node's log",
    f"{LOG_NAME}.1": "the end of the log before that",
}
"""What may be in a bundle."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What is not in a bundle, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class SupportBundle:
    """A tar.gz.  names: of what is in it.  hidden: how many secrets were found and hidden."""

    data: bytes
    names: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    hidden: int


def make_bundle(data_dir: Path, facts: Facts, ask: Ask) -> SupportBundle:
    """A bundle about the node of a data directory, which may run or not.  Changes nothing."""
    left_out: list[LeftOut] = []
    parts: dict[str, bytes] = {}

    def put(name: str, make: Callable[[], bytes]) -> None:
        try:
            parts[name] = make()
        except CyoloctlError as error:
            left_out.append(LeftOut(name, error.message))
        except OSError as error:
            left_out.append(LeftOut(name, error.strerror or str(error)))

    quoting = facts.directory.config_error
    if quoting is not None:
        hidden = replace(facts.directory, config_error=without_quotation(quoting))
        facts = replace(facts, directory=hidden)
    findings = find_all(facts, warn_days=None)
    put("doctor.json", lambda: _json(as_document(findings, every=True)))
    _put_answers(facts, ask, put, left_out)
    put("fingerprints.json", lambda: _json(_fingerprints(data_dir)))
    put("node.yaml", lambda: _config(data_dir))
    put("files.json", lambda: _json(_files(facts)))
    put("machine.json", lambda: _json({**asdict(facts.machine), **_measured(facts)}))
    put("versions.json", lambda: _json(_versions()))
    for name in _LOGS:
        if os.path.lexists(data_dir / name):
            put(name, lambda name=name: _tail(data_dir / name))  # type: ignore[misc]  # mypy 1.18
    if LOG_NAME not in parts and not any(one.name == LOG_NAME for one in left_out):
        left_out.append(LeftOut(LOG_NAME, "this node writes no log file: see what collects its stderr"))

    known, hidden_count = _own_secrets(data_dir), 0
    for name, data in parts.items():
        parts[name], count = without_secrets(data, known)
        hidden_count += count
    parts = {"README.txt": _encoded(_readme(facts, parts, left_out)), **parts}
    directory = f"cyoloctl-support-{facts.directory.name or 'node'}"
    made = _tar(directory, parts, facts.machine.now_unix_ms // 1000)
    return SupportBundle(made, tuple(parts), tuple(left_out), hidden_count)


def _put_answers(
    facts: Facts, ask: Ask, put: Callable[[str, Callable[[], bytes]], None], left_out: list[LeftOut]
) -> None:
    """What the node said: of what it did not, the reason."""
    answers = facts.answers
    for name, operation, answer in (
        ("status.json", "status", answers.status),
        ("keys.json", "key_status", answers.keys),
        ("pki.json", "pki_status", answers.pki),
    ):
        if answer is not None:
            put(name, lambda answer=answer: _json(answer))  # type: ignore[misc]  # mypy 1.18
        else:
            left_out.append(LeftOut(name, answers.error or answers.refused.get(operation, "not answered")))
    if answers.error is None:
        put("members.json", lambda: _json(ask("member_list", {"consistency": "stale"})))
    else:
        left_out.append(LeftOut("members.json", answers.error))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode("ascii")


def _config(data_dir: Path) -> bytes:
    config, error = read_config(data_dir)
    return _encoded(f"# {without_quotation(str(error))}\n" if config is None else config_text(config))


def _encoded(text: str) -> bytes:
    """UTF-8, also of a path that is none."""
    return text.encode("utf-8", "backslashreplace")


def _fingerprints(data_dir: Path) -> dict[str, Any]:
    pki = data_dir / PKI_DIRECTORY
    certificate = read_node_certificate(pki)
    return {
        "ca_sha256": [certificate_sha256(pem) for pem in read_authorities(pki)],
        "certificate_sha256": certificate_sha256(certificate),
        "public_key_sha256": public_key_sha256(certificate),
        "sealing_key": sealing_key_text(load_file(pki / SEALING_KEY, load_sealing_key)),
    }


def _files(facts: Facts) -> dict[str, Any]:
    rows = [
        {
            "path": file.path,
            "kind": file.kind,
            "mode": f"{file.mode:04o}",
            "owner": file.owner,
            "size_bytes": file.size_bytes,
            "changed_at": rfc3339(file.changed_unix_ms / 1000),
        }
        for file in facts.directory.files
    ]
    space = facts.directory.space
    free, total = (None, None) if space is None else (space.free_bytes, space.total_bytes)
    return {"files": rows, "free_bytes": free, "total_bytes": total}


def _measured(facts: Facts) -> dict[str, Any]:
    syncs, snapshots = facts.directory.syncs, facts.directory.snapshots
    return {
        "syncs": None if syncs is None else asdict(syncs),
        "sync_error": facts.directory.sync_error,
        "snapshots": None if snapshots is None else asdict(snapshots),
        "hosts": dict(facts.hosts),
    }


def _versions() -> dict[str, Any]:
    packages: dict[str, str] = {}
    with suppress(importlib.metadata.PackageNotFoundError):
        for wanted in importlib.metadata.requires("cyoloctl") or ():
            name = _PACKAGE.split(wanted, maxsplit=1)[0]
            if "extra ==" in wanted:
                continue  # of those who work on it
            with suppress(importlib.metadata.PackageNotFoundError):
                packages[name] = importlib.metadata.version(name)
    system: Mapping[str, str] = {}
    with suppress(OSError):
        system = platform.freedesktop_os_release()
    return {
        "cyoloctl": __version__,
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "openssl": ssl.OPENSSL_VERSION,
        "system": system.get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "packages": packages,
    }


def _tail(path: Path) -> bytes:
    """The last whole lines of a log.  Raises OSError, also for what is no file, or a link to one."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is not a file")
        start = max(0, found.st_size - LOG_TAIL_BYTES)
        file.seek(start)
        data = file.read(LOG_TAIL_BYTES)
    return data.partition(b"\n")[2] if start else data


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _own_secrets(data_dir: Path) -> set[bytes]:
    """Key material of this directory as it is spelled there, so far as this user may read it."""
    found: set[bytes] = set()
    for path in (*(data_dir / PKI_DIRECTORY).glob("*.key"), data_dir / OPERATOR_FILE):
        # Not blocking: a pipe of that name must not hold us up.
        with suppress(OSError), open(path, "rb", opener=_without_waiting) as file:
            found |= secret_lines(file.read(_MAX_SECRET_FILE_BYTES).decode("latin-1"))
    return found


def _readme(facts: Facts, parts: Mapping[str, bytes], left_out: Sequence[LeftOut]) -> str:
    at = rfc3339(from_unix_ms(facts.machine.now_unix_ms).timestamp())
    name = facts.directory.name or facts.directory.path
    lines = [
        f"Support bundle of cyoloctl {__version__}, about node {name}, made at {at} by its machine's clock.",
        "",
        "What is in it:",
        *(f"  {part:<18} {_ABOUT[part]}" for part in parts),
    ]
    if left_out:
        lines += ["", "What is not in it, and why:"]
        lines += [f"  {one.name:<18} {one.reason}" for one in left_out]
    lines += [
        "",
        "No private key, token, key ring, passphrase, value of a key or counter, or user's data is in it.",
        "Names and addresses of members and hosts are, and the log names whoever called the node.",
        "",
    ]
    return "\n".join(lines)


def _tar(directory: str, parts: Mapping[str, bytes], unix_s: int) -> bytes:
    """A tar.gz with one directory; owners are nobody's, modes 0600."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=unix_s) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        folder = tarfile.TarInfo(directory)
        folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o700, max(0, unix_s)
        tar.addfile(folder)
        for name, data in parts.items():
            entry = tarfile.TarInfo(f"{directory}/{name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o600, max(0, unix_s)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
