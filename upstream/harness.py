"""Virtual time and an in-memory network around pysyncobj as released, for the reproductions beside this file.

Needs pysyncobj and the standard library, nothing else.  No socket, no thread, no sleep: a story moves the
clock, ticks nodes, delivers messages in the order in which they were sent (as TCP does), breaks connections
with what was in flight, stalls one direction, kills processes and starts them again.  Time and election
timeouts are the only things that are replaced inside pysyncobj (``monotonicTime`` and ``random`` of
``pysyncobj.syncobj``); journals, dumps and the whole of Raft are its own.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import random
import sys
import tempfile
from collections import defaultdict, deque
from pathlib import Path

import pysyncobj.syncobj as engine
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

logging.disable(logging.CRITICAL)  # pysyncobj logs the damage; the verdict says it


def verdict(fault: bool, broken: str, sound: str = "as expected") -> None:
    """Ends the reproduction: exit status 1 when the fault shows, 0 when it does not."""
    print(f"FAULT: {broken}" if fault else f"no fault: {sound}")
    sys.exit(1 if fault else 0)


def temporary_directory() -> Path:
    """For journals and dumps; removed at exit."""
    directory = tempfile.TemporaryDirectory(prefix="pysyncobj-")
    temporary_directory.kept.append(directory)
    return Path(directory.name)


temporary_directory.kept = []


class Items(SyncObj):
    """The replicated state: a list."""

    def __init__(self, name, others, conf, transport):
        others = [Node(other) for other in others]
        super().__init__(Node(name), others, conf=conf, nodeClass=Node, transport=transport)
        self.items = []

    @replicated
    def append(self, item):
        self.items.append(item)
        return len(self.items)


class Answer:
    """A caller's answer to a command: none yet (`calls` is 0), a result, or an error."""

    def __init__(self, item):
        self.item, self.calls, self.result, self.error = item, 0, None, None

    def __call__(self, result, error):
        self.calls, self.result, self.error = self.calls + 1, result, error

    @property
    def ok(self):
        return self.calls > 0 and self.error == 0


class Wire(Transport):
    """Accepts whom TCPTransport accepts: the nodes of the configuration."""

    def __init__(self, cluster, name, peers):
        super().__init__(None, None, [])
        self.cluster, self.name, self.known = cluster, name, set(peers)

    def addNode(self, node):
        self.known.add(node.id)

    def dropNode(self, node):
        self.known.discard(node.id)
        self.cluster.disconnect(self.name, node.id)

    def send(self, node, message):
        return self.cluster.post(self.name, node.id, message)


class Luck(random.Random):
    """`random()` decides election timeouts: 10 is "does not campaign unless the story says so"."""

    patience = 10.0

    def random(self):
        return self.patience


class Cluster:
    """All names are node names.  With `directory`: pysyncobj's FileJournal and dump files there."""

    def __init__(self, names, directory=None, dump=True, **conf):
        self.now, self.clock_step = 1000.0, 2e-5
        self.names, self.directory, self.dump, self.conf = list(names), directory, dump, conf
        self.node_class, self.luck, self.boots = Items, {}, itertools.count(1)
        self.skew, self.nodes, self.wires, self.errors = defaultdict(float), {}, {}, defaultdict(list)
        self.sessions, self.cuts, self.held = set(), set(), set()
        self.queues, self.sent = defaultdict(deque), []
        for name in self.names:
            self.start(name, self.names)
        self.connect_all()

    # -- nodes --

    @contextlib.contextmanager
    def inside(self, name):
        """A call into a node: its clock and luck; what it raises is noted, as its own thread would log it."""

        def clock():
            self.now += self.clock_step
            return self.now + self.skew[name]

        before = engine.monotonicTime, engine.random
        engine.monotonicTime, engine.random = clock, self.luck[name]
        try:
            yield
        except Exception as error:
            self.errors[name].append(error)
        finally:
            engine.monotonicTime, engine.random = before

    def start(self, name, members):
        """`members` is what the node is configured with, itself included or not."""
        others = [member for member in members if member != name]
        settings = {"autoTick": False, "useFork": False, "dynamicMembershipChange": True, **self.conf}
        if self.directory:
            settings["journalFile"] = str(self.directory / f"{name}.journal")
            settings["fullDumpFile"] = str(self.directory / f"{name}.dump") if self.dump else None
        self.luck[name] = Luck(next(self.boots))
        self.wires[name] = Wire(self, name, others)
        with self.inside(name):
            self.nodes[name] = self.node_class(name, others, SyncObjConf(**settings), self.wires[name])
        self.tick(name)

    def join(self, leader, name):
        """A new node starts with all members, and the leader adds it."""
        self.names.append(name)
        self.start(name, {leader, name, *(node.id for node in self.nodes[leader].otherNodes)})
        added = self.member(leader, "add", name)
        self.run_until(lambda: added.ok)

    def kill(self, *names):
        for name in names:
            for peer in self.names:
                self.disconnect(name, peer)
            self.nodes.pop(name, None)

    def restart(self, *names, members=None):
        self.kill(*names)
        for name in names:
            self.start(name, members or self.names)
        self.connect_all()

    def tick(self, *names):
        for name in names or list(self.nodes):
            if name in self.nodes:
                with self.inside(name):
                    self.nodes[name].doTick(0.0)

    # -- network --

    def connect(self, a, b):
        pair = frozenset((a, b))
        if pair in self.sessions or pair in self.cuts or not {a, b} <= set(self.nodes):
            return
        if b in self.wires[a].known and a in self.wires[b].known:
            self.sessions.add(pair)
            for name, peer in ((a, b), (b, a)):
                with self.inside(name):
                    self.wires[name]._onNodeConnected(Node(peer))

    def connect_all(self):
        for a, b in itertools.combinations(self.names, 2):
            self.connect(a, b)

    def disconnect(self, a, b):
        """Break the connection; messages in flight both ways are lost."""
        if frozenset((a, b)) in self.sessions:
            self.sessions.discard(frozenset((a, b)))
            for name, peer in ((a, b), (b, a)):
                self.queues[name, peer].clear()
                if name in self.nodes:
                    with self.inside(name):
                        self.wires[name]._onNodeDisconnected(Node(peer))

    def reconnect(self, a, b):
        self.disconnect(a, b)
        self.connect(a, b)

    def isolate(self, *group):
        for a in group:
            for b in set(self.names) - set(group):
                self.cut(a, b)

    def cut(self, a, b):
        self.cuts.add(frozenset((a, b)))
        self.disconnect(a, b)

    def heal(self, *pairs):
        self.cuts = self.cuts - {frozenset(pair) for pair in pairs} if pairs else set()
        self.connect_all()

    def post(self, source, target, message):
        if frozenset((source, target)) not in self.sessions:
            return False
        message = copy.deepcopy(message)
        self.queues[source, target].append(message)
        self.sent.append((source, target, message))
        return True

    def deliver(self, source, target, count=None, tick=False):
        """The next `count` messages, or all that are there now; the target may tick after each."""
        queue = self.queues[source, target]
        for _ in range(len(queue) if count is None else count):
            if queue:
                self.inject(source, target, queue.popleft())
                if tick:
                    self.tick(target)

    def inject(self, source, target, message):
        if target in self.nodes:
            with self.inside(target):
                self.wires[target]._onMessageReceived(Node(source), copy.deepcopy(message))

    def exchange(self, *group):
        for source, target in list(self.queues):
            if {source, target} <= set(group or self.names) and (source, target) not in self.held:
                self.deliver(source, target, tick=True)

    def run(self, seconds, reconnect=True):
        end = self.now + seconds
        while self.now < end:
            self.now += 0.02
            if reconnect:
                self.connect_all()
            self.tick()
            self.exchange()

    def run_until(self, condition, within=2.0):
        end = self.now + within
        while self.now < end and not condition():
            self.run(0.05)
        return condition()

    def period(self, name):
        """The node's next message to its followers leaves."""
        self.now += 0.11
        self.tick(name)

    # -- what happens in a cluster --

    def campaign(self, name):
        """`name` has waited too long; the others have heard nothing for a while."""
        self.now += 0.6
        self.skew[name] += 15.0
        self.tick(name)

    def elect(self, name, *voters):
        self.campaign(name)
        for _ in range(12):
            if not self.leads(name):
                self.exchange(*((name, *voters) if voters else ()))
                self.tick(name)
        print(f"{name} leads term {self.nodes[name].raftCurrentTerm}: {self.leads(name)}")

    def propose(self, name, item):
        """A client calls `append(item)` at this node."""
        answer = Answer(item)
        with self.inside(name):
            self.nodes[name].append(item, callback=answer)
        self.tick(name)
        return answer

    def write(self, name, *items):
        """Proposes, and lets the cluster run until all are acknowledged."""
        answers = [self.propose(name, item) for item in items]
        self.run_until(lambda: all(answer.ok for answer in answers))
        return answers

    def member(self, leader, change, name):
        """`change`: add, remove."""
        answer = Answer(f"{change} {name}")
        with self.inside(leader):
            node = self.nodes[leader]
            call = node.addNodeToCluster if change == "add" else node.removeNodeFromCluster
            call(Node(name), callback=answer)
        self.tick(leader)
        return answer

    def compact(self, name):
        """One tick writes the dump, the next one cuts the journal."""
        self.nodes[name].forceLogCompaction()
        self.tick(name)
        self.tick(name)

    # -- what is seen --

    def leads(self, name):
        return name in self.nodes and self.nodes[name]._isLeader()

    def state(self, name):
        return self.nodes[name].items

    def log(self, name):
        """(command, index, term) of the entries."""
        return list(self.nodes[name]._SyncObj__raftLog[:])

    def voters(self, name):
        return sorted({name} | {node.id for node in self.nodes[name].otherNodes})
