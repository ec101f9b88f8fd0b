"""Every file that a page, a docstring or a comment names is there, and so is every heading that is linked."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.reading import GENERATED, ROOT, blocks, pages, prose, spans

ENDINGS = "py|md|json|toml|sh|bash|fish|yaml|yml|png|svg|css|html"
NAMED = re.compile(rf"(?<![\w/.*<{{-])((?:[\w.-]+/)*[\w-]+\.(?:{ENDINGS}))(?![\w/.*])")
# Files of a data directory, of an operator or of another program; of a run.
ELSEWHERE = {
    "node.yaml",
    "operator.yaml",
    "edge-1.yaml",
    "members.json",
    "pki/members.json",
    "peers.json",
    "report.md",
    "summary.json",
    "latency.svg",
    "syncobj.py",
    "reject-RULE-WHAT.json",
    "manual.html",
    "dist/manual.html",
}


def tracked() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0 and listed.stdout:
        return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    return {str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()}  # an sdist


FILES = tracked()


def missing(name: str, near: str) -> bool:
    """Whether no file has this name.

    A path may begin anywhere (``raft/DESIGN.md``), and so may the bare name of anything but a page; a bare
    page is beside the text or at the root.
    """
    if name in ELSEWHERE or {name, str(Path(near).parent / name)} & FILES:
        return False
    return (name.endswith(".md") and "/" not in name) or not any(file.endswith(f"/{name}") for file in FILES)


def anchors(page: str) -> set[str]:
    """Anchors that GitHub makes of the headings of a page."""
    found = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", sorted(pages()))
def test_links_of_a_page_lead_to_files_and_headings(page: str) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        if not file.exists() or (heading and heading not in anchors(str(file.relative_to(ROOT)))):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("page", sorted(set(pages()) - GENERATED))
def test_files_that_a_page_names_exist(page: str) -> None:
    named = [name for span in spans(page) for name in NAMED.findall(span.text)]
    named += [name for block in blocks(page) for name in re.findall(r"python (\S+\.py)", block.text)]
    assert [name for name in named if missing(name, page)] == []


@pytest.mark.parametrize("page", sorted(pages()))
def test_modules_that_a_page_runs_exist(page: str) -> None:
    texts = [span.text for span in spans(page)] + [block.text for block in blocks(page)]
    names = {name for text in texts for name in re.findall(r"python -m ([\w.]+)", text)}
    ours = {name for name in names if name.partition(".")[0] in {"cyoloctl", "tests", "benchmarks", "tools"}}
    paths = {name: name.replace(".", "/") for name in ours}
    assert [n for n, p in paths.items() if f"{p}.py" not in FILES and f"{p}/__main__.py" not in FILES] == []


# Those of upstream/ hold diffs of the vendor's files.
CODE = sorted(f for f in FILES if f.endswith((".py", "Makefile", ".toml")) and not f.startswith("upstream/"))


@pytest.mark.parametrize("file", CODE)
def test_pages_and_modules_that_code_names_exist(file: str) -> None:
    text = (ROOT / file).read_text("utf-8")
    # Not one part of a path: ROOT / "docs" / "cli.md".  A module by its path, or in backticks.
    named = re.findall(r"(?<![\w/.*{\"-])((?:[\w.-]+/)*[\w-]+\.md)\b", text)
    named += re.findall(r"(?<![\w/.*{\"'<-])((?:[\w-]+/)+[\w-]+\.(?:py|json|html|css|sh))\b", text)
    named += re.findall(r"`([\w-]+\.py)`", text)
    assert [name for name in named if missing(name, file)] == []


@pytest.mark.parametrize("page", sorted(p for p in pages() if p.startswith("docs/")))
def test_tests_that_a_page_names_exist(page: str) -> None:
    names = {span.text for span in spans(page) if re.fullmatch(r"test_\w+", span.text)}
    text = "".join((ROOT / file).read_text("utf-8") for file in FILES if re.search(r"test_\w+\.py$", file))
    assert {name for name in names if f"def {name}(" not in text} == set()


@pytest.mark.parametrize("file", sorted(f for f in FILES if f.startswith("docs/images/")))
def test_picture_is_small_shown_on_some_page_and_takes_nothing_from_the_network(file: str) -> None:
    picture = (ROOT / file).read_bytes()
    assert len(picture) < 96 * 1024
    links = set(re.findall(rb"https?://[^\s\"')]+", picture)) if file.endswith(".svg") else set()
    assert {link for link in links if b"w3.org" not in link and b"textualize.io" not in link} == set()
    assert any(Path(file).name in text for text in pages().values())


TOP = {
    *(".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"),
    *("benchmarks", "completions", "cyoloctl", "docs", "examples", "man", "monitoring", "packaging"),
    *("pyproject.toml", "tests", "tools", "upstream"),
}


def test_nothing_but_the_project_is_at_the_top() -> None:
    """What a command leaves in the directory where it was tried is easily committed with the rest."""
    assert {name.split("/")[0] for name in FILES} <= TOP | {"PKG-INFO"}  # the latter in an sdist


def test_no_file_holds_a_private_key() -> None:
    key = re.compile(rb"BEGIN [A-Z ]*PRIVATE KEY-----\r?\n[A-Za-z0-9+/=]{40}")
    files = [ROOT / file for file in sorted(FILES) if (ROOT / file).is_file()]
    assert [str(file) for file in files if key.search(file.read_bytes())] == []
