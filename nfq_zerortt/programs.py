"""The system's own programs: where they are found, and the environment that they run in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
"""Ours, and the sbin directories: root's PATH lacks them after a plain ``su``."""

_PACKAGE_PARENT = str(Path(__file__).resolve().parents[1])


def found(name: str) -> str | None:
    """Return the path of a program; None when it is not installed."""
    return shutil.which(name, path=PATH)


def environment() -> dict[str, str]:
    """Return the environment for a program: ours, with :data:`PATH`."""
    return os.environ | {"PATH": PATH}


def python_environment() -> dict[str, str]:
    """Return the same for a Python of ours: it finds this very package, installed or not."""
    search = (_PACKAGE_PARENT, os.environ.get("PYTHONPATH"))
    return environment() | {"PYTHONPATH": os.pathsep.join(path for path in search if path)}
