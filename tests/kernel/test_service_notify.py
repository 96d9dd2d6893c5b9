"""What the service tells its manager (sd_notify(3)), and when. Here the manager is the test."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.service import BOTH_SIDES, COMMAND, ENVIRONMENT, ServiceProcess, rules
from support.waiting import until

from nfq_zerortt.testbed.network import Testbed

pytestmark = pytest.mark.waits

WATCHDOG_S = 1.5
STARTS_OR_ENDS_S = 40


class Manager:
    """Listens as systemd does."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.path = path
        self.said: list[str] = []

    def heard(self) -> list[str]:
        """All lines that have come so far."""
        with suppress(BlockingIOError):
            while True:
                self.said += self._socket.recv(4096).decode().splitlines()
        return self.said

    def hears(self, line: str, times: int = 1) -> None:
        until(lambda: self.heard().count(line) >= times, lambda: f"{line}: {self.said}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    monkeypatch.setitem(ENVIRONMENT, "NOTIFY_SOCKET", str(made.path))
    monkeypatch.setitem(ENVIRONMENT, "WATCHDOG_USEC", str(int(WATCHDOG_S * 1e6)))
    yield made
    made.close()


def signs_of_life(manager: Manager, for_s: float) -> int:
    """Count them from now on."""
    manager.heard()
    manager.said.clear()
    time.sleep(for_s)
    return manager.heard().count("WATCHDOG=1")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ready_alive_and_stopping(
    network: Testbed, manager: Manager, tmp_path: Path, workers: str
) -> None:
    service = ServiceProcess(network, tmp_path, "--workers", workers)
    service.start()
    try:
        manager.hears("READY=1")
        assert "ZERORTT-0" in rules(network), "ready, and packets do not come to it"
        assert any(line.startswith("STATUS=auto between eth0 and eth1") for line in manager.said)
        manager.hears("WATCHDOG=1", 3)
    finally:
        service.stop()
    manager.hears("STOPPING=1")
    assert manager.said.count("READY=1") == 1


def test_not_ready_without_rules(network: Testbed, manager: Manager, tmp_path: Path) -> None:
    """Whoever holds the lock of iptables holds up the start, and nobody is told otherwise."""
    with Path(ENVIRONMENT["XTABLES_LOCKFILE"]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        service = network.popen(
            "clientnic",
            [*COMMAND, "run", *BOTH_SIDES, "--control-socket", ""],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        try:
            _, wrong = service.communicate(timeout=STARTS_OR_ENDS_S)
        finally:
            service.kill()
            service.wait()
    assert b"another program has held the lock" in wrong
    assert "READY=1" not in manager.heard()


def test_reloading_until_it_is_over(network: Testbed, manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('log_level = "info"\n')
    with ServiceProcess(network, tmp_path, "--config", str(file)) as service:
        assert service.process is not None
        manager.hears("READY=1")
        began = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        service.process.send_signal(signal.SIGHUP)
        manager.hears("READY=1", 2)
        said = manager.said
        assert "RELOADING=1" in said[said.index("READY=1") :]
        (usec,) = (int(one.partition("=")[2]) for one in said if one.startswith("MONOTONIC_USEC="))
        assert began <= usec <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

        file.write_text("queue = 5\n")
        service.process.send_signal(signal.SIGHUP)
        manager.hears("READY=1", 3)
        assert "settings refused: queue: restart" in "\n".join(manager.said)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_sign_of_life_while_a_loop_hangs(
    network: Testbed, manager: Manager, tmp_path: Path, workers: int
) -> None:
    with ServiceProcess(network, tmp_path, "--workers", str(workers)) as service:
        manager.hears("WATCHDOG=1")
        last = service.event("service.ready")["worker_pids"][-1]
        os.kill(last, signal.SIGSTOP)
        try:
            time.sleep(WATCHDOG_S / 2)  # for the one that was under way
            assert signs_of_life(manager, 1.5 * WATCHDOG_S) == 0
        finally:
            os.kill(last, signal.SIGCONT)
        manager.said.clear()
        manager.hears("WATCHDOG=1", 2)


def test_a_watchdog_of_another_process_is_not_fed(
    network: Testbed, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "WATCHDOG_PID", "1")
    with ServiceProcess(network, tmp_path):
        manager.hears("READY=1")
        assert signs_of_life(manager, WATCHDOG_S) == 0


def test_a_manager_that_is_gone_is_not_missed(
    network: Testbed, manager: Manager, tmp_path: Path
) -> None:
    manager.close()
    manager.path.unlink()
    with ServiceProcess(network, tmp_path) as service:
        assert service.events("service.warning") == []


# --- a start that has to wait -------------------------------------------------------------

LATE = (
    *COMMAND,
    "run",
    "--client-iface",
    "late0",
    "--server-iface",
    "eth1",
    "--control-socket",
    "",
)


def test_it_waits_for_an_interface_that_is_away(network: Testbed, manager: Manager) -> None:
    """As for a VPN's that is made anew while the service is restarted."""
    service = network.popen("clientnic", LATE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    try:
        until(
            lambda: any(one.startswith("STATUS=waiting: --client-iface: no interface 'late0'")
                        for one in manager.heard()),
            lambda: f"{manager.said}",
        )  # fmt: skip
        make = "ip link add late0 type veth peer name late1"
        network.exec("clientnic", make.split(), timeout_s=10, check=True)
        manager.hears("READY=1")
    finally:
        service.terminate()
        _, wrong = service.communicate(timeout=STARTS_OR_ENDS_S)
        network.exec("clientnic", ["ip", "link", "del", "late0"], timeout_s=10)
    assert service.returncode == 0, wrong


def test_signals_count_while_it_waits(network: Testbed, manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('log_level = "info"\n')
    service = network.popen(
        "clientnic", [*LATE, "--config", str(file)], stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    try:
        until(
            lambda: any(one.startswith("STATUS=waiting: ") for one in manager.heard()),
            lambda: f"{manager.said}",
        )
        file.write_text('client_iface = "eth0"\nfavourite = 1\n')
        service.send_signal(signal.SIGHUP)
        until(
            lambda: any("settings refused: " in one for one in manager.heard()),
            lambda: f"{manager.said}",
        )
    finally:
        service.terminate()
        _, wrong = service.communicate(timeout=STARTS_OR_ENDS_S)
    assert service.returncode == 0, wrong
