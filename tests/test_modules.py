"""What is said of a part of the kernel that is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfq_zerortt.kernel import modules


@pytest.mark.parametrize(
    ("loaded", "installed", "words"),
    [
        (True, "6.1.0-40-amd64", ""),
        (True, "6.1.0-38-amd64", "reboot"),
        (False, "6.1.0-40-amd64", "takes no modules"),
    ],
    ids=["as it should be", "upgraded since the boot", "a kernel without modules"],
)
def test_the_remedy(tmp_path: Path, loaded: bool, installed: str, words: str) -> None:
    (tmp_path / installed).mkdir()
    said = modules.remedy(
        "nfnetlink_queue",
        "CONFIG_NETFILTER_NETLINK_QUEUE",
        loaded=tmp_path if loaded else tmp_path / "no file",
        installed=tmp_path,
        release="6.1.0-40-amd64",
    )
    assert said.startswith(
        "modprobe nfnetlink_queue, or a kernel with CONFIG_NETFILTER_NETLINK_QUEUE"
    )
    assert words in said
    assert bool(words) == ("(" in said)
