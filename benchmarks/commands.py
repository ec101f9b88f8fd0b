"""Commands as scripts run them, one process each: ``python -m benchmarks.commands``.

Processor time (user and system) of whole commands against three real nodes, in turn with
``python -c 'import typer'`` and ``python -c pass``, so that a busy machine is busy for all of them.
With --beside the commands of another release's program are measured in the same turns, and with
etcdctl in the path its put.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence

from benchmarks.report import say
from benchmarks.systems import BenchmarkError, Cyoloctl, Etcd, scratch_directory

COMMANDS = ("counter incr", "counter get", "kv put a b", "kv get a", "status --check -o json")
_TYPER = "python -c 'import typer'"


def processor_s(arguments: Sequence[str], environment: Mapping[str, str]) -> float:
    """What a command takes, in seconds of a processor.  Raises BenchmarkError when it fails."""
    nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(arguments[0], arguments, environment, file_actions=nowhere)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise BenchmarkError(f"{' '.join(arguments)}: {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime


def programs(ours: Cyoloctl, beside: str | None) -> dict[str, list[str]]:
    """What is measured, by its name in the table."""
    leader = ours.leader()
    assert leader is not None
    where = ["-d", ours.data(leader)]
    found = {"python -c pass": [sys.executable, "-c", "pass"], _TYPER: [sys.executable, "-c", "import typer"]}
    for command in COMMANDS:
        found[command] = [*ours.command, *command.split(), *where]
        if beside is not None:
            found[f"{command} ({beside})"] = [beside, *command.split(), *where]
    return found


def measure(
    commands: Mapping[str, list[str]], turns: int, environment: Mapping[str, str]
) -> dict[str, float]:
    """The median of each, in milliseconds."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(turns + 1):
        for name, arguments in commands.items():
            took = processor_s(arguments, environment)
            if turn:  # the first one writes bytecode
                taken[name].append(took * 1000)
    return {name: statistics.median(each) for name, each in taken.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=__doc__)
    parser.add_argument("--turns", type=int, default=31)
    parser.add_argument("--beside", metavar="PROGRAM", help="another release's cyoloctl")
    parser.add_argument("--json", metavar="FILE", help="keep the figures")
    options = parser.parse_args(arguments)
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    with scratch_directory(None, keep=False) as scratch:
        ours, theirs = Cyoloctl(scratch), None
        try:
            ours.start()
            commands = programs(ours, options.beside)
            etcdctl = shutil.which("etcdctl")
            if etcdctl is not None:
                theirs = Etcd(scratch, transport="tcp")
                theirs.start()
                leader = theirs.leader()
                assert leader is not None
                environment |= {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": f"http://{leader.address}"}
                commands["etcdctl put a b"] = [etcdctl, "put", "a", "b"]
            found = measure(commands, options.turns, environment)
        finally:
            ours.close()
            if theirs is not None:
                theirs.close()
    say(f"median processor time of {options.turns} alternating turns, and times importing typer:")
    for name, median in found.items():
        say(f"{name:40} {median:6.1f} ms  {median / found[_TYPER]:.2f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
