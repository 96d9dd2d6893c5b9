"""The NFQUEUE: packets in, verdicts out.

The library's own loop returns only when the queue is empty, which under load
is never; timers and signals would starve. So it is fed by :class:`_Batch`,
which lets it have a bounded number of packets at a time.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import warnings
from collections.abc import Callable

from netfilterqueue import NetfilterQueue, Packet

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError

MAX_PACKETS = 65536
_RECEIVE_BUFFER = 32 << 20
_BATCH = 64
_MESSAGE = 8192
"""More than a message can have: the library asks for packets up to 4016 bytes (what is longer comes
cut), and the kernel puts some 150 bytes before them. The library's own 4096 are too few: such a
message would be cut in its middle, and a packet that is not understood gets no verdict, ever."""

_VERDICT = struct.Struct("=IHHII BBH HHII")
"""nlmsghdr, nfgenmsg, nlattr and nfqnl_msg_verdict_hdr (linux/netfilter/nfnetlink_queue.h)."""
_NFQNL_MSG_VERDICT = 3 << 8 | 1
_NLM_F_REQUEST = 1
_NFQA_VERDICT_HDR = 2
_NF_QUEUE = 3
_BYPASS = 0x8000  # NF_VERDICT_FLAG_QUEUE_BYPASS

OnPacket = Callable[[Packet], None]


class _Batch(socket.socket):
    """The queue's socket as the library reads it: at most so many times, then as if empty."""

    left = 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return one message of the kernel's.

        Raises:
            BlockingIOError: there is none, or the batch is used up.
        """
        if not self.left:
            raise BlockingIOError(errno.EAGAIN, "the batch is used up")
        self.left -= 1
        return super().recv(max(size, _MESSAGE), flags)


class PacketQueue:
    """One bound NFQUEUE."""

    def __init__(self, number: int, on_packet: OnPacket) -> None:
        """Bind queue ``number``; ``on_packet`` is called with each packet and gives the verdict.

        Raises:
            MissingFeatureError: the kernel has no NFQUEUE, or CAP_NET_ADMIN is missing.
            ZeroRttError: another process has the queue.
        """
        try:
            self._queue = NetfilterQueue()
        except OSError as error:
            raise MissingFeatureError(
                f"NFQUEUE cannot be used ({error}): run as root (CAP_NET_ADMIN) on a kernel with"
                " CONFIG_NETFILTER_NETLINK_QUEUE; 'modprobe nfnetlink_queue' loads it"
            ) from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a smaller buffer than asked for is fine
                self._queue.bind(number, on_packet, max_len=MAX_PACKETS, sock_len=_RECEIVE_BUFFER)
        except OSError:
            raise ZeroRttError(
                f"NFQUEUE number {number} is in use by another process; stop that one, or choose"
                " another number with --queue"
            ) from None
        self.number = number
        self._batch = _Batch(fileno=os.dup(self._queue.get_fd()))
        self._batch.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when packets wait."""
        return int(self._queue.get_fd())

    def handle_batch(self) -> bool:
        """Handle the packets that wait, up to a bounded number; tell whether more may wait."""
        self._batch.left = _BATCH
        self._queue.run_socket(self._batch)
        return not self._batch.left

    def pass_on(self, packet: Packet, number: int) -> None:
        """Hand a packet on to another queue, as it is: this is the verdict on it.

        If nobody listens there, it passes. (The library has no such verdict.)
        """
        verdict = _NF_QUEUE | _BYPASS | number << 16
        header = (_VERDICT.size, _NFQNL_MSG_VERDICT, _NLM_F_REQUEST, 0, 0)
        attribute = (12, _NFQA_VERDICT_HDR, socket.htonl(verdict), socket.htonl(packet.id))
        self._batch.send(
            _VERDICT.pack(*header, socket.AF_UNSPEC, 0, socket.htons(self.number), *attribute)
        )

    def leave(self) -> None:
        """Leave the queue to another process that was forked off, and has it, too.

        It is bound as long as any process has its socket. The number of the file stays taken, for
        the library will close it once more.
        """
        self._batch.close()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, self._queue.get_fd(), inheritable=False)
        os.close(null)

    def close(self) -> None:
        """Give the queue back; what still waits in it is dropped by the kernel."""
        self._batch.close()
        self._queue.unbind()
