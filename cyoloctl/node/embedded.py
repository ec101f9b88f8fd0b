"""A node in an asyncio program: the same node that `node start` runs, without taking over the process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from cyoloctl.control.client import AsyncClient
from cyoloctl.errors import CyoloctlError, UsageError
from cyoloctl.node import run
from cyoloctl.node.config import CONFIG_NAME, load_config
from cyoloctl.node.level_file import refuse_higher_level
from cyoloctl.paths import check_ownership
from cyoloctl.process import harden

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Node", "Ready"]


class Ready(TypedDict):
    """A node that is ready.

    kept_out_by: members that do not let it in, without being a majority, and why.  unheard: members that
    a node which just joined has no link with.
    """

    ready: bool
    name: str
    address: str
    kept_out_by: dict[str, str]
    unheard: list[str]


class Node:
    """The node of a data directory, for an ``async with`` block.

    data_dir: made by `cyoloctl cluster init`, `cyoloctl node join` or `cyoloctl node accept`.

    It takes the ports and the control socket that its node.yaml names, so commands and other programs
    reach it like any other, and `cyoloctl node stop` stops it.  It installs no signal handlers and no log
    handlers: its loggers are below ``cyoloctl``.  Of the process it changes the limit of descriptors,
    which it raises, and core dumps and debuggers, which it forbids, because keys are in its memory.

    It belongs to the running loop, which it needs often: while the program blocks the loop for half a
    second or longer, the others take this node for dead and elect another leader.  It syncs its log to
    disk in the loop, so the program waits for the disk now and then.

    Entering raises ConfigError, StorageError, Conflict (the port or the directory is in use) or
    VersionMismatch; nothing runs then.  When the node cannot go on (the disk fails, it was removed from
    the cluster), the block is cancelled and raises the error that says why.  Leaving hands leadership
    over, answers what runs, and closes; it takes a few seconds at most.
    """

    def __init__(self, data_dir: str | os.PathLike[str], *, timeout_s: float = 5.0) -> None:
        """timeout_s: of `client`.  Reads nothing yet."""
        self._data_dir = Path(os.path.abspath(data_dir))
        self._timeout_s = timeout_s
        self._node: run.Node | None = None
        self._failure: CyoloctlError | None = None
        self._body: asyncio.Task[Any] | None = None
        self._cancelled = False

    async def __aenter__(self) -> Self:
        if self._node is not None:
            raise UsageError("a Node runs once: make another one for the directory")
        harden()
        check_ownership(self._data_dir)
        refuse_higher_level(self._data_dir)
        # The log belongs to the program around it.
        held = ("log.format", "log.level")
        node = run.Node(self._data_dir, load_config(self._data_dir / CONFIG_NAME), held)
        self._node = node
        await node.start()
        self._body = body = asyncio.current_task()
        assert body is not None
        self._cancelling = body.cancelling()
        self._over = asyncio.create_task(self._run(node))
        return self

    async def _run(self, node: run.Node) -> None:
        """Until it was asked to stop, or cannot go on; then it has stopped."""
        try:
            await node.wait()
        except CyoloctlError as error:
            self._failure = error
            if self._body is not None:
                self._cancelled = True
                self._body.cancel()
        await node.stop()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        node, body, self._body = self._running(), self._body, None  # from now on it is not ours to cancel
        assert body is not None
        # As asyncio.timeout does: others may have cancelled the task as well.
        if self._cancelled and body.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            kind = None
        node.request_stop()
        await asyncio.shield(self._over)
        if self._failure is not None and kind is None:
            raise self._failure

    async def ready(self) -> Ready:
        """Wait until the cluster lets this node stay, some seconds at most; a leader may still be missing.

        Raises the error that it ends with instead, and Unavailable when it was told to stop meanwhile.
        """
        answer: Any = await self._running().readiness()
        ready: Ready = answer
        return ready

    async def wait(self) -> None:
        """Wait until the node has stopped: asked by `cyoloctl node stop`, or because it cannot go on."""
        await asyncio.shield(self._over)

    @property
    def client(self) -> AsyncClient:
        """A client of this node, through its control socket: what it may do is what operators may."""
        self._running()
        return AsyncClient(data_dir=self._data_dir, timeout_s=self._timeout_s)

    def _running(self) -> run.Node:
        if self._node is None:
            raise UsageError("the node does not run yet: use it in `async with`")
        return self._node
