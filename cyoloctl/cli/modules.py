"""The groups and commands, and the module of each: what is known of them before one is imported."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["GROUPS", "LEAVES", "MODULES", "PROGRAM"]

PROGRAM = "cyoloctl"

#: Groups: name -> one line.
GROUPS: dict[str, str] = {
    "cluster": "Create a cluster, recover it from one disk, set its time.",
    "node": "Run, stop, join, renew and inspect the node of a data directory.",
    "config": "The configuration of a node: check node.yaml, show what is in force.",
    "member": "Invite, list, renew and remove members; move leadership.",
    "pki": "The certificate authority: its state and its exchange.",
    "credentials": "Who may call the API: create, list, renew and revoke viewers, gateways and operators.",
    "kv": "Keys and values: any data, with a revision for every change.",
    "counter": "The replicated counters (signed 64-bit).",
    "lock": "Locks: run a command on one node at a time; who holds which.",
    "machine": "State machines of your own: apply their operations, ask their queries.",
    "key": "The key ring of session tokens: rotate, inspect, carry to another network.",
    "token": "Session tokens: mint, open, change, revoke.",
    "rendezvous": "Transactions of several actors: begin, approve, redeem once.",
    "route": "Host names and sticky keys; configurations for nginx and haproxy.",
    "snapshot": "The replicated state in a file: save, verify, begin a new cluster with it.",
    "audit": "The audit log: who changed what; list, export and verify it.",
    "completion": "Completion scripts for shells.",
    "help": "The help of any command (`cyoloctl help key list`), and reference texts.",
}

#: Commands directly under the root; the modules of the same names.
LEAVES: tuple[str, ...] = (
    "batch",
    "bench",
    "console",
    "demo",
    "dev",
    "doctor",
    "sim",
    "status",
    "top",
    "support-bundle",
)

#: In the order of ``--help``: the module of a group or leaf, whose COMMANDS maps leaf names to functions.
MODULES: dict[str, Callable[[], Any]] = {
    "dev": lambda: import_module("cyoloctl.cli.dev"),
    "demo": lambda: import_module("cyoloctl.cli.demo"),
    "cluster": lambda: import_module("cyoloctl.cli.cluster"),
    "node": lambda: import_module("cyoloctl.cli.node"),
    "config": lambda: import_module("cyoloctl.cli.config"),
    "member": lambda: import_module("cyoloctl.cli.member"),
    "status": lambda: import_module("cyoloctl.cli.status"),
    "top": lambda: import_module("cyoloctl.cli.top"),
    "console": lambda: import_module("cyoloctl.cli.console"),
    "doctor": lambda: import_module("cyoloctl.cli.doctor"),
    "support-bundle": lambda: import_module("cyoloctl.cli.support_bundle"),
    "pki": lambda: import_module("cyoloctl.cli.pki"),
    "credentials": lambda: import_module("cyoloctl.cli.credentials"),
    "kv": lambda: import_module("cyoloctl.cli.kv"),
    "counter": lambda: import_module("cyoloctl.cli.counter"),
    "lock": lambda: import_module("cyoloctl.cli.lock"),
    "machine": lambda: import_module("cyoloctl.cli.machines"),
    "batch": lambda: import_module("cyoloctl.cli.batch"),
    "token": lambda: import_module("cyoloctl.cli.token"),
    "key": lambda: import_module("cyoloctl.cli.key"),
    "rendezvous": lambda: import_module("cyoloctl.cli.rendezvous"),
    "route": lambda: import_module("cyoloctl.cli.route"),
    "snapshot": lambda: import_module("cyoloctl.cli.snapshot"),
    "audit": lambda: import_module("cyoloctl.cli.audit"),
    "bench": lambda: import_module("cyoloctl.cli.bench"),
    "sim": lambda: import_module("cyoloctl.cli.sim"),
    "completion": lambda: import_module("cyoloctl.cli.completion"),
    "help": lambda: import_module("cyoloctl.cli.help"),
}
