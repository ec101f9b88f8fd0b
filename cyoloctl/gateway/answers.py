"""Answers of the gateway: pages for people, a line of text for programs."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from markupsafe import Markup

from cyoloctl.errors import (
    ApprovalRefused,
    BodyTooLarge,
    Conflict,
    CyoloctlError,
    Denied,
    Expired,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    SlowDown,
    Unavailable,
)
from cyoloctl.gateway.forms import RefusalPage
from cyoloctl.gateway.templates import PAGE, refresh

__all__ = ["TRY_AGAIN", "Answer", "page", "refusal_page", "text"]

_log = logging.getLogger("cyoloctl.gateway")

TRY_AGAIN = {"Retry-After": "2"}


@dataclass(slots=True)
class Answer:
    """An answer, before what protects it is added.  cookies: values of Set-Cookie."""

    status: int
    body: str = ""
    kind: str = "text/html"
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)


def text(status: int, body: str, **headers: str) -> Answer:
    """A line for a program.  headers: their names with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, body, "text/plain", named)


def page(
    node: str,
    status: int,
    title: str,
    body: Markup,
    headers: Mapping[str, str] | None = None,
    look_again_s: int | None = None,
) -> Answer:
    """A page that a node serves; with look_again_s the browser loads it again."""
    filled = PAGE.format(
        title=title, body=body, footer=f"Served by node {node}.", refresh=refresh(look_again_s)
    )
    return Answer(status, filled, headers=dict(headers or {}))


def refusal_page(error: Exception) -> RefusalPage:
    """The refusal that a person sees for an error, each kind with its own status."""
    text = error.message[:1].upper() + error.message[1:] + "." if isinstance(error, CyoloctlError) else ""
    match error:
        case NotFound():
            return RefusalPage(404, "Not found", text)
        case SlowDown():
            return RefusalPage(429, "Too many attempts", text, {"Retry-After": "600"})
        case Expired():
            return RefusalPage(410, "It has expired", text)
        case ApprovalRefused():
            return RefusalPage(403, "You cannot approve this", text)
        case Denied():
            return RefusalPage(409, "It was denied", text)
        case Conflict():
            return RefusalPage(409, "Already answered", text)
        case BodyTooLarge():
            return RefusalPage(413, "Too much", text)
        case InvalidInput():
            return RefusalPage(400, "This cannot be read", text)
        case OutcomeUnknown() | TimeoutError():
            return RefusalPage(
                504,
                "Not sure yet",
                "Your answer may or may not have been recorded. Reload this page to send it again: "
                "it counts once.",
            )
        case Overloaded():
            text = "There is too much to do at the moment. Nothing was changed: try again in a moment."
            return RefusalPage(503, "Try again", text, TRY_AGAIN)
        case Unavailable():
            text = "Too few nodes answer at the moment. Nothing was changed: try again in a moment."
            return RefusalPage(503, "Try again", text, TRY_AGAIN)
    incident = secrets.token_hex(4)
    _log.error("internal error %s", incident, exc_info=error)
    return RefusalPage(500, "Something failed here", f"Tell the operator the number {incident}.")
