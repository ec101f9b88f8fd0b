"""What the judge of acknowledgements looks for in the committed log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from cyoloctl.model import Stamp
from cyoloctl.raft.batch import encode_batch
from cyoloctl.replicated.command import decode_command, encode_command
from cyoloctl.sim.invariants import Invariants


def made(key_id: str, request_id: str = "r1", operation: str = "make") -> bytes:
    return encode_command("keys", operation, {"key_id": key_id}, request_id=request_id, kind="node")


def test_repetition_that_has_drawn_another_key_is_answered_at_the_first_ones_entry() -> None:
    log = SimpleNamespace(committed={10: (encode_batch([(made("fc000001"), 9)], Stamp(0, 0, 0)), 1)})

    def held(command: bytes) -> bool:
        return Invariants._holds(cast(Any, log), 10, decode_command(command))

    assert held(made("fc000002"))
    assert not held(made("fc000001", request_id="r2"))
    assert not held(made("fc000001", operation="generate"))
