"""The host's own commands that say how things stand: iptables, nft, ip, tc."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from nfq_zerortt.errors import ZeroRttError

PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
"""Where they are, also for a user whose PATH does not say so."""


def run(argv: Sequence[str]) -> str | None:
    """Return what a command prints; None when there is no such command.

    Raises:
        ZeroRttError: it failed.
    """
    program = shutil.which(argv[0], path=PATH)
    if program is None:
        return None
    ran = subprocess.run([program, *argv[1:]], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise ZeroRttError(f"{' '.join(argv)} failed: {ran.stderr.partition(chr(10))[0]}")
    return ran.stdout
