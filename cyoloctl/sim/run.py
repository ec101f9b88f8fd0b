"""One run: a cluster, clients, faults, and healing, all from one seed."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cyoloctl.errors import CyoloctlError
from cyoloctl.raft.journal import Entry
from cyoloctl.raft.proposals import Proposal
from cyoloctl.raft.reads import ReadRequest
from cyoloctl.raft.settings import Limits
from cyoloctl.raft.vendor import NO_OP, encode_membership
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, encode_command
from cyoloctl.sim.world import Node, World

__all__ = ["FAULTS", "Report", "Violation", "run_seed"]

#: Kinds of faults and how often each is chosen beside the others.
FAULTS: dict[str, int] = {
    "crash": 6,
    "disk": 3,
    "partition": 5,
    "slow": 3,
    "drop": 5,
    "pause": 3,
    "clock": 4,
    "membership": 5,
    "transfer": 3,
    "compaction": 2,
}

_KEY = "A" * 43 + "="
_JOINER = {
    "address": "simulated:1",
    "public_key": _KEY,
    "request_sha256": "f" * 64,
    "sealing_key": _KEY,
}
_WRONG_MS = (
    *(-2_000, 2_000, -600_000, 600_000, 20 * 60_000, -3 * 3_600_000),
    *(9 * 86_400_000, -9 * 86_400_000, 400 * 86_400_000, -400 * 86_400_000),
)
"""By how much a wall clock is off, among others."""

_SECONDS = 8.0
_PEACE_S = 12.0
_SETTLE_S = 40.0
_JOINERS = 4


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that broke.  at_s: simulated time.  trace: the events before it, oldest first."""

    seed: int
    kind: str
    at_s: float
    claim: str
    trace: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run went through.

    operations: of clients, answered.  faults: injected, by kind.  counts: what
    they led to, for tests and the curious.
    """

    seed: int
    operations: int
    faults: dict[str, int]
    counts: dict[str, int]
    violation: Violation | None
    simulated_s: float = field(default=0.0)


class _Operation:
    """What a client wants, across all its attempts."""

    def __init__(self, client: _Client, number: int, floor: int) -> None:
        self.client = client
        self.request_id = f"{client.name}-{number}"
        self.floor = floor
        self.attempts = 0
        self.finished = False
        self.command: bytes | None = None


class _Client:
    """One caller, one operation at a time; an unknown outcome is retried with the same request id."""

    def __init__(self, run: _Run, name: str) -> None:
        self.run, self.name = run, name
        self.random = run.random
        self.number = 0
        self.node: str | None = None
        self.reads = run.random.choice((0.2, 0.4, 0.95))  # share of its operations

    def next(self) -> None:
        run = self.run
        if not run.working:
            return
        self.number += 1
        operation = _Operation(self, self.number, run.world.invariants.observed)
        if self.random.random() < self.reads:
            self._read(operation)
        else:
            kind = "reset" if self.random.random() < 0.05 else "add"
            self.write(operation, kind, automatic=self.random.random() < 0.25)

    def _finish(self, operation: _Operation) -> None:
        if not operation.finished:
            operation.finished = True
            self.run.world.at(self.run.world.now + self.random.expovariate(1 / self.run.think_s), self.next)

    def _choose(self, operation: _Operation) -> Node | None:
        running = self.run.world.running()
        operation.attempts += 1
        if operation.attempts > self.run.max_attempts or not running:
            self.run.world.count("gave up")
            self._finish(operation)
            return None
        leaders = self.run.world.leaders()
        if not self.run.working and leaders:  # after the healing: not for ever at a node that was removed
            return leaders[0]
        if self.node not in [node.name for node in running] or self.random.random() < 0.3:
            self.node = self.random.choice(running).name
        return self.run.world.nodes[str(self.node)]

    def write(self, operation: _Operation, kind: str, *, automatic: bool) -> None:
        """One attempt to change the own counter, or the shared one."""
        node = self._choose(operation)
        if node is None:
            return
        world, life = self.run.world, node.life
        settled = False
        proposals: list[Proposal] = []
        name = "shared" if operation.attempts == 1 and self.random.random() < 0.3 else f"of-{self.name}"

        def again() -> None:
            nonlocal settled
            if not settled and not operation.finished:
                settled = True
                delay = self.random.choice((0.0, 0.05, 0.3))
                world.at(world.now + delay, lambda: self.write(operation, kind, automatic=automatic))

        def done(result: Any, error: CyoloctlError | None) -> None:
            nonlocal settled
            if error is not None:
                again()
                return
            answer = json.loads(result)
            settled = True
            if "error" in answer:
                if not (automatic and answer["error"]["code"] == "outcome_unknown"):
                    world.fail("acknowledgement", f"{operation.request_id} was refused: {answer}")
                world.count("refused as too old")
            elif operation.command is not None:
                world.invariants.acknowledged(node, operation.command, answer, operation.floor)
                self.run.operations += 1
                world.count("write")
            self._finish(operation)

        def propose() -> None:
            if node.replica is None:
                return
            if operation.command is None or not automatic:
                # The same bytes at every attempt.
                arguments: dict[str, Any] = {"name": name}
                if operation.command is not None:
                    arguments["name"] = operation_name(operation.command)
                if kind == "add":
                    arguments["by"] = 1 + len(operation.request_id)
                operation.command = encode_command(
                    "counter",
                    kind,
                    arguments,
                    request_id=operation.request_id,
                    kind="node" if automatic else "client",
                    caller=self.name,
                )
            proposals.append(node.replica.propose(operation.command, done))

        def expire() -> None:
            if not settled:
                for proposal in proposals:
                    proposal.cancelled = True
                again()

        node.put(life, propose)
        world.at(world.now + self.random.choice((0.3, 1.0, 3.0)), expire)

    def _read(self, operation: _Operation) -> None:
        node = self._choose(operation)
        if node is None:
            return
        world, life = self.run.world, node.life
        requests: list[ReadRequest] = []
        name = "shared" if self.random.random() < 0.5 else f"of-{self.name}"

        def done(index: Any, error: CyoloctlError | None) -> None:
            if node.replica is not None and node.life == life and error is None:
                applied = node.replica.applied_index()
                world.invariants.read(node, applied, operation.floor, name, node.composite.counters.get(name))
                self.run.operations += 1
                world.count("read")
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
        world.at(world.now + self.random.choice((0.5, 2.0)), expire)


def operation_name(command: bytes) -> str:
    """The counter that a command changes."""
    name: str = json.loads(command[1:])[2]["name"]
    return name


class _Run:
    """A cluster under faults."""

    def __init__(self, seed: int, faults: tuple[str, ...], nodes: int | None, *, late: bool) -> None:
        self.seed, self.faults = seed, faults
        self.random = random.Random(f"{seed} run")
        chance = self.random
        limits = Limits(
            batch_bytes=chance.choice((200, 2000, 2**20)),
            window_bytes=chance.choice((500, 5000, 2**23)),
            chunk_bytes=chance.choice((700, 5000, 2**18)),
            compact_entries=chance.choice((10, 30, 90)) if "compaction" in faults else 10_000,
            keep_entries=chance.choice((0, 3, 20)) if "compaction" in faults else 1000,
            promote_lag=chance.choice((4, 64)),
        )
        unsent_bytes = chance.choice((2000, 2**26, 2**26, 2**26))
        self.world = World(seed, limits=limits, late=late, unsent_bytes=unsent_bytes)
        self.injected: dict[str, int] = dict.fromkeys(faults, 0)
        self.operations = 0
        self.working = True
        self.max_attempts = chance.choice((2, 6))
        self.think_s = chance.choice((0.02, 0.1, 0.4))
        self.fault_s = chance.choice((0.12, 0.4, 1.2))
        self.joined = self.recorded = 0
        self.world.monotonic_faults = "clock" in faults and chance.random() < 0.4
        size = nodes or chance.choice((1, 2, 3, 3, 3, 3, 5, 5))
        names = [f"n{number}" for number in range(1, size + 1)]
        # As create_storage begins a log, and as if the others had joined at once.
        log: list[Entry] = [(NO_OP, 1, 0)]
        log += [(encode_membership("add", name), 2 + i, 0) for i, name in enumerate(names)]
        for name in names:
            self.world.add_node(name, log)
        if "clock" in faults and chance.random() < 0.5:
            self._wrong_wall(self.world.nodes[chance.choice(names)])

    # Time.

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        self.world.at(self.world.now + seconds, call)

    def _tell(self, text: str, *values: object) -> None:
        self.world.log(text, *values)

    # Whom it hits.

    def _victim(self) -> Node | None:
        leaders, running = self.world.leaders(), self.world.running()
        if leaders and self.random.random() < 0.4:
            return self.random.choice(leaders)
        return self.random.choice(running) if running else None

    def _names(self) -> list[str]:
        return sorted(self.world.nodes)

    # Faults.  Each ends by itself.

    def fault(self) -> None:
        if not self.working:
            return
        weights = [FAULTS[name] for name in self.faults]
        name = self.random.choices(self.faults, weights)[0]
        if getattr(self, f"_{name}")():
            self.injected[name] += 1
        self.later(self.random.expovariate(1 / self.fault_s), self.fault)

    def _crash(self) -> bool:
        node = self._victim()
        if node is None:
            return False
        how = self.random.random()
        if how < 0.5:
            node.fuse = self.random.choice((1, 2, 3, 4, 5, 6, 8, 12, 25))
            self._tell("%s will die within %d steps", node.name, node.fuse)
        elif how < 0.6:
            self._tell("%s is stopped", node.name)
            node.quit()
        elif how < 0.92:
            node.crash(power=how < 0.75)
        else:
            for other in self.world.running():
                other.crash(power=how < 0.97)
        return True

    def _disk(self) -> bool:
        node = self._victim()
        if node is None:
            return False
        disk, how = node.disk, self.random.randrange(3)
        if how == 0:
            disk.fail_sync = True
            self._tell("the next sync of %s fails", node.name)
        elif how == 1:
            disk.full = True
            self._tell("the disk of %s is full", node.name)

            def freed() -> None:
                disk.full = False

            self.later(self.random.uniform(0.1, 2.0), freed)
        else:
            before = disk.sync_s
            disk.sync_s = (0.005, self.random.choice((0.02, 0.2, 0.7)))
            self._tell("the disk of %s is slow", node.name)

            def fast() -> None:
                disk.sync_s = before

            self.later(self.random.uniform(0.2, 2.0), fast)
        return True

    def _partition(self) -> bool:
        names = self._names()
        if len(names) < 2:
            return False
        how = self.random.randrange(5)
        leaders = [node.name for node in self.world.leaders()]
        group = self.random.sample(names, self.random.randrange(1, len(names)))
        if how >= 2 and leaders:
            group = leaders[:1]
        others = [name for name in names if name not in group]
        links: list[tuple[str, str]] = []
        if how != 3:  # 3: the leader is heard and hears nothing
            links += [(a, b) for a in group for b in others]
        if how != 4:  # 4: the leader hears and is not heard
            links += [(b, a) for a in group for b in others]
        if how == 1:  # one link alone, one way
            links = [self.random.choice(links)]
        for source, target in links:
            self.world.network.block(source, target, +1)
        self._tell("cut off: %s", links)

        def heal() -> None:
            for source, target in links:
                self.world.network.block(source, target, -1)
            self._tell("healed: %s", links)

        self.later(self.random.choice((0.2, 0.8, 2.0, 5.0)), heal)
        return True

    def _slow(self) -> bool:
        names = self._names()
        if len(names) < 2:
            return False
        slow = self.world.network.slow
        delay = self.random.choice(((0.0, 0.0), (0.01, 0.03), (0.02, 0.2), (0.0, 0.5)))
        everywhere = self.random.random() < 0.4
        links = [(a, b) for a in names for b in names if a != b]
        links = links if everywhere else [self.random.choice(links)]
        for link in links:
            slow[link] = delay
        self._tell("delays of %s s on %s", delay, "all links" if everywhere else links)

        def heal() -> None:
            for link in links:
                slow.pop(link, None)

        self.later(self.random.uniform(0.3, 3.0), heal)
        return True

    def _drop(self) -> bool:
        nodes = [node for node in self.world.running() if node.links.peers()]
        if not nodes:
            return False
        node = self.random.choice(nodes)
        peers = sorted(node.links.peers())
        for peer in peers if self.random.random() < 0.3 else [self.random.choice(peers)]:
            self._tell("the connection of %s and %s breaks", node.name, peer)
            self.world.network.drop(node, self.world.nodes[peer])
        return True

    def _pause(self) -> bool:
        node = self._victim()
        if node is None:
            return False
        node.pause(self.random.choice((0.05, 0.4, 1.2, 2.5)))
        self._tell("%s is paused until %.3f", node.name, node.paused_until)
        return True

    def _clock(self) -> bool:
        """Wall clocks of any minority are wrong in any way; in some runs monotonic clocks are, too."""
        if self.world.monotonic_faults and self.random.random() < 0.5:
            node = self._victim()
            if node is None:
                return False
            if self.random.random() < 0.5:
                node.set_clock(rate=self.random.choice((0.5, 0.9, 1.0, 1.1, 2.0)), leap_s=0.0)
            else:
                node.set_clock(rate=1.0, leap_s=self.random.choice((0.3, 1.0, 30.0)))
            self._tell("the monotonic clock of %s", node.name)
            return True
        if self.random.random() < 0.15:
            return self._sleep()
        nodes = [node for node in self.world.nodes.values() if node.wall_is_wrong()]
        if not nodes or self.random.random() < 0.7:
            nodes = list(self.world.nodes.values())
        node = self.random.choice(nodes)
        if node.wall_is_wrong() and self.random.random() < 0.3:
            node.set_wall(None)
        elif not self._wrong_wall(node):
            return False
        self._tell("the wall clock of %s shows %d", node.name, node.wall_unix_ms())
        if self.random.random() < 0.2 and node.replica is not None:
            node.crash(power=True)  # a machine that starts with a wrong clock
        return True

    def _wrong_wall(self, node: Node) -> bool:
        if not self._may_be_wrong(node.name):
            return False
        rate = self.random.choice((1.0, 1.0, 0.1, 0.5, 2.0, 10.0))
        shown = self.world.true_unix_ms() + self.random.choice(_WRONG_MS)
        node.set_wall(
            self.random.choice((0.0, 5_000.0, 2.0**53)) if self.random.random() < 0.1 else shown, rate
        )
        return True

    def _may_be_wrong(self, name: str) -> bool:
        """Whether the wrong clocks stay a minority of the voters, in every configuration that is in force."""
        wrong = {node.name for node in self.world.nodes.values() if node.wall_is_believed_wrong()} | {name}
        return self._is_minority(wrong, 0)

    def _is_minority(self, wrong: set[str], fewer: int) -> bool:
        running = self.world.running()
        configurations = [set(self.world.invariants.voter_names())]
        for node in running:
            assert node.replica is not None
            configurations.append(set(node.replica.voter_names()))
        if not running:
            return not wrong  # a change may wait in a log that nobody has read yet
        return all(
            2 * len(wrong & voters) < len(voters) - fewer or not wrong & voters for voters in configurations
        )

    def _heal_clocks(self) -> None:
        for node in self.world.nodes.values():
            if node.wall_is_wrong():
                node.set_wall(None)

    def _sleep(self) -> bool:
        """All machines stop; hours or days later they start again."""
        if not self.world.running():
            return False
        for node in self.world.running():
            node.crash(power=True)
        self.world.slept_ms += self.random.choice((60_000, 8 * 3_600_000, 3 * 86_400_000))
        self._tell("everybody sleeps; the time of day is %d now", self.world.true_unix_ms())
        self.world.count("slept")
        return True

    def _membership(self) -> bool:
        what = self.random.choice(("join", "add", "add", "add", "demote", "remove"))
        if what == "join":
            if self.joined >= _JOINERS:
                return False
            self.joined += 1
            name, memory = f"x{self.joined}", self.random.random() < 0.5
            self._tell("%s joins%s", name, ", its log in memory" if memory else "")
            self.world.add_node(name, [(NO_OP, 1, 0)], memory=memory)
            self.world.count("join")
            if not memory and self.random.random() < 0.7:
                self.later(0.5, lambda: self._promote(name))
            return True
        leaders = self.world.leaders()
        if not leaders:
            return False
        leader = self.random.choice(leaders)
        assert leader.replica is not None
        status = leader.replica.status()
        others = [name for name in status.voters if name != leader.raft_id and "~" not in name]
        if what == "add":
            targets = list(status.learners)
        elif what == "demote":
            targets = others
        else:
            targets = [*others, *(name for name in status.learners if "~" not in name)]
        if not targets:
            return False
        self._change(leader, what, self.random.choice(targets))
        return True

    def _promote(self, name: str) -> None:
        """As the service does: ask until the joiner is a voter."""
        if not self.working:
            return
        for leader in self.world.leaders():
            assert leader.replica is not None
            status = leader.replica.status()
            if name in status.voters or name in status.removed:
                return
            self._change(leader, "add", name)
        self.later(0.5, lambda: self._promote(name))

    def _renew(self) -> None:
        """As the service does: a member in memory is promoted under its new raft id, its old one removed."""
        current = {node.raft_id for node in self.world.nodes.values()}
        for leader in self.world.leaders():
            assert leader.replica is not None
            status = leader.replica.status()
            targets = [(name, "add") for name in status.learners if "~" in name and name in current]
            targets += [(name, "remove") for name in status.voters if "~" in name and name not in current]
            if targets:
                name, what = self.random.choice(targets)
                self._change(leader, what, name)
        self.later(0.3, self._renew)

    def _change(self, leader: Node, what: str, target: str) -> None:
        """Ask a leader for a change of the configuration."""

        def done(index: Any, error: CyoloctlError | None) -> None:
            if error is None:
                self.world.invariants.acknowledged_change(leader, index)
                self.world.count(f"{what} in memory" if "~" in target else what)
                self._tell("%s of %s took place at %s", what, target, index)

        wrong = {node.name for node in self.world.nodes.values() if node.wall_is_believed_wrong()}
        if not self._is_minority(wrong, 1):
            self._heal_clocks()  # the voters may become fewer: the wrong ones must stay a minority

        def ask() -> None:
            if leader.replica is not None:
                voters = leader.replica.status().voters
                in_memory = sum("~" in name for name in voters) + (what == "add" and "~" in target)
                on_disk = len(voters) - sum("~" in name for name in voters)
                on_disk -= what != "add" and target in voters and "~" not in target
                if in_memory >= on_disk and in_memory:
                    return  # a crash of all of them would be the end of the cluster, as it must be
                change = {
                    "add": leader.replica.add_voter,
                    "demote": leader.replica.demote,
                    "remove": leader.replica.remove,
                }[what]
                change(target, done)

        self._tell("%s is asked to %s %s", leader.name, what, target)
        leader.put(leader.life, ask)

    def _transfer(self) -> bool:
        leaders = self.world.leaders()
        if not leaders:
            return False
        leader = self.random.choice(leaders)

        def done(new: Any, error: CyoloctlError | None) -> None:
            if error is None:
                self.world.count("transfer")

        def ask() -> None:
            if leader.replica is not None:
                leader.replica.transfer_leadership(None, done)

        self._tell("%s hands leadership over", leader.name)
        leader.put(leader.life, ask)
        return True

    def _compaction(self) -> bool:
        node = self._victim()
        if node is None:
            return False

        def compact() -> None:
            if node.replica is not None:
                node.replica.maybe_compact(force=True)

        node.put(node.life, compact)
        return True

    # What the nodes write beside the clients' counters.

    def _record(self) -> None:
        """A node writes about members, once; some of it is refused, and that by every node alike."""
        if not self.working:
            return
        self.recorded += 1
        self.later(self.random.expovariate(3.0), self._record)
        running = self.world.running()
        if not running:
            return
        node, request_id = self.random.choice(running), f"record-{self.recorded}"
        life, floor = node.life, self.world.invariants.observed
        name = f"m{self.random.randrange(6)}"
        operation, arguments = self.random.choice(
            (
                (
                    "issue_invitation",
                    {
                        "name": name,
                        "learner": self.random.randrange(7) == 0,
                        "public_key": _KEY,
                        "expires_unix_ms": MAX_TIME_UNIX_MS,
                    },
                ),
                ("uninvite", {"name": name}),
                ("remove", {"name": name})
                if self.random.random() < 0.2
                else ("admit", {**_JOINER, "name": name, "raft_id": name, "key_hash": name[1] * 64}),
            )
        )

        def propose() -> None:
            if node.replica is not None:
                command = encode_command("members", operation, arguments, request_id=request_id, kind="node")

                def done(result: Any, error: CyoloctlError | None) -> None:
                    answer = {} if error is not None else json.loads(result)
                    code = answer.get("error", {}).get("code")
                    if code == "access_denied":
                        self.world.count("record of a learner refused")
                    elif error is None and code != "outcome_unknown":
                        self.world.invariants.acknowledged(node, command, answer, floor)
                        self.world.count("record" if code is None else "record refused")

                node.replica.propose(command, done)

        node.put(life, propose)

    # What a node asks another one, beside Raft.

    def _call(self) -> None:
        running = self.world.running()
        if running:
            node, peer = self.random.choice(running), self.random.choice(self._names())
            node.put(node.life, lambda: node.ask(peer))
        if self.working:
            self.later(self.random.expovariate(10.0), self._call)

    # The run.

    def run(self) -> Report:
        world = self.world
        for number in range(self.random.choice((2, 4, 8))):
            client = _Client(self, f"c{number}")
            self.later(0.3 + 0.05 * number, client.next)
        self.later(0.5, self._record)
        self.later(0.5, self._call)
        self.later(0.5, self._renew)
        if self.faults:
            self.later(0.5 + self.random.expovariate(1 / self.fault_s), self.fault)
        world.run_until(_SECONDS)
        if world.broken is None:
            self._settle()
        violation = None
        if world.broken is not None:
            kind, claim = world.broken
            violation = Violation(self.seed, kind, round(world.now, 6), claim, self._lines())
        faults = {name: count for name, count in self.injected.items() if count}
        return Report(self.seed, self.operations, faults, dict(world.counts), violation, round(world.now, 6))

    def _settle(self) -> None:
        """Every fault ends; the cluster must become one again, and serve, within a bound."""
        world = self.world
        self.working = False
        self._tell("everything heals")
        for key in list(world.network.cut):
            world.network.cut[key] = 0
        world.network.slow.clear()
        world.network.wake()
        for node in world.nodes.values():
            node.fuse = None
            node.disk.full = node.disk.fail_sync = False
            node.disk.sync_s = (0.0001, 0.0005)
            node.set_clock(rate=1.0, leap_s=0.0)
            node.paused_until = 0.0
            if node.replica is None:
                node.start_later(0.0)
            else:
                node.wake(world.now)
        end = world.now + _SETTLE_S
        last: _Operation | None = None
        while world.now < end and world.broken is None:
            world.run_until(world.now + 0.25)
            if self._converged():
                if last is None:
                    self.max_attempts = 1000
                    client = _Client(self, "last")
                    last = _Operation(client, 1, world.invariants.observed)
                    client.write(last, "add", automatic=False)
                elif last.finished:
                    world.count("converged")
                    wrong = {node.name for node in world.nodes.values() if node.wall_is_wrong()}
                    # Of some runs: peace is dull, and takes as long as the rest.
                    looked_at = self.injected.get("clock", 0) and (self.seed % 3 == 0 or world.slept_ms)
                    if looked_at and self._is_minority(wrong, 0):
                        world.run_until(world.now + _PEACE_S)
                        world.invariants.check_clocks_agree()
                    return
        if world.broken is None:
            state = "; ".join(self._states())
            world.fail("convergence", f"no convergence within {_SETTLE_S:g} s: {state}")

    def _converged(self) -> bool:
        leaders = self.world.leaders()
        if len(leaders) != 1 or leaders[0].replica is None:
            return False
        status = leaders[0].replica.status()
        for node in self.world.nodes.values():
            if node.raft_id in status.removed:
                continue
            if node.replica is None:
                return False
            other = node.replica.status()
            if (other.applied_index, other.leader, other.voters) != (
                status.last_index,
                status.raft_id,
                status.voters,
            ):
                return False
        members = [node for node in self.world.nodes.values() if node.raft_id not in status.removed]
        digests = {node.composite.digest() for node in members}
        if len(digests) != 1:
            self.world.fail("state machine safety", "nodes with the same applied index differ")
        return True

    def _states(self) -> Iterator[str]:
        for name, node in sorted(self.world.nodes.items()):
            yield f"{name} down" if node.replica is None else str(node.replica.status())

    def _lines(self) -> tuple[str, ...]:
        lines = [f"{at:9.4f}  {text % values if values else text}" for at, text, values in self.world.trace]
        return (*lines, *self._states())


@contextmanager
def _quiet() -> Iterator[None]:
    """What nodes log about simulated disasters is nobody's news."""
    loggers = [logging.getLogger(name) for name in ("cyoloctl.raft", "cyoloctl.peer", "pysyncobj.syncobj")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def run_seed(
    seed: int, *, faults: tuple[str, ...] = tuple(FAULTS), nodes: int | None = None, late: bool = False
) -> Report:
    """One run; the same arguments give the same report, on every machine.

    faults: of `FAULTS`; none: a cluster in peace.  nodes: voters at the start,
    1 to 9; None: by the seed.  late: messages of ended links are delivered,
    which the real links rule out.
    """
    with _quiet():
        return _Run(seed, faults, nodes, late=late).run()
