"""The compiled programs of the kernel data path are those of the sources beside them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

BPF = Path(__file__).resolve().parents[1] / "nfq_zerortt" / "kernel" / "bpf"
SUMS = re.findall(r"^([0-9a-f]{64})  (\S+)$", (BPF / "zerortt.built").read_text(), re.MULTILINE)


def test_sources_and_object_are_noted() -> None:
    assert [name for _, name in SUMS] == ["zerortt.bpf.c", "zerortt.h", "zerortt.bpf.o"]


@pytest.mark.parametrize(("noted", "name"), SUMS)
def test_what_is_noted_is_what_is_there(noted: str, name: str) -> None:
    there = hashlib.sha256((BPF / name).read_bytes()).hexdigest()
    assert there == noted, f"{name} is not the one that was built: run 'make bpf'"
