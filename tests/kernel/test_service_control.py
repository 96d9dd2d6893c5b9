"""What a running service tells of itself, forgets when asked, and keeps across restarts."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.addresses import IPV6
from support.fast_open import COOKIES_FOR_ALL
from support.peers import REQUEST, Peers, content, transfer
from support.said import one_line
from support.service import BOTH_SIDES, COMMAND, ENVIRONMENT, ServiceProcess
from support.settings import sysctls
from support.waiting import until

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.observe.control_client import ask
from nfq_zerortt.testbed.network import Testbed

FAST_OPEN_PORT = 8080
REFUSING_PORT = 19


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def running(network: Testbed, tmp_path: Path, path: Path) -> Iterator[ServiceProcess]:
    python = ("--data-path", "python")  # the kernel's flows: test_kernel_survival.py
    with ServiceProcess(network, tmp_path, *python, control_socket=str(path)) as service:
        yield service


def flows(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command; not in the service's namespace: the socket is in the file system."""
    return subprocess.run(
        (*COMMAND, "flows", "--control-socket", str(path), *options),
        capture_output=True,
        text=True,
        timeout=20,
        env=ENVIRONMENT,
        check=False,
    )


def told(path: Path, *options: str) -> Any:
    done = flows(path, "--json", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def exchange(peers: Peers, port: int) -> None:
    """Make a connection whose client speaks at once, and close it."""
    for end in peers.asked_and_answered(port):
        end.close()


# --- flows --------------------------------------------------------------------------------


def test_flows_are_told_as_the_log_tells_them(
    running: ServiceProcess, network: Testbed, peers: Peers, port: int, path: Path
) -> None:
    assert told(path) == []
    assert flows(path).stdout == "no flows\n"
    six = Peers(network, IPV6)
    client, server = peers.pair(port)
    transfer(client, server, content(3000))
    transfer(server, client, content(5000))
    six.pair(port)
    running.wait_for("flow.established", port=port, count=2)
    first, second = told(path)
    assert first["flow"] == running.events("flow.syn_received", port=port)[0]["flow"]
    captured = running.events("flow.synack_captured", port=port)[0]
    assert first["delta"] == captured["delta"]
    assert first["isn_server"] == captured["isn_server"]
    assert first["server_rtt_ms"] == first["connected_earlier_ms"] == captured["server_rtt_ms"]
    assert (first["bytes_to_server"], first["bytes_to_client"]) == (3000, 5000)
    assert (first["state"], first["data_path"]) == ("ESTABLISHED", "python")
    assert second["server"] == f"[{IPV6.server}]:{port}"

    table = flows(path).stdout.splitlines()
    assert [line.rstrip() for line in table] == table
    assert len(table) == 3, "in a pipe, a line for each"
    assert re.match(rf"10\.0\.1\.2:\d+ > 10\.0\.3\.2:{port} +ESTABLISHED ", table[1])
    assert f"> [{IPV6.server}]:{port} " in table[2]

    client.close()
    server.close()
    running.event("flow.closed", port=port)
    assert [flow["state"] for flow in told(path)] == ["TIME_WAIT", "ESTABLISHED"]
    six.close()


def test_a_terminal_of_80_columns(
    running: ServiceProcess, network: Testbed, peers: Peers, port: int, path: Path
) -> None:
    six = Peers(network, IPV6)
    peers.pair(port)
    six.pair(port)
    command = " ".join((*COMMAND, "flows", "--control-socket", str(path)))
    done = subprocess.run(
        ("script", "-qec", f"stty cols 80 rows 24; {command}; {command} --learned", "/dev/null"),
        capture_output=True,
        text=True,
        timeout=20,
        env=ENVIRONMENT | {"TERM": "xterm"},
        check=True,
    )
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout).splitlines()
    assert max(map(len, lines)) <= 80
    # The address is folded, nothing of it is lost.
    shown = "".join(line.split(" ")[0] for line in lines)
    assert f"10.0.3.2:{port}" in shown
    assert f"[{IPV6.server}]:{port}" in shown
    assert "…" not in "".join(lines)
    six.close()


@pytest.mark.parametrize("options", [("--json",), ()])
def test_watching_goes_on_until_interrupted(
    running: ServiceProcess, peers: Peers, port: int, path: Path, options: tuple[str, ...]
) -> None:
    watching = subprocess.Popen(
        (*COMMAND, "flows", "--control-socket", str(path), "--watch", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": ""},
    )
    assert watching.stdout is not None
    try:
        first = watching.stdout.readline()
        assert first == ("[]\n" if options else "no flows\n")
        peers.pair(port)
        later = next(line for line in watching.stdout if f":{port}" in line)
        if options:
            assert json.loads(later)[0]["server"].endswith(f":{port}")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
        assert watching.stderr is not None
        assert watching.stderr.read() == ""
    finally:
        watching.kill()
        watching.communicate()


def test_who_watches_is_told_when_the_service_ends(
    network: Testbed, tmp_path: Path, path: Path
) -> None:
    service = ServiceProcess(network, tmp_path, control_socket=str(path))
    service.start()
    watching = subprocess.Popen(
        (*COMMAND, "flows", "--control-socket", str(path), "--watch", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "[]\n"
        service.stop()
        _, error = watching.communicate(timeout=10)
    finally:
        watching.kill()
        watching.communicate()
    assert watching.returncode == 1
    assert re.fullmatch(r"nfq-zerortt: no service answers at [^\n]+\n", error)


# --- what was learned ---------------------------------------------------------------------


@pytest.mark.alone  # how soon the client speaks is told, too
def test_what_was_learned_is_told_and_can_be_forgotten(
    running: ServiceProcess, network: Testbed, peers: Peers, path: Path
) -> None:
    assert told(path, "--learned") == []
    assert flows(path, "--learned").stdout == "nothing was learned yet\n"
    with sysctls(network, "server", COOKIES_FOR_ALL):
        exchange(peers, FAST_OPEN_PORT)
    refused(running, peers, "flow.reset")
    refusing, accepting = told(path, "--learned")
    assert refusing["server"] == f"10.0.3.2:{REFUSING_PORT}"
    assert refusing["left_alone"]["reason"] == "refused_lately"
    assert 50 < refusing["left_alone"]["for_s"] <= 60
    assert accepting["server"] == f"10.0.3.2:{FAST_OPEN_PORT}"
    assert accepting["left_alone"] is None
    assert accepting["speaks_early"] is True
    assert 0 < accepting["gap_ms"] < 20
    assert accepting["fast_open"]["accepts"] is True
    (cookie,) = accepting["cookies"]
    assert cookie["client"] == "10.0.1.2"
    assert re.fullmatch("[0-9a-f]{16}", cookie["cookie"])
    assert accepting["answered"]["mss"] == 1460
    assert 20 <= accepting["answered"]["rtt_ms"] < 1000

    table = flows(path, "--learned").stdout
    for words in ("refused, ", "accepts", cookie["cookie"], "mss 1460"):
        assert words in table

    refused(running, peers, "flow.bypassed")
    forgotten = flows(path, "--learned", "--clear")
    assert forgotten.stdout == "forgotten: 1 servers, 1 habits, 1 cookies, 1 refusals\n"
    assert told(path, "--learned") == []
    cleared = running.event("service.learned_cleared")
    assert (cleared["cookies"], cleared["refusals"]) == (1, 1)
    refused(running, peers, "flow.synack_spoofed")


def refused(service: ServiceProcess, peers: Peers, event: str) -> None:
    """Connect to a port where nobody listens; that must have this event once more."""
    before = len(service.events(event, port=REFUSING_PORT))
    client = peers.tcp("client")
    with suppress(ConnectionRefusedError):  # the real refusal, where the port is left alone
        client.connect(("10.0.3.2", REFUSING_PORT))
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    service.wait_for(event, port=REFUSING_PORT, count=before + 1)


def test_a_cookie_is_used_after_a_restart(
    network: Testbed, peers: Peers, tmp_path: Path, path: Path
) -> None:
    state = tmp_path / "state"
    options = ("--state-file", str(state))
    with sysctls(network, "server", COOKIES_FOR_ALL):
        with ServiceProcess(network, tmp_path, *options, control_socket=str(path)) as first:
            assert first.events("service.learned_restored") == []
            exchange(peers, FAST_OPEN_PORT)
            assert first.event("flow.syn_forwarded", port=FAST_OPEN_PORT)["fast_open"] == "request"
            (before,) = told(path, "--learned")
        assert stat.S_IMODE(state.stat().st_mode) == 0o600
        with ServiceProcess(network, tmp_path, *options, control_socket=str(path)) as second:
            assert second.event("service.learned_restored")["records"] == 3
            (after,) = told(path, "--learned")
            assert after["cookies"][0]["cookie"] == before["cookies"][0]["cookie"]
            assert after["cookies"][0]["age_s"] > before["cookies"][0]["age_s"]
            exchange(peers, FAST_OPEN_PORT)
            went = second.event("flow.syn_forwarded", port=FAST_OPEN_PORT)
            assert (went["fast_open"], went["data_bytes"]) == ("cookie", len(REQUEST))
            captured = second.event("flow.synack_captured", port=FAST_OPEN_PORT)
            assert captured["fast_open"] == "accepted"
            (flow,) = told(path)
            assert flow["syn_data_accepted_bytes"] == len(REQUEST)
            assert flow["data_earlier_ms"] == captured["server_rtt_ms"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"format":1,"damaged', "no state file"),
        ('{"format":1,"written_at":1e9,"records":0}\n', "days old"),
    ],
)
def test_a_state_file_that_is_no_good_is_a_warning(
    network: Testbed, tmp_path: Path, text: str, words: str
) -> None:
    state = tmp_path / "state"
    state.write_text(text)
    with ServiceProcess(network, tmp_path, "--state-file", str(state)) as service:
        (warning,) = [e for e in service.events("service.warning") if e["about"] == "state_file"]
    assert words in warning["warning"]
    assert str(state) in warning["warning"]


def test_a_state_file_that_cannot_be_written_is_a_warning(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    state = tmp_path / "none" / "state"
    service = ServiceProcess(network, tmp_path, "--state-file", str(state))
    service.start()
    exchange(peers, port)
    service.stop()
    (warning,) = [e for e in service.events("service.warning") if e["about"] == "state_file"]
    assert f"{state} cannot be written" in warning["warning"]


# --- whose socket it is -------------------------------------------------------------------


def test_nobody_is_there(path: Path) -> None:
    one_line(flows(path), 1, f"no service answers at {path}", "nfq-zerortt run")


def test_the_socket_comes_and_goes_with_the_service(
    network: Testbed, tmp_path: Path, path: Path
) -> None:
    crashed = ServiceProcess(network, tmp_path, control_socket=str(path))
    crashed.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    crashed.kill()
    assert path.is_socket(), "the crash was meant to leave it behind"
    one_line(flows(path), 1, "no service answers")
    with ServiceProcess(network, tmp_path, control_socket=str(path)):
        assert told(path) == []
    assert not path.exists()


def test_a_living_services_socket_is_not_taken(
    running: ServiceProcess, network: Testbed, path: Path
) -> None:
    assert running.process is not None
    options = (*BOTH_SIDES, "--queue", "77", "--no-rules", "--control-socket", str(path))
    done = run_in_vain(network, *options)
    one_line(done, 2, f"--control-socket {path}", "another service")
    assert told(path) == []


def run_in_vain(network: Testbed, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ("ip", "netns", "exec", network.netns("clientnic"), *COMMAND, "run", *options),
        capture_output=True,
        text=True,
        timeout=20,
        env=ENVIRONMENT,
        check=False,
    )


def test_without_the_default_path_it_goes_on(network: Testbed, tmp_path: Path) -> None:
    """Only one can have it; perhaps neither, for further services may run on this machine."""
    first = ServiceProcess(network, tmp_path, "--queue", "70", "--no-rules", control_socket=None)
    second = ServiceProcess(network, tmp_path, "--queue", "71", "--no-rules", control_socket=None)
    with first, second:
        warnings = [
            event
            for service in (first, second)
            for event in service.events("service.warning")
            if event["about"] == "control_socket"
        ]
        assert 1 <= len(warnings) <= 2
        for warning in warnings:
            assert "/run/nfq-zerortt/control.sock belongs to another service" in warning["warning"]
            assert "--control-socket" in warning["remedy"]


def test_without_a_control_socket(network: Testbed, tmp_path: Path) -> None:
    with ServiceProcess(network, tmp_path, control_socket="") as service:
        about = {event["about"] for event in service.events("service.warning")}
        assert "control_socket" not in about


def test_a_path_that_cannot_be(network: Testbed, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "socket", tmp_path / ("x" * 108)):
        done = run_in_vain(network, *BOTH_SIDES, "--control-socket", str(wrong))
        one_line(done, 2, f"--control-socket {wrong}")


def test_it_cannot_be_changed_while_running(network: Testbed, tmp_path: Path, path: Path) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text(f'control_socket = "{path}"\n')
    options = ("--config", str(settings))
    with ServiceProcess(network, tmp_path, *options, control_socket=None) as service:
        settings.write_text(f'control_socket = "{path}2"\nstate_file = "{path}3"\n')
        assert service.process is not None
        service.process.send_signal(signal.SIGHUP)
        failed = service.event("service.reload_failed")
        assert failed["error"] == "control_socket, state_file: restart to change this"
        assert told(path) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--clear",), "--clear"), (("--learned", "--clear", "--watch"), "--clear"), (("x",), "x")],
)
def test_wrong_options(path: Path, options: tuple[str, ...], words: str) -> None:
    one_line(flows(path, *options), 2, words)


# --- clients that do not behave -----------------------------------------------------------


def test_rude_clients_delay_nothing_and_take_nothing(
    running: ServiceProcess, peers: Peers, port: int, path: Path
) -> None:
    listener = peers.listen(port)
    for _ in range(20):
        peers.connect(port)
        peers.accept(listener)
    before = resident_kib(running)
    rude = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(4)]
    for client in rude:
        client.connect(str(path))
        client.settimeout(0.2)
    try:
        for client in rude[:2]:  # ask much, and read nothing
            fill(client, b'{"request":"flows"}\n' * 100)
        until(lambda: len(ask(path, "flows")) == 20, "others are answered")
        for _ in range(20):
            client, server = peers.connect(port), peers.accept(listener)
            transfer(client, server, content(30_000))
        for client in rude[2:]:  # a line without an end
            fill(client, b"x" * 10_000)
        assert len(ask(path, "flows")) == 40
    finally:
        for client in rude:
            client.close()
    assert resident_kib(running) - before < 4096
    spoofed = running.events("flow.synack_spoofed", port=port)
    assert len(spoofed) == 40, "no client had to ask twice"


def fill(client: socket.socket, data: bytes) -> None:
    """Send until no more is taken for the socket's timeout, or the other end has hung up."""
    with suppress(TimeoutError, ConnectionError):
        while True:
            client.sendall(data)


def resident_kib(service: ServiceProcess) -> int:
    assert service.process is not None
    status = Path(f"/proc/{service.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1])


def test_stopping_does_not_wait_for_who_does_not_read(
    network: Testbed, tmp_path: Path, path: Path
) -> None:
    service = ServiceProcess(network, tmp_path, control_socket=str(path))
    service.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
        client.settimeout(0.2)
        fill(client, b'{"request":"flows"}\n' * 100)
        began = time.monotonic()
        service.stop()
        assert time.monotonic() - began < 3
    with pytest.raises(ZeroRttError, match="no service answers"):
        ask(path, "flows")
