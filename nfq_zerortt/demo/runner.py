"""Running the demonstration: four hosts, captures on all of them, the work done in all ways."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from nfq_zerortt import __version__
from nfq_zerortt.demo.figures import connections
from nfq_zerortt.demo.processes import LineReader, ended
from nfq_zerortt.demo.result import (
    DIRECT,
    FASTOPEN,
    HOLD,
    Environment,
    Family,
    Result,
    Run,
    ServiceFigures,
)
from nfq_zerortt.demo.work import Work, works
from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.observe.capture import Capture, require_tcpdump
from nfq_zerortt.observe.hops import Link
from nfq_zerortt.observe.records import PacketRecord, Tap
from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.commands import environment, require_programs, require_root
from nfq_zerortt.testbed.network import Testbed, TestbedStatus
from nfq_zerortt.testbed.processes import ProcessId
from nfq_zerortt.testbed.topology import Topology

_PORT = 8080
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
_PROGRAMS = Path(__file__).resolve().parent
_FAST_OPEN = "net.ipv4.tcp_fastopen"
FAST_OPEN_SERVER = 0x402
"""Server side on (2), without a socket option (0x400): Linux, Documentation/networking/ip-sysctl.

It holds for IPv6, too, and for what listens from then on.
"""
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0


class Progress(Protocol):
    """Told what is being done."""

    def step(self, text: str) -> None:
        """Something new begins."""

    def connections(self, done: int, total: int) -> None:
        """So many of the run's connections are made."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """What all runs have in common."""

    testbed: Testbed
    family: Family
    works: tuple[Work, ...]
    directory: Path
    progress: Progress

    @property
    def topology(self) -> Topology:
        return self.testbed.topology

    @property
    def rtt_s(self) -> float:
        return self.testbed.settings.rtt_ms / 1000

    @property
    def timeout_s(self) -> float:
        """How long one step of a connection may take: long enough for several lost SYNs."""
        return 5 + 20 * self.rtt_s

    @property
    def path(self) -> tuple[Link, ...]:
        return tuple(
            Link(Tap(link.hosts[0], link.name), Tap(link.hosts[1], link.name))
            for link in self.topology.links
        )

    @property
    def client_tap(self) -> Tap:
        return self.path[0].left

    @property
    def server_tap(self) -> Tap:
        return self.path[-1].right

    def address(self, tap: Tap) -> str:
        interface = self.topology.host(tap.host).interface(tap.interface)
        return str((interface.ipv6 if self.family == "IPv6" else interface.ipv4).ip)

    @property
    def server(self) -> tuple[str, int]:
        return (self.address(self.server_tap), _PORT)


def perform(
    rtt_ms: float,
    progress: Progress,
    family: Family = "IPv4",
    server_fast_open: int | None = FAST_OPEN_SERVER,
) -> Result:
    """Bring up a testbed of its own, do the work direct and through the service, take it down.

    ``server_fast_open``: net.ipv4.tcp_fastopen of the server's host; None leaves it as it is.
    Where the kernel does not have it, no data is taken in a SYN, which the result shows.
    Whatever ends this (an error, KeyboardInterrupt, SystemExit), nothing is left behind.

    Raises:
        ConfigError: the round trip is out of range.
        MissingFeatureError: not root, or a program is missing.
        ZeroRttError: the testbed, a capture, the service or an application did not start or end.
    """
    require_root()
    require_programs()
    require_tcpdump()
    testbed = Testbed(f"demo-{os.getpid()}", rtt_ms=rtt_ms)
    _clear_away_dead()
    load = os.getloadavg()[0]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    with ExitStack() as cleanup:
        directory = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="nfq-zerortt-demo-"))
        progress.step("bringing up the four hosts as network namespaces")
        cleanup.callback(_down, testbed)
        testbed.up()
        stage = _Stage(testbed, family, works(rtt_ms), Path(directory), progress)
        # Before any application listens there, and for all ways alike.
        sysctl = _set_fast_open(stage, server_fast_open)
        direct, hold, fastopen = (_run(stage, way) for way in (DIRECT, HOLD, FASTOPEN))
        status = testbed.status()
        progress.step("taking the hosts down")
    return Result(
        rtt_ms=rtt_ms,
        family=family,
        works=stage.works,
        direct=direct,
        hold=hold,
        fastopen=fastopen,
        environment=_environment(status, date, load),
        server=stage.server,
        path=stage.path,
        wan_host=stage.topology.wan_host,
        fast_open_sysctl=sysctl,
    )


def _set_fast_open(stage: _Stage, wanted: int | None) -> int | None:
    """Set the server host's sysctl if it has it, and return what it then is."""
    host = stage.server_tap.host
    if wanted is not None:
        stage.testbed.exec(host, ("sysctl", "-q", "-w", f"{_FAST_OPEN}={wanted}"))
    said = stage.testbed.exec(host, ("sysctl", "-n", _FAST_OPEN))
    return int(said.stdout) if said.returncode == 0 else None


def _clear_away_dead() -> None:
    """Take down what a demonstration that was killed (SIGKILL) has left."""
    for file in state.DIRECTORY.glob("demo-*.json"):
        match = re.fullmatch(r"demo-(\d+)", file.stem)
        if match and ProcessId.of(int(match[1])) is None:
            Testbed(file.stem).down()


def _down(testbed: Testbed) -> None:
    """Take it down, and begin anew when a signal comes in between: there is but one."""
    try:
        testbed.down()
    except BaseException:
        testbed.down()
        raise


def _environment(status: TestbedStatus, date: str, load: float) -> Environment:
    return Environment(
        date=date,
        version=__version__,
        python=platform.python_version(),
        kernel=platform.release(),
        cpus=os.cpu_count() or 1,
        load=round(load, 2),
        wan=status.wan or "unknown",
        lateness=status.delay_line.lateness if status.delay_line else None,
        congestion_control=status.congestion_control or "unknown",
    )


def _run(stage: _Stage, way: str) -> Run:
    """Do the whole work once."""
    total = sum(work.connections for work in stage.works)
    problems: list[str] = []
    service: _Service | None = None
    with ExitStack() as cleanup:
        if way != DIRECT:
            stage.progress.step(f"starting nfq-zerortt run --strategy {way} on clientnic")
            service = cleanup.enter_context(_service(stage, way))
        captures = [cleanup.enter_context(_capture(stage, way, tap)) for tap in _taps(stage)]
        server = cleanup.enter_context(_server(stage))
        through = "direct, no service running" if way == DIRECT else f"through the service, {way}"
        stage.progress.step(f"{total} connections {through}")
        client_said = _client(stage, problems)
        # The last FINs are still on their way, and tcpdump shall have written all it saw.
        time.sleep(2 * stage.rtt_s + 0.3)
        server_said = [json.loads(line) for line in server.lines_so_far()[1:]]
        counts = {str(capture.tap): capture.stop() for capture in captures}
        figures = service.stop(problems) if service else None
        stage.progress.step("reading the captures")
        records: list[PacketRecord] = []
        for capture in captures:
            records += capture.read()
    problems += [
        f"the capture on {tap} lacks {count.dropped} packets"
        for tap, count in counts.items()
        if count.dropped
    ]
    made = connections(
        client_said,
        server_said,
        records,
        client_tap=stage.client_tap,
        server_tap=stage.server_tap,
        client_address=stage.address(stage.client_tap),
        server=stage.server,
        expect_spoofed=way != DIRECT,
    )
    if len(made) < total:
        problems.append(f"only {len(made)} of {total} connections were tried")
    return Run(way, tuple(made), tuple(records), counts, figures, tuple(problems))


def _taps(stage: _Stage) -> list[Tap]:
    return [tap for link in stage.path for tap in (link.left, link.right)]


@contextmanager
def _capture(stage: _Stage, way: str, tap: Tap) -> Iterator[Capture]:
    def spawn(argv: Any, **keywords: Any) -> subprocess.Popen[Any]:
        return stage.testbed.popen(tap.host, argv, **keywords)

    address, port = stage.server
    file = stage.directory / f"{way}-{tap.host}-{tap.interface}.pcap"
    capture = Capture(tap, file, f"tcp and host {address} and port {port}", spawn)
    try:
        yield capture
    finally:
        capture.abort()


@contextmanager
def _server(stage: _Stage) -> Iterator[LineReader]:
    address, port = stage.server
    argv = (sys.executable, "-I", str(_PROGRAMS / "server.py"), address, str(port))
    with ended(_popen(stage, stage.server_tap.host, argv)) as process:
        reader = LineReader(process)
        if reader.next(_START_TIMEOUT_S) != "listening":
            raise ZeroRttError(f"the server program did not start: {reader.last_words()}")
        yield reader


def _client(stage: _Stage, problems: list[str]) -> list[dict[str, Any]]:
    """Have the client program do the work; return what it says of each connection."""
    address, port = stage.server
    work = json.dumps(
        [
            {
                "key": work.key,
                "connections": work.connections,
                "request_bytes": work.request_bytes,
                "answer_bytes": work.answer_bytes,
                "think_ms": work.think_ms,
            }
            for work in stage.works
        ]
    )
    total = sum(work.connections for work in stage.works)
    argv = (
        *(sys.executable, "-I", str(_PROGRAMS / "client.py")),
        *(address, str(port), str(stage.timeout_s), work),
    )
    said: list[dict[str, Any]] = []
    with ended(_popen(stage, stage.client_tap.host, argv)) as process:
        reader = LineReader(process)
        # A connection has some steps, and a bulk one takes many round trips in a step.
        while (line := reader.next(4 * stage.timeout_s)) is not None:
            said.append(json.loads(line))
            stage.progress.connections(len(said), total)
        if (status := reader.wait(1.0)) != 0:
            why = "did not go on" if status is None else f"ended with exit status {status}"
            problems.append(f"the client program {why}: {reader.last_words()}")
    return said


def _popen(
    stage: _Stage, host: str, argv: tuple[str, ...], **keywords: Any
) -> subprocess.Popen[Any]:
    # A session of its own: the terminal's Ctrl-C is for us, and we end what we started in order.
    return stage.testbed.popen(
        host,
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
        **keywords,
    )


class _Service:
    """The product, running on clientnic."""

    def __init__(self, reader: LineReader, process: subprocess.Popen[Any], log: Path) -> None:
        self._reader = reader
        self._process = process
        self._log = log

    def await_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._events("service.ready"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._reader.last_words()
                if self._process.returncode == MissingFeatureError.exit_status:
                    raise MissingFeatureError(f"the service did not start: {said}")
                raise ZeroRttError(f"the service did not start: {said}")
            time.sleep(0.02)

    def stop(self, problems: list[str]) -> ServiceFigures:
        """End it with SIGTERM, and note what it did not do as it should."""
        early = self._process.poll() is not None
        self._process.terminate()
        status = self._reader.wait(_STOP_TIMEOUT_S)
        if status is None:
            raise ZeroRttError(f"the service did not end within {_STOP_TIMEOUT_S:g} s of SIGTERM")
        if early or status != 0:
            when = "by itself, " if early else ""
            problems.append(
                f"the service ended {when}with exit status {status}: {self._reader.last_words()}"
            )
        faults = self._events("service.fault")
        if faults:
            last = str(faults[-1].get("error", "")).strip().splitlines()[-1:]
            problems.append(f"the service logged {len(faults)} faults: {' '.join(last)}")
        spoofed = self._events("flow.synack_spoofed")
        latencies = [event["latency_us"] for event in spoofed if "latency_us" in event]
        return ServiceFigures(
            exit_status=status,
            flows_spoofed=len({event["flow_id"] for event in spoofed}),
            synack_latency_us=statistics.median(latencies) if latencies else None,
        )

    def _events(self, name: str) -> list[dict[str, Any]]:
        if not self._log.exists():
            return []
        lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
        # The last line may be in the middle of being written.
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if event["event"] == name]


@contextmanager
def _service(stage: _Stage, strategy: str) -> Iterator[_Service]:
    """Run the service of its own configuration: none of the machine's, nothing kept for later."""
    log = stage.directory / f"service-{strategy}.log"
    config = stage.directory / "empty.toml"
    config.touch()
    towards_client, towards_server = stage.path[0].right, stage.path[1].left
    argv = (
        *(sys.executable, "-m", "nfq_zerortt", "run", "--strategy", strategy),
        *("--config", str(config), "--control-socket", "", "--state-file", ""),
        *("--client-iface", towards_client.interface),
        *("--server-iface", towards_server.interface),
        *("--log-format", "json", "--log-level", "info", "--log-file", str(log)),
    )
    search = os.pathsep.join(p for p in (_PACKAGE_PARENT, os.environ.get("PYTHONPATH")) if p)
    env = environment() | {"PYTHONPATH": search}
    with ended(_popen(stage, towards_client.host, argv, env=env)) as process:
        service = _Service(LineReader(process), process, log)
        service.await_ready()
        yield service
