"""The legacy xtables through python-iptables: the one place that touches it.

What python-iptables 1.2.0 leaves to its user, and is done here:

- A table's handle is a copy of the table from the moment it was opened. Writing an
  old copy back undoes what others did since. So a handle lives for one operation,
  opened afresh, under the lock that iptables itself takes, and nothing is written
  but by ``commit`` (with python-iptables' autocommit an error would be swallowed).
- Table objects are cached by name, across network namespaces: every opening renews
  the handle, which also moves it to the namespace of the calling thread.
- Creating a jump looks the chain up in all tables, which would bring nat, and with
  it connection tracking, to life in this namespace. Here it looks in its own table.
- For IPv6 it writes interface masks of 0x01 bytes, which compare the lowest bit of
  each letter only: a rule for ``eth0`` would match ``eth2`` too. Corrected here.
- Foreign rules are never decoded: their extensions may be unknown to the library.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import importlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import capabilities, declarations, modules
from nfq_zerortt.kernel.declarations import COMMANDS, Family
from nfq_zerortt.kernel.option_entries import repair_option_lookup

LOCK_FILE = "/run/xtables.lock"
"""What iptables locks; the same environment variable moves it (iptables(8))."""

LOCK_TIMEOUT_S = 10.0
LEAST_PATIENCE_S = 0.2
"""For the lock, in whatever hurry: commands hold it for a moment only."""

_NAMES_FILES: dict[Family, str] = {
    "ipv4": "/proc/thread-self/net/ip_tables_names",
    "ipv6": "/proc/thread-self/net/ip6_tables_names",
}
_PREFIXES: dict[Family, str] = {"ipv4": "ip", "ipv6": "ip6"}
_OWN_TABLES = frozenset({"raw", "mangle"})
"""The tables of our rules: to make them by looking does no harm."""


class CommitError(ZeroRttError):
    """The kernel did not take a table, as a rule because somebody else wrote it meanwhile."""


class LockHeldError(ZeroRttError):
    """Another program has the lock, and keeps it."""


def whenever() -> float:
    """Say that something may take until any moment."""
    return math.inf


@contextlib.contextmanager
def lock(
    timeout_s: float = LOCK_TIMEOUT_S, latest: Callable[[], float] = whenever
) -> Iterator[None]:
    """Hold the lock that keeps iptables commands and us from writing at the same time.

    ``latest`` is asked again and again until when (``time.monotonic``) it may be waited for, so
    that who is in a hurry all of a sudden can shorten that.

    Raises:
        MissingFeatureError: this user may not take it.
        LockHeldError: it stays taken for ``timeout_s``, or till then.
        ZeroRttError: it cannot be opened.
    """
    path = os.environ.get("XTABLES_LOCKFILE", LOCK_FILE)
    try:
        # To read it is enough to lock it, as iptables does.
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError:
        raise _no_lock(path) from None
    except OSError as error:
        raise ZeroRttError(f"cannot open the lock {path}: {error.strerror}") from None
    try:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if now >= min(began + timeout_s, max(latest(), began + LEAST_PATIENCE_S)):
                    raise LockHeldError(
                        f"another program has held the lock {path} for {round(now - began, 1):g} s;"
                        " end it (an iptables command that hangs?) and try again"
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def is_in_use(family: Family, table: str) -> bool:
    """Whether the table exists in this network namespace; asking does not create it."""
    try:
        return table in Path(_NAMES_FILES[family]).read_text(encoding="ascii").split()
    except FileNotFoundError:
        return False  # a kernel without legacy tables for this family
    except PermissionError:
        if not _has_privileges():
            raise _not_permitted() from None
    # That list is root's alone. With the privileges for the tables and nothing else:
    return _can_be_opened(family, table) if table in _OWN_TABLES else _is_loaded(family, table)


def _can_be_opened(family: Family, table: str) -> bool:
    try:
        with opened(family, table):
            return True
    except MissingFeatureError:
        return False


def _is_loaded(family: Family, table: str) -> bool:
    """Whether there can be such a table, going by the kernel's modules."""
    text = modules.LOADED.read_text(encoding="ascii") if modules.LOADED.exists() else ""
    loaded = {line.partition(" ")[0] for line in text.splitlines()}
    prefix = _PREFIXES[family]
    if f"{prefix}_tables" in loaded and f"{prefix}table_{table}" not in loaded:
        return False
    raise ZeroRttError(
        f"only root can tell whether the legacy {COMMANDS[family]} table {table} is in use"
    )


@contextlib.contextmanager
def opened(family: Family, table: str) -> Iterator[LegacyTable]:
    """Open a table for one operation; what was not committed by the end is forgotten.

    Raises MissingFeatureError when privileges, the kernel's table or a library are missing.
    """
    library = _library()
    table_class = library.Table if family == "ipv4" else library.Table6
    try:
        handle = table_class(table, autocommit=False)
        handle.refresh()
    except library.IPTCError as error:
        raise _cannot_open(family, table, _plain(error)) from None
    try:
        yield LegacyTable(family, handle)
    finally:
        handle.close()


class LegacyTable:
    """A copy of one kernel table, to be looked at, changed, and committed as a whole."""

    def __init__(self, family: Family, handle: Any) -> None:
        self._family: Family = family
        self._handle = handle
        self._error: type[Exception] = _library().IPTCError

    def has_chain(self, chain: str) -> bool:
        """Whether the chain exists."""
        return bool(self._handle.is_chain(chain))

    def is_empty(self, chain: str) -> bool:
        """Whether an existing chain has no rule."""
        return not self._handle.first_rule(chain)

    def create_chain(self, chain: str) -> None:
        """Add an empty chain."""
        self._handle.create_chain(chain)

    def flush_chain(self, chain: str) -> None:
        """Remove all rules of an existing chain."""
        self._handle.flush_entries(chain)

    def delete_chain(self, chain: str) -> bool:
        """Remove an existing, empty chain; False when rules still jump to it."""
        try:
            self._handle.delete_chain(chain)
        except self._error:
            return False
        return True

    def add(self, rule: declarations.Rule) -> None:
        """Add a rule at the end or the head of its chain, as it says.

        Raises MissingFeatureError when iptables has no such match or target.
        """
        built = self._built(rule)
        if rule.first:
            self._handle.insert_entry(rule.chain, built.rule, 0)
        else:
            self._handle.append_entry(rule.chain, built.rule)

    def first(self, chain: str) -> int:
        """Return what tells the first rule of an existing chain from all others, or 0."""
        entry = self._handle.first_rule(chain)
        return ctypes.addressof(entry) if entry else 0

    def strike(self, rule: declarations.Rule) -> bool:
        """Remove the first rule equal to this one; False when there is none."""
        target = rule.target
        if not self.has_chain(rule.chain):
            return False
        if target.name.startswith(declarations.OWN_PREFIX) and not self.has_chain(target.name):
            return False
        built = self._built(rule)
        try:
            self._handle.delete_entry(rule.chain, built.rule, built.mask)
        except self._error:
            return False
        return True

    def chains(self) -> tuple[str, ...]:
        """Return the names of all chains."""
        return tuple(chain.name for chain in self._handle.chains)

    def commit(self) -> None:
        """Put this copy in the kernel's place of the table, at once and as a whole.

        Raises CommitError when somebody else wrote meanwhile, MissingFeatureError when
        the kernel does not know a match or target.
        """
        try:
            self._handle.commit()
        except self._error as error:
            why = f"{COMMANDS[self._family]} table {self._handle.name}: {_plain(error)}"
            if "No chain/target/match" in why:
                raise MissingFeatureError(
                    f"the kernel lacks a match or target ({why}); 'nfq-zerortt check' tells which"
                ) from None
            raise CommitError(why) from None

    def _built(self, rule: declarations.Rule) -> Any:
        built = _rule_class(self._family)()
        built.only_table = self._handle
        if rule.protocol is not None:  # first: the options of multiport and icmp depend on it
            built.protocol = rule.protocol
        if rule.in_interface is not None:
            built.in_interface = rule.in_interface
            built.get_ip().iniface_mask = b"\xff" * (len(rule.in_interface) + 1)
        if rule.out_interface is not None:
            built.out_interface = rule.out_interface
            built.get_ip().outiface_mask = b"\xff" * (len(rule.out_interface) + 1)
        try:
            for match in rule.matches:
                _set_options(built.create_match(match.name), match)
            _set_options(built.create_target(rule.target.name), rule.target)
        except _library().XTablesError as error:
            raise MissingFeatureError(
                f"{COMMANDS[self._family]} does not take the rule '{rule}' ({_plain(error)}); "
                "install the complete iptables package (apt-get install iptables)"
            ) from None
        _ = built.rule  # lays the rule out, which its mask is computed from
        return built


def _set_options(extension: Any, wanted: declarations.Extension) -> None:
    for option in wanted.options:
        value = option.value or ""
        extension.set_parameter(
            option.name.removeprefix("--"), f"!{value}" * option.inverted or value
        )


@functools.cache
def _rule_class(family: Family) -> Any:
    library = _library()
    base = library.Rule if family == "ipv4" else library.Rule6
    return type(base.__name__, (base,), {"tables": property(lambda rule: [rule.only_table])})


@functools.cache
def _library() -> Any:
    # Imported when first needed: it starts ldconfig and modprobe, some 0.3 s.
    try:
        repair_option_lookup()
        return importlib.import_module("iptc")
    except Exception as error:  # its own import raises whatever went wrong in libxtables
        raise MissingFeatureError(
            f"python-iptables cannot be loaded ({_plain(error)}); "
            "apt-get install iptables, and pip install python-iptables"
        ) from None


def _plain(error: BaseException) -> str:
    # python-iptables puts bytes into its messages: b'Permission denied'.
    text = str(error) or type(error).__name__
    return text.replace("b'", "").replace('b"', "").rstrip("'\"")


def _not_permitted() -> MissingFeatureError:
    return MissingFeatureError(
        "CAP_NET_ADMIN and CAP_NET_RAW are missing, which iptables rules need; run as root"
    )


def _has_privileges() -> bool:
    return capabilities.effective() >= {"CAP_NET_ADMIN", "CAP_NET_RAW"}


def _no_lock(path: str) -> MissingFeatureError:
    if not _has_privileges():
        return _not_permitted()
    return MissingFeatureError(
        f"this user may not take the lock of iptables, {path}: let it read that file (chgrp, "
        "chmod 640; nfq-zerortt.service does), or run as root"
    )


def _cannot_open(family: Family, table: str, why: str) -> MissingFeatureError:
    if "ermission" in why or "ermitted" in why:
        return _not_permitted()
    prefix = _PREFIXES[family]
    remedy = modules.remedy(
        f"{prefix}table_{table}",
        f"CONFIG_NETFILTER_XTABLES_LEGACY and CONFIG_{prefix.upper()}_NF_{table.upper()}",
    )
    return MissingFeatureError(
        f"the kernel offers no legacy {COMMANDS[family]} table {table} ({why}), and nftables does "
        f"not stand in for it; {remedy}"
    )
