"""Assumptions of `web.connection` about aiohttp, checked against its source."""

from __future__ import annotations

import hashlib
import inspect

import pytest
from aiohttp import web

from cyoloctl.web import connection


@pytest.mark.parametrize("name", sorted(connection.READ))
def test_pin_method_of_aiohttp_is_the_one_that_was_read(name: str) -> None:
    source = inspect.getsource(vars(web.RequestHandler)[name])
    assert hashlib.sha256(source.encode()).hexdigest() == connection.READ[name]


def test_pin_every_override_was_read() -> None:
    theirs = set(vars(web.RequestHandler))
    ours = set(vars(connection.Connection)) - {"__module__", "__doc__", "__slots__"}
    ours -= {"__firstlineno__", "__static_attributes__"}
    assert ours & theirs <= set(connection.READ)
