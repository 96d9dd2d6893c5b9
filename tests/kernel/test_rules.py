"""The rules in real network namespaces: set, removed, and hit by real packets.

``iptables-legacy`` is the independent reader: what it shows is what counts.
"""

from __future__ import annotations

import fcntl
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.chain import (
    CLIENT,
    PRELUDE,
    ROUTER,
    SERVER,
    SERVER6,
    Chain,
    Namespace,
    cli,
    namespaces,
    refusal,
)

FOREIGN = """\
*raw
:MINE - [0:0]
-A PREROUTING -i lo -j MINE
-A MINE -p udp -m udp --dport 53 -j CT --notrack
COMMIT
*mangle
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -m limit --limit 5/min -j LOG --log-prefix "strange: "
-A PREROUTING -m comment --comment "keep me" -j MARK --set-xmark 0x7/0xffffffff
COMMIT
*filter
-A INPUT -p tcp -m state --state ESTABLISHED -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
"""


@pytest.fixture
def host() -> Iterator[Namespace]:
    """One namespace with rules that are not ours."""
    with namespaces(1) as (one,):
        for command in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
            one.run(command, stdin=FOREIGN)
        yield one


@pytest.fixture
def chain() -> Iterator[Chain]:
    with namespaces(3) as (client, router, server):
        yield Chain(client, router, server)


# -- setting and removing, beside others ---------------------------------------------


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
        empty.do("for_removal(0).remove(); assert not rules().applied()")
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
    host.do("r = rules('new0', 'new1', '8080'); r.apply(); assert r.applied()")
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
    host.do("assert rules('a0', 'a1', queue=1).applied()")
    host.do("assert rules('b0', 'b1', '80', queue=11).applied(); for_removal(11).remove()")
    assert host.saved() == first
    host.do("for_removal(1).remove()")
    assert host.saved() == before


def test_the_printed_rules_do_the_same_through_iptables_restore(host: Namespace) -> None:
    text = host.do("print(rules(ports='80,443').text(), end='')")
    host.run("iptables-legacy-restore", "--noflush", stdin=text)
    assert "ZERORTT" not in host.saved("6")
    host.run("ip6tables-legacy-restore", "--noflush", stdin=text)
    host.do("assert rules(ports='80,443').applied()")


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
    host.do("rules().apply(); assert rules().applied()")
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


# -- beside other writers -------------------------------------------------------------


def test_what_others_add_between_our_operations_is_not_lost(host: Namespace) -> None:
    host.do(
        """
        import subprocess
        def foreign(name):
            for table, hook in (("raw", "PREROUTING"), ("mangle", "FORWARD")):
                subprocess.run(["iptables-legacy", "-w", "-t", table, "-I", hook, "-i", name,
                                "-j", "ACCEPT"], check=True)
        r = rules()
        r.apply()
        foreign("one")
        assert r.applied()
        foreign("two")
        rules("other0", "other1").apply()
        foreign("three")
        r.remove()
        """
    )
    for name in ("one", "two", "three"):
        assert host.saved().count(f"-i {name} -j ACCEPT") == 2
    assert "ZERORTT" not in host.saved()


def test_nothing_is_lost_while_another_writes_all_the_time(host: Namespace) -> None:
    writer = host.start(
        "sh", "-c",
        "for i in $(seq 150); do iptables-legacy -w -t mangle -A FORWARD -i w$i -j ACCEPT; done",
    )  # fmt: skip
    host.do("for _ in range(25): rules().apply(); assert rules().applied(); rules().remove()")
    output, _ = writer.communicate(timeout=60)
    assert writer.returncode == 0, output
    assert len(re.findall(r"-A FORWARD -i w\d+ -j ACCEPT", host.saved())) == 150
    assert "ZERORTT" not in host.saved()


def test_the_lock_of_iptables_is_waited_for_and_named(host: Namespace, tmp_path: Path) -> None:
    lock = tmp_path / "xtables.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = host.python(
            f"""
            os.environ["XTABLES_LOCKFILE"] = {str(lock)!r}
            with xtables.lock(timeout_s=0.3): pass
            """
        )
    assert done.returncode == 1
    assert f"another program has held the lock {lock} for 0.3 s" in done.stderr


def test_rules_are_written_only_under_the_lock(host: Namespace, tmp_path: Path) -> None:
    lock = tmp_path / "xtables.lock"
    code = f"""
        os.environ["XTABLES_LOCKFILE"] = {str(lock)!r}
        print("begins", flush=True)
        rules().apply()
    """
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer = host.start(sys.executable, "-c", PRELUDE + textwrap.dedent(code))
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "begins\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(timeout=1)
            assert "ZERORTT" not in host.saved()
            fcntl.flock(held, fcntl.LOCK_UN)
            assert writer.wait(timeout=10) == 0
        finally:
            writer.kill()
            writer.communicate()
    assert "ZERORTT" in host.saved()


# -- privileges ------------------------------------------------------------------------


def test_without_privileges_it_says_so(host: Namespace) -> None:
    for code in ("rules().apply()", "rules().remove()", "rules().missing()"):
        done = host.python(
            f"""
            try: {code}
            except ZeroRttError as error: print(error.exit_status, error)
            """,
            "setpriv", "--bounding-set=-all", "--inh-caps=-all",
        )  # fmt: skip
        assert done.stdout.startswith("3 CAP_NET_ADMIN and CAP_NET_RAW are missing"), done.stderr


def test_a_kernel_without_the_table_is_named_and_nothing_is_left_half_done(
    host: Namespace,
) -> None:
    before = host.saved()
    done = host.python(
        """
        from nfq_zerortt.kernel.declarations import Table
        r = RuleSet((rules().tables[0], Table("nosuch", (), ())))
        try: r.apply()
        except ZeroRttError as error: print(error.exit_status, error)
        """
    )
    assert done.stdout.startswith("3 the kernel offers no legacy iptables table nosuch"), (
        done.stderr
    )
    assert "modprobe iptable_nosuch" in done.stdout
    assert host.saved() == before


# -- real packets ----------------------------------------------------------------------


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


# -- what the host allows --------------------------------------------------------------


def test_check_is_content_with_root_and_leaves_nothing_behind(host: Namespace) -> None:
    before = host.saved()
    names = host.run("cat", "/proc/net/ip_tables_names")
    status, output, _ = cli(host, "check")
    assert status == 0, output
    assert output.splitlines()[-2] == "The service can run here."
    for name in ("NFQUEUE", "iptables target CT --notrack", "iptables match addrtype"):
        assert re.search(rf"^ok +{re.escape(name)} ", output, re.MULTILINE), output
    assert host.saved() == before
    assert host.run("cat", "/proc/net/ip_tables_names") == names
    assert "ZERORTT" not in host.saved("6")


def test_check_without_privileges_names_them_and_exits_3(host: Namespace) -> None:
    status, output, errors = cli(
        host, "check", prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    )
    assert status == 3
    assert errors == ""
    assert re.search(r"^missing +CAP_NET_ADMIN .*to mend it: run as root", output, re.MULTILINE)
    assert re.search(r"^missing +CAP_NET_RAW ", output, re.MULTILINE)


def test_check_warns_of_what_would_bite(host: Namespace) -> None:
    host.run("ip", "link", "add", "some0", "type", "veth", "peer", "name", "some1")
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv4.conf.all.rp_filter=0",
             "net.ipv4.conf.some0.rp_filter=1", "net.ipv4.conf.some1.rp_filter=2")  # fmt: skip
    host.run("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-o", "x0", "-j", "MASQUERADE")
    _, output, _ = cli(host, "check")
    assert re.search(r"^warning +IPv4 forwarding .*sysctl -w", output, re.MULTILINE)
    assert re.search(r"^warning +reverse path filter +strict on some0:", output, re.MULTILINE)
    assert re.search(r"^warning +no NAT in the way +NAT rules \(MASQUERADE\)", output, re.MULTILINE)
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.some0.rp_filter=0")
    host.run("iptables-legacy", "-t", "nat", "-F")
    _, output, _ = cli(host, "check")
    for name in ("IPv4 forwarding", "reverse path filter", "no NAT in the way"):
        assert re.search(rf"^ok +{name} ", output, re.MULTILINE), output


def test_check_sees_nat_in_nftables_too(host: Namespace) -> None:
    host.run("nft", "add table ip mynat; add chain ip mynat post "
             "{ type nat hook postrouting priority 100; }; "
             "add rule ip mynat post oifname x0 masquerade")  # fmt: skip
    _, output, _ = cli(host, "check")
    assert re.search(r"^warning +no NAT in the way +NAT rules \(MASQUERADE\)", output, re.MULTILINE)


def test_run_is_refused_in_one_line_where_it_cannot_work(chain: Chain) -> None:
    router = chain.router
    assert refusal(router, "features.require_for_run('cl0', 'sv0')") == "no objection"
    unknown = refusal(router, "features.require_for_run('cl0', 'eth7')")
    assert unknown == "2 --server-iface: no interface 'eth7' here; there are: cl0, lo, sv0"
    same = refusal(router, "features.require_for_run('cl0', 'cl0')")
    assert same.startswith("2 --server-iface: 'cl0' is the client's interface too")
    unprivileged = refusal(
        router, "features.require_for_run('cl0', 'sv0')",
        "setpriv", "--bounding-set=-all", "--inh-caps=-all",
    )  # fmt: skip
    assert unprivileged.startswith("3 CAP_NET_ADMIN: not in force")
    assert "run as root" in unprivileged


def test_run_is_refused_a_queue_that_is_in_use(chain: Chain) -> None:
    taken = """
        from netfilterqueue import NetfilterQueue
        queue = NetfilterQueue()
        queue.bind(4, lambda packet: packet.accept())
        print("ready", flush=True)
        queue.run()
    """
    holder = chain.router.start(sys.executable, "-c", textwrap.dedent(taken))
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        message = refusal(chain.router, "features.require_for_run('cl0', 'sv0', queue=4)")
        assert message.startswith("2 --queue: 4 is in use in this namespace")
        assert refusal(chain.router, "features.require_for_run('cl0', 'sv0')") == "no objection"
    finally:
        holder.kill()
        holder.communicate()


# -- the command -----------------------------------------------------------------------


def test_the_command_shows_applies_and_removes(chain: Chain) -> None:
    router = chain.router

    def saved() -> list[str]:
        return [router.saved(family) for family in ("", "6")]

    for table in ("raw", "mangle"):  # once looked at they exist, and stay in what is saved
        router.run("iptables-legacy", "-t", table, "-S")
        router.run("ip6tables-legacy", "-t", table, "-S")
    before = saved()
    selection = ("--client-iface", "cl0", "--server-iface", "sv0", "--ports", "80,443")
    status, output, _ = cli(router, "rules", "show", *selection)
    assert (status, output.splitlines()[0]) == (0, "# applied: no, or not like this:")
    assert cli(router, "rules", "apply", *selection) == (0, "", "")
    assert all("ZERORTT-0-ERRORS" in text for text in saved())
    status, output, _ = cli(router, "rules", "show", *selection)
    assert (status, output.splitlines()[0]) == (0, "# applied: yes")
    for words in ("-4 -p icmp -m icmp --icmp-type", "-6 -p icmpv6 -m icmp6 --icmpv6-type"):
        assert words in output
    if "nf_tables" in router.run("iptables", "--version"):
        assert "iptables-legacy -t mangle -S" in output
        assert "ip6tables-legacy -t mangle -S" in output
    router.run("ip6tables-legacy", "-t", "mangle", "-F", "ZERORTT-0-ERRORS")
    _, output, _ = cli(router, "rules", "show", *selection)
    assert "ipv6 table mangle: missing: -A ZERORTT-0-ERRORS -6 -p icmpv6" in output
    assert cli(router, "rules", "remove", "--queue", "1") == (0, "", "")
    assert all("ZERORTT-0" in text for text in saved())
    assert cli(router, "rules", "remove") == (0, "", "")
    assert saved() == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("--client-iface", "nope", "--server-iface", "sv0"),
            "--client-iface: no interface 'nope'",
        ),
        (("--client-iface", "cl0", "--server-iface", "cl0"), "--server-iface: 'cl0'"),
        (("--client-iface", "cl0"), "Missing option '--server-iface'"),
        (("--client-iface", "cl0", "--server-iface", "sv0", "--ports", "x"), "--ports: 'x'"),
        (("--client-iface", "cl0", "--server-iface", "sv0", "--queue", "70000"), "--queue"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_status_2(
    chain: Chain, argv: tuple[str, ...], message: str
) -> None:
    before = chain.router.saved()
    status, output, errors = cli(chain.router, "rules", "apply", *argv)
    assert (status, output) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1
    assert chain.router.saved() == before
