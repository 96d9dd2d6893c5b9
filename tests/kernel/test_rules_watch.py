"""Rules that another program takes away from under a running service: noticed, and put back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.addresses import IPV4
from support.chain import namespaces
from support.peers import Peers, content, transfer
from support.service import RunningService, rules
from support.transfers import Transfers

from nfq_zerortt.testbed.network import Testbed

COUNT = 3
FLUSHED = {
    # As at a restart of netfilter-persistent, or by hand.
    "all": "for table in raw mangle; do iptables-legacy -t $table -F; iptables-legacy -t $table -X;"
    " done",
    "chain": "iptables-legacy -t mangle -F ZERORTT-0",
    # As by a script that makes its chains anew.
    "jump": "iptables-legacy -t mangle -D FORWARD -j ZERORTT-0",
}


@pytest.mark.parametrize(
    ("data_path", "flushed", "tables"),
    [
        ("python", "all", ["ipv4 raw", "ipv4 mangle"]),
        ("kernel", "chain", ["ipv4 mangle"]),
        ("python", "jump", ["ipv4 mangle"]),
    ],
)
def test_flushed_rules_are_put_back(
    network: Testbed,
    peers: Peers,
    port: int,
    tmp_path: Path,
    data_path: str,
    flushed: str,
    tables: list[str],
) -> None:
    """Connections that have stalled meanwhile go on; new ones are answered at once again."""
    with RunningService(network, tmp_path, "--data-path", data_path) as service:
        before = rules(network)
        with Transfers.going(network, IPV4, port, COUNT) as transfers:
            service.wait_for("flow.established", port=port, count=COUNT)
            network.exec("clientnic", ["sh", "-ec", FLUSHED[flushed]], timeout_s=10, check=True)
            lost = service.event("service.rules_lost")
            assert (lost["tables"], lost["put_back"], lost["level"]) == (tables, True, "warning")
            assert "--noflush" in lost["remedy"]
            assert rules(network) == before
            transfer(*peers.pair(port + 1), content(3000))
            service.event("flow.synack_spoofed", port=port + 1)
            assert transfers.end()["failed"] == []
        assert service.events("flow.reset") == []


WATCHING = """
import asyncio, json, os, subprocess
from nfq_zerortt import rules_watch
from nfq_zerortt.applied_rules import AppliedRules
from nfq_zerortt.config import Config

rules_watch.EVERY_S = 0.05

def flush():
    subprocess.run(["iptables-legacy", "-t", "mangle", "-F"], check=True)

async def looked_at(applied, during=None, events=0):
    said = []
    watching = asyncio.create_task(
        rules_watch.watch(applied, lambda name, fields: said.append(fields))
    )
    await asyncio.sleep(0.5)  # some looks
    if during is not None:
        during()
    for _ in range(100):
        if len(said) >= events:
            break
        await asyncio.sleep(0.05)
    watching.cancel()
    print(json.dumps(said))
"""


def test_what_cannot_be_put_back_is_said_once_and_tried_again() -> None:
    with namespaces(1) as (host,):
        said = host.do(
            WATCHING
            + """
applied = AppliedRules(Config(client_iface="cl0", server_iface="sv0"))
applied.apply()
asyncio.run(looked_at(applied))
flush()
good = os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock")
os.environ["XTABLES_LOCKFILE"] = "/nowhere/lock"
asyncio.run(looked_at(applied, lambda: os.environ.update(XTABLES_LOCKFILE=good), 2))
applied.remove()
asyncio.run(looked_at(applied))
"""
        )
        nothing, (first, second), after = map(json.loads, said.splitlines())
        assert (nothing, after) == ([], []), "neither whole rules, nor those that are to be gone"
        assert (first["put_back"], second["put_back"]) == (False, True)
        assert "/nowhere/lock" in first["error"]
        assert "ZERORTT" not in host.saved()


def test_rules_that_are_somebody_elses_are_left_alone() -> None:
    """With --no-rules, who has set them may take them away."""
    with namespaces(1) as (host,):
        said = host.do(
            WATCHING
            + """
rules().apply()
flush()
applied = AppliedRules(Config(client_iface="cl0", server_iface="sv0", rules=False))
asyncio.run(looked_at(applied))
"""
        )
        assert said == "[]\n"
        assert "-A FORWARD" not in host.saved()
