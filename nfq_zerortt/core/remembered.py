"""What was learned of servers as plain records: to be shown, and to be kept across restarts.

A record is about one of four things, named by its key ``about``: the ``server``
as its last SYN-ACK showed it, its habits with ``fast_open``, a ``cookie`` that
it gave to a client, or a ``refusal``. Times are given as how long ago they were,
or how long something still lasts, so records mean the same in another run,
whose clock begins anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from nfq_zerortt.core import fast_open, learned, refusals
from nfq_zerortt.core.endpoints import address_text, read_address, read_server, server_text
from nfq_zerortt.core.fast_open import Habits
from nfq_zerortt.core.learned import Memory, Server
from nfq_zerortt.core.refusals import Refusal
from nfq_zerortt.wire import options as opt

Record = dict[str, Any]

OPTION_NAMES = {
    opt.WINDOW_SCALE: "window_scale",
    opt.SACK_PERMITTED: "sack_permitted",
    opt.TIMESTAMPS: "timestamps",
}
_OPTION_KINDS = {name: kind for kind, name in OPTION_NAMES.items()}

_FOR_EVER = 1e12

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


def records(memory: Memory, now: float) -> Iterator[Record]:
    """Give a record of everything that is remembered, of each kind the oldest first.

    The memory may change while this runs: what is forgotten when its turn comes is left out.
    """
    for server in list(memory.servers):
        met = memory.recall(server, now)
        if met is not None:
            yield _server(server, met, now)
    for server in list(memory.fast_open.servers):
        habits = memory.fast_open.servers.get(server)
        if habits is not None:
            yield _habits(server, habits, now)
    for client, server in list(memory.fast_open.cookies):
        cookie = memory.fast_open.cookie(client, server, now)
        if cookie:
            yield _cookie(client, server, *memory.fast_open.cookies[client, server], now)
    for server in list(memory.refusals.known):
        refusal = memory.refusals.known.get(server)
        if refusal is not None and now < refusal.until + refusal.wait:
            yield _refusal(server, refusal, now)


def counts(memory: Memory) -> dict[str, int]:
    """Return how many servers, habits, cookies and refusals are remembered."""
    return {
        "servers": len(memory.servers),
        "habits": len(memory.fast_open.servers),
        "cookies": len(memory.fast_open.cookies),
        "refusals": len(memory.refusals),
    }


def fingerprint(memory: Memory) -> Hashable:
    """Return a value that is another one when something was learned or forgotten since.

    Whatever is learned goes to the end, so lengths and ends tell.
    """
    habits = _last(memory.fast_open.servers)
    return (
        (len(memory.servers), _last(memory.servers)),
        (len(memory.fast_open.servers), habits and (habits[0], habits[1].changed)),
        (len(memory.fast_open.cookies), _last(memory.fast_open.cookies)),
        (len(memory.refusals), _last(memory.refusals.known)),
    )


def _last(items: OrderedDict[_Key, _Value]) -> tuple[_Key, _Value] | None:
    key = next(reversed(items), None)
    return None if key is None else (key, items[key])


# --- to records ---------------------------------------------------------------------------


def _server(server: bytes, met: Server, now: float) -> Record:
    return {
        "about": "server",
        "server": server_text(server),
        "mss": met.mss,
        "window": met.window,
        "window_scale": met.window_scale,
        "denied": {OPTION_NAMES[kind]: _s(now - since) for kind, since in met.denied.items()},
        "rtt_ms": round(met.rtt * 1000, 3),
        "age_s": _s(now - met.learned_at),
    }


def _habits(server: bytes, habits: Habits, now: float) -> Record:
    return {
        "about": "fast_open",
        "server": server_text(server),
        "gap_ms": None if habits.gap is None else round(habits.gap * 1000, 3),
        "late_for_s": _s(habits.late_until - now),
        "asked": habits.asked,
        "accepts": habits.accepts,
        "refusals": habits.refusals,
        "troubles": habits.troubles,
        "not_for_s": _s(habits.ask_after - now),
        "age_s": _s(now - habits.changed),
    }


def _cookie(client: bytes, server: bytes, cookie: bytes, since: float, now: float) -> Record:
    return {
        "about": "cookie",
        "server": server_text(server),
        "client": address_text(client),
        "cookie": cookie.hex(),
        "age_s": _s(now - since),
    }


def _refusal(server: bytes, refusal: Refusal, now: float) -> Record:
    """Make a record; when it is over it still counts: one more, and the wait is doubled."""
    return {
        "about": "refusal",
        "server": server_text(server),
        "reason": refusal.reason,
        "wait_s": refusal.wait,
        "for_s": _s(refusal.until - now),
        "over_for_s": _s(now - refusal.until),
    }


def _s(seconds: float) -> float:
    return round(max(seconds, 0.0), 3)


# --- from records -------------------------------------------------------------------------


def restore(memory: Memory, kept: Iterable[object], elapsed: float, now: float) -> None:
    """Put records into an empty memory; they were made ``elapsed`` seconds ago.

    Raises:
        ValueError: a record is damaged, or there are too many; then nothing was put anywhere.
    """
    restored = Memory()
    readers: dict[str, Callable[[Memory, _Reader], None]] = {
        "server": _read_server,
        "fast_open": _read_habits,
        "cookie": _read_cookie,
        "refusal": _read_refusal,
    }
    for number, record in enumerate(kept, start=1):
        try:
            if not isinstance(record, Mapping):
                raise ValueError("it is no object")
            reader = _Reader(record, elapsed, now)
            about = reader.value("about", str)
            if about not in readers:
                raise ValueError(f"it is about {about!r}")
            readers[about](restored, reader)
        except ValueError as error:
            raise ValueError(f"record {number}: {error}") from None
    for found, most in (
        (restored.servers, learned.MOST),
        (restored.fast_open.servers, fast_open.MOST),
        (restored.fast_open.cookies, fast_open.MOST),
        (restored.refusals.known, refusals.MOST),
    ):
        if len(found) > most:
            raise ValueError(f"{len(found)} records of a kind, at most {most} are kept")
    memory.servers.update(restored.servers)
    memory.fast_open.servers.update(restored.fast_open.servers)
    memory.fast_open.cookies.update(restored.fast_open.cookies)
    memory.refusals.known.update(restored.refusals.known)


def _read_server(memory: Memory, record: _Reader) -> None:
    denied = record.value("denied", dict)
    memory.servers[record.server()] = Server(
        mss=record.number("mss", 65535),
        window=record.number("window", 65535),
        window_scale=record.optional("window_scale", lambda name: record.number(name, 14)),
        denied={
            kind: _Reader(denied, record.elapsed, record.now).since(name)
            for name, kind in _OPTION_KINDS.items()
            if name in denied
        },
        rtt=record.duration("rtt_ms") / 1000,
        learned_at=record.since("age_s"),
    )


def _read_habits(memory: Memory, record: _Reader) -> None:
    gap = record.optional("gap_ms", record.duration)
    memory.fast_open.servers[record.server()] = Habits(
        gap=None if gap is None else gap / 1000,
        late_until=record.until("late_for_s"),
        asked=record.value("asked", bool),
        accepts=record.value("accepts", bool),
        refusals=record.number("refusals", 1000),
        troubles=record.number("troubles", 1000),
        ask_after=record.until("not_for_s"),
        changed=record.since("age_s"),
    )


def _read_cookie(memory: Memory, record: _Reader) -> None:
    cookie = bytes.fromhex(record.value("cookie", str))
    if not fast_open.SHORTEST_COOKIE <= len(cookie) <= fast_open.LONGEST_COOKIE:
        raise ValueError(f"cookie: {len(cookie)} bytes are no cookie")
    client = read_address(record.value("client", str))
    memory.fast_open.cookies[client, record.server()] = (cookie, record.since("age_s"))


def _read_refusal(memory: Memory, record: _Reader) -> None:
    memory.refusals.known[record.server()] = Refusal(
        reason=record.value("reason", str),
        wait=record.duration("wait_s"),
        until=record.until("for_s") - record.duration("over_for_s"),
    )


class _Reader:
    """Takes values out of a record, each checked, and makes the times those of this run."""

    def __init__(self, record: Mapping[str, Any], elapsed: float, now: float) -> None:
        self.elapsed = elapsed
        self.now = now
        self._record = record

    def value(self, name: str, kind: type[_Value]) -> _Value:
        """Return a value of exactly that type."""
        value = self._record.get(name)
        if type(value) is not kind:
            raise ValueError(f"{name}: {value!r} is no {kind.__name__}")
        return value

    def optional(self, name: str, read: Callable[[str], _Value]) -> _Value | None:
        """Return None where it is null, otherwise what ``read`` makes of it."""
        return None if self._record.get(name, 0) is None else read(name)

    def number(self, name: str, most: int) -> int:
        """Return a whole number from 0 to ``most``."""
        value = self.value(name, int)
        if not 0 <= value <= most:
            raise ValueError(f"{name}: {value} is not from 0 to {most}")
        return value

    def duration(self, name: str) -> float:
        """Return a duration, in the unit of its name."""
        value: Any = self._record.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < _FOR_EVER:
            raise ValueError(f"{name}: {value!r} is no duration")
        return float(value)

    def since(self, name: str) -> float:
        """Return the point in time that was so long ago then."""
        return self.now - self.elapsed - self.duration(name)

    def until(self, name: str) -> float:
        """Return the point in time that was so far ahead then."""
        return self.now - self.elapsed + self.duration(name)

    def server(self) -> bytes:
        """Return the address and port that the record is about."""
        return read_server(self.value("server", str))


# --- for people ---------------------------------------------------------------------------


def by_server(kept: Iterable[Mapping[str, Any]]) -> list[Record]:
    """Put what is known of each server into one object, in the order of the addresses."""
    found: dict[str, Record] = {}
    for record in kept:
        name = record["server"]
        one = found.setdefault(
            name,
            {
                "server": name,
                "speaks_early": None,
                "gap_ms": None,
                "fast_open": None,
                "cookies": [],
                "left_alone": None,
                "answered": None,
            },
        )
        about = record["about"]
        rest = {key: value for key, value in record.items() if key not in ("about", "server")}
        if about == "cookie":
            one["cookies"].append(rest)
        elif about == "refusal":
            if rest["for_s"]:
                one["left_alone"] = {"reason": rest["reason"], "for_s": rest["for_s"]}
        elif about == "fast_open":
            one["gap_ms"] = rest.pop("gap_ms")
            one["speaks_early"] = one["gap_ms"] is not None
            one["fast_open"] = rest
        else:
            one["answered"] = rest
    return sorted(found.values(), key=lambda one: _order(one["server"]))


def _order(server: str) -> tuple[int, bytes]:
    known_by = read_server(server)
    return len(known_by), known_by
