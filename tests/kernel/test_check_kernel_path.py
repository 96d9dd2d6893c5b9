"""What ``nfq-zerortt check`` says of the kernel data path, where something is missing for it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from support.chain import Namespace, cli, namespaces
from support.said import told

PRIVILEGES = "-all,+net_admin,+net_raw"
PROGRAMS, FILTERS = "kernel data path: programs", "kernel data path: filters"
RESTART, MARK = "kernel data path: restart", "kernel data path: mark"
CARRIED = "Established flows are carried by the kernel"


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespaces(1) as (one,):
        one.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        yield one


def reduced(more: str) -> tuple[str, ...]:
    return ("setpriv", f"--bounding-set={PRIVILEGES}{more}", "--inh-caps=-all")


def in_a_shell(command: str) -> tuple[str, ...]:
    """In the mounts of this process alone, for ip netns exec gives it some of its own."""
    return ("bash", "-ec", f'{command}; exec "$@"', "bash")


def test_where_nothing_is_missing(host: Namespace) -> None:
    status, output, _ = cli(host, "check")
    assert status == 0
    for name in ("kernel data path: libbpf", PROGRAMS, FILTERS, RESTART, MARK):
        assert told(output, name).startswith("ok: "), output
    assert output.splitlines()[-1].startswith(CARRIED)


@pytest.mark.parametrize(
    ("more", "lacking"), [("", "CAP_BPF, CAP_PERFMON"), (",+bpf", "CAP_PERFMON")]
)
def test_without_privileges_flows_stay_in_python(host: Namespace, more: str, lacking: str) -> None:
    status, output, _ = cli(host, "check", prefix=reduced(more))
    assert status == 0, "the service runs without it"
    assert told(output, PROGRAMS).startswith(f"warning: {lacking} is missing")
    assert told(output, FILTERS) == "unknown: cannot be tried without the programs"
    last = output.splitlines()[-1]
    assert last.startswith(f"Established flows are carried in Python: {lacking} is missing")


def test_the_privileges_that_are_asked_for_suffice(host: Namespace) -> None:
    _, output, _ = cli(host, "check", prefix=reduced(",+bpf,+perfmon"))
    assert told(output, PROGRAMS).startswith("ok: ")
    assert told(output, FILTERS).startswith("ok: ")
    assert "mount -t bpf" in told(output, RESTART)
    assert CARRIED in output


def test_a_bpf_file_system_keeps_the_flows_without_cap_sys_admin(host: Namespace) -> None:
    mounted = in_a_shell("mount -t bpf bpf /sys/fs/bpf")
    _, output, _ = cli(host, "check", prefix=mounted + reduced(",+bpf,+perfmon"))
    assert told(output, RESTART).startswith("ok: the flows of a process are kept in /sys/fs/bpf")


def test_without_libbpf_it_says_what_to_install(host: Namespace) -> None:
    listed = subprocess.run(("ldconfig", "-p"), capture_output=True, text=True, check=True).stdout
    file = re.search(r"libbpf\.so\.1 .*=> (\S+)", listed)
    assert file is not None
    hidden = in_a_shell(f"mount --bind /dev/null $(readlink -f {file[1]})")
    status, output, _ = cli(host, "check", prefix=hidden)
    assert status == 0
    assert re.match("warning: .*apt-get install libbpf1", told(output, "kernel data path: libbpf"))
    assert told(output, FILTERS).startswith("unknown: ")
    assert "carried in Python: libbpf is missing" in output.splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "warned"),
    [
        ("iptables-legacy -t mangle -A PREROUTING -j MARK --set-mark 1", True),
        ("iptables-nft -t mangle -A PREROUTING -p tcp -j MARK --set-mark 0x10000000", True),
        ("ip6tables-legacy -t raw -A PREROUTING -j MARK --and-mark 0xff", True),
        ("iptables-legacy -t mangle -A FORWARD -j MARK --xor-mark 0x30000000", True),
        ("iptables-legacy -t mangle -A PREROUTING -j MARK --or-mark 1", False),
        ("iptables-legacy -t mangle -A PREROUTING -j MARK --set-xmark 1/0xff", False),
        ("iptables-legacy -t mangle -A PREROUTING -p udp -j MARK --set-mark 1", False),
        ("iptables-legacy -t mangle -A POSTROUTING -j MARK --set-mark 1", False),
        ("nft add rule ip mine before meta mark set 1", True),
        ("nft add rule ip mine before meta mark set ct mark", True),
        ("nft add rule ip mine before meta mark set meta mark and 0xff", True),
        ("nft add rule ip mine before meta mark set meta mark or 1", False),
        ("nft add rule ip mine before meta mark set meta mark and 0xffffff00 or 1", False),
        ("nft add rule ip mine after meta mark set 1", False),
    ],
)
def test_it_warns_of_rules_that_change_the_mark(host: Namespace, argv: str, warned: bool) -> None:
    host.run("nft", "add table ip mine; "
             "add chain ip mine before { type filter hook prerouting priority -150; }; "
             "add chain ip mine after { type filter hook postrouting priority -150; }")  # fmt: skip
    host.run(*argv.split())
    said = host.do("print([f.detail for f in [features.mark_bit('eth0', 'eth1')] if not f.ok])")
    assert ("0x10000000" in said) is warned, said
    if warned:
        assert "connections break" in said


def test_a_rule_behind_ours_or_for_another_interface_is_no_danger(host: Namespace) -> None:
    host.do("rules('eth0', 'eth1').apply()")
    host.run("iptables-legacy", "-t", "mangle", "-A", "FORWARD", "-j", "MARK", "--set-mark", "1")
    host.run("iptables-legacy", "-t", "mangle", "-A", "PREROUTING", "-i", "eth7",
             "-j", "MARK", "--set-mark", "1")  # fmt: skip
    assert host.do("print(features.mark_bit('eth0', 'eth1').ok)") == "True\n"
    host.run("iptables-legacy", "-t", "mangle", "-I", "FORWARD", "-j", "MARK", "--set-mark", "1")
    assert host.do("print(features.mark_bit('eth0', 'eth1').ok)") == "False\n"


def test_run_warns_of_such_a_rule_where_the_kernel_path_is_used(host: Namespace) -> None:
    host.run("iptables-legacy", "-t", "mangle", "-A", "PREROUTING", "-j", "MARK", "--set-mark", "1")
    for path, expected in ((True, [MARK]), (False, [])):
        call = f"features.warnings_for_run('eth0', 'eth1', with_kernel_path={path})"
        said = host.do(f"print([one.name for one in {call} if 'mark' in one.name])")
        assert said == f"{expected}\n"
