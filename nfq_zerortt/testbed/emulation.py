"""The WAN on servernic: begun, changed, looked at, ended.

Delay and rate are made by netem where the kernel has it, else by the delay line and a token bucket;
loss, reordering and duplicates by the fault injector, which runs only where there are any.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import Literal

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.testbed import delayline_control, injector_control, shaping, state
from nfq_zerortt.testbed.commands import Commands
from nfq_zerortt.testbed.delayline_control import DelayLineStatus
from nfq_zerortt.testbed.injector_control import InjectorStatus
from nfq_zerortt.testbed.processes import ProcessId, end
from nfq_zerortt.testbed.queue_process_control import Control, Record, mangle
from nfq_zerortt.testbed.state import State
from nfq_zerortt.testbed.topology import Host
from nfq_zerortt.testbed.wan import WanSettings

NETEM = "netem"
DELAY_LINE = "nfqueue delay line"

_LINK_DOWN = ("FORWARD", "-j", "DROP")

Choice = Literal["auto", "netem", "delay-line"]
"""How the delay is made; "auto" takes netem where the kernel has it."""


class Emulation:
    """The WAN of one testbed.

    Its processes are saved as they begin (:mod:`nfq_zerortt.testbed.state`), so whoever comes later
    can change and end them.
    """

    def __init__(self, testbed: str, host: Host, namespace: str, choice: Choice) -> None:
        """``testbed``: its name; ``host``: where the WAN lies, in the namespace of that name."""
        self._testbed = testbed
        self._namespace = namespace
        self._interfaces = tuple(interface.name for interface in host.interfaces)
        self._choice = choice
        # Kept so that servernic's processes are reaped if they end before we do.
        self._started: list[subprocess.Popen[bytes]] = []

    # --- begin, change, end ---------------------------------------------------------------

    def begin(self, commands: Commands, stored: State) -> State:
        """Make the WAN that ``stored`` has the settings of; return what there is then."""
        return self._set_faults(commands, self._set_delay(commands, stored), stored.settings)

    def _set_delay(self, commands: Commands, stored: State) -> State:
        namespace, interfaces, settings = self._namespace, self._interfaces, stored.settings
        if self._choice != "delay-line":
            if shaping.netem_available(commands, namespace, interfaces[0]):
                shaping.set_netem(commands, namespace, interfaces, settings)
                return replace(stored, emulation=NETEM)
            if self._choice == "netem":
                raise ZeroRttError("the kernel has no netem (CONFIG_NET_SCH_NETEM)")
        stored = replace(stored, emulation=DELAY_LINE)
        # First the rules: what crosses before the delay line is there is dropped, never fast.
        delayline_control.CONTROL.add_rules(commands, namespace)
        shaping.set_rate(commands, namespace, interfaces, settings)

        def record(process: ProcessId) -> None:
            nonlocal stored
            stored = replace(stored, delay_line=process)
            state.save(self._testbed, stored)

        self._start(delayline_control.CONTROL, record)
        return stored

    def change(self, commands: Commands, stored: State, settings: WanSettings) -> None:
        """Change what is there; in effect, and saved, on return."""
        if stored.settings == settings:
            return
        # Should this be interrupted, the next `up` builds anew.
        changed = replace(stored, settings=settings, complete=False)
        state.save(self._testbed, changed)
        if stored.delay_line is None:
            shaping.set_netem(commands, self._namespace, self._interfaces, settings)
        else:
            shaping.set_rate(commands, self._namespace, self._interfaces, settings)
            delayline_control.CONTROL.change(self._testbed, stored.delay_line, settings)
        changed = self._set_faults(commands, changed, settings)
        state.save(self._testbed, replace(changed, complete=True))

    def _set_faults(self, commands: Commands, stored: State, settings: WanSettings) -> State:
        """Let the injector run with these settings, or not run where there are no faults."""
        control, namespace = injector_control.CONTROL, self._namespace
        if stored.injector is not None and settings.has_faults:
            control.change(self._testbed, stored.injector, settings)
        elif stored.injector is not None:
            control.remove_rules(commands, namespace)
            end(stored.injector)
            stored = replace(stored, injector=None)
        elif settings.has_faults:

            def record(process: ProcessId) -> None:
                nonlocal stored
                stored = replace(stored, injector=process)
                state.save(self._testbed, stored)

            self._start(control, record)
            control.add_rules(commands, namespace)
        return stored

    def _start(self, control: Control, record: Record) -> None:
        self._started.append(control.start(self._testbed, self._namespace, record))

    def end(self, stored: State | None) -> None:
        """End the processes that it has; rules and queueing disciplines go with the namespace."""
        for recorded in (stored.delay_line, stored.injector) if stored is not None else ():
            if recorded is not None:
                end(recorded)
        for process in self._started:
            process.kill()  # a damaged state file may not have named it
            process.wait()
        self._started.clear()

    def take_link_down(self, commands: Commands) -> None:
        """Let nothing cross from now on: servernic drops it."""
        self._link_rule(commands, "-I")

    def bring_link_up(self, commands: Commands) -> None:
        """Let everything cross again."""
        self._link_rule(commands, "-D")

    def _link_rule(self, commands: Commands, action: str) -> None:
        for program in ("iptables", "ip6tables"):
            commands.run(*mangle(self._namespace, program, action, *_LINK_DOWN))

    # --- look -----------------------------------------------------------------------------

    def figures(self, stored: State) -> tuple[DelayLineStatus | None, InjectorStatus | None]:
        """Return what its processes have counted; None for one that it does not have."""
        return (
            delayline_control.status(self._testbed, stored.delay_line)
            if stored.delay_line
            else None,
            injector_control.status(self._testbed, stored.injector) if stored.injector else None,
        )

    def problem(self, commands: Commands, stored: State) -> str | None:
        """Say in one line what is not as it was made; None when all is well."""
        namespace, interfaces = self._namespace, self._interfaces
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
        namespace = self._namespace
        if not process.alive():
            return f"the WAN's delay line (pid {process.pid}) has died: nothing passes"
        if not delayline_control.CONTROL.has_rules(commands, namespace):
            return "the delay line's rules in mangle FORWARD are gone: the WAN has no delay"
        if stored.settings.rate_mbit is not None and not shaping.has(
            "tbf", commands, namespace, self._interfaces
        ):
            return "tbf has been taken off servernic: the WAN has no rate limit"
        return None
