"""Facts that findings are made of: about a data directory, its machine, and the cluster.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cyoloctl.paths import DiskSpace
from cyoloctl.text import Json

__all__ = [
    "Answers",
    "Directory",
    "Facts",
    "FileFact",
    "Kind",
    "Machine",
    "Quota",
    "Secrecy",
    "Snapshots",
    "Syncs",
]


Kind = Literal["directory", "file", "socket", "other"]

Secrecy = Literal["secret", "own", "public"]
"""What others must not read, what is not for them, and what they may read."""


@dataclass(frozen=True, slots=True)
class FileFact:
    """A file of a node.  path: absolute.  mode: its permissions.  owner: user id."""

    path: str
    kind: Kind
    secrecy: Secrecy
    mode: int
    owner: int
    size_bytes: int
    changed_unix_ms: int


@dataclass(frozen=True, slots=True)
class Syncs:
    """Measured syncs of a file, in milliseconds."""

    count: int
    median_ms: float
    worst_ms: float


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The snapshots of a node's policy.

    newest_unix_ms: None where there is none.  error: why they are not known.
    """

    every_s: int
    directory: str
    newest_unix_ms: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Directory:
    """A data directory.

    name, cluster, offline_ca: of node.yaml; config_error: why that cannot be
    used.  owner: user id.  pki_problem: what keeps the files in pki from being
    used.  certificate_ends, ca_ends: RFC 3339.  certificate_days: its life.  syncs: None where they could
    not be measured, sync_error says why.  snapshots: None without a policy.
    closed_to: user id of whoever looks, where they may look at nothing in it.
    owner_name: None where the owner has none.
    """

    path: str
    owner: int
    name: str | None = None
    cluster: str | None = None
    offline_ca: bool = False
    config_error: str | None = None
    files: tuple[FileFact, ...] = ()
    space: DiskSpace | None = None
    reserve_bytes: int = 0
    syncs: Syncs | None = None
    sync_error: str | None = None
    pki_problem: str | None = None
    certificate_ends: str | None = None
    certificate_days: int | None = None
    ca_ends: str | None = None
    snapshots: Snapshots | None = None
    closed_to: int | None = None
    owner_name: str | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """What may be used, and what is."""

    limit: int
    used: int


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, and the process of the node there.

    pid: None where none is known.  files: descriptors of the node; files_used
    is None where only root may look.  memory, tasks: of the tightest control
    group that the process is in; None without a limit.  killed: processes
    that the kernel ended in it for lack of memory.  available_bytes: of the
    machine's memory.  swapped_bytes: of the node.  None: not known.
    """

    now_unix_ms: int
    pid: int | None = None
    files_limit: int | None = None
    files_used: int | None = None
    memory: Quota | None = None
    killed: int = 0
    tasks: Quota | None = None
    total_bytes: int | None = None
    available_bytes: int | None = None
    swapped_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """What the node said.

    version: of the command that asked.  error: why the node said nothing, None
    where it answered.  unreachable: nobody took the question.  refused: by
    operation, why that one was not answered.
    """

    version: str
    error: str | None = None
    unreachable: bool = False
    status: Json | None = None
    keys: Json | None = None
    pki: Json | None = None
    credentials: Json | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it.  hosts: by host name of a member, why it cannot be looked up, None where it can."""

    directory: Directory
    machine: Machine
    answers: Answers
    hosts: Mapping[str, str | None] = field(default_factory=dict)
