"""Messages that pages quote are messages that the program prints.

Two places quote messages: the first column of a table headed "what you see", in backticks, and blocks
marked ``message``.  In a quotation capitals (NAME), numbers and ``...`` stand for what varies.
"""

from __future__ import annotations

import re

import pytest

from cyoloctl.errors import error_classes
from tests.docs.reading import VARIES, Text, occurs, quotations, strings

QUOTATIONS = list(quotations())
#: Words of the output that are no message: codes of errors and headings of a table.
WORDS = {cls.code for cls in error_classes()}


def test_pages_quote_messages() -> None:
    assert len(QUOTATIONS) > 20


@pytest.mark.parametrize("quotation", QUOTATIONS, ids=lambda q: f"{q.where} {q.text[:40]}")
def test_quoted_message_is_one_that_the_program_prints(quotation: Text) -> None:
    assert len("".join(VARIES.split(quotation.text))) >= 4, "nothing of it is fixed"
    assert quotation.text in WORDS or any(
        occurs(quotation.text, text.text) for text in strings(docstrings=False)
    )


@pytest.mark.parametrize(
    ("quotation", "source", "expected"),
    [
        ("NAME answers there, not NAME", "{} answers there, not {}: check the address", True),
        ("the clock of n3 is 9 days ahead", "the clock of {} is {} ahead", True),
        ("no space left", "the disk is full: make space", False),
        ("ahead ... of the clocks", "of the clocks, ahead", False),
    ],
)
def test_check_of_a_quotation_knows_what_varies(quotation: str, source: str, expected: bool) -> None:
    assert occurs(quotation, source) is expected


#: Modules whose errors programs get from the library, as well as people from a command.
SHARED = re.compile(r"cyoloctl/(control/(calls|client|connection|endpoints)|\w+/client|web/steps)\.py")


def test_messages_that_programs_get_too_name_options_of_commands_in_parentheses_only() -> None:
    texts = [text for text in strings(docstrings=False) if SHARED.match(text.where)]
    assert len(texts) > 100
    # What is in parentheses or backticks, or is a whole command, is said beside the words.
    aside = re.compile(r"\([^()]*\)|`[^`]*`|cyoloctl [a-z].*")
    named = [
        f"{text.where}: {text.text}" for text in texts if re.search(r"--[a-z]", aside.sub("", text.text))
    ]
    assert named == []
