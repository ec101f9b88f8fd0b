"""``cyoloctl completion``: the completion scripts, as `make generate` made them from the command tree."""

from __future__ import annotations

from pathlib import Path

from cyoloctl.cli.invocation import Invocation, Leaf, command

__all__ = ["COMMANDS", "SCRIPTS"]

#: By shell, the name under which the shell looks for the script.
SCRIPTS = {"bash": "cyoloctl.bash", "zsh": "_cyoloctl", "fish": "cyoloctl.fish"}


def _show(invocation: Invocation, shell: str) -> None:
    text = Path(__file__).with_name("completions").joinpath(SCRIPTS[shell]).read_text("utf-8")
    invocation.value({"schema_version": 1, "shell": shell, "script": text}, text.removesuffix("\n"))


@command(connects=False, data_dir=False, timeout_s=None)
def bash(invocation: Invocation) -> None:
    """Print the completion script for bash."""
    _show(invocation, "bash")


@command(connects=False, data_dir=False, timeout_s=None)
def zsh(invocation: Invocation) -> None:
    """Print the completion script for zsh."""
    _show(invocation, "zsh")


@command(connects=False, data_dir=False, timeout_s=None)
def fish(invocation: Invocation) -> None:
    """Print the completion script for fish."""
    _show(invocation, "fish")


COMMANDS: dict[str, Leaf] = {"bash": bash, "zsh": zsh, "fish": fish}
