"""Flows that the kernel carries: over, back, and what is left to the process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from nfq_zerortt.carrier import KernelCarrier
from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Accept, Action, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.admission import Policy
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.flow import Flow, reverse_key
from nfq_zerortt.core.handover import AGAIN_S, SETTLED_S, WAIT_S
from nfq_zerortt.core.packets import is_intact
from nfq_zerortt.core.states import State
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.kernel_path import KernelPath
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.flags import ACK, FIN, PSH, RST, SYN
from nfq_zerortt.wire.icmp import look_quoted
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.seqnum import add
from nfq_zerortt.wire.view import look
from tests.core.model.kernel import Maps, Programs
from tests.core.model.mutation import mutated
from tests.icmp import error_quoting

CLIENT, SERVER = bytes((10, 0, 1, 2)), bytes((10, 0, 3, 2))
PORT = 40_000
C, R = 1_000_000, 3_000_000_000
TC, TR = 5_000_000, 77_000_000
LATENCY = 0.0002


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
                self.handover.done(raw, side)
        return mark

    def decide(self, raw: bytes, side: Side) -> None:
        """Give a packet to the process alone."""
        self._take(self.engine.packet(raw, side, self.now))

    def _take(self, actions: Any) -> None:
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
            self._take(self.engine.tick(self.now))
        self.now = until

    def hear(self) -> None:
        """Let the process read of the ends that the programs tell of."""
        self.events = []
        for record in self.maps.endings(64):
            self._take(self.handover.look_after(layout.client_key(record), self.now))

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


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- over ---------------------------------------------------------------------------------


def test_a_flow_is_handed_over_when_it_has_needed_nothing_for_a_while(bench: Bench) -> None:
    bench.establish()
    assert bench.fields("flow.established")["data_path"] == "kernel"
    bench.wait(WAIT_S - 0.001)
    assert not len(bench.maps)
    bench.wait(0.002)
    assert len(bench.maps) == 1
    assert len(bench.engine.table) == 1
    bench.wait(SETTLED_S)
    assert not len(bench.engine.table)


def test_a_short_connection_never_leaves_the_process(bench: Bench) -> None:
    bench.establish()
    bench.send(Side.CLIENT, FIN | ACK, 1, 1)
    bench.send(Side.SERVER, FIN | ACK, 1, 2)
    bench.send(Side.CLIENT, ACK, 2, 2)
    assert bench.said() == ["flow.closed"]
    bench.send(Side.SERVER, FIN | ACK, 1, 2)
    bench.wait(66)
    assert not len(bench.maps)
    assert not len(bench.engine.table)


def test_the_wait_is_not_begun_anew(bench: Bench) -> None:
    bench.establish()
    bench.wait(WAIT_S - 0.01)
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    bench.wait(0.01)
    assert len(bench.maps) == 1


def test_a_flow_that_still_needs_more_is_not_handed_over(bench: Bench) -> None:
    """A D-SACK is due for what the client has repeated too early."""
    bench.send(Side.CLIENT, SYN, 0)
    bench.send(Side.CLIENT, ACK, 1, 1)
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=10)
    bench.now += 0.05
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    bench.now += 0.01
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=10)
    assert bench.verdict == Drop("spurious_retransmission")
    bench.now += 0.04
    bench.send(Side.SERVER, ACK, 1, 1)
    bench.wait(WAIT_S + 0.01)
    assert not len(bench.maps)
    bench.send(Side.SERVER, ACK, 1, 11)
    bench.wait(WAIT_S + 0.01)
    assert len(bench.maps) == 1


def test_each_hand_over_has_a_ticket_of_its_own(bench: Bench) -> None:
    tickets = {bench.moving(PORT + number).ticket for number in range(3)}
    assert len(tickets) == 3


def test_a_half_closed_flow_is_handed_over(bench: Bench) -> None:
    bench.establish()
    bench.send(Side.CLIENT, FIN | ACK, 1, 1)
    bench.wait(WAIT_S)
    assert bench.entry().state is State.CLIENT_CLOSED
    assert bench.entry().client_fin_end == add(C, 2)


@pytest.mark.parametrize("policy", [Policy("observe"), Policy("direct")])
def test_what_is_not_translated_is_not_handed_over(policy: Policy) -> None:
    bench = Bench(policy)
    bench.establish()
    bench.send(Side.CLIENT, ACK, 1, 1)
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    bench.wait(WAIT_S + 1)
    assert not len(bench.maps)


def test_a_flow_whose_segments_are_cut_up_stays_here(bench: Bench) -> None:
    bench.send(Side.CLIENT, SYN, 0)
    bench.send(Side.CLIENT, ACK, 1, 1)
    small = Segment(
        src=SERVER,
        dst=CLIENT,
        sport=80,
        dport=PORT,
        seq=R,
        ack=add(C, 1),
        flags=SYN | ACK,
        window=50_000,
        options=(opt.mss(500),),
    )
    bench.give(small.emit(), Side.SERVER)
    assert bench.fields("flow.established")["data_path"] == "python"
    bench.wait(WAIT_S + 1)
    assert not len(bench.maps)


def test_nothing_is_handed_over_when_that_was_taken_away(bench: Bench) -> None:
    bench.carried()
    bench.handover.enabled = False
    bench.establish(PORT + 1)
    assert bench.fields("flow.established")["data_path"] == "python"
    bench.wait(1.0)
    assert len(bench.maps) == 1
    assert bench.send(Side.CLIENT, ACK, 1, 1) == layout.MARK_TRANSLATED


def test_it_may_be_taken_away_and_given_again_while_a_flow_waits(bench: Bench) -> None:
    bench.establish()
    bench.handover.enabled = False
    bench.wait(WAIT_S + 0.01)
    assert not len(bench.maps)
    bench.handover.enabled = True
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    bench.wait(WAIT_S + 0.01)
    assert len(bench.maps) == 1


# --- between the two ----------------------------------------------------------------------


def test_packets_wait_until_what_came_before_is_done(bench: Bench) -> None:
    bench.moving()
    first = bench.packet(Side.CLIENT, PSH | ACK, 1, 1, length=100)
    second = bench.packet(Side.CLIENT, PSH | ACK, 101, 1, length=50)
    assert bench.programs.run(first, Side.CLIENT, bench.now)[1] == layout.MARK_LEFT
    assert bench.programs.run(second, Side.CLIENT, bench.now)[1] == layout.MARK_LEFT
    bench.decide(first, Side.CLIENT)
    bench.handover.done(first, Side.CLIENT)
    third = bench.packet(Side.CLIENT, ACK, 151, 1)
    assert bench.programs.run(third, Side.CLIENT, bench.now)[1] == layout.MARK_LEFT
    for raw in (second, third):
        bench.decide(raw, Side.CLIENT)
        bench.handover.done(raw, Side.CLIENT)
    assert bench.send(Side.CLIENT, ACK, 151, 1) == layout.MARK_TRANSLATED
    assert bench.send(Side.SERVER, ACK, 1, 151) == layout.MARK_LEFT  # the other direction


def test_a_process_that_is_late_is_not_waited_for(bench: Bench) -> None:
    bench.moving()
    raw = bench.packet(Side.CLIENT, PSH | ACK, 1, 1, length=100)
    assert bench.programs.run(raw, Side.CLIENT, bench.now)[1] == layout.MARK_LEFT
    bench.now += layout.LEAVE_FOR_S - 0.001
    assert bench.programs.run(raw, Side.CLIENT, bench.now)[1] == layout.MARK_LEFT
    bench.now += 0.002
    assert bench.programs.run(raw, Side.CLIENT, bench.now)[1] == layout.MARK_TRANSLATED


@pytest.mark.parametrize("ipv6", [False, True])
def test_what_is_done_is_counted_in_bytes_of_data(bench: Bench, ipv6: bool) -> None:
    """One for a packet without; padding behind the packet does not count."""
    told: list[int] = []

    def publish(flow: Flow, side: Side, amount: int) -> None:
        assert side is Side.SERVER
        told.append(amount)

    client, server = (bytes(15) + b"\1", bytes(15) + b"\2") if ipv6 else (CLIENT, SERVER)

    def segment(side: Side, flags: int, seq: int, ack: int, length: int = 0) -> bytes:
        of_client = side is Side.CLIENT
        return Segment(
            src=client if of_client else server,
            dst=server if of_client else client,
            sport=PORT if of_client else 80,
            dport=80 if of_client else PORT,
            seq=seq,
            ack=ack,
            flags=flags,
            window=9000,
            options=(opt.mss(1460),) if flags & SYN else (opt.NOP_OPTION,) * 4,
            payload=bytes(length),
        ).emit()

    bench.give(segment(Side.CLIENT, SYN, C, 0), Side.CLIENT)
    spoofed = bench.spoofed[PORT]
    bench.give(segment(Side.CLIENT, ACK, C + 1, add(spoofed, 1)), Side.CLIENT)
    bench.give(segment(Side.SERVER, SYN | ACK, R, C + 1), Side.SERVER)
    bench.wait(WAIT_S)
    bench.carrier.publish = publish  # type: ignore[method-assign]
    assert len(bench.maps) == 1
    for length in (100, 0, 1):
        bench.handover.done(segment(Side.SERVER, ACK, R + 1, C + 1, length) + bytes(6), Side.SERVER)
    assert told == [100, 101, 102]


def test_the_end_of_what_was_done_is_told_too(bench: Bench) -> None:
    """What came before the hand-over reaches the entry by what the process tells."""
    bench.moving()
    early = bench.packet(Side.SERVER, PSH | ACK, 1, 1, length=900)
    late = bench.packet(Side.SERVER, ACK, 901, 1)
    bench.programs.run(late, Side.SERVER, bench.now)
    for raw in (early, late):
        bench.decide(raw, Side.SERVER)
    assert bench.entry().to_client.octets == 0
    bench.handover.done(late, Side.SERVER)
    assert bench.send(Side.SERVER, ACK, 901, 1) == layout.MARK_TRANSLATED
    assert bench.entry().to_client.next_seq == add(R, 901)
    assert bench.entry().to_client.octets == 900
    bench.send(Side.SERVER, RST | ACK, 901, 1)  # believed, since its number is known
    assert bench.entry().state is State.RESET


# --- back ---------------------------------------------------------------------------------


def test_a_flow_whose_end_begins_while_it_moves_is_taken_back(bench: Bench) -> None:
    flow = bench.moving()
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=10)
    assert bench.send(Side.CLIENT, PSH | ACK, 11, 1, length=20) == layout.MARK_TRANSLATED
    assert bench.send(Side.SERVER, FIN | ACK, 1, 31) == layout.MARK_LEFT
    assert not len(bench.maps)
    assert flow.handed_over is None
    assert flow.state is State.SERVER_CLOSED
    assert flow.to_server.next_seq == add(C, 31), "what only the kernel has seen"
    assert bench.send(Side.CLIENT, FIN | ACK, 31, 2) == 0
    assert bench.send(Side.SERVER, ACK, 2, 32) == 0
    assert bench.said() == ["flow.closed"]
    assert bench.fields("flow.closed")["bytes_to_server"] == 30
    assert bench.fields("flow.closed")["segments_rewritten"] == 6
    bench.wait(70)
    assert not len(bench.engine.table)
    assert not len(bench.maps)


def test_a_flow_that_is_taken_back_closing_does_not_wait_for_days(bench: Bench) -> None:
    bench.moving()
    bench.send(Side.CLIENT, ACK, 1, 1)
    assert bench.send(Side.CLIENT, FIN | ACK, 1, 1) == layout.MARK_TRANSLATED
    assert bench.send(Side.SERVER, FIN | ACK, 1, 1) == layout.MARK_LEFT
    assert not len(bench.maps)
    (flow,) = bench.engine.table
    assert flow.state is State.CLOSING
    bench.wait(130)
    assert not len(bench.engine.table)
    assert bench.fields("flow.closed")["reason"] == "timeout"


def test_an_end_that_the_kernel_has_seen_is_told_while_it_moves(bench: Bench) -> None:
    bench.moving()
    bench.send(Side.CLIENT, ACK, 1, 1)
    assert bench.send(Side.CLIENT, RST, 1) == layout.MARK_TRANSLATED
    bench.hear()
    assert bench.said() == ["flow.reset", "flow.closed"]
    assert bench.fields("flow.reset") == {"reason": "client_reset", "by": "client"}
    assert not len(bench.maps)
    bench.wait(11)
    assert not len(bench.engine.table)


def test_both_fins_that_the_kernel_has_seen_are_told_while_it_moves(bench: Bench) -> None:
    bench.moving()
    for side in Side:
        bench.send(side, ACK, 1, 1)
    bench.close()
    assert bench.entry().state is State.TIME_WAIT
    bench.hear()
    assert bench.said() == ["flow.closed"]
    assert "reason" not in bench.fields("flow.closed")
    assert not len(bench.maps)


def test_a_flow_that_was_taken_back_is_not_handed_over_again(bench: Bench) -> None:
    bench.moving()
    for _ in range(2):
        bench.send(Side.CLIENT, FIN | ACK, 1, 1)
        bench.wait(1.0)
        assert not len(bench.maps)


def test_what_another_process_has_reported_is_not_reported_again(bench: Bench) -> None:
    bench.moving()
    for side in Side:
        bench.send(side, ACK, 1, 1)
    bench.close()
    bench.carrier.mark_reported(bench.entry())
    bench.hear()
    assert not len(bench.maps)
    assert bench.said() == []


def test_what_is_taken_back_makes_room() -> None:
    bench = Bench(room=1)
    bench.moving()
    bench.establish(PORT + 1)
    bench.wait(WAIT_S)
    assert bench.handover.is_full
    bench.send(Side.CLIENT, FIN | ACK, 1, 1)
    assert not bench.handover.is_full


# --- no room ------------------------------------------------------------------------------


def test_a_flow_that_finds_no_room_stays_here() -> None:
    bench = Bench(room=1)
    bench.carried()
    bench.establish(PORT + 1)
    bench.wait(WAIT_S + 0.001)
    assert bench.said() == ["service.kernel_full"]
    bench.establish(PORT + 2)
    bench.wait(WAIT_S + 0.001)
    assert bench.said() == [], "said once"
    assert bench.handover.is_full
    assert bench.send(Side.CLIENT, PSH | ACK, 1, 1, port=PORT + 1, length=9) == 0
    assert isinstance(bench.verdict, Replace)
    bench.wait(SETTLED_S)
    assert len(bench.engine.table) == 2
    bench.carrier.remove(bench.key())
    bench.send(Side.SERVER, SYN | ACK, 0, 1, port=PORT + 1)
    bench.wait(1.0)
    assert not len(bench.maps), "it is asked once"


@pytest.mark.parametrize("when_full", ["python", "pass"])
def test_what_becomes_of_new_connections_when_it_is_full(when_full: str) -> None:
    bench = Bench(Policy("hold", kernel_full=when_full), room=1)
    bench.carried()
    bench.establish(PORT + 1)
    bench.wait(WAIT_S + 0.001)
    bench.send(Side.CLIENT, SYN, 0, port=PORT + 2)
    if when_full == "pass":
        assert bench.fields("flow.bypassed")["reason"] == "kernel_full"
    else:
        assert [send.reason for send in bench.sent] == ["spoofed_syn_ack"]
    bench.close()
    bench.hear()
    bench.wait(66)
    assert not bench.handover.is_full, "the flow that ended has made room"
    bench.send(Side.CLIENT, SYN, 0, port=PORT + 3)
    assert [send.reason for send in bench.sent] == ["spoofed_syn_ack"]


def test_what_ended_first_makes_room() -> None:
    bench = Bench(room=3)
    for port in (PORT, PORT + 1, PORT + 2):
        bench.carried(port)
    bench.send(Side.CLIENT, RST, 1, port=PORT + 1)
    bench.hear()
    bench.now += 1
    bench.close(PORT)
    bench.hear()
    bench.moving(PORT + 3)
    assert bench.carrier.find(bench.key(PORT + 1)) is None
    assert bench.entry(PORT).state is State.TIME_WAIT
    assert bench.entry(PORT + 2).state is State.ESTABLISHED
    bench.moving(PORT + 4)
    assert bench.carrier.find(bench.key(PORT)) is None
    assert bench.entry(PORT + 2).state is State.ESTABLISHED
    assert not bench.handover.is_full


def again(bench: Bench) -> int:
    """End a carried flow, report it, and let a new one be carried on its 4-tuple."""
    bench.send(Side.CLIENT, RST, 1)
    bench.hear()
    more = 0x1000_0000
    bench.send(Side.CLIENT, SYN, more)
    assert "flow.reset" not in bench.said(), "that was said before"
    bench.send(Side.CLIENT, ACK, more + 1, 1)
    reply = Segment(
        src=SERVER,
        dst=CLIENT,
        sport=80,
        dport=PORT,
        seq=R,
        ack=add(C, more + 1),
        flags=SYN | ACK,
        window=50_000,
        options=(opt.mss(1460), opt.NOP_OPTION, opt.window_scale(0)),
    )
    bench.give(reply.emit(), Side.SERVER)
    bench.wait(WAIT_S + SETTLED_S)
    assert bench.entry().isn_client == add(C, more)
    return more


def test_a_flow_that_follows_an_ended_one_makes_no_room() -> None:
    bench = Bench(room=2)
    bench.carried(PORT + 1)
    bench.carried()
    again(bench)
    bench.establish(PORT + 2)
    bench.wait(WAIT_S)
    assert bench.said() == ["service.kernel_full"]
    assert {flow.state for flow in bench.carrier.flows()} == {State.ESTABLISHED}


def test_an_ended_flow_s_time_is_not_the_next_one_s(bench: Bench) -> None:
    bench.carried()
    more = again(bench)
    bench.now += 9.5
    bench.send(Side.CLIENT, RST, more + 1)
    bench.wait(1.0)
    assert bench.said() == []
    bench.hear()
    assert bench.said() == ["flow.reset", "flow.closed"]


# --- packets of a flow that is the kernel's -------------------------------------------------


def test_a_repeated_syn_ack_is_acknowledged(bench: Bench) -> None:
    bench.carried()
    assert bench.send(Side.SERVER, SYN | ACK, 0, 1) == 0
    assert bench.verdict == Drop("syn_ack_repeated")
    (send,) = bench.sent
    view = look(send.data)
    assert (send.side, view.flags) == (Side.SERVER, ACK)
    assert (view.seq, view.ack) == (add(C, 1), add(R, 1))
    assert view.options.timestamps == (TC, TR)
    assert view.window == 50_000
    assert is_intact(view)
    assert len(bench.maps) == 1


def test_the_syn_ack_of_a_client_that_is_gone_is_not_acknowledged(bench: Bench) -> None:
    bench.send(Side.CLIENT, SYN, 0)
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    bench.send(Side.CLIENT, RST, 1)
    assert bench.said() == ["flow.reset", "flow.closed"]
    bench.send(Side.SERVER, SYN | ACK, 0, 1)
    assert not [send for send in bench.sent if look(send.data).flags & ACK]


def test_a_syn_on_a_live_flow_is_challenged(bench: Bench) -> None:
    bench.carried()
    bench.send(Side.CLIENT, ACK, 1, 1)
    bench.send(Side.CLIENT, SYN, 0x1000_0000)
    assert bench.verdict == Drop("syn_challenged")
    (send,) = bench.sent
    view = look(send.data)
    assert (send.side, view.flags) == (Side.CLIENT, ACK)
    assert (view.seq, view.ack) == (add(bench.spoofed[PORT], 1), add(C, 1))
    assert bench.entry().state is State.ESTABLISHED


def test_a_late_copy_of_the_syn_is_dropped_when_all_is_over(bench: Bench) -> None:
    bench.carried()
    bench.close()
    bench.hear()
    bench.send(Side.CLIENT, SYN, 0)
    assert bench.verdict == Drop("syn_repeated")
    assert not bench.entry().superseded


def test_a_new_syn_begins_a_new_flow_when_all_is_over(bench: Bench) -> None:
    bench.carried()
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=5)
    bench.send(Side.CLIENT, RST, 6)
    syn = bench.packet(Side.CLIENT, SYN, 0x1000_0000)
    bench.give(syn, Side.CLIENT)
    assert bench.said()[0] == "flow.syn_received"
    assert bench.said()[-2:] == ["flow.reset", "flow.closed"], "of the old flow"
    assert bench.fields("flow.closed")["bytes_to_server"] == 5
    assert not len(bench.maps)
    bench.hear()
    assert bench.said() == []
    assert len(bench.engine.table) == 1
    (flow,) = bench.engine.table
    assert (flow.number, flow.isn_client) == (2, add(C, 0x1000_0000))


@pytest.mark.parametrize("heard", [True, False])
def test_a_new_syn_that_the_kernel_does_not_understand_loses_no_end(
    bench: Bench, heard: bool
) -> None:
    bench.carried()
    bench.close()
    if heard:
        bench.hear()
    syn = bench.packet(Side.CLIENT, SYN, 0x1000_0000)
    bench.give(mutated(syn, "ip_options", 0, 0), Side.CLIENT)
    assert bench.said().count("flow.closed") == (not heard)
    assert not len(bench.maps)
    (flow,) = bench.engine.table
    assert flow.isn_client == add(C, 0x1000_0000)


@pytest.mark.parametrize("seen", [True, False], ids=["old data", "new data"])
def test_a_fragment_is_translated_here(bench: Bench, seen: bool) -> None:
    """What it brings further is taken over: the kernel does not count it."""
    bench.carried()
    raw = bench.packet(Side.SERVER, ACK, 1, 1, length=24)
    if seen:
        bench.give(raw, Side.SERVER)
    first = mutated(raw, "fragment", 0, 0x2000)
    assert bench.give(first, Side.SERVER) == 0
    assert isinstance(bench.verdict, Replace)
    view = look(bench.verdict.data)
    assert (view.seq, view.ack) == (add(bench.spoofed[PORT], 1), add(C, 1))
    assert (len(bench.engine.table), len(bench.maps)) == ((0, 1) if seen else (1, 0))
    bench.wait(AGAIN_S)
    assert bench.entry().to_client.octets == 24, "the kernel has it again"


def test_a_reset_that_the_kernel_does_not_understand_ends_the_flow_here(bench: Bench) -> None:
    bench.carried()
    raw = mutated(bench.packet(Side.CLIENT, RST, 1), "ip_options", 0, 0)
    assert bench.give(raw, Side.CLIENT) == 0
    assert isinstance(bench.verdict, Replace)
    assert bench.said() == ["flow.reset", "flow.closed"]
    assert not len(bench.maps)
    (flow,) = bench.engine.table
    assert flow.state is State.RESET
    assert bench.engine.table.half_open == 0
    assert bench.send(Side.SERVER, ACK, 1, 1) == 0
    assert isinstance(bench.verdict, Replace)
    bench.wait(1.0)
    assert not len(bench.maps), "not handed over again"
    bench.wait(11)
    assert not len(bench.engine.table)


def test_half_of_an_end_that_the_kernel_does_not_understand_is_taken_over(bench: Bench) -> None:
    bench.carried()
    raw = mutated(bench.packet(Side.CLIENT, FIN | ACK, 1, 1), "ip_options", 0, 0)
    for _ in range(2):
        bench.give(raw, Side.CLIENT)
        bench.wait(1.0)
        assert not len(bench.maps)
    bench.send(Side.SERVER, FIN | ACK, 1, 2)
    bench.send(Side.CLIENT, ACK, 2, 2)
    assert bench.said() == ["flow.closed"]


@pytest.mark.parametrize("side", Side)
def test_an_icmp_error_is_renumbered(bench: Bench, side: Side) -> None:
    """What one end says about a segment of the other's; it reads it with its own numbers."""
    bench.carried()
    flow = bench.entry()
    seen_by_sender = {
        Side.SERVER: (add(C, 1), add(bench.spoofed[PORT], 1)),
        Side.CLIENT: (add(R, 1), add(C, 1)),
    }[side]
    other = Side.SERVER if side is Side.CLIENT else Side.CLIENT
    quoted = bench.packet(other, ACK, 1, 1, length=40)
    path = flow.from_client if other is Side.CLIENT else flow.from_server
    translated = path.direction.translate(quoted, look(quoted).tcp)
    assert bench.give(error_quoting(translated, "too_big"), side) == 0
    assert isinstance(bench.verdict, Replace)
    error = look_quoted(bench.verdict.data)
    raw = bench.verdict.data
    assert (error.seq, int.from_bytes(raw[error.tcp + 8 : error.tcp + 12], "big")) == (
        seen_by_sender
    )
    assert len(bench.maps) == 1


def test_an_icmp_error_about_no_flow_passes(bench: Bench) -> None:
    quoted = bench.packet(Side.CLIENT, ACK, 1, 1)
    bench.give(error_quoting(quoted, "too_big"), Side.SERVER)
    assert bench.verdict == Accept("icmp")


def test_what_is_too_long_for_the_queue_is_dropped(bench: Bench) -> None:
    bench.carried()
    raw = mutated(bench.packet(Side.SERVER, ACK, 1, 1, length=100), "total", 0, 5000)
    bench.decide(raw, Side.SERVER)
    assert bench.verdict == Drop("too_long")
    bench.decide(mutated(raw, "total", 0, 5000), Side.SERVER)
    assert bench.said() == ["packet.malformed"] * 2


# --- ends ---------------------------------------------------------------------------------


def test_an_end_is_reported_once_and_forgotten_later(bench: Bench) -> None:
    bench.carried()
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=100)
    bench.send(Side.SERVER, PSH | ACK, 1, 101, length=2000)
    bench.send(Side.CLIENT, FIN | ACK, 101, 2001)
    bench.send(Side.SERVER, FIN | ACK, 2001, 102)
    bench.send(Side.CLIENT, ACK, 102, 2002)
    bench.hear()
    assert bench.said() == ["flow.closed"]
    told = bench.fields("flow.closed")
    assert (told["bytes_to_server"], told["bytes_to_client"]) == (100, 2000)
    assert "reason" not in told
    bench._take(bench.handover.look_after(bench.key(), bench.now))
    assert bench.said() == ["flow.closed"]
    assert bench.send(Side.SERVER, FIN | ACK, 2001, 102) == layout.MARK_TRANSLATED
    bench.wait(64)
    assert len(bench.maps) == 1
    bench.wait(2)
    assert not len(bench.maps)
    assert bench.said() == []
    assert bench.engine.next_deadline() is None


def test_an_end_stays_as_long_as_something_comes(bench: Bench) -> None:
    bench.carried()
    bench.close()
    bench.hear()
    for _ in range(3):
        bench.wait(40)
        assert bench.send(Side.SERVER, FIN | ACK, 1, 2) == layout.MARK_TRANSLATED
    bench.wait(64)
    assert len(bench.maps) == 1
    bench.wait(2)
    assert not len(bench.maps)


def test_an_end_is_forgotten_at_the_very_moment(bench: Bench) -> None:
    """Deadlines are sums of floating-point numbers, and these are rounded."""
    bench.carried()
    for number in range(400):
        bench.wait(30.7001)
        bench.carried(PORT + 1)
        bench.send(Side.CLIENT, RST, 1, port=PORT + 1)
        bench.hear()
        (deadline,) = {when for when, _ in bench.handover._lingering[State.RESET]}
        bench.engine.tick(deadline)
        assert bench.carrier.find(bench.key(PORT + 1)) is None, f"the {number}th"


def test_a_silent_flow_is_forgotten(bench: Bench) -> None:
    bench.carried()
    bench.now += bench.limits.idle_timeout_s - 1
    assert not bench.handover.look_after(bench.key(), bench.now)
    bench.now += 1.1
    bench._take(bench.handover.look_after(bench.key(), bench.now))
    assert bench.fields("flow.closed")["reason"] == "timeout"
    assert not len(bench.maps)


@pytest.mark.parametrize(
    ("state", "reported", "silent", "due"),
    [
        (State.ESTABLISHED, False, 432_000.0, True),
        (State.ESTABLISHED, False, 431_999.0, False),
        (State.CLOSING, False, 121.0, True),
        (State.CLOSING, False, 119.0, False),
        (State.TIME_WAIT, False, 0.0, True),
        (State.TIME_WAIT, True, 1.0, False),
        (State.TIME_WAIT, True, 65.0, True),
        (State.RESET, False, 0.0, True),
        (State.RESET, True, 9.0, False),
        (State.RESET, True, 10.0, True),
    ],
)
def test_what_is_due(bench: Bench, state: State, reported: bool, silent: float, due: bool) -> None:
    assert bench.handover.is_due(state, reported=reported, silent=silent) == due


# --- the life of processes ----------------------------------------------------------------


def test_a_new_process_goes_on(bench: Bench) -> None:
    bench.carried()
    bench.carried(PORT + 1)
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=100)
    bench.close(PORT + 1)
    bench.start()
    assert bench.send(Side.CLIENT, PSH | ACK, 101, 1, length=50) == layout.MARK_TRANSLATED
    bench.hear()
    assert bench.said() == ["flow.closed"]
    bench.send(Side.CLIENT, SYN, 0, port=PORT + 2)
    (flow,) = bench.engine.table
    assert flow.number == 3, "no number is given twice"
    bench.send(Side.CLIENT, RST, 151)
    bench.hear()
    assert bench.fields("flow.closed")["bytes_to_server"] == 150


def test_a_new_process_hears_of_a_flow_that_was_left(bench: Bench) -> None:
    """It does not know that the old one was to settle it, so 100 ms have to pass."""
    bench.moving()
    bench.start()
    assert bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=100) == layout.MARK_LEFT
    assert isinstance(bench.verdict, Replace)
    assert not len(bench.engine.table)
    bench.now += layout.LEAVE_FOR_S + 0.001
    assert bench.send(Side.CLIENT, PSH | ACK, 101, 1, length=5) == layout.MARK_TRANSLATED
    assert bench.entry().to_server.octets == 105


def test_shutting_down_leaves_carried_flows_alone(bench: Bench) -> None:
    bench.carried()
    bench.moving(PORT + 1)
    bench.establish(PORT + 2)
    assert bench.engine.has_live_flows()
    bench.events, bench.sent = [], []
    bench._take(bench.engine.shut_down(bench.now))
    assert {look(send.data).flags & RST for send in bench.sent} == {RST}
    assert {bench.key(PORT + 2), reverse_key(bench.key(PORT + 2))} == {
        look(send.data).flow_key for send in bench.sent
    }
    assert bench.said() == ["flow.reset", "flow.closed"]
    assert not len(bench.engine.table)
    assert len(bench.maps) == 2
    bench.now += layout.LEAVE_FOR_S + 0.001
    for port in (PORT, PORT + 1):
        assert bench.send(Side.CLIENT, ACK, 1, 1, port=port) == layout.MARK_TRANSLATED


def test_nothing_waits_for_carried_flows(bench: Bench) -> None:
    bench.carried()
    bench.moving(PORT + 1)
    assert not bench.engine.has_live_flows()


def test_draining_takes_on_no_flow_and_carries_on(bench: Bench) -> None:
    bench.carried()
    bench.establish(PORT + 1)
    bench.engine.draining = True
    bench.send(Side.CLIENT, SYN, 0, port=PORT + 2)
    assert bench.fields("flow.bypassed")["reason"] == "service_stopping"
    bench.wait(WAIT_S)
    assert bench.entry(PORT + 1).state is State.ESTABLISHED, "this one will live on"
    assert bench.send(Side.CLIENT, ACK, 1, 1) == layout.MARK_TRANSLATED


@pytest.mark.parametrize("stage", ["waiting", "moving", "carried", "ended"])
def test_a_new_configuration_keeps_what_there_is(bench: Bench, stage: str) -> None:
    bench.establish()
    if stage != "waiting":
        bench.wait(WAIT_S)
    if stage in ("carried", "ended"):
        bench.wait(SETTLED_S)
    if stage == "ended":
        bench.close()
        bench.hear()
    limits = Limits(idle_timeout_s=600, time_wait_s=3, reset_linger_s=2)
    bench.engine.configure(Policy("fastopen"), limits)
    bench.wait(WAIT_S + SETTLED_S + 0.1)
    assert len(bench.maps) == 1, "handed over, and there"
    assert not len(bench.engine.table), "and settled"
    if stage == "ended":
        assert bench.send(Side.SERVER, FIN | ACK, 1, 2) == layout.MARK_TRANSLATED
        return
    assert bench.send(Side.CLIENT, ACK, 1, 1) == layout.MARK_TRANSLATED
    bench.close()
    bench.hear()
    assert bench.said() == ["flow.closed"]
    bench.wait(3.1)
    assert not len(bench.maps), "by the new limits"
    bench.carried(PORT + 1)
    bench.now += 601
    bench._take(bench.handover.look_after(bench.key(PORT + 1), bench.now))
    assert bench.fields("flow.closed")["reason"] == "timeout"


# --- connections that pass untouched ------------------------------------------------------


def passing(bench: Bench) -> None:
    """Let a connection pass whose beginning nobody has seen."""
    bench.handover.max_passing = 10
    bench.send(Side.CLIENT, PSH | ACK, 1, 1, length=10)
    assert bench.fields("flow.bypassed")["reason"] == "mid_stream"
    bench.send(Side.SERVER, PSH | ACK, 1, 11, length=10)
    assert bench.verdict == Accept("bypassed")


def test_a_passing_connection_does_not_come_here_any_more(bench: Bench) -> None:
    passing(bench)
    for side in Side:
        assert bench.send(side, ACK, 11, 11) == layout.MARK_LEFT
        assert bench.verdict == Accept("bypassed")
        raw = bench.packet(side, PSH | ACK, 11, 11, length=700)
        assert bench.programs.run(raw, side, bench.now) == (raw, layout.MARK_TRANSLATED)
    assert bench.carrier.survey() == (0, 0)
    assert list(bench.carrier.flows()) == []
    assert not bench.handover.look_after(bench.key(), bench.now)
    assert len(bench.maps) == 1


def test_little_is_remembered_of_a_passing_connection(bench: Bench) -> None:
    passing(bench)
    bench.now += SETTLED_S + 0.01
    for flags in (PSH | ACK, ACK):
        bench.send(Side.CLIENT, flags, 1, 1, port=PORT + 1)
    assert len(bench.maps) == 2
    assert list(bench.handover._moving) == [bench.key(PORT + 1)]


def test_none_passes_there_when_that_was_taken_away(bench: Bench) -> None:
    bench.handover.enabled = False
    passing(bench)
    assert not len(bench.maps)


def test_a_passing_connection_goes_on_without_a_process(bench: Bench) -> None:
    passing(bench)
    bench.start()
    bench.now += 100
    raw = bench.packet(Side.SERVER, PSH | ACK, 11, 11, length=700)
    assert bench.programs.run(raw, Side.SERVER, bench.now) == (raw, layout.MARK_TRANSLATED)
    bench.now += 100
    bench.send(Side.CLIENT, SYN, 0)
    assert bench.verdict == Accept("bypassed"), "perhaps a stranger's"


def test_a_new_connection_begins_where_one_has_passed(bench: Bench) -> None:
    passing(bench)
    bench.now += 121
    bench.send(Side.CLIENT, SYN, 0)
    assert bench.said()[0] == "flow.syn_received"
    assert not len(bench.maps)


def test_so_many_connections_pass_and_no_more(bench: Bench) -> None:
    passing(bench)
    bench.handover.max_passing = 1
    for _ in range(3):
        assert bench.send(Side.CLIENT, ACK, 1, 1, port=PORT + 1) == 0
        assert isinstance(bench.verdict, Accept)
    assert len(bench.maps) == 1
    bench.now += 121
    bench._take(bench.handover.look_after(bench.key(), bench.now))
    assert not len(bench.maps)


def test_what_is_too_long_for_the_queue_passes_where_all_passes(bench: Bench) -> None:
    passing(bench)
    raw = mutated(bench.packet(Side.SERVER, ACK, 11, 11, length=100), "total", 0, 5000)
    bench.decide(raw, Side.SERVER)
    assert bench.verdict == Accept("too_long")


def test_an_icmp_error_about_what_follows_an_ended_flow_passes(bench: Bench) -> None:
    """The entry says that another connection has the 4-tuple: its numbers are not ours."""
    bench.carried()
    bench.close()
    bench.hear()
    syn = bench.packet(Side.CLIENT, SYN, 0x1000_0000)
    assert bench.programs.run(syn, Side.CLIENT, bench.now) == (syn, 0)
    bench.give(error_quoting(syn, "unreachable"), Side.SERVER)
    assert bench.verdict == Accept("icmp")
