"""The delay line as ``testbed up`` and ``testbed status`` see it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.lateness import LatenessFigures
from nfq_zerortt.testbed.processes import ProcessId
from nfq_zerortt.testbed.queue_process_control import Control, KernelQueue
from nfq_zerortt.testbed.wan import QUEUE_NUMBER

CONTROL = Control(
    role=state.DELAY_LINE,
    called="delay line",
    module="nfq_zerortt.testbed.delayline",
    queue_number=QUEUE_NUMBER,
    rule=("FORWARD", "-j", "NFQUEUE", "--queue-num", str(QUEUE_NUMBER)),
)


@dataclass(frozen=True, slots=True)
class DelayLineStatus:
    """The delay line's own figures since it was started or last changed."""

    pid: int
    alive: bool
    scheduling: str
    packets: int
    lateness: LatenessFigures
    queue: KernelQueue


def status(name: str, process: ProcessId) -> DelayLineStatus:
    """Return the delay line's figures, its last ones if it has died."""
    report = CONTROL.report(name)
    return DelayLineStatus(
        pid=process.pid,
        alive=process.alive(),
        scheduling=report.get("scheduling", "unknown"),
        packets=report.get("packets", 0),
        lateness=LatenessFigures(**report.get("lateness", asdict(LatenessFigures(0, 0, 0, 0)))),
        queue=CONTROL.kernel_queue(process) if process.alive() else KernelQueue(),
    )
