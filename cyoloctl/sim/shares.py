"""What only some of the runs have, each drawn by a generator of its own: no other draw of a run moves."""

from __future__ import annotations

import random

__all__ = ["share_of"]

_WITHOUT = (range(20), range(640, 660), range(2000, 3000))
"""Seeds whose runs have none of it: faults that tests plant are found in these runs as they are."""


def share_of(seed: int, what: str, share: float = 0.5) -> random.Random | None:
    """The generator of the runs that have it, ``share`` of all; None for the others."""
    rng = random.Random(f"{seed} {what}")
    return rng if rng.random() < share and not any(seed in seeds for seeds in _WITHOUT) else None
