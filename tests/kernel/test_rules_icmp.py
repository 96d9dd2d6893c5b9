"""ICMP errors about handled connections: taken to the queue, exempt from tracking, let pass.

Packets are real ones. What becomes of them is read from the counters of iptables.
"""

from __future__ import annotations

import re
import sys

import pytest
from support.chain import CLIENT, CLIENT6, SERVER, SERVER6, Chain, cli

ICMP = {"": "icmp", "6": "ipv6-icmp"}
UNREACHABLE, TOO_BIG, TIME_EXCEEDED, PARAMETER_PROBLEM = range(4)
TYPES = {
    "": {UNREACHABLE: (3, 1), TOO_BIG: (3, 4), TIME_EXCEEDED: (11, 0), PARAMETER_PROBLEM: (12, 0)},
    "6": {UNREACHABLE: (1, 3), TOO_BIG: (2, 0), TIME_EXCEEDED: (3, 0), PARAMETER_PROBLEM: (4, 0)},
}
"""Type and code (RFC 792, RFC 1191; RFC 4443)."""

INVALID = ("-m", "conntrack", "--ctstate", "INVALID")
STATES = ("RELATED", "INVALID", "UNTRACKED")


@pytest.fixture
def chain(chain: Chain) -> Chain:
    for family, protocol in ICMP.items():
        command = f"ip{family}tables-legacy"
        chain.router.run(command, "-F")
        for state in STATES:
            chain.router.run(command, "-A", "FORWARD", "-p", protocol,
                             "-m", "conntrack", "--ctstate", state)  # fmt: skip
    return chain


SEND = """
import socket, sys, time
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6ParamProblem
from scapy.layers.inet6 import ICMPv6TimeExceeded, IPv6
sender, receiver, *errors = sys.argv[1:]
six = ":" in sender
outer = IPv6 if six else IP
v6 = {1: ICMPv6DestUnreach, 2: ICMPv6PacketTooBig, 3: ICMPv6TimeExceeded, 4: ICMPv6ParamProblem}
with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW,
                   socket.IPPROTO_RAW) as raw:
    for error in errors:
        number, code, sport, dport = map(int, error.split(","))
        about = bytes(outer(src=receiver, dst=sender) / TCP(sport=sport, dport=dport))
        icmp = v6[number](code=code) if six else ICMP(type=number, code=code)
        raw.sendto(bytes(outer(src=sender, dst=receiver) / icmp / about), (receiver, 0))
time.sleep(0.2)  # neighbours have to be found before the first one gets anywhere
"""


def send_errors(chain: Chain, family: str, by: str, *errors: tuple[int, int]) -> None:
    """Let ``by`` (client or server) send errors about segments of the other one.

    Each is a kind and the server's port.
    """
    ends = (SERVER6, CLIENT6) if family else (SERVER, CLIENT)
    described = [
        ",".join(map(str, (*TYPES[family][kind], *((40000, port), (port, 40000))[by == "client"])))
        for kind, port in errors
    ]
    sender = chain.server if by == "server" else chain.client
    addresses = ends if by == "server" else ends[::-1]
    sender.run(sys.executable, "-c", SEND, *addresses, *described)


def send_error(chain: Chain, family: str) -> None:
    """Let the server say that a segment of the client was too big."""
    send_errors(chain, family, "server", (TOO_BIG, 80))


def states(chain: Chain, family: str) -> dict[str, int]:
    """How many ICMP packets the firewall saw in each state."""
    counted = chain.router.packets("filter", "FORWARD", family, "--ctstate")
    return dict(zip(STATES, counted, strict=True))


def taken(chain: Chain, family: str) -> int:
    """How many ICMP packets went to the queue."""
    return sum(chain.router.packets("mangle", "ZERORTT-0-ERRORS", family))


@pytest.mark.parametrize("by", ["client", "server"])
@pytest.mark.parametrize("family", ["", "6"])
def test_every_error_about_a_handled_segment_is_taken_and_untracked(
    chain: Chain, family: str, by: str
) -> None:
    chain.router.do("rules(ports='80,8000-8999').apply()")
    kinds = (UNREACHABLE, TOO_BIG, TIME_EXCEEDED, PARAMETER_PROBLEM)
    send_errors(chain, family, by, *((kind, 8005) for kind in kinds))
    assert taken(chain, family) == len(kinds)
    assert states(chain, family) == {"RELATED": 0, "INVALID": 0, "UNTRACKED": len(kinds)}


@pytest.mark.parametrize("family", ["", "6"])
def test_errors_about_other_ports_are_left_to_connection_tracking(
    chain: Chain, family: str
) -> None:
    many = ",".join(str(port) for port in range(8000, 8040, 2))  # more than one u32 match holds
    chain.router.do(f"rules(ports='{many}').apply()")
    for by in ("server", "client"):
        send_errors(chain, family, by, (TOO_BIG, 8037), (TOO_BIG, 40000))
    assert states(chain, family) == {"RELATED": 0, "INVALID": 4, "UNTRACKED": 0}
    for by in ("server", "client"):
        send_errors(chain, family, by, (TOO_BIG, 8000), (TOO_BIG, 8038))
    assert states(chain, family) == {"RELATED": 0, "INVALID": 4, "UNTRACKED": 4}


@pytest.mark.parametrize("family", ["", "6"])
def test_errors_about_tracked_packets_stay_related(chain: Chain, family: str) -> None:
    """A UDP datagram to a closed port is answered with an error that belongs to it."""
    chain.router.do("rules().apply()")
    address = SERVER6 if family else SERVER
    said = chain.client.do(f"""
        import socket
        family = socket.AF_INET6 if "{family}" else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.settimeout(3)
            sender.connect(("{address}", 9))
            sender.send(b"x")
            try: sender.recv(9)
            except OSError as error: print(type(error).__name__)
    """)
    assert said == "ConnectionRefusedError\n"
    assert states(chain, family) == {"RELATED": 1, "INVALID": 0, "UNTRACKED": 0}


@pytest.mark.parametrize(("family", "address"), [("", SERVER), ("6", SERVER6)])
def test_echo_is_never_taken_and_stays_tracked(chain: Chain, family: str, address: str) -> None:
    chain.router.do("rules().apply()")
    assert " 0% packet loss" in chain.client.run("ping", "-c", "3", "-i", "0.1", address)
    assert taken(chain, family) == 0
    assert states(chain, family) == {"RELATED": 0, "INVALID": 0, "UNTRACKED": 0}


@pytest.mark.parametrize(
    ("family", "absent", "setting"),
    [("", "10.99.2.77", "net.ipv4.neigh.sv0"), ("6", "fd99:2::77", "net.ipv6.neigh.sv0")],
)
def test_what_the_router_says_of_an_absent_neighbour_is_taken_and_arrives(
    chain: Chain, family: str, absent: str, setting: str
) -> None:
    router = chain.router
    router.run("sysctl", "-qw", f"{setting}.retrans_time_ms=50")
    router.do("rules().apply()")
    assert chain.fetch(absent, 80) == "OSError"  # EHOSTUNREACH, and not a timeout
    assert router.packets("mangle", "ZERORTT-0-OWN", family)[0] >= 1


@pytest.mark.parametrize(
    ("family", "absent", "setting"),
    [("", "10.99.2.77", "net.ipv4.neigh.sv0"), ("6", "fd99:2::77", "net.ipv6.neigh.sv0")],
)
def test_a_firewall_that_drops_the_routers_own_errors_is_named(
    chain: Chain, family: str, absent: str, setting: str
) -> None:
    router = chain.router
    router.run("sysctl", "-qw", f"{setting}.retrans_time_ms=50")
    router.run(f"ip{family}tables-legacy", "-A", "OUTPUT", *INVALID, "-j", "DROP")
    router.do("rules().apply()")
    assert chain.fetch(absent, 80, timeout_s=1) == "TimeoutError"
    detail, remedy = warning(chain)
    assert "this router's own ICMP errors about untracked packets are dropped by" in detail
    assert f"ip{family}tables-legacy OUTPUT (rule" in detail
    for command in remedy.split("; "):
        router.run(*command.split())
    assert warning(chain) == []
    assert chain.fetch(absent, 80) == "OSError"


# -- beside a firewall -----------------------------------------------------------------


def stateful(chain: Chain, family: str) -> None:
    """Make the router's firewall the usual one: nothing but what belongs to a connection."""
    command = f"ip{family}tables-legacy"
    chain.router.run(command, "-F", "FORWARD")
    chain.router.run(command, "-P", "FORWARD", "DROP")
    for state, verdict in (("RELATED,ESTABLISHED", "ACCEPT"), ("INVALID", "DROP")):
        chain.router.run(
            command, "-A", "FORWARD", "-m", "conntrack", "--ctstate", state, "-j", verdict
        )
    chain.router.run(command, "-A", "FORWARD", "-i", "cl0", "-j", "ACCEPT")


def arrived(chain: Chain, family: str) -> int:
    """How many errors have come to the client."""
    return chain.client.packets("mangle", "INPUT", family)[0]


def warning(chain: Chain) -> list[str]:
    """What ``run`` would warn of the firewall, and the commands that it names."""
    said = chain.router.do("""
        for feature in features.warnings_for_run("cl0", "sv0"):
            if feature.name == "firewall passes untracked":
                print(feature.detail)
                print(feature.remedy)
    """)
    return said.splitlines()


@pytest.mark.parametrize("family", ["", "6"])
def test_the_rule_that_the_warning_names_lets_segments_and_errors_pass(
    chain: Chain, family: str
) -> None:
    chain.client.run(f"ip{family}tables-legacy", "-t", "mangle", "-A", "INPUT",
                     "-s", SERVER6 if family else SERVER, "-p", ICMP[family])  # fmt: skip
    stateful(chain, family)
    chain.router.do("rules().apply()")
    detail, remedy = warning(chain)
    assert f"untracked TCP is dropped by ip{family}tables-legacy FORWARD (policy DROP)" in detail
    with chain.listening(chain.server, 80):
        address = SERVER6 if family else SERVER
        assert chain.fetch(address, 80, timeout_s=1) == "TimeoutError"
        send_error(chain, family)
        assert arrived(chain, family) == 0
        for command in remedy.split("; "):
            chain.router.run(*command.split())
        assert warning(chain) == []
        assert chain.fetch(address, 80) == "hello"
        send_error(chain, family)
        assert arrived(chain, family) == 1


@pytest.mark.parametrize("family", ["", "6"])
def test_a_firewall_that_lets_segments_pass_but_not_errors_is_named(
    chain: Chain, family: str
) -> None:
    chain.client.run(f"ip{family}tables-legacy", "-t", "mangle", "-A", "INPUT",
                     "-s", SERVER6 if family else SERVER, "-p", ICMP[family])  # fmt: skip
    stateful(chain, family)
    chain.router.run(f"ip{family}tables-legacy", "-A", "FORWARD", "-p", "tcp", "-j", "ACCEPT")
    chain.router.do("rules().apply()")
    detail, remedy = warning(chain)
    assert "untracked TCP" not in detail
    assert f"untracked ICMP errors are dropped by ip{family}tables-legacy" in detail
    assert f"-p icmp{'v6' * bool(family)} " in remedy
    send_error(chain, family)
    assert arrived(chain, family) == 0
    for command in remedy.split("; "):
        chain.router.run(*command.split())
    assert warning(chain) == []
    send_error(chain, family)
    assert arrived(chain, family) == 1


@pytest.mark.parametrize("family", ["", "6"])
def test_a_firewall_that_only_drops_what_is_invalid_needs_no_rule(
    chain: Chain, family: str
) -> None:
    chain.client.run(f"ip{family}tables-legacy", "-t", "mangle", "-A", "INPUT",
                     "-s", SERVER6 if family else SERVER, "-p", ICMP[family])  # fmt: skip
    chain.router.run(f"ip{family}tables-legacy", "-A", "FORWARD", *INVALID, "-j", "DROP")
    send_error(chain, family)
    assert arrived(chain, family) == 0  # without our rules the error belongs to nothing
    chain.router.do("rules().apply()")
    assert warning(chain) == []
    send_error(chain, family)
    assert arrived(chain, family) == 1


def test_an_nftables_firewall_is_named_with_a_rule_for_nft(chain: Chain) -> None:
    chain.router.run("nft", "-f", "-", stdin="""
        table inet guard {
          chain forward {
            type filter hook forward priority filter; policy drop;
            ct state established,related accept
            iifname "cl0" accept
          }
        }
    """)  # fmt: skip
    chain.router.do("rules().apply()")
    detail, remedy = warning(chain)
    assert "nft chain inet guard forward" in detail
    for command in remedy.split("; "):
        chain.router.run(*command.split())
    assert warning(chain) == []
    with chain.listening(chain.server, 80):
        assert chain.fetch(SERVER, 80) == "hello"
        assert chain.fetch(SERVER6, 80) == "hello"


@pytest.mark.parametrize(
    ("table", "name", "rule"),
    [
        # Beyond what iptables-nft can list, so its own list of the table says nothing.
        ("ip filter", "FORWARD", "update @seen { ip saddr }"),
        # A name as of iptables, where iptables has no chains.
        ("inet filter", "FORWARD", "ct state established,related accept"),
        # The chain of somebody else in a table of that name.
        ("ip filter", "forward", "ct state established,related accept"),
    ],
)
def test_a_chain_forward_that_iptables_does_not_list_is_looked_at(
    chain: Chain, table: str, name: str, rule: str
) -> None:
    chain.router.do("rules().apply()")  # beside legacy tables iptables-nft warns before it fails
    chain.router.run("nft", "-f", "-", stdin=f"""
        table {table} {{
          set seen {{ type ipv4_addr; flags dynamic; size 99; }}
          chain {name} {{ type filter hook forward priority filter; policy drop; {rule}; }}
        }}
    """)  # fmt: skip
    detail, remedy = warning(chain)
    assert f"nft chain {table} {name}" in detail
    for command in remedy.split("; "):
        chain.router.run(*command.split())
    assert warning(chain) == []
    with chain.listening(chain.server, 80):
        assert chain.fetch(SERVER, 80) == "hello"


def test_check_speaks_of_the_ipv6_firewall(chain: Chain) -> None:
    chain.router.run("ip6tables-legacy", "-P", "FORWARD", "DROP")
    _, output, _ = cli(chain.router, "check")
    assert re.search(
        r"^warning +firewall passes untracked .*ip6tables-legacy FORWARD \(policy DROP\).*"
        r"to mend it: ip6tables-legacy -I FORWARD -i CLIENT-IF -o SERVER-IF -m conntrack "
        r"--ctstate UNTRACKED -j ACCEPT",
        output,
        re.MULTILINE,
    ), output
    chain.router.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
    _, output, _ = cli(chain.router, "check")
    assert re.search(r"^ok +firewall passes untracked ", output, re.MULTILINE), output
