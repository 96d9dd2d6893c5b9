"""Whether a legacy table was changed: a glance, cheap enough for every few seconds.

The legacy tables tell nobody that they were changed: a firewall that is loaded anew, or an
iptables -F, takes our rules away without a word. So somebody has to look.
"""

from __future__ import annotations

import ctypes
import functools
import socket
import struct
from typing import Any

from nfq_zerortt.kernel.declarations import Family

# linux/netfilter_ipv4/ip_tables.h and its twin for IPv6: the option, and struct ipt_getinfo.
_GET_INFO = 64
_INFO = struct.Struct("=32s I 5I 5I I I")
_LEVELS: dict[Family, tuple[int, int]] = {
    "ipv4": (socket.AF_INET, socket.IPPROTO_IP),
    "ipv6": (socket.AF_INET6, socket.IPPROTO_IPV6),
}


def outline(family: Family, table: str) -> bytes | None:
    """Return what the kernel tells of a table at a glance: its size, its entries, its hooks.

    A microsecond's work, however large it is. Rules that were exchanged for as many of the same
    size do not show (``RuleSet.missing`` compares every word). None if it tells nothing.
    """
    domain, level = _LEVELS[family]
    info = ctypes.create_string_buffer(_INFO.pack(table.encode(), *(0,) * 13), _INFO.size)
    length = ctypes.c_uint32(_INFO.size)
    try:
        with socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_RAW) as asking:
            failed = _getsockopt()(asking.fileno(), level, _GET_INFO, info, ctypes.byref(length))
    except OSError:
        return None
    return None if failed else info.raw


@functools.cache
def _getsockopt() -> Any:
    # Python's own does not pass the table's name in.
    return ctypes.CDLL(None).getsockopt
