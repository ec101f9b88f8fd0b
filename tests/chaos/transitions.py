"""Transitions of a cluster under load, with a kill in the middle of each.

A transition is a script that the nemesis carries on between its other faults,
a look at a time.  It asks for a change, kills a process at a random instant of
it (the node that the change is about, the leader, the node that was asked, or
the command itself), starts it again, and repeats what it asked for, under the
same request id, until it is answered.  Then the change must stand, on whatever
node is asked, and asked for once more it must give the first answer.

Members that come and go do so in one place of their own, `FaultCluster.guest`.
"""

from __future__ import annotations

import random
import shutil
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cyoloctl.control.client import Client
from cyoloctl.errors import (
    AccessDenied,
    ClientTimeout,
    Conflict,
    CyoloctlError,
    NotFound,
    OutcomeUnknown,
    StorageError,
    Unavailable,
    Unreachable,
    VersionMismatch,
)
from tests.chaos.cluster import FaultCluster, FaultNode
from tests.chaos.history import History, Record

__all__ = ["TRANSITIONS", "Killed", "Transitions", "disagreements", "went_on"]

_SILENT = (Unavailable, Unreachable, OutcomeUnknown, ClientTimeout, StorageError)
"""Answers that say: ask again."""

_REPEATED = {69, 74, 75, 80}
"""The same of a command."""

_LIMIT_S = 90.0
"""How long one change may be asked for, while other faults come and go."""

_CALL_S = 5.0
_T = TypeVar("_T")
Script = Generator[None, None, _T]


@dataclass(frozen=True, slots=True)
class Killed:
    """A process that was killed in the middle of a change.

    who: its name and what it was there.  at_s, ended_s: when it was killed and
    when the change had been answered, in seconds since the run began.
    """

    change: str
    who: str
    at_s: float
    ended_s: float


class _Broken(Exception):
    """The transition did not do what was promised; the text says what."""


@dataclass(slots=True)
class _Running:
    fault: str
    script: Script[None]
    start_s: float
    told: list[str] = field(default_factory=list)


class Transitions:
    """Carries out one transition at a time.  All but the calls happens in the caller's thread.

    counters: those of which a restored cluster must know a value.  on_new_ca: called when the CA
    is exchanged: what pinned the old one ends.
    """

    def __init__(self, cluster: FaultCluster, history: History, rng: random.Random) -> None:
        self.cluster = cluster
        self.killed: list[Killed] = []
        self.findings: list[str] = []
        self.counters: Sequence[str] = ()
        self.on_new_ca: Callable[[], None] = lambda: None
        self._history = history
        self._rng = rng
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="transition")
        self._running: _Running | None = None
        self._number = 0
        self._upgraded = False

    # --- running ----------------------------------------------------------------------------------

    @property
    def under_way(self) -> bool:
        return self._running is not None

    def begin(self, fault: str) -> None:
        """Begin one of TRANSITIONS."""
        assert self._running is None
        if fault == "upgrade" and self._upgraded:
            return
        self._number += 1
        self._running = _Running(fault, TRANSITIONS[fault](self), self._history.now())

    def look(self) -> tuple[str, str, float] | None:
        """Go on until it has to wait: fault, detail and start of a transition that has ended."""
        running = self._running
        if running is None:
            return None
        try:
            next(running.script)
            return None
        except StopIteration:
            pass
        except _Broken as broken:
            self.findings.append(
                f"{self._history.now():.1f} s: {running.fault} ({', '.join(running.told)}): {broken}"
            )
        self._running = None
        return running.fault, ", ".join(running.told), running.start_s

    def close(self) -> None:
        """No more calls; what is under way is left."""
        self._running = None
        self._pool.shutdown(wait=True)

    def _tell(self, text: str) -> None:
        assert self._running is not None
        self._running.told.append(text)

    # --- waiting ----------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> Script[None]:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            yield

    def _instant(self, longest_s: float) -> float:
        """When to kill: often at once, sometimes late."""
        return self._rng.uniform(0.0, self._rng.choice((0.02, 0.2, 1.0)) * longest_s)

    def _collect(self, future: Future[_T]) -> Script[tuple[_T | None, CyoloctlError | None]]:
        while not future.done():
            yield
        try:
            return future.result(), None
        except CyoloctlError as error:
            return None, error

    def _free(self, without: FaultNode | None = None) -> Script[FaultNode]:
        """A node that runs without a fault on it."""
        limit = time.monotonic() + _LIMIT_S
        while time.monotonic() < limit:
            nodes = [node for node in self.cluster.nodes.values() if node is not without]
            free = [node for node in nodes if node.running() and not node.busy]
            if free:
                return self._rng.choice(free)
            yield
        raise _Broken("no node runs")

    def _ask(self, what: str, ask: Callable[[Client], _T], *, without: FaultNode | None = None) -> Script[_T]:
        """The answer of any node, or any but one, sooner or later."""
        limit, error = time.monotonic() + _LIMIT_S, None
        while time.monotonic() < limit:
            node = yield from self._free(without)
            client = node.client(_CALL_S)
            answer, error = yield from self._collect(self._pool.submit(lambda client=client: ask(client)))
            if error is None:
                return answer  # type: ignore[return-value]
            if not _is_silent(error):
                break
            yield from self._wait(0.1)
        raise _Broken(f"{what}: {error!r}")

    # --- killing ----------------------------------------------------------------------------------

    def _victim(self, subject: FaultNode | None, asked: FaultNode | None) -> tuple[FaultNode, str] | None:
        leader = self.cluster.nodes.get(self.cluster.leader())
        named = ((subject, "subject"), (leader, "leader"), (asked, "asked"))
        free = [(node, what) for node, what in named if node is not None and node.running() and not node.busy]
        return self._rng.choice(free) if free else None

    def _down(self, victim: tuple[FaultNode, str] | None) -> tuple[str, float] | None:
        if victim is None:
            return None
        node, what = victim
        node.busy = True
        node.kill()
        return f"{node.name} ({what})", self._history.now()

    def _up(self, victim: tuple[FaultNode, str] | None) -> Script[None]:
        if victim is not None:
            yield from self._wait(self._rng.uniform(0.0, 2.0))
            victim[0].launch()
            victim[0].busy = False

    def _note(self, change: str, down: tuple[str, float] | None) -> None:
        if down is None:
            self._tell(change)
            return
        who, at_s = down
        self._tell(f"{change} ({who} killed)")
        self.killed.append(Killed(change, who, at_s, self._history.now()))

    # --- a change by a call -----------------------------------------------------------------------

    def _change(
        self,
        what: str,
        ask: Callable[[Client, str], dict[str, Any]],
        *,
        subject: FaultNode | None = None,
        conflicts: bool = False,
        same: Sequence[str] = (),
    ) -> Script[dict[str, Any]]:
        """Ask for it, kill, repeat it until it is answered, and then once more.

        ask: gets a client and the request id.  conflicts: whether it may be
        refused for a while, as where a member is away.  same: the fields by
        which two answers are compared; all of them where none are named.
        """
        request_id = f"{what.replace(' ', '-')}-{self._rng.getrandbits(64):016x}"
        asked = yield from self._free()
        through = {asked.name}
        first = asked.client(_CALL_S)
        future = self._pool.submit(lambda: ask(first, request_id))
        yield from self._wait(self._instant(1.0))
        victim = self._victim(subject, asked)
        down = self._down(victim)
        answer, error = yield from self._collect(future)
        yield from self._up(victim)
        limit = time.monotonic() + _LIMIT_S
        while error is not None:
            if not _is_silent(error) and not (conflicts and isinstance(error, Conflict | VersionMismatch)):
                raise _Broken(f"{what}: {error!r}")
            if time.monotonic() > limit:
                raise _Broken(f"{what} is not answered within {_LIMIT_S:g} s: {error!r}")
            yield from self._wait(0.1)
            asked = yield from self._free()
            through.add(asked.name)
            again = asked.client(_CALL_S)
            answer, error = yield from self._collect(
                self._pool.submit(lambda again=again: ask(again, request_id))
            )
        self._note(what, down)
        assert answer is not None
        once_more = yield from self._ask(f"{what}, repeated", lambda client: ask(client, request_id))
        names = same or answer.keys() | once_more.keys()
        # A member that votes no more records nothing: repeated through another, there is nothing to do.
        unrecorded = subject is not None and subject.name in through and once_more.get("changed") is False
        if not unrecorded and any(answer.get(name) != once_more.get(name) for name in names):
            raise _Broken(f"{what} was answered {answer} and, repeated, {once_more}")
        return answer

    # --- a change by a command --------------------------------------------------------------------

    def _command(
        self,
        what: str,
        node: FaultNode,
        *arguments: str,
        stdin: str = "",
        online: bool = False,
        before: Callable[[], None] = lambda: None,
        done: Callable[[], bool] = lambda: False,
    ) -> Script[None]:
        """Run a command in the node's place, kill it or the leader, and repeat it until it ends with 0.

        online: whether it asks the cluster.  before: called before each attempt.
        done: whether all was there but the output when it was killed: then it is refused (4).
        """
        down: tuple[str, float] | None = None
        limit, attempt = time.monotonic() + _LIMIT_S, 0
        while True:
            before()
            process, said = node.spawn(*arguments, stdin=stdin)
            victim = None
            try:
                if attempt == 0:
                    yield from self._wait(self._instant(1.5))
                    if online and self._rng.random() < 0.5:
                        victim = self._victim(None, None)
                        down = self._down(victim)
                    elif process.poll() is None:
                        process.kill()
                        down = "the command", self._history.now()
                while process.poll() is None:
                    yield
                yield from self._up(victim)
            finally:
                process.kill()
                process.wait()
            attempt += 1
            if process.returncode == 0 or (process.returncode == 4 and attempt > 1 and done()):
                break
            if process.returncode not in (-9, *(_REPEATED if online else ())):
                raise _Broken(f"{what} ends with {process.returncode}: {said()}")
            if time.monotonic() > limit:
                raise _Broken(f"{what} does not end within {_LIMIT_S:g} s: {process.returncode}: {said()}")
            yield from self._wait(0.1)
        self._note(what, down)

    # --- the transitions --------------------------------------------------------------------------

    def role(self) -> Script[None]:
        """A member is demoted, then promoted."""
        node = self._rng.choice(list(self.cluster.nodes.values()))
        self._tell(node.name)
        yield from self._set_role(node, node.name, "demote")
        yield from self._set_role(node, node.name, "promote")

    def _set_role(self, node: FaultNode, name: str, what: str) -> Script[None]:
        operation = f"member_{what}"
        yield from self._change(
            what,
            lambda client, request_id: client.call(operation, name, {"request_id": request_id}),
            subject=node,
            conflicts=True,
        )
        yield from self._stands(what, name, "learner" if what == "demote" else "voter")

    def _stands(self, what: str, name: str, wanted: str) -> Script[None]:
        found = yield from self._ask("its role", lambda client: _role(client, name))
        if found != wanted:
            raise _Broken(f"{what} of {name} was answered, and it is {found}")

    def handover(self) -> Script[None]:
        """Leadership goes to somebody else."""
        to = self._rng.choice([None, *self.cluster.nodes])
        self._tell(f"to {to or 'anybody'}")
        done = yield from self._change(
            "transfer-leadership",
            lambda client, request_id: client.transfer_leadership(to, request_id=request_id),
            subject=None if to is None else self.cluster.nodes[to],
            conflicts=True,
        )
        if to is not None and done["leader"] not in self.cluster.nodes:
            raise _Broken(f"leadership went to {done['leader']!r}")

    def address(self) -> Script[None]:
        """A member is said to be elsewhere, and then where it is."""
        node = self._rng.choice(list(self.cluster.nodes.values()))
        self._tell(node.name)
        elsewhere = node.address.rpartition(":")[0] + ":7799"
        for address in (elsewhere, node.address):
            body = {"address": address}
            yield from self._change(
                "set-address",
                lambda client, request_id, body=body: client.call(
                    "member_set_address", node.name, {**body, "request_id": request_id}
                ),
                subject=node,
                conflicts=True,
            )
            # The member itself shows where it listens.
            found = yield from self._ask(
                "its address", lambda client: client.member_show(node.name), without=node
            )
            if found["address"] != address:
                raise _Broken(f"set-address {address} was answered, and it is at {found['address']}")

    def join(self) -> Script[None]:
        """A voter or a learner joins by invitation, and is removed."""
        yield from self._join(self._rng.choice(("voter", "learner")))

    def witness(self) -> Script[None]:
        """A witness joins by invitation, and is removed."""
        yield from self._join("witness")

    def _join(self, role: str) -> Script[None]:
        guest, name = self._guest(role)
        invited = yield from self._change(
            "invite",
            lambda client, request_id: client.member_invite(
                name, learner=role == "learner", witness=role == "witness", request_id=request_id
            ),
            same=("name", "expires_at", "learner", "witness"),
        )
        place = ["-d", str(guest.directory), "--name", name, "--listen", guest.address]
        yield from self._command(
            "node join",
            guest,
            "node",
            "join",
            *place,
            "--token-file",
            "-",
            stdin=invited["token"],
            online=True,
        )
        yield from self._life(guest, name, role)

    def join_file(self) -> Script[None]:
        """A member joins by file, and is removed."""
        role = self._rng.choice(("voter", "learner", "witness"))
        guest, name = self._guest(role)
        request, grant = (guest.directory.with_name(f"{name}.{kind}") for kind in ("request", "grant"))
        place = ["-d", str(guest.directory)]
        yield from self._command(
            "node request",
            guest,
            *["node", "request", *place, "--name", name, "--listen", guest.address, "--out", str(request)],
            before=lambda: request.unlink(missing_ok=True),
        )
        body: dict[str, Any] = {"request": request.read_text(), "learner": role == "learner", "ttl_s": 3600}
        if role == "witness":
            body["witness"] = True
        granted = yield from self._change(
            "member grant",
            lambda client, request_id: client.call("member_grant", body={**body, "request_id": request_id}),
            same=("name", "expires_at"),
        )
        grant.write_text(granted["grant"])
        yield from self._command("node accept", guest, "node", "accept", *place, "--grant", str(grant))
        yield from self._life(guest, name, role)

    def _guest(self, role: str) -> tuple[FaultNode, str]:
        """The place of a new node, empty, and its name."""
        guest, name = self.cluster.guest, f"new-{self._number}"
        guest.furnish(name)
        self._tell(f"{name}, {role}")
        return guest, name

    def _life(self, guest: FaultNode, name: str, role: str) -> Script[None]:
        """A node with its files enters the cluster, and leaves it."""
        guest.launch()
        yield from self._wait(self._instant(3.0))
        victim = self._victim(guest, None)
        down = self._down(victim)
        yield from self._up(victim)
        limit = time.monotonic() + _LIMIT_S
        while (found := (yield from self._ask("its role", lambda client: _role(client, name)))) != role:
            self._watch(guest)
            if time.monotonic() > limit:
                raise _Broken(f"{name} is {found}, not {role}, after {_LIMIT_S:g} s: {guest.log_tail(600)}")
            yield from self._wait(0.1)
        self._note("enter", down)
        if role == "learner":
            yield from self._set_role(guest, name, "promote")
        if role != "witness":
            yield from self._set_role(guest, name, "demote")
        guest.excuse("it is removed", 4)
        yield from self._change(
            "remove",
            lambda client, request_id: client.member_remove(name, request_id=request_id),
            subject=guest,
            conflicts=True,
        )
        yield from self._stands("remove", name, "no member")
        guest.kill()
        guest.excuse("")
        shutil.rmtree(guest.directory)

    def _watch(self, guest: FaultNode) -> None:
        status = guest.ended()
        if status is not None:
            raise _Broken(f"the new node ended by itself with status {status}: {guest.log_tail(600)}")

    def rotate_ca(self) -> Script[None]:
        """The cluster exchanges its CA."""
        begun = yield from self._change(
            "rotate-ca",
            lambda client, request_id: client.call(
                "pki_rotate", body={"overlap_s": 0, "request_id": request_id}
            ),
            same=("sha256",),
        )
        limit = time.monotonic() + _LIMIT_S
        while True:
            yield from self._wait(self._instant(3.0))
            victim = self._victim(None, (yield from self._free()))
            down = self._down(victim)
            yield from self._up(victim)
            self._note("exchange", down)
            until = time.monotonic() + 5.0
            while time.monotonic() < until:
                found = yield from self._ask("the CA", lambda client: client.call("pki_status"))
                if found["rotation"] is None:
                    break
                yield from self._wait(0.2)
            if found["rotation"] is None:
                break
            if time.monotonic() > limit:
                raise _Broken(f"the CA is not exchanged after {_LIMIT_S:g} s: {found['rotation']}")
        self.on_new_ca()
        if [each["sha256"] for each in found["authorities"]] != [begun["sha256"]]:
            raise _Broken(f"the CA was exchanged for {begun['sha256']}, and is {found['authorities']}")

    def snapshot(self) -> Script[None]:
        """The state is saved to a file, and a new cluster begins with it."""
        guest, name = self.cluster.guest, f"restored-{self._number}"
        guest.furnish(name)
        self._tell(name)
        directory = guest.directory.with_name(f"{name}.files")
        directory.mkdir()
        file = directory / "state"
        reads: list[Record] = []

        def attempt() -> None:
            for record in reads:
                record.refuse(self._history.now())
            reads[:] = [self._history.open("snapshot", counter, 0, "-") for counter in self.counters]
            file.unlink(missing_ok=True)  # killed after it was whole

        through = yield from self._free()
        save = ["snapshot", "save", str(file), "-d", str(through.directory)]
        yield from self._command("snapshot save", guest, *save, online=True, before=attempt)
        ended_s = self._history.now()
        place = ["-d", str(guest.directory), "--name", name, "--listen", guest.address]
        init = ["cluster", "init", "--from-snapshot", str(file), *place]
        is_node = (guest.directory / "node.yaml").exists
        yield from self._command("cluster init --from-snapshot", guest, *init, done=is_node)
        guest.launch()
        yield from self._wait(self._instant(2.0))
        guest.kill()
        guest.launch()
        for record in reads:
            value = yield from self._restored(guest, record.counter)
            record.value, record.end_s, record.outcome = value, ended_s, "ok"
        guest.kill()
        shutil.rmtree(guest.directory)
        shutil.rmtree(directory)

    def _restored(self, guest: FaultNode, counter: str) -> Script[int]:
        """The value of a counter in the restored cluster."""
        limit = time.monotonic() + _LIMIT_S
        while True:
            self._watch(guest)
            client = guest.client(_CALL_S)
            found, error = yield from self._collect(
                self._pool.submit(lambda client=client: client.counters.get(counter))
            )
            if found is not None:
                return int(found["value"])
            if isinstance(error, NotFound):
                return 0
            if time.monotonic() > limit:
                raise _Broken(f"the restored cluster does not answer: {error!r}: {guest.log_tail(600)}")
            yield from self._wait(0.1)

    def upgrade(self) -> Script[None]:
        """The level of the cluster is raised, once in a run."""
        yield from self._change(
            "upgrade",
            lambda client, request_id: client.cluster_upgrade(dry_run=False, request_id=request_id),
            conflicts=True,
        )
        self._upgraded = True
        found = yield from self._ask("the level", lambda client: client.cluster_upgrade(dry_run=True))
        if (found["level"], found["changed"]) != (2, False):
            raise _Broken(f"upgrade was answered, and the level is {found['level']}")


TRANSITIONS: dict[str, Callable[[Transitions], Script[None]]] = {
    "role": Transitions.role,
    "handover": Transitions.handover,
    "address": Transitions.address,
    "join": Transitions.join,
    "join-file": Transitions.join_file,
    "witness": Transitions.witness,
    "rotate-ca": Transitions.rotate_ca,
    "snapshot": Transitions.snapshot,
    "upgrade": Transitions.upgrade,
}


def _is_silent(error: CyoloctlError) -> bool:
    # A node that was demoted meanwhile passes nothing on, and says so.
    return isinstance(error, _SILENT) or (isinstance(error, AccessDenied) and "ask a voter" in error.message)


def _role(client: Client, name: str) -> str:
    """voter, witness, learner or no member."""
    for row in client.member_list()["members"]:
        if row["name"] == name:
            if row.get("witness"):
                return "witness" if row["role"] != "learner" else "learner"
            return "learner" if row["role"] == "learner" else "voter"
    return "no member"


def disagreements(cluster: FaultCluster) -> list[str]:
    """What the nodes tell differently when everything is over, or that should not be there any more."""
    told: dict[str, dict[str, Any]] = {}
    for name, node in cluster.nodes.items():
        client = node.client(10.0)
        told[name] = {
            "members": [
                [row["name"], row["role"] == "learner", row["address"]]
                for row in client.member_list()["members"]
            ],
            "invitations": client.member_invitations()["invitations"],
            "authorities": [ca["sha256"] for ca in client.call("pki_status")["authorities"]],
            "level": client.status()["cluster"].get("level"),
        }
    found = [
        f"{name} and {other} disagree on {what}: {told[name][what]} and {told[other][what]}"
        for name, other in zip(told, list(told)[1:], strict=False)
        for what in told[name]
        if told[name][what] != told[other][what]
    ]
    wanted = [[name, False, node.address] for name, node in sorted(cluster.nodes.items())]
    members = next(iter(told.values()))["members"]
    if sorted(members) != wanted:
        found.append(f"the members are {members}, not {wanted}")
    return found


def went_on(
    killed: Sequence[Killed], records: Sequence[Record], alone: Callable[[float, float], bool]
) -> Any:
    """By change: how many kills, and median and worst seconds until writes went on after one.

    alone: whether no other fault was on between two times; those kills count for the seconds.
    """
    ends = sorted(record.end_s for record in records if record.outcome == "ok" and record.by)
    rows: dict[str, dict[str, Any]] = {}
    for change in dict.fromkeys(each.change for each in killed):
        kills = [each for each in killed if each.change == change]
        gaps = []
        for each in kills:
            after = [end for end in ends if each.at_s < end]
            # The longest silence that begins within a second and a half: it may be noticed late.
            near = [each.at_s, *[end for end in after if end < each.at_s + 1.5]]
            following = next((end for end in after if end >= each.at_s + 1.5), near[-1])
            gap = max(b - a for a, b in zip(near, [*near[1:], following], strict=True))
            if alone(each.at_s, each.at_s + 1.5 + gap):
                gaps.append(gap)
        rows[change] = {
            "kills": len(kills),
            "longest_s": round(max(each.ended_s - each.at_s for each in kills), 2),
            "alone": len(gaps),
            "writes_went_on_s": None
            if not gaps
            else {"median": round(statistics.median(gaps), 2), "worst": round(max(gaps), 2)},
        }
    return rows
