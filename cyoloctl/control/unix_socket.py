"""The control socket in the file system: made private, and never in the place of a live one."""

from __future__ import annotations

import os
import socket
import stat
import struct
from typing import TYPE_CHECKING

from cyoloctl.errors import Conflict, StorageError

if TYPE_CHECKING:
    import asyncio

__all__ = ["bind_unix", "user_of"]

_PEER = struct.Struct("iII")
"""Process, user and group at the other end."""


def bind_unix(path: str, group_id: int | None = None) -> tuple[socket.socket, tuple[int, int]]:
    """A listening-to-be unix socket with mode 0600 (0660 for a group), and its (device, inode).

    Raises Conflict, StorageError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        # The mode is set by the bind itself: a chmod after it would leave a
        # moment in which others could connect.  Another thread's files made
        # in this moment come out stricter, never laxer.
        previous = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(previous)
        if group_id is not None:
            os.chown(path, -1, group_id)
            os.chmod(path, 0o660)
        made = os.stat(path, follow_symlinks=False)
    except OSError as error:
        sock.close()
        raise StorageError(
            f"cannot make the control socket {path}: {error.strerror or error}; check the directory"
        ) from None
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock, (made.st_dev, made.st_ino)


def user_of(transport: asyncio.BaseTransport) -> str:
    """``uid:N`` of whoever connected to a unix socket; empty where the system does not tell."""
    sock = transport.get_extra_info("socket")
    try:
        peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return f"uid:{_PEER.unpack(peer)[1]}"
    except (OSError, AttributeError, struct.error):
        return ""


def _listens(path: str) -> bool:
    """Whether any process has a socket at a path, as the system tells everybody, or True."""
    try:
        with open("/proc/net/unix", "rb") as file:
            return any(line.rstrip(b"\n").partition(b" /")[2] == os.fsencode(path)[1:] for line in file)
    except OSError:
        return True


def _remove_stale(path: str) -> None:
    try:
        mode = os.stat(path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"{path} is in the way and is not a socket: move it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A live process with a full backlog makes connect() wait: that counts as live.
        probe.settimeout(0.5)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except PermissionError:
            # Another user's, in a directory of ours: root ran this node once, and may still.
            if not _listens(path):
                os.unlink(path)
                return
        except TimeoutError:
            pass
    raise Conflict(f"another process answers on {path}: stop it first (cyoloctl node stop -d DIR)")
