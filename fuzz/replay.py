"""Plays one finding again and prints every packet that ClientNIC sees, then what went wrong.

A finding is a file, or the game itself in hexadecimal, as a failing test names it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nfq_zerortt.core.actions import Side
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.flags import names
from nfq_zerortt.wire.view import look
from tests.core.model.game import play
from tests.core.model.world import START, World


class _Shown(list[tuple[float, Side, bytes]]):
    """A trace that prints what is put into it."""

    def append(self, seen: tuple[float, Side, bytes]) -> None:
        """Print one packet and keep it."""
        at, side, raw = seen
        try:
            view = look(raw)
            text = f"{names(view.flags)} {view} ack={view.ack} len={view.payload_length}"
        except WireError as error:
            text = f"{len(raw)} bytes: {error}"
        print(f"{at - START:12.6f} {side.value:6} {text}")
        super().append(seen)


def main(finding: str) -> None:
    """Play it; an exception comes with its traceback."""
    World.new_trace = _Shown
    path = Path(finding)
    play(path.read_bytes() if path.exists() else bytes.fromhex(finding))
    print("nothing is wrong any more")


if __name__ == "__main__":
    main(sys.argv[1])
