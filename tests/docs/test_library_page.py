"""docs/library.md: its programs run, are typed, and its table has every method."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cyoloctl import Client
from cyoloctl.web.steps import Group, iteration, operation
from tests.docs.reading import ROOT, blocks, pages
from tests.support.cluster import Cluster, environment, free_port, run

PAGE = "docs/library.md"
PROGRAMS = [block for block in blocks(PAGE) if block.info == "python"]


@pytest.mark.cluster
@pytest.mark.slow
def test_programs_of_the_page_work_as_they_stand(tmp_path: Path) -> None:
    new = tmp_path / "new"
    address = f"127.0.0.1:{free_port()}"
    made = run("cluster", "init", "-d", new, "--name", "new", "--listen", address)
    assert made.returncode == 0, made.stderr
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        env = environment(
            CYOLOCTL_DATA_DIR=str(node.directory),
            NEW_NODE=str(new),
            PYTHONPATH=str(ROOT),
            PYTHONWARNINGS="error",
        )
        for program in PROGRAMS:
            ran = subprocess.run(
                [sys.executable, "-c", program.text],
                cwd=tmp_path,
                env=env,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert (ran.returncode, ran.stderr) == (0, ""), f"{PAGE}:{program.line}: {ran.stderr}"
        client = node.client()
        assert client.counters.get("orders")["value"] == 1
        assert client.counters.get("visits")["value"] == 10
        assert [each["key"] for each in client.kv.list("report/")["entries"]] == [
            f"report/{n}" for n in range(3)
        ]


@pytest.mark.slow
def test_programs_of_the_page_and_their_mistakes_are_seen_by_a_type_checker(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    for number, program in enumerate(PROGRAMS):
        (tmp_path / f"program{number}.py").write_text(program.text, encoding="utf-8")
    (tmp_path / "mistakes.py").write_text(
        """from cyoloctl import AsyncClient, Client

Client().counters.incr("c", by="1")
Client().kv.get("k")["value"].encode()
Client().counters.incr("c")["valve"]


async def main() -> None:
    AsyncClient().counters.incr("c")
    async with Client().locks.acquire("l"):
        pass
""",
        encoding="utf-8",
    )
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--no-error-summary"),
            *("--config-file", "", "--python-executable", sys.executable),
            *sorted(path.name for path in tmp_path.iterdir()),
        ],
        cwd=tmp_path,
        env=environment(MYPYPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    found = {
        tuple(re.findall(r"^(\w+)\.py:(\d+): error", line)[0])
        for line in ran.stdout.splitlines()
        if ": error" in line
    }
    assert found == {("mistakes", str(line)) for line in (3, 4, 5, 9, 10)}, ran.stdout + ran.stderr


def test_table_of_the_page_has_every_method() -> None:
    client = Client(["unix:///nowhere"])
    table = pages()[PAGE].partition("## What there is")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)
    shown = {name: set(re.findall(r"`(\w+)", methods)) for name, methods in rows}
    assert shown.keys() == {
        name for name, each in vars(type(client).__mro__[1]).items() if isinstance(each, property)
    } - {"caller"}
    for name, methods in shown.items():
        group = type(getattr(client, name))
        assert issubclass(group, Group)
        there = {
            each
            for each, what in vars(group).items()
            if not each.startswith("_") and (isinstance(what, operation | iteration) or callable(what))
        }
        assert methods == there, name
