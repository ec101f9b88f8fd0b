"""``cyoloctl config``: the node.yaml of a data directory, checked and shown, offline."""

from __future__ import annotations

from typing import Annotated, Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, Leaf, command, read_input
from cyoloctl.cli.parameters import Option
from cyoloctl.errors import ConfigError

__all__ = ["COMMANDS"]


@command(connects=False, timeout_s=None)
def check(
    invocation: Invocation,
    file: Annotated[
        str | None,
        Option("--file", metavar="FILE|-", help="Check this text alone, for whatever machine; - is stdin."),
    ] = None,
) -> None:
    """Check node.yaml as `node start` reads it, and tell every fault: its key, its line, what to do.

    Also what the file names on this machine: the certificate and key of
    `gateway.tls`, the group of `socket_group`, the node that the directory
    was made for. Classes of `machines` are not loaded: `machine check` does
    that. Works offline and changes nothing. Exits 78 when there is a fault.
    """
    from cyoloctl.node import config_check
    from cyoloctl.node.config import MAX_BYTES

    if file is None:
        found = config_check.check_directory(invocation.data_dir)
    else:
        where = "stdin" if file == "-" else file
        found = config_check.check_bytes(read_input(file, "configuration", MAX_BYTES), where)
    problems = found["problems"]
    rows = [("file", found["file"]), ("valid", "yes" if found["valid"] else "no")]
    rows += [(_place(each), each["message"]) for each in problems]
    invocation.fields(found, rows)
    if problems:
        count = "1 fault" if len(problems) == 1 else f"{len(problems)} faults"
        raise ConfigError(f"{found['file']} has {count}: correct what is told above, and check it again")


def _place(problem: dict[str, Any]) -> str:
    """Line and key, as far as there are any."""
    line = "" if problem["line"] is None else f"line {problem['line']}"
    return ", ".join(part for part in (line, problem["key"]) if part)


@command(connects=False, timeout_s=None)
def show(
    invocation: Invocation,
    origin: Annotated[
        bool,
        Option("--origin", help="Also show where each value is from, and when a change of it counts."),
    ] = False,
) -> None:
    """Show the configuration with which the node of the data directory starts, defaults filled in.

    Options that a running node was started with, such as --log-level, come
    before the file. With --origin: `now` is what `node reload` applies to a
    running node, `restart` counts from the next start, `never` is what the
    node was made with. No secret is shown, because node.yaml holds none, but
    only their paths.
    """
    from cyoloctl.cli import launch
    from cyoloctl.node import config_check

    found = config_check.show(invocation.data_dir, launch.arguments_of(invocation.data_dir))
    settings = found["settings"] if origin else found.pop("settings")
    rows = [(each["key"], each["value"]) for each in settings]
    if origin:
        rows = [("key", _with_origin("origin", "changes", "value"))]
        for each in settings:
            where = f"line {each['line']}" if each["origin"] == "file" else _ORIGINS[each["origin"]]
            rows.append((each["key"], _with_origin(where, each["changes"], output.text_of(each["value"]))))
    invocation.fields(found, rows)


_ORIGINS = {"default": "default", "command line": "option"}


def _with_origin(where: str, changes: str, value: str) -> str:
    """Three columns that 80 columns hold; as a table each of the settings would be a record of its own."""
    return f"{where:<9}{changes:<9}{value}"


COMMANDS: dict[str, Leaf] = {"check": check, "show": show}
