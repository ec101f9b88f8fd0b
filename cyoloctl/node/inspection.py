"""A node's log and durable state for people and scripts, read from its files, also while it runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from cyoloctl.errors import ConfigError, StorageError
from cyoloctl.node.config import CONFIG_NAME, Config, load_config
from cyoloctl.paths import exists_error
from cyoloctl.raft import JournalCopy, LogEntry, copy_journal, inspect_journal
from cyoloctl.replicated.command import Malformed, decode_command
from cyoloctl.text import rfc3339

__all__ = ["copy_log", "inspect_node", "node_log", "summary_of"]

_JOURNAL, _SNAPSHOT = "raft.db", "snapshot"


def _on_disk(data_dir: Path) -> Config:
    config = load_config(data_dir / CONFIG_NAME)
    if config.storage != "disk":
        raise ConfigError(
            f"node {config.name} keeps its log in memory, where nobody but it can read it: ask it "
            "(`cyoloctl status`)"
        )
    if not (data_dir / _JOURNAL).exists():
        raise StorageError(
            f"{data_dir / _JOURNAL} is missing: on a healthy node run "
            f"`cyoloctl member remove {config.name}`, then invite and join a new name"
        )
    return config


def node_log(data_dir: Path, *, first: int | None, limit: int) -> dict[str, Any]:
    """Entries of the log of the directory's node, as JSON; the node may run or not.

    first: index to begin with, None: so that the last ones are shown.  limit:
    how many at most.  Arguments of commands are left out: they are users' data.

    Raises ConfigError, StorageError, Unavailable.
    """
    config = _on_disk(data_dir)
    with inspect_journal(data_dir / _JOURNAL, data_dir / _SNAPSHOT) as copy:
        record = copy.record
        lowest, last = (0, 0) if record is None else (record.first_index, record.last_index)
        begin = max(lowest, last - limit + 1) if first is None else first
        entries = [_entry(entry) for entry in copy.entries(begin, begin + limit - 1)]
        return {
            "schema_version": 1,
            "name": config.name,
            "first_index": lowest,
            "last_index": last,
            "commit_index": 0 if record is None else record.commit_index,
            "entries": entries,
        }


def _entry(entry: LogEntry) -> dict[str, Any]:
    change = None
    if entry.change is not None:
        operation, raft_id = entry.change
        change = {"operation": operation, "raft_id": raft_id}
    return {
        "index": entry.index,
        "term": entry.term,
        "time": None
        if entry.stamp is None or not entry.stamp.time_unix_ms
        else rfc3339(entry.stamp.time_unix_ms / 1000),
        "bytes": entry.size_bytes,
        "damaged": not entry.whole,
        "membership": change,
        "commands": [_command(data) for data in entry.commands],
    }


def _command(data: bytes) -> dict[str, Any]:
    try:
        command = decode_command(data)
    except Malformed:
        return {"machine": None, "operation": None, "request_id": None, "kind": None, "caller": None}
    return {
        "machine": command.machine,
        "operation": command.operation,
        "request_id": command.request_id,
        "kind": command.kind,
        "caller": command.caller,
    }


def summary_of(entry: dict[str, Any]) -> str:
    """One entry of `node_log` in a few words."""
    if entry["damaged"]:
        return "damaged"
    if entry["membership"] is not None:
        return f"membership {entry['membership']['operation']} {entry['membership']['raft_id']}"
    names = Counter(f"{each['machine']} {each['operation']}" for each in entry["commands"])
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in names.items()) or "no-op"


def inspect_node(data_dir: Path) -> dict[str, Any]:
    """What the directory's node holds durably, as JSON; the node may run or not.

    Raises ConfigError, StorageError, Unavailable.
    """
    config = _on_disk(data_dir)
    with inspect_journal(data_dir / _JOURNAL, data_dir / _SNAPSHOT) as copy:
        return {
            "schema_version": 1,
            "name": config.name,
            "cluster": {"name": config.cluster, "id": config.cluster_id},
            "format_version": copy.format_version,
            **_record(copy),
            "last_term": copy.last_term,
            "voters": sorted(copy.configuration.voters),
            "removed": sorted(copy.configuration.removed),
            "snapshot": None
            if copy.snapshot is None
            else {"index": copy.snapshot.index, "term": copy.snapshot.term},
            "journal_bytes": copy.journal_bytes,
            "wal_bytes": copy.wal_bytes,
            "problem": _problem(copy),
        }


def _record(copy: JournalCopy) -> dict[str, Any]:
    names = ("term", "vote", "commit_index", "first_index", "last_index")
    return {name: None if copy.record is None else getattr(copy.record, name) for name in names}


def _problem(copy: JournalCopy) -> str | None:
    record = copy.record
    if record is None:
        return "its record is missing or wrong"
    expected = record.first_index
    for entry in copy.entries(0, 2**63 - 1):
        if entry.index != expected:
            return f"log entry {expected} is missing"
        if not entry.whole:
            return f"log entry {entry.index} is wrong"
        expected += 1
    if record.last_index and expected != record.last_index + 1:
        return f"log entry {expected} is missing"
    return None


def copy_log(data_dir: Path, target: Path) -> None:
    """Write the log of the directory's node into a new SQLite file, for any program that reads those.

    Raises AlreadyExists, ConfigError, StorageError, Unavailable.
    """
    _on_disk(data_dir)
    for path in (target, target.with_name(target.name + "-wal")):
        if path.is_symlink() or path.exists():
            raise exists_error(path, "copy")
    copy_journal(data_dir / _JOURNAL, target)
