"""Everything that is written to stdout and stderr, and all use of rich and yaml.

Importing this module costs nothing: json, yaml and rich are imported by the
function that needs them.  Plain aligned text without colour and boxes is the
form whenever the stream is not a terminal.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TextIO

from cyoloctl.errors import CyoloctlError

__all__ = [
    "MODES",
    "Cell",
    "Column",
    "OutputClosed",
    "OutputFailed",
    "Progress",
    "abandon_stdout",
    "clear_screen",
    "coloured",
    "fields",
    "flush",
    "is_terminal",
    "lines",
    "note",
    "render",
    "rows_of",
    "screen_table",
    "stdout_failed",
    "structured",
    "table",
    "terminal_width",
    "text_of",
    "wanted_mode",
    "write",
    "write_bytes",
    "write_error",
]

MODES = ("table", "json", "yaml")

_LINE_EVERY_S = 20.0  # of Progress without a terminal

#: Styles that a cell may have -> SGR parameters (ECMA-48 8.3.117).
_STYLES = {"": "", "good": "32", "warn": "33", "bad": "1;31", "dim": "2", "bold": "1"}


class OutputClosed(Exception):
    """The reader of stdout is gone."""


class OutputFailed(Exception):
    """The command was carried out, and its result cannot be written to stdout; the text says why."""


class Cell(NamedTuple):
    """A text of a table with its style: "", good, warn, bad, dim or bold."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column of a table.

    identifier: other commands take what stands in it, so it is never hidden, cut or folded.  drop: turn in
    which the column is hidden on a terminal that is too narrow, 1 first; 0: never, it is folded between
    words.  right: aligned right.
    """

    heading: str
    identifier: bool = False
    drop: int = 0
    right: bool = False


def abandon_stdout() -> None:
    """Point stdout at the null device, so that the interpreter's last flush cannot fail."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    except OSError:
        return


def stdout_failed(error: OSError) -> OutputClosed | OutputFailed:
    """The error for a text that stdout did not take; what is left of it is given up."""
    abandon_stdout()
    if error.errno == errno.EPIPE:
        return OutputClosed()
    return OutputFailed(
        f"its result cannot be written to stdout ({error.strerror or error}): "
        "make room or choose another file"
    )


def write(text: str) -> None:
    """Write to stdout and flush.

    Raises OutputClosed (the reader went away) or OutputFailed (disk full, closed).
    """
    if sys.stdout is None:  # fd 1 was closed when the process began
        raise OutputFailed("stdout is closed: open it to see the result")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except UnicodeEncodeError:
        sys.stdout.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        flush()
    except OSError as error:
        raise stdout_failed(error) from None


def write_bytes(data: bytes) -> None:
    """Write bytes to stdout as they are, and flush; errors as in write()."""
    if sys.stdout is None:
        raise OutputFailed("stdout is closed: open it to see the result")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise stdout_failed(error) from None


def flush() -> None:
    """Flush stdout; errors as in write()."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        raise stdout_failed(error) from None


def note(text: str) -> None:
    """A line for the human, on stderr.  It never fails the command."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
    except (OSError, ValueError):
        return


def coloured(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal that wants colour (no NO_COLOR, not dumb)."""
    return (
        stream is not None
        and stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "") not in ("", "dumb")
    )


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def terminal_width() -> int:
    """Columns of the terminal, 80 when unknown."""
    import shutil

    return shutil.get_terminal_size((80, 24)).columns


def wanted_mode(arguments: Sequence[str]) -> str:
    """The output mode of a command line that may not even parse: flags beat environment."""
    mode = os.environ.get("CYOLOCTL_OUTPUT", "")
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument in ("-o", "--output"):
            mode = arguments[index + 1] if index + 1 < len(arguments) else mode
        elif argument.startswith("--output="):
            mode = argument.partition("=")[2]
        elif argument.startswith("-o") and not argument.startswith("--"):
            mode = argument[2:].removeprefix("=")
    return mode if mode in MODES else "table"


def render(document: Mapping[str, Any], mode: str, *, stream: bool = False) -> str:
    """The document as text: JSON indented (one line in a stream), or YAML.

    Raises no error for what the API returns (basic types only).
    """
    if mode == "yaml":
        import yaml

        text: str = yaml.safe_dump(
            dict(document),
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=False,
            explicit_start=stream,
        )
        return text
    import json

    return json.dumps(document, indent=None if stream else 2) + "\n"


def structured(document: Mapping[str, Any], mode: str, *, stream: bool = False) -> None:
    """Write the document to stdout as JSON or YAML."""
    write(render(document, mode, stream=stream))


def write_error(error: CyoloctlError, arguments: Sequence[str], hint: str = "") -> None:
    """The error on stderr, in the mode that the command line asked for."""
    mode = wanted_mode(arguments)
    if mode != "table":
        about: dict[str, Any] = {
            "code": error.code,
            "message": error.message,
            "exit_status": error.exit_status,
        }
        if error.request_id is not None:
            about["request_id"] = error.request_id
        document = {"schema_version": 1, "error": about}
        if hint.startswith("Traceback"):
            note(hint)
        note(render(document, mode, stream=mode == "json").rstrip("\n"))
        return
    if hint:
        note(hint)
    head = "\x1b[1;31merror:\x1b[0m" if coloured(sys.stderr) else "error:"
    note(f"{head} {error.message}")


def _text(cell: Cell | str) -> str:
    return _printable(cell if isinstance(cell, str) else cell.text)


def _printable(text: str) -> str:
    """The text with its control characters spelled out: values come from strangers too."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _paint(cell: Cell | str, colour: bool) -> str:
    code = "" if isinstance(cell, str) else _STYLES[cell.style]
    return f"\x1b[{code}m{_text(cell)}\x1b[0m" if code and colour else _text(cell)


def text_of(value: object) -> str:
    """A JSON value as a person writes it: yes, no, - for nothing, a list with commas."""
    if value is None or value in ([], {}, ""):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(text_of(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={text_of(item)}" for name, item in value.items())
    return str(value)


def rows_of(document: Mapping[str, Any], *names: str) -> list[tuple[str, object]]:
    """Rows for fields(): those of the document that are named, or all, with their names as words."""
    wanted = names or [name for name in document if name != "schema_version"]
    return [(name.replace("_", " "), document[name]) for name in wanted]


def fields(rows: Sequence[tuple[str, object]]) -> str:
    """``name  value`` lines, one for each row.  Nothing is cut: a terminal folds what is too long."""
    width = max(len(name) for name, _ in rows)
    return "".join(
        f"{_printable(name).ljust(width)}  {_printable(text_of(value))}".rstrip() + "\n"
        for name, value in rows
    )


def lines(texts: Sequence[Cell | str], indent: str = "") -> None:
    """Write lines to stdout.  On a terminal they are folded between words, what follows under indent.

    One that is indented already stays whole: it is a command, to be copied.
    """
    terminal = is_terminal()
    colour = terminal and coloured(sys.stdout)
    parts = []
    for text in texts:
        folded = [_text(text)]
        if terminal and not folded[0].startswith(" "):
            import textwrap

            folded = textwrap.wrap(
                _text(text),
                terminal_width(),
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        style = "" if isinstance(text, str) else text.style
        parts += [_paint(Cell(line, style), colour) + "\n" for line in folded]
    write("".join(parts))


Rows = Sequence[Sequence[Cell | str]]


def table(
    columns: Sequence[Column],
    rows: Rows,
    *,
    title: Sequence[Cell | str] = (),
    below: Sequence[Cell | str] = (),
    everything: str = "-o json shows everything",
) -> None:
    """Write a table to stdout: boxes and colour on a terminal, aligned columns elsewhere.

    title and below: lines around the table.  Without a terminal nothing is hidden or folded.  On one that
    is too narrow, columns are hidden first, as they are declared; a line below names them, and everything
    says where they are.  Then cells are folded between words.  Where that does not do, because an
    identifier is never broken, each row becomes a record: a line for each of its cells.
    """
    terminal = is_terminal()
    colour = terminal and coloured(sys.stdout)
    parts = [_paint(line, colour) + "\n" for line in title]
    if not terminal:
        parts.append(_aligned(columns, rows))
    else:
        keep, widths = _fit(columns, rows, terminal_width())
        if widths is None:
            records = _records(columns, rows, colour)
            parts += ["\n" if title else "", records, "\n" if below else ""]
        else:
            shown = [columns[i] for i in keep]
            parts.append(_boxed(shown, [[row[i] for i in keep] for row in rows], widths, colour))
        if len(keep) < len(columns):
            import textwrap

            hidden = ", ".join(columns[i].heading.lower() for i in range(len(columns)) if i not in keep)
            lines = textwrap.wrap(f"hidden at this width: {hidden}; {everything}", terminal_width())
            parts += [_paint(Cell(line, "dim"), colour) + "\n" for line in lines]
    parts += [_paint(line, colour) + "\n" for line in below]
    write("".join(parts))


def screen_table(
    columns: Sequence[Column], rows: Rows, *, title: Sequence[Cell | str], below: Sequence[Cell | str]
) -> str:
    """The text of a table for a screen that is drawn again and again: without boxes, as wide as the terminal.

    Columns are hidden as in `table`, and nobody is told of them.
    """
    from rich.cells import cell_len

    colour = coloured(sys.stdout)
    keep, widths = _fit(columns, rows, terminal_width(), each=2, more=-2)
    if widths is None:  # a name as long as that: the screen cuts the rest off
        widths = [max(cell_len(_text(row[i])) for row in [_headings(columns), *rows]) for i in keep]
    parts = [_paint(line, colour) for line in title]
    for row in [_headings(columns), *rows]:
        cells = []
        for i, width in zip(keep, widths, strict=True):
            blanks, text = " " * (width - cell_len(_text(row[i]))), _paint(row[i], colour)
            cells.append(blanks + text if columns[i].right else text + blanks)
        parts.append("  ".join(cells))
    return "\n".join([*parts, *(_paint(line, colour) for line in below)])


def _headings(columns: Sequence[Column]) -> list[Cell | str]:
    return [Cell(column.heading, "bold") for column in columns]


def _fit(
    columns: Sequence[Column], rows: Rows, limit: int, *, each: int = 3, more: int = 1
) -> tuple[list[int], list[int] | None]:
    """The columns to show, and the width of each; no widths: the rows have to become records.

    A row takes `each` characters for every cell and `more` beside: blanks, and the lines of the box.
    """
    from rich.cells import cell_len

    whole, least = [], []
    for i, column in enumerate(columns):
        texts = [column.heading, *(_text(row[i]) for row in rows)]
        whole.append(max(map(cell_len, texts)))
        words = [word for text in texts for word in text.split()]
        least.append(whole[i] if column.identifier else max(map(cell_len, words), default=0))
    every = list(range(len(columns)))

    def excess(shown: Sequence[int], widths: Sequence[int]) -> int:
        return more + sum(widths[i] + each for i in shown) - limit

    keep = [i for i in every if not columns[i].drop]
    for i in sorted(set(every) - set(keep), key=lambda i: -columns[i].drop):
        if excess([*keep, i], whole) <= 0:
            keep.append(i)
    keep.sort()
    if excess(keep, least) > 0:
        return every, None
    while (over := excess(keep, whole)) > 0:
        # The widest gives way first, no further than to the next one's width.
        first, *others = sorted((i for i in keep if whole[i] > least[i]), key=lambda i: -whole[i])
        second = min(whole[others[0]], whole[first] - 1) if others else 0
        whole[first] = max(whole[first] - over, least[first], second)
    return keep, [whole[i] for i in keep]


def _records(columns: Sequence[Column], rows: Rows, colour: bool) -> str:
    width = max(len(column.heading) for column in columns)
    return "\n".join(
        "".join(
            f"{column.heading.lower().ljust(width)}  {_paint(cell, colour)}\n"
            for column, cell in zip(columns, row, strict=True)
        )
        for row in rows
    )


def _aligned(columns: Sequence[Column], rows: Rows) -> str:
    lines = [[column.heading for column in columns], *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "".join(
        "  ".join(
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        + "\n"
        for line in lines
    )


def _boxed(columns: Sequence[Column], rows: Rows, widths: Sequence[int], colour: bool) -> str:
    import io

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"good": "green", "warn": "yellow", "bad": "bold red", "dim": "dim", "bold": "bold"}
    drawn = Table(box=box.ROUNDED, header_style="bold", border_style="dim", pad_edge=True)
    for column, width in zip(columns, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column.right else "left"
        drawn.add_column(Text(column.heading), justify=justify, width=width)
    for row in rows:
        drawn.add_row(
            *(
                Text(_text(cell), style="" if isinstance(cell, str) else styles.get(cell.style, ""))
                for cell in row
            )
        )
    # Drawn into memory and written by write(), the one place that knows what a closed stdout means.
    console = Console(
        file=io.StringIO(),
        force_terminal=True,
        color_system="standard" if colour else None,
        width=terminal_width(),
        highlight=False,
    )
    with console.capture() as captured:
        console.print(drawn)
    return captured.get()


class Progress:
    """Progress of a long command, on stderr: a bar on a terminal, a line now and then elsewhere.

    total: 1 or more.  Nothing that happens to stderr fails the command.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._next_s = 0.0 if self._terminal else _LINE_EVERY_S
        self._drawn = False

    def show(self, done: int, elapsed_s: float, text: str) -> None:
        """Show done of total after elapsed_s; drawn only when due."""
        if elapsed_s < self._next_s:
            return
        if not self._terminal:
            self._next_s = elapsed_s + _LINE_EVERY_S
            note(f"{done} of {self._total}: {text}")
            return
        self._next_s = elapsed_s + 0.1
        width = max(10, min(40, terminal_width() - len(text) - 24))
        filled = width * done // self._total
        self._draw(f"[{'#' * filled}{'.' * (width - filled)}] {done}/{self._total} {text}")

    def clear(self) -> None:
        """Remove the bar; it comes back with the next show()."""
        if self._drawn:
            self._draw("")
            self._drawn = False

    def _draw(self, line: str) -> None:
        self._drawn = True
        try:
            sys.stderr.write(f"\r{line}\x1b[K")  # ECMA-48 EL
            sys.stderr.flush()
        except (OSError, ValueError):
            return


def clear_screen() -> None:
    """Cursor home and erase to the end (ECMA-48 CUP, ED) when stdout is a terminal."""
    if is_terminal():
        write("\x1b[H\x1b[2J")
