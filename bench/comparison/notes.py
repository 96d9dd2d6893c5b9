"""What the page says besides numbers."""

from __future__ import annotations

from bench.comparison.figures import bulk, growth, handshakes, latency
from bench.comparison.plan import Plan
from bench.comparison.programs.crowd import EACH_SECOND


def introduction(plan: Plan) -> list[str]:
    """Return what stands at the head of the page."""
    return [
        "What could stand on ClientNIC instead, side by side on the four hosts client, clientnic, "
        "servernic, server, which are network namespaces of one machine. Each contender has four "
        "hosts of its own. In a repetition each figure is measured of one contender after the "
        "other, beginning with another one each time, while the others rest. "
        f"{plan.repetitions} repetitions, {plan.growth_repetitions} of what grows with the flows. "
        "A cell has the median, the range, and behind × the median of the ratios to plain "
        "forwarding in the same repetition. IPv4 only.",
    ]


def of_section(title: str, plan: Plan) -> list[str]:
    """Return what stands above a section's table."""
    said = {
        latency.SECTION: (
            f"RTT {latency.RTT_MS:g} ms; blocking sockets, one connection after the other, "
            f"{plan.probes} each time; from before connect(). An HTTP request and its answer, "
            "which is checked. Fast Open: net.ipv4.tcp_fastopen=0x403 on the server, contacts "
            "after the first two."
        ),
        handshakes.SECTION: (
            "No WAN. Each connection has a request, an answer of 1,000 bytes and the end by FIN "
            f"from both sides, {handshakes.AT_A_TIME} at a time."
        ),
        bulk.THROUGHPUT: (
            "No WAN: veth pairs, as fast as the machine. Offloads on is Linux' default: segments "
            "of up to 64 kB with open checksums cross all hosts. Off is `ethtool -K … tx off rx "
            "off tso off gso off gro off` on every interface."
        ),
        bulk.CPU: (
            "Processor seconds for a gigabyte, of all four hosts and both ends together: "
            "forwarding happens in softirqs of one kernel, which are no process' time, so the "
            "whole machine's busy time is taken, less what programs elsewhere used in user mode."
        ),
        bulk.OWN_CPU: "Of that, the time of the contender's own processes.",
        f"{growth.SECTION} by flows": (
            f"RTT {latency.RTT_MS:g} ms; so many other connections are open and take turns to "
            f"echo a byte, {EACH_SECOND} a second in all."
        ),
        f"{growth.MEMORY} by flows": (
            "What is used more than before the first of these flows. Processes: RSS. Kernel: live "
            "objects in slabs, per-CPU memory, page tables, vmalloc and kernel stacks, of all "
            "four hosts with both ends' sockets: what plain forwarding has there are the ends. "
            "Entries of connection tracking and of BPF maps are among them. Of few flows it is "
            "noise, and may be below nothing."
        ),
    }.get(title)
    return [said, ""] if said else []


END = [
    "- SYNPROXY answers the client at once, too, but with a window of zero: it sends its SYN to "
    "the server when it has the client's ACK, and the client may send data when the server has "
    "answered. So connect() is short and the first byte comes no sooner.",
    "- A server on Linux 6.18 refuses the ACK with which SYNPROXY completes the handshake, for it "
    "echoes a timestamp that the server never sent (nstat: TcpExtTSEcrRejected). "
    "The client's first data complete it instead. Where the server's answer to the refused ACK "
    "comes before the client sends them, they echo its newer timestamp and are refused as well, "
    "until the SYN-ACK is repeated after a second: that is what keeps its connections waiting "
    "where there is no WAN. Without timestamps it does not happen, but its cookies then have no "
    "room for window scale and SACK.",
    "- HAProxy's connection to the server begins when that of the client is complete, so early "
    "data wait in HAProxy. Its option `tfo` sends no data with the SYN in mode tcp (2.6; seen with "
    "tcpdump, also with `retry-on` and a wait for the request). It ends both connections itself: "
    "numbers, options and timing of each side are its own.",
    "- nfq-zerortt runs with its default strategy, auto: with a server that has Fast Open the "
    "first data go in the SYN, with any other they wait for the server's SYN-ACK.",
]
