"""The whole exception tree, in one file.

Every error that may reach a user carries a stable string code, the exit
status of the command line and the HTTP status of the API.  The table is the
contract that ``cyoloctl help exit-codes`` prints.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "ApprovalRefused",
    "AuditBroken",
    "AuthorizationPending",
    "BodyTooLarge",
    "ClientTimeout",
    "ClockSetBack",
    "Compacted",
    "ConfigError",
    "Conflict",
    "CounterOverflow",
    "CyoloctlError",
    "Denied",
    "Expired",
    "FenceLost",
    "InternalError",
    "Interrupted",
    "InvalidInput",
    "InvitationRejected",
    "KeyMissing",
    "MachineFailed",
    "MachineMismatch",
    "MachineRefused",
    "NoLeader",
    "NoRoom",
    "NotFound",
    "OutcomeUnknown",
    "Overloaded",
    "QueryTimeout",
    "QuotaExceeded",
    "SlowDown",
    "StorageError",
    "TokenRejected",
    "Unavailable",
    "Unprocessable",
    "Unreachable",
    "UsageError",
    "VersionMismatch",
    "error_classes",
    "error_from_code",
]


class CyoloctlError(Exception):
    """An error with a stable code.

    message: lower case, says what happened and what to do next.  It never
    holds a secret.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    api_code: ClassVar[str | None] = None
    """The code in the API's answers where RFC 8628 has another; the HTTP status tells which is meant."""
    meaning: ClassVar[str] = "unclassified error"
    request_id: str | None = None
    """Of the write that it ended, where one was sent under an id."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or self.meaning)

    @property
    def message(self) -> str:
        """The text for the user."""
        return str(self.args[0])


class UsageError(CyoloctlError):
    """The command line was used wrongly.

    hint: lines that help to repair it, above the message.
    """

    code = "usage"
    exit_status = 2
    http_status = 400
    meaning = "usage: the command line is wrong"

    def __init__(self, message: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotFound(CyoloctlError):
    """The named thing does not exist."""

    code = "not_found"
    exit_status = 3
    http_status = 404
    meaning = "not found"


class Conflict(CyoloctlError):
    """The state of the cluster refuses the request; nothing was changed."""

    code = "conflict"
    exit_status = 4
    http_status = 409
    meaning = "refused: a precondition failed"


class AlreadyExists(Conflict):
    """The thing to create is already there."""

    code = "already_exists"
    meaning = "already exists"


class ApprovalRefused(Conflict):
    """Whoever answers may not approve this rendezvous: they began it, or their session lacks a claim."""

    code = "approval_refused"
    http_status = 403
    meaning = "whoever answers may not approve this rendezvous"


class Denied(Conflict):
    """A rendezvous was denied (RFC 8628 3.5)."""

    code = "rendezvous_denied"
    api_code = "access_denied"
    http_status = 400
    meaning = "the rendezvous was denied"


class Expired(Conflict):
    """A rendezvous expired before it was redeemed (RFC 8628 3.5)."""

    code = "expired_token"
    http_status = 410
    meaning = "the rendezvous expired"


class Compacted(Conflict):
    """Changes before a revision are forgotten; the message names the first that is known."""

    code = "compacted"
    http_status = 410
    meaning = "the changes from that revision on are no longer all known"


class AuditBroken(Conflict):
    """A line of the audit log was changed, is missing, or does not follow the one before."""

    code = "audit_broken"
    meaning = "lines of the audit log are not as they were written"


class QuotaExceeded(Conflict):
    """Keys and values would take more than their quota; nothing was changed."""

    code = "quota_exceeded"
    meaning = "keys and values have reached their quota"


class FenceLost(Conflict):
    """The lock is no longer held with the fencing token of this write; nothing was changed."""

    code = "fence_lost"
    meaning = "the lock of this write is no longer held"


class KeyMissing(Conflict):
    """A value is sealed under a key that the cluster's ring does not have."""

    code = "key_missing"
    meaning = "the key that opens the value is not in the ring"


class MachineRefused(Conflict):
    """The operation or query of a machine refused, in its own words; nothing was changed."""

    code = "machine_refused"
    meaning = "the operation of a machine refused; nothing was changed"


class InvalidInput(CyoloctlError):
    """A token, file, name, number or body is malformed; nothing was changed."""

    code = "invalid_input"
    exit_status = 65
    http_status = 400
    meaning = "invalid input: malformed token, file, name or number"


class BodyTooLarge(InvalidInput):
    """A request body is larger than the limit."""

    code = "body_too_large"
    http_status = 413
    meaning = "request body too large"


class Unprocessable(InvalidInput):
    """What is asked for is well-formed, and breaks a rule that no schema can say; nothing was changed."""

    code = "unprocessable"
    http_status = 422
    meaning = "well-formed, but against a rule that the message names"


class CounterOverflow(InvalidInput):
    """The counter would leave the signed 64-bit range; nothing was changed."""

    code = "counter_overflow"
    http_status = 422
    meaning = "the counter would leave the signed 64-bit range"


class Unreachable(CyoloctlError):
    """No node could be reached; nothing was sent."""

    code = "unreachable"
    exit_status = 69
    http_status = 502
    meaning = "node unreachable: nothing was sent"


class InternalError(CyoloctlError):
    """A bug."""

    code = "internal"
    exit_status = 70
    http_status = 500
    meaning = "internal error: a bug"


class MachineFailed(CyoloctlError):
    """The code of a machine raised, or gave what is no answer; nothing was changed, on any node."""

    code = "machine_failed"
    exit_status = 70
    http_status = 500
    meaning = "the code of a machine failed, nothing was changed; the node's log says why"


class StorageError(CyoloctlError):
    """The disk is full, read-only or corrupt; the message names file and remedy."""

    code = "storage"
    exit_status = 74
    http_status = 507
    meaning = "storage error: disk full, corrupt or read-only"


class Unavailable(CyoloctlError):
    """Certainly not applied; safe to retry."""

    code = "unavailable"
    exit_status = 75
    http_status = 503
    meaning = "unavailable, not applied, safe to retry"


class NoLeader(Unavailable):
    """There is no leader, or it has no quorum; certainly not applied."""

    code = "no_leader"
    meaning = "no leader or no quorum, not applied, safe to retry"


class Overloaded(Unavailable):
    """The queue of proposals is full; certainly not applied."""

    code = "overloaded"
    meaning = "overloaded, not applied, safe to retry later"


class NoRoom(Unavailable):
    """Too little space is left on the disks of a majority; certainly not applied."""

    code = "no_room"
    meaning = "too little space on a member's disk, not applied, safe to retry when there is more"


class AuthorizationPending(Unavailable):
    """A rendezvous is neither approved nor denied yet (RFC 8628 3.5)."""

    code = "authorization_pending"
    http_status = 400
    meaning = "the rendezvous is still pending: ask again after the interval"


class SlowDown(Unavailable):
    """Asked too often, or too many wrong codes (RFC 8628 3.5)."""

    code = "slow_down"
    http_status = 429
    meaning = "asked too often: wait before the next attempt"


class VersionMismatch(CyoloctlError):
    """Data or peer of a version that this release does not speak."""

    code = "version_mismatch"
    exit_status = 76
    http_status = 505
    meaning = "version mismatch"


class MachineMismatch(VersionMismatch):
    """A node has not the code of a machine that the cluster runs."""

    code = "machine_mismatch"
    meaning = "this node has not the code of a machine that the cluster runs"


class AccessDenied(CyoloctlError):
    """The credentials are missing, wrong or lack the role."""

    code = "access_denied"
    exit_status = 77
    http_status = 403
    meaning = "access denied"


class InvitationRejected(AccessDenied):
    """A join token was refused: wrong, expired, used, or for another name or cluster."""

    code = "invitation_rejected"
    meaning = "join token rejected"


class TokenRejected(AccessDenied):
    """A session token was refused; the same message for every reason.

    reason: a few words for an operator who holds the keys (``--explain``).  Never shown to whoever presents
    the token, so no part of the message, ``args`` or the repr.
    """

    code = "token_rejected"
    http_status = 401
    meaning = "token rejected"

    def __init__(self, message: str = "", *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class ConfigError(CyoloctlError):
    """The configuration or the files beside it cannot be used."""

    code = "configuration"
    exit_status = 78
    http_status = 500
    meaning = "configuration error"


class ClockSetBack(ConfigError):
    """The clock went back further than the leeway: expired sessions would be good again."""

    code = "clock_set_back"
    meaning = "the clock was set back"


class OutcomeUnknown(CyoloctlError):
    """The write may or may not have been applied.

    Read before retrying, or retry with the same request id.
    """

    code = "outcome_unknown"
    exit_status = 80
    http_status = 504
    meaning = "outcome unknown: the write may or may not have been applied"


class ClientTimeout(Unavailable):
    """A read, or a write that was never sent, did not finish in time."""

    code = "timeout"
    meaning = "timed out, nothing was applied, safe to retry"


class QueryTimeout(ClientTimeout):
    """A query of a machine ran longer than it may, and was ended."""

    code = "query_timeout"
    meaning = "the query of a machine ran too long and was ended"


class Interrupted(CyoloctlError):
    """The user interrupted the command."""

    code = "interrupted"
    exit_status = 130
    http_status = 499
    meaning = "interrupted"


def error_classes() -> list[type[CyoloctlError]]:
    """Every class of the tree, the root first, each once, by exit status then code."""
    found: list[type[CyoloctlError]] = []
    todo: list[type[CyoloctlError]] = [CyoloctlError]
    while todo:
        cls = todo.pop()
        found.append(cls)
        todo.extend(cls.__subclasses__())
    return sorted(found, key=lambda cls: (cls.exit_status, cls.code))


def error_from_code(code: str, message: str) -> CyoloctlError:
    """The error that a peer or server named by its code.

    An unknown code (a newer server) gives the root of the tree.
    """
    for cls in error_classes():
        if cls.code == code:
            return cls(message)
    return CyoloctlError(message)
