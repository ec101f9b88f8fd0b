"""What a service manager is told of a node, and when."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cyoloctl.node.notify import Supervisor, take_supervisor

LIMIT_S = 20.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket that reads what is told; its name is `address`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(str(tmp_path / "notify"))
        reader.setblocking(False)
        yield reader


def heard(reader: socket.socket) -> str | None:
    """The next thing told, None when there is none."""
    try:
        return reader.recv(4096).decode()
    except BlockingIOError:
        return None


async def next_heard(reader: socket.socket) -> str:
    async with asyncio.timeout(LIMIT_S):
        return (await asyncio.get_running_loop().sock_recv(reader, 4096)).decode()


@dataclass
class Steps:
    """Steps of a node.  holds: whether it takes them; asked: how often it was."""

    holds: bool = True
    asked: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def progressed(self, within_s: float) -> bool:
        self.asked += 1
        self.changed.set()
        return self.holds

    async def wait_asked(self, times: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while self.asked < times:
                self.changed.clear()
                await self.changed.wait()


async def test_ready_reloading_and_stopping_are_told_in_lines(manager: socket.socket) -> None:
    supervisor = Supervisor(manager.getsockname(), monotonic_ns=lambda: 7_654_321)
    supervisor.ready("n1 serves", Steps().progressed)
    assert heard(manager) == "READY=1\nSTATUS=n1 serves"
    with supervisor.reloading():
        assert heard(manager) == "RELOADING=1\nMONOTONIC_USEC=7654"
        assert heard(manager) is None
    assert heard(manager) == "READY=1"
    supervisor.stopping()
    assert heard(manager) == "STOPPING=1\nSTATUS=stopping"


async def test_reload_that_fails_ends_with_a_node_that_serves(manager: socket.socket) -> None:
    supervisor = Supervisor(manager.getsockname())
    supervisor.ready("n1 serves", Steps().progressed)
    with pytest.raises(ValueError), supervisor.reloading():
        raise ValueError
    told = [heard(manager) for _ in range(3)]
    assert told[2] == "READY=1"


async def test_reload_before_the_node_is_ready_does_not_say_that_it_is(manager: socket.socket) -> None:
    supervisor = Supervisor(manager.getsockname())
    with supervisor.reloading():
        pass
    assert heard(manager) is None


async def test_reload_while_the_node_stops_does_not_say_that_it_serves(manager: socket.socket) -> None:
    supervisor = Supervisor(manager.getsockname())
    supervisor.ready("n1 serves", Steps().progressed)
    supervisor.stopping()
    with supervisor.reloading():
        pass
    assert [heard(manager) for _ in range(3)][2] is None


async def test_socket_without_a_path_is_found() -> None:
    name = f"cyoloctl-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(f"\0{name}")
        reader.setblocking(False)
        take_supervisor({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert heard(reader) == "STOPPING=1\nSTATUS=stopping"


async def test_signs_of_life_come_while_the_node_takes_steps(manager: socket.socket) -> None:
    supervisor, steps = Supervisor(manager.getsockname(), watchdog_s=0.03), Steps()
    supervisor.ready("n1 serves", steps.progressed)
    assert [await next_heard(manager) for _ in range(4)][1:] == ["WATCHDOG=1"] * 3
    supervisor.stopping()


async def test_node_that_takes_no_step_gives_no_sign_of_life_until_it_does(manager: socket.socket) -> None:
    supervisor, steps = Supervisor(manager.getsockname(), watchdog_s=0.03), Steps(holds=False)
    supervisor.ready("n1 serves", steps.progressed)
    await steps.wait_asked(4)
    assert [heard(manager) for _ in range(2)] == ["READY=1\nSTATUS=n1 serves", None]
    steps.holds = True
    assert await next_heard(manager) == "WATCHDOG=1"
    supervisor.stopping()


async def test_node_that_stops_gives_no_sign_of_life(manager: socket.socket) -> None:
    supervisor, steps = Supervisor(manager.getsockname(), watchdog_s=0.03), Steps()
    supervisor.ready("n1 serves", steps.progressed)
    await steps.wait_asked(1)
    supervisor.stopping()
    asked = steps.asked
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await asyncio.wait(others, timeout=LIMIT_S)
    assert all(task.done() for task in others)
    assert steps.asked == asked


async def test_no_sign_of_life_is_given_where_none_is_waited_for(manager: socket.socket) -> None:
    steps = Steps()
    Supervisor(manager.getsockname()).ready("n1 serves", steps.progressed)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_manager_that_is_gone_is_a_warning_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(str(tmp_path / "gone"))
    supervisor.ready("n1 serves", Steps().progressed)
    supervisor.stopping()
    assert [record.message for record in caplog.records] == ["the service manager cannot be told"]


@pytest.mark.parametrize("address", ["", "/", "@", "vsock:2:1234", "relative"])
def test_socket_that_is_none_is_nobody(address: str, caplog: pytest.LogCaptureFixture) -> None:
    supervisor = take_supervisor({"NOTIFY_SOCKET": address})
    supervisor.stopping()
    assert (supervisor.is_there, caplog.records) == (False, [])


def test_variables_are_taken_from_what_children_inherit() -> None:
    environ = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    take_supervisor(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("limit", "whose", "asked"),
    [
        ("30000", "", True),
        ("30000", "42", True),
        ("30000", "41", False),  # of another process, which gave it to us
        ("0", "", False),
        ("-5", "", False),
        ("soon", "", False),
        ("", "", False),
    ],
)
async def test_limit_counts_for_the_process_that_it_names(
    manager: socket.socket, limit: str, whose: str, asked: bool
) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": limit, "WATCHDOG_PID": whose}
    supervisor, steps = take_supervisor(environ, pid=42), Steps()
    supervisor.ready("n1 serves", steps.progressed)
    assert (len(asyncio.all_tasks()) == 2) == asked
    if asked:
        assert [await next_heard(manager) for _ in range(2)][1] == "WATCHDOG=1"
    supervisor.stopping()
