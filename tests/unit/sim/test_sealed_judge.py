"""The judge that watches sealed values in simulated clusters."""

from __future__ import annotations

import json
import random
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from cyoloctl.kv.machine import KvMachine
from cyoloctl.model import Stamp
from cyoloctl.replicated.command import Command, decode_command, encode_command
from cyoloctl.sim.kv_operations import Table
from cyoloctl.sim.sealed_judge import SealedJudge
from cyoloctl.sim.sealers import MARKER, Sealers
from cyoloctl.state import ClusterState
from cyoloctl.text import Json

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
NOW = 1_800_000_000_000
BLANK = {"if_revision": None, "ttl_ms": None, "fence": None}


class Scene:
    """A state with a key, and a judge of it."""

    def __init__(self) -> None:
        self.state, self.index = ClusterState(), 0
        self.sealers = Sealers(random.Random(1))
        self.table = Table()
        self.judge = SealedJudge(self.sealers, lambda: self.table)
        member = {"name": "n1", "address": "n1:1", "sealing_key": "A" * 43 + "=", "raft_id": "n1"}
        rest = {"certificate_expires_at": None, "key_hash": "0" * 64}
        self.do("members", "announce", {**member, **rest})
        identity = {"sealing_key": "A" * 43 + "=", "certificate_pem": PEM, "signature": "A" * 96}
        self.do("keys", "announce", {"name": "n1", **identity})
        wrapped = {"n1": b64encode(bytes(80)).decode()}
        new = {"key_id": "fc000001", "cluster_id": "c" * 32, "fingerprint": "1" * 32}
        assert "value" in self.do("keys", "generate", {**new, "wrapped": wrapped})[1]

    def do(self, machine: str, operation: str, given: Json) -> tuple[Command, Json]:
        self.index += 1
        command = encode_command(machine, operation, given, request_id=f"r{self.index}", kind="client")
        self.state.advance(Stamp(self.state.stamp().epoch, NOW, NOW))
        return decode_command(command), json.loads(self.state.apply(self.index, command))

    def judged(self, machine: str, operation: str, given: Json) -> str | None:
        """What the judge says to a command that was carried out."""
        request, answer = self.do(machine, operation, given)
        assert "value" in answer, answer
        assert self.table.applied(request, answer, False, NOW, ("fc000001",)) is None
        return self.judge.applied(request, answer, self.state)

    def sealed(self, key: str) -> Json:
        """The arguments with which a value is sealed under the only key."""
        while True:
            blob, digest = self.sealers.seal(self.state.keys, key)
            if self.sealers.said[blob].key.key_id_hex == "fc000001":
                return {"key": key, "blob": blob, "digest": digest, **BLANK}

    def change(self, key: str, change: Callable[[Any], Any]) -> str | None:
        """What the judge says when an entry is another one all at once."""
        entry = self.state.kv.get(key)
        assert entry is not None
        self.state.kv._entries.set(key, change(entry))
        return self.judge.wrong(self.state)


def test_judge_takes_sealed_values_as_they_were_put_and_opens_what_was_before() -> None:
    scene = Scene()
    assert scene.judged("kv", "put_sealed", scene.sealed("a")) is None
    assert scene.judged("kv", "put_sealed", scene.sealed("a")) is None
    assert scene.judged("kv", "put_clear", {"key": "a", "value": "dg==", **BLANK}) is None
    sealed = scene.sealed("b")
    step = {"op": "put", "key": "b", "digest": sealed["digest"], "ttl_ms": None}
    clear = {"op": "put", "key": "a", "value": "eA==", "ttl_ms": None}
    txn = {"compare": [], "then": [step, clear], "otherwise": [], "fence": None, "blobs": [sealed["blob"]]}
    assert scene.judged("kv", "txn_sealed", txn) is None


def test_judge_sees_a_value_that_is_another_one_or_open_or_gone() -> None:
    scene = Scene()
    assert scene.judged("kv", "put_sealed", scene.sealed("a")) is None
    other = KvMachine.get(scene.state.kv, "a")
    assert scene.judged("kv", "put_sealed", scene.sealed("b")) is None
    assert other is not None
    assert scene.change("b", lambda entry: entry._replace(value=other.value)) is not None
    scene = Scene()
    assert scene.judged("kv", "put_sealed", scene.sealed("a")) is None
    assert scene.change("a", lambda entry: entry._replace(value=MARKER, sealed=False)) is not None
    scene = Scene()
    assert scene.judged("kv", "put_sealed", scene.sealed("a")) is None
    scene.state.kv._entries.pop("a")
    assert scene.judge.applied(*scene.do("kv", "expire", {"most": 1}), scene.state) is not None


def test_judge_sees_a_key_that_went_before_a_value_of_now_or_of_then() -> None:
    for more in (False, True):
        scene = Scene()
        assert scene.judged("kv", "put_sealed", scene.sealed("a")) is None
        if more:
            assert scene.judged("kv", "delete", {"key": "a", "if_revision": None, "fence": None}) is None
        assert scene.judge.wrong(scene.state) is None
        scene.state.keys._keys.clear()
        assert scene.judge.wrong(scene.state) is not None


def test_judge_finds_a_secret_in_any_part_of_a_message_however_it_is_written() -> None:
    judge = Scene().judge
    for value in (MARKER, b"x" + MARKER, b"xy" + MARKER + b"z"):
        for text in (value, value.hex(), b64encode(value), b64encode(value).decode()):
            assert judge.tells({"type": "reply", "parts": [(1, text)]})
    assert not judge.tells({"type": "reply", "parts": [(1, b"secret"), None, "in clear"]})
