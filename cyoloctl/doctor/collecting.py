"""Collecting the facts: from a data directory, whose disk is measured, the machine and the node."""

from __future__ import annotations

import os
import pwd
import stat
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from cyoloctl import __version__
from cyoloctl.doctor.facts import Answers, Directory, Facts, FileFact, Kind, Secrecy, Snapshots, Syncs
from cyoloctl.doctor.system import look_at_machine
from cyoloctl.errors import ConfigError, CyoloctlError, InvalidInput, Unreachable
from cyoloctl.members.disk_space import reserve_bytes
from cyoloctl.model import parse_address
from cyoloctl.node.config import CONFIG_NAME, Config, load_config
from cyoloctl.node.snapshot_schedule import newest_snapshot
from cyoloctl.paths import LOG_NAME, control_socket_path, disk_space, file_error
from cyoloctl.pki.files import (
    CA_CERT,
    NODE_CERT,
    OPERATOR_FILE,
    PKI_DIRECTORY,
    check_private_files,
    load_file,
    read_pem,
)
from cyoloctl.pki.renewal import life_of
from cyoloctl.pki.x509 import load_authorities, load_certificate
from cyoloctl.text import Json, rfc3339_of
from cyoloctl.web.lookup import Lookup

__all__ = [
    "Ask",
    "ask_node",
    "collect",
    "hosts_of",
    "look_at_directory",
    "look_up",
    "measure_syncs",
    "read_config",
]

Ask = Callable[[str, Mapping[str, str]], Json]
"""Ask the node: an operation of its API, with its query."""

_SYNCS, _SYNC_BYTES, _SYNC_TIME_S = 32, 4096, 3.0


def collect(data_dir: Path, *, ask: Ask, pid: int | None, timeout_s: float) -> Facts:
    """All facts about the node of a data directory.

    pid: of its process, None where there is none.  timeout_s: for host names.
    Writes one file for the measurement, which is gone when this returns or raises.
    """
    config, error = read_config(data_dir)
    answers = ask_node(ask)
    directory = look_at_directory(data_dir, config, error)
    machine = look_at_machine(time.time_ns() // 1_000_000, pid)
    return Facts(directory, machine, answers, look_up(hosts_of(config, answers), timeout_s))


# -- the node -----------------------------------------------------------------------------------


def ask_node(ask: Ask) -> Answers:
    """What it says; what needs no leader is asked so."""
    try:
        status = ask("status", {})
    except CyoloctlError as error:
        return Answers(__version__, error=error.message, unreachable=isinstance(error, Unreachable))
    told: dict[str, Json] = {}
    refused: dict[str, str] = {}
    stale = {"consistency": "stale"}
    for operation, query in (("key_status", stale), ("credential_list", stale), ("pki_status", {})):
        try:
            told[operation] = ask(operation, query)
        except CyoloctlError as error:
            refused[operation] = error.message
    return Answers(
        __version__,
        status=status,
        keys=told.get("key_status"),
        pki=told.get("pki_status"),
        credentials=told.get("credential_list"),
        refused=refused,
    )


def hosts_of(config: Config | None, answers: Answers) -> set[str]:
    """Host names at which members are, as the node says, or node.yaml where it does not run."""
    addresses = [str(row["address"]) for row in (answers.status or {}).get("members", ())]
    if not addresses and config is not None:
        addresses = [str(address) for address in (config.advertise, *config.peers.values())]
    found = set()
    for text in addresses:
        with suppress(InvalidInput):
            found.add(parse_address(text).host)
    return {host for host in found if not _is_numeric(host)}


def _is_numeric(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def look_up(hosts: Iterable[str], timeout_s: float) -> dict[str, str | None]:
    """By host name, why it cannot be looked up; all at once, within the time."""
    lookups = {host: Lookup(host, 0) for host in hosts}
    deadline = time.monotonic() + timeout_s
    found: dict[str, str | None] = {}
    for host, lookup in lookups.items():
        if not lookup.wait(max(0.0, deadline - time.monotonic())):
            found[host] = f"no answer in {timeout_s:g} s"
            continue
        try:
            lookup.result()
            found[host] = None
        except OSError as error:
            found[host] = error.strerror or str(error)
    return found


# -- the data directory -------------------------------------------------------------------------


def read_config(data_dir: Path) -> tuple[Config | None, str | None]:
    """The configuration, or why there is none."""
    try:
        return load_config(data_dir / CONFIG_NAME), None
    except CyoloctlError as error:
        return None, error.message


def look_at_directory(data_dir: Path, config: Config | None, config_error: str | None) -> Directory:
    """The facts of a data directory; measures its disk.  Raises what file_error gives."""
    try:
        owner = os.stat(data_dir).st_uid
    except OSError as error:
        raise file_error(data_dir, error, "look at") from None
    me = os.geteuid()
    if me not in (0, owner) and not os.access(data_dir / CONFIG_NAME, os.R_OK):
        return Directory(str(data_dir), owner, closed_to=me, owner_name=_user(owner))
    files = tuple(_files(data_dir))
    space = disk_space(data_dir)
    snapshot_bytes = sum(file.size_bytes for file in files if file.path == str(data_dir / "snapshot"))
    syncs, sync_error = None, None
    try:
        syncs = measure_syncs(data_dir)
    except OSError as error:
        sync_error = error.strerror or str(error)
    return Directory(
        str(data_dir),
        owner,
        name=None if config is None else str(config.name),
        cluster=None if config is None else str(config.cluster),
        offline_ca=config is not None and config.offline_ca,
        config_error=config_error,
        files=files,
        space=space,
        reserve_bytes=0 if space is None else reserve_bytes(space.total_bytes, snapshot_bytes),
        syncs=syncs,
        sync_error=sync_error,
        pki_problem=None if config is None else _pki_problem(data_dir, config),
        certificate_ends=_end(data_dir / PKI_DIRECTORY / NODE_CERT),
        certificate_days=_life_days(data_dir / PKI_DIRECTORY / NODE_CERT),
        ca_ends=_end(data_dir / PKI_DIRECTORY / CA_CERT),
        snapshots=None if config is None else _snapshots(config),
    )


def _user(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


_OWN = (CONFIG_NAME, "raft.db*", "snapshot*", f"{LOG_NAME}*", OPERATOR_FILE)
_SECRET = ("raft.db", "snapshot", OPERATOR_FILE)
"""Beginnings of the names of files with users' data, or keys."""


def _files(data_dir: Path) -> Iterator[FileFact]:
    pki = data_dir / PKI_DIRECTORY
    yield from _fact(data_dir, "public")
    yield from _fact(pki, "own")
    for pattern in _OWN:
        for path in sorted(data_dir.glob(pattern)):
            yield from _fact(path, "secret" if path.name.startswith(_SECRET) else "own")
    for path in sorted(pki.glob("*")):
        yield from _fact(path, "secret" if path.suffix == ".key" else "public")
    with suppress(ConfigError):
        yield from _fact(control_socket_path(data_dir), "secret")


def _fact(path: Path, secrecy: Secrecy) -> Iterator[FileFact]:
    try:
        found = os.stat(path)  # of a link what it leads to: its own mode says nothing, and chmod follows it
    except OSError:
        return
    kind: Kind = "other"
    if stat.S_ISDIR(found.st_mode):
        kind = "directory"
    elif stat.S_ISREG(found.st_mode):
        kind = "file"
    elif stat.S_ISSOCK(found.st_mode):
        kind = "socket"
    mode = stat.S_IMODE(found.st_mode)
    yield FileFact(
        str(path), kind, secrecy, mode, found.st_uid, found.st_size, found.st_mtime_ns // 1_000_000
    )


def measure_syncs(data_dir: Path, clock: Callable[[], float] = time.perf_counter) -> Syncs:
    """How long fdatasync takes here: 4 KiB appended and synced, up to 32 times or three seconds.

    The file has a name, as the journal has: some file systems do less for one
    without.  It is removed whatever happens; after SIGKILL the next start of
    the node does it (`node.unfinished`).  Raises OSError.
    """
    path = data_dir / f".doctor.{os.urandom(8).hex()}"
    took: list[float] = []
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        began = clock()
        while len(took) < _SYNCS and (not took or clock() - began < _SYNC_TIME_S):
            os.write(descriptor, bytes(_SYNC_BYTES))
            before = clock()
            os.fdatasync(descriptor)
            took.append((clock() - before) * 1000)
    finally:
        os.close(descriptor)
        path.unlink()
    return Syncs(len(took), statistics.median(took), max(took))


def _pki_problem(data_dir: Path, config: Config) -> str | None:
    try:
        check_private_files(data_dir / PKI_DIRECTORY, name=config.name, cluster_id=config.cluster_id)
    except CyoloctlError as error:
        return error.message
    return None


def _end(path: Path) -> str | None:
    """The end of the last certificate in a file, RFC 3339; None where it cannot be read."""
    try:
        if path.name == CA_CERT:
            return rfc3339_of(load_file(path, load_authorities)[-1].not_valid_after_utc)
        return rfc3339_of(load_file(path, load_certificate).not_valid_after_utc)
    except CyoloctlError:
        return None


def _life_days(path: Path) -> int | None:
    try:
        return life_of(read_pem(path)).days
    except CyoloctlError:
        return None


def _snapshots(config: Config) -> Snapshots | None:
    policy = config.snapshots
    if policy is None:
        return None
    try:
        newest = newest_snapshot(str(config.name), policy)
        newest_ms = None if newest is None else newest.stat().st_mtime_ns // 1_000_000
    except OSError as error:
        return Snapshots(policy.every_s, policy.directory, None, error.strerror or str(error))
    return Snapshots(policy.every_s, policy.directory, newest_ms)
