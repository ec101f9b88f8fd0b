"""Finding the code of machines: the classes that node.yaml names and packages register, and its digest.

The digest is over the source of the class's module and of every module that it
imports from the same package, or from the directory ``machines`` of the data
directory.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path

from cyoloctl.errors import ConfigError
from cyoloctl.machines.code import Code, NotAMachine, code_of

__all__ = ["DIRECTORY", "GROUP", "imported_by", "load", "load_machines", "sources_of"]

MAX_CODES = 128
DIRECTORY = "machines"
"""In the data directory, for modules of machines that are in no installed package."""
GROUP = "cyoloctl.machines"
"""The entry points by which installed packages register theirs."""


def load_machines(targets: Iterable[str], data_dir: Path) -> tuple[Code, ...]:
    """What a node runs: the classes that it names, and those of installed packages.

    Imports their modules.  Raises ConfigError.
    """
    directory = data_dir / DIRECTORY
    if directory.is_dir():
        _look_in(directory)
    wanted = dict.fromkeys((*targets, *sorted(point.value for point in entry_points(group=GROUP))))
    found: dict[tuple[str, int], tuple[str, Code]] = {}
    for target in wanted:
        code = load(target)
        other = found.setdefault((code.name, code.version), (target, code))
        if other[1] is not code:
            raise ConfigError(
                f"{other[0]} and {target} are both version {code.version} of machine {code.name}: raise "
                "VERSION in the newer one, or remove one of them from machines in node.yaml"
            )
    if len(found) > MAX_CODES:
        raise ConfigError(f"there are {len(found)} classes of machines: a node has at most {MAX_CODES}")
    return tuple(code for _, code in found.values())


def _look_in(directory: Path) -> None:
    """Import from here too.  Last: a file there does not stand in for a module of Python's."""
    path = str(directory.resolve())
    if path not in sys.path:
        sys.path.append(path)


def load(target: str) -> Code:
    """The code of MODULE:CLASS.  Imports the module.  Raises ConfigError."""
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"the machine {target} cannot be imported ({type(error).__name__}: {error}): install its "
            f"package, or put its file into the directory {DIRECTORY} of the data directory"
        ) from error
    try:
        return code_of(getattr(module, class_name, None), digest_of(module_name))
    except NotAMachine as error:
        raise ConfigError(f"{target} is no machine: {error}") from None


def digest_of(module: str) -> str:
    """The digest of a module's code, in hex.  Raises NotAMachine where there is no source."""
    sources = {name: sha256(source).hexdigest() for name, (_, source) in sources_of(module).items()}
    return sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()


def sources_of(module: str) -> Mapping[str, tuple[Path, bytes]]:
    """File and source of a module and of what it imports of its own, by name.  Raises NotAMachine."""
    found: dict[str, tuple[Path, bytes]] = {}
    todo, home = [module], None
    while todo:
        name = todo.pop()
        path = _source_file(name)
        if name in found or path is None:
            continue
        top = name.partition(".")[0]
        root = path.parents[name.count(".") + (path.name == "__init__.py")]
        home = home or (top, root)
        if top != home[0] and (root != home[1] or root.name != DIRECTORY):
            continue
        source = path.read_bytes().replace(b"\r\n", b"\n")
        found[name] = path, source
        parts = name.split(".")
        todo += [
            ".".join(parts[:end]) for end in range(1, len(parts))
        ]  # the packages that it is in run first
        todo += imported_by(source, name, is_package=path.name == "__init__.py")
    if not found:
        raise NotAMachine(f"module {module} has no source file: its code has to be the same on every node")
    return found


def _source_file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None  # `from package import name`, where the name is no module
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def imported_by(source: bytes, module: str, *, is_package: bool) -> list[str]:
    """The names of modules that a module may import, and of some that are none."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            up = node.level - is_package
            base = ".".join(parts[: len(parts) - up]) if node.level else ""
            begin = ".".join(part for part in (base, node.module or "") if part)
            names += [begin, *(f"{begin}.{each.name}" for each in node.names)]
    return [name for name in names if name]
