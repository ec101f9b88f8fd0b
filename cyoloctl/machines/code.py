"""The code of a machine: a class whose methods can be called with what callers give."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from cyoloctl.machines.language import KIND, ReadTable, Refuse, StateMachine, Stopped, fit
from cyoloctl.model import NAME_PATTERN
from cyoloctl.text import Json, utf8_or_none

__all__ = [
    "METHOD_PATTERN",
    "Code",
    "Failed",
    "Method",
    "NotAMachine",
    "Parameter",
    "WrongArguments",
    "code_of",
]

METHOD_PATTERN = r"[a-z][a-z0-9_]{0,62}"
MAX_VERSION = 1_000_000
_GIVEN = ("index", "now_unix_ms")
"""Parameters that the platform fills in, where a method has them."""
_STACK = 200
"""Calls that a method may nest: as many on every node, however deep the caller of the machine is."""

_KINDS: Mapping[Any, tuple[str, frozenset[type]]] = types.MappingProxyType(
    {
        int: ("an integer", frozenset({int})),
        str: ("text", frozenset({str})),
        bool: ("true or false", frozenset({bool})),
        list: ("a list", frozenset({list})),
        dict: ("an object", frozenset({dict})),
        None: ("null", frozenset({type(None)})),
        type(None): ("null", frozenset({type(None)})),
    }
)


class NotAMachine(Exception):
    """Why a class is no machine."""


class WrongArguments(Exception):
    """Why a method cannot be called with these arguments."""


class Failed(Exception):
    """A method raised what it should not, or gave what is no answer.  why: for the log, not replicated."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a caller gives.  rule: in words; kinds: the types that it may have, None for any."""

    name: str
    required: bool
    rule: str
    kinds: frozenset[type] | None


@dataclass(frozen=True, slots=True)
class Method:
    """An operation or a query.  given: what of ``index`` and ``now_unix_ms`` it takes."""

    name: str
    parameters: Mapping[str, Parameter]
    given: tuple[str, ...]
    summary: str

    def check(self, arguments: Json) -> None:
        """Raises WrongArguments for one that is missing, unknown or of another type."""
        unknown = sorted(arguments.keys() - self.parameters.keys())
        if unknown:
            takes = ", ".join(self.parameters) or "none"
            raise WrongArguments(f"{self.name} has no argument {unknown[0][:80]!a}: it takes {takes}")
        for each in self.parameters.values():
            if each.name not in arguments:
                if each.required:
                    raise WrongArguments(f"{self.name} needs the argument {each.name}: give {each.rule}")
            elif each.kinds is not None and type(arguments[each.name]) not in each.kinds:
                raise WrongArguments(f"argument {each.name} of {self.name} is not valid: give {each.rule}")


@dataclass(frozen=True, slots=True)
class Code:
    """A class that is a machine.  digest: of its source, 64 hex digits."""

    cls: type[StateMachine]
    digest: str
    operations: Mapping[str, Method]
    queries: Mapping[str, Method]

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.cls.NAME

    @property
    def version(self) -> int:
        """The version of the code."""
        return self.cls.VERSION

    def run(self, method: Method, table: ReadTable, arguments: Json, most_bytes: int, **given: int) -> str:
        """The canonical JSON of the answer of a method, called with arguments that it takes.

        Raises Refuse, with a text, Failed for anything else that went wrong,
        and what strikes one node alone: MemoryError.
        """
        call = getattr(self.cls(), method.name)
        more = {name: given[name] for name in method.given}
        try:
            with _bounded_stack():
                answer = call(table, **arguments, **more)
            return fit(answer, most_bytes, f"the answer of {method.name}")
        except Refuse as refused:
            if type(refused.text) is not str or utf8_or_none(refused.text) is None:
                raise Failed("Refuse was raised without a text") from refused
            raise
        except (MemoryError, KeyboardInterrupt):
            raise
        except Stopped as error:
            raise Failed(str(error)) from error
        except BaseException as error:
            raise Failed(f"{type(error).__name__}: {error}"[:1000]) from error


@contextmanager
def _bounded_stack() -> Iterator[None]:
    """The same room for calls on every node: an endless recursion ends alike everywhere."""
    depth, frame = 0, inspect.currentframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + _STACK)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def code_of(cls: object, digest: str) -> Code:
    """The code of a class.  Raises NotAMachine, saying what is wrong with it."""
    if not isinstance(cls, type) or not issubclass(cls, StateMachine) or cls is StateMachine:
        raise NotAMachine("it is no class that inherits from cyoloctl.StateMachine")
    name, version = getattr(cls, "NAME", None), cls.VERSION
    if type(name) is not str or re.fullmatch(NAME_PATTERN, name) is None:
        raise NotAMachine("its NAME is not valid: use 1 to 63 of a-z, 0-9 and '-'")
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise NotAMachine(f"its VERSION is not valid: use an integer from 1 to {MAX_VERSION}")
    if cls.__init__ is not object.__init__:
        raise NotAMachine("it has an __init__: what lasts is in the table, so a machine has no attributes")
    found: dict[str, dict[str, Method]] = {"operation": {}, "query": {}}
    for attribute in sorted(dir(cls)):
        function = inspect.getattr_static(cls, attribute)
        kind = getattr(function, KIND, None)
        if kind is not None:
            found[kind][attribute] = _method(attribute, function)
    if not found["operation"]:
        raise NotAMachine("it has no method that is marked with @operation")
    return Code(cls, digest, found["operation"], found["query"])


def _method(name: str, function: Callable[..., Any]) -> Method:
    if re.fullmatch(METHOD_PATTERN, name) is None:
        raise NotAMachine(f"{name} is not valid as the name of a method: use up to 63 of a-z, 0-9 and '_'")
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        raise NotAMachine(f"{name} is no plain method: use def, and mark it with @operation or @query")
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    except Exception as error:
        raise NotAMachine(f"the annotations of {name} cannot be read: {error}") from None
    named = parameters[2:]
    if len(parameters) < 2 or any(
        each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters
    ):
        raise NotAMachine(f"{name} must take self, table, and arguments by name: no * and no **")
    if any(each.kind is each.POSITIONAL_ONLY for each in named):
        raise NotAMachine(f"{name} takes arguments by position only: callers give names")
    return Method(
        name,
        {each.name: _parameter(name, each) for each in named if each.name not in _GIVEN},
        tuple(each.name for each in named if each.name in _GIVEN),
        (inspect.getdoc(function) or "").partition("\n")[0],
    )


def _parameter(method: str, parameter: inspect.Parameter) -> Parameter:
    required = parameter.default is parameter.empty
    if not required and type(parameter.default) not in (bool, int, str, type(None)):
        raise NotAMachine(
            f"the default of {parameter.name} of {method} could be changed by a call: use None there"
        )
    hint = Any if parameter.annotation is parameter.empty else parameter.annotation
    if hint is Any or hint is object:
        return Parameter(parameter.name, required, "any JSON without fractions", None)
    origin = get_origin(hint)
    choices = get_args(hint) if origin in (Union, types.UnionType) else (hint,)
    rules, kinds = [], set[type]()
    for choice in choices:
        known = _KINDS.get(get_origin(choice) or choice)
        if known is None:
            raise NotAMachine(
                f"{parameter.name} of {method} has another type than callers can give: "
                "use int, str, bool, list, dict, None or a union of them"
            )
        rules.append(known[0])
        kinds |= known[1]
    return Parameter(parameter.name, required, " or ".join(rules), frozenset(kinds))
