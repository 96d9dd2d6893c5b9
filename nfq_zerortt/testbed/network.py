"""The test network: four network namespaces in a chain, with a WAN in it.

    client eth0 -- eth0 clientnic eth1 -- eth1 servernic eth2 -- eth2 server

Both NICs are plain routers (each takes one off the TTL). The WAN's delay, rate
and faults lie on servernic and act on all that crosses it.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

from nfq_zerortt import programs
from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.testbed import congestion, state
from nfq_zerortt.testbed.commands import (
    CommandError,
    Commands,
    Echo,
    require_programs,
    require_root,
)
from nfq_zerortt.testbed.delayline_control import DelayLineStatus
from nfq_zerortt.testbed.emulation import Choice, Emulation
from nfq_zerortt.testbed.hosts import Hosts, HostStatus
from nfq_zerortt.testbed.injector_control import InjectorStatus
from nfq_zerortt.testbed.state import State
from nfq_zerortt.testbed.topology import load_topology
from nfq_zerortt.testbed.wan import DEFAULT_REORDER_MS, First, WanSettings

DEFAULT_NAME = "zerortt"

_HEALTH_TIMEOUT_S = 5.0


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
        emulation: Choice = "auto",
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
        self._echo = echo
        self._hosts = Hosts(name, self.topology)
        wan_host = self.topology.host(self.topology.wan_host)
        self._wan = Emulation(name, wan_host, self.netns(wan_host.name), emulation)

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

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def settings(self) -> WanSettings:
        """The WAN as it shall be."""
        return self._settings

    def netns(self, host: str) -> str:
        """Return the name of the host's network namespace; ConfigError when there is no such."""
        return self._hosts.netns(host)

    def up(self) -> None:
        """Bring it up. What is up and healthy stays, with the WAN set anew; else it is rebuilt."""
        self._require()
        with state.locked() as lock:
            congestion.restore_allowed()
            commands = Commands(lock, self._echo)
            stored = state.load(self.name)
            if stored is not None and self._problem(commands, stored) is None:
                self._wan.change(commands, stored, self._settings)
                self._hosts.forget_connections(commands)
                return
            if stored is None:
                self._hosts.refuse_others()
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
            self._wan.change(commands, stored, settings)
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
            delay_line, injector = self._wan.figures(stored)
            return TestbedStatus(
                name=self.name,
                up=problem is None,
                problem=problem,
                hosts=self._hosts.status(),
                rtt_ms=stored.settings.rtt_ms,
                loss_percent=stored.settings.loss_percent,
                rate_mbit=stored.settings.rate_mbit,
                wan=stored.emulation,
                congestion_control=stored.congestion_control,
                delay_line=delay_line,
                settings=stored.settings,
                injector=injector,
            )

    @contextmanager
    def link_down(self) -> Iterator[None]:
        """Let nothing cross the WAN, in either direction, while the block runs.

        Everything that reaches servernic is dropped there: what breaks in a WAN breaks out of
        the routers' sight. An interface that is set down would also lose its routes and IPv6
        addresses, and its host answer with ICMP errors.
        """
        self._require()
        with state.locked() as lock:
            self._wan.take_link_down(Commands(lock, self._echo))
        try:
            yield
        finally:
            with state.locked() as lock:
                self._wan.bring_link_up(Commands(lock, self._echo))

    def popen(self, host: str, argv: Sequence[str], **keywords: Any) -> subprocess.Popen[Any]:
        """Start a command on a host; the keywords are those of subprocess.Popen.

        The process is the command itself, not a wrapper: its pid and its exit
        status are the command's. What still runs at ``down`` is ended.
        """
        keywords.setdefault("env", programs.environment())
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
            env=programs.environment(),
        )

    @staticmethod
    def _require() -> None:
        require_root()
        require_programs()

    def _build(self, commands: Commands) -> None:
        stored = State(complete=False, settings=self._settings)
        state.save(self.name, stored)
        self._hosts.make(commands)
        got = congestion.set_congestion_control(
            commands, self._hosts.namespaces, self._congestion_control
        )
        stored = self._wan.begin(commands, replace(stored, congestion_control=got))
        stored = replace(stored, complete=True)
        self._await_health(Commands(commands.held_fd), stored)
        state.save(self.name, stored)

    def _await_health(self, commands: Commands, stored: State) -> None:
        # A new link carries nothing until the kernel has noticed that both its ends are up.
        deadline = time.monotonic() + _HEALTH_TIMEOUT_S
        while (problem := self._problem(commands, stored)) is not None:
            if time.monotonic() > deadline:
                raise ZeroRttError(f"testbed {self.name!r} did not come up: {problem}")
            time.sleep(0.01)

    def _clear_away(self, commands: Commands, stored: State | None) -> None:
        self._wan.end(stored)
        self._hosts.remove(commands)
        state.remove(self.name)

    def _problem(self, commands: Commands, stored: State) -> str | None:
        """Say in one line what is not as it should be; None when all is well."""
        if not stored.complete:
            return "building it was interrupted"
        try:
            return self._hosts.problem(commands) or self._wan.problem(commands, stored)
        except CommandError as error:
            return str(error)
