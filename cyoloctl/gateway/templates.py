"""The pages: HTML without a script, and the headers that protect it.

The pages are the files in pages/, read once, when this module is imported.

They are `Markup`: what strangers said (who asks, from where, for what) is escaped
where `format` puts it into the page, and only into text and quoted attributes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources

from markupsafe import Markup

__all__ = [
    "BEGIN",
    "DECIDE",
    "ENTER",
    "GO_ON",
    "PAGE",
    "REDEEMED",
    "SECURITY",
    "SIGN_IN",
    "WAIT",
    "buttons",
    "clock",
    "data_html",
    "left",
    "refresh",
]


def _read(name: str) -> Markup:
    return Markup(resources.files("cyoloctl.gateway").joinpath("pages", name).read_text(encoding="utf-8"))


_STYLE = "\n" + _read("style.css")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

SECURITY = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Frame-Options": "DENY",
    # Not no-referrer: then browsers say "Origin: null" of our own forms (Fetch, append a request Origin).
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

PAGE = _read("page.html").replace("{style}", _STYLE.replace("{", "{{").replace("}", "}}"))
BEGIN = _read("begin.html").removesuffix("\n")
DECIDE = _read("decide.html").removesuffix("\n")
ENTER = _read("enter.html").removesuffix("\n")
GO_ON = _read("go_on.html").removesuffix("\n")
REDEEMED = _read("redeemed.html").removesuffix("\n")
SIGN_IN = _read("sign_in.html").removesuffix("\n")
WAIT = _read("wait.html").removesuffix("\n")


def refresh(seconds: int | None) -> Markup:
    """The element that has the browser load the page again; None: no such element."""
    if seconds is None:
        return Markup()
    return Markup('<meta http-equiv="refresh" content="{s}">\n').format(s=seconds)


def buttons(kinds: Sequence[str]) -> Markup:
    """A button that begins each of the kinds."""
    one = Markup('<button type="submit" name="kind" value="{kind}">Begin \u201c{kind}\u201d</button>')
    return Markup("\n").join(one.format(kind=kind) for kind in kinds)


def left(seconds: int) -> str:
    if seconds < 90:
        return f"{seconds} second{'' if seconds == 1 else 's'}"
    minutes = seconds // 60
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"


def data_html(heading: str, data: Mapping[str, str]) -> Markup:
    """A list of what somebody said, nothing for no data."""
    if not data:
        return Markup()
    row = Markup("<div><dt><bdi>{key}</bdi></dt><dd><bdi>{value}</bdi></dd></div>\n")
    rows = Markup().join(row.format(key=key, value=value) for key, value in sorted(data.items()))
    return Markup("<h2>{heading}</h2>\n<dl>\n{rows}</dl>").format(heading=heading, rows=rows)


def clock(rfc3339: str) -> str:
    return f"{rfc3339[:10]} {rfc3339[11:19]} UTC"
