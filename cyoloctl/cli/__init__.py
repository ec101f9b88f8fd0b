"""The command line: its modules are imported when a command needs them."""

from __future__ import annotations

from cyoloctl.cli.boundary import main

__all__ = ["main"]
