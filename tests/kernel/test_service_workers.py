"""Several workers: who gets what, what they do together, and what is left when one of them dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
from support.addresses import FAMILIES, IPV6, Family
from support.carried import KERNEL, command, filters
from support.counters import queue_drops
from support.namespaces import inside
from support.peers import Peers, content, next_port, transfer
from support.service import RunningService, rules
from support.waiting import PATIENCE_S, until

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel.kernel_path import KernelPath
from nfq_zerortt.observe.control_client import ask
from nfq_zerortt.testbed.network import Testbed

PYTHON = ("--data-path", "python")
TWO = ("--workers", "2")
CLIENTS = range(0x20, 0x30)
"""The ends of further addresses of the client's. Which worker a pair of addresses comes to depends
on a number that the kernel has drawn at its start; all of them to one: once in 32,768 starts."""


@pytest.fixture(scope="module")
def crowd(network: Testbed) -> Iterator[Testbed]:
    """The test network, with a client that has many addresses."""
    words = [
        ["address", "ACT", address, "dev", "eth0"] for address in map(with_length, addresses())
    ]
    for word in words:
        network.exec("client", ["ip", *[w.replace("ACT", "add") for w in word]], check=True)
    yield network
    for word in words:
        network.exec("client", ["ip", *[w.replace("ACT", "del") for w in word]], check=True)


def addresses() -> list[str]:
    return [client_address(family, end) for family in FAMILIES for end in CLIENTS]


def with_length(address: str) -> str:
    return address + ("/64" if ":" in address else "/24")


def client_address(family: Family, end: int) -> str:
    whole, separator, _ = family.client.rpartition(":" if family is IPV6 else ".")
    return f"{whole}{separator}{end:x}" if family is IPV6 else f"{whole}{separator}{end}"


@pytest.fixture(autouse=True)
def nothing_is_left(network: Testbed) -> Iterator[None]:
    """Whatever a test leaves in the kernel, it leaves to itself alone."""
    yield
    with inside(network.netns("clientnic")):
        KernelPath.remove_all(0)
    command(network, "rules", "remove")


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """Where the services of a test are asked."""
    return tmp_path / "control"


def connect(peers: Peers, end: int, port: int, server: str = "") -> socket.socket:
    """Connect from one of the client's addresses."""
    client = peers.tcp("client")
    client.bind((client_address(peers.family, end), 0))
    client.connect((server or peers.family.server, port))
    return client


def from_everywhere(peers: Peers, port: int) -> list[tuple[socket.socket, socket.socket]]:
    """Return both ends of a connection from each address; all have carried data both ways."""
    listener = peers.listen(port)
    ends = []
    for end in CLIENTS:
        client = connect(peers, end, port)
        server = peers.accept(listener)
        transfer(client, server, content(3000, end))
        transfer(server, client, content(5000, end))
        ends.append((client, server))
    listener.close()
    return ends


def workers_of(flow_ids: list[int], count: int = 2) -> set[int]:
    """Return which workers have taken these flows on: they number them in turns."""
    return {number % count for number in flow_ids}


def processes(service: RunningService) -> list[int]:
    """Return the first process of a service, and its workers."""
    ready = service.event("service.ready")
    return [ready["pid"], *ready["worker_pids"]]


def is_there(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return False


def all_gone(pids: list[int]) -> None:
    until(lambda: not any(map(is_there, pids)), "no process is left", timeout_s=5)


# --- who gets what ------------------------------------------------------------------------


@pytest.mark.parametrize("path", [PYTHON, KERNEL], ids=["python", "kernel"])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_each_worker_has_flows_and_all_are_told_of(
    crowd: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path, path: tuple[str, ...]
) -> None:
    with RunningService(crowd, tmp_path, *TWO, *path, control_socket=str(control)) as service:
        ready = service.event("service.ready")
        assert ready["workers"] == len(set(ready["worker_pids"])) == 2
        assert ready["pid"] not in ready["worker_pids"]
        assert "--queue-balance 0:1 --queue-bypass" in rules(crowd)
        ends = from_everywhere(peers, port)
        received = service.wait_for("flow.syn_received", port=port, count=len(CLIENTS))
        numbers = [event["flow_id"] for event in received]
        assert len(set(numbers)) == len(CLIENTS)
        assert workers_of(numbers) == {0, 1}, "several workers, and one does all the work"
        told = ask(control, "flows")
        assert sorted(flow["flow_id"] for flow in told) == sorted(numbers)
        assert {flow["bytes_to_client"] for flow in told} == {5000}
        for client, server in ends:
            client.close()
            server.close()
        closed = service.wait_for("flow.closed", port=port, count=len(CLIENTS))
        assert sorted(event["flow_id"] for event in closed) == sorted(numbers)
        assert queue_drops(crowd) == 0
    assert service.events()[-1]["flows"] == len(CLIENTS)
    all_gone(processes(service))


def test_limits_are_shared_out(
    crowd: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text("[limits]\nmax_flows = 6\n", encoding="utf-8")
    options = (*TWO, *PYTHON, "--config", str(settings))
    with RunningService(crowd, tmp_path, *options, control_socket=str(control)) as service:
        from_everywhere(peers, port)
        told = ask(control, "flows")
        taken = [sum(f["flow_id"] % 2 == worker for f in told) for worker in (0, 1)]
        assert max(taken) <= 3
        reasons = {event["reason"] for event in service.wait_for("flow.bypassed", port=port)}
        assert reasons == {"flow_table_full"}


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_icmp_errors_find_the_worker_that_has_the_flow(
    crowd: Testbed, peers: Peers, family: Family, tmp_path: Path
) -> None:
    """They come from a router, and the kernel cannot tell what flow they are about."""
    nowhere = family.server[:-1] + "77"
    route = ["route", "add", "prohibit", nowhere]
    crowd.exec("servernic", ["ip", f"-{family.version}", *route], check=True)
    try:
        with RunningService(crowd, tmp_path, *TWO) as service:
            for end in CLIENTS:  # a port each: of a server that is unreachable one learns
                with pytest.raises(ConnectionResetError):
                    connect(peers, end, next_port(), nowhere).recv(1)
            resets = service.wait_for("flow.reset", count=len(CLIENTS))
            assert {event["reason"] for event in resets} == {"unreachable"}
            assert workers_of([event["flow_id"] for event in resets]) == {0, 1}
    finally:
        crowd.exec("servernic", ["ip", f"-{family.version}", "route", "del", nowhere], check=True)


# --- together -----------------------------------------------------------------------------


def test_settings_are_read_again_by_all(
    crowd: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text('workers = 2\nports = "1-65534"\n', encoding="utf-8")
    options = (*PYTHON, "--config", str(settings))
    with RunningService(crowd, tmp_path, *options, control_socket=str(control)) as service:
        before = from_everywhere(peers, port)
        settings.write_text('workers = 2\nstrategy = "observe"\n', encoding="utf-8")
        assert service.process is not None
        service.process.send_signal(signal.SIGHUP)
        assert service.event("service.reloaded")["changed"] == ["ports", "strategy"]
        from_everywhere(peers, port + 10_000)
        for client, server in before:
            transfer(client, server, content(3000))
        strategies = {
            (flow["server"].endswith(f":{port}"), flow["strategy"])
            for flow in ask(control, "flows")
        }
        assert strategies == {(True, "auto"), (False, "observe")}
        settings.write_text("workers = 3\n", encoding="utf-8")
        service.process.send_signal(signal.SIGHUP)
        failed = service.event("service.reload_failed")
        assert failed["error"] == "workers: restart to change this"


def test_what_was_learned_is_that_of_all_and_is_kept(
    crowd: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    keep = ("--state-file", str(state))
    with RunningService(crowd, tmp_path, *TWO, *keep, control_socket=str(control)) as service:
        from_everywhere(peers, port)
        assert [r["about"] for r in ask(control, "learned")] == ["server", "fast_open"]
        forgotten = ask(control, "clear_learned")
        assert (forgotten["servers"], forgotten["habits"]) == (2, 2), "one of each worker"
        assert service.event("service.learned_cleared")["servers"] == 2
        assert ask(control, "learned") == []
        from_everywhere(peers, port + 10_000)
    options = ("--workers", "3", *keep)
    with RunningService(crowd, tmp_path, *options, control_socket=str(control)) as service:
        assert service.event("service.learned_restored")["records"] == 2
        about = {(r["about"], r["server"]) for r in ask(control, "learned")}
        server = f"{peers.family.server}:{port + 10_000}"
        assert about == {("server", server), ("fast_open", server)}


@pytest.mark.alone  # it pumps
def test_ends_under_load(crowd: Testbed, peers: Peers, port: int, tmp_path: Path) -> None:
    with RunningService(crowd, tmp_path, *TWO) as service:
        with Load(peers, port) as load:
            service.wait_for("flow.closed", port=port, count=50)
            service.stop()
            at = load.done
            until(lambda: load.done > at + 10, "connections go direct")
        received = service.events("flow.syn_received")
        assert service.events()[-1]["flows"] == len(received)
        assert len({event["flow_id"] for event in received}) == len(received)
    assert load.wrong == []
    all_gone(processes(service))


class Load:
    """Connections one after the other, from all addresses in turns, while the block runs.

    ``done`` counts those that went well or were reset, ``wrong`` has what else happened.
    """

    def __init__(self, peers: Peers, port: int) -> None:
        self.done = 0
        self.wrong: list[str] = []
        self._peers = peers
        self._port = port
        self._stopped = threading.Event()
        self._connecting, self._answering = (
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (self._connect, self._answer)
        )

    def __enter__(self) -> Self:
        self._listener = self._peers.listen(self._port)
        self._connecting.start()
        self._answering.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in (self._connecting, self._answering):
            thread.join(2 * PATIENCE_S)
            assert not thread.is_alive()

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self.wrong.append(repr(error))

    def _connect(self) -> None:
        while not self._stopped.is_set():
            for end in CLIENTS:
                with suppress(ConnectionResetError):
                    client = connect(self._peers, end, self._port)
                    client.sendall(b"?")
                    client.recv(1)
                    client.close()
                self.done += 1

    def _answer(self) -> None:
        self._listener.settimeout(0.2)
        while self._connecting.is_alive():
            with suppress(TimeoutError, ConnectionResetError, BrokenPipeError):
                server, _ = self._listener.accept()
                server.settimeout(1)
                server.recv(1)
                server.sendall(b"!")
                server.close()


# --- dying --------------------------------------------------------------------------------


def established(service: RunningService, peers: Peers, port: int, control: Path) -> list[Any]:
    """Return connections that the kernel carries."""
    ends = from_everywhere(peers, port)
    service.wait_for("flow.established", port=port, count=len(CLIENTS))
    time.sleep(0.3)  # the moment in which a flow is in both places
    assert {flow["data_path"] for flow in ask(control, "flows")} == {"kernel"}
    return ends


def go_on(ends: list[Any]) -> None:
    for client, server in ends:
        transfer(client, server, content(3000))
        transfer(server, client, content(3000))


@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_is_killed(
    crowd: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path, which: int
) -> None:
    service = RunningService(crowd, tmp_path, *TWO, *KERNEL, control_socket=str(control))
    service.start()
    ends = established(service, peers, port, control)
    first, *workers = processes(service)
    process, service.process = service.process, None
    assert process is not None
    os.kill(workers[which], signal.SIGKILL)
    assert process.wait(5) == 1
    said = service.stderr()
    assert said.startswith(
        f"nfq-zerortt: worker {which + 1} (pid {workers[which]}) has ended by SI"
    )
    assert said.count("\n") == 1
    assert f"(pid {workers[which]})" in service.event("service.worker_lost")["error"]
    stopped = service.events()[-1]
    assert (stopped["event"], stopped["flows_left"]) == ("service.stopped", len(CLIENTS))
    assert service.faults() == []
    all_gone([first, *workers])
    assert not control.exists()
    assert "NFQUEUE" not in rules(crowd)
    go_on(ends)
    with RunningService(crowd, tmp_path, *TWO, *KERNEL, control_socket=str(control)) as second:
        assert second.event("service.flows_adopted")["flows"] == len(CLIENTS)
        numbers = {flow["flow_id"] for flow in ask(control, "flows")}
        go_on(ends)
        from_everywhere(peers, port + 10_000)
        after = {event["flow_id"] for event in second.events("flow.syn_received")}
        assert min(after) > max(numbers)
        assert len(after) == len(CLIENTS)


def test_the_first_process_is_killed(
    crowd: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    service = RunningService(crowd, tmp_path, *TWO, *KERNEL, control_socket=str(control))
    service.start()
    ends = established(service, peers, port, control)
    pids = processes(service)
    service.kill()
    all_gone(pids)
    assert "NFQUEUE" not in rules(crowd)
    assert not control.exists()
    assert service.faults() == []
    go_on(ends)
    for client, server in ends:
        client.close()
        server.close()
    with RunningService(crowd, tmp_path, *TWO, *KERNEL) as second:
        second.wait_for("flow.closed", port=port, count=len(CLIENTS))
    assert "zerortt" not in filters(crowd)


def test_nothing_is_left_of_a_service_without_flows(crowd: Testbed, tmp_path: Path) -> None:
    service = RunningService(crowd, tmp_path, *TWO, *KERNEL)
    service.start()
    pids = processes(service)
    service.kill()
    all_gone(pids)
    assert "ZERORTT" not in rules(crowd)
    assert "zerortt" not in filters(crowd)


def test_flows_of_python_are_reset_when_a_worker_is_killed(
    crowd: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """Those of the others: each end is told. Of its own nobody knows enough to tell anybody."""
    service = RunningService(crowd, tmp_path, *TWO, *PYTHON)
    service.start()
    ends = from_everywhere(peers, port)
    first, *workers = processes(service)
    process, service.process = service.process, None
    assert process is not None
    os.kill(workers[1], signal.SIGKILL)
    assert process.wait(5) == 1
    resets = service.events("flow.reset", port=port)
    assert 0 < len(resets) < len(CLIENTS)
    assert {event["reason"] for event in resets} == {"service_stopped"}
    assert workers_of([event["flow_id"] for event in resets]) == {1}, "the first worker's"
    told = 0
    for client, _ in ends:
        client.settimeout(0.2)
        with suppress(TimeoutError):
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            told += 1
    assert told == len(resets)
    all_gone([first, *workers])


def test_a_worker_hangs(
    crowd: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    """Nobody waits for it for ever."""
    service = RunningService(crowd, tmp_path, *TWO, *KERNEL, control_socket=str(control))
    service.start()
    pids = processes(service)
    os.kill(pids[1], signal.SIGSTOP)
    with pytest.raises(ZeroRttError, match=rf"worker 1 \(pid {pids[1]}\) does not answer|hung up"):
        ask(control, "flows")
    process, service.process = service.process, None
    assert process is not None
    process.send_signal(signal.SIGHUP)
    assert "worker 1" in service.event("service.reload_failed")["error"]
    process.terminate()
    assert process.wait(10) == 1
    assert f"worker 1 (pid {pids[1]}) has not replied" in service.stderr()
    all_gone(pids)
    assert "NFQUEUE" not in rules(crowd)


# --- wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers", "0"), ("--workers", "0", "1 to 16")),
        (("--workers", "17"), ("--workers", "17", "1 to 16")),
        (("--workers", "2", "--queue", "65535"), ("--workers", "65535", "65536")),
    ],
)
def test_wrong_number(network: Testbed, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = run_in_vain(network, *options)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr


def test_one_of_the_queues_is_taken(network: Testbed, tmp_path: Path) -> None:
    with RunningService(network, tmp_path, "--queue", "9", "--no-rules") as service:
        done = run_in_vain(network, "--workers", "3", "--queue", "7", "--no-rules")
        assert done.returncode == 2
        assert "--queue: 9 is in use" in done.stderr
        assert service.process is not None
        assert service.process.poll() is None


def run_in_vain(network: Testbed, *options: str) -> subprocess.CompletedProcess[str]:
    both = ("--client-iface", "eth0", "--server-iface", "eth1", "--control-socket", "")
    return command(network, "run", *both, *options)
