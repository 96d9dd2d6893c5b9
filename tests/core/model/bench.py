"""One client, one server, and the engine and the kernel between them: packets by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from nfq_zerortt.carrier import KernelCarrier
from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Action, Actions, Replace, Report, Send, Side
from nfq_zerortt.core.admission import Policy
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.entries import SETTLED_S
from nfq_zerortt.core.flow import Flow
from nfq_zerortt.core.handover import WAIT_S
from nfq_zerortt.core.states import State
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.kernel_path import KernelPath
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.flags import ACK, FIN, RST, SYN
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import add
from nfq_zerortt.wire.view import look
from tests.core.model.kernel import Maps, Programs

CLIENT, SERVER = bytes((10, 0, 1, 2)), bytes((10, 0, 3, 2))
PORT = 40_000
C, R = 1_000_000, 3_000_000_000  # ISNs of the client and of the server
TC, TR = 5_000_000, 77_000_000  # and their timestamps


@dataclass
class Bench:
    """An engine, the kernel in front of it, and one client and one server to write packets for.

    Positions are distances from the own ISN, as each end knows it. ``sent``, ``events`` and
    ``verdict`` are what came of the last packet or timer.
    """

    policy: Policy = field(default_factory=lambda: Policy("hold"))
    limits: Limits = field(default_factory=Limits)
    room: int = 100
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.maps = Maps(self.room)
        self.programs = Programs(self.maps)
        self.carrier = KernelCarrier(cast(KernelPath, self.maps))
        self.spoofed: dict[int, int] = {}
        self.sent: list[Send] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.verdict: Action | None = None
        self.start()

    def start(self) -> None:
        """Begin with a new engine, as a new process does."""
        self.engine = Engine(self.policy.strategy, self.limits, bytes(32))
        self.engine.configure(self.policy, self.limits)
        self.handover = self.engine.hand_over_to(self.carrier, 7, self.carrier.survey()[1])

    # --- packets --------------------------------------------------------------------------

    def packet(
        self, side: Side, flags: int, seq: int, ack: int = 0, *, port: int = PORT, length: int = 0
    ) -> bytes:
        """Make a packet; SEQ and ACK count from the ISNs that its sender knows."""
        from_client = side is Side.CLIENT
        theirs = self.spoofed.get(port, 0) if from_client else C
        stamp, echo = (TC, TR) if from_client else (TR, TC)
        options: opt.Options = (opt.NOP_OPTION, opt.NOP_OPTION, opt.timestamps(stamp, echo))
        if flags & SYN:
            options = (opt.mss(1460), *options, opt.NOP_OPTION, opt.window_scale(0))
        return Segment(
            src=CLIENT if from_client else SERVER,
            dst=SERVER if from_client else CLIENT,
            sport=port if from_client else 80,
            dport=80 if from_client else port,
            seq=add(C if from_client else R, seq),
            ack=add(theirs, ack) if flags & ACK else 0,
            flags=flags,
            window=50_000,
            options=() if flags & RST else options,
            payload=bytes(length),
        ).emit()

    def send(self, side: Side, flags: int, seq: int, ack: int = 0, **more: int) -> int:
        """Let a packet come; return its mark behind the programs."""
        return self.give(self.packet(side, flags, seq, ack, **more), side)

    def give(self, raw: bytes, side: Side) -> int:
        """Let a packet come, to the programs first, then to the process."""
        self.sent, self.events, self.verdict = [], [], None
        changed, mark = self.programs.run(raw, side, self.now)
        if mark & layout.MARK_TRANSLATED:
            self.verdict = Replace(changed)
        else:
            self.decide(raw, side)
            if mark & layout.MARK_LEFT:
                self.handover.entries.done(raw, side)
        return mark

    def decide(self, raw: bytes, side: Side) -> None:
        """Give a packet to the process alone."""
        self.take(self.engine.packet(raw, side, self.now))

    def take(self, actions: Actions) -> None:
        """Carry out what the process has decided."""
        for action in actions:
            if isinstance(action, Send):
                self.sent.append(action)
                view = look(action.data)
                if view.flags & SYN and view.flags & ACK:
                    self.spoofed[view.dport] = view.seq
            elif isinstance(action, Report):
                self.events.append((action.event, action.fields))
            else:
                self.verdict = action

    def said(self) -> list[str]:
        """Return the names of the events."""
        return [name for name, _ in self.events]

    def fields(self, event: str) -> dict[str, Any]:
        """Return the fields of the one event of that name."""
        (found,) = [fields for name, fields in self.events if name == event]
        return found

    # --- time -----------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Let time pass, and the timers run."""
        self.sent, self.events = [], []
        until = self.now + seconds
        while (deadline := self.engine.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.take(self.engine.tick(self.now))
        self.now = until

    def hear(self) -> None:
        """Let the process read of the ends that the programs tell of."""
        self.events = []
        for record in self.maps.endings(64):
            self.take(self.handover.look_after(layout.client_key(record), self.now))

    # --- connections ----------------------------------------------------------------------

    def establish(self, port: int = PORT) -> None:
        """Complete both handshakes, with nothing said."""
        self.send(Side.CLIENT, SYN, 0, port=port)
        self.send(Side.CLIENT, ACK, 1, 1, port=port)
        self.now += 0.05
        self.send(Side.SERVER, SYN | ACK, 0, 1, port=port)

    def moving(self, port: int = PORT) -> Flow:
        """Return a flow that has just been handed over."""
        self.establish(port)
        self.wait(WAIT_S)
        flow = self.engine.table.paths[self.key(port)].flow
        assert flow.handed_over == pytest.approx(self.now)
        return flow

    def carried(self, port: int = PORT) -> None:
        """Let there be a flow that is the kernel's alone."""
        self.moving(port)
        self.wait(SETTLED_S)
        assert self.key(port) not in self.engine.table.paths
        assert self.entry(port).state is State.ESTABLISHED

    def key(self, port: int = PORT) -> bytes:
        """Return the 4-tuple as the client's packets have it."""
        return CLIENT + SERVER + port.to_bytes(2, "big") + (80).to_bytes(2, "big")

    def entry(self, port: int = PORT) -> Flow:
        """Return the flow as it stands in the kernel."""
        flow = self.carrier.find(self.key(port))
        assert flow is not None
        return flow

    def close(self, port: int = PORT) -> None:
        """Let both ends close, through the kernel."""
        self.send(Side.CLIENT, FIN | ACK, 1, 1, port=port)
        self.send(Side.SERVER, FIN | ACK, 1, 2, port=port)
        assert self.send(Side.CLIENT, ACK, 2, 2, port=port) == layout.MARK_TRANSLATED
