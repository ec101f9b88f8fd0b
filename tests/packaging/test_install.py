"""The bundle on a machine without a network: installed, upgraded, rolled back and removed, with nodes on it.

The machine is this one, seen through an overlay in namespaces of its own: what is written there is not
here, no network interface but the loopback exists, and no index of packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cyoloctl import __version__
from tests.packaging.conftest import NEXT, Bundles, install, unpack
from tests.support.cluster import environment

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

LIMIT_S = 280

#: Makes the machine below $1 and runs the rest of the words in it.  /opt is empty there.
MACHINE = """
set -eu
ip link set lo up
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs opt
mount -t tmpfs tmpfs run
shift
exec chroot . "$@"
"""

#: What the machine has before.
BEFORE = """
set -eu
installed() { find /opt /usr/local/bin /usr/local/share /usr/local/lib/systemd 2>/dev/null | sort; }
healthy() { timeout 100 sh -c "until cyoloctl status --check -d /srv/$1 >/dev/null 2>&1; do :; done"; }
step() { echo "# $*"; }

step the machine has no way out
test "$(wc -l </proc/net/route)" = 1 # its heading
rm -rf /usr/local/share/zsh && mkdir /usr/local/share/zsh # empty, and there before
mkdir -p /usr/local/lib/systemd/system /etc/systemd/system/multi-user.target.wants
echo '# mine' > /usr/local/lib/systemd/system/cyoloctl-snapshot@.timer
installed > /before
"""

#: $1, $2: the scripts of both bundles, $3: the public key, $4: a Python, $5: their versions, $6.
STORY = """
step install
sh "$1" --key "$3" --python "$4"
test "$(cyoloctl --version)" = "cyoloctl $5"
test "$(cat /usr/local/lib/systemd/system/cyoloctl-snapshot@.timer)" = '# mine'
enabled=/etc/systemd/system/multi-user.target.wants
ln -s /usr/local/lib/systemd/system/cyoloctl@.service $enabled/cyoloctl@n1.service
ln -s /usr/local/lib/systemd/system/cyoloctl-snapshot@.timer $enabled/cyoloctl-snapshot@n1.timer
test -e /usr/local/share/man/man1/cyoloctl-key-rotate.1
test -e /usr/local/share/doc/cyoloctl/manual.html
test -e /usr/local/lib/systemd/system/cyoloctl@.service
test -e /usr/local/share/bash-completion/completions/cyoloctl.bash
id -u cyoloctl

step form three nodes
cyoloctl cluster init -d /srv/n1 --name n1 --listen 127.0.0.1:7701
cyoloctl node start -d /srv/n1 --background
for n in 2 3; do
    cyoloctl member invite -d /srv/n1 --name n$n --out /token$n
    cyoloctl node join -d /srv/n$n --name n$n --listen 127.0.0.1:770$n --token-file /token$n
    cyoloctl node start -d /srv/n$n --background
done
healthy n1
cyoloctl counter incr -d /srv/n2 --by 41

step upgrade
sh "$2" --key "$3" --python "$4"
test "$(cyoloctl --version)" = "cyoloctl $6"
for n in 3 2 1; do
    cyoloctl node stop -d /srv/n$n
    cyoloctl node start -d /srv/n$n --background
    healthy n$n
done
test "$(cyoloctl counter incr -d /srv/n1)" = 42

step roll back
sh "$2" --rollback
test "$(cyoloctl --version)" = "cyoloctl $5"
cyoloctl node stop -d /srv/n1
cyoloctl node start -d /srv/n1 --background
healthy n1
test "$(cyoloctl counter get -d /srv/n1)" = 42
sh "$1" --rollback
test "$(cyoloctl --version)" = "cyoloctl $6"

step uninstall
status=0
sh "$1" --uninstall || status=$?
test $status = 4
cyoloctl --version
for n in 1 2 3; do cyoloctl node stop -d /srv/n$n; done
sh "$1" --uninstall
installed > /after
diff /before /after
test ! -L $enabled/cyoloctl@n1.service
rm $enabled/cyoloctl-snapshot@n1.timer # of a unit that is not ours
test ! -e /opt/cyoloctl
test -e /srv/n1/node.yaml
step done
"""


def _machines_can_be_made(tmp_path: Path) -> bool:
    if os.getuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    place = tmp_path / "try"
    place.mkdir()
    words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", MACHINE]
    tried = subprocess.run([*words, "sh", str(place), "true"], capture_output=True, check=False, timeout=60)
    return tried.returncode == 0


@pytest.mark.netns
@pytest.mark.timeout(LIMIT_S + 120)
def test_bundle_on_a_machine_without_a_network_forms_upgrades_rolls_back_and_leaves_nothing(
    bundles: Bundles, tmp_path: Path
) -> None:
    if not _machines_can_be_made(tmp_path):
        pytest.skip("NO BUNDLE IS INSTALLED IN A MACHINE OF ITS OWN: it takes root, namespaces and overlays")
    first, second = unpack(bundles.archive, tmp_path / "1"), unpack(bundles.next_archive, tmp_path / "2")
    place = tmp_path / "machine"
    place.mkdir()
    python = os.path.realpath(sys.executable)
    words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", MACHINE, "sh"]
    words += [str(place), "sh", "-c", BEFORE + STORY, "story"]
    words += [
        str(first / "install.sh"),
        str(second / "install.sh"),
        str(bundles.public),
        python,
        __version__,
        NEXT,
    ]
    # No index: what is installed has to be in the bundle.
    env = environment(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0")
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    assert done.stdout.rstrip().endswith("# done")


def test_prefix_of_a_users_own_holds_everything(bundles: Bundles, tmp_path: Path) -> None:
    directory, prefix = unpack(bundles.archive, tmp_path), tmp_path / "prefix"
    told = []
    for _ in range(2):  # the second time nothing more happens
        # Paths count from where the caller stands.
        place = bundles.public.parent
        done = install(directory, "--prefix", prefix, "--key", bundles.public.name, cwd=place)
        assert done.returncode == 0, done.stderr
        told.append(done.stderr)
    said = subprocess.run([prefix / "bin/cyoloctl", "--version"], capture_output=True, text=True, check=False)
    assert said.stdout == f"cyoloctl {__version__}\n"
    page = prefix / "share/man/man1/cyoloctl-key-rotate.1"
    assert page.resolve().is_relative_to(prefix / __version__)
    assert f"{prefix}/share/doc/cyoloctl/manual.html\n" in told[0]
    assert (prefix / "share/doc/cyoloctl/manual.html").read_bytes() == (
        directory / "manual.html"
    ).read_bytes()
    assert install(directory, "--prefix", prefix, "--uninstall").returncode == 0
    assert not prefix.exists()
