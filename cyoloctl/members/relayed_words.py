"""The word of members that a new node has no link with, by way of those that it has one with.

A node without a log believes who leads from a majority of the nodes that it
was told of when it joined.  Where two nodes can only dial out, they never
have a link: a third one passes the question on, and the answer is signed for
the node that asked, so that nobody's word counts but the signer's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from cyoloctl.beat import until_beat
from cyoloctl.errors import CyoloctlError, InvalidInput
from cyoloctl.model import LocalNode, RaftId
from cyoloctl.pki.files import NodeFiles, read_node_keys
from cyoloctl.pki.statements import sign_statement, verify_statement
from cyoloctl.raft import Engine
from cyoloctl.replicated.peer_calls import PeerCalls
from cyoloctl.text import Json, from_unix_ms

__all__ = ["RelayedWords"]

_log = logging.getLogger("cyoloctl.node")

_EVERY_S = 2.0
_ASK_S = 1.5
_MAX_VOTERS = 64


class RelayedWords:
    """Asks for what it lacks, passes the questions of others on, and signs its own answer.

    files: this node's, as they are now.  now_ms: cluster time, as far as it is known.
    """

    def __init__(
        self,
        engine: Engine,
        node: LocalNode,
        calls: PeerCalls,
        *,
        files: Callable[[], NodeFiles],
        pki_dir: Path,
        now_ms: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._node = node
        self._calls = calls
        self._files = files
        self._pki_dir = pki_dir
        self._now_ms = now_ms
        calls.offer("voters_of", {"name": str, "nonce": str}, self._pass_on, to="members")
        calls.offer("sign_voters", {"asker": str, "nonce": str}, self._sign, to="members")

    async def run(self) -> None:
        """Ask while the node runs and its log does not hold its place."""
        while True:
            await asyncio.sleep(until_beat(time.monotonic(), _EVERY_S))
            for name in self._engine.unheard():
                await self._ask(name)

    async def _ask(self, name: str) -> None:
        """Ask all that have a link with this node for the word of one that has none, until one brings it."""
        for by in sorted(self._engine.peers()):
            nonce = secrets.token_hex(16)
            try:
                answer = await self._calls.ask(by, "voters_of", {"name": name, "nonce": nonce}, _ASK_S)
                voters = self._checked(name, nonce, answer)
            except CyoloctlError as error:
                _log.debug(
                    "no word by way of a peer", extra={"peer": by, "of": name, "reason": error.message}
                )
                continue
            _log.debug("the word of a member came by way of a peer", extra={"peer": by, "of": name})
            self._engine.relayed(name, voters)
            return
        self._engine.relayed(name, frozenset())

    def _checked(self, name: str, nonce: str, answer: Json) -> frozenset[RaftId]:
        """The voters in an answer that this member signed now, for this node.  Raises InvalidInput."""
        voters, certificate, signature = (
            answer.get(key) for key in ("voters", "certificate_pem", "signature")
        )
        if (
            not isinstance(voters, list)
            or len(voters) > _MAX_VOTERS
            or not all(isinstance(each, str) for each in (*voters, certificate, signature))
        ):
            raise InvalidInput("a peer's answer is malformed")
        statement = self._statement(name, str(self._node.name), nonce, voters)
        problem = InvalidInput("no CA is trusted")
        for ca_pem in self._files().authorities:
            try:
                verify_statement(
                    statement,
                    str(signature),
                    str(certificate),
                    ca_pem=ca_pem,
                    name=name,
                    cluster_id=str(self._node.cluster_id),
                    now=from_unix_ms(self._now_ms()),
                )
            except InvalidInput as error:
                problem = error
            else:
                return frozenset(map(RaftId, voters))
        raise problem

    async def _pass_on(self, peer: str, given: Json, timeout_s: float) -> Json:
        """Bring a peer the word of another one."""
        asked = {"asker": peer, "nonce": given["nonce"][:64]}
        return await self._calls.ask(given["name"], "sign_voters", asked, timeout_s)

    async def _sign(self, peer: str, given: Json, timeout_s: float) -> Json:
        """The voters in this node's log, signed for one node that asks by way of a peer."""
        voters = sorted(map(str, self._engine.status().voters))
        statement = self._statement(str(self._node.name), given["asker"], given["nonce"], voters)
        return {
            "voters": voters,
            "certificate_pem": self._files().certificate_pem,
            "signature": sign_statement(read_node_keys(self._pki_dir)[0], statement),
        }

    def _statement(self, name: str, asker: str, nonce: str, voters: list[str]) -> bytes:
        """What is signed: of whom, for whom, and when, which the nonce says."""
        said = {
            "kind": "cyoloctl voters 1",
            "cluster_id": str(self._node.cluster_id),
            "name": name,
            "asker": asker,
            "nonce": nonce,
            "voters": voters,
        }
        return json.dumps(said, sort_keys=True).encode()
