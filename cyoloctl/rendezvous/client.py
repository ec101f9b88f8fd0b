"""Rendezvous, as programs use them: one asks, somebody else approves."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, TypeVar

from cyoloctl.errors import AuthorizationPending, OutcomeUnknown, Unavailable, Unreachable
from cyoloctl.web.steps import Group, Pause, Turns, consistency, operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cyoloctl.rendezvous.api import Redeemed, Rendezvous, RendezvousStarted
    from cyoloctl.web.steps import Steps

__all__ = ["RendezvousGroup"]

M = TypeVar("M")
_PAGE = 1000
_POLL_S = 10.0
_PAUSE_S = 0.2


class RendezvousGroup(Group[M]):
    """What begins on one device and is approved on another.

    `id_or_code` is the id, or the user code as people type it.  `by`: the name of whoever acts, for whom the
    caller vouches.  token: the session token of the person for whom the caller acts.
    """

    @operation
    def start(
        self,
        kind: str,
        *,
        data: Mapping[str, str] | None = None,
        ttl_s: int = 300,
        initiator: str = "operator",
        origin: str | None = None,
        public_key: str | None = None,
        token: str | None = None,
        request_id: str | None = None,
    ) -> Steps[RendezvousStarted]:
        """Begin one of a kind (a name); keep its id to yourself, and show its user code and link.

        data: texts by name, which the approver sees.  ttl_s: seconds until it expires, 10 to 86400.
        initiator, origin: whoever asks and from where, as the approver sees them.
        public_key: an X25519 public key in base64, to which the answer is sealed.
        """
        body = {
            "kind": kind,
            "data": dict(data or {}),
            "ttl_s": ttl_s,
            "initiator": initiator,
            "origin": origin,
            "public_key": public_key,
            "token": token,
            "request_id": request_id,
        }
        return self._caller.call("rendezvous_start", body=body)

    @operation
    def wait(self, id: str, *, wait_s: float = 300.0, request_id: str | None = None) -> Steps[Redeemed]:
        """The answer, which is given out once: to the first request id that asks for it.

        wait_s: seconds to wait for it.  request_id: whoever repeats it within 5 minutes gets the answer
        again.
        Raises AuthorizationPending after wait_s, Denied, Expired, NotFound, Conflict where it was given out.
        """
        body = {"id": id, "request_id": request_id or os.urandom(16).hex()}
        turns = Turns(self._caller)
        until = time.monotonic() + wait_s
        unknown: OutcomeUnknown | None = None
        while True:
            # One endpoint a poll: a share of the time for each would end the first one early.
            poll_s = max(0.1, min(until - time.monotonic(), _POLL_S))
            try:
                answer: Redeemed = yield from turns.ask("rendezvous_wait", body=body, timeout_s=poll_s)
                return answer
            except AuthorizationPending:
                unknown = None  # so nothing was redeemed
                if until - time.monotonic() < 0.1:
                    raise
            except (Unavailable, Unreachable, OutcomeUnknown) as error:  # the redemption may be repeated
                if isinstance(error, OutcomeUnknown):
                    unknown = error
                if until - time.monotonic() < 0.5:
                    raise unknown or error from None
                yield Pause(_PAUSE_S)  # all of them may be down: do not spin

    @operation
    def claim(
        self,
        id_or_code: str,
        *,
        by: str | None = None,
        token: str | None = None,
        request_id: str | None = None,
    ) -> Steps[Rendezvous]:
        """Take it: nobody else can approve it then.  Raises NotFound, Expired, SlowDown, ApprovalRefused."""
        body = {**_which(id_or_code), "by": by, "token": token, "request_id": request_id}
        return self._caller.call("rendezvous_claim", body=body)

    @operation
    def approve(
        self,
        id_or_code: str,
        *,
        data: Mapping[str, str] | None = None,
        by: str | None = None,
        token: str | None = None,
        request_id: str | None = None,
    ) -> Steps[Rendezvous]:
        """Approve it, and answer it with data.  Raises NotFound, Expired, SlowDown, ApprovalRefused."""
        body: dict[str, Any] = {
            **_which(id_or_code),
            "data": dict(data or {}),
            "by": by,
            "token": token,
            "request_id": request_id,
        }
        return self._caller.call("rendezvous_approve", body=body)

    @operation
    def deny(
        self,
        id_or_code: str,
        *,
        by: str | None = None,
        token: str | None = None,
        request_id: str | None = None,
    ) -> Steps[Rendezvous]:
        """Deny it.  Raises NotFound, Expired, SlowDown."""
        body = {**_which(id_or_code), "by": by, "token": token, "request_id": request_id}
        return self._caller.call("rendezvous_deny", body=body)

    @operation
    def cancel(self, id: str, *, request_id: str | None = None) -> Steps[Rendezvous]:
        """End one that has not ended.  Raises NotFound, Expired."""
        return self._caller.call("rendezvous_cancel", body={"id": id, "request_id": request_id})

    @operation
    def show(self, id_or_code: str, *, stale: bool = False) -> Steps[Rendezvous]:
        """Its record.  Raises NotFound."""
        return self._caller.call("rendezvous_show", id_or_code, query=consistency(stale))

    @operation
    def list(self, *, state: str | None = None, stale: bool = False) -> Steps[list[Rendezvous]]:
        """Every one; or those that are pending, claimed, approved, denied, consumed, expired or cancelled."""
        found: list[Rendezvous] = []
        after: str | None = None
        while True:
            query = {"limit": _PAGE, "after": after, "state": state, **consistency(stale)}
            page = yield from self._caller.call("rendezvous_list", query=query)
            found += page["rendezvous"]
            after = page["next"]
            if after is None:
                return found


def _which(id_or_code: str) -> dict[str, str]:
    return {"id" if len(id_or_code) == 32 else "user_code": id_or_code}
