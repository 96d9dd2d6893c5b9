"""The life of the kernel data path: loading, attaching, adopting, removing."""

from __future__ import annotations

import json
import re
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import pytest
from support.namespaces import inside
from support.pair import SHIFT, Pair, frame, key, value

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import filters, libbpf
from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.bpf_object import PROGRAMS
from nfq_zerortt.kernel.kernel_path import KernelPath

QUEUE = 7
FLOWS = 64

OPEN_AND_WAIT = f"""
import sys
from support.pair import key, value
from nfq_zerortt.kernel.kernel_path import KernelPath
path = KernelPath.open("c0", "s0", {QUEUE}, {FLOWS})
assert path.insert(key(), value(number=5))
path.handled[8] = 77
print(path.adopted, path.pinned, flush=True)
sys.stdin.read()
path.close(leave=True)
"""

FOREIGN = "tc filter add dev {dev} ingress pref {pref} bpf bytecode '1,6 0 0 0' || exit 1;"
"""A classic BPF filter of somebody else, which matches nothing."""


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    try:
        yield made
    finally:
        made.remove()


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


def opened(pair: Pair, queue: int = QUEUE) -> KernelPath:
    with inside(pair.name):
        return KernelPath.open("c0", "s0", queue, FLOWS)


def close(pair: Pair, path: KernelPath, *, leave: bool) -> None:
    with inside(pair.name):
        path.close(leave)


def remove_all(pair: Pair, queue: int = QUEUE) -> list[str]:
    with inside(pair.name):
        return KernelPath.remove_all(queue)


# --- maps and programs ------------------------------------------------------------------


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


# --- filters ------------------------------------------------------------------------------


def test_nothing_stays_of_what_was_attached(pair: Pair) -> None:
    before = pair.state()
    path = opened(pair)
    with inside(pair.name):
        assert path.is_attached()
    assert not path.adopted
    assert path.max_flows == FLOWS
    shown = pair.state()
    assert shown.count("clsact") == 2
    assert [shown.count(f"{name} direct-action") for name in PROGRAMS] == [1, 1]
    close(pair, path, leave=False)
    assert pair.state() == before


def test_packets_are_translated(pair: Pair) -> None:
    path = opened(pair)
    with pair.receiving() as receiver:
        assert receiver.exchange(5) == 5
        path.insert(key(), value())
        assert receiver.exchange(6) == 6 + SHIFT
    close(pair, path, leave=False)


@pytest.mark.parametrize("kind", ["clsact", "ingress"])
def test_what_others_made_stays(pair: Pair, kind: str) -> None:
    pair.sh(f"tc qdisc add dev c0 {kind}")
    before = pair.state()
    close(pair, opened(pair), leave=False)
    assert pair.state() == before


def test_clsact_stays_while_somebody_uses_it(pair: Pair) -> None:
    path = opened(pair)
    pair.sh("tc filter add dev c0 egress pref 9 bpf bytecode '1,6 0 0 0'")
    close(pair, path, leave=False)
    shown = pair.state()
    assert shown.count("clsact") == 1
    assert "pref 9 bpf" in shown
    assert not any(name in shown for name in PROGRAMS)


def test_filters_of_others_are_asked_too(pair: Pair) -> None:
    """One before and one behind ours, which copy what they see to an interface each."""
    pair.sh("""
        tc qdisc add dev c0 clsact
        for i in 1 2; do ip link add m$i type veth peer name n$i; ip link set m$i up;
        ip link set n$i up; done
    """)
    copy = "protocol ip u32 match ip src 10.9.0.2 action mirred egress mirror dev {dev} continue"
    pair.sh(f"tc filter add dev c0 ingress pref 10 {copy.format(dev='m1')}")
    pair.sh(f"tc filter add dev c0 ingress pref 40000 {copy.format(dev='m2')}")
    path = opened(pair)
    path.insert(key(), value())
    with pair.receiving() as receiver:
        assert receiver.exchange() == 1 + SHIFT
    shown = pair.sh("cat /proc/net/dev")
    received = {
        line.split(":")[0].strip(): int(line.split(":")[1].split()[1])
        for line in shown.splitlines()
        if ":" in line
    }
    assert (received["n1"], received["n2"]) == (1, 1)
    close(pair, path, leave=False)
    assert pair.state().count("mirred") == 2


def test_a_filter_in_our_place_is_not_replaced(pair: Pair) -> None:
    pair.sh("tc qdisc add dev s0 clsact;" + FOREIGN.format(dev="s0", pref=filters.PRIORITY))
    pair.sh(f"tc filter del dev s0 ingress pref {filters.PRIORITY}")
    pair.sh(
        f"tc filter add dev s0 ingress pref {filters.PRIORITY} handle {QUEUE + 1} "
        "bpf bytecode '1,6 0 0 0'"
    )
    before = pair.state()
    with pytest.raises(ZeroRttError, match="interface s0 has a filter of somebody else"):
        opened(pair)
    assert pair.state() == before
    assert remove_all(pair) == []
    assert pair.state() == before


def test_a_filter_of_another_kind_at_our_priority(pair: Pair) -> None:
    pair.sh(
        "tc qdisc add dev s0 clsact; tc filter add dev s0 ingress protocol ip "
        f"pref {filters.PRIORITY} u32 match u32 0 0 classid 1:1"
    )
    before = pair.state()
    with pytest.raises(ZeroRttError, match="interface s0 has a filter of somebody else"):
        opened(pair)
    assert pair.state() == before


EXCHANGE_UNTIL_TOLD = """
import select, sys
from support.pair import SHIFT, Receiver
receiver = Receiver()
count = untouched = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    untouched += receiver.exchange(count) != count + SHIFT
    count += 1
    if count == 1:
        print("begun", flush=True)
print(count, untouched)
"""


def test_replacing_leaves_no_gap(pair: Pair) -> None:
    first = opened(pair)
    first.insert(key(), value())
    second = opened(pair)
    assert second.adopted
    with inside(pair.name):
        assert not first.is_attached()
        assert second.is_attached()
    sender = pair.python(EXCHANGE_UNTIL_TOLD)
    assert sender.stdout is not None
    assert sender.stdout.readline() == "begun\n"
    with inside(pair.name):
        for turn in range(1000):
            (first, second)[turn % 2].attach()
    said, errors = sender.communicate("end", timeout=30)
    assert sender.returncode == 0, errors
    count, untouched = map(int, said.split())
    assert count > 500
    assert untouched == 0
    first.close(leave=True)
    close(pair, second, leave=False)


def test_an_interface_made_anew(pair: Pair) -> None:
    path = opened(pair)
    path.insert(key(), value())
    pair.make_interfaces()
    with inside(pair.name):
        assert not path.is_attached()
        path.attach()
        assert path.is_attached()
    with pair.receiving() as receiver:
        assert receiver.exchange() == 1 + SHIFT
    pair.sh("ip link del s0")
    with inside(pair.name):
        assert not path.is_attached()
        with pytest.raises(ZeroRttError, match="interface s0 does not exist"):
            path.attach()
    close(pair, path, leave=False)
    assert "clsact" not in pair.sh("tc qdisc show dev c0")


def test_two_queues_on_the_same_interfaces(pair: Pair) -> None:
    before = pair.state()
    first, second = opened(pair, 1), opened(pair, 2)
    assert not second.adopted
    close(pair, first, leave=False)
    with inside(pair.name):
        assert second.is_attached()
    close(pair, second, leave=False)
    assert pair.state() == before


# --- failures leave nothing ---------------------------------------------------------------


def test_a_missing_interface(pair: Pair) -> None:
    before = pair.state()
    with inside(pair.name), pytest.raises(ZeroRttError, match="interface s9"):
        KernelPath.open("c0", "s9", QUEUE, FLOWS)
    assert pair.state() == before


def test_an_interface_without_ethernet(pair: Pair) -> None:
    pair.sh("ip tuntap add t0 mode tun")
    before = pair.state()
    with inside(pair.name), pytest.raises(MissingFeatureError, match="t0 has no Ethernet header"):
        KernelPath.open("c0", "t0", QUEUE, FLOWS)
    assert pair.state() == before


def test_a_program_that_the_kernel_does_not_take(pair: Pair) -> None:
    before = pair.state()
    with open("/dev/null", "rb") as no_program, inside(pair.name):
        wanted = [(PROGRAMS[0], no_program.fileno(), "c0")]
        with pytest.raises(ZeroRttError, match=r"^interface c0: "):
            filters.attach(QUEUE, wanted)
    assert pair.state() == before


def test_a_failure_puts_the_earlier_program_back(pair: Pair) -> None:
    first = opened(pair)
    at_c0 = pair.state("c0")
    pair.sh(
        f"tc filter del dev s0 ingress pref {filters.PRIORITY};"
        f"tc filter add dev s0 ingress protocol ip pref {filters.PRIORITY} "
        "u32 match u32 0 0 classid 1:1"
    )
    at_s0 = pair.state("s0")
    with pytest.raises(ZeroRttError, match="somebody else"):
        opened(pair)
    assert (pair.state("c0"), pair.state("s0")) == (at_c0, at_s0)
    close(pair, first, leave=False)


@pytest.mark.parametrize(
    ("privileges", "missing"),
    [
        ("-all", "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON is missing"),
        ("-all,+bpf,+net_admin", "CAP_PERFMON is missing"),
        ("-all,+bpf,+perfmon", "CAP_NET_ADMIN is missing"),
    ],
)
def test_missing_privileges(pair: Pair, privileges: str, missing: str) -> None:
    before = pair.state()
    script = """
from nfq_zerortt.errors import MissingFeatureError
from nfq_zerortt.kernel.kernel_path import KernelPath
try:
    KernelPath.open("c0", "s0", 7, 64)
except MissingFeatureError as error:
    print(error)
assert KernelPath.remove_all(7) == []
"""
    said, errors = finished(pair.python(script, as_nobody=privileges))
    assert said.startswith(missing)
    assert said.count("\n") == 1
    assert errors == ""
    assert pair.state() == before


def test_the_verifiers_refusal_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    code = (resources.files("nfq_zerortt.kernel") / "bpf" / "zerortt.bpf.o").read_bytes()
    exit_instruction = bytes([0x95, 0, 0, 0, 0, 0, 0, 0])
    broken = code.replace(exit_instruction, bytes([0xFF]) + bytes(7))
    with pytest.raises(MissingFeatureError, match="does not take the eBPF programs") as refused:
        KernelPath.load(FLOWS, broken)
    assert re.search(r"\(.*(insn|opcode).*\): a newer kernel", str(refused.value))
    assert "\n" not in str(refused.value)
    with pytest.raises(MissingFeatureError, match="libbpf cannot read"):
        KernelPath.load(FLOWS, b"no object")
    assert capfd.readouterr() == ("", "")


def test_without_libbpf(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf.so.99")
    libbpf.library.cache_clear()
    try:
        with pytest.raises(MissingFeatureError, match=r"libbpf is missing.*install libbpf1"):
            opened(pair)
        assert remove_all(pair) == []
    finally:
        libbpf.library.cache_clear()


# --- the next process ---------------------------------------------------------------------


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    return said, errors


def killed(pair: Pair, before: Sequence[str] = (), as_nobody: str = "") -> str:
    """Open in another process, put a flow in, and kill it; return what it said."""
    process = pair.python(OPEN_AND_WAIT, before=before, as_nobody=as_nobody)
    assert process.stdout is not None
    said = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert said, errors
    return said


def test_adopted_by_the_filters_after_kill(pair: Pair) -> None:
    before = pair.state()
    assert killed(pair) == "False None\n"
    with pair.receiving() as receiver:
        assert receiver.exchange() == 1 + SHIFT
        path = opened(pair)
        assert path.adopted
        assert path.pinned is None
        assert "bpf file system" in path.pin_problem
        found = path.find(key())
        assert found is not None
        to_server, _, flow = layout.unpack(found)
        assert (flow.number, to_server.segments) == (5, 1)
        assert path.handled[8] == 77
        assert receiver.exchange() == 1 + SHIFT
    close(pair, path, leave=True)
    with pair.receiving() as receiver:
        assert receiver.exchange() == 1 + SHIFT
    assert len(remove_all(pair)) == 4
    assert pair.state() == before


def test_adopted_maps_keep_their_size(pair: Pair) -> None:
    killed(pair)
    with inside(pair.name):
        path = KernelPath.open("c0", "s0", QUEUE, 2 * FLOWS)
    assert path.max_flows == FLOWS
    close(pair, path, leave=False)


def test_endings_of_the_time_between(pair: Pair) -> None:
    """What ended while no process was there is told to the next one."""
    killed(pair)
    with inside(pair.name):
        helper = KernelPath.open("c0", "s0", QUEUE, FLOWS)
        helper.run(PROGRAMS[0], frame(seq=0, flags="RA"))
        helper.close(leave=True)
        path = KernelPath.open("c0", "s0", QUEUE, FLOWS)
        assert [record[:36] for record in path.endings(9)] == [key()]
        path.close(leave=False)


class BpfMount:
    """A mount namespace with a bpf file system of its own, for as long as it is entered."""

    def __init__(self, mode: str = "777") -> None:
        self._mode = mode

    def __enter__(self) -> tuple[str, ...]:
        made = f"mount -t bpf bpf /sys/fs/bpf && chmod {self._mode} /sys/fs/bpf"
        script = f"{made} && echo ready && read end"
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return ("nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt", "--")

    def __exit__(self, *_: object) -> None:
        self._process.communicate("\n", timeout=10)


ADOPT = f"""
import json
from support.pair import key
from nfq_zerortt.kernel.kernel_path import KernelPath
path = KernelPath.open("c0", "s0", {QUEUE}, {FLOWS})
print(json.dumps([path.adopted, path.find(key()) is not None, str(path.pinned)]))
path.close(leave=LEAVE)
"""


def adopt(pair: Pair, before: Sequence[str], *, leave: bool, as_nobody: str = "") -> list[object]:
    script = ADOPT.replace("LEAVE", str(leave))
    said, _ = finished(pair.python(script, before=before, as_nobody=as_nobody))
    answer: list[object] = json.loads(said)
    return answer


def test_adopted_by_pins_when_the_interfaces_are_gone(pair: Pair) -> None:
    with BpfMount() as mounted:
        listing = [*mounted, "ls", "-R", "/sys/fs/bpf"]
        empty = subprocess.check_output(listing, text=True)
        said = killed(pair, before=mounted)
        assert said.startswith("False /sys/fs/bpf/nfq-zerortt-")
        where = said.split()[1]
        pair.make_interfaces()
        assert adopt(pair, mounted, leave=True) == [True, True, where]
        assert adopt(pair, mounted, leave=False) == [True, True, where]
        assert subprocess.check_output(listing, text=True) == empty
        assert adopt(pair, mounted, leave=True) == [False, False, where]
        remove = f"""
from nfq_zerortt.kernel.kernel_path import KernelPath
print(*KernelPath.remove_all({QUEUE}), sep="\\n")
"""
        said, _ = finished(pair.python(remove, before=mounted))
        assert said.splitlines()[-1] == f"pins in {where}"
        assert len(said.splitlines()) == 5
        assert subprocess.check_output(listing, text=True) == empty


def test_missing_privileges_where_only_root_looks_for_pins(pair: Pair) -> None:
    """As with systemd's bpf file system: what is said is what is missing."""
    script = ADOPT.replace("LEAVE", "True")
    with BpfMount("700") as mounted:
        process = pair.python(script, before=mounted, as_nobody="-all,+bpf,+net_admin")
        _, errors = process.communicate(timeout=30)
    assert "MissingFeatureError: CAP_PERFMON is missing" in errors


def test_a_link_in_place_of_pins_leads_nowhere(pair: Pair, tmp_path: Path) -> None:
    """In a directory that is lent to a service, names are that user's; root removes the pins."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    script = f"""
import os
from nfq_zerortt.kernel import pins
from nfq_zerortt.kernel.kernel_path import KernelPath
where = pins.directory({QUEUE})
os.symlink({str(victim)!r}, where)
try:
    KernelPath.remove_all({QUEUE})
except OSError as error:
    print(error.strerror)
print(os.path.islink(where))
"""
    with BpfMount() as mounted:
        said, _ = finished(pair.python(script, before=mounted))
    assert said.splitlines()[-1] == "True"
    assert [one.name for one in victim.iterdir()] == ["file"]


def test_adopted_by_filters_and_pinned_then(pair: Pair) -> None:
    killed(pair)
    with BpfMount() as mounted:
        adopted, found, where = adopt(pair, mounted, leave=True)
        assert (adopted, found) == (True, True)
        pair.make_interfaces()
        assert adopt(pair, mounted, leave=False) == [True, True, where]


def test_adopted_without_the_privilege_to_ask_for_maps(pair: Pair) -> None:
    """CAP_SYS_ADMIN is needed to come from a filter to its maps; pins need none."""
    few = "-all,+bpf,+net_admin,+perfmon"
    with BpfMount() as mounted:
        killed(pair, before=mounted, as_nobody=few)
        assert adopt(pair, mounted, leave=True, as_nobody=few)[:2] == [True, True]
    script = ADOPT.replace("LEAVE", "True")
    process = pair.python(script, as_nobody=few)
    _, errors = process.communicate(timeout=30)
    assert "MissingFeatureError: CAP_SYS_ADMIN is missing to go on with" in errors
    with inside(pair.name):
        path = KernelPath.open("c0", "s0", QUEUE, FLOWS)
    assert path.adopted
    close(pair, path, leave=False)


def test_maps_of_another_version_are_left_alone(pair: Pair) -> None:
    with BpfMount() as mounted:
        killed(pair, before=mounted)
        before = pair.state()
        script = f"""
from nfq_zerortt.kernel import bpf_object
from nfq_zerortt.kernel.kernel_path import KernelPath
bpf_object.libbpf.library().bpf_map__value_size = lambda one: 8
try:
    KernelPath.open("c0", "s0", {QUEUE}, {FLOWS})
except bpf_object.OtherVersionError as error:
    print(error)
"""
        said, _ = finished(pair.python(script, before=mounted))
        assert said.startswith("the kernel carries connections for another version")
        assert pair.state() == before
        with pair.receiving() as receiver:
            assert receiver.exchange() == 1 + SHIFT
        assert adopt(pair, mounted, leave=False)[:2] == [True, True]
