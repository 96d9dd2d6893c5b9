"""Runs a command under a kernel that lacks something: ``lacking.py WHAT COMMAND…``.

WHAT is legacy, ip6tables, nfqueue, or namespaces, which a sandbox refuses.

A seccomp filter makes the system calls by which one gets at it fail as they do where the module
is not there. All else is this machine's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_SYSCALLS = {
    "x86_64": {"getsockopt": 55, "socket": 41, "unshare": 272},
    "aarch64": {"getsockopt": 209, "socket": 198, "unshare": 97},
}
KNOWN = platform.machine() in _SYSCALLS

_IPT_SO_GET_INFO = 64  # linux/netfilter_ipv4/ip_tables.h; the same number for IPv6
_IPV6 = 41
_NETLINK_NETFILTER = 12
# What is refused: a system call, values of some of its arguments, and the error.
_LACKING: dict[str, list[tuple[str, dict[int, int], int]]] = {
    "legacy": [
        ("getsockopt", {1: level, 2: _IPT_SO_GET_INFO}, errno.ENOPROTOOPT) for level in (0, _IPV6)
    ],
    "ip6tables": [("getsockopt", {1: _IPV6, 2: _IPT_SO_GET_INFO}, errno.ENOPROTOOPT)],
    "nfqueue": [("socket", {0: 16, 2: _NETLINK_NETFILTER}, errno.EPROTONOSUPPORT)],
    "namespaces": [("unshare", {}, errno.EPERM)],
}

_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # linux/seccomp.h
_ARGUMENTS = 16  # offset in struct seccomp_data
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2  # linux/prctl.h


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _filter(call: str, arguments: dict[int, int], error: int) -> bytes:
    tests = [(0, _SYSCALLS[platform.machine()][call])]
    tests += [(_ARGUMENTS + 8 * number, value) for number, value in arguments.items()]
    program = b""
    for at, (offset, value) in enumerate(tests):
        to_the_end = 2 * (len(tests) - at) - 1
        program += struct.pack("=HBBI", _LOAD, 0, 0, offset)
        program += struct.pack("=HBBI", _JUMP_IF_EQUAL, 0, to_the_end, value)
    program += struct.pack("=HBBI", _RETURN, 0, 0, _ERRNO | error)
    return program + struct.pack("=HBBI", _RETURN, 0, 0, _ALLOW)


def main() -> None:
    what, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for refusal in _LACKING[what]:
        code = _filter(*refusal)
        kept = ctypes.create_string_buffer(code)
        program = _Program(len(code) // 8, ctypes.cast(kept, ctypes.c_void_p))
        if libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program)) != 0:
            sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
