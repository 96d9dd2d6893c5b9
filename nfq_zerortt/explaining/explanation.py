"""What is known of one flow, whatever it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

from nfq_zerortt.observe.hops import Link
from nfq_zerortt.observe.records import Endpoint, PacketRecord, Tap

HERE = "clientnic"


@dataclass(frozen=True, slots=True)
class Line:
    """Something that happened, ``time_ms`` after the first packet; None: of the whole flow."""

    time_ms: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Stream:
    """One direction at one place, for the time-sequence plot: ``way`` is "came" or "left"."""

    name: str
    way: str
    tap: Tap
    source: Endpoint
    destination: Endpoint


@dataclass(slots=True)
class Explanation:
    """One flow: what to say of it, and what its diagrams are drawn from.

    ``origin`` says what it is known from, ``left_out`` what could not be shown.
    """

    name: str
    origin: str
    client: Endpoint
    server: Endpoint
    records: list[PacketRecord]
    path: tuple[Link, ...]
    streams: tuple[Stream, ...]
    lines: list[Line] = field(default_factory=list)
    comments: list[tuple[float, str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def path_of(names: tuple[str, ...]) -> tuple[Link, ...]:
    """Return the links as they were captured: on both sides of the host, or on one."""
    client, server = Tap("client", ""), Tap("server", "")
    if len(names) == 1:
        here = Tap("here", names[0])
        return (Link(client, server, here),)
    near, far = (Tap(HERE, name) for name in names)
    return Link(client, near, near), Link(far, server, far)


def taps_of(names: tuple[str, ...]) -> tuple[Tap, ...]:
    """Return where packets were captured, the clients' side first."""
    return tuple(Tap(HERE if len(names) > 1 else "here", name) for name in names)


def streams_of(names: tuple[str, ...], client: Endpoint, server: Endpoint) -> tuple[Stream, ...]:
    """Return what is to be plotted: each direction where it came and where it left."""
    taps = taps_of(names)
    near, far = taps[0], taps[-1]
    up, down = "to the server", "to the client"
    if len(taps) == 1:
        return (
            Stream(up, "seen", near, client, server),
            Stream(down, "seen", near, server, client),
        )
    return (
        Stream(up, "came", near, client, server),
        Stream(up, "left", far, client, server),
        Stream(down, "came", far, server, client),
        Stream(down, "left", near, server, client),
    )
