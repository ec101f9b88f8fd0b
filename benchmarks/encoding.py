"""JSON in a node's hot paths: msgspec beside the standard library, and whole commands and answers.

`python -m benchmarks.encoding` prints the fastest of many runs of each, in microseconds.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable

from cyoloctl import fastjson
from cyoloctl.replicated.command import decode_command, encode_command
from cyoloctl.state import ClusterState
from cyoloctl.text import canonical_json, scan_json

__all__ = ["main"]

_CALLER = {"kind": "node", "caller": "unix-socket"}


def fastest_us(call: Callable[[], object], times: int = 200, runs: int = 100) -> float:
    """Microseconds of one call, in the fastest run."""
    best = float("inf")
    for _ in range(runs):
        began = time.perf_counter()
        for _ in range(times):
            call()
        best = min(best, time.perf_counter() - began)
    return best / times * 1e6


def _apply_us(arguments: dict[str, object], times: int = 1000, runs: int = 10) -> float:
    best = float("inf")
    for _ in range(runs):
        state = ClusterState()
        commands = [
            encode_command("kv", "put", arguments, request_id=f"{number:032x}", **_CALLER)
            for number in range(times)
        ]
        began = time.perf_counter()
        for number, command in enumerate(commands, 1):
            state.apply(number, command)
        best = min(best, time.perf_counter() - began)
    return best / times * 1e6


def main() -> None:
    """Measure and print."""
    for size in (100, 10_240):
        value = base64.b64encode(b"x" * size).decode()
        arguments: dict[str, object] = {
            "key": "bench/key", "value": value, "if_revision": None, "ttl_ms": None, "fence": None,
        }  # fmt: skip
        array = ["kv", "put", arguments]
        text = canonical_json(array)
        data = text.encode()
        command = encode_command("kv", "put", arguments, request_id="a" * 32, **_CALLER)
        rows: list[tuple[str, Callable[[], object]]] = [
            ("encode, standard library", lambda array=array: canonical_json(array)),  # type: ignore[misc]
            ("encode, msgspec", lambda array=array: fastjson.canonical_bytes(array)),  # type: ignore[misc]
            ("decode, standard library", lambda text=text: scan_json(text)),  # type: ignore[misc]
            ("decode, msgspec", lambda data=data: fastjson.decode(data)),  # type: ignore[misc]
            ("decode_command", lambda command=command: decode_command(command)),  # type: ignore[misc]
        ]
        for name, call in rows:
            print(f"value of {size:>6} bytes  {name:<26} {fastest_us(call):8.2f} us")
        print(f"value of {size:>6} bytes  {'apply':<26} {_apply_us(arguments):8.2f} us")


if __name__ == "__main__":
    main()
