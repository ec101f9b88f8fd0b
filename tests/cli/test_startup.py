"""Cost of a trivial command's path (docs/architecture.md, the row of `typer<0.29`)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import LIMIT_S, Endpoint, counter

SLOW = (
    "httptools",
    "asyncio",
    "concurrent.futures",
    "cryptography",
    "email",
    "http",
    "msgspec",
    "prometheus_client",
    "pydantic",
    "pysyncobj",
    "rich",
    "sqlite3",
    "ssl",
    "yaml",
    "cyoloctl.bench",
    "cyoloctl.cli.demo",
    "cyoloctl.console",
    "cyoloctl.cli.local_cluster",
    "cyoloctl.cli.member",
    "cyoloctl.node.config",
    "cyoloctl.node",
    "cyoloctl.pki",
    "cyoloctl.node.create",
)
# What no command that loops run needs, beyond the slow ones: each costs a twentieth of the command or more.
NOT_HOT = (
    "typer",
    "dataclasses",
    "hashlib",
    "inspect",
    "pathlib",
    "shutil",
    "subprocess",
    "tempfile",
    "threading",
    "urllib.parse",
    "uuid",
    "cyoloctl.model",
    "cyoloctl.cli.tree",
)
INCREMENT = {("POST", "/v1/counters/default/increment"): counter("default", 42)}
ENTRY = {
    "schema_version": 1, "key": "a", "value": "b", "value_base64": "Yg==", "size": 1, "revision": 7,
    "created_revision": 7, "version": 1, "expires_at": None, "sealed": False, "epoch": 0, "index": 9,
}  # fmt: skip
HEALTHY = {
    "schema_version": 1, "problems": [], "members": [],
    "cluster": {"name": "c", "id": "i", "leader": "n1", "healthy": True},
}  # fmt: skip
SESSION = {
    "schema_version": 1, "valid": True, "sub": "zoe", "sid": "A" * 22, "gen": 1,
    "issued_at": "2030-01-01T00:00:00Z", "expires_at": "2030-01-01T00:15:00Z",
    "max_expires_at": "2030-01-01T08:00:00Z", "key_id": "fc01aabb", "claims": {"mfa": True},
}  # fmt: skip
#: The commands that scripts run in loops (docs/scripting.md), each with what the node answers.
HOT: dict[str, dict[tuple[str, str], Any]] = {
    "counter incr": INCREMENT,
    "counter incr --by=2 --request-id a -o json": INCREMENT,
    "counter get --stale": {("GET", "/v1/counters/default"): counter("default", 42)},
    "kv get a": {("GET", "/v1/kv"): ENTRY},
    "kv put a b --ttl 90s": {("POST", "/v1/kv/put"): ENTRY},
    "status --check -o json": {("GET", "/v1/status"): HEALTHY},
    "token inspect VAH8 -o json": {("POST", "/v1/tokens/inspect"): SESSION},
}


@pytest.mark.parametrize("command", HOT)
def test_command_that_loops_run_imports_nothing_slow(
    command: str, serve: Callable[[dict[tuple[str, str], Any]], Endpoint]
) -> None:
    endpoint = serve(HOT[command])
    program = (
        "import sys\nfrom cyoloctl.cli import main\n"
        f"status = main({command.split()!r} + ['-e', {endpoint.url!r}])\n"
        f"print(status, [name for name in {(*SLOW, *NOT_HOT)!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stderr == "0 []\n"
    assert done.stdout


def test_import_of_the_package_loads_none_of_its_modules() -> None:
    program = "import sys, cyoloctl; print([name for name in sys.modules if name.startswith('cyoloctl.')])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert done.stdout == "[]\n"


def test_blocking_client_of_a_socket_loads_nothing_slow(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(INCREMENT)
    program = (
        "import sys\nfrom cyoloctl import Client\n"
        f"with Client([{endpoint.url!r}]) as client: print(client.counters.incr()['value'])\n"
        f"print([name for name in ('typer', *{SLOW!r}) if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert done.stdout == "42\n[]\n"


def _run_s(arguments: list[str], cache: Path) -> float:
    began = time.perf_counter()
    # With its bytecode beside it, as an installed program has it.
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        env={**environment, "PYTHONPYCACHEPREFIX": str(cache)},
    ) as process:
        # Not `timeout`: with it Python looks after 31, 63 and 113 ms, and what ends in between takes as long.
        watchdog = threading.Timer(LIMIT_S, process.kill)
        watchdog.start()
        status = process.wait()
        took_s = time.perf_counter() - began
        watchdog.cancel()
    assert status == 0
    return took_s


def _times_the_import_of_typer(arguments: list[str], limit: float, cache: Path) -> float:
    """The fastest of several runs over the fastest import: what it costs when nothing is in the way.

    Both in turn, so that a busy moment meets both.  A busy machine gets more turns; a slow program
    does not profit from them.
    """
    typer_s = command_s = LIMIT_S
    for turn in range(20):
        typer_s = min(typer_s, _run_s(["-c", "import typer"], cache))
        command_s = min(command_s, _run_s(["-m", "cyoloctl", *arguments], cache))
        if turn >= 4 and command_s <= limit * typer_s:
            break
    return command_s / typer_s


@pytest.mark.alone
@pytest.mark.parametrize("command", ["counter incr", "token inspect VAH8 -o json"])
def test_command_that_loops_run_takes_less_than_the_import_of_typer(
    command: str, serve: Callable[[dict[tuple[str, str], Any]], Endpoint], tmp_path: Path
) -> None:
    endpoint = serve(HOT[command])
    assert _times_the_import_of_typer([*command.split(), "-e", endpoint.url], 1, tmp_path) <= 1
