"""The kernel's SYNPROXY (iptables-extensions(8)): answers SYNs by cookies, then translates.

It answers the client at once, but with a window of zero, and sends its SYN to
the server when the client's ACK has come: the data wait in the client. The
numbers are translated by connection tracking afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.comparison.contenders.commands import filter_rule
from bench.comparison.laboratory import ComparisonLab

# What the client is told must be what the server uses, or windows are read wrongly: the window
# scale is that of Linux with the testbed's receive buffers, the MSS that of Ethernet.
_WITH_TIMESTAMPS = "--sack-perm --timestamp --wscale 10 --mss 1460"
_WITHOUT = "--mss 1460"


class SynProxy:
    """SYNPROXY in FORWARD for everything that comes from the client.

    Its cookies have room for the client's window scale and SACK in the timestamp alone; without
    timestamps its connections have neither.
    """

    def __init__(self, *, timestamps: bool) -> None:
        """``timestamps``: whether it offers them to the client."""
        self._options = _WITH_TIMESTAMPS if timestamps else _WITHOUT
        self.name = "SYNPROXY" if timestamps else "SYNPROXY, no timestamps"
        self.about = f"iptables -j SYNPROXY {self._options}; connection tracking, not loose"

    def up(self, lab: ComparisonLab) -> Sequence[int]:
        """Set the rules as the manual has them.

        Raises:
            MissingFeatureError: the kernel has no SYNPROXY or no connection tracking.
        """
        lab.do("clientnic", "sysctl", "-q", "-w", "net.ipv4.tcp_syncookies=1")
        filter_rule(lab, "raw", "PREROUTING -i eth0 -p tcp --syn -j CT --notrack")
        # Only now is there connection tracking here, and with it the switch.
        lab.do("clientnic", "sysctl", "-q", "-w", "net.netfilter.nf_conntrack_tcp_loose=0")
        proxied = "FORWARD -i eth0 -p tcp -m conntrack --ctstate INVALID,UNTRACKED"
        filter_rule(lab, "filter", f"{proxied} -j SYNPROXY {self._options}")
        filter_rule(lab, "filter", "FORWARD -m conntrack --ctstate INVALID -j DROP")
        return ()
