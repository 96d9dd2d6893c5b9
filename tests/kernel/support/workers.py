"""A service with several workers, and its processes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from support.service import ServiceProcess
from support.waiting import until

PYTHON = ("--data-path", "python")
TWO = ("--workers", "2")


def workers_of(flow_ids: list[int], count: int = 2) -> set[int]:
    """Return which workers have taken these flows on: they number them in turns."""
    return {number % count for number in flow_ids}


def processes(service: ServiceProcess) -> list[int]:
    """Return the first process of a service, and its workers."""
    ready = service.event("service.ready")
    return [ready["pid"], *ready["worker_pids"]]


def is_there(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return False


def all_gone(pids: list[int]) -> None:
    until(lambda: not any(map(is_there, pids)), "no process is left", timeout_s=5)
