"""docs/tokens.md alone is enough to read a token: its Python block is run against every vector."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tokens.md").read_text(encoding="utf-8")
VECTORS = ROOT / "tests" / "vectors" / "token"
NAMES = sorted(path.stem for path in VECTORS.glob("*.json"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def vector(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text(encoding="ascii"))
    return found


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """Names that the page's Python block defines."""
    [source] = blocks("python")
    assert "cyoloctl" not in source.replace('b"cyoloctl token v1"', "")
    namespace: dict[str, Any] = {}
    exec(compile(source, "docs/tokens.md", "exec"), namespace)
    return namespace


def read_vector(read: Callable[..., Any], found: dict[str, Any]) -> Any:
    keys = {bytes.fromhex(found["key_id_hex"]): bytes.fromhex(found["key_hex"])}
    context = (found["cluster_id"], found["cookie_name"], found["audience"])
    return read(keys, *context, found["token"], found["now_unix_s"])


@pytest.mark.parametrize("name", NAMES)
def test_reader_of_the_page_agrees_with_the_vector(name: str, page: dict[str, Any]) -> None:
    found = vector(name)
    if found["expect"] == "ok":
        assert read_vector(page["read"], found) == found["claims"]
    else:
        with pytest.raises(ValueError):
            read_vector(page["read"], found)


def test_worked_example_of_the_page_is_the_vector_with_its_intermediate_values(page: dict[str, Any]) -> None:
    found = vector("ok-plain")
    key = bytes.fromhex(found["key_hex"])
    data = page["urlsafe_b64decode"](found["token"] + "==")
    pae, hkdf = page["pae"], page["hkdf"]
    context = pae(found["cluster_id"].encode(), found["cookie_name"].encode(), b"")
    info = pae(b"cyoloctl token v1", data[:6], context)
    okm = hkdf(key, data[6:30], info, 76)
    values = [
        key,
        data[:6],
        data[6:30],
        context,
        info,
        page["hmac"].digest(data[6:30], key, "sha256"),
        okm[:32],
        okm[32:44],
        okm[44:],
        data[62:219],
        data[219:],
    ]
    section = PAGE.split("## A worked example")[1].split("\n## ")[0]
    assert re.findall(r"^\| .* \| `([0-9a-f]+)` \|$", section, re.MULTILINE) == [
        value.hex() for value in values
    ]
    assert okm[44:] == data[30:62]
    assert f"\n{found['token']}\n" in section
    assert [json.loads(text) for text in blocks("json")] == [found["claims"]]
    assert f"The token, {len(found['token'])} characters" in section
    assert f"The payload, {len(data) - 78} bytes" in section
