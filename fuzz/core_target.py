"""Coverage-guided fuzzing of the core: ``make fuzz``, or see README.md beside this file.

A string of bytes is a game (tests/core/model/game.py): connections, network, strangers, damaged
packets, operator. atheris changes the bytes so that the core runs through code that it did not
run through before; the judge and the checks of the world say whether that went well.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["nfq_zerortt.core", "nfq_zerortt.wire"]):
    from tests.core.model.game import play

_LONGEST = 400
"""Bytes of one game; a longer one is slow and seldom shows more."""


def one_game(data: bytes) -> None:
    """Play; whatever is raised is a finding."""
    play(data[:_LONGEST])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_game)
    atheris.Fuzz()
