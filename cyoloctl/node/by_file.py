"""Join a cluster by file: a node's request, and the grant that answers it, carried by hand.

Offline from the first to the last: neither side reaches the other.  What the
node was asked to be stands in ``request.json`` until the grant is there; the
directory holds a node, with node.yaml, once it was accepted.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cyoloctl.errors import AlreadyExists, ConfigError, CyoloctlError, InvalidInput, VersionMismatch
from cyoloctl.model import ClusterId, NodeName, parse_name
from cyoloctl.node.config import CONFIG_NAME, Config, load_config
from cyoloctl.node.config_writer import write_config
from cyoloctl.node.create import (
    NODE_STATE,
    addresses_of,
    description,
    gateway_of,
    journal_files,
    private_directory,
    refuse_a_node,
    refuse_gateway_of_witness,
    remove,
    write_request,
)
from cyoloctl.paths import quoted, write_node_file
from cyoloctl.pki.documents import parse_fields
from cyoloctl.pki.files import CA_CERT, NODE_REQUEST, PKI_DIRECTORY, check_private_files, read_pem
from cyoloctl.pki.grants import accept_grant
from cyoloctl.pki.requests import csr_sha256, prepare_request, sign_request
from cyoloctl.pki.sealed_grants import SealedGrant, decode_sealed_grant, open_grant
from cyoloctl.raft import create_storage
from cyoloctl.replicated.levels import THIS
from cyoloctl.text import parse_json_object, rfc3339

__all__ = ["PENDING_NAME", "accept", "request"]

PENDING_NAME = "request.json"
"""The file in the data directory that says what a node will be that is not granted yet."""

_MAX_CHARS = 64 * 1024
_OPTIONAL = (str, type(None))


def request(
    data_dir: Path,
    name: str,
    listen: str,
    advertise: str | None,
    out: Path,
    gateway: str | None = None,
    gateway_url: str | None = None,
) -> dict[str, Any]:
    """Make a node's keys and write its request to join a cluster that it does not know yet.

    listen, advertise, gateway, gateway_url: as in `create.join`.  The private
    keys stay in the directory.  Repeated: the same keys, for the name and the
    addresses that are given now.

    Returns what was made, as JSON.  Raises AlreadyExists for a directory that
    holds a node and for a file that is there, InvalidInput, ConfigError, StorageError.
    """
    node_name = parse_name(name, "node name")
    _, shown = addresses_of(listen, advertise)
    gateway_of(gateway, gateway_url)
    refuse_a_node(data_dir, CONFIG_NAME, *NODE_STATE)
    pki_dir = data_dir / PKI_DIRECTORY
    if os.path.lexists(pki_dir / CA_CERT):
        raise AlreadyExists(
            f"{data_dir} already belongs to a cluster ({PKI_DIRECTORY}/{CA_CERT}): choose another data "
            "directory"
        )
    with private_directory(data_dir):
        fresh = [path for path in (pki_dir, data_dir / PENDING_NAME) if not os.path.lexists(path)]
        try:
            signed = replace(sign_request(prepare_request(pki_dir, node_name), shown), level=THIS.level)
            pending = {
                "schema_version": 1,
                "name": node_name,
                "listen": listen,
                "advertise": advertise,
                "gateway": gateway,
                "gateway_url": gateway_url,
            }
            write_node_file(data_dir / PENDING_NAME, (json.dumps(pending, indent=2) + "\n").encode())
            write_request(out, signed)
        except CyoloctlError:
            for path in fresh:
                remove(path)
            raise
    return {
        "schema_version": 1,
        "name": node_name,
        "address": str(shown),
        "data_dir": str(data_dir),
        "request": str(out),
        "request_sha256": signed.request_sha256,
    }


def accept(data_dir: Path, text: str) -> dict[str, Any]:
    """Verify a grant and make the files of the node whose request it answers.

    No clock decides anything: whether the grant still counts is the
    cluster's to say.  The same grant again changes nothing.

    Returns what was made, as JSON.  Raises InvalidInput for a grant that is
    damaged, VersionMismatch for one of a cluster whose level is above this
    release's, AccessDenied for one that answers another request, AlreadyExists
    where the directory holds another node, ConfigError where it asked for
    nothing, Conflict (files of another cluster), StorageError.
    """
    grant = decode_sealed_grant(text)
    if os.path.lexists(data_dir / CONFIG_NAME):
        return _repeated(data_dir, grant)
    pending = _pending(data_dir)
    refuse_a_node(data_dir, "snapshot")
    pki_dir = data_dir / PKI_DIRECTORY
    name = NodeName(pending["name"])
    listens, shown = addresses_of(pending["listen"], pending["advertise"])
    gateway_config = gateway_of(pending["gateway"], pending["gateway_url"])
    inner = open_grant(pki_dir, grant, name=name, request_pem=read_pem(pki_dir / NODE_REQUEST))
    _refuse_level(inner.get("level"))
    refuse_gateway_of_witness(inner.get("witness") is True, gateway_config, "`cyoloctl node request`")
    with private_directory(data_dir):
        fresh = [path for path in journal_files(data_dir) if not os.path.lexists(path)]
        try:
            create_storage(data_dir, cluster_id=grant.cluster_id, name=name, founder=False)
            granted = accept_grant(
                pki_dir, inner, name=name, cluster_id=grant.cluster_id, ca_sha256=grant.ca_sha256
            )
        except CyoloctlError:
            for path in fresh:
                remove(path)
            raise
        config = Config(
            name=name,
            cluster_id=ClusterId(grant.cluster_id),
            cluster=granted.cluster,
            listen=listens,
            advertise=shown,
            storage=granted.storage,
            peers=dict(granted.peers),
            gateway=gateway_config,
            witness=granted.witness,
            offline_ca=granted.offline_ca,
        )
        if config.storage == "memory":
            for path in journal_files(data_dir):
                remove(path)
        write_config(data_dir / CONFIG_NAME, config, exclusive=True)
        with suppress(OSError):  # it says nothing any more
            os.unlink(data_dir / PENDING_NAME)
    return _answer(data_dir, config, grant, granted.certificate_expires_at, learner=granted.learner)


def _refuse_level(level: object) -> None:
    """Raises VersionMismatch for the grant of a cluster whose level this release does not understand."""
    if isinstance(level, int) and level > THIS.level:
        raise VersionMismatch(
            f"the cluster is at level {level}, and release {THIS.name} understands level {THIS.level}: "
            "install the release that its members run, then accept the same grant"
        )


def _pending(data_dir: Path) -> dict[str, Any]:
    """What the directory's node was asked to be.  Raises ConfigError."""
    path = data_dir / PENDING_NAME
    try:
        value = parse_json_object(path.read_text("utf-8"), max_characters=_MAX_CHARS)
        return parse_fields(
            value,
            "request",
            name=str,
            listen=str,
            advertise=_OPTIONAL,
            gateway=_OPTIONAL,
            gateway_url=_OPTIONAL,
        )
    except FileNotFoundError:
        raise ConfigError(
            f"{data_dir} has asked for no place in a cluster ({PENDING_NAME} is not there): use the "
            "directory in which `cyoloctl node request` was run"
        ) from None
    except (OSError, ValueError, InvalidInput):
        raise ConfigError(
            f"{path} cannot be used: repeat the request (`cyoloctl node request -d {quoted(data_dir)}`), "
            "and have it granted again"
        ) from None


def _repeated(data_dir: Path, grant: SealedGrant) -> dict[str, Any]:
    """The answer to the grant that the directory's node came from.  Raises AlreadyExists for any other."""
    config = load_config(data_dir / CONFIG_NAME)
    pki_dir = data_dir / PKI_DIRECTORY
    same = grant.cluster_id == config.cluster_id and grant.name == config.name
    if same and grant.request_sha256 == csr_sha256(read_pem(pki_dir / NODE_REQUEST)):
        inner = open_grant(pki_dir, grant, name=config.name, request_pem=read_pem(pki_dir / NODE_REQUEST))
        files = check_private_files(pki_dir, name=config.name, cluster_id=config.cluster_id)
        learner = inner.get("learner") is True
        return _answer(data_dir, config, grant, files.certificate_expires_at, learner=learner)
    raise AlreadyExists(
        f"{data_dir} already holds a node ({CONFIG_NAME}), which does not come from this grant: choose "
        "another data directory, or move it away"
    )


def _answer(
    data_dir: Path, config: Config, grant: SealedGrant, expires_at: datetime, *, learner: bool
) -> dict[str, Any]:
    return {
        **description(config, data_dir, expires_at),
        "learner": learner,
        "witness": config.witness,
        "ca_sha256": grant.ca_sha256,
        "grant_expires_at": rfc3339(grant.expires_unix_s),
    }
