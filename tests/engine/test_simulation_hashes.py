"""The committed logs of simulated runs, applied by processes that hash strings otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.sim.replay import Recording
from cyoloctl.sim.run import record_seed

pytestmark = [pytest.mark.fault, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import json, sys
from cyoloctl.sim.replay import Recording, replay
from cyoloctl.counters.machine import CounterMachine
if sys.argv[2] == "planted":
    add = CounterMachine._add
    def careless(self, given, index, now_unix_ms):
        answer = add(self, given, index, now_unix_ms)
        return {**answer, "name": next(iter({given["name"], "another", "a third"}))}
    checks = CounterMachine()._operations["add"][0]
    import cyoloctl.counters.machine as module
    module._OPERATIONS = {**module._OPERATIONS, "add": (checks, careless)}
recording = Recording.from_json(sys.stdin.read())
print(json.dumps(list(replay(recording, restored=sys.argv[1] == "restored"))))
"""


def replayed(recording: Recording, hash_seed: str, *, restored: bool, planted: bool = False) -> list[Any]:
    """Index, digest of answers and digest of the state, as another process sees them."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", WORKER),
            *("restored" if restored else "whole", "planted" if planted else "as it is"),
        ],
        input=recording.to_json(),
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("seed", [3101, 3102, 3113])
def test_replicas_do_not_depend_on_how_strings_are_hashed(seed: int) -> None:
    recording = record_seed(seed)
    first = replayed(recording, "1", restored=False)
    assert len(first) > 50
    answers = {index: answered for index, answered, _ in first}
    assert {index: answers[index] for index in recording.answers} == recording.answers
    assert replayed(recording, "2", restored=True) == first


def test_a_machine_that_walks_a_set_of_strings_is_found() -> None:
    recording = record_seed(3101)
    found = [replayed(recording, seed, restored=False, planted=True) for seed in ("1", "2", "3")]
    assert found[0] != found[1] or found[0] != found[2]
