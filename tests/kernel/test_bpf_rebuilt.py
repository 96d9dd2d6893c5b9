"""The compiled programs in the package can be built from the sources, and are what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BPF = ROOT / "nfq_zerortt" / "kernel" / "bpf"


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("bpf")
    command = ["bash", str(ROOT / "scripts" / "build_bpf.sh"), str(into)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return into


def compiler(directory: Path) -> str:
    found = re.search(r"^# (clang version \S+)$", (directory / "zerortt.built").read_text(), re.M)
    assert found is not None
    return found[1]


def test_the_object_in_the_package_is_that_of_the_sources(rebuilt: Path) -> None:
    """Byte for byte by the same compiler; by another one, in what it does."""
    if compiler(rebuilt) == compiler(BPF):
        same = (rebuilt / "zerortt.bpf.o").read_bytes() == (BPF / "zerortt.bpf.o").read_bytes()
        assert same, "run 'make bpf'"
        return
    tests = ROOT / "tests" / "kernel" / "test_bpf_differential.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tests)],
        env={**os.environ, "ZERORTT_BPF_OBJECT": str(rebuilt / "zerortt.bpf.o")},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_where_the_sources_lie_makes_no_difference(rebuilt: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "nfq_zerortt" / "kernel" / "bpf"
    elsewhere.mkdir(parents=True)
    for name in ("zerortt.bpf.c", "zerortt.h"):
        (elsewhere / name).write_bytes((BPF / name).read_bytes())
    script = tmp_path / "scripts" / "build_bpf.sh"
    script.parent.mkdir()
    script.write_bytes((ROOT / "scripts" / "build_bpf.sh").read_bytes())
    subprocess.run(["bash", str(script)], check=True)
    other = (elsewhere / "zerortt.bpf.o").read_bytes()
    assert other == (rebuilt / "zerortt.bpf.o").read_bytes()
