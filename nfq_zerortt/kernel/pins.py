"""Pins of the maps in the bpf file system, by which a later process finds them.

One directory for each queue of each network namespace. The namespace's cookie is
unique as long as the machine runs, and the file system does not outlive that.

systemd's bpf file system is root's alone. A service that is not root has one directory
of it, :data:`LENT`, mounted where it may go (``systemd/nfq-zerortt.service``).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nfq_zerortt.kernel import libbpf
from nfq_zerortt.kernel.bpf_object import MAPS, close_all

_WHOLE = Path("/sys/fs/bpf")
LENT = _WHOLE / "nfq-zerortt"
"""What a service that is not root gets (``systemd/tmpfiles.conf``)."""
FILE_SYSTEM = Path(os.environ.get("NFQ_ZERORTT_BPF_FS", _WHOLE))
"""The bpf file system, as far as this process has one; the variable is set by systemd's units."""
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


def everywhere(queue: int) -> list[Path]:
    """Return where the pins of a queue can be: our own, and those of a service that is not root."""
    own = directory(queue)
    return [] if own is None else [own, LENT / own.name]


def queues() -> set[int]:
    """Return the queues of this network namespace of which there are pins."""
    found = set()
    for pattern in everywhere(0):
        prefix = pattern.name.removesuffix("0")
        with suppress(FileNotFoundError, PermissionError):  # then there are none for us
            names = os.listdir(pattern.parent)
            numbers = (one.removeprefix(prefix) for one in names if one.startswith(prefix))
            found |= {int(number) for number in numbers if number.isdecimal() and len(number) < 6}
    return found


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
                # Who may not look there, as in systemd's file system, has nothing there.
                if not os.access(where.parent, os.X_OK) or not (where / use).exists():
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
    with suppress(FileNotFoundError, NotADirectoryError):
        # In what is lent, names are another user's to make: a link leads root nowhere.
        held = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for name in os.listdir(held):
                os.unlink(name, dir_fd=held)
        finally:
            os.close(held)
        where.rmdir()
        return True
    return False
