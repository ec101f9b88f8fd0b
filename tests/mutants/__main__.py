"""``python -m tests.mutants``: plant listed faults, one at a time, and see whether the named tests fall."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants import __doc__ as explanation
from tests.mutants.catalogue import Mutant, read_catalogue
from tests.mutants.judging import CAUGHT, NOT_JUDGED, SURVIVED, Verdict, Workplace, judge_all
from tests.support.clone import ROOT, NoClone


def main() -> int:
    """Exit status: 0 all caught, 1 one survived, or was not judged, 64 nothing of that name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=explanation,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="folder, module, or module:fault")
    parser.add_argument(
        "--changed",
        nargs="?",
        const="",
        metavar="REF",
        help="of modules that differ from REF, or whose tests do [default: HEAD; if nothing does, HEAD~1]",
    )
    parser.add_argument("--every", type=int, metavar="N", help="and each Nth fault of all others")
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--list", action="store_true", help="only name them")
    arguments = parser.parse_args()
    everything = read_catalogue()
    wanted = _chosen(everything, arguments)
    if arguments.names and not wanted:
        print(f"nothing listed is named {' or '.join(arguments.names)}", file=sys.stderr)
        return 64
    if arguments.list:
        for mutant in wanted:
            print(f"{mutant.full_name}: {mutant.cost}")
        return 0
    try:
        return _judge(wanted, arguments.jobs)
    except NoClone as error:
        print(f"FAULTS ARE NOT PLANTED: {error}", file=sys.stderr)
        return 1


def _chosen(everything: list[Mutant], arguments: argparse.Namespace) -> list[Mutant]:
    changed = set() if arguments.changed is None else _changed_files(arguments.changed)
    nothing_said = not arguments.names and arguments.changed is None and not arguments.every
    return [
        mutant
        for number, mutant in enumerate(everything)
        if arguments.all
        or nothing_said
        or any(_is_named(mutant, name) for name in arguments.names)
        or not changed.isdisjoint({str(mutant.path), *(test.partition("::")[0] for test in mutant.tests)})
        or (arguments.every and number % arguments.every == 0)
    ]


def _is_named(mutant: Mutant, name: str) -> bool:
    wanted = name.removeprefix("cyoloctl/").removesuffix(".py").rstrip("/")
    return wanted in (mutant.full_name, mutant.module) or mutant.module.startswith(f"{wanted}/")


def _changed_files(ref: str) -> set[str]:
    def differing(since: str) -> set[str]:
        command = ["git", "diff", "--name-only", since, "--"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"cannot compare with {since}: {done.stderr.strip()}")
        return set(done.stdout.split())

    return differing(ref) if ref else differing("HEAD") or differing("HEAD~1")


def _judge(wanted: list[Mutant], jobs: int) -> int:
    mutants = [mutant for mutant in wanted if not mutant.equivalent]
    counted = {CAUGHT: 0, SURVIVED: 0, NOT_JUDGED: 0}
    with tempfile.TemporaryDirectory(prefix="cyoloctl-mutants-") as directory:
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        if tests:
            passed, output = Workplace(Path(directory) / "whole").passes(tests)
            if not passed:
                print(f"the tests do not pass as the code is:\n{output}", file=sys.stderr)
                return 1
        for verdict in judge_all(mutants, Path(directory), jobs):
            counted[verdict.outcome] += 1
            print(_line(verdict), flush=True)
    print(
        f"{len(mutants)} faults: {counted[CAUGHT]} caught, {counted[SURVIVED]} survived, "
        f"{counted[NOT_JUDGED]} not judged; {len(wanted) - len(mutants)} more change nothing for anybody"
    )
    return 0 if counted[CAUGHT] == len(mutants) else 1


def _line(verdict: Verdict) -> str:
    text = f"{verdict.outcome:10} {verdict.took_s:5.1f} s  {verdict.mutant.full_name}"
    return text if verdict.outcome == CAUGHT else f"{text}\n    {verdict.mutant.cost}\n    {verdict.by}"


if __name__ == "__main__":
    sys.exit(main())
