"""While another program holds the lock of iptables, packets go on, and the end comes in time."""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.chain import namespaces
from support.peers import Peers, content, transfer
from support.service import COMMAND, ENVIRONMENT, STOPS_WITHIN_S, ServiceProcess, rules

from nfq_zerortt.testbed.network import Testbed

pytestmark = pytest.mark.waits

AT_ONCE_S = 1.0
"""A loop that waited for the lock would stand still for longer."""


@contextmanager
def lock_held() -> Iterator[None]:
    with Path(ENVIRONMENT["XTABLES_LOCKFILE"]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_the_loop_goes_on_while_the_lock_is_waited_for() -> None:
    with namespaces(1) as (host,):
        gaps = host.do(
            """
            import asyncio, fcntl, time
            from nfq_zerortt.applied_rules import AppliedRules
            from nfq_zerortt.config import Config

            os.environ.setdefault("XTABLES_LOCKFILE", "/run/xtables.lock")

            async def longest_gap(work):
                task, longest, before = asyncio.create_task(work), 0.0, time.monotonic()
                with open(os.environ["XTABLES_LOCKFILE"], "w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    until = before + 1.5
                    while not task.done():
                        await asyncio.sleep(0.01)
                        now = time.monotonic()
                        longest, before = max(longest, now - before), now
                        if now > until:
                            assert not task.done(), "done without the lock"
                            fcntl.flock(lock, fcntl.LOCK_UN)
                            until = now + 60
                await task
                return longest

            async def main():
                applied = AppliedRules(Config(client_iface="cl0", server_iface="sv0"))
                await applied.apply()  # loads the libraries
                await applied.remove_later()
                print(await longest_gap(applied.apply()))
                assert rules().missing() == []
                print(await longest_gap(applied.remove_later()))

            asyncio.run(main())
            """
        )
        assert max(map(float, gaps.split())) < AT_ONCE_S
        assert "ZERORTT" not in host.saved()


def test_a_connection_goes_on_while_the_end_waits_for_the_lock(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    service = ServiceProcess(network, tmp_path, "--strategy", "observe")
    service.start()
    try:
        ends = peers.pair(port)
        process = service.process
        assert process is not None
        with lock_held():
            process.send_signal(signal.SIGTERM)
            for _ in range(15):
                began = time.monotonic()
                transfer(*ends, content(1000))
                assert time.monotonic() - began < AT_ONCE_S
                time.sleep(0.1)
            assert process.poll() is None
        assert process.wait(STOPS_WITHIN_S) == 0, service.stderr()
        transfer(*ends, content(1000))
        assert service.stderr() == ""
        assert "ZERORTT" not in rules(network)
    finally:
        service.kill()


def test_a_lock_that_stays_taken_does_not_hold_up_the_end(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    """The rules have to stay, and harm nothing; nothing else is lost."""
    state = tmp_path / "learned.state"
    service = ServiceProcess(network, tmp_path, "--state-file", str(state))
    service.start()
    try:
        ends = peers.pair(port)
        transfer(*ends, content(1000))
        service.wait_for("flow.established", port=port)
        process = service.process
        assert process is not None
        with lock_held():
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOPS_WITHIN_S) == 1
        (line,) = service.stderr().splitlines()
        assert line.startswith("nfq-zerortt: the iptables rules had to stay: ")
        assert ENVIRONMENT["XTABLES_LOCKFILE"] in line
        remedy = line.rpartition(": nfq-zerortt ")[2].split()
        assert service.events()[-1]["event"] == "service.stopped"
        assert service.faults() == []
        assert state.exists()
        assert "ZERORTT" in rules(network)
        transfer(*peers.pair(port + 1), content(1000))
        assert network.popen("clientnic", [*COMMAND, *remedy], env=ENVIRONMENT).wait(30) == 0
        assert "ZERORTT" not in rules(network)
    finally:
        service.kill()
