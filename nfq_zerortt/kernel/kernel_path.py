"""The kernel data path of one queue: its maps and its filters, over the life of processes."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import adoption, bpf_object, filters, libbpf, pins, test_run
from nfq_zerortt.kernel.bpf_object import ENDINGS, FLOWS, HANDLED, PROGRAMS
from nfq_zerortt.kernel.ending_ring import EndingRing
from nfq_zerortt.kernel.flow_map import FlowMap
from nfq_zerortt.kernel.tc import TrafficControl

_SIOCGIFHWADDR = 0x8927  # netdevice(7)
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772
_WORD = 4


class KernelPath:
    """The programs on both interfaces, and what they and this process share.

    Attributes:
        adopted: whether the maps are those of an earlier process, with its flows.
        max_flows: how many flows the table takes; an adopted one keeps its size.
        pinned: where the maps are pinned; None if nowhere, and then ``pin_problem`` says why.
        flows: the table of flows; its methods find, insert, replace, take, remove, entries,
            keys and count are also those of this object.
        handled: the map of that name as 32-bit numbers, shared with the programs.
        handled_stride: how many numbers one slot of ``handled`` takes.
        endings_fd: readable while there are records for endings().
    """

    def __init__(
        self, loaded: bpf_object.LoadedObject, interfaces: Mapping[str, str], queue: int
    ) -> None:
        """Take over what was loaded; ``interfaces`` by the program that belongs there."""
        self._loaded = loaded
        self._interfaces = interfaces
        self._queue = queue
        self._closing = ExitStack()
        self._closing.callback(loaded.close)
        self.adopted = False
        self.pinned: Path | None = None
        self.pin_problem = ""
        try:
            self._map_memory()
        except BaseException:
            self._closing.close()
            raise
        self.find = self.flows.find
        self.insert = self.flows.insert
        self.replace = self.flows.replace
        self.take = self.flows.take
        self.remove = self.flows.remove
        self.entries = self.flows.entries
        self.keys = self.flows.keys
        self.count = self.flows.count
        self.endings = self._ring.read

    def _map_memory(self) -> None:
        self.flows = FlowMap(self._loaded.maps[FLOWS])
        self.max_flows = self.flows.max_entries
        info = libbpf.map_info(self._loaded.maps[HANDLED])
        # The kernel begins each value of an array at a multiple of eight bytes.
        self.handled_stride: int = -(-info.value_size // 8) * 8 // _WORD
        length = info.max_entries * self.handled_stride * _WORD
        whole_pages = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(self._loaded.maps[HANDLED], whole_pages)
        self._closing.callback(memory.close)
        self.handled = memoryview(memory).cast("I")
        self._closing.callback(self.handled.release)
        self._ring = EndingRing(self._loaded.maps[ENDINGS])
        self._closing.callback(self._ring.close)
        self.endings_fd = self._ring.fd

    @classmethod
    def load(cls, max_flows: int, code: bytes | None = None) -> Self:
        """Load the programs with new maps and attach them nowhere: to try them.

        ``code`` is another compiled object than the package's.

        Raises:
            MissingFeatureError: the kernel, libbpf or a privilege does not allow it.
        """
        _require_little_endian()
        with _explained():
            return cls(bpf_object.load(max_flows, code=code), {}, 0)

    @classmethod
    def open(cls, client_iface: str, server_iface: str, queue: int, max_flows: int) -> Self:
        """Attach the programs to both interfaces, with the maps of an earlier process if any.

        Where the filters of that process still are, they are replaced, and no packet passes
        in between. After a failure all is as it was before.

        Raises:
            MissingFeatureError: the kernel, libbpf, an interface or a privilege does not allow it.
            OtherVersionError: the maps are those of another version; its filters go on.
            ZeroRttError: no such interface, or a filter of somebody else in the way.
        """
        _require_little_endian()
        for interface in (client_iface, server_iface):
            _require_ethernet(interface)
        with _explained():
            where = pins.directory(queue)
            left = adoption.find_maps(queue, where)
            try:
                loaded = bpf_object.load(max_flows, left)
            finally:
                bpf_object.close_all(left)
            interfaces = dict(zip(PROGRAMS, (client_iface, server_iface), strict=True))
            path = cls(loaded, interfaces, queue)
        path.adopted = FLOWS in left
        try:
            path.attach()
        except BaseException:
            path._closing.close()
            raise
        path._pin(where)
        return path

    def _pin(self, where: Path | None) -> None:
        """Pin the maps; without pins all works as long as the interfaces stay."""
        if where is None:
            self.pin_problem = f"{pins.FILE_SYSTEM} is not a bpf file system"
            return
        try:
            pins.make(where, self._loaded.maps)
            self.pinned = where
        except OSError as error:
            self.pin_problem = error.strerror or str(error)

    def attach(self) -> None:
        """Put the programs on both interfaces, as after one was made anew.

        Raises as open() does; then nothing is attached that was not before.
        """
        filters.attach(
            self._queue,
            [
                (program, self._loaded.programs[program], interface)
                for program, interface in self._interfaces.items()
            ],
        )

    def is_attached(self) -> bool:
        """Whether both interfaces have our programs, those of this process."""
        with TrafficControl() as control:
            for program, interface in self._interfaces.items():
                try:
                    ours = filters.on(control, interface, self._queue)
                except ZeroRttError:  # the interface is gone, or somebody else is there
                    return False
                number = libbpf.program_info(self._loaded.programs[program]).id
                if ours is None or ours.filter.program_id != number:
                    return False
        return True

    def detach(self) -> None:
        """Remove the filters of this queue from all interfaces; maps and pins stay."""
        filters.detach_all(self._queue)

    def close(self, leave: bool) -> None:
        """End the work of this process with the kernel.

        With ``leave`` the filters go on, and so do the flows; else filters and pins are removed,
        and clsact where we made it.
        """
        with self._closing:
            if not leave and self._interfaces:
                self.remove_all(self._queue)

    @staticmethod
    def remove_all(queue: int) -> list[str]:
        """Remove what any process has left for a queue in this network namespace.

        Returns what was removed, in words. Where nothing is, it needs neither libbpf nor rights.

        Raises:
            MissingFeatureError: something is there and must not be removed by this user.
        """
        removed = filters.detach_all(queue)
        for where in pins.everywhere(queue):
            try:
                if pins.remove(where):
                    removed.append(f"pins in {where}")
            except PermissionError:
                # Who may not look there has nothing there.
                if os.geteuid() == 0:
                    raise MissingFeatureError(f"no right to remove the pins in {where}") from None
        return removed

    def run(
        self,
        program: str,
        packet: bytes,
        repeat: int = 1,
        *,
        mark: int = 0,
        gso_size: int = 0,
        gso_segments: int = 0,
        checksum_complete: bool = False,
    ) -> test_run.Run:
        """Run one of the programs on a packet with an Ethernet header; see test_run.run()."""
        return test_run.run(
            self._loaded.programs[program],
            packet,
            repeat=repeat,
            mark=mark,
            gso_size=gso_size,
            gso_segments=gso_segments,
            checksum_complete=checksum_complete,
        )


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what else the kernel may say no to into an error for the user."""
    try:
        yield
    except OSError as error:
        raise MissingFeatureError(
            f"the kernel refuses the kernel data path ({error.strerror or error}): "
            "--data-path python"
        ) from None


def _require_little_endian() -> None:
    if sys.byteorder != "little":
        raise MissingFeatureError(
            "the eBPF programs are built for little-endian machines: --data-path python"
        )


def _require_ethernet(interface: str) -> None:
    """Raise unless packets come in with an Ethernet header."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("16s16x", interface.encode())
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFHWADDR, request + bytes(8))
        except OSError as error:
            raise ZeroRttError(f"interface {interface}: {error.strerror}") from None
    (kind,) = struct.unpack_from("=H", answer, 16)
    if kind not in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK):
        raise MissingFeatureError(
            f"interface {interface} has no Ethernet header (type {kind}), which the kernel data "
            "path needs: --data-path python"
        )
