"""Operations on certificates and CAs: status, exchange, renewal by file, problems."""

from __future__ import annotations

import logging
from typing import Any, Literal

from cyoloctl.authorities.api import PkiAuthority, PkiMember, PkiStatus, PkiStep
from cyoloctl.authorities.ends import CA_DUE_MS, ca_due, ca_ends, certificate_ends, credentials_end
from cyoloctl.authorities.machine import AuthorityMachine, Rotation
from cyoloctl.authorities.renewal import Ask, CertificateRenewal
from cyoloctl.credentials.machine import CredentialMachine
from cyoloctl.errors import ConfigError, Conflict, NotFound
from cyoloctl.members.api import Problem
from cyoloctl.members.facts import problem
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.records import Member
from cyoloctl.model import LocalNode
from cyoloctl.pki import exchange, renewal
from cyoloctl.pki.requests import decode_request
from cyoloctl.pki.x509 import certificate_dates, certificate_sha256
from cyoloctl.replicated.proposer import Proposer, step_of
from cyoloctl.text import Json, parse_rfc3339, rfc3339, to_unix_ms

__all__ = ["AuthorityOperations"]

_log = logging.getLogger("cyoloctl.certificates")


class AuthorityOperations:
    """Implements `authorities.api.AuthorityApi`; `status` asks it for problems."""

    def __init__(
        self,
        proposer: Proposer,
        node: LocalNode,
        members: MemberMachine,
        authorities: AuthorityMachine,
        *,
        credentials: CredentialMachine,
        certificates: CertificateRenewal,
        ask: Ask,
    ) -> None:
        """ask: a connected member by name."""
        self._proposer = proposer
        self._certificates = certificates
        self._ask = ask
        self._engine = proposer.engine
        self._node = node
        self._name = str(node.name)
        self._members = members
        self._authorities = authorities
        self._credentials = credentials

    async def status(self, *, timeout_s: float) -> PkiStatus:
        """The CAs, the holders of their keys, and the certificates under each, whether a rotation is due."""
        await self._proposer.fresh(timeout_s=timeout_s)
        going = self._authorities.rotation
        reported = {
            name: (peer.info.get("certificate_ca"), peer.info.get("ca_keys"))
            for name, peer in self._engine.peers().items()
        }
        own = self._certificates.describe()
        reported[self._name] = (own["certificate_ca"], own["ca_keys"])
        members = [self._member_row(member, reported.get(member.name)) for member in self._members.members()]
        reasons = self._due_reasons()
        return {
            "authorities": [self._ca_row(pem, reported) for pem in self._all_authorities()],
            "members": members,
            "rotation": None if going is None else self._rotation_row(going),
            "rotation_due": bool(reasons),
            "reasons": reasons,
            "certificate_days": self._certificates.certificate_days(),
            "credentials_to_renew": self._to_renew(),
        }

    def ends_unix_s(self) -> dict[str, float]:
        """When each CA ends, by the hash of its certificate."""
        return {
            certificate_sha256(pem): certificate_dates(pem)[1].timestamp() for pem in self._all_authorities()
        }

    def _all_authorities(self) -> list[str]:
        going = self._authorities.rotation
        if going is not None:
            return [going.old_ca_pem, going.ca_pem]
        return [self._authorities.current or self._certificates.files.ca_pem]

    def _ca_row(self, pem: str, reported: dict[str, tuple[Any, Any]]) -> PkiAuthority:
        going, sha256 = self._authorities.rotation, certificate_sha256(pem)
        state: Literal["current", "previous", "next"] = "current"
        if going is not None:
            is_new = pem == going.ca_pem
            state = (
                ("current" if is_new else "previous") if going.issuing else "next" if is_new else "current"
            )
        start, end = certificate_dates(pem)
        return {
            "sha256": sha256,
            "state": state,
            "not_before": rfc3339(start.timestamp()),
            "not_after": rfc3339(end.timestamp()),
            "key_holders": sorted(
                name
                for name, (_, keys) in reported.items()
                if isinstance(keys, str) and sha256 in keys.split()
            ),
        }

    def _member_row(self, member: Member, reported: tuple[Any, Any] | None) -> PkiMember:
        name, going = member.name, self._authorities.rotation
        ca = None if reported is None or not isinstance(reported[0], str) else reported[0]
        return {
            "name": name,
            "role": "witness" if member.witness else member.role,
            "connected": reported is not None,
            "certificate_expires_at": member.certificate_expires_at,
            # Of a member that is away only its last word is known.
            "ca_sha256": ca if going is None or ca is not None else _last_word(going, name),
            "confirmed": None if going is None else name in going.confirmed,
            "reissued": None if going is None else name in going.reissued,
        }

    def _rotation_row(self, going: Rotation) -> PkiStep:
        waiting = self._authorities.not_reissued() if going.issuing else self._authorities.unconfirmed()
        return {
            "step": "issuing" if going.issuing else "overlap" if going.ready_unix_ms else "distributing",
            "from_sha256": certificate_sha256(going.old_ca_pem),
            "to_sha256": going.sha256,
            "begun_at": rfc3339(going.begun_unix_ms / 1000),
            "overlap_until": rfc3339(going.overlap_until_unix_ms / 1000),
            "waiting_for": waiting,
            "problem": self._certificates.exchange_problem,
        }

    def _due_reasons(self) -> list[str]:
        reasons = []
        if self.rotation_is_due():
            reasons += [
                f"{name} was removed and has had the key of the CA" for name in self._authorities.due_for()
            ]
            reasons += [
                f"{name} votes no more and has had the key of the CA" for name in self._authorities.demoted()
            ]
        end = certificate_dates(self._all_authorities()[-1])[1]
        if int(end.timestamp() * 1000) - self._certificates.validity_ms() < CA_DUE_MS:
            reasons.append(ca_ends(rfc3339(end.timestamp())))
        return reasons

    def _to_renew(self) -> list[str]:
        """Credentials that do not outlive the old CA: made before every member trusted the new one."""
        going = self._authorities.rotation
        now_ms = self._proposer.now_ms()
        ready_ms = None if going is None else going.ready_unix_ms
        return [
            entry.name
            for entry in self._credentials.entries()
            if entry.is_live(now_ms) and (ready_ms is None or _made_unix_ms(entry) < ready_ms)
        ]

    async def rotate(
        self, *, overlap_s: int, dry_run: bool, abandon: bool, request_id: str | None, timeout_s: float
    ) -> Json:
        """Begin to exchange the CA; the nodes do the rest by themselves.

        dry_run: only say what would be.  abandon: take back one that not all
        members have confirmed.  Raises Conflict while one goes on, ConfigError
        where no connected node holds the CA key.
        """
        if dry_run or request_id is None:
            return await self._rotate(overlap_s, dry_run, abandon, timeout_s)
        step = step_of(request_id, "ca")

        async def begin() -> Json:
            begun = await self._rotate(overlap_s, False, abandon, timeout_s, step)
            return {"sha256": begun["sha256"]}

        about = {"overlap_s": overlap_s, "abandon": abandon}
        kept = await self._proposer.once(
            "pki_rotate", about, begin, request_id=request_id, timeout_s=timeout_s
        )
        return self._rotate_answer(kept["sha256"], overlap_s, dry_run=False)

    async def _rotate(
        self, overlap_s: int, dry_run: bool, abandon: bool, timeout_s: float, step: str | None = None
    ) -> Json:
        """step: the request id of the command that begins it."""
        await self._proposer.fresh(timeout_s=timeout_s)
        if step is not None and not abandon:
            asked = {"overlap_ms": overlap_s * 1000}
            done = self._proposer.first_answer("authorities", "exchange", asked, step)
            if done is not None:  # by an attempt whose end nobody saw
                return self._rotate_answer(done["sha256"], overlap_s, dry_run=False)
        going = self._authorities.rotation
        if abandon:
            if going is None:
                raise Conflict("no rotation of the CA is under way: see `cyoloctl pki status`")
            await self._certificates.write("abandon", {"sha256": going.sha256})
            return self._rotate_answer(None, 0, dry_run=False)
        if going is not None:
            raise Conflict("a rotation of the CA is already under way: see `cyoloctl pki status`")
        old = self._certificates.issuing()
        if old is None:
            return await self._rotate_there(overlap_s, dry_run, timeout_s)
        if dry_run:
            return self._rotate_answer(None, overlap_s, dry_run=True)
        cluster_id = str(self._node.cluster_id)
        new, voucher = exchange.new_authority(
            old, cluster_id, str(self._node.cluster), self._proposer.now_ms()
        )
        keys = {
            member.name: exchange.seal_key(new, cluster_id, member.name, member.sealing_key)
            for member in self._members.members()
            if self._members.has_ca_key(member.name)
        }
        await self._proposer.apply_here(
            "authorities",
            "begin" if step is None else "exchange",
            {
                "ca_pem": new.ca_pem,
                "old_ca_pem": old.ca_pem,
                "voucher": voucher,
                "keys": keys,
                "overlap_ms": overlap_s * 1000,
            },
            request_id=step,
            timeout_s=timeout_s,
        )
        _log.info("a rotation of the CA has begun", extra={"ca": new.sha256[:16], "overlap_s": overlap_s})
        return self._rotate_answer(new.sha256, overlap_s, dry_run=False)

    async def rotate_for(self, *, overlap_s: int, dry_run: bool, timeout_s: float) -> Json:
        """As rotate, for a voter that holds no CA key."""
        if self._certificates.issuing() is None:
            raise ConfigError("this node holds no CA key: see who does (pki status)")
        return await self._rotate(overlap_s, dry_run, False, timeout_s)

    async def _rotate_there(self, overlap_s: int, dry_run: bool, timeout_s: float) -> Json:
        for name in self._key_holders():
            return await self._ask(name, "rotate_ca", {"overlap_s": overlap_s, "dry_run": dry_run}, timeout_s)
        if self._node.offline_ca:
            raise Conflict(
                "the key of the CA is kept offline, and no member can exchange it: make a new cluster of "
                "this one's state (`cyoloctl snapshot save`, `cyoloctl cluster init --from-snapshot`)"
            )
        raise ConfigError(
            "no connected member holds the key of the CA, so the cluster cannot exchange it: start a voter "
            "that holds it"
        )

    def _key_holders(self) -> list[str]:
        """Connected voters that say that they hold the CA key; never one that was asked by another."""
        wanted = certificate_sha256(self._all_authorities()[-1 if self._issues_from_new() else 0])
        found = []
        for name, peer in sorted(self._engine.peers().items()):
            keys = peer.info.get("ca_keys")
            if self._members.has_ca_key(name) and isinstance(keys, str) and wanted in keys.split():
                found.append(name)
        return found

    def _issues_from_new(self) -> bool:
        going = self._authorities.rotation
        return going is not None and going.issuing

    def _rotate_answer(self, sha256: str | None, overlap_s: int, *, dry_run: bool) -> Json:
        members = self._members.members()
        connected = {self._name, *self._engine.peers()}
        return {
            "dry_run": dry_run,
            "sha256": sha256,
            "overlap_s": overlap_s,
            "members": [member.name for member in members],
            "away": [member.name for member in members if member.name not in connected],
            "credentials_to_renew": self._to_renew(),
        }

    async def grant(self, *, request: str, certificate_pem: str | None, timeout_s: float) -> Json:
        """The object of a file with a new certificate for a member that cannot reach the cluster.

        request: the text of the member's request file.  certificate_pem: made
        by the operator, where the CA is kept offline.  Raises NotFound for
        no member, AccessDenied for another key than it was admitted with,
        InvalidInput, ConfigError where no connected node holds the CA key.
        """
        decoded = decode_request(request)
        name = str(decoded.name)
        if decoded.signature is not None and self._members.get(name) is None:
            raise NotFound(
                f"there is no member {name}, and this file asks for a place in the cluster: grant it with "
                "`cyoloctl member grant --request FILE --out FILE`"
            )
        if certificate_pem is None:
            return await self.certify(name, decoded.request_pem, timeout_s)
        await self._certificates.check_member_request(name, decoded.request_pem, timeout_s)
        self._certificates.check_issued(name, certificate_pem, decoded.request_pem)
        return renewal.encode_renewal(
            certificate_pem,
            cluster_id=str(self._node.cluster_id),
            name=name,
            ca_pem=self._certificates.files.ca_pem,
        )

    def check_can_certify(self) -> None:
        """Raises ConfigError where neither this node nor a connected one holds the key of the CA."""
        if self._certificates.issuing() is None and not self._key_holders():
            raise self._no_key()

    def _no_key(self) -> ConfigError:
        if self._node.offline_ca:
            return ConfigError(
                "the key of the CA is kept offline, and no member holds it: repeat the command with "
                "`--ca-file FILE`, the file that `cyoloctl cluster init --offline-ca` wrote"
            )
        return ConfigError(
            "no connected member holds the key of the CA (pki status): start a voter that does"
        )

    def rotation_is_due(self, besides: bool = False) -> bool:
        """Whether somebody who votes no more has had the CA's key.

        besides: somebody is about to vote no more.  With an offline CA nobody has had it.
        """
        leavers = besides or self._authorities.due_for() or self._authorities.demoted()
        return not self._node.offline_ca and bool(leavers)

    async def certify(self, name: str, request_pem: str, timeout_s: float) -> Json:
        """As grant, for the certificate request of a member, or of a node whose request was granted."""
        if self._certificates.issuing() is not None:
            return await self.grant_for(name=name, request_pem=request_pem, timeout_s=timeout_s)
        for holder in self._key_holders():
            return await self._ask(holder, "grant", {"name": name, "request_pem": request_pem}, timeout_s)
        raise self._no_key()

    async def grant_for(self, *, name: str, request_pem: str, timeout_s: float) -> Json:
        """As grant, on a node that holds the CA key."""
        certificate, ca_pem = await self._certificates.issue(name, request_pem, timeout_s)
        return renewal.encode_renewal(
            certificate, cluster_id=str(self._node.cluster_id), name=name, ca_pem=ca_pem
        )

    # ------------------------------------------------------------- problems

    def problems(self) -> list[Problem]:
        """Problems that an operator must settle: each with code, member (or None), message and command."""
        now_ms = self._certificates.validity_ms()
        warn_ms = renewal.warn_before_s(self._certificates.certificate_days()) * 1000
        found: list[Problem] = []
        for member in self._members.members():
            expires_at = member.certificate_expires_at
            if member.name == self._name:
                expires_at = self._certificates.expires_at()
            if expires_at is None:
                continue
            left_ms = to_unix_ms(parse_rfc3339(expires_at)) - now_ms
            if left_ms < warn_ms:
                found.append(
                    certificate_ends(member.name, expires_at, left_ms, offline_ca=self._node.offline_ca)
                )
        if self._certificates.problem is not None:
            message = f"{self._name} cannot renew its certificate: {self._certificates.problem}"
            found.append(problem("certificate_renewal_failed", self._name, message, "cyoloctl pki status"))
        if self._certificates.exchange_problem is not None:
            message = (
                f"{self._name} does not follow the exchange of the CA: {self._certificates.exchange_problem}"
            )
            found.append(problem("ca_exchange_failed", self._name, message, "cyoloctl pki status"))
        for entry in self._credentials.entries():
            left_ms = entry.expires_unix_ms - now_ms
            life_days = max(1, entry.lifetime_ms // 86_400_000)
            # Those of an hour are meant to end: they are told of in their last third.
            warn_ms = min(renewal.warn_before_s(life_days) * 1000, entry.lifetime_ms // 3)
            if entry.revoked_unix_ms is None and 0 < left_ms < warn_ms:
                found.append(credentials_end(entry.name, entry.role, left_ms))
        going = self._authorities.rotation is not None
        found += [
            ca_due(reason, going=going, offline_ca=self._node.offline_ca) for reason in self._due_reasons()
        ]
        return found


def _last_word(going: Rotation, name: str) -> str:
    return going.sha256 if name in going.reissued else certificate_sha256(going.old_ca_pem)


def _made_unix_ms(entry: Any) -> int:
    """When the certificate of an entry was made, as far as the register tells: not after this."""
    return max(int(entry.created_unix_ms), int(entry.expires_unix_ms) - int(entry.lifetime_ms))
