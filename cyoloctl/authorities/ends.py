"""Words for the ends of certificates, credentials and CAs, wherever they are told.  Pure."""

from __future__ import annotations

from cyoloctl.members.api import Problem
from cyoloctl.members.facts import problem

__all__ = ["CA_DUE_MS", "ca_due", "ca_ends", "certificate_ends", "credentials_end"]

CA_DUE_MS = 365 * 86_400_000
"""A CA that ends sooner is to be exchanged."""


def certificate_ends(name: str, expires_at: str, left_ms: int, *, offline_ca: bool) -> Problem:
    """The problem that a member's certificate ends, or has ended.

    expires_at: RFC 3339.  left_ms: until then.  offline_ca: whether no member holds the key of the CA.
    """
    how = "it renews itself while it is connected to a voter that holds the CA key; else by file"
    if offline_ca:
        how = "the CA is kept offline, so it is renewed with the CA's file"
    return problem(
        "certificate_expired" if left_ms <= 0 else "certificate_expiring",
        name,
        f"the certificate of {name} {_ends(left_ms)}, at {expires_at}: {how}",
        "cyoloctl node renew -d DIR --request FILE",
    )


def credentials_end(name: str, role: str, left_ms: int) -> Problem:
    """The problem that somebody's credentials end soon."""
    message = f"the credentials of {name} ({role}) {_ends(left_ms)}"
    return problem("credentials_expiring", None, message, f"cyoloctl credentials renew {name} --out FILE")


def ca_ends(expires_at: str) -> str:
    """Why a CA is to be exchanged that ends soon.  expires_at: RFC 3339."""
    return f"the CA ends at {expires_at}"


def ca_due(reason: str, *, going: bool = False, offline_ca: bool = False) -> Problem:
    """The problem that the CA must be exchanged.

    going: whether it is being exchanged.  offline_ca: whether no member holds its key, so that a new cluster
    takes the place of this one.
    """
    if offline_ca:
        message = (
            f"{reason}, and its key is kept offline, where no member can exchange it: make a new cluster of "
            "this one's state (`cyoloctl cluster init --offline-ca --ca-file FILE --from-snapshot FILE`)"
        )
        return problem("ca_rotation_due", None, message, "cyoloctl snapshot save FILE")
    message = f"the CA must be exchanged: {reason}"
    if going:
        message = f"the CA is being exchanged, which was due: {reason}"
    return problem("ca_rotation_due", None, message, "cyoloctl pki rotate-ca")


def _ends(left_ms: int) -> str:
    seconds = abs(left_ms) // 1000
    span = f"{seconds // 86_400} days" if seconds >= 2 * 86_400 else f"{seconds // 3600} hours"
    if seconds < 2 * 3600:
        span = f"{seconds // 60} minutes"
    return f"ended {span} ago" if left_ms <= 0 else f"ends in {span}"
