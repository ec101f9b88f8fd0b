"""cyoloctl: small, strongly consistent clusters of Zero Trust connector nodes.

For programs: `Client`, `AsyncClient` and `Node`; errors are those of `cyoloctl.errors` (docs/library.md).
For machines of one's own: `StateMachine`, `operation`, `query`, `Refuse` and the tables (docs/machines.md).
Importing this imports nothing else: every command does.
"""

__all__ = [
    "AsyncClient",
    "Client",
    "Node",
    "ReadTable",
    "Refuse",
    "StateMachine",
    "Table",
    "__version__",
    "errors",
    "operation",
    "query",
]

__version__ = "0.2.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cyoloctl import errors
    from cyoloctl.control.client import AsyncClient, Client
    from cyoloctl.machines.language import ReadTable, Refuse, StateMachine, Table, operation, query
    from cyoloctl.node.embedded import Node


def __getattr__(name: str) -> object:
    """The public names, imported when they are first used."""
    if name in {"AsyncClient", "Client"}:
        from cyoloctl.control import client

        return getattr(client, name)
    if name == "Node":
        from cyoloctl.node.embedded import Node

        return Node
    if name == "errors":
        from importlib import import_module

        return import_module("cyoloctl.errors")
    if name in __all__:
        from cyoloctl.machines import language

        return getattr(language, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
