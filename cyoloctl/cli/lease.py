"""A command that runs while a lock is held: `lock run`.

The lease is kept by a thread (`locks.client`); the main thread waits for signals: those that are
for the command, the end of the command, and nothing for a second at most.  The command is told to
end while a part of the lease is left, and has ended when it is over.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cyoloctl.cli import output
from cyoloctl.control import blocking
from cyoloctl.errors import OutcomeUnknown
from cyoloctl.locks import client as locks
from cyoloctl.locks.client import Lease
from cyoloctl.process import end_with_parent

if TYPE_CHECKING:
    from cyoloctl.web.steps import Caller

__all__ = ["acquire", "not_runnable", "run"]

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit statuses, as shells have them."""

_LOOK_S = 1.0
_FORWARDED = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
)


def acquire(caller: Caller, name: str, *, ttl_s: float, wait_s: float) -> Lease:
    """The lock.  Raises what `locks.client.acquire` does."""
    steps = locks.acquire(
        caller, name, owner=locks.this_process(), ttl_s=ttl_s, wait_s=wait_s, timeout_s=caller.timeout_s
    )
    try:
        return blocking.run(steps)
    except OutcomeUnknown as error:
        raise OutcomeUnknown(f"{error.message}; the command was not started") from None


def not_runnable(program: str) -> tuple[int, str] | None:
    """Why a shell would not run a program: the exit status and the words; None where it looks well."""
    where = os.environ.get("PATH", os.defpath).split(os.pathsep)
    paths = [program] if "/" in program else [os.path.join(folder or ".", program) for folder in where]
    files = [path for path in paths if program and os.path.exists(path)]
    if not files:
        return NOT_FOUND, f"{program}: there is no such command"
    if not any(os.path.isfile(path) and os.access(path, os.X_OK) for path in files):
        return NOT_EXECUTABLE, f"{program}: it is not executable"
    return None


class _Child:
    """The command, in a process group of its own where no terminal gives it signals.

    At a terminal the command stays in our group, so that it may read from there,
    and Ctrl-C and Ctrl-Z reach it directly.  It gets no second copy of what
    the terminal sent.
    """

    def __init__(self, words: Sequence[str], environment: dict[str, str]) -> None:
        import ctypes  # noqa: F401 - the child must not import anything

        self.shared = os.isatty(0)
        self.signals = _FORWARDED | {signal.SIGCHLD} | (set() if self.shared else {signal.SIGTSTP})
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self.signals)
        parent, shared = os.getpid(), self.shared

        def begin() -> None:
            if not shared:
                os.setpgid(0, 0)
            end_with_parent(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

        self._before = before
        self.stopped = False
        try:
            # Descriptors that the caller handed down are for the command: <(...) of a shell is one.
            self._process = subprocess.Popen(
                list(words),
                env=environment,
                close_fds=False,
                preexec_fn=begin,  # noqa: PLW1509 - no other thread of ours runs yet
            )
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Let signals end this process again; what came while the command ended was for the command."""
        while signal.sigtimedwait(self.signals, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def wait(self, timeout_s: float) -> bool:
        """Wait for a signal, and pass it on; whether the command has ended."""
        info = signal.sigtimedwait(self.signals, max(0.0, timeout_s))
        if info is not None and info.si_signo in _FORWARDED:
            # A positive code: from the terminal, which gave it to the whole group.
            if not (self.shared and info.si_code > 0):
                self.send(info.si_signo)
        elif info is not None and info.si_signo == signal.SIGTSTP:
            self.send(signal.SIGSTOP)  # while we stand still nobody keeps the lease
            os.kill(os.getpid(), signal.SIGSTOP)
            self.stopped = True  # until whoever continues us has seen that the lease is safe
        return self.ended()

    def ended(self) -> bool:
        """Whether the command has ended; it is still there to be waited for."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def send(self, number: int) -> None:
        """Send a signal to the command, and to what it started where the group is its own."""
        try:
            if self.shared:
                os.kill(self._process.pid, number)
            else:
                os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def status(self) -> int:
        """The exit status as a shell tells it, of a command that has ended."""
        code = self._process.wait()
        return code if code >= 0 else 128 - code


def run(lease: Lease, words: Sequence[str], timeout_s: float) -> int:
    """Run a command while the lease is kept, then release the lock: its exit status.

    Raises OutcomeUnknown when the lease was lost meanwhile; the command has ended then.
    """
    environment = {**os.environ, "CYOLOCTL_LOCK": lease.name, "CYOLOCTL_FENCE": str(lease.token)}
    try:
        child = _Child(words, environment)
    except OSError as error:
        _release(lease, timeout_s)
        output.note(f"cyoloctl: {words[0]}: {error.strerror}")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    except BaseException:
        _release(lease, timeout_s)
        raise
    try:
        keeper = blocking.BlockingRunner().background(locks.keep(lease, timeout_s), _wake_up)
        over = _watch(child, lease)
        status = child.status()
        keeper.stop()
        if lease.lost is None:
            _release(lease, timeout_s)
    finally:
        child.restore()
    if over is not None:
        raise OutcomeUnknown(
            f"lock {lease.name} was lost while the command ran, and the command was ended: {over}; "
            "see what it left behind before you run it again"
        )
    return status


def _wake_up() -> None:
    os.kill(os.getpid(), signal.SIGCHLD)  # the main thread waits for signals


def _watch(child: _Child, lease: Lease) -> str | None:
    """Wait until the command has ended; why it had to, None when it did by itself."""
    over: str | None = None
    kill_at = 0.0
    while True:
        ends_at = kill_at if over is not None else lease.deadline - lease.grace_s
        ended = child.wait(min(_LOOK_S, ends_at - locks.now()))
        if over is None:
            over = lease.why_over()
            if over is not None and not ended:
                child.send(signal.SIGTERM)
                # What is lost may be somebody else's already; otherwise it counts until the deadline.
                kill_at = min(locks.now() + lease.grace_s, max(lease.deadline, locks.now()))
        if ended or (over is not None and locks.now() >= kill_at):
            if over is not None:
                child.send(signal.SIGKILL)  # what it started too
                kill_at = locks.now() + _LOOK_S
            if ended:
                return over
        elif over is not None or child.stopped:
            child.stopped = False
            child.send(signal.SIGCONT)


def _release(lease: Lease, timeout_s: float) -> None:
    """Release the lock through any node; where none answers, it ends by itself."""
    trouble = blocking.run(locks.release(lease, timeout_s))
    if trouble is not None:
        output.note(
            f"lock {lease.name} could not be released ({trouble}): "
            f"it is free after {lease.ttl_s:g} s at the latest"
        )
