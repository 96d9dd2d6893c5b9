"""The test network: four network namespaces in a chain, with a WAN in it.

    client eth0 -- eth0 clientnic eth1 -- eth1 servernic eth2 -- eth2 server

Both NICs are plain routers (each takes one off the TTL). The WAN's delay, rate
and faults lie on servernic and act on all that crosses it. Nothing is put into
the initial namespace: every interface is made where it belongs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.testbed import congestion, delayline_control, injector_control, shaping, state
from nfq_zerortt.testbed.commands import (
    CommandError,
    Commands,
    Echo,
    environment,
    require_programs,
    require_root,
)
from nfq_zerortt.testbed.delayline_control import DelayLineStatus
from nfq_zerortt.testbed.injector_control import InjectorStatus
from nfq_zerortt.testbed.processes import ProcessId, end, end_all_in, pids_in
from nfq_zerortt.testbed.queue_process_control import Control, Record, mangle
from nfq_zerortt.testbed.state import State
from nfq_zerortt.testbed.topology import Host, load_topology
from nfq_zerortt.testbed.wan import DEFAULT_REORDER_MS, First, WanSettings

DEFAULT_NAME = "zerortt"

NETEM = "netem"
DELAY_LINE = "nfqueue delay line"

_HEALTH_TIMEOUT_S = 5.0

_LINK_DOWN = ("FORWARD", "-j", "DROP")

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


@dataclass(frozen=True, slots=True)
class TestbedStatus:
    """A testbed as it is now. ``problem`` says in one line what is wrong, None when it is up."""

    __test__ = False  # not a test class, whatever pytest makes of its name

    name: str
    up: bool
    problem: str | None
    hosts: tuple[HostStatus, ...]
    rtt_ms: float | None
    loss_percent: float | None
    rate_mbit: float | None
    wan: str | None
    """How the WAN's delay is made: "netem" or "nfqueue delay line"."""
    congestion_control: str | None
    delay_line: DelayLineStatus | None
    settings: WanSettings | None
    """The WAN with its faults."""
    injector: InjectorStatus | None
    """None while no faults are set."""


class Testbed:
    """The four hosts and the WAN between servernic's two sides.

    Any number of them can run side by side under different names; their
    namespaces are ``NAME-client``, ``NAME-clientnic``, ``NAME-servernic`` and
    ``NAME-server``. As a context manager it is up inside the block.

    ``rtt_ms`` to ``lose_first`` describe the WAN, see
    :class:`nfq_zerortt.testbed.wan.WanSettings`.
    ``congestion_control`` is what the hosts' TCP shall use; where the kernel
    refuses it, status() says what is used instead. ``emulation`` is "auto"
    (netem where the kernel has it), "netem" or "delay-line". ``echo`` is
    called with each command of the system as it runs.

    Raises ConfigError on a bad value, MissingFeatureError without root or a
    needed program, ZeroRttError when a command of the system fails.
    """

    __test__ = False

    def __init__(
        self,
        name: str = DEFAULT_NAME,
        *,
        rtt_ms: float = 100.0,
        loss_percent: float = 0.0,
        rate_mbit: float | None = None,
        seed: int = 0,
        reorder_percent: float = 0.0,
        reorder_ms: float = DEFAULT_REORDER_MS,
        duplicate_percent: float = 0.0,
        lose_first: Sequence[First] = (),
        congestion_control: str = "cubic",
        emulation: Literal["auto", "netem", "delay-line"] = "auto",
        echo: Echo | None = None,
    ) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name):
            raise ConfigError(
                f"--name {name!r}: must be 1 to 40 of a-z, 0-9, - and _, a letter or digit first"
            )
        self.name = name
        self.topology = load_topology()
        self._settings = WanSettings(
            rtt_ms,
            loss_percent,
            rate_mbit,
            seed,
            reorder_percent,
            reorder_ms,
            duplicate_percent,
            tuple(lose_first),
        )
        self._congestion_control = congestion_control
        self._emulation = emulation
        self._echo = echo
        # Kept so that servernic's processes are reaped if they end before we do.
        self._started: list[subprocess.Popen[bytes]] = []

    @classmethod
    def find(cls, name: str = DEFAULT_NAME) -> Self:
        """Return the running testbed called ``name``; ZeroRttError when there is none."""
        testbed = cls(name)
        stored = state.load(name)
        if stored is None or not stored.complete:
            raise ZeroRttError(
                f"testbed {name!r} is not up: run `nfq-zerortt testbed up --name {name}`"
            )
        testbed._settings = stored.settings
        return testbed

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.down()

    @property
    def settings(self) -> WanSettings:
        """The WAN as it shall be."""
        return self._settings

    def netns(self, host: str) -> str:
        """Return the name of the host's network namespace; ConfigError when there is no such."""
        hosts = self.topology.host_names
        if host not in hosts:
            raise ConfigError(f"host {host!r}: must be one of {', '.join(hosts)}")
        return f"{self.name}-{host}"

    def up(self) -> None:
        """Bring it up. What is up and healthy stays, with the WAN set anew; else it is rebuilt."""
        self._require()
        with state.locked() as lock:
            congestion.restore_allowed()
            commands = Commands(lock, self._echo)
            stored = state.load(self.name)
            if stored is not None and self._problem(commands, stored) is None:
                self._change_wan(commands, stored, self._settings)
                for host in self.topology.host_names:
                    commands.run("ip", "-n", self.netns(host), "tcp_metrics", "flush", "all")
                return
            if stored is None:
                self._refuse_namespaces_of_others()
            else:
                self._clear_away(commands, stored)
            try:
                self._build(commands)
            except BaseException:
                self._clear_away(commands, state.load(self.name))
                raise

    def down(self) -> bool:
        """Take it down with all that runs in it; False when there was nothing to take down."""
        self._require()
        with state.locked() as lock:
            congestion.restore_allowed()
            stored = state.load(self.name)
            if stored is None:
                return False
            self._clear_away(Commands(lock, self._echo), stored)
            return True

    def set_wan(
        self, rtt_ms: float, loss_percent: float = 0.0, rate_mbit: float | None = None
    ) -> None:
        """Change the WAN of the running testbed, without other faults; in effect on return."""
        self.set_wan_to(WanSettings(rtt_ms, loss_percent, rate_mbit, self._settings.seed))

    def set_wan_to(self, settings: WanSettings) -> None:
        """Change the WAN of the running testbed, its faults too; in effect on return."""
        self._require()
        with state.locked() as lock:
            commands = Commands(lock, self._echo)
            stored = state.load(self.name)
            problem = "it is not up" if stored is None else self._problem(commands, stored)
            if stored is None or problem is not None:
                raise ZeroRttError(
                    f"testbed {self.name!r}: {problem}: "
                    f"run `nfq-zerortt testbed up --name {self.name}`"
                )
            self._change_wan(commands, stored, settings)
        self._settings = settings

    def status(self) -> TestbedStatus:
        """Look at it: what is there, what is missing, how the WAN does."""
        self._require()
        with state.locked() as lock:
            stored = state.load(self.name)
            if stored is None:
                return TestbedStatus(
                    *(self.name, False, "it is not up", ()),
                    *(None, None, None, None, None, None, None, None),
                )
            problem = self._problem(Commands(lock), stored)
            return TestbedStatus(
                name=self.name,
                up=problem is None,
                problem=problem,
                hosts=tuple(self._host_status(host) for host in self.topology.hosts),
                rtt_ms=stored.settings.rtt_ms,
                loss_percent=stored.settings.loss_percent,
                rate_mbit=stored.settings.rate_mbit,
                wan=stored.emulation,
                congestion_control=stored.congestion_control,
                delay_line=(
                    delayline_control.status(self.name, stored.delay_line)
                    if stored.delay_line
                    else None
                ),
                settings=stored.settings,
                injector=(
                    injector_control.status(self.name, stored.injector) if stored.injector else None
                ),
            )

    @contextmanager
    def link_down(self) -> Iterator[None]:
        """Let nothing cross the WAN, in either direction, while the block runs.

        Everything that reaches servernic is dropped there: what breaks in a WAN breaks out of
        the routers' sight. An interface that is set down would also lose its routes and IPv6
        addresses, and its host answer with ICMP errors.
        """
        self._require()
        self._link_down_rule("-I")
        try:
            yield
        finally:
            self._link_down_rule("-D")

    def _link_down_rule(self, action: str) -> None:
        with state.locked() as lock:
            commands = Commands(lock, self._echo)
            for program in ("iptables", "ip6tables"):
                commands.run(*mangle(self._wan_namespace, program, action, *_LINK_DOWN))

    def popen(self, host: str, argv: Sequence[str], **keywords: Any) -> subprocess.Popen[Any]:
        """Start a command on a host; the keywords are those of subprocess.Popen.

        The process is the command itself, not a wrapper: its pid and its exit
        status are the command's. What still runs at ``down`` is ended.
        """
        keywords.setdefault("env", environment())
        return subprocess.Popen(("ip", "netns", "exec", self.netns(host), *argv), **keywords)

    def exec(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout_s: float | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host and return its output and exit status.

        ``check`` and a timeout raise as in subprocess.run.
        """
        return subprocess.run(
            ("ip", "netns", "exec", self.netns(host), *argv),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=check,
            env=environment(),
        )

    @staticmethod
    def _require() -> None:
        require_root()
        require_programs()

    @property
    def _namespace_files(self) -> tuple[Path, ...]:
        return tuple(_NAMESPACES / self.netns(host) for host in self.topology.host_names)

    @property
    def _wan_namespace(self) -> str:
        return self.netns(self.topology.wan_host)

    @property
    def _wan_interfaces(self) -> tuple[str, ...]:
        host = self.topology.host(self.topology.wan_host)
        return tuple(interface.name for interface in host.interfaces)

    # Building.

    def _build(self, commands: Commands) -> None:
        stored = State(complete=False, settings=self._settings)
        state.save(self.name, stored)
        commands.run("ip", "-batch", "-", stdin=self._creation())
        for host in self.topology.hosts:
            self._configure(commands, host)
        got = congestion.set_congestion_control(
            commands,
            [self.netns(host) for host in self.topology.host_names],
            self._congestion_control,
        )
        stored = replace(stored, congestion_control=got)
        stored = self._build_wan(commands, stored)
        stored = replace(self._set_faults(commands, stored, self._settings), complete=True)
        self._await_health(Commands(commands.held_fd), stored)
        state.save(self.name, stored)

    def _await_health(self, commands: Commands, stored: State) -> None:
        # A new link carries nothing until the kernel has noticed that both its ends are up.
        deadline = time.monotonic() + _HEALTH_TIMEOUT_S
        while (problem := self._problem(commands, stored)) is not None:
            if time.monotonic() > deadline:
                raise ZeroRttError(f"testbed {self.name!r} did not come up: {problem}")
            time.sleep(0.01)

    def _creation(self) -> str:
        lines = [f"netns add {self.netns(host)}" for host in self.topology.host_names]
        for link in self.topology.links:
            near, far = (
                f"name {link.name} netns {self.netns(name)} "
                f"address {self.topology.host(name).interface(link.name).mac}"
                for name in link.hosts
            )
            lines.append(f"link add {near} type veth peer {far}")
        return "\n".join(lines) + "\n"

    def _configure(self, commands: Commands, host: Host) -> None:
        namespace = self.netns(host.name)
        sysctls = _SYSCTLS + (_ROUTER_SYSCTLS if host.forwards else ())
        commands.run("ip", "netns", "exec", namespace, "sysctl", "-q", "-w", *sysctls)
        lines = ["link set lo up"]
        for own, other in self.topology.neighbours(host):
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
        for own, _ in self.topology.neighbours(host):
            queue = f"/sys/class/net/{own.name}/queues/rx-0/rps_cpus"
            commands.run(
                "ip",
                "netns",
                "exec",
                self.netns(host.name),
                "sh",
                "-c",
                f"test ! -e {queue} || echo {mask} > {queue}",
            )

    def _leads_to_wan(self, host: Host, interface: str) -> bool:
        return host.name != self.topology.wan_host and interface in self._wan_interfaces

    def _build_wan(self, commands: Commands, stored: State) -> State:
        namespace, interfaces = self._wan_namespace, self._wan_interfaces
        if self._emulation != "delay-line":
            if shaping.netem_available(commands, namespace, interfaces[0]):
                shaping.set_netem(commands, namespace, interfaces, self._settings)
                return replace(stored, emulation=NETEM)
            if self._emulation == "netem":
                raise ZeroRttError("the kernel has no netem (CONFIG_NET_SCH_NETEM)")
        stored = replace(stored, emulation=DELAY_LINE)
        # First the rules: what crosses before the delay line is there is dropped, never fast.
        delayline_control.CONTROL.add_rules(commands, namespace)
        shaping.set_rate(commands, namespace, interfaces, self._settings)

        def record(process: ProcessId) -> None:
            nonlocal stored
            stored = replace(stored, delay_line=process)
            state.save(self.name, stored)

        self._start(delayline_control.CONTROL, record)
        return stored

    def _set_faults(self, commands: Commands, stored: State, settings: WanSettings) -> State:
        """Let the injector run with these settings, or not run where there are no faults."""
        control, namespace = injector_control.CONTROL, self._wan_namespace
        if stored.injector is not None and settings.has_faults:
            control.change(self.name, stored.injector, settings)
        elif stored.injector is not None:
            control.remove_rules(commands, namespace)
            end(stored.injector)
            stored = replace(stored, injector=None)
        elif settings.has_faults:

            def record(process: ProcessId) -> None:
                nonlocal stored
                stored = replace(stored, injector=process)
                state.save(self.name, stored)

            self._start(control, record)
            control.add_rules(commands, namespace)
        return stored

    def _start(self, control: Control, record: Record) -> None:
        self._started.append(control.start(self.name, self._wan_namespace, record))

    def _change_wan(self, commands: Commands, stored: State, settings: WanSettings) -> None:
        if stored.settings == settings:
            return
        # Should this be interrupted, the next `up` builds anew.
        changed = replace(stored, settings=settings)
        state.save(self.name, replace(changed, complete=False))
        if stored.delay_line is None:
            shaping.set_netem(commands, self._wan_namespace, self._wan_interfaces, settings)
        else:
            shaping.set_rate(commands, self._wan_namespace, self._wan_interfaces, settings)
            delayline_control.CONTROL.change(self.name, stored.delay_line, settings)
        begun = replace(changed, complete=False)
        state.save(self.name, replace(self._set_faults(commands, begun, settings), complete=True))

    # Taking down.

    def _clear_away(self, commands: Commands, stored: State | None) -> None:
        for recorded in (stored.delay_line, stored.injector) if stored is not None else ():
            if recorded is not None:
                end(recorded)
        for process in self._started:
            process.kill()  # a damaged state file may not have named it
            process.wait()
        self._started.clear()
        present = [file for file in self._namespace_files if file.exists()]
        end_all_in(present)
        for file in present:
            commands.run("ip", "netns", "del", file.name)
        state.remove(self.name)

    def _refuse_namespaces_of_others(self) -> None:
        for file in self._namespace_files:
            if file.exists():
                raise ZeroRttError(
                    f"there is a network namespace {file.name} that no testbed has made: "
                    f"choose another --name, or remove it with `ip netns del {file.name}`"
                )

    # Looking.

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

    def _problem(self, commands: Commands, stored: State) -> str | None:
        """Say in one line what is not as it should be; None when all is well."""
        if not stored.complete:
            return "building it was interrupted"
        try:
            for host in self.topology.hosts:
                if problem := self._host_problem(commands, host):
                    return problem
            return self._wan_problem(commands, stored)
        except CommandError as error:
            return str(error)

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

    def _wan_problem(self, commands: Commands, stored: State) -> str | None:
        namespace, interfaces = self._wan_namespace, self._wan_interfaces
        if commands.succeeds(*mangle(namespace, "iptables", "-C", *_LINK_DOWN)):
            return "a rule in mangle FORWARD of servernic keeps the link down"
        if stored.delay_line is None:
            if not shaping.has("netem", commands, namespace, interfaces):
                return "netem has been taken off servernic: the WAN has no delay"
        elif problem := self._delay_line_problem(commands, stored, stored.delay_line):
            return problem
        if stored.injector is None:
            return None
        if not stored.injector.alive():
            return f"the WAN's fault injector (pid {stored.injector.pid}) has died: nothing passes"
        if not injector_control.CONTROL.has_rules(commands, namespace):
            return (
                "the fault injector's rules in mangle POSTROUTING are gone: the WAN has no faults"
            )
        return None

    def _delay_line_problem(
        self, commands: Commands, stored: State, process: ProcessId
    ) -> str | None:
        namespace = self._wan_namespace
        if not process.alive():
            return f"the WAN's delay line (pid {process.pid}) has died: nothing passes"
        if not delayline_control.CONTROL.has_rules(commands, namespace):
            return "the delay line's rules in mangle FORWARD are gone: the WAN has no delay"
        if stored.settings.rate_mbit is not None and not shaping.has(
            "tbf", commands, namespace, self._wan_interfaces
        ):
            return "tbf has been taken off servernic: the WAN has no rate limit"
        return None
