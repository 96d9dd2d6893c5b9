"""The kernel data path between two processes: filters, pins, and what the next one finds."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support.namespaces import inside
from support.opened import FLOWS, QUEUE, close, finished, opened, remove_all
from support.pair import SHIFT, Pair, frame, key

from nfq_zerortt.kernel.bpf import layout
from nfq_zerortt.kernel.bpf_object import PROGRAMS
from nfq_zerortt.kernel.kernel_path import KernelPath

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
