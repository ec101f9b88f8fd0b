"""``cyoloctl cluster``: create a cluster, recover it, set its time, raise its level."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyoloctl.cli.invocation import (
    Invocation,
    Leaf,
    RequestIdOption,
    command,
    confirm,
    parse_choice,
    parse_int64,
    read_secret,
)
from cyoloctl.cli.parameters import Argument, Option
from cyoloctl.errors import Conflict, UsageError
from cyoloctl.paths import quoted

__all__ = ["COMMANDS", "AdvertiseOption", "GatewayOption", "GatewayUrlOption", "ListenOption"]

ListenOption = Annotated[
    str, Option("--listen", metavar="HOST:PORT", help="Address to listen on, for peers and clients.")
]
AdvertiseOption = Annotated[
    str | None,
    Option(
        "--advertise",
        metavar="HOST:PORT",
        help="Address at which others reach the node. [default: the listen address]",
    ),
]
GatewayOption = Annotated[
    str | None,
    Option(
        "--gateway",
        metavar="HOST:PORT",
        help="Address of the gateway, for browsers and proxies. [default: no gateway]",
    ),
]
GatewayUrlOption = Annotated[
    str | None,
    Option(
        "--gateway-url",
        metavar="URL",
        help="Base of the links for people, such as https://app-1.example.com. "
        "[default: by the node's host name, or the gateway address]",
    ),
]
_IN_MEMORY = (
    "\nin memory: while this is the only node, its restart loses the state; with more, a power cut that "
    "takes a majority at once does"
)

CertificateDaysOption = Annotated[
    str,
    Option(
        "--certificate-days",
        metavar="N",
        help="Lifetime of certificates in days, 1 to 825; nodes renew theirs.",
    ),
]
FromSnapshotOption = Annotated[
    Path | None,
    Option("--from-snapshot", metavar="FILE", help="Begin with the state in a file of `snapshot save`."),
]
PassphraseOption = Annotated[
    str | None,
    Option("--passphrase-file", metavar="FILE|-", help="Passphrase of the keys in that file."),
]

OfflineCaOption = Annotated[
    bool,
    Option("--offline-ca", help="Give the CA's key to no member: nodes come in by file, with --ca-file."),
]
NewCaFileOption = Annotated[
    Path | None,
    Option(
        "--ca-file",
        metavar="FILE",
        help="New file for that CA and its key. [default: offline-ca.pem in the data directory]",
    ),
]


@command(connects=False, timeout_s=None)
def init(
    invocation: Invocation,
    name: Annotated[str, Option("--name", metavar="NAME", help="Name of the node: its permanent identity.")],
    listen: ListenOption,
    advertise: AdvertiseOption = None,
    cluster: Annotated[str, Option("--cluster", metavar="NAME", help="Name of the cluster.")] = "cyolo",
    storage: Annotated[
        str,
        Option("--storage", metavar="disk|memory", help="Storage of the log; memory loses it at a restart."),
    ] = "disk",
    gateway: GatewayOption = None,
    gateway_url: GatewayUrlOption = None,
    certificate_days: CertificateDaysOption = "825",
    from_snapshot: FromSnapshotOption = None,
    passphrase_file: PassphraseOption = None,
    offline_ca: OfflineCaOption = False,
    ca_file: NewCaFileOption = None,
) -> None:
    """Create a new cluster with one member, offline.

    Makes the cluster id, the certificate authority, the node's certificate
    and keys, operator credentials and node.yaml. Refuses a directory that
    already holds a node (exit 4).

    With --from-snapshot the new cluster has an old one's state, in a new
    epoch of its history, and none of its members, credentials, invitations
    or host names.

    With --offline-ca no member ever holds the CA's key. Nodes come in with
    `node request`, `member grant --ca-file` and `node accept`, certificates
    are renewed the same way, and the CA cannot be exchanged.
    """
    parse_choice(storage, "--storage", ("disk", "memory"))
    days = parse_int64(certificate_days.removesuffix("d"), "--certificate-days", 1, 825)
    from cyoloctl.node import create

    make = partial(
        create.init_cluster,
        *(invocation.data_dir, name, listen, advertise, cluster, storage, gateway, gateway_url, days),
        offline_ca=_offline_ca(invocation, offline_ca, ca_file),
    )
    passphrase = None if passphrase_file is None else read_secret(passphrase_file, "passphrase")
    if from_snapshot is None:
        if passphrase is not None:
            raise UsageError("--passphrase-file belongs to --from-snapshot: leave it out")
        _show_init(invocation, make())
        return
    if storage != "disk":
        raise UsageError("--from-snapshot needs a disk: leave --storage memory out")
    from cyoloctl.node import restore

    made = restore.init_from_snapshot(
        from_snapshot, passphrase, invocation.data_dir, lambda found: make(found=found)
    )
    _show_init(invocation, made)


def _offline_ca(invocation: Invocation, offline_ca: bool, ca_file: Path | None) -> Path | None:
    """The file of an offline CA, where one was asked for."""
    from cyoloctl.pki.offline_ca import CA_FILE

    if ca_file is not None and not offline_ca:
        raise UsageError("--ca-file belongs to --offline-ca: add that")
    return (ca_file or invocation.data_dir / CA_FILE) if offline_ca else None


def _show_init(invocation: Invocation, made: dict[str, Any]) -> None:
    invocation.fields(
        made,
        [
            ("cluster", f"{made['cluster']['name']} ({made['cluster']['id']})"),
            ("node", made["name"]),
            ("address", made["address"]),
            ("data directory", made["data_dir"]),
            ("operator credentials", made["operator_credentials"]),
            *([("offline CA", made["offline_ca"])] if made["offline_ca"] else []),
            *_restored(made),
        ],
    )
    directory = quoted(made["data_dir"])
    if made["offline_ca"] is not None:
        invocation.hint(_next_offline(directory, quoted(made["offline_ca"])))
        return
    invocation.hint(
        "\nnext:\n"
        f"  cyoloctl node start -d {directory} --background\n"
        f"  cyoloctl member invite -d {directory} --name NAME --out token   # then, on the other machine:\n"
        "  cyoloctl node join -d DIR --name NAME --listen HOST:PORT --token-file token\n"
        "keep pki/ca.key and operator.yaml safe: they are the keys to the cluster"
        + (_IN_MEMORY if made["storage"] == "memory" else "")
    )


def _next_offline(directory: str, ca_file: str) -> str:
    return (
        f"\nmove {ca_file} to a medium of its own: it admits nodes and renews certificates, and nothing "
        "replaces it\nnext:\n"
        f"  cyoloctl node start -d {directory} --background\n"
        "  cyoloctl node request -d DIR --name NAME --listen HOST:PORT --out request   # over there\n"
        f"  cyoloctl member grant -d {directory} --request request --ca-file FILE --out grant\n"
        "  cyoloctl node accept -d DIR --grant grant   # there again"
    )


def _restored(made: dict[str, Any]) -> list[tuple[str, object]]:
    if "from" not in made:
        return []
    old = made["from"]
    keys = f"{made['keys']}, for earlier sessions" if made["keys"] else "none: earlier sessions have ended"
    return [
        ("state of", f"{old['name']} ({old['id']}) at {old['taken_at']}, log index {made['index']}"),
        ("epoch", made["epoch"]),
        ("token keys", keys),
    ]


@command()
def set_time(
    invocation: Invocation,
    to_members: Annotated[
        bool,
        Option("--to-members", help="Set it to what the clocks of a majority of the members show."),
    ] = False,
    dry_run: Annotated[
        bool,
        Option("--dry-run", help="Change nothing; print what would expire, or live longer."),
    ] = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Set cluster time, after the clocks of most members were wrong.

    Correct the clocks of the machines first. Cluster time then goes to what
    a majority of them shows, back or forward. The setting is kept in the
    cluster's state permanently.
    """
    if not to_members:
        raise UsageError("say --to-members: the time is set to what the members' clocks show")
    client = invocation.client()
    if not dry_run:
        confirm(yes, "set cluster time to what a majority of the members' clocks show?")
    done = client.set_time(dry_run=dry_run, request_id=request_id)
    affected = ", ".join(f"{count} {what}" for what, count in done["affected"].items() if count) or "nothing"
    effect = "would live longer" if done["moves_s"] < 0 else "would expire"
    verb = "would move" if dry_run else "moved"
    invocation.fields(
        done,
        [
            ("from", done["from"]),
            ("to", done["to"]),
            (verb, f"{done['moves_s']} s"),
            (effect if dry_run else effect.replace("would ", "will "), affected),
        ],
    )


@command()
def upgrade(
    invocation: Invocation,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Change nothing; print the level that it would raise to.")
    ] = False,
    request_id: RequestIdOption = None,
) -> None:
    """Let the cluster use what came with a new release, once every member runs it.

    The last step of a rolling upgrade. Until then members of two releases
    serve together, what the earlier one lacks is refused (exit 76, naming the
    members), and each can go back to it. From then on none can. Does nothing
    where the level is the highest already; exits 76, naming the members,
    where some do not understand what others do.
    """
    done = invocation.client().cluster_upgrade(dry_run=dry_run, request_id=request_id)
    verb = "would go to" if dry_run else "went to"
    change = f"{done['level']}, {verb} {done['to']}" if done["changed"] else f"{done['level']}, as before"
    since = done["release"]
    rows = [("level", change), ("oldest release", since or "any")]
    if done["waits_for"]:
        rows.append(("a higher one waits for", ", ".join(done["waits_for"])))
    away = "unknown (it is away)"
    rows += [
        (
            each["name"],
            f"release {each['release'] or away}, understands level {each['level']}",
        )
        for each in done["members"]
    ]
    invocation.fields(done, rows)


@command(connects=False, timeout_s=None)
def recover(
    invocation: Invocation,
    more: Annotated[
        list[Path] | None, Argument(metavar="[FILE]...", help="More files for --compare.")
    ] = None,
    compare: Annotated[
        list[Path] | None,
        Option(
            "--compare",
            metavar="FILE",
            help="What `node inspect -o json` printed of other surviving disks. "
            "Refuses to go on (exit 4) where that one got further.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        Option("--dry-run", help="Change nothing; print what it would do, and who is left behind."),
    ] = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Go on from this node's disk alone, when most voters are lost permanently.

    The last resort, offline, on the surviving disk that got furthest. The
    node becomes the only voter, and a new epoch of the cluster's history
    begins. All other members are left behind: they must never be started
    again, and are refused where they are. They come back under new names
    with empty data directories.
    """
    from cyoloctl.node import recover as recovery

    if more and not compare:
        raise UsageError(f"{more[0]} is one file too many: descriptions of other disks follow --compare")
    found = recovery.compare(invocation.data_dir, [*compare, *(more or ())]) if compare else None
    planned = recovery.recover(invocation.data_dir, dry_run=True)
    if found is not None and found["best"] != planned["name"] and not dry_run:
        raise Conflict(
            f"the disk of {found['best']} got further than that of {planned['name']}: recover from that one "
            f"(`cyoloctl cluster recover -d DIR` there); {_disks(found['disks'])}"
        )
    if not dry_run and planned["changed"]:
        _warn(invocation, planned)
        confirm(yes, f"make {planned['name']} the whole cluster, and leave the others behind?")
    done = planned if dry_run else recovery.recover(invocation.data_dir, dry_run=False)
    _show_recovery(invocation, {**done, **(found or {})})


def _disks(disks: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{disk['name']}: last entry {disk['last_index']} of term {disk['last_term']}"
        + (f", unusable ({disk['problem']})" if disk["problem"] else "")
        for disk in disks
    )


def _uncertain(plan: dict[str, Any]) -> str:
    first, last = plan["certain_index"] + 1, plan["last_index"]
    return (
        "none"
        if first > last or not plan["changed"]
        else f"{first} to {last}: they count from now on, acknowledged or not"
    )


def _warn(invocation: Invocation, plan: dict[str, Any]) -> None:
    invocation.hint(
        f"lost: what others acknowledged after log entry {plan['last_index']} of term {plan['last_term']}\n"
        f"entries that may not have been acknowledged: {_uncertain(plan)}\n"
        f"left behind, never to be started again: {', '.join(plan['left_behind'])}"
    )


def _show_recovery(invocation: Invocation, done: dict[str, Any]) -> None:
    rows = [
        ("node", done["name"]),
        ("epoch", done["epoch"]),
        ("last entry", f"{done['last_index']} of term {done['last_term']}"),
        ("uncertain entries", _uncertain(done)),
        ("left behind", ", ".join(done["left_behind"]) or "nobody: it is the only member"),
    ]
    if "best" in done:
        rows.append(("furthest disk", f"{done['best']} ({_disks(done['disks'])})"))
    if done["backup"] is not None:
        rows.append(("backup", done["backup"]))
    invocation.fields(done, rows)
    if not done["has_ca_key"]:
        invocation.hint("this disk holds no CA key: nobody can join until the cluster has a new CA")
    if done["dry_run"] or not done["changed"]:
        return
    directory = quoted(invocation.data_dir)
    invocation.hint(
        "\nnext:\n"
        f"  cyoloctl node start -d {directory} --background\n"
        f"  cyoloctl status -d {directory}\n"
        "and for each machine that comes back:\n"
        f"  cyoloctl member invite -d {directory} --name NEW-NAME --out token\n"
        "let none of the members that were left behind start again with its old data directory"
    )


COMMANDS: dict[str, Leaf] = {
    "init": init,
    "recover": recover,
    "set-time": set_time,
    "upgrade": upgrade,
}
