"""vagrant/ without a virtual machine: its syntax, its keys, and the topology it shares.

Whether the machines do what they should, `make vm` says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from nfq_zerortt.config import load
from nfq_zerortt.testbed.topology import Host, load_topology

_ROOT = Path(__file__).parents[1]
_VAGRANT = _ROOT / "vagrant"
_TOPOLOGY = load_topology()


def _program(name: str) -> str:
    """Its path. Where it is missing, the test is skipped, and says so: `make test` installs it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"missing program {name}: apt-get install vagrant vagrant-libvirt")
    return found


def _recorded(**environment: str) -> list[Any]:
    """What the Vagrantfile sets, as a list of [name, arguments, options, calls within]."""
    said = subprocess.run(
        [_program("ruby"), _VAGRANT / "selftest/recorded.rb"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    calls: list[Any] = json.loads(said.stdout)
    return calls


def _within(calls: list[Any], name: str, argument: str) -> list[Any]:
    """The calls inside the block of this call."""
    (found,) = (call[3] for call in calls if call[0] == name and call[1] == [argument])
    calls_within: list[Any] = found
    return calls_within


def _provision(machine: list[Any], name: str) -> dict[str, Any]:
    (options,) = (call[2] for call in machine if call[0] == "provision" and call[1] == [name])
    found: dict[str, Any] = options
    return found


@pytest.fixture(scope="module")
def recorded() -> list[Any]:
    return _recorded()


def test_vagrant_takes_the_file(tmp_path: Path) -> None:
    """By the provider of libvirt, which knows its keys."""
    done = subprocess.run(
        [_program("vagrant"), "validate"],
        cwd=_VAGRANT,
        env={
            **os.environ,
            "VAGRANT_HOME": str(tmp_path / "home"),
            "VAGRANT_DOTFILE_PATH": str(tmp_path / "state"),
            "VAGRANT_DEFAULT_PROVIDER": "libvirt",
            "VAGRANT_CHECKPOINT_DISABLE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("provider", "package", "file"),
    [
        ("virtualbox", "vagrant", "providers/virtualbox/config.rb"),
        ("libvirt", "vagrant-libvirt", "vagrant-libvirt/config.rb"),
    ],
)
def test_each_provider_knows_the_keys(
    recorded: list[Any], provider: str, package: str, file: str
) -> None:
    """Vagrant itself takes any key for VirtualBox: it is looked up in the provider's source."""
    listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=False)
    sources = [line for line in listed.stdout.splitlines() if line.endswith(file)]
    if not sources:
        pytest.skip(f"missing package {package}: apt-get install vagrant vagrant-libvirt")
    source = Path(sources[0]).read_text(encoding="utf-8")
    known = set(re.findall(r"attr_accessor :(\w+)|def (\w+)=", source))
    for driver in ("kvm", "qemu"):
        for key, arguments, *_ in _within(
            _recorded(ZERORTT_LIBVIRT_DRIVER=driver), "provider", provider
        ):
            assert (key, "") in known or ("", key) in known, f"{provider} has no {key}"
            assert len(arguments) == 1


def test_the_machines_are_the_hosts_of_the_namespaces(recorded: list[Any]) -> None:
    assert tuple(call[1][0] for call in recorded if call[0] == "define") == _TOPOLOGY.host_names


@pytest.mark.parametrize("host", _TOPOLOGY.hosts, ids=_TOPOLOGY.host_names)
def test_links_are_the_same_with_both_providers(recorded: list[Any], host: Host) -> None:
    machine = _within(recorded, "define", host.name)
    networks = [call for call in machine if call[0] == "network"]
    assert all(call[1] == ["private_network"] for call in networks)
    for interface, (_, _, options) in zip(host.interfaces, networks, strict=True):
        # All options are known to be understood: neither provider minds others.
        assert options == {
            "ip": str(interface.ipv4.ip),
            "netmask": str(interface.ipv4.netmask),
            "mac": interface.mac.replace(":", ""),
            "auto_config": False,
            "virtualbox__intnet": f"zerortt-{interface.name}",
            "libvirt__network_name": f"zerortt-{interface.name}",
            "libvirt__forward_mode": "veryisolated",
            "libvirt__dhcp_enabled": False,
        }
        # That one is the virtual machines' host's.
        assert not str(interface.ipv4.ip).endswith(".1")


@pytest.mark.parametrize("host", _TOPOLOGY.hosts, ids=_TOPOLOGY.host_names)
def test_addresses_and_routes_are_those_of_the_namespaces(recorded: list[Any], host: Host) -> None:
    options = _provision(_within(recorded, "define", host.name), "network")
    routes = []
    for interface, line in zip(host.interfaces, options["args"], strict=True):
        name, mac, ipv4, ipv6, *through = line.split()
        assert (name, mac) == (interface.name, interface.mac)
        assert (ip_interface(ipv4), ip_interface(ipv6)) == (interface.ipv4, interface.ipv6)
        routes += through
    assert sorted(routes) == sorted(f"{route.to}={route.via}" for route in host.routes)
    assert options["env"]["FORWARDS"] == str(host.forwards).lower()
    assert options["env"]["RTT_MS"] == ("100" if host.name == _TOPOLOGY.wan_host else "")


def test_the_round_trip_is_set_from_outside() -> None:
    machine = _within(_recorded(ZERORTT_RTT_MS="37.5"), "define", _TOPOLOGY.wan_host)
    assert _provision(machine, "network")["env"]["RTT_MS"] == "37.5"


def test_the_service_is_told_its_two_sides(recorded: list[Any]) -> None:
    """The one towards the client first."""
    host = _TOPOLOGY.host("clientnic")
    towards_client, towards_server = host.interfaces
    assert "client" in _TOPOLOGY.links[0].hosts
    assert towards_client.name == _TOPOLOGY.links[0].name
    args = _provision(_within(recorded, "define", host.name), "service")["args"]
    assert args == [towards_client.mac, towards_server.mac]


def test_scripts_that_are_named_are_there(recorded: list[Any]) -> None:
    paths = {
        call[2]["path"]
        for host in _TOPOLOGY.host_names
        for call in _within(recorded, "define", host)
        if call[0] == "provision"
    }
    assert paths == {f"guest/{name}.sh" for name in ("network", "service", "server", "client")}
    assert all((_VAGRANT / path).is_file() for path in paths)


def test_the_service_takes_the_configuration_that_is_written(tmp_path: Path) -> None:
    """And leaves the demonstration's direct ports alone."""
    script = (_VAGRANT / "guest/service.sh").read_text(encoding="utf-8")
    found = re.search(
        r"put /etc/nfq-zerortt/config\.toml <<END.*?\n(.*?)\nEND\n", script, re.DOTALL
    )
    assert found
    file = tmp_path / "config.toml"
    text = found[1].replace("$client_iface", "a").replace("$server_iface", "b")
    file.write_text(text.replace("$FAST_OPEN_WAIT_MS", "10"))
    config = load(file)
    assert (config.client_iface, config.server_iface) == ("a", "b")
    assert 80 in config.ports
    assert 9001 in config.ports
    assert 8080 not in config.ports
    assert 9000 not in config.ports
