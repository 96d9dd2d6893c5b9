"""The host's own commands that say how things stand: iptables, nft, ip, tc."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from nfq_zerortt import programs
from nfq_zerortt.errors import ZeroRttError

_TIMEOUT_S = 30.0


def run(argv: Sequence[str], timeout_s: float = _TIMEOUT_S) -> str | None:
    """Return what a command prints, in English; None when there is no such command.

    Raises:
        ZeroRttError: it failed, or was not done in time.
    """
    program = programs.found(argv[0])
    if program is None:
        return None
    try:
        ran = subprocess.run(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=programs.environment() | {"LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ZeroRttError(f"{' '.join(argv)}: no answer within {timeout_s:g} s") from None
    if ran.returncode != 0:
        raise ZeroRttError(f"{' '.join(argv)} failed: {_reason(ran.stderr, ran.returncode)}")
    return ran.stdout


def _reason(stderr: str, status: int) -> str:
    """Pick what went wrong: iptables-nft first warns of legacy tables, in a line with a #."""
    lines = (line for line in stderr.splitlines() if line.strip() and not line.startswith("#"))
    return next(lines, f"exit status {status}")
