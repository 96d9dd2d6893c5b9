#!/usr/bin/python3
"""The same work direct and through the service on clientnic, side by side.

    zerortt-demo [--ipv6] [--connections N] [--json]

An ordinary client. Behind three ports of the server is the same program: 9000 is none that
clientnic handles, 9001 is played by hold there, 9002 by fastopen. The three take turns, so that
all meet the same machines and the same network. Imports nothing but the standard library.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

WAYS = {"direct": 9000, "hold": 9001, "fastopen": 9002}
_HEAD = struct.Struct("!Q32s32s")
_TIMEOUT_S = 60.0

Pick = Callable[[Iterable[float]], float]


@dataclass
class Times:
    """One connection: milliseconds since connect() was called, and what the two clocks said."""

    connected: float
    first_back: float
    last_back: float
    called_ns: int
    sent_ns: int
    read_ns: int
    """When the server's program read the first byte, by the server's clock."""

    @property
    def round_trip_ms(self) -> float:
        """From the request's sending to the answer's first byte."""
        return self.first_back - (self.sent_ns - self.called_ns) / 1e6

    def clock_difference_ns(self) -> float:
        """How much the server's clock is ahead, if there and back take equally long."""
        return self.read_ns - self.sent_ns - self.round_trip_ms * 1e6 / 2


def exchange(server: tuple[str, int], request_size: int, body_size: int, busy_ms: float) -> Times:
    """Make one connection; OSError when it fails or a byte is not what was sent."""
    request = struct.pack("!II", request_size, body_size) + os.urandom(request_size - 8)
    called_ns, called = time.time_ns(), time.perf_counter()
    with socket.create_connection(server, _TIMEOUT_S) as connection:
        connected = time.perf_counter()
        while (time.perf_counter() - connected) * 1000 < busy_ms:
            pass  # busy, as a program that prepares its request is: it does not sleep
        sent_ns = called_ns + round((time.perf_counter() - called) * 1e9)
        connection.sendall(request)
        answer = bytearray(connection.recv(65536))
        first = time.perf_counter()
        while len(answer) < _HEAD.size + body_size and (more := connection.recv(65536)):
            answer += more
        last = time.perf_counter()
    if len(answer) != _HEAD.size + body_size:
        raise ConnectionError(f"the answer ended after {len(answer)} bytes")
    read_ns, of_request, of_body = _HEAD.unpack_from(answer)
    if hashlib.sha256(request).digest() != of_request:
        raise ConnectionError("the server has read other bytes than were sent")
    if hashlib.sha256(answer[_HEAD.size :]).digest() != of_body:
        raise ConnectionError("other bytes came back than the server has sent")
    connected, first, last = ((moment - called) * 1000 for moment in (connected, first, last))
    return Times(connected, first, last, called_ns, sent_ns, read_ns)


class Comparison:
    """The work, done each way in turn."""

    def __init__(self, address: str, connections: int, say: bool) -> None:
        self._address = address
        self._say = say
        self.failures: list[str] = []
        # First contact: fastopen gets its cookie, and nobody is the first to ask for a neighbour.
        self.first = self._turns(1, 200, 1000, 0)
        self.small = self._turns(connections, 200, 1000, 0)
        self.rtt_ms = self._of(statistics.median, "small", "direct", "connected") or 0.0
        self.busy_ms = round(0.8 * self.rtt_ms)
        self.busy = self._turns(max(connections // 2, 1), 200, 1000, self.busy_ms)
        self.big = self._turns(2, 200, 200_000, 0)

    def _turns(
        self, rounds: int, request: int, body: int, busy_ms: float
    ) -> dict[str, list[Times]]:
        done: dict[str, list[Times]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, port in WAYS.items():
                try:
                    done[way].append(exchange((self._address, port), request, body, busy_ms))
                except OSError as error:
                    self.failures.append(f"{way}: {error}")
                if self._say:
                    print(".", end="", file=sys.stderr, flush=True)
        return done

    def _of(self, pick: Pick, work: str, way: str, what: str) -> float | None:
        times = [getattr(one, what) for one in getattr(self, work)[way]]
        return pick(times) if times else None

    def _at_server(self, pick: Pick, way: str) -> float | None:
        """When the request's first byte was at the server, ms since connect(), by our clock."""
        direct = self.small["direct"]
        if not direct or not self.small[way]:
            return None
        # The quickest exchange was held up least, on either way.
        ahead = min(direct, key=lambda one: one.round_trip_ms).clock_difference_ns()
        return pick((one.read_ns - ahead - one.called_ns) / 1e6 for one in self.small[way])

    def rows(self, pick: Pick) -> dict[str, dict[str, float | None]]:
        """What is compared, and the milliseconds of each way; ``pick`` is of many the one."""

        def row(work: str, what: str) -> dict[str, float | None]:
            return {way: self._of(pick, work, way, what) for way in WAYS}

        return {
            "connect() returns": row("small", "connected"),
            "first byte at the server": {way: self._at_server(pick, way) for way in WAYS},
            "first byte back": row("small", "first_back"),
            f"first byte back, client busy {self.busy_ms} ms first": row("busy", "first_back"),
            "last byte of 200 kB back": row("big", "last_back"),
        }

    @property
    def made(self) -> int:
        """How many connections went well."""
        return sum(
            len(times)
            for work in (self.first, self.small, self.busy, self.big)
            for times in work.values()
        )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def table(comparison: Comparison, address: str) -> str:
    """The result, for people."""
    lines = [
        f"server {address}: milliseconds since connect() was called, medians",
        "",
        f"{'':44}{'direct':>9}{'hold':>9}{'fastopen':>9}{'gain hold':>11}{'gain fastopen':>15}",
    ]
    for title, values in comparison.rows(statistics.median).items():
        direct = values["direct"]
        gains = [
            None if direct is None or value is None else direct - value
            for value in (values["hold"], values["fastopen"])
        ]
        lines.append(
            f"{title:44}"
            + "".join(f"{_ms(values[way]):>9}" for way in WAYS)
            + f"{_ms(gains[0]):>11}{_ms(gains[1]):>15}"
        )
    lines += [
        "",
        "hold: the client is connected and sends one round trip earlier; the answer comes no",
        "  earlier, unless the client had something to do meanwhile.",
        "fastopen: a request that is sent at once travels in the SYN; then the answer, too, comes",
        "  one round trip earlier.",
        "Clocks of client and server were compared by the quickest direct exchange, there and back",
        "  taken to last equally long.",
        f"{comparison.made} connections complete, SHA-256 equal at both ends in both directions.",
    ]
    return "\n".join(lines + [f"FAILED: {failure}" for failure in comparison.failures])


def main() -> int:
    """Compare, print; 1 if a connection failed."""
    parser = argparse.ArgumentParser(description="Direct and through nfq-zerortt, side by side.")
    parser.add_argument("--ipv6", action="store_true", help="by IPv6 instead of IPv4")
    parser.add_argument("--connections", type=int, default=10, metavar="N", help="each way (10)")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    address = Path("/etc/zerortt-demo.conf").read_text(encoding="ascii").split()[options.ipv6]
    comparison = Comparison(address, options.connections, say=sys.stderr.isatty())
    if options.json:
        document = {
            "medians": comparison.rows(statistics.median),
            "quickest": comparison.rows(min),
            "connections": comparison.made,
            "failures": comparison.failures,
        }
        print(json.dumps(document))
    else:
        print(table(comparison, address))
    return 1 if comparison.failures else 0


if __name__ == "__main__":
    sys.exit(main())
