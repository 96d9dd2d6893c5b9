"""What is known of a running testbed across commands: a file and a lock in /run.

The file is written before the first namespace is made and removed after the
last one is gone, so wherever ``up`` is interrupted, the next command knows
that there may be something to clear away, and that it is ours.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.testbed.processes import ProcessId
from nfq_zerortt.testbed.wan import WanSettings

DIRECTORY = Path("/run/nfq-zerortt/testbed")

DELAY_LINE, INJECTOR = "delayline", "injector"
"""The processes that a testbed may have; they name their files."""

_LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class State:
    """A testbed as the last command left it.

    ``complete`` is False from the moment when something is begun until it is done.
    """

    complete: bool
    settings: WanSettings
    emulation: str | None = None
    congestion_control: str | None = None
    delay_line: ProcessId | None = None
    injector: ProcessId | None = None


def state_file(name: str) -> Path:
    """The file of the testbed ``name``."""
    return DIRECTORY / f"{name}.json"


def status_file(name: str, role: str) -> Path:
    """The file into which a process of the testbed ``name`` writes its own figures."""
    return DIRECTORY / f"{name}.{role}.json"


def log_file(name: str, role: str) -> Path:
    """What a process of the testbed ``name`` said on stdout and stderr."""
    return DIRECTORY / f"{name}.{role}.log"


def save(name: str, state: State) -> None:
    """Write the state so that a reader sees the old one or the new one, never a half."""
    write_json(state_file(name), asdict(state) | {"settings": state.settings.document()})


def load(name: str) -> State | None:
    """Return what the last command left; None when there is no such testbed."""
    try:
        document = json.loads(state_file(name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        document = {}
    try:
        delay_line, injector = document["delay_line"], document["injector"]
        return State(
            complete=document["complete"],
            settings=WanSettings.of(document["settings"]),
            emulation=document["emulation"],
            congestion_control=document["congestion_control"],
            delay_line=ProcessId(**delay_line) if delay_line else None,
            injector=ProcessId(**injector) if injector else None,
        )
    except (KeyError, TypeError, ValueError, ZeroRttError):
        # Of another version, or damaged: a testbed of ours that has to be built again.
        return State(complete=False, settings=WanSettings())


def remove(name: str) -> None:
    """Forget the testbed, the state file last."""
    of_processes = [
        file(name, role) for role in (DELAY_LINE, INJECTOR) for file in (status_file, log_file)
    ]
    for file in (*of_processes, state_file(name)):
        file.with_suffix(".tmp").unlink(missing_ok=True)  # of a writer that was killed
        file.unlink(missing_ok=True)


def write_json(file: Path, document: dict[str, Any]) -> None:
    """Replace a file by a JSON document in one step."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(file)


@contextmanager
def locked() -> Iterator[int]:
    """Hold the lock of all testbeds; gives its file descriptor.

    It is the directory itself that is locked, so there is no lock file to
    leave behind; and one lock for all, since congestion control is switched
    in a setting that they share.
    """
    DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(DIRECTORY, os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ZeroRttError(
                        f"another testbed command has held {DIRECTORY} for "
                        f"{_LOCK_TIMEOUT_S:.0f} s: see who with `fuser -v {DIRECTORY}`"
                    ) from None
                time.sleep(0.02)
        yield fd
    finally:
        os.close(fd)
