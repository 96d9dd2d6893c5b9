"""The kernel's table of flows, as bytes: one call is one system call.

Nothing is converted here and nothing allocated that can be kept, since find,
insert, take and remove are called for each connection.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

from nfq_zerortt.kernel import libbpf

_FULL = frozenset({-errno.E2BIG, -errno.ENOMEM, -errno.EBUSY})
"""No room, no memory, or (hardly ever) the bucket is being worked on: the flow stays outside."""

_ABSENT = -errno.ENOENT
_BUCKET_TOO_BIG = -errno.ENOSPC
_NO_TAKE = frozenset({-errno.EINVAL, -errno.EOPNOTSUPP, -524})
"""What kernels before 5.14 answer to BPF_MAP_LOOKUP_AND_DELETE_ELEM on a hash (524: ENOTSUPP)."""


class FlowMap:
    """A hash map of the kernel. Every method raises OSError for what should never happen.

    Attributes:
        max_entries: how many entries it takes.
    """

    def __init__(self, fd: int) -> None:
        """Work on a map; the file descriptor stays the caller's."""
        info = libbpf.map_info(fd)
        lib = libbpf.library()
        self.max_entries: int = info.max_entries
        self._fd = fd
        self._key_size: int = info.key_size
        self._value_size: int = info.value_size
        self._buffer = ctypes.create_string_buffer(self._value_size)
        self._value = ctypes.addressof(self._buffer)
        self._look_up = lib.bpf_map_lookup_elem
        self._update = lib.bpf_map_update_elem
        self._delete = lib.bpf_map_delete_elem
        self._look_up_and_delete = lib.bpf_map_lookup_and_delete_elem
        self._look_up_batch = lib.bpf_map_lookup_batch

    def find(self, key: bytes) -> bytes | None:
        """Return the value of a key, None if there is none."""
        result = self._look_up(self._fd, key, self._value)
        if result == 0:
            return self._buffer.raw
        return self._absent(result, "BPF_MAP_LOOKUP_ELEM")

    def insert(self, key: bytes, value: bytes) -> bool:
        """Put an entry in, in place of an earlier one of that key; False if there is no room."""
        result = self._update(self._fd, self._sized(key, value), value, libbpf.ANY)
        if result == 0:
            return True
        if result in _FULL:
            return False
        raise _error(result, "BPF_MAP_UPDATE_ELEM")

    def replace(self, key: bytes, value: bytes) -> bool:
        """Give an entry another value; False if it is gone or there is no memory.

        What the programs write into the entry at that moment is lost.
        """
        result = self._update(self._fd, self._sized(key, value), value, libbpf.EXIST)
        if result == 0:
            return True
        if result == _ABSENT or result in _FULL:
            return False
        raise _error(result, "BPF_MAP_UPDATE_ELEM")

    def take(self, key: bytes) -> bytes | None:
        """Remove an entry and return its last value, None if there is none."""
        result = self._look_up_and_delete(self._fd, key, self._value)
        if result == 0:
            return self._buffer.raw
        if result in _NO_TAKE:
            found = self.find(key)
            return found if found is not None and self.remove(key) else None
        return self._absent(result, "BPF_MAP_LOOKUP_AND_DELETE_ELEM")

    def remove(self, key: bytes) -> bool:
        """Remove an entry; False if there is none."""
        result = self._delete(self._fd, key)
        if result == 0:
            return True
        self._absent(result, "BPF_MAP_DELETE_ELEM")
        return False

    def entries(self, batch: int = 256) -> Iterator[list[tuple[bytes, bytes]]]:
        """Walk through the map: each step is one system call and gives about ``batch`` entries.

        The map may change between the steps: an entry that is there all the time comes just once,
        one that comes or goes meanwhile comes or not.
        """
        key_size, value_size = self._key_size, self._value_size
        for keys, values, count in self._batches(batch):
            yield [
                (
                    keys[index * key_size : (index + 1) * key_size],
                    values[index * value_size : (index + 1) * value_size],
                )
                for index in range(count)
            ]

    def keys(self, batch: int = 1024) -> Iterator[list[bytes]]:
        """Walk through the map as entries() does, for the keys alone."""
        size = self._key_size
        for keys, _, count in self._batches(batch):
            yield [keys[index * size : (index + 1) * size] for index in range(count)]

    def count(self) -> int:
        """Count the entries by a walk through them all."""
        return sum(count for _, _, count in self._batches(4096))

    def _batches(self, room: int) -> Iterator[tuple[bytes, bytes, int]]:
        # The kernel goes by buckets, and gives a bucket as a whole; their number never changes.
        place = ctypes.c_uint32()
        start: ctypes.c_uint32 | None = None
        while True:
            count = ctypes.c_uint32(room)
            keys = ctypes.create_string_buffer(room * self._key_size)
            values = ctypes.create_string_buffer(room * self._value_size)
            result = self._look_up_batch(
                self._fd,
                None if start is None else ctypes.addressof(start),
                ctypes.addressof(place),
                keys,
                values,
                ctypes.byref(count),
                None,
            )
            if result == _BUCKET_TOO_BIG:
                room *= 2
                continue
            if result < 0 and result != _ABSENT:
                raise _error(result, "BPF_MAP_LOOKUP_BATCH")
            if count.value:
                yield keys.raw, values.raw, count.value
            if result == _ABSENT:
                return
            start = ctypes.c_uint32(place.value)

    def _sized(self, key: bytes, value: bytes) -> bytes:
        """Return the key, if both are as long as the kernel will read."""
        if len(key) != self._key_size or len(value) != self._value_size:
            raise ValueError(
                f"{len(key)} and {len(value)} bytes instead of {self._key_size} and "
                f"{self._value_size} for an entry of the flow table"
            )
        return key

    @staticmethod
    def _absent(result: int, what: str) -> None:
        if result != _ABSENT:
            raise _error(result, what)


def _error(result: int, what: str) -> OSError:
    return OSError(-result, f"{what}: {os.strerror(-result)}")
