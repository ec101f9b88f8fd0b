"""Rules of imports, enforced on the syntax tree of every module.

*Lazy* means inside a function, so that commands which do not need
the module do not pay for it.  Imports under ``if TYPE_CHECKING`` cost nothing either, so they count as lazy;
they are knowledge of another module like any other.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
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


# From the ground up: a home (a top-level file or folder) imports itself and those before it, never upward.
ORDER = [
    "errors",
    "text",
    "fastjson",
    "model",
    "caller",
    "security_log",
    "process",
    "paths",
    "beat",
    "pki",
    "web",
    "metrics",
    "raft",
    "replicated",
    "members",
    "keys",
    "tokens",
    "counters",
    "locks",
    "kv",
    "machines",
    "credentials",
    "authorities",
    "rendezvous",
    "routing",
    "audit",
    "state",
    "snapshots",
    "control",
    "gateway",
    "node",
    "doctor",
    "sim",
    "bench",
    "console",
    "cli",
    "__main__",
]

# Who may import what from outside; ``lazily`` is inside functions.  Everything else: the standard library.
VENDORS: dict[str, str] = {
    "raft.vendor": "pysyncobj",  # the one module that may touch the engine's private attributes
    "pki.*": "cryptography",
    "tokens.format": "cryptography",
    "kv.sealing": "cryptography",
    "keys.ring_file": "cryptography",
    "rendezvous.codes": "cryptography",
    "gateway.forms": "cryptography",  # a form names a record encrypted: its id must not reach who approves
    "metrics.text": "prometheus_client",
    "metrics.reading": "prometheus_client",
    "fastjson": "msgspec",
    "web.connection": "httptools",
    "gateway.server": "markupsafe",
    "gateway.answers": "markupsafe",
    "gateway.templates": "markupsafe",
    "gateway.callers": "markupsafe",
    "gateway.rendezvous_pages": "markupsafe",
    "node.config": "yaml",
    "node.config_writer": "yaml",
    "machines.loading": "(computed)",  # the modules that node.yaml names
    "cli.tree": "typer",  # for lines that are not plain (`cli.plain`)
    "cli.help": "typer",
}
LAZY_VENDORS: dict[str, str] = {"cli.output": "rich yaml", "cli.screen": "rich", "node.run": "uvloop"}

# No clock, no randomness, no I/O.
PURE = """
    bench.latencies bench.schedule
    errors fastjson model text caller pki.identity state *.machine *.records *.checks *.api
    audit.chain audit.lines audit.what
    authorities.ends console.guard console.history console.view
    doctor.cluster doctor.facts doctor.findings doctor.redaction members.warnings
    node.config_keys kv.changes kv.holdings kv.sealing machines.code machines.language machines.names
    members.disk_space members.duties members.granted members.levels members.presence
    tokens.issuer replicated.clock replicated.history replicated.levels replicated.command replicated.requests
    raft.absences raft.batch raft.calls raft.clock raft.dialling raft.disks raft.elections
    raft.following raft.forwarding
    raft.handover raft.links raft.machine raft.membership raft.messages raft.peers raft.progress
    raft.proposals raft.reads raft.refusals raft.replication raft.settings raft.status
    raft.vantage raft.verdicts raft.witnesses control.table web.encoding web.schema
    gateway.forms gateway.settings metrics.counts metrics.families metrics.reading metrics.text raft.tally
    routing.haproxy routing.hrw routing.nginx routing.table web.steps web.strangers
"""
# On the path of every command: SLOW modules, and ours below, inside functions only.
QUICK = """
    paths process cli.* *.client control.batch control.blocking control.calls control.endpoints
    control.tls_endpoints control.http1 control.table
    web.encoding web.schema web.steps *.api
    routing.hrw routing.table routing.haproxy routing.nginx routing.publish
"""
QUICK_OURS = (
    "errors model text caller paths process members.warnings *.client control.batch control.blocking "
    "control.calls control.endpoints control.http1 control.table web.encoding web.schema web.steps *.api "
    "cli.*"
)

# Faces: what others import of a package is in its __init__; nobody imports the modules behind it.
FACES: dict[str, str] = {"raft": "sim.*"}  # the simulation takes the place of raft's asyncio half

# Private names of others that a module may use all the same, each with its reason.
PRIVATE: dict[str, str] = {
    "console.view": "_fields",  # of a NamedTuple, as below
    "audit.lines": "_replace",
    "control.connection": "_replace",
    "credentials.operations": "_replace",
    "kv.changes": "_replace",
    "kv.machine": "_replace",
    "kv.records": "_replace",
    "members.machine": "_asdict",  # public in fact: what a NamedTuple documents begins with an underscore
    "node.upkeep": "_asdict",
    "pki.tls": "_SSLMethod",  # the type stubs of the standard library have no public name for it
    "raft.vendor": "_onTick",  # the vendor's method that ours overrides
}

# What is longer says in its docstring that it is, and why ("More than 700 lines, because ...").
FILE_LINES, FUNCTION_LINES = 700, 60

# Tests that stand for no single module, each with its reason.
WITHOUT_MODULE: dict[str, str] = {
    "test_layout.py": "the whole package",
    "replicated/test_every_machine.py": "one set of tests for the machines of all subjects",
    "rendezvous/test_machine_over_time.py": "time and restores; the rules are in test_machine.py",
    "replicated/test_old_snapshots.py": "what release 0.1.0 wrote, beside the rules in test_state.py",
    "tokens/test_hostile_tokens.py": "what an attacker does to a token, beside the rules in test_format.py",
}


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
        module == pattern.removesuffix(".*")
        or (pattern.endswith(".*") and module.startswith(pattern[:-1]))
        or (pattern.startswith("*.") and module.endswith(pattern[1:]))
        for pattern in patterns.split()
    )


def looked_up(table: dict[str, str], module: str) -> str:
    """The values of every pattern that names the module."""
    return " ".join(value for pattern, value in table.items() if covers(pattern, module))


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
    """Violations in a module's source, one sentence each."""
    home = module.partition(".")[0]
    if home not in ORDER:
        return [f"{module}: {home} has no place in ORDER; decide what it may stand on"] if module else []
    found: list[str] = []
    pure, quick = covers(PURE, module), covers(QUICK, module)

    def report(line: int, text: str) -> None:
        found.append(f"{module}:{line}: {text}")

    for item in imports_of(source, module, is_package, known):
        top = item.module.partition(".")[0]
        if top == PACKAGE:
            ours = item.module.removeprefix(PACKAGE).removeprefix(".")
            theirs = ours.partition(".")[0]
            if ours == "":  # the root holds the version and nothing else
                continue
            if theirs not in ORDER:
                report(item.line, f"imports {item.module}, which has no place in ORDER")
            elif ORDER.index(theirs) > ORDER.index(home):
                report(item.line, f"imports {item.module}: upward")
            elif theirs != home and theirs in FACES and ours != theirs and not covers(FACES[theirs], module):
                report(item.line, f"imports {item.module} past the face of {theirs}")
            elif quick and not item.lazy and theirs != home and not covers(QUICK_OURS, ours):
                report(item.line, f"imports {item.module} outside a function: every command pays for it")
        elif top in NOWHERE:
            report(item.line, f"imports {item.module}, which nothing may")
        elif top in sys.stdlib_module_names or top == "__future__":
            if pure and top in IMPURE:
                report(item.line, f"imports {item.module}, but is pure")
            if quick and not item.lazy and (item.module in SLOW or top in SLOW):
                report(item.line, f"imports {item.module} outside a function: every command pays for it")
        elif not (
            covers(looked_up(VENDORS, module), top)
            or (item.lazy and covers(looked_up(LAZY_VENDORS, module), top))
        ):
            report(item.line, f"imports {item.module}" + ("" if item.lazy else " outside a function"))
    if pure:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and node.attr in CLOCK_CALLS:
                report(node.lineno, f"reads a clock ({ast.unparse(node)}), but is pure")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
                report(node.lineno, "opens a file, but is pure")
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(source: str) -> list[tuple[int, str]]:
    """Line and name of every private attribute that a module uses and does not define.

    ``self._x`` and ``cls._x`` are its own.  A name that a module defines is its own on every object: one
    class may know another beside it.
    """
    own: set[str] = set()
    used: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute):
            mine = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if mine and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif not mine and _is_private(node.attr):
                used.append((node.lineno, node.attr))
    return [(line, name) for line, name in used if name not in own]


@pytest.mark.parametrize("module", sorted(modules()), ids=lambda name: name or PACKAGE)
def test_module_uses_no_private_name_of_another(module: str) -> None:
    found = private_names(modules()[module].read_text(encoding="utf-8"))
    excused = PRIVATE.get(module, "").split()
    assert [f"{module}:{line}: {name}" for line, name in found if name not in excused] == []
    assert {name for _, name in found} == set(excused), "an excuse that nothing needs"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("node.replica._engine.term()", ["_engine"]),
        ("class A(Journal):\n def f(self):\n  super()._commit()", ["_commit"]),
        ("replica._saving = True", ["_saving"]),
        ("class A:\n def __init__(self):\n  self._x = 1\n def f(self, other):\n  return other._x", []),
        ("class A:\n _x: int\ndef f(a):\n return a._x", []),
        ("self._x.__dict__", []),
    ],
)
def test_checker_finds_private_names(source: str, expected: list[str]) -> None:
    assert [name for _, name in private_names(source)] == expected


@pytest.mark.parametrize("module", sorted(modules()), ids=lambda name: name or PACKAGE)
def test_module_imports_only_what_the_rules_allow(module: str) -> None:
    path = modules()[module]
    source = path.read_text(encoding="utf-8")
    is_package = path.name == "__init__.py"
    assert violations(source, module, is_package=is_package, known=set(modules())) == []


def test_folders_import_each_other_in_no_circle() -> None:
    """Lazy imports and those for types count: a circle of knowledge is one too."""
    known = set(modules())
    homes: dict[str, set[str]] = {}
    for module, path in modules().items():
        for item in imports_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py", known):
            theirs = item.module.removeprefix(f"{PACKAGE}.").partition(".")[0]
            if item.module.startswith(f"{PACKAGE}.") and theirs != module.partition(".")[0]:
                homes.setdefault(module.partition(".")[0], set()).add(theirs)
    assert len(list(TopologicalSorter(homes).static_order())) >= len(homes)


def test_modules_import_each_other_in_no_circle() -> None:
    """The same within a folder; no module imports its own face."""
    known = set(modules())
    graph: dict[str, set[str]] = {}
    for module, path in modules().items():
        for item in imports_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py", known):
            theirs = item.module.removeprefix(f"{PACKAGE}.")
            if module and theirs in known:
                graph.setdefault(module, set()).add(theirs)
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def test_every_rule_is_for_a_module_that_is_there() -> None:
    present = {name for name in modules() if name}
    patterns = [*ORDER, *VENDORS, *LAZY_VENDORS, *PURE.split(), *QUICK.split(), *FACES, *PRIVATE]
    assert [pattern for pattern in patterns if not any(covers(pattern, name) for name in present)] == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("errors", "from cyoloctl.model import parse_name", "upward"),
        ("errors", "def f():\n from .model import parse_name", "upward"),
        ("model", "import time", "pure"),
        ("model", "from datetime import datetime\nx = datetime.now()", "reads a clock"),
        ("counters.machine", "from cyoloctl import state", "upward"),
        ("counters.machine", "from cyoloctl.node import service", "upward"),
        ("counters.machine", "import os.path", "pure"),
        ("counters.machine", "print(open('x'))", "opens a file"),
        ("control.table", "from random import random", "pure"),
        ("raft.ticker", "from ..counters import machine", "upward"),
        ("raft.ticker", "import pickle", "nothing may"),
        ("raft.ticker", "import pysyncobj.node", "imports pysyncobj.node"),
        ("node.run", "from cyoloctl.raft.journal import Journal", "past the face of raft"),
        ("control.server", "from cyoloctl.node.run import run", "upward"),
        ("control.server", "import typer", "imports typer"),
        ("cli.counter", "import typer", "imports typer"),
        ("control.client", "import ssl", "every command pays"),
        ("control.client", "if TYPE_CHECKING:\n pass\nelse:\n import ssl", "every command pays"),
        ("control.client", "def f():\n import httptools", "imports httptools"),
        ("node.config", "import rich", "imports rich"),
        ("node.run", "import pysyncobj", "imports pysyncobj"),
        ("node.run", "from cyoloctl.cli import main", "upward"),
        ("node.run", "if TYPE_CHECKING:\n from cyoloctl.cli.output import x", "upward"),
        ("cli.counter", "from cyoloctl.node.run import run", "outside a function"),
        ("cli.counter", "def f():\n import rich", "imports rich"),
        ("cli.counter", "import click", "nothing may"),
        ("cli.output", "import rich.table", "imports rich.table outside a function"),
        ("cli.output", "import importlib\nimportlib.import_module('pysyncobj')", "imports pysyncobj"),
        ("cli.output", "def f(x):\n return __import__(x)", "(computed)"),
        ("surprise", "", "no place in ORDER"),
    ],
)
def test_checker_with_a_forbidden_import_complains(module: str, source: str, complaint: str) -> None:
    found = violations(source, module, is_package=False, known=set(modules()))
    assert [complaint in text for text in found] == [True], found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model", "from cyoloctl.errors import InvalidInput\nimport re, json"),
        ("counters.machine", "from ..members import machine\nfrom datetime import UTC, datetime"),
        (
            "raft.vendor",
            "import sqlite3, asyncio, os\nfrom pysyncobj import SyncObj\nfrom ..errors import X",
        ),
        (
            "cli.tree",
            "import typer\nfrom .output import show\ndef f():\n from cyoloctl.node.run import run",
        ),
        ("cli.output", "def f():\n from rich.table import Table"),
        ("control.client", "def f():\n import ssl"),
        ("control.client", "if TYPE_CHECKING:\n import ssl"),
        ("node.run", "from cyoloctl import __version__, raft, gateway"),
        ("sim.world", "from cyoloctl.raft.journal import Journal"),
    ],
)
def test_checker_with_allowed_imports_is_silent(module: str, source: str) -> None:
    assert violations(source, module, is_package=False, known=set(modules())) == []


def test_checker_resolves_relative_imports_of_a_package() -> None:
    found = violations("from ..node import x", "raft", is_package=True, known={"raft", "node"})
    assert found == ["raft:1: imports cyoloctl.node: upward"]


def test_tests_stand_where_their_modules_stand() -> None:
    unit = Path(__file__).parent
    found = {str(path.relative_to(unit)) for path in unit.rglob("test_*.py")}
    homeless = {
        name
        for name in found
        if not (ROOT / Path(name).with_name(Path(name).name.removeprefix("test_"))).is_file()
    }
    assert homeless == set(WITHOUT_MODULE)


def too_long(source: str) -> list[str]:
    """Parts of a source that are too long without a reason, or give a reason and are not."""

    def wrong(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef, lines: int, limit: int) -> bool:
        said = " ".join((ast.get_docstring(node) or "").split()).lower()
        return (lines > limit) != (f"more than {limit} lines" in said)

    tree = ast.parse(source)
    found = [f"the file, {lines} lines"] if wrong(tree, lines := source.count("\n"), FILE_LINES) else []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if wrong(node, lines, FUNCTION_LINES):
                found.append(f"{node.name}, {lines} lines")
    return found


@pytest.mark.parametrize("folder", [PACKAGE, "tests", "tools", "benchmarks"])
def test_long_files_and_functions_say_why_they_are(folder: str) -> None:
    root = ROOT.parent
    found = {
        str(path.relative_to(root)): wrong
        for path in sorted((root / folder).rglob("*.py"))
        if (wrong := too_long(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""It is more than\n700 lines: one table."""\n' + "x = 1\n" * 700, []),
        ('"""One table."""\n' + "x = 1\n" * 700, ["the file, 701 lines"]),
        ('"""More than 700 lines, because."""\n', ["the file, 1 lines"]),
        ("def f():\n" + " x = 1\n" * 59, []),
        ("async def f():\n" + " x = 1\n" * 60, ["f, 61 lines"]),
        ('def f():\n """More than 60 lines, because."""\n' + " x = 1\n" * 60, []),
    ],
)
def test_checker_finds_what_is_long_and_does_not_say_why(source: str, expected: list[str]) -> None:
    assert too_long(source) == expected


def test_cli_when_imported_loads_nothing_slow() -> None:
    slow = [
        "asyncio",
        "cryptography",
        "pysyncobj",
        "rich",
        "ssl",
        "yaml",
        "cyoloctl.node.run",
        "cyoloctl.raft",
        "cyoloctl.sim",
    ]
    program = (
        f"import sys; from cyoloctl.cli import main; print([name for name in {slow} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
