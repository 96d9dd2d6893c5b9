"""The ladder diagram of one TCP connection: who sent what to whom, and when.

``draw`` makes lines of text, ``layout`` the rows that text and pictures are made from. A row is
one packet on its way over as many links as it crossed without waiting. Where a packet waits, it
goes on in a later row; where a host in between makes one, or keeps one for good, the row begins
or ends in the middle, and a note says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from nfq_zerortt.observe.hops import UNKNOWN, Base, Hop, Passage, Path, gained_data, trace
from nfq_zerortt.observe.records import Endpoint, PacketRecord
from nfq_zerortt.wire import flags as tcp

MERGE_S = 0.002
"""A packet that a host passes on within this time goes on in the same row."""

MIN_WIDTH = 80

_TIME_WIDTH = 8
_PAUSE_SHARE = 0.08  # of the whole: a longer pause between two rows is shown as one


class Note(Enum):
    """What a host in between did with a packet."""

    SPOOFED = "spoofed here"
    MADE = "sent by this host"
    STOPPED = "ends here"
    HELD = "held"
    RELEASED = "released"
    INTO_SYN = "goes into the SYN"
    WITH_DATA = "sent with the data"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Row:
    """One packet over one or several links; ``time_ms`` is when it was first seen.

    ``begin`` and ``end`` are what is to be said of the hosts where it begins and ends (None:
    nothing); ``waited_ms`` is how long a packet that is held stays there.
    """

    time_ms: float
    hops: tuple[Hop, ...]
    begin: Note | None
    end: Note | None
    waited_ms: float = 0.0

    @property
    def from_host(self) -> int:
        """The number of the host where it begins, from 0 at the client."""
        return self.hops[0].from_host

    @property
    def to_host(self) -> int:
        """The number of the host where it ends."""
        return self.hops[-1].to_host

    def notes(self) -> list[tuple[int, str]]:
        """Return the texts, each with the link next to the row in which it finds room."""
        found = []
        onward = 1 if self.hops[0].to_server else -1
        if self.begin is not None:
            found.append((self.hops[0].link - onward, self.begin.value))
        if self.end is not None:
            text = self.end.value
            if self.end is Note.HELD:
                text = f"held {self.waited_ms:.1f} ms"
            found.append((self.hops[-1].link + onward, text))
        return found


@dataclass(frozen=True, slots=True)
class Wait:
    """A packet that a host keeps: it came in one row and leaves in a later one."""

    host: int
    first_row: int
    last_row: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The diagram as rows. ``pauses`` are the rows that follow after a long time of nothing."""

    hosts: tuple[str, ...]
    rows: tuple[Row, ...]
    waits: tuple[Wait, ...]
    pauses: frozenset[int]
    bases: tuple[Base, ...]

    def legend(self) -> list[str]:
        """Return what the letters stand for, and by how much the server's numbers are shifted.

        One string a statement, not wrapped.
        """
        named = {"C": "the client's ISN", "S": "the server's ISN"}
        lines = [
            f"{base.letter} = {base.isn:10}  {named.get(base.letter, 'fabricated on the way')}"
            for base in self.bases
            if base.letter != UNKNOWN
        ]
        isns = {base.letter: base.isn for base in self.bases}
        if "F" in isns and "S" in isns:
            delta = (isns["S"] - isns["F"]) % (1 << 32)
            lines.append(
                f"S - F = {delta} (mod 2^32): the translation adds it to ACK on the way "
                "to the server, and takes it off SEQ on the way to the client."
            )
        return lines + self._fast_open_legend()

    def _fast_open_legend(self) -> list[str]:
        said = {
            f"in the {flag_names(hop.flags)} "
            + (f"a cookie of {hop.fast_open} bytes" if hop.fast_open else "a request for a cookie")
            for row in self.rows
            for hop in row.hops
            if hop.fast_open is not None
        }
        if not said:
            return []
        return [
            f"TFO = TCP Fast Open option (RFC 7413), {', '.join(sorted(said))}; data in a SYN "
            "begins at C+1."
        ]

    def until_answer(self) -> Layout:
        """Return the part up to the first row in which data from the server is at the client."""
        count = 1 + next(
            (
                number
                for number, row in enumerate(self.rows)
                if row.to_host == 0 and row.hops[-1].payload_bytes
            ),
            len(self.rows) - 1,
        )
        return self.part(0, count)

    def part(self, begin: int, end: int) -> Layout:
        """Return the rows from ``begin`` up to ``end``."""
        return replace(
            self,
            rows=self.rows[begin:end],
            waits=tuple(
                Wait(wait.host, wait.first_row - begin, wait.last_row - begin)
                for wait in self.waits
                if wait.first_row >= begin and wait.last_row < end
            ),
            pauses=frozenset(number - begin for number in self.pauses if begin < number < end),
        )


def layout(
    records: Iterable[PacketRecord],
    path: Path,
    client: Endpoint,
    server: Endpoint,
    *,
    wan_host: str | None = None,
    merge_s: float = MERGE_S,
) -> Layout:
    """Arrange one connection's packets in rows.

    ``wan_host`` is the one whose delay and loss are the network's own: a wait there needs no
    note. Records of other
    connections are left out. Times count from the first packet.
    """
    hosts = (*(link.left.host for link in path), path[-1].right.host)
    passage = trace(records, path, client, server)
    quiet = hosts.index(wan_host) if wan_host in hosts else None
    chains = _chains(passage, merge_s)
    row_of = {index: number for number, chain in enumerate(chains) for index in chain}
    came_from = {left: came for came, departures in passage.onward.items() for left in departures}
    rows: list[Row] = []
    waits: list[Wait] = []
    start_s = passage.hops[0].start_s if passage.hops else 0.0
    for number, chain in enumerate(chains):
        hops = tuple(passage.hops[index] for index in chain)
        origin, last = came_from.get(chain[0]), passage.onward.get(chain[-1])
        inner_begin = hops[0].from_host not in (0, len(path))
        inner_end = hops[-1].to_host not in (0, len(path))
        begin = end = None
        waited_s = 0.0
        if inner_begin and origin is None:
            begin = Note.SPOOFED if _is_syn_ack(hops[0]) else Note.MADE
        elif origin is not None:
            waits.append(Wait(hops[0].from_host, row_of[origin], number))
            if gained_data(passage.hops[origin], hops[0]):
                begin = Note.WITH_DATA
            elif hops[0].from_host != quiet and _wait_s(passage, origin, chain[0]) > merge_s:
                begin = Note.RELEASED
        if hops[-1].received_s is None:
            end = Note.LOST
        elif last is not None:
            waited_s = _wait_s(passage, chain[-1], last[0])
            kept_back = gained_data(hops[-1], passage.hops[last[0]])
            if hops[-1].to_host != quiet and (waited_s > merge_s or kept_back):
                end = Note.HELD
        elif chain[-1] in passage.into_syn:
            end = Note.INTO_SYN
        elif inner_end:
            end = Note.LOST if hops[-1].to_host == quiet else Note.STOPPED
        time_ms = (hops[0].start_s - start_s) * 1000
        rows.append(Row(time_ms, hops, begin, end, waited_s * 1000))
    return Layout(hosts, tuple(rows), tuple(waits), _pauses(rows), passage.bases)


def draw(
    records: Iterable[PacketRecord],
    path: Path,
    client: Endpoint,
    server: Endpoint,
    *,
    width: int = MIN_WIDTH,
    wan_host: str | None = None,
    merge_s: float = MERGE_S,
    ascii_only: bool = False,
) -> list[str]:
    """Draw one connection as lines of at most ``width`` (80 or more) characters."""
    found = layout(records, path, client, server, wan_host=wan_host, merge_s=merge_s)
    return render(found, width=width, ascii_only=ascii_only)


def render(diagram: Layout, *, width: int = MIN_WIDTH, ascii_only: bool = False) -> list[str]:
    """Draw a layout as lines of at most ``width`` (80 or more) characters."""
    return _Canvas(diagram, max(width, MIN_WIDTH), _ASCII if ascii_only else _UNICODE).lines()


def label(hop: Hop, room: int) -> str:
    """Describe a packet as fully as ``room`` characters allow; '' when not even its flags fit."""
    names = flag_names(hop.flags)
    start = hop.seq_base.show(hop.seq)
    if hop.flags & tcp.SYN:
        return _syn_label(hop, f"{names} {start}", room)
    end = hop.seq_base.bound(hop.seq + hop.payload_bytes)
    data = f"{start}:{end}" if hop.payload_bytes else start
    ack = f" ack {hop.ack_base.show(hop.ack)}" if hop.ack_base is not None else ""
    for text in (
        f"{names} {data}{ack}",
        f"{names} {start}{ack}",
        f"{names} {start}",
        names,
    ):
        if len(text) <= room:
            return text
    return ""


def _syn_label(hop: Hop, begin: str, room: int) -> str:
    """Describe a SYN or SYN-ACK: its data, and its Fast Open option, are worth more than most."""
    ack = f" ack {hop.ack_base.show(hop.ack)}" if hop.ack_base is not None else ""
    data = f" {hop.payload_bytes} B" if hop.payload_bytes else ""
    option = short = ""
    if hop.fast_open is not None:
        short = " TFO"
        option = " TFO cookie" if hop.fast_open else " TFO request"
    for text in (
        f"{begin}{ack}{data}{option}",
        f"{begin}{ack}{data}{short}",
        f"{begin}{ack}{data}",
        begin,
        flag_names(hop.flags),
    ):
        if len(text) <= room:
            return text
    return ""


def flag_names(flags: int) -> str:
    """Return the flags, without the ACK that almost every packet has and ``ack N`` shows."""
    if flags & tcp.SYN:
        return "SYN-ACK" if flags & tcp.ACK else "SYN"
    others = tcp.names(flags & ~tcp.ACK)
    return "ACK" if others == "-" else others


def _is_syn_ack(hop: Hop) -> bool:
    return hop.flags & (tcp.SYN | tcp.ACK) == tcp.SYN | tcp.ACK


def _wait_s(passage: Passage, came: int, left: int) -> float:
    return passage.hops[left].start_s - passage.hops[came].end_s


def _chains(passage: Passage, merge_s: float) -> list[list[int]]:
    """Join hops that follow each other at once; the chains are in order of their begin."""
    chains: list[list[int]] = []
    joined: set[int] = set()
    for index in range(len(passage.hops)):
        if index in joined:
            continue
        chain = [index]
        while True:
            onward = passage.onward.get(chain[-1], ())
            if len(onward) != 1 or _wait_s(passage, chain[-1], onward[0]) > merge_s:
                break
            if gained_data(passage.hops[chain[-1]], passage.hops[onward[0]]):
                break
            chain.append(onward[0])
            joined.add(onward[0])
        chains.append(chain)
    return chains


def _pauses(rows: Sequence[Row]) -> frozenset[int]:
    if not rows:
        return frozenset()
    least_ms = _PAUSE_SHARE * (rows[-1].time_ms - rows[0].time_ms)
    return frozenset(
        number
        for number in range(1, len(rows))
        if rows[number].time_ms - rows[number - 1].time_ms > least_ms
    )


@dataclass(frozen=True, slots=True)
class _Strokes:
    line: str
    made: str
    right: str
    left: str
    life: str
    pause: str
    holding: str
    lost: str


_UNICODE = _Strokes("─", "╌", "▶", "◀", "│", "┊", "║", "✗")
_ASCII = _Strokes("-", "=", ">", "<", "|", ":", "#", "x")


class _Canvas:
    """Text, one line a row."""

    def __init__(self, diagram: Layout, width: int, strokes: _Strokes) -> None:
        self._diagram = diagram
        self._strokes = strokes
        self._width = width
        gaps = len(diagram.hosts) - 1
        span = width - 1 - _TIME_WIDTH
        self._columns = [_TIME_WIDTH + round(span * host / gaps) for host in range(gaps + 1)]

    def lines(self) -> list[str]:
        lines = [self._header()]
        for number, row in enumerate(self._diagram.rows):
            if number in self._diagram.pauses:
                lines.append(self._life(number - 1, number, self._strokes.pause))
            lines.append(self._row(number, row))
        return [line.rstrip() for line in lines]

    def _header(self) -> str:
        cells = [" "] * self._width
        self._put(cells, 0, "     ms")
        last = len(self._columns) - 1
        for host, (name, column) in enumerate(zip(self._diagram.hosts, self._columns, strict=True)):
            start = column - len(name) // 2
            start = column if host == 0 else column - len(name) + 1 if host == last else start
            self._put(cells, start, name)
        return "".join(cells)

    def _life(self, before: int, after: int, stroke: str) -> str:
        cells = [" "] * self._width
        self._put_lifelines(cells, before, after, stroke)
        return "".join(cells)

    def _put_lifelines(self, cells: list[str], before: int, after: int, stroke: str) -> None:
        """Draw them as they are after row ``before`` and until row ``after``."""
        for host, column in enumerate(self._columns):
            holding = any(
                wait.host == host
                and wait.first_row <= before
                and wait.last_row >= after
                and self._diagram.rows[wait.first_row].end is Note.HELD
                for wait in self._diagram.waits
            )
            cells[column] = self._strokes.holding if holding else stroke

    def _row(self, number: int, row: Row) -> str:
        cells = [" "] * self._width
        self._put(cells, 0, f"{row.time_ms:7.2f}")
        self._put_lifelines(cells, number, number, self._strokes.life)
        stroke = self._strokes.made if row.begin in (Note.SPOOFED, Note.MADE) else None
        for place, hop in enumerate(row.hops):
            self._arrow(cells, hop, stroke, head=place == len(row.hops) - 1)
        for link, text in row.notes():
            if 0 <= link < len(self._columns) - 1:
                self._note(cells, link, text)
        return "".join(cells)

    def _arrow(self, cells: list[str], hop: Hop, stroke: str | None, *, head: bool) -> None:
        strokes = self._strokes
        first, last = self._columns[hop.link] + 1, self._columns[hop.link + 1] - 1
        for column in range(first, last + 1):
            cells[column] = stroke or strokes.line
        if hop.received_s is None:
            cells[last if hop.to_server else first] = strokes.lost
        elif head:
            cells[last if hop.to_server else first] = (
                strokes.right if hop.to_server else strokes.left
            )
        inner = last - first  # all but the head
        text = label(hop, inner - 1)
        padded = f" {text} "
        text = padded if len(padded) <= inner - 1 else text
        begin = first + (0 if hop.to_server else 1)
        self._put(cells, begin + (inner - len(text)) // 2, text)

    def _note(self, cells: list[str], link: int, text: str) -> None:
        """Write beside the row's end (or begin), where the packet does not go."""
        first, last = self._columns[link] + 1, self._columns[link + 1] - 1
        if any(cell != " " for cell in cells[first : last + 1]):
            return
        self._put(cells, first + 1, text[: last - first - 1])

    def _put(self, cells: list[str], start: int, text: str) -> None:
        cells[start : start + len(text)] = text
