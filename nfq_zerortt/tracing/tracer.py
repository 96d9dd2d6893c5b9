"""The trace itself: packets taken, watched for a while, and written with their comments.

What a packet was for may show only later: early data is held for a round trip. So each is kept
until it is clear, or for PATIENCE_S at most; and at most MOST packets are kept, of MOST_BYTES. They
are written in the order in which they were seen.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nfq_zerortt import __version__
from nfq_zerortt.observe.capture import CaptureCounts
from nfq_zerortt.tracing.comments import comment
from nfq_zerortt.tracing.conversations import Conversation
from nfq_zerortt.tracing.files import Files
from nfq_zerortt.tracing.flow_table import Conversations
from nfq_zerortt.tracing.link_layer import RAW
from nfq_zerortt.tracing.packets import Packet, Role, Seen, headers_end, read
from nfq_zerortt.tracing.pcapng import Interface, Out, Writer
from nfq_zerortt.tracing.selection import Selection
from nfq_zerortt.tracing.taking import Taking

PATIENCE_S = 3.0
MOST = 30_000
MOST_BYTES = 1 << 25
"""With --snaplen a packet may have 64 kB."""
_TURN_S = 0.1
_FLUSH_S = 0.5
_END_S = 10.0
_DESCRIPTIONS = ("towards the clients", "towards the servers")


@dataclass(slots=True)
class Summary:
    """What there was. ``dropped`` packets the kernel could not hand over in time."""

    packets: int = 0
    commented: int = 0
    flows: int = 0
    dropped: int = 0


class Tracer:
    """Takes packets in order of time and writes them with comments."""

    def __init__(
        self,
        files: Files,
        interfaces: tuple[str, str],
        selection: Selection,
        patience_s: float = PATIENCE_S,
        *,
        with_data: bool = False,
    ) -> None:
        """``with_data``: packets are written as they were taken; else their headers alone."""
        self._files = files
        self._with_data = with_data
        self._interfaces = interfaces
        self._selection = selection
        self._patience_ns = int(patience_s * 1e9)
        self._flows = Conversations()
        self._waiting: deque[tuple[Packet, Conversation, bytes]] = deque()
        self._bytes = 0
        self._newest_ns = 0
        self._taken = [0, 0]
        self.summary = Summary()

    def add(self, seen: Seen) -> None:
        """Take in the next packet; one that was not asked for is left out."""
        packet = read(self.summary.packets + 1, seen)
        if packet is None or not self._selection.takes(packet):
            return
        self.summary.packets += 1
        self._taken[packet.tap] += 1
        headers = seen.data[: headers_end(packet)]
        if len(headers) < len(seen.data):  # it may be remembered for long
            packet = read(packet.number, seen._replace(data=headers)) or packet
        data = seen.data if self._with_data else headers
        self._waiting.append((packet, self._flows.add(packet), data))
        self._bytes += len(data)
        self._newest_ns = max(self._newest_ns, packet.time_ns)
        self.write()

    def write(self, now_ns: int = 0) -> None:
        """Write what is clear or was waited for long enough; ``now_ns`` is the time since 1970."""
        waiting = self._waiting
        now_ns = self._newest_ns = max(now_ns, self._newest_ns)
        while waiting:
            packet, flow, data = waiting[0]
            clear = packet.settled or packet.role in (Role.LEFT, Role.MADE, Role.BEFORE)
            old = now_ns - packet.time_ns >= self._patience_ns
            full = len(waiting) > MOST or self._bytes > MOST_BYTES
            if not (clear or old or full):
                return
            waiting.popleft()
            self._bytes -= len(data)
            self._write(packet, flow, data)

    def finish(self) -> None:
        """Write all that is left."""
        for packet, flow, data in self._waiting:
            self._write(packet, flow, data)
        self._waiting.clear()

    def count(self, counts: CaptureCounts) -> None:
        """Write how many packets there were, and how many were lost."""
        self.summary.dropped = counts.dropped
        self.summary.flows = self._flows.count
        for tap, taken in enumerate(self._taken):
            # The kernel counts what it dropped for both together.
            dropped = counts.dropped if tap == 0 else 0
            self._files.writer.statistics(tap, self._newest_ns, taken, dropped)

    def _write(self, packet: Packet, flow: Conversation, data: bytes) -> None:
        watched_ms = (self._newest_ns - packet.time_ns) / 1e6
        said = comment(packet, flow, self._interfaces, watched_ms)
        self.summary.commented += bool(said)
        self._files.make_room()
        self._files.writer.packet(
            packet.tap,
            packet.time_ns,
            data,
            packet.length,
            outgoing=packet.outgoing,
            comment=said,
        )


def head(interfaces: tuple[str, str], snaplen: int, about: str) -> Callable[[Out], Writer]:
    """Return what begins a file; ``about`` is a sentence about the service."""
    described = [
        Interface(name, description, RAW, snaplen)
        for name, description in zip(interfaces, _DESCRIPTIONS, strict=True)
    ]
    comment_ = (
        f"{about} A packet's comment says what the service did with it and why, found by comparing "
        "both sides; #N is the Nth packet of this trace. A packet without one passed as it was."
    )
    return lambda out: Writer(out, described, f"nfq-zerortt {__version__}", comment_)


def follow(
    taking: Taking,
    tracer: Tracer,
    files: Files,
    asked_to_end: Callable[[], bool],
    *,
    duration_s: float | None = None,
    count: int | None = None,
) -> Summary:
    """Trace until asked to end, for ``duration_s`` at most and ``count`` packets at most."""
    began = flushed = time.monotonic()
    stopped_at: float | None = None
    while not taking.ended:
        reached_ns = 0
        for seen in taking.take(_TURN_S):
            if count is None or tracer.summary.packets < count:
                tracer.add(seen)
                reached_ns = seen.time_ns
        now = time.monotonic()
        if stopped_at is None:  # by the clock only if nothing waits to be taken: else we lag behind
            tracer.write(reached_ns or time.time_ns())
        if now - flushed > _FLUSH_S:
            flushed = now
            files.flush()
        if stopped_at is None:
            late = duration_s is not None and now - began >= duration_s
            enough = count is not None and tracer.summary.packets >= count
            if late or enough or asked_to_end():
                stopped_at = now
                taking.stop()
        elif now - stopped_at > _END_S:
            break
    tracer.finish()
    tracer.count(taking.counts())
    files.flush()
    return tracer.summary
