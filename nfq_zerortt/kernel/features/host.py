"""The settings of this host as a router, and what the kernel offers for its testbed."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from pathlib import Path

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import tools
from nfq_zerortt.kernel.features.feature import Feature, tried
from nfq_zerortt.kernel.features.netfilter import ipv6_rules


def forwarding(client_iface: str | None = None, server_iface: str | None = None) -> Feature:
    """A router forwards; a host by default does not.

    It is the interface that a packet comes in by which decides; the host's setting sets them all.
    """
    name = "IPv4 forwarding"
    host = "net.ipv4.ip_forward"
    if not client_iface or not server_iface:
        on = _setting("net/ipv4/ip_forward") == 1
        state = "on" if on else "off: nothing passes through this host"
        return Feature(name, on, False, f"{host} is {state}", f"sysctl -w {host}=1")
    sides = (client_iface, server_iface)
    off = [side for side in sides if _setting(f"net/ipv4/conf/{side}/forwarding") != 1]
    if not off:
        return Feature(name, True, False, f"is on for {' and '.join(sides)}")
    if _setting("net/ipv4/ip_forward") == 1:
        keys = [_key("ipv4", side, "forwarding") for side in off]
    else:
        keys = [host]
    return Feature(
        name,
        False,
        False,
        f"{', '.join(keys)} is off: nothing passes that comes in by {' or by '.join(off)}",
        "; ".join(f"sysctl -w {key}=1" for key in keys),
    )


def _key(family: str, interface: str, setting: str) -> str:
    """Return the name of an interface's setting for sysctl(8): a dot in eth0.7 is a slash there."""
    return f"net.{family}.conf.{interface.replace('.', '/')}.{setting}"


def reverse_path_filter() -> Feature:
    """Strict filtering drops packets of clients or servers whose way back is another one."""
    every = _setting("net/ipv4/conf/all/rp_filter")
    names = (name for _, name in socket.if_nameindex() if name != "lo")
    # The kernel takes the larger of the two (ip-sysctl: rp_filter).
    strict = [n for n in names if max(every, _setting(f"net/ipv4/conf/{n}/rp_filter")) == 1]
    return Feature(
        "reverse path filter",
        not strict,
        False,
        f"strict on {', '.join(strict)}: drops packets where routes are not symmetric"
        if strict
        else "not strict",
        "; ".join(f"sysctl -w {_key('ipv4', name, 'rp_filter')}=2" for name in strict),
    )


def _setting(path: str) -> int:
    """Return a number of /proc/sys; 0 where there is none."""
    try:
        return int(Path("/proc/sys", path).read_text(encoding="ascii"))
    except OSError:
        return 0  # an interface that has just gone, or a kernel without the setting


def ipv6(client_iface: str | None = None, server_iface: str | None = None) -> Feature:
    """Whether IPv6 is served where it passes. It need not be there: then only IPv4 is served.

    A host on which no IPv6 can pass is as its operator wants it, unless both sides have addresses.
    """
    name = "IPv6"
    only = "only IPv4 is served"
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            raise
        return Feature(name, True, False, f"the kernel has none ({error.strerror}): {only}")
    named = client_iface is not None and server_iface is not None
    sides = [side for side in (client_iface, server_iface) if side] if named else ["all"]
    off = [one for one in sides if _setting(f"net/ipv6/conf/{one}/disable_ipv6")]
    addresses = [one for one in _ipv6_addresses() if one in sides or not named]
    if off:
        keys = [_key("ipv6", one, "disable_ipv6") for one in off]
        detail = f"switched off by {', '.join(keys)}: {only}"
        if not addresses:
            return Feature(name, True, False, detail)
        detail = f"{detail}, although {', '.join(addresses)} has addresses"
        return Feature(name, False, False, detail, _where_wanted(keys, 0))
    if not _forwards_ipv6(sides):
        if len(addresses) < _SIDES:
            return Feature(name, True, False, "does not pass through this host: no forwarding")
        return Feature(
            name,
            False,
            False,
            "net.ipv6.conf.all.forwarding is off: no IPv6 passes through this host, although "
            f"it has addresses ({', '.join(addresses)})",
            _where_wanted(["net.ipv6.conf.all.forwarding"], 1),
        )
    rules = ipv6_rules()
    if rules.ok is False:
        return Feature(name, False, False, f"{rules.name}: {rules.detail}; {only}", rules.remedy)
    return Feature(name, True, False, "is forwarded, and served like IPv4")


def _where_wanted(keys: Sequence[str], value: int) -> str:
    return "; ".join(f"sysctl -w {key}={value}" for key in keys) + ", where it is wanted"


def _forwards_ipv6(sides: Sequence[str]) -> bool:
    """Whether the kernel forwards what comes in by these; since Linux 6.17 one may do so alone."""
    return bool(_setting("net/ipv6/conf/all/forwarding")) or all(
        _setting(f"net/ipv6/conf/{side}/force_forwarding") for side in sides
    )


_SIDES = 2
_LINK_LOCAL, _HOST = 0x20, 0x10
"""Scopes in /proc/net/if_inet6 (net/ipv6.h: IPV6_ADDR_LINKLOCAL, IPV6_ADDR_LOOPBACK)."""


def _ipv6_addresses() -> list[str]:
    """Return the interfaces with an address that is good for more than their link."""
    table = Path("/proc/thread-self/net/if_inet6")
    lines = table.read_text(encoding="ascii").splitlines() if table.exists() else []
    found = (line.split() for line in lines)
    return sorted(
        {name for _, _, _, scope, _, name in found if not int(scope, 16) & (_LINK_LOCAL | _HOST)}
    )


def netem() -> Feature:
    """The kernel's network emulator, which the testbed uses for its WAN."""

    def action() -> str:
        try:
            said = tools.run(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
        except ZeroRttError:
            raise ZeroRttError(
                "the kernel does not have it; the testbed uses its own delay line"
            ) from None
        if said is None:
            raise ZeroRttError("there is no tc command")
        return "the testbed's WAN is the kernel's"

    return tried(
        "netem (testbed only)",
        action,
        "modprobe sch_netem, where exactness matters",
        required=False,
    )
