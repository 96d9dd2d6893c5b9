"""One service plays every way on the same ports: the server's address tells which.

Ports mean something to *auto*, so what is compared must use the same ones. The
server host has a block of addresses for each way, and each address is a
server that ClientNIC has never met.
"""

from __future__ import annotations

from ipaddress import ip_network

from bench.lab import AUTO, DIRECT, FASTOPEN, HOLD, SERVER, Lab, Listener
from nfq_zerortt.errors import ZeroRttError

OPTED_IN = "auto, opted in"
"""auto, and a ``[[destination]]`` says fastopen for port 6379."""
OPTED_IN_PORT = 6379

ADDRESSES_EACH = 32
_BLOCKS = {
    way: ip_network(f"10.0.3.{number * ADDRESSES_EACH}/27")
    for number, way in enumerate((DIRECT, HOLD, FASTOPEN, AUTO, OPTED_IN), start=1)
}
_ALL = "10.0.3.32/27", "10.0.3.64/26", "10.0.3.128/26"
_QUEUE = 7000

TOML = f"""\
strategy = "auto"
data_path = "python"

[[destination]]
address = "{_BLOCKS[HOLD]}"
strategy = "hold"

[[destination]]
address = "{_BLOCKS[FASTOPEN]}"
strategy = "fastopen"

[[destination]]
address = "{_BLOCKS[OPTED_IN]}"
ports = "{OPTED_IN_PORT}"
strategy = "fastopen"
"""


def address_of(way: str, number: int) -> str:
    """Return the server's address number 0 to 31 of a way."""
    return str(_BLOCKS[way][number])


def prepare(lab: Lab) -> None:
    """Give the server host the addresses; keep ``DIRECT``'s out of the service's reach.

    Raises:
        ZeroRttError: a command failed.
    """
    for block in _ALL:
        _run(lab, "server", "ip", "route", "add", "local", block, "dev", "lo")
        _run(lab, "servernic", "ip", "route", "add", block, "via", SERVER)
    for end in ("-s", "-d"):  # in front of the service's jump, which comes last in this chain
        rule = ("-t", "mangle", "-I", "FORWARD", end, str(_BLOCKS[DIRECT]), "-j", "ACCEPT")
        _run(lab, "clientnic", "iptables-legacy", *rule)


def service(lab: Lab, name: str = "service") -> Listener:
    """Start the service that plays all ways; it knows no server yet."""
    return lab.configured_service(name, _QUEUE, TOML)


def fast_open(lab: Lab, setting: str) -> None:
    """Set net.ipv4.tcp_fastopen on the server host; listeners look at it when they begin."""
    _run(lab, "server", "sysctl", "-q", "-w", f"net.ipv4.tcp_fastopen={setting}")


def _run(lab: Lab, host: str, *argv: str) -> None:
    done = lab.testbed.exec(host, argv)
    if done.returncode:
        raise ZeroRttError(f"{' '.join(argv)} on {host}: {done.stderr.strip()}")
