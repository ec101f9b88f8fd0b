"""Session tokens, as programs use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from cyoloctl.web.steps import Group, consistency, operation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cyoloctl.tokens.api import Revocation, Token, TokenMade
    from cyoloctl.web.steps import Steps

__all__ = ["Tokens"]

M = TypeVar("M")
_PAGE = 1000


class Tokens(Group[M]):
    """Sessions that travel in encrypted tokens, which every node opens.

    audience: whom a token is for, a host identifier, say; "": anybody.  It has to be the same where a
    token is made and where it is opened.
    """

    @operation
    def mint(
        self,
        sub: str,
        claims: Mapping[str, Any] | None = None,
        *,
        ttl_s: int = 900,
        max_age_s: int = 28_800,
        audience: str = "",
    ) -> Steps[TokenMade]:
        """A new session of the subject `sub`, and its token.

        ttl_s: seconds until it expires when it is not refreshed; max_age_s: until it ends all the same;
        1 to 31622400.
        """
        body = {
            "sub": sub,
            "claims": dict(claims or {}),
            "ttl_s": ttl_s,
            "max_age_s": max_age_s,
            "audience": audience,
        }
        return self._caller.call("token_mint", body=body)

    @operation
    def inspect(self, token: str, *, audience: str = "", require_quorum: bool = False) -> Steps[Token]:
        """The session of a token.  Raises TokenRejected, for every reason with the same message.

        require_quorum: ask a majority first, so that no revocation is missed.
        """
        body = {"token": token, "audience": audience, "require_quorum": require_quorum}
        return self._caller.call("token_inspect", body=body)

    @operation
    def update(
        self,
        token: str,
        *,
        set: Mapping[str, Any] | None = None,
        unset: Iterable[str] = (),
        keep_previous: bool = False,
        audience: str = "",
        request_id: str | None = None,
    ) -> Steps[TokenMade]:
        """A token of the same session with other claims; nodes refuse older ones when they have applied that.

        set: claims to set.  unset: names of claims to remove.  keep_previous: older ones go on counting.
        Once per request id.  Raises TokenRejected.
        """
        body = {
            "token": token,
            "set": dict(set or {}),
            "unset": [*unset],
            "keep_previous": keep_previous,
            "audience": audience,
            "request_id": request_id,
        }
        return self._caller.call("token_update", body=body)

    @operation
    def refresh(
        self, token: str, *, ttl_s: int = 900, audience: str = "", require_quorum: bool = False
    ) -> Steps[TokenMade]:
        """A token of the same session that expires ttl_s seconds from now.  Raises TokenRejected."""
        body = {"token": token, "ttl_s": ttl_s, "audience": audience, "require_quorum": require_quorum}
        return self._caller.call("token_refresh", body=body)

    @operation
    def revoke(
        self,
        token: str | None = None,
        *,
        sid: str | None = None,
        sub: str | None = None,
        audience: str = "",
        request_id: str | None = None,
    ) -> Steps[Revocation]:
        """Refuse a session from now on, by its token or its `sid`; or every session of the subject `sub`.

        One of the three.  A node refuses it when it has applied that, and with require_quorum at once.
        Raises TokenRejected.
        """
        body = {"token": token, "sid": sid, "sub": sub, "audience": audience, "request_id": request_id}
        return self._caller.call("token_revoke", body=body)

    @operation
    def revocations(self, *, stale: bool = False) -> Steps[list[Revocation]]:
        """Every revocation that still counts."""
        found: list[Revocation] = []
        after: str | None = None
        while True:
            query = {"limit": _PAGE, "after": after, **consistency(stale)}
            page = yield from self._caller.call("token_revocations", query=query)
            found += page["revocations"]
            after = page["next"]
            if after is None:
                return found
