"""The states of a flow and every way from one to another.

This file is the whole state machine. The transitions are data, so the
diagram in docs/architecture is drawn from them (scripts/state_diagram.py), and
an event that has no place in a state raises :class:`IllegalTransitionError`:
that is a bug of ours, whatever arrived on the wire.

A flow is *half open* until the handshakes on both sides are complete. What is
special here: the client's handshake (with us) and the server's (also with us)
are two, and either may finish first.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where a flow stands."""

    __hash__ = object.__hash__  # Enum has one of its own, in Python: often too slow

    NEW = "the client's SYN has just been read"
    FORWARDED = "the SYN went on untouched; the server's answer is awaited (observe)"
    SPOOFED = "the client was answered by us; neither its ACK nor the server's SYN-ACK is here"
    HOLDING = "the client believes it is connected; what it sends is held"
    ANSWERED = "the server's SYN-ACK is here, the client's ACK is not"
    ABORTED = "the client gave up before the server answered"
    ESTABLISHED = "both handshakes are complete"
    CLIENT_CLOSED = "the client has sent FIN"
    SERVER_CLOSED = "the server has sent FIN"
    CLOSING = "both have sent FIN, not both FINs are acknowledged"
    TIME_WAIT = "both FINs are acknowledged; repeated ones are still translated"
    RESET = "a RST ended the flow; stragglers are still translated"
    CLOSED = "the flow is gone"


class Event(enum.Enum):
    """What happens to a flow."""

    __hash__ = object.__hash__  # Enum has one of its own, in Python: often too slow

    SYN_FORWARDED = "SYN passed on untouched"
    SYN_ACK_SPOOFED = "SYN-ACK spoofed"
    CLIENT_ACK = "client's ACK"
    SERVER_SYN_ACK = "server's SYN-ACK"
    CLIENT_FIN = "client's FIN"
    SERVER_FIN = "server's FIN"
    FINS_ACKED = "both FINs acknowledged"
    CLIENT_RST = "client's RST"
    SERVER_RST = "server's RST"
    UNREACHABLE = "ICMP error for the SYN"
    NEW_SYN = "new SYN on the 4-tuple"
    TIMEOUT = "timeout"


class IllegalTransitionError(RuntimeError):
    """An event was applied to a state in which it has no meaning."""


_S, _E = State, Event

_RESETS = {_E.CLIENT_RST: _S.RESET, _E.SERVER_RST: _S.RESET, _E.TIMEOUT: _S.CLOSED}

TRANSITIONS: dict[State, dict[Event, State]] = {
    _S.NEW: {
        _E.SYN_FORWARDED: _S.FORWARDED,
        _E.SYN_ACK_SPOOFED: _S.SPOOFED,
    },
    _S.FORWARDED: {
        _E.SERVER_SYN_ACK: _S.ANSWERED,
        _E.CLIENT_RST: _S.CLOSED,
        _E.SERVER_RST: _S.CLOSED,
        _E.NEW_SYN: _S.CLOSED,
        _E.TIMEOUT: _S.CLOSED,
    },
    _S.SPOOFED: {
        _E.CLIENT_ACK: _S.HOLDING,
        _E.SERVER_SYN_ACK: _S.ANSWERED,
        _E.CLIENT_RST: _S.ABORTED,
        _E.SERVER_RST: _S.CLOSED,
        _E.UNREACHABLE: _S.CLOSED,
        _E.TIMEOUT: _S.CLOSED,
    },
    _S.HOLDING: {
        _E.SERVER_SYN_ACK: _S.ESTABLISHED,
        _E.CLIENT_RST: _S.ABORTED,
        _E.SERVER_RST: _S.CLOSED,
        _E.UNREACHABLE: _S.CLOSED,
        _E.TIMEOUT: _S.CLOSED,
    },
    _S.ANSWERED: {
        _E.CLIENT_ACK: _S.ESTABLISHED,
        _E.CLIENT_RST: _S.RESET,
        _E.SERVER_RST: _S.RESET,
        _E.NEW_SYN: _S.CLOSED,
        _E.TIMEOUT: _S.CLOSED,
    },
    _S.ABORTED: {
        _E.SERVER_SYN_ACK: _S.CLOSED,
        _E.SERVER_RST: _S.CLOSED,
        _E.UNREACHABLE: _S.CLOSED,
        _E.NEW_SYN: _S.CLOSED,
        _E.TIMEOUT: _S.CLOSED,
    },
    _S.ESTABLISHED: {
        _E.CLIENT_FIN: _S.CLIENT_CLOSED,
        _E.SERVER_FIN: _S.SERVER_CLOSED,
        **_RESETS,
    },
    _S.CLIENT_CLOSED: {_E.SERVER_FIN: _S.CLOSING, **_RESETS},
    _S.SERVER_CLOSED: {_E.CLIENT_FIN: _S.CLOSING, **_RESETS},
    _S.CLOSING: {_E.FINS_ACKED: _S.TIME_WAIT, **_RESETS},
    _S.TIME_WAIT: {_E.NEW_SYN: _S.CLOSED, _E.TIMEOUT: _S.CLOSED},
    _S.RESET: {_E.NEW_SYN: _S.CLOSED, _E.TIMEOUT: _S.CLOSED},
    _S.CLOSED: {},
}

HALF_OPEN = frozenset({_S.NEW, _S.FORWARDED, _S.SPOOFED, _S.HOLDING, _S.ANSWERED, _S.ABORTED})
"""The handshake is not complete: these are bounded apart from the whole table."""

TRANSLATING = frozenset(
    {
        _S.ESTABLISHED,
        _S.CLIENT_CLOSED,
        _S.SERVER_CLOSED,
        _S.CLOSING,
        _S.TIME_WAIT,
        _S.RESET,
    }
)
"""Segments of both sides are translated and passed on."""

ENDED = frozenset({_S.TIME_WAIT, _S.RESET, _S.CLOSED})
ENDED_NAMES = frozenset(state.name for state in ENDED)
"""The connection is over: reported as closed, and a new SYN begins a new flow."""


def after(state: State, event: Event) -> State:
    """Return the state that follows.

    Raises:
        IllegalTransitionError: ``event`` has no place in ``state``.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransitionError(f"{event.name} in {state.name}") from None
