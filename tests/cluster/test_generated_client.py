"""A client in another language: TypeScript, its types generated from openapi.json, against three nodes.

npm installs what typescript/package-lock.json pins into .cache/, once; npm and its registry may be absent,
and then this says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyoloctl.control.openapi import CHECKED_IN
from tests.support.cluster import Cluster

# npm installs for seconds, or on a busy machine for a minute.
pytestmark = pytest.mark.cluster

SOURCES = Path(__file__).with_name("typescript")
CACHE = Path(__file__).parents[2] / ".cache"
#: What npm says when nobody answers: https://docs.npmjs.com/common-errors.
UNREACHABLE = re.compile(
    r"\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|ETIMEDOUT|ERR_SOCKET_TIMEOUT)\b"
)


def run(*command: object, where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.fixture(scope="module")
def modules() -> Path:
    """The installed packages: a directory `node_modules`."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm is not installed (apt-get install nodejs npm): no client is generated")
    lock = (SOURCES / "package-lock.json").read_bytes()
    installed = CACHE / f"typescript-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not installed.exists():
        making = CACHE / f"making-{os.getpid()}"
        making.mkdir(parents=True)
        try:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCES / name, making)
            done = run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", where=making)
            if UNREACHABLE.search(done.stderr):
                pytest.skip(f"npm reaches no registry, so no client is generated: {done.stderr[-500:]}")
            assert done.returncode == 0, done.stderr
            making.rename(installed)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return installed / "node_modules"


@pytest.fixture
def nodes(shared: Cluster, tmp_path: Path) -> list[str]:
    """The arguments of the client: an operator's credentials, and where the nodes are."""
    credentials: dict[str, Any] = yaml.safe_load(shared.credentials().read_text("utf-8"))
    arguments = []
    for name in ("ca", "certificate", "key"):
        path = tmp_path / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_text(credentials[f"{name}_pem"])
        arguments.append(str(path))
    id = credentials["cluster_id"]
    return arguments + [f"{name}.node.{id}.cyoloctl={node.port}" for name, node in shared.nodes.items()]


def test_generated_client_mints_inspects_approves_and_waits(
    modules: Path, nodes: list[str], tmp_path: Path
) -> None:
    work = tmp_path / "client"
    work.mkdir()
    (work / "node_modules").symlink_to(modules)
    for name in ("package.json", "tsconfig.json", "client.ts"):
        shutil.copy(SOURCES / name, work)
    generate = (modules / ".bin" / "openapi-typescript", CHECKED_IN, "--default-non-nullable=false")
    for command in (
        (*generate, "-o", "api.ts"),
        # Types are half of the test: what is answered is in them, and what is not given is missed.
        (modules / ".bin" / "tsc", "--project", "."),
    ):
        made = run(*command, where=work)
        assert made.returncode == 0, made.stdout + made.stderr
    ran = run("node", "built/client.js", *nodes, where=work)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "cookie": "cyolo-sid=",
        "sub": "alice",
        "claims": {"mfa": True},
        "refused": [401, "token_rejected"],
        "neither": 400,
        "results": ["alice", "token_rejected"],
        "shown": [True, "pending"],
        "approved": "approved",
        "redeemed": ["alice", {"level": "2"}],
        "members": ["n1", "n2", "n3"],
    }


def test_patterns_are_regular_expressions_of_javascript_too(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed (apt-get install nodejs)")
    check = '(name, value) => name === "pattern" ? new RegExp(value, "u") : value'
    script = f'JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"), {check})'
    ran = run("node", "--eval", script, CHECKED_IN, where=tmp_path)
    assert ran.returncode == 0, ran.stderr
