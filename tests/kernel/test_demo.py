"""The demonstration as a user runs it: real packets, real figures, real failures."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import pytest
from support.namespaces import UNPRIVILEGED

import nfq_zerortt
from nfq_zerortt.demo import page, runner, terminal
from nfq_zerortt.demo.result import FIGURES as SHOWN
from nfq_zerortt.demo.result import Connection, Result, Run
from nfq_zerortt.observe.records import PacketRecord, Tap, of_connection
from nfq_zerortt.testbed import state
from nfq_zerortt.wire import flags as tcp

COMMAND = (sys.executable, "-m", "nfq_zerortt", "demo")
AS_NOBODY = (*UNPRIVILEGED, *COMMAND)
PACKAGE_PARENT = str(Path(nfq_zerortt.__file__).parents[1])
STRATEGIES = ("hold", "fastopen")
WAYS = ("direct", *STRATEGIES)
FIRST_BYTE_BACK = SHOWN[3]
FIGURES = ("connect_ms", "first_byte_sent_ms", "first_byte_at_server_ms", "first_byte_back_ms")
SVG = "http://www.w3.org/2000/svg"


@dataclass
class Demo:
    """A running demonstration, and a mark by which all that it starts is known."""

    process: subprocess.Popen[str]
    mark: str
    directory: Path

    @property
    def stderr(self) -> IO[str]:
        assert self.process.stderr is not None
        return self.process.stderr

    def wait_for(self, text: str) -> None:
        """Read progress until a line contains the text."""
        for line in self.stderr:
            if text in line:
                return
        pytest.fail(f"it ended ({self.process.wait()}) before it said {text!r}")

    def processes(self) -> dict[int, list[str]]:
        """Return all processes that carry the mark, with their commands."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if self.mark.encode() in (entry / "environ").read_bytes():
                        argv = (entry / "cmdline").read_bytes().decode().split("\0")
                        found[int(entry.name)] = argv
                except OSError:  # it has just ended
                    continue
        return found

    def end(self, timeout_s: float = 180) -> tuple[int, str, str]:
        """Wait for its end; return exit status, stdout, and what is left of stderr."""
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, stdout, stderr

    def leftovers(self) -> list[str]:
        """Return whatever is still there of it: namespaces, files, processes."""
        name = f"demo-{self.process.pid}"
        listed = subprocess.run(
            ("ip", "netns", "list"), capture_output=True, text=True, check=True
        ).stdout.split()
        found = [entry for entry in listed if entry.startswith(f"{name}-")]
        found += [str(file) for file in state.DIRECTORY.glob(f"{name}.*")]
        found += [str(file) for file in self.directory.glob("nfq-zerortt-*")]
        return found + [str(argv) for argv in self.processes().values()]


def start(directory: Path, *arguments: str) -> Demo:
    if os.geteuid() != 0:
        pytest.fail("the demonstration needs root", pytrace=False)
    mark = f"DEMO_OF_TEST={os.getpid()}-{time.monotonic_ns()}"
    key, value = mark.split("=")
    path = os.pathsep.join(p for p in (PACKAGE_PARENT, os.environ.get("PYTHONPATH")) if p)
    process = subprocess.Popen(
        (*COMMAND, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(directory), key: value},
    )
    return Demo(process, mark, directory)


def test_it_shows_what_is_gained_and_what_is_not(tmp_path: Path) -> None:
    demo = start(tmp_path, "--rtt", "100ms", "--json", "--report", "report.html")
    status, stdout, stderr = demo.end()
    assert status == 0, stderr
    found = json.loads(stdout)
    assert found["ok"] is True
    assert found["problems"] == []
    assert found["family"] == "IPv4"
    rtt_ms = found["rtt_ms"]
    assert rtt_ms == 100
    assert found["server_tcp_fastopen"] == 0x402
    for key in ("first", "small", "thinking", "bulk"):
        work = found["work"][key]
        for way in WAYS:
            assert work[way]["connections"] == work["connections"]
            assert work[way]["failed"] == 0
            medians = [work[way][figure]["median"] for figure in FIGURES[1:]]
            assert medians == sorted(medians)
            for figure in FIGURES:
                assert len(work[way][figure]["values"]) == work["connections"]
                assert work[way][figure]["min"] <= work[way][figure]["median"]
                assert work[way][figure]["median"] <= work[way][figure]["max"]
        assert min(work["direct"]["connect_ms"]["values"]) >= rtt_ms
        for strategy in STRATEGIES:
            assert work[strategy]["connect_ms"]["median"] < rtt_ms / 2
        # Without data in the SYN, nobody can deliver before the server's handshake is done: a
        # round trip and a half.
        for way in WAYS if key in ("first", "thinking") else ("direct", "hold"):
            assert min(work[way]["first_byte_at_server_ms"]["values"]) >= 1.5 * rtt_ms - 1
            assert min(work[way]["first_byte_back_ms"]["values"]) >= 2 * rtt_ms - 1
    # What is promised, with room for a busy machine.
    gain = found["work"]["small"]["gain_ms"]
    for strategy in STRATEGIES:
        assert gain[strategy]["connect_ms"] > 0.9 * rtt_ms
        assert gain[strategy]["first_byte_sent_ms"] > 0.9 * rtt_ms
        busy = found["work"]["thinking"]["gain_ms"][strategy]
        assert busy["first_byte_back_ms"] > 0.4 * rtt_ms
        _check_service(found, strategy)
    assert gain["hold"]["first_byte_at_server_ms"] < 0.25 * rtt_ms
    assert gain["hold"]["first_byte_back_ms"] < 0.25 * rtt_ms
    assert gain["fastopen"]["first_byte_at_server_ms"] > 0.75 * rtt_ms
    assert gain["fastopen"]["first_byte_back_ms"] > 0.75 * rtt_ms
    _check_fast_open(found)
    for way in WAYS:
        taps = found["captures"][way]
        assert {tap.split()[0] for tap in taps} == {"client", "clientnic", "servernic", "server"}
        assert all(counts["dropped"] == 0 for counts in taps.values())
    assert "through the service" in stderr
    _check_report((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert demo.leftovers() == []


def _check_service(found: dict[str, Any], strategy: str) -> None:
    service = found["service"][strategy]
    assert service["exit_status"] == 0
    made = sum(work["connections"] for work in found["work"].values())
    assert service["flows_spoofed"] == made


def _check_fast_open(found: dict[str, Any]) -> None:
    """The first contact asks for a cookie, the others carry it; nobody else uses the option."""
    for work in found["work"].values():
        for way in ("direct", "hold"):
            assert work[way]["fast_open"] == [None] * work["connections"]
    (first,) = found["work"]["first"]["fastopen"]["fast_open"]
    assert first["cookie_bytes_sent"] == 0
    assert first["syn_data_taken"] is False
    assert first["cookie_bytes_given"] > 0
    small = found["work"]["small"]["fastopen"]["fast_open"]
    taken = [one for one in small if one is not None and one["syn_data_taken"]]
    # On a busy machine the client may be late for one SYN or another.
    assert len(taken) >= 0.7 * len(small)
    for one in taken:
        assert one["syn_data_bytes"] == 200
        assert one["cookie_bytes_sent"] == first["cookie_bytes_given"]


def _check_report(report: str) -> None:
    """Nothing from elsewhere, no script; all its parts; pictures that can be parsed."""
    assert re.findall(r"https?:", report.replace(SVG, "")) == []
    for foreign in ("<script", '<link rel="stylesheet', "@import", "url(", "src="):
        assert foreign not in report
    pictures = re.findall(r"<svg.*?</svg>", report, re.DOTALL)
    assert len(pictures) == 2 + 3 + 4 + 4  # overview, distributions, ladders, time-sequence plots
    for picture in pictures:
        ElementTree.fromstring(picture)
    for expected in (
        "connect() returns",
        "first byte sent",
        "first byte at the server",
        "first byte back",
        "spoofed here",
        "released",
        "goes into the SYN",
        "sent with the data",
        "TFO cookie",
        "TFO request",
        "SHA-256 equal at both ends",
        "nfq-zerortt demo --rtt 100ms",
        nfq_zerortt.__version__,
        os.uname().release,
    ):
        assert expected in report


def test_over_ipv6(tmp_path: Path) -> None:
    demo = start(tmp_path, "--rtt", "40ms", "--ipv6", "--json", "--report", "report.html")
    status, stdout, stderr = demo.end()
    assert status == 0, stderr
    found = json.loads(stdout)
    assert found["ok"] is True
    assert found["family"] == "IPv6"
    assert ip_address(found["server"]["address"]).version == 6
    for way in WAYS:
        for counts in found["captures"][way].values():
            assert counts["packets"] > 0
            assert counts["dropped"] == 0
    for strategy in STRATEGIES:
        _check_service(found, strategy)
        gain = found["work"]["small"]["gain_ms"][strategy]
        assert gain["connect_ms"] > 0.5 * found["rtt_ms"]
        assert gain["first_byte_sent_ms"] > 0.5 * found["rtt_ms"]
    assert gain["first_byte_back_ms"] > 0.5 * found["rtt_ms"]
    _check_fast_open(found)
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    for expected in ("TCP over IPv6", "nfq-zerortt demo --rtt 40ms --ipv6", "spoofed here"):
        assert expected in report
    assert demo.leftovers() == []


@pytest.mark.alone  # any other demonstration would clear it away, too
def test_a_killed_one_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    elsewhere = tmp_path / "killed"
    elsewhere.mkdir()
    killed = start(elsewhere, "--rtt", "20ms")
    killed.wait_for("connections direct")
    killed.process.kill()
    killed.end()
    assert f"demo-{killed.process.pid}-client" in killed.leftovers()

    demo = start(tmp_path, "--rtt", "20ms")
    demo.wait_for("connections direct")
    for directory in elsewhere.iterdir():  # of its temporary files; all else has to be gone
        shutil.rmtree(directory)
    assert killed.leftovers() == []
    demo.process.send_signal(signal.SIGINT)
    assert demo.end()[0] == 130
    assert demo.leftovers() == []


def test_terminal_output_fits_80_columns(tmp_path: Path) -> None:
    demo = start(tmp_path, "--rtt", "20ms")
    status, stdout, stderr = demo.end()
    assert status == 0, stderr
    assert max(len(line) for line in stdout.splitlines()) <= 80
    for expected in (
        *("connect() returns", "gain hold", "gain fastopen", "hold: gained", "fastopen: gained"),
        *("not gained", "spoofed here", "held", "released"),
        *("goes into the SYN", "sent with the data", "200 B TFO", "SYN-ACK S ack C+201"),
        "its SYN asked for a cookie, its 200 B of data were ignored",
        "0x402",
    ):
        assert expected in " ".join(stdout.split())
    assert "All 60 connections complete" in stdout
    assert demo.leftovers() == []


PHASES = {"direct": "direct,", "hold": "service, hold", "fastopen": "service, fastopen"}


def kill_in(demo: Demo, way: str, part: str) -> None:
    """Kill the one process of the demonstration that has ``part`` in its command, on the way."""
    demo.wait_for(PHASES[way])
    time.sleep(0.3)
    (found,) = (pid for pid, argv in demo.processes().items() if part in " ".join(argv))
    os.kill(found, signal.SIGKILL)


@pytest.mark.parametrize("ways", [("direct",), STRATEGIES], ids=" ".join)
def test_a_server_that_dies_is_a_failure(tmp_path: Path, ways: tuple[str, ...]) -> None:
    demo = start(tmp_path, "--rtt", "40ms", "--json", "--report", "report.html")
    for way in ways:
        kill_in(demo, way, "server.py")
    status, stdout, stderr = demo.end()
    assert status == 1
    found = json.loads(stdout)
    assert found["ok"] is False
    count = 0
    for way in WAYS:
        failed = {key: work[way]["failed"] for key, work in found["work"].items()}
        problems = [p for p in found["problems"] if p.startswith(f"{way}: connection ")]
        assert len(problems) == sum(failed.values())
        last = found["work"]["thinking"]
        assert failed["thinking"] == (last["connections"] if way in ways else 0)
        assert (last[way]["connect_ms"]["median"] is None) is (way in ways)
        count += len(problems)
    assert count == len(found["problems"])
    assert f"FAILED {found['problems'][0]}" in stderr
    assert "Traceback" not in stderr
    assert 'class="bad"' in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert demo.leftovers() == []


def test_a_service_that_dies_is_a_failure(tmp_path: Path) -> None:
    demo = start(tmp_path, "--rtt", "40ms")
    for strategy in STRATEGIES:
        kill_in(demo, strategy, "--client-iface")
    status, stdout, stderr = demo.end()
    assert status == 1
    for strategy in STRATEGIES:
        assert f"{strategy}: the service ended by itself" in " ".join(stdout.split())
    assert "Traceback" not in stderr
    assert demo.leftovers() == []


@pytest.mark.parametrize(
    ("number", "phase", "after_s", "expected"),
    [
        (signal.SIGINT, "bringing up", 0.1, 130),
        (signal.SIGTERM, "connections direct", 0.2, 143),
        (signal.SIGINT, "connections through", 0.2, 130),
        (signal.SIGTERM, "through the service, fastopen", 0.2, 143),
        (signal.SIGTERM, "taking", 0.0, 143),
    ],
)
def test_interrupted_it_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, phase: str, after_s: float, expected: int
) -> None:
    demo = start(tmp_path, "--rtt", "10ms")
    demo.wait_for(phase)
    time.sleep(after_s)
    demo.process.send_signal(number)
    time.sleep(0.05)
    demo.process.send_signal(signal.SIGINT)  # an impatient user
    status, _, stderr = demo.end(timeout_s=30)
    assert status == expected
    assert "Traceback" not in stderr
    assert demo.leftovers() == []


class Silent:
    """Nobody is told of the progress."""

    def step(self, text: str) -> None:
        """Say nothing."""

    def connections(self, done: int, total: int) -> None:
        """Say nothing."""


def at(result: Result, run: Run, connection: Connection, tap: Tap) -> list[PacketRecord]:
    """Return the connection's packets at one tap, in order of time."""
    assert connection.client is not None
    own = of_connection(run.records, connection.client, result.server)
    return [record for record in own if record.tap == tap]


def test_the_packets_of_fast_open_come_in_its_order() -> None:
    result = runner.perform(60, Silent())
    assert result.problems == []
    at_client, at_server = result.path[0].left, result.path[-1].right
    towards_server = result.path[1].left
    taken = [c for c in result.fastopen.connections if c.fast_open and c.fast_open.taken]
    assert len(taken) >= 0.7 * sum(result.work(key).connections for key in ("small", "bulk"))
    for connection in taken:
        found = at(result, result.fastopen, connection, at_server)
        from_client = [record for record in found if record.destination == result.server]
        answers = [r for r in found if r.source == result.server and r.payload_bytes]
        syn, further = from_client[0], from_client[1:]
        assert syn.is_syn
        assert syn.fast_open
        assert syn.payload_bytes > 0
        assert not further[0].flags & tcp.SYN
        if connection.work == "small":
            # The answer leaves before the third ACK, or anything else from the client, is there.
            assert answers[0].time_s < further[0].time_s
            assert further[0].payload_bytes == 0
            # The client knows of nothing: an ordinary SYN, and its data in a segment of its own.
            sent = [r for r in at(result, result.fastopen, connection, at_client) if r.is_syn]
            assert [(r.payload_bytes, r.fast_open) for r in sent] == [(0, None)]
    for run in (result.direct, result.hold):
        for connection in run.connections:
            found = at(result, run, connection, at_server)
            acks = [r for r in found if r.destination == result.server and not r.is_syn]
            answers = [r for r in found if r.source == result.server and r.payload_bytes]
            assert acks[0].time_s < answers[0].time_s
    # The first contact: its data goes twice, for the server ignores it in the SYN.
    first = result.fastopen.connections[0]
    found = at(result, result.fastopen, first, towards_server)
    sizes = [r.payload_bytes for r in found if r.destination == result.server]
    assert [size for size in sizes if size] == [200, 200]
    diagram = terminal.diagram_of(result, result.fastopen)
    assert diagram is not None
    texts = [text for row in diagram.rows for _, text in row.notes()]
    for text in ("spoofed here", "goes into the SYN", "sent with the data", "sent by this host"):
        assert text in texts


def test_a_server_that_refuses_fast_open_is_said_and_nothing_fails() -> None:
    result = runner.perform(20, Silent(), server_fast_open=0)
    assert result.problems == []
    assert result.fastopen.data_taken(*result.works) == (
        0,
        sum(w.connections for w in result.works),
    )
    lines = [line.plain for line in terminal.table(result)]
    said = [line for line in lines if "took no data in a SYN" in line]
    assert len(said) == 1
    assert said[0].endswith("(tcp_fastopen 0x0)")
    assert all(len(line) <= 80 for line in lines)
    small = result.work("small")
    back = FIRST_BYTE_BACK
    fastopen = result.fastopen.median(small, back)
    assert fastopen is not None
    assert fastopen > 1.8 * result.rtt_ms
    assert said[0] in page.page(result)


def run(*argv: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(p for p in (PACKAGE_PARENT, os.environ.get("PYTHONPATH")) if p)
    changed = {"PYTHONPATH": search} | ({} if path is None else {"PATH": path})
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=30, check=False, env=os.environ | changed
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rtt", "fast"), "--rtt"),
        (("--rtt", "11s"), "--rtt"),
        (("--report", "/nowhere/report.html"), "/nowhere"),
        (("--speed", "9"), "--speed"),
    ],
)
def test_wrong_use_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = run(*COMMAND, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_without_root_it_says_so_at_once() -> None:
    done = run(*AS_NOBODY)
    assert done.returncode == 3
    assert "root" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_tcpdump_it_names_the_package(tmp_path: Path) -> None:
    if shutil.which("tcpdump", path="/usr/local/sbin:/usr/sbin:/sbin"):
        pytest.skip("tcpdump is where PATH cannot hide it")
    done = run(*COMMAND, path=str(tmp_path))
    assert done.returncode == 3
    assert done.stderr == "nfq-zerortt: missing program tcpdump: apt-get install tcpdump\n"
