"""The fault injector as ``testbed up`` and ``testbed status`` see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.processes import ProcessId
from nfq_zerortt.testbed.queue_process_control import Control, KernelQueue

QUEUE_NUMBER = 64001
"""Of the NFQUEUE in servernic's namespace."""
MARK = 0x5A52
"""Of the copies that the injector itself sends: they do not come by it again."""

# POSTROUTING is behind FORWARD, where the delay line is.
CONTROL = Control(
    role=state.INJECTOR,
    called="fault injector",
    module="nfq_zerortt.testbed.injector",
    queue_number=QUEUE_NUMBER,
    rule=(
        *("POSTROUTING", "-m", "mark", "!", "--mark", str(MARK)),
        *("-j", "NFQUEUE", "--queue-num", str(QUEUE_NUMBER)),
    ),
)


@dataclass(frozen=True, slots=True)
class InjectorStatus:
    """What the injector has done since it was started or last changed, in packets.

    ``first``: of those lost, how many were aimed at, by the names of ``lose_first``.
    """

    pid: int
    alive: bool
    packets: int
    lost: int
    reordered: int
    duplicated: int
    first: Mapping[str, int]
    queue: KernelQueue


def status(name: str, process: ProcessId) -> InjectorStatus:
    """Return the injector's figures, its last ones if it has died."""
    report = CONTROL.report(name)
    return InjectorStatus(
        pid=process.pid,
        alive=process.alive(),
        packets=report.get("packets", 0),
        lost=report.get("lost", 0),
        reordered=report.get("reordered", 0),
        duplicated=report.get("duplicated", 0),
        first=report.get("first", {}),
        queue=CONTROL.kernel_queue(process) if process.alive() else KernelQueue(),
    )
