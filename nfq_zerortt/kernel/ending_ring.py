"""The ring buffer by which the programs tell of flows that ended."""

from __future__ import annotations

import ctypes

from nfq_zerortt.kernel import libbpf


class EndingRing:
    """Reads records. Those of one ring may be read in one process only."""

    def __init__(self, fd: int) -> None:
        """Map the ring; raises OSError."""
        self._lib = libbpf.library()
        self._records: list[bytes] = []
        self._most = 0
        # libbpf keeps a pointer to it, so it has to live as long as the ring.
        self._callback = libbpf.RECORD_CALLBACK(self._take)
        with libbpf.listening() as said:
            self._ring = self._lib.ring_buffer__new(fd, self._callback, None, None)
            if not self._ring:
                raise OSError(f"the ring of endings: {libbpf.summary(said)}")
        self.fd: int = self._lib.ring_buffer__epoll_fd(self._ring)
        """Readable while records wait."""

    def read(self, most: int) -> list[bytes]:
        """Return the records that wait, ``most`` at most; raises OSError."""
        self._records, self._most = [], most
        result = self._lib.ring_buffer__consume(self._ring)
        if not self._records:
            libbpf.checked(result, "the ring of endings")
        return self._records

    def _take(self, _context: int | None, record: int, size: int) -> int:
        self._records.append(ctypes.string_at(record, size))
        return -1 if len(self._records) >= self._most else 0  # this one counts as read

    def close(self) -> None:
        """Unmap the ring; what waits in it stays there."""
        if self._ring:
            self._lib.ring_buffer__free(self._ring)
            self._ring = None
