"""What option bytes mean: read in one pass, and here the slow way round, one by one."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import TCP

from nfq_zerortt.wire import options as opt
from nfq_zerortt.wire.errors import WireError
from nfq_zerortt.wire.options import OptionSet

_FORMS = {opt.MSS: ">H", opt.WINDOW_SCALE: ">B", opt.SACK_PERMITTED: "", opt.TIMESTAMPS: ">II"}
_kinds = st.sampled_from([*_FORMS, opt.SACK, opt.FAST_OPEN, opt.NOP, opt.MPTCP, opt.MD5, opt.END])
_option = st.one_of(
    st.tuples(_kinds, st.binary(max_size=18)),
    st.sampled_from(sorted(_FORMS)).flatmap(
        lambda kind: st.tuples(
            st.just(kind),
            st.binary(
                min_size=struct.calcsize(_FORMS[kind]), max_size=struct.calcsize(_FORMS[kind])
            ),
        )
    ),
)
_lists = st.lists(_option, max_size=6).map(
    lambda listed: tuple((k, b"" if k in (opt.NOP, opt.END) else data) for k, data in listed)
)


def _read(option: opt.Option) -> dict[str, Any]:
    """Return what one option means; struct.error for a length that it cannot have."""
    kind, data = option
    if kind in _FORMS:
        values = struct.unpack(_FORMS[kind], data)
        name, value = {
            opt.MSS: ("mss", values[:1]),
            opt.WINDOW_SCALE: ("window_scale", tuple(min(shift, 14) for shift in values)),
            opt.SACK_PERMITTED: ("sack_permitted", (True,)),
            opt.TIMESTAMPS: ("timestamps", (values,)),
        }[kind]
        return {name: value[0]}
    if kind == opt.SACK:
        return {"sack_blocks": tuple(struct.iter_unpack(">II", data))}
    return {"fast_open": data} if kind == opt.FAST_OPEN else {}


@given(_lists)
def test_every_list_means_what_its_options_mean(listed: opt.Options) -> None:
    found: dict[str, Any] = {}
    kinds: list[int] = []
    sound = True
    for option in listed:
        if option[0] == opt.END:
            break
        if option[0] == opt.NOP:
            continue
        try:
            found |= _read(option)
        except struct.error:
            sound = False
        else:
            kinds.append(option[0])
    try:
        data = opt.emit(listed)
    except WireError:
        return  # more than a header has room for
    expected = OptionSet(kinds=tuple(kinds))._replace(**found)
    assert OptionSet.of(data, strict=False) == expected
    if sound:
        assert OptionSet.of(data) == expected
    else:
        with pytest.raises(WireError):
            OptionSet.of(data)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_as_far_as_they_can_be(data: bytes) -> None:
    lenient = OptionSet.of(data, strict=False)
    assert lenient == OptionSet.read(opt.parse(data, strict=False), strict=False)
    try:
        assert OptionSet.of(data) == lenient
    except WireError:
        return
    opt.parse(data)  # what is read strictly can be parsed, too


def test_timestamps_alone_are_what_scapy_reads() -> None:
    data = opt.aligned_timestamps(0xFFFFFFF0, 7)
    packet = TCP(bytes(TCP(dataofs=8)) + data)
    assert packet.options == [("NOP", None), ("NOP", None), ("Timestamp", (0xFFFFFFF0, 7))]
