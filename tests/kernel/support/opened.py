"""The kernel data path, opened and closed in a namespace of the test's own."""

from __future__ import annotations

import subprocess

from nfq_zerortt.kernel.kernel_path import KernelPath
from support.namespaces import inside
from support.pair import Pair

QUEUE = 7
FLOWS = 64


def opened(pair: Pair, queue: int = QUEUE) -> KernelPath:
    with inside(pair.name):
        return KernelPath.open("c0", "s0", queue, FLOWS)


def close(pair: Pair, path: KernelPath, *, leave: bool) -> None:
    with inside(pair.name):
        path.close(leave)


def remove_all(pair: Pair, queue: int = QUEUE) -> list[str]:
    with inside(pair.name):
        return KernelPath.remove_all(queue)


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    return said, errors
