"""A command that runs while a lock is held: `lock run`.

The lease is kept by a thread; the main thread waits for signals: those that are
for the command, the end of the command, and nothing for a second at most.

Time is what this machine's own clock counts from the moment at which the last
request that succeeded was *sent*: the cluster began to count later.  A machine
that slept counts its sleep (CLOCK_BOOTTIME).  The command is told to end while
a part of that time is left, and has ended when it is over: before that the
cluster gives the lock to nobody else.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation
from cyoloctl.errors import Conflict, CyoloctlError, OutcomeUnknown, Unavailable, Unreachable
from cyoloctl.process import end_with_parent
from cyoloctl.text import Json

__all__ = ["Lease", "acquire", "not_runnable", "run"]

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit statuses, as shells have them."""

# A poll is short enough for the death of its node to be noticed, and long enough to cost little.
_POLL_S = 10.0
_AGAIN_S = 0.2
_ATTEMPTS = 3
_LOOK_S = 1.0
# The part of a lease in which the command is to end by itself, and its bounds in seconds.
_GRACE_SHARE, _GRACE_S = 0.2, 10.0
_FORWARDED = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
)
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _now() -> float:
    return time.clock_gettime(_CLOCK)


class _Nodes:
    """The endpoints, the one that answered last first."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._endpoints = list(invocation.endpoints)

    def __len__(self) -> int:
        return len(self._endpoints)

    def ask(self, operation: str, name: str, body: Json, within_s: float) -> Json:
        """One attempt at one endpoint; after a failure it is another one's turn."""
        endpoint = self._endpoints[0]
        client = self._invocation.client([endpoint], timeout_s=min(max(0.1, within_s), 300.0))
        try:
            return client.call(operation, name, body=body, repeatable=True)
        except Conflict:
            raise
        except CyoloctlError:
            if self._endpoints[0] == endpoint:
                self._endpoints.append(self._endpoints.pop(0))
            raise


class Lease(NamedTuple):
    """A lock that this process has.  sent: when it was asked for, by the clock of this module."""

    name: str
    token: int
    ttl_s: float
    sent: float
    nodes: _Nodes


def acquire(invocation: Invocation, name: str, *, owner: str, ttl_s: float, wait_s: float) -> Lease:
    """The lock, with more than half of its time left.

    Raises Unavailable when somebody else has it until the wait is over, and
    OutcomeUnknown when it may have been acquired and nobody can say so.
    """
    nodes, until, failed, late, unknown = _Nodes(invocation), _now() + wait_s, 0, 0, False
    body = {"holder": os.urandom(16).hex(), "owner": owner, "ttl_s": ttl_s}
    while True:
        sent = _now()
        poll_s = min(max(0.0, until - sent), _POLL_S)
        try:
            # A node waits for a part of the time of a call at most.
            within_s = invocation.timeout_s + 1.5 * poll_s
            answer = nodes.ask("lock_acquire", name, {**body, "wait_s": poll_s}, within_s)
        except CyoloctlError as error:
            failed, unknown = failed + 1, unknown or isinstance(error, OutcomeUnknown)
            passing = isinstance(error, Unavailable | Unreachable | OutcomeUnknown)
            if failed >= len(nodes):
                if not passing or _now() >= until:
                    raise _not_known(name, ttl_s, error) if unknown else error from None
                time.sleep(_AGAIN_S)  # all of them may be down: do not spin
            continue
        failed, unknown = 0, False
        if not answer["acquired"]:
            if _now() >= until:
                raise Unavailable(
                    f"lock {name} is held by {answer['owner'] or answer['by']} until {answer['expires_at']} "
                    "or longer: try again, or wait for it with --wait"
                )
        elif _now() - sent < ttl_s / 2:
            return Lease(name, answer["token"], ttl_s, sent, nodes)
        elif (late := late + 1) >= _ATTEMPTS:  # before: the same holder asks for the whole time again
            nodes.ask("lock_release", name, {"token": answer["token"]}, invocation.timeout_s)
            raise Unavailable(f"the cluster is too slow for a lease of {ttl_s:g} s: use a longer --ttl")


def _not_known(name: str, ttl_s: float, error: CyoloctlError) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"nobody can say whether lock {name} was acquired ({error.message}): the command was not started, "
        f"and the lock is free again after {ttl_s:g} s at the latest"
    )


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


class _Keeper(threading.Thread):
    """Keeps a lease until it is stopped.

    deadline: until when the lease counts.  lost: why it is lost; None while
    it is not.  trouble: the last failure.
    """

    def __init__(self, lease: Lease, timeout_s: float) -> None:
        super().__init__(name="lease", daemon=True)
        self._lease, self._timeout_s = lease, timeout_s
        self._stopped = threading.Event()
        self.grace_s = min(lease.ttl_s * _GRACE_SHARE, _GRACE_S)
        self.deadline = lease.sent + lease.ttl_s
        self.lost: str | None = None
        self.trouble: str | None = None

    def run(self) -> None:
        """Ask for more time whenever a third of it has passed, and soon again where nobody answers."""
        lease = self._lease
        due = lease.sent + lease.ttl_s / 3
        while not self._stopped.wait(max(0.0, due - _now())):
            sent = _now()
            # One node that hangs must leave time for the others.
            within_s = min(self._timeout_s, max(0.2, (self.deadline - self.grace_s - sent) / 3))
            try:
                body = {"token": lease.token, "ttl_s": lease.ttl_s}
                lease.nodes.ask("lock_keep", lease.name, body, within_s)
            except Conflict as error:
                self.lost = error.message
                os.kill(os.getpid(), signal.SIGCHLD)  # the main thread waits for signals
                return
            except CyoloctlError as error:
                self.trouble = error.message
                due = _now() + min(0.5, lease.ttl_s / 20)
                continue
            self.trouble = None
            self.deadline = sent + lease.ttl_s
            due = sent + lease.ttl_s / 3

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def why_over(self) -> str | None:
        """Why the command has to end now; None while the lease is safe."""
        if self.lost is not None:
            return self.lost
        if _now() < self.deadline - self.grace_s:
            return None
        return (
            f"it could not be kept for {self._lease.ttl_s:g} s: {self.trouble or 'this machine stood still'}"
        )


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
    keeper = _Keeper(lease, timeout_s)
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
        keeper.start()
        over = _watch(child, keeper)
        status = child.status()
        keeper.stop()
        if keeper.lost is None:
            _release(lease, timeout_s)
    finally:
        child.restore()
    if over is not None:
        raise OutcomeUnknown(
            f"lock {lease.name} was lost while the command ran, and the command was ended: {over}; "
            "see what it left behind before you run it again"
        )
    return status


def _watch(child: _Child, keeper: _Keeper) -> str | None:
    """Wait until the command has ended; why it had to, None when it did by itself."""
    over: str | None = None
    kill_at = 0.0
    while True:
        ends_at = kill_at if over is not None else keeper.deadline - keeper.grace_s
        ended = child.wait(min(_LOOK_S, ends_at - _now()))
        if over is None:
            over = keeper.why_over()
            if over is not None and not ended:
                child.send(signal.SIGTERM)
                # What is lost may be somebody else's already; otherwise it counts until the deadline.
                kill_at = min(_now() + keeper.grace_s, max(keeper.deadline, _now()))
        if ended or (over is not None and _now() >= kill_at):
            if over is not None:
                child.send(signal.SIGKILL)  # what it started too
                kill_at = _now() + _LOOK_S
            if ended:
                return over
        elif over is not None or child.stopped:
            child.stopped = False
            child.send(signal.SIGCONT)


def _release(lease: Lease, timeout_s: float) -> None:
    """Release the lock through any node; where none answers, it ends by itself."""
    for _ in range(len(lease.nodes)):
        try:
            lease.nodes.ask("lock_release", lease.name, {"token": lease.token}, timeout_s)
            return
        except CyoloctlError as error:
            trouble = error.message
    output.note(
        f"lock {lease.name} could not be released ({trouble}): "
        f"it is free after {lease.ttl_s:g} s at the latest"
    )
