"""The live view while the service changes, ends, and begins anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.peers import Peers
from support.scene import FOOT, Scene, scene_in
from support.screen import OnTerminal
from support.service import ServiceProcess

from nfq_zerortt.testbed.network import Testbed


@pytest.fixture
def scene(network: Testbed, tmp_path: Path) -> Iterator[Scene]:
    with scene_in(network, tmp_path) as made:
        yield made


def test_new_flows_appear_by_themselves(scene: Scene, peers: Peers) -> None:
    with OnTerminal(scene.argv()) as top:
        top.wait_for(FOOT, "3 shown")
        peers.pair(scene.port + 20_000)
        top.wait_for("4 shown", f"10.0.3.2:{scene.port + 20_000}", "flows 4")
        top.press("p")
        top.wait_for("PAUSED")
        peers.pair(scene.port + 20_001)
        scene.service.wait_for("flow.established", port=scene.port + 20_001)
        top.press("s")  # drawn again, from what was known
        assert "4 shown" in top.wait_for("by bytes")
        top.press("p")
        top.wait_for("5 shown")


def test_the_service_ends_and_another_begins(
    scene: Scene, network: Testbed, tmp_path: Path
) -> None:
    with OnTerminal(scene.argv()) as top:
        top.wait_for(FOOT, "3 shown")
        scene.service.stop()
        shown = top.wait_for("NOT UP TO DATE: no service answers")
        assert scene.names[0] in shown, "what was there last stays to be read"
        with ServiceProcess(network, tmp_path, control_socket=str(scene.control)):
            top.wait_for("0 shown", "no flows", "flows 0")
        top.press("q")
        assert top.ends() == 0
