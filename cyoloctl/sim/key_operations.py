"""Random operations on token keys, of which there are few, under ids that are few too."""

from __future__ import annotations

from cyoloctl.sim.scene import Scene, Step
from cyoloctl.text import Json

__all__ = [
    "announce_key",
    "confirm_keys",
    "forced",
    "generate",
    "import_keys",
    "key_policy",
    "next_of_keys",
    "one_key",
    "reject_keys",
    "wrap_key",
]

_KEY = "A" * 43 + "="
_PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def _new_key_id(scene: Scene) -> str:
    return f"fc{scene.rng.randrange(12):06x}"


def _key_id(scene: Scene) -> str:
    return scene.one_of([record.key_id for record in scene.state.keys.records()], _new_key_id(scene))


def _print(scene: Scene) -> str:
    return scene.pick("1", "1", "1", "1", "2") * 32


def _announced(scene: Scene) -> list[str]:
    return list(scene.state.keys.nodes()) if scene.rng.random() < 0.9 else [scene.member()]


def announce_key(scene: Scene) -> Json:
    return {
        "name": scene.one_of([scene.node], scene.record()),
        "sealing_key": scene.pick(_KEY, _KEY, "B" * 42 + "A="),
        "certificate_pem": _PEM,
        "signature": "A" * 96,
    }


def generate(scene: Scene) -> Json:
    return {
        "key_id": _new_key_id(scene),
        "cluster_id": "c" * 32,
        "fingerprint": _print(scene),
        "wrapped": scene.blobs(_announced(scene) or [scene.member()]),
    }


def wrap_key(scene: Scene) -> Json:
    return {"key_id": _key_id(scene), "wrapped": scene.blobs(_announced(scene) or [scene.member()])}


def confirm_keys(scene: Scene) -> Json:
    name = scene.one_of([scene.node], scene.record())
    known = {record.key_id: record.fingerprint for record in scene.state.keys.records()}
    held = scene.state.keys.unconfirmed(name) or [_key_id(scene)]
    return {
        "name": name,
        "keys": {key: scene.one_of([known.get(key, "1" * 32)], _print(scene)) for key in held},
    }


def reject_keys(scene: Scene) -> Json:
    return {"name": scene.one_of([scene.node], scene.record()), "keys": [_key_id(scene)]}


def one_key(scene: Scene) -> Json:
    return {"key_id": _key_id(scene)}


def forced(scene: Scene) -> Json:
    return {"key_id": _key_id(scene), "force": scene.rng.random() < 0.5}


def import_keys(scene: Scene) -> Json:
    ids = sorted({_new_key_id(scene) for _ in range(scene.pick(1, 2))})
    return {
        "keys": [
            {
                "key_id": key_id,
                "cluster_id": "d" * 32,
                "fingerprint": "1" * 32,
                "state": scene.pick("enabled", "disabled"),
                "created_unix_ms": 5,
                "retired_unix_ms": max(0, scene.now - 5_000),
                "tokens_until_unix_ms": scene.end(),
                "wrapped": scene.blobs(_announced(scene) or [scene.member()]),
            }
            for key_id in ids
        ]
    }


def key_policy(scene: Scene) -> Json:
    return {"rotate_every_s": scene.pick(None, 3_600, 86_400), "keep_s": scene.pick(3_600, 86_400, 864_000)}


def next_of_keys(scene: Scene) -> Step | None:
    machine, names = scene.state.keys, scene.key_members()
    for name in sorted(names, key=lambda name: name != scene.node):
        if name not in machine.nodes():
            return "keys", "announce", {**announce_key(scene), "name": name}
    pending = [record for record in machine.records() if record.state in ("pending", "enabled")]
    if not names or not pending:
        return "keys", scene.pick("generate", "make"), generate(scene)
    record = scene.rng.choice(pending)
    missing = [name for name in names if name not in record.wrapped]
    waiting = [name for name in names if name not in record.holders]
    if missing:
        return "keys", "wrap", {"key_id": record.key_id, "wrapped": scene.blobs(missing)}
    if waiting:
        name = scene.node if scene.node in waiting else scene.rng.choice(waiting)
        return "keys", "confirm", {"name": name, "keys": {record.key_id: record.fingerprint}}
    return "keys", scene.pick("promote", "rotate"), {"key_id": record.key_id}
