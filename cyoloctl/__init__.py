"""cyoloctl: small, strongly consistent clusters of Zero Trust connector nodes.

For programs: `Client` and `AsyncClient`; errors are those of `cyoloctl.errors` (docs/library.md).
Importing this imports nothing else: every command does.
"""

__all__ = ["AsyncClient", "Client", "__version__", "errors"]

__version__ = "0.2.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cyoloctl import errors
    from cyoloctl.control.client import AsyncClient, Client


def __getattr__(name: str) -> object:
    """The public names, imported when they are first used."""
    if name in {"AsyncClient", "Client"}:
        from cyoloctl.control import client as home
    elif name == "errors":
        from cyoloctl import errors

        return errors
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
