"""Results that got lost on their way to the user, asked for again at real nodes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from cyoloctl.errors import Conflict
from tests.support.cluster import LIMIT_S, Cluster, Node, environment
from tests.support.tokens import call, wait_keys

pytestmark = pytest.mark.cluster


@pytest.fixture
def nodes(shared: Cluster) -> list[Node]:
    """Three running nodes."""
    wait_keys(shared)
    return [shared["n1"], shared["n2"], shared["n3"]]


def lose(node: Node, *arguments: str, stdin: str = "") -> str:
    """Run a command whose result ends in a full device: the request id that it names."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cyoloctl", *arguments, "-d", str(node.directory)],
            input=stdin,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            timeout=LIMIT_S,
            check=False,
        )
    assert done.returncode == 74, done.stderr
    found = re.search(r"--request-id (\S+) gives the result again", done.stderr)
    assert found is not None, done.stderr
    return found[1]


def again(node: Node, *arguments: str, stdin: str = "") -> dict[str, Any]:
    """The result of the same command, through whichever node."""
    done = subprocess.run(
        [sys.executable, "-m", "cyoloctl", *arguments, "-d", str(node.directory), "-o", "json"],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_answer_of_a_rendezvous_that_met_a_full_device_is_given_again_to_its_request_id_alone(
    nodes: list[Node],
) -> None:
    first, second, third = nodes
    id = call(first, "rendezvous_start", kind="mfa")["id"]
    call(second, "rendezvous_approve", id=id, by="ann", data={"role": "admin"})
    request_id = lose(first, "rendezvous", "wait", "-", stdin=id)
    found = again(third, "rendezvous", "wait", "-", "--request-id", request_id, stdin=id)
    assert (found["state"], found["data"]) == ("consumed", {"role": "admin"})
    with pytest.raises(Conflict):
        call(second, "rendezvous_wait", id=id, request_id="somebody-else")


def test_session_whose_update_met_a_full_device_is_not_lost(nodes: list[Node]) -> None:
    first, second, third = nodes
    token = call(first, "token_mint", sub="alice")["token"]
    request_id = lose(first, "token", "update", "-", "--set", "mfa=true", stdin=token)
    update = ("token", "update", "-", "--set", "mfa=true", "--request-id", request_id)
    found = again(second, *update, stdin=token)
    assert (found["gen"], found["claims"]) == (2, {"mfa": True})
    assert call(third, "token_inspect", token=found["token"])["gen"] == 2
