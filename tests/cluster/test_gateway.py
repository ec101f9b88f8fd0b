"""Three nodes with gateways, asked as browsers and proxies ask: each refusal is its own, changing nothing.

More than 700 lines, because every section asks the same cluster, which takes seconds to start.
"""

from __future__ import annotations

import base64
import html
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from prometheus_client.parser import text_string_to_metric_families

from cyoloctl.node.config import load_config
from cyoloctl.node.config_writer import write_config
from tests.support.cluster import Cluster, free_port, wait_until
from tests.support.gateways import HOST, Page, Visitor, add_gateways, begin, session, wait_gateways

pytestmark = pytest.mark.cluster


class Gateways:
    """A cluster, the ports of its gateways, and people who visit them."""

    def __init__(self, cluster: Cluster, ports: dict[str, int]) -> None:
        self.cluster = cluster
        self.ports = ports

    def visitor(
        self, name: str = "n1", *, sub: str | None = "alice@example.com", client: str = ""
    ) -> Visitor:
        """client: the address that the proxy in front says."""
        found = Visitor(self.ports[name], HOST)
        if client:
            found.headers["X-Forwarded-For"] = client
        if sub is not None:
            found.cookies["cyolo-sid"] = session(self.cluster.running()[0], sub)
        return found

    def begin_expiring(self) -> None:
        """A form that is open while its record expires: begun early, looked at last."""
        self.expiring = begin(self.cluster["n1"], ttl_s=10)
        self.expiring_visitor = self.visitor("n3")
        self.expiring_page = self.expiring_visitor.enter(self.expiring["user_code"])

    def state(self, started: dict[str, Any]) -> str:
        node = self.cluster.running()[-1]
        return str(node.client().call("rendezvous_show", started["id"])["state"])


@pytest.fixture(scope="module")
def open_gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """For tests that leave the nodes as they are; on ports of its own, beside the copies of `formed`."""
    with Cluster(tmp_path_factory.mktemp("gateways")) as cluster:
        cluster.form(3)
        cluster.stop_all()
        ports = add_gateways(cluster, sign_in_url="https://login.example.com/", begin=("mfa", "sign-in"))
        cluster.start_all()
        cluster.wait_healthy()
        wait_gateways(cluster, ports)
        made = Gateways(cluster, ports)
        made.begin_expiring()
        yield made


@pytest.fixture
def gateways(stopped: Cluster, request: pytest.FixtureRequest) -> Gateways:
    """For one test that kills nodes; a parameter is the settings."""
    ports = add_gateways(stopped, **getattr(request, "param", {}))
    stopped.start_all()
    stopped.wait_healthy()
    wait_gateways(stopped, ports)
    return Gateways(stopped, ports)


def altered(sealed: str) -> str:
    """The same but for its end, whatever that is."""
    return sealed[:-2] + ("QA" if sealed.endswith("AA") else "AA")


def refused(page: Page, status: int, title: str) -> None:
    assert page.status == status, page.text
    assert f"<title>{title}</title>" in page.body
    assert "Content-Security-Policy" in page.headers


# -- the flow ------------------------------------------------------------------------------------


def test_form_of_a_node_that_was_killed_is_taken_by_another_and_counts_once(gateways: Gateways) -> None:
    cluster = gateways.cluster
    started = begin(cluster["n1"])
    visitor = gateways.visitor("n1")
    page = visitor.enter(started["user_code"])
    assert page.status == 200, page.text
    assert started["id"] not in page.body
    cluster["n1"].kill()
    visitor.port = gateways.ports["n2"]
    assert visitor.decide("approve", page).status == 200
    visitor.port = gateways.ports["n3"]
    assert visitor.decide("approve", page).status == 200
    refused(visitor.decide("deny", page), 409, "Already answered")
    redeemed = cluster["n3"].json("rendezvous", "wait", started["id"])
    assert (redeemed["state"], redeemed["approved_by"]) == ("consumed", "alice@example.com")
    refused(gateways.visitor("n2").enter(started["user_code"]), 404, "Not found")


def test_form_made_before_a_rotation_of_the_token_keys_is_taken_after_it(gateways: Gateways) -> None:
    started = begin(gateways.cluster["n1"])
    visitor = gateways.visitor("n1")
    page = visitor.enter(started["user_code"])
    rotated = gateways.cluster["n3"].cli("key", "rotate")
    assert rotated.returncode == 0, rotated.stderr
    visitor.port = gateways.ports["n2"]
    assert visitor.decide("approve", page).status == 200


def test_page_without_quorum_says_that_nothing_changed_and_works_again_later(gateways: Gateways) -> None:
    cluster = gateways.cluster
    started = begin(cluster["n1"])
    visitor = gateways.visitor("n1")
    page = visitor.enter(started["user_code"])
    cluster["n2"].kill()
    cluster["n3"].kill()
    wait_until("n1 is not ready", lambda: visitor.get("/readyz").status == 503)
    assert visitor.get("/healthz").status == 200
    answer = visitor.decide("approve", page)
    refused(answer, 503, "Try again")
    assert "Nothing was changed" in answer.text
    assert answer.headers["Retry-After"]
    cluster.start_all("n2", "n3")
    wait_until("n1 is ready", lambda: visitor.get("/readyz").status == 200)
    assert gateways.state(started) == "pending"
    assert visitor.decide("approve", page).status == 200


def test_wrong_codes_are_counted_by_person_across_nodes_and_addresses(gateways: Gateways) -> None:
    started = begin(gateways.cluster["n1"])
    for number in range(10):
        visitor = gateways.visitor(f"n{number % 3 + 1}", client=f"192.0.2.{number + 1}")
        page = visitor.enter("BCDF-GHJK")
        refused(page, 404, "Not found")
        assert f"{9 - number} attempts left" in page.text
    page = gateways.visitor("n2", client="198.51.100.1").enter(started["user_code"])
    refused(page, 429, "Too many attempts")
    assert int(page.headers["Retry-After"]) == 600
    # Whoever sits behind the same address goes on; a form that is sent again counts once.
    other = gateways.visitor("n1", sub="carol", client="192.0.2.1")
    form = other.get("/rendezvous").form
    for name, code in (("n1", "BCDF-GHJK"), ("n2", "bcdfghjk"), ("n3", " BCDF ghjk"), ("n1", "BCDF-GHJK")):
        other.port = gateways.ports[name]
        again = other.post("/rendezvous", {"form": form, "user_code": code})
        assert "9 attempts left" in again.text
    assert gateways.visitor("n2", sub="bob", client="192.0.2.1").enter(started["user_code"]).status == 200


@pytest.mark.parametrize("gateways", [{"require_session": False}], indirect=True)
def test_wrong_codes_without_a_session_are_counted_by_network_and_stop_no_session(gateways: Gateways) -> None:
    started = begin(gateways.cluster["n1"])
    # One customer's /64, whatever address of it and whichever node.
    for number in range(10):
        visitor = gateways.visitor(f"n{number % 3 + 1}", sub=None, client=f"2001:db8::{number + 1:x}")
        page = visitor.enter("BCDF-GHJK")
        refused(page, 404, "Not found")
        assert f"{9 - number} attempts left" in page.text
    page = gateways.visitor("n2", sub=None, client="2001:db8::ff").enter(started["user_code"])
    refused(page, 429, "Too many attempts")
    other = gateways.visitor("n2", sub=None, client="2001:db8:0:1::1")
    assert other.enter(started["user_code"]).status == 200
    assert gateways.visitor("n2", client="2001:db8::ff").enter(started["user_code"]).status == 200


@pytest.mark.parametrize("gateways", [{"require_session": False}], indirect=True)
def test_page_that_needs_no_session_records_the_address(gateways: Gateways) -> None:
    started = begin(gateways.cluster["n1"])
    visitor = gateways.visitor("n1", sub=None, client="203.0.113.9")
    page = visitor.enter(started["user_code"])
    assert "203.0.113.9" in page.text
    assert visitor.decide("approve", page).status == 200
    assert gateways.cluster["n2"].json("rendezvous", "wait", started["id"])["approved_by"] == "ip:203.0.113.9"


# -- refusals ------------------------------------------------------------------------------------


def test_get_of_a_link_never_tells_whether_the_code_is_right(open_gateways: Gateways) -> None:
    started = begin(open_gateways.cluster["n1"])
    visitor = open_gateways.visitor()
    right, wrong = started["user_code"], "BCDF-GHJK"
    pages = [visitor.get(f"/rendezvous?user_code={code}") for code in (right, wrong)]
    assert {page.status for page in pages} == {200}
    shown = [re.sub(r'name="form" value="[^"]*"', "", page.body) for page in pages]
    assert shown[0].replace(right, wrong) == shown[1]
    strange = visitor.get("/rendezvous?user_code=%22%3E%3Cscript%3E")
    assert 'value=""' in strange.body
    assert "script" not in strange.body.replace("<style>", "")
    assert open_gateways.state(started) == "pending"


def test_page_without_a_session_shows_where_to_sign_in_and_counts_nothing(open_gateways: Gateways) -> None:
    started = begin(open_gateways.cluster["n1"])
    visitor = open_gateways.visitor(sub=None)
    page = visitor.get("/rendezvous")
    refused(page, 200, "Sign in first")
    assert 'href="https://login.example.com/"' in page.body
    signed_in = open_gateways.visitor()
    form = signed_in.get("/rendezvous").form
    del signed_in.cookies["cyolo-sid"]
    refused(
        signed_in.post("/rendezvous", {"form": form, "user_code": started["user_code"]}), 403, "Sign in first"
    )


def test_session_that_was_revoked_cannot_approve(open_gateways: Gateways) -> None:
    started = begin(open_gateways.cluster["n1"])
    visitor = open_gateways.visitor("n2", sub="mallory")
    page = visitor.enter(started["user_code"])
    open_gateways.cluster["n1"].json("token", "revoke", "--sub", "mallory")
    refused(visitor.decide("approve", page), 403, "Sign in first")
    assert open_gateways.state(started) == "pending"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://{HOST}"},
        {"Origin": f"http://{HOST}:81"},
        {"Origin": f"http://{HOST}.evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Origin": None, "Sec_Fetch_Site": None},
    ],
)
def test_post_of_another_origin_is_refused_and_changes_nothing(
    open_gateways: Gateways, headers: dict[str, str | None]
) -> None:
    started = begin(open_gateways.cluster["n1"])
    visitor = open_gateways.visitor()
    page = visitor.enter(started["user_code"])
    fields = {"form": page.form}
    for path in ("/rendezvous/approve", "/rendezvous/deny"):
        refused(visitor.post(path, fields, **headers), 403, "Not from this page")
    assert visitor.post("/session/refresh", b"", **headers).status == 403
    assert open_gateways.state(started) == "pending"


def test_form_of_another_browser_person_or_purpose_is_refused(open_gateways: Gateways) -> None:
    started = begin(open_gateways.cluster["n1"])
    visitor = open_gateways.visitor()
    entered = visitor.get("/rendezvous")
    page = visitor.post("/rendezvous", {"form": entered.form, "user_code": started["user_code"]})
    other_browser = open_gateways.visitor()
    other_browser.get("/rendezvous")
    other_person = open_gateways.visitor(sub="bob")
    [form_cookie] = [name for name in visitor.cookies if name.startswith("cyolo-form-")]
    other_person.cookies[form_cookie] = visitor.cookies[form_cookie]
    title = "This form is no longer valid"
    refused(other_browser.decide("approve", page), 400, title)
    refused(other_person.decide("approve", page), 400, title)
    refused(visitor.decide("approve", entered), 400, title)
    for form in ("", "AAAA", "A" * 300, "\u00e9", page.form[:-1], page.form + "A", "B" + page.form[1:]):
        refused(visitor.post("/rendezvous/approve", {"form": form}), 400, title)
    del visitor.cookies[form_cookie]
    refused(visitor.decide("approve", page), 400, title)
    assert open_gateways.state(started) == "pending"


def test_answered_expired_and_claimed_records_each_have_their_status(open_gateways: Gateways) -> None:
    node = open_gateways.cluster["n1"]
    visitor = open_gateways.visitor("n2")
    pages = {}
    for name in ("approved", "denied", "cancelled", "claimed", "consumed"):
        started = begin(node)
        pages[name] = visitor.enter(started["user_code"])
        body = {"id": started["id"], "user_code": None, "by": "bob", "request_id": None}
        if name == "cancelled":
            node.cli("rendezvous", "cancel", started["id"])
        elif name in ("approved", "consumed"):
            node.client().call("rendezvous_approve", "", {**body, "data": {}})
        else:
            node.client().call("rendezvous_" + {"denied": "deny", "claimed": "claim"}[name], "", body)
        if name == "consumed":
            node.json("rendezvous", "wait", started["id"])
        if name in ("approved", "claimed"):
            refused(visitor.enter(started["user_code"]), 409, "Somebody was faster")
    for name, page in pages.items():
        title = "It was denied" if name == "denied" else "Already answered"
        refused(visitor.decide("approve", page), 409, title)


def test_malformed_and_oversized_forms_are_refused(open_gateways: Gateways) -> None:
    visitor = open_gateways.visitor()
    form = visitor.get("/rendezvous").form
    title = "This cannot be read"
    for body in (
        b"",
        b"x",
        b"form=a&form=b&user_code=c",
        b"form=a",
        f"form={form}&user_code=%FF".encode(),
        b"\xff",
    ):
        refused(visitor.post("/rendezvous", body), 400, title)
    refused(visitor.post("/rendezvous", {"form": form, "user_code": "nonsense"}), 400, title)
    refused(visitor.post("/rendezvous", b"{}", Content_Type="application/json"), 400, title)
    refused(visitor.post("/rendezvous", b"form=" + b"a" * 9000), 413, "Too much")
    page = visitor.request("PUT", "/rendezvous", b"")
    refused(page, 405, "Not this way")
    assert page.headers["Allow"] == "GET, HEAD, POST"
    assert visitor.get("/session/refresh").status == 405
    refused(visitor.get("/rendezvous/none"), 404, "Nothing is here")
    refused(visitor.get("/rendezvous", Host="evil.example"), 421, "Not served here")
    refused(visitor.get("/rendezvous", X_Forwarded_Host="evil.example"), 421, "Not served here")
    refused(visitor.get("/rendezvous", X_Forwarded_For="me"), 400, title)
    refused(visitor.get("/rendezvous", X_Forwarded_Proto="gopher"), 400, title)


def test_bytes_that_are_no_http_or_a_head_without_end_are_refused(open_gateways: Gateways) -> None:
    for data in (b"\x16\x03\x01\x00", b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 20_000 + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", open_gateways.ports["n1"]), timeout=10) as connection:
            connection.sendall(data + b"\r\n\r\n")
            status = (
                b" 400 Bad Request\r\n" if data[0] == 0x16 else b" 431 Request Header Fields Too Large\r\n"
            )
            assert status in connection.recv(64)
    assert open_gateways.visitor().get("/readyz").status == 200


def test_hostile_texts_are_shown_and_never_markup(open_gateways: Gateways) -> None:
    hostile = "</title></style></dd>\"'><script>alert(1)</script>{form}{0}&lt;"
    started = begin(open_gateways.cluster["n1"], initiator=hostile, origin=hostile, data={"x": hostile})
    page = open_gateways.visitor().enter(started["user_code"])
    assert "<script" not in page.body
    assert html.unescape(page.body).count(hostile) == 3
    assert page.body.count("{form}{0}&amp;lt;") == 3


# -- begun in a browser --------------------------------------------------------------------------

BEGUN = "cyolo-begun"


def begin_in(visitor: Visitor, kind: str = "mfa") -> tuple[Page, str]:
    """Press a button of the begin page: the page that waits, and the code that it shows."""
    page = visitor.post("/begin", {"form": visitor.get("/begin").form, "kind": kind})
    assert page.status == 303, page.text
    assert page.headers["Location"] == "begin/wait"
    waiting = visitor.get("/begin/wait")
    refused(waiting, 200, "Waiting for approval")
    code = re.search(r"[B-Z]{4}-[B-Z]{4}", waiting.text)
    assert code
    return waiting, code[0]


@pytest.mark.parametrize("gateways", [{"begin": ("mfa",)}], indirect=True)
def test_begun_in_a_browser_its_node_killed_is_redeemed_through_another_by_that_browser_alone(
    gateways: Gateways,
) -> None:
    cluster = gateways.cluster
    visitor = gateways.visitor("n1", sub=None, client="203.0.113.1")
    waiting, code = begin_in(visitor)
    assert '<meta http-equiv="refresh" content="5">' in waiting.body
    assert f"http://{HOST}/rendezvous?user_code={code}" in waiting.body
    record = cluster["n3"].json("rendezvous", "show", code)
    assert (record["initiator"], record["origin"], record["kind"]) == ("browser", "203.0.113.1", "mfa")
    assert record["id"] not in waiting.body + str(waiting.headers)
    approved = cluster["n2"].cli("rendezvous", "approve", code, "--by", "bob", "--data", "seat=12A")
    assert approved.returncode == 0, approved.stderr
    cluster["n1"].kill()
    visitor.port = gateways.ports["n3"]
    page = visitor.get("/begin/wait")
    refused(page, 200, "Approved: go on")
    assert "12A" not in page.body  # not before it is redeemed
    redeemed = visitor.post("/begin/redeem", {"form": page.form})
    assert redeemed.status == 200, redeemed.text
    assert "bob" in redeemed.text
    assert "seat 12A" in redeemed.text
    # The same again, at another node too; for this browser alone.
    visitor.port = gateways.ports["n2"]
    again = visitor.post("/begin/redeem", {"form": page.form})
    assert again.text.replace("n2", "n3") == redeemed.text
    assert "12A" in visitor.post("/begin/redeem", {"form": visitor.get("/begin/wait").form}).text
    assert cluster["n2"].cli("rendezvous", "wait", record["id"]).returncode == 4
    other = gateways.visitor("n2", sub=None)
    refused(other.post("/begin/redeem", {"form": page.form}), 404, "Nothing was begun here")


@pytest.mark.parametrize("gateways", [{"begin": ("mfa",)}], indirect=True)
def test_wait_page_without_quorum_goes_on_looking_and_shows_the_answer_later(gateways: Gateways) -> None:
    cluster = gateways.cluster
    visitor = gateways.visitor("n1", sub=None)
    _, code = begin_in(visitor)
    cluster["n2"].kill()
    cluster["n3"].kill()
    page = visitor.get("/begin/wait")
    refused(page, 503, "Still waiting")
    assert code in page.text
    assert 'http-equiv="refresh"' in page.body
    cluster.start_all("n2", "n3")
    wait_until("n1 is ready", lambda: visitor.get("/readyz").status == 200)
    assert cluster["n2"].cli("rendezvous", "approve", code).returncode == 0
    page = visitor.get("/begin/wait")
    assert visitor.post("/begin/redeem", {"form": page.form}).status == 200


def test_begin_sent_again_to_another_node_begins_once(open_gateways: Gateways) -> None:
    visitor = open_gateways.visitor("n1", sub=None, client="203.0.113.2")
    fields = {"form": visitor.get("/begin").form, "kind": "sign-in"}
    texts = set()
    for name in ("n1", "n2", "n3"):
        visitor.port = open_gateways.ports[name]
        assert visitor.post("/begin", fields).status == 303
        found = re.search(r"[B-Z]{4}-[B-Z]{4}", visitor.get("/begin/wait").text)
        assert found
        texts.add(found[0])
    assert len(texts) == 1


def test_begin_beyond_ten_of_one_address_is_refused_on_every_node(open_gateways: Gateways) -> None:
    for number in range(10):
        visitor = open_gateways.visitor(f"n{number % 3 + 1}", sub=None, client=f"2001:db8:9::{number + 1:x}")
        begin_in(visitor)
    visitor = open_gateways.visitor("n2", sub=None, client="2001:db8:9::ff")
    page = visitor.post("/begin", {"form": visitor.get("/begin").form, "kind": "mfa"})
    refused(page, 429, "Too many attempts")
    begin_in(open_gateways.visitor("n2", sub=None, client="2001:db8:9:1::1"))


def test_begin_beyond_ten_of_one_person_is_refused_and_stops_nobody_behind_their_address(
    open_gateways: Gateways,
) -> None:
    client = "2001:db8:a::1"
    for number in range(10):
        begin_in(open_gateways.visitor(f"n{number % 3 + 1}", sub="many", client=client))
    visitor = open_gateways.visitor("n2", sub="many", client="2001:db8:b::1")
    page = visitor.post("/begin", {"form": visitor.get("/begin").form, "kind": "mfa"})
    refused(page, 429, "Too many attempts")
    begin_in(open_gateways.visitor("n1", sub="somebody", client=client))


def test_begin_of_another_origin_browser_or_kind_begins_nothing(open_gateways: Gateways) -> None:
    client = "203.0.113.3"
    visitor = open_gateways.visitor(sub=None, client=client)
    form = visitor.get("/begin").form
    other = open_gateways.visitor(sub=None, client=client)
    other.get("/begin")
    fields = {"form": form, "kind": "mfa"}
    for headers in ({"Origin": "https://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        refused(visitor.post("/begin", fields, **headers), 403, "Not from this page")
    refused(other.post("/begin", fields), 400, "This form is no longer valid")
    entered = open_gateways.visitor().get("/rendezvous").form
    refused(visitor.post("/begin", {**fields, "form": entered}), 400, "This form is no longer valid")
    for kind in ("", "other", "MFA", "<b>"):
        refused(visitor.post("/begin", {**fields, "kind": kind}), 400, "This cannot be read")
    refused(visitor.post("/begin", {"form": form}), 400, "This cannot be read")
    refused(visitor.get("/begin/wait"), 404, "Nothing was begun here")
    assert BEGUN not in {name for name, value in visitor.cookies.items() if value}
    listed = open_gateways.cluster["n1"].json("rendezvous", "list")["rendezvous"]
    assert not [record for record in listed if record["origin"] == client]


def test_redeeming_with_a_forged_or_another_browsers_cookie_is_refused(open_gateways: Gateways) -> None:
    visitor = open_gateways.visitor("n1", sub=None, client="203.0.113.4")
    other = open_gateways.visitor("n1", sub=None, client="203.0.113.4")
    _, code = begin_in(visitor)
    begin_in(other)
    assert open_gateways.cluster["n2"].cli("rendezvous", "approve", code).returncode == 0
    page = visitor.get("/begin/wait")
    refused(page, 200, "Approved: go on")
    # One person's cookie with the other's form, and the other's page fetched with that cookie.
    refused(other.post("/begin/redeem", {"form": page.form}), 400, "This form is no longer valid")
    refused(other.get("/begin/wait"), 200, "Waiting for approval")
    right = visitor.cookies[BEGUN]
    # A form is sealed by the same keys and for the same browser, and is no cookie.
    for forged in ("", "x", "A" * 107, altered(right), right + "A", page.form, visitor.get("/begin").form):
        visitor.cookies[BEGUN] = forged
        refused(visitor.get("/begin/wait"), 404, "Nothing was begun here")
        visitor.cookies[BEGUN] = forged
        answer = visitor.post("/begin/redeem", {"form": page.form})
        refused(answer, 404, "Nothing was begun here")
        assert answer.headers["Set-Cookie"].startswith(f"{BEGUN}=; Path=/; Max-Age=0;")
    visitor.cookies[BEGUN] = right
    for headers in ({"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
        refused(visitor.post("/begin/redeem", {"form": page.form}, **headers), 403, "Not from this page")
    assert open_gateways.cluster["n1"].json("rendezvous", "show", code)["state"] == "approved"
    assert visitor.post("/begin/redeem", {"form": page.form}).status == 200


def test_begun_denied_or_cancelled_has_its_own_page_and_loses_its_cookie(open_gateways: Gateways) -> None:
    for operation, status, title in (
        ("deny", 403, "It was denied"),
        ("cancel", 409, "It was cancelled"),
    ):
        visitor = open_gateways.visitor("n2", sub=None, client="203.0.113.5")
        _, code = begin_in(visitor)
        node = open_gateways.cluster["n1"]
        id = node.json("rendezvous", "show", code)["id"]
        assert node.cli("rendezvous", operation, id).returncode == 0
        page = visitor.get("/begin/wait")
        refused(page, status, title)
        assert 'href="../begin"' in page.body
        assert page.headers["Set-Cookie"].startswith(f"{BEGUN}=; Path=/; Max-Age=0;")
        refused(visitor.get("/begin/wait"), 404, "Nothing was begun here")


def test_begun_and_cancelled_while_continue_was_shown_is_refused(open_gateways: Gateways) -> None:
    visitor = open_gateways.visitor("n2", sub=None, client="203.0.113.6")
    _, code = begin_in(visitor)
    node = open_gateways.cluster["n1"]
    id = node.json("rendezvous", "show", code)["id"]
    node.json("rendezvous", "approve", code)
    page = visitor.get("/begin/wait")
    node.json("rendezvous", "cancel", id)
    refused(visitor.post("/begin/redeem", {"form": page.form}), 409, "Already answered")
    assert not visitor.cookies[BEGUN]


def test_hostile_answer_is_shown_to_who_began_and_never_markup(open_gateways: Gateways) -> None:
    hostile = "</title></style></dd>\"'><script>alert(1)</script>{form}{0}&lt;"
    visitor = open_gateways.visitor("n1", sub=None, client="203.0.113.7")
    _, code = begin_in(visitor)
    node = open_gateways.cluster["n1"]
    body = {"id": None, "user_code": code, "by": hostile, "request_id": None, "data": {"x": hostile}}
    node.client().call("rendezvous_approve", "", body)
    page = visitor.get("/begin/wait")
    redeemed = visitor.post("/begin/redeem", {"form": page.form})
    for shown, times in ((page, 1), (redeemed, 2)):
        assert shown.status == 200, shown.text
        assert "<script" not in shown.body
        assert shown.body.count("{form}{0}&amp;lt;") == times


def test_cookie_of_what_was_begun_behind_tls_is_for_this_host_and_ten_minutes(
    open_gateways: Gateways,
) -> None:
    visitor = open_gateways.visitor("n1", sub=None, client="203.0.113.8")
    visitor.headers["X-Forwarded-Proto"] = "https"
    page = visitor.post("/begin", {"form": visitor.get("/begin").form, "kind": "mfa"})
    cookie = page.headers["Set-Cookie"]
    assert cookie.startswith("__Host-cyolo-begun=")
    assert {"Path=/", "Max-Age=600", "HttpOnly", "SameSite=Lax", "Secure"} == set(cookie.split("; ")[1:])
    refused(visitor.get("/begin/wait"), 200, "Waiting for approval")


def test_sealed_approval_sent_twice_by_one_form_is_told_the_same(open_gateways: Gateways) -> None:
    key = base64.b64encode(X25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    started = begin(open_gateways.cluster["n1"], public_key=key)
    visitor = open_gateways.visitor("n1")
    page = visitor.enter(started["user_code"])
    other = open_gateways.visitor("n2")
    rival = other.enter(started["user_code"])
    first = visitor.decide("approve", page)
    assert first.status == 200, first.text
    visitor.port = open_gateways.ports["n3"]
    assert visitor.decide("approve", page).status == 200
    # Another form of the same person is no repetition, nor is another answer.
    refused(other.decide("approve", rival), 409, "Already answered")
    refused(visitor.decide("deny", page), 409, "Already answered")
    redeemed = open_gateways.cluster["n1"].json("rendezvous", "wait", started["id"])
    assert redeemed["sealed_result"]
    assert visitor.decide("approve", page).status == 200


# -- protection, redirects, sessions -------------------------------------------------------------


def test_every_answer_forbids_frames_scripts_and_caches(open_gateways: Gateways) -> None:
    visitor = open_gateways.visitor()
    for path in ("/rendezvous", "/rendezvous/approve", "/nothing", "/readyz", "/r/n2", "/metrics"):
        headers = visitor.get(path).headers
        policy = headers["Content-Security-Policy"]
        for part in ("default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"):
            assert part in policy
        assert "script-src" not in policy
        assert "unsafe" not in policy
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["cyolo-node"] == "n1"
        assert headers["Strict-Transport-Security"] is None
        assert "httptools" not in headers["Server"]


def test_page_behind_a_proxy_with_tls_has_a_host_cookie_and_hsts(open_gateways: Gateways) -> None:
    visitor = open_gateways.visitor()
    visitor.headers["X-Forwarded-Proto"] = "https"
    page = visitor.get("/rendezvous")
    assert page.headers["Strict-Transport-Security"]
    cookie = page.headers["Set-Cookie"]
    assert cookie.startswith("__Host-cyolo-form-")
    assert {"Path=/", "HttpOnly", "SameSite=Lax", "Secure"} == set(cookie.split("; ")[1:])
    started = begin(open_gateways.cluster["n1"])
    assert visitor.enter(started["user_code"]).status == 200


def test_redirect_goes_to_the_owner_that_is_up_and_nowhere_else(gateways: Gateways) -> None:
    cluster = gateways.cluster
    cluster["n1"].client().call("member_set_host", "n2", {"host": "app-2.example.com"})
    visitor = gateways.visitor("n1", sub=None)

    def location(path: str) -> str:
        page = visitor.get(path)
        assert page.status == 302, page.text
        return str(page.headers["Location"])

    there = "https://app-2.example.com/rendezvous"
    wait_until("n1 knows the host", lambda: location("/r/n2") == there)
    assert location("/r/n2?user_code=bcdfghjk") == f"{there}?user_code=BCDF-GHJK"
    assert location("/r/n2?user_code=%0d%0aX:1&next=//evil.example") == there
    assert location("/r/n1?user_code=bcdfghjk") == "../rendezvous?user_code=BCDF-GHJK"
    for path in ("/r/", "/r/n9", "/r//evil.example", "/r/https://evil.example", "/r/%2e%2e"):
        refused(visitor.get(path), 404, "Not found")
    # At the owner's own host, whichever node answers there.
    visitor.host = "app-2.example.com"
    assert location("/r/n2") == "../rendezvous"
    visitor.host = HOST
    # A session is for one host: whoever has one there stays, and so does everybody at a shared host, from
    # which the proxies' cookie leads to the node.
    signed_in = gateways.visitor("n1")
    page = signed_in.get("/r/n2?user_code=bcdfghjk")
    assert page.headers["Location"] == "../rendezvous?user_code=BCDF-GHJK"
    assert signed_in.cookies["cyolo-node"] == "n2"
    assert begin(cluster["n2"])["verification_uri"] == "https://app-2.example.com/rendezvous"
    cluster["n1"].json("route", "share", "web.example.com")
    wait_until(
        "n2 knows what is shared",
        lambda: begin(cluster["n2"])["verification_uri"] == "https://web.example.com/rendezvous",
    )
    visitor.host = "app-2.example.com"
    wait_until("n1 too", lambda: visitor.get("/rendezvous").status == 302)
    assert location("/rendezvous?user_code=bcdfghjk") == "http://web.example.com/r/n1?user_code=BCDF-GHJK"
    visitor.host = "web.example.com"
    assert location("/r/n2") == "../rendezvous"
    assert visitor.cookies["cyolo-node"] == "n2"
    cluster["n2"].kill()
    visitor.host = HOST
    wait_until("n2 is away", lambda: location("/r/n2") == "../rendezvous")


def test_session_refresh_sets_a_new_cookie_and_leaves_it_when_an_older_one_is_rejected(
    open_gateways: Gateways,
) -> None:
    visitor = open_gateways.visitor("n3")
    before = visitor.cookies["cyolo-sid"]
    page = visitor.post("/session/refresh", b"")
    assert page.status == 204
    assert page.body == ""
    assert visitor.cookies["cyolo-sid"] not in ("", before)
    inspected = (
        open_gateways.cluster["n1"]
        .client()
        .call("token_inspect", "", {"token": visitor.cookies["cyolo-sid"]})
    )
    assert inspected["sub"] == "alice@example.com"
    visitor.cookies["cyolo-sid"] = altered(before)
    page = visitor.post("/session/refresh", b"")
    assert page.status == 401
    assert "Set-Cookie" not in page.headers
    assert open_gateways.visitor(sub=None).post("/session/refresh", b"").status == 401


def test_good_session_is_found_beside_cookies_that_do_not_open_and_not_beside_another_good_one(
    open_gateways: Gateways,
) -> None:
    visitor = open_gateways.visitor(sub=None)
    node = open_gateways.cluster["n1"]
    good, other = session(node), session(node, "mallory")
    for cookies in (f"cyolo-sid=junk; cyolo-sid={good}", f"cyolo-sid={good}; cyolo-sid={good[:-1]}"):
        assert visitor.get("/rendezvous", Cookie=cookies).text.startswith("Enter the code")
        assert visitor.post("/session/refresh", b"", Cookie=cookies).status == 204
    # Other hosts of the site may set as many as they like; only tokens are tried.
    many = "; ".join(f"cyolo-sid=junk{n}" for n in range(90))
    assert visitor.get("/rendezvous", Cookie=f"{many}; cyolo-sid={good}").text.startswith("Enter the code")
    flood = "; ".join(f"cyolo-sid=VAH8junk{n}" for n in range(40))
    for cookies in (f"cyolo-sid={good}; cyolo-sid={other}", f"{flood}; cyolo-sid={good}", "cyolo-sid=junk"):
        assert visitor.get("/rendezvous", Cookie=cookies).text.startswith("Sign in first")
        assert visitor.post("/session/refresh", b"", Cookie=cookies).status == 401


def test_cookie_that_no_other_host_can_set_comes_first_and_keeps_its_name(open_gateways: Gateways) -> None:
    visitor = open_gateways.visitor(sub=None)
    node = open_gateways.cluster["n1"]
    name = "__Host-cyolo-sid"
    mine = node.json("token", "mint", "--sub", "alice", "--cookie-name", name)["token"]
    other, plain = session(node, "mallory"), session(node, "carol")
    # Another host of the site sets good ones of its own, and copies ours under the plain name.
    for cookies in (
        f"cyolo-sid={other}; {name}={mine}",
        f"cyolo-sid={other}; cyolo-sid={plain}; {name}={mine}",
        f"cyolo-sid={mine}; {name}={mine}",
    ):
        assert "You answer as alice." in visitor_decides(open_gateways, visitor, cookies)
        page = visitor.post("/session/refresh", b"", Cookie=cookies)
        assert page.status == 204
        assert page.headers["Set-Cookie"].startswith(f"{name}=VAH8")
        assert "; Secure" in page.headers["Set-Cookie"]
        assert "Domain" not in page.headers["Set-Cookie"]
    # What is stale there hides no good one of the plain name.
    assert "You answer as carol." in visitor_decides(
        open_gateways, visitor, f"cyolo-sid={plain}; {name}=VAH8x"
    )
    assert visitor.get("/rendezvous", Cookie=f"{name}={other}").text.startswith("Sign in first")


def visitor_decides(gateways: Gateways, visitor: Visitor, cookies: str) -> str:
    """The page that says who answers, for a session cookie beside the visitor's others."""
    code = begin(gateways.cluster["n1"])["user_code"]
    page = visitor.get("/rendezvous", Cookie=cookies)
    kept = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items() if "form" in name)
    fields = {"form": page.form, "user_code": code}
    return visitor.post("/rendezvous", fields, Cookie=f"{cookies}; {kept}").text


def test_two_tabs_that_refresh_or_change_a_session_at_once_end_it_for_neither(
    open_gateways: Gateways,
) -> None:
    visitors = [open_gateways.visitor(name, sub=None) for name in ("n1", "n2", "n3")]
    node = open_gateways.cluster["n1"]
    before = session(node)
    with ThreadPoolExecutor(6) as pool:
        pages = list(
            pool.map(lambda v: v.post("/session/refresh", b"", Cookie=f"cyolo-sid={before}"), visitors * 2)
        )
    assert {page.status for page in pages} == {204}
    fresh = {page.headers["Set-Cookie"].partition(";")[0] for page in pages}
    # Copies of one session, left behind under other paths: the newest counts, whatever their order.
    newer = node.cli("token", "update", "-", "--set", "a=1", "--keep-previous", stdin=before).stdout.strip()
    for cookies in ([*fresh, f"cyolo-sid={newer}"], [f"cyolo-sid={newer}", *fresh]):
        page = visitors[1].post("/session/refresh", b"", Cookie="; ".join(cookies))
        assert page.status == 204
        token = page.headers["Set-Cookie"].partition(";")[0].removeprefix("cyolo-sid=")
        assert node.client().call("token_inspect", "", {"token": token})["gen"] == 2
    # One tab gets a newer generation while the other is on its way with the old one: that is refused, and
    # leaves the browser the new one.
    newest = node.cli("token", "update", "-", "--set", "a=2", stdin=newer).stdout.strip()

    def superseded() -> bool:
        page = visitors[2].post("/session/refresh", b"", Cookie=f"cyolo-sid={newer}")
        assert "Set-Cookie" not in page.headers or page.status == 204
        return page.status == 401

    wait_until("n3 knows the newer generation", superseded)
    both = f"cyolo-sid={newer}; cyolo-sid={newest}"
    assert visitors[2].post("/session/refresh", b"", Cookie=both).status == 204


# -- health and metrics --------------------------------------------------------------------------


def test_metrics_parse_and_follow_what_happened(open_gateways: Gateways) -> None:
    visitor = open_gateways.visitor("n1")
    started = begin(open_gateways.cluster["n1"])
    visitor.enter(started["user_code"])
    page = visitor.get("/metrics")
    assert page.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(page.body)}
    assert all(family.documentation and family.type != "unknown" for family in families.values())
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["cyoloctl_raft_has_leader",] == 1
    assert samples["cyoloctl_raft_voters",] == 3
    assert samples["cyoloctl_raft_peers_reachable",] == 2
    assert samples["cyoloctl_rendezvous", ("state", "pending")] >= 1
    assert samples["cyoloctl_tokens_total", ("result", "opened")] >= 2
    route = ("route", "/rendezvous")
    seen = samples["cyoloctl_gateway_requests_total", route, ("status", "200")]
    assert seen >= 2
    buckets = [
        value
        for key, value in samples.items()
        if key[0] == "cyoloctl_gateway_request_duration_seconds_bucket" and route in key
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == samples["cyoloctl_gateway_request_duration_seconds_count", route]
    for secret in (started["id"], started["user_code"], visitor.cookies["cyolo-sid"]):
        assert secret not in page.body


def test_metrics_are_refused_to_who_comes_through_the_proxy(open_gateways: Gateways) -> None:
    assert open_gateways.visitor(client="203.0.113.9").get("/metrics").status == 403
    assert open_gateways.visitor(client="127.0.0.1, 203.0.113.9").get("/metrics").status == 403


def test_record_that_expired_while_the_form_was_open_is_gone(open_gateways: Gateways) -> None:
    wait_until("it expired", lambda: open_gateways.state(open_gateways.expiring) == "expired")
    page = open_gateways.expiring_visitor.decide("approve", open_gateways.expiring_page)
    refused(page, 410, "It has expired")


# -- start and stop ------------------------------------------------------------------------------


def test_cluster_made_with_gateway_flags_serves_and_announces_it(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        port = free_port()
        node = cluster.init(
            "n1", "--gateway", f"127.0.0.1:{port}", "--gateway-url", "https://app-1.example.com"
        )
        wait_gateways(cluster, {"n1": port})
        assert begin(node)["verification_uri"] == "https://app-1.example.com/rendezvous"
        assert node.terminate() == 0
        with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_node_whose_gateway_port_is_taken_says_which_setting(stopped: Cluster) -> None:
    ports = add_gateways(stopped)
    with socket.create_server(("127.0.0.1", ports["n1"])):
        refused_start = stopped["n1"].start_refused()
    assert refused_start.returncode == 4
    assert "gateway.listen" in refused_start.stderr
    assert str(ports["n1"]) in refused_start.stderr


def test_node_whose_certificate_is_missing_says_which_setting(stopped: Cluster) -> None:
    add_gateways(stopped, certificate="/nowhere/tls.crt", key="/nowhere/tls.key")
    refused_start = stopped["n1"].start_refused()
    assert refused_start.returncode == 78
    assert "gateway.tls" in refused_start.stderr


def test_gateway_that_is_taken_out_of_the_configuration_is_withdrawn(gateways: Gateways) -> None:
    cluster = gateways.cluster
    assert cluster["n1"].terminate() == 0
    path = cluster["n1"].directory / "node.yaml"
    write_config(path, replace(load_config(path), gateway=None))
    cluster["n1"].start()

    def withdrawn() -> bool:
        backends = cluster["n2"].client().call("route_list")["backends"]
        return next(b["address"] for b in backends if b["name"] == "n1") is None

    wait_until("n2 knows that n1 has no gateway", withdrawn)
