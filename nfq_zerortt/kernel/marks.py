"""Rules of others that would clear the bit by which the kernel data path marks a packet.

The bit is set where a packet comes in, and is read in FORWARD (``iptables_rules/clientnic.rules``).
A rule between the two that sets the whole mark, as ``MARK --set-mark 1`` does, clears it: the
packet is then taken for one that nobody has renumbered, and is renumbered twice. Only the rules
are read; nothing is changed.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from nfq_zerortt.kernel import listed_rules
from nfq_zerortt.kernel.declarations import COMMANDS, FAMILIES
from nfq_zerortt.kernel.table_walk import TCP, Passage, Walk

_HOOKS = {"raw": ("PREROUTING",), "mangle": ("PREROUTING", "FORWARD")}
"""Where it could happen; what is untracked does not meet the table nat."""

_ALL_BITS = "0xffffffff"


def cleared_by(bit: int, client_iface: str | None, server_iface: str | None) -> list[str]:
    """Return the rules that change the bit in packets between the interfaces, as texts.

    Without interfaces, those for any interface.

    Raises:
        ZeroRttError: the rules cannot be read.
    """
    found: list[str] = []
    ways = [(client_iface, server_iface), (server_iface, client_iface)]
    for family in FAMILIES:
        for variant in ("legacy", "nft"):
            command = f"{COMMANDS[family]}-{variant}"
            for table, hooks in _HOOKS.items():
                rules = listed_rules.of_iptables(family, command, table)
                for hook, (came_in, goes_out) in itertools.product(hooks, ways) if rules else ():
                    passage = Passage(came_in, goes_out, TCP, hook)
                    found += [
                        f"{command} -t {table}: {shlex.join(words)}"
                        for words in Walk(rules, passage).may_meet()
                        if _changes(words, bit)
                    ]
    found += _nft(bit)
    return list(dict.fromkeys(found))


def _changes(words: Sequence[str], bit: int) -> bool:
    """Whether a rule as ``iptables -S`` lists it sets or clears the bit."""
    if "--set-xmark" not in words[:-1]:
        return False  # iptables lists each way to set the mark as this one
    value, _, mask = words[words.index("--set-xmark") + 1].partition("/")
    # The bits of the mask are cleared, then those of the value flipped.
    return bool((int(value, 0) | int(mask or _ALL_BITS, 0)) & bit)


def _nft(bit: int) -> Iterator[str]:
    ruleset = listed_rules.of_nft()
    hooks = {
        (chain["family"], chain["table"], chain["name"]): chain.get("hook")
        for chain in ruleset.chains
    }
    for rule in ruleset.rules:
        place = (rule["family"], rule["table"], rule["chain"])
        # A chain without a hook is one that others jump to: from wherever.
        if hooks.get(place) not in (None, "prerouting", "forward"):
            continue
        for one in (part["mangle"] for part in rule["expr"] if "mangle" in part):
            if one["key"] == _MARK and not _keeps(one["value"], bit):
                yield f"nft {' '.join(place)}: meta mark set"


_MARK = {"meta": {"key": "mark"}}


def _keeps(value: Any, bit: int) -> bool:
    """Whether what an nft rule sets the mark to has the bit as it was."""
    if value == _MARK:
        return True
    if not isinstance(value, dict) or len(value) != 1:
        return False
    ((operator, operands),) = value.items()
    if operator not in ("&", "|", "^") or not isinstance(operands[1], int):
        return False
    return _keeps(operands[0], bit) and bool(operands[1] & bit) is (operator == "&")
