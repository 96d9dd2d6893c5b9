"""What is asked of this service beside the others."""

from __future__ import annotations

from dataclasses import dataclass

from bench.comparison.contenders import KERNEL, PLAIN
from bench.comparison.figures import bulk, growth
from bench.comparison.results import Results

_THROUGHPUT = 0.95
_CPU = 1.1
_FLOW_KB = 2.0
_FLOWS = 10_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, what was measured, and whether it is met."""

    target: str
    measured: str
    met: bool


def verdicts(results: Results) -> list[Verdict]:
    """Judge the kernel path; what was not measured is not judged."""
    found = []
    for offloads in (True, False):
        for kind in bulk.kinds(offloads=offloads):
            for section, least, most in (
                (bulk.THROUGHPUT, _THROUGHPUT, float("inf")),
                (bulk.CPU, 0.0, _CPU),
            ):
                figure = kind.figure(section)
                ratio = results.ratio(figure, KERNEL.name, PLAIN.name)
                if ratio is None:
                    continue
                limit = f"≥ {least}" if least else f"≤ {most}"
                target = f"{section.lower()}, {figure.title}: {limit} of plain forwarding"
                found.append(Verdict(target, f"{ratio:.2f}", least <= ratio <= most))
    memory = results.median(growth.process_memory(_FLOWS), KERNEL.name)
    if memory is not None:
        target = f"memory of the process for {_FLOWS:,} flows: ≤ {_FLOW_KB:g} kB a flow"
        for_one = memory * 1000 / _FLOWS
        found.append(Verdict(target, f"{for_one:.2f} kB", for_one <= _FLOW_KB))
    return found
