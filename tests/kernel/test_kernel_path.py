"""Attaching the kernel data path: whose filters are there before, between and afterwards."""

from __future__ import annotations

import pytest
from support.namespaces import inside
from support.opened import FLOWS, QUEUE, close, opened, remove_all
from support.pair import SHIFT, Pair, key, value

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import filters
from nfq_zerortt.kernel.bpf_object import PROGRAMS

FOREIGN = "tc filter add dev {dev} ingress pref {pref} bpf bytecode '1,6 0 0 0' || exit 1;"
"""A classic BPF filter of somebody else, which matches nothing."""


def test_nothing_stays_of_what_was_attached(pair: Pair) -> None:
    before = pair.state()
    path = opened(pair)
    with inside(pair.name):
        assert path.is_attached()
    assert not path.adopted
    assert path.max_flows == FLOWS
    shown = pair.state()
    assert shown.count("clsact") == 2
    assert [shown.count(f"{name} direct-action") for name in PROGRAMS] == [1, 1]
    close(pair, path, leave=False)
    assert pair.state() == before


def test_packets_are_translated(pair: Pair) -> None:
    path = opened(pair)
    with pair.receiving() as receiver:
        assert receiver.exchange(5) == 5
        path.insert(key(), value())
        assert receiver.exchange(6) == 6 + SHIFT
    close(pair, path, leave=False)


@pytest.mark.parametrize("kind", ["clsact", "ingress"])
def test_what_others_made_stays(pair: Pair, kind: str) -> None:
    pair.sh(f"tc qdisc add dev c0 {kind}")
    before = pair.state()
    close(pair, opened(pair), leave=False)
    assert pair.state() == before


def test_clsact_stays_while_somebody_uses_it(pair: Pair) -> None:
    path = opened(pair)
    pair.sh("tc filter add dev c0 egress pref 9 bpf bytecode '1,6 0 0 0'")
    close(pair, path, leave=False)
    shown = pair.state()
    assert shown.count("clsact") == 1
    assert "pref 9 bpf" in shown
    assert not any(name in shown for name in PROGRAMS)


def test_filters_of_others_are_asked_too(pair: Pair) -> None:
    """One before and one behind ours, which copy what they see to an interface each."""
    pair.sh("""
        tc qdisc add dev c0 clsact
        for i in 1 2; do ip link add m$i type veth peer name n$i; ip link set m$i up;
        ip link set n$i up; done
    """)
    copy = "protocol ip u32 match ip src 10.9.0.2 action mirred egress mirror dev {dev} continue"
    pair.sh(f"tc filter add dev c0 ingress pref 10 {copy.format(dev='m1')}")
    pair.sh(f"tc filter add dev c0 ingress pref 40000 {copy.format(dev='m2')}")
    path = opened(pair)
    path.insert(key(), value())
    with pair.receiving() as receiver:
        assert receiver.exchange() == 1 + SHIFT
    shown = pair.sh("cat /proc/net/dev")
    received = {
        line.split(":")[0].strip(): int(line.split(":")[1].split()[1])
        for line in shown.splitlines()
        if ":" in line
    }
    assert (received["n1"], received["n2"]) == (1, 1)
    close(pair, path, leave=False)
    assert pair.state().count("mirred") == 2


def test_a_filter_in_our_place_is_not_replaced(pair: Pair) -> None:
    pair.sh("tc qdisc add dev s0 clsact;" + FOREIGN.format(dev="s0", pref=filters.PRIORITY))
    pair.sh(f"tc filter del dev s0 ingress pref {filters.PRIORITY}")
    pair.sh(
        f"tc filter add dev s0 ingress pref {filters.PRIORITY} handle {QUEUE + 1} "
        "bpf bytecode '1,6 0 0 0'"
    )
    before = pair.state()
    with pytest.raises(ZeroRttError, match="interface s0 has a filter of somebody else"):
        opened(pair)
    assert pair.state() == before
    assert remove_all(pair) == []
    assert pair.state() == before


def test_a_filter_of_another_kind_at_our_priority(pair: Pair) -> None:
    pair.sh(
        "tc qdisc add dev s0 clsact; tc filter add dev s0 ingress protocol ip "
        f"pref {filters.PRIORITY} u32 match u32 0 0 classid 1:1"
    )
    before = pair.state()
    with pytest.raises(ZeroRttError, match="interface s0 has a filter of somebody else"):
        opened(pair)
    assert pair.state() == before


EXCHANGE_UNTIL_TOLD = """
import select, sys
from support.pair import SHIFT, Receiver
receiver = Receiver()
count = untouched = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    untouched += receiver.exchange(count) != count + SHIFT
    count += 1
    if count == 1:
        print("begun", flush=True)
print(count, untouched)
"""


def test_replacing_leaves_no_gap(pair: Pair) -> None:
    first = opened(pair)
    first.insert(key(), value())
    second = opened(pair)
    assert second.adopted
    with inside(pair.name):
        assert not first.is_attached()
        assert second.is_attached()
    sender = pair.python(EXCHANGE_UNTIL_TOLD)
    assert sender.stdout is not None
    assert sender.stdout.readline() == "begun\n"
    with inside(pair.name):
        for turn in range(1000):
            (first, second)[turn % 2].attach()
    said, errors = sender.communicate("end", timeout=30)
    assert sender.returncode == 0, errors
    count, untouched = map(int, said.split())
    assert count > 500
    assert untouched == 0
    first.close(leave=True)
    close(pair, second, leave=False)


def test_an_interface_made_anew(pair: Pair) -> None:
    path = opened(pair)
    path.insert(key(), value())
    pair.make_interfaces()
    with inside(pair.name):
        assert not path.is_attached()
        path.attach()
        assert path.is_attached()
    with pair.receiving() as receiver:
        assert receiver.exchange() == 1 + SHIFT
    pair.sh("ip link del s0")
    with inside(pair.name):
        assert not path.is_attached()
        with pytest.raises(ZeroRttError, match="interface s0 does not exist"):
            path.attach()
    close(pair, path, leave=False)
    assert "clsact" not in pair.sh("tc qdisc show dev c0")


def test_two_queues_on_the_same_interfaces(pair: Pair) -> None:
    before = pair.state()
    first, second = opened(pair, 1), opened(pair, 2)
    assert not second.adopted
    close(pair, first, leave=False)
    with inside(pair.name):
        assert second.is_attached()
    close(pair, second, leave=False)
    assert pair.state() == before
