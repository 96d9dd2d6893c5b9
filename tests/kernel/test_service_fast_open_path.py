"""fastopen over paths that swallow SYNs with the option, or with data, on real packets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.addresses import FAMILIES, Family
from support.captures import Captures
from support.conversation import converse
from support.fast_open import PATIENT, SYSCTL, check_fast_open
from support.peers import Peers, content, next_port
from support.service import ServiceProcess
from support.settings import sysctls
from support.wan_faults import dropping

from nfq_zerortt.testbed.network import Testbed


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Every test of this file runs over both."""
    return request.param  # type: ignore[no-any-return]


def _patient(directory: Path) -> Path:
    config = directory / "config.toml"
    config.write_text(PATIENT, encoding="utf-8")
    return config


@pytest.fixture
def service(network: Testbed, tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service for each test: what it learns is of the path to all servers."""
    with ServiceProcess(network, tmp_path, "--config", str(_patient(tmp_path))) as running:
        yield running


@pytest.mark.parametrize("what", ["option", "payload"])
def test_path_that_swallows_fast_open(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    family: Family,
    what: str,
) -> None:
    """Twice in vain, and it is left out from then on (RFC 7413, section 4.1.3.1)."""
    option = ["--tcp-option", "34"]
    longer = ["-m", "length", "--length", f"{150 if family.version == 4 else 130}:"]
    match = ["--dport", str(port), "--syn", *(option if what == "option" else longer)]
    with (
        sysctls(network, "server", {SYSCTL: "0x602"}),
        dropping(network, family, *match) as rule,
        Captures(network, tmp_path, port) as captures,
    ):
        converse(peers, port, [content(200, seed=number) for number in range(4)])
        assert rule.count == 2
    opened = check_fast_open(captures, lossy=True)
    assert [len(one.data) for one in opened] == [200, 200, 0, 0]
    assert [one.cookie for one in opened] == [b"", b"", None, None]
    assert [len(one.syns) for one in opened] == [2, 2, 1, 1]


def test_path_that_swallows_the_option_of_all_servers(
    service: ServiceProcess, network: Testbed, peers: Peers, tmp_path: Path, family: Family
) -> None:
    """After three servers none is asked any more, a new one neither."""
    match = ["--syn", "--tcp-option", "34"]
    ports = [next_port() for _ in range(4)]
    with (
        sysctls(network, "server", {SYSCTL: "0x602"}),
        dropping(network, family, *match) as rule,
    ):
        for port in ports:
            converse(peers, port, [content(200, seed=number) for number in range(2)])
        assert rule.count == 6
    left = service.events("flow.syn_forwarded", port=ports[3])
    assert [event["fast_open"] for event in left] == ["none", "none"]


@pytest.mark.parametrize("answer", ["tcp-reset", "unreachable"])
def test_filter_that_refuses_the_option(
    service: ServiceProcess,
    network: Testbed,
    peers: Peers,
    port: int,
    family: Family,
    answer: str,
) -> None:
    """Every connection completes, and from the third one on the option is left out."""
    if answer == "unreachable":
        answer = "icmp-admin-prohibited" if family.version == 4 else "icmp6-adm-prohibited"
    chosen = ["-p", "tcp", "--dport", str(port), "--tcp-option", "34"]
    match = ["FORWARD", *chosen, "-j", "REJECT", "--reject-with", answer]
    network.exec("servernic", [family.iptables, "-I", *match], check=True)
    try:
        converse(peers, port, [content(200, seed=number) for number in range(3)])
    finally:
        network.exec("servernic", [family.iptables, "-D", *match], check=True)
    assert [event["data_bytes"] for event in service.events("flow.syn_forwarded", port=port)] == [
        200,
        0,
        200,
        0,
        0,
    ]
    assert not service.events("flow.reset", port=port)
