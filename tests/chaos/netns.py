"""A network of our own: a namespace for each node and one for the switch between them.

Everything has a name that begins with `cyofault-` and the pid of the process
that made it, so that what a killed run left behind is found and removed by the
next one.  The host's own addresses, routes and rules are never touched: 10.77.0.0/24
exists inside these namespaces only.

Cuts are nftables rules inside a node's namespace: what the other sends is
dropped at its door, so a cut one way is one rule.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Network", "missing", "run_checked", "sweep"]

_PREFIX = "cyofault-"
_PROGRAMS = ("ip", "nft", "nsenter", "setpriv", "mount", "umount", "mkfs.ext4", "e2fsck")


def run_checked(*command: str, stdin: str = "") -> str:
    """Run a program; its stdout.  Raises RuntimeError with its message when it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def missing() -> str:
    """Why no networks can be made here; empty when they can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: iproute2 nftables util-linux mount e2fsprogs)"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    name = f"{_PREFIX}{os.getpid()}-try"
    try:
        run_checked("ip", "netns", "add", name)
        run_checked("nsenter", f"--net=/run/netns/{name}", "nft", "add", "table", "inet", "cyofault")
        run_checked("ip", "-n", name, "tuntap", "add", "dev", "cy0", "mode", "tun")
    except RuntimeError as error:
        return f"this kernel or container does not allow it: {error}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return ""


def sweep() -> list[str]:
    """Remove what runs that are gone left behind: namespaces, what runs in them, mounts; their names."""
    removed = []
    for path in sorted(Path("/run/netns").glob(f"{_PREFIX}*")):
        if _ownerless(path.name):
            _remove(path.name)
            removed.append(path.name)
    for line in Path("/proc/mounts").read_text().splitlines():
        mounted = Path(line.split()[1])
        if _ownerless(mounted.parent.name):
            subprocess.run(["umount", "--lazy", str(mounted)], capture_output=True, check=False)
            removed.append(str(mounted))
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")):
        if _ownerless(path.name):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(str(path))
    return removed


def _ownerless(name: str) -> bool:
    """Whether a run that is gone gave something this name."""
    owner = name.removeprefix(_PREFIX).partition("-")[0]
    return name.startswith(_PREFIX) and owner.isdigit() and not os.path.exists(f"/proc/{owner}")


def _remove(name: str) -> None:
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    for pid in listed.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


class Network:
    """Namespaces for these nodes, joined by a switch.  Use it as a context manager."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._run = f"{_PREFIX}{os.getpid()}"
        self._blocked: dict[str, set[str]] = {name: set() for name in names}
        self._closed: set[str] = set()
        self._switch: subprocess.Popen[str] | None = None

    def address(self, name: str) -> str:
        """The node's address in its namespace."""
        return f"10.77.0.{self.names.index(name) + 1}"

    def inside(self, name: str) -> list[str]:
        """Prefix of a command, so that it runs in the node's namespace and ends with us."""
        return ["nsenter", f"--net=/run/netns/{self._namespace(name)}", "setpriv", "--pdeathsig", "KILL"]

    def _namespace(self, name: str) -> str:
        return f"{self._run}-{name}"

    def __enter__(self) -> Network:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._switch is not None:
            assert self._switch.stdin is not None
            self._switch.stdin.close()
            self._switch.kill()
            self._switch.wait()
            if self._switch.stdout is not None:
                self._switch.stdout.close()
            self._switch = None
        for name in ["hub", *self.names]:
            _remove(self._namespace(name))

    def _build(self) -> None:
        for name in ["hub", *self.names]:
            run_checked("ip", "netns", "add", self._namespace(name))
        ports = [f"cy{number}={self.address(name)}" for number, name in enumerate(self.names)]
        self._switch = subprocess.Popen(
            [*self.inside("hub"), sys.executable, "-m", "tests.chaos.switch", *ports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._switch.stdout is not None
        if self._switch.stdout.readline() != "ready\n":
            raise RuntimeError("the switch did not start")
        for number, name in enumerate(self.names):
            device, space = f"cy{number}", self._namespace(name)
            run_checked("ip", "-n", self._namespace("hub"), "link", "set", device, "netns", space)
            run_checked("ip", "-n", space, "link", "set", "lo", "up")
            run_checked("ip", "-n", space, "addr", "add", f"{self.address(name)}/24", "dev", device)
            run_checked("ip", "-n", space, "link", "set", device, "up")
            self._rules(name)

    def cut(self, source: str, target: str) -> None:
        """Let nothing from source reach target; the other way is another cut."""
        self._blocked[target].add(source)
        self._rules(target)

    def mend(self, source: str, target: str) -> None:
        self._blocked[target].discard(source)
        self._rules(target)

    def close_door(self, name: str) -> None:
        """Let nobody connect to a node any more; it still connects to others."""
        self._closed.add(name)
        self._rules(name)

    def cuts(self) -> set[tuple[str, str]]:
        return {(source, target) for target, sources in self._blocked.items() for source in sources}

    def weather(self, **rule: Any) -> None:
        """Set the switch's treatment of packets (see switch.py); none without arguments."""
        assert self._switch is not None
        assert self._switch.stdin is not None
        self._switch.stdin.write(json.dumps(rule) + "\n")
        self._switch.stdin.flush()

    def calm(self) -> None:
        """No cuts, no delays."""
        self.weather()
        for name, sources in self._blocked.items():
            if sources:
                sources.clear()
                self._rules(name)

    def _rules(self, name: str) -> None:
        drops = "\n".join(f"ip saddr {self.address(source)} drop" for source in sorted(self._blocked[name]))
        if name in self._closed:
            drops += '\niifname != "lo" tcp flags & (syn | ack) == syn drop'
        # One transaction: the old table goes and the new one comes at once.
        script = (
            "table inet cyofault\ndelete table inet cyofault\ntable inet cyofault {\nchain in {\n"
            f"type filter hook input priority 0; policy accept;\n{drops}\n}}\n}}\n"
        )
        inside = ("nsenter", f"--net=/run/netns/{self._namespace(name)}")
        run_checked(*inside, "nft", "-f", "-", stdin=script)


if __name__ == "__main__":
    print("\n".join(sweep()) or "nothing was left behind")
