"""`lock run` against scripted answers: what ends the command, what does not, and who gets which signal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cyoloctl.cli import main
from cyoloctl.cli.lease import _Child
from cyoloctl.errors import AccessDenied, Conflict, CyoloctlError, NoLeader, OutcomeUnknown, Unavailable
from tests.cli.harness import LIMIT_S, Endpoint, run
from tests.support.cluster import wait_until

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]

ACQUIRE, KEEP, RELEASE = (("POST", f"/v1/locks/job/{name}") for name in ("acquire", "keep", "release"))
TIME = "2030-12-31T23:59:59Z"
LOCK = {"name": "job", "token": 5, "owner": "h 1", "by": "ann", "acquired_at": TIME, "expires_at": TIME}
HELD = {"acquired": True, **LOCK}
ANSWERS: dict[tuple[str, str], Any] = {ACQUIRE: HELD, KEEP: LOCK, RELEASE: {"name": "job", "released": True}}


def asked(endpoint: Endpoint, what: tuple[str, str]) -> list[dict[str, Any]]:
    return [body for method, path, body in endpoint.requests if (method, path) == what]


def lock_run(*words: str, at: tuple[Endpoint, ...], ttl: str = "1s") -> subprocess.CompletedProcess[str]:
    """ttl: 3s where the lock must be kept, which a busy machine may stop doing for a second."""
    urls = [word for endpoint in at for word in ("-e", endpoint.url)]
    return run("lock", "run", "job", "--ttl", ttl, *urls, *words)


def test_lock_is_kept_while_the_command_runs_and_released_with_its_token(serve: Serve) -> None:
    endpoint = serve(ANSWERS)
    done = lock_run(
        "--", "sh", "-c", "sleep 2.6; echo $CYOLOCTL_LOCK $CYOLOCTL_FENCE; exit 3", at=(endpoint,), ttl="3s"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "job 5\n", "")
    kept = asked(endpoint, KEEP)
    assert len(kept) >= 2
    assert {(body["token"], body["ttl_s"]) for body in kept} == {(5, 3)}
    assert [body["token"] for body in asked(endpoint, RELEASE)] == [5]


def test_lost_lock_ends_the_command_and_is_80_whatever_its_own_status(serve: Serve) -> None:
    endpoint = serve({**ANSWERS, KEEP: Conflict("token 5 does not hold lock job any more")})
    done = lock_run(
        *("--", "sh", "-c", "trap 'exit 0' TERM; for i in $(seq 200); do sleep 0.05; done"),
        at=(endpoint,),
        ttl="3s",
    )
    assert (done.returncode, done.stdout) == (80, "")
    assert "lock job was lost while the command ran, and the command was ended: token 5" in done.stderr
    assert asked(endpoint, RELEASE) == []


def test_lease_that_nobody_confirms_ends_the_command_in_time(serve: Serve) -> None:
    endpoint = serve({**ANSWERS, KEEP: NoLeader("there is no leader")})
    began = time.monotonic()
    done = lock_run(
        "--", "sh", "-c", "trap '' TERM; for i in $(seq 1200); do sleep 0.05; done", at=(endpoint,)
    )
    assert (done.returncode, done.stdout) == (80, "")
    assert "it could not be kept for 1 s: there is no leader" in done.stderr
    assert time.monotonic() - began >= 1.0
    assert len(asked(endpoint, KEEP)) > 1


@pytest.mark.parametrize("error", [Unavailable("no"), AccessDenied("no"), OutcomeUnknown("no")])
def test_lease_is_kept_through_another_endpoint(serve: Serve, error: CyoloctlError) -> None:
    sick, sound = serve({**ANSWERS, KEEP: error, RELEASE: error}), serve(ANSWERS)
    done = lock_run("--", "sleep", "2.6", at=(sick, sound), ttl="3s")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(asked(sick, KEEP)) == 1
    assert len(asked(sound, KEEP)) >= 2


def test_holder_is_the_same_at_every_endpoint(serve: Serve) -> None:
    sick, sound = serve({ACQUIRE: OutcomeUnknown("who knows")}), serve(ANSWERS)
    assert lock_run("--", "true", at=(sick, sound)).returncode == 0
    [first], [second] = asked(sick, ACQUIRE), asked(sound, ACQUIRE)
    assert first["holder"] == second["holder"]
    assert len(first["holder"]) == 32


def test_lock_that_may_have_been_acquired_is_80_and_the_command_not_started(serve: Serve) -> None:
    endpoint = serve({ACQUIRE: OutcomeUnknown("the answer was lost")})
    done = lock_run("--", "echo", "started", at=(endpoint,))
    assert (done.returncode, done.stdout) == (80, "")
    assert "the command was not started" in done.stderr


def test_lock_of_somebody_else_is_75(serve: Serve) -> None:
    endpoint = serve({ACQUIRE: {**HELD, "acquired": False}})
    done = lock_run("--", "echo", "started", at=(endpoint,))
    assert (done.returncode, done.stdout) == (75, "")
    assert f"lock job is held by h 1 until {TIME}" in done.stderr
    assert [body["wait_s"] for body in asked(endpoint, ACQUIRE)] == [0]


def test_command_begins_with_a_lease_that_is_fresh(serve: Serve) -> None:
    def late(body: dict[str, Any]) -> dict[str, Any]:
        if len(asked(endpoint, ACQUIRE)) == 1:
            began = time.monotonic()
            wait_until("most of the lease over", lambda: time.monotonic() > began + 0.7)
        return HELD

    endpoint = serve({**ANSWERS, ACQUIRE: late})
    assert lock_run("--", "true", at=(endpoint,)).returncode == 0
    first, second = asked(endpoint, ACQUIRE)
    assert first["holder"] == second["holder"]


def test_lock_that_cannot_be_released_changes_no_status(serve: Serve) -> None:
    endpoint = serve({**ANSWERS, RELEASE: NoLeader("there is no leader")})
    done = lock_run("--", "sh", "-c", "exit 4", at=(endpoint,))
    assert done.returncode == 4
    assert "could not be released (there is no leader): it is free after 1 s at the latest" in done.stderr


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["a/b", "--", "true"], 65),
        (["job", "--ttl", "500ms", "--", "true"], 65),
        (["job", "--ttl", "2d", "--", "true"], 65),
        (["job", "--wait", "2d", "--", "true"], 65),
        (["job"], 2),
        (["job", "--"], 2),
        (["job", "--", "/no/such/program"], 127),
        (["job", "--", "/"], 126),
        (["job", "--", ""], 127),
    ],
)
def test_what_cannot_run_acquires_nothing(serve: Serve, words: list[str], status: int) -> None:
    endpoint = serve(ANSWERS)
    assert main(["lock", "run", "-e", endpoint.url, *words]) == status
    assert endpoint.requests == []


# -- signals -------------------------------------------------------------------------------------

COUNTING = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
print("ready", sys.stdin.readline().strip(), flush=True)
signal.sigwait({signal.SIGINT})
more = signal.sigtimedwait({signal.SIGINT}, 0.5)
print(f"count={1 if more is None else 2}", flush=True)
"""


def test_ctrl_c_at_a_terminal_reaches_the_command_once_and_it_reads_from_there(serve: Serve) -> None:
    endpoint = serve(ANSWERS)
    command = [
        "-m",
        "cyoloctl",
        "lock",
        "run",
        "job",
        "-e",
        endpoint.url,
        "--",
        sys.executable,
        "-c",
        COUNTING,
    ]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, *command])
    shown = b""
    os.write(terminal, b"hello\n")
    try:
        while b"count=" not in shown:
            if b"ready hello" in shown and b"^C" not in shown:
                os.write(terminal, b"\x03")
                shown += b"^C"
            shown += os.read(terminal, 1000)
        # Before the terminal goes: that is SIGHUP to whoever has not ended.
        _, status = os.waitpid(pid, 0)
        pid = 0
    finally:
        os.close(terminal)
        if pid:
            os.waitpid(pid, 0)
    assert b"count=1" in shown
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(asked(endpoint, RELEASE)) == 1


def test_signal_that_comes_while_the_command_ends_is_not_for_its_holder() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: came.append(number))
    try:
        child = _Child(["true"], dict(os.environ))
        signal.pthread_kill(threading.get_ident(), signal.SIGHUP)
        assert child.status() == 0
        child.restore()
        assert came == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signal_of_the_terminal_which_reached_the_command_too_is_not_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child, sent = _Child(["sleep", "60"], dict(os.environ)), []
    try:
        for code, expected in ((128, []), (0, [signal.SIGINT])):  # of the kernel's; of kill
            came = SimpleNamespace(si_signo=signal.SIGINT, si_code=code)
            with monkeypatch.context() as patch:
                patch.setattr(_Child, "send", lambda _, number: sent.append(number))
                patch.setattr(child, "shared", True)
                patch.setattr(signal, "sigtimedwait", lambda *_, came=came: came)
                assert child.wait(0.0) is False
            assert sent == expected
    finally:
        child.send(signal.SIGKILL)
        assert child.status() == 137
        child.restore()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_holder_that_is_stopped_stops_its_command_too(serve: Serve, tmp_path: Path) -> None:
    endpoint, mark = serve(ANSWERS), tmp_path / "pid"
    go = tmp_path / "go"
    os.mkfifo(go)
    # No other process: a shell that is just making one waits for it, and is not seen stopped.
    script = f"echo $$ > {mark}.new; mv {mark}.new {mark}; read line < {go}; exit 6"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "cyoloctl",
            "lock",
            "run",
            "job",
            "-e",
            endpoint.url,
            "--",
            "sh",
            "-c",
            script,
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_until("the command begun", mark.exists)
        command = int(mark.read_text())
        process.send_signal(signal.SIGTSTP)
        wait_until("both stopped", lambda: state(process.pid) == "T" and state(command) == "T")
        process.send_signal(signal.SIGCONT)
        # No such device while nobody reads.
        os.close(wait_until("the command reading", lambda: os.open(go, os.O_WRONLY | os.O_NONBLOCK)))
        assert process.wait(LIMIT_S) == 6
    finally:
        process.kill()
        process.wait()
