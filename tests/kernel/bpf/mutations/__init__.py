"""Small ways to break the programs and the core, for mutants.py."""

from __future__ import annotations

from bpf.mutations import core, frames, hand_over, progress, renumbering
from bpf.mutations.mutant import Mutant

MUTANTS: list[Mutant] = [
    *renumbering.MUTANTS,
    *progress.MUTANTS,
    *frames.MUTANTS,
    *hand_over.MUTANTS,
    *core.MUTANTS,
]
