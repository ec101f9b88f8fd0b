"""The exchange of a cluster's CA (``cyoloctl pki rotate-ca``) in the files of one node.

The files say how far a node is.

==================  ==========================================================
ca.crt              the CAs that are trusted, the present one first; two while
                    they are exchanged
ca.key              the key of one of them, where this node may issue
ca-next.key         the new CA's key until the exchange has ended
==================  ==========================================================

Every change is one file that is replaced atomically, in an order in which the
files fit together after each of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cyoloctl.errors import ConfigError, InvalidInput
from cyoloctl.paths import write_node_file
from cyoloctl.pki.ca import Authority, check_ca, create_ca
from cyoloctl.pki.files import (
    CA_CERT,
    CA_KEY,
    NEXT_CA_KEY,
    read_authorities,
    read_ca,
    read_node_keys,
    remove_file,
)
from cyoloctl.pki.seal import open_sealed, seal
from cyoloctl.pki.statements import is_signed_by_ca, sign_statement
from cyoloctl.pki.x509 import ca_cluster_id, certificate_sha256
from cyoloctl.text import from_unix_ms

__all__ = [
    "check_voucher",
    "close_exchange",
    "exchanging",
    "held",
    "new_authority",
    "open_key",
    "seal_key",
    "store_key",
    "store_next_key",
    "trust",
]


def new_authority(old: Authority, cluster_id: str, cluster: str, now_unix_ms: int) -> tuple[Authority, str]:
    """A new CA for a cluster, and the old one's voucher for it (a signature, base64)."""
    ca_pem, key_pem = create_ca(cluster_id, cluster, from_unix_ms(now_unix_ms))
    new = Authority(ca_pem, key_pem)
    return new, sign_statement(old.key_pem, _voucher(cluster_id, ca_pem))


def check_voucher(ca_pem: str, voucher: str, trusted: Iterable[str], cluster_id: str) -> None:
    """Check that one of the trusted CAs vouched for a new one of the same cluster.  Raises InvalidInput."""
    statement = _voucher(cluster_id, ca_pem)
    if ca_cluster_id(ca_pem) != cluster_id or not any(
        is_signed_by_ca(statement, voucher, ca) for ca in trusted
    ):
        raise InvalidInput(
            "the new CA is not vouched for by the one that this node trusts: "
            "see who began the rotation (`cyoloctl pki status`), and abandon it "
            "(`cyoloctl pki rotate-ca --abandon --yes`)"
        )


def _voucher(cluster_id: str, ca_pem: str) -> bytes:
    return b"\0".join([b"cyoloctl next-ca 1", cluster_id.encode(), certificate_sha256(ca_pem).encode()])


def _key_info(cluster_id: str, name: str, ca_pem: str) -> bytes:
    sha256 = certificate_sha256(ca_pem)
    return b"\0".join([b"cyoloctl next-ca-key 1", cluster_id.encode(), name.encode(), sha256.encode()])


def seal_key(authority: Authority, cluster_id: str, name: str, sealing_key: str) -> str:
    """A CA's private key, sealed to one member.  Raises InvalidInput for the sealing key."""
    return seal(sealing_key, authority.key_pem.encode(), _key_info(cluster_id, name, authority.ca_pem))


def open_key(pki_dir: Path, sealed: str, cluster_id: str, name: str, ca_pem: str) -> Authority:
    """The CA whose key was sealed to this node.  Raises InvalidInput, ConfigError."""
    _, sealing_key_pem = read_node_keys(pki_dir)
    opened = open_sealed(sealing_key_pem, sealed, _key_info(cluster_id, name, ca_pem))
    try:
        found = Authority(ca_pem, opened.decode("ascii"))
        check_ca(found.ca_pem, found.key_pem)
    except (UnicodeDecodeError, ConfigError):
        raise InvalidInput(
            "what was sealed to this node is not the CA's key: "
            "abandon the rotation (`cyoloctl pki rotate-ca --abandon --yes`) and begin it again"
        ) from None
    return found


def held(pki_dir: Path) -> dict[str, Authority]:
    """The CAs whose keys are in a node's directory, by the SHA-256 of their certificates.

    Raises ConfigError for a key that cannot be read or belongs to no CA that is trusted.
    """
    found = {}
    for file in (CA_KEY, NEXT_CA_KEY):
        if os.path.lexists(pki_dir / file):
            ca_pem, key_pem = read_ca(pki_dir, ca_key=pki_dir / file)
            authority = Authority(ca_pem, key_pem)
            found[authority.sha256] = authority
    return found


def trust(pki_dir: Path, authorities: Iterable[str]) -> bool:
    """Trust exactly these CAs, in this order; True for a change.  Raises ConfigError, StorageError."""
    wanted = tuple(authorities)
    if read_authorities(pki_dir) == wanted:
        return False
    write_node_file(pki_dir / CA_CERT, "".join(wanted).encode())
    return True


def store_next_key(pki_dir: Path, authority: Authority) -> None:
    """Keep the new CA's key beside the present one's.  Raises StorageError."""
    write_node_file(pki_dir / NEXT_CA_KEY, authority.key_pem.encode())


def store_key(pki_dir: Path, authority: Authority) -> None:
    """Keep the present CA's key.  Raises StorageError."""
    write_node_file(pki_dir / CA_KEY, authority.key_pem.encode())


def close_exchange(pki_dir: Path, ca_pem: str) -> None:
    """End the exchange, finished or abandoned: from now on only this CA counts.

    The node's certificate must be of it.  Idempotent; after a crash between
    two of its steps the files fit together.  Raises ConfigError, StorageError.
    """
    new = held(pki_dir).get(certificate_sha256(ca_pem))
    path = pki_dir / CA_KEY
    if new is None:
        remove_file(path)  # of a CA that no longer counts: worth nothing here, and something to a thief
    elif not os.path.lexists(path) or read_ca(pki_dir)[0] != ca_pem:
        write_node_file(path, new.key_pem.encode())
    remove_file(pki_dir / NEXT_CA_KEY)
    trust(pki_dir, [ca_pem])


def exchanging(pki_dir: Path) -> bool:
    """Whether a new CA's key lies beside the present one's."""
    return os.path.lexists(pki_dir / NEXT_CA_KEY)
