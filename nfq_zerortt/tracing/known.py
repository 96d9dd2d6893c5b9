"""What is known of a flow: its ends, the packets that explain others, and by what it is shifted."""

from __future__ import annotations

from collections import deque

from nfq_zerortt.observe.records import Endpoint
from nfq_zerortt.tracing.numbers import Space
from nfq_zerortt.tracing.packets import Packet
from nfq_zerortt.tracing.words import endpoint_name

CLIENT_SIDE, SERVER_SIDE = 0, 1
RECENT = 64
"""So many packets of a kind are kept for later ones to be compared with."""


class Known:
    """One flow, as far as its packets have shown it.

    Attributes:
        number: counts the capture's flows from 1.
        first_seq: of its first packet, absolute; None for an ICMP error.
        client, server: the endpoints on the clients' and on the servers' side.
        syn, last_syn: the client's first SYN and its latest, ``syns_left`` those that left for the
            server.
        spoofed: the SYN-ACK that was made for the client; ``answered`` the server's own,
            ``last_answer`` the latest of these.
        refusal, unreachable: the server's RST for the SYN, and the ICMP error about it.
        given_up: the client's latest RST.
        first_onward: what went to the server first after it had answered.
        recent: the client's latest data and FINs: where they begin and end, counted from its ISN.
        delta: what is added to the server's numbers on the clients' side, modulo 2**32, to get
            those on its own; None: not known. ``tau`` likewise for its timestamps.
        ours: how the client's numbers are counted; None if nothing is known of them.
    """

    def __init__(self, client: Endpoint, server: Endpoint) -> None:
        self.client = client
        self.server = server
        self.number = 0
        self.first_seq: int | None = None
        self.syn: Packet | None = None
        self.last_syn: Packet | None = None
        self.syns_left: list[Packet] = []
        self.spoofed: Packet | None = None
        self.answered: Packet | None = None
        self.last_answer: Packet | None = None
        self.refusal: Packet | None = None
        self.unreachable: Packet | None = None
        self.given_up: Packet | None = None
        self.first_onward: Packet | None = None
        self.recent: deque[tuple[int, int, Packet]] = deque(maxlen=RECENT)
        self.delta: int | None = None
        self.tau: int | None = None
        self.ours: Space | None = None

    @property
    def whole(self) -> bool:
        """Whether the capture has the flow from its SYN on."""
        return self.syn is not None

    @property
    def name(self) -> str:
        """The flow as the log writes it."""
        return f"{endpoint_name(self.client)}>{endpoint_name(self.server)}"

    @property
    def translated(self) -> bool:
        """Whether the client was answered by the service; None of it is if it passes untouched."""
        return self.spoofed is not None or bool(self.delta)

    @property
    def isn_client(self) -> int | None:
        """What the client's numbers are counted from; None if nothing is known of them."""
        return None if self.ours is None else self.ours.isn

    def shifts(self) -> str:
        """Return Δ and τ in words."""
        said = f"Δ = {self.delta}"
        if self.tau is not None:
            said += f", τ = {self.tau} for timestamps"
        return said
