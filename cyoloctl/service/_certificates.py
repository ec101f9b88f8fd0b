"""A node's certificate, renewed by itself, and the exchange of the cluster's CA.

`maintain` runs with the node's housekeeping and does the next thing that is
this node's to do.  What needs no other node (a renewal with the own CA key)
needs no leader either: a cluster whose certificates have all ended gets up by
itself.  All is judged by cluster time, or by the time that the leader is about
to step to where that is later, so that a cluster that lay switched off for
years renews its certificates before it takes up the new time.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cyoloctl import authority, pki
from cyoloctl.authority import Authority
from cyoloctl.errors import (
    AccessDenied,
    ConfigError,
    Conflict,
    CyoloctlError,
    NotFound,
    Unavailable,
)
from cyoloctl.machines.authorities import DEFAULT_CERTIFICATE_DAYS, Rotation
from cyoloctl.raft import PeerInfo
from cyoloctl.service._replicated import Json, Replicated, rfc3339
from cyoloctl.tls import TlsIdentity

__all__ = ["CertificateService", "Issuer"]

_log = logging.getLogger("cyoloctl.certificates")

Ask = Callable[[str, str, Json, float], Awaitable[Json]]
"""Ask a connected member by name: operation, arguments, seconds."""

_STEP_TIMEOUT_S = 5.0
_RETRY_FIRST_S, _RETRY_LAST_S = 1.0, 60.0
_REMAKE_EVERY_S = 0.4
_CA_DUE_MS = 365 * 86_400_000
_LAST_UNIX_MS = int(authority.CLOCK_UNTIL.timestamp() * 1000)


class Issuer(NamedTuple):
    """What issuing takes.  trust_pem: the CAs that the holder of the certificate must trust."""

    authority: Authority
    trust_pem: str
    days: int


class CertificateService:
    """What this node has, gets and gives of certificates.

    files: what the pki directory holds now.  pending: the time that this
    node, as leader, is about to step to, in Unix milliseconds; None otherwise.
    """

    def __init__(
        self,
        replicated: Replicated,
        files: pki.NodeFiles,
        pki_dir: Path,
        tls: TlsIdentity,
        *,
        ask: Ask,
        on_renewed: Callable[[pki.NodeFiles], None] = lambda files: None,
    ) -> None:
        self._replicated = replicated
        self._engine = replicated.engine
        self._members = replicated.machine.members
        self._authorities = replicated.machine.authorities
        self._credentials = replicated.machine.credentials
        self._config = replicated.config
        self._name = str(replicated.config.name)
        self._pki_dir = pki_dir
        self._tls = tls
        self._ask = ask
        self._on_renewed = on_renewed
        self.files = files
        self.pending: Callable[[], int | None] = lambda: None
        self._held = authority.held(pki_dir)
        self._seen = self._stamps()
        # Sessions that shook hands with a certificate that was replaced since.
        self._outdated: dict[str, PeerInfo] = {}
        self._remake_at = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._problem: str | None = None
        self._exchange_problem: str | None = None

    # ------------------------------------------------------------- what others of the node ask

    def judged_ms(self) -> int:
        """Cluster time, or the time that the leader is about to step to."""
        told = [self._replicated.now_ms()]
        leader = (self._engine.leader() or "").partition("~")[0]
        if leader == self._name:
            told.append(self.pending() or 0)
        elif (peer := self._engine.peers().get(leader)) is not None:
            pending = peer.info.get("pending_unix_ms")
            if type(pending) is int and pending < _LAST_UNIX_MS:
                told.append(pending)
        return max(told)

    def ready(self, pending_unix_ms: int) -> bool:
        """Whether every connected member's certificate, this node's too, lasts beyond a time."""
        connected = {self._name, *self._engine.peers()}
        members = [m for m in self._members.members() if m.name in connected]
        return not authority.ready(
            ((member.name, member.certificate_expires_at) for member in members), pending_unix_ms
        )

    def expires_at(self) -> str:
        """The end of this node's certificate, RFC 3339."""
        return rfc3339(self.files.certificate_expires_at.timestamp())

    def settled(self) -> bool:
        """Whether all sessions rest on the present certificate: only then is it announced."""
        peers = self._engine.peers()
        self._outdated = {name: info for name, info in self._outdated.items() if peers.get(name) is info}
        return not self._outdated

    def holds_ca_key(self) -> bool:
        """Whether this node can issue certificates for nodes now."""
        return self._issuing() is not None

    def issuer(self, *, credentials: bool = False) -> Issuer:
        """The CA of new certificates: of nodes, or of credentials.

        While CAs are exchanged both are trusted by whoever gets a certificate,
        and credentials come from the new CA as soon as every member trusts it,
        so that they outlive the old one.

        Raises ConfigError where this node holds no CA key.
        """
        found = self._issuing(credentials=credentials)
        if found is None:
            raise ConfigError(
                "this node holds no CA key and cannot issue certificates: ask a voter that does (pki status)"
            )
        return Issuer(found, "".join(self.files.authorities), self.certificate_days())

    def certificate_days(self) -> int:
        """Life of new certificates."""
        return self._authorities.certificate_days or authority.life_of(self.files.certificate_pem).days

    def describe(self) -> Json:
        """What this node tells its peers about its certificates."""
        return {
            "certificate_ca": pki.certificate_sha256(self.files.ca_pem),
            "ca_keys": " ".join(sorted(self._held)),
        }

    # ------------------------------------------------------------- at the start

    def start(self) -> None:
        """Before this node dials anybody: renew a certificate that has ended, where the CA key is here.

        Judged by the cluster time that the journal knows.  The wall clock may
        be years off, and a certificate from then is good for nobody today; if
        it is right, a majority says so soon, and `maintain` renews.  Raises
        ConfigError for a certificate that ended by cluster time where the
        node cannot renew it: nobody would let it in.
        """
        now_ms, wall = self._replicated.now_ms(), datetime.now(UTC)
        ended = authority.life_of(self.files.certificate_pem).end_unix_ms <= now_ms
        found = self._issuing()
        if found is None:
            path = self._pki_dir / "node.crt"
            end = f"{self.files.certificate_expires_at:%Y-%m-%dT%H:%M:%SZ}"
            if ended:
                raise ConfigError(
                    f"{path} ended at {end}, and the cluster's time was {rfc3339(now_ms / 1000)} already "
                    "when this node last knew it: here `cyoloctl node renew -d DIR --request FILE`, on "
                    "a member `cyoloctl member grant --request FILE --out FILE`, then here "
                    "`cyoloctl node renew -d DIR --grant FILE`"
                )
            if authority.has_ended(self.files.certificate_pem, wall):
                _log.warning(
                    "the certificate has ended by this machine's clock: if no member lets this node in, "
                    "renew it by file (cyoloctl node renew)",
                    extra={"certificate": str(path), "ended_at": end, "clock": f"{wall:%Y-%m-%dT%H:%M:%SZ}"},
                )
            return
        if ended:
            self._renew_here(found, now_ms)

    # ------------------------------------------------------------- upkeep

    async def maintain(self) -> bool:
        """Do what is due.  True when there is more to do soon.  Raises nothing."""
        try:
            self._notice_files()
            busy = await self._exchange()
        except CyoloctlError as error:
            busy = False
            if self._exchange_problem != error.message:
                self._exchange_problem = error.message
                _log.error("the exchange of the CA does not go on", extra={"reason": error.message})
        busy = await self._renew_when_due() or busy
        busy = self._remake_sessions() or busy
        try:
            if self._engine.leader() is not None:
                busy = await self._tell() or busy
                if self._engine.is_leader():
                    busy = await self._lead() or busy
        except CyoloctlError as error:
            _log.debug("certificates", extra={"code": error.code, "reason": error.message})
        return busy

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        found = []
        for file in ("node.crt", "ca.crt", "ca.key"):
            try:
                status = os.stat(self._pki_dir / file)
                found.append((status.st_mtime_ns, status.st_ino))
            except OSError:
                found.append((0, 0))
        return tuple(found)

    def _notice_files(self) -> None:
        """What `node renew` or an operator put in place is used without a restart."""
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            try:
                self.reload()
            except ConfigError as error:
                _log.error("changed files are not used", extra={"reason": error.message})

    def reload(self) -> None:
        """Use what the pki directory holds now.  Raises ConfigError; then everything is as it was."""
        files = pki.check_private_files(
            self._pki_dir, name=self._name, cluster_id=str(self._config.cluster_id)
        )
        held = authority.held(self._pki_dir)
        self._tls.reload()
        self._seen = self._stamps()
        renewed = files.certificate_pem != self.files.certificate_pem
        self.files, self._held = files, held
        if renewed:
            self._outdated = dict(self._engine.peers())
            self._failures, self._problem = 0, None
            _log.info(
                "certificate renewed",
                extra={"expires_at": self.expires_at(), "ca": pki.certificate_sha256(files.ca_pem)[:16]},
            )
        self._on_renewed(files)

    def _remake_sessions(self) -> bool:
        """End one session that rests on a replaced certificate; both ends dial again at once."""
        if self.settled():
            return False
        if time.monotonic() >= self._remake_at:
            self._remake_at = time.monotonic() + _REMAKE_EVERY_S
            self._engine.reconnect(min(self._outdated))
        return True

    # Renewal.

    def _issuing(self, *, credentials: bool = False) -> Authority | None:
        """The CA that certificates come from now, where this node holds its key."""
        going = self._authorities.rotation
        if going is not None:
            from_new = going.issuing or (credentials and going.ready_unix_ms is not None)
            return self._held.get(going.sha256 if from_new else pki.certificate_sha256(going.old_ca_pem))
        current = self._authorities.current
        if current is not None:
            return self._held.get(pki.certificate_sha256(current))
        return next(iter(self._held.values()), None)

    def _due(self) -> bool:
        if self.judged_ms() >= authority.life_of(self.files.certificate_pem).renew_unix_ms:
            return True
        going = self._authorities.rotation
        if going is not None:
            return going.issuing and self.files.ca_pem != going.ca_pem
        return self._authorities.current not in (None, self.files.ca_pem)

    async def _renew_when_due(self) -> bool:
        if not self._due() or time.monotonic() < self._retry_at:
            return False
        try:
            found = self._issuing()
            if found is not None and found.ca_pem in self.files.authorities:
                self._renew_here(found, self.judged_ms())
            else:
                await self._renew_there()
            if self._due():
                raise ConfigError("the new certificate has ended as well: the clocks do not agree (status)")
        except CyoloctlError as error:
            pause = min(_RETRY_FIRST_S * 2**self._failures, _RETRY_LAST_S)
            self._failures = min(self._failures + 1, 16)
            self._retry_at = time.monotonic() + pause
            # For a moment after a start or a change of leader nobody can be asked.
            level = logging.ERROR if self._failures == 4 else logging.DEBUG
            if self._failures >= 4:
                self._problem = error.message
            _log.log(level, "the certificate could not be renewed", extra={"reason": error.message})
            return False
        return True

    def _renew_here(self, found: Authority, now_ms: int) -> None:
        authority.renew_own(
            self._pki_dir, found, self.files.identity, now_unix_ms=now_ms, days=self.certificate_days()
        )
        self.reload()

    async def _renew_there(self) -> None:
        """Ask the leader first, then everybody else that is connected."""
        request = pki.prepare_request(self._pki_dir, self._name, str(self._config.cluster_id))
        leader = (self._engine.leader() or "").partition("~")[0]
        others = sorted(self._engine.peers(), key=lambda name: (name != leader, name))
        refusal: CyoloctlError = Unavailable("no member is connected that could be asked for a certificate")
        for name in others:
            try:
                answer = await self._ask(name, "renew", {"request_pem": request.request_pem}, _STEP_TIMEOUT_S)
                authority.store_certificate(
                    self._pki_dir, str(answer.get("certificate_pem")), self.files.identity
                )
            except CyoloctlError as error:
                if not isinstance(error, ConfigError) or isinstance(refusal, Unavailable):
                    refusal = error  # "holds no CA key" says the least
                continue
            self.reload()
            return
        raise refusal

    async def renew_for(self, peer: str, *, request_pem: str, timeout_s: float) -> Json:
        """A new certificate for a member that asks for itself.

        Raises AccessDenied where the key is not the one that the member was
        admitted with, ConfigError where this node cannot issue.
        """
        return {"certificate_pem": (await self._issue(peer, request_pem, timeout_s))[0]}

    async def _issue(self, name: str, request_pem: str, timeout_s: float) -> tuple[str, str]:
        """The certificate and the CA that issued it."""
        issuer = self.issuer()
        await self._replicated.fresh(timeout_s=timeout_s)
        member = self._members.get(name)
        if member is None:
            raise NotFound(f"there is no member {name}: a new node joins with a token (member invite)")
        pki.check_request(request_pem, name, member.sealing_key, str(self._config.cluster_id))
        if member.key_hash is None:
            raise Unavailable(f"{name} has not announced its key yet: try again")
        if pki.key_id(request_pem) != member.key_hash:
            raise AccessDenied(
                f"the request is signed by another key than member {name} was admitted with: if its key is "
                "lost, remove the member and join the node under a new name"
            )
        certificate = authority.issue_for_node(
            issuer.authority,
            request_pem,
            pki.Identity(self.files.identity.name.__class__(name), "node", self._config.cluster_id),
            now_unix_ms=self.judged_ms(),
            days=issuer.days,
        )
        _log.info("certificate issued", extra={"member": name})
        return certificate, issuer.authority.ca_pem

    # The exchange of the CA.

    async def _exchange(self) -> bool:
        """Bring the files to where the cluster is."""
        if self._engine.leader() is None or self._members.get(self._name) is None:
            return False
        await self._replicated.caught_up(timeout_s=_STEP_TIMEOUT_S)
        going, own_ca = self._authorities.rotation, self.files.ca_pem
        before = (self.files.authorities, tuple(self._held))
        if going is not None:
            self._follow(going)
        else:
            wanted = self._authorities.current or own_ca
            if own_ca == wanted and (
                self.files.authorities != (wanted,) or authority.exchanging(self._pki_dir)
            ):
                authority.close_exchange(self._pki_dir, wanted)
                self.reload()
                _log.info("only one CA is trusted", extra={"ca": pki.certificate_sha256(wanted)[:16]})
        self._exchange_problem = None
        return before != (self.files.authorities, tuple(self._held))

    def _follow(self, going: Rotation) -> None:
        cluster_id = str(self._config.cluster_id)
        if going.ca_pem not in self.files.authorities:
            authority.check_voucher(going.ca_pem, going.voucher, self.files.authorities, cluster_id)
            authority.trust(self._pki_dir, [*self.files.authorities, going.ca_pem])
            self.reload()
            _log.info("a second CA is trusted", extra={"ca": going.sha256[:16]})
        sealed = going.keys.get(self._name)
        if sealed is not None and going.sha256 not in self._held:
            found = authority.open_key(self._pki_dir, sealed, cluster_id, self._name, going.ca_pem)
            authority.store_next_key(self._pki_dir, found)
            self.reload()

    async def _tell(self) -> bool:
        """Say what this node has done for the rotation that goes on."""
        going = self._authorities.rotation
        member = self._members.get(self._name)
        if going is None or member is None:
            return False
        arguments = {"name": self._name, "sha256": going.sha256}
        trusts = going.ca_pem in self.files.authorities
        if (
            self._name not in going.confirmed
            and trusts
            and (member.role == "learner" or (going.sha256 in self._held and self._name in going.keys))
        ):
            await self._write("confirm", arguments)
            return True
        if (
            going.issuing
            and self._name not in going.reissued
            and self.files.ca_pem == going.ca_pem
            and self.settled()
        ):
            await self._write("reissued", arguments)
            return True
        return False

    async def _lead(self) -> bool:
        """What only the leader does: give keys to voters that lack them, take the next step."""
        life = authority.life_of(self.files.certificate_pem)
        if self._authorities.certificate_days is None and life.days != DEFAULT_CERTIFICATE_DAYS:
            await self._write("set_certificate_days", {"days": life.days})  # as `cluster init` chose
            return True
        going = self._authorities.rotation
        if going is None:
            return False
        sha256 = {"sha256": going.sha256}
        lacking = self._authorities.lacking_key()
        if lacking:
            return await self._give_key(going, lacking)
        if self._authorities.unconfirmed():
            return False
        if going.ready_unix_ms is None:
            # Who held it up was removed.
            await self._write("confirm", {"name": self._name, **sha256})
            return True
        if not going.issuing:
            now_ms = max(self._replicated.now_ms(), self._replicated.machine.time_unix_ms)
            if now_ms < going.overlap_until_unix_ms:
                return False
            await self._write("advance", sha256)
            _log.info("certificates come from the new CA now", extra={"ca": going.sha256[:16]})
            return True
        if not self._authorities.not_reissued():
            await self._write("finish", sha256)
            _log.info("the old CA counts no more", extra={"ca": going.sha256[:16]})
            return True
        return False

    async def _give_key(self, going: Rotation, lacking: Sequence[str]) -> bool:
        found = self._held.get(going.sha256)
        if found is None:
            # A leader without it (it joined meanwhile): whoever has it is asked.
            for name in going.confirmed:
                if name in self._engine.peers() and name in going.keys:
                    await self._ask(name, "wrap_ca", {"sha256": going.sha256}, _STEP_TIMEOUT_S)
                    return True
            return False
        await self.wrap(going, found, lacking)
        return True

    async def wrap(self, going: Rotation, found: Authority, lacking: Iterable[str]) -> None:
        """Seal the new CA's key to voters that lack it."""
        members = (self._members.get(name) for name in lacking)
        keys = {
            member.name: authority.seal_key(
                found, str(self._config.cluster_id), member.name, member.sealing_key
            )
            for member in members
            if member is not None
        }
        await self._write("wrap", {"sha256": going.sha256, "keys": keys})

    async def wrap_for_leader(self, *, sha256: str, timeout_s: float) -> Json:
        """Answer of a voter that holds the key to a leader that does not."""
        going, found = self._authorities.rotation, self._held.get(sha256)
        if going is None or going.sha256 != sha256 or found is None:
            raise Conflict("this rotation of the CA does not go on, or its key is not here")
        await self.wrap(going, found, self._authorities.lacking_key())
        return {}

    async def _write(self, operation: str, arguments: Json) -> None:
        await self._replicated.apply_here(
            "authorities", operation, arguments, request_id=None, timeout_s=_STEP_TIMEOUT_S
        )

    # ------------------------------------------------------------- operations

    async def status(self, *, timeout_s: float) -> Json:
        """The CAs, who holds their keys, whose certificates are under which, whether a rotation is due."""
        await self._replicated.fresh(timeout_s=timeout_s)
        going = self._authorities.rotation
        told = {
            name: (peer.info.get("certificate_ca"), peer.info.get("ca_keys"))
            for name, peer in self._engine.peers().items()
        }
        own = self.describe()
        told[self._name] = (own["certificate_ca"], own["ca_keys"])
        members = [
            self._member_row(member.name, member.role, member.certificate_expires_at, told.get(member.name))
            for member in self._members.members()
        ]
        reasons = self._due_reasons()
        return {
            "schema_version": 1,
            "authorities": [self._ca_row(pem, told) for pem in self._all_authorities()],
            "members": members,
            "rotation": None if going is None else self._rotation_row(going),
            "rotation_due": bool(reasons),
            "reasons": reasons,
            "certificate_days": self.certificate_days(),
            "credentials_to_renew": self._to_renew(),
        }

    def _all_authorities(self) -> list[str]:
        going = self._authorities.rotation
        if going is not None:
            return [going.old_ca_pem, going.ca_pem]
        return [self._authorities.current or self.files.ca_pem]

    def _ca_row(self, pem: str, told: dict[str, tuple[Any, Any]]) -> Json:
        going, sha256 = self._authorities.rotation, pki.certificate_sha256(pem)
        state = "current"
        if going is not None:
            is_new = pem == going.ca_pem
            state = (
                ("current" if is_new else "previous") if going.issuing else "next" if is_new else "current"
            )
        start, end = pki.certificate_dates(pem)
        return {
            "sha256": sha256,
            "state": state,
            "not_before": rfc3339(start.timestamp()),
            "not_after": rfc3339(end.timestamp()),
            "key_holders": sorted(
                name for name, (_, keys) in told.items() if isinstance(keys, str) and sha256 in keys.split()
            ),
        }

    def _member_row(self, name: str, role: str, expires_at: str | None, told: tuple[Any, Any] | None) -> Json:
        going = self._authorities.rotation
        ca = None if told is None or not isinstance(told[0], str) else told[0]
        return {
            "name": name,
            "role": role,
            "connected": told is not None,
            "certificate_expires_at": expires_at,
            # Of a member that is away only its last word is known.
            "ca_sha256": ca if going is None or ca is not None else _last_word(going, name),
            "confirmed": None if going is None else name in going.confirmed,
            "reissued": None if going is None else name in going.reissued,
        }

    def _rotation_row(self, going: Rotation) -> Json:
        waiting = self._authorities.not_reissued() if going.issuing else self._authorities.unconfirmed()
        return {
            "step": "issuing" if going.issuing else "overlap" if going.ready_unix_ms else "distributing",
            "from_sha256": pki.certificate_sha256(going.old_ca_pem),
            "to_sha256": going.sha256,
            "begun_at": rfc3339(going.begun_unix_ms / 1000),
            "overlap_until": rfc3339(going.overlap_until_unix_ms / 1000),
            "waiting_for": waiting,
            "problem": self._exchange_problem,
        }

    def _due_reasons(self) -> list[str]:
        reasons = [
            f"{name} was removed and has had the key of the CA" for name in self._authorities.due_for()
        ]
        end = pki.certificate_dates(self._all_authorities()[-1])[1]
        if int(end.timestamp() * 1000) - self.judged_ms() < _CA_DUE_MS:
            reasons.append(f"the CA ends at {rfc3339(end.timestamp())}")
        return reasons

    def _to_renew(self) -> list[str]:
        """Credentials that do not outlive the old CA: made before every member trusted the new one."""
        going = self._authorities.rotation
        now_ms = self._replicated.now_ms()
        ready_ms = None if going is None else going.ready_unix_ms
        return [
            entry.name
            for entry in self._credentials.entries()
            if entry.is_live(now_ms) and (ready_ms is None or _made_unix_ms(entry) < ready_ms)
        ]

    async def rotate(self, *, overlap_s: int, dry_run: bool, abandon: bool, timeout_s: float) -> Json:
        """Begin to exchange the CA; the nodes do the rest by themselves.

        dry_run: only say what would be.  abandon: take back one that not all
        members have confirmed.  Raises Conflict while one goes on, ConfigError
        where no connected node holds the CA key.
        """
        await self._replicated.fresh(timeout_s=timeout_s)
        going = self._authorities.rotation
        if abandon:
            if going is None:
                raise Conflict("no rotation of the CA goes on: see `cyoloctl pki status`")
            await self._write("abandon", {"sha256": going.sha256})
            return self._rotate_answer(None, 0, dry_run=False)
        if going is not None:
            raise Conflict("a rotation of the CA goes on already: see `cyoloctl pki status`")
        old = self._issuing()
        if old is None:
            return await self._rotate_there(overlap_s, dry_run, timeout_s)
        if dry_run:
            return self._rotate_answer(None, overlap_s, dry_run=True)
        cluster_id = str(self._config.cluster_id)
        new, voucher = authority.new_authority(
            old, cluster_id, str(self._config.cluster), self._replicated.now_ms()
        )
        keys = {
            member.name: authority.seal_key(new, cluster_id, member.name, member.sealing_key)
            for member in self._members.members()
            if member.role == "voter"
        }
        await self._replicated.apply_here(
            "authorities",
            "begin",
            {
                "ca_pem": new.ca_pem,
                "old_ca_pem": old.ca_pem,
                "voucher": voucher,
                "keys": keys,
                "overlap_ms": overlap_s * 1000,
            },
            request_id=None,
            timeout_s=timeout_s,
        )
        _log.info("a rotation of the CA has begun", extra={"ca": new.sha256[:16], "overlap_s": overlap_s})
        return self._rotate_answer(new.sha256, overlap_s, dry_run=False)

    async def rotate_for(self, *, overlap_s: int, dry_run: bool, timeout_s: float) -> Json:
        """As rotate, for a voter that holds no CA key."""
        if self._issuing() is None:
            raise ConfigError("this node holds no CA key: see who does (pki status)")
        return await self.rotate(overlap_s=overlap_s, dry_run=dry_run, abandon=False, timeout_s=timeout_s)

    async def _rotate_there(self, overlap_s: int, dry_run: bool, timeout_s: float) -> Json:
        for name in self._key_holders():
            return await self._ask(name, "rotate_ca", {"overlap_s": overlap_s, "dry_run": dry_run}, timeout_s)
        raise ConfigError(
            "no connected member holds the key of the CA, so the cluster cannot exchange it: start a voter "
            "that holds it; with a CA that is kept offline, make a new cluster with a CA of its own"
        )

    def _key_holders(self) -> list[str]:
        """Connected voters that say that they hold the CA key; never one that was asked by another."""
        wanted = pki.certificate_sha256(self._all_authorities()[-1 if self._issues_from_new() else 0])
        voters = {member.name for member in self._members.members() if member.role == "voter"}
        found = []
        for name, peer in sorted(self._engine.peers().items()):
            keys = peer.info.get("ca_keys")
            if name in voters and isinstance(keys, str) and wanted in keys.split():
                found.append(name)
        return found

    def _issues_from_new(self) -> bool:
        going = self._authorities.rotation
        return going is not None and going.issuing

    def _rotate_answer(self, sha256: str | None, overlap_s: int, *, dry_run: bool) -> Json:
        members = self._members.members()
        connected = {self._name, *self._engine.peers()}
        return {
            "schema_version": 1,
            "dry_run": dry_run,
            "sha256": sha256,
            "overlap_s": overlap_s,
            "members": [member.name for member in members],
            "away": [member.name for member in members if member.name not in connected],
            "credentials_to_renew": self._to_renew(),
        }

    async def grant(self, *, request: str, timeout_s: float) -> Json:
        """The object of a file with a new certificate for a member that cannot reach the cluster.

        request: the text of the member's request file.  Raises NotFound for
        no member, AccessDenied for another key than it was admitted with,
        InvalidInput, ConfigError where no connected node holds the CA key.
        """
        asked = pki.decode_request(request)
        name = str(asked.name)
        if self.holds_ca_key():
            return await self.grant_for(name=name, request_pem=asked.request_pem, timeout_s=timeout_s)
        for holder in self._key_holders():
            return await self._ask(
                holder, "grant", {"name": name, "request_pem": asked.request_pem}, timeout_s
            )
        raise ConfigError("no connected member holds the key of the CA (pki status): start a voter that does")

    async def grant_for(self, *, name: str, request_pem: str, timeout_s: float) -> Json:
        """As grant, on a node that holds the CA key."""
        certificate, ca_pem = await self._issue(name, request_pem, timeout_s)
        return authority.encode_renewal(
            certificate, cluster_id=str(self._config.cluster_id), name=name, ca_pem=ca_pem
        )

    # ------------------------------------------------------------- problems

    def problems(self) -> list[Json]:
        """What needs a hand: each with code, member (or None), message and command."""
        now_ms = self.judged_ms()
        warn_ms = authority.warn_before_s(self.certificate_days()) * 1000
        found: list[Json] = []
        for member in self._members.members():
            expires_at = member.certificate_expires_at
            if member.name == self._name:
                expires_at = self.expires_at()
            if expires_at is None:
                continue
            left_ms = (
                int(datetime.fromisoformat(expires_at.replace("Z", "+00:00")).timestamp() * 1000) - now_ms
            )
            if left_ms < warn_ms:
                found.append(
                    _problem(
                        "certificate_expired" if left_ms <= 0 else "certificate_expiring",
                        member.name,
                        f"the certificate of {member.name} {_ends(left_ms)}, at {expires_at}: it renews "
                        "itself while it is connected to a voter that holds the CA key; else by file",
                        "cyoloctl node renew -d DIR --request FILE",
                    )
                )
        if self._problem is not None:
            message = f"{self._name} cannot renew its certificate: {self._problem}"
            found.append(_problem("certificate_renewal_failed", self._name, message, "cyoloctl pki status"))
        if self._exchange_problem is not None:
            message = f"{self._name} does not follow the exchange of the CA: {self._exchange_problem}"
            found.append(_problem("ca_exchange_failed", self._name, message, "cyoloctl pki status"))
        for entry in self._credentials.entries():
            left_ms = entry.expires_unix_ms - now_ms
            life_days = max(1, entry.lifetime_ms // 86_400_000)
            # Those of an hour are meant to end: they are told of in their last third.
            warn_ms = min(authority.warn_before_s(life_days) * 1000, entry.lifetime_ms // 3)
            if entry.revoked_unix_ms is None and 0 < left_ms < warn_ms:
                message = f"the credentials of {entry.name} ({entry.role}) {_ends(left_ms)}"
                command = f"cyoloctl credentials renew {entry.name}"
                found.append(_problem("credentials_expiring", None, message, command))
        for reason in self._due_reasons():
            message = f"the CA must be exchanged: {reason}"
            if self._authorities.rotation is not None:
                message = f"the CA is being exchanged, which was due: {reason}"
            found.append(_problem("ca_rotation_due", None, message, "cyoloctl pki rotate-ca"))
        return found


def _problem(code: str, member: str | None, message: str, command: str) -> Json:
    return {"code": code, "member": member, "message": message, "command": command}


def _ends(left_ms: int) -> str:
    seconds = abs(left_ms) // 1000
    span = f"{seconds // 86_400} days" if seconds >= 2 * 86_400 else f"{seconds // 3600} hours"
    if seconds < 2 * 3600:
        span = f"{seconds // 60} minutes"
    return f"ended {span} ago" if left_ms <= 0 else f"ends in {span}"


def _last_word(going: Rotation, name: str) -> str:
    return going.sha256 if name in going.reissued else pki.certificate_sha256(going.old_ca_pem)


def _made_unix_ms(entry: Any) -> int:
    """When the certificate of an entry was made, as far as the register tells: not after this."""
    return max(int(entry.created_unix_ms), int(entry.expires_unix_ms) - int(entry.lifetime_ms))
