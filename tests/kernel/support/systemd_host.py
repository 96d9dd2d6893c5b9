"""A real systemd on clientnic: this machine's own system once more, in a container.

Over the machine's file system lies a layer in memory, so packages can be installed and removed;
all of it, mounts too, is gone when the container ends. Its network is clientnic's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

import pytest

from nfq_zerortt.testbed.network import Testbed
from support.waiting import until

_PACKAGES = {"systemd-nspawn": "systemd-container", "systemctl": "systemd", "dpkg": "dpkg"}
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_RUN_S = 120
_END_S = 20

# In a mount namespace of its own. What nspawn keeps in /run/systemd is gone with it, too.
_BOOT = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
exec systemd-nspawn --quiet --boot --directory="$1/root" --machine="$2" \\
    --network-namespace-path="$3" --bind-ro="$4:/mnt" --capability=all \\
    --system-call-filter="bpf perf_event_open" --register=no --keep-unit --link-journal=no \\
    --resolv-conf=off --timezone=off --console=pipe \\
    systemd.unit=basic.target systemd.mask=timers.target systemd.mask=network-online.target
"""


class SystemdHost:
    """The container, which is up inside the block."""

    def __init__(self, network: Testbed, directory: Path, files: Path) -> None:
        """``directory`` is an empty one; what is in ``files`` is in /mnt there."""
        for program, package in _PACKAGES.items():
            if shutil.which(program, path=_PATH) is None:
                pytest.fail(f"{program} is missing: apt-get install {package}", pytrace=False)
        self._arguments = (
            str(directory),
            f"zt-{os.getpid()}",
            f"/run/netns/{network.netns('clientnic')}",
            str(files),
        )
        self._said = directory.with_name(directory.name + ".log")
        self._leader = 0

    def __enter__(self) -> Self:
        with self._said.open("wb") as said:
            self._nspawn = subprocess.Popen(
                ("unshare", "--mount", "--propagation=private", "bash", "-ec", _BOOT, "bash",
                 *self._arguments),
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, env={"PATH": _PATH},
            )  # fmt: skip
        try:
            until(self._is_up, lambda: f"systemd: {self._said.read_text(errors='replace')}")
            # Images of containers forbid packages to start and stop services.
            self.run("rm", "-f", "/usr/sbin/policy-rc.d")
            # As systemd mounts it where it is not in a container.
            self.run("mount", "-t", "bpf", "-o", "mode=700", "bpf", "/sys/fs/bpf")
        except BaseException:
            self._end()
            raise
        return self

    def _is_up(self) -> bool:
        if self._nspawn.poll() is not None:
            raise AssertionError(f"it has ended: {self._said.read_text(errors='replace')}")
        number = self._nspawn.pid
        children = Path(f"/proc/{number}/task/{number}/children").read_text(encoding="ascii")
        if not children:
            return False
        self._leader = int(children.split()[0])
        done = self.try_to("systemctl", "is-system-running")
        return done.stdout.strip() in ("running", "degraded")

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if self._leader:
            self.try_to("systemctl", "poweroff", "--force", "--force")
        try:
            self._nspawn.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()

    def try_to(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command there, as root."""
        entering = ("nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--net",
                    "--pid", "--cgroup", "--wd=/", "--")  # fmt: skip
        return subprocess.run(
            entering + argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_RUN_S,
            env={"PATH": _PATH, "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )

    def run(self, *argv: str) -> str:
        """Run a command there, which must succeed; return what it printed."""
        done = self.try_to(*argv)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}{self.journal()}"
        return done.stdout

    def shell(self, script: str) -> str:
        """Run a script there, which must succeed; return what it printed."""
        return self.run("sh", "-ec", script)

    def journal(self, unit: str = "nfq-zerortt", since: str = "") -> str:
        """Return what a unit, and systemd about it, has said; of one invocation if it is given."""
        which = (f"_SYSTEMD_INVOCATION_ID={since}",) if since else ("--unit", unit)
        return self.try_to("journalctl", "--no-pager", "--output=cat", *which).stdout

    def show(self, name: str, unit: str = "nfq-zerortt") -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()
