"""The units and their example configuration, as files. tests/kernel/test_deb.py runs them."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from nfq_zerortt import config as settings
from nfq_zerortt.config import Config, Limits
from nfq_zerortt.errors import ConfigError, MissingFeatureError, ZeroRttError
from nfq_zerortt.kernel import pins, queue_table, xtables
from nfq_zerortt.kernel.features import FIFO_PRIORITY
from nfq_zerortt.ports import PortSet
from nfq_zerortt.reloading import NEEDS_RESTART
from nfq_zerortt.starting import PATIENCE_S

SYSTEMD = Path(__file__).resolve().parents[1] / "systemd"
SERVICE, TEMPLATE = "nfq-zerortt.service", "nfq-zerortt@.service"
UNITS = {SERVICE: SERVICE, TEMPLATE: "nfq-zerortt@x.service"}
"""File, and a unit that is made of it."""

MOST_EXPOSED = 2.0
STARTS_IN_S = 5.0
"""On a slow router; two are usual."""

each_unit = pytest.mark.parametrize("file", UNITS)


def lines(file: str) -> list[str]:
    """The settings of a unit; those on several lines as one."""
    text = (SYSTEMD / file).read_text(encoding="utf-8").replace("\\\n", " ")
    return [" ".join(one.split()) for one in text.splitlines() if one and one[0] not in "#;"]


def values(file: str, key: str) -> list[str]:
    return [one.partition("=")[2] for one in lines(file) if one.startswith(f"{key}=")]


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.fail("systemd-analyze is missing: apt-get install systemd", pytrace=False)
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def placed(file: str, directory: Path, without: str = "") -> Path:
    """Put a unit where it can be looked at; the command need not be installed for that."""
    text = (SYSTEMD / file).read_text(encoding="utf-8").replace("/usr/bin/nfq-zerortt", "/bin/true")
    for key in without.split():
        text, count = re.subn(rf"^{key}=.*$", "", text, flags=re.MULTILINE)
        assert count, key
    unit = directory / UNITS[file]
    unit.write_text(text, encoding="utf-8")
    return unit


# --- what systemd says of them ------------------------------------------------------------


@each_unit
def test_systemd_finds_nothing_wrong(file: str, tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", placed(file, tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_misspelt_setting_is_found(tmp_path: Path) -> None:
    unit = placed(SERVICE, tmp_path)
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHomes="))
    assert "ProtectHomes" in analyze("verify", "--man=no", unit).stderr


def exposure(unit: Path) -> float:
    done = analyze("security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    return float(found[1])


@each_unit
def test_little_is_exposed(file: str, tmp_path: Path) -> None:
    assert exposure(placed(file, tmp_path)) <= MOST_EXPOSED


def test_a_hole_is_noticed(tmp_path: Path) -> None:
    assert exposure(placed(SERVICE, tmp_path, without="CapabilityBoundingSet")) > MOST_EXPOSED


# --- what they and the code say of each other ---------------------------------------------


def test_an_instance_is_like_the_service() -> None:
    """But for its name, and what it must have of its own."""
    own = ("Description=", "ExecStart=", "SyslogIdentifier=", "RuntimeDirectory=", "BindPaths=",
           "Environment=")  # fmt: skip
    first, other = (
        [one for one in lines(file) if not one.startswith(own)] for file in (SERVICE, TEMPLATE)
    )
    assert first == other
    (directory,) = values(TEMPLATE, "RuntimeDirectory")
    (command,) = values(TEMPLATE, "ExecStart")
    for option in (
        "--config /etc/nfq-zerortt/%i.toml",
        f"--control-socket /run/{directory}/control.sock",
        "--state-file /var/lib/nfq-zerortt/instance-%i.state",
    ):
        assert option in command
    # Whatever an instance is called, its file is not that of the service.
    (pattern,) = re.findall(r"--state-file (\S+)", command)
    theirs = tomllib.loads(EXAMPLE)["state_file"]
    assert not re.fullmatch(re.escape(pattern).replace("%i", ".*"), theirs)


@each_unit
def test_firewalls_fill_their_tables_first(file: str) -> None:
    """What they flush when they start would have to be put back."""
    before = set(" ".join(values(file, "After")).split())
    assert before >= {
        f"{name}.service" for name in ("nftables", "netfilter-persistent", "ufw", "firewalld")
    }


@each_unit
def test_what_cannot_become_right_by_itself_is_not_tried_again(file: str) -> None:
    statuses = {ConfigError.exit_status, MissingFeatureError.exit_status}
    (prevented,) = values(file, "RestartPreventExitStatus")
    assert set(map(int, prevented.split())) == statuses
    assert ZeroRttError.exit_status not in statuses, (
        "what a service waits for in vain (starting.py)"
    )


@each_unit
def test_what_crashes_is_given_up_and_what_waits_is_not(file: str) -> None:
    (interval,), (burst,) = values(file, "StartLimitIntervalSec"), values(file, "StartLimitBurst")
    (pause,) = values(file, "RestartSec")
    at_least = float(interval) / int(burst)
    assert at_least < float(pause) + PATIENCE_S
    assert at_least >= float(pause) + STARTS_IN_S


@each_unit
def test_privileges_and_places_are_those_that_the_code_asks_for(file: str) -> None:
    few = {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"}
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        (given,) = values(file, key)
        assert set(given.split()) == few
    assert values(file, "LimitRTPRIO") == [str(FIFO_PRIORITY)]
    (directory,) = values(file, "RuntimeDirectory")
    assert values(file, "BindPaths") == [f"-{pins.LENT}:/run/{directory}/bpf"]
    assert values(file, "Environment") == [f"NFQ_ZERORTT_BPF_FS=/run/{directory}/bpf"]
    lent = (SYSTEMD / "tmpfiles.conf").read_text(encoding="utf-8")
    (user,) = values(file, "User")
    assert f"d {pins.LENT} 0700 {user} {user} -\n" in lent
    assert f"f {xtables.LOCK_FILE} 0640 root {user} -\n" in lent
    assert f"z /proc/{queue_table.TABLE} 0440 root {user} -\n" in lent
    assert f"u {user} " in (SYSTEMD / "sysusers.conf").read_text(encoding="utf-8")


# --- the example configuration ------------------------------------------------------------

EXAMPLE = (SYSTEMD / "config.toml").read_text(encoding="utf-8")
MUST_BE_SET = {"client_iface", "server_iface"}
SET_FOR_THE_SERVICE = {"state_file"}


def uncommented() -> str:
    """The example with every key in force; prose begins with a space."""
    return re.sub(r"^#(?=[^ \n])", "", EXAMPLE, flags=re.MULTILINE)


def test_every_key_is_in_the_example_with_its_default() -> None:
    there = tomllib.loads(uncommented())
    limits, (destination,) = there.pop("limits"), there.pop("destination")
    tables = {"limits", "destinations"}
    assert set(there) == {f.name for f in dataclasses.fields(Config)} - tables
    assert set(limits) == {f.name for f in dataclasses.fields(Limits)}
    assert set(destination) == {"address", "ports", "strategy"}
    for name, value in there.items():
        default = getattr(Config(), name)
        if isinstance(default, PortSet):
            assert PortSet.parse(value) == default
        elif name not in SET_FOR_THE_SERVICE:
            assert value == default, name
    assert limits == dataclasses.asdict(Limits())


def test_what_is_in_force_is_what_must_be() -> None:
    assert set(tomllib.loads(EXAMPLE)) == MUST_BE_SET | SET_FOR_THE_SERVICE | {"limits"}
    assert tomllib.loads(EXAMPLE)["limits"] == {}


def test_the_example_loads_with_all_of_it_in_force(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(uncommented(), encoding="utf-8")
    loaded = settings.load(file)
    assert loaded.limits == Limits()
    assert len(loaded.destinations) == 1


def test_every_key_is_explained() -> None:
    for block in EXAMPLE.split("\n\n"):
        if re.search(r"^#?\w+ = ", block, re.MULTILINE):
            assert re.match(r"# .{30,}", block), block


def test_the_example_says_which_keys_need_a_restart() -> None:
    said = set()
    for block in EXAMPLE.split("\n\n"):
        keys = re.findall(r"^#?(\w+) = ", block, re.MULTILINE)
        if "(restart)" in " ".join(block.split()):
            said |= set(keys)
    assert said == NEEDS_RESTART
