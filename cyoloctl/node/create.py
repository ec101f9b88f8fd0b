"""Make the files of a node: a new cluster's first, or one that joins.

Offline except for the one request of `join`.  node.yaml is written last: a
directory holds a node exactly when it holds that file, so whatever breaks
before leaves no half node behind; what is killed can be repeated.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from cyoloctl.control.client import join_cluster
from cyoloctl.errors import (
    AlreadyExists,
    ClientTimeout,
    ConfigError,
    Conflict,
    CyoloctlError,
    InvalidInput,
    InvitationRejected,
    OutcomeUnknown,
    StorageError,
    Unavailable,
)
from cyoloctl.model import (
    Address,
    ClusterId,
    NodeName,
    Storage,
    is_wildcard,
    parse_address,
    parse_dialable_address,
    parse_name,
)
from cyoloctl.node.config import CONFIG_NAME, Config, load_config
from cyoloctl.node.config_writer import dump_config, write_config
from cyoloctl.node.gateway_config import GatewayConfig, parse_gateway_url
from cyoloctl.node.unfinished import UNFINISHED_NAME, founding
from cyoloctl.paths import file_error, make_private_directory, quoted, write_private
from cyoloctl.pki import join_token, renewal
from cyoloctl.pki.ca import MAX_CERTIFICATE_DAYS, Authority
from cyoloctl.pki.files import OPERATOR_FILE, PKI_DIRECTORY, NodeFiles, check_private_files, read_ca
from cyoloctl.pki.founding import new_cluster
from cyoloctl.pki.grants import Grant, accept_grant, decode_grant
from cyoloctl.pki.requests import NodeRequest, PendingRequest, csr_sha256, encode_request, prepare_request
from cyoloctl.pki.x509 import certificate_expires_at, certificate_sha256
from cyoloctl.raft import create_storage
from cyoloctl.replicated.levels import BASE_LEVEL, THIS
from cyoloctl.text import rfc3339_of

__all__ = [
    "NODE_STATE",
    "accept_renewal",
    "addresses_of",
    "description",
    "gateway_of",
    "init_cluster",
    "join",
    "journal_files",
    "node_info",
    "private_directory",
    "refuse_a_node",
    "refuse_gateway_of_witness",
    "remove",
    "renew_here",
    "write_renewal_request",
    "write_request",
]

NODE_STATE = ("raft.db", "snapshot")


def _now() -> datetime:
    return datetime.now(UTC)


def addresses_of(listen: str, advertise: str | None) -> tuple[Address, Address]:
    listens = parse_address(listen, "listen address")
    if advertise is not None:
        return listens, parse_dialable_address(advertise, "advertise address")
    if is_wildcard(listens.host):
        raise InvalidInput(
            f"nobody can dial {listens}: add --advertise HOST:PORT, where others reach this node"
        )
    return listens, parse_dialable_address(listen, "listen address")


def refuse_gateway_of_witness(witness: bool, gateway: GatewayConfig | None, command: str) -> None:
    """Raises ConfigError for a witness that was given a gateway.  command: by which it was."""
    if witness and gateway is not None:
        raise ConfigError(
            f"this node was invited as a witness, which has no gateway: repeat {command} without --gateway"
        )


def gateway_of(listen: str | None, url: str | None) -> GatewayConfig | None:
    if listen is None:
        if url is not None:
            raise InvalidInput("a gateway url needs a gateway: add --gateway HOST:PORT")
        return None
    listens = parse_address(listen, "gateway address")
    if is_wildcard(listens.host):
        raise InvalidInput(
            f"proxies cannot dial {listens}: give an address that they can reach, or set gateway.advertise "
            "in node.yaml afterwards"
        )
    return GatewayConfig(
        listen=listens, advertise=listens, url=None if url is None else parse_gateway_url(url)
    )


def refuse_a_node(data_dir: Path, *names: str) -> None:
    """Raise AlreadyExists where one of the names is there."""
    for name in names:
        if os.path.lexists(data_dir / name):
            what = "a node" if name == CONFIG_NAME else "what is left of a node"
            raise AlreadyExists(
                f"{data_dir} already holds {what} ({name}): choose another data directory, or move it away"
            )


@contextmanager
def private_directory(data_dir: Path) -> Iterator[bool]:
    """The data directory, 0700; the value is whether it was made here.

    One that was made here and is empty at the end goes again.  Raises
    ConfigError for a directory in which others can exchange the keys, or this user may not write.
    """
    made = not os.path.lexists(data_dir)
    make_private_directory(data_dir)
    found = os.stat(data_dir)
    mode = stat.S_IMODE(found.st_mode)
    is_read_only = os.statvfs(data_dir).f_flag & os.ST_RDONLY  # of which the first write knows more
    if not is_read_only and not os.access(data_dir, os.W_OK | os.X_OK):
        raise file_error(data_dir, PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "write in")
    if mode & 0o022:
        raise ConfigError(f"others can write in {data_dir} (mode {mode:04o}): {_remedy(data_dir, found)}")
    if mode != 0o700 and found.st_uid == os.geteuid() and not os.listdir(data_dir):
        os.chmod(data_dir, 0o700)
    try:
        yield made
    finally:
        if made:
            with suppress(OSError):  # not empty: all went well, or something must stay
                os.rmdir(data_dir)


def _remedy(data_dir: Path, found: os.stat_result) -> str:
    """Advice on a directory that others can write in.  One that may be used by others is left alone."""
    if found.st_mode & stat.S_ISVTX:  # such as /tmp
        return f"choose a directory of your own, such as {data_dir / 'cyoloctl'}"
    if found.st_uid == os.geteuid() and not os.listdir(data_dir):
        return f"choose another data directory, or run `chmod 700 {quoted(data_dir)}`"
    return "choose another data directory"


def description(config: Config, data_dir: Path, expires_at: datetime) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "name": config.name,
        "cluster": {"name": config.cluster, "id": config.cluster_id},
        "listen": str(config.listen),
        "address": str(config.advertise),
        "storage": config.storage,
        "data_dir": str(data_dir),
        "certificate_expires_at": rfc3339_of(expires_at),
    }


def init_cluster(
    data_dir: Path,
    name: str,
    listen: str,
    advertise: str | None,
    cluster: str,
    storage: str,
    gateway: str | None = None,
    gateway_url: str | None = None,
    certificate_days: int = MAX_CERTIFICATE_DAYS,
    offline_ca: Path | None = None,
    found: Callable[[Config, NodeFiles], None] | None = None,
) -> dict[str, Any]:
    """Make a new cluster with this node as its only member; offline, whole or not at all.  Killed, repeat it.

    data_dir: made 0700 where it is not there.  listen, advertise, gateway: HOST:PORT.  storage: disk or
    memory.  gateway_url: base of its links.  certificate_days: of all certificates, 1 to 825.  offline_ca:
    the new file that gets the CA's key, in place of the members.  found: makes the state on disk.

    Returns what was made, as JSON.  Raises AlreadyExists for a directory that holds parts of a node,
    InvalidInput, StorageError, ConfigError for a directory that others can write and for a machine whose
    clock was never set: nobody else knows the time of a new cluster.
    """
    now = renewal.offline_now(_now())
    node_name, cluster_name = parse_name(name, "node name"), parse_name(cluster, "cluster name")
    if storage not in ("disk", "memory"):
        raise InvalidInput(f"storage {storage!r} is not valid: use disk or memory")
    listens, shown = addresses_of(listen, advertise)
    gateway_config = gateway_of(gateway, gateway_url)
    _refuse_parts(data_dir)
    with private_directory(data_dir), founding(data_dir, partial(_undo, data_dir)) as finish:
        try:
            files = new_cluster(
                data_dir, node_name, cluster_name, now=now, days=certificate_days, offline_ca=offline_ca
            )
            config = Config(
                name=node_name,
                cluster_id=files.identity.cluster_id,
                cluster=cluster_name,
                listen=listens,
                advertise=shown,
                storage=cast(Storage, storage),
                gateway=gateway_config,
                offline_ca=offline_ca is not None,
            )
            if found is not None:
                found(config, files)
            elif config.storage == "disk":
                create_storage(data_dir, cluster_id=config.cluster_id, name=node_name, founder=True)
            finish(dump_config(config))
        except AlreadyExists:
            raise  # somebody else makes a node here: the files are theirs
        except BaseException:
            _undo(data_dir, [offline_ca] if offline_ca else [])
            raise
    return {
        **description(config, data_dir, files.certificate_expires_at),
        "operator_credentials": str(data_dir / OPERATOR_FILE),
        "offline_ca": None if offline_ca is None else str(offline_ca),
    }


def _refuse_parts(data_dir: Path) -> None:
    """Refuse a directory with parts of a node, but for what a killed `init_cluster` has left."""
    if not os.path.lexists(data_dir / UNFINISHED_NAME):
        refuse_a_node(data_dir, CONFIG_NAME, PKI_DIRECTORY, OPERATOR_FILE, *NODE_STATE)


def _undo(data_dir: Path, more: Collection[Path]) -> None:
    """Remove what `init_cluster` had made, and more."""
    made = (data_dir / name for name in (PKI_DIRECTORY, OPERATOR_FILE, "snapshot"))
    for path in (*made, *journal_files(data_dir), *more):
        remove(path)


def join(
    data_dir: Path,
    name: str,
    listen: str,
    advertise: str | None,
    token_text: str,
    timeout_s: float,
    gateway: str | None = None,
    gateway_url: str | None = None,
) -> dict[str, Any]:
    """Redeem a join token and make this node's files; its private keys never leave the directory.

    timeout_s: 0.1 to 300, for the request.  gateway, gateway_url: as in
    init_cluster.  After a failure whose outcome is unknown the keys stay, and
    the same token works again from this directory; after a refusal nothing stays.

    The token's secret stays here: the request is signed with it.  This
    machine's clock decides nothing.

    Returns what was made, as JSON.  Raises InvalidInput (token, name, address),
    AlreadyExists, Conflict (files of another cluster), InvitationRejected,
    what control.client.join_cluster raises, ConfigError, StorageError.
    """
    node_name = parse_name(name, "node name")
    token = join_token.decode_token(token_text)
    listens, shown = addresses_of(listen, advertise)
    gateway_config = gateway_of(gateway, gateway_url)
    if token.name != node_name:
        raise InvitationRejected(
            f"the join token is for {token.name!r}, not {node_name!r}: use that name, or get another token"
        )
    refuse_gateway_of_witness(token.witness, gateway_config, "`cyoloctl node join`")
    refuse_a_node(data_dir, CONFIG_NAME, "snapshot")
    pki_dir = data_dir / PKI_DIRECTORY
    _refuse_another_ca(pki_dir / "ca.crt", token.ca_sha256)
    with private_directory(data_dir):
        granted = _redeem(data_dir, token, shown, timeout_s)
        config = Config(
            name=node_name,
            cluster_id=ClusterId(token.cluster_id),
            cluster=granted.cluster,
            listen=listens,
            advertise=shown,
            storage=granted.storage,
            peers={NodeName(peer): address for peer, address in granted.peers.items()},
            gateway=gateway_config,
            witness=granted.witness,
        )
        if config.storage == "memory":
            for path in journal_files(data_dir):
                remove(path)
        write_config(data_dir / CONFIG_NAME, config, exclusive=True)
    return {
        **description(config, data_dir, granted.certificate_expires_at),
        "learner": granted.learner,
        "witness": granted.witness,
    }


def _redeem(data_dir: Path, token: join_token.JoinToken, advertise: Address, timeout_s: float) -> Grant:
    """Redeem a token for keys and a journal that this makes.  After a refusal nothing of them stays."""
    pki_dir = data_dir / PKI_DIRECTORY
    fresh = [path for path in (pki_dir, *journal_files(data_dir)) if not os.path.lexists(path)]
    try:
        # Before the token is spent: a journal that is there and is not this node's.
        create_storage(data_dir, cluster_id=token.cluster_id, name=token.name, founder=False)
        request = prepare_request(pki_dir, token.name, token.cluster_id)
        answer = join_cluster(
            [(member, str(address)) for member, address in token.members],
            token.ca_sha256,
            token.cluster_id,
            _join_body(token, request, advertise),
            timeout_s,
        )
        return accept_grant(
            pki_dir, answer, name=token.name, cluster_id=token.cluster_id, ca_sha256=token.ca_sha256
        )
    except (OutcomeUnknown, Unavailable, ClientTimeout):
        raise  # the token may be redeemed already, and only for these keys
    except CyoloctlError:
        for path in fresh:
            remove(path)
        raise


def _join_body(token: join_token.JoinToken, request: PendingRequest, address: Address) -> dict[str, Any]:
    """The body of a join request: everything but the secret, signed with the key that the secret gives."""
    asked = join_token.JoinRequest(
        cluster_id=token.cluster_id,
        name=token.name,
        request_sha256=csr_sha256(request.request_pem),
        address=str(address),
        sealing_key=request.sealing_key,
        ca_sha256=token.ca_sha256,
    )
    return {
        "name": token.name,
        "public_key": join_token.public_key(token.secret, token.cluster_id, token.name),
        "signature": join_token.sign(token.secret, asked),
        "request_pem": request.request_pem,
        **({"level": THIS.level} if THIS.level > BASE_LEVEL else {}),
        "sealing_key": request.sealing_key,
        "address": asked.address,
        "ca_sha256": asked.ca_sha256,
    }


def journal_files(data_dir: Path) -> list[Path]:
    # SQLite's write-ahead log and its index stand beside the journal.
    return [data_dir / f"raft.db{suffix}" for suffix in ("", "-wal", "-shm")]


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _refuse_another_ca(path: Path, ca_sha256: str) -> None:
    """Refuse keys of another cluster in the directory, before the token is spent."""
    try:
        text = path.read_text("ascii")
        same = certificate_sha256(text) in ca_sha256.split(",")
    except FileNotFoundError:
        return
    except (OSError, ValueError, InvalidInput):
        same = False
    if not same:
        raise Conflict(f"{path} is of another cluster: use an empty data directory")


def _node_of(data_dir: Path) -> tuple[Config, Path, NodeFiles]:
    config = load_config(data_dir / CONFIG_NAME)
    pki_dir = data_dir / PKI_DIRECTORY
    return (
        config,
        pki_dir,
        check_private_files(pki_dir, name=config.name, cluster_id=config.cluster_id),
    )


def _renewed(config: Config, pki_dir: Path) -> dict[str, Any]:
    files = check_private_files(pki_dir, name=config.name, cluster_id=config.cluster_id)
    return {
        "schema_version": 1,
        "name": config.name,
        "certificate": str(pki_dir / "node.crt"),
        "certificate_expires_at": rfc3339_of(files.certificate_expires_at),
    }


def renew_here(data_dir: Path, authority: Authority | None = None) -> dict[str, Any]:
    """Renew the node's certificate with the CA key in its own directory, offline, for as long as before.

    authority: a CA that is kept offline.  A running node uses the certificate
    within a second.  Raises ConfigError where there is no CA key, and for a
    clock that was never set; InvalidInput for another CA; StorageError.
    """
    config, pki_dir, files = _node_of(data_dir)
    if authority is not None:
        if authority.ca_pem not in files.authorities:
            raise InvalidInput("that CA is not the CA of this node's cluster: use the right file")
    elif not files.has_ca_key:
        directory = quoted(data_dir)
        raise ConfigError(
            f"{pki_dir} holds no CA key, so this node cannot renew its certificate itself: write a request "
            f"(`cyoloctl node renew -d {directory} --request FILE`), have it granted on a member "
            "(`cyoloctl member grant --request FILE --out FILE`), and put the answer in place "
            f"(`cyoloctl node renew -d {directory} --grant FILE`)"
        )
    else:
        authority = Authority(*read_ca(pki_dir))
    renewal.renew_own(
        pki_dir,
        authority,
        files.identity,
        now_unix_ms=int(renewal.offline_now(_now()).timestamp() * 1000),
        days=renewal.life_of(files.certificate_pem).days,
    )
    return _renewed(config, pki_dir)


def write_renewal_request(data_dir: Path, out: Path) -> dict[str, Any]:
    """Write a request for a new certificate for the key that the node has; no secrets.

    Raises AlreadyExists for a file that is there, what file_error gives, ConfigError, StorageError.
    """
    config, pki_dir, _ = _node_of(data_dir)
    pending = prepare_request(pki_dir, config.name, config.cluster_id)
    request = NodeRequest(config.name, config.advertise, pending.request_pem, pending.sealing_key)
    write_request(out, request)
    return {"schema_version": 1, "name": config.name, "request": str(out)}


def write_request(out: Path, request: NodeRequest) -> None:
    """Write a request to a new file.  Raises AlreadyExists, what file_error gives, StorageError."""
    try:
        write_private(out, encode_request(request).encode(), exclusive=True)
    except StorageError as error:
        if isinstance(error.__cause__, OSError):
            raise file_error(out, error.__cause__, "write") from None
        raise


def accept_renewal(data_dir: Path, text: str) -> dict[str, Any]:
    """Put a granted certificate in place.  A running node uses it within a second.

    Raises InvalidInput, Conflict (of another cluster or CA), ConfigError, StorageError.
    """
    config, pki_dir, files = _node_of(data_dir)
    certificate = renewal.decode_renewal(decode_grant(text), pki_dir, files.identity)
    renewal.store_certificate(pki_dir, certificate, files.identity)
    return _renewed(config, pki_dir)


def node_info(data_dir: Path) -> dict[str, Any]:
    """Description of the directory's node, as JSON; needs no running node.

    problem: what keeps the files from being used, None when nothing does.
    Raises ConfigError where there is no node, or node.yaml is wrong.
    """
    config = load_config(data_dir / CONFIG_NAME)
    problem: str | None = None
    expires_at: str | None = None
    try:
        files = check_private_files(
            data_dir / PKI_DIRECTORY, name=config.name, cluster_id=config.cluster_id, now=_now()
        )
        expires_at = rfc3339_of(files.certificate_expires_at)
    except ConfigError as error:
        problem = error.message
        with suppress(OSError, ValueError, InvalidInput):
            text = (data_dir / PKI_DIRECTORY / "node.crt").read_text("ascii")
            expires_at = rfc3339_of(certificate_expires_at(text))
    return {
        "schema_version": 1,
        "name": config.name,
        "cluster": {"name": config.cluster, "id": config.cluster_id},
        "listen": str(config.listen),
        "address": str(config.advertise),
        "storage": config.storage,
        "witness": config.witness,
        "peers": {name: str(address) for name, address in config.peers.items()},
        "data_dir": str(data_dir),
        "certificate_expires_at": expires_at,
        "problem": problem,
    }
