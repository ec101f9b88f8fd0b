"""The end of a run: every node but one is lost, and the cluster goes on from its disk."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from cyoloctl.errors import NotFound
from tests.chaos.cluster import FaultCluster, FaultNode
from tests.support.cluster import wait_until

__all__ = ["RECOVER", "recover"]

RECOVER = "recover"


def recover(
    cluster: FaultCluster, base: Path, seed: int, expected: Mapping[str, set[int | None]]
) -> tuple[list[str], str]:
    """Kill all, recover the furthest disk with a command that is killed and repeated, and start it alone.

    expected: what every node told of each counter.  Returns the problems, and what was done.
    """
    rng = random.Random(f"recover/{seed}")
    cluster.on_all(FaultNode.kill)
    described = {}
    for name, node in cluster.nodes.items():
        described[name] = base / f"{name}.json"
        described[name].write_text(node.run("node", "inspect", "-o", "json", "-d", str(node.directory)))
    first, *others = cluster.nodes
    node, files = cluster.nodes[first], [str(described[name]) for name in others]
    place = ["cluster", "recover", "-d", str(node.directory)]
    best = json.loads(node.run(*place, "--dry-run", "-o", "json", "--compare", *files))["best"]
    node = cluster.nodes[best]
    command = ["cluster", "recover", "-d", str(node.directory), "--yes"]
    process, _ = node.spawn(*command)
    began_s = time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0.0, 1.5))
    killed = process.poll() is None
    process.kill()
    process.wait()
    node.run(*command)
    node.launch()

    def told() -> dict[str, set[int | None]]:
        found: dict[str, set[int | None]] = {}
        for counter in expected:
            try:
                found[counter] = {int(node.client().counters.get(counter)["value"])}
            except NotFound:
                found[counter] = {0}
        return found

    try:
        values = wait_until("the recovered node answers", told)
        node.client().counters.incr("after", 1)
        voters = node.client().status()["cluster"]["voters"]
    except AssertionError as error:
        return [f"{best} was recovered, and does not serve: {error}: {node.log_tail()}"], ""
    took_s = time.monotonic() - began_s
    problems = [
        f"{best} was recovered, and {counter} is {values[counter]}, not {expected[counter]}"
        for counter in expected
        if values[counter] != expected[counter]
    ]
    if voters != 1:
        problems.append(f"{best} was recovered, and there are {voters} voters")
    how = "killed and repeated" if killed else "not killed: it had ended"
    return problems, f"recovered from the disk of {best} ({how}): writes went on after {took_s:.1f} s"
