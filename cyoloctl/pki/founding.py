"""The pki directory of a new cluster's first node."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import datetime
from pathlib import Path

from cyoloctl.errors import AlreadyExists, StorageError
from cyoloctl.model import ClusterId, NodeName, parse_name
from cyoloctl.paths import (
    hand_directory_to_owner,
    make_private_directory,
    sync_directory,
    write_node_file,
)
from cyoloctl.pki.ca import (
    MAX_CERTIFICATE_DAYS,
    Authority,
    create_ca,
    issue_certificate,
    make_credentials,
    new_cluster_id,
)
from cyoloctl.pki.files import (
    CA_CERT,
    CA_KEY,
    NODE_CERT,
    NODE_KEY,
    NODE_REQUEST,
    OPERATOR_CERT,
    OPERATOR_FILE,
    OPERATOR_KEY,
    PKI_DIRECTORY,
    SEALING_KEY,
    NodeFiles,
    check_private_files,
    write_credentials,
)
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.offline_ca import write_ca_file
from cyoloctl.pki.requests import make_request

__all__ = [
    "new_cluster",
]

_OPERATOR_NAME = NodeName("admin")


def new_cluster(
    data_dir: Path,
    name: str,
    cluster: str,
    *,
    now: datetime,
    cluster_id: str | None = None,
    offline_ca: Path | None = None,
    days: int = MAX_CERTIFICATE_DAYS,
) -> NodeFiles:
    """Make the pki directory and operator.yaml of the first node of a new cluster.

    cluster_id: random where none is given.  offline_ca: the only file that
    gets the CA's key, in place of the pki directory; it must not be there.

    The directory appears whole or not at all.  Raises AlreadyExists where one
    is there, InvalidInput for the names, StorageError.
    """
    pki_dir = data_dir / PKI_DIRECTORY
    if os.path.lexists(pki_dir):
        raise AlreadyExists(f"{pki_dir} is already there: choose another data directory")
    identity = Identity(parse_name(name), "node", ClusterId(cluster_id or new_cluster_id()))
    ca_cert, ca_key = create_ca(identity.cluster_id, cluster, now)
    pending = make_request(name, identity.cluster_id)
    node_cert = issue_certificate(ca_cert, ca_key, pending.request_pem, identity, now=now, days=days)
    operator = make_credentials(ca_cert, ca_key, name=_OPERATOR_NAME, role="operator", now=now, days=days)
    files = {
        CA_CERT: ca_cert,
        NODE_CERT: node_cert,
        NODE_KEY: pending.node_key_pem,
        NODE_REQUEST: pending.request_pem,
        SEALING_KEY: pending.sealing_key_pem,
        OPERATOR_CERT: operator["certificate_pem"],
        OPERATOR_KEY: operator["key_pem"],
    }
    make_private_directory(data_dir)
    if offline_ca is None:
        files[CA_KEY] = ca_key
    else:
        write_ca_file(offline_ca, Authority(ca_cert, ca_key))
    staging: str | None = None
    try:
        staging = tempfile.mkdtemp(prefix=".pki.", dir=data_dir)
        hand_directory_to_owner(staging)
        for file, text in files.items():
            write_node_file(Path(staging, file), text.encode(), exclusive=True)
        os.rename(staging, pki_dir)
        staging = None
        sync_directory(data_dir)
    except OSError as error:
        raise StorageError(
            f"cannot make {pki_dir}: {error.strerror}; make space or correct the permissions, then try again"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    write_credentials(data_dir / OPERATOR_FILE, operator)
    return check_private_files(pki_dir, name=name, cluster_id=identity.cluster_id)
