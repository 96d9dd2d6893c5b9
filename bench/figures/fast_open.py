"""First byte back, by strategy and by what the server host allows.

200 bytes of request, 1,000 of answer, from connect() to the first byte of the
answer. Each server is met three times: the first contact and the later ones are
told apart. All ways are measured in the same seconds, in rounds that change
their order, so each contact has its counterpart a few milliseconds away.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.addresses import address_of, fast_open, prepare, service
from bench.lab import AUTO, DIRECT, FASTOPEN, HOLD, Lab, Listener
from bench.rows import Row, median, percentile

ACCEPTS = ("0x402", "0x602")
ROUND_TRIPS_MS = (50.0, 100.0, 200.0)
_PLANS = tuple(
    (rtt, (*ACCEPTS, "0x0", "0x1", "0x2") if rtt == 100 else (*ACCEPTS, "0x0"))
    for rtt in ROUND_TRIPS_MS
)
_WAYS = (DIRECT, HOLD, FASTOPEN, AUTO)
_SERVERS, _QUICK = 20, 4
_CONTACTS = 3
_STAGGER_S = 0.008
_PAUSE_S = 0.045
_LOG_S = 0.3  # what the service writes comes a little later than the packets

_WEB = 80
# A server that speaks first, where it is known to (ssh's port), where nobody knows, and where
# auto would do Fast Open.
_SPEAKING = (22, 2222, 443)

_LATE_MS = 5.0
_RATIO, _RATIO_AT_MS = 0.53, 100.0
_WORSE_MS = 2.0
_HOW = (
    "connect() to the first byte, 200 B request and 1,000 B answer; the ways by turns on one "
    "service"
)


@dataclass(frozen=True, slots=True)
class _Against:
    """Milliseconds by which each contact was later than its counterpart."""

    differences: Sequence[float]

    @property
    def median(self) -> float:
        return median(self.differences)

    @property
    def worse(self) -> int:
        return sum(each > _WORSE_MS for each in self.differences)

    @property
    def better(self) -> int:
        return sum(each < -_WORSE_MS for each in self.differences)

    @property
    def is_no_worse(self) -> bool:
        """Whether the differences beyond what is allowed are the machine's noise.

        Noise strikes both sides alike: a sign test, of the counts beyond the allowance to both
        sides, at three standard deviations.
        """
        beyond = self.worse + self.better
        return self.median <= _WORSE_MS and self.worse - self.better <= 3 * beyond**0.5

    def values(self, name: str) -> dict[str, float]:
        return {
            f"{name}_median_ms": self.median,
            f"{name}_beyond": self.worse,
            f"{name}_before": self.better,
        }

    def __str__(self) -> str:
        return f"{self.median:+.1f} ms, {self.worse} more and {self.better} less than 2 ms"


@dataclass(frozen=True, slots=True)
class _Times:
    """Milliseconds to the first byte by way; those at the same place belong together."""

    of: Mapping[str, Sequence[float]]

    def median(self, way: str) -> float:
        return median(self.of[way])

    def p95(self, way: str) -> float:
        return percentile(self.of[way], 95)

    def against(self, way: str, other: str) -> _Against:
        """Compare ``way`` with ``other``, each contact with its counterpart."""
        pairs = zip(self.of[way], self.of[other], strict=True)
        return _Against([here - there for here, there in pairs])

    def __len__(self) -> int:
        return len(self.of[DIRECT])


def measure(quick: bool) -> list[Row]:
    """Time the first byte back for each round trip time and each setting of the server."""
    servers = _QUICK if quick else _SERVERS
    rows: list[Row] = []
    for rtt, settings in _PLANS:
        with Lab(rtt_ms=rtt) as lab:
            prepare(lab)
            for setting in settings:
                rows += _measure(lab, rtt, setting, servers)
    return rows


def _measure(lab: Lab, rtt: float, setting: str, servers: int) -> list[Row]:
    """Measure one setting, with a server program and a service that begin anew."""
    fast_open(lab, setting)
    plans = [str(_WEB), *(f"{port}=hello" for port in _SPEAKING)]
    program = lab.server_program("answer_server", plans)
    listener = service(lab, f"service-{setting}")
    rows: list[Row] = []
    name = f"first byte back at RTT {rtt:g} ms, server {setting}"
    first, later, failures = _contacts(lab, rtt, _WEB, servers)
    time.sleep(_LOG_S)
    carried = _carried(listener)
    if failures:
        return [_failed(name, failures)]
    for contact, times in (("first contact", first), ("later", later)):
        accepts = setting in ACCEPTS
        judge = _row_where_accepted if accepts and contact == "later" else _row_elsewhere
        rows.append(judge(f"{name}, {contact}", rtt, times, carried))
    if setting == ACCEPTS[0] and rtt == _RATIO_AT_MS:
        for port in _SPEAKING:
            name = f"first byte of a server that speaks first, port {port}, RTT {rtt:g} ms"
            first, later, failures = _contacts(lab, rtt, port, servers // 2)
            if failures:
                rows.append(_failed(name, failures))
                continue
            rows.append(_row_spoken(f"{name}, first contact", first))
            rows.append(_row_spoken(f"{name}, later", later))
    lost = listener.counters().lost
    if lost:
        rows.append(Row(f"{name}: packets dropped by the queue", str(lost), "0", False))
    listener.stop()
    program.terminate()
    program.wait()
    return rows


def _contacts(
    lab: Lab, rtt: float, port: int, servers: int
) -> tuple[_Times, _Times, Sequence[str]]:
    slot = 2 * rtt / 1000 + _PAUSE_S
    plan: dict[str, list[tuple[float, str, int, bool]]] = {way: [] for way in _WAYS}
    rounds = [(server, contact) for server in range(servers) for contact in range(_CONTACTS)]
    for number, (server, _) in enumerate(rounds):
        for place, way in enumerate(_WAYS):
            offset = number * slot + (place + number) % len(_WAYS) * _STAGGER_S
            plan[way].append((offset, address_of(way, server), port, port not in _SPEAKING))
    result = lab.client("first_byte_client", plan, timeout_s=len(rounds) * slot + 30)
    took: dict[str, list[float]] = result["took_ms"]
    first = {way: times[::_CONTACTS] for way, times in took.items()}
    later = {
        way: [ms for number, ms in enumerate(times) if number % _CONTACTS]
        for way, times in took.items()
    }
    return _Times(first), _Times(later), result["failures"]


def _carried(listener: Listener) -> str:
    """Tell how many SYNs carried the request, and what became of it, from the service's log."""
    ways: dict[int, str] = {}
    counts: Counter[str] = Counter()
    for event in listener.events():
        if event["event"] == "flow.synack_captured" and event["fast_open"] != "none":
            ways[event["flow_id"]] = event["fast_open"]
        if event["event"] == "flow.established" and event["flow_id"] in ways:
            counts[f"{event['strategy']} {ways.pop(event['flow_id'])}"] += 1
    said = ", ".join(f"{what} {count}" for what, count in sorted(counts.items()))
    return f"requests in SYNs: {said or 'none'}"


def _row_where_accepted(figure: str, rtt: float, times: _Times, carried: str) -> Row:
    """Judge the contacts that Fast Open is for."""
    met = True
    for way in (FASTOPEN, AUTO):
        met = met and times.median(way) <= rtt + _LATE_MS
        if rtt == _RATIO_AT_MS:
            met = met and times.median(way) <= _RATIO * times.median(DIRECT)
    target = f"{FASTOPEN} and {AUTO}: median ≤ {rtt + _LATE_MS:g} ms"
    if rtt == _RATIO_AT_MS:
        target += f", ≤ {_RATIO} × direct"
    return Row(figure, _said(times), target, met, f"{_HOW}; {carried}", _values(times))


def _row_elsewhere(figure: str, rtt: float, times: _Times, carried: str) -> Row:
    """Judge the contacts where nothing can be gained: nothing may be lost."""
    return _row_no_worse(figure, times, (FASTOPEN, AUTO), HOLD, f"{_HOW}; {carried}")


def _row_spoken(figure: str, times: _Times) -> Row:
    how = "the client says nothing; connect() to the greeting's first byte"
    return _row_no_worse(figure, times, (AUTO,), DIRECT, how)


def _row_no_worse(figure: str, times: _Times, ways: Sequence[str], other: str, how: str) -> Row:
    compared = {way: times.against(way, other) for way in ways}
    values = _values(times)
    for way, against in compared.items():
        values |= against.values(f"{way}_against_{other}")
    said = "; ".join(f"{way} against {other} {against}" for way, against in compared.items())
    return Row(
        figure,
        f"{_said(times)}; {said}",
        f"{' and '.join(ways)} ≤ {other} + {_WORSE_MS:g} ms",
        all(against.is_no_worse for against in compared.values()),
        f"{how}; each contact against its counterpart, beyond noise",
        values,
    )


def _said(times: _Times) -> str:
    direct = times.median(DIRECT)
    parts = []
    for way in times.of:
        ratio = "" if way == DIRECT else f", {times.median(way) / direct:.2f} × direct"
        parts.append(f"{way} {times.median(way):.1f} (p95 {times.p95(way):.1f}{ratio})")
    return "; ".join(parts) + f" ms; n={len(times)} each"


def _values(times: _Times) -> dict[str, float]:
    values: dict[str, float] = {"contacts": len(times)}
    for way in times.of:
        values |= {
            f"{way}_median_ms": times.median(way),
            f"{way}_p95_ms": times.p95(way),
            f"{way}_max_ms": max(times.of[way]),
            f"{way}_ratio": times.median(way) / times.median(DIRECT),
        }
    return values


def _failed(name: str, failures: Sequence[str]) -> Row:
    said = f"{len(failures)} contacts failed: {'; '.join(failures[:3])}"
    return Row(name, said, "no failure", False)
