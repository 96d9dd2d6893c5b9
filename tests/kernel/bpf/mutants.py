"""Breaks the programs and the core in one small way at a time: does the differential test see it?

    .venv/bin/python tests/kernel/bpf/mutants.py            all; root, some minutes, needs clang
    .venv/bin/python tests/kernel/bpf/mutants.py WORD       those whose name has the word in it

Works on a copy. A mutant that survives is a hole in the test: close it there. One that the kernel
does not load, or whose place is not in the source any more, is a mistake in mutations/.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "kernel")]

from bpf import differential  # noqa: E402
from bpf.loaded import loaded  # noqa: E402
from bpf.mutations import MUTANTS  # noqa: E402
from bpf.mutations.mutant import BPF, Mutant  # noqa: E402
from nfq_zerortt.errors import MissingFeatureError  # noqa: E402

DIFFERENTIAL = "tests/kernel/test_bpf_differential.py"
OTHERS = ("tests/kernel/test_bpf_hand_over.py", "tests/kernel/test_bpf_on_an_interface.py")
SEQUENCES = 300
_REFUSED = "does not take the eBPF programs"
_AGREED = "test_every_packet_is_translated_as_by_the_core_or_left_alone"


def main(word: str) -> int:
    """Try all mutants whose name has ``word`` in it; return how many were not killed."""
    chosen = [each for each in MUTANTS if word in each.name]
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        _copy(tree)
        code = tree / BPF / "zerortt.bpf.o"
        problem = _play(code) or _test(tree, code, DIFFERENTIAL, *OTHERS)
        if problem:
            print(f"without a mutant it fails already: {problem}")
            return 1
        for mutant in chosen:
            end = _try(tree, mutant)
            bad += not end.startswith("killed")
            print(f"{mutant.name}: {end}", flush=True)
    print(f"{len(chosen)} mutants, {len(chosen) - bad} killed")
    return bad


def _copy(tree: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for part in ("nfq_zerortt", "iptables_rules", "tests"):
        shutil.copytree(ROOT / part, tree / part, ignore=ignored)
    (tree / "scripts").mkdir()
    build = (ROOT / "scripts" / "build_bpf.sh").read_text()
    (tree / "scripts" / "build_bpf.sh").write_text(build.replace("-Werror", ""))
    for part in ("pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / part, tree / part)


def _try(tree: Path, mutant: Mutant) -> str:
    """Apply a mutant, test, and take it back; return what became of it."""
    file = tree / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        return f"NOT APPLIED: its place is there {text.count(mutant.old)} times"
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        code = tree / BPF / "zerortt.bpf.o"
        if mutant.is_compiled:
            built = tree / "built"
            built.mkdir(exist_ok=True)
            command = ["bash", str(tree / "scripts" / "build_bpf.sh"), str(built)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"NOT BUILT: {done.stderr.strip().splitlines()[0]}"
            code = built / "zerortt.bpf.o"
            said = _play(code) or _test(tree, code, *OTHERS, DIFFERENTIAL)
        else:
            said = _test(tree, code, DIFFERENTIAL, *OTHERS)
    finally:
        file.write_text(text)
    if _REFUSED in said:
        return f"NOT LOADED: {said}"
    return f"killed by {said}" if said else "SURVIVED"


def _play(code: Path) -> str:
    """Compare the sequences without pytest, which is quicker; return the first difference."""
    differential.SHRINK_TRIES = 0
    try:
        with loaded(code) as programs:
            for number in range(SEQUENCES):
                differential.play(programs, f"zerortt:{number}")
    except differential.DifferenceError as error:
        return str(error).splitlines()[0]
    except MissingFeatureError as error:
        return str(error)
    return ""


def _test(tree: Path, code: Path, *tests: str) -> str:
    """Run the tests on an object; return which failed first and why, or nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=tree,
        env={
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "ZERORTT_BPF_OBJECT": str(code),
            "ZERORTT_DIFFERENTIAL_SEQUENCES": str(SEQUENCES),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return ""
    if _REFUSED in done.stdout:
        found = re.search(rf"{_REFUSED}.*", done.stdout)
        return found[0] if found else _REFUSED
    failed = re.search(r"^(?:FAILED|ERROR) \S+::(\S+)", done.stdout, re.MULTILINE)
    seed = re.search(r"seed '\S+', packet \d+", done.stdout)
    test = failed[1] if failed else done.stdout[-300:] + done.stderr[-300:]
    return f"{'its first test' if test == _AGREED else test}{f', {seed[0]}' if seed else ''}"


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1] if len(sys.argv) > 1 else ""), 1))
