"""Keeps what was learned across restarts: the state file.

JSON lines: a head with the format's version, the time of writing and the number
of records, then the records of :mod:`nfq_zerortt.core.remembered`. It is written
at the end, and once a minute if something is new: the records are made in slices
between packets, and a thread writes them, since a disk may take its time.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from nfq_zerortt.core.fast_open import COOKIE_KEEP_S
from nfq_zerortt.core.learned import Memory
from nfq_zerortt.core.remembered import fingerprint, records, restore
from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.slices import PAUSE_S, slices

FORMAT = 1
EVERY_S = 60.0
_MARK = b'{"format":'
"""How every file of ours begins."""
_LARGEST = 1 << 26  # bytes; the bounds of the memory allow for less than half of it


class StateFileError(ZeroRttError):
    """The state file cannot be used; the message names it and says why."""


class Keeper:
    """Reads and writes the state file of one service.

    Times are those of the core's clock, ``time.monotonic()``.
    """

    def __init__(self, path: Path, memory: Memory) -> None:
        self._path = path
        self._memory = memory
        self._saved = fingerprint(memory)
        self._failed = ""
        self._writing = threading.Lock()

    def load(self) -> int:
        """Put what the file has into the memory; return how many records there were.

        Raises:
            StateFileError: it is damaged, too old or cannot be read. Nothing was taken from it.
        """
        try:
            with self._path.open("rb") as file:
                text = file.read(_LARGEST + 1)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise StateFileError(f"{self._path} cannot be read: {error.strerror}") from None
        try:
            count = self._restore(text)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StateFileError(f"{self._path} is ignored: {error}") from None
        self._saved = fingerprint(self._memory)
        return count

    def require_own(self) -> None:
        """See to it that what will be written replaces nothing but a file of ours.

        Raises:
            ConfigError: there is something else by that name, or its directory is closed to us.
        """
        path = self._path
        remedy = "name another file, or remove this one"
        try:
            is_other = path.is_symlink() or (path.exists() and not path.is_file())
        except PermissionError as error:
            raise ConfigError(
                f"state_file = {str(path)!r} cannot be reached ({error.strerror}): name a file in "
                "a directory that this user may enter"
            ) from None
        if is_other:
            raise ConfigError(f"state_file = {str(path)!r} is not a regular file: {remedy}")
        try:
            with path.open("rb") as file:
                head = file.read(len(_MARK))
        except FileNotFoundError:
            return
        except OSError:
            return  # load() says so
        if head and not head.startswith(_MARK):
            raise ConfigError(f"state_file = {str(path)!r} is no file of this service: {remedy}")

    def _restore(self, text: bytes) -> int:
        if len(text) > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")
        head, *lines = text.splitlines() or [b""]
        try:
            first = json.loads(head)
            version, written_at, count = first["format"], first["written_at"], first["records"]
            if not math.isfinite(written_at):
                raise ValueError
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise ValueError("it is no state file, or damaged") from None
        if version != FORMAT:
            raise ValueError(f"its format is {version}, this program reads {FORMAT}")
        if count != len(lines):
            raise ValueError(f"it is damaged: {len(lines)} records of {count}")
        # The clock may have been set since; then nothing says how long it was.
        elapsed = max(time.time() - written_at, 0.0)
        if elapsed > COOKIE_KEEP_S:
            raise ValueError(f"it is {elapsed / 86_400:.0f} days old")
        restore(self._memory, map(json.loads, lines), elapsed, time.monotonic())
        return len(lines)

    async def keep(self, failed: Callable[[str], None]) -> None:
        """Write the file once a minute if something is new, until cancelled.

        ``failed`` is told why it cannot be written, once.
        """
        while True:
            await asyncio.sleep(EVERY_S)
            known = fingerprint(self._memory)
            if known == self._saved:
                continue
            pieces, count = [], 0
            for made in slices(map(_line, records(self._memory, time.monotonic()))):
                pieces.append(b"".join(made))
                count += len(made)
                await asyncio.sleep(PAUSE_S)
            error = await asyncio.to_thread(self._write, pieces, count)
            if not error:
                self._saved = known
            self._tell(error, failed)

    def save(self, failed: Callable[[str], None]) -> None:
        """Write the file now, if something is new."""
        if fingerprint(self._memory) != self._saved:
            lines = [_line(record) for record in records(self._memory, time.monotonic())]
            self._tell(self._write(lines, len(lines)), failed)

    def _tell(self, error: str, failed: Callable[[str], None]) -> None:
        if error and error != self._failed:
            failed(error)
        self._failed = error

    def _write(self, pieces: list[bytes], count: int) -> str:
        """Replace the file in one step; return what went wrong, or nothing.

        In small writes: in between, the interpreter is free for the packets' thread.
        """
        with self._writing:
            return self._write_alone(pieces, count)

    def _write_alone(self, pieces: list[bytes], count: int) -> str:
        head = {"format": FORMAT, "written_at": time.time(), "records": count}
        beside = self._path.with_name(self._path.name + ".new")
        try:
            beside.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(beside, flags, 0o600), "wb") as file:
                file.write(_line(head))
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError as error:
            return f"{self._path} cannot be written: {error.strerror}"
        return ""


def _line(record: object) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"
