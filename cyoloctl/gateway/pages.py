"""What people see: HTML without a script, and the headers that protect it.  Pure.

What strangers said (who asks, from where, for what) is escaped where it is put
into the page, and only into text and double-quoted attributes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape

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
    "Html",
    "buttons",
    "clock",
    "data_html",
    "fill",
    "left",
    "refresh",
]


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def fill(template: str, **values: object) -> Html:
    """Values into a template, escaped unless they are Html; for text and double-quoted attributes only."""
    return Html(
        template.format_map(
            {
                name: value if isinstance(value, Html) else escape(str(value), quote=True)
                for name, value in values.items()
            }
        )
    )


_STYLE = """
:root{color-scheme:light dark;--page:#f3f5f7;--card:#fff;--ink:#17212b;--soft:#51606e;--line:#d5dce3;
--go:#0b5fa8;--go-ink:#fff;--warn:#fff6e0;--warn-line:#b7791f;--warn-ink:#4a3200;--bad:#a3242a}
@media (prefers-color-scheme:dark){:root{--page:#10161c;--card:#18212a;--ink:#e8edf2;--soft:#a3b1be;
--line:#34424f;--go:#7cbcf5;--go-ink:#0b1a28;--warn:#33290f;--warn-line:#d69e2e;--warn-ink:#f6e3b4;--bad:#ff9a9e}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:1.0625rem/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Noto Sans","DejaVu Sans",sans-serif}
main{max-width:34rem;margin:0 auto;padding:1.25rem 1rem 2rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:1.25rem}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .75rem;overflow-wrap:anywhere}
h2{font-size:1.0625rem;margin:1.25rem 0 .25rem}
p{margin:0 0 1rem}
.soft,footer{color:var(--soft);font-size:.9375rem}
footer{padding:1rem .25rem;overflow-wrap:anywhere}
label{display:block;font-weight:600;margin-bottom:.375rem}
input[type=text]{width:100%;font:600 1.5rem/1.2 ui-monospace,"DejaVu Sans Mono",monospace;
letter-spacing:.08em;text-transform:uppercase;padding:.75rem;border:2px solid var(--soft);border-radius:.5rem;
background:var(--card);color:var(--ink);min-height:3.5rem}
input::placeholder{color:var(--soft);opacity:.6}
button,.button{display:block;width:100%;min-height:3.25rem;margin:1rem 0 0;padding:.75rem 1rem;
font:inherit;font-weight:600;text-align:center;text-decoration:none;border-radius:.5rem;
border:2px solid var(--go);background:var(--go);color:var(--go-ink);cursor:pointer}
button.no{background:transparent;border-color:var(--bad);color:var(--bad)}
:focus-visible{outline:3px solid var(--go);outline-offset:3px}
dl{margin:0 0 1rem;border-top:1px solid var(--line)}
dl div{display:flex;flex-wrap:wrap;gap:0 1rem;padding:.4375rem 0;border-bottom:1px solid var(--line)}
dt{flex:0 0 8rem;color:var(--soft);overflow-wrap:anywhere}
dd{flex:1 1 10rem;min-width:0;margin:0;overflow-wrap:anywhere;white-space:pre-wrap}
.warn{background:var(--warn);color:var(--warn-ink);border-left:.375rem solid var(--warn-line);
border-radius:.375rem;padding:.75rem 1rem;margin:0 0 1rem}
.warn p:last-child{margin:0}
.code{font:600 1.375rem/1.3 ui-monospace,"DejaVu Sans Mono",monospace;letter-spacing:.08em}
.big{font-size:2.25rem;text-align:center;margin:1.25rem 0}
.link{overflow-wrap:anywhere}
.row{display:flex;flex-wrap:wrap;gap:0 .75rem}
.row button{flex:1 1 9rem;width:auto}
a{color:var(--go)}
"""
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

PAGE = (
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
{refresh}<title>{title}</title>
<style>"""
    + _STYLE.replace("{", "{{").replace("}", "}}")
    + """</style>
</head>
<body>
<main>
<div class="card">
<h1>{title}</h1>
{body}
</div>
<footer>{footer}</footer>
</main>
</body>
</html>
"""
)

ENTER = """<p>Another device or program waits for your answer and shows a code. Enter it to see who asks and
for what. Nothing is approved yet.</p>
<form method="post" action="{root}rendezvous" autocomplete="off">
<input type="hidden" name="form" value="{form}">
<label for="user_code">Code</label>
<input type="text" id="user_code" name="user_code" value="{code}" required maxlength="20"
 placeholder="WDJB-MJHT" autocapitalize="characters" autocomplete="off" autocorrect="off" spellcheck="false"
 aria-describedby="hint">
<p class="soft" id="hint">Eight letters; capitals and dashes do not matter.</p>
<button type="submit">Continue</button>
</form>"""

DECIDE = """<div class="warn" role="note">
<p><strong>Approve only what you started yourself a moment ago.</strong> If somebody sent you this link or
read you this code, deny it: they would act in your name.</p>
<p>The device or program that waits must show this code: <span class="code">{code}</span></p>
</div>
<dl>
<div><dt>Who asks</dt><dd><bdi>{initiator}</bdi></dd></div>
<div><dt>From where</dt><dd><bdi>{origin}</bdi></dd></div>
<div><dt>For what</dt><dd><bdi>{kind}</bdi></dd></div>
<div><dt>Began on node</dt><dd>{node}</dd></div>
<div><dt>Began at</dt><dd>{created_at}</dd></div>
<div><dt>Ends</dt><dd>in {left}, at {expires_at}</dd></div>
</dl>
{data}
<form method="post" action="{root}rendezvous/approve" autocomplete="off">
<input type="hidden" name="form" value="{form}">
<p class="soft">{person}</p>
<div class="row">
<button type="submit" class="no" formaction="{root}rendezvous/deny">Deny</button>
<button type="submit">Approve</button>
</div>
</form>"""

SIGN_IN = """<p>Approving takes a session: sign in, then open this link again. Nothing was changed.</p>
{link}"""


BEGIN = """<p>Somebody else, or you on another device, approves what you begin here. You get a code and a link
for that. Nothing begins before you press a button.</p>
<form method="post" action="{root}begin" autocomplete="off">
<input type="hidden" name="form" value="{form}">
{buttons}
</form>"""

WAIT = """<p>Whoever approves opens this link and enters the code:</p>
<p class="link"><a href="{link}?user_code={code}">{link}</a></p>
<p class="big code">{code}</p>
<p class="soft" role="status">{status}</p>
<dl>
<div><dt>Who must approve</dt><dd>{who}</dd></div>
<div><dt>For what</dt><dd><bdi>{kind}</bdi></dd></div>
<div><dt>Began on node</dt><dd>{node}</dd></div>
<div><dt>Ends</dt><dd>in {left}, at {expires_at}</dd></div>
</dl>
<p class="soft">This page looks again every {interval} seconds. Keep it open, in this browser: no other one
gets the answer. <a href="{root}begin/wait">Look now</a></p>"""

GO_ON = """<p><strong><bdi>{by}</bdi></strong> approved \u201c<bdi>{kind}</bdi>\u201d. Continue to get the
answer, once, in this browser.</p>
<form method="post" action="{root}begin/redeem" autocomplete="off">
<input type="hidden" name="form" value="{form}">
<button type="submit">Continue</button>
</form>"""

REDEEMED = """<dl>
<div><dt>Approved by</dt><dd><bdi>{by}</bdi></dd></div>
<div><dt>For what</dt><dd><bdi>{kind}</bdi></dd></div>
</dl>
{data}
<p class="soft">The answer was given to this browser. It can be shown again for five minutes.</p>"""


def refresh(seconds: int | None) -> Html:
    """The element that has the browser load the page again; None: no such element."""
    return Html() if seconds is None else fill('<meta http-equiv="refresh" content="{s}">\n', s=seconds)


def buttons(kinds: Sequence[str]) -> Html:
    """A button that begins each of the kinds."""
    one = '<button type="submit" name="kind" value="{kind}">Begin \u201c{kind}\u201d</button>'
    return Html("\n".join(fill(one, kind=kind) for kind in kinds))


def left(seconds: int) -> str:
    if seconds < 90:
        return f"{seconds} second{'' if seconds == 1 else 's'}"
    minutes = seconds // 60
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"


def data_html(heading: str, data: Mapping[str, str]) -> Html:
    """A list of what somebody said, nothing for no data."""
    if not data:
        return Html()
    rows = "".join(
        fill("<div><dt><bdi>{key}</bdi></dt><dd><bdi>{value}</bdi></dd></div>\n", key=key, value=value)
        for key, value in sorted(data.items())
    )
    return fill("<h2>{heading}</h2>\n<dl>\n{rows}</dl>", heading=heading, rows=Html(rows))


def clock(rfc3339: str) -> str:
    return f"{rfc3339[:10]} {rfc3339[11:19]} UTC"
