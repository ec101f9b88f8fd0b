"""What the machines must never hold of a witness: see `Member.witness`."""

from __future__ import annotations

from cyoloctl.replicated.command import Command
from cyoloctl.state import ClusterState

__all__ = ["sealed_to_witness"]


def sealed_to_witness(state: ClusterState, request: Command) -> str | None:
    """What a command that was carried out just now gave to a witness, or took from it; None: nothing."""
    members = state.members
    if request.machine == "keys":
        for record in state.keys.records():
            for name in {*record.wrapped, *record.holders}:
                if members.is_witness(name):
                    return f"key {record.key_id} is sealed to {name}, a witness"
        for name in state.keys.nodes():
            if members.is_witness(name):
                return f"{name}, a witness, has announced where keys are sealed to"
    if request.machine == "authorities" and state.authorities.rotation is not None:
        sealed, given = state.authorities.rotation.keys, request.arguments.get("keys", {})
        for name in given:
            if members.is_witness(name) and sealed.get(name) == given[name]:
                return f"the key of the CA is sealed to {name}, a witness"
    if request.machine == "members":
        for member in members.members():
            if member.witness and member.role != "voter":
                return f"{member.name}, a witness, is to be a {member.role}"
    return None
