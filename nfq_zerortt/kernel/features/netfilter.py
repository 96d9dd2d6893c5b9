"""The packet queue, and the iptables with which packets get there."""

from __future__ import annotations

import functools
import importlib

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import capabilities, declarations, modules, rules, tools, xtables
from nfq_zerortt.kernel.declarations import FAMILIES, Family
from nfq_zerortt.kernel.features.feature import Feature, tried
from nfq_zerortt.ports import PortSet


def _bind_queue() -> str:
    queue = importlib.import_module("netfilterqueue").NetfilterQueue()
    queue.bind(0, lambda packet: packet.accept())
    queue.unbind()
    return "a queue can be bound"


def nfqueue() -> Feature:
    """The kernel's queue to a process: tried by binding one."""
    return tried(
        "NFQUEUE",
        _bind_queue,
        modules.remedy("nfnetlink_queue", "CONFIG_NETFILTER_NETLINK_QUEUE"),
    )


def _open_table(family: Family, table: str) -> str:
    with xtables.opened(family, table):
        return f"{table} can be opened"


def _table(table: str) -> Feature:
    # What is said of a table that cannot be opened has its remedy in it.
    return tried(f"iptables table {table}", lambda: _open_table("ipv4", table), "")


def mangle_table() -> Feature:
    """The legacy mangle table, where packets are taken to the queue."""
    return _table("mangle")


def raw_table() -> Feature:
    """The legacy raw table, where packets are exempted from connection tracking."""
    return _table("raw")


def _insert(family: Family, text: str) -> str:
    for table in declarations.parse(text):
        with xtables.opened(family, table.name) as copy:
            for chain in table.chains:
                copy.create_chain(chain)
            for rule in table.rules:
                copy.add(rule)
            copy.commit()
    return "a rule with it can be set"


def _rule(name: str, table: str, hook: str, rule: str, kernel_option: str) -> Feature:
    text = (
        f"*{table}\n:ZERORTT-TRY - [0:0]\n-A {hook} -j ZERORTT-TRY\n-A ZERORTT-TRY {rule}\nCOMMIT"
    )
    found = tried(
        name,
        lambda: _insert("ipv4", text),
        f"a kernel with {kernel_option}, and the complete iptables package",
    )
    if found.ok is False and _table(table).ok is False:
        # The cause has a line of its own; nine more with it would hide it.
        detail = f"cannot be set without the iptables table {table}"
        return Feature(name, False, True, detail)
    return found


def iptables_lock() -> Feature:
    """The lock that iptables commands take, in a file of root's."""
    name = "iptables lock"
    try:
        with xtables.lock():
            return Feature(name, True, True, "can be taken")
    except ZeroRttError as error:
        return Feature(name, False, True, str(error))


def nfqueue_target() -> Feature:
    """The target that takes packets to the queue, and passes them when nobody listens."""
    rule = "-p tcp -j NFQUEUE --queue-num 0 --queue-bypass"
    option = "CONFIG_NETFILTER_XT_TARGET_NFQUEUE"
    return _rule("iptables target NFQUEUE --queue-bypass", "mangle", "FORWARD", rule, option)


def ct_target() -> Feature:
    """The target that exempts packets from connection tracking."""
    option = "CONFIG_NETFILTER_XT_TARGET_CT"
    return _rule("iptables target CT --notrack", "raw", "OUTPUT", "-j CT --notrack", option)


def multiport_match() -> Feature:
    """The match behind --ports."""
    rule = "-p tcp -m multiport --dports 80,8000:8999 -j NFQUEUE --queue-num 0"
    option = "CONFIG_NETFILTER_XT_MATCH_MULTIPORT"
    return _rule("iptables match multiport", "mangle", "FORWARD", rule, option)


def addrtype_match() -> Feature:
    """The match that spares what is addressed to this router."""
    rule = "-p tcp -m addrtype ! --dst-type LOCAL -j CT --notrack"
    option = "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE"
    return _rule("iptables match addrtype", "raw", "PREROUTING", rule, option)


def icmp_match() -> Feature:
    """The match that tells ICMP errors from echo requests."""
    rule = "-4 -p icmp -m icmp --icmp-type time-exceeded -j NFQUEUE --queue-num 0"
    return _rule("iptables match icmp", "mangle", "FORWARD", rule, "CONFIG_IP_NF_IPTABLES_LEGACY")


def u32_match() -> Feature:
    """The match that looks at what an ICMP error quotes."""
    rule = "-4 -p icmp -m u32 --u32 0>>22&0x3C@14&0xFF=6 -j CT --notrack"
    option = "CONFIG_NETFILTER_XT_MATCH_U32"
    return _rule("iptables match u32", "raw", "PREROUTING", rule, option)


def mark_match() -> Feature:
    """The match that tells what the kernel has renumbered, and the target that clears the bit."""
    rule = "-m mark --mark 0x1/0x1 -j MARK --set-xmark 0x0/0x1"
    option = "CONFIG_NETFILTER_XT_MARK"
    return _rule("iptables mark and MARK", "mangle", "FORWARD", rule, option)


@functools.cache
def served_families() -> tuple[Family, ...]:
    """Return the families whose packets the service takes: IPv6 only where there are rules for it.

    Where that cannot be tried, for want of privileges, both. It is tried once in a process.
    """
    found = ipv6_rules().ok
    if found is None and capabilities.effective() >= {"CAP_NET_ADMIN", "CAP_NET_RAW"}:
        # No namespace to try it in, as in a sandbox; but the tables themselves can be opened.
        found = _has_ipv6_tables()
    return ("ipv4",) if found is False else FAMILIES


def _has_ipv6_tables() -> bool:
    try:
        for table in ("raw", "mangle"):
            _open_table("ipv6", table)
    except MissingFeatureError:
        return False
    return True


def ipv6_rules() -> Feature:
    """The same tables and extensions for IPv6."""

    def action() -> str:
        for table in rules.RuleSet.for_clientnic("c", "s", PortSet.parse("80")).tables:
            _insert("ipv6", str(table.of("ipv6")))
        return "the same rules can be set for IPv6"

    return tried("ip6tables rules", action, "", required=False)


def iptables_command() -> Feature:
    """Whether the host's iptables command shows the rules of this product."""
    name = "iptables command"
    if not iptables_is_nft():
        return Feature(name, True, False, "shows the same tables that this product writes")
    return Feature(
        name,
        False,
        False,
        "is the nft one, which does not list this product's rules",
        "look at them with iptables-legacy or 'nfq-zerortt rules show'",
    )


def iptables_is_nft() -> bool:
    """Whether the host's iptables command writes to nftables instead of the legacy tables."""
    try:
        said = tools.run(["iptables", "--version"])
    except ZeroRttError:
        return False
    return "nf_tables" in (said or "")
