"""The listener for browsers and reverse proxies; its rules are in `_server`."""

from cyoloctl.gateway._node import GatewayNode, GatewaySettings, Limits
from cyoloctl.gateway._server import Gateway, tls_context

__all__ = ["Gateway", "GatewayNode", "GatewaySettings", "Limits", "tls_context"]
