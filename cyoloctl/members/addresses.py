"""Addresses of the members."""

from __future__ import annotations

from collections.abc import Mapping

from cyoloctl.members.machine import MemberMachine
from cyoloctl.model import Address, LocalNode, NodeName

__all__ = ["Addresses"]


class Addresses:
    """Addresses of members by name.

    configured: where node.yaml says that members are.  When all the others
    moved while this node was away, it or another member knows where they are.
    unheard: an address of this node at which nothing listens, as far as it
    could find out; None: all is well.
    """

    def __init__(
        self, node: LocalNode, members: MemberMachine, configured: Mapping[NodeName, Address]
    ) -> None:
        self._node = node
        self._members = members
        self._configured = {str(name): str(address) for name, address in configured.items()}
        self.unheard: str | None = None

    def known(self) -> dict[str, str]:
        """Address of each member: from the log, otherwise from node.yaml."""
        found = dict(self._configured)
        found.update({member.name: member.address for member in self._members.members()})
        for name in self._members.removed():
            found.pop(name, None)
        return found

    def with_own(self) -> dict[str, str]:
        """As `known`, and this node's as `own` says."""
        return {**self.known(), str(self._node.name): self.own()}

    def own(self) -> str:
        """Where the others reach this node: as an operator told them, otherwise as node.yaml says now.

        What an operator told them counts for as long as node.yaml says what it said then.
        """
        member, configured = self._members.get(self._node.name), str(self._node.advertise)
        if member is None or member.announced != configured or member.address == self.unheard:
            return configured
        return member.address

    def to_dial(self) -> dict[str, tuple[str, ...]]:
        """Possible addresses of each member: those in the log, what it says itself last, then node.yaml's."""
        found = {name: [address] for name, address in self.known().items()}
        for member in self._members.members():
            if member.announced is not None:
                found[member.name].append(member.announced)
        return {
            name: tuple(dict.fromkeys([*addresses, self._configured.get(name, addresses[0])]))
            for name, addresses in found.items()
        }
