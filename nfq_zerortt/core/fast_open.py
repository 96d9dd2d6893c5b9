"""What was learned for TCP Fast Open (RFC 7413): cookies, who accepts, who speaks early.

ClientNIC performs Fast Open for clients that know nothing of it, so the cookie
cache of RFC 7413, section 4.1.3, is here. Beside the cookies it remembers of
each server

- whether its clients speak early: only then is there data to carry in a SYN;
- whether it accepted such data the last time, and until when it is not asked
  again if it did not;
- whether SYNs with the option or with data vanished on the way (section 4.1.3.1).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MOST = 16_384
COOKIE_KEEP_S = 7 * 86_400.0
"""A server may change its key at any time (section 4.1.2); a cookie refused is replaced anyway."""
_REFUSED_S = 600.0
_OVERFLOW_S = 1.0
_TROUBLE_S = 60.0
_TROUBLES = 2
"""So many SYNs in a row: one alone may have been lost by chance."""
_LONGEST_S = 3600.0
_MOST_COUNTED = 16
_SWAPS = 3
"""So often in a row: several servers behind one address, with keys of their own."""
_SWALLOWED = 3
"""So many servers in trouble, and none that is not: it is the path to all of them."""
_LATE_S = 60.0
SHORTEST_COOKIE, LONGEST_COOKIE = 4, 16


@dataclass(slots=True)
class Habits:
    """What is known of one server, by address and port. Times are of the core's clock.

    Attributes:
        gap: seconds from the spoofed SYN-ACK to the client's first data, the smaller of the last
            two times, so that a single slow client costs nothing; None if no client was seen to
            speak before the server had answered. ``latest_gap``: the last time.
        late_until: until then no SYN is kept back: no client had spoken by then.
        asked: a request for a cookie was answered without one.
        accepts: data in a SYN was accepted, or a cookie was given.
        refusals, troubles: how often in a row data was refused, or the SYN vanished.
        ask_after: nothing of Fast Open is sent before that.
        swaps: how often in a row data was refused and another cookie given.
        asked_at: when a request for a cookie was answered without one.
        changed: when something was learned last; ``judged``: when a SYN with the option was
            answered last.
    """

    gap: float | None = None
    latest_gap: float | None = None
    late_until: float = 0.0
    asked: bool = False
    accepts: bool = False
    refusals: int = 0
    troubles: int = 0
    ask_after: float = 0.0
    changed: float = 0.0
    judged: float = 0.0
    swaps: int = 0
    asked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a SYN with a Fast Open option.

    Attributes:
        data: it carried data; ``accepted``: the server has taken it.
        cookie: the server's SYN-ACK carried this one.
        lost: the SYN was repeated plain before the answer came.
        left_at: when the SYN left.
        with_cookie: it carried one.
    """

    data: bool
    accepted: bool
    cookie: bytes
    lost: bool
    left_at: float = float("inf")
    with_cookie: bool = True


class FastOpenMemory:
    """Cookies by (client, server), habits by server; bounded, the oldest forgotten first."""

    def __init__(self) -> None:
        self.cookies: OrderedDict[tuple[bytes, bytes], tuple[bytes, float]] = OrderedDict()
        self.servers: OrderedDict[bytes, Habits] = OrderedDict()
        self._swallowed = 0
        self._pause_until = 0.0

    def clear(self) -> None:
        """Forget everything."""
        self.cookies.clear()
        self.servers.clear()
        self._swallowed = 0
        self._pause_until = 0.0

    # --- what is known --------------------------------------------------------------------

    def cookie(self, client: bytes, server: bytes, now: float) -> bytes:
        """Return the cookie that ``server`` (address and port) gave to ``client`` (address).

        Empty if there is none, or it is too old.
        """
        known = self.cookies.get((client, server))
        if known is None:
            return b""
        cookie, since = known
        if now - since > COOKIE_KEEP_S:
            del self.cookies[client, server]
            return b""
        return cookie

    def habits(self, server: bytes) -> Habits:
        """Return what is known of a server: nothing, if it was never met."""
        return self.servers.get(server) or Habits()

    def may_be_asked(self, server: bytes, now: float) -> bool:
        """Tell whether a SYN to the server may carry the option."""
        return now >= max(self.habits(server).ask_after, self._pause_until)

    # --- what happens ---------------------------------------------------------------------

    def _learn(self, server: bytes, now: float) -> Habits:
        habits = self.servers.get(server)
        if habits is None:
            habits = self.servers[server] = Habits()
            if len(self.servers) > MOST:
                self.servers.popitem(last=False)
        self.servers.move_to_end(server)
        habits.changed = now
        return habits

    def note_early(self, server: bytes, gap: float, now: float) -> None:
        """The client spoke before the server answered, ``gap`` seconds after our SYN-ACK."""
        habits = self._learn(server, now)
        habits.gap = gap if habits.latest_gap is None else min(gap, habits.latest_gap)
        habits.latest_gap = gap
        habits.late_until = 0.0

    def note_late(self, server: bytes, now: float) -> None:
        """The client had nothing to say before the server answered."""
        habits = self._learn(server, now)
        if habits.latest_gap is not None:
            habits.latest_gap = None  # one alone: a health check, or a browser that prepares
            return
        habits.gap = None
        habits.late_until = now + _LATE_S

    def note_cookie(self, client: bytes, server: bytes, cookie: bytes, now: float) -> None:
        """Keep a cookie that the server gave; one of a length that cannot be is no cookie."""
        if not SHORTEST_COOKIE <= len(cookie) <= LONGEST_COOKIE:
            return
        self.cookies[client, server] = (cookie, now)
        self.cookies.move_to_end((client, server))
        if len(self.cookies) > MOST:
            self.cookies.popitem(last=False)

    def note_outcome(self, client: bytes, server: bytes, outcome: Outcome, now: float) -> None:
        """Take in how the server answered a SYN with the option."""
        habits = self._learn(server, now)
        if not outcome.lost:
            self._swallowed = 0  # the option gets through
        if outcome.cookie:
            self.note_cookie(client, server, outcome.cookie, now)
        # Of connections that begin together, the first one's answer speaks for all.
        again = outcome.left_at < habits.judged
        habits.judged = now
        if outcome.accepted:
            habits.swaps = 0
        elif outcome.data and outcome.with_cookie and outcome.cookie and not again:
            habits.swaps = min(habits.swaps + 1, _MOST_COUNTED)
        if outcome.accepted or (outcome.cookie and habits.swaps < _SWAPS):
            # A cookie in answer to data: ours was none, or bad. The next one will do.
            habits.accepts = True
            habits.refusals = habits.troubles = 0
            habits.ask_after = 0.0
            self._swallowed = 0
        elif again:
            pass
        elif outcome.lost:
            habits.troubles = min(habits.troubles + 1, _MOST_COUNTED)
            if habits.troubles >= _TROUBLES:
                first = _TROUBLE_S if habits.accepts else _LONGEST_S
                habits.ask_after = now + min(first * 2 ** (habits.troubles - _TROUBLES), _LONGEST_S)
                self._note_trouble(habits, now)
        elif outcome.data:
            # A server that has accepted before may have no room now, and the cost is small.
            first = _OVERFLOW_S if habits.accepts and not outcome.cookie else _REFUSED_S
            habits.ask_after = now + min(first * 2**habits.refusals, _LONGEST_S)
            habits.refusals = min(habits.refusals + 1, _MOST_COUNTED)
            habits.troubles = 0
            if habits.refusals > 8:  # over four minutes: it accepts no more
                habits.accepts = False
            if not habits.accepts:
                self.cookies.pop((client, server), None)
        else:
            habits.asked = True
            habits.asked_at = now
            habits.troubles = 0

    def note_silence(self, server: bytes, now: float) -> None:
        """A SYN with the option, and the plain ones after it, got no answer (section 4.1.3.1)."""
        habits = self._learn(server, now)
        habits.troubles = min(max(habits.troubles + 1, _TROUBLES), _MOST_COUNTED)
        first = _TROUBLE_S if habits.accepts else _LONGEST_S
        habits.ask_after = now + min(first * 2 ** (habits.troubles - _TROUBLES), _LONGEST_S)

    def _note_trouble(self, habits: Habits, now: float) -> None:
        """Ask nobody for an hour if it looks as if something near us swallows the option."""
        if habits.accepts or habits.troubles > _TROUBLES:
            return
        self._swallowed += 1
        if self._swallowed >= _SWALLOWED:
            self._swallowed = 0
            self._pause_until = now + _LONGEST_S
