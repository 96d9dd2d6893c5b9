"""Whether our rules are still in the kernel's tables: a glance, cheap enough for every few seconds.

The legacy tables tell nobody that they were changed: a firewall that is loaded anew, or an
iptables -F, takes our rules away without a word. So somebody has to look.
"""

from __future__ import annotations

from nfq_zerortt.kernel import xtables
from nfq_zerortt.kernel.declarations import Family, Table


def in_place(family: Family, table: Table) -> bool:
    """Tell whether the kernel's table has our chains, rules in them, and the jumps to them.

    ``table`` is what is declared for that family. A rule is told by its target alone: whoever
    flushes a table leaves none of them. (``RuleSet.missing`` compares every word, which takes
    a hundred times as long.)

    Raises:
        ZeroRttError: it cannot be looked at.
    """
    if not xtables.is_in_use(family, table.name):
        return False
    wanted: dict[str, list[str]] = {chain: [] for chain in table.chains}
    for rule in table.rules:
        wanted.setdefault(rule.chain, []).append(rule.target.name)
    with xtables.opened(family, table.name) as handle:
        for chain, targets in wanted.items():
            there = list(handle.targets(chain)) if handle.has_chain(chain) else None
            if chain in table.chains:
                if there != targets:
                    return False
            elif not set(targets) <= set(there or ()):  # rules of others are there, too
                return False
    return True
