"""openapi.json, tried on a running node by schemathesis: requests that it allows, and those that it does not.

No request makes a server error or an answer that the document does not have; what the document refuses, the
node refuses, and what it allows is not refused but where schemathesis.toml says why.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cyoloctl.control.openapi import CHECKED_IN
from tests.support.cluster import Cluster

CONFIG = Path(__file__).with_name("schemathesis.toml")

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


def _shortened(report: str) -> str:
    """The report from its failures on, without the long values that it tried."""
    lines = [line if len(line) <= 500 else f"{line[:500]}..." for line in report.splitlines()]
    return "\n".join(lines[next((n for n, line in enumerate(lines) if "= FAILURES =" in line), 0) :])


def test_node_takes_and_answers_what_the_document_says(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    with Cluster(tmp_path) as cluster:
        node = cluster.init("n1")
        credentials = yaml.safe_load(cluster.credentials().read_text("utf-8"))
        files = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key")}
        for name, file in files.items():
            file.write_text(credentials[f"{name}_pem"])
        before = node.log_size()
        ran = subprocess.run(
            [
                *(str(program), "--config-file", str(CONFIG), "run", str(CHECKED_IN)),
                # The certificate of a node holds its name and no address: other tests look at it.
                *("--url", f"https://{node.address}", "--tls-verify", "false"),
                *("--request-cert", str(files["certificate"]), "--request-cert-key", str(files["key"])),
                # One ends the node, the other never ends.
                *("--exclude-operation-id", "stop", "--exclude-operation-id", "counter_watch"),
                # It waits for as long as it is told to, up to five minutes, for what nobody does.
                *("--exclude-operation-id", "kv_changes"),
                # The same requests each time: about 3,000.  One worker: in Python 3.11 two threads that parse
                # source at once, as it does, can end with "AST constructor recursion depth mismatch".
                *("--phases", "examples,coverage,fuzzing", "--max-examples", "4", "--seed", "1"),
                *("--generation-database", "none", "--no-shrink", "--workers", "1", "--continue-on-failure"),
                *("--request-timeout", "60", "--warnings", "off", "--no-color"),
            ],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert ran.returncode == 0, _shortened(ran.stdout) + ran.stderr
        assert "schemathesis" in ran.stdout.lower()
        assert node.running()
        assert not [event for event in node.log_events(before) if event["level"] in ("error", "critical")]
