"""Code that a hostile peer would make a node run: named by a pickle, called while it is loaded."""

from __future__ import annotations

import pickle

__all__ = ["Payload", "fire", "fired", "payload"]

fired: list[str] = []


def fire(what: str) -> tuple[int, tuple[bytes]]:
    fired.append(what)
    return 0, (b"from-the-attacker",)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return fire, ("code ran",)


def payload() -> bytes:
    return pickle.dumps(Payload(), 2)
