"""The tree of commands.

Only the module of the command that was named is imported, and only that
command is built: a trivial command must stay near the cost of importing
typer (``tests/cli/test_startup.py``).  ``--help``, suggestions and
the generated completions still see the whole tree.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from importlib import import_module
from typing import Annotated, Any, cast

import typer
import typer.core
import typer.main

from cyoloctl import __version__
from cyoloctl.cli.invocation import common_options

__all__ = ["GROUPS", "LEAVES", "PROGRAM", "command_tree"]

PROGRAM = "cyoloctl"

_COMMON = common_options()

#: Groups: name -> one line.
GROUPS: dict[str, str] = {
    "cluster": "Create a cluster, recover it from one disk, set its time.",
    "node": "Run, stop, join, renew and inspect the node of a data directory.",
    "config": "The configuration of a node: check node.yaml, show what is in force.",
    "member": "Invite, list, renew and remove members; move leadership.",
    "pki": "The certificate authority: its state and its exchange.",
    "credentials": "Who may call the API: create, list, renew and revoke viewers, gateways and operators.",
    "kv": "Keys and values: any data, with a revision for every change.",
    "counter": "The replicated counters (signed 64-bit).",
    "lock": "Locks: run a command on one node at a time; who holds which.",
    "machine": "State machines of your own: apply their operations, ask their queries.",
    "key": "The key ring of session tokens: rotate, inspect, carry to another network.",
    "token": "Session tokens: mint, open, change, revoke.",
    "rendezvous": "Transactions of several actors: begin, approve, redeem once.",
    "route": "Host names and sticky keys; configurations for nginx and haproxy.",
    "snapshot": "The replicated state in a file: save, verify, begin a new cluster with it.",
    "audit": "The audit log: who changed what; list, export and verify it.",
    "completion": "Completion scripts for shells.",
    "help": "The help of any command (`cyoloctl help key list`), and reference texts.",
}

#: Commands directly under the root; the modules of the same names.
LEAVES: tuple[str, ...] = (
    "batch",
    "bench",
    "console",
    "demo",
    "dev",
    "doctor",
    "sim",
    "status",
    "top",
    "support-bundle",
)

#: In the order of ``--help``: the module of a group or leaf, whose COMMANDS maps leaf names to functions.
_MODULES: dict[str, Callable[[], Any]] = {
    "dev": lambda: import_module("cyoloctl.cli.dev"),
    "demo": lambda: import_module("cyoloctl.cli.demo"),
    "cluster": lambda: import_module("cyoloctl.cli.cluster"),
    "node": lambda: import_module("cyoloctl.cli.node"),
    "config": lambda: import_module("cyoloctl.cli.config"),
    "member": lambda: import_module("cyoloctl.cli.member"),
    "status": lambda: import_module("cyoloctl.cli.status"),
    "top": lambda: import_module("cyoloctl.cli.top"),
    "console": lambda: import_module("cyoloctl.cli.console"),
    "doctor": lambda: import_module("cyoloctl.cli.doctor"),
    "support-bundle": lambda: import_module("cyoloctl.cli.support_bundle"),
    "pki": lambda: import_module("cyoloctl.cli.pki"),
    "credentials": lambda: import_module("cyoloctl.cli.credentials"),
    "kv": lambda: import_module("cyoloctl.cli.kv"),
    "counter": lambda: import_module("cyoloctl.cli.counter"),
    "lock": lambda: import_module("cyoloctl.cli.lock"),
    "machine": lambda: import_module("cyoloctl.cli.machines"),
    "batch": lambda: import_module("cyoloctl.cli.batch"),
    "token": lambda: import_module("cyoloctl.cli.token"),
    "key": lambda: import_module("cyoloctl.cli.key"),
    "rendezvous": lambda: import_module("cyoloctl.cli.rendezvous"),
    "route": lambda: import_module("cyoloctl.cli.route"),
    "snapshot": lambda: import_module("cyoloctl.cli.snapshot"),
    "audit": lambda: import_module("cyoloctl.cli.audit"),
    "bench": lambda: import_module("cyoloctl.cli.bench"),
    "sim": lambda: import_module("cyoloctl.cli.sim"),
    "completion": lambda: import_module("cyoloctl.cli.completion"),
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


class _Examples:
    """Help that ends with the examples of the command."""

    epilog: str | None

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from cyoloctl.cli.examples import EXAMPLES

        with formatter.section("Examples"):
            for line in EXAMPLES[ctx.command_path.partition(" ")[2].strip()]:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        if self.epilog:
            formatter.write_paragraph()
            formatter.write_text(self.epilog)


class _Leaf(_Examples, typer.core.TyperCommand):
    pass


class _LazyGroup(_Examples, typer.core.TyperGroup):
    """A group whose common options count as if they stood after the sub-command, the first of them there."""

    def list_commands(self, ctx: Any) -> list[str]:
        # The inherited method walks items(), which would build every command.
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, [*_given(self.params, ctx.params), *rest]


class _HelpGroup(_LazyGroup):
    """``help``: what is not one of its texts is a command, whose help is shown; nothing is the root's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, words, _ = self.make_parser(ctx).parse_args(args=list(args))
        return super().parse_args(ctx, args if words else [*args, PROGRAM])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return None, _leaf("help", _MODULES["help"]().show), [*_given(self.params, ctx.params), *args]


def _given(parameters: Sequence[Any], values: Mapping[str, Any]) -> list[str]:
    """The common options of a group that were given, as words of a command line."""
    words = []
    for parameter in parameters:
        value = values.get(parameter.name) if parameter.name in _COMMON else None
        for each in value if isinstance(value, list | tuple) else () if value is None else (value,):
            words.append(f"{parameter.opts[-1]}={each}")
    return words


def _plain_typer(**settings: Any) -> typer.Typer:
    # rich_markup_mode=None keeps rich, 40 ms, out of help and of usage errors.
    return typer.Typer(
        rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False, **settings
    )


def _leaf(name: str, function: Callable[..., None]) -> Any:
    app = _plain_typer()
    app.command(name, cls=_Leaf)(function)
    return typer.main.get_command(app)


def _group(name: str, root: typer.core.TyperGroup) -> Any:
    commands: dict[str, Callable[..., None]] = _MODULES[name]().COMMANDS
    lazy = cast("dict[str, Any]", _LazyCommands(tuple(commands), lambda leaf: _leaf(leaf, commands[leaf])))
    # The root's help shows the common options; here they are taken, and not shown again.
    common = [copy.copy(parameter) for parameter in root.params if parameter.name in _COMMON]
    for option in common:
        cast("typer.core.TyperOption", option).hidden = True
    cls = _HelpGroup if name == "help" else _LazyGroup
    group = cls(name=name, help=GROUPS[name], params=common, rich_markup_mode=None)
    group.commands = lazy
    return group


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        from cyoloctl.cli import output

        mode = output.wanted_mode(context.obj or ())
        if mode == "table":
            output.write(f"{PROGRAM} {__version__}\n")
        else:
            output.structured({"schema_version": 1, "version": __version__}, mode)
        raise typer.Exit()


def _root(**options: Any) -> None:
    """Small, strongly consistent clusters of Zero Trust connector nodes."""


_VersionOption = Annotated[
    bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
]
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_root.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # read by typer
    [
        *(inspect.Parameter(name, _KEYWORD, default=None, annotation=kind) for name, kind in _COMMON.items()),
        inspect.Parameter("version", _KEYWORD, default=False, annotation=_VersionOption),
    ]
)
_root.__annotations__ = {**_COMMON, "version": _VersionOption}


def command_tree() -> typer.core.TyperGroup:
    """The root of the command tree; its branches are built on demand."""
    app = _plain_typer(
        cls=_LazyGroup,
        epilog=_EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    root = cast("typer.core.TyperGroup", typer.main.get_command(app))

    def build(name: str) -> Any:
        return _group(name, root) if name in GROUPS else _leaf(name, _MODULES[name]().COMMANDS[name])

    root.commands = cast("dict[str, Any]", _LazyCommands(tuple(_MODULES), build))
    return root
