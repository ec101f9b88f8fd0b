"""A node's certificate, renewed by itself, and the exchange of the cluster's CA.

`run` takes this node's next step about twice per second.
What needs no other node (a renewal with this node's CA key) needs no leader
either: a cluster whose certificates have all ended recovers by itself.  All is
judged by cluster time, or by the time that the leader is about to step to
where that is later, so that a cluster that lay switched off for years renews
its certificates before it takes up the new time.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyoloctl.authorities.machine import DEFAULT_CERTIFICATE_DAYS, AuthorityMachine, Rotation
from cyoloctl.beat import until_beat
from cyoloctl.errors import (
    AccessDenied,
    ConfigError,
    Conflict,
    CyoloctlError,
    NotFound,
    Unavailable,
)
from cyoloctl.members.machine import MemberMachine
from cyoloctl.model import LocalNode, RaftId, name_of, parse_name
from cyoloctl.paths import quoted
from cyoloctl.pki import exchange, renewal
from cyoloctl.pki.ca import Authority, CertificateIssuer, issue_for_node
from cyoloctl.pki.files import NodeFiles, check_private_files, read_node_keys
from cyoloctl.pki.identity import Identity
from cyoloctl.pki.join_token import secret_of
from cyoloctl.pki.offline_ca import CA_FILE, check_issued
from cyoloctl.pki.requests import check_request, prepare_request
from cyoloctl.pki.tls import TlsIdentity
from cyoloctl.pki.x509 import certificate_sha256, public_key_sha256
from cyoloctl.replicated.clock import ClockMachine
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.security_log import log_security
from cyoloctl.text import Json, rfc3339, rfc3339_of

__all__ = ["CertificateRenewal"]

_log = logging.getLogger("cyoloctl.certificates")

Ask = Callable[[str, str, Json, float], Awaitable[Json]]
"""Ask a connected member by name: operation, arguments, seconds."""

_PAUSE_S, _EXCHANGE_PAUSE_S, _BUSY_PAUSE_S = 1.0, 0.5, 0.1
_STEP_TIMEOUT_S = 5.0
_RETRY_FIRST_S, _RETRY_LAST_S = 1.0, 60.0
_REMAKE_EVERY_S = 0.4
_FETCH_EVERY_S = 5.0
_SHUT_OUT_S = 10.0
_SETTLED_S = 1.0
_LAST_UNIX_MS = int(renewal.CLOCK_UNTIL.timestamp() * 1000)


class CertificateRenewal:
    """Certificates of this node: those it holds, renews and issues.

    files: what the pki directory holds now.  pending: the time that this
    node, as leader, is about to step to, in Unix milliseconds; None otherwise.
    problem, exchange_problem: why the certificate cannot be renewed, or the
    exchange of the CA does not go on; None when all is well.
    """

    def __init__(
        self,
        proposer: Proposer,
        node: LocalNode,
        members: MemberMachine,
        authorities: AuthorityMachine,
        *,
        clock: ClockMachine,
        files: NodeFiles,
        pki_dir: Path,
        tls: TlsIdentity,
        ask: Ask,
        on_renewed: Callable[[NodeFiles], None] = lambda files: None,
    ) -> None:
        self._proposer = proposer
        self._engine = proposer.engine
        self._members = members
        self._authorities = authorities
        self._clock = clock
        self._node = node
        self._name = str(node.name)
        self._pki_dir = pki_dir
        self._watched = [os.path.join(pki_dir, file) for file in ("node.crt", "ca.crt", "ca.key")]
        self._tls = tls
        self._ask = ask
        self._on_renewed = on_renewed
        self.files = files
        self.pending: Callable[[], int | None] = lambda: None
        self._held = exchange.held(pki_dir)
        self._seen = self._stamps()
        self._renewed_at = float("-inf")
        self._remake_at = 0.0
        self._fetch_at = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._alone_since = time.monotonic()
        self.problem: str | None = None
        self.exchange_problem: str | None = None

    # ------------------------------------------------------------- what others of the node ask

    def validity_ms(self) -> int:
        """Cluster time, or the time that the leader is about to step to."""
        times = [self._proposer.now_ms()]
        leader = name_of(self._engine.leader() or RaftId(""))
        if leader == self._name:
            times.append(self.pending() or 0)
        elif (peer := self._engine.peers().get(leader)) is not None:
            pending = peer.info.get("pending_unix_ms")
            if type(pending) is int and pending < _LAST_UNIX_MS:
                times.append(pending)
        return max(times)

    def ready(self, pending_unix_ms: int) -> bool:
        """Whether every connected member's certificate, this node's too, lasts beyond a time."""
        connected = {self._name, *self._engine.peers()}
        members = [m for m in self._members.members() if m.name in connected]
        return not renewal.ready(
            ((member.name, member.certificate_expires_at) for member in members), pending_unix_ms
        )

    def expires_at(self) -> str:
        """The end of this node's certificate, RFC 3339."""
        return rfc3339_of(self.files.certificate_expires_at)

    def settled(self) -> bool:
        """Whether all links rest on the present certificate: only then is it announced.

        Not for a moment after a renewal: a handshake may have begun before it.
        """
        return not self._outdated() and time.monotonic() - self._renewed_at >= _SETTLED_S

    def _outdated(self) -> list[str]:
        """The peers that were shown a certificate that was replaced since."""

        def judge(connection: Any) -> str:
            if not self._tls.shows_present(connection):
                raise AccessDenied("the link rests on a certificate that was replaced")
            return ""

        return sorted({name for name, _ in self._engine.recheck(judge)})

    def issuer(self, *, credentials: bool = False) -> CertificateIssuer:
        """The CA of new certificates: of nodes, or of credentials.

        While CAs are exchanged whoever gets a certificate trusts both,
        and credentials come from the new CA as soon as every member trusts it,
        so that they outlive the old one.

        Raises ConfigError where this node holds no CA key.
        """
        found = self.issuing(credentials=credentials)
        if found is None:
            raise ConfigError(
                "this node holds no CA key and cannot issue certificates: ask a voter that does (pki status)"
            )
        return CertificateIssuer(found, "".join(self.files.authorities), self.certificate_days())

    def certificate_days(self) -> int:
        """Life of new certificates."""
        return self._authorities.certificate_days or renewal.life_of(self.files.certificate_pem).days

    def describe(self) -> Json:
        """Facts about its certificates that this node sends to its peers."""
        return {
            "certificate_ca": certificate_sha256(self.files.ca_pem),
            "ca_keys": " ".join(sorted(self._held)),
        }

    # ------------------------------------------------------------- at the start

    def start(self) -> None:
        """Renew a certificate that has ended, where the CA key is here, before this node dials anybody.

        Judged by the cluster time that the journal knows.  The wall clock may
        be years off, and a certificate issued by it would be valid nowhere today; if
        it is right, a majority says so soon, and `maintain` renews.  Raises
        ConfigError for a certificate that ended by cluster time where the
        node cannot renew it: nobody would let it in.
        """
        if self._node.offline_ca and (left := self._pki_dir.parent / CA_FILE).exists():
            _log.warning(
                "the key of the offline CA is still on this machine: move it to a medium of its own",
                extra={"file": str(left)},
            )
        now_ms, wall = self._proposer.now_ms(), datetime.now(UTC)
        ended = renewal.life_of(self.files.certificate_pem).end_unix_ms <= now_ms
        found = self.issuing()
        if found is None:
            path = self._pki_dir / "node.crt"
            directory = quoted(self._pki_dir.parent)
            end = rfc3339_of(self.files.certificate_expires_at)
            if ended:
                raise ConfigError(
                    f"{path} ended at {end}, and the cluster's time was {rfc3339(now_ms / 1000)} already "
                    f"when this node last knew it: here `cyoloctl node renew -d {directory} --request FILE`, "
                    "on a member `cyoloctl member grant --request FILE --out FILE`, then here "
                    f"`cyoloctl node renew -d {directory} --grant FILE`"
                )
            if renewal.has_ended(self.files.certificate_pem, wall):
                _log.warning(
                    "the certificate has ended by this machine's clock: if no member lets this node in, "
                    "renew it by file (cyoloctl node renew)",
                    extra={"certificate": str(path), "ended_at": end, "clock": rfc3339_of(wall)},
                )
            return
        if ended:
            self._renew_here(found, now_ms)

    # ------------------------------------------------------------- upkeep

    async def run(self) -> None:
        """Runs while the node does."""
        busy = False
        while True:
            period_s = _PAUSE_S if self._authorities.rotation is None else _EXCHANGE_PAUSE_S
            await self._engine.wait_changed(_BUSY_PAUSE_S if busy else until_beat(time.monotonic(), period_s))
            busy = await self.maintain()

    async def maintain(self) -> bool:
        """Do what is due.  True when there is more to do soon.  Raises nothing."""
        try:
            self._notice_files()
            busy = await self._exchange()
        except CyoloctlError as error:
            busy = False
            if self.exchange_problem != error.message:
                self.exchange_problem = error.message
                _log.error("the exchange of the CA does not go on", extra={"reason": error.message})
        busy = await self._renew_when_due() or busy
        busy = self._remake_links() or busy
        try:
            if self._engine.leader() is not None:
                busy = await self._fetch_key() or busy
                busy = await self._report_progress() or busy
                if self._engine.is_leader():
                    busy = await self._lead() or busy
        except CyoloctlError as error:
            _log.debug("certificates", extra={"code": error.code, "reason": error.message})
        return busy

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        found = []
        for path in self._watched:
            try:
                status = os.stat(path)
                found.append((status.st_mtime_ns, status.st_ino))
            except OSError:
                found.append((0, 0))
        return tuple(found)

    def _notice_files(self) -> None:
        """Use, without a restart, files that `node renew` or an operator put in place."""
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            try:
                self.reload()
            except ConfigError as error:
                _log.error("changed files are not used", extra={"reason": error.message})

    def reload(self) -> None:
        """Use what the pki directory holds now.  Raises ConfigError; then everything is as it was."""
        files = check_private_files(self._pki_dir, name=self._name, cluster_id=str(self._node.cluster_id))
        held = exchange.held(self._pki_dir)
        self._tls.reload()
        self._seen = self._stamps()
        renewed = files.certificate_pem != self.files.certificate_pem
        self.files, self._held = files, held
        if renewed:
            self._renewed_at = time.monotonic()
            self._failures, self.problem = 0, None
            _log.info(
                "certificate renewed",
                extra={"expires_at": self.expires_at(), "ca": certificate_sha256(files.ca_pem)[:16]},
            )
        self._on_renewed(files)

    def _remake_links(self) -> bool:
        """End one link that rests on a replaced certificate; both ends dial again at once."""
        outdated = self._outdated()
        if outdated and time.monotonic() >= self._remake_at:
            self._remake_at = time.monotonic() + _REMAKE_EVERY_S
            self._engine.reconnect(outdated[0])
        return bool(outdated)

    # Renewal.

    def issuing(self, *, credentials: bool = False) -> Authority | None:
        """The CA that certificates come from now, where this node holds its key."""
        going = self._authorities.rotation
        if going is not None:
            from_new = going.issuing or (credentials and going.ready_unix_ms is not None)
            return self._held.get(going.sha256 if from_new else certificate_sha256(going.old_ca_pem))
        current = self._authorities.current
        if current is not None:
            return self._held.get(certificate_sha256(current))
        return next(iter(self._held.values()), None)

    def join_secrets(self, what: str) -> Sequence[str]:
        """The secrets that a text gives under the private keys of this node, the best one first.

        Under the key of the CA every voter that holds it gives the same; under
        the node's own only this node does.
        """
        first = self.issuing()
        held = sorted(self._held.values(), key=lambda authority: (authority != first, authority.sha256))
        node_key_pem, _ = read_node_keys(self._pki_dir)
        return [secret_of(pem, what) for pem in (*(authority.key_pem for authority in held), node_key_pem)]

    def _shut_out_ms(self) -> int | None:
        """The wall clock of a node that nobody lets in and whose certificate it shows as ended, else None.

        It was away until its certificate ended: nobody can tell it the time.
        While anybody lets it in, or this clock was never set, the clock counts
        for nothing.
        """
        now = time.monotonic()
        if self._engine.peers() or len(self._members.members()) == 1:
            self._alone_since = now
        if now - self._alone_since < _SHUT_OUT_S:
            return None
        wall = datetime.now(UTC)
        ended = renewal.has_ended(self.files.certificate_pem, wall)
        return int(wall.timestamp() * 1000) if ended else None

    def _due(self) -> bool:
        if self._shut_out_ms() is not None:
            return True
        if self.validity_ms() >= renewal.life_of(self.files.certificate_pem).renew_unix_ms:
            return True
        going = self._authorities.rotation
        if going is not None:
            return going.issuing and self.files.ca_pem != going.ca_pem
        return self._authorities.current not in (None, self.files.ca_pem)

    async def _renew_when_due(self) -> bool:
        if not self._due() or time.monotonic() < self._retry_at:
            return False
        if self._node.offline_ca:
            return False  # nobody can: `status` tells in time that it is to be renewed by file
        try:
            found = self.issuing()
            if found is not None and found.ca_pem in self.files.authorities:
                self._renew_here(found, max(self.validity_ms(), self._shut_out_ms() or 0))
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
                self.problem = error.message
            _log.log(level, "the certificate could not be renewed", extra={"reason": error.message})
            return False
        return True

    def _renew_here(self, found: Authority, now_ms: int) -> None:
        renewal.renew_own(
            self._pki_dir, found, self.files.identity, now_unix_ms=now_ms, days=self.certificate_days()
        )
        self.reload()

    async def _renew_there(self) -> None:
        """Ask the leader first, then everybody else that is connected."""
        request = prepare_request(self._pki_dir, self._name, str(self._node.cluster_id))
        leader = name_of(self._engine.leader() or RaftId(""))
        others = sorted(self._engine.peers(), key=lambda name: (name != leader, name))
        refusal: CyoloctlError = Unavailable("no member is connected that could be asked for a certificate")
        for name in others:
            try:
                answer = await self._ask(name, "renew", {"request_pem": request.request_pem}, _STEP_TIMEOUT_S)
                renewal.store_certificate(
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
        return {"certificate_pem": (await self.issue(peer, request_pem, timeout_s))[0]}

    async def issue(self, name: str, request_pem: str, timeout_s: float) -> tuple[str, str]:
        """The certificate and the CA that issued it: for a member, or a node whose request was granted."""
        issuer = self.issuer()
        await self.check_member_request(name, request_pem, timeout_s)
        certificate = issue_for_node(
            issuer.authority,
            request_pem,
            self._identity(name),
            now_unix_ms=self.validity_ms(),
            days=issuer.days,
        )
        _log.info("certificate issued", extra={"member": name})
        return certificate, issuer.authority.ca_pem

    def _identity(self, name: str) -> Identity:
        return Identity(parse_name(name), "node", self._node.cluster_id)

    def check_issued(self, name: str, certificate_pem: str, request_pem: str) -> None:
        """Check a node's certificate that the operator made with an offline CA.  Raises InvalidInput."""
        check_issued(
            certificate_pem,
            self.files.authorities,
            self._identity(name),
            request_pem,
            self.validity_ms(),
        )

    async def check_member_request(self, name: str, request_pem: str, timeout_s: float) -> None:
        """Check a certificate request of a member, or of a node whose request was granted.

        Raises NotFound, InvalidInput, AccessDenied for another key than it was admitted with.
        """
        await self._proposer.fresh(timeout_s=timeout_s)
        member = self._members.get(name) or self._members.grants.open(name, self._proposer.now_ms())
        if member is None:
            raise NotFound(
                f"there is no member {name}: a new node joins with a token (member invite), or by a request "
                "of its own (node request)"
            )
        check_request(request_pem, name, member.sealing_key, str(self._node.cluster_id))
        if member.key_hash is None:
            raise Unavailable(f"{name} has not announced its key yet: try again")
        if public_key_sha256(request_pem) != member.key_hash:
            raise AccessDenied(
                f"the request is not signed by the key with which member {name} was admitted: if that key is "
                "lost, remove the member and join the node under a new name"
            )

    # The CA's key, for a voter that was a learner before.

    async def _fetch_key(self) -> bool:
        """Ask for the present CA's key where this node votes and lacks it: it comes sealed."""
        ca_pem = self._authorities.current or self.files.ca_pem
        sha256, now = certificate_sha256(ca_pem), time.monotonic()
        if not self._members.has_ca_key(self._name) or self._authorities.rotation is not None:
            return False  # a rotation gives its own key
        if sha256 in self._held or ca_pem not in self.files.authorities or now < self._fetch_at:
            return False
        for name, peer in sorted(self._engine.peers().items()):
            keys = peer.info.get("ca_keys")
            if self._members.is_voter(name) and isinstance(keys, str) and sha256 in keys.split():
                self._fetch_at = now + _FETCH_EVERY_S
                answer = await self._ask(name, "ca_key", {"sha256": sha256}, _STEP_TIMEOUT_S)
                sealed, cluster_id = str(answer.get("sealed")), str(self._node.cluster_id)
                found = exchange.open_key(self._pki_dir, sealed, cluster_id, self._name, ca_pem)
                exchange.store_key(self._pki_dir, found)
                self.reload()
                _log.info("this node holds the CA's key now", extra={"ca": sha256[:16], "from": name})
                return True
        return False

    async def key_for(self, peer: str, *, sha256: str, timeout_s: float) -> Json:
        """A CA's key, sealed to a voter that lacks it.  Raises AccessDenied, Conflict."""
        await self._proposer.fresh(timeout_s=timeout_s)
        member, found = self._members.get(peer), self._held.get(sha256)
        if member is None or not self._members.has_ca_key(peer):
            raise AccessDenied("only voters that are no witnesses hold the key of the CA")
        if found is None:
            raise Conflict("the key of this CA is not here: see who holds it (pki status)")
        log_security("ca key handed over", member=peer, ca=sha256)
        cluster_id = str(self._node.cluster_id)
        return {"sealed": exchange.seal_key(found, cluster_id, peer, member.sealing_key)}

    # The exchange of the CA.

    async def _exchange(self) -> bool:
        """Bring the files to where the cluster is."""
        if self._engine.leader() is None or self._members.get(self._name) is None:
            return False
        await self._proposer.caught_up(timeout_s=_STEP_TIMEOUT_S)
        going, own_ca = self._authorities.rotation, self.files.ca_pem
        before = (self.files.authorities, tuple(self._held))
        if going is not None:
            self._follow(going)
        else:
            wanted = self._authorities.current or own_ca
            # A cluster in memory that was switched off has forgotten which CA it had chosen.
            known = self._authorities.current is not None or self._node.storage == "disk"
            if (
                known
                and own_ca == wanted
                and (self.files.authorities != (wanted,) or exchange.exchanging(self._pki_dir))
            ):
                exchange.close_exchange(self._pki_dir, wanted)
                self.reload()
                _log.info("only one CA is trusted", extra={"ca": certificate_sha256(wanted)[:16]})
        self.exchange_problem = None
        return before != (self.files.authorities, tuple(self._held))

    def _follow(self, going: Rotation) -> None:
        cluster_id = str(self._node.cluster_id)
        if going.ca_pem not in self.files.authorities:
            exchange.check_voucher(going.ca_pem, going.voucher, self.files.authorities, cluster_id)
            exchange.trust(self._pki_dir, [*self.files.authorities, going.ca_pem])
            self.reload()
            _log.info("a second CA is trusted", extra={"ca": going.sha256[:16]})
        sealed = going.keys.get(self._name)
        if sealed is not None and going.sha256 not in self._held:
            found = exchange.open_key(self._pki_dir, sealed, cluster_id, self._name, going.ca_pem)
            exchange.store_next_key(self._pki_dir, found)
            self.reload()

    async def _report_progress(self) -> bool:
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
            and (
                not self._members.has_ca_key(self._name)
                or (going.sha256 in self._held and self._name in going.keys)
            )
        ):
            await self.write("confirm", arguments)
            return True
        if (
            going.issuing
            and self._name not in going.reissued
            and self.files.ca_pem == going.ca_pem
            and self.settled()
        ):
            await self.write("reissued", arguments)
            return True
        return False

    async def _lead(self) -> bool:
        """Do the leader's part: give keys to voters that lack them, take the next step."""
        life = renewal.life_of(self.files.certificate_pem)
        if self._authorities.certificate_days is None and life.days != DEFAULT_CERTIFICATE_DAYS:
            await self.write("set_certificate_days", {"days": life.days})  # as `cluster init` chose
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
            # The member that held it up was removed.
            await self.write("confirm", {"name": self._name, **sha256})
            return True
        if not going.issuing:
            now_ms = max(self._proposer.now_ms(), self._clock.stamp.time_unix_ms)
            if now_ms < going.overlap_until_unix_ms:
                return False
            await self.write("advance", sha256)
            _log.info("certificates come from the new CA now", extra={"ca": going.sha256[:16]})
            return True
        if not self._authorities.not_reissued():
            await self.write("finish", sha256)
            _log.info("the old CA no longer counts", extra={"ca": going.sha256[:16]})
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
            member.name: exchange.seal_key(found, str(self._node.cluster_id), member.name, member.sealing_key)
            for member in members
            if member is not None
        }
        await self.write("wrap", {"sha256": going.sha256, "keys": keys})

    async def wrap_for_leader(self, *, sha256: str, timeout_s: float) -> Json:
        """Answer of a voter that holds the key to a leader that does not."""
        going, found = self._authorities.rotation, self._held.get(sha256)
        if going is None or going.sha256 != sha256 or found is None:
            raise Conflict("this rotation of the CA is not under way, or its key is not here")
        await self.wrap(going, found, self._authorities.lacking_key())
        return {}

    async def write(self, operation: str, arguments: Json) -> None:
        await self._proposer.apply_here(
            "authorities", operation, arguments, request_id=None, timeout_s=_STEP_TIMEOUT_S
        )
