"""Parameters of commands, as the modules of the groups declare them.

A parameter is annotated with ``Annotated[KIND, Option(...)]`` or ``Annotated[KIND, Argument(...)]``.
KIND is str, Path, bool (an option that takes no value) or int, one of them ``| None``, or a list of str or
Path.  There is nothing here that checks or converts a value: whoever reads the words of a command line, typer
(`tree`) or without it (`plain`), gets the same.
"""

from __future__ import annotations

from collections.abc import Callable
from types import GenericAlias, NoneType, UnionType
from typing import Any, get_type_hints

__all__ = ["REQUIRED", "Argument", "Option", "Parameter", "parameters_of"]

REQUIRED: Any = object()
"""The default of a parameter that has to be given."""


class Option:
    """An option.  names: as they are typed; a long one begins with two dashes."""

    __slots__ = ("help", "hidden", "metavar", "names", "show_default")

    def __init__(
        self,
        *names: str,
        help: str = "",
        metavar: str | None = None,
        show_default: bool = True,
        hidden: bool = False,
    ) -> None:
        self.names = names
        self.help = help
        self.metavar = metavar
        self.show_default = show_default
        self.hidden = hidden


class Argument:
    """A word that is no option, by its place.  A list takes all words, or all that are left."""

    __slots__ = ("help", "metavar", "show_default")

    def __init__(self, *, metavar: str, help: str, show_default: bool = True) -> None:
        self.help = help
        self.metavar = metavar
        self.show_default = show_default


class Parameter:
    """A parameter of a command.

    annotation: its KIND.  kind: the same without ``| None``, and of a list (is_list) that of its members.
    declared: an Option, an Argument, or None.
    """

    __slots__ = ("annotation", "declared", "default", "is_list", "kind", "name")

    def __init__(self, name: str, annotated: Any, default: Any = None) -> None:
        self.name = name
        # What has no more than a type is for typer to fill in.
        self.annotation = kind = getattr(annotated, "__origin__", annotated)
        self.declared: Option | Argument | None = getattr(annotated, "__metadata__", (None,))[0]
        self.default = default
        if isinstance(kind, UnionType):
            [kind] = (each for each in kind.__args__ if each is not NoneType)
        self.is_list = isinstance(kind, GenericAlias)
        self.kind = kind.__args__[0] if self.is_list else kind


def parameters_of(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a command's function but the first, which is the invocation, in order.

    Without `inspect`, which every command would have to import.
    """
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[1 : code.co_argcount]
    first_default = len(names) - len(defaults)
    hints = get_type_hints(function, include_extras=True)
    return [
        Parameter(name, hints[name], REQUIRED if place < first_default else defaults[place - first_default])
        for place, name in enumerate(names)
    ]
