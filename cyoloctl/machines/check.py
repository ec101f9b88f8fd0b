"""Whether a class may become a machine: what it imports, and whether it does the same everywhere."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cyoloctl
from cyoloctl.errors import ConfigError, InternalError
from cyoloctl.machines.loading import imported_by, load, sources_of
from cyoloctl.text import Json

__all__ = ["check", "environment_of_runs"]

_HASH_SEEDS = (0, 1)
_PYTHONS = tuple(f"python3.{minor}" for minor in range(11, 20))
_IMPURE = frozenset(
    [
        *("asyncio", "concurrent", "ctypes", "fcntl", "gc", "getpass", "glob", "http", "io", "locale"),
        *("logging", "mmap", "multiprocessing", "os", "pathlib", "platform", "queue", "random", "resource"),
        *("sched", "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver", "sqlite3"),
        *("ssl", "subprocess", "tempfile", "threading", "time", "urllib.request", "uuid", "weakref"),
        "zoneinfo",
    ]
)
"""Clocks, randomness, files, the network, threads, and what differs from machine to machine."""
_CALLS = frozenset(
    ["open", "input", "exec", "eval", "compile", "__import__", "id", "hash", "globals", "vars"]
)
_CLOCKS = frozenset(["now", "utcnow", "today"])
_FIX = "an operation may depend on its arguments and its table only"


def check(target: str, seeds: range, *, timeout_s: float = 600.0) -> Json:
    """What was found about MODULE:CLASS; nothing is wrong where `problems` is empty.

    seeds: for random operations, carried out by each Python of this machine
    that can, under two hash seeds.

    Imports the module.  Raises ConfigError where it is no machine.
    """
    code = load(target)
    problems, warnings = _read(target.partition(":")[0])
    runs = [
        (version, hash_seed, _run(python, hash_seed, target, seeds, timeout_s))
        for version, python in _pythons().items()
        for hash_seed in _HASH_SEEDS
    ]
    (_, _, first), *others = runs
    # The first seed of each kind of problem with an operation.
    found = {(each["kind"], each["message"].partition("{")[0]): each for each in reversed(first["problems"])}
    problems += reversed(found.values())
    for python, hash_seed, run in others:
        differing = [
            seed
            for seed, one, other in zip(seeds, first["digests"], run["digests"], strict=True)
            if one != other
        ]
        if differing:
            problems.append(
                {
                    "kind": "differs",
                    "seed": differing[0],
                    "message": f"seed {differing[0]} gave something else with Python {python}, hash seed "
                    f"{hash_seed}, than with {runs[0][0]}, hash seed {runs[0][1]}: {_FIX}; sort sets",
                }
            )
    if first["slow"] is not None:
        warnings.append(f"{first['slow']}: a node does nothing else meanwhile")
    return {
        "machine": code.name,
        "version": code.version,
        "digest": code.digest,
        "seeds": len(seeds),
        "operations": sum(run["operations"] for _, _, run in runs),
        "runs": [{"python": python, "hash_seed": hash_seed} for python, hash_seed, _ in runs],
        "simulated_operations": 0,
        "problems": problems,
        "warnings": warnings,
    }


def _pythons() -> dict[str, str]:
    """The path of this interpreter by its version, then of others that can import the package."""
    found = {sys.version.partition(" ")[0]: sys.executable}
    for name in _PYTHONS:
        path = shutil.which(name)
        if path is None:
            continue
        done = subprocess.run(
            [path, "-c", "import cyoloctl.machines.exercise, sys; print(sys.version.partition(' ')[0])"],
            env=environment_of_runs(0),
            capture_output=True,
            check=False,
            timeout=60,
            text=True,
        )
        if done.returncode == 0:
            found.setdefault(done.stdout.strip(), path)
    return found


def environment_of_runs(hash_seed: int) -> dict[str, str]:
    """What a run gets from its environment, whichever Python it is."""
    # Not this interpreter's own library, which no other one can use.
    own = Path(sysconfig.get_path("stdlib"))
    found = [path for path in sys.path if path and Path(path) not in (own, own / "lib-dynload")]
    paths = [str(Path(cyoloctl.__file__).parents[1]), *(path for path in found if not path.endswith(".zip"))]
    return {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(paths)}


def _run(python: str, hash_seed: int, target: str, seeds: range, timeout_s: float) -> Json:
    command = [python, "-m", "cyoloctl.machines.exercise", target, str(seeds.start), str(seeds.stop)]
    try:
        done = subprocess.run(
            command,
            env=environment_of_runs(hash_seed),
            capture_output=True,
            check=False,
            timeout=timeout_s,
            text=True,
        )
        found: Json = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{target} did not end within {timeout_s:.0f} s: an operation that does not end stops every node"
        ) from None
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InternalError(f"{target} could not be tried with {python}: {last[:300]}") from None
    if "error" in found:
        raise ConfigError(found["error"])
    return found


def _read(module: str) -> tuple[list[Json], list[str]]:
    """Problems and warnings of the source."""
    problems: list[Json] = []
    warnings = []
    sources = sources_of(module)
    for name, (path, source) in sources.items():
        for imported in dict.fromkeys(imported_by(source, name, is_package=path.name == "__init__.py")):
            top = imported.partition(".")[0]
            if imported in _IMPURE or top in _IMPURE:
                problems.append(
                    {"kind": "import", "seed": None, "message": f"{path.name} imports {imported}: {_FIX}"}
                )
            elif top not in sys.stdlib_module_names and top != "cyoloctl" and top not in _tops(sources):
                warnings.append(f"{path.name} imports {imported}, which is not in the digest of the code")
        for line, kind, what in _suspicions(ast.parse(source)):
            text = f"{path.name}, line {line}: {what}"
            if kind == "warning":
                warnings.append(text)
            else:
                problems.append({"kind": kind, "seed": None, "message": f"{text}: {_FIX}"})
    return problems, warnings


def _tops(sources: Any) -> set[str]:
    return {name.partition(".")[0] for name in sources}


def _suspicions(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, kind and words of what makes nodes differ."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in _CALLS:
                yield node.lineno, "call", f"it calls {called.id}()"
            elif isinstance(called, ast.Attribute) and called.attr in _CLOCKS:
                yield node.lineno, "call", f"it asks a clock (.{called.attr}())"
        elif isinstance(node, ast.Global | ast.Nonlocal):
            yield node.lineno, "global", "it changes a variable outside the method"
        elif isinstance(node, ast.Await | ast.AsyncFunctionDef):
            yield node.lineno, "call", "it waits"
        elif isinstance(node, ast.For | ast.comprehension) and _is_set(node.iter):
            yield node.iter.lineno, "warning", "it goes through a set, which has no order: use sorted()"


def _is_set(node: ast.expr) -> bool:
    return isinstance(node, ast.Set | ast.SetComp) or (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("set", "frozenset")
    )
