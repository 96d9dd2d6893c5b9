"""Runs commands and times them: ``python -m bench.programs.stopwatch``.

Reads lines of JSON: ``argv`` and ``env``. For each writes one: ``took_ms``
from the start of the process to its end, ``status``, ``output`` and ``error``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

_TIMEOUT_S = 20.0


def _run(argv: list[str], env: dict[str, str]) -> dict[str, object]:
    started = time.perf_counter_ns()
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=env,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        said = f"not done after {_TIMEOUT_S:g} s"
        return {"took_ms": 0.0, "status": -1, "output": "", "error": said}
    return {
        "took_ms": (time.perf_counter_ns() - started) / 1e6,
        "status": done.returncode,
        "output": done.stdout.decode(errors="replace"),
        "error": done.stderr.decode(errors="replace"),
    }


if __name__ == "__main__":
    for line in sys.stdin:
        plan = json.loads(line)
        print(json.dumps(_run(plan["argv"], plan["env"])), flush=True)
