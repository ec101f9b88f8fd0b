"""The pki directory of a node: its files, who may read them, and whether they belong together.

Files of a node, in ``DIR/pki`` (0700, every file 0600): ca.crt, ca.key (voters
only), ca-next.key (while the CA is exchanged), node.crt, node.key, node.csr,
sealing.key, operator.crt, operator.key.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from cryptography import x509

from cyoloctl.errors import ConfigError, InvalidInput, StorageError
from cyoloctl.model import parse_name
from cyoloctl.paths import quoted, sync_directory, write_node_file
from cyoloctl.pki.ca import ca_of_key
from cyoloctl.pki.documents import to_text
from cyoloctl.pki.identity import Identity, parse_cluster_id, parse_identity
from cyoloctl.pki.seal import load_sealing_key, sealing_key_text
from cyoloctl.pki.x509 import (
    certificate_problem,
    cluster_of_ca,
    dns_names,
    issued_by,
    load_authorities,
    load_certificate,
    load_key,
    public_key_sha256,
    public_to_pem,
    to_pem,
    utc,
)
from cyoloctl.text import rfc3339_of

__all__ = [
    "CA_CERT",
    "CA_KEY",
    "NEXT_CA_KEY",
    "NODE_CERT",
    "NODE_KEY",
    "NODE_REQUEST",
    "OPERATOR_CERT",
    "OPERATOR_FILE",
    "OPERATOR_KEY",
    "PKI_DIRECTORY",
    "SEALING_KEY",
    "NodeFiles",
    "check_mode",
    "check_private_files",
    "has_ca_key",
    "load_file",
    "read_authorities",
    "read_ca",
    "read_node_certificate",
    "read_node_keys",
    "read_node_public_key",
    "read_operator",
    "read_pem",
    "remove_file",
    "write_credentials",
]

PKI_DIRECTORY = "pki"
"""The directory's name in the data directory."""
OPERATOR_FILE = "operator.yaml"
"""The name of the operator's credentials in the data directory."""
CA_CERT, CA_KEY, NEXT_CA_KEY = "ca.crt", "ca.key", "ca-next.key"
NODE_CERT, NODE_KEY, NODE_REQUEST = "node.crt", "node.key", "node.csr"
SEALING_KEY = "sealing.key"
OPERATOR_CERT, OPERATOR_KEY = "operator.crt", "operator.key"
_MAX_FILE_BYTES = 64 * 1024
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """The files of a node's pki directory, checked; no private keys.

    ca_pem: the CA that issued the node's certificate.  authorities: all CAs
    that the directory trusts, more than one while they are exchanged.
    """

    identity: Identity
    ca_pem: str
    authorities: tuple[str, ...]
    certificate_pem: str
    certificate_expires_at: datetime
    sealing_key: str
    has_ca_key: bool


def check_private_files(
    pki_dir: Path, *, name: str, cluster_id: str, now: datetime | None = None
) -> NodeFiles:
    """Check that a node's files are there, private, and belong together.

    name, cluster_id: from node.yaml.  now: also refuse a certificate that is
    not valid at that time.  Private keys, and the operator's file beside the
    directory, must be closed to group and others (ssh does the same).

    Raises ConfigError, which names the file and the remedy.
    """
    check_mode(pki_dir, directory=True)
    keys = [NODE_KEY, SEALING_KEY]
    keys += [file for file in (CA_KEY, OPERATOR_KEY) if os.path.lexists(pki_dir / file)]
    for file in keys:
        check_mode(pki_dir / file)
    if os.path.lexists(pki_dir.parent / OPERATOR_FILE):
        check_mode(pki_dir.parent / OPERATOR_FILE)

    authorities = load_file(pki_dir / CA_CERT, load_authorities)
    certificate = load_file(pki_dir / NODE_CERT, load_certificate)
    key = load_file(pki_dir / NODE_KEY, load_key)
    sealing = load_file(pki_dir / SEALING_KEY, load_sealing_key)
    identity = Identity(parse_name(name), "node", parse_cluster_id(cluster_id))
    if {cluster_of_ca(each) for each in authorities} != {cluster_id}:
        raise ConfigError(f"{pki_dir / CA_CERT} is of another cluster than node.yaml: restore the right one")
    ca = next((each for each in authorities if issued_by(certificate, each)), authorities[0])
    problem = certificate_problem(certificate, ca, identity)
    if problem is None and certificate.public_key() != key.public_key():
        problem = f"it does not match {pki_dir / NODE_KEY}"
    if problem is not None:
        raise ConfigError(
            f"{pki_dir / NODE_CERT} cannot be used: {problem}; "
            "restore the right files, or correct name and cluster in node.yaml"
        )
    if CA_KEY in keys:
        load_file(pki_dir / CA_KEY, lambda pem: ca_of_key(authorities, pem))
    if now is not None:
        _check_dates(certificate, pki_dir / NODE_CERT, utc(now))
    return NodeFiles(
        identity=identity,
        ca_pem=to_pem(ca),
        authorities=tuple(to_pem(each) for each in authorities),
        certificate_pem=to_pem(certificate),
        certificate_expires_at=certificate.not_valid_after_utc,
        sealing_key=sealing_key_text(sealing),
        has_ca_key=CA_KEY in keys,
    )


def _check_dates(certificate: x509.Certificate, path: Path, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        raise ConfigError(
            f"{path} is valid from {rfc3339_of(start)} on and the clock says {rfc3339_of(now)}: set the clock"
        )
    if now > end:
        raise ConfigError(f"{path} expired at {rfc3339_of(end)}: renew it with `cyoloctl node renew`")


def read_authorities(pki_dir: Path) -> tuple[str, ...]:
    """The CAs that a node trusts, each in PEM: one, or two while they are exchanged.  Raises ConfigError."""
    return tuple(to_pem(each) for each in load_file(pki_dir / CA_CERT, load_authorities))


def read_ca(pki_dir: Path, *, ca_key: Path | None = None) -> tuple[str, str]:
    """The cluster's CA, (certificate PEM, private key PEM), of a voter.

    ca_key: another file of the directory with the key, while CAs are exchanged.
    Raises ConfigError, also where this node holds no CA key.
    """
    path = pki_dir / CA_KEY if ca_key is None else Path(os.path.realpath(ca_key))
    if not os.path.lexists(path):
        raise ConfigError(
            f"{path} is not there: this node cannot issue certificates; "
            "ask a voter that holds the CA key, or name the file of an offline CA"
        )
    check_mode(path)
    authorities = load_file(pki_dir / CA_CERT, load_authorities)
    return to_pem(load_file(path, lambda pem: ca_of_key(authorities, pem))), read_pem(path)


def has_ca_key(pki_dir: Path) -> bool:
    """Whether this node holds the CA key now."""
    return os.path.lexists(pki_dir / CA_KEY)


def read_node_certificate(pki_dir: Path) -> str:
    """The text of node.crt.  Raises ConfigError."""
    return read_pem(pki_dir / NODE_CERT)


def read_node_keys(pki_dir: Path) -> tuple[str, str]:
    """The node's private keys in PEM: its certificate's, and the sealing key.  Raises ConfigError."""
    return read_pem(pki_dir / NODE_KEY), read_pem(pki_dir / SEALING_KEY)


def read_node_public_key(pki_dir: Path) -> str:
    """The public key, in PEM, of a node's certificates.  Raises ConfigError."""
    return public_to_pem(load_file(pki_dir / NODE_KEY, load_key))


def read_operator(pki_dir: Path) -> tuple[str, str, int] | None:
    """Name, key hash and end (Unix ms) of the operator's certificate in a founder's directory.

    None where there is none.  Raises ConfigError for one that cannot be read.
    """
    path = pki_dir / OPERATOR_CERT
    if not os.path.lexists(path):
        return None
    certificate = load_file(path, load_certificate)
    names = dns_names(certificate.extensions)
    identity = parse_identity(names[0]) if len(names) == 1 else None
    if identity is None or identity.role != "operator":
        raise ConfigError(f"{path} names no operator: restore the right one")
    pem = to_pem(certificate)
    return str(identity.name), public_key_sha256(pem), int(certificate.not_valid_after_utc.timestamp() * 1000)


def write_credentials(
    path: str | os.PathLike[str], bundle: Mapping[str, Any], *, exclusive: bool = False
) -> None:
    """Write a credentials file, mode 0600: JSON, which is YAML, so that clients need no YAML reader.

    exclusive: raise AlreadyExists rather than replace a file.  Raises StorageError.
    """
    write_node_file(path, to_text(bundle).encode(), exclusive=exclusive)


# -- one file -----------------------------------------------------------------------------------


def load_file(path: Path, load: Callable[[str], _T]) -> _T:
    """Result of a function on the text of a PEM file.  Raises ConfigError, which names the file."""
    text = read_pem(path)
    try:
        return load(text)
    except (InvalidInput, ConfigError) as error:
        raise ConfigError(f"{path} cannot be used: {error.message}") from None


def read_pem(path: Path) -> str:
    """The text of a PEM file; of a key (``*.key``) only when it is private."""
    with _opened(path, private=path.suffix == ".key") as file:
        try:
            data = file.read(_MAX_FILE_BYTES + 1)
        except OSError as error:
            raise _unreadable(path, error) from error
    try:
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError
        return data.decode("ascii")
    except ValueError:
        raise ConfigError(f"{path} is not a PEM file: restore the right one") from None


def remove_file(path: Path) -> None:
    """Remove a file durably, if it is there.  Raises StorageError."""
    try:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot remove {path}: {error.strerror}; correct the permissions") from error


def check_mode(path: Path, *, directory: bool = False) -> None:
    """Refuse a file that group or others may read, a directory that they may change."""
    if not directory:
        with _opened(path, private=True):
            return
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path} is not a directory: restore the right one")
    if found.st_mode & 0o022:
        raise _too_open(path, found, "700")


def _owners_of_keys(path: Path) -> tuple[int, ...]:
    """Users who may own a node's private file: this one, root, and for root the owner of the directory.

    Root works on the files of a service user's node, and must not take them away.
    """
    me = os.geteuid()
    return (me, 0) if me != 0 else (0, os.stat(path.parent).st_uid)


def _opened(path: Path, *, private: bool) -> BinaryIO:
    """A file, opened once: what is checked is what is read.  Never through a symbolic link.

    private: refuse one that group or others may read, or that a stranger owns (`_owners_of_keys`).
    """
    try:
        # Not blocking: something else of that name, such as a pipe, must not hold us up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConfigError(f"{path} is a symbolic link: put the file itself there") from error
        raise _unreadable(path, error) from error
    found = os.fstat(descriptor)
    problem: ConfigError | None = None
    if not stat.S_ISREG(found.st_mode):
        problem = ConfigError(f"{path} is not a file: restore the right one")
    elif private and found.st_mode & 0o077:
        problem = _too_open(path, found, "600")
    elif private and found.st_uid not in _owners_of_keys(path):
        problem = ConfigError(
            f"{path} belongs to user {found.st_uid}, who can change it: "
            f"run `chown {os.geteuid()} {quoted(path)}`"
        )
    if problem is not None:
        os.close(descriptor)
        raise problem
    return open(descriptor, "rb")


def _too_open(path: Path, found: os.stat_result, right: str) -> ConfigError:
    as_owner = "" if os.geteuid() in (0, found.st_uid) else f"as user {found.st_uid} "
    return ConfigError(
        f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}): "
        f"{as_owner}run `chmod {right} {quoted(path)}`"
    )


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot read {path}: {error.strerror}; restore it, or correct owner and permissions")
