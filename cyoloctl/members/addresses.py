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
    """

    def __init__(
        self, node: LocalNode, members: MemberMachine, configured: Mapping[NodeName, Address]
    ) -> None:
        self._node = node
        self._members = members
        self._configured = {str(name): str(address) for name, address in configured.items()}

    def known(self) -> dict[str, str]:
        """Address of each member: from the log, otherwise from node.yaml."""
        found = dict(self._configured)
        found.update({member.name: member.address for member in self._members.members()})
        for name in self._members.removed():
            found.pop(name, None)
        return found

    def with_own(self) -> dict[str, str]:
        """As `known`, and this node's as it is configured now."""
        return {**self.known(), str(self._node.name): str(self._node.advertise)}

    def to_dial(self) -> dict[str, tuple[str, ...]]:
        """Possible addresses of each member: those in the log first, then those in node.yaml."""
        return {
            name: tuple(dict.fromkeys((address, self._configured.get(name, address))))
            for name, address in self.known().items()
        }
