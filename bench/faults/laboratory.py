"""The four hosts for the fault tests: the service, the server, the client, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.faults.rows import RTT_MS, Job, Row, Special
from bench.faults.work import OK, SILENT
from bench.lab import HOLD, PORTS, Conversation, Lab
from bench.rows import percentile
from nfq_zerortt.errors import ZeroRttError

DIRECT, THROUGH = "direct", "through us"
FIRST_PORT = {DIRECT: 7000, THROUGH: 8000}
"""Of the server; those of the first way meet no rule of the service."""
_PORTS_OF_A_WAY = 100

FAMILIES = {4: "10.0.3.2", 6: "fd6e:6671:7a01:3::2"}
"""The server's address."""
_NOWHERE = {4: "10.0.4.2", 6: "fd6e:6671:7a01:4::2"}
_NOWHERE_NETWORK = {4: "10.0.4.0/24", 6: "fd6e:6671:7a01:4::/64"}
_IPTABLES = {4: "iptables", 6: "ip6tables"}
_REJECTION = {4: "icmp-host-unreachable", 6: "icmp6-addr-unreachable"}

AT_A_TIME = 16
"""Connections of each way."""
TIMEOUT_S = 90.0
"""Longer than anything here takes: who waits so long without a word hangs."""
SYN_RETRIES = 2
"""Of the client's kernel, where the server is silent; the default is 6."""
SERVICE_SYN_RETRIES = 6
"""Of the service there; the default is 8."""
_SETTLE_S = 10.0
_REPORTED_S = 0.3
"""The fault injector writes its figures down every 0.2 s."""
_CLIENT_PORTS = {4: 10_000, 6: 21_000}
_PORTS_OF_A_ROW = 600
_ROWS_APART = 18


@dataclass(slots=True)
class Tally:
    """What a way's connections have come to; where the client dies, as the server saw it."""

    results: list[tuple[str, float]]
    took_s: float
    served: int = 0
    """Connections that the server found complete and unharmed."""

    @property
    def outcomes(self) -> Counter[str]:
        """How often each outcome was seen."""
        return Counter(outcome for outcome, _ in self.results)

    @property
    def complete(self) -> int:
        """Connections that the client found complete and unharmed."""
        return self.outcomes[OK]

    def seconds(self, percent: float) -> float:
        """Return a percentile of the connections' durations."""
        return percentile([took for _, took in self.results], percent)


@dataclass(slots=True)
class Comparison:
    """A row's result over one family."""

    row: Row
    family: int
    ways: dict[str, Tally]
    events: Counter[str] = field(default_factory=Counter)
    """What the service has logged, by the event's name; of many in a second only some."""
    bypassed: set[str] = field(default_factory=set)
    """The reasons for which the service left connections alone."""
    faults: dict[str, int] = field(default_factory=dict)
    """What was done to packets."""
    wrong: list[str] = field(default_factory=list)
    """What the service says of its own faults."""


class FaultLab(Lab):
    """The testbed with the service on ``8000-8099`` and servers on both ways' ports."""

    def __init__(
        self,
        *,
        connections: int,
        at_a_time: int = AT_A_TIME,
        timeout_s: float = TIMEOUT_S,
        ways: Sequence[str] = (DIRECT, THROUGH),
    ) -> None:
        """Describe the work.

        ``connections``: of each way in each row (some rows have more), 300 at most.
        ``timeout_s``: so long a connection may be without any data before it has failed.
        """
        super().__init__(rtt_ms=RTT_MS)
        self._connections = connections
        self._at_a_time = at_a_time
        self._timeout_s = timeout_s
        self._first_port = {way: FIRST_PORT[way] for way in ways}
        self._row = 0
        self._server_log_read = 0

    def begin(self) -> None:
        """Start everything."""
        self._config = self.directory / "service.toml"
        self._configure("")
        first = FIRST_PORT[THROUGH]
        ports = f"{first}-{first + _PORTS_OF_A_WAY - 1}"
        self._running = self._service(HOLD, PORTS[HOLD], self._config, "--ports", ports)
        (self._ready,) = (e for e in self._running.events() if e["event"] == "service.ready")
        self._start_server()
        client = self.background(
            "client", _python("client"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._client = Conversation("bench.faults.client", client)
        self._make_nowhere()
        drop = ("INPUT", "-p", "tcp", "-m", "multiport", "--dports")
        silent = ",".join(str(first + SILENT) for first in FIRST_PORT.values())
        for program in _IPTABLES.values():
            self._do("server", program, "-w", "-A", *drop, silent, "-j", "DROP")

    def settings(self) -> str:
        """Say what the connections run with."""
        status = self.testbed.status()
        ready = self._ready
        return (
            f"congestion control {status.congestion_control}, strategy {ready['strategy']}, "
            f"data path {ready['data_path']}"
        )

    def run(self, row: Row, family: int) -> Comparison:
        """Let both ways' connections meet the row's fault at the same time."""
        self._row += 1
        self.testbed.set_wan_to(row.settings(seed=self._row))
        self._running.events()
        with ExitStack() as stack:
            if row.special is Special.SILENT_SERVER:
                stack.callback(self._let_give_up_soon())
            comparison = self._compare(row, family)
        for event in self._running.events():
            comparison.events[event["event"]] += 1
            if event["event"] == "flow.bypassed":
                comparison.bypassed.add(event["reason"])
            if event["event"] in ("service.fault", "service.not_sent"):
                comparison.wrong.append(json.dumps(event))
        return comparison

    # --- one row --------------------------------------------------------------------------

    def _compare(self, row: Row, family: int) -> Comparison:
        jobs = row.jobs(self._connections * row.times)
        client_port = _CLIENT_PORTS[family] + self._row % _ROWS_APART * _PORTS_OF_A_ROW
        ways = {
            way: [
                (first + ahead, client_port + number, kind, size)
                for number, (ahead, kind, size) in enumerate(jobs)
            ]
            for way, first in self._first_port.items()
        }
        unreachable = row.special is Special.UNREACHABLE_HOST
        plan = {
            "host": (_NOWHERE if unreachable else FAMILIES)[family],
            "ways": ways,
            "workers": min(row.at_a_time or self._at_a_time, len(jobs)),
            "timeout_s": self._timeout_s,
            "dies": row.special is Special.CLIENT_DIES,
        }
        outage = threading.Timer(row.outage_begins_s, self._outage, [row.outage_s])
        if row.outage_s:
            outage.start()
        try:
            answer = self._client.ask(plan, 4 * self._timeout_s)
        finally:
            outage.cancel()
            if row.outage_s:
                outage.join()
        return self._comparison(row, family, jobs, answer)

    def _comparison(
        self, row: Row, family: int, jobs: Sequence[Job], answer: dict[str, Any]
    ) -> Comparison:
        reaches_server = row.should_complete or row.special is Special.CLIENT_DIES
        served = self._served(len(jobs) * len(self._first_port) if reaches_server else 0)
        tallies = {}
        for way, first in self._first_port.items():
            of_server = [
                (str(line["outcome"]), float(line["took_s"]))
                for line in served
                if 0 <= line["port"] - first < _PORTS_OF_A_WAY
            ]
            dies = row.special is Special.CLIENT_DIES
            results = of_server if dies else [(said, s) for said, s in answer[way]["results"]]
            tallies[way] = Tally(
                results, answer[way]["took_s"], sum(said == OK for said, _ in of_server)
            )
        if row.settings(0).has_faults:
            time.sleep(_REPORTED_S)
        injector = self.testbed.status().injector
        done = {} if injector is None else _counts(injector)
        return Comparison(row, family, tallies, faults=done)

    def _served(self, expected: int) -> list[dict[str, Any]]:
        """Return what the server says of this row's connections, once it has said it of all."""
        deadline = time.monotonic() + _SETTLE_S
        path = self.directory / "server.log"
        while True:
            lines = path.read_bytes()[self._server_log_read :]
            complete = lines[: lines.rfind(b"\n") + 1]
            if complete.count(b"\n") >= expected or time.monotonic() > deadline:
                self._server_log_read += len(complete)
                return [json.loads(line) for line in complete.splitlines()]
            time.sleep(0.05)

    def _outage(self, seconds: float) -> None:
        with self.testbed.link_down():
            time.sleep(seconds)

    # --- the hosts ------------------------------------------------------------------------

    def _start_server(self) -> None:
        path = self.directory / "server.log"
        with path.open("wb") as log:
            argv = _python("server", *map(str, FIRST_PORT.values()))
            process = self.background("server", argv, stdout=log)
        deadline = time.monotonic() + 10
        while not path.read_bytes().startswith(b"ready\n"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ZeroRttError("the server of the fault tests did not start")
            time.sleep(0.02)
        self._server_log_read = len(b"ready\n")

    def _make_nowhere(self) -> None:
        """Lead the way to networks that servernic calls unreachable, behind the WAN."""
        for family, network in _NOWHERE_NETWORK.items():
            for host in ("client", "clientnic", "servernic"):
                gateways = [route.via for route in self.testbed.topology.host(host).routes]
                gateway = next(via for via in gateways if (":" in via) == (family == 6))
                if host == "servernic":
                    gateway = FAMILIES[family]
                self._do(host, "ip", "route", "add", network, "via", gateway)
            reject = ("-j", "REJECT", "--reject-with", _REJECTION[family])
            self._do("servernic", _IPTABLES[family], "-w", "-A", "FORWARD", "-d", network, *reject)
        # Every SYN is answered: a limit would hit one way or the other. (-e: the last one is not
        # each namespace's own in older kernels.)
        unlimited = ("ipv4.icmp_ratemask=0", "ipv6.icmp.ratelimit=0", "ipv4.icmp_msgs_burst=10000")
        self._do("servernic", "sysctl", "-e", "-q", "-w", *(f"net.{word}" for word in unlimited))

    def _let_give_up_soon(self) -> Any:
        """Let both sides give a silent server up soon; return what undoes it."""
        name = "net.ipv4.tcp_syn_retries"
        before = self._do("client", "sysctl", "-n", name).strip()
        self._do("client", "sysctl", "-q", "-w", f"{name}={SYN_RETRIES}")
        self._reload(f"[limits]\nsyn_retries = {SERVICE_SYN_RETRIES}\n")

        def undo() -> None:
            self._do("client", "sysctl", "-q", "-w", f"{name}={before}")
            self._reload("")

        return undo

    def _configure(self, text: str) -> None:
        self._config.write_text(text, encoding="utf-8")

    def _reload(self, text: str) -> None:
        self._configure(text)
        self._running.events()
        os.kill(self._running.pid, signal.SIGHUP)
        deadline = time.monotonic() + 5
        while "service.reloaded" not in {e["event"] for e in self._running.events()}:
            if time.monotonic() > deadline:
                raise ZeroRttError("the service did not read its configuration again")
            time.sleep(0.02)

    def _do(self, host: str, *argv: str) -> str:
        done = self.testbed.exec(host, argv, timeout_s=10)
        if done.returncode:
            raise ZeroRttError(f"{host}: {' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout


def _counts(injector: Any) -> dict[str, int]:
    return {
        "packets": injector.packets,
        "lost": injector.lost,
        "reordered": injector.reordered,
        "duplicated": injector.duplicated,
    }


def _python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"bench.faults.{program}", *arguments]
