"""What a comparison says: whether through us is as good as direct, and what applications see."""

from __future__ import annotations

from collections import Counter

from bench.faults.laboratory import DIRECT, THROUGH, Comparison, Tally
from bench.faults.rows import Special
from bench.faults.work import NO_END, OK, OTHER_DATA

WALL_TIME_ROW, WALL_TIME_SHARE = "loss 1 %", 1.10
"""The row whose time is judged, and by how much it may be above direct's."""
HANG_SHARE, HANG_SHARE_DRAWN, HANG_S = 1.10, 2.0, 0.5
"""Waiting so many times as long as direct's longest, and so many seconds more, is a hang. Where
the faults are drawn, the longest of all is a matter of chance."""


def failings(comparison: Comparison) -> list[str]:
    """Return in what through us is worse than direct; empty when in nothing."""
    row, direct, through = comparison.row, comparison.ways[DIRECT], comparison.ways[THROUGH]
    found = [f"the service: {line}" for line in comparison.wrong]
    number = len(direct.results)
    if len(through.results) != number:
        found.append(f"{len(through.results)} connections seen, {number} direct")
    if through.complete < direct.complete:
        found.append(f"{through.complete} complete, {direct.complete} direct")
    if row.should_complete and through.served < direct.served:
        found.append(f"the server found {through.served} complete, {direct.served} direct")
    for bad in (OTHER_DATA, NO_END):
        if through.outcomes[bad]:
            found.append(f"{through.outcomes[bad]} times {bad}")
    if not row.should_complete and through.outcomes[OK] > direct.outcomes[OK]:
        found.append(f"{through.outcomes[OK]} seem complete, {direct.outcomes[OK]} direct")
    share = HANG_SHARE_DRAWN if row.is_drawn else HANG_SHARE
    longest = direct.seconds(100) * share + HANG_S
    if through.seconds(100) > longest:
        found.append(f"longest {through.seconds(100):.1f} s, {direct.seconds(100):.1f} s direct")
    if row.title == WALL_TIME_ROW and through.took_s > WALL_TIME_SHARE * direct.took_s:
        found.append(f"took {through.took_s / direct.took_s - 1:+.0%} of direct's time")
    return found


def sentence(comparison: Comparison) -> str:
    """Return what the application sees, direct and through us."""
    direct, through = comparison.ways[DIRECT], comparison.ways[THROUGH]
    whose = "server's" if comparison.row.special is Special.CLIENT_DIES else "client's"
    if set(direct.outcomes) == set(through.outcomes) == {OK}:
        return "Every connection completes with the right data, both ways."
    said = f"The {whose} application sees direct {_words(direct)}; through us {_words(through)}."
    if comparison.bypassed:
        reasons = ", ".join(sorted(comparison.bypassed))
        said += f" After the first ones the service leaves the server's port alone ({reasons})."
    return said


def errors(outcomes: Counter[str]) -> str:
    """Return what was seen besides success, by its name, with how often."""
    seen = [f"{name} {count}" for name, count in outcomes.most_common() if name != OK]
    return ", ".join(seen) or "none"


def _words(tally: Tally) -> str:
    names = {OK: "success"}
    return ", ".join(
        f"{names.get(name, name)} ({count})" for name, count in tally.outcomes.most_common()
    )
