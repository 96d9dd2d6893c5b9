"""The command `nfq-zerortt testbed`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from support.namespaces import UNPRIVILEGED
from support.service import ENVIRONMENT
from support.testbeds import MAIN, SERVER, command

from nfq_zerortt.errors import ConfigError
from nfq_zerortt.testbed.network import Testbed
from nfq_zerortt.testbed.topology import load_topology
from nfq_zerortt.testbed.wan import WanSettings


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--rtt", "100", "100ms or 0.1s"),
        ("--rtt", "-5ms", "100ms or 0.1s"),
        ("--rtt", "1e2ms", "100ms or 0.1s"),
        ("--rtt", "60s", "0ms to 10000ms"),
        ("--loss", "1", "1% or 0.5%"),
        ("--loss", "101%", "0% to 100%"),
        ("--reorder", "5", "1% or 0.5%"),
        ("--reorder-by", "0ms", "above 0ms"),
        ("--duplicate", "101%", "0% to 100%"),
        ("--rate", "100", "100mbit or 1gbit"),
        ("--rate", "0mbit", "0.01mbit to"),
        ("--name", "../etc", "must be"),
    ],
)
def test_bad_value_names_option_value_and_what_is_allowed(
    option: str, value: str, allowed: str
) -> None:
    done = command("up", f"{option}={value}")
    assert done.returncode == ConfigError.exit_status
    assert len(done.stderr.splitlines()) == 1
    assert option in done.stderr
    assert allowed in done.stderr


@pytest.mark.parametrize(
    "arguments", [("up",), ("down",), ("status",), ("exec", "client", "--", "true")]
)
def test_not_root_is_said_in_one_line(arguments: tuple[str, ...]) -> None:
    done = command(*arguments, prefix=UNPRIVILEGED)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "root" in done.stderr


def test_exec_passes_the_exit_status(line: Testbed) -> None:
    for script, status in (("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)):
        done = command("exec", "--name", line.name, "client", "--", "sh", "-c", script)
        assert done.returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("script", "said", "status"),
    [
        ("trap 'echo asked; exit 9' TERM HUP; echo started; while :; do sleep 0.05; done", 1, 9),
        ("echo started; exec sleep 60", 0, None),
    ],
    ids=["heard", "fatal"],
)
def test_exec_passes_signals(
    line: Testbed, number: signal.Signals, script: str, said: int, status: int | None
) -> None:
    options = ("exec", "--name", line.name, "client", "--", "sh", "-c", script)
    process = subprocess.Popen(
        (sys.executable, "-c", MAIN, "testbed", *options),
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        # The output ends when the command has ended.
        assert process.communicate(timeout=10)[0] == said * "asked\n"
        assert process.returncode == (128 + number if status is None else status)
    finally:
        process.kill()
        process.wait()


def test_exec_passes_options_of_the_command(line: Testbed) -> None:
    done = command("exec", "--name", line.name, "server", "ip", "-br", "addr", "show", "eth2")
    assert done.returncode == 0
    assert f"{SERVER}/24" in done.stdout


def test_exec_on_an_unknown_host(line: Testbed) -> None:
    done = command("exec", "--name", line.name, "nosuch", "--", "true")
    assert done.returncode == ConfigError.exit_status
    assert "client, clientnic, servernic, server" in done.stderr


def test_exec_without_a_testbed() -> None:
    done = command("exec", "--name", f"zt{os.getpid()}-none", "client", "--", "true")
    assert done.returncode == 1
    assert "testbed up" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_status_as_json(line: Testbed) -> None:
    done = command("status", "--json", "--name", line.name)
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["up"] is True
    assert [host["name"] for host in found["hosts"]] == list(load_topology().host_names)
    assert found["delay_line"]["alive"] is True


def test_faults_from_the_command_line(line: Testbed) -> None:
    arguments = ("up", "--name", line.name, "--rtt", "20ms")
    done = command(*arguments, "--reorder", "5%", "--reorder-by", "3ms", "--duplicate", "1%")
    assert done.returncode == 0, done.stderr
    assert "reordered 5 % (by 3 ms), duplicated 1 %" in done.stdout
    settings = line.status().settings
    assert settings == WanSettings(rtt_ms=20, reorder_percent=5, reorder_ms=3, duplicate_percent=1)
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert "faults" not in done.stdout
