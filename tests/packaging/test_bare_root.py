"""The bundle and the package on a bare Debian 12 without a network: only python3 was added to it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyoloctl import __version__
from tests.packaging.bare import NoMachine, bare_root, run_in
from tests.packaging.conftest import HAS_DPKG, NEXT, Bundles, unpack
from tests.packaging.test_install import BEFORE, STORY

# For the story alone: the first one waits for bundles and root too.
LIMIT_S = 280
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.netns, pytest.mark.timeout(900)]

#: Before and after: everything on the disk, but the data of nodes and what the story itself writes.
BARE = """
set -eu
everything() {
    find / -xdev ! -path '/srv/*' ! -path '/var/lib/cyoloctl/*' ! -path '/token*' ! -path /everything \\
        ! -path /before ! -path /after ! -path '/var/lib/dpkg/*' ! -path '/var/log/*' ! -path '/etc/*-' | sort
}
for missing in openssl ip curl systemctl sudo; do ! command -v $missing || exit 1; done
test "$(python3 -c 'import sys; print(*sys.version_info[:2])')" = "3 11"
if python3 -c 'import ensurepip' 2>/dev/null; then exit 1; fi
everything > /everything
"""

#: Nothing but the user and the directory for data, which stay.
LEFT = """
step nothing is left
printf '/var/lib/cyoloctl\\n' | sort -m - /everything > /before
everything | diff /before - >&2
id -u cyoloctl
"""

#: $7: the directory of the wheels.
WHEELS = """
step by hand, from wheels
python3 -m venv --without-pip /opt/by-hand
PYTHONPATH=$(echo "$7"/pip-*.whl) /opt/by-hand/bin/python -m pip \\
    install --no-index --find-links "$7" cyoloctl
test "$(/opt/by-hand/bin/cyoloctl --version)" = "cyoloctl $5"
"""

#: $1, $2: the packages of both releases, $3, $4: their versions.  Nodes run as the user of the package.
PACKAGE = """
step() { echo "# $*"; }
data=/var/lib/cyoloctl
as_user() { runuser -u cyoloctl -- "$@"; }
healthy() { timeout 100 sh -c "until cyoloctl status --check -d $data/$1 >/dev/null 2>&1; do :; done"; }
restart() {
    as_user cyoloctl node stop -d $data/$1
    as_user cyoloctl node start -d $data/$1 --background
    healthy $1
}
cd /var/lib
has() { dpkg-query --show --showformat='${db:Status-Status}' cyoloctl 2>/dev/null | grep -qx installed; }

step install
dpkg -i "$1" 2>/install
if grep -e --key /install; then exit 1; fi # the package's own signature was checked before
rm /install
test "$(cyoloctl --version)" = "cyoloctl $3"
test -e /usr/local/share/man/man1/cyoloctl.1
test -e /usr/local/share/bash-completion/completions/cyoloctl.bash
test -e /usr/local/lib/systemd/system/cyoloctl@.service
test "$(stat -c %U $data)" = cyoloctl

step form three nodes
as_user cyoloctl cluster init -d $data/n1 --name n1 --listen 127.0.0.1:7701
as_user cyoloctl node start -d $data/n1 --background
for n in 2 3; do
    as_user cyoloctl member invite -d $data/n1 --name n$n --out $data/token$n
    as_user cyoloctl node join -d $data/n$n --name n$n --listen 127.0.0.$n:770$n \\
        --token-file $data/token$n
    as_user cyoloctl node start -d $data/n$n --background
done
healthy n1
cyoloctl counter incr -d $data/n2 --by 41

step upgrade
dpkg -i "$2"
test "$(cyoloctl --version)" = "cyoloctl $4"
for n in 3 2 1; do restart n$n; done
test "$(cyoloctl counter incr -d $data/n1)" = 42

step go back
sh /opt/cyoloctl/current/bundle/install.sh --rollback
test "$(cyoloctl --version)" = "cyoloctl $3"
restart n1
dpkg -i "$1"
test "$(cyoloctl --version)" = "cyoloctl $3"
test "$(cyoloctl counter get -d $data/n1)" = 42

step remove
status=0
dpkg -r cyoloctl || status=$?
test $status != 0 # nodes run
has
test "$(cyoloctl --version)" = "cyoloctl $3"
for n in 1 2 3; do as_user cyoloctl node stop -d $data/n$n; done
dpkg -r cyoloctl
if has; then exit 1; fi
"""

PURGE = """
step purge
dpkg -i "$2"
cyoloctl --version
dpkg -P cyoloctl
if has; then exit 1; fi
"""
DONE = "step done\n"


@pytest.fixture
def root() -> Iterator[Path]:
    try:
        with bare_root() as made:
            yield made
    except NoMachine as reason:
        pytest.skip(f"NOTHING IS INSTALLED ON A BARE DEBIAN: {reason}")


def run(root: Path, tmp_path: Path, media: Path, script: str, *arguments: str) -> None:
    place = tmp_path / "machine"
    place.mkdir()
    done = run_in(root, place, media, script, *arguments, timeout_s=LIMIT_S)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    assert done.stdout.rstrip().endswith("# done")


def test_bundle_forms_upgrades_rolls_back_and_leaves_nothing_with_python_alone(
    bundles: Bundles, root: Path, tmp_path: Path
) -> None:
    media = tmp_path / "media"
    first, second = unpack(bundles.archive, media / "1"), unpack(bundles.next_archive, media / "2")
    shutil.copy(bundles.public, media / "key.pub")
    seen = [f"/media/1/{first.name}", f"/media/2/{second.name}"]
    arguments = [f"{each}/install.sh" for each in seen] + ["/media/key.pub", "python3", __version__, NEXT]
    script = BEFORE + BARE + STORY.removesuffix(DONE) + LEFT + WHEELS + DONE
    run(root, tmp_path, media, script, *arguments, f"{seen[0]}/wheels")


@pytest.mark.skipif(not HAS_DPKG, reason="NO DEBIAN PACKAGE IS INSTALLED: dpkg-deb is not here to make one")
def test_package_forms_upgrades_goes_back_and_leaves_nothing_with_python_alone(
    bundles: Bundles, root: Path, tmp_path: Path
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    packages = []
    for version in (__version__, NEXT):
        [package] = bundles.archive.parent.glob(f"cyoloctl_{version}_*.deb")
        shutil.copy(package, media)
        packages.append(f"/media/{package.name}")
    script = BARE + PACKAGE + LEFT + PURGE + LEFT + DONE
    run(root, tmp_path, media, script, *packages, __version__, NEXT)
