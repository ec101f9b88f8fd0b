"""Operations on token keys, and this node's part in keeping the key ring whole.

Raft holds the keys wrapped for each member; this holds the opened ones, in
memory only.  `maintain` runs twice per second and does this node's share:
announce its sealing key, open and confirm what was wrapped for it, wrap for
members that lack a key, and, as leader, make the first key and follow the
rotation policy.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from cyoloctl.errors import (
    Conflict,
    CyoloctlError,
    InvalidInput,
    NotFound,
    Unavailable,
)
from cyoloctl.keys import ring_file
from cyoloctl.keys.keyring import Key, Keyring, KeyState, new_key
from cyoloctl.keys.machine import KeyMachine
from cyoloctl.keys.records import KeyRecord, NodeKey
from cyoloctl.keys.wrapping import (
    NodeIdentity,
    decode_identity,
    encode_identity,
    sign_sealing_key,
    unwrap,
    verify_sealing_key,
    wrap,
)
from cyoloctl.members.api import Problem
from cyoloctl.members.facts import problem
from cyoloctl.members.machine import MemberMachine
from cyoloctl.model import LocalNode, RaftId, name_of
from cyoloctl.pki.files import NodeFiles, read_node_keys
from cyoloctl.replicated.proposer import Proposer, step_of
from cyoloctl.text import Json, from_unix_ms, rfc3339

__all__ = ["RESTORED_KEYS", "KeyOperations"]

RESTORED_KEYS = "restored-keys"
"""File in the pki directory: the ring that came with a snapshot, until this node has run with it."""

_log = logging.getLogger("cyoloctl.keys")

_STEP_TIMEOUT_S = 5.0
# The ring reaches a new member within a second or so; what it is asked before that may wait for it.
_GIVEN_WITHIN_S = 2.0
# Kept for the answer of an operation that waited.
_ANSWER_S = 0.2


def _when(unix_ms: int | None) -> str | None:
    return None if unix_ms is None else rfc3339(unix_ms / 1000)


class KeyOperations:
    """Implements `keys.api.KeyApi`, and holds the ring that tokens are made and opened with."""

    def __init__(
        self,
        proposer: Proposer,
        node: LocalNode,
        keys: KeyMachine,
        members: MemberMachine,
        *,
        files: NodeFiles,
        pki_dir: Path,
    ) -> None:
        self._proposer = proposer
        self._keys = keys
        self._members = members
        self._name = str(node.name)
        self._cluster_id = str(node.cluster_id)
        self._node_key_pem, self._sealing_key_pem = read_node_keys(pki_dir)
        self._restored_keys: Path | None = pki_dir / RESTORED_KEYS
        self.renewed(files)
        self._opened: dict[str, Key] = {}
        self._unreadable: dict[str, str] = {}  # key id -> the blob that could not be opened
        self._ring = Keyring()
        self._changed = True
        self._distrusted: dict[str, NodeKey] = {}  # what was complained about already
        self._keys.on_change = self._on_change

    def renewed(self, files: NodeFiles) -> None:
        """The node has another certificate, or trusts another CA: what vouches for its sealing key."""
        self._authorities = files.authorities
        self._identity = NodeIdentity(
            name=self._name,
            cluster_id=self._cluster_id,
            certificate_pem=files.certificate_pem,
            sealing_key=files.sealing_key,
            signature=sign_sealing_key(
                cluster_id=self._cluster_id,
                name=self._name,
                sealing_key=files.sealing_key,
                node_key_pem=self._node_key_pem,
            ),
            ca_pem=files.ca_pem,
        )
        self._announcement = NodeKey(
            self._identity.sealing_key, self._identity.certificate_pem, self._identity.signature
        )

    def _now(self) -> datetime:
        return from_unix_ms(self._proposer.now_ms())

    def _on_change(self, what: str, index: int) -> None:
        self._changed = True

    def restored(self) -> None:
        """The machines were replaced by a snapshot."""
        self._changed = True

    # ------------------------------------------------------------- the ring

    def ring(self) -> Keyring:
        """Every key that this node could open, in its present state."""
        if self._changed:
            self._changed = False
            mine = self._mine()
            self._ring = Keyring(self._open(record) for record in mine)
            live = sum(1 for record in self._keys.records() if record.state != "destroyed")
            self._whole = len(mine) == live
        return self._ring

    def refuse_witness(self) -> None:
        """Raises Unavailable on a witness: what needs a token key is for another member to do."""
        if not self._members.is_witness(self._name):
            return
        near = self._proposer.engine.peers().keys()
        names = sorted((m.name for m in self._members.key_members()), key=lambda n: (n not in near, n))
        raise Unavailable(
            f"{self._name} is a witness: it holds no token keys; ask {' or '.join(names[:3])} (`member list`)"
        )

    async def wait_whole(self, *, timeout_s: float) -> None:
        """Return once this node holds every key, or after 2 s: a member that just joined is given them.

        Raises Unavailable on a witness.
        """
        self.refuse_witness()
        deadline = time.monotonic() + min(timeout_s, _GIVEN_WITHIN_S)
        self.ring()
        while not self._whole and (left := deadline - time.monotonic()) > 0:
            await self._proposer.engine.wait_changed(min(0.05, left))
            self.ring()

    def _mine(self) -> Sequence[KeyRecord]:
        """The live keys that this node holds; opens those that are new."""
        found = []
        for record in self._keys.records():
            if record.state == "destroyed":
                self._opened.pop(record.key_id, None)
                continue
            blob = record.wrapped.get(self._name)
            known = self._opened.get(record.key_id)
            if known is not None and known.fingerprint == record.fingerprint:
                found.append(record)
            elif blob is not None and self._unreadable.get(record.key_id) != blob:
                try:
                    self._opened[record.key_id] = unwrap(
                        blob,
                        key_id=record.key_id,
                        cluster_id=record.cluster_id,
                        node=self._name,
                        sealing_key_pem=self._sealing_key_pem,
                        state=record.state,
                        fingerprint=record.fingerprint,
                    )
                    found.append(record)
                except CyoloctlError as error:
                    self._unreadable[record.key_id] = blob
                    _log.error(
                        "a token key cannot be opened: it must be sealed to this node again",
                        extra={"key": record.key_id, "reason": error.message},
                    )
        return found

    def _open(self, record: KeyRecord) -> Key:
        key = self._opened[record.key_id]
        return Key(key.key_id, key.secret, KeyState(record.state), key.cluster_id)

    def lacks(self, key_id: bytes) -> bool:
        """True for a key that opens tokens on other nodes and is not in this node's ring yet."""
        record = self._keys.get(key_id.hex())
        usable = record is not None and record.state not in ("disabled", "destroyed")
        return usable and self.ring().get(key_id) is None

    def keep_s(self) -> int:
        """The greatest age of a token, in seconds."""
        return self._keys.policy.keep_s

    async def wait_primary(self, *, timeout_s: float) -> None:
        """Return when tokens can be made here.  Raises Unavailable."""
        self.refuse_witness()
        deadline = time.monotonic() + timeout_s
        while self.ring().primary is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Unavailable(
                    "this node has no primary key yet: try again, or see who holds the keys (key status)"
                )
            await self._proposer.engine.wait_changed(min(0.1, left))

    # ------------------------------------------------------------- operations

    def _json(self, record: KeyRecord) -> Json:
        names = set(self._holding())
        gone = record.state == "destroyed"
        return {
            "key_id": record.key_id,
            "state": record.state,
            "cluster_id": record.cluster_id,
            "fingerprint": record.fingerprint,
            "created_at": _when(record.created_unix_ms),
            "promoted_at": _when(record.promoted_unix_ms),
            "retired_at": _when(record.retired_unix_ms),
            "holders": sorted(record.holders),
            "missing": [] if gone else sorted(names - set(record.holders)),
            "compromised_by": sorted(record.compromised_by),
        }

    def _holding(self) -> Sequence[str]:
        """The members that are to hold the keys, by name."""
        return [member.name for member in self._members.key_members()]

    def _listing(self) -> Json:
        return {"keys": [self._json(record) for record in self._keys.records()]}

    def _answer(self, key_id: str) -> Json:
        record = self._keys.get(key_id)
        if record is None:
            raise NotFound(f"there is no key {key_id}: see `key list`")
        return self._json(record)

    async def _write(
        self, operation: str, arguments: Json, timeout_s: float, request_id: str | None = None
    ) -> Json:
        return await self._proposer.apply_here(
            "keys", operation, arguments, request_id=request_id, timeout_s=timeout_s
        )

    def _first(self, value: Json) -> Json:
        """The answer about a key that was written, in the state that this write left it in."""
        return {**self._answer(value["key_id"]), "state": value["state"]}

    async def list(self, *, consistency: str, timeout_s: float) -> Json:
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        return self._listing()

    async def status(self, *, consistency: str, timeout_s: float) -> Json:
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        records = self._keys.records()
        live = [record for record in records if record.state != "destroyed"]
        members = self._holding()
        primary = self._keys.primary()
        problems = [] if primary is not None else ["no key is primary"]
        for record in live:
            missing = sorted(set(members) - set(record.holders))
            if missing:
                problems.append(f"{', '.join(missing)} cannot open {record.key_id}")
        for key_id in self._unreadable.keys() & {record.key_id for record in live} - self._opened.keys():
            problems.append(f"{self._name} was given a {key_id} that it cannot open")
        return {
            "agreed": not problems,
            "primary": None if primary is None else primary.key_id,
            "problems": problems,
            "members": [
                {
                    "name": name,
                    "keys": {
                        record.key_id: record.fingerprint if name in record.holders else None
                        for record in live
                    },
                }
                for name in members
            ],
            "keys": self._listing()["keys"],
            "sealed_values": {each.key_id: self._keys.values_under(each.key_id) for each in live},
        }

    async def generate(self, *, request_id: str | None, timeout_s: float) -> Json:
        deadline = time.monotonic() + timeout_s
        await self._proposer.fresh(timeout_s=timeout_s)
        self.refuse_witness()
        made = await self._propose(timeout_s, request_id)
        await self._until_opened(deadline)
        return self._first(made)

    async def _propose(self, timeout_s: float, request_id: str | None = None) -> Json:
        """A new key; of a repeated request the first one, and the one that was drawn now is dropped."""
        key = new_key(self._cluster_id, taken=self._taken())
        wrapped = self._wrapped(key)
        if self._name not in wrapped:
            raise Unavailable("this node has not announced its sealing key yet: try again")
        made = await self._write(
            "generate" if request_id is None else "make",
            {
                "key_id": key.key_id_hex,
                "cluster_id": key.cluster_id,
                "fingerprint": key.fingerprint,
                "wrapped": wrapped,
            },
            timeout_s,
            request_id,
        )
        if made["key_id"] == key.key_id_hex:
            _log.info("token key made", extra={"key": key.key_id_hex, "fingerprint": key.fingerprint})
        return made

    def _wrapped(self, key: Key, names: Collection[str] | None = None) -> dict[str, str]:
        """The key sealed to each of these members, or all, whose sealing key the CA vouches for."""
        return {
            name: wrap(key, node=name, sealing_key=sealing_key)
            for name, sealing_key in self._trusted().items()
            if names is None or name in names
        }

    def _trusted(self) -> dict[str, str]:
        """Member -> sealing key, of those whose certificate the CA vouches for."""
        found = {}
        for name, announced in self._keys.nodes().items():
            if self._members.is_witness(name):
                continue
            try:
                self._verify(name, announced)
                found[name] = announced.sealing_key
            except CyoloctlError as error:
                if self._distrusted.get(name) != announced:
                    self._distrusted[name] = announced
                    _log.error(
                        "a member's sealing key is not trusted: nothing is sealed to it",
                        extra={"member": name, "reason": error.message},
                    )
        return found

    def _verify(self, name: str, announced: NodeKey) -> None:
        """Check an announced key.  Raises InvalidInput unless a trusted CA vouches for it."""
        now = from_unix_ms(self._proposer.now_ms())
        refusal: CyoloctlError | None = None
        for ca_pem in self._authorities:
            try:
                verify_sealing_key(
                    **asdict(announced), cluster_id=self._cluster_id, name=name, ca_pem=ca_pem, now=now
                )
                return
            except CyoloctlError as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal

    async def rotate(self, *, request_id: str | None, timeout_s: float) -> Json:
        """The same request id rotates once: a repetition goes on with its key, or says what became of it."""
        deadline = time.monotonic() + timeout_s
        await self._proposer.fresh(timeout_s=timeout_s)
        self.refuse_witness()
        begun = None
        if request_id is not None:
            done = self._proposer.first_answer("keys", "rotate", {}, request_id)
            if done is not None:
                return self._still_primary(done["key_id"])
            begun = self._begun(step_of(request_id, "key"))
        pending = self._next()
        if begun is not None:
            key_id = begun.key_id
        elif pending is not None:
            key_id = pending.key_id  # an earlier rotation waits for a member: finish it
        else:
            step = None if request_id is None else step_of(request_id, "key")
            key_id = str((await self._propose(timeout_s, step))["key_id"])
        while True:
            missing = self._missing(key_id)
            left = deadline - time.monotonic()
            if not missing:
                operation = "promote" if request_id is None else "rotate"
                await self._write(operation, {"key_id": key_id}, max(0.1, left), request_id)
                _log.info("token key promoted", extra={"key": key_id})
                return self._answer(key_id)
            if left <= 0.2:
                raise Unavailable(
                    f"{', '.join(missing)} cannot open {key_id} yet, so it stays pending: bring them back, "
                    "or remove them, and repeat `key rotate`"
                )
            await self._proposer.engine.wait_changed(min(0.1, left))

    def _next(self) -> KeyRecord | None:
        """The pending key to promote: none that a removed member knows."""
        pending = [r for r in self._keys.records() if r.state == "pending" and not r.compromised_by]
        return pending[-1] if pending else None

    def _begun(self, step: str) -> KeyRecord | None:
        """The key that an unfinished rotation of the same request id made.  Raises Conflict."""
        made = self._proposer.first_answer("keys", "make", {"cluster_id": self._cluster_id}, step)
        record = None if made is None else self._keys.get(made["key_id"])
        if record is not None and record.compromised_by:
            raise Conflict(
                f"{', '.join(record.compromised_by)} was removed and knows {record.key_id}: rotate with a "
                "new request id"
            )
        if record is not None and record.state not in ("pending", "primary"):
            self._still_primary(record.key_id)
        return record

    def _still_primary(self, key_id: str) -> Json:
        """The answer to a rotation that was done before.  Raises Conflict."""
        primary = self._keys.primary()
        if primary is None or primary.key_id != key_id:
            now = "no key is" if primary is None else f"{primary.key_id} is"
            raise Conflict(
                f"this request id made {key_id}, which is the primary key no more ({now}): rotate with a new "
                "request id"
            )
        return self._answer(key_id)

    def _missing(self, key_id: str) -> Sequence[str]:
        record = self._keys.get(key_id)
        if record is None:
            raise NotFound(f"there is no key {key_id}: see `key list`")
        return sorted(set(self._holding()) - set(record.holders))

    async def promote(self, key_id: str, *, request_id: str | None, timeout_s: float) -> Json:
        value = await self._write("promote", {"key_id": key_id}, timeout_s, request_id)
        _log.info("token key promoted", extra={"key": key_id})
        return self._first(value)

    async def disable(self, key_id: str, *, force: bool, request_id: str | None, timeout_s: float) -> Json:
        arguments = {"key_id": key_id, "force": force}
        return self._first(await self._write("disable", arguments, timeout_s, request_id))

    async def enable(self, key_id: str, *, request_id: str | None, timeout_s: float) -> Json:
        return self._first(await self._write("enable", {"key_id": key_id}, timeout_s, request_id))

    async def destroy(self, key_id: str, *, force: bool, request_id: str | None, timeout_s: float) -> Json:
        value = await self._write("destroy", {"key_id": key_id, "force": force}, timeout_s, request_id)
        _log.info("token key destroyed", extra={"key": key_id})
        return self._first(value)

    async def rewrap(self, *, request_id: str | None, timeout_s: float) -> Json:
        deadline = time.monotonic() + timeout_s

        async def rewrap() -> Json:
            await self._proposer.fresh(timeout_s=timeout_s)
            self.refuse_witness()
            for key in self.ring().keys:
                arguments = {"key_id": key.key_id_hex, "wrapped": self._wrapped(key)}
                await self._write("wrap", arguments, max(0.1, deadline - time.monotonic()))
            return {}

        await self._proposer.once("key_rewrap", {}, rewrap, request_id=request_id, timeout_s=timeout_s)
        await self._until_opened(deadline)
        return self._listing()

    async def _until_opened(self, deadline: float) -> None:
        """Return when each connected member has opened its blobs, or shortly before the deadline.

        A blob counts once its member has confirmed it: until then it would seem that nobody holds a key.
        """
        while deadline - time.monotonic() > _ANSWER_S and self._has_unopened():
            await self._proposer.engine.wait_changed(0.05)

    def _has_unopened(self) -> bool:
        """Whether a member that is connected has not confirmed a key yet."""
        present = {self._name, *self._proposer.engine.peers()} & set(self._holding())
        live = (record for record in self._keys.records() if record.state != "destroyed")
        return any(present - set(record.holders) for record in live)

    async def policy(self, *, timeout_s: float) -> Json:
        await self._proposer.fresh(timeout_s=timeout_s)
        policy = self._keys.policy
        return {"rotate_every_s": policy.rotate_every_s, "keep_s": policy.keep_s}

    async def set_policy(
        self, *, rotate_every_s: int | None, keep_s: int, request_id: str | None, timeout_s: float
    ) -> Json:
        arguments = {"rotate_every_s": rotate_every_s, "keep_s": keep_s}
        return await self._write("policy", arguments, timeout_s, request_id)

    async def identity(self, *, timeout_s: float) -> Json:
        return {
            "identity": encode_identity(self._identity),
            "ca_sha256": self._identity.ca_sha256,
        }

    async def export_ring(
        self, *, passphrase: str | None, to_node: str | None, to_ca: str | None, timeout_s: float
    ) -> Json:
        if (passphrase is None) == (to_node is None):
            raise InvalidInput("give a passphrase or a node to seal the ring to")
        await self._proposer.fresh(timeout_s=timeout_s)
        self.refuse_witness()
        opened = {key.key_id_hex: key for key in self.ring().keys}
        live = [record for record in self._keys.records() if record.state != "destroyed"]
        lacking = [record.key_id for record in live if record.key_id not in opened]
        if lacking:
            raise Unavailable(f"this node cannot open {', '.join(lacking)} yet: export from another one")
        ring = ring_file.Ring(
            self._cluster_id,
            self.keep_s(),
            tuple(
                ring_file.RingKey(
                    opened[record.key_id],
                    record.created_unix_ms,
                    record.retired_unix_ms,
                    record.tokens_until_unix_ms,
                )
                for record in live
            ),
        )
        if passphrase is not None:
            # Argon2id takes a while on purpose: other callers must not wait for it.
            data = await asyncio.to_thread(ring_file.export_ring, ring, passphrase=passphrase)
        else:
            now = self._now()
            data = ring_file.export_ring_to_node(
                ring,
                to=decode_identity(str(to_node), now=now),
                sender=self._identity,
                node_key_pem=self._node_key_pem,
                to_ca=to_ca,
                now=now,
            )
        _log.warning("the key ring was exported", extra={"keys": len(live)})
        return {"data": data.decode("ascii"), "keys": len(live)}

    async def import_ring(
        self,
        *,
        data: str,
        passphrase: str | None,
        from_ca: str | None,
        adopt: bool,
        request_id: str | None,
        timeout_s: float,
    ) -> Json:
        deadline = time.monotonic() + timeout_s
        raw = data.encode("utf-8", "replace")
        if passphrase is not None:
            ring = await asyncio.to_thread(ring_file.import_ring, raw, passphrase=passphrase)
        else:
            ring = ring_file.import_ring_from_node(
                raw,
                name=self._name,
                cluster_id=self._cluster_id,
                ca_pem=self._identity.ca_pem,
                sealing_key_pem=self._sealing_key_pem,
                from_ca=from_ca,
                now=self._now(),
            )
        if ring.cluster_id != self._cluster_id and not adopt:
            raise Conflict(
                f"this key ring is of the cluster {ring.cluster_id}: with --adopt its tokens open here too"
            )

        async def add() -> Json:
            await self._proposer.fresh(timeout_s=timeout_s)
            self.refuse_witness()
            arguments = ring_file.import_arguments(ring, self._trusted(), now_unix_ms=self._proposer.now_ms())
            await self._write("import", arguments, max(0.1, deadline - time.monotonic()))
            return {}

        about = {"ring": hashlib.sha256(raw).hexdigest(), "adopt": adopt}
        await self._proposer.once("key_import_ring", about, add, request_id=request_id, timeout_s=timeout_s)
        await self._until_opened(deadline)
        return self._listing()

    # ------------------------------------------------------------- problems

    def problems(self) -> Iterator[Problem]:
        """The members that cannot open a key."""
        members = set(self._holding())
        for record in self._keys.records():
            lacking = sorted(members - set(record.holders)) if record.state != "destroyed" else []
            for name in lacking:
                message = (
                    f"{name} cannot open the token key {record.key_id}: start it, and see who holds what"
                )
                yield problem("key_lacking", name, message, "cyoloctl key status")

    # ------------------------------------------------------------- upkeep

    async def maintain(self) -> bool:
        """Do what is this node's to do now; True when something was written.  Raises CyoloctlError."""
        if self._members.get(self._name) is None or self._members.is_witness(self._name):
            return False
        if await self._announce():
            return True
        self.ring()
        unconfirmed = {
            key_id: self._opened[key_id].fingerprint
            for key_id in self._keys.unconfirmed(self._name)
            if key_id in self._opened
        }
        if unconfirmed:
            await self._write("confirm", {"name": self._name, "keys": unconfirmed}, _STEP_TIMEOUT_S)
            return True
        if self._unreadable:
            # Sealed to another key of ours, or damaged: ask for it to be sealed again.
            lost, self._unreadable = sorted(self._unreadable), {}
            await self._write("reject", {"name": self._name, "keys": lost}, _STEP_TIMEOUT_S)
            return True
        return await self._wrap_for_others() or (
            self._proposer.engine.is_leader()
            and (await self._follow_policy() or await self._take_up_restored())
        )

    async def _take_up_restored(self) -> bool:
        """Import the keys that came with the snapshot which this cluster began with.  Once."""
        path = self._restored_keys
        if path is None or self._keys.primary() is None:
            return False
        if not path.exists():
            self._restored_keys = None
            return False
        ring = ring_file.open_kept_ring(path.read_text("ascii"), sealing_key_pem=self._sealing_key_pem)
        arguments = ring_file.import_arguments(ring, self._trusted(), now_unix_ms=self._proposer.now_ms())
        await self._write("import", arguments, _STEP_TIMEOUT_S)
        path.unlink(missing_ok=True)
        self._restored_keys = None
        _log.warning("the keys of the snapshot were imported", extra={"keys": len(ring.keys)})
        return True

    async def _announce(self) -> bool:
        """Publish this node's sealing key, with its certificate's signature under it."""
        if self._keys.nodes().get(self._name) == self._announcement:
            return False
        await self._write("announce", {"name": self._name, **asdict(self._announcement)}, _STEP_TIMEOUT_S)
        return True

    async def _wrap_for_others(self) -> bool:
        """Seal keys to members that lack them: the leader does, or the first holder when it cannot."""
        engine, ring, wrote = self._proposer.engine, self.ring(), False
        announced = self._keys.nodes().keys()
        reachable = {self._name, *engine.peers()}
        leader = name_of(engine.leader() or RaftId(""))
        for record in self._keys.records():
            key = ring.get(bytes.fromhex(record.key_id))
            lacking = sorted(announced - record.wrapped.keys())
            if record.state == "destroyed" or key is None or not lacking:
                continue
            holders = sorted(reachable.intersection(record.holders))
            turn = leader if leader in holders else holders[0] if holders else self._name
            if turn == self._name:
                wrapped = self._wrapped(key, lacking)
                if wrapped:
                    arguments = {"key_id": record.key_id, "wrapped": wrapped}
                    await self._write("wrap", arguments, _STEP_TIMEOUT_S)
                    wrote = True
        return wrote

    async def _follow_policy(self) -> bool:
        """As leader: make the first key, rotate when it is time, destroy what has served its time.

        By cluster time, which no single clock moves.
        """
        now_ms = self._proposer.now_ms()
        primary, policy = self._keys.primary(), self._keys.policy
        if primary is None:
            if self._keys.nodes().get(self._name) is not None:
                await self._propose(_STEP_TIMEOUT_S)
                return True
            return False
        if policy.rotate_every_s is None:
            return False
        for record in self._keys.records():
            free_ms = record.free_unix_ms
            served = record.state == "enabled" and free_ms and now_ms >= free_ms
            if served and not (self._is_foreign(record) or self._keys.values_under(record.key_id)):
                await self.destroy(record.key_id, force=False, request_id=None, timeout_s=_STEP_TIMEOUT_S)
                return True
        if now_ms < (primary.promoted_unix_ms or 0) + policy.rotate_every_s * 1000:
            return False
        pending = self._next()
        if pending is None:
            await self._propose(_STEP_TIMEOUT_S)
            return True
        if self._missing(pending.key_id):
            return False  # a member is away: it must hold the key before tokens are made with it
        await self.promote(pending.key_id, request_id=None, timeout_s=_STEP_TIMEOUT_S)
        return True

    def _is_foreign(self, record: KeyRecord) -> bool:
        """Adopted from another cluster: whether it still makes tokens with it is unknown here."""
        return record.cluster_id != self._cluster_id

    def _taken(self) -> Sequence[str]:
        return [record.key_id for record in self._keys.records()]
