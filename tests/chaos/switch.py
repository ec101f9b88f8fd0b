"""A switch in user space that delays, reorders and loses packets between nodes.

Linux does this with `tc netem`, which many kernels lack.  Here each node's
namespace has one end of a TUN device and this program has the other: every IP
packet between nodes passes through it.  It is a program of its own, so that
clients and checker do not delay packets.

    python -m tests.chaos.switch DEVICE=ADDRESS...

makes the devices in the network namespace that it is started in, says "ready",
and then obeys a JSON object a line on stdin: {"delay_ms", "jitter_ms", "loss",
"only": [ADDRESS...] (packets from or to one of these; empty for all)}.  Packets
overtake each other when the jitter is not 0.  It ends when stdin does.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import selectors
import socket
import struct
import sys
import time
from typing import Any

__all__ = ["main"]

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000

_PACKET_BYTES = 65536
_QUEUE = 50_000
"""Packets held at most; more are lost, as in any switch."""


def _open_tun(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd


class _Switch:
    def __init__(self, ports: dict[bytes, int]) -> None:
        self._ports = ports
        self._held: list[tuple[float, int, int, bytes]] = []
        self._sequence = 0
        self._rng = random.Random(1)
        self._rule: dict[str, Any] = {}
        self._only: frozenset[bytes] = frozenset()

    def obey(self, rule: dict[str, Any]) -> None:
        self._rule = rule
        self._only = frozenset(socket.inet_aton(address) for address in rule.get("only", ()))

    def take(self, fd: int) -> None:
        """Everything that waits at one port."""
        for _ in range(64):
            try:
                packet = os.read(fd, _PACKET_BYTES)
            except OSError:  # nothing more, or the device is not up yet
                return
            # IPv4 only: source at 12, destination at 16 (RFC 791 3.1).
            if len(packet) < 20 or packet[0] >> 4 != 4:
                continue
            source, target = packet[12:16], packet[16:20]
            out = self._ports.get(target)
            if out is None:
                continue
            if self._rule and (not self._only or source in self._only or target in self._only):
                self._hold(out, packet)
            else:
                _put(out, packet)

    def _hold(self, out: int, packet: bytes) -> None:
        rule = self._rule
        if self._rng.random() < rule.get("loss", 0.0) or len(self._held) >= _QUEUE:
            return
        delay_ms = rule.get("delay_ms", 0.0) + self._rng.random() * rule.get("jitter_ms", 0.0)
        self._sequence += 1
        heapq.heappush(self._held, (time.monotonic() + delay_ms / 1000, self._sequence, out, packet))

    def release(self) -> float | None:
        """Let go what is due; seconds until the next is, None when nothing is held."""
        now = time.monotonic()
        while self._held and self._held[0][0] <= now:
            _, _, out, packet = heapq.heappop(self._held)
            _put(out, packet)
        return self._held[0][0] - now if self._held else None


def _put(fd: int, packet: bytes) -> None:
    try:
        os.write(fd, packet)
    except OSError:  # the device is down or full: the packet is lost
        return


def main(arguments: list[str]) -> None:
    """Run until stdin ends."""
    ports: dict[bytes, int] = {}
    selector = selectors.DefaultSelector()
    for argument in arguments:
        device, _, address = argument.partition("=")
        fd = _open_tun(device)
        ports[socket.inet_aton(address)] = fd
        selector.register(fd, selectors.EVENT_READ)
    switch = _Switch(ports)
    os.set_blocking(0, False)
    selector.register(0, selectors.EVENT_READ)
    print("ready", flush=True)
    pending = b""
    while True:
        wait_s = switch.release()
        for key, _ in selector.select(wait_s):
            if key.fd != 0:
                switch.take(key.fd)
                continue
            data = os.read(0, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                switch.obey(json.loads(line))


if __name__ == "__main__":
    main(sys.argv[1:])
