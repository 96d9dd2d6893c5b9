"""The program that opens connections as fast as they go, compiled for this run.

Python would be the bottleneck: it needs longer for a connection than the kernel does.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.real_programs.packages import program
from nfq_zerortt.errors import ZeroRttError

_SOURCE = Path(__file__).resolve().parents[1] / "programs" / "connections.c"
_COMPILE_S = 60.0


def build(directory: Path) -> Path:
    """Compile it into ``directory``; return its path.

    Raises:
        MissingFeatureError: there is no C compiler.
        ZeroRttError: it does not compile.
    """
    binary = directory / "connections"
    argv = [program("cc"), "-O2", "-o", str(binary), str(_SOURCE)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMPILE_S, check=False)
    if done.returncode:
        raise ZeroRttError(f"{_SOURCE.name} does not compile: {done.stderr.strip()}")
    return binary
