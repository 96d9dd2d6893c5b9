"""Tries things in a network namespace that lives no longer than the attempt."""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from nfq_zerortt.kernel import capabilities

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
"""From linux/sched.h; os.unshare is there only from Python 3.12 on."""

TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of it: ``ok`` is None when it could not be tried; ``detail`` says why."""

    ok: bool | None
    detail: str


def attempt(action: Callable[[], str]) -> Attempt:
    """Run ``action`` in a child process in a network namespace of its own.

    What it returns is the detail; what it raises is a failure. Nothing it does to the
    network outlives it. Without CAP_SYS_ADMIN a user namespace lends the rights, where
    the host allows that.
    """
    reading, writing = os.pipe()
    # A signal whose handler raises would be lost in the hooks that run around a fork.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    child = os.fork()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if child == 0:
        os.close(reading)
        _run(action, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    try:
        ok, detail = json.loads(answer)
    except ValueError:  # the child ended before it could say anything
        return Attempt(False, "the attempt crashed or took too long")
    return Attempt(ok, detail)


def _run(action: Callable[[], str], writing: int) -> None:
    """Be the child; never returns, whatever happens."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(TIMEOUT_S)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        answer: tuple[bool | None, str]
        if refusal := _unshare():
            answer = (None, f"cannot be tried without root ({refusal})")
        else:
            try:
                answer = (True, action())
            except Exception as error:  # whatever the kernel or a library objects to
                answer = (False, str(error) or type(error).__name__)
        os.write(writing, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _unshare() -> str:
    """Move this process into new namespaces; return what was said against it, or nothing."""
    flags = CLONE_NEWNET
    if not capabilities.effective() >= {"CAP_SYS_ADMIN"}:
        flags |= CLONE_NEWUSER
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) == 0:
        return ""
    return f"a network namespace is refused: {os.strerror(ctypes.get_errno())}"
