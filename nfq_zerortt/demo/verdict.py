"""What the figures say, in words: what is gained, what is not, and why."""

from __future__ import annotations

from nfq_zerortt.demo.result import (
    FASTOPEN,
    FIGURES,
    LAST_BYTE_BACK,
    Connection,
    FastOpen,
    Result,
    Run,
)
from nfq_zerortt.demo.work import BULK, FIRST, SMALL, THINKING

_LEAST_MS = 3.0
_LEAST_SHARE = 0.05
_NO_DECIMALS_MS = 99.95  # from here on three digits are enough
_FIRST_BYTE_BACK = FIGURES[3]

ONE_CLOCK = (
    "connect() is timed by the client application's own clock. All else is measured from packets "
    "that tcpdump captured on the hosts (kernel timestamps), counted from the SYN's leaving the "
    "client; the four hosts are namespaces of one kernel and share one clock."
)


def is_gain(gain_ms: float, rtt_ms: float) -> bool:
    """Tell whether it is more than the noise of such a measurement."""
    return gain_ms > max(_LEAST_MS, _LEAST_SHARE * rtt_ms)


def gain_text(gain_ms: float | None, rtt_ms: float) -> str:
    """Return a gain in milliseconds and, where there is one, in round trips; 14 characters."""
    if gain_ms is None:
        return "not known"
    shown = f"{abs(gain_ms):.1f}" if abs(gain_ms) < _NO_DECIMALS_MS else f"{abs(gain_ms):.0f}"
    if is_gain(gain_ms, rtt_ms):
        return f"{shown}, {gain_ms / rtt_ms:.2f} RTT" if rtt_ms else shown
    if is_gain(-gain_ms, rtt_ms):
        return f"{shown} later"
    return f"none ({gain_ms:+.1f})"


def sentences(result: Result) -> list[str]:
    """Return what the medians say: a sentence for each strategy first."""
    found = [_gained(result, run) for run in result.through_service]
    found.append(_contact(result))
    found += [text for text in (_busy(result), _bigger(result)) if text is not None]
    twice = ", ".join(
        f"{sum(c.sent_twice for c in run.connections)} {run.way}" for run in result.runs
    )
    found.append(
        "The price: while data is held, the client may send it again, since it took the spoofed "
        f"SYN-ACK's round trip for the path's; segments sent twice: {twice}."
    )
    return found


def refused(result: Result) -> str | None:
    """Return one line when the server took data in no SYN at all; None otherwise."""
    if result.fastopen.data_taken(*result.works)[0] or not any(
        result.fastopen.of(work) for work in result.works
    ):
        return None
    value = result.fast_open_sysctl
    why = "no tcp_fastopen" if value is None else f"tcp_fastopen {value:#x}"
    return f"fastopen is as hold here: the server took no data in a SYN ({why})"


def _gained(result: Result, run: Run) -> str:
    work = result.work(SMALL)
    names: tuple[list[str], list[str]] = ([], [])
    for figure in FIGURES:
        gain = result.gain_ms(run, work, figure)
        if gain is not None:
            names[0 if is_gain(gain, result.rtt_ms) else 1].append(figure.name)
    gained, not_gained = (_listed(part) for part in names)
    if not gained:
        return f"{run.way}: nothing is gained that stands out of the noise of the measurement."
    text = f"{run.way}: gained, about one round trip each: {gained}"
    if run.way == FASTOPEN and not not_gained:
        return (
            f"{text}: the answer comes one round trip earlier, end to end, from the second "
            "contact on; not gained: what needs more of the request than its first segment, and "
            "anything with a server whose host does not accept Fast Open; and a server may get a "
            "SYN's data twice (RFC 7413, section 2)."
        )
    if not not_gained:
        return f"{text}."
    if run.way == FASTOPEN and refused(result) is None:
        return f"{text}; not out of the noise of the measurement: {not_gained}."
    return (
        f"{text}; not gained: {not_gained}, for clientnic must hold the early data until the "
        "server's real SYN-ACK has come; so the application starts one round trip earlier, and "
        "only what it has to do of its own meanwhile is time saved."
    )


def _contact(result: Result) -> str:
    """Return what the first contact of the run with Fast Open was, as captured at the server."""
    begin = "fastopen's first contact"
    made = first_contact(result.fastopen)
    if made is None or made.times is None:
        return f"{begin} did not succeed."
    back = f"first byte back after {made.times.first_byte_back_ms:.1f} ms"
    hold = result.hold.median(result.work(FIRST), _FIRST_BYTE_BACK)
    if hold is not None:
        back += f" (hold's: {hold:.1f} ms)"
    text = f"{begin}: {back}"
    found = made.fast_open
    if found is None:
        return f"{text}; the SYN had neither data nor the Fast Open option."
    return f"{text}; {_outcome(found)}; then {_afterwards(result)}."


def _outcome(found: FastOpen) -> str:
    asked = "carried a cookie" if found.sent_cookie else "asked for a cookie"
    data = ""
    if found.data_bytes:
        data = f", its {found.data_bytes} B of data were " + ("taken" if found.taken else "ignored")
    gave = f"gave one of {found.given_cookie} bytes" if found.given_cookie else "gave none"
    return f"its SYN {asked}{data}, the server {gave}"


def _afterwards(result: Result) -> str:
    taken, count = result.fastopen.data_taken(*(result.work(key) for key in (SMALL, BULK)))
    return f"{taken} of {count} SYNs carried data that the server took"


def _busy(result: Result) -> str | None:
    """Return what is gained by a client that has work of its own to do before it sends."""
    work = result.work(THINKING)
    direct = result.direct.median(work, _FIRST_BYTE_BACK)
    if direct is None or not work.think_ms:
        return None
    found = []
    for run in result.through_service:
        gain = result.gain_ms(run, work, _FIRST_BYTE_BACK)
        if gain is None:
            continue
        earlier = is_gain(gain, result.rtt_ms)
        shown = f"{gain:.1f} ms earlier ({direct - gain:.1f} ms)" if earlier else "no earlier"
        found.append(f"{shown} through {run.way}")
    return (
        f"A client that is busy for {work.think_ms:g} ms between connect() and its first send has "
        f"its answer {_listed(found)} than direct ({direct:.1f} ms): its own work overlaps with "
        "the handshake."
    )


def _bigger(result: Result) -> str | None:
    work = result.work(BULK)
    direct = result.direct.median(work, LAST_BYTE_BACK)
    if direct is None:
        return None
    found = []
    for run in result.through_service:
        gain = result.gain_ms(run, work, LAST_BYTE_BACK)
        if gain is None:
            continue
        how = "as long as direct"
        if is_gain(gain, result.rtt_ms):
            how = f"{gain:.0f} ms less than direct"
        elif is_gain(-gain, result.rtt_ms):
            how = f"{-gain:.0f} ms longer than direct"
        found.append(f"{run.way} {how}")
    return f"The bigger transfer ({work.title}) takes: {'; '.join(found)}."


def first_contact(run: Run) -> Connection | None:
    """Return the run's first contact with the server, if it succeeded."""
    return next((c for c in run.connections if c.work == FIRST and c.error is None), None)


def _listed(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
