"""Headless Chromium by the W3C WebDriver protocol, which is HTTP and JSON (https://www.w3.org/TR/webdriver2/).

Selenium would be a dependency for the ten commands that are needed here.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import NotYet, free_port, wait_until

__all__ = ["ENTER", "TAB", "Browser", "Switch", "browser", "require_chromium"]

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
TAB, ENTER = "\ue004", "\ue007"
_PACKAGES = ("chromium", "chromium-driver")


def require_chromium() -> tuple[str, str]:
    """The paths of browser and driver; as root with apt installs what is missing, else skips loudly."""
    missing = not (shutil.which("chromium") and shutil.which("chromedriver"))
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        install = "apt-get -qq update && apt-get -qq install --yes --no-install-recommends "
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                ["sh", "-c", install + " ".join(_PACKAGES)],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.DEVNULL,
                timeout=240,
                check=False,
            )
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip(f"THE PAGE IS NOT TESTED IN A BROWSER: apt-get install {' '.join(_PACKAGES)}")
    return chromium, driver


class Browser:
    """One session of chromedriver."""

    def __init__(self, port: int, capabilities: dict[str, Any]) -> None:
        self._port = port
        self._path = ""
        made = self.command("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._path = f"/session/{made['sessionId']}"

    def command(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The value of the answer.  Raises NotYet with the driver's error."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, self._path + path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            value = json.loads(response.read())["value"]
        finally:
            connection.close()
        if response.status != 200:
            raise NotYet(f"{method} {path}: {value['error']}: {value['message']}")
        return value

    def open(self, url: str) -> None:
        self.command("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        return str(self.command("GET", "/url"))

    @property
    def title(self) -> str:
        return str(self.command("GET", "/title"))

    def find(self, selector: str) -> str:
        found = self.command("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])

    def texts(self, selector: str) -> list[str]:
        found = self.command("POST", "/elements", {"using": "css selector", "value": selector})
        return [str(self.command("GET", f"/element/{each[_ELEMENT]}/text")) for each in found]

    def text(self) -> str:
        return str(self.command("GET", f"/element/{self.find('main')}/text"))

    def size(self, selector: str) -> tuple[float, float]:
        """Width and height in CSS pixels."""
        rectangle = self.command("GET", f"/element/{self.find(selector)}/rect")
        return rectangle["width"], rectangle["height"]

    def type(self, selector: str, text: str) -> None:
        self.command("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def attribute(self, selector: str, name: str) -> str | None:
        value = self.command("GET", f"/element/{self.find(selector)}/property/{name}")
        return None if value is None else str(value)

    def role(self, selector: str) -> str:
        return str(self.command("GET", f"/element/{self.find(selector)}/computedrole"))

    def label(self, selector: str) -> str:
        """The accessible name."""
        return str(self.command("GET", f"/element/{self.find(selector)}/computedlabel"))

    def click(self, selector: str) -> None:
        """Click, and wait for the page that follows."""
        before = self.find("html")
        self.command("POST", f"/element/{self.find(selector)}/click", {})
        # The footer is the end of each of our pages.
        wait_until("another page", lambda: self.find("html") != before and self.find("footer"))

    def keys(self, *keys: str) -> None:
        """Press keys on whatever has the focus; works without scripts, where a click of the driver hangs."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]})

    def run(self, script: str) -> Any:
        return self.command("POST", "/execute/sync", {"script": script, "args": []})

    def add_cookie(self, name: str, value: str, **attributes: str) -> None:
        cookie = {"name": name, "value": value, "path": "/", "secure": True, "httpOnly": True}
        self.command("POST", "/cookie", {"cookie": {**cookie, "sameSite": "Lax", **attributes}})

    def cookies(self) -> dict[str, dict[str, Any]]:
        return {cookie["name"]: cookie for cookie in self.command("GET", "/cookie")}

    def emulate(self, width: int, height: int, *, dark: bool = False) -> None:
        """Another screen, of so many CSS pixels, and whether the person likes it dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        for cmd, params in (
            ("Emulation.setEmulatedMedia", {"features": [scheme]}),
            ("Emulation.setDeviceMetricsOverride", screen),
        ):
            self.command("POST", "/goog/cdp/execute", {"cmd": cmd, "params": params})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.command("GET", f"/element/{self.find('body')}/screenshot")))

    def console(self) -> list[str]:
        """Complaints of the browser, those of the content security policy too."""
        return [entry["message"] for entry in self.command("POST", "/se/log", {"type": "browser"})]


@contextlib.contextmanager
def browser(
    profile: Path,
    *,
    width: int = 480,
    height: int = 960,
    scripts: bool = True,
    arguments: Sequence[str] = (),
) -> Iterator[Browser]:
    """A browser with an empty profile and a screen of so many CSS pixels.

    More than 60 lines, because most are the options of the browser, which are data.
    """
    chromium, driver = require_chromium()
    port = free_port()
    options: dict[str, Any] = {
        "binary": chromium,
        # No sandbox: its namespaces are not available to root in containers; what it shows is our own page.
        "args": [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-proxy-server",
            "--force-prefers-reduced-motion",
            f"--user-data-dir={profile}",
            *arguments,
        ],
        "mobileEmulation": {
            "deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0, "mobile": True}
        },
    }
    if not scripts:
        options["prefs"] = {"profile.managed_default_content_settings.javascript": 2}
    process = subprocess.Popen(
        [driver, f"--port={port}", "--log-level=SEVERE"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
        start_new_session=True,
    )
    found: Browser | None = None
    try:

        def listens() -> bool:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True

        wait_until("chromedriver listens", listens)
        found = Browser(
            port,
            {
                "browserName": "chrome",
                "acceptInsecureCerts": True,
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
            },
        )
        yield found
    finally:
        if found is not None:
            with contextlib.suppress(OSError, NotYet, http.client.HTTPException):
                found.command("DELETE", "")
        # Its whole group: a browser outlives its driver.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


class Switch:
    """A TCP listener that hands each connection to the node of the moment, TLS and all."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Switch:
        return self

    def __exit__(self, *_: object) -> None:
        # shutdown wakes the thread that accepts; close alone leaves it blocked.
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                try:
                    node = socket.create_connection(("127.0.0.1", self.target), timeout=30)
                except OSError:
                    client.close()
                    continue
                node.settimeout(None)
                self._open.append(node)
                for source, sink in ((client, node), (node, client)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
