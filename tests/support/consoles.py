"""A console that runs, and what its page is given."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.cluster import LIMIT_S, NotYet, environment, wait_until

__all__ = ["Console", "Page", "console"]


class Page:
    """What the page of a running console is given."""

    def __init__(self, link: str) -> None:
        where = urlsplit(link)
        self._place = where.hostname or "", where.port
        _, headers, _ = self._get(where.path, {})
        self._home, cookie = headers["Location"], headers["Set-Cookie"].partition(";")[0]
        self._headers = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}

    def _get(self, path: str, headers: dict[str, str]) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection(*self._place, timeout=LIMIT_S)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def data(self) -> dict[str, Any]:
        status, _, body = self._get(f"{self._home}data", self._headers)
        assert status == 200
        found: dict[str, Any] = json.loads(body)
        return found

    def until(self, what: str, *path: str, is_: Any) -> dict[str, Any]:
        """What it is given once a part of it is so."""

        def held() -> dict[str, Any]:
            data = found = self.data()
            for name in path:
                found = found[name]
            if found != is_:
                raise NotYet(f"{'.'.join(path)} is {found}")
            return data

        return wait_until(what, held)


class Console:
    """A running console.  process: ended with the block that it belongs to."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path) -> None:
        self.process = process
        self._out = out

    def link(self) -> str:
        """The link that lets the next browser in."""

        def printed() -> str:
            assert self.process.poll() is None, self._out.read_text()
            return next(reversed(self._out.read_text().splitlines()), "")

        return wait_until("the link", printed)

    def page(self) -> Page:
        """The page, as a program sees it."""
        return Page(self.link())

    def end(self) -> int:
        """The exit status after SIGTERM."""
        self.process.terminate()
        return self.process.wait(LIMIT_S)


@contextmanager
def console(where: Path, *arguments: str) -> Iterator[Console]:
    """A console that is ended with the block.  where: a directory for what it prints."""
    out = where / "console.out"
    with out.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "cyoloctl", "console", *arguments],
            stdout=written,
            stderr=subprocess.STDOUT,
            env=environment(),
        )
    try:
        yield Console(process, out)
    finally:
        process.kill()
        process.wait(LIMIT_S)
