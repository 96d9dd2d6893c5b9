"""What is installed is complete: each file of the packages is in the wheel, and in the sdist.

The whole way to a machine without a network is tests/kernel/test_deb.py: wheels of this and of all
that it needs are built into a folder, and installed from there alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nfq_zerortt", "iptables_rules")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def build(*arguments: str | Path) -> None:
    done = subprocess.run((sys.executable, *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def wheel(source: Path, into: Path) -> Path:
    """Build a wheel from a directory or a source distribution; nothing is fetched."""
    build("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir",
          into, source)  # fmt: skip
    (built,) = into.glob("*.whl")
    return built


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a build needs of the checkout, and is free to write into."""
    made = tmp_path / "tree"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, made / package, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    for name in FILES:
        shutil.copy(ROOT / name, made)
    return made


def contents(built: Path) -> dict[str, bytes]:
    """The files of a wheel; RECORD is a list of the others, in the order of the disk."""
    with zipfile.ZipFile(built) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/RECORD")]
        return {name: archive.read(name) for name in names}


def test_every_file_of_the_packages_is_in_the_wheel(tree: Path, tmp_path: Path) -> None:
    wanted = {
        str(file.relative_to(tree))
        for package in PACKAGES
        for file in (tree / package).rglob("*")
        if file.is_file()
    }
    assert wanted - contents(wheel(tree, tmp_path / "wheels")).keys() == set()


def test_a_wheel_built_from_the_sdist_is_the_same(tree: Path, tmp_path: Path) -> None:
    direct = contents(wheel(tree, tmp_path / "direct"))
    sdists = tmp_path / "sdists"
    command = f"""
import os
from setuptools.build_meta import build_sdist
os.chdir({str(tree)!r})
os.mkdir({str(sdists)!r})
build_sdist({str(sdists)!r})
"""
    build("-c", command)
    (sdist,) = sdists.glob("*.tar.gz")
    assert contents(wheel(sdist, tmp_path / "by-way-of-sdist")) == direct
