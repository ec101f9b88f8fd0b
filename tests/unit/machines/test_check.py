"""What `machine check` finds."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from cyoloctl.machines.check import check, environment_of_runs
from cyoloctl.text import Json

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "machines"

MACHINE = """
from cyoloctl import StateMachine, operation, query
{top}

class Made(StateMachine):
    NAME = "made"

    @operation
    def put(self, table, key: str) -> object:
        {put}

    @query
    def ask(self, table) -> object:
        {ask}
"""


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(tmp_path))

    def found(name: str, put: str = "return 1", ask: str = "return 1", top: str = "") -> Json:
        (tmp_path / f"{name}.py").write_text(MACHINE.format(top=top, put=put, ask=ask))
        return check(f"{name}:Made", range(2))

    return found


@pytest.mark.parametrize(
    ("name", "code", "kind", "words"),
    [
        ("c_clock", {"top": "import time", "put": "return int(time.time_ns())"}, "import", "imports time"),
        ("c_open", {"put": "return open('/dev/null').read()"}, "call", "calls open()"),
        ("c_hash", {"put": "return hash(key) % 1000"}, "differs", "hash seed 1"),
        ("c_set", {"put": "return list({'a', 'b', 'c', key + 'd'})"}, "differs", "hash seed 1"),
        (
            "c_seen",
            {"top": "SEEN = []", "put": "SEEN.append(key); return len(SEEN)"},
            "differs",
            "carried out again",
        ),
        ("c_raise", {"put": "return {}[key]"}, "raises", "KeyError"),
        ("c_float", {"put": "return 0.5"}, "raises", "is not JSON"),
        ("c_ask", {"ask": "return 1 / 0"}, "raises", "ZeroDivisionError"),
        ("c_global", {"top": "N = 0", "put": "global N; N = 1; return N"}, "global", "outside the method"),
    ],
)
def test_what_makes_nodes_differ_or_fails_is_a_problem(
    look: object, name: str, code: dict[str, str], kind: str, words: str
) -> None:
    found = look(name, **code)  # type: ignore[operator]  # the function of the fixture
    assert [each for each in found["problems"] if each["kind"] == kind and words in each["message"]], found


def test_other_pythons_are_given_the_package_and_not_the_library_of_this_one() -> None:
    paths = environment_of_runs(1)["PYTHONPATH"].split(":")
    assert paths[0] == str(EXAMPLES.parents[1])
    assert sysconfig.get_path("stdlib") not in paths
    assert not [path for path in paths if path.endswith((".zip", "lib-dynload"))]


def test_operation_without_end_is_a_problem_and_the_check_ends(look: object) -> None:
    found = look("c_endless", put="\n        while key: pass")  # type: ignore[operator]  # as above
    assert "endless" in {each["kind"] for each in found["problems"]}


@pytest.mark.parametrize("target", ["hits:Hits", "addresses:Addresses", "audit_trail:AuditTrail"])
def test_examples_have_no_problem_and_are_short(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    found = check(target, range(3))
    assert (found["problems"], found["warnings"]) == ([], [])
    assert found["operations"] >= 900
    assert len((EXAMPLES / f"{target.partition(':')[0]}.py").read_text().splitlines()) < 80
    assert {run["hash_seed"] for run in found["runs"]} == {0, 1}
    assert found["runs"][0]["python"] == sys.version.partition(" ")[0]
