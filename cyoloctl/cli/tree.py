"""The tree of commands.

Only the module of the command that was named is imported, and only that
command is built: a trivial command must stay near the cost of importing
typer (``tests/cli/test_startup.py``).  ``--help``, suggestions and
the generated completions still see the whole tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from importlib import import_module
from typing import Annotated, Any, cast

import typer
import typer.core
import typer.main

from cyoloctl import __version__

__all__ = ["GROUPS", "LEAVES", "PROGRAM", "command_tree"]

PROGRAM = "cyoloctl"

#: Groups: name -> one line.
GROUPS: dict[str, str] = {
    "cluster": "Create a cluster.",
    "node": "Run, stop, join, renew and inspect the node of a data directory.",
    "member": "Invite, list, renew and remove members; move leadership.",
    "pki": "The certificate authority: its state and its exchange.",
    "credentials": "Who may call the API: create, list, renew and revoke viewers, gateways and operators.",
    "counter": "The replicated counters (signed 64-bit).",
    "key": "The key ring of session tokens: rotate, inspect, carry to another network.",
    "token": "Session tokens: mint, open, change, revoke.",
    "rendezvous": "Transactions of several actors: begin, approve, redeem once.",
    "route": "Host names and sticky keys; configurations for nginx and haproxy.",
    "help": "Reference texts, such as the exit statuses.",
}

#: Commands directly under the root; the modules of the same names.
LEAVES: tuple[str, ...] = ("demo", "sim", "status")

#: In the order of ``--help``: the module of a group or leaf, whose COMMANDS maps leaf names to functions.
_MODULES: dict[str, Callable[[], Any]] = {
    "demo": lambda: import_module("cyoloctl.cli.demo"),
    "cluster": lambda: import_module("cyoloctl.cli.cluster"),
    "node": lambda: import_module("cyoloctl.cli.node"),
    "member": lambda: import_module("cyoloctl.cli.member"),
    "status": lambda: import_module("cyoloctl.cli.status"),
    "pki": lambda: import_module("cyoloctl.cli.pki"),
    "credentials": lambda: import_module("cyoloctl.cli.credentials"),
    "counter": lambda: import_module("cyoloctl.cli.counter"),
    "token": lambda: import_module("cyoloctl.cli.token"),
    "key": lambda: import_module("cyoloctl.cli.key"),
    "rendezvous": lambda: import_module("cyoloctl.cli.rendezvous"),
    "route": lambda: import_module("cyoloctl.cli.route"),
    "sim": lambda: import_module("cyoloctl.cli.sim"),
    "help": lambda: import_module("cyoloctl.cli.help"),
}

_EPILOG = (
    "Results go to stdout, everything else to stderr. `cyoloctl help exit-codes` lists what "
    "each exit status promises."
)


class _LazyCommands(MutableMapping[str, Any]):
    """Command objects by name, each built when it is first asked for."""

    def __init__(self, names: Sequence[str], build: Callable[[str], Any]) -> None:
        self._names = tuple(names)
        self._build = build
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._built:
            self._built[name] = self._build(name)
        return self._built[name]

    def __setitem__(self, name: str, command: Any) -> None:
        raise TypeError("the command tree is fixed")

    def __delitem__(self, name: str) -> None:
        raise TypeError("the command tree is fixed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _LazyGroup(typer.core.TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        # The inherited method walks items(), which would build every command.
        return list(self.commands)


def _plain_typer(**settings: Any) -> typer.Typer:
    # rich_markup_mode=None keeps rich, 40 ms, out of help and of usage errors.
    return typer.Typer(
        rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False, **settings
    )


def _leaf(name: str, function: Callable[..., None]) -> Any:
    app = _plain_typer()
    app.command(name)(function)
    return typer.main.get_command(app)


def _group(name: str) -> Any:
    commands: dict[str, Callable[..., None]] = _MODULES[name]().COMMANDS
    lazy = cast("dict[str, Any]", _LazyCommands(tuple(commands), lambda leaf: _leaf(leaf, commands[leaf])))
    group = _LazyGroup(name=name, help=GROUPS[name], rich_markup_mode=None)
    group.commands = lazy
    return group


def _build(name: str) -> Any:
    if name in GROUPS:
        return _group(name)
    return _leaf(name, _MODULES[name]().COMMANDS[name])


def _print_version(wanted: bool) -> None:
    if wanted:
        from cyoloctl.cli import output

        output.write(f"{PROGRAM} {__version__}\n")
        raise typer.Exit()


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Small, strongly consistent clusters of Zero Trust connector nodes."""


def command_tree() -> typer.core.TyperGroup:
    """The root of the command tree; its branches are built on demand."""
    app = _plain_typer(
        cls=_LazyGroup,
        epilog=_EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    root = cast("typer.core.TyperGroup", typer.main.get_command(app))
    root.commands = cast("dict[str, Any]", _LazyCommands(tuple(_MODULES), _build))
    return root
