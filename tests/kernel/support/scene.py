"""A service with three flows, to be watched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nfq_zerortt.testbed.network import Testbed
from support.peers import Peers, content, next_port, transfer
from support.service import COMMAND, ServiceProcess

FOOT = "q quit"
"""What stands in the last line of the live view."""


@dataclass
class Scene:
    """A service with three flows: one that goes on, two that have ended."""

    control: Path
    service: ServiceProcess
    port: int
    names: list[str]

    def argv(self) -> list[str]:
        """Return the command that shows it."""
        return [*COMMAND, "top", "--control-socket", str(self.control)]


@contextmanager
def scene_in(network: Testbed, directory: Path) -> Iterator[Scene]:
    """Make a scene; the service ends with the block, unless it has ended."""
    control, port = directory / "control", next_port()
    python = ("--data-path", "python")
    peers = Peers(network)
    with (
        closing(peers),
        ServiceProcess(network, directory, *python, control_socket=str(control)) as service,
    ):
        listener = peers.listen(port)
        for number in range(3):
            client, server = peers.connect(port), peers.accept(listener)
            transfer(client, server, content(3000 * (number + 1)))
            transfer(server, client, content(500))
            if number:
                client.close()
                server.close()
        service.wait_for("flow.closed", port=port, count=2)
        received = service.events("flow.syn_received", port=port)
        yield Scene(control, service, port, [event["flow"] for event in received])
