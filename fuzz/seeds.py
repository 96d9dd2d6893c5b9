"""Writes seeds for the corpus: one game for each packet script, in the same spirit.

A script's steps cannot be games byte by byte, because there the test makes every packet and here
two hosts do. What is taken over is the course: which side acts, and how much time goes by.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

from tests.core.model.game import MOVES

_SCRIPTS = Path(__file__).resolve().parent.parent / "tests" / "scenarios"
_CONNECT, _WRITE, _CLOSE, _ABORT, _RUN, _BLIND, _OTHER = map(MOVES.index, (0, 2, 4, 5, 8, 15, 19))
_ALL_KINDS = ((1 << len(MOVES)) - 1).to_bytes(len(MOVES) + 7 >> 3, "big")
_POLICIES = {"fastopen": 0, "auto": 1, "hold": 2, "observe": 4}


def game_of(script: str) -> bytes:
    """Return a game that goes roughly as the script does."""
    named = re.search(r"^strategy (\w+)", script, re.MULTILINE)
    policy = _POLICIES[named[1] if named else "hold"]
    server = 0 if "cookie 1" in script else 1
    game = bytearray((policy, 1 if "max_flows" in script else 0, 0, 0, 0, 0, server))
    game += _ALL_KINDS
    clock = 0.0
    for line in script.splitlines():
        if not line.startswith(">>"):
            continue
        _, when, side, *rest = line.split()
        wait, clock = float(when) - clock, float(when)
        game += bytes((_RUN, 8 if wait > 8 else 5 if wait > 0.5 else 4 if wait > 0.1 else 1))
        number = 0 if side.startswith("client") else 1
        flags = rest[0] if rest else ""
        if side == "stop":
            game += bytes((_OTHER, 7))
        elif "~" in line:
            game += bytes((_BLIND, number, len(flags) % 9)) + bytes(range(8)) + b"\0"
        elif flags == "SYN":
            game += bytes((_CONNECT, 0, 0, 0, 0, 0))
        elif "RST" in flags:
            game += bytes((_ABORT, 3, number))
        elif "FIN" in flags:
            game += bytes((_CLOSE, number))
        elif "len" in rest:
            game += bytes((_WRITE, number, 2))
    return bytes(game)


def main(target: Path) -> None:
    """Write the seeds into a directory; what stands there already is left alone."""
    target.mkdir(parents=True, exist_ok=True)
    for script in sorted(_SCRIPTS.glob("*.script")):
        game = game_of(script.read_text(encoding="utf-8"))
        name = hashlib.sha1(game, usedforsecurity=False).hexdigest()  # as libFuzzer names them
        (target / name).write_bytes(game)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
