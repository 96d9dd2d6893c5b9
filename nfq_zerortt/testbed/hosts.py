"""The four hosts as network namespaces: made, looked at, removed.

Nothing is put into the initial namespace: every interface is made where it belongs.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.testbed.commands import Commands
from nfq_zerortt.testbed.processes import end_all_in, pids_in
from nfq_zerortt.testbed.topology import Host, Topology

_NAMESPACES = Path("/run/netns")

_SYSCTLS = (
    # Replies may come back another way while ClientNIC sends packets of its own.
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    # No duplicate address detection and no router advertisements: addresses work at once.
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.all.accept_ra=0",
    "net.ipv6.conf.default.accept_ra=0",
    # A connection must not begin with what an earlier one measured.
    "net.ipv4.tcp_no_metrics_save=1",
    # The hosts share one kernel, so a packet that a queue's verdict rewrote reaches the receiver
    # with the memory that the rewriting cost it, twice its own. Counted against the usual first
    # buffer of 128 kB, that keeps the receiver's window from growing, which between separate
    # machines it would not: 200 kB at RTT 100 ms then take one round trip more. With room to
    # spare the window grows alike for packets rewritten or not.
    "net.ipv4.tcp_rmem=4096 1048576 33554432",
)
_ROUTER_SYSCTLS = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One host: its namespace, its addresses, and how many processes run in it."""

    name: str
    namespace: str
    addresses: tuple[str, ...]
    processes: int


class Hosts:
    """The hosts of one testbed: ``NAME-client``, ``NAME-clientnic`` and so on."""

    def __init__(self, testbed: str, topology: Topology) -> None:
        """``testbed``: its name."""
        self._testbed = testbed
        self._topology = topology

    def netns(self, host: str) -> str:
        """Return the name of a host's network namespace; ConfigError when there is no such."""
        hosts = self._topology.host_names
        if host not in hosts:
            raise ConfigError(f"host {host!r}: must be one of {', '.join(hosts)}")
        return f"{self._testbed}-{host}"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The names of all network namespaces, in the order of the chain."""
        return tuple(self.netns(host) for host in self._topology.host_names)

    @property
    def _files(self) -> tuple[Path, ...]:
        return tuple(_NAMESPACES / namespace for namespace in self.namespaces)

    # --- making ---------------------------------------------------------------------------

    def refuse_others(self) -> None:
        """Raise ZeroRttError if there are namespaces of these names, when no testbed is up."""
        for file in self._files:
            if file.exists():
                raise ZeroRttError(
                    f"there is a network namespace {file.name} that no testbed has made: "
                    f"choose another --name, or remove it with `ip netns del {file.name}`"
                )

    def make(self, commands: Commands) -> None:
        """Make the namespaces, and in them the links, addresses, routes and settings."""
        commands.run("ip", "-batch", "-", stdin=self._creation())
        for host in self._topology.hosts:
            self._configure(commands, host)

    def forget_connections(self, commands: Commands) -> None:
        """Let no host know what earlier connections measured."""
        for namespace in self.namespaces:
            commands.run("ip", "-n", namespace, "tcp_metrics", "flush", "all")

    def _creation(self) -> str:
        lines = [f"netns add {self.netns(host)}" for host in self._topology.host_names]
        for link in self._topology.links:
            near, far = (
                f"name {link.name} netns {self.netns(name)} "
                f"address {self._topology.host(name).interface(link.name).mac}"
                for name in link.hosts
            )
            lines.append(f"link add {near} type veth peer {far}")
        return "\n".join(lines) + "\n"

    def _configure(self, commands: Commands, host: Host) -> None:
        namespace = self.netns(host.name)
        sysctls = _SYSCTLS + (_ROUTER_SYSCTLS if host.forwards else ())
        commands.run("ip", "netns", "exec", namespace, "sysctl", "-q", "-w", *sysctls)
        lines = ["link set lo up"]
        for own, other in self._topology.neighbours(host):
            lines += [
                f"address add {own.ipv4} dev {own.name}",
                f"address add {own.ipv6} dev {own.name} nodad",
            ]
            if self._leads_to_wan(host, own.name):
                # Frames on a WAN are of the MTU's size, not the 64 kB that TCP hands to a
                # network card: each counts, and is lost, by itself.
                lines.append(f"link set {own.name} gso_max_segs 1")
            lines.append(f"link set {own.name} up")
            # No ARP or neighbour discovery, which would add to the first packet's way.
            lines += [
                f"neighbour add {address} lladdr {other.mac} dev {own.name} nud permanent"
                for address in (other.ipv4.ip, other.ipv6.ip)
            ]
        lines += [f"route add {route.to} via {route.via}" for route in host.routes]
        commands.batch(namespace, lines)
        self._keep_order(commands, host)

    def _keep_order(self, commands: Commands, host: Host) -> None:
        """Let all packets of a flow be received on one CPU, as a network card does (RSS).

        A packet over veth is otherwise received on the CPU that sent it, and a process that
        moves to another overtakes its own packets: TCP takes that for loss.
        """
        digits = f"{(1 << (os.cpu_count() or 1)) - 1:x}"
        groups = re.findall(r"[0-9a-f]{1,8}(?=(?:[0-9a-f]{8})*$)", digits)
        mask = ",".join(groups)  # 32 bits each, as the kernel reads them
        for own, _ in self._topology.neighbours(host):
            queue = f"/sys/class/net/{own.name}/queues/rx-0/rps_cpus"
            commands.run(
                *("ip", "netns", "exec", self.netns(host.name)),
                *("sh", "-c", f"test ! -e {queue} || echo {mask} > {queue}"),
            )

    def _leads_to_wan(self, host: Host, interface: str) -> bool:
        wan_host = self._topology.host(self._topology.wan_host)
        return host != wan_host and any(one.name == interface for one in wan_host.interfaces)

    # --- looking --------------------------------------------------------------------------

    def status(self) -> tuple[HostStatus, ...]:
        """Look at each host."""
        return tuple(map(self._host_status, self._topology.hosts))

    def _host_status(self, host: Host) -> HostStatus:
        return HostStatus(
            name=host.name,
            namespace=self.netns(host.name),
            addresses=tuple(
                str(address)
                for interface in host.interfaces
                for address in (interface.ipv4.ip, interface.ipv6.ip)
            ),
            processes=len(pids_in(_NAMESPACES / self.netns(host.name))),
        )

    def problem(self, commands: Commands) -> str | None:
        """Say in one line what is not as it was made; None when all is well."""
        for host in self._topology.hosts:
            if problem := self._host_problem(commands, host):
                return problem
        return None

    def _host_problem(self, commands: Commands, host: Host) -> str | None:
        namespace = self.netns(host.name)
        if not (_NAMESPACES / namespace).exists():
            return f"the network namespace {namespace} is gone"
        links = {
            link["ifname"]: link
            for link in json.loads(commands.run("ip", "-json", "-n", namespace, "address"))
        }
        for interface in host.interfaces:
            link = links.get(interface.name)
            if link is None or link["operstate"] != "UP":
                return f"{interface.name} of {host.name} is gone or down"
            addresses = {entry["local"] for entry in link["addr_info"]}
            for address in (interface.ipv4.ip, interface.ipv6.ip):
                if str(address) not in addresses:
                    return f"{interface.name} of {host.name} has lost its address {address}"
        routes = {
            (route["dst"], route.get("gateway"))
            for family in ("-4", "-6")
            for route in json.loads(
                commands.run("ip", "-json", family, "-n", namespace, "route") or "[]"
            )
        }
        for wanted in host.routes:
            if (wanted.to, wanted.via) not in routes:
                return f"{host.name} has lost its route to {wanted.to}"
        return None

    # --- removing -------------------------------------------------------------------------

    def remove(self, commands: Commands) -> None:
        """End all that runs in the namespaces, and remove those that are there."""
        present = [file for file in self._files if file.exists()]
        end_all_in(present)
        for file in present:
            commands.run("ip", "netns", "del", file.name)
