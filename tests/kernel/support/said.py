"""What our commands say: the one line of an error, and what ``check`` says of one thing."""

from __future__ import annotations

import re
import subprocess


def one_line(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """See that a command was refused as the interface says: its status, and one line on stderr."""
    assert done.returncode == status, done.stderr
    assert not done.stdout
    assert re.fullmatch(r"nfq-zerortt: [^\n]+\n", done.stderr), done.stderr
    for word in words:
        assert word in done.stderr


def told(output: str, name: str) -> str:
    """Return what ``check`` says of one thing, its status before it."""
    found = re.search(rf"^(\S+) +{re.escape(name)} +(.*)$", output, re.MULTILINE)
    assert found is not None, output
    return f"{found[1]}: {found[2]}"
