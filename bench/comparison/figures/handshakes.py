"""Connections a second without a WAN: each with a request, an answer, and the end by FIN."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.comparison.results import Figure, Repetition
from bench.comparison.stand import Stand
from nfq_zerortt.errors import ZeroRttError

SECTION = "Handshakes"
AT_A_TIME = 64
_TRIAL = 200
_MOST = 2300


def figure(flows: int = 0) -> Figure:
    """Return the figure with so many connections open besides."""
    return Figure(SECTION, f"connections, {AT_A_TIME} at a time", "1/s", 0, flows)


class Handshakes:
    """The measurement, with the program that opens the connections."""

    def __init__(self, program: Path, window_s: float) -> None:
        """``window_s``: about so long it shall take."""
        self._program = program
        self._window_s = window_s

    def measure(self, stands: Iterable[Stand], repetition: Repetition) -> None:
        """Measure each contender once."""
        for stand in stands:
            try:
                self.run(stand, repetition)
            except ZeroRttError as error:
                repetition.failed(error)

    def run(self, stand: Stand, repetition: Repetition, flows: int = 0) -> None:
        """Measure one, with so many others open.

        Raises:
            ZeroRttError: a connection failed.
        """
        trial_s = stand.connections(self._program, _TRIAL, AT_A_TIME)
        number, took_s = _TRIAL, trial_s
        if trial_s < self._window_s:
            number = min(round(_TRIAL / trial_s * self._window_s), _MOST)
            took_s = stand.connections(self._program, number, AT_A_TIME)
        repetition.add(figure(flows), stand.name, number / took_s)
