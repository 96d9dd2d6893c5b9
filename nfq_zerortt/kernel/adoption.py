"""Finds the maps that an earlier process has left in the kernel, with the flows in them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import filters, libbpf, pins
from nfq_zerortt.kernel.bpf_object import MAPS, close_all, purpose
from nfq_zerortt.kernel.tc import TrafficControl


def find_maps(queue: int, where: Path | None) -> dict[str, int]:
    """Open the maps that a queue's filters use, else those that are pinned; empty if none.

    The filters come first, since they are what packets go through. Pins help where the
    interfaces were made anew, and a process that has CAP_BPF, but not CAP_SYS_ADMIN.

    Raises:
        MissingFeatureError: there are filters, and no way to their maps.
        ZeroRttError: filters with different maps.
    """
    with TrafficControl() as control:
        programs = {one.filter.program_id for one in filters.everywhere(control, queue)}
    try:
        found = [maps for number in programs if (maps := _map_ids(number))]
        if any(maps != found[0] for maps in found):
            raise ZeroRttError(
                f"the filters of queue {queue} come from several runs: remove them, and end their "
                "connections, by nfq-zerortt rules remove"
            )
        return _open(found[0]) if found else _pinned(where)
    except PermissionError:
        if where is not None and (pinned := _pinned(where)):
            return pinned
        raise MissingFeatureError(
            "CAP_SYS_ADMIN is missing to go on with the connections of an earlier process: run as "
            "root, or remove what it left by nfq-zerortt rules remove"
        ) from None
    except OSError as error:
        raise ZeroRttError(
            f"what an earlier process left in the kernel cannot be read ({error.strerror}): "
            "nfq-zerortt rules remove"
        ) from None


def _map_ids(program: int) -> dict[str, int]:
    """Return the ids of a program's maps by what they are for; empty if it is gone."""
    lib = libbpf.library()
    program_fd = lib.bpf_prog_get_fd_by_id(program)
    if program_fd == -errno.ENOENT:
        return {}
    libbpf.checked(program_fd, f"eBPF program {program}")
    ids = {}
    try:
        for number in libbpf.map_ids(program_fd):
            fd = libbpf.checked(lib.bpf_map_get_fd_by_id(number), f"eBPF map {number}")
            try:
                ids[purpose(libbpf.map_info(fd).name.decode())] = number
            finally:
                os.close(fd)
    finally:
        os.close(program_fd)
    return ids


def _open(ids: dict[str, int]) -> dict[str, int]:
    lib = libbpf.library()
    fds: dict[str, int] = {}
    try:
        for use in MAPS:
            if use in ids:
                fds[use] = libbpf.checked(lib.bpf_map_get_fd_by_id(ids[use]), f"eBPF map {use}")
    except OSError:
        close_all(fds)
        raise
    return fds


def _pinned(where: Path | None) -> dict[str, int]:
    return {} if where is None else pins.find(where)
