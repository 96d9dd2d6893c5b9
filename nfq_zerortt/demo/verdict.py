"""What the figures say, in words: what is gained, what is not, and why."""

from __future__ import annotations

from nfq_zerortt.demo.result import FIGURES, LAST_BYTE_BACK, Figure, Result
from nfq_zerortt.demo.work import BULK, SMALL, THINKING, Work

_LEAST_MS = 3.0
_LEAST_SHARE = 0.05

ONE_CLOCK = (
    "connect() is timed by the client application's own clock. All else is measured from packets "
    "that tcpdump captured on the hosts (kernel timestamps), counted from the SYN's leaving the "
    "client; the four hosts are namespaces of one kernel and share one clock."
)


def is_gain(gain_ms: float, rtt_ms: float) -> bool:
    """Tell whether it is more than the noise of such a measurement."""
    return gain_ms > max(_LEAST_MS, _LEAST_SHARE * rtt_ms)


def gain_text(gain_ms: float | None, rtt_ms: float) -> str:
    """Return a gain in a few words: in milliseconds and, where there is one, in round trips."""
    if gain_ms is None:
        return "not known"
    if is_gain(gain_ms, rtt_ms):
        return f"{gain_ms:.1f} ms = {gain_ms / rtt_ms:.2f} RTT" if rtt_ms else f"{gain_ms:.1f} ms"
    if is_gain(-gain_ms, rtt_ms):
        return f"none, {-gain_ms:.1f} ms later"
    return f"none ({gain_ms:+.1f} ms)"


def sentences(result: Result) -> list[str]:
    """Return what the medians say; the first sentence is about the four figures."""
    small, thinking, bulk = (result.work(key) for key in (SMALL, THINKING, BULK))
    found = [_gained(result, small)]
    median = _medians(result, thinking, FIGURES[3])
    if median is not None and thinking.think_ms:
        direct, hold = median
        busy = f"A client that is busy for {thinking.think_ms:g} ms between connect() and its first"
        if is_gain(direct - hold, result.rtt_ms):
            found.append(
                f"{busy} send has its answer {direct - hold:.1f} ms earlier ({hold:.1f} instead of "
                f"{direct:.1f} ms): its own work overlaps with the handshake."
            )
        else:
            found.append(f"{busy} send has its answer no earlier.")
    median = _medians(result, bulk, LAST_BYTE_BACK)
    if median is not None:
        direct, hold = median
        how = "as long as direct"
        if is_gain(direct - hold, result.rtt_ms):
            how = f"{direct - hold:.0f} ms less than direct"
        elif is_gain(hold - direct, result.rtt_ms):
            how = f"{hold - direct:.0f} ms longer than direct"
        found.append(f"The bigger transfer ({bulk.title}) takes {how}.")
    twice = [sum(c.sent_twice for c in run.connections) for run in result.runs]
    found.append(
        "The price: while data is held, the client may send it again, since it took the spoofed "
        f"SYN-ACK's round trip for the path's; segments sent twice: {twice[0]} direct, "
        f"{twice[1]} through the service."
    )
    return found


def _gained(result: Result, work: Work) -> str:
    names: tuple[list[str], list[str]] = ([], [])
    for figure in FIGURES:
        gain = result.gain_ms(work, figure)
        if gain is not None:
            names[0 if is_gain(gain, result.rtt_ms) else 1].append(figure.name)
    gained, not_gained = (_listed(part) for part in names)
    if not gained:
        return "Nothing is gained that stands out of the noise of the measurement."
    text = f"Gained, about one round trip each: {gained}."
    if not_gained:
        text = (
            f"{text[:-1]}; not gained: {not_gained}, for clientnic must hold the early data until "
            "the server's real SYN-ACK has come; so the application starts one round trip "
            "earlier, and only what it has to do of its own meanwhile is time saved."
        )
    return text


def _listed(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def _medians(result: Result, work: Work, figure: Figure) -> tuple[float, float] | None:
    direct, hold = result.direct.median(work, figure), result.hold.median(work, figure)
    return None if direct is None or hold is None else (direct, hold)
