"""Whether this router's firewall lets through what connection tracking does not see.

The packets that are handled are untracked (see ``iptables_rules/clientnic.rules``).
A firewall that lets pass only what belongs to a tracked connection drops them all,
also those of connections that pass untouched. Here FORWARD is walked as such a
packet would: each rule matches it, does not, or perhaps does (where that depends on
addresses, ports or marks). Only the rules are read; nothing is changed.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import xtables

PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
"""Where the tools are, also for a user whose PATH does not say so."""

_ACCEPTING = frozenset({"ACCEPT", "NFQUEUE", "QUEUE"})
_DROPPING = frozenset({"DROP", "REJECT"})
_DEEPEST = 32
_STATES = frozenset({"--ctstate", "--state"})


@dataclass(frozen=True, slots=True)
class Passage:
    """A packet that is to be forwarded: where it comes in and goes out; None if any."""

    came_in: str | None
    goes_out: str | None


def obstacles(client_iface: str | None = None, server_iface: str | None = None) -> list[str]:
    """Return what drops untracked TCP between the interfaces, one text each.

    Without interfaces, a rule for some interface counts as one that lets pass only if it
    names the state UNTRACKED.

    Raises:
        ZeroRttError: the rules cannot be read.
    """
    ways = [Passage(client_iface, server_iface), Passage(server_iface, client_iface)]
    if client_iface is None:
        del ways[1]
    found = []
    for command in ("iptables-legacy", "iptables-nft"):
        rules = _rules(command)
        for way in ways:
            end = Walk(rules, way).end() if rules else ""
            if end:
                towards = f" from {way.came_in} to {way.goes_out}" if way.came_in else ""
                found.append(f"{command} FORWARD ({end}){towards}")
    return found + _nft_obstacles()


def _run(argv: Sequence[str]) -> str | None:
    """Return what a command prints; None when there is no such command."""
    program = shutil.which(argv[0], path=PATH)
    if program is None:
        return None
    ran = subprocess.run([program, *argv[1:]], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise ZeroRttError(f"{' '.join(argv)} failed: {ran.stderr.partition(chr(10))[0]}")
    return ran.stdout


def _rules(command: str) -> list[list[str]]:
    if command == "iptables-legacy" and not xtables.is_in_use("ipv4", "filter"):
        return []  # the command would create the table
    return [shlex.split(line) for line in (_run([command, "-S"]) or "").splitlines()]


class Walk:
    """An untracked TCP packet on its way through the table filter, given as iptables -S does."""

    def __init__(self, rules: Sequence[Sequence[str]], passage: Passage) -> None:
        self._passage = passage
        self._chains: dict[str, list[Sequence[str]]] = {}
        self._policy = "ACCEPT"
        self._perhaps = False
        for words in rules:
            if words[:2] == ["-P", "FORWARD"]:
                self._policy = words[2]
            elif words[0] == "-A":
                self._chains.setdefault(words[1], []).append(words[2:])

    def end(self) -> str:
        """Return what surely drops the packet, as a text; empty when it passes or may pass."""
        verdict = self._through("FORWARD", 0)
        if verdict is None and self._policy in _DROPPING:
            verdict = f"policy {self._policy}"
        return "" if verdict is None or self._perhaps else verdict

    def _through(self, chain: str, depth: int) -> str | None:
        """Return the text of what drops, empty for accepted, None when the chain ends."""
        if depth > _DEEPEST:
            return None
        for words in self._chains.get(chain, ()):
            matches, named = self._matches(words)
            if matches is False or not (target := _target(words)):
                continue
            if target in _ACCEPTING:
                if matches:
                    return ""
                if named:
                    self._perhaps = True
            elif target in _DROPPING:
                if matches:
                    return f"rule {shlex.join(words)}"
            elif target == "RETURN":
                if matches:
                    return None
            elif target in self._chains:
                # What is dropped down there is so only if the packet gets there at all.
                verdict = self._through(target, depth + 1)
                if verdict == "" and not matches:
                    self._perhaps = self._perhaps or named
                elif verdict is not None and matches:
                    return verdict
        return None

    def _matches(self, words: Sequence[str]) -> tuple[bool | None, bool]:
        """Tell whether a rule matches (None: perhaps), and if that perhaps is worth something."""
        surely, named, foreign = True, False, False
        words = list(words)
        while words:
            inverted = words[0] == "!"
            option = words.pop(inverted)
            if option in ("-j", "-g"):
                break
            if inverted:
                del words[0]
            if option in ("-m", "--match"):
                del words[0]
                continue
            answer: bool | None = None
            if option in ("-i", "-o"):
                actual = self._passage.came_in if option == "-i" else self._passage.goes_out
                foreign = foreign or actual is None
                answer = _is_interface(words.pop(0), actual)
            elif option in ("-p", "--protocol"):
                answer = words.pop(0) in ("tcp", "6", "all")
            elif option == "--comment":
                del words[0]
                continue
            elif option in _STATES:
                answer = "UNTRACKED" in words.pop(0).split(",")
                named = named or answer
            if answer is not None and answer is inverted:
                return False, False
            surely = surely and answer is not None
            while words and not words[0].startswith(("-", "!")):
                del words[0]
        return (True if surely else None), (named or not foreign)


def _target(words: Sequence[str]) -> str:
    for flag in ("-j", "-g"):
        if flag in words[:-1]:
            return words[list(words).index(flag) + 1]
    return ""


def _is_interface(pattern: str, actual: str | None) -> bool | None:
    if actual is None:
        return None
    if pattern.endswith("+"):
        return actual.startswith(pattern[:-1])
    return pattern == actual


def _nft_obstacles() -> list[str]:
    """Look at nft's own chains: those that drop at their end and say nothing of untracked."""
    listed = _run(["nft", "-j", "list", "ruleset"])
    objects: list[dict[str, Any]] = json.loads(listed)["nftables"] if listed else []
    found = []
    for chain in (one["chain"] for one in objects if "chain" in one):
        table = (chain["family"], chain["table"])
        forwards = chain.get("hook") == "forward" and chain.get("type") == "filter"
        if not forwards or chain["family"] not in ("ip", "inet") or chain["name"] == "FORWARD":
            continue  # FORWARD in capitals is the iptables command's
        rules = [
            one["rule"]
            for one in objects
            if "rule" in one and (one["rule"]["family"], one["rule"]["table"]) == table
        ]
        own = [rule["expr"] for rule in rules if rule["chain"] == chain["name"]]
        drops = chain.get("policy") == "drop" or bool(own and _always_drops(own[-1]))
        if drops and not re.search(r'"untracked"', json.dumps(rules)):
            found.append(f"nft chain {' '.join(table)} {chain['name']}")
    return found


def _always_drops(expressions: Sequence[dict[str, Any]]) -> bool:
    words = {word for expression in expressions for word in expression}
    return bool(words & {"drop", "reject"}) and words <= {"drop", "reject", "counter", "log"}
