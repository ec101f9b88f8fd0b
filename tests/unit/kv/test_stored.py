"""Keys, values and changes in snapshots: what no machine holds is refused."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest

from cyoloctl.kv.machine import KEY_OVERHEAD_BYTES, KvLimits, KvMachine
from cyoloctl.text import Json, canonical_json
from tests.support.states import exported, prepared

LIMITS = KvLimits(quota=2 * (KEY_OVERHEAD_BYTES + 1 + 10), changes=16)


def held(*keys: str) -> Json:
    """What a snapshot holds after these were put, one after another, at the revisions 1 and so on."""
    machine = KvMachine(limits=LIMITS)
    value = b64encode(bytes(10)).decode()
    for index, key in enumerate(keys, 1):
        given = {"key": key, "value": value, "if_revision": None, "ttl_ms": None, "fence": None}
        machine.apply("put", given, index, 0)
    return exported(machine)


def restored(state: Json, limits: KvLimits = LIMITS) -> Json:
    machine = KvMachine(limits=limits)
    prepared(machine, state)()
    return exported(machine)


def test_snapshot_of_more_than_there_can_be_is_refused() -> None:
    state = held(*"abababab")
    assert canonical_json(restored(state)) == canonical_json(state)
    for smaller in (replace(LIMITS, quota=LIMITS.quota - 1), replace(LIMITS, changes=7)):
        with pytest.raises(ValueError, match="more keys, values or changes than there can be"):
            restored(state, smaller)


def test_snapshot_with_changes_out_of_order_is_refused() -> None:
    state = held("a", "b")
    state["tables"]["changes"].reverse()
    with pytest.raises(ValueError, match="the changes are out of order"):
        restored(state)


def test_snapshot_with_a_change_that_replaced_a_later_value_is_refused() -> None:
    """Each change fits what is there, but a value cannot have been replaced before it was written."""
    state = held("a", "a")
    (_, _, _, nothing), (revision, _, _, previous) = state["tables"]["changes"]
    assert (nothing, revision, previous[1]) == (None, 2, 1)
    state["state"]["first_revision"] = 2
    del state["tables"]["changes"][0]
    assert canonical_json(restored(state)) == canonical_json(state)
    previous[1] = 2
    with pytest.raises(ValueError, match="older than what it replaced"):
        restored(state)
