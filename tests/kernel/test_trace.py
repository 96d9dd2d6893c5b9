"""``nfq-zerortt trace`` beside a running service: what it writes, by two other accounts of it."""

from __future__ import annotations

import array
import fcntl
import os
import re
import resource
import signal
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, TCPerror
from scapy.layers.inet6 import IPv6
from scapy.utils import RawPcapNgReader
from support.captures import CLIENT_SIDE, SERVER_SIDE, Captures
from support.peers import Peers, content, transfer
from support.service import COMMAND, ENVIRONMENT
from support.tracing import BY_NAME, SITUATIONS, RunningTrace, Situation, ran, service_for
from support.waiting import until

from nfq_zerortt.observe.capture import Tcpdump
from nfq_zerortt.testbed.network import Testbed
from nfq_zerortt.tracing.packets import Role
from tests.traces import (
    analysed,
    check_by_log,
    check_comments,
    comments_of,
    events_of,
    fields_by_scapy,
    fields_by_tshark,
    tshark,
)

SUMMARY = re.compile(
    r"nfq-zerortt: (\d+) packets? of (\d+) flows?, (\d+) with a comment, "
    r"(\d+) dropped by the kernel; in (.*)"
)


def summary(trace: RunningTrace) -> list[str]:
    """What it said last: packets, flows, comments, dropped, files."""
    match = SUMMARY.fullmatch(trace.said.splitlines()[-1])
    assert match, trace.said
    return list(match.groups())


@pytest.fixture(params=SITUATIONS, ids=lambda situation: situation.name)
def situation(request: pytest.FixtureRequest) -> Situation:
    chosen: Situation = request.param
    return chosen


def test_every_packet_is_there_and_what_became_of_it(
    network: Testbed, situation: Situation, port: int, tmp_path: Path
) -> None:
    """Against the service's log, which names each packet; and against tcpdump at both sides."""
    file = tmp_path / "t.pcapng"
    peers = Peers(network, situation.family)
    with service_for(network, tmp_path, situation, "--log-level", "debug") as (service, control):
        with (
            Captures(network, tmp_path, port, errors=True) as captures,
            RunningTrace(network, file, "--control-socket", control) as trace,
        ):
            situation.play(network, peers, port)
            peers.close()
        assert trace.status == 0, trace.said
        log = service.log_file
    _, packets = analysed(file)
    met = check_by_log(packets, events_of(log))
    assert sum(met.values()) >= 4
    counted = summary(trace)
    assert counted[1] == "1"
    assert counted[3] == "0"
    with RawPcapNgReader(str(file)) as reader:
        written = [(about.ifname, raw) for raw, about in reader]
    assert len(written) == int(counted[0])
    for name, point in ((b"eth0", CLIENT_SIDE), (b"eth1", SERVER_SIDE)):
        ours = sorted(raw for ifname, raw in written if ifname == name)
        seen = [*captures.packets[point], *captures.errors[point]]
        theirs = sorted(headers_of(packet.raw) for packet in seen)
        assert ours == theirs
    check_comments(comments_of(file), fields_by_scapy(file))


def headers_of(raw: bytes) -> bytes:
    """Return a packet without its data, by scapy; of an ICMP error, without that of its quote."""
    packet = IP(raw) if raw[0] >> 4 == 4 else IPv6(raw)
    if TCP in packet:
        return raw[: len(raw) - len(packet[TCP].payload)]
    quoted = raw.index(bytes(packet[TCPerror])[:20])
    return raw[: quoted + packet[TCPerror].dataofs * 4]


@pytest.mark.parametrize("name", ["fastopen", "workers_kernel", "refused"])
def test_tshark_reads_it(network: Testbed, name: str, port: int, tmp_path: Path) -> None:
    situation, file = BY_NAME[name], tmp_path / "t.pcapng"
    peers = Peers(network)
    with service_for(network, tmp_path, situation) as (_, control):
        options = ("--control-socket", control, "--snaplen", "65535")
        with RunningTrace(network, file, *options) as trace:
            situation.play(network, peers, port)
            peers.close()
    assert trace.status == 0, trace.said
    comments = comments_of(file)
    shown = tshark(
        file, "frame.number", "frame.interface_name", "frame.interface_description", "frame.comment"
    )
    assert {tuple(line[1:3]) for line in shown} == {
        ("eth0", "towards the clients"),
        ("eth1", "towards the servers"),
    }
    for number, _, _, comment in shown:
        assert comment.replace("\\n", "\n") == comments.get(int(number), "")
    check_comments(comments, fields_by_tshark(file))
    # With all of their data there, the checksums of what left can be judged, too.
    judged = tshark(
        file, "frame.packet_flags_direction", "tcp.checksum.status", options=_JUDGE_CHECKSUMS
    )
    left = [status for direction, status in judged if int(direction, 16) == 2]
    assert left
    if "kernel" not in name:  # what the kernel carries, a network card may still have to complete
        assert set(left) == {"1"}, "tshark says that a checksum is wrong"


_JUDGE_CHECKSUMS = ("-o", "tcp.check_checksum:TRUE")


# Beside one service, for all that follows.


@pytest.fixture(scope="module")
def control(network: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The control socket of a service that runs."""
    directory = tmp_path_factory.mktemp("trace")
    with service_for(network, directory, BY_NAME["hold"]) as (_, path):
        yield path


def test_one_flow_alone(
    network: Testbed, peers: Peers, control: str, port: int, tmp_path: Path
) -> None:
    """An endpoint chooses those to come; a flow_id one that is there."""
    one, other = tmp_path / "one.pcapng", tmp_path / "other.pcapng"
    chosen = ("--control-socket", control, "--flow", f"10.0.3.2:{port}")
    with RunningTrace(network, one, *chosen) as trace:
        client, server = peers.pair(port)
        elsewhere = peers.pair(port + 5000)
        transfer(client, server, content(1000))
        transfer(*elsewhere, content(1000))
    assert summary(trace)[1] == "1"
    flow, _ = analysed(one)
    assert flow.server == ("10.0.3.2", port)
    number = flow_id(network, control, flow.name)
    options = ("--control-socket", control, "--flow", str(number))
    with RunningTrace(network, other, *options) as trace:
        transfer(client, server, content(1000))
        transfer(*elsewhere, content(1000))
    later, packets = analysed(other)
    assert later.name == flow.name
    assert later.delta == flow.delta, "found without the handshake"
    assert Role.MADE not in {packet.role for packet in packets}


def flow_id(network: Testbed, control: str, name: str) -> int:
    done = ran(network, "flows", "--json", "--control-socket", control)
    match = re.search(rf'"flow_id": (\d+), "flow": "{re.escape(name)}"', done.stdout)
    assert match, done.stdout + done.stderr
    return int(match[1])


def test_it_ends_after_so_many_packets(
    network: Testbed, peers: Peers, control: str, port: int, tmp_path: Path
) -> None:
    file = tmp_path / "t.pcapng"
    with RunningTrace(network, file, "--control-socket", control, "--count", "7") as trace:
        transfer(*peers.pair(port), content(1000))
        trace.wait()
    assert (trace.status, summary(trace)[0]) == (0, "7")
    with RawPcapNgReader(str(file)) as reader:
        assert len(list(reader)) == 7


def test_it_ends_after_its_time(network: Testbed, control: str, tmp_path: Path) -> None:
    options = ("--control-socket", control, "--duration", "0.5")
    with RunningTrace(network, tmp_path / "t.pcapng", *options) as trace:
        trace.wait()
    assert (trace.status, summary(trace)[0]) == (0, "0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_completes_the_file(
    network: Testbed,
    peers: Peers,
    control: str,
    port: int,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    file = tmp_path / "t.pcapng"
    with RunningTrace(network, file, "--control-socket", control) as trace:
        transfer(*peers.pair(port), content(1000))
        trace.end(number)
    assert trace.status == 0, trace.said
    with RawPcapNgReader(str(file)) as reader:
        assert len(list(reader)) == int(summary(trace)[0]) > 8
    assert captures_running(network) == []


def captures_running(network: Testbed) -> list[str]:
    done = network.exec("clientnic", ["ps", "-eo", "args"], timeout_s=10)
    return [line for line in done.stdout.splitlines() if "ifindex" in line]


def test_a_killed_trace_leaves_no_capture_behind(
    network: Testbed, peers: Peers, control: str, port: int, tmp_path: Path
) -> None:
    """Not longer than until the next packet, which tcpdump cannot get rid of."""
    file = tmp_path / "t.pcapng"
    with RunningTrace(network, file, "--control-socket", control) as trace:
        trace.process.kill()
        trace.wait()
        client, server = peers.pair(port)
        transfer(client, server, content(100))
    assert until(lambda: captures_running(network) == [], lambda: "tcpdump's end")


def test_the_file_is_there_while_it_is_written(
    network: Testbed, peers: Peers, control: str, port: int, tmp_path: Path
) -> None:
    file = tmp_path / "t.pcapng"

    def read() -> int:
        with RawPcapNgReader(str(file)) as reader:
            return len(list(reader))

    with RunningTrace(network, file, "--control-socket", control) as trace:
        transfer(*peers.pair(port), content(1000))
        until(lambda: read() > 8, lambda: "packets in the file")
    assert trace.status == 0


def test_it_can_be_read_from_a_pipe(
    network: Testbed, peers: Peers, control: str, port: int
) -> None:
    process = network.popen(
        "clientnic",
        [*COMMAND, "trace", "-", "--control-socket", control, "--count", "8"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stderr is not None
    assert b"tracing" in process.stderr.readline()
    transfer(*peers.pair(port), content(1000))
    out, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert out.startswith(b"\x0a\x0d\x0d\x0a")
    assert b"8 packets of 1 flow" in said


@pytest.mark.parametrize("gone", [False, True])
def test_a_reader_that_does_not_read_is_left(
    network: Testbed, peers: Peers, control: str, port: int, *, gone: bool
) -> None:
    """One that has stopped is waited for until a signal comes; one that has gone away is not."""
    reading, writing = os.pipe()
    process = network.popen(
        "clientnic",
        [*COMMAND, "trace", "-", "--control-socket", control],
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    os.close(writing)
    assert process.stderr is not None
    try:
        assert b"tracing" in process.stderr.readline()
        if gone:
            os.close(reading)
        else:
            transfer(*peers.pair(port), content(400_000))
            until(lambda: waiting_in(reading) > 60_000, "the pipe is full")
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
        if not gone:
            os.close(reading)
    assert process.returncode == 1
    words = "has gone away: the trace is ended" if gone else "has stopped reading: the trace breaks"
    assert said.decode().startswith(f"nfq-zerortt: the reader of stdout {words}")
    assert len(said.splitlines()) == 1


def waiting_in(pipe: int) -> int:
    """Return how many bytes are in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_the_ring_keeps_the_newest(
    network: Testbed, peers: Peers, control: str, port: int, tmp_path: Path
) -> None:
    ring = ("--ring", "0.02", "--keep", "3", "--control-socket", control)
    with RunningTrace(network, tmp_path / "t.pcapng", *ring) as trace:
        transfer(*peers.pair(port), content(300_000))
    there = sorted(path for path in tmp_path.iterdir() if path.suffix == ".pcapng")
    assert len(there) == 3
    assert summary(trace)[4] == ", ".join(map(str, there))
    for path in there:
        assert path.stat().st_size < 40_000
        with RawPcapNgReader(str(path)) as reader:
            assert list(reader)


def test_what_ends_a_trace_is_said(
    network: Testbed, peers: Peers, control: str, port: int, tmp_path: Path
) -> None:
    """tcpdump killed; and a file that may grow no more, as on a full disk."""
    file = tmp_path / "t.pcapng"
    with RunningTrace(network, file, "--control-socket", control) as trace:
        transfer(*peers.pair(port), content(1000))
        (child,) = (
            Path(f"/proc/{trace.process.pid}/task/{trace.process.pid}/children")
            .read_text(encoding="ascii")
            .split()
        )
        os.kill(int(child), signal.SIGKILL)
        trace.wait()
    assert trace.status == 1
    (said,) = trace.said.splitlines()[1:]
    ended = "nfq-zerortt: tcpdump on eth0 and eth1 was ended by signal 9 (Killed); "
    assert re.fullmatch(re.escape(ended) + r"\d+ packets had been taken by then", said)
    with RawPcapNgReader(str(file)) as reader:
        assert list(reader)
    with RunningTrace(network, file, "--control-socket", control) as trace:
        resource.prlimit(trace.process.pid, resource.RLIMIT_FSIZE, (5000, 5000))
        transfer(*peers.pair(port + 5000), content(200_000))
        trace.wait()
    assert trace.status == 1
    (said,) = trace.said.splitlines()[1:]
    assert said.startswith(f"nfq-zerortt: {file}: File too large: the trace ends there, and can be")
    assert re.search(r"; \d+ packets had been taken by then$", said)
    with RawPcapNgReader(str(file)) as reader:
        assert list(reader)


def test_without_a_service_the_interfaces_are_to_be_named(network: Testbed, tmp_path: Path) -> None:
    file, nobody = tmp_path / "t.pcapng", str(tmp_path / "none.sock")
    failed = ran(network, "trace", str(file), "--control-socket", nobody)
    assert failed.returncode == 1
    assert "no service answers" in failed.stderr
    assert "--client-iface and --server-iface" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_wrong_uses_are_said_in_a_line(network: Testbed, control: str, tmp_path: Path) -> None:
    file = str(tmp_path / "t.pcapng")
    for arguments, status, message in (
        ((file, "--client-iface", "nosuch", "--server-iface", "eth1"), 2, "interface 'nosuch'"),
        ((file, "--client-iface", "eth1", "--server-iface", "eth1"), 2, "are both 'eth1'"),
        ((file, "--flow", "x:y"), 2, "--flow 'x:y': allowed is"),
        ((file, "--flow", "999999999"), 2, "no flow of that number"),
        ((str(tmp_path / "none" / "t.pcapng"),), 2, "No such file or directory"),
        (("-", "--ring", "5"), 2, "--ring"),
        ((file, "--snaplen", "5"), 2, "--snaplen"),
        ((file, "--duration", "0"), 2, "--duration"),
        (("/dev/full",), 1, "/dev/full: No space left on device: the trace ends there"),
    ):
        done = ran(network, "trace", *arguments, "--control-socket", control)
        assert done.returncode == status, (arguments, done.stderr)
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not Path(file).exists()


def test_elsewhere_it_says_where_the_service_is(
    network: Testbed, control: str, tmp_path: Path
) -> None:
    arguments = ("trace", str(tmp_path / "t.pcapng"), "--control-socket", control)
    done = ran(network, *arguments, host="servernic")
    assert done.returncode == 2
    assert "another network namespace: run trace there, as in nsenter --net=/proc/" in done.stderr


@pytest.mark.parametrize(
    ("link_type", "where"),
    [
        ("LINUX_SLL2", r"interface \d+ towards the client, interface \d+ towards the server"),
        ("LINUX_SLL", "clients' side towards the client, servers' side"),
    ],
)
def test_a_capture_of_tcpdump_s_is_explained_as_well(
    network: Testbed, control: str, port: int, tmp_path: Path, link_type: str, where: str
) -> None:
    """Of all interfaces, as one takes it without this program: both sides are in it.

    Tcpdump before 4.99.0 writes Linux cooked v1, which does not name the interfaces.
    """
    file = tmp_path / "any.pcap"
    with file.open("wb") as out:
        capture = Tcpdump(
            "any",
            ("-i", "any", "-y", link_type),
            f"tcp port {port}",
            out.fileno(),
            lambda argv, **keywords: network.popen("clientnic", argv, **keywords),
        )
    peers = Peers(network)
    try:
        BY_NAME["hold"].play(network, peers, port)
        peers.close()
        capture.ask_to_end()
        capture.counts()
    finally:
        capture.abort()
    said = ran(network, "explain", str(file)).stdout
    assert re.search(rf"From a capture of both sides \({where}", said), said
    assert "spoofed here" in said
    assert "2000 bytes of early data" in said
