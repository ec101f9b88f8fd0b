"""Settings that every test shares; fixtures live beside the tests that use them.

`make pytest` runs the tests twice: in parallel (pytest-xdist) without those that are marked `alone`, then
those, one after another.  `python -m pytest` without options runs every test, one after another.
"""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# A deadline measures the machine, not the code.  CI draws the same examples on every run, so that a red
# run can be repeated; a developer's machine keeps looking for new ones.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


# A shell without job control starts what runs in the background with SIGINT ignored, and every process that
# a test starts and interrupts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup does the same with this one
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--alone", action="store_true", help="only the tests that need the machine alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers of a parallel run leave out what needs the machine alone; `--alone` keeps nothing else."""
    in_parallel = hasattr(config, "workerinput")
    if not in_parallel and not config.getoption("alone"):
        return
    chosen, others = [], []
    for item in items:
        alone = item.get_closest_marker("alone") is not None
        (others if alone == in_parallel else chosen).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CYOLOCTL_* and no NO_COLOR of the person who runs the tests reaches them or their processes."""
    for name in [name for name in os.environ if name.startswith("CYOLOCTL_") or name == "NO_COLOR"]:
        monkeypatch.delenv(name)
