"""What the kernels of the four hosts count."""

from __future__ import annotations

from nfq_zerortt.testbed.network import Testbed


def _read(testbed: Testbed, host: str, file: str) -> list[list[str]]:
    done = testbed.exec(host, ["cat", file], timeout_s=10, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def checksum_errors(testbed: Testbed) -> dict[str, int]:
    """Return how many TCP segments each host has thrown away for their checksum."""
    counted = {}
    for host in testbed.topology.host_names:
        names, values = (
            words for words in _read(testbed, host, "/proc/net/snmp") if words[0] == "Tcp:"
        )
        counted[host] = int(values[names.index("InCsumErrors")])
    return counted


def queue_drops(testbed: Testbed) -> int:
    """Return how many packets clientnic's NFQUEUE has lost: it was full, or its reader slow."""
    queues = _read(testbed, "clientnic", "/proc/net/netfilter/nfnetlink_queue")
    assert queues, "nobody listens to an NFQUEUE"
    return sum(int(dropped) + int(lost) for *_, dropped, lost, _, _ in queues)


def queued(testbed: Testbed) -> int:
    """Return how many packets have come to clientnic's NFQUEUEs so far (their last id's sum)."""
    return sum(
        int(last)
        for *_, last, _ in _read(testbed, "clientnic", "/proc/net/netfilter/nfnetlink_queue")
    )


def tcp_counters(testbed: Testbed, host: str) -> dict[str, int]:
    """Return what a host's TCP counts beyond the standard, as nstat's TcpExt."""
    names, values = (
        words[1:] for words in _read(testbed, host, "/proc/net/netstat") if words[0] == "TcpExt:"
    )
    return dict(zip(names, map(int, values), strict=True))
