"""The cluster's certificate authorities, as the cluster agreed: how one takes the place of another.

A rotation has these steps, each one replicated, so that any member may die
between any two of them and the others go on:

1. ``begin``: the new CA, vouched for by the old one, and its private key
   sealed to each voter.  Members trust both CAs from now on, voters store the
   key, and each says so (``confirm``).  Certificates come from the old CA.
2. ``advance``, once every member confirmed and the overlap has passed:
   certificates come from the new CA.  Every member gets itself one and says
   so (``reissued``).
3. ``finish``, once every member has: nobody trusts the old CA now.

A member that is away holds step 2 or 3 up, until it is back or removed.

Whether a rotation is due
-------------------------
A voter that is removed has had the CA's key.  Removed names that were removed
before the present CA was begun never saw its key; every other removed name
makes a rotation due, except those of learners and witnesses, which never get it
(``exempt``).  A member that was demoted has had it too, and makes one due
until it votes again.  This follows from what every release replicates, so
states that came from a snapshot and states that came from the log are the same.

Nothing cryptographic happens here: a member checks a new CA's voucher against
the CA that it trusts before it trusts the new one.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from cyoloctl.errors import Conflict, NotFound
from cyoloctl.members.machine import MemberMachine
from cyoloctl.members.records import MAX_NAMES, WantedRole
from cyoloctl.replicated.checks import (
    Check,
    checked,
    exact,
    flag,
    integer,
    json_object,
    member_name,
    text,
)
from cyoloctl.replicated.command import MAX_TIME_UNIX_MS, Malformed, Refused
from cyoloctl.replicated.machine import NO_ROWS, Machine, Operations, Rows

__all__ = [
    "DEFAULT_CERTIFICATE_DAYS",
    "MAX_OVERLAP_MS",
    "AuthorityMachine",
    "Rotation",
]

DEFAULT_CERTIFICATE_DAYS = 825
"""Life of a certificate where nobody chose another one."""

MAX_OVERLAP_MS = 366 * 86_400_000


@dataclass(frozen=True, slots=True)
class Rotation:
    """A CA on its way to take another's place.

    ca_pem, old_ca_pem: both certificates.  voucher: the old CA's signature
    under the new one, base64.  keys: voter -> the new CA's key sealed to it.
    begun_unix_ms: replicated time of ``begin``; the overlap is counted from it.
    covered: the names that had been removed by then.  confirmed: members that
    trust it and, if voters, hold its key.  ready_unix_ms: when all members had
    confirmed for the first time; from then on credentials may come from it.
    issuing: certificates of nodes come from it.
    reissued: members whose own certificate does.
    """

    ca_pem: str
    old_ca_pem: str
    voucher: str
    keys: dict[str, str] = field(repr=False)
    begun_unix_ms: int
    overlap_ms: int
    covered: tuple[str, ...]
    confirmed: tuple[str, ...] = ()
    ready_unix_ms: int | None = None
    issuing: bool = False
    reissued: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 of the new CA's certificate, in hex."""
        return _fingerprint(self.ca_pem)

    @property
    def overlap_until_unix_ms(self) -> int:
        """Certificates come from the old CA at least until then."""
        return self.begun_unix_ms + self.overlap_ms

    def _fields(self) -> dict[str, Any]:
        return {
            "begun_unix_ms": self.begun_unix_ms,
            "ca_pem": self.ca_pem,
            "confirmed": list(self.confirmed),
            "covered": list(self.covered),
            "issuing": self.issuing,
            "keys": self.keys,
            "old_ca_pem": self.old_ca_pem,
            "overlap_ms": self.overlap_ms,
            "ready_unix_ms": self.ready_unix_ms,
            "reissued": list(self.reissued),
            "voucher": self.voucher,
        }


class AuthorityMachine(Machine):
    """Operations and their answers; ``sha256`` always names the new CA of the rotation that goes on:

    ``set_certificate_days {days}`` -> ``{days}``: life of certificates that
    are issued from now on, 1 to 825.
    ``begin {ca_pem, old_ca_pem, voucher, keys, overlap_ms}`` -> ``{sha256}``.
    Repeated with the same ca_pem it changes nothing.  conflict while another
    rotation goes on, where old_ca_pem is not the present CA, and for a key
    that is sealed to a witness.
    ``exchange``: as begin, for a caller with a request id: whoever repeats it
    makes another CA and is told of the first one.
    ``wrap {sha256, keys}`` -> ``{sha256}``: its key for voters that lack it.
    conflict for a witness, as above.
    ``confirm {name, sha256}``, ``reissued {name, sha256}`` -> ``{name}``: what
    the member did.  May be repeated.  not_found for the member, conflict for
    another rotation, for a voter that was given no key, and for ``reissued``
    before ``advance``.
    ``advance {sha256}`` -> ``{sha256}``: conflict while a member has not
    confirmed, or the overlap has not passed.
    ``finish {sha256}`` -> ``{sha256}``: conflict while a member has not
    ``reissued``.
    ``abandon {sha256}`` -> ``{sha256}``: as if it had not begun.  conflict once
    all members confirmed it: certificates may have been issued under it.
    ``exempt {name}`` -> ``{name}``: this member is a learner and never had a
    CA's key, so that its removal makes no rotation due.  conflict for a voter,
    and for one that was demoted.
    """

    NAME = "authorities"
    PROPOSERS: ClassVar[dict[str, str]] = {"confirm": "self", "reissued": "self"}
    DRAWN: ClassVar[dict[str, frozenset[str]]] = {
        "exchange": frozenset({"ca_pem", "old_ca_pem", "voucher", "keys"})
    }

    def __init__(self, members: MemberMachine) -> None:
        super().__init__(_OPERATIONS)
        self._members = members
        self._certificate_days: int | None = None
        self._current: str | None = None
        self._finished_unix_ms: int | None = None
        self._covered: tuple[str, ...] = ()
        self._exempt: tuple[str, ...] = ()
        self._demoted: tuple[str, ...] = ()  # learners that know the present CA's key
        self._rotation: Rotation | None = None

    @property
    def certificate_days(self) -> int | None:
        """Life of new certificates in days; None where nobody chose one."""
        return self._certificate_days

    @property
    def current(self) -> str | None:
        """The present CA in PEM; None before the first rotation ended."""
        return self._current

    @property
    def rotation(self) -> Rotation | None:
        """The rotation that goes on."""
        return self._rotation

    def due_for(self) -> list[str]:
        """Removed members that know the present CA's key, in order: while there are any, rotate."""
        return sorted(set(self._members.removed()) - set(self._covered) - set(self._exempt))

    def demoted(self) -> list[str]:
        """Learners that know the present CA's key, because they were voters, in order."""
        found = (self._members.get(name) for name in self._demoted)
        return sorted(member.name for member in found if member is not None and member.role == "learner")

    def role_changed(self, name: str, role: WantedRole) -> None:
        """Replicated: a member was promoted or demoted, in this very entry."""
        self._demoted = tuple(each for each in self._demoted if each != name)
        if role == "learner":
            self._demoted = _with(self._demoted, name)
        else:
            self._exempt = tuple(each for each in self._exempt if each != name)

    def forget_member(self, name: str, index: int) -> None:
        """The member was removed: `due_for` tells of it now."""
        self._demoted = tuple(each for each in self._demoted if each != name)

    def unconfirmed(self) -> list[str]:
        """The members that hold `advance` up, in order; none without a rotation."""
        return self._waiting(self._rotation.confirmed if self._rotation else None)

    def not_reissued(self) -> list[str]:
        """The members that hold `finish` up, in order; none without a rotation."""
        return self._waiting(self._rotation.reissued if self._rotation else None)

    def lacking_key(self) -> list[str]:
        """The voters that the new CA's key was not sealed to yet, in order."""
        keys = self._rotation.keys if self._rotation else None
        members = self._members.members()
        wanting = (m.name for m in members if self._members.has_ca_key(m.name))
        return [name for name in wanting if keys is not None and name not in keys]

    def _waiting(self, done: tuple[str, ...] | None) -> list[str]:
        if done is None:
            return []
        return [member.name for member in self._members.members() if member.name not in done]

    def _set_certificate_days(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        self._certificate_days = given["days"]
        return {"days": given["days"]}

    def _begin(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        self._refuse_witnesses(given["keys"])
        going = self._rotation
        sha256 = _fingerprint(given["ca_pem"])
        if going is not None:
            if going.ca_pem == given["ca_pem"]:
                return {"sha256": sha256}
            raise Refused(Conflict("a rotation of the CA is already under way: see pki status"))
        if self._current is not None and given["old_ca_pem"] != self._current:
            raise Refused(Conflict("the CA was exchanged meanwhile: see pki status"))
        if given["ca_pem"] == given["old_ca_pem"]:
            raise Refused(Conflict("the new CA is the old one: make a new one"))
        self._rotation = Rotation(
            ca_pem=given["ca_pem"],
            old_ca_pem=given["old_ca_pem"],
            voucher=given["voucher"],
            keys=given["keys"],
            begun_unix_ms=now_unix_ms,
            overlap_ms=given["overlap_ms"],
            covered=tuple(self._members.removed()),
        )
        self._given_key(given["keys"])
        return {"sha256": sha256}

    def _wrap(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        going = self._going(given)
        self._refuse_witnesses(given["keys"])
        # A key that a voter has is not replaced: it may be storing it.
        self._rotation = replace(going, keys={**given["keys"], **going.keys})
        self._given_key(given["keys"])
        return {"sha256": given["sha256"]}

    def _refuse_witnesses(self, keys: dict[str, str]) -> None:
        for name in keys:
            if self._members.is_witness(name):
                raise Refused(Conflict(f"{name} is a witness: the CA's key is not sealed to it"))

    def _given_key(self, keys: dict[str, str]) -> None:
        self._exempt = tuple(name for name in self._exempt if name not in keys)

    def _confirm(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, going = given["name"], self._going(given)
        member = self._members.get(name)
        if member is None:
            raise Refused(NotFound(f"there is no member {name}: see member list"))
        if self._members.has_ca_key(name) and name not in going.keys:
            raise Refused(Conflict(f"the new CA's key was not sealed to {name} yet: wait for it"))
        self._rotation = replace(going, confirmed=_with(going.confirmed, name))
        if going.ready_unix_ms is None and not self.unconfirmed():
            self._rotation = replace(self._rotation, ready_unix_ms=now_unix_ms)
        return {"name": name}

    def _advance(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        going, missing = self._going(given), self.unconfirmed()
        if missing:
            raise Refused(Conflict(f"{_names(missing)} did not confirm the new CA yet: see pki status"))
        if now_unix_ms < going.overlap_until_unix_ms:
            raise Refused(Conflict("the overlap has not passed: see pki status"))
        ready_ms = now_unix_ms if going.ready_unix_ms is None else going.ready_unix_ms
        self._rotation = replace(going, ready_unix_ms=ready_ms, issuing=True)
        return {"sha256": given["sha256"]}

    def _reissued(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name, going = given["name"], self._going(given)
        if self._members.get(name) is None:
            raise Refused(NotFound(f"there is no member {name}: see member list"))
        if not going.issuing:
            raise Refused(Conflict("certificates do not come from the new CA yet: see pki status"))
        self._rotation = replace(
            going, confirmed=_with(going.confirmed, name), reissued=_with(going.reissued, name)
        )
        return {"name": name}

    def _finish(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        if self._rotation is None and self._current and _fingerprint(self._current) == given["sha256"]:
            return {"sha256": given["sha256"]}
        going, missing = self._going(given), self.not_reissued()
        if missing or not going.issuing:
            raise Refused(Conflict(f"{_names(missing)} has no certificate of the new CA yet: see pki status"))
        self._current = going.ca_pem
        self._covered = going.covered
        self._exempt = tuple(name for name in self._exempt if name not in going.covered)
        self._demoted = tuple(name for name in self._demoted if name in going.keys)
        self._finished_unix_ms = now_unix_ms
        self._rotation = None
        return {"sha256": given["sha256"]}

    def _abandon(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        going = self._going(given)
        if going.ready_unix_ms is not None or not self.unconfirmed():
            raise Refused(
                Conflict("all members trust the new CA and may have issued under it: let the rotation end")
            )
        self._rotation = None
        return {"sha256": given["sha256"]}

    def _exempt_learner(self, given: dict[str, Any], index: int, now_unix_ms: int) -> dict[str, Any]:
        name = given["name"]
        member = self._members.get(name)
        if member is None:
            raise Refused(NotFound(f"there is no member {name}: see member list"))
        if self._members.has_ca_key(name):
            raise Refused(Conflict(f"{name} is a voter and has the CA's key"))
        if name in self._demoted:
            raise Refused(Conflict(f"{name} was a voter and has had the CA's key"))
        self._exempt = _with(self._exempt, name)
        return {"name": name}

    def _going(self, given: dict[str, Any]) -> Rotation:
        if self._rotation is None or self._rotation.sha256 != given["sha256"]:
            raise Refused(Conflict("this rotation of the CA is not under way: see pki status"))
        return self._rotation

    def export_state(self) -> dict[str, Any]:
        """The state for the snapshot; what is empty is left out."""
        return {
            **({"certificate_days": self._certificate_days} if self._certificate_days is not None else {}),
            **({"covered": list(self._covered)} if self._covered else {}),
            **({"current": self._current} if self._current is not None else {}),
            **({"demoted": list(self._demoted)} if self._demoted else {}),
            **({"exempt": list(self._exempt)} if self._exempt else {}),
            **({"finished_unix_ms": self._finished_unix_ms} if self._finished_unix_ms is not None else {}),
            **({"rotation": self._rotation._fields()} if self._rotation is not None else {}),
        }

    def prepare_restore(self, state: object, tables: Rows = NO_ROWS) -> Callable[[], None]:
        """Checks an exported state; the returned function puts it in place.  Raises ValueError."""
        given = json_object(state)
        exact(given, given.keys() & _STATE.keys())
        try:
            clean = {key: _STATE[key](value) for key, value in given.items()}
        except Malformed:
            raise ValueError("a certificate authority is not valid") from None
        if any(clean.get(key, True) == () for key in ("covered", "demoted", "exempt")):
            raise ValueError("names are empty instead of left out")
        if ("current" in clean) is not ("finished_unix_ms" in clean):
            raise ValueError("the end of a rotation and its certificate authority contradict each other")
        rotation = None
        if "rotation" in clean:
            try:
                rotation = Rotation(**checked(clean["rotation"], _ROTATION))
            except Malformed:
                raise ValueError("a rotation is not valid") from None
            if (rotation.reissued and not rotation.issuing) or (
                rotation.issuing and rotation.ready_unix_ms is None
            ):
                raise ValueError("a rotation contradicts itself")

        def commit() -> None:
            self._certificate_days = clean.get("certificate_days")
            self._current = clean.get("current")
            self._finished_unix_ms = clean.get("finished_unix_ms")
            self._covered = clean.get("covered", ())
            self._exempt = clean.get("exempt", ())
            self._demoted = clean.get("demoted", ())
            self._rotation = rotation

        return commit


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(sorted({*names, name}))


def _fingerprint(pem: str) -> str:
    """SHA-256 of the DER in a PEM that `_certificate` let through."""
    return hashlib.sha256(binascii.a2b_base64("".join(pem.split("\n")[1:-2]))).hexdigest()


_pem_text = text(
    r"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/]{64}\n){1,60}([A-Za-z0-9+/=]{1,64}\n)?"
    r"-----END CERTIFICATE-----\n",
    "the certificate is not valid: use one certificate in PEM",
)


def _certificate(value: object) -> str:
    pem: str = _pem_text(value)
    try:
        _fingerprint(pem)
    except ValueError:
        raise Malformed("the certificate is not valid: use one certificate in PEM") from None
    return pem


_base64 = text(r"[A-Za-z0-9+/]{4,2000}={0,2}", "a signature or a sealed key is not valid: use base64")


def _keys(value: object) -> dict[str, str]:
    if type(value) is not dict or len(value) > MAX_NAMES:
        raise Malformed("the sealed keys are not valid: use an object of one for each voter")
    return {member_name(name): _base64(value[name]) for name in sorted(value, key=str)}


def _name_list(value: object) -> tuple[str, ...]:
    if type(value) is not list or len(value) > MAX_NAMES:
        raise Malformed("the names are not valid: use a list")
    names = tuple(member_name(name) for name in value)
    if list(names) != sorted(set(names)):
        raise Malformed("the names are not valid: use each once, in order")
    return names


_sha256 = text(r"[0-9a-f]{64}", "a digest is not valid: use the 64 hex digits of a sha-256")
_days = integer(1, DEFAULT_CERTIFICATE_DAYS, "days")
_time = integer(0, MAX_TIME_UNIX_MS, "the time")
_overlap = integer(0, MAX_OVERLAP_MS, "the overlap")

_ROTATION: dict[str, Check] = {
    "begun_unix_ms": _time,
    "ca_pem": _certificate,
    "confirmed": _name_list,
    "covered": _name_list,
    "issuing": flag("issuing"),
    "keys": _keys,
    "old_ca_pem": _certificate,
    "overlap_ms": _overlap,
    "ready_unix_ms": integer(0, MAX_TIME_UNIX_MS, "the time", optional=True),
    "reissued": _name_list,
    "voucher": _base64,
}
_STATE: dict[str, Check] = {
    "certificate_days": _days,
    "covered": _name_list,
    "current": _certificate,
    "demoted": _name_list,
    "exempt": _name_list,
    "finished_unix_ms": _time,
    "rotation": lambda value: value,  # checked by _ROTATION
}
_SELF: dict[str, Check] = {"name": member_name, "sha256": _sha256}
_BEGIN = {
    "ca_pem": _certificate,
    "old_ca_pem": _certificate,
    "voucher": _base64,
    "keys": _keys,
    "overlap_ms": _overlap,
}

_OPERATIONS: Operations = {
    "set_certificate_days": ({"days": _days}, AuthorityMachine._set_certificate_days),
    "begin": (_BEGIN, AuthorityMachine._begin),
    "exchange": (_BEGIN, AuthorityMachine._begin),
    "wrap": ({"sha256": _sha256, "keys": _keys}, AuthorityMachine._wrap),
    "confirm": (_SELF, AuthorityMachine._confirm),
    "advance": ({"sha256": _sha256}, AuthorityMachine._advance),
    "reissued": (_SELF, AuthorityMachine._reissued),
    "finish": ({"sha256": _sha256}, AuthorityMachine._finish),
    "abandon": ({"sha256": _sha256}, AuthorityMachine._abandon),
    "exempt": ({"name": member_name}, AuthorityMachine._exempt_learner),
}
