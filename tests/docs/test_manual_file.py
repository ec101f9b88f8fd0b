"""The manual in one file: whole, with links that lead somewhere, and nothing from elsewhere."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.reading import ROOT
from tools import manual


class Found(HTMLParser):
    """What a browser would find in a document."""

    VOID = frozenset({"meta", "img", "br", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.labels: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = {name: value or "" for name, value in attrs}
        self.attributes += given.items()
        self.ids += [given["id"]] if "id" in given else []
        self.labels += [given["data-label"]] if tag == "td" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:  # <img /> is told as its end too
            assert self.open.pop() == tag, f"</{tag}> in {self.open}"


@pytest.fixture(scope="module")
def text() -> str:
    return manual.document()


@pytest.fixture(scope="module")
def found(text: str) -> Found:
    return Found(text)


def tree(root: Path, pages: dict[str, str]) -> Path:
    for name, content in {
        "cyoloctl/__init__.py": '__version__ = "9.9.9"\n',
        "CHANGELOG.md": "# Changes\n",
        **pages,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, "utf-8")
    return root


def test_every_page_is_in_it_once_and_in_the_order_of_the_index() -> None:
    pages = [page for group in manual.order(ROOT).values() for page in group]
    assert len(pages) == len(set(pages))
    docs = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
    assert docs | {"README.md", "CHANGELOG.md"} <= set(pages)
    assert (pages[0], pages[1], pages[-1]) == ("README.md", "docs/index.md", "CHANGELOG.md")
    assert pages.index("docs/install.md") < pages.index("docs/operating.md") < pages.index("docs/cli.md")


def test_document_is_well_formed_and_no_two_things_have_one_id(found: Found) -> None:
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))


def test_every_link_leads_to_a_place_in_the_file(found: Found) -> None:
    links = [value for name, value in found.attributes if name == "href"]
    assert len(links) > 200
    assert {link for link in links if link[:1] != "#" or link[1:] not in found.ids} == set()


def test_nothing_is_fetched_and_nothing_runs(found: Found, text: str) -> None:
    assert not found.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert {name for name, _ in found.attributes if name.startswith("on")} == set()
    pictures = [value for name, value in found.attributes if name == "src"]
    assert len(pictures) == len(re.findall(r"!\[[^]]*\]\(", "".join(_pages())))
    assert {picture[:11] for picture in pictures} == {"data:image/"}
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    for picture in pictures:
        kind, data = re.fullmatch(r"data:image/([a-z+]+);base64,(.+)", picture).groups()  # type: ignore[union-attr]
        assert base64.b64decode(data, validate=True)[:4] == {"png": b"\x89PNG", "svg+xml": b"<svg"}[kind]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in found.attributes


def _pages() -> list[str]:
    return [(ROOT / page).read_text("utf-8") for group in manual.order(ROOT).values() for page in group]


def test_another_process_makes_the_same_bytes(text: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "manual.html"
    done = subprocess.run(
        [sys.executable, "-m", "tools.manual", "--out", out],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    assert out.read_bytes() == text.encode("utf-8")


def test_link_out_of_the_file_is_text_with_its_address_or_path(tmp_path: Path) -> None:
    index = (
        "# Index\n\nSee [the RFC](https://example.com/rfc), [a script](../examples/scripts/backup.sh), "
        "[two](OTHER#a-b-c) and [here](#there).\n\n## There\n"
    )
    pages = {
        "README.md": "# First\n",
        "docs/index.md": index.replace("OTHER", "time.md"),
        "docs/time.md": "# Two\n\n## A `b` (c)\n",
    }
    text = manual.document(tree(tmp_path, pages))
    assert '<span class="outside">the RFC</span> (https://example.com/rfc)' in text
    assert '<span class="outside">a script</span> (examples/scripts/backup.sh)' in text
    assert '<a href="#time.a-b-c">two</a>' in text
    assert 'id="time.a-b-c"' in text
    assert '<a href="#index.there">here</a>' in text


def test_page_that_the_index_does_not_name_is_there_too(tmp_path: Path) -> None:
    pages = {"README.md": "# First\n", "docs/index.md": "# Index\n", "docs/locks.md": "# Lost\n"}
    root = tree(tmp_path, pages)
    assert manual.order(root)["What changed"] == ["docs/locks.md", "CHANGELOG.md"]
    assert '<section id="locks">' in manual.document(root)


def test_markup_in_a_page_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    hostile = "# <b>Title</b>\n\n<script>alert(1)</script> `<i>`\n\n```bash\necho '<u>'  # <s>\n```\n"
    text = manual.document(tree(tmp_path, {"README.md": hostile, "docs/index.md": "# Index\n"}))
    assert not Found(text).tags & {"b", "script", "u", "s"}
    assert "&lt;script&gt;" in text


def test_repeated_heading_has_an_id_of_its_own(tmp_path: Path) -> None:
    pages = {"README.md": "# A\n\n## X\n\n## X\n", "docs/index.md": "# Index\n"}
    assert {"readme.x", "readme.x-1"} <= set(Found(manual.document(tree(tmp_path, pages))).ids)


def test_cell_knows_its_column_for_a_narrow_screen(tmp_path: Path) -> None:
    table = "# T\n\n| what | so `x` |\n|---|---|\n| a | b |\n| c | d |\n"
    text = manual.document(tree(tmp_path, {"README.md": table, "docs/index.md": "# Index\n"}))
    assert Found(text).labels == ["what", "so x", "what", "so x"]
