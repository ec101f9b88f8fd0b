"""Who may import what: the table of DESIGN.md, enforced on the syntax trees of every module.

A new module fails until it has a row.  *Lazy* means inside a function, so that commands which do not need
the module do not pay for it.  Imports under ``if TYPE_CHECKING`` cost nothing either, so they count as lazy;
they are knowledge of another module like any other.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "cyoloctl"
ROOT = Path(__file__).resolve().parents[2] / PACKAGE

# No clock, no randomness, no I/O, no concurrency: what a pure module must not import.
IMPURE = frozenset(
    [
        "asyncio",
        "concurrent",
        "http",
        "io",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "socketserver",
        "sqlite3",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "uuid",
    ]
)
# Clocks in modules that are otherwise pure.
CLOCK_CALLS = frozenset({"now", "utcnow", "today"})
# Data that runs code when it is read; never crosses the network or comes off the disk.
NOWHERE = frozenset({"pickle", "marshal", "shelve", "click"})
# Slow to import, and most commands need none of them.
SLOW = frozenset({"asyncio", "ssl", "sqlite3", "http.client", "urllib.request", "unittest", "logging.config"})


@dataclass(frozen=True)
class Row:
    """What one module (or, with a final ``.*``, every module below a package) may import."""

    ours: str = ""  # modules of ours, blank separated, ``.*`` includes those below
    lazy: str = ""  # modules of ours, inside functions only
    vendors: str = ""  # distributions from outside
    lazy_vendors: str = ""  # the same, inside functions only
    pure: bool = False  # no clock, randomness, I/O
    quick: bool = False  # the path of every command: SLOW modules inside functions only


BASE = "errors model"
TABLE: dict[str, Row] = {
    "": Row(),
    "__main__": Row(ours="cli"),
    "errors": Row(pure=True),
    "model": Row(ours="errors", pure=True),
    "base64url": Row(pure=True),
    "caller": Row(pure=True),
    "paths": Row(ours=BASE, quick=True),
    "identity": Row(ours=BASE, pure=True),
    "tokens": Row(ours=BASE, vendors="cryptography"),
    "joining": Row(ours=f"{BASE} identity tokens", vendors="cryptography"),
    "keyring": Row(ours=f"{BASE} identity pki tokens", vendors="cryptography"),
    "issuer": Row(ours=f"{BASE} tokens", pure=True),
    "machines.*": Row(ours=f"{BASE} machines.*", pure=True),
    # One module may touch the engine's private attributes; everyone else goes through it.
    "raft.vendor": Row(ours=f"{BASE} raft.*", vendors="pysyncobj"),
    "raft.links": Row(ours=f"{BASE} raft.messages", pure=True),
    "raft.witnesses": Row(ours=BASE, pure=True),
    "raft.*": Row(ours=f"{BASE} raft.*"),
    "control": Row(),
    "control.wire": Row(ours=BASE, pure=True),
    "control.client": Row(ours=f"{BASE} paths control.wire", quick=True),
    "control._watches": Row(ours=f"{BASE} control.wire"),
    "control.server": Row(
        ours=f"{BASE} caller identity strangers control.wire control._watches", vendors="aiohttp"
    ),
    "routing._publish": Row(ours=f"{BASE} paths process", quick=True),
    "routing.*": Row(ours=f"{BASE} routing.*", pure=True, quick=True),
    # cryptography: forms name a record encrypted, since its id must not reach whoever approves.
    "gateway._forms": Row(ours=f"{BASE} base64url caller", vendors="cryptography", pure=True),
    "gateway._node": Row(ours="caller", pure=True),
    "gateway._pages": Row(pure=True),
    "gateway._metrics": Row(pure=True),
    "gateway._server": Row(ours=f"{BASE} caller listener strangers routing.* gateway.*", vendors="aiohttp"),
    "gateway": Row(ours="gateway.*"),
    "pki": Row(ours=f"{BASE} identity paths", vendors="cryptography"),
    "tls": Row(ours=f"{BASE} pki"),
    "authority": Row(ours=f"{BASE} identity paths pki"),
    "rendezvous": Row(ours=f"{BASE} machines.rendezvous pki", vendors="cryptography"),
    "config": Row(ours=f"{BASE} identity paths", vendors="yaml"),
    "setup": Row(ours=f"{BASE} authority identity paths joining pki config raft control.client"),
    "logs": Row(),
    "process": Row(quick=True),
    "strangers": Row(pure=True),
    "listener": Row(ours="strangers"),
    "service.*": Row(
        ours=f"{BASE} base64url caller identity paths joining pki authority config issuer tls tokens keyring "
        "rendezvous machines.* raft service.*"
    ),
    "node": Row(
        ours=f"{BASE} identity listener strangers logs paths process pki config service tls tokens machines "
        "raft control.* routing.* gateway",
        lazy_vendors="uvloop",
    ),
    # The simulation takes the place of the asyncio half of raft, so it needs what raft keeps to itself;
    # and like node it brings raft and the machines together.  Nothing but its command imports it.
    "sim.*": Row(ours=f"{BASE} process machines raft.* sim.*"),
    "cli.output": Row(ours=f"{BASE} control.wire", vendors="typer", lazy_vendors="rich yaml", quick=True),
    "cli.*": Row(
        ours=f"{BASE} paths process control.client control.wire cli.*",
        lazy="config tokens routing issuer keyring pki setup node sim",
        vendors="typer",
        quick=True,
    ),
}
# In DESIGN.md, not yet in the tree: rows that may match nothing.
PLANNED: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Import:
    """One imported module (dotted, absolute), and whether it happens inside a function."""

    module: str
    lazy: bool
    line: int


def module_name(path: Path) -> str:
    """``cyoloctl/raft/journal.py`` is ``raft.journal``; a package is named like its directory."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def modules() -> dict[str, Path]:
    """Every module of the package by its name below it."""
    return {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def covers(patterns: str, module: str) -> bool:
    """Whether one of the blank separated patterns names the module."""
    return any(
        module == pattern.removesuffix(".*") or (pattern.endswith(".*") and module.startswith(pattern[:-1]))
        for pattern in patterns.split()
    )


def row_of(module: str) -> Row | None:
    """The most specific row: the module's own, or the nearest package's with ``.*``."""
    if module in TABLE:
        return TABLE[module]
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        row = TABLE.get(".".join(parts[:length]) + ".*")
        if row is not None:
            return row
    return None


def _is_import_call(node: ast.Call) -> bool:
    function = node.func
    name = (
        function.attr
        if isinstance(function, ast.Attribute)
        else function.id
        if isinstance(function, ast.Name)
        else ""
    )
    return name in {"import_module", "__import__"}


def imports_of(source: str, module: str, is_package: bool, known: set[str]) -> Iterator[Import]:
    """Every import in a source, relative ones resolved; ``from . import x`` names x if x is a module."""

    def resolve(node: ast.ImportFrom) -> Iterator[str]:
        base = node.module or ""
        if node.level:
            parts = [PACKAGE, *(module.split(".") if module else [])]
            parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
            base = ".".join([*parts, base] if base else parts)
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield full if full.removeprefix(f"{PACKAGE}.") in known else base

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, lazy, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            for full in resolve(node):
                yield Import(full, lazy, node.lineno)
        elif isinstance(node, ast.Call) and _is_import_call(node):
            argument = node.args[0] if node.args else None
            literal = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            # A computed name could be anything: it is reported as a module that no row allows.
            name = argument.value if literal and isinstance(argument, ast.Constant) else "(computed)"
            yield Import(str(name), lazy, node.lineno)
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for child in node.body:
                yield from walk(child, True)
            for child in node.orelse:
                yield from walk(child, lazy)
            return
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(source), False)


def violations(source: str, module: str, *, is_package: bool, known: set[str]) -> list[str]:
    """What a module's source does that its row does not allow, one sentence each."""
    row = row_of(module)
    if row is None:
        return [f"{module}: no row in TABLE; decide what it may import and add one"]
    found: list[str] = []

    def report(line: int, text: str) -> None:
        found.append(f"{module or PACKAGE}:{line}: {text}")

    for item in imports_of(source, module, is_package, known):
        top = item.module.partition(".")[0]
        if top == PACKAGE:
            ours = item.module.removeprefix(PACKAGE).removeprefix(".")
            if ours == "" or covers(row.ours, ours):  # the root holds the version and nothing else
                continue
            if covers(row.lazy, ours):
                if not item.lazy:
                    report(item.line, f"imports {item.module} outside a function")
                continue
            report(item.line, f"imports {item.module}")
        elif top in NOWHERE:
            report(item.line, f"imports {item.module}, which nothing may")
        elif top in sys.stdlib_module_names or top == "__future__":
            if row.pure and top in IMPURE:
                report(item.line, f"imports {item.module}, but is pure")
            if row.quick and not item.lazy and (item.module in SLOW or top in SLOW):
                report(item.line, f"imports {item.module} outside a function: every command pays for it")
        elif not (covers(row.vendors, top) or (item.lazy and covers(row.lazy_vendors, top))):
            report(item.line, f"imports {item.module}" + ("" if item.lazy else " outside a function"))
    if row.pure:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and node.attr in CLOCK_CALLS:
                report(node.lineno, f"reads a clock ({ast.unparse(node)}), but is pure")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
                report(node.lineno, "opens a file, but is pure")
    return found


@pytest.mark.parametrize("module", sorted(modules()), ids=lambda name: name or PACKAGE)
def test_module_imports_only_what_its_row_allows(module: str) -> None:
    path = modules()[module]
    source = path.read_text(encoding="utf-8")
    is_package = path.name == "__init__.py"
    assert violations(source, module, is_package=is_package, known=set(modules())) == []


def test_table_rows_each_match_a_module() -> None:
    present = modules()
    unused = {pattern for pattern in TABLE if not any(covers(pattern, name) for name in present if name)}
    assert unused - PLANNED - {""} == set()


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("errors", "from cyoloctl.model import parse_name", "imports cyoloctl.model"),
        ("errors", "def f():\n from .model import parse_name", "imports cyoloctl.model"),
        ("model", "import time", "pure"),
        ("model", "from datetime import datetime\nx = datetime.now()", "reads a clock"),
        ("machines.counter", "from cyoloctl import raft", "imports cyoloctl.raft"),
        ("machines.counter", "import os.path", "pure"),
        ("machines.counter", "print(open('x'))", "opens a file"),
        ("control.wire", "from random import random", "pure"),
        ("raft.ticker", "from ..machines import counter", "imports cyoloctl.machines"),
        ("raft.ticker", "import pickle", "nothing may"),
        ("raft.ticker", "import pysyncobj.node", "imports pysyncobj.node"),
        ("node", "from cyoloctl.raft.journal import Journal", "imports cyoloctl.raft.journal"),
        ("control.server", "from cyoloctl.node import Node", "imports cyoloctl.node"),
        ("control.server", "import typer", "imports typer"),
        ("control.client", "import ssl", "every command pays"),
        ("control.client", "if TYPE_CHECKING:\n pass\nelse:\n import ssl", "every command pays"),
        ("control.client", "def f():\n import aiohttp", "imports aiohttp"),
        ("config", "import rich", "imports rich"),
        ("node", "import pysyncobj", "imports pysyncobj"),
        ("node", "from cyoloctl.cli import main", "imports cyoloctl.cli"),
        ("node", "if TYPE_CHECKING:\n from cyoloctl.cli.output import x", "imports cyoloctl.cli.output"),
        ("cli.counter", "from cyoloctl.node import Node", "outside a function"),
        ("cli.counter", "def f():\n import rich", "imports rich"),
        ("cli.counter", "import click", "nothing may"),
        ("cli.output", "import rich.table", "imports rich.table outside a function"),
        ("cli.output", "import importlib\nimportlib.import_module('pysyncobj')", "imports pysyncobj"),
        ("cli.output", "def f(x):\n return __import__(x)", "(computed)"),
        ("surprise", "", "no row"),
    ],
)
def test_checker_with_a_forbidden_import_complains(module: str, source: str, complaint: str) -> None:
    known = {"errors", "model", "machines", "raft", "raft.journal", "node", "cli", "cli.output"}
    found = violations(source, module, is_package=False, known=known)
    assert [complaint in text for text in found] == [True], found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model", "from cyoloctl.errors import InvalidInput\nimport re, json"),
        ("machines.counter", "from . import members\nfrom datetime import UTC, datetime"),
        (
            "raft.vendor",
            "import sqlite3, asyncio, os\nfrom pysyncobj import SyncObj\nfrom ..errors import X",
        ),
        ("cli.counter", "import typer\nfrom .output import show\ndef f():\n from cyoloctl.node import Node"),
        ("cli.output", "def f():\n from rich.table import Table"),
        ("control.client", "def f():\n import ssl"),
        ("control.client", "if TYPE_CHECKING:\n import ssl"),
        ("node", "from cyoloctl import __version__, raft, gateway"),
    ],
)
def test_checker_with_allowed_imports_is_silent(module: str, source: str) -> None:
    known = {
        "errors",
        "model",
        "machines",
        "machines.members",
        "raft",
        "node",
        "cli",
        "cli.output",
        "gateway",
    }
    assert violations(source, module, is_package=False, known=known) == []


def test_checker_resolves_relative_imports_of_a_package() -> None:
    found = violations("from ..machines import x", "raft", is_package=True, known={"raft", "machines"})
    assert found == ["raft:1: imports cyoloctl.machines"]


def test_cli_when_imported_loads_nothing_slow() -> None:
    slow = [
        "aiohttp",
        "asyncio",
        "cryptography",
        "pysyncobj",
        "rich",
        "ssl",
        "yaml",
        "cyoloctl.node",
        "cyoloctl.raft",
        "cyoloctl.sim",
    ]
    program = (
        f"import sys; from cyoloctl.cli import main; print([name for name in {slow} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
