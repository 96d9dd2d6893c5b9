"""Programs as they are, across a WAN of 100 ms: directly, and with each strategy.

Every program runs by turns in every way, again and again, so that what else the
machine does meets all of them. The first run of each is the first contact with
its server.
"""

from __future__ import annotations

import time

from bench.addresses import OPTED_IN, address_of, fast_open, prepare, service
from bench.lab import AUTO, DIRECT, FASTOPEN, HOLD, Conversation, Lab, Listener
from bench.real_programs.packages import missing
from bench.real_programs.servers import NEEDS, clean_environment
from bench.real_programs.tasks import TASKS, Task
from bench.rows import Row, median, percentile
from bench.syns import Syn, syns
from nfq_zerortt.errors import ZeroRttError

RTT_MS = 100.0
_QUICK = 1
_NOISE_MS, _NOISE_SHARE = 10.0, 0.05
"""By so much a program's own time changes from run to run, whichever is more."""
_SHARE = 0.75
"""So much of a round trip must be saved: nothing else takes as long, and the rest is noise."""
_RUN_TIMEOUT_S = 25.0
_LOG_S = 0.5  # what the service writes comes a little later than the packets


class _Runs:
    """The runs of one task: milliseconds by way, the first contact first."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.took: dict[str, list[float]] = {way: [] for way in task.ways}
        self.first_byte: dict[str, list[float]] = {way: [] for way in task.ways}
        self.syns: dict[str, list[Syn]] = {way: [] for way in task.ways}
        self.problem = missing([task.client])

    def later(self, way: str) -> float:
        """Return the median after the first contact."""
        return median(self.took[way][1:])

    def saved(self, way: str) -> list[float]:
        """Return by how much each later run was done earlier than its direct counterpart.

        By the first byte where the program tells it: less of it is the program's own time.
        """
        of = self.first_byte if self.task.first_byte else self.took
        pairs = zip(of[DIRECT][1:], of[way][1:], strict=True)
        return [direct - other for direct, other in pairs]

    def is_met(self, way: str, trips: int) -> bool:
        """Tell whether a way saves its round trips; without any, whether it is not slower.

        Slower: in three of four runs, by more than its own time changes.
        """
        if trips:
            return median(self.saved(way)) >= trips * RTT_MS * _SHARE
        allowed = max(_NOISE_MS, _NOISE_SHARE * self.later(DIRECT))
        return percentile(self.saved(way), 75) >= -allowed


def measure(quick: bool) -> list[Row]:
    """Run all programs in all ways."""
    runs = [_Runs(task) for task in TASKS]
    with Lab(rtt_ms=RTT_MS) as lab:
        prepare(lab)
        fast_open(lab, "0x402")  # before any server listens
        problems = {start: _start(lab, start, needs) for start, needs in NEEDS.items()}
        for each in runs:
            starts = (each.task.server, *each.task.also)
            each.problem = each.problem or next(filter(None, map(problems.get, starts)), "")
        listener = service(lab)
        client = lab.interactive_client("stopwatch")
        for number in range(1 + max(each.task.runs for each in runs)):
            wanted = [each for each in runs if number <= (_QUICK if quick else each.task.runs)]
            _run_all(lab, client, wanted, number)
        time.sleep(_LOG_S)
        _read(listener, runs)
        lost = listener.counters().lost
    rows = [_row(each) for each in runs]
    rows.append(Row("programs: packets dropped by the queue", str(lost), "0", lost == 0))
    return rows


def _run_all(lab: Lab, client: Conversation, runs: list[_Runs], number: int) -> None:
    setting = ""
    for each in runs:
        if each.problem:
            continue
        if each.task.setting != setting:
            setting = each.task.setting
            fast_open(lab, setting)
        ways = list(each.task.ways)
        turn = number % len(ways)
        for way in ways[turn:] + ways[:turn]:
            _run(lab, client, each, way, address_of(way, TASKS.index(each.task)))


def _run(lab: Lab, client: Conversation, runs: _Runs, way: str, address: str) -> None:
    argv = runs.task.argv(lab.directory, address)
    result = client.ask({"argv": argv, "env": clean_environment(lab)}, _RUN_TIMEOUT_S)
    if result["status"]:
        said = result["error"].strip().splitlines() or [f"exit status {result['status']}"]
        runs.problem = f"{way}: {runs.task.client} failed: {said[-1]}"
        return
    runs.took[way].append(result["took_ms"])
    if runs.task.first_byte:
        runs.first_byte[way].append(float(result["output"]) * 1000)


def _read(listener: Listener, runs: list[_Runs]) -> None:
    """Take from the service's log what became of each connection's SYN."""
    of = {
        address_of(way, TASKS.index(each.task)): each.syns[way]
        for each in runs
        for way in each.task.ways
    }
    for address, syn in syns(listener.events()):
        of[address].append(syn)


def _start(lab: Lab, start: object, needs: tuple[str, ...]) -> str:
    """Start a server; return why it does not run, nothing if it does."""
    absent = missing(needs)
    if absent or not callable(start):
        return absent
    try:
        start(lab)
    except ZeroRttError as error:
        return str(error)
    return ""


def _target(way: str, trips: int) -> str:
    if trips:
        return f"{way} saves {trips} round trip (≥ {trips * RTT_MS * _SHARE:g} ms)"
    return f"{way} no slower"


def _row(runs: _Runs) -> Row:
    task = runs.task
    if runs.problem:
        return Row(task.name, f"NOT MEASURED: {runs.problem}", "measured", False)
    met = all(runs.is_met(way, trips) for way, trips in task.saves.items())
    parts: list[str] = []
    carried: list[str] = []
    values: dict[str, float] = {"runs": len(runs.took[DIRECT]) - 1}
    for way in task.ways:
        said = f"{way} {runs.later(way):.0f}"
        values |= {f"{way}_ms": runs.later(way), f"{way}_first_contact_ms": runs.took[way][0]}
        values[f"{way}_saved_ms"] = median(runs.saved(way))
        if task.first_byte:
            first_byte = median(runs.first_byte[way][1:])
            values[f"{way}_first_byte_ms"] = first_byte
            said += f" (first byte {first_byte:.0f})"
        parts.append(said)
    for way in (way for way in task.ways if way not in (DIRECT, HOLD)):
        seen = runs.syns[way]
        values |= {f"{way}_accepted": sum(syn.accepted for syn in seen)}
        values |= {f"{way}_connections": len(seen)}
        said = f"{way} {values[f'{way}_accepted']:.0f} of {len(seen)}"
        if spoken := [syn.gap_ms for syn in seen if syn.gap_ms is not None]:
            values |= {f"{way}_gap_ms": median(spoken)}
            said += f", data {median(spoken):.1f} ms after connect()"
        carried.append(said)
    learns = next((way for way in (AUTO, OPTED_IN, FASTOPEN) if way in task.ways), DIRECT)
    parts.append(f"{learns}'s first contact {runs.took[learns][0]:.0f}")
    return Row(
        task.name,
        "; ".join(parts) + " ms",
        ", ".join(_target(way, trips) for way, trips in task.saves.items()),
        met,
        f"{task.shown}; RTT {RTT_MS:g} ms, start to end of the process, median of "
        f"{values['runs']:.0f} runs after the first contact; SYNs whose data was accepted, all "
        f"runs: {'; '.join(carried)}" + (f"; {task.note}" if task.note else ""),
        values,
    )
