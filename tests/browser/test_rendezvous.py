"""The rendezvous page in a real browser: begun at one node, answered through another, redeemed at a third."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.browser.webdriver import ENTER, TAB, Browser, Switch, browser, require_chromium
from tests.support.cluster import Cluster, wait_until
from tests.support.gateways import HOST, add_gateways, begin, session, wait_gateways

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
RESOLVE = [f"--host-resolver-rules=MAP {HOST} 127.0.0.1"]
HOSTILE = {
    "amount": "</dd><script>document.title='owned'</script>",
    "note": "\"><img src=x onerror=alert(1)>' onmouseover='alert(2)",
    "long": "w" * 900,
}


def certificate(where: Path) -> tuple[str, str]:
    """A certificate of its own for HOST and loopback: (certificate file, key file)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(HOST), x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    files = where / "tls.crt", where / "tls.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(files[0]), str(files[1])


@dataclass
class Site:
    """Three nodes with gateways behind one address, which is handed from node to node."""

    cluster: Cluster
    ports: dict[str, int]
    switch: Switch

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.switch.port}"

    def through(self, name: str) -> None:
        self.switch.target = self.ports[name]


def stopped_nodes(where: Path) -> Cluster:
    """Three voters, formed and stopped."""
    require_chromium()  # before the work
    with Cluster(where) as cluster:
        cluster.form(3)
        cluster.stop_all()
    return cluster


@contextlib.contextmanager
def serving(cluster: Cluster, where: Path) -> Iterator[Site]:
    """The nodes of a stopped cluster with gateways, running."""
    files = certificate(where)
    ports = add_gateways(
        cluster,
        certificate=files[0],
        key=files[1],
        sign_in_url=f"https://{HOST}/login",
        begin=("mfa", "sign-in"),
    )
    with cluster:
        cluster.start_all()
        cluster.wait_healthy()
        wait_gateways(cluster, ports, tls=True)
        with Switch(ports["n1"]) as switch:
            yield Site(cluster, ports, switch)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    where = tmp_path_factory.mktemp("standing")
    with serving(stopped_nodes(where), where) as site:
        yield site


@pytest.fixture
def site(standing: Site) -> Site:
    """Nodes that every test leaves running; what others began stays where it is."""
    standing.through("n1")
    return standing


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return stopped_nodes(tmp_path_factory.mktemp("formed"))


@pytest.fixture
def mortal(formed: Cluster, tmp_path: Path) -> Iterator[Site]:
    """Nodes of one test, which kills some."""
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    with serving(formed.copy_to(nodes), tmp_path) as site:
        yield site


def sign_in(shown: Browser, site: Site) -> None:
    """Sign in as an application would: leave a session cookie."""
    shown.open(f"{site.url}/healthz")
    shown.add_cookie("cyolo-sid", session(site.cluster["n2"]))


def open_code(shown: Browser, site: Site, code: str) -> None:
    """Open the form with a code; again while the nodes of a busy machine have no leader."""

    def opened() -> str:
        shown.open(f"{site.url}/rendezvous?user_code={code}")
        return shown.find("#user_code")

    wait_until("the form with the code", opened)


def look(shown: Browser, name: str) -> None:
    """A picture for the documentation, when `make screenshots` asks for it."""
    if os.environ.get("SCREENSHOTS"):
        path = ROOT / "docs" / "images" / f"rendezvous-{name}.png"
        path.parent.mkdir(exist_ok=True)
        shown.screenshot(path)
        assert path.stat().st_size < 150_000


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile", arguments=RESOLVE) as found:
        yield found


def test_flow_when_the_first_node_is_killed_between_form_and_answer_completes(
    mortal: Site, shown: Browser
) -> None:
    cluster = mortal.cluster
    started = begin(cluster["n1"])
    assert started["node"] == "n1"
    sign_in(shown, mortal)
    open_code(shown, mortal, started["user_code"].lower())
    assert shown.attribute("#user_code", "value") == started["user_code"]
    look(shown, "code")
    shown.click("button")
    text = shown.text()
    for part in (
        "cli:zoe",
        "198.51.100.7",
        "mfa",
        "n1",
        "12.50 EUR",
        started["user_code"],
        "alice@example.com",
    ):
        assert part in text
    assert "Approve only what you started yourself" in text
    assert started["id"] not in shown.command("GET", "/source")
    look(shown, "approve")
    cluster["n1"].kill()
    mortal.through("n2")
    shown.click("button:not(.no)")
    assert shown.title == "Approved"
    assert "Served by node n2" in shown.text()
    look(shown, "approved")
    redeemed = cluster["n3"].json("rendezvous", "wait", started["id"])
    assert (redeemed["state"], redeemed["approved_by"]) == ("consumed", "alice@example.com")
    again = cluster["n2"].cli("rendezvous", "wait", started["id"])
    assert again.returncode == 4


def test_flow_without_scripts_by_keyboard_alone_completes(mortal: Site, tmp_path: Path) -> None:
    started = begin(mortal.cluster["n1"])
    with browser(tmp_path / "profile", scripts=False, arguments=RESOLVE) as shown:
        shown.open("data:text/html,<title>off</title><script>document.title='on'</script>")
        assert shown.title == "off"
        sign_in(shown, mortal)
        open_code(shown, mortal, started["user_code"])
        shown.keys(TAB, ENTER)
        wait_until("who asks is shown", lambda: shown.title == "Approve \u201cmfa\u201d?")
        mortal.cluster["n1"].kill()
        mortal.through("n2")
        shown.keys(TAB, TAB, ENTER)
        wait_until("the answer is shown", lambda: shown.title == "Approved")
    redeemed = mortal.cluster["n3"].json("rendezvous", "wait", started["id"])
    assert redeemed["approved_by"] == "alice@example.com"


def test_flow_begun_in_the_browser_and_approved_from_another_client_is_redeemed(
    mortal: Site, shown: Browser
) -> None:
    cluster = mortal.cluster
    started = begin(cluster["n1"])
    sign_in(shown, mortal)
    open_code(shown, mortal, started["user_code"])
    shown.click("button")
    cluster["n1"].kill()
    approved = cluster["n2"].json("rendezvous", "approve", started["user_code"], "--by", "bob")
    assert approved["state"] == "approved"
    mortal.through("n2")
    shown.click("button:not(.no)")
    assert shown.title == "Already answered"
    redeemed = cluster["n3"].json("rendezvous", "wait", started["id"])
    assert (redeemed["state"], redeemed["approved_by"]) == ("consumed", "bob")


def begin_in(shown: Browser, mortal: Site) -> str:
    """Begin in the browser: the user code that it shows."""
    shown.open(f"{mortal.url}/begin")
    shown.click("button")
    assert shown.title == "Waiting for approval"
    return shown.texts(".code")[0]


def test_flow_begun_in_the_browser_on_n1_approved_through_n2_is_redeemed_on_n3_while_n1_is_dead(
    mortal: Site, shown: Browser
) -> None:
    cluster = mortal.cluster
    shown.open(f"{mortal.url}/begin")
    assert shown.texts("button") == ["Begin \u201cmfa\u201d", "Begin \u201csign-in\u201d"]
    look(shown, "begin")
    code = begin_in(shown, mortal)
    assert "Served by node n1" in shown.text()
    assert f"{mortal.url}/rendezvous" in shown.text()
    look(shown, "wait")
    approved = cluster["n2"].json(
        "rendezvous", "approve", code, "--by", "bob", "--data", "badge=4711", "--data", "until=18:00"
    )
    assert (approved["state"], approved["node"], approved["initiator"]) == ("approved", "n1", "browser")
    cluster["n1"].kill()
    mortal.through("n3")
    # By itself: the page looks again.
    wait_until("the page goes on", lambda: shown.title == "Approved: go on")
    look(shown, "go-on")
    shown.click("button")
    assert shown.title == "Approved"
    assert "Served by node n3" in shown.text()
    look(shown, "redeemed")
    assert shown.texts("dd") == ["bob", "mfa", "4711", "18:00"]
    # Once: pressing again, at another node, shows the same; nobody else gets it.
    mortal.through("n2")
    shown.command("POST", "/refresh", {})
    assert shown.texts("dd") == ["bob", "mfa", "4711", "18:00"]
    assert cluster["n3"].cli("rendezvous", "wait", approved["id"]).returncode == 4
    assert shown.console() == []
    cookie = shown.cookies()["__Host-cyolo-begun"]
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")


def test_what_one_browser_began_is_not_redeemed_by_another(
    site: Site, shown: Browser, tmp_path: Path
) -> None:
    code = begin_in(shown, site)
    node, note = site.cluster["n2"], HOSTILE["note"]
    assert node.cli("rendezvous", "approve", code, "--data", f"note={note}").returncode == 0
    with browser(tmp_path / "other", arguments=RESOLVE) as other:
        other.open(f"{site.url}/begin/wait")
        assert other.title == "Nothing was begun here"
        begin_in(other, site)
        assert code not in other.text()
    wait_until("the page goes on", lambda: shown.title == "Approved: go on")
    shown.click("button")
    assert shown.title == "Approved"
    assert note in shown.texts("dd")
    assert shown.run("return document.querySelectorAll('script,img').length") == 0
    assert shown.console() == []


def test_flow_begun_without_scripts_by_keyboard_and_answered_by_a_phone_completes(
    mortal: Site, shown: Browser, tmp_path: Path
) -> None:
    with browser(tmp_path / "other", scripts=False, arguments=RESOLVE) as began:
        began.open(f"{mortal.url}/begin")
        began.keys(TAB, ENTER)
        wait_until("it waits", lambda: began.title == "Waiting for approval")
        code = began.texts(".code")[0]
        sign_in(shown, mortal)
        mortal.cluster["n1"].kill()
        mortal.through("n3")
        open_code(shown, mortal, code)
        shown.click("button")
        assert "browser" in shown.texts("dd")
        shown.click("button:not(.no)")
        wait_until("the page goes on", lambda: began.title == "Approved: go on")
        began.keys(TAB, ENTER)
        wait_until("the answer is shown", lambda: began.title == "Approved")
        assert "alice@example.com" in began.texts("dd")


def test_wait_page_on_a_narrow_phone_stays_readable(site: Site, tmp_path: Path) -> None:
    with browser(tmp_path / "profile", width=320, height=640, arguments=RESOLVE) as shown:
        begin_in(shown, site)
        assert shown.run("return document.documentElement.scrollWidth") <= 320
        assert shown.size(".code")[1] < 80  # the code on one line


def test_begin_form_of_another_site_begins_nothing(site: Site, tmp_path: Path) -> None:
    before = site.cluster["n2"].json("rendezvous", "list")["rendezvous"]
    with browser(tmp_path / "profile", arguments=RESOLVE) as shown:
        shown.open(
            f"data:text/html,<form method=post action='{site.url}/begin'>"
            "<input name=kind value=mfa><input name=form value=x><button>win</button></form>"
        )
        shown.click("button")
        assert shown.title == "Not from this page"
    after = site.cluster["n2"].json("rendezvous", "list")["rendezvous"]
    assert [record["id"] for record in after] == [record["id"] for record in before]


def test_denying_in_the_browser_ends_the_wait(site: Site, shown: Browser) -> None:
    started = begin(site.cluster["n1"])
    sign_in(shown, site)
    site.through("n3")
    shown.open(f"{site.url}/rendezvous")
    shown.type("#user_code", started["user_code"])
    shown.click("button")
    shown.click("button.no")
    assert shown.title == "Denied"
    assert site.cluster["n1"].cli("rendezvous", "wait", started["id"]).returncode == 4


def test_reload_of_the_answer_counts_once_and_shows_it_again(site: Site, shown: Browser) -> None:
    started = begin(site.cluster["n1"])
    sign_in(shown, site)
    open_code(shown, site, started["user_code"])
    shown.click("button")
    shown.click("button:not(.no)")
    shown.command("POST", "/refresh", {})
    assert shown.title == "Approved"


def test_page_in_the_browser_has_names_and_roles_and_breaks_no_policy(site: Site, tmp_path: Path) -> None:
    started = begin(site.cluster["n1"])
    with browser(tmp_path / "profile", arguments=RESOLVE) as shown:
        sign_in(shown, site)
        open_code(shown, site, started["user_code"])
        assert (shown.role("#user_code"), shown.label("#user_code")) == ("textbox", "Code")
        assert shown.run("return document.documentElement.lang") == "en"
        # The style applies under the policy: a browser would drop it for a wrong hash.
        assert shown.run("return getComputedStyle(document.querySelector('button')).display") == "block"
        shown.click("button")
        assert shown.texts("h1") == ["Approve \u201cmfa\u201d?"]
        assert (shown.label("button.no"), shown.label("button:not(.no)")) == ("Deny", "Approve")
        assert shown.console() == []
        [cookie] = [c for name, c in shown.cookies().items() if name.startswith("__Host-cyolo-form-")]
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
        assert shown.run("return document.cookie") == ""


def test_page_on_a_narrow_phone_with_hostile_data_stays_readable(site: Site, tmp_path: Path) -> None:
    started = begin(
        site.cluster["n1"], data=HOSTILE, initiator="<b>root</b> & 'co'", origin="https://" + "x" * 200
    )
    with browser(
        tmp_path / "profile",
        width=320,
        height=640,
        arguments=RESOLVE,
    ) as shown:
        sign_in(shown, site)
        open_code(shown, site, started["user_code"])
        assert shown.run("return document.documentElement.scrollWidth") <= 320
        shown.click("button")
        assert shown.title == "Approve \u201cmfa\u201d?"
        assert shown.run("return document.documentElement.scrollWidth") <= 320
        # Fingers need 44 CSS pixels (WCAG 2.2, 2.5.5).
        for selector in ("button.no", "button:not(.no)"):
            width, height = shown.size(selector)
            assert width >= 120
            assert height >= 44
        values = shown.texts("dd")
        assert set(HOSTILE.values()) | {"<b>root</b> & 'co'"} <= set(values)
        assert shown.run("return document.querySelectorAll('script,img,b').length") == 0
        assert shown.console() == []


def test_page_without_a_session_says_where_to_sign_in(site: Site, shown: Browser) -> None:
    shown.open(f"{site.url}/rendezvous")
    assert shown.title == "Sign in first"
    look(shown, "sign-in")
    assert shown.attribute("a.button", "href") == f"https://{HOST}/login"


def test_page_in_a_frame_of_another_site_shows_nothing(site: Site, tmp_path: Path) -> None:
    with browser(tmp_path / "profile", arguments=RESOLVE) as shown:
        sign_in(shown, site)
        evil = f"data:text/html,<iframe src='{site.url}/rendezvous'></iframe>"
        shown.open(evil)
        shown.command("POST", "/frame", {"id": 0})
        assert "Enter the code" not in shown.command("GET", "/source")


def test_form_of_another_site_changes_nothing(site: Site, tmp_path: Path) -> None:
    started = begin(site.cluster["n1"])
    with browser(tmp_path / "profile", arguments=RESOLVE) as shown:
        sign_in(shown, site)
        shown.open(
            "data:text/html,"
            f"<form method=post action='{site.url}/rendezvous'>"
            f"<input name=user_code value={started['user_code']}><input name=form value=x>"
            "<button>win</button></form>"
        )
        shown.click("button")
        assert shown.title == "Not from this page"
    shown_state = site.cluster["n2"].json("rendezvous", "show", started["id"])
    assert (shown_state["state"], shown_state["failed_attempts"]) == ("pending", 0)
