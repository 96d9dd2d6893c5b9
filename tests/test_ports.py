"""The list of ports: what is accepted, what it means, how iptables is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfq_zerortt.errors import ConfigError
from nfq_zerortt.ports import LAST_PORT, MULTIPORT_SLOTS, PortSet

PORTS = st.integers(1, LAST_PORT)
RANGES = st.tuples(PORTS, PORTS).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(RANGES, min_size=1, max_size=60), st.lists(PORTS))
def test_groups_hold_the_same_ports_in_fifteen_slots_each(
    ranges: list[tuple[int, int]], tried: list[int]
) -> None:
    ports = PortSet.parse(",".join(f"{first}-{last}" for first, last in ranges))
    groups = [group.split(",") for group in ports.multiport_groups()]
    for group in groups:
        assert sum(2 if ":" in item else 1 for item in group) <= MULTIPORT_SLOTS
    items = [item.split(":") for group in groups for item in group]
    for port in [*tried, *(edge for one in ranges for edge in one)]:
        wanted = any(first <= port <= last for first, last in ranges)
        assert (port in ports) == wanted
        assert any(int(item[0]) <= port <= int(item[-1]) for item in items) == wanted
    assert PortSet.parse(str(ports)) == ports


def test_all_is_every_port_and_needs_no_match() -> None:
    ports = PortSet.parse("all")
    assert 1 in ports
    assert LAST_PORT in ports
    assert ports.multiport_groups() == ()
    assert str(ports) == "all"


def test_overlapping_and_neighbouring_ports_become_one_range() -> None:
    assert str(PortSet.parse("443,80,81,82-90,85-100,443")) == "80-100,443"


def test_fifteen_ports_fit_one_rule_and_sixteen_do_not() -> None:
    many = [str(port) for port in range(1, 100, 2)]
    assert len(PortSet.parse(",".join(many[:15])).multiport_groups()) == 1
    assert len(PortSet.parse(",".join(many[:16])).multiport_groups()) == 2


@pytest.mark.parametrize(
    "text",
    ["", ",", "80,", "0", "65536", "80-", "-80", "90-80", "http", "80 ,443", "80:90", "+80", "ALL",
     "80-90-100", "٨٠", "80\n"],
)  # fmt: skip
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        PortSet.parse(text, option="--ports")
    message = str(refused.value)
    assert message.startswith("--ports: ")
    assert repr(text) in message
    assert "1 to 65535" in message
