"""IP addresses from one pool, leased to devices for a while: two devices never have the same one.

Rows: ``pool`` -> the network, ``a/ADDRESS`` -> who has it until when, ``d/DEVICE`` -> its address.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

from cyoloctl import ReadTable, Refuse, StateMachine, Table, operation, query


class Addresses(StateMachine):
    NAME = "addresses"

    @operation
    def use_pool(self, table: Table, network: str) -> str:
        """Lease addresses of this network from now on; those of another one stay until they end."""
        try:
            pool = IPv4Network(network)
        except ValueError:
            raise Refuse(f"{network!a} is no network: use one such as 10.8.0.0/24") from None
        if not 16 <= pool.prefixlen <= 30:
            raise Refuse("the network is too large or too small: use a prefix of 16 to 30")
        table.set("pool", str(pool))
        return str(pool)

    @operation
    def lease(self, table: Table, device: str, ttl_s: int, now_unix_ms: int) -> dict[str, Any]:
        """An address for a device; the one that it has already, with a later end."""
        if not (1 <= ttl_s <= 86_400 and device):
            raise Refuse("the lease is not valid: name a device, and use 1 to 86400 seconds")
        address = table.get(f"d/{device}") or self._free(table, now_unix_ms)
        ends = now_unix_ms + 1000 * ttl_s
        table.set(f"a/{address}", {"device": device, "ends_unix_ms": ends})
        table.set(f"d/{device}", address)
        return {"address": address, "ends_unix_ms": ends}

    @operation
    def release(self, table: Table, device: str) -> str | None:
        """Give the address of a device back; null where it has none."""
        address: str | None = table.get(f"d/{device}")
        if address is not None:
            table.delete(f"a/{address}")
            table.delete(f"d/{device}")
        return address

    def _free(self, table: Table, now_unix_ms: int) -> str:
        pool = IPv4Network(table.get("pool", "10.8.0.0/24"))
        first, last = int(pool.network_address) + 1, int(pool.broadcast_address) - 1
        after = int(IPv4Address(table.get("last") or str(pool.network_address)))
        # Where the last one was, so that an address rests before somebody else has it; 1,000 at most.
        for step in range(min(last - first + 1, 1000)):
            number = first + (after - first + 1 + step) % (last - first + 1)
            address = str(IPv4Address(number))
            known = table.get(f"a/{address}")
            if known is None or known["ends_unix_ms"] <= now_unix_ms:
                if known is not None:
                    table.delete(f"d/{known['device']}")
                table.set("last", address)
                return address
        raise Refuse(f"no address of {pool} is free: release some, or use a larger pool")

    @query
    def leases(self, table: ReadTable, now_unix_ms: int, limit: int = 100) -> dict[str, Any]:
        """Who has which address now."""
        rows = table.range("a/", limit=max(1, min(limit, 10_000)))
        return {key[2:]: row["device"] for key, row in rows if row["ends_unix_ms"] > now_unix_ms}

    @staticmethod
    def examples(rng: Any) -> tuple[str, dict[str, Any]]:
        """For `cyoloctl machine check`: few devices and a small pool, so that they meet."""
        if rng.random() < 0.1:
            return "use_pool", {"network": rng.choice(("10.8.0.0/30", "10.8.0.0/29", "no"))}
        device = {"device": rng.choice("abcdef")}
        return (
            ("release", device) if rng.random() < 0.3 else ("lease", {**device, "ttl_s": rng.choice((1, 60))})
        )
