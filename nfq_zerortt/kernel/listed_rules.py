"""Everybody's rules in this network namespace, as iptables and nft list them.

They are only read. A legacy table that nobody has used yet is not asked for.
"""

from __future__ import annotations

import json
import shlex
from typing import Any, NamedTuple

from nfq_zerortt.kernel import tools, xtables
from nfq_zerortt.kernel.declarations import Family

COMMANDS: dict[Family, str] = {"ipv4": "iptables", "ipv6": "ip6tables"}
"""The commands' names, to which ``-legacy`` or ``-nft`` is added."""


def of_iptables(family: Family, command: str, table: str = "filter") -> list[list[str]]:
    """Return the rules that ``command`` (iptables-legacy and its like) lists, as words.

    Raises:
        ZeroRttError: they cannot be read.
    """
    if command.endswith("-legacy") and not xtables.is_in_use(family, table):
        return []  # the command would create the table
    # Without -w the legacy command waits for the lock for ever.
    said = tools.run([command, "-w", "1", "-t", table, "-S"]) or ""
    return [shlex.split(line) for line in said.splitlines()]


class NftRuleset(NamedTuple):
    """All chains and rules of nftables, those of iptables-nft among them.

    Each is an object of nft's JSON (libnftables-json(5)).
    """

    chains: list[dict[str, Any]]
    rules: list[dict[str, Any]]


def of_nft() -> NftRuleset:
    """Return what ``nft -j list ruleset`` lists; nothing where there is no nft.

    Raises:
        ZeroRttError: it cannot be read.
    """
    said = tools.run(["nft", "-j", "list", "ruleset"])
    objects: list[dict[str, Any]] = json.loads(said)["nftables"] if said else []
    return NftRuleset(
        chains=[one["chain"] for one in objects if "chain" in one],
        rules=[one["rule"] for one in objects if "rule" in one],
    )
