"""Operations on the register of credentials: create, list, show, revoke, renew."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cyoloctl.caller import CALLER
from cyoloctl.credentials.machine import Credential, CredentialMachine
from cyoloctl.errors import (
    AccessDenied,
    ConfigError,
    Conflict,
    CyoloctlError,
    InvalidInput,
    NoLeader,
    NotFound,
    VersionMismatch,
)
from cyoloctl.members.machine import MemberMachine
from cyoloctl.model import LocalNode, name_of, parse_name
from cyoloctl.pki.ca import CertificateIssuer, issue_certificate
from cyoloctl.pki.files import read_authorities, read_operator
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.offline_ca import check_issued
from cyoloctl.pki.requests import check_credential_request
from cyoloctl.pki.x509 import certificate_expires_at, public_key_sha256
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.security_log import log_security
from cyoloctl.text import Json, from_unix_ms, rfc3339

__all__ = ["CredentialOperations"]

_log = logging.getLogger("cyoloctl.node")

_MAX_TTL_S = 825 * 86_400

#: Operations that a node may pass to another one, and their fields.
_PASSED_ON: dict[str, dict[str, tuple[type, ...]]] = {
    "create": {"name": (str,), "role": (str,), "request_pem": (str,), "ttl_s": (int,)},
    "renew": {
        "name": (str,),
        "request_pem": (str,),
        "ttl_s": (int, type(None)),
        "from_key_hash": (str, type(None)),
    },
    "revoke": {"name": (str,)},
}


class CredentialOperations:
    """The register of credentials, for the API.

    Any node answers.  What changes the register runs on a voter, what makes a
    certificate on one that holds the CA key: it is passed on, once, over the
    link between the two nodes.  A voter takes such requests from voters
    only: the word of a learner must not make an operator.
    """

    def __init__(
        self,
        proposer: Proposer,
        node: LocalNode,
        register: CredentialMachine,
        members: MemberMachine,
        *,
        pki_dir: Path,
        ask: Callable[[str, str, Json, float], Awaitable[Json]],
        issuer: Callable[[], CertificateIssuer],
        addresses: Callable[[], dict[str, str]],
    ) -> None:
        """ask: a peer, by raft id or name: operation, arguments, timeout in seconds.

        issuer: the CA of new credentials; raises ConfigError where this node holds no CA key.

        addresses: where the members are, this node included.
        """
        self._proposer = proposer
        self._node = node
        self._pki_dir = pki_dir
        self._ask = ask
        self._issuer = issuer
        self._addresses = addresses
        self._members = members
        self._register = register
        self._name = str(node.name)

    # ------------------------------------------------------------- reading

    async def list(self, *, consistency: str, timeout_s: float) -> Json:
        """Every key that counts or counted: the register, and the members as role ``node``."""
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        rows = [_row(entry) for entry in self._register.entries()]
        rows += [
            {
                "name": member.name,
                "role": "node",
                "key_hash": member.key_hash,
                "created_at": None,
                "created_by": None,
                "expires_at": member.certificate_expires_at,
                "revoked_at": None,
            }
            for member in self._members.members()
        ]
        rows.sort(key=lambda row: (row["name"], row["role"] == "node", row["created_at"] or ""))
        return {"credentials": rows}

    async def show(self, name: str, *, timeout_s: float) -> Json:
        """One entry.  Raises NotFound."""
        listed = await self.list(consistency="linearizable", timeout_s=timeout_s)
        entry = self._register.get(name)
        key_hash = None if entry is None else entry.key_hash
        for row in listed["credentials"]:
            if row["name"] == name and (entry is None or row["key_hash"] == key_hash):
                return dict(row)
        raise NotFound(f"there are no credentials of the name {name}: see `credentials list`")

    # ------------------------------------------------------------- changing

    async def create(
        self,
        *,
        name: str,
        role: str,
        request_pem: str,
        ttl_s: int,
        certificate_pem: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Register the key of a request and issue its certificate; the same request again gives the same.

        certificate_pem: made by the operator, where the CA is kept offline.
        """
        check_credential_request(request_pem, name, role)
        given = {"name": name, "role": role, "request_pem": request_pem, "ttl_s": ttl_s}
        return await self._where_allowed("create", given, certificate_pem, request_id, timeout_s)

    async def renew(
        self,
        name: str,
        *,
        request_pem: str,
        ttl_s: int | None,
        certificate_pem: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Give credentials another expiry, and another key where the request has one."""
        given = {"name": name, "request_pem": request_pem, "ttl_s": ttl_s, "from_key_hash": None}
        return await self._where_allowed("renew", given, certificate_pem, request_id, timeout_s)

    async def renew_own(
        self,
        *,
        request_pem: str,
        ttl_s: int | None,
        certificate_pem: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """As `renew` for the caller's own credentials, for no longer than they were granted for."""
        name = CALLER.get().name
        entry = self._register.get(name)
        if entry is None:
            raise InvalidInput("name the credentials to renew: this caller has none of its own")
        given = {
            "name": name,
            "request_pem": request_pem,
            "ttl_s": ttl_s,
            "from_key_hash": entry.key_hash,
        }
        return await self._where_allowed("renew", given, certificate_pem, request_id, timeout_s)

    async def revoke(self, name: str, *, request_id: str | None, timeout_s: float) -> Json:
        """End credentials: their connections close within two seconds.  Idempotent.  Raises NotFound."""
        return await self._where_allowed("revoke", {"name": name}, None, request_id, timeout_s)

    async def bootstrap(self) -> bool:
        """Register the founder's operator, while the register never had one.  True when it was written.

        To be called when this node is up to date.
        """
        if self._register.had_operator:
            return False
        try:
            found = read_operator(self._pki_dir)
        except ConfigError as error:
            _log.warning("the founder's operator is not registered", extra={"reason": error.message})
            return False
        if found is None:
            return False
        name, key_hash, expires_ms = found
        arguments = {"name": name, "key_hash": key_hash, "expires_unix_ms": expires_ms}
        await self._proposer.apply_here("credentials", "bootstrap", arguments, request_id=None, timeout_s=5.0)
        log_security("credentials bootstrap", credentials=name, role="operator", key_hash=key_hash)
        return True

    async def answer(
        self,
        peer: str,
        *,
        operation: str,
        given: Json,
        request_id: str | None,
        caller: str,
        timeout_s: float,
    ) -> Json:
        """Answer an operation that a peer passed on.  Raises AccessDenied for a peer that is no voter."""
        if not self._members.is_voter(peer):
            raise AccessDenied("a learner does not change who is trusted: ask a voter")
        fields = _PASSED_ON.get(operation)
        if (
            fields is None
            or given.keys() != fields.keys()
            or not all(type(given[key]) in types for key, types in fields.items())
        ):
            raise VersionMismatch(
                f"{self._name} runs another release than the member that asks it, and does not know this: "
                "install the same release on every member"
            )
        CALLER.set(CALLER.get()._replace(kind="client", name=caller))
        return await self._here(operation, given, None, request_id, timeout_s)

    # ------------------------------------------------------------- inside

    def _can_issue(self) -> bool:
        try:
            self._issuer()
        except ConfigError:
            return False
        return True

    async def _where_allowed(
        self,
        operation: str,
        given: Json,
        certificate_pem: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        """Do it here where this node is a voter and holds what is needed, otherwise on a node that does."""
        deadline = time.monotonic() + timeout_s
        if not self._members.is_voter(self._name):
            raise Conflict(
                f"{self._name} is a learner, and learners do not change who is trusted: ask a voter, "
                f"{self._voters()}"
            )
        if operation == "revoke" or certificate_pem is not None or self._can_issue():
            return await self._here(operation, given, certificate_pem, request_id, timeout_s)
        if self._node.offline_ca:
            raise ConfigError(
                "the key of the CA, which makes certificates, is kept offline: repeat the command with "
                "`--ca-file FILE`, the file that `cyoloctl cluster init --offline-ca` wrote"
            )
        leader = self._proposer.engine.leader()
        first = "" if leader is None else name_of(leader)
        connected = sorted(self._proposer.engine.peers(), key=lambda peer: (peer != first, peer))
        refused: CyoloctlError = ConfigError(
            "no connected voter holds the CA key, which makes certificates: run this on one that does"
        )
        for peer in connected:
            left = deadline - time.monotonic()
            if not self._members.has_ca_key(peer) or left <= 0:
                continue
            arguments = {
                "operation": operation,
                "given": given,
                "request_id": request_id,
                "caller": CALLER.get().name,
            }
            try:
                return await self._ask(peer, "credential", arguments, left)
            except (ConfigError, NoLeader) as error:
                refused = error  # nothing was done: the next one may be able to
        raise refused

    def _voters(self) -> str:
        where = self._addresses()
        found = [
            f"https://{member.name}@{where[member.name]}"
            for member in self._members.members()
            if member.role == "voter" and member.name in where
        ]
        return " or ".join(found[:3]) or "see `member list`"

    async def _here(
        self,
        operation: str,
        given: Json,
        certificate_pem: str | None,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        name = given["name"]
        if operation == "revoke":
            return await self._revoke_here(name, request_id, timeout_s)
        await self._proposer.in_time(timeout_s=timeout_s)
        # Where the operator made the certificate, the CA is offline, and there is only one.
        issuer = None if certificate_pem is not None else self._issuer()
        ca_pem = read_authorities(self._pki_dir)[0] if issuer is None else issuer.authority.ca_pem
        request_pem = given["request_pem"]
        if operation == "create":
            role = given["role"]
        else:
            await self._proposer.fresh(timeout_s=timeout_s)
            entry = self._register.get(name)
            role = "viewer" if entry is None else entry.role
            if entry is None and self._members.get(name) is not None:
                raise NotFound(f"{name} is a node: its certificate is renewed with `cyoloctl node renew`")
        check_credential_request(request_pem, name, role)
        identity = Identity(parse_name(name), role, self._node.cluster_id)
        if certificate_pem is not None:
            check_issued(certificate_pem, [ca_pem], identity, request_pem, self._proposer.now_ms())
        ttl_s = given["ttl_s"]
        if ttl_s is not None and not 60 <= ttl_s <= _MAX_TTL_S:
            raise InvalidInput("the lifetime of credentials is 60 s to 825 d")
        arguments = {
            "name": name,
            "key_hash": public_key_sha256(request_pem),
            "ttl_ms": None if ttl_s is None else ttl_s * 1000,
            "latest_unix_ms": int(certificate_expires_at(ca_pem).timestamp() * 1000),
        }
        if operation == "create":
            arguments |= {"role": role, "created_by": _printable(CALLER.get().name)}
        else:
            arguments |= {"from_key_hash": given["from_key_hash"]}
        value = await self._apply(operation, arguments, request_id, timeout_s)
        log_security(
            f"credentials {operation}",
            credentials=name,
            role=value["role"],
            key_hash=value["key_hash"],
            expires_at=_time(value["expires_unix_ms"]),
        )
        if issuer is not None:
            certificate_pem = self._certificate(value, issuer, request_pem)
        return {  # the object of a credentials file, without the private key, and the entry
            **_row_of(value),
            "cluster_id": self._node.cluster_id,
            "ca_pem": ca_pem if issuer is None else issuer.trust_pem,
            "certificate_pem": certificate_pem,
            "members": self._addresses(),
        }

    async def _revoke_here(self, name: str, request_id: str | None, timeout_s: float) -> Json:
        value = await self._apply("revoke", {"name": name}, request_id, timeout_s)
        log_security("credentials revoke", credentials=name, role=value["role"], key_hash=value["key_hash"])
        return _row_of(value)

    async def _apply(self, operation: str, arguments: Json, request_id: str | None, timeout_s: float) -> Json:
        return await self._proposer.apply_here(
            "credentials", operation, arguments, request_id=request_id, timeout_s=timeout_s
        )

    def _certificate(self, value: Json, issuer: CertificateIssuer, request_pem: str) -> str:
        """The certificate of an entry, in PEM."""
        return issue_certificate(
            issuer.authority.ca_pem,
            issuer.authority.key_pem,
            request_pem,
            Identity(value["name"], value["role"], self._node.cluster_id),
            now=from_unix_ms(self._proposer.now_ms()),
            until=from_unix_ms(value["expires_unix_ms"] // 1000 * 1000),
        )


def _time(unix_ms: int | None) -> str | None:
    return None if unix_ms is None else rfc3339(unix_ms / 1000)


def _row(entry: Credential) -> Json:
    return _row_of(entry.to_json())


def _row_of(value: Json) -> Json:
    return {
        "name": value["name"],
        "role": value["role"],
        "key_hash": value["key_hash"],
        "created_at": _time(value["created_unix_ms"]),
        "created_by": value["created_by"],
        "expires_at": _time(value["expires_unix_ms"]),
        "revoked_at": _time(value["revoked_unix_ms"]),
    }


def _printable(text: Any) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in str(text))[:128]
