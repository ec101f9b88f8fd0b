"""A reload: node.yaml and the certificates are read again while the node runs.

All of it or nothing: a file that the node would not start with changes nothing.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from cyoloctl.errors import ConfigError, CyoloctlError
from cyoloctl.gateway.settings import GatewaySettings
from cyoloctl.node import logs
from cyoloctl.node.config import CONFIG_NAME, Config, load_config
from cyoloctl.node.config_keys import Difference, difference, values
from cyoloctl.node.gateway_config import GatewayConfig
from cyoloctl.node.service import Service
from cyoloctl.paths import check_group
from cyoloctl.text import Json

if TYPE_CHECKING:
    from cyoloctl.gateway.server import Gateway

__all__ = ["Reloading", "gateway_settings"]

_log = logging.getLogger("cyoloctl.node")


class Reloading:
    """The configuration of one running node, as far as node.yaml decides it, and its change."""

    def __init__(self, data_dir: Path, config: Config, held: Collection[str] = ()) -> None:
        """Nothing is applied yet: the node starts with this configuration.

        held: keys that whoever started the node decided.  Raises ConfigError
        where the gateway's certificate cannot be used.
        """
        self._path = data_dir / CONFIG_NAME
        self._config = config
        self._held = frozenset(held)
        self._tls = _gateway_context(config.gateway)

    def gateway_tls(self) -> Callable[[], ssl.SSLContext] | None:
        """The context for a new connection of a browser, to be asked each time; None: plain HTTP."""
        return None if self._tls is None else self._current_tls

    def _current_tls(self) -> ssl.SSLContext:
        assert self._tls is not None
        return self._tls

    def reload(self, service: Service, gateway: Gateway | None) -> Json:
        """Apply what the files hold now, as far as it can change, and reopen the log; what changed, by key.

        Certificates count for new connections.  Raises ConfigError or
        VersionMismatch, after a line of the log; nothing was changed then.
        """
        logs.reopen()
        try:
            change = self._apply(service, gateway)
        except CyoloctlError as error:
            _log.error("not reloaded: all stays as it was", extra={"reason": error.message})
            raise
        for key in change.needs_restart:
            _log.warning("a change needs a restart", extra={"key": key})
        lists = {
            "applied": list(change.applied),
            "needs_restart": list(change.needs_restart),
            "overridden": list(change.overridden),
        }
        _log.info("reloaded", extra={"node": str(self._config.name), **lists})
        return {"reloaded": True, "pid": os.getpid(), **lists, "unchanged": list(change.unchanged)}

    def _apply(self, service: Service, gateway: Gateway | None) -> Difference:
        wanted = load_config(self._path)
        change = difference(self._config, wanted, self._held)
        if change.fixed:
            raise self._cannot_change(change.fixed[0])
        if wanted.socket_group is not None and "socket_group" not in self._held:
            check_group(wanted.socket_group)
        tls = _gateway_context(wanted.gateway)
        service.certificates.reload()
        # Nothing fails from here on.
        config = self._config = change.config
        logs.change(config.log.format, config.log.level)
        service.schedule.policy = config.snapshots
        service.upkeep.gateway = config.gateway
        if config.gateway is not None and gateway is not None:
            gateway.change(gateway_settings(config.gateway))
        if self._tls is not None and tls is not None:
            self._tls = tls
        return change

    def _cannot_change(self, key: str) -> ConfigError:
        return ConfigError(
            f"{self._path}: `{key}` is {values(self._config)[key]} as long as this node lives, and the file "
            "has another: put it back"
        )


def gateway_settings(config: GatewayConfig) -> GatewaySettings:
    """The settings of a gateway's requests."""
    return GatewaySettings(
        trusted_proxies=config.trusted_proxies,
        metrics_clients=config.metrics_clients,
        allowed_hosts=config.allowed_hosts,
        require_session=config.require_session,
        sign_in_url=config.sign_in_url,
        begin=config.begin,
    )


def _gateway_context(gateway: GatewayConfig | None) -> ssl.SSLContext | None:
    """TLS of a gateway, None where it has none.  Raises ConfigError."""
    if gateway is None or gateway.certificate is None:
        return None
    from cyoloctl.gateway.server import tls_context

    return tls_context(gateway.certificate, str(gateway.key))
