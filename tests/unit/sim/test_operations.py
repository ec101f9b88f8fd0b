"""The operations that the simulation draws: all of every machine's, well-formed, and judged by the model."""

from __future__ import annotations

import json
import random

from cyoloctl.model import Stamp
from cyoloctl.replicated.command import encode_command
from cyoloctl.replicated.machine import Machine
from cyoloctl.sim.model import Model, code_of
from cyoloctl.sim.operations import OPERATIONS, draw
from cyoloctl.sim.scene import Scene
from cyoloctl.state import ClusterState


def test_operations_are_those_of_every_machine() -> None:
    state = ClusterState()
    machines = [machine for machine in vars(state).values() if isinstance(machine, Machine)]
    found = {(machine.NAME, operation) for machine in machines for operation in machine.operations()}
    found.remove(("history", "replace"))  # written into the files of a stopped node only
    found -= {("levels", "announce"), ("levels", "raise")}  # all nodes of a run understand the same level
    # No simulated node opens keys, which sealed values need: see tests/unit/kv/test_machine.py.
    found -= {("kv", name) for name in ("put_clear", "put_sealed", "reseal", "txn_sealed")}
    # No node of a run has code of a user's: see tests/unit/machines/test_machine.py.
    found -= {("machines", name) for name in ("announce", "register", "apply")}
    # No command of a run says where it came from, so there is nothing to export.
    found.remove(("audit", "acknowledge"))
    assert set(OPERATIONS) - found == {("answers", "keep")}, "a machine that the state does not name"
    assert found <= set(OPERATIONS)


def test_operations_are_well_formed_and_answered_as_the_model_says() -> None:
    for seed in range(8):
        rng, state, model = random.Random(seed), ClusterState(), Model()
        time_ms = 10**12
        for index in range(1, 120):
            time_ms += rng.randrange(300)
            node = rng.choice(("n1", "n2"))
            machine, operation, arguments = draw(
                Scene(
                    rng,
                    node,
                    state,
                    time_ms,
                    far=True,
                    nodes=(),
                    witnesses=random.Random(f"{seed} {index}"),
                    lockers=random.Random(f"{seed} {index} locks"),
                    keepers=random.Random(f"{seed} {index} kv"),
                )
            )
            request_id = f"r{rng.randrange(200)}"
            command = encode_command(machine, operation, arguments, request_id=request_id, kind="client")
            stamp = Stamp(state.stamp().epoch, time_ms, time_ms)
            state.advance(stamp)
            answer = json.loads(state.apply(index, command, index - 1))
            assert model.apply(index, command, index - 1, answer, stamp)[0] is None
            # What is malformed is answered and not remembered.
            assert state.apply(index, command) == state.apply(index, command), (machine, operation)
            again = json.loads(state.apply(index + 1, command))
            assert again == answer or code_of(answer) == "conflict", (machine, operation, arguments)
