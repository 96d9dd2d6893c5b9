"""Starting, stopping, dying and starting again; and what an administrator can get wrong."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.captures import Captures
from support.judge.links import check_checksums, check_untouched
from support.namespaces import UNPRIVILEGED
from support.peers import Peers, content, transfer
from support.said import one_line
from support.service import BOTH_SIDES, COMMAND, ENVIRONMENT, ServiceProcess, rules
from support.waiting import PATIENCE_S

from nfq_zerortt.testbed.network import Testbed

FOREIGN = """\
*raw
-A PREROUTING -i lo -j ACCEPT
COMMIT
*mangle
:OTHERS - [0:0]
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -p udp -j OTHERS
-A OTHERS -j RETURN
COMMIT
*filter
-A FORWARD -p tcp -m tcp --dport 1 -j DROP
COMMIT
"""


@pytest.fixture
def foreign(network: Testbed) -> Iterator[str]:
    """Somebody else's rules on clientnic; they must be there afterwards as they were."""
    before = rules(network)
    assert "ZERORTT" not in before
    done = network.exec("clientnic", ["iptables-legacy-restore", "--noflush"], stdin=FOREIGN)
    assert done.returncode == 0, done.stderr
    loaded = rules(network)
    yield loaded
    after = rules(network)
    for table in ("raw", "mangle", "filter"):
        network.exec("clientnic", ["iptables-legacy", "-t", table, "-F"], check=True)
        network.exec("clientnic", ["iptables-legacy", "-t", table, "-X"], check=True)
    assert after == loaded


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_on_a_signal_and_takes_its_rules_along(
    network: Testbed, tmp_path: Path, foreign: str, number: signal.Signals
) -> None:
    service = ServiceProcess(network, tmp_path)
    service.start()
    assert "ZERORTT" in rules(network)
    service.stop(number)
    assert rules(network) == foreign


def test_ends_open_connections_so_that_both_ends_know(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """With the kernel's data path they go on: tests/kernel/test_kernel_survival.py."""
    service = ServiceProcess(network, tmp_path, "--data-path", "python")
    service.start()
    with Captures(network, tmp_path, port) as captures:
        listener = peers.listen(port)
        ends = []
        for _ in range(3):
            client = peers.connect(port)
            server = peers.accept(listener)
            transfer(client, server, content(3000))
            transfer(server, client, content(3000))
            ends += [client, server]
        service.stop()
        for end in ends:
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    check_checksums(captures)
    resets = service.events("flow.reset", port=port)
    assert [event["reason"] for event in resets] == ["service_stopped"] * 3
    assert len(service.events("flow.closed", port=port)) == 3


def test_ends_connections_whose_server_has_not_answered(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    silence = ["INPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP"]
    network.exec("server", ["iptables-legacy", "-A", *silence], check=True)
    try:
        with ServiceProcess(network, tmp_path) as service:
            client = peers.connect(port)
            client.sendall(b"into the void")
            service.wait_for("flow.data_held", port=port)
            service.wait_for("flow.syn_forwarded", port=port, count=2)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    finally:
        network.exec("server", ["iptables-legacy", "-D", *silence], check=True)


def test_server_that_never_answers_is_given_up(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text("[limits]\nsyn_retry_ms = 50\nsyn_retries = 2\n")
    silence = ["INPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP"]
    network.exec("server", ["iptables-legacy", "-A", *silence], check=True)
    try:
        with ServiceProcess(network, tmp_path, "--config", str(settings)) as service:
            client = peers.connect(port)
            client.sendall(b"into the void")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            reset = service.event("flow.reset", port=port)
            assert (reset["reason"], reset["by"]) == ("no_answer", "clientnic")
            assert [e["attempt"] for e in service.events("flow.syn_forwarded", port=port)] == [
                1,
                2,
                3,
            ]
    finally:
        network.exec("server", ["iptables-legacy", "-D", *silence], check=True)


def test_starts_again_after_a_crash(
    network: Testbed, peers: Peers, port: int, tmp_path: Path, foreign: str
) -> None:
    crashed = ServiceProcess(network, tmp_path)
    crashed.start()
    crashed.kill()
    assert "ZERORTT" in rules(network), "the crash was meant to leave rules behind"
    with Captures(network, tmp_path, port) as captures:  # fail open: as if it were not there
        client, server = peers.pair(port)
        transfer(client, server, content(3000))
        client.close()
        server.close()
    check_untouched(captures)
    with ServiceProcess(network, tmp_path) as service:
        client, server = peers.pair(port + 10_000)
        transfer(client, server, content(3000))
        service.event("flow.established", port=port + 10_000)
        peers.close()
    assert rules(network) == foreign


def test_only_the_named_ports_are_served(network: Testbed, peers: Peers, tmp_path: Path) -> None:
    named, other = 61_080, 61_081
    with ServiceProcess(network, tmp_path, "--ports", f"{named},9000-9010") as service:
        for port in (named, other):
            client, server = peers.pair(port)
            transfer(client, server, content(3000))
        service.event("flow.established", port=named)
        assert service.events(port=other) == []
        peers.close()


def test_config_file_is_read_and_flags_win(network: Testbed, tmp_path: Path) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text('strategy = "observe"\nlog_level = "debug"\nqueue = 7\n')
    options = ("--config", str(settings), "--strategy", "hold")
    with ServiceProcess(network, tmp_path, *options) as service:
        assert "--queue-num 7" in rules(network)
        assert service.event("service.ready")["strategy"] == "hold"


def test_every_line_of_the_log_is_complete(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with ServiceProcess(network, tmp_path, "--log-level", "debug") as service:
        client, server = peers.pair(port)
        transfer(client, server, b"x")
        client.close()
        server.close()
        service.event("flow.closed", port=port)
    events = service.events()
    assert {"packet.rewritten", "packet.dropped", "packet.injected"} <= {e["event"] for e in events}
    levels = {"flow.closed": "info", "packet.rewritten": "debug", "service.ready": "info"}
    for event in events:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event["timestamp"])
        assert event["level"] == levels.get(event["event"], event["level"])
        if event["event"].startswith("flow."):
            assert event["flow_id"] > 0
            # Perhaps of an earlier test: its last packets may still be on their way.
            assert re.fullmatch(r"\S+:\d+>\S+:\d+", event["flow"])
        for name in ("seq", "ack", "new_seq", "new_ack", "isn_client", "isn_server", "delta"):
            assert 0 <= event.get(name, 0) < 2**32
    assert [event["timestamp"] for event in events] == sorted(e["timestamp"] for e in events)


def test_second_service_on_the_same_queue_is_refused(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with ServiceProcess(network, tmp_path) as service:
        before = rules(network)
        expect_error(network, BOTH_SIDES, status=2, words=("--queue", "in use"), left=before)
        client, server = peers.pair(port)
        transfer(client, server, content(3000))
        service.event("flow.established", port=port)
        peers.close()


def expect_error(
    network: Testbed,
    options: Sequence[str],
    *,
    status: int,
    words: Sequence[str],
    left: str = "",
    command: Sequence[str] = COMMAND,
) -> None:
    """``run`` must say what is wrong in one line, and leave everything as it was."""
    before = left or rules(network)
    done = subprocess.run(
        ("ip", "netns", "exec", network.netns("clientnic"), *command, "run", *options),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=ENVIRONMENT,
        check=False,
    )
    one_line(done, status, *words)
    assert rules(network) == before


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ((), 2, ("--client-iface",)),
        (("--client-iface", "eth0"), 2, ("--server-iface",)),
        (("--client-iface", "eth0", "--server-iface", "eth9"), 2, ("--server-iface", "eth9")),
        (("--client-iface", "nope", "--server-iface", "eth1"), 2, ("--client-iface", "nope")),
        (("--client-iface", "eth0", "--server-iface", "eth0"), 2, ("eth0",)),
        ((*BOTH_SIDES, "--strategy", "warp"), 2, ("--strategy", "warp", "hold")),
        ((*BOTH_SIDES, "--data-path", "warp"), 2, ("--data-path", "warp", "python")),
        ((*BOTH_SIDES, "--ports", "80,,443"), 2, ("--ports", "80,,443")),
        ((*BOTH_SIDES, "--ports", "70000"), 2, ("--ports", "70000", "65535")),
        ((*BOTH_SIDES, "--ports", "90-80"), 2, ("--ports", "90-80")),
        ((*BOTH_SIDES, "--queue", "65536"), 2, ("--queue", "65536", "65535")),
        ((*BOTH_SIDES, "--queue", "x"), 2, ("--queue", "x")),
        ((*BOTH_SIDES, "--log-level", "loud"), 2, ("--log-level", "loud", "debug")),
        ((*BOTH_SIDES, "--log-format", "xml"), 2, ("--log-format", "xml", "json")),
        ((*BOTH_SIDES, "--log-file", "/nowhere/log"), 2, ("--log-file", "/nowhere/log")),
        ((*BOTH_SIDES, "--warp"), 2, ("--warp",)),
        ((*BOTH_SIDES, "--config", "/nowhere.toml"), 2, ("/nowhere.toml",)),
    ],
)
def test_wrong_flag(
    network: Testbed, options: tuple[str, ...], status: int, words: tuple[str, ...]
) -> None:
    expect_error(network, options, status=status, words=words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stratgy = 'hold'", ("stratgy", "strategy")),
        ("strategy = 7", ("strategy", "7")),
        ("strategy = 'warp'", ("strategy", "warp", "hold")),
        ("ports = '0'", ("ports", "0")),
        ("log_level = 'loud'", ("log_level", "loud")),
        ("[limits]\nmax_flow = 3", ("max_flow", "max_flows")),
        ("[limits]\nmax_flows = 0", ("max_flows", "0", "1")),
        ("limits = 3", ("limits",)),
        ("no toml at all", ("TOML",)),
    ],
)
def test_wrong_configuration(
    network: Testbed, tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text(text + "\n")
    options = (*BOTH_SIDES, "--config", str(settings))
    expect_error(network, options, status=2, words=(str(settings), *words))


def test_without_privilege(network: Testbed) -> None:
    command = (*UNPRIVILEGED, *COMMAND)
    expect_error(network, BOTH_SIDES, status=3, words=("root",), command=command)
