"""Answers of operations that are more than one command, remembered under their request ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from cyoloctl.replicated.checks import text
from cyoloctl.replicated.command import Malformed
from cyoloctl.replicated.machine import NO_ROWS, Machine, Operations, Rows
from cyoloctl.text import Json, canonical_json

__all__ = ["MAX_ANSWER_LENGTH", "AnswerMachine"]

MAX_ANSWER_LENGTH = 4096
"""Characters of an answer, and of what it is about, as canonical JSON."""


class AnswerMachine(Machine):
    """One operation, and no state: the memory of request ids is what keeps the answer.

    ``keep {operation, about, answer}`` -> ``{answer}``: an operation of the API
    was done.  about: what was asked for.  Whoever repeats it under the same
    request id gets the first answer, for as long as the id is remembered, and
    another operation, or the same about something else, is a conflict.

    No secret belongs into an answer: it is in the journal and in snapshots.
    """

    NAME = "answers"
    DRAWN: ClassVar[dict[str, frozenset[str]]] = {"keep": frozenset({"answer"})}
    STATELESS = True

    def __init__(self) -> None:
        super().__init__(_OPERATIONS)

    def _keep(self, given: Json, index: int, now_unix_ms: int) -> Json:
        return {"answer": given["answer"]}

    def export_state(self) -> Json:
        """Nothing."""
        return {}

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Check that there is nothing.  Raises ValueError."""
        if state != {}:
            raise ValueError("answers have no state")
        return lambda: None


def _small_object(value: object) -> Json:
    if type(value) is not dict or len(canonical_json(value)) > MAX_ANSWER_LENGTH:
        raise Malformed(f"an answer is not valid: use an object of at most {MAX_ANSWER_LENGTH} characters")
    return value


_OPERATIONS: Operations = {
    "keep": (
        {
            "operation": text("[a-z_]{1,64}", "the operation is not valid: use the name of one of the API"),
            "about": _small_object,
            "answer": _small_object,
        },
        AnswerMachine._keep,
    ),
}
