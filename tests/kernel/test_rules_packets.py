"""The rules, hit by real packets."""

from __future__ import annotations

import sys
import textwrap

import pytest
from support.chain import CLIENT, ROUTER, SERVER, SERVER6, Chain


def test_packets_hit_the_queue_rules_and_pass_while_nobody_listens(chain: Chain) -> None:
    chain.router.do("rules().apply()")
    with chain.listening(chain.server, 80):
        assert chain.fetch(SERVER, 80) == "hello"
    to_server, to_client = chain.router.taken()
    assert to_server >= 3
    assert to_client >= 3


def test_a_listener_decides_and_its_end_lets_packets_pass_again(chain: Chain) -> None:
    chain.router.do("rules(queue=7).apply()")
    code = """
        from netfilterqueue import NetfilterQueue
        queue = NetfilterQueue()
        queue.bind(7, lambda packet: packet.drop())
        print("ready", flush=True)
        queue.run()
    """
    with chain.listening(chain.server, 80):
        dropper = chain.router.start(sys.executable, "-c", textwrap.dedent(code))
        try:
            assert dropper.stdout is not None
            assert dropper.stdout.readline() == "ready\n"
            assert chain.fetch(SERVER, 80, timeout_s=0.6) == "TimeoutError"
        finally:
            dropper.kill()
            dropper.communicate()
        assert chain.fetch(SERVER, 80) == "hello"


def test_only_the_given_ports_are_taken_and_exempt_from_tracking(chain: Chain) -> None:
    chain.router.do("rules(ports='80,8000-8010').apply()")
    with chain.listening(chain.server, 80, 8005, 443):
        for port in (80, 8005, 443):
            assert chain.fetch(SERVER, port) == "hello"
    tracked = chain.tracked()
    assert "dport=443 " in tracked
    assert "dport=80 " not in tracked
    assert "dport=8005 " not in tracked


def test_without_our_rules_the_same_connection_is_tracked(chain: Chain) -> None:
    with chain.listening(chain.server, 80):
        assert chain.fetch(SERVER, 80) == "hello"
    assert "dport=80 " in chain.tracked()


def test_ports_beyond_the_fifteenth_are_taken_too(chain: Chain) -> None:
    many = ",".join(str(port) for port in range(8000, 8040, 2))
    chain.router.do(f"rules(ports='{many}').apply()")
    with chain.listening(chain.server, 8038):
        assert chain.fetch(SERVER, 8038) == "hello"
    first, second, first_back, second_back = chain.router.taken()
    assert (first, first_back) == (0, 0)
    assert second >= 3
    assert second_back >= 3
    assert "dport=8038 " not in chain.tracked()


def test_what_is_addressed_to_the_router_itself_stays_tracked(chain: Chain) -> None:
    chain.router.do("rules().apply()")
    with chain.listening(chain.router, 22):
        assert chain.fetch(ROUTER, 22) == "hello"
        assert chain.fetch("10.99.2.1", 22) == "hello"  # its address on the other side
    assert chain.tracked().count("dport=22 ") >= 2
    assert chain.router.taken() == [0, 0]


SPOOF = f"""
import socket, struct
def checksum(data):
    total = sum(struct.unpack(f"!{{len(data) // 2}}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
source, target = socket.inet_aton("{SERVER}"), socket.inet_aton("{CLIENT}")
tcp = struct.pack("!HHIIBBHHH", 80, 40000, 1, 2, 5 << 4, 0x12, 64240, 0, 0)
tcp = tcp[:16] + struct.pack("!H", checksum(source + target + struct.pack("!HH", 6, 20) + tcp)) \
    + tcp[18:]
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, source, target)
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
    sender.sendto(ip + tcp, ("{CLIENT}", 0))
"""


def test_a_spoofed_segment_of_ours_passes_a_stateful_firewall(chain: Chain) -> None:
    refused = chain.router.python(SPOOF)
    assert "PermissionError" in refused.stderr  # INVALID, so the operator's firewall drops it
    chain.router.do("rules().apply()")
    chain.router.do(SPOOF)
    assert chain.router.packets("raw", "ZERORTT-0-OUT", about="-p tcp") == [1, 0]
    assert "sport=40000" not in chain.tracked()


def test_ipv6_is_taken_by_the_same_declarations(chain: Chain) -> None:
    chain.router.do("rules(ports='80').apply()")
    with chain.listening(chain.server, 80, 443):
        assert chain.fetch(SERVER6, 80) == "hello"
        assert chain.fetch(SERVER6, 443) == "hello"
    assert all(count >= 3 for count in chain.router.taken("6"))
    assert "dport=80 " not in chain.tracked()
    assert "dport=443 " in chain.tracked()
    chain.router.do("for_removal(0).remove()")
    assert "ZERORTT" not in chain.router.saved("6")


@pytest.mark.parametrize("address", [SERVER, SERVER6])
def test_an_interface_is_compared_by_its_whole_name(chain: Chain, address: str) -> None:
    # cl2 and cl0 differ in a bit that the mask of python-iptables leaves out for IPv6.
    chain.router.do("rules('cl2', 'sv2').apply()")
    with chain.listening(chain.server, 80):
        assert chain.fetch(address, 80) == "hello"
    for family in ("", "6"):
        assert chain.router.taken(family) == [0, 0]
        assert chain.router.packets("raw", "ZERORTT-0-IN", family, "-p tcp") == [0, 0]
    assert "dport=80 " in chain.tracked()
