"""Random operations of sealed values, and of the keys that they are under.

The keys and values are those of `kv_operations`.  Everything is drawn from
`Scene.sealers`: where nobody seals, a run is as it was before there was any of it.
"""

from __future__ import annotations

from dataclasses import replace

from cyoloctl.kv.records import encode_value
from cyoloctl.kv.values import reseals
from cyoloctl.replicated.command import decode_command, encode_command
from cyoloctl.sim.key_operations import next_of_keys
from cyoloctl.sim.kv_operations import KV
from cyoloctl.sim.scene import Scene, Step
from cyoloctl.sim.sealers import Sealers, ring_of
from cyoloctl.text import Json

__all__ = ["SEALED", "draw_sealed", "sealed_again"]

_SHARE = 0.6
_OF_KEYS = ("keys", "keys", "keys", "destroy")
_STEPS = ("put_sealed",) * 4 + ("reseal",) * 4 + ("txn_sealed",) * 2 + ("put_clear", "put", "txn")
_RARE = ("delete", "delete_prefix", "keep", "expire")


def draw_sealed(scene: Scene) -> Step | None:
    """The operation on sealed values or their keys that is next; None: another machine's is."""
    sealers = scene.sealers
    if sealers is None or sealers.rng.random() >= _SHARE:
        return None
    rng, keys = sealers.rng, scene.state.keys
    mine = replace(scene, rng=rng, keepers=rng)
    what = rng.choice((*_OF_KEYS, *_STEPS, rng.choice(_RARE)))
    if keys.primary() is None or what == "keys":
        return next_of_keys(mine)
    if what == "destroy":
        others = [record.key_id for record in keys.records() if record.state not in ("primary", "destroyed")]
        given = {"key_id": mine.one_of(others, keys.records()[0].key_id), "force": rng.random() < 0.8}
        return "keys", "destroy", given
    return "kv", what, (SEALED.get(what) or KV[what])(mine)


def _of(scene: Scene) -> Sealers:
    return Sealers(scene.rng) if scene.sealers is None else scene.sealers


def _put_sealed(scene: Scene) -> Json:
    given = KV["put"](scene)
    del given["value"]
    blob, digest = _of(scene).seal(scene.state.keys, given["key"])
    return {**given, "blob": blob, "digest": digest}


def _txn_sealed(scene: Scene) -> Json:
    given, sealers = KV["txn"](scene), _of(scene)
    blobs = []
    for step in (*given["then"], *given["otherwise"]):
        if step["op"] != "put":
            continue
        chance = sealers.rng.random()
        if chance < 0.6:
            del step["value"]
            blob, step["digest"] = sealers.seal(scene.state.keys, step["key"])
            blobs.append(blob)
        elif chance < 0.8:
            step["sealed"] = False
    return {**given, "blobs": blobs}


def _reseal(scene: Scene) -> Json:
    """What a leader in the state of this node proposes; where nothing is due, a value that never was."""
    sealers, state = _of(scene), scene.state
    found = reseals(state.kv, ring_of(state.keys), set(), random=sealers.rng.randbytes)
    if not found:
        blob, _ = sealers.seal(state.keys, "b")
        found = [{"name": encode_value(b"b"), "revision": 1, "blob": blob}]
    return {"values": found}


SEALED = {"put_sealed": _put_sealed, "put_clear": KV["put"], "txn_sealed": _txn_sealed, "reseal": _reseal}
"""How the arguments of each operation are drawn."""


def sealed_again(sealers: Sealers | None, command: bytes | None) -> bytes | None:
    """A command as whoever repeats it sends it, where a value is sealed otherwise each time."""
    if sealers is None or command is None:
        return command
    request = decode_command(command)
    if (request.machine, request.operation) != ("kv", "put_sealed"):
        return command
    blob, digest = sealers.again(request.arguments["blob"])
    return encode_command(
        "kv",
        "put_sealed",
        {**request.arguments, "blob": blob, "digest": digest},
        request_id=request.request_id,
        kind=request.kind,
        caller=request.caller,
    )
