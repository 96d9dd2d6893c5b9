"""Independent clients and servers through the service, unmodified, on hosts as they come.

Offloads are on here, as on most hosts; the hashes at both ends are the judge.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.peers import SERVER, Peers, content, digest
from support.programs import program, run, serving
from support.service import ServiceProcess

from bench.nginx import write_configuration
from nfq_zerortt.testbed.network import Testbed

FILE = 1_000_000
MANY = 50


@pytest.fixture(scope="module")
def network(testbed_factory: Callable[..., Testbed]) -> Testbed:
    """A testbed of its own, with its interfaces as the kernel makes them."""
    return testbed_factory(rtt_ms=20)


class Web:
    """A real web server: nginx, with and without TLS."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.tls_port = 80, 443
        self.files = directory / "files"
        self.files.mkdir()
        (self.files / "large").write_bytes(content(FILE, 7))
        for number in range(MANY):
            (self.files / f"object{number}").write_bytes(content(1 + number * 1500, number))
        subprocess.run(
            [
                *(program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
                *("-days", "2", "-subj", f"/CN={SERVER}", "-addext", f"subjectAltName=IP:{SERVER}"),
                *("-keyout", "key.pem", "-out", "certificate.pem"),
            ],
            cwd=directory,
            capture_output=True,
            check=True,
        )
        self.options = write_configuration(
            directory,
            "client_max_body_size 10m;",
            f"listen {self.port};",
            f"listen {self.tls_port} ssl;",
            f"ssl_certificate {directory}/certificate.pem;",
            f"ssl_certificate_key {directory}/key.pem;",
            f"root {self.files};",
            "location /uploaded { dav_methods PUT; create_full_put_path on; }",
        )

    def url(self, name: str) -> str:
        return f"http://{SERVER}:{self.port}/{name}"

    def tls(self, name: str) -> tuple[str, ...]:
        certificate = str(self.directory / "certificate.pem")
        return "--cacert", certificate, f"https://{SERVER}:{self.tls_port}/{name}"


@pytest.fixture(scope="module")
def web(
    service: ServiceProcess, network: Testbed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    made = Web(tmp_path_factory.mktemp("web"))
    with serving(network, [program("nginx"), *made.options], made.port, made.directory):
        yield made


CURL = ("curl", "-sS", "--fail", "--max-time", "30")


def test_curl_gets_a_file(network: Testbed, web: Web) -> None:
    assert digest(run(network, "client", [*CURL, web.url("large")])) == digest(content(FILE, 7))


def test_curl_puts_a_file(network: Testbed, web: Web, tmp_path: Path) -> None:
    data = content(FILE, 8)
    (tmp_path / "upload").write_bytes(data)
    run(network, "client", [*CURL, "-T", tmp_path / "upload", web.url("uploaded/file")])
    assert digest((web.files / "uploaded" / "file").read_bytes()) == digest(data)


def test_curl_keeps_one_connection_for_several_requests(
    service: ServiceProcess, network: Testbed, web: Web, tmp_path: Path
) -> None:
    before = len(service.events("flow.syn_received", port=web.port))
    outputs: list[str] = []
    for number in range(10):
        outputs += ["-o", str(tmp_path / str(number)), web.url(f"object{number}")]
    run(network, "client", [*CURL, *outputs])
    for number in range(10):
        expected = (web.files / f"object{number}").read_bytes()
        assert digest((tmp_path / str(number)).read_bytes()) == digest(expected)
    assert len(service.events("flow.syn_received", port=web.port)) == before + 1


def test_curl_over_tls(network: Testbed, web: Web, tmp_path: Path) -> None:
    assert digest(run(network, "client", [*CURL, *web.tls("large")])) == digest(content(FILE, 7))
    data = content(FILE // 2, 9)
    (tmp_path / "upload").write_bytes(data)
    run(network, "client", [*CURL, "-T", tmp_path / "upload", *web.tls("uploaded/secret")])
    assert digest((web.files / "uploaded" / "secret").read_bytes()) == digest(data)


def test_a_page_of_fifty_objects_on_fifty_connections(
    service: ServiceProcess, network: Testbed, web: Web, tmp_path: Path
) -> None:
    before = len(service.events("flow.established", port=web.port))
    wanted: list[str] = []
    for number in range(MANY):
        wanted += ["-o", str(tmp_path / str(number)), web.url(f"object{number}")]
    parallel = ["--parallel", "--parallel-immediate", "--parallel-max", str(MANY), "--http1.1"]
    run(network, "client", [*CURL, *parallel, "--no-keepalive", *wanted])
    for number in range(MANY):
        expected = (web.files / f"object{number}").read_bytes()
        assert digest((tmp_path / str(number)).read_bytes()) == digest(expected)
    assert len(service.events("flow.established", port=web.port)) >= before + MANY // 2


def test_curl_and_pythons_web_server(
    service: ServiceProcess, network: Testbed, port: int, tmp_path: Path
) -> None:
    data = content(FILE)
    (tmp_path / "file").write_bytes(data)
    argv = [sys.executable, "-m", "http.server", str(port), "--bind", SERVER]
    with serving(network, argv, port, tmp_path):
        got = run(network, "client", [*CURL, f"http://{SERVER}:{port}/file"])
    assert digest(got) == digest(data)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_netcat(
    service: ServiceProcess, network: Testbed, port: int, tmp_path: Path, direction: str
) -> None:
    data = content(FILE)
    (tmp_path / "in").write_bytes(data if direction == "down" else b"")
    program("nc")
    # -N: FIN after the end of the input; -d: no input at all.
    listen = "exec nc -l -N -p {} < in" if direction == "down" else "exec nc -l -d -p {} > out"
    with serving(network, ["sh", "-c", listen.format(port)], port, tmp_path) as server:
        if direction == "down":
            received = run(network, "client", ["nc", "-d", SERVER, str(port)])
        else:
            run(network, "client", ["nc", "-N", SERVER, str(port)], data)
        assert server.wait(10) == 0
    if direction == "up":
        received = (tmp_path / "out").read_bytes()
    assert digest(received) == digest(data)


@pytest.mark.parametrize("option", [(), ("-R",), ("-P", "4")], ids=["up", "down", "four"])
def test_iperf3(
    service: ServiceProcess,
    network: Testbed,
    port: int,
    tmp_path: Path,
    option: tuple[str, ...],
) -> None:
    size = 8_000_000
    argv = [program("iperf3"), "-s", "-1", "-p", str(port)]
    with serving(network, argv, port, tmp_path) as server:
        told = ["iperf3", "-c", SERVER, "-p", str(port), "-n", str(size), "-w", "256K", "--json"]
        report = json.loads(run(network, "client", [*told, *option]))
        assert server.wait(10) == 0
    assert "error" not in report
    end = report["end"]
    assert end["sum_sent"]["bytes"] >= size
    # What the sender still had in its buffers at the end does not count as received.
    assert end["sum_received"]["bytes"] >= 0.7 * size


def test_redis(service: ServiceProcess, network: Testbed, port: int, tmp_path: Path) -> None:
    value = content(100_000).hex().encode()
    argv = [program("redis-server"), "--port", str(port), "--bind", SERVER, "--save", ""]
    with serving(network, [*argv, "--protected-mode", "no"], port, tmp_path):
        cli = ["redis-cli", "-h", SERVER, "-p", str(port)]
        assert run(network, "client", [*cli, "ping"]).strip() == b"PONG"
        assert run(network, "client", [*cli, "-x", "set", "key"], value).strip() == b"OK"
        assert digest(run(network, "client", [*cli, "get", "key"]).strip()) == digest(value)


def test_a_server_that_speaks_first(
    service: ServiceProcess, network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """SMTP: the client says nothing before the greeting. curl is the client."""
    mail = b"Subject: greetings\r\n\r\n" + content(40_000).hex().encode() + b"\r\n"
    (tmp_path / "mail").write_bytes(mail)
    listener = peers.listen(port)
    got: list[bytes] = []
    server = threading.Thread(target=lambda: got.append(take_mail(peers, listener)), daemon=True)
    server.start()
    run(
        network,
        "client",
        [
            *(*CURL, f"smtp://{SERVER}:{port}/client", "--mail-from", "<a@client>"),
            *("--mail-rcpt", "<b@server>", "--upload-file", tmp_path / "mail"),
        ],
    )
    server.join(10)
    assert [digest(data) for data in got] == [digest(mail)]


def take_mail(peers: Peers, listener: socket.socket) -> bytes:
    """Be the smallest mail server that there is (RFC 5321), for one mail."""
    with peers.accept(listener) as connection, connection.makefile("rwb") as stream:

        def say(line: bytes) -> None:
            stream.write(line + b"\r\n")
            stream.flush()

        say(b"220 server ready")
        mail = bytearray()
        for command in stream:
            verb = command[:4].upper().strip()
            if verb == b"DATA":
                say(b"354 go ahead")
                while (line := stream.readline()) != b".\r\n":
                    mail += line
            if verb == b"QUIT":
                say(b"221 bye")
                break
            say(b"250 fine")
    return bytes(mail)
