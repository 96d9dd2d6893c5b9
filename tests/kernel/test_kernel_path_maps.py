"""The maps and the programs of the kernel data path, attached nowhere."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
from support.opened import FLOWS
from support.pair import SHIFT, frame, key, value

from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.bpf_object import PROGRAMS
from nfq_zerortt.kernel.kernel_path import KernelPath


@pytest.fixture(scope="module")
def loaded() -> Iterator[KernelPath]:
    path = KernelPath.load(FLOWS)
    yield path
    path.close(leave=False)


@pytest.fixture
def path(loaded: KernelPath) -> Iterator[KernelPath]:
    """The programs, attached nowhere, with an empty table."""
    yield loaded
    for keys in list(loaded.keys()):
        for one in keys:
            loaded.remove(one)
    loaded.endings(1000)


def test_an_entry_is_what_was_put_in(path: KernelPath) -> None:
    assert path.find(key()) is None
    assert not path.replace(key(), value())
    assert path.insert(key(), value(number=1))
    assert path.find(key()) == value(number=1)
    assert path.insert(key(), value(number=2))
    assert path.replace(key(), value(number=3))
    assert path.count() == 1
    assert path.take(key()) == value(number=3)
    assert path.take(key()) is None
    assert not path.remove(key())


def test_take_on_an_older_kernel(path: KernelPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path.flows, "_look_up_and_delete", lambda *_: -524)
    path.insert(key(), value(number=4))
    assert path.take(key()) == value(number=4)
    assert path.take(key()) is None


def test_a_full_table_says_so(path: KernelPath) -> None:
    assert all(path.insert(key(number), value()) for number in range(FLOWS))
    assert not path.insert(key(FLOWS), value())
    assert path.insert(key(1), value()), "one that is in it may be put in again"
    path.remove(key(1))
    assert path.insert(key(FLOWS), value())


def test_wrong_sizes_reach_no_kernel(path: KernelPath) -> None:
    for wrong_key, wrong_value in ((key()[:-1], value()), (key(), value()[:-1])):
        with pytest.raises(ValueError, match="bytes instead of"):
            path.insert(wrong_key, wrong_value)


@pytest.mark.parametrize("batch", [1, 16, 5000])
def test_walk_while_the_table_changes(batch: int) -> None:
    path = KernelPath.load(4000)
    staying, going = range(2000), range(2000, 3000)
    try:
        for number in (*staying, *going):
            assert path.insert(key(number), value(number=number))
        leaving, coming = iter(going), iter(range(10000, 20000))
        seen: list[bytes] = []
        for entries in path.entries(batch):
            for found, content in entries:
                assert layout.unpack(content)[2].number == int.from_bytes(found[32:34], "big")
                seen.append(found)
            path.remove(key(next(leaving, 0xFFFF)))
            path.insert(key(number := next(coming)), value(number=number))
        assert len(seen) == len(set(seen))
        assert set(seen) >= {key(number) for number in staying}
        assert sum(map(len, path.keys(batch))) == path.count()
    finally:
        path.close(leave=False)


def test_a_program_sees_the_flow(path: KernelPath) -> None:
    raw = frame(seq=5)
    untouched = path.run(PROGRAMS[0], raw, mark=3)
    assert (untouched.verdict, untouched.packet, untouched.mark) == (-1, raw, 3)
    path.insert(key(), value())
    changed = path.run(PROGRAMS[0], raw, mark=3, gso_size=1400, gso_segments=2)
    assert changed.mark == 3 | layout.MARK_TRANSLATED
    assert changed.verdict == -1
    assert int.from_bytes(changed.packet[38:42], "big") == 5 + SHIFT
    assert changed.duration_ns > 0


def test_endings_come_out_in_order_and_bounded(path: KernelPath) -> None:
    def readable() -> bool:
        return bool(select.select([path.endings_fd], [], [], 0)[0])

    assert not readable()
    assert path.endings(10) == []
    numbers = [40000, 40001, 40002]
    for number in numbers:
        path.insert(key(number), value())
        raw = bytearray(frame(seq=0, flags="RA"))
        raw[34:36] = number.to_bytes(2, "big")
        path.run(PROGRAMS[0], bytes(raw))
    assert readable()
    first = path.endings(2)
    assert readable()
    records = first + path.endings(2)
    assert not readable()
    assert [record[:36] for record in records] == [key(number) for number in numbers]
    assert {len(record) for record in records} == {layout.ENDING_BYTES}
