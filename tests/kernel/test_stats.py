"""What a running service counts is what was done, whoever asks it, and however rudely."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.carried import KERNEL
from support.counters import queued
from support.fast_open import COOKIES_FOR_ALL
from support.many_clients import CLIENTS, from_everywhere
from support.namespaces import inside
from support.peers import LINGER_0, REQUEST, Peers, content, next_port, receive_all, transfer
from support.said import one_line
from support.service import COMMAND, ENVIRONMENT, ServiceProcess
from support.settings import sysctls
from support.waiting import until
from support.workers import PYTHON

from nfq_zerortt.config import Limits
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.measuring import of_queues
from nfq_zerortt.observe.control_client import ask
from nfq_zerortt.observe.metrics import COUNTER, GAUGE, HISTOGRAM, METRICS
from nfq_zerortt.testbed.network import Testbed

FAST_OPEN_PORT = 8080
SIZE = 3000
NOBODY = 65534


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "control"


def command(control: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command; not in the service's namespace: the socket is in the file system."""
    return subprocess.run(
        (*COMMAND, *words, "--control-socket", str(control)),
        capture_output=True,
        text=True,
        timeout=20,
        env=ENVIRONMENT,
        check=False,
    )


def nonzero(counts: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was never counted, at every level."""
    found = {
        name: nonzero(count) if isinstance(count, dict) else count for name, count in counts.items()
    }
    return {name: count for name, count in found.items() if count}


def close_both(*ends: socket.socket) -> None:
    """Close a connection from its client's end, and wait until both have."""
    client, server = ends
    client.shutdown(socket.SHUT_WR)
    assert receive_all(server) == b""
    server.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b""
    client.close()
    server.close()


# --- counters equal what was done ---------------------------------------------------------


def test_connections_of_each_kind(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    with (
        sysctls(network, "server", COOKIES_FOR_ALL),
        ServiceProcess(network, tmp_path, *PYTHON, control_socket=str(control)) as service,
    ):
        listener = peers.listen(port)
        for _ in range(3):  # that close well
            client, server = peers.connect(port), peers.accept(listener)
            transfer(client, server, content(SIZE))
            transfer(server, client, content(2 * SIZE))
            close_both(client, server)
        for index in (0, 1):  # that are reset, by the client and by the server
            client, server = peers.connect(port), peers.accept(listener)
            transfer(client, server, content(SIZE))
            ends = (client, server)
            ends[index].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
            ends[index].close()
            with suppress(ConnectionResetError):
                assert ends[1 - index].recv(1) == b""
        stays, _ = peers.connect(port), peers.accept(listener)  # that goes on
        refused(peers)  # answered by us, refused by the server; then left alone
        refused(peers)
        for _ in range(2):  # the first asks for a cookie, the second has one
            fast_open(peers)
        backwards(peers)
        service.wait_for("flow.closed", count=8)
        stats = settled(control, network)
        stays.close()
        logged = Counter(event["event"] for event in service.events())
        sums = Counter[str]()
        for event in service.events("flow.closed"):
            sums.update({k: v for k, v in event.items() if k.startswith("bytes_")})
    counters = stats[COUNTER]
    assert nonzero(counters["flows_begun"]) == {"auto": 9}
    assert counters["flows_established"] == {"auto": {"python": 8}}
    assert nonzero(counters["flows_reset"]) == {
        "client_reset": {"client": 1},
        "server_reset": {"server": 1},
        "refused": {"server": 1},
    }
    assert nonzero(counters["flows_closed"]) == {
        "fin": 5,
        "client_reset": 1,
        "server_reset": 1,
        "refused": 1,
    }
    bypassed = nonzero(counters["flows_bypassed"])
    bypassed.pop("mid_stream", None)  # a straggler of an earlier test
    assert bypassed == {"refused_lately": 1, "from_server_side": 1}
    assert nonzero(counters["syns_sent"]) == {"none": 7, "request": 1, "cookie": 1}
    assert counters["fast_open_answers"] == {"accepted": 1, "rejected": 0}
    assert counters["bytes"] == {
        "to_server": 5 * SIZE + 2 * len(REQUEST),
        "to_client": 3 * 2 * SIZE + 2 * len(b"answer"),
    }
    assert counters["bytes"]["to_server"] == sums["bytes_to_server"]
    assert nonzero(counters["problems"]) == {}
    flows = stats[GAUGE]["flows"]
    assert flows["ESTABLISHED"] == {"python": 1}
    assert flows["TIME_WAIT"] == {"python": 5}
    assert flows["RESET"] == {"python": 2}
    captured = logged["flow.synack_captured"]
    assert sum(stats[HISTOGRAM]["server_rtt_seconds"]["counts"]) == captured == 8
    assert sum(stats[HISTOGRAM]["syn_ack_seconds"]["counts"]) == logged["flow.synack_spoofed"] == 9
    # 20 ms to the server and back: eight clients did not wait for that.
    assert 8 * 0.02 <= counters["saved_seconds"]["connect"] < 8
    assert 0.02 <= counters["saved_seconds"]["data"] < 8, "the one that went with the SYN"


def settled(control: Path, network: Testbed) -> dict[str, Any]:
    """Return the numbers, when every packet of the queue has got its verdict and is counted."""

    def all_counted() -> dict[str, Any]:
        stats: dict[str, Any] = ask(control, "stats")
        packets = stats[COUNTER]["packets"]
        done = packets["rewritten"] + packets["forwarded"] + packets["dropped"]
        told = sum(stats[COUNTER]["queue_packets"].values())
        return stats if done == told == queued(network) else {}

    return until(all_counted, lambda: str(ask(control, "stats")))


def refused(peers: Peers) -> None:
    client = peers.tcp("client")
    with suppress(ConnectionRefusedError):
        client.connect((peers.family.server, 19))
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def fast_open(peers: Peers) -> None:
    close_both(*peers.asked_and_answered(FAST_OPEN_PORT))


def backwards(peers: Peers) -> None:
    """Connect from the server to the client."""
    listener = peers.tcp("client")
    listener.bind((peers.family.client, 0))
    listener.listen()
    server = peers.tcp("server")
    server.connect(listener.getsockname())
    peers.accept(listener)


@pytest.mark.parametrize("path", [PYTHON, KERNEL], ids=["python", "kernel"])
def test_two_workers_are_counted_as_one(
    crowd: Testbed,
    peers: Peers,
    port: int,
    control: Path,
    tmp_path: Path,
    path: tuple[str, ...],
) -> None:
    count = len(CLIENTS)
    options = ("--workers", "2", *path)
    with ServiceProcess(crowd, tmp_path, *options, control_socket=str(control)) as service:
        ends = from_everywhere(peers, port)
        by = path[1]
        service.wait_for("flow.established", port=port, count=count)
        if by == "kernel":
            until(
                lambda: ask(control, "stats")[GAUGE]["kernel_entries"]["flow"] == count,
                "all are handed over",
            )
        stats = settled(control, crowd)
        numbers = {event["flow_id"] % 2 for event in service.events("flow.syn_received")}
        assert numbers == {0, 1}, "several workers, and one does all the work"
        assert nonzero(stats[COUNTER]["flows_begun"]) == {"auto": count}
        assert stats[COUNTER]["flows_established"] == {"auto": {by: count}}
        assert stats[GAUGE]["flows"] == {"ESTABLISHED": {by: count}}
        assert stats[GAUGE]["processes"] == 3
        assert stats[GAUGE]["limit"]["flows"] == Limits().max_flows, "not once for each process"
        assert set(stats[COUNTER]["queue_packets"]) == {"0", "1"}
        assert min(stats[COUNTER]["queue_packets"].values()) > 0
        assert stats[GAUGE]["learned"] == {
            "servers": 2,  # each worker's
            "habits": 2,
            "cookies": 0,
            "refusals": 0,
        }
        for client, server in ends:
            close_both(client, server)
        service.wait_for("flow.closed", port=port, count=count)
        counters = ask(control, "stats")[COUNTER]
        assert nonzero(counters["flows_closed"]) == {"fin": count}
        assert counters["bytes"] == {"to_server": count * 3000, "to_client": count * 5000}


def test_what_workers_know_is_not_counted_for_the_first_process_as_well(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    state = ("--state-file", str(tmp_path / "state"))
    with ServiceProcess(network, tmp_path, *state):
        client, server = peers.pair(port)
        transfer(client, server, content(SIZE))
    options = ("--workers", "2", *state)
    with ServiceProcess(network, tmp_path, *options, control_socket=str(control)):
        assert ask(control, "stats")[GAUGE]["learned"]["servers"] == 2


def test_what_a_flood_takes_is_counted(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text("[limits]\nmax_flows = 2\n", encoding="utf-8")
    options = (*PYTHON, "--config", str(settings))
    with ServiceProcess(network, tmp_path, *options, control_socket=str(control)):
        listener = peers.listen(port)
        for _ in range(5):
            peers.connect(port)
            peers.accept(listener)
        stats = ask(control, "stats")
    assert stats[COUNTER]["flows_bypassed"]["flow_table_full"] == 3
    assert stats[GAUGE]["limit"]["flows"] == 2


# --- how it is told -----------------------------------------------------------------------


def test_the_command_tells_it_in_three_ways(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    with ServiceProcess(network, tmp_path, control_socket=str(control)) as service:
        client, server = peers.pair(port)
        transfer(client, server, content(SIZE))
        service.wait_for("flow.established", port=port)
        people = command(control, "stats")
        assert (people.returncode, people.stderr) == (0, "")
        lines = dict(line.split(maxsplit=1) for line in people.stdout.splitlines())
        assert lines["begun"] == "1 auto"
        assert lines["service"].startswith("nfq-zerortt ")
        assert "eth0 > eth1" in lines["service"]
        assert re.search(r" 1; mean [\d.]+ ms, half within [\d.]+ ms, 99 % ", lines["SYN-ACK"])
        told = ask(control, "stats")
        (as_json,) = command(control, "stats", "--json").stdout.splitlines()
        assert f'"flows_begun": {{"auto": 1, ' in as_json  # noqa: F541 - braces
        text = command(control, "stats", "--prometheus").stdout
        found = {family.name: family for family in text_string_to_metric_families(text)}
        for metric in METRICS:
            assert metric.exposed.removesuffix("_total") in found
            assert metric.name in told[metric.kind], metric
        (started,) = found["nfq_zerortt_start_time_seconds"].samples
        assert abs(time.time() - started.value - told["service"]["uptime_s"]) < 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--json", "--prometheus"), "--json"),
        (("--listen", "127.0.0.1:9464"), "--prometheus"),
        (("--allow-remote",), "--listen"),
        (("--prometheus", "--listen", "0.0.0.0:9464"), "--allow-remote"),
        (("--prometheus", "--listen", "[::]:9464"), "--allow-remote"),
        (("--prometheus", "--listen", "127.0.0.1"), "127.0.0.1:9464"),
        (("--prometheus", "--listen", "127.0.0.1:99999"), "127.0.0.1:99999"),
        (("--prometheus", "--listen", "server:80"), "server:80"),
        (("--prometheus", "--listen", "203.0.113.1:9464", "--allow-remote"), "203.0.113.1:9464"),
    ],
)
def test_wrong_options(control: Path, options: tuple[str, ...], words: str) -> None:
    one_line(command(control, "stats", *options), 2, words)


def test_nobody_is_there(control: Path) -> None:
    one_line(command(control, "stats"), 1, f"no service answers at {control}")


@contextmanager
def exporter(control: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        (
            *(*COMMAND, "stats", "--prometheus", "--control-socket", str(control)),
            *("--listen", f"127.0.0.1:{port}"),
        ),
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"serving http://127.0.0.1:{port}/metrics\n"
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number: int = probe.getsockname()[1]
        return number


def scrape(port: int) -> dict[str, float]:
    """Return what a scraper reads, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_it_is_served_over_http(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    number = free_port()
    begun = "nfq_zerortt_flows_begun_total[('strategy', 'auto')]"
    with exporter(control, number) as serving:
        assert scrape(number) == {"nfq_zerortt_up[]": 0}, "no service yet"
        with ServiceProcess(network, tmp_path, control_socket=str(control)):
            assert scrape(number)["nfq_zerortt_up[]"] == 1
            assert scrape(number)[begun] == 0
            asked = urllib.request.Request(
                f"http://127.0.0.1:{number}/metrics", headers={"Host": "evil.example"}
            )
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(asked, timeout=20)
            peers.pair(port)
            assert scrape(number)[begun] == 1
            options = ("--prometheus", "--listen", f"127.0.0.1:{number}")
            one_line(command(control, "stats", *options), 1, f"port {number}", "in use", "--listen")
        assert scrape(number) == {"nfq_zerortt_up[]": 0}
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(10) == 0


# --- what else can be asked ---------------------------------------------------------------


def test_what_the_service_is(network: Testbed, control: Path, tmp_path: Path) -> None:
    with ServiceProcess(network, tmp_path, *PYTHON, control_socket=str(control)) as service:
        told = ask(control, "service")
        ready = service.event("service.ready")
        same = told.keys() & ready.keys()
        assert len(same) > 8
        assert {key: told[key] for key in same} == {key: ready[key] for key in same}
        with inside(network.netns("clientnic")):
            assert told["network_namespace"] == Path("/proc/thread-self/ns/net").stat().st_ino
        assert ask(control, "stats")["service"].keys() == told.keys()
    documented = (Path(__file__).parents[2] / "docs/reference/control.md").read_text()
    section = documented.partition("\n## The service\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", section, re.M)))) == set(
        told
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_last_events_are_those_of_the_log(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path, workers: str
) -> None:
    options = (*PYTHON, "--workers", workers)
    with ServiceProcess(network, tmp_path, *options, control_socket=str(control)) as service:
        listener = peers.listen(port)
        for _ in range(2):
            client, server = peers.connect(port), peers.accept(listener)
            transfer(client, server, content(SIZE))
            close_both(client, server)
        service.wait_for("flow.closed", port=port, count=2)
        first, second = sorted(
            {event["flow_id"] for event in service.events("flow.syn_received", port=port)}
        )
        for flow_id in (first, second):
            told = ask(control, "events", flow_id=flow_id)
            logged = [e for e in service.events(port=port) if e["flow_id"] == flow_id]
            assert [without_time(event) for event in told] == [without_time(e) for e in logged]
            assert len(told) >= 6
        everything = [event["event"] for event in ask(control, "events")]
        assert "service.ready" in everything
        assert everything.count("flow.closed") == 2
        assert ask(control, "events", flow_id=123_456) == []
        with pytest.raises(ZeroRttError, match="whole number"):
            ask(control, "events", flow_id="1")


def without_time(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "timestamp"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_level_of_the_log_at_run_time(
    network: Testbed, peers: Peers, control: Path, tmp_path: Path, workers: str
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text('log_level = "info"\n', encoding="utf-8")
    options = ("--config", str(settings), "--workers", workers)
    with ServiceProcess(network, tmp_path, *options, control_socket=str(control)) as service:

        def packets_are_logged() -> bool:
            port = next_port()
            client, server = peers.pair(port)
            transfer(client, server, content(SIZE))
            close_both(client, server)
            service.wait_for("flow.closed", port=port)
            return any(event["event"] == "packet.rewritten" for event in service.events(port=port))

        def path_of_a_new_flow() -> str:
            """Return who rewrites the packets of a connection some time after its handshakes."""
            port = next_port()
            peers.pair(port)
            service.wait_for("flow.established", port=port)
            time.sleep(0.4)  # a flow is handed over after 50 ms
            (flow,) = [f for f in ask(control, "flows") if f["server"].endswith(f":{port}")]
            return str(flow["data_path"])

        assert ask(control, "log_level") == {"level": "info", "was": "info"}
        assert not packets_are_logged()
        assert path_of_a_new_flow() == "kernel"
        assert ask(control, "log_level", level="debug") == {"level": "debug", "was": "info"}
        assert packets_are_logged()
        assert ask(control, "service")["log_level"] == "debug"
        assert path_of_a_new_flow() == "python", "the kernel would not tell of its packets"
        with pytest.raises(ZeroRttError, match="allowed are debug, info, warning, error"):
            ask(control, "log_level", level="loud")
        assert service.process is not None
        service.process.send_signal(signal.SIGHUP)
        service.wait_for("service.reloaded")
        assert ask(control, "log_level")["level"] == "info"
        assert not packets_are_logged()
        ask(control, "log_level", level="warning")
        said = service.wait_for("service.log_level", count=2)
        assert [(event["log_level"], event["was"]) for event in said] == [
            ("debug", "info"),
            ("warning", "info"),
        ]
        done = command(control, "log-level", "info")  # its end is to be seen
        assert (done.returncode, done.stdout) == (0, "info (was warning)\n")
        assert command(control, "log-level").stdout == "info\n"
        one_line(command(control, "log-level", "loud"), 2, "loud", "debug, info, warning, error")


# --- askers that do not behave ------------------------------------------------------------


def test_rude_askers_delay_no_packet(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    """They ask for all there is and read nothing; each client is answered at its first SYN."""
    count = 40
    with ServiceProcess(network, tmp_path, *PYTHON, control_socket=str(control)) as service:
        listener = peers.listen(port)
        for _ in range(20):
            peers.connect(port)
            peers.accept(listener)
        rude = [socket.socket(socket.AF_UNIX) for _ in range(6)]
        try:
            for one, name in zip(rude, ("stats", "events", "flows") * 2, strict=True):
                one.connect(str(control))
                one.settimeout(0.2)
                with suppress(TimeoutError):
                    while True:
                        one.sendall(f'{{"request":"{name}"}}\n'.encode() * 50)
            for _ in range(count - 20):
                client, server = peers.connect(port), peers.accept(listener)
                transfer(client, server, content(30_000))
            stats = ask(control, "stats")
        finally:
            for one in rude:
                one.close()
        assert nonzero(stats[COUNTER]["flows_begun"]) == {"auto": count}
        for name in ("flow.syn_received", "flow.synack_spoofed"):
            assert len(service.events(name, port=port)) == count, "no client had to ask twice"
        assert nonzero(stats[COUNTER]["queue_dropped"]) == {}


def test_where_the_queues_numbers_are_not_for_its_user_the_rest_is_told() -> None:
    """As under systemd, where it has a user of its own."""
    before = os.geteuid()
    everything = range(65_536)
    there = len(of_queues(everything)[GAUGE]["queue_waiting"])
    assert of_queues(everything)[GAUGE]["queues_unread"] == len(everything) - there
    os.seteuid(NOBODY)
    try:
        told = of_queues(everything)
    finally:
        os.seteuid(before)
    assert nonzero(told[COUNTER]) == {}
    assert nonzero(told[GAUGE]) == {"queues_unread": len(everything)}
