"""Where the programs are, and which Debian package has them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from nfq_zerortt import programs
from nfq_zerortt.errors import MissingFeatureError

PACKAGES = {
    "curl": "curl",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "redis-server": "redis-server",
    "redis-cli": "redis-tools",
    "initdb": "postgresql",
    "postgres": "postgresql",
    "psql": "postgresql-client",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "git": "git",
    "haproxy": "haproxy",
    "cc": "gcc",
    "ethtool": "ethtool",
}

_VERSIONS = {
    "curl": ("--version", 2),
    "nginx": ("-v", 3),
    "openssl": ("version", 2),
    "redis-server": ("--version", 3),
    "psql": ("--version", 3),
    "ssh": ("-V", 2),
    "git": ("--version", 3),
}
"""The option, and how many words of the answer are the version."""


def find(name: str) -> str | None:
    """Return the path of a program, None if it is not on this machine."""
    found = programs.found(name)
    if found is None and name in ("initdb", "postgres"):  # Debian keeps them out of PATH
        places = sorted(
            Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name)
        )
        found = next((str(p / name) for p in reversed(places) if (p / name).exists()), None)
    return found


def program(name: str) -> str:
    """Return the path of a program.

    Raises:
        MissingFeatureError: it is not on this machine; says which package has it.
    """
    found = find(name)
    if found is None:
        raise MissingFeatureError(missing([name]))
    return found


def missing(names: Iterable[str]) -> str:
    """Say which of the programs are missing and how to get them; nothing if none is."""
    absent = [name for name in names if find(name) is None]
    if not absent:
        return ""
    packages = " ".join(sorted({PACKAGES[name] for name in absent}))
    return f"missing program {', '.join(absent)}: apt-get install {packages}"


def versions() -> list[str]:
    """Return what each program calls its version."""
    said: list[str] = []
    for name, (option, words) in _VERSIONS.items():
        found = find(name)
        if found is None:
            continue
        done = subprocess.run([found, option], capture_output=True, text=True, check=False)
        said.append(" ".join((done.stdout + done.stderr).split()[:words]).rstrip(","))
    return said
