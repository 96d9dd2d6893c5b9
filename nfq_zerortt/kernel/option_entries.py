"""A repair of python-iptables 1.2.0 for libxtables 1.8.11 and later (Debian 13).

libxtables 1.8.11 appended ``unsigned int base`` to ``struct xt_option_entry``. python-iptables
still steps through an extension's options by the old size and so finds only the first of each:
NFQUEUE has no queue-bypass for it, multiport no dports, addrtype no dst-type.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

# No pointer to a name lies in the first page of memory; every value of `base` does.
_FIRST_PAGE = 4096


def repair_option_lookup() -> None:
    """Make python-iptables find every option of an extension, whichever layout libxtables has."""
    binding = importlib.import_module("iptc.xtables")
    entry_type = binding.xt_option_entry
    old_size = ctypes.sizeof(entry_type)
    with_base = type(
        "xt_option_entry_1_8_11", (entry_type,), {"_fields_": [("base", ctypes.c_uint)]}
    )
    new_size = ctypes.sizeof(with_base)

    def lookup(_self: Any, entries: Any, name: bytes) -> Any:
        address = ctypes.addressof(entries.contents)
        # Where the second entry's name would stand in the old layout stands `base` in the new
        # one, or, in a list of one, the end of the list: then either step leads to an end.
        second = ctypes.c_size_t.from_address(address + old_size).value
        size = new_size if second < _FIRST_PAGE else old_size
        while (entry := entry_type.from_address(address)).name:
            if entry.name == name:
                return entry
            address += size
        return None

    binding.xtables._option_lookup = lookup
