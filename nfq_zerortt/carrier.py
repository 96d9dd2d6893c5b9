"""The kernel as a carrier of flows: what the core asks of one, in the maps of the kernel path."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain

from nfq_zerortt.core.actions import Side
from nfq_zerortt.core.collector import Collector
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.passing import KEEP_S, Passing
from nfq_zerortt.core.states import ENDED, State
from nfq_zerortt.flow_entry import NS, entry_of, flow_from, state_of
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.kernel_path import KernelPath

_UINT32 = 0xFFFFFFFF
_BATCH = 64  # entries for one system call: SYNs wait for it
_LOOKS = 4  # batches that are looked through at once for flows that have ended
_ROOM = 8  # so many of a batch make room
_SIDES = {Side.CLIENT: layout.CLIENT, Side.SERVER: layout.SERVER}


class KernelCarrier:
    """Carries flows in the maps of a :class:`KernelPath`; see :class:`Carrier`."""

    def __init__(self, path: KernelPath, clock: Callable[[], float] | None = None) -> None:
        """``clock``: the kernel's CLOCK_MONOTONIC, for the very moment of a hand-over."""
        self._path = path
        self._clock = clock
        self._looking: Iterator[list[tuple[bytes, bytes]]] = iter(())

    def find(self, client_key: bytes) -> Flow | None:
        """Return the flow as it stands, or None."""
        data = self._path.find(layout.key(client_key))
        return None if data is None else flow_from(client_key, data)

    def insert(self, flow: Flow) -> bool:
        """Take on a flow; False if there is no room."""
        if self._clock is not None:
            flow.handed_over = self._clock()  # from now on packets are left to us, for so long
        return self._path.insert(layout.key(flow.client_key), entry_of(flow))

    def take(self, client_key: bytes) -> Flow | None:
        """Give the flow back as it stands, and carry it no longer."""
        data = self._path.take(layout.key(client_key))
        return None if data is None else flow_from(client_key, data)

    def mark_reported(self, flow: Flow) -> None:
        """Remember that the end of the flow was reported.

        What the kernel counts at that very moment is lost; the flow is over.
        """
        flow.ended = True
        self._path.replace(layout.key(flow.client_key), entry_of(flow))

    def remove(self, client_key: bytes) -> None:
        """Carry the flow no longer, if it is there."""
        self._path.remove(layout.key(client_key))

    def make_room(self) -> bool:
        """Carry some flows no longer that have ended and were reported; False if none is found.

        Of some entries those that ended first: to find the first of all, all would have to be read.
        """
        for _ in range(_LOOKS):
            entries = next(self._looking, None)
            if entries is None:
                self._looking = self._path.entries(_BATCH)
                continue
            seen = [(*layout.glance(data), key) for key, data in entries]
            over = sorted((since, key) for since, flags, key in seen if flags & layout.REPORTED)
            for _, key in over[:_ROOM]:
                self._path.remove(key)
            if over:
                return True
        return False

    def publish(self, flow: Flow, side: Side, amount: int) -> None:
        """Tell how much of what was left to us since the hand-over is done, of one side.

        And how far both sides have come by now, which the programs may not have seen. ``amount`` is
        in bytes of data, as :meth:`nfq_zerortt.core.entries.Entries.done` counts them.
        """
        words = self._path.handled
        ticket, at = flow.ticket, flow.ticket % layout.HANDLED_SLOTS * self._path.handled_stride
        if words[at] != ticket:
            words[at + layout.AMOUNT] = words[at + layout.AMOUNT + 1] = 0
            words[at] = ticket
        for index, direction in enumerate((flow.to_server, flow.to_client)):
            words[at + layout.NEXT_SEQ + index] = direction.next_seq
            words[at + layout.LAST_ACK + index] = direction.last_ack
            words[at + layout.WINDOW + index] = direction.window
        words[at + layout.AMOUNT + _SIDES[side]] = amount & _UINT32

    # --- all flows ------------------------------------------------------------------------

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        return chain.from_iterable(self._path.entries(_BATCH))

    def flows(self) -> Iterator[Flow]:
        """Give all flows, each as it stands when its turn comes."""
        for key, data in self._entries():
            if not layout.glance(data).flags & (layout.PASSING | layout.SUPERSEDED):
                yield flow_from(layout.client_key(key), data)

    def due(self, collector: Collector, passing: Passing) -> Iterator[bytes | None]:
        """Go through all flows and give the 4-tuples of those that something is to be done about.

        None stands for each of the others, so that whoever asks can pause now and then. ``passing``
        is told how many connections pass there.
        """
        count = 0
        for key, data in self._entries():
            last_seen, flags = layout.glance(data)
            silent = time.monotonic() - last_seen / NS
            if flags & layout.PASSING:
                count += 1
                yield layout.client_key(key) if silent > KEEP_S else None
                continue
            reported = bool(flags & layout.REPORTED)
            if flags & layout.SUPERSEDED or collector.is_due(
                state_of(flags), reported=reported, silent=silent
            ):
                yield layout.client_key(key)
            else:
                yield None
        passing.carried = count

    def kinds(self) -> Iterator[State | str]:
        """Tell of each entry what it is: a flow in that state, or ``passing`` or ``superseded``."""
        for _, data in self._entries():
            flags = layout.glance(data).flags
            if flags & layout.PASSING:
                yield "passing"
            else:
                yield "superseded" if flags & layout.SUPERSEDED else state_of(flags)

    def survey(self) -> tuple[int, int]:
        """Return how many flows there are that have not ended, and the highest number of all."""
        live = highest = 0
        for _, data in self._entries():
            flags = layout.glance(data).flags
            if state_of(flags) not in ENDED and not flags & (layout.PASSING | layout.SUPERSEDED):
                live += 1
            highest = max(highest, layout.number(data))
        return live, highest
