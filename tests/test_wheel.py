"""What is installed is complete: every file of the packages is in the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nfq_zerortt", "iptables_rules")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def test_every_file_of_the_packages_is_in_the_wheel(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    wanted = {
        str(file.relative_to(tree))
        for package in PACKAGES
        for file in (tree / package).rglob("*")
        if file.is_file()
    }
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
               "--no-build-isolation", "--wheel-dir", str(tmp_path), str(tree))  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert wanted - set(archive.namelist()) == set()
