"""The pages of a rendezvous: enter a code and decide; begin one in the browser and get its answer.

* A GET changes nothing and looks no code up.
* The form names the record encrypted: the id redeems the answer, so whoever
  approves must not learn it.
* What a browser began is in a cookie of its own, sealed by the same keys: any node
  goes on with it, and no other browser.
* A form counts once: the request id of the transition is a hash of what the form
  seals, so it can be sent again, to another node, when the answer to the first was
  lost, and no other way to write it down is another request.
* Consent phishing (RFC 10027, BCP 247: somebody sends their own link to a victim who
  approves) cannot be told from a right approval by the machine.  The page says
  who asks, where it began and that nothing should be approved that they did
  not start themselves; codes live minutes, guesses are counted in the cluster.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from markupsafe import Markup

from cyoloctl.errors import Conflict, InvalidInput, NotFound, OutcomeUnknown, Unavailable
from cyoloctl.gateway.answers import TRY_AGAIN, Answer, page, refusal_page, text
from cyoloctl.gateway.callers import LIMIT_S, Callers, answered_by, once
from cyoloctl.gateway.forms import (
    FORM_LIFE_S,
    Begun,
    GatewayRequest,
    RefusalPage,
    code_in,
    cookie_of,
    host_of_url,
    network_of,
)
from cyoloctl.gateway.settings import GatewayNode, GatewaySettings
from cyoloctl.gateway.templates import (
    BEGIN,
    DECIDE,
    ENTER,
    GO_ON,
    REDEEMED,
    WAIT,
    buttons,
    clock,
    data_html,
    left,
)
from cyoloctl.rendezvous.codes import shown_user_code
from cyoloctl.routing.table import NODE_COOKIE
from cyoloctl.web.request import Request

__all__ = ["RendezvousPages"]

_log = logging.getLogger("cyoloctl.gateway")

_LOOK_AGAIN_S = 5  # RFC 8628's interval


class RendezvousPages:
    """The pages of one gateway."""

    def __init__(self, node: GatewayNode, settings: GatewaySettings, callers: Callers) -> None:
        self._node = node
        self._settings = settings
        self._callers = callers

    def routes(
        self,
    ) -> Mapping[str, Mapping[str, Callable[[GatewayRequest, Request], Awaitable[Answer]]]]:
        """Handlers by path and method."""
        answering = {
            "/rendezvous": {"GET": self._enter, "POST": self._find},
            "/rendezvous/approve": {"POST": self._approve},
            "/rendezvous/deny": {"POST": self._deny},
            "/r/": {"GET": self._to_owner},
        }
        beginning = {
            "/begin": {"GET": self._begin_page, "POST": self._begin},
            "/begin/wait": {"GET": self._wait},
            "/begin/redeem": {"POST": self._redeem},
        }
        return answering | (beginning if self._settings.begin else {})

    async def _enter(self, asked: GatewayRequest, request: Request) -> Answer:
        """The form for a code.  Looks nothing up: a link must not tell whether a code is right."""
        browsers, cookies = self._callers.browser(asked)
        person = self._callers.person(await self._callers.actor(asked, browsers, current=False))
        code = code_in(asked.query)
        if person is None:
            home = self._callers.home(asked)
            if home is not None:  # where a session may be; there the node of this host goes on
                query = f"?user_code={code}" if code else ""
                return text(302, "", Location=f"{home}/r/{self._node.name}{query}")
            return self._callers.sign_in(asked, 200, code)
        form = self._callers.forms.seal("enter", browsers[0], person, b"", self._node.now_unix_s())
        body = ENTER.format(root=asked.root, form=form, code=code)
        answer = page(self._node.name, 200, "Enter the code", body)
        answer.cookies = cookies
        return answer

    async def _find(self, asked: GatewayRequest, request: Request) -> Answer:
        given, opened, actor, person = await self._callers.posted(asked, request, "enter", "user_code")
        by = answered_by(asked, person)
        try:
            found = await self._node.find(
                given["user_code"],
                client=str(asked.client),
                actor=actor,
                request_id=once("find", by, opened),
                timeout_s=LIMIT_S,
            )
        except OutcomeUnknown:
            raise Unavailable("the code was not looked up in time") from None
        if found["state"] != "pending" and not (found["state"] == "claimed" and found["claimed_by"] == by):
            raise RefusalPage(
                409,
                "Somebody was faster",
                f"This request is {found['state']} already. Nothing was changed.",
            )
        form = self._callers.forms.seal(
            "decide", actor.browsers[0], person, bytes.fromhex(found["id"]), self._node.now_unix_s()
        )
        body = DECIDE.format(
            code=shown_user_code(given["user_code"]),
            initiator=found["initiator"],
            origin=found["origin"] or "not said",
            kind=found["kind"],
            node=found["node"],
            created_at=clock(found["created_at"]),
            expires_at=clock(found["expires_at"]),
            left=left(found["expires_in_s"]),
            data=data_html("What it says about the request", found["data"]),
            person=f"You answer as {person}." if person else f"You answer from {asked.client_name}.",
            form=form,
            root=asked.root,
        )
        return page(self._node.name, 200, f"Approve \u201c{found['kind']}\u201d?", body)

    async def _approve(self, asked: GatewayRequest, request: Request) -> Answer:
        return await self._decide(
            asked,
            request,
            "approve",
            "Approved",
            "The device or program that waited goes on. You can close this page.",
        )

    async def _deny(self, asked: GatewayRequest, request: Request) -> Answer:
        return await self._decide(
            asked,
            request,
            "deny",
            "Denied",
            "Nothing was granted. If you did not start this yourself, tell your operator: somebody tried.",
        )

    async def _decide(
        self, asked: GatewayRequest, request: Request, operation: str, title: str, text: str
    ) -> Answer:
        _, opened, actor, person = await self._callers.posted(asked, request, "decide")
        by = answered_by(asked, person)
        # One form, one answer: a repetition, here or at another node, is told the same.
        request_id = once(operation, by, opened)
        await self._node.decide(
            operation,
            opened.payload.hex(),
            by=by,
            actor=actor,
            request_id=request_id,
            timeout_s=LIMIT_S,
        )
        _log.info("rendezvous answered on the page", extra={"operation": operation, "by": by})
        return page(self._node.name, 200, title, Markup("<p>{text}</p>").format(text=text))

    async def _to_owner(self, asked: GatewayRequest, request: Request) -> Answer:
        """/r/NODE?user_code=CODE: to the page as the node where it began serves it, or any when that is away.

        A session is for one host name.  So at a shared host, and wherever the browser has a session, it stays
        at the host, and the cookie by which proxies choose a node goes to that one.
        """
        code, name = code_in(asked.query), asked.path.removeprefix("/r/")
        query = f"?user_code={code}" if code else ""
        base = self._node.owner_url(name)
        if base is not None and host_of_url(base) != asked.host and not await self._stays(asked):
            home = self._callers.home(asked)
            there = f"{base}/rendezvous" if home is None else f"{home}/r/{name}"
            return text(302, "", Location=there + query)
        answer = text(302, "", Location=f"{asked.root}rendezvous{query}")
        if base is not None or name == self._node.name:
            secure = "; Secure" if asked.scheme == "https" else ""
            answer.cookies = [f"{NODE_COOKIE}={name}; Path=/; HttpOnly; SameSite=Lax{secure}"]
        return answer

    async def _stays(self, asked: GatewayRequest) -> bool:
        if asked.host in self._node.shared_hosts():
            return True
        return (await self._callers.actor(asked, (), current=False)).sub is not None

    def _begun_cookie(self, asked: GatewayRequest, value: str) -> str:
        """Set-Cookie for what this browser began; an empty value ends it."""
        prefix, secure = ("__Host-", "; Secure") if asked.scheme == "https" else ("", "")
        # Lax: it may come back by a link from elsewhere, and a GET changes nothing.
        rest = f"Path=/; Max-Age={FORM_LIFE_S if value else 0}; HttpOnly; SameSite=Lax{secure}"
        return f"{prefix}cyolo-begun={value}; {rest}"

    def _begun(self, asked: GatewayRequest) -> tuple[Begun, str]:
        """This browser's rendezvous, and the cookie for which its forms are sealed.  Raises RefusalPage."""
        name = self._begun_cookie(asked, "").partition("=")[0]
        value = cookie_of(asked.cookie, name) or ""
        try:
            begun = Begun.open(self._callers.forms, value, self._node.now_unix_s())
        except RefusalPage:
            raise self._over(
                asked,
                404,
                "Nothing was begun here",
                "This browser began nothing recently, or it keeps no cookies. The answer is for the browser "
                "that began.",
            ) from None
        return begun, hashlib.sha256(value.encode()).hexdigest()

    def _over(self, asked: GatewayRequest, status: int, title: str, text: str) -> RefusalPage:
        return RefusalPage(status, title, text, {"Set-Cookie": self._begun_cookie(asked, "")})

    async def _begin_page(self, asked: GatewayRequest, request: Request) -> Answer:
        browsers, cookies = self._callers.browser(asked)
        form = self._callers.forms.seal("begin", browsers[0], "", b"", self._node.now_unix_s())
        body = BEGIN.format(root=asked.root, form=form, buttons=buttons(self._settings.begin))
        answer = page(self._node.name, 200, "Begin", body)
        answer.cookies = cookies
        return answer

    async def _begin(self, asked: GatewayRequest, request: Request) -> Answer:
        given = await self._callers.fields(asked, request, "kind")
        actor = await self._callers.actor(asked, self._callers.browsers(asked), current=False)
        opened, actor = self._callers.opened(given["form"], "begin", actor, "")
        if given["kind"] not in self._settings.begin:
            raise InvalidInput("this kind is not begun here: use a button of the page")

        def secret(purpose: str) -> str:
            # Of the form, which only this browser has: sent again, to any node, it begins the same once.
            return once(purpose, given["kind"], opened)

        started = await self._node.begin(
            given["kind"],
            client=str(asked.client),
            network=network_of(asked.client),
            actor=actor,
            request_id=secret("begin"),
            timeout_s=LIMIT_S,
        )
        begun = Begun(started["id"], secret("redeem"), started["user_code"])
        answer = text(303, "", Location=f"{asked.root}begin/wait")
        answer.cookies = [self._begun_cookie(asked, begun.seal(self._callers.forms, self._node.now_unix_s()))]
        return answer

    async def _wait(self, asked: GatewayRequest, request: Request) -> Answer:
        begun, cookie = self._begun(asked)
        try:
            await self._callers.actor(asked, (), current=False)
            found = await self._node.look(begun.id, timeout_s=LIMIT_S)
        except (Unavailable, OutcomeUnknown):
            text = "Too few nodes answer at the moment. Nothing is lost: this page looks again by itself."
            body = Markup('<p>{text}</p>\n<p class="big code">{code}</p>').format(
                text=text, code=begun.user_code
            )
            return page(self._node.name, 503, "Still waiting", body, TRY_AGAIN, _LOOK_AGAIN_S)
        match found["state"]:
            case "approved" | "consumed":
                form = self._callers.forms.seal("redeem", cookie, "", b"", self._node.now_unix_s())
                body = GO_ON.format(by=found["claimed_by"], kind=found["kind"], form=form, root=asked.root)
                return page(self._node.name, 200, "Approved: go on", body)
            case "denied":
                text = f"{found['claimed_by']} denied it. Nothing was granted."
                raise self._over(asked, 403, "It was denied", text)
            case "expired":
                raise self._over(asked, 410, "It has expired", "Nobody approved it in time.")
            case "cancelled":
                text = "The operator ended it, or somebody tried too many wrong codes."
                raise self._over(asked, 409, "It was cancelled", text)
        claimed = (
            f"{found['claimed_by']} looks at it." if found["state"] == "claimed" else "Not approved yet."
        )
        body = WAIT.format(
            link=self._callers.page_url(asked),
            code=begun.user_code,
            status=claimed,
            who="somebody who is signed in" if self._settings.require_session else "anybody who has the code",
            kind=found["kind"],
            node=found["node"],
            left=left(found["expires_in_s"]),
            expires_at=clock(found["expires_at"]),
            interval=_LOOK_AGAIN_S,
            root=asked.root,
        )
        return page(self._node.name, 200, "Waiting for approval", body, look_again_s=_LOOK_AGAIN_S)

    async def _redeem(self, asked: GatewayRequest, request: Request) -> Answer:
        begun, cookie = self._begun(asked)
        given = await self._callers.fields(asked, request)
        self._callers.forms.open(given["form"], "redeem", [cookie], "", self._node.now_unix_s())
        await self._callers.actor(asked, (), current=False)
        try:
            answer = await self._node.redeem(begun.id, begun.redemption, timeout_s=LIMIT_S)
        except (Conflict, NotFound) as error:
            # It expired or was cancelled meanwhile, or five minutes are over.
            why = refusal_page(error)
            raise self._over(asked, why.status, why.title, why.text) from None
        said = data_html("The answer", answer["data"] or {})
        body = REDEEMED.format(by=answer["approved_by"], kind=answer["kind"], data=said)
        return page(self._node.name, 200, "Approved", body)
