"""The life of a testbed: up, damaged, repaired, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.testbeds import ADDED, ALLOWED, MakeTestbed, allowed_congestion_control, command, ping

from nfq_zerortt.errors import ConfigError, ZeroRttError
from nfq_zerortt.testbed import state
from nfq_zerortt.testbed.network import Testbed
from nfq_zerortt.testbed.processes import ProcessId


def test_tcp_settings_of_the_hosts(line: Testbed) -> None:
    status = line.status()
    for host in status.hosts:
        got = line.exec(host.name, ["sysctl", "-n", "net.ipv4.tcp_congestion_control"]).stdout
        assert got.strip() == status.congestion_control
        saves = line.exec(host.name, ["sysctl", "-n", "net.ipv4.tcp_no_metrics_save"]).stdout
        assert saves.strip() == "1"


def test_unknown_congestion_control_leaves_the_default(testbed_factory: MakeTestbed) -> None:
    allowed = allowed_congestion_control()
    with testbed_factory(congestion_control="nosuch") as testbed:
        got = testbed.status().congestion_control
    assert got
    assert got != "nosuch"
    assert allowed_congestion_control() == allowed


def test_up_twice_keeps_what_runs_and_down_twice_is_fine(fresh: Testbed) -> None:
    fresh.up()
    before = fresh.status().delay_line
    with fresh.popen("server", ["sleep", "600"]) as sleeper:
        Testbed(fresh.name, rtt_ms=40, emulation="delay-line").up()
        again = fresh.status()
        assert again.up
        assert again.rtt_ms == 40
        assert before is not None
        assert again.delay_line is not None
        assert again.delay_line.pid == before.pid
        assert sleeper.poll() is None
        assert fresh.down()
        assert sleeper.wait(timeout=5) == -signal.SIGTERM
    assert not fresh.down()


def test_down_ends_what_ignores_sigterm(fresh: Testbed) -> None:
    fresh.up()
    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    with fresh.popen("client", ["sh", "-c", script], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        assert stubborn.stdout.readline() == b"ready\n"
        fresh.down()
        assert stubborn.wait(timeout=5) == -signal.SIGKILL


def test_dead_delay_line_is_noticed_and_repaired(fresh: Testbed) -> None:
    fresh.up()
    dead = fresh.status().delay_line
    assert dead is not None
    os.kill(dead.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while (status := fresh.status()).up and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not status.up
    assert f"delay line (pid {dead.pid}) has died" in (status.problem or "")
    assert status.delay_line is not None
    assert not status.delay_line.alive
    # The WAN must not have become a fast one.
    assert ping(fresh, "-c", "2", "-i", "0.01", "-W", "0.3") == []
    done = command("status", "--name", fresh.name)
    assert done.returncode == 1
    assert "has died" in done.stdout
    with pytest.raises(ZeroRttError, match="has died"):
        fresh.set_wan(30)
    fresh.up()
    assert fresh.status().up
    assert len(ping(fresh, "-c", "3", "-i", "0.01")) == 3


@pytest.mark.parametrize(
    ("host", "damage", "problem"),
    [
        ("server", "ip link del eth2", "eth2 of servernic is gone"),
        ("client", "ip route del 10.0.3.0/24", "client has lost its route"),
        ("clientnic", "ip addr flush dev eth1", "eth1 of clientnic has lost its address"),
        ("servernic", "iptables -t mangle -F FORWARD", "rules in mangle FORWARD are gone"),
    ],
)
def test_damage_is_noticed_and_repaired(
    fresh: Testbed, host: str, damage: str, problem: str
) -> None:
    fresh.up()
    fresh.exec(host, damage.split(), check=True)
    assert problem in (fresh.status().problem or "")
    fresh.up()
    assert fresh.status().up
    assert len(ping(fresh, "-c", "3", "-i", "0.01")) == 3


def test_lost_namespace_is_repaired(fresh: Testbed) -> None:
    fresh.up()
    subprocess.run(("ip", "netns", "del", fresh.netns("server")), check=True)
    assert "is gone" in (fresh.status().problem or "")
    fresh.up()
    assert fresh.status().up


def test_damaged_state_file_is_ours_all_the_same(fresh: Testbed) -> None:
    fresh.up()
    state.state_file(fresh.name).write_text("{")
    assert not fresh.status().up
    fresh.up()
    assert fresh.status().up


def test_namespace_of_others_is_left_alone(fresh: Testbed) -> None:
    subprocess.run(("ip", "netns", "add", fresh.netns("server")), check=True)
    try:
        with pytest.raises(ZeroRttError, match="no testbed has made"):
            fresh.up()
        assert not fresh.down()
        assert Path("/run/netns", fresh.netns("server")).exists()
    finally:
        subprocess.run(("ip", "netns", "del", fresh.netns("server")), check=True)


def test_process_that_has_got_the_number_of_ours_is_left_alone(fresh: Testbed) -> None:
    fresh.up()
    line = fresh.status().delay_line
    assert line is not None
    real = ProcessId.of(line.pid)
    with subprocess.Popen(["sleep", "600"]) as innocent:
        try:
            document = json.loads(state.state_file(fresh.name).read_text())
            document["delay_line"]["pid"] = innocent.pid
            state.state_file(fresh.name).write_text(json.dumps(document))
            assert "has died" in (fresh.status().problem or "")
            fresh.down()
            assert innocent.poll() is None
            assert real is not None
            assert not real.alive()
        finally:
            innocent.kill()


def test_killed_while_congestion_control_was_allowed(fresh: Testbed) -> None:
    allowed = allowed_congestion_control()
    spare = [
        name
        for name in Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
        if name not in allowed.split()
    ]
    if not spare:
        pytest.skip("this kernel allows every congestion control that it has")
    # What `up` leaves behind when it is killed in the moment of the switch.
    with state.locked():
        ADDED.write_text(spare[0])
        ALLOWED.write_text(f"{allowed} {spare[0]}")
    fresh.down()
    assert allowed_congestion_control() == allowed


def test_find(line: Testbed) -> None:
    assert Testbed.find(line.name).netns("client") == f"{line.name}-client"
    with pytest.raises(ZeroRttError, match="not up"):
        Testbed.find(f"{line.name}-none")
    with pytest.raises(ConfigError, match="client, clientnic"):
        line.netns("nosuch")
