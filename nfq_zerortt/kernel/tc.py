"""Traffic control by rtnetlink: clsact, and direct-action eBPF filters at its ingress.

Nothing here knows whose a filter is. Filters of the classic kind stay when the
process ends. Needs no libbpf; to look needs no privilege.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

INGRESS = 0xFFFFFFF2
EGRESS = 0xFFFFFFF3
"""The two parents that a clsact has for filters (linux/pkt_sched.h)."""

_CLSACT_PARENT = 0xFFFFFFF1
_CLSACT_HANDLE = 0xFFFF0000

# linux/rtnetlink.h, linux/netlink.h, linux/pkt_cls.h.
_NEWQDISC, _DELQDISC, _NEWTFILTER, _DELTFILTER, _GETTFILTER = 36, 37, 44, 45, 46
_REQUEST, _ACK, _DUMP, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_CAPPED, _ACK_TLVS = 0x100, 0x200
_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION = 1
_ALL_PROTOCOLS = 0x0003
_ERROR_MESSAGE = 1

_HEADER = struct.Struct("=IHHII")
_TC_HEADER = struct.Struct("=BxxxiIII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE = 1 << 16
_TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter. ``kind`` is "bpf" or another; ``name`` and ``program_id`` are those of bpf."""

    kind: str
    handle: int
    priority: int
    all_protocols: bool
    name: str
    program_id: int

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"{self.kind}{name} (pref {self.priority}, handle {self.handle:#x})"


class TrafficControl:
    """A socket that asks the kernel, in the network namespace in which it was made.

    Every method raises OSError with the kernel's own words if the kernel says no.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT_S)
        # SOL_NETLINK; NETLINK_CAP_ACK and NETLINK_EXT_ACK: errors come short and with words.
        for option in (10, 11):
            self._socket.setsockopt(270, option, 1)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def add_clsact(self, interface: int) -> bool:
        """Put clsact on an interface (its index); False if it, or ingress, is there already."""
        message = _TC_HEADER.pack(0, interface, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
        try:
            self._ask(_NEWQDISC, _ACK | _CREATE | _EXCL, message + _attribute(_KIND, b"clsact\0"))
        except FileExistsError:
            return False
        return True

    def remove_clsact(self, interface: int) -> None:
        """Take clsact off an interface, with all filters on it."""
        message = _TC_HEADER.pack(0, interface, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
        self._ask(_DELQDISC, _ACK, message + _attribute(_KIND, b"clsact\0"))

    def filters(self, interface: int, parent: int = INGRESS) -> list[Filter]:
        """Return all filters of an interface; none if it has no clsact."""
        message = _TC_HEADER.pack(0, interface, 0, parent, 0)
        found = []
        for kind, body in self._ask(_GETTFILTER, _DUMP, message):
            if kind == _NEWTFILTER and (one := _filter(body)) is not None:
                found.append(one)
        return found

    def add_program(
        self,
        interface: int,
        handle: int,
        priority: int,
        program_fd: int,
        name: str,
        *,
        replace: bool,
    ) -> None:
        """Put a direct-action program at the ingress.

        With ``replace`` it takes the place of the one that is there, with no packet between
        them; else it is an error (EEXIST) if one is there.
        """
        message = _TC_HEADER.pack(0, interface, handle, INGRESS, _info(priority))
        options = (
            _attribute(_BPF_FD, struct.pack("=I", program_fd))
            + _attribute(_BPF_NAME, name.encode() + b"\0")
            + _attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
        )
        message += _attribute(_KIND, b"bpf\0") + _attribute(_OPTIONS, options)
        self._ask(_NEWTFILTER, _ACK | _CREATE | (_REPLACE if replace else _EXCL), message)

    def remove_program(self, interface: int, handle: int, priority: int) -> None:
        """Remove one eBPF filter from the ingress."""
        message = _TC_HEADER.pack(0, interface, handle, INGRESS, _info(priority))
        self._ask(_DELTFILTER, _ACK, message + _attribute(_KIND, b"bpf\0"))

    def _ask(self, kind: int, flags: int, message: bytes) -> list[tuple[int, bytes]]:
        """Send one request; return what was answered, each with its type."""
        self._number += 1
        length = _HEADER.size + len(message)
        header = _HEADER.pack(length, kind, _REQUEST | flags, self._number, 0)
        self._socket.send(header + message)
        answers: list[tuple[int, bytes]] = []
        while True:
            for kind_, flags_, number, body in _messages(self._socket.recv(_RECEIVE)):
                if number != self._number:
                    continue
                if kind_ in (_ERROR, _DONE):
                    _raise_if_refused(flags_, body, with_header=kind_ == _ERROR)
                    return answers
                answers.append((kind_, body))


def _info(priority: int) -> int:
    return priority << 16 | socket.htons(_ALL_PROTOCOLS)


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        found[kind & 0x3FFF] = data[_ATTRIBUTE.size : length]  # without the flag bits
        data = data[max(length + 3 & ~3, _ATTRIBUTE.size) :]
    return found


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Cut what was received into messages: type, flags, number, body."""
    while len(data) >= _HEADER.size:
        length, kind, flags, number, _ = _HEADER.unpack_from(data)
        yield kind, flags, number, data[_HEADER.size : length]
        data = data[max(length + 3 & ~3, _HEADER.size) :]


def _raise_if_refused(flags: int, body: bytes, *, with_header: bool) -> None:
    """Raise for an error with its words, where the kernel has some."""
    (result,) = struct.unpack_from("=i", body) if len(body) >= 4 else (0,)
    if result >= 0:
        return
    words = os.strerror(-result)
    if flags & _ACK_TLVS:
        at = 4 + (_HEADER.size if with_header else 0)
        if with_header and not flags & _CAPPED:
            (length,) = struct.unpack_from("=I", body, 4)
            at = 4 + (length + 3 & ~3)
        said = _attributes(body[at:]).get(_ERROR_MESSAGE)
        if said:
            words = f"{words}: {_text(said)}"
    raise OSError(-result, words)


def _filter(body: bytes) -> Filter | None:
    """Read one filter of a dump; None for what only announces a priority."""
    _, _, handle, _, info = _TC_HEADER.unpack_from(body)
    attributes = _attributes(body[_TC_HEADER.size :])
    if _OPTIONS not in attributes:
        return None
    options = _attributes(attributes[_OPTIONS])
    kind = _text(attributes.get(_KIND, b""))
    program = options.get(_BPF_ID) if kind == "bpf" else None
    return Filter(
        kind=kind,
        handle=handle,
        priority=info >> 16,
        all_protocols=info & 0xFFFF == socket.htons(_ALL_PROTOCOLS),
        name=_text(options.get(_BPF_NAME, b"")) if kind == "bpf" else "",
        program_id=int.from_bytes(program, "little") if program else 0,
    )


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
