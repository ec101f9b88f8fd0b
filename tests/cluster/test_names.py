"""A name server that never answers, for a real node and real commands.

In a network and mount namespace of their own, /etc/resolv.conf names a UDP
socket that nobody reads from.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import environment, wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"),
        reason="namespaces need root, unshare (util-linux) and ip (iproute2)",
    ),
]

_PORT = 7700  # free: nobody else is in this network
_LOOK_UP_S = 30
"""How long the library waits for the name server."""
_AT_ONCE_S = 20.0
"""A busy machine may need this, and whoever waits for a look-up needs more."""

_SILENT = """
import socket, sys
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The beginning of a command that runs where no name server answers."""
    resolver = tmp_path_factory.mktemp("etc") / "resolv.conf"
    resolver.write_text(f"nameserver 127.0.0.1\noptions timeout:{_LOOK_UP_S} attempts:1\n")
    script = f"ip link set lo up && mount --bind {resolver} /etc/resolv.conf && "
    script += f"exec {sys.executable} -c '{_SILENT}'"
    with subprocess.Popen(
        ["unshare", "--net", "--mount", "/bin/sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        if holder.stdout.readline() != b"ready\n":
            pytest.skip("this kernel or container allows no namespaces")
        yield ["nsenter", "-t", str(holder.pid), "--net", "--mount"]
        holder.stdin.close()


def _run(inside: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*inside, sys.executable, "-m", "cyoloctl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)


@pytest.fixture(scope="module")
def node(inside: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A node with a peer that only a name server knows; its directory and process."""
    directory = tmp_path_factory.mktemp("names") / "n1"
    made = _run(inside, "cluster", "init", "-d", directory, "--name", "n1", "--listen", f"127.0.0.1:{_PORT}")
    assert made.returncode == 0, made.stderr
    settings = directory / "node.yaml"
    text = settings.read_text()
    assert "peers: {}" in text
    settings.write_text(text.replace("peers: {}", "peers: {n2: 'n2.example:7700'}"))
    log = directory.parent / "log"
    command = [
        sys.executable,
        "-m",
        "cyoloctl",
        "node",
        "start",
        "-d",
        str(directory),
        "--log-level",
        "debug",
    ]
    with (
        open(log, "wb") as file,
        subprocess.Popen([*inside, *command], stderr=file, env=environment()) as process,
    ):
        try:
            # Two look-ups in vain: a thread waits for the name server now, and at the end.
            wait_until("two dials", lambda: log.read_text().count("cannot dial") >= 2)
            yield directory, process.pid
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert process.wait(2 * _LOOK_UP_S) == 0, log.read_text()
            assert time.monotonic() - began < _AT_ONCE_S, "the look-up that ran kept the process from ending"
            assert "node stopped" in log.read_text()
        finally:
            process.kill()


def test_second_endpoint_is_asked_within_the_time_limit(inside: list[str], node: tuple[Path, int]) -> None:
    began = time.monotonic()
    done = _run(
        inside,
        *("status", "-o", "json", "--timeout", "6", "--credentials", node[0] / "operator.yaml"),
        *("-e", "https://n2.example:7700", "-e", f"https://127.0.0.1:{_PORT}"),
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < _AT_ONCE_S


def test_only_endpoint_fails_at_the_time_limit_and_names_what_is_missing(
    inside: list[str], node: tuple[Path, int]
) -> None:
    began = time.monotonic()
    done = _run(
        inside,
        *("status", "--timeout", "1", "--credentials", node[0] / "operator.yaml"),
        *("-e", "https://n2.example:7700", "-e", "https://n3.example:7700"),
    )
    assert done.returncode == 69, done.stderr
    assert "n2.example was not looked up in time" in done.stderr
    assert "n3.example was not looked up in time" in done.stderr
    assert time.monotonic() - began < _AT_ONCE_S
