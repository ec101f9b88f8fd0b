"""Make the manual: README, every page of docs/ and the changelog in one HTML file, to be read offline.

``python -m tools.manual --out FILE``; `make manual` writes ``dist/manual.html``, and every bundle holds it.

The file needs nothing beside it: pictures and style are in it, links between pages lead to their headings,
and there is no script.  What leads out of it is text: a page of the web with its address, a file with its
path in the bundle.  The same pages and the same markdown-it-py give the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import html
import posixpath
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from markdown_it.token import Token

__all__ = ["anchor", "document", "main", "order"]

_ROOT = Path(__file__).resolve().parents[1]
_STYLE = Path(__file__).with_suffix(".css")
_INDEX, _FIRST, _LAST = "docs/index.md", "README.md", "CHANGELOG.md"
_LINK = re.compile(r"\]\(([^)\s#]+\.md)(?:#[^)]*)?\)")
_PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}
_WRAPPED = {"bash", "sh", "python", "py", "yaml", "json", "message", "symptom"}
"""Blocks whose long lines may be broken at the edge; columns of others stay under each other."""
_SHORT = 32
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def order(root: Path) -> dict[str, list[str]]:
    """Paths of the pages below the root, in the order of reading, by the headings of the index.

    A page of docs/ that the index does not name stands before the changelog.
    """
    found: dict[str, list[str]] = {"": [_FIRST, _INDEX]}
    heading = ""
    for line in (root / _INDEX).read_text("utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        for target in _LINK.findall(line):
            path = posixpath.normpath(posixpath.join("docs", target))
            if not any(path in pages for pages in found.values()):
                found.setdefault(heading, []).append(path)
    named = {path for pages in found.values() for path in pages}
    rest = sorted(f"docs/{path.name}" for path in (root / "docs").glob("*.md"))
    found["What changed"] = [path for path in rest if path not in named] + [_LAST]
    return found


def anchor(path: str, heading: str = "") -> str:
    """Id in the file of a page, or of a heading of it as GitHub names headings."""
    page = path.removesuffix(".md").removeprefix("docs/").lower()
    page = page.removesuffix("/readme").removeprefix("cyoloctl/").replace("/", "-")
    return f"{page}.{heading}" if heading else page


@dataclass
class _Page:
    path: str
    tokens: list[Token]
    title: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)
    """Anchor and text of each heading below the title."""


class _Writer:
    """Turns the pages of one tree into one document."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        # mypy of markdown-it-py wants functions that take the renderer first.
        self._markdown.renderer.rules.update(  # type: ignore[attr-defined]
            fence=self._fence,
            code_inline=lambda tokens, index, *_: f"<code>{_code(tokens[index].content)}</code>",
            table_open=lambda *_: '<div class="table"><table>\n',
            table_close=lambda *_: "</table></div>\n",
        )
        self._groups = {
            heading: [self._read(path) for path in paths] for heading, paths in order(root).items() if paths
        }
        self._paths = {page.path for page in self._pages()}

    def _pages(self) -> Iterator[_Page]:
        for pages in self._groups.values():
            yield from pages

    def _read(self, path: str) -> _Page:
        page = _Page(path, self._markdown.parse((self._root / path).read_text("utf-8")))
        seen: dict[str, int] = {}
        for opening, inline in zip(page.tokens, page.tokens[1:], strict=False):
            if opening.type != "heading_open":
                continue
            text = "".join(child.content for child in inline.children or ())
            name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            seen[name] = seen.get(name, -1) + 1
            name += f"-{seen[name]}" if seen[name] else ""
            opening.attrSet("id", anchor(path, name))
            if opening.tag == "h1":
                page.title = text
            elif opening.tag == "h2":
                page.sections.append((anchor(path, name), text))
        return page

    def _fence(self, tokens: Sequence[Token], index: int, *_: object) -> str:
        token = tokens[index]
        kind = token.info.split()[0] if token.info else "text"
        code = _code(token.content)
        if kind in ("bash", "sh"):
            # With its blanks and the end of its line: a narrow screen shows a remark below its command.
            code = re.sub(r"(?m)(?:^|  +)# .*\n", r"<i>\g<0></i>", code)
        if kind == "symptom":  # where it is seen, then its words
            code = re.sub(r"(?m)^([a-z]+(?: \w+)?)(.*\n)", r'<span class="line"><b>\1</b>\2</span>', code)
        how = "wrapped" if kind in _WRAPPED else "columns"
        how += " symptom" if kind == "symptom" else ""
        return f'<pre class="{how}" tabindex="0"><code>{code}</code></pre>\n'

    def document(self, version: str) -> str:
        """The whole file."""
        for page in self._pages():
            _label_cells(page.tokens)
            _lower_headings(page.tokens)
            for token in page.tokens:
                if token.children:
                    token.children = list(self._lead(token.children, page.path))
        sections = "".join(
            f'<section id="{anchor(page.path)}">\n'
            f"{self._markdown.renderer.render(page.tokens, self._markdown.options, {})}</section>\n"
            for page in self._pages()
        )
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>cyoloctl {version}: the manual</title>\n"
            f"<style>\n{_STYLE.read_text('utf-8')}</style>\n</head>\n<body>\n"
            '<nav id="contents" aria-label="Contents">\n'
            f'<p class="name">cyoloctl <span>{version}</span></p>\n{self._contents()}</nav>\n'
            f'<main>\n{sections}</main>\n<a class="up" href="#contents">Contents</a>\n</body>\n</html>\n'
        )

    def _contents(self) -> str:
        made = []
        for heading, pages in self._groups.items():
            made.append(f"<h2>{html.escape(heading)}</h2>\n" if heading else "")
            made.append("<ul>\n")
            for page in pages:
                title = f'<a href="#{anchor(page.path)}">{html.escape(page.title)}</a>'
                if page.sections:
                    links = "".join(
                        f'<li><a href="#{name}">{html.escape(text)}</a></li>\n'
                        for name, text in page.sections
                    )
                    title = f"<details><summary>{title}</summary>\n<ul>\n{links}</ul>\n</details>"
                made.append(f"<li>{title}</li>\n")
            made.append("</ul>\n")
        return "".join(made)

    def _lead(self, tokens: Iterable[Token], path: str) -> Iterator[Token]:
        """Inline tokens of a page, with links that lead within the file or are text, and pictures inside."""
        after: list[str] = []
        for token in tokens:
            if token.type == "image":
                source = posixpath.normpath(posixpath.join(posixpath.dirname(path), str(token.attrs["src"])))
                data = base64.b64encode((self._root / source).read_bytes()).decode("ascii")
                token.attrs["src"] = f"data:{_PICTURES[posixpath.splitext(source)[1]]};base64,{data}"
            elif token.type == "link_open":
                target, note = self._target(str(token.attrs["href"]), path)
                after.append(note)
                token.tag = "a" if target else "span"
                token.attrs = {"href": target} if target else {"class": "outside"}
            elif token.type == "link_close":
                note = after.pop()
                token.tag = "span" if note else "a"
                yield token
                if note:
                    yield _text(token, note)
                continue
            yield token

    def _target(self, href: str, path: str) -> tuple[str, str]:
        """Where a link leads in the file; or nothing, and what to write after its text."""
        if re.match(r"[a-z]+:", href):
            return "", f" ({href})"
        file, _, heading = href.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), file)) if file else path
        pages = [each for each in (file, f"{file}/README.md") if each in self._paths]
        return (f"#{anchor(pages[0], heading)}", "") if pages else ("", f" ({file})")


def _code(text: str) -> str:
    """Code as HTML.  A line is not broken inside of an option or a short name."""
    return re.sub(
        r"(?<!\S)\S*-\S*",
        lambda word: f"<span>{word[0]}</span>" if len(html.unescape(word[0])) <= _SHORT else word[0],
        html.escape(text),
    )


def _text(near: Token, content: str) -> Token:
    made = near.copy(type="text", tag="", nesting=0, content=content)
    made.attrs = {}
    return made


def _lower_headings(tokens: Iterable[Token]) -> None:
    """The title of a page is a second level of the whole."""
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"


def _label_cells(tokens: Iterable[Token]) -> None:
    """Give each cell of a table the heading of its column: a narrow screen shows cells below each other."""
    headings: list[str] = []
    column, inside = 0, ""
    for token in tokens:
        if token.type == "thead_open":
            headings = []
        elif token.type == "tr_open":
            column = 0
        elif token.type in ("th_open", "td_open"):
            inside = token.tag
            if inside == "td":
                token.attrSet("data-label", headings[column])
            column += 1
        elif token.type == "inline" and inside == "th":
            headings.append("".join(child.content for child in token.children or ()))
        if token.type in ("th_close", "td_close"):
            inside = ""


def document(root: Path = _ROOT) -> str:
    """The manual of a tree, as HTML."""
    found = re.search(r'^__version__ = "([^"]+)"$', (root / "cyoloctl/__init__.py").read_text("utf-8"), re.M)
    assert found is not None
    return _Writer(root).document(found.group(1))


def main(arguments: Sequence[str]) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python -m tools.manual", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("dist/manual.html"), metavar="FILE")
    out: Path = parser.parse_args(arguments).out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(document(), "utf-8")
    sys.stdout.write(f"{out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
