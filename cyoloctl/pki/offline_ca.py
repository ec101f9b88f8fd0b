"""A CA whose key no member holds: it is in one file, which the operator keeps (`cluster init --offline-ca`).

The file has the CA's certificate and its private key in PEM.  Certificates
are made from it where the operator is, and members check what they are given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from cyoloctl.errors import ConfigError, InvalidInput, StorageError
from cyoloctl.paths import exists_error, file_error, write_private
from cyoloctl.pki.ca import Authority, check_ca, issue_certificate
from cyoloctl.pki.files import check_mode, read_pem
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.x509 import certificate_dates, issued_certificate_problem
from cyoloctl.text import rfc3339, rfc3339_of, to_unix_ms

__all__ = ["CA_FILE", "check_issued", "issue", "read_ca_file", "write_ca_file"]

CA_FILE = "offline-ca.pem"
"""Its name beside operator.yaml, where no other place is given."""

_KEY_BEGINS = "-----BEGIN PRIVATE KEY-----"


def write_ca_file(path: Path, authority: Authority) -> None:
    """Write a CA and its key to a new file, 0600.

    Raises AlreadyExists, what file_error gives, StorageError.
    """
    if os.path.lexists(path):
        raise exists_error(path, "CA")
    try:
        write_private(path, (authority.ca_pem + authority.key_pem).encode(), exclusive=True)
    except StorageError as error:
        if isinstance(error.__cause__, OSError):
            raise file_error(path, error.__cause__, "write") from None
        raise


def read_ca_file(path: Path) -> Authority:
    """The CA in such a file.  Raises ConfigError, also where others may read it, what file_error gives."""
    real = Path(os.path.realpath(path))  # on a stick, say
    try:
        with open(real, "rb"):
            pass
    except OSError as error:
        raise file_error(path, error, "read") from None
    check_mode(real)
    ca_pem, begins, key_pem = read_pem(real).partition(_KEY_BEGINS)
    try:
        check_ca(ca_pem, begins + key_pem)
    except ConfigError:
        raise ConfigError(
            f"{path} is not the file of an offline CA: name the one that `cyoloctl cluster init "
            "--offline-ca` wrote"
        ) from None
    return Authority(ca_pem, begins + key_pem)


def issue(authority: Authority, request_pem: str, identity: Identity, *, now: datetime, days: int) -> str:
    """A certificate in PEM for the key of a request.  now: the time here; members judge it by theirs.

    Raises InvalidInput, ConfigError.
    """
    beyond_ca = identity.role == "node"  # as `issue_for_node`
    return issue_certificate(
        authority.ca_pem, authority.key_pem, request_pem, identity, now=now, days=days, beyond_ca=beyond_ca
    )


def check_issued(
    certificate_pem: str, authorities: Iterable[str], identity: Identity, request_pem: str, now_unix_ms: int
) -> None:
    """Check a certificate that an operator made: for this identity and key, of a trusted CA, valid now.

    now_unix_ms: cluster time.  Raises InvalidInput.
    """
    problem = issued_certificate_problem(certificate_pem, authorities, identity, request_pem)
    if problem is not None:
        raise InvalidInput(f"the certificate cannot be used: {problem}; use the file of this cluster's CA")
    start, end = certificate_dates(certificate_pem)
    if not to_unix_ms(start) <= now_unix_ms < to_unix_ms(end):
        raise InvalidInput(
            f"the certificate counts from {rfc3339_of(start)} to {rfc3339_of(end)}, and cluster time is "
            f"{rfc3339(now_unix_ms / 1000)}: set the clock of the machine with the CA's file, then repeat"
        )
