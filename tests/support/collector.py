"""Python's collector of cycles, kept away."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["no_collector"]


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """What goes away meanwhile does so because nothing refers to it, and no circle of objects was left."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
