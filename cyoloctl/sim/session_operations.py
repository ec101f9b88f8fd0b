"""Random operations on sessions, of few sessions and fewer people."""

from __future__ import annotations

from cyoloctl.sim.scene import DAY_MS, Scene
from cyoloctl.text import Json

__all__ = ["advance_session", "advance_to", "revoke_sid", "revoke_sub"]


def _sid(scene: Scene) -> str:
    return scene.pick("A", "B", "C", "D", "E", "F") * 21 + "A"


def _subject(scene: Scene) -> str:
    return scene.pick("ann", "bob", "zo\u00eb")


def _far_end(scene: Scene) -> int:
    return scene.end() if scene.rng.random() < 0.9 else scene.now + 500 * DAY_MS


def advance_session(scene: Scene) -> Json:
    sid = _sid(scene)
    lowest = [each.minimum_gen for each in scene.state.sessions.list(None, 20) if each.value == sid]
    return {
        "sid": sid,
        "gen": scene.one_of([gen for gen in lowest if gen], scene.rng.randrange(1, 4)),
        "sub": _subject(scene),
        "iat_unix_s": max(0, scene.now // 1000 + scene.pick(-100, -5, 0, 6)),
        "until_unix_ms": _far_end(scene),
    }


def advance_to(scene: Scene) -> Json:
    return {**advance_session(scene), "change": scene.digest(2)}


def revoke_sid(scene: Scene) -> Json:
    return {"sid": _sid(scene), "until_unix_ms": scene.pick(None, _far_end(scene))}


def revoke_sub(scene: Scene) -> Json:
    issued = max(0, scene.now // 1000 + scene.pick(-50, 0, 5, 100))
    return {
        "sub": _subject(scene),
        "issued_before_unix_s": scene.pick(None, issued),
        "until_unix_ms": scene.pick(None, _far_end(scene)),
    }
