"""Running the demonstration: four hosts, captures on all of them, the work done in all ways."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nfq_zerortt import __version__
from nfq_zerortt.demo.figures import connections
from nfq_zerortt.demo.processes import LineReader, ended
from nfq_zerortt.demo.product import Product, started
from nfq_zerortt.demo.result import (
    DIRECT,
    FASTOPEN,
    HOLD,
    Environment,
    Family,
    Result,
    Run,
)
from nfq_zerortt.demo.stage import START_TIMEOUT_S, Progress, Stage
from nfq_zerortt.demo.work import works
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.observe.capture import Capture, require_tcpdump
from nfq_zerortt.observe.records import PacketRecord, Tap
from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.commands import require_programs, require_root
from nfq_zerortt.testbed.network import Testbed, TestbedStatus
from nfq_zerortt.testbed.processes import ProcessId

_PROGRAMS = Path(__file__).resolve().parent
_FAST_OPEN = "net.ipv4.tcp_fastopen"
FAST_OPEN_SERVER = 0x402
"""Server side on (2), without a socket option (0x400): Linux, Documentation/networking/ip-sysctl.

It holds for IPv6, too, and for what listens from then on.
"""


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
        stage = Stage(testbed, family, works(rtt_ms), Path(directory), progress)
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


def _set_fast_open(stage: Stage, wanted: int | None) -> int | None:
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


def _run(stage: Stage, way: str) -> Run:
    """Do the whole work once."""
    total = sum(work.connections for work in stage.works)
    problems: list[str] = []
    product: Product | None = None
    with ExitStack() as cleanup:
        if way != DIRECT:
            stage.progress.step(f"starting nfq-zerortt run --strategy {way} on clientnic")
            product = cleanup.enter_context(started(stage, way))
        captures = [cleanup.enter_context(_capture(stage, way, tap)) for tap in _taps(stage)]
        server = cleanup.enter_context(_server(stage))
        through = "direct, no service running" if way == DIRECT else f"through the service, {way}"
        stage.progress.step(f"{total} connections {through}")
        client_said = _client(stage, problems)
        # The last FINs are still on their way, and tcpdump shall have written all it saw.
        time.sleep(2 * stage.rtt_s + 0.3)
        server_said = [json.loads(line) for line in server.lines_so_far()[1:]]
        counts = {str(capture.tap): capture.stop() for capture in captures}
        figures = product.stop(problems) if product else None
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


def _taps(stage: Stage) -> list[Tap]:
    return [tap for link in stage.path for tap in (link.left, link.right)]


@contextmanager
def _capture(stage: Stage, way: str, tap: Tap) -> Iterator[Capture]:
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
def _server(stage: Stage) -> Iterator[LineReader]:
    address, port = stage.server
    argv = (sys.executable, "-I", str(_PROGRAMS / "server.py"), address, str(port))
    with ended(stage.popen(stage.server_tap.host, argv)) as process:
        reader = LineReader(process)
        if reader.next(START_TIMEOUT_S) != "listening":
            raise ZeroRttError(f"the server program did not start: {reader.last_words()}")
        yield reader


def _client(stage: Stage, problems: list[str]) -> list[dict[str, Any]]:
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
    with ended(stage.popen(stage.client_tap.host, argv)) as process:
        reader = LineReader(process)
        # A connection has some steps, and a bulk one takes many round trips in a step.
        while (line := reader.next(4 * stage.timeout_s)) is not None:
            said.append(json.loads(line))
            stage.progress.connections(len(said), total)
        if (status := reader.wait(1.0)) != 0:
            why = "did not go on" if status is None else f"ended with exit status {status}"
            problems.append(f"the client program {why}: {reader.last_words()}")
    return said
