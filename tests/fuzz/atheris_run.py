"""Coverage-guided fuzzing of the same targets, for a bounded time: ``make fuzz SECONDS=60``.

    python -m tests.fuzz.atheris_run --seconds 60 [--corpus DIR] [TARGET...]

The time is for all targets together, spent by as many processes as there are cores.  Status 1: a contract
is broken, and the input that does it is written to the corpus; 77: atheris cannot be imported here.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import resource
import sys
import tempfile
import traceback
from pathlib import Path
from random import Random
from typing import Any, NoReturn

_LIMIT_MB = 1024
_LIMIT_S = 10


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.atheris_run")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--corpus", type=Path, help="keep what is found here, and begin with what is here")
    parser.add_argument("--if-possible", action="store_true", help="no failure where atheris is missing")
    options = parser.parse_args()
    try:
        import atheris
    except ImportError as error:
        print(
            f"NOT FUZZED: atheris cannot be imported ({error}); its wheels are for Linux and a few Pythons: "
            "pip install '.[fuzz]'",
            file=sys.stderr,
        )
        return 0 if options.if_possible else 77
    with atheris.instrument_imports(include=["cyoloctl"], enable_loader_override=False):
        from tests.fuzz.targets import BY_NAME, TARGETS

    if unknown := set(options.targets) - set(BY_NAME):
        parser.error(f"unknown {', '.join(sorted(unknown))}: the targets are {', '.join(BY_NAME)}")
    chosen = [BY_NAME[name] for name in options.targets] or list(TARGETS)
    workers = min(os.cpu_count() or 1, len(chosen))
    share_s = max(1, round(options.seconds * workers / len(chosen)))
    with contextlib.ExitStack() as stack:
        corpus = options.corpus or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        waiting, running = [target.name for target in chosen], {}
        broken = []
        while waiting or running:
            while waiting and len(running) < workers:
                name = waiting.pop(0)
                (corpus / name).mkdir(parents=True, exist_ok=True)
                pid = os.fork()
                if pid == 0:
                    try:
                        _fuzz(atheris, BY_NAME[name], corpus / name, share_s)
                    except BaseException:
                        traceback.print_exc()
                    os._exit(1)
                running[pid] = name
            pid, status = os.wait()
            name = running.pop(pid)
            log = (corpus / name / "log").read_text(errors="replace")
            counted = re.search(r"number_of_executed_units: (\d+)", log)
            shown = f"{int(counted[1]):>10,} executions" if counted else "no statistics"
            print(f"{name:<22} {shown} {'' if status == 0 else ' BROKEN'}", flush=True)
            if status != 0:
                broken.append(name)
                print(log[-6000:], file=sys.stderr)
                for path in sorted((corpus / name).glob("broken-*")):
                    print(f"{path.name} = {path.read_bytes()[:2000]!r}", file=sys.stderr)
    return 1 if broken else 0


def _fuzz(atheris: Any, target: Any, corpus: Path, seconds: int) -> NoReturn:
    """In a process of its own; libFuzzer ends it."""
    log = os.open(corpus / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tempfile.tempdir = str(corpus)  # nothing runs at the end of this process
    logging.getLogger("cyoloctl").addHandler(logging.NullHandler())
    logging.getLogger("cyoloctl").propagate = False
    from tests.fuzz.mutate import MAX_BYTES, mutate

    inputs = corpus / "inputs"
    inputs.mkdir(exist_ok=True)
    for number, seed in enumerate(seed for seed in target.seeds if len(seed) <= MAX_BYTES):
        (inputs / f"seed-{number}").write_bytes(seed)

    def run(data: bytes) -> None:
        try:
            target.check(data)
        except BaseException:  # libFuzzer keeps an input that crashes, not one that raises
            (corpus / "broken-raised").write_bytes(data)
            raise

    def change(data: bytes, most: int, number: int) -> bytes:
        rng = Random(number)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return mutate([data, rng.choice(target.seeds)[:MAX_BYTES]], rng)[:most]

    arguments = [
        "fuzz", f"-max_total_time={seconds}", f"-rss_limit_mb={_LIMIT_MB}", f"-timeout={_LIMIT_S}",
        f"-max_len={MAX_BYTES}", "-print_final_stats=1", "-verbosity=0", f"-artifact_prefix={corpus}/broken-",
        str(inputs),
    ]  # fmt: skip
    atheris.Setup(arguments, run, custom_mutator=change)
    atheris.Fuzz()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
