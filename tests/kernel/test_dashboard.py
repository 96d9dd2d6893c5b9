"""The files for Grafana and Prometheus, in a real Prometheus that asks a real service.

Grafana itself is no Debian package; CONTRIBUTING.md says how its own models are made to read the
dashboard.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.namespaces import inside
from support.peers import Peers, content, receive
from support.service import COMMAND, ENVIRONMENT, ServiceProcess
from support.waiting import until

from nfq_zerortt.testbed.network import Testbed

MONITORING = Path(__file__).resolve().parents[2] / "docs/monitoring"
BOARD = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
INSTANCE = "127.0.0.1:9464"
API = "http://127.0.0.1:9090/api/v1/"
SCRAPED = f"""
global:
  scrape_interval: 1s
  evaluation_interval: 1s
scrape_configs:
  - job_name: nfq-zerortt
    static_configs:
      - targets: ["{INSTANCE}"]
rule_files:
  - {MONITORING / "alerts.yml"}
"""
RTT_S = 0.02

Series = list[dict[str, Any]]


class Prometheus:
    """A Prometheus on clientnic, where a service and the server of its metrics run, too."""

    def __init__(self, network: Testbed) -> None:
        self._namespace = network.netns("clientnic")

    def ask(self, path: str, **words: str) -> Any:
        """Return the data that it answers."""
        url = API + path + "?" + urllib.parse.urlencode(words)
        with inside(self._namespace), urllib.request.urlopen(url, timeout=20) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def scraped(self) -> bool:
        """Return whether it has read something of the service."""
        with suppress(OSError):
            return bool(self.ask("query", query="nfq_zerortt_up == 1")["result"])
        return False

    def healthy(self) -> int:
        """Return how many rules it could evaluate."""
        groups = self.ask("rules")["groups"]
        return sum(rule["health"] == "ok" for group in groups for rule in group["rules"])

    def series(self, expression: str) -> Series:
        """Return what Grafana would be told now, with its variables filled in; NaN left out."""
        filled = (
            expression.replace("$instance", INSTANCE)
            .replace("$__rate_interval", "20s")
            .replace("$__range", "60s")
        )
        found: Series = self.ask("query", query=filled)["result"]
        return [one for one in found if math.isfinite(float(one["value"][1]))]


@contextmanager
def running(network: Testbed, directory: Path, name: str, *argv: str | Path) -> Iterator[Path]:
    """Let a program run on clientnic; gives the file with what it says."""
    said = directory / f"{name}.said"
    with said.open("wb") as output:
        process = network.popen(
            "clientnic", list(map(str, argv)), stdout=output, stderr=output, env=ENVIRONMENT
        )
    try:
        yield said
        assert process.poll() is None, said.read_text(encoding="utf-8")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def prometheus(network: Testbed, tmp_path: Path) -> Iterator[Prometheus]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.fail("prometheus is missing: apt-get install prometheus", pytrace=False)
    control = tmp_path / "control"
    (tmp_path / "prometheus.yml").write_text(SCRAPED, encoding="utf-8")
    serve = (*COMMAND, "stats", "--prometheus", "--listen", INSTANCE, "--control-socket", control)
    scrape = (
        *(program, "--config.file", tmp_path / "prometheus.yml", "--log.level", "warn"),
        *("--storage.tsdb.path", tmp_path / "data", "--web.listen-address", "127.0.0.1:9090"),
    )
    with (
        ServiceProcess(network, tmp_path, control_socket=str(control)) as service,
        running(network, tmp_path, "metrics", *serve),
        running(network, tmp_path, "prometheus", *scrape) as said,
    ):
        asked = Prometheus(network)
        until(asked.scraped, lambda: said.read_text(encoding="utf-8") + service.log())
        yield asked


def connections(peers: Peers, port: int) -> None:
    """One that goes well, with early data; one that is refused, and one that passes untouched."""
    listener = peers.listen(port)
    client = peers.connect(port)
    client.sendall(content(3000))
    receive(peers.accept(listener), 3000)
    for _ in range(2):
        refused = peers.tcp("client")
        with suppress(ConnectionRefusedError, ConnectionResetError):
            refused.connect((peers.family.server, 19))
            refused.recv(1)


def test_every_panel_and_every_alert_gets_an_answer(
    prometheus: Prometheus, peers: Peers, port: int
) -> None:
    (found,) = [one["query"] for one in BOARD["templating"]["list"] if one["name"] == "instance"]
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", found["query"])
    assert asked
    values = prometheus.ask(f"label/{asked[2]}/values", **{"match[]": asked[1]})
    assert values == [INSTANCE]

    connections(peers, port)
    got: dict[str, Series] = {}
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            expression, legend = target["expr"], target["legendFormat"]
            series = until(
                lambda expression=expression: prometheus.series(expression),  # type: ignore[misc]
                f"{panel['title']}, {legend}: no data for {expression}",
            )
            for label in re.findall(r"{{(\w+)}}", legend):
                assert all(one["metric"].get(label) for one in series), (panel["title"], legend)
            # What has no label of its own in its legend must be one line.
            assert len(series) == 1 or "{{" in legend, (panel["title"], legend, series)
            got[f"{panel['title']}, {legend}"] = series

    (mean,) = got["Round trip to the servers, and data held, RTT, mean"]
    assert RTT_S <= float(mean["value"][1]) < 10 * RTT_S
    assert [one["metric"]["reason"] for one in got["Bypassed, by reason, {{reason}}"]] == [
        "refused_lately"
    ]
    alerts = (MONITORING / "alerts.yml").read_text(encoding="utf-8").count("- alert: ")
    until(lambda: prometheus.healthy() == alerts, lambda: str(prometheus.ask("rules")))


def test_what_it_needs_is_what_the_page_says() -> None:
    """The settings by which the page of metrics has Prometheus read a service."""
    page = (MONITORING.parent / "reference/metrics.md").read_text(encoding="utf-8")
    assert "job_name: nfq-zerortt" in page
    assert f'targets: ["{INSTANCE}"]' in page
