"""Sealed values in simulated clusters: they read as they were put, and nobody's disk tells them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cyoloctl.keys.machine import KeyMachine
from cyoloctl.kv import machine, sealing, values
from cyoloctl.kv.changes import Changes
from cyoloctl.kv.machine import KvMachine
from cyoloctl.kv.records import Place
from cyoloctl.sim import run_seed
from cyoloctl.sim.sealers import Sealers
from cyoloctl.text import Json

pytestmark = [pytest.mark.fault, pytest.mark.slow]

Plant = Callable[[pytest.MonkeyPatch], None]


def sealing_seeds(seeds: range) -> list[int]:
    """The seeds of these in which values are sealed."""
    return [seed for seed in seeds if Sealers.of(seed) is not None]


def test_simulation_sealed_values_outlive_rotations_and_their_keys_do_not_go_before_them() -> None:
    counts: Counter[str] = Counter()
    for seed in sealing_seeds(range(3200, 3260)):
        report = run_seed(seed)
        assert report.violation is None, report.violation
        counts.update(report.counts)
        counts.update(report.applied)
    for what in (
        *("kv.put_sealed", "kv.put_clear", "kv.txn_sealed", "kv.reseal"),
        *("kv.put_sealed refused", "kv.put_clear refused", "kv.txn_sealed refused", "kv.put refused"),
        *("keys.rotate", "keys.destroy", "keys.destroy refused", "snapshot installed"),
        "sealed otherwise",
    ):
        assert counts[what] > 0, what


def reseal_loses_a_row(patch: pytest.MonkeyPatch) -> None:
    """A value that is sealed again is not put back."""
    reseal = KvMachine._reseal

    def wrong(self: KvMachine, given: Json, index: int, now_unix_ms: int) -> Json:
        answer = reseal(self, given, index, now_unix_ms)
        for key, revision in given["values"]:
            entry = self._entries.get(key)
            if entry is not None and entry.revision == revision:
                self._entries.pop(key)
        return answer

    _operation(patch, "reseal", wrong)


def reseal_forgets_what_was(patch: pytest.MonkeyPatch) -> None:
    """Values of earlier revisions stay under the key that goes."""
    patch.setattr(Changes, "reseal", lambda self, blobs: None)


def reseal_goes_by_the_name_alone(patch: pytest.MonkeyPatch) -> None:
    """What was sealed again replaces what somebody wrote meanwhile."""
    at = KvMachine._at

    def wrong(self: KvMachine, places: Mapping[Place, bytes]) -> Any:
        found = at(self, places)
        for key, revision in places:
            entry = self._entries.get(key)
            if entry is not None and entry.sealed:
                found[key, revision] = entry
                self._entries.set(key, entry._replace(value=places[key, revision]))
        return found

    reseal = KvMachine._reseal

    def resealed(self: KvMachine, given: Json, index: int, now_unix_ms: int) -> Json:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(KvMachine, "_at", wrong)
            return reseal(self, given, index, now_unix_ms)

    _operation(patch, "reseal", resealed)


def key_goes_before_its_values(patch: pytest.MonkeyPatch) -> None:
    """A key is destroyed that values are under."""
    patch.setattr(KeyMachine, "_refuse_needed", lambda self, record: None)


def value_is_not_sealed(patch: pytest.MonkeyPatch) -> None:
    """What looks like a sealed value holds the value itself."""

    class Clear:
        def encrypt(self, nonce: bytes, value: bytes, associated: bytes) -> bytes:
            return value + bytes(16)

        def decrypt(self, nonce: bytes, blob: bytes, associated: bytes) -> bytes:
            return blob[:-16]

    cipher = sealing._cipher

    def wrong(*given: Any) -> Any:
        _, nonce, associated = cipher(*given)
        return Clear(), nonce, associated

    patch.setattr(sealing, "_cipher", wrong)


def digest_is_the_value(patch: pytest.MonkeyPatch) -> None:
    """What tells two values apart tells what they are."""
    patch.setattr(values, "digest", lambda key, name, request_id, value: f"{value[:16].hex():0<32}")


def secret_is_replaced_in_clear(patch: pytest.MonkeyPatch) -> None:
    """Whoever forgets an option puts in clear what was sealed."""
    patch.setattr(KvMachine, "_refuse_clear", lambda self, steps, now_unix_ms: None)


def _operation(patch: pytest.MonkeyPatch, name: str, function: Any) -> None:
    operations: Any = machine._OPERATIONS
    patch.setitem(operations, name, (operations[name][0], function))


PLANTED: list[tuple[Plant, range, str]] = [
    (reseal_loses_a_row, range(3200, 3230), "sealed"),
    (reseal_forgets_what_was, range(3228, 3260), "sealed"),
    (reseal_goes_by_the_name_alone, range(3200, 3230), "sealed"),
    (key_goes_before_its_values, range(3200, 3230), "sealed"),
    (value_is_not_sealed, range(3200, 3210), "sealed"),
    (digest_is_the_value, range(3200, 3210), "sealed"),
    (secret_is_replaced_in_clear, range(3200, 3230), "exactly once"),
]


@pytest.mark.parametrize(("plant", "seeds", "kind"), PLANTED, ids=[plant.__name__ for plant, *_ in PLANTED])
def test_simulation_finds_a_planted_fault_of_sealed_values(
    plant: Plant, seeds: range, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = [run_seed(seed).violation for seed in sealing_seeds(seeds)]
    assert {each.kind for each in found if each is not None} == {kind}
