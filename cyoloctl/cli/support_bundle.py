"""``cyoloctl support-bundle``: what somebody else needs to understand a node's trouble, in one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyoloctl.cli.doctor import asking, look
from cyoloctl.cli.invocation import Invocation, Leaf, command, read_input, secret_file
from cyoloctl.cli.parameters import Option
from cyoloctl.errors import InvalidInput, UsageError
from cyoloctl.paths import quoted

__all__ = ["COMMANDS"]

_MAX_IDENTITY_BYTES = 64 * 1024


@command(connects=False)
def support_bundle(
    invocation: Invocation,
    out: Annotated[Path, Option("--out", metavar="FILE", help="New file, made with mode 0600.")],
    seal_to: Annotated[
        Path | None,
        Option(
            "--seal-to",
            metavar="FILE",
            help="Seal it to the node of this `key identity`, which alone can open it.",
        ),
    ] = None,
    open_: Annotated[
        Path | None,
        Option("--open", metavar="FILE", help="Open one that was sealed to the node of the data directory."),
    ] = None,
) -> None:
    """Write a file for whoever is to help: findings, status, limits, versions, the end of the log.

    A tar.gz with a README; works while the node is down. It holds no private
    key, token or key ring, and nothing of what the cluster stores. Names and
    addresses are in it. With --seal-to only one node can open the file: there
    `support-bundle --open` does it, offline.
    """
    if seal_to is not None and open_ is not None:
        raise UsageError("use --seal-to or --open, not both")
    if open_ is not None:
        _open(invocation, open_, out)
        return
    text = None if seal_to is None else read_input(seal_to, "node identity", _MAX_IDENTITY_BYTES)
    with secret_file(out, "support bundle") as write:
        _make(invocation, out, text, write)


def _make(invocation: Invocation, out: Path, to_text: bytes | None, write: Callable[[bytes], None]) -> None:
    from datetime import UTC, datetime
    from hashlib import sha256

    from cyoloctl.doctor.bundle import make_bundle
    from cyoloctl.doctor.sealing import seal_bundle
    from cyoloctl.keys.wrapping import decode_identity

    to = None
    if to_text is not None:
        text = to_text[:_MAX_IDENTITY_BYTES].decode("ascii", "replace")
        to = decode_identity(text, now=datetime.now(UTC))
    made = make_bundle(invocation.data_dir, look(invocation), asking(invocation))
    data = made.data if to is None else seal_bundle(made.data, to)
    write(data)
    recipient: dict[str, Any] | None = None
    if to is not None:
        recipient = {"name": to.name, "cluster_id": to.cluster_id, "ca_sha256": to.ca_sha256}
    document = {
        "schema_version": 1,
        "file": str(out),
        "size_bytes": len(data),
        "sha256": sha256(data).hexdigest(),
        "sealed_to": recipient,
        "contents": list(made.names),
        "left_out": [{"name": one.name, "reason": one.reason} for one in made.left_out],
        "hidden": made.hidden,
    }
    rows: list[tuple[str, object]] = [
        ("file", out),
        ("size", f"{len(data)} bytes"),
        ("contents", document["contents"]),
        ("left out", [f"{one.name} ({one.reason})" for one in made.left_out]),
        ("sealed to", "-" if to is None else f"{to.name} of cluster {to.cluster_id}"),
    ]
    invocation.fields(document, rows)
    if to is not None:
        invocation.hint(
            f"compare with whoever is to open it: the SHA-256 of the CA is {to.ca_sha256}\n"
            f"there: cyoloctl support-bundle --open {quoted(out.name)} --out bundle.tar.gz"
        )
    else:
        invocation.hint(f"look into it before it leaves: tar -xzf {quoted(out)}")


def _open(invocation: Invocation, file: Path, out: Path) -> None:
    from hashlib import sha256

    from cyoloctl.cli import launch
    from cyoloctl.doctor.sealing import MAX_SEALED_BYTES, open_bundle
    from cyoloctl.node.config import CONFIG_NAME, load_config
    from cyoloctl.pki.files import PKI_DIRECTORY, read_node_keys

    sealed = read_input(file, "support bundle", MAX_SEALED_BYTES)
    if len(sealed) > MAX_SEALED_BYTES:
        raise InvalidInput(f"{file} is no support bundle: it has more than {MAX_SEALED_BYTES} bytes")
    with secret_file(out, "support bundle") as write:
        launch.require_node(invocation.data_dir)
        config = load_config(invocation.data_dir / CONFIG_NAME)
        _, sealing_key_pem = read_node_keys(invocation.data_dir / PKI_DIRECTORY)
        data = open_bundle(
            sealed, name=config.name, cluster_id=config.cluster_id, sealing_key_pem=sealing_key_pem
        )
        write(data)
    digest = sha256(data).hexdigest()
    document = {"schema_version": 1, "file": str(out), "size_bytes": len(data), "sha256": digest}
    invocation.fields(document, [("file", out), ("size", f"{len(data)} bytes"), ("sha256", digest)])
    invocation.hint(
        "a seal does not say who made it: compare this SHA-256 with whoever sent it, then "
        f"tar -xzf {quoted(out)}"
    )


COMMANDS: dict[str, Leaf] = {"support-bundle": support_bundle}
