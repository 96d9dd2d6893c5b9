"""Record the traces in this directory anew: as root, from the repository's top level.

    PYTHONPATH=tests/kernel python -m tests.captures [NAME …]

Each is what ``nfq-zerortt trace`` wrote while the situation of that name was played in a testbed
(tests/kernel/support/tracing.py); beside it lies the service's log at level debug, for the truth.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from support.peers import Peers
from support.tracing import BY_NAME, SITUATIONS, RunningTrace, service_for

from nfq_zerortt.testbed.network import Testbed

HERE = Path(__file__).parent
RTT_MS = 40
PORT = 8080


def main(names: list[str]) -> None:
    """Record those named, or all."""
    with Testbed(f"record{os.getpid()}", rtt_ms=RTT_MS) as network:
        for situation in [BY_NAME[name] for name in names] or SITUATIONS:
            with tempfile.TemporaryDirectory() as scratch:
                _record(network, Path(scratch), situation.name)
            print(situation.name, (HERE / f"{situation.name}.pcapng").stat().st_size)


def _record(network: Testbed, scratch: Path, name: str) -> None:
    situation = BY_NAME[name]
    peers = Peers(network, situation.family)
    with service_for(network, scratch, situation, "--log-level", "debug") as (service, control):
        options = ("--control-socket", control, "--snaplen", "128")
        with RunningTrace(network, HERE / f"{name}.pcapng", *options) as trace:
            situation.play(network, peers, PORT)
            peers.close()
        assert trace.status == 0, trace.said
        log = service.log_file
    (HERE / f"{name}.jsonl").write_bytes(log.read_bytes())


if __name__ == "__main__":
    main(sys.argv[1:])
