"""``cyoloctl console``: a page for the browser that shows the cluster, for this machine only."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, command
from cyoloctl.cli.parameters import Option
from cyoloctl.process import run_in_loop, until_terminated

if TYPE_CHECKING:
    import socket

__all__ = ["COMMANDS"]

_LEAST_LIMIT_S = 2.5


@command()
def console(
    invocation: Invocation,
    listen: Annotated[
        str,
        Option(
            "--listen", metavar="HOST:PORT", help="Loopback address of the page; port 0 is any free port."
        ),
    ] = "127.0.0.1:0",
) -> None:
    """Show the cluster on a page in the browser, until interrupted.

    Prints a link that lets one browser in, and another link once that was used.
    The page changes nothing: members, links, problems with their commands, keys,
    counts, and charts of the last hour, from when this command began. Credentials
    of a viewer are enough.

    It serves this machine only. SIGTERM ends it with 0, as a service; Ctrl-C with 130.
    """
    from cyoloctl.console.guard import parse_loopback
    from cyoloctl.console.run import bind

    listening = bind(*parse_loopback(listen))
    with listening:
        until_terminated(lambda: _serve(invocation, listening))


def _serve(invocation: Invocation, listening: socket.socket) -> NoReturn:
    from cyoloctl.console.run import serve
    from cyoloctl.control.survey import Survey

    limit_s = min(invocation.timeout_s, _LEAST_LIMIT_S)
    survey = Survey(
        invocation.endpoints,
        lambda urls, credentials: invocation.loop_client(urls, credentials, timeout_s=limit_s),
        invocation.credentials_for_members(),
    )
    run_in_loop(
        serve(
            listening,
            survey,
            first=lambda url: _announce(invocation, url),
            next_=lambda url: _announce_another(invocation, url),
        )
    )
    raise AssertionError("the console serves until a signal ends it")


def _announce(invocation: Invocation, url: str) -> None:
    """Print the link of the next browser."""
    if invocation.mode == "table":
        output.write(f"{url}\n")
    else:
        output.structured({"schema_version": 1, "url": url}, invocation.mode, stream=True)


def _announce_another(invocation: Invocation, url: str) -> None:
    """The same while the page is open, which stays so when nobody reads on."""
    with suppress(output.OutputClosed, output.OutputFailed):
        _announce(invocation, url)


COMMANDS: dict[str, Leaf] = {"console": console}
