"""What is left when one of several workers dies, or hangs."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.carried import KERNEL, filters
from support.many_clients import CLIENTS, from_everywhere
from support.peers import Peers, content, transfer
from support.service import ServiceProcess, rules
from support.workers import PYTHON, TWO, all_gone, processes, workers_of

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.observe.control_client import ask
from nfq_zerortt.testbed.network import Testbed

pytestmark = [pytest.mark.usefixtures("nothing_is_left"), pytest.mark.waits]


def established(service: ServiceProcess, peers: Peers, port: int, control: Path) -> list[Any]:
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
    service = ServiceProcess(crowd, tmp_path, *TWO, *KERNEL, control_socket=str(control))
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
    with ServiceProcess(crowd, tmp_path, *TWO, *KERNEL, control_socket=str(control)) as second:
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
    service = ServiceProcess(crowd, tmp_path, *TWO, *KERNEL, control_socket=str(control))
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
    with ServiceProcess(crowd, tmp_path, *TWO, *KERNEL) as second:
        second.wait_for("flow.closed", port=port, count=len(CLIENTS))
    assert "zerortt" not in filters(crowd)


def test_nothing_is_left_of_a_service_without_flows(crowd: Testbed, tmp_path: Path) -> None:
    service = ServiceProcess(crowd, tmp_path, *TWO, *KERNEL)
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
    service = ServiceProcess(crowd, tmp_path, *TWO, *PYTHON)
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
    service = ServiceProcess(crowd, tmp_path, *TWO, *KERNEL, control_socket=str(control))
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
