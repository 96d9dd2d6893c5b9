"""Applies the iptables rules of ``iptables_rules/``, and takes exactly them away again.

Everything of ours is in chains named after the queue number, ``ZERORTT-0`` and its
like, with one jump from each built-in chain. So what a crashed run left behind is
found by name, whatever interfaces and ports it had, and nothing else is touched.
Each table is changed by one commit: packets meet the old rules or the new ones.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import iptables_rules
from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.kernel import declarations, xtables
from nfq_zerortt.kernel.bpf.layout import MARK_TRANSLATED
from nfq_zerortt.kernel.declarations import FAMILIES, U32_VALUES, Family, Table
from nfq_zerortt.kernel.xtables import CommitError, LegacyTable
from nfq_zerortt.ports import ALL_PORTS, PortSet

LAST_QUEUE = 65535
LONGEST_INTERFACE_NAME = 15
ATTEMPTS = 20
"""How often a write is tried while programs that ignore the lock write too."""

PAUSE_S = 0.002
"""Between two attempts, once more with each of them."""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of one service: which tables, and for which families of addresses.

    ``features.served_families`` tells which families this kernel has rules for.
    """

    tables: tuple[Table, ...]
    families: tuple[Family, ...] = FAMILIES

    @classmethod
    def for_clientnic(
        cls,
        client_iface: str,
        server_iface: str,
        ports: PortSet,
        queue: int = 0,
        families: Sequence[Family] = FAMILIES,
        *,
        workers: int = 1,
    ) -> RuleSet:
        """Fill in the declarations of ClientNIC; ``workers`` is how many queues there are.

        Raises ConfigError for a queue number or the name of an interface that cannot be.
        """
        if not 0 <= queue <= LAST_QUEUE:
            raise ConfigError(
                f"--queue: {queue} is not a queue number; allowed is 0 to {LAST_QUEUE}"
            )
        check_interface_name("--client-iface", client_iface)
        check_interface_name("--server-iface", server_iface)
        groups = ports.multiport_groups()
        text = declarations.fill_in(
            iptables_rules.read(iptables_rules.CLIENTNIC),
            {
                "client_iface": client_iface,
                "server_iface": server_iface,
                "queue": str(queue),
                "queues": _queues(queue, workers),
                "mark": f"{MARK_TRANSLATED:#x}",
            },
            {
                "dports": [f"-m multiport --dports {group}" for group in groups] or [""],
                "sports": [f"-m multiport --sports {group}" for group in groups] or [""],
                "quoted": _u32_groups(ports),
            },
        )
        return cls(declarations.parse(text, iptables_rules.CLIENTNIC), tuple(families))

    def text(self) -> str:
        """Return the rules as ``iptables-legacy-restore --noflush`` takes them.

        ip6tables-legacy-restore takes the same text: each ignores the other's lines.
        """
        return "\n".join(str(table.of(*self.families)) for table in self.tables) + "\n"

    def apply(
        self, instead_of: RuleSet | None = None, latest: Callable[[], float] = xtables.whenever
    ) -> bool:
        """Make the kernel hold exactly these rules in our chains, and verify that it does.

        A table that holds them already is not written. What an earlier service with the
        same queue number left, in either family, is replaced. A packet meets the old or the
        new rules of a table, never none. The order, raw before mangle, is the one in which
        more ports can be selected at any time: what is handled is never tracked.

        If it fails, none of ours are left; or, if given, the rules ``instead_of`` which these
        were to be applied: those that a running service has.

        ``latest`` is until when the lock is waited for (:func:`xtables.lock`).

        Returns:
            Whether anything had to be written.

        Raises:
            MissingFeatureError: no privilege, or the kernel lacks a table or an extension.
            ZeroRttError: the rules were not there when read back.
        """
        with xtables.lock(latest=latest):
            try:
                return self._put()
            except ZeroRttError:
                # Half of them is worse than none: untracked, but not handled.
                with contextlib.suppress(ZeroRttError):
                    if instead_of is None:
                        self._clear_all()
                    else:
                        instead_of._put()
                raise

    def _put(self) -> bool:
        written = False
        for family in FAMILIES:
            for table in self.tables:
                if family in self.families:
                    written |= _write(family, table.of(family), _install, _differences)
                else:
                    _clear(family, table)
        return written

    def remove(self, latest: Callable[[], float] = xtables.whenever) -> None:
        """Take our rules away, in both families; it does not matter whether they are there.

        ``latest`` is until when the lock is waited for (:func:`xtables.lock`).

        Raises:
            MissingFeatureError: no privilege.
            LockHeldError: nothing could be removed.
            ZeroRttError: rules of others hold on to our chains, which are empty then.
        """
        with xtables.lock(latest=latest):
            held = self._clear_all()
        if held:
            raise ZeroRttError(
                "our rules are removed, but rules that are not ours still jump to "
                f"{'; '.join(held)}: delete these jumps, then remove again"
            )

    def _clear_all(self) -> list[str]:
        return [
            f"{family} table {table.name}, chain {chain}"
            for family in FAMILIES
            for table in self.tables
            for chain in _clear(family, table)
        ]

    def missing(self) -> list[str]:
        """Return what the kernel lacks of these rules, or has too much in our chains.

        One text for each difference; empty when exactly these rules are applied.
        Raises MissingFeatureError without the privilege to look.
        """
        return [
            f"{family} table {table}: {difference}"
            for family, table, found in self._compared()
            for difference in found
        ]

    def differing(self) -> dict[str, str]:
        """Return the tables that are not as they shall be ("ipv4 mangle"), and the first reason.

        Raises MissingFeatureError without the privilege to look.
        """
        return {f"{family} {table}": found[0] for family, table, found in self._compared() if found}

    def _compared(self) -> Iterator[tuple[Family, str, list[str]]]:
        for family in self.families:
            for table in self.tables:
                found = ["all rules are missing"]
                if xtables.is_in_use(family, table.name):
                    with xtables.opened(family, table.name) as handle:
                        found = _differences(handle, table.of(family))
                yield family, table.name, found


def for_removal(queue: int) -> RuleSet:
    """Return the rules of a queue number without their interfaces: enough to remove them."""
    return RuleSet.for_clientnic("any", "any", ALL_PORTS, queue)


def _queues(first: int, count: int) -> str:
    """Return the options of NFQUEUE by which the packets of a connection come to one queue."""
    return f"--queue-balance {first}:{first + count - 1}" if count > 1 else f"--queue-num {first}"


def _u32_groups(ports: PortSet) -> list[str]:
    """Return the ports as the values of a u32 match, as many at a time as it takes."""
    if ports.is_all:
        return ["0:65535"]
    values = [f"{first}:{last}" if first < last else str(first) for first, last in ports.ranges]
    return [",".join(values[at : at + U32_VALUES]) for at in range(0, len(values), U32_VALUES)]


def check_interface_name(option: str, name: str) -> None:
    """Raise ConfigError naming ``option`` when no interface can have this name."""
    refused = set("/!+\"'\\")
    if (
        not 1 <= len(name.encode()) <= LONGEST_INTERFACE_NAME
        or refused & set(name)
        or any(letter.isspace() or not letter.isprintable() for letter in name)
    ):
        raise ConfigError(
            f"{option}: {name!r} is not the name of an interface; allowed are 1 to "
            f"{LONGEST_INTERFACE_NAME} letters without spaces and without any of / ! + \" ' \\"
        )


def _install(copy: LegacyTable, table: Table) -> None:
    _drop_jumps(copy, table)
    for chain in table.chains:
        if copy.has_chain(chain):
            copy.flush_chain(chain)
        else:
            copy.create_chain(chain)
    # Each -I goes before the last one: in reverse they end up in the declared order.
    for rule in reversed([rule for rule in table.rules if rule.first]):
        copy.add(rule)
    for rule in table.rules:
        if not rule.first:
            copy.add(rule)


def _uninstall(copy: LegacyTable, table: Table) -> None:
    _drop_jumps(copy, table)
    present = [chain for chain in table.chains if copy.has_chain(chain)]
    for chain in present:
        copy.flush_chain(chain)
    for chain in present:
        copy.delete_chain(chain)  # stays, empty, while rules of others jump to it


def _drop_jumps(copy: LegacyTable, table: Table) -> None:
    for jump in _possible_jumps(table):
        while copy.strike(jump):
            pass


def _possible_jumps(table: Table) -> list[declarations.Rule]:
    hooks = declarations.BUILT_IN[table.name]
    return [declarations.jump(hook, chain) for hook in hooks for chain in table.chains]


def _differences(copy: LegacyTable, table: Table) -> list[str]:
    """Tell what the kernel's table lacks and has too much; the copy is used up by it.

    Every expected rule is struck off the copy: what cannot be struck off is missing,
    what is left over is too much. In our chains each must be the first by then.
    """
    found: list[str] = []
    moved: list[str] = []
    for rule in table.rules:
        ours = rule.chain in table.chains and copy.has_chain(rule.chain)
        first = copy.first(rule.chain) if ours else 0
        if not copy.strike(rule):
            found.append(f"missing: {rule}")
        elif ours and copy.first(rule.chain) == first:
            moved.append(f"not in its place: {rule}")
    found += [f"too much: {jump}" for jump in _possible_jumps(table) if copy.strike(jump)]
    for chain in table.chains:
        if not copy.has_chain(chain):
            found.append(f"missing: chain {chain}")
        elif not copy.is_empty(chain):
            found.append(f"too much: further rules in chain {chain}")
    return found or moved


def _leftovers(copy: LegacyTable, table: Table) -> list[str]:
    """Tell what of ours can still be removed; the copy is used up by it."""
    found = [f"still there: {jump}" for jump in _possible_jumps(table) if copy.strike(jump)]
    for chain in table.chains:
        if copy.has_chain(chain):
            full = not copy.is_empty(chain)
            copy.flush_chain(chain)
            if full or copy.delete_chain(chain):
                found.append(f"still there: chain {chain}")
    return found


def _write(
    family: Family,
    table: Table,
    change: Callable[[LegacyTable, Table], None],
    differences: Callable[[LegacyTable, Table], list[str]],
) -> bool:
    """Change a table until reading it back shows no difference; tell if that was needed."""
    refused = ""
    for attempt in range(ATTEMPTS + 1):
        with xtables.opened(family, table.name) as copy:
            found = differences(copy, table)
        if not found:
            return attempt > 0
        if attempt < ATTEMPTS:
            with xtables.opened(family, table.name) as copy:
                change(copy, table)
                try:
                    copy.commit()
                except CommitError as error:
                    refused = f"; the kernel said: {error}"
                    time.sleep(PAUSE_S * attempt)
    raise ZeroRttError(
        f"the iptables rules could not be written, {ATTEMPTS} times ({family} table {table.name}: "
        f"{found[0]}{refused}); is another program rewriting them?"
    )


def _clear(family: Family, table: Table) -> list[str]:
    """Remove what is ours in a table; return the chains that rules of others hold on to."""
    if not xtables.is_in_use(family, table.name):
        return []
    _write(family, table, _uninstall, _leftovers)
    with xtables.opened(family, table.name) as copy:
        return [chain for chain in table.chains if copy.has_chain(chain)]
