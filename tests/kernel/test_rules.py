"""The rules in real network namespaces: set, noticed, mended and removed, beside those of others.

``iptables-legacy`` is the independent reader: what it shows is what counts.
"""

from __future__ import annotations

import re
import signal
import textwrap

import pytest
from support.chain import SERVER, Chain, Namespace, namespaces


@pytest.mark.parametrize("family", ["", "6"])
def test_apply_adds_one_jump_to_each_hook_and_remove_restores_every_byte(
    host: Namespace, family: str
) -> None:
    before = host.saved(family)
    host.do("rules(ports='80,443,8000-8999').apply()")
    during = host.saved(family).splitlines()
    added = [line for line in during if line not in before.splitlines()]
    assert [line for line in during if line not in added] == before.splitlines()
    assert [line for line in added if not line.startswith(("-A ZERORTT-0", ":ZERORTT-0"))] == [
        "-A FORWARD -j ZERORTT-0",
        "-A OUTPUT -j ZERORTT-0-OWN",
        "-A PREROUTING -j ZERORTT-0-IN",
        "-A OUTPUT -j ZERORTT-0-OUT",
    ]
    host.do("for_removal(0).remove()")
    assert host.saved(family) == before


AS_SAVED = {
    "destination-unreachable": {"-4": "3", "-6": "1"},
    "packet-too-big": {"-6": "2"},
    "time-exceeded": {"-4": "11", "-6": "3"},
    "parameter-problem": {"-4": "12", "-6": "4"},
}
"""The numbers of the ICMP types (RFC 792, RFC 4443), which iptables shows."""


def as_saved(rule: str, flag: str) -> str:
    """A rule of ours as iptables-save writes it."""
    for name, numbers in AS_SAVED.items():
        rule = rule.replace(f"-type {name}", f"-type {numbers.get(flag)}")
    before, u32, after = rule.replace(f" {flag} ", " ").partition("--u32 ")
    if u32:
        expression, _, rest = after.partition(" ")
        number = re.compile(r"0x[0-9A-Fa-f]+|\d+")
        expression = number.sub(lambda found: hex(int(found[0], 0)), expression)
        after = f'"{expression}" {rest}'
    return (before + u32 + after).replace("-p icmpv6", "-p ipv6-icmp")


@pytest.mark.parametrize(
    ("family", "flag", "others", "count"), [("", "-4", "-6", 26), ("6", "-6", "-4", 30)]
)
def test_the_kernel_holds_what_the_declarations_say(
    host: Namespace, family: str, flag: str, others: str, count: int
) -> None:
    text = host.do("r = rules(ports='80,8000-8999', queue=5); r.apply(); print(r.text())")
    declared = [
        as_saved(line, flag)
        for line in text.splitlines()
        if line.startswith("-A ZERORTT-5") and f" {others} " not in line
    ]
    held = [line for line in host.saved(family).splitlines() if line.startswith("-A ZERORTT-5")]
    assert len(held) == count
    assert sorted(held) == sorted(declared)


def test_raw_rules_come_first_and_the_mangle_rule_last(host: Namespace) -> None:
    host.do("rules().apply()")
    raw = host.run("iptables-legacy", "-t", "raw", "-S", "PREROUTING").splitlines()
    assert raw[1:] == ["-A PREROUTING -j ZERORTT-0-IN", "-A PREROUTING -i lo -j MINE"]
    mangle = host.run("iptables-legacy", "-t", "mangle", "-S", "FORWARD").splitlines()
    assert "LOG" in mangle[-2]
    assert mangle[-1] == "-A FORWARD -j ZERORTT-0"


def test_applying_twice_changes_nothing_and_writes_nothing(chain: Chain) -> None:
    chain.router.do("rules().apply()")
    with chain.listening(chain.server, 80):
        assert chain.fetch(SERVER, 80) == "hello"
    before = chain.router.saved()
    chain.router.do("rules().apply(); rules().apply()")
    assert chain.router.saved() == before
    assert all(chain.router.taken())  # a rewrite would begin at zero


def test_removing_twice_or_where_nothing_was_is_fine(host: Namespace) -> None:
    before = host.saved()
    host.do("for_removal(0).remove(); rules().apply(); rules().remove(); rules().remove()")
    assert host.saved() == before


def test_looking_and_removing_bring_no_table_to_life(host: Namespace) -> None:
    names = "/proc/net/ip_tables_names"
    with namespaces(1) as (empty,):
        empty.do("for_removal(0).remove(); assert rules().missing()")
        assert empty.run("cat", names) == ""
        empty.do("rules().apply()")
        assert sorted(empty.run("cat", names).split()) == ["mangle", "raw"]  # and not nat


def test_after_a_crash_a_new_start_replaces_what_was_left(host: Namespace) -> None:
    before = host.saved()
    crashed = host.python(
        """
        rules("old0", "old1", "80,443").apply()
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert crashed.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert "old0" in host.saved()
    assert "old0" in host.saved("6")
    host.do("r = rules('new0', 'new1', '8080'); r.apply(); assert not r.missing()")
    assert "old" not in host.saved()
    assert "443" not in host.saved()
    assert "old" not in host.saved("6")
    assert "new0" in host.saved("6")
    assert len(re.findall("^-A [A-Z]+ -j ZERORTT-0", host.saved(), re.MULTILINE)) == 4
    host.do("for_removal(0).remove()")
    assert host.saved() == before


def test_a_crash_that_left_half_of_it_is_mended(host: Namespace) -> None:
    before = host.saved()
    host.run("iptables-legacy-restore", "--noflush", stdin=textwrap.dedent("""\
        *mangle
        :ZERORTT-0 - [0:0]
        -A FORWARD -j ZERORTT-0
        -A FORWARD -j ZERORTT-0
        -A ZERORTT-0 -p tcp -j DROP
        COMMIT
        """))  # fmt: skip
    host.do("rules().apply()")
    assert "ZERORTT-0 -p tcp -j DROP" not in host.saved()
    assert host.saved().count("-A FORWARD -j ZERORTT-0") == 1
    host.do("for_removal(0).remove()")
    assert host.saved() == before


def test_services_with_different_queues_do_not_disturb_each_other(host: Namespace) -> None:
    before = host.saved()
    host.do("rules('a0', 'a1', queue=1).apply()")
    first = host.saved()
    # Queue 11 begins like queue 1: names must be compared whole.
    host.do("rules('b0', 'b1', '80', queue=11).apply(); rules('a0', 'a1', queue=1).apply()")
    host.do("assert not rules('a0', 'a1', queue=1).missing()")
    host.do("assert not rules('b0', 'b1', '80', queue=11).missing(); for_removal(11).remove()")
    assert host.saved() == first
    host.do("for_removal(1).remove()")
    assert host.saved() == before


def test_the_printed_rules_do_the_same_through_iptables_restore(host: Namespace) -> None:
    text = host.do("print(rules(ports='80,443').text(), end='')")
    host.run("iptables-legacy-restore", "--noflush", stdin=text)
    assert "ZERORTT" not in host.saved("6")
    host.run("ip6tables-legacy-restore", "--noflush", stdin=text)
    host.do("assert not rules(ports='80,443').missing()")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (["-t", "mangle", "-D", "FORWARD", "-j", "ZERORTT-0"], "missing: -A FORWARD"),
        (["-t", "mangle", "-A", "FORWARD", "-j", "ZERORTT-0"], "too much: -A FORWARD"),
        (["-t", "mangle", "-A", "ZERORTT-0", "-j", "DROP"], "too much: further rules"),
        (["-t", "raw", "-F", "ZERORTT-0-IN"], "missing: -A ZERORTT-0-IN -i cl0"),
        (
            ["-t", "mangle", "-R", "ZERORTT-0", "3", "-i", "cl0", "-o", "sv0", "-p", "tcp",
             "-j", "NFQUEUE", "--queue-num", "0"],
            "missing: -A ZERORTT-0 -i cl0 -o sv0 -p tcp -j NFQUEUE",
        ),
        (
            ["-t", "mangle", "-R", "ZERORTT-0", "3", "-i", "cl1", "-o", "sv0", "-p", "tcp",
             "-j", "NFQUEUE", "--queue-num", "0", "--queue-bypass"],
            "missing: -A ZERORTT-0 -i cl0 -o sv0 -p tcp -j NFQUEUE",
        ),
        (
            ["-t", "mangle", "-R", "ZERORTT-0", "1", "-i", "cl0", "-o", "sv0",
             "-m", "mark", "--mark", "0x10000000", "-j", "ZERORTT-0-DONE"],
            "missing: -A ZERORTT-0 -i cl0 -o sv0 -m mark --mark 0x10000000/0x10000000",
        ),
    ],
)  # fmt: skip
def test_what_somebody_changed_is_noticed_and_mended(
    host: Namespace, change: list[str], difference: str
) -> None:
    host.do("rules().apply()")
    whole = host.saved()
    host.run("iptables-legacy", *change)
    assert difference in host.do("print(rules().missing())")
    host.do("rules().apply(); assert not rules().missing()")
    assert host.saved() == whole


@pytest.mark.parametrize(
    ("family", "old", "new"),
    [
        ("", "--icmp-type 3", "--icmp-type 3/4"),
        ("", "--icmp-type 11", "--icmp-type 8"),
        ("6", "--icmpv6-type 2", "--icmpv6-type 128"),
        ("", "&0xff=0x6&&", "&0xff=0x11&&"),
        ("6", "0x58>>0x10=0x50", "0x58>>0x10=0x51"),
        ("6", "-i cl0", "-i cl2"),  # these names differ in one bit of one letter
    ],
)
def test_a_small_change_of_any_match_is_noticed(
    host: Namespace, family: str, old: str, new: str
) -> None:
    host.do("rules(ports='80').apply()")
    whole = host.saved(family)
    text = host.run(f"ip{family}tables-legacy-save")
    assert old in text
    host.run(f"ip{family}tables-legacy-restore", stdin=text.replace(old, new, 1))
    assert host.saved(family) != whole
    host.do("assert rules(ports='80').missing(); rules(ports='80').apply()")
    assert host.saved(family) == whole


def test_a_foreign_rule_that_jumps_to_our_chain_stays_and_is_named(host: Namespace) -> None:
    host.do("rules().apply()")
    host.run("iptables-legacy", "-t", "mangle", "-A", "FORWARD", "-i", "x0", "-j", "ZERORTT-0")
    done = host.python("for_removal(0).remove()")
    assert done.returncode == 1
    assert "ipv4 table mangle, chain ZERORTT-0" in done.stderr
    left = [line for line in host.saved().splitlines() if "ZERORTT" in line]
    assert left == [":ZERORTT-0 -", "-A FORWARD -i x0 -j ZERORTT-0"]
    host.run("iptables-legacy", "-t", "mangle", "-D", "FORWARD", "-i", "x0", "-j", "ZERORTT-0")
    host.do("for_removal(0).remove()")
    assert "ZERORTT" not in host.saved()
