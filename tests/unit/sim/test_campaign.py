"""Many simulated runs at once."""

from __future__ import annotations

import os

import pytest

from cyoloctl.sim import campaign


def test_workers_get_no_python_variables_and_the_caller_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/planted")
    before = dict(os.environ)
    with campaign._environment_of_workers():
        inside = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    assert inside == {"PYTHONSAFEPATH": "1"}
    assert dict(os.environ) == before
