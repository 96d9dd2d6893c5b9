"""Walking FORWARD as an untracked packet would. Rules are written as ``iptables -S`` does."""

from __future__ import annotations

import shlex

import pytest

from nfq_zerortt.kernel.declarations import Family
from nfq_zerortt.kernel.table_walk import ERRORS, TCP, Kind, Passage, Walk

STATEFUL = "-P FORWARD DROP\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
REMEDY = """\
-A FORWARD -i lan0 -o wan0 -p tcp -m conntrack --ctstate UNTRACKED -j ACCEPT
-A FORWARD -i wan0 -o lan0 -p tcp -m conntrack --ctstate UNTRACKED -j ACCEPT
"""
UFW = """\
-P FORWARD DROP
-N ufw-before-forward
-N ufw-user-forward
-A FORWARD -j ufw-before-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
"""
DOCKER = """\
-P FORWARD DROP
-N DOCKER
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
"""
STATELESS = "-P FORWARD DROP\n-A FORWARD -i lan0 -j ACCEPT\n-A FORWARD -o lan+ -j ACCEPT\n"
BY_PORT = "-P FORWARD DROP\n-A FORWARD -p tcp --dport 80 -j ACCEPT\n"
OTHERS = "-P FORWARD DROP\n-A FORWARD -i vpn0 -o lan0 -j ACCEPT\n-A FORWARD -p udp -j ACCEPT\n"
NEW_ONLY = "-P FORWARD ACCEPT\n-A FORWARD -m state --state UNTRACKED -j DROP\n"
# For the kernel untracked is a state of its own, not INVALID.
INVALID = "-P FORWARD ACCEPT\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n"
NOT_ESTABLISHED = "-P FORWARD ACCEPT\n-A FORWARD -m conntrack ! --ctstate ESTABLISHED -j REJECT\n"
COMMENT = STATEFUL + '-A FORWARD -m comment --comment "-j all of them" -j ACCEPT\n'
LOOP = "-P FORWARD DROP\n-A FORWARD -j one\n-A one -j one\n"


def end(rules: str, came_in: str | None, goes_out: str | None, kind: Kind = TCP) -> str:
    words = [shlex.split(line) for line in rules.splitlines()]
    return Walk(words, Passage(came_in, goes_out, kind)).end()


@pytest.mark.parametrize(
    ("rules", "there", "back", "unknown"),
    [
        ("", True, True, True),
        ("-P FORWARD ACCEPT\n", True, True, True),
        ("-P FORWARD DROP\n", False, False, False),
        (STATEFUL, False, False, False),
        (STATEFUL + "-A FORWARD -i lan0 -j ACCEPT\n", True, False, False),
        (STATEFUL + REMEDY, True, True, True),
        (UFW, False, False, False),
        (UFW + "-A ufw-user-forward -m state --state UNTRACKED -j ACCEPT\n", True, True, True),
        (DOCKER, False, False, False),
        (DOCKER.replace("-j RETURN", "-p tcp -j ACCEPT"), True, True, True),
        (STATELESS, True, True, False),
        (BY_PORT, True, True, True),
        (OTHERS, False, False, False),
        (NEW_ONLY, False, False, False),
        (INVALID, True, True, True),
        (NOT_ESTABLISHED, False, False, False),
        (COMMENT, True, True, True),
        (LOOP, False, False, False),
    ],
)
def test_untracked_packet_passes(rules: str, there: bool, back: bool, unknown: bool) -> None:
    ends = (end(rules, "lan0", "wan0"), end(rules, "wan0", "lan0"), end(rules, None, None))
    assert tuple(not said for said in ends) == (there, back, unknown), ends


def test_it_says_what_drops() -> None:
    assert end(STATEFUL, "lan0", "wan0") == "policy DROP"
    assert "--state UNTRACKED -j DROP" in end(NEW_ONLY, "lan0", "wan0")


UNTRACKED_TCP = STATEFUL + REMEDY
ANY_ICMP = STATEFUL + "-A FORWARD -p icmp -j ACCEPT\n"
ONE_TYPE = STATEFUL + "-A FORWARD -p icmp -m icmp --icmp-type {} -j ACCEPT\n"
ONE_TYPE6 = STATEFUL + "-A FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type {} -j ACCEPT\n"


@pytest.mark.parametrize(
    ("rules", "family", "passes"),
    [
        ("", "ipv4", True),
        (STATEFUL, "ipv4", False),
        (INVALID, "ipv4", True),
        (INVALID, "ipv6", True),
        (UNTRACKED_TCP, "ipv4", False),
        (UNTRACKED_TCP.replace("-p tcp ", ""), "ipv4", True),
        (UNTRACKED_TCP.replace("-p tcp ", ""), "ipv6", True),
        (ANY_ICMP, "ipv4", True),
        (ANY_ICMP, "ipv6", False),
        (ONE_TYPE.format("3"), "ipv4", True),
        (ONE_TYPE.format("3/4"), "ipv4", True),
        (ONE_TYPE.format("any"), "ipv4", True),
        (ONE_TYPE.format("8"), "ipv4", False),
        (ONE_TYPE.format("3/1"), "ipv4", False),
        (UFW, "ipv4", False),
        (ONE_TYPE6.format("2"), "ipv6", True),
        (ONE_TYPE6.format("128"), "ipv6", False),
        (ONE_TYPE6.format("1"), "ipv6", False),
    ],
)
def test_untracked_error_passes(rules: str, family: Family, passes: bool) -> None:
    kind = ERRORS[family]
    assert (end(rules, "lan0", "wan0", kind) == "") is passes
    assert (end(rules, "wan0", "lan0", kind) == "") is passes


OUTPUT = """\
-P OUTPUT {policy}
-P FORWARD DROP
-A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
{more}
"""


@pytest.mark.parametrize(
    ("policy", "more", "passes"),
    [
        ("ACCEPT", "", True),
        ("DROP", "", False),
        ("ACCEPT", "-A OUTPUT -m conntrack --ctstate INVALID -j DROP", False),
        ("ACCEPT", "-A OUTPUT -o eth7 -m conntrack --ctstate INVALID -j DROP", True),
        ("DROP", "-A OUTPUT -o lan0 -j ACCEPT", True),
        ("DROP", "-A OUTPUT -m conntrack --ctstate UNTRACKED -j ACCEPT", False),
        ("DROP", "-A OUTPUT -p icmp -m conntrack --ctstate INVALID -j ACCEPT", True),
    ],
)
def test_the_routers_own_error_passes(policy: str, more: str, passes: bool) -> None:
    words = [shlex.split(line) for line in OUTPUT.format(policy=policy, more=more).splitlines()]
    way = Passage(None, "lan0", ERRORS["ipv4"], "OUTPUT", "INVALID")
    assert (Walk([line for line in words if line], way).end() == "") is passes


@pytest.mark.parametrize(
    ("test", "local", "other"),
    [
        ("--dst-type LOCAL", True, False),
        ("! --dst-type LOCAL", False, True),
        ("--dst-type LOCAL,BROADCAST", True, True),
        ("--dst-type MULTICAST", False, True),
        ("--dst-type LOCAL -i vpn0", False, False),
    ],
)
def test_what_is_addressed_to_the_router_itself(test: str, local: bool, other: bool) -> None:
    rule = shlex.split(f"-A PREROUTING -m addrtype {test} -j DNAT")

    def is_met(is_local: bool | None) -> bool:
        passage = Passage("lan0", None, TCP, "PREROUTING", is_local=is_local)
        return bool(list(Walk([rule], passage).may_meet()))

    assert (is_met(True), is_met(False)) == (local, other)
    assert is_met(None) is (local or other)


def test_a_chain_is_walked_once_however_many_jumps_there_are_to_it() -> None:
    """Otherwise these would be a thousand million visits."""
    levels = 30
    rules = [
        shlex.split(f"-A {chain} {way} -j level{level}")
        for level, chain in enumerate(["FORWARD", *(f"level{n}" for n in range(levels))])
        for way in ("-i lan0 --dport 80", "-i lan0 --dport 81")
    ]
    walk = Walk(rules, Passage("lan0", "wan0"))
    assert len(list(walk.may_meet())) <= 2 * (levels + 1)
    assert walk.end() == ""
