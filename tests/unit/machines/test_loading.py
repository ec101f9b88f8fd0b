"""Finding code, and its digest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyoloctl.errors import ConfigError
from cyoloctl.machines.loading import load, load_machines

SOURCE = """
from cyoloctl import StateMachine, operation
from helper_of_it import HELP

class Hits(StateMachine):
    NAME = "hits"
    VERSION = 1

    @operation
    def add(self, table, page: str) -> int:
        return 1
"""


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """What a test imports, and where from, is forgotten after it."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    forget(modules)


def forget(but: set[str]) -> None:
    for name in set(sys.modules) - but:
        del sys.modules[name]
    sys.path_importer_cache.clear()


def directory(base: Path, helper: str = "HELP = 1\n", source: str = SOURCE) -> Path:
    (base / "machines").mkdir(parents=True)
    (base / "machines" / "hits_of_test.py").write_text(source)
    (base / "machines" / "helper_of_it.py").write_text(helper)
    return base


def digest(base: Path) -> str:
    modules, path = set(sys.modules), list(sys.path)
    (code,) = load_machines(["hits_of_test:Hits"], base)
    forget(modules)
    sys.path[:] = path
    return code.digest


def test_class_of_the_data_directory_is_loaded(tmp_path: Path) -> None:
    (code,) = load_machines(["hits_of_test:Hits"], directory(tmp_path))
    assert (code.name, code.version, list(code.operations)) == ("hits", 1, ["add"])


def test_digest_is_of_the_source_and_what_it_imports_beside_it_wherever_it_is(tmp_path: Path) -> None:
    one = digest(directory(tmp_path / "a"))
    assert one == digest(directory(tmp_path / "b"))
    assert one == digest(directory(tmp_path / "lines", source=SOURCE.replace("\n", "\r\n")))
    assert one != digest(directory(tmp_path / "c", helper="HELP = 2\n"))
    assert one != digest(directory(tmp_path / "d", source=SOURCE + "\n"))


def test_installed_package_registers_its_machine_by_entry_point(tmp_path: Path) -> None:
    directory(tmp_path)
    info = tmp_path / "machines" / "hits-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hits\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cyoloctl.machines]\nhits = hits_of_test:Hits\n")
    sys.path.append(str(tmp_path / "machines"))
    (code,) = load_machines([], tmp_path / "empty")
    assert code.name == "hits"
    assert load_machines(["hits_of_test:Hits"], tmp_path / "empty") == (code,)  # named twice, loaded once


def test_two_classes_of_one_version_are_refused(tmp_path: Path) -> None:
    base = directory(tmp_path)
    (base / "machines" / "other_of_test.py").write_text(SOURCE)
    with pytest.raises(ConfigError, match="both version 1 of machine hits"):
        load_machines(["hits_of_test:Hits", "other_of_test:Hits"], base)


def test_two_versions_of_a_machine_are_loaded_beside_each_other(tmp_path: Path) -> None:
    base = directory(tmp_path)
    (base / "machines" / "other_of_test.py").write_text(SOURCE.replace("VERSION = 1", "VERSION = 2"))
    found = load_machines(["hits_of_test:Hits", "other_of_test:Hits"], base)
    assert [code.version for code in found] == [1, 2]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("nothing_like_that:Hits", "cannot be imported .ModuleNotFoundError"),
        ("hits_of_test:Misses", "is no machine"),
        ("itertools:chain", "is no machine"),
    ],
)
def test_what_cannot_be_loaded_is_a_configuration_error(tmp_path: Path, target: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load_machines([target], directory(tmp_path))


def test_module_that_raises_is_a_configuration_error(tmp_path: Path) -> None:
    sys.path.append(str(directory(tmp_path, helper="HELP = 1 / 0\n") / "machines"))
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        load("hits_of_test:Hits")


def test_file_of_the_directory_stands_in_for_no_module_of_python(tmp_path: Path) -> None:
    base = directory(tmp_path)
    (base / "machines" / "colorsys.py").write_text("raise SystemExit\n")
    load_machines(["hits_of_test:Hits"], base)
    import colorsys

    assert not str(colorsys.__file__).startswith(str(base))
