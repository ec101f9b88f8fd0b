"""The tree of commands against the contract, and the generated files against the tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyoloctl.cli import main
from cyoloctl.cli.modules import GROUPS, LEAVES
from cyoloctl.errors import error_classes
from tools import generate
from tools.generate import Command

ROOT = Path(__file__).resolve().parents[2]

OUTPUT = "-o --output"
ACTING = "--token-file --cookie-name --audience"
CONNECTION = f"{OUTPUT} -d --data-dir -e --endpoint --credentials --timeout"
CONTEXT = "--cookie-name --audience"
CLAIMS = "--claim --claim-string --claim-json"
SETS = "--set --set-string --set-json"
OFFLINE = f"--batch --keyring --passphrase-file {CONTEXT} {CONNECTION}"
PROXY = "--format --pin --listen --tls-certificate --backend-tls-ca --fragment --run-dir --tls-in-front"

# command -> its options, common ones included.
CONTRACT = {
    "batch": f"--request-id --from --stop-on-error {CONNECTION}",
    "bench": f"--op --clients --seconds --rate {CONNECTION}",
    "console": f"--listen {CONNECTION}",
    "dev": f"--nodes --data-dir -d {OUTPUT}",
    "demo": f"--nodes --data-dir -d --keep {OUTPUT}",
    "cluster init": "-d --data-dir --name --listen --advertise --cluster --storage --certificate-days "
    f"--from-snapshot --passphrase-file {OUTPUT}",
    "audit list": f"--chain --from --limit --who --operation --since --stale {CONNECTION}",
    "audit export": f"--out --append --chain --from --acknowledge --no-acknowledge --request-id {CONNECTION}",
    "audit verify": f"--cluster {CONNECTION}",
    "snapshot save": f"--stale --passphrase-file --to-node --every --keep --dir {CONNECTION}",
    "snapshot inspect": f"-d --data-dir {OUTPUT}",
    "cluster recover": f"-d --data-dir --compare --dry-run --yes {OUTPUT}",
    "cluster set-time": f"--to-members --dry-run --yes --request-id {CONNECTION}",
    "cluster upgrade": f"--dry-run --request-id {CONNECTION}",
    "node start": f"-d --data-dir --background --log-format --log-level --timeout {OUTPUT}",
    "node stop": CONNECTION,
    "config check": f"--file -d --data-dir {OUTPUT}",
    "config show": f"--origin -d --data-dir {OUTPUT}",
    "node reload": f"-d --data-dir {OUTPUT}",
    "node join": f"-d --data-dir --name --listen --advertise --token-file --timeout {OUTPUT}",
    "node request": f"-d --data-dir --name --listen --advertise --out {OUTPUT}",
    "node accept": f"-d --data-dir --grant {OUTPUT}",
    "node renew": f"-d --data-dir --request --grant {OUTPUT}",
    "node set-address": f"-d --data-dir --listen --advertise --peer {OUTPUT}",
    "node info": f"-d --data-dir {OUTPUT}",
    "node log": f"-d --data-dir --from --limit {OUTPUT}",
    "node inspect": f"-d --data-dir --copy {OUTPUT}",
    "member invite": f"--name --learner --ttl --out {CONNECTION}",
    "member invitations": CONNECTION,
    "member uninvite": CONNECTION,
    "member list": CONNECTION,
    "member show": CONNECTION,
    "member grant": f"--request --learner --ttl --out --request-id {CONNECTION}",
    "pki status": CONNECTION,
    "pki rotate-ca": f"--dry-run --overlap --abandon --yes {CONNECTION}",
    "member promote": f"--dry-run --request-id {CONNECTION}",
    "member demote": f"--dry-run --request-id {CONNECTION}",
    "member set-address": f"--dry-run --request-id {CONNECTION}",
    "member remove": f"--dry-run --force --yes {CONNECTION}",
    "member transfer-leadership": f"--to --dry-run --request-id {CONNECTION}",
    "status": f"--watch --check {CONNECTION}",
    "doctor": f"--all --warn-days -d --data-dir --timeout {OUTPUT}",
    "support-bundle": f"--out --seal-to --open -d --data-dir --timeout {OUTPUT}",
    "top": f"--interval --count {CONNECTION}",
    "counter incr": f"--by --request-id {CONNECTION}",
    "counter decr": f"--by --request-id {CONNECTION}",
    "counter get": f"--stale {CONNECTION}",
    "counter list": CONNECTION,
    "counter reset": f"--yes --request-id {CONNECTION}",
    "counter watch": CONNECTION,
    "lock run": f"--ttl --wait {CONNECTION}",
    "lock list": CONNECTION,
    "lock show": f"--stale {CONNECTION}",
    "lock release": f"--yes --request-id {CONNECTION}",
    "kv get": f"--at-revision --stale {CONNECTION}",
    "kv put": "--file --if-revision --if-absent --ttl --sealed --no-sealed --fence --request-id "
    f"{CONNECTION}",
    "kv delete": f"--prefix --if-revision --fence --yes --request-id {CONNECTION}",
    "kv list": f"--keys-only --limit --after --at-revision --stale {CONNECTION}",
    "kv watch": f"--from {CONNECTION}",
    "kv txn": f"--fence --request-id {CONNECTION}",
    "kv keep": f"--ttl --created-revision --request-id {CONNECTION}",
    "machine apply": f"--request-id {CONNECTION}",
    "machine query": f"--stale {CONNECTION}",
    "machine list": CONNECTION,
    "machine check": "--seeds --output",
    "key generate": f"--request-id {CONNECTION}",
    "key rotate": f"--request-id {CONNECTION}",
    "key list": CONNECTION,
    "key status": CONNECTION,
    "key promote": CONNECTION,
    "key disable": f"--force {CONNECTION}",
    "key enable": CONNECTION,
    "key destroy": f"--force --yes {CONNECTION}",
    "key export": f"--passphrase-file --to-node --to-ca --out {CONNECTION}",
    "key import": f"--passphrase-file --from-ca --adopt {CONNECTION}",
    "key rewrap": CONNECTION,
    "key policy": f"--rotate-every --keep {CONNECTION}",
    "key identity": CONNECTION,
    "token mint": f"--sub {CLAIMS} --claims-file --ttl --max-age --set-cookie {OFFLINE}",
    "token inspect": f"--cookie --no-key --explain --require-quorum {OFFLINE}",
    "token update": f"{SETS} --unset --keep-previous --cookie --set-cookie --request-id {OFFLINE}",
    "token refresh": f"--ttl --cookie --require-quorum --set-cookie {OFFLINE}",
    "token revoke": f"--sid --sub --request-id {CONTEXT} {CONNECTION}",
    "token revocations": CONNECTION,
    "credentials create": f"--role --name --ttl --out --request --request-id {CONNECTION}",
    "credentials request": f"--role --name --key-out --out {OUTPUT}",
    "credentials list": CONNECTION,
    "credentials show": CONNECTION,
    "credentials revoke": f"--yes --request-id {CONNECTION}",
    "credentials renew": f"--out --ttl --new-key --request --request-id {CONNECTION}",
    "member set-host": f"--clear {CONNECTION}",
    "rendezvous start": f"--kind --ttl --data --by --public-key {ACTING} --request-id {CONNECTION}",
    "rendezvous claim": f"--by {ACTING} --request-id {CONNECTION}",
    "rendezvous approve": f"--data --by {ACTING} --request-id {CONNECTION}",
    "rendezvous deny": f"--by {ACTING} --request-id {CONNECTION}",
    "rendezvous cancel": f"--request-id {CONNECTION}",
    "rendezvous wait": f"--request-id {CONNECTION}",
    "rendezvous show": CONNECTION,
    "rendezvous policy": f"--require --require-string --allow-self --reset {CONNECTION}",
    "rendezvous list": f"--state {CONNECTION}",
    "route list": CONNECTION,
    "route which": CONNECTION,
    "route resolve": CONNECTION,
    "route share": f"--request-id {CONNECTION}",
    "route unshare": f"--request-id {CONNECTION}",
    "route export": f"{PROXY} {CONNECTION}",
    "route watch": f"--out --exec --check --interval --once {PROXY} {CONNECTION}",
    "sim": f"--seeds --faults --nodes --jobs --stop-on-failure {OUTPUT}",
    "completion bash": OUTPUT,
    "completion zsh": OUTPUT,
    "completion fish": OUTPUT,
    "help exit-codes": OUTPUT,
}


@pytest.fixture(scope="module")
def tree() -> dict[str, Command]:
    return {" ".join(command.path[1:]): command for command in generate.commands()}


@pytest.mark.parametrize("path", CONTRACT)
def test_command_of_the_contract_has_its_options(tree: dict[str, Command], path: str) -> None:
    options = {name for option in tree[path].options for name in option.names}
    assert set(CONTRACT[path].split()) - options == set()


def test_tree_holds_no_command_outside_the_contract(tree: dict[str, Command]) -> None:
    groups = {""} | set(GROUPS)
    assert set(tree) - groups == set(CONTRACT)
    assert set(LEAVES) <= set(CONTRACT)


def test_every_option_has_a_text_that_begins_with_a_capital(tree: dict[str, Command]) -> None:
    texts = {
        (path, option.names[0]): option.help for path, command in tree.items() for option in command.options
    }
    assert [
        where for where, text in texts.items() if not text or not (text[0].isupper() or "://" in text)
    ] == []


@pytest.mark.parametrize("path", [path.as_posix() for path in generate.files()])
def test_generated_file_is_what_the_tree_generates(path: str) -> None:
    text = generate.files()[Path(path)]
    assert (ROOT / path).read_text("utf-8") == text, "run make generate"


def test_reference_names_every_command_option_and_exit_status(tree: dict[str, Command]) -> None:
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for path, command in tree.items():
        section = text.partition(f"## cyoloctl {path}".rstrip() + "\n")[2].partition("\n## ")[0]
        assert section, path
        for option in command.options:
            if "--help" not in option.names:
                assert all(f"`{name}" in section for name in option.names), (path, option.names)
    for cls in error_classes():
        assert f"| {cls.exit_status} | `{cls.code}` |" in text


@pytest.mark.parametrize("path", [[], ["counter"], ["counter", "incr"], ["status"]])
def test_help_of_a_command_is_plain_text_on_stdout(
    path: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*path, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"Usage: {' '.join(['cyoloctl', *path])} ")
    assert shown.err == ""
    assert "\x1b" not in shown.out
    assert "╭" not in shown.out


def test_help_exit_codes_holds_every_error_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "exit-codes"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    listed = {(int(status), code, int(http)) for status, code, http, *_ in lines}
    assert listed == {(c.exit_status, c.code, c.http_status) for c in error_classes()} | {(0, "ok", 200)}
