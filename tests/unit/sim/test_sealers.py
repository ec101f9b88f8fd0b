"""Who seals values in simulated clusters."""

from __future__ import annotations

import random

from cyoloctl.kv.sealing import open_value
from cyoloctl.sim.sealers import MARKER, Sealers
from cyoloctl.state import ClusterState
from cyoloctl.text import decode_base64


def test_runs_with_sealed_values_are_some_and_always_the_same_ones() -> None:
    drawn = [seed for seed in range(120) if Sealers.of(seed) is not None]
    assert 30 < len(drawn) < 70
    assert drawn == [seed for seed in range(120) if Sealers.of(seed) is not None]


def test_sealed_value_says_what_is_remembered_of_it_and_nothing_in_clear() -> None:
    sealers = Sealers(random.Random(1))
    blob, _ = sealers.seal(ClusterState().keys, "a")
    key, clear = sealers.said[blob]
    assert open_value(key, "a", decode_base64(blob)) == clear.value
    assert clear.value.startswith(MARKER)
    assert MARKER not in decode_base64(blob)
