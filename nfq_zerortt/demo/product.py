"""The product in a demonstration: started on clientnic, ended, and what it said of itself."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nfq_zerortt import programs
from nfq_zerortt.demo.processes import LineReader, ended
from nfq_zerortt.demo.result import ServiceFigures
from nfq_zerortt.demo.stage import START_TIMEOUT_S, Stage
from nfq_zerortt.errors import MissingFeatureError, ZeroRttError

_STOP_TIMEOUT_S = 10.0


class Product:
    """The product, running on clientnic."""

    def __init__(self, reader: LineReader, process: subprocess.Popen[Any], log: Path) -> None:
        self._reader = reader
        self._process = process
        self._log = log

    def await_ready(self) -> None:
        """Wait until it takes on connections.

        Raises:
            MissingFeatureError, ZeroRttError: it did not start.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._events("service.ready"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._reader.last_words()
                if self._process.returncode == MissingFeatureError.exit_status:
                    raise MissingFeatureError(f"the service did not start: {said}")
                raise ZeroRttError(f"the service did not start: {said}")
            time.sleep(0.02)

    def stop(self, problems: list[str]) -> ServiceFigures:
        """End it with SIGTERM, and note what it did not do as it should.

        Raises:
            ZeroRttError: it did not end.
        """
        early = self._process.poll() is not None
        self._process.terminate()
        status = self._reader.wait(_STOP_TIMEOUT_S)
        if status is None:
            raise ZeroRttError(f"the service did not end within {_STOP_TIMEOUT_S:g} s of SIGTERM")
        if early or status != 0:
            when = "by itself, " if early else ""
            problems.append(
                f"the service ended {when}with exit status {status}: {self._reader.last_words()}"
            )
        faults = self._events("service.fault")
        if faults:
            last = str(faults[-1].get("error", "")).strip().splitlines()[-1:]
            problems.append(f"the service logged {len(faults)} faults: {' '.join(last)}")
        spoofed = self._events("flow.synack_spoofed")
        latencies = [event["latency_us"] for event in spoofed if "latency_us" in event]
        return ServiceFigures(
            exit_status=status,
            flows_spoofed=len({event["flow_id"] for event in spoofed}),
            synack_latency_us=statistics.median(latencies) if latencies else None,
        )

    def _events(self, name: str) -> list[dict[str, Any]]:
        if not self._log.exists():
            return []
        lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
        # The last line may be in the middle of being written.
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if event["event"] == name]


@contextmanager
def started(stage: Stage, strategy: str) -> Iterator[Product]:
    """Run it with settings of its own: none of the machine's, nothing kept for later.

    Raises:
        MissingFeatureError, ZeroRttError: it did not start.
    """
    log = stage.directory / f"service-{strategy}.log"
    config = stage.directory / "empty.toml"
    config.touch()
    towards_client, towards_server = stage.path[0].right, stage.path[1].left
    argv = (
        *(sys.executable, "-m", "nfq_zerortt", "run", "--strategy", strategy),
        *("--config", str(config), "--control-socket", "", "--state-file", ""),
        *("--client-iface", towards_client.interface),
        *("--server-iface", towards_server.interface),
        *("--log-format", "json", "--log-level", "info", "--log-file", str(log)),
    )
    with ended(
        stage.popen(towards_client.host, argv, env=programs.python_environment())
    ) as process:
        product = Product(LineReader(process), process, log)
        product.await_ready()
        yield product
