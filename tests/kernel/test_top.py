"""The live view on a terminal: what stands on it, what the keys do, and how it is given back."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.scene import FOOT, Scene, scene_in
from support.screen import AS_BEFORE, WHOLE_SCREEN, OnTerminal
from support.service import COMMAND, ENVIRONMENT
from support.waiting import until

from nfq_zerortt.live.screen import KEYS
from nfq_zerortt.testbed.network import Testbed

COLOURED = re.compile(rb"\x1b\[[0-9;]*(?:3[0-7]|38|9[0-7])[0-9;]*m")


@pytest.fixture(scope="module")
def scene(network: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The scene of all tests that leave it as it is."""
    with scene_in(network, tmp_path_factory.mktemp("top")) as made:
        yield made


def flow_lines(on: OnTerminal) -> list[str]:
    """Return the lines of the table."""
    return [line for line in on.lines() if line[1:9] == "10.0.1.2"]


# --- what stands there --------------------------------------------------------------------


def test_it_shows_the_service_and_its_flows(scene: Scene) -> None:
    with OnTerminal(scene.argv()) as top:
        shown = top.wait_for(FOOT, *scene.names)
        for words in (
            "nfq-zerortt",
            "auto/python  eth0 > eth1",
            "flows 3 (0 half open)",
            "SYN-ACK ms p50",
            "queue 0 waiting, 0 dropped",
            "reset none  problems none",  # a straggler of an earlier test may be bypassed
            "3 shown, by newest",
            "ESTAB    auto/p",
            "9.0k   500",
        ):
            assert words in shown, shown
        lines = flow_lines(top)
        assert [line[1:].split()[0] for line in lines] == scene.names[::-1], "the newest first"
        assert lines[0][0] == ">", "the mark is no colour alone"
        assert any(cell.reverse for cell in top.styles(top.lines().index(lines[0])))
        assert max(map(len, shown.splitlines())) <= 80
        top.press("q")
        assert top.ends() == 0


# --- keys ---------------------------------------------------------------------------------


def test_sorting_and_filtering(scene: Scene) -> None:
    with OnTerminal(scene.argv()) as top:
        top.wait_for(FOOT, "3 shown")
        top.press("s")
        top.wait_for("by bytes")
        assert [line.split()[-2] for line in flow_lines(top)] == ["9.0k", "6.0k", "3.0k"]
        top.press("r")
        top.wait_for("the other way round")
        assert [line.split()[-2] for line in flow_lines(top)] == ["3.0k", "6.0k", "9.0k"]
        top.press("/estab")
        top.wait_for("show flows with: estab_", "1 shown")
        top.press("\r")
        top.wait_for("with: estab", FOOT)
        assert len(flow_lines(top)) == 1
        top.press("\x1b")
        top.wait_for("3 shown")
        top.press("e")
        top.wait_for("1 shown", "without ended ones")


def test_looking_into_a_flow(scene: Scene) -> None:
    with OnTerminal(scene.argv(), lines=50) as top:
        top.wait_for(FOOT, "3 shown")
        top.press("j\x1b[B\r")  # down, down, look
        events = scene.service.events(port=scene.port)
        number = events[0]["flow_id"]
        shown = top.wait_for(f"flow {number}", "ClientNIC", "flow.established strategy auto")
        assert scene.names[0] in shown
        numbers = {e["event"]: e for e in events if e["flow_id"] == number}
        for pattern in (
            rf"\|-+ SYN {numbers['flow.syn_received']['isn_client']} -+>\| +\|",
            rf"\|<-+ SYN-ACK {numbers['flow.synack_spoofed']['isn_spoofed']} -+\| +\|",
            r"\| +\|-+ SYN -+>\|",
            rf"\| +\|<-+ SYN-ACK {numbers['flow.synack_captured']['isn_server']} -+\|",
        ):
            assert re.search(pattern, shown), (pattern, shown)
        assert f"isn_server {numbers['flow.synack_captured']['isn_server']}" in shown
        top.press("q")
        top.wait_for(FOOT, "3 shown")
        top.press("?")
        shown = top.wait_for("q back")
        for key, _ in KEYS:
            assert key in shown
        top.press("\x1b")
        top.wait_for(FOOT)


def test_scrolling(scene: Scene) -> None:
    with OnTerminal(scene.argv(), lines=16) as top:
        top.wait_for(FOOT, "3 shown")
        top.press("\r")
        top.wait_for("server_rtt_ms", "ClientNIC")
        top.press("G")
        top.wait_for("flow.closed duration_ms")
        top.press("g")
        top.wait_for("server_rtt_ms")


# --- other terminals ----------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "lines"), [(40, 10), (20, 5), (200, 60), (79, 23)])
def test_other_sizes(scene: Scene, columns: int, lines: int) -> None:
    with OnTerminal(scene.argv(), columns=columns, lines=lines) as top:
        shown = top.wait_for("nfq-zerortt", "3 shown", "client>server", FOOT)
        assert len(shown.splitlines()) == lines
        if columns >= 40:
            assert "10.0.1.2:" in shown
            assert "TIMEWAIT" in shown or columns == 200
        if columns == 200:
            for words in ("ESTABLISHED", "auto/python", "Fast Open"):
                assert words in shown
        top.press("?")
        top.wait_for("move"[: columns - 1])
        top.press("q\r")
        top.wait_for("q back")


def test_the_window_changes_its_size(scene: Scene) -> None:
    with OnTerminal(scene.argv()) as top:
        top.wait_for(FOOT, "3 shown")
        top.resize(120, 30)
        top.wait_for("ESTABLISHED", "Fast Open")
        assert FOOT in top.lines()[29]
        top.resize(60, 12)
        top.wait_until_gone("Fast Open")
        top.wait_for(FOOT, "3 shown")
        assert FOOT in top.lines()[11]


def test_without_colours(scene: Scene) -> None:
    with OnTerminal(scene.argv(), NO_COLOR="1") as top:
        shown = top.wait_for(FOOT, "3 shown")
        assert ">10.0.1.2" in shown
        top.press("q")
        assert top.ends() == 0
        assert not COLOURED.search(top.written)


@pytest.mark.parametrize("how", ["pipe", "dumb"])
def test_where_nothing_can_be_drawn(scene: Scene, how: str) -> None:
    if how == "pipe":
        done = subprocess.run(
            scene.argv(), capture_output=True, env=ENVIRONMENT, timeout=20, check=False
        )
        status, said = done.returncode, done.stderr
    else:
        with OnTerminal(scene.argv(), TERM="dumb") as top:
            status, said = top.ends(), top.written.replace(b"\r\n", b"\n")
    assert status == 2
    assert re.fullmatch(rb"nfq-zerortt: [^\n\x1b]*flows --watch[^\n\x1b]*\n", said), said


def test_nobody_is_there(tmp_path: Path) -> None:
    argv = [*COMMAND, "top", "--control-socket", str(tmp_path / "none")]
    with OnTerminal(argv) as top:
        assert top.ends() == 1
        assert b"no service answers" in top.written
        assert WHOLE_SCREEN not in top.written
        assert b"Traceback" not in top.written


# --- the terminal is given back -----------------------------------------------------------


def given_back(top: OnTerminal) -> None:
    assert top.written.count(WHOLE_SCREEN) == top.written.count(AS_BEFORE) > 0
    assert top.written.endswith(AS_BEFORE)
    assert b"\x1b[?25h" in top.written, "the cursor is there again"
    assert b"Traceback" not in top.written
    assert top.modes_now() == top.modes


@pytest.mark.parametrize(
    "how",
    ["q", "\x03", "\x04", signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT],
    ids=repr,
)
def test_it_is_given_back(scene: Scene, how: str | signal.Signals) -> None:
    with OnTerminal(scene.argv()) as top:
        top.wait_for(FOOT, "3 shown")
        assert top.modes_now() != top.modes
        if isinstance(how, str):
            top.press(how)
        else:
            top.process.send_signal(how)
        assert top.ends() == 0
        given_back(top)


def test_a_terminal_that_takes_nothing_holds_nobody_up(scene: Scene) -> None:
    """Ctrl-S, as a slow line would: what is written there waits."""
    with OnTerminal(scene.argv()) as top:
        top.wait_for(FOOT, "3 shown")
        top.press("\x13")
        time.sleep(2.5)  # some pictures that nobody takes
        top.process.send_signal(signal.SIGTERM)
        assert top.ends() == 0
        given_back(top)


def test_it_is_given_back_after_a_bug(scene: Scene) -> None:
    """As if the answer was something that nobody expects."""
    bug = (
        "import sys\n"
        "from nfq_zerortt.live.view import View\n"
        "View.take = lambda self, flows: flows['no such thing']\n"
        "from nfq_zerortt.cli import main\n"
        f"sys.argv = ['nfq-zerortt', *{scene.argv()[len(COMMAND) :]!r}]\n"
        "main()\n"
    )
    with OnTerminal([COMMAND[0], "-c", bug]) as top:
        assert top.ends() == 1
        whole, _, rest = top.written.partition(AS_BEFORE)
        assert WHOLE_SCREEN in whole
        assert b"TypeError" in rest, "it is told where it can be read"
        assert top.modes_now() == top.modes


def test_it_stops_and_goes_on(scene: Scene) -> None:
    """Ctrl-Z in a shell, a command there, and fg."""
    shell = shutil.which("bash")
    assert shell is not None, "bash is missing: apt-get install bash"
    with OnTerminal([shell, "--norc", "-i"], PS1="$ ") as bash:
        bash.wait_for("$")
        bash.press(" ".join(scene.argv()) + "\n")
        bash.wait_for(FOOT, "3 shown")
        bash.press("\x1a")
        until(lambda: bash.written.count(AS_BEFORE) == 1, bash.text)
        until(lambda: b"Stopped" in bash.written, bash.text)
        bash.press("stty -a\n")
        until(lambda: re.search(rb"[^-]icanon.*[^-]echo ", bash.written, re.S), bash.text)
        bash.press("fg\n")
        until(lambda: bash.written.count(WHOLE_SCREEN) >= 2, bash.text)
        bash.wait_for(FOOT, "3 shown")
        bash.press("q")
        until(lambda: bash.written.count(AS_BEFORE) == 2, bash.text)
        bash.press("exit\n")
        bash.ends()
        assert b"Traceback" not in bash.written


def test_the_terminal_hangs_up(scene: Scene) -> None:
    with OnTerminal(scene.argv()) as top:
        top.wait_for(FOOT, "3 shown")
        top.hang_up()
        assert top.ends() == 0
