"""The demonstration as a user runs it: real packets, real figures."""

from __future__ import annotations

import json
import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.demos import FIGURES, STRATEGIES, WAYS, start

import nfq_zerortt

pytestmark = pytest.mark.waits

SVG = "http://www.w3.org/2000/svg"


def test_it_shows_what_is_gained_and_what_is_not(tmp_path: Path) -> None:
    demo = start(tmp_path, "--rtt", "100ms", "--json", "--report", "report.html")
    status, stdout, stderr = demo.end()
    assert status == 0, stderr
    found = json.loads(stdout)
    assert found["ok"] is True
    assert found["problems"] == []
    assert found["family"] == "IPv4"
    rtt_ms = found["rtt_ms"]
    assert rtt_ms == 100
    assert found["server_tcp_fastopen"] == 0x402
    for key in ("first", "small", "thinking", "bulk"):
        work = found["work"][key]
        for way in WAYS:
            assert work[way]["connections"] == work["connections"]
            assert work[way]["failed"] == 0
            medians = [work[way][figure]["median"] for figure in FIGURES[1:]]
            assert medians == sorted(medians)
            for figure in FIGURES:
                assert len(work[way][figure]["values"]) == work["connections"]
                assert work[way][figure]["min"] <= work[way][figure]["median"]
                assert work[way][figure]["median"] <= work[way][figure]["max"]
        assert min(work["direct"]["connect_ms"]["values"]) >= rtt_ms
        for strategy in STRATEGIES:
            assert work[strategy]["connect_ms"]["median"] < rtt_ms / 2
        # Without data in the SYN, nobody can deliver before the server's handshake is done: a
        # round trip and a half.
        for way in WAYS if key in ("first", "thinking") else ("direct", "hold"):
            assert min(work[way]["first_byte_at_server_ms"]["values"]) >= 1.5 * rtt_ms - 1
            assert min(work[way]["first_byte_back_ms"]["values"]) >= 2 * rtt_ms - 1
    # What is promised, with room for a busy machine.
    gain = found["work"]["small"]["gain_ms"]
    for strategy in STRATEGIES:
        assert gain[strategy]["connect_ms"] > 0.9 * rtt_ms
        assert gain[strategy]["first_byte_sent_ms"] > 0.9 * rtt_ms
        busy = found["work"]["thinking"]["gain_ms"][strategy]
        assert busy["first_byte_back_ms"] > 0.4 * rtt_ms
        _check_service(found, strategy)
    assert gain["hold"]["first_byte_at_server_ms"] < 0.25 * rtt_ms
    assert gain["hold"]["first_byte_back_ms"] < 0.25 * rtt_ms
    assert gain["fastopen"]["first_byte_at_server_ms"] > 0.75 * rtt_ms
    assert gain["fastopen"]["first_byte_back_ms"] > 0.75 * rtt_ms
    _check_fast_open(found)
    for way in WAYS:
        taps = found["captures"][way]
        assert {tap.split()[0] for tap in taps} == {"client", "clientnic", "servernic", "server"}
        assert all(counts["dropped"] == 0 for counts in taps.values())
    assert "through the service" in stderr
    _check_report((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert demo.leftovers() == []


def _check_service(found: dict[str, Any], strategy: str) -> None:
    service = found["service"][strategy]
    assert service["exit_status"] == 0
    made = sum(work["connections"] for work in found["work"].values())
    assert service["flows_spoofed"] == made


def _check_fast_open(found: dict[str, Any]) -> None:
    """The first contact asks for a cookie, the others carry it; nobody else uses the option."""
    for work in found["work"].values():
        for way in ("direct", "hold"):
            assert work[way]["fast_open"] == [None] * work["connections"]
    (first,) = found["work"]["first"]["fastopen"]["fast_open"]
    assert first["cookie_bytes_sent"] == 0
    assert first["syn_data_taken"] is False
    assert first["cookie_bytes_given"] > 0
    small = found["work"]["small"]["fastopen"]["fast_open"]
    taken = [one for one in small if one is not None and one["syn_data_taken"]]
    # On a busy machine the client may be late for one SYN or another.
    assert len(taken) >= 0.7 * len(small)
    for one in taken:
        assert one["syn_data_bytes"] == 200
        assert one["cookie_bytes_sent"] == first["cookie_bytes_given"]


def _check_report(report: str) -> None:
    """Nothing from elsewhere, no script; all its parts; pictures that can be parsed."""
    assert re.findall(r"https?:", report.replace(SVG, "")) == []
    for foreign in ("<script", '<link rel="stylesheet', "@import", "url(", "src="):
        assert foreign not in report
    pictures = re.findall(r"<svg.*?</svg>", report, re.DOTALL)
    assert len(pictures) == 2 + 3 + 4 + 4  # overview, distributions, ladders, time-sequence plots
    for picture in pictures:
        ElementTree.fromstring(picture)
    for expected in (
        "connect() returns",
        "first byte sent",
        "first byte at the server",
        "first byte back",
        "spoofed here",
        "released",
        "goes into the SYN",
        "sent with the data",
        "TFO cookie",
        "TFO request",
        "SHA-256 equal at both ends",
        "nfq-zerortt demo --rtt 100ms",
        nfq_zerortt.__version__,
        os.uname().release,
    ):
        assert expected in report


def test_over_ipv6(tmp_path: Path) -> None:
    demo = start(tmp_path, "--rtt", "40ms", "--ipv6", "--json", "--report", "report.html")
    status, stdout, stderr = demo.end()
    assert status == 0, stderr
    found = json.loads(stdout)
    assert found["ok"] is True
    assert found["family"] == "IPv6"
    assert ip_address(found["server"]["address"]).version == 6
    for way in WAYS:
        for counts in found["captures"][way].values():
            assert counts["packets"] > 0
            assert counts["dropped"] == 0
    for strategy in STRATEGIES:
        _check_service(found, strategy)
        gain = found["work"]["small"]["gain_ms"][strategy]
        assert gain["connect_ms"] > 0.5 * found["rtt_ms"]
        assert gain["first_byte_sent_ms"] > 0.5 * found["rtt_ms"]
    assert gain["first_byte_back_ms"] > 0.5 * found["rtt_ms"]
    _check_fast_open(found)
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    for expected in ("TCP over IPv6", "nfq-zerortt demo --rtt 40ms --ipv6", "spoofed here"):
        assert expected in report
    assert demo.leftovers() == []


def test_terminal_output_fits_80_columns(tmp_path: Path) -> None:
    demo = start(tmp_path, "--rtt", "20ms")
    status, stdout, stderr = demo.end()
    assert status == 0, stderr
    assert max(len(line) for line in stdout.splitlines()) <= 80
    for expected in (
        *("connect() returns", "gain hold", "gain fastopen", "hold: gained", "fastopen: gained"),
        *("not gained", "spoofed here", "held", "released"),
        *("goes into the SYN", "sent with the data", "200 B TFO", "SYN-ACK S ack C+201"),
        "its SYN asked for a cookie, its 200 B of data were ignored",
        "0x402",
    ):
        assert expected in " ".join(stdout.split())
    assert "All 60 connections complete" in stdout
    assert demo.leftovers() == []
