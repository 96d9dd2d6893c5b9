"""2,000 connections of every size, 50 at a time: all complete, all unharmed, none repeated.

The connections go in blocks, by turns through ``hold`` and through ``observe``,
so that the counters of the hosts, which know no ports, can be read in between.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.capture import Capture, Order, order_of
from bench.counters import HostCounters
from bench.lab import HOLD, OBSERVE, PORTS, SERVER, Conversation, Lab, Listener
from bench.rows import Row, log_uniform

RTT_MS = 50.0
AT_A_TIME = 50
_CONNECTIONS, _QUICK = 2000, 100
_BLOCKS, _QUICK_BLOCKS = 4, 1
_SMALLEST, _LARGEST = 1, 1_000_000
_SETTLE_S = 0.5  # until the last FIN is acknowledged; a repeated one would be seen as well
_BLOCK_TIMEOUT_S = 240.0

_NONE = HostCounters({})


@dataclass(slots=True)
class _Tally:
    """What one way has come to."""

    connections: int = 0
    complete: int = 0
    took_s: float = 0.0
    wan: Order = field(default_factory=Order)
    not_captured: int = 0
    failures: list[str] = field(default_factory=list)
    hosts: dict[str, HostCounters] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    suppressed: int = 0

    def at(self, host: str, name: str) -> int:
        """Return one counter of one host."""
        return self.hosts[host][name]


def measure(quick: bool) -> list[Row]:
    """Run the same connections through hold and through observe."""
    draw = random.Random(2)
    number = _QUICK if quick else _CONNECTIONS
    sizes = [
        (log_uniform(draw, _SMALLEST, _LARGEST), log_uniform(draw, _SMALLEST, _LARGEST))
        for _ in range(number)
    ]
    blocks = _QUICK_BLOCKS if quick else _BLOCKS
    size = number // blocks
    tallies = {HOLD: _Tally(), OBSERVE: _Tally()}
    with Lab(rtt_ms=RTT_MS) as lab:
        lab.server("transfer", [HOLD, OBSERVE])
        listeners = {way: lab.service(way) for way in tallies}
        client = lab.interactive_client("transfer_client")
        for block in range(blocks):
            work = sizes[block * size : (block + 1) * size]
            for way in (HOLD, OBSERVE) if block % 2 == 0 else (OBSERVE, HOLD):
                _run(lab, client, listeners[way], work, tallies[way])
        lost = {way: listener.counters().lost for way, listener in listeners.items()}
    megabytes = sum(up + down for up, down in sizes) / 1e6
    return _rows(tallies, lost, megabytes)


def _run(
    lab: Lab,
    client: Conversation,
    listener: Listener,
    sizes: Sequence[tuple[int, int]],
    tally: _Tally,
) -> None:
    before = lab.counters()
    listener.events()
    port = PORTS[listener.way]
    wan = Capture(lab, "servernic", "eth1", f"tcp port {port}")
    result = client.ask(
        {"host": SERVER, "port": port, "at_a_time": AT_A_TIME, "sizes": sizes}, _BLOCK_TIMEOUT_S
    )
    time.sleep(_SETTLE_S)
    tally.not_captured += wan.stop()
    order = order_of(wan.segments())
    tally.wan.segments += order.segments
    tally.wan.again += order.again
    tally.wan.overtaken += order.overtaken
    tally.connections += len(sizes)
    tally.complete += result["complete"]
    tally.took_s += result["took_s"]
    tally.failures += result["failures"]
    for host, counters in lab.counters().items():
        tally.hosts[host] = counters.since(before[host]) + tally.hosts.get(host, _NONE)
    for event in listener.events():
        tally.events[event["event"]] += 1
        tally.suppressed += event.get("retransmissions_suppressed", 0)


def _rows(tallies: dict[str, _Tally], lost: dict[str, int], megabytes: float) -> list[Row]:
    rows: list[Row] = []
    for way, tally in tallies.items():
        rows += _rows_of(way, tally, lost[way], megabytes)
    hold, observe = tallies[HOLD], tallies[OBSERVE]
    missed = hold.not_captured + observe.not_captured
    rows.append(
        Row(
            "transfers: segments sent again across the WAN",
            f"hold {hold.wan.again} of {hold.wan.segments}, observe {observe.wan.again} "
            f"of {observe.wan.segments}",
            "hold ≤ observe",
            hold.wan.again <= observe.wan.again,
            "tcpdump at ServerNIC, both directions: all sequence numbers seen before; overtaken "
            f"on their way {hold.wan.overtaken} and {observe.wan.overtaken}"
            + (f"; {missed} packets not captured" if missed else ""),
            {
                "hold_segments": hold.wan.again,
                "observe_segments": observe.wan.again,
                "hold_overtaken": hold.wan.overtaken,
                "observe_overtaken": observe.wan.overtaken,
            },
        )
    )
    for host in ("client", "server"):
        values = {
            f"{way}_{name.split('.')[1]}": float(tally.at(host, name))
            for way, tally in tallies.items()
            for name in ("Tcp.RetransSegs", "TcpExt.TCPLossProbes", "TcpExt.TCPTimeouts")
        }
        suppressed = f", of which ClientNIC took {hold.suppressed} off" if host == "client" else ""
        rows.append(
            Row(
                f"transfers: segments that the {host}'s kernel sent again",
                f"hold {values['hold_RetransSegs']:.0f}{suppressed}, "
                f"observe {values['observe_RetransSegs']:.0f}",
                how="TcpRetransSegs; probes "
                f"{values['hold_TCPLossProbes']:.0f} and {values['observe_TCPLossProbes']:.0f}, "
                f"timeouts {values['hold_TCPTimeouts']:.0f} and "
                f"{values['observe_TCPTimeouts']:.0f}",
                values=values | ({"suppressed": hold.suppressed} if host == "client" else {}),
            )
        )
    return rows


def _rows_of(way: str, tally: _Tally, lost: int, megabytes: float) -> list[Row]:
    number = tally.connections
    closed, resets = tally.events["flow.closed"], tally.events["flow.reset"]
    faults = tally.events["service.fault"] + tally.events["flow.bypassed"]
    broken_off = sum(tally.at(host, "Tcp.EstabResets") for host in ("client", "server"))
    rst = sum(tally.at(host, "Tcp.OutRsts") for host in ("client", "server"))
    broken = {host: counters.checksum_errors() for host, counters in tally.hosts.items()}
    unharmed = Row(
        f"transfers, {way}: complete, hashes equal",
        f"{tally.complete} of {number} in {tally.took_s:.1f} s, {megabytes:.0f} MB"
        + "".join(f"; {failure}" for failure in tally.failures[:3]),
        "100 %",
        tally.complete == number,
        f"RTT {RTT_MS:g} ms, {AT_A_TIME} at a time, 1 B to 1 MB each way at once, SHA-256 at "
        "both ends",
        {"complete": tally.complete, "connections": number, "took_s": tally.took_s},
    )
    clean = Row(
        f"transfers, {way}: closed by FIN from both sides",
        f"{closed} of {number}, {resets + broken_off} reset, {faults} faults or bypasses",
        "all, no reset",
        closed == number and not resets and not broken_off and not faults,
        "both programs read to the end; the service's log; TcpEstabResets; RST for an ACK that "
        f"came after the end (TcpOutRsts): {rst}",
        {"closed": closed, "resets": resets + broken_off, "rst_sent": rst, "faults": faults},
    )
    checksums = Row(
        f"transfers, {way}: checksum errors at any host",
        ", ".join(f"{host} {count}" for host, count in broken.items()),
        "0",
        not any(broken.values()),
        "TcpInCsumErrors, TcpInErrs, IpInHdrErrors, IpExtInCsumErrors",
        {host: float(count) for host, count in broken.items()},
    )
    dropped = Row(f"transfers, {way}: packets dropped by the queue", str(lost), "0", lost == 0)
    return [unharmed, clean, checksums, dropped]
