"""Copies of the working tree with an environment of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

__all__ = ["ROOT", "NoClone", "clone"]

ROOT = Path(__file__).resolve().parents[2]


class NoClone(Exception):
    """The tests do not run in a clone of the repository."""


def clone(target: Path) -> Path:
    """Clone of everything committed or about to be, and an environment that has the dependencies.

    Its Python is returned: whatever that starts, isolated or not, takes the package from the clone.

    `make install` would fetch the dependencies; the stamps tell it that it did.  That it can is seen whenever
    the tests run in a clean clone, since they begin with the same rules.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        raise NoClone(f"{ROOT} is no clone of the repository")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    environment = target / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "clone.pth").write_text(f"{target}\n{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    script = environment / "bin" / "cyoloctl"
    script.write_text(
        f"#!{environment}/bin/python\nimport sys\nfrom cyoloctl.cli import main\n"
        'if __name__ == "__main__":\n    sys.exit(main())\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    for stamp in (".python-ready", ".runtime-installed"):
        (environment / stamp).touch()
    return environment / "bin" / "python"
