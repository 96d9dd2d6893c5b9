"""``nfq-zerortt trace`` beside a running service, and situations that are worth a trace.

Each situation is played by the kernels of the testbed's client and server; what goes wrong in it
really does.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nfq_zerortt.testbed.network import Testbed
from support.addresses import IPV4, IPV6, Family
from support.peers import LINGER_0, Peers, content, receive, receive_all, transfer
from support.service import COMMAND, ENVIRONMENT, ServiceProcess
from support.wan_faults import FIRST, dropping

ENDS_WITHIN_S = 15.0
_QUIET_S = 0.4
_HOLD = ("--strategy", "hold", "--data-path", "python")
_BESIDE = "zttrace"  # the second way's interfaces


class RunningTrace:
    """The command on clientnic while the block runs; then ``said`` is what it wrote on stderr."""

    def __init__(self, network: Testbed, file: Path, *options: str) -> None:
        self._network = network
        self._argv = [*COMMAND, "trace", str(file), *options]
        self.file = file
        self.said = ""
        self.status: int | None = None

    def __enter__(self) -> Self:
        self.process = self._network.popen(
            "clientnic",
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline().decode()
        assert "tracing" in self.said, self.said + self.process.stderr.read().decode()
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGINT)

    def end(self, number: signal.Signals) -> None:
        """End it with a signal, once the network has been quiet."""
        if self.status is not None:
            return
        time.sleep(_QUIET_S)
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.wait()

    def wait(self) -> None:
        """Wait for its end."""
        try:
            _, said = self.process.communicate(timeout=ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, said = self.process.communicate()
        self.said += said.decode()
        self.status = self.process.returncode


def ran(
    network: Testbed, *arguments: str, host: str = "clientnic"
) -> subprocess.CompletedProcess[str]:
    """Run ``nfq-zerortt`` with these arguments on a host, and return what it said."""
    process = network.popen(
        host,
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    out, said = process.communicate(timeout=30)
    return subprocess.CompletedProcess(
        process.args, process.returncode, out.decode(), said.decode()
    )


@dataclass(frozen=True)
class Situation:
    """A connection to be made, and the service that it is made through.

    ``fast_open`` is the server's sysctl; ``configuration`` the service's, in TOML.
    """

    name: str
    play: Callable[[Testbed, Peers, int], None]
    options: tuple[str, ...] = _HOLD
    fast_open: str = "0"
    configuration: str = ""
    family: Family = IPV4


def _exchange(network: Testbed, peers: Peers, port: int) -> None:
    """A request of two segments, an answer, and an end in order."""
    client, server = peers.pair(port)
    transfer(client, server, content(2000, 1))
    transfer(server, client, content(4000, 2))
    client.close()
    assert receive_all(server) == b""
    server.close()


def _early_exchange(network: Testbed, peers: Peers, port: int) -> None:
    """The client speaks at once, as clients do: before the server has answered."""
    listener = peers.listen(port)
    client = peers.connect(port)
    client.sendall(content(2000, 1))
    server = peers.accept(listener)
    assert receive(server, 2000) == content(2000, 1)
    transfer(server, client, content(4000, 2))
    client.close()
    assert receive_all(server) == b""
    server.close()


def _early_long(network: Testbed, peers: Peers, port: int) -> None:
    """The client speaks at once, and the connection is long enough for the kernel."""
    listener = peers.listen(port)
    client = peers.connect(port)
    client.sendall(content(2000, 1))
    server = peers.accept(listener)
    assert receive(server, 2000) == content(2000, 1)
    time.sleep(0.3)
    transfer(server, client, content(60_000, 2))
    transfer(client, server, content(60_000, 3))
    client.close()
    assert receive_all(server) == b""
    server.close()


def _long(network: Testbed, peers: Peers, port: int) -> None:
    """Long enough for the kernel to carry most of it."""
    client, server = peers.pair(port)
    transfer(client, server, content(2000, 1))
    time.sleep(0.3)
    transfer(client, server, content(60_000, 2))
    transfer(server, client, content(60_000, 3))
    client.close()
    assert receive_all(server) == b""
    server.close()


def _refused(network: Testbed, peers: Peers, port: int) -> None:
    """Nobody listens."""
    client = peers.connect(port)
    _fails(client, ConnectionResetError)


def _unanswered(network: Testbed, peers: Peers, port: int) -> None:
    """The server's host swallows the SYNs."""
    with dropping(network, IPV4, "--dport", str(port)):
        client = peers.connect(port)
        client.sendall(b"is anybody there?")
        _fails(client, ConnectionResetError)


def _unreachable(network: Testbed, peers: Peers, port: int) -> None:
    """A router says that there is no way to the server."""
    route = [f"{IPV4.server}/32", "metric", "1"]
    done = network.exec("servernic", ["ip", "route", "add", "unreachable", *route], timeout_s=10)
    assert done.returncode == 0, done.stderr
    try:
        with suppress(ConnectionResetError):  # that soon, it may be
            _fails(peers.connect(port), ConnectionResetError)
    finally:
        network.exec("servernic", ["ip", "route", "del", "unreachable", *route], timeout_s=10)


def _too_big(network: Testbed, peers: Peers, port: int) -> None:
    """A link behind the service takes only smaller packets, and its router says so."""
    client, server = peers.pair(port)
    transfer(client, server, content(500, 1))
    with _smaller_link(network, "1280"):  # with less, Linux takes its IPv6 addresses away
        transfer(client, server, content(5000, 2))
        client.close()
        assert receive_all(server) == b""
        server.close()


@contextmanager
def _smaller_link(network: Testbed, mtu: str) -> Iterator[None]:
    def set_to(size: str) -> None:
        argv = ["ip", "link", "set", "eth2", "mtu", size]
        assert network.exec("servernic", argv, timeout_s=10).returncode == 0

    set_to(mtu)
    try:
        yield
    finally:
        set_to("1500")
        network.exec("client", ["ip", "route", "flush", "cache"], timeout_s=10)


def _reset_later(network: Testbed, peers: Peers, port: int) -> None:
    """The server's application gives up in the middle."""
    client, server = peers.pair(port)
    transfer(client, server, content(500, 1))
    transfer(server, client, content(500, 2))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    server.close()
    _fails(client, ConnectionResetError)


def _released_data_lost(network: Testbed, peers: Peers, port: int) -> None:
    """The segment that was held gets lost on the WAN when it has left."""
    listener = peers.listen(port)
    with dropping(network, IPV4, "--dport", str(port), "-m", "length", "--length", "500:", *FIRST):
        client = peers.connect(port)
        client.sendall(content(1000, 1))
        server = peers.accept(listener)
        assert receive(server, 1000) == content(1000, 1)
    client.close()
    assert receive_all(server) == b""
    server.close()


def _another_way_back(network: Testbed, peers: Peers, port: int) -> None:
    """The server's packets reach the client on a way that does not lead through clientnic."""
    peers.listen(port)
    with _second_way(network):
        client = peers.connect(port)
        client.sendall(content(500, 1))
        time.sleep(0.5)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        client.close()


def _fails(client: socket.socket, how: type[OSError]) -> None:
    try:
        client.recv(1)
    except how:
        client.close()
        return
    raise AssertionError(f"the client saw no {how.__name__}")


@contextmanager
def _second_way(network: Testbed) -> Iterator[None]:
    """Join servernic and the client directly, and let the former send to the latter that way."""

    def ip(host: str, *words: str) -> None:
        done = network.exec(host, ["ip", *words], timeout_s=10)
        assert done.returncode == 0, done.stderr

    client = network.netns("client")
    near, far = f"{_BESIDE}0", f"{_BESIDE}1"
    ip("servernic", "link", "add", far, "type", "veth", "peer", "name", near, "netns", client)
    try:
        ip("servernic", "link", "set", far, "up")
        ip("client", "link", "set", near, "up")
        mac = network.exec("client", ["cat", f"/sys/class/net/{near}/address"], timeout_s=10)
        for host, name, path in (("client", near, "rp_filter"), ("client", "all", "rp_filter")):
            key = f"net.ipv4.conf.{name}.{path}=0"
            assert network.exec(host, ["sysctl", "-qw", key], timeout_s=10).returncode == 0
        ip("servernic", "neigh", "add", IPV4.client, "lladdr", mac.stdout.strip(), "dev", far)
        ip("servernic", "route", "add", f"{IPV4.client}/32", "dev", far)
        yield
    finally:
        ip("servernic", "link", "del", far)


_QUICK_TO_GIVE_UP = "[limits]\nsyn_retries = 2\nsyn_retry_ms = 100\n"
_FASTOPEN = ("--strategy", "fastopen", "--data-path", "python")
_FASTOPEN_KERNEL = ("--strategy", "fastopen", "--data-path", "kernel")

SITUATIONS = (
    Situation("hold", _early_exchange),
    Situation("hold_ipv6", _early_exchange, family=IPV6),
    Situation("observe", _exchange, ("--strategy", "observe")),
    Situation("fastopen", _early_exchange, _FASTOPEN, "0x602"),
    Situation("fastopen_refused", _early_exchange, _FASTOPEN, "0"),
    Situation("kernel", _long, ("--strategy", "hold", "--data-path", "kernel")),
    Situation("fastopen_kernel", _early_long, _FASTOPEN_KERNEL, "0x602"),
    Situation("workers", _early_exchange, (*_HOLD, "--workers", "2")),
    Situation("workers_kernel", _early_long, (*_FASTOPEN_KERNEL, "--workers", "2"), "0x602"),
    Situation("refused", _refused),
    Situation("unanswered", _unanswered, configuration=_QUICK_TO_GIVE_UP),
    Situation("unreachable", _unreachable),
    Situation("reset_later", _reset_later),
    Situation("too_big", _too_big),
    Situation("released_data_lost", _released_data_lost),
    Situation("another_way_back", _another_way_back, configuration=_QUICK_TO_GIVE_UP),
)
BY_NAME = {situation.name: situation for situation in SITUATIONS}


@contextmanager
def service_for(
    network: Testbed, directory: Path, situation: Situation, *options: str
) -> Iterator[tuple[ServiceProcess, str]]:
    """Run the service that a situation wants; with it the path of its control socket."""
    configuration = directory / f"{situation.name}.toml"
    configuration.write_text(situation.configuration, encoding="utf-8")
    control = str(directory / "control.sock")
    sysctl = ["sysctl", "-qw", f"net.ipv4.tcp_fastopen={situation.fast_open}"]
    before = network.exec("server", ["sysctl", "-n", "net.ipv4.tcp_fastopen"], timeout_s=10)
    assert network.exec("server", sysctl, timeout_s=10).returncode == 0
    try:
        with ServiceProcess(
            network,
            directory,
            *situation.options,
            *options,
            "--config",
            str(configuration),
            control_socket=control,
        ) as service:
            yield service, control
    finally:
        back = f"net.ipv4.tcp_fastopen={before.stdout.strip()}"
        network.exec("server", ["sysctl", "-qw", back], timeout_s=10)
