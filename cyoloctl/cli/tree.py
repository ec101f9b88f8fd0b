"""The tree of commands, as typer reads it: for command lines that are not plain (`plain`).

Only the module of the command that was named is imported, and only that
command is built.  ``--help``, suggestions and the generated completions
still see the whole tree.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Annotated, Any, cast

import typer
import typer.core
import typer.main

from cyoloctl import __version__
from cyoloctl.cli.invocation import Leaf, common_parameters
from cyoloctl.cli.modules import GROUPS, MODULES, PROGRAM
from cyoloctl.cli.parameters import REQUIRED, Argument, Option, Parameter
from cyoloctl.errors import Interrupted, UsageError

__all__ = ["command_tree", "run"]

_COMMON = common_parameters()
_COMMON_NAMES = frozenset(parameter.name for parameter in _COMMON)

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
        return None, _leaf("help", MODULES["help"]().show), [*_given(self.params, ctx.params), *args]


def _given(parameters: Sequence[Any], values: Mapping[str, Any]) -> list[str]:
    """The common options of a group that were given, as words of a command line."""
    words = []
    for parameter in parameters:
        value = values.get(parameter.name) if parameter.name in _COMMON_NAMES else None
        for each in value if isinstance(value, list | tuple) else () if value is None else (value,):
            words.append(f"{parameter.opts[-1]}={each}")
    return words


def _plain_typer(**settings: Any) -> typer.Typer:
    # rich_markup_mode=None keeps rich, 40 ms, out of help and of usage errors.
    return typer.Typer(
        rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False, **settings
    )


def _declared(parameter: Parameter) -> inspect.Parameter:
    """A parameter as typer reads it from a function."""
    ours = parameter.declared
    annotation = parameter.annotation
    if isinstance(ours, Option):
        option = typer.Option(
            *ours.names,
            help=ours.help,
            metavar=ours.metavar,
            show_default=ours.show_default,
            hidden=ours.hidden,
            # A file that this user may not read is no usage error: file_error has words for it.
            readable=False,
        )
        annotation = Annotated[annotation, option]
    elif isinstance(ours, Argument):
        argument = typer.Argument(
            help=ours.help, metavar=ours.metavar, show_default=ours.show_default, readable=False
        )
        annotation = Annotated[annotation, argument]
    return inspect.Parameter(
        parameter.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if parameter.default is REQUIRED else parameter.default,
        annotation=annotation,
    )


def _declare(function: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> None:
    """Give a function of any keywords the parameters that typer is to see."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _leaf(name: str, leaf: Leaf) -> Any:
    def function(**values: Any) -> int | None:
        return leaf(**values)

    function.__doc__ = leaf.__doc__
    _declare(function, [_declared(parameter) for parameter in leaf.parameters()])
    app = _plain_typer()
    app.command(name, cls=_Leaf)(function)
    return typer.main.get_command(app)


def _group(name: str, root: typer.core.TyperGroup) -> Any:
    commands: dict[str, Leaf] = MODULES[name]().COMMANDS
    lazy = cast("dict[str, Any]", _LazyCommands(tuple(commands), lambda leaf: _leaf(leaf, commands[leaf])))
    # The root's help shows the common options; here they are taken, and not shown again.
    common = [copy.copy(parameter) for parameter in root.params if parameter.name in _COMMON_NAMES]
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
_declare(
    _root,
    [
        *map(_declared, _COMMON),
        inspect.Parameter(
            "version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_VersionOption
        ),
    ],
)


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
        return _group(name, root) if name in GROUPS else _leaf(name, MODULES[name]().COMMANDS[name])

    root.commands = cast("dict[str, Any]", _LazyCommands(tuple(MODULES), build))
    return root


def run(arguments: Sequence[str]) -> int:
    """Run the command of a line, read by typer: its exit status.  Raises what commands do, and UsageError."""
    try:
        result = command_tree().main(
            args=list(arguments), prog_name=PROGRAM, standalone_mode=False, obj=list(arguments)
        )
    except typer.TyperException as error:
        raise _usage_error(error) from None
    except typer.Abort:
        raise Interrupted("interrupted") from None
    return result if isinstance(result, int) else 0


def _usage_error(error: typer.TyperException) -> UsageError:
    """Our error for one of typer's, with the lines that help to repair the command."""
    text = error.format_message().rstrip(".")
    text = text[:1].lower() + text[1:]
    context = getattr(error, "ctx", None)
    if context is None:
        return UsageError(text)
    if isinstance(context.command, typer.core.TyperGroup) and text == "missing command":
        names = ", ".join(context.command.commands)
        return UsageError(f"missing command: one of {names}", context.get_help())
    return UsageError(text, f"{context.get_usage()}\nTry '{context.command_path} --help'.")
