"""The key of the CA for a voter that was a learner before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyoloctl.errors import AccessDenied, Conflict
from cyoloctl.pki import exchange
from cyoloctl.pki.x509 import certificate_sha256
from tests.unit.authorities.test_operations import World


class Promoted(World):
    """n1, which lacks the key, and n2, which says that it holds it."""

    def __init__(self, where: Path, role: str) -> None:
        super().__init__(where)
        self.key = where / "pki" / "ca.key"
        self.authority = exchange.held(where / "pki").popitem()[1]
        self.key.unlink()
        self.certificates.reload()
        self.told["ca_keys"] = self.sha256 = certificate_sha256(self.authority.ca_pem)
        self.asked: list[tuple[str, str, Any]] = []
        self.certificates._ask = self._answer
        self.member("n1", None, role)
        self.member("n2", None)

    async def _answer(self, name: str, operation: str, arguments: Any, timeout_s: float) -> Any:
        self.asked.append((name, operation, arguments))
        files = self.certificates.files
        cluster_id = str(files.identity.cluster_id)
        return {"sealed": exchange.seal_key(self.authority, cluster_id, "n1", files.sealing_key)}


async def test_voter_without_the_key_asks_one_that_holds_it_and_keeps_it(tmp_path: Path) -> None:
    world = Promoted(tmp_path / "n1", "voter")
    assert world.certificates.issuing() is None
    assert await world.certificates._fetch_key()
    assert world.asked == [("n2", "ca_key", {"sha256": world.sha256})]
    assert world.key.read_text() == world.authority.key_pem
    assert world.certificates.issuing() == world.authority
    assert not await world.certificates._fetch_key()


@pytest.mark.parametrize("why", ["it is a learner", "nobody has it", "the holder is a learner"])
async def test_key_is_not_asked_for_where(tmp_path: Path, why: str) -> None:
    world = Promoted(tmp_path / "n1", "learner" if why == "it is a learner" else "voter")
    if why == "nobody has it":  # a CA that is kept elsewhere
        world.told["ca_keys"] = ""
    if why == "the holder is a learner":
        world.member("n2", None, "learner")
    assert not await world.certificates._fetch_key()
    assert (world.asked, world.key.exists()) == ([], False)


async def test_key_is_given_to_voters_only_and_sealed_to_them(tmp_path: Path) -> None:
    world = World(tmp_path / "n1")
    files = world.certificates.files

    async def fresh(**_: Any) -> None:
        pass

    world.certificates._proposer.fresh = fresh  # type: ignore[method-assign]
    sha256 = certificate_sha256(files.ca_pem)
    for name, role in (("n2", "learner"), ("n3", "voter")):
        given = {"name": name, "address": "h:1", "role": role, "raft_id": name}
        more = {"sealing_key": files.sealing_key, "certificate_expires_at": None}
        world.machine.members.apply("put", {**given, **more}, 1, 0)
    for stranger in ("n2", "nobody"):
        with pytest.raises(AccessDenied):
            await world.certificates.key_for(stranger, sha256=sha256, timeout_s=1.0)
    with pytest.raises(Conflict):
        await world.certificates.key_for("n3", sha256="0" * 64, timeout_s=1.0)
    sealed = (await world.certificates.key_for("n3", sha256=sha256, timeout_s=1.0))["sealed"]
    pki, cluster_id = tmp_path / "n1" / "pki", str(files.identity.cluster_id)
    assert exchange.open_key(pki, sealed, cluster_id, "n3", files.ca_pem).sha256 == sha256
