"""Tokens and keys of a running cluster, for tests: short calls, and what must hold of refusals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cyoloctl.errors import CyoloctlError, TokenRejected
from tests.support.cluster import Cluster, Node, wait_until

__all__ = ["assert_rejected", "call", "inspect", "mint", "refresh", "rejected", "update", "wait_keys"]

MESSAGE = "token rejected"
"""What whoever presents a token is told, whatever the reason."""


def call(
    node: Node, operation: str, name: str = "", /, timeout_s: float = 20.0, **body: Any
) -> dict[str, Any]:
    """An operation of the API."""
    return node.client(timeout_s).call(operation, name, body)


def mint(node: Node, sub: str = "zoe", **body: Any) -> str:
    """The token of a new session."""
    return str(call(node, "token_mint", sub=sub, **body)["token"])


def inspect(node: Node, token: str, **body: Any) -> dict[str, Any]:
    """Content of the token; judged by what a majority knows, unless the body says otherwise."""
    asked = {"token": token, "require_quorum": True, **body}
    try:
        return call(node, "token_inspect", **asked)
    except TokenRejected as refusal:
        # The one message tells a test that did not expect it nothing.
        try:
            call(node, "token_inspect", **{**asked, "explain": True})
        except CyoloctlError as explained:
            refusal.add_note(f"{node.name} explains: {explained.message}")
        raise


def update(node: Node, token: str, **body: Any) -> dict[str, Any]:
    """The answer to an update."""
    return call(node, "token_update", token=token, **body)


def refresh(node: Node, token: str, **body: Any) -> dict[str, Any]:
    """The answer to a refresh."""
    return call(node, "token_refresh", token=token, **{"require_quorum": True, **body})


def rejected(node: Node, operation: str, **body: Any) -> bool:
    """Whether it is refused as a token, with the one message."""
    try:
        call(node, operation, **body)
    except TokenRejected as refusal:
        error = refusal
    else:
        return False
    assert error.message == MESSAGE
    return True


def assert_rejected(nodes: Iterable[Node], *tokens: str) -> None:
    """Every node refuses every one of these tokens, for every purpose."""
    for node in nodes:
        for token in tokens:
            assert rejected(node, "token_inspect", token=token, require_quorum=True), node.name
            assert rejected(node, "token_refresh", token=token, require_quorum=True), node.name
            assert rejected(node, "token_update", token=token, set={"again": True}), node.name


def wait_keys(cluster: Cluster) -> str:
    """Until every running node says that all members hold every key; the id of the primary one."""

    def agreed() -> str:
        found = {
            (status["agreed"], status["primary"])
            for status in (node.client(2.0).call("key_status") for node in cluster.running())
        }
        return next(iter(found))[1] if len(found) == 1 and next(iter(found))[0] else ""

    return wait_until("every member holding every key", agreed)
