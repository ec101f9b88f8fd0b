"""``cyoloctl help``: reference texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cyoloctl.cli import output
from cyoloctl.cli.invocation import Invocation, command
from cyoloctl.cli.output import Column
from cyoloctl.errors import error_classes

__all__ = ["COMMANDS", "exit_code_table"]

_COLUMNS = (
    Column("STATUS", identifier=True, right=True),
    Column("CODE", identifier=True),
    Column("HTTP", right=True),
    Column("MEANING"),
)


def exit_code_table() -> list[dict[str, Any]]:
    """Every status and string code with its HTTP status and meaning, by status."""
    done = {"exit_status": 0, "code": "ok", "http_status": 200, "meaning": "done"}
    return [
        done,
        *(
            {
                "exit_status": cls.exit_status,
                "code": cls.code,
                "http_status": cls.http_status,
                "meaning": cls.meaning,
            }
            for cls in error_classes()
        ),
    ]


@command(connects=False, data_dir=False, timeout_s=None)
def exit_codes(invocation: Invocation) -> None:
    """List the exit statuses with their codes, HTTP statuses and meanings."""
    codes = exit_code_table()
    if invocation.mode != "table":
        output.structured({"schema_version": 1, "exit_codes": codes}, invocation.mode)
        return
    output.table(
        _COLUMNS,
        [(str(c["exit_status"]), c["code"], str(c["http_status"]), c["meaning"]) for c in codes],
    )


COMMANDS: dict[str, Callable[..., None]] = {"exit-codes": exit_codes}
