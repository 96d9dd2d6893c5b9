"""The packets of the demonstration, one by one: what Fast Open sends, and when."""

from __future__ import annotations

import pytest

from nfq_zerortt.demo import page, runner, terminal
from nfq_zerortt.demo.result import FIGURES, Connection, Result, Run
from nfq_zerortt.observe.records import PacketRecord, Tap, of_connection
from nfq_zerortt.wire import flags as tcp

pytestmark = pytest.mark.waits


class Silent:
    """Nobody is told of the progress."""

    def step(self, text: str) -> None:
        """Say nothing."""

    def connections(self, done: int, total: int) -> None:
        """Say nothing."""


def at(result: Result, run: Run, connection: Connection, tap: Tap) -> list[PacketRecord]:
    """Return the connection's packets at one tap, in order of time."""
    assert connection.client is not None
    own = of_connection(run.records, connection.client, result.server)
    return [record for record in own if record.tap == tap]


def test_the_packets_of_fast_open_come_in_its_order() -> None:
    result = runner.perform(60, Silent())
    assert result.problems == []
    at_client, at_server = result.path[0].left, result.path[-1].right
    towards_server = result.path[1].left
    taken = [c for c in result.fastopen.connections if c.fast_open and c.fast_open.taken]
    assert len(taken) >= 0.7 * sum(result.work(key).connections for key in ("small", "bulk"))
    for connection in taken:
        found = at(result, result.fastopen, connection, at_server)
        from_client = [record for record in found if record.destination == result.server]
        answers = [r for r in found if r.source == result.server and r.payload_bytes]
        syn, further = from_client[0], from_client[1:]
        assert syn.is_syn
        assert syn.fast_open
        assert syn.payload_bytes > 0
        assert not further[0].flags & tcp.SYN
        if connection.work == "small":
            # The answer leaves before the third ACK, or anything else from the client, is there.
            assert answers[0].time_s < further[0].time_s
            assert further[0].payload_bytes == 0
            # The client knows of nothing: an ordinary SYN, and its data in a segment of its own.
            sent = [r for r in at(result, result.fastopen, connection, at_client) if r.is_syn]
            assert [(r.payload_bytes, r.fast_open) for r in sent] == [(0, None)]
    for run in (result.direct, result.hold):
        for connection in run.connections:
            found = at(result, run, connection, at_server)
            acks = [r for r in found if r.destination == result.server and not r.is_syn]
            answers = [r for r in found if r.source == result.server and r.payload_bytes]
            assert acks[0].time_s < answers[0].time_s
    # The first contact: its data goes twice, for the server ignores it in the SYN.
    first = result.fastopen.connections[0]
    found = at(result, result.fastopen, first, towards_server)
    sizes = [r.payload_bytes for r in found if r.destination == result.server]
    assert [size for size in sizes if size] == [200, 200]
    diagram = terminal.diagram_of(result, result.fastopen)
    assert diagram is not None
    texts = [text for row in diagram.rows for _, text in row.notes()]
    for text in ("spoofed here", "goes into the SYN", "sent with the data", "sent by this host"):
        assert text in texts


def test_a_server_that_refuses_fast_open_is_said_and_nothing_fails() -> None:
    result = runner.perform(20, Silent(), server_fast_open=0)
    assert result.problems == []
    assert result.fastopen.data_taken(*result.works) == (
        0,
        sum(w.connections for w in result.works),
    )
    lines = [line.plain for line in terminal.table(result)]
    said = [line for line in lines if "took no data in a SYN" in line]
    assert len(said) == 1
    assert said[0].endswith("(tcp_fastopen 0x0)")
    assert all(len(line) <= 80 for line in lines)
    small = result.work("small")
    back = FIGURES[3]
    fastopen = result.fastopen.median(small, back)
    assert fastopen is not None
    assert fastopen > 1.8 * result.rtt_ms
    assert said[0] in page.page(result)
