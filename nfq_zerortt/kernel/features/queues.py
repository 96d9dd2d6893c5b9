"""Who is bound to a packet queue."""

from __future__ import annotations

from pathlib import Path

from nfq_zerortt.errors import AbsentError

_BOUND = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")


def require_free_queue(queue: int) -> None:
    """See that no process is bound to the queue: a second one could not bind it either.

    Raises:
        AbsentError: somebody is, so there is none to be had.
    """
    port_id = bound_to(queue)
    if port_id is not None:
        raise AbsentError(
            f"--queue: {queue} is in use in this namespace by {_owner(port_id)}; stop that "
            "program or choose another number"
        )


def bound_to(queue: int) -> int | None:
    """Return the netlink port, as a rule the process id, that is bound to a queue.

    None if nobody is, or only root may know it: whoever binds the queue then will see.
    """
    try:
        lines = _BOUND.read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, PermissionError):
        return None
    for number, port_id, *_ in map(str.split, lines):
        if int(number) == queue:
            return int(port_id)
    return None


def _owner(port_id: int) -> str:
    """Say who it is; a netlink port is not always a process id."""
    try:
        words = Path(f"/proc/{port_id}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return f"netlink port {port_id}, as a rule the process id"
    ours = any("nfq-zerortt" in word or "nfq_zerortt" in word for word in words[:4])
    return f"{'another nfq-zerortt, ' if ours else ''}process {port_id}"
