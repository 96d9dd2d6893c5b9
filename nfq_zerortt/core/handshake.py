"""The moves of a handshake, from which a strategy puts its play together.

Each move changes the flow and returns the actions that belong to it. What
all moves share (the numbers, the memory of servers, what is held) lives here,
so a strategy needs no state of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nfq_zerortt.config import Limits
from nfq_zerortt.core import packets
from nfq_zerortt.core.actions import Action, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.early_data import EarlyData
from nfq_zerortt.core.fast_open import Outcome
from nfq_zerortt.core.flow import Flow, report
from nfq_zerortt.core.isn import InitialNumbers
from nfq_zerortt.core.learned import Memory
from nfq_zerortt.core.negotiation import (
    ETHERNET_MTU,
    Offer,
    learned_from,
    make_offer,
    mss_for,
    mss_of,
    settle,
)
from nfq_zerortt.core.prefixes import Prefixes
from nfq_zerortt.core.states import Event, State
from nfq_zerortt.core.table import FlowTable
from nfq_zerortt.ports import PortSet
from nfq_zerortt.wire.options import OptionSet
from nfq_zerortt.wire.seqnum import add, distance, within
from nfq_zerortt.wire.view import TCP_HEADER, SegmentView

SPOOFED_SYN_ACK = "spoofed_syn_ack"
"""The reason of the Send on which everything rests: if it fails, the SYN must go on untouched."""
_FORWARDED_TIMEOUT_S = 130.0  # Linux repeats a SYN for 127 s
_FAST_OPEN_ROOM = 20
"""The option with a cookie of up to 16 bytes, and its padding."""
_LONGEST_ROUND_TRIP_S = 3.0
_LONGEST_WAIT_S = 120.0
_STEADY_S = 1.0
_STEADY_UNTIL = 5  # repetitions


class Handshake:
    """The moves, for all flows of one engine; those with early data are those of ``early``."""

    def __init__(
        self,
        *,
        limits: Limits,
        table: FlowTable,
        numbers: InitialNumbers,
        memory: Memory,
        prefixes: Prefixes,
        fast_open_ports: PortSet,
        link_mtu: int,
        data_path: Callable[[Flow], str],
    ) -> None:
        """``fast_open_ports``: the servers' ports on which *auto* may do Fast Open.

        ``data_path`` says which way an established flow goes.

        ``link_mtu``: the longest packet that the link towards the server takes, bytes.
        """
        self._link_mtu = link_mtu
        self._data_path = data_path
        self.limits = limits
        self.memory = memory
        self.fast_open_ports = fast_open_ports
        self.early = EarlyData(limits, table, memory)
        self._table = table
        self._numbers = numbers
        self._prefixes = prefixes

    # --- towards the client ---------------------------------------------------------------

    def spoof_syn_ack(self, flow: Flow, now: float, *, fast_open: bool = False) -> list[Action]:
        """Answer the client's SYN in the server's name.

        ``fast_open``: the client's first segment shall fit into the SYN.
        """
        known = self.memory.recall(flow.server, now)
        reserve = _FAST_OPEN_ROOM if fast_open else 0
        flow.offer = make_offer(
            flow.client_options,
            known,
            now,
            ipv6=flow.ipv6,
            link_mtu=self._link_mtu,
            reserve=reserve,
        )
        flow.isn_spoofed, flow.tsval_spoofed = self._numbers.draw(flow.client_key, now)
        flow.apply(Event.SYN_ACK_SPOOFED)
        stamps = flow.client_options.timestamps
        actions = self._send_syn_ack(flow, stamps[0] if stamps else 0)
        again = min(self.syn_ack_wait(flow), self.limits.half_open_timeout_s)
        self._table.set_timer(flow, now + again, now)
        return actions

    def answer_syn_again(self, flow: Flow, syn: SegmentView, now: float) -> list[Action]:
        """Send the same SYN-ACK again, for a SYN that came again with a newer timestamp."""
        stamps = syn.readable_options.timestamps
        return self._repeat_syn_ack(flow, stamps[0] if stamps else 0, now)

    def repeat_syn_ack(self, flow: Flow, now: float) -> list[Action]:
        """Send the SYN-ACK for the flow's first SYN again, unasked."""
        stamps = flow.client_options.timestamps
        return self._repeat_syn_ack(flow, stamps[0] if stamps else 0, now)

    def _repeat_syn_ack(self, flow: Flow, tsecr: int, now: float) -> list[Action]:
        if not self._prefixes.take(flow.client, now):
            return []
        return self._send_syn_ack(flow, tsecr)

    def confirmed(self, flow: Flow, now: float) -> None:
        """The client is there: it has acknowledged a number that only it was told."""
        self._prefixes.give_back(flow.client, flow.syn_acks, now)

    def syn_ack_wait(self, flow: Flow) -> float:
        """Seconds until the SYN-ACK is to be repeated: 1, 2, 4, … (RFC 6298, 2.1 and 5.5)."""
        return float(2 ** min(flow.syn_acks - 1, 10))

    def _send_syn_ack(self, flow: Flow, tsecr: int) -> list[Action]:
        offered = flow.offer
        assert offered is not None
        flow.syn_acks += 1
        return [
            Send(Side.CLIENT, packets.syn_ack(flow, offered, tsecr), SPOOFED_SYN_ACK),
            report(
                flow,
                "flow.synack_spoofed",
                isn_spoofed=flow.isn_spoofed,
                options={
                    "mss": offered.mss,
                    "window": offered.window,
                    "window_scale": offered.window_scale,
                    "sack_permitted": offered.sack_permitted,
                    "timestamps": offered.timestamps,
                },
            ),
        ]

    # --- towards the server ---------------------------------------------------------------

    def forward_syn(
        self, flow: Flow, syn: SegmentView, now: float, *, ask: bool = False
    ) -> list[Action]:
        """Let the SYN go on to the server, with no more options than the client was promised.

        ``ask``: and with the request for a Fast Open cookie (RFC 7413, section 4.1.1).
        """
        assert flow.offer is not None
        flow.syn = packets.server_syn(syn, flow.offer)
        packet = flow.syn
        asking = packets.syn_with(flow.syn, b"", b"", 0) if ask else None
        if asking is not None:
            packet = asking[0]
            flow.fast_open = "request"
        return [Replace(packet, "syn"), self._syn_left(flow, now)]

    def keep_back_syn(self, flow: Flow, syn: SegmentView, wait: float, now: float) -> list[Action]:
        """Let the SYN wait for the client's first data, ``wait`` seconds at most."""
        assert flow.offer is not None
        flow.syn = packets.server_syn(syn, flow.offer)
        self._table.set_timer(flow, now + wait, now)
        return [Drop("syn_kept_back")]

    def send_kept_syn(self, flow: Flow, now: float, data: bytes = b"") -> list[Action]:
        """Send the SYN that was kept back, with ``data`` if it is any (RFC 7413, section 4.2.1)."""
        packet = flow.syn
        carried = None
        if data:
            cookie = self.memory.fast_open.cookie(flow.client_address, flow.server, now)
            carried = packets.syn_with(flow.syn, cookie, data, self._server_mss(flow, now))
        if carried is not None and carried[1]:
            packet, size = carried
            flow.fast_open = "cookie" if cookie else "cookieless"
            flow.syn_end = add(flow.syn_end, size)
        left = self._syn_left(flow, now)
        self._table.set_timer(flow, now + self._first_wait(flow, now), now)
        return [Send(Side.SERVER, packet, "syn"), left]

    def _first_wait(self, flow: Flow, now: float) -> float:
        if flow.state is State.SPOOFED:  # the client is waited for, not the server
            return max(flow.created + self.syn_ack_wait(flow) - now, 0.0)
        return self.syn_wait(flow, now)

    def _server_mss(self, flow: Flow, now: float) -> int:
        known = self.memory.recall(flow.server, now)
        usual = mss_for(min(self._link_mtu, ETHERNET_MTU), ipv6=flow.ipv6)
        return min(known.mss, usual) if known else usual

    def _syn_left(self, flow: Flow, now: float) -> Report:
        flow.attempts = 1
        flow.syn_left_at = flow.syn_sent_at = now
        return report(
            flow,
            "flow.syn_forwarded",
            attempt=1,
            fast_open=flow.fast_open,
            data_bytes=distance(flow.held.start, flow.syn_end),
        )

    def repeat_syn(self, flow: Flow, now: float) -> list[Action]:
        """Send the SYN to the server again: the handshake is ours, the client is past it.

        Plain, whatever the first one was: perhaps it was the option or the data that did not
        get through (RFC 7413, section 4.1.3.1), and data sent twice could arrive twice.
        """
        flow.attempts += 1
        flow.syn_sent_at = now
        if flow.state is State.HOLDING:  # else it is the client that is waited for
            self._table.set_timer(flow, now + self.syn_wait(flow, now), now)
        return [
            Send(Side.SERVER, flow.syn, "syn_repeated"),
            report(
                flow, "flow.syn_forwarded", attempt=flow.attempts, fast_open="none", data_bytes=0
            ),
        ]

    def syn_wait(self, flow: Flow, now: float) -> float:
        """Seconds from the latest SYN to the next.

        They double (RFC 6298, section 5.5), but stay at a second for a few times, as with
        Linux: or a connection would start later than a direct one after a short outage.
        """
        known = self.memory.recall(flow.server, now)
        first = max(self.limits.syn_retry_ms / 1000, 1.5 * known.rtt if known else 0.0)
        longest = max(first, _STEADY_S)
        doubled = flow.attempts - 1 - _STEADY_UNTIL
        if doubled <= 0:
            return float(min(first * 2 ** (flow.attempts - 1), longest))
        return float(min(longest * 2**doubled, _LONGEST_WAIT_S))

    def leave_alone(self, flow: Flow, reason: str, now: float) -> None:
        """Let connections to the flow's server pass untouched until it accepts one.

        Unless it has accepted one since this one began.
        """
        known = self.memory.recall(flow.server, now)
        if known is not None and known.learned_at > flow.created:
            return
        self.memory.refusals.note(flow.server, reason, self.limits.leave_alone_s, now)

    def await_answer(self, flow: Flow, now: float) -> None:
        """Wait for the answer to a SYN that went on untouched, for as long as it is repeated."""
        self._table.set_timer(flow, now + _FORWARDED_TIMEOUT_S, now)

    # --- the server's answer --------------------------------------------------------------

    def capture_syn_ack(self, flow: Flow, view: SegmentView, now: float) -> list[Action]:
        """Take the real numbers and options from the server's SYN-ACK, and drop it."""
        assert flow.offer is not None
        granted = view.readable_options
        flow.isn_server = view.seq
        flow.carried = distance(flow.held.start, view.ack)
        # Which SYN was answered is not known; the longer time does less harm: the next SYN waits
        # long enough to tell.
        flow.server_rtt = now - flow.syn_left_at
        delta = add(flow.isn_server, -flow.isn_spoofed)
        self._translate_by(delta, flow, flow.offer, view, granted)
        self._learn(flow, flow.offer, view, granted, now)
        flow.apply(Event.SERVER_SYN_ACK)
        said = self.syn_ack_report(flow, view, delta)
        return [Drop("syn_ack_captured"), said, *self._acknowledge_early(flow, view)]

    def _translate_by(
        self, delta: int, flow: Flow, offer: Offer, view: SegmentView, granted: OptionSet
    ) -> None:
        """Set how each direction is translated, and how far both sides have come by now."""
        to_server, to_client = flow.to_server, flow.to_client
        to_server.ack_shift = delta
        to_client.seq_shift = -delta
        to_client.next_seq = add(view.seq, 1)
        to_client.last_ack = view.ack
        to_server.last_ack = to_client.next_seq
        to_server.next_seq = view.ack
        to_server.octets = flow.carried
        if offer.timestamps and granted.timestamps is not None:
            # The client echoes the spoofed timestamp in its early segments. Shifted, that is
            # the very value of the SYN-ACK; a server with SYN cookies reads its options back
            # from it.
            tau = add(self._first_tsval(flow, granted.timestamps[0]), -flow.tsval_spoofed)
            to_server.tsecr_shift = tau
            to_client.tsval_shift = -tau
        settle(offer, flow.client_options, granted, to_server, to_client)
        flow.note_scales(granted)
        to_client.window = view.window >> to_client.scale  # never scaled in a SYN-ACK
        mss = mss_of(granted, ipv6=flow.ipv6)
        if mss < offer.mss:
            flow.from_client.max_packet = (40 if flow.ipv6 else 20) + TCP_HEADER + mss

    @staticmethod
    def _first_tsval(flow: Flow, tsval: int) -> int:
        """Return the earliest timestamp of the server's, of its data and its SYN-ACK's ``tsval``.

        What is older than the client's first one, PAWS would reject (RFC 7323, section 5.3).
        """
        for view in flow.ahead:
            stamps = view.readable_options.timestamps
            if stamps is not None and distance(stamps[0], tsval) > 0:
                tsval = stamps[0]
        return tsval

    def _learn(
        self, flow: Flow, offer: Offer, view: SegmentView, granted: OptionSet, now: float
    ) -> None:
        """Remember of the server what its SYN-ACK shows."""
        known = self.memory.recall(flow.server, now)
        rtt = min(flow.server_rtt, _LONGEST_ROUND_TRIP_S)
        if flow.attempts > 1 and known is not None:
            rtt = known.rtt  # which SYN was answered is not known (RFC 6298, section 3)
        self.memory.learn(flow.server, learned_from(offer, view, rtt, now, known))
        if not flow.held:
            self.memory.fast_open.note_late(flow.server, now)
        if flow.fast_open == "none":
            return
        outcome = Outcome(
            data=flow.fast_open != "request",
            accepted=flow.carried > 0,
            cookie=granted.fast_open or b"",
            lost=flow.attempts > 1,
            left_at=flow.syn_left_at,
            with_cookie=flow.fast_open == "cookie",
        )
        self.memory.fast_open.note_outcome(flow.client_address, flow.server, outcome, now)

    def _acknowledge_early(self, flow: Flow, view: SegmentView) -> Iterator[Action]:
        """Tell the client that the server has what the SYN carried."""
        if view.ack == flow.held.start:
            return
        data = packets.acknowledge_early(flow, view)
        yield Send(Side.CLIENT, data, "syn_data_acknowledged")
        for block in flow.duplicates.acknowledged(view.ack):
            if flow.offer is not None and flow.offer.sack_permitted:
                yield Send(Side.CLIENT, packets.duplicate_sack(data, *block), "duplicate_sack")

    def syn_ack_report(self, flow: Flow, view: SegmentView, delta: int) -> Report:
        """Return the report of the server's SYN-ACK."""
        accepted = view.ack != flow.held.start
        return report(
            flow,
            "flow.synack_captured",
            isn_server=view.seq,
            delta=delta,
            server_rtt_ms=round(flow.server_rtt * 1000, 3),
            options=view.readable_options.describe(),
            fast_open="accepted" if accepted else "rejected" if flow.syn_has_data else "none",
        )

    def established(self, flow: Flow, now: float) -> list[Action]:
        """Both handshakes are complete."""
        assert flow.state is State.ESTABLISHED
        self._table.changed(flow)
        self._table.set_timer(flow, now + self.limits.idle_timeout_s, now)
        path = self._data_path(flow)
        return [report(flow, "flow.established", strategy=flow.strategy, data_path=path)]


def answers_syn(flow: Flow, view: SegmentView) -> bool:
    """Tell whether a segment of the server's acknowledges the SYN (RFC 9293, 3.10.7.3).

    With data in the SYN, all of it or a part (RFC 7413, section 4.2.2).
    """
    return flow.attempts > 0 and within(view.ack, flow.held.start, flow.syn_end)
