"""Random operations of all machines: well-formed, and mostly such as make sense where they are proposed.

Some of them are the next step of something that is under way in the state of
the node that proposes them (a rendezvous that waits for its approval, a key
that a member has not confirmed), the others any operation with any arguments
that are well-formed, from pools so small that they meet.  What only logs of
earlier releases hold is among them.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256

from cyoloctl.rendezvous.records import LIVE_STATES, Rendezvous, id_of_public_key
from cyoloctl.sim import kv_operations, lock_operations, session_operations
from cyoloctl.sim.scene import DAY_MS, Scene
from cyoloctl.text import Json

__all__ = ["OF_NODES", "OPERATIONS", "Step", "draw"]

_KEY = "A" * 43 + "="
_PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

Step = tuple[str, str, Json]
"""A machine, an operation of it, and its arguments."""


OF_NODES = {
    *(("members", operation) for operation in ("issue_invitation", "invite_for", "invite", "uninvite")),
    *(("members", operation) for operation in ("admit", "redeem", "put", "announce", "remove")),
    *(("members", operation) for operation in ("set_role", "grant", "invite_witness", "grant_witness")),
    *(("presence", operation) for operation in ("boot", "reached")),
}
"""Operations that say of a member, ``name``, that it is there, and as what."""


def draw(scene: Scene) -> Step:
    """A random operation."""
    if scene.crowd is not None and scene.crowd.random() < 0.25:
        machine, operation = scene.crowd.choice(_FILLING)
        return machine, operation, OPERATIONS[machine, operation](scene)
    if scene.witnesses is not None and scene.witnesses.random() < 0.1:
        machine, operation = scene.witnesses.choice(_WITNESSES)
        return machine, operation, OPERATIONS[machine, operation](scene)
    locking = lock_operations.draw_lock(scene)
    if locking is not None:
        return "lock", locking, OPERATIONS["lock", locking](scene)
    keeping = kv_operations.draw_kv(scene)
    if keeping is not None:
        return "kv", keeping, OPERATIONS["kv", keeping](scene)
    if scene.rng.random() < 0.4:
        step = scene.rng.choice(_NEXT)(scene)
        if step is not None:
            return step
    machine, operation = scene.rng.choice(_NAMES)
    return machine, operation, OPERATIONS[machine, operation](scene)


# -- members --------------------------------------------------------------------------------------


def _public_key(scene: Scene) -> str:
    return scene.pick("C" * 42 + "A=", "D" * 42 + "A=")


def _issue(scene: Scene) -> Json:
    return {
        "name": scene.name(),
        "learner": scene.rng.random() < 0.25,
        "public_key": _public_key(scene),
        "expires_unix_ms": scene.end(),
    }


def _invite_for(scene: Scene) -> Json:
    given = _issue(scene)
    del given["expires_unix_ms"]
    return {**given, "ttl_s": scene.pick(60, 3600, 604_800)}


def _uninvite(scene: Scene) -> Json:
    machine = scene.state.members
    open_ = [each.name for each in machine.invitations() if each.used_by is None]
    return {"name": scene.one_of(open_ + [each.name for each in machine.secret_invitations()], scene.name())}


def _node(scene: Scene, name: str) -> Json:
    return {
        "address": f"{name}:{scene.pick(1, 2)}",
        "sealing_key": _KEY,
        "raft_id": name if scene.rng.random() < 0.9 else scene.pick(f"{name}~1", "other"),
    }


def _key_hash(scene: Scene, name: str) -> str:
    """The key of a name, mostly."""
    return sha256((name if scene.rng.random() < 0.95 else "another").encode()).hexdigest()


def _admit(scene: Scene) -> Json:
    invited = scene.state.members.invitations()
    open_ = [each for each in invited if each.used_by is None and each.expires_unix_ms > scene.now]
    found = scene.one_of(open_ or invited, None)
    name = scene.name() if found is None else found.name
    return {
        "name": name,
        "public_key": scene.one_of([] if found is None else [found.public_key], _public_key(scene)),
        "request_sha256": scene.digest(3),
        **_node(scene, name),
        "key_hash": _key_hash(scene, name),
    }


def _announce(scene: Scene) -> Json:
    name = scene.record()
    return {
        "name": name,
        **_node(scene, name),
        "certificate_expires_at": scene.pick(None, "2027-01-02T03:04:05Z"),
        "key_hash": _key_hash(scene, name),
    }


def _invite(scene: Scene) -> Json:
    given = _issue(scene)
    del given["public_key"]
    return {**given, "secret_sha256": scene.digest(6)}


def _redeem(scene: Scene) -> Json:
    secrets = scene.state.members.secret_invitations()
    found = scene.one_of([each for each in secrets if each.used_by is None], None)
    name = scene.name() if found is None else found.name
    return {
        "name": name,
        "secret_sha256": scene.digest(6) if found is None else found.secret_sha256,
        "request_sha256": scene.digest(3),
        **_node(scene, name),
    }


def _put(scene: Scene) -> Json:
    name = scene.name()
    return {
        "name": name,
        **_node(scene, name),
        "role": scene.pick("voter", "voter", "learner"),
        "certificate_expires_at": None,
    }


def _remove(scene: Scene) -> Json:
    others = [each.name for each in scene.state.members.members() if each.name not in scene.nodes]
    return {"name": scene.one_of(others, f"m{scene.rng.randrange(8)}")}


def _grant(scene: Scene) -> Json:
    name = scene.name()
    return {
        "name": name,
        "learner": scene.rng.random() < 0.25,
        "request_sha256": scene.digest(6),
        "key_hash": _key_hash(scene, name),
        "sealing_key": _KEY,
        "ttl_s": scene.pick(60, 600, 7_776_000),
    }


def _without_learner(given: Json) -> Json:
    return {key: value for key, value in given.items() if key != "learner"}


def _set_role(scene: Scene) -> Json:
    return {"name": scene.record(), "role": scene.pick("voter", "voter", "learner")}


def _set_address(scene: Scene) -> Json:
    """Of the nodes too: where one is dialled changes nothing else."""
    name = scene.member()
    return {"name": name, "address": f"{scene.one_of([name], 'other')}:{scene.pick(1, 2, 3)}"}


def _host(scene: Scene) -> str:
    return scene.pick("a.test", "b.test", "c.test")


def _set_host(scene: Scene) -> Json:
    return {"name": scene.member(), "host": scene.one_of([_host(scene)], None)}


def _set_gateway(scene: Scene) -> Json:
    gateway = {"address": "g:1", "url": scene.pick(None, "https://g.test")}
    return {"name": scene.one_of([scene.node], scene.record()), "gateway": scene.pick(None, gateway)}


def _boot(scene: Scene) -> Json:
    index = scene.pick(0, 1, 5) if scene.rng.random() < 0.9 else 2**40
    boots, boot = scene.rng.randrange(4), scene.pick("x", "y")
    return {"name": scene.record(), "boots": boots, "boot": boot, "index": index}


def _reached(scene: Scene) -> Json:
    return {"name": scene.record(), "index": scene.rng.randrange(20) if scene.rng.random() < 0.9 else 2**40}


def _next_of_members(scene: Scene) -> Step | None:
    """Two or three members, who come and go."""
    state = scene.state.members
    members = [each for each in state.members() if each.name not in scene.nodes]
    if not state.members():
        return "members", "announce", _announce(scene)
    if len(members) > 3:
        return "members", "remove", _remove(scene)
    if any(each.used_by is None for each in state.secret_invitations()):
        return "members", "redeem", _redeem(scene)
    if any(each.used_by is None and each.expires_unix_ms > scene.now for each in state.invitations()):
        return "members", "admit", _admit(scene)
    if scene.rng.random() < 0.5:
        return "members", "issue_invitation", _issue(scene)
    return "members", "invite_for", _invite_for(scene)


# -- credentials ----------------------------------------------------------------------------------


def _credentials(scene: Scene) -> str:
    return scene.one_of(
        [each.name for each in scene.state.credentials.entries()], f"c{scene.rng.randrange(6)}"
    )


def _create(scene: Scene) -> Json:
    return {
        "name": scene.one_of([f"c{scene.rng.randrange(6)}"], scene.name()),
        "role": scene.pick("viewer", "gateway", "operator"),
        "key_hash": scene.digest(40),
        "ttl_ms": scene.pick(2_000, 60_000, 30 * DAY_MS),
        "latest_unix_ms": scene.end(),
        "created_by": scene.pick("", "unix socket"),
    }


def _renew(scene: Scene) -> Json:
    name = _credentials(scene)
    known = scene.state.credentials.get(name)
    own = scene.digest(40) if known is None else known.key_hash
    return {
        "name": name,
        "from_key_hash": scene.pick(None, own, own, scene.digest(40)),
        "key_hash": scene.pick(own, scene.digest(40)),
        "ttl_ms": scene.pick(None, 2_000, DAY_MS),
        "latest_unix_ms": scene.end(),
    }


def _next_of_credentials(scene: Scene) -> Step | None:
    machine = scene.state.credentials
    live = [each for each in machine.entries() if each.is_live(scene.now)]
    if len(live) < 2:
        return "credentials", "create", {**_create(scene), "latest_unix_ms": scene.now + DAY_MS}
    known = scene.rng.choice(live)
    if scene.rng.random() < 0.3:
        return "credentials", "revoke", {"name": known.name}
    given = {**_renew(scene), "name": known.name, "from_key_hash": known.key_hash}
    return "credentials", "renew", {**given, "latest_unix_ms": scene.now + DAY_MS}


def _bootstrap(scene: Scene) -> Json:
    return {"name": "root", "key_hash": scene.digest(40), "expires_unix_ms": scene.end()}


# -- certificate authorities ----------------------------------------------------------------------


def _pem(scene: Scene) -> str:
    text = b64encode(scene.rng.randbytes(48)).decode()
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"


def _sealed(scene: Scene, names: Sequence[str]) -> dict[str, str]:
    return dict.fromkeys(names, scene.pick("c2VhbGVk", "c2VhbGVkMg=="))


def _days(scene: Scene) -> Json:
    return {"days": scene.pick(1, 30, 825)}


def _begin_rotation(scene: Scene) -> Json:
    authorities, members = scene.state.authorities, scene.state.members
    voters = [name for name in scene.key_members() if members.is_voter(name)]
    going = authorities.rotation
    return {
        "ca_pem": scene.pick(_pem(scene), _pem(scene), _pem(scene) if going is None else going.ca_pem),
        "old_ca_pem": scene.one_of([authorities.current] if authorities.current else [], _pem(scene)),
        "voucher": "c2lnbmVk",
        "keys": _sealed(scene, [name for name in voters if scene.rng.random() < 0.8]),
        "overlap_ms": scene.pick(0, 0, 1_000, DAY_MS),
    }


def _rotation(scene: Scene) -> Json:
    """The rotation that goes on."""
    going = scene.state.authorities.rotation
    return {"sha256": scene.one_of([] if going is None else [going.sha256], scene.digest(3))}


def _wrap_authority(scene: Scene) -> Json:
    names = scene.state.authorities.lacking_key() or [scene.name()]
    if scene.witnesses is not None and scene.witnesses.random() < 0.1:
        names = sorted({*names, scene.member()})
    return {**_rotation(scene), "keys": _sealed(scene, names)}


def _self_rotation(scene: Scene) -> Json:
    return {**_rotation(scene), "name": scene.one_of([scene.node], scene.member())}


def _exempt(scene: Scene) -> Json:
    learners = [member.name for member in scene.state.members.members() if member.role == "learner"]
    return {"name": scene.one_of(learners, scene.member())}


def _next_of_authorities(scene: Scene) -> Step | None:
    machine = scene.state.authorities
    going = machine.rotation
    if going is None:
        return "authorities", scene.pick("begin", "exchange"), _begin_rotation(scene)
    given: Json = {"sha256": going.sha256}
    waiting = machine.not_reissued() if going.issuing else machine.unconfirmed()
    if machine.lacking_key():
        return "authorities", "wrap", {**given, "keys": _sealed(scene, machine.lacking_key())}
    if waiting:
        name = scene.node if scene.node in waiting else scene.pick(*waiting)
        return "authorities", "reissued" if going.issuing else "confirm", {**given, "name": name}
    return "authorities", "finish" if going.issuing else "advance", given


# -- keys -----------------------------------------------------------------------------------------


def _new_key_id(scene: Scene) -> str:
    return f"fc{scene.rng.randrange(12):06x}"


def _key_id(scene: Scene) -> str:
    return scene.one_of([record.key_id for record in scene.state.keys.records()], _new_key_id(scene))


def _print(scene: Scene) -> str:
    return scene.pick("1", "1", "1", "1", "2") * 32


def _announced(scene: Scene) -> list[str]:
    return list(scene.state.keys.nodes()) if scene.rng.random() < 0.9 else [scene.member()]


def _announce_key(scene: Scene) -> Json:
    return {
        "name": scene.one_of([scene.node], scene.record()),
        "sealing_key": scene.pick(_KEY, _KEY, "B" * 42 + "A="),
        "certificate_pem": _PEM,
        "signature": "A" * 96,
    }


def _generate(scene: Scene) -> Json:
    return {
        "key_id": _new_key_id(scene),
        "cluster_id": "c" * 32,
        "fingerprint": _print(scene),
        "wrapped": scene.blobs(_announced(scene) or [scene.member()]),
    }


def _wrap_key(scene: Scene) -> Json:
    return {"key_id": _key_id(scene), "wrapped": scene.blobs(_announced(scene) or [scene.member()])}


def _confirm_keys(scene: Scene) -> Json:
    name = scene.one_of([scene.node], scene.record())
    known = {record.key_id: record.fingerprint for record in scene.state.keys.records()}
    held = scene.state.keys.unconfirmed(name) or [_key_id(scene)]
    return {
        "name": name,
        "keys": {key: scene.one_of([known.get(key, "1" * 32)], _print(scene)) for key in held},
    }


def _reject_keys(scene: Scene) -> Json:
    return {"name": scene.one_of([scene.node], scene.record()), "keys": [_key_id(scene)]}


def _one_key(scene: Scene) -> Json:
    return {"key_id": _key_id(scene)}


def _forced(scene: Scene) -> Json:
    return {"key_id": _key_id(scene), "force": scene.rng.random() < 0.5}


def _import(scene: Scene) -> Json:
    ids = sorted({_new_key_id(scene) for _ in range(scene.pick(1, 2))})
    return {
        "keys": [
            {
                "key_id": key_id,
                "cluster_id": "d" * 32,
                "fingerprint": "1" * 32,
                "state": scene.pick("enabled", "disabled"),
                "created_unix_ms": 5,
                "retired_unix_ms": max(0, scene.now - 5_000),
                "tokens_until_unix_ms": scene.end(),
                "wrapped": scene.blobs(_announced(scene) or [scene.member()]),
            }
            for key_id in ids
        ]
    }


def _key_policy(scene: Scene) -> Json:
    return {"rotate_every_s": scene.pick(None, 3_600, 86_400), "keep_s": scene.pick(3_600, 86_400, 864_000)}


def _next_of_keys(scene: Scene) -> Step | None:
    machine, names = scene.state.keys, scene.key_members()
    for name in sorted(names, key=lambda name: name != scene.node):
        if name not in machine.nodes():
            return "keys", "announce", {**_announce_key(scene), "name": name}
    pending = [record for record in machine.records() if record.state in ("pending", "enabled")]
    if not names or not pending:
        return "keys", scene.pick("generate", "make"), _generate(scene)
    record = scene.rng.choice(pending)
    missing = [name for name in names if name not in record.wrapped]
    waiting = [name for name in names if name not in record.holders]
    if missing:
        return "keys", "wrap", {"key_id": record.key_id, "wrapped": scene.blobs(missing)}
    if waiting:
        name = scene.node if scene.node in waiting else scene.rng.choice(waiting)
        return "keys", "confirm", {"name": name, "keys": {record.key_id: record.fingerprint}}
    return "keys", scene.pick("promote", "rotate"), {"key_id": record.key_id}


# -- rendezvous -----------------------------------------------------------------------------------


def _rendezvous(scene: Scene, *states: str) -> Rendezvous | None:
    """A record, mostly in one of these states."""
    records = scene.state.rendezvous.records(scene.now)
    return scene.one_of([each for each in records if each.state in states] or records, None)


def _start(scene: Scene) -> Json:
    key = scene.pick(None, None, b64encode(scene.rng.randbytes(32)).decode())
    id = f"{scene.rng.getrandbits(128):032x}"
    if key is not None and scene.rng.random() < 0.9:
        id = id_of_public_key(key)
    elif scene.rng.random() < 0.1:
        id = _id(_rendezvous(scene))
    return {
        "id": id,
        "user_code_sha256": scene.digest(30),
        "ttl_ms": scene.pick(10_000, 60_000, DAY_MS),
        "kind": scene.pick("approval", "mfa"),
        "node": scene.node,
        "initiator": "alice@example.com",
        "origin": scene.pick(None, "192.0.2.1"),
        "data": scene.pick({}, {"reason": "deploy"}),
        "initiator_public_key": key,
    }


def _id(record: Rendezvous | None) -> str:
    return "0" * 32 if record is None else record.id


def _begin(scene: Scene) -> Json:
    return {**_start(scene), "begun_by": sorted({scene.digest(4) for _ in range(scene.pick(0, 1, 2))})}


def _code(scene: Scene, record: Rendezvous | None) -> Json:
    known = None if record is None else record.user_code_sha256
    code = scene.one_of([] if known is None or scene.rng.random() < 0.5 else [known], scene.digest(30))
    return {"id": scene.pick(None, _id(record)), "user_code_sha256": code}


def _attempt(scene: Scene) -> Json:
    return {**_code(scene, _rendezvous(scene, *LIVE_STATES)), "caller_sha256": scene.person()}


def _try_code(scene: Scene) -> Json:
    counted = (
        [["person", scene.person()]]
        if scene.rng.random() < 0.7
        else [["network", scene.person()], ["all", "1" * 64]]
    )
    return {**_code(scene, _rendezvous(scene, *LIVE_STATES)), "counted": counted}


def _step(scene: Scene, *states: str) -> tuple[Rendezvous | None, Json]:
    record = _rendezvous(scene, *states)
    expected = scene.pick(None, None, "pending" if record is None else record.state)
    return record, {"id": _id(record), "expected": expected}


def _person(scene: Scene) -> str:
    return scene.pick("bob", "eve")


def _approver(scene: Scene) -> Json:
    return {"actors": [scene.digest(4)], "claims": scene.pick({}, {"mfa": True})}


def _claim(scene: Scene) -> Json:
    return {**_step(scene, "pending")[1], "by": _person(scene)}


def _approve(scene: Scene) -> Json:
    record, step = _step(scene, "pending", "claimed")
    by, sealed = _person(scene), None
    if record is not None:
        by = scene.one_of([record.claimed_by] if record.claimed_by else [], by)
        sealed = scene.one_of([None if record.initiator_public_key is None else "c2VhbGVk"], None)
    return {**step, "by": by, "answer": {"group": "ops"} if sealed is None else None, "sealed_result": sealed}


def _claim_as(scene: Scene) -> Json:
    return {**_claim(scene), **_approver(scene)}


def _approve_as(scene: Scene) -> Json:
    return {**_approve(scene), **_approver(scene)}


def _deny(scene: Scene) -> Json:
    return {**_step(scene, "pending", "claimed")[1], "by": _person(scene)}


def _cancel(scene: Scene) -> Json:
    return _step(scene, *LIVE_STATES)[1]


def _consume(scene: Scene) -> Json:
    return {**_step(scene, "approved", "consumed")[1], "redemption_sha256": scene.digest(2)}


def _set_policy(scene: Scene) -> Json:
    return {
        "kind": scene.pick("approval", "mfa"),
        "require": scene.pick({}, {"mfa": True}),
        "allow_self": scene.rng.random() < 0.5,
    }


def _next_of_rendezvous(scene: Scene) -> Step | None:
    record = _rendezvous(scene, *LIVE_STATES)
    if record is None or record.state not in LIVE_STATES:
        return "rendezvous", "begin", _begin(scene)
    operation = scene.pick(*_ON[record.state])
    return "rendezvous", operation, {**OPERATIONS["rendezvous", operation](scene), "id": record.id}


_ON = {
    "pending": ("claim_as", "approve_as", "approve_as", "try_code"),
    "claimed": ("approve_as", "approve_as", "deny"),
    "approved": ("consume", "consume", "cancel"),
}


# -- time and answers -----------------------------------------------------------------------------


def _set_time(scene: Scene) -> Json:
    epoch = scene.state.clock.stamp.epoch
    to = scene.right_unix_ms + scene.rng.randint(-4_000, 50)
    if scene.far and scene.rng.random() < 0.5:
        to = scene.right_unix_ms + scene.pick(-30, -1, 1, 9) * scene.pick(60_000, DAY_MS)
    return {"to_unix_ms": max(0, to), "epoch": scene.one_of([epoch], epoch + 1), "by": "operator"}


def _keep(scene: Scene) -> Json:
    return {"operation": "invite", "about": {"name": scene.name()}, "answer": {"n": scene.rng.randrange(100)}}


def _counter(scene: Scene) -> str:
    return f"k{scene.rng.randrange(4)}"


def _add(scene: Scene) -> Json:
    return {"name": _counter(scene), "by": scene.pick(1, -1, 2**62, -(2**62), 2**63, -(2**63))}


def _reset(scene: Scene) -> Json:
    return {"name": _counter(scene)}


OPERATIONS: dict[tuple[str, str], Callable[[Scene], Json]] = {
    ("counter", "add"): _add,
    ("counter", "reset"): _reset,
    ("lock", "acquire"): lock_operations.acquire,
    ("lock", "keep"): lock_operations.keep,
    ("lock", "release"): lock_operations.release,
    ("lock", "break"): lock_operations.break_lock,
    **{("kv", operation): drawn for operation, drawn in kv_operations.KV.items()},
    ("members", "issue_invitation"): _issue,
    ("members", "invite_for"): _invite_for,
    ("members", "invite_witness"): lambda scene: _without_learner(_invite_for(scene)),
    ("members", "uninvite"): _uninvite,
    ("members", "grant"): _grant,
    ("members", "grant_witness"): lambda scene: _without_learner(_grant(scene)),
    ("members", "admit"): _admit,
    ("members", "announce"): _announce,
    ("members", "invite"): _invite,
    ("members", "redeem"): _redeem,
    ("members", "put"): _put,
    ("members", "set_role"): _set_role,
    ("members", "set_address"): _set_address,
    ("members", "remove"): _remove,
    ("members", "set_host"): _set_host,
    ("members", "set_gateway"): _set_gateway,
    ("members", "share_host"): lambda scene: {"host": _host(scene)},
    ("members", "unshare_host"): lambda scene: {"host": _host(scene)},
    ("presence", "boot"): _boot,
    ("presence", "reached"): _reached,
    ("credentials", "create"): _create,
    ("credentials", "renew"): _renew,
    ("credentials", "revoke"): lambda scene: {"name": _credentials(scene)},
    ("credentials", "bootstrap"): _bootstrap,
    ("authorities", "set_certificate_days"): _days,
    ("authorities", "begin"): _begin_rotation,
    ("authorities", "exchange"): _begin_rotation,
    ("authorities", "wrap"): _wrap_authority,
    ("authorities", "confirm"): _self_rotation,
    ("authorities", "reissued"): _self_rotation,
    ("authorities", "advance"): _rotation,
    ("authorities", "finish"): _rotation,
    ("authorities", "abandon"): _rotation,
    ("authorities", "exempt"): _exempt,
    ("keys", "announce"): _announce_key,
    ("keys", "generate"): _generate,
    ("keys", "make"): _generate,
    ("keys", "wrap"): _wrap_key,
    ("keys", "confirm"): _confirm_keys,
    ("keys", "reject"): _reject_keys,
    ("keys", "promote"): _one_key,
    ("keys", "rotate"): _one_key,
    ("keys", "disable"): _forced,
    ("keys", "enable"): _one_key,
    ("keys", "destroy"): _forced,
    ("keys", "import"): _import,
    ("keys", "policy"): _key_policy,
    ("sessions", "advance"): session_operations.advance_session,
    ("sessions", "advance_to"): session_operations.advance_to,
    ("sessions", "revoke_sid"): session_operations.revoke_sid,
    ("sessions", "revoke_sub"): session_operations.revoke_sub,
    ("rendezvous", "start"): _start,
    ("rendezvous", "begin"): _begin,
    ("rendezvous", "try_code"): _try_code,
    ("rendezvous", "attempt"): _attempt,
    ("rendezvous", "claim"): _claim,
    ("rendezvous", "claim_as"): _claim_as,
    ("rendezvous", "approve"): _approve,
    ("rendezvous", "approve_as"): _approve_as,
    ("rendezvous", "deny"): _deny,
    ("rendezvous", "cancel"): _cancel,
    ("rendezvous", "consume"): _consume,
    ("rendezvous", "set_policy"): _set_policy,
    ("clock", "set"): _set_time,
    ("answers", "keep"): _keep,
}
"""How the arguments of every operation of every machine are drawn."""

_WITNESSES = (("members", "invite_witness"), ("members", "grant_witness"))
"""Drawn where there may be witnesses; elsewhere every run is as it was before there were any."""
_NAMES = tuple(name for name in OPERATIONS if name not in _WITNESSES and name[0] not in ("lock", "kv"))
_FILLING = (
    ("counter", "add"),
    *(("members", operation) for operation in ("invite_for", "grant", "put", "share_host")),
    ("credentials", "create"),
    *(("keys", operation) for operation in ("make", "destroy")),
    *(("sessions", operation) for operation in ("revoke_sid", "revoke_sub")),
    *(("rendezvous", operation) for operation in ("begin", "try_code", "attempt", "set_policy")),
)
"""Operations that put something where there is little room."""

_NEXT = (
    _next_of_members,
    _next_of_credentials,
    _next_of_authorities,
    _next_of_keys,
    _next_of_rendezvous,
)
