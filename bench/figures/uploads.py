"""Uploads after a held first flight: as fast as direct, and nothing crosses the WAN twice.

The client takes the spoofed SYN-ACK's round trip for the path's. So while its first flight is
held, its timers fire, and what it sends again must neither cross the WAN nor cost it its window.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.capture import Capture, Order, order_of
from bench.lab import DIRECT, HOLD, PORTS, SERVER, Conversation, Lab
from bench.rows import Row, median
from nfq_zerortt.errors import ZeroRttError

_FIRST = 4_000  # three segments
_WITHIN = 0.15
_CONTROLS = ("cubic", "reno", "bbr")
_JUDGED = ("cubic", "reno")
_WAYS = (DIRECT, HOLD)
_TIMEOUT_S = 70.0
_SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of upload: ``pause`` is the time between 4 kB and the rest, in round trips."""

    name: str
    up: int
    pause: float = 0.0
    controls: tuple[str, ...] = _CONTROLS


_KINDS = (
    _Kind("13 kB up", 13_000),
    _Kind("200 kB up", 200_000),
    _Kind("2 MB up", 2_000_000),
    _Kind("200 kB up, 4 kB first alone", 200_000, 0.5, _JUDGED),
    _Kind("2 MB up, 4 kB first alone", 2_000_000, 0.5, _JUDGED),
)
_LONG = _Kind("8 MB up", 8_000_000, controls=("bbr",))
_CONTACT = _Kind("200 kB up, first contact with the server", 200_000, controls=("cubic",))

# Round trip in ms: how often each kind is measured, and the long one.
_ROUNDS = {50.0: (7, 0), 100.0: (5, 2), 200.0: (3, 0), 400.0: (3, 0)}
_QUICK = {50.0: (1, 0)}


@dataclass(slots=True)
class _Series:
    """The uploads of one kind with one congestion control at one round trip, by way."""

    took_s: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in _WAYS})
    sent_again: dict[str, list[int]] = field(default_factory=lambda: {way: [] for way in _WAYS})
    min_rtt_ms: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The median through hold, in medians of direct."""
        return median(self.took_s[HOLD]) / median(self.took_s[DIRECT])


_Found = dict[tuple[_Kind, str], dict[float, _Series]]


def measure(quick: bool) -> list[Row]:
    """Time the uploads, direct and hold by turns, at each round trip."""
    found: _Found = {}
    orders = {way: Order() for way in _WAYS}
    lost = missed = 0
    for rtt_ms, (rounds, long_rounds) in (_QUICK if quick else _ROUNDS).items():
        with Lab(rtt_ms=rtt_ms) as lab:
            lab.server("transfer", _WAYS)
            service = lab.service(HOLD)
            client = lab.interactive_client("upload_client")
            # First of all, for the service must know nothing of the server.
            _measure(client, _CONTACT, rtt_ms, 1, found)
            wan = {
                way: Capture(lab, "servernic", "eth1", f"tcp dst port {PORTS[way]}")
                for way in _WAYS
            }
            for kind in _KINDS:
                _measure(client, kind, rtt_ms, rounds, found)
            _measure(client, _LONG, rtt_ms, long_rounds, found)
            time.sleep(_SETTLE_S)
            for way, capture in wan.items():
                missed += capture.stop()
                order = order_of(capture.segments())
                orders[way].segments += order.segments
                orders[way].again += order.again
            lost += service.counters().lost
    rows = [_row(kind, control, series) for (kind, control), series in found.items()]
    return [*rows, _sent_again(found), _across(orders, missed), _dropped(lost)]


def _measure(client: Conversation, kind: _Kind, rtt_ms: float, rounds: int, found: _Found) -> None:
    for _ in range(rounds):
        for way in _WAYS:
            plan = {
                "host": SERVER,
                "port": PORTS[way],
                "up": kind.up,
                "first": _FIRST,
                "pause_s": kind.pause * rtt_ms / 1000,
                "congestion": kind.controls,
            }
            for control, result in client.ask(plan, _TIMEOUT_S).items():
                if result["error"]:
                    raise ZeroRttError(f"{kind.name}, {control}, {way}: {result['error']}")
                series = found.setdefault((kind, control), {}).setdefault(rtt_ms, _Series())
                series.took_s[way].append(result["took_s"])
                series.sent_again[way].append(result["sent_again"])
                if way == HOLD:
                    series.min_rtt_ms.append(result["min_rtt_ms"])


def _row(kind: _Kind, control: str, by_rtt: dict[float, _Series]) -> Row:
    judged = control in _JUDGED and kind is not _CONTACT
    said = []
    values: dict[str, float] = {}
    for rtt_ms, series in by_rtt.items():
        direct, hold = (series.took_s[way] for way in _WAYS)
        said.append(
            f"RTT {rtt_ms:g}: {median(hold):.3f} against {median(direct):.3f} s "
            f"({series.ratio - 1:+.1%}, slowest {max(hold):.3f})"
        )
        values |= {
            f"rtt{rtt_ms:g}_direct_s": median(direct),
            f"rtt{rtt_ms:g}_hold_s": median(hold),
            f"rtt{rtt_ms:g}_hold_slowest_s": max(hold),
            f"rtt{rtt_ms:g}_ratio": series.ratio,
            f"rtt{rtt_ms:g}_min_rtt_ms": median(series.min_rtt_ms),
        }
    rounds = {rtt_ms: len(series.took_s[HOLD]) for rtt_ms, series in by_rtt.items()}
    how = f"hold against direct, by turns; medians of {_listed(rounds.values())}"
    if kind.pause:
        how += f"; the rest is written {kind.pause:g} RTT after the first 4 kB"
    if control == "bbr":
        believed = _listed(round(median(s.min_rtt_ms), 1) for s in by_rtt.values())
        how += f"; BBR takes the path's RTT for {believed} ms"
    return Row(
        f"{kind.name}, {control}",
        "; ".join(said),
        f"within {_WITHIN:.0%}" if judged else "",
        all(series.ratio <= 1 + _WITHIN for series in by_rtt.values()) if judged else None,
        how,
        values,
    )


def _sent_again(found: _Found) -> Row:
    """How much the client's kernel repeated: the price of the short round trip that it sees."""
    by_rtt: dict[float, dict[str, list[int]]] = {}
    for every in found.values():
        for rtt_ms, series in every.items():
            counts = by_rtt.setdefault(rtt_ms, {way: [] for way in _WAYS})
            for way in _WAYS:
                counts[way] += series.sent_again[way]
    return Row(
        "uploads: segments that the client's kernel sent again",
        "; ".join(
            f"RTT {rtt_ms:g}: hold {sum(counts[HOLD])}, direct {sum(counts[DIRECT])} "
            f"in {len(counts[HOLD])} uploads each"
            for rtt_ms, counts in by_rtt.items()
        ),
        how="TCP_INFO, tcpi_total_retrans",
        values={
            f"rtt{rtt_ms:g}_{way}": float(sum(counts[way]))
            for rtt_ms, counts in by_rtt.items()
            for way in _WAYS
        },
    )


def _across(orders: dict[str, Order], missed: int) -> Row:
    hold, direct = orders[HOLD], orders[DIRECT]
    return Row(
        "uploads: segments sent again across the WAN",
        f"hold {hold.again} of {hold.segments}, direct {direct.again} of {direct.segments}",
        "hold ≤ direct",
        hold.again <= direct.again,
        "tcpdump at ServerNIC, from the client: all sequence numbers seen before; without the "
        "first contacts, whose SYN is repeated after 250 ms"
        + (f"; {missed} packets not captured" if missed else ""),
        {"hold_segments": hold.again, "direct_segments": direct.again},
    )


def _dropped(lost: int) -> Row:
    return Row("uploads: packets dropped by the queue", str(lost), "0", lost == 0)


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
