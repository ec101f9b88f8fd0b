"""Reading what the project says about itself: the pages, and the strings of the package."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Made from the command tree and the routes: what they say is checked where it is written.
GENERATED = {"docs/cli.md"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.  info: what follows the opening fence.  line: of its first line."""

    page: str
    info: str
    text: str
    line: int


@dataclass(frozen=True)
class Text:
    """A piece of prose or code, and where it stands."""

    where: str
    text: str


@functools.cache
def pages() -> dict[str, str]:
    """Every page that people read, by its path below the root."""
    found = [
        path
        for pattern in ("*.md", "docs/**/*.md", "upstream/**/*.md", "cyoloctl/**/*.md", "benchmarks/*.md")
        for path in ROOT.glob(pattern)
    ]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(found)}


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    info, first, lines = None, 0, []  # type: tuple[str | None, int, list[str]]
    for number, line in enumerate(pages()[page].splitlines(), 1):
        fence = line.strip().startswith("```")
        if fence and info is None:
            info, first, lines = line.strip()[3:].strip(), number + 1, []
        elif fence and info is not None:
            found.append(Block(page, info, "\n".join(lines) + "\n", first))
            info = None
        elif info is not None:
            lines.append(line)
    assert info is None, f"{page}: a block is not closed"
    return found


def prose(page: str) -> str:
    """A page without its fenced blocks; the lines keep their numbers."""
    kept, inside = [], False
    for line in pages()[page].splitlines():
        fence = line.strip().startswith("```")
        kept.append("" if inside or fence else line)
        inside ^= fence
    return "\n".join(kept)


def spans(page: str) -> Iterator[Text]:
    """Text in backticks in the prose of a page."""
    for number, line in enumerate(prose(page).splitlines(), 1):
        for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", line.replace("\\|", "|")):
            yield Text(f"{page}:{number}", span)


def quotations() -> Iterator[Text]:
    """Messages of the program that pages quote.

    In backticks in the first column of a table headed "what you see", and in blocks marked ``message``.
    """
    heading = "| what you see |"
    for page in pages():
        inside = False
        for number, line in enumerate(prose(page).splitlines(), 1):
            inside = line.startswith(heading) or (inside and line.startswith("|"))
            if inside and not line.startswith(heading):
                first = line.replace("\\|", "/").split("|")[1]
                yield from (Text(f"{page}:{number}", quoted) for quoted in re.findall(r"`([^`]+)`", first))
        for block in blocks(page):
            if block.info == "message":
                yield Text(f"{page}:{block.line}", block.text.strip().removeprefix("error: "))


def sources() -> list[Path]:
    """The modules of the package."""
    return sorted((ROOT / "cyoloctl").rglob("*.py"))


def text_of(node: ast.AST) -> str | None:
    """The text of a string, a formatted one or a sum of them; what is filled in becomes ``{}``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(value) or "{}" for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left), text_of(node.right)
        return None if left is None and right is None else (left or "{}") + (right or "{}")
    return None


@functools.cache
def strings(*, docstrings: bool = True) -> tuple[Text, ...]:
    """Every string of the package, each once and whole; without docstrings, those that may be printed."""
    found: list[Text] = []

    def walk(node: ast.AST, where: str) -> None:
        text = text_of(node)
        if text is not None:
            found.append(Text(f"{where}:{getattr(node, 'lineno', 0)}", text))
        elif docstrings or not isinstance(node, ast.Expr) or text_of(node.value) is None:
            for child in ast.iter_child_nodes(node):
                walk(child, where)

    for path in sources():
        walk(ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(ROOT)))
    return tuple(found)


# What varies in a message, with the unit of a number.
VARIES = re.compile(r"\.\.\.|\S*(?:\d|\b[A-Z]{2,})\S*(?: (?:days|hours|minutes|seconds|s|MiB)\b)?")


@functools.lru_cache(16)
def fixed(quotation: str) -> tuple[str, ...]:
    """The parts of a quotation that do not vary, in order."""
    return tuple(part.strip() for part in VARIES.split(quotation))


def occurs(quotation: str, source: str) -> bool:
    """Whether the fixed parts of a quotation stand in a message, in their order."""
    at = 0
    for part in fixed(quotation):
        found = source.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True
