"""Pins of the maps in the bpf file system, by which a later process finds them.

One directory for each queue of each network namespace. The namespace's cookie is
unique as long as the machine runs, and the file system does not outlive that.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nfq_zerortt.kernel import libbpf
from nfq_zerortt.kernel.bpf_object import MAPS, close_all

FILE_SYSTEM = Path("/sys/fs/bpf")
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h; since Linux 5.14


def directory(queue: int) -> Path | None:
    """Return where the pins of a queue of this network namespace are; None where none can be."""
    if not _is_mounted():
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            raw = asked.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:  # an older kernel: the filters are found without pins, too
            return None
    return FILE_SYSTEM / f"nfq-zerortt-{int.from_bytes(raw, 'little')}-{queue}"


def _is_mounted() -> bool:
    # Fields as in proc(5): the mount point is the fifth, the type comes behind the hyphen.
    kind = ""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, rest = line.partition(" - ")
        if mount.split()[4] == str(FILE_SYSTEM):
            kind = rest.split()[0]  # the last one covers those before
    return kind == "bpf"


def find(where: Path) -> dict[str, int]:
    """Open the maps that are pinned there; empty unless all are. Raises OSError."""
    lib = libbpf.library()
    fds: dict[str, int] = {}
    try:
        for use in MAPS:
            fd = lib.bpf_obj_get(os.fsencode(where / use))
            if fd < 0:
                if not (where / use).exists():
                    break
                libbpf.checked(fd, f"opening {where / use}")
            fds[use] = fd
    except OSError:
        close_all(fds)
        raise
    if len(fds) < len(MAPS):
        close_all(fds)
        return {}
    return fds


def make(where: Path, maps: Mapping[str, int]) -> None:
    """Pin these maps there, and nothing else; on failure none is pinned. Raises OSError."""
    remove(where)
    lib = libbpf.library()
    try:
        where.mkdir(mode=0o700)
        for use in MAPS:
            libbpf.checked(
                lib.bpf_obj_pin(maps[use], os.fsencode(where / use)), f"pinning {where / use}"
            )
    except OSError:
        remove(where)
        raise


def remove(where: Path) -> bool:
    """Remove the pins; False if there were none. Raises OSError."""
    with suppress(FileNotFoundError):
        for entry in list(where.iterdir()):
            entry.unlink()
        where.rmdir()
        return True
    return False
