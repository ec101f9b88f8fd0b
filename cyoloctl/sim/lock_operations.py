"""Random operations of locks, and a naive judge of their answers.

Three names and four holders, so that they meet.  Everything is drawn from
`Scene.lockers`: where nobody locks, a run is as it was before there were locks.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from cyoloctl.model import Stamp
from cyoloctl.replicated.command import Command
from cyoloctl.sim.scene import DAY_MS, Scene
from cyoloctl.sim.shares import share_of
from cyoloctl.text import Json

__all__ = ["Leases", "acquire", "break_lock", "draw_lock", "keep", "lockers", "release"]

_OPERATIONS = ("acquire", "acquire", "acquire", "keep", "keep", "release", "break")


def lockers(seed: int) -> random.Random | None:
    """See `Scene`."""
    return share_of(seed, "locks")


def draw_lock(scene: Scene) -> str | None:
    """The operation of a lock that is next; None: another machine's is."""
    if scene.lockers is None or scene.lockers.random() >= 0.15:
        return None
    return scene.lockers.choice(_OPERATIONS)


def _rng(scene: Scene) -> random.Random:
    return scene.rng if scene.lockers is None else scene.lockers


def _name(scene: Scene) -> str:
    return f"lock{_rng(scene).randrange(3)}"


def _ttl_ms(scene: Scene) -> int:
    return _rng(scene).choice((1_000, 1_000, 4_000, 60_000, DAY_MS))


def acquire(scene: Scene) -> Json:
    """For one of four holders."""
    holder = f"{_rng(scene).randrange(4):032x}"
    return {"name": _name(scene), "holder": holder, "owner": "h 1", "by": "root", "ttl_ms": _ttl_ms(scene)}


def _held(scene: Scene) -> Json:
    """A lock with a token, mostly that of its holder as this node knows it."""
    found, rng = scene.state.locks.list(None, 3, 0), _rng(scene)
    if not found or rng.random() < 0.2:
        return {"name": _name(scene), "token": rng.choice((1, 7, 2**40))}
    lock = rng.choice(found)
    return {"name": lock.name, "token": lock.token}


def keep(scene: Scene) -> Json:
    """With a token that may be old."""
    return {**_held(scene), "ttl_ms": _ttl_ms(scene)}


def release(scene: Scene) -> Json:
    """With a token that may be old."""
    return _held(scene)


def break_lock(scene: Scene) -> Json:
    """Whoever has it."""
    return {"name": _name(scene)}


@dataclass(frozen=True, slots=True)
class _Lease:
    token: int
    holder: str
    end_ms: int  # of steady time


class Leases:
    """Who has which lock until when; it is told of every command that was carried out, once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._last_token = 0
        self._leases: dict[str, _Lease] = {}

    def applied(self, request: Command, answer: Json, now: Stamp) -> str | None:
        """What is wrong with the answer to a command that was carried out just now; None: nothing."""
        given, name = request.arguments, request.arguments["name"]
        self._leases = {name: lease for name, lease in self._leases.items() if now.steady_ms < lease.end_ms}
        before = self._leases.get(name)
        wrong = f"lock {name} of {before} is answered {answer} to {request.operation} {given} at {now}"
        if "error" in answer:
            mine = before is not None and before.token == given.get("token")
            code = answer["error"]["code"]
            may_be = {
                "acquire": code == "overloaded" and before is None and len(self._leases) >= self._most,
                "keep": code == "conflict" and not mine,
                "break": code == "not_found" and before is None,
            }
            return None if may_be.get(request.operation) else wrong
        value = answer["value"]
        if request.operation == "acquire":
            return None if self._acquired(given, value, before, now) else wrong
        held = before is not None and before.token == given.get("token", before.token)
        if request.operation == "release":
            right = value["released"] is held
        elif request.operation == "break":
            right = held and before is not None and value["token"] == before.token
        else:
            return None if held and self._prolonged(given, value, before, now) else wrong
        if held:
            del self._leases[name]
        return None if right else wrong

    def _acquired(self, given: Json, value: Json, before: _Lease | None, now: Stamp) -> bool:
        if before is None:
            right = value["acquired"] and value["token"] > self._last_token
            self._last_token = max(self._last_token, value["token"])
            self._leases[given["name"]] = _Lease(
                value["token"], given["holder"], now.steady_ms + given["ttl_ms"]
            )
            return bool(right) and value["expires_unix_ms"] == now.time_unix_ms + given["ttl_ms"]
        if before.holder != given["holder"]:
            return value["acquired"] is False and value["token"] == before.token
        return value["acquired"] and self._prolonged(given, value, before, now)

    def _prolonged(self, given: Json, value: Json, before: _Lease | None, now: Stamp) -> bool:
        if before is None:
            return False
        lease = replace(before, end_ms=max(before.end_ms, now.steady_ms + given["ttl_ms"]))
        self._leases[given["name"]] = lease
        end_ms = now.time_unix_ms + lease.end_ms - now.steady_ms
        return (value["token"], value["expires_unix_ms"]) == (lease.token, end_ms)

    def holds(self, fence: Json | None, now: Stamp) -> bool:
        """Whether the lock of a fence is held with its token."""
        lease = None if fence is None else self._leases.get(fence["name"])
        return (
            lease is not None
            and fence is not None
            and now.steady_ms < lease.end_ms
            and lease.token == fence["token"]
        )
