"""Everybody's rules in this network namespace, as iptables and nft list them.

They are only read. A legacy table that nobody has used yet is not asked for.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
from typing import Any, NamedTuple

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import tools, xtables
from nfq_zerortt.kernel.declarations import Family

_ONLY_NFT_CAN = re.compile(r"incompatible( base-chains)?, use 'nft' tool")
"""What iptables-nft says of a table with rules or chains that are beyond its own language."""

_NO_FAMILY = os.strerror(errno.EAFNOSUPPORT)
"""What ip6tables says on a kernel without IPv6: nothing of it passes there, by rules or without."""

_LOCK_HELD = ("Can't lock ", "holding the xtables lock")
"""What iptables-legacy says where it waits in vain."""


def of_iptables(family: Family, command: str, table: str = "filter") -> list[list[str]]:
    """Return the rules that ``command`` (iptables-legacy and its like) lists, as words.

    There are none where there is no such command, where the kernel has no such family, or where
    only nft can tell of the table.

    Raises:
        LockHeldError: another program holds the lock of iptables.
        ZeroRttError: they cannot be read.
    """
    if command.endswith("-legacy") and not xtables.is_in_use(family, table):
        return []  # the command would create the table
    # Without -w the legacy command waits for the lock for ever.
    try:
        said = tools.run([command, "-w", "1", "-t", table, "-S"]) or ""
    except ZeroRttError as error:
        if _ONLY_NFT_CAN.search(str(error)) or _NO_FAMILY in str(error):
            return []
        if any(words in str(error) for words in _LOCK_HELD):
            raise xtables.LockHeldError(str(error)) from None
        raise
    lines = said.splitlines()
    if any(line.startswith("#") and _ONLY_NFT_CAN.search(line) for line in lines):
        return []
    return [shlex.split(line) for line in lines if not line.startswith("#")]


class NftRuleset(NamedTuple):
    """All chains and rules of nftables, those of iptables-nft among them.

    Each is an object of nft's JSON (libnftables-json(5)).
    """

    chains: list[dict[str, Any]]
    rules: list[dict[str, Any]]


def of_nft() -> NftRuleset:
    """Return what ``nft -j -t list ruleset`` lists; nothing where there is no nft.

    Raises:
        ZeroRttError: it cannot be read.
    """
    # Without what is in named sets: there may be hundreds of thousands of addresses.
    said = tools.run(["nft", "-j", "-t", "list", "ruleset"])
    objects: list[dict[str, Any]] = json.loads(said)["nftables"] if said else []
    return NftRuleset(
        chains=[one["chain"] for one in objects if "chain" in one],
        rules=[one["rule"] for one in objects if "rule" in one],
    )
