"""The workload: clients of the counters, and what nodes write and ask on their own."""

from __future__ import annotations

import json
import random
from typing import Any

from cyoloctl.errors import CyoloctlError
from cyoloctl.raft.proposals import Proposal
from cyoloctl.raft.reads import ReadRequest
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, encode_command
from cyoloctl.sim.node import Node
from cyoloctl.sim.world import World

__all__ = ["Client", "Operation", "Workload"]

_KEY = "A" * 43 + "="
_JOINER = {
    "address": "simulated:1",
    "public_key": _KEY,
    "request_sha256": "f" * 64,
    "sealing_key": _KEY,
}


class Workload:
    """All clients of one run.

    operations: answered so far.  max_attempts: of one operation.  think_s: mean
    pause of a client between two operations.
    """

    def __init__(self, world: World, rng: random.Random, *, max_attempts: int, think_s: float) -> None:
        self.world, self.rng = world, rng
        self.max_attempts, self.think_s = max_attempts, think_s
        self.operations = 0
        self._recorded = 0

    def start(self) -> None:
        """Begin, shortly after the nodes."""
        time = self.world.time
        for number in range(self.rng.choice((2, 4, 8))):
            client = Client(self, f"c{number}")
            time.later(0.3 + 0.05 * number, client.next)
        time.later(0.5, self._record)
        time.later(0.5, self._call)

    # What the nodes write besides the clients' counters.

    def _record(self) -> None:
        """A node writes about members, once; every node refuses the same part of it."""
        world = self.world
        if not world.working:
            return
        self._recorded += 1
        world.time.later(self.rng.expovariate(3.0), self._record)
        running = world.running()
        if not running:
            return
        node, request_id = self.rng.choice(running), f"record-{self._recorded}"
        floor = world.invariants.observed
        operation, arguments = self._member_change(f"m{self.rng.randrange(6)}")

        def propose() -> None:
            if node.replica is not None:
                command = encode_command("members", operation, arguments, request_id=request_id, kind="node")

                def done(result: Any, error: CyoloctlError | None) -> None:
                    answer = {} if error is not None else json.loads(result)
                    code = answer.get("error", {}).get("code")
                    if code == "access_denied":
                        world.time.count("record of a learner refused")
                    elif error is None and code != "outcome_unknown":
                        world.invariants.acknowledged(node, command, answer, floor)
                        world.time.count("record" if code is None else "record refused")

                node.replica.propose(command, done)

        node.put(node.life, propose)

    def _member_change(self, name: str) -> tuple[str, dict[str, Any]]:
        """An operation on a member, and its arguments."""
        rng = self.rng
        return rng.choice(
            (
                (
                    "issue_invitation",
                    {
                        "name": name,
                        "learner": rng.randrange(7) == 0,
                        "public_key": _KEY,
                        "expires_unix_ms": MAX_TIME_UNIX_MS,
                    },
                ),
                ("uninvite", {"name": name}),
                ("remove", {"name": name})
                if rng.random() < 0.2
                else ("admit", {**_JOINER, "name": name, "raft_id": name, "key_hash": name[1] * 64}),
            )
        )

    # What a node asks another one, besides Raft.

    def _call(self) -> None:
        running = self.world.running()
        if running:
            node, peer = self.rng.choice(running), self.rng.choice(self.world.names())
            node.put(node.life, lambda: node.ask(peer))
        if self.world.working:
            self.world.time.later(self.rng.expovariate(10.0), self._call)


class Operation:
    """One wish of a client, across all its attempts.

    floor: the highest index of which any client had seen the effect before.
    """

    def __init__(self, client: Client, number: int, floor: int) -> None:
        self.client = client
        self.request_id = f"{client.name}-{number}"
        self.floor = floor
        self.attempts = 0
        self.finished = False
        self.command: bytes | None = None


class Client:
    """One caller, with one operation at a time.  It retries an unknown outcome with the same request id."""

    def __init__(self, load: Workload, name: str) -> None:
        self.name = name
        self._load, self._world, self._rng = load, load.world, load.rng
        self._number = 0
        self._node: str | None = None
        self._reads = load.rng.choice((0.2, 0.4, 0.95))  # share of its operations

    def next(self) -> None:
        """Begin the next operation."""
        if not self._world.working:
            return
        self._number += 1
        operation = Operation(self, self._number, self._world.invariants.observed)
        if self._rng.random() < self._reads:
            self._read(operation)
        else:
            kind = "reset" if self._rng.random() < 0.05 else "add"
            self.write(operation, kind, automatic=self._rng.random() < 0.25)

    def _finish(self, operation: Operation) -> None:
        if not operation.finished:
            operation.finished = True
            self._world.time.later(self._rng.expovariate(1 / self._load.think_s), self.next)

    def _choose(self, operation: Operation) -> Node | None:
        world = self._world
        running = world.running()
        operation.attempts += 1
        if operation.attempts > self._load.max_attempts or not running:
            world.time.count("gave up")
            self._finish(operation)
            return None
        leaders = world.leaders()
        if not world.working and leaders:  # after the healing: not again and again at a removed node
            return leaders[0]
        if self._node not in [node.name for node in running] or self._rng.random() < 0.3:
            self._node = self._rng.choice(running).name
        return world.nodes[str(self._node)]

    def write(self, operation: Operation, kind: str, *, automatic: bool) -> None:
        """One attempt to change the client's own counter, or the shared one."""
        node = self._choose(operation)
        if node is None:
            return
        time, settled = self._world.time, False
        proposals: list[Proposal] = []
        name = "shared" if operation.attempts == 1 and self._rng.random() < 0.3 else f"of-{self.name}"

        def again() -> None:
            nonlocal settled
            if not settled and not operation.finished:
                settled = True
                delay = self._rng.choice((0.0, 0.05, 0.3))
                time.later(delay, lambda: self.write(operation, kind, automatic=automatic))

        def done(result: Any, error: CyoloctlError | None) -> None:
            nonlocal settled
            if error is not None:
                again()
                return
            settled = True
            self._answered(node, operation, json.loads(result), automatic=automatic)

        def propose() -> None:
            if node.replica is None:
                return
            if operation.command is None or not automatic:
                operation.command = self._command(operation, kind, name, automatic=automatic)
            proposals.append(node.replica.propose(operation.command, done))

        def expire() -> None:
            if not settled:
                for proposal in proposals:
                    proposal.cancelled = True
                again()

        node.put(node.life, propose)
        time.later(self._rng.choice((0.3, 1.0, 3.0)), expire)

    def _command(self, operation: Operation, kind: str, name: str, *, automatic: bool) -> bytes:
        """The command of an operation: the same bytes at every attempt."""
        if operation.command is not None:
            name = _counter_of(operation.command)
        arguments: dict[str, Any] = {"name": name}
        if kind == "add":
            arguments["by"] = 1 + len(operation.request_id)
        return encode_command(
            "counter",
            kind,
            arguments,
            request_id=operation.request_id,
            kind="node" if automatic else "client",
            caller=self.name,
        )

    def _answered(self, node: Node, operation: Operation, answer: dict[str, Any], *, automatic: bool) -> None:
        time = self._world.time
        if "error" in answer:
            if not (automatic and answer["error"]["code"] == "outcome_unknown"):
                time.fail("acknowledgement", f"{operation.request_id} was refused: {answer}")
            time.count("refused as too old")
        elif operation.command is not None:
            self._world.invariants.acknowledged(node, operation.command, answer, operation.floor)
            self._load.operations += 1
            time.count("write")
        self._finish(operation)

    def _read(self, operation: Operation) -> None:
        node = self._choose(operation)
        if node is None:
            return
        world, life = self._world, node.life
        requests: list[ReadRequest] = []
        name = "shared" if self._rng.random() < 0.5 else f"of-{self.name}"

        def done(index: Any, error: CyoloctlError | None) -> None:
            if node.replica is not None and node.life == life and error is None:
                applied = node.replica.applied_index()
                world.invariants.read(node, applied, operation.floor, name, node.state.counters.get(name))
                self._load.operations += 1
                world.time.count("read")
            self._finish(operation)

        def expire() -> None:
            for request in requests:
                request.cancelled = True
            if not operation.finished:
                self._finish(operation)

        def ask() -> None:
            if node.replica is not None:
                requests.append(node.replica.read(done))

        node.put(life, ask)
        world.time.later(self._rng.choice((0.5, 2.0)), expire)


def _counter_of(command: bytes) -> str:
    """The counter that a command changes."""
    name: str = json.loads(command[1:])[2]["name"]
    return name
