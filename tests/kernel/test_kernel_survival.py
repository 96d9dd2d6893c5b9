"""Flows that the kernel carries outlive the process, and the next process goes on with them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from support.addresses import FAMILIES, IPV4, Family
from support.carried import KERNEL, command, filters, flows, until_settled
from support.peers import LINGER_0, Peers, transfer
from support.service import BOTH_SIDES, ServiceProcess, rules
from support.transfers import Transfers

from nfq_zerortt.testbed.network import Testbed

COUNT = int(os.environ.get("ZERORTT_TRANSFERS", "40"))
"""Connections under way; 200 for the figure."""

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def abort(end: socket.socket, other: socket.socket) -> None:
    """Let one end abort the connection; the other one learns of it."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    end.close()
    with pytest.raises(ConnectionResetError):
        other.recv(1)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_killed_in_the_middle_of_transfers(
    network: Testbed, family: Family, port: int, control: Path, tmp_path: Path
) -> None:
    first = ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control))
    first.start()
    with Transfers.going(network, family, port, COUNT) as transfers:
        until_settled(network, control, port, COUNT)
        first.kill()
        control.unlink()
        # New connections go direct while there is no process.
        peers = Peers(network, family)
        client, server = peers.pair(port + 1)
        transfer(client, server, b"direct")
        peers.close()
        with ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control)) as second:
            assert second.event("service.flows_adopted")["flows"] == COUNT
            shown = {flow["client"]: flow for flow in flows(network, control)}
            assert len(shown) == COUNT
            assert {flow["data_path"] for flow in shown.values()} == {"kernel"}
            told = transfers.end()
            assert told["failed"] == []
            assert told["complete"] == COUNT
            closed = second.wait_for("flow.closed", port=port, count=COUNT)
            assert first.events("flow.closed", port=port) == []
            assert len({event["flow_id"] for event in closed}) == len(closed) == COUNT
            counted = sorted(event["bytes_to_server"] for event in closed)
            assert counted == sorted(told["sent"].values())
            assert counted == sorted(event["bytes_to_client"] for event in closed)
            assert second.events("flow.reset") == []
            # The numbering of flows goes on.
            peers = Peers(network, family)
            transfer(*peers.pair(port + 2), b"after")
            peers.close()
            highest = max(event["flow_id"] for event in closed)
            assert second.event("flow.syn_received", port=port + 2)["flow_id"] > highest
            second.event("flow.closed", port=port + 2)
    assert "zerortt" not in filters(network)


def test_stopped_and_started_again(
    network: Testbed, port: int, control: Path, tmp_path: Path
) -> None:
    """As systemd restarts it: SIGTERM resets no flow that the kernel carries."""
    first = ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control))
    first.start()
    with Transfers.going(network, IPV4, port, COUNT) as transfers:
        until_settled(network, control, port, COUNT)
        first.stop()
        assert first.event("service.stopped")["flows_left"] == COUNT
        assert "zerortt_client" in filters(network)
        with ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control)) as second:
            told = transfers.end()
            assert (told["complete"], told["failed"]) == (COUNT, [])
            second.wait_for("flow.closed", port=port, count=COUNT)
        assert second.event("service.stopped")["flows_left"] == 0
    assert "zerortt" not in filters(network)


def test_ends_that_no_process_saw_are_reported_by_the_next(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    first = ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control))
    first.start()
    listener = peers.listen(port)
    ends = [(peers.connect(port), peers.accept(listener)) for _ in range(3)]
    for client, server in ends:
        transfer(client, server, b"x" * 3000)
        transfer(server, client, b"y" * 2000)
    until_settled(network, control, port, 3)
    first.kill()
    (one, its_server), (other, other_server), (third, third_server) = ends
    for side in (one, its_server):
        side.close()
    abort(other, other_server)
    control.unlink()
    with ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control)) as second:
        closed = second.wait_for("flow.closed", port=port, count=2)
        assert len(closed) == 2
        assert {event["bytes_to_server"] for event in closed} == {3000}
        assert {event["bytes_to_client"] for event in closed} == {2000}
        reset = second.event("flow.reset", port=port)
        assert (reset["by"], reset["reason"]) == ("client", "client_reset")
        transfer(third, third_server, b"still here")
        third.close()
        third_server.close()
        assert len(second.wait_for("flow.closed", port=port, count=3)) == 3


def test_a_port_used_again_while_no_process_runs_is_a_direct_connection(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    """The entry of the flow that was there before must not renumber it."""
    service = ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control))
    service.start()
    listener = peers.listen(port)
    client, server = peers.connect(port), peers.accept(listener)
    transfer(client, server, b"before")
    until_settled(network, control, port, 1)
    service.kill()
    source_port = client.getsockname()[1]
    abort(client, server)
    again = peers.connect(port, source_port=source_port)
    its_server = peers.accept(listener)
    transfer(again, its_server, b"after " * 1000)
    transfer(its_server, again, b"and back " * 1000)


def test_the_python_path_takes_flows_back(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    first = ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control))
    first.start()
    client, server = peers.pair(port)
    transfer(client, server, b"by the kernel")
    until_settled(network, control, port, 1)
    first.kill()
    control.unlink()
    with ServiceProcess(network, tmp_path, "--data-path", "python") as second:
        assert second.event("service.flows_adopted")["flows"] == 1
        assert "zerortt" not in filters(network)
        transfer(client, server, b"by Python" * 1000)
        transfer(server, client, b"by Python" * 1000)
        client.close()
        server.close()
        assert second.event("flow.closed", port=port)["bytes_to_server"] == 13 + 9000


def test_rules_remove_takes_the_flows_of_a_dead_service_away(
    network: Testbed, peers: Peers, port: int, control: Path, tmp_path: Path
) -> None:
    service = ServiceProcess(network, tmp_path, *KERNEL, control_socket=str(control))
    service.start()
    client, server = peers.pair(port)
    transfer(client, server, b"by the kernel")
    until_settled(network, control, port, 1)
    service.kill()
    done = command(network, "rules", "remove")
    assert done.returncode == 0, done.stderr
    assert "zerortt" not in filters(network)
    assert "ZERORTT" not in rules(network)
    transfer(*peers.pair(port + 1), b"direct")


def test_a_second_service_on_the_same_queue_takes_nothing_away(
    network: Testbed, peers: Peers, port: int, tmp_path: Path
) -> None:
    with ServiceProcess(network, tmp_path, *KERNEL) as service:
        client, server = peers.pair(port)
        transfer(client, server, b"one")
        done = command(network, "run", *BOTH_SIDES, *KERNEL, "--control-socket", "")
        assert done.returncode == 2, done.stderr
        assert "zerortt_client" in filters(network)
        transfer(client, server, b"two")
        client.close()
        server.close()
        service.event("flow.closed", port=port)
