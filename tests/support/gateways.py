"""Nodes with gateways on loopback, and a visitor that behaves like a browser without a screen."""

from __future__ import annotations

import html
import http.client
import re
import ssl
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from cyoloctl.model import Address
from cyoloctl.node.config import load_config
from cyoloctl.node.config_writer import write_config
from cyoloctl.node.gateway_config import GatewayConfig
from tests.support.cluster import Cluster, Node, free_port, wait_until

__all__ = ["HOST", "Page", "Visitor", "add_gateways", "begin", "session", "wait_gateways"]

HOST = "app.example.com"
"""A host that every node serves: what a proxy in front of them would forward."""


def add_gateways(cluster: Cluster, **settings: Any) -> dict[str, int]:
    """Give each node of a stopped cluster a gateway; the ports by name."""
    ports = {}
    for name, node in cluster.nodes.items():
        ports[name] = free_port()
        address = Address("127.0.0.1", ports[name])
        path = node.directory / "node.yaml"
        chosen = {"allowed_hosts": (HOST,), **settings}
        config = replace(load_config(path), gateway=GatewayConfig(address, address, **chosen))
        write_config(path, config)
    return ports


def wait_gateways(cluster: Cluster, ports: dict[str, int], *, tls: bool = False) -> None:
    """Until every running node is ready and all of them were announced to each."""
    for node in cluster.running():
        visitor = Visitor(ports[node.name], tls=tls)
        wait_until(f"{node.name} serves", lambda visitor=visitor: visitor.get("/readyz").status == 200)
        wait_until(
            f"{node.name} knows all gateways",
            lambda node=node: all(
                backend["address"] for backend in node.client().call("route_list")["backends"]
            ),
        )


def begin(node: Node, **changes: Any) -> dict[str, Any]:
    """Start a rendezvous at a node."""
    body = {
        "kind": "mfa",
        "ttl_s": 300,
        "data": {"amount": "12.50 EUR"},
        "public_key": None,
        "initiator": "cli:zoe",
        "origin": "198.51.100.7",
        "request_id": None,
    }
    return node.client().call("rendezvous_start", "", {**body, **changes})


def session(node: Node, sub: str = "alice@example.com") -> str:
    """A session token."""
    return str(node.client().call("token_mint", "", {"sub": sub})["token"])


@dataclass(frozen=True)
class Page:
    status: int
    headers: http.client.HTTPMessage
    body: str

    @property
    def form(self) -> str:
        """Content of the page's hidden field."""
        found = re.search(r'name="form" value="([^"]*)"', self.body)
        assert found, self.text
        return html.unescape(found[1])

    @property
    def text(self) -> str:
        """Text that a person reads."""
        body = re.sub(r"(?s)<style>.*?</style>", "", self.body)
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


@dataclass
class Visitor:
    """Keeps cookies, like one browser at one site, whichever node its proxy chooses."""

    port: int
    host: str | None = None
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    tls: bool = False

    @property
    def authority(self) -> str:
        return self.host or f"127.0.0.1:{self.port}"

    @property
    def scheme(self) -> str:
        return "https" if self.tls else self.headers.get("X-Forwarded-Proto", "http")

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str | None) -> Page:
        given: dict[str, str | None] = {"Host": self.authority, **self.headers}
        if self.cookies:
            given["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        given.update((name.replace("_", "-"), value) for name, value in headers.items())
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        try:
            connection.request(
                method, path, body, {name: value for name, value in given.items() if value is not None}
            )
            response = connection.getresponse()
            page = Page(response.status, response.headers, response.read().decode())
        finally:
            connection.close()
        for line in page.headers.get_all("Set-Cookie", []):
            name, _, rest = line.partition("=")
            self.cookies[name] = rest.split(";")[0]
        return page

    def get(self, path: str, **headers: str | None) -> Page:
        return self.request("GET", path, **headers)

    def post(self, path: str, fields: dict[str, str] | bytes, **headers: str | None) -> Page:
        data = fields if isinstance(fields, bytes) else urlencode(fields).encode()
        given: dict[str, str | None] = {
            "Content_Type": "application/x-www-form-urlencoded",
            "Origin": f"{self.scheme}://{self.authority}",
            "Sec_Fetch_Site": "same-origin",
            **headers,
        }
        return self.request("POST", path, data, **given)

    def enter(self, user_code: str) -> Page:
        """Open the page, type the code, continue."""
        page = self.get("/rendezvous")
        assert page.status == 200, page.text
        return self.post("/rendezvous", {"form": page.form, "user_code": user_code})

    def decide(self, operation: str, page: Page) -> Page:
        """Press a button of the page that shows who asks."""
        return self.post(f"/rendezvous/{operation}", {"form": page.form})
