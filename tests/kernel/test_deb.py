"""The Debian package: built, installed, and its units run by a real systemd, with real packets.

What the sandbox of the units allows is shown here: the service runs in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.addresses import IPV4
from support.said import told
from support.systemd_host import SystemdHost
from support.transfers import Transfers
from support.waiting import until

from nfq_zerortt.testbed.network import Testbed

pytestmark = pytest.mark.waits

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = "/etc/nfq-zerortt/config.toml"
OTHER = "/etc/nfq-zerortt/other.toml"
COUNT = 5
_BUILD_S = 600


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built once for all processes that run these tests."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "deb"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(shared.glob("*.deb")):
            done = subprocess.run(
                ["bash", "scripts/build_deb.sh", shared], cwd=ROOT, timeout=_BUILD_S,
                env=os.environ | {"DPKG_DEB_COMPRESSOR_TYPE": "gzip"},  # xz takes 9 s
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
    (built,) = shared.glob("*.deb")
    return built


@pytest.fixture(scope="module")
def net(testbed_factory: Callable[..., Testbed]) -> Testbed:
    return testbed_factory(rtt_ms=20)


def set_up(host: SystemdHost, package: Path) -> None:
    host.run("dpkg", "--install", f"/mnt/{package.name}")
    host.run("sed", "-i", "-e", 's/^client_iface = ""/client_iface = "eth0"/',
             "-e", 's/^server_iface = ""/server_iface = "eth1"/', CONFIGURATION)  # fmt: skip


@pytest.fixture(scope="module")
def installed(
    net: Testbed, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SystemdHost]:
    """A host with the package, for several tests."""
    with SystemdHost(net, tmp_path_factory.mktemp("systemd"), package.parent) as host:
        set_up(host, package)
        yield host


@pytest.fixture
def host(installed: SystemdHost) -> Iterator[SystemdHost]:
    """The same, with the service not running, before and after."""
    yield installed
    installed.run("systemctl", "stop", "nfq-zerortt")
    installed.run("nfq-zerortt", "rules", "remove", "--all")
    installed.run("rm", "-rf", "/run/systemd/system/nfq-zerortt.service.d")
    installed.run("systemctl", "daemon-reload")
    installed.run("systemctl", "reset-failed")


def drop_in(host: SystemdHost, *lines: str) -> None:
    """Change the unit, until the end of the test."""
    text = "\\n".join(["[Service]", *lines])
    host.shell(
        "mkdir -p /run/systemd/system/nfq-zerortt.service.d;"
        f"printf '{text}\\n' >/run/systemd/system/nfq-zerortt.service.d/test.conf;"
        "systemctl daemon-reload"
    )


def events(host: SystemdHost, name: str) -> list[dict[str, Any]]:
    """Return the events of that name in the journal, of all runs."""
    lines = [line for line in host.journal().splitlines() if line.startswith("{")]
    return [event for event in map(json.loads, lines) if event["event"] == name]


def next_event(host: SystemdHost, name: str, after: int = 0) -> dict[str, Any]:
    """Return the first event of that name beyond so many; the journal gets it in a moment."""
    return until(lambda: events(host, name)[after:], lambda: f"{name}: {host.journal()}")[0]


def carried(host: SystemdHost) -> int:
    flows = json.loads(host.run("nfq-zerortt", "flows", "--json"))
    return sum((f["data_path"], f["state"]) == ("kernel", "ESTABLISHED") for f in flows)


def restarted(host: SystemdHost, before: str, unit: str = "nfq-zerortt") -> bool:
    active = host.show("ActiveState", unit) == "active"
    return active and host.show("InvocationID", unit) != before


# --- what is in it ------------------------------------------------------------------------


def test_the_package_says_what_it_needs(package: Path) -> None:
    def field(name: str) -> str:
        return subprocess.run(
            ["dpkg-deb", "--field", package, name], capture_output=True, text=True, check=True
        ).stdout

    needed = field("Depends")
    for name in ("iptables", "libbpf1", "libnetfilter-queue1", "libc6"):
        assert re.search(rf"(^|, ){name}\b", needed), needed
    versions = re.findall(r"python3 \((>=|<<) 3\.(\d+)\)", needed)
    assert dict(versions) == {">=": versions[0][1], "<<": str(int(versions[0][1]) + 1)}


# --- its life -----------------------------------------------------------------------------


def test_installed_used_upgraded_and_purged(
    net: Testbed, package: Path, port: int, tmp_path: Path
) -> None:
    """Nothing is started by itself, nothing is lost by an upgrade, nothing is left by a purge."""
    (tmp_path / "root").mkdir()
    with SystemdHost(net, tmp_path / "root", package.parent) as host:
        look = (
            "find /etc /usr /var/lib /run -xdev ! -path '/run/systemd/*' ! -path '/run/udev/*'"
            " ! -path '/var/lib/dpkg/*' ! -path '*/__pycache__*' | sort;"
            " cut -d: -f1 /etc/passwd; find /sys/fs/bpf; tc filter show dev eth0 ingress;"
            " tc qdisc show dev eth0; iptables-legacy-save | grep ZERORTT || true"
        )
        host.shell("touch /run/xtables.lock; chmod 600 /run/xtables.lock")
        before = host.shell(look)
        host.run("dpkg", "--install", f"/mnt/{package.name}")
        assert host.try_to("systemctl", "is-enabled", "nfq-zerortt").stdout.strip() == "disabled"
        assert host.show("ActiveState") == "inactive"

        # Without interfaces it cannot start, and does not try again.
        assert host.try_to("systemctl", "start", "nfq-zerortt").returncode != 0
        assert (host.show("ActiveState"), host.show("NRestarts")) == ("failed", "0")
        assert "--client-iface is needed" in host.journal()

        set_up(host, package)
        host.run("systemctl", "enable", "--now", "nfq-zerortt")
        host.shell(f"sed 's/^#queue = 0/queue = 7/' {CONFIGURATION} >{OTHER}")
        host.run("systemctl", "enable", "--now", "nfq-zerortt@other")
        with Transfers.going(net, IPV4, port, COUNT) as transfers:
            until(lambda: carried(host) == COUNT, "connections in the kernel")
            units = ("nfq-zerortt", "nfq-zerortt@other")
            runs = [host.show("InvocationID", unit) for unit in units]
            host.run("dpkg", "--install", f"/mnt/{package.name}")
            for unit, run in zip(units, runs, strict=True):
                until(partial(restarted, host, run, unit), host.journal)
            assert next_event(host, "service.flows_adopted")["flows"] == COUNT
            assert transfers.end()["failed"] == []
        with Transfers.going(net, IPV4, port + 1, 1):
            until(lambda: carried(host) == 1, "a connection in the kernel")
            said = host.run("dpkg", "--purge", "nfq-zerortt")
            assert "kernel data path removed: filter zerortt_client on eth0" in said
        assert host.shell(look) == before
        assert host.shell("stat -c '%U %G %a' /run/xtables.lock") == "root root 600\n"
        counters = "/proc/net/netfilter/nfnetlink_queue"
        assert host.shell(f"stat -c '%U %G %a' {counters}") == "root root 440\n"
        assert host.run("systemctl", "list-units", "--all", "--no-legend", "nfq-zerortt*") == ""


# --- the unit -----------------------------------------------------------------------------


def test_it_runs_as_a_user_with_few_privileges(host: SystemdHost, net: Testbed, port: int) -> None:
    before = len(events(host, "service.ready"))
    host.run("systemctl", "start", "nfq-zerortt")
    ready = next_event(host, "service.ready", before)
    assert ready["data_path"] == "kernel"
    assert events(host, "service.warning") == []
    assert "eth0" in host.show("StatusText")
    status = host.shell(f"cat /proc/{host.show('MainPID')}/status")
    assert re.search(r"^Uid:\s+[1-9]", status, re.MULTILINE)
    (user,) = host.shell("stat -c %U /run/nfq-zerortt/control.sock").split()
    assert user == "nfq-zerortt"
    for mask in ("CapPrm", "CapEff", "CapBnd"):
        found = re.search(rf"^{mask}:\s+(\w+)", status, re.MULTILINE)
        assert found is not None
        assert int(found[1], 16) == 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39, mask
    with Transfers.going(net, IPV4, port, 1) as transfers:
        assert transfers.end()["failed"] == []
    # Rules that another program flushes are put back with these privileges, too.
    lost = len(events(host, "service.rules_lost"))
    host.run("iptables-legacy", "-t", "mangle", "-F")
    assert next_event(host, "service.rules_lost", lost)["put_back"]
    assert "-A FORWARD -j ZERORTT-0" in host.run("iptables-legacy-save", "-t", "mangle")
    assert events(host, "service.fault") == []


@pytest.mark.parametrize("privilege", ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"])
def test_it_needs_each_of_its_privileges(host: SystemdHost, privilege: str) -> None:
    drop_in(host, f"CapabilityBoundingSet=~{privilege}", f"AmbientCapabilities=~{privilege}")
    began = len(events(host, "service.ready"))
    done = host.try_to("systemctl", "start", "nfq-zerortt")
    if privilege in ("CAP_BPF", "CAP_PERFMON"):
        assert next_event(host, "service.ready", began)["data_path"] == "python"
        assert f"{privilege} is missing" in events(host, "service.data_path")[-1]["reason"]
    else:
        assert done.returncode != 0
        assert privilege in host.journal()
        assert (host.show("ExecMainStatus"), host.show("NRestarts")) == ("3", "0")


def test_killed_it_goes_on(host: SystemdHost, net: Testbed, port: int) -> None:
    host.run("systemctl", "start", "nfq-zerortt")
    with Transfers.going(net, IPV4, port, COUNT) as transfers:
        until(lambda: carried(host) == COUNT, "connections in the kernel")
        run = host.show("InvocationID")
        host.run("kill", "-KILL", host.show("MainPID"))
        until(lambda: restarted(host, run), host.journal)
        assert carried(host) == COUNT
        assert transfers.end()["failed"] == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loop_that_hangs_is_noticed(
    host: SystemdHost, net: Testbed, port: int, workers: int
) -> None:
    """The watchdog sees one worker's loop, too."""
    drop_in(host, "WatchdogSec=3", "ExecStart=",
            f"ExecStart=/usr/bin/nfq-zerortt run --workers {workers}")  # fmt: skip
    began = len(events(host, "service.ready"))
    host.run("systemctl", "start", "nfq-zerortt")
    with Transfers.going(net, IPV4, port, COUNT) as transfers:
        until(lambda: carried(host) == COUNT, "connections in the kernel")
        run = host.show("InvocationID")
        last = next_event(host, "service.ready", began)["worker_pids"][-1]
        host.run("kill", "-STOP", str(last))
        until(lambda: restarted(host, run), host.journal)
        assert "Watchdog timeout" in host.journal()
        assert carried(host) == COUNT
        assert transfers.end()["failed"] == []


def test_reload_takes_settings_over_or_says_why_not(host: SystemdHost) -> None:
    """Before systemd 253 a reload is over before the service has read anything."""
    host.run("systemctl", "start", "nfq-zerortt")
    before = len(events(host, "service.reloaded"))

    def reload(strategy: str, says: str) -> None:
        host.run("sed", "-i", f"0,/^#*strategy = .*/s//{strategy}/", CONFIGURATION)
        host.run("systemctl", "reload", "nfq-zerortt")
        until(lambda: says in host.show("StatusText"), lambda: host.show("StatusText"))
        assert host.show("ActiveState") == "active"

    try:
        reload('strategy = "hold"', "hold between eth0 and eth1")
        assert next_event(host, "service.reloaded", before)["changed"] == ["strategy"]
        reload('strategy = "loud"', "settings refused: ")
        assert "hold between" in host.show("StatusText"), "the old ones stay in force"
    finally:
        reload('#strategy = "auto"', "auto between eth0 and eth1")
    assert "refused" not in host.show("StatusText")


def test_an_interface_that_is_away_is_waited_for(host: SystemdHost) -> None:
    """As a VPN's may be when the service is restarted."""
    host.shell(f"sed 's/^client_iface = .*/client_iface = \"late0\"/' {CONFIGURATION} >{OTHER}")
    try:
        host.run("systemctl", "start", "--no-block", "nfq-zerortt@other")
        until(
            lambda: "no interface 'late0'" in host.show("StatusText", "nfq-zerortt@other"),
            lambda: host.journal("nfq-zerortt@other"),
        )
        host.shell("ip link add late0 type veth peer name late1")
        until(
            lambda: host.show("ActiveState", "nfq-zerortt@other") == "active",
            lambda: host.journal("nfq-zerortt@other"),
        )
        assert host.show("NRestarts", "nfq-zerortt@other") == "0"
    finally:
        host.run("systemctl", "stop", "nfq-zerortt@other")
        host.shell(f"rm {OTHER}; ip link del late0")


def test_an_instance_has_its_own_of_everything(host: SystemdHost) -> None:
    host.run("systemctl", "start", "nfq-zerortt")
    host.shell(f"sed 's/^#queue = 0/queue = 7/' {CONFIGURATION} >{OTHER}")
    try:
        host.run("systemctl", "start", "nfq-zerortt@other")
        assert host.show("ActiveState") == "active", "the other one is not disturbed"
        socket = "/run/nfq-zerortt-other/control.sock"
        assert host.run("nfq-zerortt", "flows", "--json", "--control-socket", socket) == "[]\n"
        assert "ZERORTT-7" in host.run("iptables-legacy-save")
        host.run("systemctl", "stop", "nfq-zerortt@other")
        assert "ZERORTT-7" not in host.run("iptables-legacy-save")
        host.run("test", "-S", "/run/nfq-zerortt/control.sock")
    finally:
        host.run("systemctl", "stop", "nfq-zerortt@other")
        host.run("rm", OTHER)


# --- check --------------------------------------------------------------------------------

AS_THE_SERVICE = (
    "setpriv --reuid nfq-zerortt --regid nfq-zerortt --clear-groups --no-new-privs"
    " --bounding-set=-all,+net_admin,+net_raw,+bpf,+perfmon"
    " --inh-caps=-all,+net_admin,+net_raw,+bpf,+perfmon"
    " --ambient-caps=-all,+net_admin,+net_raw,+bpf,+perfmon nfq-zerortt check"
)


def test_check_says_what_the_user_of_the_service_lacks(host: SystemdHost) -> None:
    said = host.run(*AS_THE_SERVICE.split())
    assert told(said, "CAP_NET_ADMIN").startswith("ok")
    assert told(said, "iptables lock") == "ok: can be taken"
    assert told(said, "kernel data path: programs").startswith("ok")
    assert "/sys/fs/bpf may not be written to" in told(said, "kernel data path: restart")
    assert "LimitRTPRIO=5" in told(said, "realtime scheduling")
    host.run("chmod", "600", "/run/xtables.lock")
    try:
        done = host.try_to(*AS_THE_SERVICE.split())
    finally:
        host.run("systemd-tmpfiles", "--create", "nfq-zerortt.conf")
    assert done.returncode == 3
    assert "missing: this user may not take the lock" in told(done.stdout, "iptables lock")
    host.run(*AS_THE_SERVICE.split())


def test_check_in_the_sandbox_itself(host: SystemdHost) -> None:
    drop_in(host, "Type=oneshot", "WatchdogSec=0", "Restart=no", "ExecStart=",
            "ExecStart=/usr/bin/nfq-zerortt check")  # fmt: skip
    host.run("systemctl", "start", "nfq-zerortt")
    said = host.journal()
    assert "/run/nfq-zerortt/bpf" in told(said, "kernel data path: restart")
    assert told(said, "kernel data path: restart").startswith("ok")
    assert told(said, "NFQUEUE").startswith("unknown"), "no namespace to try it in"
    assert "What could not be tried, and will show at its start: NFQUEUE" in said
    assert "The service can run here." in said
