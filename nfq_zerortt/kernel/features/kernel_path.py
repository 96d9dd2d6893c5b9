"""What the kernel data path needs. Without it the service runs all the same, in Python."""

from __future__ import annotations

import functools
import os
import sys

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import bpf_object, capabilities, filters, libbpf, marks, pins
from nfq_zerortt.kernel.bpf.layout import MARK_TRANSLATED
from nfq_zerortt.kernel.features.feature import Feature, not_looked_at, tried

_FILTERS = "kernel data path: filters"


def bpf_library() -> Feature:
    """The library that loads the programs."""
    name = "kernel data path: libbpf"
    try:
        libbpf.library()
    except MissingFeatureError as error:
        return Feature(name, False, False, str(error))
    return Feature(name, True, False, f"{libbpf.LIBRARY} can be loaded")


@functools.cache
def bpf_programs() -> Feature:
    """Whether the kernel takes the programs from this process, and the maps: tried by loading.

    This and the next are tried once in a process: it takes a moment.
    """
    name = "kernel data path: programs"
    try:
        bpf_object.load(1).close()
    except ZeroRttError as error:
        return Feature(name, False, False, str(error))
    return Feature(name, True, False, "the kernel takes them")


@functools.cache
def bpf_filters() -> Feature:
    """Whether a program can be put at the ingress of an interface: tried on one of its own."""
    try:
        loaded = bpf_object.load(1)
    except ZeroRttError:
        return Feature(_FILTERS, None, False, "cannot be tried without the programs")

    def attach() -> str:
        program = bpf_object.PROGRAMS[0]
        filters.attach(0, [(program, loaded.programs[program], "lo")])
        return "clsact and cls_bpf take a program"

    try:
        return tried(_FILTERS, attach, "", required=False)
    finally:
        loaded.close()


def bpf_pins() -> Feature:
    """Whether the next process will find the flows of this one."""
    name = "kernel data path: restart"
    where = pins.directory(0)
    if where is not None and os.access(pins.FILE_SYSTEM, os.W_OK):
        return Feature(name, True, False, f"the flows of a process are kept in {pins.FILE_SYSTEM}")
    if "CAP_SYS_ADMIN" in capabilities.effective():
        return Feature(name, True, False, "the flows of a process are found by its filters")
    if where is None:
        remedy = f"mount -t bpf bpf {pins.FILE_SYSTEM}"
        problem = f"{pins.FILE_SYSTEM} is not a bpf file system (or Linux is older than 5.14)"
    else:
        remedy = (
            "run as root, or give the service a directory of its own there and name it in "
            "NFQ_ZERORTT_BPF_FS, as nfq-zerortt.service does"
        )
        problem = f"{pins.FILE_SYSTEM} may not be written to"
    detail = f"a new process cannot go on with the flows of an earlier one: {problem}"
    return Feature(name, False, False, detail, remedy)


def mark_bit(client_iface: str | None = None, server_iface: str | None = None) -> Feature:
    """Whether the mark of a packet that the kernel has renumbered gets to our rules."""
    name = "kernel data path: mark"
    try:
        found = marks.cleared_by(MARK_TRANSLATED, client_iface, server_iface)
    except ZeroRttError as error:
        return not_looked_at(name, error)
    if not found:
        return Feature(name, True, False, f"no rule changes bit {MARK_TRANSLATED:#x} of the mark")
    return Feature(
        name,
        False,
        False,
        f"bit {MARK_TRANSLATED:#x} of the mark, which says that the kernel has renumbered a packet,"
        f" is changed by {' and by '.join(found)}: connections break there",
        "set only the bits that are meant there (MARK --or-mark VALUE; with nft, meta mark set "
        "meta mark or VALUE), or --data-path python",
    )


def kernel_data_path() -> Feature:
    """Whether the kernel can carry established flows here; the detail says why not."""
    name = "kernel data path"
    if sys.byteorder != "little":
        return Feature(name, False, False, "the programs are built for little-endian machines")
    for probe in (bpf_library, bpf_programs, bpf_filters):
        feature = probe()
        if feature.ok is False:
            return Feature(name, False, False, feature.detail, feature.remedy)
    return Feature(name, True, False, "established flows are carried by the kernel")
