"""How to get a part of the kernel that is missing: a line for the one who has to do it."""

from __future__ import annotations

import platform
from pathlib import Path

LOADED = Path("/proc/modules")
_INSTALLED = Path("/lib/modules")


def remedy(
    modules: str,
    options: str,
    *,
    loaded: Path = LOADED,
    installed: Path = _INSTALLED,
    release: str | None = None,
) -> str:
    """Return what to do about modules (separated by spaces) that the kernel lacks.

    ``options`` are the kernel's configuration options for the same thing. The paths are those of
    this machine, and ``release`` is that of the running kernel, unless given.
    """
    release = release or platform.release()
    text = f"modprobe {modules}, or a kernel with {options}"
    if not loaded.exists():
        return f"{text} (the running kernel takes no modules)"
    if not _may_be_there(installed / release):
        return (
            f"{text} (the modules of the running kernel, {release}, are not installed here: "
            "reboot if it was upgraded since; in a container, load them on its host)"
        )
    return text


def _may_be_there(directory: Path) -> bool:
    try:
        directory.stat()
    except FileNotFoundError:
        return False
    except PermissionError:  # systemd's ProtectKernelModules= hides them from the service
        return True
    return True
