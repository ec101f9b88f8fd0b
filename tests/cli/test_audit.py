"""The commands of the audit log on scripted answers: what is asked, what is shown, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyoloctl.cli import main
from tests.cli.harness import Endpoint
from tests.unit.audit.test_lines import chain_of

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]
Capture = pytest.CaptureFixture[str]


def page(chain: str, lines: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    last = lines[-1] if lines else {"sequence": 0, "hash": "0" * 64}
    return {
        **{"chain": chain, "lines": lines, "next": None, "last": last["sequence"], "head": last["hash"]},
        **{"cut_through": 0, "cut_hash": "0" * 64, "exported_through": 0, "index": 9, "epoch": 1},
        **changes,
    }


def answers(lines: list[dict[str, Any]], **changes: Any) -> dict[tuple[str, str], Any]:
    return {
        ("GET", "/v1/audit/trust"): page("trust", []),
        ("GET", "/v1/audit/data"): page("data", lines, **changes),
        ("POST", "/v1/audit/data/acknowledge"): {"exported_through": 3},
    }


def test_list_in_json_holds_the_lines_of_both_chains_and_where_they_stand(
    serve: Serve, capsys: Capture
) -> None:
    endpoint = serve(answers(chain_of(3)))
    assert main(["audit", "list", "-o", "json", "-e", endpoint.url]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["schema_version", "lines", "cut_through", "exported_through", "next"]
    assert [line["sequence"] for line in document["lines"]] == [1, 2, 3]
    assert document["cut_through"] == document["exported_through"] == {"trust": 0, "data": 0}


def test_list_takes_lines_that_are_asked_for(serve: Serve, capsys: Capture) -> None:
    lines = chain_of(3)
    lines[1]["who"] = "bob"
    lines[2]["operation"] = "kv.delete"
    endpoint = serve(answers(lines))

    def listed(*options: str) -> list[int]:
        assert main(["audit", "list", "--chain", "data", "-o", "json", "-e", endpoint.url, *options]) == 0
        return [line["sequence"] for line in json.loads(capsys.readouterr().out)["lines"]]

    assert listed("--who", "ann") == [1, 3]
    assert listed("--operation", "kv.d") == [3]
    assert listed("--limit", "1") == [3]
    assert listed("--since", "1d") == []
    assert listed("--since", "30000d") == [1, 2, 3]
    assert listed("--stale") == [1, 2, 3]
    assert "consistency=stale" in endpoint.requests[-1][2]["query"]


def test_list_tells_what_was_cut(serve: Serve, capsys: Capture) -> None:
    endpoint = serve(answers(chain_of(3)[1:], cut_through=1))
    assert main(["audit", "list", "-e", endpoint.url]) == 0
    assert "data: lines 1 to 1 were cut" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["list", "--from", "1"], 2),
        (["list", "--chain", "both"], 2),
        (["list", "--limit", "0"], 65),
        (["list", "--since", "soon"], 65),
        (["export", "--out", "-", "--append"], 2),
        (["export", "--out", "f", "--from", "1"], 2),
        (["export", "--out", "f", "--chain", "data", "--from", "0"], 65),
        (["export", "--out", "f", "--acknowledge", "--no-acknowledge"], 2),
        (["verify", "--cluster"], 2),
        (["verify", "/nonexistent/file"], 65),
        (["verify", "/dev/null"], 65),
    ],
)
def test_mistakes_have_the_status_of_other_commands(
    serve: Serve, capsys: Capture, arguments: list[str], status: int
) -> None:
    endpoint = serve({})
    assert main(["audit", *arguments, "-e", endpoint.url]) == status
    assert endpoint.requests == []


def test_export_to_stdout_is_the_lines_and_acknowledges_only_when_told(serve: Serve, capsys: Capture) -> None:
    lines = chain_of(3)
    endpoint = serve(answers(lines))
    assert main(["audit", "export", "--out", "-", "-e", endpoint.url]) == 0
    assert [json.loads(text) for text in capsys.readouterr().out.splitlines()] == lines
    assert all(method == "GET" for method, _, _ in endpoint.requests)
    options = ["--acknowledge", "--request-id", "job"]
    assert main(["audit", "export", "--out", "-", "-e", endpoint.url, *options]) == 0
    method, _, body = endpoint.requests[-1]
    assert (method, body["through"], body["hash"]) == ("POST", 3, lines[2]["hash"])


def test_export_and_verify_tell_how_far_it_goes(serve: Serve, capsys: Capture, tmp_path: Path) -> None:
    lines = chain_of(3)
    endpoint, path = serve(answers(lines)), tmp_path / "audit.jsonl"
    assert main(["audit", "export", "--out", str(path), "-e", endpoint.url, "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chains"][1] == {
        **{"chain": "data", "lines": 3, "last": 3, "head": lines[2]["hash"], "exported_through": 3}
    }
    assert main(["audit", "verify", str(path), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["chains"] == [
        {
            **{"chain": "data", "first": 1, "last": 3, "before": "0" * 64, "head": lines[2]["hash"]},
            "lines_since": None,
        }
    ]
    assert main(["audit", "verify", "-e", endpoint.url]) == 0
    assert lines[2]["hash"] in capsys.readouterr().out
    assert main(["audit", "verify", str(path), "--cluster", "-e", serve(answers([])).url]) == 4
