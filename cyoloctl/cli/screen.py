"""What commands share that show something again and again: the loop, the live screen and its keys."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from cyoloctl.cli import output
from cyoloctl.errors import ClientTimeout, CyoloctlError, Unavailable, Unreachable

if TYPE_CHECKING:
    from rich.live import Live

__all__ = ["Screen", "live_screen", "repeat"]

_Answer = TypeVar("_Answer")


def repeat(
    ask: Callable[[], _Answer],
    show: Callable[[_Answer], object],
    failed: Callable[[CyoloctlError], object],
    pause: Callable[[], bool],
) -> None:
    """Ask and show until the pause returns False; a node that does not answer is told of, and asked again.

    Raises what ask raises, but for nodes that do not answer.
    """
    while True:
        try:
            answer = ask()
        except (Unreachable, Unavailable, ClientTimeout) as error:
            failed(error)
        else:
            show(answer)
        if not pause():
            return


class Screen:
    """A screen of its own on the terminal.  Made by `live_screen`."""

    def __init__(self, live: Live, keys: int | None) -> None:
        """keys: the descriptor that keys come from, None where there are none."""
        self._live = live
        self._keys = keys

    def show(self, text: str) -> None:
        """Replace what is on the screen; lines that it has no room for are cut off."""
        from rich.text import Text

        try:
            self._live.update(Text.from_ansi(text, no_wrap=True, overflow="crop"), refresh=True)
        except OSError as error:
            raise output.stdout_failed(error) from None

    def pause(self, seconds: float) -> bool:
        """Wait; at once False for the key q."""
        if self._keys is None:
            time.sleep(seconds)
            return True
        import select

        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self._keys], [], [], left)[0]:
                keys = os.read(self._keys, 64)
                if not keys:  # the terminal is gone
                    return False
                if keys[:1] in b"qQ":
                    return False
        return True


@contextmanager
def live_screen() -> Iterator[Screen]:
    """A screen that leaves the terminal as it was.  stdout is one."""
    from rich.console import Console
    from rich.live import Live

    colour: Any = "standard" if output.coloured(sys.stdout) else None
    console = Console(file=sys.stdout, force_terminal=True, color_system=colour, highlight=False)
    with _unbuffered_keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        yield Screen(live, keys)


@contextmanager
def _unbuffered_keys() -> Iterator[int | None]:
    """The descriptor of keys as they are pressed; Ctrl-C still interrupts."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    try:
        tty.setcbreak(keys)
        yield keys
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
