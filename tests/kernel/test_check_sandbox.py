"""What is found out where nothing can be tried in a namespace, as in systemd's sandbox."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
from support import lacking
from support.chain import Namespace

pytestmark = pytest.mark.skipif(
    not lacking.KNOWN,
    reason=f"the system calls of {platform.machine()} are not in support/lacking.py",
)


def without(*what: str) -> list[str]:
    """A prefix of a command: it runs where these are lacking, as the service's user would."""
    program = str(Path(lacking.__file__))
    privileges = ("setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all")
    lacks = [word for one in what for word in (sys.executable, program, one)]
    return [*privileges, *lacks]


def said(host: Namespace, call: str, *what: str) -> str:
    done = host.python(f"print({call})", *without("namespaces", *what))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_families_go_by_the_tables_themselves(host: Namespace) -> None:
    assert said(host, "features.served_families()") == "('ipv4', 'ipv6')"
    assert said(host, "features.served_families()", "ip6tables") == "('ipv4',)"


def test_a_table_of_ours_is_in_use_if_it_can_be_opened(host: Namespace, tmp_path: Path) -> None:
    """A user who is not root may not read the list of tables."""
    hidden = tmp_path / "names"
    hidden.touch(mode=0o000)
    hide = f"setattr(xtables, '_NAMES_FILES', dict.fromkeys(('ipv4', 'ipv6'), {str(hidden)!r}))"
    call = f"({hide}, [xtables.is_in_use(one, 'mangle') for one in ('ipv4', 'ipv6')])[1]"
    assert said(host, call) == "[True, True]"
    assert said(host, call, "ip6tables") == "[True, False]"


def test_what_cannot_be_tried_is_not_said_to_be_missing(host: Namespace) -> None:
    call = "[one.status for one in features.all_features() if one.name == 'NFQUEUE'][0]"
    assert said(host, call) == "unknown"
