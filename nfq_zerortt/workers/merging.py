"""What several workers have learned, as if one had: of two records about the same the newer one.

A worker learns of a server what its own connections show. So records about one
server differ, and the one that was learned last is as good as any: it is what a
single process would have now.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

from nfq_zerortt.core import fast_open, learned, refusals

Record = dict[str, Any]

_MOST = {
    "server": learned.MOST,
    "fast_open": fast_open.MOST,
    "cookie": fast_open.MOST,
    "refusal": refusals.MOST,
}


async def merged(kept: AsyncIterable[Record]) -> list[Record]:
    """Return the records of all, each once; of each kind the newest, and the oldest of these first.

    As many of a kind as one memory keeps.
    """
    newest: dict[str, dict[tuple[str, str], Record]] = {about: {} for about in _MOST}
    async for record in kept:
        kind = newest[record["about"]]
        name = (record["server"], record.get("client", ""))
        if name not in kind or _age(record) < _age(kind[name]):
            kind[name] = record
    return [
        record
        for about, most in _MOST.items()
        for record in sorted(newest[about].values(), key=_age)[:most][::-1]
    ]


def _age(record: Record) -> float:
    """Return how old a record is, seconds; of a refusal, since when it is over."""
    if record["about"] == "refusal":
        return float(record["over_for_s"] - record["for_s"])
    return float(record["age_s"])
