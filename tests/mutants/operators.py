"""``python -m tests.mutants.operators raft/progress``: what Cosmic Ray plants by itself, and what survives.

The catalogue holds the faults that cost users something.  Cosmic Ray exchanges
every operator, number and keyword of a module, without judgement: of what
survives, most changes nothing, and the rest is a test that is missing.  It is
no part of CI; ``pip install cosmic-ray`` first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.clone import clone

_CONFIGURATION = """\
[cosmic-ray]
module-path = {module}
timeout = 60.0
excluded-modules = []
test-command = {command}
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
# `X | None` stands in annotations only, which nobody evaluates.
exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*"]
"""


def main() -> int:
    """Exit status: 0 done, whatever survived; 1 Cosmic Ray ended badly, or the tests fail as it is."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.operators", description=__doc__)
    parser.add_argument("module", help="folder/module below cyoloctl, such as raft/progress")
    parser.add_argument("tests", nargs="*", help="[default: its own below tests/unit]")
    arguments = parser.parse_args()
    folder, _, name = arguments.module.rpartition("/")
    tests = arguments.tests or [f"tests/unit/{folder}/test_{name}.py"]
    with tempfile.TemporaryDirectory(prefix="operators-") as directory:
        base, tree = Path(directory), Path(directory) / "tree"
        python = clone(tree)
        settings, session = base / "cosmic-ray.toml", base / "session.sqlite"
        command = f"{python} -m pytest -x -q -p no:cacheprovider {' '.join(tests)}"
        settings.write_text(
            _CONFIGURATION.format(
                module=json.dumps(f"cyoloctl/{arguments.module}.py"), command=json.dumps(command)
            )
        )
        programs = Path(sys.executable).parent
        for program, *words in (
            ("cosmic-ray", "baseline", str(settings)),
            ("cosmic-ray", "init", str(settings), str(session)),
            ("cr-filter-operators", str(session), str(settings)),
            ("cosmic-ray", "exec", str(settings), str(session)),
        ):
            if subprocess.run([programs / program, *words], cwd=tree, check=False).returncode:
                print(f"{program} {words[0]} failed", file=sys.stderr)
                return 1
        dump = subprocess.run(
            [programs / "cosmic-ray", "dump", session], cwd=tree, capture_output=True, text=True, check=True
        )
    return _told(dump.stdout)


def _told(dump: str) -> int:
    outcomes = [result for line in dump.splitlines() for _, result in [json.loads(line)] if result]
    judged = [each for each in outcomes if each["worker_outcome"] == "normal"]
    survived = [each for each in judged if each["test_outcome"] == "survived"]
    for each in survived:
        print("\n".join(line for line in each["diff"].splitlines() if line[:1] in "@+-"))
    print(f"{len(judged)} changes: {len(judged) - len(survived)} caught, {len(survived)} survived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
