"""One flow: everything that is known of one client's connection to one server."""

from __future__ import annotations

from nfq_zerortt.core.actions import Report, Side
from nfq_zerortt.core.direction import Direction
from nfq_zerortt.core.endpoints import endpoint_text, server_text
from nfq_zerortt.core.held import Duplicates, Held
from nfq_zerortt.core.negotiation import DEFAULT_WINDOW, Offer
from nfq_zerortt.core.states import ENDED, TRANSLATING, Event, State, after
from nfq_zerortt.wire.flags import ACK
from nfq_zerortt.wire.options import OptionSet
from nfq_zerortt.wire.seqnum import add, distance, within
from nfq_zerortt.wire.view import SegmentView

UNLIMITED = 1 << 16
"""Longer than any packet: none has to be split."""


class Path:
    """One direction of a flow as a packet finds it in the table.

    Attributes:
        fast: a plain segment needs translation and nothing else.
        max_packet: a longer packet must be split for the receiver, bytes with IP header.
    """

    __slots__ = ("direction", "fast", "flow", "max_packet", "side")

    def __init__(self, flow: Flow, side: Side, direction: Direction) -> None:
        self.flow = flow
        self.side = side
        self.direction = direction
        self.fast = False
        self.max_packet = UNLIMITED


class Flow:
    """A connection between a client and a server, found by its 4-tuple.

    Sequence numbers are unsigned 32-bit; times are seconds of the core's clock.

    Attributes:
        number: the flow's id in the log.
        client_key, server_key: the 4-tuple as packets of either side carry it.
        observed: the flow is only looked at; nothing of it is changed.
        isn_client, isn_spoofed, isn_server: initial sequence numbers; the server's is known
            once its SYN-ACK is here.
        tsval_spoofed: the timestamp that the spoofed SYN-ACK carries.
        client_options: what the client offered; ``offer`` is what it was promised.
        syn: the SYN as the server gets it, plain; ``attempts`` counts how often it was sent.
        syn_end: the sequence number behind the SYN and the data that it carried, if it did.
        carried: how many bytes of it the server has taken.
        syn_left_at, syn_sent_at: when it was sent for the first time, and the last time.
        fast_open: what the SYN asked for: none, request, cookie or cookieless.
        ahead: data of the server's that came before its SYN-ACK, in the order of arrival.
        third_ack: the client's first acknowledgement, as it sent it.
        doubtful: there was a segment of the client's that belongs to another connection: perhaps
            the SYN was not its own.
        early_end: the sequence number behind the early data.
        syn_acks: how often the spoofed SYN-ACK was sent.
        quiet_until: until then the server's acknowledgement of early data cannot be here.
        client_fin_end, server_fin_end: the sequence number behind each FIN, in its own space.
        reset_by: which RST ended the flow, if one did.
        ended: its end was reported.
        waiting: the flow needs nothing but translation, and waits to be handed over to the kernel
            (see :mod:`nfq_zerortt.core.handover`).
        handed_over: since when the kernel carries the flow, or None; ``ticket`` names that
            hand-over, ``kept`` says that there will be none any more, ``superseded`` that another
            connection has its 4-tuple now, ``passing`` that it is none of ours and only passes.
        earlier, later: its neighbours on the table's roll (:mod:`nfq_zerortt.core.roll`).
    """

    __slots__ = (
        "ahead",
        "attempts",
        "carried",
        "client",
        "client_fin_end",
        "client_key",
        "client_options",
        "created",
        "deadline",
        "doubtful",
        "duplicates",
        "earlier",
        "early_end",
        "ended",
        "fast_open",
        "from_client",
        "from_server",
        "handed_over",
        "held",
        "held_since",
        "isn_client",
        "isn_server",
        "isn_spoofed",
        "kept",
        "last_seen",
        "later",
        "name",
        "number",
        "observed",
        "offer",
        "passing",
        "quiet_until",
        "reset_by",
        "scheduled",
        "server",
        "server_fin_end",
        "server_key",
        "server_rtt",
        "state",
        "strategy",
        "superseded",
        "syn",
        "syn_acks",
        "syn_end",
        "syn_left_at",
        "syn_sent_at",
        "third_ack",
        "ticket",
        "tsval_spoofed",
        "waiting",
    )

    def __init__(
        self,
        number: int,
        ends: tuple[bytes, bytes],
        *,
        isn_client: int,
        options: OptionSet,
        strategy: str,
        now: float,
    ) -> None:
        """``ends``: the client's and the server's address and port, in network order."""
        self.number = number
        self.client, self.server = client, server = ends
        self.client_key = client[:-2] + server[:-2] + client[-2:] + server[-2:]
        self.server_key = server[:-2] + client[:-2] + server[-2:] + client[-2:]
        self.name = f"{server_text(client)}>{server_text(server)}"
        self.strategy = strategy
        self.state = State.NEW
        self.observed = False
        self.isn_client = isn_client
        self.isn_spoofed = 0
        self.isn_server: int | None = None
        self.tsval_spoofed = 0
        self.client_options = options
        self.offer: Offer | None = None
        self.syn = b""
        self.syn_end = add(isn_client, 1)
        self.carried = 0
        self.attempts = 0
        self.fast_open = "none"
        self.ahead: list[SegmentView] = []
        self.third_ack: SegmentView | None = None
        self.held = Held(add(isn_client, 1))
        self.held_since: float | None = None
        self.duplicates = Duplicates()
        self.syn_acks = 0
        self.doubtful = False
        self.early_end = self.held.start
        self.quiet_until = 0.0
        self.client_fin_end: int | None = None
        self.server_fin_end: int | None = None
        self.reset_by: Event | None = None
        self.ended = False
        self.waiting = False
        self.handed_over: float | None = None
        self.ticket = 0
        self.kept = False
        self.superseded = False
        self.passing = False
        self.created = now
        self.syn_left_at = self.syn_sent_at = now
        self.last_seen = now
        self.server_rtt = 0.0
        self.deadline = now
        self.scheduled: float | None = None
        self.earlier: Flow | None = None
        self.later: Flow | None = None
        to_server, to_client = Direction.pair(self.held.start)
        self.from_client = Path(self, Side.CLIENT, to_server)
        self.from_server = Path(self, Side.SERVER, to_client)

    @classmethod
    def begun(cls, number: int, syn: SegmentView, strategy: str, now: float) -> Flow:
        """Begin a flow with a client's SYN.

        Raises:
            WireError: the SYN's options are malformed.
        """
        return cls(
            number,
            (syn.source, syn.destination),
            isn_client=syn.seq,
            options=syn.options,
            strategy=strategy,
            now=now,
        )

    @classmethod
    def unknown(cls, client_key: bytes, now: float) -> Flow:
        """Stand for a connection of which nothing is known but its 4-tuple."""
        client, server = ends_of(client_key)
        return cls(0, (client, server), isn_client=0, options=OptionSet(), strategy="", now=now)

    def dissolve(self) -> None:
        """Let go of the parts: they point at each other, and would wait for the collector."""
        for path in (self.from_client, self.from_server):
            del path.flow, path.direction.other

    @property
    def to_server(self) -> Direction:
        """The numbers of what the client sends."""
        return self.from_client.direction

    @property
    def to_client(self) -> Direction:
        """The numbers of what the server sends."""
        return self.from_server.direction

    @property
    def client_address(self) -> bytes:
        """The client's address without its port, in network order."""
        return self.client[:-2]

    @property
    def syn_has_data(self) -> bool:
        """Whether the SYN carried data to the server (RFC 7413)."""
        return self.syn_end != self.held.start

    @property
    def syn_data(self) -> int:
        """How many bytes of data the SYN carried."""
        return distance(self.held.start, self.syn_end)

    @property
    def data_earlier(self) -> float | None:
        """How much earlier the client's first data left for the server than it would have, seconds.

        Without us it leaves when the client has the real SYN-ACK and has then taken as long to
        speak as it took here. With Fast Open it left with the SYN: a whole round trip earlier.
        Held, it left with the SYN-ACK: only the client's own time is saved. Data that came later
        than that may have waited for the server's, so nothing is known of it.
        """
        if self.isn_server is None or self.observed or self.held_since is None:
            return None
        if self.carried:
            return self.server_rtt
        return self.held_since - self.syn_left_at

    @property
    def shift(self) -> int:
        """Δ: the real server ISN less the one that the client knows, modulo 2**32."""
        return self.to_server.ack_shift

    @property
    def ipv6(self) -> bool:
        """Whether the flow runs over IPv6."""
        return len(self.client) > 6

    def apply(self, event: Event) -> None:
        """Go to the state that follows ``event``.

        Raises:
            IllegalTransitionError: the event has no place in the flow's state.
        """
        self.state = after(self.state, event)
        self.choose_path()

    def choose_path(self) -> None:
        """Decide whether plain segments need translation only; call after any change."""
        plain = self.state in TRANSLATING and self.state is not State.CLOSING
        self.from_client.fast = plain and not self.quiet_until
        self.from_server.fast = plain and not self.duplicates and not self.quiet_until

    def note_fin(self, side: Side, end_seq: int) -> None:
        """Take in a FIN that ``side`` sent; ``end_seq`` is the number behind it."""
        if side is Side.CLIENT:
            first = self.client_fin_end is None
            self.client_fin_end = end_seq
            self.to_server.note_fin(end_seq)
        else:
            first = self.server_fin_end is None
            self.server_fin_end = end_seq
            self.to_client.note_fin(end_seq)
        if first and self.state not in ENDED:
            self.apply(Event.CLIENT_FIN if side is Side.CLIENT else Event.SERVER_FIN)

    def note_scales(self, granted: OptionSet) -> None:
        """Take in what each side means by its window field.

        A side scales it if it has named a scale and has been named one (RFC 7323, section 2.2);
        the client has been named ours.
        """
        asked = self.client_options.window_scale
        told = self.offer.window_scale if self.offer is not None else granted.window_scale
        if asked is not None and told is not None:
            self.to_server.scale = asked
            self.to_client.scale = granted.window_scale or 0

    def in_window(self, side: Side, number: int, slack: int = 0) -> bool:
        """Tell whether the receiver of what ``side`` sends would look at that number.

        From what it has acknowledged to the end of its window (RFC 9293, section 3.10.7.4;
        a FIN comes one behind). A stranger has to guess that; and a flow that a lucky guess
        marks as ended is still translated while it lives. ``slack``: bytes beyond the window
        that count, too.
        """
        receiver = self.to_client if side is Side.CLIENT else self.to_server
        window = receiver.window << receiver.scale
        return within(number, receiver.last_ack, add(receiver.last_ack, window + 1 + slack))

    def believes_fin(self, side: Side, view: SegmentView) -> bool:
        """Tell whether a FIN of ``side`` fits to what both sides have said.

        Its end, and what it acknowledges: a stranger has to guess both.
        """
        sent = self.to_server if side is Side.CLIENT else self.to_client
        return (
            bool(view.flags & ACK)
            and sent.fits(add(view.ack, sent.ack_shift))
            and self.in_window(side, view.end_seq, DEFAULT_WINDOW)
        )

    def is_exact(self, side: Side, number: int) -> bool:
        """Tell whether a RST with that number surely ends the connection (RFC 5961, section 3.2).

        It is what the receiver waits for, or what it will wait for once it has all that was sent;
        or the number of the FIN: a host that has not seen the ACK of it resets there, and Linux
        accepts that. Elsewhere in the window a RST is challenged, and the real sender resets
        again, exactly.
        """
        sent = self.to_server if side is Side.CLIENT else self.to_client
        fin_end = self.client_fin_end if side is Side.CLIENT else self.server_fin_end
        exact = number in (sent.other.last_ack, sent.next_seq)
        return exact or (fin_end is not None and number == add(fin_end, -1))

    def fins_acknowledged(self) -> bool:
        """Tell whether each side has acknowledged the other's FIN.

        Exactly: nobody acknowledges more than that, unless it was a stranger's.
        """
        if self.client_fin_end is None or self.server_fin_end is None:
            return False
        by_server = self.to_client.last_ack == self.client_fin_end
        return by_server and self.to_server.last_ack == self.server_fin_end

    def __repr__(self) -> str:
        return f"<Flow {self.number} {self.name} {self.state.name}>"


def report(flow: Flow, event: str, **fields: object) -> Report:
    """Return a report about a flow."""
    return Report(event, flow.number, flow.name, fields)


def flow_name(view: SegmentView) -> str:
    """Name the 4-tuple of a packet: ``10.0.1.2:43210>10.0.3.2:80``."""
    return f"{endpoint_text(view.src, view.sport)}>{endpoint_text(view.dst, view.dport)}"


def ends_of(client_key: bytes) -> tuple[bytes, bytes]:
    """Return the client's and the server's address and port."""
    address = (len(client_key) - 4) // 2
    return client_key[:address] + client_key[-4:-2], client_key[address:-4] + client_key[-2:]


def reverse_key(flow_key: bytes) -> bytes:
    """Return the 4-tuple that the answers have."""
    address = (len(flow_key) - 4) // 2
    return flow_key[address : 2 * address] + flow_key[:address] + flow_key[-2:] + flow_key[-4:-2]
