"""The caller of a connection: identity, role, bounds, and what ends when the role does."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cyoloctl.caller import Caller
from cyoloctl.control.unix_socket import user_of
from cyoloctl.errors import AccessDenied, CyoloctlError, Unavailable
from cyoloctl.web.connection import Connection

if TYPE_CHECKING:
    from cyoloctl.web.connection import HttpServer
    from cyoloctl.web.listener import Guest
    from cyoloctl.web.schema import Route
    from cyoloctl.web.strangers import Budget

__all__ = ["CallerConnection", "Guard", "Guarded", "Owner"]

# How long a connection may be idle, or dribble a request's head.
_IDLE_S = 60.0
# How long the rest of a refused body is read and thrown away, so that the client
# can read the refusal.
_LINGER_S = 2.0
_ADDRESS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.:%_-")


class Owner(Protocol):
    """The server, as its connections use it."""

    logger: logging.Logger
    network_connections: Budget
    local_connections: Budget

    @property
    def server(self) -> HttpServer[Any]:
        """The server, as the connection's base sees it."""

    def identify_peer(self, ssl_object: Any) -> tuple[str, str, str] | None:
        """Name, role and key hash of a TLS peer; None when nobody can tell.

        Raises AccessDenied, Unavailable.
        """


class Guarded(Protocol):
    """A call that is being answered.

    deadline: its latest end, on the loop's clock.  expired: it was ended by that.
    """

    deadline: float
    expired: bool

    def expire(self) -> None:
        """It runs on after its time: end it, and say so."""

    def end(self, refusal: CyoloctlError) -> None:
        """The caller's certificate no longer counts: end it now, and say so."""


@dataclass(slots=True, eq=False)
class Guard:
    """A call that runs in a task."""

    task: asyncio.Task[Any]
    deadline: float = 0.0
    expired: bool = False
    refusal: CyoloctlError | None = None

    def expire(self) -> None:
        """See Guarded."""
        self.task.cancel()

    def end(self, refusal: CyoloctlError) -> None:
        """See Guarded."""
        self.refusal = refusal
        self.expired = True
        self.task.cancel()


class CallerConnection(Connection):
    """One connection of the API, with its caller."""

    __slots__ = (
        "_counted",
        "_identified",
        "_local",
        "_owner",
        "_unix",
        "behalf",
        "caller",
        "ended",
        "gone",
        "guard",
        "refusal",
        "role",
        "waiting",
    )

    def __init__(self, owner: Owner, *, unix: str | None, guest: Guest | None = None) -> None:
        """unix: the role of whoever can open the unix socket; None for the network."""
        super().__init__(owner.server, guest, idle_s=_IDLE_S, linger_s=_LINGER_S)
        self._owner = owner
        self._unix = unix is not None
        # Those of the gateway's socket share with the network: they must not keep the operator out.
        self._local = unix == "operator"
        # Whose share this connection counts against.
        self._counted: str | None = None
        self._identified = self._unix
        self.caller = "unix socket" if self._local else f"{unix} socket" if unix else "nobody"
        self.role: str | None = unix
        #: What is asked here is done on behalf of this.
        self.behalf = Caller("client", self.caller, unix or "", "", "socket" if self._unix else "")
        #: Why there is no role, where that can be said.
        self.refusal: CyoloctlError | None = None
        #: Its identity was accepted once and no longer is: nothing but the refusal is answered.
        self.ended = False
        #: Of the call that is being answered.
        self.guard: Guarded | None = None
        #: Done when the connection is lost; made for watches only.
        self.gone: asyncio.Future[None] | None = None
        #: A long poll, which ends with the connection: it must not keep its place.
        self.waiting: asyncio.Task[Any] | None = None

    def refused(self, route: Route[Any]) -> CyoloctlError:
        """Why the caller may not use a route."""
        if self.refusal is not None:
            return self.refusal
        if self.role is None:
            return AccessDenied(
                f"this request needs a client certificate of this cluster with the role {route.role}: "
                "use credentials (--credentials FILE), or the control socket on the node"
            )
        return AccessDenied(
            f"this request needs the role {route.role}, the credentials {self.caller} have the role "
            f"{self.role}: use other credentials"
        )

    def current_role(self) -> str | None:
        """The caller's role, as last seen.  A caller without one is identified again with each request."""
        if not self._identified:
            self.identify()
        return self.role

    def identify(self) -> None:
        """Identify the caller, and tell the listener."""
        transport = self.transport
        ssl_object = None if transport is None else transport.get_extra_info("ssl_object")
        identity = None
        self.refusal = None
        if ssl_object is not None:
            try:
                identity = self._owner.identify_peer(ssl_object)
            except (AccessDenied, Unavailable) as error:
                self.refusal = error
        key_hash = ""
        if identity is None:
            self.caller, self.role = "nobody", None
        else:
            self.caller, self.role, key_hash = identity
        self.behalf = Caller("client", self.caller, self.role or "", key_hash[:32], self.behalf.address)
        self._identified = identity is not None
        if self._guest is not None:
            if identity is None:
                self._guest.unidentified()
            else:
                self._guest.identified()
        self._count(None if identity is None else self.caller)

    def _count(self, caller: str | None) -> None:
        """Count the connection for a caller, or close it when that caller has too many."""
        budget = self._owner.local_connections if self._local else self._owner.network_connections
        if caller == self._counted:
            return
        if self._counted is not None:
            budget.give_back(self._counted)
            self._counted = None
        if caller is None:
            return
        if budget.take(caller):
            self._counted = caller
        else:
            self._owner.logger.warning(
                "connection refused", extra={"caller": caller, "reason": "too many", "_seldom": True}
            )
            self.force_close()

    @property
    def local(self) -> bool:
        """Whether the caller came by the control socket."""
        return self._local

    @property
    def stranger(self) -> bool:
        """Whether nobody vouches for the caller."""
        return not self._unix and self.role is None

    @property
    def source(self) -> str:
        """The key of this caller's bounds: their name, or the address of a stranger."""
        if self.stranger:
            return f"address {'' if self._guest is None else self._guest.source}"
        return self.caller

    def recheck(self) -> None:
        """Identify the caller again.  Whoever lost their role loses the connection and what runs on it."""
        if self._unix or not self._identified or self.ended:
            return
        before = self.role
        self.identify()
        if self.role == before:
            return
        self.ended = True
        refusal = self.refusal or AccessDenied("the certificate is no longer accepted: use other credentials")
        self.refusal, self.role = refusal, None
        if self.gone is not None:
            self.close()  # after its last line
            if not self.gone.done():
                self.gone.set_result(None)
        elif self.guard is not None:
            self.close()  # after its answer
            self.guard.end(refusal)
        else:
            self.close()  # what waits behind an answer is not answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read, and identify the caller; close when the server is closing."""
        super().connection_made(transport)
        if self._server.closing:
            return
        if self._unix:
            self._count(self.caller)
            self.behalf = self.behalf._replace(credential=user_of(transport))
        else:
            peer = transport.get_extra_info("peername")
            if isinstance(peer, tuple):
                # As the audit log may hold it, whatever a system names its interfaces.
                plain = "".join(each for each in peer[0] if each in _ADDRESS)
                self.behalf = self.behalf._replace(address=plain[:64])
            tls = transport.get_extra_info("ssl_object")
            if tls is not None and tls.getpeercert(binary_form=True) is not None:
                # At once, not with the first request: whoever is identified is no stranger.
                self.current_role()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the watch of this connection."""
        super().connection_lost(exc)
        self._count(None)
        if self.gone is not None and not self.gone.done():
            self.gone.set_result(None)
        if self.waiting is not None:
            self.waiting.cancel()
