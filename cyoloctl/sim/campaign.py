"""Many runs, on any number of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from cyoloctl.process import child_environment, end_with_parent, interrupts_held
from cyoloctl.sim.faults import FAULTS
from cyoloctl.sim.run import Report, run_seed

__all__ = ["replay_command", "run_seeds"]


def _prepare_worker(parent: int) -> None:
    # The parent ends its workers itself; where it is killed, they end with it and say nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)


def run_seeds(
    seeds: range, *, faults: tuple[str, ...], nodes: int | None, jobs: int
) -> Generator[Report, None, None]:
    """The reports of these seeds, in the order in which the runs end.

    faults, nodes: see `run_seed`.  jobs: processes, 1 or more; a single one is
    the caller's own.  Close the iterator, or read it to its end, to end the
    processes.
    """
    run = partial(run_seed, faults=faults, nodes=nodes)
    if jobs == 1 or len(seeds) == 1:
        yield from map(run, seeds)
        return
    # Not fork: the caller may have threads.
    spawn = multiprocessing.get_context("spawn")
    # The environment stays like this until the end, since a worker that died is replaced.
    with _environment_of_workers(), ExitStack() as stack:
        with interrupts_held():  # a worker that is half started would complain
            workers = min(jobs, len(seeds))
            pool = stack.enter_context(spawn.Pool(workers, _prepare_worker, (os.getpid(),)))
        yield from pool.imap_unordered(run, seeds)


@contextmanager
def _environment_of_workers() -> Iterator[None]:
    """Workers take their code from where this process took it, and from nowhere else."""
    before = dict(os.environ)
    try:
        for name in before.keys() - child_environment(before).keys():
            del os.environ[name]
        os.environ["PYTHONSAFEPATH"] = "1"
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def replay_command(seed: int, *, faults: tuple[str, ...], nodes: int | None) -> str:
    """The command that repeats the run of one seed."""
    parts = [f"cyoloctl sim --seeds {seed}:{seed + 1}"]
    if set(faults) != set(FAULTS):
        parts.append(f"--faults {','.join(faults) or 'none'}")
    if nodes is not None:
        parts.append(f"--nodes {nodes}")
    return " ".join(parts)
