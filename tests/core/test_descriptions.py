"""What the flow table says in words: of real flows, played by packet scripts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nfq_zerortt.core import descriptions
from nfq_zerortt.core.endpoints import read_address, read_server, server_text
from tests.scenarios.script import START, Numbers, Run

SYN = ">> 0 client SYN C win 64240 <mss 1460 sackOK ts TC/0 nop ws 7>\n"
REQUEST = ">> 0.001 client PSH,ACK C+1 ack S+1 len 200 win 502 <nop nop ts TC+1/TS>\n"
ANSWER = ">> 0.1 server SYN,ACK R ack C+1 win 65160 <mss 1400 sackOK ts TR/TC nop ws 7>\n"
ALL_TAKEN = ">> 0.1 server SYN,ACK R ack C+201 win 65160 <mss 1400 sackOK ts TR/TC nop ws 7>\n"


def described(script: str, *, ipv6: bool = False) -> list[dict[str, Any]]:
    run = Run(Numbers(c=1_000_000, r=3_000_000_000), ipv6=ipv6)
    run.play(script)
    assert run.engine is not None
    found = list(descriptions.flows(run.engine.table, run.now + 1))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def test_a_flow_that_is_not_answered_yet() -> None:
    (flow,) = described(SYN + REQUEST)
    assert (flow["flow_id"], flow["flow"]) == (1, "10.0.1.2:43210>10.0.3.2:80")
    assert (flow["client"], flow["server"]) == ("10.0.1.2:43210", "10.0.3.2:80")
    assert (flow["state"], flow["strategy"], flow["data_path"]) == ("HOLDING", "hold", "python")
    assert (flow["age_s"], flow["idle_s"]) == (1.001, 1.0)
    assert flow["isn_client"] == 1_000_000
    for unknown in ("server_rtt_ms", "connected_earlier_ms", "data_earlier_ms", "isn_server"):
        assert flow[unknown] is None
    assert flow["delta"] is None


def test_with_hold_the_data_gains_only_the_clients_own_time() -> None:
    (flow,) = described(SYN + REQUEST + ANSWER)
    assert flow["state"] == "ESTABLISHED"
    assert (flow["server_rtt_ms"], flow["connected_earlier_ms"]) == (100.0, 100.0)
    assert flow["data_earlier_ms"] == 1.0
    assert flow["isn_server"] == 3_000_000_000
    assert flow["delta"] == (3_000_000_000 - flow["isn_spoofed"]) % 2**32
    assert (flow["fast_open"], flow["syn_data_bytes"]) == ("none", 0)
    assert flow["bytes_to_server"] == 200


def test_with_fast_open_the_data_gains_a_round_trip() -> None:
    (flow,) = described("strategy fastopen\n" + SYN + REQUEST + ALL_TAKEN)
    assert flow["fast_open"] == "cookieless"
    assert (flow["syn_data_bytes"], flow["syn_data_accepted_bytes"]) == (200, 200)
    assert flow["server_rtt_ms"] == flow["data_earlier_ms"] == 99.0


def test_a_syn_that_waited_in_vain_gains_nothing() -> None:
    (flow,) = described("strategy fastopen\n" + SYN + REQUEST + ANSWER)
    assert (flow["syn_data_bytes"], flow["syn_data_accepted_bytes"]) == (200, 0)
    assert flow["data_earlier_ms"] == 0.0


def test_what_is_only_observed_gains_nothing() -> None:
    (flow,) = described("strategy observe\n" + SYN + ANSWER)
    assert (flow["data_path"], flow["server_rtt_ms"]) == ("none", 100.0)
    assert flow["connected_earlier_ms"] is flow["data_earlier_ms"] is flow["isn_spoofed"] is None


def test_ipv6() -> None:
    (flow,) = described(SYN, ipv6=True)
    assert flow["client"] == "[fd00::2]:43210"
    assert flow["server"].endswith("]:80")


def test_flows_that_end_meanwhile_are_left_out_and_new_ones_do_no_harm() -> None:
    run = Run(Numbers(c=1_000_000, r=3_000_000_000))
    run.play(SYN + SYN.replace("client", "client:5000") + SYN.replace("client", "client:5001"))
    assert run.engine is not None
    told = descriptions.flows(run.engine.table, START)
    assert next(told)["client"] == "10.0.1.2:43210"
    run.play(
        ">> 0.1 server:5000 RST,ACK 0 ack C+1 win 0\n"
        ">> 0.2 client:5002 SYN C win 64240 <mss 1460 sackOK ts TC/0 nop ws 7>\n"
    )
    assert [flow["client"] for flow in told] == ["10.0.1.2:5001"]


@pytest.mark.parametrize("text", ["10.0.3.2:80", "[fd00::1]:65535", "[::]:0"])
def test_addresses_are_read_as_they_are_written(text: str) -> None:
    assert server_text(read_server(text)) == text


@pytest.mark.parametrize(
    "text", ["", "10.0.3.2", "10.0.3:80", "10.0.3.2:65536", "[10.0.3.2]:80", "fd00::1:80", "[x]:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        read_server(text)


def test_an_address_alone() -> None:
    assert read_address("fd00::2") == bytes.fromhex("fd" + "00" * 14 + "02")
    with pytest.raises(ValueError, match="is no address"):
        read_address("host")
