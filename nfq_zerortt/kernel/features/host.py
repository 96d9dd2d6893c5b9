"""The settings of this host as a router, and what the kernel offers for its testbed."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
from pathlib import Path

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import firewall
from nfq_zerortt.kernel.features.feature import Feature, tried
from nfq_zerortt.kernel.features.netfilter import ipv6_rules


def forwarding() -> Feature:
    """A router forwards; a host by default does not."""
    on = _setting("net/ipv4/ip_forward") == 1
    return Feature(
        "IPv4 forwarding",
        on,
        False,
        "net.ipv4.ip_forward is " + ("on" if on else "off: nothing passes through this host"),
        "sysctl -w net.ipv4.ip_forward=1",
    )


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
        "; ".join(f"sysctl -w net.ipv4.conf.{name}.rp_filter=2" for name in strict),
    )


def _setting(path: str) -> int:
    """Return a number of /proc/sys; 0 where there is none."""
    try:
        return int(Path("/proc/sys", path).read_text(encoding="ascii"))
    except OSError:
        return 0  # an interface that has just gone, or a kernel without the setting


def ipv6(client_iface: str | None = None, server_iface: str | None = None) -> Feature:
    """Whether IPv6 can be served. It need not be: without it, IPv4 is."""
    name = "IPv6"
    only = "only IPv4 is served"
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            raise
        return Feature(
            name,
            False,
            False,
            f"the kernel has none ({error.strerror}): {only}",
            "modprobe ipv6, or boot without ipv6.disable=1, where it is wanted",
        )
    rules = ipv6_rules()
    if rules.ok is False:
        return Feature(name, False, False, f"{rules.name}: {rules.detail}; {only}", rules.remedy)
    off = [
        f"net.ipv6.conf.{one}.disable_ipv6"
        for one in ("all", client_iface, server_iface)
        if one and _setting(f"net/ipv6/conf/{one}/disable_ipv6")
    ]
    if off:
        remedy = "; ".join(f"sysctl -w {one}=0" for one in off) + ", where it is wanted"
        return Feature(name, False, False, f"switched off by {', '.join(off)}: {only}", remedy)
    if not _setting("net/ipv6/conf/all/forwarding"):
        if _ipv6_addresses():
            return Feature(
                name,
                False,
                False,
                "net.ipv6.conf.all.forwarding is off: no IPv6 passes through this host, although "
                f"it has addresses ({', '.join(_ipv6_addresses())})",
                "sysctl -w net.ipv6.conf.all.forwarding=1, where it is wanted",
            )
        return Feature(name, True, False, "not in use on this host: no address, no forwarding")
    return Feature(name, True, False, "is forwarded, and served like IPv4")


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
        tc = shutil.which("tc", path=firewall.PATH)
        if tc is None:
            raise ZeroRttError("there is no tc command")
        argv = [tc, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        ran = subprocess.run(argv, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise ZeroRttError("the kernel does not have it; the testbed uses its own delay line")
        return "the testbed's WAN is the kernel's"

    return tried(
        "netem (testbed only)",
        action,
        "modprobe sch_netem, where exactness matters",
        required=False,
    )
