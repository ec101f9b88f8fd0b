"""Whether a node listens where the others are told that it is."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time

from cyoloctl.beat import until_beat
from cyoloctl.members.addresses import Addresses
from cyoloctl.members.api import Problem
from cyoloctl.members.facts import problem
from cyoloctl.members.machine import MemberMachine
from cyoloctl.model import Address, is_wildcard, parse_address, same_place
from cyoloctl.node.config import Config

__all__ = ["OwnAddress"]

_LOOK_EVERY_S = 5.0
_CONNECT_S = 2.0


class OwnAddress:
    """The address of this node as `status` shows it: never one of this machine at which nothing listens.

    Of an address of another machine, in front of this one, nothing is known.
    """

    def __init__(self, config: Config, members: MemberMachine, addresses: Addresses) -> None:
        self._config = config
        self._members = members
        self._addresses = addresses
        self._unheard: set[str] = set()
        self._heard: set[str] = set()

    def shown(self) -> str:
        """The address in this node's own row."""
        own = self._addresses.own()
        if own not in self._unheard:
            return own
        listen = self._config.listen
        # A wildcard listens at the address of this machine that the others were told, on its own port.
        host = parse_address(own).host if is_wildcard(listen.host) else listen.host
        return str(Address(host, listen.port))

    def problems(self) -> list[Problem]:
        """What of its addresses leads nowhere."""
        name, configured = str(self._config.name), str(self._config.advertise)
        member = self._members.get(name)
        found = []
        if configured in self._unheard:
            message = (
                f"{name} tells the others that it is at {configured}, where nothing listens: it listens at "
                f"{self._config.listen}; correct `advertise` in its node.yaml, and start it again"
            )
            command = f"cyoloctl node set-address -d DIR --advertise {self.shown()}"
            found.append(problem("address", name, message, command))
        if member is not None and member.announced is not None and member.address in self._unheard:
            message = (
                f"the members were told that {name} is at {member.address}, where nothing listens: tell them "
                "where it is"
            )
            command = f"cyoloctl member set-address {name} {self.shown()}"
            found.append(problem("address", name, message, command))
        return found

    async def run(self) -> None:
        """Look now and then; runs while the node does."""
        while True:
            await self.look()
            await asyncio.sleep(until_beat(time.monotonic(), _LOOK_EVERY_S))

    async def look(self) -> None:
        """Find out at which of its addresses nothing listens."""
        member = self._members.get(self._config.name)
        asked = {str(self._config.advertise)}
        if member is not None and member.announced is not None:
            asked.add(member.address)
        self._heard &= asked
        unheard: set[str] = set()
        for each in sorted(asked - self._heard):
            (unheard if await self._is_unheard(parse_address(each)) else self._heard).add(each)
        self._unheard = unheard
        told = None if member is None or member.announced is None else member.address
        self._addresses.unheard = told if told in self._unheard else None

    async def _is_unheard(self, address: Address) -> bool:
        listen = self._config.listen
        anywhere = is_wildcard(listen.host) and address.port == listen.port
        if anywhere or same_place(address, listen) or not _is_here(address.host):
            return False
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, writer = await asyncio.open_connection(address.host, address.port)
        except ConnectionRefusedError:
            return True
        except (OSError, TimeoutError):
            return False
        # Something else forwards it to this node, or is another member, which is its own matter.
        writer.close()
        return any(
            same_place(parse_address(other.address), address)
            for other in self._members.members()
            if other.name != self._config.name
        )


def _is_here(host: str) -> bool:
    """Whether an IP address is one of this machine's."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
