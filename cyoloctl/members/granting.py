"""Admitting nodes by file: no connection leads from the one side to the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from cyoloctl.errors import InvalidInput, VersionMismatch
from cyoloctl.members.joining import JoinOperations
from cyoloctl.members.levels import LevelMachine
from cyoloctl.members.records import AskedRole
from cyoloctl.model import LocalNode, parse_address, parse_dialable_address
from cyoloctl.pki.files import NodeFiles
from cyoloctl.pki.grants import make_grant_without_key
from cyoloctl.pki.requests import NodeRequest, decode_request
from cyoloctl.pki.sealed_grants import SealedGrant, encode_sealed_grant, seal_grant
from cyoloctl.pki.x509 import public_key_sha256
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.security_log import log_security
from cyoloctl.text import Json, rfc3339

__all__ = ["GrantOperations"]

_log = logging.getLogger("cyoloctl.node")


class GrantOperations:
    """Answers the requests of nodes that cannot reach the cluster.

    files: the node's files as they are now.  addresses: where members are, by
    name.  certify: the certificate for a granted request, from whichever
    connected node holds the CA key; check_can_certify: raises ConfigError where
    none does.  check_certificate: one that the operator made with an offline CA,
    for the node of this name and this request.
    """

    def __init__(
        self,
        proposer: Proposer,
        node: LocalNode,
        *,
        joining: JoinOperations,
        levels: LevelMachine,
        files: Callable[[], NodeFiles],
        addresses: Callable[[], Mapping[str, str]],
        certify: Callable[[str, str, float], Awaitable[Json]],
        check_can_certify: Callable[[], None],
        check_certificate: Callable[[str, str, str], None],
    ) -> None:
        self._proposer = proposer
        self._node = node
        self._joining = joining
        self._levels = levels
        self._files = files
        self._addresses = addresses
        self._certify = certify
        self._check_can_certify = check_can_certify
        self._check_certificate = check_certificate

    async def grant(
        self,
        *,
        request: str,
        role: AskedRole,
        ttl_s: int,
        certificate_pem: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Let the node of a request come in by its key, and answer it.

        request: the text of its request file.  certificate_pem: made by the
        operator, where the CA is kept offline.  The cluster knows its keys from
        now on, and admits it until the expiry; what it gets is sealed to it and
        holds no key of anybody.  The same request again gets a new answer.

        Raises InvalidInput, AlreadyExists for the name of a member, Conflict
        for its address, its key or a removed name, ConfigError where no
        connected node holds the CA key that is needed, VersionMismatch.
        """
        deadline, asked = time.monotonic() + timeout_s, self._read(request)
        name = str(asked.name)
        await self._joining.founded(timeout_s)
        await self._proposer.in_time(timeout_s=timeout_s)
        await self._proposer.fresh(timeout_s=_left(deadline))
        self._joining.refuse_taken_address(name, str(asked.address))
        self._refuse_level(asked)
        if certificate_pem is None:
            self._check_can_certify()
        else:
            self._check_certificate(name, certificate_pem, asked.request_pem)
        arguments: Json = {
            "name": name,
            "learner": role == "learner",
            "request_sha256": asked.request_sha256,
            "key_hash": public_key_sha256(asked.request_pem),
            "sealing_key": asked.sealing_key,
            "ttl_s": ttl_s,
        }
        operation = "grant"
        if role == "witness":
            operation = "grant_witness"
            del arguments["learner"]
        made = await self._proposer.apply_here(
            "members", operation, arguments, request_id=request_id, timeout_s=_left(deadline)
        )
        log_security("member grant", member=name, role=role, key_hash=arguments["key_hash"])
        _log.info("request granted", extra={"member": name})
        if certificate_pem is None:
            certified = await self._certify(name, asked.request_pem, _left(deadline))
            certificate_pem = str(certified["certificate_pem"])
        sealed = self._answer(asked, certificate_pem, role, made["expires_unix_ms"] // 1000)
        return {
            "name": name,
            "learner": role == "learner",
            "witness": role == "witness",
            "replaced": made["replaced"],
            **_shown(sealed),
        }

    def _refuse_level(self, asked: NodeRequest) -> None:
        """Raises VersionMismatch for a node whose release does not understand the cluster's level."""
        if asked.level < self._levels.level:
            raise VersionMismatch(
                f"the cluster is at level {self._levels.level}, and the release on {asked.name} understands "
                f"level {asked.level}: install release {self._levels.release} or a later one there, then "
                "make the request again (`cyoloctl node request`)"
            )

    @staticmethod
    def _read(request: str) -> NodeRequest:
        asked = decode_request(request)
        if asked.signature is None:
            raise InvalidInput(
                "this request renews the certificate of a member: for a new node, use the file that "
                "`cyoloctl node request` wrote"
            )
        parse_dialable_address(str(asked.address))
        return asked

    def _answer(
        self, asked: NodeRequest, certificate_pem: str, role: AskedRole, expires_unix_s: int
    ) -> SealedGrant:
        """The grant, sealed to the node that asked."""
        known = {str(peer): parse_address(at) for peer, at in self._addresses().items() if peer != asked.name}
        grant = make_grant_without_key(
            cluster_id=self._node.cluster_id,
            name=asked.name,
            cluster=self._node.cluster,
            learner=role == "learner",
            witness=role == "witness",
            certificate_pem=certificate_pem,
            trust_pem="".join(self._files().authorities),
            storage=self._node.storage,
            offline_ca=self._node.offline_ca,
            level=self._levels.level,
            peers={**known, str(self._node.name): self._node.advertise},
        )
        return seal_grant(
            grant,
            request_pem=asked.request_pem,
            sealing_key=asked.sealing_key,
            expires_unix_s=expires_unix_s,
        )


def _shown(sealed: SealedGrant) -> Json:
    return {
        "cluster_id": sealed.cluster_id,
        "ca_sha256": sealed.ca_sha256,
        "expires_at": rfc3339(sealed.expires_unix_s),
        "grant": encode_sealed_grant(sealed),
    }


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())
