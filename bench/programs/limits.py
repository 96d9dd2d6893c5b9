"""What the programs need to have many connections at once."""

from __future__ import annotations

import resource

BACKLOG = 4096


def allow_many_files() -> None:
    """Raise the limit of open files to what is allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
