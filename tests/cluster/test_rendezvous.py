"""Transactions across nodes: begun here, approved there, redeemed exactly once, whoever dies in between."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.control.client import Client
from cyoloctl.errors import (
    AlreadyExists,
    Conflict,
    CyoloctlError,
    Denied,
    InvalidInput,
    NotFound,
    SlowDown,
)
from cyoloctl.paths import control_socket_path
from cyoloctl.rendezvous import codes
from tests.support.cluster import (
    Cluster,
    Node,
    NotYet,
    assert_refused,
    environment,
    wait_until,
)
from tests.support.connections import http_exchange, unix_connect
from tests.support.tokens import call, wait_keys

pytestmark = pytest.mark.cluster

STARTED = [
    "schema_version", "id", "user_code", "verification_uri", "verification_uri_complete", "expires_in",
    "interval", "node",
]  # fmt: skip
SHOWN = [
    "schema_version", "id", "kind", "state", "node", "initiator", "origin", "data", "claimed_by", "sealed",
    "failed_attempts", "created_at", "expires_at", "changed_at",
]  # fmt: skip
REDEEMED = ["schema_version", "id", "state", "kind", "approved_by", "data", "sealed_result", "node"]
UNKNOWN = "0" * 32


@pytest.fixture
def nodes(shared: Cluster) -> list[Node]:
    """Three running nodes; the records of other tests stay where they are."""
    wait_keys(shared)
    return [shared["n1"], shared["n2"], shared["n3"]]


def start(node: Node, **body: Any) -> dict[str, Any]:
    return call(node, "rendezvous_start", kind="mfa", **body)


def approve(node: Node, id: str, **body: Any) -> dict[str, Any]:
    return call(node, "rendezvous_approve", id=id, **body)


def show(node: Node, id: str) -> dict[str, Any]:
    return node.client(10.0).call("rendezvous_show", id)


def wait(node: Node, id: str, request_id: str = "a" * 16, timeout_s: float = 20.0) -> dict[str, Any]:
    return call(node, "rendezvous_wait", timeout_s=timeout_s, id=id, request_id=request_id)


def state(node: Node) -> list[dict[str, Any]]:
    """Every record as a node shows it."""
    return list(call_get(node, "rendezvous_list", limit=1000)["rendezvous"])


def call_get(node: Node, operation: str, **query: Any) -> dict[str, Any]:
    return node.client(10.0).call(operation, query=query)


def unused(code: str, count: int) -> list[str]:
    """Codes that nobody has: like this one, but for the last two letters."""
    others = (code[:-2] + first + second for first in "BCD" for second in "BCDFGH")
    return [other for other in others if other != code][:count]


class Waiter:
    """`rendezvous wait` as a process."""

    def __init__(self, id: str, *endpoints: str, timeout_s: int = 40, request_id: str | None = None) -> None:
        more = [] if request_id is None else ["--request-id", request_id]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "cyoloctl", "rendezvous", "wait", "-", "-o", "json", *more),
                *("--timeout", str(timeout_s), *(word for url in endpoints for word in ("-e", url))),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert self.process.stdin is not None
        self.process.stdin.write(id)
        self.process.stdin.close()
        self.process.stdin = None

    def __enter__(self) -> Waiter:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def result(self) -> tuple[int, dict[str, Any] | None, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, json.loads(out) if out else None, err


def raw(node: Node, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """The answer of a node that has a leader: a busy machine may be without one for a moment."""
    data = None if body is None else json.dumps(body).encode()

    def answered() -> tuple[int, dict[str, Any]]:
        status, answer = http_exchange(unix_connect(node), method, path, data)
        if status == 503 and answer["error"]["code"] == "no_leader":
            raise NotYet(str(answer))
        return status, answer

    return wait_until("an answer under a leader", answered)


def code_of(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


def hanging(node: Node) -> int:
    """Number of client connections of the node's socket."""
    path = f" {control_socket_path(node.directory)}\n"
    lines = Path("/proc/net/unix").read_text().splitlines(keepends=True)
    return sum(line.endswith(path) and line.split()[5] == "03" for line in lines)


# --- the command line, over three nodes ----------------------------------------------------------


def test_rendezvous_begun_here_and_approved_there_is_redeemed_elsewhere(nodes: list[Node]) -> None:
    one, two, three = nodes
    begun = one.json("rendezvous", "start", "--kind", "mfa", "--data", "app=web", "--by", "zoë")
    assert list(begun) == STARTED
    assert (begun["node"], begun["interval"], begun["verification_uri"]) == ("n1", 5, None)
    assert 290 <= begun["expires_in"] <= 300
    code = begun["user_code"]
    assert codes.normalise_user_code(code) == code.replace("-", "")
    seen = two.json("rendezvous", "show", code)
    assert list(seen) == SHOWN
    assert (seen["id"], seen["state"], seen["initiator"], seen["data"], seen["node"], seen["sealed"]) == (
        begun["id"], "pending", "zoë", {"app": "web"}, "n1", False,
    )  # fmt: skip
    claimed = three.json("rendezvous", "claim", f"{code[:4].lower()} {code[5:]}", "--by", "ann")
    assert (claimed["state"], claimed["claimed_by"]) == ("claimed", "ann")
    assert_refused(two.cli("rendezvous", "approve", code, "--by", "bob"), 4, "somebody else")
    done = two.json("rendezvous", "approve", code.lower(), "--by", "ann", "--data", "role=admin=yes")
    assert list(done) == SHOWN
    assert (done["state"], done["claimed_by"], done["data"]) == ("approved", "ann", {"app": "web"})
    got = three.json("rendezvous", "wait", begun["id"])
    assert list(got) == REDEEMED
    assert got == {
        "schema_version": 1, "id": begun["id"], "state": "consumed", "kind": "mfa", "approved_by": "ann",
        "data": {"role": "admin=yes"}, "sealed_result": None, "node": "n1",
    }  # fmt: skip
    assert_refused(one.cli("rendezvous", "wait", begun["id"]), 4, "already redeemed")
    listed = one.json("rendezvous", "list", "--state", "consumed")
    assert list(listed) == ["schema_version", "rendezvous"]
    assert begun["id"] in [record["id"] for record in listed["rendezvous"]]
    assert {record["state"] for record in listed["rendezvous"]} == {"consumed"}


def test_wait_exit_statuses_tell_the_states_apart(nodes: list[Node]) -> None:
    one, two, _ = nodes
    for node in nodes:
        assert_refused(node.cli("rendezvous", "wait", UNKNOWN), 3, "no such rendezvous")
    pending = start(one)["id"]
    short = start(one, ttl_s=10)["id"]
    refused = two.cli("rendezvous", "wait", pending, "--timeout", "1", "-o", "json")
    assert (refused.returncode, error_of(refused)) == (75, "authorization_pending")
    two.json("rendezvous", "deny", pending)
    refused = one.cli("rendezvous", "wait", pending, "-o", "json")
    assert (refused.returncode, error_of(refused)) == (4, "rendezvous_denied")
    cancelled = start(one)["id"]
    two.json("rendezvous", "cancel", cancelled)
    assert_refused(one.cli("rendezvous", "wait", cancelled), 4, "was cancelled")
    # Begun to wait before it expires, and told at once when it does.
    refused = one.cli("rendezvous", "wait", short, "--timeout", "40", "-o", "json")
    assert (refused.returncode, error_of(refused)) == (4, "expired_token")
    assert show(two, short)["state"] == "expired"
    for node in nodes:
        ask = {"id": short, "request_id": "r" * 16}
        assert code_of(raw(node, "POST", "/v1/rendezvous/wait", ask)) == (410, "expired_token")
        assert code_of(raw(node, "POST", "/v1/rendezvous/approve", {"id": short})) == (410, "expired_token")
    assert_refused(two.cli("rendezvous", "wait", "not-an-id"), 65, "32 hex digits")


def error_of(result: subprocess.CompletedProcess[str]) -> str:
    assert result.stdout == ""
    return str(json.loads(result.stderr)["error"]["code"])


def test_id_and_user_code_from_stdin_are_in_no_argument(nodes: list[Node]) -> None:
    begun = start(nodes[0])
    for number, command in enumerate(("show", "claim", "approve")):
        text = f"{begun['user_code'].lower()}\n" if number % 2 else f"{begun['id']}\n"
        done = nodes[number].cli("rendezvous", command, "-", "-o", "json", stdin=text)
        assert (done.returncode, json.loads(done.stdout)["id"]) == (0, begun["id"])
    done = nodes[0].cli("rendezvous", "wait", "-", stdin=begun["id"])
    assert done.returncode == 0
    cancelled = nodes[1].cli("rendezvous", "cancel", "-", stdin=start(nodes[0])["id"])
    assert cancelled.returncode == 0
    assert_refused(nodes[0].cli("rendezvous", "deny", "-"), 65, "no id or user code")


# --- the API -------------------------------------------------------------------------------------


def test_api_names_errors_as_rfc_8628_does(nodes: list[Node]) -> None:
    one, two, three = nodes
    status, begun = raw(one, "POST", "/v1/rendezvous/start", {"kind": "mfa"})
    assert (status, list(begun)) == (200, STARTED)
    ask = {"id": begun["id"], "request_id": "r" * 16}
    path = "/v1/rendezvous/wait?timeout_s=1"
    assert code_of(raw(two, "POST", path, ask)) == (400, "authorization_pending")
    # A wait is a long poll: however fast they follow each other, none is told to slow down.
    for node in nodes * 3:
        answer = raw(node, "POST", "/v1/rendezvous/wait?timeout_s=0.5", ask)
        assert code_of(answer) == (400, "authorization_pending")
    status, shown = raw(three, "GET", f"/v1/rendezvous/{begun['user_code'].replace('-', '').lower()}")
    assert (status, list(shown)) == (200, SHOWN)
    status, denied = raw(three, "POST", "/v1/rendezvous/deny", {"user_code": begun["user_code"]})
    assert (status, list(denied), denied["state"]) == (200, SHOWN, "denied")
    assert code_of(raw(two, "POST", path, ask)) == (400, "access_denied")
    with pytest.raises(Denied):  # and no AccessDenied, which is about the caller's credentials
        wait(two, begun["id"])
    assert code_of(raw(one, "POST", path, {**ask, "id": UNKNOWN})) == (404, "not_found")


def test_list_gives_every_record_once_when_the_last_of_a_page_changes_or_ends(nodes: list[Node]) -> None:
    ids = [start(nodes[0])["id"] for _ in range(4)]
    found: list[str] = []
    after = None
    for _ in range(1000):
        page = call_get(nodes[1], "rendezvous_list", state="pending", limit=1, after=after)
        found += [record["id"] for record in page["rendezvous"]]
        after = page["next"]
        if after is None:
            break
        if found[-1] in ids:
            call(nodes[2], "rendezvous_cancel", id=found[-1])
    assert len(found) == len(set(found))
    assert [id for id in found if id in ids] == ids
    # Pages of the command, too.
    listed = nodes[2].json("rendezvous", "list")["rendezvous"]
    assert [record["id"] for record in listed] == [record["id"] for record in state(nodes[0])]


# --- exactly once --------------------------------------------------------------------------------


def test_many_waiters_on_all_nodes_one_redeems(nodes: list[Node]) -> None:
    id = start(nodes[0])["id"]
    won: list[dict[str, Any]] = []
    lost: list[BaseException] = []

    def redeem(number: int) -> None:
        try:
            won.append(wait(nodes[number % 3], id, f"redeemer-number-{number}", 50.0))
        except CyoloctlError as error:
            lost.append(error)

    threads = [threading.Thread(target=redeem, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for node in nodes:
        wait_until(f"waiters hanging at {node.name}", lambda node=node: hanging(node) >= 3)  # type: ignore[misc]
    approve(nodes[1], id, data={"x": "1"})
    for thread in threads:
        thread.join(60)
    assert [answer["data"] for answer in won] == [{"x": "1"}]
    assert [type(error) for error in lost] == [Conflict] * 8


def test_same_redemption_is_told_the_same_answer_again_by_every_node(nodes: list[Node]) -> None:
    id = start(nodes[0])["id"]
    approve(nodes[1], id, data={"x": "1"})
    answers = [wait(node, id, "the-same-redeemer") for node in nodes]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["data"] == {"x": "1"}
    for node in nodes:
        with pytest.raises(Conflict, match="already redeemed"):
            wait(node, id, "somebody-else-here")
    mine = nodes[0].json("rendezvous", "wait", id, "--request-id", "the-same-redeemer")
    assert mine == answers[0]


def test_wait_goes_on_at_the_next_endpoint_when_its_node_is_killed(cluster: Cluster) -> None:
    wait_keys(cluster)
    leader = cluster.wait_leader()
    order = [cluster[leader], *(cluster[name] for name in cluster.followers())]
    begun = start(order[1])
    with Waiter(begun["id"], *(node.endpoint for node in order)) as waiter:
        wait_until("the wait hanging at the leader", lambda: hanging(order[0]))
        order[0].kill()
        cluster.wait_leader()
        approve(order[1], begun["id"], data={"x": "1"}, request_id="the-approval")
        status, answer, errors = waiter.result()
    assert (status, answer and answer["data"]) == (0, {"x": "1"}), errors
    order[0].start()
    for node in order:
        assert show(node, begun["id"])["state"] == "consumed"
        with pytest.raises(Conflict, match="already redeemed"):
            wait(node, begun["id"])


def test_answer_lost_with_its_node_after_the_redemption_is_given_by_another(cluster: Cluster) -> None:
    """Redeemed, and the connection ends before the answer is read."""
    wait_keys(cluster)
    first, second = (cluster[name] for name in cluster.followers())
    id = start(second)["id"]
    approve(second, id, data={"x": "1"})
    # Redeem through the first node, never read the answer, kill it once another node saw the redemption.
    connection = unix_connect(first)
    body = json.dumps({"id": id, "redemption": "my-own-redemption"}).encode()
    head = f"POST /v1/rendezvous/wait?timeout_s=10 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with contextlib.closing(connection):
        connection.sendall(head.encode() + body)
        wait_until("redeemed", lambda: show(second, id)["state"] == "consumed")
        first.kill()
    with Waiter(id, first.endpoint, second.endpoint, request_id="my-own-redemption") as waiter:
        status, answer, errors = waiter.result()
    assert (status, answer and answer["data"]) == (0, {"x": "1"}), errors
    with pytest.raises(Conflict, match="already redeemed"):
        wait(second, id, "somebody-else-here")


def test_leader_killed_between_approval_and_redemption_and_all_restarted_with_snapshots(
    stopped: Cluster,
) -> None:
    for node in stopped.nodes.values():
        node.compacting(20)
    stopped.start_all()
    stopped.wait_healthy()
    wait_keys(stopped)
    leader = stopped.wait_leader()
    others = [stopped[name] for name in stopped.followers()]
    begun = start(stopped[leader], data={"app": "web"})
    waiting = start(others[0], data={"app": "later"})
    redeemed = start(others[1])
    for id in (begun["id"], redeemed["id"]):
        approve(others[0], id, data={"x": "1"})
    kept = wait(others[0], redeemed["id"], "redeemed-before-it")
    stopped[leader].kill()
    for number in range(60):  # past a snapshot on those that live
        others[number % 2].client().counters.incr("c", 1, request_id=f"r{number}")
    stopped.stop_all()
    stopped.start_all()
    stopped.wait_healthy()
    for node in stopped.nodes.values():
        assert (node.directory / "snapshot").exists() or list(node.directory.glob("snapshot*")), node.name
        assert show(node, begun["id"])["state"] == "approved"
        assert show(node, waiting["user_code"].replace("-", "").lower())["data"] == {"app": "later"}
        assert wait(node, redeemed["id"], "redeemed-before-it") == kept
    assert wait(stopped[leader], begun["id"])["data"] == {"x": "1"}
    with pytest.raises(Conflict, match="already redeemed"):
        wait(others[0], begun["id"], "somebody-else-here")


# --- the same request once -----------------------------------------------------------------------


def same(first: dict[str, Any], again: dict[str, Any]) -> bool:
    return {k: v for k, v in first.items() if k != "expires_in"} == {
        k: v for k, v in again.items() if k != "expires_in"
    }


def test_start_with_a_request_id_begins_one_record_across_nodes_and_restarts(cluster: Cluster) -> None:
    wait_keys(cluster)
    nodes = [cluster[name] for name in ("n1", "n2", "n3")]
    first = start(nodes[0], request_id="job-1")
    assert same(first, start(nodes[1], request_id="job-1"))
    cluster[cluster.wait_leader()].kill()
    cluster.stop_all()
    cluster.start_all()
    cluster.wait_healthy()
    assert same(first, nodes[2].json("rendezvous", "start", "--kind", "mfa", "--request-id", "job-1"))
    for other in ({"kind": "door"}, {"data": {"x": "1"}}):
        with pytest.raises(Conflict, match="began another rendezvous"):
            call(nodes[1], "rendezvous_start", **{"kind": "mfa", "request_id": "job-1", **other})
    # A new primary key makes other ids, and still the same request is known.
    call(nodes[0], "key_rotate", timeout_s=20.0)
    for node in nodes:
        assert same(first, start(node, request_id="job-1"))
    assert len(state(nodes[0])) == 1
    call(nodes[0], "rendezvous_cancel", id=first["id"])
    assert same(first, start(nodes[1], request_id="job-1"))
    assert start(nodes[1], request_id="job-2")["id"] != first["id"]
    assert len(state(nodes[2])) == 2


def test_start_repeated_at_once_on_all_nodes_begins_one_record(nodes: list[Node]) -> None:
    for number in range(5):
        before = {record["id"] for record in state(nodes[0])}
        found: list[dict[str, Any]] = []
        begin = threading.Barrier(6)

        def ask(place: int, number: int = number) -> None:
            begin.wait()  # noqa: B023  # joined below
            found.append(start(nodes[place % 3], request_id=f"at-once-{number}"))  # noqa: B023

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(found) == 6
        assert len({(begun["id"], begun["user_code"], begun["node"]) for begun in found}) == 1
        assert len({record["id"] for record in state(nodes[0])} - before) == 1


def test_key_of_an_ended_record_begins_no_other(nodes: list[Node]) -> None:
    key = codes.new_key()[1]
    first = start(nodes[0], public_key=key, request_id=f"sealed-{key}")
    assert same(first, start(nodes[1], public_key=key, request_id=f"sealed-{key}"))
    call(nodes[1], "rendezvous_deny", id=first["id"])
    for node in nodes:
        with pytest.raises(AlreadyExists, match="used before"):
            start(node, public_key=key, request_id=f"another-{key}")
        with pytest.raises(AlreadyExists, match="used before"):
            start(node, public_key=key)


@pytest.mark.parametrize(
    ("operation", "by"),
    [*((name, by) for name in ("claim", "approve", "deny") for by in ("id", "user_code")), ("cancel", "id")],
)
def test_answer_with_a_request_id_applies_once_however_often_and_wherever(
    nodes: list[Node], operation: str, by: str
) -> None:
    begun = start(nodes[0])
    request = {by: begun[by], "request_id": f"{operation}-{begun['id']}"}
    first = call(nodes[0], f"rendezvous_{operation}", **request)
    for node in nodes:
        assert call(node, f"rendezvous_{operation}", **request) == first
    if operation == "approve":
        wait(nodes[2], begun["id"])
        assert call(nodes[1], "rendezvous_approve", **request)["state"] == "consumed"
    with pytest.raises(CyoloctlError) as refused:
        call(nodes[1], f"rendezvous_{operation}", **{**request, "request_id": f"other-{begun['id']}"})
    assert refused.value.exit_status in (3, 4)


# --- sealed answers ------------------------------------------------------------------------------


def test_sealed_answer_opens_with_the_key_of_the_initiator_alone(nodes: list[Node]) -> None:
    private, public = codes.new_key()
    begun = nodes[0].json("rendezvous", "start", "--kind", "secret", "--public-key", public)
    assert begun["id"] == codes.id_of_public_key(public)
    assert show(nodes[1], begun["id"])["sealed"] is True
    request = {"user_code": begun["user_code"], "data": {"password": "söme"}, "request_id": begun["id"]}
    call(nodes[1], "rendezvous_approve", **request)
    # Sealed again each time; it is the same request all the same.
    assert call(nodes[2], "rendezvous_approve", **request)["state"] == "approved"
    with pytest.raises(Conflict, match="already approved"):
        call(nodes[2], "rendezvous_approve", **{**request, "request_id": f"other-{begun['id']}"})
    got = nodes[2].json("rendezvous", "wait", begun["id"])
    assert got["data"] is None
    assert json.loads(codes.open_result(private, public, got["sealed_result"])) == {"password": "söme"}
    other, other_public = codes.new_key()
    for pair in ((other, other_public), (other, public), (private, other_public)):
        with pytest.raises(InvalidInput, match="not sealed for this"):
            codes.open_result(*pair, got["sealed_result"])
    assert call(nodes[0], "rendezvous_approve", **request)["state"] == "consumed"


def test_key_that_nothing_can_be_sealed_to_begins_nothing(nodes: list[Node]) -> None:
    before = state(nodes[0])
    for key in ("A" * 43 + "=", "AQ" + "A" * 41 + "=", "AAAA", "x", ""):
        assert_refused(
            nodes[0].cli("rendezvous", "start", "--kind", "mfa", "--public-key", key), 65, "public key"
        )
    assert state(nodes[1]) == before


# --- wrong codes ---------------------------------------------------------------------------------


def test_five_wrong_codes_for_a_named_record_end_it_counted_over_all_nodes(nodes: list[Node]) -> None:
    begun, sound = start(nodes[0]), start(nodes[0])
    wrong = unused(begun["user_code"], 6)
    for number, code in enumerate(wrong[:4]):
        with pytest.raises(NotFound, match=f"{4 - number} attempts left"):
            call(nodes[number % 3], "rendezvous_approve", id=begun["id"], user_code=code, by=f"x{number}")
    assert (
        call(nodes[0], "rendezvous_claim", id=sound["id"], user_code=sound["user_code"])["state"] == "claimed"
    )
    assert show(nodes[1], begun["id"])["failed_attempts"] == 4
    with pytest.raises(NotFound, match="0 attempts left"):
        call(nodes[2], "rendezvous_approve", id=begun["id"], user_code=wrong[4])
    assert show(nodes[0], begun["id"])["state"] == "cancelled"
    for node in nodes:
        with pytest.raises(Conflict, match="5 wrong codes"):
            call(node, "rendezvous_approve", id=begun["id"], user_code=begun["user_code"])
        with pytest.raises(Conflict, match="5 wrong codes"):
            wait(node, begun["id"])


def test_ten_wrong_codes_stop_their_caller_on_all_nodes_and_nobody_else(nodes: list[Node]) -> None:
    begun = start(nodes[0])
    wrong = unused(begun["user_code"], 11)
    for number, code in enumerate(wrong[:10]):
        refused = "claim" if number % 2 else "deny"
        with pytest.raises(NotFound, match=f"{9 - number} attempts left"):
            call(nodes[number % 3], f"rendezvous_{refused}", user_code=code, by="clumsy")
    for node in nodes:
        with pytest.raises(SlowDown, match="use the id"):
            call(node, "rendezvous_claim", user_code=begun["user_code"], by="clumsy")
    answer = raw(nodes[0], "POST", "/v1/rendezvous/claim", {"user_code": wrong[0], "by": "clumsy"})
    assert code_of(answer) == (429, "slow_down")
    refused_cli = nodes[1].cli("rendezvous", "claim", begun["user_code"], "--by", "clumsy")
    assert_refused(refused_cli, 75, "too many wrong codes")
    assert (
        call(nodes[1], "rendezvous_claim", user_code=begun["user_code"], by="careful")["state"] == "claimed"
    )
    assert call(nodes[2], "rendezvous_deny", id=begun["id"], by="clumsy")["state"] == "denied"


# --- bad input -----------------------------------------------------------------------------------


def test_each_bad_input_is_its_own_error_and_changes_nothing(nodes: list[Node]) -> None:
    one, two, _ = nodes
    states = {name: start(one, data={"of": name}) for name in ("pending", "claimed", "denied", "cancelled")}
    call(two, "rendezvous_claim", id=states["claimed"]["id"], by="ann")
    call(two, "rendezvous_deny", id=states["denied"]["id"])
    call(two, "rendezvous_cancel", id=states["cancelled"]["id"])
    pending, claimed = states["pending"]["id"], states["claimed"]["id"]
    before = state(one)
    big, many = {"x": "y" * 1025}, {f"k{number}": "" for number in range(17)}
    heavy = {f"k{number}": "y" * 1024 for number in range(16)}
    cases: list[tuple[str, dict[str, Any], type[CyoloctlError], str]] = [
        ("approve", {"id": UNKNOWN}, NotFound, "no such rendezvous"),
        ("cancel", {"id": UNKNOWN}, NotFound, "no such rendezvous"),
        ("approve", {}, InvalidInput, "give id or user_code"),
        ("approve", {"id": "short"}, InvalidInput, "32 hex digits"),
        ("claim", {"user_code": "ABCD-EFGH"}, InvalidInput, "the user code is not valid"),
        ("claim", {"user_code": "WDJB-MJHTX"}, InvalidInput, "the user code is not valid"),
        ("claim", {"user_code": ""}, InvalidInput, "the user code is not valid"),
        ("claim", {"id": claimed}, Conflict, "already claimed"),
        ("approve", {"id": claimed, "by": "bob"}, Conflict, "somebody else"),
        ("approve", {"id": states["denied"]["id"]}, Denied, "was denied"),
        ("deny", {"id": states["cancelled"]["id"]}, Conflict, "was cancelled"),
        ("cancel", {"id": states["denied"]["id"]}, Denied, "was denied"),
        ("approve", {"id": pending, "data": big}, InvalidInput, "1024 bytes"),
        ("approve", {"id": pending, "data": many}, InvalidInput, "16 texts"),
        ("approve", {"id": pending, "data": heavy}, InvalidInput, "8192 bytes"),
        ("approve", {"id": pending, "data": {"Key": ""}}, InvalidInput, "data key"),
        ("approve", {"id": pending, "data": {"k": 1}}, InvalidInput, "data value"),
        ("approve", {"id": pending, "data": {"k": "a\nb"}}, InvalidInput, "data value"),
        ("approve", {"id": pending, "by": "x\u202ey"}, InvalidInput, "on one line"),
        ("approve", {"id": pending, "by": "x" * 257}, InvalidInput, "1 to 256"),
        ("start", {"kind": "Bad kind"}, InvalidInput, "'kind'"),
        ("start", {"kind": "x" * 64}, InvalidInput, "'kind'"),
        ("start", {"kind": "mfa", "ttl_s": 9}, InvalidInput, "'ttl_s'"),
        ("start", {"kind": "mfa", "ttl_s": 86_401}, InvalidInput, "'ttl_s'"),
        ("start", {"kind": "mfa", "data": heavy}, InvalidInput, "8192 bytes"),
        ("start", {"kind": "mfa", "initiator": "\x1b[2J"}, InvalidInput, "'initiator'"),
        ("start", {"kind": "mfa", "origin": "a\u2028b"}, InvalidInput, "on one line"),
        ("wait", {"id": pending, "redemption": "short"}, InvalidInput, "'redemption'"),
        (
            "wait",
            {"id": pending, "redemption": "r" * 16, "request_id": "r"},
            InvalidInput,
            "not more than one",
        ),
    ]
    for operation, body, error, words in cases:
        status, answer = raw(two, "POST", f"/v1/rendezvous/{operation}", body)
        told = answer["error"]
        assert (status, told["code"]) == (error.http_status, error.api_code or error.code), (operation, body)
        assert words in told["message"], (operation, body, told)
    assert state(one) == before


def test_body_past_the_limit_is_refused(nodes: list[Node]) -> None:
    before = state(nodes[0])
    answer = raw(nodes[0], "POST", "/v1/rendezvous/start", {"kind": "mfa", "data": {"x": "y" * (1 << 20)}})
    assert code_of(answer) == (413, "body_too_large")
    assert state(nodes[0]) == before


def test_bad_arguments_on_the_command_line_send_nothing(nodes: list[Node]) -> None:
    one = nodes[0]
    before = state(one)
    for arguments, words in (
        (("start", "--kind", "mfa", "--data", "novalue"), "KEY=VALUE"),
        (("start", "--kind", "mfa", "--data", "a=1", "--data", "a=2"), "twice"),
        (("start", "--kind", "mfa", "--ttl", "9s"), "--ttl"),
        (("start", "--kind", "Bad"), "kind"),
        (("cancel", "WDJB-MJHT"), "32 hex digits"),
        (("show", "../members"), "rendezvous id"),
    ):
        assert_refused(one.cli("rendezvous", *arguments), 65, words)
    assert_refused(one.cli("rendezvous", "list", "--state", "lost"), 2, "expired or cancelled")
    assert state(one) == before


def test_viewer_may_neither_see_nor_answer(shared: Cluster, nodes: list[Node]) -> None:
    begun = start(nodes[0])
    viewer = Client([f"https://{nodes[1].address}"], credentials=shared.viewer(), timeout_s=10.0, retry=False)
    for operation, name, body in (
        ("rendezvous_show", begun["id"], None),
        ("rendezvous_list", "", None),
        ("rendezvous_approve", "", {"id": begun["id"]}),
        ("rendezvous_wait", "", {"id": begun["id"], "request_id": "r" * 16}),
    ):
        with pytest.raises(CyoloctlError) as refused:
            viewer.call(operation, name, body)
        assert refused.value.exit_status == 77
    assert show(nodes[0], begun["id"])["state"] == "pending"


# --- what is written where -----------------------------------------------------------------------


def test_no_log_at_debug_level_holds_an_id_a_code_or_a_redemption(shared: Cluster, nodes: list[Node]) -> None:
    one, two, three = nodes
    begun = start(one, data={"note": "data-to-be-seen"})
    lost = start(two)
    code = begun["user_code"]
    plain = code.replace("-", "")
    for text in (begun["id"], code, code.lower(), plain.lower()):
        assert two.cli("rendezvous", "show", text).returncode == 0
    with contextlib.suppress(CyoloctlError):
        call(two, "rendezvous_claim", id=lost["id"], user_code=code)
    raw(one, "GET", f"/v1/rendezvous/{begun['id']}/more")
    raw(one, "GET", f"/v1/rendezvous/{begun['id']}?code={code}")
    approve(three, begun["id"], data={"answer": "answer-to-be-kept"})
    wait(one, begun["id"], "redemption-to-be-kept")
    secrets = (
        begun["id"],
        lost["id"],
        code,
        plain,
        lost["user_code"],
        "redemption-to-be-kept",
        "answer-to-be-kept",
    )
    for node in shared.nodes.values():
        text = (node.log_path.read_text() + node.out_path.read_text()).lower()
        assert "/v1/rendezvous/(hidden)" in text or node is three
        for secret in secrets:
            assert secret.lower() not in text, node.name
