"""Operations on routes: which member serves which host name, as reverse proxies see it."""

from __future__ import annotations

import builtins

from cyoloctl.members.machine import MemberMachine
from cyoloctl.model import LocalNode, RaftId, name_of, parse_hostname
from cyoloctl.replicated.proposer import Proposer
from cyoloctl.routing.api import Backend, RouteList
from cyoloctl.text import Json

__all__ = ["RoutingOperations"]


class RoutingOperations:
    """Implements `routing.api.RoutingApi`, and knows where the pages of members are."""

    def __init__(self, proposer: Proposer, node: LocalNode, members: MemberMachine) -> None:
        self._proposer = proposer
        self._node = node
        self._members = members

    def base_url(self, name: str) -> str | None:
        """Base URL of a member: by its configured URL, its host name, or its gateway's address."""
        gateway = self._members.gateway(name)
        if gateway is None:
            return None
        if gateway.url is not None:
            return gateway.url.rstrip("/")
        host = self._members.host(name)
        return f"https://{host}" if host is not None else f"http://{gateway.address}"

    def page_url(self, name: str) -> str | None:
        """The rendezvous page for what a member began (RFC 8628 verification_uri).

        By the member's configured URL, or else at a shared host, where people are signed in: a session is for
        one host name, and any member serves the page.
        """
        base, gateway = self.base_url(name), self._members.gateway(name)
        shared = self._members.shared_hosts()
        if gateway is not None and gateway.url is None and shared:
            base = f"https://{min(shared)}"
        return None if base is None else f"{base}/rendezvous"

    def reachable(self) -> set[str]:
        """The members that this node has a link with, and itself."""
        return {str(self._node.name), *self._proposer.engine.peers()}

    async def list(self, *, consistency: str, timeout_s: float) -> RouteList:
        await self._proposer.fresh(stale=consistency == "stale", timeout_s=timeout_s)
        reachable = self.reachable()
        engine = self._proposer.engine
        status, leader = engine.status(), name_of(engine.leader() or RaftId(""))
        voters = {name_of(raft_id) for raft_id in status.voters}
        backends: builtins.list[Backend] = []
        for member in self._members.key_members():  # a witness serves no sessions
            name = member.name
            gateway = self._members.gateway(name)
            backends.append(
                {
                    "name": name,
                    "host": self._members.host(name),
                    "address": None if gateway is None else gateway.address,
                    "url": self.base_url(name),
                    "alive": name in reachable,
                    "role": "leader" if name == leader else "follower" if name in voters else "learner",
                }
            )
        return {
            "backends": backends,
            "shared_hosts": self._members.shared_hosts(),
            "index": engine.applied_index(),
            "epoch": self._proposer.epoch(),
        }

    async def share(self, *, host: str, shared: bool, request_id: str | None, timeout_s: float) -> Json:
        operation = "share_host" if shared else "unshare_host"
        arguments = {"host": parse_hostname(host)}
        _, value, _ = await self._proposer.apply(
            "members", operation, arguments, request_id=request_id, timeout_s=timeout_s
        )
        return value
