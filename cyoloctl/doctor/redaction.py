"""Keeping secrets out of what leaves a machine.  Pure.

Nothing that is put into a support bundle holds a secret by design.  This is
the second line: what looks like one, or is one of this node's own, is hidden
wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from cyoloctl.node.config import Config
from cyoloctl.node.config_writer import dump_config

__all__ = ["HIDDEN", "config_text", "secret_lines", "without_quotation", "without_secrets"]

HIDDEN = b"(hidden)"

_LINE = rb"(?:\n|\\n)[^\n]*?(?=\n|\\n|\Z)"
"""What follows a line end, also one that is spelled as in JSON, up to the next."""

_FORMS = re.compile(
    b"|".join(
        [
            rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            rb"cyoloctl keyring \d+ passphrase(?:" + _LINE + rb"){0,2}",  # keys.ring_file
            rb"cyoloctl keyring \d+ node(?:" + _LINE + rb"){0,3}",
            rb"VAH8[A-Za-z0-9_-]{24,}",  # tokens.format; behind %3D in a link, too
            rb"cyolojoin\d+\.[A-Za-z0-9_-]{24,}",  # pki.join_token
        ]
    ),
    re.DOTALL,
)
_SHORTEST = 20


def secret_lines(text: str) -> set[bytes]:
    """The lines of key material in a text of PEM, also where its line ends are spelled as in JSON."""
    found: set[bytes] = set()
    for block in re.findall(
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END [A-Z ]*PRIVATE KEY-----", text, re.DOTALL
    ):
        found |= {line.encode() for line in re.split(r"\s+|\\n", block) if len(line) >= _SHORTEST}
    return found


def without_secrets(data: bytes, known: Collection[bytes]) -> tuple[bytes, int]:
    """The data with its secrets hidden, and how many those were.  known: secrets as they are spelled."""
    hidden = 0
    for secret in sorted(known, key=len, reverse=True):
        hidden += data.count(secret)
        data = data.replace(secret, HIDDEN)
    data, more = _FORMS.subn(HIDDEN, data)
    return data, hidden + more


def config_text(config: Config) -> str:
    """node.yaml as it was understood: without comments, and without what follows ``?`` in a link."""
    gateway = config.gateway
    if gateway is not None and gateway.sign_in_url is not None and "?" in gateway.sign_in_url:
        base = gateway.sign_in_url.partition("?")[0]
        gateway = replace(gateway, sign_in_url=f"{base}?hidden")
    return dump_config(replace(config, gateway=gateway))


def without_quotation(message: str) -> str:
    """The message about a file that cannot be read, without what it may quote of it."""
    return re.sub(
        r"(, line \d+, column \d+): .*",
        r"\1: (what is wrong may quote the file: hidden)",
        message,
        flags=re.S,
    )
