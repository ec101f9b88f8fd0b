"""The workload: clients of all machines, and what nodes write and ask on their own."""

from __future__ import annotations

import json
import random
from collections import deque
from typing import Any

from cyoloctl.errors import CyoloctlError
from cyoloctl.raft.proposals import Proposal
from cyoloctl.raft.reads import ReadRequest
from cyoloctl.replicated.command import encode_command, operation_of
from cyoloctl.sim.model import code_of
from cyoloctl.sim.node import Node
from cyoloctl.sim.operations import OF_NODES, Step, draw
from cyoloctl.sim.own_machine import OwnDraws
from cyoloctl.sim.releases import is_newer
from cyoloctl.sim.scene import Scene
from cyoloctl.sim.told import Attempt
from cyoloctl.sim.world import World

__all__ = ["Client", "Operation", "Workload"]

_ASKED_ABOUT = 20  # operations of a client that it may ask about again


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
        self._crowd = world.invariants.bounds.crowd()
        self.witnesses: random.Random | None = None
        """See `Scene`."""
        self.lockers: random.Random | None = None
        """See `Scene`."""
        self.keepers: random.Random | None = None
        """See `Scene`."""
        self.own: OwnDraws | None = None
        """What is proposed to a machine of a user's; None: there is none."""

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
        """A node writes, once; every node refuses the same part of it."""
        world = self.world
        if not world.working:
            return
        self._recorded += 1
        world.time.later(self.rng.expovariate(6.0), self._record)
        running = world.running()
        if not running:
            return
        node, request_id = self.rng.choice(running), f"record-{self._recorded}"
        floor = world.invariants.observed
        attempt = world.invariants.told.asked(request_id)

        def propose() -> None:
            if node.replica is not None:
                machine, operation, arguments = self.draw(node)
                command = encode_command(machine, operation, arguments, request_id=request_id, kind="node")
                if self.cannot_propose(node, command, attempt):
                    return

                def done(result: Any, error: CyoloctlError | None) -> None:
                    if error is not None:
                        attempt.failed(error)
                        return
                    answer = json.loads(result)
                    if not self.never_logged(attempt, answer) and code_of(answer) != "outcome_unknown":
                        world.invariants.acknowledged(node, command, answer, floor)
                        world.time.count("record" if code_of(answer) is None else "record refused")

                node.replica.propose(command, done)

        node.put(node.life, propose)

    def draw(self, node: Node) -> Step:
        """A random operation of some machine, for a node to propose.

        The records of those that run are theirs and the leader's to write, as in a real cluster.
        """
        own = None if self.own is None else self.own.step()
        if own is not None:
            return own
        world, time = self.world, self.world.time
        scene = Scene(
            self.rng,
            node.name,
            node.state,
            time.true_unix_ms(),
            far=time.monotonic_faults,
            nodes=world.nodes.keys(),
            crowd=self._crowd,
            witnesses=self.witnesses,
            lockers=self.lockers,
            keepers=self.keepers,
        )
        while True:
            machine, operation, arguments = step = draw(scene)
            if (machine, operation) not in OF_NODES:
                return step
            if arguments["name"] not in world.nodes and node.state.members.members():
                return step

    def never_logged(self, attempt: Attempt, answer: dict[str, Any]) -> bool:
        """Whether a leader refused to log a peer's command; nothing is known of it to be applied then."""
        code = code_of(answer)
        if code not in ("access_denied", "version_mismatch") or answer["index"] != 0:
            return False
        attempt.refused(code)
        denied = code == "access_denied"
        self.world.time.count("not for this node to propose" if denied else "unknown to an older leader")
        return True

    def cannot_propose(self, node: Node, command: bytes, attempt: Attempt) -> bool:
        """Whether its release lacks this operation, or the level is too low: nothing is logged then."""
        lacks, found = node.older and is_newer(command), operation_of(command)
        early = found is not None and node.state.levels.why_refused(*found) is not None
        if not (lacks or early):
            return False
        attempt.refused("version_mismatch")
        self.world.time.count("unknown to its own release" if lacks else "above the level")
        return True

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
    command: None before the first attempt.  kind: whose request id it is.
    drawn: of any machine; otherwise the client changes a counter.
    """

    def __init__(self, client: Client, number: int, floor: int) -> None:
        self.client = client
        self.request_id = f"{client.name}-{number}"
        self.floor = floor
        self.attempts = 0
        self.finished = False
        self.command: bytes | None = None
        self.kind = "client"
        self.drawn = False


class Client:
    """One caller, with one operation at a time.  It retries an unknown outcome with the same request id."""

    def __init__(self, load: Workload, name: str) -> None:
        self.name = name
        self._load, self._world, self._rng = load, load.world, load.rng
        self._number = 0
        self._node: str | None = None
        self._reads = load.rng.choice((0.2, 0.4, 0.95))  # share of its operations
        self._done: deque[Operation] = deque(maxlen=_ASKED_ABOUT)

    def next(self) -> None:
        """Begin the next operation."""
        if not self._world.working:
            return
        self._number += 1
        operation = Operation(self, self._number, self._world.invariants.observed)
        if self._rng.random() < self._reads:
            self._read(operation)
            return
        kind = "reset" if self._rng.random() < 0.05 else "add"
        if self._done and self._rng.random() < 0.06:
            self._ask_again(operation, self._rng.choice(self._done))
        operation.drawn = self._rng.random() < 0.5
        if operation.drawn and self._rng.random() < 0.3:
            operation.kind = "browser"
        self.write(operation, kind, automatic=self._rng.random() < 0.25)

    def _ask_again(self, operation: Operation, earlier: Operation) -> None:
        """Ask with the id of an earlier operation; half the time for what that one was."""
        operation.request_id, operation.floor, operation.kind = earlier.request_id, -1, earlier.kind
        self._world.time.count("asked again")
        if self._rng.random() < 0.5:
            operation.command = earlier.command

    def _finish(self, operation: Operation) -> None:
        if not operation.finished:
            operation.finished = True
            if operation.command is not None:
                self._done.append(operation)
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
        """One attempt to change the client's own counter, or the shared one, or anything else."""
        node = self._choose(operation)
        if node is None:
            return
        time, settled, life = self._world.time, False, node.life
        proposals: list[Proposal] = []
        attempt = self._world.invariants.told.asked(operation.request_id)
        timeout_s = self._rng.choice((0.3, 1.0, 3.0))

        def again() -> None:
            nonlocal settled
            if not settled and not operation.finished:
                settled = True
                delay = self._rng.choice((0.0, 0.05, 0.3))
                time.later(delay, lambda: self.write(operation, kind, automatic=automatic))

        def done(result: Any, error: CyoloctlError | None) -> None:
            nonlocal settled
            if error is None:
                settled = True
                self._answered(node, operation, json.loads(result), attempt)
            elif attempt.failed(error) and self._world.working and self._rng.random() < 0.8:
                settled = True
                self._finish(operation)  # it knows that nothing happened, and wishes something else
            else:
                again()

        def propose() -> None:
            if node.replica is None:
                return
            if operation.command is None:
                operation.command = self._command(operation, node, kind, automatic=automatic)
            if self._load.cannot_propose(node, operation.command, attempt):
                self._finish(operation)
                return
            proposals.append(node.replica.propose(operation.command, done))

        def expire() -> None:
            if settled:
                return
            if proposals and node.life == life and node.replica is not None and self._rng.random() < 0.7:
                proposals[0].give_up(node.replica.leader(), timeout_s)
            for proposal in proposals:  # as when the caller's connection broke: nobody is told anything
                proposal.cancelled = True
            again()

        node.put(life, propose)
        time.later(timeout_s, expire)

    def _command(self, operation: Operation, node: Node, kind: str, *, automatic: bool) -> bytes:
        """The command of an operation: the same bytes at every attempt."""
        machine, arguments = "counter", dict[str, Any]()
        if operation.drawn:
            machine, kind, arguments = self._load.draw(node)
        else:
            arguments["name"] = "shared" if self._rng.random() < 0.3 else f"of-{self.name}"
            if kind == "add":
                arguments["by"] = 1 + len(operation.request_id)
        if automatic:
            operation.kind = "node"
        return encode_command(
            machine,
            kind,
            arguments,
            request_id=operation.request_id,
            kind=operation.kind,
            caller=self.name,
        )

    def _answered(self, node: Node, operation: Operation, answer: dict[str, Any], attempt: Attempt) -> None:
        time, code = self._world.time, code_of(answer)
        if code == "outcome_unknown":
            time.count("refused as too old")
        elif operation.command is not None and not self._load.never_logged(attempt, answer):
            self._world.invariants.acknowledged(node, operation.command, answer, operation.floor)
            self._load.operations += 1
            time.count("write" if code is None else "write refused")
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
