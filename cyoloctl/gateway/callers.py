"""Callers of the gateway: browsers, persons and networks, and the bounds of each."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections import Counter
from dataclasses import replace
from urllib.parse import parse_qsl, quote

from markupsafe import Markup

from cyoloctl.caller import CALLER, Actor, Caller
from cyoloctl.errors import BodyTooLarge, InvalidInput, TokenRejected
from cyoloctl.gateway.answers import Answer, page
from cyoloctl.gateway.forms import (
    Forms,
    GatewayRequest,
    Opened,
    RefusalPage,
    browsers_of,
    code_of,
    host_of_url,
    network_caller,
    person_caller,
)
from cyoloctl.gateway.settings import RETURN, GatewayNode, GatewaySettings, Limits
from cyoloctl.gateway.templates import SIGN_IN
from cyoloctl.web.request import Request, read_body

__all__ = ["LIMIT_S", "Callers", "SignInFirst", "answered_by", "once"]

_log = logging.getLogger("cyoloctl.gateway")

_MAX_BODY_BYTES = 8 * 1024
#: How long the node may take for a request.  What proxies wait is longer (routing.ExportOptions): they must
#: hear our 503, not give up on us.
LIMIT_S = 4.5


class SignInFirst(Exception):
    """Ends a request with the page that says so.  code: the user code with which the person comes back."""

    def __init__(self, code: str) -> None:
        super().__init__("sign in first")
        self.code = code


class Callers:
    """The callers of one gateway."""

    def __init__(self, node: GatewayNode, settings: GatewaySettings, limits: Limits) -> None:
        self.forms = Forms(node.form_keys, os.urandom)
        self._node = node
        #: May change while the gateway runs.
        self.settings = settings
        self._limits = limits
        #: How many requests of a caller are being answered.
        self._served: Counter[str] = Counter()

    def done(self, asked: GatewayRequest) -> None:
        """The request is answered."""
        name = asked.served
        if name is not None:
            self._served[name] -= 1
            if self._served[name] <= 0:
                del self._served[name]

    async def body(self, request: Request) -> bytes:
        """A request's body.  Raises BodyTooLarge, InvalidInput when it dawdles."""
        too_large = BodyTooLarge(f"the body is larger than {_MAX_BODY_BYTES} bytes")
        return await read_body(request, _MAX_BODY_BYTES, self._limits.body_s, too_large)

    def form_cookie(self, asked: GatewayRequest) -> str:
        """The name of the cookies that forms are sealed for, up to a dash."""
        # The prefix keeps other hosts of the same site from setting it (RFC 6265bis 4.1.3); it needs TLS.
        return "__Host-cyolo-form" if asked.scheme == "https" else "cyolo-form"

    def browsers(self, asked: GatewayRequest) -> tuple[str, ...]:
        """The secrets that the browser shows."""
        return browsers_of(asked.cookie, self.form_cookie(asked))

    def browser(self, asked: GatewayRequest) -> tuple[tuple[str, ...], list[str]]:
        """The browser's secrets, one at least, and the cookies that make them known from now on."""
        known = self.browsers(asked)
        if known:
            return known, []
        browser = secrets.token_urlsafe(16)
        # A name of its own: a second page that is opened before this cookie arrives takes nothing away.
        name = f"{self.form_cookie(asked)}-{secrets.token_hex(4)}"
        secure = "; Secure" if asked.scheme == "https" else ""
        # Lax: a link from elsewhere must find the cookie, or it would get another one.  No other site can
        # send it with a POST, and a GET changes nothing.
        return (browser,), [f"{name}={browser}; Path=/; HttpOnly; SameSite=Lax{secure}"]

    async def actor(self, asked: GatewayRequest, browsers: tuple[str, ...], *, current: bool) -> Actor:
        """The caller, as far as cookies prove it.  The request is served on their behalf from now on.

        current: as of now in the whole cluster.  Raises RefusalPage for whoever asks for too much at once.
        """
        CALLER.set(network_caller(asked.client))
        actor = Actor(browsers=browsers)
        try:
            found = await self._node.session(asked.cookie, current=current, timeout_s=LIMIT_S)
        except TokenRejected:
            pass
        else:
            CALLER.set(person_caller(found["sub"]))
            actor = Actor(sub=found["sub"], sid=found["sid"], browsers=browsers, claims=found["claims"])
        self.serve(asked, CALLER.get())
        return actor

    def serve(self, asked: GatewayRequest, caller: Caller) -> None:
        """Count the request for its caller until it is answered.  Raises RefusalPage."""
        if self._served[caller.name] >= self._limits.caller_requests:
            raise RefusalPage(
                429,
                "Too many at once",
                "Too many of your requests are being answered at this moment. Nothing was changed: "
                "try again in a moment.",
                {"Retry-After": "1"},
            )
        asked.served = caller.name
        self._served[caller.name] += 1

    def person(self, actor: Actor) -> str | None:
        """Whose session it is, "" where none is needed; None: sign in first."""
        if actor.sub is not None:
            return actor.sub
        return None if self.settings.require_session else ""

    def page_url(self, asked: GatewayRequest, code: str = "") -> str:
        """The page for codes at the host that was asked, with the code filled in.

        Nothing of it is a stranger's: the host is one of ours, and the code letters.
        """
        url = self._node.page_url(asked.host) or f"{asked.origin}/rendezvous"
        return f"{url}?user_code={code}" if code else url

    def sign_in(self, asked: GatewayRequest | None, status: int, code: str) -> Answer:
        """The page that says where to sign in; code: the user code with which the person comes back."""
        url, then = self.settings.sign_in_url, "open this link again"
        link = Markup("<p>Ask the operator where to sign in.</p>")
        if url is not None and RETURN in url and asked is not None:
            url, then = url.replace(RETURN, quote(self.page_url(asked, code), safe="")), "you come back here"
        if url is not None:
            link = Markup('<a class="button" href="{url}" rel="noreferrer">Sign in</a>').format(url=url)
        return page(self._node.name, status, "Sign in first", SIGN_IN.format(link=link, then=then))

    def home(self, asked: GatewayRequest) -> str | None:
        """The origin of the shared host at which people are signed in, None where this is one or none is.

        Of several, that of the sign-in link.
        """
        shared = self._node.shared_hosts()
        if not shared or not self._node.is_pin(asked.host):
            return None
        first = host_of_url(self.settings.sign_in_url or "")
        return asked.origin_at(first if first in shared else shared[0])

    def from_our_page(self, asked: GatewayRequest) -> None:
        """Check that no other site's page made the request.  Raises RefusalPage, and logs it."""
        try:
            asked.refuse_other_origins()
        except RefusalPage:
            _log.info("a request of another origin was refused", extra={"expected": asked.origin})
            raise

    async def fields(self, asked: GatewayRequest, request: Request, *fields: str) -> dict[str, str]:
        """The fields of one of our forms: these and "form".  Raises RefusalPage, InvalidInput."""
        self.from_our_page(asked)
        if request.content_type != "application/x-www-form-urlencoded":
            raise InvalidInput("this is not a form of this page")
        try:
            pairs = parse_qsl(
                (await self.body(request)).decode("ascii"),
                keep_blank_values=True,
                strict_parsing=True,
                errors="strict",
                max_num_fields=len(fields) + 1,
            )
        except ValueError:
            raise InvalidInput("this is not a form of this page") from None
        given = dict(pairs)
        if len(pairs) != len(given) or given.keys() != {"form", *fields}:
            raise InvalidInput("this is not a form of this page")
        return given

    async def posted(
        self, asked: GatewayRequest, request: Request, purpose: str, *fields: str
    ) -> tuple[dict[str, str], Opened, Actor, str]:
        """The fields, what the form sealed, who sent it and the person.  Raises RefusalPage, InvalidInput."""
        given = await self.fields(asked, request, *fields)
        actor = await self.actor(asked, self.browsers(asked), current=True)
        person = self.person(actor)
        if person is None:
            raise SignInFirst(code_of(given.get("user_code", "")))
        opened, actor = self.opened(given["form"], purpose, actor, person)
        return given, opened, actor, person

    def opened(self, form: str, purpose: str, actor: Actor, person: str) -> tuple[Opened, Actor]:
        """What a form sealed, and who sent it, first by the secret that it is for.  Raises RefusalPage."""
        opened, browser = self.forms.open(form, purpose, actor.browsers, person, self._node.now_unix_s())
        others = tuple(other for other in actor.browsers if other != browser)
        return opened, replace(actor, browsers=(browser, *others))


def answered_by(asked: GatewayRequest, person: str) -> str:
    """Name of the one who answers a rendezvous, for its record: the person, otherwise the address."""
    return person or f"ip:{asked.client}"


def once(purpose: str, what: str, form: Opened) -> str:
    """The request id of what a form does, 32 hex digits: the same however and wherever it is sent again."""
    return hashlib.sha256("\0".join((purpose, what, form.digest)).encode()).hexdigest()[:32]
