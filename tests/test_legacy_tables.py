"""Whether legacy tables are in use, as far as a user who is not root can tell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nfq_zerortt.errors import MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import capabilities, xtables
from nfq_zerortt.kernel.declarations import Family

PRIVILEGES = frozenset({"CAP_NET_ADMIN", "CAP_NET_RAW"})
MODULES = "ip_tables 28672 1 iptable_mangle, Live 0x0\niptable_mangle 16384 1 - Live 0x0\n"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /proc/modules; the kernel's list of tables cannot be read, as by non-root."""
    read = Path.read_text

    def read_text(path: Path, encoding: str) -> str:
        if path.name.endswith("_tables_names"):
            raise PermissionError
        return read(path, encoding)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(capabilities, "effective", lambda: PRIVILEGES)
    file = tmp_path / "modules"
    monkeypatch.setattr("nfq_zerortt.kernel.modules.LOADED", file)
    return file


def test_a_table_whose_module_is_not_loaded_is_not_there(modules: Path) -> None:
    modules.write_text(MODULES)
    assert not xtables.is_in_use("ipv4", "nat")


@pytest.mark.parametrize(
    ("text", "family"),
    [
        (MODULES + "iptable_nat 16384 0 - Live 0x0\n", "ipv4"),
        (MODULES, "ipv6"),  # ip6_tables may be built in
        ("", "ipv4"),
        (None, "ipv4"),
    ],
)
def test_else_it_cannot_be_told(modules: Path, text: str | None, family: Family) -> None:
    """To look into the table nat would bring connection tracking to life."""
    if text is not None:
        modules.write_text(text)
    with pytest.raises(ZeroRttError, match="only root can tell"):
        xtables.is_in_use(family, "nat")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can open iptables' tables")
def test_tables_of_our_own_rules_may_come_to_life(modules: Path) -> None:
    assert xtables.is_in_use("ipv4", "raw")
    assert xtables.is_in_use("ipv6", "mangle")


def test_without_the_privileges_that_is_what_is_missing(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "effective", frozenset)
    with pytest.raises(MissingFeatureError, match="CAP_NET_ADMIN"):
        xtables.is_in_use("ipv4", "raw")
