"""Loads the compiled programs, with maps of their own or with those of an earlier process."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import capabilities, libbpf

PROGRAMS = ("zerortt_client", "zerortt_server")
"""The programs for the client's and for the server's interface, as the source names them."""

FLOWS, HANDLED, ENDINGS = "flows", "handled", "endings"
MAPS = (FLOWS, HANDLED, ENDINGS)
"""What the maps are for. A map is named so, with nothing but digits and _ behind it."""

_PRIVILEGES = frozenset({"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"})
_ANOTHER_WAY = "or --data-path python"


class OtherVersionError(ZeroRttError):
    """The maps of an earlier process are those of another version of this program."""


@dataclass(frozen=True, slots=True)
class LoadedObject:
    """File descriptors of the loaded maps, by what they are for, and of the programs, by name."""

    maps: Mapping[str, int]
    programs: Mapping[str, int]

    def close(self) -> None:
        """Close all; what is attached or pinned stays."""
        close_all(self.maps)
        close_all(self.programs)


def close_all(fds: Mapping[str, int]) -> None:
    """Close file descriptors."""
    for fd in fds.values():
        os.close(fd)


def purpose(name: str) -> str:
    """Return what a map of this name is for: one of MAPS, or something that is not ours."""
    return name.rstrip("0123456789_")


def load(
    max_flows: int, adopted: Mapping[str, int] | None = None, code: bytes | None = None
) -> LoadedObject:
    """Load the programs with these maps; those that are missing are made.

    ``adopted`` has file descriptors by what they are for; they stay the caller's. ``max_flows``
    counts only if the flow table is made. ``code`` is another compiled object than the package's.

    Raises:
        MissingFeatureError: libbpf, a privilege or something of the kernel is missing.
        OtherVersionError: an adopted map does not fit.
    """
    lib = libbpf.library()
    if code is None:
        code = resources.files("nfq_zerortt.kernel").joinpath("bpf", "zerortt.bpf.o").read_bytes()
    options = libbpf.OpenOptions(ctypes.sizeof(libbpf.OpenOptions), b"zerortt")
    with libbpf.listening() as said:
        opened = lib.bpf_object__open_mem(code, len(code), ctypes.byref(options))
        if not opened:
            raise MissingFeatureError(
                f"libbpf cannot read the eBPF programs ({libbpf.summary(said)}): "
                f"a newer libbpf, {_ANOTHER_WAY}"
            )
        try:
            maps = _maps(lib, opened)
            _adopt(lib, maps, adopted or {})
            if FLOWS not in (adopted or {}):
                libbpf.checked(
                    lib.bpf_map__set_max_entries(maps[FLOWS], max_flows), "size of the flow table"
                )
            result = lib.bpf_object__load(opened)
            if result < 0:
                raise _refusal(-result, libbpf.summary(said), max_flows)
            return _loaded(lib, opened, maps)
        finally:
            lib.bpf_object__close(opened)


def _maps(lib: ctypes.CDLL, opened: int) -> dict[str, int]:
    """Return libbpf's pointers to the maps, by what they are for."""
    found = {}
    one = lib.bpf_object__next_map(opened, None)
    while one:
        found[purpose(lib.bpf_map__name(one).decode())] = one
        one = lib.bpf_object__next_map(opened, one)
    return found


def _adopt(lib: ctypes.CDLL, maps: Mapping[str, int], adopted: Mapping[str, int]) -> None:
    for use, fd in adopted.items():
        ours, info = maps[use], libbpf.map_info(fd)
        wanted = {
            "name": lib.bpf_map__name(ours).decode(),
            "type": lib.bpf_map__type(ours),
            "key": lib.bpf_map__key_size(ours),
            "value": lib.bpf_map__value_size(ours),
            "flags": lib.bpf_map__map_flags(ours),
        }
        there = {
            "name": info.name.decode(),
            "type": info.type,
            "key": info.key_size,
            "value": info.value_size,
            "flags": info.map_flags,
        }
        if use != FLOWS:
            wanted["size"], there["size"] = lib.bpf_map__max_entries(ours), info.max_entries
        for field, value in wanted.items():
            if there[field] != value:
                raise OtherVersionError(
                    f"the kernel carries connections for another version of nfq-zerortt (map "
                    f"{use}: {field} {there[field]}, here {value}): let them end, or end them by "
                    "nfq-zerortt rules remove"
                )
        libbpf.checked(lib.bpf_map__reuse_fd(ours, fd), f"adopting the map {use}")


def _loaded(lib: ctypes.CDLL, opened: int, maps: Mapping[str, int]) -> LoadedObject:
    """Take file descriptors of our own, so that libbpf's memory can go."""
    with ExitStack() as on_failure:
        fds: tuple[dict[str, int], dict[str, int]] = {}, {}
        for fd_of in fds:
            on_failure.callback(close_all, fd_of)
        for use in MAPS:
            fds[0][use] = os.dup(lib.bpf_map__fd(maps[use]))
        for name in PROGRAMS:
            program = lib.bpf_object__find_program_by_name(opened, name.encode())
            fds[1][name] = os.dup(lib.bpf_program__fd(program))
        on_failure.pop_all()
    return LoadedObject(*fds)


def _refusal(error: int, said: str, max_flows: int) -> ZeroRttError:
    """Say why the kernel did not take the programs, and what can be done."""
    missing = ", ".join(sorted(_PRIVILEGES - _privileges()))
    if error in (errno.EPERM, errno.EACCES) and missing:
        return MissingFeatureError(
            f"{missing} is missing for the kernel data path: run as root, or give the service "
            f"{', '.join(sorted(_PRIVILEGES))}, {_ANOTHER_WAY}"
        )
    if error == errno.ENOSYS:
        return MissingFeatureError(
            f"this kernel has no eBPF: one with CONFIG_BPF_SYSCALL, {_ANOTHER_WAY}"
        )
    if error in (errno.ENOMEM, errno.E2BIG) and "map" in said:
        return MissingFeatureError(
            f"the kernel has no room for a table of {max_flows} flows: a smaller max_flows, "
            f"{_ANOTHER_WAY}"
        )
    why = said or os.strerror(error)
    return MissingFeatureError(
        f"kernel {platform.release()} does not take the eBPF programs ({why}): a newer kernel, "
        f"{_ANOTHER_WAY}"
    )


def _privileges() -> frozenset[str]:
    """Return those that this process has; CAP_SYS_ADMIN has two of them in it."""
    own = capabilities.effective()
    return own | {"CAP_BPF", "CAP_PERFMON"} if "CAP_SYS_ADMIN" in own else own
