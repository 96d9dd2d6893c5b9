"""The alert rules, by Prometheus's own tool: they are rules, and fire when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RULES, CASES = ROOT / "docs/monitoring/alerts.yml", ROOT / "tests/alerts.yml"


def promtool(*arguments: str | Path) -> str:
    """Run it and return what it says; it must be content."""
    program = shutil.which("promtool")
    if program is None:
        pytest.fail("promtool is missing: apt-get install prometheus", pytrace=False)
    done = subprocess.run(
        (program, *arguments), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_they_are_rules() -> None:
    count = RULES.read_text(encoding="utf-8").count("- alert: ")
    assert f"{count} rules found" in promtool("check", "rules", RULES)


def test_each_fires_when_it_should_and_only_then() -> None:
    """With series that are made up: of a service that is well, one that is not, and one gone."""
    cases = CASES.read_text(encoding="utf-8")
    for name in re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8")):
        assert f'alertname="{name}"' in cases, f"{name} has no case"
    promtool("test", "rules", CASES)
