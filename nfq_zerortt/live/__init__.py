"""The live view, ``nfq-zerortt top``: what a running service tells of itself, on a whole screen."""

from __future__ import annotations

from pathlib import Path

from nfq_zerortt.live.feed import Feed
from nfq_zerortt.live.rates import Rates
from nfq_zerortt.live.screen import Screen, page
from nfq_zerortt.live.terminal import Terminal
from nfq_zerortt.live.view import ONE, View

_PATIENCE_S = 60.0  # it is woken when there is something to do


def watch(path: Path) -> None:
    """Show the service behind the socket at ``path`` until somebody wants no more.

    Raises:
        ZeroRttError: no service answers.
    """
    terminal = Terminal()
    feed = Feed(path, terminal.wake)
    view, rates, screen = View(), Rates(), Screen()
    with terminal:
        feed.start()
        while not (view.quit or terminal.ended):
            shown = feed.latest
            rates.take(shown.at, shown.stats)
            view.take(shown.flows)
            terminal.show(screen.lines(view, shown, rates, terminal.size))
            for key in terminal.keys(_PATIENCE_S):
                looking = view.mode == ONE
                view.press(key, page(view, terminal.size))
                feed.paused = view.paused
                if looking != (view.mode == ONE):
                    flow = view.looked_at if view.mode == ONE else None
                    feed.look_into(None if flow is None else flow["flow_id"])
