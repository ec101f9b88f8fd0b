"""Node processes that outlive the command which starts them."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyoloctl.errors import ConfigError, Conflict, CyoloctlError, InternalError, Unavailable, error_from_code
from cyoloctl.paths import LOG_NAME, check_ownership, control_socket_path, file_error
from cyoloctl.process import child_command, child_environment, end_with_parent

__all__ = [
    "LOG_NAME",
    "NodeProcess",
    "arguments_of",
    "listener_pid",
    "process_of",
    "require_node",
    "start_node",
]

_READY_LIMIT_BYTES = 64 * 1024
_STOP_S = 10.0


def require_node(data_dir: Path) -> None:
    """Raise ConfigError unless the directory holds a node."""
    if not (data_dir / "node.yaml").exists():
        raise ConfigError(
            f"{data_dir} holds no node: run `cyoloctl cluster init` for a new cluster, "
            "or `cyoloctl node join` with a token from `cyoloctl member invite`"
        )


def process_of(data_dir: Path) -> int | None:
    """The process that holds the journal of a directory's node; None where there is none, or not told.

    From the table of locks (proc(5)): to try the lock would keep a node that starts just now from it.
    """
    try:
        found = os.stat(data_dir / "raft.db")
        where = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        with open("/proc/locks", encoding="ascii") as file:
            locks = [line.split() for line in file]
    except OSError:
        return None
    for words in locks:
        if words[1] == "FLOCK" and where in words:
            return int(words[words.index(where) - 1])
    return None


def listener_pid(endpoint: str) -> int | None:
    """The process that listens on a unix socket; None when it cannot be told (unix(7), SO_PEERCRED)."""
    if not endpoint.startswith("unix://") or not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(endpoint.removeprefix("unix://"))
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None  # the client has the words for it
    # 0: a process of another pid namespace, a container's.
    return int(struct.unpack("3i", credentials)[0]) or None


def arguments_of(data_dir: Path) -> list[str]:
    """The command line of the node that runs in a directory; empty where none does, or it is not told."""
    try:
        pid = listener_pid(f"unix://{control_socket_path(data_dir)}")
        data = b"" if pid is None else Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ConfigError):
        return []
    return [os.fsdecode(word) for word in data.split(b"\0")]


@dataclass(slots=True)
class NodeProcess:
    """A node in a session of its own: no terminal's hang-up or Ctrl-C reaches it."""

    data_dir: Path
    process: subprocess.Popen[bytes]
    ready_fd: int

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def wait_ready(self, timeout_s: float) -> dict[str, Any]:
        """The node's announcement that it is ready.

        Raises the error that it says instead; InternalError when it ended
        without a word; Unavailable when timeout_s passed.
        """
        deadline = time.monotonic() + timeout_s
        data = b""
        try:
            while not data.endswith(b"\n") and len(data) < _READY_LIMIT_BYTES:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not select.select([self.ready_fd], [], [], left_s)[0]:
                    raise Unavailable(
                        f"the node in {self.data_dir} was not ready after {timeout_s:g} s and was stopped: "
                        f"read {self.data_dir / LOG_NAME}, then try again with a longer --timeout"
                    )
                piece = os.read(self.ready_fd, 4096)
                if not piece:
                    break
                data += piece
        finally:
            os.close(self.ready_fd)
            self.ready_fd = -1
        return self._answer(data)

    def _answer(self, data: bytes) -> dict[str, Any]:
        import json

        try:
            answer = json.loads(data)
        except ValueError:
            raise self._died() from None
        if isinstance(answer, dict) and answer.get("ready") is True:
            return answer
        error = answer.get("error") if isinstance(answer, dict) else None
        if not isinstance(error, dict):
            raise InternalError(f"the node in {self.data_dir} gave an answer of no known release: {answer!r}")
        raise error_from_code(str(error.get("code")), str(error.get("message")))

    def _died(self) -> CyoloctlError:
        log = self.data_dir / LOG_NAME
        try:
            status: object = self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            status = "unknown"
        return InternalError(
            f"the node in {self.data_dir} ended (status {status}) before it was ready: read the end of {log}"
        )

    def end(self, patience_s: float = _STOP_S) -> None:
        """Stop the process if it runs: SIGTERM, after patience_s SIGKILL.  Returns when it is gone."""
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
            self.ready_fd = -1
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def detach(self) -> None:
        """Leave the process running when this object goes away."""
        # subprocess would warn, at its end, of a child that nobody waited for: that is the purpose here.
        self.process.returncode = 0


def start_node(
    data_dir: Path,
    *,
    log_format: str | None = None,
    log_level: str | None = None,
    socket_group: str | None = None,
    bound: bool = False,
) -> NodeProcess:
    """Start the node of a directory; stdout and stderr go to node.log (0600, appended) in it.

    It runs in /, with the code of this process and without PYTHON* variables.
    bound: it is killed when this process has ended, however that ended; no other thread may run here then.

    Raises Conflict while it runs, ConfigError when the directory holds no node or cannot be written,
    StorageError.
    """
    from cyoloctl.node.logs import open_log

    require_node(data_dir)
    check_ownership(data_dir)  # before a file is made that its owner could not use
    running = process_of(data_dir)
    if running is not None:  # before anything is written into its log
        raise Conflict(f"the node in {data_dir} runs already, as process {running}")
    log = data_dir / LOG_NAME
    try:
        log_fd = open_log(str(log))
    except OSError as error:
        raise file_error(log, error, "open") from None
    ready_fd, node_fd = os.pipe()
    data_dir = data_dir.absolute()  # the node stands elsewhere
    arguments = child_command("node", "start", "--data-dir", str(data_dir))
    arguments += ["--ready-fd", str(node_fd), "--log-file", str(data_dir / LOG_NAME)]
    arguments += ["--log-format", log_format] if log_format else []
    arguments += ["--log-level", log_level] if log_level else []
    arguments += ["--socket-group", socket_group] if socket_group else []
    begin = _bound_to(os.getpid()) if bound else None
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=(node_fd,),
            start_new_session=True,
            cwd="/",
            env=child_environment(os.environ),
            preexec_fn=begin,  # noqa: PLW1509 - no other thread of ours runs where it is given
        )
    except OSError as error:
        os.close(ready_fd)
        raise file_error(sys.executable, error, "start a node with") from None
    finally:
        os.close(node_fd)
        os.close(log_fd)
    return NodeProcess(data_dir, process, ready_fd)


def _bound_to(parent: int) -> Callable[[], None]:
    """What a child does first, so that it ends with its parent."""
    import ctypes  # noqa: F401 - the child must not import anything

    return lambda: end_with_parent(parent)
