"""Approval: nobody approves what they began, and some kinds demand a session with a claim."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from cyoloctl.errors import ApprovalRefused, InvalidInput, TokenRejected
from tests.support.cluster import Cluster, assert_refused, run
from tests.support.gateways import HOST, Page, Visitor, add_gateways, wait_gateways
from tests.support.tokens import call

pytestmark = pytest.mark.cluster


class Site:
    def __init__(self, cluster: Cluster, ports: dict[str, int]) -> None:
        self.one, self.two = cluster["n1"], cluster["n2"]
        self.ports = ports

    def token(self, sub: str, **claims: Any) -> str:
        return str(call(self.one, "token_mint", sub=sub, claims=claims)["token"])

    def visitor(self, node: str, token: str | None = None) -> Visitor:
        made = Visitor(self.ports[node], HOST)
        if token is not None:
            made.cookies["cyolo-sid"] = token
        return made

    def state(self, code: str) -> dict[str, Any]:
        return self.two.json("rendezvous", "show", code)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Cluster(tmp_path_factory.mktemp("approval")) as cluster:
        cluster.form(2)
        cluster.stop_all()
        ports = add_gateways(cluster, begin=("mfa", "sign-in", "door"))
        cluster.start_all()
        cluster.wait_healthy()
        wait_gateways(cluster, ports)
        yield Site(cluster, ports)


def begin(visitor: Visitor, kind: str) -> str:
    """Begin in a browser: the code."""
    assert visitor.post("/begin", {"form": visitor.get("/begin").form, "kind": kind}).status == 303
    found = re.search(r"[B-Z]{4}-[B-Z]{4}", visitor.get("/begin/wait").text)
    assert found
    return found[0]


def cannot_approve(page: Page) -> None:
    assert page.status == 403, page.text
    assert "<title>You cannot approve this</title>" in page.body


def test_begun_in_a_browser_is_approved_by_neither_it_nor_its_person_but_by_another_with_the_claim(
    site: Site,
) -> None:
    policy = site.one.json("rendezvous", "policy", "mfa", "--require", "mfa=true")
    assert (policy["require"], policy["allow_self"]) == ({"mfa": True}, False)
    began = site.visitor("n1", site.token("alice", mfa=True))
    code = begin(began, "mfa")
    # The same browser, whoever is signed in; the same person, in whatever browser, session and node.
    cannot_approve(began.enter(code))
    began.cookies["cyolo-sid"] = site.token("carol", mfa=True)
    cannot_approve(began.enter(code))
    cannot_approve(site.visitor("n2", site.token("alice", mfa=True)).enter(code))
    # Another person without the claim, or with another value.
    for claims in ({}, {"mfa": False}, {"mfa": "true"}, {"mfa": 1}):
        page = site.visitor("n2", site.token("bob", **claims)).enter(code)
        cannot_approve(page)
        assert "mfa=true" in page.text
    assert site.state(code)["state"] == "pending"
    other = site.visitor("n2", site.token("bob", mfa=True))
    assert other.decide("approve", other.enter(code)).status == 200
    redeemed = began.post("/begin/redeem", {"form": began.get("/begin/wait").form})
    assert redeemed.status == 200
    assert "bob" in redeemed.text


def test_policy_that_comes_while_the_form_is_open_holds_on_every_node(site: Site) -> None:
    began = site.visitor("n1")
    code = begin(began, "sign-in")
    other = site.visitor("n2", site.token("bob"))
    page = other.enter(code)
    assert page.status == 200
    site.two.json("rendezvous", "policy", "sign-in", "--require", "amr=hwk", "--require", "level=3")
    assert site.one.json("rendezvous", "policy", "sign-in")["require"] == {"amr": "hwk", "level": 3}
    cannot_approve(other.decide("approve", page))
    other.cookies["cyolo-sid"] = site.token("bob", amr=["pwd", "hwk"], level=3)
    assert other.decide("approve", page).status == 200
    shown = site.one.json("rendezvous", "policy")["policies"]
    assert [policy["kind"] for policy in shown if policy["kind"] == "sign-in"] == ["sign-in"]
    reset = site.one.json("rendezvous", "policy", "sign-in", "--reset")
    assert (reset["require"], reset["allow_self"]) == ({}, False)


def test_kind_that_allows_it_is_approved_by_whoever_began(site: Site) -> None:
    site.one.json("rendezvous", "policy", "door", "--allow-self")
    began = site.visitor("n1", site.token("alice"))
    assert began.decide("approve", began.enter(begin(began, "door"))).status == 200


def test_api_approves_with_a_claim_only_for_a_person_whose_session_is_shown(site: Site) -> None:
    site.one.json("rendezvous", "policy", "pay", "--require", "mfa=true")
    alice, bob = site.token("alice", mfa=True), site.token("bob", mfa=True)
    started = call(site.one, "rendezvous_start", kind="pay", token=alice)
    approve: dict[str, Any] = {"id": started["id"], "request_id": None}
    with pytest.raises(ApprovalRefused, match=r"claim mfa=true: .*show the session"):
        call(site.two, "rendezvous_approve", **approve, by="root")
    for token in (alice, site.token("alice", mfa=True)):
        with pytest.raises(ApprovalRefused, match="cannot approve it"):
            call(site.two, "rendezvous_approve", **approve, token=token)
    with pytest.raises(InvalidInput, match="'by'"):
        call(site.two, "rendezvous_approve", **approve, token=bob, by="root")
    with pytest.raises(TokenRejected):
        call(site.two, "rendezvous_approve", **approve, token=f"{bob}A")
    call(site.two, "token_revoke", token=bob)
    with pytest.raises(TokenRejected):
        call(site.one, "rendezvous_approve", **approve, token=bob)
    assert site.state(started["id"])["state"] == "pending"
    good = site.token("bob", mfa=True)
    command = ("rendezvous", "approve", started["id"], "--token-file", "-")
    done = site.two.cli(*command, "-o", "json", stdin=good)
    assert done.returncode == 0, done.stderr
    assert site.state(started["id"])["claimed_by"] == "bob"
    again = call(site.one, "rendezvous_start", kind="pay")
    assert_refused(site.two.cli("rendezvous", "approve", again["id"]), 4, "mfa=true")


def test_program_approves_with_its_own_credentials_nothing_that_it_began_with_them(site: Site) -> None:
    credentials = ("-e", f"https://{site.one.address}", "--credentials", site.one.directory / "operator.yaml")
    begun = run("rendezvous", "start", "--kind", "own", *credentials, "-o", "json")
    assert begun.returncode == 0, begun.stderr
    id = re.search(r'"id": ?"([0-9a-f]{32})"', begun.stdout)
    assert id
    assert_refused(run("rendezvous", "approve", id[1], "--by", "somebody", *credentials), 4, "cannot approve")
    with_session = ("--token-file", "-", *credentials, "-o", "json")
    begun = run("rendezvous", "start", "--kind", "own", *with_session, stdin=site.token("alice"))
    code = re.search(r"[B-Z]{4}-[B-Z]{4}", begun.stdout)
    assert code
    assert_refused(run("rendezvous", "approve", code[0], *credentials), 4, "cannot approve")
    token = site.token("bob")
    done = run("rendezvous", "approve", id[1], "--token-file", "-", *credentials, stdin=token)
    assert done.returncode == 0, done.stderr
