"""A Debian package around an unpacked bundle: its scripts run the bundle's own install.sh.

The package holds the bundle, because only the machine knows its Python.  What install.sh makes of it is in
/opt/cyoloctl, as without the package, and an upgrade leaves the release before it for --rollback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["build"]

_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}
_PLACE = "usr/share/cyoloctl/bundle"

_CONTROL = """\
Package: cyoloctl
Version: {version}
Architecture: {arch}
Maintainer: The cyoloctl project <cyoloctl@localhost>
Section: net
Priority: optional
Depends: python3 (>= 3.11)
Description: clusters of Zero Trust connector nodes, without a database server
 Everything that it needs comes with it: nothing is fetched when it is installed.
"""

_POSTINST = f"""\
#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
sh /{_PLACE}/install.sh
"""

# Data and the user stay, as they do without the package.
_PRERM = f"""\
#!/bin/sh
set -e
[ "$1" = remove ] || exit 0
if [ -d /run/systemd/system ]; then
    systemctl stop 'cyoloctl-snapshot@*.timer' 'cyoloctl-route-watch@*.service' 'cyoloctl@*.service'
fi
[ ! -L /opt/cyoloctl/current ] || sh /{_PLACE}/install.sh --uninstall
"""


def build(bundle: Path, out: Path, version: str, arch: str, epoch: int) -> Path:
    """Build the package of an unpacked bundle; returns its path.  Moves the bundle.

    epoch: the time of all files, in seconds since 1970.  Raises CalledProcessError.
    """
    root = bundle.with_name("deb")
    (root / _PLACE).parent.mkdir(parents=True)
    shutil.move(bundle, root / _PLACE)
    pages = root / "usr/share/doc/cyoloctl"
    pages.mkdir(parents=True)
    (pages / "manual.html").symlink_to(f"../../../../{_PLACE}/manual.html")
    control = root / "DEBIAN"
    control.mkdir()
    (control / "control").write_text(_CONTROL.format(version=version, arch=_ARCHES[arch]), "utf-8")
    for name, text in (("postinst", _POSTINST), ("prerm", _PRERM)):
        (control / name).write_text(text, "utf-8")
    for path in [root, *root.rglob("*")]:
        runs = path.is_dir() or path.read_bytes()[:2] == b"#!"
        path.chmod(0o755 if runs else 0o644)
    package = out / f"cyoloctl_{version}_{_ARCHES[arch]}.deb"
    # Wheels are compressed already.
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(root), str(package)],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return package
