"""The bundle on each other Python that this machine has: installed, and one node that writes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cyoloctl import __version__
from tests.packaging.conftest import THIS, Bundles, install, others, unpack
from tests.support.cluster import environment, free_port
from tools import bundle

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.mark.parametrize("version", sorted(set(bundle.PYTHONS) - {THIS}))
def test_bundle_installs_and_runs_a_node_on_another_python(
    version: str, bundles: Bundles, tmp_path: Path
) -> None:
    python = others().get(version)
    if python is None:
        pytest.skip(f"THE BUNDLE IS NOT TRIED ON PYTHON {version}: none is on the PATH or of pyenv")
    prefix, data = tmp_path / "prefix", tmp_path / "n1"
    done = install(unpack(bundles.archive, tmp_path), "--prefix", prefix, "--python", python)
    assert done.returncode == 0, done.stderr
    assert (prefix / __version__ / "lib" / f"python{version}").is_dir()

    def run(*arguments: object) -> str:
        said = subprocess.run(
            [prefix / "bin/cyoloctl", *map(str, arguments), "-d", data],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
            timeout=120,
        )
        assert said.returncode == 0, said.stderr
        return said.stdout

    run("cluster", "init", "--name", "n1", "--listen", f"127.0.0.1:{free_port()}")
    _with_node(run, lambda: run("counter", "incr", "--by", 42))
    assert _with_node(run, lambda: run("counter", "get")) == "42\n"  # from its disk


def _with_node(run: Callable[..., str], step: Callable[[], str]) -> str:
    try:
        run("node", "start", "--background")
        return step()
    finally:
        run("node", "stop")
