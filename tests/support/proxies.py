"""Real nginx and haproxy on loopback, in front of three scriptable HTTP servers that stand for gateways."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from cyoloctl.routing.haproxy import export_haproxy
from cyoloctl.routing.nginx import export_nginx
from cyoloctl.routing.table import Backend, ExportOptions, RoutingTable
from tests.support.cluster import free_port

__all__ = [
    "EXPORTS",
    "NAMES",
    "SHARED",
    "Answer",
    "Kind",
    "Site",
    "Upstream",
    "host_of",
    "proxy_process",
    "require",
    "silent_listener",
    "site",
]

Kind = Literal["nginx", "haproxy"]
EXPORTS: dict[Kind, Callable[[RoutingTable, ExportOptions], str]] = {
    "nginx": export_nginx,
    "haproxy": export_haproxy,
}
NAMES = ("n1", "n2", "n3")
SHARED = "app.example.com"
LIMIT_S = 30.0
UNPRIVILEGED = 65534  # nobody: the exported files must not need root


def host_of(name: str) -> str:
    """The pinned host of a node."""
    return f"app-{name[1:]}.example.com"


def require(program: str) -> str:
    """The path of an installed proxy, or a loud skip."""
    # Debian has it in a directory that is not in everybody's PATH.
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        package = "nginx-light" if program == "nginx" else program
        pytest.skip(f"ROUTING IS NOT TESTED WITH {program.upper()}: apt-get install {package}")
    return path


@dataclass
class Upstream:
    """One gateway: answers with its name and counts what it received, checks aside.

    /missing is answered with 404, and /to-n2 with the cookie of n2.
    """

    name: str
    ip: str
    port: int
    tls: ssl.SSLContext | None = None
    behaviour: Literal["answer", "hang", "die", "not ready"] = "answer"
    received: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)  # the hosts that checks asked for
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"{self.ip}:{self.port}"

    def count(self, method: str) -> int:
        return sum(1 for seen, _, _ in self.received if seen == method)

    async def start(self) -> None:
        self.behaviour = "answer"
        self._server = await asyncio.start_server(self._serve, self.ip, self.port, ssl=self.tls)

    async def stop(self) -> None:
        """As SIGKILL does: the port is closed, open connections are reset."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort() if self.behaviour == "hang" else writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ")
        headers: dict[str, str] = {}
        for name, _, value in (line.partition(": ") for line in lines if line):
            headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
        await reader.readexactly(int(headers.get("content-length", 0)))
        if path != "/readyz":
            self.received.append((method, path, headers))
            if self.behaviour == "die":
                await self.stop()
                return False
        else:
            self.checks.append(headers["host"])
        if self.behaviour == "hang":
            await reader.read()  # until the other side gives up
            return False
        status = "404 Not Found" if path == "/missing" else "200 OK"
        if self.behaviour == "not ready":
            status = "503 Not Ready"
        body = "" if method == "HEAD" else self.name
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(self.name)}\r\n"
            f"cyolo-node: {self.name}\r\n"
            f"{'Set-Cookie: cyolo-node=n2; Path=/' + chr(13) + chr(10) if path == '/to-n2' else ''}"
            f"\r\n{body}".encode()
        )
        await writer.drain()
        return headers.get("connection", "").lower() != "close"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str
    elapsed_s: float
    cookies: list[str] = field(default_factory=list)

    @property
    def node(self) -> str | None:
        """The node that answered; None for the proxy itself."""
        return self.body if self.body in NAMES else None

    @property
    def cookie(self) -> str | None:
        """The node that the new cookie names."""
        return (
            self.headers["set-cookie"].split(";")[0].removeprefix("cyolo-node=") if self.new_cookie else None
        )

    @property
    def new_cookie(self) -> bool:
        return "set-cookie" in self.headers


@dataclass
class Site:
    """A running proxy, what it was made from, and the nodes behind it."""

    kind: Kind
    table: RoutingTable
    options: ExportOptions
    nodes: dict[str, Upstream]
    port: int
    directory: Path
    tls: ssl.SSLContext | None = None

    def next_of(self, name: str) -> str:
        """The one node that takes over the pin of another."""
        return self.table.resolve(host_of(name))[1].name

    def received(self, method: str) -> int:
        """Number of requests that reached any node."""
        return sum(node.count(method) for node in self.nodes.values())

    async def ask(self, host: str | None, method: str = "GET", path: str = "/", **headers: str) -> Answer:
        """One request on a connection of its own."""
        reader, writer = await self.connect(host)
        try:
            return await self.exchange(reader, writer, host, method, path, Connection="close", **headers)
        finally:
            writer.transport.abort()

    async def connect(self, host: str | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name = host if self.tls else None
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, server_hostname=name)

    async def exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        host: str | None,
        method: str = "GET",
        path: str = "/",
        **headers: str,
    ) -> Answer:
        """One request on a connection that may be used again.  EOFError when it is closed unanswered."""
        body = "x=1" if method == "POST" else ""
        fields = {**({"Host": host} if host is not None else {}), **headers}
        if body:
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.{0 if host is None else 1}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        started = time.monotonic()
        async with asyncio.timeout(LIMIT_S):
            writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            answered = {n.lower(): value for n, _, value in (line.partition(": ") for line in rest if line)}
            length = answered.get("content-length")
            data = await (reader.read() if length is None else reader.readexactly(int(length)))
        cookies = [line[12:] for line in rest if line.lower().startswith("set-cookie: ")]
        return Answer(int(first.split()[1]), answered, data.decode(), time.monotonic() - started, cookies)

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]], limit_s: float = LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        while not await holds():
            assert time.monotonic() < deadline, f"not within {limit_s:g} s with {self.kind}: {what}"
            await asyncio.sleep(0.05)

    async def until_home(self, name: str) -> None:
        """Wait until a pin is answered by its own node."""

        async def home() -> bool:
            return (await self.ask(host_of(name))).node == name

        await self.until(f"{host_of(name)} is back at {name}", home, limit_s=6)


def proxy_process(kind: Kind, program: str, own: Path, file: Path) -> tuple[list[str], dict[str, Any]]:
    """The command that runs a proxy in the foreground, and the arguments of Popen that make it nobody's.

    own: the directory that it keeps its files in; as root it is given to nobody.
    """
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        for path in (own, *own.iterdir()):
            os.chown(path, UNPRIVILEGED, UNPRIVILEGED)
        user = {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}
    if kind == "haproxy":
        return [program, "-db", "-f", str(file)], user
    return [program, "-e", "stderr", "-g", "daemon off;", "-c", str(file)], user


@contextlib.asynccontextmanager
async def site(
    kind: Kind,
    *,
    edit: Callable[[str], str] = str,
    ready_status: int = 200,
    node_tls: ssl.SSLContext | None = None,
    client_tls: ssl.SSLContext | None = None,
    directory: Path | None = None,
    **options: object,
) -> AsyncIterator[Site]:
    """Three nodes and a proxy in front of them that runs as nobody.

    edit: changes the exported text, to see what a directive is good for.
    ready_status: what the shared host answers as soon as the proxy serves.

    More than 60 lines, because what it starts it also ends, whatever fails in between.
    """
    program = require(kind)
    own = directory or Path(tempfile.mkdtemp(prefix="cyoloctl-proxy-"))
    nodes = {
        # Addresses of their own, where no outgoing connection takes the port of a node that is down.
        name: Upstream(name, f"127.77.0.{number}", free_port(), node_tls)
        for number, name in enumerate(NAMES, 1)
    }
    port = free_port()
    table = RoutingTable(
        tuple(
            Backend(name=name, host=host_of(name), address=node.address, alive=True, role="follower")
            for name, node in nodes.items()
        ),
        (SHARED,),
        42,
    )
    settings = {"response_timeout_s": 1, "run_dir": str(own), "listen": f"127.0.0.1:{port}", **options}
    chosen = ExportOptions(**settings)
    found = Site(kind, table, chosen, nodes, port, own, client_tls)
    file = own / f"{kind}.conf"
    file.write_text(edit(EXPORTS[kind](table, chosen)))
    process: asyncio.subprocess.Process | None = None
    try:
        for node in nodes.values():
            await node.start()
        command, user = proxy_process(kind, program, own, file)
        with (own / "output").open("wb") as output:
            process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, **user)

        async def ready() -> bool:
            assert process is not None
            assert process.returncode is None, (own / "output").read_text()
            with contextlib.suppress(OSError, EOFError):
                return (await found.ask(SHARED)).status == ready_status
            return False

        await found.until("the proxy answers", ready)
        for node in nodes.values():
            node.received.clear()
        yield found
    finally:
        if process is not None and process.returncode is None:
            process.terminate()
            await process.wait()
        for node in nodes.values():
            await node.stop()
        if directory is None:
            shutil.rmtree(own)


@contextlib.contextmanager
def silent_listener(ip: str, port: int) -> Iterator[None]:
    """A port that drops what arrives, as a host without power does: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ip, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((ip, port))
        yield
