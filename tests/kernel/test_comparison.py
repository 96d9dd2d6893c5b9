"""The comparison with what else could stand on ClientNIC, in a small: everything is measured.

A smaller run of ``python -m bench.comparison`` (docs/COMPARISON.md). Whether the figures are good
is not judged here: only that every contender has all of them, that data arrive unharmed, and that
no figure is what it cannot be.
"""

from __future__ import annotations

import math
import os
import re
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.comparison import page, plot, tables
from bench.comparison.contenders import CONTENDERS, KERNEL, PLAIN
from bench.comparison.contenders.commands import filter_rule
from bench.comparison.contenders.ours import Ours
from bench.comparison.figures import bulk, growth, handshakes, latency
from bench.comparison.laboratory import ComparisonLab
from bench.comparison.plan import Plan
from bench.comparison.programs.bulk_end import Received, Streams
from bench.comparison.results import Figure, Results
from bench.comparison.run import Run
from bench.comparison.stand import standing
from bench.comparison.verdict import verdicts
from bench.real_programs.packages import missing
from nfq_zerortt.errors import ZeroRttError

PLAN = Plan(
    repetitions=1,
    growth_repetitions=1,
    probes=2,
    window_s=0.1,
    levels=(10, 20),
    begin_s=0.05,
    settle_s=0.1,
)
CHOSEN = [one for one in CONTENDERS if one.name != "SYNPROXY, no timestamps"]
"""One of the two is enough here."""
NAMES = [contender.name for contender in CHOSEN]
OTHERS = ("HAProxy", "SYNPROXY")
CURVES = 5
"""Panels of the plot in which plain forwarding has a value: it has no process."""


def expected() -> set[Figure]:
    """Return the figures that every contender has."""
    found = {latency.CONNECT, latency.FIRST_BYTE, latency.FIRST_BYTE_FAST_OPEN}
    found.add(handshakes.figure())
    kinds = [kind for on in (True, False) for kind in bulk.kinds(offloads=on)]
    kinds += [bulk.Kind(True, 1, "down", flows) for flows in PLAN.levels]
    found |= {kind.figure(section) for kind in kinds for section in (bulk.THROUGHPUT, bulk.CPU)}
    for flows in PLAN.levels:
        found |= {growth.connect(flows), growth.first_byte(flows), growth.kernel_memory(flows)}
        found |= {growth.first_byte_fast_open(flows), handshakes.figure(flows)}
    return found


def check_every_contender_has_every_figure(results: Results) -> None:
    assert results.absent == {}
    # That another program lost a transfer is in the page; it is no fault of ours.
    assert [one for one in results.failures if not one.startswith(OTHERS)] == []
    assert len(expected()) == 3 + 1 + 16 + 2 * 7
    for figure in expected():
        for name in NAMES:
            values = results.values(figure, name)
            assert len(values) == 1, (figure, name)
            assert math.isfinite(values[0])
            if figure.section != growth.MEMORY:  # of few flows it may well shrink
                assert values[0] > 0, (figure, name)


def check_processes_have_figures_of_their_own(results: Results) -> None:
    kinds = [kind for on in (True, False) for kind in bulk.kinds(offloads=on)]
    own = [kind.figure(bulk.OWN_CPU) for kind in kinds]
    own += [growth.process_memory(flows) for flows in PLAN.levels]
    for figure in own:
        having = [name for name in NAMES if results.values(figure, name)]
        assert having == ["HAProxy", "nfq-zerortt, python", "nfq-zerortt, kernel"]


def check_data_arrive_unharmed(results: Results) -> None:
    assert results.checked == dict.fromkeys(NAMES, (24, 24))


def check_nobody_is_faster_than_the_wan(results: Results) -> None:
    for flows in (0, *PLAN.levels):
        connect = growth.connect(flows) if flows else latency.CONNECT
        first_byte = growth.first_byte(flows) if flows else latency.FIRST_BYTE
        for name in NAMES:
            (connected,) = results.values(connect, name)
            (got,) = results.values(first_byte, name)
            assert got >= 2 * latency.RTT_MS, name
            assert (connected >= latency.RTT_MS) == (name == PLAIN.name), name
    with_fast_open = [growth.first_byte_fast_open(flows) for flows in PLAN.levels]
    for figure in (latency.FIRST_BYTE_FAST_OPEN, *with_fast_open):
        for name in NAMES:
            (got,) = results.values(figure, name)
            assert got >= (1 if name.startswith("nfq-zerortt") else 2) * latency.RTT_MS, name


def check_page_has_a_row_for_every_figure_and_a_column_for_every_contender(
    results: Results,
) -> None:
    text = page.as_page(results, CHOSEN, PLAN, verdicts(results), "here and now")
    for contender in CHOSEN:
        assert contender.about in text
    found = tables.tables(results, NAMES)
    assert sum(len(table.rows) for table in found) == len(results.figures())
    for table in found:
        assert table.columns == ("", *NAMES)
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert "| " + " | ".join(table.rows[0]) + " |" in text
    assert text.count("24 of 24 transfers right by SHA-256") == len(NAMES)
    # Eight kinds of streams, throughput and processor time of each; ten thousand flows were not.
    assert text.count(" of plain forwarding | ") == 16


def check_plot_has_a_curve_for_every_contender(results: Results) -> None:
    picture = ElementTree.fromstring(plot.plot(results, NAMES, PLAN.levels, "here and now"))
    namespace = {"svg": "http://www.w3.org/2000/svg"}
    for number in range(len(NAMES)):
        of_one = picture.findall(f".//svg:g[@class='s{number}']", namespace)
        # One is in the legend. What the kernel needs for few flows may be below nothing.
        assert len(of_one) - 1 >= CURVES - 1


# Bulk without a limit: the captures of other tests would lose packets.
floods = pytest.mark.alone


@floods
def test_everything_is_measured_of_every_contender() -> None:
    """One test, for the run takes a while and tests of a file may be run by several processes."""
    assert missing(["nginx", "haproxy", "cc", "ethtool"]) == ""
    results = Run(CHOSEN, PLAN, lambda _: None).measure()
    assert not list(Path("/run/netns").glob(f"bench-{os.getpid()}-*")), "hosts are still there"
    check_every_contender_has_every_figure(results)
    check_processes_have_figures_of_their_own(results)
    check_data_arrive_unharmed(results)
    check_nobody_is_faster_than_the_wan(results)
    check_page_has_a_row_for_every_figure_and_a_column_for_every_contender(results)
    check_plot_has_a_curve_for_every_contender(results)


class Lacking:
    """A contender that no kernel can have."""

    name = "lacking"
    about = "a target that does not exist"

    def up(self, lab: ComparisonLab) -> Sequence[int]:
        filter_rule(lab, "mangle", "FORWARD -p tcp -j NOSUCHTARGET")
        return ()


class Misled(Ours):
    """The service with a configuration that it refuses."""

    def __init__(self) -> None:
        super().__init__("nosuchpath")


@floods
def test_what_the_machine_lacks_is_said_by_name() -> None:
    lacking, misled = Lacking(), Misled()
    plan = Plan(repetitions=1, growth_repetitions=0, probes=1, window_s=0.1, levels=(10,))
    results = Run([PLAIN, lacking, misled], plan, lambda _: None).measure()
    assert set(results.absent) == {lacking.name, misled.name}
    assert "NOSUCHTARGET" in results.absent[lacking.name]
    assert "nosuchpath" in results.absent[misled.name]
    assert results.checked == {PLAIN.name: (24, 24)}
    text = page.as_page(results, [PLAIN, lacking, misled], plan, [], "here and now")
    for name, reason in results.absent.items():
        assert f"- {name}: {reason}" in text
    assert text.count("| absent | absent |") == len(results.figures())


@floods
def test_streams_that_lose_bytes_are_noticed() -> None:
    """A firewall that swallows the end of every stream: it is never told that all has come."""
    with standing(PLAIN, rtt_ms=None) as stand:
        stand.serve_bulk()
        rule = ("FORWARD", "-p", "tcp", "--tcp-flags", "FIN", "FIN", "-j", "REJECT")
        reset = ("--reject-with", "tcp-reset")
        with pytest.raises(ZeroRttError, match="1 streams down"), stand.streams(1, "down"):
            stand.lab.do("clientnic", "iptables-legacy", "-w", "-A", *rule, *reset)


def test_a_receiver_that_got_less_is_noticed() -> None:
    """A server of bulk streams that says it got one byte less than it did."""
    arriving = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                got = 0
                while size := len(connection.recv(1 << 20)):
                    got += size
                    if got > 1:
                        arriving.set()
                connection.sendall((got - 2).to_bytes(8, "big"))  # one is the request

        server = threading.Thread(target=serve)
        server.start()
        port = listener.getsockname()[1]
        streams = Streams(Received(), host="127.0.0.1", port=port, streams=1, direction="up")
        assert arriving.wait(10)
        (failure,) = streams.stop(direction="up")
        server.join()
    sent, got = map(int, re.findall(r"\d+", failure))
    assert sent - got == 1


def test_verdict_is_of_the_ratios_in_the_same_repetition() -> None:
    results = Results()
    kind = bulk.kinds(offloads=True)[0]
    plain, ours = (10.0, 20.0, 40.0), (9.6, 18.0, 42.0)
    for number in range(3):
        repetition = results.repetition(number)
        repetition.add(kind.figure(bulk.THROUGHPUT), PLAIN.name, plain[number])
        repetition.add(kind.figure(bulk.THROUGHPUT), KERNEL.name, ours[number])
        repetition.add(kind.figure(bulk.CPU), PLAIN.name, 1.0)
        repetition.add(kind.figure(bulk.CPU), KERNEL.name, 1.2)
    results.repetition(0).add(growth.process_memory(10_000), KERNEL.name, 21.0)
    judged = verdicts(results)
    assert [(one.measured, one.met) for one in judged] == [
        ("0.96", True),
        ("1.20", False),
        ("2.10 kB", False),
    ]
