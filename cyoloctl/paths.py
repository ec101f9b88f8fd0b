"""Locations of a node's files: the data directory, the control socket, private files.

Every command imports this module, so it imports next to nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

from cyoloctl.errors import AlreadyExists, ConfigError, CyoloctlError, InvalidInput, StorageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "GATEWAY_SOCKET",
    "LOG_NAME",
    "MAX_SOCKET_PATH_BYTES",
    "STORAGE_ERRNOS",
    "SYNCED_BYTES",
    "DiskSpace",
    "FoundNode",
    "SteadyWriter",
    "check_data_dir",
    "check_group",
    "check_ownership",
    "control_socket_path",
    "default_data_dir",
    "disk_space",
    "exists_error",
    "file_error",
    "find_node",
    "hand_directory_to_owner",
    "hand_to_owner_of",
    "is_read_only",
    "make_private_directory",
    "quoted",
    "sync_directory",
    "write_node_file",
    "write_private",
]

MAX_SOCKET_PATH_BYTES = 107 if sys.platform.startswith("linux") else 103
"""Longest unix socket path in bytes: sun_path without its closing zero, unix(7)."""

GATEWAY_SOCKET = "gateway.sock"
"""The socket beside control.sock whose users have the role of a gateway."""

LOG_NAME = "node.log"
"""The log of a node in the background; older ones are LOG_NAME.1 and so on."""

_SOCKET_NAME = "control.sock"

SYNCED_BYTES = 4 * 2**20
"""A large file is synced each time that so much was written: see `SteadyWriter`."""

STORAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
"""The disk refuses, whatever is written where."""


def quoted(path: str | os.PathLike[str]) -> str:
    """A path as a word of a command that a message shows: the shell reads it back as one word."""
    import shlex

    return shlex.quote(os.fspath(path))


def file_error(path: str | os.PathLike[str], error: OSError, doing: str) -> CyoloctlError:
    """The error of the tree for one of the operating system on a file or directory that the user named.

    The same mistake has the same exit status in every command: StorageError when the disk refuses,
    ConfigError when this user may not, InvalidInput for what is not there or is of the wrong kind.
    """
    where = os.fspath(path)
    text = f"cannot {doing} {where}: {(error.strerror or str(error)).lower()}"
    if error.errno in STORAGE_ERRNOS:
        return StorageError(f"{text}; free space or repair the disk, then repeat")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigError(f"{text}; run as the owner, or choose another place")
    if error.errno == errno.EISDIR:
        return InvalidInput(f"{text}; name a file")
    return InvalidInput(f"{text}; check the path")


def exists_error(path: str | os.PathLike[str], what: str = "") -> CyoloctlError:
    """The error for a new file whose place is taken.  It never tells to remove what is there.

    what: the contents of the new file.
    """
    where = os.fspath(path)
    if os.path.isdir(where):
        return InvalidInput(f"{where} is a directory: name a file{f' for the {what}' if what else ''} in it")
    return AlreadyExists(
        f"{where} exists: choose another file{f' for the {what}' if what else ''}, or move it away"
    )


def default_data_dir(environ: Mapping[str, str], is_root: bool) -> str:
    """The data directory when none was given.

    environ: the process environment; HOME and XDG_DATA_HOME are read.
    is_root: whether the effective user is root, who gets /var/lib/cyoloctl.

    A relative XDG_DATA_HOME is ignored (XDG Base Directory Specification 0.8).
    Raises ConfigError when there is no usable home directory.
    """
    if is_root:
        return "/var/lib/cyoloctl"
    data_home = environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data_home):
        home = environ.get("HOME", "")
        if not os.path.isabs(home):
            raise ConfigError("there is no home directory: name the data directory with --data-dir DIR")
        data_home = os.path.join(home, ".local", "share")
    return os.path.join(data_home, "cyoloctl")


class FoundNode(NamedTuple):
    """Where to ask, and with what.

    endpoints: tried in turn.  data_dir: absolute.  from_data_dir: the endpoint or the credentials are
    those in the data directory; own_socket: the endpoint is.
    """

    endpoints: tuple[str, ...]
    credentials: str | None
    data_dir: str
    from_data_dir: bool
    own_socket: bool


def find_node(
    endpoints: Sequence[str],
    data_dir: str | os.PathLike[str] | None,
    credentials: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    *,
    connects: bool = True,
    from_environment: bool = True,
) -> FoundNode:
    """What was given, else what the environment says, else the default.

    A data directory that was given means the socket in it, whatever the environment says.
    connects: whether an endpoint is wanted.  from_environment: whether CYOLOCTL_DATA_DIR counts.
    Raises ConfigError when there is no usable home directory.
    """
    named = environ.get("CYOLOCTL_DATA_DIR", "") if from_environment else ""
    chosen = (os.fspath(data_dir) or ".") if data_dir is not None else named
    directory = os.path.abspath(chosen or default_data_dir(environ, os.geteuid() == 0))
    found = tuple(endpoints)
    if not found and data_dir is None:
        listed = environ.get("CYOLOCTL_ENDPOINT", "").split(",")
        found = tuple(text.strip() for text in listed if text.strip())
    from_data_dir = own_socket = not found
    if not found and connects:
        found = (f"unix://{_socket_path(directory)}",)
    file = os.fspath(credentials) if credentials is not None else environ.get("CYOLOCTL_CREDENTIALS") or None
    if file is None and any(url.startswith("https:") for url in found):
        own = os.path.join(directory, "operator.yaml")
        try:
            os.stat(own)
            file = own
        except (FileNotFoundError, NotADirectoryError):
            file = None
        except OSError:  # this user may not look; whoever uses it says so
            file = own
        from_data_dir = file is not None
    return FoundNode(found, file, directory, from_data_dir, own_socket)


class DiskSpace(NamedTuple):
    """Space of a file system, and of that what is left for this process: 0 without a free inode."""

    free_bytes: int
    total_bytes: int


def disk_space(path: str | os.PathLike[str]) -> DiskSpace | None:
    """Space in the file system of a path; None where the system does not say."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    free = 0 if found.f_files and not found.f_favail else found.f_bavail * found.f_frsize
    return DiskSpace(free, found.f_blocks * found.f_frsize)


def is_read_only(path: str | os.PathLike[str]) -> bool:
    """Whether the file system of a path takes no writes, as after an I/O error (ext4: errors=remount-ro)."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def control_socket_path(
    data_dir: str | os.PathLike[str],
    *,
    create: bool = False,
    environ: Mapping[str, str] | None = None,
    bases: Sequence[str] | None = None,
) -> Path:
    """The absolute path of the control socket of the node in a data directory.

    data_dir: may be relative, may be a symbolic link, need not exist.
    create: True for the node, which also makes the directory that holds an
    out-of-the-way socket; False for clients, which only look.
    environ: the process environment (default: os.environ); XDG_RUNTIME_DIR is read.
    bases: where a short directory may be made, in order (default: /run/user/UID,
    XDG_RUNTIME_DIR, /tmp).

    Usually DIR/control.sock.  Where that is longer than a socket address can
    be, a name made from the SHA-256 of the directory, in a 0700 directory of
    the owner of the data directory; a client takes the first base that holds
    the socket, so that it finds a node that was started in another environment.

    Raises ConfigError when somebody else controls that directory (it is then
    not used, by nodes or by clients), or no base gives a short enough path.
    """
    from pathlib import Path

    return Path(_socket_path(data_dir, create=create, environ=environ, bases=bases))


def _socket_path(
    data_dir: str | os.PathLike[str],
    *,
    create: bool = False,
    environ: Mapping[str, str] | None = None,
    bases: Sequence[str] | None = None,
) -> str:
    directory = os.path.realpath(data_dir)
    direct = os.path.join(directory, _SOCKET_NAME)
    if len(os.fsencode(direct)) <= MAX_SOCKET_PATH_BYTES:
        return direct

    import hashlib  # here: it loads OpenSSL's libcrypto, and few need it

    socket_name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:32] + ".sock"
    owner = _owner(directory)
    first: str | None = None
    for short_directory in _short_directories(owner, os.environ if environ is None else environ, bases):
        path = os.path.join(short_directory, socket_name)
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            continue
        if create:
            _make_owned(short_directory, owner)
        if os.path.lexists(short_directory):
            _check_owned(short_directory, owner)
            if create or os.path.lexists(path):
                return path
        first = first or path
    if first is None:
        raise ConfigError(
            f"the control socket of {directory} has no short enough place: "
            f"use a data directory of at most {MAX_SOCKET_PATH_BYTES - len(_SOCKET_NAME) - 1} bytes"
        )
    return first


def _owner(directory: str) -> int:
    """The user whose socket it is: root's command finds the node of a service user."""
    try:
        return os.stat(directory).st_uid
    except OSError:
        return os.geteuid()


def _short_directories(owner: int, environ: Mapping[str, str], bases: Sequence[str] | None) -> list[str]:
    """Candidate directories for a socket; only the last level may not exist yet."""
    if bases is None:
        runtime = environ.get("XDG_RUNTIME_DIR", "")
        private = [f"/run/user/{owner}", *([runtime] if os.path.isabs(runtime) else [])]
        # A runtime directory that is not the owner's (after su, say) is no error: the next one is.
        bases = [*(base for base in private if _is_private_to(base, owner)), "/tmp"]
    return [os.path.join(base, f"cyoloctl-{owner}") for base in bases]


def _is_private_to(path: str, owner: int) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and not found.st_mode & 0o077


def _make_owned(path: str, owner: int) -> None:
    try:
        os.mkdir(path, 0o700)
        if os.geteuid() == 0 != owner:
            os.chown(path, owner, -1, follow_symlinks=False)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(
            f"cannot make {path} for the control socket ({error.strerror}): use a shorter data directory"
        ) from error


def _check_owned(path: str, owner: int) -> None:
    """Refuse a directory in which another user could have put, or could exchange, the socket.

    lstat, never stat: in /tmp anybody can make the name first, as a symbolic
    link to a directory that passes every other check.
    """
    found = os.lstat(path)
    base = os.path.dirname(path)
    parent = os.stat(base)
    if not stat.S_ISDIR(found.st_mode):
        problem = "is not a directory"
    elif found.st_uid not in (owner, 0):
        problem = f"belongs to user {found.st_uid}, not {owner}"
    elif found.st_mode & 0o077:
        problem = f"has mode {stat.S_IMODE(found.st_mode):04o}, not 0700"
    elif parent.st_mode & 0o022 and not parent.st_mode & stat.S_ISVTX:
        problem = f"can be replaced by others ({base} is writable and not sticky)"
    else:
        return
    raise ConfigError(
        f"{path} {problem}: it is not safe for the control socket; remove it or use a shorter data directory"
    )


def make_private_directory(path: str | os.PathLike[str], *, is_nodes: bool = False) -> None:
    """Make a directory and its missing parents, 0700, unless it is there.

    is_nodes: one inside a data directory, which belongs to the owner of that.
    Raises as file_error does.  Leaves the mode of one that is there alone.
    """
    try:
        from pathlib import Path

        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            Path(path).mkdir(mode=0o700)
            if is_nodes:
                hand_directory_to_owner(path)
        if not Path(path).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise file_error(path, error, "make the directory") from error


def check_group(group: str) -> int:
    """The number of a group of this machine, that of `socket_group`.  Raises ConfigError."""
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise ConfigError(
            f"socket_group names {group[:80]!r}, which is no group of this machine: make it with "
            "`groupadd`, or correct it in node.yaml"
        ) from None


def open_to_group(data_dir: str | os.PathLike[str], group: str, control_socket: Path) -> int:
    """Let a group of this machine pass through a data directory to its sockets; the group's number.

    The directory gets that group and mode 0710: its members reach what they
    know the name of and may open, and list nothing.  Every file in it stays
    0600, pki 0700.  Raises ConfigError for a group that is not there or that
    this user is no member of, and where the sockets are not in the directory.
    """
    text = os.path.realpath(data_dir)
    if os.path.dirname(control_socket) != text:
        raise ConfigError(
            f"socket_group cannot be used: the path of {text} is too long for a socket in it; "
            "move the data directory to a shorter path"
        )
    number = check_group(group)
    try:
        os.chown(text, -1, number)
        os.chmod(text, 0o710)
    except OSError as error:
        raise ConfigError(
            f"cannot give {text} to the group {group}: {error.strerror}; make the user that runs the node "
            f"a member of it (`usermod -aG {group} USER`)"
        ) from None
    return number


def check_data_dir(data_dir: str | os.PathLike[str]) -> None:
    """Refuse a data directory that is no directory, or that this user may not enter.

    Raises ConfigError, whatever the command wants there; says nothing of a directory that is not there.
    """
    text, me = os.fspath(data_dir), os.geteuid()
    try:
        found = os.stat(text)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(
            f"cannot use the data directory {text}: {(error.strerror or str(error)).lower()}; run the "
            "command as the user that runs the node, or name another directory with --data-dir"
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{text} is not a directory: name a directory with --data-dir")
    if not os.access(text, os.X_OK):
        if found.st_uid == me:
            mode = stat.S_IMODE(found.st_mode)
            raise ConfigError(
                f"the data directory {text} has mode {mode:04o}, so nobody may use it: run "
                f"`chmod 700 {quoted(text)}`"
            )
        raise ConfigError(
            f"the data directory {text} belongs to user {found.st_uid}, and this user ({me}) may not use it: "
            f"run the command as that user (`sudo -u '#{found.st_uid}' cyoloctl ...`), or name another "
            "directory with --data-dir"
        )


def check_ownership(data_dir: str | os.PathLike[str]) -> None:
    """Refuse to run a node as another user than the one whose files these are.

    Root's new files among a service user's would keep that user's node from
    starting; files that this user cannot use would end it halfway.  Raises
    ConfigError with the command that solves it; says nothing of a directory
    that is not there.
    """
    me, text = os.geteuid(), os.fspath(data_dir)
    try:
        owner = os.stat(text).st_uid
        needs = {text: os.R_OK | os.W_OK | os.X_OK}
        if os.access(text, os.R_OK | os.X_OK):
            for entry in os.scandir(text):
                # An old log is no reason to stay away: a new one takes its place (`logs.open_log`).
                if entry.is_file(follow_symlinks=False) and not entry.name.startswith(LOG_NAME):
                    needs[entry.path] = os.R_OK | os.W_OK
            with os.scandir(os.path.join(text, "pki")) as entries:
                needs.update((entry.path, os.R_OK) for entry in entries)
    except FileNotFoundError:
        return
    except PermissionError as error:
        owner, needs = me, {str(error.filename): os.R_OK}
    if me == 0 != owner:
        start = f"cyoloctl node start -d {quoted(text)}"
        raise ConfigError(
            f"{text} belongs to user {owner} and this is root, whose files that user could not use: start "
            f"the node as its owner (`sudo -u '#{owner}' {start}`), or give it to root "
            f"(`chown -R root {quoted(text)}`)"
        )
    for path, needed in needs.items():
        if not os.access(path, needed) and os.path.lexists(path):
            raise ConfigError(
                f"{path} belongs to user {os.lstat(path).st_uid} and cannot be used by this one ({me}): "
                f"start the node as the user that it belongs to, or `sudo chown -R {me} {quoted(text)}`"
            )


def hand_to_owner_of(directory: str | os.PathLike[str], descriptor: int) -> None:
    """As root, give an open file to the user whose directory it was made in; else nothing.

    For a node's own files: what root makes among a service user's must not
    keep that user's node from starting.  Raises OSError.
    """
    if os.geteuid() == 0:
        found = os.stat(directory)
        if found.st_uid != 0:
            os.fchown(descriptor, found.st_uid, found.st_gid)


def hand_directory_to_owner(path: str | os.PathLike[str]) -> None:
    """As `hand_to_owner_of`, for a directory that was just made.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        hand_to_owner_of(os.path.dirname(os.path.abspath(path)), descriptor)
    finally:
        os.close(descriptor)


def write_node_file(
    path: str | os.PathLike[str], data: bytes, *, exclusive: bool = False, modified_ns: int | None = None
) -> None:
    """As write_private, for a file of a node: whoever writes it, it belongs to the directory's owner.

    modified_ns: as the time of its last change, in place of now.
    """
    _write(path, data, exclusive=exclusive, is_owners=True, modified_ns=modified_ns)


def write_private(path: str | os.PathLike[str], data: bytes, *, exclusive: bool = False) -> None:
    """Write a whole file, mode 0600, so that a crash leaves the old one or the new one.

    exclusive: raise AlreadyExists where there is anything at path, dangling
    symbolic links included.  A symbolic link is replaced, never followed.

    When this returns, file and directory entry are on the disk (fsync of
    both).  Raises StorageError; then the old file is as it was.
    """
    _write(path, data, exclusive=exclusive, is_owners=False)


def _write(
    path: str | os.PathLike[str],
    data: bytes,
    *,
    exclusive: bool,
    is_owners: bool,
    modified_ns: int | None = None,
) -> None:
    path = os.path.abspath(path)
    directory, name = os.path.split(path)
    # Random, so that nobody can make it first and no leftover of a crash is in the way.
    temporary = os.path.join(directory, f".{name[:64]}.{os.urandom(8).hex()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            try:
                os.fchmod(file.fileno(), 0o600)  # whatever the umask took away
                if is_owners:
                    hand_to_owner_of(directory, file.fileno())
                file.write(data)
                if modified_ns is not None:
                    file.flush()  # what is written later counts as a change
                    os.utime(file.fileno(), ns=(modified_ns, modified_ns))
                file.flush()
                os.fsync(file.fileno())
                if exclusive:
                    os.link(temporary, path)  # unlike rename, fails where path exists
                else:
                    os.rename(temporary, path)
            finally:
                if exclusive or os.path.lexists(temporary):
                    os.unlink(temporary)
        sync_directory(directory)
    except FileExistsError as error:
        raise exists_error(path) from error
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; make space or correct the permissions, then try again"
        ) from error


class SteadyWriter:
    """Appends to a file that may become large, and syncs it every `SYNCED_BYTES`.

    Written at once, all of it would be in front of the next sync of the journal on that disk, and every
    write of the cluster waits for that.  The end of the file is the caller's to sync.

    sync: makes what was written durable, where that takes more than to flush the file and to sync it.
    """

    def __init__(self, file: IO[bytes], sync: Callable[[], None] | None = None) -> None:
        self._file = file
        self._sync = self._sync_file if sync is None else sync
        self._unsynced = 0

    def _sync_file(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def write(self, data: bytes) -> None:
        """Append.  Raises OSError."""
        self._file.write(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNCED_BYTES:
            self._sync()
            self._unsynced = 0


def sync_directory(path: str | os.PathLike[str]) -> None:
    """fsync a directory, so that names made or replaced in it survive a power loss.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
