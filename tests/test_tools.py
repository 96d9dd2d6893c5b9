"""What is asked of the host's own commands, and what is made of their failures."""

from __future__ import annotations

import pytest

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.kernel import tools


def test_a_failure_is_told_by_what_the_command_says_of_it() -> None:
    with pytest.raises(ZeroRttError, match=r"failed: it is broken$"):
        tools.run(
            ["sh", "-c", "echo '# Warning: legacy tables' >&2; echo it is broken >&2; exit 1"]
        )
    with pytest.raises(ZeroRttError, match=r"failed: exit status 7$"):
        tools.run(["sh", "-c", "exit 7"])


def test_a_command_that_hangs_is_not_waited_for() -> None:
    with pytest.raises(ZeroRttError, match=r"^sleep 60: no answer within 0.1 s$"):
        tools.run(["sleep", "60"], timeout_s=0.1)


def test_it_speaks_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert tools.run(["sh", "-c", "echo $LC_ALL"]) == "C\n"


def test_there_may_be_no_such_command() -> None:
    assert tools.run(["no-such-command-anywhere"]) is None
