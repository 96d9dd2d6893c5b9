"""Every packet script, over IPv4 and IPv6, with numbers in the middle and at the wrap-around."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.script import Numbers, Run, scripts

NUMBERS = {
    "middle": Numbers(c=1_000_000, r=3_000_000_000),
    "client-wraps": Numbers(c=0xFFFFFFFF, r=3_000_000_000, tc=0xFFFFFFFE),
    "server-wraps": Numbers(c=1_000_000, r=0xFFFFFFFF - 100, tr=0xFFFFFFFF),
    "zero": Numbers(c=0, r=0),
}


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS.keys())
@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_script(script: Path, numbers: Numbers, ipv6: bool) -> None:
    text = script.read_text(encoding="utf-8")
    if ipv6:  # by the longer header
        text = text.replace("mss 1440", "mss 1420").replace("mss 1460", "mss 1440")
    assert Run(numbers, ipv6).play(text).splitlines() == text.splitlines()


def test_there_are_scripts() -> None:
    assert len(scripts()) >= 15
