"""What is asked of each system: the same operation in the words of each, as bytes that are sent."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from benchmarks.load import INBOX

__all__ = ["BUCKET", "COUNTER", "INCREMENT", "KEY", "PUT", "PUT_LARGE", "READ", "STALE", "TRANSACTION",
           "Request", "http_get", "http_request", "requests_of"]  # fmt: skip

COUNTER = "bench"
KEY = "bench/key"
_LARGE_KEY = "bench/large"
BUCKET = "bench"

INCREMENT = "increment"
PUT, PUT_LARGE, TRANSACTION = "put of 100 bytes", "put of 10 KiB", "transaction"
READ, STALE = "linearizable read", "stale read"

_SMALL, _LARGE = b"x" * 100, b"y" * 10_240


@dataclass(frozen=True)
class Request:
    """One operation.  expect: text that each success holds.  protocol as in load.Spec."""

    data: bytes
    expect: str
    protocol: str = "http"


def http_request(path: str, body: dict[str, Any]) -> bytes:
    """The bytes of one keep-alive POST."""
    payload = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


def http_get(path: str) -> bytes:
    """The bytes of one keep-alive GET."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def requests_of(system: str) -> dict[str, Request]:
    """By operation, what the system of that name is asked; what it does not have is absent."""
    return {"cyoloctl": _cyoloctl, "etcd": _etcd, "nats": _nats}[system]()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _cyoloctl() -> dict[str, Request]:
    small = _text(_SMALL)
    transaction: dict[str, Any] = {
        "compare": [{"key": KEY, "target": "version", "op": ">", "value": 0}],
        "then": [{"op": "put", "key": KEY, "value_base64": small}],
    }
    large = {"key": _LARGE_KEY, "value_base64": _text(_LARGE)}
    stale = f"/v1/kv?key={KEY}&consistency=stale"
    return {
        INCREMENT: Request(http_request(f"/v1/counters/{COUNTER}/increment", {"by": 1}), '"value_string"'),
        PUT: Request(http_request("/v1/kv/put", {"key": KEY, "value_base64": small}), "revision"),
        PUT_LARGE: Request(http_request("/v1/kv/put", large), "revision"),
        TRANSACTION: Request(http_request("/v1/kv/txn", transaction), '"succeeded":true'),
        READ: Request(http_get(f"/v1/kv?key={KEY}"), small[:40]),
        STALE: Request(http_get(stale), small[:40]),
    }


def _etcd() -> dict[str, Request]:
    key, small = _text(KEY.encode()), _text(_SMALL)
    counter = {"key": _text(COUNTER.encode()), "value": _text(b"1")}
    compare = {"target": "VERSION", "result": "GREATER", "key": key, "version": "0"}
    transaction = {"compare": [compare], "success": [{"requestPut": {"key": key, "value": small}}]}
    large = {"key": _text(_LARGE_KEY.encode()), "value": _text(_LARGE)}
    return {
        INCREMENT: Request(http_request("/v3/kv/put", counter), '"revision"'),
        PUT: Request(http_request("/v3/kv/put", {"key": key, "value": small}), '"revision"'),
        PUT_LARGE: Request(http_request("/v3/kv/put", large), '"revision"'),
        TRANSACTION: Request(http_request("/v3/kv/txn", transaction), '"succeeded":true'),
        READ: Request(http_request("/v3/kv/range", {"key": key}), small[:40]),
        STALE: Request(http_request("/v3/kv/range", {"key": key, "serializable": True}), small[:40]),
    }


def _nats() -> dict[str, Request]:
    """A bucket has no counters, no transactions over keys, and no read that asks a majority."""

    def publish(subject: str, payload: bytes) -> bytes:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), INBOX, len(payload), payload)

    def put(key: str, value: bytes) -> Request:
        return Request(publish(f"$KV.{BUCKET}.{key}", value), '"seq":', "nats")

    last = json.dumps({"last_by_subj": f"$KV.{BUCKET}.{KEY}"}).encode()
    return {
        PUT: put(KEY, _SMALL),
        PUT_LARGE: put(_LARGE_KEY, _LARGE),
        STALE: Request(publish(f"$JS.API.DIRECT.GET.KV_{BUCKET}", last), "x" * 40, "nats"),
    }
