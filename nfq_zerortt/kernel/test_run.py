"""Runs a program on one packet without any interface: BPF_PROG_TEST_RUN."""

from __future__ import annotations

import ctypes
import struct
from typing import NamedTuple

from nfq_zerortt.kernel import libbpf

# Offsets in struct __sk_buff (linux/bpf.h), which only ever grows at its end.
_CONTEXT_BYTES = 192
_MARK, _GSO_SEGMENTS, _GSO_SIZE = 8, 164, 176
_ROOM = 1 << 16
_CHECKSUM_COMPLETE = 1 << 2  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE


class Run(NamedTuple):
    """What became of a packet: verdict, its bytes with the Ethernet header, mark, duration.

    The duration is the average of one run, in nanoseconds.
    """

    verdict: int
    packet: bytes
    mark: int
    duration_ns: int


def run(
    program_fd: int,
    packet: bytes,
    *,
    repeat: int = 1,
    mark: int = 0,
    gso_size: int = 0,
    gso_segments: int = 0,
    checksum_complete: bool = False,
) -> Run:
    """Run a program ``repeat`` times on a packet that begins with an Ethernet header.

    The kernel takes about 3,500 bytes at most. With ``checksum_complete`` the packet comes with the
    sum of its bytes, as from a network card, and EBADMSG says that the program left it wrong
    (Linux 6.1 or newer). Raises OSError.
    """
    context = ctypes.create_string_buffer(_CONTEXT_BYTES)
    after = ctypes.create_string_buffer(_CONTEXT_BYTES)
    out = ctypes.create_string_buffer(_ROOM)
    data = ctypes.create_string_buffer(packet, len(packet))
    for offset, value in ((_MARK, mark), (_GSO_SEGMENTS, gso_segments), (_GSO_SIZE, gso_size)):
        struct.pack_into("=I", context, offset, value)
    options = libbpf.TestRunOptions(
        sz=ctypes.sizeof(libbpf.TestRunOptions),
        data_in=ctypes.addressof(data),
        data_out=ctypes.addressof(out),
        data_size_in=len(packet),
        data_size_out=_ROOM,
        ctx_in=ctypes.addressof(context),
        ctx_out=ctypes.addressof(after),
        ctx_size_in=_CONTEXT_BYTES,
        ctx_size_out=_CONTEXT_BYTES,
        repeat=repeat,
        flags=_CHECKSUM_COMPLETE if checksum_complete else 0,
    )
    result = libbpf.library().bpf_prog_test_run_opts(program_fd, ctypes.byref(options))
    libbpf.checked(result, "BPF_PROG_TEST_RUN")
    (marked,) = struct.unpack_from("=I", after, _MARK)
    verdict = ctypes.c_int32(options.retval).value
    return Run(verdict, out.raw[: options.data_size_out], marked, options.duration)
