"""Locks with real processes: one holder at a time, and what becomes of a command whose lock is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, Node, assert_refused, environment, run, wait_until

pytestmark = pytest.mark.cluster

# Tells what it was given, and ends when the file `go` is there; on TERM with status 7.
HELD = """
import os, signal, sys, time
from pathlib import Path
here = Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
given = os.environ["CYOLOCTL_LOCK"] + " " + os.environ["CYOLOCTL_FENCE"] + " " + str(os.getpid())
(here / "new").write_text(given)
(here / "new").rename(here / "given")
while not (here / "go").exists():
    time.sleep(0.02)
"""


class Holder:
    """`lock run` of a command that goes on until it is told to end."""

    def __init__(self, here: Path, name: str, *options: str) -> None:
        here.mkdir(exist_ok=True)
        self.here, self.name = here, name
        (here / "held.py").write_text(HELD)
        command = [sys.executable, str(here / "held.py"), str(here)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cyoloctl", "lock", "run", name, *options, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def given(self) -> tuple[int, int]:
        """The token and the process of the command, once it runs."""
        path = self.here / "given"
        wait_until("the command runs", path.exists)
        name, token, pid = path.read_text().split()
        assert name == self.name
        return int(token), int(pid)

    def has_begun(self) -> bool:
        return (self.here / "given").exists()

    def finish(self) -> None:
        (self.here / "go").touch()

    def ended(self) -> tuple[int, str]:
        """The exit status and stderr; `lock run` prints nothing on stdout."""
        stdout, stderr = self.process.communicate(timeout=60)
        assert stdout == ""
        return self.process.returncode, stderr

    def kill(self) -> None:
        self.finish()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@contextmanager
def holding(here: Path, name: str, *options: str) -> Iterator[Holder]:
    holder = Holder(here, name, *options)
    try:
        yield holder
    finally:
        holder.kill()


def at(*nodes: Node) -> list[str]:
    return [word for node in nodes for word in ("-e", f"unix://{node.directory}/control.sock")]


def lock_run(node: Node, name: str, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """`lock run NAME WORDS...` through a node."""
    return run("lock", "run", name, *at(node), *words, stdin=stdin)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def lock(node: Node, name: str) -> dict[str, Any]:
    """At once: a command of its own would take as long to start as some leases last."""
    return node.client().call("lock_get", name)


def test_second_contender_waits_for_the_first_and_gets_a_higher_token(
    shared: Cluster, tmp_path: Path
) -> None:
    one, two = shared["n1"], shared["n2"]
    with holding(tmp_path / "a", "turn", *at(one)) as first:
        token, _ = first.given()
        shown = lock(two, "turn")
        assert (shown["name"], shown["token"]) == ("turn", token)
        assert str(first.process.pid) in shown["owner"]
        assert shown["acquired_at"] < shown["expires_at"]
        assert "holder" not in shown
        listed = two.json("lock", "list")
        assert list(listed) == ["schema_version", "locks"]
        assert [each["token"] for each in listed["locks"] if each["name"] == "turn"] == [token]
        assert_refused(lock_run(two, "turn", "--", "touch", str(tmp_path / "no")), 75, "is held by")
        assert not (tmp_path / "no").exists()
        with holding(tmp_path / "b", "turn", "--wait", "60s", *at(two)) as second:
            assert_refused(lock_run(two, "turn", "--wait", "1s", "--", "true"), 75, "--wait")
            assert not second.has_begun()
            first.finish()
            assert first.ended()[0] == 0
            assert second.given()[0] > token
            second.finish()
            assert second.ended()[0] == 0
    assert_refused(one.cli("lock", "show", "turn"), 3, "nobody holds lock turn")


def test_lock_of_a_killed_holder_ends_its_command_and_is_free_after_its_time(
    shared: Cluster, tmp_path: Path
) -> None:
    with holding(tmp_path / "a", "dead", "--ttl", "8s", *at(shared["n1"])) as first:
        token, pid = first.given()
        first.process.kill()
        first.process.communicate()
        wait_until("the command has ended with its holder", lambda: not is_running(pid))
        assert lock(shared["n2"], "dead")["token"] == token
        with holding(tmp_path / "b", "dead", "--wait", "60s", *at(shared["n2"])) as second:
            assert second.given()[0] > token


def test_command_is_ended_before_the_lease_is_over_where_no_node_answers(
    shared: Cluster, tmp_path: Path
) -> None:
    node, other = (shared[name] for name in shared.followers())  # a read needs the leader
    with holding(tmp_path / "a", "cut", "--ttl", "9s", "--timeout", "1s", *at(node)) as holder:
        _, pid = holder.given()
        os.kill(node.pid, signal.SIGSTOP)
        try:
            wait_until("the command has ended", lambda: not is_running(pid))
            assert lock(other, "cut")["name"] == "cut", "the command outlived its lease"
        finally:
            os.kill(node.pid, signal.SIGCONT)
        status, stderr = holder.ended()
        assert status == 80
        assert "lock cut was lost while the command ran, and the command was ended" in stderr
    shared.wait_healthy()


def test_lock_that_is_taken_away_ends_the_command_and_what_it_started(
    shared: Cluster, tmp_path: Path
) -> None:
    one, child = shared["n1"], tmp_path / "child"
    command = f"sleep 1000 & echo $! > {child}; trap '' TERM; wait; sleep 1000"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "cyoloctl",
            "lock",
            "run",
            "taken",
            "--ttl",
            "9s",
            *at(one),
            "--",
            "sh",
            "-c",
            command,
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        wait_until("the command runs", lambda: child.exists() and child.read_text().strip() != "")
        assert_refused(one.cli("lock", "release", "taken"), 2, "--yes")
        assert shared["n2"].json("lock", "release", "taken", "--yes")["name"] == "taken"
        assert_refused(one.cli("lock", "release", "taken", "--yes"), 3, "nobody holds lock taken")
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 80
        assert "does not hold lock taken any more" in stderr
        assert not is_running(int(child.read_text()))
    finally:
        process.kill()


def test_signal_is_for_the_command_and_its_status_is_taken(shared: Cluster, tmp_path: Path) -> None:
    with holding(tmp_path / "a", "told", *at(shared["n1"])) as holder:
        holder.given()
        holder.process.send_signal(signal.SIGTERM)
        assert holder.ended()[0] == 7
    assert_refused(shared["n1"].cli("lock", "show", "told"), 3, "nobody holds")


def test_status_of_the_command_is_that_of_lock_run(shared: Cluster, tmp_path: Path) -> None:
    node, plain = shared["n2"], tmp_path / "plain"
    plain.write_text("no program")

    def status(*words: str) -> int:
        return lock_run(node, "status", "--", *words).returncode

    done = lock_run(node, "status", "--", "sh", "-c", "echo $CYOLOCTL_LOCK; cat; exit 5", stdin="in")
    assert (done.returncode, done.stdout) == (5, "status\nin")
    assert status("true") == 0
    assert status("sh", "-c", "kill -9 $$") == 137
    assert status("no-such-command-anywhere") == 127
    assert status(str(plain)) == 126
    plain.write_text("#!/no/such/interpreter\n")
    plain.chmod(0o755)
    assert status(str(plain)) == 127
    assert_refused(node.cli("lock", "show", "status"), 3, "nobody holds")


def test_command_goes_on_when_the_leader_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    leader = cluster.wait_leader()
    nodes = [cluster[leader], *(cluster[name] for name in cluster.followers())]
    with holding(tmp_path / "a", "kept", "--ttl", "12s", "--timeout", "2s", *at(*nodes)) as holder:
        token, _ = holder.given()
        cluster[leader].kill()
        cluster.wait_leader()
        after = time.time() + 12  # a lease that ends later than one that was given before the kill
        wait_until("the lease is kept through another node", lambda: _expires(nodes[1]) > after)
        shown = lock(nodes[1], "kept")
        assert shown["token"] == token
        assert holder.process.poll() is None
        holder.finish()
        assert holder.ended()[0] == 0
    assert_refused(nodes[1].cli("lock", "show", "kept"), 3, "nobody holds")


def _expires(node: Node) -> float:
    from cyoloctl.text import parse_rfc3339

    return parse_rfc3339(lock(node, "kept")["expires_at"]).timestamp()
