"""What a mutant is, and the files that mutants are of."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

BPF = Path("nfq_zerortt/kernel/bpf")
SOURCE, HEADER = BPF / "zerortt.bpf.c", BPF / "zerortt.h"
CORE = Path("nfq_zerortt/core")


class Mutant(NamedTuple):
    """One change: ``old``, which is in the file just once, becomes ``new``."""

    file: Path
    name: str
    old: str
    new: str

    @property
    def is_compiled(self) -> bool:
        """Whether it is one of the programs."""
        return self.file.parent == BPF


def mutants(file: Path, *changes: tuple[str, str, str]) -> list[Mutant]:
    """Return mutants of one file: name, what is there, and what it becomes."""
    return [Mutant(file, *change) for change in changes]
