"""Independent programs, as they come from Debian, on the hosts of the test network."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfq_zerortt.testbed.network import Testbed
from support.service import ENVIRONMENT
from support.waiting import PATIENCE_S, until

_RUN_S = 40
PACKAGES = {
    "curl": "curl",
    "nginx": "nginx",
    "openssl": "openssl",
    "nc": "netcat-openbsd",
    "iperf3": "iperf3",
    "redis-server": "redis-server",
    "redis-cli": "redis-tools",
}


def program(name: str) -> str:
    """Return the path of a program; fail, and say how to get it, when it is missing."""
    found = shutil.which(name, path=ENVIRONMENT["PATH"])
    if found is None:
        pytest.fail(f"{name} is missing: apt-get install {PACKAGES[name]}", pytrace=False)
    return found


def run(testbed: Testbed, host: str, argv: Sequence[str | Path], stdin: bytes = b"") -> bytes:
    """Run a program to its end, which must be a good one; return what it printed."""
    done = subprocess.run(
        ("ip", "netns", "exec", testbed.netns(host), program(str(argv[0])), *map(str, argv[1:])),
        input=stdin,
        capture_output=True,
        timeout=_RUN_S,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, (
        f"{argv[0]} ended with {done.returncode}: {done.stderr.decode()} {done.stdout[-500:]!r}"
    )
    return done.stdout


@contextmanager
def serving(
    testbed: Testbed, argv: Sequence[str | Path], port: int, directory: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on the host ``server`` while the block runs; it listens when that begins."""
    said = directory / f"{Path(str(argv[0])).name}-{port}.log"
    with said.open("wb") as output:
        process = testbed.popen(
            "server",
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=ENVIRONMENT,
            cwd=directory,
        )
    try:

        def listens() -> bool:
            assert process.poll() is None, f"{argv[0]} ended: {said.read_text()}"
            return listening(testbed, port)

        until(listens, lambda: f"{argv[0]} listening on {port}: {said.read_text()}")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listening(testbed: Testbed, port: int) -> bool:
    """Tell whether somebody on the host ``server`` listens on a TCP port."""
    sockets = testbed.exec("server", ["cat", "/proc/net/tcp", "/proc/net/tcp6"], timeout_s=10)
    return any(
        words[1].endswith(f":{port:04X}") and words[3] == "0A"
        for line in sockets.stdout.splitlines()
        if len(words := line.split()) > 3
    )
