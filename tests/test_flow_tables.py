"""The tables of ``nfq-zerortt flows``, at every width, from what the core really tells."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console, RenderableType

from nfq_zerortt.cli.flow_tables import Screen, flow_lines, flow_table, learned_table
from nfq_zerortt.core import descriptions
from nfq_zerortt.core.remembered import by_server
from tests.core.test_remembered import GOOD
from tests.scenarios.script import Numbers, Run

SCRIPT = """\
>> 0 client SYN C win 64240 <mss 1460 sackOK ts TC/0 nop ws 7>
>> 0.001 client PSH,ACK C+1 ack S+1 len 200 win 502 <nop nop ts TC+1/TS>
>> 0.1 server SYN,ACK R ack C+%d win 65160 <mss 1400 sackOK ts TR/TC nop ws 7>
"""


def flow(*, strategy: str = "fastopen", taken: int = 200, ipv6: bool = False) -> dict[str, Any]:
    run = Run(Numbers(c=1_000_000, r=3_000_000_000), ipv6=ipv6, strategy=strategy)
    run.play(SCRIPT % (taken + 1))
    assert run.engine is not None
    (found,) = descriptions.flows(run.engine.table, run.now)
    return found


def printed(shown: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return [line.rstrip() for line in lines]


def test_one_line_where_there_is_room() -> None:
    heading, one, two = printed(flow_table([flow(), flow(ipv6=True)], narrow=False), 200)
    assert one.split("  ")[0] == "10.0.1.2:43210 > 10.0.3.2:80"
    assert two.startswith("[fd00::2]:43210 > [fd11:")  # and not taken for a style
    for words in (
        "ESTABLISHED",
        "fastopen python",
        "99.0",
        "99.0 / 99.0",
        "200 / 0",
        "200 B taken",
    ):
        assert words in one
    assert "saved ms: connect / data" in heading


def test_at_80_columns_nothing_is_lost() -> None:
    lines = printed(flow_table([flow(ipv6=True), flow()], narrow=True), 80)
    first_column = "".join(line.split(" ")[0] for line in lines)
    for address in ("[fd00::2]:43210", "]:80", "10.0.1.2:43210", "10.0.3.2:80"):
        assert address in first_column
    text = "\n".join(lines)
    assert text.count("ESTABLISHED") == 2
    assert "…" not in text


@pytest.mark.parametrize(
    ("strategy", "taken", "words"),
    [("fastopen", 200, "200 B taken"), ("fastopen", 0, "200 B not taken"), ("auto", 0, "asked")],
)
def test_fast_open_is_told(strategy: str, taken: int, words: str) -> None:
    (_, line) = printed(flow_table([flow(strategy=strategy, taken=taken)], narrow=False), 200)
    assert line.endswith("  " + words)


@pytest.mark.parametrize("strategy", ["fastopen", "auto", "observe"])
def test_very_many_flows_are_lines_that_look_the_same(strategy: str) -> None:
    """They are made without rich, which would take a minute and a half."""
    rows = [flow(strategy=strategy), flow(ipv6=True)]
    drawn = printed(flow_table(rows, narrow=False), 300)
    assert [line.rstrip() for line in flow_lines(rows)] == drawn
    assert list(flow_lines([])) == ["no flows"]


@pytest.mark.parametrize("watched", [True, False])
def test_a_full_table_takes_no_minute(capsys: pytest.CaptureFixture[str], *, watched: bool) -> None:
    """Nothing is given to rich that no screen can show."""
    one = flow()
    rows = ({**one, "flow_id": number} for number in range(20_000))
    console = Console(file=io.StringIO(), width=200, height=24, force_terminal=True)
    with Screen(learned=False, live=watched, console=console) as screen:
        began = time.process_time()
        screen.show(rows)
        assert time.process_time() - began < 3, "rich takes 6 s for 20,000"
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue().count("10.0.1.2:43210 >")
    listed = capsys.readouterr().out.count("10.0.1.2:43210 >")
    assert (0 < drawn < 100, listed) == (watched, 0 if watched else 20_000)


@pytest.mark.parametrize("make", [lambda: flow_table([], narrow=True), lambda: learned_table([])])
def test_nothing_is_said_to_be_nothing(make: Callable[[], RenderableType]) -> None:
    (line,) = printed(make(), 80)
    assert line.startswith("no")


@pytest.mark.parametrize("width", [80, 200])
def test_what_was_learned(width: int) -> None:
    text = "\n".join(printed(learned_table(by_server(GOOD.values())), width))
    for words in ("10.0.3.2:80", "  100  ", "1460", "timestamps", "refused,", "accepts", "late"):
        assert words in text
    assert "1111222233334444" in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("habits", "words"),
    [
        ({"accepts": False}, "not tried"),
        ({"accepts": False, "asked": True}, "gives no cookie"),
        ({"not_for_s": 540.0, "refusals": 1}, "refused, not for 9 min"),
        ({"not_for_s": 60.0, "troubles": 2}, "SYN vanished, not for 1 min"),
        ({"gap_ms": 0.84}, "after 0.8 ms"),
    ],
)
def test_habits(habits: dict[str, Any], words: str) -> None:
    shown = learned_table(by_server([{**GOOD["fast_open"], **habits}]))
    assert words in "\n".join(printed(shown, 200))
