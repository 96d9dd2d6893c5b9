"""The demonstration's report as a page: for a phone, for print, for eyes that see no colours.

Whether a browser shows it as it is meant is looked at with Chromium, where that is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from nfq_zerortt.demo import page, runner
from nfq_zerortt.demo.result import Result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = frozenset({"meta", "link", "br"})
LEAST_CONTRAST = 4.5  # WCAG 2.1, 1.4.3, for text of ordinary size

MEASURE = """
<script>
const wide = [...document.querySelectorAll("body *")].filter(
    (one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".wide, pre, thead")
);
const texts = [...document.querySelectorAll("svg text")].filter((one) => {
    const own = one.getBoundingClientRect(), whole = one.ownerSVGElement.getBoundingClientRect();
    return own.left < whole.left - 1 || own.right > whole.right + 1;
});
document.title = `measured ${innerWidth} wide: ${wide.map((one) => one.outerHTML.slice(0, 80))}; ` +
    `cut: ${texts.map((one) => one.textContent)};`;
</script>
"""
"""What stands out of the page, and which words out of their picture; only the test adds it."""

TELL = """
<script>
addEventListener("load", () => { document.title = frames[0].document.title; });
</script>
"""


class Silent:
    def step(self, text: str) -> None:
        """Say nothing."""

    def connections(self, done: int, total: int) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def result() -> Result:
    performed = runner.perform(30, Silent())
    assert performed.problems == []
    return performed


@pytest.fixture(scope="module")
def report(result: Result) -> str:
    return page.page(result)


class Outline(HTMLParser):
    """The tags of a page: whether each is closed, the ids, and where the links go."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.targets: list[str] = []
        self.headings: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if "id" in named:
            self.ids[named["id"]] += 1
        if tag == "a":
            self.targets.append(named["href"])
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing stays open."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_is_a_whole_page(report: str) -> None:
    outline = Outline(report)
    assert outline.open == []
    assert set(outline.ids.values()) == {1}
    assert [f"#{one}" for one in outline.ids] == outline.targets
    assert len(outline.targets) >= 8
    assert outline.headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(outline.headings))


def test_each_picture_has_words_for_who_cannot_see_it(report: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", report, re.DOTALL)
    assert len(pictures) > 10
    for picture in pictures:
        assert re.search(r"<title>[^<]{5,}</title><desc>[^<]{20,}</desc>", picture)
        assert 'role="img"' in picture
    assert "hold, first byte back: " in pictures[1]


def test_a_number_says_of_what_it_is_where_the_head_of_its_table_is_not_shown(report: str) -> None:
    cells = re.findall(r"<td([^>]*)>", report)
    assert cells
    assert all('data-of="' in attributes for attributes in cells)


@pytest.mark.parametrize("load", [0.5, 9.5])
def test_it_says_when_the_machine_was_busy(result: Result, load: float) -> None:
    environment = replace(result.environment, cpus=2, load=load)
    words = "load average before the runs 9.50: a busy machine"
    assert (words in page.page(replace(result, environment=environment))) == (load > 2)


def test_one_connection_each_way_shows_no_gain(report: str) -> None:
    first, *others = re.split(r'<tr class="group">', report)[1:]
    assert "(1 connection each way)" in first
    assert '<span class="good">' not in first
    assert any('<span class="good">' in one for one in others)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_what_is_written_can_be_read_light_dark_and_printed(report: str) -> None:
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", report, re.DOTALL)
    ]
    assert len(schemes) == 3
    for scheme in schemes:
        for ground in ("page", "panel"):
            for colour in ("text", "muted", "direct", "hold", "fastopen", "good", "bad"):
                dark, light = sorted((luminance(scheme[colour]), luminance(scheme[ground])))
                assert (light + 0.05) / (dark + 0.05) >= LEAST_CONTRAST, (colour, ground)


def browse(directory: Path, report: str, width: int) -> tuple[str, str]:
    """Let Chromium measure the page: what it says, and what it logs to its console."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: the report is not looked at in a browser")
    file = directory / f"report-{width}.html"
    measuring = escape(report.replace("</body>", MEASURE + "</body>"))
    # In a frame, for a window of its own is never narrower than 500.
    frame = (
        f'<iframe style="width: {width}px; height: 99px; border: 0" srcdoc="{measuring}"></iframe>'
    )
    file.write_text(f"<!DOCTYPE html><title></title><body>{frame}{TELL}", encoding="utf-8")
    argv = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--user-data-dir={directory / 'profile'}", "--window-size=1400,2000",
            "--dump-dom", file.as_uri()]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(measured.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stderr
    logged = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return title[1], "\n".join(logged)


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(report: str, tmp_path: Path, width: int) -> None:
    measured, logged = browse(tmp_path, report, width)
    assert measured == f"measured {width} wide: ; cut: ;"
    assert logged == ""
    broken = report.replace("<h1>", '<h1 style="width: 3000px">').replace(
        "</nav>", "</nav><img src=x>"
    )
    measured, logged = browse(tmp_path, broken + "<script>throw 7</script>", width)
    assert "h1" in measured
    assert "Uncaught 7" in logged
