"""Who is bound to a packet queue."""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path

from nfq_zerortt.errors import AbsentError
from nfq_zerortt.kernel import capabilities
from nfq_zerortt.kernel.queue_table import bound_queues

_UNBIND = struct.Struct("=IHHII BBH HHBxH")
"""nlmsghdr, nfgenmsg, nlattr and nfqnl_msg_config_cmd (linux/netfilter/nfnetlink_queue.h)."""
_ERROR = struct.Struct("=16x i")
"""nlmsghdr, and the beginning of nlmsgerr (linux/netlink.h)."""
_NETLINK_NETFILTER = 12
_NFQNL_MSG_CONFIG = 3 << 8 | 2
_NFQA_CFG_CMD = 1
_NFQNL_CFG_CMD_UNBIND = 2
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4
_PATIENCE_S = 1.0


def require_free_queue(queue: int) -> None:
    """See that no process is bound to the queue: a second one could not bind it either.

    Raises:
        AbsentError: somebody is, so there is none to be had.
    """
    try:
        port_id = _bound_to(queue)
        owner = None if port_id is None else _owner(port_id)
    except PermissionError:
        owner = "another process" if _is_refused(queue) else None
    if owner is not None:
        raise AbsentError(
            f"--queue: {queue} is in use in this namespace by {owner}; stop that "
            "program or choose another number"
        )


def bound_to(queue: int) -> int | None:
    """Return the netlink port, as a rule the process id, that is bound to a queue.

    None if nobody is, or only root may know it: whoever binds the queue then will see.
    """
    try:
        return _bound_to(queue)
    except PermissionError:
        return None


def _bound_to(queue: int) -> int | None:
    try:
        found = bound_queues().get(queue)
    except FileNotFoundError:
        return None
    return None if found is None else found.port_id


def _owner(port_id: int) -> str:
    """Say who it is; a netlink port is not always a process id."""
    try:
        words = Path(f"/proc/{port_id}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return f"netlink port {port_id}, as a rule the process id"
    ours = any("nfq-zerortt" in word or "nfq_zerortt" in word for word in words[:4])
    return f"{'another nfq-zerortt, ' if ours else ''}process {port_id}"


def _is_refused(queue: int) -> bool:
    """Ask the kernel to unbind a queue that is not ours, which it refuses if it is another's.

    Without CAP_NET_ADMIN nothing can be learned like that: then it is not.
    """
    if "CAP_NET_ADMIN" not in capabilities.effective():
        return False
    header = (_UNBIND.size, _NFQNL_MSG_CONFIG, _NLM_F_REQUEST | _NLM_F_ACK, 0, 0)
    about = (socket.AF_UNSPEC, 0, socket.htons(queue))
    command = (8, _NFQA_CFG_CMD, _NFQNL_CFG_CMD_UNBIND, 0)
    kind = (socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    try:
        with socket.socket(*kind) as asking:
            asking.settimeout(_PATIENCE_S)
            asking.send(_UNBIND.pack(*header, *about, *command))
            (number,) = _ERROR.unpack_from(asking.recv(4096))
    except OSError:
        return False  # whoever binds the queue then will see
    return bool(number == -errno.EPERM)
