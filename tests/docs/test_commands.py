"""Every command that a message, a docstring or a page names is in the command tree, with its options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from cyoloctl.cli.modules import GROUPS, LEAVES
from cyoloctl.cli.tree import command_tree
from tests.docs.reading import GENERATED, ROOT, Text, blocks, pages, quotations, spans, strings

PROGRAM = "cyoloctl"
# What ends a command in a shell, or in a sentence.
END = re.compile(r" #|[;|&<>\n)`',]|: |\.(?:\s|$)| \.\.\.")
# The program's name before one of its words, or quoted before any: not "made by cyoloctl alone".
CALL = re.compile(
    r"(?:(?<=[`'(])|(?<![\w./:-])(?<!a )"
    rf"(?=cyoloctl (?:-|(?:{'|'.join([*GROUPS, *LEAVES])})\b)))cyoloctl (?=[a-z-])"
)
# What a message says to look at, without quotes: "see key status".
ADVICE = re.compile(rf"\b(?:see|run) ((?:{'|'.join(GROUPS)}) [a-z-]+)")
# "cyoloctl token v1": what is hashed to keep one use of a key from another, not a command.
DOMAIN = re.compile(r"cyoloctl [a-z ,'-]+ v?\d")


def complaint(text: str) -> str | None:
    """Fault of ``cyoloctl GROUP LEAF --option ...``, or None."""
    try:
        words = shlex.split(text.replace("{}", "X"))[1:]
    except ValueError:
        words = text.split()[1:]
    tree, path = command_tree(), []
    command = tree
    while words and hasattr(command, "commands"):
        options = {name: option for option in command.params for name in option.opts}
        if words[0].startswith("-") and len(words) > 1 and (option := options.get(words[0])):
            del words[: 1 if option.is_flag else 2]  # common options may stand before a sub-command
            continue
        if words[0].startswith("-"):
            break
        if path == ["help"] and words[0] not in command.commands:
            return complaint(" ".join([PROGRAM, *words]))  # `help key list` is about `key list`
        names = words.pop(0).split("|")  # `member show|list`
        for name in names:
            if name not in command.commands:
                return f"{' '.join([PROGRAM, *path, name])} is no command"
        path.append(names[0])
        command = command.commands[names[0]]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        name = word.partition("=")[0].strip("[]'\".")
        if name == "--":
            break
        if re.fullmatch(r"--[a-z][a-z-]*|-[a-zA-Z]", name) and name not in known | {"--help", "-h"}:
            return f"{' '.join([PROGRAM, *path])} has no option {name}"
    return None


def shell_commands(text: str) -> Iterator[str]:
    """The calls of the program in a script or a sentence, one text each."""
    joined = text.replace("\\\n", " ")
    for found in CALL.finditer(joined):
        # Quotes may hold what would end the command outside of them.
        rest = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", lambda m: "X" * len(m[0]), joined[found.start() :])
        end = END.search(rest)
        yield rest[: end.start()] if end else rest


def named(text: str) -> Iterator[str]:
    """Commands in a piece in backticks: with the program's name, or beginning with a group or leaf."""
    plain = text.strip()
    if plain.startswith(f"{PROGRAM} "):
        yield from shell_commands(plain)
    elif re.match(rf"({'|'.join(GROUPS)}) [a-z]|({'|'.join(LEAVES)}) --", plain):
        yield from shell_commands(f"{PROGRAM} {plain}")


def in_strings() -> list[Text]:
    found = []
    for string in strings():
        if DOMAIN.search(string.text):
            continue
        found += [Text(string.where, command) for command in shell_commands(string.text)]
        found += [Text(string.where, f"{PROGRAM} {advice}") for advice in ADVICE.findall(string.text)]
        for span in re.findall(r"(?<!`)`{1,2}([^`\n]+)`{1,2}(?!`)", string.text):
            found += [Text(string.where, command) for command in named(span)]
    return found


def in_page(page: str) -> list[Text]:
    quoted = {(text.where, text.text) for text in quotations()}
    found = [
        Text(span.where, command)
        for span in spans(page)
        if (span.where, span.text) not in quoted
        for command in named(span.text)
    ]
    for block in blocks(page):
        if block.info in {"python", "json", "yaml", "mermaid", "message"} or DOMAIN.search(block.text):
            continue
        found += [Text(f"{page}:{block.line}", command) for command in shell_commands(block.text)]
    return found


def test_commands_that_the_package_names_exist_with_their_options() -> None:
    commands = in_strings()
    assert len(commands) > 100
    assert [f"{c.where}: {wrong}" for c in commands if (wrong := complaint(c.text))] == []


@pytest.mark.parametrize("page", sorted(set(pages()) - GENERATED))
def test_commands_that_a_page_names_exist_with_their_options(page: str) -> None:
    assert [f"{c.where}: {wrong}" for c in in_page(page) if (wrong := complaint(c.text))] == []


@pytest.mark.parametrize("page", sorted(pages()))
def test_make_targets_that_a_page_names_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    texts = [span.text for span in spans(page)] + [line for b in blocks(page) for line in b.text.splitlines()]
    used = {found[1] for text in texts if (found := re.match(r"make ([a-z-]+)", text))}
    assert used - targets == set()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("cyoloctl member invite --name n2 --out f", None),
        ("cyoloctl member invite --nam n2", "cyoloctl member invite has no option --nam"),
        ("cyoloctl member expel n2", "cyoloctl member expel is no command"),
        ("cyoloctl members", "cyoloctl members is no command"),
        ("cyoloctl rendezvous claim|approve|deny ID", None),
        ("cyoloctl rendezvous claim|agree ID", "cyoloctl rendezvous agree is no command"),
        ("cyoloctl status -d DIR --check", None),
        ("cyoloctl -o json key -d DIR list", None),
        ("cyoloctl -o json key lists", "cyoloctl key lists is no command"),
        ("cyoloctl -o json status --chek", "cyoloctl status has no option --chek"),
        ("cyoloctl --nope status", "cyoloctl has no option --nope"),
        ("cyoloctl help key list", None),
        ("cyoloctl help key lists", "cyoloctl key lists is no command"),
    ],
)
def test_check_of_a_command_finds_what_is_wrong(text: str, wrong: str | None) -> None:
    assert complaint(text) == wrong


def test_commands_of_a_text_are_found_without_what_surrounds_them() -> None:
    text = (
        "run `cyoloctl node renew -d {}`, or (cyoloctl key rotate); a cyoloctl node\n  cyoloctl status # all"
    )
    assert [command.strip() for command in shell_commands(text)] == [
        "cyoloctl node renew -d {}",
        "cyoloctl key rotate",
        "cyoloctl status",
    ]
