"""The laboratory: four hosts, the services on ClientNIC, servers and clients.

All of it is gone when the block is left, whatever happened in it. The server's
port decides which way a connection goes: ``DIRECT`` meets no rule, each of the
others is selected by the rules of one listener with a queue of its own.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from bench.counters import (
    CpuTime,
    HostCounters,
    QueueCounters,
    cpu_time,
    queue_counters,
    resident_bytes,
)
from nfq_zerortt import programs
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.testbed.network import Testbed
from nfq_zerortt.testbed.wan import QUEUE_NUMBER

SERVER = "10.0.3.2"
CLIENTNIC = "10.0.1.254"

DIRECT, OBSERVE, HOLD, ACCEPT_ONLY = "direct", "observe", "hold", "accept only"
FASTOPEN, AUTO = "fastopen", "auto"
PORTS = {DIRECT: 7000, OBSERVE: 7001, HOLD: 7002, ACCEPT_ONLY: 7003}
"""The server's port of each way."""

_CHECKOUT = Path(__file__).resolve().parents[1]
_START_S = 20.0
_STOP_S = 6.0
_READ = 1 << 20


class Listener:
    """A process on ClientNIC that gives verdicts: the service, or another to compare it with."""

    def __init__(self, way: str, queue: int, process: subprocess.Popen[Any], log: Path) -> None:
        self.way = way
        self.queue = queue
        self.pid = process.pid
        self._pids = {process.pid}
        self._queues = range(queue, queue + 1)
        self._process = process
        self._log = log
        self._read_to = 0

    def await_ready(self) -> None:
        """Wait until it serves its queue.

        Raises:
            ZeroRttError: it ended, or did not get ready in time.
        """
        deadline = time.monotonic() + _START_S
        while "service.ready" not in self._log.read_text(encoding="utf-8"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(encoding="utf-8").strip().splitlines() or ["nothing"]
                raise ZeroRttError(f"{self.way} did not start: {said[-1]}")
            time.sleep(0.02)
        for event in self.events():
            if event["event"] == "service.ready":
                self._pids |= set(event.get("worker_pids", ()))
                self._queues = range(self.queue, self.queue + event.get("workers", 1))
        self._read_to = 0  # who asks for events wants these, too

    def events(self) -> list[dict[str, Any]]:
        """Return what it has logged since the last call."""
        with self._log.open("rb") as log:
            log.seek(self._read_to)
            data = log.read()
        data = data[: data.rfind(b"\n") + 1]
        self._read_to += len(data)
        return [json.loads(line) for line in data.splitlines()]

    def cpu_time(self) -> CpuTime:
        """Return the processor time that it and its workers have used."""
        used = [cpu_time(pid) for pid in self._pids]
        return CpuTime(sum(one.user_s for one in used), sum(one.system_s for one in used))

    def resident_bytes(self) -> int:
        """Return its memory."""
        return resident_bytes(self.pid)

    def counters(self) -> QueueCounters:
        """Return the counters of its queues, added up."""
        each = [queue_counters(self.pid, queue) for queue in self._queues]
        return QueueCounters(
            sum(one.packets for one in each),
            sum(one.dropped for one in each),
            sum(one.user_dropped for one in each),
        )

    def stop(self) -> None:
        """End it as systemd would, and more harshly if that does not help."""
        _stop(self._process, _STOP_S)


class Lab:
    """A testbed with a name of its own, and what runs on it. A context manager."""

    def __init__(self, *, rtt_ms: float, rate_mbit: float | None = None, tag: str = "") -> None:
        """Describe the WAN; see :class:`nfq_zerortt.testbed.network.Testbed`.

        ``tag`` tells laboratories apart that are up at the same time.
        """
        name = f"bench-{os.getpid()}{tag and '-'}{tag}"
        self.testbed = Testbed(name, rtt_ms=rtt_ms, rate_mbit=rate_mbit)
        self.directory = Path()
        self._listeners: list[Listener] = []
        self._others: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="nfq-zerortt-bench-"))
        try:
            self.testbed.up()
        except BaseException:
            shutil.rmtree(self.directory)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C shall not leave anything behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for process in self._others:
                _stop(process, 1.0)
            for listener in self._listeners:
                listener.stop()
        finally:
            try:
                self.testbed.down()
            finally:
                shutil.rmtree(self.directory)
                signal.signal(signal.SIGINT, before)

    def take_wan_away(self) -> None:
        """Let ServerNIC's kernel forward without a delay line, which would be the bottleneck."""
        if self.testbed.status().delay_line is not None:
            rule = ("-w", "-t", "mangle", "-D", "FORWARD", "-j", "NFQUEUE")
            argv = ["iptables", *rule, "--queue-num", str(QUEUE_NUMBER)]
            self.testbed.exec("servernic", argv, check=True)
            return
        for interface in ("eth1", "eth2"):
            argv = ["tc", "qdisc", "del", "dev", interface, "root"]
            self.testbed.exec("servernic", argv, check=True)

    # --- what runs on the hosts -----------------------------------------------------------

    def service(self, strategy: str, *more: str) -> Listener:
        """Start ``nfq-zerortt run`` for its port, with a queue of its own; wait until ready."""
        port = str(PORTS[strategy])
        config = self.directory / "empty.toml"  # nothing that this host may have configured
        config.touch()
        flags = ("--strategy", strategy, "--data-path", "python", "--ports", port)
        return self._service(strategy, PORTS[strategy], config, *flags, *more)

    def configured_service(self, name: str, queue: int, toml: str) -> Listener:
        """Start ``nfq-zerortt run`` with a configuration file; wait until ready."""
        config = self.directory / f"{name}.toml"
        config.write_text(toml, encoding="utf-8")
        return self._service(name, queue, config)

    def _service(self, name: str, queue: int, config: Path, *flags: str) -> Listener:
        return self._listener(
            name,
            queue,
            *("nfq_zerortt", "run", "--client-iface", "eth0", "--server-iface", "eth1"),
            *("--queue", str(queue), "--config", str(config), *flags),
            *("--log-file", str(self._log_of(name)), "--control-socket", ""),
        )

    def accept_only(self) -> Listener:
        """Start the verdict handler that only accepts; wait until ready."""
        queue = PORTS[ACCEPT_ONLY]
        return self._listener(ACCEPT_ONLY, queue, "bench.programs.accept_only", str(queue))

    def _log_of(self, way: str) -> Path:
        return self.directory / f"{way.replace(' ', '-')}.log"

    def _listener(self, way: str, queue: int, *arguments: str) -> Listener:
        path = self._log_of(way)
        with path.open("ab") as log:
            process = self.testbed.popen(
                "clientnic", _python(*arguments), stdout=log, stderr=log, **_detached()
            )
        listener = Listener(way, queue, process, path)
        self._listeners.append(listener)
        listener.await_ready()
        return listener

    def server(self, kind: str, ways: Sequence[str], host: str = "server") -> None:
        """Start a server program ("echo" or "transfer") on the ports of these ways."""
        self.server_program(f"{kind}_server", [str(PORTS[way]) for way in ways], host)

    def server_program(
        self, name: str, arguments: Sequence[str], host: str = "server"
    ) -> subprocess.Popen[Any]:
        """Start one of the server programs; wait until it is ready."""
        process = self.background(
            host, _python(f"bench.programs.{name}", *arguments), stdout=subprocess.PIPE, text=True
        )
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise ZeroRttError(f"{name} on {host} did not start")
        return process

    def background(self, host: str, argv: Sequence[str], **keywords: Any) -> subprocess.Popen[Any]:
        """Start a command that is ended with the lab."""
        process = self.testbed.popen(host, argv, **_detached(), **keywords)
        self._others.append(process)
        return process

    def client(self, program: str, plan: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Run a client program with a plan; return its results. Both are JSON.

        Raises:
            ZeroRttError: it failed, or took longer than ``timeout_s``.
        """
        return self.interactive_client(program).ask(plan, timeout_s)

    def interactive_client(self, program: str) -> Conversation:
        """Start a client program that is asked several times."""
        process = self.testbed.popen(
            "client",
            _python(f"bench.programs.{program}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **_detached(),
        )
        self._others.append(process)
        return Conversation(program, process)

    # --- what the hosts count -------------------------------------------------------------

    def counters(self) -> dict[str, HostCounters]:
        """Return the counters of every host's network stack."""
        files = ["/proc/net/snmp", "/proc/net/netstat"]
        return {
            host: HostCounters.parse(self.testbed.exec(host, ["cat", *files], check=True).stdout)
            for host in self.testbed.topology.host_names
        }


class Conversation:
    """A client program that takes a line of JSON and answers with one."""

    def __init__(self, program: str, process: subprocess.Popen[bytes]) -> None:
        self._program = program
        self._process = process

    def ask(self, plan: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a plan and return the results.

        Raises:
            ZeroRttError: it failed, or took longer than ``timeout_s``.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(plan).encode() + b"\n")
            process.stdin.flush()
            data = _read_line(process.stdout.fileno(), timeout_s)
        except BrokenPipeError:
            data = b""
        if not data.endswith(b"\n"):
            reason = f"no result within {timeout_s:g} s"
            if process.poll() is not None:
                reason = f"exit status {process.returncode}"
            raise ZeroRttError(f"client program {self._program}: {reason}")
        results: dict[str, Any] = json.loads(data)
        return results


def _read_line(fd: int, timeout_s: float) -> bytes:
    """Read up to a line's end; without one if the time is over, or there is no more."""
    deadline = time.monotonic() + timeout_s
    data = b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0.0))
        piece = os.read(fd, _READ) if ready else b""
        if not piece:
            break
        data += piece
    return data


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _detached() -> dict[str, Any]:
    # The keyboard's interrupt is ours; we end the others in order.
    return {
        "start_new_session": True,
        "env": programs.environment() | {"PYTHONPATH": str(_CHECKOUT)},
        "cwd": _CHECKOUT,
    }


def _stop(process: subprocess.Popen[Any], patience_s: float) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
