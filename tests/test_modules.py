"""What is said of a part of the kernel that is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nfq_zerortt.kernel import modules

ROOT = Path(__file__).resolve().parents[1]


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


def test_a_directory_that_may_not_be_looked_into_is_no_sign_of_an_upgrade(tmp_path: Path) -> None:
    """As for the service, with systemd's ProtectKernelModules=: by a user who is not root."""
    hidden = tmp_path / "modules"
    (hidden / "6.1.0-40-amd64").mkdir(parents=True)
    hidden.chmod(0)
    code = (
        "from pathlib import Path; from nfq_zerortt.kernel import modules\n"
        f"print(modules.remedy('x', 'CONFIG_X', loaded=Path('/'), installed=Path({str(hidden)!r}),"
        " release='6.1.0-40-amd64'))"
    )
    try:
        # In a user namespace root is nobody, and all that is here is still found.
        done = subprocess.run(
            ["unshare", "--user", "--", sys.executable, "-c", code],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
    finally:
        hidden.chmod(0o700)
    assert (done.stdout, done.stderr) == ("modprobe x, or a kernel with CONFIG_X\n", "")
