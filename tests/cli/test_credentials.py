"""Requests of `cyoloctl credentials`, and the files that it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cyoloctl.cli import main
from cyoloctl.errors import AlreadyExists, NotFound, OutcomeUnknown
from tests.cli.harness import Endpoint

Serve = Callable[[dict[tuple[str, str], Any]], Endpoint]
Capture = pytest.CaptureFixture[str]

CREATE = ("POST", "/v1/credentials")
ENTRY = {
    "name": "ann", "role": "viewer", "key_hash": "a" * 64, "created_at": "2030-01-01T00:00:00Z",
    "created_by": "unix socket", "expires_at": "2030-04-01T00:00:00Z", "revoked_at": None,
}  # fmt: skip
ISSUED = {
    **ENTRY, "cluster_id": "c" * 32, "ca_pem": "CA", "certificate_pem": "CERTIFICATE",
    "members": {"n1": "10.0.0.1:7700"},
}  # fmt: skip


def create(endpoint: Endpoint, out: Path, *more: object) -> int:
    arguments = ["credentials", "create", "--role", "viewer", "--name", "ann", "--out", out, *more]
    return main([str(each) for each in (*arguments, "-e", endpoint.url)])


def test_create_keeps_the_private_key_here_and_writes_a_whole_file(
    serve: Serve, tmp_path: Path, capsys: Capture
) -> None:
    endpoint = serve({CREATE: ISSUED})
    out = tmp_path / "ann.yaml"
    assert create(endpoint, out, "--ttl", "2d", "--request-id", "mine", "-o", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"schema_version": 1, **ENTRY, "file": str(out)}
    (_, _, body) = endpoint.requests[0]
    assert (body["name"], body["role"], body["ttl_s"], body["request_id"]) == (
        "ann",
        "viewer",
        172_800,
        "mine",
    )
    assert x509.load_pem_x509_csr(body["request_pem"].encode()).is_signature_valid
    assert "PRIVATE" not in json.dumps(body)
    written = json.loads(out.read_text())
    assert written.pop("key_pem").startswith("-----BEGIN PRIVATE KEY-----")
    assert written == {
        "schema_version": 1,
        **{
            key: ISSUED[key] for key in ("role", "name", "cluster_id", "ca_pem", "certificate_pem", "members")
        },
    }
    assert out.stat().st_mode & 0o777 == 0o600


def test_create_with_an_unknown_outcome_repeats_with_the_same_key(serve: Serve, tmp_path: Path) -> None:
    endpoint = serve({CREATE: OutcomeUnknown("who knows")})
    out = tmp_path / "ann.yaml"
    assert create(endpoint, out) == OutcomeUnknown.exit_status
    # Nothing certain: the key stays, also when the next attempt is refused.
    endpoint.answers[CREATE] = AlreadyExists("there are such credentials")
    assert create(endpoint, out) == AlreadyExists.exit_status
    endpoint.answers[CREATE] = ISSUED
    assert create(endpoint, out) == 0
    first, _, last = (
        x509.load_pem_x509_csr(body["request_pem"].encode()).public_key() for _, _, body in endpoint.requests
    )
    assert first == last
    assert "draft" not in json.loads(out.read_text())
    assert create(endpoint, out) == AlreadyExists.exit_status


def test_create_that_is_refused_leaves_no_file(serve: Serve, tmp_path: Path) -> None:
    endpoint = serve({CREATE: AlreadyExists("there are such credentials")})
    assert create(endpoint, tmp_path / "ann.yaml") == AlreadyExists.exit_status
    assert list(tmp_path.glob("ann*")) == []


@pytest.mark.parametrize(
    ("more", "status"),
    [
        (["--role", "node", "--name", "ann"], 2),
        (["--role", "viewer", "--name", "Ann"], 65),
        (["--role", "viewer"], 2),
        (["--role", "viewer", "--name", "ann", "--ttl", "826d"], 65),
        (["--role", "viewer", "--name", "ann", "--ttl", "1s"], 65),
    ],
)
def test_create_with_wrong_options_sends_nothing(
    serve: Serve, tmp_path: Path, more: list[str], status: int
) -> None:
    endpoint = serve({})
    out = str(tmp_path / "x.yaml")
    assert main(["credentials", "create", "--out", out, "-e", endpoint.url, *more]) == status
    assert endpoint.requests == []
    assert not Path(out).exists()


def test_request_and_its_credentials_name_the_key_and_never_hold_it(serve: Serve, tmp_path: Path) -> None:
    key, asked, out = tmp_path / "edge.key", tmp_path / "edge.request", tmp_path / "edge.yaml"
    command = ["credentials", "request", "--name", "ann", "--role", "viewer"]
    assert main([*command, "--key-out", str(key), "--out", str(asked)]) == 0
    assert key.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in asked.read_text()
    assert main([*command, "--key-out", str(key), "--out", str(asked)]) == AlreadyExists.exit_status
    endpoint = serve({CREATE: ISSUED})
    for option, value in (("--name", "bob"), ("--role", "operator")):
        other = ["credentials", "create", "--request", str(asked), option, value, "--out", str(out)]
        assert main([*other, "-e", endpoint.url]) == 65
    made = ["credentials", "create", "--request", str(asked), "--out", str(out), "-e", endpoint.url]
    assert main(made) == 0
    written = json.loads(out.read_text())
    assert written["key_file"] == "edge.key"
    assert "key_pem" not in written
    assert main(made) == AlreadyExists.exit_status


@pytest.mark.parametrize(
    "change",
    [
        {"key_file": "../../etc/passwd"},
        {"key_file": ""},
        {"name": 7},
        {"schema_version": 2},
        {"request_pem": None},
    ],
)
def test_damaged_request_is_refused_before_anything_is_sent(
    serve: Serve, tmp_path: Path, change: dict[str, Any]
) -> None:
    endpoint = serve({})
    good = {"schema_version": 1, "name": "a", "role": "viewer", "request_pem": "x", "key_file": "k"}
    path = tmp_path / "request"
    path.write_text(json.dumps(good | change))
    out = str(tmp_path / "o")
    assert main(["credentials", "create", "--request", str(path), "--out", out, "-e", endpoint.url]) == 65
    assert endpoint.requests == []


def test_renew_by_name_keeps_the_key_of_the_file_that_is_there(serve: Serve, tmp_path: Path) -> None:
    endpoint = serve({CREATE: ISSUED, ("POST", "/v1/credentials/ann/renew"): ISSUED})
    out = tmp_path / "ann.yaml"
    assert create(endpoint, out) == 0
    key = json.loads(out.read_text())["key_pem"]
    renew = ["credentials", "renew", "ann", "--out", str(out), "-e", endpoint.url]
    assert main(renew) == 0
    assert json.loads(out.read_text())["key_pem"] == key
    assert endpoint.requests[-1][2]["ttl_s"] is None
    assert main([*renew, "--new-key", "--ttl", "1d"]) == 0
    assert json.loads(out.read_text())["key_pem"] != key
    assert endpoint.requests[-1][2]["ttl_s"] == 86_400
    assert main(["credentials", "renew", "bob", "--out", str(out), "-e", endpoint.url]) == 65


def test_renew_of_unknown_credentials_is_not_found(serve: Serve, tmp_path: Path) -> None:
    endpoint = serve({("GET", "/v1/credentials/bob"): NotFound("there are no credentials bob")})
    assert main(["credentials", "renew", "bob", "--out", str(tmp_path / "b"), "-e", endpoint.url]) == 3
    assert main(["credentials", "renew", "--out", str(tmp_path / "b"), "-d", str(tmp_path)]) == 3


def test_list_shows_keys_that_count_and_when_one_was_revoked(serve: Serve, capsys: Capture) -> None:
    rows = [
        ENTRY,
        {**ENTRY, "name": "bob", "revoked_at": "2030-02-02T00:00:00Z"},
        {**ENTRY, "name": "n1", "role": "node", "created_at": None, "created_by": None, "expires_at": None},
    ]
    endpoint = serve({("GET", "/v1/credentials"): {"credentials": rows}})
    assert main(["credentials", "list", "-e", endpoint.url]) == 0
    shown = capsys.readouterr().out
    assert "revoked 2030-02-02T00:00:00Z" in shown
    assert f" {'a' * 64} " in shown  # whole: a table that is no terminal's is not cut
    assert main(["credentials", "list", "-e", endpoint.url, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "credentials": rows}


def test_revoke_needs_yes_without_a_terminal(serve: Serve, capsys: Capture) -> None:
    route = ("POST", "/v1/credentials/ann/revoke")
    endpoint = serve({route: {**ENTRY, "revoked_at": "2030-02-02T00:00:00Z"}})
    assert main(["credentials", "revoke", "ann", "-e", endpoint.url]) == 2
    assert endpoint.requests == []
    assert main(["credentials", "revoke", "ann", "--yes", "-e", endpoint.url]) == 0
    assert capsys.readouterr().out == "ann\n"


def test_new_key_of_a_renewal_whose_outcome_is_unknown_is_kept_and_used_again(
    serve: Serve, tmp_path: Path
) -> None:
    renew_path = ("POST", "/v1/credentials/ann/renew")
    endpoint = serve({CREATE: ISSUED, renew_path: OutcomeUnknown("?")})
    out, kept = tmp_path / "ann.yaml", tmp_path / "ann.yaml.new-key"
    assert create(endpoint, out) == 0
    renew = ["credentials", "renew", "ann", "--new-key", "--out", str(out), "-e", endpoint.url]
    assert main(renew) == 80
    assert kept.stat().st_mode & 0o777 == 0o600
    key = json.loads(kept.read_text())["key_pem"]
    endpoint.answers[renew_path] = ISSUED
    assert main(renew) == 0
    assert json.loads(out.read_text())["key_pem"] == key
    assert not kept.exists()
    endpoint.answers[renew_path] = NotFound("no")
    assert main(renew) == 3
    assert not kept.exists()
