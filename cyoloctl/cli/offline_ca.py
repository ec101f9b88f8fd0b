"""The option `--ca-file`: certificates that are made here, where no member holds the key of the CA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyoloctl.cli.parameters import Option
from cyoloctl.text import Json

if TYPE_CHECKING:
    from cyoloctl.pki.ca import Authority
    from cyoloctl.pki.identity import AccessRole

__all__ = ["CaFileOption", "certificate_for", "read_offline_ca"]

CaFileOption = Annotated[
    Path | None,
    Option(
        "--ca-file",
        metavar="FILE",
        help="CA that is kept offline (`cluster init --offline-ca`): the certificate is made here.",
    ),
]


def read_offline_ca(ca_file: Path | None) -> Authority | None:
    """The CA in the file of `--ca-file`, where it was given.  Raises ConfigError, InvalidInput."""
    if ca_file is None:
        return None
    from cyoloctl.pki.offline_ca import read_ca_file

    return read_ca_file(ca_file)


def certificate_for(
    authority: Authority | None, request_pem: str, name: str, role: AccessRole, days: int
) -> Json:
    """What a request to the API has beside the rest: a certificate of an offline CA; nothing without one.

    days: its life, 1 to 825, by this machine's clock.  Raises ConfigError, InvalidInput.
    """
    if authority is None:
        return {}  # earlier releases take no other field
    from datetime import UTC, datetime

    from cyoloctl.model import parse_name
    from cyoloctl.pki.identity import Identity
    from cyoloctl.pki.offline_ca import issue
    from cyoloctl.pki.renewal import offline_now
    from cyoloctl.pki.x509 import ca_cluster_id

    identity = Identity(parse_name(name), role, ca_cluster_id(authority.ca_pem))
    now = offline_now(datetime.now(UTC))
    return {"certificate_pem": issue(authority, request_pem, identity, now=now, days=days)}
