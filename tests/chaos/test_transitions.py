"""What is made of the kills in the middle of transitions."""

from __future__ import annotations

from tests.chaos.history import Record
from tests.chaos.transitions import Killed, went_on


def write(end_s: float, *, by: int = 1, outcome: str = "ok") -> Record:
    return Record("c", "k", by, "id", end_s - 0.1, end_s, outcome)  # type: ignore[arg-type]


def test_seconds_until_writes_went_on_are_the_longest_silence_after_a_kill() -> None:
    records = [write(end_s) for end_s in (9.9, 10.2, 10.4, 12.9, 13.0, 19.9, 20.3, 22.0)]
    records += [write(11.0, by=0), write(11.5, outcome="refused")]  # neither is an acknowledged write
    killed = [Killed("demote", "n1", 10.0, 15.0), Killed("demote", "n2", 20.0, 21.0)]

    assert went_on(killed, records, lambda start_s, end_s: True) == {
        "demote": {
            "kills": 2,
            "longest_s": 5.0,
            "alone": 2,
            "writes_went_on_s": {"median": 2.1, "worst": 2.5},
        }
    }


def test_kills_beside_another_fault_say_nothing_of_the_seconds() -> None:
    killed = [Killed("remove", "n1", 10.0, 11.0)]

    found = went_on(killed, [write(10.5)], lambda start_s, end_s: not start_s <= 10.0 <= end_s)

    assert (found["remove"]["kills"], found["remove"]["alone"]) == (1, 0)
    assert found["remove"]["writes_went_on_s"] is None
