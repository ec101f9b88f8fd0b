"""Random operations of sealed values."""

from __future__ import annotations

import random

from cyoloctl.replicated.command import decode_command, encode_command
from cyoloctl.sim.scene import Scene
from cyoloctl.sim.sealed_operations import SEALED, draw_sealed, sealed_again
from cyoloctl.sim.sealers import Sealers
from cyoloctl.state import ClusterState


def scene(sealers: Sealers | None) -> Scene:
    return Scene(random.Random(2), "n1", ClusterState(), 10**12, far=False, nodes=(), sealers=sealers)


def test_nothing_is_drawn_where_nobody_seals_and_keys_come_first_where_somebody_does() -> None:
    assert {draw_sealed(scene(None)) for _ in range(20)} == {None}
    sealers = Sealers(random.Random(3))
    drawn = [step for step in (draw_sealed(scene(sealers)) for _ in range(60)) if step is not None]
    assert 20 < len(drawn) < 50
    assert {machine for machine, _, _ in drawn} == {"keys"}


def test_whoever_repeats_a_request_seals_the_same_value_otherwise() -> None:
    sealers = Sealers(random.Random(4))
    given = SEALED["put_sealed"](scene(sealers))
    command = encode_command("kv", "put_sealed", given, request_id="r", kind="browser", caller="c")
    again = sealed_again(sealers, command)
    assert again is not None
    first, second = decode_command(command), decode_command(again)
    assert first.arguments["blob"] != second.arguments["blob"]
    assert sealers.said[first.arguments["blob"]] == sealers.said[second.arguments["blob"]]
    assert first.arguments["digest"] == second.arguments["digest"]
    assert (second.request_id, second.kind, second.caller) == ("r", "browser", "c")
    other = encode_command("counter", "add", {"name": "k", "by": 1}, request_id="r", kind="client")
    assert sealed_again(sealers, other) == other
    assert sealed_again(None, command) == command
