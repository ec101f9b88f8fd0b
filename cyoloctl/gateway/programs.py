"""Health, metrics and session refresh: the requests of programs."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping

from cyoloctl.errors import InvalidInput, TokenRejected
from cyoloctl.gateway.answers import Answer, text
from cyoloctl.gateway.callers import LIMIT_S, Callers
from cyoloctl.gateway.forms import GatewayRequest, is_in
from cyoloctl.gateway.settings import GatewayNode, GatewaySettings
from cyoloctl.metrics.counts import Requests
from cyoloctl.metrics.families import GATEWAY, Figures
from cyoloctl.web.request import Request

__all__ = ["Programs"]


class Programs:
    """The answers of one gateway.  closing: whether it stops.  connections: how many it has."""

    def __init__(
        self,
        node: GatewayNode,
        settings: GatewaySettings,
        callers: Callers,
        requests: Requests,
        *,
        closing: Callable[[], bool],
        connections: Callable[[], int],
    ) -> None:
        self._node = node
        self._callers = callers
        self._requests = requests
        self._metrics_clients = [ipaddress.ip_network(text) for text in settings.metrics_clients]
        self._closing = closing
        self._connections = connections

    def routes(
        self,
    ) -> Mapping[str, Mapping[str, Callable[[GatewayRequest, Request], Awaitable[Answer]]]]:
        """Handlers by path and method."""
        return {
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._show_metrics},
            "/session/refresh": {"POST": self._refresh},
        }

    async def _refresh(self, asked: GatewayRequest, request: Request) -> Answer:
        self._callers.from_our_page(asked)
        if await self._callers.body(request):
            raise InvalidInput("this request takes no body")
        await self._callers.actor(asked, (), current=False)
        answer = Answer(204)
        try:
            answer.cookies = [await self._node.refresh(asked.cookie, timeout_s=LIMIT_S)]
        except TokenRejected as error:
            # The cookie is not cleared: the browser may have got a newer one since it sent this request, from
            # another node or for another tab, and a header cannot clear the one without the other.
            answer = text(401, f"{error.message}: sign in again\n", WWW_Authenticate="Cookie")
        return answer

    async def _healthz(self, asked: GatewayRequest, request: Request) -> Answer:
        return text(200, "ok\n")

    async def _readyz(self, asked: GatewayRequest, request: Request) -> Answer:
        if self._closing() or not self._node.ready():
            return text(503, "not ready: no leader was heard recently\n", Retry_After="1")
        return text(200, "ready\n")

    async def _show_metrics(self, asked: GatewayRequest, request: Request) -> Answer:
        if not is_in(asked.client, self._metrics_clients):
            return text(403, "metrics are not for you: see gateway.metrics_clients in node.yaml\n")
        figures: Figures = {
            "gateway_connections": self._connections(),
            "gateway_requests": self._requests.counts(),
            "gateway_request_duration_seconds": self._requests.durations(),
        }
        body = await self._node.metrics(GATEWAY, figures)
        return Answer(200, body, "text/plain; version=0.0.4")
