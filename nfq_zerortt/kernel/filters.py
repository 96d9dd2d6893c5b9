"""Our filters on the interfaces: which are ours, putting them on, taking them off.

A filter is ours if it is at our priority, at the handle of its queue, and has the
name of one of our programs. Those of others are left alone, wherever they are.

clsact can only be removed as a whole, and only who made it may. That fact has to
outlive the process, and to end when the interface does; so it is a bit of the
filter's handle. A filter of another queue of ours that finds the bit takes it over:
the last of them removes clsact.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import libbpf
from nfq_zerortt.kernel.bpf_object import PROGRAMS
from nfq_zerortt.kernel.tc import EGRESS, INGRESS, Filter, TrafficControl

PRIORITY = 0x5A54
CLSACT_IS_OURS = 0x20000
"""In a handle, beside the queue's number plus one."""

_ANOTHER_WAY = "or --data-path python"


@dataclass(frozen=True, slots=True)
class OurFilter:
    """A filter of ours, and the interface that it is on."""

    interface: str
    index: int
    filter: Filter

    @property
    def made_clsact(self) -> bool:
        """Whether clsact is there because of us."""
        return bool(self.filter.handle & CLSACT_IS_OURS)


def everywhere(control: TrafficControl, queue: int) -> list[OurFilter]:
    """Return our filters of a queue on all interfaces of this network namespace."""
    found = []
    for index, interface in socket.if_nameindex():
        for one in control.filters(index):
            if _queue_of(one) == queue:
                found.append(OurFilter(interface, index, one))
    return found


def queues(control: TrafficControl) -> set[int]:
    """Return the queues of which there are filters in this network namespace."""
    found = {_queue_of(one) for index, _ in socket.if_nameindex() for one in control.filters(index)}
    return {queue for queue in found if queue is not None}


def on(control: TrafficControl, interface: str, queue: int) -> OurFilter | None:
    """Return our filter of a queue on one interface.

    Raises:
        ZeroRttError: a filter of somebody else is in its place, or there is no such interface.
    """
    index = _index(interface)
    for one in control.filters(index):
        if one.priority != PRIORITY:
            continue
        if _queue_of(one) == queue:
            return OurFilter(interface, index, one)
        if not _fits(one) or one.handle & ~CLSACT_IS_OURS == queue + 1:
            raise ZeroRttError(
                f"interface {interface} has a filter of somebody else where the one of queue "
                f"{queue} belongs: {one}; remove it (tc filter del dev {interface} ingress pref "
                f"{PRIORITY}), {_ANOTHER_WAY}"
            )
    return None


def attach(queue: int, programs: Sequence[tuple[str, int, str]]) -> None:
    """Put programs (name, file descriptor, interface) on, each in place of ours that is there.

    Raises as follows, and then all is as it was before.

    Raises:
        MissingFeatureError: a privilege, clsact or cls_bpf is missing.
        ZeroRttError: no such interface, a filter of somebody else, or another refusal.
    """
    with TrafficControl() as control, ExitStack() as closing, ExitStack() as undoing:
        for name, program_fd, interface in programs:
            with _explained(interface):
                before = on(control, interface, queue)
                if before is None:
                    added = _add(control, interface, queue, name, program_fd)
                    undoing.callback(detach, control, added)
                    continue
                # Refused without CAP_SYS_ADMIN: then the new program stays, whatever else
                # fails. It works on the same maps.
                old_fd = libbpf.library().bpf_prog_get_fd_by_id(before.filter.program_id)
                if old_fd >= 0:
                    closing.callback(os.close, old_fd)
                _replace(control, before, name, program_fd)
                if old_fd >= 0:
                    undoing.callback(_replace, control, before, before.filter.name, old_fd)
        undoing.pop_all()


def _add(
    control: TrafficControl, interface: str, queue: int, name: str, program_fd: int
) -> OurFilter:
    index = _index(interface)
    with _explained(interface, "clsact (CONFIG_NET_SCH_INGRESS, modprobe sch_ingress)"):
        made = control.add_clsact(index)
    handle = queue + 1
    if made or any(_is_ours(one) and one.handle & CLSACT_IS_OURS for one in control.filters(index)):
        handle |= CLSACT_IS_OURS
    try:
        with _explained(interface, "cls_bpf (CONFIG_NET_CLS_BPF, modprobe cls_bpf)"):
            control.add_program(index, handle, PRIORITY, program_fd, name, replace=False)
    except BaseException:
        if made:
            control.remove_clsact(index)
        raise
    return OurFilter(interface, index, Filter("bpf", handle, PRIORITY, True, name, 0))


def _replace(control: TrafficControl, ours: OurFilter, name: str, program_fd: int) -> None:
    control.add_program(ours.index, ours.filter.handle, PRIORITY, program_fd, name, replace=True)


def detach(control: TrafficControl, ours: OurFilter) -> list[str]:
    """Remove a filter of ours, and clsact if we made it and nothing else is on it.

    Returns what was removed, in words. Raises OSError.
    """
    control.remove_program(ours.index, ours.filter.handle, PRIORITY)
    removed = [f"filter {ours.filter.name} on {ours.interface}"]
    if ours.made_clsact and not (
        control.filters(ours.index, INGRESS) or control.filters(ours.index, EGRESS)
    ):
        control.remove_clsact(ours.index)
        removed.append(f"clsact on {ours.interface}")
    return removed


def detach_all(queue: int) -> list[str]:
    """Remove our filters of a queue from all interfaces of this network namespace.

    Returns what was removed, in words. Raises MissingFeatureError if it may not.
    """
    removed = []
    with TrafficControl() as control:
        for one in everywhere(control, queue):
            with _explained(one.interface):
                removed += detach(control, one)
    return removed


def _fits(one: Filter) -> bool:
    return one.kind == "bpf" and one.all_protocols


def _is_ours(one: Filter) -> bool:
    return one.priority == PRIORITY and _fits(one) and one.name in PROGRAMS


def _queue_of(one: Filter) -> int | None:
    return (one.handle & ~CLSACT_IS_OURS) - 1 if _is_ours(one) else None


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise ZeroRttError(f"interface {interface} does not exist") from None


@contextmanager
def _explained(interface: str, needed: str = "") -> Iterator[None]:
    """Turn the kernel's refusals into errors for the user; ENOENT is that ``needed`` is missing."""
    try:
        yield
    except PermissionError:
        raise MissingFeatureError(
            "CAP_NET_ADMIN is missing for filters on interfaces: run as root, or give the "
            f"service that capability, {_ANOTHER_WAY}"
        ) from None
    except OSError as error:
        if needed and error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            raise MissingFeatureError(
                f"this kernel has no {needed}: {error.strerror}; load it, {_ANOTHER_WAY}"
            ) from None
        raise ZeroRttError(f"interface {interface}: {error.strerror}") from None
