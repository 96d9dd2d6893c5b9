"""The object under test, loaded into the kernel and attached to nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from bpf.packets import Packet
from bpf.record import HANDLED_SLOTS, Handled
from nfq_zerortt.kernel.bpf_object import PROGRAMS
from nfq_zerortt.kernel.kernel_path import KernelPath

OBJECT = "ZERORTT_BPF_OBJECT"
"""The environment variable that names another object than the package's, to test that one."""
_MAX_FLOWS = 16
_MOST_RECORDS = 64


def object_under_test() -> Path:
    """Return the path of the compiled object."""
    given = os.environ.get(OBJECT)
    if given:
        return Path(given)
    return Path(str(resources.files("nfq_zerortt.kernel").joinpath("bpf", "zerortt.bpf.o")))


class Programs:
    """Both programs, by the side whose packets they see, and their maps."""

    def __init__(self, path: KernelPath) -> None:
        self.path = path

    def run(self, packet: Packet) -> tuple[int, bytes, int]:
        """Let a packet through its program; return the verdict, the frame and the mark.

        Every other one comes with a sum of all its bytes, as network cards hand it in; raises
        OSError (EBADMSG) if the program makes that wrong.
        """
        done = self.path.run(
            PROGRAMS[packet.entry_at],
            packet.frame(),
            mark=packet.mark,
            gso_size=packet.gso_size,
            gso_segments=packet.gso_segments,
            checksum_complete=bool(packet.detail & 1 and not packet.gso_size),
        )
        return done.verdict, done.packet, done.mark

    def write(self, key: bytes, value: bytes) -> None:
        """Write an entry of the map of flows."""
        assert self.path.insert(key, value)

    def read(self, key: bytes) -> bytes:
        """Read an entry of the map of flows."""
        value = self.path.find(key)
        assert value is not None
        return value

    def endings(self) -> list[bytes]:
        """Take the records out of the ring buffer."""
        return self.path.endings(_MOST_RECORDS)

    def publish(self, handled: Handled) -> None:
        """Say how much of what was left to the process is done."""
        start = handled.ticket % HANDLED_SLOTS * self.path.handled_stride
        for at, word in enumerate(handled.words()):
            self.path.handled[start + at] = word


@contextmanager
def loaded(path: Path) -> Iterator[Programs]:
    """Load an object for as long as this lasts."""
    kernel = KernelPath.load(_MAX_FLOWS, path.read_bytes())
    try:
        yield Programs(kernel)
    finally:
        kernel.close(leave=False)
