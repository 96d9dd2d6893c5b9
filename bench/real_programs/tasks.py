"""What is run: one command of one program for each row of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.addresses import OPTED_IN
from bench.lab import AUTO, DIRECT, FASTOPEN, HOLD, Lab
from bench.real_programs import servers
from bench.real_programs.packages import program
from bench.real_programs.servers import CERTIFICATE_NAME, OBJECTS, SSH, SSH_ELSEWHERE, TLS

WAYS = (DIRECT, HOLD, AUTO, FASTOPEN)

Argv = Callable[[Path, str], list[str]]


@dataclass(frozen=True, slots=True)
class Task:
    """A row of the table.

    Attributes:
        name: what it is called.
        client: the program that is run.
        server: what starts its server.
        argv: its arguments, given the lab's directory and the server's address.
        shown: the command as one would type it.
        saves: round trips that the later runs shall take less than directly, by way; 0: it shall
            not take longer. Where Fast Open depends on the moment, the sure figure stands here.
        setting: net.ipv4.tcp_fastopen at the server.
        ways: what is compared.
        first_byte: its output is the seconds to the first byte.
        note: what explains the figures.
        also: what else starts of servers.
        runs: how often it is run after the first contact.
    """

    name: str
    client: str
    server: Callable[[Lab], None]
    argv: Argv
    shown: str
    saves: dict[str, int]
    setting: str = "0x402"
    ways: Sequence[str] = WAYS
    first_byte: bool = False
    note: str = ""
    also: tuple[Callable[[Lab], None], ...] = ()
    runs: int = 7


_CURL = ("-sS", "--fail", "--max-time", "15", "-o", "/dev/null", "--http1.1")
_FIRST_BYTE = ("-w", "%{time_starttransfer}")


def _curl(*more: str) -> Argv:
    def argv(directory: Path, address: str) -> list[str]:
        return [program("curl"), *_CURL, *(word.replace("SERVER", address) for word in more)]

    return argv


def _https(directory: Path, address: str) -> list[str]:
    where = f"{CERTIFICATE_NAME}:{TLS}"
    return [
        *(program("curl"), *_CURL, *_FIRST_BYTE, "--tlsv1.3"),
        *("--cacert", str(directory / "web" / "certificate.pem")),
        *("--resolve", f"{where}:{address}", f"https://{where}/object1"),
    ]


def _redis(*command: str) -> Argv:
    def argv(directory: Path, address: str) -> list[str]:
        return [program("redis-cli"), "-h", address, *command]

    return argv


def _psql(directory: Path, address: str) -> list[str]:
    return [program("psql"), "-X", "-h", address, "-U", "postgres", "-Atc", "select 1"]


def _ssh(port: int) -> Argv:
    def argv(directory: Path, address: str) -> list[str]:
        options = {
            "IdentityFile": f"{directory}/ssh/user_key",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": f"{directory}/ssh/known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": CERTIFICATE_NAME,
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
        }
        told = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        # sshd's own sftp server: no shell, whose start-up files would take part.
        told += ["-p", str(port), "-s", f"root@{address}", "sftp"]
        return [program("ssh"), "-F", "none", *told]

    return argv


def _git(directory: Path, address: str) -> list[str]:
    # The clone is removed in the same command, so that the next one finds its place free.
    clone = directory / "clone"
    url = f"http://{address}/project.git"
    return ["sh", "-c", f'git clone -q {url} "$0" && rm -r "$0"', str(clone)]


def _https_at(setting: str, saves: dict[str, int], note: str) -> Task:
    return Task(
        f"curl, https (TLS 1.3), server {setting}",
        "curl",
        servers.web,
        _https,
        "curl --tlsv1.3 https://server.test/object1",
        saves,
        setting,
        first_byte=True,
        note=note,
    )


_PAGE = f"http://SERVER/object[1-{OBJECTS}]"
_AT_ONCE = ("--parallel", "--parallel-immediate", "--parallel-max")

TASKS: tuple[Task, ...] = (
    Task(
        "curl, http",
        "curl",
        servers.web,
        _curl(*_FIRST_BYTE, "http://SERVER/object1"),
        "curl http://server/object1",
        {HOLD: 0, AUTO: 1, FASTOPEN: 1},
        first_byte=True,
    ),
    _https_at(
        "0x402",
        {HOLD: 0, AUTO: 1, FASTOPEN: 1},
        "the ClientHello goes with the SYN; TLS's own round trip stays",
    ),
    _https_at(
        "0x602",
        {HOLD: 0, AUTO: 0, FASTOPEN: 1},
        "no cookies: until data was accepted once, auto waits for it 2 ms at most; curl makes its "
        "ClientHello in 1.5 ms, or more on a busy machine",
    ),
    _https_at("0x0", {HOLD: 0, AUTO: 0, FASTOPEN: 0}, "the server does no Fast Open"),
    Task(
        f"page: {OBJECTS} objects over {OBJECTS} connections at once",
        "curl",
        servers.web,
        _curl(*_AT_ONCE, str(OBJECTS), _PAGE),
        f"curl --parallel --parallel-immediate --parallel-max {OBJECTS} …/object[1-{OBJECTS}]",
        {AUTO: 1, FASTOPEN: 1},
        note=f"{OBJECTS} handshakes in one moment keep the service busy for 10 ms and more; hold "
        "shows what that costs",
    ),
    Task(
        f"page: {OBJECTS} objects over 6 connections kept alive",
        "curl",
        servers.web,
        _curl(*_AT_ONCE, "6", _PAGE),
        f"curl --parallel --parallel-immediate --parallel-max 6 …/object[1-{OBJECTS}]",
        {HOLD: 0, AUTO: 1, FASTOPEN: 1},
        note="each connection gains once, at its start",
    ),
    Task(
        "git clone, http",
        "git",
        servers.web,
        _git,
        "git clone http://server/project.git",
        {HOLD: 0, AUTO: 1, FASTOPEN: 1},
        note="git http-backend behind nginx; one connection, kept alive",
        also=(servers.git,),
    ),
    Task(
        "redis-cli SET",
        "redis-cli",
        servers.redis,
        _redis("set", "key", "value"),
        "redis-cli set key value",
        {HOLD: 0, AUTO: 0, FASTOPEN: 1},
        note="6379 is not among auto's ports, so auto is as hold here, for GET as for SET",
    ),
    Task(
        "redis-cli GET",
        "redis-cli",
        servers.redis,
        _redis("get", "key"),
        "redis-cli get key",
        {HOLD: 0, AUTO: 0, FASTOPEN: 1},
    ),
    Task(
        "redis-cli GET, opted in",
        "redis-cli",
        servers.redis,
        _redis("get", "key"),
        "redis-cli get key",
        {HOLD: 0, OPTED_IN: 1},
        ways=(DIRECT, HOLD, OPTED_IN),
        note='auto, and a [[destination]] with ports = "6379" and strategy = "fastopen"',
    ),
    Task(
        "psql",
        "psql",
        servers.postgres,
        _psql,
        "psql -c 'select 1'",
        {HOLD: 0, AUTO: 0, FASTOPEN: 1},
        note="5432 is not among auto's ports; it asks for TLS first, then begins, then asks",
    ),
    Task(
        "ssh",
        "ssh",
        servers.ssh,
        _ssh(SSH),
        "ssh -s server sftp </dev/null",
        {HOLD: 0, AUTO: 0, FASTOPEN: 0},
        runs=5,
        note="the server speaks first: never kept back on port 22, with no strategy",
    ),
    Task(
        f"ssh to port {SSH_ELSEWHERE}",
        "ssh",
        servers.ssh,
        _ssh(SSH_ELSEWHERE),
        f"ssh -p {SSH_ELSEWHERE} -s server sftp </dev/null",
        {HOLD: 0, AUTO: 0},
        runs=5,
        note="OpenSSH's client sends its version at once, so fastopen has something to carry; "
        "reported only, ssh's own time for its keys changes by as much",
    ),
)
