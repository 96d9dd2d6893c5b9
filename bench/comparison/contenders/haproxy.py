"""HAProxy as a transparent TCP proxy: two connections, and a process that copies between them.

TPROXY brings the client's packets to it with their addresses as they are; to
the server it speaks from the client's address. It answers the client at once
and begins the connection to the server then, so early data wait in it.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence

from bench.comparison.contenders.commands import filter_rule
from bench.comparison.laboratory import ComparisonLab
from bench.real_programs.packages import program

MOST = 11_000
"""Connections that it must be able to carry."""
_PORT = 3129
_MARK = "1"
_TABLE = "100"

_CONFIG = """\
global
    maxconn {maxconn}
    maxpipes {pipes}
defaults
    mode tcp
    option splice-auto
    timeout connect 10s
    timeout client 1h
    timeout server 1h
frontend clients
    bind 0.0.0.0:{port} transparent
    default_backend servers
backend servers
    source 0.0.0.0 usesrc clientip
    server original 0.0.0.0:0
"""
_PIPES = 256
_OTHER_FILES = 200


class HaProxy:
    """HAProxy in mode tcp; as many processes as the limit of open files makes necessary."""

    name = "HAProxy"
    about = "mode tcp, TPROXY, usesrc clientip, splice-auto, a thread for each core"

    def up(self, lab: ComparisonLab) -> Sequence[int]:
        """Start it, and bring the packets of both sides to it.

        Raises:
            MissingFeatureError: it is not installed, or the kernel has no TPROXY.
            ZeroRttError: it did not start.
        """
        argv = [program("haproxy"), "-db", "-q"]
        lab.do("clientnic", "ip", "rule", "add", "fwmark", _MARK, "lookup", _TABLE)
        route = ("local", "default", "dev", "lo", "table", _TABLE)
        lab.do("clientnic", "ip", "route", "add", *route)
        for side in ("eth0", "eth1"):  # what belongs to a socket that it has
            mine = f"PREROUTING -i {side} -p tcp -m socket --transparent"
            filter_rule(lab, "mangle", f"{mine} -j MARK --set-mark {_MARK}")
            filter_rule(lab, "mangle", f"{mine} -j ACCEPT")
        target = f"TPROXY --on-port {_PORT} --tproxy-mark {_MARK}"
        filter_rule(lab, "mangle", f"PREROUTING -i eth0 -p tcp -j {target}")
        pids = []
        processes = _processes()
        config = lab.directory / "haproxy.cfg"
        maxconn = MOST if processes == 1 else MOST * 2 // 3
        config.write_text(_CONFIG.format(maxconn=maxconn, pipes=_PIPES, port=_PORT))
        for _ in range(processes):  # they share the port (SO_REUSEPORT)
            process = lab.background("clientnic", [*argv, "-f", str(config)])
            pids.append(process.pid)
        lab.await_listener("clientnic", _PORT, processes)
        return pids


def _processes() -> int:
    """Return 1, or 2 where one must not open as many files as it would have to."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 if most >= 2 * (MOST + _PIPES) + _OTHER_FILES else 2
