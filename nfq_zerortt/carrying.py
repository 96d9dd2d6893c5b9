"""The kernel data path of a running service: from its start to the flows that outlive it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from nfq_zerortt.carrier import KernelCarrier
from nfq_zerortt.config import Config
from nfq_zerortt.core.actions import Actions, Report, Side
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.states import State
from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import pins
from nfq_zerortt.kernel.adoption import find_maps
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.bpf_object import close_all
from nfq_zerortt.kernel.features import mark_bit
from nfq_zerortt.kernel.kernel_path import KernelPath
from nfq_zerortt.slices import PAUSE_S, SLICE_S

_LOOK_THROUGH_S = 30.0
_ENDINGS = 64  # that are dealt with at once: packets wait for it
_PASSING_SHARE = 4  # one entry in so many may be of a connection that only passes


def keeps_flows(config: Config) -> str:
    """Tell why these settings want flows to stay with the process, or nothing."""
    if config.data_path == "python":
        return "it was asked for"
    if config.data_path == "auto" and config.log_level == "debug":
        return "the log level debug wants to see each packet"
    return ""


def stays_with_python(config: Config) -> str:
    """Tell why these settings or other rules want flows to stay with the process, or nothing.

    It asks iptables, which may take a second.
    """
    why = keeps_flows(config)
    if why or config.data_path != "auto":
        return why
    mark = mark_bit(config.client_iface, config.server_iface)
    return mark.detail if mark.ok is False else ""


def choose(config: Config) -> tuple[KernelPath | None, str]:
    """Return the kernel data path, or None and why it cannot be had.

    Raises:
        MissingFeatureError, ZeroRttError: it was asked for by name and cannot be had.
    """
    try:
        path = _opened(config)
    except ZeroRttError as error:
        if config.data_path == "kernel":
            raise
        return None, str(error)
    return path, ""


def left_behind(config: Config) -> KernelPath | None:
    """Return the kernel data path if an earlier process has left flows to it.

    Several workers that keep new flows go on with it as it is: nobody can tell which of them would
    get the packets of a flow that was taken back.

    Raises:
        ZeroRttError: something is there that cannot be read.
    """
    return _opened(config) if are_left(config) else None


def are_left(config: Config) -> bool:
    """Tell whether an earlier process has left flows to the kernel.

    Raises:
        ZeroRttError: something is there that cannot be read.
    """
    left = find_maps(config.queue, pins.directory(config.queue))
    close_all(left)
    return bool(left)


def take_back(config: Config, engine: Engine, run: Callable[[Actions], None]) -> int:
    """Take back the flows that an earlier process has left to the kernel; return how many.

    For a service that keeps its flows; packets must come to it by now.

    Raises:
        ZeroRttError: something is there that cannot be read.
    """
    path = left_behind(config)
    if path is None:
        return 0
    flows = list(KernelCarrier(path).flows())
    for flow in flows:
        run(engine.take_in(flow, time.monotonic()))
    path.close(leave=False)
    return len(flows)


def _opened(config: Config) -> KernelPath:
    return KernelPath.open(
        config.client_iface, config.server_iface, config.queue, config.limits.max_flows
    )


class Carrying:
    """The flows that the kernel carries for a service.

    ``adopted`` is how many of them an earlier process had handed over.
    """

    def __init__(self, path: KernelPath, engine: Engine, seed: int) -> None:
        """``seed``: the first hand-over's number; other processes' must be others."""
        self._path = path
        self._carrier = KernelCarrier(path, time.monotonic)
        self.adopted, count = self._carrier.survey() if path.adopted else (0, 0)
        self._handover = engine.hand_over_to(self._carrier, seed, count)
        self._passing = engine.passing
        self._passing.max_carried = path.max_flows // _PASSING_SHARE
        self._table = engine.table
        self._told = False

    def fork(self, seed: int, workers: int) -> None:
        """Go on in a worker that was forked off: its hand-overs need numbers of their own.

        Of the connections that may pass in the kernel it gets its share.
        """
        self._handover.entries.ticket = seed
        self._passing.max_carried //= workers

    def fileno(self) -> int:
        """Return the descriptor that is readable when flows have ended."""
        return self._path.endings_fd

    def ended(self, now: float) -> Iterator[Actions]:
        """Give what is to be done about the flows that have ended, a bounded number of them."""
        for record in self._path.endings(_ENDINGS):
            yield self._handover.look_after(layout.client_key(record), now)

    def enable(self, enabled: bool) -> None:
        """Hand new flows over, or do not; those that are handed over go on."""
        self._handover.enable(enabled, time.monotonic())

    @property
    def passing(self) -> int:
        """How many connections pass in the kernel untouched, as far as is known."""
        return self._passing.carried

    @passing.setter
    def passing(self, count: int) -> None:
        self._passing.carried = count

    def may_have_room(self) -> None:
        """Let the kernel's table be tried again, if it was full: others make room, too."""
        self._handover.entries.is_full = False

    def done(self, raw: bytes, side: Side) -> None:
        """Take in that a packet is done which the kernel had left to us."""
        self._handover.entries.done(raw, side)

    async def look_through(self, run: Callable[[Actions], None]) -> None:
        """Go through all flows again and again: what has ended or is idle is not forgotten."""
        while True:
            run(self._seen_to())
            until = time.monotonic() + SLICE_S
            for client_key in self._carrier.due(self._handover.collector, self._passing):
                if client_key is not None:
                    run(self._handover.look_after(client_key, time.monotonic()))
                if time.monotonic() >= until:
                    await asyncio.sleep(PAUSE_S)
                    until = time.monotonic() + SLICE_S
            await asyncio.sleep(_LOOK_THROUGH_S)

    def flows(self) -> Iterator[Flow]:
        """Give the flows that are only the kernel's."""
        for flow in self._carrier.flows():
            if flow.client_key not in self._table.paths:
                yield flow
            flow.dissolve()

    def entries(self) -> Iterator[State | str]:
        """Tell of each entry in the kernel's table what it is (:meth:`KernelCarrier.kinds`)."""
        return self._carrier.kinds()

    @property
    def max_entries(self) -> int:
        """How many entries the kernel's table takes."""
        return self._path.max_flows

    def attach_again(self) -> None:
        """See that the programs are where they belong: an interface may have been made anew.

        Raises:
            ZeroRttError: they cannot be.
        """
        if not self._path.is_attached():
            self._path.attach()

    def _seen_to(self) -> list[Report]:
        """Attach the programs again if somebody has removed them; tell once if that fails."""
        try:
            self.attach_again()
        except ZeroRttError as error:
            if self._told:
                return []
            self._told = True
            remedy = "until then, Python rewrites what the programs do not see"
            fields = {"about": "data_path", "warning": str(error), "remedy": remedy}
            return [Report("service.warning", 0, "", fields)]
        self._told = False
        return []

    def close(self) -> int:
        """Give the kernel path up, unless flows live on it; return how many do."""
        live, _ = self._carrier.survey()
        self._path.close(leave=live > 0)
        return live
