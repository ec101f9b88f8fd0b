"""Settings that every test shares; fixtures live beside the tests that use them."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# A deadline measures the machine, not the code.  CI draws the same examples on every run, so that a red
# run can be repeated; a developer's machine keeps looking for new ones.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CYOLOCTL_* and no NO_COLOR of the person who runs the tests reaches them or their processes."""
    for name in [name for name in os.environ if name.startswith("CYOLOCTL_") or name == "NO_COLOR"]:
        monkeypatch.delenv(name)
