"""Cost of a trivial command's path (docs/architecture.md, the row of `typer<0.29`)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

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
INCREMENT = {("POST", "/v1/counters/default/increment"): counter("default", 42)}


def test_counter_incr_as_a_process_imports_nothing_slow(serve: Callable[..., Endpoint]) -> None:
    endpoint = serve(INCREMENT)
    program = (
        "import sys\nfrom cyoloctl.cli import main\n"
        f"status = main(['counter', 'incr', '-e', {endpoint.url!r}])\n"
        f"print(status, [name for name in {SLOW!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert done.stdout == "42\n0 []\n"


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


def _run_s(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=LIMIT_S, env=os.environ
    )
    return time.perf_counter() - began


def _times_the_import_of_typer(arguments: list[str], limit: float) -> float:
    """The fastest of several runs over the fastest import: what it costs when nothing is in the way.

    Both in turn, so that a busy moment meets both.  A busy machine gets more turns; a slow program
    does not profit from them.
    """
    typer_s = command_s = LIMIT_S
    for turn in range(20):
        typer_s = min(typer_s, _run_s(["-c", "import typer"]))
        command_s = min(command_s, _run_s(["-m", "cyoloctl", *arguments]))
        if turn >= 4 and command_s <= limit * typer_s:
            break
    return command_s / typer_s


@pytest.mark.alone
def test_counter_incr_as_a_process_takes_at_most_twice_the_import_of_typer(
    serve: Callable[..., Endpoint],
) -> None:
    endpoint = serve(INCREMENT)
    assert _times_the_import_of_typer(["counter", "incr", "-e", endpoint.url], 2) <= 2


@pytest.mark.alone
def test_token_inspect_as_a_process_takes_at_most_2_3_times_the_import_of_typer(
    serve: Callable[..., Endpoint],
) -> None:
    answer = {
        "schema_version": 1, "valid": True, "sub": "zoe", "sid": "A" * 22, "gen": 1,
        "issued_at": "2030-01-01T00:00:00Z", "expires_at": "2030-01-01T00:15:00Z",
        "max_expires_at": "2030-01-01T08:00:00Z", "key_id": "fc01aabb", "claims": {"mfa": True},
    }  # fmt: skip
    endpoint = serve({("POST", "/v1/tokens/inspect"): answer})
    assert _times_the_import_of_typer(["token", "inspect", "VAH8" * 100, "-e", endpoint.url], 2.3) <= 2.3
