"""Where a trace is written: one file, stdout, or a ring of files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.tracing.pcapng import Out, Writer
from nfq_zerortt.tracing.stdout import StandardOutput


class _File:
    """A file that says what is wrong with it."""

    def __init__(self, path: Path) -> None:
        """Begin it anew; OSError if there cannot be one."""
        self._path = path
        self._file = path.open("wb")

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            self._give_up(error)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> NoReturn:
        with suppress(OSError):  # once more the same, of what is still to be written
            self._file.close()
        raise ZeroRttError(
            f"{self._path}: {error.strerror}: the trace ends there, and can be read up to there; "
            "--ring and --keep bound what a trace takes"
        ) from None


Head = Callable[[Out], Writer]
"""Begins a file."""


class Files:
    """One file, or with ``ring_bytes`` many: of the newest ``keep`` of them each is that long.

    ``writer`` is that of the present one. What cannot be written any more is a ZeroRttError of
    every method.
    """

    def __init__(
        self,
        path: str | StandardOutput,
        head: Head,
        ring_bytes: int = 0,
        keep: int = 0,
    ) -> None:
        """Begin; ConfigError if there cannot be such a file."""
        self._path = path
        self._head = head
        self._ring_bytes = ring_bytes
        self._keep = keep
        self._number = 0
        self._written: deque[Path] = deque()
        self._out: _File | StandardOutput
        self.writer: Writer
        self._open()

    @property
    def names(self) -> list[str]:
        """The files that there are now."""
        return [str(path) for path in self._written] or ["-"]

    def make_room(self) -> None:
        """Begin the next file if this one is full."""
        if self._ring_bytes and self.writer.size >= self._ring_bytes:
            self.close()
            self._open()

    def flush(self) -> None:
        """Let what is written be in the file."""
        self._out.flush()

    def close(self) -> None:
        """Finish the present file. What stdout has not taken by then, it does not get."""
        if not isinstance(self._out, StandardOutput):
            self._out.close()

    def _open(self) -> None:
        if isinstance(self._path, StandardOutput):
            self._out = self._path
        else:
            path = Path(self._path)
            if self._ring_bytes:
                self._number += 1
                path = path.with_name(f"{path.stem}_{self._number:05}{path.suffix}")
            try:
                self._out = _File(path)
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror}") from None
            self._written.append(path)
            if self._ring_bytes and len(self._written) > self._keep:
                self._written.popleft().unlink(missing_ok=True)
        self.writer = self._head(self._out)
        self._out.flush()
