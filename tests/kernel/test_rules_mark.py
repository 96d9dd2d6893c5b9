"""What the kernel data path has renumbered goes past the queue, and its mark goes no further.

Here a rule of iptables sets the mark, in place of the kernel data path: what is tested are
the rules that read it.
"""

from __future__ import annotations

import pytest
from support.chain import SERVER, SERVER6, Chain

TRANSLATED = 0x10000000
OTHERS_BIT = 0x1

FAMILIES = pytest.mark.parametrize(("family", "server"), [("", SERVER), ("6", SERVER6)])


@pytest.fixture
def chain(chain: Chain) -> Chain:
    chain.router.do("rules().apply()")
    for name in ("iptables-legacy", "ip6tables-legacy"):
        for bit in (TRANSLATED, OTHERS_BIT):  # what the interfaces beyond get to see
            chain.router.run(name, "-t", "mangle", "-A", "POSTROUTING", "-p", "tcp",
                             "-m", "mark", "--mark", f"{bit:#x}/{bit:#x}")  # fmt: skip
    return chain


def mark(chain: Chain, family: str, interface: str, value: int) -> None:
    chain.router.run(
        f"ip{family}tables-legacy", "-t", "raw", "-I", "PREROUTING", "-i", interface,
        "-p", "tcp", "-j", "MARK", "--set-xmark", f"{value:#x}/{value:#x}",
    )  # fmt: skip


def seen_beyond(chain: Chain, family: str, bit: int) -> int:
    return sum(chain.router.packets("mangle", "POSTROUTING", family, f"{bit:#x}/{bit:#x}"))


@FAMILIES
def test_what_is_marked_is_not_queued(chain: Chain, family: str, server: str) -> None:
    with chain.listening(chain.server, 80):
        mark(chain, family, "cl0", TRANSLATED | OTHERS_BIT)
        assert chain.fetch(server, 80) == "hello"
        to_server, to_client = chain.router.taken(family)
        assert to_server == 0
        assert to_client > 0
        mark(chain, family, "sv0", TRANSLATED)
        assert chain.fetch(server, 80) == "hello"
        assert chain.router.taken(family) == [0, to_client]
    assert sum(chain.router.packets("mangle", "ZERORTT-0-DONE", family, "ACCEPT")) > to_client


@FAMILIES
def test_our_bit_is_cleared_and_no_other(chain: Chain, family: str, server: str) -> None:
    mark(chain, family, "cl0", TRANSLATED | OTHERS_BIT)
    with chain.listening(chain.server, 80):
        assert chain.fetch(server, 80) == "hello"
    assert seen_beyond(chain, family, TRANSLATED) == 0
    assert seen_beyond(chain, family, OTHERS_BIT) > 0


@FAMILIES
def test_a_mark_of_others_means_nothing(chain: Chain, family: str, server: str) -> None:
    mark(chain, family, "cl0", 0xFFFFFFFF & ~TRANSLATED)
    with chain.listening(chain.server, 80):
        assert chain.fetch(server, 80) == "hello"
    assert min(chain.router.taken(family)) > 0
    assert seen_beyond(chain, family, OTHERS_BIT) > 0


@FAMILIES
def test_between_other_interfaces_the_bit_is_left_alone(
    chain: Chain, family: str, server: str
) -> None:
    chain.router.do("rules('nic0', 'nic1').apply()")
    mark(chain, family, "cl0", TRANSLATED)
    with chain.listening(chain.server, 80):
        assert chain.fetch(server, 80) == "hello"
    assert seen_beyond(chain, family, TRANSLATED) > 0


@FAMILIES
def test_what_is_marked_is_not_tracked_and_not_looked_at(
    chain: Chain, family: str, server: str
) -> None:
    mark(chain, family, "cl0", TRANSLATED)
    mark(chain, family, "sv0", TRANSLATED)
    with chain.listening(chain.server, 80):
        assert chain.fetch(server, 80) == "hello"
    assert chain.tracked() == ""
    assert sum(chain.router.packets("raw", "ZERORTT-0-IN", family, "addrtype")) == 0
