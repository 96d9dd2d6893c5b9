"""Several workers: who gets what, and what they do together."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from support.addresses import FAMILIES, Family
from support.carried import KERNEL, command
from support.counters import queue_drops
from support.load import Load
from support.many_clients import CLIENTS, connect, from_everywhere
from support.peers import Peers, content, next_port, transfer
from support.service import ServiceProcess, rules
from support.waiting import until
from support.workers import PYTHON, TWO, all_gone, processes, workers_of

from nfq_zerortt.observe.control_client import ask
from nfq_zerortt.testbed.network import Testbed

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.mark.parametrize("path", [PYTHON, KERNEL], ids=["python", "kernel"])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_each_worker_has_flows_and_all_are_told_of(
    crowd: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path, path: tuple[str, ...]
) -> None:
    with ServiceProcess(crowd, tmp_path, *TWO, *path, control_socket=str(control)) as service:
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
    with ServiceProcess(crowd, tmp_path, *options, control_socket=str(control)) as service:
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
        with ServiceProcess(crowd, tmp_path, *TWO) as service:
            for end in CLIENTS:  # a port each: of a server that is unreachable one learns
                with pytest.raises(ConnectionResetError):
                    connect(peers, end, next_port(), nowhere).recv(1)
            resets = service.wait_for("flow.reset", count=len(CLIENTS))
            assert {event["reason"] for event in resets} == {"unreachable"}
            assert workers_of([event["flow_id"] for event in resets]) == {0, 1}
    finally:
        crowd.exec("servernic", ["ip", f"-{family.version}", "route", "del", nowhere], check=True)


def test_settings_are_read_again_by_all(
    crowd: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text('workers = 2\nports = "1-65534"\n', encoding="utf-8")
    options = (*PYTHON, "--config", str(settings))
    with ServiceProcess(crowd, tmp_path, *options, control_socket=str(control)) as service:
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
    with ServiceProcess(crowd, tmp_path, *TWO, *keep, control_socket=str(control)) as service:
        from_everywhere(peers, port)
        assert [r["about"] for r in ask(control, "learned")] == ["server", "fast_open"]
        forgotten = ask(control, "clear_learned")
        assert (forgotten["servers"], forgotten["habits"]) == (2, 2), "one of each worker"
        assert service.event("service.learned_cleared")["servers"] == 2
        assert ask(control, "learned") == []
        from_everywhere(peers, port + 10_000)
    options = ("--workers", "3", *keep)
    with ServiceProcess(crowd, tmp_path, *options, control_socket=str(control)) as service:
        assert service.event("service.learned_restored")["records"] == 2
        about = {(r["about"], r["server"]) for r in ask(control, "learned")}
        server = f"{peers.family.server}:{port + 10_000}"
        assert about == {("server", server), ("fast_open", server)}


@pytest.mark.alone  # it pumps
def test_ends_under_load(crowd: Testbed, peers: Peers, port: int, tmp_path: Path) -> None:
    with ServiceProcess(crowd, tmp_path, *TWO) as service:
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
    with ServiceProcess(network, tmp_path, "--queue", "9", "--no-rules") as service:
        done = run_in_vain(network, "--workers", "3", "--queue", "7", "--no-rules")
        assert done.returncode == 2
        assert "--queue: 9 is in use" in done.stderr
        assert service.process is not None
        assert service.process.poll() is None


def run_in_vain(network: Testbed, *options: str) -> subprocess.CompletedProcess[str]:
    both = ("--client-iface", "eth0", "--server-iface", "eth1", "--control-socket", "")
    return command(network, "run", *both, *options)
