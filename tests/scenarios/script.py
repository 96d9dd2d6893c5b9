"""Packet scripts: what arrives (>>) and what the core does about it (<<).

A script is a text file. Its header says in comments what it shows. Then::

    strategy hold                      (may be left out)
    limits syn_retries=2               (may be left out)
    link 9000                          (the MTU towards the server; may be left out)

    >> 0 client SYN C win 64240 <mss 1460 sackOK ts TC/0 ws 7>
    << client SYN,ACK S ack C+1 win 64240 <mss 1440 sackOK ts TS/TC nop ws 7>
    << pass SYN C win 64240 <mss 1460 sackOK ts TC/0 ws 7>

    >> 0.25 tick

After ``>>`` stands the time in seconds, the side that the segment comes from
(``client:5000`` for another port of the client's than 43210), its flags (``-``
for none), its sequence number, ``ack`` with the acknowledgement number,
``len`` with the payload's length, ``win`` with the window field, ``urg`` with
the urgent pointer, and the options. ``tick`` lets the timers run, ``stop``
ends the service.

``icmp unreachable`` or ``icmp too_big`` before a segment makes an ICMP error of
it: what ``server`` says about a segment of the client's, or the other way round.

Numbers are written as a distance from the client's ISN (C), the spoofed one
(S) and the real server's (R); timestamps from the client's clock (TC), the
spoofed (TS) and the real (TR). ``~C`` is a number far away from C (C + 0x50000000),
as a stranger guesses it; a plain number is that number itself. After ``<<``, ``?``
stands before a number that is near no letter.
What comes from the client has numbers of its own, so the runner can check a
script with any ISNs: each runs also where every number wraps around.

The options are ``mss 1460``, ``ws 7``, ``sackOK``, ``ts TC/0`` (TSval/TSecr),
``sack S+1:S+11,S+21:S+31``, ``cookie 0123456789abcdef`` (Fast Open; ``-`` for an empty one),
``nop``, and ``kind N:hex`` for any other: its number
and its data.

After ``<<`` stands ``pass`` (replaced and passed on), ``accept`` (passed
untouched) or ``drop`` with a reason; ``client`` or ``server`` and the segment
that is sent there; or ``log`` with the event and its telling fields. Data is
the pattern that tells its place in the stream, and is checked.

The runner turns what happened into the same text, so a failure is a diff.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from nfq_zerortt.config import Limits
from nfq_zerortt.core.actions import Accept, Actions, Drop, Replace, Report, Send, Side
from nfq_zerortt.core.admission import Policy
from nfq_zerortt.core.engine import Engine
from nfq_zerortt.core.handshake import SPOOFED_SYN_ACK
from nfq_zerortt.core.negotiation import ETHERNET_MTU
from nfq_zerortt.wire import flags as fl
from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.errors import NotTcpError
from nfq_zerortt.wire.icmp import look_quoted
from nfq_zerortt.wire.segment import Segment
from nfq_zerortt.wire.view import look
from tests.icmp import ERRORS, error_quoting, icmp_checksum_is_right

SECRET = bytes(range(32))
START = 1000.0
CLIENT_PORT = 43210
LOGGED = {
    "flow.bypassed": ("reason",),
    "flow.reset": ("reason", "by"),
    "flow.established": ("strategy",),
    "flow.closed": (
        "bytes_to_server",
        "bytes_to_client",
        "retransmissions_suppressed",
        "reason",
    ),
    "packet.malformed": ("reason",),
}
_FLAG = {"SYN": fl.SYN, "ACK": fl.ACK, "FIN": fl.FIN, "RST": fl.RST, "PSH": fl.PSH, "URG": fl.URG}
_FLAG |= {"ECE": fl.ECE, "CWR": fl.CWR, "-": 0}
_SEGMENT = re.compile(
    r"(?P<flags>\S+) (?P<seq>\S+)(?: ack (?P<ack>\S+))?(?: len (?P<length>\d+))?"
    r"(?: win (?P<window>\d+))?(?: urg (?P<urgent>\d+))?(?: <(?P<options>[^>]*)>)?$"
)


@dataclass(frozen=True)
class Numbers:
    """The ISNs and clocks that a script's letters stand for; S and TS come from the core."""

    c: int
    r: int
    tc: int = 5_000_000
    tr: int = 77_000_000


@dataclass
class Run:
    """One run of a script with certain numbers."""

    numbers: Numbers
    ipv6: bool = False
    strategy: str = "hold"
    limits: dict[str, int] = field(default_factory=dict)
    check_payload: bool = True

    def __post_init__(self) -> None:
        self.client = bytes.fromhex("fd" + "00" * 14 + "02") if self.ipv6 else bytes((10, 0, 1, 2))
        self.server = bytes.fromhex("fd" + "11" * 14 + "02") if self.ipv6 else bytes((10, 0, 3, 2))
        self.base = {
            "C": self.numbers.c,
            "R": self.numbers.r,
            "TC": self.numbers.tc,
            "TR": self.numbers.tr,
        }
        self.link_mtu = ETHERNET_MTU
        self.now = START
        self.port = CLIENT_PORT
        self.answered: dict[int, int] = {}
        self.engine: Engine | None = None

    def play(self, text: str) -> str:
        """Run the script and return it with the outcome in place of the expectation."""
        lines: list[str] = []
        for line in text.splitlines():
            words = line.split()
            if not words or line.startswith("#"):
                lines.append(line)
            elif words[0] == "strategy":
                self.strategy = words[1]
                lines.append(line)
            elif words[0] == "link":
                self.link_mtu = int(words[1])
                lines.append(line)
            elif words[0] == "limits":
                self.limits = {k: int(v) for k, v in (word.split("=") for word in words[1:])}
                lines.append(line)
            elif words[0] == ">>":
                if self.engine is None:
                    limits = Limits(**self.limits)
                    self.engine = Engine(self.strategy, limits, SECRET)
                    self.engine.link_mtu = self.link_mtu
                    self.engine.configure(Policy(self.strategy), limits)
                lines.append(line)
                lines += [f"<< {said}" for said in self._step(self.engine, line)]
            elif words[0] != "<<":
                raise ValueError(f"not a line of a script: {line}")
        return "\n".join(lines) + "\n"

    def _step(self, engine: Engine, line: str) -> list[str]:
        _, when, side, *rest = line.split(maxsplit=3)
        side, _, port = side.partition(":")
        self.port = int(port or CLIENT_PORT)
        self.now = START + float(when)
        if side == "tick":
            return self._shown(engine.tick(self.now), None)
        if side == "stop":
            return self._shown(engine.shut_down(self.now), None)
        came_from = Side(side)
        raw = self._packet(came_from, rest[0])
        actions = engine.packet(raw, came_from, self.now)
        verdicts = [a for a in actions if isinstance(a, Accept | Drop | Replace)]
        assert len(verdicts) == 1, f"not one verdict: {actions}"
        return self._shown(list(actions), came_from)

    # --- from text ------------------------------------------------------------------------

    def _packet(self, side: Side, text: str) -> bytes:
        if text.startswith("icmp "):
            _, kind, quoted = text.split(maxsplit=2)
            other = Side.SERVER if side is Side.CLIENT else Side.CLIENT
            return error_quoting(self._packet(other, quoted), kind)
        found = _SEGMENT.match(text)
        if found is None:
            raise ValueError(f"not a segment: {text}")
        from_client = side is Side.CLIENT
        seq = self._number(found["seq"])
        length = int(found["length"] or 0)
        first = self._position(seq, "C" if from_client else "R") + ("SYN" in found["flags"])
        return Segment(
            src=self.client if from_client else self.server,
            dst=self.server if from_client else self.client,
            sport=self.port if from_client else 80,
            dport=80 if from_client else self.port,
            seq=seq,
            ack=self._number(found["ack"]) if found["ack"] else 0,
            flags=sum(_FLAG[name] for name in found["flags"].split(",")),
            window=int(found["window"] or 501),
            urgent=int(found["urgent"] or 0),
            options=self._options(found["options"] or ""),
            payload=pattern(first, length),
        ).emit()

    def _number(self, text: str) -> int:
        letter, _, more = text.partition("+")
        if letter.isdigit():
            return int(letter)
        if letter.startswith("~"):  # a stranger's guess, far away
            return (self.base[self._key(letter[1:])] + 0x5000_0000) & 0xFFFFFFFF
        return (self.base.get(self._key(letter), 0) + int(more or 0)) & 0xFFFFFFFF

    def _options(self, text: str) -> opt.Options:
        options: list[opt.Option] = []
        words = iter(text.split())
        for word in words:
            if word == "mss":
                options.append(opt.mss(int(next(words))))
            elif word == "ws":
                options.append(opt.window_scale(int(next(words))))
            elif word == "sackOK":
                options.append(opt.SACK_PERMITTED_OPTION)
            elif word == "nop":
                options.append(opt.NOP_OPTION)
            elif word == "ts":
                tsval, tsecr = next(words).split("/")
                options.append(opt.timestamps(self._number(tsval), self._number(tsecr)))
            elif word == "sack":
                blocks = [block.split(":") for block in next(words).split(",")]
                options.append(opt.sack(*((self._number(a), self._number(b)) for a, b in blocks)))
            elif word == "cookie":
                options.append((opt.FAST_OPEN, bytes.fromhex(next(words).strip("-"))))
            elif word == "kind":
                kind, _, data = next(words).partition(":")
                options.append((int(kind), bytes.fromhex(data)))
            else:
                raise ValueError(f"not an option: {word}")
        missing = -len(opt.emit(tuple(options))) % 4
        size = sum(1 if kind in (0, 1) else 2 + len(data) for kind, data in options)
        return tuple(options) + (opt.NOP_OPTION,) * ((-size + missing) % 4)

    # --- to text --------------------------------------------------------------------------

    def _shown(self, actions: Actions, side: Side | None) -> list[str]:
        said: list[str] = []
        for action in actions:
            if isinstance(action, Report):
                if action.event == "flow.synack_spoofed":
                    continue
                if action.event in LOGGED:
                    fields = [
                        f"{name}={action.fields[name]}"
                        for name in LOGGED[action.event]
                        if name in action.fields
                    ]
                    said.append(" ".join(["log", action.event, *fields]))
            elif isinstance(action, Send):
                if action.reason == SPOOFED_SYN_ACK:
                    self._note_spoofed(action.data)
                said.append(f"{action.side.value} {self._segment(action.data, action.side)}")
            elif isinstance(action, Replace):
                towards = Side.SERVER if side is Side.CLIENT else Side.CLIENT
                said.append(f"pass {self._segment(action.data, towards)}")
            else:
                said.append(f"{type(action).__name__.lower()} {action.reason}")
        return said

    def _note_spoofed(self, raw: bytes) -> None:
        """Let S and TS stand for the numbers of a connection's first SYN-ACK."""
        view = look(raw)
        self.port = view.dport
        if self.answered.get(self.port) != view.ack:
            self.answered[self.port] = view.ack
            self.base[self._key("S")] = view.seq
            stamps = view.options.timestamps
            if stamps:
                self.base[self._key("TS")] = stamps[0]

    def _segment(self, raw: bytes, towards: Side) -> str:
        try:
            view = look(raw)
        except NotTcpError:
            return self._icmp(raw, towards)
        segment = Segment.from_view(view)
        checked = Segment.parse(segment.emit())
        assert look(checked.emit()).checksum == view.checksum, "TCP checksum is wrong"
        to_client = towards is Side.CLIENT
        self.port = segment.dport if to_client else segment.sport
        server_letter = "S" if to_client else "R"
        clock = "TS" if to_client else "TR"
        seq = self._relative(segment.seq, server_letter if to_client else "C")
        ack_letter = "C" if to_client else server_letter
        parts = [fl.names(segment.flags), seq]
        if segment.flags & fl.ACK:
            parts.append(f"ack {self._relative(segment.ack, ack_letter)}")
        if segment.payload:
            parts.append(f"len {len(segment.payload)}")
            first = self._position(segment.seq, server_letter if to_client else "C")
            first += bool(segment.flags & fl.SYN)
            right = pattern(first, len(segment.payload))
            assert segment.payload == right or not self.check_payload, "payload changed"
        parts.append(f"win {segment.window}")
        if segment.urgent:
            parts.append(f"urg {segment.urgent}")
        sender, echoed = (clock, "TC") if to_client else ("TC", clock)
        options = self._options_text(segment.options, sender, echoed, ack_letter)
        if options:
            parts.append(f"<{options}>")
        return " ".join(parts)

    def _icmp(self, raw: bytes, towards: Side) -> str:
        """Show the numbers that an ICMP error quotes: those that its receiver compares."""
        assert icmp_checksum_is_right(raw), "ICMP checksum is wrong"
        quoted = look_quoted(raw)
        kind = next(name for name, of in ERRORS.items() if of is quoted.kind)
        ack = int.from_bytes(raw[quoted.tcp + 8 : quoted.tcp + 12], "big")
        own, other = ("C", "S") if towards is Side.CLIENT else ("R", "C")
        seq = self._relative(quoted.seq, own)
        return f"icmp {kind} {seq} ack {self._relative(ack, other)}"

    def _options_text(self, options: opt.Options, clock: str, echoed: str, edge: str) -> str:
        words: list[str] = []
        for kind, data in options:
            if kind == opt.NOP:
                words.append("nop")
            elif kind == opt.SACK_PERMITTED:
                words.append("sackOK")
            elif kind == opt.MSS:
                words.append(f"mss {int.from_bytes(data, 'big')}")
            elif kind == opt.WINDOW_SCALE:
                words.append(f"ws {data[0]}")
            elif kind == opt.TIMESTAMPS:
                tsval, tsecr = opt.OptionSet.read(((kind, data),)).timestamps or (0, 0)
                shown = self._relative(tsecr, echoed) if tsecr else "0"
                words.append(f"ts {self._relative(tsval, clock)}/{shown}")
            elif kind == opt.SACK:
                blocks = opt.OptionSet.read(((kind, data),)).sack_blocks
                words.append(
                    "sack "
                    + ",".join(
                        f"{self._relative(a, edge)}:{self._relative(b, edge)}" for a, b in blocks
                    )
                )
            elif kind == opt.FAST_OPEN:
                words.append(f"cookie {data.hex() or '-'}")
            elif kind != opt.END:
                words.append(f"kind {kind}:{data.hex()}")
        return " ".join(words)

    def _key(self, letter: str) -> str:
        """The spoofed numbers are another flow's for another port of the client's."""
        return f"{letter}:{self.port}" if letter in ("S", "TS") else letter

    def _position(self, seq: int, letter: str) -> int:
        """Where in its sender's stream a segment stands."""
        return (seq - self.base.get(self._key(letter), 0)) & 0xFFFFFFFF

    def _relative(self, number: int, letter: str) -> str:
        base = self.base.get(self._key(letter))
        away = None if base is None else (number - base) & 0xFFFFFFFF
        if away is None or away >= 1 << 24:
            guess = None if base is None else (number - base - 0x5000_0000) & 0xFFFFFFFF
            return f"~{letter}" if guess == 0 else f"?{number}"
        return f"{letter}+{away}" if away else letter


def pattern(first: int, length: int) -> bytes:
    """Return payload bytes that tell where in the stream they stand."""
    return bytes(
        (position * 7 + (position >> 8)) & 0xFF for position in range(first, first + length)
    )


def scripts() -> list[Path]:
    """Return all scripts."""
    return sorted(Path(__file__).parent.glob("*.script"))


def filled(text: str) -> str:
    """Return the script with what really happens, and an empty line between its steps."""
    lines: list[str] = []
    for line in Run(Numbers(c=1_000_000, r=3_000_000_000)).play(text).splitlines():
        before = lines[-1] if lines else ""
        if (line.startswith(">>") and before and not before.startswith("#")) or (
            line.startswith("#") and before.startswith((">>", "<<"))
        ):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Print a script with what really happens, or write that into it."""
    write = "--write" in arguments
    for name in arguments:
        if name == "--write":
            continue
        path = Path(name)
        text = filled(path.read_text(encoding="utf-8"))
        if write:
            path.write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)


if __name__ == "__main__":
    # "python -m tests.scenarios.script FILE" prints the script with what really happens, with
    # --write FILE it is written there: the way to make a new one. Read every line before you
    # believe it.
    main(sys.argv[1:])
