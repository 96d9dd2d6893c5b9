"""What is in the way of untracked packets, and the commands that let them pass."""

from __future__ import annotations

import pytest

from nfq_zerortt.kernel.firewall import Obstacle
from nfq_zerortt.kernel.table_walk import ERRORS, TCP


@pytest.mark.parametrize(
    ("obstacle", "first"),
    [
        (
            Obstacle("ipv4", TCP, "", "iptables-legacy -I FORWARD"),
            "iptables-legacy -I FORWARD -i c -o s -m conntrack --ctstate UNTRACKED -j ACCEPT",
        ),
        (
            Obstacle("ipv6", ERRORS["ipv6"], "", "ip6tables-nft -I FORWARD"),
            "ip6tables-nft -I FORWARD -i c -o s -p icmpv6 -m conntrack --ctstate UNTRACKED "
            "-j ACCEPT",
        ),
        (
            Obstacle("ipv4", ERRORS["ipv4"], "", "iptables-nft -I OUTPUT", "OUTPUT"),
            "iptables-nft -I OUTPUT -o c -p icmp -m conntrack --ctstate INVALID -j ACCEPT",
        ),
        (
            Obstacle("ipv4", TCP, "", "nft insert rule inet guard forward"),
            "nft insert rule inet guard forward iifname c oifname s ct state untracked accept",
        ),
    ],
)
def test_the_remedy_is_a_command_for_that_firewall(obstacle: Obstacle, first: str) -> None:
    one, other = obstacle.remedies("c", "s")
    assert one == first
    assert other != first
