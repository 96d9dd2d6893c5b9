"""What one looks at, and what each key does with that. Nothing here knows how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from nfq_zerortt.core.states import ENDED_NAMES
from nfq_zerortt.live.flow import FlowRecord

FLOWS, ONE, HELP = "flows", "one", "help"
"""What is on the screen: all flows, one of them, what the keys do."""


@dataclass(frozen=True, slots=True)
class Order:
    """A way to sort flows: by a value, the highest first; flows without one come last."""

    name: str
    value: Callable[[FlowRecord], float | str | None]


ORDERS = (
    Order("newest", lambda flow: float(flow["flow_id"])),
    Order("bytes", lambda flow: float(flow["bytes_to_server"] + flow["bytes_to_client"])),
    Order("RTT", lambda flow: flow["server_rtt_ms"]),
    Order("data saved", lambda flow: flow["data_earlier_ms"]),
    Order("state", lambda flow: str(flow["state"])),
    Order("server", lambda flow: str(flow["server"])),
    Order("quiet", lambda flow: float(flow["idle_s"])),
)


class View:
    """The state of the view.

    Attributes:
        mode: FLOWS, ONE or HELP.
        order: an index in :data:`ORDERS`; ``reverse``: the other way round.
        words: what a flow must contain to be shown, each of them somewhere.
        typing: the words are being typed.
        ended: flows that are over are shown, too.
        paused: what is shown stays as it is.
        quit: enough.
        looked_at: the flow that is looked into, or marked.
    """

    def __init__(self) -> None:
        self.mode = FLOWS
        self.order = 0
        self.reverse = False
        self.words = ""
        self.typing = False
        self.ended = True
        self.paused = False
        self.quit = False
        self.looked_at: FlowRecord | None = None
        self.top = 0
        self._flows: list[FlowRecord] = []
        self._taken: Sequence[FlowRecord] | None = None
        self._chosen: tuple[object, ...] = ()
        self._marked = 0

    # --- the flows ------------------------------------------------------------------------

    def take(self, flows: Sequence[FlowRecord]) -> None:
        """Take in what flows there are now. The mark stays with its flow.

        Nothing is done if they are the same, and are to be shown as before: of a full table that
        would take half a second, for every key.
        """
        chosen = (self.words, self.ended, self.order, self.reverse)
        if flows is self._taken and chosen == self._chosen:
            return
        self._taken, self._chosen = flows, chosen
        words = self.words.lower().split()
        value = ORDERS[self.order].value
        sorted_ones: list[tuple[float | str, int, FlowRecord]] = []
        others = []
        for flow in flows:
            if (self.ended or flow["state"] not in ENDED_NAMES) and _has(flow, words):
                rank = value(flow)
                if rank is None:
                    others.append(flow)
                else:
                    sorted_ones.append((rank, flow["flow_id"], flow))
        sorted_ones.sort(key=itemgetter(0, 1), reverse=not self.reverse)
        self._flows = [flow for _, _, flow in sorted_ones] + others
        self._find_again(flows)

    def _find_again(self, flows: Sequence[FlowRecord]) -> None:
        if self.looked_at is None:
            return
        number = self.looked_at["flow_id"]
        if self.mode == ONE:
            self.looked_at = next((f for f in flows if f["flow_id"] == number), self.looked_at)
        for index, flow in enumerate(self._flows):
            if flow["flow_id"] == number:
                self._marked = index
                return

    def page(self, lines: int) -> tuple[list[FlowRecord], int]:
        """Return the flows that fit in so many lines, and which of them is marked."""
        self._marked = min(self._marked, max(len(self._flows) - 1, 0))
        self.top = min(self.top, self._marked)
        self.top = max(self.top, self._marked - lines + 1)
        return self._flows[self.top : self.top + lines], self._marked - self.top

    def __len__(self) -> int:
        """Return how many flows are shown, on this page and others."""
        return len(self._flows)

    # --- keys -----------------------------------------------------------------------------

    def press(self, key: str, page: int) -> None:
        """Do what a key means; a page has so many lines."""
        if key == "end of input":
            self.quit = True
        elif self.typing:
            self._type(key)
        elif self.mode == FLOWS:
            self._press_in_list(key, page)
        else:
            self._press_in_text(key, page)

    def _type(self, key: str) -> None:
        if key == "enter":
            self.typing = False
        elif key == "escape":
            self.typing, self.words = False, ""
        elif key == "backspace":
            self.words = self.words[:-1]
        elif len(key) == 1:
            self.words += key

    def _press_in_list(self, key: str, page: int) -> None:
        if key == "q":
            self.quit = True
        elif key == "s":
            self.order = (self.order + 1) % len(ORDERS)
        elif key == "r":
            self.reverse = not self.reverse
        elif key == "e":
            self.ended = not self.ended
        elif key == "/":
            self.typing = True
        elif key == "escape":
            self.words = ""
        elif key in ("p", " "):
            self.paused = not self.paused
        elif key in ("?", "h"):
            self.mode, self.top = HELP, 0
        elif key == "enter" and self._flows:
            self.looked_at = self._flows[min(self._marked, len(self._flows) - 1)]
            self.mode, self.top = ONE, 0
        else:
            self._move(key, page)

    def _move(self, key: str, page: int) -> None:
        last = len(self._flows) - 1
        wanted = {
            "up": self._marked - 1,
            "k": self._marked - 1,
            "down": self._marked + 1,
            "j": self._marked + 1,
            "page up": self._marked - page,
            "page down": self._marked + page,
            "home": 0,
            "g": 0,
            "end": last,
            "G": last,
        }.get(key)
        if wanted is not None and self._flows:
            self._marked = min(max(wanted, 0), last)
            # At the top one wants to see what is new there; elsewhere, to stay with a flow.
            self.looked_at = self._flows[self._marked] if self._marked else None

    def _press_in_text(self, key: str, page: int) -> None:
        if key in ("q", "escape", "enter", "backspace"):
            self.mode, self.top = FLOWS, 0
        elif key in ("p", " "):
            self.paused = not self.paused
        else:
            self.top += {
                "up": -1,
                "k": -1,
                "down": 1,
                "j": 1,
                "page up": -page,
                "page down": page,
                "home": -self.top,
                "g": -self.top,
                "end": 1 << 20,
                "G": 1 << 20,
            }.get(key, 0)
            self.top = max(self.top, 0)


def _has(flow: FlowRecord, words: Sequence[str]) -> bool:
    if not words:
        return True
    text = " ".join(
        (flow["flow"], flow["state"], flow["strategy"], flow["data_path"], flow["fast_open"])
    ).lower()
    return all(word in text for word in words)
