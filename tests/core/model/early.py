"""What becomes of what either end says before the server's SYN-ACK is here."""

from __future__ import annotations

from collections.abc import Sequence

from nfq_zerortt.core.actions import Accept, Action, Drop, Replace, Send
from nfq_zerortt.core.handshake import SPOOFED_SYN_ACK
from nfq_zerortt.wire.seqnum import distance
from nfq_zerortt.wire.view import SegmentView, look


class Early:
    """Keeps account of it, by the client's ISN."""

    def __init__(self) -> None:
        self._held: dict[int, list[tuple[int, int]]] = {}
        self._told: dict[int, int] = {}

    def watch(self, name: int, raw: bytes, actions: Sequence[Action]) -> None:
        """See what becomes of a packet of the connection ``name``.

        Raises:
            AssertionError: of what was held something is missing, or comes a second time; or what
                the server said ahead reaches the client with a timestamp that it must reject.
        """
        for action in actions:
            if isinstance(action, Send) and action.reason == SPOOFED_SYN_ACK:
                told = look(action.data)
                self._told[_spoofed_for(told)] = _tsval(told)
            if not isinstance(action, Drop | Accept | Replace):
                continue
            if action.reason == "held":
                view = look(raw)
                held = self._held.setdefault(name, [])
                held.append((distance(name, view.seq), view.payload_length))
            if action.reason == "syn_ack_captured":
                self._released(name, look(raw), actions)
                self._not_too_old(name, actions)

    def _released(self, name: int, syn_ack: SegmentView, actions: Sequence[Action]) -> None:
        """All that was held follows the SYN-ACK, but for what the SYN has carried.

        That, the client is told to be there.
        """
        taken = distance(name, syn_ack.ack)
        due = sum(
            max(min(size, start + size - taken), 0) for start, size in self._held.pop(name, [])
        )
        released = _sent(actions, "released")
        sent = sum(one.payload_length for one in released)
        assert sent == due, f"{due} bytes were to be released, {sent} were"
        told = [one.ack for one in _sent(actions, "syn_data_acknowledged")]
        assert told == [syn_ack.ack] * (taken > 1), f"of what the SYN carried, told is {told}"
        bare = [one for one in released if not one.sequence_length]
        assert len(bare) <= 1, f"more than the third ACK: {bare}"
        early = [one for one in released if distance(name, one.seq) < taken]
        assert not early, f"released, though the SYN has carried it: {early}"

    def _not_too_old(self, name: int, actions: Sequence[Action]) -> None:
        """PAWS rejects what is older than the last that arrived (RFC 7323, section 5.3)."""
        latest, expected = self._told.get(name, 0), None
        for view in _sent(actions, "syn_data_acknowledged", "released_ahead"):
            tsval = _tsval(view)
            if not tsval or not latest:
                continue
            assert distance(latest, tsval) >= 0, f"PAWS will reject {view}"
            if expected is None or distance(view.seq, expected) >= 0:  # else it is out of order
                latest, expected = tsval, view.end_seq


def _sent(actions: Sequence[Action], *reasons: str) -> list[SegmentView]:
    return [
        look(action.data)
        for action in actions
        if isinstance(action, Send) and action.reason in reasons
    ]


def _spoofed_for(syn_ack: SegmentView) -> int:
    return syn_ack.ack - 1 & 0xFFFFFFFF


def _tsval(view: SegmentView) -> int:
    stamps = view.readable_options.timestamps
    return stamps[0] if stamps else 0
