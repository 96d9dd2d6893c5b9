"""Hypothesis strategies: segments of every shape, in IPv4 and IPv6."""

from __future__ import annotations

from hypothesis import strategies as st

from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.segment import Segment

uint32 = st.integers(0, 0xFFFFFFFF) | st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
uint16 = st.integers(0, 0xFFFF) | st.sampled_from([0, 1, 0xFFFF])

_one_option = st.one_of(
    st.just(opt.NOP_OPTION),
    uint16.map(opt.mss),
    st.integers(0, 14).map(opt.window_scale),
    st.just(opt.SACK_PERMITTED_OPTION),
    st.builds(opt.timestamps, uint32, uint32),
    st.lists(st.tuples(uint32, uint32), min_size=1, max_size=4).map(lambda b: opt.sack(*b)),
    st.tuples(st.sampled_from([30, 34, 69, 254]), st.binary(max_size=12)),
)


def _padded(options: list[opt.Option]) -> opt.Options:
    """Cut to what a header holds, and pad with no-operations to whole words."""
    kept: list[opt.Option] = []
    size = 0
    for kind, data in options:
        length = 1 if kind == opt.NOP else 2 + len(data)
        if size + length <= opt.MAX_OPTIONS_LENGTH:
            kept.append((kind, data))
            size += length
    return tuple(kept) + (opt.NOP_OPTION,) * (-size % 4)


options = st.lists(_one_option, max_size=8).map(_padded)
"""Option lists in every order and alignment, each in the form that parsing gives back."""


def segments(flags: st.SearchStrategy[int] | None = None) -> st.SearchStrategy[Segment]:
    """Return segments with any numbers."""
    common = {
        "sport": uint16,
        "dport": uint16,
        "seq": uint32,
        "ack": uint32,
        "flags": flags if flags is not None else st.integers(0, 0x1FF),
        "window": uint16,
        "options": options,
        "payload": st.binary(max_size=40),
        "urgent": uint16,
        "ttl": st.integers(0, 255),
        "tos": st.integers(0, 255),
    }
    four = st.binary(min_size=4, max_size=4)
    sixteen = st.binary(min_size=16, max_size=16)
    return st.builds(
        Segment, src=four, dst=four, ident=uint16, dont_fragment=st.booleans(), **common
    ) | st.builds(Segment, src=sixteen, dst=sixteen, flow_label=st.integers(0, 0xFFFFF), **common)
